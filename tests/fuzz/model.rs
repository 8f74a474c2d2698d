//! What the kernel half must do with a frame, in plain words: the reference that the real program is compared with.
//!
//! Written from the contract (`f2b-ebpf/src/lib.rs`) and the README, not from the program: it reads frames with slices,
//! looks prefixes up by trying them all, and takes its time.

use std::{collections::HashMap, ops::AddAssign};

use f2b_ebpf::{BanEntry, Counters, PortScopes};

/// The scope of every packet.
const EVERYTHING: u64 = 1;

/// All that a verdict depends on besides the frame.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// Banned addresses, IPv4 as `::ffff:a.b.c.d`.
    pub(crate) bans: HashMap<u128, BanEntry>,
    pub(crate) prefixes: Vec<(Prefix, BanEntry)>,
    pub(crate) allowed: Vec<Prefix>,
    /// Which scopes have a destination port; the other ports are in none.
    pub(crate) ports: HashMap<u16, PortScopes>,
    /// The kernel's monotonic clock.
    pub(crate) now_ns: u64,
}

/// The first `length` bits of an address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Prefix {
    pub(crate) address: u128,
    pub(crate) length: u32,
}

impl Prefix {
    pub(crate) fn new(address: u128, length: u32) -> Self {
        Self { address: address & Self::mask(length), length }
    }

    fn mask(length: u32) -> u128 {
        if length == 0 { 0 } else { u128::MAX << (128 - length) }
    }

    fn has(&self, address: u128) -> bool {
        address & Self::mask(self.length) == self.address
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Passed,
    /// By the ban of this address or prefix, counted in this scope.
    Dropped(Culprit, u32),
    Lapsed,
    OtherPorts,
    /// Because of this entry of the allow list.
    Allowed(Prefix),
    NotIp,
    Malformed,
}

/// Whose ban it is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Culprit {
    Address(u128),
    Prefix(Prefix),
}

impl Verdict {
    pub(crate) fn drops(self) -> bool {
        matches!(self, Self::Dropped(..))
    }

    /// The counters of one frame with this verdict.
    pub(crate) fn counters(self) -> Counters {
        let mut counters = Counters::default();
        let counter = match self {
            Self::Passed => &mut counters.passed,
            Self::Dropped(..) => &mut counters.dropped,
            Self::Lapsed => &mut counters.lapsed,
            Self::OtherPorts => &mut counters.other_ports,
            Self::Allowed(_) => &mut counters.allowed,
            Self::NotIp => &mut counters.not_ip,
            Self::Malformed => &mut counters.malformed,
        };
        counter.add_assign(1);
        counters
    }
}

impl Model {
    /// The verdict on a frame of which the program sees these bytes.
    pub(crate) fn judge(&self, visible: &[u8]) -> Verdict {
        let (source, target) = match read_frame(visible) {
            Frame::NotIp => return Verdict::NotIp,
            Frame::Malformed => return Verdict::Malformed,
            Frame::Ip { source, target } => (source, target),
        };
        let by_address = self.bans.get(&source);
        let by_prefix = longest(self.prefixes.iter().map(|(prefix, _)| *prefix), source);
        let prefix_entry =
            by_prefix.and_then(|found| self.prefixes.iter().find(|(prefix, _)| *prefix == found));
        let address_scopes = by_address.map_or(0, |ban| self.scopes(ban));
        let prefix_scopes = prefix_entry.map_or(0, |(_, ban)| self.scopes(ban));

        if by_address.is_none() && by_prefix.is_none() {
            return Verdict::Passed;
        }
        if address_scopes | prefix_scopes == 0 {
            return Verdict::Lapsed;
        }
        let hit = self.hit(address_scopes | prefix_scopes, target);
        if hit == 0 {
            return Verdict::OtherPorts;
        }
        if let Some(allowed) = longest(self.allowed.iter().copied(), source) {
            return Verdict::Allowed(allowed);
        }
        // The address' own ban is to blame if it suffices, whatever the prefix's says.
        let culprit = match by_prefix {
            Some(prefix) if address_scopes & hit == 0 => Culprit::Prefix(prefix),
            _ => Culprit::Address(source),
        };
        Verdict::Dropped(culprit, hit.trailing_zeros())
    }

    /// How long the program takes this frame for, of which it sees the first bytes in one piece.
    pub(crate) fn length(frame: &[u8], visible: usize) -> usize {
        let visible = visible.min(frame.len());
        let (at, kind) = network_layer(frame).unwrap_or_default();
        let packet_length = u16_at(frame, at + 2).filter(|_| kind == 0x0800).map(usize::from);
        // Whatever is behind an IPv4 packet that ends there does not count.
        if packet_length.is_some_and(|length| at + length <= visible) { visible } else { frame.len() }
    }

    /// All that the verdict on this frame depends on, to be read by a person.
    pub(crate) fn about(&self, visible: &[u8]) -> String {
        let frame = read_frame(visible);
        let Frame::Ip { source, target } = frame else {
            return format!("{frame:?}");
        };
        let prefixes: Vec<_> = self.prefixes.iter().filter(|(prefix, _)| prefix.has(source)).collect();
        let allowed: Vec<_> = self.allowed.iter().filter(|prefix| prefix.has(source)).collect();
        let ports = match target {
            Target::Tcp(port) | Target::Udp(port) => self.ports.get(&port),
            Target::Portless | Target::Hidden => None,
        };
        format!(
            "from {source:x} to {target:?}, at {:x}\nits ban: {:x?}\nits prefixes: {prefixes:x?}\nallowed by: {allowed:x?}\nits port: {ports:x?}",
            self.now_ns,
            self.bans.get(&source)
        )
    }

    /// The scopes that `ban` bans now.
    fn scopes(&self, ban: &BanEntry) -> u64 {
        let going_on = ban.slots.iter().filter(|slot| slot.ends_ns > self.now_ns);
        going_on.fold(0, |scopes, slot| scopes | slot.scopes)
    }

    /// Which of the `banned` scopes this packet is in.
    fn hit(&self, banned: u64, target: Target) -> u64 {
        if banned & EVERYTHING != 0 {
            return EVERYTHING;
        }
        let of = |port, protocol: fn(&PortScopes) -> u64| self.ports.get(&port).map_or(0, protocol);
        let scopes = match target {
            Target::Tcp(port) => of(port, |scopes| scopes.tcp),
            Target::Udp(port) => of(port, |scopes| scopes.udp),
            Target::Portless => 0,
            Target::Hidden => u64::MAX,
        };
        banned & scopes
    }
}

fn longest(prefixes: impl Iterator<Item = Prefix>, address: u128) -> Option<Prefix> {
    prefixes.filter(|prefix| prefix.has(address)).max_by_key(|prefix| prefix.length)
}

/// A frame as a reader of the RFCs sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    Ip { source: u128, target: Target },
    NotIp,
    Malformed,
}

/// Where a packet wants to go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    Tcp(u16),
    Udp(u16),
    /// Neither TCP nor UDP.
    Portless,
    /// The port cannot be seen.
    Hidden,
}

/// Reads an Ethernet frame with up to two VLAN tags.
pub(crate) fn read_frame(frame: &[u8]) -> Frame {
    match network_layer(frame) {
        None => Frame::Malformed,
        Some((at, 0x0800)) => read_ipv4(&frame[at..]),
        Some((at, 0x86dd)) => read_ipv6(&frame[at..]),
        Some(_) => Frame::NotIp,
    }
}

/// Where the packet begins in an Ethernet frame with up to two VLAN tags, and what it is.
fn network_layer(frame: &[u8]) -> Option<(usize, u16)> {
    let (mut at, mut kind) = (14, u16_at(frame, 12)?);
    for _ in 0..2 {
        if ![0x8100, 0x88a8, 0x9100].contains(&kind) {
            break;
        }
        kind = u16_at(frame, at + 2)?;
        at += 4;
    }
    Some((at, kind))
}

fn read_ipv4(packet: &[u8]) -> Frame {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return Frame::Malformed;
    }
    let source = u32::from_be_bytes([packet[12], packet[13], packet[14], packet[15]]);
    let source = 0xffff_u128 << 32 | u128::from(source);
    let protocol = packet[9];
    let header = usize::from(packet[0] % 16) * 4;
    let fragment_offset = u16::from_be_bytes([packet[6], packet[7]]) % 0x2000;
    let target = if protocol != TCP && protocol != UDP {
        Target::Portless
    } else if header < 20 || fragment_offset > 0 {
        Target::Hidden
    } else {
        read_port(protocol, packet.get(header..).unwrap_or_default())
    };
    Frame::Ip { source, target }
}

fn read_ipv6(packet: &[u8]) -> Frame {
    let Some((header, payload)) = packet.split_at_checked(40).filter(|(header, _)| header[0] >> 4 == 6)
    else {
        return Frame::Malformed;
    };
    let mut source = [0; 16];
    source.copy_from_slice(&header[8..24]);
    Frame::Ip { source: u128::from_be_bytes(source), target: read_extensions(header[6], payload, 0) }
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
/// How many extension headers are looked through, at most.
const EXTENSIONS: usize = 8;

/// What an IPv6 header chain that goes on with `next` leads to, behind `seen` extension headers.
fn read_extensions(next: u8, bytes: &[u8], seen: usize) -> Target {
    match next {
        TCP | UDP => return read_port(next, bytes),
        _ if !is_extension(next) => return Target::Portless,
        _ if bytes.len() < 8 => return Target::Hidden,
        _ => {}
    }
    let (after, length) = (bytes[0], bytes[1]);
    if next == FRAGMENT && u16_at(bytes, 2).is_some_and(|field| field / 8 > 0) {
        // A later fragment, of something that may begin with a port, or not.
        let may_have_port = after == TCP || after == UDP || is_extension(after);
        return if may_have_port { Target::Hidden } else { Target::Portless };
    }
    // Longer chains are nobody's honest traffic, and where they end is not looked for. A fragment header has no length:
    // that byte is reserved.
    if seen == EXTENSIONS || (next == FRAGMENT && length != 0) {
        return Target::Hidden;
    }
    let bytes = bytes.get(8 * (usize::from(length) + 1)..).unwrap_or_default();
    read_extensions(after, bytes, seen + 1)
}

/// Hop-by-hop, routing, fragment, destination, mobility, HIP, shim6: RFC 7045's list without the authentication header,
/// behind which only those who have a key reach a port.
fn is_extension(next: u8) -> bool {
    [0, 43, FRAGMENT, 60, 135, 139, 140].contains(&next)
}

fn read_port(protocol: u8, bytes: &[u8]) -> Target {
    match u16_at(bytes, 2) {
        None => Target::Hidden,
        Some(port) if protocol == TCP => Target::Tcp(port),
        Some(port) => Target::Udp(port),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
