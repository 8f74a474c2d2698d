//! A frame's source address. The only place with pointer arithmetic; every step is checked against the frame's end,
//! which is also what the kernel's verifier wants to see.

use crate::BanKey;

/// How many VLAN tags are looked through: one (802.1Q) or two (QinQ).
const VLAN_DEPTH: usize = 2;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and the outer tag that switches used before 802.1ad.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// What a frame says about where it comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// An IP packet from this address.
    Address(BanKey),
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// Shorter than its headers say, or an IP version that contradicts the Ethertype.
    Malformed,
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

/// The fixed part. Options come after the addresses, so they need no look.
#[repr(C, packed)]
struct Ipv4 {
    version_length: u8,
    _before_source: [u8; 11],
    source: [u8; 4],
    _destination: [u8; 4],
}

/// The fixed part. Extension headers come after the addresses, so they need no look.
#[repr(C, packed)]
struct Ipv6 {
    version_class: u8,
    _before_source: [u8; 7],
    source: [u8; 16],
    _destination: [u8; 16],
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

/// Reads the source address of the Ethernet frame at `start..end`.
///
/// # Safety
/// `start..end` must be readable memory, as the kernel guarantees for a frame's `data..data_end`.
#[inline(always)]
pub unsafe fn source(start: usize, end: usize) -> Source {
    let mut cursor = Cursor { at: start, end };
    // SAFETY: the caller's promise; all headers are `packed` structs of bytes, so any bits and alignment will do.
    let Some(ethernet) = (unsafe { cursor.next::<Ethernet>() }) else {
        return Source::Malformed;
    };
    let mut ethertype = u16::from_be_bytes(ethernet.ethertype);
    for _ in 0..VLAN_DEPTH {
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            break;
        }
        // SAFETY: as above.
        let Some(tag) = (unsafe { cursor.next::<VlanTag>() }) else {
            return Source::Malformed;
        };
        ethertype = u16::from_be_bytes(tag.ethertype);
    }
    match ethertype {
        // SAFETY: as above.
        ETHERTYPE_IPV4 => match unsafe { cursor.next::<Ipv4>() } {
            Some(ip) if ip.version_length >> 4 == 4 => Source::Address(BanKey::from_v4(ip.source)),
            _ => Source::Malformed,
        },
        // SAFETY: as above.
        ETHERTYPE_IPV6 => match unsafe { cursor.next::<Ipv6>() } {
            Some(ip) if ip.version_class >> 4 == 6 => Source::Address(BanKey::from_v6(ip.source)),
            _ => Source::Malformed,
        },
        _ => Source::NotIp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source_of(frame: &[u8]) -> Source {
        let range = frame.as_ptr_range();
        // SAFETY: a slice is readable memory.
        unsafe { source(range.start.addr(), range.end.addr()) }
    }

    fn ipv4_frame(tags: &[u16]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ETHERTYPE_IPV4.to_be_bytes());
        frame.extend([0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 7, 198, 51, 100, 1]);
        frame
    }

    #[test]
    fn the_source_is_found_behind_up_to_two_vlan_tags() {
        let banned = Source::Address(BanKey::from_v4([192, 0, 2, 7]));
        assert_eq!(source_of(&ipv4_frame(&[])), banned);
        assert_eq!(source_of(&ipv4_frame(&[0x8100])), banned);
        assert_eq!(source_of(&ipv4_frame(&[0x88a8, 0x8100])), banned);
        assert_eq!(source_of(&ipv4_frame(&[0x8100, 0x8100, 0x8100])), Source::NotIp);
    }

    #[test]
    fn a_frame_cut_anywhere_in_its_headers_is_malformed() {
        let frame = ipv4_frame(&[0x88a8, 0x8100]);
        for length in 0..frame.len() {
            assert_eq!(source_of(&frame[..length]), Source::Malformed, "cut at {length}");
        }
    }

    #[test]
    fn the_ip_version_must_agree_with_the_ethertype() {
        let mut frame = ipv4_frame(&[]);
        frame[14] = 0x65;
        assert_eq!(source_of(&frame), Source::Malformed);
    }
}
