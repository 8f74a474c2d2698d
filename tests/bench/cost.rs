//! What the program itself costs per packet, without driver, network stack and wire: the kernel runs one frame through
//! it many times over and says how long that took (`BPF_PROG_TEST_RUN`).
//!
//! For cold sources a small program in front gives the frame a random source each time and calls the one under test.
//! It costs the same whatever it calls, so only differences between such runs mean something.

use std::{net::Ipv4Addr, thread};

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions, Xdp},
};

use super::{
    contender::load_f2b,
    flood::{self, Sources},
    frame::UDP_FRAME,
    programs::{DROP, Frags, PASS, load, load_in_front_of, program},
    statistics::median,
};

const REPEAT: u32 = 200_000;
const ROUNDS: usize = 9;

/// The sources of frames that are not banned: as many as are banned, from the next network.
const FREE: Sources = Sources { first: Ipv4Addr::new(11, 0, 0, 0), count: MANY };
const MANY: u32 = 1_000_000;

/// One frame's way through a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Bans in the map.
    pub(crate) bans: u32,
    pub(crate) banned: bool,
    pub(crate) cold: bool,
    /// Of f2b's program.
    pub(crate) ns: f64,
    /// Of the bare program with the same verdict, run in the same way.
    pub(crate) bare_ns: f64,
}

/// Measures passing and dropped packets, hot and cold, all kinds in turn, and gives the medians.
pub(crate) fn measure() -> Vec<Cost> {
    // On a thread of its own, since it keeps its precedence.
    thread::scope(|scope| scope.spawn(measure_here).join().expect("measuring does not panic"))
}

fn measure_here() -> Vec<Cost> {
    flood::take_server();
    let (mut drop, mut pass) = (load(DROP, Frags::Yes), load(PASS, Frags::Yes));
    let mut ours: Vec<_> = [0, 1_000, 100_000, MANY].map(|bans| (bans, load_f2b(bans))).into();
    let mut runs: Vec<(Cost, Vec<f64>, Vec<f64>)> = Vec::new();
    let mut pairs = Vec::new();
    for (bans, ours) in &mut ours {
        for banned in [false, true] {
            if banned && *bans == 0 {
                continue;
            }
            for cold in [false, true] {
                let sources = match (banned, cold) {
                    (true, true) => Sources::banned(*bans),
                    (true, false) => Sources::banned(1),
                    (false, true) => FREE,
                    (false, false) => Sources { count: 1, ..FREE },
                };
                let bare = if banned { &mut drop } else { &mut pass };
                pairs.push((
                    load_in_front_of(f2b_program(ours), &sources),
                    load_in_front_of(program(bare), &sources),
                ));
                let cost = Cost { bans: *bans, banned, cold, ns: 0.0, bare_ns: 0.0 };
                runs.push((cost, vec![], vec![]));
            }
        }
    }
    for _ in 0..ROUNDS {
        for ((ours, bare), (_, ns, bare_ns)) in pairs.iter_mut().zip(&mut runs) {
            ns.push(run(program(ours)));
            bare_ns.push(run(program(bare)));
        }
    }
    let with_medians = |(cost, ns, bare_ns)| Cost { ns: median(ns), bare_ns: median(bare_ns), ..cost };
    runs.into_iter().map(with_medians).collect()
}

fn f2b_program(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(f2b_ebpf::PROGRAM).expect("it has it").try_into().expect("it is for XDP")
}

/// Nanoseconds per run.
fn run(program: &Xdp) -> f64 {
    let options = TestRunOptions { data_in: Some(&UDP_FRAME), repeat: REPEAT, ..TestRunOptions::new() };
    program.test_run(options).expect("the kernel runs it").duration.as_nanos() as f64
}
