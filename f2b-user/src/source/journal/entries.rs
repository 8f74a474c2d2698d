//! The entries of a journal, from the first to the last.

use anyhow::{Context as _, Result};
use systemd::journal::Journal;

use super::{
    entry::{Decode, Entry},
    files::Files,
    matching::{JournalMatch, Takers},
    open::{add_matches, resolve, units_held},
};

/// When an entry was logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// Seconds since 1970.
    pub time: f64,
    /// The same on the local clock, as fail2ban writes it: `2026-11-24T08:00:00.123456+01:00`.
    pub text: String,
}

/// The entries that are there, from the oldest to the newest, as lines.
pub struct Entries {
    journal: Journal,
    entry: Entry,
    /// Nobody: every entry is one that is asked for.
    takers: Takers,
    decode: Box<Decode>,
}

impl Entries {
    /// Those that satisfy `wanted`, if it is given, else all. `decode` is for fields that are no UTF-8.
    ///
    /// # Errors
    /// The journal cannot be opened.
    pub fn read(
        files: &Files,
        wanted: Option<&JournalMatch>,
        names: UnitNames,
        decode: impl Fn(&[u8]) -> String + 'static,
    ) -> Result<Self> {
        let mut journal = files.open()?;
        if let Some(wanted) = wanted {
            let held = units_held(&mut journal).context("listing the units in the journal")?;
            let wanted = wanted.with_units(|unit| match names {
                UnitNames::AsWritten => vec![unit.to_owned()],
                UnitNames::Resolved => resolve(unit, &held).names,
            });
            add_matches(&mut journal, &wanted)?;
        }
        journal.seek_head()?;
        Ok(Self { journal, entry: Entry::default(), takers: Takers::new(&[]), decode: Box::new(decode) })
    }

    fn advance(&mut self) -> Result<Option<(String, Logged)>> {
        if self.journal.next()? == 0 {
            return Ok(None);
        }
        self.entry.read(&mut self.journal, &self.takers, &self.decode)?;
        let micros = self.entry.micros(&self.journal)?;
        let time = jiff::Timestamp::from_microsecond(i64::try_from(micros)?)?;
        let local = time.to_zoned(jiff::tz::TimeZone::system());
        let format =
            if micros % 1_000_000 == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S.%6f%:z" };
        let text = local.strftime(format).to_string();
        Ok(Some((self.entry.text(), Logged { time: micros as f64 / 1e6, text })))
    }
}

/// Whether units are looked for under other names that they may have in the journal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnitNames {
    /// As fail2ban does.
    AsWritten,
    /// As the agent does.
    Resolved,
}

impl Iterator for Entries {
    type Item = Result<(String, Logged)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.advance().context("reading the journal").transpose()
    }
}
