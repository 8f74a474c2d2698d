//! Where lines come from: the systemd journal, and log files.

pub mod charset;
pub mod file;
pub mod journal;
mod thread;
pub mod unit;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// One log entry for one jail, as fail2ban's filters see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The jail that asks for it.
    pub jail: Arc<str>,
    /// When it was logged, if the source knows: a line of a file tells it by itself.
    pub time: Option<SystemTime>,
    /// `HOST IDENT[PID]: MESSAGE`, behind its date if it has one.
    pub text: String,
}

/// What a reader tells the agent.
#[derive(Debug)]
pub struct Batch {
    pub lines: Vec<Line>,
    /// The source's name among the positions that are stored.
    pub source: String,
    /// The position after these lines, as the source writes it.
    pub position: String,
    pub reading: Reading,
}

/// On what occasion lines are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// They were decided on before, by an agent that has stopped.
    Again,
    /// They were written while nobody read.
    Late,
    /// They have just been written.
    Live,
}

/// A time in seconds since 1970, as filters have it.
pub fn time(seconds: f64) -> SystemTime {
    let since_epoch = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH)
}
