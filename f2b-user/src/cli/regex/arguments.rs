//! The command line of `fail2ban-regex`, and what that program says about a wrong one.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{
    CommandFactory as _, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::options::Options;
use crate::filter::python::repr;

/// The version whose output this is.
const VERSION: &str = "1.0.2";

/// Tests fail2ban's regular expressions on a log.
///
/// LOG is a line, a file, or systemd-journal, which may have options (systemd-journal[journalflags=1]). REGEX is an
/// expression, the name of a filter, which may have options (sshd[mode=aggressive]), or the path of a filter's file.
#[derive(Debug, Parser)]
#[command(
    name = "fail2ban-regex",
    infer_long_args = true,
    args_override_self = true,
    disable_version_flag = true,
    override_usage = "fail2ban-regex [OPTIONS] <LOG> <REGEX> [IGNOREREGEX]"
)]
pub(super) struct Arguments {
    /// Configuration directory [default: /etc/f2b, else /etc/fail2ban, else built in]
    #[arg(short = 'c', long, value_name = "DIR", allow_hyphen_values = true)]
    pub(super) config: Option<PathBuf>,
    /// Show the version
    #[arg(long)]
    version: bool,
    /// Show the version only
    #[arg(short = 'V')]
    short_version: bool,
    #[command(flatten)]
    pub(super) options: Options,
    /// LOG, REGEX and, if wanted, IGNOREREGEX: lines that match it are no failures
    #[arg(hide = true)]
    pub(super) arguments: Vec<String>,
}

/// Reads the command line; else says what is to be said about it, and how the program ends.
pub(super) fn parse(arguments: &[OsString]) -> Result<Arguments, ExitCode> {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            drop(error.print());
            return Err(ExitCode::SUCCESS);
        }
        Err(error) => return Err(usage(&objection(&error))),
    };
    if parsed.version || parsed.short_version {
        let name = if parsed.version { "fail2ban-regex " } else { "" };
        drop(writeln!(io::stdout(), "{name}{VERSION}"));
        return Err(ExitCode::SUCCESS);
    }
    for (option, value) in [("-L", &parsed.options.maxlines), ("--verbosity", &parsed.options.verbosity)] {
        if let Some(value) = value
            && value.trim().parse::<i64>().is_err()
        {
            return Err(usage(&format!("option {option}: invalid integer value: {}", repr(value))));
        }
    }
    let objections = parsed.objections();
    if !objections.is_empty() {
        drop(Arguments::command().print_help());
        drop(writeln!(io::stderr(), "\n{}", objections.join("\n")));
        return Err(ExitCode::from(255));
    }
    Ok(parsed)
}

/// A command line that is not in the grammar.
fn usage(objection: &str) -> ExitCode {
    let usage = "Usage: fail2ban-regex [OPTIONS] <LOG> <REGEX> [IGNOREREGEX]";
    drop(writeln!(io::stderr(), "{usage}\n\nfail2ban-regex: error: {objection}"));
    ExitCode::from(2)
}

/// What is wrong with the command line, in the words of Python's `optparse`.
fn objection(error: &clap::Error) -> String {
    let option = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(option)) => option.split([' ', '=']).next().unwrap_or_default(),
        _ => "",
    };
    match error.kind() {
        ErrorKind::UnknownArgument => format!("no such option: {option}"),
        ErrorKind::TooManyValues => format!("{option} option does not take a value"),
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{option} option requires 1 argument")
        }
        _ => error.to_string(),
    }
}

impl Arguments {
    fn objections(&self) -> Vec<String> {
        let mut objections = Vec::new();
        for (kind, no, all) in [
            ("missed", self.options.print_no_missed, self.options.print_all_missed),
            ("ignored", self.options.print_no_ignored, self.options.print_all_ignored),
        ] {
            if no && all {
                objections
                    .push(format!("ERROR: --print-no-{kind} and --print-all-{kind} are mutually exclusive."));
            }
        }
        if !(2..=3).contains(&self.arguments.len()) {
            objections.push("ERROR: provide both <LOG> and <REGEX>.".into());
        }
        objections
    }
}
