use anyhow::Result;

use crate::{
    cargo,
    setup::{self, Mode, Need},
    step,
};

xflags::xflags! {
    /// Play the story of an attack and its ban, in network namespaces of its own.
    cmd demo {
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Demo {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Tests, Mode::new(self.no_install))?;
        step::become_command(cargo::test_as_root("demo")?.args(["--quiet", "--release"]))
    }
}
