//! fail2ban's levels: Python's, and three more (`__init__.py`).

use std::{borrow::Cow, fmt};

use anyhow::{Result, anyhow};
use tracing::{Metadata, level_filters::LevelFilter};

/// How severe a record is, as Python counts: more is worse.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Level(u8);

/// The names under which an event is NOTICE, CRITICAL or MSG, which `tracing` has no levels for.
pub(super) const NOTICE: &str = "notice";
pub(super) const CRITICAL: &str = "critical";

impl Level {
    pub(super) const CRITICAL: Self = Self(50);
    pub(super) const ERROR: Self = Self(40);
    pub(super) const WARNING: Self = Self(30);
    pub(super) const NOTICE: Self = Self(25);
    pub(super) const INFO: Self = Self(20);
    const MSG: Self = Self(18);
    pub(super) const DEBUG: Self = Self(10);
    pub(super) const TRACE: Self = Self(7);

    /// Reads `loglevel`: a name in any case, or a number.
    ///
    /// # Errors
    /// A name that fail2ban does not know.
    pub fn parse(text: &str) -> Result<Self> {
        let known = match text.trim().to_uppercase().as_str() {
            "CRITICAL" | "FATAL" => Some(Self::CRITICAL),
            "ERROR" => Some(Self::ERROR),
            "WARNING" | "WARN" => Some(Self::WARNING),
            "NOTICE" => Some(Self::NOTICE),
            "INFO" => Some(Self::INFO),
            "MSG" => Some(Self::MSG),
            "DEBUG" => Some(Self::DEBUG),
            "TRACEDEBUG" => Some(Self::TRACE),
            "HEAVYDEBUG" => Some(Self(5)),
            // In Python, who has no level has that of the root logger.
            "NOTSET" | "0" => Some(Self::WARNING),
            number => number.parse().ok().map(Self),
        };
        known.ok_or_else(|| anyhow!("loglevel = {text} does not exist; write for example INFO"))
    }

    /// The level of an event.
    pub(super) fn of(metadata: &Metadata<'_>) -> Self {
        match (metadata.name(), *metadata.level()) {
            (NOTICE, _) => Self::NOTICE,
            (CRITICAL, _) => Self::CRITICAL,
            (_, tracing::Level::ERROR) => Self::ERROR,
            (_, tracing::Level::WARN) => Self::WARNING,
            (_, tracing::Level::INFO) => Self::INFO,
            (_, tracing::Level::DEBUG) => Self::DEBUG,
            (_, tracing::Level::TRACE) => Self::TRACE,
        }
    }

    /// What of `tracing` must be looked at for this level.
    pub(super) fn tracing(self) -> LevelFilter {
        match self {
            Self(41..) => LevelFilter::ERROR,
            Self(31..=40) => LevelFilter::ERROR,
            Self(26..=30) => LevelFilter::WARN,
            Self(19..=25) => LevelFilter::INFO,
            Self(8..=18) => LevelFilter::DEBUG,
            Self(..=7) => LevelFilter::TRACE,
        }
    }

    /// Syslog's number for it; what syslog does not know is a warning (`logging.handlers.SysLogHandler`).
    pub(super) fn priority(self) -> u8 {
        match self {
            Self::CRITICAL => 2,
            Self::ERROR => 3,
            Self::NOTICE => 5,
            Self::INFO => 6,
            Self::DEBUG => 7,
            Self(..=9) => 7,
            _ => 4,
        }
    }

    /// As it stands in the log.
    pub(super) fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::CRITICAL => "CRITICAL",
            Self::ERROR => "ERROR",
            Self::WARNING => "WARNING",
            Self::NOTICE => "NOTICE",
            Self::INFO => "INFO",
            Self::MSG => "MSG",
            Self::DEBUG => "DEBUG",
            Self::TRACE => "TRACE",
            Self(number) => return Cow::Owned(format!("#{number:02}-Lev.")),
        })
    }

    pub(super) fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_names_or_numbers() {
        for (text, number) in
            [("INFO", 20), ("notice", 25), ("WARN", 30), ("7", 7), ("HEAVYDEBUG", 5), ("notset", 30)]
        {
            assert_eq!(Level::parse(text).unwrap().number(), number, "{text}");
        }
        assert!(Level::parse("LOUD").unwrap_err().to_string().contains("loglevel = LOUD does not exist"));
    }

    #[test]
    fn nothing_that_a_level_lets_through_is_filtered_away_before() {
        let events = [
            (Level::ERROR, tracing::Level::ERROR),
            (Level::WARNING, tracing::Level::WARN),
            (Level::INFO, tracing::Level::INFO),
            (Level::DEBUG, tracing::Level::DEBUG),
            (Level::TRACE, tracing::Level::TRACE),
        ];
        for minimum in 0..=40 {
            for (level, of_tracing) in events.iter().filter(|(level, _)| level.number() >= minimum) {
                assert!(Level(minimum).tracing() >= *of_tracing, "{minimum}: {level}");
            }
        }
        // An event called notice is one of INFO for `tracing`.
        assert_eq!(Level::NOTICE.tracing(), LevelFilter::INFO);
    }
}
