//! Layout 1: one end per ban, of everything. Maps of this layout are taken over into the current one.

use crate::{ALL_PORTS, BanEntry, Slot};

/// Its version, in the pin path.
pub const LAYOUT: u32 = 1;

/// A ban, under the same key as today.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ban {
    /// As [`Slot::ends_ns`].
    pub ends_ns: u64,
    pub packets: u64,
}

/// The counters: `passed`, `dropped`, `lapsed`, `not_ip` and `malformed` of all interfaces together.
pub type Counters = [u64; 5];

const _: () = assert!(size_of::<Ban>() == 16);

// SAFETY: `repr(C)`, only whole `u64`s, no padding (size asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for Ban {}

impl From<Ban> for BanEntry {
    fn from(Ban { ends_ns, packets }: Ban) -> Self {
        let mut entry = Self { packets, ..Self::default() };
        entry.slots[0] = Slot { ends_ns, scopes: 1 << ALL_PORTS };
        entry
    }
}
