//! The same binary called `fail2ban-regex`: the grammar, the printed result and the exit codes of that program.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;

use super::{
    arguments::{self, Arguments},
    input::{Charset, FileLines, LastLine, Lines, Log},
    log::{self, Entry, Level},
    options::{Now, Options},
    output::{Output, PythonTime},
    rules::Named,
    session::Session,
    tally::Tally,
};
use crate::{
    config,
    filter::{
        self, Breadth, Filter, FilterSettings, Judgement, Refused, Why,
        python::{repr, repr_dict},
    },
    source::journal::{Entries, JournalMatch, UnitNames},
};

/// The part of fail2ban that logs most.
const FILTER: &str = "fail2ban.filter";

/// Why it ends without a result.
enum End {
    /// What is printed about it.
    Told(String),
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for End {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs with the arguments of the process.
pub(in crate::cli) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let parsed = match arguments::parse(&arguments) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let mut face =
        Face { out: io::BufWriter::new(io::stdout().lock()), quiet: parsed.options.out.is_some(), log: None };
    let ended = match face.run(&parsed) {
        Err(End::Told(text)) => face.print(&text).map_or_else(Err, |()| Ok(ExitCode::from(255))),
        Err(End::Failed(error)) => Err(error),
        Ok(()) => Ok(ExitCode::SUCCESS),
    };
    match ended.and_then(|code| face.out.flush().context("writing the output").map(|()| code)) {
        Ok(code) => code,
        Err(error) if crate::cli::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            drop(face.out.flush());
            drop(writeln!(io::stderr(), "fail2ban-regex: {error:#}"));
            ExitCode::from(255)
        }
    }
}

/// Where it prints.
struct Face<W: Write> {
    out: W,
    /// Only failures are printed, and errors.
    quiet: bool,
    /// fail2ban's own log, once it is known which lines of it are wanted.
    log: Option<log::Log>,
}

impl<W: Write> Face<W> {
    fn print(&mut self, text: &str) -> Result<()> {
        writeln!(self.out, "{text}").context("writing the output")
    }

    /// Prints what is not wanted beside the failures.
    fn tell(&mut self, text: &str) -> Result<()> {
        if self.quiet { Ok(()) } else { self.print(text) }
    }

    /// Prints a line of fail2ban's log, if it is wanted.
    fn log(&mut self, level: Level, logger: &'static str, message: impl Into<String>) -> Result<()> {
        self.log_all(&[Entry::new(level, logger, message)])
    }

    fn log_all(&mut self, entries: &[Entry]) -> Result<()> {
        let lines: Vec<_> =
            self.log.iter().flat_map(|log| entries.iter().filter_map(|entry| log.line(entry))).collect();
        lines.iter().try_for_each(|line| self.print(line))
    }

    fn tell_maxlines(&mut self, maxlines: &str) -> Result<()> {
        self.log(Level::Info, FILTER, format!("  maxLines: {maxlines}"))?;
        self.tell(&format!("Use         maxlines : {maxlines}"))
    }

    /// Compiles the filter; fail2ban also logs what is wrong with it.
    fn check(&mut self, settings: &FilterSettings) -> Result<Filter, End> {
        let checked = check(settings);
        if let Err(End::Told(text)) = &checked {
            self.log(Level::Error, FILTER, text.trim_start_matches("ERROR: "))?;
        }
        checked
    }

    fn run(&mut self, arguments: &Arguments) -> Result<(), End> {
        let options = &arguments.options;
        self.tell("\nRunning tests\n=============\n")?;
        let now = Now::from_environment()?;
        self.log = Some(log::Log::new(options.log_level.as_deref(), options.verbosity(), now)?);
        let error = |error: anyhow::Error| End::Told(format!("ERROR: {error}"));
        let maxlines = options.maxlines().map_err(error)?;
        if let Some(maxlines) = maxlines {
            self.tell_maxlines(&maxlines.to_string())?;
        }
        let words = options.journalmatch.as_deref().map(config::journalmatch_words).transpose();
        let journalmatch = words.map_err(|error| {
            let is_backslash = error.to_string().ends_with("backslash");
            let lacks = if is_backslash { "No escaped character" } else { "No closing quotation" };
            End::Told(format!("ERROR: {lacks}"))
        })?;
        let zone = options.fixed_zone().map_err(error)?;
        if let Some(pattern) = &options.datepattern {
            self.tell_datepattern(pattern, now)?;
        }
        if let Some(usedns) = options.usedns.as_deref().filter(|usedns| !usedns.is_empty())
            && !["yes", "warn", "no", "raw"].contains(&usedns.to_lowercase().as_str())
        {
            let usedns = repr(usedns);
            let message = format!("Incorrect value {usedns} specified for usedns. Using safe 'no'");
            self.log(Level::Error, FILTER, message)?;
        }
        let log = Log::new(&arguments.arguments[0])?;
        let given = &arguments.arguments;
        let config = arguments.config.as_deref().or(config::default_dir());
        let mut rules = self.read_rules(&given[1], config, &log, options, journalmatch)?;
        let settings = &mut rules.settings;
        settings.usedns = options.usedns().unwrap_or_else(|| "warn".into());
        match maxlines {
            Some(maxlines) => settings.maxlines = maxlines.to_string(),
            None if !settings.maxlines.is_empty() => self.tell_maxlines(settings.maxlines.trim())?,
            None => {}
        }
        match &options.datepattern {
            Some(pattern) => settings.datepattern.clone_from(pattern),
            None if !settings.datepattern.is_empty() => {
                let pattern = settings.datepattern.clone();
                self.tell_datepattern(&pattern, now)?;
            }
            None => {}
        }
        if let Some(ignoreregex) = given.get(2) {
            // What is wrong with the filter is told first.
            self.check(settings)?;
            self.tell(&format!("Use ignoreregex line : {}", short(ignoreregex)))?;
            settings.ignoreregex.push(ignoreregex.clone());
        }
        let settings = rules.settings.clone();
        let filter = self.check(&settings)?;
        let breadth = if options.no_check_all || self.quiet { Breadth::First } else { Breadth::All };
        let fixed = zone.is_some();
        let mut session = Session::new(filter, zone.unwrap_or_else(TimeZone::system), now, breadth);
        let lines = self.open(&log, options, &rules.journalmatch, session.filter.maxlines())?;
        self.tell("")?;
        if self.log.as_ref().is_some_and(|log| log.has(Level::Error)) {
            session.tell(&settings.usedns);
        }

        match &options.out {
            Some(format) => {
                self.print_failures(&mut session, lines, &mut Output::new(format, &settings), fixed)
            }
            None => {
                let begin = Instant::now();
                let mut tally = Tally::new(options, &settings, maxlines, &log);
                for line in lines {
                    let line = line?;
                    if !line.is_skipped() {
                        tally.add(&mut session, &line);
                        self.log_all(&session.take_told())?;
                    }
                }
                let seconds = begin.elapsed().as_secs_f64();
                Ok(tally.print(&mut self.out, &session, seconds)?)
            }
        }
    }

    fn tell_datepattern(&mut self, pattern: &str, now: Now) -> Result<(), End> {
        let name = filter::describe_datepattern(pattern, now.seconds())
            .map_err(|error| End::Told(format!("ERROR: {}", no_datepattern(pattern, &error))))?;
        for line in pattern.lines().map(str::trim) {
            let key = line.to_uppercase();
            let is_list = ["{^LN-BEG}", "{DEFAULT}"].contains(&key.as_str()) || key.contains("{DATE}");
            if is_list || line.is_empty() {
                continue;
            }
            let name = filter::describe_datepattern(line, now.seconds()).unwrap_or_default();
            let written = match line {
                _ if key == "{NONE}" => "{UNB}^",
                line if line.contains('%') => line,
                _ => "",
            };
            let message = format!("  date pattern `{}`: `{name}`", repr(written));
            self.log(Level::Info, "fail2ban.datedetector", message)?;
        }
        Ok(self.tell(&format!("Use      datepattern : {pattern} : {name}"))?)
    }

    /// Reads what `REGEX` names, and tells what it is.
    fn read_rules(
        &mut self,
        text: &str,
        config: Option<&Path>,
        log: &Log,
        options: &Options,
        journalmatch: Option<Vec<String>>,
    ) -> Result<Rules, End> {
        let named = Named::new(text, config).map_err(|error| {
            End::Told(format!("ERROR: Wrong filter name or options: {error}\n       while parsing: {text}"))
        })?;
        let given = match &named {
            Named::Expression(expression) => {
                self.tell(&format!("Use   failregex line : {}", short(expression)))?;
                &[]
            }
            Named::Filter { dir, name, options } => {
                let dir = dir.as_ref().map_or_else(|| "(built-in)".into(), |dir| dir.display().to_string());
                self.tell(&format!("Use   failregex filter file : {name}, basedir: {dir}"))?;
                &options[..]
            }
            Named::File { path, options } => {
                self.tell(&format!("Use   failregex file : {}", path.display()))?;
                &options[..]
            }
        };
        let dict = |options: &[(String, String)]| {
            let value = |(option, value): &(String, String)| match option.as_str() {
                // It has been read as a number.
                "maxlines" => value.trim().to_owned(),
                _ => repr(value),
            };
            repr_dict(options.iter().map(|option| (option.0.as_str(), value(option))))
        };
        if !given.is_empty() {
            self.tell(&format!("Use   filter options : {}", dict(given)))?;
        }
        if let Named::Filter { dir, name, .. } = &named {
            let dir = dir.as_ref().map_or_else(|| "(built-in)".into(), |dir| dir.display().to_string());
            let message = format!("Loading configs for filter.d/{name} under {dir} ");
            self.log(Level::Info, "fail2ban.configreader", message)?;
        }
        let rules = named.read(log.is_journal()).map_err(|error| {
            End::Told(format!("Wrong config file: {error:#}\nERROR: failed to load filter {text}"))
        })?;
        for files in &rules.reads {
            let files: Vec<_> = files.iter().map(|file| repr(&file.display().to_string())).collect();
            let message = format!("  Loading files: [{}]", files.join(", "));
            self.log(Level::Info, "fail2ban.configparserinc", message)?;
        }
        let is_debug = self.log.as_ref().is_some_and(log::Log::is_debug);
        if (options.verbosity() > 1 || is_debug) && !matches!(named, Named::Expression(_)) {
            self.tell(&format!("Real  filter options : {}", dict(&rules.options)))?;
        }
        // fail2ban-regex keeps the last one of a filter only.
        let journalmatch = journalmatch.or_else(|| rules.journalmatch.last().cloned()).unwrap_or_default();
        Ok(Rules { settings: rules.settings, journalmatch })
    }

    /// Opens the log, and tells what it is.
    fn open(
        &mut self,
        log: &Log,
        options: &Options,
        journalmatch: &[String],
        maxlines: usize,
    ) -> Result<Lines, End> {
        let encoding = options.encoding.as_deref().unwrap_or("UTF-8");
        Ok(match log {
            Log::File(path) => {
                let lines = FileLines::open(path, Charset::named(encoding)?, LastLine::Left)?;
                self.tell(&format!("Use         log file : {}", path.display()))?;
                self.tell(&format!("Use         encoding : {encoding}"))?;
                Lines::File(lines)
            }
            Log::Journal(files) => {
                self.tell("Use         systemd journal")?;
                self.tell(&format!("Use         encoding : {encoding}"))?;
                let charset = Charset::named(encoding)?;
                let decode = move |bytes: &[u8]| charset.decode(bytes);
                let mut wanted = None;
                // Of alternatives that ask for nothing, fail2ban makes no match at all.
                if journalmatch.iter().any(|word| word != "+") {
                    wanted = Some(JournalMatch::new(&[journalmatch.to_vec()])?);
                }
                let entries = Entries::read(files, wanted.as_ref(), UnitNames::AsWritten, decode)?;
                self.log(Level::Info, FILTER, format!("  encoding: {encoding}"))?;
                if !journalmatch.is_empty() {
                    let words = repr(&journalmatch.join(" "));
                    let message = format!("[~jailless~] Added journal match for: {words}");
                    self.log(Level::Info, "fail2ban.filtersystemd", message)?;
                    self.tell(&format!("Use    journal match : {}", journalmatch.join(" ")))?;
                }
                Lines::Journal(Box::new(entries))
            }
            Log::Text(text) if maxlines <= 1 && !text.contains('\n') => {
                self.tell(&format!("Use      single line : {}", short(text)))?;
                Lines::Text(vec![text.clone()].into_iter())
            }
            Log::Text(text) => {
                let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
                self.tell(&format!("Use      multi line : {} line(s)", lines.len()))?;
                for (index, line) in lines.iter().enumerate().take(5) {
                    self.tell(&format!("| {:>2}: {}", index + 1, short(line)))?;
                }
                if lines.len() > 5 {
                    self.tell("| ...")?;
                }
                self.tell("`-")?;
                Lines::Text(lines.into_iter())
            }
        })
    }

    /// `-o`
    fn print_failures(
        &mut self,
        session: &mut Session,
        lines: Lines,
        output: &mut Output,
        fixed_zone: bool,
    ) -> Result<(), End> {
        for line in lines {
            let line = line?;
            if line.is_skipped() {
                session.context.skip();
                continue;
            }
            let judgement = session.judge(&line);
            let mut charged = session.charged(&judgement);
            charged.retain(|charged| !charged.found.nofail && charged.fid.is_some());
            self.log_all(&session.take_told())?;
            let time = python_time(session, &judgement, line.text(), fixed_zone);
            output.print(&mut self.out, &charged, time, session.now())?;
        }
        Ok(())
    }
}

struct Rules {
    settings: FilterSettings,
    journalmatch: Vec<String>,
}

/// fail2ban computes the time of a date with a zone in whole numbers.
fn python_time(session: &Session, judgement: &Judgement, line: &str, fixed_zone: bool) -> PythonTime {
    match judgement.time {
        None => PythonTime::Unknown,
        Some(time) if time.fract() == 0.0 && (fixed_zone || session.context.tells_zone(line)) => {
            PythonTime::Int(time as i64)
        }
        Some(time) => PythonTime::Float(time),
    }
}

/// The first characters of a long text.
fn short(text: &str) -> String {
    const LENGTH: usize = 53;
    if text.chars().count() <= LENGTH {
        return text.to_owned();
    }
    text.chars().take(LENGTH - 3).chain("...".chars()).collect()
}

/// Compiles the filter; what is wrong with it in fail2ban's words.
fn check(settings: &FilterSettings) -> Result<Filter, End> {
    let all = settings.failregex.iter().chain(&settings.ignoreregex);
    let empty = all.clone().any(|expression| expression.trim_start().is_empty());
    if empty {
        return Err(End::Told("ERROR: Cannot add empty regex".into()));
    }
    Filter::new(settings).map_err(|error| match error.downcast_ref::<Refused>() {
        Some(Refused { python, why: Why::NoHost, .. }) => {
            End::Told(format!("ERROR: No failure-id group in {}", quoted(python)))
        }
        Some(Refused { python, why: Why::Syntax(reason, place), .. }) => {
            let place = place.map(|place| format!(" at position {place}")).unwrap_or_default();
            End::Told(format!(
                "ERROR: Unable to compile regular expression {}:\n{reason}{place}",
                quoted(python)
            ))
        }
        None => End::Failed(error),
    })
}

/// As fail2ban puts expressions into messages: as they are.
fn quoted(text: &str) -> String {
    format!("'{text}'")
}

/// fail2ban's words for a date pattern that is none.
fn no_datepattern(pattern: &str, error: &anyhow::Error) -> String {
    let reason = pattern.find('%').map_or_else(
        || format!("{error:#}"),
        |at| match pattern[at + 1..].chars().next() {
            Some(c) => {
                let code = u32::from(c);
                format!("unsupported format character '{c}' ({code:#x}) at index {}", at + 1)
            }
            None => "incomplete format".into(),
        },
    );
    format!(
        "Failed to set datepattern '{pattern}' (may be an invalid format or unescaped percent char): {reason}"
    )
}
