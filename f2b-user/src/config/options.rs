//! `name[a=b, c="d,e", f='g']`: the options that a jail gives to its filter and its actions (`helpers.py`,
//! `extractOptions` and `splitWithOptions`).

use std::sync::LazyLock;

use anyhow::{Result, bail};
use regex::Regex;

use super::dialect::{Options, Place, Value, is_space, trim};

/// One entry of a list: a name with or without options in brackets, followed by white space or the end.
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static ENTRY: LazyLock<Regex> = LazyLock::new(|| {
    let value = r#"(?:"[^"]*"|'[^']*'|[^,\]]*)"#;
    let brackets = format!(r"\s*\[\s*(?:[\w\-.]+={value}\s*(?:,|\]\s*\[)?\s*)*\]");
    Regex::new(&format!(r"([^\[\s]+(?:{brackets})?|\S+)(?:\s|\z)")).unwrap()
});

/// One option inside the brackets, up to its comma, `][` or the end; else what is wrong.
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static OPTION: LazyLock<Regex> = LazyLock::new(|| {
    let option = r#"\s*([\w\-.]+)=(?:"([^"]*)"|'([^']*)'|([^,\]]*))(?:,|\]\s*\[|\n?\z|((?s:.)+))"#;
    Regex::new(&format!(r"{option}|,?\s*\z|((?s:.)+)")).unwrap()
});

/// The entries of a list, without the white space between them.
pub(super) fn split(list: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut at = 0;
    while let Some(entry) = ENTRY.captures_at(list, at).and_then(|captures| captures.get(1)) {
        entries.push(trim(entry.as_str()));
        at = entry.end();
    }
    entries
}

/// One entry's name and its options; each option's place is `place`.
///
/// # Errors
/// Where the brackets are not in this form.
pub(super) fn extract<'a>(entry: &'a str, place: &Place) -> Result<(&'a str, Options)> {
    let (name, rest) = entry.split_at(entry.find('[').unwrap_or(entry.len()));
    if name.is_empty() {
        bail!("a name is missing before the options");
    }
    let mut options = Options::new();
    let rest = rest.trim_end_matches(is_space);
    let Some(inside) = rest.strip_prefix('[') else {
        return Ok((name, options));
    };
    let Some(inside) = inside.strip_suffix(']') else {
        bail!("the closing ] is missing, or something follows it");
    };
    for captures in OPTION.captures_iter(inside) {
        let wrong = captures.get(5).or_else(|| captures.get(6));
        if let Some(wrong) = wrong.map(|wrong| wrong.as_str()) {
            let wrong: String = wrong.chars().take(25).collect();
            bail!("\"{wrong}\" is not option=value; put quotes around a value that contains , or ]");
        }
        let (Some(option), Some(text)) =
            (captures.get(1), captures.get(2).or_else(|| captures.get(3)).or_else(|| captures.get(4)))
        else {
            continue;
        };
        options.insert(option.as_str().to_owned(), Value::new(trim(text.as_str()), place));
    }
    Ok((name, options))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(entry: &str, name: &str, expected: &[(&str, &str)]) {
        let (found, options) = extract(entry, &Place::outside("")).unwrap();
        let options: Vec<_> = options.iter().map(|(option, value)| (&**option, &*value.text)).collect();
        assert_eq!((found, &options[..]), (name, expected), "{entry}");
    }

    #[test]
    fn options_are_quoted_or_not_and_grouped_or_not() {
        check("sshd", "sshd", &[]);
        check("sshd[]", "sshd", &[]);
        check("a[b=c, d=\"e,]f\", g='h\"i']", "a", &[("b", "c"), ("d", "e,]f"), ("g", "h\"i")]);
        check("a[b= c ][d=e, ]", "a", &[("b", "c"), ("d", "e")]);
        check("a[b=\"c\"\n]", "a", &[("b", "c")]);
        check("a[b=1,b=2]", "a", &[("b", "2")]);
        check("a[b=,c=\"\"]", "a", &[("b", ""), ("c", "")]);
        check("a [b=1]", "a ", &[("b", "1")]);
    }

    #[test]
    fn what_is_no_option_is_refused() {
        for entry in ["a[b]", "a[b=c", "a[b=c]d", "a[b=\"c\"d]", "[b=c]", "", "a[b=c,,d=e]", "a[b=c[d]]"] {
            assert!(extract(entry, &Place::outside("")).is_err(), "{entry}");
        }
    }

    #[test]
    fn a_list_is_split_at_white_space_outside_of_brackets() {
        assert_eq!(
            split("a b[c=d, e=\"f g\"]\n  h[i=j][k='l\nm']  n"),
            ["a", "b[c=d, e=\"f g\"]", "h[i=j][k='l\nm']", "n"]
        );
        assert_eq!(split("a [b=c] d"), ["a [b=c]", "d"]);
        assert_eq!(split("a[b c] d"), ["a[b", "c]", "d"]);
        assert_eq!(split(" \n "), Vec::<&str>::new());
    }
}
