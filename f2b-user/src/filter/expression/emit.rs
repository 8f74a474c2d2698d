//! The tree → the syntax of the crates that match it.
//!
//! Text in ASCII is by far the most common, and classes of ASCII characters make automata that are small and fast; so
//! each expression is written for such text first, and for any text only when a line needs it. What a linear-time
//! automaton cannot express (look-around, back-references, conditionals) is dropped there, so that it finds more than
//! it should: candidates, which the exact form confirms.

use super::syntax::{Assertion, Class, Item, Named, Node, Repetition};

/// The text that an expression is written for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Text {
    /// ASCII, with no line end but the last character, or in multi-line mode.
    Ascii,
    /// Any characters, line ends as in `Ascii`.
    Unicode,
    /// Anything: `$` has to tell the last line end from others.
    Any,
}

/// An expression in the syntax of a crate.
pub(super) struct Emitted {
    pub(super) text: String,
    /// Something was dropped: it finds candidates only.
    pub(super) relaxed: bool,
}

/// For `regex`.
pub(super) fn linear(node: &Node, text: Text) -> Emitted {
    emit(node, text, false)
}

/// For `fancy-regex`.
pub(super) fn exact(node: &Node, text: Text) -> String {
    emit(node, text, true).text
}

fn emit(node: &Node, text: Text, exact: bool) -> Emitted {
    let mut emitter = Emitter { root: node, text, exact, out: String::new(), relaxed: false };
    emitter.node(node);
    Emitted { text: emitter.out, relaxed: emitter.relaxed }
}

const WORD: &str = r"[\p{L}\p{N}_]";

struct Emitter<'n> {
    root: &'n Node,
    text: Text,
    exact: bool,
    out: String,
    relaxed: bool,
}

impl Emitter<'_> {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Empty => {}
            Node::Class(class) => self.class(class),
            Node::Concat(nodes) => nodes.iter().for_each(|node| self.node(node)),
            Node::Alternation(nodes) => {
                self.out.push_str("(?:");
                for (at, node) in nodes.iter().enumerate() {
                    if at > 0 {
                        self.out.push('|');
                    }
                    self.node(node);
                }
                self.out.push(')');
            }
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind),
            Node::Group { node, .. } => self.wrapped("(", node),
            Node::Atomic(node) if self.exact => self.wrapped("(?>", node),
            Node::Atomic(node) => {
                self.relaxed = true;
                self.wrapped("(?:", node);
            }
            Node::Look { behind, negative, node } if self.exact => {
                let open = match (behind, negative) {
                    (false, false) => "(?=",
                    (false, true) => "(?!",
                    (true, false) => "(?<=",
                    (true, true) => "(?<!",
                };
                self.wrapped(open, node);
            }
            Node::Look { .. } => self.relaxed = true,
            Node::BackReference { index, ignore_case } if self.exact => {
                let flag = if *ignore_case { "i" } else { "" };
                self.out.push_str(&format!(r"(?{flag}:\{index})"));
            }
            // What the group matched, its expression matches again.
            Node::BackReference { index, .. } => {
                self.relaxed = true;
                match find_group(self.root, *index) {
                    Some(group) => self.wrapped("(?:", group),
                    None => self.out.push_str("(?s:.*)"),
                }
            }
            Node::Conditional { index, yes, no } => {
                if self.exact {
                    self.out.push_str(&format!("(?({index})"));
                } else {
                    self.relaxed = true;
                    self.out.push_str("(?:");
                }
                self.node(yes);
                self.out.push('|');
                self.node(no);
                self.out.push(')');
            }
            Node::Assertion(assertion) => self.assertion(*assertion),
        }
    }

    fn wrapped(&mut self, open: &str, node: &Node) {
        self.out.push_str(open);
        self.node(node);
        self.out.push(')');
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, kind: Repetition) {
        let possessive = kind == Repetition::Possessive;
        if possessive {
            self.relaxed |= !self.exact;
            self.out.push_str(if self.exact { "(?>" } else { "(?:" });
        }
        match node {
            Node::Class(_) | Node::Group { .. } => self.node(node),
            _ => self.wrapped("(?:", node),
        }
        match (min, max) {
            (0, None) => self.out.push('*'),
            (1, None) => self.out.push('+'),
            (0, Some(1)) => self.out.push('?'),
            (min, None) => self.out.push_str(&format!("{{{min},}}")),
            (min, Some(max)) => self.out.push_str(&format!("{{{min},{max}}}")),
        }
        match kind {
            Repetition::Greedy => {}
            Repetition::Lazy => self.out.push('?'),
            Repetition::Possessive => self.out.push(')'),
        }
    }

    fn assertion(&mut self, assertion: Assertion) {
        let ascii = self.text == Text::Ascii;
        match assertion {
            Assertion::Start => self.out.push_str(r"\A"),
            Assertion::LineStart => self.out.push_str("(?m:^)"),
            Assertion::LineEnd => self.out.push_str("(?m:$)"),
            Assertion::AbsoluteEnd => self.out.push_str(r"\z"),
            // The only line end is the last character: before and behind it are the two places that Python means.
            Assertion::End if self.text != Text::Any => self.out.push_str("(?m:$)"),
            Assertion::End if self.exact => self.out.push_str(r"(?=\n?\z)"),
            Assertion::End => {
                self.relaxed = true;
                self.out.push_str("(?m:$)");
            }
            Assertion::NotInsideWord if ascii && !self.exact => {
                self.out.push_str(r"(?:(?-u:\b{start-half})|(?-u:\b{end-half}))");
            }
            Assertion::NotInsideWord if self.exact => {
                self.out.push_str(&format!("(?:(?<!{WORD})|(?!{WORD}))"));
            }
            Assertion::WordBoundary if ascii && !self.exact => self.out.push_str(r"(?-u:\b)"),
            Assertion::WordBoundary if ascii => self.out.push_str(r"\b"),
            Assertion::NotWordBoundary if ascii => self.out.push_str(r"\B"),
            _ if !self.exact => self.relaxed = true,
            Assertion::WordBoundary => {
                self.out.push_str(&format!("(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))"));
            }
            Assertion::NotWordBoundary | Assertion::NotInsideWord => {
                self.out.push_str(&format!("(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))"));
            }
        }
    }

    fn class(&mut self, class: &Class) {
        if self.text == Text::Ascii {
            return self.ascii(ascii_set(class));
        }
        self.out.push_str(if class.ignore_case { "(?i:[" } else { "[" });
        if class.negated {
            self.out.push('^');
        }
        for item in &class.items {
            match *item {
                Item::Range(low, high) => {
                    self.out.push_str(&format!(r"\x{{{:x}}}-\x{{{:x}}}", low as u32, high as u32));
                }
                Item::Named { kind, negated } => {
                    self.out.push_str(match (kind, negated) {
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
        self.out.push_str(if class.ignore_case { "])" } else { "]" });
    }

    /// A set of ASCII characters, a bit each.
    fn ascii(&mut self, set: u128) {
        let alone = set.count_ones() == 1;
        let c = char::from(set.trailing_zeros() as u8);
        if alone && (c.is_ascii_alphanumeric() || " /:;,'\"=@%_<>".contains(c)) {
            self.out.push(c);
            return;
        }
        if set == 0 {
            // Matches nothing.
            self.out.push_str(r"[^\x{0}-\x{10ffff}]");
            return;
        }
        self.out.push('[');
        let mut low = 0_u8;
        while low < 128 {
            if set & 1 << low == 0 {
                low += 1;
                continue;
            }
            let mut high = low;
            while high < 127 && set & 1 << (high + 1) != 0 {
                high += 1;
            }
            self.out.push_str(&format!(r"\x{low:02x}"));
            if high > low {
                self.out.push_str(&format!(r"-\x{high:02x}"));
            }
            low = high + 1;
        }
        self.out.push(']');
    }
}

/// The group with this number.
fn find_group(node: &Node, wanted: usize) -> Option<&Node> {
    let find = |node| find_group(node, wanted);
    match node {
        Node::Group { index, node } if *index == wanted => Some(node),
        Node::Concat(nodes) | Node::Alternation(nodes) => nodes.iter().find_map(find),
        Node::Group { node, .. }
        | Node::Repeat { node, .. }
        | Node::Atomic(node)
        | Node::Look { node, .. } => find(node),
        Node::Conditional { yes, no, .. } => find(yes).or_else(|| find(no)),
        Node::Empty | Node::Class(_) | Node::BackReference { .. } | Node::Assertion(_) => None,
    }
}

/// The ASCII characters of a class.
fn ascii_set(class: &Class) -> u128 {
    let matching = |matches: &dyn Fn(char) -> bool| {
        (0..128_u8).filter(|c| matches(char::from(*c))).fold(0_u128, |set, c| set | 1 << c)
    };
    let mut set = 0;
    for item in &class.items {
        set |= match *item {
            Item::Range(low, high) => matching(&|c| {
                let folded = class.ignore_case
                    && [c.to_ascii_lowercase(), c.to_ascii_uppercase()]
                        .iter()
                        .any(|c| (low..=high).contains(c));
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
