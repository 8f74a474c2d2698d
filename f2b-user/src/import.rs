//! What fail2ban remembers, for an agent that takes over from it: its database (version 4, `server/database.py`), or what
//! `fail2ban-client banned` prints.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use regex::Regex;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

use crate::{
    ban::{Subject, Until},
    source::file,
};

/// What an SQLite file begins with.
const SQLITE: &[u8] = b"SQLite format 3\0";
/// The version of the tables since fail2ban 0.11.
const VERSION: i64 = 4;
/// The ban time of bans that an older version had stored: unknown.
const UNKNOWN: f64 = -2.0;
/// The largest text: a million addresses with room.
const MAX_TEXT: u64 = 256 * 1024 * 1024;

/// A ban that somebody else has made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Imported {
    pub jail: String,
    pub address: Subject,
    /// Seconds since 1970.
    pub started: f64,
    /// Seconds; -1: for ever. Nothing: the jail's.
    pub bantime: Option<f64>,
    /// From 1.
    pub bancount: u32,
}

/// All that there was.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The last ban of each address by each jail: those that hold, and those that only count.
    pub bans: Vec<Imported>,
    /// The names under which the store has files, and up to where they were read.
    pub positions: Vec<(String, String)>,
    /// What cannot be taken over, and why, a sentence each.
    pub left_out: Vec<String>,
}

impl Imported {
    /// When it ends. `bantime` is the jail's: seconds, or for ever.
    pub fn until(&self, bantime: Option<f64>) -> Until {
        let seconds = match self.bantime {
            Some(-1.0) => None,
            Some(seconds) => Some(seconds),
            None => bantime,
        };
        let Some(seconds) = seconds else { return Until::Forever };
        let end = Duration::try_from_secs_f64((self.started + seconds).max(0.0));
        let end = end.ok().and_then(|end| SystemTime::UNIX_EPOCH.checked_add(end));
        end.map_or(Until::Forever, Until::Time)
    }
}

/// Reads a database or a text; `-` is a text from stdin. `now` is when the bans of a text begin.
///
/// # Errors
/// It is neither of both, or of another version.
pub fn read(path: &Path, now: SystemTime) -> Result<Found> {
    let shown = path.display();
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_TEXT).read_to_string(&mut text).context("reading stdin")?;
        return banned(&text, now).context("stdin");
    }
    let mut opened = File::open(path).with_context(|| format!("opening {shown}"))?;
    let mut head = [0; SQLITE.len()];
    let is_database = opened.read_exact(&mut head).is_ok() && head == SQLITE;
    if is_database {
        return database(path).with_context(|| shown.to_string());
    }
    let opened = File::open(path).with_context(|| format!("opening {shown}"))?;
    opened.take(MAX_TEXT).read_to_string(&mut text).with_context(|| format!("reading {shown}"))?;
    banned(&text, now).with_context(|| shown.to_string())
}

fn database(path: &Path) -> Result<Found> {
    // fail2ban may be writing to it.
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let version: Option<i64> = connection
        .query_row("SELECT version FROM fail2banDb LIMIT 1", [], |row| row.get(0))
        .optional()
        .context("it is no database of fail2ban")?;
    if version != Some(VERSION) {
        bail!(
            "its version is {}, and not {VERSION}; start a fail2ban from 0.11 on with it once",
            version.map_or_else(|| "unknown".to_owned(), |version| version.to_string())
        );
    }
    let mut found = Found::default();
    let mut select =
        connection.prepare("SELECT jail, ip, timeofban, bantime, bancount FROM bips ORDER BY timeofban")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (jail, ip): (String, String) = (row.get(0)?, row.get(1)?);
        let Ok(address) = ip.parse::<Subject>() else {
            found.left_out.push(format!("[{jail}] {ip}: it is no address that can be banned"));
            continue;
        };
        let bantime: f64 = row.get(3)?;
        found.bans.push(Imported {
            jail,
            address,
            started: row.get(2)?,
            bantime: (bantime != UNKNOWN).then_some(bantime),
            bancount: row.get::<_, i64>(4)?.clamp(1, u32::MAX.into()) as u32,
        });
    }
    // A file that several jails read goes on where the slowest of them was.
    let mut select = connection.prepare(
        "SELECT path, firstlinemd5, MIN(lastfilepos) FROM logs WHERE path LIKE '/%' GROUP BY path",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let path: String = row.get(0)?;
        let (hash, offset): (Option<String>, f64) = (row.get(1)?, row.get(2)?);
        match position(Path::new(&path), hash.as_deref(), offset as u64) {
            Ok(position) => found.positions.push((file::source(Path::new(&path)), position)),
            Err(error) => found.left_out.push(format!("{path} is read from the find window on: {error:#}")),
        }
    }
    Ok(found)
}

/// The same place in the file, if it is still the same file (`FileContainer.open`).
fn position(path: &Path, hash: Option<&str>, offset: u64) -> Result<String> {
    let opened = File::open(path)?;
    let mut first = Vec::new();
    BufReader::new(&opened).take(1 << 20).read_until(b'\n', &mut first)?;
    let digest = Sha1::digest(&first);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if hash != Some(digest.as_str()) {
        bail!("its first line is another one");
    }
    if opened.metadata()?.len() < offset {
        bail!("it is shorter than it was");
    }
    file::position(&opened, offset)
}

#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static TOKEN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\s*(?:([\[\]{}:,])|'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")"#).unwrap());

/// What `fail2ban-client banned` prints: `[{'sshd': ['192.0.2.1']}, {'web': []}]`. It does not tell times: bans begin
/// now, and last as long as the jail's.
fn banned(text: &str, now: SystemTime) -> Result<Found> {
    let wrong = || "it is neither fail2ban's database nor what `fail2ban-client banned` prints, like [{'sshd': ['192.0.2.1']}]";
    let started = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let (mut found, mut jail, mut depth) = (Found::default(), None, 0u32);
    let mut rest = text.trim();
    let mut last = None;
    while !rest.is_empty() {
        let token = TOKEN.captures(rest).filter(|token| token.get(0).is_some_and(|all| all.start() == 0));
        let token = token.with_context(wrong)?;
        rest = rest[token[0].len()..].trim_start();
        match (token.get(1).map(|mark| mark.as_str()), token.get(2).or(token.get(3))) {
            (Some("["), _) => depth += 1,
            (Some("]"), _) => depth = depth.checked_sub(1).with_context(wrong)?,
            (Some(":"), _) => jail = last.take(),
            (Some(_), _) => {}
            (None, Some(word)) => {
                last = Some(word.as_str().to_owned());
                let Some(jail) = jail.as_ref().filter(|_| depth == 2) else { continue };
                let (jail, ip): (&String, _) = (jail, word.as_str());
                match ip.parse::<Subject>() {
                    Ok(address) => found.bans.push(Imported {
                        jail: jail.clone(),
                        address,
                        started,
                        bantime: None,
                        bancount: 1,
                    }),
                    Err(_) => {
                        found.left_out.push(format!("[{jail}] {ip}: it is no address that can be banned"))
                    }
                }
            }
            (None, None) => bail!(wrong()),
        }
    }
    if depth != 0 || !text.trim().starts_with('[') {
        bail!(wrong());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_prints_is_read() {
        let text =
            "[{'sshd': ['192.0.2.1', '2001:db8::1', 'root']}, {'web': []}, {'a b': [\"192.0.2.0/24\"]}]\n";
        let found = banned(text, SystemTime::UNIX_EPOCH + Duration::from_secs(100)).unwrap();
        let bans: Vec<_> = found.bans.iter().map(|ban| format!("{} {}", ban.jail, ban.address)).collect();
        assert_eq!(bans, ["sshd 192.0.2.1", "sshd 2001:db8::1", "a b 192.0.2.0/24"]);
        assert_eq!(found.left_out, ["[sshd] root: it is no address that can be banned"]);
        assert_eq!(
            found.bans[0].until(Some(600.0)),
            Until::Time(SystemTime::UNIX_EPOCH + Duration::from_secs(700))
        );
        assert_eq!(found.bans[0].until(None), Until::Forever);
        assert_eq!(banned("[]", SystemTime::UNIX_EPOCH).unwrap(), Found::default());
        for wrong in ["", "nonsense", "[{'sshd': ['192.0.2.1'", "]", "Status for the jail: sshd"] {
            assert!(banned(wrong, SystemTime::UNIX_EPOCH).is_err(), "{wrong}");
        }
    }
}
