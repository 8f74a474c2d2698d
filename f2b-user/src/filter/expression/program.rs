//! The tree → a program for the [`machine`](super::machine): straight-line steps, and choices in the order in which
//! Python tries them.

use anyhow::{Result, bail};

use super::{
    chars::CharSet,
    syntax::{Assertion, Class, Item, Node, Repetition},
};

/// Steps that one program may have: repetition counts inside repetition counts multiply.
const MAX_STEPS: usize = 50_000;
/// How many groups conditionals may ask about: each doubles the states that the machine may have to remember.
const MAX_CONDITIONS: usize = 4;

#[derive(Debug)]
pub(super) enum Step {
    /// This text.
    Text(Box<[u8]>),
    /// One character of the set.
    One(usize),
    /// From `min` to `max` characters of the set. `next` is the byte that has to follow, if it is known.
    Run {
        set: usize,
        min: u32,
        max: u32,
        kind: Repetition,
        next: Option<u8>,
    },
    /// Goes on at `first`, and if that fails at `second`.
    Split {
        first: usize,
        second: usize,
    },
    Jump(usize),
    /// Remembers the place as a group's begin or end.
    Save(usize),
    Assert(Assertion),
    /// What follows up to [`Step::Match`] must match here (or must not); then it goes on at `end`, at the same place.
    /// `behind`: what follows must match the last so many characters.
    Look {
        behind: Option<usize>,
        negative: bool,
        end: usize,
    },
    /// What follows up to [`Step::Match`] matches in one way only; then it goes on at `end`.
    Atomic {
        end: usize,
    },
    BackReference {
        group: usize,
        ignore_case: bool,
    },
    /// Goes on at `otherwise` if the group took no part.
    IfGroup {
        group: usize,
        otherwise: usize,
    },
    /// Remembers where an iteration began, in a register.
    Begin(usize),
    /// Ends a loop whose iteration took nothing.
    IfEmpty {
        register: usize,
        end: usize,
    },
    Match,
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) sets: Vec<CharSet>,
    /// Groups, counting the whole match.
    pub(super) groups: usize,
    pub(super) registers: usize,
    /// The groups that conditionals ask about.
    pub(super) conditions: Vec<usize>,
    /// What follows a place depends on nothing but the place and the conditions: no back-references.
    pub(super) is_memorable: bool,
    /// It can only match at the text's begin.
    pub(super) is_anchored: bool,
    /// The ASCII characters that a match can begin with; anything beyond ASCII always can. `None`: nothing is known.
    pub(super) first: Option<u128>,
}

impl Program {
    /// # Errors
    /// A look-behind without a fixed width, or an expression that is too large.
    pub(super) fn new(node: &Node, groups: usize) -> Result<Self> {
        let first = first(node);
        let mut compiler = Compiler {
            steps: Vec::new(),
            sets: Vec::new(),
            registers: 0,
            conditions: Vec::new(),
            is_memorable: true,
        };
        compiler.emit(Step::Save(0))?;
        compiler.node(node)?;
        compiler.emit(Step::Save(1))?;
        compiler.emit(Step::Match)?;
        compiler.foresee();
        Ok(Self {
            steps: compiler.steps,
            sets: compiler.sets,
            groups: groups + 1,
            registers: compiler.registers,
            is_memorable: compiler.is_memorable && compiler.conditions.len() <= MAX_CONDITIONS,
            conditions: compiler.conditions,
            is_anchored: is_anchored(node),
            first: (!first.may_be_empty).then_some(first.ascii),
        })
    }
}

struct Compiler {
    steps: Vec<Step>,
    sets: Vec<CharSet>,
    registers: usize,
    conditions: Vec<usize>,
    is_memorable: bool,
}

impl Compiler {
    fn emit(&mut self, step: Step) -> Result<usize> {
        if self.steps.len() >= MAX_STEPS {
            bail!("it is too large; use fewer or smaller repetition counts");
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    fn here(&self) -> usize {
        self.steps.len()
    }

    fn set(&mut self, class: &Class) -> usize {
        if let Some(known) = self.sets.iter().position(|set| set.class == *class) {
            return known;
        }
        self.sets.push(CharSet::new(class));
        self.sets.len() - 1
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        match node {
            Node::Empty => {}
            Node::Class(class) => match single(class) {
                Some(c) => self.text(c.to_string())?,
                None => {
                    let set = self.set(class);
                    self.emit(Step::One(set))?;
                }
            },
            Node::Concat(nodes) => self.concat(nodes)?,
            Node::Alternation(branches) => self.alternation(branches)?,
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind)?,
            Node::Group { index, node } => {
                self.emit(Step::Save(2 * index))?;
                self.node(node)?;
                self.emit(Step::Save(2 * index + 1))?;
            }
            Node::Atomic(node) => self.atomic(|compiler| compiler.node(node))?,
            Node::Look { behind, negative, node } => {
                let width = if *behind { Some(width(node)?) } else { None };
                let look = self.emit(Step::Match)?;
                self.node(node)?;
                self.emit(Step::Match)?;
                self.steps[look] = Step::Look { behind: width, negative: *negative, end: self.here() };
            }
            Node::BackReference { index, ignore_case } => {
                self.is_memorable = false;
                self.emit(Step::BackReference { group: *index, ignore_case: *ignore_case })?;
            }
            Node::Conditional { index, yes, no } => {
                if !self.conditions.contains(index) {
                    self.conditions.push(*index);
                }
                let condition = self.emit(Step::Match)?;
                self.node(yes)?;
                let jump = self.emit(Step::Match)?;
                self.steps[condition] = Step::IfGroup { group: *index, otherwise: self.here() };
                self.node(no)?;
                self.steps[jump] = Step::Jump(self.here());
            }
            Node::Assertion(assertion) => {
                self.emit(Step::Assert(*assertion))?;
            }
        }
        Ok(())
    }

    fn text(&mut self, text: String) -> Result<()> {
        self.emit(Step::Text(text.into_bytes().into())).map(drop)
    }

    /// Characters that stand side by side become one text.
    fn concat(&mut self, nodes: &[Node]) -> Result<()> {
        let character = |node: &Node| if let Node::Class(class) = node { single(class) } else { None };
        let mut rest = nodes;
        while let [node, after @ ..] = rest {
            let text: String = rest.iter().map_while(character).collect();
            if text.is_empty() {
                self.node(node)?;
                rest = after;
            } else {
                rest = &rest[text.chars().count()..];
                self.text(text)?;
            }
        }
        Ok(())
    }

    fn alternation(&mut self, branches: &[Node]) -> Result<()> {
        let mut jumps = Vec::new();
        for (at, branch) in branches.iter().enumerate() {
            if at + 1 == branches.len() {
                self.node(branch)?;
                break;
            }
            let split = self.emit(Step::Match)?;
            self.node(branch)?;
            jumps.push(self.emit(Step::Match)?);
            self.steps[split] = Step::Split { first: split + 1, second: self.here() };
        }
        let end = self.here();
        for jump in jumps {
            self.steps[jump] = Step::Jump(end);
        }
        Ok(())
    }

    fn atomic(&mut self, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let atomic = self.emit(Step::Match)?;
        body(self)?;
        self.emit(Step::Match)?;
        self.steps[atomic] = Step::Atomic { end: self.here() };
        Ok(())
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, kind: Repetition) -> Result<()> {
        if let Node::Class(class) = node {
            let set = self.set(class);
            return self
                .emit(Step::Run { set, min, max: max.unwrap_or(u32::MAX), kind, next: None })
                .map(drop);
        }
        if kind == Repetition::Possessive {
            return self.atomic(|compiler| compiler.repeat(node, min, max, Repetition::Greedy));
        }
        let nullable = may_be_empty(node);
        let Some(max) = max else {
            return self.repeat_for_ever(node, min, kind, nullable);
        };
        for _ in 0..min {
            self.node(node)?;
        }
        let mut splits = Vec::new();
        for _ in min..max {
            splits.push(self.emit(Step::Match)?);
            self.node(node)?;
        }
        let end = self.here();
        for split in splits {
            self.steps[split] = choice(kind, split + 1, end);
        }
        Ok(())
    }

    fn repeat_for_ever(&mut self, node: &Node, min: u32, kind: Repetition, nullable: bool) -> Result<()> {
        for _ in 1..min {
            self.node(node)?;
        }
        let split = if min == 0 { Some(self.emit(Step::Match)?) } else { None };
        let body = self.here();
        let check = if nullable {
            let register = self.registers;
            self.registers += 1;
            self.emit(Step::Begin(register))?;
            self.node(node)?;
            Some((self.emit(Step::Match)?, register))
        } else {
            self.node(node)?;
            None
        };
        match split {
            Some(split) => {
                self.emit(Step::Jump(split))?;
                self.steps[split] = choice(kind, body, self.here());
            }
            None => {
                let end = self.here() + 1;
                self.emit(choice(kind, body, end))?;
            }
        }
        if let Some((check, register)) = check {
            self.steps[check] = Step::IfEmpty { register, end: self.here() };
        }
        Ok(())
    }

    /// Tells each run which byte has to follow it.
    fn foresee(&mut self) {
        for at in 0..self.steps.len() {
            let byte = self.next_byte(at + 1);
            if let Step::Run { next, .. } = &mut self.steps[at] {
                *next = byte;
            }
        }
    }

    /// The byte that has to come next when the program goes on at `at`.
    fn next_byte(&self, mut at: usize) -> Option<u8> {
        // Each jump leads ahead or into a loop; few are enough to see what comes.
        for _ in 0..8 {
            match self.steps.get(at)? {
                Step::Text(text) => return text.first().copied(),
                Step::Save(_) | Step::Begin(_) => at += 1,
                Step::Jump(to) => at = *to,
                _ => return None,
            }
        }
        None
    }
}

/// A choice whether to take what is at `body` (once more), or to go on at `end`.
fn choice(kind: Repetition, body: usize, end: usize) -> Step {
    match kind {
        Repetition::Lazy => Step::Split { first: end, second: body },
        Repetition::Greedy | Repetition::Possessive => Step::Split { first: body, second: end },
    }
}

/// The only character of a class.
fn single(class: &Class) -> Option<char> {
    match class.items[..] {
        [Item::Range(low, high)] if low == high && !class.negated => {
            let has_cases = class.ignore_case && (low.is_alphabetic() || !low.is_ascii());
            (!has_cases).then_some(low)
        }
        _ => None,
    }
}

/// How many characters a look-behind looks at.
fn width(node: &Node) -> Result<usize> {
    const NOT_FIXED: &str = "look-behind requires fixed-width pattern";
    let same = |mut widths: Vec<usize>| {
        widths.dedup();
        match widths[..] {
            [width] => Ok(width),
            _ => bail!(NOT_FIXED),
        }
    };
    match node {
        Node::Empty | Node::Look { .. } | Node::Assertion(_) => Ok(0),
        Node::Class(_) => Ok(1),
        Node::Concat(nodes) => nodes.iter().map(width).sum(),
        Node::Alternation(nodes) => same(nodes.iter().map(width).collect::<Result<_>>()?),
        Node::Repeat { node, min, max, .. } if *max == Some(*min) => Ok(width(node)? * *min as usize),
        Node::Group { node, .. } | Node::Atomic(node) => width(node),
        Node::Conditional { yes, no, .. } => same(vec![width(yes)?, width(no)?]),
        Node::Repeat { .. } | Node::BackReference { .. } => bail!(NOT_FIXED),
    }
}

/// Whether a match can only begin where the text does.
pub(super) fn is_anchored(node: &Node) -> bool {
    match node {
        Node::Assertion(Assertion::Start) => true,
        Node::Concat(nodes) => {
            let first = nodes.iter().find(|node| !matches!(node, Node::Empty | Node::Look { .. }));
            first.is_some_and(is_anchored)
        }
        Node::Alternation(nodes) => nodes.iter().all(is_anchored),
        Node::Group { node, .. } | Node::Atomic(node) => is_anchored(node),
        Node::Repeat { node, min, .. } => *min > 0 && is_anchored(node),
        _ => false,
    }
}

/// Whether a match can be empty.
pub(super) fn may_be_empty(node: &Node) -> bool {
    first(node).may_be_empty
}

/// What a node can begin with.
struct First {
    ascii: u128,
    may_be_empty: bool,
}

fn first(node: &Node) -> First {
    let nothing = First { ascii: 0, may_be_empty: true };
    let either = |a: First, b: First| First {
        ascii: a.ascii | b.ascii,
        may_be_empty: a.may_be_empty || b.may_be_empty,
    };
    match node {
        Node::Empty | Node::Look { .. } | Node::Assertion(_) => nothing,
        Node::Class(class) => First { ascii: super::chars::ascii(class), may_be_empty: false },
        Node::Concat(nodes) => {
            let mut all = nothing;
            for node in nodes {
                let next = first(node);
                all.ascii |= next.ascii;
                if !next.may_be_empty {
                    return First { may_be_empty: false, ..all };
                }
            }
            all
        }
        Node::Alternation(nodes) => nodes.iter().map(first).reduce(either).unwrap_or(nothing),
        Node::Repeat { node, min, .. } => {
            let inner = first(node);
            First { may_be_empty: *min == 0 || inner.may_be_empty, ..inner }
        }
        Node::Group { node, .. } | Node::Atomic(node) => first(node),
        Node::BackReference { .. } => First { ascii: u128::MAX, may_be_empty: true },
        Node::Conditional { yes, no, .. } => either(first(yes), first(no)),
    }
}
