//! Our engine against the real fail2ban: every stock filter, with every set of options that its samples name, must find
//! the same in every sample line.
//!
//! Debian's package is unpacked into the target directory, never into the repository. `tests/filters.py` lets the real
//! classes resolve the filters and read the samples; here the same lines go through ours.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use f2b::filter::{Failure, Filter, FilterSettings};
use jiff::tz::TimeZone;
use serde::Deserialize;

/// The package whose behaviour is the reference.
const PACKAGE: &str = "fail2ban";
/// What fail2ban's own tests take for now, and the zone they are in.
const NOW: f64 = 1_124_013_600.0;
const ZONE: &str = "Europe/Zurich";

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
    let cases = cases();
    let (mut lines, mut failures, mut differing, mut over_budget) = (0, 0, Vec::new(), 0);
    for case in &cases {
        let filter = match case.filter() {
            Ok(filter) => filter,
            Err(error) => {
                lines += case.lines.len();
                differing.extend(case.lines.iter().map(|_| format!("{}: {error}", case.name())));
                continue;
            }
        };
        let zone = TimeZone::get(ZONE).expect("the zone of fail2ban's tests is installed");
        let mut context = filter.context(zone, NOW);
        for line in &case.lines {
            lines += 1;
            let logged = line.journal.then_some(NOW);
            let ours = filter.failures(&mut context, &line.text, logged, NOW);
            let ours: Vec<_> = ours.iter().map(Found::ours).collect();
            failures += ours.len();
            if let Some(difference) = line.difference(&ours) {
                differing.push(format!("{} {}: {difference}\n    {}", case.name(), line.place, line.text));
            }
        }
        over_budget += context.over_budget();
    }
    let equal = lines - differing.len();
    println!(
        "{equal} of {lines} sample cases equal ({} filters with options, {failures} failures)",
        cases.len()
    );
    assert!(lines > 1000 && failures > 500, "the samples are not all there");
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
    assert_eq!(over_budget, 0, "lines over the budget");
}

impl Line {
    /// How our answer differs from the real one, or from the sample's promise.
    fn difference(&self, ours: &[Found]) -> Option<String> {
        // Without any date, the real one leaves the time open where the server would take the clock.
        let same = |(real, ours): (&Found, &Found)| {
            let time = real.time.or(ours.time);
            (&real.fid, &real.ip, time, &real.user) == (&ours.fid, &ours.ip, ours.time, &ours.user)
        };
        if self.real.len() != ours.len() || !self.real.iter().zip(ours).all(same) {
            return Some(format!("ours {ours:?}, real {:?}", self.real));
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

/// What the real fail2ban finds.
fn cases() -> Vec<Case> {
    let package = package();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/filters.py");
    let output = Command::new("/usr/bin/python3")
        .env("PYTHONPATH", package.join("usr/lib/python3/dist-packages"))
        .env("TZ", ZONE)
        .arg(script)
        .arg(package.join("etc/fail2ban"))
        .output()
        .expect("python3 is installed");
    assert!(output.status.success(), "filters.py: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("filters.py prints cases")).collect()
}

/// Debian's package, unpacked below the target directory; downloaded if it is not there yet.
fn package() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(PACKAGE);
    if dir.join("etc").exists() {
        return dir;
    }
    let scratch =
        tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable");
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(scratch.path()).output().expect(program);
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("apt-get", &["download", PACKAGE]);
    let files = fs::read_dir(scratch.path()).expect("readable");
    let archive = files.flatten().map(|entry| entry.path()).next().expect("apt-get has downloaded a file");
    run("dpkg", &["-x", archive.to_str().expect("UTF-8"), "unpacked"]);
    // Two filters of fail2ban's own tests include the stock ones at the place where its source tree has them.
    let tree = scratch.path().join("unpacked");
    symlink(dir.join("etc/fail2ban"), tree.join("usr/config")).expect("writable");
    fs::rename(scratch.path().join("unpacked"), &dir).expect("the same file system");
    dir
}
