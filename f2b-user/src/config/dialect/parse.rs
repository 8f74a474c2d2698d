//! One file's text → its sections. The grammar is that of Python's `configparser.ConfigParser` in its strict mode,
//! with ` ;` as the comment that may follow a value (`client/configparserinc.py`).

use std::sync::Arc;

use anyhow::{Result, bail};
use indexmap::IndexSet;

use super::{DEFAULT, Options, Place, Value};

/// One file's sections, in the order of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) defaults: Options,
    pub(super) sections: indexmap::IndexMap<String, Options>,
}

/// Where the next line belongs.
struct Cursor {
    section: String,
    /// The option whose value an indented line continues.
    option: Option<String>,
    /// How far the line that opened the option was indented.
    indent: usize,
}

/// Reads `text`, which messages call `name`.
///
/// # Errors
/// The first line that is neither a section nor an option, or that sets what the file has set already: fail2ban
/// refuses its whole configuration then.
pub(super) fn parse(text: &str, name: &str) -> Result<File> {
    let mut file = File::default();
    let name = Arc::from(name);
    let mut seen = IndexSet::new();
    let mut cursor: Option<Cursor> = None;
    // What Python's text mode does to line ends.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (number, line) in text.strip_suffix('\n').unwrap_or(&text).split('\n').enumerate() {
        let place = || Place::new(&name, number + 1);
        let (content, commented) = without_comment(line);
        let content = trim(content);
        if content.is_empty() {
            // An empty line inside a value belongs to it; the place of a comment does not.
            if let Some(value) = cursor.as_ref().filter(|_| !commented).and_then(|cursor| file.open(cursor)) {
                value.push_line("", place());
            }
            continue;
        }
        let indent = line.chars().take_while(|c| is_space(*c)).count();
        if let Some(open) = &cursor
            && indent > open.indent
            && let Some(value) = file.open(open)
        {
            value.push_line(content, place());
            continue;
        }
        if let Some(section) = section_name(content) {
            if section != DEFAULT && !seen.insert((section.to_owned(), None)) {
                bail!("{}: [{section}] stands twice in this file; make one section of both", place());
            }
            if section != DEFAULT {
                file.sections.entry(section.to_owned()).or_default();
            }
            cursor = Some(Cursor { section: section.to_owned(), option: None, indent });
            continue;
        }
        let Some(cursor) = &mut cursor else {
            if content.starts_with('[') {
                bail!("{}: \"{content}\" lacks the closing ]", place());
            }
            bail!("{}: \"{content}\" stands before the first [section]", place());
        };
        cursor.indent = indent;
        let Some((option, text)) =
            content.split_once(['=', ':']).filter(|(option, _)| !trim(option).is_empty())
        else {
            if content.starts_with('[') {
                bail!("{}: \"{content}\" lacks the closing ]", place());
            }
            if indent > 0 && cursor.option.is_none() {
                bail!("{}: an indented line continues a value, but there is none above it", place());
            }
            bail!("{}: \"{content}\" is neither a [section] nor option = value", place());
        };
        let option = trim(option).to_lowercase();
        if !seen.insert((cursor.section.clone(), Some(option.clone()))) {
            bail!("{}: {option} stands twice in [{}] of this file; keep one", place(), cursor.section);
        }
        let value = Value::new(trim(text), &place());
        file.section(&cursor.section).insert(option.clone(), value);
        cursor.option = Some(option);
    }
    let sections = file.sections.values_mut().chain([&mut file.defaults]);
    for value in sections.flat_map(|section| section.values_mut()) {
        value.truncate(trim_end(&value.text).len());
    }
    Ok(file)
}

impl File {
    pub(super) fn values(&self) -> impl Iterator<Item = &Value> {
        self.sections.values().chain([&self.defaults]).flat_map(|section| section.values())
    }

    fn section(&mut self, name: &str) -> &mut Options {
        match name {
            DEFAULT => &mut self.defaults,
            name => self.sections.entry(name.to_owned()).or_default(),
        }
    }

    /// The value that an indented line would continue.
    fn open(&mut self, cursor: &Cursor) -> Option<&mut Value> {
        let option = cursor.option.as_ref()?;
        self.section(&cursor.section).get_mut(option)
    }
}

/// `[name]`, up to the last bracket of the line.
fn section_name(content: &str) -> Option<&str> {
    let (name, _) = content.strip_prefix('[')?.rsplit_once(']')?;
    (!name.is_empty()).then_some(name)
}

/// The line without its comment, and whether it had one: `#` or `;` as the first character, `;` behind white space.
fn without_comment(line: &str) -> (&str, bool) {
    if line.trim_start_matches(is_space).starts_with(['#', ';']) {
        return ("", true);
    }
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == ';' && is_space(before) {
            return (&line[..at], true);
        }
        before = c;
    }
    (line, false)
}

/// White space as Python's `str.isspace` has it: Rust's lacks the four ASCII separators.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// Python's `str.strip`.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, option: &str) -> String {
        parse(text, "x").unwrap().sections["a"][option].text.clone()
    }

    #[test]
    fn values_continue_on_lines_that_are_indented_deeper() {
        assert_eq!(value("[a]\nx = 1 ; one\n# no\n  2\n\n ; no\n  3;\n\ny=0\n", "x"), "1\n2\n\n3;");
        assert_eq!(value("[a]\n  x = 1\n  y = 2\n   3\n", "y"), "2\n3");
        assert_eq!(value("[a]\r\nX :\r\n [b]\r\n", "x"), "\n[b]");
        assert_eq!(value("[a]\nx = y = z: 1\n", "x"), "y = z: 1");
        assert_eq!(value("[a] b\nx = http://h/#a\n", "x"), "http://h/#a");
    }

    #[test]
    fn broken_lines_are_named_with_file_and_line() {
        for (text, message) in [
            ("maxretry = 3\n", "x:1: \"maxretry = 3\" stands before the first [section]"),
            ("[sshd\n", "x:1: \"[sshd\" lacks the closing ]"),
            ("[a]\n[sshd\n", "x:2: \"[sshd\" lacks the closing ]"),
            ("[a]\nmaxretry\n", "x:2: \"maxretry\" is neither a [section] nor option = value"),
            ("[a]\n= 3\n", "x:2: \"= 3\" is neither a [section] nor option = value"),
            ("[a]\n  5\n", "x:2: an indented line continues a value, but there is none above it"),
            ("[a]\nb=1\nB=1\n", "x:3: b stands twice in [a] of this file; keep one"),
            ("[a]\n[b]\n[a]\n", "x:3: [a] stands twice in this file; make one section of both"),
        ] {
            assert_eq!(parse(text, "x").unwrap_err().to_string(), message, "{text}");
        }
        parse("[DEFAULT]\na=1\n[DEFAULT]\nb=1\n", "x").unwrap();
    }
}
