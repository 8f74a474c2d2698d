//! Random bans, prefixes, allow lists and ports, in the model and in the kernel's maps alike.

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
};
use f2b::xdp::Lines;
use f2b_ebpf::{
    ALLOWED, AllowEntry, BANS, BanEntry, BanKey, COUNTED_INTERFACES, COUNTERS, Counters, FOREVER, LINES,
    MAX_SCOPES, PORTS, PREFIXES, PortScopes, SCOPE_COUNTERS, SETTINGS, ScopeCounters, Settings, Slot,
};
use fastrand::Rng;

use super::{
    frames::Topics,
    model::{Model, Prefix},
};

const HOUR_NS: u64 = 3_600_000_000_000;
/// The scopes in use, [`EVERYTHING`] and the last one that there is among them.
const SCOPES: [u32; 10] = [0, 1, 2, 3, 4, 5, 30, 31, 32, 63];
const EVERYTHING: u64 = 1;
const TELLING_PORTS: [u16; 6] = [0, 22, 53, 443, 0x8100, u16::MAX];

/// A random world at `now_ns`, and what frames in it should be about.
pub(crate) fn random(rng: &mut Rng, now_ns: u64) -> (Model, Topics) {
    let mut model = Model { now_ns, ..Model::default() };
    let addresses: Vec<_> = (0..rng.usize(1..60)).map(|_| address(rng)).collect();
    for &address in &addresses {
        if rng.u8(0..4) > 0 {
            model.bans.insert(address, ban(rng, now_ns));
        }
    }
    if rng.bool() {
        for prefix in prefixes(rng, &addresses, 20) {
            model.prefixes.push((prefix, ban(rng, now_ns)));
        }
    }
    if rng.bool() {
        model.allowed = prefixes(rng, &addresses, 8);
    }
    let mut ports = TELLING_PORTS.to_vec();
    ports.extend((0..20).map(|_| rng.u16(..)));
    for &port in &ports {
        let entry = PortScopes { tcp: scopes(rng) & !EVERYTHING, udp: scopes(rng) & !EVERYTHING };
        model.ports.insert(port, entry);
    }
    (model, Topics { sources: addresses, ports })
}

fn address(rng: &mut Rng) -> u128 {
    match rng.u8(0..3) {
        0 => 0xffff << 32 | u128::from(u32::from_be_bytes([192, 0, rng.u8(0..3), rng.u8(..)])),
        1 => 0xffff << 32 | u128::from(rng.u32(..)),
        _ => 0x2001_0db8 << 96 | u128::from(rng.u8(0..3)) << 64 | u128::from(rng.u8(..)),
    }
}

/// Different prefixes, each of one of the `addresses`.
fn prefixes(rng: &mut Rng, addresses: &[u128], most: usize) -> Vec<Prefix> {
    let mut prefixes: Vec<_> = (0..rng.usize(0..most))
        .map(|_| {
            let address = addresses[rng.usize(0..addresses.len())];
            let length = if rng.bool() { rng.u32(0..=128) } else { rng.u32(96..=128) };
            Prefix::new(address, length)
        })
        .collect();
    prefixes.sort_by_key(|prefix| (prefix.address, prefix.length));
    prefixes.dedup();
    prefixes
}

fn ban(rng: &mut Rng, now_ns: u64) -> BanEntry {
    let mut entry = BanEntry::default();
    // Most real bans have one end, and so a place in the shortcut.
    let slots = if rng.bool() { 1 } else { entry.slots.len() };
    for slot in &mut entry.slots[..slots] {
        // Far enough from now that no clock's step matters.
        let ends_ns = match rng.u8(0..5) {
            0 => continue,
            1 => rng.u64(0..now_ns.saturating_sub(HOUR_NS).max(1)),
            2 => FOREVER,
            3 => rng.u64(now_ns + HOUR_NS..FOREVER),
            _ => now_ns + HOUR_NS,
        };
        *slot = Slot { ends_ns, scopes: scopes(rng) };
    }
    entry
}

/// Everything, or some ports, or both, or nothing.
fn scopes(rng: &mut Rng) -> u64 {
    match rng.u8(0..5) {
        0 => EVERYTHING,
        _ => (0..rng.usize(0..4)).fold(0, |mask, _| mask | 1 << SCOPES[rng.usize(0..SCOPES.len())]),
    }
}

/// The kernel's maps.
pub(crate) struct Maps {
    bans: HashMap<MapData, BanKey, BanEntry>,
    lines: Lines,
    prefixes: LpmTrie<MapData, BanKey, BanEntry>,
    allowed: LpmTrie<MapData, BanKey, AllowEntry>,
    ports: Array<MapData, PortScopes>,
    settings: Array<MapData, Settings>,
    counters: PerCpuArray<MapData, Counters>,
    scope_counters: PerCpuArray<MapData, ScopeCounters>,
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Self {
        let mut map = |name| ebpf.take_map(name).expect("the object has the map");
        Self {
            bans: typed(map(BANS)),
            lines: Lines::new(&map(LINES)).expect("the kernel shows its memory"),
            prefixes: typed(map(PREFIXES)),
            allowed: typed(map(ALLOWED)),
            ports: typed(map(PORTS)),
            settings: typed(map(SETTINGS)),
            counters: typed(map(COUNTERS)),
            scope_counters: typed(map(SCOPE_COUNTERS)),
        }
    }

    /// Puts the model's world in place of the one before it.
    pub(crate) fn change(&mut self, before: &Model, model: &Model) {
        for address in before.bans.keys() {
            self.lines.remove(key(*address));
            self.bans.remove(&key(*address)).expect("it was put there");
        }
        for (prefix, _) in &before.prefixes {
            self.prefixes.remove(&lpm_key(*prefix)).expect("it was put there");
        }
        for prefix in &before.allowed {
            self.allowed.remove(&lpm_key(*prefix)).expect("it was put there");
        }
        for port in before.ports.keys() {
            self.ports.set(u32::from(*port), PortScopes::default(), 0).expect("a port");
        }
        for (address, ban) in &model.bans {
            self.bans.insert(key(*address), ban, 0).expect("there is room");
            self.lines.set(key(*address), ban, false);
        }
        for (prefix, ban) in &model.prefixes {
            self.prefixes.insert(&lpm_key(*prefix), ban, 0).expect("there is room");
        }
        for prefix in &model.allowed {
            self.allowed.insert(&lpm_key(*prefix), AllowEntry::default(), 0).expect("there is room");
        }
        for key in self.lines.allow(model.allowed.iter().map(|prefix| (key(prefix.address), prefix.length))) {
            // Nothing is left of those that are banned no more.
            self.lines.set(key, &self.bans.get(&key, 0).expect("it is banned"), true);
        }
        for (port, scopes) in &model.ports {
            self.ports.set(u32::from(*port), scopes, 0).expect("a port");
        }
        let count = |list: usize| u32::try_from(list).expect("a few");
        let settings = Settings {
            prefixes: count(model.prefixes.len()),
            allowed: count(model.allowed.len()),
            // Some worlds go without the shortcut.
            by_hand: u32::from(model.bans.len() % 4 == 3),
            ..Settings::default()
        };
        self.settings.set(0, settings, 0).expect("the one entry");
    }

    /// Packets dropped because of the ban of this address.
    pub(crate) fn packets_of(&self, address: u128) -> u64 {
        self.bans.get(&key(address), 0).expect("it is banned").packets + self.lines.packets(key(address))
    }

    /// Packets dropped because of the ban of this prefix.
    pub(crate) fn packets_of_prefix(&self, prefix: Prefix) -> u64 {
        self.prefixes.get(&lpm_key(prefix), 0).expect("it is banned").packets
    }

    /// Packets that passed because of this entry of the allow list.
    pub(crate) fn packets_allowed(&self, prefix: Prefix) -> u64 {
        self.allowed.get(&lpm_key(prefix), 0).expect("it is allowed").packets
    }

    /// All counters, over CPUs and interfaces.
    pub(crate) fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for interface in 0..COUNTED_INTERFACES {
            for counters in self.counters.get(&interface, 0).expect("an entry").iter() {
                sum += *counters;
            }
        }
        sum
    }

    /// Packets and bytes of each scope, over CPUs.
    pub(crate) fn scope_counters(&self) -> Vec<ScopeCounters> {
        let sum_of = |scope| {
            let per_cpu = self.scope_counters.get(&scope, 0).expect("an entry");
            per_cpu.iter().fold(ScopeCounters::default(), |sum, counters| ScopeCounters {
                packets: sum.packets + counters.packets,
                bytes: sum.bytes + counters.bytes,
            })
        };
        (0..MAX_SCOPES).map(sum_of).collect()
    }
}

fn typed<T: TryFrom<Map, Error: std::fmt::Debug>>(map: Map) -> T {
    map.try_into().expect("it is of the kind that the contract says")
}

fn key(address: u128) -> BanKey {
    BanKey::from_v6(address.to_be_bytes())
}

fn lpm_key(prefix: Prefix) -> Key<BanKey> {
    Key::new(prefix.length, key(prefix.address))
}
