//! The packet table: frames through the real XDP program by the kernel's `BPF_PROG_TEST_RUN`, no network needed.
//!
//! - [`Frame`] builds a frame layer by layer
//! - [`Filter`] is the program with its maps, on no interface
//! - [`Verdict`] says what becomes of a frame, and under which counter it must be found

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Barrier,
    thread,
    time::Duration,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use f2b::xdp::OBJECT;
use f2b_ebpf::{BANS, BanEntry, BanKey, COUNTERS, Counters, FOREVER, PROGRAM};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
    unistd::{Pid, Uid},
};

/// The sources of one family, each named for what is known about it.
struct Sources {
    free: IpAddr,
    banned: IpAddr,
    for_ever: IpAddr,
    over: IpAddr,
}

const V4: Sources = Sources { free: v4(1), banned: v4(2), for_ever: v4(3), over: v4(4) };
const V6: Sources = Sources { free: v6(1), banned: v6(2), for_ever: v6(3), over: v6(4) };

const fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

const fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))
}

const ETHERNET: usize = 14;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const OLD_QINQ: u16 = 0x9100;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;

#[test]
fn every_frame_gets_its_verdict_and_is_counted_once() {
    use Verdict::{Dropped, Lapsed, Malformed, NotIp, Passed};

    let mut table = Vec::new();
    for (family, icmp, sources) in [("IPv4", ICMP, V4), ("IPv6", ICMPV6, V6)] {
        let Sources { free, banned, for_ever, over } = sources;
        let rows = [
            ("not banned", udp(free), Passed),
            ("banned", udp(banned), Dropped),
            ("banned for ever", udp(for_ever), Dropped),
            ("its ban is over", udp(over), Lapsed),
            ("banned, TCP", Frame::new().ip(banned).carrying(TCP, &[0; 20]), Dropped),
            ("banned, ICMP", Frame::new().ip(banned).carrying(icmp, &[0; 8]), Dropped),
            ("banned, unknown protocol", Frame::new().ip(banned).carrying(253, &[0; 3]), Dropped),
            ("banned, nothing in it", Frame::new().ip(banned), Dropped),
            ("banned, as long as an MTU", Frame::new().ip(banned).carrying(UDP, &[0; 1460]), Dropped),
            ("banned, VLAN", Frame::new().tag(VLAN).ip(banned), Dropped),
            ("banned, service VLAN", Frame::new().tag(SERVICE_VLAN).ip(banned), Dropped),
            ("banned, QinQ", Frame::new().tag(SERVICE_VLAN).tag(VLAN).ip(banned), Dropped),
            ("banned, old QinQ", Frame::new().tag(OLD_QINQ).tag(VLAN).ip(banned), Dropped),
            ("not banned, QinQ", Frame::new().tag(SERVICE_VLAN).tag(VLAN).ip(free), Passed),
            ("its ban is over, VLAN", Frame::new().tag(VLAN).ip(over), Lapsed),
            ("banned, three VLAN tags", Frame::new().tag(VLAN).tag(VLAN).tag(VLAN).ip(banned), NotIp),
            ("banned, IP version 0", udp(banned).version(0), Malformed),
            ("banned, IP version 5", udp(banned).version(5), Malformed),
            ("banned, VLAN, IP version 15", Frame::new().tag(VLAN).ip(banned).version(15), Malformed),
        ];
        table.extend(rows.map(|(what, frame, verdict)| (format!("{family}, {what}"), frame, verdict)));
    }
    let (banned4, banned6, free6) = (V4.banned, V6.banned, V6.free);
    let rows = [
        ("IPv4, one option", Frame::new().ipv4_with_options(banned4, &[1; 4]), Dropped),
        ("IPv4, all options that fit", Frame::new().ipv4_with_options(banned4, &[1; 40]), Dropped),
        ("IPv4, options, not banned", Frame::new().ipv4_with_options(V4.free, &[1; 40]), Passed),
        ("IPv4, first fragment", udp(banned4).ipv4_fragment(0x2000), Dropped),
        ("IPv4, later fragment", udp(banned4).ipv4_fragment(185), Dropped),
        ("IPv4, in the Ethertype of IPv6", Frame::new().ethertype(0x86dd).append(&[0x45; 40]), Malformed),
        ("IPv6, in the Ethertype of IPv4", Frame::new().ethertype(0x0800).append(&[0x60; 40]), Malformed),
        ("IPv6, extension header", Frame::new().ip(banned6).carrying(HOP_BY_HOP, &[0; 8]), Dropped),
        ("IPv6, extension header, not banned", Frame::new().ip(free6).carrying(HOP_BY_HOP, &[0; 8]), Passed),
        ("IPv6, fragment", Frame::new().ip(banned6).carrying(FRAGMENT, &[0; 16]), Dropped),
        // One key for both spellings, so a banned IPv4 host is banned in this one too.
        ("IPv6, from a banned IPv4 address, mapped", udp(mapped(banned4)), Dropped),
        ("IPv6, from a free IPv4 address, mapped", udp(mapped(V4.free)), Passed),
        ("ARP", Frame::new().ethertype(0x0806).append(&[0; 28]), NotIp),
        ("ARP, VLAN", Frame::new().tag(VLAN).ethertype(0x0806).append(&[0; 28]), NotIp),
        ("LLDP", Frame::new().ethertype(0x88cc).append(&[0; 46]), NotIp),
        ("spanning tree: a length, no Ethertype", Frame::new().ethertype(38).append(&[0x42; 46]), NotIp),
        ("nothing but Ethernet", Frame::new().ethertype(0), NotIp),
    ];
    table.extend(rows.map(|(what, frame, verdict)| (what.to_owned(), frame, verdict)));

    let filter = Filter::with_bans();
    for (what, frame, verdict) in &table {
        assert_eq!(filter.judge(frame), verdict.outcome(), "{what}");
    }
    assert_eq!(sum(filter.counters()), table.len() as u64, "the counters add up to the frames");
}

#[test]
fn a_frame_is_malformed_until_its_fixed_ip_header_is_complete_and_judged_from_there() {
    let filter = Filter::with_bans();
    for tags in [&[] as &[u16], &[VLAN], &[SERVICE_VLAN, VLAN]] {
        for (source, ip_header, verdict) in [
            (V4.banned, 20, Verdict::Dropped),
            (V6.banned, 40, Verdict::Dropped),
            (V4.over, 20, Verdict::Lapsed),
            (V6.free, 40, Verdict::Passed),
        ] {
            let tagged = tags.iter().fold(Frame::new(), |frame, tag| frame.tag(*tag));
            let frame = tagged.ip(source).carrying(UDP, &[0; 12]);
            let headers = ETHERNET + 4 * tags.len() + ip_header;
            for length in ETHERNET..=frame.0.len() {
                let expected = if length < headers { Verdict::Malformed } else { verdict };
                let cut = Frame(frame.0[..length].to_vec());
                assert_eq!(filter.judge(&cut), expected.outcome(), "{source}, {tags:x?}, {length} bytes");
            }
        }
    }
}

#[test]
fn only_a_dropped_packet_is_counted_in_its_ban() {
    let filter = Filter::with_bans();
    for Sources { free, banned, for_ever, over } in [V4, V6] {
        for source in [free, banned, for_ever, over, banned] {
            filter.judge(&udp(source));
            filter.judge(&udp(source).version(1));
        }
        assert_eq!(filter.packets(banned), 2);
        assert_eq!(filter.packets(for_ever), 1);
        assert_eq!(filter.packets(over), 0);
    }
}

#[test]
fn the_destination_never_matters() {
    let filter = Filter::with_bans();
    let multicast: [IpAddr; 2] =
        [Ipv4Addr::new(224, 0, 0, 1).into(), Ipv6Addr::from(0xff02 << 112 | 1).into()];
    for destination in [V4.free, V4.banned, V4.over, V6.free, V6.banned, V6.over].into_iter().chain(multicast)
    {
        let Sources { free, banned, .. } = if destination.is_ipv4() { V4 } else { V6 };
        assert_eq!(filter.judge(&udp(free).to(destination)), Verdict::Passed.outcome(), "{destination}");
        assert_eq!(filter.judge(&udp(banned).to(destination)), Verdict::Dropped.outcome(), "{destination}");
    }
}

#[test]
fn every_bit_of_the_source_matters() {
    let filter = Filter::with_bans();
    let banned = u32::from_be_bytes([192, 0, 2, 2]);
    let neighbours = (0..32).map(|bit| IpAddr::V4(Ipv4Addr::from(banned ^ 1 << bit)));
    let banned = 0x2001_0db8 << 96 | 2;
    let neighbours = neighbours.chain((0..128).map(|bit| IpAddr::V6(Ipv6Addr::from(banned ^ 1 << bit))));
    let known = [V4.for_ever, V4.over, V6.for_ever, V6.over];
    for neighbour in neighbours.filter(|address| !known.contains(address)) {
        assert_eq!(filter.judge(&udp(neighbour)), Verdict::Passed.outcome(), "{neighbour}");
    }
}

#[test]
fn a_ban_lapses_in_the_kernel_within_a_timer_tick_of_its_end() {
    let mut filter = Filter::load();
    let end = monotonic() + Duration::from_millis(60);
    filter.ban(V4.banned, end);
    let mut last_drop = Duration::ZERO;
    loop {
        let now = monotonic();
        if filter.judge(&udp(V4.banned)) != Verdict::Dropped.outcome() {
            break;
        }
        last_drop = now;
    }
    assert!(monotonic() >= end, "not before its end");
    // A tick is 10 ms at most; the rest is for a busy machine.
    assert!(last_drop < end + Duration::from_millis(50), "late by {:?}", last_drop.saturating_sub(end));
    assert_eq!(filter.judge(&udp(V4.banned)), Verdict::Lapsed.outcome(), "and it stays so");
}

#[test]
fn two_cpus_that_drop_for_the_same_ban_lose_no_count() {
    const EACH: u32 = 1_000_000;
    let filter = Filter::with_bans();
    let frame = udp(V4.banned);
    let start = Barrier::new(2);
    thread::scope(|scope| {
        for cpu in two_cpus() {
            let (filter, frame, start) = (&filter, &frame, &start);
            scope.spawn(move || {
                sched_setaffinity(Pid::from_raw(0), &cpu).expect("the CPU is ours to use");
                start.wait();
                assert_eq!(filter.run(frame, EACH), Verdict::Dropped.action());
            });
        }
    });
    assert_eq!(filter.packets(V4.banned), 2 * u64::from(EACH));
}

/// What becomes of a frame: the names of the [`Counters`].
#[derive(Clone, Copy)]
enum Verdict {
    Passed,
    Dropped,
    Lapsed,
    NotIp,
    Malformed,
}

impl Verdict {
    /// What the program must return.
    fn action(self) -> Action {
        if matches!(self, Self::Dropped) { Action::Drop } else { Action::Pass }
    }

    /// What the program must return, and the one counter that must have risen, by one.
    fn outcome(self) -> (Action, Counters) {
        let mut counters = Counters::default();
        *match self {
            Self::Passed => &mut counters.passed,
            Self::Dropped => &mut counters.dropped,
            Self::Lapsed => &mut counters.lapsed,
            Self::NotIp => &mut counters.not_ip,
            Self::Malformed => &mut counters.malformed,
        } = 1;
        (self.action(), counters)
    }
}

/// XDP's verdicts that f2b knows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Drop,
    Pass,
}

/// The XDP program with its maps: no interface, no pins, no agent.
struct Filter {
    ebpf: Ebpf,
    bans: HashMap<MapData, BanKey, BanEntry>,
    counters: PerCpuArray<MapData, Counters>,
}

impl Filter {
    /// Nothing is banned.
    fn load() -> Self {
        assert!(Uid::effective().is_root(), "loading an XDP program needs root; run: cargo xtask test");
        let mut ebpf = EbpfLoader::new()
            .override_global(aya_log::LEVEL, &0u8, true)
            .load(OBJECT)
            .expect("the kernel takes the maps");
        let mut map = |name| ebpf.take_map(name).expect("the object has the map");
        let (bans, counters) = (map(BANS), map(COUNTERS));
        let program = ebpf.program_mut(PROGRAM).expect("the object has the program");
        let program: &mut Xdp = program.try_into().expect("it is for XDP");
        program.load().expect("the verifier takes the program");
        Self {
            ebpf,
            bans: bans.try_into().expect("bans are a hash map"),
            counters: counters.try_into().expect("counters are per CPU"),
        }
    }

    /// The bans of [`Sources`].
    fn with_bans() -> Self {
        let mut filter = Self::load();
        for Sources { banned, for_ever, over, .. } in [V4, V6] {
            filter.ban(banned, monotonic() + Duration::from_secs(3600));
            filter.ban(for_ever, Duration::from_nanos(FOREVER));
            filter.ban(over, monotonic());
        }
        // The kernel's coarse clock is up to a tick behind ours.
        thread::sleep(Duration::from_millis(20));
        filter
    }

    fn ban(&mut self, address: IpAddr, end: Duration) {
        let ends_ns = end.as_nanos().try_into().expect("the machine is younger than 500 years");
        let entry = BanEntry { ends_ns, packets: 0 };
        self.bans.insert(BanKey::from(address), entry, 0).expect("there is room");
    }

    /// The packets dropped because of the ban of `address`.
    fn packets(&self, address: IpAddr) -> u64 {
        self.bans.get(&BanKey::from(address), 0).expect("it has a ban").packets
    }

    /// All counters, over all CPUs.
    fn counters(&self) -> Counters {
        let per_cpu = self.counters.get(&0, 0).expect("the one entry");
        per_cpu.iter().fold(Counters::default(), |sum, cpu| combine(sum, *cpu, u64::wrapping_add))
    }

    /// Runs `frame` through the program once: what that returned, and how the counters have changed.
    fn judge(&self, frame: &Frame) -> (Action, Counters) {
        let before = self.counters();
        let action = self.run(frame, 1);
        (action, combine(self.counters(), before, u64::wrapping_sub))
    }

    /// Runs `frame` through the program `repeat` times on this CPU.
    fn run(&self, frame: &Frame, repeat: u32) -> Action {
        let program = self.ebpf.program(PROGRAM).expect("the object has the program");
        let program: &Xdp = program.try_into().expect("it is for XDP");
        let options = TestRunOptions { data_in: Some(&frame.0), repeat, ..Default::default() };
        match program.test_run(options).expect("the kernel runs frames of 14 bytes and more").return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            other => panic!("f2b only drops or passes, this is verdict {other}"),
        }
    }
}

/// Adds or subtracts counters, field by field.
fn combine(a: Counters, b: Counters, with: fn(u64, u64) -> u64) -> Counters {
    Counters {
        passed: with(a.passed, b.passed),
        dropped: with(a.dropped, b.dropped),
        lapsed: with(a.lapsed, b.lapsed),
        not_ip: with(a.not_ip, b.not_ip),
        malformed: with(a.malformed, b.malformed),
    }
}

fn sum(counters: Counters) -> u64 {
    let Counters { passed, dropped, lapsed, not_ip, malformed } = counters;
    passed + dropped + lapsed + not_ip + malformed
}

/// Two CPUs that this test may run on.
fn two_cpus() -> [CpuSet; 2] {
    let ours = sched_getaffinity(Pid::from_raw(0)).expect("a thread may ask for its CPUs");
    let mut cpus = (0..CpuSet::count()).filter(|cpu| ours.is_set(*cpu) == Ok(true));
    [(); 2].map(|()| {
        let mut one = CpuSet::new();
        one.set(cpus.next().expect("this test needs two CPUs")).expect("it is one of those counted");
        one
    })
}

/// The kernel's clock that bans end by.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into()
}

/// An Ethernet frame. Each method appends what comes next in it, or changes its IP header.
struct Frame(Vec<u8>);

/// A small UDP packet from `source`.
fn udp(source: IpAddr) -> Frame {
    Frame::new().ip(source).carrying(UDP, &[0; 18])
}

/// An IPv4 address in IPv6's spelling, `::ffff:a.b.c.d`.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

impl Frame {
    /// The two hardware addresses.
    fn new() -> Self {
        Self(vec![2; 12])
    }

    fn append(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn ethertype(self, ethertype: u16) -> Self {
        self.append(&ethertype.to_be_bytes())
    }

    /// A VLAN tag of this kind.
    fn tag(self, kind: u16) -> Self {
        self.ethertype(kind).append(&[0, 7])
    }

    /// An IP header without options, to some server.
    fn ip(self, source: IpAddr) -> Self {
        match source {
            IpAddr::V4(_) => self.ipv4_with_options(source, &[]),
            IpAddr::V6(v6) => {
                let frame = self.ethertype(0x86dd).append(&[0x60, 0, 0, 0, 0, 0, UDP, 64]);
                frame.append(&v6.octets()).append(&[0xfd; 16])
            }
        }
    }

    fn ipv4_with_options(self, source: IpAddr, options: &[u8]) -> Self {
        let IpAddr::V4(source) = source else { panic!("{source} is not IPv4") };
        let words = 5 + options.len() as u8 / 4;
        let frame = self.ethertype(0x0800).append(&[0x40 | words, 0, 0, 0, 0, 1, 0, 0, 64, UDP, 0, 0]);
        frame.append(&source.octets()).append(&[198, 51, 100, 1]).append(options)
    }

    /// A payload of this protocol.
    fn carrying(mut self, protocol: u8, payload: &[u8]) -> Self {
        let ip = self.ip_header();
        let place = if self.0[ip] >> 4 == 4 { ip + 9 } else { ip + 6 };
        self.0[place] = protocol;
        self.append(payload)
    }

    /// Another destination.
    fn to(mut self, destination: IpAddr) -> Self {
        let ip = self.ip_header();
        match destination {
            IpAddr::V4(v4) => self.0[ip + 16..][..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => self.0[ip + 24..][..16].copy_from_slice(&v6.octets()),
        }
        self
    }

    /// Another IP version in the header.
    fn version(mut self, version: u8) -> Self {
        let ip = self.ip_header();
        self.0[ip] = version << 4 | self.0[ip] & 0x0f;
        self
    }

    /// IPv4's fragment flags and offset.
    fn ipv4_fragment(mut self, field: u16) -> Self {
        let ip = self.ip_header();
        self.0[ip + 6..][..2].copy_from_slice(&field.to_be_bytes());
        self
    }

    /// Where the IP header begins: behind the hardware addresses, all tags and the Ethertype.
    fn ip_header(&self) -> usize {
        let mut at = 12;
        while [[0x81, 0], [0x88, 0xa8], [0x91, 0]].iter().any(|tag| self.0[at..].starts_with(tag)) {
            at += 4;
        }
        at + 2
    }
}
