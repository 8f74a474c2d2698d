//! The namespaces of a lab, and the ways into them.

use std::{
    env, fs,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};

const NEEDED: &str = "unshare nsenter mount ip ssh ssh-keygen sshd journalctl";

/// One of the two hosts of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// Runs the services and the agent; its interface is `eth0`.
    Server,
    /// Owns every attacker's address; its interface is `peer0`.
    Attackers,
}

/// The namespaces of a lab. Whoever shares it keeps them; the last one to let go ends everything in them.
pub(super) struct World {
    pub(super) dir: PathBuf,
    cgroup: PathBuf,
    mounts: File,
    pids: File,
    cgroups: File,
    server: File,
    attackers: File,
    guard: Child,
    lifeline: Option<ChildStdin>,
}

impl World {
    /// Builds the namespaces and the network.
    pub(super) fn build() -> Self {
        assert!(Uid::effective().is_root(), "the lab needs root; run: cargo xtask test");
        for program in NEEDED.split(' ') {
            assert!(in_path(program), "the lab needs {program}; install it with: cargo xtask setup --tests");
        }
        let mut guard = Command::new("sh")
            .args(["-c", include_str!("guard.sh"), "guard"])
            .arg(unified_cgroups())
            .arg(include_str!("world.sh"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C ends the test; the guard must live to clean up after it.
            .process_group(0)
            .spawn()
            .expect("sh starts");
        let lifeline = guard.stdin.take();
        let mut ready = String::new();
        BufReader::new(guard.stdout.take().expect("stdout is piped"))
            .read_line(&mut ready)
            .expect("the guard's output is readable");
        let [pid, dir, cgroup] = ready.split_whitespace().collect::<Vec<_>>()[..] else {
            drop(lifeline);
            panic!("the lab could not be built: {}", complaints(&mut guard));
        };
        let proc = Path::new("/proc").join(pid);
        let open = |namespace| File::open(proc.join(namespace)).expect("the lab's namespaces can be opened");
        Self {
            dir: dir.into(),
            cgroup: cgroup.into(),
            mounts: open("ns/mnt"),
            pids: open("ns/pid"),
            cgroups: open("ns/cgroup"),
            server: open("ns/net"),
            attackers: open("root/run/netns/attackers"),
            guard,
            lifeline,
        }
    }

    /// Runs `f` on a fresh thread in the namespaces of `host`, except the PID namespace.
    pub(super) fn inside<T: Send>(&self, host: Host, f: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            self.join(host);
            f()
        })
    }

    /// Starts `command` in all namespaces of `host`, as a child of the test: its signals and its exit are direct.
    pub(super) fn spawn(&self, host: Host, command: &mut Command) -> Child {
        on_a_thread(|| {
            self.join(host);
            // Moves this thread's children only, and bars it from starting threads.
            enter(&self.pids, CloneFlags::CLONE_NEWPID);
            command.spawn().expect("a program starts in the lab")
        })
    }

    /// The file which takes a process into the cgroup of `unit`, or into the lab's own.
    ///
    /// Opened by the machine's path: with `nsdelegate`, systemd's default, a cgroup namespace admits nobody from
    /// outside.
    pub(super) fn cgroup_procs(&self, unit: Option<&str>) -> File {
        let cgroup = match unit {
            Some(unit) => self.cgroup.join("system.slice").join(unit),
            None => self.cgroup.clone(),
        };
        fs::create_dir_all(&cgroup).expect("a cgroup can be made in the lab");
        OpenOptions::new().write(true).open(cgroup.join("cgroup.procs")).expect("cgroup.procs can be opened")
    }

    fn join(&self, host: Host) {
        // A thread which shares its root and working directory may not change its mounts.
        unshare(CloneFlags::CLONE_FS).expect("root may unshare");
        enter(&self.mounts, CloneFlags::CLONE_NEWNS);
        enter(&self.cgroups, CloneFlags::CLONE_NEWCGROUP);
        let network = match host {
            Host::Server => &self.server,
            Host::Attackers => &self.attackers,
        };
        enter(network, CloneFlags::CLONE_NEWNET);
        env::set_current_dir(&self.dir).expect("the lab's directory is there");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let complaints = complaints(&mut self.guard);
        assert!(complaints.is_empty() || thread::panicking(), "the lab left something behind: {complaints}");
    }
}

/// Waits for the guard's end, and returns what it had to say.
fn complaints(guard: &mut Child) -> String {
    let mut text = String::new();
    let mut stderr = guard.stderr.take().expect("stderr is piped");
    stderr.read_to_string(&mut text).expect("the guard's complaints are readable");
    guard.wait().expect("the guard can be waited for");
    text
}

fn on_a_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn enter(namespace: impl AsFd, kind: CloneFlags) {
    setns(namespace, kind).expect("root may enter the lab's namespaces");
}

fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Where the machine has its cgroup v2 tree: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified`.
fn unified_cgroups() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    mounts
        .lines()
        .find_map(|mount| match mount.split(' ').collect::<Vec<_>>()[..] {
            [_, path, "cgroup2", ..] => Some(path.into()),
            _ => None,
        })
        .expect("the lab needs a cgroup v2 mount")
}
