//! Requests to the running agent and its answers: one JSON object a line, over a socket that only root can open.

pub mod client;
pub mod server;

use serde::{Deserialize, Serialize};

use crate::{
    ban::{Subject, Until},
    import::Imported,
    xdp::{InterfaceStatus, ScopeStatus},
};

/// Where the agent listens unless `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/f2b/f2b.sock";

/// Longest request or answer: enough for a million bans, not enough to exhaust memory.
const MAX_FRAME: u64 = 256 * 1024 * 1024;

/// What can be asked of the agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    Status,
    /// The bans that drop most, too. Once a second by who wants rates.
    Top,
    JailStatus {
        jail: String,
    },
    Banned,
    /// Those of one jail, with the jail's own ends.
    JailBans {
        jail: String,
    },
    Ban {
        jail: String,
        addresses: Vec<Subject>,
    },
    /// Bans that somebody else has made.
    Import {
        bans: Vec<Imported>,
    },
    Unban {
        addresses: Vec<Subject>,
    },
    UnbanAll,
    Reload,
}

/// What it answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "answer")]
pub enum Answer {
    Status(Status),
    Top(Top),
    JailStatus(JailStatus),
    Banned {
        bans: Vec<BanInfo>,
    },
    /// Soonest end first.
    JailBans {
        bans: Vec<Banned>,
    },
    /// The new bans, and what was not banned and why.
    BanDone {
        banned: Vec<Banned>,
        refused: Vec<Refused>,
    },
    /// How many hold, how many are over and only count, and what was not taken and why.
    Imported {
        imported: usize,
        ended: usize,
        refused: Vec<Refused>,
    },
    /// The addresses that were banned and are free now.
    Unbanned {
        addresses: Vec<Subject>,
    },
    Reloaded {
        warnings: Vec<String>,
    },
    Error {
        message: String,
    },
}

/// `f2b status`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Status {
    pub jails: Vec<String>,
    /// A sentence about each jail that cannot work because its ports find no room in the kernel.
    #[serde(default)]
    pub left_out: Vec<String>,
    pub interfaces: Vec<InterfaceStatus>,
    /// Addresses and prefixes banned now.
    pub banned: usize,
    /// How many of them are prefixes.
    pub prefixes: usize,
    /// How many addresses fit.
    pub capacity: u32,
    /// What bans cover, and what was dropped because of it.
    pub scopes: Vec<ScopeStatus>,
    pub packets: Packets,
    /// Bans that the kernel did not take since the start: most of all, for want of room.
    pub refused: u64,
    pub dry_run: bool,
}

/// For `f2b top`: what is counted so far. Rates are the differences of two.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Top {
    pub status: Status,
    /// The bans that drop packets now, in no order.
    pub busy: Vec<BusyBan>,
}

/// A ban that drops packets now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BusyBan {
    #[serde(flatten)]
    pub ban: BanInfo,
    /// Its packets when it was first seen to be busy.
    pub before: u64,
}

/// Frames by verdict since the maps were made; see [`f2b_ebpf::Counters`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Packets {
    pub passed: u64,
    pub dropped: u64,
    pub lapsed: u64,
    pub other_ports: u64,
    pub allowed: u64,
    pub not_ip: u64,
    pub malformed: u64,
}

impl Packets {
    /// All that were not dropped.
    pub fn passed(&self) -> u64 {
        self.passed + self.lapsed + self.other_ports + self.allowed + self.not_ip + self.malformed
    }
}

impl From<f2b_ebpf::Counters> for Packets {
    fn from(counters: f2b_ebpf::Counters) -> Self {
        let f2b_ebpf::Counters { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } =
            counters;
        Self { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed }
    }
}

/// `f2b status JAIL`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct JailStatus {
    pub jail: String,
    pub currently_failed: usize,
    pub total_failed: u64,
    /// Empty if it reads files.
    pub journal_matches: String,
    /// The files that it reads.
    #[serde(default)]
    pub files: Vec<String>,
    /// Lines that were cut because they are too long, or have no verdict because matching them would take too long.
    pub over_budget: u64,
    pub currently_banned: usize,
    pub total_banned: u64,
    /// Soonest end first.
    pub banned: Vec<Subject>,
}

/// One ban, as `f2b banned` lists it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BanInfo {
    pub address: Subject,
    /// Who asked for it: jails, or `(kernel)` for one found in the map.
    pub jails: Vec<String>,
    pub until: Until,
    /// Packets dropped because of it.
    pub packets: u64,
}

/// An address that was banned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Banned {
    pub address: Subject,
    pub until: Until,
}

/// An address that was not banned.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refused {
    pub address: Subject,
    pub reason: String,
}
