//! Many entries of a hash map in one call of bpf(2), which aya does not have. Kernels before 5.6 get single calls, which
//! come to the same.
//!
//! It is for the maps of addresses, which hold a million. Tries hold 65,536 prefixes at most, and aya's single calls do.
//!
//! # While others write
//! [`read`] takes one bucket of the hash table after the other, each under its lock, and a key never leaves its bucket.
//! So what is there all the time comes exactly once, written meanwhile or not, and anything else at most once. Single
//! calls give less: when the entry they stand at is removed, they begin anew, and entries come twice; and an entry that
//! is written meanwhile goes to the front of its bucket, where they may have been already.

use std::{
    borrow::{Borrow, BorrowMut},
    io,
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    ptr,
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData, MapError},
};

/// How many entries one call takes: enough that the calls cost nothing, few enough to stay in the CPU's cache.
pub(super) const ENTRIES: usize = 4096;

/// What the kernel says to a command for another kind of map; no errno of user space.
const ENOTSUPP: i32 = 524;

/// The commands, as bpf(2) numbers them.
#[derive(Clone, Copy)]
enum Command {
    Lookup = 24,
    Update = 26,
    Delete = 27,
}

/// What they take: `batch` of `union bpf_attr`.
#[derive(Default)]
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attributes>() == 56);

/// What becomes of a key that is there already.
#[derive(Clone, Copy)]
pub(super) enum Known {
    /// It gets the new value.
    Replaced = 0,
    /// It keeps its value, and is refused with `EEXIST`.
    Kept = 1,
}

/// Inserts `values[n]` at `keys[n]`, in order. `refused` gets the number of each one that the kernel does not take, and
/// why; all others are in the map.
pub(super) fn insert<K: Pod, V: Pod>(
    map: &mut HashMap<impl BorrowMut<MapData>, K, V>,
    keys: &[K],
    values: &[V],
    known: Known,
    refused: impl FnMut(usize, io::Error),
) {
    assert_eq!(keys.len(), values.len(), "each key has its value");
    let fd = fd(map);
    let batch = |from: usize| {
        let (keys, values) = (&keys[from..], &values[from..]);
        let mut attributes = Attributes {
            keys: keys.as_ptr().expose_provenance() as u64,
            values: values.as_ptr().expose_provenance() as u64,
            count: keys.len() as u32,
            map_fd: fd as u32,
            elem_flags: known as u64,
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `count` keys and values, of the sizes that aya has compared with the map's.
        let result = unsafe { bpf(Command::Update, &mut attributes) };
        (attributes.count, result)
    };
    write(keys.len(), batch, |at| map.insert(keys[at], values[at], known as u64), refused);
}

/// Removes `keys`, in order. `refused` gets the number of each one that the kernel does not remove, and why: most of
/// all, because it is not there.
pub(super) fn remove<K: Pod, V: Pod>(
    map: &mut HashMap<impl BorrowMut<MapData>, K, V>,
    keys: &[K],
    refused: impl FnMut(usize, io::Error),
) {
    let fd = fd(map);
    let batch = |from: usize| {
        let keys = &keys[from..];
        let mut attributes = Attributes {
            keys: keys.as_ptr().expose_provenance() as u64,
            count: keys.len() as u32,
            map_fd: fd as u32,
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `count` keys, of the size that aya has compared with the map's.
        let result = unsafe { bpf(Command::Delete, &mut attributes) };
        (attributes.count, result)
    };
    write(keys.len(), batch, |at| map.remove(&keys[at]), refused);
}

/// Writes `count` entries. `batch` tries all from a number on, and tells how many the kernel has done: fewer than it was
/// to do if one failed, and as many if it did not look at any.
fn write(
    count: usize,
    batch: impl Fn(usize) -> (u32, io::Result<()>),
    mut single: impl FnMut(usize) -> Result<(), MapError>,
    mut refused: impl FnMut(usize, io::Error),
) {
    let mut at = 0;
    while at < count {
        let (done, result) = batch(at);
        let Err(error) = result else { return };
        let failed = at + done as usize;
        if failed < count {
            refused(failed, error);
            at = failed + 1;
            continue;
        }
        for at in at..count {
            let result = match error.raw_os_error() {
                _ if is_unknown(&error) => single(at).map_err(io_error),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(error.kind().into()),
            };
            if let Err(error) = result {
                refused(at, error);
            }
        }
        return;
    }
}

/// Hands all entries to `each`, many at a time.
pub(super) fn read<K: Pod, V: Pod>(
    map: &HashMap<impl Borrow<MapData>, K, V>,
    each: impl FnMut(&[K], &[V]),
) -> io::Result<()> {
    read_by(map, ENTRIES, each)
}

/// The same with room for so many entries at first. The kernel needs room for all those of one bucket.
pub(super) fn read_by<K: Pod, V: Pod>(
    map: &HashMap<impl Borrow<MapData>, K, V>,
    mut room: usize,
    mut each: impl FnMut(&[K], &[V]),
) -> io::Result<()> {
    let fd = fd(map);
    let (mut keys, mut values) = (Vec::<K>::new(), Vec::<V>::new());
    // The bucket to go on with.
    let mut bucket: Option<u32> = None;
    loop {
        keys.clear();
        keys.reserve(room);
        values.clear();
        values.reserve(room);
        let mut next = 0_u32;
        let mut attributes = Attributes {
            in_batch: bucket.as_ref().map_or(0, |bucket| ptr::from_ref(bucket).expose_provenance() as u64),
            out_batch: ptr::from_mut(&mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: room as u32,
            map_fd: fd as u32,
            ..Attributes::default()
        };
        // SAFETY: the kernel writes at most `count` keys and values, of the sizes that aya has compared with the map's,
        // for which there is room; and four bytes of `next`, because a hash table's place is a bucket's number.
        let result = unsafe { bpf(Command::Lookup, &mut attributes) };
        let is_end = match result {
            Ok(()) => false,
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => true,
                Some(libc::ENOSPC) => {
                    room *= 2;
                    continue;
                }
                _ if bucket.is_none() && is_unknown(&error) => return read_singly(map, each),
                _ => return Err(error),
            },
        };
        let count = attributes.count as usize;
        // SAFETY: the kernel has written as many keys as it says.
        unsafe { keys.set_len(count) };
        // SAFETY: and as many values.
        unsafe { values.set_len(count) };
        each(&keys, &values);
        if is_end {
            return Ok(());
        }
        bucket = Some(next);
    }
}

fn read_singly<K: Pod, V: Pod>(
    map: &HashMap<impl Borrow<MapData>, K, V>,
    mut each: impl FnMut(&[K], &[V]),
) -> io::Result<()> {
    for entry in map.iter() {
        let (key, value) = entry.map_err(io_error)?;
        each(&[key], &[value]);
    }
    Ok(())
}

fn fd<K: Pod, V: Pod>(map: &HashMap<impl Borrow<MapData>, K, V>) -> RawFd {
    map.map().fd().as_fd().as_raw_fd()
}

/// Whether the kernel does not know the command.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}

/// The kernel's error in aya's.
pub(super) fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound => io::Error::from_raw_os_error(libc::ENOENT),
        error => io::Error::other(error),
    }
}

/// bpf(2).
///
/// # Safety
/// The addresses in `attributes` are of memory that holds what the command reads and takes what it writes.
unsafe fn bpf(command: Command, attributes: &mut Attributes) -> io::Result<()> {
    let attributes = ptr::from_mut(attributes);
    // SAFETY: the attributes are as long as is said; for what they point to, the caller answers.
    match unsafe { libc::syscall(libc::SYS_bpf, command as u32, attributes, size_of::<Attributes>()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
