//! From a line to the failure that is charged to its address.

use std::{net::IpAddr, time::SystemTime};

use tracing::{debug, error, warn};

use super::Agent;
use crate::{
    ask::{Known, Waiting},
    filter::Failure,
    jail::{Count, Evidence, Ignored, Outcome},
    log::event,
    source::{self, Line, Reading},
    xdp::BanMap,
};

/// Whole seconds by which the date of a line that has just been written may differ from now (`Filter.processLine`).
const ODD_DATE: u64 = 60;

impl<M: BanMap> Agent<M> {
    /// Takes a line through filter and jail, and bans if that is what it comes to. One that is read again is only
    /// counted.
    pub fn line(&mut self, line: &Line, reading: Reading, now: SystemTime) {
        let Some(jail) = self.jails.get_mut(&*line.jail) else {
            return;
        };
        for failure in jail.find(&line.text, line.time, now) {
            self.failure(line, failure, reading, now);
        }
    }

    /// Charges a failure to its address, as soon as all is known that must be asked.
    fn failure(&mut self, line: &Line, failure: Failure, reading: Reading, now: SystemTime) {
        let time = line.time.unwrap_or_else(|| self.time_by_date(line, failure.time, reading, now));
        let replayed = reading == Reading::Again;
        if replayed && time > now {
            // Nobody knows any more when it was written.
            return;
        }
        // Nothing has happened later than now, whatever a line says (`Filter.processLineAndAdd`).
        let time = time.min(now);
        let waiting = Waiting { jail: line.jail.to_string(), failure, time, replayed };
        match waiting.failure.ip {
            Some(ip) => self.check(waiting, ip, now),
            None if waiting.failure.is_name => {
                if let Known::Now(addresses, waiting) = self.questions.resolve(waiting, now) {
                    self.resolved(*waiting, &addresses, now);
                }
            }
            // Something else than an address, which the kernel cannot drop.
            None => {}
        }
    }

    /// When a line of a file was written. If it has just been written, and its date says something else, the date is
    /// wrong: mostly in another time zone.
    fn time_by_date(&mut self, line: &Line, date: f64, reading: Reading, now: SystemTime) -> SystemTime {
        let date = source::time(date);
        let ago = now.duration_since(date).unwrap_or_default();
        if reading != Reading::Live || ago.as_secs() <= ODD_DATE {
            return date;
        }
        if let Some(jail) = self.jails.get_mut(&*line.jail)
            && jail.warns_of_date(now)
        {
            warn!(
                jail = &*line.jail,
                "A line that has just been written is dated {} s before now: is it in another time zone \
                 (logtimezone), or late? Such lines count as written now: {}",
                ago.as_secs(),
                line.text
            );
        }
        now
    }

    /// Charges a failure to its address.
    pub(super) fn charge(&mut self, waiting: &Waiting, ip: IpAddr, now: SystemTime) {
        let Waiting { jail: name, failure, time, replayed } = waiting;
        let (name, time) = (name.as_str(), *time);
        let Some(jail) = self.jails.get_mut(name) else { return };
        let evidence = Evidence::from(failure);
        if *replayed {
            return jail.replay(ip, time, evidence, &self.history, &self.own_addresses);
        }
        if self.own.allows(ip) {
            return event::ignored(name, ip, "ip", "f2b.conf allows it");
        }
        let outcome = jail.failure(ip, time, evidence, &self.history, &self.own_addresses, now);
        let maxretry = jail.settings().maxretry;
        let found = |Count { count, bad }: Count| {
            event::found(name, failure, time, count);
            if let Some((bans, worth)) = bad {
                event::found_bad(name, ip, time, bans, worth, worth >= maxretry);
            }
        };
        match outcome {
            Outcome::Counted(count) => found(count),
            Outcome::Ignored(Ignored::TooOld) => debug!(jail = name, %ip, "Too old to count"),
            Outcome::Ignored(reason) => event::ignored(name, ip, reason.source(), reason),
            Outcome::AlreadyOver => event::expired(name, ip),
            Outcome::Ban(count, mut ticket) => {
                found(count);
                let result = match self.bans.until_of(ip.into(), name) {
                    Some(until) => self.prolong(&ticket, until, now),
                    None => self.ban(&mut ticket, now),
                };
                if let Err(error) = result {
                    error!(jail = name, %ip, "Not banned: {error:#}");
                }
            }
        }
    }
}
