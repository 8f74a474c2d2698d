//! Lists of entries: offsets in arrays, each of which names the next.

use std::{fs, os::unix::fs::FileExt as _};

use anyhow::{Context as _, Result, ensure};

use super::format::{self, EntryArray};

/// How many offsets are read in one go.
const CHUNK: u64 = 512;

/// A journal file, whose bytes are read as they are needed. It is not mapped: a disk that fails, or a file that is cut
/// short, is an error then and no signal that kills.
#[derive(Debug)]
pub(super) struct Bytes {
    pub(super) file: fs::File,
    /// Whether offsets in entries and arrays have 32 bits.
    pub(super) compact: bool,
}

impl Bytes {
    /// What an offset in an array takes.
    fn offset_bytes(&self) -> u64 {
        if self.compact { 4 } else { 8 }
    }

    /// Replaces `into` by the `length` bytes that begin at `at`, or by less if the file ends there.
    pub(super) fn read(&self, at: u64, length: usize, into: &mut Vec<u8>) -> Result<()> {
        into.resize(length, 0);
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut into[filled..], at.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(|| format!("reading at {at}")),
            }
        }
        into.truncate(filled);
        Ok(())
    }
}

/// A list of entries, in the order in which they were written.
#[derive(Debug)]
pub(super) struct List {
    /// An entry that stands before those in the arrays.
    first: Option<u64>,
    /// The offset of the first array.
    head: u64,
    arrays: Vec<Array>,
    /// Those read last, and the number of the first of them.
    chunk: (u64, Vec<u64>),
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Array {
    at: u64,
    next: u64,
    /// The number of its first entry.
    begin: u64,
    /// How many it has room for.
    length: u64,
}

impl List {
    pub(super) fn new(first: Option<u64>, head: u64) -> Self {
        Self { first, head, arrays: Vec::new(), chunk: (0, Vec::new()), buffer: Vec::new() }
    }

    /// The offset of the entry with this number, from 0 on.
    ///
    /// # Errors
    /// There is no such entry, or the list is damaged.
    pub(super) fn get(&mut self, bytes: &Bytes, number: u64) -> Result<u64> {
        let number = match (self.first, number) {
            (Some(first), 0) => return Ok(first),
            (Some(_), number) => number - 1,
            (None, number) => number,
        };
        if let Some(offset) = self.read(number) {
            return Ok(offset);
        }
        let array = self.array(bytes, number)?;
        let (at, skipped) = (self.arrays[array].at, number - self.arrays[array].begin);
        let size = bytes.offset_bytes();
        let length = CHUNK.min(self.arrays[array].length - skipped);
        let begin = at.saturating_add(size_of::<EntryArray>() as u64).saturating_add(skipped * size);
        bytes.read(begin, (length * size) as usize, &mut self.buffer)?;
        self.chunk.0 = number;
        self.chunk.1.clear();
        // What is not there yet is 0; it is read again when it is asked for.
        let offsets = format::offsets(&self.buffer, bytes.compact, false);
        self.chunk.1.extend(offsets.take_while(|offset| *offset != 0));
        self.read(number).with_context(|| format!("the array of entries at {at} has less than it should"))
    }

    /// That entry, if it was read before.
    fn read(&self, number: u64) -> Option<u64> {
        let at = usize::try_from(number.checked_sub(self.chunk.0)?).ok()?;
        self.chunk.1.get(at).copied()
    }

    /// The array that has the entry with this number.
    fn array(&mut self, bytes: &Bytes, number: u64) -> Result<usize> {
        loop {
            let known = self.arrays.partition_point(|array| array.begin <= number);
            if let Some(last) = known.checked_sub(1)
                && number - self.arrays[last].begin < self.arrays[last].length
            {
                return Ok(last);
            }
            // It was the last one when it was read.
            if let Some(last) = self.arrays.last_mut()
                && last.next == 0
            {
                last.next = head(bytes, last.at, &mut self.buffer)?.next_entry_array_offset.get();
            }
            let (at, before, begin) = match self.arrays.last() {
                Some(last) => (last.next, last.at, last.begin.saturating_add(last.length)),
                None => (self.head, 0, 0),
            };
            ensure!(at > before, "the array of entries at {before} is followed by one at {at}");
            let array = head(bytes, at, &mut self.buffer)?;
            let length = (array.object.size.get() - size_of::<EntryArray>() as u64) / bytes.offset_bytes();
            self.arrays.push(Array { at, next: array.next_entry_array_offset.get(), begin, length });
        }
    }

    /// How many of the first `length` stand before the entry at `offset`.
    pub(super) fn before(&mut self, bytes: &Bytes, length: u64, offset: u64) -> Result<u64> {
        partition_point(length, |number| Ok(self.get(bytes, number)? < offset))
    }
}

/// How many of the numbers below `length` come first of which `is_before` holds: as that of slices, but it may fail.
pub(super) fn partition_point(length: u64, mut is_before: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    let (mut low, mut high) = (0, length);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_before(middle)? { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

fn head(bytes: &Bytes, at: u64, buffer: &mut Vec<u8>) -> Result<EntryArray> {
    bytes.read(at, size_of::<EntryArray>(), buffer)?;
    let (array, _) =
        format::parse::<EntryArray>(buffer).with_context(|| format!("an array of entries at {at}"))?;
    Ok(*array)
}
