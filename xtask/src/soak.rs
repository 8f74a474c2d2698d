use anyhow::Result;

use crate::{
    cargo::{self, cargo},
    setup::{self, Mode, Need},
    step::{self, Step},
};

/// What the tests read; without them, they do a short form.
const ROUNDS_VARIABLE: &str = "F2B_SOAK_ROUNDS";
const SEEDS_VARIABLE: &str = "F2B_SOAK_SEEDS";
const EXPRESSIONS_VARIABLE: &str = "F2B_SOAK_EXPRESSIONS";
const ENTRIES_VARIABLE: &str = "F2B_SOAK_ENTRIES";
const FRAMES_VARIABLE: &str = "F2B_FUZZ_FRAMES";
const LINES_VARIABLE: &str = "F2B_SOAK_LINES";
const KILLS_VARIABLE: &str = "F2B_SOAK_KILLS";

xflags::xflags! {
    /// The long form of tests that CI runs in a short one: random frames that the programs and a model must agree on;
    /// agents killed and started under a flood, and under an attack; a journal that is rotated while agents are killed,
    /// with every failure counted once; journals of all kinds, damaged ones too, beside journalctl; spoiled log lines
    /// through every filter of the real fail2ban and through ours; days of logs through the real fail2ban and through our
    /// agent. And f2b on the kernel of Ubuntu 22.04, the oldest that it supports, emulated.
    cmd soak {
        /// Just this step, by the name in its heading: frames, kills, journal, stored, lines, peer, attacked, ubuntu.
        optional --only step: String
        /// How many frames (default: 10 million, a few minutes).
        optional --frames frames: u64
        /// How many agents (default: 300, about a second each).
        optional --rounds rounds: u32
        /// How many entries go through the journal (default: a million, a few minutes).
        optional --entries entries: u64
        /// How many lines of days of logs (default: 200,000, with three sets of options: about twenty minutes).
        optional --lines lines: u64
        /// How often an agent is killed under an attack (default: 200, a second each).
        optional --kills kills: u32
        /// How often every sample line is spoiled, and journals are written (default: 30, about half a minute each).
        optional --seeds seeds: u32
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Soak {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Tests, Mode::new(self.no_install))?;
        let mut frames = cargo::test_as_root("packet_fuzz")?;
        frames.arg("--release");
        frames.env(FRAMES_VARIABLE, self.frames.unwrap_or(10_000_000).to_string());
        let mut kills = cargo::test_as_root("restart")?;
        kills.args(["--release", "--", "--nocapture", "no_banned_packet_passes"]);
        kills.env(ROUNDS_VARIABLE, self.rounds.unwrap_or(300).to_string());
        let mut journal = cargo::test_as_root("journal")?;
        journal.args(["--release", "--", "every_failure_counts_once"]);
        journal.env(ENTRIES_VARIABLE, self.entries.unwrap_or(1_000_000).to_string());
        let mut stored = cargo::test_as_root("stored")?;
        stored.args(["--release", "--", "--nocapture"]);
        let mut lines = cargo(["test", "--package", "f2b-user", "--test", "filters", "--release"]);
        lines.args(["--", "--nocapture"]);
        let seeds = self.seeds.unwrap_or(30);
        stored.env(SEEDS_VARIABLE, seeds.to_string());
        lines.env(SEEDS_VARIABLE, seeds.to_string()).env(EXPRESSIONS_VARIABLE, (seeds * 1000).to_string());
        let mut peer = cargo(["test", "--package", "f2b-user", "--test", "peer", "--release"]);
        peer.args(["--", "--nocapture"]).env(LINES_VARIABLE, self.lines.unwrap_or(200_000).to_string());
        let mut attacked = cargo::test_as_root("killed")?;
        attacked.args(["--release", "--", "--nocapture"]);
        attacked.env(KILLS_VARIABLE, self.kills.unwrap_or(200).to_string());
        let mut ubuntu = cargo::test_as_root("kernels")?;
        ubuntu.args(["--", "--nocapture", "--ignored"]);
        let steps = vec![
            Step::new("frames", frames),
            Step::new("kills", kills),
            Step::new("journal", journal),
            Step::new("stored", stored),
            Step::new("lines", lines),
            Step::new("peer", peer),
            Step::new("attacked", attacked),
            Step::new("ubuntu", ubuntu),
        ];
        step::run_all(step::only(steps, self.only.as_deref())?)
    }
}
