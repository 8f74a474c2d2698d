//! Real bans, end to end: a real ssh client, a real sshd, a real journal, the kernel's own verdict.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{net::IpAddr, time::Duration};

use common::{Agent, F2B, PATIENCE, PINS, address_of, f2b_ok};
use lab::{Lab, attacker_v4, attacker_v6, wait_until};
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

/// Five failures, and the next SYN is dropped in the driver while another client notices nothing.
fn a_client_that_fails_five_times_is_dropped(attacker: IpAddr, bystander: IpAddr) {
    let lab = Lab::new();
    let agent = Agent::start(&lab, "");
    assert!(lab.ssh_ok(bystander), "the bystander gets in before the attack");
    assert!(lab.connects(attacker));

    lab.ssh_fail(attacker, "root", 4);
    wait_until(PATIENCE, "four failures are counted", || agent.jail("sshd")["total_failed"] == 4);
    assert!(agent.ban_of(attacker).is_none(), "four failures are not enough");
    assert!(lab.connects(attacker));

    lab.ssh_fail(attacker, "root", 1);
    agent.wait_for_ban(attacker);
    let (dropped, logged) = (agent.dropped(), lab.sshd_messages_about(attacker).len());
    assert!(!lab.connects(attacker), "the next SYN is dropped");
    assert!(agent.dropped() > dropped, "by XDP");
    assert_eq!(lab.sshd_messages_about(attacker).len(), logged, "sshd hears nothing more");
    assert!(lab.ssh_ok(bystander), "the bystander gets in during the ban");

    let jail = agent.jail("sshd");
    assert_eq!(jail["currently_banned"], 1);
    assert_eq!(jail["banned"][0], attacker.to_string());

    // Unban opens the door at once.
    f2b_ok(&lab, &["unban", &attacker.to_string()]);
    assert!(lab.connects(attacker), "the next SYN after the unban gets through");
    assert!(lab.ssh_ok(attacker));
}

#[test]
fn a_v4_client_that_fails_five_times_is_dropped() {
    a_client_that_fails_five_times_is_dropped(attacker_v4(7), attacker_v4(8));
}

#[test]
fn a_v6_client_that_fails_five_times_is_dropped() {
    a_client_that_fails_five_times_is_dropped(attacker_v6(7), attacker_v6(8));
}

/// Where systemd runs it knows the unit's names. A real one, as PID 1 of a PID namespace, with one empty target of ours
/// to boot: Debian's would set up `/tmp` anew, for one thing. The root is read-only for it all the same.
#[test]
fn systemd_is_asked_for_the_units_names_where_it_runs() {
    const BOOT: &str = "
        mkdir -p /run/systemd/system /etc/systemd/system
        echo '[Unit]\nDefaultDependencies=no' > /run/systemd/system/lab.target
        # What `systemctl enable ssh` does.
        ln -s /lib/systemd/system/ssh.service /etc/systemd/system/sshd.service
        mount --bind / /
        mount -o remount,bind,ro /
        exec env container=lab /lib/systemd/systemd --system --unit=lab.target --log-target=null
    ";
    let lab = Lab::new();
    let namespaces = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--cgroup"];
    let systemd = lab.server("unshare").args(namespaces).args(["sh", "-euc", BOOT]);
    let systemd = systemd.unit("systemd-lab.service").start();
    // It talks only to those whose process number it knows.
    let its_processes = format!("--pid=/proc/{}/ns/pid_for_children", systemd.pid_inside());
    let beside_it = |program| lab.server("nsenter").arg(&its_processes).arg(program);
    wait_until(PATIENCE, "systemd answers", || {
        let show = ["show", "--property=LoadState", "sshd.service"];
        beside_it("systemctl").args(show).output().stdout == b"LoadState=loaded\n"
    });
    let agent = beside_it(F2B).arg("run").start();
    wait_until(PATIENCE, "the journal is followed", || agent.log().contains("Following "));
    let log = agent.log();
    assert!(log.contains("Following ssh.service, sshd.service, as systemd calls it"), "{log}");
    lab.ssh_fail(attacker_v4(7), "root", 5);
    wait_until(PATIENCE, "the attacker is banned", || agent.log().contains(" Ban "));
}

#[test]
fn bpftool_shows_a_ban_with_named_fields() {
    let lab = Lab::new();
    let _agent = Agent::start(&lab, "");
    let (v4, v6) = (attacker_v4(7), attacker_v6(7));
    f2b_ok(&lab, &["ban", "sshd", &v4.to_string(), &v6.to_string()]);
    assert!(!lab.connects(v4));
    assert!(!lab.connects(v6));

    let bans = format!("{PINS}/v2/bans");
    let dump = lab.server("bpftool").args(["--json", "map", "dump", "pinned", &bans]).output();
    let dump: Value = serde_json::from_slice(&dump.stdout).expect("bpftool prints JSON");
    for address in [v4, v6] {
        let entries = dump.as_array().expect("a list of entries");
        let entry =
            entries.iter().map(|entry| &entry["formatted"]).find(|entry| address_of(entry) == address);
        let value = &entry.unwrap_or_else(|| panic!("{address} is not in {dump}"))["value"];
        let left = value["slots"][0]["ends_ns"].as_u64().expect("a number") - monotonic_ns();
        assert!((595e9..=600e9).contains(&(left as f64)), "the ban of {address} ends in {left} ns");
        assert_eq!(value["slots"][0]["scopes"], 1, "all ports");
        assert!(value["packets"].as_u64() > Some(0), "{address}: {value}");
    }
}

#[test]
fn dropped_packets_are_logged_only_when_asked_for() {
    let attacker = attacker_v4(7);
    for (args, logged) in [(&[][..], false), (&["--log-drops"][..], true)] {
        let lab = Lab::new();
        let agent = Agent::start_with(&lab, "", args);
        f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
        assert!(!lab.connects(attacker));
        let line = format!("Dropped a packet ip={attacker}");
        assert_eq!(agent.process.log().contains(&line), logged, "{}", agent.process.log());
    }
}

/// The clock of `ends_ns`.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock");
    Duration::from(now).as_nanos() as u64
}
