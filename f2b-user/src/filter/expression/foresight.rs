//! What can come next at a place of a program, so that the machine need not try what cannot.

/// What can come next at a step. Characters beyond ASCII always can.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Begins {
    /// ASCII characters, a bit each.
    pub(super) ascii: u128,
    /// The text can end.
    pub(super) end: bool,
}

impl Begins {
    pub(super) const ANYTHING: Self = Self { ascii: u128::MAX, end: true };

    pub(super) fn or(self, other: Self) -> Self {
        Self { ascii: self.ascii | other.ascii, end: self.end || other.end }
    }

    pub(super) fn allows(self, byte: u8) -> bool {
        !byte.is_ascii() || self.ascii >> byte & 1 != 0
    }
}

/// What can come next, as a bit of a [`Foresight`] table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Next {
    table: u16,
    bit: u8,
}

impl Next {
    pub(super) const ANYTHING: Self = Self { table: 0, bit: 0 };
}

/// Two of one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Both {
    table: u16,
    first: u8,
    second: u8,
}

impl From<[Next; 2]> for Both {
    /// They were asked together.
    fn from([first, second]: [Next; 2]) -> Self {
        Self { table: first.table, first: first.bit, second: second.bit }
    }
}

/// Eight questions in one table: a bit of each for each byte.
#[derive(Debug)]
struct Eight {
    bytes: [u8; 256],
    end: u8,
    asked: Vec<Begins>,
}

/// What can come next at all places that ask for it.
#[derive(Debug, Default)]
pub(super) struct Foresight(Vec<Eight>);

impl Foresight {
    /// Whether what can come comes at this place.
    #[inline]
    pub(super) fn comes(&self, next: Next, text: &[u8], at: usize) -> bool {
        self.bits(next.table, text, at) & next.bit != 0
    }

    /// The same for two questions of one table.
    #[inline]
    pub(super) fn both_come(&self, both: Both, text: &[u8], at: usize) -> (bool, bool) {
        let bits = self.bits(both.table, text, at);
        (bits & both.first != 0, bits & both.second != 0)
    }

    /// The same with the next byte given; `None` is the text's end.
    pub(super) fn both(&self, both: Both, next: Option<u8>) -> (bool, bool) {
        self.both_come(both, next.as_slice(), 0)
    }

    /// What all tables say of a byte, or of the text's end.
    pub(super) fn of(&self, next: Option<u8>) -> impl Iterator<Item = u8> {
        (0..self.0.len()).map(move |table| self.bits(table as u16, next.as_slice(), 0))
    }

    #[inline]
    fn bits(&self, table: u16, text: &[u8], at: usize) -> u8 {
        let table = &self.0[usize::from(table)];
        text.get(at).map_or(table.end, |byte| table.bytes[usize::from(*byte)])
    }

    /// These questions in one table.
    pub(super) fn ask<const N: usize>(&mut self, wanted: [Begins; N]) -> [Next; N] {
        let missing = |table: &Eight| wanted.iter().filter(|begins| !table.asked.contains(begins)).count();
        let fits = |table: &Eight| table.asked.len() + missing(table) <= 8;
        let table = self.0.iter().position(fits).unwrap_or_else(|| {
            self.0.push(Eight { bytes: [0; 256], end: 0, asked: Vec::new() });
            self.0.len() - 1
        });
        wanted.map(|begins| Next { table: table as u16, bit: 1 << self.0[table].number(begins) })
    }
}

impl Eight {
    fn number(&mut self, begins: Begins) -> usize {
        if let Some(known) = self.asked.iter().position(|asked| *asked == begins) {
            return known;
        }
        let number = self.asked.len();
        self.asked.push(begins);
        let (ascii, wide) = self.bytes.split_at_mut(128);
        for (bits, word) in ascii.chunks_exact_mut(64).zip([begins.ascii as u64, (begins.ascii >> 64) as u64])
        {
            bits.iter_mut()
                .enumerate()
                .for_each(|(byte, bits)| *bits |= ((word >> byte & 1) as u8) << number);
        }
        wide.iter_mut().for_each(|bits| *bits |= 1 << number);
        self.end |= u8::from(begins.end) << number;
        number
    }
}
