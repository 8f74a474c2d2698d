//! Python's `re` syntax → a tree. The rules are those of Python 3.11's `re` documentation; what Python refuses is
//! refused here, so that a filter means the same or is an error in both.

use std::{collections::HashMap, iter::Peekable, str::Chars};

use anyhow::{Context as _, Result, bail};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Empty,
    /// One character of a set.
    Class(Class),
    Concat(Vec<Node>),
    Alternation(Vec<Node>),
    Repeat {
        node: Box<Node>,
        min: u32,
        max: Option<u32>,
        kind: Repetition,
    },
    Group {
        index: usize,
        node: Box<Node>,
    },
    Atomic(Box<Node>),
    Look {
        behind: bool,
        negative: bool,
        node: Box<Node>,
    },
    BackReference {
        index: usize,
        ignore_case: bool,
    },
    /// `(?(1)yes|no)`
    Conditional {
        index: usize,
        yes: Box<Node>,
        no: Box<Node>,
    },
    Assertion(Assertion),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Repetition {
    Greedy,
    Lazy,
    Possessive,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Assertion {
    /// `^`, `\A`
    Start,
    /// `^` under MULTILINE
    LineStart,
    /// `$`: the end, or before the line end that ends the text
    End,
    /// `$` under MULTILINE
    LineEnd,
    /// `\Z`
    AbsoluteEnd,
    WordBoundary,
    NotWordBoundary,
    /// Not between two characters of a word: how fail2ban bounds a date.
    NotInsideWord,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Class {
    pub(super) negated: bool,
    pub(super) items: Vec<Item>,
    pub(super) ignore_case: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Item {
    Range(char, char),
    /// `\d`, `\s`, `\w`; their capitals are `negated`.
    Named {
        kind: Named,
        negated: bool,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Named {
    Digit,
    Space,
    Word,
}

/// An expression, read.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) node: Node,
    /// The named groups and their numbers, in the order of their numbers.
    pub(super) names: Vec<(String, usize)>,
    /// How many groups there are, with and without names.
    pub(super) groups: usize,
}

/// How deep groups may nest: enough for every filter there is, and no stack to overflow.
const MAX_DEPTH: usize = 100;
/// The largest repetition count, as in Python's engine no filter comes near its own limit.
const MAX_REPEAT: u32 = 10_000;

#[derive(Clone, Copy, Default)]
struct Flags {
    ignore_case: bool,
    multiline: bool,
    dot_all: bool,
    verbose: bool,
}

impl Flags {
    fn set(&mut self, flag: char, on: bool) -> Result<()> {
        match flag {
            'i' => self.ignore_case = on,
            'm' => self.multiline = on,
            's' => self.dot_all = on,
            'x' => self.verbose = on,
            // Text is Unicode anyway.
            'u' if on => {}
            'a' | 'L' => bail!("the flag {flag} is not supported"),
            _ => bail!("unknown flag {flag}"),
        }
        Ok(())
    }
}

pub(super) fn parse(expression: &str, multiline: bool) -> Result<Expression> {
    let mut parser = Parser {
        chars: expression.chars().peekable(),
        groups: 0,
        names: Vec::new(),
        open: Vec::new(),
        numbers: HashMap::new(),
        depth: 0,
        at_start: true,
    };
    let mut flags = Flags { multiline, ..Flags::default() };
    let node = parser.alternation(&mut flags)?;
    if parser.chars.next().is_some() {
        bail!("unbalanced parenthesis");
    }
    Ok(Expression { node, names: parser.names, groups: parser.groups })
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    groups: usize,
    names: Vec<(String, usize)>,
    numbers: HashMap<String, usize>,
    /// The groups that are not closed yet: they cannot be referred to.
    open: Vec<usize>,
    depth: usize,
    /// Global flags are allowed at the very start only.
    at_start: bool,
}

impl Parser<'_> {
    fn eat(&mut self, c: char) -> bool {
        self.chars.next_if_eq(&c).is_some()
    }

    fn alternation(&mut self, flags: &mut Flags) -> Result<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            bail!("groups nest deeper than {MAX_DEPTH}");
        }
        let mut branches = vec![self.concat(flags)?];
        while self.eat('|') {
            branches.push(self.concat(flags)?);
        }
        self.depth -= 1;
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Alternation(branches) })
    }

    fn concat(&mut self, flags: &mut Flags) -> Result<Node> {
        let mut nodes = Vec::new();
        while let Some(&c) = self.chars.peek() {
            if c == '|' || c == ')' {
                break;
            }
            let at_start = std::mem::take(&mut self.at_start);
            if flags.verbose && c.is_whitespace() {
                self.chars.next();
            } else if flags.verbose && c == '#' {
                while self.chars.next_if(|c| *c != '\n').is_some() {}
            } else if let Some(node) = self.atom(flags, at_start)? {
                nodes.push(self.repeated(node)?);
            }
        }
        self.at_start = false;
        Ok(match nodes.len() {
            0 => Node::Empty,
            1 => nodes.remove(0),
            _ => Node::Concat(nodes),
        })
    }

    /// One atom; nothing for a comment or for flags.
    fn atom(&mut self, flags: &mut Flags, at_start: bool) -> Result<Option<Node>> {
        let Some(c) = self.chars.next() else { return Ok(None) };
        Ok(Some(match c {
            '(' => return self.group(flags, at_start),
            '[' => Node::Class(self.class(*flags)?),
            '\\' => self.escape(*flags)?,
            '.' if flags.dot_all => class(vec![Item::Range('\0', char::MAX)], false, *flags),
            '.' => class(vec![Item::Range('\n', '\n')], true, Flags::default()),
            '^' if flags.multiline => Node::Assertion(Assertion::LineStart),
            '^' => Node::Assertion(Assertion::Start),
            '$' if flags.multiline => Node::Assertion(Assertion::LineEnd),
            '$' => Node::Assertion(Assertion::End),
            '*' | '+' | '?' => bail!("nothing to repeat"),
            other => literal(other, *flags),
        }))
    }

    fn repeated(&mut self, node: Node) -> Result<Node> {
        let mut node = node;
        let mut times = 0;
        while let Some((min, max)) = self.count()? {
            times += 1;
            if times > 1 {
                bail!("multiple repeat");
            }
            if max.is_some_and(|max| max < min) {
                bail!("min repeat greater than max repeat");
            }
            if min > MAX_REPEAT || max.is_some_and(|max| max > MAX_REPEAT) {
                bail!("it repeats more than {MAX_REPEAT} times");
            }
            let kind = if self.eat('?') {
                Repetition::Lazy
            } else if self.eat('+') {
                Repetition::Possessive
            } else {
                Repetition::Greedy
            };
            // Python refuses to repeat an assertion that takes no text; it would change nothing.
            node = Node::Repeat { node: Box::new(node), min, max, kind };
        }
        Ok(node)
    }

    /// A repetition count, if one comes next. `{` that starts none is a brace.
    fn count(&mut self) -> Result<Option<(u32, Option<u32>)>> {
        let counts = match self.chars.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                let mut ahead = self.chars.clone();
                ahead.next();
                let inner: String = ahead.by_ref().take_while(|c| *c != '}').collect();
                let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
                let number = |text: &str| text.parse::<u32>().context("the repetition number is too large");
                let closed = self.chars.clone().skip(1).any(|c| c == '}');
                let counts = match inner.split_once(',') {
                    Some((min, max)) if digits(min) && digits(max) => {
                        let min = if min.is_empty() { 0 } else { number(min)? };
                        (min, if max.is_empty() { None } else { Some(number(max)?) })
                    }
                    None if !inner.is_empty() && digits(&inner) => (number(&inner)?, Some(number(&inner)?)),
                    _ => return Ok(None),
                };
                if !closed {
                    return Ok(None);
                }
                self.chars = ahead;
                return Ok(Some(counts));
            }
            _ => return Ok(None),
        };
        self.chars.next();
        Ok(Some(counts))
    }

    fn group(&mut self, flags: &mut Flags, at_start: bool) -> Result<Option<Node>> {
        let mut inner = *flags;
        if !self.eat('?') {
            return self.capture(inner).map(Some);
        }
        let Some(c) = self.chars.next() else { bail!("unexpected end of pattern") };
        let node = match c {
            ':' => self.rest(&mut inner)?,
            '>' => Node::Atomic(Box::new(self.rest(&mut inner)?)),
            '=' | '!' => self.look(false, c == '!', inner)?,
            '<' if self.eat('=') => self.look(true, false, inner)?,
            '<' if self.eat('!') => self.look(true, true, inner)?,
            '#' => {
                if !self.chars.any(|c| c == ')') {
                    bail!("missing ), unterminated comment");
                }
                return Ok(None);
            }
            'P' if self.eat('<') => {
                let name = self.until('>')?;
                self.declare(name)?;
                self.capture(inner)?
            }
            'P' if self.eat('=') => {
                let name = self.until(')')?;
                let index = self.number(&name)?;
                if self.open.contains(&index) {
                    bail!("cannot refer to an open group");
                }
                Node::BackReference { index, ignore_case: inner.ignore_case }
            }
            '(' => self.conditional(inner)?,
            first => return self.flags(first, flags, at_start),
        };
        Ok(Some(node))
    }

    /// `(?i)` for all, `(?i:…)`, `(?-i:…)` for a group.
    fn flags(&mut self, first: char, flags: &mut Flags, at_start: bool) -> Result<Option<Node>> {
        let mut inner = *flags;
        let mut on = true;
        let mut next = Some(first);
        loop {
            match next {
                Some('-') if on => on = false,
                Some(':') => return self.rest(&mut inner).map(Some),
                Some(')') if on => {
                    if !at_start {
                        bail!("global flags not at the start of the expression");
                    }
                    *flags = inner;
                    self.at_start = true;
                    return Ok(None);
                }
                Some(flag) => inner.set(flag, on)?,
                None => bail!("missing -, : or )"),
            }
            next = self.chars.next();
        }
    }

    fn rest(&mut self, flags: &mut Flags) -> Result<Node> {
        let node = self.alternation(flags)?;
        if !self.eat(')') {
            bail!("missing ), unterminated subpattern");
        }
        Ok(node)
    }

    fn capture(&mut self, mut flags: Flags) -> Result<Node> {
        self.groups += 1;
        let index = self.groups;
        self.open.push(index);
        let node = Box::new(self.rest(&mut flags)?);
        self.open.pop();
        Ok(Node::Group { index, node })
    }

    fn look(&mut self, behind: bool, negative: bool, mut flags: Flags) -> Result<Node> {
        Ok(Node::Look { behind, negative, node: Box::new(self.rest(&mut flags)?) })
    }

    fn conditional(&mut self, mut flags: Flags) -> Result<Node> {
        let name = self.until(')')?;
        let index = match name.parse::<usize>() {
            Ok(index) => index,
            Err(_) => self.number(&name)?,
        };
        if index == 0 || index > self.groups {
            bail!("invalid group reference {name}");
        }
        let branches = match self.rest(&mut flags)? {
            Node::Alternation(branches) => branches,
            other => vec![other],
        };
        let mut branches = branches.into_iter();
        let yes = Box::new(branches.next().unwrap_or(Node::Empty));
        let no = Box::new(branches.next().unwrap_or(Node::Empty));
        if branches.next().is_some() {
            bail!("conditional backref with more than two branches");
        }
        Ok(Node::Conditional { index, yes, no })
    }

    fn until(&mut self, end: char) -> Result<String> {
        let mut name = String::new();
        loop {
            match self.chars.next() {
                Some(c) if c == end => break,
                Some(c) => name.push(c),
                None => bail!("missing {end}, unterminated name"),
            }
        }
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            bail!("bad character in group name {name:?}");
        }
        Ok(name)
    }

    fn declare(&mut self, name: String) -> Result<()> {
        if name.starts_with(|c: char| c.is_numeric()) {
            bail!("bad character in group name {name:?}");
        }
        let index = self.groups + 1;
        if self.numbers.insert(name.clone(), index).is_some() {
            bail!("redefinition of group name {name:?}");
        }
        self.names.push((name, index));
        Ok(())
    }

    fn number(&self, name: &str) -> Result<usize> {
        self.numbers.get(name).copied().with_context(|| format!("unknown group name {name:?}"))
    }

    /// What follows a backslash outside of a class.
    fn escape(&mut self, flags: Flags) -> Result<Node> {
        let Some(&c) = self.chars.peek() else { bail!("bad escape (end of pattern)") };
        let assertion = match c {
            'A' => Some(Assertion::Start),
            'Z' => Some(Assertion::AbsoluteEnd),
            'b' => Some(Assertion::WordBoundary),
            'B' => Some(Assertion::NotWordBoundary),
            _ => None,
        };
        if let Some(assertion) = assertion {
            self.chars.next();
            return Ok(Node::Assertion(assertion));
        }
        if c.is_ascii_digit() && c != '0' && !self.octal_ahead() {
            let mut index = 0;
            for _ in 0..2 {
                if let Some(digit) = self.chars.next_if(char::is_ascii_digit) {
                    index = index * 10 + digit.to_digit(10).unwrap_or_default() as usize;
                }
            }
            if index > self.groups || self.open.contains(&index) {
                bail!("invalid group reference {index}");
            }
            return Ok(Node::BackReference { index, ignore_case: flags.ignore_case });
        }
        let item = self.class_escape()?;
        Ok(class(vec![item], false, flags))
    }

    /// Whether three octal digits come next: a character, not a group.
    fn octal_ahead(&self) -> bool {
        let ahead: Vec<char> = self.chars.clone().take(3).collect();
        ahead.len() == 3 && ahead[0] <= '3' && ahead.iter().all(|c| ('0'..='7').contains(c))
    }

    /// What follows a backslash and stands for characters.
    fn class_escape(&mut self) -> Result<Item> {
        let Some(c) = self.chars.next() else { bail!("bad escape (end of pattern)") };
        let named = |kind, negated| Ok(Item::Named { kind, negated });
        let code = match c {
            'd' | 'D' => return named(Named::Digit, c == 'D'),
            's' | 'S' => return named(Named::Space, c == 'S'),
            'w' | 'W' => return named(Named::Word, c == 'W'),
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => self.hex(2)?,
            'u' => self.hex(4)?,
            'U' => self.hex(8)?,
            '0'..='7' => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    if let Some(digit) = self.chars.next_if(|c| c.is_digit(8)) {
                        code = code * 8 + digit.to_digit(8).unwrap_or_default();
                    }
                }
                code
            }
            c if c.is_ascii_alphanumeric() => bail!("bad escape \\{c}"),
            c => c as u32,
        };
        let c = char::from_u32(code).with_context(|| format!("bad escape: {code:x} is no character"))?;
        Ok(Item::Range(c, c))
    }

    fn hex(&mut self, digits: usize) -> Result<u32> {
        let mut code = 0;
        for _ in 0..digits {
            let digit = self.chars.next().and_then(|c| c.to_digit(16)).context("incomplete escape")?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn class(&mut self, flags: Flags) -> Result<Class> {
        let negated = self.eat('^');
        let mut items = Vec::new();
        loop {
            let first = items.is_empty();
            let item = match self.chars.next() {
                None => bail!("unterminated character set"),
                Some(']') if !first => break,
                Some('\\') => self.class_escape()?,
                Some(c) => Item::Range(c, c),
            };
            let Item::Range(low, _) = item else {
                items.push(item);
                continue;
            };
            // A minus at the end is a minus.
            let range = self.chars.peek() == Some(&'-')
                && self.chars.clone().nth(1).is_some_and(|c| c != ']')
                && self.eat('-');
            if !range {
                items.push(item);
                continue;
            }
            let high = match self.chars.next() {
                Some('\\') => self.class_escape()?,
                Some(c) => Item::Range(c, c),
                None => bail!("unterminated character set"),
            };
            match high {
                Item::Range(high, _) if low <= high => items.push(Item::Range(low, high)),
                _ => bail!("bad character range {low}-"),
            }
        }
        Ok(Class { negated, items, ignore_case: flags.ignore_case })
    }
}

fn class(items: Vec<Item>, negated: bool, flags: Flags) -> Node {
    Node::Class(Class { negated, items, ignore_case: flags.ignore_case })
}

fn literal(c: char, flags: Flags) -> Node {
    class(vec![Item::Range(c, c)], false, flags)
}
