//! Programs in the lab.

use std::{
    ffi::OsStr,
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Host, wait_until, world::World};

/// Goes into the cgroup whose `cgroup.procs` is stdin, then becomes the program.
const ENTER_CGROUP: &str = r#"echo 0 >&0; exec "$@" </dev/null"#;

/// A program to run in the lab, in the lab's directory, with nothing on stdin.
pub struct Program {
    world: Arc<World>,
    host: Host,
    command: Command,
    name: String,
    unit: Option<String>,
}

impl Program {
    pub(super) fn new(world: &Arc<World>, host: Host, program: &Path) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER_CGROUP, "lab"]).arg(program);
        let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        Self { world: Arc::clone(world), host, command, name, unit: None }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Changes how it is started.
    pub fn with(mut self, change: impl FnOnce(&mut Command)) -> Self {
        change(&mut self.command);
        self
    }

    /// Runs the program as the service `unit`, that is in the cgroup `/system.slice/<unit>`.
    pub fn unit(mut self, unit: &str) -> Self {
        self.unit = Some(unit.into());
        self
    }

    /// Runs the program to its end.
    pub fn output(mut self) -> Output {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn().wait_with_output().expect("a program in the lab can be waited for")
    }

    /// Starts the program, with its stdout and stderr going to [`Process::log`].
    pub fn start(mut self) -> Process {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let path = self.world.dir.join(format!("{}-{number}.log", self.name));
        let log = File::create_new(&path).expect("a log can be made in the lab's directory");
        self.command.stdout(log.try_clone().expect("a file can be cloned")).stderr(log);
        Process { child: self.spawn(), name: self.name, log: path, _world: self.world }
    }

    fn spawn(&mut self) -> Child {
        self.command.stdin(self.world.cgroup_procs(self.unit.as_deref()));
        self.world.spawn(self.host, &mut self.command)
    }
}

/// A running program in the lab. Dropping it kills it, and prints its log if the test is failing.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    // Last, so that the lab goes after its processes: unreaped they would hold up its end.
    _world: Arc<World>,
}

impl Process {
    /// Its number outside the lab.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its number in the lab, as journald records it.
    pub fn pid_inside(&self) -> u32 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it is running");
        let numbers =
            status.lines().find_map(|line| line.strip_prefix("NSpid:")).expect("Linux 4.1 or newer");
        numbers.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("NSpid holds numbers")
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.is_running(), "{} has ended before {signal}:\n{}", self.name, self.log());
        kill(Pid::from_raw(self.pid() as i32), signal).expect("root may signal its child");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> ExitStatus {
        wait_until(timeout, &format!("{} ends", self.name), || !self.is_running());
        self.child.wait().expect("a child can be waited for")
    }

    /// What it has written to stdout and stderr so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).expect("its log is in the lab's directory")).into_owned()
    }
}

#[expect(clippy::print_stderr, reason = "it is a test that prints")]
impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child can be waited for");
        if thread::panicking() {
            eprintln!("--- log of {}\n{}---", self.name, self.log());
        }
    }
}
