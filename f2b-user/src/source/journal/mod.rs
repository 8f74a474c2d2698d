//! The systemd journal: one reader on its own thread for all jails that read the same files.
//!
//! - [`matching`]: which entries a jail wants
//! - [`entry`]: an entry, and the line that it becomes
//! - [`files`]: which journal files are read; [`open`] opens them, [`disk`] reads what is in them
//! - [`entries`]: the entries that are there, for `f2b regex`
//!
//! journald announces new entries at most every 250 ms, but they are visible in its mapped files at once. So the
//! reader asks for the next entry every few milliseconds instead of waiting to be told.

pub mod disk;
mod entries;
mod entry;
mod files;
mod matching;
mod open;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use tokio::sync::mpsc;
use tracing::warn;

pub use self::{
    disk::Location,
    entries::{Entries, Logged, UnitNames},
    files::{Files, Place},
    matching::JournalMatch,
};
use self::{
    disk::{Damage, Journal, Start},
    entry::{Entry, lossy},
    matching::{Takers, UNIT},
    open::{micros, open, report, resolve},
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
/// How often to look for new journal files.
const RESCAN_EVERY: Duration = Duration::from_millis(250);
/// How long to wait before opening a journal that is not there, or that failed, again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// Lines given to the agent in one go, so that catching up does not wake it once a line.
const BATCH: usize = 256;
/// How much of a field is read, with its name. Filters look at less.
const FIELD_BYTES: usize = 16 * 1024;

/// Where a reader starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Position {
    Since(SystemTime),
    /// After this entry.
    After(Location),
    /// As [`Since`](Self::Since), but what comes up to this entry was decided on before. If the journal has lost it,
    /// what is left after it.
    Replay {
        since: SystemTime,
        up_to: Location,
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
    replayed: Option<Location>,
    /// Entries that were passed over.
    unreadable: u64,
}

impl Worker {
    fn run(mut self) {
        // What keeps the journal from being read, as it was said.
        let mut said = String::new();
        while !self.stopped() {
            let started = Instant::now();
            let trouble = match open(&self.files) {
                Ok(Some(journal)) => match self.follow(journal) {
                    Ok(()) => return,
                    Err(error) => format!("The journal reader failed and starts again: {error:#}"),
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

    /// Reads until it is to stop.
    fn follow(&mut self, mut journal: Journal) -> Result<()> {
        let takers = self.prepare(&mut journal);
        let mut entry = Entry::default();
        let mut last_line = Instant::now();
        let mut last_scan = Instant::now();
        while !self.stopped() {
            if last_scan.elapsed() > RESCAN_EVERY {
                for damage in journal.rescan()? {
                    warn!("A file of the journal cannot be read: {damage}");
                }
                last_scan = Instant::now();
            }
            let (read, handed_over) = self.read(&mut journal, &takers, &mut entry);
            if handed_over > 0 {
                last_line = Instant::now();
            }
            if read > 0 {
                continue;
            }
            if let Position::Replay { up_to, .. } = self.position {
                // The last entry decided on has been vacuumed away since we looked: what comes now is new.
                self.position = Position::After(up_to);
            }
            thread::sleep(if last_line.elapsed() < IDLE_AFTER { POLL_ACTIVE } else { POLL_IDLE });
        }
        Ok(())
    }

    /// Resolves units and goes to the start; returns who wants what, with units resolved.
    fn prepare(&mut self, journal: &mut Journal) -> Takers {
        let held = journal.values(UNIT);
        let mut jails = Vec::new();
        for (jail, wanted) in &self.jails {
            for unit in wanted.units() {
                report(jail, unit, &resolve(unit, &held));
            }
            jails.push((jail.clone(), wanted.with_units(|unit| resolve(unit, &held).names)));
        }
        let from = self.start(journal);
        journal.read_from(from, jails.iter().map(|(_, wanted)| wanted), &Entry::FIELDS, FIELD_BYTES);
        Takers::new(&jails)
    }

    fn start(&mut self, journal: &mut Journal) -> Start {
        if let Position::Replay { since, up_to } = self.position {
            if let Some(replayed) = self.replayed {
                return Start::After(replayed);
            }
            if !journal.has(&up_to) {
                self.position = Position::After(up_to);
            } else if up_to.realtime < micros(since) {
                self.position = Position::Since(since);
            }
        }
        match self.position {
            Position::Since(since) | Position::Replay { since, .. } => Start::Time(micros(since)),
            Position::After(entry) => Start::After(entry),
        }
    }

    /// Hands over the next entries; how many were read, and how many lines they became.
    fn read(&mut self, journal: &mut Journal, takers: &Takers, entry: &mut Entry) -> (usize, usize) {
        let up_to = match self.position {
            Position::Replay { up_to, .. } => Some(up_to),
            Position::Since(_) | Position::After(_) => None,
        };
        let (mut lines, mut read, mut reached) = (Vec::new(), 0, false);
        while read < BATCH && !reached {
            let location = match journal.next_entry() {
                Ok(Some(location)) => location,
                Ok(None) => break,
                Err(damage) => {
                    self.pass_over(&damage);
                    continue;
                }
            };
            read += 1;
            reached = up_to.is_some_and(|up_to| location.order(&up_to).is_eq());
            match entry.read(journal, &location, takers, &lossy) {
                Ok(()) => self.take(entry, entry.micros(&location), takers, &mut lines),
                Err(error) => self.pass_over(&journal.damage(error)),
            }
        }
        let Some(last) = journal.position().filter(|_| read > 0) else { return (0, 0) };
        let reading = if up_to.is_some() { Reading::Again } else { Reading::Live };
        if reading == Reading::Live || reached {
            self.position = Position::After(last);
        }
        self.replayed = Some(last).filter(|_| reading == Reading::Again);
        let count = lines.len();
        if count > 0 || reached {
            let batch = Batch { lines, source: self.files.source(), position: last.to_string(), reading };
            // Without the agent, the next look at the channel ends the thread.
            drop(self.lines.blocking_send(batch));
        }
        (read, count)
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

    /// What is damaged would be so the next time, too.
    fn pass_over(&mut self, damage: &Damage) {
        self.unreadable += 1;
        // A file in which nothing can be read must not fill the log.
        if self.unreadable.is_power_of_two() {
            warn!(passed_over = self.unreadable, "An entry of the journal cannot be read: {damage}");
        }
    }
}
