//! What can still come, known from the text's end: from which steps of a program, and at which places, it can go on to a
//! match. Asked where a search has failed a few times, it keeps the search from trying what must fail, and so from
//! taking time that grows with a power of the line's length.
//!
//! It reads the text backwards, with an automaton of which each state is a set of steps, made when it is first reached.
//! What it cannot know (look-arounds, back-references, what a group matched) it takes to hold: it never keeps the search
//! from a match.

use std::collections::HashMap;

use memchr::{memchr, memchr2, memchr3};
use smallvec::SmallVec;

use super::{
    chars::{is_boundary, may_be_wide},
    program::{Program, Step},
    syntax::Assertion,
};

/// The largest program that is worth it.
const MOST_PLACES: usize = 4096;
/// How many states can be told apart.
const STATES: usize = 256;
/// A state that was not made yet.
const UNKNOWN: u8 = u8::MAX;
/// The state at the text's end.
const END: u8 = 0;
/// States that are made for one text: what an unheard-of text may cost.
const NEW_STATES: usize = 100;
/// After how many bytes it is asked whether there can be more.
const BYTES_AT_ONCE: usize = 32;

/// A step of the program, or the rest of a text behind its first bytes.
#[derive(Debug)]
enum Place {
    /// Goes on behind it when one of these bytes comes. `again`: any number of them.
    Takes { kinds: Kinds, to: u32, again: bool },
    /// Goes on at either, with nothing taken.
    Goes([u32; 2]),
    /// The same, at the text's end, or at that of a line.
    Ends { assertion: Assertion, to: u32 },
    /// There is nothing more to match.
    Matches,
}

/// Bytes: ASCII, a bit each, and all others.
#[derive(Clone, Copy, Debug)]
struct Kinds {
    ascii: u128,
    wide: bool,
}

impl Kinds {
    const ANY: Self = Self { ascii: u128::MAX, wide: true };

    fn of(byte: u8) -> Self {
        if byte.is_ascii() { Self { ascii: 1 << byte, wide: false } } else { Self { ascii: 0, wide: true } }
    }

    fn has(self, byte: u8) -> bool {
        if byte.is_ascii() { self.ascii >> byte & 1 != 0 } else { self.wide }
    }
}

/// The places from which a match can be reached, a bit each.
type Viable = Box<[u64]>;

/// The automaton of one program.
#[derive(Debug)]
pub(super) struct Hindsight {
    places: Vec<Place>,
    /// The kind of each byte.
    kinds: Box<[u8; 256]>,
    /// A byte of each kind.
    samples: Vec<u8>,
    /// How many words the places of a state take.
    words: usize,
    /// The places from which nothing more needs to be taken for a match, a bit each.
    always: Viable,
    /// The places from which a match can be reached, for each state.
    viable: Vec<u64>,
    /// For each kind of byte and each state, the state one byte before.
    before: Vec<[u8; STATES]>,
    known: HashMap<Viable, u8>,
    /// The steps that were asked for.
    asked: Vec<Asked>,
}

/// A step that was asked for.
#[derive(Debug)]
struct Asked {
    step: usize,
    /// The places that come behind it in the program, a bit each.
    ahead: Viable,
    /// For each state, whether at no place before it a match can be reached from this step.
    is_over: [Option<bool>; STATES],
}

/// What a [`Hindsight`] knows of a text.
#[derive(Debug, Default)]
pub(super) struct Behind {
    /// The state at each place.
    states: Vec<u8>,
    /// From this place on, they are known.
    from: usize,
    /// States that were made for it.
    made: usize,
}

impl Behind {
    /// Of a text of so many bytes, nothing is known yet.
    pub(super) fn start(&mut self, bytes: usize) {
        (self.from, self.made) = (bytes, 0);
        self.states.resize(bytes + 1, END);
        self.states[bytes] = END;
    }

    /// It is known from this place on what comes.
    #[inline]
    pub(super) fn from(&self) -> usize {
        self.from
    }
}

impl Hindsight {
    /// `None` for a program that is too large.
    pub(super) fn new(program: &Program) -> Option<Self> {
        let places = places(program);
        if places.len() > MOST_PLACES {
            return None;
        }
        let (kinds, samples) = kinds(&places);
        let words = places.len().div_ceil(64);
        let mut this = Self {
            places,
            kinds,
            samples,
            words,
            always: Viable::default(),
            viable: Vec::new(),
            before: Vec::new(),
            known: HashMap::new(),
            asked: Vec::new(),
        };
        let mut always = vec![0; words];
        // Neither the text's end nor a line's.
        this.close(&mut always, Some((0, false)));
        this.always = always.into();
        this.forget();
        Some(this)
    }

    /// Drops all states but the one at the text's end.
    fn forget(&mut self) {
        self.viable.clear();
        self.before.clear();
        self.before.resize(self.samples.len(), [UNKNOWN; STATES]);
        self.known.clear();
        self.asked.clear();
        let mut viable = vec![0; self.words];
        self.close(&mut viable, None);
        self.state(viable.into());
    }

    /// Looks from the end of `text` back to the place `to`, or to one before which no match can be reached from `step`.
    /// `None` if that takes too many new states.
    #[inline(never)]
    pub(super) fn look_back(
        &mut self,
        text: &[u8],
        to: usize,
        step: usize,
        behind: &mut Behind,
    ) -> Option<()> {
        while behind.from > to && !self.is_over(step, behind.states[behind.from]) {
            let wanted = to.max(behind.from.saturating_sub(BYTES_AT_ONCE));
            behind.from = self.follow(text, wanted, behind);
            if behind.from > wanted {
                behind.made += 1;
                if behind.made > NEW_STATES {
                    return None;
                }
                let kind = self.kinds[usize::from(text[behind.from - 1])];
                self.find_before(behind.states[behind.from], kind)?;
            }
        }
        Some(())
    }

    /// The same, as far as the states were made. From where on they are known now.
    #[inline(never)]
    fn follow(&self, text: &[u8], to: usize, behind: &mut Behind) -> usize {
        let (kinds, columns) = (&self.kinds, &self.before[..]);
        let mut state = behind.states[behind.from];
        let bytes = text[to..behind.from].iter().zip(&mut behind.states[to..behind.from]);
        for (left, (byte, slot)) in bytes.enumerate().rev() {
            let before = columns[usize::from(kinds[usize::from(*byte)])][usize::from(state)];
            if before == UNKNOWN {
                return to + left + 1;
            }
            state = before;
            *slot = state;
        }
        to
    }

    /// Whether a match can be reached from this step at this place, which was looked at.
    #[inline]
    pub(super) fn is_viable(&self, behind: &Behind, step: usize, at: usize) -> bool {
        self.viable[usize::from(behind.states[at]) * self.words + step / 64] >> (step % 64) & 1 != 0
    }

    /// The first place from `from` on where a match can be reached from this step, of those that were looked at.
    #[inline(never)]
    pub(super) fn first_viable(
        &self,
        text: &[u8],
        behind: &Behind,
        step: usize,
        from: usize,
    ) -> Option<usize> {
        let states = self.viable.iter().skip(step / 64).step_by(self.words);
        let viable = states.enumerate().filter(|(_, places)| **places >> (step % 64) & 1 != 0);
        let viable: SmallVec<[u8; 8]> = viable.map(|(state, _)| state as u8).collect();
        let mut place = from.max(behind.from);
        loop {
            let rest = &behind.states[place..];
            place += match viable[..] {
                [] => None,
                [one] => memchr(one, rest),
                [one, two] => memchr2(one, two, rest),
                [one, two, three] => memchr3(one, two, three, rest),
                _ => rest.iter().position(|state| viable.contains(state)),
            }?;
            if is_boundary(text, place) {
                return Some(place);
            }
            place += 1;
        }
    }

    /// Whether at no place before this state a match can be reached from `step`.
    fn is_over(&mut self, step: usize, state: u8) -> bool {
        let index = self.asked.iter().position(|asked| asked.step == step).unwrap_or_else(|| {
            self.asked.push(Asked { step, ahead: self.ahead(step), is_over: [None; STATES] });
            self.asked.len() - 1
        });
        let asked = &self.asked[index];
        if let Some(is_over) = asked.is_over[usize::from(state)] {
            return is_over;
        }
        let viable = &self.viable[usize::from(state) * self.words..][..self.words];
        let goes_on = |(at, place): (usize, &Place)| match place {
            Place::Takes { to, again, kinds } => {
                has(viable, *to as usize) || (*again || kinds.wide) && has(viable, at)
            }
            Place::Ends { assertion, .. } => *assertion == Assertion::LineEnd,
            Place::Goes(_) | Place::Matches => false,
        };
        let mut ahead = self.places.iter().enumerate().filter(|(at, _)| has(&asked.ahead, *at));
        // What holds at the text's end, and before its line end, holds nowhere else.
        let is_over = state != END && !has(&self.always, step) && !ahead.any(goes_on);
        self.asked[index].is_over[usize::from(state)] = Some(is_over);
        is_over
    }

    /// The places behind a step, and the step itself.
    fn ahead(&self, step: usize) -> Viable {
        let mut ahead = vec![0; self.words];
        let mut left = vec![step as u32];
        while let Some(place) = left.pop() {
            if has(&ahead, place as usize) {
                continue;
            }
            add(&mut ahead, place as usize);
            match self.places[place as usize] {
                Place::Takes { to, .. } | Place::Ends { to, .. } => left.push(to),
                Place::Goes(ways) => left.extend(ways),
                Place::Matches => {}
            }
        }
        ahead.into()
    }

    #[cold]
    fn find_before(&mut self, state: u8, kind: u8) -> Option<()> {
        if self.known.len() >= usize::from(UNKNOWN) {
            self.forget();
            return None;
        }
        let byte = self.samples[usize::from(kind)];
        let behind = &self.viable[usize::from(state) * self.words..][..self.words];
        let has = |place: usize| has(behind, place);
        let mut viable = vec![0; behind.len()];
        for (at, place) in self.places.iter().enumerate() {
            if let Place::Takes { kinds, to, again } = place
                && kinds.has(byte)
                // Of a character beyond ASCII, this may be any byte.
                && (has(*to as usize) || (*again || !byte.is_ascii()) && has(at))
            {
                add(&mut viable, at);
            }
        }
        self.close(&mut viable, Some((byte, state == END)));
        let before = self.state(viable.into());
        self.before[usize::from(kind)][usize::from(state)] = before;
        Some(())
    }

    fn state(&mut self, viable: Viable) -> u8 {
        if let Some(known) = self.known.get(&viable) {
            return *known;
        }
        // There are fewer than `STATES`.
        let number = self.known.len() as u8;
        self.viable.extend(&viable);
        self.known.insert(viable, number);
        number
    }

    /// Adds the places from which those that are there can be reached with nothing taken. `next`: the byte that comes,
    /// and whether it is the last.
    fn close(&self, viable: &mut [u64], next: Option<(u8, bool)>) {
        let holds = |assertion: &Assertion| match (assertion, next) {
            (_, None) => true,
            (Assertion::End, Some((byte, is_last))) => byte == b'\n' && is_last,
            (Assertion::LineEnd, Some((byte, _))) => byte == b'\n',
            (_, Some(_)) => false,
        };
        let mut changed = true;
        while changed {
            changed = false;
            // Most lead ahead.
            for (at, place) in self.places.iter().enumerate().rev() {
                let reaches = match place {
                    Place::Takes { .. } => false,
                    Place::Goes(ways) => ways.iter().any(|to| has(viable, *to as usize)),
                    Place::Ends { assertion, to } => holds(assertion) && has(viable, *to as usize),
                    Place::Matches => true,
                };
                if reaches && !has(viable, at) {
                    add(viable, at);
                    changed = true;
                }
            }
        }
    }
}

fn has(viable: &[u64], place: usize) -> bool {
    viable[place / 64] >> (place % 64) & 1 != 0
}

fn add(viable: &mut [u64], place: usize) {
    viable[place / 64] |= 1 << (place % 64);
}

/// The steps of a program, in their order, and behind them what they need besides.
fn places(program: &Program) -> Vec<Place> {
    let mut more = Vec::new();
    let count = program.steps.len();
    let goes = |to: u32| Place::Goes([to; 2]);
    let mut place = |at: usize, step: Step| {
        let next = at + 1;
        let takes = |kinds, again| Place::Takes { kinds, to: next as u32, again };
        let of_set = |set: u32| {
            let set = &program.sets[set as usize];
            Kinds { ascii: set.ascii(), wide: may_be_wide(&set.class) }
        };
        match step {
            Step::Byte(byte) => takes(Kinds::of(byte), false),
            Step::Text(text) => {
                let text = &program.texts[text as usize];
                let mut to = next;
                for byte in text[1..].iter().rev() {
                    more.push(Place::Takes { kinds: Kinds::of(*byte), to: to as u32, again: false });
                    to = count + more.len() - 1;
                }
                Place::Takes { kinds: Kinds::of(text[0]), to: to as u32, again: false }
            }
            Step::One(set) => takes(of_set(set), false),
            Step::Run(run) => {
                let run = &program.runs[run as usize];
                let taken = takes(of_set(run.set), true);
                if run.min > 0 {
                    taken
                } else {
                    more.push(Place::Takes { kinds: of_set(run.set), to: next as u32, again: true });
                    Place::Goes([next as u32, (count + more.len() - 1) as u32])
                }
            }
            Step::BackReference { .. } => {
                more.push(Place::Takes { kinds: Kinds::ANY, to: next as u32, again: true });
                Place::Goes([next as u32, (count + more.len() - 1) as u32])
            }
            Step::Split { first, second, .. } => Place::Goes([first, second]),
            Step::Jump(to) | Step::Join { to, .. } => goes(to),
            Step::IfGroup { otherwise, .. } => Place::Goes([next as u32, otherwise]),
            Step::IfEmpty { end, .. } => Place::Goes([next as u32, end]),
            Step::Assert(assertion @ (Assertion::End | Assertion::LineEnd | Assertion::AbsoluteEnd)) => {
                Place::Ends { assertion, to: next as u32 }
            }
            Step::Look { end, .. } => goes(end),
            // What an atomic group takes has nothing to do with what comes behind it.
            Step::Atomic { .. }
            | Step::Switch(_)
            | Step::Save(_)
            | Step::Mark(_)
            | Step::Assert(_)
            | Step::Way { .. }
            | Step::Begin(_) => goes(next as u32),
            Step::Match => Place::Matches,
        }
    };
    let mut places: Vec<_> = program.steps.iter().enumerate().map(|(at, step)| place(at, *step)).collect();
    places.append(&mut more);
    places
}

/// The kinds of bytes that places tell apart, and a byte of each: the ASCII characters, as far as a place takes only some
/// of them, and one kind for all other bytes.
fn kinds(places: &[Place]) -> (Box<[u8; 256]>, Vec<u8>) {
    let mut kinds = Box::new([0; 256]);
    let mut sets: Vec<u128> = vec![1 << b'\n'];
    sets.extend(places.iter().filter_map(|place| match place {
        Place::Takes { kinds, .. } => Some(kinds.ascii),
        _ => None,
    }));
    sets.sort_unstable();
    sets.dedup();
    let mut signatures: HashMap<Vec<bool>, u8> = HashMap::new();
    let mut samples = Vec::new();
    for byte in 0..128_u8 {
        let signature = sets.iter().map(|set| set >> byte & 1 != 0).collect();
        kinds[usize::from(byte)] = *signatures.entry(signature).or_insert_with(|| {
            samples.push(byte);
            (samples.len() - 1) as u8
        });
    }
    kinds[128..].fill(samples.len() as u8);
    samples.push(u8::MAX);
    (kinds, samples)
}
