//! One open file: its next lines, and where lines of a time are.

use std::{
    collections::VecDeque,
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
    rotated::{Rotated, rotated},
};
use crate::source::charset::LineEnd;

/// Bytes that are read in one go.
pub(super) const CHUNK: usize = 64 << 10;
/// A line is cut here; filters look at less.
const MAX_LINE: usize = 16 << 10;
/// How much of what was decided on is read again for the find window after a restart, at most: a second's work.
const REPLAY: u64 = 32 << 20;
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
        }
        Ok(open)
    }

    /// What is read of `path`, file after file, to go on where an agent before has stopped. `since`: before that, for the
    /// find window, what was decided on and was logged then or later, at most [`REPLAY`] of it; also in files before it, but
    /// for those that are followed by their own names.
    pub(super) fn stored(
        path: &Path,
        stored: Position,
        since: Option<SystemTime>,
        watch: &Watch,
        is_followed: impl Fn(&Path) -> bool,
    ) -> io::Result<VecDeque<Self>> {
        let mut open = Self::at_begin(path, watch.charset.line_end())?;
        if !stored.is_in(&open.file) {
            // Rotated while nobody looked: the rest of the old file comes first. Of one that is gone, nothing is left.
            let Some(file) = sibling(path, &stored) else { return Ok([open].into()) };
            open = Self { file, ..open };
        }
        open.position = stored;
        let written = open.file.metadata()?.modified()?;
        let mut opens = VecDeque::new();
        let mut room = REPLAY;
        if let Some(since) = since {
            room -= open.replay(since, stored.offset, room, watch)?;
        }
        opens.push_back(open);
        let is_before = |file: &Rotated| {
            file.written <= written && file.file != stored.file() && !is_followed(&file.path)
        };
        for earlier in rotated(path).into_iter().filter(is_before).rev() {
            let Some(since) = since.filter(|since| earlier.written >= *since) else { break };
            if room == 0 || opens[0].position.offset > 0 {
                break;
            }
            // One that cannot be read is not waited for.
            let Ok(mut open) = Self::at_begin(&earlier.path, watch.charset.line_end()) else { break };
            let end = open.file.metadata()?.len();
            room -= open.replay(since, end, room, watch)?;
            opens.push_front(open);
        }
        Ok(opens)
    }

    /// Goes to the lines before `end` that were logged at `since` or later, to read them again, at most `room` of them.
    /// How many bytes these are.
    fn replay(&mut self, since: SystemTime, end: u64, room: u64, watch: &Watch) -> io::Result<u64> {
        let mut from = offset_of(&self.file, since, watch)?.min(end);
        if end - from > room {
            from = line_begin(&self.file, end - room, self.line_end)?.min(end);
        }
        (self.position.offset, self.replayed_to) = (from, end);
        Ok(end - from)
    }

    /// What comes after this file at `path`, which leads to another one now: files that were rotated meanwhile, but for
    /// those that are followed by their own names, and the one that is there.
    pub(super) fn next(&self, path: &Path, is_followed: impl Fn(Id) -> bool) -> io::Result<VecDeque<Self>> {
        let mut last = Self::at_begin(path, self.line_end)?;
        if is_followed(last.position.file()) {
            // Whoever follows it by the name that it had reads what is in it.
            last.position.offset = last.file.metadata()?.len();
        }
        let written = self.file.metadata()?.modified()?;
        let comes_after = |file: &Rotated| {
            let is_another = file.file != self.position.file() && file.file != last.position.file();
            is_another && file.written > written && !is_followed(file.file)
        };
        let between = rotated(path).into_iter().filter(comes_after);
        let mut opens: VecDeque<_> =
            between.filter_map(|file| Self::at_begin(&file.path, self.line_end).ok()).collect();
        opens.push_back(last);
        Ok(opens)
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

    /// Whether all that was read of it was decided on before.
    pub(super) fn is_replayed(&self) -> bool {
        self.position.offset + self.begun.len() as u64 <= self.replayed_to
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
        source::{Reading, charset::Charset, file::Log},
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
        let mut open =
            Open::stored(&path, stored, None, &watch(&path), |_| false).unwrap().remove(0).unwrap();
        assert_eq!(lines(&mut open), ["third"]);
        let since = Some(SystemTime::UNIX_EPOCH);
        let mut opens = Open::stored(&path, stored, since, &watch(&path), |_| false).unwrap();
        assert_eq!(opens.len(), 1);
        let mut open = opens.remove(0).unwrap();
        let (replayed, is_replay) = open.read(&mut [0; 4096]).unwrap().unwrap();
        assert_eq!((replayed.len(), is_replay), (2, true));
        let (new, is_replay) = open.read(&mut [0; 4096]).unwrap().unwrap();
        assert_eq!((new.len(), is_replay), (1, false));
        let mut log = Log::new(0, [open].into()).unwrap();
        let nobody = |_| false;
        assert!(log.look(&path, nobody) && !log.look(&path, nobody));
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

    #[test]
    fn what_was_rotated_while_nobody_read_comes_in_order_and_the_find_window_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        let second = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_699_920_000 + second);
        let name = |number: u64| match number {
            0 => path.clone(),
            number => dir.path().join(format!("a.log.{number}")),
        };
        // Each file has a line, and the agent before has stopped behind that of the second.
        for number in (0..5).rev() {
            let time = second(40 - 10 * number);
            let stamp = jiff::Timestamp::try_from(time).unwrap();
            fs::write(name(number), format!("{stamp} line {number}\n")).unwrap();
            File::options().append(true).open(name(number)).unwrap().set_modified(time).unwrap();
        }
        let mut stopped = Open::at_begin(&name(3), auto()).unwrap();
        assert_eq!(lines(&mut stopped).len(), 1);
        let all = |since| {
            let opens = Open::stored(&path, stopped.position, since, &watch(&path), |_| false).unwrap();
            let mut log = Log::new(0, opens).unwrap();
            let mut all = Vec::new();
            loop {
                match log.read(&path, &mut [0; 4096]) {
                    Some((lines, reading)) => all.extend(lines.iter().map(|line| {
                        let text = String::from_utf8_lossy(&line.bytes);
                        let number = text.trim_end().rsplit_once(' ').unwrap().1.to_owned();
                        if reading == Reading::Again { format!("again {number}") } else { number }
                    })),
                    None if log.look(&path, |_| false) => {}
                    None => return all,
                }
            }
        };
        assert_eq!(all(None), ["2", "1", "0"]);
        assert_eq!(all(Some(second(0))), ["again 4", "again 3", "2", "1", "0"]);
        assert_eq!(all(Some(second(5))), ["again 3", "2", "1", "0"]);
    }
}
