//! One expression, compiled and searched for with Python's verdict; and many at once, for candidates.

use std::sync::Arc;

use anyhow::{Result, bail};
use regex::bytes::{RegexSet, RegexSetBuilder};

use super::{
    candidate::{candidate, candidate_within, find_group},
    machine::{self, OverBudget, Span},
    program::{self, Program},
    syntax::{self, Assertion, Expression, Node},
    tags::{self, HostNames},
};

/// Memory that one automaton may take.
const SIZE_LIMIT: usize = 64 << 20;

/// A compiled expression.
#[derive(Debug)]
pub(in crate::filter) struct Pattern {
    node: Node,
    names: Arc<[(String, usize)]>,
    program: Program,
}

/// Where an expression matched, and its groups.
#[derive(Clone, Debug)]
pub(in crate::filter) struct Captured<'t> {
    text: &'t str,
    names: Arc<[(String, usize)]>,
    /// By number; 0 is the whole match.
    spans: Vec<Span>,
}

impl<'t> Captured<'t> {
    pub(in crate::filter) fn span(&self, index: usize) -> Span {
        self.spans.get(index).copied().flatten()
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
        let (_, index) = self.names.iter().find(|(known, _)| known == name)?;
        self.span(*index)
    }

    /// The named groups, in the order of their numbers.
    pub(in crate::filter) fn named(&self) -> impl Iterator<Item = (&str, Option<&'t str>)> {
        self.names.iter().map(|(name, index)| (name.as_str(), self.get(*index)))
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
        let program = Program::new(&expression.node, expression.groups)?;
        Ok(Self { node: expression.node, names: expression.names.into(), program })
    }

    pub(in crate::filter) fn has_group(&self, name: &str) -> bool {
        self.group(name).is_some()
    }

    fn group(&self, name: &str) -> Option<usize> {
        self.names.iter().find(|(known, _)| known == name).map(|(_, index)| *index)
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
        let spans = machine::search(&self.program, text, from)?;
        Ok(spans.map(|spans| Captured { text, names: self.names.clone(), spans }))
    }
}

/// Many expressions in one automaton.
#[derive(Debug)]
pub(in crate::filter) struct Set {
    /// `None` if they do not fit into one.
    automaton: Option<RegexSet>,
    len: usize,
}

impl Set {
    pub(in crate::filter) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>) -> Self {
        Self::of(patterns.into_iter().map(|pattern| candidate(&pattern.node)).collect())
    }

    /// Of expressions that are shown what the group `content` of `outer` matched, for whole lines. `None` if whole
    /// lines cannot tell.
    pub(in crate::filter) fn within(outer: &Pattern, content: &str, patterns: &[Pattern]) -> Option<Self> {
        let content = outer.group(content)?;
        if program::may_be_empty(find_group(&outer.node, content)?) {
            return None;
        }
        let candidates = patterns.iter().map(|pattern| candidate_within(&outer.node, content, &pattern.node));
        candidates.collect::<Option<Vec<_>>>().map(Self::of)
    }

    fn of(candidates: Vec<String>) -> Self {
        let automaton = RegexSetBuilder::new(&candidates).unicode(false).size_limit(SIZE_LIMIT).build().ok();
        Self { automaton, len: candidates.len() }
    }

    /// The numbers of the expressions that may match `text`, in order.
    pub(in crate::filter) fn candidates(&self, text: &str) -> Vec<usize> {
        match &self.automaton {
            Some(automaton) => automaton.matches(text.as_bytes()).into_iter().collect(),
            None => (0..self.len).collect(),
        }
    }
}
