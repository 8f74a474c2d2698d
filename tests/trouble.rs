//! What happens to bans when the machine is in trouble: the clock is set while the agent runs, its database is damaged.
//! The agent goes on to ban and to end bans, and says what is wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    fs,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::Mutex,
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use f2b::{
    agent::Agent,
    ban::{Change, Scopes, Step, Subject, Until},
    config::{Config, StoreSettings},
    control::{Answer, Request},
    net::Interface,
    scope::Scope,
    source::{Line, Reading},
    store::{FILE, Store},
    xdp::{BanMap, Counters, DryRun, InterfaceStatus, MapBan, ScopeStatus},
};
use ipnet::IpNet;
use tracing::{
    Level,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt as _};

/// How long the store may take to find out.
const PATIENCE: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(86_400);

/// The errors that all agents of this process have logged.
static ERRORS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Errors;

impl<S: tracing::Subscriber> Layer<S> for Errors {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if *event.metadata().level() == Level::ERROR {
            event.record(&mut Message);
        }
    }
}

struct Message;

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            ERRORS.lock().expect("nobody panicked").push(format!("{value:?}"));
        }
    }
}

/// Whether there was an error with all of these words.
fn complained(words: &[&str]) -> bool {
    ERRORS.lock().expect("nobody panicked").iter().any(|error| words.iter().all(|word| error.contains(word)))
}

fn listen() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Registry::default().with(Errors))
            .expect("nobody else listens");
    });
}

/// A map with a clock of its own that nobody sets, as the kernel has it.
#[derive(Debug, Default)]
struct SteadyMap {
    scopes: DryRun,
    /// Since the machine's start.
    clock: Duration,
    bans: BTreeMap<Subject, Vec<(Option<Duration>, Scopes)>>,
}

impl SteadyMap {
    /// Whether packets from there are dropped.
    fn drops(&self, ip: IpAddr) -> bool {
        let steps = self.bans.get(&ip.into()).into_iter().flatten();
        steps.into_iter().any(|(end, _)| end.is_none_or(|end| end > self.clock))
    }
}

impl BanMap for SteadyMap {
    fn set_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        now: SystemTime,
    ) -> Result<Vec<(Subject, anyhow::Error)>> {
        for (subject, steps) in changes {
            let end = |step: Step| match step.until {
                Until::Forever => (None, step.scopes),
                Until::Time(end) => {
                    (Some(self.clock + end.duration_since(now).unwrap_or_default()), step.scopes)
                }
            };
            self.bans.insert(subject, steps.into_iter().map(end).collect());
        }
        Ok(Vec::new())
    }

    fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>> {
        let ban = |(subject, steps): (&Subject, &Vec<(Option<Duration>, Scopes)>)| {
            let step = |(end, scopes): &(Option<Duration>, Scopes)| Step {
                until: end.map_or(Until::Forever, |end| Until::Time(now + end.saturating_sub(self.clock))),
                scopes: *scopes,
            };
            MapBan { subject: *subject, steps: steps.iter().map(step).collect(), packets: 0 }
        };
        Ok(self.bans.iter().map(ban).collect())
    }

    fn scope(&mut self, scope: &Scope, in_use: Scopes) -> Result<u32> {
        self.scopes.scope(scope, in_use)
    }

    fn scopes(&self) -> Result<Vec<ScopeStatus>> {
        self.scopes.scopes()
    }

    fn allow(&mut self, nets: &[IpNet]) -> Result<()> {
        self.scopes.allow(nets)
    }

    fn counters(&self) -> Result<Counters> {
        self.scopes.counters()
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        self.scopes.interfaces()
    }

    fn follow(&mut self, all: &[Interface], default_routes: &[u32]) {
        self.scopes.follow(all, default_routes);
    }

    fn capacity(&self) -> u32 {
        self.scopes.capacity()
    }
}

/// An agent with a jail `x`: three failures within 10 minutes ban for 10 minutes, and longer each time.
struct Scene {
    agent: Agent<SteadyMap>,
    now: SystemTime,
}

impl Scene {
    fn start(dir: &Path, map: SteadyMap, now: SystemTime) -> Self {
        listen();
        let write = |file: &str, text: &str| fs::write(dir.join(file), text).expect("it is writable");
        fs::create_dir_all(dir.join("filter.d")).expect("it is writable");
        write("filter.d/x.conf", "[Definition]\nfailregex = ^<HOST> failed$\n");
        write(
            "jail.local",
            "[sshd]\nenabled = no\n[x]\nenabled = yes\nfilter = x\nbackend = systemd\njournalmatch = _COMM=x\n\
             maxretry = 3\nfindtime = 10m\nbantime = 10m\nbantime.increment = yes\nignoreself = no\n",
        );
        let config = Config::load(Some(dir)).expect("it is in order");
        let store = Store::open(dir, StoreSettings::default(), now).expect("a store");
        let mut agent = Agent::new(config, map, store, None, now);
        agent.restore(now).expect("the map takes everything");
        Self { agent, now }
    }

    /// Ends the agent; what the kernel has stays.
    fn stop(mut self) -> SteadyMap {
        self.agent.store_positions(self.now);
        std::mem::take(self.agent.map())
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.agent.map().clock += time;
        self.agent.expire(self.now);
        self.agent.sweep(self.now);
    }

    fn set_clock(&mut self, now: SystemTime) {
        self.now = now;
        self.agent.clock_was_set(now);
    }

    fn fail(&mut self, ip: IpAddr, times: u32) {
        for _ in 0..times {
            let line = Line { jail: "x".into(), time: Some(self.now), text: format!("{ip} failed") };
            self.agent.line(&line, Reading::Live, self.now);
        }
    }

    fn listed(&mut self) -> BTreeSet<IpAddr> {
        let Answer::Banned { bans } = self.agent.answer(Request::Banned, self.now) else {
            panic!("no answer")
        };
        bans.iter().filter_map(|ban| ban.address.address()).collect()
    }

    /// Whether it is banned: by the list, and by the map, which must agree.
    #[track_caller]
    fn is_banned(&mut self, ip: IpAddr) -> bool {
        let listed = self.listed().contains(&ip);
        assert_eq!(self.agent.map().drops(ip), listed, "{ip}: what the map drops, and what the list says");
        listed
    }
}

fn host(n: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, n).into()
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_clock_that_is_set_back_neither_frees_nor_spares_anybody() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), start());
    let (banned, known, slow, new) = (host(1), host(2), host(3), host(4));
    scene.fail(known, 3);
    scene.wait(11 * MINUTE);
    assert!(!scene.is_banned(known));
    scene.fail(banned, 3);
    scene.fail(slow, 2);
    scene.set_clock(start() - DAY);
    assert!(scene.is_banned(banned));
    scene.wait(11 * MINUTE);
    // As long as its end has not come, it is banned in the kernel as well: nobody would ban it again.
    assert!(scene.is_banned(banned));
    scene.fail(slow, 1);
    assert!(!scene.is_banned(slow), "its failures have grown old");
    scene.fail(new, 3);
    scene.fail(known, 3);
    assert!(scene.is_banned(new) && scene.is_banned(known));
    // What is banned now survives a reboot.
    let now = scene.now;
    drop(scene.stop());
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), now);
    assert!(scene.is_banned(new) && scene.is_banned(known) && scene.is_banned(banned));
    scene.wait(11 * MINUTE);
    assert!(!scene.is_banned(new), "a ban of ten minutes is over after ten");
    assert!(scene.is_banned(known), "a second ban lasts longer, whatever the clock said at the first");
    scene.wait(DAY);
    assert!(scene.listed().is_empty());
}

#[test]
fn a_clock_that_is_set_forward_ends_what_is_over_and_bans_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), start());
    let (banned, slow, new) = (host(1), host(3), host(4));
    scene.fail(banned, 3);
    scene.fail(slow, 2);
    assert!(scene.is_banned(banned));
    scene.set_clock(start() + DAY);
    assert!(!scene.is_banned(banned), "its end has come");
    scene.fail(slow, 1);
    assert!(!scene.is_banned(slow), "what was before is out of the window");
    scene.fail(new, 3);
    scene.fail(banned, 3);
    scene.wait(11 * MINUTE);
    assert!(!scene.is_banned(new) && scene.is_banned(banned), "it is its second ban");
}

/// Writes over the database what does not belong there.
fn damage(dir: &Path) {
    for suffix in ["", "-wal"] {
        let path = dir.join(format!("{FILE}{suffix}"));
        let Ok(data) = fs::metadata(&path) else { continue };
        let file = fs::OpenOptions::new().write(true).open(&path).expect("it is writable");
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xa5; data.len() as usize], 0)
            .expect("it is writable");
    }
}

#[test]
fn a_database_that_is_damaged_while_the_agent_runs_costs_no_ban() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), start());
    let early: Vec<_> = (1..100).map(host).collect();
    early.iter().for_each(|ip| scene.fail(*ip, 3));
    sleep(Duration::from_millis(200));
    damage(dir.path());
    let words = ["is damaged", &dir.path().display().to_string()];
    // It is looked at every hour, if SQLite does not stumble on it before.
    scene.agent.purge(scene.now);
    let deadline = Instant::now() + PATIENCE;
    for n in 0.. {
        let late = IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        scene.fail(late, 3);
        assert!(scene.is_banned(late), "the database is not in the way");
        scene.agent.store_positions(scene.now);
        if complained(&words) {
            break;
        }
        assert!(Instant::now() < deadline, "it was not said that the database is damaged");
        sleep(Duration::from_millis(20));
    }
    // It is told everything anew.
    scene.agent.store_positions(scene.now);
    let (banned, now) = (scene.listed(), scene.now);
    assert!(early.iter().all(|ip| banned.contains(ip)));
    drop(scene.stop());
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), now);
    assert_eq!(scene.listed(), banned, "a reboot loses nothing");
}

#[test]
fn a_database_that_is_damaged_at_the_start_is_set_aside_and_bans_go_on() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut scene = Scene::start(dir.path(), SteadyMap::default(), start());
    (1..100).for_each(|n| scene.fail(host(n), 3));
    let (banned, now) = (scene.listed(), scene.now);
    let map = scene.stop();
    damage(dir.path());
    let mut scene = Scene::start(dir.path(), map, now);
    assert!(complained(&["is damaged, and was renamed to", &dir.path().display().to_string()]));
    assert_eq!(scene.listed(), banned, "what the kernel has goes on");
    scene.fail(host(200), 3);
    assert!(scene.is_banned(host(200)));
    scene.wait(11 * MINUTE);
    assert!(scene.listed().is_empty(), "and ends when it should");
}
