//! The lab: one isolated world for one test, with nothing simulated in it.
//!
//! A [`Lab`] has its own processes, mounts, cgroups, bpffs and two hosts on a veth pair: a server with a real
//! journald and a real sshd in `ssh.service`, and an attackers' host which owns hundreds of addresses. Any number
//! of labs live side by side, and each vanishes whole when its test ends, panics, or is killed.
//!
//! - `world`: the namespaces, and how a thread or a program enters them (`world.sh` builds them, `guard.sh`
//!   removes what namespaces cannot)
//! - `process`: [`Program`] and [`Process`], a program in the lab, before and after its start
//! - `journal`: journald, and what it recorded
//! - `ssh`: sshd, its attackers and its honest user
//! - `net`: the addresses, [`Flood`] and [`Sink`]
//!
//! Needs root and the packages which `cargo xtask setup --tests` installs.
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test target uses a part of the lab")]

mod journal;
mod net;
mod process;
mod ssh;
mod world;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant},
};

use self::world::World;
pub use self::{
    journal::Logged,
    net::{Flood, SERVER_V4, SERVER_V6, Sink, attacker_v4, attacker_v6},
    process::{Process, Program},
    world::Host,
};

/// One isolated world. Dropping it ends every process in it.
pub struct Lab {
    world: Arc<World>,
    journald: Mutex<Option<Process>>,
    sshd: Mutex<Option<Process>>,
}

impl Lab {
    /// The whole lab: network, journald and sshd.
    pub fn new() -> Self {
        let lab = Self::network_only();
        lab.start_journald();
        lab.start_sshd("");
        lab
    }

    /// Network and sshd; neither a journald nor a journal, until [`start_journald`](Self::start_journald).
    pub fn without_journal() -> Self {
        let lab = Self::network_only();
        lab.start_sshd("");
        lab
    }

    /// The two hosts and their wire: no service runs.
    pub fn network_only() -> Self {
        Self { world: Arc::new(World::build()), journald: Mutex::default(), sshd: Mutex::default() }
    }

    /// A program to run on the server.
    pub fn server(&self, program: impl AsRef<Path>) -> Program {
        Program::new(&self.world, Host::Server, program.as_ref())
    }

    /// A program to run on the attackers' host.
    pub fn attacker(&self, program: impl AsRef<Path>) -> Program {
        Program::new(&self.world, Host::Attackers, program.as_ref())
    }

    /// Runs `f` on a thread of its own which sees the network, files, pins and cgroups of `host`.
    ///
    /// `f` may start threads, but no processes: those would outlive the lab.
    pub fn inside<T: Send>(&self, host: Host, f: impl FnOnce() -> T + Send) -> T {
        self.world.inside(host, f)
    }

    /// A directory for configuration, sockets and state, under the same path inside and outside. Goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.world.dir
    }
}

/// Waits until `done`, and panics with `what` was awaited if that takes longer than `timeout`.
#[track_caller]
pub fn wait_until(timeout: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !done() {
        assert!(Instant::now() < deadline, "not within {timeout:?}: {what}");
        sleep(Duration::from_millis(5));
    }
}
