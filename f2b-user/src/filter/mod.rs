//! A filter: which lines are failures, and whose. No clock, no I/O.
//!
//! - [`expression`]: fail2ban's expressions → what matches them
//! - [`date`]: finds and reads the date of a line
//! - [`context`]: what is remembered from line to line
//! - [`identity`]: what a failure is charged to
//! - [`judgement`]: all that came to light about one line, for `f2b regex`

mod context;
mod date;
mod expression;
mod identity;
mod judgement;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use jiff::tz::TimeZone;

pub use self::{
    context::Context,
    date::DateTemplate,
    judgement::{Breadth, DatedLine, Judgement, Match, Place, Prefix},
};
use self::{
    context::{Groups, Keep},
    date::Detector,
    expression::{
        Captured, OverBudget, Pattern, Set,
        tags::{HostNames, option_name},
    },
    identity::Identity,
    judgement::{Conclusion, Found, Judge, Whom, Witness},
};

/// A line is cut here before it is matched: no log line that matters is longer, and a hostile one must not buy time.
const MAX_LINE: usize = 8192;

/// The groups that say whose failure it is; a filter needs one of them.
const IDENTITIES: [&str; 5] = ["fid", "ip4", "ip6", "dns", "mlfid"];

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
    /// `journal`: the line comes without a date.
    pub logtype: String,
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
    /// Seconds since 1970.
    pub time: f64,
    /// What the other groups matched: `user`, `port`, …
    pub fields: BTreeMap<String, String>,
}

impl Failure {
    /// `<F-USER>`, if the expression has it.
    pub fn user(&self) -> Option<&str> {
        self.fields.get("user").map(String::as_str)
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

#[derive(Debug)]
struct Expressions {
    prefregex: Option<Pattern>,
    failregex: Vec<Pattern>,
    any_failregex: Set,
    /// The same for whole lines, of which `failregex` sees only what `prefregex` leaves of them.
    any_in_line: Option<Set>,
    ignoreregex: Vec<Pattern>,
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
        let usedns = match settings.usedns.to_lowercase().as_str() {
            "" | "yes" | "warn" => UseDns::Yes,
            "raw" => UseDns::Raw,
            // fail2ban takes whatever else is written for "no".
            _ => UseDns::No,
        };
        let names = if usedns == UseDns::No { HostNames::Never } else { HostNames::Match };
        let maxlines = match settings.maxlines.trim() {
            "" => 1,
            lines => lines
                .parse::<usize>()
                .ok()
                .filter(|lines| *lines > 0)
                .with_context(|| format!("maxlines = {lines} is not a number from 1"))?,
        };
        let compile = |option: &str, text: &str, multiline: bool| {
            Pattern::new(text, multiline, names)
                .with_context(|| format!("{option}: \"{text}\" is no regular expression"))
        };
        if settings.failregex.is_empty() {
            bail!("failregex is empty; a filter needs at least one expression with <HOST>");
        }
        let prefregex = match settings.prefregex.as_str() {
            "" => None,
            text => Some(compile("prefregex", text, false)?),
        };
        let identifies = |pattern: &Pattern| IDENTITIES.iter().any(|name| pattern.has_group(name));
        let mut failregex = Vec::new();
        for text in &settings.failregex {
            let pattern = compile("failregex", text, maxlines > 1)?;
            if !identifies(&pattern) && !prefregex.as_ref().is_some_and(identifies) {
                bail!("failregex: \"{text}\" has no <HOST> to tell whose failure it is");
            }
            failregex.push(pattern);
        }
        let ignoreregex = settings.ignoreregex.iter().map(|text| compile("ignoreregex", text, false));
        let ignoreregex = ignoreregex.collect::<Result<Vec<_>>>()?;
        if !settings.datepattern.trim().is_empty() {
            Detector::new(&settings.datepattern, TimeZone::UTC, 2000)
                .and_then(|detector| detector.check())
                .with_context(|| format!("datepattern = {}", settings.datepattern))?;
        }
        Ok(Self {
            inner: Arc::new(Expressions {
                any_in_line: prefregex.as_ref().and_then(|outer| Set::within(outer, "content", &failregex)),
                prefregex,
                any_failregex: Set::new(&failregex),
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
        let detector = Detector::new(&self.inner.datepattern, zone.clone(), this_year);
        // `new` has checked the pattern.
        Context::new(detector.unwrap_or_else(|_| Detector::none(zone)))
    }

    /// The failures that `line` completes. `logged` is when it was logged, if its source knows; else its date is
    /// searched for, and cut out.
    pub fn failures(&self, context: &mut Context, line: &str, logged: Option<f64>, now: f64) -> Vec<Failure> {
        let mut failures = Vec::new();
        self.examine(context, line, Logged::at(logged), now, &mut failures);
        failures
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
        let Some((line, time)) = dated(context, line, logged, now) else { return };
        witness.dated(&line, time);
        if let Err(OverBudget) = self.inner.find(context, line, time.unwrap_or(now), now, witness) {
            context.over_budget += 1;
        }
    }
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

/// The line without its date, and its time (`Filter.processLine`). Nothing for a line whose date fail2ban trips over.
fn dated(
    context: &mut Context,
    line: &str,
    logged: Option<Logged<'_>>,
    now: f64,
) -> Option<(DatedLine, Option<f64>)> {
    if let Some(Logged { time, text }) = logged {
        context.set_last_date(time, text);
        return Some((DatedLine::new(line, 0..0, &context.last_date_text), Some(time)));
    }
    // A date within the last minute also holds for the lines below it.
    let last = context.last_date.filter(|last| *last > now - 60.0);
    let without = |context: &Context| {
        let text = if last.is_some() { context.last_date_text.as_str() } else { "" };
        DatedLine::new(line, 0..0, text)
    };
    let Some(found) = context.detector.find(line, now) else {
        return Some((without(context), last));
    };
    if found.start == found.end {
        let dated =
            if last.is_some() { without(context) } else { DatedLine::new(line, found.start..found.end, "") };
        return Some((dated, Some(last.unwrap_or(now))));
    }
    let text = if context.keep == Keep::Lines { &line[found.start..found.end] } else { "" };
    let cut = || DatedLine::new(line, found.start..found.end, text);
    match found.time {
        Ok(time) => {
            context.set_last_date(time, text);
            Some((cut(), Some(time)))
        }
        Err(date::NoTime::Invalid) => {
            Some(last.map_or_else(|| (cut(), None), |last| (without(context), Some(last))))
        }
        Err(date::NoTime::LineIsLost) => None,
    }
}

impl Expressions {
    /// The failures that the buffered lines and `line` amount to (`Filter.findFailure`).
    fn find(
        &self,
        context: &mut Context,
        line: DatedLine,
        time: f64,
        now: f64,
        witness: &mut impl Witness,
    ) -> Result<(), OverBudget> {
        let multiline = self.maxlines > 1;
        if !multiline {
            context.buffer.clear();
        }
        context.buffer.push(line);
        let excess = context.buffer.len().saturating_sub(self.maxlines);
        context.buffer.drain(..excess);
        let lines = context.buffer.clone();
        let mut buffer = joined(&lines);

        if self.maxlines == 1
            && self.any_in_line.as_ref().is_some_and(|set| set.candidates(&buffer).is_empty())
        {
            return Ok(());
        }
        // With few of them, it is cheaper to ask first.
        if self.ignoreregex.len() + 2 < self.failregex.len() && self.ignores(&buffer, witness)? {
            return Ok(());
        }
        let mut common = Groups::default();
        if let Some(prefregex) = &self.prefregex {
            let found = prefregex.search(&buffer)?;
            witness.prefix(found.as_ref());
            let Some(found) = found else { return Ok(()) };
            common = groups(&found);
            let content = found.name("content").filter(|content| !content.is_empty()).map(str::to_owned);
            common.remove("content");
            if let Some(content) = content {
                context.buffer = vec![DatedLine::new(&content, 0..0, "")];
                buffer = joined(&context.buffer);
            }
        }
        let tries_all = witness.breadth() == Breadth::All;
        // A match that takes its lines out of the buffer leaves others to search.
        let candidates = if tries_all && multiline {
            (0..self.failregex.len()).collect()
        } else {
            self.any_failregex.candidates(&buffer)
        };
        for index in candidates {
            let Some(found) = self.failregex[index].search(&buffer)? else { continue };
            let unmatched = Unmatched::of(&found, &buffer, &lines);
            let ignored = if self.ignoreregex.is_empty() {
                false
            } else if multiline {
                self.ignores(&joined(&unmatched.matched), witness)?
            } else {
                self.ignores(&buffer, witness)?
            };
            if multiline || !tries_all {
                context.buffer = unmatched.rest;
            }
            if !ignored {
                // Only the next expression needs them again.
                let mut all = if tries_all { common.clone() } else { std::mem::take(&mut common) };
                all.update(groups(&found));
                if let Some(conclusion) = self.conclude(context, all, &unmatched.matched, now, tries_all) {
                    let line = context.line;
                    let found = Found { failregex: index, captured: &found, text: &buffer, line, time };
                    witness.matched(found, conclusion);
                }
            }
            if !tries_all {
                break;
            }
            if multiline {
                buffer = joined(&context.buffer);
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
    fn conclude(
        &self,
        context: &mut Context,
        groups: Groups,
        lines: &[DatedLine],
        now: f64,
        tells_all: bool,
    ) -> Option<Conclusion> {
        let lines = if context.keep == Keep::Lines { Some(lines) } else { None };
        let mut conclusion = Conclusion { groups, users: Vec::new(), lines: Vec::new(), whom: None };
        let id = conclusion.groups.get("mlfid").map(str::to_owned);
        match &id {
            None => conclusion.lines.extend(lines.into_iter().flatten().cloned()),
            Some(id) => {
                let merged = context.connections.merge(id, conclusion.groups, lines, now);
                conclusion.groups = merged.groups;
                if conclusion.groups.is_set("nofail") && !tells_all {
                    return None;
                }
                conclusion.users = merged.users.into_iter().collect();
                conclusion.lines = merged.matches;
            }
        }
        conclusion.whom = self.whom(&conclusion.groups);
        match (&conclusion.whom, id) {
            (None, Some(id)) if conclusion.groups.names_nobody() => {
                context.connections.set_pending(&id, now);
                tells_all.then_some(conclusion)
            }
            (None, _) => None,
            (Some(_), _) => Some(conclusion),
        }
    }

    /// Whom or what the groups charge.
    fn whom(&self, groups: &Groups) -> Option<Whom> {
        let given = groups.get("fid");
        let prefix = groups.get("cidr").filter(|prefix| !prefix.is_empty());
        let ip = groups.get("ip4").or(groups.get("ip6"));
        let dns = groups.get("dns");
        let (host, name) = match (ip, dns.or(given)) {
            (Some(ip), _) => (Identity::address(ip, prefix), ip),
            (None, Some(name)) => (Identity::raw(name), name),
            (None, None) => return None,
        };
        let by_name = ip.is_none() && dns.is_some();
        if by_name && self.usedns == UseDns::No && host.ip.is_none() {
            return None;
        }
        let resolved = by_name && self.usedns != UseDns::Raw;
        let (fid, other) = match given {
            Some(given) if given != name && !resolved => (given.to_owned(), Some(host.text)),
            _ => (host.text, None),
        };
        Some(Whom { fid, ip: host.ip, other, is_name: resolved })
    }
}

/// Lines as the expressions see them.
fn joined<T: AsRef<str>>(lines: &[T]) -> String {
    let length = lines.iter().map(|line| line.as_ref().len() + 1).sum();
    let mut text = String::with_capacity(length);
    for line in lines {
        text.push_str(line.as_ref());
        text.push('\n');
    }
    text
}

/// The buffered lines after a match (`Regex.search`).
struct Unmatched {
    /// The lines that matched, without those that `<SKIPLINES>` skipped.
    matched: Vec<DatedLine>,
    /// All others: they stay in the buffer.
    rest: Vec<DatedLine>,
}

impl Unmatched {
    fn of(found: &Captured<'_>, text: &str, lines: &[DatedLine]) -> Self {
        if lines.len() <= 1 {
            return Self { matched: lines.to_vec(), rest: Vec::new() };
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
        let skipped = found.named().filter(|(name, _)| name.starts_with("skiplines"));
        let skipped: String = skipped.filter_map(|(_, value)| value).collect();
        let mut from = 0;
        for line in skipped.lines() {
            if let Some(at) = matched.iter().skip(from).position(|matched| matched.without_date() == line) {
                rest.push(matched.remove(from + at));
                from += at;
            }
        }
        rest.extend_from_slice(&lines[behind.max(first)..]);
        Self { matched, rest }
    }
}

/// The named groups of a match, with `<F-ALT_…>` and `<F-TUPLE_…>` merged into what they stand for
/// (`Regex._getGroupsWithAlt`).
fn groups(found: &Captured<'_>) -> Groups {
    let mut groups =
        Groups(found.named().map(|(name, value)| (name.to_owned(), value.map(str::to_owned))).collect());
    let mut parts = groups.0.clone();
    parts.sort();
    let is_empty = |value: &Option<String>| value.as_ref().is_none_or(String::is_empty);
    for (name, value) in parts.iter().filter(|(_, value)| !is_empty(value)) {
        let Some(target) = name.strip_prefix("alt_").map(target) else { continue };
        if !groups.is_set(&target) {
            groups.set(&target, value.clone());
        }
    }
    let mut tuples: BTreeMap<String, Vec<Option<String>>> = BTreeMap::new();
    for (name, value) in parts {
        let Some(target) = name.strip_prefix("tuple_").map(target) else { continue };
        let before = groups.get(&target).map(str::to_owned);
        tuples.entry(target).or_insert_with(|| vec![before]).push(value);
    }
    for (target, parts) in tuples {
        let parts = parts.iter().map(|part| part.as_ref().map_or("None".into(), |part| quoted(part)));
        let tuple = format!("({})", parts.collect::<Vec<_>>().join(", "));
        groups.set(&target, Some(tuple));
    }
    groups
}

/// `user_1` → `user`
fn target(name: &str) -> String {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let numbered = stem.len() < name.len() && stem.ends_with('_');
    option_name(if numbered { &stem[..stem.len() - 1] } else { name })
}

/// A text as Python writes it in a tuple.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
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
