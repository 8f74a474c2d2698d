//! The thread that writes. It gathers what comes within a moment into one transaction.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use rusqlite::Connection;
use tracing::{debug, error, warn};

use super::{
    Merged, Settings, WAITING,
    tables::{self, Op},
};
use crate::ban::Subject;

/// How long it gathers.
const GATHER: Duration = Duration::from_millis(50);
/// The most that is written at once.
const BATCH: usize = 4096;
/// How often it tries again when the disk took nothing.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) enum Message {
    Write(Op),
    Merged { subject: Subject, jail: Option<String>, reply: SyncSender<Result<Merged>> },
    Flush(SyncSender<()>),
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
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match message {
                Ok(Message::Write(op)) => {
                    self.waiting.push(op);
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
                Ok(Message::Flush(reply)) => {
                    self.write();
                    if reply.send(()).is_err() {
                        debug!("Nobody waits for the store");
                    }
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

    fn write(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        match tables::write(&mut self.connection, &self.waiting, &self.settings) {
            Ok(()) => {
                self.waiting.clear();
                self.waiting.shrink_to(BATCH);
                if let Some((since, gave_up)) = self.failing.take() {
                    let seconds = since.elapsed().as_secs();
                    warn!(seconds, "The store is written again");
                    if gave_up {
                        self.lost.store(true, Ordering::Relaxed);
                    }
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&mut self, error: &anyhow::Error) {
        if tables::is_damaged(error) && self.begin_anew(error) {
            return;
        }
        let mut gave_up = self.failing.is_some_and(|(_, gave_up)| gave_up);
        if self.waiting.len() > WAITING {
            self.waiting.clear();
            gave_up = true;
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
        let since = self.failing.map_or_else(Instant::now, |(since, _)| since);
        self.failing = Some((since, gave_up));
    }

    /// Sets a damaged file aside, and begins another one.
    fn begin_anew(&mut self, error: &anyhow::Error) -> bool {
        let Some(path) = self.path.clone() else { return false };
        let anew = || -> Result<(PathBuf, Connection)> {
            let aside = tables::set_aside(&path)?;
            let connection = Connection::open(&path)?;
            tables::prepare(&connection)?;
            Ok((aside, connection))
        };
        match anew() {
            Ok((aside, connection)) => {
                self.connection = connection;
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
}
