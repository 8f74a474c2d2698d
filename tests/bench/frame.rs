//! The frame that floods are made of.

use std::net::Ipv4Addr;

/// Where its IP header begins.
pub(crate) const IP: usize = 14;

/// The server's UDP port under attack.
pub(crate) const SERVER_PORT: u16 = 9999;

/// The smallest frame that Ethernet carries: UDP from 10.0.0.0 to the lab's server. The hardware address of the
/// receiver and the source are filled in by [`udp`].
pub(crate) const UDP_FRAME: [u8; 60] = {
    let mut frame = [0; 60];
    let headers = [
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        2,
        2,
        2,
        2,
        2,
        0x08,
        0x00, // Ethernet: to, from, IPv4
        0x45,
        0,
        0,
        46,
        0,
        0,
        0x40,
        0,
        64,
        17,
        0,
        0,
        10,
        0,
        0,
        0,
        198,
        51,
        100,
        1, // IPv4
        0x9c,
        0x40,
        (SERVER_PORT >> 8) as u8,
        SERVER_PORT as u8,
        0,
        26,
        0,
        0, // UDP, without a checksum
    ];
    let mut at = 0;
    while at < headers.len() {
        frame[at] = headers[at];
        at += 1;
    }
    frame
};

/// The frame from `source` to the interface with this hardware address.
pub(crate) fn udp(hardware_address: [u8; 6], source: Ipv4Addr) -> [u8; 60] {
    let mut frame = UDP_FRAME;
    frame[..6].copy_from_slice(&hardware_address);
    let header = &mut frame[IP..IP + 20];
    header[12..16].copy_from_slice(&source.octets());
    // The Internet checksum (RFC 1071).
    let sum: u32 = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame
}
