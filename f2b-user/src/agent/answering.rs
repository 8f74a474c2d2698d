//! What is answered to those who ask through the control socket.

use std::{
    collections::{BTreeMap, HashSet},
    time::SystemTime,
};

use anyhow::{Context as _, Result};

use super::{Agent, LeftOut};
use crate::{
    action::End,
    ban::Subject,
    config::{LogPath, LogSource},
    control::{Answer, BanInfo, Banned, BusyBan, JailStatus, Refused, Request, Status, Top},
    ticket::Ticket,
    xdp::{BanMap, Busy},
};

impl<M: BanMap> Agent<M> {
    /// Answers a request; `reload` is the loop's business.
    pub fn answer(&mut self, request: Request, now: SystemTime) -> Answer {
        let answer = match request {
            Request::Status => self.status().map(Answer::Status),
            Request::Top => self.top(),
            Request::JailStatus { jail } => self.jail_status(&jail),
            Request::Banned => self.banned(now),
            Request::JailBans { jail } => self.jail_bans(&jail),
            Request::Ban { jail, addresses } => Ok(self.ban_by_hand(&jail, &addresses, now)),
            Request::Import { bans } => Ok(self.import(bans, now)),
            Request::Unban { addresses } => Ok(self.unban_by_hand(&addresses, End::Single, now)),
            Request::UnbanAll => {
                let all = self.bans.subjects();
                Ok(self.unban_by_hand(&all, End::WithAll, now))
            }
            Request::Reload => self.reload(now).map(|warnings| Answer::Reloaded { warnings }),
        };
        answer.unwrap_or_else(|error| Answer::Error { message: format!("{error:#}") })
    }

    fn status(&self) -> Result<Status> {
        Ok(Status {
            jails: self.jails.keys().cloned().collect(),
            left_out: self.left_out_because(),
            interfaces: self.map.interfaces()?,
            banned: self.bans.len(),
            prefixes: self.bans.prefixes(),
            scopes: self.map.scopes()?,
            capacity: self.map.capacity(),
            packets: self.map.counters()?.into(),
            refused: self.refused,
            dry_run: self.dry_run,
        })
    }

    fn top(&mut self) -> Result<Answer> {
        let busy = self.map.busy()?.into_iter();
        let ban = |Busy { subject, packets, before }| {
            Some(BusyBan { ban: self.ban_info(subject, packets)?, before })
        };
        let busy = busy.filter_map(ban).collect();
        Ok(Answer::Top(Top { status: self.status()?, busy }))
    }

    /// `None`: it is not banned.
    fn ban_info(&self, address: Subject, packets: u64) -> Option<BanInfo> {
        let until = self.bans.until(address)?;
        Some(BanInfo { address, jails: self.bans.owners(address), until, packets })
    }

    fn jail_status(&self, name: &str) -> Result<Answer> {
        let jail = self.jails.get(name).with_context(|| self.no_such_jail(name))?;
        let banned = self.bans.of(name);
        let (journal_matches, files) = match &jail.settings().source {
            LogSource::Journal { matches, .. } => (matches.to_string(), Vec::new()),
            LogSource::Files { paths, .. } => {
                let files = paths.iter().flat_map(LogPath::files);
                (String::new(), files.map(|file| file.display().to_string()).collect())
            }
        };
        Ok(Answer::JailStatus(JailStatus {
            jail: name.to_owned(),
            currently_failed: jail.currently_failed(),
            total_failed: jail.total_failed(),
            journal_matches,
            files,
            over_budget: jail.over_budget(),
            currently_banned: banned.len(),
            total_banned: jail.total_banned(),
            banned,
        }))
    }

    fn jail_bans(&self, name: &str) -> Result<Answer> {
        self.jails.get(name).with_context(|| self.no_such_jail(name))?;
        let ban = |address| Some(Banned { address, until: self.bans.until_of(address, name)? });
        Ok(Answer::JailBans { bans: self.bans.of(name).into_iter().filter_map(ban).collect() })
    }

    fn banned(&self, now: SystemTime) -> Result<Answer> {
        let packets: BTreeMap<_, _> =
            self.map.bans(now)?.into_iter().map(|ban| (ban.subject, ban.packets)).collect();
        let mut bans: Vec<_> = self
            .bans
            .subjects()
            .into_iter()
            .filter_map(|subject| self.ban_info(subject, packets.get(&subject).copied().unwrap_or_default()))
            .collect();
        bans.sort_by_key(|ban| ban.until);
        Ok(Answer::Banned { bans })
    }

    fn ban_by_hand(&mut self, name: &str, subjects: &[Subject], now: SystemTime) -> Answer {
        let Some(jail) = self.jails.get(name) else {
            return Answer::Error { message: self.no_such_jail(name) };
        };
        let length = jail.length();
        let (mut banned, mut refused) = (Vec::new(), Vec::new());
        for &subject in subjects {
            let mut ticket = Ticket::by_hand(name, subject, now, length);
            let banned_until = self.bans.until_of(subject, name);
            let result = match (self.must_not_be_banned(name, subject), banned_until) {
                (Some(reason), _) => Err(reason),
                (None, Some(until)) => {
                    self.prolong(&ticket, until, now).map_err(|error| format!("{error:#}"))
                }
                (None, None) => self.ban(&mut ticket, now).map_err(|error| format!("{error:#}")),
            };
            match result {
                Ok(()) => {
                    let until = self.bans.until_of(subject, name).unwrap_or_else(|| ticket.until());
                    banned.push(Banned { address: subject, until });
                }
                Err(reason) => refused.push(Refused { address: subject, reason }),
            }
        }
        Answer::BanDone { banned, refused }
    }

    /// Why `jail` may not ban `subject`, if so.
    pub(super) fn must_not_be_banned(&self, jail: &str, subject: Subject) -> Option<String> {
        let jail = self.jails.get(jail)?;
        if let Some(address) = subject.address() {
            if self.own.allows(address) {
                return Some("f2b.conf allows it".into());
            }
            return jail.ignores(address, &self.own_addresses).map(|reason| reason.to_string());
        }
        // The allow list keeps these free in the middle of a banned prefix. Of all others, the kernel knows nothing.
        let everywhere = self.ignored_everywhere();
        let net = subject.net();
        let ignored = jail.settings().ignoreip.iter().chain(jail.also_ignored()).find(|ignored| {
            (net.contains(*ignored) || ignored.contains(&net)) && !everywhere.contains(ignored)
        })?;
        Some(format!(
            "{ignored} is in it or around it, which this jail ignores and not every jail; \
             put it into ignoreip of [DEFAULT], or into allow of f2b.local"
        ))
    }

    fn unban_by_hand(&mut self, subjects: &[Subject], end: End, now: SystemTime) -> Answer {
        let (mut freed, mut bans) = (Vec::new(), Vec::new());
        for subject in unique(subjects) {
            let owners = self.bans.owners(subject);
            if !owners.is_empty() {
                freed.push(subject);
            }
            bans.extend(owners.into_iter().map(|owner| (owner, subject)));
        }
        for (owner, subject) in &bans {
            if let (Some(jail), Some(ip)) = (self.jails.get_mut(owner), subject.address()) {
                jail.forget(ip);
            }
            self.history.remove(owner, *subject);
            self.store.unban(owner, *subject);
        }
        self.unban(bans, end, now);
        // Without it, an agent that starts now would count the failures behind these bans anew.
        self.store_positions(now);
        Answer::Unbanned { addresses: freed }
    }

    pub(super) fn no_such_jail(&self, name: &str) -> String {
        if let Some(LeftOut { why, .. }) = self.left_out.get(name) {
            return why.clone();
        }
        let known = self.jails.keys().cloned().collect::<Vec<_>>().join(", ");
        format!("there is no jail {name}; there are: {known}")
    }
}

/// Each of `subjects` once, in their order.
fn unique(subjects: &[Subject]) -> impl Iterator<Item = Subject> {
    let mut seen = HashSet::new();
    subjects.iter().copied().filter(move |subject| seen.insert(*subject))
}
