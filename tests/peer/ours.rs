//! Our agent reads a corpus: its own readers, filters, jails and store, with the clock that the corpus sets.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::sleep,
    time::{Duration, Instant, SystemTime},
};

use f2b::{
    agent::{Agent, Readers},
    ban::Until,
    config::{Config, StoreSettings},
    control::{Answer, Request},
    source::{Batch, Reading, time},
    store::Store,
    xdp::DryRun,
};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
};

use super::{
    Event,
    corpus::{Corpus, JAILS, Kind, START, Tick},
};

/// How long our readers may take to find lines that are there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The texts in fail2ban's words.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: tracing::Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        event.record(&mut Texts(&self.0));
    }
}

struct Texts<'a>(&'a Mutex<Vec<String>>);

impl Visit for Texts<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "log.fail2ban" {
            self.0.lock().expect("nobody panicked").push(format!("{value:?}"));
        }
    }
}

/// The agent, and what it leaves behind when it stops.
struct Ours {
    dir: PathBuf,
    purgeage: Duration,
    agent: Option<(Agent<DryRun>, Readers, mpsc::Receiver<Batch>)>,
    heard: Heard,
    ends: HashMap<(String, String), Option<f64>>,
    restarts: usize,
    rotations: usize,
    /// Lines that were written while it did not run.
    unread: usize,
}

/// What happened at each tick.
pub(crate) fn read(corpus: &Corpus, dir: &Path, purgeage: Duration) -> Vec<Vec<Event>> {
    let heard = Heard::default();
    let _guard = tracing::subscriber::set_default(Registry::default().with(heard.clone()));
    for (_, file) in JAILS {
        File::create(dir.join(file)).expect("it is writable");
    }
    let mut ours = Ours {
        dir: dir.to_owned(),
        purgeage,
        agent: None,
        heard,
        ends: HashMap::new(),
        restarts: 0,
        rotations: 0,
        unread: 0,
    };
    ours.start(DryRun::default(), START);
    corpus.ticks.iter().map(|tick| ours.tick(tick)).collect()
}

impl Ours {
    fn start(&mut self, map: DryRun, now: f64) {
        let now = time(now);
        let config = Config::load(Some(&self.dir)).expect("it is in order");
        assert_eq!(config.jails.len(), JAILS.len(), "{:?}", config.warnings);
        let settings = StoreSettings { purgeage: self.purgeage, ..StoreSettings::default() };
        let store = Store::open(&self.dir.join("state"), settings, now).expect("a store");
        let mut agent = Agent::new(config, map, store, None, now);
        agent.restore(now).expect("a dry run takes everything");
        let (sender, lines) = mpsc::channel(64);
        let readers = agent.read(true, &sender, now).expect("a thread starts");
        self.agent = Some((agent, readers, lines));
    }

    /// Stops, and starts again, every second time with what a reboot leaves.
    fn restart(&mut self, now: f64) {
        let (mut agent, readers, lines) = self.agent.take().expect("it runs");
        drop((readers, lines));
        agent.stop(time(now));
        let map = std::mem::take(agent.map());
        drop(agent);
        self.restarts += 1;
        let map = if self.restarts.is_multiple_of(2) { DryRun::default() } else { map };
        self.start(map, now);
    }

    fn agent(&mut self) -> &mut Agent<DryRun> {
        &mut self.agent.as_mut().expect("it runs").0
    }

    /// The inode of a file, and its length.
    fn end(&self, number: usize) -> (u64, u64) {
        let data = self.dir.join(JAILS[number].1).metadata().expect("it is there");
        (data.ino(), data.len())
    }

    fn write(&mut self, number: usize, lines: &[&str]) -> usize {
        let path = self.dir.join(JAILS[number].1);
        let mut file = OpenOptions::new().append(true).open(path).expect("it is there");
        let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        file.write_all(text.as_bytes()).expect("it is writable");
        lines.len()
    }

    /// Waits until the readers have handed over so many lines of all files; at a start, until they are at the end of each,
    /// too, after what is read again. Takes them to the agent file by file, as the other side does.
    fn take(&mut self, expected: usize, is_start: bool, now: f64) -> Vec<Event> {
        let mut batches: BTreeMap<(bool, usize), Vec<Batch>> = BTreeMap::new();
        let (mut was_again, mut was_new) = (0, 0);
        let mut unfinished: Vec<_> =
            (0..JAILS.len()).filter(|file| is_start && self.end(*file).1 > 0).collect();
        let deadline = Instant::now() + PATIENCE;
        while was_new < expected || !unfinished.is_empty() {
            let Ok(batch) = self.agent.as_mut().expect("it runs").2.try_recv() else {
                let files = || unfinished.iter().map(|file| JAILS[*file].1).collect::<Vec<_>>();
                assert!(
                    Instant::now() < deadline,
                    "{was_new} of {expected} lines, not to the end: {:?}",
                    files()
                );
                sleep(Duration::from_micros(500));
                continue;
            };
            let is_new = batch.reading != Reading::Again;
            *(if is_new { &mut was_new } else { &mut was_again }) += batch.lines.len();
            let file = JAILS.iter().position(|(_, file)| batch.source.ends_with(&format!("/{file}")));
            let file = file.expect("a file of ours");
            let (inode, length) = self.end(file);
            unfinished.retain(|unfinished| {
                *unfinished != file || !batch.position.contains(&format!(" {inode} {length} "))
            });
            batches.entry((is_new, file)).or_default().push(batch);
        }
        assert_eq!(was_new, expected, "at {now}, no line twice: {batches:#?}");
        assert!(is_start || was_again == 0, "at {now}, only a start reads lines again: {batches:#?}");
        let mut events = Vec::new();
        for batch in batches.into_values().flatten() {
            // One line at a time, so that the end of a ban can be asked for as it is at once.
            let one = |line| Batch {
                lines: vec![line],
                source: batch.source.clone(),
                position: batch.position.clone(),
                reading: batch.reading,
            };
            for line in batch.lines.clone() {
                self.agent().batch(one(line), time(now));
                events.extend(self.events(now));
            }
        }
        events
    }

    /// What the agent has said since it was asked last.
    fn events(&mut self, now: f64) -> Vec<Event> {
        let said = std::mem::take(&mut *self.heard.0.lock().expect("nobody panicked"));
        let mut events = Vec::new();
        for text in said {
            let words: Vec<_> = text.split(' ').collect();
            let jail = words[0].trim_matches(['[', ']']);
            match words[1..] {
                ["Ban", ip] => events.push(self.event("ban", jail, ip, now)),
                ["Unban", ip] => {
                    self.ends.remove(&(jail.to_owned(), ip.to_owned()));
                    events.push(Event::new("unban", jail, ip, None));
                }
                [ip, "already", "banned"] => {
                    let before = self.ends[&(jail.to_owned(), ip.to_owned())];
                    let event = self.event("prolong", jail, ip, now);
                    if event.3 != before {
                        events.push(event);
                    }
                }
                _ => {}
            }
        }
        events
    }

    fn event(&mut self, kind: &str, jail: &str, ip: &str, now: f64) -> Event {
        let end = self.bans(jail, now).remove(ip).expect("it is banned");
        self.ends.insert((jail.to_owned(), ip.to_owned()), end);
        Event::new(kind, jail, ip, end)
    }

    /// Who is banned by a jail, and until when.
    fn bans(&mut self, jail: &str, now: f64) -> BTreeMap<String, Option<f64>> {
        let Answer::JailBans { bans } =
            self.agent().answer(Request::JailBans { jail: jail.into() }, time(now))
        else {
            panic!("no answer");
        };
        let end = |until| match until {
            Until::Forever => None,
            Until::Time(end) => Some(seconds(end)),
        };
        bans.into_iter().map(|ban| (ban.address.to_string(), end(ban.until))).collect()
    }

    fn tick(&mut self, tick: &Tick) -> Vec<Event> {
        let now = tick.now;
        let mut expected = 0;
        for number in 0..JAILS.len() {
            let lines: Vec<_> = tick
                .lines
                .iter()
                .filter(|(file, _)| *file == number)
                .map(|(_, text)| text.as_str())
                .collect();
            if !lines.is_empty() {
                expected += self.write(number, &lines);
            }
        }
        if tick.kind == Kind::Down {
            self.unread += expected;
            return Vec::new();
        }
        if tick.kind == Kind::Start {
            expected += std::mem::take(&mut self.unread);
            self.restart(now);
        }
        self.agent().expire(time(now));
        self.agent().sweep(time(now));
        if tick.purge {
            self.agent().purge(time(now));
        }
        let mut events = self.events(now);
        events.extend(self.take(expected, tick.kind == Kind::Start, now));
        let date =
            Timestamp::from_second(now as i64).expect("a date").strftime("%Y-%m-%d %H:%M:%S").to_string();
        let bans: Vec<_> = events
            .iter()
            .filter(|Event(kind, ..)| kind == "ban")
            .map(|Event(_, jail, ip, _)| {
                format!("{date},000 fail2ban.actions        [1]: NOTICE  [{jail}] Ban {ip}")
            })
            .collect();
        let count = self.write(JAILS.len() - 1, &bans.iter().map(String::as_str).collect::<Vec<_>>());
        events.extend(self.take(count, false, now));
        if tick.kind == Kind::Start {
            self.ends.clear();
            for (jail, _) in JAILS {
                for (ip, end) in self.bans(jail, now) {
                    self.ends.insert((jail.to_owned(), ip.clone()), end);
                    events.push(Event::new("held", jail, &ip, end));
                }
            }
        }
        for &(number, by_rename) in &tick.rotate {
            self.rotate(number, by_rename);
        }
        events
    }

    fn rotate(&mut self, number: usize, by_rename: bool) {
        let path = self.dir.join(JAILS[number].1);
        // Each has a name of its own: the readers look at an old file for longer than days take here.
        self.rotations += 1;
        let old = self.dir.join(format!("{}.{}", JAILS[number].1, self.rotations));
        if by_rename {
            fs::rename(&path, &old).expect("it is there");
            File::create(&path).expect("it is writable");
        } else {
            fs::copy(&path, &old).expect("it is there");
            OpenOptions::new().write(true).truncate(true).open(&path).expect("it is there");
        }
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
