//! Whom a jail ignores: `ignoreip`, `ignorecommand`, `ignorecache`.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use super::{JailOptions, dialect::Place, options, time};

/// Whom a jail ignores besides addresses and prefixes: what somebody else must be asked for.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    /// Host names; all of their addresses are ignored.
    pub names: Vec<String>,
    /// Files of addresses and prefixes.
    pub files: Vec<PathBuf>,
    /// A shell command that exits with 0 if the failure is to be ignored. Its tags are still in it.
    pub command: Option<String>,
    pub cache: Option<IgnoreCache>,
}

/// How long an answer holds (`ignorecache`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IgnoreCache {
    /// With tags: failures for which it comes to the same have the same answer.
    pub key: String,
    pub max_count: usize,
    pub max_time: Duration,
}

/// What the jail says: the addresses and prefixes of `ignoreip`, and the rest.
pub(super) fn ignore(jail: &JailOptions) -> Result<(Vec<IpNet>, Ignore)> {
    let text = |option: &str| jail.written.get(option).filter(|value| !value.text.trim().is_empty());
    let place = text("ignoreip").map_or_else(|| Place::outside("built in"), |value| value.place.clone());
    let (mut nets, mut ignore) = (Vec::new(), Ignore::default());
    for entry in &jail.ignoreip {
        if let Some(path) = entry.strip_prefix("file:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') {
                bail!("{place}: ignoreip {entry}: the path of a file begins with a /");
            }
            ignore.files.push(path.into());
        } else if let Some(net) = net(entry) {
            nets.push(net);
        } else if is_name(entry) {
            ignore.names.push(entry.clone());
        } else {
            bail!(
                "{place}: ignoreip {entry}: it is no address, no prefix like 192.0.2.0/24, no host name and no \
                 file:/path"
            );
        }
    }
    ignore.command = text("ignorecommand").map(|value| value.text.clone());
    if let Some(value) = text("ignorecache") {
        let cache = cache(&value.text, &value.place);
        ignore.cache = Some(cache.with_context(|| format!("{}: ignorecache = {}", value.place, value.text))?);
    }
    Ok((nets, ignore))
}

/// An address or a prefix as fail2ban reads it (`IPAddr`): `192.0.2.7`, `[2001:db8::1]`, `192.0.2.0/24`,
/// `192.0.2.0/255.255.255.0`.
pub fn net(text: &str) -> Option<IpNet> {
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().ok().map(|ip| canonical(ip.into()));
    };
    let address: IpAddr = address.parse().ok()?;
    let net = match length.parse::<IpAddr>() {
        Ok(mask) => IpNet::with_netmask(address, mask).ok()?,
        Err(_) => IpNet::new(address, length.parse().ok()?).ok()?,
    };
    Some(canonical(net))
}

/// An IPv4-mapped prefix as the IPv4 prefix it is: addresses are compared in their canonical form.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else {
        return net;
    };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok()).map_or(net, IpNet::V4)
}

/// Whether it can be a host's name. What has no letter is an address with a mistake.
fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.chars().any(|c| c.is_alphabetic())
        && text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// `key="<ip>", max-count=100, max-time=5m` (`Filter.ignoreCache`).
fn cache(text: &str, place: &Place) -> Result<IgnoreCache> {
    let bracketed = format!("cache[{text}]");
    let (_, given) = options::extract(&bracketed, place)?;
    let key = given.get("key").ok_or_else(|| anyhow!("it has no key; write for example key=\"<ip>\""))?;
    let max_count = match given.get("max-count") {
        Some(count) => count.text.trim().parse().context("max-count is not a number")?,
        None => 100,
    };
    let seconds =
        given.get("max-time").map_or(Ok(300.0), |time| time::seconds(&time.text)).context("max-time")?;
    let max_time = Duration::try_from_secs_f64(seconds).context("max-time")?;
    Ok(IgnoreCache { key: key.text.clone(), max_count, max_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes_have_fail2bans_spellings() {
        for (text, expected) in [
            ("192.0.2.7", Some("192.0.2.7/32")),
            ("192.0.2.7/24", Some("192.0.2.7/24")),
            ("192.0.2.0/255.255.255.0", Some("192.0.2.0/24")),
            ("[2001:db8::1]", Some("2001:db8::1/128")),
            ("::ffff:192.0.2.0/120", Some("192.0.2.0/24")),
            ("192.0.2.0/33", None),
            ("example.org", None),
        ] {
            assert_eq!(net(text).map(|net| net.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn caches_are_read_as_fail2ban_reads_them() {
        let place = Place::outside("test");
        let read = |text| cache(text, &place);
        let five = Duration::from_secs(300);
        let expected = IgnoreCache { key: "<F-USER>@<ip-host>".into(), max_count: 100, max_time: five };
        assert_eq!(read("key=\"<F-USER>@<ip-host>\", max-count=100, max-time=5m").unwrap(), expected);
        assert_eq!(
            read("key=<ip>").unwrap(),
            IgnoreCache { key: "<ip>".into(), max_count: 100, max_time: five }
        );
        assert!(read("max-count=3").is_err() && read("key=<ip>, max-count=many").is_err());
    }
}
