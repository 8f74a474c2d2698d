//! A filter: which lines are failures, and whose. No clock, no I/O.

mod expression;

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use regex::{Captures, Regex, RegexSet};

use crate::config::dialect::Value;

/// A line is cut here before it is matched: no log line that matters is longer, and a hostile one must not buy time.
const MAX_LINE: usize = 8192;

/// One failure found in a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    pub address: IpAddr,
    /// `<F-USER>`, if the expression has it.
    pub user: Option<String>,
}

/// A filter's expressions, compiled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Filter {
    inner: Arc<Expressions>,
}

#[derive(Debug)]
struct Expressions {
    prefregex: Option<Regex>,
    /// All of `failregex` in one automaton: it selects the candidates in one pass.
    any: RegexSet,
    failregex: Vec<Regex>,
    ignoreregex: RegexSet,
}

impl Filter {
    /// Compiles a filter.
    ///
    /// # Errors
    /// The expression that does not compile, or that has no `<HOST>` to tell whose failure it is.
    pub fn new(prefregex: &[Value], failregex: &[Value], ignoreregex: &[Value]) -> Result<Self> {
        let compile = |option: &str, value: &Value| {
            expression::compile(&value.text).with_context(|| format!("{}: {option}", value.place))
        };
        let compile_all = |option: &str, values: &[Value]| -> Result<Vec<Regex>> {
            values.iter().map(|value| compile(option, value)).collect()
        };
        if failregex.is_empty() {
            bail!("failregex is empty; a filter needs at least one expression with <HOST>");
        }
        let compiled = compile_all("failregex", failregex)?;
        for (value, regex) in failregex.iter().zip(&compiled) {
            if !regex.capture_names().flatten().any(|name| name == "ip4") {
                bail!(
                    "{}: failregex: \"{}\" has no <HOST> to tell whose failure it is",
                    value.place,
                    value.text
                );
            }
        }
        let failregex = compiled;
        let ignoreregex = compile_all("ignoreregex", ignoreregex)?;
        Ok(Self {
            inner: Arc::new(Expressions {
                prefregex: prefregex.first().map(|value| compile("prefregex", value)).transpose()?,
                any: RegexSet::new(failregex.iter().map(Regex::as_str))?,
                failregex,
                ignoreregex: RegexSet::new(ignoreregex.iter().map(Regex::as_str))?,
            }),
        })
    }

    /// The failure that `line` tells of. The first matching `failregex` wins, as in fail2ban's server. A line about a
    /// host name is not one: names are not resolved yet.
    pub fn failure(&self, line: &str) -> Option<Failure> {
        let filter = &*self.inner;
        let line = &line[..line.floor_char_boundary(MAX_LINE)];
        let content = match &filter.prefregex {
            None => line,
            Some(prefregex) => {
                let captures = prefregex.captures(line)?;
                captures.name("fcontent").map_or(line, |content| content.as_str())
            }
        };
        let first = filter.any.matches(content).into_iter().next()?;
        if filter.ignoreregex.is_match(content) {
            return None;
        }
        let captures = filter.failregex[first].captures(content)?;
        Some(Failure {
            address: address(&captures)?,
            user: captures.name("fuser").map(|user| user.as_str().to_owned()),
        })
    }
}

fn address(captures: &Captures<'_>) -> Option<IpAddr> {
    let text = captures.name("ip4").or_else(|| captures.name("ip6"))?.as_str();
    // A zone (`%eth0`) names the interface a link-local address is seen on; the packet does not carry it.
    let text = text.split('%').next()?;
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::test_settings;

    fn sshd(message: &str) -> Option<(String, Option<String>)> {
        let failure = test_settings().filter.failure(&format!("host sshd[42]: {message}"))?;
        Some((failure.address.to_string(), failure.user))
    }

    fn found(address: &str, user: &str) -> Option<(String, Option<String>)> {
        Some((address.to_owned(), Some(user.to_owned())))
    }

    #[test]
    fn sshd_failures_are_charged_to_their_address() {
        for (message, expected) in [
            ("Failed password for root from 192.0.2.7 port 4242 ssh2", found("192.0.2.7", "root")),
            (
                "Failed password for invalid user guest from 2001:db8::7 port 1 ssh2",
                found("2001:db8::7", "guest"),
            ),
            ("Failed none for invalid user  from 192.0.2.7 port 4242 ssh2", found("192.0.2.7", "")),
            ("Invalid user oracle from 192.0.2.7 port 4242", found("192.0.2.7", "oracle")),
            ("error: PAM: Authentication failure for root from 192.0.2.7", found("192.0.2.7", "root")),
            (
                "error: maximum authentication attempts exceeded for root from 192.0.2.7 port 9 ssh2 [preauth]",
                found("192.0.2.7", "root"),
            ),
            (
                "User ftp from 192.0.2.7 not allowed because not listed in AllowUsers",
                found("192.0.2.7", "ftp"),
            ),
        ] {
            assert_eq!(sshd(message), expected, "{message}");
        }
    }

    #[test]
    fn what_is_no_failure_is_left_alone() {
        for message in [
            "Accepted publickey for root from 192.0.2.7 port 4242 ssh2: ED25519 SHA256:abc",
            "Failed publickey for root from 192.0.2.7 port 4242 ssh2: RSA SHA256:abc",
            "Connection closed by authenticating user root 192.0.2.7 port 4242 [preauth]",
            "Failed password for root from 192.030.0.6 port 4242 ssh2",
            "Server listening on 0.0.0.0 port 22.",
        ] {
            assert_eq!(sshd(message), None, "{message}");
        }
        let other = "host nginx[1]: Failed password for root from 192.0.2.7 port 4242 ssh2";
        assert_eq!(test_settings().filter.failure(other), None);
    }

    #[test]
    fn a_user_name_cannot_frame_another_address() {
        let message =
            "Failed password for invalid user x from 198.51.100.9 port 1 ssh2 from 192.0.2.7 port 2 ssh2";
        assert_eq!(sshd(message), found("192.0.2.7", "x from 198.51.100.9 port 1 ssh2"));
    }

    #[test]
    fn a_hostile_line_is_cut_not_searched_for_ever() {
        let line = format!("host sshd[42]: Invalid user {} from 192.0.2.7", "é".repeat(100_000));
        assert_eq!(test_settings().filter.failure(&line), None);
    }

    #[test]
    fn a_broken_expression_is_refused_with_its_place() {
        let filter = |text: &str| {
            let value = Value { text: text.into(), place: "x.conf:3".into() };
            format!("{:#}", Filter::new(&[], &[value], &[]).unwrap_err())
        };
        let no_host = "x.conf:3: failregex: \"^Failed$\" has no <HOST> to tell whose failure it is";
        assert_eq!(filter("^Failed$"), no_host);
        let broken = "x.conf:3: failregex: \"^(no end <HOST>\" is no regular expression: unclosed group";
        assert_eq!(filter("^(no end <HOST>"), broken);
    }
}
