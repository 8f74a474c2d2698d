//! fail2ban's expressions → the `regex` crate's: tags become named groups.

use std::sync::LazyLock;

use anyhow::{Result, anyhow, bail};
use regex::{Captures, Regex};

/// `<HOST>`: an IPv4 address (also in its IPv4-mapped form), an IPv6 address (also in brackets), or a host name.
const HOST: &str = concat!(
    r"(?:(?:::[fF]{4,6}:)?(?P<ip4>(?:\d{1,3}\.){3}\d{1,3})",
    r"|\[?(?P<ip6>(?:[0-9a-fA-F]{1,4}::?|::){1,7}(?:[0-9a-fA-F]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?:%\w+)?)\]?",
    r"|(?P<dns>[\w\-.^_]*\w))",
);

#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<(/?)(HOST|F-([A-Z0-9_-]+))>").unwrap());

/// Compiles one expression as it stands in a filter. `<F-USER>` becomes the group `fuser`, and so on.
pub(super) fn compile(expression: &str) -> Result<Regex> {
    let mut unknown = None;
    let translated = TAG.replace_all(expression, |tag: &Captures<'_>| match (&tag[1], &tag[2]) {
        ("", "HOST") => HOST.to_owned(),
        ("", _) => format!("(?P<f{}>", tag[3].to_lowercase().replace('-', "_")),
        ("/", "HOST") => {
            unknown = Some(tag[0].to_owned());
            String::new()
        }
        _ => ")".to_owned(),
    });
    if let Some(tag) = unknown {
        bail!("\"{expression}\" has {tag}, which is not a tag");
    }
    Regex::new(&translated).map_err(|error| {
        // The crate draws a picture of the whole translated expression above its last line, the reason.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        anyhow!("\"{expression}\" is no regular expression: {}", reason.trim_start_matches("error: "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_matches_addresses_in_all_their_forms() {
        let host = compile("^from <HOST>$").unwrap();
        for (text, group, expected) in [
            ("from 192.0.2.7", "ip4", "192.0.2.7"),
            ("from ::ffff:192.0.2.7", "ip4", "192.0.2.7"),
            ("from 2001:db8::7", "ip6", "2001:db8::7"),
            ("from [2001:db8::7]", "ip6", "2001:db8::7"),
            ("from ::1", "ip6", "::1"),
            ("from fe80::1%eth0", "ip6", "fe80::1%eth0"),
            ("from host-7.example.net", "dns", "host-7.example.net"),
        ] {
            let found =
                host.captures(text).and_then(|captures| Some(captures.name(group)?.as_str().to_owned()));
            assert_eq!(found.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn tags_become_groups() {
        let user = compile("^for <F-USER>.*</F-USER>$").unwrap();
        assert_eq!(&user.captures("for root").unwrap()["fuser"], "root");
        assert!(compile("(").is_err());
        assert!(compile("</HOST>").is_err());
    }
}
