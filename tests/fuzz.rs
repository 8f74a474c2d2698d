//! The fuzz targets without a fuzzer: each is run on its corpus, on every input that once broke something, and on a
//! fixed number of inputs made of those by chance. Needs no nightly compiler, so that it runs everywhere;
//! `cargo xtask fuzz` is the long form, with coverage to guide it.

#![expect(clippy::print_stdout, reason = "it is shown when the test fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use f2b::fuzz::TARGETS;

/// The longest input made.
const MAX_INPUT: usize = 4096;
/// No input takes nearly so long; a machine under load must not fail the test.
const HANG: Duration = Duration::from_secs(20);

#[test]
fn config() {
    run("config", 2000);
}

#[test]
fn date() {
    run("date", 1000);
}

#[test]
fn expression() {
    run("expression", 2000);
}

#[test]
fn filter() {
    run("filter", 2000);
}

#[test]
fn formula() {
    run("formula", 50_000);
}

#[test]
fn journal() {
    run("journal", 20_000);
}

/// Runs a target on so many inputs made by chance: as many as take a few seconds.
fn run(name: &str, inputs_made: usize) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("there is such a target");
    let corpus = inputs(name);
    assert!(corpus.len() >= 5, "fuzz/corpus/{name} is not there");
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let made = (0..inputs_made).map(|_| dice.input(&corpus));
    let (mut count, mut slowest) = (0, Duration::ZERO);
    for input in corpus.iter().cloned().chain(made) {
        let start = Instant::now();
        // The test's own panic hook shows where; this shows for what.
        let shown = Shown(&input);
        target(&input);
        std::mem::forget(shown);
        slowest = slowest.max(start.elapsed());
        assert!(slowest < HANG, "{slowest:?} for {:?}", String::from_utf8_lossy(&input));
        count += 1;
    }
    println!("{name}: {count} inputs, the slowest took {slowest:?}");
}

#[test]
fn every_target_has_a_program_for_the_fuzzer() {
    for (name, _) in TARGETS {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fuzz/targets/{name}.rs"));
        let program = fs::read_to_string(&path).expect("it is there");
        assert!(program.contains(&format!("f2b_fuzz::{name}(data)")), "{}", path.display());
    }
}

/// Says on which input the target panicked.
struct Shown<'a>(&'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        println!("input: {:?}", String::from_utf8_lossy(self.0));
    }
}

/// The corpus and the regressions of a target, in a fixed order.
fn inputs(name: &str) -> Vec<Vec<u8>> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let folders = ["corpus", "regressions"].map(|folder| fuzz.join(folder).join(name));
    let list = |folder: &PathBuf| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries.map(|entry| entry.expect("it is readable").path()).collect()
    };
    let mut files: Vec<_> = folders.iter().flat_map(list).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).expect("it is readable")).collect()
}

/// Chance that is the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit.max(1)
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// A piece of an input, cut between two of its words more often than inside of one.
    fn piece<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let mut ends = [self.below(input.len() + 1), self.below(input.len() + 1)];
        ends.sort_unstable();
        if self.below(4) > 0 {
            for end in &mut ends {
                *end += input[*end..].iter().take_while(|byte| byte.is_ascii_alphanumeric()).count();
            }
        }
        &input[ends[0]..ends[1].max(ends[0])]
    }

    /// An input of the corpus with a few changes.
    fn input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = self.pick(corpus).clone();
        for _ in 0..=self.below(4) {
            let at = self.below(input.len() + 1);
            let to = at + self.below((input.len() - at).min(40) + 1);
            if self.below(6) == 0 {
                // One byte is another: what is behind it stays where it is.
                if let Some(byte) = input.get_mut(at) {
                    *byte = self.below(256) as u8;
                }
                continue;
            }
            let new = match self.below(5) {
                0 => Vec::new(),
                1 => vec![*self.pick(b"\0\n\r\t %<>()[]{}|*+?^$\\\"'=:;#-0a\x80\xff")],
                2 => input[at..to].repeat(1 + self.below(20)),
                3 => self.pick(&["é", "\u{2028}", "٣", "K", "ſ", "\u{fffd}", "😀"]).as_bytes().to_vec(),
                _ => {
                    let other = self.pick(corpus).clone();
                    self.piece(&other).to_vec()
                }
            };
            input.splice(at..to, new);
            input.truncate(MAX_INPUT);
        }
        input
    }
}
