//! The agent's own log: for people on stderr, and in fail2ban's format where `logtarget` asks for it.
//!
//! - [`event`]: what happens to addresses, one function each: both texts of it stand there, and nowhere else
//! - `level`: fail2ban's levels
//! - `format`: a record → fail2ban's line
//! - `sink`: where records go, on a thread of its own: a log that hangs or fails never holds up a ban
//!
//! Everything is logged through `tracing`. Whoever parses the log (recidive, crowdsec, a SIEM) reads fail2ban's; without a
//! `logtarget`, what stands in front of a person at a terminal or in `journalctl` is easier to read.

pub mod event;
mod format;
mod layer;
mod level;
mod sink;

use std::{
    env, fmt,
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};
use jiff::Zoned;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    fmt::{format::Writer, time::FormatTime},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub use self::level::Level;
use self::{format::Format, sink::Sink};
use crate::config::LogOptions;

/// Where Linux has syslog's socket (`syslogsocket = auto`).
const SYSLOG: &str = "/dev/log";

/// What `fail2ban.conf` says about the log, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// `loglevel`; without one, INFO.
    pub level: Level,
    /// `logtarget`; without one, people are written to on stderr.
    pub target: Option<Target>,
}

/// Where fail2ban's lines go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// As it is written, without its options.
    pub name: String,
    place: Place,
    format: Format,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    File(PathBuf),
    Stdout,
    Stderr,
    Syslog { socket: PathBuf, facility: u8 },
    Journal,
}

impl Settings {
    /// Checks what is written (`server/server.py`, `setLogTarget` and `setLogLevel`).
    ///
    /// # Errors
    /// A level that does not exist, options that cannot be read, or a target without a name.
    pub fn new(options: &LogOptions) -> Result<Self> {
        let level = options.loglevel.as_deref().map(Level::parse).transpose()?.unwrap_or(Level::INFO);
        let target = options.logtarget.as_deref().filter(|target| !target.trim().is_empty());
        let socket = options.syslogsocket.as_deref().filter(|socket| !socket.eq_ignore_ascii_case("auto"));
        let target = target.map(|target| Target::new(target, socket.unwrap_or(SYSLOG))).transpose()?;
        Ok(Self { level, target })
    }

    /// Whether people read along. With a `logtarget`, they do at a terminal that the target does not write to itself.
    fn has_readers(&self) -> bool {
        match &self.target {
            None => true,
            Some(Target { place: Place::Stdout | Place::Stderr, .. }) => false,
            Some(_) => io::stderr().is_terminal(),
        }
    }
}

impl Target {
    fn new(text: &str, socket: &str) -> Result<Self> {
        let (name, options) =
            crate::config::filter_options(text).with_context(|| format!("logtarget = {text}"))?;
        let name = name.trim().to_owned();
        if name.is_empty() {
            bail!("logtarget = {text} has no name; write a file, STDERR, STDOUT, SYSLOG or SYSTEMD-JOURNAL");
        }
        let option = |name: &str| {
            let value = options.iter().find(|(option, _)| option == name).map(|(_, value)| value.as_str());
            value.filter(|value| !value.is_empty())
        };
        let is_on = |value: &str| ["1", "on", "true", "yes"].contains(&value.to_lowercase().as_str());
        let kind = name.to_uppercase();
        let place = match kind.as_str() {
            "SYSTEMD-JOURNAL" => Place::Journal,
            "SYSLOG" => Place::Syslog {
                socket: socket.into(),
                facility: facility(option("facility").unwrap_or("DAEMON"))
                    .with_context(|| format!("logtarget = {text}"))?,
            },
            "STDOUT" | "SYSOUT" => Place::Stdout,
            "STDERR" => Place::Stderr,
            _ => Place::File(name.clone().into()),
        };
        let datetime = option("datetime").map_or(!["SYSLOG", "SYSOUT"].contains(&kind.as_str()), is_on);
        let padding = option("padding").map_or(kind != "SYSLOG", is_on);
        let format = match option("format") {
            Some(format) => Format::parse(format).with_context(|| format!("logtarget = {text}"))?,
            None => Format::usual(datetime, padding),
        };
        Ok(Self { name, place, format })
    }
}

/// The number of a syslog facility.
fn facility(name: &str) -> Result<u8> {
    const NAMES: [&str; 12] = [
        "KERN", "USER", "MAIL", "DAEMON", "AUTH", "SYSLOG", "LPR", "NEWS", "UUCP", "CRON", "AUTHPRIV", "FTP",
    ];
    let upper = name.to_uppercase();
    let local = upper.strip_prefix("LOCAL").and_then(|number| number.parse::<u8>().ok());
    if let Some(number) = local.filter(|number| *number < 8) {
        return Ok(16 + number);
    }
    let number = NAMES.iter().position(|known| *known == upper).and_then(|number| u8::try_from(number).ok());
    number.with_context(|| format!("there is no syslog facility {name}; write for example DAEMON or LOCAL0"))
}

/// The log's time stamps for people: local, as the ends of bans are.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f"))
    }
}

/// The running log's sink.
static SINK: OnceLock<Sink> = OnceLock::new();

/// What is logged from here on goes where the settings say, until the process ends. Dropping it waits until everything
/// is written.
#[must_use]
#[derive(Debug)]
pub struct Log;

impl Log {
    /// Starts to log. Only the first call in a process has an effect.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn start(settings: &Settings) -> Result<Self> {
        let people = settings.has_readers().then(|| {
            let filter = EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| EnvFilter::new(settings.level.tracing().to_string()));
            // Colours are for eyes, not for files and journals.
            let ansi = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
            let layer =
                tracing_subscriber::fmt::layer().with_target(false).with_timer(LocalTime).with_ansi(ansi);
            layer.with_writer(io::stderr).with_filter(filter)
        });
        let sink = settings.target.clone().map(Sink::start).transpose()?;
        let fail2ban = sink.clone().map(|sink| layer::layer(settings.level, sink));
        let subscriber = tracing_subscriber::registry().with(people).with(fail2ban);
        if subscriber.try_init().is_ok()
            && let Some(sink) = sink
        {
            // Only the first subscriber is ever set, so nobody was here before.
            drop(SINK.set(sink));
        }
        Ok(Self)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if let Some(sink) = SINK.get() {
            sink.finish();
        }
    }
}

/// Opens the log file anew, as after a rotation (`flushlogs`).
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.reopen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(logtarget: &str) -> Result<Settings> {
        Settings::new(&LogOptions { logtarget: Some(logtarget.into()), ..LogOptions::default() })
    }

    #[test]
    fn targets_are_read_as_fail2ban_reads_them() {
        let place = |text: &str| settings(text).unwrap().target.unwrap().place;
        assert_eq!(place("/var/log/f2b.log"), Place::File("/var/log/f2b.log".into()));
        assert_eq!(place("stderr"), Place::Stderr);
        assert_eq!(place("SYSOUT"), Place::Stdout);
        assert_eq!(place("systemd-journal"), Place::Journal);
        assert_eq!(place("SYSLOG"), Place::Syslog { socket: SYSLOG.into(), facility: 3 });
        assert_eq!(place("SYSLOG[facility=local7]"), Place::Syslog { socket: SYSLOG.into(), facility: 23 });
        assert_eq!(settings("").unwrap().target, None);
        let error = format!("{:#}", settings("SYSLOG[facility=moon]").unwrap_err());
        assert!(error.contains("there is no syslog facility moon"), "{error}");
    }

    #[test]
    fn a_target_decides_what_stands_before_the_message() {
        let format = |text: &str| settings(text).unwrap().target.unwrap().format;
        assert_eq!(format("/x"), Format::usual(true, true));
        assert_eq!(format("SYSLOG"), Format::usual(false, false));
        assert_eq!(format("SYSOUT"), Format::usual(false, true));
        assert_eq!(format("/x[padding=off, datetime=no]"), Format::usual(false, false));
        assert_eq!(format("/x[format=\"%(levelname)s\"]"), Format::parse("%(levelname)s").unwrap());
    }
}
