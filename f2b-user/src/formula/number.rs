//! Python's numbers: whole ones of any size (here: of a bounded one), floats, `True` and `False`; and its operators.

use std::{cmp::Ordering, fmt};

use num_bigint::{BigInt, Sign};
use num_integer::Integer as _;
use num_traits::{FromPrimitive as _, Signed as _, ToPrimitive as _, Zero as _};

use super::Wrong;

/// The most bits of a whole number: a ban of 2^8192 seconds is long enough.
pub(super) const MAX_BITS: u64 = 8192;

/// A number as Python has it.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    Bool(bool),
    Int(BigInt),
    Float(f64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unary {
    Minus,
    Plus,
    Invert,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
    ShiftLeft,
    ShiftRight,
    And,
    Or,
    Xor,
}

pub(super) fn too_large() -> Wrong {
    Wrong::new("a result that is too large")
}

fn zero_division() -> Wrong {
    Wrong::new("a division by zero")
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        Self::Int(number.into())
    }
}

impl fmt::Display for Number {
    /// As Python writes it, but for the exponents of floats.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(true) => f.write_str("True"),
            Self::Bool(false) => f.write_str("False"),
            Self::Int(int) => int.fmt(f),
            Self::Float(float) => write!(f, "{float:?}"),
        }
    }
}

impl Number {
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Bool(bool) => *bool,
            Self::Int(int) => !int.is_zero(),
            Self::Float(float) => *float != 0.0,
        }
    }

    /// The whole number that it is, unless it is a float.
    pub(super) fn int(&self) -> Option<BigInt> {
        match self {
            Self::Bool(bool) => Some(i32::from(*bool).into()),
            Self::Int(int) => Some(int.clone()),
            Self::Float(_) => None,
        }
    }

    /// As a float.
    ///
    /// # Errors
    /// It is larger than floats are.
    pub fn float(&self) -> Result<f64, Wrong> {
        match self {
            Self::Bool(bool) => Ok(f64::from(u8::from(*bool))),
            Self::Int(int) => int.to_f64().filter(|float| float.is_finite()).ok_or_else(too_large),
            Self::Float(float) => Ok(*float),
        }
    }

    /// `None` if either is not a number.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.int(), other.int()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            (Some(a), None) => compare_float(&a, other.float().ok()?),
            (None, Some(b)) => compare_float(&b, self.float().ok()?).map(Ordering::reverse),
            (None, None) => self.float().ok()?.partial_cmp(&other.float().ok()?),
        }
    }

    /// Itself, unless it is too large.
    pub(super) fn bounded(self) -> Result<Self, Wrong> {
        match &self {
            Self::Int(int) if int.bits() > MAX_BITS => Err(too_large()),
            _ => Ok(self),
        }
    }
}

/// Exact also where the whole number has more digits than the float.
fn compare_float(int: &BigInt, float: f64) -> Option<Ordering> {
    if float.is_infinite() {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    let whole = BigInt::from_f64(float.trunc())?;
    Some(int.cmp(&whole).then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal)))
}

impl Unary {
    pub(super) fn apply(self, operand: &Number) -> Result<Number, Wrong> {
        Ok(match (self, operand.int()) {
            (Self::Minus, Some(int)) => Number::Int(-int),
            (Self::Plus, Some(int)) => Number::Int(int),
            (Self::Invert, Some(int)) => Number::Int(!int),
            (Self::Minus, None) => Number::Float(-operand.float()?),
            (Self::Plus, None) => operand.clone(),
            (Self::Invert, None) => return Err(Wrong::new("~ of a number that is not whole")),
        })
    }
}

impl Binary {
    pub(super) fn apply(self, left: &Number, right: &Number) -> Result<Number, Wrong> {
        if let (Number::Bool(a), Number::Bool(b)) = (left, right) {
            match self {
                Self::And => return Ok(Number::Bool(a & b)),
                Self::Or => return Ok(Number::Bool(a | b)),
                Self::Xor => return Ok(Number::Bool(a ^ b)),
                _ => {}
            }
        }
        match (left.int(), right.int()) {
            (Some(a), Some(b)) => self.of_ints(&a, &b),
            _ => self.of_floats(left.float()?, right.float()?).map(Number::Float),
        }
    }

    fn of_ints(self, a: &BigInt, b: &BigInt) -> Result<Number, Wrong> {
        let result = match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide => return divide(a, b).map(Number::Float),
            Self::FloorDivide | Self::Remainder if b.is_zero() => return Err(zero_division()),
            Self::FloorDivide => a.div_floor(b),
            Self::Remainder => a.mod_floor(b),
            Self::Power if b.is_negative() => {
                if a.is_zero() {
                    return Err(zero_division());
                }
                let (a, b) = (Number::Int(a.clone()).float()?, Number::Int(b.clone()).float()?);
                return self.of_floats(a, b).map(Number::Float);
            }
            Self::Power => power(a, b)?,
            Self::ShiftLeft | Self::ShiftRight if b.is_negative() => {
                return Err(Wrong::new("a shift by less than nothing"));
            }
            Self::ShiftLeft if a.is_zero() => BigInt::ZERO,
            Self::ShiftLeft => {
                let by = b.to_u64().filter(|by| *by <= MAX_BITS).ok_or_else(too_large)?;
                a << by
            }
            Self::ShiftRight => a >> b.to_u64().unwrap_or(MAX_BITS + 1).min(MAX_BITS + 1),
            Self::And => a & b,
            Self::Or => a | b,
            Self::Xor => a ^ b,
        };
        Number::Int(result).bounded()
    }

    fn of_floats(self, a: f64, b: f64) -> Result<f64, Wrong> {
        Ok(match self {
            Self::Add => a + b,
            Self::Subtract => a - b,
            Self::Multiply => a * b,
            Self::Divide | Self::FloorDivide | Self::Remainder if b == 0.0 => return Err(zero_division()),
            Self::Divide => a / b,
            Self::FloorDivide => divide_and_remainder(a, b).0,
            Self::Remainder => divide_and_remainder(a, b).1,
            Self::Power => float_power(a, b)?,
            Self::ShiftLeft => return Err(Wrong::new("<< of a number that is not whole")),
            Self::ShiftRight => return Err(Wrong::new(">> of a number that is not whole")),
            Self::And => return Err(Wrong::new("& of a number that is not whole")),
            Self::Or => return Err(Wrong::new("| of a number that is not whole")),
            Self::Xor => return Err(Wrong::new("^ of a number that is not whole")),
        })
    }
}

fn power(base: &BigInt, exponent: &BigInt) -> Result<BigInt, Wrong> {
    // Those whose powers stay small.
    if base.is_zero() || *base.magnitude() == 1u32.into() {
        let is_one = exponent.is_zero() || base.sign() == Sign::Plus || !exponent.bit(0);
        return Ok(if base.is_zero() && !exponent.is_zero() {
            BigInt::ZERO
        } else {
            BigInt::from(if is_one { 1 } else { -1 })
        });
    }
    let exponent = exponent.to_u32().ok_or_else(too_large)?;
    if (base.bits() - 1) * u64::from(exponent) > MAX_BITS {
        return Err(too_large());
    }
    Ok(base.pow(exponent))
}

pub(super) fn float_power(base: f64, exponent: f64) -> Result<f64, Wrong> {
    if base == 0.0 && exponent < 0.0 {
        return Err(zero_division());
    }
    if base < 0.0 && base.is_finite() && exponent.is_finite() && exponent.fract() != 0.0 {
        return Err(Wrong::new("a result that is no real number"));
    }
    let power = base.powf(exponent);
    if power.is_infinite() && base.is_finite() && exponent.is_finite() { Err(too_large()) } else { Ok(power) }
}

/// The quotient of whole numbers, rounded once.
fn divide(a: &BigInt, b: &BigInt) -> Result<f64, Wrong> {
    if b.is_zero() {
        return Err(zero_division());
    }
    // Enough bits for a float, and one below them that tells whether something is left.
    let shift = 66 - (a.bits() as i64 - b.bits() as i64);
    let (numerator, denominator) =
        if shift >= 0 { (a.abs() << shift, b.abs()) } else { (a.abs(), b.abs() << -shift) };
    let (mut quotient, rest) = numerator.div_rem(&denominator);
    if !rest.is_zero() {
        quotient |= BigInt::from(1);
    }
    let mut float = quotient.to_f64().ok_or_else(too_large)?;
    // In two steps: 2^shift alone may be no float.
    let half = shift / 2;
    float = float * 2f64.powi(-half as i32) * 2f64.powi(-(shift - half) as i32);
    if float.is_infinite() {
        return Err(too_large());
    }
    Ok(if a.is_negative() == b.is_negative() { float } else { -float })
}

/// `//` and `%`: the remainder has the divisor's sign.
fn divide_and_remainder(a: f64, b: f64) -> (f64, f64) {
    let mut remainder = a % b;
    let mut quotient = (a - remainder) / b;
    if remainder != 0.0 {
        if (b < 0.0) != (remainder < 0.0) {
            remainder += b;
            quotient -= 1.0;
        }
    } else {
        remainder = 0f64.copysign(b);
    }
    let floor = if quotient == 0.0 {
        0f64.copysign(a / b)
    } else {
        let floor = quotient.floor();
        if quotient - floor > 0.5 { floor + 1.0 } else { floor }
    };
    (floor, remainder)
}
