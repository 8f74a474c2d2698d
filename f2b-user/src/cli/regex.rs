//! `f2b regex`: what a filter finds in a log, without an agent.

use std::{
    env, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::Global;
use crate::{
    config,
    filter::{Failure, Filter, FilterSettings},
};

/// How the failures are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Output {
    /// One object per failure
    Json,
    /// One line per failure: what it is charged to
    Id,
}

#[derive(Args, Debug)]
pub(super) struct Command {
    /// How to print the failures
    #[arg(short = 'o', long = "out", value_name = "FORMAT", default_value = "id")]
    output: Output,
    /// Date pattern, instead of the filter's own
    #[arg(short = 'd', long, value_name = "PATTERN")]
    datepattern: Option<String>,
    /// How many lines an expression may span
    #[arg(short = 'l', long, value_name = "N")]
    maxlines: Option<usize>,
    /// What a host name in the log means: yes, warn, no or raw [env: F2B_USEDNS]
    #[arg(long, value_name = "MODE")]
    usedns: Option<String>,
    /// A log file, or one line
    log: String,
    /// A filter's name, with options as in a jail, or an expression
    filter: String,
    /// Lines that match this are no failures
    ignoreregex: Option<String>,
}

/// A failure as the contract prints it.
#[derive(Serialize)]
struct Printed<'a> {
    line: u64,
    fid: &'a str,
    ip: Option<std::net::IpAddr>,
    time: f64,
    fields: &'a std::collections::BTreeMap<String, String>,
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let mut settings = self.settings(global)?;
        if let Some(datepattern) = &self.datepattern {
            settings.datepattern.clone_from(datepattern);
        }
        if let Some(maxlines) = self.maxlines {
            settings.maxlines = maxlines.to_string();
        }
        if let Some(usedns) = self.usedns.clone().or_else(|| env::var("F2B_USEDNS").ok()) {
            settings.usedns = usedns;
        }
        settings.ignoreregex.extend(self.ignoreregex.clone());
        let filter = Filter::new(&settings).with_context(|| format!("filter {}", self.filter))?;
        let fixed_now = fixed_now()?;
        let mut context = filter.context(TimeZone::system(), fixed_now.unwrap_or_else(clock));
        let mut out = io::BufWriter::new(io::stdout().lock());
        let mut each = |line: &str| -> Result<()> {
            let line = line.trim_end_matches(['\r', '\n']);
            // As fail2ban-regex: no log has lines like these, test logs do.
            if line.is_empty() || line.starts_with('#') {
                context.skip();
                return Ok(());
            }
            for failure in filter.failures(&mut context, line, None, fixed_now.unwrap_or_else(clock)) {
                self.output.print(&mut out, &failure)?;
            }
            Ok(())
        };
        if Path::new(&self.log).is_file() {
            let file = fs::File::open(&self.log).with_context(|| format!("reading {}", self.log))?;
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).with_context(|| format!("reading {}", self.log))? > 0 {
                each(&String::from_utf8_lossy(&line))?;
                line.clear();
            }
        } else {
            each(&self.log)?;
        }
        out.flush().context("writing the output")?;
        if context.over_budget() > 0 {
            let lines = context.over_budget();
            writeln!(io::stderr(), "f2b: {lines} lines were too long or too expensive to match in full")
                .context("writing the report")?;
        }
        Ok(())
    }

    /// The filter of that name, with its options in brackets, else the expression itself.
    fn settings(&self, global: &Global) -> Result<FilterSettings> {
        let name = self.filter.split_once('[').map_or(self.filter.as_str(), |(name, _)| name);
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
        if !is_name {
            return Ok(FilterSettings { failregex: vec![self.filter.clone()], ..FilterSettings::default() });
        }
        config::filter(global.config.as_deref(), &self.filter)
    }
}

impl Output {
    fn print(self, out: &mut impl io::Write, failure: &Failure) -> Result<()> {
        let text = match self {
            Self::Json => serde_json::to_string(&Printed {
                line: failure.line,
                fid: &failure.fid,
                ip: failure.ip,
                time: failure.time,
                fields: &failure.fields,
            })?,
            Self::Id => failure.fid.clone(),
        };
        writeln!(out, "{text}").context("writing the output")
    }
}

/// `F2B_NOW`: a fixed "now" for reproducible tests.
fn fixed_now() -> Result<Option<f64>> {
    let Ok(now) = env::var("F2B_NOW") else { return Ok(None) };
    let seconds = now.parse::<f64>().ok().filter(|seconds| seconds.is_finite());
    seconds.map(Some).with_context(|| format!("F2B_NOW={now} is not a number of seconds since 1970"))
}

fn clock() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
