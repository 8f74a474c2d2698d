//! Python's grammar of expressions, as far as numbers go: a recursive descent of bounded depth.

use num_bigint::BigInt;

use super::{
    Comparison, Expression, Name, Wrong,
    functions::{self, Function},
    number::{Binary, Number, Unary},
};

/// The longest formula, in bytes.
const MAX_LENGTH: usize = 4096;
/// How deep parentheses, signs, powers and conditions may nest. Evaluation nests no deeper than a chain of operators is
/// long, which [`MAX_LENGTH`] bounds.
const MAX_DEPTH: usize = 40;
/// How many operators a formula may have: evaluation goes as deep.
const MAX_OPERATORS: usize = 500;

/// Words that Python keeps for itself, and that end an operand.
const WORDS: [&str; 5] = ["if", "else", "and", "or", "not"];

pub(super) fn parse(text: &str) -> Result<Expression, Wrong> {
    if text.len() > MAX_LENGTH {
        return Err(Wrong::new(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    if text.trim().is_empty() {
        return Err(Wrong::new("it is empty"));
    }
    // What `eval` strips.
    let rest = text.trim_start_matches([' ', '\t']).trim_end();
    let mut parser = Parser { rest, depth: 0, parentheses: 0, operators: 0 };
    parser.skip_space();
    let expression = parser.conditional()?;
    if parser.rest.is_empty() {
        return Ok(expression);
    }
    Err(Wrong::new(match parser.rest.chars().next() {
        Some('\n' | '\r') => "a line ends in the middle of it; put it into parentheses".to_owned(),
        _ => format!("nothing is expected at \"{}\"", parser.excerpt()),
    }))
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
    /// How many are open: line ends are spaces inside of them.
    parentheses: usize,
    operators: usize,
}

type Parsed = Result<Expression, Wrong>;

impl<'a> Parser<'a> {
    /// `a if b else c`
    fn conditional(&mut self) -> Parsed {
        self.nested(|parser| {
            let then = parser.either()?;
            if !parser.take_word("if") {
                return Ok(then);
            }
            let condition = parser.either()?;
            if !parser.take_word("else") {
                return Err(Wrong::new("there is no else for an if"));
            }
            let otherwise = parser.conditional()?;
            Ok(Expression::If { condition: condition.into(), then: then.into(), otherwise: otherwise.into() })
        })
    }

    fn either(&mut self) -> Parsed {
        let mut left = self.both()?;
        while self.take_word("or") {
            self.operator()?;
            left = Expression::Or(left.into(), self.both()?.into());
        }
        Ok(left)
    }

    fn both(&mut self) -> Parsed {
        let mut left = self.negation()?;
        while self.take_word("and") {
            self.operator()?;
            left = Expression::And(left.into(), self.negation()?.into());
        }
        Ok(left)
    }

    fn negation(&mut self) -> Parsed {
        if self.take_word("not") {
            return self.nested(|parser| Ok(Expression::Not(parser.negation()?.into())));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed {
        const COMPARISONS: [(&str, Comparison); 6] = [
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        let first = self.binary(0)?;
        let mut others = Vec::new();
        while !self.rest.starts_with("<<") && !self.rest.starts_with(">>") {
            let found = COMPARISONS.into_iter().find(|(token, _)| self.take(token));
            let Some((_, comparison)) = found else { break };
            self.operator()?;
            others.push((comparison, self.binary(0)?));
        }
        Ok(if others.is_empty() { first } else { Expression::Compare(first.into(), others) })
    }

    /// The operators of this level and those that bind tighter, all of them from the left.
    fn binary(&mut self, level: usize) -> Parsed {
        const LEVELS: [&[(&str, Binary)]; 6] = [
            &[("|", Binary::Or)],
            &[("^", Binary::Xor)],
            &[("&", Binary::And)],
            &[("<<", Binary::ShiftLeft), (">>", Binary::ShiftRight)],
            &[("+", Binary::Add), ("-", Binary::Subtract)],
            // `//` before `/`. A `**` never stands here: the power has taken it.
            &[
                ("*", Binary::Multiply),
                ("//", Binary::FloorDivide),
                ("/", Binary::Divide),
                ("%", Binary::Remainder),
            ],
        ];
        let Some(operators) = LEVELS.get(level) else {
            return self.signed();
        };
        let mut left = self.binary(level + 1)?;
        while let Some((_, operator)) = operators.iter().find(|(token, _)| self.take(token)) {
            self.operator()?;
            left = Expression::Binary(*operator, left.into(), self.binary(level + 1)?.into());
        }
        Ok(left)
    }

    fn signed(&mut self) -> Parsed {
        const SIGNS: [(&str, Unary); 3] = [("-", Unary::Minus), ("+", Unary::Plus), ("~", Unary::Invert)];
        match SIGNS.into_iter().find(|(token, _)| self.take(token)) {
            Some((_, sign)) => self.nested(|parser| Ok(Expression::Unary(sign, parser.signed()?.into()))),
            None => self.power(),
        }
    }

    fn power(&mut self) -> Parsed {
        let base = self.atom()?;
        if !self.take("**") {
            return Ok(base);
        }
        let exponent = self.nested(Self::signed)?;
        Ok(Expression::Binary(Binary::Power, base.into(), exponent.into()))
    }

    fn atom(&mut self) -> Parsed {
        if self.open() {
            let inner = self.conditional()?;
            self.close()?;
            return Ok(inner);
        }
        match self.rest.as_bytes() {
            [b'0'..=b'9', ..] | [b'.', b'0'..=b'9', ..] => self.number(),
            [b'a'..=b'z' | b'A'..=b'Z' | b'_', ..] => self.named(),
            [] => Err(Wrong::new("it ends where a value is expected")),
            _ => Err(Wrong::new(format!("a value is expected at \"{}\"", self.excerpt()))),
        }
    }

    /// A name, a constant or a call.
    fn named(&mut self) -> Parsed {
        let word = self.word();
        if WORDS.contains(&word) {
            return Err(Wrong::new(format!("a value is expected at \"{}\"", self.excerpt())));
        }
        self.advance(word.len());
        let mut name = word.to_owned();
        while self.take(".") {
            let word = self.word();
            self.advance(word.len());
            name = format!("{name}.{word}");
        }
        if self.open() {
            let Some(function) = Function::named(&name) else {
                return Err(Wrong::new(format!(
                    "there is no function {name}; there are {}",
                    functions::list()
                )));
            };
            let arguments = self.arguments()?;
            function.check(arguments.len())?;
            return Ok(Expression::Call(function, arguments));
        }
        if let Some(name) =
            [Name::Time, Name::Count, Name::Factor].into_iter().find(|known| known.text() == name)
        {
            return Ok(Expression::Name(name));
        }
        functions::constant(&name).map(Expression::Number).ok_or_else(|| {
            Wrong::new(format!("{name} is not known; there are ban.Time, ban.Count and banFactor"))
        })
    }

    /// Up to the closing parenthesis.
    fn arguments(&mut self) -> Result<Vec<Expression>, Wrong> {
        let mut arguments = Vec::new();
        while !self.rest.starts_with(')') {
            arguments.push(self.conditional()?);
            if !self.take(",") {
                break;
            }
        }
        self.close()?;
        Ok(arguments)
    }

    fn number(&mut self) -> Parsed {
        let end = number_end(self.rest);
        let text = &self.rest[..end];
        let broken = || Wrong::new(format!("{text} is no number"));
        let digits = digits(text).ok_or_else(broken)?;
        let radix = |radix| BigInt::parse_bytes(digits.get(2..)?.as_bytes(), radix);
        let number = match digits.get(..2).map(str::to_ascii_lowercase).as_deref() {
            Some("0x") => radix(16).map(Number::Int),
            Some("0o") => radix(8).map(Number::Int),
            Some("0b") => radix(2).map(Number::Int),
            _ if digits.bytes().all(|c| c.is_ascii_digit()) => {
                if digits.starts_with('0') && digits.bytes().any(|digit| digit != b'0') {
                    return Err(Wrong::new(format!("{text}: a number cannot begin with 0")));
                }
                BigInt::parse_bytes(digits.as_bytes(), 10).map(Number::Int)
            }
            _ => digits.parse().ok().map(Number::Float),
        };
        let number = number.ok_or_else(broken)?.bounded()?;
        self.advance(end);
        Ok(Expression::Number(number))
    }

    /// The letters, digits and `_` that come next.
    fn word(&self) -> &'a str {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &self.rest[..end.unwrap_or(self.rest.len())]
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.word() == word;
        if found {
            self.advance(word.len());
        }
        found
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest.starts_with(token);
        if found {
            self.advance(token.len());
        }
        found
    }

    fn open(&mut self) -> bool {
        let found = self.rest.starts_with('(');
        if found {
            self.parentheses += 1;
            self.advance(1);
        }
        found
    }

    fn close(&mut self) -> Result<(), Wrong> {
        if !self.rest.starts_with(')') {
            return Err(Wrong::new(match self.rest {
                "" => "there is no ) for a (".to_owned(),
                _ => format!("a ) is expected at \"{}\"", self.excerpt()),
            }));
        }
        self.parentheses -= 1;
        self.advance(1);
        Ok(())
    }

    fn advance(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.skip_space();
    }

    fn skip_space(&mut self) {
        let in_parentheses = self.parentheses > 0;
        let is_space =
            |c: char| matches!(c, ' ' | '\t' | '\x0c') || in_parentheses && matches!(c, '\n' | '\r');
        self.rest = self.rest.trim_start_matches(is_space);
    }

    fn nested(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Wrong::new("it is nested too deeply"));
        }
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn operator(&mut self) -> Result<(), Wrong> {
        self.operators += 1;
        if self.operators > MAX_OPERATORS {
            return Err(Wrong::new(format!("it has more than {MAX_OPERATORS} operators")));
        }
        Ok(())
    }

    /// What comes next, for a message.
    fn excerpt(&self) -> &'a str {
        let end = self.rest.char_indices().nth(20).map_or(self.rest.len(), |(end, _)| end);
        &self.rest[..end]
    }
}

/// Where the number ends that begins the text. What Python takes for a part of it belongs to it, even if that makes it
/// no number.
fn number_end(text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_decimal = !matches!(bytes, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..]);
    let mut end = 0;
    while let Some(&c) = bytes.get(end) {
        let is_sign = matches!(c, b'+' | b'-')
            && is_decimal
            && end > 0
            && matches!(bytes[end - 1], b'e' | b'E')
            && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
        if !(c.is_ascii_alphanumeric() || c == b'_' || c == b'.' && is_decimal || is_sign) {
            break;
        }
        // `2if x else y` is Python, too.
        if is_decimal && c.is_ascii_alphabetic() && !is_exponent(&bytes[end..]) {
            break;
        }
        end += 1;
    }
    end
}

/// Whether an exponent begins here.
fn is_exponent(bytes: &[u8]) -> bool {
    matches!(bytes, [b'e' | b'E', b'0'..=b'9', ..] | [b'e' | b'E', b'+' | b'-', b'0'..=b'9', ..])
}

/// The number without the `_` that Python allows between digits.
fn digits(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, c)| **c == b'_') {
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(at + 1);
        let prefix = at == 2 && bytes[0] == b'0' && bytes[1].is_ascii_alphabetic();
        if !(before.is_some_and(|c| c.is_ascii_hexdigit()) || prefix)
            || !after.is_some_and(u8::is_ascii_hexdigit)
        {
            return None;
        }
    }
    Some(text.replace('_', ""))
}
