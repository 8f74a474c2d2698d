//! `cargo xtask bench packet`: what a packet costs with f2b, and with everything a user would pick instead.
//!
//! Every contender stands in a lab of its own, all at the same time, and they take turns: a bare `XDP_DROP` is measured
//! in each round, and every ratio is the median over rounds of two figures of the same round. So the ratios hold on a
//! busy machine too; the nanoseconds are this machine's.
//!
//! - [`contender`]: who takes part, and how each is set up
//! - [`flood`]: floods, and how CPU time per packet is measured
//! - [`service`]: the honest TCP service beside the flood
//! - [`cost`]: the program alone, without wire and network stack
//! - [`agent`]: the agent's own side: one ban, a million bans, memory
//! - [`report`]: table, plot and marks
//! - [`programs`], [`frame`]: what floods are made of

#![expect(clippy::print_stdout, reason = "a bench talks to its user")]

#[path = "../lab/mod.rs"]
mod lab;

mod agent;
mod contender;
mod cost;
mod flood;
mod frame;
mod programs;
mod report;
mod service;
mod statistics;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use contender::{Contender, Hold, Kind};
use flood::{Flow, Sources, Toll, Wire};
use lab::Lab;
use report::{Goodput, Report, Row};
use service::Service;
use statistics::median;

const ROUNDS: usize = 3;
const FLOOD: Duration = Duration::from_millis(300);
const SERVICE: Duration = Duration::from_millis(1_200);

fn main() {
    let start = Instant::now();
    println!("{}\n", report::machine());
    let since_start = || format!("{:.0} s since the start", start.elapsed().as_secs_f64());

    let costs = cost::measure();
    println!("the program alone measured, {}", since_start());
    let agent = agent::measure();
    println!("the agent measured, {}\n{agent}", since_start());

    let labs: Vec<_> =
        Contender::all().into_iter().map(|contender| (contender, Lab::network_only())).collect();
    let fields: Vec<_> = labs.iter().map(|(contender, lab)| Field::set_up(*contender, lab)).collect();
    println!("{} contenders set up, {}", fields.len(), since_start());
    let floods = floods(&fields);
    println!("floods measured, {}", since_start());
    // A bare drop drops the honest client too.
    let with_service = fields.iter().filter(|field| field.contender.kind != Kind::BareDrop);
    let goodputs = with_service.map(Field::goodput).collect();
    drop(fields);
    drop(labs);
    println!("services measured, {}", since_start());

    let report = Report { floods, goodputs, costs, agent };
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../bench");
    report.write(&directory);
    println!("{}", report.markdown());
    println!("\n{:.0} s in all; written to {}", start.elapsed().as_secs_f64(), directory.display());
}

/// A contender in its lab.
struct Field<'lab> {
    contender: Contender,
    lab: &'lab Lab,
    wire: Wire<'lab>,
    _hold: Hold,
}

impl<'lab> Field<'lab> {
    fn set_up(contender: Contender, lab: &'lab Lab) -> Self {
        let start = Instant::now();
        let hold = contender.set_up(lab);
        println!(
            "  {:<22} {:>9} bans, {:.1} s",
            contender.name(),
            contender.bans,
            start.elapsed().as_secs_f64()
        );
        Self { contender, lab, wire: Wire::thread(lab), _hold: hold }
    }

    /// Floods the server for a moment, and makes sure that the packets end where they must.
    fn flood(&self, sources: &Sources, flow: Flow, time: Duration) -> Toll {
        let toll = self.wire.flood(sources, flow, time);
        let name = self.contender.name();
        assert_eq!(self.wire.leaks(), !self.contender.protects(), "{name}: whether packets get through");
        toll
    }

    /// How much of an honest service's traffic arrives, without and with a flood, while its client shares a CPU with
    /// whoever makes it.
    fn goodput(&self) -> Goodput {
        let service = Service::start(self.lab);
        let sources = self.contender.cold();
        let beside = |flow| {
            service.goodput(|| {
                self.wire.flood(&sources, flow, SERVICE);
            })
        };
        let alone = beside(Flow::Withheld);
        let flooded = beside(Flow::Shared);
        Goodput { contender: self.contender, alone, flooded }
    }
}

/// Floods every contender in turn, hot and cold, again and again.
fn floods(fields: &[Field<'_>]) -> Vec<Row> {
    let kinds = fields.iter().flat_map(|field| {
        let Contender { kind, bans } = field.contender;
        let both = if bans > 1 { &[false, true][..] } else { &[false][..] };
        both.iter().map(move |&cold| (field, kind, cold))
    });
    let kinds: Vec<_> = kinds.collect();
    let mut tolls = vec![Vec::new(); kinds.len()];
    let mut ratios = vec![Vec::new(); kinds.len()];
    for _ in 0..ROUNDS {
        let mut bare = f64::NAN;
        for (number, (field, kind, cold)) in kinds.iter().enumerate() {
            let sources = if *cold { field.contender.cold() } else { field.contender.hot() };
            let toll = field.flood(&sources, Flow::Measured, FLOOD);
            let apart = field.flood(&sources, Flow::Apart, FLOOD);
            if *kind == Kind::BareDrop {
                bare = toll.ns_per_packet;
            }
            ratios[number].push(toll.ns_per_packet / bare);
            tolls[number].push((toll.ns_per_packet, apart.packets_per_second));
        }
    }
    let rows = kinds.iter().zip(tolls.iter().zip(ratios));
    rows.map(|((field, _, cold), (tolls, ratios))| Row {
        contender: field.contender,
        cold: *cold,
        ns_per_packet: median(tolls.iter().map(|(ns, _)| *ns).collect()),
        packets_per_second: median(tolls.iter().map(|(_, packets)| *packets).collect()),
        times_bare: median(ratios),
    })
    .collect()
}
