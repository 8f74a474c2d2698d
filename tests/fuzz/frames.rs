//! Frames: built layer by layer at random, spoiled at random, or nothing but random bytes.

use fastrand::Rng;

/// The program cannot be given less than an Ethernet header.
pub(crate) const SHORTEST: usize = 14;
/// Longer frames than this come in several buffers.
const LONGEST: usize = 2_000;
const JUMBO: usize = 9_014;

/// Values that mean something somewhere in a header.
const TELLING_BYTES: [u8; 24] =
    [0, 1, 4, 5, 6, 8, 17, 20, 40, 41, 43, 44, 50, 51, 58, 59, 60, 0x45, 0x60, 0x81, 0x86, 0x88, 0xdd, 0xff];
const VLAN_TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const EXTENSIONS: [u8; 8] = [0, 43, 44, 51, 60, 135, 139, 140];
const PROTOCOLS: [u8; 10] = [6, 6, 6, 17, 17, 17, 1, 58, 50, 132];

/// What frames are about: so that most of them meet a ban, an allowed address or a port that counts.
pub(crate) struct Topics {
    /// Sources, IPv4 as `::ffff:a.b.c.d`.
    pub(crate) sources: Vec<u128>,
    pub(crate) ports: Vec<u16>,
}

/// A frame of at most [`LONGEST`] bytes.
pub(crate) fn any(rng: &mut Rng, topics: &Topics) -> Vec<u8> {
    let mut frame = match rng.u8(0..20) {
        0 => (0..rng.usize(SHORTEST..200)).map(|_| rng.u8(..)).collect(),
        _ => built(rng, topics),
    };
    if rng.u8(0..3) == 0 {
        spoil(rng, &mut frame);
    }
    frame.truncate(LONGEST);
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// A frame that fills several buffers.
pub(crate) fn jumbo(rng: &mut Rng, topics: &Topics) -> Vec<u8> {
    let mut frame = any(rng, topics);
    frame.resize(rng.usize(LONGEST..=JUMBO), rng.u8(..));
    frame
}

fn built(rng: &mut Rng, topics: &Topics) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..12).map(|_| rng.u8(..)).collect();
    let tags = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3][rng.usize(0..10)];
    for _ in 0..tags {
        frame.extend(pick(rng, &VLAN_TAGS).to_be_bytes());
        frame.extend(rng.u16(..).to_be_bytes());
    }
    let source = source(rng, topics);
    match rng.u8(0..20) {
        0 => {
            frame.extend(rng.u16(..).to_be_bytes());
            frame.extend((0..rng.usize(0..60)).map(|_| rng.u8(..)));
        }
        _ => match (source >> 32 == 0xffff, rng.u8(0..30)) {
            // Now and then an IPv4 address where IPv6 has it.
            (true, 0) | (false, _) => ipv6(rng, topics, source, &mut frame),
            (true, _) => ipv4(rng, topics, source as u32, &mut frame),
        },
    }
    frame
}

/// A source of the topics, or a neighbour of one, or anyone.
fn source(rng: &mut Rng, topics: &Topics) -> u128 {
    let topic = pick(rng, &topics.sources);
    match rng.u8(0..10) {
        0 => topic ^ 1 << rng.u32(0..32),
        1 => topic ^ 1 << rng.u32(0..128),
        2 => rng.u128(..),
        3 => 0xffff << 32 | u128::from(rng.u32(..)),
        _ => topic,
    }
}

fn ipv4(rng: &mut Rng, topics: &Topics, source: u32, frame: &mut Vec<u8>) {
    frame.extend([0x08, 0x00]);
    let options = if rng.u8(0..4) == 0 { rng.usize(0..=10) } else { 0 };
    let words = if rng.u8(0..40) == 0 { rng.u8(0..16) } else { 5 + options as u8 };
    let fragment = match rng.u8(0..8) {
        0 => rng.u16(..),
        1 => 0x2000,
        2 => rng.u16(1..0x2000),
        _ => 0x4000,
    };
    let protocol = protocol(rng);
    frame.extend([0x40 | words, rng.u8(..), rng.u8(..), rng.u8(..), 0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, rng.u8(..), rng.u8(..)]);
    frame.extend(source.to_be_bytes());
    frame.extend([198, 51, 100, 1]);
    frame.extend((0..4 * options).map(|_| rng.u8(..)));
    payload(rng, topics, frame);
}

fn ipv6(rng: &mut Rng, topics: &Topics, source: u128, frame: &mut Vec<u8>) {
    frame.extend([0x86, 0xdd]);
    let count = if rng.bool() { 0 } else { rng.usize(0..11) };
    let mut chain: Vec<_> = (0..count).map(|_| pick(rng, &EXTENSIONS)).collect();
    chain.push(protocol(rng));
    frame.extend([0x60, 0, 0, 0, rng.u8(..), rng.u8(..), chain[0], 64]);
    frame.extend(source.to_be_bytes());
    frame.extend([0xfd; 16]);
    for pair in chain.windows(2) {
        let (kind, next) = (pair[0], pair[1]);
        // Its length in its own unit, and in bytes.
        let (units, length) = match kind {
            // A reserved byte, which is 0 in real packets.
            44 => (if rng.u8(0..8) == 0 { rng.u8(..) } else { 0 }, 8),
            51 => {
                let units = rng.u8(0..4);
                (units, (usize::from(units) + 2) * 4)
            }
            _ => {
                let units = if rng.u8(0..4) == 0 { rng.u8(0..6) } else { 0 };
                (units, (usize::from(units) + 1) * 8)
            }
        };
        let mut header: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
        header[..2].copy_from_slice(&[next, units]);
        if kind == 44 {
            let offset = if rng.u8(0..4) == 0 { rng.u16(..) } else { rng.u16(0..8) };
            header[2..4].copy_from_slice(&offset.to_be_bytes());
        }
        frame.extend(header);
    }
    payload(rng, topics, frame);
}

fn payload(rng: &mut Rng, topics: &Topics, frame: &mut Vec<u8>) {
    let port = if rng.u8(0..4) == 0 { rng.u16(..) } else { pick(rng, &topics.ports) };
    frame.extend(rng.u16(..).to_be_bytes());
    frame.extend(port.to_be_bytes());
    let length = if rng.u8(0..20) == 0 { rng.usize(0..1400) } else { rng.usize(0..40) };
    frame.resize(frame.len() + length, 0);
}

fn protocol(rng: &mut Rng) -> u8 {
    if rng.u8(0..20) == 0 { rng.u8(..) } else { pick(rng, &PROTOCOLS) }
}

/// Flips bits, overwrites bytes, cuts, repeats.
fn spoil(rng: &mut Rng, frame: &mut Vec<u8>) {
    for _ in 0..rng.usize(1..4) {
        // Where the headers are, most likely.
        let at = rng.usize(0..frame.len().min(80));
        match rng.u8(0..5) {
            0 => frame[at] ^= 1 << rng.u8(0..8),
            1 => frame[at] = pick(rng, &TELLING_BYTES),
            2 => frame[at] = rng.u8(..),
            3 => frame.truncate(at.max(SHORTEST)),
            _ => {
                let again: Vec<_> = frame[at..].iter().take(rng.usize(0..16)).copied().collect();
                frame.splice(at..at, again);
            }
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(0..from.len())]
}
