use anyhow::Result;

use crate::{
    cargo::cargo,
    setup::{self, Mode, Need},
    step,
};

xflags::xflags! {
    /// Build the agent with its eBPF program.
    cmd build {
        /// Optimised, as it is meant to run.
        optional --release
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Build {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Build, Mode::new(self.no_install))?;
        agent(self.release)
    }
}

pub(crate) fn agent(release: bool) -> Result<()> {
    let mut build = cargo(["build", "--package", "f2b-user"]);
    if release {
        build.arg("--release");
    }
    step::run(&mut build)
}
