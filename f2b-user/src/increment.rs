//! How long known offenders are banned (`bantime.increment`): fail2ban's rules in `server/jail.py`
//! (`setBanTimeExtra`) and `server/observer.py` (`incrBanTime`). No clock, no I/O.

use std::fmt;

use crate::formula::{Formula, Names, Number, Wrong};

/// fail2ban's `bantime.formula`, where none is set.
const FORMULA: &str = "ban.Time * (1<<(ban.Count if ban.Count<20 else 20)) * banFactor";

/// `bantime.factor`, `formula`, `multipliers`, `maxtime`, `rndtime` and `overalljails`, checked.
#[derive(Clone, Debug)]
pub struct Increment {
    rule: Rule,
    factor: Number,
    /// Seconds; -1 makes every increased ban permanent, as in fail2ban.
    maxtime: Option<f64>,
    /// Up to so many seconds more, by chance.
    rndtime: Option<f64>,
    /// Bans of other jails count, too.
    pub overalljails: bool,
}

#[derive(Clone, Debug)]
enum Rule {
    Formula(Formula),
    /// By the count of earlier bans; the last holds for all above. Never empty.
    Multipliers(Vec<i64>),
}

/// The options as they are written; an empty text is as good as none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written<'a> {
    pub factor: &'a str,
    pub formula: &'a str,
    pub multipliers: &'a str,
    /// Seconds.
    pub maxtime: Option<f64>,
    /// Seconds.
    pub rndtime: Option<f64>,
    pub overalljails: bool,
}

/// Which option is wrong, and why.
#[derive(Debug)]
pub struct Refused {
    pub option: &'static str,
    pub text: String,
    pub why: Wrong,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.option, self.text, self.why)
    }
}

impl std::error::Error for Refused {}

/// How long an increased ban lasts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Increased {
    /// Seconds; negative for one that was over before it began.
    For(f64),
    Forever,
}

impl Increment {
    /// # Errors
    /// An option that makes no sense.
    pub fn new(written: Written<'_>) -> Result<Self, Refused> {
        let refused = |option, text: &str, why| Refused { option, text: text.to_owned(), why };
        let compiled = |option, text: &str| Formula::new(text).map_err(|why| refused(option, text, why));
        let factor = match written.factor {
            "" => Number::from(1),
            text => compiled("bantime.factor", text)?
                .evaluate(None, &mut fastrand::f64)
                .map_err(|why| refused("bantime.factor", text, why))?,
        };
        let formula = match written.formula {
            "" => compiled("bantime.formula", FORMULA)?,
            text => compiled("bantime.formula", text)?,
        };
        let rule = match written.multipliers {
            "" => Rule::Formula(formula),
            text => {
                Rule::Multipliers(multipliers(text).map_err(|why| refused("bantime.multipliers", text, why))?)
            }
        };
        let Written { maxtime, rndtime, overalljails, .. } = written;
        Ok(Self { rule, factor, maxtime, rndtime, overalljails })
    }

    /// How long a ban lasts that would last `bantime` seconds, of an address that was banned `count` times before.
    /// `random` gives numbers from 0 to 1.
    ///
    /// # Errors
    /// The formula has no result for these; fail2ban then bans for `bantime`.
    pub fn bantime(
        &self,
        bantime: u64,
        count: u32,
        random: &mut dyn FnMut() -> f64,
    ) -> Result<Increased, Wrong> {
        let time = Number::Int(bantime.into());
        let mut seconds = match &self.rule {
            Rule::Multipliers(multipliers) => {
                let last = multipliers.len() - 1;
                let multiplier = multipliers[last.min(usize::try_from(count).unwrap_or(last))];
                seconds(&time)? * seconds(&self.factor)? * multiplier as f64
            }
            Rule::Formula(formula) => {
                let names =
                    Names { time: time.clone(), count: i64::from(count).into(), factor: self.factor.clone() };
                let result = seconds(&formula.evaluate(Some(&names), random)?)?;
                let bantime = seconds(&time)?;
                // As Python's `max`: what is no number does not exceed.
                if result > bantime { result } else { bantime }
            }
        };
        if let Some(maxtime) = self.maxtime
            && maxtime < seconds
        {
            seconds = maxtime;
        }
        if let Some(rndtime) = self.rndtime {
            seconds += random() * rndtime;
        }
        Ok(if seconds == -1.0 || seconds == f64::INFINITY {
            Increased::Forever
        } else {
            Increased::For(seconds)
        })
    }

    /// The longest ban, in seconds, if there is one (`Jail.getMaxBanTime`).
    pub fn maxtime(&self) -> Option<f64> {
        self.maxtime.filter(|maxtime| *maxtime >= 0.0)
    }
}

/// What is too large for a float lasts for ever.
fn seconds(number: &Number) -> Result<f64, Wrong> {
    match number {
        Number::Int(_) => Ok(number.float().unwrap_or(f64::INFINITY)),
        _ => number.float(),
    }
}

/// `1 2 4 8`
fn multipliers(text: &str) -> Result<Vec<i64>, Wrong> {
    let number = |word: &str| {
        let number = word.trim().parse();
        number.map_err(|_error| {
            Wrong::new(format!("\"{word}\" is not a whole number; write for example 1 2 4 8"))
        })
    };
    text.split(' ').map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bantimes(written: Written<'_>, counts: &[u32]) -> Vec<Increased> {
        let increment = Increment::new(written).unwrap();
        counts.iter().map(|count| increment.bantime(600, *count, &mut || 0.5).unwrap()).collect()
    }

    fn seconds(seconds: &[f64]) -> Vec<Increased> {
        seconds.iter().copied().map(Increased::For).collect()
    }

    #[test]
    fn bans_double_until_the_twentieth() {
        let none = Written::default();
        assert_eq!(bantimes(none, &[1, 2, 3, 4]), seconds(&[1200.0, 2400.0, 4800.0, 9600.0]));
        let most = 600.0 * f64::from(1 << 20);
        assert_eq!(bantimes(none, &[19, 20, 21, 1000]), seconds(&[most / 2.0, most, most, most]));
    }

    #[test]
    fn multipliers_override_the_formula_and_the_last_holds_on() {
        let written =
            Written { multipliers: "1 5 30", formula: "ban.Time", factor: "2", ..Written::default() };
        assert_eq!(bantimes(written, &[1, 2, 3, 99]), seconds(&[6000.0, 36000.0, 36000.0, 36000.0]));
    }

    #[test]
    fn the_longest_time_holds_before_chance_adds_to_it() {
        let written = Written { maxtime: Some(3000.0), rndtime: Some(100.0), ..Written::default() };
        assert_eq!(bantimes(written, &[1, 2, 3]), seconds(&[1250.0, 2450.0, 3050.0]));
        let forever = Written { maxtime: Some(-1.0), ..Written::default() };
        assert_eq!(bantimes(forever, &[1]), [Increased::Forever]);
    }

    #[test]
    fn a_formula_never_shortens_a_ban() {
        let written = Written { formula: "ban.Time / 10", ..Written::default() };
        assert_eq!(bantimes(written, &[5]), seconds(&[600.0]));
        let written = Written { formula: "2 ** (ban.Count * 100)", ..Written::default() };
        assert_eq!(bantimes(written, &[20]), [Increased::Forever]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (written, expected) in [
            (
                Written { factor: "2 *", ..Written::default() },
                "bantime.factor = 2 *: it ends where a value is expected",
            ),
            (Written { factor: "1/0", ..Written::default() }, "bantime.factor = 1/0: a division by zero"),
            (
                Written { formula: "os.system(1)", ..Written::default() },
                "bantime.formula = os.system(1): there is no function os.system",
            ),
            (
                Written { multipliers: "1  2", ..Written::default() },
                "bantime.multipliers = 1  2: \"\" is not a whole number; write for example 1 2 4 8",
            ),
        ] {
            let refused = Increment::new(written).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
        let increment =
            Increment::new(Written { formula: "1 / (ban.Count - 3)", ..Written::default() }).unwrap();
        assert!(increment.bantime(600, 3, &mut || 0.0).is_err());
    }
}
