//! How the [`Machine`] takes the characters of a [`Run`], and gives them back.

use memchr::{memchr, memmem, memrchr_iter};

use super::{Frame, Machine, Memory, charge, has_text};
use crate::filter::expression::{
    chars::is_boundary,
    program::{Run, Step},
    syntax::Repetition,
};

/// Where a run ends, from all places between.
pub(super) struct LastRun<'a> {
    run: &'a Run,
    from: usize,
    end: usize,
}

impl<'a> Machine<'a> {
    /// Takes what a run takes first, and leaves the rest to try: where it goes on.
    #[inline]
    pub(super) fn begin_run(&mut self, step: usize, at: usize, run: &'a Run) -> Option<usize> {
        if !run.is_plain || self.memory == Memory::On {
            return self.begin_unusual_run(step, at, run);
        }
        let set = &self.program.sets[run.set as usize];
        let end = set.ascii_run(self.text, self.is_ascii, at, run.max as usize);
        if !self.is_ascii
            && end - at < run.max as usize
            && self.text.get(end).is_some_and(|byte| !byte.is_ascii())
        {
            // Lengths are counted in characters.
            return self.begin_unusual_run(step, at, run);
        }
        let floor = at + run.min as usize;
        if end < floor {
            self.failed(at, end);
            return None;
        }
        if run.keeps_ascii && self.hindsight.is_none() && self.comes_behind(run, end) {
            self.steps += charge(floor, end);
            return Some(end);
        }
        self.end_run(step, run, floor, end, run.keeps_ascii)
    }

    /// The same for a run that is short as a rule, in a text of ASCII: the step and the place where it goes on.
    #[inline]
    pub(super) fn begin_short_run(
        &mut self,
        step: usize,
        at: usize,
        number: u32,
        run: &'a Run,
    ) -> Option<(usize, usize)> {
        let text = self.text;
        // The text is shorter than 4 GiB, so that this is no larger than 8 GiB.
        let last = text.len().min(at + run.max as usize);
        let mut end = at;
        while end < last && run.members[usize::from(text[end])] {
            end += 1;
        }
        let floor = at + run.min as usize;
        if end < floor {
            self.failed(at, end);
            return None;
        }
        let keeps = run.keeps_ascii || end == floor;
        if let Some(next) = run.next_byte
            && keeps
        {
            if text.get(end) != Some(&next) {
                self.failed(at, end);
                return None;
            }
            self.steps += charge(floor, end);
            return Some(run.goes_on(step, end));
        }
        let fork = self.forks.behind_run(number, text, end);
        if fork.first().is_none() {
            let after = self.end_run(step, run, floor, end, keeps)?;
            return Some(run.goes_on(step, after));
        }
        self.steps += charge(floor, end);
        if !keeps {
            let (step, floor, at) = (step as u32, floor as u32, end as u32);
            self.scratch.frames.push(Frame::Shrink { step, floor, at });
        }
        Some((self.take(fork, end)?, end + usize::from(run.stride) - 1))
    }

    /// One that is lazy or possessive or has other characters than ASCII, or where the machine remembers what failed.
    #[inline(never)]
    fn begin_unusual_run(&mut self, step: usize, at: usize, run: &'a Run) -> Option<usize> {
        if run.unless.is_some() {
            self.looked_everywhere();
            if run.min == 0 && run.kind == Repetition::Greedy && self.memory != Memory::On {
                let end = self.longest(run, at);
                return self.end_run(step, run, at, end, self.keeps(run, at, end));
            }
        }
        let mut floor = at;
        for _ in 0..run.min {
            match self.one_of(run, floor) {
                Some(after) => floor = after,
                None => {
                    self.failed(at, floor);
                    return None;
                }
            }
        }
        if run.kind != Repetition::Possessive && self.has_failed(step, floor) {
            return None;
        }
        if run.kind == Repetition::Lazy {
            let left = run.max - run.min;
            // The first stop is where the run is already.
            if self.comes_behind(run, floor) && self.can_match(step + 1, floor) {
                self.scratch.frames.push(Frame::Grow { step: step as u32, at: floor as u32, left });
                return Some(floor);
            }
            return self.grow(step, run, floor, left);
        }
        let mut end = floor;
        if run.max == u32::MAX && (self.memory != Memory::On || run.kind == Repetition::Possessive) {
            end = self.longest(run, floor);
        } else if run.max == u32::MAX {
            // Where a run without end has begun before and failed, all stops behind have failed as well.
            while let Some(after) = self.one_of(run, end)
                && !self.has_failed(step, after)
            {
                end = after;
            }
        } else {
            for _ in run.min..run.max {
                match self.one_of(run, end) {
                    Some(after) => end = after,
                    None => break,
                }
            }
        }
        let keeps = run.kind == Repetition::Possessive || self.keeps(run, floor, end);
        self.end_run(step, run, floor, end, keeps)
    }

    /// Whether a run has nothing to give back behind which the program could go on.
    fn keeps(&self, run: &Run, floor: usize, end: usize) -> bool {
        run.keeps_ascii && self.text[floor..end].is_ascii()
    }

    /// A run has taken what it can, up to `end`, and gives back from there unless it `keeps` all.
    #[inline]
    fn end_run(&mut self, step: usize, run: &Run, floor: usize, end: usize, keeps: bool) -> Option<usize> {
        self.steps += charge(floor, end);
        let keeps = keeps || end == floor;
        if self.comes_behind(run, end) && (keeps || self.text_is(run, end)) && self.can_match(step + 1, end) {
            if !keeps {
                let (step, floor, at) = (step as u32, floor as u32, end as u32);
                self.scratch.frames.push(Frame::Shrink { step, floor, at });
            }
            return Some(end);
        }
        if keeps {
            // No character is longer than four bytes.
            self.failed(floor.saturating_sub(4 * run.min as usize), end);
            return None;
        }
        self.shrink(step, run, floor, end)
    }

    /// Whether what can come behind a run comes there.
    #[inline]
    fn comes_behind(&self, run: &Run, at: usize) -> bool {
        match run.next_byte {
            Some(_) => self.text.get(at).copied() == run.next_byte,
            None => self.program.foresight.comes(run.next, self.text, at),
        }
    }

    /// Whether the text that must come behind a run is there, if there is one.
    #[inline]
    fn text_is(&self, run: &Run, at: usize) -> bool {
        run.next_text.is_none_or(|wanted| has_text(self.text, &self.program.texts[wanted as usize], at))
    }

    /// The run that a frame is about.
    pub(super) fn run_at(&self, step: usize) -> Option<&'a Run> {
        let Step::Run(run) = self.program.steps[step] else { return None };
        Some(&self.program.runs[run as usize])
    }

    /// The next shorter end of a greedy run behind which the program may go on.
    #[inline(never)]
    pub(super) fn shrink(&mut self, step: usize, run: &Run, floor: usize, begin: usize) -> Option<usize> {
        let (text, program) = (self.text, self.program);
        // What comes behind the one character that follows was looked at, too, or the text that must follow.
        let wanted = run.next_text.map(|wanted| &*program.texts[wanted as usize]);
        self.failed(floor, begin + wanted.map_or(1, <[u8]>::len));
        let foresight = &program.foresight;
        let can_go_on = |at: usize| {
            let character = text.get(at).is_none_or(u8::is_ascii);
            is_boundary(text, at)
                && foresight.comes(run.next, text, at)
                && (!character || foresight.comes(run.after_next, text, at + 1))
        };
        let next_stop = |begin: usize| match run.next_byte {
            // A character begins wherever the byte does that has to follow: it is the first of one.
            Some(next) => {
                let there = |at: &usize| wanted.is_none_or(|wanted| has_text(text, wanted, *at));
                memrchr_iter(next, text.get(floor..begin)?).map(|found| floor + found).find(there)
            }
            None => (floor..begin).rev().find(|at| can_go_on(*at)),
        };
        let mut at = next_stop(begin);
        while let Some(stop) = at
            && !self.can_match(step + 1, stop)
        {
            at = if self.looks_back_to(step + 1, stop) { next_stop(stop) } else { None };
        }
        self.steps += charge(at.unwrap_or(floor), begin);
        if let Some(at) = at.filter(|at| *at > floor) {
            self.scratch.frames.push(Frame::Shrink { step: step as u32, floor: floor as u32, at: at as u32 });
        }
        at
    }

    /// The next longer end of a lazy run behind which the program may go on.
    #[inline(never)]
    pub(super) fn grow(&mut self, step: usize, run: &Run, begin: usize, left: u32) -> Option<usize> {
        if run.max < u32::MAX || self.memory == Memory::On {
            return self.grow_slowly(step, run, begin, left);
        }
        let stop = self.next_stop(step, run, begin);
        self.steps += charge(begin, stop.unwrap_or(self.text.len()));
        let stop = stop.filter(|stop| self.takes(run, begin, *stop));
        if let Some(at) = stop {
            self.scratch.frames.push(Frame::Grow { step: step as u32, at: at as u32, left });
            self.looked_at(at);
            return stop;
        }
        self.looked_everywhere();
        None
    }

    /// The next place behind `from` where, as far as is known, the program may go on behind the run.
    fn next_stop(&mut self, step: usize, run: &Run, from: usize) -> Option<usize> {
        let rest = self.text.get(from + 1..)?;
        self.looks_back_to(step + 1, from + 1);
        if let Some(hindsight) = &self.hindsight {
            return hindsight.first_viable(self.text, &self.scratch.behind, step + 1, from + 1);
        }
        if let Some(next) = run.next_byte {
            return memchr(next, rest).map(|found| from + 1 + found);
        }
        let foresight = &self.program.foresight;
        let comes = |at: &usize| is_boundary(self.text, *at) && foresight.comes(run.next, self.text, *at);
        (from + 1..=self.text.len()).find(comes)
    }

    /// Whether the run takes all from `from` to `to`.
    fn takes(&self, run: &Run, from: usize, to: usize) -> bool {
        if self.program.sets[run.set as usize].run(&self.text[..to], from) < to {
            return false;
        }
        let Some(unless) = &run.unless else { return true };
        let last = self.text.len().min(to + unless.len() - 1);
        find(&self.text[from..last], unless).is_none()
    }

    /// The same where their number is bounded, or where the machine remembers what failed.
    fn grow_slowly(&mut self, step: usize, run: &Run, begin: usize, mut left: u32) -> Option<usize> {
        let mut at = begin;
        while left > 0
            && let Some(after) = self.one_of(run, at)
        {
            at = after;
            if run.max == u32::MAX {
                if self.has_failed(step, at) {
                    break;
                }
            } else {
                left -= 1;
            }
            if self.comes_behind(run, at) && self.can_match(step + 1, at) {
                self.scratch.frames.push(Frame::Grow { step: step as u32, at: at as u32, left });
                self.steps += charge(begin, at);
                self.looked_at(at);
                return Some(at);
            }
        }
        self.failed(begin, at);
        self.steps += charge(begin, at);
        None
    }

    /// The place behind the character at `at`, if the run takes it.
    #[inline]
    fn one_of(&self, run: &Run, at: usize) -> Option<usize> {
        let stops = run.unless.as_ref().is_some_and(|unless| has_text(self.text, unless, at));
        if stops { None } else { self.program.sets[run.set as usize].one(self.text, at) }
    }

    /// Where the longest run from `at` ends.
    fn longest(&mut self, run: &'a Run, at: usize) -> usize {
        let set = &self.program.sets[run.set as usize];
        let Some(unless) = &run.unless else { return set.run(self.text, at) };
        // Expressions that look for a text try many places, and from most of them the run ends at the same one.
        let known = self.last_run.take().filter(|last| std::ptr::eq(last.run, run) && at <= last.end);
        let (from, known_end) = known.map_or((self.text.len(), None), |last| (last.from, Some(last.end)));
        let end = match known_end {
            Some(end) if from <= at => end,
            _ => {
                // The text may begin in what is new and end behind it.
                let searched = &self.text[at..self.text.len().min(from + unless.len() - 1)];
                let stop = find(searched, unless).map(|found| at + found);
                let new_end = set.run(&self.text[..stop.unwrap_or(from)], at);
                if stop.is_none() && new_end == from { known_end.unwrap_or(from) } else { new_end }
            }
        };
        self.last_run = Some(LastRun { run, from: from.min(at), end });
        end
    }
}

/// Where `wanted` begins in `text`.
fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    // To set up the faster search takes longer than to look.
    if text.len() < 48 {
        return text.windows(wanted.len()).position(|there| there == wanted);
    }
    memmem::find(text, wanted)
}
