//! The shortcut of the programs: IPv4 bans in cache lines, made from the map of bans and kept beside it.
//!
//! A line says what most bans are: one address, one scope, one end. Of a ban that is more, or of an address that is allowed,
//! it says to ask the map of bans; and also of all that it does not have, if there is an address that did not fit ("spills"). The memory is the kernel's
//! map itself: to ban is to store a word.
//!
//! # While packets come
//! Address and terms are one word, so a program sees both or neither. As long as it is banned, an address stays in its
//! place, or outside: a program that looks from place to place could miss one that moves. The programs add to `packets`,
//! and write nothing else.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    mem,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    slice,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, bail};
use aya::{EbpfLoader, maps::Map};
use f2b_ebpf::{BanEntry, BanKey, KEY_BITS, LINE_BANS, LINES, LINES_MASK, Line, LineTerms, halves, line_of};
use memmap2::{MmapOptions, MmapRaw};

/// Bans in a line if there are as many as fit: few lines spill then.
const BANS_PER_LINE: u32 = 2;

/// The address in a place that is free.
const FREE: u32 = 0;

/// Words of a ban: address and terms, and packets.
const WORDS: usize = 2;

/// The lines of a loaded program.
#[derive(Debug)]
pub struct Lines {
    memory: MmapRaw,
    mask: u32,
    /// The addresses that are banned, but not in their line; with the line in front.
    spilled: BTreeSet<(u32, u32)>,
    allowed: Allowed,
    /// Where [`take_counted`](Self::take_counted) goes on.
    next: u32,
}

/// A place for a ban.
struct Place<'a> {
    /// Address and terms. The programs only read it.
    ban: &'a AtomicU64,
    packets: &'a AtomicU64,
}

impl Lines {
    /// [`LINES_MASK`](f2b_ebpf::LINES_MASK) for so many bans of addresses; there is one line more.
    pub fn mask(max_bans: u32) -> u32 {
        (max_bans / BANS_PER_LINE).next_power_of_two() - 1
    }

    /// Has the object loaded with `mask` + 1 lines.
    pub fn size<'a>(loader: &mut EbpfLoader<'a>, mask: &'a u32) {
        loader.map_max_entries(LINES, mask + 1).override_global(LINES_MASK, mask, true);
    }

    /// The lines in a map, which bans nobody yet.
    ///
    /// # Errors
    /// It is no such map, or the kernel does not show its memory.
    pub fn new(map: &Map) -> Result<Self> {
        let Map::Array(map) = map else { bail!("the lines are not in an array") };
        let lines = map.info().context("looking at the lines")?.max_entries();
        let bytes = lines as usize * size_of::<Line>();
        let memory = MmapOptions::new().len(bytes).map_raw(map.fd().as_fd().as_raw_fd());
        Ok(Self::in_memory(memory.context("mapping the lines")?, lines - 1))
    }

    fn in_memory(memory: MmapRaw, mask: u32) -> Self {
        Self { memory, mask, spilled: BTreeSet::new(), allowed: Allowed::default(), next: 0 }
    }

    /// Makes `prefixes`, each a key and how many bits of it count, the allow list. Gives the banned addresses that are now
    /// allowed or no more, of which the lines are to be [`set`](Self::set) anew.
    pub fn allow(&mut self, prefixes: impl IntoIterator<Item = (BanKey, u32)>) -> Vec<BanKey> {
        let before = mem::replace(&mut self.allowed, Allowed::new(prefixes));
        if before == self.allowed {
            return Vec::new();
        }
        let banned = (0..=self.mask).flat_map(|line| self.places(line)).filter_map(|place| place.key());
        banned.filter(|key| before.has(*key) != self.allowed.has(*key)).collect()
    }

    /// Makes `entry`, which the map of bans has already, the ban of `key`. If the ban before `goes_on`, its packets do, too.
    pub fn set(&mut self, key: BanKey, entry: &BanEntry, goes_on: bool) {
        let Some(addr) = v4(key) else { return };
        let line = line_of(addr, self.mask);
        if self.spills(line) && self.spilled.contains(&(line, addr)) {
            return;
        }
        let place = || self.find(line, addr).or_else(|| self.find(line, FREE));
        match (addr != FREE).then(place).flatten() {
            Some(place) => {
                if !goes_on {
                    place.packets.store(0, Ordering::Relaxed);
                }
                let terms = if self.allowed.has(key) { LineTerms::default() } else { terms(entry) };
                place.set(addr, terms);
            }
            None => {
                self.spilled.insert((line, addr));
                self.say_spills(line, true);
            }
        }
    }

    /// `key` is not banned any more.
    pub fn remove(&mut self, key: BanKey) {
        let Some(addr) = v4(key) else { return };
        let line = line_of(addr, self.mask);
        let others = (line, 0)..=(line, u32::MAX);
        if self.spilled.remove(&(line, addr)) {
            if self.spilled.range(others).next().is_none() {
                self.say_spills(line, false);
            }
        } else if let Some(place) = self.place_of(key) {
            place.set(FREE, LineTerms::default());
            place.packets.store(0, Ordering::Relaxed);
        }
    }

    /// The packets that the line of `key` has counted.
    pub fn packets(&self, key: BanKey) -> u64 {
        self.place_of(key).map_or(0, |place| place.packets())
    }

    /// Adds to them. `false`: `key` is not in its line.
    pub fn add_packets(&self, key: BanKey, packets: u64) -> bool {
        let place = self.place_of(key);
        place.is_some_and(|place| {
            place.packets.fetch_add(packets, Ordering::Relaxed);
            true
        })
    }

    /// Takes away what `lines` more lines have counted, of `most` bans at most; after the last line it begins anew. Only of
    /// bans that lines say at `now_ns`: of these the programs count nothing in the map of bans meanwhile.
    pub fn take_counted(&mut self, lines: u32, most: usize, now_ns: u64) -> Vec<(BanKey, u64)> {
        let now = now_ns >> LineTerms::SHIFT;
        let mut taken = Vec::new();
        for _ in 0..lines {
            let counted = |place: &Place<'_>| place.packets() > 0 && u64::from(place.terms().ends) > now;
            for place in self.places(self.next).filter(counted) {
                let packets = place.packets.swap(0, Ordering::Relaxed);
                taken.extend(place.key().map(|key| (key, packets)));
            }
            self.next = (self.next + 1) & self.mask;
            if taken.len() >= most {
                break;
            }
        }
        taken
    }

    /// All that lines have counted.
    pub fn counted(&self) -> impl Iterator<Item = (BanKey, u64)> {
        (0..=self.mask).flat_map(|line| self.places(line)).filter_map(|place| {
            let packets = place.packets();
            place.key().filter(|_| packets > 0).map(|key| (key, packets))
        })
    }

    fn place_of(&self, key: BanKey) -> Option<Place<'_>> {
        let addr = v4(key).filter(|addr| *addr != FREE)?;
        self.find(line_of(addr, self.mask), addr)
    }

    fn spills(&self, line: u32) -> bool {
        self.places(line).next().is_some_and(|first| first.terms().spills)
    }

    fn say_spills(&self, line: u32, spills: bool) {
        if let Some(first) = self.places(line).next() {
            first.store(first.addr(), LineTerms { spills, ..first.terms() });
        }
    }

    fn find(&self, line: u32, addr: u32) -> Option<Place<'_>> {
        self.places(line).find(|place| place.addr() == addr)
    }

    fn places(&self, line: u32) -> impl Iterator<Item = Place<'_>> {
        let words = self.memory.as_mut_ptr().cast::<AtomicU64>();
        // SAFETY: the memory is as long as it says, begins with a page, and lives as long as `self`. The only others that
        // write to it are the programs, and they add to whole words.
        let words = unsafe { slice::from_raw_parts(words, self.memory.len() / size_of::<AtomicU64>()) };
        let words = words.chunks_exact(LINE_BANS * WORDS).nth(line as usize).unwrap_or_default();
        let (places, _) = words.as_chunks::<WORDS>();
        places.iter().map(|[ban, packets]| Place { ban, packets })
    }
}

impl Place<'_> {
    /// Whose ban it is, if it is not free.
    fn key(&self) -> Option<BanKey> {
        Some(self.addr()).filter(|addr| *addr != FREE).map(|addr| BanKey::from_v4(addr.to_ne_bytes()))
    }

    fn addr(&self) -> u32 {
        halves(self.ban.load(Ordering::Relaxed)).0
    }

    fn terms(&self) -> LineTerms {
        LineTerms::from_bits(halves(self.ban.load(Ordering::Relaxed)).1)
    }

    fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Leaves to the line whether it spills.
    fn set(&self, addr: u32, terms: LineTerms) {
        self.store(addr, LineTerms { spills: self.terms().spills, ..terms });
    }

    fn store(&self, addr: u32, terms: LineTerms) {
        let (addr, terms) = (u64::from(addr), u64::from(terms.bits()));
        let word = if cfg!(target_endian = "little") { terms << 32 | addr } else { addr << 32 | terms };
        self.ban.store(word, Ordering::Release);
    }
}

/// The allow list, by the lengths of its prefixes: there are few.
#[derive(Debug, Default, Eq, PartialEq)]
struct Allowed(BTreeMap<u32, HashSet<u128>>);

impl Allowed {
    fn new(prefixes: impl IntoIterator<Item = (BanKey, u32)>) -> Self {
        let mut allowed = Self::default();
        for (key, length) in prefixes {
            allowed.0.entry(length).or_default().insert(first_bits(key, length));
        }
        allowed
    }

    fn has(&self, key: BanKey) -> bool {
        self.0.iter().any(|(length, prefixes)| prefixes.contains(&first_bits(key, *length)))
    }
}

fn first_bits(key: BanKey, length: u32) -> u128 {
    let rest = u128::MAX.checked_shr(length.min(KEY_BITS)).unwrap_or_default();
    u128::from_be_bytes(key.addr) & !rest
}

/// An IPv4 address's four bytes as they are in memory; `None` for IPv6.
fn v4(key: BanKey) -> Option<u32> {
    match IpAddr::from(key) {
        IpAddr::V4(addr) => Some(u32::from_ne_bytes(addr.octets())),
        IpAddr::V6(_) => None,
    }
}

/// How a line says it; if it cannot, with an end that is over.
fn terms(entry: &BanEntry) -> LineTerms {
    let mut used = entry.slots.iter().filter(|slot| slot.scopes != 0);
    match (used.next(), used.next()) {
        (Some(slot), None) if slot.scopes.is_power_of_two() => {
            let units = u32::try_from(slot.ends_ns >> LineTerms::SHIFT).unwrap_or(u32::MAX);
            let (ends, scope) = (units.min(LineTerms::LAST), slot.scopes.trailing_zeros());
            LineTerms { ends, scope, spills: false }
        }
        _ => LineTerms::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use f2b_ebpf::{FOREVER, Slot};

    use super::*;

    fn lines(mask: u32) -> Lines {
        let memory = MmapOptions::new().len((mask as usize + 1) * size_of::<Line>()).map_anon().unwrap();
        Lines::in_memory(memory.into(), mask)
    }

    fn key(number: u32) -> BanKey {
        BanKey::from_v4(Ipv4Addr::from(number).octets())
    }

    fn entry(slots: &[(u64, u64)]) -> BanEntry {
        let mut entry = BanEntry::default();
        for (slot, (ends_ns, scopes)) in entry.slots.iter_mut().zip(slots) {
            *slot = Slot { ends_ns: *ends_ns, scopes: *scopes };
        }
        entry
    }

    /// What a program would find: the end and the scope, or that it must ask; `None`: not banned.
    fn found(lines: &Lines, key: BanKey) -> Option<Result<(u32, u32), ()>> {
        let addr = v4(key).unwrap();
        let line = line_of(addr, lines.mask);
        match lines.find(line, addr).map(|place| place.terms()) {
            Some(LineTerms { ends: 0, .. }) => Some(Err(())),
            Some(LineTerms { ends, scope, .. }) => Some(Ok((ends, scope))),
            None => lines.spills(line).then_some(Err(())),
        }
    }

    const HOUR: u64 = 3_600_000_000_000;

    #[test]
    fn a_ban_is_in_its_line_and_to_be_asked_for_while_it_is_more_than_a_line_says() {
        let mut lines = lines(7);
        let one = key(0xc633_6407);
        assert_eq!(found(&lines, one), None);
        lines.set(one, &entry(&[(HOUR, 1 << 3)]), false);
        assert_eq!(found(&lines, one), Some(Ok(((HOUR >> LineTerms::SHIFT) as u32, 3))));
        assert!(lines.add_packets(one, 41));
        for (slots, expected) in [
            (&[(FOREVER, 1)][..], Ok((LineTerms::LAST, 0))),
            // Two ends, two scopes.
            (&[(FOREVER, 1), (HOUR, 2)], Err(())),
            (&[(HOUR, 3)], Err(())),
            (&[(HOUR, 2)], Ok(((HOUR >> LineTerms::SHIFT) as u32, 1))),
        ] {
            lines.set(one, &entry(slots), true);
            assert_eq!((found(&lines, one), lines.packets(one)), (Some(expected), 41));
        }
        lines.remove(one);
        assert_eq!((found(&lines, one), lines.packets(one)), (None, 0));
    }

    #[test]
    fn of_what_is_allowed_the_map_of_bans_is_asked() {
        let mut lines = lines(7);
        let keys = [0x0a00_0001, 0x0a00_0002, 0xc633_6407].map(key);
        let bans = entry(&[(HOUR, 1)]);
        keys.iter().for_each(|key| lines.set(*key, &bans, false));
        let asked = |lines: &Lines| keys.map(|key| found(lines, key) == Some(Err(())));
        // 10.0.0.0/31, the address itself, 10.0.0.0/24, everything, nothing.
        for (prefixes, changed, expected) in [
            (&[(keys[0], 127)][..], &keys[..1], [true, false, false]),
            (&[(keys[0], 128)], &[], [true, false, false]),
            (&[(keys[0], 120), (keys[0], 128)], &keys[1..2], [true, true, false]),
            (&[(BanKey::from_v6([0; 16]), 0)], &keys[2..], [true; 3]),
            (&[], &keys, [false; 3]),
        ] {
            let mut again = lines.allow(prefixes.iter().copied());
            again.sort();
            again.iter().for_each(|key| lines.set(*key, &bans, true));
            assert_eq!((again.as_slice(), asked(&lines)), (changed, expected), "{prefixes:?}");
        }
        lines.allow([(keys[2], 128)]);
        lines.remove(keys[2]);
        lines.set(keys[2], &bans, false);
        assert_eq!(asked(&lines), [false, false, true], "a new ban");
    }

    #[test]
    fn a_new_ban_counts_from_zero() {
        let mut lines = lines(7);
        lines.set(key(1), &entry(&[(HOUR, 1)]), false);
        lines.add_packets(key(1), 5);
        assert_eq!(lines.counted().collect::<Vec<_>>(), [(key(1), 5)]);
        lines.set(key(1), &entry(&[(HOUR, 1)]), false);
        assert_eq!(lines.packets(key(1)), 0);
    }

    #[test]
    fn what_is_taken_away_is_counted_once() {
        let mut lines = lines(7);
        for number in 1..=6 {
            lines.set(key(number), &entry(&[(HOUR, 1)]), false);
            lines.add_packets(key(number), u64::from(number));
        }
        lines.set(key(6), &entry(&[(HOUR, 3)]), true);
        let mut taken: Vec<_> = (0..4).flat_map(|_| lines.take_counted(8, 2, 0)).collect();
        taken.sort();
        assert_eq!(taken, (1..=5).map(|number| (key(number), u64::from(number))).collect::<Vec<_>>());
        assert_eq!(lines.counted().collect::<Vec<_>>(), [(key(6), 6)], "more than a line says");
    }

    #[test]
    fn what_does_not_fit_is_asked_for_until_it_has_gone() {
        let mut lines = lines(0);
        let all = LINE_BANS as u32 + 2;
        for number in 1..=all {
            lines.set(key(number), &entry(&[(HOUR, 1)]), false);
        }
        let [inside, outside] = [1, all].map(|number| found(&lines, key(number)));
        assert!(matches!((inside, outside), (Some(Ok(_)), Some(Err(())))));
        lines.remove(key(all));
        assert_eq!(found(&lines, key(77)), Some(Err(())), "one is still outside");
        // A place becomes free: for a new one, since nobody moves.
        lines.remove(key(1));
        lines.set(key(all - 1), &entry(&[(FOREVER, 1)]), true);
        assert_eq!(found(&lines, key(all - 1)), Some(Err(())));
        lines.set(key(78), &entry(&[(FOREVER, 1)]), true);
        assert_eq!(found(&lines, key(78)), Some(Ok((LineTerms::LAST, 0))));
        lines.remove(key(all - 1));
        assert_eq!(found(&lines, key(77)), None);
    }

    #[test]
    fn ends_are_rounded_down_to_what_a_line_says() {
        const UNIT: u64 = 1 << LineTerms::SHIFT;
        for (ends_ns, said) in [
            (0, 0),
            (UNIT - 1, 0),
            (UNIT, 1),
            (2 * UNIT - 1, 1),
            (FOREVER, LineTerms::LAST),
            (u64::from(LineTerms::LAST - 1) * UNIT, LineTerms::LAST - 1),
        ] {
            assert_eq!(terms(&entry(&[(ends_ns, 1)])).ends, said, "{ends_ns}");
        }
        for terms in [0, 1, 0x40, 0x7f, 0x80, u32::MAX] {
            assert_eq!(LineTerms::from_bits(terms).bits(), terms);
        }
    }

    #[test]
    fn what_has_no_place_in_lines_does_no_harm() {
        let mut lines = lines(3);
        let v6 = BanKey::from_v6([0xfd; 16]);
        lines.set(v6, &entry(&[(HOUR, 1)]), false);
        lines.remove(v6);
        assert!(!lines.add_packets(v6, 1));
        // Its word in memory is that of a free place.
        let nowhere = key(0);
        lines.set(nowhere, &entry(&[(HOUR, 1)]), false);
        assert!(!lines.add_packets(nowhere, 1));
        assert_eq!((lines.packets(nowhere), lines.counted().count()), (0, 0));
        assert_eq!(lines.spilled.len(), 1);
        lines.remove(nowhere);
        assert!(!lines.spills(line_of(0, 3)));
    }
}
