//! Our engine against the real fail2ban: every stock filter, with every set of options that its samples name, must find
//! the same in every sample line; and so must the built-in filters in theirs.
//!
//! Debian's package is unpacked into the target directory, never into the repository. `tests/filters.py` lets the real
//! classes resolve the filters and read the samples; here the same lines go through ours.

#[path = "reference/mod.rs"]
mod reference;
mod samples;

use std::{
    io::{self, BufRead as _, BufReader, Seek as _, Write as _},
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
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
/// The seeds of the spoiled lines, from 1; `cargo xtask soak` sets the variable.
const SEEDS: u32 = 2;
const SEEDS_VARIABLE: &str = "F2B_SOAK_SEEDS";
/// How many expressions are made by chance.
const EXPRESSIONS: u32 = 2000;
const EXPRESSIONS_VARIABLE: &str = "F2B_SOAK_EXPRESSIONS";

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
    #[serde(default)]
    seed: String,
    /// Why the real one does not take it.
    refused: Option<String>,
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
    /// The real one was stopped, because its expressions take as long as they like, or Python failed.
    undecided: bool,
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
        };
        Filter::new(&settings).map_err(|error| format!("{error:#}"))
    }

    fn name(&self) -> String {
        format!("{}{} {}", self.filter, self.options, self.seed)
    }
}

#[test]
fn every_stock_filter_finds_what_fail2ban_finds_in_its_samples() {
    let verdict = Verdict::of(cases(&[]), &FAIL2BAN, Line::difference);
    assert!(verdict.lines > 1000 && verdict.failures > 500, "the samples are not all there");
    verdict.assert_equal();
}

#[test]
fn spoiled_lines_make_no_difference() {
    let seeds = std::env::var(SEEDS_VARIABLE).map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let seeds: Vec<_> = (1..=seeds).map(|seed| seed.to_string()).collect();
    Verdict::of(cases(&seeds), &FAIL2BAN, Line::difference_to_real).assert_equal();
}

#[test]
fn expressions_mean_what_they_mean_in_python() {
    let count = std::env::var(EXPRESSIONS_VARIABLE).unwrap_or_else(|_| EXPRESSIONS.to_string());
    let cases = cases(&["expressions".into(), count]);
    Verdict::of(cases, &FAIL2BAN, Line::difference_to_real).assert_equal();
}

/// The built-in filters are in fail2ban's dialect: laid out for editing, they mean there what they mean here.
#[test]
fn the_built_in_filters_find_the_same_in_fail2ban() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let tree = dir.path().join("f2b");
    f2b::config::init(&tree).expect("the built-in tree can be written");
    let blocks = samples::all();
    let verdict = Verdict::of(given(&tree, &blocks), &SAMPLES, Line::difference_to_real);
    let lines = blocks.iter().flat_map(|block| &block.samples);
    let (texts, entries) = (lines.clone().count(), lines.filter_map(Sample::in_the_journal).count());
    assert_eq!(verdict.lines, texts + entries);
    assert!(verdict.failures > 250, "only {} failures", verdict.failures);
    verdict.assert_equal();
}

/// What came of all lines.
#[derive(Default)]
struct Verdict {
    filters: usize,
    /// Filters that neither takes.
    refused: usize,
    lines: usize,
    failures: usize,
    over_budget: u64,
    /// The real one has no verdict.
    undecided: usize,
    differing: Vec<String>,
}

impl Verdict {
    fn of(
        cases: impl Iterator<Item = Case>,
        clock: &Clock,
        difference: fn(&Line, &[Found]) -> Option<String>,
    ) -> Self {
        let mut verdict = Self::default();
        cases.for_each(|case| verdict.add(&case, clock, difference));
        verdict.report();
        verdict
    }

    fn add(&mut self, case: &Case, clock: &Clock, difference: fn(&Line, &[Found]) -> Option<String>) {
        self.filters += 1;
        let filter = match (case.filter(), &case.refused) {
            (Ok(filter), None) => filter,
            (Err(_), Some(_)) => return self.refused += 1,
            (Err(ours), None) => {
                return self.differing.push(format!(
                    "{}: only we refuse {:?}: {ours}",
                    case.name(),
                    case.failregex
                ));
            }
            (Ok(_), Some(theirs)) => {
                return self.differing.push(format!(
                    "{}: only fail2ban refuses {:?}: {theirs}",
                    case.name(),
                    case.failregex
                ));
            }
        };
        let zone = TimeZone::get(clock.zone).expect("the zone of fail2ban's tests is installed");
        let mut context = filter.context(zone, clock.now);
        for line in &case.lines {
            self.lines += 1;
            let logged = line.journal.then_some(clock.now);
            let ours = filter.failures(&mut context, &line.text, logged, clock.now);
            let ours: Vec<_> = ours.iter().map(Found::ours).collect();
            self.failures += ours.len();
            self.undecided += usize::from(line.undecided);
            if let Some(difference) = difference(line, &ours) {
                let place = format!("{} {}", case.name(), line.place);
                let made = if case.filter == "made" { case.failregex.join("\n") } else { String::new() };
                self.differing.push(format!("{place}: {difference}\n    {:?} {made}", line.text));
            }
        }
        self.over_budget += context.over_budget();
    }

    fn report(&self) {
        writeln!(
            io::stderr(),
            "{} of {} lines equal ({} filters with options, {} refused by both, {} failures, {} lines over our budget, {} undecided by the \
             real one)",
            self.lines - self.differing.len(),
            self.lines,
            self.filters,
            self.refused,
            self.failures,
            self.over_budget,
            self.undecided
        )
        .expect("stderr is there");
    }

    fn assert_equal(&self) {
        assert!(self.differing.is_empty(), "{} differ:\n{}", self.differing.len(), self.differing.join("\n"));
    }
}

impl Line {
    /// How our answer differs from the real one.
    fn difference_to_real(&self, ours: &[Found]) -> Option<String> {
        if self.undecided {
            return None;
        }
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

/// What the real fail2ban finds: in its samples, or in the lines that it makes of them with each seed.
fn cases(arguments: &[String]) -> impl Iterator<Item = Case> {
    let mut filters = filters_py(&fail2ban().config(), &FAIL2BAN);
    filters.args(arguments);
    read(filters)
}

/// What the real fail2ban finds in ours, with the filters of the configuration in `tree`.
fn given(tree: &Path, blocks: &[Block]) -> impl Iterator<Item = Case> {
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

/// The cases, one by one as they come.
fn read(mut filters: Command) -> impl Iterator<Item = Case> {
    let mut python = filters.stdout(Stdio::piped()).spawn().expect("python3 is installed");
    let mut lines = BufReader::new(python.stdout.take().expect("it is piped")).lines();
    std::iter::from_fn(move || {
        let Some(line) = lines.next() else {
            let status = python.wait().expect("it was started");
            assert!(status.success(), "filters.py: {status}");
            return None;
        };
        let line = line.expect("JSON is UTF-8");
        Some(serde_json::from_str(&line).expect("filters.py prints cases"))
    })
}
