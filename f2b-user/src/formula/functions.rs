//! The functions that a formula can call, with their names in `server/jail.py`: Python's own for numbers, those of
//! `math`, and of `random` those that take numbers.

use num_bigint::BigInt;
use num_integer::Integer as _;
use num_traits::{FromPrimitive as _, Signed as _, ToPrimitive as _};

use super::{
    Wrong,
    number::{Binary, MAX_BITS, Number, float_power, too_large},
};

/// A function: its name, how many values it takes, and what it does with them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(&'static Known);

#[derive(Debug)]
struct Known {
    name: &'static str,
    /// Fewest and most.
    takes: (usize, usize),
    kind: Kind,
}

/// Takes numbers from 0 to 1, too.
type Dice = fn(&[Number], &mut dyn FnMut() -> f64) -> Result<Number, Wrong>;

#[derive(Debug)]
enum Kind {
    /// Of one float.
    Float(fn(f64) -> f64),
    /// Of two floats.
    Floats(fn(f64, f64) -> f64),
    /// Whether a float is such.
    Test(fn(f64) -> bool),
    /// A float made whole.
    Whole(fn(f64) -> f64),
    Any(fn(&[Number]) -> Result<Number, Wrong>),
    Random(Dice),
}

const MANY: usize = 1000;

const fn float(name: &'static str, function: fn(f64) -> f64) -> Known {
    Known { name, takes: (1, 1), kind: Kind::Float(function) }
}

const fn floats(name: &'static str, function: fn(f64, f64) -> f64) -> Known {
    Known { name, takes: (2, 2), kind: Kind::Floats(function) }
}

const fn whole(name: &'static str, function: fn(f64) -> f64) -> Known {
    Known { name, takes: (1, 1), kind: Kind::Whole(function) }
}

const fn test(name: &'static str, function: fn(f64) -> bool) -> Known {
    Known { name, takes: (1, 1), kind: Kind::Test(function) }
}

const fn any(
    name: &'static str,
    takes: (usize, usize),
    function: fn(&[Number]) -> Result<Number, Wrong>,
) -> Known {
    Known { name, takes, kind: Kind::Any(function) }
}

static FUNCTIONS: [Known; 53] = [
    any("abs", (1, 1), absolute),
    any("bool", (1, 1), |values| Ok(Number::Bool(values[0].is_true()))),
    any("float", (1, 1), |values| values[0].float().map(Number::Float)),
    whole("int", f64::trunc),
    any("max", (2, MANY), |values| Ok(extreme(values, std::cmp::Ordering::Greater))),
    any("min", (2, MANY), |values| Ok(extreme(values, std::cmp::Ordering::Less))),
    any("pow", (2, 2), |values| Binary::Power.apply(&values[0], &values[1])),
    any("round", (1, 2), round),
    float("math.acos", f64::acos),
    float("math.acosh", f64::acosh),
    float("math.asin", f64::asin),
    float("math.asinh", f64::asinh),
    float("math.atan", f64::atan),
    floats("math.atan2", f64::atan2),
    float("math.atanh", f64::atanh),
    float("math.cbrt", f64::cbrt),
    whole("math.ceil", f64::ceil),
    floats("math.copysign", f64::copysign),
    float("math.cos", f64::cos),
    float("math.cosh", f64::cosh),
    float("math.degrees", f64::to_degrees),
    float("math.exp", f64::exp),
    float("math.exp2", f64::exp2),
    float("math.expm1", f64::exp_m1),
    float("math.fabs", f64::abs),
    any("math.factorial", (1, 1), factorial),
    whole("math.floor", f64::floor),
    floats("math.fmod", |a, b| a % b),
    any("math.gcd", (0, MANY), |values| of_ints(values, BigInt::ZERO, |a, b| a.gcd(b))),
    floats("math.hypot", f64::hypot),
    test("math.isfinite", f64::is_finite),
    test("math.isinf", f64::is_infinite),
    test("math.isnan", f64::is_nan),
    any("math.isqrt", (1, 1), isqrt),
    any("math.lcm", (0, MANY), |values| of_ints(values, 1.into(), |a, b| a.lcm(b))),
    any("math.ldexp", (2, 2), |values| {
        let by = Binary::Power.apply(&Number::Float(2.0), &values[1])?;
        Binary::Multiply.apply(&Number::Float(values[0].float()?), &by)
    }),
    any("math.log", (1, 2), log),
    any("math.log10", (1, 1), |values| {
        logarithm("math.log10", &values[0], f64::log10, std::f64::consts::LOG10_2)
    }),
    float("math.log1p", f64::ln_1p),
    any("math.log2", (1, 1), |values| logarithm("math.log2", &values[0], f64::log2, 1.0)),
    any("math.pow", (2, 2), |values| float_power(values[0].float()?, values[1].float()?).map(Number::Float)),
    float("math.radians", f64::to_radians),
    floats("math.remainder", ieee_remainder),
    float("math.sin", f64::sin),
    float("math.sinh", f64::sinh),
    float("math.sqrt", f64::sqrt),
    float("math.tan", f64::tan),
    float("math.tanh", f64::tanh),
    whole("math.trunc", f64::trunc),
    Known {
        name: "random.random",
        takes: (0, 0),
        kind: Kind::Random(|_, random| Ok(Number::Float(random()))),
    },
    Known { name: "random.uniform", takes: (2, 2), kind: Kind::Random(uniform) },
    Known { name: "random.randint", takes: (2, 2), kind: Kind::Random(randint) },
    Known { name: "random.randrange", takes: (1, 2), kind: Kind::Random(randrange) },
];

/// What a name stands for that is no variable.
pub(super) fn constant(name: &str) -> Option<Number> {
    Some(match name {
        "True" => Number::Bool(true),
        "False" => Number::Bool(false),
        "math.pi" => Number::Float(std::f64::consts::PI),
        "math.e" => Number::Float(std::f64::consts::E),
        "math.tau" => Number::Float(std::f64::consts::TAU),
        "math.inf" => Number::Float(f64::INFINITY),
        "math.nan" => Number::Float(f64::NAN),
        _ => return None,
    })
}

/// The names of all functions, for a message.
pub(super) fn list() -> String {
    FUNCTIONS.iter().map(|known| known.name).collect::<Vec<_>>().join(", ")
}

impl Function {
    pub(super) fn named(name: &str) -> Option<Self> {
        FUNCTIONS.iter().find(|known| known.name == name).map(Self)
    }

    /// Whether it takes so many values.
    pub(super) fn check(self, count: usize) -> Result<(), Wrong> {
        let (fewest, most) = self.0.takes;
        if (fewest..=most).contains(&count) {
            return Ok(());
        }
        let takes = match (fewest, most) {
            (fewest, MANY) => format!("{fewest} or more values"),
            (1, 1) => "1 value".to_owned(),
            (fewest, most) if fewest == most => format!("{fewest} values"),
            (fewest, most) => format!("{fewest} to {most} values"),
        };
        Err(Wrong::new(format!("{} takes {takes}, not {count}", self.0.name)))
    }

    /// `values` are as many as [`check`](Self::check) allows.
    pub(super) fn call(self, values: &[Number], random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
        let Known { name, kind, .. } = self.0;
        match kind {
            Kind::Float(function) => {
                let value = values[0].float()?;
                real(name, function(value), &[value])
            }
            Kind::Floats(function) => {
                let (a, b) = (values[0].float()?, values[1].float()?);
                real(name, function(a, b), &[a, b])
            }
            Kind::Test(function) => Ok(Number::Bool(function(values[0].float()?))),
            Kind::Whole(function) => match values[0].int() {
                Some(int) => Ok(Number::Int(int)),
                None => whole_float(function(values[0].float()?)),
            },
            Kind::Any(function) => function(values),
            Kind::Random(function) => function(values, random),
        }
    }
}

/// A float's result, which Python raises an exception for where there is none.
fn real(name: &str, result: f64, values: &[f64]) -> Result<Number, Wrong> {
    if result.is_nan() && !values.iter().any(|value| value.is_nan()) {
        return Err(no_result(name));
    }
    if result.is_infinite() && values.iter().all(|value| value.is_finite()) {
        return Err(too_large());
    }
    Ok(Number::Float(result))
}

fn no_result(name: &str) -> Wrong {
    Wrong::new(format!("{name} has no result there"))
}

fn whole_float(float: f64) -> Result<Number, Wrong> {
    BigInt::from_f64(float).map(Number::Int).ok_or_else(too_large)
}

fn whole_number(name: &str, value: &Number) -> Result<BigInt, Wrong> {
    value.int().ok_or_else(|| Wrong::new(format!("{name} of a number that is not whole")))
}

fn absolute(values: &[Number]) -> Result<Number, Wrong> {
    Ok(match values[0].int() {
        Some(int) => Number::Int(int.abs()),
        None => Number::Float(values[0].float()?.abs()),
    })
}

/// The first that no other exceeds in this direction.
fn extreme(values: &[Number], wanted: std::cmp::Ordering) -> Number {
    let mut extreme = &values[0];
    for value in &values[1..] {
        if value.compare(extreme) == Some(wanted) {
            extreme = value;
        }
    }
    extreme.clone()
}

/// To even where two are as near.
fn round(values: &[Number]) -> Result<Number, Wrong> {
    let digits = match values.get(1) {
        None => match values[0].int() {
            Some(int) => return Ok(Number::Int(int)),
            None => return whole_float(values[0].float()?.round_ties_even()),
        },
        Some(digits) => whole_number("round", digits)?,
    };
    match values[0].int() {
        Some(int) if digits.is_negative() => {
            let digits = (-digits).to_u32().filter(|digits| *digits < 2000).ok_or_else(too_large)?;
            let unit = BigInt::from(10).pow(digits);
            let (mut quotient, rest) = int.div_mod_floor(&unit);
            let twice = rest * 2;
            if twice > unit || twice == unit && quotient.is_odd() {
                quotient += 1;
            }
            Ok(Number::Int(quotient * unit))
        }
        Some(int) => Ok(Number::Int(int)),
        None => {
            let float = values[0].float()?;
            let Some(digits) = digits.to_i32().filter(|digits| digits.abs() < 400) else {
                return Ok(Number::Float(if digits.is_negative() { 0.0 } else { float }));
            };
            if digits < 0 {
                let unit = 10f64.powi(-digits);
                return Ok(Number::Float((float / unit).round_ties_even() * unit));
            }
            // Exactly what the number is in decimal.
            let text = format!("{float:.*}", digits.unsigned_abs() as usize);
            Ok(Number::Float(text.parse().unwrap_or(float)))
        }
    }
}

fn of_ints(
    values: &[Number],
    start: BigInt,
    function: fn(&BigInt, &BigInt) -> BigInt,
) -> Result<Number, Wrong> {
    let mut result = start;
    for value in values {
        result = function(&result, &whole_number("math.gcd", value)?);
        if result.bits() > MAX_BITS {
            return Err(too_large());
        }
    }
    Ok(Number::Int(result.abs()))
}

fn isqrt(values: &[Number]) -> Result<Number, Wrong> {
    let int = whole_number("math.isqrt", &values[0])?;
    if int.is_negative() {
        return Err(no_result("math.isqrt"));
    }
    Ok(Number::Int(int.sqrt()))
}

fn factorial(values: &[Number]) -> Result<Number, Wrong> {
    let int = whole_number("math.factorial", &values[0])?;
    if int.is_negative() {
        return Err(no_result("math.factorial"));
    }
    // 900! has about 7500 bits.
    let last = int.to_u32().filter(|last| *last <= 900).ok_or_else(too_large)?;
    Ok(Number::Int((1..=last).map(BigInt::from).product()))
}

fn log(values: &[Number]) -> Result<Number, Wrong> {
    let natural = |value| logarithm("math.log", value, f64::ln, std::f64::consts::LN_2);
    let log = natural(&values[0])?;
    match values.get(1) {
        None => Ok(log),
        Some(base) => Binary::Divide.apply(&log, &natural(base)?),
    }
}

/// Also of whole numbers that are larger than floats. `of_two`: the logarithm of 2.
fn logarithm(name: &str, value: &Number, function: fn(f64) -> f64, of_two: f64) -> Result<Number, Wrong> {
    if let (Some(int), Err(_)) = (value.int(), value.float())
        && int.is_positive()
    {
        let shift = int.bits() - 64;
        let top = (int >> shift).to_f64().unwrap_or(f64::NAN);
        return Ok(Number::Float(function(top) + shift as f64 * of_two));
    }
    let float = value.float()?;
    if float <= 0.0 {
        return Err(no_result(name));
    }
    real(name, function(float), &[float])
}

fn ieee_remainder(a: f64, b: f64) -> f64 {
    if b.is_infinite() && a.is_finite() {
        return a;
    }
    let rest = a.abs() % b.abs();
    let half = b.abs() / 2.0;
    let is_odd = ((a.abs() - rest) / b.abs()) % 2.0 == 1.0;
    let rest = if rest > half || rest == half && is_odd { rest - b.abs() } else { rest };
    if a.is_sign_negative() { -rest } else { rest }
}

fn uniform(values: &[Number], random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
    let (a, b) = (values[0].float()?, values[1].float()?);
    Ok(Number::Float(a + (b - a) * random()))
}

fn randint(values: &[Number], random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
    let (first, last) =
        (whole_number("random.randint", &values[0])?, whole_number("random.randint", &values[1])?);
    between(&first, &(last + 1), random)
}

fn randrange(values: &[Number], random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
    let bound = |value| whole_number("random.randrange", value);
    match values {
        [end] => between(&BigInt::ZERO, &bound(end)?, random),
        [first, end, ..] => between(&bound(first)?, &bound(end)?, random),
        [] => Err(no_result("random.randrange")),
    }
}

fn between(first: &BigInt, end: &BigInt, random: &mut dyn FnMut() -> f64) -> Result<Number, Wrong> {
    if first >= end {
        return Err(no_result("random.randrange"));
    }
    let span = Number::Int(end - first).float()?;
    let by = BigInt::from_f64((span * random()).floor()).ok_or_else(too_large)?;
    Ok(Number::Int(first + by))
}
