//! What was measured, as a table for people, a table for machines, and a plot.

use std::{
    fmt::{self, Write as _},
    fs,
    path::Path,
};

use plotters::{
    coord::ranged1d::IntoSegmentedCoord as _,
    prelude::{
        BLACK, ChartBuilder, Color as _, IntoDrawingArea as _, IntoFont as _, IntoLogRange as _, RGBColor,
        Rectangle, SVGBackend, SegmentValue, Text, WHITE,
    },
};

use super::{
    agent::Agent,
    contender::{Contender, Kind},
    cost::Cost,
};

/// One contender under one kind of flood.
pub(crate) struct Row {
    pub(crate) contender: Contender,
    /// Whether packets come from all banned addresses in turn, or from one.
    pub(crate) cold: bool,
    pub(crate) ns_per_packet: f64,
    /// Of a bare `XDP_DROP`, measured in the same rounds.
    pub(crate) times_bare: f64,
    /// Taken by the server when another CPU sends as fast as it can.
    pub(crate) packets_per_second: f64,
}

/// What of an honest service's traffic arrives, in bytes a second.
pub(crate) struct Goodput {
    pub(crate) contender: Contender,
    pub(crate) alone: f64,
    pub(crate) flooded: f64,
}

pub(crate) struct Report {
    pub(crate) floods: Vec<Row>,
    pub(crate) goodputs: Vec<Goodput>,
    pub(crate) costs: Vec<Cost>,
    pub(crate) agent: Agent,
}

/// A figure that the project wants to reach.
struct Mark {
    what: String,
    measured: f64,
    unit: &'static str,
    limit: Limit,
}

enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Mark {
    fn new(what: impl Into<String>, measured: f64, unit: &'static str, limit: Limit) -> Self {
        Self { what: what.into(), measured, unit, limit }
    }

    fn is_met(&self) -> bool {
        match self.limit {
            Limit::AtMost(limit) => self.measured <= limit,
            Limit::AtLeast(limit) => self.measured >= limit,
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, measured, unit, limit } = self;
        let (sign, limit) = match limit {
            Limit::AtMost(limit) => ('≤', limit),
            Limit::AtLeast(limit) => ('≥', limit),
        };
        let met = if self.is_met() { "met" } else { "**missed**" };
        write!(f, "| {what} | {measured:.2}{unit} | {sign} {limit}{unit} | {met} |")
    }
}

impl Report {
    /// Writes all of it into `directory`.
    pub(crate) fn write(&self, directory: &Path) {
        fs::create_dir_all(directory).expect("target/ is writable");
        let write = |name, text| fs::write(directory.join(name), text).expect("target/ is writable");
        write("packet.md", self.markdown());
        write("packet.tsv", self.tsv());
        write("packet.svg", self.svg());
    }

    /// For people.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("# A packet's cost\n\n{}\n\n## Marks\n\n", machine());
        text.push_str("| what | measured | mark | |\n|---|--:|--:|---|\n");
        for mark in self.marks() {
            writeln!(text, "{mark}").expect("a String");
        }
        text.push_str(
            "\n## Floods\n\nCPU time of the server per dropped packet of 60 bytes, on one CPU, from a veth. Hot: from \
             one banned address. Cold: each packet from a random one of all that are banned.\n\n\
             | who drops | bans | sources | ns per packet | × bare XDP_DROP | Mpackets/s a core could drop | \
             Mpackets/s dropped when another core floods |\n|---|--:|---|--:|--:|--:|--:|\n",
        );
        for row in &self.floods {
            let Row { contender, ns_per_packet, times_bare, packets_per_second, .. } = row;
            writeln!(
                text,
                "| {} | {} | {} | {ns_per_packet:.0} | {times_bare:.2} | {:.2} | {:.2} |",
                contender.name(),
                grouped(contender.bans),
                temperature(row.cold),
                1000.0 / ns_per_packet,
                packets_per_second / 1e6,
            )
            .expect("a String");
        }
        text.push_str(
            "\n## An honest service beside a flood\n\nA TCP upload to the server, whose client shares its CPU with the \
             sender of a flood from banned addresses: at first one that keeps its packets, then one that sends them as \
             fast as it can. (Native XDP on a veth copies every packet that comes from the same machine's TCP, which \
             costs it most of its speed even without a flood; a network card does no such thing.)\n\n\
             | who drops | bans | MB/s alone | MB/s flooded | left |\n|---|--:|--:|--:|--:|\n",
        );
        for Goodput { contender, alone, flooded } in &self.goodputs {
            writeln!(
                text,
                "| {} | {} | {:.0} | {:.0} | {:.0} % |",
                contender.name(),
                grouped(contender.bans),
                alone / 1e6,
                flooded / 1e6,
                100.0 * flooded / alone
            )
            .expect("a String");
        }
        text.push_str(
            "\n## The program alone\n\nThe kernel's test-run, without driver, network stack and wire. Each run first \
             writes a source into the frame, which both columns pay.\n\n| packet | bans | sources | ns | bare \
             program | difference |\n|---|--:|---|--:|--:|--:|\n",
        );
        for Cost { bans, banned, cold, ns, bare_ns } in &self.costs {
            writeln!(
                text,
                "| {} | {} | {} | {ns:.0} | {bare_ns:.0} | {:+.0} |",
                if *banned { "dropped" } else { "passed" },
                grouped(*bans),
                temperature(*cold),
                ns - bare_ns
            )
            .expect("a String");
        }
        write!(text, "\n## The agent\n\n{}", self.agent).expect("a String");
        text
    }

    /// For machines: everything that has a name and a number.
    fn tsv(&self) -> String {
        let mut text = "what\tbans\tsources\tfigure\tvalue\n".to_owned();
        let mut line = |what: &str, bans: u32, cold, figure, value: f64| {
            writeln!(text, "{what}\t{bans}\t{}\t{figure}\t{value}", temperature(cold)).expect("a String");
        };
        for row in &self.floods {
            let (name, bans) = (row.contender.name(), row.contender.bans);
            line(name, bans, row.cold, "ns per packet", row.ns_per_packet);
            line(name, bans, row.cold, "times bare XDP_DROP", row.times_bare);
            line(name, bans, row.cold, "packets per second", row.packets_per_second);
        }
        for Goodput { contender, alone, flooded } in &self.goodputs {
            line(contender.name(), contender.bans, true, "bytes per second alone", *alone);
            line(contender.name(), contender.bans, true, "bytes per second flooded", *flooded);
        }
        for Cost { bans, banned, cold, ns, bare_ns } in &self.costs {
            let what = if *banned { "program, dropped" } else { "program, passed" };
            line(what, *bans, *cold, "ns", *ns);
            line(what, *bans, *cold, "ns of the bare program", *bare_ns);
        }
        for mark in self.marks() {
            line(&mark.what, 0, false, "mark", mark.measured);
        }
        text
    }

    /// The marks, and what was measured.
    fn marks(&self) -> Vec<Mark> {
        use Limit::{AtLeast, AtMost};
        let times_bare = |kind, cold| {
            let rows = self.floods.iter().filter(|row| row.contender.kind == kind && row.cold == cold);
            rows.max_by_key(|row| row.contender.bans).map_or(f64::NAN, |row| row.times_bare)
        };
        let ours = |cold| times_bare(Kind::F2bNative, cold);
        let passing = |bans, cold| {
            let cost = self.costs.iter().find(|cost| !cost.banned && cost.bans == bans && cost.cold == cold);
            cost.map_or(f64::NAN, |cost| cost.ns - cost.bare_ns)
        };
        let Agent { restore, dump, single, .. } = &self.agent;
        let micros = single.p99.as_secs_f64() * 1e6;
        let mut marks = vec![
            Mark::new("hot drop, 1M bans, of a bare XDP_DROP", ours(false), "×", AtMost(1.5)),
            Mark::new("cold drop, 1M bans, of a bare XDP_DROP", ours(true), "×", AtMost(5.0)),
            Mark::new("passing, hot, no bans, over a bare XDP_PASS", passing(0, false), " ns", AtMost(30.0)),
            Mark::new("passing, hot, 1M bans, over it", passing(1_000_000, false), " ns", AtMost(30.0)),
            Mark::new("passing, cold, 1M bans, over it", passing(1_000_000, true), " ns", AtMost(350.0)),
            Mark::new("1M bans restored", restore.as_secs_f64(), " s", AtMost(1.5)),
            Mark::new("1M bans dumped", dump.as_secs_f64(), " s", AtMost(0.8)),
            Mark::new("one ban, p99", micros, " µs", AtMost(10.0)),
        ];
        // Each with the most bans it held: 8000 rules, or a million.
        let rivals = [
            ("an nft set at ingress", Kind::NftIngress, 5.0),
            ("an nft set at prerouting", Kind::NftPrerouting, 5.0),
            ("fail2ban's nft set", Kind::NftInput, 5.0),
            ("ipset", Kind::Ipset, 7.0),
            ("8000 iptables rules", Kind::Iptables, 50.0),
            ("8000 iptables-legacy rules", Kind::IptablesLegacy, 50.0),
        ];
        for (who, kind, times) in rivals {
            for cold in [false, true] {
                let what = format!("cheaper than {who}, {}", temperature(cold));
                marks.push(Mark::new(what, times_bare(kind, cold) / ours(cold), "×", AtLeast(times)));
            }
        }
        marks
    }

    /// Bars of nanoseconds per packet, from the cheapest; each contender with the most bans it held, cold.
    fn svg(&self) -> String {
        const BAR: u32 = 34;
        let mut rows: Vec<&Row> = Vec::new();
        for row in self.floods.iter().filter(|row| row.cold || row.contender.bans <= 1) {
            match rows.iter_mut().find(|other| other.contender.kind == row.contender.kind) {
                Some(other) => *other = row,
                None => rows.push(row),
            }
        }
        rows.sort_by(|a, b| b.ns_per_packet.total_cmp(&a.ns_per_packet));
        let (least, most) = (50.0, rows.first().map_or(1000.0, |row| row.ns_per_packet * 4.0));
        let mut svg = String::new();
        let height = BAR * rows.len() as u32 + 110;
        let area = SVGBackend::with_string(&mut svg, (900, height)).into_drawing_area();
        area.fill(&WHITE).expect("a String takes all");
        let mut chart = ChartBuilder::on(&area)
            .caption("CPU time per dropped packet, each from a random banned address", ("sans-serif", 22))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(250)
            .build_cartesian_2d((least..most).log_scale(), (0..rows.len() - 1).into_segmented())
            .expect("there is room");
        let label = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(at) | SegmentValue::Exact(at) => {
                rows.get(*at).map_or_else(String::new, |row| {
                    format!("{}, {} bans", row.contender.name(), grouped(row.contender.bans))
                })
            }
            SegmentValue::Last => String::new(),
        };
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc("nanoseconds of one CPU (logarithmic)")
            .x_label_formatter(&|ns| format!("{ns:.0}"))
            .y_labels(rows.len())
            .y_label_formatter(&label)
            .label_style(("sans-serif", 14))
            .draw()
            .expect("a String takes all");
        let bars = rows.iter().enumerate().map(|(at, row)| {
            let ours = matches!(row.contender.kind, Kind::F2bNative | Kind::F2bGeneric | Kind::F2bTc);
            let color = if ours { RGBColor(206, 76, 36) } else { RGBColor(120, 140, 160) };
            let corners =
                [(least, SegmentValue::Exact(at)), (row.ns_per_packet, SegmentValue::Exact(at + 1))];
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(4, 4, 0, 0);
            bar
        });
        chart.draw_series(bars).expect("a String takes all");
        let figures = rows.iter().enumerate().map(|(at, row)| {
            let text = format!("{:.0} ns, {:.1}×", row.ns_per_packet, row.times_bare);
            let font = ("sans-serif", 14).into_font().color(&BLACK);
            Text::new(text, (row.ns_per_packet * 1.04, SegmentValue::CenterOf(at)), font)
        });
        chart.draw_series(figures).expect("a String takes all");
        area.present().expect("a String takes all");
        drop(chart);
        drop(area);
        svg
    }
}

fn temperature(cold: bool) -> &'static str {
    if cold { "cold" } else { "hot" }
}

/// With commas between thousands.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What it was measured on.
pub(crate) fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let load = read("/proc/loadavg");
    format!(
        "Linux {}, {} × {}; load average {} when this was written.",
        read("/proc/sys/kernel/osrelease").trim(),
        cpus.lines().filter(|line| line.starts_with("processor")).count(),
        model.trim_start_matches(['\t', ' ', ':']).trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}
