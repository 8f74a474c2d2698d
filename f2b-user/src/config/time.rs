//! fail2ban's times: `600`, `10m`, `1d12h`, `1y 6mo` (`server/mytime.py`, `str2seconds`).

use anyhow::{Result, bail};

const YEAR: i64 = 31_557_600; // 365.25 days

/// Seconds per unit; a month is the twelfth of a year. The longest spelling that fits wins.
const UNITS: [(&str, i64); 22] = [
    ("seconds", 1),
    ("second", 1),
    ("secs", 1),
    ("sec", 1),
    ("s", 1),
    ("minutes", 60),
    ("minute", 60),
    ("mins", 60),
    ("min", 60),
    ("months", YEAR / 12),
    ("month", YEAR / 12),
    ("mon", YEAR / 12),
    ("mo", YEAR / 12),
    ("m", 60),
    ("hours", 3600),
    ("hour", 3600),
    ("h", 3600),
    ("days", 86_400),
    ("day", 86_400),
    ("d", 86_400),
    ("w", 604_800),
    ("y", YEAR),
];

/// The time in whole seconds; negative for `-1`.
pub(super) fn seconds(text: &str) -> Result<i64> {
    let text = text.trim().to_lowercase();
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    let mut total: i64 = 0;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let unit = UNITS.iter().find(|(unit, _)| after.starts_with(unit));
        let (Ok(number), Some((unit, factor))) = (number.parse::<i64>(), unit) else {
            bail!("\"{text}\" is not a time; write for example 600, 10m, 1d12h or -1");
        };
        let Some(sum) = number.checked_mul(*factor).and_then(|seconds| total.checked_add(seconds)) else {
            bail!("\"{text}\" is longer than time can count; write -1 for a ban without end");
        };
        total = sum;
        rest = after[unit.len()..].trim_start();
    }
    if text.is_empty() {
        bail!("a time is missing; write for example 600 or 10m");
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_their_spellings() {
        for (text, expected) in [
            ("600", 600),
            ("-1", -1),
            ("10m", 600),
            ("1d12h", 129_600),
            ("1y 6mo", YEAR * 3 / 2),
            ("2 hours 30 min", 9000),
            ("1W", 604_800),
        ] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "m", "ten", "10q", "5m5", "99999999999999y"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
