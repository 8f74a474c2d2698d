//! Bans outlive the agent: killed, restarted, upgraded, rebooted.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    env, fs,
    io::{self, Write as _},
    thread::sleep,
    time::{Duration, SystemTime},
};

use common::{Agent, PATIENCE, PINS, f2b_ok};
use lab::{Flood, Lab, Sink, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 9999;

#[test]
fn a_ban_ends_on_time_with_nobody_running() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    let mut agent = Agent::start(&lab, "[sshd]\nbantime = 5s\n");
    lab.ssh_fail(attacker, "root", 5);
    agent.wait_for_ban(attacker);
    let ban = agent.ban_of(attacker).expect("just seen");
    let end = Duration::from_secs_f64(ban["until"].as_f64().expect("a time"));
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);

    let sink = Sink::open(&lab, PORT);
    let flood = Flood::start(&lab, attacker, PORT);
    wait_until(PATIENCE, "the first packet gets through", || sink.count(attacker) > 0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    flood.stop();
    assert!(now >= end, "the ban ended {:?} early", end - now);
    // The kernel's coarse clock ticks every 4 ms; the rest is this test being scheduled.
    assert!(now - end < Duration::from_millis(500), "the ban ended {:?} late", now - end);
    assert!(lab.connects(attacker));
}

/// How often the agent is killed under a flood: `cargo xtask soak` does it more often.
const ROUNDS: u32 = 3;
const ROUNDS_VARIABLE: &str = "F2B_SOAK_ROUNDS";

#[test]
fn no_banned_packet_passes_while_agents_are_killed_and_started() {
    let rounds =
        env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    let lab = Lab::new();
    let (attacker, other) = (attacker_v4(7), attacker_v4(8));
    let mut agent = Agent::start(&lab, "[sshd]\nbantime = -1\n");
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);

    let sink = Sink::open(&lab, PORT);
    let mut sent = 0;
    for round in 0..rounds {
        let flood = Flood::start(&lab, attacker, PORT);
        // Killed at another moment of its life each time, now and then asked to stop instead.
        sleep(Duration::from_millis(u64::from(round * 37 % 300)));
        agent.process.signal(if round % 3 == 1 { Signal::SIGTERM } else { Signal::SIGKILL });
        agent.process.wait(PATIENCE);
        agent = Agent::start(&lab, "[sshd]\nbantime = -1\n");
        sent += flood.stop();
        assert!(agent.process.log().contains("Took over the program"), "{}", agent.process.log());
        assert_eq!(agent.jail("sshd")["banned"][0], attacker.to_string(), "the ban is still the jail's");
        assert_eq!(sink.count(attacker), 0, "of {sent} banned packets, none may pass");
    }
    // The same road is open to those who are not banned, so a leak would have been seen.
    let others = Flood::start(&lab, other, PORT);
    wait_until(PATIENCE, "the bystander's packets arrive", || sink.count(other) > 1000);
    others.stop();
    let ban = agent.ban_of(attacker).expect("still banned");
    let dropped = ban["packets"].as_u64().expect("a number");
    // On a machine that is busy beyond its means, the wire overflows now and then: it counts that itself.
    let lost = lost_on_the_wire(&lab);
    assert!(
        dropped <= sent && dropped + lost >= sent,
        "{sent} sent, {lost} lost on the wire, {dropped} counted as dropped"
    );
    writeln!(
        io::stderr(),
        "{rounds} agents killed or stopped: {sent} banned packets sent, {lost} lost on the wire, {dropped} dropped, 0 \
         passed"
    )
    .expect("stderr is there");
}

/// Packets of the attackers that found no room on the wire.
fn lost_on_the_wire(lab: &Lab) -> u64 {
    let output = lab.attacker("ip").args(["-json", "-statistics", "link", "show", "peer0"]).output();
    let links: Value = serde_json::from_slice(&output.stdout).expect("ip prints JSON");
    links[0]["stats64"]["tx"]["dropped"].as_u64().expect("a number")
}

#[test]
fn a_reboot_loses_no_ban() {
    let lab = Lab::new();
    let (attacker, bystander) = (attacker_v6(7), attacker_v6(8));
    let mut agent = Agent::start(&lab, "");
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
    agent.process.signal(Signal::SIGTERM);
    assert!(agent.process.wait(PATIENCE).success(), "SIGTERM stops cleanly");
    // What a reboot does to the kernel's side.
    let removed = f2b_ok(&lab, &["detach"]);
    for pin in ["links/eth0", "v2/bans", "v2/ports", "v2/counters"] {
        assert!(removed.contains(&format!("removed {PINS}/{pin}\n")), "{removed}");
    }
    assert!(lab.connects(attacker), "detached: bans are gone");

    let agent = Agent::start(&lab, "");
    assert!(!lab.connects(attacker), "and are back with the agent");
    assert_eq!(agent.jail("sshd")["banned"][0], attacker.to_string());
    assert!(lab.connects(bystander));
}

#[test]
fn a_reload_takes_new_settings_and_keeps_what_is_held() {
    let lab = Lab::new();
    let (banned, attacker) = (attacker_v4(7), attacker_v4(8));
    let mut agent = Agent::start(&lab, "[sshd]\nmaxretry = 3\n");
    f2b_ok(&lab, &["ban", "sshd", &banned.to_string()]);
    lab.ssh_fail(attacker, "root", 1);
    wait_until(PATIENCE, "one failure is counted", || agent.jail("sshd")["currently_failed"] == 1);

    let jail_local = lab.dir().join("config/jail.local");
    fs::write(&jail_local, "[sshd]\nmaxretry 2\n").expect("the lab's directory is writable");
    agent.process.signal(Signal::SIGHUP);
    wait_until(PATIENCE, "the mistake is named", || agent.process.log().contains("jail.local:2: "));
    assert!(agent.ban_of(banned).is_some(), "a broken configuration changes nothing");

    fs::write(&jail_local, "[sshd]\nmaxretry = 2\n").expect("the lab's directory is writable");
    assert_eq!(f2b_ok(&lab, &["reload"]), "OK\n");
    assert!(agent.ban_of(banned).is_some(), "bans go on");
    lab.ssh_fail(attacker, "root", 1);
    agent.wait_for_ban(attacker);
    assert_eq!(agent.jail("sshd")["total_failed"], 2, "no line was counted twice");
}

#[test]
fn an_agent_without_a_journal_waits_for_it() {
    let lab = Lab::without_journal();
    let attacker = attacker_v4(7);
    let agent = Agent::start(&lab, "");
    let complaint = "There is no journal yet";
    wait_until(PATIENCE, "it says so", || agent.process.log().contains(complaint));
    sleep(Duration::from_secs(1));
    assert_eq!(agent.process.log().matches(complaint).count(), 1, "in one line");
    lab.start_journald();
    lab.ssh_fail(attacker, "root", 5);
    agent.wait_for_ban(attacker);
}

#[test]
fn an_unban_survives_a_restart_and_so_do_failures() {
    let lab = Lab::new();
    let (freed, attacker) = (attacker_v4(7), attacker_v4(8));
    let mut agent = Agent::start(&lab, "");
    lab.ssh_fail(attacker, "root", 3);
    lab.ssh_fail(freed, "root", 5);
    agent.wait_for_ban(freed);
    f2b_ok(&lab, &["unban", &freed.to_string()]);
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);

    lab.ssh_fail(freed, "root", 1);
    let agent = Agent::start(&lab, "");
    wait_until(PATIENCE, "the failure while nobody ran is counted", || {
        agent.jail("sshd")["total_failed"] == 1
    });
    assert!(agent.ban_of(freed).is_none(), "what was decided before is not decided again");
    lab.ssh_fail(attacker, "root", 2);
    agent.wait_for_ban(attacker);
}

#[test]
fn failures_from_before_the_start_count() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    lab.ssh_fail(attacker, "root", 5);
    let agent = Agent::start(&lab, "");
    agent.wait_for_ban(attacker);
    let log = agent.process.log();
    assert!(log.contains("Following ssh.service, as the journal calls it"), "{log}");
}
