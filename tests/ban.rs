//! Real bans, end to end: a real ssh client, a real sshd, a real journal, the kernel's own verdict.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::net::IpAddr;

use common::{Agent, PATIENCE, f2b_ok};
use lab::{Lab, attacker_v4, attacker_v6, wait_until};

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
