//! Log files: followed through rotations and restarts, every failure counted once.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::Duration,
};

use common::{Agent, PATIENCE, f2b_ok};
use lab::{Lab, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;

/// The log of a service that writes a file.
struct Log {
    path: PathBuf,
    /// Failures written so far.
    failures: u64,
}

impl Log {
    fn new(lab: &Lab) -> Self {
        Self { path: lab.dir().join("auth.log"), failures: 0 }
    }

    fn open(&self) -> File {
        File::options().create(true).append(true).open(&self.path).expect("the lab's directory is writable")
    }

    /// Failures of `attacker`, in one write.
    fn fail(&mut self, attacker: IpAddr, times: u64) {
        self.failures += times;
        let lines: String = (0..times).map(|_| line(attacker)).collect();
        write(&mut self.open(), &lines);
    }

    fn rotated(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }
}

/// A failure. Each connection has a process of its own.
fn line(attacker: IpAddr) -> String {
    static PID: AtomicU32 = AtomicU32::new(1000);
    let pid = PID.fetch_add(1, Ordering::Relaxed);
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00");
    format!("{now} host sshd[{pid}]: Failed password for root from {attacker} port 4242 ssh2\n")
}

fn write(file: &mut File, text: &str) {
    file.write_all(text.as_bytes()).expect("the lab's directory is writable");
}

/// `maxretry` is three.
fn jail(log: &Log, backend: &str) -> String {
    format!("[sshd]\nmaxretry = 3\nbackend = {backend}\nlogpath = {}\n", log.path.display())
}

#[test]
fn a_file_that_appears_and_is_rotated_counts_every_failure_once() {
    let lab = Lab::new();
    let mut log = Log::new(&lab);
    let agent = Agent::start(&lab, &jail(&log, "polling"));
    wait_until(PATIENCE, "it says what it waits for", || {
        agent.process.log().contains("There is no log file yet, waiting for it: ")
    });
    log.fail(attacker_v4(7), 3);
    agent.wait_for_ban(attacker_v4(7));
    assert!(!lab.connects(attacker_v4(7)) && lab.connects(attacker_v4(8)));
    let status = f2b_ok(&lab, &["status", "sshd"]);
    assert!(status.contains(&format!("`- File list:\t{}\n", log.path.display())), "{status}");

    // A line that is not complete yet is none.
    log.fail(attacker_v4(8), 2);
    let half = line(attacker_v4(8));
    let (begin, end) = half.split_at(80);
    write(&mut log.open(), begin);
    wait_until(PATIENCE, "two failures are counted", || agent.jail("sshd")["total_failed"] == 5);
    sleep(Duration::from_millis(100));
    assert!(agent.ban_of(attacker_v4(8)).is_none(), "the third is only begun");
    write(&mut log.open(), end);
    log.failures += 1;
    agent.wait_for_ban(attacker_v4(8));

    // By renaming: the service writes to the old file until it is told.
    let mut old = log.open();
    fs::rename(&log.path, log.rotated()).expect("the lab's directory is writable");
    log.fail(attacker_v6(7), 1);
    wait_until(PATIENCE, "the new file is found", || agent.jail("sshd")["currently_failed"] == 1);
    write(&mut old, &line(attacker_v6(7)));
    log.failures += 1;
    log.fail(attacker_v6(7), 1);
    agent.wait_for_ban(attacker_v6(7));

    // By copying and truncating.
    fs::copy(&log.path, log.rotated()).expect("the lab's directory is writable");
    File::options().write(true).truncate(true).open(&log.path).expect("it is there");
    log.fail(attacker_v6(8), 3);
    agent.wait_for_ban(attacker_v6(8));
    assert_eq!(agent.jail("sshd")["total_failed"], log.failures, "{}", agent.process.log());
}

#[test]
fn an_agent_goes_on_where_the_one_before_was_killed() {
    let lab = Lab::network_only();
    let mut log = Log::new(&lab);
    log.fail(attacker_v4(7), 3);
    let config = jail(&log, "auto");
    let mut agent = Agent::start(&lab, &config);
    agent.wait_for_ban(attacker_v4(7));
    // What is unbanned by hand stays so, although the failures still stand in the file.
    f2b_ok(&lab, &["unban", &attacker_v4(7).to_string()]);
    log.fail(attacker_v4(8), 2);
    wait_until(PATIENCE, "two failures are counted", || agent.jail("sshd")["currently_failed"] == 1);
    // The position is stored once a second.
    sleep(Duration::from_millis(1500));
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);

    // One more while nobody reads, and a rotation; then another one in the new file.
    log.fail(attacker_v6(7), 2);
    fs::rename(&log.path, log.rotated()).expect("the lab's directory is writable");
    log.fail(attacker_v4(8), 1);
    log.fail(attacker_v6(7), 1);
    let agent = Agent::start(&lab, &config);
    agent.wait_for_ban(attacker_v6(7));
    wait_until(PATIENCE, "what came while nobody read is counted", || {
        agent.jail("sshd")["total_failed"] == 4
    });
    sleep(Duration::from_millis(500));
    assert_eq!(agent.jail("sshd")["total_failed"], 4, "nothing is counted twice");
    assert!(agent.ban_of(attacker_v4(7)).is_none(), "the unban by hand holds");
    agent.wait_for_ban(attacker_v4(8));
}

#[test]
fn after_a_restart_the_find_window_is_as_it_was() {
    let lab = Lab::network_only();
    let mut log = Log::new(&lab);
    let config = jail(&log, "auto");
    log.fail(attacker_v4(7), 2);
    let mut agent = Agent::start(&lab, &config);
    wait_until(PATIENCE, "two failures are counted", || agent.jail("sshd")["total_failed"] == 2);
    agent.stop();
    let agent = Agent::start(&lab, &config);
    log.fail(attacker_v4(7), 1);
    agent.wait_for_ban(attacker_v4(7));
    assert_eq!(agent.jail("sshd")["total_failed"], 1, "two were counted by the agent before");
}

#[test]
fn what_was_rotated_twice_while_nobody_read_counts_once_and_in_order() {
    let lab = Lab::network_only();
    let mut log = Log::new(&lab);
    let config = jail(&log, "auto");
    let rotate = |log: &Log| {
        let second = log.path.with_extension("log.2");
        if log.rotated().exists() {
            fs::rename(log.rotated(), second).expect("the lab's directory is writable");
        }
        fs::rename(&log.path, log.rotated()).expect("the lab's directory is writable");
    };
    let (unread, before, earlier) = (attacker_v6(7), attacker_v4(8), attacker_v4(9));
    log.fail(before, 2);
    log.fail(earlier, 2);
    let mut agent = Agent::start(&lab, &config);
    wait_until(PATIENCE, "four failures are counted", || agent.jail("sshd")["total_failed"] == 4);
    // The position is stored once a second.
    sleep(Duration::from_millis(1500));
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    for _ in 0..2 {
        log.fail(unread, 1);
        // A file's time of writing is as fine as the kernel's coarse clock.
        sleep(Duration::from_millis(20));
        rotate(&log);
    }
    log.fail(before, 1);
    log.fail(unread, 1);
    let mut agent = Agent::start(&lab, &config);
    agent.wait_for_ban(unread);
    agent.wait_for_ban(before);
    assert_eq!(agent.jail("sshd")["total_failed"], 4, "{}", agent.process.log());
    sleep(Duration::from_millis(1500));
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    // Now the whole find window but for the last lines is in files that were rotated.
    let agent = Agent::start(&lab, &config);
    log.fail(earlier, 1);
    agent.wait_for_ban(earlier);
    assert_eq!(agent.jail("sshd")["total_failed"], 1, "{}", agent.process.log());
}

#[test]
fn a_pattern_that_finds_rotated_files_too_counts_nothing_twice() {
    let lab = Lab::network_only();
    let mut log = Log::new(&lab);
    let config = format!("[sshd]\nmaxretry = 99\nbackend = auto\nlogpath = {}*\n", log.path.display());
    log.fail(attacker_v4(7), 1);
    let mut agent = Agent::start(&lab, &config);
    let counted = |agent: &Agent<'_>, failures: u64| {
        wait_until(PATIENCE, &format!("{failures} failures are counted"), || {
            agent.jail("sshd")["total_failed"].as_u64() >= Some(failures)
        });
        sleep(Duration::from_millis(1500));
        assert_eq!(agent.jail("sshd")["total_failed"], failures, "{}", agent.process.log());
    };
    counted(&agent, 1);
    for number in [2, 1] {
        let second = log.path.with_extension("log.2");
        if number == 1 {
            fs::rename(log.rotated(), second).expect("the lab's directory is writable");
        }
        // The service writes to the old file until it is told.
        let mut old = log.open();
        fs::rename(&log.path, log.rotated()).expect("the lab's directory is writable");
        if number == 1 {
            // The old file is found by its new name before there is another one in its place.
            sleep(Duration::from_millis(300));
        }
        log.fail(attacker_v4(7), 1);
        for _ in 0..2 {
            write(&mut old, &line(attacker_v4(7)));
            log.failures += 1;
            counted(&agent, log.failures);
        }
    }
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    log.fail(attacker_v4(7), 1);
    fs::rename(log.rotated(), log.path.with_extension("log.3")).expect("the lab's directory is writable");
    fs::rename(&log.path, log.rotated()).expect("the lab's directory is writable");
    log.fail(attacker_v4(7), 1);
    let agent = Agent::start(&lab, &config);
    counted(&agent, 2);
}

/// A failure that happened some seconds ago.
fn line_ago(attacker: IpAddr, seconds: i64) -> String {
    let then = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
    let then = then.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00");
    format!("{then} host sshd[{seconds}]: Failed password for root from {attacker} port 4242 ssh2\n")
}

#[test]
fn after_a_stop_the_lines_of_several_files_count_in_the_order_of_their_times() {
    let lab = Lab::network_only();
    let (a, b) = (lab.dir().join("a.log"), lab.dir().join("b.log"));
    let config = format!(
        "[sshd]\nmaxretry = 3\nfindtime = 1h\nbantime = 10m\nbackend = polling\nlogpath = {}\n    {}\n",
        a.display(),
        b.display()
    );
    fs::write(&a, "begin\n").expect("the lab's directory is writable");
    fs::write(&b, "begin\n").expect("the lab's directory is writable");
    let mut agent = Agent::start(&lab, &config);
    // Positions are stored once a second.
    sleep(Duration::from_millis(1500));
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    let (over, guilty) = (attacker_v4(7), attacker_v4(8));
    let append = |path: &PathBuf, lines: &[(IpAddr, i64)]| {
        let mut file = File::options().append(true).open(path).expect("it is there");
        // More than is read in one go stands between them.
        let noise = format!("{} nothing\n", "x".repeat(200)).repeat(1000);
        for (attacker, seconds) in lines {
            write(&mut file, &line_ago(*attacker, *seconds));
            write(&mut file, &noise);
        }
    };
    // Three failures forty minutes ago would have been a ban that is over by now, and one is left: not enough. Whoever
    // reads one file after the other bans for the last one and two of the first.
    append(&a, &[(over, 2403), (guilty, 300), (over, 5), (guilty, 4)]);
    append(&b, &[(over, 2402), (over, 2401), (guilty, 100)]);
    let agent = Agent::start(&lab, &config);
    agent.wait_for_ban(guilty);
    wait_until(PATIENCE, "all are counted", || agent.jail("sshd")["total_failed"] == 7);
    assert!(agent.ban_of(over).is_none(), "{}", agent.process.log());
    assert!(agent.process.log().contains(&format!("{over}")), "{}", agent.process.log());
    let status = agent.jail("sshd");
    assert_eq!(
        status["currently_failed"], 1,
        "one failure is left of the address whose ban is over: {status}"
    );
}

#[test]
fn a_file_in_utf_16_is_followed_and_gone_on_with() {
    let lab = Lab::network_only();
    let path = lab.dir().join("auth.log");
    let config = format!(
        "[sshd]\nmaxretry = 3\nbackend = polling\nlogencoding = utf-16\nlogpath = {}\n",
        path.display()
    );
    let encode = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let write = |bytes: &[u8]| {
        let mut file =
            File::options().create(true).append(true).open(&path).expect("the lab's directory is writable");
        file.write_all(bytes).expect("the lab's directory is writable");
    };
    write(b"\xff\xfe");
    write(&encode(&line(attacker_v4(7))));
    // Characters that have the byte of a line end in them, and a file that ends in the middle of one.
    let tricky = encode(&format!("\u{a0a}\u{a00} {}", line(attacker_v4(9))));
    write(&tricky);
    let second = encode(&line(attacker_v4(7)));
    let (begin, end) = second.split_at((second.len() / 2) | 1);
    write(begin);
    let mut agent = Agent::start(&lab, &config);
    wait_until(PATIENCE, "one failure is counted", || agent.jail("sshd")["currently_failed"] != 0);
    sleep(Duration::from_millis(1500));
    assert_eq!(agent.jail("sshd")["total_failed"], 1, "a line that begins with something else is no failure");
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    write(end);
    let agent = Agent::start(&lab, &config);
    wait_until(PATIENCE, "the second is counted", || agent.jail("sshd")["total_failed"] == 1);
    write(&encode(&line(attacker_v4(7))));
    agent.wait_for_ban(attacker_v4(7));
}
