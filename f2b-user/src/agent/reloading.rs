//! Settings: what they come to in the kernel, and other ones while the agent runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{Agent, LeftOut};
use crate::{
    action::End,
    ban::{KERNEL, Scopes, Subject},
    config::Config,
    history::History,
    jail::Jail,
    xdp::BanMap,
};

impl<M: BanMap> Agent<M> {
    /// Reads the configuration again. Jails that stay keep what they counted and banned; those that go end their bans.
    ///
    /// # Errors
    /// The configuration cannot be read: then everything stays as it was.
    pub(super) fn reload(&mut self, now: SystemTime) -> Result<Vec<String>> {
        let config = Config::load(self.config_dir.as_deref())
            .inspect_err(|error| error!("Not reloaded, the settings stay as they were: {error:#}"))?;
        self.left_out.clear();
        let mut old = std::mem::take(&mut self.jails);
        for settings in config.jails {
            let name = settings.name.clone();
            let jail = match old.remove(&name) {
                Some(mut jail) => {
                    jail.reconfigure(settings, now);
                    jail
                }
                None => Jail::new(settings, now),
            };
            self.jails.insert(name, jail);
        }
        // First, so that their ports make room for others.
        self.unban(self.owners_without_jail(), End::Single, now);
        self.number_scopes(self.bans.scopes());
        if !self.left_out.is_empty() {
            // There may be room once bans let go of ports that are not their jails' any more, also those that get no others
            // yet.
            self.scopes.extend(self.left_out.keys().map(|name| (name.clone(), 0)));
            self.rescope(now);
            self.number_scopes(self.bans.scopes());
            self.unban(self.owners_without_jail(), End::Single, now);
        }
        self.tell_of_scopes();
        self.questions.forget(config.allows_ipv6);
        if !self.goes_by_history() {
            self.history = History::default();
        } else if self.history.is_empty() {
            self.history = self.past_bans(now);
        }
        for name in old.keys() {
            self.actions.remove(name);
        }
        self.set_actions();
        self.rescope(now);
        if config.own.at_start() != self.own.at_start() {
            warn!("interfaces, mode, max_bans and log_drops of f2b.conf take effect at the next start");
        }
        self.own = config.own;
        self.allow_everywhere_ignored();
        info!(jails = self.jails.len(), origin = config.origin, "Reloaded");
        for warning in &config.warnings {
            warn!("{warning}");
        }
        Ok([config.warnings, self.left_out_because()].concat())
    }

    /// The bans of jails that are gone.
    fn owners_without_jail(&self) -> Vec<(String, Subject)> {
        let gone = self
            .bans
            .iter()
            .filter(|(_, owner, _)| !owner.starts_with(KERNEL) && !self.jails.contains_key(*owner));
        gone.map(|(subject, owner, _)| (owner.to_owned(), subject)).collect()
    }

    /// Has every ban cover what its jail's bans cover now.
    pub(super) fn rescope(&mut self, now: SystemTime) {
        let bans: Vec<_> =
            self.bans.iter().map(|(subject, owner, until)| (subject, owner.to_owned(), until)).collect();
        let mut changes = BTreeMap::new();
        for (subject, owner, until) in bans {
            let Some(scopes) = self.scopes.get(&owner).copied() else { continue };
            if scopes != self.bans.scopes_of(subject, &owner) {
                changes.extend(self.bans.add(subject, &owner, until, scopes));
            }
        }
        self.carry_out(changes, now, "The ban keeps its old ports");
    }

    /// Gives the jails' scopes their numbers in the kernel; `in_use` are those that bans have there. A jail whose ports
    /// find no number is left out: better no ban than one of other ports.
    pub(super) fn number_scopes(&mut self, mut in_use: Scopes) {
        let again = std::mem::take(&mut self.left_out).into_iter();
        self.jails.extend(again.map(|(name, LeftOut { jail, .. })| (name, jail)));
        self.scopes.clear();
        for (name, jail) in std::mem::take(&mut self.jails) {
            match self.number_scopes_of(&jail, in_use) {
                Ok(scopes) => {
                    in_use |= scopes;
                    self.scopes.insert(name.clone(), scopes);
                    self.jails.insert(name, jail);
                }
                Err(error) => {
                    let why = format!("jail {name} is left out: its ports {error:#}");
                    self.left_out.insert(name, LeftOut { jail, why });
                }
            }
        }
    }

    fn number_scopes_of(&mut self, jail: &Jail, in_use: Scopes) -> Result<Scopes> {
        let mut scopes = 0;
        for scope in &jail.settings().scopes {
            let number = self.map.scope(scope, in_use | scopes).with_context(|| format!("({scope})"))?;
            scopes |= 1 << number;
        }
        Ok(scopes)
    }

    /// Logs what the scopes have come to.
    pub(super) fn tell_of_scopes(&self) {
        for (jail, _) in self.scopes.iter().filter(|(_, scopes)| **scopes == 0) {
            info!(jail, "No firewall action: its bans are listed, and drop nothing");
        }
        for LeftOut { why, .. } in self.left_out.values() {
            error!("{why}");
        }
    }

    pub(super) fn left_out_because(&self) -> Vec<String> {
        self.left_out.values().map(|LeftOut { why, .. }| why.clone()).collect()
    }

    /// Puts into the kernel's allow list what every jail ignores, and what `f2b.conf` allows. What only some jails
    /// ignore, others may ban.
    pub(super) fn allow_everywhere_ignored(&mut self) {
        let mut nets = self.own.allow.clone();
        nets.extend(self.ignored_everywhere());
        if let Err(error) = self.map.allow(&nets) {
            error!("The allow list in the kernel is not complete: {error:#}");
        }
    }

    pub(super) fn ignored_everywhere(&self) -> Vec<IpNet> {
        let lists = self.jails.values().map(|jail| {
            jail.settings().ignoreip.iter().chain(jail.also_ignored()).copied().collect::<BTreeSet<_>>()
        });
        lists.reduce(|all, list| &all & &list).into_iter().flatten().collect()
    }
}
