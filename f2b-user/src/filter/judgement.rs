//! What there is to tell about one line besides its failures. The agent asks for failures only: its [`Witness`] is a
//! plain list, and nothing else is computed for it.

use std::{borrow::Cow, ops::Range};

use super::{
    Failure,
    context::Keep,
    expression::{Captured, Text},
    groups::Groups,
    name::Name,
};

/// How many of a filter's expressions are tried on a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Breadth {
    /// The first that matches wins, as in fail2ban's server.
    First,
    /// All of them (`Filter.checkAllRegex`), as fail2ban-regex counts them.
    All,
}

/// A line, and where its date was cut out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DatedLine {
    text: String,
    /// Where the date was, in bytes of the text.
    cut: usize,
    date: String,
}

impl DatedLine {
    /// `line` without what stands at `cut`. `date` is told as its date.
    pub(super) fn new(line: &str, cut: Range<usize>, date: &str) -> Self {
        let mut text = String::with_capacity(line.len() - cut.len());
        text.push_str(&line[..cut.start]);
        text.push_str(&line[cut.end..]);
        Self { text, cut: cut.start, date: date.to_owned() }
    }

    /// What the expressions see.
    pub fn without_date(&self) -> &str {
        &self.text
    }

    /// What stands before the date.
    pub fn before(&self) -> &str {
        &self.text[..self.cut]
    }

    /// The date as it is written. A line without one may have that of a line before it.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// What stands behind the date.
    pub fn after(&self) -> &str {
        &self.text[self.cut..]
    }

    /// The line with its date.
    pub fn whole(&self) -> String {
        [self.before(), self.date(), self.after()].concat()
    }
}

/// A line as it came, and its date.
pub(super) struct Cut<'l> {
    pub(super) line: &'l str,
    /// What is cut out.
    pub(super) place: Range<usize>,
    pub(super) date: DateText,
    /// When it was logged, in seconds since 1970, if that is known.
    pub(super) time: Option<f64>,
}

/// What is told as a line's date, where lines are kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DateText {
    None,
    /// What was cut out of it.
    Own,
    /// The last date found.
    Last,
}

impl<'l> Cut<'l> {
    /// What the expressions see but for the line's end, if it stands in one piece.
    pub(super) fn piece(&self) -> Option<&'l str> {
        if self.place.start == 0 { self.line.get(self.place.end..) } else { None }
    }

    /// Writes what the expressions see into `text`.
    pub(super) fn write(&self, text: &mut String) {
        text.clear();
        text.push_str(&self.line[..self.place.start]);
        text.push_str(&self.line[self.place.end..]);
        text.push('\n');
    }

    /// The line as it is kept. `last` is the last date found.
    pub(super) fn keep(&self, keep: Keep, last: &str) -> DatedLine {
        let date = match self.date {
            DateText::Own if keep == Keep::Lines => &self.line[self.place.clone()],
            DateText::Last => last,
            DateText::Own | DateText::None => "",
        };
        DatedLine::new(self.line, self.place.clone(), date)
    }
}

impl AsRef<str> for DatedLine {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// What came to light when a filter judged one line.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// Nothing for a line whose date fail2ban trips over: it has no verdict.
    pub line: Option<DatedLine>,
    /// When it was logged, in seconds since 1970; nothing if nobody can tell.
    pub time: Option<f64>,
    pub prefix: Prefix,
    /// Which `ignoreregex` matched, from 0.
    pub ignoreregex: Vec<usize>,
    pub matches: Vec<Match>,
    /// It was too long and cut, or too expensive to match.
    pub over_budget: bool,
}

/// What `prefregex` said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Prefix {
    /// It was not asked, or there is none.
    #[default]
    Unasked,
    Missed,
    /// Its groups.
    Matched(Vec<(String, Option<String>)>),
}

/// One expression that matched, and what came of it.
#[derive(Clone, Debug)]
pub struct Match {
    /// Which `failregex`, from 0.
    pub failregex: usize,
    pub place: Place,
    /// What the groups of `prefregex` and of the expression caught, and those of earlier lines of the connection
    /// (`<F-MLFID>`), in fail2ban's order. The group `users` stands for [`users`](Self::users).
    pub groups: Vec<(String, Option<String>)>,
    /// All users that the connection tried.
    pub users: Vec<String>,
    /// `<F-NOFAIL>`, or what amounts to it, holds: it is no failure.
    pub nofail: bool,
    /// The address, where the failure is charged to something else.
    pub ip: Option<String>,
    /// The name that must be resolved to know whom to charge.
    pub name: Option<String>,
    /// Nothing if there is nobody to charge it to yet.
    pub failure: Option<Failure>,
    /// The lines that belong to it (`<matches>`).
    pub lines: Vec<DatedLine>,
}

/// Where an expression matched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// These bytes of the line without its date.
    Line(Range<usize>),
    /// These bytes of several lines without their dates.
    Lines(String, Range<usize>),
}

/// What `conclude` makes of a match.
pub(super) struct Conclusion<'c> {
    pub(super) groups: Cow<'c, Groups>,
    pub(super) users: &'c [Text],
    pub(super) lines: Cow<'c, [DatedLine]>,
    pub(super) whom: Option<Whom>,
}

/// Whom or what a match is charged to.
pub(super) struct Whom {
    pub(super) fid: Text,
    pub(super) ip: Option<std::net::IpAddr>,
    /// The address as text, where it is not the `fid` itself.
    pub(super) other: Option<Text>,
    /// The `fid` is a host name that the agent resolves.
    pub(super) is_name: bool,
}

impl Conclusion<'_> {
    /// Whether it waits for a line of the same connection that tells whom to charge.
    pub(super) fn is_pending(&self) -> bool {
        self.groups.get(Name::MLFID).is_some() && self.groups.names_nobody()
    }

    /// The failure, completed by the line with this number.
    fn failure(&self, line: u64, time: f64) -> Option<Failure> {
        let whom = self.whom.as_ref()?;
        let caught = self.groups.iter().filter(|(name, _)| name.is_field());
        let fields = caught.filter_map(|(name, value)| Some((name, value?.clone()))).collect();
        let matches = self.lines.iter().map(DatedLine::whole).collect();
        Some(Failure {
            line,
            fid: whom.fid.as_str().to_owned(),
            ip: whom.ip,
            time,
            fields,
            matches,
            is_name: whom.is_name,
        })
    }
}

/// Watches how a line is judged.
pub(super) trait Witness {
    fn breadth(&self) -> Breadth {
        Breadth::First
    }

    /// Whether everything is told: also of lines and matches that are no failures by themselves.
    fn wants_all(&self) -> bool {
        false
    }

    fn dated(&mut self, _line: &DatedLine, _time: Option<f64>) {}

    /// `prefregex` was asked.
    fn prefix(&mut self, _found: Option<&Captured<'_>>) {}

    /// An `ignoreregex` matched.
    fn ignored(&mut self, _ignoreregex: usize) {}

    /// A `failregex` matched, and was not ignored.
    fn matched(&mut self, found: Found<'_>, conclusion: Conclusion<'_>);
}

/// A match as the engine has it.
pub(super) struct Found<'a> {
    pub(super) failregex: usize,
    pub(super) captured: &'a Captured<'a>,
    /// What was searched.
    pub(super) text: &'a str,
    /// The number of the line that completed it.
    pub(super) line: u64,
    pub(super) time: f64,
}

/// The agent's.
impl Witness for Vec<Failure> {
    fn matched(&mut self, found: Found<'_>, conclusion: Conclusion<'_>) {
        self.extend(conclusion.failure(found.line, found.time));
    }
}

/// The one that writes down everything.
pub(super) struct Judge {
    pub(super) judgement: Judgement,
    breadth: Breadth,
    /// Lines are searched one by one.
    single: bool,
    /// Where `<F-CONTENT>` begins.
    content: usize,
}

impl Judge {
    pub(super) fn new(breadth: Breadth, maxlines: usize) -> Self {
        Self { judgement: Judgement::default(), breadth, single: maxlines == 1, content: 0 }
    }
}

impl Witness for Judge {
    fn breadth(&self) -> Breadth {
        self.breadth
    }

    fn wants_all(&self) -> bool {
        true
    }

    fn dated(&mut self, line: &DatedLine, time: Option<f64>) {
        self.judgement.line = Some(line.clone());
        self.judgement.time = time;
    }

    fn prefix(&mut self, found: Option<&Captured<'_>>) {
        self.judgement.prefix = match found {
            None => Prefix::Missed,
            Some(found) => Prefix::Matched(super::groups(found, None, true, Groups::default()).into_pairs()),
        };
        let content =
            found.and_then(|found| found.name_span(Name::CONTENT)).filter(|(start, end)| start < end);
        self.content = content.map_or(0, |(start, _)| start);
    }

    fn ignored(&mut self, ignoreregex: usize) {
        self.judgement.ignoreregex.push(ignoreregex);
    }

    fn matched(&mut self, found: Found<'_>, conclusion: Conclusion<'_>) {
        let failure = conclusion.failure(found.line, found.time);
        let (start, end) = found.captured.span(0).unwrap_or_default();
        let place = if self.single {
            let end = end.min(found.text.trim_end_matches('\n').len()).max(start);
            Place::Line(self.content + start..self.content + end)
        } else {
            Place::Lines(found.text.to_owned(), start..end)
        };
        let whom = conclusion.whom;
        let name = whom.as_ref().filter(|whom| whom.is_name).map(|whom| whom.fid.to_string());
        self.judgement.matches.push(Match {
            failregex: found.failregex,
            place,
            nofail: conclusion.groups.is_set(Name::NOFAIL),
            groups: conclusion.groups.into_owned().into_pairs(),
            users: conclusion.users.iter().map(|user| user.to_string()).collect(),
            ip: whom.and_then(|whom| whom.other).map(String::from),
            name,
            failure,
            lines: conclusion.lines.into_owned(),
        });
    }
}
