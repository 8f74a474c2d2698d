//! The built-in filters: what they find in our samples, in text logs and in the journal; that nothing a client says gets
//! somebody else banned; and that each expression is there for a reason. `tests/filters.rs` shows the same samples to
//! the real fail2ban.

mod samples;

use std::collections::BTreeSet;

use f2b::{
    config,
    filter::{Context, Filter, FilterSettings},
};
use jiff::tz::TimeZone;

use self::samples::{Block, INNOCENT, NOW, Sample, all, built_in};

fn settings(block: &Block) -> FilterSettings {
    let settings = config::filter(Some(&built_in()), &block.filter);
    settings.unwrap_or_else(|error| panic!("{}: {error:#}", block.filter))
}

fn filter(settings: &FilterSettings) -> Filter {
    Filter::new(settings).unwrap_or_else(|error| panic!("{error:#}"))
}

/// A fresh memory for a filter.
fn context(filter: &Filter) -> Context {
    filter.context(TimeZone::UTC, NOW)
}

/// The filters that there are, by their files' names.
fn names() -> BTreeSet<String> {
    let files = std::fs::read_dir(built_in().join("filter.d")).expect("it is there");
    let stems = files.map(|file| {
        let path = file.expect("it is readable").path();
        path.file_stem().expect("it has a name").to_string_lossy().into_owned()
    });
    stems.filter(|name| !name.ends_with("common")).collect()
}

#[test]
fn every_filter_finds_what_its_samples_say_and_nothing_else() {
    let mut differences = Vec::new();
    let mut lines = 0;
    for block in all() {
        let filter = filter(&settings(&block));
        let (mut file, mut journal) = (context(&filter), context(&filter));
        for sample in &block.samples {
            lines += 1;
            let found = filter.failures(&mut file, &sample.text, None, NOW);
            differences.extend(sample.difference(&found));
            if let Some(entry) = sample.in_the_journal() {
                lines += 1;
                let found = filter.failures(&mut journal, entry, Some(sample.time), NOW);
                differences.extend(sample.difference(&found).map(|text| format!("in the journal, {text}")));
            }
        }
    }
    assert!(differences.is_empty(), "{} of {lines}:\n{}", differences.len(), differences.join("\n"));
    println!("{lines} lines of {} filters", names().len());
}

#[test]
fn every_filter_has_samples_of_both_kinds() {
    let sampled = |failures: bool| -> BTreeSet<String> {
        let has = |block: &Block| block.samples.iter().any(|sample| sample.failure.is_some() == failures);
        all().into_iter().filter(has).map(|block| block.name).collect()
    };
    assert_eq!(sampled(true), names());
    assert_eq!(sampled(false), names());
}

/// What is in a linear automaton's power costs no more for a hostile line than for another one.
#[test]
fn no_expression_looks_around_or_back() {
    for block in all() {
        let FilterSettings { prefregex, failregex, ignoreregex, .. } = settings(&block);
        for text in [vec![prefregex], failregex, ignoreregex].concat() {
            for dear in ["(?=", "(?!", "(?<", "(?P=", "(?(", "(?>", "\\b", "\\B", "\\1"] {
                assert!(!text.contains(dear), "{}: {dear} in {text}", block.filter);
            }
        }
    }
}

/// Also those that only add context: with their tags taken away they find failures of their own.
#[test]
fn every_expression_matches_a_sample() {
    let blocks = all();
    let mut idle = Vec::new();
    for name in names() {
        let blocks: Vec<_> = blocks.iter().filter(|block| block.name == name).collect();
        let mut expressions: BTreeSet<(String, String)> = BTreeSet::new();
        for block in &blocks {
            let settings = settings(block);
            expressions.extend(settings.failregex.into_iter().map(|text| (settings.prefregex.clone(), text)));
        }
        for (prefregex, failregex) in expressions {
            let plain = |text: &str| {
                let context = ["F-NOFAIL", "F-MLFGAINED", "F-MLFFORGET"];
                let text = context.iter().fold(text.to_owned(), |text, tag| {
                    text.replace(&format!("<{tag}>"), "(?:").replace(&format!("</{tag}>"), ")")
                });
                text.replace("F-MLFID>", "F-ID>")
            };
            let alone = FilterSettings {
                prefregex: plain(&prefregex),
                failregex: vec![plain(&failregex)],
                ..FilterSettings::default()
            };
            let alone = filter(&alone);
            let mut context = context(&alone);
            let mut lines = blocks.iter().flat_map(|block| &block.samples);
            if !lines.any(|sample| !alone.failures(&mut context, &sample.text, None, NOW).is_empty()) {
                idle.push(format!("{name}: {failregex}"));
            }
        }
    }
    assert!(idle.is_empty(), "no sample needs these:\n{}", idle.join("\n"));
}

/// The texts that samples say the client chose, and the users tried, are replaced by pieces of the filter's own samples
/// with the innocent address in them: by every piece that could complete an expression too early or too late.
#[test]
fn nothing_that_a_client_says_gets_somebody_else_banned() {
    let blocks = all();
    let (mut tried, mut framed) = (0, Vec::new());
    for block in &blocks {
        let filter = filter(&settings(block));
        let of_the_filter = blocks.iter().filter(|other| other.name == block.name);
        let pieces: BTreeSet<String> =
            of_the_filter.flat_map(|other| &other.samples).flat_map(pieces).collect();
        let mut context = context(&filter);
        for sample in &block.samples {
            // An entry of the journal if possible: that saves the search for a date.
            let entry = sample.in_the_journal().map(|entry| (entry, Some(sample.time)));
            let (text, logged) = entry.unwrap_or((&sample.text, None));
            for client in &sample.client {
                assert!(sample.text.contains(&client.text), "{}: {} is not in it", sample.place, client.text);
                for piece in &pieces {
                    let piece: String = piece.chars().filter(|c| !client.without.contains(*c)).collect();
                    let line = text.replace(&client.text, &piece);
                    tried += 1;
                    let found = filter.failures(&mut context, &line, logged, NOW);
                    if found.iter().any(|failure| failure.fid == INNOCENT) {
                        framed.push(format!("{} as {}: {line}", sample.place, block.filter));
                    }
                }
            }
        }
    }
    let some: Vec<_> = framed.iter().take(20).cloned().collect();
    assert!(framed.is_empty(), "{} of {tried}:\n{}", framed.len(), some.join("\n"));
    assert!(tried > 30_000, "only {tried} hostile lines");
    println!("{tried} hostile lines");
}

/// Every piece of a failure's line that holds its address, with the innocent one in its place: from all places before
/// it where something may begin, to all places behind it where something may end, as far as is affordable.
fn pieces(sample: &Sample) -> Vec<String> {
    let Some(expected) = &sample.failure else { return Vec::new() };
    let Some(at) = sample.text.rfind(&expected.id) else { return Vec::new() };
    let (before, after) = (&sample.text[..at], &sample.text[at + expected.id.len()..]);
    let cuts = |text: &str| -> Vec<usize> {
        let mut cuts: Vec<_> =
            text.char_indices().filter(|(_, c)| !c.is_alphanumeric()).map(|(at, _)| at).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    };
    let mut pieces = Vec::new();
    let begins = cuts(before);
    let ends = cuts(after);
    // The words next to the address matter most, and the whole.
    for begin in begins.iter().rev().take(8).chain([&0]) {
        for end in ends.iter().take(3).chain([&after.len()]) {
            pieces.push(format!("{}{INNOCENT}{}", &before[*begin..], &after[..*end]));
        }
    }
    pieces
}
