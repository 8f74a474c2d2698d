//! The options of `f2b regex`, which are those of fail2ban-regex.

use std::{env, time::SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::{ArgAction, Args};
use jiff::tz::TimeZone;
use regex::Regex;

use crate::filter;

/// What is the same under both names.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Options {
    /// Date pattern, instead of the filter's own
    #[arg(short = 'd', long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub(super) datepattern: Option<String>,
    /// Zone of dates that tell none: an abbreviation or an offset from UTC, as UTC+0200
    #[arg(long, alias = "TZ", value_name = "ZONE", allow_hyphen_values = true)]
    pub(super) timezone: Option<String>,
    /// Encoding of the log [default: UTF-8]
    #[arg(short = 'e', long, value_name = "NAME", allow_hyphen_values = true)]
    pub(super) encoding: Option<String>,
    /// Take host names as they are; resolve nothing
    #[arg(short = 'r', long)]
    pub(super) raw: bool,
    /// What a host name in the log means: yes, warn, no or raw [env: F2B_USEDNS]
    #[arg(long, value_name = "MODE", allow_hyphen_values = true)]
    pub(super) usedns: Option<String>,
    /// How many lines an expression may span
    #[arg(short = 'L', long, value_name = "N", allow_hyphen_values = true)]
    pub(super) maxlines: Option<String>,
    /// Entries of the journal to read, instead of those that the filter names
    #[arg(short = 'm', long, value_name = "MATCH", allow_hyphen_values = true)]
    pub(super) journalmatch: Option<String>,
    /// Log level, as fail2ban has it
    #[arg(short = 'l', long, value_name = "LEVEL", allow_hyphen_values = true)]
    pub(super) log_level: Option<String>,
    /// Show more: expressions without a hit, every failure, all date templates
    #[arg(short = 'v', long, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// The same as a number
    #[arg(long, value_name = "0..4", allow_hyphen_values = true)]
    pub(super) verbosity: Option<String>,
    /// Show how the date templates are searched for
    #[arg(long, alias = "VD")]
    pub(super) verbose_date: bool,
    /// Print addresses of debuggex.com that show the expressions at work
    #[arg(short = 'D', long)]
    pub(super) debuggex: bool,
    /// Stop at the first expression that matches a line
    #[arg(long)]
    pub(super) no_check_all: bool,
    /// Print the failures only: json, id, ip, msg, row, the name of a group, or a text with tags (<ip> <F-USER>)
    #[arg(short = 'o', long, value_name = "FORMAT", allow_hyphen_values = true)]
    pub(super) out: Option<String>,
    /// Do not print missed lines
    #[arg(long)]
    pub(super) print_no_missed: bool,
    /// Do not print ignored lines
    #[arg(long)]
    pub(super) print_no_ignored: bool,
    /// Print all matched lines
    #[arg(long)]
    pub(super) print_all_matched: bool,
    /// Print all missed lines, however many
    #[arg(long)]
    pub(super) print_all_missed: bool,
    /// Print all ignored lines, however many
    #[arg(long)]
    pub(super) print_all_ignored: bool,
    /// Accepted for fail2ban's sake
    #[arg(short = 't', long)]
    pub(super) log_traceback: bool,
    /// Accepted for fail2ban's sake
    #[arg(long)]
    pub(super) full_traceback: bool,
}

/// Lines of one kind to print.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    Nothing,
    /// As many as a person reads.
    Some,
    All,
}

impl Options {
    pub(super) fn missed(&self) -> Shown {
        shown(self.print_no_missed, self.print_all_missed)
    }

    pub(super) fn ignored(&self) -> Shown {
        shown(self.print_no_ignored, self.print_all_ignored)
    }

    /// The value of `-L`, if it is one.
    ///
    /// # Errors
    /// A number below 1, in fail2ban's words.
    pub(super) fn maxlines(&self) -> Result<Option<usize>> {
        let Some(text) = &self.maxlines else { return Ok(None) };
        match text.trim().parse::<i64>() {
            Ok(0) => Ok(None),
            Ok(lines) if lines > 0 => Ok(usize::try_from(lines).ok()),
            _ => bail!("maxlines must be integer greater than zero"),
        }
    }

    /// How host names are resolved: `F2B_USEDNS` wins, so that tests ask nobody. `None`: as the filter says.
    pub(super) fn usedns(&self) -> Option<String> {
        let raw = self.raw.then(|| "raw".to_owned());
        env::var("F2B_USEDNS").ok().or(raw).or_else(|| self.usedns.clone())
    }

    pub(super) fn verbosity(&self) -> u8 {
        let number = self.verbosity.as_ref().and_then(|text| text.trim().parse::<u8>().ok());
        number.unwrap_or_default().saturating_add(self.verbose)
    }

    /// The zone of `--timezone`, as fail2ban reads it.
    ///
    /// # Errors
    /// It is none, in fail2ban's words.
    pub(super) fn fixed_zone(&self) -> Result<Option<TimeZone>> {
        let Some(text) = &self.timezone else { return Ok(None) };
        let form = Regex::new(r"^([A-Z](?:[A-Z]{2,4})?)?(?:[+-][01]\d(?::?\d{2})?)?$")?;
        let Some(found) = form.captures(text) else {
            bail!("Unknown or unsupported time zone: {}", filter::python::repr(text));
        };
        match filter::fixed_zone(text) {
            Some(zone) => Ok(Some(zone)),
            None => bail!("{}", filter::python::repr_optional(found.get(1).map(|name| name.as_str()))),
        }
    }
}

fn shown(no: bool, all: bool) -> Shown {
    match (no, all) {
        (true, _) => Shown::Nothing,
        (false, true) => Shown::All,
        (false, false) => Shown::Some,
    }
}

/// `F2B_NOW`: a fixed "now" for reproducible tests; else the clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now(Option<f64>);

impl Now {
    /// # Errors
    /// `F2B_NOW` is no number.
    pub(super) fn from_environment() -> Result<Self> {
        let Ok(now) = env::var("F2B_NOW") else { return Ok(Self(None)) };
        let seconds = now.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
        seconds
            .map(|now| Self(Some(now)))
            .with_context(|| format!("F2B_NOW={now} is not a number of seconds since 1970"))
    }

    /// Seconds since 1970.
    pub(super) fn seconds(self) -> f64 {
        let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.0.unwrap_or_else(|| clock().as_secs_f64())
    }
}
