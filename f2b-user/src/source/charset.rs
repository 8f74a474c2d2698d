//! How the bytes of a log become text (`logencoding`).

use anyhow::{Result, bail};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// How bytes become text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Charset {
    /// Bytes that are none become replacement characters.
    Of(&'static Encoding),
    /// Four bytes for each character.
    Utf32 {
        is_big_endian: bool,
    },
    /// Every byte is the character with its number, which the web's Latin 1 is not.
    Latin1,
    Ascii,
}

impl Charset {
    /// # Errors
    /// There is no such encoding.
    pub fn named(name: &str) -> Result<Self> {
        let label = name.trim().to_lowercase().replace('_', "-");
        match label.as_str() {
            "auto" | "" => Ok(Self::Of(UTF_8)),
            "latin-1" | "latin1" | "iso-8859-1" | "iso8859-1" | "8859" | "l1" | "cp819" => Ok(Self::Latin1),
            "ascii" | "us-ascii" | "646" | "ansi-x3.4-1968" => Ok(Self::Ascii),
            // Without an order of bytes, Python takes that of the machine, and so far nobody logs on one with the other.
            "utf-16" | "utf16" | "u16" | "utf-16-le" => Ok(Self::Of(UTF_16LE)),
            "utf-16-be" => Ok(Self::Of(UTF_16BE)),
            "utf-32" | "utf32" | "u32" | "utf-32-le" | "utf-32le" => Ok(Self::Utf32 { is_big_endian: false }),
            "utf-32-be" | "utf-32be" => Ok(Self::Utf32 { is_big_endian: true }),
            label => {
                let alias = label.strip_prefix("iso8859").map(|number| format!("iso-8859{number}"));
                let label = alias.as_deref().unwrap_or(label);
                match Encoding::for_label(label.as_bytes()) {
                    Some(encoding) => Ok(Self::Of(encoding)),
                    None => bail!("unknown encoding: {name}"),
                }
            }
        }
    }

    pub fn decode(self, bytes: &[u8]) -> String {
        match self {
            Self::Of(encoding) if self.line_end().width() > 1 => {
                without_mark(encoding.decode_without_bom_handling(bytes).0.into_owned())
            }
            Self::Of(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
            Self::Utf32 { is_big_endian } => {
                let character = |bytes: &[u8]| {
                    let bytes = bytes.try_into().unwrap_or_default();
                    let number =
                        if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
                    char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER)
                };
                without_mark(bytes.chunks_exact(4).map(character).collect())
            }
            Self::Latin1 => encoding_rs::mem::decode_latin1(bytes).into_owned(),
            Self::Ascii => bytes
                .iter()
                .map(|byte| if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER })
                .collect(),
        }
    }

    /// What ends a line in a file.
    pub fn line_end(self) -> LineEnd {
        LineEnd(match self {
            Self::Of(encoding) if encoding == UTF_16LE => b"\n\0",
            Self::Of(encoding) if encoding == UTF_16BE => b"\0\n",
            Self::Utf32 { is_big_endian: false } => b"\n\0\0\0",
            Self::Utf32 { is_big_endian: true } => b"\0\0\0\n",
            // In all others a byte that is a line end in ASCII is one.
            Self::Of(_) | Self::Latin1 | Self::Ascii => b"\n",
        })
    }
}

/// A text without the mark at its begin that tells the order of bytes.
fn without_mark(text: String) -> String {
    text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)
}

/// The bytes that end a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LineEnd(&'static [u8]);

impl LineEnd {
    /// The width of the characters in which it is looked for.
    pub fn width(self) -> usize {
        self.0.len()
    }

    /// Where the first line ends, behind its end. `bytes` begin where a character does; no line ends before `from`.
    pub fn find(self, bytes: &[u8], from: usize) -> Option<usize> {
        if let [end] = self.0 {
            return memchr::memchr(*end, &bytes[from..]).map(|at| from + at + 1);
        }
        let from = from - from % self.width();
        let at = bytes[from..].chunks_exact(self.width()).position(|character| character == self.0)?;
        Some(from + (at + 1) * self.width())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_end_of_several_bytes_is_found_between_characters_only() {
        let encodings = ["utf-8", "latin1", "utf-16", "utf_16_le", "UTF-16BE", "utf-32", "utf-32-be"];
        for name in encodings {
            let charset = Charset::named(name).unwrap();
            let encode = |text: &str| -> Vec<u8> {
                let units = text.encode_utf16();
                match (charset.line_end().width(), charset.line_end().0[0] == 0) {
                    (1, _) => text.bytes().collect(),
                    (2, false) => units.flat_map(u16::to_le_bytes).collect(),
                    (2, true) => units.flat_map(u16::to_be_bytes).collect(),
                    (_, false) => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
                    (_, true) => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
                }
            };
            let text = if charset.line_end().width() > 1 { "a\u{a00}\u{a}b\u{100a}c\n" } else { "a\nbc\n" };
            let bytes = encode(text);
            let (first, rest) = text.split_once('\n').unwrap();
            let first = encode(first).len() + charset.line_end().width();
            for from in 0..first {
                assert_eq!(charset.line_end().find(&bytes, from), Some(first), "{name} {from}");
            }
            assert_eq!(charset.line_end().find(&bytes, first), Some(bytes.len()), "{name}");
            assert_eq!(charset.line_end().find(&bytes[..bytes.len() - 1], first), None, "{name}");
            assert_eq!(charset.decode(&bytes[first..]), rest, "{name}");
        }
        assert_eq!(Charset::named("utf-16").unwrap().decode(b"\xff\xfea\0"), "a");
    }

    #[test]
    fn encodings_that_are_not_known_are_refused() {
        for name in ["klingon", "utf-7", "cp037"] {
            assert!(Charset::named(name).is_err(), "{name}");
        }
    }
}
