//! The agent beside the real fail2ban: the same configuration directory, the same lines, the same clock, for days; files
//! are rotated and both are restarted in the middle. Every ban begins and ends at the same moment in both, by the same
//! jail, for the same address, as long.
//!
//! Where the two differ by intention, `peer.py` names it, and makes the real one do what ours does. Besides: when
//! fail2ban stops it ends all bans, and begins them anew at the next start; ours go on, so at a start what is held is
//! compared. And a ban is over for ours at its end, for fail2ban just behind it: no look happens at that very moment.

#[path = "peer/corpus.rs"]
mod corpus;
#[path = "peer/ours.rs"]
mod ours;
#[path = "reference/mod.rs"]
mod reference;

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use corpus::{Corpus, IGNORED, JAILS, START};
use reference::{copy, fail2ban};
use serde::Deserialize;
use serde_json::json;

/// How many lines there are: `cargo xtask soak` has more.
const LINES: usize = 2500;
const LINES_VARIABLE: &str = "F2B_SOAK_LINES";
/// So many a day.
const LINES_A_DAY: f64 = 40_000.0;
/// But no less.
const DAYS: f64 = 1.0;
/// `dbpurgeage`, in hours: so short that something is forgotten.
const PURGE_HOURS: u64 = 6;

/// Kind, jail, address, and the end of the ban: `None` for ever, or if there is none.
#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Event(String, String, String, Option<f64>);

impl Event {
    fn new(kind: &str, jail: &str, ip: &str, end: Option<f64>) -> Self {
        Self(kind.into(), jail.into(), ip.into(), end)
    }

    /// Whether it is the same but for the floating point.
    fn is(&self, other: &Self) -> bool {
        let is_near = match (self.3, other.3) {
            (Some(a), Some(b)) => (a - b).abs() < 0.001,
            (a, b) => a == b,
        };
        is_near && (&self.0, &self.1, &self.2) == (&other.0, &other.1, &other.2)
    }
}

/// A configuration directory for one of the two, with the logs in it.
fn configure(dir: &Path, options: &str) {
    copy(&fail2ban().config(), dir);
    let path = dir.display();
    let mut jails = format!(
        "[DEFAULT]\nbackend = polling\nusedns = no\nignoreself = false\nignoreip = {IGNORED}\nlogtimezone = UTC+0000\n\
         logencoding = utf-8\nfindtime = 600\nbantime = 600\nmaxretry = 5\n{options}\n"
    );
    for (jail, file) in JAILS {
        let options = match jail {
            "postfix" => "maxretry = 3\nfindtime = 1200\nbantime = 1800",
            "nginx-http-auth" => "maxretry = 8\nfindtime = 300\nbantime = 240",
            "recidive" => "maxretry = 4\nfindtime = 4h\nbantime = 6h",
            _ => "",
        };
        jails += &format!("[{jail}]\nenabled = yes\nlogpath = {path}/{file}\n{options}\n");
        fs::write(dir.join(file), "").expect("it is writable");
    }
    fs::write(dir.join("jail.local"), jails).expect("it is writable");
    let server = format!(
        "[Definition]\ndbfile = {path}/fail2ban.sqlite3\ndbpurgeage = {PURGE_HOURS}h\nallowipv6 = yes\n"
    );
    fs::write(dir.join("fail2ban.local"), server).expect("it is writable");
    fs::remove_file(dir.join("jail.d/defaults-debian.conf")).expect("Debian has it");
}

/// Has the real one read the corpus.
fn start_theirs(corpus: &Corpus, dir: &Path) -> Child {
    let mut text = format!("{}\n", json!({"jails": JAILS, "now": START}));
    for tick in &corpus.ticks {
        text += &format!("{}\n", json!(tick));
    }
    let path = dir.join("corpus");
    fs::write(&path, text).expect("it is writable");
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", fail2ban().modules()).env("PYTHONDONTWRITEBYTECODE", "1").env("TZ", "UTC");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peer.py")).arg(dir).arg(path);
    command.stdout(Stdio::piped()).spawn().expect("python3 is installed")
}

/// Reads the corpus with both, and returns what happened in numbers.
fn compare(name: &str, seed: u64, options: &str) -> String {
    let lines = env::var(LINES_VARIABLE).map_or(LINES, |lines| lines.parse().expect("a number of lines"));
    let corpus = Corpus::new(seed, lines, (lines as f64 / LINES_A_DAY).max(DAYS));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let [their_dir, our_dir] = ["theirs", "ours"].map(|name| dir.path().join(name));
    configure(&their_dir, options);
    configure(&our_dir, options);
    let mut child = start_theirs(&corpus, &their_dir);
    let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let theirs = thread::spawn(move || -> Vec<Vec<Event>> {
        let line = |line: std::io::Result<String>| {
            serde_json::from_str(&line.expect("it is UTF-8")).expect("it prints JSON")
        };
        stdout.lines().map(line).collect()
    });
    let ours = ours::read(&corpus, &our_dir, Duration::from_secs(PURGE_HOURS * 3600));
    let theirs = theirs.join().expect("it prints");
    assert!(child.wait().expect("it ends").success(), "{name}");
    assert_eq!(theirs.len(), corpus.ticks.len());

    let mut differences = Vec::new();
    for (tick, (mut theirs, mut ours)) in
        corpus.ticks.iter().zip(theirs.clone().into_iter().zip(ours.clone()))
    {
        for event in std::mem::take(&mut theirs) {
            match ours.iter().position(|other| other.is(&event)) {
                Some(at) => drop(ours.remove(at)),
                None => theirs.push(event),
            }
        }
        if !(theirs.is_empty() && ours.is_empty()) {
            differences
                .push(format!("{} {:?}\n  fail2ban: {theirs:?}\n  ours:     {ours:?}", tick.now, tick.kind));
        }
    }
    if !differences.is_empty()
        && let Ok(keep) = env::var("F2B_PEER_KEEP")
    {
        fs::write(format!("{keep}/{name}.events"), format!("{theirs:#?}\n{ours:#?}"))
            .expect("it is writable");
        fs::copy(their_dir.join("corpus"), format!("{keep}/{name}.corpus")).expect("it is writable");
    }
    assert!(
        differences.is_empty(),
        "{name}: {} of {} ticks differ, the first of them:\n{}",
        differences.len(),
        corpus.ticks.len(),
        differences[..differences.len().min(8)].join("\n")
    );
    let count = |kind: &str| theirs.iter().flatten().filter(|event| event.0 == kind).count();
    let [bans, unbans, prolonged, held] = ["ban", "unban", "prolong", "held"].map(count);
    let of_recidive =
        theirs.iter().flatten().filter(|event| event.0 == "ban" && event.1 == "recidive").count();
    assert!(bans > corpus.lines() / 60 && unbans > bans / 2 && held > 0 && of_recidive > 0, "{bans} bans");
    let restarts = corpus.ticks.iter().filter(|tick| tick.kind == corpus::Kind::Start).count();
    let rotations = corpus.ticks.iter().filter(|tick| !tick.rotate.is_empty()).count();
    format!(
        "{name}: {} lines over {:.1} days, {restarts} restarts, {rotations} rotations: {bans} bans ({of_recidive} of \
         recidive), {unbans} unbans, {prolonged} prolonged, {held} held over restarts: all the same",
        corpus.lines(),
        (corpus.ticks[corpus.ticks.len() - 200].now - START) / 86_400.0
    )
}

fn the_same(name: &str, seed: u64, options: &str) {
    writeln!(std::io::stderr(), "{}", compare(name, seed, options)).expect("stderr is there");
}

#[test]
fn the_same_lines_lead_to_the_same_bans() {
    the_same("usual", 1, "");
}

#[test]
fn known_offenders_are_banned_as_long() {
    the_same("increment", 2, "bantime.increment = true\nbantime.maxtime = 2d");
}

#[test]
fn known_offenders_of_any_jail_are_banned_as_long() {
    let options = "bantime.increment = true\nbantime.overalljails = true\nbantime.factor = 2\n\
                   bantime.multipliers = 1 2 4 8 16";
    the_same("over all jails", 3, options);
}
