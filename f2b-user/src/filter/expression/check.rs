//! For fuzzing: what must hold between an expression and the automata that find candidates for it.

use super::{
    pattern::{Captured, Pattern, Set},
    tags::HostNames,
};

/// Panics if an automaton passes over a text in which the expression itself matches, or if a match is no part of the
/// text.
pub(crate) fn check(expressions: &[String], text: &str) {
    for multiline in [false, true] {
        let compiled = expressions.iter().map(|text| Pattern::new(text, multiline, HostNames::Match));
        let patterns: Vec<_> = compiled.filter_map(Result::ok).collect();
        all_are_candidates(&patterns, text, &Set::new(&patterns).candidates(text));
        for outer in &patterns {
            let Some(candidates) = Set::within(outer, "content", &patterns) else { continue };
            let Ok(Some(found)) = outer.search(text) else { continue };
            let Some(content) = found.name("content").filter(|content| !content.is_empty()) else { continue };
            all_are_candidates(&patterns, &format!("{content}\n"), &candidates.candidates(text));
        }
    }
}

fn all_are_candidates(patterns: &[Pattern], text: &str, candidates: &[usize]) {
    for (index, pattern) in patterns.iter().enumerate() {
        let Ok(Some(found)) = pattern.search(text) else { continue };
        assert!(
            candidates.contains(&index),
            "the automaton misses {text:?}, where this matches: {pattern:?}"
        );
        assert!(is_within(&found, text), "{found:?}");
    }
}

fn is_within(found: &Captured<'_>, text: &str) -> bool {
    (0..100).filter_map(|index| found.span(index)).all(|(start, end)| text.get(start..end).is_some())
}
