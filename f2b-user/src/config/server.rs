//! `fail2ban.conf`: what concerns fail2ban's server as a whole (`client/fail2banreader.py`).

use anyhow::{Result, bail};

use super::dialect::{Options, Tree};

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
