//! Where a program leads with the next byte known: choices, and runs that take nothing, come one after the other at one
//! place of the text, and are one look then.

use std::collections::HashMap;

use super::program::{Program, Run, Step};

/// No step.
const NONE: u16 = u16::MAX;

/// Where the program leads: the step to go on at, and the one to try if that fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fork {
    first: u16,
    second: u16,
}

impl Fork {
    const NOWHERE: Self = Self { first: NONE, second: NONE };

    /// `None` if it can only fail.
    #[inline]
    pub(super) fn first(self) -> Option<usize> {
        (self.first != NONE).then_some(usize::from(self.first))
    }

    #[inline]
    pub(super) fn second(self) -> Option<u32> {
        (self.second != NONE).then_some(u32::from(self.second))
    }
}

/// All forks of one program, for texts of ASCII.
#[derive(Debug)]
pub(super) struct Forks {
    /// The kind of each byte, and of the text's end.
    kinds: [u8; 128],
    end: u8,
    count: usize,
    /// For each choice and each kind.
    choices: Box<[Fork]>,
    /// For each run and each kind, where it leads when the run has ended.
    runs: Box<[Fork]>,
}

impl Forks {
    pub(super) fn new(program: &Program) -> Self {
        let mut kinds = [0; 128];
        let mut samples = Vec::new();
        let mut known = HashMap::new();
        let mut kind = |next| {
            *known.entry(program.signature(next)).or_insert_with(|| {
                samples.push(next);
                // There are no more than the 129 that are told apart.
                samples.len() as u8 - 1
            })
        };
        (0..).zip(&mut kinds).for_each(|(byte, number)| *number = kind(Some(byte)));
        let end = kind(None);
        let (mut choices, mut runs) = (Vec::new(), Vec::new());
        for (at, step) in (0..).zip(&program.steps) {
            match step {
                Step::Split { .. } => choices.extend(samples.iter().map(|next| program.fork(at, *next))),
                Step::Run(run) => {
                    let run = &program.runs[*run as usize];
                    runs.extend(samples.iter().map(|next| program.fork_behind(run, at, *next)));
                }
                _ => {}
            }
        }
        Self { kinds, end, count: samples.len(), choices: choices.into(), runs: runs.into() }
    }

    /// Where the choice of this number leads.
    #[inline]
    pub(super) fn choice(&self, number: u32, text: &[u8], at: usize) -> Fork {
        self.choices[number as usize * self.count + self.kind(text, at)]
    }

    /// Where the run of this number leads when it has ended.
    #[inline]
    pub(super) fn behind_run(&self, number: u32, text: &[u8], at: usize) -> Fork {
        self.runs[number as usize * self.count + self.kind(text, at)]
    }

    #[inline]
    fn kind(&self, text: &[u8], at: usize) -> usize {
        usize::from(text.get(at).map_or(self.end, |byte| self.kinds[usize::from(byte & 0x7f)]))
    }
}

impl Program {
    /// What tells this byte, or the text's end, from others, for all that is asked about the next one.
    fn signature(&self, next: Option<u8>) -> Vec<u8> {
        let takes = self.runs.iter().map(|run| u8::from(self.takes(run, next)));
        self.foresight.of(next).chain(takes).collect()
    }

    fn takes(&self, run: &Run, next: Option<u8>) -> bool {
        next.is_some_and(|byte| self.sets[run.set as usize].ascii() >> byte & 1 != 0)
    }

    /// Where the program leads from `step` on, with this byte next.
    fn fork(&self, step: u32, next: Option<u8>) -> Fork {
        let Some(step) = self.follow(step, next) else { return Fork::NOWHERE };
        let ways = match self.steps[step as usize] {
            Step::Split { first, second, .. } => [Some(first), Some(second)],
            _ => [Some(step), None],
        };
        let mut ways = ways.into_iter().flatten().filter_map(|way| self.follow(way, next));
        // Steps are no more than `MAX_STEPS`.
        let [first, second] = [(); 2].map(|()| ways.next().map_or(NONE, |step| step as u16));
        Fork { first, second }
    }

    /// The same from a run at `step` on that has ended.
    fn fork_behind(&self, run: &Run, step: u32, next: Option<u8>) -> Fork {
        if !self.foresight.comes(run.next, next.as_slice(), 0) {
            return Fork::NOWHERE;
        }
        match run.stride {
            1 => self.fork(step + 1, next),
            stride => Fork { first: step as u16 + u16::from(stride), second: NONE },
        }
    }

    /// The step from `step` on that is the first to take something or to leave a choice, with this byte next; `None` if
    /// none can match.
    fn follow(&self, mut step: u32, next: Option<u8>) -> Option<u32> {
        loop {
            step = match self.steps[step as usize] {
                Step::Jump(to) => to,
                Step::Split { first, second, number } => {
                    match self.foresight.both(self.splits[number as usize], next) {
                        (true, true) => return Some(step),
                        (true, false) => first,
                        (false, true) => second,
                        (false, false) => return None,
                    }
                }
                Step::Run(run) => {
                    let run = &self.runs[run as usize];
                    if !run.is_plain || run.min > 0 || run.stride > 1 || self.takes(run, next) {
                        return Some(step);
                    }
                    if !self.foresight.comes(run.next, next.as_slice(), 0) {
                        return None;
                    }
                    step + 1
                }
                _ => return Some(step),
            };
        }
    }
}
