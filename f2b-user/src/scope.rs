//! What a ban covers: every packet, or the packets to some ports.

use std::fmt;

use anyhow::{Result, bail};
use f2b_ebpf::{PortRange, SCOPE_RANGES};
use serde::{Serialize, Serializer};

/// What a ban covers.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Scope {
    /// Every packet.
    AllPorts,
    /// TCP or UDP packets to these ports, and those whose port is hidden (later fragments, …).
    Ports(Ports),
}

/// Ports of a protocol. Ranges are in order and neither overlap nor touch, so that equal ports are equal values.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ports {
    protocol: Protocol,
    ranges: Vec<PortRange>,
}

/// The protocols whose ports can be banned.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Protocol {
    Tcp,
    Udp,
    Both,
}

impl Ports {
    /// # Errors
    /// No range at all, or more of them than the kernel's side holds.
    pub fn new(protocol: Protocol, mut ranges: Vec<PortRange>) -> Result<Self> {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        if merged.is_empty() || merged.len() > SCOPE_RANGES {
            bail!(
                "{} separate ports and ranges are not between 1 and {SCOPE_RANGES}; \
                 join them into ranges, or ban all ports with banaction_allports",
                merged.len()
            );
        }
        Ok(Self { protocol, ranges: merged })
    }

    /// The first and the last port of each range.
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

impl fmt::Display for Scope {
    /// `all ports`, `tcp 22`, `tcp,udp 53,8000-8999`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ports(Ports { protocol, ranges }) = self else {
            return f.write_str("all ports");
        };
        f.write_str(match protocol {
            Protocol::Tcp => "tcp ",
            Protocol::Udp => "udp ",
            Protocol::Both => "tcp,udp ",
        })?;
        for (n, PortRange { first, last }) in ranges.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// As the kernel's map has it; [`Scope::AllPorts`] needs no entry there.
impl From<&Ports> for f2b_ebpf::Scope {
    fn from(ports: &Ports) -> Self {
        let mut ranges = [PortRange::default(); SCOPE_RANGES];
        ranges[..ports.ranges.len()].copy_from_slice(&ports.ranges);
        Self {
            ready: 0,
            tcp: u8::from(ports.protocol != Protocol::Udp),
            udp: u8::from(ports.protocol != Protocol::Tcp),
            count: ports.ranges.len() as u8,
            ranges,
        }
    }
}

/// `None` for an entry that is not in use, or that nobody could have written.
impl TryFrom<&f2b_ebpf::Scope> for Ports {
    type Error = anyhow::Error;

    fn try_from(scope: &f2b_ebpf::Scope) -> Result<Self> {
        let protocol = match (scope.tcp, scope.udp) {
            (1, 0) => Protocol::Tcp,
            (0, 1) => Protocol::Udp,
            (1, 1) => Protocol::Both,
            _ => bail!("it is for no protocol"),
        };
        let ranges = scope.ranges.iter().take(usize::from(scope.count));
        Self::new(protocol, ranges.copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(protocol: Protocol, ranges: &[(u16, u16)]) -> Result<Ports> {
        Ports::new(protocol, ranges.iter().map(|&(first, last)| PortRange { first, last }).collect())
    }

    #[test]
    fn ports_in_any_order_and_overlap_are_the_same_ports() {
        let a = ports(Protocol::Tcp, &[(443, 443), (80, 80), (8000, 8010), (8005, 8999), (81, 81)]).unwrap();
        let b = ports(Protocol::Tcp, &[(80, 81), (443, 443), (8000, 8999)]).unwrap();
        assert_eq!(a, b);
        assert_eq!(Scope::Ports(a).to_string(), "tcp 80-81,443,8000-8999");
        let all = ports(Protocol::Both, &[(0, 40000), (40001, 65535)]).unwrap();
        assert_eq!(Scope::Ports(all).to_string(), "tcp,udp 0-65535");
    }

    #[test]
    fn too_many_ranges_are_an_error_and_never_a_wider_scope() {
        let apart: Vec<_> = (0..33).map(|n| (n * 10, n * 10)).collect();
        assert!(ports(Protocol::Tcp, &apart[..32]).is_ok());
        assert!(ports(Protocol::Tcp, &apart).is_err());
        assert!(ports(Protocol::Tcp, &[]).is_err());
    }

    #[test]
    fn ports_survive_the_way_into_the_kernel_and_back() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Both] {
            let scope = ports(protocol, &[(22, 22), (1024, 65535)]).unwrap();
            assert_eq!(Ports::try_from(&f2b_ebpf::Scope::from(&scope)).unwrap(), scope);
        }
    }
}
