//! For fuzzing: whether the forms of an expression agree.

use regex::RegexBuilder;

use super::{
    emit::{self, Text},
    syntax,
    tags::{self, HostNames},
};

/// Small, so that many expressions are tried in a second.
const SIZE_LIMIT: usize = 1 << 20;
const BACKTRACK_LIMIT: usize = 20_000;

/// Panics if the linear form of an expression misses what the exact form finds in `text`, or, where it decides alone,
/// finds something else.
pub(crate) fn compare(expression: &str, text: &str) {
    let python = tags::expand(expression, HostNames::Match);
    for multiline in [false, true] {
        let Ok(parsed) = syntax::parse(&python, multiline) else { return };
        let inner_line_end = text.find('\n').is_some_and(|at| at + 1 < text.len());
        let kinds = match (inner_line_end, text.is_ascii()) {
            (true, _) => vec![Text::Any],
            (false, true) => vec![Text::Ascii, Text::Unicode, Text::Any],
            (false, false) => vec![Text::Unicode, Text::Any],
        };
        for kind in kinds {
            let linear = emit::linear(&parsed.node, kind);
            let exact = emit::exact(&parsed.node, kind);
            let automaton = RegexBuilder::new(&linear.text).size_limit(SIZE_LIMIT).build();
            let exact = fancy_regex::RegexBuilder::new(&exact)
                .backtrack_limit(BACKTRACK_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build();
            let (Ok(automaton), Ok(exact)) = (automaton, exact) else { continue };
            let Ok(found) = exact.captures(text) else { continue };
            let candidate = automaton.captures(text);
            if found.is_some() {
                assert!(candidate.is_some(), "{} misses what {expression:?} finds in {text:?}", linear.text);
            }
            if !linear.relaxed {
                let exact: Option<Vec<_>> =
                    found.map(|found| found.iter().map(|group| group.map(|group| group.range())).collect());
                let linear: Option<Vec<_>> = candidate
                    .map(|found| found.iter().map(|group| group.map(|group| group.range())).collect());
                assert_eq!(exact, linear, "{expression:?} in {text:?}");
            }
        }
    }
}
