//! One journal file: its entries in the order in which they were written, also while more are written.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, bail, ensure};
use foldhash::fast::FixedState;
use zerocopy::FromBytes as _;

use super::{
    Wanted,
    ahead::Ahead,
    format::{self, Data, ENTRY_BYTES_MAX, Entry, Field, HashItem, Header, Id, Object},
    list::{Bytes, List, partition_point},
    listing::Listed,
    location::Location,
};

/// What is read of the file in one go, where it is read from one entry to the next.
const WINDOW: usize = 64 * 1024;
/// What is read around an entry that stands alone: before it are the fields that it was the first to have.
const WINDOW_AROUND: usize = 8 * 1024;
/// What is read of a field that is not in the window.
const DATA_BYTES: usize = 512;
/// What is before the text of a field, at most.
const DATA_HEAD_BYTES: usize = size_of::<Data>() + 8;
/// How many fields outside the window are known, at most.
const KNOWN: usize = 4096;
/// How many values of fields are looked at, at most.
const VALUES: usize = 100_000;
/// How much of the table of fields is looked at, at most: systemd's has a hundredth of it.
const TABLE_BYTES: usize = 512 * 1024;
/// What a compressed field takes at most, of those that are read.
const COMPRESSED_BYTES_MAX: usize = 16 << 20;
/// Longest name of a field (`journald` takes no longer ones), with what stands before it.
const FIELD_NAME_BYTES: usize = size_of::<Field>() + 64;

/// A journal file, and how far it has been read.
pub(super) struct File {
    bytes: Bytes,
    pub(super) listed: Listed,
    header: Header,
    entries: List,
    /// The number of the next entry.
    next: u64,
    /// Finds the next entry that is wanted, while many are left.
    ahead: Option<Ahead>,
    /// Of those that it finds, the ones before this offset have been handed out.
    from: u64,
    /// The entry that is to be handed out.
    head: Option<(u64, Location)>,
    /// The rest cannot be read.
    is_damaged: bool,
    window: Window,
    /// Where the entry that was read last ends.
    read_to: u64,
    /// Fields outside the window, by their offset: as they are if they matter.
    known: HashMap<u64, Option<Box<[u8]>>, FixedState>,
    items: Vec<u64>,
    buffer: Vec<u8>,
    text: Vec<u8>,
}

/// Bytes of the file: objects that entries known to us are made of, which do not change any more.
#[derive(Default)]
struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The object at `offset`, if all of it is inside.
    fn object(&self, offset: u64) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.at)?).ok()?;
        let rest = self.bytes.get(at..)?;
        let (object, _) = Object::ref_from_prefix(rest).ok()?;
        rest.get(..usize::try_from(object.size.get()).ok()?)
    }
}

impl File {
    /// A `FIELD=value` that is shorter is stored as it is; a longer one may be compressed.
    pub(super) const PLAIN_BYTES: usize = 256;

    /// # Errors
    /// It cannot be read, or is no journal file that we know.
    pub(super) fn open(listed: &Listed) -> Result<Self> {
        let file = fs::File::open(&listed.path)?;
        let mut bytes = Bytes { file, compact: false };
        let header = read_header(&bytes)?;
        header.check()?;
        bytes.compact = header.is_compact();
        Ok(Self {
            entries: List::new(None, header.entry_array_offset.get()),
            bytes,
            listed: listed.clone(),
            header,
            next: 0,
            ahead: None,
            from: 0,
            head: None,
            is_damaged: false,
            window: Window::default(),
            read_to: 0,
            known: HashMap::default(),
            items: Vec::new(),
            buffer: Vec::new(),
            text: Vec::new(),
        })
    }

    pub(super) fn id(&self) -> Id {
        self.header.file_id
    }

    /// Goes to the first entry that `is_before` does not say to be before the place that is wanted.
    pub(super) fn seek(&mut self, is_before: impl Fn(&Location) -> bool) {
        self.next = self.find(&is_before).unwrap_or_else(|_| {
            // Some are damaged. After the last one of which we know it, then.
            let mut next = 0;
            for number in 0..self.header.n_entries.get() {
                let Ok(offset) = self.offset(number) else { break };
                if self.location(offset).is_ok_and(|location| is_before(&location)) {
                    next = number + 1;
                }
            }
            next
        });
        (self.head, self.from, self.ahead) = (None, 0, None);
        self.known.clear();
    }

    fn find(&mut self, is_before: &impl Fn(&Location) -> bool) -> Result<u64> {
        partition_point(self.header.n_entries.get(), |number| {
            let offset = self.offset(number)?;
            Ok(is_before(&self.location(offset)?))
        })
    }

    pub(super) fn has(&mut self, location: &Location) -> bool {
        let number = self.find(&|entry: &Location| entry.order(location).is_lt());
        let offset = number.and_then(|number| self.offset(number));
        offset.and_then(|offset| self.location(offset)).is_ok_and(|entry| entry.order(location).is_eq())
    }

    /// From now on, entries that are not wanted may be left out where that is faster.
    pub(super) fn look_ahead(&mut self, wanted: &Wanted) {
        let end = self.header.n_entries.get();
        self.ahead = Ahead::new(self, wanted, self.next..end).unwrap_or_default();
    }

    /// The offset of the entry with this number.
    pub(super) fn offset(&mut self, number: u64) -> Result<u64> {
        self.entries.get(&self.bytes, number)
    }

    /// The next entry that has been written. An entry that cannot be read is passed over with an error.
    pub(super) fn head(&mut self) -> Result<Option<&Location>> {
        if self.head.is_none() {
            let Some(offset) = self.advance().inspect_err(|_| self.is_damaged = true)? else {
                return Ok(None);
            };
            if self.gap(offset).is_some() && self.window.object(offset).is_none() {
                self.load(offset)?;
            }
            self.head = Some((offset, self.location(offset)?));
        }
        Ok(self.head.as_ref().map(|(_, location)| location))
    }

    /// The offset of the next entry, which is over with that.
    fn advance(&mut self) -> Result<Option<u64>> {
        if let Some(ahead) = &mut self.ahead {
            match ahead.next(&self.bytes, self.from) {
                Ok(Some(offset)) => {
                    self.from = offset + 1;
                    return Ok(Some(offset));
                }
                // All others are read one by one, those that came since as well.
                Ok(None) => self.next = ahead.end,
                // So they are if a list is damaged.
                Err(_) => self.next = self.entries.before(&self.bytes, ahead.end, self.from)?,
            }
            self.ahead = None;
        }
        if self.is_damaged || self.next >= self.header.n_entries.get() {
            return Ok(None);
        }
        self.next += 1;
        self.offset(self.next - 1).map(Some)
    }

    /// Whether entries are still to be read, as far as is known.
    pub(super) fn has_more(&self) -> bool {
        self.head.is_some()
            || !self.is_damaged && (self.ahead.is_some() || self.next < self.header.n_entries.get())
    }

    /// The entry that [`head`](Self::head) gave is over.
    pub(super) fn take(&mut self) {
        self.head = None;
    }

    /// Looks whether more has been written; whether there is.
    pub(super) fn refresh(&mut self) -> Result<bool> {
        let header = read_header(&self.bytes).and_then(|header| {
            ensure!(header.file_id == self.header.file_id, "it has become another file");
            Ok(header)
        });
        let header = header.inspect_err(|_| self.is_damaged = true)?;
        if header.n_entries.get() > self.header.n_entries.get() {
            // The window may show what was there before.
            self.window.bytes.clear();
        }
        if self.header.entry_array_offset.get() == 0 {
            self.entries = List::new(None, header.entry_array_offset.get());
        }
        self.header = header;
        Ok(self.has_more())
    }

    /// Whether nothing is left to read, and nothing will come.
    pub(super) fn is_over(&mut self) -> bool {
        let is_gone = |file: &fs::File| file.metadata().is_ok_and(|data| data.nlink() == 0);
        if self.has_more() {
            return false;
        }
        self.is_damaged
            || self.header.is_archived()
            // What was written between our last look and its end counts, too.
            || is_gone(&self.bytes.file) && !self.refresh().unwrap_or_default()
    }

    /// What lies between the entry that was read last and the one at `offset`, if that is little.
    fn gap(&self, offset: u64) -> Option<u64> {
        offset.checked_sub(self.read_to).filter(|gap| *gap < WINDOW as u64 / 2)
    }

    /// Reads the bytes around the entry at `offset`.
    fn load(&mut self, offset: u64) -> Result<()> {
        let gap = self.gap(offset);
        let before = gap.unwrap_or(WINDOW_AROUND as u64).min(offset);
        let length = if self.ahead.is_some() && gap.is_none() { 2 * WINDOW_AROUND } else { WINDOW };
        let at = offset - before;
        // Behind the last object, up to the file's end, it has only room.
        let rest = self.header.tail_object_offset.get().saturating_add(ENTRY_BYTES_MAX).saturating_sub(at);
        let length =
            length.min(usize::try_from(rest).unwrap_or(usize::MAX)).max(before as usize + DATA_BYTES);
        self.window.at = at;
        self.bytes.read(at, length, &mut self.window.bytes)?;
        if self.window.object(offset).is_none() {
            self.window.at = offset;
            self.bytes.read(offset, ENTRY_BYTES_MAX as usize, &mut self.window.bytes)?;
        }
        Ok(())
    }

    fn location(&mut self, offset: u64) -> Result<Location> {
        let bytes = match self.window.object(offset) {
            Some(bytes) => bytes,
            None => {
                self.bytes.read(offset, size_of::<Entry>(), &mut self.buffer)?;
                &self.buffer
            }
        };
        let (entry, _) = format::parse::<Entry>(bytes).with_context(|| format!("the entry at {offset}"))?;
        Ok(Location {
            seqnum_id: self.header.seqnum_id,
            seqnum: entry.seqnum.get(),
            boot_id: entry.boot_id,
            monotonic: entry.monotonic.get(),
            realtime: entry.realtime.get(),
            xor_hash: entry.xor_hash.get(),
        })
    }

    /// Hands the fields of the entry that [`head`](Self::head) gave to `each`, as `NAME` and value; some that `wanted` does
    /// not name are left out.
    ///
    /// # Errors
    /// It is damaged. Some of its fields have been handed over then.
    pub(super) fn fields(&mut self, wanted: &Wanted, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let Some((offset, _)) = self.head else { return Ok(()) };
        if self.window.object(offset).is_none() {
            self.load(offset)?;
        }
        let object =
            self.window.object(offset).with_context(|| format!("the entry at {offset} is cut short"))?;
        let (_, items) = format::parse::<Entry>(object).with_context(|| format!("the entry at {offset}"))?;
        self.read_to = offset + object.len() as u64;
        let mut offsets = std::mem::take(&mut self.items);
        offsets.clear();
        offsets.extend(format::offsets(items, self.bytes.compact, true));
        let all = offsets.iter().try_for_each(|offset| self.field(*offset, wanted, each));
        self.items = offsets;
        all.with_context(|| format!("the entry at {offset}"))
    }

    fn field(&mut self, offset: u64, wanted: &Wanted, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<()> {
        let damaged = || format!("the field at {offset}");
        if let Some(object) = self.window.object(offset) {
            let text = text(object, self.bytes.compact, wanted.most, &mut self.text).with_context(damaged)?;
            let (name, value) = parts(text).with_context(damaged)?;
            if wanted.names(name) {
                each(name, value);
            }
            return Ok(());
        }
        if let Some(known) = self.known.get(&offset) {
            if let Some(text) = known {
                let (name, value) = parts(text)?;
                each(name, value);
            }
            return Ok(());
        }
        read_object(&self.bytes, offset, wanted.most, &mut self.buffer).with_context(damaged)?;
        let text =
            text(&self.buffer, self.bytes.compact, wanted.most, &mut self.text).with_context(damaged)?;
        let (name, value) = parts(text).with_context(damaged)?;
        if self.known.len() == KNOWN {
            self.known.clear();
        }
        let matters = wanted.names(name);
        if matters {
            each(name, value);
        }
        // A long text is hardly another entry's as well.
        if !matters || text.len() < DATA_BYTES {
            self.known.insert(offset, matters.then(|| text.into()));
        }
        Ok(())
    }

    /// Hands all values of the field `name` to `each`, with where they are. Those that are long are left out.
    ///
    /// # Errors
    /// There are too many, or they are damaged.
    pub(super) fn values(&self, name: &[u8], each: &mut dyn FnMut(&Data, &[u8])) -> Result<()> {
        let (mut buffer, mut unused) = (Vec::new(), Vec::new());
        let mut at = self.first_value(name)?;
        for _ in 0..VALUES {
            if at == 0 {
                return Ok(());
            }
            read_object(&self.bytes, at, Self::PLAIN_BYTES, &mut buffer)
                .with_context(|| format!("the field at {at}"))?;
            let (data, rest) = format::parse::<Data>(&buffer)?;
            if !data.is_compressed() && rest.len() <= Self::PLAIN_BYTES {
                let (_, value) = parts(text(&buffer, self.bytes.compact, Self::PLAIN_BYTES, &mut unused)?)?;
                each(data, value);
            }
            at = data.next_field_offset.get();
        }
        bail!("its fields have too many values")
    }

    /// The offset of the newest value of a field, or 0.
    fn first_value(&self, name: &[u8]) -> Result<u64> {
        let (mut table, mut buffer) = (Vec::new(), Vec::new());
        let header = &self.header;
        let size = usize::try_from(header.field_hash_table_size.get()).unwrap_or(usize::MAX).min(TABLE_BYTES);
        self.bytes.read(header.field_hash_table_offset.get(), size, &mut table)?;
        let mut looked_at = 0;
        for item in table.chunks_exact(size_of::<HashItem>()) {
            let mut at = HashItem::read_from_bytes(item).map_or(0, |item| item.head_hash_offset.get());
            while at != 0 {
                self.bytes.read(at, FIELD_NAME_BYTES, &mut buffer)?;
                let (field, rest) =
                    format::parse::<Field>(&buffer).with_context(|| format!("the name at {at}"))?;
                if rest == name {
                    return Ok(field.head_data_offset.get());
                }
                at = field.next_hash_offset.get();
                looked_at += 1;
                ensure!(looked_at < VALUES, "its fields have too many names");
            }
        }
        Ok(0)
    }

    pub(super) fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

fn read_header(bytes: &Bytes) -> Result<Header> {
    let mut buffer = Vec::new();
    bytes.read(0, size_of::<Header>(), &mut buffer)?;
    Header::read_from_bytes(&buffer).ok().context("it is too short for a journal file")
}

/// Reads an object, at least its first `most` bytes if it has as many. All of it, if it is compressed.
fn read_object(bytes: &Bytes, at: u64, most: usize, buffer: &mut Vec<u8>) -> Result<()> {
    bytes.read(at, DATA_BYTES, buffer)?;
    let Ok((object, _)) = Object::ref_from_prefix(buffer) else { bail!("the file ends before it") };
    let size = usize::try_from(object.size.get()).unwrap_or(usize::MAX);
    let is_compressed = format::parse::<Data>(buffer)?.0.is_compressed();
    let most = if is_compressed { COMPRESSED_BYTES_MAX } else { most + DATA_HEAD_BYTES };
    if size > buffer.len() && most > buffer.len() {
        bytes.read(at, size.min(most), buffer)?;
    } else {
        buffer.truncate(size);
    }
    Ok(())
}

/// The first `most` bytes of the `FIELD=value` of a data object.
fn text<'a>(object: &'a [u8], compact: bool, most: usize, into: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let (data, rest) = format::parse::<Data>(object)?;
    let text = rest.get(Data::text_at(compact)..).context("it is too short")?;
    if data.is_compressed() {
        data.decompress(text, most, into)?;
        return Ok(into);
    }
    Ok(&text[..text.len().min(most)])
}

fn parts(text: &[u8]) -> Result<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', text).context("it has no name")?;
    Ok((&text[..at], &text[at + 1..]))
}
