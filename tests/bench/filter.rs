//! Our filters beside the real fail2ban's, in one run: the same lines through the stock sshd filter, both sides taking
//! turns, so that a busy machine slows down both. `cargo xtask bench filter` runs it.
//!
//! What counts is the ratio of the fastest rounds of both sides, because whatever else the machine does only adds to
//! them; the least and the largest ratio of a round stand beside it. The marks are those that the project has set itself;
//! they are printed, never asserted, because machines are noisy. That both sides find equally many failures is asserted.

#[path = "../reference/mod.rs"]
mod reference;

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use f2b::{
    config::{self, Resolved},
    filter::Filter,
};
use jiff::tz::TimeZone;
use reference::{Fail2ban, copy, fail2ban};

const ROUNDS: usize = 21;
const LINES: usize = 6000;
/// What the logs below were written at, in seconds since 1970.
const NOW: f64 = 1_795_500_000.0;
/// Lines that are logged in one second.
const PER_SECOND: usize = 100;
/// How often ours reads the lines in the time of a round: once takes it milliseconds.
const PASSES: u32 = 10;
/// How often the worst lines are tried; the fastest counts, because the machine's own pauses are longer.
const TRIES: usize = 9;

fn main() {
    let fail2ban = fail2ban();
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let mut real = Real::start(fail2ban);
    let mut table = Table::default();
    for source in [Source::Syslog, Source::Iso, Source::Journal] {
        for (name, mark, lines) in workloads() {
            let work = Work::new(source, &lines, fail2ban, scratch.path());
            let rounds: Vec<_> = (0..ROUNDS).map(|_| work.round(&mut real)).collect();
            table.row(&format!("{name}, {}", source.name()), mark, &rounds, lines.len());
        }
    }
    table.print();
    print_worst_line(fail2ban);
    print_loading(fail2ban, scratch.path());
}

/// Where the lines come from.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Source {
    /// A file with dates as syslog has always written them: `Nov 24 06:00:00`.
    Syslog,
    /// A file with dates as rsyslog writes them today: `2026-11-24T06:00:00.123456+00:00`.
    Iso,
    /// The journal, which knows the time of each.
    Journal,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Syslog => "syslog file",
            Self::Iso => "file with ISO dates",
            Self::Journal => "journal",
        }
    }

    /// The `logtype` of fail2ban's filters.
    fn logtype(self) -> &'static str {
        if self == Self::Journal { "journal" } else { "file" }
    }

    /// A line as it is written: a busy second has [`PER_SECOND`] of them.
    fn line(self, number: usize, line: &str) -> String {
        let second = number / PER_SECOND;
        let time = format!("06:{:02}:{:02}", second / 60 % 60, second % 60);
        let micros = number % PER_SECOND * (1_000_000 / PER_SECOND) + number * 7919 % 10_000;
        match self {
            Self::Syslog => format!("Nov 24 {time} {line}"),
            Self::Iso => format!("2026-11-24T{time}.{micros:06}+00:00 {line}"),
            Self::Journal => line.to_owned(),
        }
    }
}

/// The kinds of lines, with the mark of each.
fn workloads() -> Vec<(&'static str, f64, Vec<String>)> {
    let mut dice = Dice(1);
    let mut lines = |line: &mut dyn FnMut(&mut Dice, usize) -> String, count: usize| {
        (0..count).map(|number| line(&mut dice, number)).collect::<Vec<_>>()
    };
    let mixed = |dice: &mut Dice, number: usize| {
        if number.is_multiple_of(10) { attack(dice, number / 10) } else { noise(dice, number) }
    };
    vec![
        ("attack lines", 25.0, lines(&mut attack, LINES)),
        ("90 % noise", 90.0, lines(&mut { mixed }, LINES)),
        ("garbage", 100.0, lines(&mut garbage, LINES)),
        ("1 kB hostile lines", 25.0, lines(&mut hostile, LINES / 6)),
    ]
}

fn attack(dice: &mut Dice, number: usize) -> String {
    let (user, address, port, pid) = (dice.user(), dice.address(), dice.below(64_000), dice.below(99_999));
    let message = match number % 6 {
        0 => format!("Failed password for {user} from {address} port {port} ssh2"),
        1 => format!("Failed password for invalid user {user} from {address} port {port} ssh2"),
        2 => format!("Invalid user {user} from {address} port {port}"),
        3 => format!("Connection closed by authenticating user {user} {address} port {port} [preauth]"),
        4 => format!(
            "pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost={address}  user={user}"
        ),
        _ => format!("Disconnected from invalid user {user} {address} port {port} [preauth]"),
    };
    format!("host sshd[{pid}]: {message}")
}

/// What else stands in an auth.log.
fn noise(dice: &mut Dice, number: usize) -> String {
    let (user, address, port, pid) = (dice.user(), dice.address(), dice.below(64_000), dice.below(99_999));
    let message = match number % 6 {
        0 => format!("CRON[{pid}]: pam_unix(cron:session): session opened for user root(uid=0) by (uid=0)"),
        1 => format!("systemd-logind[412]: New session {pid} of user {user}."),
        2 => format!(
            "sudo[{pid}]:  {user} : TTY=pts/0 ; PWD=/home/{user} ; USER=root ; COMMAND=/usr/bin/apt update"
        ),
        3 => format!(
            "sshd[{pid}]: Accepted publickey for {user} from {address} port {port} ssh2: ED25519 SHA256:abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
        ),
        4 => format!(
            "sshd[{pid}]: pam_unix(sshd:session): session opened for user {user}(uid=1000) by (uid=0)"
        ),
        _ => format!("systemd[1]: Started session-{pid}.scope - Session {pid} of User {user}."),
    };
    format!("host {message}")
}

fn garbage(dice: &mut Dice, _number: usize) -> String {
    let length = 20 + dice.below(180);
    let garbage: String = (0..length).map(|_| char::from(b'!' + dice.below(94) as u8)).collect();
    format!("host {garbage}")
}

/// User names of 950 bytes that try to frame somebody else, or to keep the expressions busy.
fn hostile(dice: &mut Dice, number: usize) -> String {
    let pieces =
        ["x from 203.0.113.9 port 22 ssh2 ", "x", "203.0.113.9 ", "a from ", "x ", "rhost=203.0.113.9 user="];
    let name = &pieces[number % pieces.len()].repeat(950)[..950];
    let address = dice.address();
    match number / pieces.len() % 3 {
        0 => format!("host sshd[{number}]: Failed password for invalid user {name} from {address} port 22"),
        1 => format!("host sshd[{number}]: Invalid user {name} from {address} port 22"),
        _ => {
            format!("host sshd[{number}]: Disconnected from invalid user {name} {address} port 22 [preauth]")
        }
    }
}

/// Numbers that are the same in every run (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn user(&mut self) -> &'static str {
        ["root", "admin", "oracle", "test", "ubuntu", "postgres", "git", "pi"][self.below(8) as usize]
    }

    fn address(&mut self) -> String {
        let [a, b, c, d] = [(); 4].map(|()| 1 + self.below(223));
        format!("{a}.{b}.{c}.{d}")
    }
}

/// Lines for both sides.
struct Work {
    source: Source,
    lines: Vec<String>,
    file: PathBuf,
    filter: Filter,
}

impl Work {
    fn new(source: Source, lines: &[String], fail2ban: &Fail2ban, scratch: &Path) -> Self {
        let lines: Vec<_> =
            lines.iter().enumerate().map(|(number, line)| source.line(number, line)).collect();
        let file = scratch.join("lines.log");
        fs::write(&file, lines.join("\n") + "\n").expect("the scratch directory is writable");
        Self { source, lines, file, filter: sshd(fail2ban, source.logtype()) }
    }

    /// Seconds that both sides take: the real one, then ours.
    fn round(&self, real: &mut Real) -> (f64, f64) {
        let (real_time, real_failures) = real.time("sshd", self.source.logtype(), &self.file);
        let logged = (self.source == Source::Journal).then_some(NOW);
        let start = Instant::now();
        for _ in 0..PASSES {
            let mut context = self.filter.context(TimeZone::UTC, NOW);
            let lines = self.lines.iter();
            let failures: usize =
                lines.map(|line| self.filter.failures(&mut context, line, logged, NOW).len()).sum();
            assert_eq!(failures, real_failures, "both sides find the same");
        }
        (real_time, start.elapsed().as_secs_f64() / f64::from(PASSES))
    }
}

fn sshd(fail2ban: &Fail2ban, source: &str) -> Filter {
    let file = config::FilterFile::InTree { dir: Some(fail2ban.config()), name: "sshd".into() };
    let settings = config::filter_alone(&file, &[("logtype".into(), source.into())], source == "journal");
    Filter::new(&settings.expect("the stock filter resolves").settings).expect("the stock filter compiles")
}

/// The real fail2ban, waiting for work.
struct Real {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Real {
    fn start(fail2ban: &Fail2ban) -> Self {
        let mut child = Command::new("/usr/bin/python3")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/filter.py"))
            .arg(fail2ban.config())
            .env("PYTHONPATH", fail2ban.modules())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Self { child, requests, answers }
    }

    /// Seconds and failures.
    fn time(&mut self, filter: &str, source: &str, file: &Path) -> (f64, usize) {
        writeln!(self.requests, "{filter} {source} {}", file.display()).expect("python3 runs");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("python3 answers");
        let (seconds, failures) = answer.trim().split_once(' ').expect("python3 answers");
        (seconds.parse().expect("a number"), failures.parse().expect("a number"))
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Default)]
struct Table(String);

impl Table {
    fn row(&mut self, name: &str, mark: f64, rounds: &[(f64, f64)], lines: usize) {
        let mut ratios: Vec<_> = rounds.iter().map(|(real, ours)| real / ours).collect();
        ratios.sort_by(f64::total_cmp);
        let micros = |side: fn(&(f64, f64)) -> f64| {
            rounds.iter().map(side).fold(f64::INFINITY, f64::min) / lines as f64 * 1e6
        };
        let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
        let ratio = micros(|round| round.0) / micros(|round| round.1);
        let verdict = if ratio >= mark { "met" } else { "missed" };
        let row = format!(
            "{name:<39} {:>9.2} {:>9.3} {ratio:>7.0}x {least:>6.0} {most:>6.0} {:>7} {verdict}",
            micros(|round| round.0),
            micros(|round| round.1),
            format!(">={mark}x"),
        );
        writeln!(self.0, "{row}").expect("a string takes everything");
    }

    fn print(&self) {
        print(&format!(
            "The stock sshd filter, {ROUNDS} rounds, us per line, one core\n\
             {:<39} {:>9} {:>9} {:>8} {:>6} {:>6} {:>7}\n{}",
            "", "fail2ban", "f2b", "ratio", "least", "most", "mark", self.0
        ));
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The slowest line that we know of.
fn print_worst_line(fail2ban: &Fail2ban) {
    let filter = sshd(fail2ban, "file");
    let pieces = [
        "x",
        " ",
        " from ",
        "x from ",
        "1.1.1.",
        "1.1.1.1 ",
        "::",
        "a:",
        "port 1 ",
        " on x",
        "é",
        "[preauth] ",
        "\t",
        "=",
        "x from 1.1.1.1 port 1 ssh2 ",
        "x from a ",
        "user=x rhost=",
        "[",
        "0",
        "\u{2028}",
        "error: ",
        " user ",
    ];
    let starts = [
        "",
        "Failed password for ",
        "Failed password for invalid user ",
        "Failed publickey for invalid user ",
        "Invalid user ",
        "User ",
        "pam_unix(sshd:auth): authentication failure; ruser=",
        "Received disconnect from ",
        "Disconnecting: Too many authentication failures for ",
        "Connection closed by invalid user ",
        "maximum authentication attempts exceeded for ",
        "Authentication failure for ",
        "refused connect from ",
    ];
    let ends = ["", " from ", " from 192.0.2.7 port 22 ssh2", " not allowed because", " from 192.0.2.7: x"];
    let (mut worst, mut text, mut over_budget, mut count) = (Duration::ZERO, String::new(), 0, 0);
    for length in [1000, 8000] {
        for (start, piece) in starts.iter().flat_map(|start| pieces.iter().map(move |piece| (start, piece))) {
            for end in ends {
                let middle = piece.repeat(length / piece.len());
                let line = format!("2026-11-24T06:00:00+00:00 host sshd[1]: {start}{middle}{end}");
                let mut context = filter.context(TimeZone::UTC, NOW);
                // The first line of a log makes what the others find ready.
                filter.failures(&mut context, "2026-11-24T05:59:59+00:00 host sshd[1]: x", None, NOW);
                let time = || {
                    let start = Instant::now();
                    filter.failures(&mut context, &line, None, NOW);
                    start.elapsed()
                };
                let fastest = std::iter::repeat_with(time).take(TRIES).min().unwrap_or_default();
                count += 1;
                over_budget += usize::from(context.over_budget() > 0);
                if fastest > worst {
                    worst = fastest;
                    text = line.chars().take(110).collect();
                }
            }
        }
    }
    let verdict = if worst < Duration::from_millis(1) { "met" } else { "missed" };
    print(&format!(
        "\nWorst of {count} hostile lines of 1 and 8 kB: {worst:.0?} (mark < 1ms: {verdict}); {over_budget} over the budget\n  {text}...\n"
    ));
}

/// How long it takes to read the stock configuration with every jail enabled.
fn print_loading(fail2ban: &Fail2ban, scratch: &Path) {
    let dir = scratch.join("fail2ban");
    copy(&fail2ban.config(), &dir);
    fs::write(dir.join("jail.local"), "[DEFAULT]\nenabled = true\n")
        .expect("the scratch directory is writable");
    let timed = |action: &mut dyn FnMut()| {
        median((0..ROUNDS).map(|_| {
            let start = Instant::now();
            action();
            start.elapsed().as_secs_f64() * 1e3
        }))
    };
    let mut jails = 0;
    let read = timed(&mut || jails = Resolved::load(Some(&dir)).expect("the stock tree is read").jails.len());
    let compiled = timed(&mut || {
        config::Config::load(Some(&dir)).expect("the stock tree is read");
    });
    let real = timed(&mut || {
        let output = Command::new("/usr/bin/python3")
            .arg(fail2ban.config().join("../../usr/bin/fail2ban-client"))
            .env("PYTHONPATH", fail2ban.modules())
            .args(["-d", "-c"])
            .arg(&dir)
            .output();
        assert!(output.expect("python3 is installed").status.success(), "the real client reads it, too");
    });
    let verdict = if compiled < 150.0 { "met" } else { "missed" };
    print(&format!(
        "\nThe stock tree with all {jails} jails: read in {read:.0} ms, read and compiled in {compiled:.0} ms \
         (mark < 150 ms: {verdict}); fail2ban-client -d: {real:.0} ms\n"
    ));
}

fn print(text: &str) {
    io::stdout().write_all(text.as_bytes()).expect("stdout is there");
}
