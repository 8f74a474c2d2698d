//! Bad input: one sentence on stderr that says what is wrong and what to do, an exit status, and nothing changed.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{fs, path::Path};

use aya::maps::HashMap;
use common::{Agent, F2B, PINS, attach_foreign_program, f2b, f2b_ok, sh};
use f2b::control::DEFAULT_SOCKET;
use lab::{Host, Lab, Program};

/// A user without any right.
const NOBODY: &str = "65534";

// Interfaces

#[test]
fn an_unknown_interface_is_answered_with_those_there_are() {
    let lab = Lab::network_only();
    let error = refused(&lab, &["run", "-i", "nope0"]);
    assert_eq!(error, "there is no interface \"nope0\"; there are lo, eth0");
}

#[test]
fn an_interface_named_twice_is_one_interface() {
    let lab = Lab::network_only();
    Agent::start_with(&lab, "", &["-i", "eth0", "-i", "eth0"]);
    assert!(id_of_program_on(&lab, "eth0").parse::<u32>().is_ok());
}

#[test]
fn without_a_default_route_an_interface_must_be_named() {
    let lab = Lab::network_only();
    sh(&lab, "ip route del default; ip -6 route del default");
    let error = refused(&lab, &["run"]);
    assert_eq!(error, "there is no default route to tell which interface to protect; name it with -i");
}

#[test]
fn a_foreign_xdp_program_is_named_and_never_evicted() {
    let lab = Lab::network_only();
    let _foreign = attach_foreign_program(&lab, "eth0");
    let id = id_of_program_on(&lab, "eth0");
    for mode in ["native", "generic"] {
        let error = refused(&lab, &["run", "--mode", mode]);
        let named = format!(
            r#"interface eth0 already has the XDP program "fw0" (id {id}), which f2b will not evict;"#
        );
        assert_begins(&error, &named);
        assert_eq!(id_of_program_on(&lab, "eth0"), id);
    }
}

#[test]
fn an_interface_without_ethernet_frames_is_refused() {
    let lab = Lab::network_only();
    sh(&lab, "mkdir /dev/net; mknod /dev/net/tun c 10 200; ip tuntap add tun0 mode tun");
    let error = refused(&lab, &["run", "-i", "tun0"]);
    assert_begins(&error, "interface tun0 has no Ethernet frames to look into; protect the interface");
}

#[test]
fn native_mode_is_refused_where_the_driver_has_no_xdp() {
    let lab = Lab::network_only();
    add_bridge(&lab);
    let error = refused(&lab, &["run", "-i", "br0", "--mode", "native"]);
    assert_begins(&error, "interface br0 cannot run XDP in its driver (");
    assert!(error.ends_with("Operation not supported (os error 95)); leave out --mode native"), "{error}");
}

#[test]
fn the_best_mode_is_generic_where_the_driver_has_no_xdp_and_the_reason_is_logged() {
    let lab = Lab::network_only();
    add_bridge(&lab);
    let agent = Agent::start_with(&lab, "", &["-i", "br0"]);
    let log = agent.process.log();
    let warning = log.lines().find(|line| line.contains(" WARN ")).expect("the fall back is logged");
    assert!(warning.contains("falling back to generic mode"), "{warning}");
    assert!(warning.contains("interface=\"br0\"") && warning.contains("not supported"), "{warning}");
    assert!(f2b_ok(&lab, &["status"]).contains("br0 (generic)"));
}

// Rights

#[test]
fn without_root_nothing_can_be_enforced() {
    let lab = Lab::network_only();
    for socket in [DEFAULT_SOCKET, "/dev/shm/f2b.sock"] {
        let error = refused_as_nobody(&lab, &["run", "--socket", socket]);
        assert_eq!(error, "only root can load the XDP program; try again with sudo, or with --dry-run");
    }
}

#[test]
fn without_root_the_agent_does_not_listen() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "");
    let error = refused_as_nobody(&lab, &["status"]);
    assert_eq!(error, format!("only root may talk to the agent at {DEFAULT_SOCKET}; try again with sudo"));
}

#[test]
fn without_root_nothing_is_detached() {
    let lab = Lab::network_only();
    // Killed, so that its pins stay.
    drop(Agent::start(&lab, ""));
    assert_eq!(refused_as_nobody(&lab, &["detach"]), "only root can detach; try again with sudo");
}

// Pins and the socket

#[test]
fn pins_need_a_bpf_file_system() {
    let lab = Lab::network_only();
    let elsewhere = lab.dir().join("pins");
    let error = refused(&lab, &["run", "--pin-dir", text(&elsewhere)]);
    let advice = "is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf` and choose a place below it";
    assert_eq!(error, format!("{} {advice}", elsewhere.display()));

    sh(&lab, "umount /sys/fs/bpf");
    assert_eq!(refused(&lab, &["run"]), format!("{PINS} {advice}"));
    assert_eq!(refused(&lab, &["detach"]), format!("{PINS} {advice}"));
}

#[test]
fn a_pinned_map_of_another_layout_is_left_alone() {
    let lab = Lab::network_only();
    let pin = Path::new(PINS).join("v2/bans");
    lab.inside(Host::Server, || {
        fs::create_dir_all(pin.parent().expect("it has one")).expect("root may make pins");
        let map = HashMap::<_, u32, u64>::create(16, 0).expect("the kernel makes the map");
        map.pin(&pin).expect("there is no such pin yet");
    });
    let error = refused(&lab, &["run"]);
    assert_begins(&error, &format!("the pinned map {} has another layout", pin.display()));
    assert!(error.contains("(Hash, 4 bytes of key, 8 of value, 16 entries;"), "{error}");
    assert!(error.contains("remove it with `f2b detach`"), "{error}");

    f2b_ok(&lab, &["detach"]);
    Agent::start(&lab, "");
}

#[test]
fn a_pinned_map_of_another_type_is_left_alone() {
    let lab = Lab::network_only();
    let pin = format!("{PINS}/v2/bans");
    let like_ours = "key 16 value 64 entries 131072 name bans";
    sh(&lab, &format!("mkdir -p {PINS}/v2; bpftool map create {pin} type lru_hash {like_ours}"));
    let error = refused(&lab, &["run"]);
    assert_begins(&error, &format!("the pinned map {pin} has another layout (LruHash,"));
}

#[test]
fn pins_of_a_newer_f2b_are_left_alone() {
    let lab = Lab::network_only();
    sh(&lab, &format!("mkdir -p {PINS}/v3"));
    let error = refused(&lab, &["run"]);
    assert_begins(&error, &format!("{PINS}/v3 is of a newer f2b (layout 3, this one has 2); use that one,"));
}

#[test]
fn a_second_agent_is_refused_by_whatever_it_shares_with_the_first() {
    let lab = Lab::network_only();
    let mut agent = Agent::start(&lab, "");
    let other_socket = lab.dir().join("other.sock");
    let other_socket = ["run", "--socket", text(&other_socket)];
    let other_pins = ["--pin-dir", "/sys/fs/bpf/other"];

    let error = refused(&lab, &[&["run"], &other_pins[..]].concat());
    assert_begins(&error, &format!("an agent is already listening at {DEFAULT_SOCKET}; stop it first"));

    let error = refused(&lab, &other_socket);
    let works_there = format!("a running f2b agent works in {PINS}; stop it first");
    assert_eq!(error, format!("{works_there}, or give this one another --pin-dir"));

    let error = refused(&lab, &[&other_socket[..], &other_pins[..]].concat());
    assert_begins(&error, "interface eth0 has the XDP program of another f2b (id ");

    assert_eq!(refused(&lab, &["detach"]), works_there);

    assert!(agent.process.is_running());
    assert!(f2b_ok(&lab, &["status"]).contains("eth0 (native)"));
}

#[test]
fn a_file_where_the_socket_should_be_is_kept() {
    let lab = Lab::network_only();
    let file = lab.dir().join("letter");
    fs::write(&file, "dear").expect("the lab's directory is writable");
    let error = refused(&lab, &["run", "--socket", text(&file)]);
    let expected = format!("{} exists and is no socket; choose another place with --socket", file.display());
    assert_eq!(error, expected);
    assert_eq!(fs::read_to_string(&file).expect("it is still there"), "dear");
}

// Configuration

#[test]
fn a_missing_configuration_directory_is_named() {
    let lab = Lab::network_only();
    let missing = lab.dir().join("missing");
    let error = refused(&lab, &["run", "-c", text(&missing)]);
    assert_eq!(error, format!("-c {}: it is no directory", missing.display()));
}

#[test]
fn a_broken_line_is_named_with_file_and_line() {
    let lab = Lab::network_only();
    let config = configuration(&lab, &[("jail.local", "[sshd]\nmaxretry = 3\nbantime\n")]);
    let error = refused(&lab, &["run", "-c", &config]);
    assert_eq!(
        error,
        format!(r#"{config}/jail.local:3: "bantime" is neither a [section] nor option = value"#)
    );
}

#[test]
fn no_jail_to_run_is_an_error() {
    let lab = Lab::network_only();
    let config = configuration(&lab, &[("jail.local", "[sshd]\nenabled = false\n")]);
    let error = refused(&lab, &["run", "-c", &config]);
    assert_eq!(error, format!("no jail can start from {config}; enable one with `enabled = true`"));
}

#[test]
fn a_jail_with_a_broken_expression_is_named_and_left_out_and_the_others_start() {
    let lab = Lab::network_only();
    configuration(&lab, &[("filter.d/broken.conf", "[Definition]\nfailregex = ^(no end <HOST>\n")]);
    let agent = Agent::start(&lab, "[broken]\nenabled = true\njournalmatch = _COMM=broken\n");
    let log = agent.process.log();
    let warning = log.lines().find(|line| line.contains(" WARN ")).expect("the jail is named");
    assert!(
        warning.contains("jail broken is left out: ")
            && warning.contains("filter.d/broken.conf:2: filter broken: "),
        "{warning}"
    );
    assert!(warning.contains("^(no end <HOST>"), "{warning}");
    assert!(f2b_ok(&lab, &["status"]).contains("Jail list:\tsshd\n"));
}

// Requests

#[test]
fn requests_without_an_agent_say_how_to_start_one() {
    let lab = Lab::network_only();
    for request in [
        &["status"] as &[_],
        &["status", "sshd"],
        &["banned"],
        &["ban", "sshd", "192.0.2.1"],
        &["unban", "192.0.2.1"],
        &["unban", "--all"],
        &["reload"],
    ] {
        let expected =
            format!("no agent is running (nothing listens at {DEFAULT_SOCKET}); start one with `f2b run`");
        assert_eq!(refused(&lab, request), expected);
    }
}

#[test]
fn an_unknown_jail_is_answered_with_those_there_are() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "");
    for request in [&["status", "nope"] as &[_], &["ban", "nope", "192.0.2.1"]] {
        assert_eq!(refused(&lab, request), "there is no jail nope; there are: sshd");
    }
}

#[test]
fn addresses_that_must_not_be_banned_are_refused_by_hand_too() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "[sshd]\nignoreip = 192.0.2.0/24 127.0.0.1\n");
    let error = refused(&lab, &["ban", "sshd", "192.0.2.9"]);
    assert_eq!(error, "not banned: 192.0.2.9: ignoreip names it");
    let error = refused(&lab, &["ban", "sshd", "127.0.0.1"]);
    assert_eq!(error, "not banned: 127.0.0.1: it is this machine's own address");
    let error = refused(&lab, &["ban", "sshd", "255.255.255.255"]);
    assert_eq!(error, "not banned: 255.255.255.255: it is no host's address");
    let json = f2b(&lab, &["ban", "sshd", "192.0.2.9", "--json"]);
    assert_eq!(json.status.code(), Some(1), "with --json, too");
    let error = refused(&lab, &["ban", "sshd", "198.51.100.1"]);
    assert_eq!(error, "not banned: 198.51.100.1: it is this machine's own address");
    assert_eq!(f2b_ok(&lab, &["banned"]), "Nothing is banned.\n");
}

#[test]
fn an_ipv4_address_in_ipv6_spelling_is_the_same_address() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "[sshd]\nignoreip = 192.0.2.0/24\n");
    for address in ["::ffff:192.0.2.9", "::ffff:198.51.100.1"] {
        let error = refused(&lab, &["ban", "sshd", address]);
        assert_begins(&error, "not banned: ");
    }
    f2b_ok(&lab, &["ban", "sshd", "::ffff:203.0.113.9"]);
    assert_eq!(f2b_ok(&lab, &["unban", "203.0.113.9"]), "203.0.113.9 is free\n");
}

#[test]
fn what_is_no_address_is_refused_by_the_command_line() {
    let lab = Lab::network_only();
    for address in ["nonsense", "192.0.2.256", "192.0.2.0/33", "192.0.2.1/24", ""] {
        for command in [&["ban", "sshd"] as &[_], &["unban"]] {
            let output = f2b(&lab, &[command, &[address]].concat());
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.starts_with(&format!("error: invalid value '{address}' for '")), "{stderr}");
        }
    }
}

/// Runs `f2b`, which must refuse; its sentence. See [`sentence_of`].
#[track_caller]
fn refused(lab: &Lab, args: &[&str]) -> String {
    sentence_of(lab, lab.server("timeout").args(["20", F2B]).args(args))
}

/// As [`refused`], without any right.
#[track_caller]
fn refused_as_nobody(lab: &Lab, args: &[&str]) -> String {
    let nobody = lab.server("setpriv").args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    sentence_of(lab, nobody.args(["timeout", "20", F2B]).args(args))
}

/// Runs an `f2b` which must fail with status 1 and one sentence on stderr, after nothing but news, and must change
/// nothing. Returns the sentence.
#[track_caller]
fn sentence_of(lab: &Lab, program: Program) -> String {
    let before = traces(lab);
    let output = program.env("NO_COLOR", "1").output();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty(), "errors go to stderr alone");
    let lines: Vec<_> = stderr.lines().collect();
    let (last, log) = lines.split_last().expect("an error says something");
    assert!(log.iter().all(|line| line.contains(" INFO ")), "{stderr}");
    assert_eq!(traces(lab), before, "nothing has changed");
    last.strip_prefix("f2b: ").expect("an error says whose it is").to_owned()
}

#[track_caller]
fn assert_begins(text: &str, beginning: &str) {
    assert!(text.starts_with(beginning), "{text}");
}

/// Whatever f2b could leave behind or take away: pins, sockets, programs on interfaces.
fn traces(lab: &Lab) -> String {
    sh(lab, "find /sys/fs/bpf -printf '%p %i\n'; find /run/ /dev/shm . -type s -printf '%p %i\n'; ip link")
}

/// A bridge: its driver knows no XDP.
fn add_bridge(lab: &Lab) {
    sh(lab, "ip link add br0 type bridge");
}

/// The number of the XDP program on the interface.
fn id_of_program_on(lab: &Lab, interface: &str) -> String {
    let link = sh(lab, &format!("ip link show {interface}"));
    let (_, id) = link.split_once("prog/xdp id ").expect("it has one");
    id.split_whitespace().next().expect("a number").to_owned()
}

/// Writes files into the configuration directory which [`Agent::start`] uses, too. Returns its path.
fn configuration(lab: &Lab, files: &[(&str, &str)]) -> String {
    let dir = lab.dir().join("config");
    for (name, content) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the lab's directory is writable");
        fs::write(path, content).expect("the lab's directory is writable");
    }
    text(&dir).to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are UTF-8")
}
