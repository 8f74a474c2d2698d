//! What fail2ban-regex counts, and how it prints it at the end.

use std::io::Write;

use anyhow::{Context as _, Result};

use super::{
    input::{InputLine, Log},
    options::{Options, Shown},
    session::{Session, local_time},
};
use crate::filter::{DatedLine, FilterSettings, Prefix, expanded, python};

/// `Sun Aug 14 11:59:58 2005`
const LOCAL_TIME: &str = "%a %b %d %H:%M:%S %Y";

/// How many lines of a kind are printed, unless `-L` sets it.
const FEW: usize = 20;

/// Lines of one kind.
struct Kind {
    name: &'static str,
    shown: Shown,
    count: usize,
    lines: Vec<String>,
    /// What `-D` shows of them.
    for_debuggex: Vec<String>,
}

/// One expression.
struct Expression {
    text: String,
    hits: usize,
    /// With `-v`, whom it found and when.
    found: Vec<String>,
}

/// The counts of one run.
pub(super) struct Tally<'a> {
    options: &'a Options,
    few: usize,
    verbose: bool,
    has_dates: bool,
    matched: Kind,
    ignored: Kind,
    missed: Kind,
    failregex: Vec<Expression>,
    ignoreregex: Vec<Expression>,
    prefix_hits: usize,
    /// fail2ban-regex looks at what it found last, also where it was not asked.
    last_prefix: Option<Vec<(String, Option<String>)>>,
    prefix_groups: Vec<String>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        options: &'a Options,
        settings: &FilterSettings,
        maxlines: Option<usize>,
        log: &Log,
    ) -> Self {
        let kind = |name, shown| Kind { name, shown, count: 0, lines: Vec::new(), for_debuggex: Vec::new() };
        let matched = if options.print_all_matched { Shown::All } else { Shown::Nothing };
        let expressions = |texts: &[String]| {
            texts.iter().map(|text| Expression { text: text.clone(), hits: 0, found: Vec::new() }).collect()
        };
        Self {
            options,
            few: maxlines.unwrap_or(FEW),
            verbose: options.verbosity() > 0,
            has_dates: !log.is_journal() || !settings.datepattern.is_empty(),
            matched: kind("matched", matched),
            ignored: kind("ignored", options.ignored()),
            missed: kind("missed", options.missed()),
            failregex: expressions(&settings.failregex),
            ignoreregex: expressions(&settings.ignoreregex),
            prefix_hits: 0,
            last_prefix: None,
            prefix_groups: Vec::new(),
        }
    }

    /// Judges a line and counts it.
    pub(super) fn add(&mut self, session: &mut Session, line: &InputLine) {
        let maxlines = session.filter.maxlines();
        let before = if maxlines > 1 { session.context.buffered().to_vec() } else { Vec::new() };
        let judgement = session.judge(line);
        let mut failures = 0;
        let mut is_ignored = !judgement.ignoreregex.is_empty();
        for charged in session.charged(&judgement) {
            let several = failures > 1;
            let expression = &mut self.failregex[charged.found.failregex];
            expression.hits += 1;
            if self.verbose {
                let time = judgement.time.unwrap_or_else(|| session.now());
                let whom = charged.fid.as_deref().unwrap_or("None");
                let note = if several { " (multiple regex matched)" } else { "" };
                expression.found.push(format!("    {whom}  {}{note}", local_time(time, LOCAL_TIME)));
            }
            if charged.found.nofail {
                is_ignored = true;
            } else {
                failures += 1;
            }
        }
        for index in &judgement.ignoreregex {
            self.ignoreregex[*index].hits += 1;
        }
        match judgement.prefix {
            Prefix::Unasked => {}
            Prefix::Missed => self.last_prefix = None,
            Prefix::Matched(groups) => self.last_prefix = Some(groups),
        }
        self.count_prefix();

        let text = line.text();
        let whole = match &line.logged {
            Some(logged) => format!("{} {text}", logged.text),
            None => text.to_owned(),
        };
        let mut for_debuggex = Vec::new();
        if maxlines > 1 {
            let full = usize::from(before.len() >= maxlines);
            let after = session.context.buffered();
            for line in before.iter().skip(full).filter(|line| !after.contains(line)) {
                self.move_to_matched(line, &mut for_debuggex);
            }
        }
        if let (false, Some(line)) = (for_debuggex.is_empty(), &judgement.line) {
            for_debuggex.push(line.without_date().to_owned());
        }
        let for_debuggex = if for_debuggex.is_empty() { whole.clone() } else { for_debuggex.join("\n") };
        let kind = match (is_ignored, failures) {
            (true, _) => &mut self.ignored,
            (false, 0) => &mut self.missed,
            (false, _) => &mut self.matched,
        };
        kind.count += 1;
        if kind.shown == Shown::All || kind.shown == Shown::Some && kind.count <= self.few + 1 {
            kind.lines.push(whole);
            if self.options.debuggex {
                kind.for_debuggex.push(for_debuggex);
            }
        }
    }

    fn count_prefix(&mut self) {
        let Some(groups) = &self.last_prefix else { return };
        self.prefix_hits += 1;
        if self.verbose && self.prefix_groups.len() <= self.few {
            let dict = || {
                let groups = groups.iter();
                python::repr_dict(
                    groups.map(|(name, value)| (name.as_str(), python::repr_optional(value.as_deref()))),
                )
            };
            self.prefix_groups.push(if self.prefix_groups.len() < self.few { dict() } else { "...".into() });
        }
    }

    /// A line that missed by itself was a part of a match (`testRegex`).
    fn move_to_matched(&mut self, line: &DatedLine, for_debuggex: &mut Vec<String>) {
        let whole = line.whole();
        if let Some(at) = self.missed.lines.iter().position(|missed| *missed == whole) {
            self.missed.lines.remove(at);
            let text = line.without_date();
            if let Some(at) = self.missed.for_debuggex.iter().position(|missed| missed == text) {
                self.missed.for_debuggex.remove(at);
            }
        }
        if self.matched.shown == Shown::All {
            if self.options.debuggex {
                for_debuggex.push(line.without_date().to_owned());
            } else {
                self.matched.lines.push(whole);
            }
        }
        self.matched.count += 1;
        self.missed.count = self.missed.count.saturating_sub(1);
    }

    /// Prints all of it. `seconds` is how long it took.
    pub(super) fn print(&self, out: &mut impl Write, session: &Session, seconds: f64) -> Result<()> {
        self.print_to(out, session, seconds).context("writing the output")
    }

    fn print_to(&self, out: &mut impl Write, session: &Session, seconds: f64) -> std::io::Result<()> {
        writeln!(out, "\nResults\n=======")?;
        if let Some(prefregex) = session.filter.prefregex() {
            writeln!(out, "\nPrefregex: {} total", self.prefix_hits)?;
            let groups = self.prefix_groups.iter().map(|groups| format!("    {groups}"));
            let rows = [prefregex.to_owned()].into_iter().chain(groups);
            print_list(out, None, &rows.collect::<Vec<_>>())?;
        }
        self.print_expressions(out, "Failregex", &self.failregex)?;
        self.print_expressions(out, "Ignoreregex", &self.ignoreregex)?;
        if self.has_dates {
            writeln!(out, "\nDate template hits:")?;
            print_list(out, Some("[# of hits] date format"), &self.dates(session))?;
        }
        let [matched, ignored, missed] = [&self.matched, &self.ignored, &self.missed].map(|kind| kind.count);
        let lines = matched + ignored + missed;
        writeln!(
            out,
            "\nLines: {lines} lines, {ignored} ignored, {matched} matched, {missed} missed\n\
             [processed in {seconds:.2} sec]\n"
        )?;
        self.print_lines(out, &self.matched, session)?;
        self.print_lines(out, &self.ignored, session)?;
        self.print_lines(out, &self.missed, session)
    }

    fn print_expressions(
        &self,
        out: &mut impl Write,
        title: &str,
        expressions: &[Expression],
    ) -> std::io::Result<()> {
        let total: usize = expressions.iter().map(|expression| expression.hits).sum();
        let mut rows = Vec::new();
        for (index, expression) in expressions.iter().enumerate() {
            if expression.hits > 0 || self.verbose {
                rows.push(format!("{:>2}) [{}] {}", index + 1, expression.hits, expression.text));
            }
            rows.extend_from_slice(&expression.found);
        }
        writeln!(out, "\n{title}: {total} total")?;
        print_list(out, Some(" #) [# of hits] regular expression"), &rows)
    }

    fn dates(&self, session: &Session) -> Vec<String> {
        let mut rows = Vec::new();
        for template in session.context.date_templates() {
            if !self.verbose && template.hits() == 0 {
                continue;
            }
            rows.push(format!("[{}] {}", template.hits(), template.name()));
            if self.options.verbose_date {
                let (weight, own, pattern) = (template.weight(), template.own_weight(), template.pattern());
                rows.push(format!("    # weight: {weight:.3} ({own:.3}), pattern: {pattern}"));
                rows.push(format!("    # regex:   {}", template.expression()));
            }
        }
        rows
    }

    fn print_lines(&self, out: &mut impl Write, kind: &Kind, session: &Session) -> std::io::Result<()> {
        if kind.count == 0 || kind.shown == Shown::Nothing {
            return Ok(());
        }
        let name = kind.name;
        let mut header = format!("{name} line(s):");
        header[..1].make_ascii_uppercase();
        if kind.count >= self.few && kind.shown != Shown::All {
            let count = kind.count;
            return writeln!(
                out,
                "{header} too many to print.  Use --print-all-{name} to print all {count} lines"
            );
        }
        let mut rows = Vec::new();
        if self.options.debuggex {
            let expressions = if name == "ignored" { &self.ignoreregex } else { &self.failregex };
            for line in &kind.for_debuggex {
                rows.extend(expressions.iter().map(|expression| {
                    let url = self.debuggex(line, &expression.text, session.filter.maxlines() > 1);
                    format!("{line} | {} |  {url}", expression.text)
                }));
            }
        } else {
            rows.clone_from(&kind.lines);
        }
        let rows: Vec<_> = rows.iter().map(|row| row.trim_end().to_owned()).collect();
        print_list(out, Some(&header), &rows)
    }

    /// The address that shows an expression at work on a line.
    fn debuggex(&self, line: &str, expression: &str, multiline: bool) -> String {
        // fail2ban-regex takes everything else for a yes here.
        let usedns = if self.options.usedns.as_deref() == Some("no") { "no" } else { "yes" };
        let expression = expanded(expression, usedns);
        let flags = if multiline { "&flags=m" } else { "" };
        format!(
            "https://www.debuggex.com/?re={}&str={}&flavor=python{flags}",
            quote(&expression),
            quote(line)
        )
    }
}

/// A list as fail2ban-regex draws it; an empty one is not drawn.
fn print_list(out: &mut impl Write, header: Option<&str>, rows: &[String]) -> std::io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    if let Some(header) = header {
        writeln!(out, "|- {header}")?;
    }
    for row in rows {
        writeln!(out, "|  {row}")?;
    }
    writeln!(out, "`-")
}

/// A text as a part of an address.
fn quote(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
