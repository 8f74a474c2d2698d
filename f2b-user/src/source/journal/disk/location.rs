//! Where an entry stands in the journal, and its cursor, which says it.

use std::{cmp::Ordering, fmt, str::FromStr};

use anyhow::{Context as _, Error, Result};

use super::format::Id;

/// Where an entry stands. Written, it is the cursor that journalctl has, too: `s=…;i=…;b=…;m=…;t=…;x=…`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Location {
    pub(super) seqnum_id: Id,
    pub(super) seqnum: u64,
    pub(super) boot_id: Id,
    /// Microseconds since the boot.
    pub monotonic: u64,
    /// Microseconds since 1970: when journald took it.
    pub realtime: u64,
    pub(super) xor_hash: u64,
}

impl Location {
    /// Which of two entries comes first, as systemd has it: what one journald counted is in the order of its count, what
    /// was written in one boot in that of the boot's clock, all else in that of the time.
    pub fn order(&self, other: &Self) -> Ordering {
        let counted = (self.seqnum_id == other.seqnum_id).then(|| self.seqnum.cmp(&other.seqnum));
        let booted = || (self.boot_id == other.boot_id).then(|| self.monotonic.cmp(&other.monotonic));
        counted
            .unwrap_or(Ordering::Equal)
            .then_with(|| booted().unwrap_or(Ordering::Equal))
            .then_with(|| self.realtime.cmp(&other.realtime))
            .then_with(|| self.xor_hash.cmp(&other.xor_hash))
    }

    /// Whether it is of the same boot as `last`, and the same entry or an earlier one. Entries that journald copies from
    /// memory to the disk are counted anew there.
    pub(super) fn is_copy_up_to(&self, last: &Self) -> bool {
        let same = (self.realtime, self.xor_hash) == (last.realtime, last.xor_hash);
        self.boot_id == last.boot_id
            && (self.monotonic < last.monotonic || self.monotonic == last.monotonic && same)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = |id: &Id| u128::from_be_bytes(*id);
        write!(
            f,
            "s={:032x};i={:x};b={:032x};m={:x};t={:x};x={:x}",
            id(&self.seqnum_id),
            self.seqnum,
            id(&self.boot_id),
            self.monotonic,
            self.realtime,
            self.xor_hash
        )
    }
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(cursor: &str) -> Result<Self> {
        let part = |name: char| {
            let value = cursor.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            let value = value.and_then(|digits| u128::from_str_radix(digits, 16).ok());
            value.with_context(|| format!("{cursor} is no cursor of the journal: {name}= is missing"))
        };
        let number = |name| part(name).and_then(|value| Ok(u64::try_from(value)?));
        Ok(Self {
            seqnum_id: part('s')?.to_be_bytes(),
            seqnum: number('i')?,
            boot_id: part('b')?.to_be_bytes(),
            monotonic: number('m')?,
            realtime: number('t')?,
            xor_hash: number('x')?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURSOR: &str =
        "s=0c32ee5a4a9b4c1b8ad6a5a0ac4f0001;i=1f;b=00000000000000000000000000000007;m=2a;t=6000;x=ff";

    #[test]
    fn a_location_is_written_as_the_cursor_that_it_is_read_from() {
        assert_eq!(CURSOR.parse::<Location>().unwrap().to_string(), CURSOR);
        for wrong in
            ["", "s=1", &CURSOR.replace("m=2a", "m=x"), &CURSOR.replace("i=1f", "i=11112222333344445")]
        {
            assert!(wrong.parse::<Location>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn entries_of_one_count_are_in_its_order_and_others_in_that_of_a_clock() {
        let at: Location = CURSOR.parse().unwrap();
        let other = [9; 16];
        let counted = Location { seqnum: 0x20, realtime: 0, monotonic: 0, ..at };
        assert_eq!(at.order(&counted), Ordering::Less);
        let booted = Location { seqnum_id: other, monotonic: 0x29, realtime: u64::MAX, ..at };
        assert_eq!(at.order(&booted), Ordering::Greater);
        let elsewhere = Location { seqnum_id: other, boot_id: other, monotonic: 0, realtime: 0x6001, ..at };
        assert_eq!(at.order(&elsewhere), Ordering::Less);
        let copied = Location { seqnum_id: other, seqnum: 1, ..at };
        assert_eq!(at.order(&copied), Ordering::Equal);
        assert_eq!(at.order(&Location { xor_hash: 0, ..copied }), Ordering::Greater);
    }
}
