//! Where the files of a tree are: on the disk, inside this program, or in memory.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use include_dir::{Dir, include_dir};
use nix::fcntl::OFlag;

pub(crate) static BUILT_IN: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/defaults");
/// Where the files of the built-in tree are said to be.
pub(super) const BUILT_IN_DIR: &str = "(built-in)";

/// No configuration file is larger; a log or a disk image that is included by mistake would be.
const MAX_FILE: u64 = 16 << 20;

/// The files outside of this program. Those inside can always be read, below [`BUILT_IN_DIR`].
#[derive(Debug)]
pub(super) enum Files {
    Disk,
    /// By path, without `.` and `..`. For fuzzing: nothing else is in reach.
    Memory(BTreeMap<PathBuf, Vec<u8>>),
}

impl Files {
    pub(super) fn exists(&self, path: &Path) -> bool {
        match (built_in(path), self) {
            (Some(inside), _) => BUILT_IN.get_file(inside).is_some(),
            (None, Self::Disk) => path.exists(),
            (None, Self::Memory(files)) => files.contains_key(&plain(path)),
        }
    }

    /// The files and folders in `dir`, sorted.
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut found = match (built_in(dir), self) {
            (Some(inside), _) => {
                let files = BUILT_IN.get_dir(inside).into_iter().flat_map(Dir::files);
                files.map(|file| Path::new(BUILT_IN_DIR).join(file.path())).collect()
            }
            (None, Self::Disk) => {
                let entries = fs::read_dir(dir)?;
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?
            }
            (None, Self::Memory(files)) => {
                let dir = plain(dir);
                files.keys().filter(|path| path.parent() == Some(&dir)).cloned().collect()
            }
        };
        found.sort();
        Ok(found)
    }

    pub(super) fn read(&self, path: &Path) -> Result<String> {
        let bytes = match (built_in(path), self) {
            (Some(inside), _) => BUILT_IN.get_file(inside).map(|file| file.contents().to_vec()),
            (None, Self::Disk) => Some(read(path)?),
            (None, Self::Memory(files)) => files.get(&plain(path)).cloned(),
        };
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("{} cannot be read", path.display());
    // Neither opening nor reading may wait, as it would for a pipe or the kernel's log.
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path);
    let file = file.with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        bail!("{} is not a file", path.display());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).with_context(cannot)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{} has more than {} MiB: no configuration", path.display(), MAX_FILE >> 20);
    }
    Ok(bytes)
}

/// The path inside of the built-in tree.
fn built_in(path: &Path) -> Option<&Path> {
    path.strip_prefix(BUILT_IN_DIR).ok()
}

/// `a/../b/./c` → `b/c`
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    plain
}
