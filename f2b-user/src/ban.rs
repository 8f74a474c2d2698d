//! The set of all bans: who asked for each, and when the last of them ends. No clock, no I/O.
//!
//! Several jails and the operator may ban one address with different ends. The address stays banned until the latest
//! of these ends, and one owner's unban never opens another's ban.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// When a ban ends. Ordered: everything ends before [`Until::Forever`].
///
/// In JSON: seconds since 1970, or `"forever"`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "UntilJson", into = "UntilJson")]
pub enum Until {
    Time(SystemTime),
    Forever,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum UntilJson {
    Seconds(f64),
    Word(Word),
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Forever,
}

impl From<Until> for UntilJson {
    fn from(until: Until) -> Self {
        match until {
            Until::Time(end) => {
                Self::Seconds(end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64())
            }
            Until::Forever => Self::Word(Word::Forever),
        }
    }
}

impl From<UntilJson> for Until {
    fn from(json: UntilJson) -> Self {
        match json {
            UntilJson::Word(Word::Forever) => Self::Forever,
            // What no clock can show is as good as for ever.
            UntilJson::Seconds(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .and_then(|since_epoch| SystemTime::UNIX_EPOCH.checked_add(since_epoch))
                .map_or(Self::Forever, Self::Time),
        }
    }
}

impl Until {
    /// Whether a ban with this end is over at `now`.
    pub fn is_over(self, now: SystemTime) -> bool {
        matches!(self, Self::Time(end) if end <= now)
    }
}

impl fmt::Display for Until {
    /// Local time to the second, or `forever`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Time(end) => match jiff::Timestamp::try_from(*end) {
                Ok(end) => {
                    let zoned = end.to_zoned(jiff::tz::TimeZone::system());
                    write!(f, "{}", zoned.strftime("%Y-%m-%d %H:%M:%S"))
                }
                Err(_) => f.write_str("beyond the calendar"),
            },
        }
    }
}

/// The owner of a ban that was found in the kernel map without a record of who asked for it, for example after
/// `bpftool map update` by hand.
pub const KERNEL: &str = "(kernel)";

/// What the kernel map must do to follow a change of the set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// The effective end is as it was.
    None,
    /// The address is banned until then.
    Set(Until),
    /// The address is free.
    Removed,
}

/// All bans, by address and by end.
#[derive(Debug, Default)]
pub struct BanSet {
    /// Address → owner (a jail's name, or [`KERNEL`]) → end. Never an empty inner map.
    bans: HashMap<IpAddr, BTreeMap<String, Until>>,
    /// Every ban that ends, soonest first.
    ends: BTreeSet<(SystemTime, IpAddr, String)>,
}

impl BanSet {
    /// Bans `address` for `owner` until `until`; a ban that this owner already has gets the new end.
    pub fn add(&mut self, address: IpAddr, owner: &str, until: Until) -> Change {
        let before = self.until(address);
        let owners = self.bans.entry(address).or_default();
        if let Some(Until::Time(old)) = owners.insert(owner.to_owned(), until) {
            self.ends.remove(&(old, address, owner.to_owned()));
        }
        if let Until::Time(end) = until {
            self.ends.insert((end, address, owner.to_owned()));
        }
        self.change_since(before, address)
    }

    /// Ends `owner`'s ban of `address`. The address is free only when nobody else bans it.
    pub fn remove(&mut self, address: IpAddr, owner: &str) -> Change {
        let before = self.until(address);
        let Some(owners) = self.bans.get_mut(&address) else {
            return Change::None;
        };
        if let Some(Until::Time(end)) = owners.remove(owner) {
            self.ends.remove(&(end, address, owner.to_owned()));
        }
        if owners.is_empty() {
            self.bans.remove(&address);
        }
        self.change_since(before, address)
    }

    /// Takes out the soonest ban that is over at `now`, until there is none.
    pub fn expire_one(&mut self, now: SystemTime) -> Option<(IpAddr, String, Change)> {
        let (end, address, owner) = self.ends.first().cloned()?;
        if end > now {
            return None;
        }
        let change = self.remove(address, &owner);
        Some((address, owner, change))
    }

    /// When the next ban ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.ends.first().map(|(end, ..)| *end)
    }

    /// The latest end over all owners, or `None` if `address` is not banned.
    pub fn until(&self, address: IpAddr) -> Option<Until> {
        self.bans.get(&address)?.values().max().copied()
    }

    /// When `owner`'s ban of `address` ends, or `None` if it has none.
    pub fn until_of(&self, address: IpAddr, owner: &str) -> Option<Until> {
        self.bans.get(&address)?.get(owner).copied()
    }

    /// Who bans `address`.
    pub fn owners(&self, address: IpAddr) -> Vec<String> {
        self.bans.get(&address).map(|owners| owners.keys().cloned().collect()).unwrap_or_default()
    }

    /// Every ban: address, owner, end.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &str, Until)> {
        self.bans.iter().flat_map(|(address, owners)| {
            owners.iter().map(|(owner, until)| (*address, owner.as_str(), *until))
        })
    }

    /// The addresses that `owner` bans, soonest end first, as `fail2ban-client get JAIL banip` lists them.
    pub fn of(&self, owner: &str) -> Vec<IpAddr> {
        let mut bans: Vec<_> = self
            .iter()
            .filter(|(_, by, _)| *by == owner)
            .map(|(address, _, until)| (until, address))
            .collect();
        bans.sort_unstable();
        bans.into_iter().map(|(_, address)| address).collect()
    }

    /// How many addresses are banned.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// Whether nothing is banned.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    fn change_since(&self, before: Option<Until>, address: IpAddr) -> Change {
        match self.until(address) {
            after if after == before => Change::None,
            Some(until) => Change::Set(until),
            None => Change::Removed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn until(seconds: u64) -> Until {
        Until::Time(at(seconds))
    }

    #[test]
    fn ends_in_json_are_seconds_or_forever() {
        for (end, json) in [(until(600), "600.0"), (Until::Forever, "\"forever\"")] {
            assert_eq!(serde_json::to_string(&end).unwrap(), json);
            assert_eq!(serde_json::from_str::<Until>(json).unwrap(), end);
        }
    }

    #[test]
    fn one_owners_unban_never_opens_anothers_ban() {
        let mut bans = BanSet::default();
        assert_eq!(bans.add(ADDRESS, "sshd", until(600)), Change::Set(until(600)));
        assert_eq!(bans.add(ADDRESS, "recidive", until(900)), Change::Set(until(900)));
        assert_eq!(bans.remove(ADDRESS, "sshd"), Change::None);
        assert_eq!(bans.remove(ADDRESS, "recidive"), Change::Removed);
        assert!(bans.is_empty());
    }

    #[test]
    fn removing_the_longest_ban_leaves_the_next_longest_end() {
        let mut bans = BanSet::default();
        bans.add(ADDRESS, "sshd", until(600));
        bans.add(ADDRESS, "recidive", Until::Forever);
        assert_eq!(bans.remove(ADDRESS, "recidive"), Change::Set(until(600)));
    }

    #[test]
    fn bans_expire_soonest_first_and_never_early() {
        let mut bans = BanSet::default();
        bans.add(ADDRESS, "sshd", until(600));
        bans.add(ADDRESS, "recidive", until(900));
        assert_eq!(bans.next_end(), Some(at(600)));
        assert_eq!(bans.expire_one(at(599)), None);
        assert_eq!(bans.expire_one(at(600)), Some((ADDRESS, "sshd".into(), Change::None)));
        assert_eq!(bans.expire_one(at(600)), None);
        assert_eq!(bans.expire_one(at(900)), Some((ADDRESS, "recidive".into(), Change::Removed)));
    }

    #[test]
    fn a_repeated_ban_takes_the_new_end_and_forgets_the_old_one() {
        let mut bans = BanSet::default();
        bans.add(ADDRESS, "sshd", until(600));
        assert_eq!(bans.add(ADDRESS, "sshd", until(900)), Change::Set(until(900)));
        assert_eq!(bans.expire_one(at(700)), None);
        assert_eq!(bans.add(ADDRESS, "sshd", Until::Forever), Change::Set(Until::Forever));
        assert_eq!(bans.next_end(), None);
    }
}
