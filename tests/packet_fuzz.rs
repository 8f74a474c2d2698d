//! Random frames in random worlds: the real programs and a plain model of them must never disagree.
//!
//! - `model`: what must become of a frame
//! - `world`: random bans, in the model and in the kernel
//! - `frames`: random frames
//!
//! Each world has its number; `F2B_FUZZ_SEED=N` begins with the world N, so a disagreement can be had again.
//! `F2B_FUZZ_FRAMES=N` goes on for so many frames instead of a short time (`cargo xtask soak`).

mod fuzz {
    pub(crate) mod frames;
    pub(crate) mod model;
    pub(crate) mod world;
}

use std::{
    collections::HashMap,
    env,
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use f2b::xdp::{Lines, OBJECT};
use f2b_ebpf::{Counters, PROGRAM, PROGRAM_LINEAR, PROGRAM_TC, ScopeCounters};
use fastrand::Rng;
use fuzz::{
    frames,
    model::{Culprit, Model, Prefix, Verdict},
    world::{self, Maps},
};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Uid,
};

const SHORT_FORM: Duration = Duration::from_secs(20);
const FRAMES_VARIABLE: &str = "F2B_FUZZ_FRAMES";
const SEED_VARIABLE: &str = "F2B_FUZZ_SEED";
const FRAMES_OF_A_WORLD: u32 = 5_000;
/// Few lines, so that some of the bans do not fit.
const LAST_LINE: u32 = 7;
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// What of a frame lies in one piece when the kernel runs it as XDP: a page, without the room that it keeps before and
/// behind (256 and 320 bytes).
const FIRST_BUFFER: usize = 4096 - 256 - 320;

#[test]
fn the_programs_and_the_model_agree_on_every_frame() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let wanted = number(FRAMES_VARIABLE);
    let mut seed = number(SEED_VARIABLE).unwrap_or_else(|| Rng::new().u64(..1 << 32));
    let mut kernel = KernelHalf::load();
    let mut tally = Tally::default();
    let mut model = Model::default();
    let start = Instant::now();
    let mut progress = start;
    loop {
        let mut rng = Rng::with_seed(seed);
        let (next, topics) = world::random(&mut rng, monotonic_ns());
        kernel.maps.change(&model, &next);
        model = next;
        let mut expected = Expected::new(&kernel.maps);
        for _ in 0..FRAMES_OF_A_WORLD {
            let (hook, frame) = match rng.u8(0..16) {
                0..8 => (Hook::Xdp, frames::any(&mut rng, &topics)),
                8..12 => (Hook::XdpLinear, frames::any(&mut rng, &topics)),
                12..15 => (Hook::Tc, frames::any(&mut rng, &topics)),
                _ => (Hook::Xdp, frames::jumbo(&mut rng, &topics)),
            };
            let hook = if hook == Hook::Tc && !runs_through_tc(&frame) { Hook::XdpLinear } else { hook };
            let verdict = model.judge(&frame[..frame.len().min(FIRST_BUFFER)]);
            let dropped = kernel.drops(hook, &frame);
            assert!(
                dropped == verdict.drops(),
                "{hook:?} and the model disagree; {SEED_VARIABLE}={seed} begins with this world\n\
                 the model says {verdict:x?}, the program {}\n{}\nframe: {}",
                if dropped { "drops" } else { "passes" },
                model.about(&frame),
                hexadecimal(&frame),
            );
            expected.add(verdict, Model::length(&frame, FIRST_BUFFER));
            tally.add(verdict);
        }
        expected.check(&kernel.maps, seed);
        seed += 1;
        let done = wanted.map_or(start.elapsed() >= SHORT_FORM, |wanted| tally.frames >= wanted);
        if done || progress.elapsed() > PROGRESS_EVERY {
            progress = Instant::now();
            tally.print(start.elapsed());
        }
        if done {
            break;
        }
    }
    tally.check();
}

/// How a frame is given to f2b.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hook {
    Xdp,
    /// The program for kernels that know no frames in several buffers.
    XdpLinear,
    Tc,
}

/// The kernel's test-run gives tc no frame that is too short for the IP header it announces, nor one with nothing in it.
fn runs_through_tc(frame: &[u8]) -> bool {
    let least = match frame[12..14] {
        [0x08, 0x00] => 20,
        [0x86, 0xdd] => 40,
        _ => 1,
    };
    frame.len() >= 14 + least
}

/// The real programs with their maps.
struct KernelHalf {
    ebpf: Ebpf,
    maps: Maps,
}

impl KernelHalf {
    fn load() -> Self {
        assert!(Uid::effective().is_root(), "loading BPF programs needs root; run: cargo xtask test");
        let mut loader = EbpfLoader::new();
        Lines::size(&mut loader, &LAST_LINE);
        let mut ebpf = loader.load(OBJECT).expect("the kernel takes the maps");
        for name in [PROGRAM, PROGRAM_LINEAR, PROGRAM_TC] {
            match ebpf.program_mut(name).expect("the object has the program") {
                Program::Xdp(program) => program.load(),
                Program::SchedClassifier(program) => program.load(),
                _ => panic!("{name} is for XDP or tc"),
            }
            .expect("the verifier takes it");
        }
        let maps = Maps::take(&mut ebpf);
        Self { ebpf, maps }
    }

    /// Whether the program drops the frame; if not, it must pass it.
    fn drops(&self, hook: Hook, frame: &[u8]) -> bool {
        let options = TestRunOptions { data_in: Some(frame), repeat: 1, ..TestRunOptions::new() };
        let program = |name| self.ebpf.program(name).expect("the object has the program");
        let xdp = |name| <&Xdp>::try_from(program(name)).expect("it is for XDP");
        let (result, drop, pass) = match hook {
            Hook::Xdp => (xdp(PROGRAM).test_run(options), 1, 2),
            Hook::XdpLinear => (xdp(PROGRAM_LINEAR).test_run(options), 1, 2),
            Hook::Tc => {
                let tc = <&SchedClassifier>::try_from(program(PROGRAM_TC)).expect("it is for tc");
                (tc.test_run(options), 2, u32::MAX)
            }
        };
        let verdict = match result {
            Ok(result) => result.return_value,
            Err(error) => panic!("{hook:?} does not run {}: {error:?}", hexadecimal(frame)),
        };
        assert!(verdict == drop || verdict == pass, "{hook:?} answers {verdict}: {}", hexadecimal(frame));
        verdict == drop
    }
}

/// What the kernel's counters must say after a world.
struct Expected {
    counters: Counters,
    scopes: Vec<ScopeCounters>,
    culprits: HashMap<Culprit, u64>,
    allowed: HashMap<Prefix, u64>,
}

impl Expected {
    /// As they are now.
    fn new(maps: &Maps) -> Self {
        Self {
            counters: maps.counters(),
            scopes: maps.scope_counters(),
            culprits: HashMap::new(),
            allowed: HashMap::new(),
        }
    }

    fn add(&mut self, verdict: Verdict, bytes: usize) {
        self.counters += verdict.counters();
        match verdict {
            Verdict::Dropped(culprit, scope) => {
                let counters = &mut self.scopes[scope as usize];
                counters.packets += 1;
                counters.bytes += bytes as u64;
                *self.culprits.entry(culprit).or_default() += 1;
            }
            Verdict::Allowed(prefix) => *self.allowed.entry(prefix).or_default() += 1,
            _ => {}
        }
    }

    fn check(&self, maps: &Maps, seed: u64) {
        let again = format!("{SEED_VARIABLE}={seed} begins with this world");
        assert_eq!(maps.counters(), self.counters, "verdicts; {again}");
        assert_eq!(maps.scope_counters(), self.scopes, "scopes; {again}");
        for (culprit, packets) in &self.culprits {
            let counted = match culprit {
                Culprit::Address(address) => maps.packets_of(*address),
                Culprit::Prefix(prefix) => maps.packets_of_prefix(*prefix),
            };
            assert_eq!(counted, *packets, "packets of {culprit:x?}; {again}");
        }
        for (prefix, packets) in &self.allowed {
            assert_eq!(maps.packets_allowed(*prefix), *packets, "packets of {prefix:x?}; {again}");
        }
    }
}

/// How often each verdict was seen: a fuzz that only sees one proves little.
#[derive(Default)]
struct Tally {
    frames: u64,
    verdicts: Counters,
    by_prefix: u64,
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        self.frames += 1;
        self.verdicts += verdict.counters();
        self.by_prefix += u64::from(matches!(verdict, Verdict::Dropped(Culprit::Prefix(_), _)));
    }

    /// Past the test harness, which keeps what passing tests print to itself.
    fn print(&self, time: Duration) {
        let Self { frames, verdicts, by_prefix } = self;
        let rate = *frames as f64 / time.as_secs_f64();
        let Counters { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } = verdicts;
        writeln!(
            io::stderr(),
            "{frames} frames, {rate:.0}/s, 0 disagreements: {dropped} dropped ({by_prefix} by a prefix), \
             {passed} passed, {lapsed} lapsed, {other_ports} other ports, {allowed} allowed, {not_ip} not IP, \
             {malformed} malformed"
        )
        .expect("stderr is there");
    }

    fn check(&self) {
        let Counters { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } = self.verdicts;
        for seen in [passed, dropped, lapsed, other_ports, allowed, not_ip, malformed, self.by_prefix] {
            assert!(seen > self.frames / 1_000, "a verdict was hardly ever met");
        }
    }
}

fn monotonic_ns() -> u64 {
    let now: Duration = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock").into();
    u64::try_from(now.as_nanos()).expect("the machine is younger than 500 years")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}
