//! The real map of bans, and the programs that read it.

use std::{
    path::PathBuf,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData, PerCpuArray, PerCpuValues},
};
use f2b_ebpf::{BANS, BanEntry, BanKey, COUNTERS, Counters, EVENTS, LINES, v1};
use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{
    BanMap, Busy, InterfaceStatus, MapBan, Mode, ScopeStatus,
    attach::{self, Attached, Plan, Programs},
    batch,
    events::Events,
    lines::Lines,
    maps::{Maps, copy_bans, take},
    pins::{MAPS, Pin, Pins, V1_BANS, V1_COUNTERS},
};
use crate::{
    ban::{Change, Scopes, Subject},
    net::{Interface, Net},
    scope::Scope,
};

/// The compiled kernel half, as it is loaded; public for tests that run frames through it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/f2b"));

/// How the kernel half is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interfaces by name; none: those of the default routes.
    pub interfaces: Vec<String>,
    /// Only this mode; `None`: native, else generic, else tc.
    pub mode: Option<Mode>,
    pub pin_dir: PathBuf,
    /// How many bans of addresses must fit.
    pub max_bans: u32,
    /// How many drops a second each CPU reports for the log; 0: none.
    pub log_drops: u32,
}

/// The loaded programs, their pinned maps and links.
pub struct Kernel {
    maps: Maps,
    /// To be pinned once the programs run.
    lines: Option<Map>,
    programs: Programs,
    protected: Vec<Protected>,
    /// Whether the interfaces of default routes are protected, whichever those are.
    follows_routes: bool,
    events: Events,
    pins: Pins,
}

/// An interface that is to be protected.
struct Protected {
    name: String,
    /// Its index, if it is there.
    index: Option<u32>,
    /// What [`Kernel::attach`] is to do.
    plan: Option<(Interface, Plan)>,
    state: State,
}

enum State {
    Attached(Attached),
    /// Not now, and why.
    Not(String),
}

impl Kernel {
    /// Checks everything, then loads the program and opens, creates or takes over its maps. Nothing is attached yet, so
    /// that bans can be restored first.
    ///
    /// # Errors
    /// One sentence that says what to do. What was made until then is removed again.
    pub async fn open(options: Options, net: &Net) -> Result<Self> {
        let all = net.interfaces().await?;
        let follows_routes = options.interfaces.is_empty();
        let names = if follows_routes {
            default_interfaces(&all, &net.default_route_interfaces().await?)?
        } else {
            named_interfaces(&all, &options.interfaces)?
        };
        let mut pins = Pins::open(&options.pin_dir)?;
        let mut protected = Vec::new();
        for name in names {
            let mut one = Protected { name, index: None, plan: None, state: not_there() };
            if let Some(interface) = all.iter().find(|interface| interface.name == one.name) {
                one.index = Some(interface.index);
                let plan = attach::plan(interface, &pins.link(&one.name), options.mode)?;
                one.plan = Some((interface.clone(), plan));
            } else {
                warn!(
                    interface = one.name,
                    "There is no such interface yet; it is protected once it appears"
                );
            }
            protected.push(one);
        }
        let mut ebpf = load_maps(&mut pins, options.max_bans)?;
        let lines = ebpf.take_map(LINES).context("the object has no lines")?;
        let mut maps = Maps::take(&mut ebpf, &lines, options.max_bans)?;
        maps.recount()?;
        let events = Events::new(take(&mut ebpf, EVENTS)?, options.log_drops);
        let programs = Programs::load(ebpf, options.mode)?;
        Ok(Self { maps, lines: Some(lines), programs, protected, follows_routes, events, pins })
    }

    /// Puts the program on its interfaces. From here on the maps count.
    ///
    /// # Errors
    /// As [`open`](Self::open); nothing stays attached that was not before.
    pub fn attach(&mut self) -> Result<()> {
        for protected in &mut self.protected {
            let Some((interface, plan)) = protected.plan.take() else { continue };
            protected.state = State::Attached(self.programs.attach(&interface, plan, &mut self.pins)?);
        }
        self.pins.keep();
        // Whatever read them reads ours now.
        self.pins.remove_old_layout()?;
        if let Some(lines) = self.lines.take() {
            let (before, path) = self.pins.lines()?;
            if let Some(before) = before {
                self.maps.count_on(&Lines::new(&before)?)?;
            }
            self.pins.put(&lines, &path)?;
            self.pins.keep();
        }
        self.maps.end_by_hand()?;
        self.events.start(&mut self.maps)
    }

    /// Protects an interface that has appeared, or has come back.
    fn appeared(&mut self, at: usize, interface: &Interface) {
        let pin = self.pins.link(&interface.name);
        let attached = attach::plan(interface, &pin, self.programs.mode())
            .and_then(|plan| self.programs.attach(interface, plan, &mut self.pins));
        self.pins.keep();
        let protected = &mut self.protected[at];
        protected.index = Some(interface.index);
        protected.state = match attached {
            Ok(attached) => State::Attached(attached),
            Err(error) => {
                error!(interface = interface.name, "The interface is not protected: {error:#}");
                State::Not(format!("{error:#}"))
            }
        };
    }
}

impl BanMap for Kernel {
    fn set_all(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        now: SystemTime,
    ) -> Result<Vec<(Subject, anyhow::Error)>> {
        self.maps.set_all(changes, now)
    }

    fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>> {
        self.maps.bans(now)
    }

    fn scope(&mut self, scope: &Scope, in_use: Scopes) -> Result<u32> {
        self.maps.scope(scope, in_use)
    }

    fn scopes(&self) -> Result<Vec<ScopeStatus>> {
        self.maps.scope_status()
    }

    fn allow(&mut self, nets: &[IpNet]) -> Result<()> {
        self.maps.allow(nets)
    }

    fn counters(&self) -> Result<Counters> {
        self.maps.counters(None)
    }

    fn interfaces(&self) -> Result<Vec<InterfaceStatus>> {
        let status = |protected: &Protected| {
            let (mode, reason) = match &protected.state {
                State::Attached(Attached { mode, reason }) => (Some(*mode), reason.clone()),
                State::Not(reason) => (None, Some(reason.clone())),
            };
            let packets = protected.index.map(|index| self.maps.counters(Some(index))).transpose()?;
            let packets = packets.unwrap_or_default().into();
            Ok(InterfaceStatus { name: protected.name.clone(), mode, reason, packets })
        };
        self.protected.iter().map(status).collect()
    }

    fn follow(&mut self, all: &[Interface], default_routes: &[u32]) {
        if self.follows_routes {
            for interface in all.iter().filter(|interface| default_routes.contains(&interface.index)) {
                if !self.protected.iter().any(|protected| protected.name == interface.name) {
                    let name = interface.name.clone();
                    self.protected.push(Protected { name, index: None, plan: None, state: not_there() });
                }
            }
        }
        for at in 0..self.protected.len() {
            let Protected { name, index, .. } = &self.protected[at];
            match all.iter().find(|interface| interface.name == *name) {
                Some(interface) if *index != Some(interface.index) => self.appeared(at, interface),
                None if index.is_some() => {
                    warn!(interface = name, "The interface is gone; it is protected again once it is back");
                    self.protected[at].index = None;
                    self.protected[at].state = not_there();
                }
                _ => {}
            }
        }
    }

    fn capacity(&self) -> u32 {
        self.maps.capacity()
    }

    fn gather_counts(&mut self) -> Result<()> {
        self.maps.gather_counts()
    }

    fn busy(&mut self) -> Result<Vec<Busy>> {
        self.events.watch(&mut self.maps, Instant::now())
    }

    fn reports(&self) -> bool {
        self.events.is_wanted()
    }

    fn take_reports(&mut self) -> Result<()> {
        self.events.take(&mut self.maps, Instant::now())
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Err(error) = self.events.stop(&mut self.maps) {
            warn!("The programs go on reporting what they drop: {error:#}");
        }
    }
}

fn not_there() -> State {
    State::Not("the interface is not there".into())
}

/// Opens the pinned maps, and makes those that are missing. A map of bans of another size, or of the layout before this
/// one, is taken over into a new one, which takes its place only once it is complete.
fn load_maps(pins: &mut Pins, max_bans: u32) -> Result<Ebpf> {
    let mask = Lines::mask(max_bans);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(BANS, max_bans);
    Lines::size(&mut loader, &mask);
    let (mut bans_pin, mut fresh_counters) = (None, false);
    for map in &MAPS {
        let entries = if map.name == BANS { max_bans } else { map.max_entries };
        match pins.map(map, entries)? {
            Pin::Same(path) => {
                loader.map_pin_path(map.name, path);
            }
            Pin::Missing(path) if map.name != BANS => {
                fresh_counters |= map.name == COUNTERS;
                pins.made(path.clone());
                loader.map_pin_path(map.name, path);
            }
            pin => bans_pin = Some(pin),
        }
    }
    let mut ebpf = loader.load(OBJECT).context("loading the maps into the kernel")?;
    let Some(pin) = bans_pin else {
        return Ok(ebpf);
    };
    let path = match pin {
        Pin::Same(path) => path,
        Pin::Resized(path) => {
            let old = HashMap::try_from(Map::from_map_data(MapData::from_pin(&path)?)?)?;
            let bans = take_over::<BanEntry>(&old, &mut ebpf, max_bans)?;
            info!(bans, max_bans, "Took the bans over into a map of another size");
            path
        }
        Pin::Missing(path) => {
            if let Some(old) = pins.old_map(&V1_BANS)? {
                let old = HashMap::try_from(Map::from_map_data(MapData::from_pin(old)?)?)?;
                let bans = take_over::<v1::Ban>(&old, &mut ebpf, max_bans)?;
                info!(bans, "Took the bans over from layout 1");
                if fresh_counters {
                    take_over_counters(pins, &mut ebpf)?;
                }
            }
            path
        }
    };
    pins.put(ebpf.map(BANS).context("the object has no map of bans")?, &path)?;
    Ok(ebpf)
}

fn take_over<V: aya::Pod + Into<BanEntry>>(
    old: &HashMap<MapData, BanKey, V>,
    ebpf: &mut Ebpf,
    max_bans: u32,
) -> Result<u32> {
    let mut there = 0;
    batch::read(old, |keys, _| there += keys.len()).context("reading the old map of bans")?;
    if there > max_bans as usize {
        bail!("max_bans = {max_bans} is less than the {there} bans in the kernel; raise it in f2b.local");
    }
    let new = ebpf.map_mut(BANS).context("the object has no map of bans")?;
    copy_bans(old, &mut HashMap::try_from(new)?)
}

/// What layout 1 has counted, into entry 0: no interface has the index 0.
fn take_over_counters(pins: &Pins, ebpf: &mut Ebpf) -> Result<()> {
    let Some(old) = pins.old_map(&V1_COUNTERS)? else {
        return Ok(());
    };
    let old = PerCpuArray::<_, v1::Counters>::try_from(Map::from_map_data(MapData::from_pin(old)?)?)?;
    let counted = old.get(&0, 0)?;
    let per_cpu = counted.iter().map(|&[passed, dropped, lapsed, not_ip, malformed]| Counters {
        passed,
        dropped,
        lapsed,
        not_ip,
        malformed,
        ..Counters::default()
    });
    let new = ebpf.map_mut(COUNTERS).context("the object has no counters")?;
    let mut new = PerCpuArray::<_, Counters>::try_from(new)?;
    new.set(0, PerCpuValues::try_from(per_cpu.collect::<Vec<_>>())?, 0).context("writing the counters")
}

/// The interfaces of the default routes.
fn default_interfaces(all: &[Interface], routes: &[u32]) -> Result<Vec<String>> {
    let chosen = all.iter().filter(|interface| routes.contains(&interface.index));
    let chosen: Vec<_> = chosen.map(|interface| interface.name.clone()).collect();
    if chosen.is_empty() {
        bail!("there is no default route to tell which interface to protect; name it with -i");
    }
    Ok(chosen)
}

/// The interfaces that are named, each once. One of them must be there; others may appear later.
fn named_interfaces(all: &[Interface], names: &[String]) -> Result<Vec<String>> {
    let is_there = |name: &String| all.iter().any(|interface| interface.name == *name);
    if let Some(name) = names.first().filter(|_| !names.iter().any(is_there)) {
        let known = all.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
        bail!("there is no interface \"{name}\"; there are {known}");
    }
    let mut chosen: Vec<String> = Vec::new();
    for name in names {
        if !chosen.contains(name) {
            chosen.push(name.clone());
        }
    }
    Ok(chosen)
}
