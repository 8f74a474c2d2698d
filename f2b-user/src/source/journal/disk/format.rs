//! What a journal file is made of, as systemd documents it (<https://systemd.io/JOURNAL_FILE_FORMAT/>): a header, then
//! objects that refer to each other by their offset in the file. All numbers are little-endian.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail, ensure};
use ruzstd::decoding::StreamingDecoder;
use zerocopy::{
    FromBytes, Immutable, KnownLayout, Unaligned,
    little_endian::{U32, U64},
};

/// A 128-bit identifier.
pub(super) type Id = [u8; 16];

const SIGNATURE: [u8; 8] = *b"LPKSHHRH";
/// How the file is written that a reader has to know of: three ways of compression, keyed hashes (we look up none), and
/// 32-bit offsets.
const KNOWN_FLAGS: u32 = 0b1_1111;
const COMPACT: u32 = 1 << 4;
/// Nothing is written to the file any more.
const STATE_ARCHIVED: u8 = 2;

/// An entry of journald has at most 1024 fields, each of which takes 16 bytes of it.
pub(super) const ENTRY_BYTES_MAX: u64 = 64 + 1024 * 16;
/// The memory that XZ may take, in KiB. journald gives it 1 MiB to look back.
const XZ_KIB_MAX: u32 = 16 << 10;
/// The longest text that is decompressed in one piece, as LZ4 has it.
const LZ4_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    signature: [u8; 8],
    _compatible_flags: U32,
    incompatible_flags: U32,
    state: u8,
    _reserved: [u8; 7],
    pub(super) file_id: Id,
    _machine_id: Id,
    _tail_entry_boot_id: Id,
    pub(super) seqnum_id: Id,
    _header_size: U64,
    _arena_size: U64,
    _data_hash_table_offset: U64,
    _data_hash_table_size: U64,
    /// Of the table's items, behind the head of its object.
    pub(super) field_hash_table_offset: U64,
    pub(super) field_hash_table_size: U64,
    pub(super) tail_object_offset: U64,
    _n_objects: U64,
    pub(super) n_entries: U64,
    _tail_entry_seqnum: U64,
    _head_entry_seqnum: U64,
    pub(super) entry_array_offset: U64,
}

impl Header {
    /// # Errors
    /// It is not a journal's, or of a journal that is written in a way that we do not know.
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.signature == SIGNATURE, "it is no journal file");
        let unknown = self.incompatible_flags.get() & !KNOWN_FLAGS;
        ensure!(
            unknown == 0,
            "it is written in a way that f2b does not know (incompatible flags {unknown:#x})"
        );
        Ok(())
    }

    pub(super) fn is_archived(&self) -> bool {
        self.state == STATE_ARCHIVED
    }

    /// Whether offsets in entries and arrays have 32 bits.
    pub(super) fn is_compact(&self) -> bool {
        self.incompatible_flags.get() & COMPACT != 0
    }
}

/// The head of every object.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Object {
    kind: u8,
    flags: u8,
    _reserved: [u8; 6],
    /// Bytes, with this head.
    pub(super) size: U64,
}

/// One `FIELD=value`, which all entries that have it share; the text is behind it.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Data {
    pub(super) object: Object,
    _hash: U64,
    _next_hash_offset: U64,
    /// The next value of the same field.
    pub(super) next_field_offset: U64,
    /// The first entry that has it.
    pub(super) entry_offset: U64,
    /// The others.
    pub(super) entry_array_offset: U64,
    pub(super) n_entries: U64,
}

/// A field's name, which is behind it, and the values that it has.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Field {
    pub(super) object: Object,
    _hash: U64,
    pub(super) next_hash_offset: U64,
    /// The newest value.
    pub(super) head_data_offset: U64,
}

/// One entry; the offsets of its [`Data`] are behind it.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) object: Object,
    pub(super) seqnum: U64,
    pub(super) realtime: U64,
    pub(super) monotonic: U64,
    pub(super) boot_id: Id,
    pub(super) xor_hash: U64,
}

/// Offsets of entries, which are behind it.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EntryArray {
    pub(super) object: Object,
    pub(super) next_entry_array_offset: U64,
}

/// A chain of the table of fields.
#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct HashItem {
    pub(super) head_hash_offset: U64,
    _tail_hash_offset: U64,
}

/// A type of object.
pub(super) trait Kind: Copy + FromBytes + Immutable + KnownLayout + Unaligned {
    const KIND: u8;
    fn object(&self) -> &Object;
}

macro_rules! kinds {
    ($($object:ty = $kind:literal),+) => {
        $(impl Kind for $object {
            const KIND: u8 = $kind;
            fn object(&self) -> &Object {
                &self.object
            }
        })+
    };
}

kinds!(Data = 1, Field = 2, Entry = 3, EntryArray = 6);

/// Reads an object of one kind; what is behind it may be cut short.
///
/// # Errors
/// It is another one, or none.
pub(super) fn parse<T: Kind>(bytes: &[u8]) -> Result<(&T, &[u8])> {
    let Ok((parsed, rest)) = T::ref_from_prefix(bytes) else { bail!("the file ends in it") };
    let object = parsed.object();
    ensure!(object.kind == T::KIND, "it is of kind {} instead of {}", object.kind, T::KIND);
    let size = usize::try_from(object.size.get()).unwrap_or(usize::MAX);
    let Some(length) = size.checked_sub(size_of::<T>()) else { bail!("it is {size} bytes long") };
    Ok((parsed, &rest[..rest.len().min(length)]))
}

/// The offsets in an entry or an array.
pub(super) fn offsets(bytes: &[u8], compact: bool, with_hash: bool) -> impl Iterator<Item = u64> {
    let size = match (compact, with_hash) {
        (true, _) => 4,
        (false, true) => 16,
        (false, false) => 8,
    };
    bytes.chunks_exact(size).map(move |item| {
        if compact {
            U32::read_from_bytes(item).map_or(0, |offset| u64::from(offset.get()))
        } else {
            U64::read_from_prefix(item).map_or(0, |(offset, _)| offset.get())
        }
    })
}

impl Data {
    /// Where its text begins in what is behind it.
    pub(super) fn text_at(compact: bool) -> usize {
        // The end of the list of its entries, for who writes.
        if compact { 8 } else { 0 }
    }

    pub(super) fn is_compressed(&self) -> bool {
        self.object.flags & 0b111 != 0
    }

    /// Decompresses the first `most` bytes of a text into `into`.
    ///
    /// # Errors
    /// It is damaged.
    pub(super) fn decompress(&self, text: &[u8], most: usize, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        let most_bytes = most as u64;
        match self.object.flags & 0b111 {
            0b001 => {
                let text = lzma_rust2::XzReader::new_mem_limit(text, false, XZ_KIB_MAX);
                text.take(most_bytes).read_to_end(into).ok().context("its XZ is damaged")?;
            }
            0b010 => {
                let (size, text) = U64::read_from_prefix(text).ok().context("its LZ4 is damaged")?;
                let size = usize::try_from(size.get()).unwrap_or(usize::MAX);
                ensure!(size <= LZ4_BYTES_MAX, "its LZ4 has {size} bytes");
                into.resize(size, 0);
                let length =
                    lz4_flex::block::decompress_into(text, into).ok().context("its LZ4 is damaged")?;
                into.truncate(length.min(most));
            }
            0b100 => {
                let text = StreamingDecoder::new(text).ok().context("its ZSTD is damaged")?;
                text.take(most_bytes).read_to_end(into).ok().context("its ZSTD is damaged")?;
            }
            flags => bail!("it is compressed in a way that f2b does not know ({flags:#x})"),
        }
        Ok(())
    }
}
