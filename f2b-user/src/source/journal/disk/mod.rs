//! The journal as it is stored: the entries of all its files, in order, while more are written.
//!
//! - [`listing`]: which files there are
//! - [`file`]: the entries of one; [`list`], [`ahead`]: how they are found; [`format`]: what they are made of
//! - [`location`]: where an entry stands, and its cursor
//!
//! We read the files ourselves, because libsystemd takes longer for each entry's fields than all else that is done with
//! them takes. Only forward: what has been read is never asked for again.

mod ahead;
mod file;
mod format;
mod list;
mod listing;
mod location;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ffi::OsString,
    fmt, mem,
    path::{Path, PathBuf},
};

use anyhow::{Error, Result, anyhow};

pub use self::location::Location;
use self::{file::File, format::Id, listing::Listed};
use super::{files::Files, matching::JournalMatch};

/// After how many entries it is looked whether another file has an earlier one by now.
const TURN: usize = 1024;

/// Where a journal is read from.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// The first entry at or after this time, in microseconds since 1970.
    Time(u64),
    /// The entry after this one.
    After(Location),
}

impl Start {
    fn is_behind(&self, entry: &Location) -> bool {
        match self {
            Self::Time(micros) => entry.realtime < *micros,
            Self::After(last) => entry.order(last).is_le() || entry.is_copy_up_to(last),
        }
    }
}

/// Which entries are wanted, and which of their fields.
#[derive(Default)]
struct Wanted {
    fields: Vec<String>,
    groups: Vec<Vec<(String, String)>>,
    /// How much of a field, with its name, in bytes.
    most: usize,
}

impl Wanted {
    fn names(&self, field: &[u8]) -> bool {
        self.fields.iter().any(|name| name.as_bytes() == field)
    }

    fn is_all(&self) -> bool {
        self.groups.is_empty()
    }
}

/// What could not be read, and was passed over.
#[derive(Debug)]
pub struct Damage {
    pub file: PathBuf,
    pub error: Error,
}

impl std::error::Error for Damage {}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:#}", self.file.display(), self.error)
    }
}

/// The journal's files, read from one entry to the next.
pub struct Journal {
    place: Files,
    wanted: Wanted,
    from: Start,
    files: Vec<File>,
    seen: HashSet<Listed>,
    /// Why files could not be opened, and whether that was said.
    refused: HashMap<Listed, (Error, bool)>,
    /// Files that have been read to their end, to which nothing is added.
    over: HashSet<Id>,
    turn: Option<Turn>,
    /// The last entry, of all that were handed out.
    last: Option<Location>,
    /// The last entry that was read of the journals in memory, by the name of their folder.
    volatile: Vec<(OsString, Location)>,
}

/// One file is read until another has the next entry.
struct Turn {
    file: usize,
    /// The first entry of the others.
    until: Option<Location>,
    left: usize,
}

impl Journal {
    /// Opens what is there, to be read from its beginning.
    ///
    /// # Errors
    /// A folder cannot be read, or the flags are none for this place.
    pub fn open(place: &Files) -> Result<Self> {
        place.check_flags()?;
        let mut journal = Self {
            place: place.clone(),
            wanted: Wanted::default(),
            from: Start::Time(0),
            files: Vec::new(),
            seen: HashSet::new(),
            refused: HashMap::new(),
            over: HashSet::new(),
            turn: None,
            last: None,
            volatile: Vec::new(),
        };
        journal.rescan()?;
        Ok(journal)
    }

    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Why files could not be opened.
    pub fn refused(&self) -> impl Iterator<Item = (&Path, &Error)> {
        self.refused.iter().map(|(file, (error, _))| (file.path.as_path(), error))
    }

    /// The values that a field has in entries of the journal.
    pub fn values(&self, field: &str) -> Vec<String> {
        let mut values = BTreeSet::new();
        for file in &self.files {
            // Of a damaged file those that can be read, or as many as can be had.
            drop(file.values(field.as_bytes(), &mut |_, value| {
                values.insert(String::from_utf8_lossy(value).into_owned());
            }));
        }
        values.into_iter().collect()
    }

    /// Whether the entry at `location` is still there.
    pub fn has(&mut self, location: &Location) -> bool {
        self.files.iter_mut().any(|file| file.has(location))
    }

    /// Reads from `from` on. Only entries that `matches` ask for need to be handed out, others may be; all if there are none.
    /// Of their fields, `fields` and those that `matches` name, of each its first `most` bytes.
    pub fn read_from<'a>(
        &mut self,
        from: Start,
        matches: impl IntoIterator<Item = &'a JournalMatch>,
        fields: &[&str],
        most: usize,
    ) {
        let groups: Vec<_> = matches.into_iter().flat_map(|wanted| wanted.groups().iter().cloned()).collect();
        let named = groups.iter().flatten().map(|(field, _)| field.clone());
        let mut fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).chain(named).collect();
        fields.sort();
        fields.dedup();
        self.wanted = Wanted { fields, groups, most };
        (self.from, self.turn, self.last) = (from, None, None);
        self.volatile.clear();
        for file in &mut self.files {
            file.seek(|entry| from.is_behind(entry));
            file.look_ahead(&self.wanted);
        }
    }

    /// Opens files that are new. What is in them before the entry that was handed out last counts as read. Gives those
    /// that cannot be opened this time either, each once.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn rescan(&mut self) -> Result<Vec<Damage>> {
        let listed: HashSet<Listed> = listing::list(&self.place)?.into_iter().collect();
        let mut damage = Vec::new();
        let mut refused = HashMap::new();
        for file in listed.difference(&mem::take(&mut self.seen)) {
            let error = match File::open(file) {
                Ok(opened) => {
                    self.add(opened);
                    continue;
                }
                Err(error) => error,
            };
            // One that has only just been made may still be empty.
            let before = self.refused.remove(file);
            if before.as_ref().is_some_and(|(_, is_said)| !is_said) {
                damage.push(Damage { file: file.path.clone(), error: anyhow!("{error:#}") });
            }
            refused.insert(file.clone(), (error, before.is_some()));
        }
        self.seen = listed;
        self.seen.retain(|file| !refused.contains_key(file));
        self.refused = refused;
        Ok(damage)
    }

    fn add(&mut self, mut file: File) {
        if self.over.contains(&file.id()) {
            return;
        }
        if let Some(known) = self.files.iter_mut().find(|known| known.id() == file.id()) {
            // It has been renamed.
            known.listed = file.listed;
            return;
        }
        let from = self.last.map_or(self.from, Start::After);
        file.seek(|entry| from.is_behind(entry));
        file.look_ahead(&self.wanted);
        self.end_turn();
        self.files.push(file);
    }

    fn end_turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.files[turn.file].take();
        }
    }

    /// The next entry; nothing if there is none yet.
    ///
    /// # Errors
    /// Something is damaged. It is passed over.
    pub fn next_entry(&mut self) -> Result<Option<Location>, Damage> {
        loop {
            let Some((file, entry)) = self.advance()? else { return Ok(None) };
            if !self.is_copy(file, &entry) {
                if self.last.is_none_or(|last| last.order(&entry).is_lt()) {
                    self.last = Some(entry);
                }
                return Ok(Some(entry));
            }
        }
    }

    /// The last of the entries that were handed out: what comes before it, also in files that are not there yet, does not
    /// need to be read again.
    pub fn position(&self) -> Option<Location> {
        self.last
    }

    /// Goes to the next entry, and says in which file it is.
    fn advance(&mut self) -> Result<Option<(usize, Location)>, Damage> {
        if let Some(turn) = self.turn.take() {
            let file = &mut self.files[turn.file];
            file.take();
            let head = if turn.left > 1 { head(file)? } else { None };
            if let Some(head) = head
                && turn.until.is_none_or(|until| head.order(&until).is_le())
            {
                let number = turn.file;
                self.turn = Some(Turn { left: turn.left - 1, ..turn });
                return Ok(Some((number, head)));
            }
        }
        self.drop_those_over();
        self.refresh()?;
        if !self.files.iter().any(File::has_more) {
            return Ok(None);
        }
        // journald writes one entry after the other: what it wrote before those that are known now can be seen by now,
        // in whichever file it is.
        self.refresh()?;
        let (mut first, mut until): (Option<(usize, Location)>, Option<Location>) = (None, None);
        for (number, file) in self.files.iter_mut().enumerate() {
            let Some(head) = head(file)? else { continue };
            let is_before = |other: &Location| head.order(other).is_lt();
            if first.is_none_or(|(_, first)| is_before(&first)) {
                until = first.map(|(_, first)| first);
                first = Some((number, head));
            } else if until.is_none_or(|until| is_before(&until)) {
                until = Some(head);
            }
        }
        self.turn = first.map(|(file, _)| Turn { file, until, left: TURN });
        Ok(first)
    }

    /// Whether an entry is one that was read before, and that journald has copied from memory to the disk since.
    fn is_copy(&mut self, file: usize, entry: &Location) -> bool {
        let listed = &self.files[file].listed;
        if !listed.is_volatile && self.volatile.is_empty() {
            return false;
        }
        let folder = listed.path.parent().and_then(Path::file_name).unwrap_or_default();
        let known = self.volatile.iter_mut().find(|(known, _)| known == folder);
        match (listed.is_volatile, known) {
            (true, Some((_, last))) => *last = *entry,
            (true, None) => self.volatile.push((folder.to_owned(), *entry)),
            (false, known) => {
                return known.is_some_and(|(_, last)| entry.is_copy_up_to(last));
            }
        }
        false
    }

    /// Looks for more in the files in which nothing was left.
    fn refresh(&mut self) -> Result<(), Damage> {
        for file in &mut self.files {
            if !file.has_more() {
                file.refresh().map_err(|error| Damage { file: file.listed.path.clone(), error })?;
            }
        }
        Ok(())
    }

    fn drop_those_over(&mut self) {
        let (over, seen) = (&mut self.over, &mut self.seen);
        self.files.retain_mut(|file| {
            let is_over = file.is_over();
            if is_over {
                over.insert(file.id());
                // Should it have been written anew, it is another file.
                seen.remove(&file.listed);
            }
            !is_over
        });
    }

    /// Hands over fields of the entry that [`next_entry`](Self::next_entry) gave, as name and value.
    ///
    /// # Errors
    /// The entry is damaged; part of it may have been handed over.
    pub fn fields(&mut self, mut each: impl FnMut(&[u8], &[u8])) -> Result<()> {
        let Some(turn) = &self.turn else { return Ok(()) };
        self.files[turn.file].fields(&self.wanted, &mut each)
    }

    /// Says where it was that the entry which [`next_entry`](Self::next_entry) gave could not be read.
    pub fn damage(&self, error: Error) -> Damage {
        let file = self.turn.as_ref().map(|turn| self.files[turn.file].listed.path.clone());
        Damage { file: file.unwrap_or_default(), error }
    }
}

/// The next entry that is known of a file.
fn head(file: &mut File) -> Result<Option<Location>, Damage> {
    let head = file.head().map(|head| head.copied());
    head.map_err(|error| Damage { file: file.listed.path.clone(), error })
}
