//! Where and how bans are enforced: ports, prefixes, modes, interfaces, sizes and layouts, with the kernel's own verdict.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{fs, net::IpAddr, thread::sleep, time::Duration};

use aya::{
    EbpfLoader,
    maps::HashMap,
    programs::{Xdp, XdpMode, links::FdLink},
};
use common::{Agent, F2B, PATIENCE, PINS, attach_foreign_program, f2b, f2b_ok, sh};
use f2b::xdp::OBJECT;
use f2b_ebpf::{ALL_PORTS, BANS, BanEntry, BanKey, FOREVER, PROGRAM, Slot, v1};
use lab::{Flood, Host, Lab, Sink, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 9999;

// What is banned

#[test]
fn a_jail_with_ports_bans_these_ports_alone() {
    let lab = Lab::new();
    let _agent = Agent::start(&lab, "[sshd]\nport = ssh,2222\n");
    for attacker in [attacker_v4(7), attacker_v6(7)] {
        f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
        assert!(!lab.connects(attacker), "its port is banned");
        arrives(&lab, attacker);
        f2b_ok(&lab, &["unban", &attacker.to_string()]);
        assert!(lab.connects(attacker));
    }
    let status = f2b_ok(&lab, &["status"]);
    assert!(status.contains("|  |- tcp 22,2222:\t"), "{status}");
}

#[test]
fn other_ports_of_a_jail_are_its_bans_other_ports_after_reload_and_restart() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    let mut agent = Agent::start(&lab, "[sshd]\nport = 2222\n");
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
    assert!(!lab.connects(attacker));
    let jail_local = lab.dir().join("config/jail.local");
    fs::write(&jail_local, "[sshd]\nport = 80\n").expect("the lab's directory is writable");
    f2b_ok(&lab, &["reload"]);
    assert!(lab.connects(attacker), "its ban is of port 80 now");
    agent.stop();
    let agent = Agent::start(&lab, "[sshd]\nport = 2222\n");
    assert!(!lab.connects(attacker), "and of 2222 again");
    assert_eq!(agent.ban_of(attacker).expect("it is banned")["jails"], serde_json::json!(["sshd"]));
    arrives(&lab, attacker);
}

#[test]
fn one_jails_unban_or_end_never_opens_anothers_and_ports_stay_apart() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    let second = "[web]\nenabled = true\nfilter = sshd\nport = 1-3000\nbantime = 4s\n";
    let mut agent = Agent::start(&lab, &format!("[sshd]\nport = 9999\nprotocol = udp\n{second}"));
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
    f2b_ok(&lab, &["ban", "web", &attacker.to_string()]);
    assert!(!lab.connects(attacker));
    // The agent dies, and each scope ends by itself.
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    assert!(!lab.connects(attacker));
    wait_until(PATIENCE, "the short ban is over", || lab.connects(attacker));
    let sink = Sink::open(&lab, PORT);
    let flood = Flood::start(&lab, attacker, PORT);
    sleep(Duration::from_millis(200));
    assert!(flood.stop() > 0);
    assert_eq!(sink.count(attacker), 0, "the long one is not");
}

/// Jails `p01` to `p70`, each with a port of its own; in some, another one instead, or none: then it is gone.
fn seventy_jails(others: &[(u16, Option<u16>)]) -> String {
    let port = |n: u16| others.iter().find(|(jail, _)| *jail == n).map_or(Some(n), |(_, port)| *port);
    let jail = |(n, port)| format!("[p{n:02}]\nenabled = true\nfilter = sshd\nport = {}\n", PORT + port);
    let jails = (1..=70).filter_map(|n| Some((n, port(n)?))).map(jail).collect::<String>();
    format!("[DEFAULT]\nprotocol = udp\n[sshd]\nenabled = false\n{jails}")
}

/// What was dropped in the name of these ports.
fn dropped_to(lab: &Lab, port: u16) -> u64 {
    let status = json(lab, &["status", "--json"]);
    let mut scopes = status["scopes"].as_array().expect("a list").iter();
    let scope = scopes.find(|scope| scope["ports"] == format!("udp {port}"));
    scope.map_or(0, |scope| scope["packets"].as_u64().expect("a number"))
}

#[test]
fn of_seventy_jails_with_ports_of_their_own_63_ban_exactly_these_and_the_rest_say_that_they_do_not() {
    let lab = Lab::network_only();
    let agent = Agent::start(&lab, &seventy_jails(&[]));
    let attacker = |n: u16| attacker_v4(n as u8 + 100);
    let send = |from: IpAddr, port: u16| lab.send(from, port, 1);
    for n in 1..=63 {
        f2b_ok(&lab, &["ban", &format!("p{n:02}"), &attacker(n).to_string()]);
        // To the port that is banned, to the one beside it, and to one that no jail has.
        [n, n % 63 + 1, 64].into_iter().for_each(|to| send(attacker(n), PORT + to));
    }
    let expected = |n: u16| {
        format!(
            "jail p{n:02} is left out: its ports (udp {}): 63 different sets of ports are in use, and no more fit; \
             give jails the same ports, or banaction_allports",
            PORT + n
        )
    };
    for n in 64..=70 {
        let refused = f2b(&lab, &["ban", &format!("p{n}"), &attacker(n).to_string()]);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), error), (Some(1), format!("f2b: {}\n", expected(n))));
        send(attacker(n), PORT + n);
    }
    let packets = json(&lab, &["status", "--json"])["packets"].clone();
    assert_eq!((&packets["dropped"], &packets["other_ports"]), (&63.into(), &126.into()), "{packets}");
    for n in 1..=63 {
        assert_eq!(dropped_to(&lab, PORT + n), 1, "port {}", PORT + n);
    }
    let status = f2b_ok(&lab, &["status"]);
    let left_out: Vec<_> = status.lines().filter_map(|line| line.strip_prefix("|- Left out:\t")).collect();
    assert_eq!(left_out, (64..=70).map(expected).collect::<Vec<_>>());
    assert!(status.contains("|- Number of jail:\t63\n"), "{status}");
    assert_eq!(agent.process.log().matches("is left out: its ports").count(), 7);

    // One goes, bans and all: the next one has its place, and not its ports.
    let jail_local = lab.dir().join("config/jail.local");
    fs::write(&jail_local, seventy_jails(&[(5, None)])).expect("the lab's directory is writable");
    let reloaded = f2b_ok(&lab, &["reload"]);
    assert_eq!(reloaded.matches("is left out: its ports").count(), 6, "{reloaded}");
    assert!(agent.ban_of(attacker(5)).is_none());
    f2b_ok(&lab, &["ban", "p64", &attacker(64).to_string()]);
    for (from, to) in [(5, 5), (64, 64), (64, 5), (63, 63)] {
        send(attacker(from), PORT + to);
    }
    let packets = json(&lab, &["status", "--json"])["packets"].clone();
    assert_eq!((&packets["dropped"], &packets["other_ports"]), (&65.into(), &127.into()), "{packets}");
    assert_eq!([63, 64, 5].map(|n| dropped_to(&lab, PORT + n)), [2, 1, 0], "each port has its own count");
    let refused = f2b(&lab, &["ban", "p65", &attacker(65).to_string()]);
    assert_eq!(String::from_utf8_lossy(&refused.stderr), format!("f2b: {}\n", expected(65)));

    // All 63 are in use. One jail takes the ports of another, as it is advised, one takes ports of its own: both keep their
    // bans, which move, and there is room for one more.
    let others = [(5, None), (6, Some(7)), (8, Some(80))];
    fs::write(&jail_local, seventy_jails(&others)).expect("the lab's directory is writable");
    let reloaded = f2b_ok(&lab, &["reload"]);
    assert_eq!(reloaded.matches("is left out: its ports").count(), 5, "{reloaded}");
    f2b_ok(&lab, &["ban", "p65", &attacker(65).to_string()]);
    for (from, to) in [(6, 6), (6, 7), (8, 8), (8, 80), (65, 65), (7, 7), (64, 64)] {
        send(attacker(from), PORT + to);
    }
    let packets = json(&lab, &["status", "--json"])["packets"].clone();
    assert_eq!((&packets["dropped"], &packets["other_ports"]), (&70.into(), &129.into()), "{packets}");
    assert_eq!([6, 7, 8, 80, 65, 64].map(|n| dropped_to(&lab, PORT + n)), [0, 3, 0, 1, 1, 2]);
}

#[test]
fn a_prefix_is_banned_except_for_the_allow_list() {
    let lab = Lab::new();
    let _agent = Agent::start(&lab, "[sshd]\nignoreip = 198.51.100.9\n");
    assert_eq!(
        f2b_ok(&lab, &["ban", "sshd", "198.51.100.8/29", "2001:db8:51::/120"]).lines().count(),
        2,
        "a line for each"
    );
    assert!(!lab.connects(attacker_v4(8)));
    assert!(lab.connects(attacker_v4(9)), "ignoreip wins in the middle of a prefix");
    assert!(!lab.connects(attacker_v4(15)));
    assert!(lab.connects(attacker_v4(16)));
    assert!(!lab.connects(attacker_v6(200)));
    // A host in it and the prefix are two bans.
    f2b_ok(&lab, &["ban", "sshd", "198.51.100.10"]);
    assert_eq!(f2b_ok(&lab, &["unban", "198.51.100.8/29"]), "198.51.100.8/29 is free\n");
    assert!(lab.connects(attacker_v4(8)));
    assert!(!lab.connects(attacker_v4(10)));
    let banned = f2b_ok(&lab, &["banned"]);
    assert!(banned.contains("2001:db8:51::/120 "), "{banned}");
    f2b_ok(&lab, &["unban", "--all"]);
    // Neighbour discovery was in the banned prefix, too: on a busy machine both sides have given each other up by now.
    wait_until(PATIENCE, "it connects again", || lab.connects(attacker_v6(200)));
}

#[test]
fn a_ban_made_by_hand_as_the_readme_says_holds_at_once_and_is_adopted() {
    const BY_HAND: &str = "bpftool map update pinned /sys/fs/bpf/f2b/v2/bans \\\n    key ";
    let readme = include_str!("../README.md");
    let (_, command) = readme.split_once(BY_HAND).expect("the README says how");
    let command = command.split("```").next().expect("it ends");
    let lab = Lab::new();
    let mut agent = Agent::start(&lab, "");
    let attacker = attacker_v4(9);
    assert!(lab.connects(attacker));
    // The README shows them as root types them.
    sh(&lab, &format!("{BY_HAND}{command}").replace("\n# ", "\n"));
    assert!(!lab.connects(attacker));
    agent.stop();
    let agent = Agent::start(&lab, "");
    let settings = sh(&lab, &format!("bpftool map dump pinned {PINS}/v2/settings"));
    assert!(settings.contains("\"by_hand\": 0"), "{settings}");
    assert!(!lab.connects(attacker));
    let ban = agent.ban_of(attacker).expect("it is adopted");
    assert_eq!((&ban["jails"][0], &ban["until"]), (&"(kernel)".into(), &"forever".into()));
    f2b_ok(&lab, &["unban", &attacker.to_string()]);
    assert!(lab.connects(attacker));
}

#[test]
fn a_full_map_refuses_loudly_and_keeps_what_it_has() {
    let lab = Lab::network_only();
    let agent = start(&lab, "max_bans = 16");
    for n in 1..=16 {
        f2b_ok(&lab, &["ban", "sshd", &format!("192.0.2.{n}")]);
    }
    assert!(agent.process.log().contains("The map of bans is nearly full"), "{}", agent.process.log());
    let full = f2b(&lab, &["ban", "sshd", "192.0.2.17"]);
    let error = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1));
    assert!(error.contains("all 16 places in the kernel are taken, 192.0.2.17 is not banned"), "{error}");
    let status = json(&lab, &["status", "--json"]);
    assert_eq!((&status["banned"], &status["capacity"]), (&16.into(), &16.into()));
    let status = f2b_ok(&lab, &["status"]);
    assert!(status.contains("100 % full; raise max_bans"), "{status}");
    assert!(status.contains("|- Not banned:\t1 since the start"), "{status}");
    let metrics = f2b_ok(&lab, &["metrics"]);
    for line in ["f2b_banned_addresses 16", "f2b_max_bans 16", "f2b_refused_bans_total 1"] {
        assert!(metrics.lines().any(|has| has == line), "{line}: {metrics}");
    }
    f2b_ok(&lab, &["unban", "192.0.2.1"]);
    f2b_ok(&lab, &["ban", "sshd", "192.0.2.17"]);
}

#[test]
fn what_does_not_fit_at_a_start_is_told_and_put_back_once_there_is_room() {
    let lab = Lab::new();
    let mut agent = start(&lab, "max_bans = 100");
    let addresses: Vec<_> = (1..=20).map(|n| format!("192.0.2.{n}")).collect();
    let ban: Vec<_> = ["ban", "sshd"].into_iter().chain(addresses.iter().map(String::as_str)).collect();
    f2b_ok(&lab, &ban);
    for (size, in_kernel) in [("max_bans = 16", 16), ("max_bans = 100", 20)] {
        agent.stop();
        // As after a reboot.
        f2b_ok(&lab, &["detach"]);
        agent = start(&lab, size);
        let log = agent.process.log();
        assert_eq!(
            log.matches("Not restored: all 16 places in the kernel are taken").count(),
            20 - in_kernel
        );
        assert!(log.contains(&format!("put_back={in_kernel}")), "{log}");
        assert_eq!(json(&lab, &["status", "--json"])["banned"], in_kernel);
    }
    f2b_ok(&lab, &["unban", "--all"]);
    assert_eq!(f2b_ok(&lab, &["banned"]), "Nothing is banned.\n");
    let left = sh(&lab, &format!("bpftool -j map dump pinned {PINS}/v2/bans"));
    assert_eq!(left.trim(), "[]");
}

// Where

#[test]
fn beside_a_foreign_xdp_program_bans_are_enforced_in_tc() {
    let lab = Lab::new();
    let _foreign = attach_foreign_program(&lab, "eth0");
    let mut agent = Agent::start(&lab, "");
    let log = agent.process.log();
    assert!(log.contains("Another XDP program is attached, and stays; going on with tc"), "{log}");
    let status = json(&lab, &["status", "--json"]);
    assert_eq!(status["interfaces"][0]["mode"], "tc");
    let reason = status["interfaces"][0]["reason"].as_str().expect("there is one");
    assert!(reason.contains("\"fw0\""), "{reason}");
    for attacker in [attacker_v4(7), attacker_v6(7)] {
        assert!(lab.connects(attacker));
        f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
        assert!(!lab.connects(attacker));
    }
    // It holds without an agent, the next one takes it over, and detach ends it.
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(PATIENCE);
    assert!(!lab.connects(attacker_v4(7)));
    let mut agent = Agent::start(&lab, "");
    assert!(agent.process.log().contains("Took over the program"), "{}", agent.process.log());
    let again = json(&lab, &["status", "--json"]);
    assert_eq!(again["interfaces"][0]["reason"], reason, "it is still known why");
    assert!(!lab.connects(attacker_v4(7)));
    agent.stop();
    f2b_ok(&lab, &["detach"]);
    assert!(lab.connects(attacker_v4(7)), "detached: bans are gone");
}

#[test]
fn each_mode_that_is_asked_for_is_the_one_that_is_used() {
    for mode in ["native", "generic", "tc"] {
        let lab = Lab::new();
        let _agent = Agent::start_with(&lab, "", &["--mode", mode]);
        assert_eq!(json(&lab, &["status", "--json"])["interfaces"][0]["mode"], mode);
        f2b_ok(&lab, &["ban", "sshd", &attacker_v4(7).to_string()]);
        assert!(!lab.connects(attacker_v4(7)), "{mode}");
        assert!(lab.connects(attacker_v4(8)), "{mode}");
    }
}

#[test]
fn jumbo_frames_are_no_obstacle_to_native_mode() {
    let lab = Lab::new();
    let mtu = lab.server("sh").args(["-ec", "ip link set eth0 mtu 9000"]).output();
    assert!(mtu.status.success());
    let mtu = lab.attacker("sh").args(["-ec", "ip link set peer0 mtu 9000"]).output();
    assert!(mtu.status.success());
    let _agent = Agent::start(&lab, "");
    assert_eq!(json(&lab, &["status", "--json"])["interfaces"][0]["mode"], "native");
    f2b_ok(&lab, &["ban", "sshd", &attacker_v4(7).to_string()]);
    assert!(!lab.connects(attacker_v4(7)));
    assert!(lab.connects(attacker_v4(8)));
}

#[test]
fn interfaces_that_go_and_come_back_are_protected_again() {
    let lab = Lab::network_only();
    let agent = Agent::start_with(&lab, "", &["-i", "eth0", "-i", "veth7"]);
    assert!(agent.process.log().contains("it is protected once it appears"), "{}", agent.process.log());
    let mode = || json(&lab, &["status", "--json"])["interfaces"][1]["mode"].clone();
    assert_eq!(mode(), Value::Null);
    for _ in 0..2 {
        sh(&lab, "ip link add veth7 type veth peer name veth8; ip link set veth7 up; ip link set veth8 up");
        wait_until(PATIENCE, "the new interface is protected", || mode() == "native");
        sh(&lab, "ip link del veth7");
        wait_until(PATIENCE, "it is missed", || mode() == Value::Null);
    }
    let status = f2b_ok(&lab, &["status"]);
    assert!(status.contains("eth0 (native), veth7 (not protected)"), "{status}");
}

#[test]
fn three_capabilities_and_a_place_for_the_pins_are_enough() {
    let lab = Lab::network_only();
    sh(&lab, "mkdir -p /dev/shm/f2b; chown 65534 /dev/shm/f2b");
    let capabilities = "--ambient-caps=+bpf,+net_admin,+perfmon";
    let keep = "--inh-caps=+bpf,+net_admin,+perfmon";
    let nobody = lab.server("setpriv").args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    let program = nobody.args([keep, capabilities, F2B, "run", "--pin-dir", "/sys/fs/bpf/nobody"]);
    let agent = program.args(["--socket", "/dev/shm/f2b/sock", "--state-dir", "/dev/shm/f2b"]).start();
    wait_until(PATIENCE, "it is ready", || agent.log().contains("Ready"));
    let process = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("it is running");
    let (net_admin, perfmon, bpf) = (1_u64 << 12, 1_u64 << 38, 1_u64 << 39);
    let expected = format!("CapEff:\t{:016x}\n", net_admin | perfmon | bpf);
    assert!(process.contains("Uid:\t65534\t65534") && process.contains(&expected), "{process}");
    let status = f2b_ok(&lab, &["--socket", "/dev/shm/f2b/sock", "status"]);
    assert!(status.contains("eth0 (native)"), "{status}");
    f2b_ok(&lab, &["--socket", "/dev/shm/f2b/sock", "ban", "sshd", "192.0.2.7", "192.0.2.128/25"]);
}

// Numbers

#[test]
fn metrics_are_the_packets_that_were_sent() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "[sshd]\nport = 9999\nprotocol = udp\n");
    let (banned, free) = (attacker_v4(7), attacker_v4(8));
    f2b_ok(&lab, &["ban", "sshd", &banned.to_string()]);
    let sink = Sink::open(&lab, PORT + 1);
    let sent = [(banned, PORT), (banned, PORT + 1), (free, PORT + 1)].map(|(from, port)| {
        let flood = Flood::start(&lab, from, port);
        sleep(Duration::from_millis(50));
        flood.stop()
    });
    let [dropped, other_ports, passed] = sent;
    assert!(sent.iter().all(|sent| *sent > 0), "{sent:?}");
    // Ethernet, IPv4, UDP, and what a flood's packet holds.
    let bytes = dropped * (14 + 20 + 8 + 18);
    let metrics = f2b_ok(&lab, &["metrics"]);
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name}: {metrics}"))
    };
    let frames = |verdict: &str| {
        value(&format!("f2b_interface_frames_total{{interface=\"eth0\",verdict=\"{verdict}\"}}"))
    };
    assert_eq!((frames("dropped"), frames("other_ports")), (dropped, other_ports));
    assert_eq!(value("f2b_frames_total{verdict=\"dropped\"}"), dropped);
    assert_eq!(value("f2b_scope_dropped_packets_total{ports=\"udp 9999\"}"), dropped);
    assert_eq!(value("f2b_scope_dropped_bytes_total{ports=\"udp 9999\"}"), bytes);
    assert_eq!(value("f2b_scope_dropped_packets_total{ports=\"all ports\"}"), 0);
    // Neighbours ask for each other with IPv6, too.
    assert!((passed..passed + 100).contains(&frames("passed")), "{metrics}");
    assert_eq!(value("f2b_interface_protected{interface=\"eth0\",mode=\"native\",reason=\"\"}"), 1);
    assert_eq!((value("f2b_banned_addresses"), value("f2b_max_bans")), (1, 131_072));
    assert_eq!(json(&lab, &["metrics", "--json"])["packets"]["dropped"], dropped);
    drop(sink);
}

// Sizes and layouts

#[test]
fn another_size_is_taken_at_the_next_start_and_loses_nothing() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    let mut agent = start(&lab, "max_bans = 100");
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string(), "203.0.113.0/24"]);
    let sink = Sink::open(&lab, PORT);
    for (size, shown) in [("max_bans = 5000", 5000), ("max_bans = 16", 16), ("", 131_072)] {
        let flood = Flood::start(&lab, attacker, PORT);
        agent.stop();
        agent = start(&lab, size);
        assert!(flood.stop() > 0);
        assert_eq!(json(&lab, &["status", "--json"])["capacity"], shown);
        assert_eq!(sink.count(attacker), 0, "{size}");
        let ban = agent.ban_of(attacker).expect("it is still banned");
        assert!(ban["packets"].as_u64() > Some(0), "{ban}");
        assert_eq!(ban["jails"][0], "sshd");
    }
    // Too small for what there is.
    for n in 1..=20 {
        f2b_ok(&lab, &["ban", "sshd", &format!("192.0.2.{n}")]);
    }
    agent.stop();
    let mut agent = launch(&lab, "max_bans = 16");
    agent.process.wait(PATIENCE);
    let log = agent.process.log();
    assert!(log.contains("max_bans = 16 is less than the 21 bans in the kernel"), "{log}");
    assert!(!lab.connects(attacker), "and what was enforced still is");
}

/// What an f2b of layout 1 leaves: its map of bans, and its program on a pinned link, which drops `attacker`.
fn leave_layout_1(lab: &Lab, attacker: IpAddr, others: u32) {
    lab.inside(Host::Server, || {
        fs::create_dir_all(format!("{PINS}/v1")).expect("root may make pins");
        fs::create_dir_all(format!("{PINS}/links")).expect("root may make pins");
        let mut bans = HashMap::<_, BanKey, v1::Ban>::create(131_072, 0).expect("the kernel makes the map");
        let addresses = (0..others).map(|n| IpAddr::V4((0x0a00_0000 + n).into())).chain([attacker]);
        for address in addresses {
            let ban = v1::Ban { ends_ns: FOREVER, packets: 42 };
            bans.insert(BanKey::from(address), ban, 0).expect("there is room");
        }
        bans.pin(format!("{PINS}/v1/bans")).expect("there is no such pin yet");

        // A program of today stands in for the old one: it has the same name and drops the same.
        let mut ebpf = EbpfLoader::new().load(OBJECT).expect("root may load maps");
        let entry = BanEntry {
            slots: [Slot { ends_ns: FOREVER, scopes: 1 << ALL_PORTS }, Slot::default(), Slot::default()],
            ..BanEntry::default()
        };
        let mut its_bans: HashMap<_, BanKey, BanEntry> =
            ebpf.map_mut(BANS).expect("it is there").try_into().expect("it is a hash map");
        its_bans.insert(BanKey::from(attacker), entry, 0).expect("there is room");
        let program: &mut Xdp =
            ebpf.program_mut(PROGRAM).expect("it is there").try_into().expect("it is for XDP");
        program.load().expect("the verifier takes it");
        let id = program.attach("eth0", XdpMode::Driver).expect("nothing is attached yet");
        let link: FdLink =
            program.take_link(id).expect("just made").try_into().expect("a link of the kernel");
        link.pin(format!("{PINS}/links/eth0")).expect("there is no such pin yet");
    });
}

#[test]
fn bans_of_layout_1_are_taken_over_under_a_flood_and_no_packet_passes() {
    let lab = Lab::new();
    let attacker = attacker_v4(7);
    leave_layout_1(&lab, attacker, 2_000);
    assert!(!lab.connects(attacker));
    let sink = Sink::open(&lab, PORT);
    let flood = Flood::start(&lab, attacker, PORT);
    let agent = Agent::start(&lab, "[sshd]\nport = 2222\n");
    sleep(Duration::from_millis(200));
    let sent = flood.stop();
    assert_eq!(sink.count(attacker), 0, "of {sent} banned packets, none may pass");
    let log = agent.process.log();
    assert!(log.contains("Took the bans over from layout 1 bans=2001"), "{log}");
    assert!(log.contains("Took over the program that was attached"), "{log}");
    let ban = agent.ban_of(attacker).expect("it is still banned");
    assert_eq!((&ban["jails"][0], &ban["until"]), (&"(kernel)".into(), &"forever".into()));
    assert!(ban["packets"].as_u64() > Some(42), "{ban}");
    assert_eq!(json(&lab, &["status", "--json"])["banned"], 2_001);
    assert_eq!(sh(&lab, &format!("ls {PINS}")), "links\nv2\n", "layout 1 is gone");
    assert!(lab.connects(attacker_v4(8)));
}

/// Starts an agent with this line in `f2b.local`, and waits until it is ready.
fn start<'lab>(lab: &'lab Lab, f2b_local: &str) -> Agent<'lab> {
    let agent = launch(lab, f2b_local);
    wait_until(PATIENCE, "the agent is ready", || agent.process.log().contains("Ready"));
    agent
}

fn launch<'lab>(lab: &'lab Lab, f2b_local: &str) -> Agent<'lab> {
    let config = lab.dir().join("config");
    fs::create_dir_all(&config).expect("the lab's directory is writable");
    fs::write(config.join("f2b.local"), format!("[f2b]\n{f2b_local}\n"))
        .expect("the lab's directory is writable");
    Agent::launch(lab, "[sshd]\n", &[])
}

/// A packet of `from` to a port that nobody bans gets through.
#[track_caller]
fn arrives(lab: &Lab, from: IpAddr) {
    let sink = Sink::open(lab, PORT);
    let _flood = Flood::start(lab, from, PORT);
    wait_until(PATIENCE, "packets to another port arrive", || sink.count(from) > 0);
}

fn json(lab: &Lab, args: &[&str]) -> Value {
    serde_json::from_str(&f2b_ok(lab, args)).expect("f2b prints JSON")
}
