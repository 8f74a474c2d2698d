//! Days of logs, made by chance and the same for the same seed: who fails when, and when files are rotated and the agent
//! is restarted.

use std::iter;

use fastrand::Rng;
use jiff::Timestamp;
use serde::Serialize;

/// The jails and the file that each reads. The last one reads what the others ban.
pub(crate) const JAILS: [(&str, &str); 4] = [
    ("sshd", "auth.log"),
    ("postfix", "mail.log"),
    ("nginx-http-auth", "nginx.log"),
    ("recidive", "bans.log"),
];
/// Those of them that the corpus has lines for.
const FILES: usize = JAILS.len() - 1;
/// How often it is restarted.
const RESTARTS_A_DAY: f64 = 3.0;
/// And how often a file is rotated, at most.
const ROTATIONS: usize = 30;
/// Two days before a year's end, because the dates of two of the files have no year.
pub(crate) const START: f64 = 1_766_966_400.0;
/// Whom every jail ignores.
pub(crate) const IGNORED: &str = "192.0.2.250 198.51.100.128/25 2001:db8:1::/48";

/// What there is to read, and how.
pub(crate) struct Corpus {
    pub(crate) ticks: Vec<Tick>,
}

/// A moment at which both look at what was written.
#[derive(Debug, Serialize)]
pub(crate) struct Tick {
    pub(crate) now: f64,
    pub(crate) kind: Kind,
    /// By the number of the file.
    pub(crate) lines: Vec<(usize, String)>,
    /// An hour has begun: what is too old is forgotten.
    pub(crate) purge: bool,
    /// Files that are rotated behind these lines: by renaming, or by copying and truncating.
    pub(crate) rotate: Vec<(usize, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) enum Kind {
    Usual,
    /// Nobody runs, and lines are written nevertheless.
    Down,
    /// Somebody runs again.
    Start,
}

/// A line to be written at `time`, dated `shift` seconds later.
struct Written {
    time: f64,
    shift: f64,
    file: usize,
    /// `None`: somebody who does nothing wrong.
    attacker: Option<String>,
    number: u32,
}

impl Corpus {
    /// At least so many lines, over so many days.
    pub(crate) fn new(seed: u64, lines: usize, days: f64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let mut written = Vec::new();
        let mut number = 0;
        while written.len() < lines {
            number += 1;
            campaign(&mut dice, number, days * 86_400.0, &mut written);
        }
        written.sort_by(|a, b| a.time.total_cmp(&b.time));
        let restarts = ((days * RESTARTS_A_DAY) as usize).max(3);
        let stops: Vec<_> =
            (1..=restarts).map(|n| written[n * written.len() / (restarts + 1)].time).collect();
        // fail2ban looks for the find window by halves among late lines, as if they stood in the order of their dates.
        let is_late = |time: f64| stops.iter().any(|stop| (stop - 30.0..stop + 3600.0).contains(&time));
        for line in written.iter_mut().filter(|line| line.shift.abs() > 30.0 && is_late(line.time)) {
            line.shift = 0.0;
        }
        Self { ticks: ticks(&mut dice, written, &stops) }
    }

    pub(crate) fn lines(&self) -> usize {
        self.ticks.iter().map(|tick| tick.lines.len()).sum()
    }
}

/// What one host does, and how long it takes.
fn campaign(dice: &mut Rng, number: u32, length: f64, written: &mut Vec<Written>) {
    let begin = dice.f64() * length;
    let once = || match number % 7 {
        0 => format!("2001:db8:{:x}::{:x}", 16 + number / 0xffff, 1 + number % 0xffff),
        _ => format!("100.{}.{}.{}", 64 + (number >> 16), (number >> 8) & 0xff, number & 0xff),
    };
    let known = |dice: &mut Rng| match dice.u8(..50) {
        n @ 0..40 => format!("203.0.113.{}", n + 1),
        n => format!("2001:db8::{n:x}"),
    };
    // How many lines, how far apart (at least and at most), and how their dates differ from when they are written.
    let (attacker, count, gaps, shifts) = match dice.u8(..20) {
        0..5 => (Some(once()), dice.u32(1..13), (0.5, 20.0), (0.0, 0.0)),
        5..10 => (Some(known(dice)), dice.u32(2..11), (1.0, 40.0), (0.0, 0.0)),
        // Below what any jail bans for, at its edge, and beyond.
        10 => (Some(once()), 30, (450.0, 900.0), (0.0, 0.0)),
        11 => (Some(once()), 25, (100.0, 260.0), (0.0, 0.0)),
        12 => (Some(known(dice)), 25, (60.0, 400.0), (0.0, 0.0)),
        // It goes on while it is banned.
        13 => (Some(known(dice)), dice.u32(30..150), (2.0, 90.0), (0.0, 0.0)),
        14 => {
            let ignored = ["192.0.2.250", "198.51.100.200", "2001:db8:1:2::3"];
            (Some(ignored[dice.usize(..3)].to_owned()), 12, (1.0, 10.0), (0.0, 0.0))
        }
        // Out of order, from the future, late, and in another time zone.
        15 => (Some(known(dice)), dice.u32(3..12), (1.0, 30.0), (-55.0, 0.0)),
        16 => (Some(known(dice)), dice.u32(3..12), (1.0, 30.0), (-20.0, 90.0)),
        17 => (Some(once()), dice.u32(3..12), (1.0, 60.0), (-500.0, 0.0)),
        18 => {
            let zone = [-7200.0, 3600.0, -3600.0, 28_800.0][dice.usize(..4)];
            (Some(known(dice)), dice.u32(3..12), (1.0, 60.0), (zone, zone))
        }
        _ => (None, 40, (1.0, 60.0), (0.0, 0.0)),
    };
    let between = |dice: &mut Rng, (from, to): (f64, f64)| from + dice.f64() * (to - from);
    let file = dice.usize(..FILES);
    let mut time = begin;
    written.extend((0..count).map(|n| {
        time += between(dice, gaps);
        let shift = between(dice, shifts).floor();
        Written { time, shift, file, attacker: attacker.clone(), number: number * 200 + n }
    }));
}

/// Gathers what is written between two looks.
fn ticks(dice: &mut Rng, written: Vec<Written>, stops: &[f64]) -> Vec<Tick> {
    let lines = written.len();
    let mut written = written.into_iter().peekable();
    let (mut ticks, mut now, mut count) = (Vec::<Tick>::new(), START, 0);
    let mut stops = stops.iter().map(|stop| START + stop).peekable();
    // Since the last rotation.
    let mut growing = 0;
    let mut down_until = None;
    // Files that nothing was written to since they were rotated: nobody has noticed it yet.
    let mut rotated = Vec::new();
    while let Some(next) = written.peek() {
        let wait = (START + next.time - now).max(0.0);
        let step =
            if wait > 300.0 { 300.0 - dice.f64() } else { wait + 0.3 + dice.f64() * dice.f64() * 25.0 };
        let before = now;
        // Never at a whole second, nor whole seconds after another look, because there fail2ban's ban of that end goes on and
        // ours is over.
        now = ((now + step) * 100_000.0).floor() / 100_000.0 + 0.000_005;
        let due = iter::from_fn(|| written.next_if(|line| START + line.time <= now));
        let due: Vec<_> = due.map(|line| (line.file, line.text())).collect();
        (count, growing) = (count + due.len(), growing + due.len());
        rotated.retain(|file| due.iter().all(|(written, _)| written != file));
        let mut kind = Kind::Usual;
        match down_until {
            Some(end) if now < end => kind = Kind::Down,
            Some(_) => (kind, down_until) = (Kind::Start, None),
            None if rotated.is_empty() && stops.next_if(|stop| *stop <= now).is_some() => {
                down_until = Some(now + 20.0 + dice.f64() * dice.f64() * 1500.0);
                kind = Kind::Down;
            }
            None => {}
        }
        // While nobody runs, nothing is rotated here: fail2ban would lose the rest of the old file, and we do not.
        let rotates = kind == Kind::Usual && growing > lines / ROTATIONS;
        let rotate = if rotates { vec![(dice.usize(..FILES), dice.bool())] } else { Vec::new() };
        rotated.extend(rotate.iter().map(|(file, _)| *file));
        growing = if rotates { 0 } else { growing };
        let purge = kind != Kind::Down && (before / 3600.0).floor() < (now / 3600.0).floor();
        ticks.push(Tick { now, kind, lines: due, purge, rotate });
    }
    assert_eq!(count, lines);
    // All bans end but the longest.
    ticks.extend((1..200).map(|n| Tick {
        now: now + f64::from(n) * 300.0,
        kind: if n == 1 { Kind::Start } else { Kind::Usual },
        lines: Vec::new(),
        purge: n % 12 == 0,
        rotate: Vec::new(),
    }));
    ticks
}

impl Written {
    /// As its program writes it.
    fn text(&self) -> String {
        let date = Timestamp::from_second((START + self.time + self.shift).floor() as i64).expect("a date");
        let n = self.number;
        let date = |format: &str| date.strftime(format).to_string();
        match (self.file, &self.attacker) {
            (0, who) => {
                let date = date("%b %e %H:%M:%S");
                match who {
                    Some(ip) if n.is_multiple_of(3) => {
                        format!("{date} host sshd[{n}]: Invalid user admin{n} from {ip} port 4711")
                    }
                    Some(ip) => {
                        format!("{date} host sshd[{n}]: Failed password for root from {ip} port 4711 ssh2")
                    }
                    None => format!(
                        "{date} host sshd[{n}]: Accepted publickey for alice from 192.0.2.9 port 4711 ssh2"
                    ),
                }
            }
            (1, who) => {
                let date = date("%b %e %H:%M:%S");
                match who {
                    Some(ip) => format!(
                        "{date} host postfix/smtpd[{n}]: NOQUEUE: reject: RCPT from unknown[{ip}]: 554 5.7.1 <a@example.org>: \
                         Relay access denied; from=<b@example.net> to=<a@example.org> proto=ESMTP helo=<x>"
                    ),
                    None => format!("{date} host postfix/qmgr[{n}]: 4C2B4A0123: removed"),
                }
            }
            (_, who) => {
                let date = date("%Y/%m/%d %H:%M:%S");
                match who {
                    Some(ip) => format!(
                        "{date} [error] 7#7: *{n} user \"admin\": password mismatch, client: {ip}, server: _, \
                         request: \"GET / HTTP/1.1\", host: \"example.org\""
                    ),
                    None => format!("{date} [notice] 7#7: signal {n} (SIGCHLD) received"),
                }
            }
        }
    }
}
