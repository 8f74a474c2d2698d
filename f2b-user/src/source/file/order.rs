//! The lines of several files, in the order of their times.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    time::SystemTime,
};

use super::{super::Reading, open::Piece};

/// What was read of one file and not handed over yet.
#[derive(Default)]
pub(super) struct Queue {
    lines: VecDeque<Dated>,
    /// That of the last line with a date.
    time: Option<SystemTime>,
    is_at_end: bool,
}

struct Dated {
    /// When it was logged, or the line before it that tells.
    time: Option<SystemTime>,
    line: Piece,
    reading: Reading,
}

impl Queue {
    pub(super) fn wants_more(&self) -> bool {
        self.lines.is_empty() && !self.is_at_end
    }

    /// The file's end is reached: what is written from now on is not waited for.
    pub(super) fn end(&mut self) {
        self.is_at_end = true;
    }

    pub(super) fn add(
        &mut self,
        lines: Vec<Piece>,
        reading: Reading,
        time_of: impl Fn(&[u8]) -> Option<SystemTime>,
    ) {
        for line in lines {
            self.time = time_of(&line.bytes).or(self.time);
            self.lines.push_back(Dated { time: self.time, line, reading });
        }
    }

    fn next_time(&self) -> Option<Option<SystemTime>> {
        self.lines.front().map(|line| line.time)
    }
}

/// Takes the oldest lines of all, from one file; and on what occasion they were read. What has no date counts as the
/// oldest.
pub(super) fn oldest(queues: &mut BTreeMap<PathBuf, Queue>) -> Option<(PathBuf, Vec<Piece>, Reading)> {
    let next = queues.iter().filter_map(|(path, queue)| Some((queue.next_time()?, path.clone())));
    let mut next: Vec<_> = next.collect();
    next.sort_unstable();
    let mut next = next.into_iter();
    let (_, path) = next.next()?;
    let until = next.next().map(|(time, _)| time);
    let queue = queues.get_mut(&path)?;
    let reading = queue.lines.front()?.reading;
    let is_next = |line: &Dated| line.reading == reading && until.is_none_or(|until| line.time <= until);
    let count = queue.lines.iter().take_while(|line| is_next(line)).count();
    Some((path, queue.lines.drain(..count).map(|line| line.line).collect(), reading))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::file::position::Position;

    /// Lines that are their own times, in seconds; others have none.
    fn queue(lines: &[&str], reading: Reading) -> Queue {
        let mut queue = Queue::default();
        let position = Position { device: 0, inode: 0, offset: 0, head: 0 };
        let lines = lines.iter().map(|line| Piece { bytes: line.as_bytes().to_vec(), position });
        queue.add(lines.collect(), reading, |bytes| {
            let second = str::from_utf8(bytes).ok()?.parse().ok()?;
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
        });
        queue
    }

    fn all(queues: [Queue; 3]) -> Vec<String> {
        let paths = ["a", "b", "c"].map(PathBuf::from);
        let mut queues: BTreeMap<_, _> = paths.into_iter().zip(queues).collect();
        let mut all = Vec::new();
        while let Some((path, lines, reading)) = oldest(&mut queues) {
            let lines: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.bytes)).collect();
            let again = if reading == Reading::Again { " again" } else { "" };
            all.push(format!("{} {}{again}", path.display(), lines.join(" ")));
        }
        all
    }

    #[test]
    fn the_oldest_lines_come_first_in_runs_as_long_as_can_be() {
        let queues = [
            queue(&["1", "2", "7", "x", "9"], Reading::Live),
            queue(&["3", "8"], Reading::Live),
            Queue::default(),
        ];
        assert_eq!(all(queues), ["a 1 2", "b 3", "a 7 x", "b 8", "a 9"]);
    }

    #[test]
    fn what_was_decided_on_is_kept_apart_and_what_has_no_date_does_not_wait() {
        let mut both = queue(&["1"], Reading::Again);
        both.lines.extend(queue(&["2"], Reading::Live).lines);
        assert_eq!(
            all([both, queue(&["x", "9"], Reading::Live), Queue::default()]),
            ["b x", "a 1 again", "a 2", "b 9"]
        );
    }
}
