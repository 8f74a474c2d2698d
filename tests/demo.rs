#[path = "common/mod.rs"]
mod common;
mod lab;
use common::*; use lab::*;
fn main() {
    let lab = Lab::new();
    let agent = Agent::start(&lab, "");
    let t = std::time::Instant::now();
    for _ in 0..5 { println!("{:?}", lab.ssh_fail(attacker_v4(7), "root", 1)); println!("{:?}", t.elapsed()); }
    agent.wait_for_ban(attacker_v4(7));
    println!("{}", agent.process.log());
    println!("{}", lab.journal(&["_SYSTEMD_UNIT=ssh.service"]));
    let sh = |c: &str| { let o = lab.server("sh").args(["-c", c]).output(); println!("$ {c}\n{}{}", String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr)); };
    sh("ip -br addr show eth0"); sh("ip link show eth0"); sh("ls; whoami; hostname; uptime");
    sh("bpftool map dump pinned /sys/fs/bpf/f2b/v1/bans");
    sh("bpftool -j map dump pinned /sys/fs/bpf/f2b/v1/bans");
    sh("bpftool -j map dump pinned /sys/fs/bpf/f2b/v1/counters");
    sh("bpftool net show dev eth0; bpftool link");
    for a in [&["banned"][..], &["status"], &["status","sshd"], &["unban","198.51.100.7"]] { println!("{}", f2b_ok(&lab, a)); }
    drop(agent); sh(&format!("{F2B} detach")); sh("ip link show eth0; ls /sys/fs/bpf");
}
