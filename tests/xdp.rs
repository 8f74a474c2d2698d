//! The packet table: frames through the real programs by the kernel's `BPF_PROG_TEST_RUN`, no network needed. Every
//! test runs through all three programs, which must decide alike.

mod packets;

use std::{
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use f2b_ebpf::{BanEntry, DropEvent, SLOTS, ScopeCounters, Slot};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use packets::{
    Filter, Frame, Place, Verdict, all_ports,
    frame::{
        AUTHENTICATION, DESTINATION, ESP, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, NO_NEXT, OLD_QINQ, ROUTING,
        SCTP, SERVICE_VLAN, TCP, UDP, VLAN, mapped, ports, tcp, udp,
    },
    monotonic, slot, sum,
};

/// The sources of one family, each named for what is known about it.
struct Sources {
    free: IpAddr,
    banned: IpAddr,
    for_ever: IpAddr,
    over: IpAddr,
    /// Banned on [`SSH`] alone.
    ssh: IpAddr,
    /// Banned on [`SSH`] and [`DNS`].
    both: IpAddr,
}

const V4: Sources =
    Sources { free: v4(1), banned: v4(2), for_ever: v4(3), over: v4(4), ssh: v4(5), both: v4(6) };
const V6: Sources =
    Sources { free: v6(1), banned: v6(2), for_ever: v6(3), over: v6(4), ssh: v6(5), both: v6(6) };

const fn v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))
}

const fn v6(n: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))
}

/// Scope 1: TCP port 22.
const SSH: u32 = 1;
/// Scope 40: UDP port 53.
const DNS: u32 = 40;

const ETHERNET: usize = 14;
const HOUR: Duration = Duration::from_secs(3600);

/// The bans of [`Sources`].
fn with_bans(place: Place) -> Filter {
    let mut filter = Filter::load(place);
    filter.define_tcp(SSH, 22);
    filter.define_udp(DNS, 53);
    let end = monotonic() + HOUR;
    for Sources { banned, for_ever, over, ssh, both, .. } in [V4, V6] {
        filter.ban(banned, &all_ports(end));
        filter.ban(for_ever, &all_ports(Duration::MAX));
        filter.ban(over, &all_ports(monotonic()));
        filter.ban(ssh, &[slot(end, 1 << SSH)]);
        filter.ban(both, &[slot(end, 1 << SSH), slot(end, 1 << DNS)]);
    }
    // The kernel's coarse clock is up to a tick behind ours.
    thread::sleep(Duration::from_millis(20));
    filter
}

/// Runs the table through every program.
#[track_caller]
fn check(filter: impl Fn(Place) -> Filter, table: &[(String, Frame, Verdict)]) {
    for place in Place::ALL {
        let filter = filter(place);
        for (what, frame, verdict) in table {
            assert_eq!(filter.judge(frame), verdict.outcome(), "{place:?}: {what}");
        }
        assert_eq!(sum(filter.counters()), table.len() as u64, "the counters add up to the frames");
    }
}

#[test]
fn every_frame_gets_its_verdict_and_is_counted_once() {
    use Verdict::{Dropped, Lapsed, Malformed, NotIp, Passed};

    let mut table = Vec::new();
    for (family, icmp, sources) in [("IPv4", ICMP, V4), ("IPv6", ICMPV6, V6)] {
        let Sources { free, banned, for_ever, over, .. } = sources;
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
    check(with_bans, &table);
}

/// The oldest kernels look at a million instructions at most, and every start of the agent waits for the verifier.
#[test]
fn the_verifier_has_little_to_do() {
    for place in Place::ALL {
        let looked_at = Filter::load(place).verified_instructions();
        writeln!(io::stderr(), "{place:?}: the verifier looks at {looked_at} instructions")
            .expect("stderr is there");
        assert!(looked_at < 80_000, "{place:?}: {looked_at}");
    }
}

#[test]
fn a_ban_of_ports_covers_these_ports_of_this_protocol_and_what_hides_its_port() {
    use Verdict::{Dropped, OtherPorts};

    let mut table = Vec::new();
    for (family, icmp, sources) in [("IPv4", ICMP, V4), ("IPv6", ICMPV6, V6)] {
        let Sources { ssh, both, .. } = sources;
        let to = |protocol, port| Frame::new().ip(ssh).carrying(protocol, &ports(port, 20));
        let tagged = Frame::new().tag(SERVICE_VLAN).tag(VLAN).ip(ssh);
        let ip_header = if ssh.is_ipv4() { 20 } else { 40 };
        let rows = [
            ("its port", tcp(ssh, 22), Dropped),
            ("its port, QinQ", tagged.clone().carrying(TCP, &ports(22, 20)), Dropped),
            ("other port, QinQ", tagged.carrying(TCP, &ports(23, 20)), OtherPorts),
            ("port below", to(TCP, 21), OtherPorts),
            ("port above", to(TCP, 23), OtherPorts),
            ("bytes of the port swapped", to(TCP, 22 << 8), OtherPorts),
            ("port 0", to(TCP, 0), OtherPorts),
            ("port 65535", to(TCP, 65535), OtherPorts),
            ("its port, other protocol", to(UDP, 22), OtherPorts),
            ("ICMP", to(icmp, 22), OtherPorts),
            ("ESP", to(ESP, 22), OtherPorts),
            ("SCTP: its ports cannot be banned", to(SCTP, 22), OtherPorts),
            ("nothing but ports", tcp(ssh, 22).cut(ETHERNET + ip_header + 4), Dropped),
            ("cut inside the ports", tcp(ssh, 80).cut(ETHERNET + ip_header + 3), Dropped),
            ("cut behind the IP header", tcp(ssh, 80).cut(ETHERNET + ip_header), Dropped),
            ("two scopes, the first", tcp(both, 22), Dropped),
            ("two scopes, the second", Frame::new().ip(both).carrying(UDP, &ports(53, 8)), Dropped),
            ("two scopes, neither", Frame::new().ip(both).carrying(TCP, &ports(53, 20)), OtherPorts),
        ];
        table.extend(rows.map(|(what, frame, verdict)| (format!("{family}, {what}"), frame, verdict)));
    }
    let v4 = |port, options: &[u8]| {
        Frame::new().ipv4_with_options(V4.ssh, options).carrying(TCP, &ports(port, 20))
    };
    // Options that look like a port.
    let decoy = ports(22, 40);
    let v6 = |headers: &[u8], protocol, port| {
        Frame::new().ip(V6.ssh).extended(headers, protocol, &ports(port, 20))
    };
    let fragment = |next, offset: u16| {
        let [high, low] = (offset << 3).to_be_bytes();
        let mut payload = vec![next, 0, high, low, 0, 0, 0, 1];
        payload.extend(ports(80, 20));
        Frame::new().ip(V6.ssh).carrying(FRAGMENT, &payload)
    };
    let eight = [DESTINATION; 8];
    let rows = [
        ("IPv4, options, its port", v4(22, &[1; 40]), Dropped),
        ("IPv4, options, other port", v4(80, &decoy), OtherPorts),
        ("IPv4, header shorter than a header", v4(80, &[]).header_words(4), Dropped),
        ("IPv4, header longer than the frame", v4(80, &[]).header_words(15), Dropped),
        ("IPv4, first fragment, its port", v4(22, &[]).ipv4_fragment(0x2000), Dropped),
        ("IPv4, first fragment, other port", v4(80, &[]).ipv4_fragment(0x2000), OtherPorts),
        ("IPv4, not to be fragmented, other port", v4(80, &[]).ipv4_fragment(0x4000), OtherPorts),
        ("IPv4, middle fragment", v4(80, &[]).ipv4_fragment(0x2001), Dropped),
        ("IPv4, last fragment", v4(80, &[]).ipv4_fragment(0x1fff), Dropped),
        (
            "IPv4, later fragment of what has no ports",
            Frame::new().ip(V4.ssh).carrying(ICMP, &[0; 8]).ipv4_fragment(8),
            OtherPorts,
        ),
        (
            "IPv6, each kind of extension header, its port",
            v6(&[0, 43, 44, 60, 135, 139, 140], TCP, 22),
            Dropped,
        ),
        (
            "IPv6, each kind of extension header, other port",
            v6(&[0, 43, 44, 60, 135, 139, 140], TCP, 80),
            OtherPorts,
        ),
        ("IPv6, eight extension headers, other port", v6(&eight, TCP, 80), OtherPorts),
        ("IPv6, nine extension headers hide the port", v6(&[DESTINATION; 9], TCP, 80), Dropped),
        ("IPv6, extension header, no ports", v6(&[HOP_BY_HOP], ICMPV6, 22), OtherPorts),
        ("IPv6, extension header, nothing more", v6(&[ROUTING], NO_NEXT, 22), OtherPorts),
        ("IPv6, extension header is cut", v6(&[DESTINATION], TCP, 80).cut(ETHERNET + 40 + 7), Dropped),
        (
            "IPv6, extension header is longer than the frame",
            Frame::new().ip(V6.ssh).carrying(DESTINATION, &[TCP, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80]),
            Dropped,
        ),
        ("IPv6, authentication header: nothing gets past it", v6(&[AUTHENTICATION], TCP, 22), OtherPorts),
        ("IPv6, fragment header alone, other port", fragment(TCP, 0), OtherPorts),
        ("IPv6, later fragment", fragment(TCP, 1), Dropped),
        ("IPv6, last fragment of the longest packet", fragment(UDP, 0x1fff), Dropped),
        ("IPv6, later fragment behind options", fragment(DESTINATION, 1), Dropped),
        ("IPv6, later fragment of what has no ports", fragment(ICMPV6, 1), OtherPorts),
        ("IPv6, from an IPv4 address, mapped, its port", tcp(mapped(V4.ssh), 22), Dropped),
        ("IPv6, from an IPv4 address, mapped, other port", tcp(mapped(V4.ssh), 80), OtherPorts),
    ];
    table.extend(rows.map(|(what, frame, verdict)| (what.to_owned(), frame, verdict)));
    check(with_bans, &table);
}

#[test]
fn every_one_of_64_scopes_is_told_apart() {
    for place in Place::ALL {
        let mut filter = Filter::load(place);
        let end = monotonic() + HOUR;
        for scope in 1..64 {
            filter.define_tcp(scope, 1000 + scope as u16);
            filter.ban(v4(scope as u8), &[slot(end, 1 << scope)]);
        }
        for scope in 1..64_u32 {
            for other in 1..64_u32 {
                let verdict = if scope == other { Verdict::Dropped } else { Verdict::OtherPorts };
                let frame = tcp(v4(scope as u8), 1000 + other as u16);
                assert_eq!(filter.run(&frame, 1), verdict.action(), "scope {scope}, port of {other}");
            }
            assert_eq!(
                filter.scope(scope),
                ScopeCounters { packets: 1, bytes: 54 },
                "{place:?}, scope {scope}"
            );
        }
    }
}

#[test]
fn each_slot_of_a_ban_lapses_by_itself() {
    use Verdict::{Dropped, Lapsed, OtherPorts};
    for place in Place::ALL {
        let mut filter = with_bans(place);
        let (host, now) = (v4(9), monotonic());
        let (over, later) = (now - Duration::from_millis(20), now + HOUR);
        let udp53 = Frame::new().ip(host).carrying(UDP, &ports(53, 8));
        let (ssh, dns, all) = (1 << SSH, 1 << DNS, 1);
        let table: [(&[Slot], [Verdict; 3]); 6] = [
            (&[slot(over, ssh), slot(later, dns)], [OtherPorts, Dropped, OtherPorts]),
            (&[slot(later, ssh), slot(over, all)], [Dropped, OtherPorts, OtherPorts]),
            (&[slot(over, all), slot(over, ssh), slot(later, all)], [Dropped, Dropped, Dropped]),
            (&[slot(over, all), slot(over, ssh), slot(over, dns)], [Lapsed, Lapsed, Lapsed]),
            (
                &[Slot::default(), Slot::default(), slot(Duration::MAX, ssh)],
                [Dropped, OtherPorts, OtherPorts],
            ),
            (&[], [Lapsed, Lapsed, Lapsed]),
        ];
        for (slots, verdicts) in table {
            filter.ban(host, slots);
            for (frame, verdict) in [&tcp(host, 22), &udp53, &tcp(host, 80)].into_iter().zip(verdicts) {
                assert_eq!(filter.judge(frame), verdict.outcome(), "{place:?}: {slots:?}");
            }
        }
    }
}

#[test]
fn a_banned_prefix_covers_its_addresses_and_the_longest_one_decides() {
    use Verdict::{Dropped, Lapsed, OtherPorts, Passed};
    for place in Place::ALL {
        let mut filter = with_bans(place);
        let end = monotonic() + HOUR;
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        // There, but not looked for as long as the settings count none.
        filter.ban_prefix("203.0.113.0/24", &all_ports(end));
        filter.change_settings(|settings| settings.prefixes = 0);
        assert_eq!(filter.judge(&udp(address("203.0.113.7"))), Passed.outcome());

        filter.ban_prefix("198.51.100.0/24", &[slot(end, 1 << SSH)]);
        filter.ban_prefix("198.51.100.128/25", &all_ports(end));
        filter.ban_prefix("198.51.100.192/26", &all_ports(monotonic() - Duration::from_millis(20)));
        filter.ban_prefix("2001:db8:9::/56", &all_ports(end));
        filter.ban_prefix("2001:db8:9:aa00::/64", &[slot(end, 1 << DNS)]);
        let table = [
            ("203.0.113.0", 80, Dropped),
            ("203.0.113.255", 80, Dropped),
            ("203.0.112.255", 80, Passed),
            ("203.0.114.0", 80, Passed),
            ("198.51.100.1", 22, Dropped),
            ("198.51.100.1", 80, OtherPorts),
            ("198.51.100.128", 80, Dropped),
            ("198.51.100.192", 22, Lapsed),
            ("::ffff:203.0.113.9", 80, Dropped),
            ("2001:db8:9::", 80, Dropped),
            ("2001:db8:9:ff:ffff:ffff:ffff:ffff", 80, Dropped),
            ("2001:db8:9:100::", 80, Passed),
            ("2001:db8:8:ffff::", 80, Passed),
            ("2001:db8:9:aa00::1", 80, OtherPorts),
        ];
        for (source, port, verdict) in table {
            assert_eq!(filter.judge(&tcp(address(source), port)), verdict.outcome(), "{place:?}: {source}");
        }
        assert_eq!(filter.prefix_entry("203.0.113.0/24").packets, 3);

        // Host and prefix together ban what either bans.
        let host = address("198.51.100.1");
        filter.ban(host, &[slot(end, 1 << DNS)]);
        for (frame, verdict) in [
            (tcp(host, 22), Dropped),
            (Frame::new().ip(host).carrying(UDP, &ports(53, 8)), Dropped),
            (tcp(host, 80), OtherPorts),
        ] {
            assert_eq!(filter.judge(&frame), verdict.outcome(), "{place:?}");
        }
        assert_eq!(filter.entry(host).packets, 1, "counted where it is banned");
        assert_eq!(filter.prefix_entry("198.51.100.0/24").packets, 2);
        filter.ban(host, &all_ports(monotonic() - Duration::from_millis(20)));
        assert_eq!(
            filter.judge(&tcp(host, 22)),
            Dropped.outcome(),
            "a host's ban that is over hides no prefix"
        );
        // Everything.
        filter.ban_prefix("::/0", &all_ports(end));
        assert_eq!(filter.judge(&udp(V4.free)), Dropped.outcome());
        assert_eq!(filter.judge(&udp(V6.free)), Dropped.outcome());
    }
}

#[test]
fn the_allow_list_always_wins_and_costs_only_those_who_are_banned() {
    use Verdict::{Allowed, Dropped, OtherPorts, Passed};
    for place in Place::ALL {
        let mut filter = with_bans(place);
        filter.allow("192.0.2.2/32");
        filter.allow("192.0.2.4/31");
        filter.allow("2001:db8::/64");
        for (frame, verdict) in [
            (udp(V4.banned), Allowed),
            (udp(mapped(V4.banned)), Allowed),
            (udp(V4.for_ever), Dropped),
            (udp(V4.free), Passed),
            (tcp(V4.ssh, 22), Allowed),
            (tcp(V4.ssh, 80), OtherPorts),
            (udp(V6.banned), Allowed),
            (udp(V6.for_ever), Allowed),
        ] {
            assert_eq!(filter.judge(&frame), verdict.outcome(), "{place:?}");
        }
        let counts = ["192.0.2.2/32", "192.0.2.4/31", "2001:db8::/64"].map(|prefix| filter.allowed(prefix));
        assert_eq!(counts, [2, 1, 2]);
        assert_eq!(filter.entry(V4.banned).packets, 0, "what passed is not counted as dropped");
        filter.change_settings(|settings| settings.allowed = 0);
        assert_eq!(filter.judge(&udp(V4.banned)), Dropped.outcome(), "an empty list is not looked at");
        filter.ban_prefix("198.51.100.0/24", &all_ports(Duration::MAX));
        filter.allow("198.51.100.7/32");
        let [allowed, banned] = [7, 8].map(|n| IpAddr::from([198, 51, 100, n]));
        assert_eq!(filter.judge(&udp(allowed)), Allowed.outcome(), "in a banned prefix, too");
        assert_eq!(filter.judge(&udp(banned)), Dropped.outcome());
    }
}

#[test]
fn packets_and_bytes_are_counted_in_the_first_scope_that_bans_them() {
    for place in Place::ALL {
        let mut filter = with_bans(place);
        filter.define_tcp(DNS, 22);
        for _ in 0..3 {
            filter.judge(&tcp(V4.both, 22));
        }
        filter.judge(&Frame::new().ip(V4.both).carrying(UDP, &ports(53, 900)));
        filter.judge(&udp(V6.banned));
        filter.judge(&tcp(V4.ssh, 23));
        let scopes = [0, SSH, DNS].map(|scope| filter.scope(scope));
        let expected =
            [(1, 72), (3, 3 * 54), (1, 934)].map(|(packets, bytes)| ScopeCounters { packets, bytes });
        assert_eq!(scopes, expected, "{place:?}");
        assert_eq!(filter.counters().dropped, 5, "scopes add up to what was dropped");
    }
}

#[test]
fn a_sample_of_drops_is_reported_when_asked_for_and_never_more() {
    for place in Place::ALL {
        let mut filter = with_bans(place);
        filter.run(&udp(V4.banned), 100);
        assert_eq!(filter.events(), [], "off by default");

        filter.change_settings(|settings| settings.events_per_second = 10);
        let before = monotonic();
        filter.run(&udp(V4.banned), 1);
        filter.run(&udp(V4.free), 1);
        filter.run(&tcp(V6.ssh, 22), 1);
        let events = filter.events();
        let [all, ssh] = events[..] else { panic!("{events:?}") };
        let tick = Duration::from_millis(20);
        let time = Duration::from_nanos(all.time_ns);
        assert!(time + tick > before && time < monotonic(), "{time:?}");
        let (event, v4) = (DropEvent { time_ns: 0, ..all }, mapped(V4.banned));
        let (IpAddr::V6(v4), IpAddr::V6(v6)) = (v4, V6.ssh) else { panic!("both are IPv6") };
        let ifindex = all.ifindex;
        let expected = DropEvent {
            time_ns: 0,
            addr: v4.octets(),
            ifindex,
            bytes: 52,
            scope: 0,
            port: 0,
            protocol: 0,
            reserved: 0,
        };
        assert_eq!(event, expected);
        let expected =
            DropEvent { addr: v6.octets(), bytes: 74, scope: SSH, port: 22, protocol: TCP, ..expected };
        assert_eq!(DropEvent { time_ns: 0, ..ssh }, expected);

        filter.run(&udp(V4.banned), 1_000_000);
        let (reported, seconds) = (filter.events().len(), before.abs_diff(monotonic()).as_secs() + 2);
        assert!(
            reported >= 8 && reported as u64 <= 10 * seconds * 2,
            "{reported} in {seconds} s on two CPUs"
        );
    }
}

#[test]
fn a_frame_is_malformed_until_its_fixed_ip_header_is_complete_and_judged_from_there() {
    for place in Place::ALL {
        let filter = with_bans(place);
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
                // The kernel runs tc's program on nothing shorter.
                let shortest = if place == Place::Tc { headers } else { ETHERNET };
                for length in shortest..=frame.0.len() {
                    let expected = if length < headers { Verdict::Malformed } else { verdict };
                    let cut = frame.clone().cut(length);
                    assert_eq!(
                        filter.judge(&cut),
                        expected.outcome(),
                        "{place:?}: {source}, {tags:x?}, {length} bytes"
                    );
                }
            }
        }
    }
}

#[test]
fn only_a_dropped_packet_is_counted_in_its_ban() {
    for place in Place::ALL {
        let mut filter = with_bans(place);
        let before = monotonic();
        for Sources { free, banned, for_ever, over, .. } in [V4, V6] {
            for source in [free, banned, for_ever, over, banned] {
                filter.judge(&udp(source));
                filter.judge(&udp(source).version(1));
            }
            assert_eq!(filter.entry(banned).packets, 2);
            assert_eq!(filter.entry(for_ever).packets, 1);
            let BanEntry { packets, last_ns, .. } = filter.entry(over);
            assert_eq!((packets, last_ns), (0, 0));
            // What the shortcut drops, the agent dates.
            filter.change_settings(|settings| settings.by_hand = 1);
            filter.judge(&udp(banned));
            assert_eq!(filter.entry(banned).packets, 3);
            let last = Duration::from_nanos(filter.entry(banned).last_ns);
            assert!(last + Duration::from_millis(20) > before && last < monotonic(), "{last:?}");
            filter.change_settings(|settings| settings.by_hand = 0);
        }
    }
}

#[test]
fn the_destination_never_matters() {
    for place in Place::ALL {
        let filter = with_bans(place);
        let multicast: [IpAddr; 2] =
            [Ipv4Addr::new(224, 0, 0, 1).into(), Ipv6Addr::from(0xff02 << 112 | 1).into()];
        let hosts = [V4.free, V4.banned, V4.over, V6.free, V6.banned, V6.over];
        for destination in hosts.into_iter().chain(multicast) {
            let Sources { free, banned, .. } = if destination.is_ipv4() { V4 } else { V6 };
            assert_eq!(filter.judge(&udp(free).to(destination)), Verdict::Passed.outcome(), "{destination}");
            assert_eq!(
                filter.judge(&udp(banned).to(destination)),
                Verdict::Dropped.outcome(),
                "{destination}"
            );
        }
    }
}

#[test]
fn every_bit_of_the_source_matters() {
    let filter = with_bans(Place::Xdp);
    let banned = u32::from_be_bytes([192, 0, 2, 2]);
    let neighbours = (0..32).map(|bit| IpAddr::V4(Ipv4Addr::from(banned ^ 1 << bit)));
    let banned = 0x2001_0db8 << 96 | 2;
    let neighbours = neighbours.chain((0..128).map(|bit| IpAddr::V6(Ipv6Addr::from(banned ^ 1 << bit))));
    let known = [V4.for_ever, V4.over, V4.both, V6.for_ever, V6.over, V6.both];
    for neighbour in neighbours.filter(|address| !known.contains(address)) {
        assert_eq!(filter.judge(&udp(neighbour)), Verdict::Passed.outcome(), "{neighbour}");
    }
}

#[test]
fn a_frame_in_several_buffers_is_judged_like_any_other() {
    let filter = with_bans(Place::Xdp);
    for (length, what) in [(8_900, "MTU 9000"), (60_000, "larger than any")] {
        let frame = |source| Frame::new().ip(source).carrying(TCP, &ports(22, length));
        assert_eq!(filter.judge(&frame(V4.banned)), Verdict::Dropped.outcome(), "{what}");
        assert_eq!(filter.judge(&frame(V6.ssh)), Verdict::Dropped.outcome(), "{what}");
        assert_eq!(filter.judge(&frame(V4.free)), Verdict::Passed.outcome(), "{what}");
    }
    let bytes = 34 + 8_900 + 34 + 60_000;
    assert_eq!(filter.scope(0), ScopeCounters { packets: 2, bytes }, "whole frames are counted");
}

/// As mlx5 hands over frames once they may be large: nothing, or too little, in the first buffer.
#[test]
fn a_frame_that_lies_in_other_buffers_is_judged_like_any_other() {
    use Verdict::{Dropped, Malformed, OtherPorts, Passed};

    let filter = with_bans(Place::Xdp);
    let tcp = |source, port, length| Frame::new().ip(source).carrying(TCP, &ports(port, length));
    for linear in [0, 14, 20, 33] {
        for length in [30, 100, 8_900] {
            for (source, port, verdict) in [
                (V4.free, 22, Passed),
                (V4.banned, 80, Dropped),
                (V4.ssh, 22, Dropped),
                (V4.ssh, 80, OtherPorts),
                (V6.free, 22, Passed),
                (V6.banned, 80, Dropped),
                (V6.ssh, 22, Dropped),
                (V6.ssh, 80, OtherPorts),
            ] {
                let frame = tcp(source, port, length);
                let judged = filter.judge_apart(&frame, linear);
                assert_eq!(
                    judged,
                    verdict.outcome(),
                    "{source}, port {port}, {length} bytes, {linear} in front"
                );
            }
        }
        let tagged = Frame::new().tag(SERVICE_VLAN).tag(VLAN).ip(V4.ssh).carrying(TCP, &ports(22, 100));
        assert_eq!(filter.judge_apart(&tagged, linear), Dropped.outcome());
        let options = Frame::new().ipv4_with_options(V4.ssh, &ports(22, 40)).carrying(TCP, &ports(22, 100));
        assert_eq!(filter.judge_apart(&options, linear), Dropped.outcome());
        assert_eq!(filter.judge_apart(&tcp(V4.banned, 22, 100).version(1), linear), Malformed.outcome());
    }
}

#[test]
fn a_ban_lapses_in_the_kernel_within_timer_ticks_of_its_end() {
    let mut filter = Filter::load(Place::Xdp);
    let end = monotonic() + Duration::from_millis(60);
    filter.ban(V4.banned, &all_ports(end));
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
    let filter = with_bans(Place::Xdp);
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
    assert_eq!(filter.entry(V4.banned).packets, 2 * u64::from(EACH));
}

/// While one CPU drops, another changes the ban, its neighbours and the settings as fast as it can: not one packet of
/// a source that is banned throughout may pass, and none of one that is free may be dropped.
#[test]
fn no_packet_slips_through_while_bans_change() {
    // At least so many of both: other tests use the same CPUs.
    const ROUNDS: u32 = 20_000;
    const PACKETS: u64 = 20_000;
    let filter = with_bans(Place::Xdp);
    let mut updates = filter.updates();
    let (run, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let [packets, changes] = two_cpus();
    thread::scope(|scope| {
        let runner = scope.spawn(|| {
            sched_setaffinity(Pid::from_raw(0), &packets).expect("the CPU is ours to use");
            while !done.load(Ordering::Relaxed) {
                for (source, verdict) in [(V4.banned, Verdict::Dropped), (V4.free, Verdict::Passed)] {
                    let before = filter.counters();
                    filter.run(&udp(source), 1000);
                    let after = filter.counters();
                    let (dropped, passed) = (after.dropped - before.dropped, after.passed - before.passed);
                    let expected =
                        if verdict.action() == Verdict::Dropped.action() { (1000, 0) } else { (0, 1000) };
                    let run = run.fetch_add(1000, Ordering::Relaxed);
                    assert_eq!((dropped, passed), expected, "{source} after {run} packets");
                }
            }
        });
        sched_setaffinity(Pid::from_raw(0), &changes).expect("the CPU is ours to use");
        let goes_on =
            |round: &u32| !runner.is_finished() && (*round < ROUNDS || run.load(Ordering::Relaxed) < PACKETS);
        for round in (0..).take_while(goes_on) {
            let end = monotonic() + HOUR + Duration::from_secs(u64::from(round));
            updates.ban(
                V4.banned,
                &[slot(end, 1), slot(end + HOUR, 1 << SSH), slot(Duration::MAX, 1)]
                    [..=round as usize % SLOTS],
            );
            updates.ban(v4(200), &all_ports(end));
            updates.unban(v4(200));
        }
        done.store(true, Ordering::Relaxed);
        runner.join().expect("not one packet went wrong");
    });
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
