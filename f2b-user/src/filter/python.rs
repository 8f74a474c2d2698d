//! Values as Python writes them (`repr`): fail2ban puts them into its output.

use std::{fmt::Write as _, sync::LazyLock};

use regex::Regex;

/// What Python writes as an escape: controls, and spaces other than the plain one.
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static UNPRINTABLE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^[\p{C}\p{Z}--\ ]$").unwrap());

/// A text with quotes around it.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            c if UNPRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => {
                let code = u32::from(c);
                let escaped = match code {
                    ..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
                // Writing to a string cannot fail.
                escaped.unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A text with quotes, or `None`.
pub fn repr_optional(text: Option<&str>) -> String {
    text.map_or_else(|| "None".into(), repr)
}

/// `{'a': 'b'}`
pub fn repr_dict<'a>(entries: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let entries = entries.into_iter().map(|(key, value)| format!("{}: {value}", repr(key)));
    format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_python_writes_them() {
        for (text, expected) in [
            ("plain", "'plain'"),
            ("it's", "\"it's\""),
            ("both ' and \"", r#"'both \' and "'"#),
            ("\\ \n\r\t\x07\x7f", r"'\\ \n\r\t\x07\x7f'"),
            ("é\u{a0}\u{2028}\u{feff}\u{e0001}", r"'é\xa0\u2028\ufeff\U000e0001'"),
        ] {
            assert_eq!(repr(text), expected);
        }
        assert_eq!(repr_dict([("a", repr("b")), ("c", repr_optional(None))]), "{'a': 'b', 'c': None}");
    }
}
