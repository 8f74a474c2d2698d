//! The kernel half as the agent sees it; the only user of aya.
//!
//! [`BanMap`] is the one narrow door to it: the agent decides, the map holds. [`Kernel`] is the real one, [`DryRun`]
//! only remembers.

mod events;
mod kernel;
mod pins;

use std::{collections::HashMap, fmt, net::IpAddr, path::PathBuf, time::SystemTime};

use anyhow::Result;
pub use f2b_ebpf::Counters;
use serde::{Deserialize, Serialize};

pub use self::{
    kernel::{Kernel, OBJECT, Options},
    pins::{DEFAULT_PIN_DIR, detach},
};
use crate::ban::Until;

/// Where banned addresses are enforced.
pub trait BanMap {
    /// Bans `address` until then. A ban that is there gets the new end and keeps its packet count.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set(&mut self, address: IpAddr, until: Until, now: SystemTime) -> Result<()>;

    /// Frees `address`; no error if it was free.
    fn remove(&mut self, address: IpAddr) -> Result<()>;

    /// Everything in the map, bans that are over included.
    fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>>;

    /// The frames seen so far, by verdict, over all CPUs and interfaces.
    fn counters(&self) -> Result<Counters>;

    /// The interfaces it works on, and how.
    fn interfaces(&self) -> &[AttachedInterface];

    /// How many bans fit.
    fn capacity(&self) -> u32;
}

/// A ban as the map holds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MapBan {
    pub address: IpAddr,
    pub until: Until,
    /// Packets dropped because of it.
    pub packets: u64,
}

/// Where on an interface frames are checked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the network driver, before the kernel allocates anything for the frame.
    Native,
    /// In the kernel's network stack, for drivers without XDP: works everywhere, costs more.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// An interface with the program on it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct AttachedInterface {
    pub name: String,
    pub mode: Mode,
}

/// The map of a dry run: decides everything, enforces nothing.
#[derive(Debug, Default)]
pub struct DryRun {
    bans: HashMap<IpAddr, Until>,
}

impl BanMap for DryRun {
    fn set(&mut self, address: IpAddr, until: Until, _now: SystemTime) -> Result<()> {
        self.bans.insert(address, until);
        Ok(())
    }

    fn remove(&mut self, address: IpAddr) -> Result<()> {
        self.bans.remove(&address);
        Ok(())
    }

    fn bans(&self, _now: SystemTime) -> Result<Vec<MapBan>> {
        Ok(self
            .bans
            .iter()
            .map(|(address, until)| MapBan { address: *address, until: *until, packets: 0 })
            .collect())
    }

    fn counters(&self) -> Result<Counters> {
        Ok(Counters::default())
    }

    fn interfaces(&self) -> &[AttachedInterface] {
        &[]
    }

    fn capacity(&self) -> u32 {
        f2b_ebpf::MAX_BANS
    }
}

/// Directory of the current layout's maps below the pin directory.
fn maps_dir(pin_dir: &std::path::Path) -> PathBuf {
    pin_dir.join(format!("v{}", f2b_ebpf::LAYOUT))
}
