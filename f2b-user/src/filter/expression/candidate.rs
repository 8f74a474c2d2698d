//! The tree → what finds lines that are worth a search: plain texts of which every match has one in it, and
//! a regular expression for the `regex` crate that matches wherever the tree does, and perhaps elsewhere:
//! what a linear-time automaton cannot express (look-around, back-references, conditionals) is dropped. Many of them
//! make one automaton, which tells in one pass over a line which few expressions are worth running.
//!
//! They work on bytes, where a character beyond ASCII is a few bytes that no ASCII character has, and all such
//! characters are one: that keeps the automata small and fast.

use std::fmt::Write as _;

use super::{
    chars::{ascii, may_be_wide},
    shape::single,
    syntax::{Assertion, Class, Node, Repetition},
};

const ANYTHING: &str = r"(?s:.*)";
/// The bytes of a character beyond ASCII.
const WIDE: &str = r"[\xc2-\xf4][\x80-\xbf]{1,3}";
const NOTHING: &str = r"[^\x00-\xff]";

/// What finds candidates for one way of an expression.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) text: String,
    /// Plain texts of which every match has one in it; empty if there are none.
    pub(super) needles: Vec<String>,
}

/// What finds candidates for `node`.
pub(super) fn candidate(node: &Node) -> Finder {
    Emitter { root: node, inside: false, out: String::new() }.finder(node)
}

/// What finds candidates for `node` in whole lines, when it is shown only what the group `content` of `outer` matched.
/// `None` if that cannot be told of the whole line.
pub(super) fn candidate_within(outer: &Node, content: usize, node: &Node) -> Option<Finder> {
    let Node::Concat(nodes) = outer else { return None };
    let is_content = |node: &Node| matches!(node, Node::Group { index, .. } if *index == content);
    let at = nodes.iter().position(is_content)?;
    let mut emitter = Emitter { root: outer, inside: false, out: String::new() };
    nodes[..at].iter().for_each(|node| emitter.node(node));
    let mut out = emitter.out;
    if !super::shape::is_anchored(node) {
        out.push_str(ANYTHING);
    }
    Some(Emitter { root: node, inside: true, out }.finder(node))
}

/// How many texts a needle may be.
const MOST_NEEDLES: usize = 8;

/// Plain texts of which every match of `node` has one in it, as long as can be; none if there are none.
fn needles(node: &Node) -> Vec<String> {
    let mut texts = Texts::default();
    texts.node(node);
    texts.end();
    texts.best
}

/// Plain texts that every match of `node` has in it, each by itself.
pub(super) fn plain_texts(node: &Node) -> Vec<String> {
    let mut texts = Texts::default();
    texts.node(node);
    texts.end();
    texts.all
}

/// Collects plain texts on the way through a tree.
struct Texts {
    /// What may stand here, by now: one of these.
    current: Vec<String>,
    best: Vec<String>,
    /// Those that were the only one at their place.
    all: Vec<String>,
}

impl Default for Texts {
    fn default() -> Self {
        Self { current: vec![String::new()], best: Vec::new(), all: Vec::new() }
    }
}

impl Texts {
    fn node(&mut self, node: &Node) {
        match node {
            Node::Concat(nodes) => nodes.iter().for_each(|node| self.node(node)),
            Node::Group { node, .. } | Node::Atomic(node) => self.node(node),
            Node::Empty | Node::Look { .. } | Node::Way(_) | Node::Assertion(_) => {}
            // Twice as many texts for one more character is no bargain.
            Node::Class(class) if single(class).is_none() && self.current == [""] => {}
            _ => match exact(node) {
                Some(texts) if texts.len() * self.current.len() <= MOST_NEEDLES => {
                    self.current = product(&self.current, &texts);
                }
                _ => self.other(node),
            },
        }
    }

    fn other(&mut self, node: &Node) {
        self.end();
        if let Node::Alternation(branches) = node {
            let texts = branches.iter().map(needles);
            self.better(texts.flat_map(|texts| if texts.is_empty() { vec![String::new()] } else { texts }));
        }
    }

    fn end(&mut self) {
        let texts = std::mem::replace(&mut self.current, vec![String::new()]);
        if let [text] = &texts[..]
            && !text.is_empty()
        {
            self.all.push(text.clone());
        }
        self.better(texts);
    }

    /// Takes these if they tell more.
    fn better(&mut self, texts: impl IntoIterator<Item = String>) {
        let shortest = |texts: &[String]| texts.iter().map(String::len).min().unwrap_or_default();
        let texts: Vec<_> = texts.into_iter().collect();
        if shortest(&texts) > shortest(&self.best) {
            self.best = texts;
        }
    }
}

/// The texts that `node` matches, if they are few.
fn exact(node: &Node) -> Option<Vec<String>> {
    let few = |texts: Vec<String>| (texts.len() <= MOST_NEEDLES).then_some(texts);
    match node {
        Node::Class(class) if may_be_wide(class) => single(class).map(|c| vec![c.to_string()]),
        Node::Class(class) => {
            let set = ascii(class);
            let members = (0..128_u8).filter(|c| set >> c & 1 != 0).take(MOST_NEEDLES + 1);
            few(members.map(|c| char::from(c).to_string()).collect())
        }
        Node::Concat(nodes) => nodes.iter().try_fold(vec![String::new()], |before, node| {
            let texts = exact(node)?;
            if before.len() * texts.len() > MOST_NEEDLES { None } else { Some(product(&before, &texts)) }
        }),
        Node::Alternation(nodes) => few(nodes.iter().map(exact).collect::<Option<Vec<_>>>()?.concat()),
        Node::Group { node, .. } | Node::Atomic(node) => exact(node),
        Node::Repeat { node, min: 0, max: Some(1), .. } => {
            let texts = exact(node)?;
            few(texts.into_iter().chain([String::new()]).collect())
        }
        Node::Empty | Node::Look { .. } | Node::Way(_) | Node::Assertion(_) => Some(vec![String::new()]),
        Node::Repeat { .. } | Node::BackReference { .. } | Node::Conditional { .. } => None,
    }
}

/// Each of `before` with each of `after` behind it.
fn product(before: &[String], after: &[String]) -> Vec<String> {
    before.iter().flat_map(|before| after.iter().map(move |after| format!("{before}{after}"))).collect()
}

struct Emitter<'n> {
    root: &'n Node,
    /// The text begins and ends somewhere inside of a line, so nothing can be said of its ends.
    inside: bool,
    out: String,
}

impl Emitter<'_> {
    fn finder(mut self, node: &Node) -> Finder {
        self.node(node);
        Finder { text: self.out, needles: needles(node) }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Empty | Node::Look { .. } | Node::Way(_) => {}
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
            // Writing to a string cannot fail.
            write!(self.out, r"\x{low:02x}-\x{high:02x}").unwrap_or_default();
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
        Node::Empty | Node::Class(_) | Node::BackReference { .. } | Node::Assertion(_) | Node::Way(_) => None,
    }
}
