//! One open file: its next lines, and where lines of a time are.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::Path,
    time::SystemTime,
};

use super::{
    Watch,
    notices::Id,
    position::{Position, head, head_of_nothing},
};
use crate::source::charset::LineEnd;

/// Bytes that are read in one go.
pub(super) const CHUNK: usize = 64 << 10;
/// A line is cut here; filters look at less.
const MAX_LINE: usize = 16 << 10;
/// How much of what was decided on is read again for the find window after a restart.
const REPLAY: u64 = 4 << 20;
/// Lines that are read in search of one with a date.
const UNDATED: usize = 100;

/// An open file and how far it was read.
pub(super) struct Open {
    file: File,
    pub(super) line_end: LineEnd,
    pub(super) position: Position,
    /// What was read up to here was decided on by an agent before.
    replayed_to: u64,
    /// The beginning of a line whose end is not written yet.
    begun: Vec<u8>,
    /// The rest of the line is too much.
    is_cut: bool,
}

/// A line, with its end unless it was cut, and the position behind it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    pub(super) position: Position,
}

/// Where a file is read from.
pub(super) enum Start {
    Begin,
    End,
    /// Where lines are that were logged then.
    Since(SystemTime),
    /// Where an agent before has stopped, and whether it is to be replayed what led there.
    Stored(Position, bool),
}

impl Open {
    pub(super) fn at_begin(path: &Path, line_end: LineEnd) -> io::Result<Self> {
        // A pipe without a writer must not make the reader of all other files wait.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let data = file.metadata()?;
        let position = Position { device: data.dev(), inode: data.ino(), offset: 0, head: head(&file) };
        Ok(Self { file, line_end, position, replayed_to: 0, begun: Vec::new(), is_cut: false })
    }

    pub(super) fn new(path: &Path, start: Start, watch: &Watch) -> io::Result<Self> {
        let mut open = Self::at_begin(path, watch.charset.line_end())?;
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
                    let from = stored.offset.saturating_sub(REPLAY);
                    open.position.offset = line_begin(&open.file, from, open.line_end)?;
                }
            }
        }
        Ok(open)
    }

    /// The next complete lines, and whether they were decided on before. `None` at the file's end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<(Vec<Piece>, bool)>> {
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
        let looked_at = self.begun.len();
        self.begun.extend_from_slice(&buffer[..read]);
        Ok(Some((self.take_lines(looked_at), is_replay)))
    }

    /// Takes the lines that are complete. No line ends before `looked_at`.
    fn take_lines(&mut self, looked_at: usize) -> Vec<Piece> {
        let mut lines = Vec::new();
        let bytes = std::mem::take(&mut self.begun);
        let (mut begin, mut from) = (0, looked_at);
        while let Some(length) = self.line_end.find(&bytes[begin..], from) {
            let line = &bytes[begin..begin + length];
            begin += length;
            from = 0;
            self.position.offset += length as u64;
            if !std::mem::take(&mut self.is_cut) {
                lines.push(self.piece(line));
            }
        }
        let rest = &bytes[begin..];
        if rest.len() <= MAX_LINE {
            self.begun = rest.to_vec();
            return lines;
        }
        // It is cut, and judged by what there is of it. Characters stay whole.
        let length = rest.len() - rest.len() % self.line_end.width();
        self.position.offset += length as u64;
        if !std::mem::replace(&mut self.is_cut, true) {
            lines.push(self.piece(rest));
        }
        self.begun = rest[length..].to_vec();
        lines
    }

    fn piece(&self, line: &[u8]) -> Piece {
        Piece { bytes: line[..line.len().min(MAX_LINE)].to_vec(), position: self.position }
    }

    /// To be watched.
    pub(super) fn watch(&self) -> (Id, BorrowedFd<'_>) {
        (self.position.file(), self.file.as_fd())
    }

    /// Whether it has become shorter, or another first line.
    pub(super) fn is_truncated(&self) -> bool {
        let from = self.position.offset + self.begun.len() as u64;
        let is_shorter = self.file.metadata().is_ok_and(|data| data.len() < from);
        is_shorter || self.position.head != head_of_nothing() && head(&self.file) != self.position.head
    }

    /// Reads it from its begin.
    pub(super) fn restart(&mut self) {
        (self.position.offset, self.replayed_to, self.is_cut) = (0, 0, false);
        self.position.head = head(&self.file);
        self.begun.clear();
    }

    /// The last line of a file to which nothing is written any more, if it has no end.
    pub(super) fn last_line(&mut self) -> Option<Piece> {
        let line = std::mem::take(&mut self.begun);
        (!line.is_empty() && !self.is_cut).then(|| self.piece(&line))
    }
}

/// The file in the same folder in which this is a position.
fn sibling(path: &Path, position: &Position) -> Option<File> {
    let entries = path.parent()?.read_dir().ok()?;
    let same = entries.flatten().find(|entry| entry.metadata().is_ok_and(|data| position.is_of(&data)))?;
    File::open(same.path()).ok().filter(|file| position.is_in(file))
}

/// Where the line begins that follows on this place, or begins there.
fn line_begin(file: &File, offset: u64, end: LineEnd) -> io::Result<u64> {
    let width = end.width() as u64;
    let Some(mut at) = (offset - offset % width).checked_sub(width) else { return Ok(0) };
    let mut bytes = [0; 4096];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            return Ok(at);
        }
        match end.find(&bytes[..read], 0) {
            Some(behind) => return Ok(at + behind as u64),
            None => at += read as u64,
        }
    }
}

/// Where lines are that were logged at `since` or later: found by halves, because lines stand in the order of their
/// times.
fn offset_of(file: &File, since: SystemTime, watch: &Watch) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > CHUNK as u64 {
        let middle = line_begin(file, low + (high - low) / 2, watch.charset.line_end())?;
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
    let now = SystemTime::now();
    let mut rest = &bytes[..read];
    let lines = std::iter::from_fn(|| {
        let (line, behind) = rest.split_at(watch.charset.line_end().find(rest, 0).unwrap_or(rest.len()));
        rest = behind;
        (!line.is_empty()).then_some(line)
    });
    Ok(lines.take(UNDATED).find_map(|line| watch.time_of(line, now)))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, time::Duration};

    use super::*;
    use crate::{
        config::{LogPath, test_settings},
        source::{charset::Charset, file::Log},
    };

    fn auto() -> LineEnd {
        Charset::named("auto").unwrap().line_end()
    }

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
            all.extend(lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).trim_end().to_owned()));
        }
        all
    }

    #[test]
    fn a_half_written_line_waits_for_its_end_and_a_long_one_is_cut() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let mut open = Open::at_begin(&path, auto()).unwrap();
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
        let mut open = Open::at_begin(&path, auto()).unwrap();
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
        let mut open = Open::at_begin(&path, auto()).unwrap();
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
