use anyhow::{Result, bail};

use crate::{
    cargo::{self, cargo},
    setup::{self, Mode, Need},
    step,
};

xflags::xflags! {
    /// Measure, side by side with what a user would pick instead; tables and plots go to target/bench.
    cmd bench {
        /// `filter`: what a log line costs. `source`: what an entry of the journal costs. `packet`: what a packet costs, dropped or passed.
        required name: String
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Bench {
    /// The measuring programs are bench targets of the agent's crate, in `tests/bench`.
    pub(crate) fn run(self) -> Result<()> {
        let mode = Mode::new(self.no_install);
        match self.name.as_str() {
            "filter" => {
                setup::ensure(Need::Tests, mode)?;
                step::become_command(&mut cargo(["bench", "--package", "f2b-user", "--bench", "filter"]))
            }
            "packet" => {
                setup::ensure(Need::Bench, mode)?;
                step::become_command(&mut cargo::bench_as_root("packet")?)
            }
            "source" => {
                setup::ensure(Need::Tests, mode)?;
                step::become_command(&mut cargo(["bench", "--package", "f2b-user", "--bench", "source"]))
            }
            other => bail!("there is no benchmark `{other}`; there are filter, source and packet"),
        }
    }
}
