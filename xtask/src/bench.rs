use anyhow::{Result, bail};

use crate::{
    cargo::cargo,
    setup::{self, Mode, Need},
    step,
};

/// The benchmarks: targets of the agent's package, in `tests/bench`.
const BENCHES: [&str; 1] = ["filter"];

xflags::xflags! {
    /// Measure beside what a user would pick instead: `cargo xtask bench filter`.
    cmd bench {
        /// Which benchmark.
        required name: String
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        if !BENCHES.contains(&self.name.as_str()) {
            bail!("there is no benchmark `{}`; there are {}", self.name, BENCHES.join(", "));
        }
        setup::ensure(Need::Tests, Mode::new(self.no_install))?;
        step::become_command(&mut cargo(["bench", "--quiet", "--package", "f2b-user", "--bench", &self.name]))
    }
}
