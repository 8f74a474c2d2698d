//! What the agent has counted, as rates.

use std::{
    collections::HashMap,
    mem,
    time::{Instant, SystemTime},
};

use serde::Serialize;

use crate::{
    ban::{Subject, Until},
    control::{BanInfo, BusyBan, Status, Top},
    xdp::{InterfaceStatus, Mode, ScopeStatus},
};

/// Rates of one interval, each a second; the JSON of `f2b top`.
#[derive(Debug, Serialize)]
pub(super) struct Rates {
    /// When the interval ended.
    pub(super) time: Until,
    /// Its length.
    pub(super) seconds: f64,
    pub(super) interfaces: Vec<Interface>,
    pub(super) scopes: Vec<Scope>,
    /// Those that drop most first.
    pub(super) bans: Vec<Ban>,
    /// Addresses and prefixes that are banned.
    pub(super) banned: usize,
    /// Addresses that fit.
    pub(super) capacity: u32,
    pub(super) dry_run: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mode: Option<Mode>,
    /// Packets.
    pub(super) dropped: f64,
    /// Packets; all that were not dropped.
    pub(super) passed: f64,
}

/// What is dropped because these ports are banned.
#[derive(Debug, Serialize)]
pub(super) struct Scope {
    pub(super) ports: String,
    pub(super) packets: f64,
    pub(super) bytes: f64,
}

/// A ban that drops packets.
#[derive(Debug, Serialize)]
pub(super) struct Ban {
    pub(super) address: Subject,
    pub(super) packets: f64,
    pub(super) jails: Vec<String>,
    pub(super) until: Until,
}

/// Makes rates of answers.
pub(super) struct Meter {
    /// Where the interval began.
    began: Instant,
    first: Status,
    ended: Instant,
    last: Status,
    /// The packets of each ban at the last answer.
    packets: HashMap<Subject, u64>,
    /// What each ban has dropped in this interval.
    dropped: HashMap<Subject, (u64, BanInfo)>,
}

impl Meter {
    pub(super) fn new(Top { status, busy }: Top, now: Instant) -> Self {
        let packets = busy.into_iter().map(|BusyBan { ban, .. }| (ban.address, ban.packets)).collect();
        Self { began: now, first: status.clone(), ended: now, last: status, packets, dropped: HashMap::new() }
    }

    /// Takes an answer of `now`.
    pub(super) fn add(&mut self, Top { status, busy }: Top, now: Instant) {
        (self.ended, self.last) = (now, status);
        let before = mem::take(&mut self.packets);
        for BusyBan { ban, before: noticed } in busy {
            let (address, packets) = (ban.address, ban.packets);
            // Who is banned anew meanwhile counts from 0.
            let more = packets.saturating_sub(before.get(&address).copied().unwrap_or(noticed));
            self.packets.insert(address, packets);
            let dropped = self.dropped.remove(&address).map_or(0, |(dropped, _)| dropped);
            self.dropped.insert(address, (dropped + more, ban));
        }
    }

    /// The rates since the call before.
    pub(super) fn rates(&mut self) -> Rates {
        let seconds = self.ended.duration_since(self.began).as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let interface = |now: &InterfaceStatus| {
            let before = self.first.interfaces.iter().find(|before| before.name == now.name);
            let before = before.map(|before| before.packets).unwrap_or_default();
            Interface {
                name: now.name.clone(),
                mode: now.mode,
                dropped: rate(now.packets.dropped, before.dropped),
                passed: rate(now.packets.passed(), before.passed()),
            }
        };
        let scope = |now: &ScopeStatus| {
            let before = self.first.scopes.iter().find(|before| before.ports == now.ports);
            Scope {
                ports: now.ports.clone(),
                packets: rate(now.packets, before.map_or(0, |before| before.packets)),
                bytes: rate(now.bytes, before.map_or(0, |before| before.bytes)),
            }
        };
        let busy = mem::take(&mut self.dropped).into_values().filter(|(dropped, _)| *dropped > 0);
        let mut bans: Vec<_> = busy
            .map(|(dropped, BanInfo { address, jails, until, .. })| Ban {
                address,
                packets: rate(dropped, 0),
                jails,
                until,
            })
            .collect();
        bans.sort_by(|a, b| b.packets.total_cmp(&a.packets).then_with(|| a.address.cmp(&b.address)));
        let rates = Rates {
            time: Until::Time(SystemTime::now()),
            seconds,
            interfaces: self.last.interfaces.iter().map(interface).collect(),
            scopes: self.last.scopes.iter().map(scope).collect(),
            bans,
            banned: self.last.banned,
            capacity: self.last.capacity,
            dry_run: self.last.dry_run,
        };
        (self.began, self.first) = (self.ended, self.last.clone());
        rates
    }
}
