//! A filter at work on one log.

use std::{mem, net::IpAddr};

use jiff::{Timestamp, tz::TimeZone};

use super::{
    input::InputLine,
    log::{Entry, Level},
    names::Names,
    options::Now,
};
use crate::filter::{Breadth, Context, DatedLine, Filter, Judgement, Match, python::repr};

const FILTER: &str = "fail2ban.filter";

/// What both faces ask about each line.
pub(super) struct Session {
    pub(super) filter: Filter,
    pub(super) context: Context,
    breadth: Breadth,
    now: Now,
    names: Names,
    /// What fail2ban logs about the lines, if it is wanted.
    told: Option<Told>,
}

#[derive(Debug, Default)]
struct Told {
    entries: Vec<Entry>,
    /// Names that are resolved are told about.
    warns_of_names: bool,
    has_undated: bool,
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
        Self { filter, context, breadth, now, names: Names::default(), told: None }
    }

    /// From now on remembers what fail2ban logs about the lines.
    pub(super) fn tell(&mut self, usedns: &str) {
        let warns_of_names = usedns.eq_ignore_ascii_case("warn");
        self.told = Some(Told { warns_of_names, ..Told::default() });
        self.names.told = Some(Vec::new());
    }

    pub(super) fn take_told(&mut self) -> Vec<Entry> {
        self.told.as_mut().map(|told| mem::take(&mut told.entries)).unwrap_or_default()
    }

    pub(super) fn judge(&mut self, line: &InputLine) -> Judgement {
        // fail2ban puts a space between the time of an entry and its text.
        let date = line.logged.as_ref().map(|logged| format!("{} ", logged.text));
        let logged = line.logged.as_ref().map(|logged| logged.time).zip(date.as_deref());
        let text = line.text();
        let judgement = self.filter.judge(&mut self.context, text, logged, self.now.seconds(), self.breadth);
        if let (Some(told), None, Some(line)) = (&mut self.told, judgement.time, &judgement.line)
            && !line.date().is_empty()
        {
            let message = format!("findFailure failed to parse timeText: {}", line.date());
            told.entries.push(Entry::new(Level::Error, FILTER, message));
        }
        judgement
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
            if judgement.time.is_none() {
                self.tell_undated(judgement, found);
            }
            match (&found.failure, &found.name) {
                (Some(_), Some(name)) => {
                    self.tell_name(name);
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

    /// fail2ban warns of the first one only.
    fn tell_undated(&mut self, judgement: &Judgement, found: &Match) {
        let Some(told) = self.told.as_mut().filter(|told| !told.has_undated) else { return };
        told.has_undated = true;
        let date = judgement.line.as_ref().map(DatedLine::date).unwrap_or_default();
        let lines: Vec<_> = found.lines.iter().map(DatedLine::whole).collect();
        for message in [
            format!("Found a match but no valid date/time found for {}.", repr(date)),
            format!("Match without a timestamp: {}", lines.join("\n")),
            "Please try setting a custom date pattern (see man page jail.conf(5)).".into(),
        ] {
            told.entries.push(Entry::new(Level::Warning, FILTER, format!("[~jailless~] {message}")));
        }
    }

    fn tell_name(&mut self, name: &str) {
        let Some(told) = &mut self.told else { return };
        let addresses: Vec<_> = self.names.resolve(name).iter().map(|ip| format!("'{ip}'")).collect();
        told.entries.extend(self.names.told.iter_mut().flat_map(mem::take));
        if told.warns_of_names && !addresses.is_empty() {
            let message = format!("Determined IP using DNS Lookup: {name} = {{{}}}", addresses.join(", "));
            told.entries.push(Entry::new(Level::Warning, "fail2ban.ipdns", message));
        }
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
