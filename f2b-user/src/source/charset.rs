//! How the bytes of a log become text (`logencoding`).

use anyhow::{Result, bail};
use encoding_rs::{Encoding, UTF_8};

/// How bytes become text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Charset {
    /// Bytes that are none become replacement characters.
    Of(&'static Encoding),
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
            Self::Of(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
            Self::Latin1 => encoding_rs::mem::decode_latin1(bytes).into_owned(),
            Self::Ascii => bytes
                .iter()
                .map(|byte| if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER })
                .collect(),
        }
    }
}
