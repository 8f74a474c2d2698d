//! fail2ban's expressions: tags expanded ([`tags`]), read as Python reads them ([`syntax`]) and run with the verdict of
//! Python's `re` ([`program`], [`machine`]); together a [`pattern`]. Of many, a [`set`] finds the few that may match: by
//! plain texts and by automata, as which they are written again ([`candidate`]).

mod candidate;
mod chars;
mod check;
mod conditional;
mod foresight;
mod forks;
mod heads;
mod hindsight;
mod machine;
mod needles;
mod pattern;
mod program;
mod set;
mod shape;
mod syntax;
pub(super) mod tags;

pub(crate) use self::check::check;
pub(super) use self::{
    chars::{is_ascii, plain_digits},
    heads::Heads,
    machine::OverBudget,
    pattern::{Captured, Pattern, Text},
    set::{Candidate, Candidates, Guess, Set},
};

/// What is wrong with an expression as Python reads it.
pub(super) fn syntax_error(python: &str, multiline: bool) -> Option<syntax::SyntaxError> {
    syntax::parse(python, multiline).err()?.downcast().ok()
}
