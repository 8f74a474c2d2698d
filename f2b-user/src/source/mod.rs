//! Where lines come from. Today: the systemd journal.

pub mod journal;
pub mod unit;

use std::time::SystemTime;

/// One log entry for one jail, as fail2ban's filters see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// The jail whose `journalmatch` the entry satisfies.
    pub jail: String,
    /// When it was logged.
    pub time: SystemTime,
    /// `HOST IDENT[PID]: MESSAGE`.
    pub text: String,
}
