use anyhow::{Result, bail};

use crate::{
    cargo,
    setup::{self, Mode, Need},
    step,
};

/// The measuring programs: bench targets of the agent's crate.
const NAMES: [&str; 1] = ["packet"];

xflags::xflags! {
    /// Measure, side by side with everything a user would pick instead; tables and plots go to target/bench.
    cmd bench {
        /// `packet`: what a packet costs, dropped or passed.
        required name: String
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        if !NAMES.contains(&self.name.as_str()) {
            bail!("there is no bench `{}`; there is {}", self.name, NAMES.join(", "));
        }
        setup::ensure(Need::Bench, Mode::new(self.no_install))?;
        step::become_command(&mut cargo::bench_as_root(&self.name)?)
    }
}
