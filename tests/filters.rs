//! Our engine against the real fail2ban: every stock filter, with every set of options that its samples name, must find
//! the same in every sample line; and so must the built-in filters in theirs.
//!
//! Debian's package is unpacked into the target directory, never into the repository. `tests/filters.py` lets the real
//! classes resolve the filters and read the samples; here the same lines go through ours.

#[path = "reference/mod.rs"]
mod reference;
mod samples;

use std::{
    io::{self, Seek as _, Write as _},
    net::IpAddr,
    path::Path,
    process::Command,
};

use f2b::filter::{Failure, Filter, FilterSettings};
use jiff::tz::TimeZone;
use reference::fail2ban;
use samples::{Block, Sample};
use serde::Deserialize;
use serde_json::json;

/// What fail2ban's own tests take for now, and the zone they are in.
const FAIL2BAN: Clock = Clock { now: 1_124_013_600.0, zone: "Europe/Zurich" };
/// And ours.
const SAMPLES: Clock = Clock { now: samples::NOW, zone: "UTC" };
/// How many of the spoiled lines still come out differently.
const SPOILED_DIFFERENT: usize = 0;

/// When and where the samples are read.
struct Clock {
    /// Seconds since 1970.
    now: f64,
    zone: &'static str,
}

/// A filter with a set of options, as the real fail2ban resolves it, and what it finds.
#[derive(Deserialize)]
struct Case {
    filter: String,
    options: serde_json::Value,
    prefregex: String,
    failregex: Vec<String>,
    ignoreregex: Vec<String>,
    maxlines: String,
    datepattern: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    /// `sample file:line`
    place: String,
    text: String,
    /// The line comes from a journal, with the time known.
    journal: bool,
    expected: Option<Expected>,
    real: Vec<Found>,
}

/// What the sample promises.
#[derive(Deserialize)]
struct Expected {
    #[serde(default, rename = "match")]
    matches: bool,
    host: Option<String>,
    user: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Found {
    fid: String,
    ip: String,
    time: Option<f64>,
    user: Option<String>,
    /// Only the real one says: `<F-NOFAIL>` without `<F-MLFID>`, which its server takes for a failure nevertheless,
    /// and its own sample test does not.
    nofail: bool,
}

impl Found {
    fn ours(failure: &Failure) -> Self {
        Self {
            fid: failure.fid.clone(),
            ip: failure.ip.map_or_else(|| failure.fid.clone(), |ip| ip.to_string()),
            time: Some(failure.time),
            user: failure.user().map(str::to_owned),
            nofail: false,
        }
    }
}

impl Case {
    fn filter(&self) -> Result<Filter, String> {
        let settings = FilterSettings {
            prefregex: self.prefregex.clone(),
            failregex: self.failregex.clone(),
            ignoreregex: self.ignoreregex.clone(),
            maxlines: self.maxlines.clone(),
            datepattern: self.datepattern.clone(),
            usedns: "yes".into(),
            logtype: String::new(),
        };
        Filter::new(&settings).map_err(|error| format!("{error:#}"))
    }

    fn name(&self) -> String {
        format!("{}{}", self.filter, self.options)
    }
}

#[test]
fn every_stock_filter_finds_what_fail2ban_finds_in_its_samples() {
    let verdict = Verdict::of(&cases(None), &FAIL2BAN, Line::difference);
    assert!(verdict.lines > 1000 && verdict.failures > 500, "the samples are not all there");
    verdict.assert_at_most(0);
}

#[test]
fn spoiled_lines_make_no_difference() {
    let verdict = Verdict::of(&cases(Some("1")), &FAIL2BAN, Line::difference_to_real);
    verdict.assert_at_most(SPOILED_DIFFERENT);
}

/// The built-in filters are in fail2ban's dialect: laid out for editing, they mean there what they mean here.
#[test]
fn the_built_in_filters_find_the_same_in_fail2ban() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tree = dir.path().join("f2b");
    f2b::config::init(&tree).expect("the built-in tree can be written");
    let blocks = samples::all();
    let verdict = Verdict::of(&given(&tree, &blocks), &SAMPLES, Line::difference_to_real);
    let lines = blocks.iter().flat_map(|block| &block.samples);
    let (texts, entries) = (lines.clone().count(), lines.filter_map(Sample::in_the_journal).count());
    assert_eq!(verdict.lines, texts + entries);
    assert!(verdict.failures > 250, "only {} failures", verdict.failures);
    verdict.assert_at_most(0);
}

/// What came of all lines.
struct Verdict {
    lines: usize,
    failures: usize,
    differing: Vec<String>,
}

impl Verdict {
    fn of(cases: &[Case], clock: &Clock, difference: fn(&Line, &[Found]) -> Option<String>) -> Self {
        let mut verdict = Self { lines: 0, failures: 0, differing: Vec::new() };
        let mut over_budget = 0;
        for case in cases {
            let filter = case.filter().unwrap_or_else(|error| panic!("{}: {error}", case.name()));
            let zone = TimeZone::get(clock.zone).expect("the zone of fail2ban's tests is installed");
            let mut context = filter.context(zone, clock.now);
            for line in &case.lines {
                verdict.lines += 1;
                let logged = line.journal.then_some(clock.now);
                let ours = filter.failures(&mut context, &line.text, logged, clock.now);
                let ours: Vec<_> = ours.iter().map(Found::ours).collect();
                verdict.failures += ours.len();
                if let Some(difference) = difference(line, &ours) {
                    let place = format!("{} {}", case.name(), line.place);
                    verdict.differing.push(format!("{place}: {difference}\n    {:?}", line.text));
                }
            }
            over_budget += context.over_budget();
        }
        writeln!(
            io::stderr(),
            "{} of {} lines equal ({} filters with options, {} failures, {over_budget} lines over the budget)",
            verdict.lines - verdict.differing.len(),
            verdict.lines,
            cases.len(),
            verdict.failures
        )
        .expect("stderr is there");
        verdict
    }

    fn assert_at_most(&self, limit: usize) {
        let count = self.differing.len();
        assert!(count <= limit, "{count} differ:\n{}", self.differing.join("\n"));
    }
}

impl Line {
    /// How our answer differs from the real one.
    fn difference_to_real(&self, ours: &[Found]) -> Option<String> {
        // Without any date, the real one leaves the time open where the server would take the clock.
        let same = |(real, ours): (&Found, &Found)| {
            let time = real.time.or(ours.time);
            // `::15.255.0.1` and `::fff:1` are one address.
            let ip = |text: &str| text.parse::<IpAddr>().map_err(|_no_address| text.to_owned());
            (&real.fid, ip(&real.ip), time, &real.user) == (&ours.fid, ip(&ours.ip), ours.time, &ours.user)
        };
        if self.real.len() != ours.len() || !self.real.iter().zip(ours).all(same) {
            return Some(format!("ours {ours:?}, real {:?}", self.real));
        }
        None
    }

    /// How our answer differs from the real one, or from the sample's promise.
    fn difference(&self, ours: &[Found]) -> Option<String> {
        if let Some(difference) = self.difference_to_real(ours) {
            return Some(difference);
        }
        let promised = self.expected.as_ref().filter(|expected| expected.matches);
        let kept = match (promised, ours.first()) {
            (None, found) => found.is_none() || self.real.iter().all(|found| found.nofail),
            (Some(_), None) => false,
            (Some(promised), Some(found)) => {
                promised.host.as_ref().is_none_or(|host| {
                    [&found.fid, &found.ip].iter().any(|found| found.eq_ignore_ascii_case(host))
                }) && promised.user.as_ref().is_none_or(|user| found.user.as_ref() == Some(user))
            }
        };
        (!kept).then(|| format!("both find {ours:?}, the sample promises otherwise"))
    }
}

/// What the real fail2ban finds in its own samples.
fn cases(seed: Option<&str>) -> Vec<Case> {
    let mut filters = filters_py(&fail2ban().config(), &FAIL2BAN);
    filters.args(seed);
    read(filters)
}

/// What the real fail2ban finds in ours, with the filters of the configuration in `tree`.
fn given(tree: &Path, blocks: &[Block]) -> Vec<Case> {
    let mut input = tempfile::tempfile().expect("a temporary file");
    let line = |sample: &Sample, text: &str, logged: Option<f64>| json!({ "place": sample.place, "text": text, "logged": logged });
    for block in blocks {
        let samples = block.samples.iter();
        let texts: Vec<_> = samples.clone().map(|sample| line(sample, &sample.text, None)).collect();
        let entries: Vec<_> = samples
            .filter_map(|sample| Some(line(sample, sample.in_the_journal()?, Some(SAMPLES.now))))
            .collect();
        for lines in [texts, entries] {
            let case = json!({ "filter": block.filter, "now": SAMPLES.now, "lines": lines });
            writeln!(input, "{case}").expect("a temporary file is writable");
        }
    }
    input.rewind().expect("a file can be rewound");
    let mut filters = filters_py(tree, &SAMPLES);
    filters.arg("--given").stdin(input);
    read(filters)
}

fn filters_py(config: &Path, clock: &Clock) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", fail2ban().modules()).env("TZ", clock.zone);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filters.py")).arg(config);
    command
}

fn read(mut filters: Command) -> Vec<Case> {
    let output = filters.output().expect("python3 is installed");
    assert!(output.status.success(), "filters.py: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("filters.py prints cases")).collect()
}
