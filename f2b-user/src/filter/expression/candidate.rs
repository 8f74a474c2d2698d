//! The tree → a regular expression for the `regex` crate that matches wherever the tree does, and perhaps elsewhere:
//! what a linear-time automaton cannot express (look-around, back-references, conditionals) is dropped. Many of them
//! make one automaton, which tells in one pass over a line which few expressions are worth running.
//!
//! They work on bytes, where a character beyond ASCII is a few bytes that no ASCII character has, and all such
//! characters are one: that keeps the automata small and fast.

use super::{
    chars::{ascii, may_be_wide},
    syntax::{Assertion, Class, Node, Repetition},
};

const ANYTHING: &str = r"(?s:.*)";
/// The bytes of a character beyond ASCII.
const WIDE: &str = r"[\xc2-\xf4][\x80-\xbf]{1,3}";
const NOTHING: &str = r"[^\x00-\xff]";

/// What finds candidates for `node`.
pub(super) fn candidate(node: &Node) -> String {
    let mut emitter = Emitter { root: node, inside: false, out: String::new() };
    emitter.node(node);
    emitter.out
}

/// What finds candidates for `node` in whole lines, when it is shown only what the group `content` of `outer` matched.
/// `None` if that cannot be told of the whole line.
pub(super) fn candidate_within(outer: &Node, content: usize, node: &Node) -> Option<String> {
    let Node::Concat(nodes) = outer else { return None };
    let is_content = |node: &Node| matches!(node, Node::Group { index, .. } if *index == content);
    let at = nodes.iter().position(is_content)?;
    let mut emitter = Emitter { root: outer, inside: false, out: String::new() };
    nodes[..at].iter().for_each(|node| emitter.node(node));
    let mut out = emitter.out;
    if !super::program::is_anchored(node) {
        out.push_str(ANYTHING);
    }
    let mut emitter = Emitter { root: node, inside: true, out };
    emitter.node(node);
    Some(emitter.out)
}

struct Emitter<'n> {
    root: &'n Node,
    /// The text begins and ends somewhere inside of a line, so nothing can be said of its ends.
    inside: bool,
    out: String,
}

impl Emitter<'_> {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Empty | Node::Look { .. } => {}
            Node::Class(class) => self.class(class),
            Node::Concat(nodes) => nodes.iter().for_each(|node| self.node(node)),
            Node::Alternation(nodes) => self.either(nodes),
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind),
            Node::Group { node, .. } | Node::Atomic(node) => self.grouped(node),
            // What the group matched, its expression matches again.
            Node::BackReference { index, ignore_case: false } => match find_group(self.root, *index) {
                Some(group) => self.grouped(group),
                None => self.out.push_str(ANYTHING),
            },
            Node::BackReference { .. } => self.out.push_str(ANYTHING),
            Node::Conditional { yes, no, .. } => self.either([&**yes, &**no]),
            Node::Assertion(assertion) if !self.inside => self.assertion(*assertion),
            Node::Assertion(_) => {}
        }
    }

    fn grouped(&mut self, node: &Node) {
        self.out.push_str("(?:");
        self.node(node);
        self.out.push(')');
    }

    fn either<'a>(&mut self, branches: impl IntoIterator<Item = &'a Node>) {
        self.out.push_str("(?:");
        for (at, branch) in branches.into_iter().enumerate() {
            if at > 0 {
                self.out.push('|');
            }
            self.node(branch);
        }
        self.out.push(')');
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, kind: Repetition) {
        match node {
            // Of many characters, the bytes need not be told apart.
            Node::Class(class) if max.is_none() && may_be_wide(class) => {
                self.out.push('[');
                self.members(ascii(class));
                self.out.push_str(r"\x80-\xff]");
            }
            Node::Class(_) | Node::Group { .. } => self.node(node),
            _ => self.grouped(node),
        }
        match (min, max) {
            (0, None) => self.out.push('*'),
            (1, None) => self.out.push('+'),
            (0, Some(1)) => self.out.push('?'),
            (min, None) => self.out.push_str(&format!("{{{min},}}")),
            (min, Some(max)) => self.out.push_str(&format!("{{{min},{max}}}")),
        }
        if kind == Repetition::Lazy {
            self.out.push('?');
        }
    }

    fn assertion(&mut self, assertion: Assertion) {
        self.out.push_str(match assertion {
            Assertion::Start => r"\A",
            Assertion::LineStart => "(?m:^)",
            // The first means the last line end only, or the text's end.
            Assertion::End | Assertion::LineEnd => "(?m:$)",
            Assertion::AbsoluteEnd => r"\z",
            // What a word is, bytes cannot tell.
            Assertion::WordBoundary | Assertion::NotWordBoundary | Assertion::NotInsideWord => "",
        });
    }

    fn class(&mut self, class: &Class) {
        let set = ascii(class);
        let wide = may_be_wide(class);
        let c = char::from(set.trailing_zeros() as u8);
        if !wide && set.count_ones() == 1 && (c.is_ascii_alphanumeric() || " /:;,'\"=@%_<>".contains(c)) {
            self.out.push(c);
            return;
        }
        self.out.push_str("(?:");
        if set != 0 {
            self.out.push('[');
            self.members(set);
            self.out.push(']');
        }
        if wide {
            self.out.push_str(if set == 0 { "" } else { "|" });
            self.out.push_str(WIDE);
        } else if set == 0 {
            self.out.push_str(NOTHING);
        }
        self.out.push(')');
    }

    /// The members of a set of ASCII characters, a bit each.
    fn members(&mut self, set: u128) {
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
            self.out.push_str(&format!(r"\x{low:02x}-\x{high:02x}"));
            low = high + 1;
        }
    }
}

/// The inside of the group with this number.
pub(super) fn find_group(node: &Node, wanted: usize) -> Option<&Node> {
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
