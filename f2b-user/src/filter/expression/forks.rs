//! Where a choice leads with the next byte known: the choices, and the runs that take nothing, which come one after the
//! other at one place of the text, are one look then.

use std::collections::HashMap;

use super::program::{COMES, Program, RUNS, Step};

/// No step.
const NONE: u16 = u16::MAX;

/// Where a choice leads.
#[derive(Clone, Copy, Debug)]
struct Fork {
    /// The step to go on at, and the one to try if that fails.
    first: u16,
    second: u16,
}

/// The choices of one program.
#[derive(Debug)]
pub(super) struct Forks {
    /// The kind of each byte, and of the text's end.
    kinds: [u8; 128],
    end: u8,
    count: usize,
    /// For each choice and each kind.
    forks: Box<[Fork]>,
}

impl Forks {
    pub(super) fn new(program: &Program) -> Self {
        let mut kinds = [0; 128];
        let mut samples = Vec::new();
        let mut known = HashMap::new();
        for byte in (0..128).map(Some).chain([None]) {
            let kind = *known.entry(program.signature(byte)).or_insert_with(|| {
                samples.push(byte);
                samples.len() - 1
            });
            // There are no more than the 129 that are told apart.
            if let Some(byte) = byte {
                kinds[usize::from(byte)] = kind as u8;
            }
        }
        let end = known[&program.signature(None)] as u8;
        let forks = program.steps.iter().flat_map(|step| {
            let Step::Split { first, second, number } = *step else { return Vec::new() };
            let fork = |next: &Option<u8>| {
                let (can_first, can_second) = program.foresight.both(program.splits[number as usize], *next);
                let ways = [first].into_iter().filter(|_| can_first).chain(Some(second).filter(|_| can_second));
                let mut ways = ways.filter_map(|way| program.follow(way, *next));
                Fork { first: ways.next().unwrap_or(NONE), second: ways.next().unwrap_or(NONE) }
            };
            samples.iter().map(fork).collect()
        });
        Self { kinds, end, count: samples.len(), forks: forks.collect() }
    }

    /// Where the choice of this number leads, in a text of ASCII: the step to go on at, and the one to try if that fails.
    #[inline]
    pub(super) fn at(&self, number: u32, text: &[u8], at: usize) -> Option<(u16, Option<u16>)> {
        let kind = text.get(at).map_or(self.end, |byte| self.kinds[usize::from(byte & 0x7f)]);
        let Fork { first, second } = self.forks[number as usize * self.count + usize::from(kind)];
        (first != NONE).then_some((first, (second != NONE).then_some(second)))
    }
}

impl Program {
    /// What tells this byte, or the text's end, from others, for all that is asked about the next one.
    fn signature(&self, next: Option<u8>) -> Vec<u8> {
        let of_run = |table: &Box<[u8; 256]>| next.map_or(0, |byte| table[usize::from(byte)]);
        self.foresight.of(next).chain(self.run_tables.iter().map(of_run)).collect()
    }

    /// The step that is the first to take something, or to leave a choice, from `step` on with this byte next; `None` if
    /// none can match.
    fn follow(&self, step: u32, next: Option<u8>) -> Option<u16> {
        let mut step = step;
        loop {
            match self.steps[step as usize] {
                Step::Jump(to) => step = to,
                Step::Split { first, second, number } => {
                    step = match self.foresight.both(self.splits[number as usize], next) {
                        (true, true) => break,
                        (true, false) => first,
                        (false, true) => second,
                        (false, false) => return None,
                    };
                }
                Step::Run(run) => {
                    let run = &self.runs[run as usize];
                    let (Some(table), Some(byte)) = (run.table, next) else { break };
                    let bits = self.run_tables[table as usize][usize::from(byte)];
                    if run.min > 0 || run.stride > 1 || bits & RUNS != 0 {
                        break;
                    }
                    if bits & COMES == 0 {
                        return None;
                    }
                    step += 1;
                }
                _ => break,
            }
        }
        // They are no more than `MAX_STEPS`.
        Some(step as u16)
    }
}
