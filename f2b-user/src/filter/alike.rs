//! Texts that are the same but for the digits of numbers in them, as the beginnings of a log's lines are:
//! `host sshd[4711]: Failed`.

use std::ops::Range;

use smallvec::SmallVec;

const WORD: usize = 8;

/// The beginning of a text, in which any digit may stand for another.
#[derive(Clone, Debug, Default)]
pub(super) struct Alike {
    words: SmallVec<[Word; 6]>,
    len: usize,
}

/// Eight bytes of it.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    /// The bits that have to be the same: of a digit the upper half, of what is behind the end none.
    mask: u64,
    bits: u64,
    /// The lower half of each digit.
    digits: u64,
}

impl Alike {
    /// Begins like `text`, with any digits in place of those in `digits`.
    pub(super) fn new(text: &[u8], digits: &Range<usize>) -> Self {
        let words =
            text.chunks(WORD).zip((0..).step_by(WORD)).map(|(bytes, from)| Word::new(bytes, from, digits));
        Self { words: words.collect(), len: text.len() }
    }

    /// Whether `text` begins like this.
    #[inline]
    pub(super) fn begins(&self, text: &[u8]) -> bool {
        let (there, rest) = text.as_chunks::<WORD>();
        if there.len() >= self.words.len() {
            // Texts differ at their ends more often than at their beginnings.
            return self.words.iter().zip(there).rev().all(|(word, there)| word.is(*there));
        }
        let mut last = [0; WORD];
        last[..rest.len()].copy_from_slice(rest);
        text.len() >= self.len
            && self.words.iter().zip(there.iter().chain([&last])).all(|(word, there)| word.is(*there))
    }
}

impl Word {
    fn new(bytes: &[u8], from: usize, digits: &Range<usize>) -> Self {
        let mut word = Self::default();
        for (at, byte) in bytes.iter().enumerate() {
            let is_any_digit = byte.is_ascii_digit() && digits.contains(&(from + at));
            let any = if is_any_digit { 0x0f } else { 0 };
            word.digits |= any << (8 * at);
            word.mask |= (0xff - any) << (8 * at);
            word.bits |= (u64::from(*byte) & (0xff - any)) << (8 * at);
        }
        word
    }

    #[inline]
    fn is(&self, there: [u8; WORD]) -> bool {
        let there = u64::from_le_bytes(there);
        // Six and more than nine are more than fifteen.
        let sums = (there & self.digits) + (self.digits & 0x0606_0606_0606_0606);
        there & self.mask == self.bits && sums & 0x1010_1010_1010_1010 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_for_each_other_and_nothing_else_does() {
        let text = b"host sshd[4711]: F";
        for (digits, other, expected) in [
            (0..18, "host sshd[4711]: F", true),
            (0..18, "host sshd[0982]: Failed password for root", true),
            (0..18, "host sshd[098/]: F", false),
            (0..18, "host sshd[098:]: F", false),
            (0..18, "host sshd[09]: Fail", false),
            (0..18, "host sshd[4711]: ", false),
            (0..18, "host sshd[4711]: f", false),
            (0..18, "", false),
            (11..13, "host sshd[4981]: Failed password", true),
            (11..13, "host sshd[4982]: F", false),
            (11..13, "host sshd[5711]: F", false),
            (0..0, "host sshd[4711]: Failed", true),
            (0..0, "host sshd[4712]: Failed", false),
        ] {
            assert_eq!(Alike::new(text, &digits).begins(other.as_bytes()), expected, "{digits:?} {other}");
        }
        assert!(Alike::new(b"", &(0..0)).begins(b""));
    }

    #[test]
    fn every_byte_counts() {
        for length in 0..40 {
            let text: Vec<u8> = (0..length).map(|at| b"a7b"[at % 3]).collect();
            let alike = Alike::new(&text, &(0..length));
            for (at, byte) in (0..length).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                let mut other = text.clone();
                other[at] = byte;
                let expected = byte == text[at] || byte.is_ascii_digit() && text[at].is_ascii_digit();
                assert_eq!(alike.begins(&other), expected, "{byte} at {at} of {length}");
                other.extend(*b"behind it");
                assert_eq!(alike.begins(&other), expected, "{byte} at {at} of {length}, with more");
            }
        }
    }
}
