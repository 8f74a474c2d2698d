//! A filter: which lines are failures, and whose. No clock, no I/O.
//!
//! - [`expression`]: fail2ban's expressions → what matches them
//! - [`date`]: finds and reads the date of a line
//! - [`alike`]: lines that begin like others
//! - [`context`]: what is remembered from line to line
//! - [`groups`]: what the groups of a match caught
//! - [`identity`]: what a failure is charged to
//! - [`name`]: names of groups
//! - [`judgement`]: all that came to light about one line, for `f2b regex`
//! - [`python`]: values as Python writes them

mod alike;
mod context;
mod date;
mod expression;
mod groups;
mod identity;
mod judgement;
mod name;
pub mod python;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    error::Error,
    fmt,
    mem::{swap, take},
    net::IpAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use jiff::tz::{Offset, TimeZone};
use smallvec::SmallVec;

pub(crate) use self::expression::check as check_expressions;
pub use self::{
    context::Context,
    date::DateTemplate,
    judgement::{Breadth, DatedLine, Judgement, Match, Place, Prefix},
};
use self::{
    context::Keep,
    date::{Detector, Templates},
    expression::{
        Candidate, Candidates, Captured, Guess, OverBudget, Pattern, Set, Text, syntax_error,
        tags::{self, HostNames, option_name},
    },
    groups::Groups,
    identity::Identity,
    judgement::{Conclusion, Cut, DateText, Found, Judge, Whom, Witness},
    name::Name,
};

/// A line is cut here before it is matched: no log line that matters is longer, and a hostile one must not buy time.
const MAX_LINE: usize = 8192;

/// What `prefregex` leaves of a line for `failregex`.
const CONTENT: Name = Name::CONTENT;

/// The groups that say whose failure it is; a filter needs one of them.
const IDENTITIES: [Name; 5] = [Name::FID, Name::IP4, Name::IP6, Name::DNS, Name::MLFID];

/// A filter's options as the configuration resolves them.
#[derive(Clone, Debug, Default)]
pub struct FilterSettings {
    pub prefregex: String,
    pub failregex: Vec<String>,
    pub ignoreregex: Vec<String>,
    /// Empty: 1.
    pub maxlines: String,
    /// Empty: the default detectors.
    pub datepattern: String,
    /// `yes`, `warn` (also if empty), `no`, `raw`.
    pub usedns: String,
}

/// One failure found.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The number of the line that completed the match, from 1.
    pub line: u64,
    /// Whom or what it is charged to: an address, a host name, or what `<F-ID>` matched.
    pub fid: String,
    /// The address behind it. A host name has none until somebody resolves it.
    pub ip: Option<IpAddr>,
    /// `fid` is a host name, unless it is an address, and `usedns` has its addresses charged.
    pub is_name: bool,
    /// Seconds since 1970.
    pub time: f64,
    /// What the other groups matched: `user`, `port`, …
    pub fields: Fields,
    /// The lines that matched, with their dates, if the context keeps them.
    pub matches: Vec<String>,
}

impl Failure {
    /// `<F-USER>`, if the expression has it.
    pub fn user(&self) -> Option<&str> {
        self.fields.get("user")
    }
}

/// What the groups of an expression matched, by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(SmallVec<[(Name, Text); 2]>);

impl Fields {
    /// What the group of this name matched.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, sorted by the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.text(), value.as_str()))
    }
}

impl FromIterator<(Name, Text)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Name, Text)>>(fields: I) -> Self {
        let mut fields: SmallVec<_> = fields.into_iter().collect();
        fields.sort_unstable_by_key(|(name, _): &(Name, Text)| name.text());
        Self(fields)
    }
}

/// An expression that is refused.
#[derive(Debug)]
pub struct Refused {
    pub option: &'static str,
    /// As it was written.
    pub text: String,
    /// With its tags expanded, as fail2ban gives it to Python.
    pub python: String,
    pub why: Why,
}

/// Why an expression is refused.
#[derive(Debug)]
pub enum Why {
    /// With the number of the character where it goes wrong in [`python`](Refused::python), if known.
    Syntax(anyhow::Error, Option<usize>),
    NoHost,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { option, text, why, .. } = self;
        match why {
            Why::Syntax(..) => write!(f, "{option}: \"{text}\" is no regular expression"),
            Why::NoHost => write!(f, "{option}: \"{text}\" has no <HOST> to tell whose failure it is"),
        }
    }
}

impl Error for Refused {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.why {
            Why::Syntax(error, _) => Some(error.as_ref()),
            Why::NoHost => None,
        }
    }
}

/// A filter's expressions, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter {
    inner: Arc<Expressions>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum UseDns {
    Yes,
    No,
    Raw,
}

impl UseDns {
    fn read(text: &str) -> Self {
        match text.to_lowercase().as_str() {
            "" | "yes" | "warn" => Self::Yes,
            "raw" => Self::Raw,
            // fail2ban takes whatever else is written for "no".
            _ => Self::No,
        }
    }
}

#[derive(Debug)]
struct Expressions {
    prefregex: Option<Pattern>,
    prefregex_python: Option<String>,
    failregex: Vec<Pattern>,
    /// What finds those that may match. This and the next are made when the first line needs them: a jail may wait long
    /// for it.
    any_failregex: OnceLock<Set>,
    /// The same for whole lines, of which `failregex` sees only what `prefregex` leaves of them. `None` if whole lines
    /// cannot tell.
    any_in_line: OnceLock<Option<Set>>,
    /// What finds dates, as of this year.
    dates: Mutex<Option<(i16, Arc<Templates>)>>,
    ignoreregex: Vec<Pattern>,
    /// A `failregex` has a group of a name that `prefregex` has, too: its own counts even if it caught nothing.
    names_overlap: bool,
    maxlines: usize,
    datepattern: String,
    usedns: UseDns,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// The option that is wrong, and why.
    pub fn new(settings: &FilterSettings) -> Result<Self> {
        let usedns = UseDns::read(&settings.usedns);
        let names = if usedns == UseDns::No { HostNames::Never } else { HostNames::Match };
        let maxlines = match settings.maxlines.trim() {
            "" => 1,
            lines => lines
                .parse::<usize>()
                .ok()
                .filter(|lines| *lines > 0)
                .with_context(|| format!("maxlines = {lines} is not a number from 1"))?,
        };
        let compile = |option: &'static str, text: &str, multiline: bool| {
            Pattern::new(text, multiline, names).map_err(|error| {
                let python = tags::python(text, names);
                let place = syntax_error(&python, multiline).map(|error| error.at);
                Refused { option, text: text.to_owned(), python, why: Why::Syntax(error, place) }
            })
        };
        if settings.failregex.is_empty() {
            bail!("failregex is empty; a filter needs at least one expression with <HOST>");
        }
        let prefregex = match settings.prefregex.as_str() {
            "" => None,
            text => Some(compile("prefregex", text, false)?),
        };
        let identifies = |pattern: &Pattern| IDENTITIES.iter().any(|name| pattern.has_group(*name));
        let mut failregex = Vec::new();
        for text in &settings.failregex {
            let pattern = compile("failregex", text, maxlines > 1)?;
            if !identifies(&pattern) && !prefregex.as_ref().is_some_and(identifies) {
                let python = tags::python(text, names);
                bail!(Refused { option: "failregex", text: text.clone(), python, why: Why::NoHost });
            }
            failregex.push(pattern);
        }
        let ignoreregex = settings.ignoreregex.iter().map(|text| compile("ignoreregex", text, false));
        let ignoreregex = ignoreregex.collect::<Result<Vec<_>, Refused>>()?;
        if !settings.datepattern.trim().is_empty() {
            Templates::new(&settings.datepattern, 2000)
                .and_then(|templates| templates.check())
                .with_context(|| format!("datepattern = {}", settings.datepattern))?;
        }
        Ok(Self {
            inner: Arc::new(Expressions {
                dates: Mutex::default(),
                any_in_line: OnceLock::new(),
                names_overlap: prefregex
                    .as_ref()
                    .is_some_and(|outer| failregex.iter().any(|inner| inner.shares_names(outer))),
                prefregex_python: prefregex.as_ref().map(|_| tags::python(&settings.prefregex, names)),
                prefregex,
                any_failregex: OnceLock::new(),
                failregex,
                ignoreregex,
                maxlines,
                datepattern: settings.datepattern.clone(),
                usedns,
            }),
        })
    }

    /// A fresh memory for one log. `zone` is where its local times are; `now` tells how far in the future a date can
    /// be.
    pub fn context(&self, zone: TimeZone, now: f64) -> Context {
        let this_year = date::year(now, &zone);
        Context::new(Detector::new(self.inner.dates(this_year), zone))
    }

    /// The failures that `line` completes. `logged` is when it was logged, if its source knows; else its date is
    /// searched for, and cut out.
    pub fn failures(&self, context: &mut Context, line: &str, logged: Option<f64>, now: f64) -> Vec<Failure> {
        let mut failures = Vec::new();
        self.examine(context, line, Logged::at(logged), now, &mut failures);
        failures
    }

    /// When `line` was logged, in seconds since 1970, if it has a date. Local times are in `zone`.
    pub fn time_of(&self, line: &str, zone: &TimeZone, now: f64) -> Option<f64> {
        dated(&mut self.context(zone.clone(), now), line, None, now)?.time
    }

    /// How many lines an expression may span.
    pub fn maxlines(&self) -> usize {
        self.inner.maxlines
    }

    /// `prefregex` with its tags expanded, as fail2ban gives it to Python.
    pub fn prefregex(&self) -> Option<&str> {
        self.inner.prefregex_python.as_deref()
    }

    /// What there is to tell about `line`, for a person who looks at it. Its failures are those of
    /// [`failures`](Self::failures) if the breadth is [`First`](Breadth::First).
    pub fn judge(
        &self,
        context: &mut Context,
        line: &str,
        logged: Option<(f64, &str)>,
        now: f64,
        breadth: Breadth,
    ) -> Judgement {
        context.keep = Keep::Lines;
        let mut judge = Judge::new(breadth, self.inner.maxlines);
        let over_budget = context.over_budget;
        let logged = logged.map(|(time, text)| Logged { time, text });
        self.examine(context, line, logged, now, &mut judge);
        Judgement { over_budget: context.over_budget > over_budget, ..judge.judgement }
    }

    /// Where both come from.
    fn examine(
        &self,
        context: &mut Context,
        line: &str,
        logged: Option<Logged<'_>>,
        now: f64,
        witness: &mut impl Witness,
    ) {
        context.line += 1;
        if line.len() > MAX_LINE {
            context.over_budget += 1;
        }
        let line = &line[..line.floor_char_boundary(MAX_LINE)];
        let Some(cut) = dated(context, line, logged, now) else { return };
        if witness.wants_all() {
            witness.dated(&cut.keep(context.keep, &context.last_date_text), cut.time);
        }
        self.inner.find(context, &cut, now, witness);
    }
}

/// How fail2ban names a date pattern.
///
/// # Errors
/// It is none.
pub fn describe_datepattern(datepattern: &str, now: f64) -> Result<String> {
    let zone = TimeZone::UTC;
    let this_year = date::year(now, &zone);
    Ok(Detector::new(Arc::new(Templates::new(datepattern, this_year)?), zone).describe())
}

/// A zone as in `logtimezone`: an abbreviation that fail2ban knows, an offset, or both (`UTC+0200`).
pub fn fixed_zone(text: &str) -> Option<TimeZone> {
    let minutes = date::zone(text).ok()?;
    Some(TimeZone::fixed(Offset::from_seconds(minutes * 60).ok()?))
}

/// The zone that `logtimezone` names: a [`fixed_zone`], or, other than in fail2ban, a name of the zone database
/// (`Europe/Zurich`).
///
/// # Errors
/// There is no such zone.
pub fn log_zone(text: &str) -> Result<TimeZone> {
    let unknown = || format!("there is no zone {text}; write for example UTC+0200 or Europe/Zurich");
    fixed_zone(text).map_or_else(|| TimeZone::get(text).with_context(unknown), Ok)
}

/// The group that `<F-tag>` stands for: `ID` is kept as `fid`.
pub fn group_of_tag(tag: &str) -> String {
    option_name(tag)
}

/// An expression with its tags expanded, as fail2ban shows it. `usedns` as in [`FilterSettings`].
pub fn expanded(expression: &str, usedns: &str) -> String {
    let names = if UseDns::read(usedns) == UseDns::No { HostNames::Never } else { HostNames::Match };
    tags::python_tags(expression, names)
}

/// When a line was logged, if its source knows, and how that is written.
#[derive(Clone, Copy, Debug)]
struct Logged<'a> {
    time: f64,
    text: &'a str,
}

impl Logged<'_> {
    fn at(time: Option<f64>) -> Option<Self> {
        time.map(|time| Self { time, text: "" })
    }
}

/// Where the line's date is, and its time (`Filter.processLine`). Nothing for a line whose date fail2ban trips over.
fn dated<'l>(context: &mut Context, line: &'l str, logged: Option<Logged<'_>>, now: f64) -> Option<Cut<'l>> {
    if let Some(Logged { time, text }) = logged {
        context.set_last_date(time, text);
        return Some(Cut { line, place: 0..0, date: DateText::Last, time: Some(time) });
    }
    // A date within the last minute also holds for the lines below it.
    let last = context.last_date.filter(|last| *last > now - 60.0);
    let without = || {
        let date = if last.is_some() { DateText::Last } else { DateText::None };
        Cut { line, place: 0..0, date, time: last }
    };
    let Some(found) = context.detector.find(line, now) else {
        return Some(without());
    };
    let place = found.start..found.end;
    if place.is_empty() {
        let none = Cut { line, place, date: DateText::None, time: Some(now) };
        return Some(if last.is_some() { without() } else { none });
    }
    match found.time {
        Ok(time) => {
            context.set_last_date(time, &line[place.clone()]);
            Some(Cut { line, place, date: DateText::Own, time: Some(time) })
        }
        Err(date::NoTime::Invalid) if last.is_some() => Some(without()),
        Err(date::NoTime::Invalid) => Some(Cut { line, place, date: DateText::Own, time: None }),
        Err(date::NoTime::LineIsLost) => None,
    }
}

impl Expressions {
    fn dates(&self, this_year: i16) -> Arc<Templates> {
        // A panic elsewhere leaves nothing half done here.
        let mut dates = self.dates.lock().unwrap_or_else(PoisonError::into_inner);
        let current = dates.take().filter(|(year, _)| *year == this_year);
        let (_, templates) = dates.insert(current.unwrap_or_else(|| {
            // The pattern was checked when the filter was made.
            let templates =
                Templates::new(&self.datepattern, this_year).unwrap_or_else(|_| Templates::none());
            (this_year, Arc::new(templates))
        }));
        Arc::clone(templates)
    }

    fn any_in_line(&self) -> Option<&Set> {
        let make = || Set::within(self.prefregex.as_ref()?, CONTENT, &self.failregex);
        self.any_in_line.get_or_init(make).as_ref()
    }

    /// The failures that the buffered lines and `line` amount to (`Filter.findFailure`).
    fn find(&self, context: &mut Context, line: &Cut<'_>, now: f64, witness: &mut impl Witness) {
        let mut guess = None;
        if self.maxlines == 1
            && let Some(set) = self.any_in_line()
        {
            // Most lines are over before they are copied.
            let piece = line.piece().filter(|_| set.guesses_by_texts());
            let text = piece.unwrap_or_else(|| {
                line.write(&mut context.text);
                &context.text
            });
            guess = set.guess(text);
            if guess.is_none() && !witness.wants_all() {
                return;
            }
        }
        let (mut text, mut content) = (take(&mut context.text), take(&mut context.content));
        line.write(&mut text);
        let buffers = [&mut text, &mut content];
        if let Err(OverBudget) = self.find_guessed(context, line, guess, buffers, now, witness) {
            context.over_budget += 1;
        }
        (context.text, context.content) = (text, content);
    }

    /// The same for a line that is worth more than a look. `buffer` is what the expressions see of it, and `content` room
    /// for what `prefregex` leaves of that.
    #[inline(never)]
    fn find_guessed(
        &self,
        context: &mut Context,
        line: &Cut<'_>,
        guess: Option<Guess>,
        [buffer, content]: [&mut String; 2],
        now: f64,
        witness: &mut impl Witness,
    ) -> Result<(), OverBudget> {
        let multiline = self.maxlines > 1;
        let mut lines = Vec::new();
        if multiline || context.keep == Keep::Lines {
            lines.push(line.keep(context.keep, &context.last_date_text));
        }
        if multiline {
            context.buffer.append(&mut lines);
            let excess = context.buffer.len().saturating_sub(self.maxlines);
            context.buffer.drain(..excess);
            lines.clone_from(&context.buffer);
            join(buffer, &lines);
        }

        // With few of them, it is cheaper to ask first.
        if self.ignoreregex.len() + 2 < self.failregex.len() && self.ignores(buffer, witness)? {
            return Ok(());
        }
        let keeps_absent = self.names_overlap || witness.wants_all();
        let mut common = Groups::default();
        if let Some(prefregex) = &self.prefregex {
            let found = prefregex.search_with(&mut context.heads, buffer)?;
            witness.prefix(found.as_ref());
            let Some(found) = found else { return Ok(()) };
            common = groups(&found, Some(CONTENT), keeps_absent, common);
            if let Some(part) = found.name(CONTENT).filter(|part| !part.is_empty()) {
                if multiline {
                    context.buffer = vec![DatedLine::new(part, 0..0, "")];
                }
                join(content, &[part]);
                swap(buffer, content);
            }
        }
        let any_failregex = self.any_failregex.get_or_init(|| Set::new(&self.failregex));
        let Some(guess) = guess.or_else(|| any_failregex.guess(buffer)) else { return Ok(()) };
        let tries_all = witness.breadth() == Breadth::All;
        let mut candidates = Candidates::new(any_failregex, guess);
        let mut every = (0..self.failregex.len()).map(Candidate::plain);
        // A match that takes its lines out of the buffer leaves others to search.
        let tries_every = tries_all && multiline;
        while let Some(candidate) = if tries_every { every.next() } else { candidates.next(buffer) } {
            let failregex = candidate.index;
            let Some(found) = self.failregex[failregex].search_as(buffer, candidate)? else { continue };
            let mut matched = Vec::new();
            if multiline {
                (matched, context.buffer) = matched_and_rest(&found, buffer, &lines);
            }
            let matched = if multiline { &matched } else { &lines };
            let ignored = if self.ignoreregex.is_empty() {
                false
            } else if multiline {
                let mut text = String::new();
                join(&mut text, matched);
                self.ignores(&text, witness)?
            } else {
                self.ignores(buffer, witness)?
            };
            if !ignored {
                let mut all = if tries_all { common.clone() } else { take(&mut common) };
                if keeps_absent {
                    all.update(groups(&found, None, true, Groups::default()));
                } else {
                    all = groups(&found, None, false, all);
                }
                let (line, time) = (context.line, line.time.unwrap_or(now));
                if let Some(conclusion) = self.conclude(context, all, matched, now, witness.wants_all()) {
                    let found = Found { failregex, captured: &found, text: buffer, line, time };
                    witness.matched(found, conclusion);
                }
            }
            if !tries_all {
                break;
            }
            if multiline {
                join(buffer, &context.buffer);
            }
        }
        Ok(())
    }

    fn ignores(&self, text: &str, witness: &mut impl Witness) -> Result<bool, OverBudget> {
        let mut ignored = false;
        for (index, pattern) in self.ignoreregex.iter().enumerate() {
            if pattern.search(text)?.is_some() {
                witness.ignored(index);
                ignored = true;
                if witness.breadth() == Breadth::First {
                    break;
                }
            }
        }
        Ok(ignored)
    }

    /// Whether what matched is a failure, and whose. Nothing for what is none by itself, except where everything is
    /// to be told.
    fn conclude<'c>(
        &self,
        context: &'c mut Context,
        groups: Groups,
        lines: &[DatedLine],
        now: f64,
        tells_all: bool,
    ) -> Option<Conclusion<'c>> {
        let lines = if context.keep == Keep::Lines { Some(lines) } else { None };
        let mut conclusion = if groups.get(Name::MLFID).is_some() {
            let merged = context.connections.merge(groups, lines, now);
            if merged.groups.is_set(Name::NOFAIL) && !tells_all {
                return None;
            }
            Conclusion {
                groups: Cow::Borrowed(&merged.groups),
                users: &merged.users,
                lines: Cow::Borrowed(&merged.matches),
                whom: None,
            }
        } else {
            let lines = lines.unwrap_or_default().to_vec();
            Conclusion { groups: Cow::Owned(groups), users: &[], lines: Cow::Owned(lines), whom: None }
        };
        conclusion.whom = self.whom(&conclusion.groups);
        let tells = conclusion.whom.is_some() || tells_all && conclusion.is_pending();
        tells.then_some(conclusion)
    }

    /// Whom or what the groups charge.
    fn whom(&self, groups: &Groups) -> Option<Whom> {
        let given = groups.get(Name::FID);
        let prefix = groups.get(Name::CIDR).filter(|prefix| !prefix.is_empty());
        let ip = groups.get(Name::IP4).or(groups.get(Name::IP6));
        let dns = groups.get(Name::DNS);
        let (host, name) = match (ip, dns.or(given)) {
            (Some(ip), _) => (Identity::address(ip, prefix), ip),
            (None, Some(name)) if dns.is_none() && self.usedns != UseDns::Raw => {
                (Identity::spelled(name)?, name)
            }
            (None, Some(name)) => (Identity::raw(name), name),
            (None, None) => return None,
        };
        let by_name = ip.is_none() && dns.is_some();
        if by_name && self.usedns == UseDns::No && host.ip.is_none() {
            return None;
        }
        let resolved = by_name && self.usedns != UseDns::Raw;
        let (fid, other) = match given {
            Some(given) if given != name && !resolved && self.usedns != UseDns::Raw => {
                (Identity::spelled(given)?.text, Some(host.text))
            }
            Some(given) if given != name && !resolved => (given.into(), Some(host.text)),
            _ => (host.text, None),
        };
        Some(Whom { fid, ip: host.ip, other, is_name: resolved })
    }
}

/// Writes lines as the expressions see them into `text`.
fn join<T: AsRef<str>>(text: &mut String, lines: &[T]) {
    text.clear();
    for line in lines {
        text.push_str(line.as_ref());
        text.push('\n');
    }
}

/// The buffered lines that matched, without those that `<SKIPLINES>` skipped, and all others, which stay in the buffer
/// (`Regex.search`).
fn matched_and_rest(
    found: &Captured<'_>,
    text: &str,
    lines: &[DatedLine],
) -> (Vec<DatedLine>, Vec<DatedLine>) {
    if lines.len() <= 1 {
        return (lines.to_vec(), Vec::new());
    }
    let (start, end) = found.span(0).unwrap_or_default();
    let bytes = text.as_bytes();
    let first =
        bytes[..(start + 1).min(bytes.len())].iter().rposition(|c| *c == b'\n').map_or(0, |at| at + 1);
    let from = end.saturating_sub(1);
    let behind = bytes[from..].iter().position(|c| *c == b'\n').map_or(bytes.len(), |at| from + at + 1);
    let count = |to: usize| bytes[..to].iter().filter(|c| **c == b'\n').count().min(lines.len());
    let (first, behind) = (count(first), count(behind));
    let mut matched = lines[first..behind.max(first)].to_vec();
    let mut rest = lines[..first].to_vec();
    let skipped = found.named().filter(|(name, _)| name.text().starts_with("skiplines"));
    let skipped: String = skipped.filter_map(|(_, value)| value).collect();
    let mut from = 0;
    for line in skipped.lines() {
        if let Some(at) = matched.iter().skip(from).position(|matched| matched.without_date() == line) {
            rest.push(matched.remove(from + at));
            from += at;
        }
    }
    rest.extend_from_slice(&lines[behind.max(first)..]);
    (matched, rest)
}

/// The named groups of a match, with `<F-ALT_…>` and `<F-TUPLE_…>` merged into what they stand for
/// (`Regex._getGroupsWithAlt`), all but `without`, behind `groups` with other names. Those that took no part are left
/// out unless they count.
fn groups(found: &Captured<'_>, without: Option<Name>, keeps_absent: bool, groups: Groups) -> Groups {
    let parts = found.parts();
    let mut groups = groups.with_room();
    for (name, value) in found.named() {
        if (keeps_absent || value.is_some()) && without != Some(name) {
            groups.push(name, value.map(Text::new));
        }
    }
    for (part, whole) in &parts.alternatives {
        if groups.is_set(*part) && !groups.is_set(*whole) {
            let value = groups.get(*part).map(Text::new);
            groups.set(*whole, value);
        }
    }
    if !parts.tuples.is_empty() {
        join_tuples(&mut groups, &parts.tuples);
    }
    groups
}

fn join_tuples(groups: &mut Groups, parts: &[(Name, Name)]) {
    let mut tuples: BTreeMap<&str, (Name, Vec<Option<Text>>)> = BTreeMap::new();
    for (part, whole) in parts {
        let value = |name| groups.get(name).map(Text::new);
        let (_, values) = tuples.entry(whole.text()).or_insert_with(|| (*whole, vec![value(*whole)]));
        values.push(value(*part));
    }
    for (whole, values) in tuples.into_values() {
        let values =
            values.iter().map(|value| value.as_ref().map_or("None".into(), |value| python::repr(value)));
        let tuple = format!("({})", values.collect::<Vec<_>>().join(", "));
        groups.set(whole, Some(tuple.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_settings;

    fn first(filter: &Filter, line: &str) -> Option<Failure> {
        let mut context = filter.context(TimeZone::UTC, NOW);
        filter.failures(&mut context, line, Some(NOW), NOW).into_iter().next()
    }

    const NOW: f64 = 1_700_000_000.0;

    fn sshd(message: &str) -> Option<(String, Option<String>)> {
        let failure = first(&test_settings().filter, &format!("host sshd[42]: {message}"))?;
        Some((failure.ip?.to_string(), failure.user().map(str::to_owned)))
    }

    fn found(address: &str, user: &str) -> Option<(String, Option<String>)> {
        Some((address.to_owned(), Some(user.to_owned())))
    }

    #[test]
    fn sshd_failures_are_charged_to_their_address() {
        for (message, expected) in [
            ("Failed password for root from 192.0.2.7 port 4242 ssh2", found("192.0.2.7", "root")),
            (
                "Failed password for invalid user guest from 2001:db8::7 port 1 ssh2",
                found("2001:db8::7", "guest"),
            ),
            ("Failed none for invalid user  from 192.0.2.7 port 4242 ssh2", found("192.0.2.7", "")),
            ("Invalid user oracle from 192.0.2.7 port 4242", found("192.0.2.7", "oracle")),
            ("error: PAM: Authentication failure for root from 192.0.2.7", found("192.0.2.7", "root")),
            (
                "error: maximum authentication attempts exceeded for root from 192.0.2.7 port 9 ssh2 [preauth]",
                found("192.0.2.7", "root"),
            ),
            (
                "User ftp from 192.0.2.7 not allowed because not listed in AllowUsers",
                found("192.0.2.7", "ftp"),
            ),
        ] {
            assert_eq!(sshd(message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_no_failure_is_left_alone() {
        for message in [
            "Accepted publickey for root from 192.0.2.7 port 4242 ssh2: ED25519 SHA256:abc",
            "Failed publickey for root from 192.0.2.7 port 4242 ssh2: RSA SHA256:abc",
            "Connection closed by authenticating user root 192.0.2.7 port 4242 [preauth]",
            "Failed password for root from 192.030.0.6 port 4242 ssh2",
            "Server listening on 0.0.0.0 port 22.",
        ] {
            assert_eq!(sshd(message), None, "{message}");
        }
        let other = "host nginx[1]: Failed password for root from 192.0.2.7 port 4242 ssh2";
        assert_eq!(first(&test_settings().filter, other), None);
    }

    #[test]
    fn a_user_name_cannot_frame_another_address() {
        let message =
            "Failed password for invalid user x from 198.51.100.9 port 1 ssh2 from 192.0.2.7 port 2 ssh2";
        assert_eq!(sshd(message), found("192.0.2.7", "x from 198.51.100.9 port 1 ssh2"));
    }

    #[test]
    fn a_hostile_line_is_cut_not_searched_for_ever() {
        let line = format!("host sshd[42]: Invalid user {} from 192.0.2.7", "é".repeat(100_000));
        assert_eq!(first(&test_settings().filter, &line), None);
    }

    #[test]
    fn the_zone_of_the_log_tells_what_its_dates_mean() {
        let line = "2023-11-14 22:13:20 host sshd[42]: Invalid user oracle from 192.0.2.7 port 4242";
        for (zone, behind) in [("UTC", 0.0), ("UTC+0200", 7200.0), ("America/New_York", -18_000.0)] {
            let filter = test_settings().filter;
            let mut context = filter.context(log_zone(zone).unwrap(), NOW);
            let found = filter.failures(&mut context, line, None, NOW);
            assert_eq!(found[0].time, NOW - behind, "{zone}");
        }
    }

    #[test]
    fn zones_are_named_as_in_fail2ban_or_as_in_the_zone_database() {
        let summer = jiff::Timestamp::from_second(1_750_000_000).unwrap();
        let hours =
            |name: &str| log_zone(name).map(|zone| f64::from(zone.to_offset(summer).seconds()) / 3600.0);
        for (name, expected) in [
            ("UTC", 0.0),
            ("Z", 0.0),
            ("CET", 1.0),
            ("UTC+0200", 2.0),
            ("GMT-05:30", -5.5),
            ("CET+01", 2.0),
            ("+0100", 1.0),
            ("Europe/Zurich", 2.0),
        ] {
            assert_eq!(hours(name).unwrap(), expected, "{name}");
        }
        let none =
            "XYZ utc+1 UTC+1 UTC+0200x UTC+02:0 UTC+-0200 ../../etc/passwd /etc/localtime Mars/Olympus +9999";
        for name in none.split(' ') {
            assert!(hours(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_broken_expression_is_refused_with_its_place() {
        let filter = |text: &str| {
            let settings = FilterSettings { failregex: vec![text.into()], ..FilterSettings::default() };
            format!("{:#}", Filter::new(&settings).unwrap_err())
        };
        let no_host = "failregex: \"^Failed$\" has no <HOST> to tell whose failure it is";
        assert_eq!(filter("^Failed$"), no_host);
        let broken =
            "failregex: \"^(no end <HOST>\" is no regular expression: missing ), unterminated subpattern";
        assert_eq!(filter("^(no end <HOST>"), broken);
    }
}
