//! The agent's own side of the maps, through the very functions it calls.

use std::{
    fmt, fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use aya::maps::loaded_maps;
use f2b::{
    ban::{ALL_PORTS, Step, Steps, Subject, Until},
    net::Net,
    xdp::{BanMap as _, Kernel, Options},
};

use super::{contender::load_f2b, flood::FIRST_BANNED, statistics::percentile};
use crate::lab::{Host, Lab};

const SINGLE: u32 = 20_000;
const MANY: u32 = 1_000_000;

/// What the agent needs for its part.
pub(crate) struct Agent {
    pub(crate) single: Latency,
    pub(crate) restore: Duration,
    pub(crate) dump: Duration,
    memory: Vec<(String, u64)>,
}

/// One ban, many times.
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Lets the agent's own map take bans one by one, then a million, and read them back.
pub(crate) fn measure() -> Agent {
    let memory = memory();
    let lab = Lab::network_only();
    lab.inside(Host::Server, || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("Linux has epoll");
        runtime.block_on(async {
            let net = Net::new().expect("Linux has netlink");
            let options = Options {
                interfaces: vec!["eth0".into()],
                mode: None,
                pin_dir: "/sys/fs/bpf/f2b".into(),
                max_bans: 2 * MANY,
                log_drops: 0,
            };
            let mut kernel = Kernel::open(options, &net).await.expect("the lab has all it needs");
            kernel.attach().expect("a veth takes XDP");
            with(&mut kernel, memory)
        })
    })
}

fn with(kernel: &mut Kernel, memory: Vec<(String, u64)>) -> Agent {
    let now = SystemTime::now();
    let hour = [Step { until: Until::Time(now + Duration::from_secs(3600)), scopes: ALL_PORTS }];
    let subject = |n: u32| Subject::from(IpAddr::V4(Ipv4Addr::from(u32::from(FIRST_BANNED) + n)));
    let mut singles: Vec<_> = (0..SINGLE)
        .map(|n| {
            let start = Instant::now();
            kernel.set(subject(n), &hour, now).expect("there is room");
            start.elapsed()
        })
        .collect();
    singles.sort_unstable();
    let single = Latency { p50: percentile(&singles, 50.0), p99: percentile(&singles, 99.0) };

    // From an empty map, as after a reboot.
    done(kernel.set_all((0..SINGLE).map(|n| (subject(n), Steps::new())), now));
    let start = Instant::now();
    done(kernel.set_all((0..MANY).map(|n| (subject(n), hour.into())), now));
    let restore = start.elapsed();
    let start = Instant::now();
    let bans = kernel.bans(now).expect("the map can be read");
    let dump = start.elapsed();
    assert_eq!(bans.len() as u32, MANY, "every ban is in the map");
    Agent { single, restore, dump, memory }
}

fn done(result: Result<Vec<(Subject, anyhow::Error)>>) {
    let refused = result.expect("the kernel has a clock");
    assert!(refused.is_empty(), "there is room: {:?}", refused.first());
}

/// Kernel memory of each map of f2b's with room for two million bans and a million in it, in bytes.
fn memory() -> Vec<(String, u64)> {
    let before = maps_of_this_process();
    let _maps = load_f2b(MANY);
    let mut new: Vec<_> = maps_of_this_process().into_iter().filter(|map| !before.contains(map)).collect();
    new.sort();
    new.into_iter().map(|(name, _, bytes)| (name, bytes)).collect()
}

/// Name, id and memory of each map that a descriptor of this process is open on.
fn maps_of_this_process() -> Vec<(String, u32, u64)> {
    let descriptors = fs::read_dir("/proc/self/fdinfo").expect("/proc is mounted").flatten();
    let texts = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    let maps = texts.filter_map(|text| {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        let id = u32::try_from(field("map_id:")?).ok()?;
        let map = loaded_maps().flatten().find(|map| map.id() == id)?;
        Some((map.name_as_str().unwrap_or_default().to_owned(), id, field("memlock:")?))
    });
    maps.collect()
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { single, restore, dump, memory } = self;
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        writeln!(f, "- one ban: p50 {:.1} µs, p99 {:.1} µs", micros(single.p50), micros(single.p99))?;
        writeln!(f, "- restored in {:.2} s, dumped in {:.2} s", restore.as_secs_f64(), dump.as_secs_f64())?;
        for (name, bytes) in memory {
            writeln!(f, "- map `{name}`: {:.1} MB", *bytes as f64 / 1e6)?;
        }
        Ok(())
    }
}
