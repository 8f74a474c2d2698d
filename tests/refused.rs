//! What the agent does where the kernel refuses it what is newer than Linux 5.15: frames in several buffers and links in
//! tc; and, newer than 5.5, commands for many entries. Each refusal is counted, so that none of the ways around it is
//! tested by accident on a kernel that has it all.

#[path = "common/mod.rs"]
mod common;
mod lab;
mod refusal;

use std::{
    io::{self, Write as _},
    net::Ipv4Addr,
};

use common::{Agent, PATIENCE, PINS, f2b_ok, sh};
use lab::{Lab, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;
use refusal::{Refusals, Refused};
use serde_json::Value;

/// An agent that is refused what is too new.
fn start<'lab>(lab: &'lab Lab, mode: &str) -> (Agent<'lab>, Refusals) {
    let mut refusals = None;
    let agent = Agent::launch_by(lab, "", &["--mode", mode], |program| {
        let process = program.with(refusal::watch).start();
        refusals = Some(Refusals::begin(process.pid()));
        process
    });
    wait_until(PATIENCE, "the agent is ready", || agent.process.log().contains("Ready"));
    (agent, refusals.expect("it was started"))
}

/// The names of the programs on the server's interface, as bpftool and tc tell.
fn attached(lab: &Lab) -> Vec<String> {
    let net: Value = serde_json::from_str(&sh(lab, "bpftool -j net show dev eth0")).expect("it prints JSON");
    let xdp = net[0]["xdp"].as_array().cloned().unwrap_or_default();
    let name = |program: &Value| {
        let id = program["id"].as_u64().expect("a number");
        let program = sh(lab, &format!("bpftool -j prog show id {id}"));
        let program: Value = serde_json::from_str(&program).expect("it prints JSON");
        format!("xdp {}", program["name"].as_str().expect("it has one"))
    };
    let xdp = xdp.iter().map(name);
    let tcx = net[0]["tc"].as_array().cloned().unwrap_or_default();
    let tcx = tcx.iter().map(|program| format!("{} {}", program["kind"], program["name"]).replace('"', ""));
    xdp.chain(tcx).collect()
}

fn is_refused(refused: &Refused, what: &str) {
    assert!(refused.get(what).is_some_and(|count| *count > 0), "{what} was never asked for: {refused:?}");
}

#[test]
fn bans_hold_in_every_mode_with_what_linux_5_15_has() {
    for (mode, program) in
        [("native", "xdp f2b_linear"), ("generic", "xdp f2b_linear"), ("tc", "clsact/ingress f2b_tc")]
    {
        let lab = Lab::new();
        let (mut agent, refusals) = start(&lab, mode);
        let log = agent.process.log();
        assert!(log.contains("This kernel has no XDP for frames in several buffers"), "{log}");
        assert!(log.contains(&format!("mode={mode}")), "{log}");
        assert_eq!(attached(&lab), [program]);
        let links = sh(&lab, &format!("ls {PINS}/links {PINS}/clsact 2>/dev/null || true"));
        assert_eq!(links.contains("clsact:\neth0\n"), mode == "tc", "{links}");
        assert_eq!(links.contains("links:\neth0\n"), mode != "tc", "{links}");

        // More than would fit into one command for many, and of both families.
        let banned: Vec<_> = (0..5_000).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n).to_string()).collect();
        for some in banned.chunks(1_000) {
            f2b_ok(
                &lab,
                &[&["ban", "sshd"][..], &some.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
            );
        }
        for attacker in [attacker_v4(7), attacker_v6(7)] {
            assert!(lab.connects(attacker));
            f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
            assert!(!lab.connects(attacker), "{mode}");
        }
        assert_eq!(f2b_ok(&lab, &["banned"]).lines().count(), 1 + 5_002);
        let first = refusals.so_far();

        // Nobody runs; then the next agent takes it over, in one step.
        agent.process.signal(Signal::SIGKILL);
        agent.process.wait(PATIENCE);
        drop(refusals);
        assert!(!lab.connects(attacker_v4(7)), "{mode}");
        let (mut agent, refusals) = start(&lab, mode);
        assert_eq!(attached(&lab), [program], "the same place, once");
        assert!(!lab.connects(attacker_v4(7)), "{mode}");
        assert_eq!(f2b_ok(&lab, &["banned"]).lines().count(), 1 + 5_002);
        f2b_ok(&lab, &["unban", "--all"]);
        assert!(lab.connects(attacker_v4(7)) && lab.connects(attacker_v6(7)), "{mode}");
        assert_eq!(sh(&lab, &format!("bpftool -j map dump pinned {PINS}/v2/bans")).trim(), "[]");

        for refused in [&first, &refusals.so_far()] {
            is_refused(refused, "frames in several buffers");
            is_refused(refused, "many entries at once");
            if mode == "tc" {
                is_refused(refused, "tcx");
            }
        }
        agent.stop();
        f2b_ok(&lab, &["detach"]);
        assert!(attached(&lab).is_empty());
        writeln!(io::stderr(), "{mode}: {program}, having refused {first:?}").expect("stderr is there");
    }
}
