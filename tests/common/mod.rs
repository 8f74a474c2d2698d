//! The agent in a lab: started, asked and stopped as a user does it, with the real binary.
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::{fs, net::IpAddr, process::Output, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Xdp, XdpMode},
};
use f2b::xdp::OBJECT;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::{Host, Lab, Process, Program, wait_until};

/// Long enough for a busy machine; nothing here should take a tenth of it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The binary under test.
pub const F2B: &str = env!("CARGO_BIN_EXE_f2b");

/// Where the agent of a lab keeps its maps: the default place, in the lab's own BPF file system.
pub const PINS: &str = "/sys/fs/bpf/f2b";

/// An agent in a lab.
pub struct Agent<'lab> {
    lab: &'lab Lab,
    pub process: Process,
}

impl<'lab> Agent<'lab> {
    /// Starts the agent with `jail_local` laid over the built-in tree (empty: no configuration at all), and waits
    /// until it is ready.
    pub fn start(lab: &'lab Lab, jail_local: &str) -> Self {
        Self::start_with(lab, jail_local, &[])
    }

    /// As [`start`](Self::start), with more arguments for `f2b run`.
    pub fn start_with(lab: &'lab Lab, jail_local: &str, args: &[&str]) -> Self {
        let agent = Self::launch(lab, jail_local, args);
        wait_until(PATIENCE, "the agent is ready", || agent.process.log().contains("Ready"));
        agent
    }

    /// Starts the agent and returns at once.
    pub fn launch(lab: &'lab Lab, jail_local: &str, args: &[&str]) -> Self {
        Self::launch_by(lab, jail_local, args, Program::start)
    }

    /// The same with a start of its own.
    pub fn launch_by(
        lab: &'lab Lab,
        jail_local: &str,
        args: &[&str],
        start: impl FnOnce(Program) -> Process,
    ) -> Self {
        let mut program = lab.server(F2B).arg("run").args(args);
        if !jail_local.is_empty() {
            let config = lab.dir().join("config");
            fs::create_dir_all(&config).expect("the lab's directory is writable");
            fs::write(config.join("jail.local"), jail_local).expect("the lab's directory is writable");
            program = program.arg("-c").arg(config);
        }
        Self { lab, process: start(program.unit("f2b.service")) }
    }

    /// Has the agent end as a service manager does, and waits until it has.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(PATIENCE);
    }

    /// What the jail's status says.
    pub fn jail(&self, jail: &str) -> Value {
        json(f2b(self.lab, &["status", jail, "--json"]))
    }

    /// Packets that the kernel has dropped, over all bans.
    pub fn dropped(&self) -> u64 {
        let status = json(f2b(self.lab, &["status", "--json"]));
        status["packets"]["dropped"].as_u64().expect("a number")
    }

    /// The ban of `address`, if it is banned.
    pub fn ban_of(&self, address: IpAddr) -> Option<Value> {
        let banned = json(f2b(self.lab, &["banned", "--json"]));
        let bans = banned["bans"].as_array().expect("a list").clone();
        bans.into_iter().find(|ban| ban["address"] == address.to_string())
    }

    /// Waits until `address` is banned.
    #[track_caller]
    pub fn wait_for_ban(&self, address: IpAddr) {
        wait_until(PATIENCE, &format!("{address} is banned"), || self.ban_of(address).is_some());
    }
}

/// Runs `f2b` on the server of the lab.
pub fn f2b(lab: &Lab, args: &[&str]) -> Output {
    f2b_program(lab, args).output()
}

/// `f2b` on the server of the lab, to be run.
pub fn f2b_program(lab: &Lab, args: &[&str]) -> Program {
    lab.server(F2B).args(args)
}

/// Runs `f2b`, which must succeed; what it printed.
#[track_caller]
pub fn f2b_ok(lab: &Lab, args: &[&str]) -> String {
    let output = f2b(lab, args);
    assert!(output.status.success(), "f2b {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The address in an entry of the kernel's map, as bpftool prints it.
pub fn address_of(entry: &Value) -> IpAddr {
    let bytes = entry["key"]["addr"].as_array().expect("sixteen bytes").iter();
    let bytes: Vec<_> = bytes.map(|byte| byte.as_u64().expect("a byte") as u8).collect();
    let bytes: [u8; 16] = bytes.try_into().expect("sixteen bytes");
    IpAddr::from(bytes).to_canonical()
}

#[track_caller]
fn json(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("f2b prints JSON")
}

/// What a shell on the server prints.
#[track_caller]
pub fn sh(lab: &Lab, script: &str) -> String {
    let output = lab.server("sh").args(["-ec", script]).output();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Puts a program on the interface that no agent has pinned. It stays until it is dropped.
pub fn attach_foreign_program(lab: &Lab, interface: &str) -> Ebpf {
    lab.inside(Host::Server, || {
        // Our own object under another name is as foreign as any.
        let mut object = OBJECT.to_vec();
        for at in 0..object.len() - 5 {
            if object[at..].starts_with(b"\0f2b\0") {
                object[at + 1..at + 4].copy_from_slice(b"fw0");
            }
        }
        let mut ebpf = EbpfLoader::new().load(&object).expect("root may load maps");
        let program: &mut Xdp =
            ebpf.program_mut("fw0").expect("it is there").try_into().expect("it is for XDP");
        program.load().expect("the verifier takes it");
        program.attach(interface, XdpMode::Driver).expect("nothing is attached yet");
        ebpf
    })
}
