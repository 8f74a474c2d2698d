//! The real map of bans, and the XDP program that reads it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        ProgramError, Xdp, XdpMode,
        links::{FdLink, PinnedLink},
        loaded_programs,
        xdp::XdpLink,
    },
};
use f2b_ebpf::{
    ALL_PORTS, BANS, BanEntry, BanKey, COUNTERS, Counters, EVENTS, FOREVER, MAX_BANS, PROGRAM, SETTINGS,
    Settings, Slot,
};
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};
use tracing::{info, warn};

use super::{
    AttachedInterface, BanMap, MapBan, Mode,
    events::{self, LOGGED_PER_SECOND},
    pins::{MAPS, Pins},
};
use crate::{
    ban::Until,
    net::{Interface, Net},
};

/// The compiled kernel half, as it is loaded; public for tests that run frames through it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/f2b"));

/// How the kernel half is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interfaces by name; none: those of the default routes.
    pub interfaces: Vec<String>,
    /// Only this mode; `None`: native, else generic.
    pub mode: Option<Mode>,
    pub pin_dir: PathBuf,
    /// Log every dropped packet.
    pub log_drops: bool,
}

/// The loaded program, its pinned maps and links.
pub struct Kernel {
    bans: HashMap<MapData, BanKey, BanEntry>,
    counters: PerCpuArray<MapData, Counters>,
    settings: Array<MapData, Settings>,
    ebpf: Ebpf,
    attached: Vec<AttachedInterface>,
    to_attach: Vec<(Interface, Plan)>,
    mode: Option<Mode>,
    log_drops: bool,
    pins: Pins,
}

/// What to do with an interface.
#[derive(Debug)]
enum Plan {
    /// An agent before us left its pinned link: give it our program.
    Adopt(PinnedLink, Mode),
    Attach,
}

impl Kernel {
    /// Checks everything, then loads the program and opens or creates its maps. Nothing is attached yet, so that bans
    /// can be restored first.
    ///
    /// # Errors
    /// One sentence that says what to do. What was made until then is removed again.
    pub async fn open(options: Options, net: &Net) -> Result<Self> {
        let interfaces = choose_interfaces(&options.interfaces, net).await?;
        let mut pins = Pins::open(&options.pin_dir)?;
        let mut to_attach = Vec::new();
        for interface in interfaces {
            let plan = plan(&interface, &pins.link(&interface.name), options.mode)?;
            to_attach.push((interface, plan));
        }
        let mut loader = EbpfLoader::new();
        for map in &MAPS {
            loader.map_pin_path(map.name, pins.map(map)?);
        }
        let mut ebpf = loader.load(OBJECT).context("loading the maps into the kernel")?;
        let bans = HashMap::try_from(take_map(&mut ebpf, BANS)?)?;
        let counters = PerCpuArray::try_from(take_map(&mut ebpf, COUNTERS)?)?;
        program(&mut ebpf)?.load().context("the kernel's verifier refuses the XDP program")?;
        let settings = Array::try_from(take_map(&mut ebpf, SETTINGS)?)?;
        let Options { mode, log_drops, .. } = options;
        Ok(Self { bans, counters, settings, ebpf, attached: Vec::new(), to_attach, mode, log_drops, pins })
    }

    /// Puts the program on its interfaces. From here on the maps count.
    ///
    /// # Errors
    /// As [`open`](Self::open); nothing stays attached that was not before.
    pub fn attach(&mut self) -> Result<()> {
        for (interface, plan) in std::mem::take(&mut self.to_attach) {
            let pin = self.pins.link(&interface.name);
            let mode = match plan {
                Plan::Adopt(link, mode) => {
                    self.adopt(link).with_context(|| format!("taking over interface {}", interface.name))?;
                    info!(interface = interface.name, %mode, "Took over the XDP program that was attached");
                    mode
                }
                Plan::Attach => {
                    let (link, mode) = self.attach_new(&interface)?;
                    if pin.exists() {
                        // Left from an interface of this name that is gone.
                        fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
                    }
                    self.pins.made(pin.clone());
                    // Dropping a pinned link leaves it in place.
                    drop(link.pin(&pin).with_context(|| format!("pinning {}", pin.display()))?);
                    info!(interface = interface.name, %mode, "Attached the XDP program");
                    mode
                }
            };
            self.attached.push(AttachedInterface { name: interface.name, mode });
        }
        self.pins.keep();
        let mut settings = Settings::default();
        if self.log_drops {
            self.log_drops()?;
            settings.events_per_second = LOGGED_PER_SECOND;
        }
        self.set_settings(settings)?;
        Ok(())
    }

    /// Replaces the program behind a link in one step: no packet passes unchecked.
    fn adopt(&mut self, link: PinnedLink) -> Result<()> {
        let link = XdpLink::try_from(FdLink::from(link))?;
        let program = program(&mut self.ebpf)?;
        let id = program.attach_to_link(link)?;
        // The pin holds the link; dropping ours does not detach it.
        drop(program.take_link(id)?);
        Ok(())
    }

    fn attach_new(&mut self, interface: &Interface) -> Result<(FdLink, Mode)> {
        let name = &interface.name;
        let program = program(&mut self.ebpf)?;
        let mut attach = |mode| {
            let id = program.attach_to_if_index(interface.index, mode)?;
            program.take_link(id)
        };
        if self.mode != Some(Mode::Generic) {
            match attach(XdpMode::Driver) {
                Ok(link) => return Ok((link.try_into()?, Mode::Native)),
                Err(error) if !is_drivers_fault(&error) => {
                    return Err(error).with_context(|| format!("attaching to interface {name}"));
                }
                Err(error) if self.mode == Some(Mode::Native) => {
                    let reason = anyhow!(error);
                    bail!(
                        "interface {name} cannot run XDP in its driver ({reason:#}); leave out --mode native"
                    );
                }
                Err(error) => warn!(
                    interface = name,
                    reason = format!("{:#}", anyhow!(error)),
                    "The driver cannot run XDP; falling back to generic mode, which costs more per packet"
                ),
            }
        }
        let link = attach(XdpMode::Skb).with_context(|| format!("attaching to interface {name}"))?;
        Ok((link.try_into()?, Mode::Generic))
    }

    /// Has the programs report a sample of what they drop, and logs it.
    fn log_drops(&mut self) -> Result<()> {
        events::log(RingBuf::try_from(take_map(&mut self.ebpf, EVENTS)?)?);
        Ok(())
    }

    /// Tells the programs what to look for.
    fn set_settings(&mut self, settings: Settings) -> Result<()> {
        self.settings.set(0, settings, 0).context("writing the settings")
    }
}

impl BanMap for Kernel {
    fn set(&mut self, address: IpAddr, until: Until, now: SystemTime) -> Result<()> {
        let key = BanKey::from(address);
        let now_ns = monotonic_ns()?;
        let mut entry = match self.bans.get(&key, 0) {
            Ok(entry) if entry.scopes_at(now_ns) != 0 => entry,
            _ => BanEntry::default(),
        };
        entry.slots = Default::default();
        entry.slots[0] = Slot { ends_ns: ends_ns(until, now, now_ns), scopes: 1 << ALL_PORTS };
        self.bans.insert(key, entry, 0).map_err(|error| match errno(&error) {
            Some(Errno::E2BIG) => anyhow!("the map of bans is full ({MAX_BANS}); {address} is not banned"),
            _ => anyhow!(error).context(format!("banning {address}")),
        })
    }

    fn remove(&mut self, address: IpAddr) -> Result<()> {
        match self.bans.remove(&BanKey::from(address)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) if errno(&error) == Some(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("unbanning {address}")),
        }
    }

    fn bans(&self, now: SystemTime) -> Result<Vec<MapBan>> {
        let now_ns = monotonic_ns()?;
        let bans = self.bans.iter().map(|entry| {
            let (key, entry) = entry?;
            let ends = entry.slots.iter().map(|slot| slot.ends_ns).max();
            let until = until(ends.unwrap_or_default(), now, now_ns);
            Ok(MapBan { address: key.into(), until, packets: entry.packets })
        });
        bans.collect::<Result<_, MapError>>().context("reading the map of bans")
    }

    fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for per_cpu in self.counters.iter() {
            for cpu in per_cpu.context("reading the counters")?.iter() {
                sum += *cpu;
            }
        }
        Ok(sum)
    }

    fn interfaces(&self) -> &[AttachedInterface] {
        &self.attached
    }

    fn capacity(&self) -> u32 {
        MAX_BANS
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(PROGRAM).context("the object has no XDP program")?;
    Ok(program.try_into()?)
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map> {
    ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
}

/// The interfaces by name, or those of the default routes.
async fn choose_interfaces(names: &[String], net: &Net) -> Result<Vec<Interface>> {
    let all = net.interfaces().await?;
    if names.is_empty() {
        let routes = net.default_route_interfaces().await?;
        let chosen: Vec<_> = all.into_iter().filter(|interface| routes.contains(&interface.index)).collect();
        if chosen.is_empty() {
            bail!("there is no default route to tell which interface to protect; name it with -i");
        }
        return Ok(chosen);
    }
    let known = all.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut chosen: Vec<Interface> = Vec::new();
    for name in names {
        let found = all.iter().find(|interface| interface.name == *name);
        let found = found.with_context(|| format!("there is no interface \"{name}\"; there are {known}"))?;
        if !chosen.contains(found) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

/// What to do with the interface, whose pinned link would be at `pin`.
fn plan(interface: &Interface, pin: &Path, wanted: Option<Mode>) -> Result<Plan> {
    let name = &interface.name;
    let link = if pin.exists() {
        Some(PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?)
    } else {
        None
    };
    let Some(xdp) = interface.xdp else {
        return Ok(Plan::Attach);
    };
    if let Some(link) = link {
        let link = FdLink::from(link);
        if link.info()?.program_id() == xdp.program_id {
            let mode = if xdp.native { Mode::Native } else { Mode::Generic };
            if let Some(wanted) = wanted.filter(|wanted| *wanted != mode) {
                bail!(
                    "f2b is attached to {name} in {mode} mode; to change it to {wanted}, run `f2b detach` first"
                );
            }
            let link = PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
            return Ok(Plan::Adopt(link, mode));
        }
    }
    let id = xdp.program_id;
    let owner = loaded_programs().flatten().find(|program| program.id() == id);
    let owner = owner.as_ref().and_then(|program| program.name_as_str()).unwrap_or_default();
    if owner == PROGRAM {
        bail!(
            "interface {name} has the XDP program of another f2b (id {id}); \
             remove it with `f2b detach --pin-dir` and that one's place, or protect another interface with -i"
        );
    }
    bail!(
        "interface {name} already has the XDP program \"{owner}\" (id {id}), which f2b will not evict; \
         `bpftool prog show id {id}` and `bpftool link show` tell whose it is: remove it with its own tool, \
         or protect another interface with -i"
    )
}

/// The kernel's monotonic clock, which ends bans.
fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the monotonic clock")?;
    Ok(u64::try_from(Duration::from(now).as_nanos())?)
}

/// An end on the wall clock, on the kernel's clock.
fn ends_ns(until: Until, now: SystemTime, now_ns: u64) -> u64 {
    match until {
        Until::Forever => FOREVER,
        Until::Time(end) => {
            let left = end.duration_since(now).unwrap_or_default();
            now_ns.saturating_add(u64::try_from(left.as_nanos()).unwrap_or(FOREVER))
        }
    }
}

/// An end on the kernel's clock, on the wall clock.
fn until(ends_ns: u64, now: SystemTime, now_ns: u64) -> Until {
    if ends_ns == FOREVER {
        return Until::Forever;
    }
    let end = if ends_ns >= now_ns {
        now.checked_add(Duration::from_nanos(ends_ns - now_ns))
    } else {
        now.checked_sub(Duration::from_nanos(now_ns - ends_ns))
    };
    end.map_or(Until::Forever, Until::Time)
}

/// Whether generic mode may work where native mode failed so: not when the interface is taken or gone, or we may not.
fn is_drivers_fault(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return true;
    };
    let errno = error.io_error.raw_os_error().map(Errno::from_raw);
    !matches!(errno, Some(Errno::EBUSY | Errno::EEXIST | Errno::ENODEV | Errno::EPERM))
}

fn errno(error: &MapError) -> Option<Errno> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_survive_the_way_into_the_kernel_and_back() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let now_ns = 5_000_000_000;
        for end in [
            Until::Forever,
            Until::Time(now + Duration::from_secs(600)),
            Until::Time(now),
            Until::Time(now + Duration::from_nanos(1)),
        ] {
            assert_eq!(until(ends_ns(end, now, now_ns), now, now_ns), end);
        }
        let over = Until::Time(now - Duration::from_secs(1));
        assert_eq!(ends_ns(over, now, now_ns), now_ns, "a ban that is over ends now, never wraps");
    }
}
