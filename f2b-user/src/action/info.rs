//! What an action is told about a ban: fail2ban's tags (`server/actions.py`, `ActionInfo`).

use std::{
    borrow::Cow,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use crate::{
    config::Family,
    filter::python::repr,
    store::Merged,
    ticket::{Length, Ticket},
};

/// A ban, as its actions see it.
#[derive(Clone, Debug)]
pub struct Info {
    /// The ban; none for what concerns the action as a whole, as its start.
    pub ticket: Option<Ticket>,
    /// The jail's name and numbers.
    pub jail: JailInfo,
    /// All bans of the address taken together; without a memory of them, this one.
    pub in_all_jails: Option<Merged>,
    pub in_this_jail: Option<Merged>,
    /// Decides which command is meant.
    pub family: Family,
    /// Now, for what has no ban.
    pub now: SystemTime,
    /// `<ip-host>`, where a command asks for it.
    pub host: Option<String>,
}

/// `<jail.…>`
#[derive(Clone, Debug, Default)]
pub struct JailInfo {
    pub name: String,
    /// Its `bantime`, for what has no ban.
    pub bantime: Option<Duration>,
    pub banned: usize,
    pub banned_total: u64,
    pub found: usize,
    pub found_total: u64,
}

impl JailInfo {
    /// How long its bans last.
    pub fn length(&self) -> Length {
        self.bantime.map_or(Length::Forever, |bantime| Length::For(bantime.as_secs_f64()))
    }
}

impl Info {
    /// Of a ban.
    pub fn of(ticket: Ticket, jail: JailInfo) -> Self {
        let family = match ticket.subject.net().addr() {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        Self { ticket: Some(ticket), family, ..Self::without_ban(jail, family, SystemTime::now()) }
    }

    /// Of no ban.
    pub fn without_ban(jail: JailInfo, family: Family, now: SystemTime) -> Self {
        Self { ticket: None, jail, in_all_jails: None, in_this_jail: None, family, now, host: None }
    }

    /// How many bytes it takes, about.
    pub fn size(&self) -> usize {
        let lines = |merged: &Option<Merged>| {
            merged.iter().flat_map(|merged| &merged.matches).map(|line| line.len() + 24).sum::<usize>()
        };
        let ticket = self.ticket.iter().map(|ticket| {
            let fields = ticket.fields.iter().map(|(name, value)| name.len() + value.len() + 48);
            ticket.matches.iter().map(|line| line.len() + 24).chain(fields).sum::<usize>()
        });
        size_of::<Self>() + ticket.sum::<usize>() + lines(&self.in_all_jails) + lines(&self.in_this_jail)
    }

    /// Whom it is about, for messages.
    pub fn id(&self) -> &str {
        self.ticket.as_ref().map_or("", |ticket| &ticket.fid)
    }

    /// What stands for `<tag>`, if the ban knows the tag.
    pub fn value(&self, tag: &str) -> Option<Cow<'_, str>> {
        let ticket = self.ticket.as_ref();
        let text = |text: String| Some(Cow::Owned(text));
        match tag {
            "ip" => text(ticket.map(|ticket| ticket.subject.to_string()).unwrap_or_default()),
            "family" => Some(self.family.name().into()),
            "ip-rev" => text(ticket.map(reverse).unwrap_or_default()),
            "ip-host" => Some(self.host.as_deref().unwrap_or("None").into()),
            "fid" => Some(self.id().into()),
            "failures" => text(self.failures().to_string()),
            "time" => text(python_float(ticket.map_or(self.now, |ticket| ticket.time))),
            "bantime" => text(self.bantime()),
            "bancount" => text(ticket.map_or(0, |ticket| ticket.bancount).to_string()),
            "matches" => text(self.matches().join("\n")),
            "restored" => Some(if ticket.is_some_and(|ticket| ticket.restored) { "1" } else { "0" }.into()),
            "ipmatches" => text(self.merged(&self.in_all_jails).1.join("\n")),
            "ipjailmatches" => text(self.merged(&self.in_this_jail).1.join("\n")),
            "ipfailures" => text(self.merged(&self.in_all_jails).0.to_string()),
            "ipjailfailures" => text(self.merged(&self.in_this_jail).0.to_string()),
            "raw-ticket" => text(self.raw()),
            "F-*" => text(self.fields()),
            "jail.name" => Some(self.jail.name.as_str().into()),
            "jail.banned" => text(self.jail.banned.to_string()),
            "jail.banned_total" => text(self.jail.banned_total.to_string()),
            "jail.found" => text(self.jail.found.to_string()),
            "jail.found_total" => text(self.jail.found_total.to_string()),
            _ => None,
        }
    }

    /// What stands for `<F-NAME>`: what a group of the filter's expression caught.
    pub fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        match name {
            "matches" => Some(list(self.matches()).into()),
            "failures" => Some(self.failures().to_string().into()),
            _ => {
                let fields = &self.ticket.as_ref()?.fields;
                fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str().into())
            }
        }
    }

    /// As it is named in the log when an action fails.
    pub fn repr(&self) -> String {
        format!("ActionInfo({{'fid': {}, 'raw-ticket': {}}})", repr(self.id()), repr(&self.raw()))
    }

    fn matches(&self) -> &[String] {
        self.ticket.as_ref().map_or(&[], |ticket| &ticket.matches)
    }

    fn failures(&self) -> u32 {
        self.ticket.as_ref().map_or(0, |ticket| ticket.failures)
    }

    fn merged<'a>(&'a self, merged: &'a Option<Merged>) -> (u32, &'a [String]) {
        let own = || (self.failures(), self.matches());
        merged.as_ref().map_or_else(own, |merged| (merged.failures, &merged.matches))
    }

    /// In whole seconds.
    fn bantime(&self) -> String {
        match (&self.ticket, self.jail.bantime) {
            (Some(Ticket { bantime: Length::For(seconds), .. }), _) => format!("{:.0}", seconds.trunc()),
            (None, Some(bantime)) => bantime.as_secs().to_string(),
            (Some(_), _) | (None, None) => "-1".into(),
        }
    }

    /// As Python writes it.
    fn raw(&self) -> String {
        let (time, bancount) =
            self.ticket.as_ref().map_or((self.now, 0), |ticket| (ticket.time, ticket.bancount));
        let bantime = if self.ticket.is_some() { self.bantime() } else { "None".into() };
        format!(
            "BanTicket: ip={} time={} bantime={bantime} bancount={bancount} #attempts={} matches={}",
            self.id(),
            python_float(time),
            self.failures(),
            list(self.matches())
        )
    }

    fn fields(&self) -> String {
        let own = [("matches", list(self.matches())), ("failures", self.failures().to_string())];
        let others = self.ticket.iter().flat_map(|ticket| &ticket.fields);
        let others = others.map(|(name, value)| (name.as_str(), repr(value)));
        let all: Vec<_> =
            own.into_iter().chain(others).map(|(name, value)| format!("{}: {value}", repr(name))).collect();
        format!("{{{}}}", all.join(", "))
    }
}

/// A list of texts as Python writes it.
fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| repr(text)).collect::<Vec<_>>().join(", "))
}

/// Seconds since 1970 as Python writes them.
fn python_float(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    format!("{seconds:?}")
}

/// As in names for reverse look-ups, with a dot at the end (`IPAddr.getPTR`).
fn reverse(ticket: &Ticket) -> String {
    match ticket.subject.net().addr() {
        IpAddr::V4(_) => {
            let parts = ticket.subject.to_string();
            parts.split('.').rev().map(|part| format!("{part}.")).collect()
        }
        IpAddr::V6(v6) => {
            format!("{:032x}", v6.to_bits()).chars().rev().map(|digit| format!("{digit}.")).collect()
        }
    }
}
