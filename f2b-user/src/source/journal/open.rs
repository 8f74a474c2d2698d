//! Opens journals and finds places in them.

use std::{ffi::CString, os::unix::ffi::OsStrExt as _, path::Path, time::SystemTime};

use anyhow::{Context as _, Result};
use systemd::journal::{Journal, OpenDirectoryOptions, OpenFilesOptions, OpenOptions};
use tracing::info;

use super::{
    files::{Files, Place},
    matching::{JournalMatch, UNIT},
};
use crate::source::unit::{self, How, Resolved};

impl Files {
    pub(super) fn open(&self) -> Result<Journal> {
        let flags = self.flags;
        let mut machine = OpenOptions::default();
        machine.extra_raw_flags(flags);
        let journal = match &self.place {
            Place::Machine => machine.open(),
            Place::Namespace(name) => machine.open_namespace(CString::new(name.as_str())?),
            Place::Directory(path) => {
                OpenDirectoryOptions::default().extra_raw_flags(flags).open_directory(c_path(path)?)
            }
            Place::These(_) => {
                let paths = self.paths().iter().map(|path| c_path(path)).collect::<Result<Vec<_>>>()?;
                OpenFilesOptions::default().extra_raw_flags(flags).open_files(paths)
            }
        };
        journal.context("opening the journal")
    }

    /// The journal, ready to be told of new files; `None` if there is nothing of it yet.
    pub(super) fn follow(&self) -> Result<Option<Journal>> {
        let is_there = match &self.place {
            Place::Machine | Place::Namespace(_) => true,
            Place::Directory(path) => path.is_dir(),
            Place::These(_) => !self.paths().is_empty(),
        };
        if !is_there {
            return Ok(None);
        }
        let journal = self.open()?;
        if self.place == Place::Machine && !journal.has_persistent_files()? && !journal.has_runtime_files()? {
            return Ok(None);
        }
        if !matches!(self.place, Place::These(_)) {
            // Without it, `sd_journal_process` does nothing at all, and a rotated journal ends.
            journal.fd().context("watching the journal's directory")?;
        }
        Ok(Some(journal))
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| path.display().to_string())
}

/// Adds another alternative to what the journal hands out.
pub(super) fn add_matches(journal: &mut Journal, wanted: &JournalMatch) -> Result<()> {
    for group in wanted.groups() {
        for (field, value) in group {
            journal.match_add(field, value.as_str())?;
        }
        journal.match_or()?;
    }
    Ok(())
}

/// Goes behind the entry with this cursor; whether that entry is still there. If not, the next one there is comes next.
pub(super) fn seek_after(journal: &mut Journal, cursor: &str) -> Result<bool> {
    journal.seek_cursor(cursor)?;
    if journal.next()? == 0 {
        return Ok(false);
    }
    if journal.test_cursor(cursor)? {
        return Ok(true);
    }
    // That was the next one: go back before it.
    journal.seek_cursor(cursor)?;
    Ok(false)
}

/// Microseconds since 1970, as the journal counts.
pub(super) fn micros(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// The units that the journal holds entries of.
pub(super) fn units_held(journal: &mut Journal) -> systemd::Result<Vec<String>> {
    journal.query_unique(UNIT)?;
    let mut units = Vec::new();
    while let Some(field) = journal.enumerate_unique()? {
        units.push(String::from_utf8_lossy(field.value().unwrap_or_default()).into_owned());
    }
    Ok(units)
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
