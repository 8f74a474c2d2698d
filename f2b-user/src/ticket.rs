//! What is known of a ban: what actions are told (`server/ticket.py`). A plain record; no clock, no I/O.

use std::time::SystemTime;

use crate::ban::{Subject, Until};

/// How long a ban lasts from its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// Seconds.
    For(f64),
    Forever,
}

/// One ban of one jail, and the failures that led to it. In angle brackets: the tags of actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    pub jail: String,
    /// `<ip>`, and what the kernel drops.
    pub subject: Subject,
    /// `<fid>`: what the failures were charged to; mostly the address.
    pub fid: String,
    /// `<time>`: when the ban began, which is when the last failure happened.
    pub time: SystemTime,
    /// `<bantime>`
    pub bantime: Length,
    /// `<bancount>`: which ban of this address it is, from 1. Only `bantime.increment` counts further.
    pub bancount: u32,
    /// `<failures>`; 0 for a ban by hand.
    pub failures: u32,
    /// `<matches>`: the last lines that led to it, up to `maxmatches`, oldest first.
    pub matches: Vec<String>,
    /// `<F-…>`: what the groups of the expression caught at the first failure, by their names in small letters.
    pub fields: Vec<(String, String)>,
    /// `<restored>`: it is an agent's before this one.
    pub restored: bool,
}

impl Ticket {
    /// A ban without failures, as one by hand is.
    pub fn by_hand(jail: &str, subject: Subject, time: SystemTime, bantime: Length) -> Self {
        Self {
            jail: jail.to_owned(),
            subject,
            fid: subject.to_string(),
            time,
            bantime,
            bancount: 1,
            failures: 0,
            matches: Vec::new(),
            fields: Vec::new(),
            restored: false,
        }
    }

    /// When the ban ends.
    pub fn until(&self) -> Until {
        self.bantime.from(self.time)
    }
}

impl Length {
    /// The end of a ban that begins at `start`. What no clock can show is as good as for ever.
    pub fn from(self, start: SystemTime) -> Until {
        use std::time::Duration;
        match self {
            Self::For(seconds) => {
                let end = match Duration::try_from_secs_f64(seconds.abs()) {
                    Ok(length) if seconds >= 0.0 => start.checked_add(length),
                    Ok(length) => start.checked_sub(length).or(Some(SystemTime::UNIX_EPOCH)),
                    Err(_) => None,
                };
                end.map_or(Until::Forever, Until::Time)
            }
            Self::Forever => Until::Forever,
        }
    }
}
