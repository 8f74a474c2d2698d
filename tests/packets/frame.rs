//! Builds frames.

use std::net::IpAddr;

pub const VLAN: u16 = 0x8100;
pub const SERVICE_VLAN: u16 = 0x88a8;
pub const OLD_QINQ: u16 = 0x9100;

pub const HOP_BY_HOP: u8 = 0;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const ESP: u8 = 50;
pub const AUTHENTICATION: u8 = 51;
pub const ICMPV6: u8 = 58;
pub const NO_NEXT: u8 = 59;
pub const DESTINATION: u8 = 60;
pub const SCTP: u8 = 132;

/// An Ethernet frame. Each method appends what comes next in it, or changes its IP header.
#[derive(Clone)]
pub struct Frame(pub Vec<u8>);

/// A small UDP packet from `source`.
pub fn udp(source: IpAddr) -> Frame {
    Frame::new().ip(source).carrying(UDP, &[0; 18])
}

/// A TCP header from `source` to `port`.
pub fn tcp(source: IpAddr, port: u16) -> Frame {
    Frame::new().ip(source).carrying(TCP, &ports(port, 20))
}

/// The first `length` bytes of a TCP or UDP header to `port`.
pub fn ports(port: u16, length: usize) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    let mut header = vec![0xc0, 0x01, high, low];
    header.resize(length, 0);
    header
}

/// An IPv4 address in IPv6's spelling, `::ffff:a.b.c.d`.
pub fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}

impl Frame {
    /// The two hardware addresses.
    pub fn new() -> Self {
        Self(vec![2; 12])
    }

    pub fn append(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub fn ethertype(self, ethertype: u16) -> Self {
        self.append(&ethertype.to_be_bytes())
    }

    /// A VLAN tag of this kind.
    pub fn tag(self, kind: u16) -> Self {
        self.ethertype(kind).append(&[0, 7])
    }

    /// An IP header without options, to some server.
    pub fn ip(self, source: IpAddr) -> Self {
        match source {
            IpAddr::V4(_) => self.ipv4_with_options(source, &[]),
            IpAddr::V6(v6) => {
                let frame = self.ethertype(0x86dd).append(&[0x60, 0, 0, 0, 0, 0, UDP, 64]);
                frame.append(&v6.octets()).append(&[0xfd; 16])
            }
        }
    }

    pub fn ipv4_with_options(self, source: IpAddr, options: &[u8]) -> Self {
        let IpAddr::V4(source) = source else { panic!("{source} is not IPv4") };
        let words = 5 + options.len() as u8 / 4;
        let frame = self.ethertype(0x0800).append(&[0x40 | words, 0, 0, 0, 0, 1, 0, 0, 64, UDP, 0, 0]);
        frame.append(&source.octets()).append(&[198, 51, 100, 1]).append(options)
    }

    /// A payload of this protocol.
    pub fn carrying(mut self, protocol: u8, payload: &[u8]) -> Self {
        let ip = self.ip_header();
        let place = if self.0[ip] >> 4 == 4 { ip + 9 } else { ip + 6 };
        self.0[place] = protocol;
        let mut frame = self.append(payload);
        // IPv4's length includes its header.
        let is_v4 = frame.0[ip] >> 4 == 4;
        let (place, begin) = if is_v4 { (ip + 2, ip) } else { (ip + 4, ip + 40) };
        let length = u16::try_from(frame.0.len() - begin).expect("no jumbograms");
        frame.0[place..place + 2].copy_from_slice(&length.to_be_bytes());
        frame
    }

    /// IPv6 extension headers of eight bytes each, and then a payload of `protocol`.
    pub fn extended(self, headers: &[u8], protocol: u8, payload: &[u8]) -> Self {
        let following = headers.iter().skip(1).copied().chain([protocol]).take(headers.len());
        let mut chain: Vec<_> = following.flat_map(|next| [next, 0, 0, 0, 0, 0, 0, 0]).collect();
        chain.extend(payload);
        self.carrying(headers.first().copied().unwrap_or(protocol), &chain)
    }

    /// Another destination.
    pub fn to(mut self, destination: IpAddr) -> Self {
        let ip = self.ip_header();
        match destination {
            IpAddr::V4(v4) => self.0[ip + 16..][..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => self.0[ip + 24..][..16].copy_from_slice(&v6.octets()),
        }
        self
    }

    /// Another IP version in the header.
    pub fn version(mut self, version: u8) -> Self {
        let ip = self.ip_header();
        self.0[ip] = version << 4 | self.0[ip] & 0x0f;
        self
    }

    /// Another length of the IPv4 header, in words.
    pub fn header_words(mut self, words: u8) -> Self {
        let ip = self.ip_header();
        self.0[ip] = self.0[ip] & 0xf0 | words;
        self
    }

    /// IPv4's fragment flags and offset.
    pub fn ipv4_fragment(mut self, field: u16) -> Self {
        let ip = self.ip_header();
        self.0[ip + 6..][..2].copy_from_slice(&field.to_be_bytes());
        self
    }

    /// Cut off behind `length` bytes.
    pub fn cut(mut self, length: usize) -> Self {
        self.0.truncate(length);
        self
    }

    /// Where the IP header begins: behind the hardware addresses, all tags and the Ethertype.
    fn ip_header(&self) -> usize {
        let mut at = 12;
        while [[0x81, 0], [0x88, 0xa8], [0x91, 0]].iter().any(|tag| self.0[at..].starts_with(tag)) {
            at += 4;
        }
        at + 2
    }
}
