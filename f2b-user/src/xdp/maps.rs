//! The maps that the programs read: bans, prefixes, allow list, ports; and what they count.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues, lpm_trie::Key},
};
use f2b_ebpf::{
    ALL_PORTS, ALLOWED, AllowEntry, BANS, BanEntry, BanKey, COUNTERS, Counters, FOREVER, KEY_BITS,
    MAX_PREFIXES, MAX_SCOPES, PORTS, PREFIXES, PortScopes, SCOPE_COUNTERS, SCOPES, SETTINGS, SLOTS,
    Scope as ScopeEntry, ScopeCounters, Settings, Slot, counters_of,
};
use ipnet::IpNet;
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use tracing::warn;

use super::{
    MapBan, ScopeStatus,
    batch::{self, Known},
    lines::Lines,
};
use crate::{
    ban::{self, Change, Scopes, Step, Steps, Subject, Until},
    scope::{Ports, Scope},
};

/// From this share of what fits on, the log says so: a fuller hash table is a slower one, and the next attack may be
/// large.
const HIGH_WATER: f64 = 0.8;

/// What [`gather_counts`](Maps::gather_counts) looks at, a millisecond's work: all lines of so many bans as fit by default.
const GATHER_LINES: u32 = 65_536;
/// And how many bans it writes at most, a few milliseconds' work.
const GATHER_BANS: usize = 1024;

/// The maps, as the agent writes and reads them.
pub(super) struct Maps {
    bans: HashMap<MapData, BanKey, BanEntry>,
    /// What `bans` has, as the programs find it sooner.
    lines: Lines,
    prefixes: LpmTrie<MapData, BanKey, BanEntry>,
    allowed: LpmTrie<MapData, BanKey, AllowEntry>,
    ports: Array<MapData, PortScopes>,
    scopes: Array<MapData, ScopeEntry>,
    scope_counters: PerCpuArray<MapData, ScopeCounters>,
    counters: PerCpuArray<MapData, Counters>,
    settings: Array<MapData, Settings>,
    /// What is in `scopes`, by number.
    known: Vec<Option<Ports>>,
    capacity: u32,
    /// What is in `prefixes`: a look-up there would answer for a wider prefix, too.
    banned_prefixes: BTreeSet<Subject>,
    /// How many addresses are in `bans`.
    addresses: u32,
    /// Whether the high water was reported since it was last below.
    is_high: bool,
}

/// What is to be written to the map of bans in one go.
#[derive(Default)]
struct Pending {
    keys: Vec<BanKey>,
    entries: Vec<BanEntry>,
    freed: Vec<BanKey>,
}

impl Maps {
    /// Takes the maps out of the loaded object, `capacity` being what `bans` holds. The lines ban nobody until
    /// [`recount`](Self::recount).
    pub(super) fn take(ebpf: &mut Ebpf, lines: &Map, capacity: u32) -> Result<Self> {
        let mut maps = Self {
            bans: take(ebpf, BANS)?,
            lines: Lines::new(lines)?,
            prefixes: take(ebpf, PREFIXES)?,
            allowed: take(ebpf, ALLOWED)?,
            ports: take(ebpf, PORTS)?,
            scopes: take(ebpf, SCOPES)?,
            scope_counters: take(ebpf, SCOPE_COUNTERS)?,
            counters: take(ebpf, COUNTERS)?,
            settings: take(ebpf, SETTINGS)?,
            known: vec![None; MAX_SCOPES as usize],
            capacity,
            banned_prefixes: BTreeSet::new(),
            addresses: 0,
            is_high: false,
        };
        maps.read_scopes()?;
        Ok(maps)
    }

    /// How many bans of addresses fit.
    pub(super) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Does what [`BanMap::set_all`](super::BanMap::set_all) says.
    pub(super) fn set_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        now: SystemTime,
    ) -> Result<Vec<(Subject, anyhow::Error)>> {
        let now_ns = monotonic_ns()?;
        let mut refused = Vec::new();
        // The kernel takes many at a time only if it may replace what is there.
        let known = if self.addresses == 0 { Known::Replaced } else { Known::Kept };
        let mut pending = Pending::default();
        for (subject, steps) in changes {
            match subject.address().map(BanKey::from) {
                None => {
                    if let Err(error) = self.set_prefix(subject, steps, now, now_ns) {
                        refused.push((subject, error));
                    }
                }
                Some(key) if steps.is_empty() => pending.freed.push(key),
                Some(key) => {
                    pending.keys.push(key);
                    pending.entries.push(entry(steps, now, now_ns));
                }
            }
            if pending.keys.len().max(pending.freed.len()) == batch::ENTRIES {
                self.write(&mut pending, known, &mut refused, now_ns);
            }
        }
        self.write(&mut pending, known, &mut refused, now_ns);
        Ok(refused)
    }

    /// Writes what is noted.
    fn write(
        &mut self,
        pending: &mut Pending,
        if_known: Known,
        refused: &mut Vec<(Subject, anyhow::Error)>,
        now_ns: u64,
    ) {
        let Pending { keys, entries, freed } = pending;
        let mut gone = freed.len() as u32;
        freed.iter().for_each(|key| self.lines.remove(*key));
        batch::remove(&mut self.bans, freed, |at, error| {
            gone -= 1;
            if error.raw_os_error() != Some(Errno::ENOENT as i32) {
                let subject = Subject::from(ip(freed[at]));
                refused.push((subject, anyhow!(error).context(format!("unbanning {subject}"))));
            }
        });
        let capacity = self.capacity;
        let mut more = keys.len() as u32;
        let mut refuse = |key: BanKey, error| {
            let subject = Subject::from(ip(key));
            refused.push((subject, not_banned(error, subject, capacity, "max_bans")));
        };
        // Most are new: to look first would take twice as long.
        let mut known = Vec::new();
        let mut is_new = vec![true; keys.len()];
        batch::insert(&mut self.bans, keys, entries, if_known, |at, error| {
            more -= 1;
            is_new[at] = false;
            match error.raw_os_error() {
                Some(libc::EEXIST) => known.push(at),
                _ => refuse(keys[at], error),
            }
        });
        for (at, _) in is_new.iter().enumerate().filter(|(_, is_new)| **is_new) {
            self.lines.set(keys[at], &entries[at], false);
        }
        let mut goes_on = Vec::new();
        let mut replace = |at: &usize| match found(self.bans.get(&keys[*at], 0)) {
            Ok(old) => {
                let old = going_on(old, now_ns);
                goes_on.push(old.is_some());
                Some((keys[*at], BanEntry { slots: entries[*at].slots, ..old.unwrap_or_default() }))
            }
            Err(error) => {
                refuse(keys[*at], batch::io_error(error));
                None
            }
        };
        let (known_keys, known_entries): (Vec<_>, Vec<_>) = known.iter().filter_map(&mut replace).unzip();
        batch::insert(&mut self.bans, &known_keys, &known_entries, Known::Replaced, |at, error| {
            refuse(known_keys[at], error);
        });
        for ((key, entry), goes_on) in known_keys.iter().zip(&known_entries).zip(goes_on) {
            self.lines.set(*key, entry, goes_on);
        }
        self.count_addresses(more, gone);
        keys.clear();
        entries.clear();
        freed.clear();
    }

    /// Goes on counting where the programs before have stopped: these are their lines.
    pub(super) fn count_on(&mut self, before: &Lines) -> Result<()> {
        let now_ns = monotonic_ns()?;
        for (key, packets) in before.counted() {
            if !self.lines.add_packets(key, packets) {
                self.count(key, packets, now_ns)?;
            }
        }
        Ok(())
    }

    /// Does what [`BanMap::gather_counts`](super::BanMap::gather_counts) says.
    pub(super) fn gather_counts(&mut self) -> Result<()> {
        let now_ns = monotonic_ns()?;
        let counted = self.lines.take_counted(GATHER_LINES, GATHER_BANS, now_ns);
        counted.into_iter().try_for_each(|(key, packets)| self.count(key, packets, now_ns))
    }

    /// Adds to the packets of a ban in the map of bans, if it is there; the last of them was at `last_ns`.
    fn count(&mut self, key: BanKey, packets: u64, last_ns: u64) -> Result<()> {
        let Some(entry) = found(self.bans.get(&key, 0)).context("reading the map of bans")? else {
            return Ok(());
        };
        let entry = BanEntry { packets: entry.packets + packets, last_ns, ..entry };
        self.bans.insert(key, entry, 0).context("counting in the map of bans")
    }

    fn set_prefix(&mut self, subject: Subject, steps: Steps, now: SystemTime, now_ns: u64) -> Result<()> {
        let key = key(subject.net());
        if steps.is_empty() {
            found(self.prefixes.remove(&key)).with_context(|| format!("unbanning {subject}"))?;
            self.banned_prefixes.remove(&subject);
            return self.count_prefixes();
        }
        let old = if self.banned_prefixes.contains(&subject) {
            found(self.prefixes.get(&key, 0)).with_context(|| format!("reading the ban of {subject}"))?
        } else {
            None
        };
        let entry =
            BanEntry { slots: entry(steps, now, now_ns).slots, ..going_on(old, now_ns).unwrap_or_default() };
        let inserted = self.prefixes.insert(&key, entry, 0);
        inserted.map_err(|error| not_banned(batch::io_error(error), subject, MAX_PREFIXES, ""))?;
        self.banned_prefixes.insert(subject);
        // With the first one, the programs begin to look for prefixes.
        self.count_prefixes()
    }

    /// Everything in the maps, bans that are over included.
    pub(super) fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>> {
        let now_ns = monotonic_ns()?;
        let mut bans = Vec::new();
        // Most have dropped nothing since counts were gathered; to look for each in its line would take as long as all else.
        let in_lines: BTreeMap<_, _> = self.lines.counted().collect();
        let addresses = |keys: &[BanKey], entries: &[BanEntry]| {
            let addresses = keys.iter().zip(entries);
            bans.extend(addresses.map(|(key, entry)| {
                let entry = BanEntry { packets: entry.packets + in_lines.get(key).unwrap_or(&0), ..*entry };
                map_ban(ip(*key).into(), &entry, now, now_ns)
            }));
        };
        batch::read(&self.bans, addresses).context("reading the map of bans")?;
        for entry in self.prefixes.iter() {
            let (key, entry) = entry.context("reading the map of prefixes")?;
            bans.push(map_ban(net(&key).into(), &entry, now, now_ns));
        }
        Ok(bans)
    }

    /// Counts what is in the maps, which an agent before us, or somebody by hand, may have changed, and makes the lines of
    /// it.
    pub(super) fn recount(&mut self) -> Result<()> {
        let allowed = self.allowed.keys().collect::<Result<Vec<_>, _>>().context("reading the allow list")?;
        // There is nothing in them yet.
        self.lines.allow(allowed.iter().map(|key| (key.data(), key.prefix_len())));
        let mut addresses = 0;
        let lines = &mut self.lines;
        let take = |keys: &[BanKey], entries: &[BanEntry]| {
            addresses += keys.len();
            for (key, entry) in keys.iter().zip(entries) {
                lines.set(*key, entry, false);
            }
        };
        batch::read(&self.bans, take).context("reading the map of bans")?;
        self.count_addresses(addresses as u32, self.addresses);
        for key in self.prefixes.keys() {
            self.banned_prefixes.insert(net(&key.context("reading the map of prefixes")?).into());
        }
        self.count_prefixes()?;
        self.change_settings(|settings| settings.allowed = allowed.len() as u32)
    }

    /// The number of `scope` in masks, given to it now if it has none. `in_use` are the numbers that bans have.
    ///
    /// # Errors
    /// All 63 numbers are in use.
    pub(super) fn scope(&mut self, scope: &Scope, in_use: Scopes) -> Result<u32> {
        let Scope::Ports(ports) = scope else {
            return Ok(ALL_PORTS);
        };
        if let Some(number) = self.known.iter().position(|known| known.as_ref() == Some(ports)) {
            return Ok(number as u32);
        }
        let is_free = |number: &u32| in_use & 1 << number == 0;
        let numbers = ALL_PORTS + 1..MAX_SCOPES;
        let unused = numbers.clone().find(|number| self.known[*number as usize].is_none() && is_free(number));
        let Some(number) = unused.or_else(|| numbers.clone().find(is_free)) else {
            bail!(
                "{} different sets of ports are in use, and no more fit; \
                 give jails the same ports, or banaction_allports",
                numbers.count()
            );
        };
        self.forget_scope(number)?;
        self.write_scope(number, ports)?;
        Ok(number)
    }

    /// What was dropped in each scope's name.
    pub(super) fn scope_status(&self) -> Result<Vec<ScopeStatus>> {
        let all_ports = (ALL_PORTS, Scope::AllPorts);
        let known = self
            .known
            .iter()
            .enumerate()
            .filter_map(|(number, ports)| Some((number as u32, Scope::Ports(ports.clone()?))));
        let status = |(number, scope): (u32, Scope)| {
            let per_cpu = self.scope_counters.get(&number, 0).context("reading the scopes' counters")?;
            let sum = |field: fn(&ScopeCounters) -> u64| per_cpu.iter().map(field).sum();
            let (packets, bytes) = (sum(|cpu| cpu.packets), sum(|cpu| cpu.bytes));
            Ok(ScopeStatus { number, ports: scope.to_string(), packets, bytes })
        };
        [all_ports].into_iter().chain(known).map(status).collect()
    }

    /// Makes `nets` the allow list.
    pub(super) fn allow(&mut self, nets: &[IpNet]) -> Result<()> {
        let wanted: BTreeSet<_> = nets.iter().map(|net| Subject::from(*net)).collect();
        let mut there = BTreeSet::new();
        for entry in self.allowed.iter() {
            there.insert(Subject::from(net(&entry.context("reading the allow list")?.0)));
        }
        for subject in wanted.difference(&there) {
            let inserted = self.allowed.insert(&key(subject.net()), AllowEntry::default(), 0);
            inserted.with_context(|| format!("allowing {subject}"))?;
        }
        self.change_settings(|settings| settings.allowed = wanted.len() as u32)?;
        // From here on the programs look at the list for those that were banned before; it must have them by now.
        let keys = wanted.iter().map(|subject| key(subject.net()));
        for key in self.lines.allow(keys.map(|key| (key.data(), key.prefix_len()))) {
            if let Some(entry) = found(self.bans.get(&key, 0)).context("reading the map of bans")? {
                self.lines.set(key, &entry, true);
            }
        }
        for subject in there.difference(&wanted) {
            found(self.allowed.remove(&key(subject.net())))
                .with_context(|| format!("allowing {subject} no more"))?;
        }
        Ok(())
    }

    /// The frames seen so far, by verdict, over all CPUs: on one interface, or on all.
    pub(super) fn counters(&self, ifindex: Option<u32>) -> Result<Counters> {
        let entries = match ifindex {
            Some(ifindex) => counters_of(ifindex)..counters_of(ifindex) + 1,
            None => 0..self.counters.len(),
        };
        let mut sum = Counters::default();
        for entry in entries {
            for cpu in self.counters.get(&entry, 0).context("reading the counters")?.iter() {
                sum += *cpu;
            }
        }
        Ok(sum)
    }

    /// The lines have what was changed by hand until now.
    pub(super) fn end_by_hand(&mut self) -> Result<()> {
        self.change_settings(|settings| settings.by_hand = 0)
    }

    /// How many drops a second each CPU reports.
    pub(super) fn report_drops(&mut self, per_second: u32) -> Result<()> {
        self.change_settings(|settings| settings.events_per_second = per_second)
    }

    /// The same, as it is now: somebody may have set it by hand.
    pub(super) fn drops_reported(&self) -> Result<u32> {
        Ok(self.settings()?.events_per_second)
    }

    fn settings(&self) -> Result<Settings> {
        self.settings.get(&0, 0).context("reading the settings")
    }

    /// Whose ban it is that drops packets of this source in the name of `scope`: the address's own, else that of the
    /// longest prefix around it.
    pub(super) fn dropping(&self, source: BanKey, scope: u32) -> Result<Option<Subject>> {
        let own = found(self.bans.get(&source, 0)).context("reading the map of bans")?;
        let now_ns = monotonic_ns()?;
        if own.is_some_and(|entry| entry.scopes_at(now_ns) & 1 << scope != 0) {
            return Ok(Some(ip(source).into()));
        }
        // IPv4 is within IPv6, and may be in a prefix of that.
        let lengths = (0..KEY_BITS as u8).rev();
        let mut around = lengths.filter_map(|length| IpNet::new(source.addr.into(), length).ok());
        Ok(around.find_map(|net| self.banned_prefixes.get(&net.into()).copied()))
    }

    /// The packets dropped because of a ban, if it is there.
    pub(super) fn packets(&self, subject: Subject) -> Result<Option<u64>> {
        let mut in_line = 0;
        let entry = match subject.address() {
            Some(address) => {
                in_line = self.lines.packets(address.into());
                found(self.bans.get(&address.into(), 0))
            }
            None if self.banned_prefixes.contains(&subject) => {
                found(self.prefixes.get(&key(subject.net()), 0))
            }
            None => Ok(None),
        };
        let entry = entry.with_context(|| format!("reading the ban of {subject}"))?;
        Ok(entry.map(|entry| entry.packets + in_line))
    }

    fn count_prefixes(&mut self) -> Result<()> {
        let prefixes = self.banned_prefixes.len() as u32;
        self.change_settings(|settings| settings.prefixes = prefixes)
    }

    fn count_addresses(&mut self, more: u32, fewer: u32) {
        self.addresses = (self.addresses + more).saturating_sub(fewer);
        let is_high = f64::from(self.addresses) >= HIGH_WATER * f64::from(self.capacity);
        if is_high && !self.is_high {
            warn!(
                bans = self.addresses,
                capacity = self.capacity,
                "The map of bans is nearly full, and what does not fit is not banned; \
                 raise max_bans in f2b.local and restart"
            );
        }
        self.is_high = is_high;
    }

    fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) -> Result<()> {
        let current = self.settings()?;
        let mut settings = current;
        change(&mut settings);
        if settings != current {
            self.settings.set(0, settings, 0).context("writing the settings")?;
        }
        Ok(())
    }

    /// Reads what the scopes mean, and unmakes those that an agent before us did not finish.
    fn read_scopes(&mut self) -> Result<()> {
        for number in ALL_PORTS + 1..MAX_SCOPES {
            let entry = self.scopes.get(&number, 0).context("reading the scopes")?;
            // What is not in use is for no protocol.
            self.known[number as usize] = Ports::try_from(&entry).ok();
            if entry.ready == 0 {
                self.forget_scope(number)?;
            }
        }
        Ok(())
    }

    /// Takes a scope off its ports. It must not be in use.
    fn forget_scope(&mut self, number: u32) -> Result<()> {
        let Some(ports) = self.known[number as usize].take() else {
            return Ok(());
        };
        let mut entry = ScopeEntry::from(&ports);
        // Not ready: whoever finds it so begins here again.
        self.scopes.set(number, entry, 0).context("writing the scopes")?;
        self.mark_ports(&entry, |mask| mask & !(1 << number))?;
        (entry.tcp, entry.udp, entry.count) = (0, 0, 0);
        self.scopes.set(number, entry, 0).context("writing the scopes")
    }

    fn write_scope(&mut self, number: u32, ports: &Ports) -> Result<()> {
        let mut entry = ScopeEntry::from(ports);
        self.scopes.set(number, entry, 0).context("writing the scopes")?;
        // What was counted under this number was dropped in the name of other ports.
        let counted = self.scope_counters.get(&number, 0).context("reading the scopes' counters")?;
        let zeros = counted.iter().map(|_| ScopeCounters::default()).collect::<Vec<_>>();
        let zeros = PerCpuValues::try_from(zeros).context("as many as there are CPUs")?;
        self.scope_counters.set(number, zeros, 0).context("writing the scopes' counters")?;
        self.mark_ports(&entry, |mask| mask | 1 << number)?;
        entry.ready = 1;
        self.scopes.set(number, entry, 0).context("writing the scopes")?;
        self.known[number as usize] = Some(ports.clone());
        Ok(())
    }

    fn mark_ports(&mut self, scope: &ScopeEntry, mark: impl Fn(u64) -> u64) -> Result<()> {
        for range in &scope.ranges[..usize::from(scope.count)] {
            for port in range.first..=range.last {
                let port = u32::from(port);
                let mut scopes = self.ports.get(&port, 0).context("reading the ports")?;
                if scope.tcp != 0 {
                    scopes.tcp = mark(scopes.tcp);
                }
                if scope.udp != 0 {
                    scopes.udp = mark(scopes.udp);
                }
                self.ports.set(port, scopes, 0).context("writing the ports")?;
            }
        }
        Ok(())
    }
}

/// Takes a map out of the loaded object.
pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M> {
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    map.try_into().with_context(|| format!("map {name}"))
}

/// `None` where there is no such entry.
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn errno(error: &MapError) -> Option<Errno> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

fn not_banned(error: io::Error, subject: Subject, room: u32, option: &str) -> anyhow::Error {
    if !matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::E2BIG | Errno::ENOSPC)) {
        return anyhow!(error).context(format!("banning {subject}"));
    }
    let what_to_do =
        if option.is_empty() { String::new() } else { format!("; raise {option} in f2b.local and restart") };
    anyhow!("all {room} places in the kernel are taken, {subject} is not banned{what_to_do}")
}

/// What the map must hold for these steps of a new ban.
fn entry(steps: Steps, now: SystemTime, now_ns: u64) -> BanEntry {
    let mut entry = BanEntry::default();
    for (slot, step) in entry.slots.iter_mut().zip(ban::squeeze(steps, SLOTS)) {
        *slot = Slot { ends_ns: ends_ns(step.until, now, now_ns), scopes: step.scopes };
    }
    entry
}

/// The ban before, if it is not over: then its packets count on.
fn going_on(old: Option<BanEntry>, now_ns: u64) -> Option<BanEntry> {
    old.filter(|entry| entry.scopes_at(now_ns) != 0)
}

fn map_ban(subject: Subject, entry: &BanEntry, now: SystemTime, now_ns: u64) -> MapBan {
    let used = entry.slots.iter().filter(|slot| slot.scopes != 0);
    let steps =
        ban::steps(used.map(|slot| Step { until: until(slot.ends_ns, now, now_ns), scopes: slot.scopes }));
    MapBan { subject, steps, packets: entry.packets }
}

fn ip(key: BanKey) -> IpAddr {
    key.into()
}

/// A prefix as the tries key it: IPv4 within IPv6.
fn key(net: IpNet) -> Key<BanKey> {
    let shorter = KEY_BITS - u32::from(net.max_prefix_len());
    Key::new(shorter + u32::from(net.prefix_len()), BanKey::from(net.addr()))
}

fn net(key: &Key<BanKey>) -> IpNet {
    let (length, data) = (key.prefix_len() as u8, key.data());
    // At most 128, by the kernel's own check.
    IpNet::new(data.addr.into(), length).unwrap_or_else(|_| IpNet::from(ip(data)))
}

/// The kernel's monotonic clock, which ends bans.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the monotonic clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

/// An end on the wall clock, on the kernel's clock.
fn ends_ns(until: Until, now: SystemTime, now_ns: u64) -> u64 {
    match until {
        Until::Forever => FOREVER,
        Until::Time(end) => {
            let left = end.duration_since(now).unwrap_or_default();
            now_ns.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(FOREVER))
        }
    }
}

/// An end on the kernel's clock, on the wall clock.
fn until(ends_ns: u64, now: SystemTime, now_ns: u64) -> Until {
    if ends_ns == FOREVER {
        return Until::Forever;
    }
    let end = if ends_ns >= now_ns {
        now.checked_add(Duration::from_nanos(ends_ns - now_ns))
    } else {
        now.checked_sub(Duration::from_nanos(now_ns - ends_ns))
    };
    end.map_or(Until::Forever, Until::Time)
}

/// Copies every entry of `from` into `to`, which must have room.
pub(super) fn copy_bans<V: Pod + Into<BanEntry>>(
    from: &HashMap<MapData, BanKey, V>,
    to: &mut HashMap<&mut MapData, BanKey, BanEntry>,
) -> Result<u32> {
    let (mut copied, mut refused) = (0, None);
    let copy = |keys: &[BanKey], entries: &[V]| {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).into()).collect();
        batch::insert(to, keys, &entries, Known::Replaced, |_, error| refused = Some(error));
        copied += keys.len() as u32;
    };
    batch::read(from, copy).context("reading the old map of bans")?;
    match refused {
        Some(error) => Err(error).context("writing the new map of bans"),
        None => Ok(copied),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_survive_the_way_into_the_kernel_and_back() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now_ns = 5_000_000_000;
        for end in [
            Until::Forever,
            Until::Time(now + Duration::from_secs(600)),
            Until::Time(now),
            Until::Time(now + Duration::from_nanos(1)),
        ] {
            assert_eq!(until(ends_ns(end, now, now_ns), now, now_ns), end);
        }
        let over = Until::Time(now - Duration::from_secs(1));
        assert_eq!(ends_ns(over, now, now_ns), now_ns, "a ban that is over ends now, never wraps");
    }

    #[test]
    fn prefixes_survive_the_way_into_the_kernel_and_back() {
        for text in ["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/56", "::/0", "192.0.2.7/32"] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(Subject::from(net(&key(subject.net()))), subject);
        }
        assert_eq!(key("192.0.2.0/24".parse().unwrap()).prefix_len(), 120);
    }
}
