//! The agent is killed at random moments while it is under attack. Whoever the kernel has banned stays banned, once; and
//! every failure counts once: who has failed twice is not banned, who has failed three times is.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Agent, PATIENCE, PINS, address_of, f2b_ok};
use fastrand::Rng;
use lab::{Lab, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// How often: `cargo xtask soak` does it more often.
const KILLS: u32 = 10;
const KILLS_VARIABLE: &str = "F2B_SOAK_KILLS";
/// The longest life of an agent. Its start takes a part of it.
const LIFE: Duration = Duration::from_millis(900);

/// Hosts that fail, some of them once too often.
struct Attack {
    log: File,
    dice: Rng,
    /// How often each will still fail.
    left: BTreeMap<IpAddr, u32>,
    /// Those who fail three times, and those who fail twice.
    guilty: BTreeSet<IpAddr>,
    innocent: BTreeSet<IpAddr>,
}

impl Attack {
    fn new(path: &Path) -> Self {
        Self {
            log: OpenOptions::new().create(true).append(true).open(path).expect("it is writable"),
            dice: Rng::with_seed(1),
            left: BTreeMap::new(),
            guilty: BTreeSet::new(),
            innocent: BTreeSet::new(),
        }
    }

    /// Writes failures for so long.
    fn go_on(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while self.left.len() < 30 {
                self.begin();
            }
            let at = self.dice.usize(..self.left.len());
            let ip = *self.left.keys().nth(at).expect("it is one of them");
            self.fail(ip);
            sleep(Duration::from_micros(self.dice.u64(..6000)));
        }
    }

    fn begin(&mut self) -> IpAddr {
        let number = (self.guilty.len() + self.innocent.len()) as u32;
        let ip = IpAddr::from(Ipv4Addr::from_bits(0x6440_0001 + number));
        let is_guilty = self.dice.bool();
        self.left.insert(ip, if is_guilty { 3 } else { 2 });
        let kind = if is_guilty { &mut self.guilty } else { &mut self.innocent };
        kind.insert(ip);
        ip
    }

    fn fail(&mut self, ip: IpAddr) {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S+00:00");
        writeln!(self.log, "{now} host app: {ip} failed").expect("it is writable");
        let left = self.left.get_mut(&ip).expect("it is one of them");
        *left -= 1;
        if *left == 0 {
            self.left.remove(&ip);
        }
    }

    /// All who have begun fail as often as they are to; then somebody who is known to be last.
    fn end(&mut self) -> IpAddr {
        while let Some(ip) = self.left.keys().next().copied() {
            self.fail(ip);
        }
        loop {
            let ip = self.begin();
            let is_guilty = self.left[&ip] == 3;
            while self.left.contains_key(&ip) {
                self.fail(ip);
            }
            if is_guilty {
                return ip;
            }
        }
    }
}

/// Whom the kernel has banned, whoever runs.
fn in_kernel(lab: &Lab) -> BTreeSet<IpAddr> {
    let dump =
        lab.server("bpftool").args(["--json", "map", "dump", "pinned", &format!("{PINS}/v2/bans")]).output();
    // Before the first agent has made it, there is none.
    if !dump.status.success() {
        return BTreeSet::new();
    }
    let dump: Value = serde_json::from_slice(&dump.stdout).expect("bpftool prints JSON");
    let entries = dump.as_array().expect("a list").iter();
    entries.map(|entry| address_of(&entry["formatted"])).collect()
}

#[test]
fn an_agent_that_is_killed_at_any_moment_loses_and_doubles_nothing() {
    let kills = env::var(KILLS_VARIABLE).map_or(KILLS, |kills| kills.parse().expect("a number of kills"));
    let lab = Lab::network_only();
    let (path, dir) = (lab.dir().join("app.log"), lab.dir().join("config/filter.d"));
    fs::create_dir_all(&dir).expect("the lab's directory is writable");
    fs::write(dir.join("app.conf"), "[Definition]\nfailregex = ^ host app: <HOST> failed$\n")
        .expect("the lab's directory is writable");
    let jail = format!(
        "[DEFAULT]\nbantime.increment = yes\n[sshd]\nenabled = no\n[app]\nenabled = yes\nfilter = app\n\
         backend = polling\nlogpath = {}\nmaxretry = 3\nfindtime = 1h\nbantime = 1h\n",
        path.display()
    );
    let mut attack = Attack::new(&path);
    let state = lab.dir().join("state");
    let state_dir = ["--state-dir", state.to_str().expect("it is UTF-8")];
    let mut banned = BTreeSet::new();
    let mut killed_in_start = 0;
    for _ in 0..kills {
        let mut agent = Agent::launch(&lab, &jail, &state_dir);
        let life = LIFE.mul_f64(attack.dice.f64());
        attack.go_on(life);
        killed_in_start += u32::from(!agent.process.log().contains("Ready"));
        agent.process.signal(Signal::SIGKILL);
        agent.process.wait(PATIENCE);
        let now = in_kernel(&lab);
        assert!(banned.is_subset(&now), "lost: {:?}", banned.difference(&now).collect::<Vec<_>>());
        banned = now;
    }
    let last = attack.end();
    let mut agent = Agent::start_with(&lab, &jail, &state_dir);
    agent.wait_for_ban(last);
    let banned = in_kernel(&lab);
    let list: Value = serde_json::from_str(&f2b_ok(&lab, &["banned", "--json"])).expect("f2b prints JSON");
    let list = list["bans"].as_array().expect("a list");
    assert_eq!(list.len(), banned.len(), "once each");
    for ban in list {
        assert_eq!(ban["jails"], serde_json::json!(["app"]), "it is the jail's, and nobody's besides: {ban}");
    }
    let missing: Vec<_> = attack.guilty.difference(&banned).collect();
    let wrong: Vec<_> = banned.difference(&attack.guilty).collect();
    assert!(missing.is_empty() && wrong.is_empty(), "not banned: {missing:?}; banned: {wrong:?}");

    // What is remembered for the next ban: that there was one.
    agent.process.signal(Signal::SIGTERM);
    wait_until(PATIENCE, "it stops", || !agent.process.is_running());
    let store = rusqlite::Connection::open(state.join(f2b::store::FILE)).expect("the store is there");
    let count =
        |sql: &str| store.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("the tables are there");
    assert_eq!(count("SELECT COUNT(*) FROM bans WHERE bancount = 1 AND jail = 'app'"), banned.len() as i64);
    assert_eq!(count("SELECT COUNT(*) FROM bans"), banned.len() as i64);
    assert_eq!(count("SELECT COUNT(*) FROM (SELECT ip FROM history GROUP BY ip HAVING COUNT(*) > 1)"), 0);
    writeln!(
        io::stderr(),
        "{kills} agents killed, {killed_in_start} of them while they started: {} banned once each, {} with a failure \
         less not",
        banned.len(),
        attack.innocent.len()
    )
    .expect("stderr is there");
}
