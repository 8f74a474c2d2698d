//! fail2ban's times: `600`, `10m`, `1d12h`, `1y 6mo`, `1hour+30min`, `2.5h` (`server/mytime.py`, `str2seconds`).
//!
//! fail2ban turns every unit into a factor (`10m` is `10*60`), puts a `+` between numbers that stand side by side, and
//! has Python evaluate the result. So do we, with a small evaluator for numbers, `+ - * / // % **` and parentheses.

use std::sync::LazyLock;

use anyhow::{Result, bail};
use regex::Regex;

/// Units and their seconds, in fail2ban's order: `m` is a minute, `mo` a month, which is the twelfth of a year.
const UNITS: [(&str, &str); 7] = [
    ("days?|da|dd?", "86400"),
    ("weeks?|wee?|ww?", "604800"),
    ("months?|mon?", "2629800.0"),
    ("years?|yea?|yy?", "31557600.0"),
    ("seconds?|sec?|ss?", "1"),
    ("minutes?|min?|mm?", "60"),
    ("hours?|hou?|hh?", "3600"),
];
/// How deep parentheses and signs may nest.
const MAX_DEPTH: usize = 50;

#[expect(clippy::unwrap_used, reason = "constants that the tests compile")]
static FACTORS: LazyLock<Vec<(Regex, String)>> = LazyLock::new(|| {
    let unit = |unit: &str| Regex::new(&format!(r"(?i)([\d\s])(?:{unit})\b")).unwrap();
    UNITS.iter().map(|(name, seconds)| (unit(name), format!("${{1}}*{seconds}"))).collect()
});
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static SIDE_BY_SIDE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\d)\s+(\d)").unwrap());

/// The time in seconds; negative for `-1`.
pub(super) fn seconds(text: &str) -> Result<f64> {
    if text.trim().is_empty() {
        bail!("a time is missing; write for example 600 or 10m");
    }
    let expression = expression(text);
    let mut parser = Parser { rest: expression.trim(), depth: 0 };
    match parser.sum() {
        Some(seconds) if parser.rest.is_empty() && seconds.is_finite() => Ok(seconds),
        Some(_) if parser.rest.is_empty() => {
            bail!("\"{text}\" is longer than time can count; write -1 for a ban without end")
        }
        _ => bail!("\"{text}\" is not a time; write for example 600, 10m, 1d12h or -1"),
    }
}

/// The arithmetic that the text stands for.
fn expression(text: &str) -> String {
    let mut expression = String::new();
    let mut before = ' ';
    for c in text.chars() {
        // 1d12h is 1d 12h.
        if before.is_ascii_alphabetic() && c.is_ascii_digit() {
            expression.push(' ');
        }
        expression.push(c);
        before = c;
    }
    for (unit, factor) in FACTORS.iter() {
        expression = unit.replace_all(&expression, factor).into_owned();
    }
    SIDE_BY_SIDE.replace_all(&expression, "${1}+${2}").into_owned()
}

/// Python's arithmetic on numbers, without names and calls. `None` is a syntax error or a division by zero.
struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

impl Parser<'_> {
    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else {
            return false;
        };
        self.rest = rest.trim_start_matches([' ', '\t']);
        true
    }

    fn sum(&mut self) -> Option<f64> {
        let mut value = self.product()?;
        loop {
            if self.take("+") {
                value += self.product()?;
            } else if self.take("-") {
                value -= self.product()?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<f64> {
        let mut value = self.signed()?;
        loop {
            if self.rest.starts_with("**") {
                return Some(value);
            } else if self.take("*") {
                value *= self.signed()?;
            } else if self.take("//") {
                value = (value / self.divisor()?).floor();
            } else if self.take("/") {
                value /= self.divisor()?;
            } else if self.take("%") {
                let divisor = self.divisor()?;
                value -= divisor * (value / divisor).floor();
            } else {
                return Some(value);
            }
        }
    }

    fn divisor(&mut self) -> Option<f64> {
        self.signed().filter(|divisor| *divisor != 0.0)
    }

    fn signed(&mut self) -> Option<f64> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = if self.take("-") {
            self.signed().map(|value| -value)
        } else if self.take("+") {
            self.signed()
        } else {
            self.power()
        };
        self.depth -= 1;
        value
    }

    fn power(&mut self) -> Option<f64> {
        let base = self.atom()?;
        if self.take("**") {
            return Some(base.powf(self.signed()?));
        }
        Some(base)
    }

    fn atom(&mut self) -> Option<f64> {
        if self.take("(") {
            let value = self.sum()?;
            return self.take(")").then_some(value);
        }
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        let number = &self.rest[..end];
        // Python takes 010 for a mistake, but not 0, 00 or 010.5.
        let octal = number.len() > 1 && number.starts_with('0') && !number.contains('.');
        if octal && number.bytes().any(|digit| digit != b'0') {
            return None;
        }
        let value = number.parse().ok()?;
        self.rest = self.rest[end..].trim_start_matches([' ', '\t']);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: f64 = 31_557_600.0;

    #[test]
    fn times_in_their_spellings() {
        for (text, expected) in [
            ("600", 600.0),
            ("-1", -1.0),
            ("10m", 600.0),
            ("1d12h", 129_600.0),
            ("1y 6mo", YEAR * 1.5),
            ("1year-6mo", YEAR / 2.0),
            ("2 hours 30 min", 9000.0),
            ("1hour+30min", 5400.0),
            ("2.5h", 9000.0),
            ("1W", 604_800.0),
            ("5m5", 305.0),
            ("(1+2)*60", 180.0),
            ("7//2 + 7%4 + 2**3 - -1", 15.0),
            ("1 month", YEAR / 12.0),
            ("1DAY 1Hou", 90_000.0),
        ] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        let nested = "(".repeat(10_000);
        let huge = "9".repeat(400);
        for text in ["", "m", "ten", "10q", "010", "1/0", "1d,2h", "5 5 5 x", "1..2", "2 (3)", &nested, &huge]
        {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
