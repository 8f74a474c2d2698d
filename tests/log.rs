//! The agent's own log: in fail2ban's format where the configuration asks for it, and read by recidive.

#[path = "common/mod.rs"]
mod common;
mod lab;
mod reference;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Agent, PATIENCE, f2b_ok};
use lab::{Lab, attacker_v4, wait_until};
use nix::sys::signal::Signal;
use reference::fail2ban;

/// Lays fail2ban's own recidive filter, and where the log goes, into the lab's configuration.
fn configure(lab: &Lab, logtarget: &str) {
    let config = lab.dir().join("config");
    let filters = config.join("filter.d");
    fs::create_dir_all(&filters).expect("the lab's directory is writable");
    for file in ["recidive.conf", "common.conf"] {
        fs::copy(fail2ban().config().join("filter.d").join(file), filters.join(file))
            .expect("the package has it");
    }
    let text = format!("[Definition]\nlogtarget = {logtarget}\n");
    fs::write(config.join("fail2ban.local"), text).expect("the lab's directory is writable");
}

/// Jails for sshd and for who is banned by it twice.
fn jails(recidive: &str) -> String {
    format!("[sshd]\nmaxretry = 2\n[recidive]\nenabled = true\nmaxretry = 2\n{recidive}\n")
}

/// An attacker is banned and freed, again and again, until recidive bans it, too.
fn ban_until_recidive(lab: &Lab, agent: &Agent<'_>) {
    let attacker = attacker_v4(7);
    for round in 0..2 {
        lab.ssh_fail(attacker, "root", 2);
        agent.wait_for_ban(attacker);
        if round == 0 {
            f2b_ok(lab, &["unban", &attacker.to_string()]);
        }
    }
    wait_until(PATIENCE, "recidive bans", || agent.jail("recidive")["banned"][0] == attacker.to_string());
}

/// What the real fail2ban-regex finds with fail2ban's recidive filter: addresses, in order.
fn found_by_fail2ban(log: &Path) -> Vec<String> {
    let program = fail2ban().modules().join("../../../bin/fail2ban-regex");
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", fail2ban().modules()).env("PYTHONDONTWRITEBYTECODE", "1").arg(program);
    command.args(["-o", "ip"]).arg(log).arg(fail2ban().config().join("filter.d/recidive.conf"));
    let output = command.output().expect("python3 is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_log_file_is_as_fail2bans_and_recidive_reads_it() {
    let lab = Lab::new();
    let log: PathBuf = lab.dir().join("fail2ban.log");
    configure(&lab, &log.display().to_string());
    let recidive = format!("backend = polling\nlogpath = {}*", log.display());
    let mut agent = Agent::launch(&lab, &jails(&recidive), &[]);
    wait_until(PATIENCE, "the agent is ready", || read(&log).contains("INFO    Ready"));
    ban_until_recidive(&lab, &agent);
    let (attacker, pid) = (attacker_v4(7), agent.process.pid_inside());
    let text = read(&log);
    for line in [
        format!(" fail2ban.filter         [{pid}]: INFO    [sshd] Found {attacker} - 20"),
        format!(" fail2ban.actions        [{pid}]: NOTICE  [sshd] Ban {attacker}\n"),
        format!(" fail2ban.actions        [{pid}]: NOTICE  [sshd] Unban {attacker}\n"),
        format!(" fail2ban.actions        [{pid}]: NOTICE  [recidive] Ban {attacker}\n"),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert_eq!(
        found_by_fail2ban(&log),
        [attacker.to_string(), attacker.to_string()],
        "recidive's own ban is none"
    );
    assert_eq!(agent.process.log(), "", "who asks for a log file gets nothing else");

    // Rotated as logrotate does it, with the signal that `fail2ban-client flushlogs` amounts to.
    fs::rename(&log, log.with_extension("log.1")).expect("the lab's directory is writable");
    agent.process.signal(Signal::SIGUSR1);
    wait_until(PATIENCE, "the log is opened anew", || read(&log).contains("rollover performed on "));
    // Without the signal it is found out within a second or so.
    fs::remove_file(&log).expect("it is there");
    wait_until(PATIENCE, "the log is there again", || {
        f2b_ok(&lab, &["ban", "sshd", "192.0.2.200"]);
        f2b_ok(&lab, &["unban", "192.0.2.200"]);
        read(&log).contains("[sshd] Unban 192.0.2.200")
    });
}

#[test]
fn in_the_journal_records_have_fields_and_recidive_reads_them() {
    let lab = Lab::new();
    configure(&lab, "SYSTEMD-JOURNAL");
    let agent = Agent::launch(&lab, &jails("backend = systemd"), &[]);
    wait_until(PATIENCE, "the agent is ready", || lab.journal(&["-o", "cat"]).contains("INFO Ready"));
    ban_until_recidive(&lab, &agent);
    let attacker = attacker_v4(7);
    let fields = format!("IP={attacker}");
    let found =
        lab.journal(&["-o", "cat", "JAIL=sshd", &fields, "PRIORITY=5", "SYSLOG_IDENTIFIER=fail2ban.actions"]);
    let expected = format!(
        "NOTICE [sshd] Ban {attacker}\nNOTICE [sshd] Unban {attacker}\nNOTICE [sshd] Ban {attacker}\n"
    );
    assert_eq!(found, expected);
    // As a line of syslog, the real filter finds the same in it.
    let lines = lab.dir().join("syslog");
    fs::write(&lines, lab.journal(&["-o", "short-iso", "_SYSTEMD_UNIT=f2b.service"]))
        .expect("it is writable");
    assert_eq!(found_by_fail2ban(&lines), [attacker.to_string(), attacker.to_string()]);
}

#[test]
fn syslog_gets_what_fail2ban_would_send_and_recidive_reads_it() {
    let lab = Lab::new();
    configure(&lab, "SYSLOG");
    let agent = Agent::launch(&lab, &jails("backend = systemd"), &[]);
    wait_until(PATIENCE, "the agent is ready", || lab.journal(&["-o", "cat"]).contains("INFO Ready"));
    ban_until_recidive(&lab, &agent);
    let bans =
        lab.journal(&["-o", "cat", "SYSLOG_IDENTIFIER=fail2ban.actions", "PRIORITY=5", "SYSLOG_FACILITY=3"]);
    assert!(bans.starts_with(&format!("NOTICE [sshd] Ban {}\n", attacker_v4(7))), "{bans}");
}

#[test]
fn what_is_logged_for_people_in_the_journal_recidive_reads_as_well() {
    let lab = Lab::new();
    let agent = Agent::launch(&lab, &jails("backend = systemd\nlogpath ="), &[]);
    wait_until(PATIENCE, "the agent is ready", || agent.process.log().contains("Ready"));
    let attacker = attacker_v4(7);
    let bans = || {
        f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
        f2b_ok(&lab, &["unban", &attacker.to_string()]);
    };
    bans();
    bans();
    let line =
        agent.process.log().lines().find(|line| line.contains(" Ban ")).expect("it was banned").to_owned();
    // What systemd makes of a service's stderr: an entry for each line, from the service's own unit. The
    // writer stays, as a service does: journald asks for the unit of a process when it reads what it wrote.
    let script = format!("printf '%s\\n' '{line}' '{line}'; exec sleep infinity");
    let _service =
        lab.server("systemd-cat").args(["-t", "f2b", "sh", "-c", &script]).unit("f2b.service").start();
    wait_until(PATIENCE, "recidive bans", || agent.jail("recidive")["banned"][0] == attacker.to_string());
}

#[test]
fn a_log_that_cannot_be_written_is_named_once_and_bans_go_on() {
    let lab = Lab::new();
    let log = lab.dir().join("missing/fail2ban.log");
    configure(&lab, &log.display().to_string());
    let agent = Agent::launch(&lab, "[sshd]\nmaxretry = 2\n", &[]);
    wait_until(PATIENCE, "the agent is ready", || agent.process.log().contains("Ready"));
    lab.ssh_fail(attacker_v4(7), "root", 2);
    agent.wait_for_ban(attacker_v4(7));
    let complaint = format!("f2b: the log {} cannot be written, so it goes to stderr: ", log.display());
    assert_eq!(agent.process.log().matches(&complaint).count(), 1, "{}", agent.process.log());
    // And once it can, it is.
    fs::create_dir(log.parent().expect("it has one")).expect("the lab's directory is writable");
    f2b_ok(&lab, &["unban", "--all"]);
    wait_until(PATIENCE, "the log is written", || read(&log).contains("[sshd] Unban "));
}
