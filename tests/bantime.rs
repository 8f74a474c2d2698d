//! How long the agent bans, against the real fail2ban: its classes get the same failures at the same times, with and
//! without `bantime.increment`, and every ban begins and ends at the same time in both. And its formulas: what Python
//! makes of thousands of them.

#[path = "reference/mod.rs"]
mod reference;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::SystemTime,
};

use f2b::{
    agent::Agent,
    ban::Until,
    config::Config,
    control::{Answer, Request},
    formula::{Formula, Names, Number},
    source::{Line, Reading},
    store::Store,
    xdp::DryRun,
};
use reference::fail2ban;
use serde::Deserialize;
use serde_json::json;

/// How many formulas are made by chance.
const FORMULAS: u32 = 4000;
/// How many failures each set of options gets.
const FAILURES: usize = 1500;

fn python(args: &[&str], input: &str) -> String {
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", fail2ban().modules()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/bantime.py")).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 is installed");
    child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).expect("it prints JSON")
}

#[derive(Deserialize)]
struct Evaluated {
    formula: String,
    /// The class of the result.
    kind: String,
    result: String,
}

impl Evaluated {
    fn difference(&self) -> Option<String> {
        let names = Names { time: Number::from(600), count: Number::from(3), factor: Number::Float(1.5) };
        let ours =
            Formula::new(&self.formula).and_then(|formula| formula.evaluate(Some(&names), &mut || 0.5));
        let is_same = match (&ours, self.kind.as_str()) {
            (Ok(Number::Bool(_)), "bool") | (Ok(Number::Int(_)), "int") => {
                ours.as_ref().is_ok_and(|number| number.to_string() == self.result)
            }
            (Ok(Number::Float(float)), "float") => {
                let theirs: f64 = self.result.parse().expect("Python prints a number");
                float == &theirs || float.is_nan() && theirs.is_nan() || (float / theirs - 1.0).abs() < 1e-12
            }
            (Ok(_), _) => false,
            (Err(_), kind) => !["bool", "int", "float"].contains(&kind),
        };
        let Self { formula, kind, result } = self;
        (!is_same).then(|| format!("{formula}\n  fail2ban: {kind} {result}\n  ours: {ours:?}"))
    }
}

#[test]
fn formulas_mean_what_they_mean_in_python() {
    let printed = python(&["formulas", &FORMULAS.to_string()], "");
    let all: Vec<Evaluated> =
        printed.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect();
    let results = all.iter().filter(|evaluated| ["int", "float"].contains(&evaluated.kind.as_str()));
    assert!(results.count() > FORMULAS as usize / 4, "many formulas have results");
    let differing: Vec<_> = all.iter().filter_map(Evaluated::difference).collect();
    assert!(differing.is_empty(), "{} differ:\n{}", differing.len(), differing.join("\n"));
}

/// The agent that decides without enforcing, with two jails that have these options.
fn agent(options: &serde_json::Value) -> Agent<DryRun> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = options.as_object().expect("it is one").iter();
    let options: String =
        options.map(|(option, value)| format!("{option} = {}\n", value.as_str().expect("text"))).collect();
    let common = "enabled = yes\nbackend = systemd\njournalmatch = _COMM=x\nfailregex = ^<HOST> failed$\nfilter = one\nignoreself = no";
    fs::create_dir(dir.path().join("filter.d")).expect("it is writable");
    fs::write(dir.path().join("filter.d/one.conf"), "[Definition]\n").expect("it is writable");
    let jails = format!("[DEFAULT]\n{options}\n[sshd]\nenabled = no\n[a]\n{common}\n[b]\n{common}\n");
    fs::write(dir.path().join("jail.local"), jails).expect("it is writable");
    let config = Config::load(Some(dir.path())).expect("it is in order");
    assert_eq!(config.jails.len(), 2, "{:?}", config.warnings);
    let now = SystemTime::UNIX_EPOCH;
    let mut agent = Agent::new(config, DryRun::default(), Store::in_memory().expect("a store"), None, now);
    agent.restore(now).expect("there is nothing");
    agent
}

type Bans = BTreeMap<String, Option<f64>>;

/// Who is banned by which jail, and until when.
fn bans(agent: &mut Agent<DryRun>, now: SystemTime) -> Bans {
    let mut bans = Bans::new();
    for jail in ["a", "b"] {
        let Answer::JailBans { bans: of_jail } = agent.answer(Request::JailBans { jail: jail.into() }, now)
        else {
            panic!("no answer");
        };
        for ban in of_jail {
            let end = match ban.until {
                Until::Forever => None,
                Until::Time(end) => {
                    Some(end.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64())
                }
            };
            bans.insert(format!("{jail} {}", ban.address), end);
        }
    }
    bans
}

fn is_near(a: &Option<f64>, b: &Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 0.001,
        (a, b) => a == b,
    }
}

/// Failures of some hosts over months: fast and slow ones, and pauses.
fn failures(seed: u64) -> Vec<(f64, &'static str, String)> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut time = 1_700_000_000.25;
    (0..FAILURES)
        .map(|_| {
            time += [1.0, 20.0, 90.0, 400.0, 3000.0, 60_000.0][dice.usize(..6)] * dice.f64() + 0.001;
            // In milliseconds, so that both have the very same number.
            time = (time * 1000.0_f64).round() / 1000.0;
            let hosts = if dice.bool() { 4 } else { 9 };
            let host = dice.u8(1..hosts);
            (time, ["a", "b"][usize::from(dice.u8(..4) == 0)], format!("192.0.2.{host}"))
        })
        .collect()
}

#[test]
fn bans_begin_and_end_as_fail2bans() {
    let base = json!({"maxretry": "4", "findtime": "600", "bantime": "600"});
    let sets = [
        json!({}),
        json!({"bantime": "-1", "maxretry": "3"}),
        json!({"bantime.increment": "true"}),
        json!({"bantime.increment": "true", "maxretry": "1"}),
        json!({"bantime.increment": "true", "maxretry": "10", "bantime.maxtime": "1w"}),
        json!({"bantime.increment": "true", "bantime.overalljails": "true", "bantime.maxtime": "5w"}),
        json!({"bantime.increment": "true", "bantime.multipliers": "1 5 30 60 300 720 1440 2880"}),
        json!({"bantime.increment": "true", "bantime.factor": "2.0 / 2.885385",
            "bantime.formula": "ban.Time * math.exp(float(ban.Count+1)*banFactor)/math.exp(1*banFactor)"}),
        json!({"bantime.increment": "true", "bantime.formula": "ban.Time * 2 if ban.Count < 3 else 1/0"}),
        json!({"bantime.increment": "true", "bantime.maxtime": "-1"}),
        json!({"bantime.increment": "true", "bantime.multipliers": "3 1 4", "bantime.factor": "1.5", "bantime": "90"}),
    ];
    let mut bans_of_all = 0;
    for (seed, set) in sets.into_iter().enumerate() {
        let mut options = base.clone();
        options.as_object_mut().expect("it is one").extend(set.as_object().expect("it is one").clone());
        let failures = failures(seed as u64);
        let case = json!({"options": options, "failures": failures});
        let theirs = python(&["failures"], &format!("{case}\n"));
        let mut theirs = theirs.lines();
        let mut agent = agent(&options);
        let mut known = Bans::new();
        for (n, (time, jail, ip)) in failures.iter().enumerate() {
            let now = f2b::source::time(*time);
            agent.expire(now);
            agent.sweep(now);
            let line = Line { jail: (*jail).into(), time: Some(now), text: format!("{ip} failed") };
            agent.line(&line, Reading::Live, now);
            let changed: Bans =
                serde_json::from_str(theirs.next().expect("a line for each failure")).expect("JSON");
            for (key, end) in changed {
                bans_of_all += 1;
                match end {
                    Some(0.0) => drop(known.remove(&key)),
                    end => drop(known.insert(key, end)),
                }
            }
            let ours = bans(&mut agent, now);
            let is_same = ours.len() == known.len()
                && ours.iter().all(|(key, end)| known.get(key).is_some_and(|theirs| is_near(theirs, end)));
            let earlier =
                failures[..n].iter().rev().filter(|(_, in_jail, of)| (in_jail, of) == (jail, ip)).take(9);
            assert!(
                is_same,
                "{options}: failure {n} of {ip} in {jail} at {time}\nfail2ban: {known:?}\nours: {ours:?}\n\
                 earlier failures: {:?}",
                earlier.map(|(time, ..)| time).collect::<Vec<_>>()
            );
        }
    }
    assert!(bans_of_all > 1000, "only {bans_of_all} changes");
}
