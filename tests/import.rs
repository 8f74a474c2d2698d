//! A real fail2ban has banned, and f2b takes over: from the database that its server wrote, and from what its client
//! prints; into an agent that runs, and for one that starts later.

#[path = "reference/mod.rs"]
mod reference;

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use f2b::{
    ban::Until,
    config::StoreSettings,
    store::{Store, StoredBan},
};
use reference::fail2ban;
use tempfile::TempDir;

const F2B: &str = env!("CARGO_BIN_EXE_f2b");

/// The real server with a jail `x`, whose failures are lines of `x.log`. Dropping it kills it.
struct Server {
    dir: TempDir,
    server: Child,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().display();
        let write = |file: &str, text: &str| {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().expect("it is in the directory")).expect("it is writable");
            fs::write(file, text).expect("it is writable");
        };
        write(
            "fail2ban.conf",
            &format!(
                "[Definition]\nloglevel = INFO\nlogtarget = {path}/server.log\nsyslogsocket = auto\n\
                 socket = {path}/sock\npidfile = {path}/pid\ndbfile = {path}/fail2ban.sqlite3\ndbpurgeage = 1d\n\
                 dbmaxmatches = 10\n"
            ),
        );
        write(
            "jail.conf",
            &format!(
                "[x]\nenabled = yes\nfilter = x\nbackend = polling\nlogpath = {path}/x.log\nmaxretry = 3\n\
                 bantime = 1h\nbantime.increment = true\nfindtime = 10m\nignoreself = no\naction = none\n"
            ),
        );
        write("filter.d/x.conf", "[Definition]\nfailregex = ^ <HOST> failed$\n");
        write("action.d/none.conf", "[Definition]\nactionban = true\n");
        write("x.log", "the first line\n");
        let log = File::create(dir.path().join("log")).expect("it is writable");
        let server = python("fail2ban-server", dir.path()).args(["-f", "start"]).stdout(log).spawn();
        let server = Self { server: server.expect("python3 is installed"), dir };
        server.wait_until("it answers", || server.client(&["ping"]).status.success());
        server.wait_until("the jail runs", || server.client(&["status", "x"]).status.success());
        server
    }

    fn client(&self, args: &[&str]) -> Output {
        python("fail2ban-client", self.dir.path()).args(args).output().expect("python3 is installed")
    }

    #[track_caller]
    fn ask(&self, args: &[&str]) -> String {
        let output = self.client(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints text")
    }

    #[track_caller]
    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is_so() {
            let log = fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "not so: {what}\n{log}");
            sleep(Duration::from_millis(50));
        }
    }

    /// As root would stop it. Its database stays.
    fn stop(mut self) -> TempDir {
        self.ask(&["stop"]);
        self.server.wait().expect("it ends");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a temporary directory"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After a stop, there is nobody to kill.
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

fn python(program: &str, dir: &Path) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", fail2ban().modules()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(fail2ban().modules().join("../../../bin").join(program)).arg("-c").arg(dir);
    command.args(["-s", &format!("{}/sock", dir.display())]).stdin(Stdio::null());
    command
}

fn f2b(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(F2B);
    command.args(args).arg("-c").arg(dir).arg("--socket").arg(dir.join("f2b.sock")).env("TZ", "UTC");
    command.stdin(Stdio::null());
    command
}

/// `YYYY-MM-DD HH:MM:SS`, local as the server reads it.
fn stamp() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn ends(mut bans: Vec<StoredBan>) -> Vec<(String, Option<u64>)> {
    bans.sort_by_key(|ban| ban.subject);
    let seconds = |until| match until {
        Until::Forever => None,
        Until::Time(end) => Some(end.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()),
    };
    bans.iter().map(|ban| (ban.subject.to_string(), seconds(ban.until))).collect()
}

/// What `get x banip --with-time` prints, as seconds: `IP \t2026-… + 600 = 2026-…`.
fn ends_there(printed: &str) -> Vec<(String, Option<u64>)> {
    let mut bans: Vec<_> = printed
        .lines()
        .map(|line| {
            let (ip, times) = line.split_once('\t').expect("a tab");
            let (_, end) = times.split_once(" = ").expect("an end");
            let time = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", end.trim()).expect("a time");
            let time = time.to_zoned(jiff::tz::TimeZone::system()).expect("it exists").timestamp();
            let is_endless = time.as_second() > 250_000_000_000;
            (ip.trim().to_owned(), (!is_endless).then(|| time.as_second().unsigned_abs()))
        })
        .collect();
    bans.sort_by_key(|(ip, _)| ip.parse::<std::net::IpAddr>().expect("an address"));
    bans
}

#[test]
fn a_servers_bans_counts_and_positions_are_taken_over() {
    let server = Server::start();
    let log = server.dir.path().join("x.log");
    let now = stamp();
    let lines = format!("{now} 192.0.2.9 failed\n").repeat(3);
    fs::write(&log, format!("the first line\n{lines}")).expect("it is writable");
    server.ask(&["set", "x", "banip", "192.0.2.1", "2001:db8::1"]);
    // Once more, and longer: it is a known offender now.
    server.ask(&["set", "x", "unbanip", "192.0.2.1"]);
    server.ask(&["set", "x", "banip", "192.0.2.1"]);
    server.wait_until("the failures ban", || server.ask(&["get", "x", "banip"]).contains("192.0.2.9"));
    // What it banned is written with the ban time of that moment, and a moment later.
    sleep(Duration::from_secs(2));
    server.ask(&["set", "x", "bantime", "-1"]);
    server.ask(&["set", "x", "banip", "192.0.2.3"]);
    sleep(Duration::from_secs(2));
    server.ask(&["set", "x", "bantime", "3600"]);
    let printed = server.ask(&["get", "x", "banip", "--with-time"]);
    let theirs = ends_there(&printed);
    let banned = server.ask(&["banned"]);
    let dir = server.stop();

    // For an agent that starts later.
    let database = dir.path().join("fail2ban.sqlite3");
    let state = dir.path().join("state");
    let import = |from: &Path, extra: &[&str]| {
        let output = f2b(dir.path(), &["import"]).arg(from).args(extra).output().expect("f2b starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("it prints text")
    };
    let state_dir = ["--state-dir", state.to_str().expect("it is text")];
    let said = import(&database, &state_dir);
    assert_eq!(said, "4 bans hold, 0 are over and count for the next; 1 files go on where they were read\n");
    let mut store = Store::open(&state, StoreSettings::default(), SystemTime::now()).expect("it is there");
    let stored = store.take_stored();
    drop(store);
    let ours = ends(stored.bans);
    // In its database, a ban keeps the ban time that it began with; in its memory, one without a time of its own has the
    // jail's. And there, times are whole seconds.
    let expected = theirs.iter().map(|(ip, end)| (ip, end.filter(|_| ip != "192.0.2.3")));
    let is_near = |a: Option<u64>, b: Option<u64>| {
        a.is_some() == b.is_some() && a.unwrap_or(0).abs_diff(b.unwrap_or(0)) <= 1
    };
    let is_same =
        ours.iter().zip(expected).all(|((ip, end), (theirs, its))| ip == theirs && is_near(*end, its));
    assert!(is_same && ours.len() == theirs.len(), "{ours:?}\n{printed}");
    let (source, position) = &stored.positions[0];
    assert_eq!(*source, f2b::source::file::source(&log));
    let length = fs::metadata(&log).expect("it is there").len().to_string();
    assert!(position.contains(&format!(" {length} ")), "{position}");
    let said = import(&database, &state_dir);
    assert!(said.starts_with("0 bans hold, 0 are over"), "a second time, there is nothing new: {said}");

    // Into an agent that runs, from both. It logs where the server did.
    let mut agent = f2b(dir.path(), &["run", "--dry-run"]).spawn().expect("f2b starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(dir.path().join("server.log")).unwrap_or_default().contains("Ready") {
        assert!(Instant::now() < deadline, "the agent does not start");
        sleep(Duration::from_millis(20));
    }
    let said = import(&database, &[]);
    let list = f2b(dir.path(), &["banned"]).output().expect("f2b starts");
    fs::write(dir.path().join("banned.txt"), banned).expect("it is writable");
    let again = import(&dir.path().join("banned.txt"), &[]);
    let nonsense =
        f2b(dir.path(), &["import"]).arg(dir.path().join("jail.conf")).output().expect("f2b starts");
    agent.kill().expect("a child can be killed");
    agent.wait().expect("a child can be waited for");
    assert!(said.starts_with("4 bans hold, 0 are over"), "{said}");
    assert!(again.starts_with("4 bans hold, 0 are over"), "{again}");
    let list = String::from_utf8(list.stdout).expect("it prints text");
    for (ip, _) in theirs {
        assert!(list.contains(&format!("{ip} ")), "{list}");
    }
    assert!(list.lines().any(|line| line.starts_with("192.0.2.3 ") && line.contains("forever")), "{list}");
    let error = String::from_utf8_lossy(&nonsense.stderr).into_owned();
    assert!(
        error.contains("it is neither fail2ban's database nor what `fail2ban-client banned` prints"),
        "{error}"
    );
}
