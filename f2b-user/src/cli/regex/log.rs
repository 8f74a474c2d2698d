//! The lines of fail2ban's own log that `fail2ban-regex` prints at a log level (`-l`) down to INFO. Those below tell
//! how its code goes, which is not how ours does.

use std::{process, time::Instant};

use anyhow::{Result, bail};

use super::{options::Now, session::local_time};
use crate::filter::python::repr;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Level {
    Info = 20,
    Warning = 30,
    Error = 40,
}

/// One line before it is printed.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) level: Level,
    /// The part of fail2ban that says so.
    pub(super) logger: &'static str,
    pub(super) message: String,
}

impl Entry {
    pub(super) fn new(level: Level, logger: &'static str, message: impl Into<String>) -> Self {
        Self { level, logger, message: message.into() }
    }
}

/// Which lines are printed, and how.
#[derive(Debug)]
pub(super) struct Log {
    least: u32,
    verbosity: u8,
    now: Now,
    start: Instant,
}

impl Log {
    /// # Errors
    /// There is no such level.
    pub(super) fn new(level: Option<&str>, verbosity: u8, now: Now) -> Result<Self> {
        Ok(Self { least: number(level.unwrap_or("critical"))?, verbosity, now, start: Instant::now() })
    }

    /// Whether fail2ban tells how its code goes.
    pub(super) fn is_debug(&self) -> bool {
        self.least <= 10
    }

    pub(super) fn has(&self, level: Level) -> bool {
        level as u32 >= self.least
    }

    /// What is printed of it.
    pub(super) fn line(&self, Entry { level, logger, message }: &Entry) -> Option<String> {
        if !self.has(*level) {
            return None;
        }
        let name = match level {
            Level::Info => "INFO",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        let now = self.now.seconds();
        let date = format!("{},{:03}", local_time(now, "%Y-%m-%d %H:%M:%S"), (now.fract() * 1000.0) as u32);
        let short = &name[..name.len().min(5)];
        let process = process::id();
        Some(match self.verbosity {
            0 | 1 => format!("{date} {logger:24}[{process}]: {name:7}{}: {message}", &name[..1]),
            // Python shows the number of its thread.
            2 => format!(" {date} {process:X} {short:5} {message}"),
            _ => {
                let elapsed = self.start.elapsed().as_millis();
                format!(" +{elapsed:5} {process:X} {logger:25.25} {short:5} {message}")
            }
        })
    }
}

/// The number that Python has for a level.
fn number(level: &str) -> Result<u32> {
    const NOT_SET: u32 = 0;
    let number = match level.to_uppercase().as_str() {
        "CRITICAL" | "FATAL" => 50,
        "ERROR" => 40,
        "WARNING" | "WARN" => 30,
        "NOTICE" => 25,
        "INFO" => 20,
        "MSG" => 18,
        "DEBUG" => 10,
        "TRACEDEBUG" => 7,
        "HEAVYDEBUG" => 5,
        "NOTSET" => NOT_SET,
        digits if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => {
            digits.parse().unwrap_or(u32::MAX)
        }
        _ => bail!("Invalid log level {}", repr(level)),
    };
    // Python's root decides.
    Ok(if number == NOT_SET { 30 } else { number })
}
