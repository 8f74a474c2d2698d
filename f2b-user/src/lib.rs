//! f2b: fail2ban, with its bans enforced by eBPF.
//!
//! The data's way, and the module for each step:
//!
//! ```text
//! journal ─▶ Line ─▶ filter ─▶ Failure ─▶ jail ─▶ Ban ─▶ ban set ─▶ kernel map ─▶ XDP_DROP
//! ```
//!
//! Layout:
//! - [`cli`]: the command line, one file a command
//! - [`config`]: fail2ban's configuration dialect as written → the checked settings of every jail
//! - [`source`]: the journal as [`source::Line`]s, in order
//! - [`filter`]: fail2ban's expressions → what is a failure, and whose
//! - [`jail`]: one jail's decision: ignore rules, find window, ban time
//! - [`ask`]: what must be asked before a failure counts: names, `ignorecommand`, the files of `ignoreip`
//! - [`tally`]: how often an address has failed; [`matches`]: the lines that a jail's failures matched
//! - [`history`], [`increment`], [`formula`]: who was banned before, and how long the next ban lasts
//! - [`ticket`]: what is known of a ban: what actions are told
//! - [`scope`]: what a ban covers: every packet, or some ports
//! - [`ban`]: the set of all bans, counted by who asked, ordered by their end
//! - [`xdp`]: the only user of aya: load, attach, pin, insert, remove, counters
//! - [`net`]: interfaces, routes and own addresses, from rtnetlink
//! - [`store`]: what outlives the process: bans and who asked for them (SQLite)
//! - [`action`]: fail2ban's actions (mails, reports): commands run beside the ban, never in front of it
//! - [`import`]: what fail2ban remembers, for an agent that takes over
//! - [`control`]: requests to the running agent, and its answers
//! - [`log`]: what the agent says, to people and in fail2ban's format; the texts of what happens to addresses
//! - [`metrics`]: what is counted, as Prometheus reads it
//! - [`agent`]: one event loop that owns jails, ban set, map and store
//!
//! Deliberately absent: I/O or a clock in decisions (`filter`, `jail`, `ban` take `now` as an argument); aya outside
//! `xdp`; a second place that renders a journal entry or decides a ban; a process spawned between a failure and its
//! ban.

pub mod action;
pub mod agent;
pub mod ask;
pub mod ban;
pub mod cli;
pub mod config;
pub mod control;
pub mod filter;
pub mod formula;
#[doc(hidden)]
pub mod fuzz;
pub mod history;
pub mod import;
pub mod increment;
pub mod jail;
pub mod log;
pub mod matches;
pub mod metrics;
pub mod net;
pub mod scope;
pub mod source;
pub mod store;
mod tally;
pub mod ticket;
pub mod xdp;
