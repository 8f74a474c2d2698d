//! A set of characters, as a class of an expression means it: one bit for each ASCII character, and ranges for all
//! others, made when the first of those has to be looked up.

use std::sync::OnceLock;

use super::syntax::{Class, Item, Named};

/// `\w` beyond ASCII: Python's `str.isalnum`, which is letters and numbers.
const WORD: &str = r"[\p{L}\p{N}_]";

#[derive(Debug)]
pub(super) struct CharSet {
    pub(super) class: Class,
    ascii: u128,
    wide: OnceLock<Box<[(char, char)]>>,
}

impl CharSet {
    pub(super) fn new(class: &Class) -> Self {
        Self { class: class.clone(), ascii: ascii(class), wide: OnceLock::new() }
    }

    #[inline]
    pub(super) fn has_ascii(&self, byte: u8) -> bool {
        self.ascii >> (byte & 127) & 1 != 0
    }

    pub(super) fn has(&self, c: char) -> bool {
        if c.is_ascii() { self.has_ascii(c as u8) } else { self.has_wide(c) }
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

/// The ASCII characters of a class, a bit each.
pub(super) fn ascii(class: &Class) -> u128 {
    let matching = |matches: &dyn Fn(char) -> bool| {
        (0..128_u8).filter(|c| matches(char::from(*c))).fold(0_u128, |set, c| set | 1 << c)
    };
    let mut set = 0;
    for item in &class.items {
        set |= match *item {
            Item::Range(low, high) => matching(&|c| {
                let folded = class.ignore_case && other_cases(c).any(|c| (low..=high).contains(&c));
                folded || (low..=high).contains(&c)
            }),
            Item::Named { kind, negated } => matching(&|c| {
                let is = match kind {
                    Named::Digit => c.is_ascii_digit(),
                    Named::Space => matches!(c, '\t'..='\r' | '\x1c'..='\x20'),
                    Named::Word => c.is_ascii_alphanumeric() || c == '_',
                };
                is != negated
            }),
        };
    }
    if class.negated { !set } else { set }
}

/// Whether a class may have characters beyond ASCII.
pub(super) fn may_be_wide(class: &Class) -> bool {
    let is_wide = |item: &Item| match *item {
        Item::Range(low, high) => {
            !high.is_ascii()
                || class.ignore_case && (low..=high).any(|c| other_cases(c).any(|c| !c.is_ascii()))
        }
        Item::Named { .. } => true,
    };
    class.negated || class.items.iter().any(is_wide)
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
