//! What an entry of the journal costs until it is a line of its jail, and until the filter has judged it. `cargo xtask
//! bench source` runs it.
//!
//! The journal is a real one, written by systemd-journal-remote: entries of 26 fields, as journald records them for sshd.
//! Counted is the processor's time of all threads, so that a busy machine disturbs little; all take turns, and of each
//! the fastest round counts. The same journal through journalctl, which does nothing but print the messages, stands beside
//! it: that is libsystemd, and little else. The mark is printed, never asserted, because machines are noisy; that every
//! entry arrives is asserted.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use f2b::{
    config,
    filter::Filter,
    source::journal::{Files, JournalMatch, Position, Reader},
};
use jiff::tz::TimeZone;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

const ENTRIES: usize = 200_000;
const ROUNDS: usize = 5;
/// Entries of one second's worth of processor time.
const MARK: f64 = 250_000.0;
/// What is read of the journal: all.
const WANTED: [[&str; 2]; 3] =
    [["_SYSTEMD_UNIT", "ssh.service"], ["_COMM", "sshd"], ["_COMM", "sshd-session"]];
/// When the first entry was logged, in microseconds since 1970.
const BEGIN: u64 = 1_795_500_000_000_000;

fn main() {
    let scratch = tempfile::tempdir().expect("a scratch directory");
    // A folder, because on a disk with little room the journal is rotated while it is written.
    let path = scratch.path().join("journal");
    fs::create_dir(&path).expect("the scratch directory is writable");
    write_journal(scratch.path(), &path.join("system.journal"));
    let rows: [(_, &dyn Fn() -> Duration); 3] = [
        ("journalctl prints the messages", &|| journalctl(&path)),
        ("read and matched", &|| read(&path, false)),
        ("read, matched and judged by the sshd filter", &|| read(&path, true)),
    ];
    let mut best = [Duration::MAX; 3];
    for _ in 0..ROUNDS {
        for ((_, round), best) in rows.iter().zip(&mut best) {
            *best = round().min(*best);
        }
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{ENTRIES} entries of 26 fields, entries/s per core (mark {MARK}):")
        .expect("stdout is there");
    for ((name, _), time) in rows.iter().zip(best) {
        let (rate, micros) = (ENTRIES as f64 / time.as_secs_f64(), time.as_secs_f64() * 1e6 / ENTRIES as f64);
        let times = time.as_secs_f64() / best[0].as_secs_f64();
        writeln!(out, "{name:45} {rate:9.0} {micros:6.2} µs each, {times:.2} × journalctl")
            .expect("stdout is there");
    }
}

/// Entries of sshd, every second one a failure.
fn write_journal(scratch: &Path, path: &Path) {
    let mut export = String::new();
    for number in 0..ENTRIES as u64 {
        let (pid, time) = (1000 + number % 30_000, BEGIN + number * 50);
        let message = if number % 2 == 0 {
            format!(
                "Failed password for root from 192.0.2.{} port {} ssh2",
                number % 250,
                1024 + number % 60_000
            )
        } else {
            format!("Connection closed by 192.0.2.{} port {} [preauth]", number % 250, 1024 + number % 60_000)
        };
        write!(
            export,
            "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={number}\n_BOOT_ID={0:032x}\n_TRANSPORT=syslog\n\
             PRIORITY=6\nSYSLOG_FACILITY=4\nSYSLOG_IDENTIFIER=sshd\nSYSLOG_PID={pid}\nSYSLOG_TIMESTAMP=Nov 24 06:00:00 \n\
             MESSAGE={message}\n_PID={pid}\n_UID=0\n_GID=0\n_COMM=sshd\n_EXE=/usr/sbin/sshd\n\
             _CMDLINE=sshd: root [priv]\n_CAP_EFFECTIVE=1ffffffffff\n_SELINUX_CONTEXT=unconfined\n\
             _SYSTEMD_CGROUP=/system.slice/ssh.service\n_SYSTEMD_UNIT=ssh.service\n_SYSTEMD_SLICE=system.slice\n\
             _SYSTEMD_INVOCATION_ID={0:032x}\n_SOURCE_REALTIME_TIMESTAMP={time}\n_MACHINE_ID={0:032x}\n_HOSTNAME=host\n\
             _RUNTIME_SCOPE=system\n_AUDIT_SESSION=7\n_AUDIT_LOGINUID=0\n\n",
            7,
        )
        .expect("a string takes all");
    }
    let input = scratch.join("export");
    fs::write(&input, export).expect("the scratch directory is writable");
    let mut remote = Command::new("/lib/systemd/systemd-journal-remote");
    let output =
        remote.arg("-o").arg(path).arg(&input).output().expect("systemd-journal-remote is installed");
    assert!(output.status.success(), "systemd-journal-remote: {}", String::from_utf8_lossy(&output.stderr));
}

/// The time that journalctl takes, which has one thread.
fn journalctl(path: &Path) -> Duration {
    let mut journalctl = Command::new("journalctl");
    journalctl.args(["--quiet", "--output=cat", "_SYSTEMD_UNIT=ssh.service", "--directory"]).arg(path);
    let started = Instant::now();
    let status = journalctl.stdout(Stdio::null()).status().expect("journalctl is installed");
    assert!(status.success(), "journalctl: {status}");
    started.elapsed()
}

/// The processor's time that our reader takes, on both sides of its channel.
fn read(path: &Path, judged: bool) -> Duration {
    let filter = Filter::new(&config::filter(None, "sshd").expect("it is built in")).expect("it is in order");
    let now = BEGIN as f64 / 1e6;
    let mut context = filter.context(TimeZone::UTC, now);
    let wanted = WANTED.map(|[field, value]| format!("{field}={value}")).join(" + ");
    let wanted = ["sshd"].map(|jail| (jail.to_owned(), JournalMatch::parse(&wanted).expect("it is one")));
    let files = Files::new([("journalpath", path.to_str().expect("a path in ASCII"))]).expect("it is one");
    let (sender, mut batches) = mpsc::channel(64);
    let before = used();
    let reader = Reader::start(files, wanted.to_vec(), Position::Since(SystemTime::UNIX_EPOCH), sender);
    let reader = reader.expect("threads can be made");
    let (mut read, mut failures) = (0, 0);
    while read < ENTRIES {
        let batch = batches.blocking_recv().expect("the reader goes on");
        read += batch.lines.len();
        for line in batch.lines.iter().filter(|_| judged) {
            failures += filter.failures(&mut context, &line.text, Some(now), now).len();
        }
    }
    let time = used() - before;
    drop(reader);
    assert_eq!(read, ENTRIES);
    assert_eq!(failures, if judged { ENTRIES / 2 } else { 0 });
    time
}

fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("it can be asked").into()
}
