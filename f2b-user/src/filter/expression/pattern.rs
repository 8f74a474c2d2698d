//! One expression, compiled and searched for with Python's verdict; and many at once, for candidates.

use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail};
use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use super::{
    emit::{self, Text},
    syntax::{self, Assertion, Expression, Node},
    tags::{self, HostNames},
};

/// Steps back that the exact form may take on one line.
const BACKTRACK_LIMIT: usize = 100_000;
/// Memory that one automaton may take.
const SIZE_LIMIT: usize = 64 << 20;

/// A line that would need more steps than allowed: hostile, or the expression is bad. It has no verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) struct OverBudget;

/// A compiled expression.
#[derive(Debug)]
pub(in crate::filter) struct Pattern {
    node: Node,
    names: Arc<[(String, usize)]>,
    /// Finds candidates in ASCII text; `find_any` joins them.
    candidate: String,
    ascii: Engine,
    unicode: OnceLock<Option<Engine>>,
    any: OnceLock<Option<Engine>>,
}

#[derive(Debug)]
enum Engine {
    /// The automaton decides.
    Linear(Regex),
    /// The automaton finds candidates, the backtracking one decides.
    Confirmed { candidate: Option<Regex>, exact: Box<fancy_regex::Regex> },
}

/// Where each group matched, in bytes.
type Spans = Vec<Option<(usize, usize)>>;

/// Where an expression matched, and its groups.
#[derive(Clone, Debug)]
pub(in crate::filter) struct Captured<'t> {
    text: &'t str,
    names: Arc<[(String, usize)]>,
    /// By number; 0 is the whole match.
    spans: Spans,
}

impl<'t> Captured<'t> {
    pub(in crate::filter) fn span(&self, index: usize) -> Option<(usize, usize)> {
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
        Self::python(&python, multiline)
    }

    /// Compiles an expression as Python reads it.
    pub(in crate::filter) fn python(python: &str, multiline: bool) -> Result<Self> {
        let expression = syntax::parse(python, multiline)?;
        Self::compile(expression)
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
        let candidate = emit::linear(&expression.node, Text::Ascii).text;
        Ok(Self {
            ascii: Engine::new(&expression.node, Text::Ascii)?,
            unicode: OnceLock::new(),
            any: OnceLock::new(),
            candidate,
            node: expression.node,
            names: expression.names.into(),
        })
    }

    pub(in crate::filter) fn has_group(&self, name: &str) -> bool {
        self.names.iter().any(|(known, _)| known == name)
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
        let spans = self.engine(text).ok_or(OverBudget)?.search(text, from)?;
        Ok(spans.map(|spans| Captured { text, names: self.names.clone(), spans }))
    }

    fn engine(&self, text: &str) -> Option<&Engine> {
        let inner_line_end = text.find('\n').is_some_and(|at| at + 1 < text.len());
        let compile = |text| Engine::new(&self.node, text).ok();
        if inner_line_end {
            self.any.get_or_init(|| compile(Text::Any)).as_ref()
        } else if text.is_ascii() {
            Some(&self.ascii)
        } else {
            self.unicode.get_or_init(|| compile(Text::Unicode)).as_ref()
        }
    }
}

impl Engine {
    fn new(node: &Node, text: Text) -> Result<Self> {
        let linear = emit::linear(node, text);
        let automaton = RegexBuilder::new(&linear.text).size_limit(SIZE_LIMIT).build();
        Ok(if linear.relaxed {
            let exact = fancy_regex::RegexBuilder::new(&emit::exact(node, text))
                .backtrack_limit(BACKTRACK_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build()?;
            Self::Confirmed { candidate: automaton.ok(), exact: Box::new(exact) }
        } else {
            Self::Linear(automaton?)
        })
    }

    fn search(&self, text: &str, from: usize) -> Result<Option<Spans>, OverBudget> {
        match self {
            Self::Linear(regex) => {
                let mut locations = regex.capture_locations();
                let found = regex.captures_read_at(&mut locations, text, from);
                Ok(found.map(|_| (0..locations.len()).map(|index| locations.get(index)).collect()))
            }
            Self::Confirmed { candidate, exact } => {
                if candidate.as_ref().is_some_and(|candidate| !candidate.is_match_at(text, from)) {
                    return Ok(None);
                }
                let captures = match exact.captures_from_pos(text, from) {
                    Ok(captures) => captures,
                    Err(_over_budget) => return Err(OverBudget),
                };
                Ok(captures.map(|captures| {
                    let span = |index| captures.get(index).map(|group| (group.start(), group.end()));
                    (0..captures.len()).map(span).collect()
                }))
            }
        }
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
    pub(in crate::filter) fn new(patterns: &[Pattern]) -> Self {
        let candidates = patterns.iter().map(|pattern| &pattern.candidate);
        let automaton = RegexSetBuilder::new(candidates).size_limit(SIZE_LIMIT).build().ok();
        Self { automaton, len: patterns.len() }
    }

    /// The numbers of the expressions that may match `text`, in order.
    pub(in crate::filter) fn candidates(&self, text: &str) -> Vec<usize> {
        let plain = text.is_ascii() && text.find('\n').is_none_or(|at| at + 1 == text.len());
        match &self.automaton {
            Some(automaton) if plain => automaton.matches(text).into_iter().collect(),
            _ => (0..self.len).collect(),
        }
    }
}
