//! `f2b regex`: what a filter finds in a log, without an agent. Called `fail2ban-regex`, the same binary has that
//! program's face.
//!
//! - [`options`]: what can be asked for, under both names
//! - [`rules`]: the expression or the filter
//! - [`input`]: the lines of the log
//! - [`session`]: the filter at work on them; [`names`] resolves hosts
//! - [`report`]: what `f2b regex` shows a person
//! - [`output`]: failures only, for programs (`-o`)
//! - [`fail2ban`]: the other face, with its command line in [`arguments`], its counts in [`tally`], its log in [`log`]

mod arguments;
pub(super) mod fail2ban;
mod input;
mod log;
mod names;
mod options;
mod output;
mod report;
mod rules;
mod session;
mod tally;

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use jiff::tz::TimeZone;

use self::{
    input::{Charset, FileLines, LastLine, Lines, Log},
    options::{Now, Options},
    output::{Output, PythonTime},
    report::Report,
    rules::Named,
    session::Session,
};
use super::Global;
use crate::{
    config,
    filter::{Breadth, Filter, FilterSettings, Refused, Why},
    source::journal::{Entries, JournalMatch, UnitNames},
};

#[derive(Args, Debug)]
pub(super) struct Command {
    #[command(flatten)]
    options: Options,
    /// A log file, one line, or systemd-journal, with options in brackets if wanted (journalpath, journalfiles,
    /// journalflags, namespace)
    log: String,
    /// A filter's name or file, with options as in a jail (sshd[mode=aggressive]), or an expression
    filter: String,
    /// Lines that match this are no failures
    ignoreregex: Option<String>,
}

impl Command {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let now = Now::from_environment()?;
        let log = Log::new(&self.log)?;
        let config = global.config.as_deref();
        if let Some(dir) = config
            && !dir.is_dir()
        {
            bail!("-c {}: it is no directory", dir.display());
        }
        let named = Named::new(&self.filter, config.or(config::default_dir()))
            .with_context(|| format!("filter {}", self.filter))?;
        if matches!(named, Named::Expression(_)) && rules::looks_like_a_name(&self.filter)? {
            rules::no_such_filter(&self.filter, config)?;
        }
        let rules = named.read(log.is_journal()).with_context(|| format!("filter {}", self.filter))?;
        let settings = self.settings(rules.settings)?;
        let filter =
            Filter::new(&settings).map_err(point_at).with_context(|| format!("filter {}", self.filter))?;
        let maxlines = filter.maxlines();
        // The agent stops at the first expression that matches: this shows what it will find.
        let mut session = Session::new(filter, self.zone()?, now, Breadth::First);
        let journalmatch = match &self.options.journalmatch {
            Some(given) => vec![config::journalmatch_words(given)?],
            None => rules.journalmatch,
        };
        let lines = self.open(&log, &journalmatch, maxlines)?;
        match self.options.out.as_deref().or(global.json.then_some("json")) {
            Some(format) => print_failures(&mut session, lines, &mut Output::new(format, &settings)),
            None => self.report(&mut session, lines, &named, &settings),
        }
    }

    /// What the options say over what the filter says.
    fn settings(&self, settings: FilterSettings) -> Result<FilterSettings> {
        let mut settings = settings;
        if let Some(datepattern) = &self.options.datepattern {
            settings.datepattern.clone_from(datepattern);
        }
        if let Some(maxlines) = self.options.maxlines()? {
            settings.maxlines = maxlines.to_string();
        }
        if let Some(usedns) = self.options.usedns() {
            settings.usedns = usedns;
        }
        settings.ignoreregex.extend(self.ignoreregex.clone());
        Ok(settings)
    }

    /// The zone of dates that tell none.
    fn zone(&self) -> Result<TimeZone> {
        let Some(text) = &self.options.timezone else { return Ok(TimeZone::system()) };
        match self.options.fixed_zone() {
            Ok(Some(zone)) => Ok(zone),
            _ => TimeZone::get(text).map_err(|_unknown| {
                anyhow!("--timezone {text}: no such zone; write for example UTC+0200 or Europe/Zurich")
            }),
        }
    }

    fn open(&self, log: &Log, journalmatch: &[Vec<String>], maxlines: usize) -> Result<Lines> {
        Ok(match log {
            Log::File(path) => {
                let charset = Charset::named(self.options.encoding.as_deref().unwrap_or("auto"))?;
                Lines::File(FileLines::open(path, charset, LastLine::Read)?)
            }
            Log::Journal(files) => {
                let wanted = match journalmatch {
                    [] => None,
                    lines => Some(JournalMatch::new(lines)?),
                };
                let charset = Charset::named(self.options.encoding.as_deref().unwrap_or("auto"))?;
                let decode = move |bytes: &[u8]| charset.decode(bytes);
                Lines::Journal(Box::new(Entries::read(files, wanted.as_ref(), UnitNames::Resolved, decode)?))
            }
            Log::Text(text) => {
                // What looks like a path is a file that is not there.
                if text.starts_with(['/', '.']) && !text.contains(char::is_whitespace) && maxlines == 1 {
                    bail!("{text} is no file that can be read");
                }
                let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
                Lines::Text(lines.into_iter())
            }
        })
    }

    fn report(
        &self,
        session: &mut Session,
        lines: Lines,
        named: &Named,
        settings: &FilterSettings,
    ) -> Result<()> {
        let mut report = Report::new(&self.options, settings);
        report.begin(&self.log, named)?;
        for line in lines {
            let line = line?;
            if line.is_skipped() {
                session.context.skip();
                report.skip();
            } else {
                report.add(session, &line)?;
            }
        }
        report.end(session)
    }
}

/// `-o`
fn print_failures(session: &mut Session, lines: Lines, output: &mut Output) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        let line = line?;
        if line.is_skipped() {
            session.context.skip();
            continue;
        }
        let judgement = session.judge(&line);
        let mut charged = session.charged(&judgement);
        charged.retain(|charged| charged.fid.is_some());
        let time = judgement.time.map_or(PythonTime::Unknown, PythonTime::Float);
        output.print(&mut out, &charged, time, session.now())?;
    }
    out.flush().context("writing the output")?;
    let lines = session.context.over_budget();
    if lines > 0 {
        let sentence = "lines were too long or too expensive to match in full";
        writeln!(io::stderr(), "f2b: {lines} {sentence}").context("writing the report")?;
    }
    Ok(())
}

/// Shows where an expression goes wrong.
fn point_at(error: anyhow::Error) -> anyhow::Error {
    let Some(Refused { option, text, python, why: Why::Syntax(reason, Some(place)) }) =
        error.downcast_ref::<Refused>()
    else {
        return error;
    };
    // Tags are longer when they are expanded: the place is looked for from both ends of what was written.
    let (head, tail): (Vec<char>, Vec<char>) =
        (python.chars().take(*place).collect(), python.chars().skip(*place).collect());
    let written: Vec<char> = text.chars().collect();
    let (shown, place) = if written.starts_with(&head) {
        (text, *place)
    } else if written.ends_with(&tail) {
        (text, written.len() - tail.len())
    } else {
        (python, *place)
    };
    let caret = " ".repeat(place);
    anyhow!("{option} is no regular expression: {reason} at character {}\n\n  {shown}\n  {caret}^", place + 1)
}

/// Whether a path names this program.
pub(super) fn is_fail2ban_regex(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "fail2ban-regex")
}
