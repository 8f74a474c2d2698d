//! What a filter remembers from line to line: the lines that an expression may span (`maxlines`), the last date, and
//! what is known of each connection (`<F-MLFID>`). The rules are those of `Filter.processLine` and
//! `Filter._mergeFailure` in `server/filter.py`.

use std::{collections::VecDeque, hash::BuildHasher as _};

use foldhash::fast::RandomState;
use memchr::memchr_iter;
use smallvec::SmallVec;

use super::{
    date::{DateTemplate, Detector},
    expression::{Heads, Text},
    groups::Groups,
    judgement::DatedLine,
    name::Name,
};

/// How many connections are remembered, and for how many seconds.
const MAX_CONNECTIONS: usize = 100;
const FORGET_AFTER: f64 = 300.0;

/// A filter at work on one log.
#[derive(Debug)]
pub struct Context {
    /// Lines seen so far.
    pub(super) line: u64,
    pub(super) detector: Detector,
    /// The last lines.
    pub(super) buffer: Vec<DatedLine>,
    /// The last date found, and its text if lines are kept whole.
    pub(super) last_date: Option<f64>,
    pub(super) last_date_text: String,
    pub(super) keep: Keep,
    pub(super) connections: Connections,
    /// How lines begin for `prefregex`.
    pub(super) heads: Heads,
    pub(super) over_budget: u64,
    /// Hold a line and its `<F-CONTENT>` while they are looked at.
    pub(super) text: String,
    pub(super) content: String,
}

impl Context {
    pub(super) fn new(detector: Detector) -> Self {
        Self {
            line: 0,
            detector,
            buffer: Vec::new(),
            last_date: None,
            last_date_text: String::new(),
            keep: Keep::Nothing,
            connections: Connections::default(),
            heads: Heads::default(),
            over_budget: 0,
            text: String::new(),
            content: String::new(),
        }
    }

    /// Has failures tell the lines that they matched (`<matches>`).
    #[must_use]
    pub fn keep_lines(mut self) -> Self {
        self.keep = Keep::Lines;
        self
    }

    /// Counts a line that the filter is not shown.
    pub fn skip(&mut self) {
        self.line += 1;
    }

    /// The lines that wait for others to complete a match (`maxlines`).
    pub fn buffered(&self) -> &[DatedLine] {
        &self.buffer
    }

    /// Whether the date of `line`, which was just judged, tells its zone. fail2ban then has its time in whole seconds.
    pub fn tells_zone(&self, line: &str) -> bool {
        self.detector.tells_zone(line)
    }

    /// Remembers the last date found.
    pub(super) fn set_last_date(&mut self, time: f64, text: &str) {
        self.last_date = Some(time);
        if self.keep == Keep::Lines {
            self.last_date_text.clear();
            self.last_date_text.push_str(text);
        }
    }

    /// How often the ways to write a date were found, in the order in which they are tried next.
    pub fn date_templates(&self) -> impl Iterator<Item = DateTemplate<'_>> {
        self.detector.templates()
    }

    /// How many lines had no verdict because they were too expensive to match, or were too long and cut.
    pub fn over_budget(&self) -> u64 {
        self.over_budget
    }
}

/// How much is kept of a line besides what the verdict needs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Keep {
    Nothing,
    /// Its date, and whether it belongs to a failure (`<matches>`).
    Lines,
}

/// What is known of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) groups: Groups,
    /// Sorted.
    pub(super) users: SmallVec<[Text; 1]>,
    /// A failure was found, but nobody to charge it to.
    pub(super) pending: bool,
    /// The lines of its failures, if they are kept, and those that may become some.
    pub(super) matches: Vec<DatedLine>,
    nofail_matches: Vec<DatedLine>,
}

impl Connection {
    /// `shown`: the place that the users have among the groups is kept, too.
    fn add_user(&mut self, user: Option<Text>, shown: bool) {
        let Some(user) = user else { return };
        if shown && self.users.is_empty() {
            self.groups.set(Name::USERS, None);
        }
        if let Err(place) = self.users.binary_search(&user) {
            self.users.insert(place, user);
        }
    }

    fn add_matches(&mut self, lines: &[DatedLine], gained: bool, nofail: bool, forget: bool) {
        if !nofail {
            let mut matches = std::mem::take(&mut self.nofail_matches);
            matches.append(&mut self.matches);
            if !gained {
                matches.extend_from_slice(lines);
            }
            self.matches = matches;
        } else if !forget {
            self.nofail_matches.extend_from_slice(lines);
        }
    }
}

/// The connections by their `<F-MLFID>`, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: VecDeque<Known>,
    /// A byte of a hash of each id, because most of a search is comparing ids.
    marks: VecDeque<u8>,
    hasher: RandomState,
    /// The one that ended with the last line.
    ended: Connection,
}

#[derive(Debug)]
struct Known {
    until: f64,
    connection: Connection,
}

impl Connections {
    /// Adds what a line tells to what is known of its connection; the sum of both. `matched` are the lines that
    /// matched, if they are kept.
    ///
    /// A failure with nobody to charge it to is left pending: the next line of the connection may name somebody.
    pub(super) fn merge(
        &mut self,
        mut found: Groups,
        matched: Option<&[DatedLine]>,
        now: f64,
    ) -> &Connection {
        let mut gained = found.is_set(Name::MLFGAINED);
        if gained && !found.is_set(Name::NOFAIL) {
            let value = found.get(Name::MLFGAINED).map(Text::new);
            found.set(Name::NOFAIL, value);
        }
        let mut nofail = found.is_set(Name::NOFAIL);
        let forget = found.remove(Name::MLFFORGET).is_some_and(|value| !value.is_empty());
        let user = found.get(Name::USER).filter(|user| !user.is_empty()).map(Text::new);
        let mark = self.hasher.hash_one(found.get(Name::MLFID)) as u8;
        let known = self.position(mark, found.get(Name::MLFID), now);
        let merged = match known {
            Some(at) => {
                let merged = &mut self.known[at].connection;
                merged.add_user(user, matched.is_some());
                // These hold for the last line only.
                let before = [merged.groups.remove(Name::NOFAIL), merged.groups.remove(Name::MLFGAINED)];
                merged.pending &= !gained;
                if before.iter().flatten().all(|value| value.is_empty()) && !merged.pending {
                    // They were told of before.
                    merged.matches.clear();
                }
                found.drop_absent();
                merged.groups.update(found);
                merged
            }
            None => {
                let mut fresh = Connection { groups: found, ..Connection::default() };
                // A connection that begins and ends with this line has no users to compare.
                if !forget {
                    fresh.add_user(user, matched.is_some());
                }
                if forget {
                    self.ended = fresh
                } else {
                    self.insert(mark, fresh, now)
                }
                match self.known.back_mut() {
                    Some(last) if !forget => &mut last.connection,
                    _ => &mut self.ended,
                }
            }
        };
        let pending = std::mem::take(&mut merged.pending);
        if merged.groups.remove(Name::MLFPENDING).is_some_and(|value| !value.is_empty())
            || pending
            || merged.users.len() > 1
        {
            merged.groups.remove(Name::NOFAIL);
            merged.groups.remove(Name::MLFGAINED);
            (gained, nofail) = (false, false);
        }
        if let Some(matched) = matched {
            merged.add_matches(matched, gained, nofail, forget);
        }
        // Who is told everything goes on behind a match that is no failure, and so does fail2ban-regex.
        let goes_on = matched.is_some() || !merged.groups.is_set(Name::NOFAIL);
        merged.pending = goes_on && merged.groups.names_nobody();
        match known {
            Some(at) if forget => {
                self.ended = self.remove(at).unwrap_or_default();
                &self.ended
            }
            Some(at) => &self.known[at].connection,
            None if forget => &self.ended,
            None => self.known.back().map_or(&self.ended, |known| &known.connection),
        }
    }

    fn position(&mut self, mark: u8, id: Option<&str>, now: f64) -> Option<usize> {
        let (front, back) = self.marks.as_slices();
        let places = memchr_iter(mark, front).chain(memchr_iter(mark, back).map(|at| front.len() + at));
        let at = places.into_iter().find(|at| self.known[*at].connection.groups.get(Name::MLFID) == id)?;
        if self.known[at].until > now {
            return Some(at);
        }
        self.remove(at);
        None
    }

    fn remove(&mut self, at: usize) -> Option<Connection> {
        self.marks.remove(at);
        self.known.remove(at).map(|known| known.connection)
    }

    fn insert(&mut self, mark: u8, connection: Connection, now: f64) {
        if self.known.len() >= MAX_CONNECTIONS {
            while let Some(oldest) = self.known.pop_front() {
                self.marks.pop_front();
                if oldest.until > now && self.known.len() < MAX_CONNECTIONS {
                    break;
                }
            }
        }
        self.marks.push_back(mark);
        self.known.push_back(Known { until: now + FORGET_AFTER, connection });
    }
}
