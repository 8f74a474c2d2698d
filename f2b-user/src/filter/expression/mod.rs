//! fail2ban's expressions: tags expanded ([`tags`]), read as Python reads them ([`syntax`]), written again for the
//! crates that match them ([`emit`]), and searched for with the verdict of Python's `re` ([`pattern`]).

mod emit;
mod pattern;
mod syntax;
pub(super) mod tags;

pub(super) use self::{
    pattern::{Captured, OverBudget, Pattern, Set},
    syntax::SyntaxError,
};
