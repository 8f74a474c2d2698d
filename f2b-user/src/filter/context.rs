//! What a filter remembers from line to line: the lines that an expression may span (`maxlines`), the last date, and
//! what is known of each connection (`<F-MLFID>`). The rules are those of `Filter.processLine` and
//! `Filter._mergeFailure` in `server/filter.py`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::date::Detector;

/// How many connections are remembered, and for how many seconds.
const MAX_CONNECTIONS: usize = 100;
const FORGET_AFTER: f64 = 300.0;

/// The named groups of a match. Those that took no part are absent.
pub(super) type Groups = BTreeMap<String, String>;

/// A filter at work on one log.
#[derive(Debug)]
pub struct Context {
    /// Lines seen so far.
    pub(super) line: u64,
    pub(super) detector: Detector,
    /// The last lines without their dates.
    pub(super) buffer: Vec<String>,
    /// The last date found.
    pub(super) last_date: Option<f64>,
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
            connections: Connections::default(),
            over_budget: 0,
        }
    }

    /// Counts a line that the filter is not shown.
    pub fn skip(&mut self) {
        self.line += 1;
    }

    /// How many lines had no verdict because they were too expensive to match, or were too long and cut.
    pub fn over_budget(&self) -> u64 {
        self.over_budget
    }
}

/// What is known of a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Connection {
    pub(super) groups: Groups,
    users: BTreeSet<String>,
    /// A failure was found, but nobody to charge it to.
    pub(super) pending: bool,
}

/// The connections by their `<F-MLFID>`, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: VecDeque<(String, f64, Connection)>,
}

fn is_set(groups: &Groups, name: &str) -> bool {
    groups.get(name).is_some_and(|value| !value.is_empty())
}

impl Connections {
    /// Adds what a line tells to what is known of its connection; the sum of both. `conclude` decides on the sum
    /// before it is stored.
    pub(super) fn merge(&mut self, id: &str, mut found: Groups, now: f64) -> Connection {
        let gained = is_set(&found, "mlfgained");
        if gained && !is_set(&found, "nofail") {
            let value = found["mlfgained"].clone();
            found.insert("nofail".into(), value);
        }
        let forget = found.remove("mlfforget").is_some_and(|value| !value.is_empty());
        let user = found.get("user").filter(|user| !user.is_empty()).cloned();
        let known = self.position(id, now);
        let mut merged = match known {
            Some(at) => {
                let mut merged = self.known[at].2.clone();
                // These hold for the last line only.
                merged.groups.remove("nofail");
                merged.groups.remove("mlfgained");
                merged.pending &= !gained;
                merged.groups.append(&mut found);
                merged
            }
            None => Connection { groups: found, ..Connection::default() },
        };
        // A connection that begins and ends with this line has no users to compare.
        if known.is_some() || !forget {
            merged.users.extend(user);
        }
        let pending = std::mem::take(&mut merged.pending);
        if merged.groups.remove("mlfpending").is_some_and(|value| !value.is_empty())
            || pending
            || merged.users.len() > 1
        {
            merged.groups.remove("nofail");
            merged.groups.remove("mlfgained");
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
