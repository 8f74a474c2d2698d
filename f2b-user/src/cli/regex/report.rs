//! What `f2b regex` shows a person: the lines with the part that matched, whom they charge, what the groups caught,
//! and how often each expression hit.

use std::{
    collections::HashSet,
    io::{self, BufWriter, IsTerminal as _, StdoutLock, Write},
    ops::Range,
};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use anyhow::{Context as _, Result};

use super::{
    input::InputLine,
    options::{Options, Shown},
    rules::Named,
    session::{Charged, Session, local_time},
};
use crate::filter::{FilterSettings, Judgement, Match, Place};

/// How many lines of a kind are shown unless all are asked for.
const FEW: usize = 20;
/// How many addresses are counted one by one.
const MAX_ADDRESSES: usize = 100_000;

const TITLE: Style = Style::new().bold();
const MATCH: Style = AnsiColor::Green.on_default().bold();
const WHOM: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Lines that are shown at the end.
struct Kind {
    title: &'static str,
    shown: Shown,
    /// The option that shows all of them.
    all: &'static str,
    count: usize,
    lines: Vec<String>,
}

impl Kind {
    fn new(title: &'static str, shown: Shown, all: &'static str) -> Self {
        Self { title, shown, all, count: 0, lines: Vec::new() }
    }

    fn add(&mut self, number: u64, text: &str) {
        self.count += 1;
        if self.shown == Shown::All || self.shown == Shown::Some && self.count <= FEW {
            self.lines.push(format!("{number:>6}  {}", printable(text)));
        }
    }

    fn rest(&self) -> usize {
        if self.shown == Shown::Nothing { 0 } else { self.count - self.lines.len() }
    }
}

pub(super) struct Report<'a> {
    out: BufWriter<AutoStream<StdoutLock<'static>>>,
    /// Whether the part that matched can be told by its colour.
    has_colour: bool,
    options: &'a Options,
    settings: &'a FilterSettings,
    number: u64,
    skipped: usize,
    matched: usize,
    shown: usize,
    addresses: HashSet<String>,
    context: Kind,
    unresolved: Kind,
    ignored: Kind,
    missed: Kind,
    hits: Vec<usize>,
    ignored_by: Vec<usize>,
    undated: usize,
}

impl<'a> Report<'a> {
    pub(super) fn new(options: &'a Options, settings: &'a FilterSettings) -> Self {
        let stdout = io::stdout();
        let choice = AutoStream::choice(&stdout);
        let has_colour = stdout.is_terminal() && choice != ColorChoice::Never;
        Self {
            out: BufWriter::new(AutoStream::new(stdout.lock(), choice)),
            has_colour,
            options,
            settings,
            number: 0,
            skipped: 0,
            matched: 0,
            shown: 0,
            addresses: HashSet::new(),
            context: Kind::new("Context, no failure by itself", options.ignored(), "--print-all-ignored"),
            unresolved: Kind::new(
                "Matched, but the host has no address",
                options.missed(),
                "--print-all-missed",
            ),
            ignored: Kind::new("Ignored", options.ignored(), "--print-all-ignored"),
            missed: Kind::new("Missed", options.missed(), "--print-all-missed"),
            hits: vec![0; settings.failregex.len()],
            ignored_by: vec![0; settings.ignoreregex.len()],
            undated: 0,
        }
    }

    /// Tells what is searched, and for what.
    pub(super) fn begin(&mut self, log: &str, named: &Named) -> Result<()> {
        let filter = match named {
            Named::Filter { dir, name, .. } => {
                let dir = dir.as_ref().map_or_else(|| "built in".into(), |dir| dir.display().to_string());
                format!("{name} ({dir})")
            }
            Named::File { path, .. } => path.display().to_string(),
            Named::Expression(_) => "the expression given".into(),
        };
        let log = printable(log.lines().next().unwrap_or_default());
        writeln!(self.out, "{TITLE}Log{TITLE:#}     {log}\n{TITLE}Filter{TITLE:#}  {filter}\n")
            .context(WRITING)
    }

    /// Counts a line that is not judged.
    pub(super) fn skip(&mut self) {
        self.number += 1;
        self.skipped += 1;
    }

    /// Judges a line, and shows it if it matches.
    pub(super) fn add(&mut self, session: &mut Session, line: &InputLine) -> Result<()> {
        self.number += 1;
        let judgement = session.judge(line);
        let charged = session.charged(&judgement);
        let text = line.text();
        for found in &judgement.matches {
            self.hits[found.failregex] += 1;
        }
        for index in &judgement.ignoreregex {
            self.ignored_by[*index] += 1;
        }
        self.undated += usize::from(judgement.time.is_none());
        if charged.iter().any(|charged| charged.fid.is_some()) {
            self.show(&judgement, &charged, text).context(WRITING)
        } else {
            let unresolved = |found: &Match| !found.nofail && found.name.is_some();
            let kind = if !judgement.ignoreregex.is_empty() {
                &mut self.ignored
            } else if judgement.matches.iter().any(unresolved) {
                &mut self.unresolved
            } else if judgement.matches.is_empty() {
                &mut self.missed
            } else {
                &mut self.context
            };
            kind.add(self.number, text);
            Ok(())
        }
    }

    fn show(&mut self, judgement: &Judgement, charged: &[Charged<'_>], text: &str) -> io::Result<()> {
        self.matched += 1;
        for fid in charged.iter().filter_map(|charged| charged.fid.as_ref()) {
            if self.addresses.len() < MAX_ADDRESSES {
                self.addresses.insert(fid.clone());
            }
        }
        if !self.options.print_all_matched && self.shown == FEW {
            return Ok(());
        }
        self.shown += 1;
        if self.shown == 1 {
            writeln!(self.out, "{TITLE}Matched{TITLE:#}")?;
        }
        match &charged[0].found.place {
            Place::Line(range) => {
                let range = in_the_line(judgement, text, range);
                self.marked(self.number, text, range)?;
            }
            Place::Lines(lines, range) => {
                let mut start = 0;
                let mut number = self.number.saturating_sub(lines.lines().count() as u64);
                for line in lines.split_inclusive('\n') {
                    number += 1;
                    let end = start + line.trim_end_matches('\n').len();
                    let (from, to) = (range.start.max(start), range.end.min(end));
                    if from < to {
                        self.marked(number, &lines[start..end], from - start..to - start)?;
                    }
                    start += line.len();
                }
            }
        }
        for charged in charged {
            self.verdict(judgement, charged)?;
        }
        Ok(())
    }

    /// A line with one part marked: by its colour, or by a line below.
    fn marked(&mut self, number: u64, text: &str, range: Range<usize>) -> io::Result<()> {
        let [before, part, after] =
            match (text.get(..range.start), text.get(range.clone()), text.get(range.end..)) {
                (Some(before), Some(part), Some(after)) => [before, part, after].map(printable),
                _ => [printable(text), String::new(), String::new()],
            };
        writeln!(self.out, "{number:>6}  {before}{MATCH}{part}{MATCH:#}{after}")?;
        if !self.has_colour && !part.is_empty() {
            let (indent, width) = (before.chars().count(), part.chars().count());
            writeln!(self.out, "        {:indent$}{}", "", "~".repeat(width))?;
        }
        Ok(())
    }

    /// Whom a match charges, and what its groups caught.
    fn verdict(&mut self, judgement: &Judgement, charged: &Charged<'_>) -> io::Result<()> {
        let Some(fid) = &charged.fid else { return Ok(()) };
        let (fid, number) = (printable(fid), charged.found.failregex + 1);
        write!(self.out, "        {DIM}failregex {number}{DIM:#}  {WHOM}{fid}{WHOM:#}")?;
        if let Some(time) = judgement.time {
            write!(self.out, "  {}", local_time(time, "%Y-%m-%d %H:%M:%S"))?;
        }
        for (name, value) in &charged.found.groups {
            if let Some(value) = value.as_ref().filter(|value| **value != fid) {
                write!(self.out, "  {DIM}{name}={DIM:#}{}", printable(value.trim()))?;
            }
        }
        writeln!(self.out)
    }

    /// Shows what did not match, and the counts.
    pub(super) fn end(mut self, session: &Session) -> Result<()> {
        self.end_with(session).context(WRITING)
    }

    fn end_with(&mut self, session: &Session) -> io::Result<()> {
        if self.matched > self.shown {
            let more = self.matched - self.shown;
            writeln!(self.out, "        {DIM}and {more} more; --print-all-matched shows them{DIM:#}")?;
        }
        if self.shown > 0 {
            writeln!(self.out)?;
        }
        for kind in [&self.context, &self.unresolved, &self.ignored, &self.missed] {
            if kind.lines.is_empty() {
                continue;
            }
            writeln!(self.out, "{TITLE}{}{TITLE:#}", kind.title)?;
            for line in &kind.lines {
                writeln!(self.out, "{line}")?;
            }
            if kind.rest() > 0 {
                writeln!(self.out, "        {DIM}and {} more; {} shows them{DIM:#}", kind.rest(), kind.all)?;
            }
            writeln!(self.out)?;
        }
        let verbose = self.options.verbosity() > 0;
        for (title, expressions, hits) in [
            ("failregex", &self.settings.failregex, &self.hits),
            ("ignoreregex", &self.settings.ignoreregex, &self.ignored_by),
        ] {
            let rows: Vec<(usize, usize, &String)> = (hits.iter().copied().enumerate().zip(expressions))
                .map(|((index, hits), expression)| (hits, index + 1, expression))
                .filter(|(hits, ..)| verbose || *hits > 0)
                .collect();
            if rows.is_empty() {
                continue;
            }
            writeln!(self.out, "  {TITLE}Hits    #  {title}{TITLE:#}")?;
            for (hits, number, expression) in rows {
                let style = if hits > 0 { Style::new() } else { DIM };
                writeln!(self.out, "{style}{hits:>6}  {number:>3}  {}{style:#}", printable(expression))?;
            }
            writeln!(self.out)?;
        }
        self.dates(session, verbose)?;
        self.counts(session)?;
        self.out.flush()
    }

    fn dates(&mut self, session: &Session, verbose: bool) -> io::Result<()> {
        let templates: Vec<_> =
            session.context.date_templates().filter(|template| verbose || template.hits() > 0).collect();
        if templates.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "  {TITLE}Hits  date{TITLE:#}")?;
        for template in templates {
            writeln!(self.out, "{:>6}  {}", template.hits(), template.name())?;
        }
        writeln!(self.out)
    }

    fn counts(&mut self, session: &Session) -> io::Result<()> {
        let Self { matched, context, unresolved, ignored, missed, skipped, undated, .. } = &*self;
        let lines = matched + context.count + unresolved.count + ignored.count + missed.count;
        let (matched, undated) = (*matched, *undated);
        let more = if self.addresses.len() == MAX_ADDRESSES { " or more" } else { "" };
        let mut counts = vec![match self.addresses.len() {
            0 => "none matched".into(),
            1 => format!("{matched} matched, of one offender"),
            offenders => format!("{matched} matched, of {offenders}{more} offenders"),
        }];
        for (count, word) in [
            (context.count, "only context"),
            (unresolved.count, "of unknown hosts"),
            (ignored.count, "ignored"),
            (missed.count, "missed"),
            (*skipped, "empty or with a # skipped"),
        ] {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        let s = if lines == 1 { "" } else { "s" };
        writeln!(self.out, "{TITLE}{lines} line{s}{TITLE:#}: {}", counts.join("; "))?;
        if lines > 0 && undated == lines {
            writeln!(self.out, "No line has a date that the filter knows; -d tells what it looks like.")?;
        }
        let expensive = session.context.over_budget();
        if expensive > 0 {
            writeln!(self.out, "{expensive} of them were too long or too expensive to match in full.")?;
        }
        Ok(())
    }
}

const WRITING: &str = "writing the output";

/// A part of the line without its date → the same part of the line.
fn in_the_line(judgement: &Judgement, text: &str, range: &Range<usize>) -> Range<usize> {
    let Some(line) = judgement.line.as_ref().filter(|line| line.whole() == text) else {
        return range.clone();
    };
    let (cut, date) = (line.before().len(), line.date().len());
    let start = if range.start >= cut { range.start + date } else { range.start };
    let end = if range.end > cut { range.end + date } else { range.end };
    start..end
}

/// A text that does nothing to a terminal.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
