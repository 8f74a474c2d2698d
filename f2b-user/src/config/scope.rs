//! A jail's firewall actions, ports and protocol → what its bans cover.
//!
//! fail2ban's firewall actions are not run: each of them means XDP here. What they would have banned is what is banned.

use std::{collections::HashMap, fs};

use anyhow::{Context as _, Result, bail};
use f2b_ebpf::PortRange;

use super::{
    dialect::{Options, Place, Value},
    jail::{ActionOptions, JailOptions},
};
use crate::scope::{Ports, Protocol, Scope};

/// How the actions begin that put a ban into a firewall (fail2ban's `action.d`).
const FIREWALLS: [&str; 14] = [
    "apf",
    "bsd-ipfw",
    "firewallcmd",
    "ipfilter",
    "ipfw",
    "iptables",
    "nftables",
    "npf",
    "osx-afctl",
    "osx-ipfw",
    "pf",
    "route",
    "shorewall",
    "ufw",
];
/// Those of them that know no ports: they ban an address as a whole.
const WITHOUT_PORTS: [&str; 8] =
    ["apf", "ipfilter", "iptables-xt_recent-echo", "npf", "osx-afctl", "route", "shorewall", "ufw"];

const SERVICES: &str = "/etc/services";

/// Names for machines without `/etc/services`: those that fail2ban's own jails use.
const WELL_KNOWN: [(&str, u16); 24] = [
    ("domain", 53),
    ("ftp", 21),
    ("ftp-data", 20),
    ("ftps", 990),
    ("ftps-data", 989),
    ("http", 80),
    ("https", 443),
    ("imap", 143),
    ("imap2", 143),
    ("imap3", 220),
    ("imaps", 993),
    ("ldap", 389),
    ("ms-wbt-server", 3389),
    ("mysql", 3306),
    ("pop3", 110),
    ("pop3s", 995),
    ("postgresql", 5432),
    ("sieve", 4190),
    ("smtp", 25),
    ("smtps", 465),
    ("ssh", 22),
    ("submission", 587),
    ("submissions", 465),
    ("telnet", 23),
];

/// The numbers of services by name, for each protocol.
pub(super) struct Services {
    ports: HashMap<(String, Protocol), u16>,
}

impl Services {
    /// The machine's `/etc/services`, and what every machine knows.
    pub(super) fn load() -> Self {
        Self::parse(&fs::read_to_string(SERVICES).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut ports = HashMap::new();
        for (name, port) in WELL_KNOWN {
            ports.insert((name.to_owned(), Protocol::Tcp), port);
            ports.insert((name.to_owned(), Protocol::Udp), port);
        }
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let (Some(name), Some((port, protocol))) =
                (words.next(), words.next().and_then(|number| number.split_once('/')))
            else {
                continue;
            };
            let protocol = match protocol {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => continue,
            };
            let Ok(port) = port.parse() else { continue };
            for name in words.chain([name]) {
                ports.insert((name.to_owned(), protocol), port);
            }
        }
        Self { ports }
    }

    fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let look = |protocol| self.ports.get(&(name.to_owned(), protocol)).copied();
        match protocol {
            Protocol::Both => look(Protocol::Tcp).or_else(|| look(Protocol::Udp)),
            // Many services are listed for the one protocol and run on the other, too.
            Protocol::Tcp => look(Protocol::Tcp).or_else(|| look(Protocol::Udp)),
            Protocol::Udp => look(Protocol::Udp).or_else(|| look(Protocol::Tcp)),
        }
    }
}

/// What the bans of `jail` cover: one scope for each of its firewall actions, without doubles. A jail without any action
/// (ours are so) bans all ports, or those that its `port` names if the user wrote that: who runs sshd elsewhere than our
/// own jails know must not be without a ban. None: the jail has actions, and none of them is a firewall's; fail2ban would
/// only do those, too.
///
/// # Errors
/// Ports or a protocol that cannot be banned by, with the place they are written at.
pub(super) fn scopes(jail: &JailOptions, services: &Services) -> Result<Vec<Scope>> {
    if jail.actions.is_empty() {
        let Some(port) = jail.port.as_ref().filter(|port| !port.is_built_in()) else {
            return Ok(vec![Scope::AllPorts]);
        };
        let protocol = jail.protocol.clone().unwrap_or_else(|| Value::new("tcp", &port.place));
        return Ok(vec![ports(port, &protocol, services)?]);
    }
    let mut scopes = Vec::new();
    for action in jail.actions.iter().filter(|action| is_firewall(&action.file)) {
        let scope = of_action(action, services)?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.contains(&Scope::AllPorts) {
        return Ok(vec![Scope::AllPorts]);
    }
    Ok(scopes)
}

fn of_action(action: &ActionOptions, services: &Services) -> Result<Scope> {
    let says_allports = |option: &str| {
        action.properties.get(option).is_some_and(|value| value.text.trim_matches(['<', '>']) == "allports")
    };
    let known_without = WITHOUT_PORTS.iter().any(|name| begins(&action.file, name));
    if action.file.contains("allports")
        || says_allports("type")
        || says_allports("actiontype")
        || known_without
    {
        return Ok(Scope::AllPorts);
    }
    let option = |name, default| given(&action.properties, name, default);
    ports(&option("port", "ssh"), &option("protocol", "tcp"), services)
        .with_context(|| format!("action {}", action.name))
}

fn given(options: &Options, name: &str, default: &str) -> Value {
    let value = options.get(name).filter(|value| !value.text.trim().is_empty());
    value.cloned().unwrap_or_else(|| Value::new(default, &Place::outside("built in")))
}

pub(super) fn is_firewall(file: &str) -> bool {
    FIREWALLS.iter().any(|name| begins(file, name))
}

/// Whether `file` is `name` or one of its variants, `name-…`.
fn begins(file: &str, name: &str) -> bool {
    file.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// `port` and `protocol` as fail2ban's jails have them: `ssh`, `http,https`, `1024:65535`; `tcp`, `udp`, `tcp,udp`, `all`.
fn ports(port: &Value, protocol: &Value, services: &Services) -> Result<Scope> {
    let place = &protocol.place;
    let (mut tcp, mut udp) = (false, false);
    for word in words(&protocol.text) {
        match word.to_lowercase().as_str() {
            "tcp" => tcp = true,
            "udp" => udp = true,
            "all" | "both" | "any" => (tcp, udp) = (true, true),
            _ => bail!(
                "{place}: protocol = {word} has no ports that can be banned; \
                 use tcp, udp or all, or ban everything with banaction_allports"
            ),
        }
    }
    let protocol = match (tcp, udp) {
        (true, true) => Protocol::Both,
        (false, true) => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let place = &port.place;
    let number = |word: &str| -> Result<u16> {
        let found = word.parse().ok().or_else(|| services.port(word, protocol));
        found.with_context(|| {
            format!("{place}: port = {word} is neither a number up to 65535 nor in {SERVICES}")
        })
    };
    let mut ranges = Vec::new();
    for word in words(&port.text) {
        if ["all", "any"].contains(&word) {
            ranges.push(PortRange { first: 0, last: u16::MAX });
            continue;
        }
        let split = word.split_once(':').or_else(|| {
            // A name may have a dash in it: ftp-data.
            word.split_once('-').filter(|(first, _)| first.parse::<u16>().is_ok())
        });
        let (first, last) = match split {
            // As iptables takes them: an end that is left out is the end of all ports.
            Some((first, last)) => (
                if first.is_empty() { 0 } else { number(first)? },
                if last.is_empty() { u16::MAX } else { number(last)? },
            ),
            None => {
                let port = number(word)?;
                (port, port)
            }
        };
        if first > last {
            bail!("{place}: port = {word} ends before it begins");
        }
        ranges.push(PortRange { first, last });
    }
    Ports::new(protocol, ranges).map(Scope::Ports).with_context(|| format!("{place}: port = {}", port.text))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\t', '\n']).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(port: &str, protocol: &str) -> String {
        let value = |text: &str| Value::new(text, &Place::outside("jail.local:2"));
        let services =
            Services::parse("ssh 22/tcp # Secure Shell\ngame 4000/udp play\nboth 1/tcp\nboth 2/udp\n");
        match ports(&value(port), &value(protocol), &services) {
            Ok(scope) => scope.to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn ports_are_numbers_names_and_ranges() {
        for (port, protocol, expected) in [
            ("ssh", "tcp", "tcp 22"),
            ("http,https", "tcp", "tcp 80,443"),
            ("0:65535", "tcp", "tcp 0-65535"),
            (":1023", "udp", "udp 0-1023"),
            ("60000:", "all", "tcp,udp 60000-65535"),
            ("5060,5061", "tcp,udp", "tcp,udp 5060-5061"),
            ("1024-2048 ,22", "TCP", "tcp 22,1024-2048"),
            ("ftp,ftp-data", "tcp", "tcp 20-21"),
            ("play", "udp", "udp 4000"),
            ("game", "tcp", "tcp 4000"),
            ("both", "udp", "udp 2"),
            ("smtp,465,submission,imap,imaps,sieve,pop3,pop3s", "tcp", "tcp 25,110,143,465,587,993,995,4190"),
            ("any", "tcp", "tcp 0-65535"),
        ] {
            assert_eq!(parse(port, protocol), expected, "{port} {protocol}");
        }
    }

    #[test]
    fn what_cannot_be_banned_is_named_with_its_place() {
        for (port, protocol, expected) in [
            ("nope", "tcp", "jail.local:2: port = nope is neither a number up to 65535 nor in /etc/services"),
            ("65536", "tcp", "jail.local:2: port = 65536 is neither"),
            ("443:80", "tcp", "jail.local:2: port = 443:80 ends before it begins"),
            ("", "tcp", "jail.local:2: port = : 0 separate ports"),
            ("ssh", "icmp", "jail.local:2: protocol = icmp has no ports"),
            ("ssh", "sctp", "jail.local:2: protocol = sctp has no ports"),
        ] {
            let error = parse(port, protocol);
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn firewall_actions_are_told_from_the_others() {
        for firewall in
            ["iptables", "iptables-multiport", "nftables-allports", "pf", "ufw", "firewallcmd-rich-rules"]
        {
            assert!(is_firewall(firewall), "{firewall}");
        }
        for other in ["sendmail", "cloudflare", "hostsdeny", "pfsense", "nginx-block-map", "routeros"] {
            assert!(!is_firewall(other), "{other}");
        }
    }
}
