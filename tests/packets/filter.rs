//! A program with its maps: no interface, no pins, no agent.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{
        Array, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf,
        lpm_trie::Key,
    },
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp},
};
use f2b::xdp::{Lines, OBJECT};
use f2b_ebpf::{
    ALL_PORTS, ALLOWED, AllowEntry, BANS, BanEntry, BanKey, COUNTERS, Counters, DropEvent, EVENTS, FOREVER,
    LINES, PORTS, PREFIXES, PROGRAM, PROGRAM_LINEAR, PROGRAM_TC, PortScopes, SCOPE_COUNTERS, SETTINGS,
    ScopeCounters, Settings, Slot, counters_of,
};
use ipnet::IpNet;
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Uid,
};

use super::Frame;

/// Few lines, so that they are full soon.
const LAST_LINE: u32 = 1;

/// Which of the programs: all must decide alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// XDP, frames in several buffers.
    Xdp,
    /// XDP of kernels before 5.18.
    Linear,
    Tc,
}

impl Place {
    pub const ALL: [Self; 3] = [Self::Xdp, Self::Linear, Self::Tc];

    fn program(self) -> &'static str {
        match self {
            Self::Xdp => PROGRAM,
            Self::Linear => PROGRAM_LINEAR,
            Self::Tc => PROGRAM_TC,
        }
    }

    /// What the program returns.
    fn action(self, returned: u32) -> Action {
        match (self, returned) {
            (Self::Xdp | Self::Linear, 1) | (Self::Tc, 2) => Action::Drop,
            (Self::Xdp | Self::Linear, 2) | (Self::Tc, u32::MAX) => Action::Pass,
            _ => panic!("f2b only drops or passes, this is verdict {returned}"),
        }
    }
}

/// The two things that f2b does to a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Drop,
    Pass,
}

/// What becomes of a frame: the names of the [`Counters`].
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    Passed,
    Dropped,
    Lapsed,
    OtherPorts,
    Allowed,
    NotIp,
    Malformed,
}

impl Verdict {
    /// What the program must return.
    pub fn action(self) -> Action {
        if matches!(self, Self::Dropped) { Action::Drop } else { Action::Pass }
    }

    /// What the program must return, and the one counter that must have risen, by one.
    pub fn outcome(self) -> (Action, Counters) {
        let mut counters = Counters::default();
        *match self {
            Self::Passed => &mut counters.passed,
            Self::Dropped => &mut counters.dropped,
            Self::Lapsed => &mut counters.lapsed,
            Self::OtherPorts => &mut counters.other_ports,
            Self::Allowed => &mut counters.allowed,
            Self::NotIp => &mut counters.not_ip,
            Self::Malformed => &mut counters.malformed,
        } = 1;
        (self.action(), counters)
    }
}

/// A program with its maps.
pub struct Filter {
    ebpf: Ebpf,
    place: Place,
    bans: HashMap<MapData, BanKey, BanEntry>,
    lines: Arc<Mutex<Lines>>,
    prefixes: LpmTrie<MapData, BanKey, BanEntry>,
    allowed: LpmTrie<MapData, BanKey, AllowEntry>,
    ports: Array<MapData, PortScopes>,
    scope_counters: PerCpuArray<MapData, ScopeCounters>,
    counters: PerCpuArray<MapData, Counters>,
    settings: Array<MapData, Settings>,
    events: RingBuf<MapData>,
}

impl Filter {
    /// Nothing is banned.
    pub fn load(place: Place) -> Self {
        Self::load_object(OBJECT, place)
    }

    /// The same of an object that is ours but for some instructions.
    pub fn load_object(object: &[u8], place: Place) -> Self {
        assert!(Uid::effective().is_root(), "loading an XDP program needs root; run: cargo xtask test");
        let mut loader = EbpfLoader::new();
        Lines::size(&mut loader, &LAST_LINE);
        let mut ebpf = loader.load(object).expect("the kernel takes the maps");
        let lines = Lines::new(ebpf.map(LINES).expect("the object has the map"))
            .expect("the kernel shows its memory");
        let program = ebpf.program_mut(place.program()).expect("the object has the program");
        match place {
            Place::Tc => <&mut SchedClassifier>::try_from(program).expect("it is for tc").load(),
            Place::Xdp | Place::Linear => <&mut Xdp>::try_from(program).expect("it is for XDP").load(),
        }
        .expect("the verifier takes the program");
        Self {
            place,
            bans: map(&mut ebpf, BANS),
            lines: Arc::new(Mutex::new(lines)),
            prefixes: map(&mut ebpf, PREFIXES),
            allowed: map(&mut ebpf, ALLOWED),
            ports: map(&mut ebpf, PORTS),
            scope_counters: map(&mut ebpf, SCOPE_COUNTERS),
            counters: map(&mut ebpf, COUNTERS),
            settings: map(&mut ebpf, SETTINGS),
            events: map(&mut ebpf, EVENTS),
            ebpf,
        }
    }

    /// Has the program for tc judge what arrives at an interface, until it is dropped.
    pub fn attach(&mut self, interface: &str) {
        let program = self.ebpf.program_mut(PROGRAM_TC).expect("the object has the program");
        let program = <&mut SchedClassifier>::try_from(program).expect("it is for tc");
        program.attach(interface, TcAttachType::Ingress).expect("nothing else is there");
    }

    /// How many instructions the kernel's verifier looked at to take the program.
    pub fn verified_instructions(&self) -> u32 {
        let program = self.ebpf.program(self.place.program()).expect("the object has the program");
        let info = program.info().expect("the program can be looked at");
        info.verified_instruction_count().expect("kernels from 5.16 tell")
    }

    /// Bans `address` in these slots, the rest of which stay empty.
    pub fn ban(&mut self, address: IpAddr, slots: &[Slot]) {
        ban(&mut self.bans, &self.lines, address, slots);
    }

    /// The same map of bans, to be changed while packets run.
    pub fn updates(&self) -> Updates {
        let id = self.bans.map().info().expect("it is there").id();
        let bans = Map::from_map_data(MapData::from_id(id).expect("root may open it")).expect("a known kind");
        Updates { bans: bans.try_into().expect("bans are a hash map"), lines: Arc::clone(&self.lines) }
    }

    /// Bans a prefix. The value of a longer one must include that of those around it.
    pub fn ban_prefix(&mut self, prefix: &str, slots: &[Slot]) {
        self.prefixes.insert(&prefix_key(prefix), entry(slots), 0).expect("there is room");
        self.change_settings(|settings| settings.prefixes += 1);
    }

    pub fn allow(&mut self, prefix: &str) {
        self.allowed.insert(&prefix_key(prefix), AllowEntry::default(), 0).expect("there is room");
        self.change_settings(|settings| settings.allowed += 1);
        self.allow_in_lines();
    }

    /// Has the lines know what is on the allow list.
    fn allow_in_lines(&mut self) {
        let keys = self.allowed.keys().map(|key| key.expect("the list can be read"));
        let mut lines = locked(&self.lines);
        for key in lines.allow(keys.map(|key| (key.data(), key.prefix_len()))) {
            lines.set(key, &self.bans.get(&key, 0).expect("it is banned"), true);
        }
    }

    /// Gives scope number `scope` a port.
    pub fn define_tcp(&mut self, scope: u32, port: u16) {
        let mut scopes = self.ports.get(&u32::from(port), 0).expect("there is every port");
        scopes.tcp |= 1 << scope;
        self.ports.set(u32::from(port), scopes, 0).expect("there is every port");
    }

    /// Gives scope number `scope` a port.
    pub fn define_udp(&mut self, scope: u32, port: u16) {
        let mut scopes = self.ports.get(&u32::from(port), 0).expect("there is every port");
        scopes.udp |= 1 << scope;
        self.ports.set(u32::from(port), scopes, 0).expect("there is every port");
    }

    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.get(&0, 0).expect("the one entry");
        change(&mut settings);
        self.settings.set(0, settings, 0).expect("the one entry");
    }

    /// The ban of `address`, with all that it has counted.
    pub fn entry(&self, address: IpAddr) -> BanEntry {
        let key = BanKey::from(address);
        let entry = self.bans.get(&key, 0).expect("it has a ban");
        let in_line = locked(&self.lines).packets(key);
        BanEntry { packets: entry.packets + in_line, ..entry }
    }

    /// The ban of a prefix.
    pub fn prefix_entry(&self, prefix: &str) -> BanEntry {
        self.prefixes.get(&prefix_key(prefix), 0).expect("it has a ban")
    }

    /// The packets that passed because of an entry of the allow list.
    pub fn allowed(&self, prefix: &str) -> u64 {
        self.allowed.get(&prefix_key(prefix), 0).expect("it is in the list").packets
    }

    /// What was dropped in a scope's name, over all CPUs.
    pub fn scope(&self, scope: u32) -> ScopeCounters {
        let per_cpu = self.scope_counters.get(&scope, 0).expect("there are 64");
        let sum = |field: fn(&ScopeCounters) -> u64| per_cpu.iter().map(field).sum();
        ScopeCounters { packets: sum(|cpu| cpu.packets), bytes: sum(|cpu| cpu.bytes) }
    }

    /// The counters of the interface that test runs arrive at (`lo`), over all CPUs.
    pub fn counters(&self) -> Counters {
        self.counters_at(1)
    }

    /// The counters of an interface, over all CPUs.
    pub fn counters_at(&self, index: u32) -> Counters {
        let mut sum = Counters::default();
        for cpu in self.counters.get(&counters_of(index), 0).expect("there are 256").iter() {
            sum += *cpu;
        }
        sum
    }

    /// The events reported since the last call.
    pub fn events(&mut self) -> Vec<DropEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.events.next() {
            events.push(DropEvent::from_bytes(&event).expect("an event of the size agreed on"));
        }
        events
    }

    /// Runs `frame` through the program once: what that returned, and how the counters have changed.
    pub fn judge(&self, frame: &Frame) -> (Action, Counters) {
        let before = self.counters();
        let action = self.run(frame, 1);
        (action, combine(self.counters(), before, u64::wrapping_sub))
    }

    /// The same of a frame of which only so many bytes lie in the first buffer.
    pub fn judge_apart(&self, frame: &Frame, linear: usize) -> (Action, Counters) {
        assert_eq!(self.place, Place::Xdp, "the others take no frames in several buffers");
        let before = self.counters();
        let program = self.ebpf.program(self.place.program()).expect("the object has the program");
        // `struct xdp_md`: its second field is where the first buffer ends.
        let mut context = [0; 24];
        let linear = u32::try_from(linear).expect("frames are short");
        context[4..8].copy_from_slice(&linear.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(&frame.0),
            ctx_in: Some(&context),
            repeat: 1,
            ..Default::default()
        };
        let result = <&Xdp>::try_from(program).expect("it is for XDP").test_run(options);
        let action = self.place.action(result.expect("Linux 6.18 or newer").return_value);
        (action, combine(self.counters(), before, u64::wrapping_sub))
    }

    /// Runs `frame` through the program `repeat` times on this CPU.
    pub fn run(&self, frame: &Frame, repeat: u32) -> Action {
        let program = self.ebpf.program(self.place.program()).expect("the object has the program");
        let options = TestRunOptions { data_in: Some(&frame.0), repeat, ..Default::default() };
        let result = match self.place {
            Place::Tc => <&SchedClassifier>::try_from(program).expect("it is for tc").test_run(options),
            Place::Xdp | Place::Linear => <&Xdp>::try_from(program).expect("it is for XDP").test_run(options),
        };
        self.place.action(result.expect("the kernel runs frames of 14 bytes and more").return_value)
    }
}

/// A second door to the bans of a [`Filter`].
pub struct Updates {
    bans: HashMap<MapData, BanKey, BanEntry>,
    lines: Arc<Mutex<Lines>>,
}

impl Updates {
    /// As [`Filter::ban`].
    pub fn ban(&mut self, address: IpAddr, slots: &[Slot]) {
        ban(&mut self.bans, &self.lines, address, slots);
    }

    pub fn unban(&mut self, address: IpAddr) {
        let key = BanKey::from(address);
        locked(&self.lines).remove(key);
        self.bans.remove(&key).expect("it is banned");
    }
}

fn ban(bans: &mut HashMap<MapData, BanKey, BanEntry>, lines: &Mutex<Lines>, address: IpAddr, slots: &[Slot]) {
    let (key, entry) = (BanKey::from(address), entry(slots));
    bans.insert(key, entry, 0).expect("there is room");
    locked(lines).set(key, &entry, true);
}

fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().expect("nobody has panicked with it")
}

fn map<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> M {
    let map = ebpf.take_map(name).unwrap_or_else(|| panic!("the object has the map {name}"));
    map.try_into().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn entry(slots: &[Slot]) -> BanEntry {
    let mut entry = BanEntry::default();
    entry.slots[..slots.len()].copy_from_slice(slots);
    entry
}

fn prefix_key(prefix: &str) -> Key<BanKey> {
    let prefix: IpNet = prefix.parse().expect("a prefix");
    let shorter = if prefix.addr().is_ipv4() { 96 } else { 0 };
    Key::new(shorter + u32::from(prefix.prefix_len()), BanKey::from(prefix.addr()))
}

/// A ban of everything until then.
pub fn all_ports(end: Duration) -> [Slot; 1] {
    [slot(end, 1 << ALL_PORTS)]
}

/// A ban of these scopes until then.
pub fn slot(end: Duration, scopes: u64) -> Slot {
    let ends_ns = if end == Duration::MAX { FOREVER } else { nanoseconds(end) };
    Slot { ends_ns, scopes }
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().expect("the machine is younger than 500 years")
}

/// Adds or subtracts counters, field by field.
pub fn combine(a: Counters, b: Counters, with: fn(u64, u64) -> u64) -> Counters {
    Counters {
        passed: with(a.passed, b.passed),
        dropped: with(a.dropped, b.dropped),
        lapsed: with(a.lapsed, b.lapsed),
        other_ports: with(a.other_ports, b.other_ports),
        allowed: with(a.allowed, b.allowed),
        not_ip: with(a.not_ip, b.not_ip),
        malformed: with(a.malformed, b.malformed),
    }
}

pub fn sum(counters: Counters) -> u64 {
    let Counters { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } = counters;
    passed + dropped + lapsed + other_ports + allowed + not_ip + malformed
}

/// The kernel's clock that bans end by.
pub fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into()
}
