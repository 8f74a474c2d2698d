//! Where the lines come from: the command line, a file in any encoding, the journal.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
    vec,
};

use anyhow::{Context as _, Result, bail};
use encoding_rs::{UTF_8, UTF_16BE, UTF_16LE};
use encoding_rs_io::DecodeReaderBytesBuilder;

pub(super) use crate::source::charset::Charset;
use crate::{
    config,
    source::journal::{Entries, Files, Logged, Place},
};

/// A line in a file is cut here: what is longer is no line of a log, and must not fill the memory.
const MAX_LINE: u64 = 1 << 20;

/// What is read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Log {
    File(PathBuf),
    Journal(Files),
    /// Lines given on the command line.
    Text(String),
}

/// What becomes of a file's last line that has no end: it may still be written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum LastLine {
    Read,
    /// As fail2ban does.
    Left,
}

/// One line to judge.
#[derive(Debug)]
pub(super) struct InputLine {
    text: String,
    /// What its source knows of it.
    pub(super) logged: Option<Logged>,
}

impl InputLine {
    /// Without its end. An entry of the journal has none.
    pub(super) fn text(&self) -> &str {
        if self.logged.is_some() { &self.text } else { self.text.trim_end_matches(['\r', '\n']) }
    }

    /// fail2ban-regex passes over comments: no log has lines like these, test logs do.
    pub(super) fn is_skipped(&self) -> bool {
        self.logged.is_none() && (self.text().is_empty() || self.text().starts_with('#'))
    }
}

/// The lines, one after the other.
pub(super) enum Lines {
    Text(vec::IntoIter<String>),
    File(FileLines),
    Journal(Box<Entries>),
}

impl Log {
    /// fail2ban-regex takes for a file what is one, and for a line what is nothing else.
    pub(super) fn new(text: &str) -> Result<Self> {
        if Path::new(text).is_file() {
            return Ok(Self::File(text.into()));
        }
        match text.strip_prefix("systemd-journal") {
            Some(_) => Ok(Self::Journal(journal_files(&config::filter_options(text)?.1)?)),
            None => Ok(Self::Text(text.to_owned())),
        }
    }

    pub(super) fn is_journal(&self) -> bool {
        matches!(self, Self::Journal(_))
    }
}

/// What `systemd-journal[journalpath=…]` reads.
fn journal_files(options: &[(String, String)]) -> Result<Files> {
    let files = Files::new(options.iter().map(|(option, value)| (option.as_str(), value.as_str())))?;
    if let Place::These(patterns) = &files.place
        && files.paths().is_empty()
    {
        bail!("journalfiles={}: there is no such file", patterns.join(" "));
    }
    Ok(files)
}

/// The lines of a file.
pub(super) struct FileLines {
    reader: Box<dyn BufRead>,
    charset: Charset,
    last: LastLine,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl FileLines {
    pub(super) fn open(path: &Path, charset: Charset, last: LastLine) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("reading {}", path.display()))?;
        let (reader, charset): (Box<dyn BufRead>, _) = match charset {
            // Its line ends are two bytes.
            Charset::Of(encoding) if [UTF_16LE, UTF_16BE].contains(&encoding) => {
                let decoder = DecodeReaderBytesBuilder::new().encoding(Some(encoding)).build(file);
                (Box::new(BufReader::new(decoder)), Charset::Of(UTF_8))
            }
            charset => (Box::new(BufReader::new(file)), charset),
        };
        Ok(Self { reader, charset, last, path: path.to_owned(), bytes: Vec::new() })
    }

    fn next(&mut self) -> io::Result<Option<String>> {
        self.bytes.clear();
        self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.bytes)?;
        let ended = self.bytes.ends_with(b"\n");
        if !ended && self.bytes.len() as u64 == MAX_LINE {
            self.skip_line()?;
        } else if self.bytes.is_empty() || !ended && self.last == LastLine::Left {
            return Ok(None);
        }
        Ok(Some(self.charset.decode(&self.bytes)))
    }

    /// Passes over the rest of the line.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |at| at + 1);
            let done = end.is_some() || buffer.is_empty();
            self.reader.consume(length);
            if done {
                return Ok(());
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<InputLine>;

    fn next(&mut self) -> Option<Self::Item> {
        let plain = |text| InputLine { text, logged: None };
        match self {
            Self::Text(lines) => lines.next().map(plain).map(Ok),
            Self::File(file) => {
                let line = file.next().with_context(|| format!("reading {}", file.path.display()));
                line.map(|line| line.map(plain)).transpose()
            }
            Self::Journal(entries) => {
                let line = entries.next()?;
                Some(line.map(|(text, logged)| InputLine { text, logged: Some(logged) }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8], encoding: &str, last: LastLine) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        let lines = FileLines::open(&path, Charset::named(encoding).unwrap(), last).unwrap();
        Lines::File(lines).map(|line| line.unwrap().text).collect()
    }

    #[test]
    fn bytes_become_text_in_the_encoding_that_is_asked_for() {
        let read = |bytes: &[u8], encoding: &str| lines(bytes, encoding, LastLine::Read).concat();
        assert_eq!(read(b"\xc3\xa9\xff", "utf-8"), "é\u{fffd}");
        assert_eq!(read(b"\xe9\x80", "latin1"), "é\u{80}");
        assert_eq!(read(b"\xe9\x80", "cp1252"), "é€");
        assert_eq!(read(b"a\xe9", "ascii"), "a\u{fffd}");
        assert_eq!(read(b"\xa4", "iso8859_15"), "€");
        assert_eq!(lines(b"a\0\n\0\x0a\x0a", "utf-16le", LastLine::Read), ["a\n", "\u{a0a}"]);
        assert!(Charset::named("klingon").is_err());
    }

    #[test]
    fn a_line_without_an_end_is_read_only_if_asked_for() {
        assert_eq!(lines(b"a\nb", "auto", LastLine::Read), ["a\n", "b"]);
        assert_eq!(lines(b"a\nb", "auto", LastLine::Left), ["a\n"]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let mut bytes = vec![b'x'; 3 << 20];
        bytes.extend(b"\nb\n");
        let lines = lines(&bytes, "auto", LastLine::Left);
        assert_eq!((lines[0].len(), lines[1].as_str()), (1 << 20, "b\n"));
    }
}
