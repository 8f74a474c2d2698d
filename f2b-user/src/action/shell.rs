//! Runs a command as fail2ban does (`server/utils.py`, `executeCmd`): by `/bin/sh -c`, in a process group of its own,
//! for a limited time, its output in the log.

use std::{
    fmt::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::{sleep, timeout},
};
use tracing::{debug, error, info};

use super::fill::Script;
use crate::filter::python::repr;

/// How much of what a command prints is logged.
const MAX_OUTPUT: usize = 64 * 1024;
/// How long a command may take to end itself when its time is up, before it is killed.
const LAST_CHANCE: Duration = Duration::from_millis(200);
/// How long is waited for output that a process left behind still holds open.
const LAST_OUTPUT: Duration = Duration::from_millis(100);

/// The one side effect of actions that run commands.
pub trait Execute {
    /// Runs a script to its end, or until its time is up; whether it succeeded.
    fn execute(&self, script: &Script, time: Duration) -> impl Future<Output = bool>;
}

/// The machine's shell.
#[derive(Clone, Copy, Debug)]
pub struct Shell;

impl Execute for Shell {
    async fn execute(&self, script: &Script, time: Duration) -> bool {
        script.text.is_empty() || self.run(script, time, &[0]).await == Some(0)
    }
}

impl Shell {
    /// Runs a script as [`Execute`] does, one that may end with any of the codes in `good`; the code it ended with.
    pub async fn run(&self, script: &Script, time: Duration, good: &[i32]) -> Option<i32> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let run = Run { id: NUMBER.fetch_add(1, Ordering::Relaxed), script, good };
        run.to_its_end(time).await
    }
}

/// One run of a script, named by a number in the log.
struct Run<'a> {
    id: u64,
    script: &'a Script,
    good: &'a [i32],
}

/// Kills the process group when nobody waits for it any more.
struct Group(Option<Pid>);

impl Group {
    /// Sends a signal. The group may be gone already.
    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            killpg(group, signal).unwrap_or_default();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl Run<'_> {
    async fn to_its_end(&self, time: Duration) -> Option<i32> {
        let id = self.id;
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(&self.script.text).args(&self.script.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(failure) => {
                error!(target: "fail2ban.utils", "{} -- failed with {failure}", self.command());
                return None;
            }
        };
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let stdout = read(child.stdout.take(), &mut out);
        let stderr = read(child.stderr.take(), &mut err);
        let mut output = Box::pin(async { tokio::join!(stdout, stderr) });
        let mut is_read = false;
        let ended = timeout(time, async {
            loop {
                tokio::select! {
                    biased;
                    status = child.wait() => return status,
                    _ = &mut output, if !is_read => is_read = true,
                }
            }
        });
        let status = match ended.await {
            Ok(status) => status.ok(),
            Err(_) => {
                error!(target: "fail2ban.utils", "{id:x} -- exec: {}", self.command());
                error!(target: "fail2ban.utils", "{id:x} -- timed out after {} seconds.", time.as_secs_f64());
                group.signal(Signal::SIGTERM);
                sleep(LAST_CHANCE).await;
                group.signal(Signal::SIGKILL);
                child.wait().await.ok()
            }
        };
        if self.is_good(status) {
            // What it left running in the background is meant to run.
            group.0 = None;
        }
        if !is_read {
            // What is not read by now, somebody else holds open.
            drop(timeout(LAST_OUTPUT, &mut output).await);
        }
        drop(output);
        self.report(status, &out, &err);
        status?.code()
    }

    fn is_good(&self, status: Option<ExitStatus>) -> bool {
        status.and_then(|status| status.code()).is_some_and(|code| self.good.contains(&code))
    }

    /// As fail2ban puts it: at DEBUG what went well, at ERROR what did not.
    fn report(&self, status: Option<ExitStatus>, out: &[u8], err: &[u8]) {
        let id = self.id;
        let is_good = self.is_good(status);
        let say = |text: &str| match is_good {
            true => debug!(target: "fail2ban.utils", "{id:x} -- {text}"),
            false => error!(target: "fail2ban.utils", "{id:x} -- {text}"),
        };
        say(&format!("exec: {}", self.command()));
        for (name, output) in [("stdout", out), ("stderr", err)] {
            for line in String::from_utf8_lossy(output).lines() {
                say(&format!("{name}: {}", repr(line)));
            }
        }
        let Some(status) = status else {
            say("unable to wait for it");
            return;
        };
        match (status.code(), status.signal()) {
            (Some(code), _) if is_good => say(&format!("returned successfully {code}")),
            (Some(code @ ..=128), _) => {
                say(&format!("returned {code}"));
                if code == 127 {
                    let path = "Make sure that all of its commands are in the PATH of the agent";
                    info!(target: "fail2ban.utils", "HINT on 127: \"Command not found\".  {path}");
                }
            }
            (Some(code), _) => say(&format!("killed with {} (return code: {code})", signal_name(code - 128))),
            (None, signal) => {
                let signal = signal.unwrap_or_default();
                say(&format!("killed with {} (return code: -{signal})", signal_name(signal)));
            }
        }
    }

    /// The command as Python would write it.
    fn command(&self) -> String {
        if self.script.arguments.is_empty() {
            return self.script.text.clone();
        }
        let mut text = format!("[{}", repr(&self.script.text));
        for argument in &self.script.arguments {
            // Writing to a string cannot fail.
            write!(text, ", {}", repr(argument)).unwrap_or_default();
        }
        text.push(']');
        text
    }
}

fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// Reads to the end. What is too much is read and forgotten, so that the command can go on.
async fn read(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    let Some(mut from) = from else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(into.len());
        into.extend_from_slice(&buffer[..length.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;

    fn run(text: &str, arguments: &[&str], seconds: f64) -> bool {
        let script =
            Script { text: text.into(), arguments: arguments.iter().map(|&text| text.to_owned()).collect() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Shell.execute(&script, Duration::from_secs_f64(seconds)))
    }

    #[test]
    fn a_script_succeeds_or_fails() {
        assert!(run("true", &[], 10.0) && !run("false", &[], 10.0) && !run("nonexistent_command", &[], 10.0));
        assert!(run("", &[], 10.0));
        let script = "x=$0 y=$1 \n[ \"$x$y\" = '; exit 1 $(id)' ]";
        assert!(run(script, &["; exit 1", " $(id)"], 10.0));
    }

    #[test]
    fn much_output_holds_up_nothing() {
        assert!(run("head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2", &[], 20.0));
    }

    #[test]
    fn what_hangs_is_killed_with_all_of_its_processes() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let start = Instant::now();
        let script = format!("trap '' TERM; sleep 1000 & echo $! > {}; wait; sleep 1000", file.display());
        assert!(!run(&script, &[], 0.3));
        assert!(start.elapsed() < Duration::from_secs(20));
        let pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
        let state = || fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let deadline = Instant::now() + Duration::from_secs(10);
        // One that nobody has waited for yet is dead, too.
        while nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok() && !state().contains(") Z ") {
            assert!(Instant::now() < deadline, "{}", state());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_is_left_in_the_background_goes_on_and_is_not_waited_for() {
        let start = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("done");
        assert!(run(&format!("(sleep 1; echo > {}) &", file.display()), &[], 30.0));
        assert!(start.elapsed() < Duration::from_secs(1) || file.exists());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !file.exists() {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
