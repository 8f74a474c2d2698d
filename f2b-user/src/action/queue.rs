//! The thread that runs actions.
//!
//! What is asked for one address of one jail is done in the order it was asked in, action after action. Different
//! addresses go side by side. Only commands of one action's file take turns, because stock actions rewrite files that
//! they share (`sed -i` in `hosts.deny`): a command has its turn to itself until it ends, or until it has taken so long
//! that it can only be waiting for somebody else. So a mailer that hangs holds up nobody.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use tokio::{
    runtime,
    sync::{Semaphore, mpsc, oneshot},
    task::{JoinSet, LocalSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{error, warn};

use super::{
    info::{Info, JailInfo},
    jail::{Action, End, JailActions, Wish, needs_each_end, needs_evidence, needs_ticket},
};
use crate::{
    ban::Subject,
    config::{ActionKind, ActionSettings},
    store::Merged,
    ticket::Ticket,
};

/// How many bytes of what is asked may wait.
const WAITING: usize = 32 * 1024 * 1024;
/// From here on there is room only for the ends of bans: what was made of a ban should go.
const WAITING_BANS: usize = WAITING / 4 * 3;
/// How long a command has its turn to itself.
const TURN: Duration = Duration::from_millis(250);
/// The same while another one of its file has taken longer than its turn: enough to rewrite a file.
const SHORT_TURN: Duration = Duration::from_millis(25);
/// How many commands of one action's file run at once.
const SIDE_BY_SIDE: usize = 32;
/// How many commands run at once in all.
const PROCESSES: usize = 64;
/// How long what was asked before the agent's stop may take to be done.
const LAST_JOBS: Duration = Duration::from_secs(10);
/// How long the actions may take to end what they began.
const LAST_STOPS: Duration = Duration::from_secs(30);

enum Job {
    /// A jail has these actions from now on.
    /// What those that are gone did for `bans` is undone.
    Jail { info: JailInfo, settings: Vec<ActionSettings>, bans: Vec<Ticket> },
    /// A jail is gone; its bans were ended before.
    Remove { jail: String },
    /// All bans of a jail end.
    Flush { info: JailInfo, bans: Vec<Subject>, now: SystemTime },
    /// Something happens to a ban.
    Ban { wish: Wish, info: Box<Info>, size: usize },
    /// The agent stops.
    Stop(oneshot::Sender<()>),
}

/// What waits, and what had to be dropped.
#[derive(Debug, Default)]
struct Load {
    bytes: AtomicUsize,
    dropped: AtomicU64,
}

/// What all bans of an address come to, of one jail or of all. May wait for a disk.
pub type Merge = Arc<dyn Fn(Subject, Option<&str>) -> Result<Merged> + Send + Sync>;

/// The way to the actions.
#[derive(Debug, Default)]
pub struct Actions {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    load: Arc<Load>,
    /// The jails that have actions.
    jails: HashMap<String, Known>,
}

/// What is known of the actions of a jail.
#[derive(Clone, Debug)]
struct Known {
    names: Vec<String>,
    needs: Needs,
}

/// What the actions of a jail want to know.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// `<jail.…>`
    pub numbers: bool,
    /// `<ipmatches>`, `<ipfailures>`: all bans of the address taken together.
    pub in_all_jails: bool,
    /// The same for the jail's own.
    pub in_this_jail: bool,
    /// Lines, failures and fields of a ban that is an earlier agent's.
    pub evidence: bool,
    /// Each end of a ban, also when all bans of the jail end.
    pub each_end: bool,
}

impl Needs {
    fn of(settings: &[ActionSettings]) -> Self {
        let (evidence, each_end) = (needs_evidence(settings), needs_each_end(settings));
        let mut needs = Self { evidence, each_end, ..Self::default() };
        for action in settings {
            let texts: Vec<&str> = match &action.kind {
                ActionKind::Command(settings) => settings.texts().map(|(_, text)| text).collect(),
                ActionKind::Smtp(settings) => settings.matches.as_deref().into_iter().collect(),
            };
            let has = |tags: &[&str]| texts.iter().any(|text| tags.iter().any(|tag| text.contains(tag)));
            needs.numbers |= has(&["<jail."]);
            needs.in_all_jails |= has(&["ipmatches", "<ipfailures>"]);
            needs.in_this_jail |= has(&["ipjailmatches", "<ipjailfailures>"]);
        }
        needs
    }
}

impl Actions {
    /// No actions, as in a dry run.
    pub fn none() -> Self {
        Self::default()
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// There is no room for a thread.
    pub fn start(merge: Merge) -> Result<Self> {
        let (sender, jobs) = mpsc::unbounded_channel();
        let load = Arc::new(Load::default());
        let shared = Arc::clone(&load);
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().context("starting actions")?;
        let thread = thread::Builder::new().name("actions".into());
        let thread = thread.spawn(move || {
            let local = LocalSet::new();
            local.block_on(&runtime, Worker::new(shared, merge).run(jobs));
            // What is left would wait for ever.
            drop(local);
            runtime.shutdown_background();
        });
        thread.context("starting the thread of the actions")?;
        Ok(Self { jobs: Some(sender), load, jails: HashMap::new() })
    }

    /// What the actions of a jail want to know; `None`: it has none.
    pub fn of(&self, jail: &str) -> Option<Needs> {
        self.jails.get(jail).map(|known| known.needs)
    }

    /// The jail has these actions from now on: new ones start, those that are gone end, and undo what they did for the
    /// jail's bans.
    pub fn jail(&mut self, info: JailInfo, settings: &[ActionSettings], bans: impl FnOnce() -> Vec<Ticket>) {
        if self.jobs.is_none() {
            return;
        }
        let names: Vec<_> = settings.iter().map(|action| action.name.clone()).collect();
        let before = match settings {
            [] => self.jails.remove(&info.name),
            _ => self
                .jails
                .insert(info.name.clone(), Known { names: names.clone(), needs: Needs::of(settings) }),
        };
        if before.is_none() && settings.is_empty() {
            return;
        }
        let is_gone = before.is_some_and(|before| before.names.iter().any(|name| !names.contains(name)));
        let bans = if is_gone { bans() } else { Vec::new() };
        self.send(Job::Jail { info, settings: settings.to_vec(), bans });
    }

    /// The jail is gone, and its bans were ended.
    pub fn remove(&mut self, jail: &str) {
        if self.jails.remove(jail).is_some() {
            self.send(Job::Remove { jail: jail.to_owned() });
        }
    }

    /// Tells of a ban.
    pub fn ban(&self, info: Info) {
        self.about(Wish::Ban, info);
    }

    /// Tells that a ban lasts longer.
    pub fn prolong(&self, info: Info) {
        self.about(Wish::Prolong, info);
    }

    /// Tells of the end of a ban.
    pub fn unban(&self, end: End, info: Info) {
        self.about(Wish::Unban(end), info);
    }

    /// Has the actions of a jail that can undo everything at once do so: `bans` are all that it has, and they end now.
    /// The others are to be told of each ([`End::WithAll`]).
    pub fn flush(&self, info: JailInfo, bans: Vec<Subject>, now: SystemTime) {
        self.send(Job::Flush { info, bans, now });
    }

    fn about(&self, wish: Wish, info: Info) {
        let size = info.size();
        let room = if matches!(wish, Wish::Unban(_)) { WAITING } else { WAITING_BANS };
        if self.load.bytes.load(Ordering::Relaxed) + size > room {
            if self.load.dropped.fetch_add(1, Ordering::Relaxed) == 0 {
                let (jail, ip) = (&info.jail.name, info.id());
                error!(
                    jail,
                    ip, "Actions are too slow; from here on some are not run for some bans, which hold"
                );
            }
            return;
        }
        self.load.bytes.fetch_add(size, Ordering::Relaxed);
        self.send(Job::Ban { wish, info: Box::new(info), size });
    }

    /// Reports what was dropped since the last time.
    pub fn report(&self) {
        let dropped = self.load.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(dropped, "Actions were not run for so many bans and ends of bans, because too many waited");
        }
    }

    /// Ends what the actions have begun, within bounds.
    pub async fn stop(self) {
        let (done, wait) = oneshot::channel();
        self.send(Job::Stop(done));
        if self.jobs.is_some() {
            // It answers or is gone.
            wait.await.unwrap_or_default();
        }
        self.report();
    }

    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends with the agent only.
            jobs.send(job).unwrap_or_default();
        }
    }
}

/// What is to be done for one address of one jail, in order.
#[derive(Default)]
struct Line {
    jobs: VecDeque<(Wish, Box<Info>, usize)>,
}

/// Whose turn it is among the commands of one file.
struct Turns {
    turn: Semaphore,
    side_by_side: Semaphore,
    /// Commands that have taken longer than their turn.
    overdue: Cell<usize>,
}

/// One command that has taken longer than its turn, until it ends or is given up.
struct Overdue<'a>(&'a Cell<usize>);

impl<'a> Overdue<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Overdue<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Undoes what an action did for `bans`, at once if it can.
async fn undo(action: &Action, info: &Info, bans: impl Iterator<Item = Ticket>) {
    if !action.flush(info).await {
        for ban in bans {
            action.act(Wish::Unban(End::Single), &Info::of(ban, info.jail.clone())).await;
        }
    }
}

struct Worker {
    load: Arc<Load>,
    merge: Merge,
    jails: RefCell<HashMap<String, Rc<JailActions>>>,
    lines: RefCell<HashMap<(String, String), Line>>,
    turns: RefCell<HashMap<String, Rc<Turns>>>,
    processes: Semaphore,
    /// What is at work.
    tasks: RefCell<JoinSet<()>>,
}

impl Worker {
    fn new(load: Arc<Load>, merge: Merge) -> Rc<Self> {
        Rc::new(Self {
            load,
            merge,
            jails: RefCell::default(),
            lines: RefCell::default(),
            turns: RefCell::default(),
            processes: Semaphore::new(PROCESSES),
            tasks: RefCell::default(),
        })
    }

    async fn run(self: Rc<Self>, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Jail { info, settings, bans } => self.set_jail(info, settings, bans),
                Job::Remove { jail } => self.remove(&jail),
                Job::Flush { info, bans, now } => self.flush(&info, bans, now),
                Job::Ban { wish, info, size } => self.enqueue(wish, info, size),
                Job::Stop(done) => {
                    self.stop().await;
                    // Whoever asked waits for it.
                    done.send(()).unwrap_or_default();
                    return;
                }
            }
        }
    }

    /// Runs something beside everything else.
    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let mut tasks = self.tasks.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(task);
    }

    fn set_jail(self: &Rc<Self>, info: JailInfo, settings: Vec<ActionSettings>, bans: Vec<Ticket>) {
        let jail = Rc::clone(self.jails.borrow_mut().entry(info.name.clone()).or_default());
        let kept = jail.tickets.take().unwrap_or_default();
        let bans: Vec<_> =
            bans.into_iter().map(|ban| kept.get(&ban.subject).cloned().unwrap_or(ban)).collect();
        jail.needs.set(Needs::of(&settings));
        *jail.tickets.borrow_mut() = needs_ticket(&settings).then_some(kept);
        let name = info.name.clone();
        *jail.info.borrow_mut() = info;
        let mut old = jail.actions.take();
        let mut begin = Vec::new();
        for settings in settings {
            let known = old.iter().position(|action| action.name == settings.name);
            let taken = known.and_then(|known| old[known].take(&settings).map(|is_other| (known, is_other)));
            let action = match taken {
                Some((known, is_other)) => {
                    let action = old.remove(known);
                    if is_other {
                        begin.push((Rc::clone(&action), false));
                    }
                    action
                }
                None => {
                    let action = Rc::new(Action::new(&name, settings));
                    begin.push((Rc::clone(&action), true));
                    action
                }
            };
            jail.actions.borrow_mut().push(action);
        }
        if !old.is_empty() {
            let (worker, jail) = (Rc::clone(self), Rc::clone(&jail));
            self.spawn(async move { worker.end(&jail, old, bans).await });
        }
        for (action, is_new) in begin {
            let (worker, jail) = (Rc::clone(self), Rc::clone(&jail));
            let gate = if is_new { action.shut() } else { None };
            self.spawn(async move {
                let info = jail.about_itself();
                let work =
                    async { if is_new { action.start(&info).await } else { action.reload(&info).await } };
                worker.in_turn(&action, work).await;
                drop(gate);
            });
        }
    }

    fn remove(self: &Rc<Self>, name: &str) {
        let Some(jail) = self.jails.borrow_mut().remove(name) else { return };
        let worker = Rc::clone(self);
        self.spawn(async move {
            jail.until_done().await;
            let actions = jail.actions.take();
            worker.end(&jail, actions, Vec::new()).await;
        });
    }

    /// Ends actions, the last one first, when what was asked of them before is done; what they did for `bans` is undone
    /// before.
    async fn end(&self, jail: &JailActions, actions: Vec<Rc<Action>>, bans: Vec<Ticket>) {
        for action in actions.into_iter().rev() {
            drop(action.alone().await);
            let info = jail.about_itself();
            let work = async {
                if !bans.is_empty() {
                    undo(&action, &info, bans.iter().cloned()).await;
                }
                action.stop(&info).await;
            };
            self.in_turn(&action, work).await;
        }
    }

    /// Has the actions that can do so undo everything at once, after what was asked of them before, and before what is
    /// asked from now on.
    fn flush(self: &Rc<Self>, info: &JailInfo, bans: Vec<Subject>, now: SystemTime) {
        let Some(jail) = self.jails.borrow().get(&info.name).cloned() else { return };
        *jail.info.borrow_mut() = info.clone();
        let by_hand = {
            let (name, length) = (info.name.clone(), info.length());
            move |subject| Ticket::by_hand(&name, subject, now, length)
        };
        // What still waits to be done for an address would be done behind it.
        for subject in &bans {
            let key = (info.name.clone(), subject.to_string());
            if self.lines.borrow().contains_key(&key) {
                let end = Wish::Unban(End::BehindAll);
                self.enqueue(end, Info::of(by_hand(*subject), info.clone()).into(), 0);
            }
        }
        if !jail.needs.get().each_end
            && let Some(tickets) = &mut *jail.tickets.borrow_mut()
        {
            bans.iter().for_each(|ban| drop(tickets.remove(ban)));
        }
        let bans = Rc::new(bans);
        for action in jail.list().into_iter().filter(|action| action.can_flush()) {
            let (worker, jail, bans, by_hand) =
                (Rc::clone(self), Rc::clone(&jail), Rc::clone(&bans), by_hand.clone());
            self.spawn(async move {
                let _alone = action.alone().await;
                let info = jail.about_itself();
                let bans = bans.iter().copied().map(by_hand);
                worker.in_turn(&action, undo(&action, &info, bans)).await;
            });
        }
    }

    fn enqueue(self: &Rc<Self>, wish: Wish, mut info: Box<Info>, size: usize) {
        let name = info.jail.name.clone();
        let Some(jail) = self.jails.borrow().get(&name).cloned() else {
            self.load.bytes.fetch_sub(size, Ordering::Relaxed);
            return;
        };
        jail.remember(wish, &mut info);
        *jail.info.borrow_mut() = info.jail.clone();
        let id = info.ticket.as_ref().map_or_else(String::new, |ticket| ticket.subject.to_string());
        let key = (name, id);
        let mut lines = self.lines.borrow_mut();
        let is_new = !lines.contains_key(&key);
        lines.entry(key.clone()).or_default().jobs.push_back((wish, info, size));
        if is_new {
            jail.begin_line();
            let worker = Rc::clone(self);
            self.spawn(async move { worker.work_off(&jail, &key).await });
        }
    }

    /// Does what is asked for one address, until nothing is.
    async fn work_off(&self, jail: &JailActions, key: &(String, String)) {
        loop {
            let next = {
                let mut lines = self.lines.borrow_mut();
                let next = lines.get_mut(key).and_then(|line| line.jobs.pop_front());
                if next.is_none() {
                    lines.remove(key);
                }
                next
            };
            let Some((wish, mut info, size)) = next else { return jail.end_line() };
            let needs = jail.needs.get();
            info.in_all_jails = self.merged(needs.in_all_jails, &info, None).await;
            info.in_this_jail = self.merged(needs.in_this_jail, &info, Some(&key.0)).await;
            for action in jail.list() {
                let _ready = action.ready().await;
                let before = action.epoch();
                self.in_turn(&action, action.act(wish, &info)).await;
                if action.epoch() > before {
                    self.repeat(jail, &action, key).await;
                }
            }
            self.load.bytes.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// All bans of the address taken together, if an action wants to know.
    async fn merged(&self, is_needed: bool, info: &Info, jail: Option<&str>) -> Option<Merged> {
        let subject = info.ticket.as_ref().filter(|_| is_needed)?.subject;
        let (merge, jail) = (Arc::clone(&self.merge), jail.map(str::to_owned));
        let merged = spawn_blocking(move || merge(subject, jail.as_deref())).await;
        match merged.map_err(anyhow::Error::from).flatten() {
            // It remembers nothing, which is less than the ban itself tells.
            Ok(merged) => Some(merged).filter(|merged| merged.failures > 0),
            Err(error) => {
                error!(target: "fail2ban.actions", ip = %subject, "Failed to get bans merged: {error:#}");
                None
            }
        }
    }

    /// What an action had made was gone and has been begun anew: it does again what it did for the bans that hold.
    async fn repeat(&self, jail: &JailActions, action: &Action, but: &(String, String)) {
        let others = |tickets: &HashMap<Subject, Ticket>| {
            let others = tickets.values().filter(|ticket| ticket.subject.to_string() != but.1);
            others.cloned().collect::<Vec<_>>()
        };
        let tickets = jail.tickets.borrow().as_ref().map(others).unwrap_or_default();
        for ticket in tickets {
            let holds = |tickets: &HashMap<Subject, Ticket>| tickets.contains_key(&ticket.subject);
            if jail.tickets.borrow().as_ref().is_some_and(holds) {
                let info = Info::of(ticket, jail.info.borrow().clone());
                self.in_turn(action, action.again(&info)).await;
            }
        }
    }

    /// Runs something of an action when it is its turn.
    async fn in_turn(&self, action: &Action, work: impl Future<Output = ()>) {
        let turns = Rc::clone(self.turns.borrow_mut().entry(action.file.clone()).or_insert_with(|| {
            Rc::new(Turns {
                turn: Semaphore::new(1),
                side_by_side: Semaphore::new(SIDE_BY_SIDE),
                overdue: Cell::new(0),
            })
        }));
        // They are never closed.
        let _one_of_few = turns.side_by_side.acquire().await;
        let turn = turns.turn.acquire().await;
        let _process = self.processes.acquire().await;
        let mut work = std::pin::pin!(work);
        tokio::select! {
            biased;
            () = &mut work => return,
            () = sleep(if turns.overdue.get() > 0 { SHORT_TURN } else { TURN }) => drop(turn),
        }
        let _overdue = Overdue::new(&turns.overdue);
        work.await;
    }

    /// Ends everything: what was asked for gets some time, then what was begun is ended.
    async fn stop(&self) {
        let mut tasks = self.tasks.take();
        let in_time = timeout(LAST_JOBS, async { while tasks.join_next().await.is_some() {} }).await;
        if in_time.is_err() {
            let waiting: usize = self.lines.borrow().values().map(|line| line.jobs.len()).sum();
            warn!(
                waiting,
                "Actions that take too long are ended, because the agent stops; those that wait are not run"
            );
            // Dropped, a command is killed.
            tasks.shutdown().await;
        }
        let jails: Vec<_> = self.jails.borrow_mut().drain().map(|(_, jail)| jail).collect();
        let stops = jails.iter().map(|jail| async {
            for action in jail.actions.take().into_iter().rev() {
                let info = jail.about_itself();
                action.flush(&info).await;
                action.stop(&info).await;
            }
        });
        if timeout(LAST_STOPS, join_all(stops)).await.is_err() {
            error!("Some actions could not be stopped within {} seconds", LAST_STOPS.as_secs());
        }
    }
}
