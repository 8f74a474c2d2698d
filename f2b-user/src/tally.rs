//! How often an address has failed. No clock, no I/O.

use std::net::IpAddr;

use crate::matches::Place;

/// The failures of one address, as fail2ban keeps them (`server/ticket.py`): a count and the span it covers, not a
/// list of times. When the span outgrows `findtime`, the count becomes what the rate so far amounts to in `findtime`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tally {
    /// Microseconds since 1970, as the next.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// What is compared with `maxretry`.
    pub(crate) count: u32,
    pub(crate) failures: u32,
    pub(crate) matches: Place,
}

/// An address, in 16 bytes.
pub(crate) type Key = [u8; 16];

pub(crate) fn key(address: IpAddr) -> Key {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

impl Tally {
    pub(crate) fn new(time: u64) -> Self {
        Self { first: time, last: time, count: 1, failures: 1, matches: Place::NONE }
    }

    pub(crate) fn add(&mut self, time: u64, findtime: u64) {
        if time > self.last {
            let span = time.saturating_sub(self.first);
            if span > findtime {
                let rate = f64::from(self.count) / span as f64;
                self.count = (rate * findtime as f64).round_ties_even() as u32;
                self.first = time.saturating_sub(findtime);
            }
            self.last = time;
        }
        self.count = self.count.saturating_add(1);
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether a failure at `time` is one of those that are counted.
    pub(crate) fn covers(&self, time: u64) -> bool {
        (self.first..=self.last).contains(&time)
    }
}

/// How many bytes a stored tally takes.
pub(crate) const BYTES: usize = 40;

/// As the store has it; not where the lines are.
pub(crate) fn to_bytes(key: Key, tally: Tally) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..16].copy_from_slice(&key);
    bytes[16..24].copy_from_slice(&tally.first.to_le_bytes());
    bytes[24..32].copy_from_slice(&tally.last.to_le_bytes());
    bytes[32..36].copy_from_slice(&tally.count.to_le_bytes());
    bytes[36..].copy_from_slice(&tally.failures.to_le_bytes());
    bytes
}

pub(crate) fn from_bytes(bytes: &[u8; BYTES]) -> (Key, Tally) {
    fn part<const N: usize>(bytes: &[u8; BYTES], from: usize) -> [u8; N] {
        std::array::from_fn(|n| bytes[from + n])
    }
    let tally = Tally {
        first: u64::from_le_bytes(part(bytes, 16)),
        last: u64::from_le_bytes(part(bytes, 24)),
        count: u32::from_le_bytes(part(bytes, 32)),
        failures: u32::from_le_bytes(part(bytes, 36)),
        matches: Place::NONE,
    };
    (part(bytes, 0), tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_tally_is_the_same() {
        let address = key("2001:db8::7".parse().unwrap());
        let tally = Tally { first: 1, last: u64::MAX - 1, count: 70_000, failures: 3, matches: Place::NONE };
        assert_eq!(from_bytes(&to_bytes(address, tally)), (address, tally));
    }

    /// 1M distinct attackers in the find window: 200 MB in all.
    #[test]
    fn a_tracked_address_takes_forty_eight_bytes() {
        assert_eq!(size_of::<(Key, Tally)>(), 48);
    }
}
