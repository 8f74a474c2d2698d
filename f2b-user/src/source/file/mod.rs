//! Log files: one reader on its own thread for the files of all jails.
//!
//! A file is read to its end when inotify tells that it was written to; where it tells nothing, again and again, every few
//! milliseconds. When it tells of something in a folder, and once a second anyway, it is looked whether the paths still
//! lead to the same files, because logs are rotated: by renaming (the old file is read on for a while), or by copying and
//! truncating. What was written before the start is handed over in the order of its times, if a jail has several files.
//!
//! - [`open`]: one open file
//! - [`notices`]: which files have changed
//! - [`position`]: up to where it was read
//! - [`rotated`]: the files that a path led to before
//! - [`order`]: the lines of several files, the oldest first

mod notices;
mod open;
mod order;
mod position;
mod rotated;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use self::position::position;
use self::{
    notices::{Id, News, Notices},
    open::{CHUNK, Open, Piece, Start},
    order::Queue,
};
use super::{
    Batch, Line, Reading,
    charset::Charset,
    thread::{Stop, Thread},
};
use crate::{config::LogPath, filter::Filter};

/// How often files that cannot be watched are read while lines arrive, and when there were none for [`IDLE_AFTER`].
const POLL_ACTIVE: Duration = Duration::from_millis(5);
const POLL_IDLE: Duration = Duration::from_millis(20);
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// How often it is looked whether the path of a file that lines are read of still leads to it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often everything is looked at, whatever inotify tells.
const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// How often patterns are looked for new files while files come and go.
const SEARCH_AGAIN: Duration = Duration::from_millis(25);
/// What is read of all files together while they are put in order, at least.
const TOGETHER: usize = 1 << 20;
/// How long a file is read on after another one took its place: whoever writes may not know yet.
const OLD_FILE: Duration = Duration::from_secs(10);
/// How long a file that has gone is waited for at its place, if no pattern finds it.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// The files of one jail.
#[derive(Clone, Debug)]
pub struct Watch {
    pub jail: Arc<str>,
    pub paths: Vec<LogPath>,
    pub charset: Charset,
    /// Reads the dates of lines, to find where the find window begins. `zone` is that of its local times.
    pub filter: Filter,
    pub zone: jiff::tz::TimeZone,
}

impl Watch {
    /// When a line was logged, if it tells.
    fn time_of(&self, line: &[u8], now: SystemTime) -> Option<SystemTime> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        self.filter.time_of(&self.charset.decode(line), &self.zone, now).map(super::time)
    }
}

/// How the positions of files are named among the store's.
pub fn source(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// The file whose position is stored by this name.
pub fn path_of(source: &str) -> Option<&Path> {
    source.strip_prefix("file:").map(Path::new)
}

/// A running reader. Dropping it stops the thread.
#[derive(Debug)]
pub struct Reader {
    _thread: Thread,
}

impl Reader {
    /// Starts to read the files that `watches` ask for into `lines`. Those with a position in `positions` go on there;
    /// of the others, what was logged from `since` on is read. `replay`: what stands before the positions is handed over
    /// again, for the find window. A full channel makes the reader wait.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(
        watches: Vec<Watch>,
        positions: BTreeMap<String, String>,
        since: SystemTime,
        replay: bool,
        lines: mpsc::Sender<Batch>,
    ) -> Result<Self> {
        let (logs, unreadable, buffer) = (BTreeMap::new(), BTreeSet::new(), vec![0; CHUNK]);
        let run = move |stop| {
            let (notices, folders) = (Notices::new(), Vec::new());
            let worker = Worker {
                watches: watches.into(),
                positions,
                since,
                replay,
                lines,
                stop,
                logs,
                notices,
                folders,
                unreadable,
                buffer,
            };
            worker.run();
        };
        Ok(Self { _thread: Thread::start("log files", run)? })
    }
}

/// The agent has gone, or wants no more.
struct Stopped;

struct Worker {
    watches: Arc<[Watch]>,
    positions: BTreeMap<String, String>,
    since: SystemTime,
    replay: bool,
    lines: mpsc::Sender<Batch>,
    stop: Stop,
    logs: BTreeMap<PathBuf, Log>,
    notices: Notices,
    /// Where files come and go.
    folders: Vec<PathBuf>,
    /// Files that cannot be opened; that was said.
    unreadable: BTreeSet<PathBuf>,
    /// Room for what is read.
    buffer: Vec<u8>,
}

/// A file that is followed.
struct Log {
    /// The watches that want its lines, by number.
    takers: Vec<usize>,
    /// The one that is read: the file that the path led to when it was looked the last time, if nothing is behind it.
    open: Open,
    /// Those that are read after it.
    behind: VecDeque<Open>,
    looked: Instant,
    /// Since when the path has led nowhere.
    gone: Option<Instant>,
    /// The file before, and since when it is.
    old: Option<(Open, Instant)>,
    /// It cannot be read; that was said.
    is_failing: bool,
    /// It was read to its end once: what comes now is new (`FileContainer.inOperation`).
    is_live: bool,
}

impl Log {
    /// `opens` are read one after the other. `None`: there are none.
    fn new(taker: usize, mut opens: VecDeque<Open>) -> Option<Self> {
        Some(Self {
            takers: vec![taker],
            open: opens.pop_front()?,
            behind: opens,
            looked: Instant::now(),
            gone: None,
            old: None,
            is_failing: false,
            is_live: false,
        })
    }

    fn opens(&self) -> impl Iterator<Item = &Open> {
        [&self.open].into_iter().chain(&self.behind).chain(self.old.iter().map(|(old, _)| old))
    }

    /// Gives away the file before, if it is this one.
    fn give_old(&mut self, file: Id) -> Option<Open> {
        let (old, _) = self.old.take_if(|(old, _)| old.position.file() == file)?;
        Some(old)
    }

    fn follows(&self, file: Id) -> bool {
        self.opens().any(|open| open.position.file() == file)
    }

    /// The next lines, and on what occasion they are read.
    fn read(&mut self, path: &Path, buffer: &mut [u8]) -> Option<(Vec<Piece>, Reading)> {
        let reading = |is_replay, is_live| match (is_replay, is_live) {
            (true, _) => Reading::Again,
            (false, false) => Reading::Late,
            (false, true) => Reading::Live,
        };
        match self.open.read(buffer) {
            Ok(Some((lines, is_replay))) => {
                self.is_failing = false;
                return Some((lines, reading(is_replay, self.is_live)));
            }
            Ok(None) if !self.behind.is_empty() => {
                let reading = reading(self.open.is_replayed(), self.is_live);
                let last = self.open.last_line();
                self.open = self.behind.pop_front()?;
                return Some((last.into_iter().collect(), reading));
            }
            Ok(None) => {
                self.is_failing = false;
                // The end of a file that was rotated while nobody read is not the end of what is late.
                self.is_live =
                    self.is_live || fs::metadata(path).is_ok_and(|data| self.open.position.is_of(&data));
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                warn!("{} cannot be read, trying again: {error}", path.display());
            }
            Err(_) => {}
        }
        let (old, since) = self.old.as_mut()?;
        let is_over = since.elapsed() > OLD_FILE;
        let lines = match old.read(buffer) {
            Ok(Some((lines, _))) => Some(lines),
            Ok(None) | Err(_) if is_over => old.last_line().map(|line| vec![line]),
            Ok(None) | Err(_) => None,
        };
        if is_over {
            self.old = None;
        }
        // The position in the file that comes after it is what counts.
        let position = self.open.position;
        let piece = |piece| Piece { position, ..piece };
        lines.map(|lines| (lines.into_iter().map(piece).collect(), Reading::Live))
    }

    /// Looks whether the path still leads to the same file; whether it does not. `is_followed`: whether a file is followed
    /// by another path.
    fn look(&mut self, path: &Path, is_followed: impl Fn(Id) -> bool) -> bool {
        self.looked = Instant::now();
        let Ok(data) = fs::metadata(path) else {
            // Whoever writes may still write to the file that is open.
            self.gone.get_or_insert(self.looked);
            return false;
        };
        self.gone = None;
        let is_same = self.open.position.is_of(&data);
        if is_same && self.open.is_truncated() {
            info!("{} was truncated", path.display());
            self.open.restart();
            return true;
        }
        if is_same || !self.behind.is_empty() {
            return false;
        }
        // If it cannot be opened, it is looked again.
        let Ok(opens) = self.open.next(path, is_followed) else { return false };
        self.rotate(path, opens)
    }

    /// Goes on with these files, if there are any; whether it does.
    fn rotate(&mut self, path: &Path, mut opens: VecDeque<Open>) -> bool {
        let Some(next) = opens.pop_front() else { return false };
        info!("{} was rotated", path.display());
        (self.looked, self.gone) = (Instant::now(), None);
        self.old = Some((std::mem::replace(&mut self.open, next), self.looked));
        self.behind = opens;
        true
    }

    /// Whether the path leads to another file now, and nothing is left to read before that.
    fn leads_elsewhere(&self, path: &Path) -> bool {
        self.behind.is_empty() && file_at(path).is_some_and(|file| file != self.open.position.file())
    }
}

impl Worker {
    fn run(mut self) {
        // The end of this function ends the thread: nobody is left to be told.
        drop(self.follow());
    }

    fn follow(&mut self) -> Result<(), Stopped> {
        self.search(true)?;
        self.catch_up()?;
        let (mut searched, mut last_line) = (Instant::now(), Instant::now());
        let (mut news, mut is_first) = (News::of_everything(), true);
        loop {
            self.go_on()?;
            // Before it is read, so that what is written behind it is told.
            let opens = self.logs.values().flat_map(Log::opens);
            self.notices.watch(opens.map(Open::watch), &self.folders, &mut news);
            let mut has_read = false;
            let concerned = self
                .logs
                .iter()
                .filter(|(_, log)| log.opens().any(|open| news.is_about(open.position.file())));
            for path in concerned.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
                has_read |= self.read(&path, is_first || news.in_folders)?;
            }
            if has_read {
                (is_first, last_line) = (false, Instant::now());
                continue;
            }
            let search_every = |news: &News| if news.in_folders { SEARCH_AGAIN } else { SEARCH_EVERY };
            if searched.elapsed() >= search_every(&news) {
                self.search(false)?;
                self.notices.retry();
                (searched, news.in_folders) = (Instant::now(), false);
                continue;
            }
            let at_most = search_every(&news).saturating_sub(searched.elapsed());
            let poll = if last_line.elapsed() < IDLE_AFTER { POLL_ACTIVE } else { POLL_IDLE };
            let is_searched_for = news.in_folders;
            news = self.notices.wait(at_most, poll, &self.stop);
            news.in_folders |= is_searched_for;
            is_first = true;
        }
    }

    fn go_on(&self) -> Result<(), Stopped> {
        if self.stop.is_asked_for() || self.lines.is_closed() { Err(Stopped) } else { Ok(()) }
    }

    /// Looks for files that were not there before. Those that are there at the start are read from where the find window
    /// begins, those that come later from their begin.
    fn search(&mut self, at_start: bool) -> Result<(), Stopped> {
        self.logs.retain(|_, log| log.gone.is_none_or(|since| since.elapsed() < FORGET_AFTER));
        let watches = Arc::clone(&self.watches);
        for (number, watch) in watches.iter().enumerate() {
            let mut found = 0;
            for pattern in &watch.paths {
                for path in pattern.files().into_iter().filter(|path| !path.is_dir()) {
                    found += 1;
                    if let Some(log) = self.logs.get_mut(&path) {
                        if !log.takers.contains(&number) {
                            log.takers.push(number);
                        }
                        continue;
                    }
                    let stored = self.positions.remove(&source(&path)).and_then(|text| text.parse().ok());
                    let taken = if at_start { None } else { self.take_rotated(&path, &[number])? };
                    let opens = match (taken, stored) {
                        (Some(open), _) => Ok([open].into()),
                        (None, Some(position)) => {
                            let since = (self.replay && at_start).then_some(self.since);
                            let named: Vec<_> = watch.paths.iter().flat_map(LogPath::files).collect();
                            Open::stored(&path, position, since, watch, |file| {
                                named.iter().any(|named| named == file)
                            })
                        }
                        (None, None) => {
                            // What is followed already is read by the name that it had.
                            let start = if self.is_followed(&path) {
                                Start::End
                            } else if !at_start {
                                Start::Begin
                            } else if pattern.from == "tail" {
                                Start::End
                            } else {
                                Start::Since(self.since)
                            };
                            Open::new(&path, start, watch).map(|open| [open].into())
                        }
                    };
                    let log = match opens {
                        Ok(opens) => Log::new(number, opens),
                        Err(error) => {
                            if self.unreadable.insert(path.clone()) {
                                let file = path.display();
                                warn!(jail = &*watch.jail, "{file} cannot be read, trying again: {error}");
                            }
                            continue;
                        }
                    };
                    self.unreadable.remove(&path);
                    let Some(log) = log else { continue };
                    info!(
                        jail = &*watch.jail,
                        offset = log.open.position.offset,
                        "Following {}",
                        path.display()
                    );
                    let is_begun = log.open.position.offset > 0 && !log.open.is_replayed();
                    self.logs.insert(path.clone(), log);
                    if is_begun {
                        self.hand_over(&path, &[], Reading::Late)?;
                    }
                }
            }
            if found == 0 && at_start {
                let patterns: Vec<_> = watch.paths.iter().map(|path| path.pattern.as_str()).collect();
                warn!(
                    jail = &*watch.jail,
                    "There is no log file yet, waiting for it: {}",
                    patterns.join(" ")
                );
            }
        }
        let wanted = self
            .watches
            .iter()
            .flat_map(|watch| &watch.paths)
            .filter_map(|path| folder(Path::new(&path.pattern)));
        // Where the path is a link, what it leads to comes and goes in another folder.
        let linked = self.logs.keys().filter_map(|path| path.canonicalize().ok());
        let found =
            self.logs.keys().cloned().chain(linked).filter_map(|path| Some(path.parent()?.to_owned()));
        self.folders = wanted.chain(found).collect::<BTreeSet<_>>().into_iter().collect();
        Ok(())
    }

    /// Reads what was written to one file since the last time, and looks whether it is still the same, at the latest
    /// [`LOOK_EVERY`]; whether there was anything.
    fn read(&mut self, path: &Path, looks: bool) -> Result<bool, Stopped> {
        let Some(log) = self.logs.get_mut(path) else { return Ok(false) };
        if let Some((lines, reading)) = log.read(path, &mut self.buffer) {
            self.hand_over(path, &lines, reading)?;
            return Ok(true);
        }
        if looks || log.looked.elapsed() > LOOK_EVERY { self.look(path) } else { Ok(false) }
    }

    fn look(&mut self, path: &Path) -> Result<bool, Stopped> {
        let Some(mut log) = self.logs.remove(path) else { return Ok(false) };
        let taken = if log.leads_elsewhere(path) { self.take_rotated(path, &log.takers)? } else { None };
        let has_moved = match taken {
            Some(next) => log.rotate(path, [next].into()),
            None => log.look(path, |file| self.logs.values().any(|other| other.follows(file))),
        };
        let is_begun = log.open.position.offset > 0;
        self.logs.insert(path.to_owned(), log);
        if has_moved && is_begun {
            self.hand_over(path, &[], Reading::Late)?;
        }
        Ok(has_moved)
    }

    /// Whether the file that a path leads to is followed by another path, or was until it was renamed.
    fn is_followed(&self, path: &Path) -> bool {
        file_at(path).is_some_and(|file| self.logs.values().any(|log| log.follows(file)))
    }

    /// Takes over the file that `path` leads to now from the path that led to it before, if both are read for the same
    /// `takers`: it is read on once, from where it was read to.
    fn take_rotated(&mut self, path: &Path, takers: &[usize]) -> Result<Option<Open>, Stopped> {
        let Some(file) = file_at(path) else { return Ok(None) };
        let follows = |(_, log): &(&PathBuf, &Log)| log.follows(file);
        let Some(before) = self.logs.iter().find(follows).map(|(path, _)| path.clone()) else {
            return Ok(None);
        };
        // It may not be known yet that another file took its place.
        self.look(&before)?;
        let wants = |taker: &usize| {
            let mut patterns = self.watches[*taker].paths.iter();
            takers.contains(taker)
                || patterns.any(|pattern| pattern.files().iter().any(|found| found == path))
        };
        let Some(log) = self.logs.get_mut(&before) else { return Ok(None) };
        let is_for_the_same =
            takers.iter().all(|taker| log.takers.contains(taker)) && log.takers.iter().all(wants);
        if !is_for_the_same {
            return Ok(None);
        }
        let is_nameless = log.gone.is_some() && log.behind.is_empty() && log.old.is_none();
        if is_nameless && log.open.position.file() == file {
            // Nothing is in its place yet.
            return Ok(self.logs.remove(&before).map(|log| log.open));
        }
        Ok(log.give_old(file))
    }

    /// Hands lines over, or without any the position alone: nobody is to read anew what is before it.
    fn hand_over(&self, path: &Path, lines: &[Piece], reading: Reading) -> Result<(), Stopped> {
        let Some(log) = self.logs.get(path) else { return Ok(()) };
        let takers = || log.takers.iter().map(|taker| &self.watches[*taker]);
        let line = |watch: &Watch, bytes| Line {
            jail: Arc::clone(&watch.jail),
            time: None,
            text: watch.charset.decode(bytes).trim_end_matches(['\r', '\n']).to_owned(),
        };
        let all = lines.iter().flat_map(|piece| takers().map(move |watch| line(watch, &piece.bytes)));
        let position = lines.last().map_or(log.open.position, |last| last.position).to_string();
        let batch = Batch { lines: all.collect(), source: source(path), position, reading };
        self.lines.blocking_send(batch).map_err(|_closed| Stopped)
    }

    /// Hands over what the files of jails with several of them hold, up to their ends: the oldest lines first, or a
    /// later line of one file would decide before an earlier one of another.
    fn catch_up(&mut self) -> Result<(), Stopped> {
        let several = |taker: &usize| self.logs.values().filter(|log| log.takers.contains(taker)).count() > 1;
        let together = self.logs.iter().filter(|(_, log)| log.takers.iter().any(several));
        let mut queues: BTreeMap<PathBuf, Queue> =
            together.map(|(path, _)| (path.clone(), Queue::default())).collect();
        let room = (TOGETHER / queues.len().max(1)).min(CHUNK);
        let others: Vec<_> = self.logs.keys().filter(|path| !queues.contains_key(*path)).cloned().collect();
        loop {
            let mut has_read = false;
            for (path, queue) in queues.iter_mut().filter(|(_, queue)| queue.wants_more()) {
                self.fill(path, queue, room)?;
                has_read = true;
            }
            if has_read {
                self.go_on()?;
                // Their failures must not wait.
                for path in &others {
                    self.read(path, false)?;
                }
                continue;
            }
            let Some((path, lines, reading)) = order::oldest(&mut queues) else { return Ok(()) };
            self.hand_over(&path, &lines, reading)?;
        }
    }

    /// Reads some more of a file of which all is handed over that was read.
    fn fill(&mut self, path: &Path, queue: &mut Queue, room: usize) -> Result<(), Stopped> {
        let Some(log) = self.logs.get_mut(path) else {
            queue.end();
            return Ok(());
        };
        match log.read(path, &mut self.buffer[..room]) {
            Some((lines, reading)) if lines.is_empty() => self.hand_over(path, &lines, reading)?,
            Some((lines, reading)) => {
                // Jails that read one file agree on its dates.
                let watch = &self.watches[log.takers[0]];
                let now = SystemTime::now();
                queue.add(lines, reading, |bytes| watch.time_of(bytes, now));
            }
            None if self.look(path)? => {}
            None => queue.end(),
        }
        Ok(())
    }
}

/// The file that a path leads to.
fn file_at(path: &Path) -> Option<Id> {
    fs::metadata(path).map(|data| (data.dev(), data.ino())).ok()
}

/// The folder in which files of a pattern, or folders that lead to them, come and go.
fn folder(pattern: &Path) -> Option<PathBuf> {
    let is_plain = |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let folder: PathBuf = pattern.parent()?.components().take_while(is_plain).collect();
    Some(if folder.as_os_str().is_empty() { ".".into() } else { folder })
}
