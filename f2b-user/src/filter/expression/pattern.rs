//! One expression, compiled and searched for with Python's verdict.

use anyhow::{Result, bail};
use compact_str::CompactString;

use super::{
    conditional::decided,
    heads::Heads,
    machine::{self, Matched, NOWHERE, OverBudget, Span},
    program::Program,
    set::Candidate,
    syntax::{self, Assertion, Expression, Node},
    tags::{self, HostNames, option_name},
};
use crate::filter::name::Name;

/// A group's name, or what it caught: short as a rule.
pub(in crate::filter) type Text = CompactString;

/// A compiled expression.
#[derive(Debug)]
pub(in crate::filter) struct Pattern {
    pub(super) node: Node,
    names: Names,
    program: Program,
}

/// The named groups and their numbers, in the order of their numbers.
#[derive(Debug)]
struct Names {
    groups: Vec<(Name, usize)>,
    parts: Parts,
}

/// Groups that are parts of others, with what they are parts of, sorted by their names.
#[derive(Debug, Default)]
pub(in crate::filter) struct Parts {
    /// `<F-ALT_…>`
    pub(in crate::filter) alternatives: Vec<(Name, Name)>,
    /// `<F-TUPLE_…>`
    pub(in crate::filter) tuples: Vec<(Name, Name)>,
}

impl Parts {
    fn of(groups: &[(Name, usize)]) -> Self {
        let parts = |prefix: &str| {
            let whole = |name: Name| Some((name, Name::new(&whole(name.text().strip_prefix(prefix)?))));
            let mut parts: Vec<_> = groups.iter().filter_map(|(name, _)| whole(*name)).collect();
            parts.sort_unstable_by_key(|(part, _)| part.text());
            parts
        };
        Self { alternatives: parts("alt_"), tuples: parts("tuple_") }
    }
}

/// `user_1` → `user`
fn whole(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = stem.len() < name.len() && stem.ends_with('_');
    option_name(if numbered { &stem[..stem.len() - 1] } else { name })
}

/// Where an expression matched, and its groups.
#[derive(Clone, Debug)]
pub(in crate::filter) struct Captured<'t> {
    text: &'t str,
    names: &'t Names,
    /// 0 is the whole match.
    matched: Matched,
}

impl<'t> Captured<'t> {
    pub(in crate::filter) fn span(&self, index: usize) -> Span {
        let span = self.matched.spans.get(2 * index..2 * index + 2)?;
        (!span.contains(&NOWHERE)).then(|| (span[0] as usize, span[1] as usize))
    }

    /// The text behind this place has nothing to do with it. Only a [`bounded`](Pattern::bounded) expression tells.
    pub(in crate::filter) fn reach(&self) -> usize {
        self.matched.reach
    }

    /// Whether no other way was tried to match what stands here: what matched it has matched it at once.
    pub(in crate::filter) fn is_plain(&self, (start, end): (usize, usize)) -> bool {
        start < end && end <= 64 && self.matched.tried & (u64::MAX << start & u64::MAX >> (64 - end)) == 0
    }

    pub(in crate::filter) fn get(&self, index: usize) -> Option<&'t str> {
        let (start, end) = self.span(index)?;
        self.text.get(start..end)
    }

    pub(in crate::filter) fn name(&self, name: Name) -> Option<&'t str> {
        let (start, end) = self.name_span(name)?;
        self.text.get(start..end)
    }

    pub(in crate::filter) fn name_span(&self, name: Name) -> Option<(usize, usize)> {
        let (_, index) = self.names.groups.iter().find(|(known, _)| *known == name)?;
        self.span(*index)
    }

    /// The named groups, in the order of their numbers.
    pub(in crate::filter) fn named(&self) -> impl Iterator<Item = (Name, Option<&'t str>)> {
        self.names.groups.iter().map(|(name, index)| (*name, self.get(*index)))
    }

    /// Which groups are parts of others.
    pub(in crate::filter) fn parts(&self) -> &Parts {
        &self.names.parts
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

    /// Compiles an expression as Python reads it that must not begin, or end, inside of a word. Its matches tell their
    /// [`reach`](Captured::reach).
    pub(in crate::filter) fn bounded(python: &str, begin: bool, end: bool) -> Result<Self> {
        let mut expression = syntax::parse(python, false)?;
        let bound = |wanted: bool| {
            if wanted { Node::Assertion(Assertion::NotInsideWord) } else { Node::Empty }
        };
        expression.node = Node::Concat(vec![bound(begin), expression.node, bound(end)]);
        let mut pattern = Self::compile(expression)?;
        pattern.program.is_watched = true;
        Ok(pattern)
    }

    fn compile(expression: Expression) -> Result<Self> {
        let node = decided(&expression.node);
        let program = Program::new(&node, expression.groups)?;
        let named = |(name, index): &(String, usize)| (Name::new(name), *index);
        let groups: Vec<_> = expression.names.iter().map(named).collect();
        let parts = Parts::of(&groups);
        Ok(Self { node, names: Names { groups, parts }, program })
    }

    pub(in crate::filter) fn has_group(&self, name: Name) -> bool {
        self.group(name).is_some()
    }

    /// Whether some of its groups have a name in common with those of `other`.
    pub(in crate::filter) fn shares_names(&self, other: &Self) -> bool {
        let parts = [&self.names.parts.alternatives, &self.names.parts.tuples];
        let wholes = parts.into_iter().flatten().map(|(_, whole)| *whole);
        self.names.groups.iter().map(|(name, _)| *name).chain(wholes).any(|name| other.has_group(name))
    }

    pub(super) fn group(&self, name: Name) -> Option<usize> {
        self.names.groups.iter().find(|(known, _)| *known == name).map(|(_, index)| *index)
    }

    pub(in crate::filter) fn search<'t>(&'t self, text: &'t str) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_from(text, 0)
    }

    /// The first match that starts at `from` or later.
    pub(in crate::filter) fn search_from<'t>(
        &'t self,
        text: &'t str,
        from: usize,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_as_told(text, from, 0, self.usual_hindsight())
    }

    /// Looks at the text from its end after so many steps.
    pub(super) fn search_with_hindsight<'t>(
        &'t self,
        text: &'t str,
        steps: u32,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_as_told(text, 0, 0, steps)
    }

    /// As told by a [`Candidate`].
    pub(in crate::filter) fn search_as<'t>(
        &'t self,
        text: &'t str,
        candidate: Candidate,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        self.search_as_told(text, 0, candidate.first_way, self.usual_hindsight())
    }

    /// The same as [`search`](Self::search). Of a text that begins like one before, `heads` knows where that leads.
    pub(in crate::filter) fn search_with<'t>(
        &'t self,
        heads: &mut Heads,
        text: &'t str,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        let Some(tail) = self.program.tail else { return self.search(text) };
        if let Some(matched) = heads.recall(tail, text.as_bytes()) {
            return Ok(Some(Captured { text, names: &self.names, matched }));
        }
        let found = self.search(text)?;
        if let Some(found) = &found {
            heads.learn(tail, text, &found.matched, machine::head(&self.program, text, tail.step));
        }
        Ok(found)
    }

    fn search_as_told<'t>(
        &'t self,
        text: &'t str,
        from: usize,
        first_way: u32,
        hindsight: u32,
    ) -> Result<Option<Captured<'t>>, OverBudget> {
        let matched = machine::search(&self.program, text, from, first_way, hindsight)?;
        Ok(matched.map(|matched| Captured { text, names: &self.names, matched }))
    }

    /// The steps after which a search looks at the text from its end. One that takes note of what it looks at does not.
    fn usual_hindsight(&self) -> u32 {
        if self.program.is_watched { u32::MAX } else { machine::STEPS_BEFORE_HINDSIGHT }
    }
}
