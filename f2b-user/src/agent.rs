//! The agent: one event loop that owns jails, ban set, kernel map and store.
//!
//! Decisions are made in [`jail`](crate::jail) and [`ban`](crate::ban); here they are carried out: kernel map first,
//! then store, then log.
//!
//! - [`counting`]: from a line to the failure that is charged; [`asking`]: what must be known before
//! - [`acting`]: what is done with bans, in the kernel, the store and by actions
//! - [`answering`]: requests; [`import`]: bans that somebody else has made
//! - [`restoring`]: the bans of the agent before; [`reloading`]: other settings; [`clock`]: the clock is set

mod acting;
mod answering;
mod asking;
mod clock;
mod counting;
mod import;
mod reloading;
mod restoring;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{info, warn};

use self::clock::Clock;
use crate::{
    action::Actions,
    ask::Questions,
    ban::{BanSet, Scopes},
    config::{Config, LogSource, Own},
    control::{
        Answer, Request,
        server::{Call, ControlSocket},
    },
    history::History,
    jail::Jail,
    log,
    net::{Changes, Net},
    source::{
        Batch, Reading,
        file::{self, Watch},
        journal::{self, Position},
    },
    store::Store,
    xdp::{BanMap, TAKE_EVERY},
};

/// Batches of lines that may wait for the agent; more make the reader wait.
const LINES_WAITING: usize = 64;
/// Requests that may wait.
const CALLS_WAITING: usize = 16;
/// How often own addresses are read again and old failures dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How often it is stored up to where the logs were read.
const STORE_POSITIONS: Duration = Duration::from_secs(1);
/// How often the names and files of `ignoreip` are looked at again.
const REFRESH: Duration = Duration::from_secs(60);
/// How long an answer waits for what it tells to be stored.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// How often the store forgets what is too old (`ObserverThread.__db_purge_interval`).
const PURGE: Duration = Duration::from_secs(3600);
/// Ends that differ by less are the same end: the kernel's clock and the wall clock are read at different moments.
const SAME_END: Duration = Duration::from_secs(1);

/// The state, and what is done to it. Knows no sockets, signals or threads.
#[derive(Debug)]
pub struct Agent<M> {
    jails: BTreeMap<String, Jail>,
    bans: BanSet,
    map: M,
    actions: Actions,
    store: Store,
    /// Earlier bans, if a jail goes by them.
    history: History,
    /// What must be asked before failures count.
    questions: Questions,
    own_addresses: Vec<IpAddr>,
    /// What each jail's bans cover.
    scopes: BTreeMap<String, Scopes>,
    /// The jails that ban nothing because their ports find no room in the kernel.
    left_out: BTreeMap<String, LeftOut>,
    /// What `f2b.conf` says.
    own: Own,
    config_dir: Option<PathBuf>,
    dry_run: bool,
    /// Bans that the kernel did not take.
    refused: u64,
    /// Up to where the lines of each source were decided on.
    positions: BTreeMap<String, SourcePosition>,
}

#[derive(Debug)]
struct LeftOut {
    jail: Jail,
    /// A sentence with its name.
    why: String,
}

/// Up to where the lines of a source were decided on.
#[derive(Debug)]
struct SourcePosition {
    text: String,
    is_stored: bool,
}

/// The threads that read. Dropping them stops them.
#[derive(Debug)]
pub struct Readers {
    _journals: Vec<journal::Reader>,
    _files: Option<file::Reader>,
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
            actions: Actions::none(),
            store,
            history: History::default(),
            questions: Questions::new(config.allows_ipv6),
            own_addresses: Vec::new(),
            scopes: BTreeMap::new(),
            left_out: BTreeMap::new(),
            own: config.own,
            config_dir,
            dry_run: false,
            refused: 0,
            positions: BTreeMap::new(),
        }
    }

    /// Says that the map enforces nothing, for `status`.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Has these run the jails' actions; for before [`restore`](Self::restore).
    #[must_use]
    pub fn with_actions(mut self, actions: Actions) -> Self {
        self.actions = actions;
        self.set_actions();
        self
    }

    /// The kernel map.
    pub fn map(&mut self) -> &mut M {
        &mut self.map
    }

    /// Forgets failures that no find window reaches.
    pub fn sweep(&mut self, now: SystemTime) {
        self.jails.values_mut().for_each(|jail| jail.sweep(now));
    }

    /// Forgets earlier bans that do not count any more.
    pub fn purge(&mut self, now: SystemTime) {
        self.store.purge(now);
        self.history.purge(now, self.store.purgeage());
    }

    fn housekeeping(&mut self, own_addresses: Result<Vec<IpAddr>>, now: SystemTime) {
        match own_addresses {
            Ok(addresses) => self.own_addresses = addresses,
            Err(error) => warn!("Own addresses are not known anew: {error:#}"),
        }
        self.actions.report();
        self.sweep(now);
        for (name, jail) in &mut self.jails {
            // Here and not at each line: a flood of such lines must not become a flood of warnings.
            let lines = jail.take_over_budget();
            if lines > 0 {
                warn!(jail = name, lines, "Lines were too long or too expensive to match in full");
            }
        }
    }

    /// Follows the interfaces that there are now.
    async fn follow(&mut self, net: &Net) {
        let found = async {
            Ok::<_, anyhow::Error>((net.interfaces().await?, net.default_route_interfaces().await?))
        };
        match found.await {
            Ok((interfaces, default_routes)) => self.map.follow(&interfaces, &default_routes),
            Err(error) => warn!("The interfaces are not known anew: {error:#}"),
        }
    }

    /// The earliest moment from which any jail counts failures.
    fn since(&self, now: SystemTime) -> SystemTime {
        let findtime = self.jails.values().map(|jail| jail.settings().findtime).max();
        now.checked_sub(findtime.unwrap_or_default()).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Stores up to where the sources were read.
    pub fn store_positions(&mut self, now: SystemTime) {
        for (source, position) in self.positions.iter_mut().filter(|(_, position)| !position.is_stored) {
            self.store.set_position(source, &position.text, now);
            position.is_stored = true;
        }
        if self.store.needs_all() {
            self.store_all(now);
        }
    }

    /// Leaves to the next agent all that it goes on from. This one is to take no more lines.
    pub fn stop(&mut self, now: SystemTime) {
        self.store_positions(now);
        self.sweep(now);
        self.store.counted(self.jails.iter().map(|(name, jail)| (name.clone(), jail.counted())).collect());
        self.store.flush();
    }

    /// Whether earlier bans matter to any jail.
    fn goes_by_history(&self) -> bool {
        self.jails.values().any(|jail| jail.settings().increment.is_some())
    }

    /// Starts to read behind what was decided on. At the start of the agent, the find window before it is read again.
    ///
    /// # Errors
    /// A thread does not start.
    pub fn read(&self, at_start: bool, lines: &mpsc::Sender<Batch>, now: SystemTime) -> Result<Readers> {
        let since = self.since(now);
        let (mut matches, mut watches) = (BTreeMap::<_, Vec<_>>::new(), Vec::new());
        for (name, jail) in &self.jails {
            let settings = jail.settings();
            match settings.source.clone() {
                LogSource::Journal { matches: wanted, files } => {
                    matches.entry(files).or_default().push((name.clone(), wanted));
                }
                LogSource::Files { paths, charset } => watches.push(Watch {
                    jail: name.as_str().into(),
                    paths,
                    charset,
                    filter: settings.filter.clone(),
                    zone: settings.logtimezone.clone(),
                }),
            }
        }
        // One that cannot be read is none.
        let entry = |source: &str| self.positions.get(source)?.text.parse().ok();
        let position = |source: &str| match entry(source) {
            Some(up_to) if at_start => Position::Replay { since, up_to },
            Some(cursor) => Position::After(cursor),
            None => Position::Since(since),
        };
        let positions = self.positions.iter().map(|(source, at)| (source.clone(), at.text.clone())).collect();
        let journals = matches.into_iter().map(|(files, matches)| {
            let position = position(&files.source());
            journal::Reader::start(files, matches, position, lines.clone())
        });
        let journals = journals.collect::<Result<_>>()?;
        let files = (!watches.is_empty())
            .then(|| file::Reader::start(watches, positions, since, at_start, lines.clone()));
        Ok(Readers { _journals: journals, _files: files.transpose()? })
    }

    /// Runs until SIGTERM or SIGINT. Bans stay in the kernel.
    pub async fn run(mut self, socket: ControlSocket, net: Net) -> Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut flush_log = signal(SignalKind::user_defined1())?;
        let (calls_in, mut calls) = mpsc::channel::<Call>(CALLS_WAITING);
        let (mut lines_in, mut lines) = mpsc::channel::<Batch>(LINES_WAITING);
        self.housekeeping(net.own_addresses().await, SystemTime::now());
        self.refresh_ignored();
        let mut answers = self.questions.inbox().context("the agent runs once")?;
        let mut refreshing = interval(REFRESH);
        let mut readers = self.read(true, &lines_in, SystemTime::now())?;
        let mut changes = Changes::new()?;
        let mut housekeeping = interval(HOUSEKEEPING);
        let mut storing = interval(STORE_POSITIONS);
        let mut purging = interval(PURGE);
        let mut reporting = interval(TAKE_EVERY);
        reporting.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut clock = Clock::new(SystemTime::now(), Instant::now());
        tokio::spawn(async move { socket.serve(calls_in).await });
        info!("Ready");
        loop {
            let reload = tokio::select! {
                // In this order: what ends a ban or the agent must not wait behind a flood of lines.
                biased;
                signal = stop_signal(&mut terminate, &mut interrupt) => {
                    // First what must not be lost, then what may take its time.
                    self.stop(SystemTime::now());
                    std::mem::take(&mut self.actions).stop().await;
                    let waiting = self.questions.waiting();
                    if waiting > 0 {
                        warn!(waiting, "Failures that waited for a look-up or for ignorecommand are not counted");
                    }
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
                _ = flush_log.recv() => {
                    log::flush();
                    false
                }
                () = until_end(self.next_end()) => {
                    self.expire(SystemTime::now());
                    false
                }
                Some((request, reply)) = calls.recv() => {
                    let (reload, only_rates) = (request == Request::Reload, request == Request::Top);
                    let answer = self.answer(request, SystemTime::now());
                    let reloaded = reload && matches!(answer, Answer::Reloaded { .. });
                    // Rates are of this moment, and tell of nothing that was done.
                    let stored = (!only_rates).then(|| self.store.flushed());
                    tokio::spawn(async move {
                        // What the operator is told is done survives the next moment, unless the disk hangs.
                        if let Some(stored) = stored
                            && timeout(STORE_PATIENCE, stored).await.is_err()
                        {
                            warn!("The store does not answer; what was asked for is done, and not stored yet");
                        }
                        // A client that has gone away needs no answer.
                        drop(reply.send(answer));
                    });
                    reloaded
                }
                () = changes.next() => {
                    self.follow(&net).await;
                    false
                }
                _ = reporting.tick(), if self.map.reports() => {
                    if let Err(error) = self.map.take_reports() {
                        warn!("What the kernel reports is not known: {error:#}");
                    }
                    false
                }
                _ = housekeeping.tick() => {
                    self.housekeeping(net.own_addresses().await, SystemTime::now());
                    false
                }
                Some(answer) = answers.recv() => {
                    self.answered(answer, SystemTime::now());
                    false
                }
                _ = refreshing.tick() => {
                    self.refresh_ignored();
                    false
                }
                _ = purging.tick() => {
                    self.purge(SystemTime::now());
                    false
                }
                _ = storing.tick() => {
                    let now = SystemTime::now();
                    if clock.was_set(now, Instant::now()) {
                        self.clock_was_set(now);
                    }
                    self.store_positions(now);
                    if let Err(error) = self.map.gather_counts() {
                        warn!("The packets of bans are not counted in the map of bans: {error:#}");
                    }
                    false
                }
                Some(batch) = lines.recv() => {
                    self.batch(batch, SystemTime::now());
                    false
                }
            };
            if reload {
                self.refresh_ignored();
                // What the old reader has handed over is counted first, so that the new one goes on exactly behind it.
                drop(readers);
                drop(lines_in);
                while let Some(batch) = lines.recv().await {
                    self.batch(batch, SystemTime::now());
                }
                (lines_in, lines) = mpsc::channel(LINES_WAITING);
                readers = self.read(false, &lines_in, SystemTime::now())?;
            }
        }
    }

    /// Takes the lines of a source through their jails, and remembers up to where it was read.
    pub fn batch(&mut self, batch: Batch, now: SystemTime) {
        for line in &batch.lines {
            self.line(line, batch.reading, now);
        }
        if batch.reading != Reading::Again {
            let position = SourcePosition { text: batch.position, is_stored: false };
            self.positions.insert(batch.source, position);
        }
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
