use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use crate::{
    cargo::{ROOT, cargo},
    setup::{self, Mode, Need},
    step::{self, Step},
};

/// The targets, by their names in `fuzz/Cargo.toml`.
const TARGETS: [&str; 6] = ["config", "date", "expression", "filter", "formula", "journal"];
/// No input may take longer, in seconds: none takes one, but the machine may be busy.
const TIMEOUT: u32 = 5;
/// The longest input, in bytes.
const MAX_INPUT: u32 = 65_536;
/// The memory of the whole process, in MiB.
const MEMORY: u32 = 1024;

xflags::xflags! {
    /// Feed the fuzz targets inputs that libFuzzer makes up, guided by the code they reach. What breaks one is kept in
    /// fuzz/artifacts; put it into fuzz/regressions/TARGET under a name that says what was wrong.
    cmd fuzz {
        /// Just this one: config, date, expression, filter, formula or journal.
        optional target: String
        /// How long for each target (default: 10).
        optional --minutes minutes: f64
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Fuzz {
    pub(crate) fn run(self) -> Result<()> {
        let targets = match &self.target {
            None => TARGETS.to_vec(),
            Some(target) if TARGETS.contains(&target.as_str()) => vec![target.as_str()],
            Some(target) => bail!("there is no target `{target}`; there are {}", TARGETS.join(", ")),
        };
        setup::ensure(Need::Fuzz, Mode::new(self.no_install))?;
        // None at all would be for ever.
        let seconds = (self.minutes.unwrap_or(10.0) * 60.0).max(1.0) as u64;
        step::run_all(targets.into_iter().map(|target| step(target, seconds)).collect::<Result<_>>()?)
    }
}

fn step(target: &str, seconds: u64) -> Result<Step> {
    // There is no unsafe code in reach, so no sanitizer: without one, a stable compiler will do. What is found goes to
    // a folder of its own, since libFuzzer writes into the first one; the others only seed it.
    let mut fuzz = cargo(["fuzz", "run", "--fuzz-dir", "fuzz", "--sanitizer", "none", target]);
    let [found, corpus, regressions] =
        ["found", "corpus", "regressions"].map(|kind| format!("{ROOT}/fuzz/{kind}/{target}"));
    // libFuzzer ends when a folder is missing: git keeps no empty ones.
    fs::create_dir_all(&found).with_context(|| format!("cannot create {found}"))?;
    fuzz.args([found, corpus]);
    if Path::new(&regressions).is_dir() {
        fuzz.arg(regressions);
    }
    fuzz.arg("--");
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.args([
        format!("-timeout={TIMEOUT}"),
        format!("-max_len={MAX_INPUT}"),
        format!("-rss_limit_mb={MEMORY}"),
    ]);
    fuzz.args([format!("-dict={ROOT}/fuzz/words.dict"), "-print_final_stats=1".into()]);
    Ok(Step::new(&format!("fuzz {target}"), fuzz))
}
