//! The entries of a journal, from the first to the last.

use anyhow::{Context as _, Result, bail};

use super::{
    disk::{Journal, Start},
    entry::{Decode, Entry},
    files::{Files, Place},
    matching::{JournalMatch, Takers, UNIT},
    open::resolve,
};

/// How much of a field is read, with its name: what libsystemd makes room for (`ZSTD_DStreamOutSize`).
const FIELD_BYTES: usize = 128 * 1024;

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
    /// Who wants some of the entries; nothing if all are wanted.
    takers: Option<Takers>,
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
        let mut journal = Journal::open(files).context("opening the journal")?;
        // As libsystemd has it: the machine's may be empty, but what is named must be there.
        match &files.place {
            Place::Directory(path) if !path.is_dir() => bail!("{} is no folder", path.display()),
            Place::These(_) => {
                if let Some((file, error)) = journal.refused().next() {
                    bail!("{}: {error:#}", file.display());
                }
            }
            Place::Directory(_) | Place::Machine | Place::Namespace(_) => {}
        }
        let wanted = wanted.map(|wanted| {
            let held = journal.values(UNIT);
            wanted.with_units(|unit| match names {
                UnitNames::AsWritten => vec![unit.to_owned()],
                UnitNames::Resolved => resolve(unit, &held).names,
            })
        });
        journal.read_from(Start::Time(0), &wanted, &Entry::FIELDS, FIELD_BYTES);
        let takers = wanted.map(|wanted| Takers::new(&[(String::new(), wanted)]));
        Ok(Self { journal, entry: Entry::default(), takers, decode: Box::new(decode) })
    }

    fn advance(&mut self) -> Result<Option<(String, Logged)>> {
        let nobody = Takers::new(&[]);
        let takers = self.takers.as_ref();
        let micros = loop {
            let Some(location) = self.journal.next_entry()? else { return Ok(None) };
            self.entry.read(&mut self.journal, &location, takers.unwrap_or(&nobody), &self.decode)?;
            if takers.is_none_or(|takers| takers.of(self.entry.held()).next().is_some()) {
                break self.entry.micros(&location);
            }
        };
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
