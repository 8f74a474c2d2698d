//! What happens to addresses: one function for each thing, which says it both to people and in fail2ban's words.
//!
//! fail2ban's text is in the field `log.fail2ban`: what begins with `log.`, tracing's formatter for people leaves out.
//! `target` is the part of fail2ban that says it; an event called `notice` is of that level.

use std::{fmt::Display, time::SystemTime};

use jiff::{Timestamp, tz::TimeZone};
use tracing::{debug, info, warn};

use crate::{
    ban::{Subject, Until},
    filter::Failure,
    ticket::{Length, Ticket},
};

/// The field that has fail2ban's text.
pub(super) const FAIL2BAN: &str = "log.fail2ban";

/// A failure is counted; `count` of them so far. `id` is whom it is charged to, `time` when it happened.
pub fn found(jail: &str, failure: &Failure, time: SystemTime, count: u32) {
    let (id, user) = (failure.fid.as_str(), failure.user());
    info!(
        target: "fail2ban.filter", jail, log.fail2ban = %format_args!("[{jail}] Found {id} - {}", Local(time)),
        ip = %id, user, count, "Found"
    );
}

/// A failure is not counted because of `source`, in fail2ban's words: `ip`, `dns`, `command`, `ignoreself rule`; for
/// people, `reason`.
pub fn ignored(jail: &str, id: impl Display, source: &str, reason: impl Display) {
    info!(
        target: "fail2ban.filter", jail, log.fail2ban = %format_args!("[{jail}] Ignore {id} by {source}"),
        ip = %id, "Ignore: {reason}"
    );
}

/// A ban that would be over already.
pub fn expired(jail: &str, id: impl Display) {
    info!(
        target: "fail2ban.actions", jail, log.fail2ban = %format_args!("[{jail}] Ignore {id}, expired bantime"),
        ip = %id, "Its ban would be over already"
    );
}

/// A failure that was added by hand.
pub fn attempt(jail: &str, id: impl Display, time: SystemTime) {
    info!(
        target: "fail2ban.filter", jail, log.fail2ban = %format_args!("[{jail}] Attempt {id} - {}", Local(time)),
        ip = %id, "Attempt"
    );
}

/// A ban holds.
pub fn banned(jail: &str, subject: Subject, until: Until) {
    info!(
        name: "notice", target: "fail2ban.actions", jail, log.fail2ban = %format_args!("[{jail}] Ban {subject}"),
        ip = %subject, %until, "Ban"
    );
}

/// A ban of the agent before is put back.
pub fn restored(jail: &str, subject: Subject, until: Until) {
    info!(
        name: "notice", target: "fail2ban.actions", jail, log.fail2ban = %format_args!("[{jail}] Restore Ban {subject}"),
        ip = %subject, %until, "Restore Ban"
    );
}

/// A ban is over, or was ended by hand.
pub fn unbanned(jail: &str, subject: Subject) {
    info!(
        name: "notice", target: "fail2ban.actions", jail, log.fail2ban = %format_args!("[{jail}] Unban {subject}"),
        ip = %subject, "Unban"
    );
}

/// The actions of a ban are run once more, because what they made is gone; `action` if only that one.
pub fn rebanned(jail: &str, id: &str, action: Option<&str>) {
    let action = action.map(|action| format!(", action '{action}'")).unwrap_or_default();
    info!(
        name: "notice", target: "fail2ban.actions", jail, log.fail2ban = %format_args!("[{jail}] Reban {id}{action}"),
        ip = id, "Reban"
    );
}

/// A ban of who is banned. The longer after the ban the failure was logged (`after`, in seconds), the odder: a line that
/// was on its way is none of anybody's business.
pub fn already_banned(jail: &str, id: impl Display, after: f64) {
    let text = format_args!("[{jail}] {id} already banned");
    match after {
        ..3.0 => {
            debug!(target: "fail2ban.actions", jail, log.fail2ban = %text, ip = %id, "Already banned");
        }
        ..60.0 => {
            info!(name: "notice", target: "fail2ban.actions", jail, log.fail2ban = %text, ip = %id, "Already banned");
        }
        _ => {
            warn!(target: "fail2ban.actions", jail, log.fail2ban = %text, ip = %id, "Already banned");
        }
    }
}

/// A known offender's ban is longer than the jail's.
pub fn increased(ticket: &Ticket) {
    let Ticket { jail, subject, bancount, .. } = ticket;
    let until = ticket.until();
    let (lasts, end) = match (ticket.bantime, until) {
        (Length::For(seconds), Until::Time(end)) => (Duration(seconds).to_string(), Local(end).to_string()),
        _ => ("permanent".to_owned(), "infinite".to_owned()),
    };
    info!(
        name: "notice", target: "fail2ban.observer", jail,
        log.fail2ban = %format_args!("[{jail}] Increase Ban {subject} ({bancount} # {lasts} -> {end})"),
        ip = %subject, count = bancount, %until, "Increase Ban"
    );
}

/// A failure of a known offender counts as `retries`: it was banned `bans` times before; `bans_now` if that is enough.
pub fn found_bad(jail: &str, id: impl Display, time: SystemTime, bans: u32, retries: u32, bans_now: bool) {
    let ban = if bans_now { ", Ban" } else { "" };
    info!(
        target: "fail2ban.observer",
        jail, log.fail2ban = %format_args!("[{jail}] Found {id}, bad - {}, {bans} # -> {retries}{ban}", Local(time)),
        ip = %id, bans, retries, "A known offender, whose failures count more"
    );
}

/// What an action made is taken back for all bans at once.
pub fn flushed(jail: &str, action: &str) {
    info!(
        name: "notice", target: "fail2ban.actions",
        jail, log.fail2ban = %format_args!("[{jail}] Flush ticket(s) with {action}"),
        action, "Flush"
    );
}

/// The log file was opened anew.
pub fn rolled_over(target: &str) {
    info!(target: "fail2ban.server", target, log.fail2ban = %format_args!("rollover performed on {target}"), "Flushed the log");
}

/// Local time to the second, as fail2ban writes it (`MyTime.time2str`).
struct Local(SystemTime);

impl Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ok(time) = Timestamp::try_from(self.0) else {
            return f.write_str("9999-12-31 23:59:59");
        };
        write!(f, "{}", time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S"))
    }
}

/// Seconds in at most three units: `2d 7h 15m` (`MyTime.seconds2str`).
pub struct Duration(pub f64);

impl Display for Duration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        /// Seconds, and what so many are called.
        type Units = &'static [(u64, &'static str)];
        /// From which length on it is good enough to count in which unit, and the units to write.
        const SCALES: [(f64, u64, Units); 5] = [
            (31_536_000.0, 86_400, &[(31_536_000, "y"), (604_800, "w"), (86_400, "d")]),
            (604_800.0, 3_600, &[(604_800, "w"), (86_400, "d"), (3_600, "h")]),
            (86_400.0, 60, &[(86_400, "d"), (3_600, "h"), (60, "m")]),
            (3_595.0, 10, &[(3_600, "h"), (60, "m")]),
            (0.0, 1, &[(60, "m"), (1, "s")]),
        ];
        let scale = SCALES.iter().find(|(from, ..)| self.0 >= *from);
        let Some((_, unit, units)) = scale else {
            return write!(f, "{}s", self.0);
        };
        let mut left = (self.0 / *unit as f64).round_ties_even() as u64 * unit;
        let mut written = false;
        for (length, name) in *units {
            let count = left / length;
            left %= length;
            if count > 0 {
                let space = if written { " " } else { "" };
                write!(f, "{space}{count}{name}")?;
                written = true;
            }
        }
        if written { Ok(()) } else { f.write_str("0") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_fail2ban_writes_them() {
        for (seconds, text) in [
            (86400.0 * 390.0, "1y 3w 4d"),
            (86400.0 * 368.0, "1y 3d"),
            (86400.0 * 365.0, "1y"),
            (86400.0 * 2.0 + 3600.0 * 7.0 + 60.0 * 15.0, "2d 7h 15m"),
            (86400.0 * 2.0 + 3599.0, "2d 1h"),
            (3595.0, "1h"),
            (3590.0, "59m 50s"),
            (59.0, "59s"),
            (0.0, "0"),
            (600.0, "10m"),
        ] {
            assert_eq!(Duration(seconds).to_string(), text);
        }
    }
}
