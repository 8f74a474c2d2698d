//! One jail's decision: whom it ignores, how it counts failures, when and for how long it bans. No clock, no I/O.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use crate::{
    ban::Until,
    config::{BanTime, JailSettings},
    filter::{self, Failure},
};

/// The failures of one address, as fail2ban keeps them (`server/ticket.py`): a count and the span it covers, not a
/// list of times. When the span outgrows `findtime`, the count becomes what the rate so far amounts to in `findtime`.
#[derive(Clone, Copy, Debug)]
struct Tally {
    first: SystemTime,
    last: SystemTime,
    count: u32,
}

impl Tally {
    fn add(&mut self, time: SystemTime, findtime: Duration) {
        if let (true, Ok(span)) = (time > self.last, time.duration_since(self.first)) {
            if span > findtime {
                let rate = f64::from(self.count) / span.as_secs_f64();
                self.count = (rate * findtime.as_secs_f64()).round_ties_even() as u32;
                self.first = time - findtime;
            }
            self.last = time;
        }
        self.count = self.count.saturating_add(1);
    }
}

/// A fresh memory for the jail's log. Journal entries carry their own time; the dates in files are local.
fn context(settings: &JailSettings, now: SystemTime) -> filter::Context {
    settings.filter.context(settings.logtimezone.clone(), seconds(now))
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Why a failure was not counted, or an address not banned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// Unspecified, broadcast or multicast: no packet worth dropping comes from there.
    NoHost,
    /// It is one of this machine's own addresses (`ignoreself`).
    OwnAddress,
    /// `ignoreip` names it.
    IgnoreIp,
    /// It happened more than `findtime` ago.
    TooOld,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "it is no host's address",
            Self::OwnAddress => "it is this machine's own address",
            Self::IgnoreIp => "ignoreip names it",
            Self::TooOld => "it is too old to count",
        })
    }
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    Ignored(Ignored),
    /// Counted, and not yet enough.
    Counted {
        count: u32,
    },
    /// Enough: ban until then.
    Ban {
        until: Until,
        count: u32,
    },
    /// Enough, but the ban it led to would already be over: nothing to do. Happens when old lines are caught up.
    AlreadyOver,
}

/// A jail at work: its settings and the failures it has counted.
#[derive(Debug)]
pub struct Jail {
    settings: JailSettings,
    /// What the filter remembers between lines.
    context: filter::Context,
    tallies: HashMap<IpAddr, Tally>,
    total_failed: u64,
    total_banned: u64,
    /// Lines over the budget before the settings changed.
    over_budget: u64,
    over_budget_taken: u64,
}

impl Jail {
    /// A jail that has seen nothing yet. `now` tells how far in the future the dates in its log can be.
    pub fn new(settings: JailSettings, now: SystemTime) -> Self {
        let context = context(&settings, now);
        Self {
            settings,
            context,
            tallies: HashMap::new(),
            total_failed: 0,
            total_banned: 0,
            over_budget: 0,
            over_budget_taken: 0,
        }
    }

    /// The failures that a line completes. `logged` is when it was logged, if its source knows; else its date tells.
    pub fn find(&mut self, text: &str, logged: Option<SystemTime>, now: SystemTime) -> Vec<Failure> {
        self.settings.filter.failures(&mut self.context, text, logged.map(seconds), seconds(now))
    }

    pub fn settings(&self) -> &JailSettings {
        &self.settings
    }

    /// Goes on with other settings and the failures counted so far.
    pub fn reconfigure(&mut self, settings: JailSettings, now: SystemTime) {
        self.over_budget = self.over_budget();
        self.context = context(&settings, now);
        self.settings = settings;
    }

    /// Lines that were cut because they are too long, or have no verdict because matching them would take too long.
    pub fn over_budget(&self) -> u64 {
        self.over_budget + self.context.over_budget()
    }

    /// Those of them that were not taken before.
    pub fn take_over_budget(&mut self) -> u64 {
        let all = self.over_budget();
        all - std::mem::replace(&mut self.over_budget_taken, all)
    }

    /// Charges one failure at `time` (the log's own time) to `address`.
    ///
    /// `own` are this machine's addresses, `now` is the clock. A ban starts with the failure that completed it, so
    /// that it ends when it would have ended had the line been read at once.
    pub fn failure(&mut self, address: IpAddr, time: SystemTime, own: &[IpAddr], now: SystemTime) -> Outcome {
        if time + self.settings.findtime < now {
            return Outcome::Ignored(Ignored::TooOld);
        }
        if let Some(reason) = self.ignores(address, own) {
            return Outcome::Ignored(reason);
        }
        self.total_failed += 1;
        let findtime = self.settings.findtime;
        let tally = self
            .tallies
            .entry(address)
            .and_modify(|tally| tally.add(time, findtime))
            .or_insert(Tally { first: time, last: time, count: 1 });
        let count = tally.count;
        if count < self.settings.maxretry {
            return Outcome::Counted { count };
        }
        self.tallies.remove(&address);
        let until = self.ban_until(time);
        if until.is_over(now) { Outcome::AlreadyOver } else { Outcome::Ban { until, count } }
    }

    /// Counts a failure that an agent before this one has decided on: it adds to the window, and what it led to then
    /// is not done again.
    pub fn replay(&mut self, address: IpAddr, time: SystemTime, own: &[IpAddr], now: SystemTime) {
        let total_failed = self.total_failed;
        self.failure(address, time, own, now);
        self.total_failed = total_failed;
    }

    /// When a ban that starts at `start` ends.
    pub fn ban_until(&self, start: SystemTime) -> Until {
        match self.settings.bantime {
            BanTime::For(bantime) => start.checked_add(bantime).map_or(Until::Forever, Until::Time),
            BanTime::Forever => Until::Forever,
        }
    }

    /// Whether `address` must never be banned, and why. IPv4 loopback and the like are in `ignoreip` by default.
    pub fn ignores(&self, address: IpAddr, own: &[IpAddr]) -> Option<Ignored> {
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        if address.is_unspecified() || address.is_multicast() || broadcast {
            return Some(Ignored::NoHost);
        }
        if self.settings.ignoreself && own.contains(&address) {
            return Some(Ignored::OwnAddress);
        }
        let listed = self.settings.ignoreip.iter().any(|net: &IpNet| net.contains(&address));
        listed.then_some(Ignored::IgnoreIp)
    }

    /// Counts a ban for [`total_banned`](Self::total_banned).
    pub fn banned(&mut self) {
        self.total_banned += 1;
    }

    /// Forgets what is known of `address`, as an unban does.
    pub fn forget(&mut self, address: IpAddr) {
        self.tallies.remove(&address);
    }

    /// Drops failures that no window reaches any more, so that memory follows the attack and not the uptime.
    pub fn sweep(&mut self, now: SystemTime) {
        let findtime = self.settings.findtime;
        self.tallies.retain(|_, tally| tally.last + findtime >= now);
    }

    /// Addresses with failures that are not (yet) enough.
    pub fn currently_failed(&self) -> usize {
        self.tallies.len()
    }

    /// Failures counted since the start.
    pub fn total_failed(&self) -> u64 {
        self.total_failed
    }

    /// Bans since the start.
    pub fn total_banned(&self) -> u64 {
        self.total_banned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_settings;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn attacker() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    /// maxretry 5, findtime and bantime 10 minutes.
    fn jail() -> Jail {
        Jail::new(test_settings(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_fifth_failure_in_the_window_bans_from_its_own_time() {
        let mut jail = jail();
        for (second, count) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            assert_eq!(jail.failure(attacker(), at(second), &[], at(4)), Outcome::Counted { count });
        }
        let ban = Outcome::Ban { until: Until::Time(at(4 + 600)), count: 5 };
        assert_eq!(jail.failure(attacker(), at(4), &[], at(9)), ban);
        assert_eq!(jail.currently_failed(), 0, "a ban starts the count anew");
    }

    #[test]
    fn failures_slower_than_maxretry_per_findtime_never_ban() {
        let mut jail = jail();
        for n in 0..100 {
            let time = at(n * 200);
            assert!(
                matches!(jail.failure(attacker(), time, &[], time), Outcome::Counted { .. }),
                "failure {n}"
            );
        }
    }

    #[test]
    fn catching_up_ignores_old_failures_and_does_not_ban_for_what_is_over() {
        let mut settings = test_settings();
        settings.bantime = BanTime::For(Duration::from_secs(60));
        let mut jail = Jail::new(settings, SystemTime::UNIX_EPOCH);
        assert_eq!(jail.failure(attacker(), at(0), &[], at(601)), Outcome::Ignored(Ignored::TooOld));
        for n in 0..4 {
            jail.failure(attacker(), at(n), &[], at(300));
        }
        assert_eq!(jail.failure(attacker(), at(4), &[], at(300)), Outcome::AlreadyOver);
    }

    #[test]
    fn own_and_ignored_addresses_are_never_counted() {
        let mut jail = jail();
        let own = ["198.51.100.1".parse().unwrap()];
        assert_eq!(jail.failure(own[0], at(0), &own, at(0)), Outcome::Ignored(Ignored::OwnAddress));
        for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
            let outcome = jail.failure(loopback.parse().unwrap(), at(0), &own, at(0));
            assert_eq!(outcome, Outcome::Ignored(Ignored::IgnoreIp), "{loopback}");
        }
        for no_host in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
            let outcome = jail.failure(no_host.parse().unwrap(), at(0), &own, at(0));
            assert_eq!(outcome, Outcome::Ignored(Ignored::NoHost), "{no_host}");
        }
        assert_eq!(jail.total_failed(), 0);
    }

    #[test]
    fn lines_over_the_budget_are_counted_and_taken_once() {
        let mut jail = jail();
        jail.find(&"x".repeat(100_000), Some(at(0)), at(0));
        assert_eq!((jail.take_over_budget(), jail.take_over_budget()), (1, 0));
        jail.reconfigure(test_settings(), at(1));
        jail.find(&"x".repeat(100_000), Some(at(1)), at(1));
        assert_eq!((jail.take_over_budget(), jail.over_budget()), (1, 2));
    }

    #[test]
    fn sweeping_forgets_what_no_window_reaches() {
        let mut jail = jail();
        jail.failure(attacker(), at(0), &[], at(0));
        jail.sweep(at(600));
        assert_eq!(jail.currently_failed(), 1);
        jail.sweep(at(601));
        assert_eq!(jail.currently_failed(), 0);
    }
}
