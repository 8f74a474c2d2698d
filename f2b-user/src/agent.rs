//! The agent: one event loop that owns jails, ban set, kernel map and store.
//!
//! Decisions are made in [`jail`](crate::jail) and [`ban`](crate::ban); here they are carried out: kernel map first,
//! then store, then log.

mod asking;
mod clock;
mod import;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{interval, sleep, timeout},
};
use tracing::{debug, error, info, warn};

use self::clock::Clock;
use crate::{
    action::{Actions, Info, JailInfo},
    ask::{Known, Questions, Waiting},
    ban::{BanSet, Change, KERNEL, Scopes, Step, Subject, Until, squeeze},
    config::{BanTime, Config, LogPath, LogSource, Own},
    control::{
        Answer, BanInfo, Banned, JailStatus, Refused, Request, Status,
        server::{Call, ControlSocket},
    },
    filter::Failure,
    history::{History, Past},
    jail::{Count, Evidence, Ignored, Jail, Outcome},
    log::{self, event},
    net::{Changes, Net},
    source::{
        self, Batch, Line, Reading,
        file::{self, Watch},
        journal::{self, Position},
    },
    store::{Store, Stored, StoredBan},
    ticket::{Length, Ticket},
    xdp::BanMap,
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
/// Whole seconds by which the date of a line that has just been written may differ from now (`Filter.processLine`).
const ODD_DATE: u64 = 60;
/// How many of the bans that are put back are logged one by one.
const RESTORED_IN_LOG: usize = 10_000;
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
    /// What `f2b.conf` says.
    own: Own,
    config_dir: Option<PathBuf>,
    dry_run: bool,
    /// Bans that the kernel did not take.
    refused: u64,
    /// Up to where the lines of each source were decided on.
    positions: BTreeMap<String, SourcePosition>,
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
            questions: Questions::default(),
            own_addresses: Vec::new(),
            scopes: BTreeMap::new(),
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

    /// Brings ban set, store and kernel map together after a start. A ban that any of them still holds is held; one
    /// that the map lost (a reboot) is put back, one that only the map has (the store failed) is adopted.
    pub fn restore(&mut self, now: SystemTime) -> Result<()> {
        let Stored { bans: stored_bans, history, positions } = self.store.take_stored();
        let stored = |(source, text)| (source, SourcePosition { text, is_stored: true });
        self.positions = positions.into_iter().map(stored).collect();
        if self.goes_by_history() {
            self.history = history;
            // The clock may have been wrong when they were stored.
            self.history.not_after(now);
        }
        let mut in_kernel = BTreeMap::new();
        let mut in_use = 0;
        let mut over = Vec::new();
        for mut ban in self.map.bans(now)? {
            ban.steps.retain(|step| !step.until.is_over(now));
            if ban.steps.is_empty() {
                over.push((ban.subject, ban.steps));
            } else {
                in_use |= ban.steps.iter().fold(0, |scopes, step| scopes | step.scopes);
                in_kernel.insert(ban.subject, ban.steps);
            }
        }
        self.apply(over, now)?;
        self.number_scopes(in_use);
        let told = |ban: &&StoredBan| self.actions.of(&ban.owner).is_some();
        let told: Vec<_> = stored_bans.iter().filter(told).cloned().collect();
        for ban in stored_bans {
            // Of a jail that is gone, nobody knows the ports. What the kernel has of it goes on below.
            if let Some(scopes) = self.scopes.get(&*ban.owner) {
                self.bans.insert(ban.subject, &ban.owner, ban.until, *scopes);
            }
        }
        let mut adopted = 0;
        // Wider prefixes first: what is in them includes them.
        for (subject, steps) in &in_kernel {
            for (n, step) in self.bans.unexplained(*subject, steps, SAME_END).into_iter().enumerate() {
                let owner = if n == 0 { KERNEL.to_owned() } else { format!("{KERNEL} {}", n + 1) };
                self.bans.add(*subject, &owner, step.until, step.scopes);
                adopted += 1;
            }
        }
        let bans = &self.bans;
        let mut put_back = Vec::new();
        let missing = bans.subjects().into_iter().filter_map(|subject| {
            let steps = bans.steps(subject);
            let held = in_kernel.get(&subject).map(Vec::as_slice).unwrap_or_default();
            let is_missing = !is_same(held, &squeeze(steps.clone(), f2b_ebpf::SLOTS));
            is_missing.then(|| {
                put_back.push(subject);
                (subject, steps)
            })
        });
        let refused = self.map.set_all(missing, now)?;
        for (subject, error) in &refused {
            let subject = *subject;
            self.refused += 1;
            error!(ip = %subject, "Not restored: {error:#}");
            // It stays in the store: the next start may have room for it.
            for owner in self.bans.owners(subject) {
                self.bans.remove(subject, &owner);
            }
        }
        self.allow_everywhere_ignored();
        self.tell_of_restored(&put_back, &told);
        if !self.bans.is_empty() {
            let (bans, in_kernel) = (self.bans.len(), in_kernel.len());
            info!(
                bans,
                in_kernel,
                put_back = put_back.len() - refused.len(),
                unrecorded = adopted,
                "Bans of the agent before go on"
            );
        }
        Ok(())
    }

    /// Logs the bans that are put back, as many as anybody would read, and tells the actions of those that go on.
    fn tell_of_restored(&self, put_back: &[Subject], told: &[StoredBan]) {
        for subject in put_back.iter().take(RESTORED_IN_LOG) {
            for owner in self.bans.owners(*subject) {
                if let Some(until) = self.bans.until_of(*subject, &owner) {
                    event::restored(&owner, *subject, until);
                }
            }
        }
        for ban in told.iter().filter(|ban| self.bans.until_of(ban.subject, &ban.owner).is_some()) {
            self.act(&ban.ticket(), Actions::ban);
        }
    }

    /// Has every jail's actions be those of its settings.
    fn set_actions(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for (name, jail) in &self.jails {
            let ticket = |subject| self.ticket_at(name, subject, SystemTime::now());
            let bans = || self.bans.of(name).into_iter().map(ticket).collect();
            actions.jail(self.jail_info(name), &jail.settings().actions, bans);
        }
        self.actions = actions;
    }

    /// Has the actions of its jail do something about a ban, if it has any.
    fn act(&self, ticket: &Ticket, what: fn(&Actions, Info)) {
        if let Some(needs) = self.actions.of(&ticket.jail) {
            let jail =
                if needs.numbers { self.jail_info(&ticket.jail) } else { self.jail_name(&ticket.jail) };
            what(&self.actions, Info::of(ticket.clone(), jail));
        }
    }

    fn jail_name(&self, name: &str) -> JailInfo {
        let bantime = self.jails.get(name).and_then(|jail| match jail.settings().bantime {
            BanTime::For(bantime) => Some(bantime),
            BanTime::Forever => None,
        });
        JailInfo { name: name.to_owned(), bantime, ..JailInfo::default() }
    }

    fn jail_info(&self, name: &str) -> JailInfo {
        let Some(jail) = self.jails.get(name) else { return self.jail_name(name) };
        JailInfo {
            banned: self.bans.of(name).len(),
            banned_total: jail.total_banned(),
            found: jail.currently_failed(),
            found_total: jail.total_failed(),
            ..self.jail_name(name)
        }
    }

    /// What is known of a ban without its history.
    fn ticket_at(&self, owner: &str, subject: Subject, time: SystemTime) -> Ticket {
        let length = self.jails.get(owner).map_or(Length::Forever, Jail::length);
        Ticket::by_hand(owner, subject, time, length)
    }

    /// Gives the jails' scopes their numbers in the kernel; `in_use` are those that bans have there. A jail whose ports
    /// find no number is left out: better no ban than one of other ports.
    fn number_scopes(&mut self, mut in_use: Scopes) -> Vec<String> {
        let mut warnings = Vec::new();
        self.scopes.clear();
        self.jails.retain(|name, jail| {
            let mut scopes = 0;
            for scope in &jail.settings().scopes {
                match self.map.scope(scope, in_use) {
                    Ok(number) => scopes |= 1 << number,
                    Err(error) => {
                        let warning = format!("jail {name} is left out: its ports ({scope}): {error:#}");
                        error!("{warning}");
                        warnings.push(warning);
                        return false;
                    }
                }
            }
            if scopes == 0 {
                info!(jail = name, "No firewall action: its bans are listed, and drop nothing");
            }
            in_use |= scopes;
            self.scopes.insert(name.clone(), scopes);
            true
        });
        warnings
    }

    /// Puts into the kernel's allow list what every jail ignores, and what `f2b.conf` allows. What only some jails
    /// ignore, others may ban.
    fn allow_everywhere_ignored(&mut self) {
        let mut nets = self.own.allow.clone();
        nets.extend(self.ignored_everywhere());
        if let Err(error) = self.map.allow(&nets) {
            error!("The allow list in the kernel is not complete: {error:#}");
        }
    }

    fn ignored_everywhere(&self) -> Vec<IpNet> {
        let lists = self.jails.values().map(|jail| {
            jail.settings().ignoreip.iter().chain(jail.also_ignored()).copied().collect::<BTreeSet<_>>()
        });
        lists.reduce(|all, list| &all & &list).into_iter().flatten().collect()
    }

    /// Takes a line through filter and jail, and bans if that is what it comes to. One that is read again is only
    /// counted.
    pub fn line(&mut self, line: &Line, reading: Reading, now: SystemTime) {
        let Some(jail) = self.jails.get_mut(&line.jail) else {
            return;
        };
        for failure in jail.find(&line.text, line.time, now) {
            self.failure(line, failure, reading, now);
        }
    }

    /// Charges a failure to its address, as soon as all is known that must be asked.
    fn failure(&mut self, line: &Line, failure: Failure, reading: Reading, now: SystemTime) {
        let time = line.time.unwrap_or_else(|| self.time_by_date(line, failure.time, reading, now));
        // Nothing has happened later than now, whatever a line says (`Filter.processLineAndAdd`).
        let time = time.min(now);
        let replayed = reading == Reading::Again;
        let waiting = Waiting { jail: line.jail.clone(), failure, time, replayed };
        match waiting.failure.ip {
            Some(ip) => self.check(waiting, ip, now),
            None if waiting.failure.is_name => {
                if let Known::Now(addresses, waiting) = self.questions.resolve(waiting, now) {
                    self.resolved(*waiting, &addresses, now);
                }
            }
            // Something else than an address, which the kernel cannot drop.
            None => {}
        }
    }

    /// When a line of a file was written. If it has just been written, and its date says something else, the date is
    /// wrong: mostly in another time zone.
    fn time_by_date(&mut self, line: &Line, date: f64, reading: Reading, now: SystemTime) -> SystemTime {
        let date = source::time(date);
        let ago = now.duration_since(date).unwrap_or_default();
        if reading != Reading::Live || ago.as_secs() <= ODD_DATE {
            return date;
        }
        if let Some(jail) = self.jails.get_mut(&line.jail)
            && jail.warns_of_date(now)
        {
            warn!(
                jail = line.jail,
                "A line that has just been written is dated {} s before now: is it in another time zone \
                 (logtimezone), or late? Such lines count as written now: {}",
                ago.as_secs(),
                line.text
            );
        }
        now
    }

    /// Charges a failure to its address.
    fn charge(&mut self, waiting: &Waiting, ip: IpAddr, now: SystemTime) {
        let Waiting { jail: name, failure, time, replayed } = waiting;
        let (name, time) = (name.as_str(), *time);
        let Some(jail) = self.jails.get_mut(name) else { return };
        let evidence = Evidence::from(failure);
        if *replayed {
            return jail.replay(ip, time, evidence, &self.history, &self.own_addresses);
        }
        if self.own.allows(ip) {
            return event::ignored(name, ip, "ip", "f2b.conf allows it");
        }
        let outcome = jail.failure(ip, time, evidence, &self.history, &self.own_addresses, now);
        let maxretry = jail.settings().maxretry;
        let found = |Count { count, bad }: Count| {
            event::found(name, failure, time, count);
            if let Some((bans, worth)) = bad {
                event::found_bad(name, ip, time, bans, worth, worth >= maxretry);
            }
        };
        match outcome {
            Outcome::Counted(count) => found(count),
            Outcome::Ignored(Ignored::TooOld) => debug!(jail = name, %ip, "Too old to count"),
            Outcome::Ignored(reason) => event::ignored(name, ip, reason.source(), reason),
            Outcome::AlreadyOver => event::expired(name, ip),
            Outcome::Ban(count, mut ticket) => {
                found(count);
                let result = match self.bans.until_of(ip.into(), name) {
                    Some(until) => self.prolong(&ticket, until, now),
                    None => self.ban(&mut ticket, now),
                };
                if let Err(error) = result {
                    error!(jail = name, %ip, "Not banned: {error:#}");
                }
            }
        }
    }

    /// Bans as `ticket` says, and longer if the address is a known offender.
    fn ban(&mut self, ticket: &mut Ticket, now: SystemTime) -> Result<()> {
        let Some(jail) = self.jails.get(&ticket.jail) else { return Ok(()) };
        let subject = ticket.subject;
        let past = jail.past(subject, &self.history);
        if let Err(wrong) = jail.sentence(ticket, &self.history, &mut fastrand::f64) {
            error!(jail = ticket.jail, ip = %subject, "Its ban time is not increased: {wrong}");
        }
        let until = ticket.until();
        let is_increased = ticket.bantime != jail.length();
        let is_counted = jail.settings().increment.is_some();
        self.enforce(ticket, until, now)?;
        if let Some(jail) = self.jails.get_mut(&ticket.jail) {
            jail.banned();
        }
        event::banned(&ticket.jail, subject, until);
        // One that was read twice is no second one (`incrBanTime`).
        if past.is_none_or(|past| ticket.time > past.time) {
            if is_counted {
                let past = Past { count: ticket.bancount, time: ticket.time };
                self.history.add(&ticket.jail, subject, past, until);
            }
            self.store.ban(ticket);
        }
        self.act(ticket, Actions::ban);
        if is_increased {
            event::increased(ticket);
            self.act(ticket, Actions::prolong);
        }
        Ok(())
    }

    /// Somebody is banned already, until `until`, and has failed often enough again: the ban lasts as long as a new one
    /// would (`BanManager.addBanTicket`).
    fn prolong(&mut self, ticket: &Ticket, until: Until, now: SystemTime) -> Result<()> {
        let later = ticket.until();
        event::already_banned(&ticket.jail, ticket.subject, later.since(until).as_secs_f64());
        if later <= until {
            return Ok(());
        }
        self.enforce(ticket, later, now)?;
        let past = self.history.of(&ticket.jail, ticket.subject);
        if let Some(past) = past {
            self.history.add(&ticket.jail, ticket.subject, past, later);
        }
        self.store.add(StoredBan {
            owner: ticket.jail.as_str().into(),
            subject: ticket.subject,
            until: later,
            started: past.map_or(ticket.time, |past| past.time),
            bancount: past.map_or(1, |past| past.count),
        });
        self.act(ticket, Actions::prolong);
        Ok(())
    }

    /// Has ban set and kernel hold the ban until then, or leaves both as they were.
    fn enforce(&mut self, ticket: &Ticket, until: Until, now: SystemTime) -> Result<()> {
        let (jail, subject) = (ticket.jail.as_str(), ticket.subject);
        let before =
            self.bans.until_of(subject, jail).map(|until| (until, self.bans.scopes_of(subject, jail)));
        let changes = self.bans.add(subject, jail, until, self.scopes.get(jail).copied().unwrap_or_default());
        let Err(error) = self.apply(changes, now) else {
            self.take_over_from_kernel(subject, jail, now);
            return Ok(());
        };
        self.refused += 1;
        // What the kernel does not hold is not banned, whatever the agent would like.
        let undone = match before {
            Some((until, scopes)) => self.bans.add(subject, jail, until, scopes),
            None => self.bans.remove(subject, jail),
        };
        if let Err(error) = self.apply(undone, now) {
            error!(jail, ip = %subject, "The kernel may hold a part of the ban: {error:#}");
        }
        Err(error)
    }

    /// A ban that was found in the kernel alone is the jail's if the jail makes the same: an agent before this one was
    /// killed before it was stored.
    fn take_over_from_kernel(&mut self, subject: Subject, jail: &str, now: SystemTime) {
        let Some(adopted) = self.bans.until_of(subject, KERNEL) else { return };
        let covers_more = self.bans.scopes_of(subject, KERNEL) & !self.bans.scopes_of(subject, jail) != 0;
        let is_shorter = |own: Until| adopted.is_later(own, SAME_END);
        if covers_more || self.bans.until_of(subject, jail).is_none_or(is_shorter) {
            return;
        }
        let changes = self.bans.remove(subject, KERNEL).into_iter().collect();
        self.carry_out(changes, now, "The kernel keeps the ban as it was");
    }

    /// Ends the bans of these owners and subjects.
    fn unban(&mut self, bans: Vec<(String, Subject)>, now: SystemTime) {
        // What a subject comes to in the end counts.
        let mut changes = BTreeMap::new();
        for (owner, subject) in &bans {
            changes.extend(self.bans.remove(*subject, owner));
        }
        self.unbanned(bans, changes, now);
    }

    fn unbanned(
        &mut self,
        bans: Vec<(String, Subject)>,
        changes: BTreeMap<Subject, Vec<Step>>,
        now: SystemTime,
    ) {
        self.carry_out(changes, now, "The kernel keeps the ban");
        for (owner, subject) in bans {
            event::unbanned(&owner, subject);
            self.act(&self.ticket_at(&owner, subject, now), Actions::unban);
        }
    }

    fn apply(&mut self, changes: Vec<Change>, now: SystemTime) -> Result<()> {
        let refused = self.map.set_all(changes, now)?;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Has the kernel follow, and logs as an error, in these words, where it does not.
    fn carry_out(&mut self, changes: BTreeMap<Subject, Vec<Step>>, now: SystemTime, failure: &str) {
        match self.map.set_all(changes, now) {
            Ok(refused) => {
                for (subject, error) in refused {
                    error!(ip = %subject, "{failure}: {error:#}");
                }
            }
            Err(error) => error!("{failure}: {error:#}"),
        }
    }

    /// Ends the bans that are over.
    pub fn expire(&mut self, now: SystemTime) {
        let (mut ended, mut changes) = (Vec::new(), BTreeMap::new());
        while let Some((subject, owner, changed)) = self.bans.expire_one(now) {
            changes.extend(changed);
            ended.push((owner, subject));
        }
        self.unbanned(ended, changes, now);
    }

    /// When the next ban ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.bans.next_end()
    }

    /// Answers a request; `reload` is the loop's business.
    pub fn answer(&mut self, request: Request, now: SystemTime) -> Answer {
        let answer = match request {
            Request::Status => self.status(),
            Request::JailStatus { jail } => self.jail_status(&jail),
            Request::Banned => self.banned(now),
            Request::JailBans { jail } => self.jail_bans(&jail),
            Request::Ban { jail, addresses } => Ok(self.ban_by_hand(&jail, &addresses, now)),
            Request::Import { bans } => Ok(self.import(bans, now)),
            Request::Unban { addresses } => Ok(self.unban_by_hand(&addresses, now)),
            Request::UnbanAll => {
                let all = self.bans.subjects();
                Ok(self.unban_by_hand(&all, now))
            }
            Request::Reload => self.reload(now).map(|warnings| Answer::Reloaded { warnings }),
        };
        answer.unwrap_or_else(|error| Answer::Error { message: format!("{error:#}") })
    }

    fn status(&self) -> Result<Answer> {
        Ok(Answer::Status(Status {
            jails: self.jails.keys().cloned().collect(),
            interfaces: self.map.interfaces()?,
            banned: self.bans.len(),
            prefixes: self.bans.prefixes(),
            scopes: self.map.scopes()?,
            capacity: self.map.capacity(),
            packets: self.map.counters()?.into(),
            refused: self.refused,
            dry_run: self.dry_run,
        }))
    }

    fn jail_status(&self, name: &str) -> Result<Answer> {
        let jail = self.jails.get(name).with_context(|| self.no_such_jail(name))?;
        let banned = self.bans.of(name);
        let (journal_matches, files) = match &jail.settings().source {
            LogSource::Journal { matches, .. } => (matches.to_string(), Vec::new()),
            LogSource::Files { paths, .. } => {
                let files = paths.iter().flat_map(LogPath::files);
                (String::new(), files.map(|file| file.display().to_string()).collect())
            }
        };
        Ok(Answer::JailStatus(JailStatus {
            jail: name.to_owned(),
            currently_failed: jail.currently_failed(),
            total_failed: jail.total_failed(),
            journal_matches,
            files,
            over_budget: jail.over_budget(),
            currently_banned: banned.len(),
            total_banned: jail.total_banned(),
            banned,
        }))
    }

    fn jail_bans(&self, name: &str) -> Result<Answer> {
        self.jails.get(name).with_context(|| self.no_such_jail(name))?;
        let ban = |address| Some(Banned { address, until: self.bans.until_of(address, name)? });
        Ok(Answer::JailBans { bans: self.bans.of(name).into_iter().filter_map(ban).collect() })
    }

    fn banned(&self, now: SystemTime) -> Result<Answer> {
        let packets: BTreeMap<_, _> =
            self.map.bans(now)?.into_iter().map(|ban| (ban.subject, ban.packets)).collect();
        let mut bans: Vec<_> = self
            .bans
            .subjects()
            .into_iter()
            .filter_map(|subject| {
                Some(BanInfo {
                    address: subject,
                    jails: self.bans.owners(subject),
                    until: self.bans.until(subject)?,
                    packets: packets.get(&subject).copied().unwrap_or_default(),
                })
            })
            .collect();
        bans.sort_by_key(|ban| ban.until);
        Ok(Answer::Banned { bans })
    }

    fn ban_by_hand(&mut self, name: &str, subjects: &[Subject], now: SystemTime) -> Answer {
        let Some(jail) = self.jails.get(name) else {
            return Answer::Error { message: self.no_such_jail(name) };
        };
        let length = jail.length();
        let (mut banned, mut refused) = (Vec::new(), Vec::new());
        for &subject in subjects {
            let mut ticket = Ticket::by_hand(name, subject, now, length);
            let banned_until = self.bans.until_of(subject, name);
            let result = match (self.must_not_be_banned(name, subject), banned_until) {
                (Some(reason), _) => Err(reason),
                (None, Some(until)) => {
                    self.prolong(&ticket, until, now).map_err(|error| format!("{error:#}"))
                }
                (None, None) => self.ban(&mut ticket, now).map_err(|error| format!("{error:#}")),
            };
            match result {
                Ok(()) => {
                    let until = self.bans.until_of(subject, name).unwrap_or_else(|| ticket.until());
                    banned.push(Banned { address: subject, until });
                }
                Err(reason) => refused.push(Refused { address: subject, reason }),
            }
        }
        Answer::BanDone { banned, refused }
    }

    /// Why `jail` may not ban `subject`, if so.
    fn must_not_be_banned(&self, jail: &str, subject: Subject) -> Option<String> {
        let jail = self.jails.get(jail)?;
        if let Some(address) = subject.address() {
            if self.own.allows(address) {
                return Some("f2b.conf allows it".into());
            }
            return jail.ignores(address, &self.own_addresses).map(|reason| reason.to_string());
        }
        // The allow list keeps these free in the middle of a banned prefix. Of all others, the kernel knows nothing.
        let everywhere = self.ignored_everywhere();
        let net = subject.net();
        let ignored = jail.settings().ignoreip.iter().chain(jail.also_ignored()).find(|ignored| {
            (net.contains(*ignored) || ignored.contains(&net)) && !everywhere.contains(ignored)
        })?;
        Some(format!(
            "{ignored} is in it or around it, which this jail ignores and not every jail; \
             put it into ignoreip of [DEFAULT], or into allow of f2b.local"
        ))
    }

    fn unban_by_hand(&mut self, subjects: &[Subject], now: SystemTime) -> Answer {
        let (mut freed, mut bans) = (Vec::new(), Vec::new());
        for subject in unique(subjects) {
            let owners = self.bans.owners(subject);
            if !owners.is_empty() {
                freed.push(subject);
            }
            bans.extend(owners.into_iter().map(|owner| (owner, subject)));
        }
        for (owner, subject) in &bans {
            if let (Some(jail), Some(ip)) = (self.jails.get_mut(owner), subject.address()) {
                jail.forget(ip);
            }
            self.history.remove(owner, *subject);
            self.store.unban(owner, *subject);
        }
        self.unban(bans, now);
        // Without it, an agent that starts now would count the failures behind these bans anew.
        self.store_positions(now);
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
        let unnumbered = self.number_scopes(self.bans.scopes());
        self.questions.forget();
        if !self.goes_by_history() {
            self.history = History::default();
        } else if self.history.is_empty() {
            self.history = self.store.history(now).unwrap_or_else(|error| {
                error!("It is not known who was banned before: {error:#}");
                History::default()
            });
        }
        let gone = self.owners_without_jail();
        self.unban(gone, now);
        for name in old.keys() {
            self.actions.remove(name);
        }
        self.set_actions();
        self.rescope(now);
        if config.own.at_start() != self.own.at_start() {
            warn!("interfaces, mode, max_bans and log_drops of f2b.conf take effect at the next start");
        }
        self.own = config.own;
        self.allow_everywhere_ignored();
        info!(jails = self.jails.len(), origin = config.origin, "Reloaded");
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Ok([config.warnings, unnumbered].concat())
    }

    /// The bans of jails that are gone.
    fn owners_without_jail(&self) -> Vec<(String, Subject)> {
        let gone = self
            .bans
            .iter()
            .filter(|(_, owner, _)| !owner.starts_with(KERNEL) && !self.jails.contains_key(*owner));
        gone.map(|(subject, owner, _)| (owner.to_owned(), subject)).collect()
    }

    /// Has every ban cover what its jail's bans cover now.
    fn rescope(&mut self, now: SystemTime) {
        let bans: Vec<_> =
            self.bans.iter().map(|(subject, owner, until)| (subject, owner.to_owned(), until)).collect();
        let mut changes = BTreeMap::new();
        for (subject, owner, until) in bans {
            let Some(scopes) = self.scopes.get(&owner).copied() else { continue };
            if scopes != self.bans.scopes_of(subject, &owner) {
                changes.extend(self.bans.add(subject, &owner, until, scopes));
            }
        }
        self.carry_out(changes, now, "The ban keeps its old ports");
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

    /// Whether earlier bans matter to any jail.
    fn goes_by_history(&self) -> bool {
        self.jails.values().any(|jail| jail.settings().increment.is_some())
    }

    /// Starts to read behind what was decided on. At the start of the agent, the failures of the find window before it
    /// are counted again.
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
                    jail: name.clone(),
                    paths,
                    charset,
                    filter: settings.filter.clone(),
                    zone: settings.logtimezone.clone(),
                }),
            }
        }
        let position = |source: &str| match self.positions.get(source).map(|at| at.text.clone()) {
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
        let mut clock = Clock::new(SystemTime::now(), Instant::now());
        tokio::spawn(async move { socket.serve(calls_in).await });
        info!("Ready");
        loop {
            let reload = tokio::select! {
                // In this order: what ends a ban or the agent must not wait behind a flood of lines.
                biased;
                signal = stop_signal(&mut terminate, &mut interrupt) => {
                    self.store_positions(SystemTime::now());
                    // First what must not be lost, then what may take its time.
                    self.store.flush();
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
                    let reload = request == Request::Reload;
                    let answer = self.answer(request, SystemTime::now());
                    let reloaded = reload && matches!(answer, Answer::Reloaded { .. });
                    let stored = self.store.flushed();
                    tokio::spawn(async move {
                        // What the operator is told is done survives the next moment, unless the disk hangs.
                        if timeout(STORE_PATIENCE, stored).await.is_err() {
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

/// Each of `subjects` once, in their order.
fn unique(subjects: &[Subject]) -> impl Iterator<Item = Subject> {
    let mut seen = HashSet::new();
    subjects.iter().copied().filter(move |subject| seen.insert(*subject))
}

/// Whether the kernel holds these steps already, but for clock noise.
fn is_same(held: &[Step], steps: &[Step]) -> bool {
    held.len() == steps.len()
        && held.iter().zip(steps).all(|(a, b)| {
            a.scopes == b.scopes
                && !a.until.is_later(b.until, SAME_END)
                && !b.until.is_later(a.until, SAME_END)
        })
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
