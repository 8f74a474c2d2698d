//! A `journalmatch` line → words, quoted as Python's `shlex.split` has it.
//!
//! Not a crate: `shlex` and `shell-words` read as a shell does, which takes `#` for a comment and, between double quotes,
//! a backslash before `$` or a line end for an escape. Python does neither.

use anyhow::{Result, bail};

pub(super) fn split(line: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let Some(next) = chars.next() else {
                    bail!("\"{line}\" ends with a backslash");
                };
                let word = word.get_or_insert_default();
                // Between double quotes, a backslash escapes only itself and the quote.
                if quote.is_some() && !['"', '\\'].contains(&next) {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        bail!("\"{line}\" lacks a closing quote");
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_in_python() {
        let words = split(r#"_COMM="a b"c 'd\' "\e\"" '' + \  f #g "\$h" i#j"#).unwrap();
        assert_eq!(words, ["_COMM=a bc", r"d\", r#"\e""#, "", "+", " ", "f", "#g", r"\$h", "i#j"]);
        assert!(split("\"").is_err());
        assert!(split("a\\").is_err());
    }
}
