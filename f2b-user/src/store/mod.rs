//! What outlives the process: bans and who asked for them, how often, and why; up to where logs were read, and what was
//! counted up to there. SQLite.
//!
//! The kernel map outlives the agent too, but not the machine, and it does not know jails. So a store that fails never
//! stops a ban, and one that is slow never delays one: a thread of its own gathers for a moment what is to be written,
//! and writes it at once. What it could not write yet it keeps, up to a bound; beyond that, the agent tells it all bans
//! anew as soon as the disk takes them again ([`Store::needs_all`]).
//!
//! - [`tables`]: the tables, and what is read from and written to them
//! - [`writer`]: the thread

mod tables;
mod writer;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use rusqlite::Connection;
use tokio::sync::oneshot;
use tracing::{error, warn};

use self::{
    tables::Op,
    writer::{Message, Writer},
};
pub use crate::config::StoreSettings as Settings;
use crate::{
    ban::{Subject, Until},
    history::History,
    ticket::{Length, Ticket},
};

/// The file in the state directory.
pub const FILE: &str = "f2b.sqlite3";

/// Among the positions: up to when ends of bans were told.
const ENDED: &str = "ended";

/// What may wait for the thread.
const WAITING: usize = 16_384;

/// The open database.
#[derive(Debug)]
pub struct Store {
    messages: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
    /// Something could not be kept for writing.
    lost: Arc<AtomicBool>,
    /// What was sent by somebody who can wait.
    sent: AtomicUsize,
    purgeage: Duration,
    /// What was there at the start.
    stored: Stored,
}

/// What a store had when it was opened.
#[derive(Debug, Default)]
pub struct Stored {
    /// Those that had not ended.
    pub bans: Vec<StoredBan>,
    /// Those that have ended since [`Store::ended`] was told the last time: while no agent ran.
    pub ended: Vec<StoredBan>,
    /// The sources, and up to where each was read.
    pub positions: Vec<(String, String)>,
}

/// A ban as it is stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredBan {
    pub owner: Arc<str>,
    pub subject: Subject,
    pub until: Until,
    pub started: SystemTime,
    /// From 1.
    pub bancount: u32,
}

impl StoredBan {
    /// As actions are told of it at a start.
    pub fn ticket(&self, evidence: Evidence) -> Ticket {
        let length = match self.until {
            Until::Time(end) => {
                Length::For(end.duration_since(self.started).unwrap_or_default().as_secs_f64().round())
            }
            Until::Forever => Length::Forever,
        };
        let ticket = Ticket::by_hand(&self.owner, self.subject, self.started, length);
        let Evidence { failures, matches, fields } = evidence;
        let fid = fields.iter().find(|(name, _)| name == "fid").map(|(_, value)| value.clone());
        Ticket {
            bancount: self.bancount,
            failures,
            matches,
            fid: fid.unwrap_or(ticket.fid),
            fields,
            restored: true,
            ..ticket
        }
    }
}

/// What led to a ban; nothing to one by hand.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Evidence {
    pub failures: u32,
    /// The last lines, oldest first: at most `dbmaxmatches`.
    pub matches: Vec<String>,
    /// As in a [`Ticket`].
    pub fields: Vec<(String, String)>,
}

/// All bans of an address together (`<ipmatches>`, `<ipfailures>`, …).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Merged {
    pub failures: u32,
    /// The last lines, oldest first.
    pub matches: Vec<String>,
}

impl Store {
    /// Opens or creates the store in `dir`. A damaged file is set aside; what could be read of it goes on.
    ///
    /// # Errors
    /// The directory cannot be made, or the file is of a newer version.
    pub fn open(dir: &Path, settings: Settings, now: SystemTime) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(FILE);
        let mut stored = Stored::default();
        let mut connection = None;
        if let Err(error) = open(&path, &mut connection).and_then(|()| stored.read(&mut connection, now)) {
            if !tables::is_damaged(&error) {
                return Err(error.context(path.display().to_string()));
            }
            drop(connection.take());
            let aside = tables::set_aside(&path).with_context(|| format!("{} is damaged", path.display()))?;
            let (bans, aside) = (stored.bans.len(), aside.display());
            error!(
                bans,
                "{} is damaged, and was renamed to {aside}. The bans that could be read go on: {error:#}",
                path.display()
            );
            open(&path, &mut connection).with_context(|| path.display().to_string())?;
            let connection = connection.as_mut().context("it was just opened")?;
            tables::write(connection, &[Op::Snapshot(stored.bans.clone(), now)], &settings)?;
        }
        let connection = connection.context("it was just opened")?;
        Self::start(connection, Some(path), settings, stored)
    }

    /// A store that forgets, for dry runs and where `dbfile` is `None`.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn in_memory() -> Result<Self> {
        let connection = Connection::open_in_memory()?;
        tables::prepare(&connection)?;
        Self::start(connection, None, Settings::default(), Stored::default())
    }

    fn start(
        connection: Connection,
        path: Option<PathBuf>,
        settings: Settings,
        stored: Stored,
    ) -> Result<Self> {
        let (messages, inbox): (_, Receiver<Message>) = sync_channel(WAITING);
        let lost = Arc::new(AtomicBool::new(false));
        let purgeage = settings.purgeage;
        let writer = Writer::new(connection, path, settings, Arc::clone(&lost));
        let thread = std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&inbox));
        Ok(Self {
            messages,
            thread: Some(thread.context("starting the store's thread")?),
            lost,
            sent: AtomicUsize::new(0),
            purgeage,
            stored,
        })
    }

    /// What was there when it was opened; the second time, nothing.
    pub fn take_stored(&mut self) -> Stored {
        std::mem::take(&mut self.stored)
    }

    /// Remembers a ban that has begun.
    pub fn ban(&self, ticket: &Ticket) {
        let Ticket { failures, matches, fields, .. } = ticket.clone();
        let evidence = Evidence { failures, matches, fields };
        let ban = StoredBan {
            owner: ticket.jail.as_str().into(),
            subject: ticket.subject,
            until: ticket.until(),
            started: ticket.time,
            bancount: ticket.bancount,
        };
        self.write(Op::Ban(ban, Some(evidence)));
    }

    /// Remembers another end of a ban, or one that somebody else has begun.
    pub fn add(&self, ban: StoredBan) {
        self.write(Op::Ban(ban, None));
    }

    /// Forgets a ban, and that there ever was one: an unban by hand. One that ends by itself needs no word.
    pub fn unban(&self, owner: &str, subject: Subject) {
        self.write(Op::Unban { owner: owner.to_owned(), subject });
    }

    /// Remembers up to where a source was read.
    pub fn set_position(&self, source: &str, position: &str, now: SystemTime) {
        self.write(Op::Position { source: source.to_owned(), position: position.to_owned(), now });
    }

    /// Remembers what each jail has counted, for an agent that goes on from there.
    pub fn counted(&self, jails: Vec<(String, Vec<u8>)>) {
        self.write(Op::Counted(jails));
    }

    /// What each jail had [`counted`](Self::counted) when the agent before stopped, part by part; the second time, nothing.
    /// Waits for the disk. An error is the last that comes.
    pub fn take_counted(&self) -> impl Iterator<Item = Result<(String, Vec<u8>)>> + 'static {
        // A million tallies are not in memory twice.
        let (reply, parts) = sync_channel(1);
        let stopped = self.messages.send(Message::TakeCounted { reply }).context("the store has stopped");
        stopped.err().map(Err).into_iter().chain(parts)
    }

    /// All bans that had ended by `now` were ended here: the next agent has nothing to tell of them.
    pub fn ended(&self, now: SystemTime) {
        self.set_position(ENDED, &tables::micros(now).to_string(), now);
    }

    /// Forgets what is too old.
    pub fn purge(&self, now: SystemTime) {
        self.write(Op::Purge(now));
    }

    /// How old what [`purge`](Self::purge) forgets is at least (`dbpurgeage`).
    pub fn purgeage(&self) -> Duration {
        self.purgeage
    }

    /// Whether something was lost since this was asked last: then it must be told [`all`](Self::all) bans. It is not
    /// asked for as long as the disk takes nothing.
    pub fn needs_all(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// These are all bans that hold.
    pub fn all(&self, bans: Vec<StoredBan>, now: SystemTime) {
        self.write(Op::Snapshot(bans, now));
    }

    /// All bans of `subject` that are remembered, by `jail` or by all jails. Waits for the disk: not for the agent's
    /// loop.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn merged(&self, subject: Subject, jail: Option<&str>) -> Result<Merged> {
        merged(&self.messages, subject, jail)
    }

    /// [`merged`](Self::merged) for other threads.
    pub fn merger(&self) -> impl Fn(Subject, Option<&str>) -> Result<Merged> + Send + Sync + 'static {
        let messages = self.messages.clone();
        move |subject, jail| merged(&messages, subject, jail)
    }

    /// Who was banned before. Waits for the disk.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn history(&self) -> Result<History> {
        self.ask(|reply| Message::History { reply })
    }

    /// What led to each of `bans`. Waits for the disk.
    ///
    /// # Errors
    /// The disk does not answer.
    pub fn evidence(&self, bans: &[StoredBan]) -> Result<Vec<Evidence>> {
        self.ask(|reply| Message::Evidence { bans: bans.to_vec(), reply })
    }

    fn ask<T>(&self, message: impl FnOnce(SyncSender<Result<T>>) -> Message) -> Result<T> {
        ask(&self.messages, message)
    }

    /// Waits until there is room for some more. Not for the agent's loop.
    pub fn wait_for_room(&self) {
        if self.sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(WAITING / 2) {
            self.flush();
        }
    }

    /// Waits until everything is written.
    pub fn flush(&self) {
        let (reply, done) = sync_channel(1);
        // Whoever asked waits for it.
        let tell = move || reply.send(()).unwrap_or_default();
        if self.messages.send(Message::Flush(Box::new(tell))).is_ok() && done.recv().is_err() {
            warn!("The store has stopped");
        }
    }

    /// Comes to an end when all that was told so far is written, or given up.
    pub fn flushed(&self) -> impl Future<Output = ()> + 'static {
        let (reply, done) = oneshot::channel();
        // Whoever asked may have given up.
        let tell = move || reply.send(()).unwrap_or_default();
        let is_sent = self.messages.try_send(Message::Flush(Box::new(tell))).is_ok();
        async move {
            if is_sent && done.await.is_err() {
                warn!("The store has stopped");
            }
        }
    }

    fn write(&self, op: Op) {
        if self.messages.try_send(Message::Write(op)).is_err() {
            self.lost.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The thread writes what it has, and ends with its last message.
        let (closed, _inbox) = sync_channel(1);
        drop(std::mem::replace(&mut self.messages, closed));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("The store's thread has panicked");
        }
    }
}

fn open(path: &Path, connection: &mut Option<Connection>) -> Result<()> {
    tables::prepare(connection.insert(Connection::open(path)?))
}

impl Stored {
    /// Reads as much as can be read.
    fn read(&mut self, connection: &mut Option<Connection>, now: SystemTime) -> Result<()> {
        let Some(connection) = connection else { return Ok(()) };
        self.positions = tables::positions(connection)?;
        let ended = self.positions.extract_if(.., |(source, _)| source == ENDED).last();
        let told_until = ended.and_then(|(_, micros)| Some(tables::time(micros.parse().ok()?)));
        let after = told_until.map_or(now, |told| told.min(now));
        let mut owners: Vec<Arc<str>> = Vec::new();
        tables::bans(connection, Some(after), |owner, subject, until, started, bancount| {
            let owner = match owners.iter().find(|known| ***known == *owner) {
                Some(known) => Arc::clone(known),
                None => {
                    owners.push(owner.into());
                    Arc::from(owner)
                }
            };
            let bans = if until.is_over(now) { &mut self.ended } else { &mut self.bans };
            bans.push(StoredBan { owner, subject, until, started, bancount });
        })
    }
}

fn merged(messages: &SyncSender<Message>, subject: Subject, jail: Option<&str>) -> Result<Merged> {
    let jail = jail.map(str::to_owned);
    ask(messages, |reply| Message::Merged { subject, jail, reply })
}

/// Waits for the answer to a message.
fn ask<T>(
    messages: &SyncSender<Message>,
    message: impl FnOnce(SyncSender<Result<T>>) -> Message,
) -> Result<T> {
    let (reply, answer) = sync_channel(1);
    messages.send(message(reply)).context("the store has stopped")?;
    answer.recv().context("the store has stopped")?
}

#[cfg(test)]
mod tests {
    use rusqlite::params;

    use super::*;
    use crate::history::Past;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn open(dir: &Path, now: SystemTime) -> Store {
        Store::open(dir, Settings::default(), now).unwrap()
    }

    fn ticket(jail: &str, ip: &str, started: u64, seconds: f64) -> Ticket {
        let length = if seconds < 0.0 { Length::Forever } else { Length::For(seconds) };
        Ticket::by_hand(jail, ip.parse().unwrap(), at(started), length)
    }

    fn bans(store: &mut Store) -> Vec<(String, String, Until)> {
        let mut bans: Vec<_> = store.take_stored().bans;
        bans.sort_by_key(|ban| ban.until);
        bans.into_iter().map(|ban| (ban.owner.to_string(), ban.subject.to_string(), ban.until)).collect()
    }

    #[test]
    fn bans_survive_the_process_until_they_end_and_are_counted_longer() {
        let dir = tempfile::tempdir().unwrap();
        let (v4, v6) = ("192.0.2.7", "2001:db8::7");
        {
            let store = open(dir.path(), at(0));
            store.ban(&ticket("sshd", v4, 100, 400.0));
            store.ban(&Ticket { bancount: 2, ..ticket("sshd", v4, 200, 400.0) });
            store.ban(&ticket("recidive", v6, 100, -1.0));
            store.ban(&ticket("sshd", v6, 50, 50.0));
            store.set_position("journal", "s=1", at(1));
            store.set_position("journal", "s=2", at(2));
        }
        let mut store = open(dir.path(), at(200));
        let (v4s, v6s) = (v4.parse().unwrap(), v6.parse().unwrap());
        assert_eq!(store.stored.positions, [("journal".to_owned(), "s=2".to_owned())]);
        let history = store.history().unwrap();
        assert_eq!(history.of("sshd", v4s), Some(Past { count: 2, time: at(200) }));
        assert_eq!(history.of("sshd", v6s), Some(Past { count: 1, time: at(50) }));
        let expected = [
            ("sshd".into(), v4.into(), Until::Time(at(600))),
            ("recidive".into(), v6.into(), Until::Forever),
        ];
        assert_eq!(bans(&mut store), expected);
        store.unban("recidive", v6s);
        drop(store);
        let mut store = open(dir.path(), at(600));
        assert_eq!(store.history().unwrap().of("recidive", v6s), None, "an unban forgets");
        assert_eq!(bans(&mut store), []);
    }

    #[test]
    fn a_ban_that_goes_on_knows_what_led_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = vec![field("user", "root'; \u{e9}"), field("fid", "session 7")];
        let lines = |range: std::ops::Range<u32>| range.map(|n| format!("line {n}")).collect::<Vec<_>>();
        let banned =
            Ticket { failures: 5, matches: lines(0..5), fields, ..ticket("sshd", "192.0.2.7", 100, 1000.0) };
        let store =
            Store::open(dir.path(), Settings { maxmatches: 3, ..Settings::default() }, at(100)).unwrap();
        store.ban(&ticket("sshd", "192.0.2.7", 50, 10.0));
        store.ban(&banned);
        drop(store);
        let mut store = open(dir.path(), at(200));
        let bans = store.take_stored().bans;
        let evidence = store.evidence(&bans).unwrap().remove(0);
        let restored = Ticket { matches: lines(2..5), fid: "session 7".into(), restored: true, ..banned };
        assert_eq!(bans[0].ticket(evidence), restored);
        let other = StoredBan { subject: "192.0.2.8".parse().unwrap(), ..bans[0].clone() };
        assert_eq!(store.evidence(&[other]).unwrap(), [Evidence::default()]);
    }

    #[test]
    fn bans_that_have_ended_while_nobody_ran_are_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), at(0));
        for (ip, seconds) in [("192.0.2.1", 50.0), ("192.0.2.2", 150.0), ("192.0.2.3", 1000.0)] {
            store.ban(&ticket("sshd", ip, 0, seconds));
        }
        drop(store);
        let ended = |now| {
            let mut store = open(dir.path(), at(now));
            let stored = store.take_stored();
            store.ended(at(now));
            assert!(stored.positions.is_empty(), "it is no source's");
            stored.ended.iter().map(|ban| ban.subject.to_string()).collect::<Vec<_>>()
        };
        assert!(
            ended(60).is_empty(),
            "a store that does not tell is an earlier version's, which had told of none"
        );
        assert_eq!(ended(160), ["192.0.2.2"]);
        assert!(ended(170).is_empty());
        assert!(ended(90).is_empty(), "the clock was set back");
    }

    #[test]
    fn what_was_counted_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), at(0));
        let taken = |store: &Store| store.take_counted().collect::<Result<Vec<_>>>().unwrap();
        assert!(taken(&store).is_empty());
        let all = |jail: &str, bytes: Vec<u8>| (jail.to_owned(), bytes);
        store.counted(vec![all("gone", vec![1])]);
        store.counted(vec![all("sshd", vec![7; tables::PART + 2]), all("web", Vec::new())]);
        drop(store);
        let store = open(dir.path(), at(1));
        let parts = [all("sshd", vec![7; tables::PART]), all("sshd", vec![7; 2]), all("web", Vec::new())];
        assert_eq!(taken(&store), parts);
        drop(store);
        let store = open(dir.path(), at(2));
        assert!(taken(&store).is_empty(), "whoever is killed leaves nothing");
    }

    #[test]
    fn all_bans_of_an_address_are_told_together() {
        let store = Store::in_memory().unwrap();
        for (jail, started, lines) in
            [("sshd", 1, ["a", "b"]), ("web", 2, ["c", "d"]), ("sshd", 3, ["e", "f"])]
        {
            let matches = lines.map(str::to_owned).to_vec();
            store.ban(&Ticket { failures: 2, matches, ..ticket(jail, "192.0.2.7", started, 9.0) });
        }
        let ip = "192.0.2.7".parse().unwrap();
        let merged = store.merged(ip, None).unwrap();
        assert_eq!((merged.failures, merged.matches.concat().as_str()), (6, "abcdef"));
        let merged = store.merged(ip, Some("sshd")).unwrap();
        assert_eq!((merged.failures, merged.matches.concat().as_str()), (4, "abef"));
        assert_eq!(store.merged("192.0.2.8".parse().unwrap(), None).unwrap(), Merged::default());
    }

    #[test]
    fn what_is_too_old_is_forgotten_and_what_holds_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let day = 86_400;
        let store = open(dir.path(), at(0));
        store.ban(&ticket("a", "192.0.2.1", 0, 600.0));
        store.ban(&ticket("a", "192.0.2.2", 0, 86_400.0));
        store.ban(&ticket("a", "192.0.2.3", 0, -1.0));
        store.ban(&ticket("a", "192.0.2.4", day, 600.0));
        store.set_position(&crate::source::file::source(Path::new("/nonexistent/log")), "1 2 3 4", at(0));
        store.set_position("journal", "s=1", at(0));
        store.purge(at(day + 7200));
        drop(store);
        let store = open(dir.path(), at(day + 7200));
        let history = store.history().unwrap();
        let count = |ip: &str| history.of("a", ip.parse().unwrap()).map(|past| past.count);
        let counts = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(count);
        assert_eq!(counts, [None, Some(1), Some(1), Some(1)]);
        assert_eq!(store.stored.positions, [("journal".to_owned(), "s=1".to_owned())]);
    }

    #[test]
    fn a_store_that_grows_too_large_gives_up_its_oldest_history() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { max_bytes: 1 << 20, ..Settings::default() };
        let store = Store::open(dir.path(), settings, at(0)).unwrap();
        for n in 0..2000u32 {
            let ip = std::net::Ipv4Addr::from_bits(0xc000_0200 + n).to_string();
            let matches = vec!["x".repeat(1000)];
            store.ban(&Ticket { matches, ..ticket("a", &ip, n.into(), 1e6) });
        }
        store.purge(at(2000));
        store.flush();
        let size = fs::metadata(dir.path().join(FILE)).unwrap().len();
        assert!(size < 1_200_000, "{size} bytes");
        assert_eq!(store.merged("192.0.2.0".parse().unwrap(), None).unwrap().matches.len(), 0);
        drop(store);
        assert_eq!(open(dir.path(), at(2000)).stored.bans.len(), 2000);
    }

    #[test]
    fn the_first_version_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let connection = Connection::open(dir.path().join(FILE)).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE bans (jail TEXT NOT NULL, ip TEXT NOT NULL, until INTEGER, PRIMARY KEY (ip, jail)) WITHOUT ROWID;
                 CREATE TABLE positions (source TEXT PRIMARY KEY, position TEXT NOT NULL) WITHOUT ROWID;
                 PRAGMA user_version = 1;",
            )
            .unwrap();
        connection
            .execute("INSERT INTO bans VALUES ('sshd', '192.0.2.7', ?1)", params![600_000_000])
            .unwrap();
        connection.execute("INSERT INTO positions VALUES ('journal', 's=1')", []).unwrap();
        drop(connection);
        let mut store = open(dir.path(), at(200));
        assert_eq!(store.stored.positions.len(), 1);
        assert_eq!(bans(&mut store), [("sshd".into(), "192.0.2.7".into(), Until::Time(at(600)))]);
    }

    #[test]
    fn the_second_version_is_taken_over_with_what_led_to_its_bans() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path(), at(0));
        let matches = vec!["a line".to_owned()];
        store.ban(&Ticket { failures: 2, matches: matches.clone(), ..ticket("sshd", "192.0.2.7", 0, 600.0) });
        drop(store);
        let connection = Connection::open(dir.path().join(FILE)).unwrap();
        connection.execute_batch("ALTER TABLE history DROP COLUMN fields; PRAGMA user_version = 2").unwrap();
        drop(connection);
        let mut store = open(dir.path(), at(200));
        let bans = store.take_stored().bans;
        let expected = Evidence { failures: 2, matches, fields: Vec::new() };
        assert_eq!(store.evidence(&bans).unwrap(), [expected]);
    }

    #[test]
    fn a_newer_store_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), at(0)));
        let connection = Connection::open(dir.path().join(FILE)).unwrap();
        connection.pragma_update(None, "user_version", tables::SCHEMA + 1).unwrap();
        let error = format!("{:#}", Store::open(dir.path(), Settings::default(), at(0)).unwrap_err());
        assert!(error.contains("written by a newer f2b"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_what_can_be_read_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(FILE),
            "this is no database, but it is as long as the header of one: ".repeat(4),
        )
        .unwrap();
        let store = open(dir.path(), at(0));
        for n in 0..5000u32 {
            let ip = std::net::Ipv4Addr::from_bits(0xc000_0200 + n).to_string();
            store.ban(&ticket("a", &ip, 0, 1e6));
        }
        drop(store);
        let aside = |dir: &Path| {
            let names =
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names
                .filter(|name| name.contains("damaged") && !name.ends_with("-wal") && !name.ends_with("-shm"))
                .count()
        };
        assert_eq!(aside(dir.path()), 1);
        // In the middle of it.
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 20_000].fill(0xff);
        fs::write(&path, bytes).unwrap();
        std::thread::sleep(Duration::from_millis(1100));
        let store = open(dir.path(), at(1));
        assert_eq!(aside(dir.path()), 2);
        let read = store.stored.bans.len();
        assert!((1..5000).contains(&read), "{read} bans");
        drop(store);
        assert_eq!(open(dir.path(), at(1)).stored.bans.len(), read);
    }
}
