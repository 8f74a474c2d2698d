//! Many expressions at once: which of them are worth running on a text. Most texts are over with a look for a few plain
//! texts, of which every match has one; automata tell where that does not help, or where an expression takes long.

use std::sync::OnceLock;

use regex_automata::{Input, MatchKind, PatternSet, meta, util::syntax::Config as Syntax};

use super::{
    candidate::{Finder, candidate, candidate_within, find_group},
    conditional::ways_of,
    needles::Needles,
    pattern::Pattern,
    shape,
    syntax::Node,
};
use crate::filter::name::Name;

/// Memory that one automaton may take.
const SIZE_LIMIT: usize = 64 << 20;

/// How many guesses are worth a try. A line that was made to look like many is not worth more.
const MOST_GUESSES: u32 = 3;

/// An expression that may match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) struct Candidate {
    /// Its number in the list.
    pub(in crate::filter) index: usize,
    /// The ways of matching before this one are known to fail.
    pub(super) first_way: u32,
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
    /// All can only match at the text's begin.
    is_anchored: bool,
    /// What finds every way of every expression, in order.
    finders: Vec<Finder>,
    ways: Vec<Candidate>,
    /// How many expressions there are.
    len: usize,
    /// Finds texts of which every match has one. This and the next are made when they are needed. `None` if there are
    /// none, or if they do not fit into one.
    needles: OnceLock<Option<Needles>>,
    /// Tells the first that may match, if they are anchored.
    first: OnceLock<Option<meta::Regex>>,
    /// Tells all that may match.
    all: OnceLock<Option<meta::Regex>>,
}

impl Set {
    pub(in crate::filter) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>) -> Self {
        let nodes: Vec<_> = patterns.into_iter().map(|pattern| &pattern.node).collect();
        let is_anchored = nodes.iter().all(|node| shape::is_anchored(node));
        let ways = nodes.iter().enumerate().flat_map(|(index, node)| numbered_ways(index, node));
        let (ways, finders) = ways.map(|(way, node)| (way, candidate(&node))).unzip();
        Self::of(finders, ways, nodes.len(), is_anchored)
    }

    /// Of expressions that are shown what the group `content` of `outer` matched, for whole lines. `None` if whole
    /// lines cannot tell.
    pub(in crate::filter) fn within(outer: &Pattern, content: Name, patterns: &[Pattern]) -> Option<Self> {
        let content = outer.group(content)?;
        if shape::may_be_empty(find_group(&outer.node, content)?) {
            return None;
        }
        let ways =
            patterns.iter().enumerate().flat_map(|(index, pattern)| numbered_ways(index, &pattern.node));
        let finders = ways.map(|(way, node)| Some((way, candidate_within(&outer.node, content, &node)?)));
        let (ways, finders) = finders.collect::<Option<Vec<_>>>()?.into_iter().unzip();
        Some(Self::of(finders, ways, patterns.len(), shape::is_anchored(&outer.node)))
    }

    fn of(finders: Vec<Finder>, ways: Vec<Candidate>, len: usize, is_anchored: bool) -> Self {
        let [first, all] = [(); 2].map(|()| OnceLock::new());
        Self { is_anchored, finders, ways, len, needles: OnceLock::new(), first, all }
    }

    /// Whether a [`guess`](Self::guess) looks for nothing but texts inside of a line: it needs no line end then.
    pub(in crate::filter) fn guesses_by_texts(&self) -> bool {
        self.needles().is_some()
    }

    fn needles(&self) -> Option<&Needles> {
        self.needles.get_or_init(|| Needles::new(&self.finders)).as_ref()
    }

    /// What may match `text` at a first look; `None` if nothing does. Most lines are over with that.
    pub(in crate::filter) fn guess(&self, text: &str) -> Option<Guess> {
        match self.needles() {
            Some(needles) => match needles.ways(text) {
                0 => None,
                ways => Some(Guess::Ways(ways)),
            },
            None => self.first(text).map(Guess::First),
        }
    }

    /// The first of the list that may match `text`, or one that is no later than the first.
    fn first(&self, text: &str) -> Option<Candidate> {
        // To find one takes a fraction of the time that it takes to find all, and it is nearly always the one.
        let make = || self.automaton(MatchKind::LeftmostFirst);
        if self.is_anchored
            && let Some(first) = self.first.get_or_init(make)
        {
            return Some(self.ways[first.search_half(&Input::new(text))?.pattern().as_usize()]);
        }
        let may_match = self.all_automaton().is_none_or(|automaton| automaton.is_match(text));
        may_match.then_some(Candidate::plain(0))
    }

    /// All that may match `text`, in order.
    pub(in crate::filter) fn all(&self, text: &str) -> Vec<Candidate> {
        let Some(automaton) = self.all_automaton() else {
            return (0..self.len).map(Candidate::plain).collect();
        };
        let mut found = PatternSet::new(self.ways.len());
        automaton.which_overlapping_matches(&Input::new(text), &mut found);
        let mut candidates: Vec<_> = found.iter().map(|way| self.ways[way.as_usize()]).collect();
        candidates.dedup_by_key(|candidate| candidate.index);
        candidates
    }

    /// Those from this expression on.
    fn all_from(&self, index: usize, text: &str) -> Vec<Candidate> {
        let mut all = self.all(text);
        all.retain(|candidate| candidate.index >= index);
        all
    }

    fn all_automaton(&self) -> Option<&meta::Regex> {
        self.all.get_or_init(|| self.automaton(MatchKind::All)).as_ref()
    }

    /// `None` if it would be too large.
    fn automaton(&self, kind: MatchKind) -> Option<meta::Regex> {
        let config =
            meta::Regex::config().utf8_empty(false).match_kind(kind).nfa_size_limit(Some(SIZE_LIMIT));
        let texts: Vec<_> = self.finders.iter().map(|finder| &finder.text).collect();
        meta::Regex::builder().syntax(bytes()).configure(config).build_many(&texts).ok()
    }
}

/// Bytes, not characters.
fn bytes() -> Syntax {
    Syntax::new().unicode(false).utf8(false)
}

/// The ways of an expression, numbered.
fn numbered_ways(index: usize, node: &Node) -> impl Iterator<Item = (Candidate, Node)> + use<> {
    let candidate = move |first_way| Candidate { index, first_way };
    (0..).map(candidate).zip(ways_of(node))
}

/// What may match a text at a first look.
#[derive(Clone, Copy, Debug)]
pub(in crate::filter) enum Guess {
    /// These ways and no others, a bit each.
    Ways(u128),
    /// This one or one behind it.
    First(Candidate),
}

/// The expressions that are worth running, one after the other.
pub(in crate::filter) struct Candidates<'s> {
    set: &'s Set,
    state: State,
}

enum State {
    /// Nothing was tried yet.
    First(Candidate),
    /// These ways are left, after so many guesses, of which the last was of this expression.
    Guessing {
        ways: u128,
        tried: u32,
        last: usize,
    },
    /// Those from this one on are not known yet.
    From(usize),
    Listed(std::vec::IntoIter<Candidate>),
}

impl<'s> Candidates<'s> {
    pub(in crate::filter) fn new(set: &'s Set, guess: Guess) -> Self {
        let state = match guess {
            Guess::First(first) => State::First(first),
            Guess::Ways(ways) => State::Guessing { ways, tried: 0, last: usize::MAX },
        };
        Self { set, state }
    }

    /// The next one for `text`, which is always the same.
    pub(in crate::filter) fn next(&mut self, text: &str) -> Option<Candidate> {
        loop {
            match &mut self.state {
                State::First(first) => {
                    let first = *first;
                    self.state = State::From(first.index + 1);
                    return Some(first);
                }
                State::Guessing { ways: 0, .. } => return None,
                State::Guessing { tried: MOST_GUESSES, last, .. } => self.state = State::From(*last + 1),
                State::Guessing { ways, tried, last } => {
                    let way = self.set.ways[ways.trailing_zeros() as usize];
                    *ways &= *ways - 1;
                    if way.index != *last {
                        (*tried, *last) = (*tried + 1, way.index);
                        return Some(way);
                    }
                }
                State::From(index) => self.state = State::Listed(self.set.all_from(*index, text).into_iter()),
                State::Listed(left) => return left.next(),
            }
        }
    }
}
