//! The lab itself: it vanishes whole, however its test ends.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    env,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use common::Agent;
use lab::{Flood, Lab, attacker_v4, wait_until};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Tells this very test to be the one that ends: by this word.
const VICTIM: &str = "F2B_LAB_VICTIM";

#[test]
fn a_lab_vanishes_however_its_test_ends() {
    if let Ok(end) = env::var(VICTIM) {
        return be_a_victim(&end);
    }
    for (end, signal) in
        [("panic", None), ("hang", Some(Signal::SIGINT)), ("hang", Some(Signal::SIGKILL)), ("return", None)]
    {
        let mut victim = Command::new(env::current_exe().expect("this test has a file"))
            .args(["--exact", "a_lab_vanishes_however_its_test_ends", "--nocapture"])
            .env(VICTIM, end)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Ctrl-C goes to a whole process group.
            .process_group(0)
            .spawn()
            .expect("this test can be started");
        // Held open to the end: the victim's harness has more to print.
        let mut stdout = BufReader::new(victim.stdout.take().expect("it is piped"));
        let lab = directory_of(&mut stdout);
        assert!(Path::new(&lab).is_dir(), "while it lives it has a directory");
        assert!(mentions(&lab) > 0, "and cgroups with processes in them");
        if let Some(signal) = signal {
            killpg(Pid::from_raw(victim.id().cast_signed()), signal).expect("a child can be signalled");
        }
        let status = victim.wait().expect("a child can be waited for");
        assert_eq!(status.success(), end == "return", "{end} {signal:?}: {status}");
        wait_until(Duration::from_secs(30), &format!("{lab} is gone after {end} {signal:?}"), || {
            !Path::new(&lab).exists() && mentions(&lab) == 0
        });
    }
}

/// A lab with all there can be in it: services, an agent with its pins, a flood.
fn be_a_victim(end: &str) {
    let lab = Lab::new();
    let _agent = Agent::start(&lab, "");
    let _flood = Flood::start(&lab, attacker_v4(7), 9999);
    announce(&lab);
    match end {
        "panic" => panic!("as asked"),
        "hang" => sleep(Duration::from_secs(60)),
        _ => {}
    }
}

#[expect(clippy::print_stdout, reason = "its reader is the test that started it")]
fn announce(lab: &Lab) {
    println!("\nlab {}", lab.dir().display());
}

fn directory_of(stdout: &mut impl BufRead) -> String {
    let mut lines = stdout.lines().map(|line| line.expect("it prints text"));
    let lab = lines.find_map(|line| line.strip_prefix("lab ").map(str::to_owned));
    lab.expect("the victim announces its lab")
}

/// What of the lab the machine still has: cgroups of its name, and processes in them.
fn mentions(lab: &str) -> usize {
    let name = Path::new(lab).file_name().expect("a directory has a name").to_string_lossy().into_owned();
    let find = Command::new("find")
        .args(["/sys/fs/cgroup", "-path", &format!("*/{name}*"), "-name", "cgroup.procs"])
        .output()
        .expect("find is there");
    String::from_utf8_lossy(&find.stdout).lines().count()
}
