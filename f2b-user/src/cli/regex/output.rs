//! `-o`: the failures only, one after the other, in the form that is asked for.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use regex::{Captures, Regex};
use serde::Serialize;

use super::{names::Hosts, session::Charged};
use crate::filter::{
    DatedLine, FilterSettings, group_of_tag,
    python::{repr, repr_dict, repr_optional},
};

/// Prints failures.
#[derive(Debug)]
pub(super) struct Output {
    form: Form,
    is_raw: bool,
    hosts: Hosts,
}

/// The form of a failure.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Form {
    /// Ours: one object per failure.
    Json,
    /// What it is charged to.
    Id,
    Ip,
    /// Its lines.
    Lines,
    /// All of it, as Python writes it.
    Row,
    /// What this group caught.
    Group(String),
    /// A text with tags.
    Tagged(String),
}

/// A failure as the contract prints it.
#[derive(Serialize)]
struct Json<'a> {
    line: u64,
    fid: &'a str,
    ip: Option<IpAddr>,
    time: f64,
    fields: BTreeMap<&'a str, &'a str>,
}

/// When a line was logged, as fail2ban's Python has it.
#[derive(Clone, Copy, Debug)]
pub(super) enum PythonTime {
    Unknown,
    Int(i64),
    Float(f64),
}

impl PythonTime {
    fn repr(self) -> String {
        match self {
            Self::Unknown => "None".into(),
            Self::Int(time) => time.to_string(),
            Self::Float(time) => format!("{time:?}"),
        }
    }
}

impl Output {
    /// fail2ban-regex takes for a group's name whatever has no tag.
    pub(super) fn new(format: &str, settings: &FilterSettings) -> Self {
        let form = match format {
            "json" => Form::Json,
            "id" | "fid" => Form::Id,
            "ip" => Form::Ip,
            "msg" => Form::Lines,
            "row" => Form::Row,
            tagged if tagged.contains('<') => Form::Tagged(tagged.to_owned()),
            group => Form::Group(group.to_owned()),
        };
        let is_raw = settings.usedns.eq_ignore_ascii_case("raw");
        Self { form, is_raw, hosts: Hosts::default() }
    }

    /// Prints the failures of one line. `now` stands for a time that nobody knows.
    ///
    /// # Errors
    /// A tag that only a running server can fill.
    pub(super) fn print(
        &mut self,
        out: &mut impl io::Write,
        failures: &[Charged<'_>],
        time: PythonTime,
        now: f64,
    ) -> Result<()> {
        let mut rows = Vec::new();
        if let Form::Tagged(format) = &self.form {
            let mut tags = Tags { is_raw: self.is_raw, hosts: &mut self.hosts, time, now };
            rows = tags.replace(format, failures)?;
        } else {
            failures.iter().for_each(|failure| rows.extend(self.form.rows(failure, time)));
        }
        for row in rows {
            writeln!(out, "{row}").context("writing the output")?;
        }
        Ok(())
    }
}

impl Form {
    fn rows(&self, failure: &Charged<'_>, time: PythonTime) -> Vec<String> {
        match self {
            Self::Json => json(failure).into_iter().collect(),
            Self::Id => vec![id(failure)],
            Self::Ip => vec![ip(failure)],
            Self::Lines => failure.found.lines.iter().map(DatedLine::whole).collect(),
            Self::Row => {
                let fid = repr_optional(failure.fid.as_deref());
                let data = repr_dict(data(failure).iter().map(|(name, value)| (*name, value.repr())));
                vec![format!("[{fid},\t{},\t{data}],", time.repr())]
            }
            Self::Group(name) if name == "matches" => vec![lines(&failure.found.lines)],
            Self::Group(name) => {
                let data = data(failure);
                let value = data.iter().find(|(known, _)| known == name).map(|(_, value)| value.text());
                vec![value.unwrap_or_else(|| "None".into())]
            }
            Self::Tagged(_) => Vec::new(),
        }
    }
}

fn id(failure: &Charged<'_>) -> String {
    failure.fid.clone().unwrap_or_else(|| "None".into())
}

fn ip(failure: &Charged<'_>) -> String {
    failure.found.ip.clone().unwrap_or_else(|| id(failure))
}

fn json(charged: &Charged<'_>) -> Option<String> {
    let failure = charged.found.failure.as_ref()?;
    let printed = Json {
        line: failure.line,
        fid: charged.fid.as_deref()?,
        ip: charged.ip,
        time: failure.time,
        fields: failure.fields.iter().collect(),
    };
    serde_json::to_string(&printed).ok()
}

/// A value in fail2ban's data of a failure.
enum Value<'a> {
    Text(Option<&'a str>),
    /// Python code already: a tuple, a set.
    Code(String),
}

impl Value<'_> {
    fn repr(&self) -> String {
        match self {
            Self::Text(text) => repr_optional(*text),
            Self::Code(code) => code.clone(),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.unwrap_or("None").to_owned(),
            Self::Code(code) => code.clone(),
        }
    }
}

/// fail2ban's data of a failure, without its lines.
fn data<'a>(failure: &'a Charged<'_>) -> Vec<(&'a str, Value<'a>)> {
    let found = failure.found;
    let is_tuple = |name: &str| {
        let parts = found.groups.iter().filter_map(|(part, _)| part.strip_prefix("tuple_"));
        parts
            .map(|part| part.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_'))
            .any(|part| part == name)
    };
    let value = |(name, value): &'a (String, Option<String>)| {
        let value = match value {
            None if name == "users" && !found.users.is_empty() => {
                let users: Vec<_> = found.users.iter().map(|user| repr(user)).collect();
                Value::Code(format!("{{{}}}", users.join(", ")))
            }
            Some(tuple) if is_tuple(name) => Value::Code(tuple.clone()),
            value => Value::Text(value.as_deref()),
        };
        (name.as_str(), value)
    };
    let ip = found.ip.as_deref().map(|ip| ("ip", Value::Text(Some(ip))));
    found.groups.iter().map(value).chain(ip).collect()
}

/// fail2ban's data of a failure, as the tags of an action see it.
fn ticket<'a>(failure: &'a Charged<'_>) -> Vec<(&'a str, Value<'a>)> {
    let matches = ("matches", Value::Code(lines(&failure.found.lines)));
    let failures = ("failures", Value::Code("0".into()));
    [matches, failures].into_iter().chain(data(failure)).collect()
}

/// The lines of a failure as Python writes them: before the date, the date, behind it.
fn lines(lines: &[DatedLine]) -> String {
    let tuple = |line: &DatedLine| {
        format!("({}, {}, {})", repr(line.before()), repr(line.date()), repr(line.after()))
    };
    format!("[{}]", lines.iter().map(tuple).collect::<Vec<_>>().join(", "))
}

#[expect(clippy::unwrap_used, reason = "constants that the tests compile")]
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new("<([^ <>]+)>").unwrap());

#[expect(clippy::unwrap_used, reason = "constants that the tests compile")]
static GROUP_TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<F-([A-Z0-9_\-]+)>").unwrap());

/// Stands for `<msg>` until it is known that there is more than one.
const MSG: &str = "\0msg\0";

/// What tags stand for.
struct Tags<'a> {
    is_raw: bool,
    hosts: &'a mut Hosts,
    time: PythonTime,
    now: f64,
}

impl Tags<'_> {
    /// The text of each failure with its tags replaced; one that has several lines and names `<msg>` once for each.
    fn replace(&mut self, format: &str, failures: &[Charged<'_>]) -> Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut last = Vec::new();
        let mut several = false;
        for failure in failures {
            let mut refused = None;
            let text = TAG.replace_all(format, |tag: &Captures<'_>| {
                if &tag[1] == "msg" {
                    several |= failure.found.lines.len() > 1;
                    return if several { MSG.to_owned() } else { whole(failure) };
                }
                match self.fill(&tag[1], failure) {
                    Filled::With(text) => text.replace('\0', "\\x00"),
                    Filled::NotATag => tag[0].to_owned(),
                    Filled::OnlyByAServer => {
                        refused.get_or_insert_with(|| tag[0].to_owned());
                        String::new()
                    }
                }
            });
            if let Some(tag) = refused {
                bail!("-o: {tag} is only known to a running server");
            }
            let data = ticket(failure);
            let text = GROUP_TAG.replace_all(&text, |tag: &Captures<'_>| {
                let group = group_of_tag(&tag[1]);
                let value = data.iter().find(|(name, _)| *name == group);
                match value {
                    None | Some((_, Value::Text(None))) => String::new(),
                    Some((_, value)) => value.text().replace('\0', "\\x00"),
                }
            });
            if several {
                last.push((failure, text.into_owned()));
            } else {
                rows.push(text.into_owned());
            }
        }
        for (failure, text) in last {
            rows.extend(failure.found.lines.iter().map(|line| text.replace(MSG, &line.whole())));
        }
        Ok(rows)
    }

    fn fill(&mut self, tag: &str, failure: &Charged<'_>) -> Filled {
        let ip = ip(failure);
        let address = if self.is_raw && is_id_only(failure) { None } else { address(&ip) };
        let known = match self.time {
            PythonTime::Unknown => PythonTime::Float(self.now),
            known => known,
        };
        Filled::With(match tag {
            "ip" => ip,
            "fid" => id(failure),
            "family" => match address {
                Some(IpAddr::V4(_)) => "inet4".into(),
                Some(IpAddr::V6(_)) => "inet6".into(),
                None => "None".into(),
            },
            "ip-rev" => address.map(|address| reversed(address, &ip)).unwrap_or_default(),
            "ip-host" => self.hosts.name(&ip).unwrap_or("None").to_owned(),
            "failures" | "bancount" | "restored" => "0".into(),
            "time" => known.repr(),
            "matches" => whole(failure),
            "raw-ticket" => format!(
                "BanTicket: ip={} time={} bantime=None bancount=0 #attempts=0 matches={}",
                id(failure),
                known.repr(),
                lines(&failure.found.lines)
            ),
            "br" => "\n".into(),
            "sp" => " ".into(),
            "bantime" | "ipmatches" | "ipjailmatches" | "ipfailures" | "ipjailfailures" => {
                return Filled::OnlyByAServer;
            }
            "jail.banned" | "jail.banned_total" | "jail.found" | "jail.found_total" => {
                return Filled::OnlyByAServer;
            }
            "F-*" => {
                let data =
                    ticket(failure).into_iter().filter(|(_, value)| !matches!(value, Value::Text(None)));
                repr_dict(data.map(|(name, value)| (name, value.repr())))
            }
            _ => return Filled::NotATag,
        })
    }
}

fn whole(failure: &Charged<'_>) -> String {
    failure.found.lines.iter().map(DatedLine::whole).collect::<Vec<_>>().join("\n")
}

/// What a tag is replaced with.
enum Filled {
    With(String),
    NotATag,
    OnlyByAServer,
}

/// Whether it is charged to a text that need not be an address.
fn is_id_only(failure: &Charged<'_>) -> bool {
    let is_address = |(name, value): &(String, Option<String>)| {
        ["ip4", "ip6"].contains(&name.as_str()) && value.as_ref().is_some_and(|value| !value.is_empty())
    };
    !failure.found.groups.iter().any(is_address)
}

/// The address, or the first one of a network.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().or_else(|_| text.parse().map(|network: IpNet| network.addr())).ok()
}

/// As in the name under which its host name is looked up: `7.2.0.192.`
fn reversed(ip: IpAddr, text: &str) -> String {
    let digits: Vec<String> = match ip {
        IpAddr::V4(_) => text.split('.').rev().map(str::to_owned).collect(),
        IpAddr::V6(v6) => nibbles(v6).collect(),
    };
    format!("{}.", digits.join("."))
}

fn nibbles(v6: Ipv6Addr) -> impl Iterator<Item = String> {
    let bits = v6.to_bits();
    (0..32).map(move |nibble| format!("{:x}", bits >> (4 * nibble) & 0xf))
}
