//! The set of all bans: who asked for each, what it covers, and when it ends. No clock, no I/O.
//!
//! Several jails and the operator may ban one address, or a prefix that it is in, with different scopes and ends. Each
//! scope stays banned until the latest of its ends, and one owner's unban never opens another's ban.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    str::FromStr,
    time::{Duration, SystemTime},
};

use foldhash::fast::RandomState;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use smallvec::SmallVec;

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
    /// Whether it is later than `other` by more than `noise`.
    pub fn is_later(self, other: Self, noise: Duration) -> bool {
        match (self, other) {
            (_, Self::Forever) => false,
            (Self::Forever, Self::Time(_)) => true,
            (Self::Time(a), Self::Time(b)) => a.duration_since(b).is_ok_and(|later| later > noise),
        }
    }

    /// By how much it is later than `other`: not at all, if it is earlier or either is for ever.
    pub fn since(self, other: Self) -> Duration {
        match (self, other) {
            (Self::Time(a), Self::Time(b)) => a.duration_since(b).unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

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

/// Whom a ban is of: an address, or a prefix. IPv4 is IPv4 however it was written.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Subject(IpNet);

impl Subject {
    /// The prefix; that of a single address is as long as the address.
    pub fn net(self) -> IpNet {
        self.0
    }

    /// The address, if it is one and not a prefix.
    pub fn address(self) -> Option<IpAddr> {
        (self.0.prefix_len() == self.0.max_prefix_len()).then(|| self.0.addr())
    }
}

impl From<IpAddr> for Subject {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

/// Bits beyond the length are cut off; an IPv4-mapped prefix becomes the IPv4 prefix that it is.
impl From<IpNet> for Subject {
    fn from(net: IpNet) -> Self {
        let net = net.trunc();
        let IpNet::V6(v6) = net else { return Self(net) };
        let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
        let v4 = mapped.and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok());
        Self(v4.map_or(net, IpNet::V4))
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let net: IpNet = text.parse().map_err(|_error| "it is neither an address nor a prefix".to_owned())?;
        if net != net.trunc() {
            return Err(format!("it has bits beyond its length; write {}", net.trunc()));
        }
        Ok(net.into())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address() {
            Some(address) => address.fmt(f),
            None => self.0.fmt(f),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("{text}: {error}")))
    }
}

/// The owner of a ban that was found in the kernel map without a record of who asked for it, for example after
/// `bpftool map update` by hand. With several ends, there is one for each: `(kernel 2)`, …
pub const KERNEL: &str = "(kernel)";

/// Scopes as a mask of their numbers in the kernel: bit 0 is every packet.
pub type Scopes = u64;

/// Bit 0: every packet.
pub const ALL_PORTS: Scopes = 1 << f2b_ebpf::ALL_PORTS;

/// A part of what bans a subject: these scopes, until then.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Step {
    pub until: Until,
    pub scopes: Scopes,
}

impl Step {
    /// What of this step `held` does not have, or has only until an end that is earlier by more than `noise`.
    pub fn beyond(&self, held: &[Self], noise: Duration) -> Option<Self> {
        let as_long = held.iter().filter(|step| !self.until.is_later(step.until, noise));
        let covered = as_long.fold(0, |scopes, step| scopes | step.scopes);
        let scopes = if covered & ALL_PORTS == 0 { self.scopes & !covered } else { 0 };
        (scopes != 0).then_some(Self { scopes, ..*self })
    }
}

/// The steps of one subject: one as a rule.
pub type Steps = SmallVec<[Step; 1]>;

/// What the kernel map must hold now for a subject: nothing, or these steps, see [`steps`].
pub type Change = (Subject, Steps);

/// The steps that several bans of one subject come to: latest end first, every scope in the one step with the latest
/// of its ends, none besides a ban of all ports that lasts as long.
pub fn steps(bans: impl IntoIterator<Item = Step>) -> Steps {
    let mut bans: Steps = bans.into_iter().collect();
    bans.sort_by_key(|step| std::cmp::Reverse(step.until));
    let mut steps = Steps::new();
    let mut covered = 0;
    for Step { until, scopes } in bans {
        let new = if covered & ALL_PORTS == 0 { scopes & !covered } else { 0 };
        covered |= new;
        match steps.last_mut() {
            _ if new == 0 => {}
            Some(last) if last.until == until => last.scopes |= new,
            _ => steps.push(Step { until, scopes: new }),
        }
        // Among equals, a ban of all ports needs no other beside it.
        if let Some(last) = steps.last_mut().filter(|last| last.scopes & ALL_PORTS != 0) {
            last.scopes = ALL_PORTS;
        }
    }
    steps
}

/// The same in at most `slots` steps, for a value that holds no more: those that end soonest stay as they are, and the
/// others become one with the latest end. Until the first of those ends nothing is different, and the agent, as long as
/// it runs, makes the steps anew at every end. Only if no agent runs then, some ports stay banned longer than asked,
/// and never longer than the latest end.
pub fn squeeze(mut steps: Steps, slots: usize) -> Steps {
    if let Some(excess) = steps.len().checked_sub(slots).filter(|excess| *excess > 0) {
        let merged = steps.drain(1..=excess).fold(0, |scopes, step| scopes | step.scopes);
        steps[0].scopes |= merged;
    }
    steps
}

/// A ban in 24 bytes: a hundred thousand of them must not be felt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ban {
    end: End,
    scopes: Scopes,
    owner: Owner,
}

/// The number of an owner in [`BanSet::owners`].
type Owner = u16;

/// When a ban ends, in microseconds since 1970, rounded up: never early. The highest byte comes first, so that ends are
/// in order, and nothing is lost for alignment.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct End([u8; 8]);

impl End {
    const NEVER: Self = Self([u8::MAX; 8]);
}

impl From<Until> for End {
    fn from(until: Until) -> Self {
        let Until::Time(end) = until else { return Self::NEVER };
        let since_epoch = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let micros = since_epoch.as_nanos().div_ceil(1000);
        u64::try_from(micros).map_or(Self::NEVER, |micros| Self(micros.to_be_bytes()))
    }
}

impl From<End> for Until {
    fn from(end: End) -> Self {
        if end == End::NEVER {
            return Self::Forever;
        }
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(u64::from_be_bytes(end.0)));
        end.map_or(Self::Forever, Self::Time)
    }
}

impl From<Ban> for Step {
    fn from(ban: Ban) -> Self {
        Self { until: ban.end.into(), scopes: ban.scopes }
    }
}

/// All bans, by subject and by end.
#[derive(Debug, Default)]
pub struct BanSet {
    /// Never an empty list.
    bans: HashMap<Subject, SmallVec<[Ban; 1]>, RandomState>,
    /// The names of all who ever banned (jails, and [`KERNEL`]), by their number.
    owners: Vec<Box<str>>,
    /// The subjects that are prefixes, in order: whatever is in a prefix stands right behind it.
    prefixes: BTreeSet<Subject>,
    /// Every ban that ends, soonest first.
    ends: BTreeSet<(End, Subject, Owner)>,
}

impl BanSet {
    /// Bans `subject` for `owner`; a ban that this owner already has gets the new end and scopes. Returns what the
    /// kernel map must do to follow.
    pub fn add(&mut self, subject: Subject, owner: &str, until: Until, scopes: Scopes) -> Vec<Change> {
        self.change(subject, |set| {
            let (before, ban) = set.put(subject, owner, until, scopes);
            if let Some(before) = before {
                set.ends.remove(&(before.end, subject, before.owner));
            }
            if ban.end != End::NEVER {
                set.ends.insert((ban.end, subject, ban.owner));
            }
        })
    }

    /// The same for many where nobody follows yet: what the kernel map must hold is asked for at the end.
    pub fn insert_all<'a>(&mut self, bans: impl IntoIterator<Item = (Subject, &'a str, Until, Scopes)>) {
        let bans = bans.into_iter();
        self.bans.reserve(bans.size_hint().0);
        for (subject, owner, until, scopes) in bans {
            self.put(subject, owner, until, scopes);
        }
        // A tree of what is sorted first is made several times faster than one of what comes in any order.
        let all = self.bans.iter();
        let all = all.flat_map(|(subject, bans)| bans.iter().map(|ban| (ban.end, *subject, ban.owner)));
        self.ends = all.filter(|(end, ..)| *end != End::NEVER).collect();
    }

    /// Everything but [`ends`](Self::ends). The owner's ban before, and the one now.
    fn put(&mut self, subject: Subject, owner: &str, until: Until, scopes: Scopes) -> (Option<Ban>, Ban) {
        let ban = Ban { end: until.into(), scopes, owner: self.number(owner) };
        if subject.address().is_none() {
            self.prefixes.insert(subject);
        }
        let bans = self.bans.entry(subject).or_default();
        match bans.iter_mut().find(|known| known.owner == ban.owner) {
            Some(known) => (Some(std::mem::replace(known, ban)), ban),
            None => {
                bans.push(ban);
                (None, ban)
            }
        }
    }

    /// Ends `owner`'s ban of `subject`. What others ban stays banned.
    pub fn remove(&mut self, subject: Subject, owner: &str) -> Vec<Change> {
        let Some(owner) = self.known(owner) else { return Vec::new() };
        self.change(subject, |set| {
            let Some(bans) = set.bans.get_mut(&subject) else {
                return;
            };
            if let Some(at) = bans.iter().position(|ban| ban.owner == owner) {
                let ban = bans.remove(at);
                set.ends.remove(&(ban.end, subject, owner));
            }
            if bans.is_empty() {
                set.bans.remove(&subject);
                set.prefixes.remove(&subject);
            }
        })
    }

    fn known(&self, owner: &str) -> Option<Owner> {
        let number = self.owners.iter().position(|known| **known == *owner)?;
        Owner::try_from(number).ok()
    }

    /// Those beyond the last number share it: nobody has so many jails.
    fn number(&mut self, owner: &str) -> Owner {
        self.known(owner).unwrap_or_else(|| {
            if self.owners.len() <= usize::from(Owner::MAX) {
                self.owners.push(owner.into());
            }
            (self.owners.len() - 1) as Owner
        })
    }

    fn name(&self, owner: Owner) -> &str {
        &self.owners[usize::from(owner)]
    }

    fn of_owner(&self, subject: Subject, owner: &str) -> Option<&Ban> {
        let owner = self.known(owner)?;
        self.bans.get(&subject)?.iter().find(|ban| ban.owner == owner)
    }

    /// Takes out the soonest ban that is over at `now`, until there is none.
    pub fn expire_one(&mut self, now: SystemTime) -> Option<(Subject, String, Vec<Change>)> {
        let (end, subject, owner) = *self.ends.first()?;
        if !Until::from(end).is_over(now) {
            return None;
        }
        let owner = self.name(owner).to_owned();
        let changes = self.remove(subject, &owner);
        Some((subject, owner, changes))
    }

    /// When the next ban ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        match Until::from(self.ends.first()?.0) {
            Until::Time(end) => Some(end),
            Until::Forever => None,
        }
    }

    /// The latest end over all owners, or `None` if `subject` itself is not banned.
    pub fn until(&self, subject: Subject) -> Option<Until> {
        self.bans.get(&subject)?.iter().map(|ban| ban.end).max().map(Until::from)
    }

    /// When `owner`'s ban of `subject` ends, or `None` if it has none.
    pub fn until_of(&self, subject: Subject, owner: &str) -> Option<Until> {
        Some(self.of_owner(subject, owner)?.end.into())
    }

    /// What `owner`'s ban of `subject` covers; nothing if there is none.
    pub fn scopes_of(&self, subject: Subject, owner: &str) -> Scopes {
        self.of_owner(subject, owner).map_or(0, |ban| ban.scopes)
    }

    /// What the kernel map must hold for `subject`. That of a prefix includes what wider prefixes ban, because the
    /// kernel sees only the longest one that an address is in.
    pub fn steps(&self, subject: Subject) -> Steps {
        if !self.bans.contains_key(&subject) {
            return Steps::new();
        }
        steps(self.covering(subject))
    }

    /// What the kernel has for `subject` beyond what the set explains. A step is explained by a ban that covers as much
    /// for as long, and by one that ends at the same time: that is the same ban, made when its jail had other ports.
    pub fn unexplained(&self, subject: Subject, held: &[Step], noise: Duration) -> Vec<Step> {
        let covering: Vec<_> = self.covering(subject).collect();
        let ends_like = |step: &&Step| {
            covering
                .iter()
                .any(|ban| !ban.until.is_later(step.until, noise) && !step.until.is_later(ban.until, noise))
        };
        let steps = held.iter().filter(|step| !ends_like(step));
        steps.filter_map(|step| step.beyond(&covering, noise)).collect()
    }

    /// The bans of `subject`, and of the prefixes around it if it is one.
    fn covering(&self, subject: Subject) -> impl Iterator<Item = Step> {
        let subjects = self.wider(subject).chain([subject]);
        let bans = subjects.filter_map(|subject| self.bans.get(&subject)).flatten();
        bans.copied().map(Step::from)
    }

    /// All scopes that any ban covers.
    pub fn scopes(&self) -> Scopes {
        self.bans.values().flatten().fold(0, |all, ban| all | ban.scopes)
    }

    /// Who bans `subject`.
    pub fn owners(&self, subject: Subject) -> Vec<String> {
        let bans = self.bans.get(&subject).into_iter().flatten();
        let mut owners: Vec<_> = bans.map(|ban| self.name(ban.owner).to_owned()).collect();
        owners.sort_unstable();
        owners
    }

    /// Every ban: subject, owner, end.
    pub fn iter(&self) -> impl Iterator<Item = (Subject, &str, Until)> {
        self.bans.iter().flat_map(|(subject, bans)| {
            bans.iter().map(|ban| (*subject, self.name(ban.owner), ban.end.into()))
        })
    }

    /// Everybody who is banned, wider prefixes before what is in them.
    pub fn subjects(&self) -> Vec<Subject> {
        let mut subjects: Vec<_> = self.bans.keys().copied().collect();
        subjects.sort_unstable();
        subjects
    }

    /// Whom `owner` bans, soonest end first, as `fail2ban-client get JAIL banip` lists them.
    pub fn of(&self, owner: &str) -> Vec<Subject> {
        let Some(owner) = self.known(owner) else { return Vec::new() };
        let bans = self.bans.iter().flat_map(|(subject, bans)| bans.iter().map(move |ban| (subject, ban)));
        let mut bans: Vec<_> =
            bans.filter(|(_, ban)| ban.owner == owner).map(|(subject, ban)| (ban.end, *subject)).collect();
        bans.sort_unstable();
        bans.into_iter().map(|(_, subject)| subject).collect()
    }

    /// How many addresses and prefixes are banned.
    pub fn len(&self) -> usize {
        self.bans.len()
    }

    /// How many of them are prefixes.
    pub fn prefixes(&self) -> usize {
        self.prefixes.len()
    }

    /// Whether nothing is banned.
    pub fn is_empty(&self) -> bool {
        self.bans.is_empty()
    }

    /// Changes the bans of `subject`, and returns what is different since, there and in the prefixes inside of it.
    fn change(&mut self, subject: Subject, change: impl FnOnce(&mut Self)) -> Vec<Change> {
        let mut concerned = self.narrower(subject);
        concerned.insert(0, subject);
        let before: Vec<_> = concerned.iter().map(|subject| self.steps(*subject)).collect();
        change(self);
        let after = concerned.into_iter().map(|subject| (subject, self.steps(subject)));
        after.zip(before).filter(|((_, after), before)| after != before).map(|(after, _)| after).collect()
    }

    /// The banned prefixes that `subject`, a prefix, lies in. Hosts are looked up apart from prefixes in the kernel.
    fn wider(&self, subject: Subject) -> impl Iterator<Item = Subject> {
        let net = subject.net();
        let lengths =
            if subject.address().is_some() || self.prefixes.is_empty() { 0 } else { net.prefix_len() };
        (0..lengths).filter_map(move |length| {
            let wider = Subject::from(IpNet::new(net.addr(), length).ok()?.trunc());
            self.prefixes.contains(&wider).then_some(wider)
        })
    }

    /// The banned prefixes that lie in `subject`.
    fn narrower(&self, subject: Subject) -> Vec<Subject> {
        if subject.address().is_some() {
            return Vec::new();
        }
        let net = subject.net();
        let behind = self.prefixes.range(subject..).skip_while(|prefix| **prefix == subject);
        behind.take_while(|prefix| net.contains(&prefix.net())).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use smallvec::smallvec;

    use super::*;

    const SSH: Scopes = 1 << 1;
    const WEB: Scopes = 1 << 2;
    const DNS: Scopes = 1 << 3;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn until(seconds: u64) -> Until {
        Until::Time(at(seconds))
    }

    fn step(seconds: u64, scopes: Scopes) -> Step {
        Step { until: until(seconds), scopes }
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn address() -> Subject {
        subject("192.0.2.7")
    }

    #[test]
    fn ends_in_json_are_seconds_or_forever() {
        for (end, json) in [(until(600), "600.0"), (Until::Forever, "\"forever\"")] {
            assert_eq!(serde_json::to_string(&end).unwrap(), json);
            assert_eq!(serde_json::from_str::<Until>(json).unwrap(), end);
        }
    }

    #[test]
    fn subjects_are_addresses_and_prefixes_in_one_spelling_each() {
        for (text, shown) in [
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("2001:DB8::/56", "2001:db8::/56"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(subject(text).to_string(), shown);
        }
        for broken in ["192.0.2.7/24", "2001:db8::1/64", "192.0.2.0/33", "nonsense", "", "192.0.2.0/"] {
            assert!(broken.parse::<Subject>().is_err(), "{broken}");
        }
    }

    #[test]
    fn one_owners_unban_never_opens_anothers_ban() {
        let (mut bans, a) = (BanSet::default(), address());
        assert_eq!(bans.add(a, "sshd", until(600), SSH), [(a, smallvec![step(600, SSH)])]);
        let both: Steps = smallvec![step(900, WEB), step(600, SSH)];
        assert_eq!(bans.add(a, "web", until(900), WEB), [(a, both)]);
        assert_eq!(bans.remove(a, "sshd"), [(a, smallvec![step(900, WEB)])]);
        assert_eq!(bans.add(a, "recidive", until(950), ALL_PORTS), [(a, smallvec![step(950, ALL_PORTS)])]);
        assert_eq!(bans.remove(a, "web"), [], "what is covered anyway changes nothing");
        assert_eq!(bans.remove(a, "recidive"), [(a, smallvec![])]);
        assert!(bans.is_empty());
    }

    #[test]
    fn each_scope_lasts_until_the_latest_of_its_ends() {
        let (mut bans, a) = (BanSet::default(), address());
        bans.add(a, "sshd", until(600), SSH);
        bans.add(a, "long", until(900), SSH | WEB);
        bans.add(a, "all", until(700), ALL_PORTS);
        assert_eq!(bans.steps(a)[..], [step(900, SSH | WEB), step(700, ALL_PORTS)]);
        bans.add(a, "for ever", Until::Forever, DNS);
        let forever = Step { until: Until::Forever, scopes: DNS };
        assert_eq!(bans.steps(a)[..], [forever, step(900, SSH | WEB), step(700, ALL_PORTS)]);
        bans.remove(a, "long");
        assert_eq!(bans.steps(a)[..], [forever, step(700, ALL_PORTS)]);
    }

    #[test]
    fn steps_in_too_few_slots_are_exact_until_the_soonest_end() {
        let steps: Steps = smallvec![step(900, SSH), step(800, WEB), step(700, DNS), step(600, ALL_PORTS)];
        assert_eq!(squeeze(steps.clone(), 4), steps);
        let squeezed = squeeze(steps.clone(), 3);
        assert_eq!(squeezed[..], [step(900, SSH | WEB), step(700, DNS), step(600, ALL_PORTS)]);
        assert_eq!(squeeze(steps, 1)[..], [step(900, SSH | WEB | DNS | ALL_PORTS)]);
    }

    #[test]
    fn what_is_found_beyond_what_is_held_is_the_rest_of_it() {
        let noise = Duration::from_secs(1);
        let held = [step(900, SSH), step(600, WEB)];
        assert_eq!(step(900, SSH).beyond(&held, noise), None);
        assert_eq!(step(901, SSH).beyond(&held, noise), None, "clocks are never read at once");
        assert_eq!(step(902, SSH).beyond(&held, noise), Some(step(902, SSH)));
        assert_eq!(step(700, SSH | WEB).beyond(&held, noise), Some(step(700, WEB)));
        assert_eq!(step(700, DNS).beyond(&[step(900, ALL_PORTS)], noise), None);
        assert_eq!(step(700, ALL_PORTS).beyond(&held, noise), Some(step(700, ALL_PORTS)));
    }

    #[test]
    fn the_kernels_ban_of_a_jail_with_other_ports_is_the_jails_ban() {
        let noise = Duration::from_secs(1);
        let (mut bans, a) = (BanSet::default(), address());
        assert_eq!(bans.unexplained(a, &[step(600, SSH)], noise), [step(600, SSH)]);
        bans.add(a, "sshd", until(600), WEB);
        assert_eq!(bans.unexplained(a, &[step(600, SSH)], noise), []);
        assert_eq!(bans.unexplained(a, &[step(900, SSH), step(600, SSH)], noise), [step(900, SSH)]);
        let (wide, narrow) = (subject("10.0.0.0/8"), subject("10.1.0.0/16"));
        bans.add(wide, "web", until(900), WEB);
        assert_eq!(bans.unexplained(narrow, &[step(900, WEB), step(600, SSH)], noise), [step(600, SSH)]);
    }

    #[test]
    fn a_prefix_includes_what_wider_prefixes_ban() {
        let mut bans = BanSet::default();
        let (wide, narrow, other) = (subject("10.0.0.0/8"), subject("10.1.0.0/16"), subject("11.0.0.0/16"));
        let host = subject("10.1.2.3");
        bans.add(narrow, "sshd", until(600), SSH);
        bans.add(other, "sshd", until(600), SSH);
        bans.add(host, "sshd", until(600), SSH);
        let changes = bans.add(wide, "web", until(900), WEB);
        assert_eq!(
            changes,
            [(wide, smallvec![step(900, WEB)]), (narrow, smallvec![step(900, WEB), step(600, SSH)])]
        );
        assert_eq!(bans.steps(host)[..], [step(600, SSH)], "the kernel looks for hosts and for prefixes");
        assert_eq!(bans.remove(narrow, "sshd"), [(narrow, smallvec![])]);
        bans.add(narrow, "sshd", until(950), SSH);
        let changes = bans.remove(wide, "web");
        assert_eq!(changes, [(wide, smallvec![]), (narrow, smallvec![step(950, SSH)])]);
        assert_eq!(bans.prefixes(), 2);
    }

    #[test]
    fn bans_expire_soonest_first_and_never_early() {
        let (mut bans, a) = (BanSet::default(), address());
        bans.add(a, "sshd", until(600), SSH);
        bans.add(a, "recidive", until(900), ALL_PORTS);
        assert_eq!(bans.next_end(), Some(at(600)));
        assert_eq!(bans.expire_one(at(599)), None);
        assert_eq!(bans.expire_one(at(600)), Some((a, "sshd".into(), vec![])));
        assert_eq!(bans.expire_one(at(600)), None);
        assert_eq!(bans.expire_one(at(900)), Some((a, "recidive".into(), vec![(a, smallvec![])])));
    }

    #[test]
    fn many_at_once_come_to_the_same_as_one_after_the_other() {
        let (mut one, mut all) = (BanSet::default(), BanSet::default());
        let prefix = subject("192.0.2.0/24");
        let bans = [
            (address(), "sshd", until(600), SSH),
            (prefix, "web", until(900), WEB),
            (address(), "sshd", until(500), SSH),
            (address(), "web", Until::Forever, WEB),
        ];
        bans.iter()
            .for_each(|(subject, owner, until, scopes)| drop(one.add(*subject, owner, *until, *scopes)));
        all.add(subject("198.51.100.7"), "sshd", until(100), SSH);
        one.add(subject("198.51.100.7"), "sshd", until(100), SSH);
        all.insert_all(bans);
        for now in [100, 500, 900] {
            assert_eq!(all.next_end(), one.next_end());
            assert_eq!(all.expire_one(at(now)), one.expire_one(at(now)));
            assert_eq!((all.subjects(), all.prefixes()), (one.subjects(), one.prefixes()));
        }
        assert_eq!((all.next_end(), all.len()), (None, 1));
    }

    #[test]
    fn a_repeated_ban_takes_the_new_end_and_forgets_the_old_one() {
        let (mut bans, a) = (BanSet::default(), address());
        bans.add(a, "sshd", until(600), SSH);
        assert_eq!(bans.add(a, "sshd", until(900), SSH), [(a, smallvec![step(900, SSH)])]);
        assert_eq!(bans.expire_one(at(700)), None);
        bans.add(a, "sshd", Until::Forever, SSH);
        assert_eq!(bans.next_end(), None);
    }

    /// 100,000 bans: 15 MB.
    #[test]
    fn a_ban_takes_little_room() {
        assert_eq!((size_of::<Ban>(), size_of::<(End, Subject, Owner)>()), (24, 28));
        assert_eq!(size_of::<(Subject, SmallVec<[Ban; 1]>)>(), 56);
    }

    #[test]
    fn ends_are_kept_to_the_microsecond_and_never_early() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        let kept = Until::from(End::from(Until::Time(end)));
        assert_eq!(kept, Until::Time(SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001)));
        assert_eq!(Until::from(End::from(Until::Forever)), Until::Forever);
    }
}
