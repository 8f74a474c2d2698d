//! What both halves of f2b agree on: the maps' names, keys, values and counters, and how a frame is read.
//!
//! One definition for both sides. The agent compiles this file with the `user` feature, the kernel half
//! (`main.rs`) for the BPF target with `kernel`; sizes are asserted, so neither can drift from the other.
//!
//! Layout:
//! - `lib.rs`: this contract
//! - [`packet`]: frame → source address, protocol, destination port; all pointer arithmetic
//! - [`v1`]: the layout before this one, for the agent that takes it over
//! - `main.rs`: the maps and the programs
//!
//! # What a ban is to the kernel
//! A ban covers *scopes*: bit [`ALL_PORTS`] is every packet, each other bit the ports that [`SCOPES`] describes under
//! its number and that [`PORTS`] lists by port. Several jails may ban one address, each with its own scope and end.
//! [`BanEntry::slots`] holds that as up to [`SLOTS`] steps, each a mask of scopes with its own end; a scope is banned
//! while any slot that has it has not ended. So every scope lapses by itself, at its own time, with no agent running.
//! More than [`SLOTS`] different ends at once are kept exact by the agent alone: see `xdp::steps` there.
//!
//! # The shortcut
//! [`BANS`] has every banned address, and is what counts. [`LINES`] says the same about IPv4 in a cache line for each
//! source, for most bans: one look there drops a packet, or passes it, where the hash table would have read three lines
//! in as many places. What a line cannot say, the hash table is asked for.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod packet;
pub mod v1;

/// Version of everything below. It is part of the pin path, so that two layouts never share a map.
pub const LAYOUT: u32 = 2;

/// The XDP program that takes frames in several buffers (jumbo frames); kernels from 5.18. The name in `bpftool prog`.
pub const PROGRAM: &str = "f2b";
/// The same for older kernels: only frames in one buffer.
pub const PROGRAM_LINEAR: &str = "f2b_linear";
/// The same for tc, where XDP cannot be had.
pub const PROGRAM_TC: &str = "f2b_tc";

/// Hash, [`BanKey`] → [`BanEntry`]: the banned addresses.
pub const BANS: &str = "bans";
/// Array, [`line_of`] an IPv4 address → [`Line`]: the shortcut. Each loaded program has its own, made by the agent from
/// [`BANS`].
pub const LINES: &str = "lines";
/// In the programs' constants: the number of [`LINES`], a power of two, less one. 0: there is no shortcut.
pub const LINES_MASK: &str = "LINES_MASK";
/// Longest-prefix trie, prefix of a [`BanKey`] → [`BanEntry`]: the banned prefixes. The value of a prefix includes
/// what wider prefixes ban, because the kernel sees the longest one only.
pub const PREFIXES: &str = "prefixes";
/// Longest-prefix trie, prefix of a [`BanKey`] → [`AllowEntry`]: whoever is never dropped, whatever bans there are.
pub const ALLOWED: &str = "allowed";
/// Array of 65,536, destination port → [`PortScopes`].
pub const PORTS: &str = "ports";
/// Array of [`MAX_SCOPES`], scope → [`Scope`]: what a scope means. For the agent and for people; the kernel half reads
/// [`PORTS`] alone.
pub const SCOPES: &str = "scopes";
/// Per-CPU array of [`MAX_SCOPES`], scope → [`ScopeCounters`].
pub const SCOPE_COUNTERS: &str = "scope_counters";
/// Per-CPU array of [`COUNTED_INTERFACES`], interface ([`counters_of`]) → [`Counters`].
pub const COUNTERS: &str = "counters";
/// Array of one [`Settings`].
pub const SETTINGS: &str = "settings";
/// Ring buffer of [`DropEvent`]s.
pub const EVENTS: &str = "events";
/// Per-CPU array of one [`EventLimit`].
pub const EVENT_LIMIT: &str = "event_limit";

/// How many bans of addresses fit unless the agent is told otherwise (`max_bans`): preallocated, 160 bytes each with the
/// part of [`LINES`], and about twice the bans expected, because a fuller hash table is a slower one.
pub const MAX_BANS: u32 = 131_072;
/// How many prefixes can be banned. Not preallocated.
pub const MAX_PREFIXES: u32 = 65_536;
/// How many prefixes the allow list takes. Not preallocated.
pub const MAX_ALLOWED: u32 = 65_536;
/// Scopes in a mask: [`ALL_PORTS`] and 63 different sets of ports.
pub const MAX_SCOPES: u32 = 64;
/// Destination ports.
pub const PORT_COUNT: u32 = 65_536;
/// Interfaces that are counted apart.
pub const COUNTED_INTERFACES: u32 = 256;
/// Different ends that one ban holds.
pub const SLOTS: usize = 3;
/// Ranges of ports that one scope holds.
pub const SCOPE_RANGES: usize = 32;
/// Bytes of the ring buffer of events.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// The scope of every packet: a bit of a mask like the others, the first.
pub const ALL_PORTS: u32 = 0;

/// A banned address as the kernel map keys it: sixteen bytes in network order, IPv4 as `::ffff:a.b.c.d`. Aligned, so that
/// the kernel half writes it in two words: to hash or compare what was written byte by byte takes longer.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BanKey {
    pub addr: [u8; 16],
}

impl BanKey {
    /// The key of an IPv4 address.
    #[inline(always)]
    pub const fn from_v4(addr: [u8; 4]) -> Self {
        let [a, b, c, d] = addr;
        Self { addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] }
    }

    /// The key of an IPv6 address.
    #[inline(always)]
    pub const fn from_v6(addr: [u8; 16]) -> Self {
        Self { addr }
    }

    /// The key whose bytes are these words in memory.
    #[inline(always)]
    pub(crate) const fn from_words(words: [u64; 2]) -> Self {
        // SAFETY: both are sixteen bytes, and any bytes are a key.
        unsafe { core::mem::transmute(words) }
    }
}

/// The bits of a [`BanKey`], all of which a whole address has. IPv4 prefixes are 96 longer than they are written.
pub const KEY_BITS: u32 = 128;

/// One ban as the kernel sees it. 64 bytes: behind the hash table's 48 bytes and the key it is a cache line of its own,
/// which a packet that is not banned never touches.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct BanEntry {
    /// Packets dropped because of this ban.
    pub packets: u64,
    /// When the last of them was dropped, in nanoseconds of `CLOCK_MONOTONIC`; 0: none yet. Of those that [`LINES`] dropped,
    /// when the agent has added them.
    pub last_ns: u64,
    /// What is banned until when. A slot that is not in use is all zeros.
    pub slots: [Slot; SLOTS],
}

/// Scopes that are banned until one moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Slot {
    /// When it ends, in nanoseconds of `CLOCK_MONOTONIC`; [`FOREVER`] for a permanent one. The kernel compares it with
    /// its coarse clock, so a ban lapses within two timer ticks even if no agent runs.
    pub ends_ns: u64,
    /// A mask: bit 0 ([`ALL_PORTS`]) is every packet, bit n the ports of scope n.
    pub scopes: u64,
}

/// [`Slot::ends_ns`] of a permanent ban.
pub const FOREVER: u64 = u64::MAX;

impl BanEntry {
    /// The scopes that are banned at `now_ns`.
    #[inline(always)]
    pub fn scopes_at(&self, now_ns: u64) -> u64 {
        let mut scopes = 0;
        for slot in &self.slots {
            if now_ns < slot.ends_ns {
                scopes |= slot.scopes;
            }
        }
        scopes
    }
}

/// An entry of the allow list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AllowEntry {
    /// Packets that passed because of it: from a banned source, and within the ban's scope.
    pub packets: u64,
}

/// The IPv4 bans of some addresses: a cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Line {
    pub bans: [LineBan; LINE_BANS],
}

/// A ban of one IPv4 address in one scope, as a packet finds it at once.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LineBan {
    /// The address, in network order; all zeros: this place is free.
    pub addr: [u8; 4],
    /// When it ends, and what it bans: see [`LineTerms`]. Read and written together with `addr`.
    pub terms: u32,
    /// Packets dropped here.
    pub packets: u64,
}

/// Bans in a line.
pub const LINE_BANS: usize = 4;

/// [`LineBan::terms`] in parts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LineTerms {
    /// Up to when it holds, in units of 2^[`Self::SHIFT`] ns of `CLOCK_MONOTONIC`, rounded down; from then on [`BANS`] is
    /// asked: at once if it is 0, because a line cannot say it, or because the address is allowed. At most [`Self::LAST`],
    /// which a permanent ban has.
    pub ends: u32,
    /// The scope's number.
    pub scope: u32,
    /// In the first place of a line: there are more bans of addresses of this line, in [`BANS`] alone.
    pub spills: bool,
}

impl LineTerms {
    /// So many bits of nanoseconds: units of two seconds.
    pub const SHIFT: u32 = 31;
    /// What 25 bits hold: more than two years.
    pub const LAST: u32 = u32::MAX >> Self::ENDS;
    /// Bit 6 is `spills`, those below it the scope, those above it the end.
    const SPILLS: u32 = MAX_SCOPES;
    const ENDS: u32 = 7;

    #[inline(always)]
    pub const fn from_bits(terms: u32) -> Self {
        Self { ends: terms >> Self::ENDS, scope: terms & (MAX_SCOPES - 1), spills: terms & Self::SPILLS != 0 }
    }

    pub const fn bits(self) -> u32 {
        self.ends << Self::ENDS | self.scope | if self.spills { Self::SPILLS } else { 0 }
    }
}

/// The half of a word that comes first in memory, and the other one.
#[inline(always)]
pub const fn halves(word: u64) -> (u32, u32) {
    let (upper, lower) = ((word >> 32) as u32, word as u32);
    if cfg!(target_endian = "little") { (lower, upper) } else { (upper, lower) }
}

/// Which of `mask` + 1 lines has an IPv4 address: multiplied by 2^64 over the golden ratio, which spreads neighbours evenly
/// (Fibonacci hashing).
#[inline(always)]
pub const fn line_of(addr: u32, mask: u32) -> u32 {
    ((addr as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32 & mask
}

/// Which scopes have a destination port, by protocol: masks as in [`Slot::scopes`], without bit 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PortScopes {
    pub tcp: u64,
    pub udp: u64,
}

/// What a scope means: these ports of these protocols. All zeros: not in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Scope {
    /// Whether [`PORTS`] has all of it. The agent sets it last, and gives no ban a scope that is not ready.
    pub ready: u8,
    /// 1: TCP ports.
    pub tcp: u8,
    /// 1: UDP ports.
    pub udp: u8,
    /// How many of `ranges` are in use: the first ones, in order, without overlap.
    pub count: u8,
    pub ranges: [PortRange; SCOPE_RANGES],
}

/// Destination ports from the first to the last, both included.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

/// What was dropped in a scope's name, for each CPU. A packet that several scopes ban counts for the first of them, so
/// the scopes add up to what was dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScopeCounters {
    pub packets: u64,
    /// Bytes of the whole frames.
    pub bytes: u64,
}

/// Every frame seen on an interface, by verdict, for each CPU. The fields add up to the number of frames; only
/// `dropped` ones did not pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// IP packets from an address that is not banned.
    pub passed: u64,
    /// IP packets that a ban's scope covers.
    pub dropped: u64,
    /// IP packets that passed because their source's ban is over.
    pub lapsed: u64,
    /// IP packets that passed because their source is banned for other ports only.
    pub other_ports: u64,
    /// IP packets that a ban's scope covers and that passed because the allow list has their source.
    pub allowed: u64,
    /// Frames that are not IPv4 or IPv6 (ARP, LLDP, three VLAN tags, …).
    pub not_ip: u64,
    /// Frames too short for the header they announce, or of another IP version than they claim.
    pub malformed: u64,
}

impl core::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        let Self { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } = other;
        self.passed += passed;
        self.dropped += dropped;
        self.lapsed += lapsed;
        self.other_ports += other_ports;
        self.allowed += allowed;
        self.not_ip += not_ip;
        self.malformed += malformed;
    }
}

/// The entry of [`COUNTERS`] of an interface: its index, modulo [`COUNTED_INTERFACES`].
#[inline(always)]
pub const fn counters_of(ifindex: u32) -> u32 {
    ifindex % COUNTED_INTERFACES
}

/// What the agent tells the programs. What is 0 costs a packet nothing but the look at it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// How many prefixes are banned; with 0 the programs do not look for any.
    pub prefixes: u32,
    /// How many entries the allow list has; as above.
    pub allowed: u32,
    /// How many drops a second each CPU reports as [`DropEvent`]s; 0: none.
    pub events_per_second: u32,
    /// 1: somebody changes [`BANS`] by hand, so the programs do not use [`LINES`] until an agent has started anew.
    pub by_hand: u32,
}

/// A dropped packet, as a sample of them is reported.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DropEvent {
    /// `CLOCK_MONOTONIC`, coarse.
    pub time_ns: u64,
    /// Its source.
    pub addr: [u8; 16],
    /// Where it arrived.
    pub ifindex: u32,
    /// Bytes of the frame.
    pub bytes: u32,
    /// The scope it is counted in.
    pub scope: u32,
    /// Destination port, where the ban asked for it and the packet has one; else 0.
    pub port: u16,
    /// IP protocol as the above; else 0.
    pub protocol: u8,
    /// Always 0.
    pub reserved: u8,
}

/// The coarse clock of `CLOCK_MONOTONIC` as a CPU has read it. It goes on with every timer tick, and to count these is
/// cheaper than to read it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Clock {
    /// The number of the tick.
    pub tick: u64,
    pub ns: u64,
}

/// How many events a CPU has reported in the current second.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct EventLimit {
    pub since_ns: u64,
    pub events: u64,
}

const _: () = {
    assert!(size_of::<BanKey>() == 16);
    assert!(size_of::<BanEntry>() == 64);
    assert!(size_of::<Slot>() == 16);
    assert!(size_of::<LineBan>() == 16);
    assert!(size_of::<Line>() == 64);
    assert!(size_of::<AllowEntry>() == 8);
    assert!(size_of::<PortScopes>() == 16);
    assert!(size_of::<PortRange>() == 4);
    assert!(size_of::<Scope>() == 4 + 4 * SCOPE_RANGES);
    assert!(size_of::<ScopeCounters>() == 16);
    assert!(size_of::<Counters>() == 56);
    assert!(size_of::<Settings>() == 16);
    assert!(size_of::<DropEvent>() == 40);
    assert!(size_of::<EventLimit>() == 16);
    // A mask has 64 bits.
    assert!(MAX_SCOPES == u64::BITS);
};

#[cfg(feature = "user")]
mod user {
    use core::net::IpAddr;

    use super::{
        AllowEntry, BanEntry, BanKey, Counters, DropEvent, EventLimit, PortRange, PortScopes, Scope,
        ScopeCounters, Settings, Slot,
    };

    // SAFETY: `repr(C)`, only bytes, no padding (size asserted above).
    unsafe impl aya::Pod for BanKey {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for BanEntry {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for Slot {}
    // SAFETY: `repr(C)`, one `u64`, no padding (size asserted above).
    unsafe impl aya::Pod for AllowEntry {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for PortScopes {}
    // SAFETY: `repr(C)`, only whole `u16`s, no padding (size asserted above).
    unsafe impl aya::Pod for PortRange {}
    // SAFETY: `repr(C)`, four bytes and whole `u16`s, no padding (size asserted above).
    unsafe impl aya::Pod for Scope {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for ScopeCounters {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for Counters {}
    // SAFETY: `repr(C)`, only whole `u32`s, no padding (size asserted above).
    unsafe impl aya::Pod for Settings {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for EventLimit {}

    impl DropEvent {
        /// The event in an entry of the ring buffer; `None` if that is of another size.
        pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
            let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
            let (time_ns, rest) = bytes.split_first_chunk()?;
            let (addr, rest) = rest.split_first_chunk()?;
            let (ifindex, rest) = rest.split_first_chunk()?;
            let (frame, rest) = rest.split_first_chunk()?;
            let (scope, rest) = rest.split_first_chunk()?;
            let (port, rest) = rest.split_first_chunk()?;
            let &[protocol, reserved] = rest else { return None };
            Some(Self {
                time_ns: u64::from_ne_bytes(*time_ns),
                addr: *addr,
                ifindex: u32::from_ne_bytes(*ifindex),
                bytes: u32::from_ne_bytes(*frame),
                scope: u32::from_ne_bytes(*scope),
                port: u16::from_ne_bytes(*port),
                protocol,
                reserved,
            })
        }
    }

    impl From<IpAddr> for BanKey {
        fn from(addr: IpAddr) -> Self {
            match addr {
                IpAddr::V4(v4) => Self::from_v4(v4.octets()),
                IpAddr::V6(v6) => Self::from_v6(v6.octets()),
            }
        }
    }

    impl From<BanKey> for IpAddr {
        fn from(key: BanKey) -> Self {
            IpAddr::from(key.addr).to_canonical()
        }
    }
}
