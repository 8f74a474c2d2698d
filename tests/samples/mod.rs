//! The sample lines in `tests/data`, with what the built-in filters must find in them; `tests/data/README.md` has the
//! format.
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use f2b::filter::Failure;
use jiff::Timestamp;

/// The address that no sample is guilty of: the hostile lines try to have it charged.
pub const INNOCENT: &str = "203.0.113.9";

/// What the clock says for all samples: 2026-11-24T06:01:00Z.
pub const NOW: f64 = 1_795_500_060.0;

/// The built-in configuration, as it stands in the source tree.
pub fn built_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("defaults")
}

/// A `jail.local` that enables every jail of the tree; how many there are.
pub fn all_jails(tree: &Path) -> (String, usize) {
    let jails = fs::read_to_string(tree.join("jail.conf")).expect("it is readable");
    let names =
        jails.lines().filter(|line| line.starts_with('[') && !["[DEFAULT]", "[INCLUDES]"].contains(line));
    let sections: Vec<_> = names.map(|name| format!("{name}\nenabled = true\n")).collect();
    (sections.concat(), sections.len())
}

/// Some lines that one filter sees one after another.
pub struct Block {
    /// The name of the file, which is the filter's.
    pub name: String,
    /// The filter with its options, as a jail would write it.
    pub filter: String,
    pub samples: Vec<Sample>,
}

/// One line.
pub struct Sample {
    /// `file:line`
    pub place: String,
    pub text: String,
    /// When it was logged; its date says so, too. Seconds since 1970.
    pub time: f64,
    /// The failure that it completes.
    pub failure: Option<Expected>,
    /// What the client had a say in.
    pub client: Vec<Client>,
}

/// Whose failure a line is.
pub struct Expected {
    /// An address or a host name.
    pub id: String,
    pub user: Option<String>,
}

/// A part of a line that the client chose.
pub struct Client {
    pub text: String,
    /// Characters that cannot be in it.
    pub without: String,
}

impl Sample {
    /// The line as an entry of the journal is rendered: without the date of a syslog line. `None` if it is not one.
    pub fn in_the_journal(&self) -> Option<&str> {
        let (date, rest) = match self.text.as_bytes() {
            [b'A'..=b'Z', ..] => self.text.split_at_checked("Nov 24 06:00:01".len())?,
            [b'0'..=b'9', ..] => self.text.split_once(' ').map(|(date, _)| self.text.split_at(date.len()))?,
            _ => return None,
        };
        // `Nov 24 06:00:01 host` and `2026-11-24T06:00:01Z host`, not `Tue Nov 24 06:00:01 2026`.
        let is_date = date.ends_with("06:00:01") && date.as_bytes()[3] == b' ' || date.contains('T');
        rest.strip_prefix(' ').filter(|_| is_date)
    }

    /// How the failures that were found differ from what is expected.
    pub fn difference(&self, found: &[Failure]) -> Option<String> {
        let same = match (&self.failure, found) {
            (None, []) => true,
            (Some(expected), [found]) => {
                found.fid == expected.id
                    && found.user() == expected.user.as_deref()
                    && found.time.floor() == self.time
            }
            _ => false,
        };
        (!same).then(|| format!("{}: {:?}\n    found {found:?}", self.place, self.text))
    }
}

/// All samples, file by file.
pub fn all() -> Vec<Block> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
    let entries = fs::read_dir(folder).expect("tests/data is there");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("it is readable").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files.iter().flat_map(|file| read(file)).collect()
}

fn read(file: &Path) -> Vec<Block> {
    let name = file.file_stem().expect("it has a name").to_string_lossy().into_owned();
    let text = fs::read_to_string(file).expect("samples are UTF-8");
    let block = |filter: &str| Block { name: name.clone(), filter: filter.to_owned(), samples: Vec::new() };
    let mut blocks = vec![block(&name)];
    let mut time = 0.0;
    let mut verdict: Option<Option<Expected>> = None;
    let mut client = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{name}.log:{}", number + 1);
        if line.is_empty() || line.starts_with("##") {
            continue;
        }
        let Some(directive) = line.strip_prefix("# ") else {
            let failure = verdict.take().unwrap_or_else(|| panic!("{place}: what must be found in it?"));
            let client = std::mem::take(&mut client);
            let sample = Sample { place, text: line.to_owned(), time, failure, client };
            blocks.last_mut().expect("there is one").samples.push(sample);
            continue;
        };
        match directive.split_once(": ").unwrap_or((directive, "")) {
            ("filter", filter) => blocks.push(block(filter)),
            ("time", text) => time = seconds(text),
            ("failure", text) => {
                let (id, user) =
                    text.split_once(" user=").map_or((text, None), |(id, user)| (id, Some(user)));
                verdict = Some(Some(Expected { id: id.to_owned(), user: user.map(str::to_owned) }));
            }
            ("no failure", "") => verdict = Some(None),
            (name, text) if name.starts_with("client") => {
                let without = name.strip_prefix("client (no ").and_then(|rest| rest.strip_suffix(')'));
                assert!(name == "client" || without.is_some(), "{place}: {name}");
                client
                    .push(Client { text: text.to_owned(), without: without.unwrap_or_default().to_owned() });
            }
            _ => panic!("{place}: {directive} is no directive; a remark begins with ##"),
        }
    }
    blocks
}

fn seconds(text: &str) -> f64 {
    let time: Timestamp = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    time.as_second() as f64
}
