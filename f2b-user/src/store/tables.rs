//! The tables, and what is read from and written to them. Times are microseconds since 1970.

use std::{
    iter,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, anyhow, bail};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::{Evidence, Merged, Settings, StoredBan};
use crate::{
    ban::{Subject, Until},
    history::OUTDATED_FACTOR,
    source::file,
    tally,
};

/// Version of the tables, in SQLite's `user_version`.
pub(super) const SCHEMA: i64 = 4;

const CREATE: &str = "
    -- the last ban of each address by each jail: those that hold, and those that count for bantime.increment
    CREATE TABLE IF NOT EXISTS bans (
        jail TEXT NOT NULL,
        ip TEXT NOT NULL,
        -- NULL: for ever
        until INTEGER,
        started INTEGER NOT NULL DEFAULT 0,
        bancount INTEGER NOT NULL DEFAULT 1,
        PRIMARY KEY (ip, jail)
    ) WITHOUT ROWID;
    -- every ban, with what led to it
    CREATE TABLE IF NOT EXISTS history (
        jail TEXT NOT NULL,
        ip TEXT NOT NULL,
        started INTEGER NOT NULL,
        failures INTEGER NOT NULL,
        -- the lines, a JSON array
        matches TEXT NOT NULL,
        -- what the groups of the expression caught, a JSON array of pairs
        fields TEXT NOT NULL DEFAULT '[]'
    );
    CREATE INDEX IF NOT EXISTS history_ip ON history (ip);
    CREATE INDEX IF NOT EXISTS history_started ON history (started);
    CREATE TABLE IF NOT EXISTS positions (
        source TEXT PRIMARY KEY,
        -- up to where lines were decided on: the journal's cursor, a place in a file; up to when ends of bans were told
        position TEXT NOT NULL,
        -- when that was written
        seen INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    -- what an agent had counted when it stopped, until the next one takes it: a part of a jail's tallies in each row
    CREATE TABLE IF NOT EXISTS counted (
        jail TEXT NOT NULL,
        tallies BLOB NOT NULL
    );
";

/// Bytes of tallies in a row: a megabyte, and none is torn apart.
pub(super) const PART: usize = 25_000 * tally::BYTES;

/// Before this, bans had no beginning: they begin with the change.
const FROM_1: &str = "
    ALTER TABLE bans ADD COLUMN started INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE bans ADD COLUMN bancount INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE positions ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
    UPDATE bans SET started = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
    UPDATE positions SET seen = CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
";

/// Before this, what a ban's groups caught was forgotten with the agent.
const FROM_2: &str = "ALTER TABLE history ADD COLUMN fields TEXT NOT NULL DEFAULT '[]';";

/// What is to be written.
#[derive(Debug)]
pub(super) enum Op {
    /// A ban, with what led to it if it is a new one.
    Ban(StoredBan, Option<Evidence>),
    /// Forgets a ban, and that there ever was one.
    Unban {
        owner: String,
        subject: Subject,
    },
    Position {
        source: String,
        position: String,
        now: SystemTime,
    },
    /// These are all bans that hold.
    Snapshot(Vec<StoredBan>, SystemTime),
    Purge(SystemTime),
    /// What each jail had counted.
    Counted(Vec<(String, Vec<u8>)>),
}

pub(super) fn micros(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn time(micros: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

fn until_micros(until: Until) -> Option<i64> {
    match until {
        Until::Forever => None,
        Until::Time(end) => Some(micros(end)),
    }
}

/// Makes the tables, or brings them up to date.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    // Committed bans survive the process at once and the machine's crash within moments: enough for a ban.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "journal_size_limit", 16 * 1024 * 1024)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > SCHEMA {
        bail!("written by a newer f2b (schema {version}, this one knows {SCHEMA}); use that version");
    }
    let from = match version {
        1 => FROM_1,
        2 => FROM_2,
        _ => "",
    };
    connection.execute_batch(&format!("BEGIN; {from} {CREATE} PRAGMA user_version = {SCHEMA}; COMMIT;"))?;
    // Only then does what was made without it give room back.
    let auto_vacuum: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    if auto_vacuum == 0 {
        connection.execute_batch("VACUUM")?;
    }
    Ok(())
}

/// Hands those bans to `take` that end later than `after`; without it, all, also those that only count.
pub(super) fn bans(
    connection: &Connection,
    after: Option<SystemTime>,
    mut take: impl FnMut(&str, Subject, Until, SystemTime, u32),
) -> Result<()> {
    let mut select = connection.prepare(
        "SELECT jail, ip, until, started, bancount FROM bans WHERE ?1 IS NULL OR until IS NULL OR until > ?1",
    )?;
    let mut rows = select.query([after.map(micros)])?;
    while let Some(row) = rows.next()? {
        let text = row.get_ref(1)?.as_str()?;
        let subject = text.parse().map_err(|error| anyhow!("bans: \"{text}\": {error}"))?;
        let until = row.get::<_, Option<i64>>(2)?.map_or(Until::Forever, |end| Until::Time(time(end)));
        take(row.get_ref(0)?.as_str()?, subject, until, time(row.get(3)?), row.get(4)?);
    }
    Ok(())
}

/// The sources, and up to where each was read.
pub(super) fn positions(connection: &Connection) -> Result<Vec<(String, String)>> {
    let mut select = connection.prepare("SELECT source, position FROM positions")?;
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// What led to a ban that is remembered; nothing if that was forgotten.
pub(super) fn evidence(connection: &Connection, ban: &StoredBan) -> Result<Evidence> {
    let mut select = connection.prepare_cached(
        "SELECT failures, matches, fields FROM history WHERE ip = ?1 AND jail = ?2 ORDER BY started DESC LIMIT 1",
    )?;
    let mut rows = select.query(params![ban.subject.to_string(), ban.owner])?;
    let Some(row) = rows.next()? else { return Ok(Evidence::default()) };
    let (matches, fields) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
    Ok(Evidence {
        failures: row.get(0)?,
        matches: serde_json::from_str(matches)?,
        fields: serde_json::from_str(fields)?,
    })
}

/// Hands to `take` what jails had counted when the agent before stopped, in parts of at most [`PART`].
pub(super) fn take_counted(connection: &mut Connection, mut take: impl FnMut(String, Vec<u8>)) -> Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut select = transaction.prepare("SELECT jail, tallies FROM counted")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            take(row.get(0)?, row.get(1)?);
        }
    }
    // What is counted from now on is not in it.
    transaction.execute("DELETE FROM counted", [])?;
    Ok(transaction.commit()?)
}

/// All bans of `subject` together, by `jail` or by all (`Fail2BanDb.getBansMerged`).
pub(super) fn merged(
    connection: &Connection,
    subject: Subject,
    jail: Option<&str>,
    maxmatches: usize,
) -> Result<Merged> {
    let mut select = connection.prepare_cached(
        "SELECT failures, matches FROM history WHERE ip = ?1 AND (?2 IS NULL OR jail = ?2) ORDER BY started DESC",
    )?;
    let mut rows = select.query(params![subject.to_string(), jail])?;
    let mut merged = Merged::default();
    while let Some(row) = rows.next()? {
        merged.failures = merged.failures.saturating_add(row.get(0)?);
        let lines: Vec<String> = serde_json::from_str(row.get_ref(1)?.as_str()?)?;
        let room = maxmatches.saturating_sub(merged.matches.len());
        // The newest come first here, and last in the list.
        merged.matches.extend(lines.into_iter().rev().take(room));
    }
    merged.matches.reverse();
    Ok(merged)
}

/// Writes all of `ops`, or nothing.
pub(super) fn write(connection: &mut Connection, ops: &[Op], settings: &Settings) -> Result<()> {
    let transaction = connection.transaction()?;
    for op in ops {
        match op {
            Op::Ban(ban, evidence) => {
                write_ban(&transaction, ban)?;
                if let Some(Evidence { failures, matches, fields }) = evidence {
                    let first = matches.len().saturating_sub(settings.maxmatches);
                    let matches = serde_json::to_string(&matches[first..])?;
                    let fields = serde_json::to_string(fields)?;
                    let mut insert = transaction.prepare_cached(
                        "INSERT INTO history (jail, ip, started, failures, matches, fields) \
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    )?;
                    let (ip, started) = (ban.subject.to_string(), micros(ban.started));
                    insert.execute(params![ban.owner, ip, started, failures, matches, fields])?;
                }
            }
            Op::Unban { owner, subject } => {
                for table in ["bans", "history"] {
                    let mut delete = transaction
                        .prepare_cached(&format!("DELETE FROM {table} WHERE jail = ?1 AND ip = ?2"))?;
                    delete.execute(params![owner, subject.to_string()])?;
                }
            }
            Op::Position { source, position, now } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO positions (source, position, seen) VALUES (?1, ?2, ?3)",
                )?;
                insert.execute(params![source, position, micros(*now)])?;
            }
            Op::Snapshot(bans, now) => {
                transaction.execute(
                    "UPDATE bans SET until = ?1 WHERE until IS NULL OR until > ?1",
                    [micros(*now)],
                )?;
                bans.iter().try_for_each(|ban| write_ban(&transaction, ban))?;
            }
            Op::Purge(now) => purge(&transaction, *now, settings)?,
            Op::Counted(jails) => {
                transaction.execute("DELETE FROM counted", [])?;
                let mut insert =
                    transaction.prepare_cached("INSERT INTO counted (jail, tallies) VALUES (?1, ?2)")?;
                for (jail, tallies) in jails {
                    let (first, rest) = tallies.split_at(tallies.len().min(PART));
                    for part in iter::once(first).chain(rest.chunks(PART)) {
                        insert.execute(params![jail, part])?;
                    }
                }
            }
        }
    }
    transaction.commit()?;
    if ops.iter().any(|op| matches!(op, Op::Purge(_))) {
        // In several steps, as many as there are: one gives back only what its row asks for.
        let mut vacuum = connection.prepare("PRAGMA incremental_vacuum")?;
        let mut rows = vacuum.query([])?;
        while rows.next()?.is_some() {}
    }
    Ok(())
}

fn write_ban(connection: &Connection, ban: &StoredBan) -> Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR REPLACE INTO bans (jail, ip, until, started, bancount) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let (ip, until) = (ban.subject.to_string(), until_micros(ban.until));
    insert.execute(params![ban.owner, ip, until, micros(ban.started), ban.bancount])?;
    Ok(())
}

/// Forgets what is older than `dbpurgeage`, and more if the file is too large all the same. Bans that hold stay.
fn purge(connection: &Connection, now: SystemTime, settings: &Settings) -> Result<()> {
    let before = micros(now.checked_sub(settings.purgeage).unwrap_or(SystemTime::UNIX_EPOCH));
    connection.execute("DELETE FROM history WHERE started < ?1", [before])?;
    connection.execute(
        "DELETE FROM bans WHERE until <= ?1 AND started < ?2 AND until + ?3 * MAX(until - started, 0) < ?2",
        params![micros(now), before, OUTDATED_FACTOR - 1],
    )?;
    let mut select = connection.prepare("SELECT source FROM positions WHERE seen < ?1")?;
    let old: Vec<String> = select.query_map([before], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for source in old {
        if file::path_of(&source).is_some_and(|path| !path.exists()) {
            connection.execute("DELETE FROM positions WHERE source = ?1", [&source])?;
        }
    }
    // A quarter of the history at a time, the oldest first; then bans that only count.
    while size(connection)? > settings.max_bytes {
        let quarter =
            "SELECT started FROM history ORDER BY started LIMIT 1 OFFSET (SELECT COUNT(*) / 4 FROM history)";
        let oldest: Option<i64> = connection.query_row(quarter, [], |row| row.get(0)).optional()?;
        let deleted = match oldest {
            Some(oldest) => connection.execute("DELETE FROM history WHERE started <= ?1", [oldest])?,
            None => connection.execute("DELETE FROM bans WHERE until <= ?1", [micros(now)])?,
        };
        if deleted == 0 {
            break;
        }
    }
    Ok(())
}

/// The bytes that are in use.
fn size(connection: &Connection) -> Result<u64> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = pragma("page_count")? - pragma("freelist_count")?;
    Ok(u64::try_from(pages * pragma("page_size")?)?)
}

/// Moves a damaged file out of the way, with what belongs to it. Returns its new name.
pub(super) fn set_aside(path: &Path) -> Result<std::path::PathBuf> {
    let seconds = micros(SystemTime::now()) / 1_000_000;
    let aside = path.with_extension(format!("damaged-{seconds}"));
    for suffix in ["", "-wal", "-shm"] {
        let with = |path: &Path| std::path::PathBuf::from(format!("{}{suffix}", path.display()));
        match std::fs::rename(with(path), with(&aside)) {
            Err(error) if !suffix.is_empty() && error.kind() == std::io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(aside)
}

/// Reads all of what is on the disk, and looks whether it is a database.
pub(super) fn check(path: &Path) -> Result<()> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(damaged, Some(found)).into())
}

/// Whether the file, and not the disk or what is asked, is at fault.
pub(super) fn is_damaged(error: &anyhow::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let code = error.chain().find_map(|cause| cause.downcast_ref::<rusqlite::Error>()?.sqlite_error_code());
    matches!(code, Some(DatabaseCorrupt | NotADatabase))
}
