//! Where records go: one thread that writes them, so that a disk, a journald or a terminal that hangs holds up nothing.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::{
        fs::{MetadataExt as _, OpenOptionsExt as _},
        net::UnixDatagram,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result};
use libsystemd::logging::{Priority, journal_send};

use super::{
    Level, Place, Target, event,
    format::{Format, Record},
};

/// Records that may wait to be written; more are dropped, counted, and reported in the log.
const WAITING: usize = 10_000;
/// How often it is looked whether the log file is still the one at its path.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long syslog may take for one line.
const SYSLOG_PATIENCE: Duration = Duration::from_secs(1);
/// How long the end of the process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Who may read a log file that is made: its group, too (`adm`, as logrotate sets it up).
const FILE_MODE: u32 = 0o640;

enum Message {
    Record(Record),
    Reopen,
    /// Answered when everything before it is written.
    Finish(SyncSender<()>),
}

/// The way to the thread that writes.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Sink {
    /// # Errors
    /// There is no room for a thread.
    pub(super) fn start(target: Target) -> Result<Self> {
        let (queue, messages) = sync_channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            lost: Arc::clone(&lost),
            place: Output::new(target.place),
            name: target.name,
            format: target.format,
            is_broken: false,
        };
        let thread = thread::Builder::new().name("log".into()).spawn(move || writer.run(&messages));
        thread.context("starting the thread that writes the log")?;
        Ok(Self { queue, lost })
    }

    /// Logs a record, unless too many wait.
    pub(super) fn log(&self, record: Record) {
        if self.queue.try_send(Message::Record(record)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens a log file anew.
    pub(super) fn reopen(&self) {
        // With that many lines in the queue, the file at the path is looked at all the time anyway.
        drop(self.queue.try_send(Message::Reopen));
    }

    /// Waits until everything is written, or it takes too long.
    pub(super) fn finish(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.try_send(Message::Finish(done)).is_ok() {
            // A log that hangs must not keep the process.
            wait.recv_timeout(LAST_LINES).unwrap_or_default();
        }
    }
}

struct Writer {
    lost: Arc<AtomicU64>,
    place: Output,
    name: String,
    format: Format,
    /// Whether the last line could not be written.
    is_broken: bool,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            match message {
                Message::Record(record) => self.record(&record),
                Message::Reopen => {
                    self.place.reopen();
                    event::rolled_over(&self.name);
                }
                // Whoever asked may have lost patience.
                Message::Finish(done) => drop(done.send(())),
            }
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                self.record(&Record {
                    time: SystemTime::now(),
                    level: Level::ERROR,
                    logger: "fail2ban.server".into(),
                    message: format!("{lost} records were lost, because the log is too slow"),
                    fields: Vec::new(),
                });
            }
        }
    }

    /// Writes a record; to stderr where the target does not take it. That is said once, not for each line.
    fn record(&mut self, record: &Record) {
        let Err(error) = self.place.write(record, &self.format) else {
            self.is_broken = false;
            return;
        };
        let mut stderr = io::stderr().lock();
        // When even stderr is gone, there is nobody left to tell.
        if !self.is_broken {
            drop(writeln!(
                stderr,
                "f2b: the log {} cannot be written, so it goes to stderr: {error:#}",
                self.name
            ));
        }
        drop(writeln!(stderr, "{}", self.format.line(record)));
        self.is_broken = true;
    }
}

/// An open target.
enum Output {
    File(LogFile),
    Stdout,
    Stderr,
    Syslog(Syslog),
    Journal,
}

impl Output {
    fn new(place: Place) -> Self {
        match place {
            Place::File(path) => Self::File(LogFile { path, open: None, looked: None }),
            Place::Stdout => Self::Stdout,
            Place::Stderr => Self::Stderr,
            Place::Syslog { socket, facility } => {
                Self::Syslog(Syslog { path: socket, facility, socket: None })
            }
            Place::Journal => Self::Journal,
        }
    }

    fn write(&mut self, record: &Record, format: &Format) -> Result<()> {
        let line = || format.line(record);
        match self {
            Self::File(file) => file.write(&line()),
            Self::Stdout => Ok(writeln!(io::stdout().lock(), "{}", line())?),
            Self::Stderr => Ok(writeln!(io::stderr().lock(), "{}", line())?),
            Self::Syslog(syslog) => syslog.write(record.level, &line()),
            Self::Journal => to_journal(record),
        }
    }

    fn reopen(&mut self) {
        if let Self::File(file) = self {
            file.open = None;
        }
    }
}

/// A log file that may be moved away at any time.
struct LogFile {
    path: PathBuf,
    /// With its device and inode.
    open: Option<(File, (u64, u64))>,
    looked: Option<Instant>,
}

impl LogFile {
    fn write(&mut self, line: &str) -> Result<()> {
        let place = || self.path.display().to_string();
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            let there = fs::metadata(&self.path).ok().map(|file| (file.dev(), file.ino()));
            if self.open.as_ref().is_some_and(|(_, identity)| Some(*identity) != there) {
                self.open = None;
            }
        }
        if self.open.is_none() {
            let file = File::options().append(true).create(true).mode(FILE_MODE).open(&self.path);
            let file = file.with_context(place)?;
            let metadata = file.metadata().with_context(place)?;
            self.open = Some((file, (metadata.dev(), metadata.ino())));
        }
        let Some((file, _)) = &mut self.open else { return Ok(()) };
        // In one write, so that nobody reads half a line.
        file.write_all(format!("{line}\n").as_bytes()).with_context(place)
    }
}

/// The socket of a syslog.
struct Syslog {
    path: PathBuf,
    facility: u8,
    socket: Option<UnixDatagram>,
}

impl Syslog {
    fn write(&mut self, level: Level, line: &str) -> Result<()> {
        let priority = u32::from(self.facility) * 8 + u32::from(level.priority());
        let text = format!("<{priority}>{line}\0");
        // A syslog that was started anew has another socket: once more, then.
        if self.socket.as_ref().is_some_and(|socket| socket.send(text.as_bytes()).is_ok()) {
            return Ok(());
        }
        self.socket = None;
        let socket =
            connect(&self.path).with_context(|| format!("syslog's socket {}", self.path.display()))?;
        socket.send(text.as_bytes()).with_context(|| format!("syslog's socket {}", self.path.display()))?;
        self.socket = Some(socket);
        Ok(())
    }
}

fn connect(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SYSLOG_PATIENCE))?;
    socket.connect(path)?;
    Ok(socket)
}

/// As what fail2ban says to syslog arrives in a journal: `fail2ban.actions[PID]: NOTICE [sshd] Ban IP`, which is what its
/// recidive filter looks for. (What it sends to the journal itself, that filter does not find.) Every field of ours is
/// a field there: `JAIL`, `IP`, `UNTIL`, ….
fn to_journal(record: &Record) -> Result<()> {
    let priority = match record.level.priority() {
        2 => Priority::Critical,
        3 => Priority::Error,
        4 => Priority::Warning,
        5 => Priority::Notice,
        6 => Priority::Info,
        _ => Priority::Debug,
    };
    let of_logger = ["SYSLOG_IDENTIFIER", "LOGGER"].map(|name| (name.to_owned(), record.logger.as_ref()));
    let own = record.fields.iter().filter_map(|(name, value)| {
        let name: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        // Those that begin with _ are journald's own.
        let is_taken = ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "LOGGER"].contains(&name.as_str());
        (!is_taken && name.starts_with(|c: char| c.is_ascii_alphabetic())).then_some((name, value.as_str()))
    });
    let message = format!("{} {}", record.level.name(), record.message);
    journal_send(priority, &message, of_logger.into_iter().chain(own)).context("journald")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str) -> Record {
        Record {
            time: SystemTime::UNIX_EPOCH,
            level: Level::NOTICE,
            logger: "fail2ban.actions".into(),
            message: message.into(),
            fields: Vec::new(),
        }
    }

    fn target(logtarget: &str) -> Target {
        Target::new(logtarget, "/nowhere").unwrap()
    }

    #[test]
    fn a_file_is_followed_through_its_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let sink = Sink::start(target(&format!("{}[format=\"%(message)s\"]", path.display()))).unwrap();
        sink.log(record("first"));
        sink.finish();
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        sink.reopen();
        sink.log(record("second"));
        sink.finish();
        assert_eq!(fs::read_to_string(dir.path().join("log.1")).unwrap(), "first\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "second\n");
    }

    #[test]
    fn syslog_gets_a_priority_and_no_line_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let target = Target::new("SYSLOG[facility=local0]", path.to_str().unwrap()).unwrap();
        let sink = Sink::start(target).unwrap();
        sink.log(record("[sshd] Ban 192.0.2.7"));
        let mut buffer = [0; 200];
        let length = socket.recv(&mut buffer).unwrap();
        let pid = std::process::id();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        assert_eq!(text, format!("<133>fail2ban.actions[{pid}]: NOTICE [sshd] Ban 192.0.2.7\0"));
    }
}
