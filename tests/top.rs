//! `f2b top`: what an operator sees of an attack, on a terminal and in a script; and that looking leaves nothing behind.

#[path = "common/mod.rs"]
mod common;
mod lab;

use std::{
    collections::HashMap,
    fs,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use common::{Agent, F2B, PATIENCE, PINS, f2b, f2b_ok, f2b_program, sh};
use lab::{Flood, Lab, Process, attacker_v4, attacker_v6, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORT: u16 = 9999;

/// `f2b top --json`, which goes on.
struct Watching(Process);

impl Watching {
    /// From now on every drop is seen.
    fn start(lab: &Lab) -> Self {
        let watching = Self(f2b_program(lab, &["top", "--json"]).start());
        wait_until(PATIENCE, "the first interval is over", || !watching.intervals().is_empty());
        watching
    }

    /// The intervals so far.
    fn intervals(&self) -> Vec<Value> {
        let log = self.0.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).expect("an object on each line")).collect()
    }

    /// What the rates of all intervals come to.
    fn sums(&self) -> HashMap<String, u64> {
        let mut sums = HashMap::<_, f64>::new();
        for interval in self.intervals() {
            let seconds = interval["seconds"].as_f64().expect("a number");
            let mut add = |name: String, rate: &Value| {
                *sums.entry(name).or_default() += rate.as_f64().expect("a number") * seconds;
            };
            let list = |name: &str| interval[name].as_array().expect("a list").clone();
            for ban in list("bans") {
                add(ban["address"].as_str().expect("text").into(), &ban["packets"]);
            }
            for scope in list("scopes") {
                add(format!("packets to {}", scope["ports"]), &scope["packets"]);
                add(format!("bytes to {}", scope["ports"]), &scope["bytes"]);
            }
            for interface in list("interfaces") {
                add(format!("{} dropped", interface["name"]), &interface["dropped"]);
            }
        }
        sums.into_iter().map(|(name, sum)| (name, sum.round() as u64)).collect()
    }
}

fn events_per_second(lab: &Lab) -> u64 {
    let dump = sh(lab, &format!("bpftool -j map dump pinned {PINS}/v2/settings"));
    let dump: Value = serde_json::from_str(&dump).expect("bpftool prints JSON");
    dump[0]["formatted"]["value"]["events_per_second"].as_u64().expect("a number")
}

#[test]
fn rates_come_to_the_packets_that_were_dropped() {
    let lab = Lab::network_only();
    let _agent =
        Agent::start(&lab, "[sshd]\nport = 9999\nprotocol = udp\n[web]\nenabled = true\nfilter = sshd\n");
    let (host, in_prefix, in_v6) = (attacker_v4(7), attacker_v4(9), attacker_v6(7));
    f2b_ok(&lab, &["ban", "sshd", &host.to_string(), "198.51.100.8/30", &in_v6.to_string()]);
    // Not who, but which ban drops it: this one covers everything.
    f2b_ok(&lab, &["ban", "web", &host.to_string()]);
    let watching = Watching::start(&lab);
    lab.send(host, PORT, 300);
    lab.send(in_prefix, PORT, 200);
    lab.send(in_v6, PORT, 100);
    let dropped = || watching.sums().get("\"eth0\" dropped").copied().unwrap_or_default();
    wait_until(PATIENCE, "all are counted", || dropped() == 600);
    let sums = watching.sums();
    for (ban, sent) in [(host.to_string(), 300), ("198.51.100.8/30".into(), 200), (in_v6.to_string(), 100)] {
        let seen = sums.get(&ban).copied().unwrap_or_default();
        // A packet may be dropped in the moment between its ban being noticed and being read.
        assert!((sent - 5..=sent).contains(&seen), "{ban}: {seen} of {sent}");
    }
    assert_eq!(sums["packets to \"all ports\""], 300);
    assert_eq!(sums["bytes to \"all ports\""], 300 * 60);
    assert_eq!(sums["packets to \"udp 9999\""], 300);
    let busy = watching.intervals().into_iter().find(|interval| interval["bans"] != serde_json::json!([]));
    let ban = busy.expect("an interval with bans")["bans"][0].clone();
    assert_eq!(ban["address"], host.to_string());
    assert_eq!(ban["jails"], serde_json::json!(["sshd", "web"]));
    let until = ban["until"].as_f64().expect("it has an end");
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!((now + 500.0..=now + 600.0).contains(&until), "{ban}");
}

#[test]
fn the_loudest_of_many_is_first_and_its_rate_is_whole() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "");
    let (loud, quiet) = (attacker_v4(9), attacker_v4(7));
    f2b_ok(&lab, &["ban", "sshd", "198.51.100.8/29", &quiet.to_string()]);
    let watching = Watching::start(&lab);
    let flood = Flood::start(&lab, loud, PORT);
    let before = watching.intervals().len();
    while watching.intervals().len() < before + 3 {
        lab.send(quiet, PORT, 2);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(flood.stop() > 10_000, "that was no flood");
    // A whole interval within the flood: far more packets than the kernel reports one by one.
    let interval = &watching.intervals()[before + 1];
    let dropped = interval["interfaces"][0]["dropped"].as_f64().expect("a number");
    let packets = |at: usize| interval["bans"][at]["packets"].as_f64().expect("a number");
    assert_eq!(interval["bans"][0]["address"], "198.51.100.8/29", "{interval}");
    assert!(dropped > 5_000.0, "{interval}");
    assert!((0.9 * dropped..=1.01 * dropped).contains(&packets(0)), "{interval}");
    // Whether the quiet one is noticed beside it is chance; that it is not louder is not.
    assert!(interval["bans"][1].is_null() || packets(1) < 1000.0, "{interval}");
}

#[test]
fn nothing_is_reported_once_nobody_looks_and_the_operators_setting_stays() {
    let lab = Lab::network_only();
    let config = lab.dir().join("config");
    fs::create_dir_all(&config).expect("the lab's directory is writable");
    for log_drops in [0_u64, 3] {
        fs::write(config.join("f2b.local"), format!("[f2b]\nlog_drops = {log_drops}\n")).expect("it is ours");
        let mut agent = Agent::start(&lab, "[sshd]\n");
        f2b_ok(&lab, &["ban", "sshd", &attacker_v4(7).to_string()]);
        assert_eq!(events_per_second(&lab), log_drops);
        let mut watching = Watching::start(&lab);
        assert!(events_per_second(&lab) > 100);
        let (flood, begin) = (Flood::start(&lab, attacker_v4(7), PORT), Instant::now());
        wait_until(PATIENCE, "it is seen", || watching.sums().contains_key("198.51.100.7"));
        watching.0.signal(Signal::SIGKILL);
        wait_until(PATIENCE, "as before", || events_per_second(&lab) == log_drops);
        flood.stop();
        // What the kernel reports to who watches is not for the log, up to the end.
        let logged = agent.process.log().matches("Dropped a packet").count() as u64;
        let cpus = available_parallelism().expect("there are some").get() as u64;
        let most = log_drops * cpus * (begin.elapsed().as_secs() + 2);
        assert!(logged <= most, "{logged} lines of {most}, and log_drops = {log_drops}");
        assert_eq!(logged > 0, log_drops > 0);
        // What somebody has set by hand is the operator's setting, too.
        if log_drops == 0 {
            let value = "value 0 0 0 0  0 0 0 0  40 0 0 0  0 0 0 0";
            sh(&lab, &format!("bpftool map update pinned {PINS}/v2/settings key 0 0 0 0 {value}"));
            f2b_ok(&lab, &["top", "-n", "1", "--interval", "0.2"]);
            assert!(events_per_second(&lab) > 100);
            wait_until(PATIENCE, "as before", || events_per_second(&lab) == 40);
        }

        // An agent that stops while somebody looks takes it with it, and tells.
        let mut watching = Watching::start(&lab);
        agent.stop();
        let by_hand = if log_drops == 0 { 40 } else { 0 };
        assert_eq!(events_per_second(&lab), by_hand);
        let status = watching.0.wait(PATIENCE);
        assert!(!status.success());
        assert!(watching.0.log().contains("no agent is running"), "{}", watching.0.log());
    }
}

#[test]
fn without_a_terminal_it_is_text_for_as_long_as_it_is_read() {
    let lab = Lab::network_only();
    let agent = Agent::start(&lab, "");
    let attacker = attacker_v4(7);
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
    let flood = Flood::start(&lab, attacker, PORT);
    let text = f2b_ok(&lab, &["top", "-n", "2", "--interval", "0.5"]);
    flood.stop();
    assert!(!text.contains('\x1b'), "{text}");
    let blocks: Vec<_> = text.split("\n\n").collect();
    assert_eq!(blocks.len(), 8, "a line and three tables, twice: {text}");
    assert!(blocks[1].starts_with("INTERFACE ") && blocks[1].contains("\neth0 "), "{text}");
    assert!(blocks[2].starts_with("PORTS ") && blocks[2].contains("\nall ports "), "{text}");
    let ban = blocks[7].lines().nth(1).expect("a ban").split_whitespace().collect::<Vec<_>>();
    assert!(matches!(ban[..], ["198.51.100.7", _, "9m", _, "sshd"]), "{text}");
    let first = sh(&lab, &format!("{F2B} top --interval 0.1 | head -n 1"));
    assert!(first.contains("1 banned, 131072 addresses fit"), "{first}");
    for (args, error) in [
        (["top", "--interval", "0"], "it is not between 0.1 and 3600 seconds"),
        (["top", "--count", "0"], "0 is not in 1.."),
    ] {
        let output = f2b(&lab, &args);
        assert!(!output.status.success());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(stderr.contains(error), "{stderr}");
    }
    drop(agent);
}

#[test]
fn a_terminal_shows_it_and_is_given_back_as_it_was() {
    let lab = Lab::network_only();
    let _agent = Agent::start(&lab, "");
    let attacker = attacker_v4(7);
    f2b_ok(&lab, &["ban", "sshd", &attacker.to_string()]);
    let flood = Flood::start(&lab, attacker, PORT);
    let (enter, leave, show) = ("\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h");
    for end in
        ["printf q", "printf '\\003'", "kill -TERM $(pidof -s f2b-top)", "kill -HUP $(pidof -s f2b-top)"]
    {
        // `script` gives it a terminal of its own, and types what it reads.
        let typed = format!(
            "ln -sf {F2B} f2b-top; rm -f screen before after status; \
             (until grep -q sshd screen 2>/dev/null; do sleep 0.1; done; {end}; sleep 1) | script -qefc \
             'stty rows 30 cols 100; stty -a >before; ./f2b-top top; echo $? >status; stty -a >after' screen >/dev/null"
        );
        sh(&lab, &typed);
        let read = |file: &str| fs::read_to_string(lab.dir().join(file)).unwrap_or_default();
        let screen = read("screen");
        assert_eq!(read("status"), "0\n", "{end}: {screen}");
        assert_eq!(read("before"), read("after"), "{end}");
        let (_, rest) = screen.split_once(enter).expect("it has a screen of its own");
        let (shown, rest) = rest.split_once(leave).expect("which it leaves");
        assert!(rest.trim_start().starts_with("Script done") && shown.contains(show), "{end}: {screen:?}");
        for text in ["f2b top: q ends it", "INTERFACE", "eth0", "native", "all ports", "198.51.100.7"] {
            assert!(shown.contains(text), "{end}: {text} in {shown:?}");
        }
    }
    flood.stop();
}
