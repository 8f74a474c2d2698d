//! Up to where a file was read.

use std::{
    fs::{File, Metadata},
    os::unix::fs::{FileExt as _, MetadataExt as _},
    str::FromStr,
};

use anyhow::{Error, Result};

use super::notices::Id;

/// How much of its first line tells a file from another one that took its place.
const HEAD: usize = 256;

/// Up to where a file was read, in a form that survives the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Position {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) offset: u64,
    /// Of its first line.
    pub(super) head: u64,
}

impl Position {
    /// Whether it is one in this file.
    pub(super) fn is_in(&self, file: &File) -> bool {
        let same = |data: Metadata| self.is_of(&data) && data.len() >= self.offset;
        file.metadata().is_ok_and(same) && head(file) == self.head
    }

    /// Whether it is one in the file that `data` is about.
    pub(super) fn is_of(&self, data: &Metadata) -> bool {
        (data.dev(), data.ino()) == self.file()
    }

    /// The file that it is in.
    pub(super) fn file(&self) -> Id {
        (self.device, self.inode)
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} {:x}", self.device, self.inode, self.offset, self.head)
    }
}

impl FromStr for Position {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [device, inode, offset, head] = words[..] else { anyhow::bail!("\"{text}\" is no position") };
        Ok(Self {
            device: device.parse()?,
            inode: inode.parse()?,
            offset: offset.parse()?,
            head: u64::from_str_radix(head, 16)?,
        })
    }
}

/// The position at `offset` in a file, as the store has it.
///
/// # Errors
/// The file cannot be looked at.
pub fn position(file: &File, offset: u64) -> Result<String> {
    let data = file.metadata()?;
    Ok(Position { device: data.dev(), inode: data.ino(), offset, head: head(file) }.to_string())
}

/// What tells a file from another one: its first line, as far as it goes.
pub(super) fn head(file: &File) -> u64 {
    let mut bytes = [0; HEAD];
    let read = file.read_at(&mut bytes, 0).unwrap_or_default();
    let line = bytes[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A first line that is not complete yet tells nothing.
    let line = if line.len() == read && read < HEAD { &[][..] } else { line };
    fingerprint(line)
}

/// The head of a file whose first line is not complete.
pub(super) fn head_of_nothing() -> u64 {
    fingerprint(&[])
}

/// FNV-1a: stored, so that it must be the same in every version.
fn fingerprint(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}
