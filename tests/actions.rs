//! Actions: run beside the bans, with what a ban tells, and never by what an attacker writes.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    fs::{self, File},
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{Agent, PATIENCE, f2b_ok};
use lab::{Lab, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;

/// A jail with an action of the test's own, which writes into a file.
struct Recorded<'lab> {
    lab: &'lab Lab,
}

impl<'lab> Recorded<'lab> {
    /// Writes the action's file; `FILE` in it is the record.
    fn new(lab: &'lab Lab, action: &str) -> Self {
        let this = Self { lab };
        this.action("recorder", action);
        this
    }

    fn action(&self, name: &str, text: &str) {
        let actions = self.lab.dir().join("config/action.d");
        fs::create_dir_all(&actions).expect("the lab's directory is writable");
        let text = text.replace("FILE", &self.file().display().to_string());
        fs::write(actions.join(format!("{name}.conf")), text).expect("the lab's directory is writable");
    }

    fn file(&self) -> PathBuf {
        self.lab.dir().join("record")
    }

    /// What the action has written so far.
    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn wait_for(&self, expected: &[&str]) {
        let mut lines = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while lines != expected {
            assert!(Instant::now() < deadline, "recorded: {lines:#?}\nexpected: {expected:#?}");
            std::thread::sleep(Duration::from_millis(10));
            lines = self.lines();
        }
    }
}

/// The log of a service, in a form that puts everything into a client's hands.
fn fail(lab: &Lab, attacker: IpAddr, user: &str) {
    let log = lab.dir().join("service.log");
    let mut log =
        File::options().create(true).append(true).open(log).expect("the lab's directory is writable");
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00");
    writeln!(log, "{now} failed {attacker} {user}").expect("the lab's directory is writable");
}

/// One failure is enough. `banaction` is a firewall's, so that the kernel drops, too.
fn jail(lab: &Lab, more: &str) -> String {
    let config = lab.dir().join("config");
    for (folder, name, text) in [
        ("filter.d", "service.conf", "[Definition]\nfailregex = ^\\s*failed <ADDR> <F-USER>.*</F-USER>$\n"),
        ("action.d", "iptables-allports.conf", "[Definition]\nactionban = echo never\n"),
    ] {
        fs::create_dir_all(config.join(folder)).expect("the lab's directory is writable");
        fs::write(config.join(folder).join(name), text).expect("the lab's directory is writable");
    }
    let log = lab.dir().join("service.log");
    File::options().create(true).append(true).open(&log).expect("the lab's directory is writable");
    format!(
        "[sshd]\nenabled = false\n[service]\nenabled = true\nbackend = polling\nmaxretry = 1\nlogpath = {}\n{more}\n",
        log.display()
    )
}

const ACTION: &str = "
[Definition]
actionstart = echo \"start <name>\" >> FILE
actionstop = echo \"stop <name>\" >> FILE
actionban = echo \"ban <ip> <family> <failures> <bantime> <restored> <name> <F-USER>\" >> FILE
actionunban = echo \"unban <ip> <failures>\" >> FILE
actionprolong = echo \"prolong <ip> <bantime>\" >> FILE
";

#[test]
fn a_ban_and_its_end_are_told_to_the_action() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(&lab, ACTION);
    let config = jail(&lab, "bantime = 1h\naction = iptables-allports\n  recorder[name=%(__name__)s]");
    let mut agent = Agent::start(&lab, &config);
    recorded.wait_for(&["start service"]);
    fail(&lab, attacker_v4(7), "root");
    let banned = "ban 198.51.100.7 inet4 1 3600 0 service root";
    let banned = banned.replace("198.51.100.7", &attacker_v4(7).to_string());
    recorded.wait_for(&["start service", &banned]);
    assert!(!lab.connects(attacker_v4(7)), "the kernel drops, whatever the action does");
    f2b_ok(&lab, &["unban", &attacker_v4(7).to_string()]);
    let unbanned = format!("unban {} 1", attacker_v4(7));
    recorded.wait_for(&["start service", &banned, &unbanned]);
    fail(&lab, attacker_v6(7), "a b");
    let banned_v6 = format!("ban {} inet6 1 3600 0 service a b", attacker_v6(7));
    recorded.wait_for(&["start service", &banned, &unbanned, &banned_v6]);

    // A stop ends what was begun, and unbans nobody.
    agent.process.signal(Signal::SIGTERM);
    assert!(agent.process.wait(PATIENCE).success());
    recorded.wait_for(&["start service", &banned, &unbanned, &banned_v6, "stop service"]);
    assert!(!lab.connects(attacker_v6(7)), "stopped, the ban holds");
}

#[test]
fn a_restart_repeats_bans_only_to_actions_that_want_it() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(&lab, ACTION);
    recorded.action(
        "mailer",
        "[Definition]\nnorestored = 1\nactionban = echo \"mail <ip>\" >> FILE\nactionunban = echo \"mail unban <ip>\" >> FILE\n",
    );
    let config = jail(&lab, "bantime = 1h\naction = recorder\n  mailer");
    let mut agent = Agent::start(&lab, &config);
    fail(&lab, attacker_v4(7), "root");
    let ip = attacker_v4(7);
    let (banned, mailed) = (format!("ban {ip} inet4 1 3600 0 service root"), format!("mail {ip}"));
    recorded.wait_for(&["start service", &banned, &mailed]);
    agent.stop();
    let mut agent = Agent::start(&lab, &config);
    wait_until(PATIENCE, "the ban is repeated", || recorded.lines().len() == 6);
    let restored = recorded.lines().pop().expect("six lines");
    assert_eq!(restored, format!("ban {ip} inet4 1 3600 1 service root"), "with what led to it");
    // Its end is news for both.
    f2b_ok(&lab, &["unban", &ip.to_string()]);
    wait_until(PATIENCE, "both are told of the end", || recorded.lines().len() == 8);
    let lines = recorded.lines();
    assert_eq!(lines[3..5], ["stop service", "start service"]);
    assert_eq!(lines[6..], [format!("unban {ip} 1"), format!("mail unban {ip}")]);
    assert_eq!(lines.iter().filter(|line| **line == mailed).count(), 1, "no mail twice: {lines:#?}");
    agent.stop();
}

#[test]
fn what_ended_while_no_agent_ran_is_undone_at_the_next_start() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = echo \"ban <ip>\" >> FILE\nactionunban = echo \"unban <ip> <F-USER> <matches>\" >> FILE\n",
    );
    for (name, options) in [("mailer", "norestored = 1"), ("set", "actionflush = echo flush >> FILE")] {
        let commands =
            format!("actionban = echo {name} ban >> FILE\nactionunban = echo {name} unban >> FILE");
        recorded.action(name, &format!("[Definition]\n{options}\n{commands}\n"));
    }
    let config = jail(&lab, "bantime = 4s\naction = recorder\n  mailer\n  set");
    let mut agent = Agent::start(&lab, &config);
    let (ended, seen) = (attacker_v4(7), attacker_v4(8));
    fail(&lab, seen, "seen");
    wait_until(PATIENCE, "an end that an agent sees", || recorded.lines().len() == 6);
    fail(&lab, ended, "a b; reboot");
    let banned = Instant::now();
    wait_until(PATIENCE, "the ban is told", || recorded.lines().len() == 9);
    agent.stop();
    let before = recorded.lines();
    assert_eq!(before.last().map(String::as_str), Some("flush"));
    std::thread::sleep(Duration::from_secs(5).saturating_sub(banned.elapsed()));
    for _ in 0..2 {
        let mut agent = Agent::start(&lab, &config);
        wait_until(PATIENCE, "the end is told", || recorded.lines().len() > before.len());
        agent.stop();
        let told = &recorded.lines()[before.len()..];
        let start = format!("unban {ended} a b; reboot ");
        assert!(
            told.len() == 1
                && told[0].starts_with(&start)
                && told[0].ends_with(&format!("failed {ended} a b; reboot")),
            "once, and only to the one that keeps its bans: {told:#?}"
        );
    }
}

#[test]
fn all_bans_end_at_once_for_an_action_that_can_flush() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = echo \"ban <ip>\" >> FILE\nactionunban = echo \"unban <ip>\" >> FILE\nactionflush = echo flush >> FILE\n",
    );
    recorded.action(
        "other",
        "[Definition]\nactionban = true\nactionunban = echo \"other unban <ip> <F-USER>\" >> FILE.other\n",
    );
    let agent = Agent::start(&lab, &jail(&lab, "bantime = 1h\naction = recorder\n  other"));
    let all = [attacker_v4(7), attacker_v4(8), attacker_v6(7)];
    all.iter().for_each(|attacker| fail(&lab, *attacker, "root"));
    wait_until(PATIENCE, "all are banned", || recorded.lines().len() == all.len());
    f2b_ok(&lab, &["unban", "--all"]);
    let file = recorded.file().with_extension("other");
    let others = || fs::read_to_string(&file).unwrap_or_default();
    wait_until(PATIENCE, "the one that cannot flush is told of each", || {
        others().lines().count() == all.len()
    });
    for attacker in all {
        assert!(others().contains(&format!("other unban {attacker} root\n")), "{}", others());
        assert!(agent.ban_of(attacker).is_none());
    }
    fail(&lab, all[0], "root");
    wait_until(PATIENCE, "the next ban is one", || recorded.lines().len() == all.len() + 2);
    let lines = recorded.lines();
    assert_eq!(lines[all.len()..], ["flush".to_owned(), format!("ban {}", all[0])]);
}

#[test]
fn an_action_hears_of_all_bans_of_an_address() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = echo \"<ipfailures> <ipjailfailures> <ipmatches> <jail.banned> <jail.banned_total> <jail.found_total>\" >> FILE\n",
    );
    // One that is ended by hand is forgotten.
    let agent = Agent::start(&lab, &jail(&lab, "bantime = 5s\naction = recorder"));
    let attacker = attacker_v4(7);
    fail(&lab, attacker, "first");
    wait_until(PATIENCE, "the first ban is recorded", || recorded.lines().len() == 1);
    wait_until(PATIENCE, "the ban is over", || agent.process.log().contains("Unban"));
    fail(&lab, attacker, "second");
    wait_until(PATIENCE, "the second ban is recorded", || recorded.lines().len() == 3);
    let lines = recorded.lines();
    assert!(lines[0].starts_with("1 1 ") && lines[0].ends_with("first 1 1 1"), "{lines:#?}");
    assert!(lines[1].starts_with("2 2 ") && lines[1].ends_with("first"), "{lines:#?}");
    assert!(lines[2].ends_with("second 1 2 2"), "{lines:#?}");
}

#[test]
fn an_action_that_hangs_holds_up_no_ban_and_no_other_address() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = if [ \"<F-USER>\" = hang ]; then sleep 1000; fi; echo \"ban <ip>\" >> FILE\nactionunban = echo \"unban <ip>\" >> FILE\n",
    );
    let mut agent = Agent::start(&lab, &jail(&lab, "bantime = 1h\naction = iptables-allports\n  recorder"));
    for last in 7..20 {
        fail(&lab, attacker_v4(last), "hang");
    }
    agent.wait_for_ban(attacker_v4(19));
    // With thirteen commands that hang, the next address is banned at once, and its action is run.
    let start = Instant::now();
    fail(&lab, attacker_v4(30), "root");
    wait_until(PATIENCE, "the next one is banned", || !lab.connects(attacker_v4(30)));
    let banned_after = start.elapsed();
    recorded.wait_for(&[&format!("ban {}", attacker_v4(30))]);
    println!(
        "beside 13 hanging actions: banned after {banned_after:?}, action run after {:?}",
        start.elapsed()
    );
    // In order for one address: while its ban hangs, its end waits.
    f2b_ok(&lab, &["unban", &attacker_v4(7).to_string(), &attacker_v4(30).to_string()]);
    recorded.wait_for(&[&format!("ban {}", attacker_v4(30)), &format!("unban {}", attacker_v4(30))]);
    // A stop does not wait for what hangs, and leaves none of it behind.
    agent.process.signal(Signal::SIGTERM);
    assert!(agent.process.wait(Duration::from_secs(60)).success());
    let left =
        lab.server("sh").args(["-c", "grep -l 'sleep.1000' /proc/[0-9]*/cmdline 2>/dev/null; true"]).output();
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    let sleeping = left.lines().filter(|path| fs::read(path).is_ok_and(|text| text.starts_with(b"sleep\0")));
    assert_eq!(sleeping.count(), 0, "{left}");
}

#[test]
fn an_action_that_takes_too_long_is_killed_and_reported() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = echo begun >> FILE; echo some output; sleep 1000; echo never >> FILE\n",
    );
    let agent = Agent::start(&lab, &jail(&lab, "action = recorder[timeout=1]"));
    fail(&lab, attacker_v4(7), "root");
    let expected = [
        "timed out after 1 seconds.",
        "stdout: 'some output'",
        "killed with SIGTERM (return code: -15)",
        "Failed to execute ban jail 'service' action 'recorder' info 'ActionInfo({'fid': ",
    ];
    for text in expected {
        wait_until(PATIENCE, text, || agent.process.log().contains(text));
    }
    assert_eq!(recorded.lines(), ["begun"]);
}

#[test]
fn what_attackers_write_never_becomes_a_command() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]\nactionban = printf '%%s\\n' \"<F-USER>\" >> FILE; printf '%%s\\n' \"<matches>\" >> FILE.matches\n",
    );
    let pwned = lab.dir().join("pwned");
    let touch = format!("touch {}", pwned.display());
    let hostile = [
        format!("; {touch} ;"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("\"; {touch}; echo \""),
        format!("'; {touch}; echo '"),
        format!("\\\"; {touch} #"),
        format!("| {touch}"),
        format!("& {touch} &"),
        format!("> {}", pwned.display()),
        format!("<F-USER> <ip> $0 $f2bV_matches ${{IFS}}{touch}"),
        format!("%s%n\\n{touch}"),
        "* ~ ? [a-z] {a,b} ! ^x".to_owned(),
    ];
    let agent = Agent::start(&lab, &jail(&lab, "bantime = 1h\naction = recorder"));
    for (n, user) in hostile.iter().enumerate() {
        let attacker = attacker_v4(7 + u8::try_from(n).expect("few"));
        fail(&lab, attacker, user);
        // One after the other, so that the record has their order.
        wait_until(PATIENCE, user, || recorded.lines().len() > n);
    }
    assert_eq!(recorded.lines(), hostile, "{}", agent.process.log());
    let matches = fs::read_to_string(recorded.file().with_extension("matches")).unwrap_or_default();
    for user in &hostile {
        assert!(matches.contains(user.as_str()), "{user}\n{matches}");
    }
    assert!(!pwned.exists(), "a command of an attacker was run");
}

#[test]
fn what_an_action_relies_on_is_checked_and_repaired() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(
        &lab,
        "[Definition]
actionstart = mkdir -p FILE.d && echo start >> FILE
actioncheck = test -d FILE.d
actionban = touch FILE.d/<ip> && echo \"ban <ip>\" >> FILE
actionreban = touch FILE.d/<ip> && echo \"reban <ip>\" >> FILE
actionstop = rm -r FILE.d; echo stop >> FILE
",
    );
    let mut agent = Agent::start(&lab, &jail(&lab, "bantime = 1h\naction = recorder"));
    let (first, second) = (attacker_v4(7), attacker_v4(8));
    fail(&lab, first, "root");
    recorded.wait_for(&["start", &format!("ban {first}")]);
    let made = recorded.file().with_extension("d");
    fs::remove_dir_all(&made).expect("the action made it");
    fail(&lab, second, "root");
    let expected = ["start".into(), format!("ban {first}"), "stop".into(), "start".into()];
    let expected = [expected.as_slice(), &[format!("ban {second}"), format!("reban {first}")]].concat();
    recorded.wait_for(&expected.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(made.join(first.to_string()).exists() && made.join(second.to_string()).exists());
    assert!(agent.process.log().contains("Invariant check failed. Trying to restore a sane environment"));
    agent.stop();
    assert!(!made.exists());
}

#[test]
fn a_reload_begins_ends_and_changes_actions() {
    let lab = Lab::network_only();
    let recorded = Recorded::new(&lab, ACTION);
    recorded.action(
        "other",
        "[Definition]\nactionstart = echo \"other start\" >> FILE\nactionreload = echo \"other reload <what>\" >> FILE\nactionban = echo \"other ban\" >> FILE\nactionflush = echo \"other flush\" >> FILE\nactionstop = echo \"other stop\" >> FILE\n[Init]\nwhat = 1\n",
    );
    let agent = Agent::start(&lab, &jail(&lab, "bantime = 1h\naction = recorder"));
    fail(&lab, attacker_v4(7), "root");
    wait_until(PATIENCE, "the ban is recorded", || recorded.lines().len() == 2);
    let reload = |actions: &str| {
        let config = jail(&lab, &format!("bantime = 1h\naction = {actions}"));
        fs::write(lab.dir().join("config/jail.local"), config).expect("the lab's directory is writable");
        f2b_ok(&lab, &["reload"]);
    };
    reload("recorder\n  other");
    wait_until(PATIENCE, "the new one begins", || {
        recorded.lines().last().is_some_and(|line| line == "other start")
    });
    reload("recorder\n  other[what=2]");
    wait_until(PATIENCE, "the changed one reloads", || {
        recorded.lines().last().is_some_and(|line| line == "other reload 2")
    });
    reload("other[what=2]");
    let end = [format!("unban {} 1", attacker_v4(7)), "stop service".into()];
    wait_until(PATIENCE, "the removed one undoes what it did", || recorded.lines().ends_with(&end));
    fail(&lab, attacker_v4(8), "root");
    wait_until(PATIENCE, "the other one goes on", || {
        recorded.lines().last().is_some_and(|line| line == "other ban")
    });
    drop(agent);
}
