//! What the agent's memory of attackers costs: a million of them in the find window, a hundred thousand bans, and how
//! long a store of a million bans takes to read (told, not judged: machines differ).

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use f2b::{
    agent::Agent,
    ban::{BanSet, Until},
    config::{Config, StoreSettings},
    control::{Answer, Request},
    source::{Line, Reading},
    store::{Store, StoredBan},
    xdp::DryRun,
};

/// Where one test leaves the store for the other.
const STORE: &str = "F2B_TEST_STORE";

/// Anonymous memory of this process, in bytes.
fn anonymous() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("it is there");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

fn address(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0100_0000 + n * 7).into()
}

fn config(dir: &Path) -> Config {
    Config::load(Some(dir)).expect("the built-in tree")
}

fn agent(store: Store, now: SystemTime) -> Agent<DryRun> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    Agent::new(config(dir.path()), DryRun::default(), store, None, now)
}

/// One test, so that nothing else is measured with it.
#[test]
fn attackers_and_bans_take_little_memory() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let store = || Store::open(dir.path(), StoreSettings::default(), now).expect("a store");
    let mut agent = self::agent(store(), now);
    let line = |n: u32| Line {
        jail: "sshd".into(),
        time: Some(now),
        text: format!(
            "host sshd[{n}]: Failed password for invalid user admin from {} port 4711 ssh2",
            address(n)
        ),
    };
    agent.line(&line(0), Reading::Live, now);
    let idle = anonymous();
    let start = Instant::now();
    for n in 1..1_000_000 {
        agent.line(&line(n), Reading::Live, now);
    }
    let used = anonymous() - idle;
    println!("1M attackers: {} MB, {} bytes each, in {:.1?}", used >> 20, used / 1_000_000, start.elapsed());
    // While it stops, what it has counted is there twice, in a packed form.
    assert!(used < 155 << 20, "{used} bytes");
    let start = Instant::now();
    agent.stop(now);
    println!("1M attackers: left to the next agent in {:.2?}", start.elapsed());
    agent.sweep(now + Duration::from_secs(10_000));
    let left = anonymous().saturating_sub(idle);
    assert!(left < 10 << 20, "{left} bytes are left when they are forgotten");
    drop(agent);

    let before = anonymous();
    let mut bans = BanSet::default();
    for n in 0..100_000 {
        bans.add(address(n).into(), "sshd", Until::Time(now + Duration::from_secs(n.into())), 1);
    }
    let used = anonymous() - before;
    println!("100k bans: {:.1} MB", used as f64 / f64::from(1 << 20));
    assert!(used < 15 << 20, "{used} bytes");
    drop(bans);

    for count in [10_000, 1_000_000] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let start = Instant::now();
        let store = Store::open(dir.path(), StoreSettings::default(), now).expect("a store");
        for n in 0..count {
            store.wait_for_room();
            store.add(StoredBan {
                owner: "sshd".into(),
                subject: address(n).into(),
                until: Until::Time(now + Duration::from_secs(3600 + u64::from(n))),
                started: now,
                bancount: 1,
            });
        }
        drop(store);
        println!("{count} bans: written in {:.2?}", start.elapsed());
        let start = Instant::now();
        let store = Store::open(dir.path(), StoreSettings::default(), now).expect("a store");
        let opened = start.elapsed();
        let mut agent = self::agent(store, now);
        agent.restore(now).expect("they are there");
        println!("{count} bans: restored in {:.2?}, {opened:.2?} of it read", start.elapsed());
        let Answer::Status(status) = agent.answer(Request::Status, now) else { panic!("no status") };
        assert_eq!(status.banned, count as usize);
    }

    let test = env::current_exe().expect("it runs");
    let taken_over = Command::new(test)
        .args(["--exact", "next_agent_takes_attackers_over", "--ignored", "--nocapture"])
        .env(STORE, dir.path())
        .status();
    assert!(taken_over.expect("it starts").success());
}

/// In a process of its own, so that it has nothing of what was freed before.
#[test]
#[ignore = "started by the other one, with a store"]
fn next_agent_takes_attackers_over() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let idle = anonymous();
    let dir = env::var_os(STORE).expect("the other test names it");
    let store = Store::open(Path::new(&dir), StoreSettings::default(), now).expect("a store");
    let start = Instant::now();
    let mut agent = agent(store, now);
    agent.restore(now).expect("a dry run takes everything");
    let used = anonymous() - idle;
    println!("1M attackers: taken over in {:.2?}, {} MB", start.elapsed(), used >> 20);
    let Answer::JailStatus(status) = agent.answer(Request::JailStatus { jail: "sshd".into() }, now) else {
        panic!("no status");
    };
    assert_eq!(status.currently_failed, 1_000_000);
    assert!(used < 140 << 20, "{used} bytes");
}
