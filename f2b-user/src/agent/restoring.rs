//! The bans of the agent before, at a start.

use std::{
    iter::repeat_with,
    time::{Instant, SystemTime},
};

use anyhow::Result;
use tracing::{error, info};

use super::{Agent, SAME_END, SourcePosition};
use crate::{
    action::{Actions, End, Info},
    ban::{KERNEL, Step, Subject, squeeze},
    history::History,
    log::event,
    store::{Evidence, Stored, StoredBan},
    xdp::BanMap,
};

/// How many of the bans that are put back are logged one by one.
const RESTORED_IN_LOG: usize = 10_000;
/// Of how many bans it is read at once what led to them.
const TOLD_AT_ONCE: usize = 1000;

impl<M: BanMap> Agent<M> {
    /// Brings ban set, store and kernel map together after a start. A ban that any of them still holds is held; one
    /// that the map lost (a reboot) is put back, one that only the map has (the store failed) is adopted.
    pub fn restore(&mut self, now: SystemTime) -> Result<()> {
        // With a million bans it takes seconds. The kernel's clock is read when it is written to and read from, so that
        // ends that are told by the clock as it was would be late by these.
        let begun = Instant::now();
        let at = || now + begun.elapsed();
        let Stored { bans: stored_bans, ended, positions } = self.store.take_stored();
        let stored = |(source, text)| (source, SourcePosition { text, is_stored: true });
        self.positions = positions.into_iter().map(stored).collect();
        if self.goes_by_history() {
            self.history = self.past_bans(now);
        }
        self.resume();
        let mut in_kernel = Vec::new();
        let mut in_use = 0;
        let mut over = Vec::new();
        for mut ban in self.map.bans(at())? {
            ban.steps.retain(|step| !step.until.is_over(now));
            if ban.steps.is_empty() {
                over.push((ban.subject, ban.steps));
            } else {
                in_use |= ban.steps.iter().fold(0, |scopes, step| scopes | step.scopes);
                in_kernel.push((ban.subject, ban.steps));
            }
        }
        let held_by_kernel = in_kernel.len();
        in_kernel.sort_unstable_by_key(|(subject, _)| *subject);
        self.apply(over, at())?;
        self.number_scopes(in_use);
        self.tell_of_scopes();
        let told = |ban: &&StoredBan| self.actions.of(&ban.owner).is_some();
        let told: Vec<_> = stored_bans.iter().filter(told).cloned().collect();
        // Of a jail that is gone, nobody knows the ports. What the kernel has of it goes on below.
        let known = stored_bans.iter().filter_map(|ban| {
            let scopes = self.scopes.get(&*ban.owner)?;
            Some((ban.subject, &*ban.owner, ban.until, *scopes))
        });
        self.bans.insert_all(known);
        drop(stored_bans);
        let mut adopted = 0;
        // Wider prefixes first: what is in them includes them.
        for (subject, steps) in &in_kernel {
            for (n, step) in self.bans.unexplained(*subject, steps, SAME_END).into_iter().enumerate() {
                let owner = if n == 0 { KERNEL.to_owned() } else { format!("{KERNEL} {}", n + 1) };
                self.bans.add(*subject, &owner, step.until, step.scopes);
                adopted += 1;
            }
        }
        let bans = &self.bans;
        let (mut put_back, mut held) = (Vec::new(), in_kernel.iter().peekable());
        let missing = bans.subjects().into_iter().filter_map(|subject| {
            let steps = bans.steps(subject);
            // Both are in order. What a prefix bans anyway, the kernel may have besides.
            while held.next_if(|(held, _)| *held < subject).is_some() {}
            let held = held.next_if(|(held, _)| *held == subject).map(|(_, steps)| steps.as_slice());
            let held = held.unwrap_or_default();
            let is_missing = !is_same(held, &squeeze(steps.clone(), f2b_ebpf::SLOTS));
            is_missing.then(|| {
                put_back.push(subject);
                (subject, steps)
            })
        });
        let refused = self.map.set_all(missing, at())?;
        for (subject, error) in &refused {
            let subject = *subject;
            self.refused += 1;
            error!(ip = %subject, "Not restored: {error:#}");
            // It stays in the store: the next start may have room for it.
            for owner in self.bans.owners(subject) {
                self.bans.remove(subject, &owner);
            }
        }
        self.allow_everywhere_ignored();
        self.tell_of_restored(&put_back, &told);
        self.tell_of_ended(ended, now);
        drop((in_kernel, told));
        give_back_memory();
        if !self.bans.is_empty() {
            info!(
                bans = self.bans.len(),
                in_kernel = held_by_kernel,
                put_back = put_back.len() - refused.len(),
                unrecorded = adopted,
                "Bans of the agent before go on"
            );
        }
        Ok(())
    }

    /// Goes on from what an agent before had counted when it stopped. Of one that was killed, it is counted again.
    fn resume(&mut self) {
        for part in self.store.take_counted() {
            match part {
                Ok((name, counted)) => {
                    if let Some(jail) = self.jails.get_mut(&name) {
                        jail.resume(&counted);
                    }
                }
                Err(error) => error!("It is not known what was counted before: {error:#}"),
            }
        }
    }

    /// Logs the bans that are put back, as many as anybody would read, and tells the actions of those that go on.
    fn tell_of_restored(&self, put_back: &[Subject], told: &[StoredBan]) {
        for subject in put_back.iter().take(RESTORED_IN_LOG) {
            for owner in self.bans.owners(*subject) {
                if let Some(until) = self.bans.until_of(*subject, &owner) {
                    event::restored(&owner, *subject, until);
                }
            }
        }
        let holds = |ban: &&StoredBan| self.bans.until_of(ban.subject, &ban.owner).is_some();
        let told: Vec<_> = told.iter().filter(holds).cloned().collect();
        self.tell(&told, Actions::ban);
    }

    /// Tells actions of the bans that have ended while no agent ran, unless a new one has begun.
    fn tell_of_ended(&self, ended: Vec<StoredBan>, now: SystemTime) {
        let is_told = |ban: &StoredBan| {
            self.actions.of(&ban.owner).is_some() && self.bans.until_of(ban.subject, &ban.owner).is_none()
        };
        let told: Vec<_> = ended.into_iter().filter(is_told).collect();
        told.iter().for_each(|ban| event::unbanned(&ban.owner, ban.subject));
        self.tell(&told, |actions, info| actions.unban(End::Unseen, info));
        self.store.ended(now);
    }

    /// Has actions do something about bans of an agent before, with what led to them where they ask for it.
    fn tell(&self, bans: &[StoredBan], what: impl Fn(&Actions, Info)) {
        let asks = |ban: &StoredBan| self.actions.of(&ban.owner).is_some_and(|needs| needs.evidence);
        for bans in bans.chunk_by(|a, b| asks(a) == asks(b)).flat_map(|bans| bans.chunks(TOLD_AT_ONCE)) {
            let known = if asks(&bans[0]) { self.store.evidence(bans) } else { Ok(Vec::new()) };
            let known = known.unwrap_or_else(|error| {
                error!("It is not known what led to earlier bans: {error:#}");
                Vec::new()
            });
            for (ban, evidence) in bans.iter().zip(known.into_iter().chain(repeat_with(Evidence::default))) {
                self.act(&ban.owner, || ban.ticket(evidence), &what);
            }
        }
    }

    /// Who was banned before. Waits for the disk.
    pub(super) fn past_bans(&self, now: SystemTime) -> History {
        let mut history = self.store.history().unwrap_or_else(|error| {
            error!("It is not known who was banned before: {error:#}");
            History::default()
        });
        // The clock may have been wrong when they were stored.
        history.not_after(now);
        history
    }
}

/// Gives what a start needed for a moment back to the kernel: with a million bans or attackers 100 MB, which glibc
/// would keep.
fn give_back_memory() {
    // SAFETY: it takes no pointer, and glibc locks what it trims.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether the kernel holds these steps already, but for clock noise.
fn is_same(held: &[Step], steps: &[Step]) -> bool {
    held.len() == steps.len()
        && held.iter().zip(steps).all(|(a, b)| {
            a.scopes == b.scopes
                && !a.until.is_later(b.until, SAME_END)
                && !b.until.is_later(a.until, SAME_END)
        })
}
