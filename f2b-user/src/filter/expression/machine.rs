//! Runs a [`Program`]: tries its choices in Python's order and steps back where one fails, as Python's own engine does,
//! so that the verdict and the groups are the same.
//!
//! Stepping back can take time that grows with a power of the line's length. A search that takes more than a few
//! thousand steps starts again and remembers which places of the program have failed at which places of the text, so
//! that none is tried twice: its time is then bounded by the product of both. Back-references defeat that, and for
//! them, as for the largest programs, there is a budget.

mod runs;

use std::{
    cell::{Cell, RefCell},
    iter,
    mem::take,
    ops::{Deref, DerefMut},
    sync::MutexGuard,
};

use memchr::memchr_iter;

use self::runs::LastRun;
use super::{
    chars::{character, is_ascii, is_boundary, is_word},
    forks::{Fork, Forks},
    hindsight::{Behind, Hindsight},
    program::{Program, Step},
    syntax::Assertion,
};

/// Steps after which a search starts to remember.
const STEPS_BEFORE_MEMORY: u32 = 4096;
/// Steps after which a search looks at the text from its end.
pub(super) const STEPS_BEFORE_HINDSIGHT: u32 = 24;
/// Steps that a search may take: a fraction of a millisecond.
const BUDGET: u32 = 200_000;
/// The most that a search may have to remember, in bits.
const MEMORY_BITS: usize = 1 << 26;

/// How many characters of a run count as a step.
const RUN_PER_STEP: usize = 8;

/// No place.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A search that needs more steps than allowed: the line is hostile, or the expression is bad. It has no verdict.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) struct OverBudget;

/// Where a group matched, in bytes.
pub(super) type Span = Option<(usize, usize)>;

/// Where the groups matched, by number: begin and end of each; [`NOWHERE`] for those that took no part.
#[derive(Clone, Debug)]
pub(super) struct Spans(Vec<u32>);

impl Spans {
    pub(super) fn of(slots: &[u32]) -> Self {
        let mut spans = SPARE.take();
        spans.clear();
        spans.extend_from_slice(slots);
        Self(spans)
    }
}

impl Deref for Spans {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.0
    }
}

impl DerefMut for Spans {
    fn deref_mut(&mut self) -> &mut [u32] {
        &mut self.0
    }
}

impl Drop for Spans {
    fn drop(&mut self) {
        // The next search takes it. A thread that ends needs none.
        drop(SPARE.try_with(|spare| spare.replace(take(&mut self.0))));
    }
}

/// A match.
#[derive(Clone, Debug)]
pub(super) struct Matched {
    pub(super) spans: Spans,
    /// The text behind this place has nothing to do with it: that another text has a match like this, its first bytes up
    /// to here tell.
    pub(super) reach: usize,
    /// Of the first 64 bytes, those that were looked at on ways that failed, a bit each.
    pub(super) tried: u64,
}

/// What there is to try when the program fails, or to undo on the way back. Small, because there are many.
#[derive(Clone, Copy, Debug)]
enum Frame {
    Resume {
        step: u32,
        at: u32,
    },
    /// A run that may give back characters down to `floor`.
    Shrink {
        step: u32,
        floor: u32,
        at: u32,
    },
    /// A run that may take `left` more characters.
    Grow {
        step: u32,
        at: u32,
        left: u32,
    },
    Slot {
        slot: u32,
        old: u32,
    },
    Register {
        register: u32,
        old: u32,
    },
}

/// What searches use again and again.
#[derive(Debug, Default)]
struct Scratch {
    slots: Vec<u32>,
    registers: Vec<u32>,
    joins: Vec<u32>,
    frames: Vec<Frame>,
    failed: Vec<u64>,
    /// What the hindsight knows of each place, from the text's end on.
    behind: Behind,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Room for the spans of the next match.
    static SPARE: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// The first match that begins at `from` or later: the spans of its groups, the whole one first. The ways before
/// `first_way` are known not to match. After `hindsight` steps, it looks at the text from its end.
pub(super) fn search(
    program: &Program,
    text: &str,
    from: usize,
    first_way: u32,
    hindsight: u32,
) -> Result<Option<Matched>, OverBudget> {
    if u32::try_from(text.len()).is_err() {
        return Err(OverBudget);
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let mut machine = Machine::new(program, text, scratch, hindsight);
        machine.first_way = first_way;
        if hindsight == 0 {
            machine.look_back();
        }
        let limit = if program.is_memorable { STEPS_BEFORE_MEMORY } else { BUDGET };
        let mut found = machine.search(from, limit);
        if found.is_err() && program.is_memorable && machine.remember() {
            found = machine.search(from, BUDGET);
        }
        Ok(found?.then(|| machine.matched()))
    })
}

/// What `program` does up to its [`Tail`](super::program::Tail): the spans, where that begins, and the text that it has
/// looked at by then. `None` if it does not get there at once.
pub(super) fn head(program: &Program, text: &str, tail: usize) -> Option<Matched> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut machine = Machine::new(program, text, scratch, u32::MAX);
        (machine.is_watched, machine.stop_at) = (true, tail);
        machine.search(0, STEPS_BEFORE_HINDSIGHT).ok()?.then(|| machine.matched())
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
    forks: &'a Forks,
    /// UTF-8, and shorter than 4 GiB.
    text: &'a [u8],
    is_ascii: bool,
    /// It is, and the machine neither remembers what failed nor looks at the text from its end.
    is_simple: bool,
    scratch: &'a mut Scratch,
    first_way: u32,
    steps: u32,
    memory: Memory,
    /// No byte from here on was looked at.
    reach: usize,
    tried: u64,
    /// It takes note of what it looks at.
    is_watched: bool,
    /// The step at which it stops instead of going on.
    stop_at: usize,
    last_run: Option<LastRun<'a>>,
    hindsight: Option<MutexGuard<'a, Hindsight>>,
    /// The steps after which it is asked; the largest number if it was, or never is.
    hindsight_at: u32,
}

impl<'a> Machine<'a> {
    /// `text` is shorter than 4 GiB.
    fn new(program: &'a Program, text: &'a str, scratch: &'a mut Scratch, hindsight: u32) -> Self {
        let is_ascii = is_ascii(text.as_bytes());
        Self {
            program,
            forks: program.forks(),
            text: text.as_bytes(),
            is_ascii,
            is_simple: is_ascii,
            scratch,
            first_way: 0,
            steps: 0,
            memory: Memory::None,
            reach: 0,
            tried: 0,
            is_watched: program.is_watched,
            stop_at: usize::MAX,
            last_run: None,
            hindsight: None,
            hindsight_at: hindsight,
        }
    }

    /// What it has found.
    fn matched(self) -> Matched {
        Matched { spans: Spans(take(&mut self.scratch.slots)), reach: self.reach, tried: self.tried }
    }

    /// Takes note that a way from `from` on was tried, and that it failed when it had looked at all up to `to`.
    fn failed(&mut self, from: usize, to: usize) {
        if !self.is_watched {
            return;
        }
        self.looked_at(to);
        if from < 64 {
            self.tried |= u64::MAX << from & u64::MAX >> (63 - to.clamp(from, 63));
        }
    }

    /// Takes note that everything may have been looked at.
    fn looked_everywhere(&mut self) {
        (self.reach, self.tried) = (self.text.len() + 1, u64::MAX);
    }

    /// Takes note that the character at `at` was looked at.
    fn looked_at(&mut self, at: usize) {
        let length = if self.text.get(at).is_none_or(u8::is_ascii) { 1 } else { 4 };
        self.reach = self.reach.max(at + length);
    }

    /// From now on the text is looked at from its end, too.
    #[cold]
    fn look_back(&mut self) {
        self.hindsight_at = u32::MAX;
        self.is_simple = false;
        self.hindsight = self.program.hindsight();
        self.scratch.behind.start(self.text.len());
    }

    /// Whether the program may match from here, as far as is known already.
    #[inline]
    fn is_viable(&self, step: usize, at: usize) -> bool {
        let behind = &self.scratch.behind;
        self.hindsight
            .as_ref()
            .is_none_or(|hindsight| at < behind.from() || hindsight.is_viable(behind, step, at))
    }

    /// Whether the program may match from here.
    #[inline]
    fn can_match(&mut self, step: usize, at: usize) -> bool {
        self.hindsight.is_none() || self.looks_back_to(step, at) && self.is_viable(step, at)
    }

    /// Looks from the text's end back to here. If not, the program cannot match from here, nor from before.
    #[inline]
    fn looks_back_to(&mut self, step: usize, at: usize) -> bool {
        at >= self.scratch.behind.from() || self.look_back_to(step, at)
    }

    fn look_back_to(&mut self, step: usize, at: usize) -> bool {
        let Some(hindsight) = &mut self.hindsight else { return true };
        let behind = &mut self.scratch.behind;
        let known = behind.from();
        if hindsight.look_back(self.text, at, step, behind).is_none() {
            self.hindsight = None;
            return true;
        }
        self.steps += charge(behind.from(), known);
        at >= behind.from()
    }

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
        self.is_simple = false;
        self.looked_everywhere();
        self.steps = 0;
        true
    }

    fn search(&mut self, from: usize, limit: u32) -> Result<bool, OverBudget> {
        let Scratch { slots, registers, joins, frames, .. } = &mut *self.scratch;
        for (numbers, count) in [(&mut *registers, self.program.registers), (joins, self.program.joins)] {
            numbers.clear();
            numbers.extend(iter::repeat_n(NOWHERE, count));
        }
        if slots.capacity() == 0 {
            *slots = SPARE.take();
        }
        slots.clear();
        slots.extend(iter::repeat_n(NOWHERE, 2 * self.program.groups));
        frames.clear();
        let mut at = from;
        loop {
            if self.program.is_anchored && at > 0 {
                return Ok(false);
            }
            if let Some(first) = &self.program.first {
                let begins = |byte: &u8| !byte.is_ascii() || first[usize::from(*byte)];
                match self.text[at..].iter().position(begins) {
                    Some(skipped) if skipped == 0 || !self.program.is_anchored => at += skipped,
                    _ => return Ok(false),
                }
            }
            let begin = self.program.begin;
            if self.can_match(begin, at) {
                for slot in &self.program.begin_marks {
                    self.scratch.slots[*slot as usize] = at as u32;
                }
                if self.run(begin, at, limit, true)?.is_some() {
                    return Ok(true);
                }
                self.scratch.slots.fill(NOWHERE);
                self.scratch.frames.clear();
            }
            let Some(next) = self.after(at) else { return Ok(false) };
            at = next;
        }
    }

    /// Whether the text still has in it what some way needs.
    #[inline(never)]
    fn can_have(&mut self, needed: Option<u32>, at: usize) -> bool {
        let Some(needed) = needed else { return true };
        let needed = &*self.program.texts[needed as usize];
        self.steps += charge(at, self.text.len());
        self.looked_everywhere();
        let first = needed.first().copied().unwrap_or_default();
        memchr_iter(first, &self.text[at..]).any(|found| self.text[at + found..].starts_with(needed))
    }

    /// Goes on at `step` with the text at `at`; where it ends if it matches. What it leaves to try stays on the stack
    /// above what was there. `outermost`: what nothing comes before need not be undone.
    fn run(
        &mut self,
        mut step: usize,
        mut at: usize,
        limit: u32,
        outermost: bool,
    ) -> Result<Option<usize>, OverBudget> {
        let base = self.scratch.frames.len();
        let (program, steps, text) = (self.program, &self.program.steps[..], self.text);
        'next: loop {
            // What it does if it can go on; else it falls out and steps back.
            'fails: {
                match steps[step] {
                    Step::Byte(wanted) => {
                        if text.get(at) != Some(&wanted) {
                            break 'fails;
                        }
                        at += 1;
                    }
                    Step::Text(wanted) => {
                        let wanted = &program.texts[wanted as usize];
                        if !has_text(text, wanted, at) {
                            self.failed(at, at + wanted.len() - 1);
                            break 'fails;
                        }
                        at += wanted.len();
                    }
                    Step::One(set) => match program.sets[set as usize].one(text, at) {
                        Some(after) => at = after,
                        None => break 'fails,
                    },
                    Step::Run(number) => {
                        let run = &program.runs[number as usize];
                        let next = if run.is_short && self.is_simple {
                            self.begin_short_run(step, at, number, run)
                        } else {
                            self.begin_run(step, at, run).map(|after| run.goes_on(step, after))
                        };
                        let Some(next) = next else { break 'fails };
                        (step, at) = next;
                        continue 'next;
                    }
                    Step::Split { number, .. } if self.is_simple => {
                        let Some(next) = self.take(self.forks.choice(number, text, at), at) else {
                            break 'fails;
                        };
                        step = next;
                        continue 'next;
                    }
                    Step::Split { first, second, number } => {
                        let next = program.splits[number as usize];
                        let (mut can_first, mut can_second) = program.foresight.both_come(next, text, at);
                        if self.hindsight.is_some() {
                            can_first = can_first && self.is_viable(first as usize, at);
                            can_second = can_second && self.is_viable(second as usize, at);
                        }
                        if can_first {
                            if can_second {
                                if self.has_failed(step, at) {
                                    break 'fails;
                                }
                                self.scratch.frames.push(Frame::Resume { step: second, at: at as u32 });
                            }
                            step = first as usize;
                        } else if can_second {
                            step = second as usize;
                        } else {
                            break 'fails;
                        }
                        continue 'next;
                    }
                    Step::Switch(number) => {
                        let Some(branch) = program.switches[number as usize].goes_on(text, at) else {
                            break 'fails;
                        };
                        step = branch;
                        continue 'next;
                    }
                    Step::Jump(to) => {
                        step = to as usize;
                        continue 'next;
                    }
                    Step::Way { last, needs } => {
                        if last < self.first_way || !self.can_have(needs, at) {
                            break 'fails;
                        }
                    }
                    Step::Join { number, to } => {
                        let before = std::mem::replace(&mut self.scratch.joins[number as usize], at as u32);
                        if before == at as u32 {
                            break 'fails;
                        }
                        step = to as usize;
                        continue 'next;
                    }
                    Step::Mark(slot) => {
                        self.scratch.slots[slot as usize] = at as u32;
                        if step == self.stop_at {
                            self.looked_at(at);
                            return Ok(Some(at));
                        }
                    }
                    Step::Save(slot) => {
                        let old = std::mem::replace(&mut self.scratch.slots[slot as usize], at as u32);
                        if !(outermost && self.scratch.frames.is_empty()) {
                            self.scratch.frames.push(Frame::Slot { slot, old });
                        }
                    }
                    Step::Assert(Assertion::Start) => {
                        if at > 0 {
                            break 'fails;
                        }
                    }
                    Step::Assert(assertion) => {
                        // Whether it is the text's last character, the next one tells.
                        self.looked_at(at);
                        self.looked_at(at + 1);
                        if !self.holds(assertion, at) {
                            self.failed(at, at + 1);
                            break 'fails;
                        }
                    }
                    Step::Look { behind, negative, end } => {
                        let start = behind.map_or(Some(at), |width| self.back(at, width as usize));
                        let found = match start {
                            Some(start) => self.inner(step + 1, start, limit, negative)?,
                            None => None,
                        };
                        self.looked_everywhere();
                        if found.is_some() == negative {
                            break 'fails;
                        }
                        step = end as usize;
                        continue 'next;
                    }
                    Step::Atomic { end } => {
                        let Some(after) = self.inner(step + 1, at, limit, false)? else { break 'fails };
                        (step, at) = (end as usize, after);
                        continue 'next;
                    }
                    Step::BackReference { group, ignore_case } => {
                        let group = group as usize;
                        match self.back_reference(group, ignore_case, at) {
                            Some(after) => at = after,
                            None => {
                                let [start, end] = [0, 1].map(|side| self.scratch.slots[2 * group + side]);
                                // In whatever case, no character is longer than four bytes.
                                let there = at + 4 * end.saturating_sub(start) as usize;
                                self.failed(at, there);
                                break 'fails;
                            }
                        }
                    }
                    Step::IfGroup { group, otherwise } => {
                        if !self.is_set(group as usize) {
                            step = otherwise as usize;
                            continue 'next;
                        }
                    }
                    Step::Begin(register) => {
                        let old =
                            std::mem::replace(&mut self.scratch.registers[register as usize], at as u32);
                        self.scratch.frames.push(Frame::Register { register, old });
                    }
                    Step::IfEmpty { register, end } => {
                        if self.scratch.registers[register as usize] == at as u32 {
                            step = end as usize;
                            continue 'next;
                        }
                    }
                    Step::Match => {
                        self.looked_at(at);
                        return Ok(Some(at));
                    }
                }
                step += 1;
                continue 'next;
            }
            self.steps += 1;
            if self.steps > limit {
                return Err(OverBudget);
            }
            if self.steps >= self.hindsight_at {
                self.look_back();
            }
            let failed_at = at;
            let next = self.step_back(base);
            self.failed(next.map_or(0, |(_, at)| at), failed_at);
            match next {
                Some(next) => (step, at) = next,
                None => return Ok(None),
            }
        }
    }

    /// Goes on where a fork leads, and leaves the rest to try.
    #[inline]
    fn take(&mut self, fork: Fork, at: usize) -> Option<usize> {
        if let Some(step) = fork.second() {
            self.scratch.frames.push(Frame::Resume { step, at: at as u32 });
        }
        fork.first()
    }

    /// The next thing to try, with everything undone that came after it.
    #[inline(never)]
    fn step_back(&mut self, base: usize) -> Option<(usize, usize)> {
        while self.scratch.frames.len() > base {
            match self.scratch.frames.pop()? {
                Frame::Resume { step, at } => {
                    let (step, at) = (step as usize, at as usize);
                    if self.is_viable(step, at) {
                        return Some((step, at));
                    }
                }
                Frame::Slot { slot, old } => self.scratch.slots[slot as usize] = old,
                Frame::Register { register, old } => self.scratch.registers[register as usize] = old,
                Frame::Shrink { step, floor, at } => {
                    if let Some(run) = self.run_at(step as usize)
                        && let Some(at) = self.shrink(step as usize, run, floor as usize, at as usize)
                    {
                        return Some(run.goes_on(step as usize, at));
                    }
                }
                Frame::Grow { step, at, left } => {
                    if let Some(run) = self.run_at(step as usize)
                        && let Some(at) = self.grow(step as usize, run, at as usize, left)
                    {
                        return Some(run.goes_on(step as usize, at));
                    }
                }
            }
        }
        None
    }

    /// Runs what stands inside of a look-around or an atomic group. What it leaves to try is dropped; what it saved
    /// stays, unless it only had to tell that it does not match.
    #[inline(never)]
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
        let found = self.run(step, at, limit, false);
        self.memory = memory;
        let found = found?;
        if only_ask {
            for frame in self.scratch.frames.drain(base..).rev() {
                match frame {
                    Frame::Slot { slot, old } => self.scratch.slots[slot as usize] = old,
                    Frame::Register { register, old } => self.scratch.registers[register as usize] = old,
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
            while !is_boundary(self.text, at) {
                at -= 1;
            }
        }
        Some(at)
    }

    /// The place behind the character at `at`; `None` at the end.
    fn after(&self, at: usize) -> Option<usize> {
        self.character(at).map(|c| at + c.len_utf8())
    }

    #[inline(never)]
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

    #[inline(never)]
    fn back_reference(&self, group: usize, ignore_case: bool, at: usize) -> Option<usize> {
        let (start, end) = (self.scratch.slots[2 * group], self.scratch.slots[2 * group + 1]);
        if start == NOWHERE || end == NOWHERE {
            return None;
        }
        let referred = &self.text[start as usize..end as usize];
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

/// Whether `wanted` stands at `at`.
#[inline]
pub(super) fn has_text(text: &[u8], wanted: &[u8], at: usize) -> bool {
    text.get(at..at + wanted.len()).is_some_and(|there| is_same(there, wanted))
}

/// Whether two texts of one length are the same. For a few bytes, most of the time is the call of the library's function.
#[inline]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    fn ends<const N: usize>(text: &[u8]) -> Option<[&[u8; N]; 2]> {
        Some([text.first_chunk()?, text.last_chunk()?])
    }
    match one.len() {
        8..=16 => ends::<8>(one) == ends::<8>(other),
        4..8 => ends::<4>(one) == ends::<4>(other),
        _ => one == other,
    }
}

/// What a run from `start` to `end` costs, in steps.
fn charge(start: usize, end: usize) -> u32 {
    // The text is shorter than 4 GiB.
    ((end - start) / RUN_PER_STEP) as u32
}
