//! The real binary without privileges: a dry run that decides everything and enforces nothing.

use std::{
    fs::{self, File},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const F2B: &str = env!("CARGO_BIN_EXE_f2b");

/// A dry run in a directory of its own. Dropping it kills it.
struct DryRun {
    dir: TempDir,
    agent: Child,
}

impl DryRun {
    fn start(jail_local: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("jail.local"), jail_local).expect("it is writable");
        let log = File::create(dir.path().join("log")).expect("it is writable");
        let agent = f2b(dir.path(), &["run", "--dry-run"]).stderr(log).spawn().expect("f2b starts");
        let run = Self { dir, agent };
        run.wait_for("Ready");
        run
    }

    fn ask(&self, args: &[&str]) -> Output {
        f2b(self.dir.path(), args).output().expect("f2b starts")
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert!(output.status.success(), "f2b {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let output = self.ask(args);
        assert_eq!(output.status.code(), Some(1), "f2b {args:?} should have failed");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).expect("f2b prints JSON")
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        while !log().contains(text) {
            assert!(Instant::now() < deadline, "the log lacks {text:?}:\n{}", log());
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for DryRun {
    fn drop(&mut self) {
        self.agent.kill().expect("a child can be killed");
        self.agent.wait().expect("a child can be waited for");
    }
}

fn f2b(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(F2B);
    command.args(args).arg("-c").arg(dir).arg("--socket").arg(dir.join("f2b.sock"));
    command.env("TZ", "UTC").stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

#[test]
fn bans_by_hand_are_listed_and_lifted() {
    let run = DryRun::start("[sshd]\nbantime = -1\n");
    assert_eq!(run.ok(&["ban", "sshd", "192.0.2.7", "2001:db8::7"]).lines().count(), 2);
    assert_eq!(
        run.ok(&["banned"]),
        "ADDRESS      UNTIL    DROPPED  JAIL\n\
         192.0.2.7    forever        0  sshd\n\
         2001:db8::7  forever        0  sshd\n"
    );
    assert!(run.ok(&["status", "sshd"]).ends_with("`- Banned IP list:\t192.0.2.7 2001:db8::7\n"));
    assert_eq!(run.ok(&["unban", "192.0.2.7", "192.0.2.8"]), "192.0.2.7 is free\n192.0.2.8 was not banned\n");
    assert_eq!(run.ok(&["unban", "--all"]), "2001:db8::7 is free\n");
    assert_eq!(run.ok(&["banned"]), "Nothing is banned.\n");
    assert_eq!(run.json(&["status", "sshd", "--json"])["total_banned"], 2);
}

#[test]
fn a_ban_ends_by_itself() {
    let run = DryRun::start("[sshd]\nbantime = 1s\n");
    run.ok(&["ban", "sshd", "192.0.2.7"]);
    assert_eq!(run.json(&["banned", "--json"])["bans"][0]["jails"][0], "sshd");
    run.wait_for("Unban");
    assert_eq!(run.ok(&["banned"]), "Nothing is banned.\n");
}

#[test]
fn a_dry_run_says_that_it_enforces_nothing() {
    let run = DryRun::start("");
    let status = run.ok(&["status"]);
    assert!(status.starts_with("Status\n|- Number of jail:\t1\n|- Jail list:\tsshd\n"), "{status}");
    assert!(status.contains("none (dry run: nothing is enforced)"), "{status}");
}

#[test]
fn what_must_not_be_banned_is_refused() {
    let run = DryRun::start("[sshd]\nignoreip = 192.0.2.0/24\n");
    assert_eq!(run.refused(&["ban", "sshd", "192.0.2.7"]), "f2b: not banned: 192.0.2.7: ignoreip names it\n");
    assert_eq!(run.ok(&["banned"]), "Nothing is banned.\n");
    let unknown = run.refused(&["status", "nginx"]);
    assert_eq!(unknown, "f2b: there is no jail nginx; there are: sshd\n");
}

#[test]
fn the_socket_is_for_its_owner_alone_and_goes_with_the_agent() {
    let mut run = DryRun::start("");
    let socket = run.dir.path().join("f2b.sock");
    let mode = fs::metadata(&socket).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = Command::new("kill").arg(run.agent.id().to_string()).status().expect("kill starts");
    assert!(status.success());
    assert!(run.agent.wait().expect("a child can be waited for").success(), "SIGTERM stops cleanly");
    assert!(!socket.exists());
    assert!(run.refused(&["status"]).starts_with("f2b: no agent is running"));
}

#[test]
fn nonsense_on_the_socket_gets_an_answer_and_does_no_harm() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let run = DryRun::start("");
    let mut stream = UnixStream::connect(run.dir.path().join("f2b.sock")).expect("the agent listens");
    for nonsense in ["\n", "{}\n", "{\"request\":\"ban\"}\n", "\u{0}\u{1}\n", "[[[[[[\n"] {
        stream.write_all(nonsense.as_bytes()).expect("the agent reads");
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer).expect("the agent answers");
        assert!(answer.starts_with("{\"answer\":\"error\",\"message\":\"this is no request"), "{answer}");
    }
    assert_eq!(run.json(&["status", "--json"])["banned"], 0);
}

#[test]
fn the_socket_of_a_dead_agent_is_no_obstacle() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    drop(UnixListener::bind(dir.path().join("f2b.sock")).expect("a free path"));
    let log = File::create(dir.path().join("log")).expect("it is writable");
    let agent = f2b(dir.path(), &["run", "--dry-run"]).stderr(log).spawn().expect("f2b starts");
    DryRun { dir, agent }.wait_for("Ready");
}

impl DryRun {
    /// With a jail `[x]` that has these options, and the log that it reads; three failures ban.
    fn start_with(options: &str) -> (Self, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).expect("it is writable");
        fs::create_dir(dir.path().join("filter.d")).expect("it is writable");
        write("filter.d/x.conf", "[Definition]\nfailregex = ^ <HOST> failed as <F-USER>.*</F-USER>$\n");
        write("x.log", "");
        let jail = format!(
            "[sshd]\nenabled = no\n[x]\nenabled = yes\nfilter = x\nbackend = polling\nlogpath = {}/x.log\n\
             maxretry = 3\nbantime = 1h\nignoreself = no\nignoreip =\n{options}\n",
            dir.path().display()
        );
        // The last of two lines counts in no dialect: an option stands once.
        let jail = if options.contains("ignoreip") { jail.replace("ignoreip =\n", "") } else { jail };
        write("jail.local", &jail);
        let log = File::create(dir.path().join("log")).expect("it is writable");
        let agent = f2b(dir.path(), &["run", "--dry-run"]).stderr(log).spawn().expect("f2b starts");
        let lines = dir.path().join("x.log");
        let run = Self { dir, agent };
        run.wait_for("Ready");
        (run, lines)
    }

    fn banned(&self) -> Vec<String> {
        let status = self.json(&["status", "x", "--json"]);
        let banned = status["banned"].as_array().expect("a list").iter();
        banned.map(|address| address.as_str().expect("text").to_owned()).collect()
    }
}

/// Three failures of each of these.
fn fail(log: &Path, hosts: &[&str], user: &str) {
    use std::io::Write as _;
    let now =
        jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut file = fs::OpenOptions::new().append(true).open(log).expect("it is there");
    for host in hosts.iter().cycle().take(3 * hosts.len()) {
        writeln!(file, "{now} {host} failed as {user}").expect("it is writable");
    }
}

#[test]
fn ignorecommand_decides_and_a_hanging_one_delays_nobody_else() {
    let command = "case <ip> in 192.0.2.1) exit 0;; 192.0.2.2) exec sleep 1000;; esac; test <F-USER> = root";
    let (run, log) = DryRun::start_with(&format!("ignorecommand = {command}"));
    fail(&log, &["192.0.2.1", "192.0.2.2", "192.0.2.3"], "$(touch pwned; exit 1)`id`");
    run.wait_for("ip=192.0.2.3 until=");
    run.wait_for("ip=192.0.2.1");
    assert_eq!(run.banned(), ["192.0.2.3"]);
    fail(&log, &["192.0.2.4"], "root");
    run.wait_for("ip=192.0.2.4");
    assert_eq!(run.banned(), ["192.0.2.3"]);
    assert!(!Path::new("pwned").exists() && !run.dir.path().join("pwned").exists());
}

#[test]
fn an_answer_that_holds_is_not_asked_for_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let asked = dir.path().join("asked");
    let options = format!(
        "ignorecommand = echo <ip> >> {}; exit 0\nignorecache = key=\"<ip>\", max-count=10, max-time=1h",
        asked.display()
    );
    let (run, log) = DryRun::start_with(&options);
    fail(&log, &["192.0.2.1"], "a");
    run.wait_for("ip=192.0.2.1");
    fail(&log, &["192.0.2.1", "192.0.2.2"], "a");
    run.wait_for("ip=192.0.2.2");
    assert_eq!(fs::read_to_string(&asked).expect("it was asked"), "192.0.2.1\n192.0.2.2\n");
    assert!(run.banned().is_empty());
}

#[test]
fn names_and_files_of_ignoreip_are_ignored_and_others_are_banned() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let list = dir.path().join("list");
    fs::write(&list, "# ours\n192.0.2.0/30\n").expect("it is writable");
    let (run, log) = DryRun::start_with(&format!("ignoreip = localhost file:{}", list.display()));
    fail(&log, &["127.0.0.1", "192.0.2.1", "192.0.2.9"], "a");
    run.wait_for("ip=192.0.2.9 until=");
    assert_eq!(run.banned(), ["192.0.2.9"]);
    run.wait_for("a name or file of ignoreip names it");
}

#[test]
fn host_names_are_looked_up_where_usedns_says_so() {
    for (usedns, banned, said) in [
        ("warn", &["127.0.0.1"][..], Some("Determined IP using DNS Lookup: localhost = ")),
        ("yes", &["127.0.0.1"], None),
        ("no", &[], None),
        ("raw", &[], None),
    ] {
        let (run, log) = DryRun::start_with(&format!("usedns = {usedns}"));
        fail(&log, &["localhost", "no.such.name.invalid"], "a");
        fail(&log, &["192.0.2.9"], "a");
        run.wait_for("ip=192.0.2.9 until=");
        if !banned.is_empty() {
            run.wait_for("ip=127.0.0.1 until=");
        }
        let found: Vec<_> = run.banned().into_iter().filter(|ip| ip != "192.0.2.9" && ip != "::1").collect();
        assert_eq!(found, banned, "{usedns}");
        let text = fs::read_to_string(run.dir.path().join("log")).expect("a log");
        assert_eq!(text.contains("Determined IP"), said.is_some(), "{text}");
        assert!(said.is_none_or(|said| text.contains(said)), "{text}");
    }
}
