//! The systemd journal: one reader on its own thread for all jails that read the same files.
//!
//! - [`matching`]: which entries a jail wants
//! - [`entry`]: an entry, and the line that it becomes
//! - [`files`]: which journal files are read; [`open`] opens them
//! - [`entries`]: the entries that are there, for `f2b regex`
//!
//! journald announces new entries at most every 250 ms, but they are visible in its mapped files at once. So the
//! reader asks for the next entry every few milliseconds instead of waiting to be told.

mod entries;
mod entry;
mod files;
mod matching;
mod open;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use systemd::journal::Journal;
use tokio::sync::mpsc;
use tracing::warn;

pub use self::{
    entries::{Entries, Logged, UnitNames},
    files::{Files, Place},
    matching::JournalMatch,
};
use self::{
    entry::{Entry, lossy},
    matching::Takers,
    open::{add_matches, micros, report, resolve, seek_after, units_held},
};
use super::{
    Batch, Line, Reading,
    thread::{Stop, Thread},
};

/// How often the reader looks while entries arrive: the median delay is half of it.
const POLL_ACTIVE: Duration = Duration::from_millis(5);
/// How often it looks when there was nothing for [`IDLE_AFTER`].
const POLL_IDLE: Duration = Duration::from_millis(20);
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// How often libsystemd may look for rotated, new and removed journal files.
const PROCESS_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before opening a journal that is not there, or that failed, again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// Lines given to the agent in one go, so that catching up does not wake it once a line.
const BATCH: usize = 256;
/// Longest field that libsystemd hands out; the rest is cut. Filters look at less.
const FIELD_BYTES: usize = 16 * 1024;

/// Where a reader starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Position {
    Since(SystemTime),
    /// After the entry with this cursor.
    After(String),
    /// As [`Since`](Self::Since), but what comes up to this cursor was decided on before. If the journal has lost that
    /// entry, what is left after it.
    Replay {
        since: SystemTime,
        up_to: String,
    },
}

/// A running reader. Dropping it stops the thread.
#[derive(Debug)]
pub struct Reader {
    _thread: Thread,
}

impl Reader {
    /// Starts to read the entries of `files` that `jails` ask for, from `position` on, into `lines`. A full channel makes
    /// the reader wait; the journal keeps what it has not read.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(
        files: Files,
        jails: Vec<(String, JournalMatch)>,
        position: Position,
        lines: mpsc::Sender<Batch>,
    ) -> Result<Self> {
        let run =
            move |stop| Worker { files, jails, position, lines, stop, replayed: None, unreadable: 0 }.run();
        Ok(Self { _thread: Thread::start("the journal", run)? })
    }
}

struct Worker {
    files: Files,
    jails: Vec<(String, JournalMatch)>,
    position: Position,
    lines: mpsc::Sender<Batch>,
    stop: Stop,
    /// Up to where was handed over again what was decided on before.
    replayed: Option<String>,
    /// Entries that were passed over.
    unreadable: u64,
}

/// Why a session with the journal ended.
enum End {
    Stopped,
    /// There are other files now.
    Moved,
    Failed(anyhow::Error),
}

impl Worker {
    fn run(mut self) {
        // What keeps the journal from being read, as it was said.
        let mut said = String::new();
        while !self.stopped() {
            let started = Instant::now();
            let trouble = match self.files.follow() {
                Ok(Some(journal)) => match self.follow(journal) {
                    End::Stopped => return,
                    End::Moved => {
                        said.clear();
                        continue;
                    }
                    End::Failed(error) => format!("The journal reader failed and starts again: {error:#}"),
                },
                Ok(None) => format!("There is no journal yet ({}); waiting for it", self.files),
                Err(error) => format!("The journal cannot be opened, trying again: {error:#}"),
            };
            if trouble != said || started.elapsed() > IDLE_AFTER {
                let jails: Vec<_> = self.jails.iter().map(|(jail, _)| jail.as_str()).collect();
                warn!(jails = jails.join(" "), "{trouble}");
                said = trouble;
            }
            thread::sleep(REOPEN_AFTER);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.is_asked_for() || self.lines.is_closed()
    }

    fn follow(&mut self, mut journal: Journal) -> End {
        let files = self.identity();
        let session =
            self.prepare(&mut journal).and_then(|takers| self.read_all(&mut journal, &takers, &files));
        session.unwrap_or_else(End::Failed)
    }

    /// The files that were listed: libsystemd does not look for others itself. Nothing if it does.
    fn identity(&self) -> Vec<(u64, u64)> {
        let data = self.files.paths().into_iter().filter_map(|path| fs::metadata(path).ok());
        data.map(|data| (data.dev(), data.ino())).collect()
    }

    /// Resolves units, adds all jails' matches and goes to the start; returns who wants what, with units resolved.
    fn prepare(&mut self, journal: &mut Journal) -> Result<Takers> {
        journal.set_data_threshold(FIELD_BYTES)?;
        let held = units_held(journal).context("listing the units in the journal")?;
        let mut jails = Vec::new();
        for (jail, wanted) in &self.jails {
            for unit in wanted.units() {
                report(jail, unit, &resolve(unit, &held));
            }
            jails.push((jail.clone(), wanted.with_units(|unit| resolve(unit, &held).names)));
        }
        for (_, wanted) in &jails {
            add_matches(journal, wanted)?;
        }
        self.seek(journal)?;
        Ok(Takers::new(&jails))
    }

    fn seek(&mut self, journal: &mut Journal) -> Result<()> {
        match self.position.clone() {
            Position::Since(since) => journal.seek_realtime_usec(micros(since))?,
            Position::After(cursor) => {
                seek_after(journal, &cursor)?;
            }
            Position::Replay { since, up_to } => {
                if let Some(cursor) = &self.replayed {
                    seek_after(journal, cursor)?;
                    return Ok(());
                }
                if !seek_after(journal, &up_to)? {
                    self.position = Position::After(up_to);
                } else if journal.timestamp_usec()? < micros(since) {
                    self.position = Position::Since(since);
                    journal.seek_realtime_usec(micros(since))?;
                } else {
                    journal.seek_realtime_usec(micros(since))?;
                }
            }
        }
        Ok(())
    }

    fn read_all(&mut self, journal: &mut Journal, takers: &Takers, files: &[(u64, u64)]) -> Result<End> {
        let mut entry = Entry::default();
        let mut last_entry = Instant::now();
        let mut last_process = Instant::now();
        let mut has_moved = false;
        while !self.stopped() {
            if last_process.elapsed() > PROCESS_EVERY {
                journal.process()?;
                // Nothing is written any more to those that have gone: they are read to their end first.
                has_moved = self.identity() != files;
                last_process = Instant::now();
            }
            if self.read(journal, takers, &mut entry)? {
                last_entry = Instant::now();
                continue;
            }
            if let Position::Replay { up_to, .. } = &self.position {
                // The last entry decided on has been vacuumed away since we looked: what comes now is new.
                self.position = Position::After(up_to.clone());
            }
            if has_moved {
                return Ok(End::Moved);
            }
            thread::sleep(if last_entry.elapsed() < IDLE_AFTER { POLL_ACTIVE } else { POLL_IDLE });
        }
        Ok(End::Stopped)
    }

    /// Hands over the next entries; whether there were any.
    fn read(&mut self, journal: &mut Journal, takers: &Takers, entry: &mut Entry) -> Result<bool> {
        let up_to = match &self.position {
            Position::Replay { up_to, .. } => Some(up_to.clone()),
            Position::Since(_) | Position::After(_) => None,
        };
        let (mut lines, mut read, mut reached) = (Vec::new(), 0, false);
        while read < BATCH && !reached && journal.next()? > 0 {
            read += 1;
            reached =
                up_to.as_ref().is_some_and(|cursor| journal.test_cursor(cursor.as_str()).unwrap_or(true));
            match entry.read(journal, takers, &lossy).and_then(|()| entry.micros(journal)) {
                Ok(micros) => self.take(entry, micros, takers, &mut lines),
                Err(error) => self.pass_over(journal, &error),
            }
        }
        if read == 0 {
            return Ok(false);
        }
        let cursor = journal.cursor()?;
        let reading = if up_to.is_some() { Reading::Again } else { Reading::Live };
        if reading == Reading::Live || reached {
            self.position = Position::After(cursor.clone());
        }
        self.replayed = Some(cursor.clone()).filter(|_| reading == Reading::Again);
        let batch = Batch { lines, source: self.files.source(), position: cursor, reading };
        // Without the agent, the next look at the channel ends the thread.
        drop(self.lines.blocking_send(batch));
        Ok(true)
    }

    /// Makes a line of an entry for each jail that wants it.
    fn take(&self, entry: &Entry, micros: u64, takers: &Takers, lines: &mut Vec<Line>) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let mut jails = takers.of(entry.held());
        let Some(first) = jails.next() else { return };
        let at = lines.len();
        lines.push(Line { jail: Arc::clone(first), time: Some(time), text: entry.text() });
        for jail in jails {
            lines.push(Line { jail: Arc::clone(jail), ..lines[at].clone() });
        }
    }

    /// An entry that is damaged: it would be so the next time, too.
    fn pass_over(&mut self, journal: &Journal, error: &systemd::Error) {
        self.unreadable += 1;
        // A file in which nothing can be read must not fill the log.
        if self.unreadable.is_power_of_two() {
            let (passed_over, at) = (self.unreadable, journal.cursor().unwrap_or_default());
            warn!(passed_over, at, "An entry of the journal cannot be read: {error}");
        }
    }
}
