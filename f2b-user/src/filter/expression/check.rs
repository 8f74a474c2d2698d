//! For fuzzing: what must hold between expressions and the automata that find candidates for them.

use std::iter;

use super::{
    heads::Heads,
    machine::{OverBudget, Span},
    pattern::{Captured, Pattern},
    set::{Candidate, Candidates, Guess, Set},
    tags::HostNames,
};
use crate::filter::name::Name;

/// More groups are not compared.
const GROUPS: usize = 64;

/// Panics if the candidates lead to another match in `text` than trying every expression does, or if a match is no
/// part of the text.
pub(crate) fn check(expressions: &[String], text: &str) {
    for multiline in [false, true] {
        let compiled = expressions.iter().map(|text| Pattern::new(text, multiline, HostNames::Match));
        let patterns: Vec<_> = compiled.filter_map(Result::ok).collect();
        if patterns.is_empty() {
            return;
        }
        patterns.iter().for_each(|pattern| same_with_hindsight(pattern, text));
        patterns.iter().for_each(|pattern| same_with_heads(pattern, text));
        let set = Set::new(&patterns);
        same_match(&patterns, text, &set, set.guess(text));
        for outer in &patterns {
            let Some(within) = Set::within(outer, Name::CONTENT, &patterns) else { continue };
            let Ok(Some(found)) = outer.search(text) else { continue };
            let Some(content) = found.name(Name::CONTENT).filter(|content| !content.is_empty()) else {
                continue;
            };
            same_match(&patterns, &format!("{content}\n"), &set, within.guess(text));
        }
    }
}

/// Panics if it makes a difference from when on a search looks at the text from its end.
fn same_with_hindsight(pattern: &Pattern, text: &str) {
    let search = |steps| pattern.search_with_hindsight(text, steps);
    // Each of them may be too expensive by itself.
    if let (Ok(always), Ok(never)) = (search(0), search(u32::MAX)) {
        let spans = |found: Captured<'_>| (0..GROUPS).map(|group| found.span(group)).collect::<Vec<_>>();
        assert_eq!(always.map(spans), never.map(spans), "in {text:?} of {pattern:?}");
    }
}

/// Panics if it makes a difference which lines came before.
fn same_with_heads(pattern: &Pattern, text: &str) {
    let mut heads = Heads::default();
    for line in text.lines() {
        let digits = line.replace('1', "7").replace('2', "0");
        let other = line.chars().rev().collect::<String>();
        for line in [line, &digits, &format!("{line} {other}"), &digits[..line.floor_char_boundary(20)]] {
            same_search(pattern, &mut heads, &format!("{line}\n"));
        }
    }
}

/// Panics if what is known of other texts leads to another match.
pub(super) fn same_search(pattern: &Pattern, heads: &mut Heads, text: &str) {
    // It knows what the search would find out, be it too expensive.
    if let (Ok(with), Ok(without)) = (pattern.search_with(heads, text), pattern.search(text)) {
        let spans = |found: Captured<'_>| (0..GROUPS).map(|group| found.span(group)).collect::<Vec<_>>();
        assert_eq!(with.map(spans), without.map(spans), "in {text:?} of {pattern:?}");
    }
}

fn same_match(patterns: &[Pattern], text: &str, set: &Set, guess: Option<Guess>) {
    let mut candidates = guess.map(|guess| Candidates::new(set, guess));
    let led = first_match(patterns, text, iter::from_fn(|| candidates.as_mut()?.next(text)));
    let tried = first_match(patterns, text, (0..patterns.len()).map(Candidate::plain));
    // Either may be too expensive by itself.
    if let (Ok(led), Ok(tried)) = (led, tried) {
        assert_eq!(led, tried, "in {text:?} of {patterns:?}");
        let spans = tried.into_iter().flat_map(|(_, spans)| spans).flatten();
        spans.for_each(|(start, end)| assert!(text.get(start..end).is_some(), "{start}..{end} of {text:?}"));
    }
}

/// Which expression matches, and where.
type Found = Option<(usize, Vec<Span>)>;

fn first_match(
    patterns: &[Pattern],
    text: &str,
    candidates: impl Iterator<Item = Candidate>,
) -> Result<Found, OverBudget> {
    for candidate in candidates {
        if let Some(found) = patterns[candidate.index].search_as(text, candidate)? {
            return Ok(Some((candidate.index, (0..GROUPS).map(|group| found.span(group)).collect())));
        }
    }
    Ok(None)
}
