//! The systemd journal: one reader on its own thread for all jails.
//!
//! journald announces new entries at most every 250 ms, but they are visible in its mapped files at once. So the
//! reader asks for the next entry every few milliseconds instead of waiting to be told.

use std::{
    ffi::CString,
    fmt,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use systemd::journal::{Journal, OpenDirectoryOptions, OpenFilesOptions, OpenOptions};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    Batch, Line, Reading,
    thread::{Stop, Thread},
    unit::{self, How, Resolved},
};
use crate::filter::python::repr;

/// The journal's name among the positions that are stored.
pub const SOURCE: &str = "journal";

/// How often the reader looks while entries arrive: the median delay is half of it.
const POLL_ACTIVE: Duration = Duration::from_millis(5);
/// How often it looks when there was nothing for [`IDLE_AFTER`].
const POLL_IDLE: Duration = Duration::from_millis(20);
const IDLE_AFTER: Duration = Duration::from_secs(30);
/// How often libsystemd may look for rotated, new and removed journal files.
const PROCESS_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before opening a journal that is not there, or that failed, again.
const REOPEN_AFTER: Duration = Duration::from_millis(250);
/// Lines given to the agent in one go, so that catching up does not wake it once a line.
const BATCH: usize = 256;
/// Longest field that libsystemd hands out; the rest is cut. Filters look at less.
const FIELD_BYTES: usize = 16 * 1024;

/// A `journalmatch`: alternatives (`+`, or several lines) of groups. Within a group, values of one field are
/// alternatives and different fields must all hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalMatch {
    groups: Vec<Vec<(String, String)>>,
}

impl JournalMatch {
    /// Parses `FIELD=value FIELD=value + FIELD=value`.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect());
        Self::new(&lines.collect::<Vec<_>>())
    }

    /// Of alternatives, each the words of one line. A value may contain spaces.
    ///
    /// # Errors
    /// A word that is not `FIELD=value`, or no words at all.
    pub fn new(lines: &[Vec<String>]) -> Result<Self> {
        let mut groups = vec![Vec::new()];
        for line in lines {
            groups.push(Vec::new());
            for term in line {
                if term == "+" {
                    groups.push(Vec::new());
                    continue;
                }
                let Some((field, value)) = term.split_once('=') else {
                    bail!("journalmatch: \"{term}\" is not FIELD=value");
                };
                if let Some(group) = groups.last_mut() {
                    group.push((field.to_owned(), value.to_owned()));
                }
            }
        }
        groups.retain(|group| !group.is_empty());
        if groups.is_empty() {
            bail!("journalmatch is empty; write for example _SYSTEMD_UNIT=sshd.service");
        }
        Ok(Self { groups })
    }

    /// The units that it names.
    fn units(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flatten().filter(|(field, _)| field == UNIT).map(|(_, value)| value.as_str())
    }

    /// With every unit replaced by the names that it has in the journal.
    fn with_units(&self, names_of: impl Fn(&str) -> Vec<String>) -> Self {
        let terms = |(field, value): &(String, String)| -> Vec<(String, String)> {
            let values = if field == UNIT { names_of(value) } else { vec![value.clone()] };
            values.into_iter().map(|value| (field.clone(), value)).collect()
        };
        Self { groups: self.groups.iter().map(|group| group.iter().flat_map(terms).collect()).collect() }
    }

    /// Whether an entry with these fields satisfies it.
    fn accepts(&self, entry: &Entry) -> bool {
        self.groups.iter().any(|group| {
            group.iter().all(|(field, _)| {
                let alternatives = group.iter().filter(|(other, _)| other == field);
                alternatives.into_iter().any(|(field, value)| entry.matched.contains(field, value))
            })
        })
    }
}

impl fmt::Display for JournalMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.groups.iter().enumerate() {
            if n > 0 {
                f.write_str(" + ")?;
            }
            for (n, (field, value)) in group.iter().enumerate() {
                let space = if n > 0 { " " } else { "" };
                write!(f, "{space}{field}={value}")?;
            }
        }
        Ok(())
    }
}

const UNIT: &str = "_SYSTEMD_UNIT";

/// Which fields of an entry some match asked for, and their values.
#[derive(Debug, Default)]
struct Matched(Vec<(String, String)>);

impl Matched {
    fn contains(&self, field: &str, value: &str) -> bool {
        self.0.iter().any(|(f, v)| f == field && v == value)
    }
}

/// The fields of one entry that matter, in buffers that are used again for the next one.
#[derive(Debug, Default)]
struct Entry {
    hostname: String,
    identifier: String,
    comm: String,
    syslog_pid: String,
    pid: String,
    /// When the sender sent it, in microseconds since 1970.
    sent: String,
    /// Of the kernel's own messages: microseconds since the boot.
    monotonic: String,
    message: String,
    matched: Matched,
}

/// What becomes of bytes that are no UTF-8.
type Decode = dyn Fn(&[u8]) -> String;

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Entry {
    /// Reads the journal's current entry, each field once.
    fn read(&mut self, journal: &mut Journal, wanted: &[String], decode: &Decode) -> systemd::Result<()> {
        for buffer in [
            &mut self.hostname,
            &mut self.identifier,
            &mut self.comm,
            &mut self.syslog_pid,
            &mut self.pid,
            &mut self.sent,
            &mut self.monotonic,
            &mut self.message,
        ] {
            buffer.clear();
        }
        self.matched.0.clear();
        journal.restart_data();
        while let Some(field) = journal.enumerate_data()? {
            let value = field.value().unwrap_or_default();
            let buffer = match field.name() {
                b"_HOSTNAME" => Some(&mut self.hostname),
                b"SYSLOG_IDENTIFIER" => Some(&mut self.identifier),
                b"_COMM" => Some(&mut self.comm),
                b"SYSLOG_PID" => Some(&mut self.syslog_pid),
                b"_PID" => Some(&mut self.pid),
                b"_SOURCE_REALTIME_TIMESTAMP" => Some(&mut self.sent),
                b"_SOURCE_MONOTONIC_TIMESTAMP" => Some(&mut self.monotonic),
                b"MESSAGE" => Some(&mut self.message),
                _ => None,
            };
            if let Some(buffer) = buffer {
                // A message in several parts is one; of other fields the last one counts.
                if field.name() != b"MESSAGE" {
                    buffer.clear();
                } else if !buffer.is_empty() {
                    buffer.push(' ');
                }
                match str::from_utf8(value) {
                    Ok(text) => buffer.push_str(text),
                    Err(_) => buffer.push_str(&decode(value)),
                }
            }
            if let Some(name) = wanted.iter().find(|name| name.as_bytes() == field.name()) {
                self.matched.0.push((name.clone(), String::from_utf8_lossy(value).into_owned()));
            }
        }
        if self.is_kernels() && self.monotonic.is_empty() {
            self.monotonic = journal.monotonic_timestamp()?.0.to_string();
        }
        Ok(())
    }

    /// Microseconds since 1970, as fail2ban dates an entry: by the time at which it was sent if that is known, else by
    /// that at which it came.
    fn micros(&self, journal: &Journal) -> systemd::Result<u64> {
        self.sent.parse().map_or_else(|_| journal.timestamp_usec(), Ok)
    }

    fn identifier(&self) -> &str {
        if self.identifier.is_empty() { &self.comm } else { &self.identifier }
    }

    fn is_kernels(&self) -> bool {
        self.identifier() == "kernel" && self.process().is_none()
    }

    /// The number of the process. The sender may say what it likes: fail2ban takes what Python reads as a number.
    fn process(&self) -> Option<String> {
        let text = [&self.syslog_pid, &self.pid].into_iter().find(|text| {
            let number = python_integer(text, false);
            !text.is_empty() && number.as_deref() != Some("0")
        })?;
        let number = python_integer(text, false).or_else(|| python_integer(text, true));
        Some(number.unwrap_or_else(|| format!("b{}", repr(text))))
    }

    /// `HOST IDENT[PID]: MESSAGE`, as fail2ban renders an entry (`FilterSystemd.formatJournalEntry` in
    /// `server/filtersystemd.py`). What is absent leaves no trace, and a line end in the message becomes `\n`.
    fn text(&self) -> String {
        let mut parts = Vec::new();
        if !self.hostname.is_empty() {
            parts.push(self.hostname.clone());
        }
        let identifier = self.identifier();
        if self.is_kernels() {
            let micros: f64 = self.monotonic.parse().unwrap_or_default();
            parts.push(format!("kernel: [{:12.6}]", micros / 1e6));
        } else if !identifier.is_empty() {
            let process = self.process().map(|process| format!("[{process}]")).unwrap_or_default();
            parts.push(format!("{identifier}{process}:"));
        }
        parts.push(self.message.clone());
        parts.join(" ").replace('\n', "\\n")
    }
}

/// What Python's `int` makes of a text, in decimal digits; with prefixes (`0x`) only where they are `prefixed`.
fn python_integer(text: &str, prefixed: bool) -> Option<String> {
    let text = text.trim();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let radix = match digits.get(..2).map(str::to_lowercase).as_deref() {
        Some("0x") => 16,
        Some("0o") => 8,
        Some("0b") => 2,
        _ => 10,
    };
    let digits = if radix == 10 { digits } else { &digits[2..] };
    let is_number = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_digit(radix));
    if prefixed != (radix != 10) || !digits.split('_').all(is_number) {
        return None;
    }
    let number = u128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if number == 0 { "0".into() } else { format!("{sign}{number}") })
}

/// Where a reader starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Position {
    Since(SystemTime),
    /// After the entry with this cursor.
    After(String),
    /// As [`Since`](Self::Since), but what comes up to this cursor was decided on before. If the journal has lost that
    /// entry, what is left after it.
    Replay {
        since: SystemTime,
        up_to: String,
    },
}

/// A running reader. Dropping it stops the thread.
#[derive(Debug)]
pub struct Reader {
    _thread: Thread,
}

impl Reader {
    /// Starts to read the entries that `jails` ask for, from `position` on, into `lines`. A full channel makes the
    /// reader wait; the journal keeps what it has not read.
    ///
    /// # Errors
    /// The thread does not start.
    pub fn start(
        jails: Vec<(String, JournalMatch)>,
        position: Position,
        lines: mpsc::Sender<Batch>,
    ) -> Result<Self> {
        let run = move |stop| Worker { jails, position, lines, stop }.run();
        Ok(Self { _thread: Thread::start("the journal", run)? })
    }
}

struct Worker {
    jails: Vec<(String, JournalMatch)>,
    position: Position,
    lines: mpsc::Sender<Batch>,
    stop: Stop,
}

/// Why a session with the journal ended.
enum End {
    Stopped,
    Failed(anyhow::Error),
}

impl Worker {
    fn run(mut self) {
        let mut waiting = false;
        while !self.stopped() {
            match open() {
                Ok(Some(journal)) => {
                    waiting = false;
                    match self.follow(journal) {
                        End::Stopped => return,
                        End::Failed(error) => warn!("The journal reader failed and starts again: {error:#}"),
                    }
                }
                Ok(None) if waiting => {}
                Ok(None) => {
                    waiting = true;
                    warn!(
                        "There is no journal yet (neither /var/log/journal nor /run/log/journal); waiting for it"
                    );
                }
                Err(error) => warn!("The journal cannot be opened, trying again: {error:#}"),
            }
            thread::sleep(REOPEN_AFTER);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.is_asked_for() || self.lines.is_closed()
    }

    fn follow(&mut self, mut journal: Journal) -> End {
        match self.prepare(&mut journal) {
            Ok(jails) => match self.read_all(&mut journal, &jails) {
                Ok(()) => End::Stopped,
                Err(error) => End::Failed(error),
            },
            Err(error) => End::Failed(error),
        }
    }

    /// Resolves units, adds all jails' matches and goes to the start; returns the jails with their units resolved.
    fn prepare(&mut self, journal: &mut Journal) -> Result<Vec<(String, JournalMatch)>> {
        journal.set_data_threshold(FIELD_BYTES)?;
        let held = units_held(journal).context("listing the units in the journal")?;
        let mut jails = Vec::new();
        for (jail, wanted) in &self.jails {
            for unit in wanted.units() {
                report(jail, unit, &resolve(unit, &held));
            }
            jails.push((jail.clone(), wanted.with_units(|unit| resolve(unit, &held).names)));
        }
        for (_, wanted) in &jails {
            add_matches(journal, wanted)?;
        }
        self.seek(journal)?;
        Ok(jails)
    }

    fn seek(&mut self, journal: &mut Journal) -> Result<()> {
        match self.position.clone() {
            Position::Since(since) => journal.seek_realtime_usec(micros(since))?,
            Position::After(cursor) => {
                seek_after(journal, &cursor)?;
            }
            Position::Replay { since, up_to } => {
                if !seek_after(journal, &up_to)? {
                    self.position = Position::After(up_to);
                } else if journal.timestamp_usec()? < micros(since) {
                    self.position = Position::Since(since);
                    journal.seek_realtime_usec(micros(since))?;
                } else {
                    journal.seek_realtime_usec(micros(since))?;
                }
            }
        }
        Ok(())
    }

    fn read_all(&mut self, journal: &mut Journal, jails: &[(String, JournalMatch)]) -> Result<()> {
        let mut wanted: Vec<String> = jails
            .iter()
            .flat_map(|(_, m)| m.groups.iter().flatten().map(|(field, _)| field.clone()))
            .collect();
        wanted.sort();
        wanted.dedup();
        let mut entry = Entry::default();
        let mut last_entry = Instant::now();
        let mut last_process = Instant::now();
        while !self.stopped() {
            let mut lines = Vec::new();
            let mut read = 0;
            let up_to = match &self.position {
                Position::Replay { up_to, .. } => Some(up_to.clone()),
                Position::Since(_) | Position::After(_) => None,
            };
            let mut reached = false;
            while read < BATCH && !reached && journal.next()? > 0 {
                read += 1;
                reached =
                    up_to.as_ref().is_some_and(|cursor| journal.test_cursor(cursor.as_str()).unwrap_or(true));
                entry.read(journal, &wanted, &lossy)?;
                let time = SystemTime::UNIX_EPOCH + Duration::from_micros(entry.micros(journal)?);
                let takers = jails.iter().filter(|(_, wanted)| wanted.accepts(&entry));
                lines.extend(takers.map(|(jail, _)| Line {
                    jail: jail.clone(),
                    time: Some(time),
                    text: entry.text(),
                }));
            }
            if read > 0 {
                let cursor = journal.cursor()?;
                let reading = if up_to.is_some() { Reading::Again } else { Reading::Live };
                if reading == Reading::Live || reached {
                    self.position = Position::After(cursor.clone());
                }
                let batch = Batch { lines, source: SOURCE.into(), position: cursor, reading };
                if self.lines.blocking_send(batch).is_err() {
                    return Ok(());
                }
                last_entry = Instant::now();
                continue;
            }
            if let Position::Replay { up_to, .. } = &self.position {
                // The last entry decided on has been vacuumed away since we looked: what comes now is new.
                self.position = Position::After(up_to.clone());
            }
            if last_process.elapsed() > PROCESS_EVERY {
                journal.process()?;
                last_process = Instant::now();
            }
            thread::sleep(if last_entry.elapsed() < IDLE_AFTER { POLL_ACTIVE } else { POLL_IDLE });
        }
        Ok(())
    }
}

/// Which journal files are read, with the flags of the function of libsystemd that opens them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Files {
    pub place: Place,
    pub flags: i32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// The machine's.
    Machine,
    /// Those of a journal namespace (systemd-journald.service(8)).
    Namespace(String),
    Directory(PathBuf),
    These(Vec<PathBuf>),
}

impl Files {
    fn open(&self) -> Result<Journal> {
        let flags = self.flags;
        let mut machine = OpenOptions::default();
        machine.extra_raw_flags(flags);
        let journal = match &self.place {
            Place::Machine => machine.open(),
            Place::Namespace(name) => machine.open_namespace(CString::new(name.as_str())?),
            Place::Directory(path) => {
                OpenDirectoryOptions::default().extra_raw_flags(flags).open_directory(c_path(path)?)
            }
            Place::These(paths) => {
                let paths = paths.iter().map(|path| c_path(path)).collect::<Result<Vec<_>>>()?;
                OpenFilesOptions::default().extra_raw_flags(flags).open_files(paths)
            }
        };
        journal.context("opening the journal")
    }
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| path.display().to_string())
}

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
        Ok(Self { journal, entry: Entry::default(), decode: Box::new(decode) })
    }

    fn advance(&mut self) -> Result<Option<(String, Logged)>> {
        if self.journal.next()? == 0 {
            return Ok(None);
        }
        self.entry.read(&mut self.journal, &[], &self.decode)?;
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

/// Adds another alternative to what the journal hands out.
fn add_matches(journal: &mut Journal, wanted: &JournalMatch) -> Result<()> {
    for group in &wanted.groups {
        for (field, value) in group {
            journal.match_add(field, value.as_str())?;
        }
        journal.match_or()?;
    }
    Ok(())
}

/// The system's journal, or `None` if it has no files yet.
fn open() -> Result<Option<Journal>> {
    let journal = OpenOptions::default().system(true).local_only(true).open()?;
    let there = journal.has_persistent_files()? || journal.has_runtime_files()?;
    Ok(there.then_some(journal))
}

/// Goes behind the entry with this cursor; whether that entry is still there. If not, the next one there is comes next.
fn seek_after(journal: &mut Journal, cursor: &str) -> Result<bool> {
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
fn micros(time: SystemTime) -> u64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}

/// The units that the journal holds entries of.
fn units_held(journal: &mut Journal) -> systemd::Result<Vec<String>> {
    journal.query_unique(UNIT)?;
    let mut units = Vec::new();
    while let Some(field) = journal.enumerate_unique()? {
        units.push(String::from_utf8_lossy(field.value().unwrap_or_default()).into_owned());
    }
    Ok(units)
}

fn resolve(unit: &str, held: &[String]) -> Resolved {
    unit::resolve(unit, unit::ask_systemd(unit).as_deref(), held)
}

fn report(jail: &str, unit: &str, resolved: &Resolved) {
    let names = resolved.names.join(", ");
    match resolved.how {
        How::Systemd => info!(jail, unit, "Following {names}, as systemd calls it"),
        How::Journal => info!(jail, unit, "Following {names}, as the journal calls it"),
        How::Agent => info!(jail, unit, "Following {names}, which are the agent's own"),
        How::Guess => info!(jail, unit, "Following {names}: the journal holds nothing of either yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let fields = fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned()));
        Entry { matched: Matched(fields.collect()), ..Entry::default() }
    }

    #[test]
    fn fields_of_one_name_are_alternatives_and_different_ones_must_all_hold() {
        let wanted =
            JournalMatch::parse("_SYSTEMD_UNIT=a.service _SYSTEMD_UNIT=b.service _UID=0 + _COMM=sshd")
                .unwrap();
        assert!(wanted.accepts(&entry(&[("_SYSTEMD_UNIT", "b.service"), ("_UID", "0")])));
        assert!(!wanted.accepts(&entry(&[("_SYSTEMD_UNIT", "b.service"), ("_UID", "1000")])));
        assert!(wanted.accepts(&entry(&[("_COMM", "sshd")])));
        assert!(!wanted.accepts(&entry(&[])));
    }

    #[test]
    fn what_is_no_journalmatch_is_refused() {
        for text in ["", "+", "sshd.service"] {
            assert!(JournalMatch::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn units_are_replaced_by_their_names() {
        let wanted = JournalMatch::parse("_SYSTEMD_UNIT=sshd.service _UID=0").unwrap();
        let resolved = wanted.with_units(|_| vec!["ssh.service".into(), "sshd.service".into()]);
        assert_eq!(resolved.to_string(), "_SYSTEMD_UNIT=ssh.service _SYSTEMD_UNIT=sshd.service _UID=0");
    }

    #[test]
    fn a_process_has_the_number_that_python_reads() {
        let process = |syslog_pid: &str| {
            let entry = Entry { syslog_pid: syslog_pid.into(), pid: "42".into(), ..Entry::default() };
            entry.process().unwrap()
        };
        for (text, expected) in [
            ("7", "7"),
            ("007", "7"),
            (" +1_0 ", "10"),
            ("-5", "-5"),
            ("0x1f", "31"),
            ("0B11", "3"),
            ("", "42"),
            ("0", "42"),
            ("-0", "42"),
            ("1__0", "b'1__0'"),
            ("0x", "b'0x'"),
        ] {
            assert_eq!(process(text), expected, "{text:?}");
        }
        assert_eq!(Entry::default().process(), None);
    }

    #[test]
    fn an_entry_is_rendered_as_fail2ban_renders_it() {
        let mut entry = Entry {
            hostname: "vm".into(),
            comm: "sshd".into(),
            pid: "42".into(),
            message: "Failed password\n".into(),
            ..Entry::default()
        };
        assert_eq!(entry.text(), "vm sshd[42]: Failed password\\n");
        entry.identifier = "sshd-session".into();
        entry.syslog_pid = "7".into();
        assert_eq!(entry.text(), "vm sshd-session[7]: Failed password\\n");
        let kernel = Entry {
            hostname: "vm".into(),
            identifier: "kernel".into(),
            monotonic: "62345678".into(),
            message: "IN=eth0".into(),
            ..Entry::default()
        };
        assert_eq!(kernel.text(), "vm kernel: [   62.345678] IN=eth0");
        assert_eq!(Entry { message: "a\nb".into(), ..Entry::default() }.text(), "a\\nb");
    }
}
