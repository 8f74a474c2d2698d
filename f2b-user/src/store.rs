//! What outlives the process: bans and who asked for them, in SQLite.
//!
//! The kernel map outlives the agent too, but not the machine, and it does not know jails. A store that fails never
//! stops a ban: the caller reports the error and goes on.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::{Connection, params};

use crate::ban::{Subject, Until};

/// The file in the state directory.
pub const FILE: &str = "f2b.sqlite3";

/// Version of the tables, in SQLite's `user_version`.
const SCHEMA: i64 = 1;

const CREATE: &str = "
    CREATE TABLE IF NOT EXISTS bans (
        jail TEXT NOT NULL,
        ip TEXT NOT NULL,
        -- microseconds since 1970; NULL: for ever
        until INTEGER,
        PRIMARY KEY (ip, jail)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS positions (
        source TEXT PRIMARY KEY,
        -- up to where lines were decided on: the journal's cursor, a place in a file
        position TEXT NOT NULL
    ) WITHOUT ROWID;
";

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

/// A ban as it was stored.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoredBan {
    pub owner: String,
    pub subject: Subject,
    pub until: Until,
}

impl Store {
    /// Opens or creates the store in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let path = dir.join(FILE);
        let connection = Connection::open(&path).with_context(|| format!("opening {}", path.display()))?;
        Self::prepare(connection).with_context(|| path.display().to_string())
    }

    /// A store that forgets, for dry runs and when the disk fails.
    pub fn in_memory() -> Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    fn prepare(connection: Connection) -> Result<Self> {
        // Committed bans survive the process at once and the machine's crash within moments: enough for a ban.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version > SCHEMA {
            bail!("written by a newer f2b (schema {version}, this one knows {SCHEMA}); use that version");
        }
        connection.execute_batch(CREATE)?;
        connection.pragma_update(None, "user_version", SCHEMA)?;
        Ok(Self { connection })
    }

    /// Remembers a ban.
    pub fn ban(&self, owner: &str, subject: Subject, until: Until) -> Result<()> {
        let until = match until {
            Until::Forever => None,
            Until::Time(end) => {
                let since_epoch = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Some(i64::try_from(since_epoch.as_micros())?)
            }
        };
        let mut insert = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO bans (jail, ip, until) VALUES (?1, ?2, ?3)")?;
        insert.execute(params![owner, subject.to_string(), until])?;
        Ok(())
    }

    /// Forgets a ban.
    pub fn unban(&self, owner: &str, subject: Subject) -> Result<()> {
        let mut delete = self.connection.prepare_cached("DELETE FROM bans WHERE jail = ?1 AND ip = ?2")?;
        delete.execute(params![owner, subject.to_string()])?;
        Ok(())
    }

    /// Remembers up to where a source was read.
    pub fn set_position(&self, source: &str, position: &str) -> Result<()> {
        let mut insert = self
            .connection
            .prepare_cached("INSERT OR REPLACE INTO positions (source, position) VALUES (?1, ?2)")?;
        insert.execute(params![source, position])?;
        Ok(())
    }

    /// The sources, and up to where each was read.
    pub fn positions(&self) -> Result<Vec<(String, String)>> {
        let mut select = self.connection.prepare("SELECT source, position FROM positions")?;
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The bans that are not over at `now`; the others are forgotten.
    pub fn bans(&self, now: SystemTime) -> Result<Vec<StoredBan>> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = i64::try_from(now.as_micros())?;
        self.connection.execute("DELETE FROM bans WHERE until <= ?1", [now])?;
        let mut select = self.connection.prepare("SELECT jail, ip, until FROM bans")?;
        let rows = select.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<i64>>(2)?))
        })?;
        rows.map(|row| {
            let (owner, text, until) = row?;
            let subject = text.parse().map_err(|error| anyhow!("bans: \"{text}\": {error}"))?;
            let until = until.map_or(Until::Forever, |micros| {
                Until::Time(SystemTime::UNIX_EPOCH + Duration::from_micros(micros.unsigned_abs()))
            });
            Ok(StoredBan { owner, subject, until })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn bans_survive_the_process_until_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let (v4, v6) = ("192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap());
        {
            let store = Store::open(dir.path()).unwrap();
            store.ban("sshd", v4, Until::Time(at(500))).unwrap();
            store.ban("sshd", v4, Until::Time(at(600))).unwrap();
            store.ban("recidive", v6, Until::Forever).unwrap();
            store.ban("sshd", v6, Until::Time(at(100))).unwrap();
            assert_eq!(store.positions().unwrap(), []);
            store.set_position("journal", "s=1").unwrap();
            store.set_position("journal", "s=2").unwrap();
        }
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.positions().unwrap(), [("journal".to_owned(), "s=2".to_owned())]);
        let mut bans = store.bans(at(200)).unwrap();
        bans.sort_by_key(|ban| ban.until);
        let ban = |owner: &str, subject, until| StoredBan { owner: owner.into(), subject, until };
        let expected = [ban("sshd", v4, Until::Time(at(600))), ban("recidive", v6, Until::Forever)];
        assert_eq!(bans, expected);
        store.unban("recidive", v6).unwrap();
        assert_eq!(store.bans(at(600)).unwrap(), []);
    }

    #[test]
    fn a_newer_store_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        drop(Store::open(dir.path()).unwrap());
        let connection = Connection::open(dir.path().join(FILE)).unwrap();
        connection.pragma_update(None, "user_version", SCHEMA + 1).unwrap();
        let error = format!("{:#}", Store::open(dir.path()).unwrap_err());
        assert!(error.contains("written by a newer f2b"), "{error}");
    }
}
