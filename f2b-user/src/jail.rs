//! One jail's decision: whom it ignores, how it counts failures, when and for how long it bans. No clock, no I/O.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use ipnet::IpNet;

use crate::{
    ban::Subject,
    config::{BanTime, JailSettings},
    filter::{self, Failure, Fields},
    history::{History, Past},
    increment::Increased,
    matches::{Matches, Place},
    tally::{BYTES, Key, Tally, from_bytes, key, to_bytes},
    ticket::{Length, Ticket},
};

/// By how much the times of a history may be early.
const ROUNDING: Duration = Duration::from_millis(500);

const DAY: Duration = Duration::from_secs(86_400);

/// Keeps the lines of a failure, and what its groups caught if it is the first. `false`: there were so many lines that no
/// place is good any more.
fn keep(matches: &mut Matches, tally: &mut Tally, evidence: Evidence<'_>, is_first: bool) -> bool {
    evidence.matches.iter().enumerate().all(|(n, line)| {
        let fields = evidence.fields.filter(|_| is_first && n == 0).into_iter().flat_map(Fields::iter);
        let place = matches.push(tally.matches, line, fields);
        tally.matches = place.unwrap_or(Place::NONE);
        place.is_some()
    })
}

/// How often the failure of an address counts that was banned `bans` times (`server/observer.py`, `failureFound`).
fn worth(bans: u32, maxretry: u32) -> u32 {
    // fail2ban's is one and a half for no ban; nobody is in its database without one.
    ((1 << bans.clamp(1, 20)) / 2 + 1).min(maxretry)
}

fn micros(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// A fresh memory for the jail's log. Journal entries carry their own time; the dates in files are local.
fn context(settings: &JailSettings, now: SystemTime) -> filter::Context {
    let context = settings.filter.context(settings.logtimezone.clone(), seconds(now));
    if settings.maxmatches > 0 { context.keep_lines() } else { context }
}

/// Local time as Python's `isoformat` writes it.
fn iso(time: SystemTime) -> String {
    let Ok(time) = jiff::Timestamp::try_from(time) else { return String::new() };
    let time = time.to_zoned(jiff::tz::TimeZone::system());
    let format = if time.subsec_nanosecond() < 1000 { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%dT%H:%M:%S.%6f" };
    format!("{} ", time.strftime(format))
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
    /// A name or a file of `ignoreip` does.
    Dns,
    /// It happened more than `findtime` ago.
    TooOld,
}

impl Ignored {
    /// What fail2ban's log names as the reason (`server/filter.py`, `logIgnoreIp`).
    pub fn source(self) -> &'static str {
        match self {
            Self::OwnAddress => "ignoreself rule",
            Self::IgnoreIp => "ip",
            Self::Dns => "dns",
            Self::NoHost => "no host",
            Self::TooOld => "findtime",
        }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHost => "it is no host's address",
            Self::OwnAddress => "it is this machine's own address",
            Self::IgnoreIp => "ignoreip names it",
            Self::Dns => "a name or file of ignoreip names it",
            Self::TooOld => "it is too old to count",
        })
    }
}

/// What a failure leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Ignored(Ignored),
    /// Counted, and not yet enough.
    Counted(Count),
    /// Enough.
    Ban(Count, Box<Ticket>),
    /// Enough, but the ban it led to would already be over: nothing to do. Happens when old lines are caught up.
    AlreadyOver,
}

/// How many failures there are now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Count {
    /// What is compared with `maxretry`.
    pub count: u32,
    /// For a known offender: how often it was banned, and how much this failure counts.
    pub bad: Option<(u32, u32)>,
}

/// What is known of a failure besides its time and its address.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// What it is charged to; nothing: the address.
    pub fid: &'a str,
    /// The lines that matched.
    pub matches: &'a [String],
    pub fields: Option<&'a Fields>,
}

impl<'a> From<&'a Failure> for Evidence<'a> {
    fn from(failure: &'a Failure) -> Self {
        Self { fid: &failure.fid, matches: &failure.matches, fields: Some(&failure.fields) }
    }
}

/// A jail at work: its settings and the failures it has counted.
#[derive(Debug)]
pub struct Jail {
    settings: JailSettings,
    /// What the filter remembers between lines.
    context: filter::Context,
    tallies: HashMap<Key, Tally>,
    matches: Matches,
    /// The failures that were counted before a restart were counted by the agent before, and are not counted anew.
    is_resumed: bool,
    /// Who stands behind the names and files of `ignoreip`, sorted; `None` until somebody has asked.
    also_ignored: Option<Vec<IpNet>>,
    total_failed: u64,
    total_banned: u64,
    /// Lines over the budget before the settings changed.
    over_budget: u64,
    over_budget_taken: u64,
    /// When an odd date was warned of.
    odd_date: Option<SystemTime>,
}

impl Jail {
    /// A jail that has seen nothing yet. `now` tells how far in the future the dates in its log can be.
    pub fn new(settings: JailSettings, now: SystemTime) -> Self {
        let context = context(&settings, now);
        Self {
            settings,
            context,
            tallies: HashMap::new(),
            matches: Matches::default(),
            is_resumed: false,
            also_ignored: None,
            total_failed: 0,
            total_banned: 0,
            over_budget: 0,
            over_budget_taken: 0,
            odd_date: None,
        }
    }

    /// The failures that a line completes. `logged` is when it was logged, if its source knows; else its date tells.
    pub fn find(&mut self, text: &str, logged: Option<SystemTime>, now: SystemTime) -> Vec<Failure> {
        let mut failures =
            self.settings.filter.failures(&mut self.context, text, logged.map(seconds), seconds(now));
        if let Some(logged) = logged {
            // A journal's lines have their date beside them (`FilterSystemd.getJrnEntTime`).
            for line in failures.iter_mut().flat_map(|failure| &mut failure.matches) {
                line.insert_str(0, &iso(logged));
            }
        }
        failures
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

    /// Whether to warn of a line with an odd date: once a day (`Filter._logWarnOnce`).
    pub fn warns_of_date(&mut self, now: SystemTime) -> bool {
        let is_due = self.odd_date.is_none_or(|last| now.duration_since(last).is_ok_and(|ago| ago >= DAY));
        if is_due {
            self.odd_date = Some(now);
        }
        is_due
    }

    /// Charges one failure at `time` (the log's own time) to `address`.
    ///
    /// `own` are this machine's addresses, `now` is the clock. A ban starts with the failure that completed it, so
    /// that it ends when it would have ended had the line been read at once.
    pub fn failure(
        &mut self,
        address: IpAddr,
        time: SystemTime,
        evidence: Evidence<'_>,
        history: &History,
        own: &[IpAddr],
        now: SystemTime,
    ) -> Outcome {
        if self.is_too_old(time, now) {
            return Outcome::Ignored(Ignored::TooOld);
        }
        if let Some(reason) = self.ignores(address, own) {
            return Outcome::Ignored(reason);
        }
        self.total_failed += 1;
        let mut tally = self.count(address, time, evidence, now);
        let maxretry = self.settings.maxretry;
        let mut bad = None;
        // Whoever has enough anyway counts once (`Filter.processLineAndAdd`).
        if tally.count < maxretry
            && self.settings.increment.is_some()
            && let Some(past) = history.of(&self.settings.name, address.into())
            && time > past.time
        {
            let worth = worth(past.count, maxretry);
            if worth > 1 {
                tally.count = tally.count.saturating_add(worth - 1);
                bad = Some((past.count, worth));
            }
        }
        let count = Count { count: tally.count, bad };
        if tally.count < maxretry {
            self.tallies.insert(key(address), tally);
            return Outcome::Counted(count);
        }
        self.tallies.remove(&key(address));
        // As fail2ban, by the ban time of everybody (`BanManager.addBanTicket`).
        if self.length().from(time).is_over(now) {
            return Outcome::AlreadyOver;
        }
        let ticket = self.ticket(address, tally, evidence);
        Outcome::Ban(count, Box::new(ticket))
    }

    /// Whether a failure at `time` is outside of the find window.
    pub fn is_too_old(&self, time: SystemTime, now: SystemTime) -> bool {
        time + self.settings.findtime < now
    }

    /// Adds a failure to those of its address that the window at `now` reaches.
    fn count(&mut self, address: IpAddr, time: SystemTime, evidence: Evidence<'_>, now: SystemTime) -> Tally {
        let (time, findtime) = (micros(time), self.settings.findtime.as_micros() as u64);
        let since = micros(now).saturating_sub(findtime);
        // It does not depend on when the last sweep was.
        if self.tallies.get(&key(address)).is_some_and(|tally| tally.last < since) {
            self.tallies.remove(&key(address));
        }
        let tally = self.tallies.entry(key(address));
        let tally = tally.and_modify(|tally| tally.add(time, findtime)).or_insert_with(|| Tally::new(time));
        let is_first = tally.failures == 1;
        if self.settings.maxmatches == 0 || keep(&mut self.matches, tally, evidence, is_first) {
            return *tally;
        }
        let counted = *tally;
        self.tallies.values_mut().for_each(|tally| tally.matches = Place::NONE);
        counted
    }

    /// The ticket of an address with enough failures. How long the ban lasts is [`sentence`](Self::sentence)'s matter.
    fn ticket(&self, address: IpAddr, tally: Tally, evidence: Evidence<'_>) -> Ticket {
        let (mut matches, mut fields) = self.matches.lines(tally.matches, self.settings.maxmatches);
        if self.settings.maxmatches == 0 {
            matches.clear();
        }
        if fields.is_empty()
            && let Some(last) = evidence.fields
        {
            fields = last.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        }
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(tally.last);
        let mut ticket = Ticket::by_hand(&self.settings.name, address.into(), time, self.length());
        if !evidence.fid.is_empty() {
            ticket.fid = evidence.fid.to_owned();
        }
        Ticket { failures: tally.failures, matches, fields, ..ticket }
    }

    /// The earlier bans that `bantime.increment` goes by, if it is on.
    pub fn past(&self, subject: Subject, history: &History) -> Option<Past> {
        if self.settings.increment.as_ref()?.overalljails {
            history.over_all(subject)
        } else {
            history.of(&self.settings.name, subject)
        }
    }

    /// Has the ban last as long as the earlier ones of this address make it (`server/observer.py`, `incrBanTime`).
    /// `random` gives numbers from 0 to 1.
    ///
    /// # Errors
    /// The formula has no result; the ticket then keeps the ban time of everybody.
    pub fn sentence(
        &self,
        ticket: &mut Ticket,
        history: &History,
        random: &mut dyn FnMut() -> f64,
    ) -> Result<(), crate::formula::Wrong> {
        let (Some(increment), BanTime::For(bantime)) = (&self.settings.increment, self.settings.bantime)
        else {
            return Ok(());
        };
        let past = self.past(ticket.subject, history);
        let Some(past) = past.filter(|_| bantime >= Duration::from_secs(1)) else { return Ok(()) };
        ticket.bancount = past.count.saturating_add(1);
        ticket.bantime = match increment.bantime(bantime.as_secs(), past.count, random)? {
            Increased::For(seconds) => Length::For(seconds),
            Increased::Forever => Length::Forever,
        };
        Ok(())
    }

    /// What was counted of each address, for [`resume`](Self::resume).
    pub fn counted(&self) -> Vec<u8> {
        let mut counted = Vec::with_capacity(self.tallies.len() * BYTES);
        self.tallies.iter().for_each(|(key, tally)| counted.extend(to_bytes(*key, *tally)));
        counted
    }

    /// Goes on from what an agent before had [`counted`](Self::counted) when it stopped, or from a part of it.
    pub fn resume(&mut self, counted: &[u8]) {
        self.tallies.extend(counted.as_chunks::<BYTES>().0.iter().map(from_bytes));
        self.is_resumed = true;
    }

    /// Takes notice of a failure that an agent before this one has decided on. What it led to is not done again. Unless
    /// that agent has left what it had [`counted`](Self::counted), it is counted as that one did then.
    pub fn replay(
        &mut self,
        address: IpAddr,
        time: SystemTime,
        evidence: Evidence<'_>,
        history: &History,
        own: &[IpAddr],
    ) {
        if self.is_resumed {
            // What is missing is which lines they were.
            if self.settings.maxmatches > 0
                && let Some(tally) =
                    self.tallies.get_mut(&key(address)).filter(|tally| tally.covers(micros(time)))
            {
                let is_first = tally.matches == Place::NONE;
                keep(&mut self.matches, tally, evidence, is_first);
            }
            return;
        }
        if self.settings.increment.is_some()
            && let Some(past) = history.of(&self.settings.name, address.into())
            && time <= past.time + ROUNDING
        {
            // It led to that ban, or to one before, and who was known then counted faster.
            self.tallies.remove(&key(address));
            return;
        }
        let total_failed = self.total_failed;
        self.failure(address, time, evidence, history, own, time);
        self.total_failed = total_failed;
    }

    /// How long bans last that nothing makes longer.
    pub fn length(&self) -> Length {
        match self.settings.bantime {
            BanTime::For(bantime) => Length::For(bantime.as_secs_f64()),
            BanTime::Forever => Length::Forever,
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
        if listed {
            return Some(Ignored::IgnoreIp);
        }
        let also = self.also_ignored().iter().any(|net| net.contains(&address));
        also.then_some(Ignored::Dns)
    }

    /// Who stands behind the names and files of `ignoreip`.
    pub fn also_ignored(&self) -> &[IpNet] {
        self.also_ignored.as_deref().unwrap_or_default()
    }

    /// Whether it is known who stands behind them.
    pub fn knows_all_ignored(&self) -> bool {
        self.also_ignored.is_some()
    }

    /// Ignores these, too, and none of those before.
    pub fn also_ignore(&mut self, nets: Vec<IpNet>) {
        self.also_ignored = Some(nets);
    }

    /// Counts a ban for [`total_banned`](Self::total_banned).
    pub fn banned(&mut self) {
        self.total_banned += 1;
    }

    /// Forgets what is known of `address`, as an unban does.
    pub fn forget(&mut self, address: IpAddr) {
        self.tallies.remove(&key(address));
    }

    /// Drops failures that no window reaches any more, so that memory follows the attack and not the uptime. Those that
    /// are later than now, because the clock was set back, become as old as they were.
    pub fn sweep(&mut self, now: SystemTime) {
        let findtime = self.settings.findtime;
        let now = micros(now);
        let since = now.saturating_sub(findtime.as_micros() as u64);
        self.tallies.retain(|_, tally| {
            let later = tally.last.saturating_sub(now);
            tally.first = tally.first.saturating_sub(later);
            tally.last -= later;
            tally.last >= since
        });
        if self.tallies.len() < self.tallies.capacity() / 8 {
            self.tallies.shrink_to_fit();
        }
        if self.tallies.is_empty() {
            self.matches.clear();
        }
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
    use crate::{ban::Until, config::test_settings};

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

    fn fail(jail: &mut Jail, time: SystemTime, now: SystemTime) -> Outcome {
        jail.failure(attacker(), time, Evidence::default(), &History::default(), &[], now)
    }

    fn counted(count: u32) -> Outcome {
        Outcome::Counted(Count { count, bad: None })
    }

    #[test]
    fn the_fifth_failure_in_the_window_bans_from_its_own_time() {
        let mut jail = jail();
        for (second, count) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
            assert_eq!(fail(&mut jail, at(second), at(4)), counted(count));
        }
        let Outcome::Ban(count, ticket) = fail(&mut jail, at(4), at(9)) else { panic!("no ban") };
        assert_eq!((count.count, ticket.failures, ticket.bancount), (5, 5, 1));
        assert_eq!((ticket.time, ticket.until()), (at(4), Until::Time(at(4 + 600))));
        assert_eq!(jail.currently_failed(), 0, "a ban starts the count anew");
    }

    #[test]
    fn failures_slower_than_maxretry_per_findtime_never_ban() {
        let mut jail = jail();
        for n in 0..100 {
            let time = at(n * 200);
            assert!(matches!(fail(&mut jail, time, time), Outcome::Counted(_)), "failure {n}");
        }
    }

    #[test]
    fn catching_up_ignores_old_failures_and_does_not_ban_for_what_is_over() {
        let mut settings = test_settings();
        settings.bantime = BanTime::For(Duration::from_secs(60));
        let mut jail = Jail::new(settings, SystemTime::UNIX_EPOCH);
        assert_eq!(fail(&mut jail, at(0), at(601)), Outcome::Ignored(Ignored::TooOld));
        for n in 0..4 {
            fail(&mut jail, at(n), at(300));
        }
        assert_eq!(fail(&mut jail, at(4), at(300)), Outcome::AlreadyOver);
    }

    #[test]
    fn own_and_ignored_addresses_are_never_counted() {
        let mut jail = jail();
        let own = ["198.51.100.1".parse().unwrap()];
        let mut failure = |address: IpAddr| {
            jail.failure(address, at(0), Evidence::default(), &History::default(), &own, at(0))
        };
        assert_eq!(failure(own[0]), Outcome::Ignored(Ignored::OwnAddress));
        for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
            let outcome = failure(loopback.parse().unwrap());
            assert_eq!(outcome, Outcome::Ignored(Ignored::IgnoreIp), "{loopback}");
        }
        for no_host in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1"] {
            let outcome = failure(no_host.parse().unwrap());
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
        fail(&mut jail, at(0), at(0));
        jail.sweep(at(600));
        assert_eq!(jail.currently_failed(), 1);
        jail.sweep(at(601));
        assert_eq!(jail.currently_failed(), 0);
    }

    #[test]
    fn failures_of_a_clock_that_was_ahead_grow_old() {
        let mut jail = jail();
        for n in 0..4 {
            fail(&mut jail, at(100_000 + n), at(100_000 + n));
        }
        jail.sweep(at(10));
        assert_eq!(jail.currently_failed(), 1, "they count as just happened");
        jail.sweep(at(611));
        assert_eq!(jail.currently_failed(), 0);
    }

    /// A jail with `bantime.increment`, and somebody whom it banned so often before, the last time at 0.
    fn known(bans: u32, maxretry: u32) -> (Jail, History) {
        let mut settings = test_settings();
        settings.maxretry = maxretry;
        settings.increment = Some(crate::increment::Increment::new(Default::default()).unwrap());
        let mut history = History::default();
        let past = Past { count: bans, time: at(0) };
        history.add(&settings.name, attacker().into(), past, Until::Time(at(600)));
        (Jail::new(settings, SystemTime::UNIX_EPOCH), history)
    }

    /// As `observer.failureFound` and `incrBanTime` of fail2ban 1.0.2 have it.
    #[test]
    fn known_offenders_count_faster_and_are_banned_longer() {
        for (bans, failures, seconds) in
            [(1, 3, 1200.0), (2, 2, 2400.0), (3, 1, 4800.0), (30, 1, 629_145_600.0)]
        {
            let (mut jail, history) = known(bans, 5);
            let mut ticket = None;
            for n in 1..=failures {
                match jail.failure(attacker(), at(n), Evidence::default(), &history, &[], at(n)) {
                    Outcome::Ban(_, found) => ticket = Some((n, found)),
                    outcome => assert!(matches!(outcome, Outcome::Counted(_)), "{outcome:?}"),
                }
            }
            let (n, mut ticket) = ticket.unwrap();
            assert_eq!(n, failures, "after {bans} bans");
            jail.sentence(&mut ticket, &history, &mut || 0.0).unwrap();
            assert_eq!((ticket.bancount, ticket.bantime), (bans + 1, Length::For(seconds)));
            assert_eq!(ticket.failures, u32::try_from(failures).unwrap());
        }
        let (mut jail, history) = known(3, 5);
        let before = jail.failure(attacker(), at(0), Evidence::default(), &history, &[], at(1));
        assert_eq!(before, counted(1), "what was before the last ban counts once");
    }

    #[test]
    fn a_ticket_has_the_last_lines_and_what_the_first_failure_told() {
        let mut settings = test_settings();
        settings.maxmatches = 2;
        let mut jail = Jail::new(settings, SystemTime::UNIX_EPOCH);
        let mut ticket = None;
        for n in 1..=5 {
            let line =
                format!("host sshd[7]: Failed password for invalid user u{n} from 192.0.2.7 port 22 ssh2");
            for failure in jail.find(&line, Some(at(n)), at(n)) {
                let outcome =
                    jail.failure(attacker(), at(n), (&failure).into(), &History::default(), &[], at(n));
                if let Outcome::Ban(_, found) = outcome {
                    ticket = Some(found);
                }
            }
        }
        let ticket = ticket.unwrap();
        assert_eq!(ticket.matches.len(), 2);
        assert!(ticket.matches[0].contains("user u4 from") && ticket.matches[1].contains("user u5 from"));
        assert!(ticket.matches[0].starts_with("1970-01-12T"), "{:?}", ticket.matches);
        assert!(ticket.fields.contains(&("user".into(), "u1".into())), "{:?}", ticket.fields);
        assert_eq!(ticket.fid, "192.0.2.7");
    }

    #[test]
    fn what_was_counted_goes_on_behind_a_restart_with_its_lines() {
        let line = |n: u64| {
            format!("host sshd[7]: Failed password for invalid user u{n} from 192.0.2.7 port 22 ssh2")
        };
        let failure = |jail: &mut Jail, n: u64| jail.find(&line(n), Some(at(n)), at(n)).remove(0);
        let mut jail = jail();
        for n in 1..=8 {
            let failure = failure(&mut jail, n);
            jail.failure(attacker(), at(n), (&failure).into(), &History::default(), &[], at(n));
        }
        let counted = jail.counted();
        let mut jail = super::tests::jail();
        jail.resume(&counted);
        // The find window begins before the ban, and a line is dated wrong.
        for n in [1, 2, 3, 4, 5, 6, 7, 90_000, 8] {
            let failure = failure(&mut jail, n);
            jail.replay(attacker(), at(n), (&failure).into(), &History::default(), &[]);
        }
        assert_eq!(jail.currently_failed(), 1);
        let last = failure(&mut jail, 9);
        let outcome = jail.failure(attacker(), at(9), (&last).into(), &History::default(), &[], at(9));
        assert_eq!(outcome, self::counted(4));
        let last = failure(&mut jail, 10);
        let outcome = jail.failure(attacker(), at(10), (&last).into(), &History::default(), &[], at(10));
        let Outcome::Ban(_, ticket) = outcome else { panic!("{outcome:?}") };
        assert_eq!(ticket.failures, 5);
        let users: Vec<_> = ticket.matches.iter().map(|line| line.split(' ').nth(8)).collect();
        assert_eq!(users, ["u6", "u7", "u8", "u9", "u10"].map(Some));
    }
}
