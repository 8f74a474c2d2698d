//! Rates as text.

use std::{iter, time::Duration};

use super::rates::{Ban, Interface, Rates, Scope};
use crate::ban::Until;

pub(super) struct Line {
    pub(super) is_heading: bool,
    pub(super) text: String,
}

/// What `f2b top` shows of `rates`, with no more than so many bans: three tables, and an empty line in front of each.
pub(super) fn lines(rates: &Rates, bans: usize) -> Vec<Line> {
    let Rates { banned, capacity, .. } = rates;
    let dry_run = if rates.dry_run { "; dry run: nothing is enforced" } else { "" };
    let text = format!(
        "{}  {banned} banned, {capacity} addresses fit. Packets and bytes a second, over {:.1} s{dry_run}",
        rates.time, rates.seconds
    );
    let interfaces = rates.interfaces.iter().map(|Interface { name, mode, dropped, passed }| {
        let mode = mode.map_or_else(|| "not protected".into(), |mode| mode.to_string());
        [name.clone(), short(*dropped), short(*passed), mode]
    });
    let scopes = rates.scopes.iter().map(|Scope { ports, packets, bytes }| {
        [ports.clone(), short(*packets), short(*bytes), String::new()]
    });
    let shown = rates.bans.iter().take(bans).map(|Ban { address, packets, jails, until }| {
        [address.to_string(), short(*packets), rest(*until, rates.time), jails.join(", ")]
    });
    iter::once(Line { is_heading: false, text })
        .chain(table(["INTERFACE", "DROPPED", "PASSED", "MODE"], interfaces))
        .chain(table(["PORTS", "DROPPED", "BYTES", ""], scopes))
        .chain(table(["BANNED", "DROPPED", "STILL", "JAIL"], shown))
        .collect()
}

/// An empty line, and rows below their headings; the numbers in the middle are aligned to the right.
fn table(headings: [&str; 4], rows: impl Iterator<Item = [String; 4]>) -> impl Iterator<Item = Line> {
    let rows: Vec<_> = [headings.map(str::to_owned)].into_iter().chain(rows).collect();
    // The same columns in all tables, as a rule: an IPv6 address may be longer.
    let first = rows.iter().map(|row| row[0].len()).max().unwrap_or_default().max(24);
    let rows = rows.into_iter().enumerate().map(move |(n, [name, a, b, last])| {
        let text = format!("{name:first$}  {a:>8}  {b:>8}  {last}").trim_end().to_owned();
        Line { is_heading: n == 0, text }
    });
    iter::once(Line { is_heading: false, text: String::new() }).chain(rows)
}

/// At most four digits, thousands as `k`, `M`, `G`.
fn short(rate: f64) -> String {
    let (mut rate, mut unit) = (rate, "");
    for larger in ["k", "M", "G", "T"] {
        if rate.round() < 10_000.0 {
            break;
        }
        (rate, unit) = (rate / 1000.0, larger);
    }
    // One packet in ten seconds is not none.
    let is_fraction = unit.is_empty() && (0.05..0.95).contains(&rate);
    let digits = usize::from(is_fraction || !unit.is_empty() && rate < 99.95);
    format!("{rate:.digits$}{unit}")
}

/// What is left of a ban, in its two largest units.
fn rest(until: Until, now: Until) -> String {
    if until == Until::Forever {
        return "forever".into();
    }
    let units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let mut seconds = until.since(now).saturating_add(Duration::from_millis(500)).as_secs();
    let mut parts = Vec::new();
    for (unit, length) in units {
        if seconds >= length || unit == "s" && parts.is_empty() || parts.len() == 1 {
            parts.push(format!("{}{unit}", seconds / length));
        }
        seconds %= length;
    }
    parts.truncate(2);
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn rates_are_short_and_none_is_hidden() {
        for (rate, expected) in [
            (0.0, "0"),
            (0.25, "0.2"),
            (0.999, "1"),
            (3.98, "4"),
            (42.4, "42"),
            (9_999.0, "9999"),
            (12_345.0, "12.3k"),
            (123_456.0, "123k"),
            (1_234_567.0, "1235k"),
            (14_880_952.0, "14.9M"),
        ] {
            assert_eq!(short(rate), expected, "{rate}");
        }
    }

    #[test]
    fn what_is_left_of_a_ban_is_in_two_units() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let after = |seconds| rest(Until::Time(now + Duration::from_secs(seconds)), Until::Time(now));
        assert_eq!(
            [0, 7, 60, 552, 3600, 86_399, 86_400 * 9 + 3601].map(after),
            ["0s", "7s", "1m 0s", "9m 12s", "1h 0m", "23h 59m", "9d 1h"]
        );
        assert_eq!(rest(Until::Forever, Until::Time(now)), "forever");
    }
}
