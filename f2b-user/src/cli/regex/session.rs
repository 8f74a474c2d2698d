//! A filter at work on one log.

use std::net::IpAddr;

use jiff::{Timestamp, tz::TimeZone};

use super::{input::InputLine, names::Names, options::Now};
use crate::filter::{Breadth, Context, Filter, Judgement, Match};

/// What both faces ask about each line.
pub(super) struct Session {
    pub(super) filter: Filter,
    pub(super) context: Context,
    breadth: Breadth,
    now: Now,
    names: Names,
}

/// One that a match is charged to.
#[derive(Clone, Debug)]
pub(super) struct Charged<'a> {
    pub(super) found: &'a Match,
    /// Nothing while nobody can tell.
    pub(super) fid: Option<String>,
    pub(super) ip: Option<IpAddr>,
}

impl Session {
    pub(super) fn new(filter: Filter, zone: TimeZone, now: Now, breadth: Breadth) -> Self {
        let context = filter.context(zone, now.seconds());
        Self { filter, context, breadth, now, names: Names::default() }
    }

    pub(super) fn judge(&mut self, line: &InputLine) -> Judgement {
        // fail2ban puts a space between the time of an entry and its text.
        let date = line.logged.as_ref().map(|logged| format!("{} ", logged.text));
        let logged = line.logged.as_ref().map(|logged| logged.time).zip(date.as_deref());
        let text = line.text();
        self.filter.judge(&mut self.context, text, logged, self.now.seconds(), self.breadth)
    }

    /// Whom the matches charge; a host name is resolved, and may be several or nobody.
    pub(super) fn charged<'a>(&mut self, judgement: &'a Judgement) -> Vec<Charged<'a>> {
        let mut charged = Vec::new();
        for found in &judgement.matches {
            let is_context =
                found.nofail && found.groups.iter().any(|(name, id)| name == "mlfid" && id.is_some());
            if self.breadth == Breadth::First && is_context {
                continue;
            }
            match (&found.failure, &found.name) {
                (Some(_), Some(name)) => {
                    let addresses = self.names.resolve(name).iter();
                    charged.extend(addresses.map(|ip| Charged {
                        found,
                        fid: Some(ip.to_string()),
                        ip: Some(*ip),
                    }));
                }
                (Some(failure), None) => {
                    charged.push(Charged { found, fid: Some(failure.fid.clone()), ip: failure.ip });
                }
                (None, _) => charged.push(Charged { found, fid: None, ip: None }),
            }
        }
        charged
    }

    pub(super) fn now(&self) -> f64 {
        self.now.seconds()
    }
}

/// A time on the local clock. Fractions of a second are cut.
pub(super) fn local_time(time: f64, format: &str) -> String {
    let timestamp = Timestamp::from_second(time.floor() as i64).unwrap_or_default();
    timestamp.to_zoned(TimeZone::system()).strftime(format).to_string()
}
