//! What f2b leaves in the BPF file system, so that enforcement outlives the agent: maps under the layout's version,
//! links beside them because a link survives a change of layout.
//!
//! ```text
//! /sys/fs/bpf/f2b/v2/bans
//! /sys/fs/bpf/f2b/v2/…
//! /sys/fs/bpf/f2b/links/eth0
//! ```

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    maps::{MapData, MapInfo, MapType, lpm_trie},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::qdisc_detach_program,
    },
};
use f2b_ebpf::{
    ALLOWED, AllowEntry, BANS, BanEntry, BanKey, COUNTED_INTERFACES, COUNTERS, Counters, EVENT_LIMIT, EVENTS,
    EVENTS_BYTES, EventLimit, LAYOUT, LINES, Line, MAX_ALLOWED, MAX_BANS, MAX_PREFIXES, MAX_SCOPES,
    PORT_COUNT, PORTS, PREFIXES, PROGRAM_TC, PortScopes, SCOPE_COUNTERS, SCOPES, SETTINGS, Scope,
    ScopeCounters, Settings, v1,
};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use tokio::time::sleep;
use tracing::debug;

use crate::net::{Interface, Net};

/// Where pins live unless `--pin-dir` says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/f2b";

const LINKS: &str = "links";
/// Programs that are attached by a filter of tc, because the kernel has no links for it.
const CLSACT: &str = "clsact";

/// How long the kernel may take to let go of an unpinned link: milliseconds as a rule.
const DETACHED_WITHIN: Duration = Duration::from_secs(5);

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
        for dir in [dir.to_owned(), layout_dir(dir, LAYOUT), dir.join(LINKS)] {
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
        pins.refuse_newer()?;
        pins.lock =
            Some(lock(dir).map_err(|error| anyhow!("{error:#}, or give this one another --pin-dir"))?);
        Ok(pins)
    }

    /// The pin of `map` with this many entries, checked: aya opens a pin unseen, and a look-up through another layout
    /// overwrites memory.
    pub(super) fn map(&mut self, map: &Map, max_entries: u32) -> Result<Pin> {
        let path = self.maps().join(map.name);
        if !path.exists() {
            return Ok(Pin::Missing(path));
        }
        let found = map.check(&path, max_entries)?;
        Ok(if found == max_entries { Pin::Same(path) } else { Pin::Resized(path) })
    }

    /// The lines of the programs before, and where those of ours belong.
    pub(super) fn lines(&self) -> Result<(Option<aya::maps::Map>, PathBuf)> {
        let path = self.maps().join(LINES);
        if !path.exists() {
            return Ok((None, path));
        }
        LINES_MAP.check(&path, 1)?;
        let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        Ok((Some(aya::maps::Map::from_map_data(map)?), path))
    }

    /// The pin of `map` in the layout before this one, checked.
    pub(super) fn old_map(&self, map: &Map) -> Result<Option<PathBuf>> {
        let path = layout_dir(&self.dir, v1::LAYOUT).join(map.name);
        if !path.exists() {
            return Ok(None);
        }
        map.check(&path, map.max_entries)?;
        Ok(Some(path))
    }

    /// Pins a map that is complete, in the place of the one that may be pinned there: in one step, so that there is
    /// always a complete one.
    pub(super) fn put(&mut self, map: &aya::maps::Map, path: &Path) -> Result<()> {
        let new = path.with_file_name("new");
        if new.exists() {
            fs::remove_file(&new).with_context(|| format!("removing {}", new.display()))?;
        }
        map.pin(&new).with_context(|| format!("pinning {}", new.display()))?;
        if !path.exists() {
            self.made.push(path.to_owned());
        }
        fs::rename(&new, path).with_context(|| format!("pinning {}", path.display()))
    }

    /// Removes the layout before this one, once nothing works with it any more.
    pub(super) fn remove_old_layout(&self) -> Result<()> {
        let dir = layout_dir(&self.dir, v1::LAYOUT);
        if dir.exists() {
            remove_all(&dir)?;
        }
        Ok(())
    }

    /// Where the maps are.
    fn maps(&self) -> PathBuf {
        layout_dir(&self.dir, LAYOUT)
    }

    /// The pin of the link on `interface`.
    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.dir.join(LINKS).join(pin_name(interface))
    }

    /// A newer f2b's maps hold bans that this one cannot read.
    fn refuse_newer(&self) -> Result<()> {
        for path in entries(&self.dir)? {
            if let Some(version) = layout_version(&path).filter(|version| *version > LAYOUT) {
                bail!(
                    "{} is of a newer f2b (layout {version}, this one has {LAYOUT}); use that one, \
                     or remove its bans from the kernel with `f2b detach`",
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// The pin of the program that a filter on `interface` has.
    pub(super) fn clsact(&mut self, interface: &str) -> Result<PathBuf> {
        let dir = self.dir.join(CLSACT);
        if !dir.exists() {
            fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
            self.made.push(dir.clone());
        }
        Ok(dir.join(pin_name(interface)))
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

/// An interface's name as a pin's: the BPF file system reserves dots.
fn pin_name(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn interface_name(pin: &Path) -> String {
    pin.file_name().unwrap_or_default().to_string_lossy().replace("%2e", ".").replace("%25", "%")
}

/// Removes files and directories, last made first. Best effort: it runs when something else has failed already.
fn unmake(made: &[PathBuf]) {
    for path in made.iter().rev() {
        drop(if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) });
    }
}

/// What there is of a map.
pub(super) enum Pin {
    /// Nothing yet; here it belongs.
    Missing(PathBuf),
    Same(PathBuf),
    /// The map with another number of entries.
    Resized(PathBuf),
}

/// A pinned map as this program knows it.
pub(super) struct Map {
    pub(super) name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    pub(super) max_entries: u32,
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

/// The shortcut, which is made anew at each start.
const LINES_MAP: Map = Map::new::<u32, Line>(LINES, MapType::Array, 1);
/// The maps of layout 1 that are taken over.
pub(super) const V1_BANS: Map = Map::new::<BanKey, v1::Ban>(BANS, MapType::Hash, MAX_BANS);
pub(super) const V1_COUNTERS: Map = Map::new::<u32, v1::Counters>(COUNTERS, MapType::PerCpuArray, 1);

impl Map {
    /// Returns how many entries the pinned map has.
    fn check(&self, path: &Path, max_entries: u32) -> Result<u32> {
        let info =
            MapInfo::from_pin(path).with_context(|| format!("opening the pinned map {}", path.display()))?;
        let kind = info.map_type().context("a kind of map that f2b does not know")?;
        let (key_size, value_size) = (info.key_size() as usize, info.value_size() as usize);
        let found = layout(kind, key_size, value_size, info.max_entries());
        // Bans, and so their lines, may be of any number.
        let entries = if [BANS, LINES].contains(&self.name) { info.max_entries() } else { max_entries };
        if found != layout(self.kind, self.key_size, self.value_size, entries) {
            let ours = layout(self.kind, self.key_size, self.value_size, max_entries);
            bail!(
                "the pinned map {} has another layout ({found}; this f2b has {ours}); remove it with `f2b detach`, \
                 or choose another place with --pin-dir",
                path.display(),
            );
        }
        Ok(info.max_entries())
    }
}

fn layout(kind: MapType, key_size: usize, value_size: usize, max_entries: u32) -> String {
    format!("{kind:?}, {key_size} bytes of key, {value_size} of value, {max_entries} entries")
}

/// Removes what f2b has in `dir`: links first, which ends enforcement, then maps. Returns the pins removed, once no
/// interface has the program any more.
///
/// # Errors
/// An agent works there, or the file system refuses.
pub async fn detach(dir: &Path, net: &Net) -> Result<Vec<PathBuf>> {
    check_bpffs(dir)?;
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock(dir)?;
    let programs = linked_programs(&dir.join(LINKS))?;
    let mut removed = Vec::new();
    remove_filters(&dir.join(CLSACT))?;
    let mut dirs = vec![dir.join(LINKS), dir.join(CLSACT)];
    dirs.extend(entries(dir)?.into_iter().filter(|path| is_layout(path)));
    for dir in dirs.into_iter().filter(|dir| dir.exists()) {
        removed.extend(remove_all(&dir)?);
    }
    wait_until_gone(&programs, net).await?;
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
            Err(error).with_context(|| format!("removing {}", dir.display()))
        }
        _ => Ok(removed),
    }
}

/// Whether a link of tc has one of `programs` on `interface`. Kernels before 6.6 have no such links.
fn runs_in_tc(interface: &Interface, programs: &[u32]) -> bool {
    let attached = SchedClassifier::query_tcx(&interface.name, TcAttachType::Ingress);
    attached.is_ok_and(|(_, attached)| attached.iter().any(|program| programs.contains(&program.id())))
}

/// Removes the filters whose programs are pinned in `dir`.
fn remove_filters(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    for pin in entries(dir)? {
        let interface = interface_name(&pin);
        if let Err(error) = qdisc_detach_program(&interface, TcAttachType::Ingress, PROGRAM_TC) {
            debug!(interface, "There is no filter to remove: {error}");
        }
    }
    Ok(())
}

/// Removes a directory and the pins in it, which are returned.
fn remove_all(dir: &Path) -> Result<Vec<PathBuf>> {
    let pins = entries(dir)?;
    for pin in &pins {
        fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
    }
    fs::remove_dir(dir).with_context(|| format!("removing {}", dir.display()))?;
    Ok(pins)
}

/// The programs behind the links that are pinned in `dir`.
fn linked_programs(dir: &Path) -> Result<Vec<u32>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let program = |pin: PathBuf| {
        let link = PinnedLink::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
        Ok(FdLink::from(link).info()?.program_id())
    };
    entries(dir)?.into_iter().map(program).collect()
}

/// Waits until no interface runs any of `programs`: the kernel lets go of an unpinned link some time later.
async fn wait_until_gone(programs: &[u32], net: &Net) -> Result<()> {
    let end = Instant::now() + DETACHED_WITHIN;
    loop {
        let interfaces = net.interfaces().await?;
        let attached = |interface: &&Interface| {
            let in_xdp = interface.xdp.is_some_and(|attached| programs.contains(&attached.program_id));
            in_xdp || runs_in_tc(interface, programs)
        };
        let Some(interface) = interfaces.iter().find(attached) else {
            return Ok(());
        };
        if Instant::now() > end {
            bail!(
                "interface {} still has the program, which another process must be holding; \
                 `bpftool link show` tells which",
                interface.name
            );
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Whether `path` is the map directory of some layout: `v1`, `v2`, ….
fn is_layout(path: &Path) -> bool {
    layout_version(path).is_some()
}

fn layout_version(path: &Path) -> Option<u32> {
    path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok()
}

/// The map directory of a layout below the pin directory.
fn layout_dir(pin_dir: &Path, layout: u32) -> PathBuf {
    pin_dir.join(format!("v{layout}"))
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
