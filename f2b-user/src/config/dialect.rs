//! fail2ban's configuration dialect: where files are found, how they are laid over each other, and how a value is
//! read from them. Knows nothing about what the options mean.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use include_dir::{Dir, include_dir};

static BUILT_IN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/defaults");

/// How deep `%(option)s` may refer to options that refer to options: fail2ban's parser stops at ten as well.
const MAX_DEPTH: usize = 10;

/// One configuration tree: the built-in one, the user's, or the user's laid over the built-in one.
#[derive(Debug)]
pub struct Tree {
    dir: Option<PathBuf>,
    built_in: bool,
}

impl Tree {
    /// The tree at `dir`. Without its own `jail.conf` it is laid over the built-in tree, so that five lines of
    /// `jail.local` are enough.
    pub fn new(dir: Option<&Path>) -> Self {
        let complete = dir.is_some_and(|dir| dir.join("jail.conf").exists());
        Self { dir: dir.map(Path::to_owned), built_in: !complete }
    }

    /// The sections of `stem` (`jail`, `filter.d/sshd`): `stem.conf`, `stem.d/*.conf`, `stem.local`,
    /// `stem.d/*.local`, each overriding what came before.
    pub fn sections(&self, stem: &str) -> Result<Sections> {
        let mut sections = Sections::default();
        let mut found = false;
        for suffix in ["conf", "local"] {
            let mut files = vec![format!("{stem}.{suffix}")];
            files.extend(self.drop_ins(&format!("{stem}.d"), suffix)?);
            for file in files {
                found |= self.read_into(&file, &mut sections)?;
            }
        }
        if !found {
            bail!("{stem}.conf is neither in {} nor built in", self.describe());
        }
        Ok(sections)
    }

    fn describe(&self) -> String {
        self.dir.as_ref().map_or_else(|| "the built-in tree".into(), |dir| dir.display().to_string())
    }

    /// The names of `dir/*.suffix`, sorted.
    fn drop_ins(&self, dir: &str, suffix: &str) -> Result<Vec<String>> {
        let Some(base) = &self.dir else {
            return Ok(Vec::new());
        };
        let path = base.join(dir);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("reading {}", path.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("reading {}", path.display()))?.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == suffix) {
                names.push(format!("{dir}/{}", name.to_string_lossy()));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Lays one file over `sections`; whether there is such a file.
    fn read_into(&self, file: &str, sections: &mut Sections) -> Result<bool> {
        let mut found = false;
        if let Some(text) = self.built_in.then(|| BUILT_IN.get_file(file)).flatten() {
            sections.lay_over(&String::from_utf8_lossy(text.contents()), &format!("(built-in)/{file}"))?;
            found = true;
        }
        if let Some(path) = self.dir.as_ref().map(|dir| dir.join(file)) {
            match fs::read(&path) {
                Ok(text) => {
                    sections.lay_over(&String::from_utf8_lossy(&text), &path.display().to_string())?;
                    found = true;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
            }
        }
        Ok(found)
    }
}

/// A value as written, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Value {
    pub text: String,
    /// `file:line`, for messages.
    pub place: String,
}

/// `[section]` → option → value. `[DEFAULT]` lends its options to every other section.
#[derive(Debug, Default)]
pub struct Sections {
    sections: BTreeMap<String, BTreeMap<String, Value>>,
}

const DEFAULT: &str = "DEFAULT";

impl Sections {
    /// The sections, without `[DEFAULT]` and `[INCLUDES]`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str).filter(|name| ![DEFAULT, "INCLUDES"].contains(name))
    }

    /// The option's value with every `%(other)s` replaced, looked up in the section, then in `[DEFAULT]`.
    pub fn get(&self, section: &str, option: &str) -> Result<Option<Value>> {
        let Some(value) = self.raw(section, option) else {
            return Ok(None);
        };
        let text = self
            .interpolate(section, &value.text, 0)
            .with_context(|| format!("{}: {option}", value.place))?;
        Ok(Some(Value { text, place: value.place.clone() }))
    }

    /// The options that the section itself sets (not those of `[DEFAULT]`).
    pub fn options(&self, section: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.sections.get(section).into_iter().flatten().map(|(option, value)| (option.as_str(), value))
    }

    fn raw(&self, section: &str, option: &str) -> Option<&Value> {
        let option = option.to_lowercase();
        [section, DEFAULT].iter().find_map(|section| self.sections.get(*section)?.get(&option))
    }

    fn interpolate(&self, section: &str, text: &str, depth: usize) -> Result<String> {
        if depth > MAX_DEPTH {
            bail!("%(…)s refers to itself");
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                out.push('%');
                rest = after;
            } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|rest| rest.split_once(")s"))
            {
                let (section, option) = match name.split_once('/') {
                    Some((other, option)) if other.eq_ignore_ascii_case(DEFAULT) => (DEFAULT, option),
                    Some((other, option)) => (other, option),
                    None => (section, name),
                };
                let Some(value) = self.raw(section, option) else {
                    bail!("%({name})s is not set anywhere; set it in [{section}] or [DEFAULT]");
                };
                out.push_str(&self.interpolate(section, &value.text, depth + 1)?);
                rest = after;
            } else {
                bail!(
                    "a lone % in \"{text}\"; write %% for a percent sign, %(option)s for another option's value"
                );
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Reads `text` and lets it override what is there.
    fn lay_over(&mut self, text: &str, file: &str) -> Result<()> {
        let mut section: Option<String> = None;
        let mut option: Option<String> = None;
        for (number, line) in text.lines().enumerate() {
            let place = format!("{file}:{}", number + 1);
            let line = without_comment(line);
            if line.trim().is_empty() {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                let continued = section.as_ref().zip(option.as_ref());
                let value =
                    continued.and_then(|(section, option)| self.sections.get_mut(section)?.get_mut(option));
                let Some(value) = value else {
                    bail!("{place}: an indented line continues a value, but there is none above it");
                };
                value.text.push('\n');
                value.text.push_str(line.trim());
            } else if let Some(name) = line.strip_prefix('[') {
                let Some((name, _)) = name.split_once(']') else {
                    bail!("{place}: \"{}\" lacks the closing ]", line.trim());
                };
                self.sections.entry(name.to_owned()).or_default();
                section = Some(name.to_owned());
                option = None;
            } else {
                let Some(section) = &section else {
                    bail!("{place}: \"{}\" stands before the first [section]", line.trim());
                };
                let Some((name, text)) = line.split_once(['=', ':']) else {
                    bail!("{place}: \"{}\" is neither a [section] nor option = value", line.trim());
                };
                let name = name.trim().to_lowercase();
                let value = Value { text: text.trim().to_owned(), place };
                self.sections.entry(section.clone()).or_default().insert(name.clone(), value);
                option = Some(name);
            }
        }
        Ok(())
    }
}

/// The line without a whole-line comment (`#` or `;` first) or a trailing one (` ;`).
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with(['#', ';']) {
        return "";
    }
    line.find(" ;").map_or(line, |at| &line[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Sections> {
        let mut sections = Sections::default();
        sections.lay_over(text, "jail.local").map(|()| sections)
    }

    fn value(sections: &Sections, section: &str, option: &str) -> String {
        sections.get(section, option).unwrap().unwrap().text
    }

    #[test]
    fn values_continue_on_indented_lines_and_lose_their_comments() {
        let sections = read("[sshd]\nfailregex = ^a$ ; one\n# no\n            ^b$\nPort=ssh\n").unwrap();
        assert_eq!(value(&sections, "sshd", "failregex"), "^a$\n^b$");
        assert_eq!(value(&sections, "sshd", "port"), "ssh");
    }

    #[test]
    fn options_come_from_the_section_then_from_default() {
        let sections = read("[DEFAULT]\nt = 10m\nbantime = %(t)s\n[sshd]\nt = 1h\n[other]\n").unwrap();
        assert_eq!(value(&sections, "sshd", "bantime"), "1h");
        assert_eq!(value(&sections, "other", "bantime"), "10m");
        assert_eq!(sections.get("sshd", "nothing").unwrap(), None);
    }

    #[test]
    fn interpolation_reaches_other_sections_and_stops_at_circles() {
        let sections = read("[a]\nx = 100%%\n[b]\nx = %(a/x)s\ny = %(y)s\nz = %(no)s\n").unwrap();
        assert_eq!(value(&sections, "b", "x"), "100%");
        let circle = format!("{:#}", sections.get("b", "y").unwrap_err());
        assert_eq!(circle, "jail.local:5: y: %(…)s refers to itself");
        let missing = format!("{:#}", sections.get("b", "z").unwrap_err());
        assert!(missing.starts_with("jail.local:6: z: %(no)s is not set anywhere"), "{missing}");
    }

    #[test]
    fn broken_lines_are_named_with_file_and_line() {
        for (text, message) in [
            ("maxretry = 3\n", "jail.local:1: \"maxretry = 3\" stands before the first [section]"),
            ("[sshd\n", "jail.local:1: \"[sshd\" lacks the closing ]"),
            ("[sshd]\nmaxretry\n", "jail.local:2: \"maxretry\" is neither a [section] nor option = value"),
            ("[sshd]\n  5\n", "jail.local:2: an indented line continues a value, but there is none above it"),
        ] {
            assert_eq!(format!("{:#}", read(text).unwrap_err()), message);
        }
    }
}
