//! Finds plain texts of which every match has one in it: most lines are over with that look.
//!
//! It looks at every second or fourth place of a line only, at a few bytes there: each needle has a part of which one of
//! these windows falls into the line's, wherever it stands.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{candidate::Finder, machine::has_text};

/// A text that is shorter is in too many lines to be worth a look; so is a line end.
const SHORTEST: usize = 4;
/// The most bytes that are looked at at once.
const WINDOW: usize = 4;
/// With needles of this length, it is enough to look at every fourth place.
const LONG: usize = WINDOW + 3;
/// How many bits of a window's hash tell whether it is worth a closer look.
const HASH_BITS: u32 = 12;

/// The plain texts of many expressions.
#[derive(Debug)]
pub(super) struct Needles {
    needles: Vec<Needle>,
    /// How far apart the places are.
    stride: usize,
    /// The bytes that are looked at, of four.
    mask: u32,
    /// Whether there is a window with this hash.
    hashes: Box<[bool; 1 << HASH_BITS]>,
    windows: HashMap<u32, SmallVec<[Window; 2]>, RandomState>,
}

#[derive(Debug)]
struct Needle {
    text: Box<[u8]>,
    /// The ways of the expressions that it can be the text of: a bit each.
    ways: u128,
}

/// Bytes of a needle.
#[derive(Clone, Copy, Debug)]
struct Window {
    needle: usize,
    /// Where they stand in it.
    at: usize,
}

impl Needles {
    /// `None` if a match may have none in it, or if they are too many.
    pub(super) fn new(finders: &[Finder]) -> Option<Self> {
        let is_poor = |needle: &String| needle.len() < SHORTEST || needle.contains('\n');
        let have_none = |finder: &Finder| finder.needles.is_empty() || finder.needles.iter().any(is_poor);
        if finders.len() > u128::BITS as usize || finders.iter().any(have_none) {
            return None;
        }
        let mut texts: Vec<_> = finders.iter().flat_map(|finder| &finder.needles).collect();
        texts.sort_unstable();
        texts.dedup();
        let shortest = texts.iter().map(|text| text.len()).min()?;
        let stride = if shortest >= LONG { 4 } else { 2 };
        let window = WINDOW.min(shortest + 1 - stride);
        let mask = u32::from_le_bytes(std::array::from_fn(|at| if at < window { 0xff } else { 0 }));
        let mut this = Self {
            needles: Vec::new(),
            stride,
            mask,
            hashes: Box::new([false; 1 << HASH_BITS]),
            windows: HashMap::default(),
        };
        for (needle, text) in texts.into_iter().enumerate() {
            let ways = finders.iter().enumerate().filter(|(_, finder)| finder.needles.contains(text));
            let ways = ways.fold(0, |ways, (way, _)| ways | 1 << way);
            let part = part(text.as_bytes(), window + stride - 1);
            for at in part..part + stride {
                let bytes = this.window(text.as_bytes(), at);
                this.hashes[hash(bytes)] = true;
                this.windows.entry(bytes).or_default().push(Window { needle, at });
            }
            this.needles.push(Needle { text: text.as_bytes().into(), ways });
        }
        Some(this)
    }

    /// The ways whose text is in `text`, a bit each.
    pub(super) fn ways(&self, text: &str) -> u128 {
        let text = text.as_bytes();
        let mut ways = 0;
        let (whole, _) = text.as_chunks::<WINDOW>();
        if self.stride == WINDOW {
            // Of a part that is long enough, a whole one falls into the text.
            for (number, bytes) in whole.iter().enumerate() {
                let window = u32::from_le_bytes(*bytes);
                if self.hashes[hash(window)] {
                    ways |= self.ways_at(text, number * WINDOW, window);
                }
            }
            return ways;
        }
        for at in (0..text.len()).step_by(self.stride) {
            let window = self.window(text, at);
            if self.hashes[hash(window)] {
                ways |= self.ways_at(text, at, window);
            }
        }
        ways
    }

    /// What stands at this place, up to the end.
    fn window(&self, text: &[u8], at: usize) -> u32 {
        let bytes = std::array::from_fn(|byte| text.get(at + byte).copied().unwrap_or_default());
        u32::from_le_bytes(bytes) & self.mask
    }

    /// The ways whose text stands around this window.
    #[inline(never)]
    fn ways_at(&self, text: &[u8], at: usize, window: u32) -> u128 {
        let windows = self.windows.get(&window).into_iter().flatten();
        let stands = |window: &&Window| {
            let from = at.checked_sub(window.at);
            from.is_some_and(|from| has_text(text, &self.needles[window.needle].text, from))
        };
        windows.filter(stands).fold(0, |ways, window| ways | self.needles[window.needle].ways)
    }
}

/// Where the `length` bytes of a text begin that tell most: those with the fewest blanks, because words are rarer than
/// their ends.
fn part(text: &[u8], length: usize) -> usize {
    let blanks = |part: &[u8]| part.iter().filter(|byte| **byte == b' ').count();
    let parts = text.windows(length).enumerate();
    parts.min_by_key(|(_, part)| blanks(part)).map_or(0, |(at, _)| at)
}

fn hash(window: u32) -> usize {
    (window.wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needles(texts: &[&str]) -> Needles {
        let finder = |text: &&str| Finder { text: String::new(), needles: vec![(*text).to_owned()] };
        let finders: Vec<_> = texts.iter().map(finder).collect();
        Needles::new(&finders).unwrap()
    }

    #[test]
    fn needles_are_found_wherever_they_stand() {
        for texts in [
            &["Accepted ", "Failed ", "nvalid user "][..],
            &["port", "Failed ", "abcde"],
            &["port ", "Failed ", "abcdef"],
            &["a b c d e", "b c d e f", "    x  "],
        ] {
            let needles = needles(texts);
            for (number, text) in texts.iter().enumerate() {
                for before in 0..9 {
                    for after in 0..6 {
                        let line = format!("{}{text}{}", "é"[..].repeat(before), "z".repeat(after));
                        let line = &line[2 * (before / 2)..];
                        assert!(needles.ways(line) >> number & 1 == 1, "{text:?} in {line:?}");
                        let (first, rest) = text.split_at(1);
                        let other = format!("{}{first}_{rest}", "-".repeat(before));
                        assert_eq!(needles.ways(&other), 0, "{text:?} in {other:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn all_that_are_there_are_found_also_those_within_others() {
        let needles =
            needles(&["Failed publickey for invalid user ", " for invalid user ", "Failed ", "lickey"]);
        assert_eq!(needles.ways("sshd[1]: Failed publickey for invalid user x"), 0b1111);
        assert_eq!(needles.ways("sshd[1]: Failed publickey for invalid root"), 0b1100);
        assert_eq!(needles.ways("Failed"), 0);
        assert_eq!(needles.ways(""), 0);
    }
}
