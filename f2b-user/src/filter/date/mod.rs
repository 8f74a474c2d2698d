//! Finds the date in a line: `server/datedetector.py`. The templates that hit move to the front, and the one that hit
//! last is tried where it hit last, so that a date in the middle of a message is not taken for the line's own.

mod strptime;
mod template;

use std::sync::{Arc, OnceLock};

use anyhow::{Result, bail};
use jiff::{civil::DateTime, tz::TimeZone};

pub(super) use self::strptime::{NoTime, zone};
use self::template::Template;
use super::{
    alike::Alike,
    expression::{Candidate, Captured, Set, Text, is_ascii},
    name::Name,
};

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
    template: Arc<Template>,
    /// Its number among the templates of the pattern.
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

/// The ways to write a date that a `datepattern` names. Each is compiled once, when the first line needs it: a journal's
/// never does.
#[derive(Debug)]
pub(super) struct Templates {
    list: Vec<Arc<Template>>,
    /// Tells in one pass over a line which of them may match.
    any: OnceLock<Set>,
}

/// The templates at work on one log, and what they have learned from its lines.
#[derive(Debug)]
pub(super) struct Detector {
    entries: Vec<Entry>,
    last: Option<(usize, Place)>,
    first_unused: usize,
    zone: TimeZone,
    templates: Arc<Templates>,
    /// The last date that was read, because the lines of a busy second all have the same one.
    read: Option<Read>,
    /// What was found in the last line.
    again: Option<Again>,
}

/// What was found in the last line.
#[derive(Debug)]
struct Again {
    found: Found,
    /// In which second of the clock.
    second: i64,
    /// What that line begins with, as far as it had anything to do with it; any digits would do in the fraction of a
    /// second.
    head: Alike,
}

/// A date that was read.
#[derive(Debug)]
struct Read {
    template: usize,
    /// Without the fraction of its second, which does not count.
    text: Text,
    /// The second of the clock when it was read.
    at: i64,
    time: f64,
}

impl Templates {
    /// Those of a `datepattern`; an empty one means the defaults. `this_year` tells how far in the future a date can be.
    ///
    /// # Errors
    /// A pattern that is none, with the reason.
    pub(super) fn new(datepattern: &str, this_year: i16) -> Result<Self> {
        let mut list = Vec::new();
        for pattern in datepattern.lines().map(str::trim).filter(|pattern| !pattern.is_empty()) {
            add_pattern(&mut list, pattern, this_year)?;
        }
        if list.is_empty() {
            add_all(&mut list, defaults(this_year)?);
        }
        Ok(Self { list: list.into_iter().map(Arc::new).collect(), any: OnceLock::new() })
    }

    /// None: no line has a date.
    pub(super) fn none() -> Self {
        Self { list: Vec::new(), any: OnceLock::new() }
    }

    /// Compiles those now that somebody else has written.
    ///
    /// # Errors
    /// The first one that does not compile.
    pub(super) fn check(&self) -> Result<()> {
        self.list.iter().filter(|template| !template.is_default).try_for_each(|template| template.check())
    }
}

fn add_pattern(list: &mut Vec<Template>, pattern: &str, this_year: i16) -> Result<()> {
    let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
    match key.as_str() {
        "{^LN-BEG}" => {
            let templates = defaults(this_year)?.into_iter();
            add_all(list, templates.filter(|template| template.at_line_begin).collect());
        }
        // In 1.0.2 it adds nothing to what stands beside it; alone it leaves the defaults.
        "{DEFAULT}" => {}
        "{NONE}" => add(list, Template::none(this_year)?)?,
        _ if key.contains("{DATE}") => {
            let templates = DEFAULTS.iter().map(|default| {
                let template = Template::new(default, this_year)?;
                let inner = template.pattern.as_deref().unwrap_or(&template.name);
                Template::new(&put_date(pattern, template::unbound(inner)), this_year)
            });
            let templates = templates.collect::<Result<Vec<_>>>()?;
            add_all(list, templates);
        }
        _ => add(list, Template::new(pattern, this_year)?)?,
    }
    Ok(())
}

fn add(list: &mut Vec<Template>, template: Template) -> Result<()> {
    if list.iter().any(|known| known.name == template.name) {
        bail!("datepattern has {} twice", template.name);
    }
    list.push(template);
    Ok(())
}

/// Adds those that are not there yet.
fn add_all(list: &mut Vec<Template>, templates: Vec<Template>) {
    for template in templates {
        // fail2ban has each template once: what weighs more as a default one does so for whoever names it.
        match list.iter_mut().find(|known| known.name == template.name) {
            Some(known) => known.weight = known.weight.max(template.weight),
            None => list.push(template),
        }
    }
}

impl Detector {
    /// Local times are in `zone`.
    pub(super) fn new(templates: Arc<Templates>, zone: TimeZone) -> Self {
        let entry = |(id, template): (usize, &Arc<Template>)| {
            let template = Arc::clone(template);
            Entry { template, id, hits: 0, last_used: 0.0, distance: usize::MAX }
        };
        let entries = templates.list.iter().enumerate().map(entry).collect();
        let (last, read, again) = (None, None, None);
        Self { entries, last, first_unused: 0, zone, templates, read, again }
    }

    /// The templates, in the order in which they are tried.
    pub(super) fn templates(&self) -> impl Iterator<Item = DateTemplate<'_>> {
        self.entries.iter().map(DateTemplate)
    }

    /// How fail2ban names the pattern (`Filter.getDatePattern`).
    pub(super) fn describe(&self) -> String {
        match &self.entries[..] {
            [first] | [first, _] => DateTemplate(first).name(),
            _ => "Default Detectors".into(),
        }
    }

    /// Whether the template that hit last finds a zone in `line`.
    pub(super) fn tells_zone(&self, line: &str) -> bool {
        self.last.as_ref().is_some_and(|(index, _)| self.entries[*index].template.tells_zone(line))
    }

    /// Finds the date of `line`, and the time it tells. `now` decides what the date leaves open.
    pub(super) fn find(&mut self, line: &str, now: f64) -> Option<Found> {
        let second = now.floor() as i64;
        if let Some(found) = self.find_again(line, second, now) {
            return Some(found);
        }
        let characters = Characters::of(line);
        let (index, captured) = self.search(characters)?;
        let (start, end) = captured.span(1).unwrap_or((line.len(), line.len()));
        let place = characters.span(&captured);
        let (time, read) = match self.read(index, &captured, line, now) {
            Ok((time, read)) => (Ok(time), read),
            Err(no_time) => (Err(no_time), None),
        };
        let is_anchored = self.entries[index].template.is_anchored();
        let was_there =
            self.last.as_ref().is_some_and(|(last, was)| *last == index && (was.start, was.end) == place);
        // What decides besides the match itself is the character behind it.
        let reach = captured.reach().max(captured.span(0).map_or(0, |(_, end)| end + 4));
        let fraction =
            captured.name_span(Name::FRACTION).filter(|_| self.entries[index].template.has_fraction());
        let digits =
            fraction.filter(|place| captured.is_plain(*place)).map_or(0..0, |(start, end)| start..end);
        if let Some(read) = read {
            self.read = Some(read);
        }
        self.learn(index, place, characters, now);
        let found = Found { start, end, time };
        self.again = None;
        // The next line is searched with this template first, and, if it may be anywhere, where it was.
        let is_steady = is_anchored || was_there;
        if is_steady
            && place.0 < place.1
            && let Some(head) = line.as_bytes().get(..reach)
        {
            self.again = Some(Again { found, second, head: Alike::new(head, &digits) });
        }
        Some(found)
    }

    /// What was found in the last line, if this one begins in the same way: the lines of a busy second do.
    fn find_again(&mut self, line: &str, second: i64, now: f64) -> Option<Found> {
        let again = self.again.as_ref()?;
        if again.second != second || !again.head.begins(line.as_bytes()) {
            return None;
        }
        let (index, _) = self.last.as_ref()?;
        let entry = &mut self.entries[*index];
        entry.hits += 1;
        entry.last_used = now;
        Some(again.found)
    }

    /// The time that a date tells, and what to remember of it if that is new.
    fn read(
        &self,
        index: usize,
        captured: &Captured<'_>,
        line: &str,
        now: f64,
    ) -> Result<(f64, Option<Read>), NoTime> {
        let entry = &self.entries[index];
        let (start, end) = captured.span(0).unwrap_or_default();
        let (fraction, behind) = captured.name_span(Name::FRACTION).unwrap_or((end, end));
        let parts = [&line[start..fraction], &line[behind..end]];
        let at = now.floor() as i64;
        if let Some(read) = &self.read
            && (read.template, read.at) == (entry.id, at)
            && read.text.strip_prefix(parts[0]) == Some(parts[1])
        {
            return Ok((read.time, None));
        }
        let time = entry.template.time(captured, &self.zone, || local(now, &self.zone))?;
        let text = parts.into_iter().collect();
        Ok((time, Some(Read { template: entry.id, text, at, time })))
    }

    /// The template that wins, and its match.
    fn search<'t>(&'t self, characters: Characters<'t>) -> Option<(usize, Captured<'t>)> {
        let line = characters.text;
        let mut reserve: Option<(usize, usize, Captured<'t>)> = None;
        let mut tried = None;
        if let Some((index, place)) = &self.last {
            let template = &self.entries[*index].template;
            let found = if !template.is_anchored() && place.fits(characters) {
                // Only where it was the last time.
                let (from, to) = (characters.byte(place.start), characters.byte(place.end));
                (from <= to).then(|| template.search(&line[..to], from)).flatten()
            } else {
                tried = Some(*index);
                template.search(line, 0)
            };
            if let Some(found) = found {
                let (start, end) = characters.span(&found);
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
            if tried == Some(index) || !may_match.iter().any(|candidate| candidate.index == entry.id) {
                continue;
            }
            let Some(found) = entry.template.search(line, 0) else { continue };
            let (start, _) = characters.span(&found);
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
    fn candidates(&self, line: &str) -> Vec<Candidate> {
        let templates = &*self.templates;
        let patterns = || templates.list.iter().filter_map(|template| template.compiled());
        templates.any.get_or_init(|| Set::new(patterns())).all(line)
    }

    /// Remembers a hit, and moves the template ahead if it hits more than those before it.
    fn learn(&mut self, index: usize, (start, end): (usize, usize), line: Characters<'_>, now: f64) {
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
    fn new(line: Characters<'_>, start: usize, end: usize) -> Self {
        Self {
            start,
            end,
            before_start: start.checked_sub(1).and_then(|at| line.get(at)),
            at_start: line.get(start),
            // Python's index -1 is the last character.
            before_end: match end {
                0 => line.text.chars().next_back(),
                _ => line.get(end - 1),
            },
            at_end: line.get(end),
        }
    }

    /// Whether `line` looks the same around that place.
    fn fits(&self, line: Characters<'_>) -> bool {
        let mark = |c: Option<char>| c.is_some_and(|c| !c.is_alphanumeric());
        let before_start = self.start.checked_sub(1).and_then(|at| line.get(at));
        let before_end = self.end.checked_sub(1).and_then(|at| line.get(at));
        (before_start == self.before_start || line.get(self.start) == self.at_start && mark(self.at_start))
            && (line.get(self.end) == self.at_end || before_end == self.before_end && mark(before_end))
    }
}

/// A line whose places are counted in characters, as Python counts them.
#[derive(Clone, Copy)]
struct Characters<'t> {
    text: &'t str,
    is_ascii: bool,
}

impl<'t> Characters<'t> {
    fn of(text: &'t str) -> Self {
        Self { text, is_ascii: is_ascii(text.as_bytes()) }
    }

    fn get(self, index: usize) -> Option<char> {
        if self.is_ascii {
            self.text.as_bytes().get(index).map(|c| char::from(*c))
        } else {
            self.text.chars().nth(index)
        }
    }

    /// The byte at which the character with this number begins.
    fn byte(self, character: usize) -> usize {
        if self.is_ascii {
            return character.min(self.text.len());
        }
        self.text.char_indices().nth(character).map_or(self.text.len(), |(at, _)| at)
    }

    /// A match's place.
    fn span(self, found: &Captured<'_>) -> (usize, usize) {
        let (start, end) = found.span(0).unwrap_or_default();
        if self.is_ascii {
            return (start, end);
        }
        let start_chars = self.text[..start].chars().count();
        (start_chars, start_chars + self.text[start..end].chars().count())
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
    anchored.iter_mut().for_each(|template| template.is_default = true);
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

/// The year of `now` on the clock of `zone`.
pub(super) fn year(now: f64, zone: &TimeZone) -> i16 {
    local(now, zone).year()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found again must be what a search finds.
    #[test]
    fn lines_that_begin_alike_are_not_taken_for_the_same() {
        let spaces = " ".repeat(9);
        let dates = [
            "2026-11-24 06:00:00",
            "2026-11-24T06:00:00.123456",
            "Nov 24 06:00:00",
            "Nov 24 06:00:00.123",
            "24/Nov/2026:06:00:00",
            "1795500000.123",
            "06:00:00",
            "@400000004330dbb5000000000",
        ];
        let behind = [
            " host",
            " 2025 host",
            " 2025",
            "+0100 host",
            " +01:00",
            &format!("{spaces}host"),
            &format!("{spaces}+0100 host"),
            &format!("{spaces}UTC"),
            "7 x",
            "x",
            "",
        ];
        let own = r"^%Y-%m-%d[ T]%H:%M:%S(?:\.[0-4]\d{5}\d*|[.,]%f)?(?:\s*%z)?";
        for pattern in ["", own, r"%d/%b/%Y:%H:%M:%S\s*(?:%z)?"] {
            let templates = Arc::new(Templates::new(pattern, 2026).unwrap());
            for (first, second) in behind.iter().flat_map(|a| behind.iter().map(move |b| (a, b))) {
                for date in dates {
                    let lines = [
                        format!("{date}{first}"),
                        format!("{date}{first}"),
                        format!("{date}{second}"),
                        format!("{}{second}", date.replace(".123456", ".723456")),
                        format!("{}{second}", date.replace("06:00", "06:01")),
                    ];
                    let [mut memory, mut none] =
                        [(); 2].map(|()| Detector::new(templates.clone(), TimeZone::UTC));
                    for line in &lines {
                        none.again = None;
                        let found = memory.find(line, 1_795_500_000.0);
                        assert_eq!(found, none.find(line, 1_795_500_000.0), "{line:?} of {lines:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_default_templates_compile() {
        for year in [2000, 2026, 2099] {
            for template in defaults(year).unwrap() {
                template.check().unwrap();
            }
        }
    }
}
