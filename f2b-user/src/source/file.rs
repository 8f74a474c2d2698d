//! Log files: one reader on its own thread for the files of all jails.
//!
//! A file is read to its end again and again, every few milliseconds: that costs one system call, works on every file
//! system, and finds a line as soon as a notification would. A few times a second it is looked whether the path still
//! leads to the same file, because logs are rotated: by renaming (the old file is read on for a while), or by copying and
//! truncating.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Error, Result};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    Batch, Line, Reading,
    charset::Charset,
    thread::{Stop, Thread},
};
use crate::{config::LogPath, filter::Filter};

/// How often files are read while lines arrive, and when there were none for [`IDLE_AFTER`].
const POLL_ACTIVE: Duration = Duration::from_millis(5);
const POLL_IDLE: Duration = Duration::from_millis(20);
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// How often it is looked whether a path still leads to the same file.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often patterns are looked for new files.
const SEARCH_EVERY: Duration = Duration::from_secs(1);
/// Bytes that are read in one go.
const CHUNK: usize = 64 << 10;
/// A line is cut here; filters look at less.
const MAX_LINE: usize = 16 << 10;
/// How much of its first line tells a file from another one that took its place.
const HEAD: usize = 256;
/// How much of what was decided on is read again for the find window after a restart.
const REPLAY: u64 = 4 << 20;
/// How long a file is read on after another one took its place: whoever writes may not know yet.
const OLD_FILE: Duration = Duration::from_secs(10);
/// How long a file that has gone is waited for at its place, if no pattern finds it.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Lines that are read in search of one with a date.
const UNDATED: usize = 100;

/// The files of one jail.
#[derive(Clone, Debug)]
pub struct Watch {
    pub jail: String,
    pub paths: Vec<LogPath>,
    pub charset: Charset,
    /// Reads the dates of lines, to find where the find window begins. `zone` is that of its local times.
    pub filter: Filter,
    pub zone: jiff::tz::TimeZone,
}

/// How the positions of files are named among the store's.
pub fn source(path: &Path) -> String {
    format!("file:{}", path.display())
}

/// The file whose position is stored by this name.
pub fn path_of(source: &str) -> Option<&Path> {
    source.strip_prefix("file:").map(Path::new)
}

/// Up to where a file was read, in a form that survives the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Position {
    device: u64,
    inode: u64,
    offset: u64,
    /// Of its first line.
    head: u64,
}

impl Position {
    /// Whether it is one in this file.
    fn is_in(&self, file: &File) -> bool {
        let same = |data: Metadata| self.is_of(&data) && data.len() >= self.offset;
        file.metadata().is_ok_and(same) && head(file) == self.head
    }

    /// Whether it is one in the file that `data` is about.
    fn is_of(&self, data: &Metadata) -> bool {
        (data.dev(), data.ino()) == (self.device, self.inode)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {:x}", self.device, self.inode, self.offset, self.head)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [device, inode, offset, head] = words[..] else { anyhow::bail!("\"{text}\" is no position") };
        Ok(Self {
            device: device.parse()?,
            inode: inode.parse()?,
            offset: offset.parse()?,
            head: u64::from_str_radix(head, 16)?,
        })
    }
}

/// The position at `offset` in a file, as the store has it.
///
/// # Errors
/// The file cannot be looked at.
pub fn position(file: &File, offset: u64) -> Result<String> {
    let data = file.metadata()?;
    Ok(Position { device: data.dev(), inode: data.ino(), offset, head: head(file) }.to_string())
}

/// What tells a file from another one: its first line, as far as it goes.
fn head(file: &File) -> u64 {
    let mut bytes = [0; HEAD];
    let read = file.read_at(&mut bytes, 0).unwrap_or_default();
    let line = bytes[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A first line that is not complete yet tells nothing.
    let line = if line.len() == read && read < HEAD { &[][..] } else { line };
    fingerprint(line)
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
            Worker { watches, positions, since, replay, lines, stop, logs, unreadable, buffer }.run();
        };
        Ok(Self { _thread: Thread::start("log files", run)? })
    }
}

/// The agent has gone, or wants no more.
struct Stopped;

struct Worker {
    watches: Vec<Watch>,
    positions: BTreeMap<String, String>,
    since: SystemTime,
    replay: bool,
    lines: mpsc::Sender<Batch>,
    stop: Stop,
    logs: BTreeMap<PathBuf, Log>,
    /// Files that cannot be opened; that was said.
    unreadable: BTreeSet<PathBuf>,
    /// Room for what is read.
    buffer: Vec<u8>,
}

/// A file that is followed.
struct Log {
    /// The watches that want its lines, by number.
    takers: Vec<usize>,
    /// The file that the path led to when it was looked the last time.
    open: Open,
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
    fn new(taker: usize, open: Open) -> Self {
        let looked = Instant::now();
        Self { takers: vec![taker], open, looked, gone: None, old: None, is_failing: false, is_live: false }
    }

    /// The next lines, and on what occasion they are read.
    fn read(&mut self, path: &Path, buffer: &mut [u8]) -> Option<(Vec<Vec<u8>>, Reading)> {
        match self.open.read(buffer) {
            Ok(Some((lines, is_replay))) => {
                self.is_failing = false;
                let reading = match (is_replay, self.is_live) {
                    (true, _) => Reading::Again,
                    (false, false) => Reading::Late,
                    (false, true) => Reading::Live,
                };
                return Some((lines, reading));
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
            Ok(None) | Err(_) if is_over => old.last_line(),
            Ok(None) | Err(_) => None,
        };
        if is_over {
            self.old = None;
        }
        lines.map(|lines| (lines, Reading::Live))
    }

    /// Looks whether the path still leads to the same file; whether it does not.
    fn look(&mut self, path: &Path) -> bool {
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
        if is_same {
            return false;
        }
        // If it cannot be opened, it is looked again.
        let Ok(next) = Open::at_begin(path) else { return false };
        info!("{} was rotated", path.display());
        self.old = Some((std::mem::replace(&mut self.open, next), self.looked));
        true
    }
}

/// An open file and how far it was read.
struct Open {
    file: File,
    position: Position,
    /// What was read up to here was decided on by an agent before.
    replayed_to: u64,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
    /// The rest of the line is too much.
    is_cut: bool,
}

impl Worker {
    fn run(mut self) {
        // The end of this function ends the thread: nobody is left to be told.
        drop(self.follow());
    }

    fn follow(&mut self) -> Result<(), Stopped> {
        self.search(true);
        let mut searched = Instant::now();
        let mut last_line = Instant::now();
        loop {
            self.go_on()?;
            let mut has_read = false;
            for path in self.logs.keys().cloned().collect::<Vec<_>>() {
                has_read |= self.read(&path)?;
            }
            if has_read {
                last_line = Instant::now();
                continue;
            }
            if searched.elapsed() > SEARCH_EVERY {
                self.search(false);
                searched = Instant::now();
            }
            thread::sleep(if last_line.elapsed() < IDLE_AFTER { POLL_ACTIVE } else { POLL_IDLE });
        }
    }

    fn go_on(&self) -> Result<(), Stopped> {
        if self.stop.is_asked_for() || self.lines.is_closed() { Err(Stopped) } else { Ok(()) }
    }

    /// Looks for files that were not there before. Those that are there at the start are read from where the find window
    /// begins, those that come later from their begin.
    fn search(&mut self, at_start: bool) {
        self.logs.retain(|_, log| log.gone.is_none_or(|since| since.elapsed() < FORGET_AFTER));
        for (number, watch) in self.watches.iter().enumerate() {
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
                    let start = match stored {
                        Some(position) => Start::Stored(position, self.replay && at_start),
                        None if !at_start => Start::Begin,
                        None if pattern.from == "tail" => Start::End,
                        None => Start::Since(self.since),
                    };
                    let open = match Open::new(&path, start, watch) {
                        Ok(open) => open,
                        Err(error) => {
                            if self.unreadable.insert(path.clone()) {
                                let file = path.display();
                                warn!(jail = watch.jail, "{file} cannot be read, trying again: {error}");
                            }
                            continue;
                        }
                    };
                    self.unreadable.remove(&path);
                    info!(jail = watch.jail, offset = open.position.offset, "Following {}", path.display());
                    self.logs.insert(path, Log::new(number, open));
                }
            }
            if found == 0 && at_start {
                let patterns: Vec<_> = watch.paths.iter().map(|path| path.pattern.as_str()).collect();
                warn!(jail = watch.jail, "There is no log file yet, waiting for it: {}", patterns.join(" "));
            }
        }
    }

    /// Reads what was written to one file since the last time; whether there was anything.
    fn read(&mut self, path: &Path) -> Result<bool, Stopped> {
        let Some(log) = self.logs.get_mut(path) else { return Ok(false) };
        if let Some((lines, reading)) = log.read(path, &mut self.buffer) {
            let batch = batch(path, &lines, &log.takers, &self.watches, log.open.position, reading);
            return self.lines.blocking_send(batch).map(|()| true).map_err(|_closed| Stopped);
        }
        Ok(log.looked.elapsed() > LOOK_EVERY && log.look(path))
    }
}

/// The head of a file whose first line is not complete.
fn head_of_nothing() -> u64 {
    fingerprint(&[])
}

/// FNV-1a: stored, so that it must be the same in every version.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn batch(
    path: &Path,
    lines: &[Vec<u8>],
    takers: &[usize],
    watches: &[Watch],
    position: Position,
    reading: Reading,
) -> Batch {
    let takers = || takers.iter().map(|taker| &watches[*taker]);
    let lines = lines.iter().flat_map(|bytes| {
        takers().map(|watch| Line {
            jail: watch.jail.clone(),
            time: None,
            text: watch.charset.decode(bytes).trim_end_matches(['\r', '\n']).to_owned(),
        })
    });
    Batch { lines: lines.collect(), source: source(path), position: position.to_string(), reading }
}

/// Where a file is read from.
enum Start {
    Begin,
    End,
    /// Where lines are that were logged then.
    Since(SystemTime),
    /// Where an agent before has stopped, and whether it is to be replayed what led there.
    Stored(Position, bool),
}

impl Open {
    fn at_begin(path: &Path) -> io::Result<Self> {
        // A pipe without a writer must not make the reader of all other files wait.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let data = file.metadata()?;
        let position = Position { device: data.dev(), inode: data.ino(), offset: 0, head: head(&file) };
        Ok(Self { file, position, replayed_to: 0, begun: Vec::new(), is_cut: false })
    }

    fn new(path: &Path, start: Start, watch: &Watch) -> io::Result<Self> {
        let mut open = Self::at_begin(path)?;
        match start {
            Start::Begin => {}
            Start::End => open.position.offset = open.file.metadata()?.len(),
            Start::Since(since) => open.position.offset = offset_of(&open.file, since, watch)?,
            Start::Stored(stored, replay) => {
                if !stored.is_in(&open.file) {
                    // Rotated while nobody looked: the rest of the old file comes first.
                    let Some(file) = sibling(path, &stored) else { return Ok(open) };
                    open = Self { file, ..open };
                }
                open.position = stored;
                if replay {
                    open.replayed_to = stored.offset;
                    open.position.offset = line_begin(&open.file, stored.offset.saturating_sub(REPLAY))?;
                }
            }
        }
        Ok(open)
    }

    /// The next complete lines, and whether they were decided on before. `None` at the file's end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(Vec<Vec<u8>>, bool)>> {
        let from = self.position.offset + self.begun.len() as u64;
        let is_replay = from < self.replayed_to;
        let room = buffer.len();
        let most = if is_replay { (self.replayed_to - from).min(room as u64) as usize } else { room };
        let read = self.file.read_at(&mut buffer[..most], from)?;
        if read == 0 {
            return Ok(None);
        }
        let head = head(&self.file);
        if self.position.head == head_of_nothing() {
            self.position.head = head;
        } else if head != self.position.head && self.file.metadata()?.len() >= from + read as u64 {
            // Truncated, and already longer again: what was read belongs to what is new.
            self.restart();
            return Ok(Some((Vec::new(), false)));
        }
        let mut lines = Vec::new();
        for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let mut line = std::mem::take(&mut self.begun);
                self.position.offset += line.len() as u64;
                line.truncate(MAX_LINE);
                if !std::mem::take(&mut self.is_cut) {
                    lines.push(line);
                }
            }
        }
        if self.begun.len() > MAX_LINE {
            // It is cut, and judged by what there is of it.
            let mut line = std::mem::take(&mut self.begun);
            self.position.offset += line.len() as u64;
            line.truncate(MAX_LINE);
            if !std::mem::replace(&mut self.is_cut, true) {
                lines.push(line);
            }
        }
        Ok(Some((lines, is_replay)))
    }

    /// Whether it has become shorter, or another first line.
    fn is_truncated(&self) -> bool {
        let from = self.position.offset + self.begun.len() as u64;
        let is_shorter = self.file.metadata().is_ok_and(|data| data.len() < from);
        is_shorter || self.position.head != head_of_nothing() && head(&self.file) != self.position.head
    }

    /// Reads it from its begin.
    fn restart(&mut self) {
        (self.position.offset, self.replayed_to, self.is_cut) = (0, 0, false);
        self.position.head = head(&self.file);
        self.begun.clear();
    }

    /// The last line of a file to which nothing is written any more, if it has no end.
    fn last_line(&mut self) -> Option<Vec<Vec<u8>>> {
        let line = std::mem::take(&mut self.begun);
        (!line.is_empty() && !self.is_cut).then(|| vec![line])
    }
}

/// The file in the same folder in which this is a position.
fn sibling(path: &Path, position: &Position) -> Option<File> {
    let entries = path.parent()?.read_dir().ok()?;
    let same = entries.flatten().find(|entry| entry.metadata().is_ok_and(|data| position.is_of(&data)))?;
    File::open(same.path()).ok().filter(|file| position.is_in(file))
}

/// Where the line begins that follows on this place, or begins there.
fn line_begin(file: &File, offset: u64) -> io::Result<u64> {
    let Some(mut at) = offset.checked_sub(1) else { return Ok(0) };
    let mut bytes = [0; 4096];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            return Ok(at);
        }
        match bytes[..read].iter().position(|byte| *byte == b'\n') {
            Some(end) => return Ok(at + end as u64 + 1),
            None => at += read as u64,
        }
    }
}

/// Where lines are that were logged at `since` or later: found by halves, because lines stand in the order of their
/// times.
fn offset_of(file: &File, since: SystemTime, watch: &Watch) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > CHUNK as u64 {
        let middle = line_begin(file, low + (high - low) / 2)?;
        match time_at(file, middle, watch)? {
            Some(time) if time < since => low = middle,
            Some(_) if middle < high => high = middle,
            // Nothing tells: better too much than too little.
            _ => high = low + (high - low) / 2,
        }
    }
    Ok(low)
}

/// When the first dated line from `offset` on was logged.
fn time_at(file: &File, offset: u64, watch: &Watch) -> io::Result<Option<SystemTime>> {
    let mut bytes = vec![0; CHUNK];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], offset + read as u64)? {
            0 => break,
            more => read += more,
        }
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let mut lines = bytes[..read].split(|byte| *byte == b'\n').take(UNDATED);
    let time = lines.find_map(|line| watch.filter.time_of(&watch.charset.decode(line), &watch.zone, now));
    Ok(time.map(super::time))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::config::test_settings;

    fn watch(path: &Path) -> Watch {
        Watch {
            jail: "sshd".into(),
            paths: vec![LogPath { pattern: path.display().to_string(), from: "head".into() }],
            charset: Charset::named("auto").unwrap(),
            filter: test_settings().filter,
            zone: jiff::tz::TimeZone::UTC,
        }
    }

    fn lines(open: &mut Open) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((lines, _)) = open.read(&mut [0; 4096]).unwrap() {
            all.extend(lines.iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()));
        }
        all
    }

    #[test]
    fn a_half_written_line_waits_for_its_end_and_a_long_one_is_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let mut open = Open::at_begin(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(lines(&mut open), ["one"]);
        assert_eq!(open.position.offset, 4);
        file.write_all(b"o\n").unwrap();
        assert_eq!(lines(&mut open), ["two"]);
        file.write_all(&b"x".repeat(3 * CHUNK)).unwrap();
        file.write_all(b"y\nthree\n").unwrap();
        let read = lines(&mut open);
        assert_eq!((read.len(), read[0].len(), read[1].as_str()), (2, MAX_LINE, "three"));
        assert_eq!(open.position.offset, file.as_file().metadata().unwrap().len());
    }

    #[test]
    fn a_pipe_in_the_place_of_a_log_makes_nobody_wait() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut open = Open::at_begin(&path).unwrap();
        assert_eq!(open.read(&mut [0; 16]).unwrap_err().raw_os_error(), Some(libc::ESPIPE));
    }

    #[test]
    fn the_find_window_is_found_by_halves() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let line = |second: u64| {
            let (hour, minute) = (second / 3600, second / 60 % 60);
            format!(
                "2023-11-14 {hour:02}:{minute:02}:{:02} host sshd[1]: a line of some length\n",
                second % 60
            )
        };
        for second in 0..80_000 {
            file.write_all(line(second).as_bytes()).unwrap();
        }
        let midnight = SystemTime::UNIX_EPOCH + Duration::from_secs(1_699_920_000);
        let length = line(0).len() as u64;
        for second in [0, 1, 40_000, 79_999, 90_000] {
            let since = midnight + Duration::from_secs(second);
            let offset = offset_of(file.as_file(), since, &watch(file.path())).unwrap();
            let wanted = second.min(80_000) * length;
            assert!(
                offset <= wanted && wanted - offset <= CHUNK as u64 + length,
                "{second}: {offset} {wanted}"
            );
            assert_eq!(offset % length, 0, "it is a line's begin");
        }
    }

    #[test]
    fn a_position_is_known_again_and_not_in_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        fs::write(&path, "first\nsecond\n").unwrap();
        let mut open = Open::at_begin(&path).unwrap();
        assert_eq!(lines(&mut open).len(), 2);
        let stored: Position = open.position.to_string().parse().unwrap();
        assert_eq!(stored, open.position);
        assert!(stored.is_in(&File::open(&path).unwrap()));
        // Rotated while nobody looked: the old file's rest comes first.
        fs::rename(&path, dir.path().join("a.log.1")).unwrap();
        fs::write(&path, "new\n").unwrap();
        let mut old = File::options().append(true).open(dir.path().join("a.log.1")).unwrap();
        old.write_all(b"third\n").unwrap();
        let mut open = Open::new(&path, Start::Stored(stored, false), &watch(&path)).unwrap();
        assert_eq!(lines(&mut open), ["third"]);
        let mut open = Open::new(&path, Start::Stored(stored, true), &watch(&path)).unwrap();
        let (replayed, is_replay) = open.read(&mut [0; 4096]).unwrap().unwrap();
        assert_eq!((replayed.len(), is_replay), (2, true));
        let (new, is_replay) = open.read(&mut [0; 4096]).unwrap().unwrap();
        assert_eq!((new.len(), is_replay), (1, false));
        let mut log = Log::new(0, open);
        assert!(log.look(&path) && !log.look(&path));
        let mut next = log.open;
        assert_eq!(lines(&mut next), ["new"]);
        assert!(!next.is_truncated());
        // Truncated, and already longer than before.
        fs::write(&path, "another first line\nand more\n").unwrap();
        assert!(next.is_truncated());
        assert_eq!(lines(&mut next), ["another first line", "and more"]);
        fs::write(&path, "short\n").unwrap();
        assert_eq!((lines(&mut next).len(), next.is_truncated()), (0, true));
        next.restart();
        assert_eq!(lines(&mut next), ["short"]);
    }
}
