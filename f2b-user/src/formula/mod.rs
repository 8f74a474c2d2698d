//! Formulas as `bantime.formula` and `bantime.factor` have them: Python's arithmetic, evaluated without Python.
//!
//! fail2ban hands both to `eval` (`server/jail.py`, `setBanTimeExtra`). Here a formula has numbers, the names `ban.Time`,
//! `ban.Count` and `banFactor`, Python's operators with their precedence, and the functions of [`functions`]. It has no
//! loops, no texts and no lists, and every number has a bounded size, so each formula ends, and soon.
//!
//! - [`parse`]: text → [`Expression`]
//! - [`number`]: Python's numbers and operators
//! - [`functions`]: what can be called

mod functions;
mod number;
mod parse;

use std::{error::Error, fmt};

pub use self::number::Number;
use self::{
    functions::Function,
    number::{Binary, Unary},
};

/// A formula that is in order.
#[derive(Clone, Debug)]
pub struct Formula(Expression);

/// What a formula's names stand for.
#[derive(Clone, Debug)]
pub struct Names {
    /// `ban.Time`: the jail's ban time, in seconds.
    pub time: Number,
    /// `ban.Count`: how often the address was banned before.
    pub count: Number,
    /// `banFactor`: what `bantime.factor` comes to.
    pub factor: Number,
}

/// Why a formula is none, or has no result. The text is as a person needs it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wrong(String);

impl Wrong {
    /// With this text.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Wrong {}

impl Formula {
    /// # Errors
    /// It is not in Python's grammar, or has names and functions that it cannot have.
    pub fn new(text: &str) -> Result<Self, Wrong> {
        parse::parse(text).map(Self)
    }

    /// The result. `random` gives the next number from 0 to 1 for the functions of `random`. Without names (as in
    /// `bantime.factor`), a formula that uses some has no result.
    ///
    /// # Errors
    /// What makes Python raise an exception (a division by zero), and whole numbers of more than 8192 bits.
    pub fn evaluate(&self, names: Option<&Names>, random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
        Evaluation { names, random }.evaluate(&self.0)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Name {
    Time,
    Count,
    Factor,
}

impl Name {
    fn text(self) -> &'static str {
        match self {
            Self::Time => "ban.Time",
            Self::Count => "ban.Count",
            Self::Factor => "banFactor",
        }
    }
}

/// How two neighbours in `a < b < c` compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

#[derive(Clone, Debug)]
enum Expression {
    Number(Number),
    Name(Name),
    Unary(Unary, Box<Expression>),
    Binary(Binary, Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Compare(Box<Expression>, Vec<(Comparison, Expression)>),
    /// `then if condition else otherwise`
    If {
        condition: Box<Expression>,
        then: Box<Expression>,
        otherwise: Box<Expression>,
    },
    Call(Function, Vec<Expression>),
}

struct Evaluation<'a> {
    names: Option<&'a Names>,
    random: &'a mut dyn FnMut() -> f64,
}

impl Evaluation<'_> {
    fn evaluate(&mut self, expression: &Expression) -> Result<Number, Wrong> {
        Ok(match expression {
            Expression::Number(number) => number.clone(),
            Expression::Name(name) => self.name(*name)?,
            Expression::Unary(operator, operand) => operator.apply(&self.evaluate(operand)?)?,
            Expression::Binary(operator, left, right) => {
                let left = self.evaluate(left)?;
                operator.apply(&left, &self.evaluate(right)?)?
            }
            Expression::Not(operand) => Number::Bool(!self.evaluate(operand)?.is_true()),
            Expression::And(left, right) => {
                let left = self.evaluate(left)?;
                if left.is_true() { self.evaluate(right)? } else { left }
            }
            Expression::Or(left, right) => {
                let left = self.evaluate(left)?;
                if left.is_true() { left } else { self.evaluate(right)? }
            }
            Expression::Compare(first, others) => {
                let mut left = self.evaluate(first)?;
                for (comparison, right) in others {
                    let right = self.evaluate(right)?;
                    if !comparison.holds(&left, &right) {
                        return Ok(Number::Bool(false));
                    }
                    left = right;
                }
                Number::Bool(true)
            }
            Expression::If { condition, then, otherwise } => {
                let branch = if self.evaluate(condition)?.is_true() { then } else { otherwise };
                self.evaluate(branch)?
            }
            Expression::Call(function, arguments) => {
                let arguments: Vec<_> =
                    arguments.iter().map(|argument| self.evaluate(argument)).collect::<Result<_, _>>()?;
                function.call(&arguments, self.random)?
            }
        })
    }

    fn name(&self, name: Name) -> Result<Number, Wrong> {
        let names = self.names.ok_or_else(|| Wrong::new(format!("{} is not known here", name.text())))?;
        Ok(match name {
            Name::Time => &names.time,
            Name::Count => &names.count,
            Name::Factor => &names.factor,
        }
        .clone())
    }
}

impl Comparison {
    fn holds(self, left: &Number, right: &Number) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let ordering = left.compare(right);
        match self {
            Self::Less => ordering == Some(Less),
            Self::LessOrEqual => matches!(ordering, Some(Less | Equal)),
            Self::Greater => ordering == Some(Greater),
            Self::GreaterOrEqual => matches!(ordering, Some(Greater | Equal)),
            Self::Equal => ordering == Some(Equal),
            Self::NotEqual => ordering != Some(Equal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { time: Number::from(600), count: Number::from(3), factor: Number::from(2) }
    }

    fn result(text: &str) -> String {
        let evaluated = Formula::new(text).and_then(|formula| formula.evaluate(Some(&names()), &mut || 0.25));
        evaluated.map_or_else(|wrong| format!("wrong: {wrong}"), |number| number.to_string())
    }

    #[test]
    fn formulas_have_pythons_results() {
        for (text, expected) in [
            // Those of fail2ban's jail.conf.
            ("ban.Time * (1<<(ban.Count if ban.Count<20 else 20)) * banFactor", "9600"),
            ("ban.Time * math.exp(float(ban.Count+1)*banFactor)/math.exp(1*banFactor)", "242057.27609564108"),
            ("2.0 / 2.885385", "0.6931484013398559"),
            // Precedence and kinds.
            ("-2 ** 2", "-4"),
            ("2 ** -1", "0.5"),
            ("2 ** 3 ** 2", "512"),
            ("-7 // 2", "-4"),
            ("-7 % 3", "2"),
            ("7 / 2", "3.5"),
            ("7.5 // 2", "3.0"),
            ("1 + 2 << 3", "24"),
            ("6 & 3 | 8 ^ 1", "11"),
            ("not 1 == 2", "True"),
            ("1 < 2 < 3 > 2", "True"),
            ("0 or 5 and 7", "7"),
            ("True + True", "2"),
            ("~5", "-6"),
            ("1_000 + 0x10 + 0b11 + 0o17", "1034"),
            (".5 + 5. + 1e3", "1005.5"),
            ("max(1, 2.0, 2)", "2.0"),
            ("min(3, 1, 2)", "1"),
            ("round(2.5)", "2"),
            ("round(2.675, 2)", "2.67"),
            ("round(1250, -2)", "1200"),
            ("int(-2.7)", "-2"),
            ("math.floor(-2.5) + math.ceil(2.1)", "0"),
            ("random.random()", "0.25"),
            ("random.uniform(10, 20)", "12.5"),
            ("pow(2, 10)", "1024"),
            ("ban.Time\n * 2", "wrong: a line ends in the middle of it; put it into parentheses"),
            ("(ban.Time\n * 2)", "1200"),
            ("1 << 100", "1267650600228229401496703205376"),
            ("10 ** 30 // 10 ** 28", "100"),
            ("1 if 0 else 2 if 0 else 3", "3"),
        ] {
            assert_eq!(result(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let deep = "(".repeat(1000);
        let signs = "-".repeat(5000) + "1";
        let towers = "2**".repeat(5000) + "1";
        let ifs = "1 if 1 else ".repeat(5000) + "1";
        for (text, expected) in [
            ("", "it is empty"),
            ("1 +", "it ends where a value is expected"),
            ("1 + * 2", "a value is expected at \"* 2\""),
            ("(1", "there is no ) for a ("),
            ("1 2", "nothing is expected at \"2\""),
            ("ban.Tim", "ban.Tim is not known; there are ban.Time, ban.Count and banFactor"),
            ("time", "time is not known; there are ban.Time, ban.Count and banFactor"),
            ("math.exq(1)", "there is no function math.exq"),
            ("open('x')", "there is no function open; there are abs, "),
            ("float('x')", "a value is expected at \"'x')\""),
            ("__import__(1)", "there is no function __import__"),
            ("1/0", "a division by zero"),
            ("2.0 ** 5000", "a result that is too large"),
            ("1 << 10 ** 9", "a result that is too large"),
            ("9**9**9**9", "a result that is too large"),
            ("1 << -1", "a shift by less than nothing"),
            ("1.5 << 2", "<< of a number that is not whole"),
            ("(-8) ** 0.5", "a result that is no real number"),
            ("math.sqrt(-1)", "math.sqrt has no result there"),
            ("max(1)", "max takes 2 or more values, not 1"),
            ("int(1e999)", "a result that is too large"),
            ("010", "a number cannot begin with 0"),
            (&deep, "it is nested too deeply"),
            (&signs, "it is longer than 4096 bytes"),
            (&signs[4000..], "it is nested too deeply"),
            (&towers[..3001], "it is nested too deeply"),
            (&ifs[..3601], "it is nested too deeply"),
        ] {
            let found = result(text);
            assert!(found.starts_with("wrong: ") && found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn a_factor_has_no_names() {
        let factor = Formula::new("ban.Time * 2").unwrap();
        assert_eq!(factor.evaluate(None, &mut || 0.0).unwrap_err().to_string(), "ban.Time is not known here");
    }
}
