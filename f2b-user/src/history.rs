//! Who was banned before, how often, and when last: what `bantime.increment` goes by. No clock, no I/O.
//!
//! fail2ban asks its database (`bips`) at each failure; here what the store has is in memory, as long as some jail
//! increases its ban times: 32 bytes for each address and jail. What the store forgets as too old is forgotten here, too.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::ban::{Subject, Until};

/// The earlier bans of one address or prefix.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Past {
    /// At least 1.
    pub count: u32,
    /// When the last of them began.
    pub time: SystemTime,
}

/// The earlier bans of all addresses.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Their numbers in the keys. Never taken out.
    jails: Vec<String>,
    bans: HashMap<(Key, u16), Entry>,
}

/// An address or prefix in one spelling: 16 bytes and a length.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct Key {
    address: [u8; 16],
    length: u8,
}

impl From<Subject> for Key {
    fn from(subject: Subject) -> Self {
        let net = subject.net();
        match net.addr() {
            IpAddr::V4(v4) => Self { address: v4.to_ipv6_mapped().octets(), length: 96 + net.prefix_len() },
            IpAddr::V6(v6) => Self { address: v6.octets(), length: net.prefix_len() },
        }
    }
}

/// Whole seconds, as fail2ban's database has them: 4 bytes reach until 2106.
#[derive(Clone, Copy, Debug)]
struct Entry {
    count: u32,
    seconds: u32,
    /// The ban's; [`FOREVER`].
    length: u32,
}

const FOREVER: u32 = u32::MAX;

/// A ban counts for so many times its length (`Fail2BanDb._purge_bips`).
pub const OUTDATED_FACTOR: u32 = 3;

impl From<Entry> for Past {
    fn from(entry: Entry) -> Self {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.seconds.into());
        Self { count: entry.count, time }
    }
}

impl History {
    /// Remembers that `subject` was banned by `jail` for the `past.count`th time, until then.
    pub fn add(&mut self, jail: &str, subject: Subject, past: Past, until: Until) {
        let jail = match self.number(jail) {
            Some(number) => number,
            None => {
                let Ok(number) = u16::try_from(self.jails.len()) else { return };
                self.jails.push(jail.to_owned());
                number
            }
        };
        // As the database does (`int(round(…))`).
        let seconds = past.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let length = match until {
            Until::Forever => FOREVER,
            Until::Time(end) => {
                let length = end.duration_since(past.time).unwrap_or_default().as_secs();
                u32::try_from(length).unwrap_or(FOREVER)
            }
        };
        let entry = Entry { count: past.count, seconds: seconds.round_ties_even() as u32, length };
        self.bans.insert((subject.into(), jail), entry);
    }

    /// Forgets what `jail` had against `subject`, as an unban by hand does.
    pub fn remove(&mut self, jail: &str, subject: Subject) {
        if let Some(jail) = self.number(jail) {
            self.bans.remove(&(subject.into(), jail));
        }
    }

    /// Forgets bans that are older than `age` by their beginning and by [`OUTDATED_FACTOR`] times their length.
    pub fn purge(&mut self, now: SystemTime, age: Duration) {
        let before = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let before = before.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.bans.retain(|_, entry| {
            let counts_until =
                u64::from(entry.seconds) + u64::from(entry.length) * u64::from(OUTDATED_FACTOR);
            entry.length == FOREVER || counts_until >= before
        });
        if self.bans.len() < self.bans.capacity() / 8 {
            self.bans.shrink_to_fit();
        }
    }

    /// Has no ban begin later than now: whoever dated it so had a wrong clock, and it would hide those that follow.
    pub fn not_after(&mut self, now: SystemTime) {
        let now =
            now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64().round_ties_even();
        self.bans.values_mut().for_each(|entry| entry.seconds = entry.seconds.min(now as u32));
    }

    /// The earlier bans of `subject` by `jail`.
    pub fn of(&self, jail: &str, subject: Subject) -> Option<Past> {
        Some((*self.bans.get(&(subject.into(), self.number(jail)?))?).into())
    }

    /// Those by all jails together (`bantime.overalljails`): how many, and when the last began.
    pub fn over_all(&self, subject: Subject) -> Option<Past> {
        let key = Key::from(subject);
        let numbers = 0..u16::try_from(self.jails.len()).unwrap_or(u16::MAX);
        let entries = numbers.filter_map(|jail| self.bans.get(&(key, jail)));
        let add = |a: Entry, b: Entry| Entry {
            count: a.count.saturating_add(b.count),
            seconds: a.seconds.max(b.seconds),
            length: a.length.max(b.length),
        };
        Some(entries.copied().reduce(add)?.into())
    }

    /// How many addresses of how many jails.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether nobody was banned.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    fn number(&self, jail: &str) -> Option<u16> {
        let number = self.jails.iter().position(|known| known == jail)?;
        u16::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn past(count: u32, seconds: u64) -> Past {
        Past { count, time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    #[test]
    fn bans_are_counted_by_jail_and_over_all() {
        let (mut history, a) = (History::default(), "192.0.2.7".parse().unwrap());
        assert_eq!((history.of("sshd", a), history.over_all(a)), (None, None));
        let until = Until::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(800));
        history.add("sshd", a, past(1, 100), until);
        history.add("sshd", a, past(2, 200), until);
        history.add("web", a, past(5, 150), until);
        assert_eq!(history.of("sshd", a), Some(past(2, 200)));
        assert_eq!(history.over_all(a), Some(past(7, 200)));
        for other in ["192.0.2.6/31", "192.0.2.8", "::192.0.2.7"] {
            assert_eq!(history.over_all(other.parse().unwrap()), None, "{other}");
        }
        history.remove("sshd", a);
        assert_eq!((history.of("sshd", a), history.over_all(a)), (None, Some(past(5, 150))));
        assert_eq!(history.len(), 1);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let (mut history, age) = (History::default(), Duration::from_secs(1000));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|ip| ip.parse().unwrap());
        let [short, long, forever] = all;
        history.add("a", short, past(1, 100), Until::Time(at(200)));
        history.add("a", long, past(2, 100), Until::Time(at(2100)));
        history.add("a", forever, past(3, 100), Until::Forever);
        let mut left = |now| {
            history.purge(at(now), age);
            all.map(|ip| history.of("a", ip).map(|past| past.count))
        };
        assert_eq!(left(1400), [Some(1), Some(2), Some(3)]);
        assert_eq!(left(1401), [None, Some(2), Some(3)]);
        assert_eq!(left(7101), [None, None, Some(3)]);
    }

    #[test]
    fn an_entry_takes_thirty_two_bytes() {
        assert!(size_of::<((Key, u16), Entry)>() <= 32);
    }
}
