//! Finds the date in a line: `server/datedetector.py`. The templates that hit move to the front, and the one that hit
//! last is tried where it hit last, so that a date in the middle of a message is not taken for the line's own.

mod strptime;
mod template;

use std::sync::OnceLock;

use anyhow::{Result, bail};
use jiff::{civil::DateTime, tz::TimeZone};

pub(super) use self::strptime::NoTime;
use self::template::Template;
use super::expression::{Captured, Set};

/// A template that has not hit for so many seconds gives way.
const UNUSED: f64 = 300.0;

/// The ways to write a date that are tried without a `datepattern`, in fail2ban's order.
const DEFAULTS: [&str; 17] = [
    // 2005-01-23T21:59:59.981746, 2005/01/23 21:59:59, 2006.12.21 06:43:20
    r"%ExY(?P<_sep>[-/.])%m(?P=_sep)%d(?:T|  ?)%H:%M:%S(?:[.,]%f)?(?:\s*%z)?",
    // Sun Jan 23 21:59:59.011 2005
    r"(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    // Sun Jan 23 2005 21:59:59.011
    r"(?:%a )?%b %d %ExY %k:%M:%S(?:\.%f)?",
    // 23/01/2005 21:59:59, 23/01/05 21:59:59, 17-07-2008 17:23:25
    r"%d(?P<_sep>[-/])%m(?P=_sep)(?:%ExY|%Exy) %k:%M:%S",
    // 31/Oct/2006:09:22:55 -0000, 26-Jul-2007 15:20:52.252
    r"%d(?P<_sep>[-/])%b(?P=_sep)%ExY[ :]?%H:%M:%S(?:\.%f)?(?: %z)?",
    // 05/20/2008:01:57:39
    r"%m/%d/%ExY:%H:%M:%S",
    // 01-27-2012 16:22:44.252
    r"%m-%d-%ExY %k:%M:%S(?:\.%f)?",
    "EPOCH",
    r"{^LN-BEG}%H:%M:%S",
    // <09/16/08@05:03:30>
    r"^<%m/%d/%Exy@%H:%M:%S>",
    // 130322 11:46:11
    r"%Exy%Exm%Exd  ?%H:%M:%S",
    // Apr 27, 2013 11:46:11 AM
    r"%b %d, %ExY %I:%M:%S %p",
    // Apr-27-13 02:33:06
    r"^%b-%d-%Exy %k:%M:%S",
    // 20050123T215959, 20050123  85959
    r"%ExY%Exm%Exd(?:T|  ?)%ExH%ExM%ExS(?:[.,]%f)?(?:\s*%z)?",
    // PDT Apr 16 21:05:29
    r"(?:%Z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    // +00:00 Jan 23 21:59:59.011 2005
    r"(?:%z )?(?:%a )?%b %d %k:%M:%S(?:\.%f)?(?: %ExY)?",
    "TAI64N",
];

/// A way to write a date, and how it served.
#[derive(Clone, Copy, Debug)]
pub struct DateTemplate<'a>(&'a Entry);

impl DateTemplate<'_> {
    /// As fail2ban names it: `{^LN-BEG}ExYear-Month-Day 24hour:Minute:Second`.
    pub fn name(&self) -> String {
        template::describe(&self.0.template.name)
    }

    /// As it is written in a `datepattern`; empty for those that are a word there.
    pub fn pattern(&self) -> &str {
        self.0.template.pattern.as_deref().unwrap_or_default()
    }

    /// What is searched for, as Python would read it, without the bounds of a word.
    pub fn expression(&self) -> &str {
        &self.0.template.expression
    }

    pub fn hits(&self) -> u32 {
        self.0.hits
    }

    /// How much its hits count, by their number and distance.
    pub fn weight(&self) -> f64 {
        self.0.weight()
    }

    /// How much one hit counts.
    pub fn own_weight(&self) -> f64 {
        self.0.template.weight
    }
}

/// A date that was found in a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    /// What is cut out of the line, in bytes.
    pub(super) start: usize,
    pub(super) end: usize,
    /// Nothing is cut out: the pattern says that there is no date.
    pub(super) time: Result<f64, NoTime>,
}

/// A template at work.
#[derive(Debug)]
struct Entry {
    template: Template,
    /// Its number among the candidates.
    id: usize,
    hits: u32,
    last_used: f64,
    /// Where the last hit began, in characters.
    distance: usize,
}

impl Entry {
    fn weight(&self) -> f64 {
        f64::from(self.hits) * self.template.weight / self.distance.max(1) as f64
    }
}

/// Where the last date was, in characters, and the characters around its ends.
#[derive(Debug)]
struct Place {
    start: usize,
    end: usize,
    before_start: Option<char>,
    at_start: Option<char>,
    before_end: Option<char>,
    at_end: Option<char>,
}

/// The templates of one filter, and what they have learned from its lines.
#[derive(Debug)]
pub(super) struct Detector {
    entries: Vec<Entry>,
    last: Option<(usize, Place)>,
    first_unused: usize,
    zone: TimeZone,
    /// Tells in one pass over a line which templates may match. Made when the first line needs it: a journal's never
    /// does.
    any: OnceLock<Set>,
}

impl Detector {
    /// The detector of a `datepattern`; an empty one means the defaults. Local times are in `zone`; `this_year` tells
    /// how far in the future a date can be.
    ///
    /// # Errors
    /// A pattern that is none, with the reason.
    pub(super) fn new(datepattern: &str, zone: TimeZone, this_year: i16) -> Result<Self> {
        let mut detector = Self::none(zone);
        for pattern in datepattern.lines().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            detector.add_pattern(pattern, this_year)?;
        }
        if detector.entries.is_empty() {
            detector.add_all(defaults(this_year)?);
        }
        Ok(detector)
    }

    /// A detector that finds nothing.
    pub(super) fn none(zone: TimeZone) -> Self {
        Self { entries: Vec::new(), last: None, first_unused: 0, zone, any: OnceLock::new() }
    }

    /// Compiles all templates now.
    ///
    /// # Errors
    /// The first one that does not compile.
    pub(super) fn check(&self) -> Result<()> {
        self.entries.iter().try_for_each(|entry| entry.template.check())
    }

    fn add_pattern(&mut self, pattern: &str, this_year: i16) -> Result<()> {
        let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
        match key.as_str() {
            "{^LN-BEG}" => {
                let templates = defaults(this_year)?.into_iter();
                self.add_all(templates.filter(|template| template.at_line_begin).collect());
            }
            // In 1.0.2 it adds nothing to what stands beside it; alone it leaves the defaults.
            "{DEFAULT}" => {}
            "{NONE}" => self.add(Template::none(this_year)?)?,
            _ if key.contains("{DATE}") => {
                let templates = DEFAULTS.iter().map(|default| {
                    let template = Template::new(default, this_year)?;
                    let inner = template.pattern.as_deref().unwrap_or(&template.name);
                    Template::new(&put_date(pattern, template::unbound(inner)), this_year)
                });
                let templates = templates.collect::<Result<Vec<_>>>()?;
                self.add_all(templates);
            }
            _ => self.add(Template::new(pattern, this_year)?)?,
        }
        Ok(())
    }

    fn add(&mut self, template: Template) -> Result<()> {
        if self.entries.iter().any(|entry| entry.template.name == template.name) {
            bail!("datepattern has {} twice", template.name);
        }
        let id = self.entries.len();
        self.entries.push(Entry { template, id, hits: 0, last_used: 0.0, distance: usize::MAX });
        Ok(())
    }

    /// Adds those that are not there yet.
    fn add_all(&mut self, templates: Vec<Template>) {
        for template in templates {
            drop(self.add(template));
        }
    }

    /// The templates, in the order in which they are tried.
    pub(super) fn templates(&self) -> impl Iterator<Item = DateTemplate<'_>> {
        self.entries.iter().map(DateTemplate)
    }

    /// Finds the date of `line`, and the time it tells. `now` decides what the date leaves open.
    pub(super) fn find(&mut self, line: &str, now: f64) -> Option<Found> {
        let (index, captured) = self.search(line)?;
        self.learn(index, &captured, line, now);
        let entry = &self.entries[self.last.as_ref()?.0];
        let (start, end) = captured.span(1).unwrap_or((line.len(), line.len()));
        let local_now = local(now, &self.zone);
        Some(Found { start, end, time: entry.template.time(&captured, &self.zone, local_now) })
    }

    /// The template that wins, and its match.
    fn search<'t>(&self, line: &'t str) -> Option<(usize, Captured<'t>)> {
        let mut reserve: Option<(usize, usize, Captured<'t>)> = None;
        let mut tried = None;
        if let Some((index, place)) = &self.last {
            let template = &self.entries[*index].template;
            let found = if !template.is_anchored() && place.fits(line) {
                // Only where it was the last time.
                let (from, to) = (byte(line, place.start), byte(line, place.end));
                (from <= to).then(|| template.search(&line[..to], from)).flatten()
            } else {
                tried = Some(*index);
                template.search(line, 0)
            };
            if let Some(found) = found {
                let (start, end) = span(&found, line);
                let same = start == place.start && end == place.end;
                if self.entries.len() == 1 || template.is_anchored() || same {
                    return Some((*index, found));
                }
                reserve = Some((start, *index, found));
            }
        }
        let last_start = self.last.as_ref().map_or(1, |(_, place)| place.start);
        let may_match = self.candidates(line);
        for (index, entry) in self.entries.iter().enumerate() {
            if tried == Some(index) || !may_match.contains(&entry.id) {
                continue;
            }
            let Some(found) = entry.template.search(line, 0) else { continue };
            let (start, _) = span(&found, line);
            let is_last = index + 1 == self.entries.len();
            // Farther into the line than before: it may belong to the message.
            let farther = start > entry.distance || start > last_start;
            if is_last || entry.template.is_anchored() || !farther {
                return Some((index, found));
            }
            if reserve.as_ref().is_none_or(|(nearest, ..)| start < *nearest) {
                reserve = Some((start, index, found));
            }
        }
        reserve.map(|(_, index, found)| (index, found))
    }

    /// The templates that may match `line`, by their numbers.
    fn candidates(&self, line: &str) -> Vec<usize> {
        let make = || {
            let mut templates: Vec<_> =
                self.entries.iter().map(|entry| (entry.id, &entry.template)).collect();
            templates.sort_by_key(|(id, _)| *id);
            Set::new(templates.into_iter().filter_map(|(_, template)| template.compiled()))
        };
        self.any.get_or_init(make).candidates(line)
    }

    /// Remembers a hit, and moves the template ahead if it hits more than those before it.
    fn learn(&mut self, index: usize, found: &Captured<'_>, line: &str, now: f64) {
        let (start, end) = span(found, line);
        let entry = &mut self.entries[index];
        entry.hits += 1;
        entry.last_used = now;
        entry.distance = start;
        if self.first_unused == index {
            self.first_unused += 1;
        }
        let place = Place::new(line, start, end);
        let moved = index > 0 && self.last.as_ref().is_none_or(|(last, _)| *last != index);
        let index = if moved { self.move_ahead(index) } else { index };
        self.last = Some((index, place));
    }

    /// Where the template at `index` is afterwards.
    fn move_ahead(&mut self, index: usize) -> usize {
        let entry = &self.entries[index];
        let gives_way = |position: usize| {
            let other = &self.entries[position];
            entry.weight() > other.weight() || entry.last_used - UNUSED > other.last_used
        };
        let mut position = if self.first_unused < index { self.first_unused } else { index / 2 };
        if !gives_way(position) {
            // If not far, then by one.
            if position == index - 1 || !gives_way(index - 1) {
                return index;
            }
            position = index - 1;
        }
        let entry = self.entries.remove(index);
        self.entries.insert(position, entry);
        while self.entries.get(self.first_unused).is_some_and(|entry| entry.hits > 0) {
            self.first_unused += 1;
        }
        position
    }
}

impl Place {
    fn new(line: &str, start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            before_start: start.checked_sub(1).and_then(|at| character(line, at)),
            at_start: character(line, start),
            // Python's index -1 is the last character.
            before_end: match end {
                0 => line.chars().next_back(),
                _ => character(line, end - 1),
            },
            at_end: character(line, end),
        }
    }

    /// Whether `line` looks the same around that place.
    fn fits(&self, line: &str) -> bool {
        let mark = |c: Option<char>| c.is_some_and(|c| !c.is_alphanumeric());
        let before_start = self.start.checked_sub(1).and_then(|at| character(line, at));
        let before_end = self.end.checked_sub(1).and_then(|at| character(line, at));
        (before_start == self.before_start
            || character(line, self.start) == self.at_start && mark(self.at_start))
            && (character(line, self.end) == self.at_end || before_end == self.before_end && mark(before_end))
    }
}

/// The default templates as they are used without a pattern: each that may stand anywhere is first tried at the
/// line's begin, where it counts much more.
fn defaults(this_year: i16) -> Result<Vec<Template>> {
    let mut anchored = Vec::new();
    let mut plain = Vec::new();
    for default in DEFAULTS {
        let template = Template::new(default, this_year)?;
        if !template.name.starts_with("{^LN-BEG}") && !template.name.starts_with('^') {
            let mut first = Template::new(&format!("{{^LN-BEG}}{default}"), this_year)?;
            first.weight = 100.0;
            anchored.push(first);
        }
        plain.push(template);
    }
    anchored.append(&mut plain);
    Ok(anchored)
}

/// `pattern` with `date` in place of `{DATE}`.
fn put_date(pattern: &str, date: &str) -> String {
    const TAG: &str = "{DATE}";
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.to_ascii_uppercase().find(TAG) {
        out.push_str(&rest[..at]);
        out.push_str(if out.ends_with('\\') { &rest[at..at + TAG.len()] } else { date });
        rest = &rest[at + TAG.len()..];
    }
    out + rest
}

/// `now` on the clock of `zone`.
fn local(now: f64, zone: &TimeZone) -> DateTime {
    let timestamp = jiff::Timestamp::from_microsecond((now * 1e6) as i64).unwrap_or_default();
    zone.to_datetime(timestamp)
}

/// A match's place in characters: positions are compared between lines as Python counts them.
fn span(found: &Captured<'_>, line: &str) -> (usize, usize) {
    let (start, end) = found.span(0).unwrap_or_default();
    if line.is_ascii() {
        return (start, end);
    }
    let start_chars = line[..start].chars().count();
    (start_chars, start_chars + line[start..end].chars().count())
}

/// The byte at which the character with this number begins.
fn byte(line: &str, character: usize) -> usize {
    if line.is_ascii() {
        return character.min(line.len());
    }
    line.char_indices().nth(character).map_or(line.len(), |(at, _)| at)
}

fn character(line: &str, index: usize) -> Option<char> {
    if line.is_ascii() { line.as_bytes().get(index).map(|c| char::from(*c)) } else { line.chars().nth(index) }
}

/// The year of `now` on the clock of `zone`.
pub(super) fn year(now: f64, zone: &TimeZone) -> i16 {
    local(now, zone).year()
}
