//! The parts of the agent that read what others wrote, by themselves: the same source files, without the rest of the
//! agent. That builds in a minute on any machine, with no eBPF compiler.

#![allow(dead_code, unused_imports, reason = "the rest of the agent is not there to use it")]

#[path = "../../f2b-user/src/ban.rs"]
mod ban;
#[path = "../../f2b-user/src/source/charset.rs"]
mod charset;
#[path = "../../f2b-user/src/config/mod.rs"]
mod config;
#[path = "../../f2b-user/src/filter/mod.rs"]
mod filter;
#[path = "../../f2b-user/src/formula/mod.rs"]
mod formula;
#[path = "../../f2b-user/src/fuzz.rs"]
mod fuzz;
#[path = "../../f2b-user/src/increment.rs"]
mod increment;
#[path = "../../f2b-user/src/scope.rs"]
mod scope;

pub use fuzz::*;

/// Stands in for the loader of the kernel's program.
mod xdp {
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Mode {
        Native,
        Generic,
        Tc,
    }
}

/// Without its reader, which no target reaches.
#[path = "../../f2b-user/src/source/journal"]
mod journal {
    pub mod disk;
    mod files;
    mod matching;

    pub use self::disk::Location;
    pub(crate) use self::{files::Files, matching::JournalMatch};
}

mod source {
    pub(crate) use super::{charset, journal};
}
