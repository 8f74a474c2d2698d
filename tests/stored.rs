//! The journal as it is stored: what journalctl reads of its files we read as well, in its order, however they are
//! written; and of damaged ones what can be read.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use f2b::source::journal::{
    Files, JournalMatch,
    disk::{Journal, Location, Start},
};
use tempfile::TempDir;

/// How many times each story is told with other entries; `cargo xtask soak` sets it higher.
const SEEDS: u64 = 2;
const SEEDS_VARIABLE: &str = "F2B_SOAK_SEEDS";
/// Fields that are longer are cut, as filters look at less.
const LONGEST: usize = 16 * 1024;
/// When the first entry was written, in microseconds since 1970.
const BEGIN: u64 = 1_795_500_000_000_000;

/// How systemd-journal-remote can be made to write its files, and the flags that these have then.
const WAYS: [(&[(&str, &str)], u32); 4] = [
    (&[], KEYED | COMPACT | ZSTD),
    (&[("SYSTEMD_JOURNAL_COMPACT", "0")], KEYED | ZSTD),
    (&[("SYSTEMD_JOURNAL_COMPACT", "0"), ("SYSTEMD_JOURNAL_KEYED_HASH", "0")], ZSTD),
    (&[("SYSTEMD_JOURNAL_KEYED_HASH", "0")], COMPACT | ZSTD),
];
const KEYED: u32 = 1 << 2;
const ZSTD: u32 = 1 << 3;
const COMPACT: u32 = 1 << 4;
/// Files in ways that it does not write any more (LZ4, XZ), or never had (arrays of a few entries).
const BY_HAND: &str = "../fuzz/corpus/journal";

/// The fields of an entry, by name, each with its values in order.
type Fields = BTreeMap<String, Vec<Vec<u8>>>;

/// An entry: its cursor and its fields.
#[derive(Debug, PartialEq)]
struct Entry {
    cursor: String,
    fields: Fields,
}

/// A folder with journals.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch directory"))
    }

    fn journals(&self) -> PathBuf {
        self.0.path().join("journals")
    }

    /// Writes a journal file of these entries, each in the journal's export format.
    fn write(&self, name: &str, entries: &[Vec<u8>], way: &[(&str, &str)]) -> PathBuf {
        let (input, output) = (self.0.path().join("export"), self.journals().join(name));
        fs::create_dir_all(self.journals()).expect("the scratch directory is writable");
        fs::write(&input, entries.concat()).expect("the scratch directory is writable");
        let mut remote = Command::new("/lib/systemd/systemd-journal-remote");
        remote.envs(way.iter().copied()).arg("-o").arg(&output).arg(&input);
        let wrote = remote.output().expect("systemd-journal-remote is installed");
        assert!(wrote.status.success(), "systemd-journal-remote: {}", String::from_utf8_lossy(&wrote.stderr));
        output
    }

    /// What journalctl reads.
    fn journalctl(&self, args: &[impl AsRef<OsStr>]) -> Vec<Entry> {
        let mut journalctl = Command::new("journalctl");
        journalctl
            .args(["--quiet", "--all", "--no-pager", "--output=export", "--directory"])
            .arg(self.journals());
        let output = journalctl.args(args).output().expect("journalctl is installed");
        // Of a damaged file, it reads what it can before it fails.
        exported(&output.stdout)
    }

    fn journal(&self) -> Journal {
        let path = self.journals();
        let files =
            Files::new([("journalpath", path.to_str().expect("a path in ASCII"))]).expect("it is one");
        Journal::open(&files).expect("the folder can be read")
    }

    /// What we read, from `start` on.
    fn ours(&self, start: Start, wanted: Option<&JournalMatch>) -> Vec<Entry> {
        let mut journal = self.journal();
        journal.read_from(start, wanted, &NAMES, LONGEST);
        let (entries, damage) = read(&mut journal);
        assert!(damage.is_empty(), "{damage:?}");
        entries
    }
}

/// The fields that we ask for; there are others.
const NAMES: [&str; 5] = ["MESSAGE", "_COMM", "_PID", "_SYSTEMD_UNIT", "EMPTY"];

/// All entries that are left, and what cannot be read.
fn read(journal: &mut Journal) -> (Vec<Entry>, Vec<String>) {
    let (mut entries, mut damage) = (Vec::new(), Vec::new());
    loop {
        let location = match journal.next_entry() {
            Ok(Some(location)) => location,
            Ok(None) => return (entries, damage),
            Err(error) => {
                damage.push(error.to_string());
                continue;
            }
        };
        let mut fields = Fields::new();
        let read = journal.fields(|name, value| {
            let name = String::from_utf8_lossy(name).into_owned();
            fields.entry(name).or_default().push(value.to_vec());
        });
        match read {
            Ok(()) => entries.push(Entry { cursor: location.to_string(), fields }),
            Err(error) => damage.push(journal.damage(error).to_string()),
        }
    }
}

/// Reads the journal's export format (<https://systemd.io/JOURNAL_EXPORT_FORMATS/>).
fn exported(mut text: &[u8]) -> Vec<Entry> {
    let mut entries = Vec::new();
    let (mut cursor, mut fields) = (String::new(), Fields::new());
    while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
        let line = &text[..end];
        text = &text[end + 1..];
        if line.is_empty() {
            entries.push(Entry { cursor: std::mem::take(&mut cursor), fields: std::mem::take(&mut fields) });
            continue;
        }
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(at) => (&line[..at], line[at + 1..].to_vec()),
            None => {
                // journalctl may have failed in the middle of it.
                let Some((length, rest)) = text.split_first_chunk() else { break };
                let length = u64::from_le_bytes(*length) as usize;
                let Some(value) = rest.get(..length) else { break };
                text = &rest[length + 1..];
                (line, value.to_vec())
            }
        };
        let name = String::from_utf8_lossy(name).into_owned();
        if name == "__CURSOR" {
            cursor = String::from_utf8_lossy(&value).into_owned();
        } else if NAMES.contains(&&*name) {
            // Its name counts as well.
            let length = value.len().min(LONGEST - name.len() - 1);
            fields.entry(name).or_default().push(value[..length].to_vec());
        }
    }
    entries
}

/// An entry in the export format.
fn entry(time: u64, boot: u64, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = format!(
        "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={boot:032x}\n",
        time - BEGIN
    );
    text.push_str("PRIORITY=6\n_TRANSPORT=syslog\n");
    let mut text = text.into_bytes();
    for (name, value) in fields {
        text.extend_from_slice(name.as_bytes());
        text.push(b'\n');
        text.extend_from_slice(&(value.len() as u64).to_le_bytes());
        text.extend_from_slice(value);
        text.push(b'\n');
    }
    text.push(b'\n');
    text
}

/// Entries of some services, some of them with odd fields, every `step` microseconds.
fn entries(random: &mut fastrand::Rng, count: usize, begin: u64, boot: u64) -> Vec<Vec<u8>> {
    let mut time = BEGIN + begin;
    let mut one = |number: usize| {
        time += random.u64(1..50);
        let pid = random.u32(1..2000).to_string();
        let unit =
            *random.choice(&["cron.service", "nginx.service", "postfix.service"]).expect("there are some");
        let unit = if random.u32(..100) == 0 { "ssh.service" } else { unit };
        let length = *random.choice(&[0, 10, 40, 300, 700]).expect("there are some");
        let length = if random.u32(..500) == 0 { 40_000 } else { length };
        // Text can be compressed; so that it is not the same in all entries, it begins with its number.
        let mut message = format!("{number} of {begin}: ").into_bytes();
        message.extend((0..length).map(|_| if random.u32(..20) == 0 { random.u8(..) } else { b'a' }));
        let mut fields: Vec<(&str, &[u8])> = vec![
            ("_COMM", if unit == "ssh.service" { b"sshd" } else { b"other" }),
            ("_PID", pid.as_bytes()),
            ("_SYSTEMD_UNIT", unit.as_bytes()),
            ("MESSAGE", &message),
        ];
        match random.u32(..10) {
            0 => fields.push(("MESSAGE", b"and more")),
            1 => fields.push(("EMPTY", b"")),
            2 => fields.retain(|(name, _)| *name != "_PID"),
            _ => {}
        }
        entry(time, boot, &fields)
    };
    (0..count).map(&mut one).collect()
}

fn seeds() -> impl Iterator<Item = u64> {
    let seeds = env::var(SEEDS_VARIABLE).map_or(SEEDS, |seeds| seeds.parse().expect("a number of seeds"));
    0..seeds
}

fn flags(journal: &Path) -> u32 {
    let bytes = fs::read(journal).expect("it can be read");
    u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes"))
}

fn wanted(text: &str) -> JournalMatch {
    JournalMatch::parse(text).expect("it is one")
}

#[track_caller]
fn assert_same(ours: &[Entry], theirs: &[Entry], of: &str) {
    for (number, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours, theirs, "{of}: entry {number}");
    }
    assert_eq!(ours.len(), theirs.len(), "{of}: entries");
}

#[test]
fn entries_are_those_of_journalctl_however_they_are_written() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        for (way, expected) in WAYS {
            let folder = Folder::new();
            let journal = folder.write("a.journal", &entries(&mut random, 3000, 0, 7), way);
            assert_eq!(flags(&journal), expected, "{way:?}: systemd-journal-remote writes it so");
            let theirs = folder.journalctl(&["--all"]);
            assert_eq!(theirs.len(), 3000);
            assert_same(&folder.ours(Start::Time(0), None), &theirs, &format!("seed {seed}, {way:?}"));
        }
    }
}

#[test]
fn files_that_were_written_by_hand_are_those_of_journalctl() {
    for file in fs::read_dir(BY_HAND).expect("it is in the repository") {
        let file = file.expect("it can be read").path();
        let folder = Folder::new();
        fs::create_dir_all(folder.journals()).expect("the scratch directory is writable");
        fs::copy(&file, folder.journals().join("a.journal")).expect("the scratch directory is writable");
        let theirs = folder.journalctl(&["--all"]);
        assert!(theirs.len() > 1, "{}: {theirs:?}", file.display());
        assert_same(&folder.ours(Start::Time(0), None), &theirs, &file.display().to_string());
    }
}

#[test]
fn files_of_several_journals_and_boots_are_read_in_the_order_of_journalctl() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = Folder::new();
        for number in 0..6 {
            let way = WAYS[random.usize(..WAYS.len())].0;
            // Some at the same time in the same boot, some later, some in another one.
            let (begin, boot) = (random.u64(..3) * 20_000, random.u64(7..9));
            let count = random.usize(1..2000);
            folder.write(&format!("{number}.journal"), &entries(&mut random, count, begin, boot), way);
        }
        let theirs = folder.journalctl(&["--all"]);
        assert_same(&folder.ours(Start::Time(0), None), &theirs, &format!("seed {seed}"));
    }
}

#[test]
fn what_jails_ask_for_is_found_as_journalctl_finds_it() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = Folder::new();
        for number in 0..3 {
            let way = WAYS[random.usize(..WAYS.len())].0;
            let begin = number * 200_000;
            folder.write(&format!("{number}.journal"), &entries(&mut random, 8000, begin, 7), way);
        }
        for text in [
            "_SYSTEMD_UNIT=ssh.service",
            "_SYSTEMD_UNIT=ssh.service + _PID=17",
            "_SYSTEMD_UNIT=ssh.service _SYSTEMD_UNIT=cron.service _PID=3 _PID=4",
            "_SYSTEMD_UNIT=nginx.service",
            "_COMM=sshd _PID=999999 + _SYSTEMD_UNIT=none.service",
        ] {
            let theirs = folder.journalctl(&text.split(' ').collect::<Vec<_>>());
            let wanted = wanted(text);
            let mut ours = folder.ours(Start::Time(0), Some(&wanted));
            // We may hand out more; the jails' matches are looked at again.
            ours.retain(|entry| accepts(text, entry));
            assert_same(&ours, &theirs, &format!("seed {seed}, {text}"));
        }
    }
}

/// Whether the entry satisfies a `journalmatch`.
fn accepts(journalmatch: &str, entry: &Entry) -> bool {
    let has = |term: &str| {
        let (name, value) = term.split_once('=').expect("a field and its value");
        entry.fields.get(name).is_some_and(|values| values.iter().any(|held| held == value.as_bytes()))
    };
    let name = |term: &str| term.split('=').next().expect("a field").to_owned();
    journalmatch.split(" + ").any(|group| {
        let terms: Vec<&str> = group.split(' ').collect();
        terms.iter().all(|term| terms.iter().any(|other| name(other) == name(term) && has(other)))
    })
}

#[test]
fn reading_goes_on_where_journalctl_does() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = Folder::new();
        for number in 0..3 {
            let way = WAYS[random.usize(..WAYS.len())].0;
            folder.write(&format!("{number}.journal"), &entries(&mut random, 2000, number * 30_000, 7), way);
        }
        let all = folder.journalctl(&["--all"]);
        for _ in 0..5 {
            let last = &all[random.usize(..all.len())];
            let location: Location = last.cursor.parse().expect("it is a cursor");
            assert_eq!(location.to_string(), last.cursor);
            assert!(folder.journal().has(&location));
            let of = format!("seed {seed}, after {}", last.cursor);
            let theirs = folder.journalctl(&[format!("--after-cursor={}", last.cursor)]);
            assert_same(&folder.ours(Start::After(location), None), &theirs, &of);
            let since = location.realtime / 1_000_000 * 1_000_000;
            let theirs = folder.journalctl(&[format!("--since=@{}", since / 1_000_000)]);
            assert_same(
                &folder.ours(Start::Time(since), None),
                &theirs,
                &format!("seed {seed}, since {since}"),
            );
        }
        let mut gone: Location = all[7].cursor.parse().expect("it is a cursor");
        gone.monotonic += 1;
        gone.realtime += 1;
        assert!(!folder.journal().has(&gone) || all.iter().any(|entry| entry.cursor == gone.to_string()));
    }
}

#[test]
fn of_damaged_files_as_much_is_read_as_journalctl_reads() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        for (way, _) in WAYS {
            let folder = Folder::new();
            let path = folder.write("a.journal", &entries(&mut random, 2000, 0, 7), way);
            let whole = folder.ours(Start::Time(0), None);
            let bytes = fs::read(&path).expect("it can be read");
            let number =
                |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes")) as usize;
            // From the list of all entries to the last object; what is before is a table that is nearly empty.
            let used = number(176)..number(136);
            for round in 0..30 {
                let mut damaged = bytes.clone();
                let at = random.usize(used.clone());
                match round % 3 {
                    0 => (0..20).for_each(|_| damaged[random.usize(used.clone())] = random.u8(..)),
                    1 => damaged[at..at + random.usize(1..4096)].fill(0),
                    _ => damaged.truncate(at),
                }
                fs::write(&path, &damaged).expect("the scratch directory is writable");
                let right = |entries: &[Entry]| entries.iter().filter(|entry| whole.contains(entry)).count();
                let theirs = right(&folder.journalctl(&["--all"]));
                let mut journal = folder.journal();
                journal.values("_SYSTEMD_UNIT");
                journal.read_from(Start::Time(0), None, &NAMES, LONGEST);
                let (entries, damage) = read(&mut journal);
                let ours = right(&entries);
                let of = format!(
                    "seed {seed}, {way:?}, round {round}: {ours} of {}, {theirs}, {damage:?}",
                    entries.len()
                );
                // An entry that lost a field is one that cannot be read; journalctl shows what is left of it.
                assert!(ours + damage.len() >= theirs && entries.len() <= whole.len(), "{of}");
                assert!(
                    ours == whole.len() || entries.len() > ours || !damage.is_empty(),
                    "nothing is lost silently: {of}"
                );
                // By the lists, it comes to an end, too.
                journal.read_from(
                    Start::Time(BEGIN),
                    &Some(wanted("_SYSTEMD_UNIT=ssh.service")),
                    &NAMES,
                    LONGEST,
                );
                let (entries, _) = read(&mut journal);
                assert!(entries.len() <= whole.len(), "{of}");
            }
        }
    }
}
