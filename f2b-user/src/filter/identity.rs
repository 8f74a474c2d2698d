//! What a failure is charged to: fail2ban's `IPAddr` (`server/ipdns.py`), which may also be no address at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::expression::Text;

/// An identity as fail2ban writes it, and the address it names, if it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Identity {
    pub(super) text: Text,
    pub(super) ip: Option<IpAddr>,
}

impl Identity {
    /// A text that is taken as it is.
    pub(super) fn raw(text: &str) -> Self {
        Self { text: text.into(), ip: text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()) }
    }

    /// What `<F-ID>` matched: an address is written in the only way there is, without brackets around it, and a network
    /// without its hosts. `None` where fail2ban trips over what stands behind a slash, and loses the line.
    pub(super) fn spelled(text: &str) -> Option<Self> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let text = inner.filter(|inner| !inner.is_empty()).unwrap_or(text);
        let Some((address, prefix)) = text.split_once('/') else {
            return Some(Self::address(text, None));
        };
        let prefix = if prefix.contains(['.', ':']) {
            i64::from(mask_length(prefix.parse().ok()?)?)
        } else {
            prefix.trim().parse().ok()?
        };
        Some(match prefix {
            // What it means by "no prefix".
            -1 => Self::address(address, None),
            ..-1 => Self { text: address.into(), ip: None },
            _ => Self::address(address, Some(&prefix.to_string())),
        })
    }

    /// What `<IP4>` or `<IP6>` matched, with what `<CIDR>` matched. An impossible address stays a text.
    pub(super) fn address(text: &str, prefix: Option<&str>) -> Self {
        let Ok(ip) = text.parse::<IpAddr>() else {
            return Self { text: text.into(), ip: None };
        };
        let Some(prefix) = prefix.and_then(|prefix| prefix.parse::<u32>().ok()) else {
            // What reads as an IPv4 address is written in the only way there is.
            let text = if ip.is_ipv4() { text.into() } else { write(ip.to_canonical()) };
            return Self { text, ip: Some(ip.to_canonical()) };
        };
        let (ip, full) = match ip {
            IpAddr::V4(v4) => (IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask(prefix, 32) as u32)), 32),
            IpAddr::V6(v6) => (IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask(prefix, 128))), 128),
        };
        let text =
            if (1..full).contains(&prefix) { format!("{}/{prefix}", write(ip)).into() } else { write(ip) };
        Self { text, ip: Some(ip) }
    }
}

/// How many bits a mask has, if they stand side by side.
fn mask_length(mask: IpAddr) -> Option<u32> {
    let (bits, width) = match mask {
        IpAddr::V4(mask) => (u128::from(mask.to_bits()) << 96, 32),
        IpAddr::V6(mask) => (mask.to_bits(), 128),
    };
    let length = bits.leading_ones();
    (length == bits.count_ones()).then_some(length.min(width))
}

/// The upper `prefix` of `width` bits.
fn mask(prefix: u32, width: u32) -> u128 {
    let host_bits = width.saturating_sub(prefix);
    if host_bits >= 128 { 0 } else { u128::MAX << host_bits }
}

/// As the C library writes an address: other than Rust, it writes `::102:304` as `::1.2.3.4`.
fn write(ip: IpAddr) -> Text {
    match ip {
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0 && v6.to_bits() > 0xffff => {
            format!("::{}", Ipv4Addr::from_bits(v6.to_bits() as u32)).into()
        }
        ip => ip.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fail2ban 1.0.2's `IPAddr` writes them.
    #[test]
    fn ids_that_are_addresses_or_networks_are_written_in_one_way() {
        for (text, expected, is_address) in [
            ("10.1.2.3/8", "10.0.0.0/8", true),
            ("192.0.2.7/32", "192.0.2.7", true),
            ("[::1]", "::1", true),
            ("ABCD::1", "abcd::1", true),
            ("abc/5", "abc", false),
            ("[abc]", "abc", false),
            ("1.2.3.4/255.255.0.0", "1.2.0.0/16", true),
            ("fe80::1/ffff::", "fe80::/16", true),
            ("::ffff:1.2.3.4", "1.2.3.4", true),
            ("2001:db8::1/33", "2001:db8::/33", true),
            ("1.2.3.4/40", "1.2.3.4", true),
            ("1.2.3.4/0", "0.0.0.0", true),
            ("1.2.3.4/ 8", "1.0.0.0/8", true),
            ("[::1]/64", "[::1]", false),
            ("1.2.3.4/-1", "1.2.3.4", true),
            ("1.2.3.4/-3", "1.2.3.4", false),
            ("session 42", "session 42", false),
        ] {
            let identity = Identity::spelled(text).unwrap();
            assert_eq!((identity.text.as_str(), identity.ip.is_some()), (expected, is_address), "{text}");
        }
        for text in ["user/name", "a/b/c", "/", "1.2.3.4/255.0.255.0"] {
            assert_eq!(Identity::spelled(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_written_in_one_way() {
        for (text, prefix, expected, is_address) in [
            ("192.0.2.7", None, "192.0.2.7", true),
            ("192.030.0.6", None, "192.030.0.6", false),
            ("2001:DB8:0:0::7", None, "2001:db8::7", true),
            ("::ffff:c000:207", None, "192.0.2.7", true),
            ("192.0.2.7", Some("24"), "192.0.2.0/24", true),
            ("2001:db8::7", Some("32"), "2001:db8::/32", true),
            ("::102:304", None, "::1.2.3.4", true),
        ] {
            let identity = Identity::address(text, prefix);
            assert_eq!((identity.text.as_str(), identity.ip.is_some()), (expected, is_address), "{text}");
        }
    }
}
