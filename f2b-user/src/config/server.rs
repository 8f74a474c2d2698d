//! `fail2ban.conf`: what concerns fail2ban's server as a whole (`client/fail2banreader.py`).

use std::{
    fs,
    net::{Ipv6Addr, TcpListener},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{
    dialect::{Options, Tree},
    jail::is_true,
    time,
};

/// How much is remembered, and how long (`dbfile`, `dbpurgeage`, `dbmaxmatches`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StoreSettings {
    /// Nothing survives the agent, if `dbfile` is `None`. A name is not ours to write to: fail2ban may use it.
    pub is_on: bool,
    /// `dbpurgeage`
    pub purgeage: Duration,
    /// `dbmaxmatches`: lines for each ban.
    pub maxmatches: usize,
    /// What the file may grow to, in bytes, before history goes that `dbpurgeage` would keep.
    pub max_bytes: u64,
}

impl Default for StoreSettings {
    /// fail2ban's values (`server/database.py`).
    fn default() -> Self {
        Self {
            is_on: true,
            purgeage: Duration::from_secs(86_400),
            maxmatches: 10,
            max_bytes: 512 * 1024 * 1024,
        }
    }
}

/// What `fail2ban.conf` says about the log, as written.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LogOptions {
    pub loglevel: Option<String>,
    pub logtarget: Option<String>,
    pub syslogsocket: Option<String>,
}

impl LogOptions {
    pub(super) fn new(server: &Options) -> Self {
        let text = |name: &str| server.get(name).map(|value| value.text.clone());
        Self { loglevel: text("loglevel"), logtarget: text("logtarget"), syslogsocket: text("syslogsocket") }
    }
}

const DEFINITION: [&str; 9] = [
    "loglevel",
    "logtarget",
    "syslogsocket",
    "socket",
    "pidfile",
    "allowipv6",
    "dbfile",
    "dbmaxmatches",
    "dbpurgeage",
];
const LEVELS: [&str; 12] = [
    "CRITICAL",
    "FATAL",
    "ERROR",
    "WARNING",
    "WARN",
    "NOTICE",
    "INFO",
    "MSG",
    "DEBUG",
    "TRACEDEBUG",
    "HEAVYDEBUG",
    "NOTSET",
];

/// The options that `fail2ban.conf` sets, interpolated; none if there is no such file.
///
/// # Errors
/// What fail2ban refuses to start with: a file that is not in the dialect, or a log level that does not exist.
pub(super) fn options(tree: &Tree) -> Result<Options> {
    let mut options = Options::new();
    let Some(sections) = tree.sections("fail2ban")? else {
        return Ok(options);
    };
    for name in DEFINITION {
        if let Some(value) = sections.get("Definition", name, &Options::new())? {
            options.insert(name.to_owned(), value);
        }
    }
    if let Some(value) = sections.get("Thread", "stacksize", &Options::new())? {
        options.insert("stacksize".into(), value);
    }
    if let Some(level) = options.get("loglevel")
        && !LEVELS.contains(&level.text.to_uppercase().as_str())
        && (level.text.is_empty() || !level.text.chars().all(|c| c.is_ascii_digit()))
    {
        bail!("{}: loglevel = {} does not exist; write for example INFO", level.place, level.text);
    }
    Ok(options)
}

/// Whether actions are started for IPv6, and names are looked up there (`allowipv6`); `auto`: if this machine has it.
pub(super) fn allows_ipv6(options: &Options) -> bool {
    match options.get("allowipv6") {
        Some(value) if value.text != "auto" => is_true(&value.text),
        _ => has_ipv6(),
    }
}

/// Whether this machine has IPv6, as fail2ban finds it out (`DNSUtils._IPv6IsSupportedBySystem`).
fn has_ipv6() -> bool {
    match fs::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6") {
        Ok(disabled) => disabled.trim() == "0",
        // The kernel goes without, or `/proc` is hidden: a socket tells.
        Err(_) => TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok(),
    }
}

/// What `fail2ban.conf` says about the store.
///
/// # Errors
/// A value that makes no sense, with its place.
pub(super) fn store(options: &Options) -> Result<StoreSettings> {
    let mut settings = StoreSettings::default();
    let set = |option: &str| options.get(option).filter(|value| !value.text.trim().is_empty());
    if let Some(file) = set("dbfile") {
        settings.is_on = !["none", ":memory:"].contains(&file.text.trim().to_lowercase().as_str());
    }
    if let Some(age) = set("dbpurgeage") {
        let purgeage = time::seconds(&age.text).with_context(|| format!("{}: dbpurgeage", age.place))?;
        settings.purgeage = Duration::try_from_secs_f64(purgeage).ok().with_context(|| {
            format!("{}: dbpurgeage = {} cannot be; write for example 1d", age.place, age.text)
        })?;
    }
    if let Some(count) = set("dbmaxmatches") {
        settings.maxmatches = count.text.trim().parse().ok().with_context(|| {
            format!("{}: dbmaxmatches = {} is not a number from 0", count.place, count.text)
        })?;
    }
    Ok(settings)
}
