//! Opens journals, and finds the units that jails ask for in them.

use std::time::SystemTime;

use anyhow::{Result, bail};
use tracing::info;

use super::{disk::Journal, files::Files};
use crate::source::unit::{self, How, Resolved};

/// The journal, if there is anything of it yet.
///
/// # Errors
/// It cannot be read.
pub(super) fn open(files: &Files) -> Result<Option<Journal>> {
    let journal = Journal::open(files)?;
    if !journal.is_empty() {
        return Ok(Some(journal));
    }
    if let Some((file, error)) = journal.refused().next() {
        bail!("{}: {error:#}", file.display());
    }
    Ok(None)
}

/// Microseconds since 1970, as the journal counts.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn resolve(unit: &str, held: &[String]) -> Resolved {
    unit::resolve(unit, unit::ask_systemd(unit).as_deref(), held)
}

pub(super) fn report(jail: &str, unit: &str, resolved: &Resolved) {
    let names = resolved.names.join(", ");
    match resolved.how {
        How::Systemd => info!(jail, unit, "Following {names}, as systemd calls it"),
        How::Journal => info!(jail, unit, "Following {names}, as the journal calls it"),
        How::Agent => info!(jail, unit, "Following {names}, which are the agent's own"),
        How::Guess => info!(jail, unit, "Following {names}: the journal holds nothing of either yet"),
    }
}
