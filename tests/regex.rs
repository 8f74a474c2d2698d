//! `f2b regex` for a person, and the same binary called `fail2ban-regex` against the real one: the same arguments must
//! print the same bytes and end with the same status.

#[path = "reference/mod.rs"]
mod reference;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::LazyLock,
};

use reference::fail2ban;
use regex::{Captures, Regex};
use serde::Deserialize;

const NOW: &str = "1795503270.5";
const ZONE: &str = "Europe/Zurich";
/// Has no summer time. Debian's python3-systemd gives all entries the offset of the present day, and fail2ban then
/// misses their time by an hour.
const ZONE_OF_JOURNALS: &str = "Asia/Kolkata";
const LINE: &str = "2005-08-14 11:59:58 host sshd[1]: Failed password for root from 192.0.2.7 port 4242 ssh2";
const EXPRESSION: &str = "Failed .* from <HOST>";

/// How one run ended.
#[derive(Debug, Deserialize, PartialEq)]
struct Ended {
    status: i32,
    out: String,
    err: String,
}

/// The real fail2ban-regex and ours, with the same clock and zone.
struct Both {
    real: Child,
    answers: BufReader<ChildStdout>,
    ours: tempfile::TempDir,
    zone: &'static str,
    mounts: Mounts,
    compared: usize,
    crashed: usize,
    differing: Vec<String>,
}

/// What is seen in the place of something else.
type Mounts = Vec<(PathBuf, &'static str)>;

/// A command that sees them.
fn with_mounts(program: impl AsRef<OsStr>, mounts: &Mounts) -> Command {
    if mounts.is_empty() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec"]);
    command.arg("while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\"; shift 2; done; shift; exec \"$@\"");
    command.arg("sh");
    for (from, to) in mounts {
        command.arg(from).arg(to);
    }
    command.arg("--").arg(program);
    command
}

impl Both {
    fn start() -> Self {
        Self::start_in(ZONE, Mounts::new())
    }

    fn start_in(zone: &'static str, mounts: Mounts) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/regex.py");
        let mut real = with_mounts("/usr/bin/python3", &mounts)
            .env("PYTHONPATH", fail2ban().modules())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .envs([("TZ", zone), ("LANG", "C.UTF-8")])
            .arg(script)
            .arg(NOW)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        let answers = BufReader::new(real.stdout.take().expect("it is piped"));
        let ours = tempfile::tempdir().expect("a temporary directory");
        symlink(env!("CARGO_BIN_EXE_f2b"), ours.path().join("fail2ban-regex")).expect("it is empty");
        Self { real, answers, ours, zone, mounts, compared: 0, crashed: 0, differing: Vec::new() }
    }

    fn real(&mut self, arguments: &[String]) -> Ended {
        let question = serde_json::to_string(arguments).expect("strings are JSON");
        let stdin = self.real.stdin.as_mut().expect("it is piped");
        writeln!(stdin, "{question}").expect("regex.py reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("regex.py answers");
        serde_json::from_str(&answer).expect("regex.py answers in JSON")
    }

    fn ours(&self, arguments: &[String]) -> Ended {
        let output = with_mounts(self.ours.path().join("fail2ban-regex"), &self.mounts)
            .envs([("TZ", self.zone), ("LANG", "C.UTF-8"), ("F2B_NOW", NOW)])
            .args(arguments)
            .output()
            .expect("it can be started");
        Ended {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs both with the stock configuration.
    fn compare(&mut self, arguments: &[&str]) {
        let config = fail2ban().config().display().to_string();
        let arguments = ["-c", &config].into_iter().chain(arguments.iter().copied());
        self.compare_all(&arguments.map(str::to_owned).collect::<Vec<_>>());
    }

    fn compare_all(&mut self, arguments: &[String]) {
        let (real, ours) = (self.real(arguments), self.ours(arguments));
        if real.status == 1 {
            // A Python traceback. We end with one sentence, and the status that fail2ban has for errors.
            self.crashed += 1;
            let told = ours.err.lines().count() == 1 || ours.out.contains("\nERROR: ");
            if !real.err.contains("Traceback") || ours.status != 255 || !told {
                self.differing.push(format!("{arguments:?}: the real one crashes ({}); {ours:?}", real.err));
            }
            return;
        }
        self.compared += 1;
        if (real.status, masked(&real.out)) != (ours.status, masked(&ours.out)) {
            let lines = |text: &str| masked(text).lines().map(str::to_owned).collect::<Vec<_>>();
            let (real_lines, our_lines) = (lines(&real.out), lines(&ours.out));
            let first = real_lines.iter().zip(&our_lines).position(|(real, ours)| real != ours);
            let first = first.unwrap_or(real_lines.len().min(our_lines.len()));
            self.differing.push(format!(
                "{arguments:?}: status {} and {}, line {}:\n  real: {:?}\n  ours: {:?}\n  stderr: {} {}",
                real.status,
                ours.status,
                first + 1,
                real_lines.get(first),
                our_lines.get(first),
                real.err,
                ours.err,
            ));
        }
    }

    fn end(mut self, what: &str) {
        drop(self.real.stdin.take());
        self.real.wait().expect("regex.py ends with its input");
        let equal = self.compared - self.differing.len();
        writeln!(
            io::stderr(),
            "{what}: {equal} of {} runs equal to the byte; in {} more the real one crashes and we do not",
            self.compared,
            self.crashed
        )
        .expect("stderr is there");
        let count = self.differing.len();
        assert!(count == 0, "{count} differ:\n{}", self.differing.join("\n"));
    }
}

/// Without what differs by its nature:
/// - how long it took, and in which process and thread;
/// - how the date templates are searched for (`--VD`): our expressions are our own;
/// - the order of a Python set, which changes from run to run;
/// - the reason why a configuration file or the options of a filter cannot be read: our words name file and line.
fn masked(out: &str) -> String {
    static MASKS: LazyLock<[(Regex, &str); 5]> = LazyLock::new(|| {
        let regex = |text| Regex::new(text).expect("a constant");
        [
            (regex(r"processed in [\d.]+ sec"), "processed in X sec"),
            (regex("    # regex: .*"), "    # regex"),
            (regex(r"(?m)^(\d{4}-\S+ \S+ \S+ *)\[\d+\]: "), "$1[PID]: "),
            (regex(r"(?m)^( \d{4}-\S+ \S+) [0-9A-F]+ "), "$1 THREAD "),
            (
                regex(
                    r"(?s)(Wrong config file|ERROR: Wrong filter name or options): .*?\n(ERROR: failed|       while)",
                ),
                "$1: …\n$2",
            ),
        ]
    });
    static SET: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\{('[^{}:]*')\}").expect("a constant"));
    let mut out = out.to_owned();
    for (regex, text) in MASKS.iter() {
        out = regex.replace_all(&out, *text).into_owned();
    }
    let sorted = SET.replace_all(&out, |set: &Captures<'_>| {
        let mut members: Vec<&str> = set[1].split(", ").collect();
        members.sort_unstable();
        format!("{{{}}}", members.join(", "))
    });
    sorted.into_owned()
}

fn sample(filter: &str) -> PathBuf {
    fail2ban().modules().join("fail2ban/tests/files/logs").join(filter)
}

#[test]
fn every_stock_filter_prints_what_fail2ban_regex_prints() {
    const OPTIONS: [&[&str]; 5] = [
        &[],
        &["-v", "--print-all-matched", "--print-all-missed", "--print-all-ignored"],
        &["-o", "row"],
        &["-o", "<fid> <ip> <time> <F-USER> <msg>"],
        &["-vv", "--no-check-all", "-D", "--print-all-matched", "--print-no-missed"],
    ];
    let mut both = Both::start();
    let filters = fs::read_dir(fail2ban().config().join("filter.d")).expect("the package has filters");
    let mut names: Vec<String> = filters
        .filter_map(|file| Some(file.ok()?.file_name().to_string_lossy().strip_suffix(".conf")?.to_owned()))
        .collect();
    names.sort();
    for name in names {
        let log = sample(&name);
        if !log.is_file() {
            continue;
        }
        let log = log.display().to_string();
        for options in OPTIONS {
            both.compare(&[options, &[&log, &name]].concat());
        }
    }
    assert!(both.compared > 400, "the samples are not all there");
    both.end("stock filters on their samples");
}

#[test]
fn every_option_prints_what_fail2ban_regex_prints() {
    const OPTIONS: [&[&str]; 24] = [
        &[],
        &["-v"],
        &["-vv"],
        &["--verbosity=1"],
        &["--VD"],
        &["-D"],
        &["-D", "-v", "--print-all-matched", "--print-all-ignored"],
        &["--print-all-matched"],
        &["--print-no-missed", "--print-no-ignored"],
        &["--no-check-all"],
        &["-L", "3"],
        &["-L2", "--print-all-matched"],
        &["-r"],
        &["--usedns", "no"],
        &["--TZ", "UTC+0200", "-o", "row"],
        &["-d", "%Y-%m-%d %H:%M:%S", "-v"],
        &["-o", "id"],
        &["-o", "ip"],
        &["-o", "msg"],
        &["-o", "row"],
        &["-o", "matches"],
        &["-o", "user"],
        &["-o", "nothing"],
        &[
            "-o",
            "<ip>|<F-USER>|<time>|<fid>|<failures>|<matches>|<msg>|<family>|<ip-rev>|<no>|<F-MLFID>|<raw-ticket>|<br>|<F-NO>",
        ],
    ];
    let sshd = sample("sshd").display().to_string();
    let three = format!("{LINE}\nfoo\n{LINE} \u{e9}\t'\"");
    let mut both = Both::start();
    for options in OPTIONS {
        for arguments in [
            &[LINE, "sshd"][..],
            &[LINE, EXPRESSION],
            &[&three, EXPRESSION, "foo"],
            &[&three, "^.*Failed.* from <HOST>.*<SKIPLINES>.*foo"],
            &[&sshd, "sshd[mode=aggressive]"],
            &[&sshd, EXPRESSION, "ssh2$"],
        ] {
            both.compare(&[options, arguments].concat());
        }
    }
    both.end("options");
}

#[test]
fn every_tag_stands_for_what_fail2ban_regex_prints() {
    let mut both = Both::start();
    let line = "2005-08-14 10:00:00 from 192.0.2.7 port 4 x";
    for tag in [
        "<ip-host>",
        "<F-*>",
        "<F-MATCHES>",
        "<F-FAILURES>",
        "<F-IP>",
        "<F-FID>",
        "<F-PORT>",
        "<F->",
        "<jail.name>",
        "<jail.found>",
        "<jail.found_total>",
        "<jail.banned>",
        "<jail.banned_total>",
        "<bantime>",
        "<ipmatches>",
        "<ipjailmatches>",
        "<ipfailures>",
        "<ipjailfailures>",
        "<ADDR> <ip4> <host> <name>",
        "<<ip>> <ip><fid>",
        "<matches>|<msg>|<restored>|<bancount>|<sp>|<br>",
    ] {
        both.compare(&["-o", tag, line, r"from <HOST> port <F-PORT/> (?P<user>x)"]);
        both.compare(&["-o", tag, &sample("sshd").display().to_string(), "sshd"]);
    }
    for (line, expression) in [
        ("from 10.0.0.0/8", "from <F-ID>.*</F-ID>"),
        ("from 2001:db8::/33", "from <F-ID>.*</F-ID>"),
        ("from 10.1.2.3/8", "from <SUBNET>"),
        ("from 2001:db8::/33", "from <ADDR>/<CIDR>"),
        ("from 10.1.2.3/8", "from <F-ID>.*</F-ID>"),
        ("from 1.2.3.4/255.255.0.0", "from <F-ID>.*</F-ID>"),
        ("from 192.0.2.7/32", "from <F-ID>.*</F-ID>"),
        ("from [2001:DB8::7]", "from <F-ID>.*</F-ID>"),
        ("from [nobody]", "from <F-ID>.*</F-ID>"),
        ("from somebody/5", "from <F-ID>.*</F-ID>"),
        ("user 10.1.2.3/8 from 192.0.2.7", "user <F-ID>.*</F-ID> from <HOST>"),
        ("from ::1", "from <F-ID>.*</F-ID>"),
        ("from 300.1.1.1", "from <F-ID>.*</F-ID>"),
        ("from ::ffff:192.0.2.7", "from <HOST>"),
    ] {
        for options in [&[][..], &["-r"], &["--usedns", "raw"]] {
            both.compare(&[options, &["-o", "<ip>|<fid>|<family>|<ip-rev>", line, expression]].concat());
        }
    }
    both.end("tags");
}

#[test]
fn host_names_are_resolved_as_fail2ban_regex_resolves_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (hosts, switch) = (dir.path().join("hosts"), dir.path().join("nsswitch.conf"));
    fs::write(
        &hosts,
        "127.0.0.1 localhost\n192.0.2.7 seven.example seven\n2001:db8::6 six.example\n\
         192.0.2.8 many.example\n192.0.2.9 many.example\n2001:db8::8 many.example\n\
         ::ffff:192.0.2.10 mapped.example\n",
    )
    .expect("it is writable");
    fs::write(&switch, "hosts: files\n").expect("it is writable");
    let mounts = vec![(hosts, "/etc/hosts"), (switch, "/etc/nsswitch.conf")];
    let mut both = Both::start_in(ZONE, mounts);
    const TAGS: &str = "<ip-host>|<ip>|<fid>|<family>|<ip-rev>|<F-DNS>";
    for whom in [
        "localhost",
        "seven.example",
        "seven",
        "six.example",
        "mapped.example",
        "nosuch.example",
        "192.0.2.7",
        "192.0.2.66",
        "2001:db8::6",
        "::ffff:192.0.2.7",
        "[2001:db8::6]",
    ] {
        let line = format!("2005-08-14 10:00:00 x from {whom} y");
        for dns in [
            &[][..],
            &["-r"],
            &["--usedns", "yes"],
            &["--usedns", "no"],
            &["--usedns", "raw"],
            &["--usedns", "nonsense"],
        ] {
            for form in [&[][..], &["-v", "-D"], &["-o", "row"], &["-o", TAGS]] {
                for expression in ["from <HOST> ", "from <DNS>"] {
                    both.compare(&[dns, form, &[&line, expression]].concat());
                }
            }
        }
    }
    // The real one has them in any order.
    let sorted = |ended: Ended| {
        let mut lines: Vec<_> = ended.out.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let several = ["-o", TAGS, "from many.example", "from <HOST>"].map(str::to_owned);
    let (real, ours) = (both.real(&several), both.ours(&several));
    assert_eq!(sorted(real), sorted(ours));
    both.end("host names");
}

#[test]
fn the_log_is_that_of_fail2ban_regex_down_to_info() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let foreign = dir.path().join("own.conf");
    fs::write(&foreign, "[Definition]\nfailregex = from <HOST>\n").expect("it is writable");
    let foreign = foreign.display().to_string();
    let hosts = dir.path().join("hosts");
    fs::write(&hosts, "192.0.2.7 seven.example\n").expect("it is writable");
    let switch = dir.path().join("nsswitch.conf");
    fs::write(&switch, "hosts: files\n").expect("it is writable");
    let journal = dir.path().join("one.journal");
    write_journal(&journal, &[sshd_entry(&[]), sshd_entry(&[("MESSAGE", b"x from seven.example")])]);
    let journal = format!("systemd-journal[journalfiles={}]", journal.display());
    let mut both =
        Both::start_in(ZONE_OF_JOURNALS, vec![(hosts, "/etc/hosts"), (switch, "/etc/nsswitch.conf")]);
    let sshd = sample("sshd").display().to_string();
    let names = "x from seven.example\nx from nosuch.example\nx from seven.example\nx from nosuch.example";
    for options in [
        &["-l", "info"][..],
        &["-l", "INFO", "-o", "row"],
        &["-l", "info", "-v"],
        &["-l", "info", "-vv"],
        &["-l", "msg"],
        &["-l", "15"],
        &["-l", "notice"],
        &["-l", "warning"],
        &["-l", "30", "--usedns", "yes"],
        &["-l", "error", "--usedns", "nonsense"],
        &["-l", "notset"],
        &["-l", "0"],
        &["-l", "31"],
        &["-l", "critical"],
        &["-l", "info", "-L", "2", "-d", "^%Y-%m-%d %H:%M:%S"],
        &["-l", "info", "-d", "%b %d %H:%M:%S"],
        &["-l", "info", "-d", "{NONE}"],
        &["-l", "info", "-d", "EPOCH"],
        &["-l", "info", "-d", "x {DATE}"],
        &["-l", "info", "-d", "%Q"],
        &["-l", "info", "-m", "_COMM=sshd + _COMM=x"],
        &["-l", ""],
        &["-l", "-5"],
    ] {
        for arguments in [
            &[LINE, EXPRESSION][..],
            &[LINE, "sshd"],
            &[LINE, "dovecot[mode=aggressive]"],
            &[LINE, &foreign],
            &[LINE, "from <HOS"],
            &[LINE, "from (<HOST>"],
            &[LINE, EXPRESSION, "("],
            &[names, "from <HOST>"],
            &["2005-02-30 10:00:00 x from 192.0.2.7", "from <HOST>"],
            &[&sshd, "sshd"],
            &[&journal, "sshd"],
            &[&journal, "from <HOST>"],
        ] {
            both.compare(&[options, arguments].concat());
        }
    }
    both.end("log");
}

#[test]
fn lines_dates_and_encodings_are_read_as_fail2ban_regex_reads_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("it is writable");
        path.display().to_string()
    };
    let mut bytes = Vec::new();
    for number in 0..50 {
        bytes.extend(format!("{LINE}\r\n# comment\n\nother line {number} \u{1b}[31m\n").bytes());
    }
    bytes.extend(b"2005-08-14 11:59:59 h sshd[2]: Invalid user \xff\xe9 from 192.0.2.8\n");
    bytes.extend(b"2005-08-14 11:59:59 h sshd[2]: Invalid user without-an-end from 192.0.2.9");
    let mixed = file("mixed", &bytes);
    let wide: Vec<u8> = format!("{LINE}\nx\u{a0a}\n").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wide = file("wide", &wide);
    let empty = file("empty", b"");
    let latin = file("latin", b"2005-08-14 11:59:59 h sshd[2]: Invalid user caf\xe9 \x80 from 192.0.2.8\n");
    let mut both = Both::start();
    for log in [&mixed, &empty, &latin] {
        for encoding in ["utf-8", "latin1", "ascii", "cp1252", "iso8859-15", "koi8-r"] {
            both.compare(&["-e", encoding, log, "sshd"]);
            both.compare(&["-e", encoding, "-o", "row", log, "sshd"]);
        }
        both.compare(&["--print-all-missed", "--print-all-matched", log, "sshd"]);
    }
    both.compare(&["-e", "utf-16le", &wide, "sshd"]);
    for (text, time) in [
        ("2005-08-14T10:00:00+0200", ""),
        ("2005-08-14T10:00:00.123Z", ""),
        ("Aug 14 11:59:58", ""),
        ("1124013599", ""),
        ("1124013599.25", "epoch"),
        ("@4000000042ff1b3e00000000", ""),
        ("[14/Aug/2005:11:59:58 +0200]", ""),
        ("", ""),
        ("", "{NONE}"),
        ("", "{DEFAULT}"),
        ("2005-08-14", "%Y-%m-%d"),
        ("14.8.2005", r"^%d\.%m\.%Y"),
        ("x 2005-08-14 10:00:00", "x {DATE}"),
        ("2005-02-30 10:00:00", ""),
    ] {
        let line = format!("{text} x from 192.0.2.7 y");
        let pattern = if time.is_empty() { vec![] } else { vec!["-d", time] };
        for options in [&[][..], &["-o", "row"], &["-v"], &["-o", "<time> <matches>"]] {
            both.compare(&[&pattern, options, &[&line, "from <HOST>"]].concat());
        }
    }
    for line in
        ["x from localhost y", "x from host.invalid y", "x from 192.030.0.6 y", "x from [2001:DB8::7] y"]
    {
        for options in
            [&[][..], &["-r"], &["--usedns", "no"], &["--usedns", "raw"], &["-o", "row"], &["-r", "-o", "ip"]]
        {
            both.compare(&[options, &[line, "from <HOST> "]].concat());
        }
    }
    both.end("lines, dates and encodings");
}

/// A field of a journal's entry.
type Field<'a> = (&'a str, &'a [u8]);

/// A journal of these entries; they are a second apart.
fn write_journal(file: &Path, entries: &[Vec<Field<'_>>]) {
    const MICROS: u64 = 1_000_003;
    let now: f64 = NOW.parse().expect("a constant");
    let mut export = Vec::new();
    for (number, entry) in (0..).zip(entries) {
        let realtime = (now as u64 - 100_000) * 1_000_000 + number * MICROS;
        let stamps = format!(
            "__REALTIME_TIMESTAMP={realtime}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={:032x}\n",
            number * MICROS + 1,
            7
        );
        export.extend(stamps.into_bytes());
        for (name, value) in entry {
            export.extend(name.bytes().chain(*b"\n"));
            export.extend(u64::try_from(value.len()).expect("it is short").to_le_bytes());
            export.extend(value.iter().chain(b"\n"));
        }
        export.push(b'\n');
    }
    fs::create_dir_all(file.parent().expect("it is in a folder")).expect("it is writable");
    let mut remote = Command::new("/lib/systemd/systemd-journal-remote")
        .arg("-o")
        .args([file, Path::new("-")])
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("systemd-journal-remote is installed");
    remote.stdin.take().expect("it is piped").write_all(&export).expect("it reads");
    assert!(remote.wait().expect("it ends").success());
}

/// An entry of sshd, with some fields more or others.
fn sshd_entry<'a>(changes: &[Field<'a>]) -> Vec<Field<'a>> {
    let fields: [Field<'_>; 6] = [
        ("_HOSTNAME", b"host"),
        ("_SYSTEMD_UNIT", b"sshd.service"),
        ("_COMM", b"sshd"),
        ("_PID", b"42"),
        ("SYSLOG_IDENTIFIER", b"sshd"),
        ("MESSAGE", b"Failed password for root from 192.0.2.7 port 4242 ssh2"),
    ];
    let is_changed = |name| changes.iter().any(|(changed, _)| *changed == name);
    let kept = fields.into_iter().filter(|(name, _)| !is_changed(*name));
    kept.chain(changes.iter().copied()).collect()
}

#[test]
fn the_journal_is_read_as_fail2ban_regex_reads_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let long = [&[b'x'; 7000][..], b" from 192.0.2.16"].concat();
    let longer = [b'x'; 100_000];
    let changes: [&[Field<'_>]; 21] = [
        &[],
        &[("_COMM", b"sshd-session"), ("MESSAGE", b"Invalid user x from 2001:DB8::7 port 4242")],
        &[("_SOURCE_REALTIME_TIMESTAMP", b"1795498270000005")],
        &[("SYSLOG_PID", b"007")],
        &[("SYSLOG_PID", b"abc")],
        &[("SYSLOG_PID", b"0")],
        &[("SYSLOG_PID", b"0x1f")],
        &[("SYSLOG_PID", b"-5")],
        &[("SYSLOG_PID", b"+1_0 ")],
        &[("SYSLOG_PID", b"1__0")],
        &[("MESSAGE", b"two\nlines from 192.0.2.12\n")],
        &[("MESSAGE", b"bad \xff\xe9 user from 192.0.2.13")],
        &[("MESSAGE", b"in two"), ("MESSAGE", b"parts from 192.0.2.14")],
        &[("MESSAGE", b"")],
        &[("MESSAGE", b"  spaces from 192.0.2.15  ")],
        &[("MESSAGE", b"# no comment from 192.0.2.15\t")],
        &[("MESSAGE", b"carriage return from 192.0.2.15\r")],
        &[("MESSAGE", &long)],
        &[("_HOSTNAME", b"h\xe9t")],
        &[("SYSLOG_IDENTIFIER", b"s\xe9d")],
        &[("SYSLOG_IDENTIFIER", b"")],
    ];
    let others: [Vec<Field<'_>>; 4] = [
        vec![("_SYSTEMD_UNIT", b"cron.service"), ("_COMM", b"cron"), ("MESSAGE", b"x from 192.0.2.9")],
        vec![("SYSLOG_IDENTIFIER", b"kernel"), ("MESSAGE", b"drop from 192.0.2.10")],
        vec![
            ("SYSLOG_IDENTIFIER", b"kernel"),
            ("_HOSTNAME", b"host"),
            ("_SOURCE_MONOTONIC_TIMESTAMP", b"1234567890"),
            ("MESSAGE", b"drop from 192.0.2.11"),
        ],
        vec![("_HOSTNAME", b"host")],
    ];
    let entries: Vec<_> = changes.into_iter().map(sshd_entry).chain(others).collect();
    let (one, two) = (dir.path().join("a/one.journal"), dir.path().join("b/two.journal"));
    write_journal(&one, &entries);
    let messages = [b"another from 192.0.2.77", &longer[..]];
    write_journal(&two, &messages.map(|message| sshd_entry(&[("MESSAGE", message)])));
    let folder = one.parent().expect("it is in a folder").display().to_string();
    let log = format!("systemd-journal[journalpath={folder}]");
    let mut both = Both::start_in(ZONE_OF_JOURNALS, Mounts::new());
    for options in [
        &[][..],
        &["-v", "--print-all-matched"],
        &["--print-all-matched", "-e", "latin1"],
        &["--print-all-matched", "-e", "ascii"],
        &["-e", "klingon"],
        &["-o", "row"],
        &["-o", "<ip> <time> <matches>"],
        &["-d", "^%Y-%m-%d", "-v"],
        &["-L", "3"],
        &["-m", "_COMM=sshd"],
        &["-m", "_COMM=sshd _COMM=cron _SYSTEMD_UNIT=sshd.service"],
        &["-m", "_COMM=cron + _SYSTEMD_UNIT=sshd.service _COMM=sshd-session"],
        &["-m", "+ _COMM=cron +"],
        &["-m", "SYSLOG_PID='+1_0 '"],
        &["-m", "_COMM=nosuch"],
        &["-m", "+"],
        &["-m", ""],
        &["-m", "''"],
        &["-m", "foo"],
        &["-m", "foo=bar"],
        &["-m", "'"],
        &["-m", "_COMM=a\\"],
        &["-m", "_COMM="],
    ] {
        for filter in ["from <HOST>", "sshd", "sshd[mode=aggressive, journalmatch='_COMM=sshd-session']"] {
            both.compare(&[options, &[&log, filter]].concat());
        }
    }
    let (one, two) = (one.display(), two.display());
    for log in [
        &format!("[journalfiles={one}]"),
        &format!("[journalfiles=\"{one}, {two}\"]"),
        &format!("[journalfiles=\"{one},{folder}/../*/*.journal\"]"),
        &format!("[journalfiles={}]", dir.path().join("*/t*").display()),
        &format!("[journalpath={}]", dir.path().display()),
        &format!("[journalpath={folder}, journalflags=4]"),
        &format!("[journalpath={folder}, namespace=x]"),
        &format!("[journalfiles={one}, namespace=x]"),
        &format!("[journalfiles={one}, journalflags=1]"),
        &format!("[journalfiles={one}, journalpath={folder}]"),
        "[journalfiles=/no/such*]",
        "[journalfiles=]",
        "[journalpath=/no/such]",
        "[journalpath=]",
        "[journalfiles=/etc/passwd]",
        "[journalflags=9999]",
        "[journalflags=x]",
        "[foo=bar]",
        "[rotated=on]",
        "[x",
    ] {
        both.compare(&[&format!("systemd-journal{log}"), "from <HOST>"]);
    }
    both.end("journal");
}

#[test]
fn the_journals_of_the_machine_and_their_namespaces_are_found_as_fail2ban_regex_finds_them() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let machine = fs::read_to_string("/etc/machine-id").expect("the machine has an id");
    let (machine, other) = (machine.trim(), "0123456789abcdef0123456789abcdef");
    for (number, path) in [
        format!("{machine}/system.journal"),
        format!("{machine}/user-1000.journal"),
        format!("{machine}.web/system.journal"),
        format!("{machine}.web/user-1000.journal"),
        format!("{machine}.+mail/system.journal"),
        format!("{other}/system.journal"),
        format!("{other}.web/system.journal"),
    ]
    .iter()
    .enumerate()
    {
        let message = format!("of {path} from 192.0.2.{number}");
        write_journal(
            &dir.path().join("journal").join(path),
            &[sshd_entry(&[("MESSAGE", message.as_bytes())])],
        );
    }
    let mut both = Both::start_in(ZONE_OF_JOURNALS, vec![(dir.path().to_owned(), "/var/log")]);
    let mut found = BTreeSet::new();
    for options in [
        "",
        "[]",
        "[journalflags=0]",
        "[journalflags=1]",
        "[journalflags=2]",
        "[journalflags=4]",
        "[journalflags=5]",
        "[journalflags=8]",
        "[journalflags=16]",
        "[journalflags=32]",
        "[namespace=web]",
        "[namespace=\"+mail\"]",
        "[namespace=\"*\"]",
        "[namespace=]",
        "[namespace=nosuch]",
        "[namespace=web, journalflags=0]",
        "[namespace=web, journalflags=1]",
        "[namespace=web, journalflags=32]",
        "x",
    ] {
        let log = format!("systemd-journal{options}");
        both.compare(&["--print-all-matched", &log, "from <HOST>"]);
        let arguments = ["-o", "ip", &log, "from <HOST>"].map(str::to_owned);
        found.insert(both.ours(&arguments).out);
    }
    both.end("journals of the machine");
    assert!(found.len() > 5, "{found:?}");
}

#[test]
fn what_is_wrong_ends_as_in_fail2ban_regex() {
    let config = fail2ban().config().display().to_string();
    let conf = format!("{config}/filter.d/sshd.conf");
    let stem = format!("{config}/filter.d/sshd");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let foreign = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("it is writable");
        path.display().to_string()
    };
    let own = foreign("own.conf", "[Definition]\nfailregex = from <HOST> <x>\nx = y\nmaxlines = 2\n");
    let own_with_options = format!("{own}[x=z]");
    let not_a_filter = foreign("none.conf", "what is this\n");
    let mut both = Both::start();
    for expression in [
        "Failed .* from <HOS",
        "Failed ( from <HOST>",
        "foo) <HOST>",
        "[a <HOST>",
        "*a <HOST>",
        "a** <HOST>",
        "a{3,2} <HOST>",
        r"\q <HOST>",
        "[z-a] <HOST>",
        "<HOST>(",
        "x(?:y <HOST>",
        "",
        " ",
        "nosuch",
        "sshd[mode=foo",
        "sshd[foo]",
        "sshd[mode=foo]",
        "sshd[a=b,c=\"d[e]\"]",
        "sshd.conf",
        "/no/such/sshd",
        &conf,
        &stem,
        &own,
        &own_with_options,
        &not_a_filter,
        "/etc/passwd",
        "<HOST>$",
        "^<ADDR> <F-USER>.*</F-USER>",
        "<F-ID>.*</F-ID>",
    ] {
        both.compare(&[LINE, expression]);
        both.compare(&["-vv", LINE, expression]);
        both.compare(&["-o", "id", LINE, expression]);
    }
    both.compare(&[LINE, EXPRESSION, "foo("]);
    both.compare(&[LINE, EXPRESSION, ""]);
    for options in [
        &["-d", "%Q"][..],
        &["--TZ", "foo"],
        &["--TZ", "ABCD"],
        &["-L", "-1"],
        &["-L", "0"],
        &["-L", "x"],
        &["-x"],
        &["--no-such"],
        &["--print-no"],
        &["--print-all-ignored=1"],
        &["--verbosity", "x"],
        &["-l", "foo"],
        &["-e", "klingon"],
        &["-o", "<bantime>"],
        &["-o", "<jail.found>"],
        &["-V"],
        &["--version"],
        &["-l", "critical", "-t"],
    ] {
        both.compare(&[options, &[LINE, EXPRESSION]].concat());
    }
    both.compare(&["-e", "klingon", "/etc/passwd", EXPRESSION]);
    both.compare(&["-L"]);
    both.compare(&["/no/such/file", "sshd"]);
    both.compare_all(&["-c", "/no/such/dir", LINE, "sshd"].map(str::to_owned));
    both.compare_all(&["-c", &format!("{config}/filter.d"), LINE, "sshd"].map(str::to_owned));

    // The help is in our own words: only its way out is compared.
    for arguments in [
        &["--help"][..],
        &[],
        &["one"],
        &["a", "b", "c", "d"],
        &["--print-no-missed", "--print-all-missed", "a", "b"],
    ] {
        let arguments: Vec<_> = arguments.iter().map(|text| (*text).to_owned()).collect();
        let (real, ours) = (both.real(&arguments), both.ours(&arguments));
        assert_eq!((real.status, &real.err), (ours.status, &ours.err), "{arguments:?}");
        assert!(ours.out.contains("--print-all-missed"), "{arguments:?}: {ours:?}");
    }
    both.end("what is wrong");
}

/// `f2b regex` in its own name, as a pipe sees it.
fn f2b(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_f2b"))
        .arg("regex")
        .args(arguments)
        .envs([("TZ", "UTC"), ("F2B_NOW", NOW)])
        .env_remove("F2B_USEDNS")
        .output()
        .expect("f2b can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a user reads when it fails.
fn complaint(arguments: &[&str]) -> String {
    let output = f2b(arguments);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_person_sees_the_part_that_matched_whom_it_charges_and_what_missed() {
    let lines = format!("{LINE}\nother\nfrom 192.0.2.9 ignored");
    let output = f2b(&[&lines, "for <F-USER>\\S+</F-USER> from <HOST>", "ignored$"]);
    let expected = "\
Log     2005-08-14 11:59:58 host sshd[1]: Failed password for root from 192.0.2.7 port 4242 ssh2
Filter  the expression given

Matched
     1  2005-08-14 11:59:58 host sshd[1]: Failed password for root from 192.0.2.7 port 4242 ssh2
                                                          ~~~~~~~~~~~~~~~~~~~~~~~
        failregex 1  192.0.2.7  2005-08-14 11:59:58  user=root

Missed
     2  other
     3  from 192.0.2.9 ignored

  Hits    #  failregex
     1    1  for <F-USER>\\S+</F-USER> from <HOST>

  Hits  date
     1  {^LN-BEG}ExYear(?P<_sep>[-/.])Month(?P=_sep)Day(?:T|  ?)24hour:Minute:Second(?:[.,]Microseconds)?(?:\\s*Zone offset)?

3 lines: 1 matched, of one offender; 2 missed
";
    assert_eq!((stdout(&output).as_str(), output.status.code()), (expected, Some(0)));
}

#[test]
fn a_terminal_is_safe_from_what_a_log_contains() {
    let output = f2b(&["\u{1b}]0;title\u{7} from 192.0.2.7", "from <HOST>"]);
    assert!(!stdout(&output).contains(['\u{1b}', '\u{7}']), "{output:?}");
    assert!(stdout(&output).contains("\\u{1b}]0;title\\u{7} from 192.0.2.7"), "{output:?}");
}

#[test]
fn nothing_found_is_no_error_and_a_missing_date_is_told() {
    let output = f2b(&["nothing here", "from <HOST>"]);
    assert!(output.status.success());
    assert!(
        stdout(&output).ends_with("1 line: none matched; 1 missed\nNo line has a date that the filter knows; -d tells what it looks like.\n"),
        "{output:?}"
    );
}

#[test]
fn errors_name_what_is_near_and_where_it_goes_wrong() {
    assert_eq!(
        complaint(&["-c", &fail2ban().config().display().to_string(), LINE, "ssh"]),
        format!(
            "f2b: there is no filter ssh in {}; did you mean sshd, selinux-ssh?\n",
            fail2ban().config().display()
        )
    );
    assert_eq!(
        complaint(&[LINE, "<HOST> port (\\d+"]),
        "f2b: filter <HOST> port (\\d+: failregex is no regular expression: missing ), unterminated subpattern at character 13\n\n  \
         <HOST> port (\\d+\n              ^\n"
    );
    assert_eq!(complaint(&["/no/such/file", "sshd"]), "f2b: /no/such/file is no file that can be read\n");
    assert!(complaint(&[LINE, "no host"]).contains("has no <HOST> to tell whose failure it is"));
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("log");
    fs::write(&path, format!("{LINE}\n").repeat(20_000)).expect("it is writable");
    let script = format!(
        "{} regex --print-all-matched {} '{EXPRESSION}' 2>{} | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_f2b"),
        path.display(),
        dir.path().join("err").display()
    );
    let output = Command::new("bash").arg("-c").arg(script).output().expect("bash is there");
    assert!(stdout(&output).ends_with("\n0\n"), "{output:?}");
    assert_eq!(fs::read_to_string(dir.path().join("err")).expect("it was written"), "");
}
