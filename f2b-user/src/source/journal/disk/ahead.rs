//! Finds the entries of a file that may be wanted by the lists that the file has of them, one for every value of a field.

use std::ops::Range;

use anyhow::{Context as _, Result, bail};

use super::{
    Wanted,
    file::File,
    list::{Bytes, List},
};

/// With fewer entries, they are read one by one.
const WORTH_IT: u64 = 512;
/// So they are if at least one of that many is wanted.
const DENSE: u64 = 8;

/// The entries up to one of them that have one of some values: all that are wanted, and maybe more.
///
/// It does not go up to the file's last entry: journald first writes an entry, and then adds it to these lists.
#[derive(Debug)]
pub(super) struct Ahead {
    lists: Vec<Values>,
    /// The number of the first entry that is left out.
    pub(super) end: u64,
    /// Its offset.
    end_at: u64,
}

/// The entries that have one value.
#[derive(Debug)]
struct Values {
    entries: List,
    length: u64,
    next: u64,
}

impl Ahead {
    /// For the entries with these numbers; nothing if reading them one by one is as good.
    ///
    /// # Errors
    /// What is needed of the file is damaged.
    pub(super) fn new(file: &mut File, wanted: &Wanted, numbers: Range<u64>) -> Result<Option<Self>> {
        let (begin, Some(end)) = (numbers.start, numbers.end.checked_sub(1)) else { return Ok(None) };
        if end.saturating_sub(begin) < WORTH_IT || wanted.is_all() {
            return Ok(None);
        }
        let (from, end_at) = (file.offset(begin)?, file.offset(end)?);
        let mut lists = Vec::new();
        for group in &wanted.groups {
            lists.extend(Self::group(file, group)?);
        }
        if count(&lists) > (end - begin) / DENSE {
            return Ok(None);
        }
        for list in &mut lists {
            list.next = list.entries.before(file.bytes(), list.length, from)?;
        }
        Ok(Some(Self { lists, end, end_at }))
    }

    /// All entries of a group have one of its values for each of its fields: of that field whose values are rarest.
    fn group(file: &File, group: &[(String, String)]) -> Result<Vec<Values>> {
        let mut rarest: Option<Vec<Values>> = None;
        for (number, (field, _)) in group.iter().enumerate() {
            if group[..number].iter().any(|(before, _)| before == field) {
                continue;
            }
            let values: Vec<&str> =
                group.iter().filter(|(name, _)| name == field).map(|(_, value)| value.as_str()).collect();
            if values.iter().any(|value| field.len() + value.len() >= File::PLAIN_BYTES - 8) {
                bail!("a value is longer than those that are looked at");
            }
            let mut lists = Vec::new();
            file.values(field.as_bytes(), &mut |data, value| {
                if values.iter().any(|wanted| wanted.as_bytes() == value) {
                    let first = Some(data.entry_offset.get()).filter(|offset| *offset != 0);
                    let entries = List::new(first, data.entry_array_offset.get());
                    lists.push(Values { entries, length: data.n_entries.get(), next: 0 });
                }
            })?;
            if rarest.as_ref().is_none_or(|rarest| count(&lists) < count(rarest)) {
                rarest = Some(lists);
            }
        }
        rarest.context("a group without a field")
    }

    /// The next entry, which is not before `from`; nothing if there is none before the end.
    pub(super) fn next(&mut self, bytes: &Bytes, from: u64) -> Result<Option<u64>> {
        let mut lowest = self.end_at;
        for list in &mut self.lists {
            while list.next < list.length {
                let offset = list.entries.get(bytes, list.next)?;
                if offset >= from {
                    lowest = lowest.min(offset);
                    break;
                }
                list.next += 1;
            }
        }
        Ok(Some(lowest).filter(|offset| *offset < self.end_at))
    }
}

fn count(lists: &[Values]) -> u64 {
    lists.iter().fold(0, |count, list| count.saturating_add(list.length))
}
