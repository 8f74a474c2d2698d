//! The lines that a jail's failures matched, until they lead to a ban (`maxmatches`). No clock, no I/O.
//!
//! A million attackers with a line each must not cost a million allocations. All lines of a jail are in one ring of
//! bounded size; each points to the one before it of the same address, and the oldest make room for the newest. What was
//! overwritten is missing in `<matches>`; nothing else goes by it.

use std::collections::VecDeque;

/// The most bytes that a jail keeps: about 150,000 lines.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// A longer line is cut: as long as lines are when filters see them.
const MAX_LINE: usize = 8192;
/// Places are counted in these.
const UNIT: usize = 8;
/// `before`, length of the line, length of the fields.
const HEADER: usize = 8;

/// Where a line is. Places only grow, so one that was overwritten is known as such.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place(u32);

impl Place {
    /// Nowhere.
    pub const NONE: Self = Self(u32::MAX);
}

/// The ring.
#[derive(Debug, Default)]
pub struct Matches {
    bytes: VecDeque<u8>,
    /// The place of the first byte, in units.
    start: u32,
}

/// A name and a value.
pub type Field = (String, String);

impl Matches {
    /// Keeps a line that follows the one at `before`, with what is known besides. `None`: the places are used up, all
    /// lines were dropped, and no place that was handed out may be used again.
    pub fn push<'a>(
        &mut self,
        before: Place,
        line: &str,
        fields: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Option<Place> {
        let line = &line.as_bytes()[..line.floor_char_boundary(MAX_LINE)];
        let mut others = Vec::new();
        for (name, value) in fields {
            for text in [name, value] {
                let text = &text.as_bytes()[..text.floor_char_boundary(usize::from(u16::MAX) / 16)];
                others.extend((text.len() as u16).to_le_bytes());
                others.extend(text);
            }
            if others.len() > MAX_LINE {
                break;
            }
        }
        let size = (HEADER + line.len() + others.len()).next_multiple_of(UNIT);
        while self.bytes.len() + size > MAX_BYTES {
            self.drop_first();
        }
        let end = self.start as u64 + (self.bytes.len() / UNIT) as u64;
        if end + (size / UNIT) as u64 >= u64::from(Place::NONE.0) {
            *self = Self::default();
            return None;
        }
        self.bytes.extend(before.0.to_le_bytes());
        self.bytes.extend((line.len() as u16).to_le_bytes());
        self.bytes.extend((others.len() as u16).to_le_bytes());
        self.bytes.extend(line);
        self.bytes.extend(&others);
        let padding = size - HEADER - line.len() - others.len();
        self.bytes.extend(&[0; UNIT][..padding]);
        Some(Place(end as u32))
    }

    /// The last lines up to the one at `last`, at most `count`, oldest first; and the fields of the first of all, if it
    /// is still there.
    pub fn lines(&self, last: Place, count: usize) -> (Vec<String>, Vec<Field>) {
        let (mut lines, mut fields) = (Vec::new(), Vec::new());
        let mut place = last;
        while let Some(at) = self.at(place) {
            let (before, line, others) = self.header(at);
            if lines.len() < count {
                lines.push(self.text(at + HEADER, line));
            }
            if others > 0 {
                fields = self.fields(at + HEADER + line, others);
            }
            // Each lies before the one that points to it.
            if before.0 >= place.0 {
                break;
            }
            place = before;
        }
        lines.reverse();
        (lines, fields)
    }

    /// Forgets everything, and gives the room back.
    pub fn clear(&mut self) {
        self.start += (self.bytes.len() / UNIT) as u32;
        self.bytes = VecDeque::new();
    }

    /// How many bytes are kept.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn drop_first(&mut self) {
        let (_, line, others) = self.header(0);
        let size = (HEADER + line + others).next_multiple_of(UNIT);
        self.bytes.drain(..size);
        self.start += (size / UNIT) as u32;
    }

    fn at(&self, place: Place) -> Option<usize> {
        let at = place.0.checked_sub(self.start)? as usize * UNIT;
        (at < self.bytes.len()).then_some(at)
    }

    /// Where the one before is, and the lengths.
    fn header(&self, at: usize) -> (Place, usize, usize) {
        let byte = |n: usize| self.bytes.get(at + n).copied().unwrap_or_default();
        let before = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
        let length = |n| usize::from(u16::from_le_bytes([byte(n), byte(n + 1)]));
        (Place(before), length(4), length(6))
    }

    fn text(&self, at: usize, length: usize) -> String {
        let end = (at + length).min(self.bytes.len());
        let bytes: Vec<_> = self.bytes.range(at.min(end)..end).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn fields(&self, mut at: usize, length: usize) -> Vec<Field> {
        let end = at + length;
        let mut next = || {
            let byte = |n: usize| self.bytes.get(at + n).copied().unwrap_or_default();
            let length = usize::from(u16::from_le_bytes([byte(0), byte(1)]));
            let text = (at + 2 + length <= end).then(|| self.text(at + 2, length));
            at += 2 + length;
            text
        };
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (next(), next()) {
            fields.push((name, value));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_finds_its_own_last_lines() {
        let mut matches = Matches::default();
        let (mut a, mut b) = (Place::NONE, Place::NONE);
        for n in 0..5 {
            let fields = (n == 0).then_some(("user", "root"));
            a = matches.push(a, &format!("a{n}"), fields).unwrap();
            b = matches.push(b, &format!("b{n} \u{e9}"), []).unwrap();
        }
        let field = ("user".to_owned(), "root".to_owned());
        assert_eq!(matches.lines(a, 3), (vec!["a2".into(), "a3".into(), "a4".into()], vec![field]));
        assert_eq!(matches.lines(b, 2), (vec!["b3 \u{e9}".into(), "b4 \u{e9}".into()], vec![]));
        assert_eq!(matches.lines(Place::NONE, 9), (vec![], vec![]));
        matches.clear();
        assert_eq!(matches.lines(a, 9), (vec![], vec![]));
        let c = matches.push(a, "c", []).unwrap();
        assert_eq!(matches.lines(c, 9).0, ["c"]);
    }

    #[test]
    fn the_oldest_lines_make_room_and_nobody_gets_anothers() {
        let mut matches = Matches::default();
        let line = "x".repeat(1000);
        let first = matches.push(Place::NONE, "first", [("user", "root")]).unwrap();
        let mut last = first;
        for _ in 0..100_000 {
            last = matches.push(Place::NONE, &line, []).unwrap();
        }
        assert!(matches.len() <= MAX_BYTES && matches.len() > MAX_BYTES - 2000, "{}", matches.len());
        assert_eq!(matches.lines(first, 9), (vec![], vec![]));
        assert_eq!(matches.lines(last, 9).0, [line.as_str()]);
        let next = matches.push(first, "next", []).unwrap();
        assert_eq!(matches.lines(next, 9).0, ["next"]);
    }

    #[test]
    fn places_that_are_used_up_begin_anew() {
        let mut matches = Matches { start: u32::MAX - 4, ..Matches::default() };
        assert!(matches.push(Place::NONE, "a line of some length, more than fits", []).is_none());
        let place = matches.push(Place::NONE, "again", []).unwrap();
        assert_eq!(matches.lines(place, 1).0, ["again"]);
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let mut matches = Matches::default();
        let place =
            matches.push(Place::NONE, &"\u{e9}".repeat(10_000), [("a", "b".repeat(9000).as_str())]).unwrap();
        let (lines, fields) = matches.lines(place, 1);
        assert_eq!((lines[0].len(), fields[0].0.as_str()), (MAX_LINE, "a"));
    }
}
