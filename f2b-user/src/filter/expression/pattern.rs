//! One expression, compiled and searched for with Python's verdict; and many at once, for candidates.

use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail};
use compact_str::CompactString;
use regex_automata::{Input, MatchKind, PatternSet, meta, util::syntax::Config as Syntax};

use super::{
    candidate::{candidate, candidate_within, find_group},
    conditional::{decided, ways_of},
    machine::{self, ABSENT, OverBudget, Span, Spans},
    program::{self, Program},
    syntax::{self, Assertion, Expression, Node},
    tags::{self, HostNames},
};

/// Memory that one automaton may take.
const SIZE_LIMIT: usize = 64 << 20;

/// A group's name, or what it caught: short as a rule.
pub(in crate::filter) type Text = CompactString;

/// A compiled expression.
#[derive(Debug)]
pub(in crate::filter) struct Pattern {
    node: Node,
    names: Arc<Names>,
    program: Program,
}

/// The named groups and their numbers, in the order of their numbers.
#[derive(Debug)]
struct Names {
    groups: Vec<(Text, usize)>,
    /// Some are parts of others: `<F-ALT_…>`, `<F-TUPLE_…>`.
    has_parts: bool,
}

/// Where an expression matched, and its groups.
#[derive(Clone, Debug)]
pub(in crate::filter) struct Captured<'t> {
    text: &'t str,
    names: Arc<Names>,
    /// By number; 0 is the whole match.
    spans: Spans,
}

impl<'t> Captured<'t> {
    pub(in crate::filter) fn span(&self, index: usize) -> Span {
        let (start, end) = *self.spans.get(index).filter(|span| **span != ABSENT)?;
        Some((start as usize, end as usize))
    }

    pub(in crate::filter) fn get(&self, index: usize) -> Option<&'t str> {
        let (start, end) = self.span(index)?;
        self.text.get(start..end)
    }

    pub(in crate::filter) fn name(&self, name: &str) -> Option<&'t str> {
        let (start, end) = self.name_span(name)?;
        self.text.get(start..end)
    }

    pub(in crate::filter) fn name_span(&self, name: &str) -> Option<(usize, usize)> {
        let (_, index) = self.names.groups.iter().find(|(known, _)| known == name)?;
        self.span(*index)
    }

    /// The named groups, in the order of their numbers.
    pub(in crate::filter) fn named(&self) -> impl Iterator<Item = (&Text, Option<&'t str>)> {
        self.names.groups.iter().map(|(name, index)| (name, self.get(*index)))
    }

    /// How many named groups there are.
    pub(in crate::filter) fn named_count(&self) -> usize {
        self.names.groups.len()
    }

    /// Whether some groups are parts of others.
    pub(in crate::filter) fn has_parts(&self) -> bool {
        self.names.has_parts
    }
}

impl Pattern {
    /// Compiles an expression with fail2ban's tags. `multiline` is Python's flag.
    pub(in crate::filter) fn new(expression: &str, multiline: bool, names: HostNames) -> Result<Self> {
        let python = tags::expand(expression, names);
        if python.trim_start().is_empty() {
            bail!("the expression is empty");
        }
        Self::compile(syntax::parse(&python, multiline)?)
    }

    /// Compiles an expression as Python reads it that must not begin, or end, inside of a word.
    pub(in crate::filter) fn bounded(python: &str, begin: bool, end: bool) -> Result<Self> {
        let mut expression = syntax::parse(python, false)?;
        let bound = |wanted: bool| {
            if wanted { Node::Assertion(Assertion::NotInsideWord) } else { Node::Empty }
        };
        expression.node = Node::Concat(vec![bound(begin), expression.node, bound(end)]);
        Self::compile(expression)
    }

    fn compile(expression: Expression) -> Result<Self> {
        let node = decided(&expression.node);
        let program = Program::new(&node, expression.groups)?;
        let is_part = |(name, _): &(String, usize)| name.starts_with("alt_") || name.starts_with("tuple_");
        let has_parts = expression.names.iter().any(is_part);
        let groups = expression.names.into_iter().map(|(name, index)| (name.into(), index)).collect();
        Ok(Self { node, names: Arc::new(Names { groups, has_parts }), program })
    }

    pub(in crate::filter) fn has_group(&self, name: &str) -> bool {
        self.group(name).is_some()
    }

    fn group(&self, name: &str) -> Option<usize> {
        self.names.groups.iter().find(|(known, _)| known == name).map(|(_, index)| *index)
    }

    pub(in crate::filter) fn search<'t>(&self, text: &'t str) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_from(text, 0)
    }

    /// The first match that starts at `from` or later.
    pub(in crate::filter) fn search_from<'t>(
        &self,
        text: &'t str,
        from: usize,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_ways(text, from, 0)
    }

    /// As told by a [`Candidate`].
    pub(in crate::filter) fn search_as<'t>(
        &self,
        text: &'t str,
        candidate: Candidate,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_ways(text, 0, candidate.first_way)
    }

    fn search_ways<'t>(
        &self,
        text: &'t str,
        from: usize,
        first_way: u32,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        let spans = machine::search(&self.program, text, from, first_way)?;
        Ok(spans.map(|spans| Captured { text, names: self.names.clone(), spans }))
    }
}

/// An expression that may match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) struct Candidate {
    /// Its number in the list.
    pub(in crate::filter) index: usize,
    /// The ways of matching before this one are known to fail.
    first_way: u32,
}

impl Candidate {
    /// Of which nothing more is known.
    pub(in crate::filter) fn plain(index: usize) -> Self {
        Self { index, first_way: 0 }
    }
}

/// Many expressions in one automaton.
#[derive(Debug)]
pub(in crate::filter) struct Set {
    /// Tells the first that may match, if all can only match at the text's begin.
    first: Option<meta::Regex>,
    /// Tells all that may match; made when it is asked. `None` if they do not fit into one.
    all: OnceLock<Option<meta::Regex>>,
    /// What they are made of: every way of every expression, in order.
    texts: Vec<String>,
    ways: Vec<Candidate>,
    /// How many expressions there are.
    len: usize,
}

impl Set {
    pub(in crate::filter) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>) -> Self {
        let nodes: Vec<_> = patterns.into_iter().map(|pattern| &pattern.node).collect();
        let is_anchored = nodes.iter().all(|node| program::is_anchored(node));
        let ways = nodes.iter().enumerate().flat_map(|(index, node)| numbered_ways(index, node));
        let (ways, texts) = ways.map(|(way, node)| (way, candidate(&node))).unzip();
        Self::of(texts, ways, nodes.len(), is_anchored)
    }

    /// Of expressions that are shown what the group `content` of `outer` matched, for whole lines. `None` if whole
    /// lines cannot tell.
    pub(in crate::filter) fn within(outer: &Pattern, content: &str, patterns: &[Pattern]) -> Option<Self> {
        let content = outer.group(content)?;
        if program::may_be_empty(find_group(&outer.node, content)?) {
            return None;
        }
        let ways =
            patterns.iter().enumerate().flat_map(|(index, pattern)| numbered_ways(index, &pattern.node));
        let texts = ways.map(|(way, node)| Some((way, candidate_within(&outer.node, content, &node)?)));
        let (ways, texts) = texts.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some(Self::of(texts, ways, patterns.len(), program::is_anchored(&outer.node)))
    }

    fn of(texts: Vec<String>, ways: Vec<Candidate>, len: usize, is_anchored: bool) -> Self {
        let first = if is_anchored { automaton(&texts, MatchKind::LeftmostFirst) } else { None };
        Self { first, all: OnceLock::new(), texts, ways, len }
    }

    /// The first of the list that may match `text`, or one that is no later than the first.
    pub(in crate::filter) fn first(&self, text: &str) -> Option<Candidate> {
        // To find one takes a fraction of the time that it takes to find all, and it is nearly always the one.
        if let Some(first) = &self.first {
            return Some(self.ways[first.search_half(&Input::new(text))?.pattern().as_usize()]);
        }
        let may_match = self.automaton().is_none_or(|automaton| automaton.is_match(text));
        may_match.then_some(Candidate::plain(0))
    }

    /// All that may match `text`, in order.
    pub(in crate::filter) fn all(&self, text: &str) -> Vec<Candidate> {
        let Some(automaton) = self.automaton() else { return (0..self.len).map(Candidate::plain).collect() };
        let mut found = PatternSet::new(self.ways.len());
        automaton.which_overlapping_matches(&Input::new(text), &mut found);
        let mut candidates: Vec<_> = found.iter().map(|way| self.ways[way.as_usize()]).collect();
        candidates.dedup_by_key(|candidate| candidate.index);
        candidates
    }

    fn automaton(&self) -> Option<&meta::Regex> {
        self.all.get_or_init(|| automaton(&self.texts, MatchKind::All)).as_ref()
    }
}

/// The ways of an expression, numbered.
fn numbered_ways(index: usize, node: &Node) -> impl Iterator<Item = (Candidate, Node)> + use<> {
    (0..).zip(ways_of(node)).map(move |(first_way, node)| (Candidate { index, first_way }, node))
}

/// `None` if it would be too large.
fn automaton(texts: &[String], kind: MatchKind) -> Option<meta::Regex> {
    let config = meta::Regex::config().utf8_empty(false).match_kind(kind).nfa_size_limit(Some(SIZE_LIMIT));
    let syntax = Syntax::new().unicode(false).utf8(false);
    meta::Regex::builder().syntax(syntax).configure(config).build_many(texts).ok()
}

/// The expressions that are worth running, one after the other.
pub(in crate::filter) struct Candidates<'s> {
    set: &'s Set,
    state: State,
}

enum State {
    /// This one is tried first: nothing before it can match.
    First(Candidate),
    /// That one was tried; those behind it are not known yet.
    Behind(usize),
    Listed(std::vec::IntoIter<Candidate>),
}

impl<'s> Candidates<'s> {
    pub(in crate::filter) fn new(set: &'s Set, first: Candidate) -> Self {
        Self { set, state: State::First(first) }
    }

    /// The next one for `text`, which is always the same.
    pub(in crate::filter) fn next(&mut self, text: &str) -> Option<Candidate> {
        match &mut self.state {
            State::First(first) => {
                let first = *first;
                self.state = State::Behind(first.index);
                Some(first)
            }
            State::Behind(index) => {
                let mut others = self.set.all(text);
                others.retain(|candidate| candidate.index > *index);
                let mut others = others.into_iter();
                let next = others.next();
                self.state = State::Listed(others);
                next
            }
            State::Listed(left) => left.next(),
        }
    }
}
