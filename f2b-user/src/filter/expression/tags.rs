//! fail2ban's tags (`<HOST>`, `<F-USER>…</F-USER>`, `<SKIPLINES>`) → Python groups, as `server/failregex.py` in
//! `Regex._resolveHostTag` expands them.

use std::{collections::HashSet, sync::LazyLock};

use regex::{Captures, Regex};

const IP4: &str = r"(?:::f{4,6}:)?(?P<ip4>\d{1,3}(?:\.\d{1,3}){3})";
/// fail2ban asks with a look-behind that the last colon follows another one; what stands before it always ends in one.
const IP6: &str = r"(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|:))";
const DNS: &str = r"(?P<dns>[\w\-.^_]*\w)";
const CIDR: &str = r"(?P<cidr>\d+)";

/// What `<HOST>` may match.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::filter) enum HostNames {
    Match,
    /// `usedns = no`: `<HOST>` means an address.
    Never,
}

#[expect(clippy::unwrap_used, reason = "constants that the tests compile")]
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<(/?)([\w\-]+)(/?)>").unwrap());

#[expect(clippy::unwrap_used, reason = "constants that the tests compile")]
static WRAPPED_FLAGS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(^|[^\\])\((?:\?:)?(\(\?[a-z]+)\)").unwrap());

/// Replaces every tag by what it stands for. What is no tag stays as it is.
pub(in crate::filter) fn expand(expression: &str, names: HostNames) -> String {
    // `((?i)…)` sets a flag for the group it stands in.
    WRAPPED_FLAGS.replace_all(&replace_tags(expression, names), "$1$2:").into_owned()
}

fn replace_tags(expression: &str, names: HostNames) -> String {
    let mut opened = HashSet::new();
    let mut skipped = 0;
    let address = || format!(r"\[?(?:{IP4}|{IP6})\]?");
    let expanded = TAG.replace_all(expression, |tag: &Captures<'_>| {
        let whole = || tag[0].to_owned();
        let (closes, name, closed) = (&tag[1] == "/", &tag[2], &tag[3] == "/");
        let simple = if closes {
            None
        } else if closed {
            name.strip_prefix("F-")
        } else {
            Some(name)
        };
        match simple {
            Some("HOST") if !closed && names == HostNames::Match => {
                return format!("(?:{}|{DNS})", address());
            }
            Some("HOST") if !closed => return address(),
            Some("SKIPLINES") if !closed => {
                skipped += 1;
                return format!(r"\n(?P<skiplines{}>(?:.*\n)*?)", skipped - 1);
            }
            Some("IP4") => return IP4.to_owned(),
            Some("IP6") => return IP6.to_owned(),
            Some("ADDR") => return address(),
            Some("CIDR") => return CIDR.to_owned(),
            Some("SUBNET") => return format!(r"\[?(?:{IP4}|{IP6})(?:/{CIDR})?\]?"),
            Some("DNS") => return DNS.to_owned(),
            Some("ID") if closed => return r"(?P<fid>\S+)".to_owned(),
            Some("PORT") if closed => return r"(?P<fport>\w+)".to_owned(),
            _ => {}
        }
        match name.strip_prefix("F-") {
            Some(custom) if !closed && !custom.is_empty() && is_custom(custom) => {
                if closes {
                    return if opened.contains(custom) { ")".to_owned() } else { whole() };
                }
                opened.insert(custom.to_owned());
                format!("(?P<{}>", option_name(custom))
            }
            _ => whole(),
        }
    });
    expanded.into_owned()
}

/// The same, as fail2ban's messages show it: it writes some of its expressions otherwise than [`expand`] does.
pub(in crate::filter) fn python(expression: &str, names: HostNames) -> String {
    as_shown(&expand(expression, names))
}

/// [`python`] before flags are put where they hold.
pub(in crate::filter) fn python_tags(expression: &str, names: HostNames) -> String {
    as_shown(&replace_tags(expression, names))
}

fn as_shown(expanded: &str) -> String {
    expanded
        .replace(IP4, r"(?:::f{4,6}:)?(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})")
        .replace(IP6, r"(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|(?<=:):))")
        .replace(r">(?:.*\n)*?)", r">(?:(?:.*\n)*?))")
}

fn is_custom(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

/// The name under which the group of `<F-name>` is kept (`mapTag2Opt`).
pub(in crate::filter) fn option_name(name: &str) -> String {
    match name.to_lowercase().as_str() {
        "id" => "fid".into(),
        "port" => "fport".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_become_groups() {
        for (tags, expected) in [
            ("<F-USER>.*</F-USER>", "(?P<user>.*)"),
            ("<F-ID>x</F-ID> <F-PORT/>", r"(?P<fid>x) (?P<fport>\w+)"),
            ("</F-USER> <other> <F-lower>", "</F-USER> <other> <F-lower>"),
            ("a<SKIPLINES>b<SKIPLINES>", r"a\n(?P<skiplines0>(?:.*\n)*?)b\n(?P<skiplines1>(?:.*\n)*?)"),
            ("(?:(?i)a)", "(?i:a)"),
        ] {
            assert_eq!(expand(tags, HostNames::Match), expected);
        }
        assert!(!expand("<HOST>", HostNames::Never).contains("dns"));
    }
}
