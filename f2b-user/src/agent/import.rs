//! Bans that somebody else has made become the agent's; and all of its bans become the store's.

use std::time::SystemTime;

use super::Agent;
use crate::{
    action::Actions,
    ban::KERNEL,
    control::{Answer, Refused},
    history::Past,
    import::Imported,
    log::event,
    store::{Evidence, StoredBan},
    ticket::{Length, Ticket},
    xdp::BanMap,
};

impl<M: BanMap> Agent<M> {
    /// Takes over bans with what is left of their time. Those that are over only count.
    pub(super) fn import(&mut self, bans: Vec<Imported>, now: SystemTime) -> Answer {
        let (mut imported, mut ended, mut refused) = (0, 0, Vec::new());
        for ban in bans {
            match self.import_one(&ban, now) {
                Ok(true) => imported += 1,
                Ok(false) => ended += 1,
                Err(reason) => refused.push(Refused { address: ban.address, reason }),
            }
        }
        tracing::info!(imported, ended, refused = refused.len(), "Took over bans");
        Answer::Imported { imported, ended, refused }
    }

    /// Whether it holds now.
    fn import_one(&mut self, ban: &Imported, now: SystemTime) -> Result<bool, String> {
        let Some(jail) = self.jails.get(&ban.jail) else { return Err(self.no_such_jail(&ban.jail)) };
        let bantime = match jail.length() {
            Length::For(seconds) => Some(seconds),
            Length::Forever => None,
        };
        let is_counted = jail.settings().increment.is_some();
        let until = ban.until(bantime);
        let started = crate::source::time(ban.started);
        let holds = !until.is_over(now);
        if holds && let Some(reason) = self.must_not_be_banned(&ban.jail, ban.address) {
            return Err(reason);
        }
        // What is known here already is newer.
        let known = self.bans.until_of(ban.address, &ban.jail);
        if known.is_some_and(|known| known >= until) {
            return Ok(true);
        }
        if holds {
            let ticket = Ticket::by_hand(&ban.jail, ban.address, started, Length::Forever);
            self.enforce(&ticket, until, now).map_err(|error| format!("{error:#}"))?;
        }
        if is_counted {
            self.history.add(&ban.jail, ban.address, Past { count: ban.bancount, time: started }, until);
        }
        let stored = StoredBan {
            owner: ban.jail.as_str().into(),
            subject: ban.address,
            until,
            started,
            bancount: ban.bancount,
        };
        if holds {
            event::restored(&ban.jail, ban.address, until);
            self.act(&ban.jail, || stored.ticket(Evidence::default()), Actions::ban);
        }
        self.store.add(stored);
        Ok(holds)
    }

    /// Tells the store everything, after it has lost something.
    pub(super) fn store_all(&mut self, now: SystemTime) {
        let bans = self.bans.iter().filter(|(_, owner, _)| !owner.starts_with(KERNEL));
        let stored = bans.map(|(subject, owner, until)| {
            let past = self.history.of(owner, subject);
            StoredBan {
                owner: owner.into(),
                subject,
                until,
                started: past.map_or(now, |past| past.time),
                bancount: past.map_or(1, |past| past.count),
            }
        });
        self.store.all(stored.collect(), now);
        self.positions.values_mut().for_each(|position| position.is_stored = false);
    }
}
