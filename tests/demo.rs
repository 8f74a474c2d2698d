//! The story of an attack and its ban, for a person to watch: `cargo xtask demo`.
//!
//! Everything in it is real and happens in a lab. Each act checks what it shows: a story that is not true fails.
#![expect(clippy::print_stdout, reason = "it is told on stdout")]

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    env,
    io::{IsTerminal as _, stdout},
    net::IpAddr,
    path::Path,
    sync::LazyLock,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Agent, F2B, PATIENCE, PINS};
use f2b_ebpf::LAYOUT;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use lab::{Flood, Host, Lab, Sink, attacker_v4, wait_until};

const COLUMNS: usize = 100;
/// Between two acts.
const PAUSE: Duration = Duration::from_millis(1000);
/// Whether a person is watching.
static LIVELY: LazyLock<bool> = LazyLock::new(|| stdout().is_terminal());

/// Where the flood goes: to a port with nothing to do with ssh.
const PORT: u16 = 9999;

const PLAIN: &str = "";
const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

fn main() {
    let lab = Lab::new();
    let sink = Sink::open(&lab, PORT);
    let (attacker, bystander) = (attacker_v4(7), attacker_v4(8));

    let agent = an_agent_starts(&lab);
    let reaction = an_attacker_guesses_passwords(&lab, &agent, &sink, attacker);
    the_ban_holds(&lab, attacker, bystander);
    a_flood_is_dropped(&lab, &agent, &sink, attacker);
    let agent = the_agent_dies_and_the_ban_lives(&lab, agent, &sink, attacker);
    the_ban_is_lifted(&lab, &agent, attacker);
    let dropped = everything_is_removed(&lab, agent);

    println!();
    put(BOLD, "", &format!("From the fifth failure's log entry to the ban: {reaction:.1?}."));
    put(BOLD, "", &format!("Packets dropped in the driver, before the network stack: {}.", grouped(dropped)));
}

fn an_agent_starts(lab: &Lab) -> Agent<'_> {
    act(
        1,
        "An agent starts",
        "A server with sshd and one interface, and strangers on its wire. f2b needs no configuration.",
    );
    server(lab, "ip -br addr show eth0");
    start_agent(lab, "Attached the XDP program interface=\"eth0\" mode=native")
}

/// How long it took from the fifth failure in the journal to the ban in the agent's log.
fn an_attacker_guesses_passwords(lab: &Lab, agent: &Agent<'_>, sink: &Sink, attacker: IpAddr) -> Duration {
    act(2, "The attack", &format!("{attacker} may still do anything: first a flood of UDP packets."));
    let flood = Flood::start(lab, attacker, PORT);
    sleep(Duration::from_millis(500));
    flood.stop();
    let arrived = sink.count(attacker);
    verdict(arrived > 0, &format!("after half a second {} packets have arrived", grouped(arrived)));

    put("", "", "Then it guesses root's password, five times.");
    let mut live = Live::new();
    for failure in 1..=5 {
        pause(PAUSE / 3);
        let tried = format!("ssh -F ssh_config -b {attacker} -o NumberOfPasswordPrompts=1 root@198.51.100.1");
        let login = match failure {
            1 => shell(lab, Host::Attackers, &tried),
            _ => run(lab, Host::Attackers, &tried),
        };
        assert!(!login.success, "a wrong password is refused");
        let heard = || agent.process.log().matches(" Found ").count() == failure;
        wait_until(PATIENCE, "the agent has heard of the failure", heard);
        if failure == 5 {
            wait_for(agent, " Ban ");
        }
        // The agent's log first: what it knows of is then in the journal.
        live.show([log_of(agent), journal_of(lab, attacker)].into_iter().flatten().collect());
    }

    let failures = journal_of(lab, attacker).into_iter().filter(|entry| entry.text.starts_with("Failed"));
    let fifth = failures.map(|entry| entry.at).nth(4).expect("sshd has logged five failures");
    let ban = log_of(agent).into_iter().find(|entry| entry.text.contains(" Ban "));
    let ban = ban.expect("it was waited for").at;
    Duration::try_from(ban.duration_since(fifth)).expect("the ban comes after the failure")
}

fn the_ban_holds(lab: &Lab, attacker: IpAddr, bystander: IpAddr) {
    act(3, "The ban", "The attacker's packets now end in the driver. Everybody else notices nothing.");
    login(lab, attacker, false);
    login(lab, bystander, true);
}

fn a_flood_is_dropped(lab: &Lab, agent: &Agent<'_>, sink: &Sink, attacker: IpAddr) {
    act(
        4,
        "The flood",
        &format!("{attacker} floods again. From `f2b status --json`, every half second for 5 seconds:"),
    );
    let arrived_before = sink.count(attacker);
    let first = agent.dropped();
    let flood = Flood::start(lab, attacker, PORT);
    let (mut dropped, mut read) = (first, Instant::now());
    for _ in 0..10 {
        sleep(Duration::from_millis(500));
        let more = agent.dropped() - dropped;
        let rate = (more as f64 / read.elapsed().as_secs_f64()) as u64;
        (dropped, read) = (dropped + more, Instant::now());
        let bar = "█".repeat((rate / 20_000).min(60) as usize);
        let arrived = sink.count(attacker) - arrived_before;
        put("", "  ", &format!("{:>11} dropped/s, {arrived} arrived  {bar}", grouped(rate)));
    }
    flood.stop();
    let arrived = sink.count(attacker) - arrived_before;
    let text = format!("{} packets dropped, {arrived} arrived", grouped(dropped - first));
    verdict(dropped > first && arrived == 0, &text);

    // The agent brings the map of bans up to date every second.
    sleep(Duration::from_millis(1_500));
    let in_kernel = packets_of(&server(lab, &format!("bpftool map dump pinned {PINS}/v{LAYOUT}/bans")));
    pause(PAUSE / 2);
    let banned = server(lab, "f2b banned");
    assert!(banned.contains(&attacker.to_string()) && in_kernel >= dropped - first);
    let status = server(lab, "f2b status sshd");
    assert!(status.contains(&format!("Banned IP list:\t{attacker}")));
    server(lab, "f2b status");
}

fn the_agent_dies_and_the_ban_lives<'lab>(
    lab: &'lab Lab,
    mut agent: Agent<'lab>,
    sink: &Sink,
    attacker: IpAddr,
) -> Agent<'lab> {
    act(
        5,
        "The agent dies",
        "The flood goes on, and the agent is killed. The kernel keeps the ban by itself.",
    );
    let arrived = sink.count(attacker);
    let flood = Flood::start(lab, attacker, PORT);
    let count =
        format!("bpftool map lookup pinned {PINS}/v{LAYOUT}/scope_counters key 0 0 0 0 | grep packets");
    let before = packets_of(&server(lab, &count));
    server(lab, &format!("kill -9 {}", agent.process.pid_inside()));
    agent.process.wait(PATIENCE);
    let alive = packets_of(&run(lab, Host::Server, &count).printed);
    assert!(!shell(lab, Host::Server, "f2b banned").success, "nobody is there to answer");
    sleep(Duration::from_millis(500));
    let after = packets_of(&server(lab, &count));
    assert!(alive >= before);
    verdict(after > alive, &format!("{} packets dropped with no agent running", grouped(after - alive)));

    pause(PAUSE / 2);
    put("", "", "A new agent takes over what it finds.");
    let agent = start_agent(lab, "Took over the program");
    assert!(server(lab, "f2b banned").contains(&attacker.to_string()), "the ban is still known");
    flood.stop();
    verdict(sink.count(attacker) == arrived, "not one packet arrived in the meantime");
    agent
}

fn the_ban_is_lifted(lab: &Lab, agent: &Agent<'_>, attacker: IpAddr) {
    act(6, "The ban is lifted", "An unban counts from the next packet on.");
    server(lab, &format!("f2b unban {attacker}"));
    assert!(agent.ban_of(attacker).is_none());
    login(lab, attacker, true);
}

/// How many packets were dropped, all in all.
fn everything_is_removed(lab: &Lab, mut agent: Agent<'_>) -> u64 {
    act(7, "Nothing stays", "The agent stops in peace, and `f2b detach` removes what it left.");
    let dropped = agent.dropped();
    let mut live = Live::new();
    server(lab, &format!("kill {}", agent.process.pid_inside()));
    wait_for(&agent, "Stopped");
    live.show(log_of(&agent));
    assert!(agent.process.wait(PATIENCE).success());
    assert!(xdp_on_eth0(lab), "the program outlives the agent");
    server(lab, "f2b detach");
    verdict(!xdp_on_eth0(lab), "eth0 runs no XDP program any more");
    dropped
}

/// Begins an act.
fn act(number: u8, title: &str, sentence: &str) {
    if number > 1 {
        pause(PAUSE);
        println!();
    }
    put(BOLD, "", &format!("{number}. {title}"));
    put("", "", sentence);
    pause(PAUSE / 2);
}

/// Starts an agent as anybody would, and shows its log, which must tell of `event`.
fn start_agent<'lab>(lab: &'lab Lab, event: &str) -> Agent<'lab> {
    put(CYAN, "$ ", "f2b run");
    let mut live = Live::new();
    let agent = Agent::start(lab, "");
    wait_for(&agent, "Following");
    live.show(log_of(&agent));
    assert!(agent.process.log().contains(event), "{event}");
    agent
}

fn wait_for(agent: &Agent<'_>, text: &str) {
    wait_until(PATIENCE, text, || agent.process.log().contains(text));
}

/// Logs in with the right key, which must have the `expected` end.
fn login(lab: &Lab, from: IpAddr, expected: bool) {
    let began = Instant::now();
    // Nobody needs to see a dropped SYN for longer; who is let in has the time that a busy machine takes.
    let patience = if expected { "" } else { " -o ConnectTimeout=2" };
    let ssh = format!("ssh -F ssh_config -b {from}{patience} -i user_key root@198.51.100.1 echo welcome");
    let success = shell(lab, Host::Attackers, &ssh).success;
    let end = if success { "is in" } else { "is locked out" };
    assert_eq!(success, expected, "{from} {end}");
    mark(success, &format!("{from} {end} after {} ms", began.elapsed().as_millis()));
}

fn xdp_on_eth0(lab: &Lab) -> bool {
    run(lab, Host::Server, "ip link show eth0").printed.contains("xdp")
}

/// The sum of the numbers behind each `"packets":`.
fn packets_of(dump: &str) -> u64 {
    let numbers = dump.split("\"packets\": ").skip(1);
    let number = |text: &str| {
        let digits = text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse::<u64>().expect("bpftool prints numbers")
    };
    numbers.map(number).sum()
}

/// How a command ended, and what it printed.
struct Ran {
    success: bool,
    printed: String,
}

/// Shows `line`, runs it in a shell of `host`, and shows what that prints.
fn shell(lab: &Lab, host: Host, line: &str) -> Ran {
    put(CYAN, "$ ", line);
    let ran = run(lab, host, line);
    ran.printed.lines().for_each(|printed| put("", "  ", printed));
    ran
}

/// As [`shell`] on the server; `line` must succeed. What it printed.
fn server(lab: &Lab, line: &str) -> String {
    let ran = shell(lab, Host::Server, line);
    assert!(ran.success, "{line}: {}", ran.printed);
    ran.printed
}

fn run(lab: &Lab, host: Host, line: &str) -> Ran {
    let own = Path::new(F2B).parent().expect("the binary is in a directory").display();
    let path = format!("{own}:{}", env::var("PATH").unwrap_or_default());
    let program = match host {
        Host::Server => lab.server("sh"),
        Host::Attackers => lab.attacker("sh"),
    };
    let output = program
        .args(["-c", line])
        .env("PATH", path)
        // ssh takes the answer of echo, its own prompt, for the password.
        .env("SSH_ASKPASS", "/bin/echo")
        .env("SSH_ASKPASS_REQUIRE", "force")
        .output();
    let printed = [output.stdout, output.stderr].concat();
    Ran { success: output.status.success(), printed: String::from_utf8_lossy(&printed).into_owned() }
}

/// Something that was logged.
struct Entry {
    at: Timestamp,
    by: &'static str,
    text: String,
}

/// Everything that `agent` has logged. Its own time stamps become ours.
fn log_of(agent: &Agent<'_>) -> Vec<Entry> {
    let entry = |line: &str| {
        let (at, text) = line.split_once("  ")?;
        let at = at.parse::<DateTime>().ok()?.to_zoned(TimeZone::system()).ok()?.timestamp();
        Some(Entry { at, by: "f2b", text: text.trim().into() })
    };
    agent.process.log().lines().filter_map(entry).collect()
}

/// Everything that sshd has logged about `ip`.
fn journal_of(lab: &Lab, ip: IpAddr) -> Vec<Entry> {
    let messages = lab.sshd_messages_about(ip).into_iter();
    messages.map(|logged| Entry { at: timestamp(logged.sent), by: "sshd", text: logged.message }).collect()
}

fn timestamp(microseconds: u64) -> Timestamp {
    Timestamp::from_microsecond(microseconds as i64).expect("sshd does not log in the far future")
}

/// A log that is shown as it grows.
struct Live {
    began: Timestamp,
    shown: Timestamp,
}

impl Live {
    /// Shows what is logged from now on.
    fn new() -> Self {
        let now = Timestamp::now();
        Self { began: now, shown: now }
    }

    /// Shows those of `entries` that are new.
    fn show(&mut self, mut entries: Vec<Entry>) {
        entries.retain(|entry| entry.at > self.shown);
        entries.sort_by_key(|entry| entry.at);
        for Entry { at, by, text } in entries {
            let elapsed = at.duration_since(self.began).as_millis_f64();
            let style = if text.contains(" Ban ") { RED } else { DIM };
            put(style, &format!("{elapsed:>8.1} ms  {by:<4}  "), &text);
            self.shown = at;
        }
    }
}

/// Shows that `what` holds, and that the demo ends here if it does not.
fn verdict(holds: bool, what: &str) {
    mark(holds, what);
    assert!(holds, "{what}");
}

fn mark(good: bool, text: &str) {
    let (style, sign) = if good { (GREEN, "✓ ") } else { (RED, "✗ ") };
    put(style, sign, text);
}

/// Prints `prefix` in `style`, then `text`, folded behind it so that no line is too long.
fn put(style: &str, prefix: &str, text: &str) {
    let indent = prefix.chars().count();
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let line = lines.last_mut().expect("never empty");
        if indent + line.chars().count() + word.trim_end().chars().count() > COLUMNS {
            lines.push(word.into());
        } else {
            line.push_str(word);
        }
    }
    // Without a prefix the text itself has the style.
    let (prefix, rest) = match prefix {
        "" => (String::new(), style),
        _ => (styled(style, prefix), PLAIN),
    };
    for (n, line) in lines.iter().enumerate() {
        let line = styled(rest, line.trim_end());
        if n == 0 { println!("{prefix}{line}") } else { println!("{:indent$}{line}", "") }
    }
}

fn styled(style: &str, text: &str) -> String {
    if *LIVELY && env::var_os("NO_COLOR").is_none() && style != PLAIN {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.into()
    }
}

/// Leaves a person the time to read.
fn pause(time: Duration) {
    if *LIVELY {
        sleep(time);
    }
}

/// `1234567` → `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
