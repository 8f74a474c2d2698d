//! The agent: one event loop that owns jails, ban set, kernel map and store.
//!
//! Decisions are made in [`jail`](crate::jail) and [`ban`](crate::ban); here they are carried out: kernel map first,
//! then store, then log.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{interval, sleep},
};
use tracing::{debug, error, info, warn};

use crate::{
    ban::{BanSet, Change, KERNEL, Until},
    config::Config,
    control::{
        Answer, BanInfo, JailStatus, Refused, Request, Status,
        server::{Call, ControlSocket},
    },
    filter::Failure,
    jail::{Ignored, Jail, Outcome},
    net::Net,
    source::{
        Line,
        journal::{Batch, Position, Reader},
    },
    store::Store,
    xdp::BanMap,
};

/// Batches of lines that may wait for the agent; more make the reader wait.
const LINES_WAITING: usize = 64;
/// Requests that may wait.
const CALLS_WAITING: usize = 16;
/// How often own addresses are read again and old failures dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How often it is stored up to where the journal was read.
const STORE_CURSOR: Duration = Duration::from_secs(1);
/// The journal's name among the store's positions.
const JOURNAL: &str = "journal";
/// Ends that differ by less are the same end: the kernel's clock and the wall clock are read at different moments.
const SAME_END: Duration = Duration::from_secs(1);

/// The state, and what is done to it. Knows no sockets, signals or threads.
#[derive(Debug)]
pub struct Agent<M> {
    jails: BTreeMap<String, Jail>,
    bans: BanSet,
    map: M,
    store: Store,
    own_addresses: Vec<IpAddr>,
    config_dir: Option<PathBuf>,
    dry_run: bool,
    /// Up to where the journal's lines were decided on.
    cursor: Option<String>,
    cursor_is_stored: bool,
}

impl<M: BanMap> Agent<M> {
    /// An agent for `config`, with nothing banned yet; see [`restore`](Self::restore).
    pub fn new(config: Config, map: M, store: Store, config_dir: Option<PathBuf>, now: SystemTime) -> Self {
        let jails = config.jails.into_iter();
        let jails = jails.map(|settings| (settings.name.clone(), Jail::new(settings, now))).collect();
        Self {
            jails,
            bans: BanSet::default(),
            map,
            store,
            own_addresses: Vec::new(),
            config_dir,
            dry_run: false,
            cursor: None,
            cursor_is_stored: true,
        }
    }

    /// Says that the map enforces nothing, for `status`.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// The kernel map.
    pub fn map(&mut self) -> &mut M {
        &mut self.map
    }

    /// Brings ban set, store and kernel map together after a start. A ban that any of them still holds is held; one
    /// that the map lost (a reboot) is put back, one that only the map has (the store failed) is adopted.
    pub fn restore(&mut self, now: SystemTime) -> Result<()> {
        self.cursor = self.store.position(JOURNAL).unwrap_or_else(|error| {
            warn!("It is not known up to where the journal was read: {error:#}");
            None
        });
        let stored = self.store.bans(now).unwrap_or_else(|error| {
            error!("The stored bans cannot be read; only those in the kernel go on: {error:#}");
            Vec::new()
        });
        for ban in stored {
            self.bans.add(ban.address, &ban.owner, ban.until);
        }
        let mut in_kernel = BTreeMap::new();
        let mut adopted = 0;
        for ban in self.map.bans(now)? {
            if ban.until.is_over(now) {
                self.map.remove(ban.address)?;
                continue;
            }
            in_kernel.insert(ban.address, ban.until);
            if self.bans.until(ban.address).is_none_or(|until| ends_later(ban.until, until)) {
                self.bans.add(ban.address, KERNEL, ban.until);
                adopted += 1;
            }
        }
        let mut restored = 0;
        let addresses: Vec<_> = self.bans.iter().map(|(address, ..)| address).collect();
        for address in addresses {
            let Some(until) = self.bans.until(address) else { continue };
            if in_kernel.get(&address).is_none_or(|held| ends_later(until, *held)) {
                match self.map.set(address, until, now) {
                    Ok(()) => restored += 1,
                    Err(error) => error!(ip = %address, "Not restored: {error:#}"),
                }
            }
        }
        if !self.bans.is_empty() {
            let (bans, in_kernel) = (self.bans.len(), in_kernel.len());
            info!(
                bans,
                in_kernel,
                put_back = restored,
                unrecorded = adopted,
                "Bans of the agent before go on"
            );
        }
        Ok(())
    }

    /// Takes a line through filter and jail, and bans if that is what it comes to. A replayed line is only counted.
    pub fn line(&mut self, line: &Line, replayed: bool, now: SystemTime) {
        let Some(jail) = self.jails.get_mut(&line.jail) else {
            return;
        };
        for failure in jail.find(&line.text, line.time, now) {
            self.failure(line, &failure, replayed, now);
        }
    }

    /// Charges a failure to its address. A host name has none: names are not resolved yet.
    fn failure(&mut self, line: &Line, failure: &Failure, replayed: bool, now: SystemTime) {
        let (Some(jail), Some(ip)) = (self.jails.get_mut(&line.jail), failure.ip) else {
            return;
        };
        let name = line.jail.as_str();
        if replayed {
            return jail.replay(ip, line.time, &self.own_addresses, now);
        }
        match jail.failure(ip, line.time, &self.own_addresses, now) {
            Outcome::Counted { count } => {
                info!(jail = name, %ip, user = failure.user(), count, "Found");
            }
            Outcome::Ignored(Ignored::TooOld) => debug!(jail = name, %ip, "Too old to count"),
            Outcome::Ignored(reason) => info!(jail = name, %ip, "Ignore: {reason}"),
            Outcome::AlreadyOver => info!(jail = name, %ip, "Its ban would be over already"),
            Outcome::Ban { .. } if self.bans.until_of(ip, name).is_some() => {
                info!(jail = name, %ip, "Already banned")
            }
            Outcome::Ban { until, count } => {
                info!(jail = name, %ip, user = failure.user(), count, "Found");
                if let Err(error) = self.ban(&line.jail, ip, until, now) {
                    error!(jail = name, %ip, "Not banned: {error:#}");
                }
            }
        }
    }

    /// Bans `ip` for `jail`.
    fn ban(&mut self, jail: &str, ip: IpAddr, until: Until, now: SystemTime) -> Result<()> {
        let before = self.bans.until_of(ip, jail);
        let change = self.bans.add(ip, jail, until);
        if let Err(error) = self.apply(ip, change, now) {
            // What the kernel does not hold is not banned, whatever the agent would like.
            match before {
                Some(until) => self.bans.add(ip, jail, until),
                None => self.bans.remove(ip, jail),
            };
            return Err(error);
        }
        if let Some(jail) = self.jails.get_mut(jail) {
            jail.banned();
        }
        info!(jail, %ip, %until, "Ban");
        if let Err(error) = self.store.ban(jail, ip, until) {
            warn!(jail, %ip, "The ban holds but could not be stored: {error:#}");
        }
        Ok(())
    }

    /// Ends `owner`'s ban of `ip`.
    fn unban(&mut self, owner: &str, ip: IpAddr, now: SystemTime) {
        let change = self.bans.remove(ip, owner);
        self.unbanned(owner, ip, change, now);
    }

    fn unbanned(&mut self, owner: &str, ip: IpAddr, change: Change, now: SystemTime) {
        if let Err(error) = self.apply(ip, change, now) {
            error!(jail = owner, %ip, "The kernel keeps the ban: {error:#}");
        }
        if let Some(jail) = self.jails.get_mut(owner) {
            jail.forget(ip);
        }
        info!(jail = owner, %ip, "Unban");
        if let Err(error) = self.store.unban(owner, ip) {
            warn!(jail = owner, %ip, "The end of the ban could not be stored: {error:#}");
        }
    }

    fn apply(&mut self, ip: IpAddr, change: Change, now: SystemTime) -> Result<()> {
        match change {
            Change::None => Ok(()),
            Change::Set(until) => self.map.set(ip, until, now),
            Change::Removed => self.map.remove(ip),
        }
    }

    /// Ends the bans that are over.
    pub fn expire(&mut self, now: SystemTime) {
        while let Some((ip, owner, change)) = self.bans.expire_one(now) {
            self.unbanned(&owner, ip, change, now);
        }
    }

    /// When the next ban ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.bans.next_end()
    }

    /// Answers a request; `reload` is the loop's business.
    pub fn answer(&mut self, request: Request, now: SystemTime) -> Answer {
        let canonical =
            |addresses: Vec<IpAddr>| -> Vec<IpAddr> { addresses.iter().map(IpAddr::to_canonical).collect() };
        let answer = match request {
            Request::Status => self.status(),
            Request::JailStatus { jail } => self.jail_status(&jail),
            Request::Banned => self.banned(now),
            Request::Ban { jail, addresses } => Ok(self.ban_by_hand(&jail, &canonical(addresses), now)),
            Request::Unban { addresses } => Ok(self.unban_by_hand(&canonical(addresses), now)),
            Request::UnbanAll => {
                let all: Vec<_> = self.bans.iter().map(|(address, ..)| address).collect();
                Ok(self.unban_by_hand(&all, now))
            }
            Request::Reload => self.reload(now).map(|warnings| Answer::Reloaded { warnings }),
        };
        answer.unwrap_or_else(|error| Answer::Error { message: format!("{error:#}") })
    }

    fn status(&self) -> Result<Answer> {
        Ok(Answer::Status(Status {
            jails: self.jails.keys().cloned().collect(),
            interfaces: self.map.interfaces().to_vec(),
            banned: self.bans.len(),
            capacity: self.map.capacity(),
            packets: self.map.counters()?.into(),
            dry_run: self.dry_run,
        }))
    }

    fn jail_status(&self, name: &str) -> Result<Answer> {
        let jail = self.jails.get(name).with_context(|| self.no_such_jail(name))?;
        let banned = self.bans.of(name);
        Ok(Answer::JailStatus(JailStatus {
            jail: name.to_owned(),
            currently_failed: jail.currently_failed(),
            total_failed: jail.total_failed(),
            journal_matches: jail.settings().journalmatch.to_string(),
            over_budget: jail.over_budget(),
            currently_banned: banned.len(),
            total_banned: jail.total_banned(),
            banned,
        }))
    }

    fn banned(&self, now: SystemTime) -> Result<Answer> {
        let packets: BTreeMap<_, _> =
            self.map.bans(now)?.into_iter().map(|ban| (ban.address, ban.packets)).collect();
        let mut addresses: Vec<_> = self.bans.iter().map(|(address, ..)| address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let mut bans: Vec<_> = addresses
            .into_iter()
            .filter_map(|address| {
                Some(BanInfo {
                    address,
                    jails: self.bans.owners(address),
                    until: self.bans.until(address)?,
                    packets: packets.get(&address).copied().unwrap_or_default(),
                })
            })
            .collect();
        bans.sort_by_key(|ban| ban.until);
        Ok(Answer::Banned { bans })
    }

    fn ban_by_hand(&mut self, name: &str, addresses: &[IpAddr], now: SystemTime) -> Answer {
        let Some(jail) = self.jails.get(name) else {
            return Answer::Error { message: self.no_such_jail(name) };
        };
        let until = jail.ban_until(now);
        let (mut banned, mut refused) = (Vec::new(), Vec::new());
        for &address in addresses {
            let ignored = self.jails.get(name).and_then(|jail| jail.ignores(address, &self.own_addresses));
            let result = match ignored {
                Some(reason) => Err(reason.to_string()),
                None => self.ban(name, address, until, now).map_err(|error| format!("{error:#}")),
            };
            match result {
                Ok(()) => banned.push(address),
                Err(reason) => refused.push(Refused { address, reason }),
            }
        }
        Answer::BanDone { until, banned, refused }
    }

    fn unban_by_hand(&mut self, addresses: &[IpAddr], now: SystemTime) -> Answer {
        let mut freed = Vec::new();
        for &address in addresses {
            let owners = self.bans.owners(address);
            if !owners.is_empty() && !freed.contains(&address) {
                freed.push(address);
            }
            for owner in owners {
                self.unban(&owner, address, now);
            }
        }
        // Without it, an agent that starts now would count the failures behind these bans anew.
        self.store_cursor();
        Answer::Unbanned { addresses: freed }
    }

    fn no_such_jail(&self, name: &str) -> String {
        let known = self.jails.keys().cloned().collect::<Vec<_>>().join(", ");
        format!("there is no jail {name}; there are: {known}")
    }

    /// Reads the configuration again. Jails that stay keep what they counted and banned; those that go end their bans.
    ///
    /// # Errors
    /// The configuration cannot be read: then everything stays as it was.
    fn reload(&mut self, now: SystemTime) -> Result<Vec<String>> {
        let config = Config::load(self.config_dir.as_deref())
            .inspect_err(|error| error!("Not reloaded, the settings stay as they were: {error:#}"))?;
        let mut old = std::mem::take(&mut self.jails);
        for settings in config.jails {
            let name = settings.name.clone();
            let jail = match old.remove(&name) {
                Some(mut jail) => {
                    jail.reconfigure(settings, now);
                    jail
                }
                None => Jail::new(settings, now),
            };
            self.jails.insert(name, jail);
        }
        for gone in old.into_keys() {
            for address in self.bans.of(&gone) {
                self.unban(&gone, address, now);
            }
        }
        info!(jails = self.jails.len(), origin = config.origin, "Reloaded");
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Ok(config.warnings)
    }

    fn housekeeping(&mut self, own_addresses: Result<Vec<IpAddr>>, now: SystemTime) {
        match own_addresses {
            Ok(addresses) => self.own_addresses = addresses,
            Err(error) => warn!("Own addresses are not known anew: {error:#}"),
        }
        for (name, jail) in &mut self.jails {
            jail.sweep(now);
            // Here and not at each line: a flood of such lines must not become a flood of warnings.
            let lines = jail.take_over_budget();
            if lines > 0 {
                warn!(jail = name, lines, "Lines were too long or too expensive to match in full");
            }
        }
    }

    /// The earliest moment from which any jail counts failures.
    fn since(&self, now: SystemTime) -> SystemTime {
        let findtime = self.jails.values().map(|jail| jail.settings().findtime).max();
        now.checked_sub(findtime.unwrap_or_default()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Where to read on: behind what was decided on, with the failures of the find window before it counted again.
    fn position(&self, now: SystemTime) -> Position {
        let since = self.since(now);
        match &self.cursor {
            Some(cursor) => Position::Replay { since, up_to: cursor.clone() },
            None => Position::Since(since),
        }
    }

    fn store_cursor(&mut self) {
        let Some(cursor) = self.cursor.as_ref().filter(|_| !self.cursor_is_stored) else {
            return;
        };
        match self.store.set_position(JOURNAL, cursor) {
            Ok(()) => self.cursor_is_stored = true,
            Err(error) => warn!("Up to where the journal was read could not be stored: {error:#}"),
        }
    }

    fn read_journal(&self, position: Position, lines: mpsc::Sender<Batch>) -> Result<Reader> {
        let matches = |(name, jail): (&String, &Jail)| (name.clone(), jail.settings().journalmatch.clone());
        Reader::start(self.jails.iter().map(matches).collect(), position, lines)
    }

    /// Runs until SIGTERM or SIGINT. Bans stay in the kernel.
    pub async fn run(mut self, socket: ControlSocket, net: Net) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let (calls_in, mut calls) = mpsc::channel::<Call>(CALLS_WAITING);
        let (mut lines_in, mut lines) = mpsc::channel::<Batch>(LINES_WAITING);
        self.housekeeping(net.own_addresses().await, SystemTime::now());
        let mut reader = self.read_journal(self.position(SystemTime::now()), lines_in.clone())?;
        let mut housekeeping = interval(HOUSEKEEPING);
        let mut storing = interval(STORE_CURSOR);
        tokio::spawn(async move { socket.serve(calls_in).await });
        info!("Ready");
        loop {
            let reload = tokio::select! {
                // In this order: what ends a ban or the agent must not wait behind a flood of lines.
                biased;
                signal = stop_signal(&mut terminate, &mut interrupt) => {
                    self.store_cursor();
                    let bans = self.bans.len();
                    if self.dry_run {
                        info!(signal, bans, "Stopped the dry run");
                    } else {
                        info!(signal, bans, "Stopped; the bans stay in the kernel");
                    }
                    return Ok(());
                }
                _ = hangup.recv() => {
                    // The error is in the log; nobody waits for an answer.
                    self.reload(SystemTime::now()).is_ok()
                }
                () = until_end(self.next_end()) => {
                    self.expire(SystemTime::now());
                    false
                }
                Some((request, reply)) = calls.recv() => {
                    let reload = request == Request::Reload;
                    let answer = self.answer(request, SystemTime::now());
                    let reloaded = reload && matches!(answer, Answer::Reloaded { .. });
                    // A client that has gone away needs no answer.
                    drop(reply.send(answer));
                    reloaded
                }
                _ = housekeeping.tick() => {
                    self.housekeeping(net.own_addresses().await, SystemTime::now());
                    false
                }
                _ = storing.tick() => {
                    self.store_cursor();
                    false
                }
                Some(batch) = lines.recv() => {
                    self.batch(batch);
                    false
                }
            };
            if reload {
                // What the old reader has handed over is counted first, so that the new one goes on exactly behind it.
                drop(reader);
                drop(lines_in);
                while let Some(batch) = lines.recv().await {
                    self.batch(batch);
                }
                (lines_in, lines) = mpsc::channel(LINES_WAITING);
                let since = Position::Since(self.since(SystemTime::now()));
                let from = self.cursor.clone().map_or(since, Position::After);
                reader = self.read_journal(from, lines_in.clone())?;
            }
        }
    }

    fn batch(&mut self, batch: Batch) {
        let now = SystemTime::now();
        for line in &batch.lines {
            self.line(line, batch.replayed, now);
        }
        if !batch.replayed {
            self.cursor = Some(batch.cursor);
            self.cursor_is_stored = false;
        }
    }
}

/// Whether `a` ends later than `b` by more than clock noise.
fn ends_later(a: Until, b: Until) -> bool {
    match (a, b) {
        (Until::Forever, Until::Forever) | (Until::Time(_), Until::Forever) => false,
        (Until::Forever, Until::Time(_)) => true,
        (Until::Time(a), Until::Time(b)) => a.duration_since(b).is_ok_and(|later| later > SAME_END),
    }
}

async fn stop_signal(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Sleeps until the wall clock says `end`; for ever without one. Wakes at least once a minute, because the wall clock
/// may be set while the sleep counts on another.
async fn until_end(end: Option<SystemTime>) {
    let Some(end) = end else {
        return std::future::pending().await;
    };
    loop {
        let left = end.duration_since(SystemTime::now()).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        sleep(left.min(Duration::from_secs(60))).await;
    }
}
