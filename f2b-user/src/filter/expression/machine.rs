//! Runs a [`Program`]: tries its choices in Python's order and steps back where one fails, as Python's own engine does,
//! so that the verdict and the groups are the same.
//!
//! Stepping back can take time that grows with a power of the line's length. A search that takes more than a few
//! thousand steps starts again and remembers which places of the program have failed at which places of the text, so
//! that none is tried twice: its time is then bounded by the product of both. Back-references defeat that, and for
//! them, as for the largest programs, there is a budget.

use std::cell::RefCell;

use memchr::{memmem, memrchr};
use smallvec::SmallVec;

use super::{
    chars::{CharSet, character, is_word},
    program::{Begins, Program, Step},
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

/// Where the groups matched, by number; [`ABSENT`] for those that took no part. Small, because it is moved about.
pub(super) type Spans = SmallVec<[(u32, u32); 16]>;

pub(super) const ABSENT: (u32, u32) = (u32::MAX, u32::MAX);

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

/// The first match that begins at `from` or later: the spans of its groups, the whole one first. The ways before
/// `first_way` are known not to match.
pub(super) fn search(
    program: &Program,
    text: &str,
    from: usize,
    first_way: u32,
) -> Result<Option<Spans>, OverBudget> {
    let scratch = SCRATCH.take();
    let text = text.as_bytes();
    let mut machine = Machine { program, text, scratch, first_way, steps: 0, memory: Memory::None };
    let mut found = machine.search(from);
    if found.is_err() && program.is_memorable && machine.remember() {
        found = machine.search(from);
    }
    let spans = found.map(|found| found.then(|| machine.spans()));
    SCRATCH.set(machine.scratch);
    spans
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Memory {
    None,
    /// Inside of a look-around or an atomic group: a place there that has succeeded must not count as failed.
    Paused,
    On,
}

/// What a run is made of.
#[derive(Clone, Copy)]
struct Run<'p> {
    set: &'p CharSet,
    /// It stops before this text.
    unless: Option<&'p [u8]>,
}

struct Machine<'a> {
    program: &'a Program,
    /// UTF-8.
    text: &'a [u8],
    scratch: Scratch,
    first_way: u32,
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

    fn spans(&self) -> Spans {
        let place = |slot: usize| u32::try_from(slot).ok();
        let span = |slots: &[usize]| place(slots[0]).zip(place(slots[1])).unwrap_or(ABSENT);
        self.scratch.slots.chunks_exact(2).map(span).collect()
    }

    /// Goes on at `step` with the text at `at`; where it ends if it matches. What it leaves to try stays on the stack
    /// above what was there.
    fn run(&mut self, mut step: usize, mut at: usize, limit: u32) -> Result<Option<usize>, OverBudget> {
        let base = self.scratch.frames.len();
        loop {
            let next = match &self.program.steps[step] {
                Step::Text(text) => self.has_text(text, at).then(|| (step + 1, at + text.len())),
                Step::One(set) => self.one(&self.program.sets[*set], at).map(|after| (step + 1, after)),
                Step::Run { set, min, max, kind, next, unless, .. } => {
                    let run = Run { set: &self.program.sets[*set], unless: unless.as_deref() };
                    self.begin_run(step, at, run, (*min, *max), *kind, *next)
                }

                Step::Split { first, second, begins } => {
                    let [can_first, can_second] = begins.map(|begins| self.can_come(begins, at));
                    match (can_first, can_second) {
                        (true, true) if self.has_failed(step, at) => None,
                        (true, true) => {
                            self.scratch.frames.push(Frame::Resume { step: *second, at });
                            Some((*first, at))
                        }
                        (true, false) => Some((*first, at)),
                        (false, true) => Some((*second, at)),
                        (false, false) => None,
                    }
                }
                Step::Jump(to) => Some((*to, at)),
                Step::Way(last) => (*last >= self.first_way).then_some((step + 1, at)),
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
    #[inline]
    fn begin_run(
        &mut self,
        step: usize,
        at: usize,
        run: Run<'_>,
        (min, max): (u32, u32),
        kind: Repetition,
        next: Begins,
    ) -> Option<(usize, usize)> {
        let mut floor = at;
        for _ in 0..min {
            floor = self.one_of(run, floor)?;
        }
        if kind != Repetition::Possessive && self.has_failed(step, floor) {
            return None;
        }
        if kind == Repetition::Lazy {
            let left = max - min;
            // The first stop is where the run is already.
            if self.can_come(next, floor) {
                self.scratch.frames.push(Frame::Grow { step, at: floor, left });
                return Some((step + 1, floor));
            }
            return self.grow(step, floor, left).map(|at| (step + 1, at));
        }
        let mut end = floor;
        if max == u32::MAX && (self.memory != Memory::On || kind == Repetition::Possessive) {
            end = self.longest(run, floor);
        } else if max == u32::MAX {
            // Where a run without end has begun before and failed, all stops behind have failed as well.
            while let Some(after) = self.one_of(run, end)
                && !self.has_failed(step, after)
            {
                end = after;
            }
        } else {
            for _ in min..max {
                match self.one_of(run, end) {
                    Some(after) => end = after,
                    None => break,
                }
            }
        }
        self.steps += charge(floor, end);
        if kind == Repetition::Possessive {
            return Some((step + 1, end));
        }
        if self.can_come(next, end) {
            if end > floor {
                self.scratch.frames.push(Frame::Shrink { step, floor, at: end });
            }
            return Some((step + 1, end));
        }
        self.shrink(step, floor, end).map(|at| (step + 1, at))
    }

    /// The next shorter end of a greedy run behind which the program may go on.
    fn shrink(&mut self, step: usize, floor: usize, begin: usize) -> Option<usize> {
        let Step::Run { next, next_byte, after_next, .. } = self.program.steps[step] else { return None };
        let can_go_on = |at: usize| {
            let character = self.text.get(at).is_none_or(u8::is_ascii);
            self.is_boundary(at)
                && self.can_come(next, at)
                && (!character || self.can_come(after_next, at + 1))
        };
        let at = match next_byte {
            // A character begins wherever the byte does that has to follow: it is the first of one.
            Some(next) => memrchr(next, self.text.get(floor..begin)?).map(|found| floor + found),
            None => (floor..begin).rev().find(|at| can_go_on(*at)),
        };
        self.steps += charge(at.unwrap_or(floor), begin);
        if let Some(at) = at.filter(|at| *at > floor) {
            self.scratch.frames.push(Frame::Shrink { step, floor, at });
        }
        at
    }

    /// The next longer end of a lazy run behind which the program may go on.
    fn grow(&mut self, step: usize, begin: usize, mut left: u32) -> Option<usize> {
        let Step::Run { set, max, next, unless, .. } = &self.program.steps[step] else { return None };
        let (max, next) = (*max, *next);
        let run = Run { set: &self.program.sets[*set], unless: unless.as_deref() };
        let mut at = begin;
        while left > 0
            && let Some(after) = self.one_of(run, at)
        {
            at = after;
            if max == u32::MAX {
                if self.has_failed(step, at) {
                    break;
                }
            } else {
                left -= 1;
            }
            if self.can_come(next, at) {
                self.scratch.frames.push(Frame::Grow { step, at, left });
                self.steps += charge(begin, at);
                return Some(at);
            }
        }
        self.steps += charge(begin, at);
        None
    }

    /// Whether what can come next comes next. Beyond ASCII everything can.
    #[inline]
    fn can_come(&self, next: Begins, at: usize) -> bool {
        match self.text.get(at) {
            Some(byte) if byte.is_ascii() => next.ascii >> byte & 1 != 0,
            Some(_) => true,
            None => next.end,
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

    /// The same for a character of a run.
    #[inline]
    fn one_of(&self, run: Run<'_>, at: usize) -> Option<usize> {
        let stops = run.unless.is_some_and(|text| self.has_text(text, at));
        if stops { None } else { self.one(run.set, at) }
    }

    /// Where the longest run from `at` ends.
    fn longest(&self, run: Run<'_>, at: usize) -> usize {
        let end = run.set.run(self.text, at);
        let Some(text) = run.unless else { return end };
        // The text may begin inside of the run and end behind it.
        let searched = &self.text[at..(end + text.len()).min(self.text.len())];
        memmem::find(searched, text).map_or(end, |found| end.min(at + found))
    }

    /// Most texts are short and differ in the first byte: not worth a call to compare memory.
    #[inline]
    fn has_text(&self, text: &[u8], at: usize) -> bool {
        let there = self.text.get(at..at + text.len());
        there.is_some_and(|there| there.iter().zip(text).all(|(a, b)| a == b))
    }

    fn character(&self, at: usize) -> Option<char> {
        character(self.text, at)
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
