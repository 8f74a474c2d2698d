//! How lines begin. Those of one log do so in a few ways that differ by numbers alone: `host sshd[4711]: Failed`. Where
//! the steps of a program lead up to its [`Tail`] need not be found again for each of them.

use memchr::memchr;

use super::{
    machine::{Matched, Spans},
    program::Tail,
};
use crate::filter::alike::Alike;

/// How many are remembered.
const MOST: usize = 32;
/// Texts of which more was looked at are not remembered.
const LONGEST: usize = 64;

/// Beginnings of the texts that one program has seen, those that come often first.
#[derive(Debug, Default)]
pub(in crate::filter) struct Heads(Vec<Head>);

#[derive(Debug)]
struct Head {
    text: Alike,
    /// Where the tail begins.
    at: usize,
    /// The slots by then.
    slots: Box<[u32]>,
}

impl Heads {
    /// What a search for `tail` in `text` finds, if a text like this was seen before.
    pub(super) fn recall(&mut self, tail: Tail, text: &[u8]) -> Option<Matched> {
        let known = self.0.iter().position(|head| head.text.begins(text))?;
        let head = &self.0[known];
        let spans = Spans::of(&head.slots);
        let matched = end(tail, head.at, text, spans);
        if known > 0 {
            self.0.swap(known - 1, known);
        }
        matched
    }

    /// Remembers how `text` begins, in which this was `found`. `head` is what the program has done up to its tail.
    pub(super) fn learn(&mut self, tail: Tail, text: &str, found: &Matched, head: Option<Matched>) {
        let Some(head) = head.filter(|head| head.reach <= text.len().min(LONGEST)) else { return };
        let slots: Box<[u32]> = (*head.spans).into();
        let at = slots[tail.slot] as usize;
        // Else it was not the first way to the tail that has led to the match.
        let leads_there = end(tail, at, text.as_bytes(), head.spans);
        if leads_there.is_none_or(|matched| *matched.spans != *found.spans) {
            return;
        }
        if self.0.len() >= MOST {
            self.0.truncate(MOST / 2);
        }
        let text = Alike::new(&text.as_bytes()[..head.reach], &(0..head.reach));
        self.0.push(Head { text, at, slots });
    }
}

/// The match of a program that has come to its tail at `at`: what is left of the line, if nothing is behind it.
#[inline]
fn end(tail: Tail, at: usize, text: &[u8], mut spans: Spans) -> Option<Matched> {
    let line = text.get(at..)?;
    let length = memchr(b'\n', line).unwrap_or(line.len());
    if length == 0 || length + 1 < line.len() {
        return None;
    }
    let behind = (at + length) as u32;
    (spans[tail.slot], spans[tail.slot + 1], spans[1]) = (at as u32, behind, behind);
    Some(Matched { spans, reach: text.len() + 1, tried: u64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::expression::{check::same_search, pattern::Pattern, tags::HostNames};

    const PIECES: [&str; 24] = [
        "host ",
        "é ",
        "sshd",
        "sshd-session",
        "[4711]",
        "[0815]",
        "[42]",
        ": ",
        ":",
        " ",
        "\t",
        "error: ",
        "fatal: ",
        "PAM: ",
        "Failed",
        "Fatal",
        "x",
        "7",
        "10",
        "\n",
        "kernel",
        "[ 1234.5]",
        "ab",
        "a1",
    ];

    /// What is known of other lines must be what a search finds.
    #[test]
    fn lines_that_begin_alike_are_not_taken_for_the_same() {
        let patterns = [
            (
                r"^<F-MLFID>(?:\S+\s+)?sshd(?:-session)?(?:\[\d+\])?:?\s+</F-MLFID>(?:(?:error|fatal): (?:PAM: )?)?<F-CONTENT>.+</F-CONTENT>$",
                true,
            ),
            (r"^(?:\S+ )*(?:sshd|kernel)(?:\[\s*\d+(?:\.\d+)?\])?: <F-CONTENT>.*</F-CONTENT>$", true),
            (r"^\S+\s+(?!kernel)<F-MLFID>\S+?\[[0-9a-f]+\]</F-MLFID>:\s*<F-CONTENT>.+</F-CONTENT>$", false),
            (r"^(?P<a>\S+ )?(?(a)sshd|kernel)\S*: <F-CONTENT>.+</F-CONTENT>$", false),
            (r"^(?:\S+ sshd\S*: F|\S+ )(?:ai|at)?<F-CONTENT>.+</F-CONTENT>$", true),
            (r"^\S+ sshd\[(?:4711|\d+)\]: <F-CONTENT>.+</F-CONTENT>$", false),
            (r"^(\S+ )sshd.*\1?<F-CONTENT>.+</F-CONTENT>$", false),
            (r"^<F-CONTENT>.+</F-CONTENT>$", false),
            // The first way to the tail fails at a line end far behind.
            (r"^(?:(?:\S+\s)??|\S+\s[^x]*\n)<F-CONTENT>.+</F-CONTENT>$", true),
            (r"sshd\S*: <F-CONTENT>.+</F-CONTENT>$", false),
            (r"^\S+ sshd\S*: <F-CONTENT>.+</F-CONTENT>", false),
            (r"^\S+ sshd\S*: <F-CONTENT>.{2,}</F-CONTENT>$", false),
            (r"^\S+\s+<F-MLFID>\S+?\[[0-9a-f]+\]</F-MLFID>:\s*<F-CONTENT>.+</F-CONTENT>$", true),
        ];
        let mut dice = fastrand::Rng::with_seed(1);
        for (expression, has_tail) in patterns {
            let pattern = Pattern::new(expression, false, HostNames::Match).unwrap();
            let (mut heads, mut known) = (Heads::default(), 0);
            for _ in 0..20_000 {
                let count = dice.usize(0..4);
                let usual = ["host ", "sshd", "[4711]", ": "]
                    .map(|piece| if dice.u8(0..8) == 0 { PIECES[dice.usize(..PIECES.len())] } else { piece });
                let rest = std::iter::repeat_with(|| PIECES[dice.usize(..PIECES.len())]).take(count);
                let text =
                    usual.into_iter().chain(rest.collect::<Vec<_>>()).chain(["\n"]).collect::<String>();
                known += usize::from(heads.0.iter().any(|head| head.text.begins(text.as_bytes())));
                same_search(&pattern, &mut heads, &text);
            }
            assert_eq!(known > 1000, has_tail, "{known} lines were known to {expression}");
        }
    }
}
