//! One action of a jail that runs commands: what it has begun, and how it is set right (`server/action.py`,
//! `CommandAction`).

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use indexmap::IndexMap;
use tokio::sync::RwLock;
use tracing::{debug, error};

use super::{fill::fill, host, info::Info, shell::Execute};
use crate::{
    config::{CommandSettings, Family, Operation},
    log::event,
};

/// Why an action has failed, for the log.
type Failure = String;

/// What is begun for a family.
#[derive(Clone, Copy, Debug, Default)]
struct Begun {
    is_started: bool,
    /// It has made something of a ban that its end must undo.
    has_items: bool,
}

/// An action at work.
#[derive(Debug)]
pub struct CommandAction<E> {
    jail: String,
    name: String,
    settings: RefCell<CommandSettings>,
    shell: E,
    /// By family, in the order they were begun in.
    begun: RefCell<IndexMap<Family, Begun>>,
    /// What was run for a family to start or stop it: a command that two families share is run for the first of them.
    executed: RefCell<HashMap<Operation, IndexMap<Family, String>>>,
    /// Held shared by bans, alone by what begins, ends or repairs the whole.
    whole: RwLock<()>,
    /// Counts how often what it made was found broken: what was banned before has to be banned again.
    epoch: Cell<u64>,
}

impl<E: Execute> CommandAction<E> {
    pub fn new(jail: &str, name: &str, settings: CommandSettings, shell: E) -> Self {
        Self {
            jail: jail.to_owned(),
            name: name.to_owned(),
            settings: RefCell::new(settings),
            shell,
            begun: RefCell::default(),
            executed: RefCell::default(),
            whole: RwLock::new(()),
            epoch: Cell::new(0),
        }
    }

    /// Goes on with other settings: what is begun stays begun.
    pub fn reconfigure(&self, settings: CommandSettings) {
        *self.settings.borrow_mut() = settings;
        self.executed.borrow_mut().clear();
    }

    pub fn is_as(&self, settings: &CommandSettings) -> bool {
        *self.settings.borrow() == *settings
    }

    /// How often what it made was found broken.
    pub fn epoch(&self) -> u64 {
        self.epoch.get()
    }

    /// Says that what an agent before made of a ban is there to be undone.
    pub fn adopt(&self, family: Family) {
        let on_demand = self.settings.borrow().on_demand;
        let mut begun = self.begun.borrow_mut();
        let begun = begun.entry(family).or_default();
        begun.is_started |= !on_demand;
        begun.has_items = true;
    }

    /// Begins it, unless that waits for the first ban.
    pub async fn start(&self, info: &Info) -> Result<(), Failure> {
        let (on_demand, families) = {
            let settings = self.settings.borrow();
            (settings.on_demand, settings.families.clone())
        };
        if on_demand {
            return Ok(());
        }
        let _alone = self.whole.write().await;
        self.start_families(families, info).await
    }

    async fn start_families(&self, families: Vec<Family>, info: &Info) -> Result<(), Failure> {
        self.operate(Operation::Start, "starting", families, info, |family| {
            self.forget(Operation::Stop, family);
            self.begun.borrow_mut().entry(family).or_default().is_started = true;
        })
        .await
    }

    /// Does what it does for a ban; for `again`, what it does for one whose traces were lost.
    pub async fn ban(&self, info: &Info, again: bool) -> Result<(), Failure> {
        let family = info.family;
        let on_demand = self.settings.borrow().on_demand;
        if on_demand && !self.is_started(family) {
            let _alone = self.whole.write().await;
            // Another ban may have been faster.
            if !self.is_started(family) {
                self.start_families(vec![family], info).await?;
            }
        }
        let has_reban = self.settings.borrow().has(Operation::Reban);
        let operation = if again && has_reban { Operation::Reban } else { Operation::Ban };
        self.process(operation, info, "banning").await?;
        let mut begun = self.begun.borrow_mut();
        *begun.entry(family).or_default() = Begun { is_started: true, has_items: true };
        Ok(())
    }

    /// Tells that a ban lasts longer, if it wants to know.
    pub async fn prolong(&self, info: &Info) -> Result<(), Failure> {
        if !self.settings.borrow().has(Operation::Prolong) {
            return Ok(());
        }
        self.process(Operation::Prolong, info, "prolonging").await
    }

    /// Undoes what it did for a ban, if it has done anything for its family.
    pub async fn unban(&self, info: &Info) -> Result<(), Failure> {
        if !self.begun.borrow().get(&info.family).is_some_and(|begun| begun.has_items) {
            return Ok(());
        }
        self.process(Operation::Unban, info, "unbanning").await
    }

    /// Whether it can undo everything at once.
    pub fn can_flush(&self) -> bool {
        self.settings.borrow().has(Operation::Flush)
    }

    /// Undoes what it did for all bans at once.
    pub async fn flush(&self, info: &Info) -> Result<(), Failure> {
        let _alone = self.whole.write().await;
        let families = self.families(|begun| begun.is_started && begun.has_items);
        if families.is_empty() {
            return Ok(());
        }
        event::flushed(&self.jail, &self.name);
        self.executed.borrow_mut().remove(&Operation::Flush);
        self.operate(Operation::Flush, "flushing", families, info, |family| {
            self.begun.borrow_mut().entry(family).or_default().has_items = false;
        })
        .await
    }

    /// Ends what it has begun.
    pub async fn stop(&self, info: &Info) -> Result<(), Failure> {
        let _alone = self.whole.write().await;
        let families = self.families(|begun| begun.is_started);
        self.begun.borrow_mut().clear();
        self.stop_families(families, info).await
    }

    async fn stop_families(&self, families: Vec<Family>, info: &Info) -> Result<(), Failure> {
        self.operate(Operation::Stop, "stopping", families, info, |family| {
            self.forget(Operation::Start, family)
        })
        .await
    }

    /// Takes other settings into what is begun.
    pub async fn reload(&self, info: &Info) -> Result<(), Failure> {
        let _alone = self.whole.write().await;
        self.executed.borrow_mut().remove(&Operation::Reload);
        let families = self.families(|begun| begun.is_started);
        self.operate(Operation::Reload, "reloading", families, info, |_| {}).await
    }

    fn is_started(&self, family: Family) -> bool {
        self.begun.borrow().get(&family).is_some_and(|begun| begun.is_started)
    }

    fn families(&self, wanted: impl Fn(&Begun) -> bool) -> Vec<Family> {
        self.begun.borrow().iter().filter(|(_, begun)| wanted(begun)).map(|(family, _)| *family).collect()
    }

    /// Runs a command that concerns the action as a whole, once for all families that share it (`_executeOperation`).
    async fn operate(
        &self,
        operation: Operation,
        doing: &str,
        families: Vec<Family>,
        info: &Info,
        succeeded: impl Fn(Family),
    ) -> Result<(), Failure> {
        let mut failure = None;
        for family in families {
            let command = match self.command(operation, family) {
                Ok(command) => command.replace("<family>", family.name()),
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            let is_done = self.executed.borrow().get(&operation).is_some_and(|executed| {
                executed.iter().any(|(other, done)| *other != family && *done == command)
            });
            let is_good = command.is_empty() || is_done || {
                let info = Info::without_ban(info.jail.clone(), family, info.now);
                self.execute(&command, &info).await
            };
            if is_good {
                succeeded(family);
                if !command.is_empty() {
                    self.executed.borrow_mut().entry(operation).or_default().insert(family, command);
                }
            } else {
                self.forget(operation, family);
                failure = Some("'Script error'".into());
            }
        }
        failure.map_or(Ok(()), |failure| {
            Err(format!("Error {doing} action Jail('{}')/{}: {failure}", self.jail, self.name))
        })
    }

    /// What was run for a family is to be run anew next time; also for the families that shared it.
    fn forget(&self, operation: Operation, family: Family) {
        let mut executed = self.executed.borrow_mut();
        let Some(executed) = executed.get_mut(&operation) else { return };
        if let Some(command) = executed.shift_remove(&family) {
            executed.retain(|_, other| *other != command);
        }
    }

    /// Runs a command for a ban. When it fails, what it relies on is checked, and it gets a second chance if that could
    /// be repaired (`_processCmd`).
    async fn process(&self, operation: Operation, info: &Info, doing: &str) -> Result<(), Failure> {
        let failed = || format!("Error {doing} {}", info.id());
        let command = self.command(operation, info.family)?;
        if self.execute_shared(&command, info).await {
            return Ok(());
        }
        if !self.settings.borrow().has(Operation::Check) {
            return Err(failed());
        }
        let is_unban = operation == Operation::Unban;
        let is_sane = {
            let _alone = self.whole.write().await;
            self.is_sane(info, is_unban).await?
        };
        if is_sane && self.execute_shared(&command, info).await { Ok(()) } else { Err(failed()) }
    }

    async fn execute_shared(&self, command: &str, info: &Info) -> bool {
        let _shared = self.whole.read().await;
        self.execute(command, info).await
    }

    /// Checks what the action relies on, and repairs it if it is broken (`_invariantCheck`). Whether it is in order now.
    async fn is_sane(&self, info: &Info, is_unban: bool) -> Result<bool, Failure> {
        let family = info.family;
        if is_unban && !self.begun.borrow().contains_key(&family) {
            return Ok(true);
        }
        let check = self.command(Operation::Check, family)?;
        if check.is_empty() || self.execute(&check, info).await {
            return Ok(true);
        }
        if is_unban && !self.settings.borrow().repair_on_unban {
            error!(target: "fail2ban.action", jail = self.jail, "Invariant check failed. Unban is impossible.");
            return Ok(false);
        }
        error!(
            target: "fail2ban.action", jail = self.jail,
            "Invariant check failed. Trying to restore a sane environment"
        );
        self.epoch.set(self.epoch.get() + 1);
        let repair = self.command(Operation::Repair, family)?;
        if repair.is_empty() {
            // It is begun anew as a whole, whichever family began it (fail2ban skips a start that another family shares).
            // What is broken may not end well; that it can be begun is what counts.
            self.executed.borrow_mut().clear();
            self.begun.borrow_mut().entry(family).or_default().is_started = false;
            if let Err(failure) = self.stop_families(vec![family], info).await {
                debug!(target: "fail2ban.action", jail = self.jail, "{failure}");
            }
            self.start_families(vec![family], info).await?;
        } else {
            let is_repaired = self.execute(&repair, info).await;
            *self.begun.borrow_mut().entry(family).or_default() =
                Begun { is_started: is_repaired, has_items: false };
            if !is_repaired {
                return Ok(self.cannot_restore());
            }
        }
        if self.is_started(family) && !self.execute(&check, info).await {
            return Ok(self.cannot_restore());
        }
        Ok(true)
    }

    fn cannot_restore(&self) -> bool {
        error!(name: "critical", target: "fail2ban.action", jail = self.jail, "Unable to restore environment");
        false
    }

    fn command(&self, operation: Operation, family: Family) -> Result<String, Failure> {
        let settings = self.settings.borrow();
        settings.command(operation, family).map(str::to_owned).map_err(str::to_owned)
    }

    async fn execute(&self, command: &str, info: &Info) -> bool {
        if command.is_empty() {
            return true;
        }
        let timeout = self.settings.borrow().timeout;
        let info = host::look_up(command, info).await;
        self.shell.execute(&fill(command, &info), timeout).await
    }
}
