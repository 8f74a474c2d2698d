//! The sample of dropped packets that the programs report: for the agent's log, and to find the bans that drop most.
//!
//! The programs report nothing unless somebody wants it: the log, by a setting, or whoever [watches](Events::watch),
//! for as long as they ask again. A sample tells which bans are busy; how many packets those drop, their own counters
//! tell exactly.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    maps::{MapData, RingBuf},
    util::nr_cpus,
};
use f2b_ebpf::{BanKey, DropEvent};
use tracing::info;

use super::{Busy, maps::Maps};
use crate::ban::Subject;

/// How many drops a second each CPU reports for `--log-drops`: enough to see what happens, too few to flood.
pub const LOGGED_PER_SECOND: u32 = 100;

/// How often the reports are to be taken while there are any.
pub const TAKE_EVERY: Duration = Duration::from_millis(100);

/// How many drops a second all CPUs together report while somebody watches: fewer than the ring buffer holds, because
/// each CPU reports the first ones of a second.
const WATCHED_PER_SECOND: u32 = 4096;
/// How long somebody watches who has asked once.
const LEASE: Duration = Duration::from_secs(5);
/// How many busy bans are known at once.
const BUSY_BANS: usize = 1024;
/// What a report adds to a ban's weight. Weights halve every second, and a ban without any is forgotten.
const REPORT: u32 = 1 << 8;
const FADE_EVERY: Duration = Duration::from_secs(1);

/// The reports, and who wants them.
pub(super) struct Events {
    ring: RingBuf<MapData>,
    /// How many drops a second each CPU reports for the log; 0: none.
    logged: u32,
    watch: Option<Watch>,
}

/// Somebody watches.
struct Watch {
    until: Instant,
    /// What the programs reported before, for the log or because somebody has set it by hand.
    before: u32,
    busy: HashMap<Subject, Weighed>,
    faded: Instant,
    log: LogLimit,
}

struct Weighed {
    /// Its packets when it was first reported.
    before: u64,
    weight: u32,
}

/// What may still be logged while the programs report more than is meant for the log.
struct LogLimit {
    since: Instant,
    logged: usize,
}

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>, logged: u32) -> Self {
        Self { ring, logged, watch: None }
    }

    /// Has the programs report what the log is to have.
    pub(super) fn start(&self, maps: &mut Maps) -> Result<()> {
        maps.report_drops(self.logged)
    }

    /// Nobody reads any more.
    pub(super) fn stop(&mut self, maps: &mut Maps) -> Result<()> {
        let before = self.watch.take().map(|watch| watch.before);
        match (self.logged, before) {
            (0, None) => Ok(()),
            (0, Some(before)) => maps.report_drops(before),
            _ => maps.report_drops(0),
        }
    }

    /// Whether there may be reports to take.
    pub(super) fn is_wanted(&self) -> bool {
        self.logged > 0 || self.watch.is_some()
    }

    /// The bans that drop packets now, which are looked for from the first call on, and for a while after the last one.
    pub(super) fn watch(&mut self, maps: &mut Maps, now: Instant) -> Result<Vec<Busy>> {
        self.take(maps, now)?;
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => {
                let before = maps.drops_reported()?;
                let cpus = nr_cpus().map_err(|(_, error)| error).context("counting the CPUs")?;
                let wanted = (WATCHED_PER_SECOND / cpus as u32).max(1);
                maps.report_drops(wanted.max(before))?;
                // What nobody has taken is of another time.
                while self.ring.next().is_some() {}
                let log = LogLimit { since: now, logged: 0 };
                none.insert(Watch { until: now, before, busy: HashMap::new(), faded: now, log })
            }
        };
        watch.until = now + LEASE;
        let mut busy = Vec::new();
        for (&subject, &Weighed { before, .. }) in &watch.busy {
            if let Some(packets) = maps.packets(subject)? {
                busy.push(Busy { subject, packets, before });
            }
        }
        Ok(busy)
    }

    /// Takes the reports there are. Ends what nobody watches any more.
    pub(super) fn take(&mut self, maps: &mut Maps, now: Instant) -> Result<()> {
        let mut reports = HashMap::<_, u32>::new();
        while let Some(event) = self.ring.next() {
            let Some(event) = DropEvent::from_bytes(&event) else { continue };
            let is_logged = match &mut self.watch {
                Some(watch) => watch.log.admits(self.logged, now),
                None => self.logged > 0,
            };
            if is_logged {
                log(event);
            }
            *reports.entry((event.addr, event.scope)).or_default() += 1;
        }
        if let Some(watch) = &mut self.watch {
            watch.weigh(reports, maps, now)?;
        }
        // Last: what was reported for somebody who watched is not meant for the log.
        match self.watch.take_if(|watch| watch.until <= now) {
            Some(watch) => maps.report_drops(watch.before),
            None => Ok(()),
        }
    }
}

impl Watch {
    fn weigh(&mut self, reports: HashMap<([u8; 16], u32), u32>, maps: &Maps, now: Instant) -> Result<()> {
        while now.duration_since(self.faded) >= FADE_EVERY {
            self.faded += FADE_EVERY;
            self.busy.retain(|_, ban| {
                ban.weight /= 2;
                ban.weight > 0
            });
        }
        let mut counts = HashMap::<_, u32>::new();
        for ((addr, scope), count) in reports {
            // None: it is free again.
            if let Some(subject) = maps.dropping(BanKey { addr }, scope)? {
                *counts.entry(subject).or_default() += count;
            }
        }
        for (subject, count) in counts {
            let Some(packets) = maps.packets(subject)? else { continue };
            // Those that were reported, it has dropped since nobody had noticed it.
            let before = packets.saturating_sub(count.into());
            let ban = self.busy.entry(subject).or_insert(Weighed { before, weight: 0 });
            ban.weight = ban.weight.saturating_add(count.saturating_mul(REPORT));
        }
        if self.busy.len() > BUSY_BANS {
            let mut all: Vec<_> = self.busy.drain().collect();
            all.sort_unstable_by_key(|(_, ban)| Reverse(ban.weight));
            self.busy.extend(all.into_iter().take(BUSY_BANS));
        }
        Ok(())
    }
}

impl LogLimit {
    /// Whether one more may be logged if each CPU may log so many a second.
    fn admits(&mut self, per_second: u32, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, logged: 0 };
        }
        self.logged += 1;
        self.logged <= per_second as usize * nr_cpus().unwrap_or(1)
    }
}

fn log(event: DropEvent) {
    let DropEvent { addr, ifindex, bytes, scope, port, protocol, .. } = event;
    let ip = IpAddr::from(BanKey { addr });
    // Where the ban is of everything, nobody looked.
    let to = (protocol != 0).then_some((protocol, port));
    let (protocol, port) = to.unzip();
    info!(%ip, interface = ifindex, bytes, scope, protocol, port, "Dropped a packet");
}
