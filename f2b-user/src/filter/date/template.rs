//! One way to write a date, from a `datepattern` or from the default ones: `server/datetemplate.py`.

use std::sync::OnceLock;

use anyhow::{Result, bail};
use jiff::{civil::DateTime, tz::TimeZone};

use super::strptime::{self, NoTime};
use crate::filter::{
    expression::{Captured, Pattern, plain_digits},
    name::Name,
};

const LINE_BEGIN: &str = "{^LN-BEG}";
const UNBOUND: &str = "{UNB}";

/// How the digits of a date become a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Fields,
    /// Seconds since 1970, in this group; `long`: milliseconds and microseconds are told by their length.
    Epoch {
        long: bool,
        group: usize,
    },
    Tai64n,
}

#[derive(Debug)]
pub(super) struct Template {
    /// Two templates of one name are one.
    pub(super) name: String,
    /// As written, for those that can be put into another pattern.
    pub(super) pattern: Option<String>,
    pub(super) weight: f64,
    /// It is one of our own.
    pub(super) is_default: bool,
    /// The date can only be at the line's begin, or end.
    pub(super) at_line_begin: bool,
    pub(super) at_line_end: bool,
    kind: Kind,
    pub(super) expression: String,
    bounds: (bool, bool),
    compiled: OnceLock<Option<Pattern>>,
}

/// Where a date may begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Begin {
    Anywhere,
    Word,
    Line,
}

impl Template {
    /// The template of one line of `datepattern`, or of a default one.
    pub(super) fn new(pattern: &str, this_year: i16) -> Result<Self> {
        let key = if pattern.contains('%') { pattern.to_owned() } else { pattern.to_uppercase() };
        let (anchored, plain) = match key.strip_prefix(LINE_BEGIN).or_else(|| key.strip_prefix('^')) {
            Some(plain) => (true, plain),
            None => (false, key.as_str()),
        };
        if let Some((range, long)) = epoch_tag(pattern).filter(|_| key.contains("EPOCH")) {
            let (before, after) = (&pattern[..range.start], &pattern[range.end..]);
            let expression = format!("({before}({}){after})", epoch(long));
            let kind = Kind::Epoch { long, group: 2 };
            return Ok(Self::build(pattern.into(), None, kind, &expression, Begin::Word, true));
        }
        if plain == "EPOCH" || plain == "LEPOCH" {
            let long = plain == "LEPOCH";
            let name = if long { "LongEpoch" } else { "Epoch" };
            let kind = Kind::Epoch { long, group: 1 };
            let (expression, begin) = if anchored {
                (format!("({})", epoch(long)), Begin::Line)
            } else {
                // At the line's begin, behind a bracket there, or in SELinux' `audit(…)`.
                let begin = r"(?:^|(?<=^\[)|(?<=\baudit\())";
                (format!("({begin}{})", epoch(long)), Begin::Anywhere)
            };
            return Ok(Self::build(name.into(), None, kind, &expression, begin, true));
        }
        if plain == "TAI64N" {
            let begin = if anchored { Begin::Line } else { Begin::Anywhere };
            return Ok(Self::build("TAI64N".into(), None, Kind::Tai64n, "@[0-9a-f]{24}", begin, true));
        }
        Self::with_fields(pattern, this_year)
    }

    /// No date at all: it matches the empty text that every line begins with.
    pub(super) fn none(this_year: i16) -> Result<Self> {
        Self::with_fields("{UNB}^", this_year)
    }

    fn with_fields(pattern: &str, this_year: i16) -> Result<Self> {
        let mut begin = Begin::Word;
        let mut rest = pattern;
        let mut end = true;
        if let Some(unbound) = rest.strip_prefix(UNBOUND) {
            (rest, begin, end) = (unbound, Begin::Anywhere, false);
        }
        if begin == Begin::Word
            && let Some(line) = rest.strip_prefix(LINE_BEGIN)
        {
            (rest, begin) = (line, Begin::Line);
        }
        let mut expression = expand_fields(rest, this_year)?;
        if has_letters(rest) {
            expression.insert_str(0, "(?iu)");
        }
        Ok(Self::build(rest.into(), Some(pattern.into()), Kind::Fields, &expression, begin, end))
    }

    /// Adds the bounds that a date has unless its expression says otherwise (`DateTemplate.setRegex`).
    fn build(
        mut name: String,
        pattern: Option<String>,
        kind: Kind,
        expression: &str,
        begin: Begin,
        end: bool,
    ) -> Self {
        let (flags, expression) = take_flags(expression.trim());
        let bound_begin = begin != Begin::Anywhere && !begins_bound(&expression);
        let bound_end = end && !ends_bound(&expression);
        let mut expression = if has_plain_group(&expression) { expression } else { grouped(&expression) };
        let mut at_line_begin = line_bound_begin(&expression) && !bound_begin;
        if bound_begin && begin == Begin::Line {
            at_line_begin = true;
            expression.insert_str(0, r"^(?:\W{0,2})?");
            if !name.starts_with(LINE_BEGIN) {
                name.insert_str(0, LINE_BEGIN);
            }
        }
        let at_line_end = !bound_end && line_bound_end(&expression);
        let expression = format!("{flags}{}", without_stars(&expression));
        Self {
            name,
            pattern,
            weight: 1.0,
            is_default: false,
            at_line_begin,
            at_line_end,
            kind,
            expression,
            bounds: (bound_begin && begin == Begin::Word, bound_end),
            compiled: OnceLock::new(),
        }
    }

    /// Whether its group for the fraction of a second is ours, any few digits, with a mark before it: then nothing else
    /// has looked at the first of them.
    pub(super) fn has_fraction(&self) -> bool {
        self.pattern.as_ref().is_some_and(|pattern| [r"\.%f", "[.,]%f"].iter().any(|f| pattern.contains(f)))
    }

    pub(super) fn is_anchored(&self) -> bool {
        self.at_line_begin || self.at_line_end
    }

    /// Compiles it now: what is wrong with it.
    pub(super) fn check(&self) -> Result<()> {
        Pattern::bounded(&self.expression, self.bounds.0, self.bounds.1).map(drop)
    }

    /// Where `text` has such a date, at `from` or later. A search that goes over its budget finds none.
    pub(super) fn search<'t>(&'t self, text: &'t str, from: usize) -> Option<Captured<'t>> {
        self.compiled()?.search_from(text, from).ok()?
    }

    /// What searches for it; `None` if it does not compile.
    pub(super) fn compiled(&self) -> Option<&Pattern> {
        let compile = || Pattern::bounded(&self.expression, self.bounds.0, self.bounds.1).ok();
        self.compiled.get_or_init(compile).as_ref()
    }

    /// Whether the date in `line` tells its zone: then its time is one of whole seconds to fail2ban.
    pub(super) fn tells_zone(&self, line: &str) -> bool {
        let has = |name: &str, found: &Captured<'_>| {
            found.name(Name::new(name)).is_some_and(|zone| !zone.is_empty())
        };
        match self.kind {
            Kind::Tai64n => true,
            Kind::Epoch { .. } => false,
            Kind::Fields => self.search(line, 0).is_some_and(|found| has("z", &found) || has("Z", &found)),
        }
    }

    /// The time that a date found by this template tells.
    pub(super) fn time(
        &self,
        found: &Captured<'_>,
        zone: &TimeZone,
        now: impl Fn() -> DateTime,
    ) -> Result<f64, NoTime> {
        match self.kind {
            Kind::Fields => strptime::time(found, zone, now),
            Kind::Epoch { long, group } => {
                let digits = plain_digits(found.get(group).ok_or(NoTime::LineIsLost)?);
                let value: f64 = digits.parse().map_err(|_no_number| NoTime::Invalid)?;
                Ok(match digits.len() {
                    16.. if long && !digits.contains('.') => value / 1_000_000.0,
                    13.. if long => value / 1000.0,
                    _ => value,
                })
            }
            Kind::Tai64n => {
                let digits = found.get(1).and_then(|value| value.get(2..17)).ok_or(NoTime::LineIsLost)?;
                i64::from_str_radix(digits, 16)
                    .map(|value| value as f64)
                    .map_err(|_no_number| NoTime::Invalid)
            }
        }
    }
}

/// `pattern` without the marks that bound it, to be put into another one.
pub(super) fn unbound(pattern: &str) -> &str {
    let pattern = pattern.strip_prefix(UNBOUND).unwrap_or(pattern);
    pattern.strip_prefix(LINE_BEGIN).unwrap_or(pattern)
}

fn epoch(long: bool) -> &'static str {
    if long { r"\d{10,11}(?:\d{3}(?:\.\d{1,6}|\d{3})?)?" } else { r"\d{10,11}\b(?:\.\d{3,6})?" }
}

/// Where a pattern has `{EPOCH}` or `{LEPOCH}`, and whether it is the long one.
fn epoch_tag(pattern: &str) -> Option<(std::ops::Range<usize>, bool)> {
    let upper = pattern.to_ascii_uppercase();
    let find = |tag: &str| {
        let at = upper.find(tag)?;
        (!upper[..at].ends_with('\\')).then(|| at..at + tag.len())
    };
    find("{LEPOCH}").map(|range| (range, true)).or_else(|| find("{EPOCH}").map(|range| (range, false)))
}

/// A pattern with words for its fields: `%d` is `Day` (`datetemplate.py`, `DatePatternRegex.setRegex`).
pub(super) fn describe(pattern: &str) -> String {
    let word = |field: &str| {
        Some(match field {
            "a" => "DAY",
            "A" => "DAYNAME",
            "b" => "MON",
            "B" => "MONTH",
            "d" => "Day",
            "H" => "24hour",
            "I" => "12hour",
            "j" => "Yearday",
            "m" => "Month",
            "M" => "Minute",
            "p" => "AMPM",
            "S" => "Second",
            "U" | "W" => "Yearweek",
            "w" => "Weekday",
            "y" => "Year2",
            "Y" => "Year",
            "%" => "%",
            "z" => "Zone offset",
            "f" => "Microseconds",
            "Z" => "Zone name",
            _ => return None,
        })
    };
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let (mark, field) = rest.strip_prefix("Ex").map_or(("", rest), |field| ("Ex", field));
        match field.get(..1).and_then(word) {
            Some(word) => {
                out.extend([mark, word]);
                rest = &field[1..];
            }
            None => out.push('%'),
        }
    }
    out + rest
}

/// Replaces `%d` and its like.
fn expand_fields(pattern: &str, this_year: i16) -> Result<String> {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let long = rest.get(..3).filter(|name| name.starts_with("Ex"));
        let short = rest.chars().next().map(|c| &rest[..c.len_utf8()]);
        let known = |name: Option<&'_ str>| Some((name?.len(), strptime::field(name?, this_year)?));
        let Some((length, expression)) = known(long).or_else(|| known(short)) else {
            bail!("datepattern {pattern}: % is followed by no field; write %% for a percent sign");
        };
        out.push_str(&expression);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether it has fields that are words: they are found in any case.
fn has_letters(pattern: &str) -> bool {
    let bytes = pattern.as_bytes();
    (0..bytes.len()).any(|at| {
        bytes[at] == b'%'
            && (at == 0 || bytes[at - 1] != b'%')
            && bytes.get(at + 1).is_some_and(|field| b"aAbBpc".contains(field))
    })
}

/// Global flags and the expression without them.
fn take_flags(expression: &str) -> (String, String) {
    let mut from = 0;
    while let Some(at) = expression[from..].find("(?").map(|at| at + from) {
        let inner = &expression[at + 2..];
        let letters = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        if letters > 0 && inner[letters..].starts_with(')') {
            let end = at + 2 + letters + 1;
            return (expression[at..end].into(), format!("{}{}", &expression[..at], &expression[end..]));
        }
        from = at + 2;
    }
    (String::new(), expression.into())
}

/// The expression behind its first parentheses and flags.
fn behind_flags(expression: &str) -> Option<&str> {
    let inner = expression.strip_prefix("(?")?;
    let (flags, rest) = inner.split_once(')')?;
    (!flags.is_empty() && flags.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(rest)
}

/// Whether it says itself where it begins: `^`, or `**` for anywhere.
fn begins_bound(expression: &str) -> bool {
    let inner = expression.trim_start_matches('(');
    let opened = inner.len() < expression.len();
    let begins = |text: &str| {
        text.starts_with('^')
            || text.trim_start_matches('(').starts_with("**")
            || text.starts_with("(^")
            || text.starts_with("(?:^")
    };
    begins(inner)
        || opened && inner.starts_with("?:^")
        || opened && behind_flags(&expression[expression.len() - inner.len() - 1..]).is_some_and(begins)
}

/// Whether it says itself where it ends.
fn ends_bound(expression: &str) -> bool {
    let unescaped = |at: usize| !expression[..at].ends_with('\\');
    let ends = |tail: &str| expression.ends_with(tail) && unescaped(expression.len() - tail.len());
    let stars = expression.trim_end_matches(')');
    ends("$")
        || ends("$)")
        || ends(r"\b")
        || ends(r"\s")
        || stars.ends_with("**") && !stars[..stars.len() - 2].ends_with('\\')
}

fn line_bound_begin(expression: &str) -> bool {
    let rest = behind_flags(expression).unwrap_or(expression);
    let grouped = rest.strip_prefix("(?:").or_else(|| rest.strip_prefix('('));
    rest.starts_with('^') || grouped.is_some_and(|rest| rest.starts_with('^') && !rest.starts_with("^|"))
}

fn line_bound_end(expression: &str) -> bool {
    let rest = expression.strip_suffix(')').filter(|rest| rest.ends_with('$')).unwrap_or(expression);
    rest.strip_suffix('$').is_some_and(|rest| !rest.ends_with(['\\', '|']))
}

/// Whether it has a group of its own without a name: what is to be cut out of the line.
fn has_plain_group(expression: &str) -> bool {
    let bytes = expression.as_bytes();
    (0..bytes.len()).any(|at| {
        bytes[at] == b'('
            && bytes.get(at + 1) != Some(&b'?')
            && (at == 0 || bytes[at - 1] != b'\\')
            && !(at >= 2 && &bytes[at - 2..at] == b"(?")
    })
}

/// The whole expression as a group, without the anchors around it.
fn grouped(expression: &str) -> String {
    let mut rest = behind_flags(expression).unwrap_or(expression);
    rest = rest.strip_prefix('^').unwrap_or(rest);
    rest = behind_flags(rest).unwrap_or(rest);
    let head = &expression[..expression.len() - rest.len()];
    match rest.strip_suffix('$') {
        Some(inner) => format!("{head}({inner})$"),
        None => format!("{head}({rest})"),
    }
}

/// Removes the `**` that only says where the expression has no bounds.
fn without_stars(expression: &str) -> String {
    let mut text = expression.to_owned();
    let inner = text.trim_start_matches('(');
    let at = text.len() - inner.len();
    if inner.starts_with("**") {
        text.replace_range(at..at + 2, "");
    }
    let end = text.trim_end_matches(')').len();
    if text[..end].ends_with("**") && !text[..end - 2].ends_with('\\') {
        text.replace_range(end - 2..end, "");
    }
    text
}
