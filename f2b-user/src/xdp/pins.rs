//! What f2b leaves in the BPF file system, so that enforcement outlives the agent: maps under the layout's version,
//! links beside them because a link survives a change of layout.
//!
//! ```text
//! /sys/fs/bpf/f2b/v1/bans
//! /sys/fs/bpf/f2b/v1/counters
//! /sys/fs/bpf/f2b/links/eth0
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::maps::{MapInfo, MapType, lpm_trie};
use f2b_ebpf::{
    ALLOWED, AllowEntry, BANS, BanEntry, BanKey, COUNTED_INTERFACES, COUNTERS, Counters, EVENT_LIMIT, EVENTS,
    EVENTS_BYTES, EventLimit, MAX_ALLOWED, MAX_BANS, MAX_PREFIXES, MAX_SCOPES, PORT_COUNT, PORTS, PREFIXES,
    PortScopes, SCOPE_COUNTERS, SCOPES, SETTINGS, Scope, ScopeCounters, Settings,
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::maps_dir;

/// Where pins live unless `--pin-dir` says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/f2b";

const LINKS: &str = "links";

/// The pin directory, held by one agent at a time.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    /// What this start has made so far, to be unmade if it fails. Taken away once it has succeeded.
    made: Vec<PathBuf>,
    /// Locked while we live; the kernel unlocks it when we die.
    lock: Option<File>,
}

impl Pins {
    /// Creates the directory if needed and locks it.
    ///
    /// # Errors
    /// Not on a BPF file system, or another agent works there.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        check_bpffs(dir)?;
        let mut pins = Self { dir: dir.to_owned(), made: Vec::new(), lock: None };
        for dir in [dir.to_owned(), maps_dir(dir), dir.join(LINKS)] {
            match fs::create_dir(&dir) {
                Ok(()) => pins.made.push(dir),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => bail!(
                    "cannot create {} ({error}); choose another place with --pin-dir: its parent must exist, \
                     and a BPF file system allows no dot in names",
                    dir.display()
                ),
            }
        }
        pins.lock =
            Some(lock(dir).map_err(|error| anyhow!("{error:#}, or give this one another --pin-dir"))?);
        Ok(pins)
    }

    /// The pin of `map`, checked: aya opens a pin unseen, and a look-up through another layout overwrites memory.
    pub(super) fn map(&mut self, map: &Map) -> Result<PathBuf> {
        let path = maps_dir(&self.dir).join(map.name);
        if path.exists() {
            map.check(&path)?;
        } else {
            self.made.push(path.clone());
        }
        Ok(path)
    }

    /// The pin of the link on `interface`. The BPF file system reserves dots in names.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.dir.join(LINKS).join(interface.replace('%', "%25").replace('.', "%2e"))
    }

    /// Notes a pin made since, to be removed if the start fails.
    pub(super) fn made(&mut self, path: PathBuf) {
        self.made.push(path);
    }

    /// The start has succeeded: what was made stays.
    pub(super) fn keep(&mut self) {
        self.made.clear();
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        unmake(&self.made);
    }
}

/// Removes files and directories, last made first. Best effort: it runs when something else has failed already.
fn unmake(made: &[PathBuf]) {
    for path in made.iter().rev() {
        drop(if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) });
    }
}

/// A pinned map as this program knows it.
pub(super) struct Map {
    pub(super) name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    max_entries: u32,
}

impl Map {
    const fn new<K, V>(name: &'static str, kind: MapType, max_entries: u32) -> Self {
        Self { name, kind, key_size: size_of::<K>(), value_size: size_of::<V>(), max_entries }
    }
}

pub(super) const MAPS: [Map; 10] = [
    Map::new::<BanKey, BanEntry>(BANS, MapType::Hash, MAX_BANS),
    Map::new::<lpm_trie::Key<BanKey>, BanEntry>(PREFIXES, MapType::LpmTrie, MAX_PREFIXES),
    Map::new::<lpm_trie::Key<BanKey>, AllowEntry>(ALLOWED, MapType::LpmTrie, MAX_ALLOWED),
    Map::new::<u32, PortScopes>(PORTS, MapType::Array, PORT_COUNT),
    Map::new::<u32, Scope>(SCOPES, MapType::Array, MAX_SCOPES),
    Map::new::<u32, ScopeCounters>(SCOPE_COUNTERS, MapType::PerCpuArray, MAX_SCOPES),
    Map::new::<u32, Counters>(COUNTERS, MapType::PerCpuArray, COUNTED_INTERFACES),
    Map::new::<u32, Settings>(SETTINGS, MapType::Array, 1),
    Map::new::<(), ()>(EVENTS, MapType::RingBuf, EVENTS_BYTES),
    Map::new::<u32, EventLimit>(EVENT_LIMIT, MapType::PerCpuArray, 1),
];

impl Map {
    fn check(&self, path: &Path) -> Result<()> {
        let info =
            MapInfo::from_pin(path).with_context(|| format!("opening the pinned map {}", path.display()))?;
        let kind = info.map_type().context("a kind of map that f2b does not know")?;
        let found = layout(kind, info.key_size() as usize, info.value_size() as usize, info.max_entries());
        let ours = layout(self.kind, self.key_size, self.value_size, self.max_entries);
        if found != ours {
            bail!(
                "the pinned map {} has another layout ({found}; this f2b has {ours}); remove it with `f2b detach`, \
                 or choose another place with --pin-dir",
                path.display(),
            );
        }
        Ok(())
    }
}

fn layout(kind: MapType, key_size: usize, value_size: usize, max_entries: u32) -> String {
    format!("{kind:?}, {key_size} bytes of key, {value_size} of value, {max_entries} entries")
}

/// Removes what f2b has in `dir`: links first, which ends enforcement, then maps. Returns the pins removed.
///
/// # Errors
/// An agent works there, or the file system refuses.
pub fn detach(dir: &Path) -> Result<Vec<PathBuf>> {
    check_bpffs(dir)?;
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock(dir)?;
    let mut removed = Vec::new();
    let mut dirs = vec![dir.join(LINKS)];
    dirs.extend(entries(dir)?.into_iter().filter(|path| is_layout(path)));
    for dir in dirs.into_iter().filter(|dir| dir.exists()) {
        for pin in entries(&dir)? {
            fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
            removed.push(pin);
        }
        fs::remove_dir(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(removed),
    }
}

/// Whether `path` is the map directory of some layout: `v1`, `v2`, ….
fn is_layout(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix('v').is_some_and(|version| version.parse::<u32>().is_ok())
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    entries.with_context(|| format!("reading {}", dir.display()))
}

fn lock(dir: &Path) -> Result<File> {
    let lock = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            bail!("a running f2b agent works in {}; stop it first", dir.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", dir.display())),
    }
}

/// The directory, or the nearest one above it that exists, must be on a BPF file system.
fn check_bpffs(dir: &Path) -> Result<()> {
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = statfs(existing).with_context(|| format!("looking at {}", existing.display()))?;
    if found.filesystem_type() != BPF_FS_MAGIC {
        bail!(
            "{} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf` and choose a place below it",
            dir.display()
        );
    }
    Ok(())
}
