//! `f2b.conf` and `f2b.local`: f2b's own settings, in the same dialect. Unlike in fail2ban's files, an unknown option is
//! an error.

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow, bail};
use f2b_ebpf::MAX_BANS;
use ipnet::IpNet;

use super::dialect::{Options, Tree, Value};
use crate::{ban::Subject, xdp::Mode};

const SECTION: &str = "f2b";
const OPTIONS: [&str; 5] = ["interfaces", "mode", "max_bans", "allow", "log_drops"];
/// Fewest and most bans: a map of 2^24 takes 2 GB.
const BANS_RANGE: std::ops::RangeInclusive<u32> = 16..=1 << 24;

/// f2b's own settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Own {
    /// By name; none: those of the default routes.
    pub interfaces: Vec<String>,
    /// Only this mode; `None`: native, else generic, else tc.
    pub mode: Option<Mode>,
    /// How many bans of addresses must fit in the kernel.
    pub max_bans: u32,
    /// Who is never dropped, whichever jail bans.
    pub allow: Vec<IpNet>,
    /// How many drops a second each CPU reports for the log; 0: none.
    pub log_drops: u32,
}

impl Default for Own {
    fn default() -> Self {
        Self { interfaces: Vec::new(), mode: None, max_bans: MAX_BANS, allow: Vec::new(), log_drops: 0 }
    }
}

/// Reads the settings of a tree.
///
/// # Errors
/// An option or a section that there is not, or a value that makes no sense; with the place.
pub(super) fn read(tree: &Tree) -> Result<Own> {
    let mut own = Own::default();
    let Some(sections) = tree.sections("f2b")? else {
        return Ok(own);
    };
    if let Some(other) = sections.names().find(|name| *name != SECTION) {
        bail!("f2b.conf or f2b.local: there is no section [{other}]; all settings are in [{SECTION}]");
    }
    let names: Vec<_> =
        sections.options(SECTION).map(|(name, value)| (name.to_owned(), value.clone())).collect();
    for (name, written) in names {
        let value = sections.get(SECTION, &name, &Options::new())?.unwrap_or(written);
        own.set(&name, &value).with_context(|| value.place.clone())?;
    }
    Ok(own)
}

impl Own {
    fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let text = value.text.trim();
        let wrong = |what: &str| format!("{name} = {text} is not {what}");
        let words = || text.split([' ', ',', '\n', '\t']).filter(|word| !word.is_empty());
        match name {
            "interfaces" => self.interfaces = words().map(str::to_owned).collect(),
            "mode" => {
                self.mode = match text {
                    "auto" => None,
                    "native" => Some(Mode::Native),
                    "generic" => Some(Mode::Generic),
                    "tc" => Some(Mode::Tc),
                    _ => bail!(wrong("auto, native, generic or tc")),
                }
            }
            "max_bans" => {
                let (first, last) = (BANS_RANGE.start(), BANS_RANGE.end());
                let bans = text.parse().ok().filter(|bans| BANS_RANGE.contains(bans));
                self.max_bans = bans.with_context(|| wrong(&format!("a number from {first} to {last}")))?;
            }
            "allow" => {
                let subject = |word: &str| {
                    let subject = word.parse::<Subject>().map(Subject::net);
                    subject.map_err(|error| anyhow!("allow = {word}: {error}"))
                };
                self.allow = words().map(subject).collect::<Result<_>>()?;
            }
            "log_drops" => {
                self.log_drops = text.parse().ok().with_context(|| wrong("a number of packets a second"))?;
            }
            _ => bail!("there is no option {name}; {}", suggestion(name)),
        }
        Ok(())
    }

    /// What only a start of the agent takes.
    pub fn at_start(&self) -> Self {
        Self { allow: Vec::new(), ..self.clone() }
    }

    /// Whether `address` is allowed.
    pub fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|net| net.contains(&address))
    }
}

/// The option that may have been meant, else all of them.
fn suggestion(name: &str) -> String {
    let nearest = OPTIONS.iter().min_by_key(|option| distance(name, option));
    match nearest.filter(|option| distance(name, option) <= 1 + option.len() / 3) {
        Some(option) => format!("did you mean {option}?"),
        None => format!("there are {}", OPTIONS.join(", ")),
    }
}

/// How many letters must be put in, left out or changed to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.chars().collect();
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(f2b_local: &str) -> Result<Own> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f2b.local"), f2b_local).unwrap();
        read(&Tree::new(Some(dir.path())))
    }

    #[test]
    fn all_settings_are_read() {
        let own = load(
            "[f2b]\ninterfaces = eth0, eth1\nmode = tc\nmax_bans = 1000000\nallow = 192.0.2.0/24 2001:db8::1\nlog_drops = 5\n",
        );
        let expected = Own {
            interfaces: vec!["eth0".into(), "eth1".into()],
            mode: Some(Mode::Tc),
            max_bans: 1_000_000,
            allow: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
            log_drops: 5,
        };
        assert_eq!(own.unwrap(), expected);
        assert_eq!(load("[f2b]\n").unwrap(), Own::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, expected) in [
            ("max_ban = 5", "f2b.local:2: there is no option max_ban; did you mean max_bans?"),
            ("colour = red", "f2b.local:2: there is no option colour; there are interfaces, mode, "),
            ("max_bans = many", "f2b.local:2: max_bans = many is not a number from 16 to 16777216"),
            ("max_bans = 3", "f2b.local:2: max_bans = 3 is not a number from 16"),
            ("mode = fast", "f2b.local:2: mode = fast is not auto, native, generic or tc"),
            (
                "allow = 192.0.2.1/24",
                "f2b.local:2: allow = 192.0.2.1/24: it has bits beyond its length; write 192.0.2.0/24",
            ),
            ("[other]", "f2b.conf or f2b.local: there is no section [other]"),
        ] {
            let error = format!("{:#}", load(&format!("[f2b]\n{text}\n")).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
