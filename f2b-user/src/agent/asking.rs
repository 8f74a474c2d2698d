//! Failures that must wait for an answer before they count, and what the answers lead to.

use std::{net::IpAddr, time::SystemTime};

use tracing::{debug, warn};

use super::Agent;
use crate::{
    ask::{self, Known, Settled, Waiting},
    filter::Failure,
    log::event,
    xdp::BanMap,
};

impl<M: BanMap> Agent<M> {
    /// Charges the addresses of a host name.
    pub(super) fn resolved(&mut self, waiting: Waiting, addresses: &[IpAddr], now: SystemTime) {
        let warns = self.jails.get(&waiting.jail).is_some_and(|jail| jail.settings().warns_of_dns);
        if warns && !addresses.is_empty() {
            warn!(
                jail = waiting.jail,
                "Determined IP using DNS Lookup: {} = {addresses:?}", waiting.failure.fid
            );
        }
        for &ip in addresses {
            let failure = Failure { fid: ip.to_string(), ip: Some(ip), ..waiting.failure.clone() };
            self.check(Waiting { failure, ..waiting.clone() }, ip, now);
        }
    }

    /// Charges a failure unless it is ignored (`Filter.inIgnoreIPList`).
    pub(super) fn check(&mut self, waiting: Waiting, ip: IpAddr, now: SystemTime) {
        let Some(jail) = self.jails.get(&waiting.jail) else { return };
        let ignore = &jail.settings().ignore;
        let asks = ignore.command.is_some()
            || ignore.cache.is_some()
            || !ignore.names.is_empty()
            || !ignore.files.is_empty();
        // What was decided on before adds up to no ban, and is not asked for again.
        if !asks || waiting.replayed || jail.is_too_old(waiting.time, now) {
            return self.charge(&waiting, ip, now);
        }
        if jail.ignores(ip, &self.own_addresses).is_some() {
            self.questions.remember(ignore, &waiting, ip, true, now);
            return self.charge(&waiting, ip, now);
        }
        match self.questions.check(ignore, waiting, ip, now) {
            Known::Now(true, waiting) => debug!(jail = waiting.jail, %ip, "Ignored as before"),
            Known::Now(false, waiting) => self.charge(&waiting, ip, now),
            Known::Later => {}
        }
    }

    /// Goes on with the failures that have waited for this answer.
    pub fn answered(&mut self, answer: ask::Answer, now: SystemTime) {
        match self.questions.settle(answer, now) {
            Settled::Resolved(all, addresses) => {
                all.into_iter().for_each(|waiting| self.resolved(waiting, &addresses, now));
            }
            Settled::Checked(all, is_ignored) => {
                for waiting in all {
                    let (Some(ip), Some(jail)) = (waiting.failure.ip, self.jails.get(&waiting.jail)) else {
                        continue;
                    };
                    self.questions.remember(&jail.settings().ignore, &waiting, ip, is_ignored, now);
                    if is_ignored {
                        event::ignored(&waiting.jail, ip, "command", "ignorecommand says so");
                    } else {
                        self.charge(&waiting, ip, now);
                    }
                }
            }
            Settled::Ignored { jail: name, nets, problems, waiting } => {
                for problem in problems {
                    warn!(jail = name, "ignoreip: {problem}");
                }
                if let Some(jail) = self.jails.get_mut(&name)
                    && (!jail.knows_all_ignored() || jail.also_ignored() != nets)
                {
                    jail.also_ignore(nets);
                    self.allow_everywhere_ignored();
                }
                for waiting in waiting {
                    if let Some(ip) = waiting.failure.ip {
                        self.check(waiting, ip, now);
                    }
                }
            }
        }
    }

    /// Asks who stands behind the names and files of `ignoreip`.
    pub(super) fn refresh_ignored(&mut self) {
        for jail in self.jails.values() {
            let before = jail.also_ignored().to_vec();
            self.questions.refresh(jail.settings(), before, !jail.knows_all_ignored());
        }
    }
}
