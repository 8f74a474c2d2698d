//! A record → fail2ban's line: Python's `%`-format for log records (`helpers.py`, `getVerbosityFormat`).

use std::{borrow::Cow, fmt::Write as _, process, sync::LazyLock, time::SystemTime};

use anyhow::{Result, bail};
use jiff::{Timestamp, tz::TimeZone};
use regex::Regex;

use super::Level;

/// One thing that is logged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    /// As fail2ban calls the part that logs: `fail2ban.actions`.
    pub(super) logger: Cow<'static, str>,
    /// One line.
    pub(super) message: String,
    /// Names and values, for who stores them one by one.
    pub(super) fields: Vec<(&'static str, String)>,
}

/// What stands in a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Format(Vec<Part>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Value { what: What, left: bool, width: usize, precision: Option<usize> },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Time,
    Logger,
    Process,
    Level,
    LevelNumber,
    Message,
    Module,
    Created,
    Milliseconds,
}

#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static CONVERSION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"%(?:%|\((\w+)\)(-?)0?(\d*)(?:\.(\d+))?[sdifX])").unwrap());

impl Format {
    /// fail2ban's own: with a date, and with names padded to equal length.
    pub(super) fn usual(datetime: bool, padding: bool) -> Self {
        let value = |what, width| {
            let width = if padding { width } else { 0 };
            Part::Value { what, left: true, width, precision: None }
        };
        let text = |text: &str| Part::Text(text.into());
        let mut parts = Vec::new();
        if datetime {
            parts.extend([value(What::Time, 0), text(" ")]);
        }
        parts.extend([value(What::Logger, 24), text("["), value(What::Process, 0), text("]: ")]);
        parts.extend([value(What::Level, 7), text(" "), value(What::Message, 0)]);
        Self(parts)
    }

    /// Reads the option `format`.
    ///
    /// # Errors
    /// A name that is none of a log record.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (mut parts, mut from) = (Vec::new(), 0);
        for found in CONVERSION.captures_iter(text) {
            let (whole, group) = (found.get_match(), |n| found.get(n).map_or("", |group| group.as_str()));
            parts.push(Part::Text(text[from..whole.start()].replace("%%", "%")));
            from = whole.end();
            let what = match group(1) {
                "" => {
                    parts.push(Part::Text("%".into()));
                    continue;
                }
                "asctime" => What::Time,
                "name" => What::Logger,
                "process" => What::Process,
                "levelname" => What::Level,
                "levelno" => What::LevelNumber,
                "message" => What::Message,
                "module" => What::Module,
                "created" => What::Created,
                "msecs" => What::Milliseconds,
                other => bail!(
                    "the format has %({other}); there are asctime, created, levelname, levelno, message, module, msecs, \
                     name and process"
                ),
            };
            let width = group(3).parse().unwrap_or_default();
            parts.push(Part::Value { what, left: group(2) == "-", width, precision: group(4).parse().ok() });
        }
        parts.push(Part::Text(text[from..].to_owned()));
        Ok(Self(parts))
    }

    /// The line, without its end.
    pub(super) fn line(&self, record: &Record) -> String {
        let mut line = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => line.push_str(text),
                Part::Value { what, left, width, precision } => {
                    let value = what.of(record);
                    let value = precision.map_or(&*value, |length| cut(&value, length));
                    let written = match left {
                        true => write!(line, "{value:<width$}"),
                        false => write!(line, "{value:>width$}"),
                    };
                    // Writing to a string cannot fail.
                    written.unwrap_or_default();
                }
            }
        }
        line
    }
}

/// The first `length` characters.
fn cut(text: &str, length: usize) -> &str {
    text.char_indices().nth(length).map_or(text, |(end, _)| &text[..end])
}

impl What {
    fn of(self, record: &Record) -> Cow<'_, str> {
        let since_epoch = || record.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        match self {
            Self::Time => time(record.time).into(),
            Self::Logger => Cow::Borrowed(&*record.logger),
            Self::Process => process::id().to_string().into(),
            Self::Level => record.level.name(),
            Self::LevelNumber => record.level.number().to_string().into(),
            Self::Message => Cow::Borrowed(&record.message),
            Self::Module => record.logger.rsplit('.').next().unwrap_or_default().into(),
            Self::Created => since_epoch().as_secs_f64().to_string().into(),
            Self::Milliseconds => since_epoch().subsec_millis().to_string().into(),
        }
    }
}

/// `2026-08-22 13:31:38,123`, local.
fn time(time: SystemTime) -> String {
    let Ok(time) = Timestamp::try_from(time) else {
        return String::new();
    };
    let zoned = time.to_zoned(TimeZone::system());
    format!("{},{:03}", zoned.strftime("%Y-%m-%d %H:%M:%S"), zoned.millisecond())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn record(level: Level) -> Record {
        Record {
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_787_405_498_007),
            level,
            logger: "fail2ban.actions".into(),
            message: "[sshd] Ban 192.0.2.7".into(),
            fields: Vec::new(),
        }
    }

    #[test]
    fn lines_look_as_fail2bans_do() {
        let pid = process::id();
        let line = Format::usual(true, true).line(&record(Level::NOTICE));
        let (date, rest) = line.split_at(23);
        assert!(date.starts_with("2026-08-2") && date.ends_with("8,007"), "{date}");
        assert_eq!(rest, format!(" fail2ban.actions        [{pid}]: NOTICE  [sshd] Ban 192.0.2.7"));
        let line = Format::usual(false, false).line(&record(Level::WARNING));
        assert_eq!(line, format!("fail2ban.actions[{pid}]: WARNING [sshd] Ban 192.0.2.7"));
    }

    #[test]
    fn a_format_of_the_users_own_is_taken() {
        let line = |format: &str| Format::parse(format).unwrap().line(&record(Level::NOTICE));
        assert_eq!(
            line("%(levelname)-8.3s|%(levelno)3d|100%% %(message)s"),
            "NOT     | 25|100% [sshd] Ban 192.0.2.7"
        );
        assert_eq!(line("%(module)s"), "actions");
        assert_eq!(line("nothing"), "nothing");
        let error = Format::parse("%(colour)s").unwrap_err().to_string();
        assert!(error.starts_with("the format has %(colour); there are asctime"), "{error}");
    }
}
