//! What both halves of f2b agree on: the maps' names, keys, values and counters, and how a frame is read.
//!
//! One definition for both sides. The agent compiles this file with the `user` feature, the kernel half
//! (`main.rs`) for the BPF target with `kernel`; sizes are asserted, so neither can drift from the other.
//!
//! Layout:
//! - `lib.rs`: this contract
//! - [`packet`]: frame → source address; all pointer arithmetic
//! - `main.rs`: the maps and the XDP program

#![cfg_attr(not(test), no_std)]

pub mod packet;

/// Version of everything below. It is part of the pin path, so that two layouts never share a map.
pub const LAYOUT: u32 = 1;

/// Name of the XDP program in the object and in `bpftool prog`.
pub const PROGRAM: &str = "f2b";

/// Name of the map of bans: [`BanKey`] → [`BanEntry`].
pub const BANS: &str = "bans";

/// Name of the per-CPU array with the one [`Counters`] entry.
pub const COUNTERS: &str = "counters";

/// How many bans the map holds: preallocated, about 20 MB of kernel memory, and about twice the bans expected, because
/// a fuller hash table is a slower one.
pub const MAX_BANS: u32 = 131_072;

/// A banned address as the kernel map keys it: sixteen bytes in network order, IPv4 as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
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
}

/// One ban as the kernel sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BanEntry {
    /// When the ban ends, in nanoseconds of `CLOCK_MONOTONIC`; [`FOREVER`] for a permanent one. The kernel compares
    /// it with its coarse clock, so a ban lapses within one timer tick even if no agent runs.
    pub ends_ns: u64,
    /// Packets dropped because of this ban.
    pub packets: u64,
}

/// [`BanEntry::ends_ns`] of a permanent ban.
pub const FOREVER: u64 = u64::MAX;

/// Every frame seen, by verdict. The fields add up to the number of frames; only `dropped` ones did not pass.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// IP packets from an address that is not banned.
    pub passed: u64,
    /// IP packets from a banned address.
    pub dropped: u64,
    /// IP packets that passed because their source's ban is over.
    pub lapsed: u64,
    /// Frames that are not IPv4 or IPv6 (ARP, LLDP, three VLAN tags, …).
    pub not_ip: u64,
    /// Frames too short for the header they announce, or of another IP version than they claim.
    pub malformed: u64,
}

const _: () = {
    assert!(size_of::<BanKey>() == 16);
    assert!(size_of::<BanEntry>() == 16);
    assert!(size_of::<Counters>() == 40);
};

#[cfg(feature = "user")]
mod user {
    use core::net::IpAddr;

    use super::{BanEntry, BanKey, Counters};

    // SAFETY: `repr(C)`, only bytes, no padding (size asserted above).
    unsafe impl aya::Pod for BanKey {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for BanEntry {}
    // SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
    unsafe impl aya::Pod for Counters {}

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
