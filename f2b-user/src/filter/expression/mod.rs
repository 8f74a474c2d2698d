//! fail2ban's expressions: tags expanded ([`tags`]), read as Python reads them ([`syntax`]), written again as automata
//! that find the few that may match ([`candidate`]), and run with the verdict of Python's `re` ([`program`],
//! [`machine`]); together a [`pattern`].

mod candidate;
mod chars;
mod machine;
mod pattern;
mod program;
mod syntax;
pub(super) mod tags;

pub(super) use self::{
    machine::OverBudget,
    pattern::{Captured, Pattern, Set},
};
