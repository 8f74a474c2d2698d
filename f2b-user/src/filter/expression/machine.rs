//! Runs a [`Program`]: tries its choices in Python's order and steps back where one fails, as Python's own engine does,
//! so that the verdict and the groups are the same.
//!
//! Stepping back can take time that grows with a power of the line's length. A search that takes more than a few
//! thousand steps starts again and remembers which places of the program have failed at which places of the text, so
//! that none is tried twice: its time is then bounded by the product of both. Back-references defeat that, and for
//! them, as for the largest programs, there is a budget.

use std::cell::RefCell;

use super::{
    chars::{CharSet, is_word},
    program::{Program, Step},
    syntax::{Assertion, Repetition},
};

/// Steps after which a search starts to remember.
const STEPS_BEFORE_MEMORY: u32 = 4096;
/// Steps that a search may take: a fraction of a millisecond.
const BUDGET: u32 = 200_000;
/// The most that a search may have to remember, in bits.
const MEMORY_BITS: usize = 1 << 26;

/// How many characters of a run count as a step.
const RUN_PER_STEP: usize = 8;

/// No place.
const NOWHERE: usize = usize::MAX;

/// A search that needs more steps than allowed: the line is hostile, or the expression is bad. It has no verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) struct OverBudget;

/// Where a group matched, in bytes.
pub(super) type Span = Option<(usize, usize)>;

/// What there is to try when the program fails, or to undo on the way back.
#[derive(Debug)]
enum Frame {
    Resume {
        step: usize,
        at: usize,
    },
    /// A run that may give back characters down to `floor`.
    Shrink {
        step: usize,
        floor: usize,
        at: usize,
    },
    /// A run that may take `left` more characters.
    Grow {
        step: usize,
        at: usize,
        left: u32,
    },
    Slot {
        slot: usize,
        old: usize,
    },
    Register {
        register: usize,
        old: usize,
    },
}

/// What searches use again and again.
#[derive(Debug, Default)]
struct Scratch {
    slots: Vec<usize>,
    registers: Vec<usize>,
    frames: Vec<Frame>,
    failed: Vec<u64>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The first match that begins at `from` or later: the spans of its groups, the whole one first.
pub(super) fn search(program: &Program, text: &str, from: usize) -> Result<Option<Vec<Span>>, OverBudget> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut machine = Machine { program, text: text.as_bytes(), scratch, steps: 0, memory: Memory::None };
        let found = match machine.search(from) {
            Err(OverBudget) if program.is_memorable && machine.remember() => machine.search(from)?,
            found => found?,
        };
        Ok(found.then(|| machine.spans()))
    })
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Memory {
    None,
    /// Inside of a look-around or an atomic group: a place there that has succeeded must not count as failed.
    Paused,
    On,
}

struct Machine<'a> {
    program: &'a Program,
    /// UTF-8.
    text: &'a [u8],
    scratch: &'a mut Scratch,
    steps: u32,
    memory: Memory,
}

impl Machine<'_> {
    /// Sets up the memory, if it would not be too large.
    fn remember(&mut self) -> bool {
        let places = self.program.steps.len() << self.program.conditions.len();
        let bits = places.saturating_mul(self.text.len() + 1);
        if bits > MEMORY_BITS {
            return false;
        }
        self.scratch.failed.clear();
        self.scratch.failed.resize(bits.div_ceil(64), 0);
        self.memory = Memory::On;
        self.steps = 0;
        true
    }

    fn search(&mut self, from: usize) -> Result<bool, OverBudget> {
        let limit = if self.program.is_memorable && self.memory == Memory::None {
            STEPS_BEFORE_MEMORY
        } else {
            BUDGET
        };
        self.scratch.registers.clear();
        self.scratch.registers.resize(self.program.registers, NOWHERE);
        let mut at = from;
        loop {
            if self.program.is_anchored && at > 0 {
                return Ok(false);
            }
            if let Some(first) = self.program.first {
                let begins = |byte: &u8| !byte.is_ascii() || first >> byte & 1 != 0;
                match self.text[at..].iter().position(begins) {
                    Some(skipped) if skipped == 0 || !self.program.is_anchored => at += skipped,
                    _ => return Ok(false),
                }
            }
            self.scratch.slots.clear();
            self.scratch.slots.resize(2 * self.program.groups, NOWHERE);
            self.scratch.frames.clear();
            if self.run(0, at, limit)?.is_some() {
                return Ok(true);
            }
            let Some(next) = self.after(at) else { return Ok(false) };
            at = next;
        }
    }

    fn spans(&self) -> Vec<Span> {
        let span =
            |slots: &[usize]| (slots[0] != NOWHERE && slots[1] != NOWHERE).then(|| (slots[0], slots[1]));
        self.scratch.slots.chunks_exact(2).map(span).collect()
    }

    /// Goes on at `step` with the text at `at`; where it ends if it matches. What it leaves to try stays on the stack
    /// above what was there.
    fn run(&mut self, mut step: usize, mut at: usize, limit: u32) -> Result<Option<usize>, OverBudget> {
        let base = self.scratch.frames.len();
        loop {
            let next = match &self.program.steps[step] {
                Step::Text(text) => self.text[at..].starts_with(text).then(|| (step + 1, at + text.len())),
                Step::One(set) => self.one(&self.program.sets[*set], at).map(|after| (step + 1, after)),
                Step::Run { .. } => self.begin_run(step, at),
                Step::Split { first, second } => {
                    if self.has_failed(step, at) {
                        None
                    } else {
                        self.scratch.frames.push(Frame::Resume { step: *second, at });
                        Some((*first, at))
                    }
                }
                Step::Jump(to) => Some((*to, at)),
                Step::Save(slot) => {
                    let old = std::mem::replace(&mut self.scratch.slots[*slot], at);
                    self.scratch.frames.push(Frame::Slot { slot: *slot, old });
                    Some((step + 1, at))
                }
                Step::Assert(assertion) => self.holds(*assertion, at).then_some((step + 1, at)),
                Step::Look { behind, negative, end } => {
                    let start = behind.map_or(Some(at), |width| self.back(at, width));
                    let found = match start {
                        Some(start) => self.inner(step + 1, start, limit, *negative)?,
                        None => None,
                    };
                    (found.is_some() != *negative).then_some((*end, at))
                }
                Step::Atomic { end } => self.inner(step + 1, at, limit, false)?.map(|after| (*end, after)),
                Step::BackReference { group, ignore_case } => {
                    self.back_reference(*group, *ignore_case, at).map(|after| (step + 1, after))
                }
                Step::IfGroup { group, otherwise } => {
                    Some((if self.is_set(*group) { step + 1 } else { *otherwise }, at))
                }
                Step::Begin(register) => {
                    let old = std::mem::replace(&mut self.scratch.registers[*register], at);
                    self.scratch.frames.push(Frame::Register { register: *register, old });
                    Some((step + 1, at))
                }
                Step::IfEmpty { register, end } => {
                    let is_empty = self.scratch.registers[*register] == at;
                    Some((if is_empty { *end } else { step + 1 }, at))
                }
                Step::Match => return Ok(Some(at)),
            };
            (step, at) = match next {
                Some(next) => next,
                None => {
                    self.steps += 1;
                    if self.steps > limit {
                        return Err(OverBudget);
                    }
                    match self.step_back(base) {
                        Some(next) => next,
                        None => return Ok(None),
                    }
                }
            };
        }
    }

    /// The next thing to try, with everything undone that came after it.
    fn step_back(&mut self, base: usize) -> Option<(usize, usize)> {
        while self.scratch.frames.len() > base {
            match self.scratch.frames.pop()? {
                Frame::Resume { step, at } => return Some((step, at)),
                Frame::Slot { slot, old } => self.scratch.slots[slot] = old,
                Frame::Register { register, old } => self.scratch.registers[register] = old,
                Frame::Shrink { step, floor, at } => {
                    if let Some(at) = self.shrink(step, floor, at) {
                        return Some((step + 1, at));
                    }
                }
                Frame::Grow { step, at, left } => {
                    if let Some(at) = self.grow(step, at, left) {
                        return Some((step + 1, at));
                    }
                }
            }
        }
        None
    }

    /// Runs what stands inside of a look-around or an atomic group. What it leaves to try is dropped; what it saved
    /// stays, unless it only had to tell that it does not match.
    fn inner(
        &mut self,
        step: usize,
        at: usize,
        limit: u32,
        only_ask: bool,
    ) -> Result<Option<usize>, OverBudget> {
        let base = self.scratch.frames.len();
        let memory = self.memory;
        if memory == Memory::On {
            self.memory = Memory::Paused;
        }
        let found = self.run(step, at, limit);
        self.memory = memory;
        let found = found?;
        if only_ask {
            for frame in self.scratch.frames.drain(base..).rev() {
                match frame {
                    Frame::Slot { slot, old } => self.scratch.slots[slot] = old,
                    Frame::Register { register, old } => self.scratch.registers[register] = old,
                    Frame::Resume { .. } | Frame::Shrink { .. } | Frame::Grow { .. } => {}
                }
            }
        } else {
            let mut kept = base;
            for index in base..self.scratch.frames.len() {
                if matches!(self.scratch.frames[index], Frame::Slot { .. } | Frame::Register { .. }) {
                    self.scratch.frames.swap(kept, index);
                    kept += 1;
                }
            }
            self.scratch.frames.truncate(kept);
        }
        Ok(found)
    }

    /// Takes what a run takes first, and leaves the rest to try.
    fn begin_run(&mut self, step: usize, at: usize) -> Option<(usize, usize)> {
        let Step::Run { set, min, max, kind, .. } = self.program.steps[step] else {
            return None;
        };
        let set = &self.program.sets[set];
        let mut floor = at;
        for _ in 0..min {
            floor = self.one(set, floor)?;
        }
        if kind != Repetition::Possessive && self.has_failed(step, floor) {
            return None;
        }
        if kind == Repetition::Lazy {
            let left = max - min;
            // The first stop is where the run is already.
            if self.can_follow(step, floor) {
                self.scratch.frames.push(Frame::Grow { step, at: floor, left });
                return Some((step + 1, floor));
            }
            return self.grow(step, floor, left).map(|at| (step + 1, at));
        }
        let mut end = floor;
        if max == u32::MAX {
            // Where a run without end has begun before and failed, all stops behind have failed as well.
            let stops = self.memory == Memory::On && kind == Repetition::Greedy;
            while let Some(after) = self.one(set, end) {
                if stops && self.has_failed(step, after) {
                    break;
                }
                end = after;
            }
        } else {
            for _ in min..max {
                match self.one(set, end) {
                    Some(after) => end = after,
                    None => break,
                }
            }
        }
        self.steps += charge(floor, end);
        if kind == Repetition::Possessive {
            return Some((step + 1, end));
        }
        if self.can_follow(step, end) {
            if end > floor {
                self.scratch.frames.push(Frame::Shrink { step, floor, at: end });
            }
            return Some((step + 1, end));
        }
        self.shrink(step, floor, end).map(|at| (step + 1, at))
    }

    /// The next shorter end of a greedy run behind which the program may go on.
    fn shrink(&mut self, step: usize, floor: usize, begin: usize) -> Option<usize> {
        let mut at = begin;
        while at > floor {
            at -= 1;
            while !self.is_boundary(at) {
                at -= 1;
            }
            if self.can_follow(step, at) {
                if at > floor {
                    self.scratch.frames.push(Frame::Shrink { step, floor, at });
                }
                self.steps += charge(at, begin);
                return Some(at);
            }
        }
        self.steps += charge(at, begin);
        None
    }

    /// The next longer end of a lazy run behind which the program may go on.
    fn grow(&mut self, step: usize, begin: usize, mut left: u32) -> Option<usize> {
        let Step::Run { set, max, .. } = self.program.steps[step] else { return None };
        let set = &self.program.sets[set];
        let mut at = begin;
        while left > 0
            && let Some(after) = self.one(set, at)
        {
            at = after;
            if max == u32::MAX {
                if self.has_failed(step, at) {
                    break;
                }
            } else {
                left -= 1;
            }
            if self.can_follow(step, at) {
                self.scratch.frames.push(Frame::Grow { step, at, left });
                self.steps += charge(begin, at);
                return Some(at);
            }
        }
        self.steps += charge(begin, at);
        None
    }

    /// Whether the byte that must follow a run is there.
    #[inline]
    fn can_follow(&self, step: usize, at: usize) -> bool {
        match self.program.steps[step] {
            Step::Run { next: Some(next), .. } => self.text.get(at) == Some(&next),
            _ => true,
        }
    }

    /// Whether the program has failed from here before; from now on it has, unless it succeeds.
    #[inline]
    fn has_failed(&mut self, step: usize, at: usize) -> bool {
        self.memory == Memory::On && self.has_failed_before(step, at)
    }

    #[cold]
    fn has_failed_before(&mut self, step: usize, at: usize) -> bool {
        let conditions = self.program.conditions.iter();
        let state = conditions.fold(0, |state, group| 2 * state + usize::from(self.is_set(*group)));
        let place = (state * self.program.steps.len() + step) * (self.text.len() + 1) + at;
        let (word, bit) = (place / 64, 1 << (place % 64));
        let known = self.scratch.failed[word] & bit != 0;
        self.scratch.failed[word] |= bit;
        known
    }

    fn is_set(&self, group: usize) -> bool {
        self.scratch.slots[2 * group + 1] != NOWHERE
    }

    /// The place behind the character at `at`, if it is in the set.
    #[inline]
    fn one(&self, set: &CharSet, at: usize) -> Option<usize> {
        let byte = *self.text.get(at)?;
        if byte.is_ascii() {
            return set.has_ascii(byte).then_some(at + 1);
        }
        let c = self.character(at)?;
        set.has(c).then(|| at + c.len_utf8())
    }

    /// The character that begins at `at`.
    fn character(&self, at: usize) -> Option<char> {
        let lead = *self.text.get(at)?;
        let length = match lead {
            0..0x80 => return Some(char::from(lead)),
            0xf0.. => 4,
            0xe0.. => 3,
            _ => 2,
        };
        str::from_utf8(self.text.get(at..at + length)?).ok()?.chars().next()
    }

    fn before(&self, at: usize) -> Option<char> {
        self.character(self.back(at, 1)?)
    }

    /// The place `count` characters before `at`.
    fn back(&self, mut at: usize, count: usize) -> Option<usize> {
        for _ in 0..count {
            at = at.checked_sub(1)?;
            while !self.is_boundary(at) {
                at -= 1;
            }
        }
        Some(at)
    }

    /// The place behind the character at `at`; `None` at the end.
    fn after(&self, at: usize) -> Option<usize> {
        self.character(at).map(|c| at + c.len_utf8())
    }

    /// Whether a character begins at `at`. The text's begin is a boundary, so that going back always ends.
    #[inline]
    fn is_boundary(&self, at: usize) -> bool {
        self.text.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
    }

    fn holds(&self, assertion: Assertion, at: usize) -> bool {
        let last = self.text.len();
        let word = |c: Option<char>| c.is_some_and(is_word);
        match assertion {
            Assertion::Start => at == 0,
            Assertion::LineStart => at == 0 || self.text[at - 1] == b'\n',
            Assertion::End => at == last || at + 1 == last && self.text[at] == b'\n',
            Assertion::LineEnd => at == last || self.text[at] == b'\n',
            Assertion::AbsoluteEnd => at == last,
            Assertion::WordBoundary => word(self.before(at)) != word(self.character(at)),
            // Python finds none in an empty text, not even this.
            Assertion::NotWordBoundary => last > 0 && word(self.before(at)) == word(self.character(at)),
            Assertion::NotInsideWord => !word(self.before(at)) || !word(self.character(at)),
        }
    }

    fn back_reference(&self, group: usize, ignore_case: bool, at: usize) -> Option<usize> {
        let (start, end) = (self.scratch.slots[2 * group], self.scratch.slots[2 * group + 1]);
        if start == NOWHERE || end == NOWHERE {
            return None;
        }
        let referred = &self.text[start..end];
        let rest = &self.text[at..];
        if !ignore_case {
            return rest.starts_with(referred).then(|| at + referred.len());
        }
        let mut place = at;
        for c in str::from_utf8(referred).ok()?.chars() {
            let other = self.character(place)?;
            if c != other && !c.to_lowercase().eq(other.to_lowercase()) {
                return None;
            }
            place += other.len_utf8();
        }
        Some(place)
    }
}

/// What a run from `start` to `end` costs, in steps.
fn charge(start: usize, end: usize) -> u32 {
    u32::try_from((end - start) / RUN_PER_STEP).unwrap_or(u32::MAX)
}
