//! The thread that writes. It gathers what comes within a moment into one transaction.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rusqlite::Connection;
use tracing::{error, warn};

use super::{
    Evidence, Merged, Settings, StoredBan, WAITING,
    tables::{self, Op},
};
use crate::{
    ban::Subject,
    history::{History, Past},
};

/// How long it gathers.
const GATHER: Duration = Duration::from_millis(50);
/// The most that is written at once.
const BATCH: usize = 4096;
/// How often it tries again when the disk took nothing.
const RETRY: Duration = Duration::from_secs(5);

/// A jail and some of its tallies.
pub(super) type Part = (String, Vec<u8>);

pub(super) enum Message {
    Write(Op),
    Merged {
        subject: Subject,
        jail: Option<String>,
        reply: SyncSender<Result<Merged>>,
    },
    /// Who was banned before.
    History {
        reply: SyncSender<Result<History>>,
    },
    /// What led to these bans.
    Evidence {
        bans: Vec<StoredBan>,
        reply: SyncSender<Result<Vec<Evidence>>>,
    },
    /// What jails had counted when the agent before stopped, part by part.
    TakeCounted {
        reply: SyncSender<Result<Part>>,
    },
    /// Whoever waits until everything is written is told by this.
    Flush(Box<dyn FnOnce() + Send + Sync>),
}

pub(super) struct Writer {
    connection: Connection,
    /// `None`: in memory.
    path: Option<PathBuf>,
    settings: Settings,
    lost: Arc<AtomicBool>,
    waiting: Vec<Op>,
    /// Since when nothing could be written, and whether something was given up since.
    failing: Option<(Instant, bool)>,
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        path: Option<PathBuf>,
        settings: Settings,
        lost: Arc<AtomicBool>,
    ) -> Self {
        Self { connection, path, settings, lost, waiting: Vec::new(), failing: None }
    }

    /// Until there is nobody left who could send.
    pub(super) fn run(mut self, inbox: &Receiver<Message>) {
        let mut due: Option<Instant> = None;
        loop {
            let message = match due {
                None => inbox.recv().map_err(|_closed| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Write(op)) => {
                    self.waiting.push(op);
                    self.give_up_what_is_too_much();
                    let is_full = self.waiting.len() >= BATCH && self.failing.is_none();
                    if is_full {
                        self.write();
                    }
                }
                Ok(Message::Merged { subject, jail, reply }) => {
                    self.write();
                    let (jail, count) = (jail.as_deref(), self.settings.maxmatches);
                    // Whoever asked may have given up.
                    drop(reply.send(tables::merged(&self.connection, subject, jail, count)));
                }
                Ok(Message::History { reply }) => {
                    self.write();
                    drop(reply.send(self.history()));
                }
                Ok(Message::Evidence { bans, reply }) => {
                    self.write();
                    let evidence = bans.iter().map(|ban| tables::evidence(&self.connection, ban));
                    drop(reply.send(evidence.collect()));
                }
                Ok(Message::TakeCounted { reply }) => {
                    self.write();
                    let part = |jail, tallies| drop(reply.send(Ok((jail, tallies))));
                    if let Err(error) = tables::take_counted(&mut self.connection, part) {
                        drop(reply.send(Err(error)));
                    }
                }
                Ok(Message::Flush(tell)) => {
                    self.write();
                    tell();
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.write();
                    due = None;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.write();
                    return;
                }
            }
            if self.waiting.is_empty() {
                due = None;
            } else if due.is_none() {
                due = Some(Instant::now() + if self.failing.is_some() { RETRY } else { GATHER });
            }
        }
    }

    fn history(&self) -> Result<History> {
        let mut history = History::default();
        tables::bans(&self.connection, None, |owner, subject, until, started, bancount| {
            history.add(owner, subject, Past { count: bancount, time: started }, until);
        })?;
        Ok(history)
    }

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match tables::write(&mut self.connection, &self.waiting, &self.settings) {
            Ok(()) => {
                let checks = self.waiting.iter().any(|op| matches!(op, Op::Purge(_)));
                self.waiting.clear();
                self.waiting.shrink_to(BATCH);
                if let Some((since, gave_up)) = self.failing.take() {
                    let seconds = since.elapsed().as_secs();
                    warn!(seconds, "The store is written again");
                    if gave_up {
                        self.lost.store(true, Ordering::Relaxed);
                    }
                }
                if checks {
                    self.check();
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Looks whether what is on the disk can be read: our own connection has much of it in memory, and would find out at
    /// the next start.
    fn check(&mut self) {
        let Some(path) = &self.path else { return };
        match tables::check(path) {
            Ok(()) => {}
            Err(error) if tables::is_damaged(&error) => drop(self.begin_anew(&error)),
            Err(error) => warn!("The store cannot be checked: {error:#}"),
        }
    }

    fn failed(&mut self, error: &anyhow::Error) {
        if tables::is_damaged(error) && self.begin_anew(error) {
            return;
        }
        match self.failing {
            None => {
                error!("The store cannot be written; bans hold, and are remembered until it can: {error:#}")
            }
            Some((since, _)) if since.elapsed().as_secs() % 60 < RETRY.as_secs() => {
                error!("The store still cannot be written: {error:#}");
            }
            Some(_) => {}
        }
        self.failing.get_or_insert((Instant::now(), false));
        self.give_up_what_is_too_much();
    }

    /// A disk that takes nothing must not fill the memory.
    fn give_up_what_is_too_much(&mut self) {
        if let Some((_, gave_up)) = &mut self.failing
            && self.waiting.len() > WAITING
        {
            self.waiting.clear();
            *gave_up = true;
        }
    }

    /// Sets a damaged file aside, and begins another one.
    fn begin_anew(&mut self, error: &anyhow::Error) -> bool {
        let Some(path) = self.path.clone() else { return false };
        match self.replace(&path) {
            Ok(aside) => {
                error!("{} is damaged, and was renamed to {}: {error:#}", path.display(), aside.display());
                // The agent tells all bans anew.
                self.waiting.clear();
                self.failing = None;
                self.lost.store(true, Ordering::Relaxed);
                true
            }
            Err(anew) => {
                error!("{} is damaged, and another one cannot be made: {anew:#}", path.display());
                false
            }
        }
    }

    fn replace(&mut self, path: &Path) -> Result<PathBuf> {
        // Closed before there is another one: SQLite removes the log of a database that it closes by its name.
        self.connection = Connection::open_in_memory()?;
        let aside = tables::set_aside(path);
        self.connection = Connection::open(path)?;
        let aside = aside?;
        tables::prepare(&self.connection)?;
        Ok(aside)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::ban::Until;

    fn ban(n: u32) -> Op {
        let ip = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n);
        let (now, owner) = (SystemTime::UNIX_EPOCH, "sshd".into());
        let subject = std::net::IpAddr::from(ip).into();
        Op::Ban(StoredBan { owner, subject, until: Until::Forever, started: now, bancount: 1 }, None)
    }

    fn stored(writer: &Writer) -> u32 {
        let count = "SELECT COUNT(*) FROM bans";
        writer.connection.query_row(count, [], |row| row.get(0)).unwrap()
    }

    /// A disk is full when a database may not grow.
    fn fill(writer: &Writer, is_full: bool) {
        let pages = if is_full { 1 } else { 1 << 20 };
        writer.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }

    #[test]
    fn a_full_disk_is_waited_for_and_nothing_is_lost_until_it_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let connection = Connection::open(&path).unwrap();
        tables::prepare(&connection).unwrap();
        let lost = Arc::new(AtomicBool::new(false));
        let mut writer = Writer::new(connection, Some(path), Settings::default(), Arc::clone(&lost));
        fill(&writer, true);
        writer.waiting.extend((0..5000).map(ban));
        writer.write();
        assert!(writer.failing.is_some() && writer.waiting.len() == 5000);
        assert_eq!(stored(&writer), 0);
        fill(&writer, false);
        writer.write();
        assert_eq!((stored(&writer), writer.failing.is_none()), (5000, true));
        assert!(!lost.load(Ordering::Relaxed));

        fill(&writer, true);
        for n in 5000..60_000 {
            writer.waiting.push(ban(n));
            writer.give_up_what_is_too_much();
            if writer.waiting.len() == BATCH {
                writer.write();
            }
            assert!(writer.waiting.len() <= WAITING);
        }
        fill(&writer, false);
        writer.write();
        assert!(lost.load(Ordering::Relaxed), "the agent must tell all bans anew");
    }
}
