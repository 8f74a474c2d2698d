//! The journald of a lab.

use std::{net::IpAddr, os::unix::net::UnixDatagram, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Host, Lab, wait_until};

/// A message of sshd in the journal. Times are microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// When sshd sent it.
    pub sent: u64,
    /// When journald stored it.
    pub stored: u64,
    /// The text.
    pub message: String,
}

impl Lab {
    /// Starts journald, which keeps its journal in memory and limits no rate.
    pub fn start_journald(&self) {
        self.stop_journald();
        let journald = self.server("/lib/systemd/systemd-journald").unit("systemd-journald.service").start();
        *self.journald.lock().expect("no test panics here") = Some(journald);
        self.inside(Host::Server, || {
            let probe = UnixDatagram::unbound().expect("sockets can be made");
            wait_until(Duration::from_secs(10), "journald listens", || probe.connect("/dev/log").is_ok());
        });
    }

    /// Kills journald; its journal stays.
    pub fn stop_journald(&self) {
        self.journald.lock().expect("no test panics here").take();
    }

    /// Has journald begin new files.
    pub fn rotate_journal(&self) {
        let mut journald = self.journald.lock().expect("no test panics here");
        journald.as_mut().expect("it was started").signal(Signal::SIGUSR2);
    }

    /// Has journald copy what it has in memory to the disk, and go on there, as it does once the machine has started.
    pub fn flush_journal(&self) {
        let mut journald = self.journald.lock().expect("no test panics here");
        journald.as_mut().expect("it was started").signal(Signal::SIGUSR1);
    }

    /// What `journalctl` prints, given `args`.
    pub fn journal(&self, args: &[&str]) -> String {
        let output = self.server("journalctl").args(["--no-pager", "--quiet"]).args(args).output();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "journalctl {args:?}, {}: {complaint}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What sshd has logged about `ip`, oldest first. By its name: of its processes that end at once, journald may know no
    /// unit.
    pub fn sshd_messages_about(&self, ip: IpAddr) -> Vec<Logged> {
        let address = ip.to_string();
        self.journal(&["--output=json", "SYSLOG_IDENTIFIER=sshd", "SYSLOG_IDENTIFIER=sshd-session"])
            .lines()
            .map(|line| Logged::from_json(&serde_json::from_str(line).expect("journalctl prints JSON")))
            .filter(|logged| logged.message.split_whitespace().any(|word| word == address))
            .collect()
    }
}

impl Logged {
    fn from_json(entry: &Value) -> Self {
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let time = |field: &str| text(field).parse().ok();
        let stored = time("__REALTIME_TIMESTAMP").expect("every entry has a time");
        Self {
            sent: time("_SOURCE_REALTIME_TIMESTAMP").unwrap_or(stored),
            stored,
            message: text("MESSAGE").into(),
        }
    }
}
