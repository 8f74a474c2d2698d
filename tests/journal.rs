//! The journal: through rotations, kills and restarts, and at the places that a jail names, every failure counted once.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    env,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    thread::sleep,
    time::Duration,
};

use common::{Agent, PATIENCE, sh};
use lab::{Lab, Process, attacker_v4, wait_until};
use nix::sys::signal::Signal;

/// How many entries go through the journal; `cargo xtask soak` sets it to a million.
const ENTRIES: usize = 20_000;
const ENTRIES_VARIABLE: &str = "F2B_SOAK_ENTRIES";
const ROTATIONS: usize = 10;
const KILLS: usize = 3;
/// Those of the first half fail as often as it takes, the others once less.
const MAXRETRY: usize = 5;
/// How long the agent may take for all of it. A million takes a minute.
const LONG: Duration = Duration::from_secs(600);

/// A filter for lines that many processes could have written.
fn filter(lab: &Lab) {
    let folder = lab.dir().join("config/filter.d");
    fs::create_dir_all(&folder).expect("the lab's directory is writable");
    let filter = "[Definition]\nfailregex = ^\\s*\\S+ sshd\\[\\d+\\]: failure of <HOST>$\n";
    fs::write(folder.join("flood.conf"), filter).expect("the lab's directory is writable");
}

#[test]
fn every_failure_counts_once_through_rotations_kills_and_a_restart_of_journald() {
    let entries =
        env::var(ENTRIES_VARIABLE).map_or(ENTRIES, |entries| entries.parse().expect("a number of entries"));
    let lab = Lab::network_only();
    sh(
        &lab,
        "printf '[Journal]\\nRuntimeMaxUse=3G\\nRuntimeMaxFileSize=512M\\n' \
              >/etc/systemd/journald.conf.d/zzz.conf; mount -o remount,size=6G /run",
    );
    lab.start_journald();
    filter(&lab);
    let config = format!(
        "[sshd]\nenabled = false\n[flood]\nenabled = true\nbackend = systemd\nfilter = flood\nmaxmatches = 0\n\
         journalmatch = _SYSTEMD_UNIT=ssh.service\nmaxretry = {MAXRETRY}\nfindtime = 1d\nbantime = 1d\n"
    );
    // Enough failures, and one too few: a lost one frees one of the first, a doubled one bans one of the others.
    let attackers = entries / (2 * MAXRETRY - 1);
    fs::write(lab.dir().join("config/f2b.local"), format!("[f2b]\nmax_bans = {}\n", 2 * attackers))
        .expect("the lab's directory is writable");
    let enough = |n: usize| (n, MAXRETRY);
    let too_few = |n: usize| (attackers + n, MAXRETRY - 1);
    let mut failures: Vec<usize> = (0..attackers)
        .flat_map(|n| [enough(n), too_few(n)])
        .flat_map(|(attacker, times)| std::iter::repeat_n(attacker, times))
        .collect();
    fastrand::Rng::with_seed(7).shuffle(&mut failures);

    let mut agent = Agent::start(&lab, &config);
    let bursts: Vec<&[usize]> = failures.chunks(failures.len().div_ceil(ROTATIONS + 1)).collect();
    let mut written = 0;
    for (number, burst) in bursts.iter().enumerate() {
        let logger = write(&lab, burst, number);
        written += burst.len();
        if (1..=KILLS).contains(&(number / 2)) && number % 2 == 0 {
            // In the middle of it, at a moment that is never the same.
            sleep(Duration::from_millis(fastrand::u64(1..100)));
            agent.process.signal(Signal::SIGKILL);
            agent.process.wait(PATIENCE);
            agent = Agent::start(&lab, &config);
        }
        if number < ROTATIONS {
            lab.rotate_journal();
        }
        end(logger);
        if number == ROTATIONS / 2 {
            wait_until(LONG, "journald has stored all", || stored(&lab) == written);
            lab.start_journald();
        }
    }
    wait_until(LONG, "journald has stored all", || stored(&lab) == failures.len());
    let banned = || agent.jail("flood")["currently_banned"].as_u64();
    wait_until(LONG, &format!("all {attackers} are banned that failed often enough: {:?}", banned()), || {
        banned() == Some(attackers as u64)
    });
    // One more of those that are not banned is enough for them all: none was lost, and none counted twice.
    let last: Vec<usize> = (attackers..2 * attackers).collect();
    sleep(Duration::from_secs(2));
    assert_eq!(banned(), Some(attackers as u64), "nobody is banned for a failure that was counted twice");
    end(write(&lab, &last, bursts.len()));
    wait_until(LONG, "the others are banned with the next failure", || {
        banned() == Some(2 * attackers as u64)
    });
    let log = agent.process.log();
    assert!(!log.contains("cannot be read"), "{log}");
}

/// The address of an attacker by its number.
fn address(number: usize) -> IpAddr {
    Ipv4Addr::from_bits(0x0a00_0001 + number as u32).into()
}

/// Writes failures to the journal, as fast as it takes them.
fn write(lab: &Lab, attackers: &[usize], number: usize) -> Process {
    let mut lines = String::new();
    for attacker in attackers {
        writeln!(lines, "failure of {}", address(*attacker)).expect("a string takes all");
    }
    let path = lab.dir().join(format!("lines-{number}"));
    fs::write(&path, lines).expect("the lab's directory is writable");
    lab.server("logger").args(["-t", "sshd", "-i", "-f"]).arg(path).unit("ssh.service").start()
}

fn end(mut logger: Process) {
    let status = logger.wait(LONG);
    assert!(status.success(), "logger: {status}: {}", logger.log());
}

/// How many failures the journal holds.
fn stored(lab: &Lab) -> usize {
    sh(lab, "journalctl --quiet -o cat _SYSTEMD_UNIT=ssh.service | wc -l").trim().parse().expect("a number")
}

/// Writes a journal of failures of `attacker` that happened just now.
fn journal(lab: &Lab, path: &Path, attacker: IpAddr, times: usize) {
    let now = jiff::Timestamp::now().as_microsecond();
    let mut export = String::new();
    for number in 0..times {
        write!(
            export,
            "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={:032x}\n_HOSTNAME=host\n\
             _SYSTEMD_UNIT=ssh.service\n_COMM=sshd\n_PID=7\nSYSLOG_IDENTIFIER=sshd\n\
             MESSAGE=failure of {attacker}\n\n",
            now - 1_000_000 + number as i64,
            now + number as i64,
            7,
        )
        .expect("a string takes all");
    }
    fs::create_dir_all(path.parent().expect("it is in a folder")).expect("the lab's directory is writable");
    let input = lab.dir().join("export");
    fs::write(&input, export).expect("the lab's directory is writable");
    let remote = lab.server("/lib/systemd/systemd-journal-remote").arg("-o").arg(path).arg(&input);
    let output = remote.output();
    assert!(output.status.success(), "systemd-journal-remote: {}", String::from_utf8_lossy(&output.stderr));
}

/// Until it is told to use the disk, journald writes to memory; then it copies all of that into files which may be there
/// since the machine ran before.
#[test]
fn what_journald_copies_from_memory_to_the_disk_counts_once() {
    let lab = Lab::network_only();
    filter(&lab);
    sh(
        &lab,
        "printf '[Journal]\\nStorage=auto\\n' >/etc/systemd/journald.conf.d/zzz.conf; mkdir -p /var/log/journal",
    );
    lab.start_journald();
    let fail = |times: usize| end(write(&lab, &vec![1; times], times));
    let on_disk = || sh(&lab, "journalctl -D /var/log/journal -q -o cat SYSLOG_IDENTIFIER=sshd | wc -l");
    let is_on_disk = |times: &str| {
        wait_until(PATIENCE, &format!("{times} entries are on the disk"), || on_disk().trim() == times);
    };
    fail(1);
    lab.flush_journal();
    is_on_disk("1");
    lab.stop_journald();
    sh(&lab, "rm /run/systemd/journal/flushed");
    lab.start_journald();
    let config = "[sshd]\nenabled = false\n[flood]\nenabled = true\nbackend = systemd\nfilter = flood\nmaxretry = 100\n\
                  journalmatch = SYSLOG_IDENTIFIER=sshd\nfindtime = 1d\n";
    let mut agent = Agent::start(&lab, config);
    let failed = |agent: &Agent<'_>, times: usize| {
        let failed = || agent.jail("flood")["total_failed"].as_u64();
        wait_until(PATIENCE, &format!("{times} failures are counted"), || failed() >= Some(times as u64));
        sleep(Duration::from_millis(300));
        assert_eq!(failed(), Some(times as u64), "each failure counts once");
    };
    failed(&agent, 1);
    fail(3);
    failed(&agent, 4);
    sleep(Duration::from_millis(300));
    assert_eq!(on_disk().trim(), "1", "journald writes to memory again");
    lab.flush_journal();
    is_on_disk("4");
    failed(&agent, 4);
    fail(2);
    failed(&agent, 6);
    // Others that are copied while nobody reads. A new agent counts from 0.
    agent.stop();
    lab.stop_journald();
    sh(&lab, "rm /run/systemd/journal/flushed");
    lab.start_journald();
    let mut agent = Agent::start(&lab, config);
    failed(&agent, 0);
    fail(4);
    failed(&agent, 4);
    agent.stop();
    lab.flush_journal();
    is_on_disk("10");
    let agent = Agent::start(&lab, config);
    failed(&agent, 0);
    fail(1);
    failed(&agent, 1);
}

/// Files come and go while they are read, and some of them are damaged.
#[test]
fn what_is_vacuumed_is_not_missed_and_what_is_damaged_is_named() {
    let lab = Lab::network_only();
    lab.start_journald();
    filter(&lab);
    let config = "[sshd]\nenabled = false\n[flood]\nenabled = true\nbackend = systemd\nfilter = flood\n\
                  maxretry = 100000\nmaxmatches = 0\njournalmatch = SYSLOG_IDENTIFIER=sshd\nfindtime = 1d\n";
    let failed = |agent: &Agent<'_>| agent.jail("flood")["total_failed"].as_u64().unwrap_or_default();
    let agent = Agent::start(&lab, config);
    let mut written = 0;
    for round in 0..8 {
        let before = failed(&agent);
        end(write(&lab, &vec![round; 200], round));
        written += 200;
        // The first of them have been read, the others may have to be read from a file that has gone.
        wait_until(PATIENCE, "some are read", || failed(&agent) > before);
        lab.rotate_journal();
        sh(&lab, &format!("rm -f $({ARCHIVED})"));
    }
    wait_until(PATIENCE, &format!("{written} failures are counted"), || failed(&agent) >= written);
    end(write(&lab, &[9], 9));
    wait_until(PATIENCE, "one more is counted", || failed(&agent) == written + 1);
    drop(agent);

    // One file without a header, and one with a hole, of which nobody knows what was in it.
    end(write(&lab, &vec![1; 200], 10));
    lab.rotate_journal();
    wait_until(PATIENCE, "journald has begun a new file", || sh(&lab, ARCHIVED).lines().count() > 0);
    end(write(&lab, &vec![1; 200], 11));
    sh(
        &lab,
        &format!(
            "cd /run/log/journal/*/; rm -f /var/lib/f2b/*; for f in $({ARCHIVED}); do dd status=none if=/dev/zero of=$f \
             bs=4096 count=4 seek=$(( $(stat -c %s $f) / 4096 - 60 )) conv=notrunc; done; echo broken >system@0.journal",
        ),
    );
    let agent = Agent::start(&lab, config);
    wait_until(PATIENCE, "those of the new file are counted", || failed(&agent) >= 200);
    wait_until(PATIENCE, "the damage is named", || {
        agent.process.log().contains("system@0.journal: it is too short for a journal file")
    });
    let before = failed(&agent);
    end(write(&lab, &[9], 12));
    wait_until(PATIENCE, "one more is counted", || failed(&agent) == before + 1);
}

/// Lists the files to which journald does not write any more.
const ARCHIVED: &str = "find /run/log/journal -name 'system@*-*.journal'";

#[test]
fn jails_read_the_journals_that_they_name_and_wrong_options_leave_out_only_theirs() {
    let lab = Lab::network_only();
    filter(&lab);
    let machine = fs::read_to_string("/etc/machine-id").expect("the machine has an id");
    let namespace = format!("/var/log/journal/{}.web/system.journal", machine.trim());
    let jail = |name: &str, options: &str| {
        format!(
            "[{name}]\nenabled = true\nfilter = flood\nmaxretry = 3\njournalmatch = _COMM=sshd\n\
             backend = systemd[{options}]\n"
        )
    };
    let folder = lab.dir().join("remote");
    let at = |name: &str| folder.join(name);
    journal(&lab, &at("dir/a.journal"), attacker_v4(7), 3);
    journal(&lab, &at("one.journal"), attacker_v4(8), 2);
    lab.inside(lab::Host::Server, || {
        fs::create_dir_all(Path::new(&namespace).parent().expect("it is in a folder"))
            .expect("the lab's /var/log is writable");
    });
    let (dir, files) = (at("dir"), format!("journalfiles=\"{} /nowhere*\"", at("*.journal").display()));
    let config = [
        "[sshd]\nenabled = false\n".to_owned(),
        jail("dir", &format!("journalpath={}, rotated=on", dir.display())),
        jail("dir-too", &format!("journalpath={}", dir.display())),
        jail("files", &files),
        jail("later", &format!("journalpath={}", at("later").display())),
        jail("web", "namespace=web"),
        jail("flags", "journalflags=16"),
        jail("both", "journalpath=/a, journalfiles=/b"),
        jail("unknown", "journal=/a"),
        jail("polling", "journalpath=/a").replace("systemd[", "polling["),
    ]
    .concat();
    let agent = Agent::start(&lab, &config);
    let log = agent.process.log();
    for (jail, fix) in [
        ("flags", "journalflags=16: here it is a sum of 1, 2, 4, 8, 32 and 64"),
        ("both", "exclude each other; remove one of them"),
        ("unknown", "journal= is no option of the journal; use journalpath"),
        ("polling", "journalpath= is for the journal; write backend = polling, or systemd"),
    ] {
        let line = log.lines().find(|line| line.contains(&format!("jail {jail} is left out: ")));
        assert!(line.is_some_and(|line| line.contains(fix) && line.contains("jail.local")), "{jail}: {log}");
    }
    let banned = |jail: &str, address: IpAddr| {
        wait_until(PATIENCE, &format!("{jail} bans {address}"), || {
            agent.jail(jail)["banned"] == serde_json::json!([address.to_string()])
        });
    };
    banned("dir", attacker_v4(7));
    banned("dir-too", attacker_v4(7));
    // A file that a pattern finds later goes on where the ones before were.
    wait_until(PATIENCE, "two are counted", || agent.jail("files")["total_failed"] == 2);
    journal(&lab, &at("two.journal"), attacker_v4(8), 1);
    banned("files", attacker_v4(8));
    assert_eq!(agent.jail("files")["total_failed"], 3, "those before are not counted again");
    // A folder that comes later, and a file in a folder that was empty.
    let waiting = format!("There is no journal yet (journalpath={}); waiting for it", at("later").display());
    assert_eq!(agent.process.log().matches(&waiting).count(), 1, "{}", agent.process.log());
    journal(&lab, &at("later/a.journal"), attacker_v4(9), 3);
    banned("later", attacker_v4(9));
    journal(&lab, &at("web/new.journal"), attacker_v4(10), 3);
    sh(
        &lab,
        &format!("cp {} {namespace}.new; mv {namespace}.new {namespace}", at("web/new.journal").display()),
    );
    banned("web", attacker_v4(10));
    assert_eq!(agent.jail("dir")["total_failed"], 3, "no jail sees another's journal");
}
