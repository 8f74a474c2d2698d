//! The tree → a program for the [`machine`](super::machine): straight-line steps, and choices in the order in which
//! Python tries them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Result, bail};

use super::{
    candidate::plain_texts,
    chars::{self, CharSet, Table},
    foresight::{Begins, Both, Foresight, Next},
    forks::Forks,
    hindsight::Hindsight,
    shape::{first, has_repetition, is_anchored, may_be_empty, single, width},
    syntax::{Assertion, Class, Node, Repetition},
};

/// Steps that one program may have: repetition counts inside repetition counts multiply.
const MAX_STEPS: usize = 50_000;
/// How many groups conditionals may ask about: each doubles the states that the machine may have to remember.
const MAX_CONDITIONS: usize = 4;
/// How many branches are many: worth a table, which tells up to 255 apart.
const MANY_BRANCHES: std::ops::RangeInclusive<usize> = 4..=250;
/// How many steps a [`Tail`] has.
const TAIL: usize = 6;
/// How many steps are looked at to see what can come next.
const FORESIGHT: u32 = 32;

/// A repetition of one set.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) set: u32,
    /// The ASCII characters of the set.
    pub(super) members: Arc<Table>,
    pub(super) min: u32,
    /// `u32::MAX`: without end.
    pub(super) max: u32,
    pub(super) kind: Repetition,
    /// Greedy, with no text that stops it.
    pub(super) is_plain: bool,
    /// Plain, and as a rule a few characters long.
    pub(super) is_short: bool,
    /// It stops before this text: `(?:(?!text).)*`.
    pub(super) unless: Option<Box<[u8]>>,
    /// What can come behind it.
    pub(super) next: Next,
    /// The byte that must, if it is known.
    pub(super) next_byte: Option<u8>,
    /// The text that must, if it is known: its number.
    pub(super) next_text: Option<u32>,
    /// How many steps on the program goes on when it has found what comes next: a step that asks for nothing but the
    /// next byte is done then.
    pub(super) stride: u8,
    /// What can come behind the one character that follows, if it is one.
    pub(super) after_next: Next,
    /// What can come behind it is nothing of its own, in ASCII: of that it need give nothing back.
    pub(super) keeps_ascii: bool,
}

/// Where an alternation of many branches goes on.
#[derive(Debug)]
pub(super) struct Switch {
    /// The step of each branch; that it fails stands behind them.
    branches: Vec<Option<usize>>,
    /// The branch for each byte, and for the text's end.
    bytes: Box<[u8; 256]>,
    end: u8,
}

impl Switch {
    /// The step at which the program goes on, if it does.
    #[inline]
    pub(super) fn goes_on(&self, text: &[u8], at: usize) -> Option<usize> {
        let branch = text.get(at).map_or(self.end, |byte| self.bytes[usize::from(*byte)]);
        self.branches[usize::from(branch)]
    }
}

impl Run {
    /// The step and the place at which the program goes on behind this one, which is at `step` and has ended at `at`.
    #[inline]
    pub(super) fn goes_on(&self, step: usize, at: usize) -> (usize, usize) {
        (step + usize::from(self.stride), at + usize::from(self.stride) - 1)
    }
}

/// How a program ends that takes all that is left of a line: `<F-CONTENT>.+</F-CONTENT>$`, the last six steps. Whether
/// it matches from there depends on nothing but where the line ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    /// The step with which it begins.
    pub(super) step: usize,
    /// That of the group's begin.
    pub(super) slot: usize,
}

/// A step of a program. Small and plain, because the machine does little else than look at the next one.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(super) enum Step {
    /// This character.
    Byte(u8),
    /// The text of this number.
    Text(u32),
    /// One character of the set.
    One(u32),
    /// Characters of one set: the run of this number.
    Run(u32),
    /// Goes on at `first`, and if that fails at `second`: the choice of this number.
    Split {
        first: u32,
        second: u32,
        number: u32,
    },
    /// Goes on at the first branch of many that can match here: the switch of this number.
    Switch(u32),
    Jump(u32),
    /// Remembers the place as a group's begin or end.
    Save(u32),
    /// The same, where nobody looks at what was remembered if the program steps back.
    Mark(u32),
    Assert(Assertion),
    /// What follows up to [`Step::Match`] must match here (or must not); then it goes on at `end`, at the same place.
    /// `behind`: what follows must match the last so many characters.
    Look {
        behind: Option<u32>,
        negative: bool,
        end: u32,
    },
    /// What follows up to [`Step::Match`] matches in one way only; then it goes on at `end`.
    Atomic {
        end: u32,
    },
    BackReference {
        group: u32,
        ignore_case: bool,
    },
    /// Goes on at `otherwise` if the group took no part.
    IfGroup {
        group: u32,
        otherwise: u32,
    },
    /// The ways up to this number begin here. They need the text of this number, which others beside them do not.
    Way {
        last: u32,
        needs: Option<u32>,
    },
    /// Goes on at `to`, where different things come together. What failed there once does not become right because
    /// another one comes with it, so the place of the last failure is remembered, under this number.
    Join {
        number: u32,
        to: u32,
    },
    /// Remembers where an iteration began, in a register.
    Begin(u32),
    /// Ends a loop whose iteration took nothing.
    IfEmpty {
        register: u32,
        end: u32,
    },
    Match,
}

#[derive(Debug)]
pub(super) struct Program {
    pub(super) steps: Vec<Step>,
    pub(super) texts: Vec<Box<[u8]>>,
    pub(super) sets: Vec<CharSet>,
    pub(super) runs: Vec<Run>,
    pub(super) switches: Vec<Switch>,
    /// What can come at both sides of each choice.
    pub(super) splits: Vec<Both>,
    pub(super) foresight: Foresight,
    /// Groups, counting the whole match.
    pub(super) groups: usize,
    pub(super) registers: usize,
    pub(super) joins: usize,
    /// The groups that conditionals ask about.
    pub(super) conditions: Vec<usize>,
    /// What follows a place depends on nothing but the place and the conditions: no back-references.
    pub(super) is_memorable: bool,
    /// A search takes note of what it looks at.
    pub(super) is_watched: bool,
    /// It can only match at the text's begin.
    pub(super) is_anchored: bool,
    /// If it ends like this, can only match at the text's begin, and makes no difference between one digit and another.
    pub(super) tail: Option<Tail>,
    /// The first step that has to be run: before it are only the begins of these groups, and that the text begins here,
    /// which is asked before the program is run.
    pub(super) begin: usize,
    pub(super) begin_marks: Vec<u32>,
    /// The ASCII characters that a match can begin with; anything beyond ASCII always can. `None`: nothing is known.
    pub(super) first: Option<Box<Table>>,
    /// Made when a search needs it. `None`: the program is too large.
    hindsight: OnceLock<Option<Box<Mutex<Hindsight>>>>,
    /// Made for the first search.
    forks: OnceLock<Forks>,
}

impl Program {
    pub(super) fn hindsight(&self) -> Option<MutexGuard<'_, Hindsight>> {
        let make = || Hindsight::new(self).map(|hindsight| Box::new(Mutex::new(hindsight)));
        let hindsight = self.hindsight.get_or_init(make).as_ref()?;
        Some(hindsight.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn forks(&self) -> &Forks {
        self.forks.get_or_init(|| Forks::new(self))
    }

    /// # Errors
    /// A look-behind without a fixed width, or an expression that is too large.
    pub(super) fn new(node: &Node, groups: usize) -> Result<Self> {
        let first = first(node);
        let mut compiler = Compiler {
            steps: Vec::new(),
            texts: Vec::new(),
            sets: Vec::new(),
            runs: Vec::new(),
            switches: Vec::new(),
            splits: Vec::new(),
            foresight: Foresight::default(),
            registers: 0,
            joins: 0,
            depth: 0,
            conditions: Vec::new(),
            is_memorable: true,
        };
        compiler.emit(Step::Mark(0))?;
        compiler.node(node)?;
        compiler.emit(Step::Mark(1))?;
        compiler.emit(Step::Match)?;
        if !compiler.is_memorable || !compiler.conditions.is_empty() {
            compiler.forget_joins();
        }
        compiler.foresee();
        let is_anchored = is_anchored(node);
        let (begin, begin_marks) = compiler.begin(is_anchored);
        let has_heads = is_anchored && compiler.is_memorable && compiler.takes_digits_alike();
        let tail = if has_heads { compiler.tail().filter(|tail| tail.step >= begin) } else { None };
        Ok(Self {
            steps: compiler.steps,
            texts: compiler.texts,
            sets: compiler.sets,
            runs: compiler.runs,
            switches: compiler.switches,
            splits: compiler.splits,
            foresight: compiler.foresight,
            groups: groups + 1,
            registers: compiler.registers,
            joins: compiler.joins,
            is_memorable: compiler.is_memorable && compiler.conditions.len() <= MAX_CONDITIONS,
            conditions: compiler.conditions,
            is_watched: false,
            is_anchored,
            tail,
            begin,
            begin_marks,
            first: (!first.may_be_empty).then(|| Box::new(chars::table(first.ascii))),
            hindsight: OnceLock::new(),
            forks: OnceLock::new(),
        })
    }
}

struct Compiler {
    steps: Vec<Step>,
    texts: Vec<Box<[u8]>>,
    sets: Vec<CharSet>,
    runs: Vec<Run>,
    switches: Vec<Switch>,
    splits: Vec<Both>,
    foresight: Foresight,
    registers: usize,
    joins: usize,
    /// In how many repetitions, look-arounds and atomic groups it is.
    depth: u32,
    conditions: Vec<usize>,
    is_memorable: bool,
}

impl Compiler {
    fn emit(&mut self, step: Step) -> Result<usize> {
        if self.steps.len() >= MAX_STEPS {
            bail!("it is too large; use fewer or smaller repetition counts");
        }
        self.steps.push(step);
        Ok(self.steps.len() - 1)
    }

    /// The number of the next step. There are no more than `MAX_STEPS`.
    fn here(&self) -> u32 {
        self.steps.len() as u32
    }

    /// The number of a text.
    fn number(&mut self, text: String) -> u32 {
        self.texts.push(text.into_bytes().into());
        self.texts.len() as u32 - 1
    }

    fn set(&mut self, class: &Class) -> u32 {
        let known = self.sets.iter().position(|set| set.class == *class);
        known.unwrap_or_else(|| {
            self.sets.push(CharSet::new(class));
            self.sets.len() - 1
        }) as u32
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        match node {
            Node::Empty => {}
            Node::Class(class) => match single(class) {
                Some(c) => self.text(c.to_string())?,
                None => {
                    let set = self.set(class);
                    self.emit(Step::One(set))?;
                }
            },
            Node::Concat(nodes) => self.concat(nodes)?,
            Node::Alternation(branches) => self.alternation(branches)?,
            Node::Repeat { node, min, max, kind } => self.repeat(node, *min, *max, *kind)?,
            Node::Group { index, node } => {
                let begin = 2 * *index as u32;
                // Its end tells whether it took part. In a repetition, it may have done so before.
                self.emit(if self.depth == 0 { Step::Mark(begin) } else { Step::Save(begin) })?;
                self.node(node)?;
                self.emit(Step::Save(begin + 1))?;
            }
            Node::Atomic(node) => self.atomic(|compiler| compiler.node(node))?,
            Node::Look { behind, negative, node } => {
                let width = if *behind { Some(width(node)? as u32) } else { None };
                let look = self.emit(Step::Match)?;
                self.deeper(|compiler| compiler.node(node))?;
                self.emit(Step::Match)?;
                self.steps[look] = Step::Look { behind: width, negative: *negative, end: self.here() };
            }
            Node::BackReference { index, ignore_case } => {
                self.is_memorable = false;
                self.emit(Step::BackReference { group: *index as u32, ignore_case: *ignore_case })?;
            }
            Node::Conditional { index, yes, no } => {
                if !self.conditions.contains(index) {
                    self.conditions.push(*index);
                }
                let condition = self.emit(Step::Match)?;
                self.node(yes)?;
                let jump = self.emit(Step::Match)?;
                self.steps[condition] = Step::IfGroup { group: *index as u32, otherwise: self.here() };
                self.node(no)?;
                self.steps[jump] = Step::Jump(self.here());
            }
            Node::Assertion(assertion) => {
                self.emit(Step::Assert(*assertion))?;
            }
            Node::Way(last) => {
                self.emit(Step::Way { last: *last, needs: None })?;
            }
        }
        Ok(())
    }

    fn text(&mut self, text: String) -> Result<()> {
        let step = match *text.as_bytes() {
            [byte] => Step::Byte(byte),
            _ => Step::Text(self.number(text)),
        };
        self.emit(step).map(drop)
    }

    /// Characters that stand side by side become one text.
    fn concat(&mut self, nodes: &[Node]) -> Result<()> {
        let character = |node: &Node| if let Node::Class(class) = node { single(class) } else { None };
        let mut rest = nodes;
        while let [node, after @ ..] = rest {
            let text: String = rest.iter().map_while(character).collect();
            if text.is_empty() {
                self.node(node)?;
                rest = after;
            } else {
                rest = &rest[text.chars().count()..];
                self.text(text)?;
            }
        }
        Ok(())
    }

    fn alternation(&mut self, branches: &[Node]) -> Result<()> {
        let mut jumps = Vec::new();
        let switch = (MANY_BRANCHES.contains(&branches.len()))
            .then(|| self.emit(Step::Switch(self.switches.len() as u32)))
            .transpose()?;
        if switch.is_some() {
            self.switches.push(Switch { branches: Vec::new(), bytes: Box::new([0; 256]), end: 0 });
        }
        for (at, branch) in branches.iter().enumerate() {
            if at + 1 == branches.len() {
                self.branch(branch, branches)?;
                break;
            }
            let split = self.emit(Step::Match)?;
            self.branch(branch, branches)?;
            jumps.push(self.emit(Step::Match)?);
            self.steps[split] = split_into(split as u32 + 1, self.here());
        }
        let mut end = Step::Jump(self.here());
        // Only texts of different kinds can be the same text.
        if self.depth == 0 && branches.iter().filter(|branch| has_repetition(branch)).count() > 1 {
            end = Step::Join { number: self.joins as u32, to: self.here() + 1 };
            self.emit(end)?;
            self.joins += 1;
        }
        for jump in jumps {
            self.steps[jump] = end;
        }
        Ok(())
    }

    fn branch(&mut self, branch: &Node, branches: &[Node]) -> Result<()> {
        let way = self.steps.len();
        self.node(branch)?;
        if let Some(Step::Way { last, .. }) = self.steps.get(way).copied() {
            let others: Vec<_> = branches.iter().filter(|other| *other != branch).map(plain_texts).collect();
            let has = |texts: &Vec<String>, text: &String| texts.iter().any(|other| other.contains(text));
            let own = plain_texts(branch).into_iter();
            let own = own.filter(|text| !others.iter().all(|other| has(other, text)));
            let needs = own.max_by_key(String::len).map(|text| self.number(text));
            self.steps[way] = Step::Way { last, needs };
        }
        Ok(())
    }

    /// What happens inside of a repetition, a look-around or an atomic group.
    fn deeper(&mut self, inside: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.depth += 1;
        inside(self)?;
        self.depth -= 1;
        Ok(())
    }

    /// For where failing depends on more than the place.
    fn forget_joins(&mut self) {
        for at in 0..self.steps.len() {
            if let Step::Join { to, .. } = self.steps[at] {
                self.steps[at] = Step::Jump(to);
            }
        }
        self.joins = 0;
    }

    fn atomic(&mut self, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let atomic = self.emit(Step::Match)?;
        self.deeper(body)?;
        self.emit(Step::Match)?;
        self.steps[atomic] = Step::Atomic { end: self.here() };
        Ok(())
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, kind: Repetition) -> Result<()> {
        if let Some((class, unless)) = run_of(node)
            && (unless.is_none() || max.is_none())
        {
            let set = self.set(class);
            let (max, next) = (max.unwrap_or(u32::MAX), Next::ANYTHING);
            let (next_byte, next_text, after_next, keeps_ascii, stride) = (None, None, next, false, 1);
            let is_plain = kind == Repetition::Greedy && unless.is_none();
            self.runs.push(Run {
                set,
                members: Arc::clone(self.sets[set as usize].members()),
                min,
                max,
                kind,
                is_plain,
                is_short: is_plain && !self.sets[set as usize].is_found_fast(),
                unless,
                next,
                next_byte,
                next_text,
                stride,
                after_next,
                keeps_ascii,
            });
            return self.emit(Step::Run(self.runs.len() as u32 - 1)).map(drop);
        }
        if kind == Repetition::Possessive {
            return self.atomic(|compiler| compiler.repeat(node, min, max, Repetition::Greedy));
        }
        let nullable = may_be_empty(node);
        let Some(max) = max else {
            return self.deeper(|compiler| compiler.repeat_for_ever(node, min, kind, nullable));
        };
        if max == 1 {
            return self.maybe(node, min, kind);
        }
        self.deeper(|compiler| compiler.repeat_often(node, min, max, kind))
    }

    fn maybe(&mut self, node: &Node, min: u32, kind: Repetition) -> Result<()> {
        if min == 1 {
            return self.node(node);
        }
        let split = self.emit(Step::Match)?;
        self.node(node)?;
        self.steps[split] = choice(kind, split as u32 + 1, self.here());
        Ok(())
    }

    fn repeat_often(&mut self, node: &Node, min: u32, max: u32, kind: Repetition) -> Result<()> {
        for _ in 0..min {
            self.node(node)?;
        }
        let mut splits = Vec::new();
        for _ in min..max {
            splits.push(self.emit(Step::Match)?);
            self.node(node)?;
        }
        let end = self.here();
        for split in splits {
            self.steps[split] = choice(kind, split as u32 + 1, end);
        }
        Ok(())
    }

    fn repeat_for_ever(&mut self, node: &Node, min: u32, kind: Repetition, nullable: bool) -> Result<()> {
        for _ in 1..min {
            self.node(node)?;
        }
        let split = if min == 0 { Some(self.emit(Step::Match)?) } else { None };
        let body = self.here();
        let check = if nullable {
            let register = self.registers as u32;
            self.registers += 1;
            self.emit(Step::Begin(register))?;
            self.node(node)?;
            Some((self.emit(Step::Match)?, register))
        } else {
            self.node(node)?;
            None
        };
        match split {
            Some(split) => {
                self.emit(Step::Jump(split as u32))?;
                self.steps[split] = choice(kind, body, self.here());
            }
            None => {
                let end = self.here() + 1;
                self.emit(choice(kind, body, end))?;
            }
        }
        if let Some((check, register)) = check {
            self.steps[check] = Step::IfEmpty { register, end: self.here() };
        }
        Ok(())
    }

    /// Tells each run and each split what can come next, so that the machine need not try what cannot.
    fn foresee(&mut self) {
        for at in 0..self.steps.len() {
            match self.steps[at] {
                Step::Run(run) => {
                    let behind = self.begins(at + 1);
                    let (byte, text) = self.next_text(at + 1).unzip();
                    let then = match self.steps[at + 1] {
                        Step::One(_) => self.begins(at + 2),
                        _ => Begins::ANYTHING,
                    };
                    let [next, after_next] = self.foresight.ask([behind, then]);
                    let run = &mut self.runs[run as usize];
                    (run.next, run.next_byte, run.after_next) = (next, byte, after_next);
                    run.next_text = text.flatten();
                    run.stride = if matches!(self.steps[at + 1], Step::Byte(_)) { 2 } else { 1 };
                    run.keeps_ascii = behind.ascii & self.sets[run.set as usize].ascii() == 0;
                }
                Step::Switch(number) => self.switches[number as usize] = self.switch(at + 1),
                Step::Split { first, second, .. } => {
                    let both = [first, second].map(|way| self.begins(way as usize));
                    let number = self.splits.len() as u32;
                    self.splits.push(self.foresight.ask(both).into());
                    self.steps[at] = Step::Split { first, second, number };
                }
                _ => {}
            }
        }
    }

    /// The switch before the splits that begin at `at`.
    fn switch(&self, mut at: usize) -> Switch {
        let mut branches = Vec::new();
        let mut begins = Vec::new();
        while let Step::Split { first, second, .. } = self.steps[at]
            && branches.len() + 1 < *MANY_BRANCHES.end()
            && first as usize == at + 1
        {
            branches.push(Some(at));
            begins.push(self.begins(first as usize));
            at = second as usize;
        }
        branches.push(Some(at));
        begins.push(self.begins(at));
        branches.push(None);
        let branch =
            |can_be: &dyn Fn(&Begins) -> bool| begins.iter().position(can_be).unwrap_or(begins.len()) as u8;
        let bytes = std::array::from_fn(|byte| branch(&|begins| begins.allows(byte as u8)));
        Switch { branches, bytes: Box::new(bytes), end: branch(&|begins| begins.end) }
    }

    /// The first step that asks for something, and the slots that those before it mark. Where a match begins is all that
    /// an anchored program can ask before.
    fn begin(&self, is_anchored: bool) -> (usize, Vec<u32>) {
        let mut marks = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Mark(slot) => marks.push(*slot),
                Step::Assert(Assertion::Start) if is_anchored => {}
                _ => return (at, marks),
            }
        }
        (0, Vec::new())
    }

    fn tail(&self) -> Option<Tail> {
        let [
            ..,
            Step::Mark(begin),
            Step::Run(run),
            Step::Save(end),
            Step::Assert(Assertion::End),
            Step::Mark(1),
            Step::Match,
        ] = self.steps[..]
        else {
            return None;
        };
        let run = &self.runs[run as usize];
        let takes_all = run.is_plain && run.min <= 1 && run.max == u32::MAX && end == begin + 1;
        let is_tail = takes_all && self.sets[run.set as usize].all_but() == Some(b'\n');
        is_tail.then(|| Tail { step: self.steps.len() - TAIL, slot: begin as usize })
    }

    /// Whether it makes no difference between one ASCII digit and another.
    fn takes_digits_alike(&self) -> bool {
        const DIGITS: u128 = 0x3ff << b'0';
        let has_none = |text: &[u8]| !text.iter().any(u8::is_ascii_digit);
        self.sets.iter().all(|set| [0, DIGITS].contains(&(set.ascii() & DIGITS)))
            && self.texts.iter().all(|text| has_none(text))
            && self.runs.iter().all(|run| run.unless.as_deref().is_none_or(has_none))
            && self.steps.iter().all(|step| !matches!(step, Step::Byte(byte) if byte.is_ascii_digit()))
    }

    fn begins(&self, at: usize) -> Begins {
        let mut foresight = FORESIGHT;
        self.begins_within(at, &mut foresight)
    }

    /// What can come next when the program goes on at `at`, found by a look at `foresight` steps.
    fn begins_within(&self, at: usize, foresight: &mut u32) -> Begins {
        let Some(left) = foresight.checked_sub(1) else { return Begins::ANYTHING };
        *foresight = left;
        let characters = |ascii| Begins { ascii, end: false };
        let mut ahead = |at: usize| self.begins_within(at, foresight);
        match self.steps[at] {
            Step::Byte(byte) => characters(1 << byte),
            Step::Text(text) => {
                let first = self.texts[text as usize].first().filter(|byte| byte.is_ascii());
                characters(first.map_or(0, |byte| 1 << byte))
            }
            Step::One(set) => characters(self.sets[set as usize].ascii()),
            Step::Run(run) => {
                let Run { set, min, .. } = &self.runs[run as usize];
                let own = characters(self.sets[*set as usize].ascii());
                if *min == 0 { own.or(ahead(at + 1)) } else { own }
            }
            Step::Split { first, second, .. } => ahead(first as usize).or(ahead(second as usize)),
            Step::IfGroup { otherwise, .. } => ahead(at + 1).or(ahead(otherwise as usize)),
            Step::IfEmpty { end, .. } => ahead(at + 1).or(ahead(end as usize)),
            Step::Jump(to) | Step::Join { to, .. } => ahead(to as usize),
            Step::Assert(Assertion::End | Assertion::LineEnd) => Begins { ascii: 1 << b'\n', end: true },
            Step::Assert(Assertion::AbsoluteEnd) => Begins { ascii: 0, end: true },
            Step::Save(_)
            | Step::Mark(_)
            | Step::Switch(_)
            | Step::Begin(_)
            | Step::Way { .. }
            | Step::Assert(_)
            | Step::Atomic { .. } => ahead(at + 1),
            Step::Look { end, .. } => ahead(end as usize),
            Step::BackReference { .. } | Step::Match => Begins::ANYTHING,
        }
    }

    /// The byte that has to come next when the program goes on at `at`, and the number of the text that it begins, if
    /// it is more.
    fn next_text(&self, mut at: usize) -> Option<(u8, Option<u32>)> {
        // Each jump leads ahead or into a loop; few are enough to see what comes.
        for _ in 0..8 {
            match *self.steps.get(at)? {
                Step::Byte(byte) => return Some((byte, None)),
                Step::Text(text) => return Some((*self.texts[text as usize].first()?, Some(text))),
                Step::Save(_) | Step::Mark(_) | Step::Begin(_) | Step::Way { .. } => at += 1,
                Step::Jump(to) | Step::Join { to, .. } => at = to as usize,
                _ => return None,
            }
        }
        None
    }
}

/// A choice whether to take what is at `body` (once more), or to go on at `end`.
fn choice(kind: Repetition, body: u32, end: u32) -> Step {
    match kind {
        Repetition::Lazy => split_into(end, body),
        Repetition::Greedy | Repetition::Possessive => split_into(body, end),
    }
}

/// The class that a repetition of `node` is a run of, and the text before which it stops.
fn run_of(node: &Node) -> Option<(&Class, Option<Box<[u8]>>)> {
    match node {
        Node::Class(class) => Some((class, None)),
        Node::Concat(nodes) => match &nodes[..] {
            [Node::Look { behind: false, negative: true, node }, Node::Class(class)] => {
                let Node::Concat(text) = &**node else { return None };
                let character =
                    |node: &Node| if let Node::Class(class) = node { single(class) } else { None };
                let text = text.iter().map(character).collect::<Option<String>>()?;
                Some((class, Some(text.into_bytes().into())))
            }
            _ => None,
        },
        _ => None,
    }
}

fn split_into(first: u32, second: u32) -> Step {
    // They are numbered when all steps are there.
    Step::Split { first, second, number: 0 }
}
