//! A frame's source address and, where a ban asks for it, its destination port. The only place with pointer arithmetic;
//! every step is checked against the frame's end, which is also what the kernel's verifier wants to see.

use crate::BanKey;

/// How many VLAN tags are looked through: one (802.1Q) or two (QinQ). A tag that the network card took off does not
/// count.
const VLAN_DEPTH: usize = 2;
/// How many IPv6 extension headers are looked through on the way to a port.
const EXTENSION_DEPTH: usize = 8;

/// Ethertypes as they are in memory.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();
/// 802.1Q, 802.1ad, and the outer tag that switches used before 802.1ad.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100_u16.to_be(), 0x88a8_u16.to_be(), 0x9100_u16.to_be()];

/// The protocols whose ports a ban can name.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// The IPv6 extension headers (RFC 7045) that can stand before a port that anybody listens to: what comes next and how
/// long they are is at the same place in all of them. An authentication header (51) is not among them, because without
/// a key nobody's packets get past it; it is as portless as it is in IPv4.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The bits of an IPv4 header's fragment field that are not flags.
const IPV4_FRAGMENT_OFFSET: u16 = 0x1fff;
/// The same in IPv6's fragment header.
const IPV6_FRAGMENT_OFFSET: u16 = 0xfff8;

/// How the last eight bytes of an IPv4 address's key begin: `::ffff:`.
const V4_MAPPED: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);

/// What a frame is.
#[derive(Clone, Copy)]
pub enum Frame<'frame> {
    /// An IP packet.
    Ip(Packet<'frame>),
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Shorter than its headers say, or an IP version that contradicts the Ethertype.
    Malformed,
}

/// An IP packet, read as far as every packet is: to its source address.
#[derive(Clone, Copy)]
pub struct Packet<'frame> {
    /// Where it comes from.
    pub source: BanKey,
    header: Header<'frame>,
    /// Where the frame ends.
    end: usize,
    /// See [`read`].
    is_copy: bool,
}

#[derive(Clone, Copy)]
enum Header<'frame> {
    V4(&'frame Ipv4),
    V6(&'frame Ipv6),
}

/// What a packet is addressed to, as far as bans of ports care.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Tcp(u16),
    Udp(u16),
    /// A protocol without ports, or whose ports no ban can name (ICMP, ESP, SCTP, …): bans of ports do not cover it.
    Portless,
    /// A port that is not to be seen: in a later fragment, behind too many or broken headers. Any port may be meant, so
    /// every ban of ports covers it.
    Hidden,
}

#[repr(C, packed)]
struct Ethernet {
    _destination: [u8; 6],
    _source: [u8; 6],
    ethertype: [u8; 2],
}

#[repr(C, packed)]
struct VlanTag {
    _control: [u8; 2],
    ethertype: [u8; 2],
}

/// The fixed part; options follow.
#[repr(C, packed)]
struct Ipv4 {
    version_length: u8,
    _service: u8,
    total_length: [u8; 2],
    _id: [u8; 2],
    fragment: [u8; 2],
    _ttl: u8,
    protocol: u8,
    _checksum: [u8; 2],
    source: [u8; 4],
    _destination: [u8; 4],
}

/// The fixed part; extension headers follow.
#[repr(C, packed)]
struct Ipv6 {
    version_class: u8,
    _before_next: [u8; 5],
    next: u8,
    _hop_limit: u8,
    source: [u8; 16],
    _destination: [u8; 16],
}

/// How every extension header begins. None is shorter than eight bytes.
#[repr(C, packed)]
struct Extension {
    next: u8,
    length: u8,
    /// In a fragment header: the offset, and flags.
    fragment: [u8; 2],
    _rest: [u8; 4],
}

impl Extension {
    /// The length field, read anew each time: what the verifier knows of one reading it would carry from header to
    /// header, and look at every combination there can be.
    #[inline(always)]
    fn length(&self) -> u8 {
        let length = &raw const self.length;
        // SAFETY: a byte of `self`.
        unsafe { length.read_volatile() }
    }
}

/// How both TCP and UDP begin.
#[repr(C, packed)]
struct Ports {
    _source: [u8; 2],
    destination: [u8; 2],
}

/// A place in a frame: reads header after header, never beyond the end.
struct Cursor {
    at: usize,
    end: usize,
}

impl Cursor {
    /// The next `T`, or `None` if the frame ends inside it.
    ///
    /// # Safety
    /// `at..end` must be readable memory, and every bit pattern of `T` valid at any alignment.
    #[inline(always)]
    unsafe fn next<'frame, T>(&mut self) -> Option<&'frame T> {
        let header = self.at as *const T;
        let after = self.at + size_of::<T>();
        if after > self.end {
            return None;
        }
        self.at = after;
        // SAFETY: just checked to lie before the end; the caller vouches for the memory and for `T`.
        Some(unsafe { &*header })
    }
}

/// Reads the Ethernet frame at `start..end` as far as the source address. Of a copy of its begin, no extension headers are
/// read: the verifier wants to know how far into a copy a program can reach.
///
/// # Safety
/// `start..end` must be readable memory for as long as what is returned is in use, as the kernel guarantees for a
/// frame's `data..data_end`.
#[inline(always)]
pub unsafe fn read<'frame>(start: usize, end: usize, is_copy: bool) -> Frame<'frame> {
    let mut cursor = Cursor { at: start, end };
    // SAFETY: the caller's promise; all headers are `packed` structs of bytes, so any bits and alignment will do.
    let Some(ethernet) = (unsafe { cursor.next::<Ethernet>() }) else {
        return Frame::Malformed;
    };
    let mut ethertype = load_u16(&ethernet.ethertype);
    for _ in 0..VLAN_DEPTH {
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        // SAFETY: as above.
        let Some(tag) = (unsafe { cursor.next::<VlanTag>() }) else {
            return Frame::Malformed;
        };
        ethertype = load_u16(&tag.ethertype);
    }
    match ethertype {
        // SAFETY: as above.
        ETHERTYPE_IPV4 => match unsafe { cursor.next::<Ipv4>() } {
            Some(ip) if ip.version_length >> 4 == 4 => {
                Frame::Ip(Packet { source: source_v4(ip), header: Header::V4(ip), end, is_copy })
            }
            _ => Frame::Malformed,
        },
        // SAFETY: as above.
        ETHERTYPE_IPV6 => match unsafe { cursor.next::<Ipv6>() } {
            Some(ip) if ip.version_class >> 4 == 6 => {
                Frame::Ip(Packet { source: source_v6(ip), header: Header::V6(ip), end, is_copy })
            }
            _ => Frame::Malformed,
        },
        _ => Frame::NotIp,
    }
}

#[inline(always)]
fn source_v4(ip: &Ipv4) -> BanKey {
    let addr = u64::from(load_u32(&ip.source));
    // What comes first in memory is the lower half here.
    #[cfg(target_endian = "little")]
    let addr = addr << 32;
    BanKey::from_words([0, V4_MAPPED | addr])
}

#[inline(always)]
fn source_v6(ip: &Ipv6) -> BanKey {
    let ([first, last], _) = ip.source.as_chunks() else { return BanKey::from_v6(ip.source) };
    BanKey::from_words([load_u64(first), load_u64(last)])
}

/// Defines a load of bytes as they are, in one piece.
///
/// For the BPF target the compiler takes byte after byte, because some processors cannot do else; where the kernel's
/// cannot, its verifier refuses the program.
macro_rules! load {
    ($name:ident, $type:ty, $in_bpf:literal) => {
        #[inline(always)]
        fn $name(bytes: &[u8; size_of::<$type>()]) -> $type {
            #[cfg(target_arch = "bpf")]
            {
                let word: u64;
                // SAFETY: one load of all of `bytes`.
                unsafe {
                    core::arch::asm!(
                        concat!("{word} = *(", $in_bpf, " *)({bytes} + 0)"),
                        bytes = in(reg) bytes,
                        word = lateout(reg) word,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                word as $type
            }
            #[cfg(not(target_arch = "bpf"))]
            <$type>::from_ne_bytes(*bytes)
        }
    };
}

load!(load_u16, u16, "u16");
load!(load_u32, u32, "u32");
load!(load_u64, u64, "u64");

impl Packet<'_> {
    /// The source of an IPv4 packet, as it is in memory. `None` for IPv6, also from an IPv4-mapped address.
    #[inline(always)]
    pub fn v4(&self) -> Option<u32> {
        match self.header {
            Header::V4(ip) => Some(load_u32(&ip.source)),
            Header::V6(_) => None,
        }
    }

    /// Whether an IPv4 packet ends within what the programs see of the frame, by its own length: then all of the frame is
    /// there, unless somebody has put something behind the packet.
    #[inline(always)]
    pub fn is_in_sight(&self) -> bool {
        match self.header {
            Header::V4(ip) if !self.is_copy => {
                // Numbers, not places: verifiers before 6.6 know nothing of a number whose bytes were swapped.
                let seen = self.end - core::ptr::from_ref(ip).addr();
                seen >= usize::from(u16::from_be_bytes(ip.total_length))
            }
            Header::V4(_) | Header::V6(_) => false,
        }
    }

    /// Reads on, to the destination port.
    #[inline(always)]
    pub fn target(&self) -> Target {
        match self.header {
            Header::V4(ip) => self.target_v4(ip),
            Header::V6(ip) => self.target_v6(ip),
        }
    }

    #[inline(always)]
    fn target_v4(&self, ip: &Ipv4) -> Target {
        if !has_ports(ip.protocol) {
            return Target::Portless;
        }
        let length = usize::from(ip.version_length & 0x0f) * 4;
        if length < size_of::<Ipv4>() || u16::from_be_bytes(ip.fragment) & IPV4_FRAGMENT_OFFSET != 0 {
            return Target::Hidden;
        }
        self.port(ip.protocol, core::ptr::from_ref(ip).addr() + length)
    }

    #[inline(always)]
    fn target_v6(&self, ip: &Ipv6) -> Target {
        let mut at = core::ptr::from_ref(ip).addr() + size_of::<Ipv6>();
        let mut next = ip.next;
        for _ in 0..=EXTENSION_DEPTH {
            if !is_extension(next) {
                return if has_ports(next) { self.port(next, at) } else { Target::Portless };
            }
            if self.is_copy {
                return Target::Hidden;
            }
            let mut cursor = Cursor { at, end: self.end };
            // SAFETY: `read`'s caller vouches for the frame; a `packed` struct of bytes takes any bits and alignment.
            let Some(header) = (unsafe { cursor.next::<Extension>() }) else {
                return Target::Hidden;
            };
            if next == FRAGMENT {
                if u16::from_be_bytes(header.fragment) & IPV6_FRAGMENT_OFFSET != 0 {
                    // What follows is the middle of something; ports are out of sight, if there are any.
                    let portless = !has_ports(header.next) && !is_extension(header.next);
                    return if portless { Target::Portless } else { Target::Hidden };
                }
                if header.length() != 0 {
                    // Reserved there, and 0 in every real packet: a fragment header has one length.
                    return Target::Hidden;
                }
            }
            at += (usize::from(header.length()) + 1) * 8;
            next = header.next;
        }
        Target::Hidden
    }

    #[inline(always)]
    fn port(&self, protocol: u8, at: usize) -> Target {
        let mut cursor = Cursor { at, end: self.end };
        // SAFETY: `read`'s caller vouches for the frame; a `packed` struct of bytes takes any bits and alignment.
        match unsafe { cursor.next::<Ports>() } {
            None => Target::Hidden,
            Some(ports) => {
                let port = u16::from_be_bytes(ports.destination);
                if protocol == TCP { Target::Tcp(port) } else { Target::Udp(port) }
            }
        }
    }
}

#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    protocol == TCP || protocol == UDP
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION | MOBILITY | HIP | SHIM6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: &[u8]) -> Frame<'_> {
        let range = bytes.as_ptr_range();
        // SAFETY: a slice is readable memory, and borrowed for as long as the frame lives.
        unsafe { read(range.start.addr(), range.end.addr(), false) }
    }

    fn source_of(bytes: &[u8]) -> Option<BanKey> {
        match frame(bytes) {
            Frame::Ip(packet) => Some(packet.source),
            Frame::NotIp | Frame::Malformed => None,
        }
    }

    fn target_of(bytes: &[u8]) -> Target {
        match frame(bytes) {
            Frame::Ip(packet) => packet.target(),
            Frame::NotIp | Frame::Malformed => panic!("an IP packet"),
        }
    }

    fn ipv4_frame(tags: &[u16]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ETHERTYPE_IPV4.to_ne_bytes());
        frame.extend([0x45, 0, 0, 28, 0, 0, 0, 0, 64, UDP, 0, 0, 192, 0, 2, 7, 198, 51, 100, 1]);
        frame.extend([0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        frame
    }

    /// An IPv6 packet that begins with header `next`.
    fn ipv6_frame(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(ETHERTYPE_IPV6.to_ne_bytes());
        frame.extend([0x60, 0, 0, 0, 0, 0, next, 64]);
        frame.extend([0xfd; 32]);
        frame.extend(payload);
        frame
    }

    #[test]
    fn the_source_is_found_behind_up_to_two_vlan_tags() {
        let banned = Some(BanKey::from_v4([192, 0, 2, 7]));
        assert_eq!(source_of(&ipv4_frame(&[])), banned);
        assert_eq!(source_of(&ipv4_frame(&[0x8100])), banned);
        assert_eq!(source_of(&ipv4_frame(&[0x88a8, 0x8100])), banned);
        assert!(matches!(frame(&ipv4_frame(&[0x8100, 0x8100, 0x8100])), Frame::NotIp));
    }

    #[test]
    fn the_ip_version_must_agree_with_the_ethertype() {
        let mut bytes = ipv4_frame(&[]);
        bytes[14] = 0x65;
        assert!(matches!(frame(&bytes), Frame::Malformed));
    }

    #[test]
    fn a_port_is_found_or_known_to_be_hidden() {
        let plain = ipv4_frame(&[]);
        assert_eq!(target_of(&plain), Target::Udp(53));
        for (byte, value, expected) in [
            (23, TCP, Target::Tcp(53)),
            (23, 1, Target::Portless),
            // Options that reach to the last four bytes, and beyond.
            (14, 0x46, Target::Udp(0)),
            (14, 0x47, Target::Hidden),
            (14, 0x44, Target::Hidden),
            // A first fragment, a later one.
            (20, 0x20, Target::Udp(53)),
            (21, 1, Target::Hidden),
        ] {
            let mut bytes = plain.clone();
            bytes[byte] = value;
            assert_eq!(target_of(&bytes), expected, "byte {byte} is {value}");
        }
        assert_eq!(target_of(&plain[..37]), Target::Hidden, "cut inside the ports");
    }

    #[test]
    fn extension_headers_are_walked_to_a_port_as_far_as_the_bound() {
        let ports = [0x12, 0x34, 0, 22];
        let chain = |headers: &[u8], last: u8| {
            let following = headers.iter().skip(1).copied().chain([last]).take(headers.len());
            let mut payload: Vec<_> = following.flat_map(|next| [next, 0, 0, 0, 0, 0, 0, 0]).collect();
            payload.extend(ports);
            ipv6_frame(headers.first().copied().unwrap_or(last), &payload)
        };
        assert_eq!(target_of(&chain(&[], TCP)), Target::Tcp(22));
        assert_eq!(target_of(&chain(&[HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION], TCP)), Target::Tcp(22));
        assert_eq!(target_of(&chain(&[MOBILITY, HIP, SHIM6], UDP)), Target::Udp(22));
        assert_eq!(target_of(&chain(&[DESTINATION; EXTENSION_DEPTH], TCP)), Target::Tcp(22));
        assert_eq!(target_of(&chain(&[DESTINATION; EXTENSION_DEPTH + 1], TCP)), Target::Hidden);
        assert_eq!(target_of(&chain(&[DESTINATION], 58)), Target::Portless);
        assert_eq!(target_of(&chain(&[51], TCP)), Target::Portless);
        let reserved = [TCP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 80, 0, 22];
        assert_eq!(target_of(&ipv6_frame(FRAGMENT, &reserved)), Target::Hidden);
        let later = |protocol| ipv6_frame(FRAGMENT, &[protocol, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 22]);
        assert_eq!(target_of(&later(TCP)), Target::Hidden);
        assert_eq!(target_of(&later(DESTINATION)), Target::Hidden);
        assert_eq!(target_of(&later(58)), Target::Portless);
        assert_eq!(target_of(&ipv6_frame(DESTINATION, &[TCP, 200, 0, 0, 0, 0, 0, 0])), Target::Hidden);
    }
}
