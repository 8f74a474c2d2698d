//! A set of characters, as a class of an expression means it: one bit for each ASCII character, and ranges for all
//! others, made when the first of those has to be looked up.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use memchr::memchr;

use super::syntax::{Class, Item, Named};

/// `\w` beyond ASCII: Python's `str.isalnum`, which is letters and numbers.
const WORD: &str = r"[\p{L}\p{N}_]";

/// A question of one bit for each byte.
pub(super) type Table = [bool; 256];

/// The bytes of these ASCII characters.
pub(super) fn table(ascii: u128) -> Table {
    std::array::from_fn(|byte| byte < 128 && ascii >> byte & 1 != 0)
}

#[derive(Debug)]
pub(super) struct CharSet {
    pub(super) class: Class,
    ascii: u128,
    /// The same, quick to ask.
    members: Arc<Table>,
    /// It has all characters but this one.
    all_but: Option<u8>,
    wide: OnceLock<Box<[(char, char)]>>,
}

impl CharSet {
    pub(super) fn new(class: &Class) -> Self {
        let ascii = ascii(class);
        let all_but = match class.items[..] {
            [Item::Range(low, high)] if class.negated && low == high => {
                let alone = (!ascii).count_ones() == 1 && low.is_ascii() && !may_be_wide_itself(class);
                alone.then_some(low as u8)
            }
            _ => None,
        };
        Self { class: class.clone(), ascii, members: Arc::new(table(ascii)), all_but, wide: OnceLock::new() }
    }

    /// Where the ASCII characters of the set that stand side by side from `at` end, `max` at the most. `is_ascii`: the
    /// text has no others.
    #[inline]
    pub(super) fn ascii_run(&self, text: &[u8], is_ascii: bool, at: usize, max: usize) -> usize {
        let last = text.len().min(at.saturating_add(max));
        let rest = &text[at..last];
        let end = match self.all_but {
            // Found faster, with other characters before it or without.
            Some(other) => {
                let run = &rest[..memchr(other, rest).unwrap_or(rest.len())];
                if is_ascii || run.is_ascii() {
                    run.len()
                } else {
                    run.iter().position(|byte| !byte.is_ascii()).unwrap_or(0)
                }
            }
            None => rest.iter().position(|byte| !self.members[usize::from(*byte)]).unwrap_or(rest.len()),
        };
        at + end
    }

    /// Where the characters of the set that stand side by side from `at` end. `text` is UTF-8.
    #[inline]
    pub(super) fn run(&self, text: &[u8], at: usize) -> usize {
        if let Some(other) = self.all_but {
            return memchr(other, &text[at..]).map_or(text.len(), |found| at + found);
        }
        let mut end = at;
        while let Some(byte) = text.get(end)
            && self.members[usize::from(*byte)]
        {
            end += 1;
        }
        if text.get(end).is_none_or(u8::is_ascii) { end } else { self.wide_run(text, end) }
    }

    /// The same where a character beyond ASCII comes first.
    #[cold]
    fn wide_run(&self, text: &[u8], mut at: usize) -> usize {
        while let Some(after) = self.one(text, at) {
            at = after;
        }
        at
    }

    /// The place behind the character beyond ASCII at `at`, if it is in the set.
    #[cold]
    fn wide_at(&self, text: &[u8], at: usize) -> Option<usize> {
        let c = character(text, at)?;
        self.has_wide(c).then(|| at + c.len_utf8())
    }

    /// The place behind the character at `at`, if it is in the set. `text` is UTF-8.
    #[inline]
    pub(super) fn one(&self, text: &[u8], at: usize) -> Option<usize> {
        let byte = *text.get(at)?;
        if self.members[usize::from(byte)] {
            return Some(at + 1);
        }
        if byte.is_ascii() { None } else { self.wide_at(text, at) }
    }

    /// Whether a run's end is found faster than byte by byte.
    pub(super) fn is_found_fast(&self) -> bool {
        self.all_but.is_some()
    }

    /// Its ASCII characters, quick to ask.
    pub(super) fn members(&self) -> &Arc<Table> {
        &self.members
    }

    /// The one character that it has not, if it has all others.
    pub(super) fn all_but(&self) -> Option<u8> {
        self.all_but
    }

    /// Its ASCII characters, a bit each.
    pub(super) fn ascii(&self) -> u128 {
        self.ascii
    }

    #[cfg(test)]
    fn has(&self, c: char) -> bool {
        if c.is_ascii() { self.members[c as usize] } else { self.has_wide(c) }
    }

    #[cold]
    fn has_wide(&self, c: char) -> bool {
        let ranges = self.wide.get_or_init(|| wide(&self.class));
        let after = ranges.partition_point(|(low, _)| *low <= c);
        after > 0 && c <= ranges[after - 1].1
    }
}

/// Whether `c` belongs to a word, for `\b`.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    static WORDS: OnceLock<CharSet> = OnceLock::new();
    let word = Item::Named { kind: Named::Word, negated: false };
    WORDS
        .get_or_init(|| CharSet::new(&Class { negated: false, items: vec![word], ignore_case: false }))
        .has_wide(c)
}

/// `number` with ASCII digits: Python reads those of any script.
pub(in crate::filter) fn plain_digits(number: &str) -> Cow<'_, str> {
    if number.is_ascii() {
        return Cow::Borrowed(number);
    }
    static DIGITS: OnceLock<Box<[(char, char)]>> = OnceLock::new();
    let digit = Item::Named { kind: Named::Digit, negated: false };
    let class = || Class { negated: false, items: vec![digit], ignore_case: false };
    let ranges = DIGITS.get_or_init(|| wide(&class()));
    let plain = |c: char| {
        // Those of a script stand side by side, from 0 on; so do scripts.
        let (zero, _) = ranges.iter().find(|(low, high)| (*low..=*high).contains(&c))?;
        char::from_digit((c as u32 - *zero as u32) % 10, 10)
    };
    number.chars().map(|c| plain(c).unwrap_or(c)).collect()
}

/// The ASCII characters of a class, a bit each.
pub(super) fn ascii(class: &Class) -> u128 {
    let mut set = 0;
    for item in &class.items {
        set |= match *item {
            Item::Range(low, high) => {
                let plain = between(low, high);
                if class.ignore_case { plain | other_case(low, high) } else { plain }
            }
            Item::Named { kind, negated } => {
                let named = match kind {
                    Named::Digit => between('0', '9'),
                    Named::Space => between('\t', '\r') | between('\x1c', '\x20'),
                    Named::Word => {
                        between('0', '9') | between('a', 'z') | between('A', 'Z') | between('_', '_')
                    }
                };
                if negated { !named } else { named }
            }
        };
    }
    if class.negated { !set } else { set }
}

/// The ASCII characters of a range, a bit each.
fn between(low: char, high: char) -> u128 {
    if !low.is_ascii() {
        return 0;
    }
    let high = if high.is_ascii() { high as u32 } else { 127 };
    u128::MAX << low as u32 & u128::MAX >> (127 - high)
}

/// Those that are the other case of a character in the range.
fn other_case(low: char, high: char) -> u128 {
    let is = |c: &u8| other_cases(char::from(*c)).any(|c| (low..=high).contains(&c));
    (0..128_u8).filter(is).fold(0, |set, c| set | 1 << c)
}

/// The character that begins at `at`. `text` is UTF-8.
pub(super) fn character(text: &[u8], at: usize) -> Option<char> {
    let lead = *text.get(at)?;
    let length = match lead {
        0..0x80 => return Some(char::from(lead)),
        0xf0.. => 4,
        0xe0.. => 3,
        _ => 2,
    };
    str::from_utf8(text.get(at..at + length)?).ok()?.chars().next()
}

/// Whether all is ASCII. For a line, the standard library takes most of its time on the odd bytes at the end.
pub(in crate::filter) fn is_ascii(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk() else { return text.is_ascii() };
    let (words, _) = text.as_chunks();
    // The last ones overlap.
    let all = words.iter().chain([last]).fold(0, |all, word| all | u64::from_ne_bytes(*word));
    all & 0x8080_8080_8080_8080 == 0
}

/// Whether a character begins at `at`. The text's begin is a boundary, so that going back always ends.
#[inline]
pub(super) fn is_boundary(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
}

/// Whether a class may have characters beyond ASCII.
pub(super) fn may_be_wide(class: &Class) -> bool {
    class.negated || may_be_wide_itself(class)
}

/// The same for what is written in it, negated or not.
fn may_be_wide_itself(class: &Class) -> bool {
    let is_wide = |item: &Item| match *item {
        Item::Range(low, high) => {
            !high.is_ascii()
                || class.ignore_case && (low..=high).any(|c| other_cases(c).any(|c| !c.is_ascii()))
        }
        Item::Named { .. } => true,
    };
    class.items.iter().any(is_wide)
}

/// What Python's IGNORECASE takes for the same as an ASCII letter: the other case, and four letters beyond ASCII
/// (the note on `re.IGNORECASE` in its documentation).
fn other_cases(c: char) -> impl Iterator<Item = char> {
    let beyond: &[char] = match c {
        'i' | 'I' => &['\u{130}', '\u{131}'],
        's' | 'S' => &['\u{17f}'],
        'k' | 'K' => &['\u{212a}'],
        _ => &[],
    };
    let other = if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
    beyond.iter().copied().chain([other])
}

/// The characters of a class beyond ASCII, as sorted ranges.
fn wide(class: &Class) -> Box<[(char, char)]> {
    let mut text = String::from(if class.ignore_case { "(?i:[" } else { "[" });
    if class.negated {
        text.push('^');
    }
    let mut turkish = false;
    for item in &class.items {
        match *item {
            Item::Range(low, high) => {
                text.push_str(&format!(r"\x{{{:x}}}-\x{{{:x}}}", low as u32, high as u32));
                turkish |= ['i', 'I'].iter().any(|c| (low..=high).contains(c));
            }
            Item::Named { kind, negated } => {
                text.push_str(match (kind, negated) {
                    (Named::Digit, false) => r"\p{Nd}",
                    (Named::Digit, true) => r"\P{Nd}",
                    // Python counts the four separators of ASCII as white space.
                    (Named::Space, false) => r"\s\x{1c}-\x{1f}",
                    (Named::Space, true) => r"[^\s\x{1c}-\x{1f}]",
                    (Named::Word, false) => WORD,
                    (Named::Word, true) => r"[^\p{L}\p{N}_]",
                });
            }
        }
    }
    if class.ignore_case && turkish {
        text.push_str(r"\x{130}\x{131}");
    }
    text.push_str(if class.ignore_case { "])" } else { "]" });
    // What was just written is a class; if it were none, it would be a set without characters.
    let Ok(hir) = regex_syntax::parse(&text) else { return Box::default() };
    match hir.kind() {
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        // One character is no class to the crate.
        regex_syntax::hir::HirKind::Literal(literal) => {
            String::from_utf8_lossy(&literal.0).chars().map(|c| (c, c)).collect()
        }
        _ => Box::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: Vec<Item>, negated: bool, ignore_case: bool) -> CharSet {
        CharSet::new(&Class { negated, items, ignore_case })
    }

    #[test]
    fn digits_of_all_scripts_are_read_as_python_reads_them() {
        for (text, expected) in
            [("12.5", "12.5"), ("0.00٣", "0.003"), ("٠٩x", "09x"), ("१𝟎𝟙𝟗é", "1019é"), ("۰۵-０９", "05-09")]
        {
            assert_eq!(plain_digits(text), expected);
        }
    }

    #[test]
    fn classes_have_pythons_characters() {
        let word = || Item::Named { kind: Named::Word, negated: false };
        let space = |negated| Item::Named { kind: Named::Space, negated };
        for (set, within, without) in [
            (set(vec![word()], false, false), "aZ_9é٣Ж漢", " -.\u{301}€"),
            (set(vec![space(false)], false, false), "\t\u{1c}\u{1f} \u{a0}\u{2028}", "a\u{200b}"),
            (set(vec![space(true)], true, false), " \u{2003}", "aé"),
            (set(vec![Item::Range('k', 'k')], false, true), "kK\u{212a}", "xé"),
            (set(vec![Item::Range('a', 'z')], false, true), "iI\u{130}\u{131}\u{17f}\u{212a}", "é1"),
            (set(vec![Item::Range('é', 'é')], false, true), "éÉ", "eE"),
            (set(vec![Item::Range('\n', '\n')], true, false), "a é\r", "\n"),
        ] {
            assert!(within.chars().all(|c| set.has(c)), "{set:?} {within}");
            assert!(!without.chars().any(|c| set.has(c)), "{set:?} {without}");
        }
        assert!(is_word('é') && is_word('_') && !is_word('-') && !is_word('\u{301}'));
    }
}
