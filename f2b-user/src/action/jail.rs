//! The actions of one jail.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    sync::Arc,
};

use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use tracing::error;

use super::{
    command::CommandAction,
    info::{Info, JailInfo},
    queue::Needs,
    shell::Shell,
    smtp::Smtp,
};
use crate::{
    ban::Subject,
    config::{ActionKind, ActionSettings, CommandSettings, Family, Operation, action::TAG},
    log::event,
    ticket::Ticket,
};

/// One action.
#[derive(Debug)]
pub(super) struct Action {
    pub(super) name: String,
    pub(super) file: String,
    norestored: Cell<bool>,
    kind: Kind,
    /// Shut until it is begun; held open by whatever it is asked to do.
    gate: Arc<RwLock<()>>,
}

#[derive(Debug)]
enum Kind {
    Command(CommandAction<Shell>),
    Smtp(Smtp),
}

/// What is asked of an action for a ban.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    Ban,
    Prolong,
    Unban(End),
}

/// How a ban ends, which decides what actions that undo all of their bans at once (`actionflush`) make of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum End {
    /// By itself, or by hand.
    Single,
    /// With all others of its jail: those actions are told once for all.
    WithAll,
    /// So, too, but something was still to be done for it when those actions were told.
    BehindAll,
    /// While no agent ran: those actions have undone everything when the agent before stopped.
    Unseen,
}

impl Action {
    pub(super) fn new(jail: &str, settings: ActionSettings) -> Self {
        let ActionSettings { name, file, norestored, kind } = settings;
        let kind = match kind {
            ActionKind::Command(settings) => Kind::Command(CommandAction::new(jail, &name, settings, Shell)),
            ActionKind::Smtp(settings) => Kind::Smtp(Smtp::new(settings)),
        };
        Self { name, file, norestored: Cell::new(norestored), kind, gate: Arc::default() }
    }

    /// Shuts the gate of an action that nobody uses yet: no ban is faster than its start.
    pub(super) fn shut(&self) -> Option<OwnedRwLockWriteGuard<()>> {
        Arc::clone(&self.gate).try_write_owned().ok()
    }

    /// Waits until it is begun, and keeps it from its end.
    pub(super) async fn ready(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.gate).read_owned().await
    }

    /// Waits until nothing that was asked of it is left, and has what is asked meanwhile wait.
    pub(super) async fn alone(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Whether it can go on with other settings, and has done so; with whether they are others.
    pub(super) fn take(&self, settings: &ActionSettings) -> Option<bool> {
        self.norestored.set(settings.norestored);
        match (&self.kind, &settings.kind) {
            (Kind::Command(action), ActionKind::Command(settings)) => {
                let is_other = !action.is_as(settings);
                if is_other {
                    action.reconfigure(settings.clone());
                }
                Some(is_other)
            }
            (Kind::Smtp(action), ActionKind::Smtp(settings)) => {
                (action.settings() == settings).then_some(false)
            }
            _ => None,
        }
    }

    pub(super) async fn start(&self, info: &Info) {
        let result = match &self.kind {
            Kind::Command(action) => action.start(info).await,
            Kind::Smtp(action) => action.start(info).await,
        };
        self.report("start", info, result);
    }

    pub(super) async fn reload(&self, info: &Info) {
        if let Kind::Command(action) = &self.kind {
            self.report("reload", info, action.reload(info).await);
        }
    }

    /// Whether it can undo all at once.
    pub(super) fn can_flush(&self) -> bool {
        matches!(&self.kind, Kind::Command(action) if action.can_flush())
    }

    /// Undoes all at once, if it can.
    pub(super) async fn flush(&self, info: &Info) -> bool {
        let Kind::Command(action) = &self.kind else { return false };
        if !action.can_flush() {
            return false;
        }
        let result = action.flush(info).await;
        let is_done = result.is_ok();
        self.report("flush", info, result);
        is_done
    }

    pub(super) async fn stop(&self, info: &Info) {
        let result = match &self.kind {
            Kind::Command(action) => action.stop(info).await,
            Kind::Smtp(action) => action.stop(info).await,
        };
        self.report("stop", info, result);
    }

    /// Does what a ban, its prolongation or its end asks for.
    pub(super) async fn act(&self, wish: Wish, info: &Info) {
        let is_restored = info.ticket.as_ref().is_some_and(|ticket| ticket.restored);
        let result = match &self.kind {
            Kind::Command(action) => match wish {
                Wish::Unban(end) if action.can_flush() != (end == End::BehindAll) && end != End::Single => {
                    return;
                }
                Wish::Unban(End::Unseen) if self.norestored.get() => return,
                Wish::Unban(End::Unseen) => {
                    action.adopt(info.family);
                    action.unban(info).await
                }
                Wish::Ban | Wish::Prolong if is_restored && self.norestored.get() => {
                    action.adopt(info.family);
                    return;
                }
                Wish::Ban => action.ban(info, false).await,
                Wish::Prolong => action.prolong(info).await,
                Wish::Unban(_) => action.unban(info).await,
            },
            Kind::Smtp(action) if wish == Wish::Ban && !is_restored => action.ban(info).await,
            Kind::Smtp(_) => return,
        };
        let what = if matches!(wish, Wish::Unban(_)) { "unban" } else { "ban" };
        self.report(what, info, result);
    }

    /// Does once more what it did for a ban.
    pub(super) async fn again(&self, info: &Info) {
        let Kind::Command(action) = &self.kind else { return };
        event::rebanned(&info.jail.name, info.id(), Some(&self.name));
        self.report("reban", info, action.ban(info, true).await);
    }

    /// How often what it made was found broken.
    pub(super) fn epoch(&self) -> u64 {
        match &self.kind {
            Kind::Command(action) => action.epoch(),
            Kind::Smtp(_) => 0,
        }
    }

    fn report(&self, what: &str, info: &Info, result: Result<(), String>) {
        let (jail, name) = (&info.jail.name, &self.name);
        let Err(reason) = result else { return };
        if info.ticket.is_some() {
            error!(
                target: "fail2ban.actions",
                "Failed to execute {what} jail '{jail}' action '{name}' info '{}': {reason}", info.repr()
            );
        } else {
            error!(target: "fail2ban.actions", "Failed to {what} jail '{jail}' action '{name}': {reason}");
        }
    }
}

/// Tags that the end of a ban knows without having kept anything.
const KNOWN_AT_THE_END: [&str; 14] = [
    "ip",
    "family",
    "ip-rev",
    "ip-host",
    "jail.name",
    "jail.banned",
    "jail.banned_total",
    "jail.found",
    "jail.found_total",
    "br",
    "sp",
    "fq-hostname",
    "sh-hostname",
    "restored",
];

/// Tags that the store's record of a ban knows besides, without what led to the ban.
const KNOWN_OF_RESTORED: [&str; 3] = ["time", "bantime", "bancount"];

/// Whether a command tells more of a ban than its end knows by itself.
pub(super) fn needs_ticket(settings: &[ActionSettings]) -> bool {
    commands(settings).any(|settings| {
        let mut texts = settings.texts().filter(|(operation, _)| *operation == Operation::Unban);
        // A repaired action has its bans repeated.
        settings.has(Operation::Check) || texts.any(|(_, text)| tells_beyond(text, &[]))
    })
}

/// Whether a command tells what led to a ban.
pub(super) fn needs_evidence(settings: &[ActionSettings]) -> bool {
    commands(settings)
        .any(|settings| settings.texts().any(|(_, text)| tells_beyond(text, &KNOWN_OF_RESTORED)))
}

/// Whether an action must be told of each end when all bans of the jail end.
pub(super) fn needs_each_end(settings: &[ActionSettings]) -> bool {
    commands(settings).any(|settings| !settings.has(Operation::Flush))
}

fn commands(settings: &[ActionSettings]) -> impl Iterator<Item = &CommandSettings> {
    settings.iter().filter_map(|action| match &action.kind {
        ActionKind::Command(settings) => Some(settings),
        ActionKind::Smtp(_) => None,
    })
}

fn tells_beyond(text: &str, known: &[&str]) -> bool {
    let mut tags = TAG.captures_iter(text);
    tags.any(|tag| !KNOWN_AT_THE_END.contains(&&tag[1]) && !known.contains(&&tag[1]))
}

/// The actions of a jail, and the bans they were told of.
#[derive(Debug, Default)]
pub(super) struct JailActions {
    pub(super) actions: RefCell<Vec<Rc<Action>>>,
    /// The tickets of its bans, where an action needs them again at their end.
    pub(super) tickets: RefCell<Option<HashMap<Subject, Ticket>>>,
    /// The latest that is known of the jail.
    pub(super) info: RefCell<JailInfo>,
    pub(super) needs: Cell<Needs>,
    /// Addresses that something is still to be done for, and told when there are none.
    lines: Cell<usize>,
    done: Notify,
}

impl JailActions {
    pub(super) fn begin_line(&self) {
        self.lines.set(self.lines.get() + 1);
    }

    pub(super) fn end_line(&self) {
        self.lines.set(self.lines.get() - 1);
        if self.lines.get() == 0 {
            self.done.notify_waiters();
        }
    }

    /// Waits until all that was asked is done.
    pub(super) async fn until_done(&self) {
        while self.lines.get() > 0 {
            self.done.notified().await;
        }
    }

    pub(super) fn list(&self) -> Vec<Rc<Action>> {
        self.actions.borrow().clone()
    }

    /// Of no ban.
    pub(super) fn about_itself(&self) -> Info {
        Info::without_ban(self.info.borrow().clone(), Family::Any, std::time::SystemTime::now())
    }

    /// Keeps the ticket of a ban, or gives it back at the ban's end.
    pub(super) fn remember(&self, wish: Wish, info: &mut Info) {
        let mut tickets = self.tickets.borrow_mut();
        let (Some(tickets), Some(ticket)) = (&mut *tickets, &mut info.ticket) else { return };
        match wish {
            Wish::Ban | Wish::Prolong => {
                tickets.insert(ticket.subject, ticket.clone());
            }
            Wish::Unban(End::BehindAll) => {
                if let Some(kept) = tickets.get(&ticket.subject) {
                    ticket.clone_from(kept);
                }
            }
            Wish::Unban(_) => {
                if let Some(kept) = tickets.remove(&ticket.subject) {
                    *ticket = kept;
                }
            }
        }
    }
}
