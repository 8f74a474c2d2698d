//! The kernel half as the agent sees it; the only user of aya.
//!
//! [`BanMap`] is the one narrow door to it: the agent decides, the map holds. [`Kernel`] is the real one, [`DryRun`]
//! only remembers.

mod attach;
mod batch;
mod events;
mod kernel;
mod lines;
mod maps;
mod pins;

use std::{collections::HashMap, fmt, time::SystemTime};

use anyhow::{Result, bail};
pub use f2b_ebpf::Counters;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use self::{
    events::{LOGGED_PER_SECOND, TAKE_EVERY},
    kernel::{Kernel, OBJECT, Options},
    lines::Lines,
    pins::{DEFAULT_PIN_DIR, detach},
};
use crate::{
    ban::{Change, Scopes, Step, Steps, Subject},
    control::Packets,
    net::Interface,
    scope::Scope,
};

/// Where bans are enforced.
pub trait BanMap {
    /// Makes these steps the bans of their subjects, and frees those that have none. Each subject comes once. A ban that
    /// holds keeps its packet count. Returns what the map did not take, and why; all others are done.
    ///
    /// # Errors
    /// Nothing is done.
    fn set_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        now: SystemTime,
    ) -> Result<Vec<(Subject, anyhow::Error)>>;

    /// The same for one.
    ///
    /// # Errors
    /// The map is full, or the kernel refuses.
    fn set(&mut self, subject: Subject, steps: &[Step], now: SystemTime) -> Result<()> {
        let refused = self.set_all([(subject, steps.into())], now)?;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Everything in the map, bans that are over included.
    fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>>;

    /// The number of `scope` in the masks of bans. `in_use` are the numbers that bans have; another scope may get one
    /// that is not among them.
    ///
    /// # Errors
    /// All 63 numbers are in use.
    fn scope(&mut self, scope: &Scope, in_use: Scopes) -> Result<u32>;

    /// The scopes that have a number, and what was dropped in their names.
    fn scopes(&self) -> Result<Vec<ScopeStatus>>;

    /// Makes these prefixes the allow list: whoever is in it is never dropped.
    fn allow(&mut self, nets: &[IpNet]) -> Result<()>;

    /// The frames seen so far, by verdict, over all CPUs and interfaces.
    fn counters(&self) -> Result<Counters>;

    /// The interfaces it works on, and how.
    fn interfaces(&self) -> Result<Vec<InterfaceStatus>>;

    /// Follows the machine's interfaces: `all` of them, and the indexes of those that default routes use.
    fn follow(&mut self, all: &[Interface], default_routes: &[u32]);

    /// How many bans of addresses fit.
    fn capacity(&self) -> u32;

    /// The bans that drop packets now, as far as a sample of the packets tells. It is taken from the first call on, and
    /// until five seconds after the last one. None where nothing is dropped, as in what follows.
    ///
    /// # Errors
    /// The kernel refuses.
    fn busy(&mut self) -> Result<Vec<Busy>> {
        Ok(Vec::new())
    }

    /// Whether the kernel reports a sample of what it drops, so that [`take_reports`](Self::take_reports) must be called
    /// every [`TAKE_EVERY`].
    fn reports(&self) -> bool {
        false
    }

    /// Moves what the shortcut of the programs has counted to where people look for it, a share of it each time: to be
    /// called about once a second.
    ///
    /// # Errors
    /// The kernel refuses.
    fn gather_counts(&mut self) -> Result<()> {
        Ok(())
    }

    /// Logs and counts what the kernel has reported.
    ///
    /// # Errors
    /// The kernel refuses.
    fn take_reports(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A ban that drops packets now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Busy {
    pub subject: Subject,
    /// Packets dropped because of it.
    pub packets: u64,
    /// As many as that when it was first seen to be busy.
    pub before: u64,
}

/// A ban as the map holds it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapBan {
    pub subject: Subject,
    /// Latest end first.
    pub steps: Steps,
    /// Packets dropped because of it.
    pub packets: u64,
}

/// A scope, and what was dropped in its name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ScopeStatus {
    /// Its bit in the masks of bans.
    pub number: u32,
    /// In words: `all ports`, `tcp 22`.
    pub ports: String,
    pub packets: u64,
    /// Of the whole frames.
    pub bytes: u64,
}

/// Where on an interface frames are checked.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In the network driver, before the kernel allocates anything for the frame.
    Native,
    /// In the kernel's network stack, for drivers without XDP: works everywhere, costs more.
    Generic,
    /// Further up in the stack, where something else has XDP.
    Tc,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Tc => "tc",
        })
    }
}

/// An interface that is protected, or waited for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct InterfaceStatus {
    pub name: String,
    /// `None`: the interface is not there now.
    pub mode: Option<Mode>,
    /// Why not the best mode, or why none.
    pub reason: Option<String>,
    /// Its frames by verdict, since its maps were made.
    pub packets: Packets,
}

/// The map of a dry run: decides everything, enforces nothing.
#[derive(Debug, Default)]
pub struct DryRun {
    bans: HashMap<Subject, Steps>,
    scopes: Vec<Scope>,
}

impl BanMap for DryRun {
    fn set_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        _now: SystemTime,
    ) -> Result<Vec<(Subject, anyhow::Error)>> {
        for (subject, steps) in changes {
            if steps.is_empty() {
                self.bans.remove(&subject);
            } else {
                self.bans.insert(subject, steps);
            }
        }
        Ok(Vec::new())
    }

    fn bans(&self, _now: SystemTime) -> Result<Vec<MapBan>> {
        let ban = |(subject, steps): (&Subject, &Steps)| MapBan {
            subject: *subject,
            steps: steps.clone(),
            packets: 0,
        };
        Ok(self.bans.iter().map(ban).collect())
    }

    /// Numbers are not used again, so that there are as many as jails have ever had.
    fn scope(&mut self, scope: &Scope, _in_use: Scopes) -> Result<u32> {
        if *scope == Scope::AllPorts {
            return Ok(f2b_ebpf::ALL_PORTS);
        }
        let known = self.scopes.iter().position(|known| known == scope);
        let number = known.unwrap_or(self.scopes.len()) as u32 + 1;
        if number >= f2b_ebpf::MAX_SCOPES {
            bail!("{} different sets of ports are in use, and no more fit", self.scopes.len());
        }
        if known.is_none() {
            self.scopes.push(scope.clone());
        }
        Ok(number)
    }

    fn scopes(&self) -> Result<Vec<ScopeStatus>> {
        Ok(Vec::new())
    }

    fn allow(&mut self, _nets: &[IpNet]) -> Result<()> {
        Ok(())
    }

    fn counters(&self) -> Result<Counters> {
        Ok(Counters::default())
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        Ok(Vec::new())
    }

    fn follow(&mut self, _all: &[Interface], _default_routes: &[u32]) {}

    fn capacity(&self) -> u32 {
        f2b_ebpf::MAX_BANS
    }
}
