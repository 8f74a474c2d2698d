//! What is done with bans: the kernel map follows the ban set, the store remembers, actions are told. In this order.

use std::{collections::BTreeMap, time::SystemTime};

use anyhow::Result;
use tracing::error;

use super::{Agent, SAME_END};
use crate::{
    action::{Actions, End, Info, JailInfo},
    ban::{Change, KERNEL, Steps, Subject, Until},
    config::BanTime,
    history::Past,
    jail::Jail,
    log::event,
    store::StoredBan,
    ticket::{Length, Ticket},
    xdp::BanMap,
};

impl<M: BanMap> Agent<M> {
    /// Has every jail's actions be those of its settings.
    pub(super) fn set_actions(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for (name, jail) in &self.jails {
            let ticket = |subject| self.ticket_at(name, subject, SystemTime::now());
            let bans = || self.bans.of(name).into_iter().map(ticket).collect();
            actions.jail(self.jail_info(name), &jail.settings().actions, bans);
        }
        self.actions = actions;
    }

    /// Has the actions of a jail do something about a ban, if it has any.
    pub(super) fn act(&self, jail: &str, ticket: impl FnOnce() -> Ticket, what: impl FnOnce(&Actions, Info)) {
        if let Some(needs) = self.actions.of(jail) {
            let jail = if needs.numbers { self.jail_info(jail) } else { self.jail_name(jail) };
            what(&self.actions, Info::of(ticket(), jail));
        }
    }

    fn jail_name(&self, name: &str) -> JailInfo {
        let bantime = self.jails.get(name).and_then(|jail| match jail.settings().bantime {
            BanTime::For(bantime) => Some(bantime),
            BanTime::Forever => None,
        });
        JailInfo { name: name.to_owned(), bantime, ..JailInfo::default() }
    }

    pub(super) fn jail_info(&self, name: &str) -> JailInfo {
        let Some(jail) = self.jails.get(name) else { return self.jail_name(name) };
        JailInfo {
            banned: self.bans.of(name).len(),
            banned_total: jail.total_banned(),
            found: jail.currently_failed(),
            found_total: jail.total_failed(),
            ..self.jail_name(name)
        }
    }

    /// What is known of a ban without its history.
    pub(super) fn ticket_at(&self, owner: &str, subject: Subject, time: SystemTime) -> Ticket {
        let length = self.jails.get(owner).map_or(Length::Forever, Jail::length);
        Ticket::by_hand(owner, subject, time, length)
    }

    /// Bans as `ticket` says, and longer if the address is a known offender.
    pub(super) fn ban(&mut self, ticket: &mut Ticket, now: SystemTime) -> Result<()> {
        let Some(jail) = self.jails.get(&ticket.jail) else { return Ok(()) };
        let subject = ticket.subject;
        let past = jail.past(subject, &self.history);
        if let Err(wrong) = jail.sentence(ticket, &self.history, &mut fastrand::f64) {
            error!(jail = ticket.jail, ip = %subject, "Its ban time is not increased: {wrong}");
        }
        let until = ticket.until();
        let is_increased = ticket.bantime != jail.length();
        let is_counted = jail.settings().increment.is_some();
        self.enforce(ticket, until, now)?;
        if let Some(jail) = self.jails.get_mut(&ticket.jail) {
            jail.banned();
        }
        event::banned(&ticket.jail, subject, until);
        // One that was read twice is no second one (`incrBanTime`).
        if past.is_none_or(|past| ticket.time > past.time) {
            if is_counted {
                let past = Past { count: ticket.bancount, time: ticket.time };
                self.history.add(&ticket.jail, subject, past, until);
            }
            self.store.ban(ticket);
        }
        self.act(&ticket.jail, || ticket.clone(), Actions::ban);
        if is_increased {
            event::increased(ticket);
            self.act(&ticket.jail, || ticket.clone(), Actions::prolong);
        }
        Ok(())
    }

    /// Somebody is banned already, until `until`, and has failed often enough again: the ban lasts as long as a new one
    /// would (`BanManager.addBanTicket`).
    pub(super) fn prolong(&mut self, ticket: &Ticket, until: Until, now: SystemTime) -> Result<()> {
        let later = ticket.until();
        event::already_banned(&ticket.jail, ticket.subject, later.since(until).as_secs_f64());
        if later <= until {
            return Ok(());
        }
        self.enforce(ticket, later, now)?;
        let past = self.history.of(&ticket.jail, ticket.subject);
        if let Some(past) = past {
            self.history.add(&ticket.jail, ticket.subject, past, later);
        }
        self.store.add(StoredBan {
            owner: ticket.jail.as_str().into(),
            subject: ticket.subject,
            until: later,
            started: past.map_or(ticket.time, |past| past.time),
            bancount: past.map_or(1, |past| past.count),
        });
        self.act(&ticket.jail, || ticket.clone(), Actions::prolong);
        Ok(())
    }

    /// Has ban set and kernel hold the ban until then, or leaves both as they were.
    pub(super) fn enforce(&mut self, ticket: &Ticket, until: Until, now: SystemTime) -> Result<()> {
        let (jail, subject) = (ticket.jail.as_str(), ticket.subject);
        let before =
            self.bans.until_of(subject, jail).map(|until| (until, self.bans.scopes_of(subject, jail)));
        let changes = self.bans.add(subject, jail, until, self.scopes.get(jail).copied().unwrap_or_default());
        let Err(error) = self.apply(changes, now) else {
            self.take_over_from_kernel(subject, jail, now);
            return Ok(());
        };
        self.refused += 1;
        // What the kernel does not hold is not banned, whatever the agent would like.
        let undone = match before {
            Some((until, scopes)) => self.bans.add(subject, jail, until, scopes),
            None => self.bans.remove(subject, jail),
        };
        if let Err(error) = self.apply(undone, now) {
            error!(jail, ip = %subject, "The kernel may hold a part of the ban: {error:#}");
        }
        Err(error)
    }

    /// A ban that was found in the kernel alone is the jail's if the jail makes the same: an agent before this one was
    /// killed before it was stored.
    fn take_over_from_kernel(&mut self, subject: Subject, jail: &str, now: SystemTime) {
        let Some(adopted) = self.bans.until_of(subject, KERNEL) else { return };
        let covers_more = self.bans.scopes_of(subject, KERNEL) & !self.bans.scopes_of(subject, jail) != 0;
        let is_shorter = |own: Until| adopted.is_later(own, SAME_END);
        if covers_more || self.bans.until_of(subject, jail).is_none_or(is_shorter) {
            return;
        }
        let changes = self.bans.remove(subject, KERNEL).into_iter().collect();
        self.carry_out(changes, now, "The kernel keeps the ban as it was");
    }

    /// Ends the bans of these owners and subjects.
    pub(super) fn unban(&mut self, bans: Vec<(String, Subject)>, end: End, now: SystemTime) {
        // What a subject comes to in the end counts.
        let mut changes = BTreeMap::new();
        for (owner, subject) in &bans {
            changes.extend(self.bans.remove(*subject, owner));
        }
        self.unbanned(&bans, changes, end, now);
    }

    fn unbanned(
        &mut self,
        bans: &[(String, Subject)],
        changes: BTreeMap<Subject, Steps>,
        end: End,
        now: SystemTime,
    ) {
        self.carry_out(changes, now, "The kernel keeps the ban");
        if end == End::WithAll {
            self.flush(bans, now);
        }
        for (owner, subject) in bans {
            event::unbanned(owner, *subject);
            if end != End::WithAll || self.actions.of(owner).is_some_and(|needs| needs.each_end) {
                let ticket = || self.ticket_at(owner, *subject, now);
                self.act(owner, ticket, |actions, info| actions.unban(end, info));
            }
        }
    }

    /// Tells actions that can undo everything at once that these, all bans of their jails, end.
    fn flush(&self, bans: &[(String, Subject)], now: SystemTime) {
        let mut by_owner = BTreeMap::<_, Vec<_>>::new();
        for (owner, subject) in bans.iter().filter(|(owner, _)| self.actions.of(owner).is_some()) {
            by_owner.entry(owner).or_default().push(*subject);
        }
        for (owner, subjects) in by_owner {
            self.actions.flush(self.jail_info(owner), subjects, now);
        }
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>, now: SystemTime) -> Result<()> {
        let refused = self.map.set_all(changes, now)?;
        refused.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Has the kernel follow, and logs as an error, in these words, where it does not.
    pub(super) fn carry_out(&mut self, changes: BTreeMap<Subject, Steps>, now: SystemTime, failure: &str) {
        match self.map.set_all(changes, now) {
            Ok(refused) => {
                for (subject, error) in refused {
                    error!(ip = %subject, "{failure}: {error:#}");
                }
            }
            Err(error) => error!("{failure}: {error:#}"),
        }
    }

    /// Ends the bans that are over.
    pub fn expire(&mut self, now: SystemTime) {
        let (mut ended, mut changes) = (Vec::new(), BTreeMap::new());
        while let Some((subject, owner, changed)) = self.bans.expire_one(now) {
            changes.extend(changed);
            ended.push((owner, subject));
        }
        if !ended.is_empty() {
            self.store.ended(now);
        }
        self.unbanned(&ended, changes, End::Single, now);
    }

    /// When the next ban ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.bans.next_end()
    }
}
