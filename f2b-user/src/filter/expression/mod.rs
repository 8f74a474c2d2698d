//! fail2ban's expressions: tags expanded ([`tags`]), read as Python reads them ([`syntax`]), written again as automata
//! that find the few that may match ([`candidate`]), and run with the verdict of Python's `re` ([`program`],
//! [`machine`]); together a [`pattern`].

mod candidate;
mod chars;
mod check;
mod conditional;
mod machine;
mod pattern;
mod program;
mod syntax;
pub(super) mod tags;

pub(crate) use self::check::check;
pub(super) use self::{
    machine::OverBudget,
    pattern::{Candidate, Candidates, Captured, Pattern, Set, Text},
};

/// What is wrong with an expression as Python reads it.
pub(super) fn syntax_error(python: &str, multiline: bool) -> Option<syntax::SyntaxError> {
    syntax::parse(python, multiline).err()?.downcast().ok()
}
