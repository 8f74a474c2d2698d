//! What must be asked before a failure counts: the addresses of a host name (`usedns`), whether `ignorecommand` ignores
//! it, and who stands behind the names and files of `ignoreip`.
//!
//! Answers take their time, and some never come. So whoever asks does not wait: the failure is put aside, and its
//! [`Answer`] comes through a channel. Failures that need no answer are not delayed; one question is asked once, however
//! many failures wait for it; and how many may wait, and how many commands and look-ups run, is bounded.
//!
//! - [`cache`]: answers that hold for a while
//! - [`command`] runs `ignorecommand`
//! - [`resolve`]: names and files → addresses

mod cache;
mod command;
mod resolve;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use tokio::sync::{
    Semaphore,
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tracing::warn;

use self::cache::Cache;
use crate::{
    action::fill_plain,
    config::{Ignore, JailSettings},
    filter::Failure,
};

/// What fail2ban remembers of names (`DNSUtils.CACHE_nameToIp`).
const NAMES: usize = 1000;
const NAMES_HOLD: Duration = Duration::from_secs(300);
/// Failures that may wait for answers.
const WAITING: usize = 20_000;
/// Commands of one jail at a time.
const COMMANDS: usize = 32;

/// A failure on its way to its jail.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub jail: String,
    pub failure: Failure,
    /// When it happened.
    pub time: SystemTime,
    /// It was decided on before, by an agent that has stopped.
    pub replayed: bool,
}

/// An answer, for [`Questions::settle`].
#[derive(Debug)]
pub struct Answer(Kind);

#[derive(Debug)]
enum Kind {
    Resolved { name: String, addresses: anyhow::Result<Vec<IpAddr>> },
    Checked { question: Question, is_ignored: bool },
    Ignored { jail: String, nets: Vec<IpNet>, problems: Vec<String> },
}

/// A jail, and whom or what its `ignorecommand` is asked about.
type Question = (String, String);

/// What an answer comes to.
#[derive(Debug)]
pub enum Settled {
    /// These addresses stand behind the name that these failures are charged to.
    Resolved(Vec<Waiting>, Vec<IpAddr>),
    /// These are ignored, or not.
    Checked(Vec<Waiting>, bool),
    /// The jail ignores these, too, from now on; these failures have waited for it.
    Ignored { jail: String, nets: Vec<IpNet>, problems: Vec<String>, waiting: Vec<Waiting> },
}

/// What is known, or will be.
#[derive(Debug)]
pub enum Known<T> {
    Now(T, Box<Waiting>),
    /// The failure waits for its answer.
    Later,
}

/// The questions that are being asked, and the answers that hold.
#[derive(Debug)]
pub struct Questions {
    names: Cache<String, Vec<IpAddr>>,
    resolving: HashMap<String, Vec<Waiting>>,
    /// By jail.
    verdicts: HashMap<String, Cache<String, bool>>,
    checking: HashMap<Question, Vec<Waiting>>,
    turns: HashMap<String, Arc<Semaphore>>,
    /// By jail: those that wait to know who stands behind its names. A jail that knows is not in it.
    unready: HashMap<String, Vec<Waiting>>,
    waiting: usize,
    answers: UnboundedSender<Answer>,
    inbox: Option<UnboundedReceiver<Answer>>,
    /// It was said that too many wait.
    warned: bool,
    /// Whether names stand for IPv6 addresses, too.
    allows_ipv6: bool,
}

impl Questions {
    /// None is asked yet.
    pub fn new(allows_ipv6: bool) -> Self {
        let (answers, inbox) = unbounded_channel();
        Self {
            names: Cache::new(NAMES, NAMES_HOLD),
            resolving: HashMap::new(),
            verdicts: HashMap::new(),
            checking: HashMap::new(),
            turns: HashMap::new(),
            unready: HashMap::new(),
            waiting: 0,
            answers,
            inbox: Some(inbox),
            warned: false,
            allows_ipv6,
        }
    }

    /// Where answers come in: once. None comes unless somebody asks.
    pub fn inbox(&mut self) -> Option<UnboundedReceiver<Answer>> {
        self.inbox.take()
    }

    /// The addresses of the name that a failure is charged to.
    ///
    /// Must be called inside the tokio runtime, as all that asks.
    pub fn resolve(&mut self, waiting: Waiting, now: SystemTime) -> Known<Vec<IpAddr>> {
        let name = waiting.failure.fid.clone();
        if let Some(addresses) = self.names.get(&name, now) {
            return Known::Now(addresses.clone(), waiting.into());
        }
        if !self.has_room() {
            return Known::Now(Vec::new(), waiting.into());
        }
        self.waiting += 1;
        let all = self.resolving.entry(name.clone()).or_default();
        all.push(waiting);
        if all.len() == 1 {
            let (answers, allows_ipv6) = (self.answers.clone(), self.allows_ipv6);
            tokio::spawn(async move {
                let addresses = resolve::addresses(&name, allows_ipv6).await;
                // An agent that has stopped needs no answer.
                drop(answers.send(Answer(Kind::Resolved { name, addresses })));
            });
        }
        Known::Later
    }

    /// Whether the jail's `ignorecommand` ignores a failure of `ip`, or what its `ignorecache` remembers.
    pub fn check(&mut self, ignore: &Ignore, waiting: Waiting, ip: IpAddr, now: SystemTime) -> Known<bool> {
        if self.waiting < WAITING
            && let Some(unready) = self.unready.get_mut(&waiting.jail)
        {
            self.waiting += 1;
            unready.push(waiting);
            return Known::Later;
        }
        let info = command::info(&waiting, ip);
        let key = match &ignore.cache {
            Some(cache) => fill_plain(&cache.key, &info),
            None => ip.to_string(),
        };
        if let Some(is_ignored) = self.verdicts.get(&waiting.jail).and_then(|cache| cache.get(&key, now)) {
            return Known::Now(*is_ignored, waiting.into());
        }
        let Some(text) = &ignore.command else { return Known::Now(false, waiting.into()) };
        if !self.has_room() {
            return Known::Now(false, waiting.into());
        }
        self.waiting += 1;
        let jail = waiting.jail.clone();
        let text = text.clone();
        let question = (jail.clone(), key);
        let all = self.checking.entry(question.clone()).or_default();
        all.push(waiting);
        if all.len() == 1 {
            let turns = self.turns.entry(jail).or_insert_with(|| Arc::new(Semaphore::new(COMMANDS)));
            let (turns, answers) = (Arc::clone(turns), self.answers.clone());
            tokio::spawn(async move {
                let turn = turns.acquire_owned().await;
                let is_ignored = command::is_ignored(&text, &info).await;
                drop(turn);
                drop(answers.send(Answer(Kind::Checked { question, is_ignored })));
            });
        }
        Known::Later
    }

    /// Remembers that the jail ignores a failure by itself, if it has an `ignorecache`.
    pub fn remember(
        &mut self,
        ignore: &Ignore,
        waiting: &Waiting,
        ip: IpAddr,
        is_ignored: bool,
        now: SystemTime,
    ) {
        let Some(settings) = &ignore.cache else { return };
        let cache = self.verdicts.entry(waiting.jail.clone());
        let cache = cache.or_insert_with(|| Cache::new(settings.max_count, settings.max_time));
        cache.set(fill_plain(&settings.key, &command::info(waiting, ip)), is_ignored, now);
    }

    /// Asks anew who stands behind the names and files of a jail. `before` are those known so far; a name without an
    /// answer keeps them. Until the first answer, the jail's failures wait.
    pub fn refresh(&mut self, settings: &JailSettings, before: Vec<IpNet>, is_first: bool) {
        let Ignore { names, files, .. } = settings.ignore.clone();
        if names.is_empty() && files.is_empty() {
            return;
        }
        let (jail, answers, allows_ipv6) = (settings.name.clone(), self.answers.clone(), self.allows_ipv6);
        if is_first {
            self.unready.entry(jail.clone()).or_default();
        }
        tokio::spawn(async move {
            let (mut nets, mut problems) = (Vec::new(), Vec::new());
            let found = names.iter().map(|name| resolve::addresses(name, allows_ipv6));
            let found = futures_util::future::join_all(found).await;
            for (name, found) in names.iter().zip(found) {
                match found {
                    Ok(addresses) => nets.extend(addresses.into_iter().map(IpNet::from)),
                    Err(error) => problems.push(format!("{name}: {error:#}")),
                }
            }
            for path in files {
                match resolve::file(&path) {
                    Ok((found, wrong)) => {
                        nets.extend(found);
                        problems.extend(
                            wrong.iter().map(|entry| {
                                format!("{}: {entry} is no address and no prefix", path.display())
                            }),
                        );
                    }
                    Err(error) => problems.push(format!("{error:#}")),
                }
            }
            if !problems.is_empty() {
                nets.extend(before);
            }
            nets.sort_unstable();
            nets.dedup();
            drop(answers.send(Answer(Kind::Ignored { jail, nets, problems })));
        });
    }

    /// Forgets the answers under settings that are others now.
    pub fn forget(&mut self, allows_ipv6: bool) {
        self.verdicts.clear();
        if self.allows_ipv6 != allows_ipv6 {
            self.allows_ipv6 = allows_ipv6;
            self.names = Cache::new(NAMES, NAMES_HOLD);
        }
    }

    /// What an answer comes to.
    pub fn settle(&mut self, answer: Answer, now: SystemTime) -> Settled {
        let settled = match answer.0 {
            Kind::Resolved { name, addresses } => {
                let waiting = self.resolving.remove(&name).unwrap_or_default();
                let addresses = addresses.unwrap_or_else(|error| {
                    warn!("Unable to find a corresponding IP address for {name}: {error:#}");
                    Vec::new()
                });
                self.names.set(name, addresses.clone(), now);
                Settled::Resolved(waiting, addresses)
            }
            Kind::Checked { question, is_ignored } => {
                Settled::Checked(self.checking.remove(&question).unwrap_or_default(), is_ignored)
            }
            Kind::Ignored { jail, nets, problems } => {
                let waiting = self.unready.remove(&jail).unwrap_or_default();
                Settled::Ignored { jail, nets, problems, waiting }
            }
        };
        let (Settled::Resolved(waiting, _) | Settled::Checked(waiting, _) | Settled::Ignored { waiting, .. }) =
            &settled;
        self.waiting = self.waiting.saturating_sub(waiting.len());
        self.warned &= self.waiting > WAITING / 2;
        settled
    }

    /// How many failures wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn has_room(&mut self) -> bool {
        if self.waiting < WAITING {
            return true;
        }
        if !self.warned {
            self.warned = true;
            warn!(
                "{WAITING} failures wait for look-ups and ignorecommand; further ones are not looked up nor asked for"
            );
        }
        false
    }
}
