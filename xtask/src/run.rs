use std::ffi::OsString;

use anyhow::Result;

use crate::{
    build, cargo,
    privilege::Privilege,
    setup::{self, Mode, Need},
    step,
};

xflags::xflags! {
    /// Build the agent and become it, as root: Ctrl-C and the exit status are its own.
    cmd run {
        /// Given to `f2b run`; put `--` before them.
        repeated args: OsString
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Run {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Run, Mode::new(self.no_install))?;
        build::agent(true)?;
        let agent = cargo::Workspace::load()?.target_directory.join("release/f2b");
        step::become_command(Privilege::current().command(agent)?.arg("run").args(self.args))
    }
}
