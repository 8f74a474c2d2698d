//! What a filter remembers from line to line: the lines that an expression may span (`maxlines`), the last date, and
//! what is known of each connection (`<F-MLFID>`). The rules are those of `Filter.processLine` and
//! `Filter._mergeFailure` in `server/filter.py`.

use std::collections::{BTreeSet, VecDeque};

use super::{
    date::{DateTemplate, Detector},
    judgement::DatedLine,
};

/// How many connections are remembered, and for how many seconds.
const MAX_CONNECTIONS: usize = 100;
const FORGET_AFTER: f64 = 300.0;

/// The group that stands for all users of a connection. It has no value: the users are kept beside the groups.
pub(super) const USERS: &str = "users";

/// The named groups of a match, in the order of the expression; those that took no part have no value. As Python's
/// dictionaries: a new value of a known name stays at its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(pub(super) Vec<(String, Option<String>)>);

impl Groups {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name)?.1.as_deref()
    }

    pub(super) fn set(&mut self, name: &str, value: Option<String>) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes over all of `other`.
    pub(super) fn update(&mut self, other: Self) {
        for (name, value) in other.0 {
            self.set(&name, value);
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        self.0.remove(at).1
    }

    /// Whether no group says whom to charge.
    pub(super) fn names_nobody(&self) -> bool {
        ["fid", "ip4", "ip6", "dns"].iter().all(|name| self.get(name).is_none())
    }

    /// Whether the group caught something.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }
}

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
    pub(super) over_budget: u64,
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
            over_budget: 0,
        }
    }

    /// Counts a line that the filter is not shown.
    pub fn skip(&mut self) {
        self.line += 1;
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
    pub(super) users: BTreeSet<String>,
    /// A failure was found, but nobody to charge it to.
    pub(super) pending: bool,
    /// The lines of its failures, if they are kept, and those that may become some.
    pub(super) matches: Vec<DatedLine>,
    nofail_matches: Vec<DatedLine>,
}

impl Connection {
    /// `shown`: the place that the users have among the groups is kept, too.
    fn add_user(&mut self, user: Option<String>, shown: bool) {
        let Some(user) = user else { return };
        if shown && self.users.is_empty() {
            self.groups.set(USERS, None);
        }
        self.users.insert(user);
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
    known: VecDeque<(String, f64, Connection)>,
}

impl Connections {
    /// Adds what a line tells to what is known of its connection; the sum of both. `conclude` decides on the sum
    /// before it is stored. `matched` are the lines that matched, if they are kept.
    pub(super) fn merge(
        &mut self,
        id: &str,
        mut found: Groups,
        matched: Option<&[DatedLine]>,
        now: f64,
    ) -> Connection {
        let mut gained = found.is_set("mlfgained");
        if gained && !found.is_set("nofail") {
            let value = found.get("mlfgained").map(str::to_owned);
            found.set("nofail", value);
        }
        let mut nofail = found.is_set("nofail");
        let forget = found.remove("mlfforget").is_some_and(|value| !value.is_empty());
        let user = found.get("user").filter(|user| !user.is_empty()).map(str::to_owned);
        let known = self.position(id, now);
        let mut merged = match known {
            Some(at) => {
                let mut merged = self.known[at].2.clone();
                merged.add_user(user, matched.is_some());
                // These hold for the last line only.
                let before = [merged.groups.remove("nofail"), merged.groups.remove("mlfgained")];
                merged.pending &= !gained;
                if before.iter().flatten().all(String::is_empty) && !merged.pending {
                    // They were told of before.
                    merged.matches.clear();
                }
                found.0.retain(|(_, value)| value.is_some());
                merged.groups.update(found);
                merged
            }
            None => {
                let mut fresh = Connection { groups: found, ..Connection::default() };
                // A connection that begins and ends with this line has no users to compare.
                if !forget {
                    fresh.add_user(user, matched.is_some());
                }
                fresh
            }
        };
        let pending = std::mem::take(&mut merged.pending);
        if merged.groups.remove("mlfpending").is_some_and(|value| !value.is_empty())
            || pending
            || merged.users.len() > 1
        {
            merged.groups.remove("nofail");
            merged.groups.remove("mlfgained");
            (gained, nofail) = (false, false);
        }
        if let Some(matched) = matched {
            merged.add_matches(matched, gained, nofail, forget);
        }
        match known {
            Some(at) if forget => drop(self.known.remove(at)),
            Some(at) => self.known[at].2 = merged.clone(),
            None if forget => {}
            None => self.insert(id, merged.clone(), now),
        }
        merged
    }

    /// Marks that the connection has a failure with nobody to charge it to.
    pub(super) fn set_pending(&mut self, id: &str, now: f64) {
        if let Some(at) = self.position(id, now) {
            self.known[at].2.pending = true;
        }
    }

    fn position(&mut self, id: &str, now: f64) -> Option<usize> {
        let at = self.known.iter().position(|(known, ..)| known == id)?;
        if self.known[at].1 > now {
            return Some(at);
        }
        self.known.remove(at);
        None
    }

    fn insert(&mut self, id: &str, connection: Connection, now: f64) {
        if self.known.len() >= MAX_CONNECTIONS {
            while let Some((_, until, _)) = self.known.pop_front() {
                if until > now && self.known.len() < MAX_CONNECTIONS {
                    break;
                }
            }
        }
        self.known.push_back((id.to_owned(), now + FORGET_AFTER, connection));
    }
}
