//! What the agent and the kernel have counted, as Prometheus reads it. No clock, no I/O.

use std::fmt::{Display, Write as _};

use crate::control::{Packets, Status};

/// The text exposition format, version 0.0.4.
pub fn prometheus(status: &Status) -> String {
    let mut out = Text::default();
    out.metric(
        "f2b_interface_protected",
        "gauge",
        "Whether frames are checked on the interface, how, and why so.",
    );
    for interface in &status.interfaces {
        let mode = interface.mode.map_or_else(|| "none".into(), |mode| mode.to_string());
        let reason = interface.reason.as_deref().unwrap_or_default();
        let labels = [("interface", interface.name.as_str()), ("mode", &mode), ("reason", reason)];
        out.sample(&labels, u8::from(interface.mode.is_some()));
    }
    out.metric(
        "f2b_interface_frames_total",
        "counter",
        "Frames seen on the interface; only dropped ones did not pass.",
    );
    for interface in &status.interfaces {
        for (verdict, frames) in verdicts(&interface.packets) {
            out.sample(&[("interface", &interface.name), ("verdict", verdict)], frames);
        }
    }
    out.metric("f2b_frames_total", "counter", "Frames seen on all interfaces, those that are gone included.");
    for (verdict, frames) in verdicts(&status.packets) {
        out.sample(&[("verdict", verdict)], frames);
    }
    out.metric(
        "f2b_scope_dropped_packets_total",
        "counter",
        "Packets dropped because these ports are banned.",
    );
    for scope in &status.scopes {
        out.sample(&[("ports", &scope.ports)], scope.packets);
    }
    out.metric(
        "f2b_scope_dropped_bytes_total",
        "counter",
        "Bytes of the frames dropped because these ports are banned.",
    );
    for scope in &status.scopes {
        out.sample(&[("ports", &scope.ports)], scope.bytes);
    }
    out.metric("f2b_banned_addresses", "gauge", "Addresses that are banned.");
    out.sample(&[], status.banned.saturating_sub(status.prefixes));
    out.metric("f2b_banned_prefixes", "gauge", "Prefixes that are banned.");
    out.sample(&[], status.prefixes);
    out.metric("f2b_max_bans", "gauge", "Bans of addresses that fit.");
    out.sample(&[], status.capacity);
    out.metric(
        "f2b_refused_bans_total",
        "counter",
        "Bans that the kernel did not take since the start: most of all, for want of room.",
    );
    out.sample(&[], status.refused);
    out.metric("f2b_dry_run", "gauge", "Whether nothing is enforced.");
    out.sample(&[], u8::from(status.dry_run));
    out.text
}

fn verdicts(packets: &Packets) -> [(&'static str, u64); 7] {
    let Packets { passed, dropped, lapsed, other_ports, allowed, not_ip, malformed } = *packets;
    [
        ("passed", passed),
        ("dropped", dropped),
        ("lapsed", lapsed),
        ("other_ports", other_ports),
        ("allowed", allowed),
        ("not_ip", not_ip),
        ("malformed", malformed),
    ]
}

/// The text so far, and the metric that the next samples are of.
#[derive(Default)]
struct Text {
    text: String,
    name: &'static str,
}

impl Text {
    fn metric(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let name = self.name;
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        match labels.as_slice() {
            [] => self.put(format_args!("{name} {value}\n")),
            labels => self.put(format_args!("{name}{{{}}} {value}\n", labels.join(","))),
        }
    }

    fn put(&mut self, text: impl Display) {
        write!(self.text, "{text}").expect("a string takes everything");
    }
}

/// A label's value, as the format wants it within quotes.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xdp::{InterfaceStatus, Mode, ScopeStatus};

    #[test]
    fn every_number_is_there_under_its_name() {
        let interface = |name: &str, mode, reason: Option<&str>, packets| InterfaceStatus {
            name: name.into(),
            mode,
            reason: reason.map(Into::into),
            packets,
        };
        let packets =
            Packets { passed: 1, dropped: 2, lapsed: 3, other_ports: 4, allowed: 5, not_ip: 6, malformed: 7 };
        let status = Status {
            jails: vec!["sshd".into()],
            left_out: Vec::new(),
            interfaces: vec![
                interface("eth0", Some(Mode::Tc), Some("\"fw\" is there,\na\\b"), packets),
                interface("eth1", None, Some("the interface is not there"), Packets::default()),
            ],
            banned: 12,
            prefixes: 2,
            capacity: 100,
            scopes: vec![ScopeStatus { number: 1, ports: "tcp 22".into(), packets: 8, bytes: 480 }],
            packets: Packets { dropped: 9, ..packets },
            refused: 3,
            dry_run: false,
        };
        let text = prometheus(&status);
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let mut expected = vec![
            r#"f2b_interface_protected{interface="eth0",mode="tc",reason="\"fw\" is there,\na\\b"} 1"#
                .to_owned(),
            r#"f2b_interface_protected{interface="eth1",mode="none",reason="the interface is not there"} 0"#
                .to_owned(),
        ];
        let all = ["passed", "dropped", "lapsed", "other_ports", "allowed", "not_ip", "malformed"];
        for (interface, factor) in [("eth0", 1), ("eth1", 0)] {
            expected.extend(all.iter().zip(1..).map(|(verdict, frames)| {
                let frames = frames * factor;
                format!(
                    r#"f2b_interface_frames_total{{interface="{interface}",verdict="{verdict}"}} {frames}"#
                )
            }));
        }
        expected.extend(
            all.iter()
                .zip([1, 9, 3, 4, 5, 6, 7])
                .map(|(verdict, frames)| format!(r#"f2b_frames_total{{verdict="{verdict}"}} {frames}"#)),
        );
        expected.extend(
            [
                r#"f2b_scope_dropped_packets_total{ports="tcp 22"} 8"#,
                r#"f2b_scope_dropped_bytes_total{ports="tcp 22"} 480"#,
                "f2b_banned_addresses 10",
                "f2b_banned_prefixes 2",
                "f2b_max_bans 100",
                "f2b_refused_bans_total 3",
                "f2b_dry_run 0",
            ]
            .map(ToOwned::to_owned),
        );
        assert_eq!(samples, expected);
        // Each metric is described once, in front of its samples.
        let mut described = Vec::new();
        for line in text.lines() {
            if let Some(metric) = line.strip_prefix("# TYPE ") {
                let name = metric.split(' ').next().unwrap_or_default();
                assert!(!described.contains(&name), "{name}");
                described.push(name);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next();
                assert_eq!(described.last().copied(), name);
            }
        }
    }
}
