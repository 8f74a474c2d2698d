//! Which journal files are read: `journalpath`, `journalfiles`, `journalflags` and `namespace`, as fail2ban's systemd
//! backend takes them (`FilterSystemd._getJournalArgs` in `server/filtersystemd.py`).

use std::{env, fmt, path::PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use crate::config::LogPath;

/// The machine's journal, among the positions that are stored.
const SOURCE: &str = "journal";
/// `SD_JOURNAL_SYSTEM`: fail2ban's default for the machine's journal, without the files of every user.
const SYSTEM: i32 = 4;
/// The environment of fail2ban may say it.
const DEFAULT_FLAGS: &str = "F2B_SYSTEMD_DEFAULT_FLAGS";

/// Which journal files are read, with the flags that the function of libsystemd for them takes (sd_journal_open(3)).
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Files {
    pub place: Place,
    pub flags: i32,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// The machine's.
    Machine,
    /// Those of a journal namespace (systemd-journald.service(8)).
    Namespace(String),
    Directory(PathBuf),
    /// Those that match one of these patterns.
    These(Vec<String>),
}

impl Files {
    /// What `options` ask for.
    ///
    /// # Errors
    /// There is no such option, its value is none, or two of them contradict each other.
    pub fn new<'a>(options: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let (mut path, mut files, mut namespace, mut flags) = (None, None, None, None);
        for (option, value) in options {
            match option {
                "journalpath" => path = Some(value),
                "journalfiles" => files = Some(value),
                "namespace" => namespace = Some(value),
                "journalflags" => {
                    flags = Some(number(value).with_context(|| format!("journalflags={value}"))?);
                }
                other => bail!(
                    "{other}= is no option of the journal; use journalpath, journalfiles, journalflags or namespace"
                ),
            }
        }
        let place = match (path, files, namespace) {
            (Some(_), Some(_), _) => {
                bail!("journalpath= and journalfiles= exclude each other; remove one of them")
            }
            (Some(path), None, _) => Place::Directory(path.into()),
            (None, Some(patterns), _) => Place::These(words(patterns)),
            (None, None, Some(namespace)) => Place::Namespace(namespace.to_owned()),
            (None, None, None) => Place::Machine,
        };
        let flags = match (flags, &place) {
            (Some(flags), _) => flags,
            (None, Place::Directory(_) | Place::These(_)) => 0,
            (None, Place::Machine | Place::Namespace(_)) => match env::var(DEFAULT_FLAGS) {
                Ok(flags) => number(&flags).context(DEFAULT_FLAGS)?,
                Err(_) => SYSTEM,
            },
        };
        Ok(Self { place, flags })
    }

    /// Whether libsystemd could ever open them: fail2ban reads through it.
    ///
    /// # Errors
    /// The place or the flags are none.
    pub fn check(&self) -> Result<()> {
        self.check_flags()?;
        match &self.place {
            Place::Directory(path) => {
                ensure!(path.is_absolute(), "journalpath= is no path; write for example /var/log/journal")
            }
            Place::These(patterns) => {
                ensure!(
                    !patterns.is_empty(),
                    "journalfiles= is empty; write for example /var/log/journal/*/*.journal"
                );
            }
            Place::Namespace(name) => {
                ensure!(!name.is_empty(), "namespace= is empty; write a name, or remove it")
            }
            Place::Machine => {}
        }
        Ok(())
    }

    /// Whether libsystemd knows the flags for such a place.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn check_flags(&self) -> Result<()> {
        // sd_journal_open(3) tells which flag is for which function.
        let (known, sentence) = match &self.place {
            Place::Machine | Place::Namespace(_) => (0b110_1111, "a sum of 1, 2, 4, 8, 32 and 64"),
            Place::Directory(_) => (0b001_1100, "a sum of 4, 8 and 16"),
            Place::These(_) => (0, "0"),
        };
        let flags = self.flags;
        ensure!(flags & !known == 0, "journalflags={flags}: here it is {sentence} (sd_journal_open(3))");
        Ok(())
    }

    /// What `journalfiles` names and is there, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        let Place::These(patterns) = &self.place else { return Vec::new() };
        let pattern = |word: &String| LogPath { pattern: word.clone(), from: "head".into() };
        let mut files: Vec<PathBuf> = patterns.iter().flat_map(|word| pattern(word).files()).collect();
        files.sort();
        files.dedup();
        files
    }

    /// Their name among the positions that are stored.
    pub fn source(&self) -> String {
        let default = Self { place: Place::Machine, flags: SYSTEM };
        if *self == default { SOURCE.to_owned() } else { format!("{SOURCE}:{self}") }
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Machine => f.write_str("/var/log/journal or /run/log/journal")?,
            Place::Namespace(name) => write!(f, "namespace={name}")?,
            Place::Directory(path) => write!(f, "journalpath={}", path.display())?,
            Place::These(patterns) => write!(f, "journalfiles={}", patterns.join(" "))?,
        }
        match (&self.place, self.flags) {
            (Place::Machine | Place::Namespace(_), SYSTEM) | (Place::Directory(_) | Place::These(_), 0) => {
                Ok(())
            }
            (_, flags) => write!(f, ", journalflags={flags}"),
        }
    }
}

fn number(text: &str) -> Result<i32> {
    text.trim().parse().with_context(|| format!("{text} is no number"))
}

fn words(patterns: &str) -> Vec<String> {
    patterns.split([' ', ',', '\n']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_a_position_of_its_own() {
        let source = |options: &[(&str, &str)]| Files::new(options.iter().copied()).unwrap().source();
        assert_eq!(source(&[("journalflags", "4")]), "journal");
        assert_eq!(
            source(&[("journalflags", "5")]),
            "journal:/var/log/journal or /run/log/journal, journalflags=5"
        );
        assert_eq!(source(&[("journalfiles", "/a.journal, /b*")]), "journal:journalfiles=/a.journal /b*");
        assert_eq!(source(&[("namespace", "web"), ("journalflags", "4")]), "journal:namespace=web");
        assert_eq!(source(&[("journalpath", "/a")]), "journal:journalpath=/a");
    }

    #[test]
    fn what_libsystemd_would_refuse_is_refused_with_a_fix() {
        let check = |options: &[(&str, &str)]| {
            let checked = Files::new(options.iter().copied()).and_then(|files| files.check());
            checked.err().map(|error| format!("{error:#}"))
        };
        for (options, expected) in [
            (&[("journalflags", "16")][..], "journalflags=16: here it is a sum of 1, 2"),
            (&[("journalpath", "/a"), ("journalflags", "1")], "here it is a sum of 4, 8 and 16"),
            (&[("journalfiles", "/a"), ("journalflags", "4")], "here it is 0"),
            (&[("journalfiles", " ")], "journalfiles= is empty; write"),
            (&[("journalpath", "a")], "write for example /var/log/journal"),
            (&[("namespace", "")], "remove it"),
            (&[("journalflags", "x")], "x is no number"),
            (&[("journalpath", "/a"), ("journalfiles", "/b")], "remove one of them"),
            (&[("journalfile", "/b")], "journalfile= is no option of the journal; use journalpath"),
        ] {
            let error = check(options).unwrap();
            assert!(error.contains(expected), "{options:?}: {error}");
        }
        assert_eq!(check(&[("journalpath", "/a"), ("journalflags", "4")]), None);
    }
}
