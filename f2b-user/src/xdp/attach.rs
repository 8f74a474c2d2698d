//! The programs on their interfaces: native XDP, else generic XDP, else tc.
//!
//! What is attached by a pinned link stays when the agent ends, and the next agent replaces the program behind it in
//! one step. Before Linux 6.6 tc has no links: there the filter itself stays, under a handle of ours.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
        links::{FdLink, LinkType, PinnedLink},
        loaded_programs,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
        xdp::XdpLink,
    },
};
use f2b_ebpf::{PROGRAM, PROGRAM_LINEAR, PROGRAM_TC};
use nix::errno::Errno;
use tracing::{info, warn};

use super::{Mode, pins::Pins};
use crate::net::Interface;

/// Where our filter is among those of `clsact`: before the others.
const CLSACT_PRIORITY: u16 = 1;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 0xf2b);

/// The programs in the kernel.
pub(super) struct Programs {
    ebpf: Ebpf,
    /// The XDP program that this kernel takes.
    xdp: &'static str,
    /// Whether the one for tc is loaded.
    has_tc: bool,
    /// Only this mode.
    mode: Option<Mode>,
}

/// What to do with an interface.
#[derive(Debug)]
pub(super) enum Plan {
    /// An agent before us left its pinned link: give it our program. With the reason for a mode that is not the best.
    Adopt(PathBuf, Mode, Option<String>),
    /// The first of the modes that works.
    Attach,
    /// Something else has XDP there.
    Tc(String),
}

/// How an interface is protected.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) mode: Mode,
    /// Why not a better one.
    pub(super) reason: Option<String>,
}

impl Programs {
    /// Loads the XDP program.
    pub(super) fn load(mut ebpf: Ebpf, mode: Option<Mode>) -> Result<Self> {
        let mut xdp = PROGRAM;
        if let Err(error) = xdp_program(&mut ebpf, PROGRAM)?.load() {
            // Kernels before 5.18 take no program for frames in several buffers.
            if xdp_program(&mut ebpf, PROGRAM_LINEAR)?.load().is_err() {
                return Err(error).context("the kernel's verifier refuses the XDP program");
            }
            info!(
                "This kernel has no XDP for frames in several buffers: jumbo frames may need --mode generic"
            );
            xdp = PROGRAM_LINEAR;
        }
        Ok(Self { ebpf, xdp, has_tc: false, mode })
    }

    /// Protects `interface` as planned.
    pub(super) fn attach(&mut self, interface: &Interface, plan: Plan, pins: &mut Pins) -> Result<Attached> {
        let name = &interface.name;
        let pin = pins.link(name);
        match plan {
            Plan::Adopt(pin, mode, reason) => match self.adopt(&pin, mode) {
                Ok(()) => {
                    info!(interface = name, %mode, "Took over the program that was attached");
                    return Ok(Attached { mode, reason });
                }
                Err(error) if mode != Mode::Tc => {
                    return Err(error.context(format!("taking over interface {name}")));
                }
                // Of an interface of this name that is gone.
                Err(_) => {}
            },
            Plan::Tc(reason) => return self.attach_tc(interface, &pin, pins, reason),
            Plan::Attach => {}
        }
        let mut reason = None;
        if self.mode == Some(Mode::Tc) {
            return self.attach_tc(interface, &pin, pins, "--mode tc".into());
        }
        for (mode, xdp_mode) in [(Mode::Native, XdpMode::Driver), (Mode::Generic, XdpMode::Skb)] {
            if self.mode.is_some_and(|wanted| wanted != mode) {
                continue;
            }
            match self.attach_xdp(interface, xdp_mode) {
                Ok(link) => {
                    pin_link(link.try_into()?, &pin, pins)?;
                    info!(interface = name, %mode, reason, "Attached the XDP program");
                    return Ok(Attached { mode, reason });
                }
                Err(error) if !is_drivers_fault(&error) => {
                    return Err(error).with_context(|| format!("attaching to interface {name}"));
                }
                Err(error) if self.mode == Some(Mode::Native) => {
                    let by_hand = by_hand(&error, interface);
                    let reason = anyhow!(error);
                    bail!(
                        "interface {name} cannot run XDP in its driver ({reason:#}); \
                         {by_hand}leave out --mode native"
                    );
                }
                Err(error) if self.mode == Some(Mode::Generic) => {
                    return Err(error).with_context(|| format!("attaching to interface {name}"));
                }
                Err(error) => {
                    let by_hand = by_hand(&error, interface);
                    let why = format!("no {mode} mode: {}", strip(&anyhow!(error)));
                    let next = if mode == Mode::Native { "generic" } else { "tc" };
                    warn!(
                        interface = name,
                        reason = why,
                        by_hand,
                        "The driver cannot run XDP; falling back to {next} mode, which costs more per packet"
                    );
                    reason = Some(why);
                }
            }
        }
        self.attach_tc(interface, &pin, pins, reason.unwrap_or_default())
    }

    /// Replaces the program behind a link in one step: no packet passes unchecked.
    fn adopt(&mut self, pin: &Path, mode: Mode) -> Result<()> {
        let link = PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
        let link = FdLink::from(link);
        // The pin holds the link; dropping ours does not detach it.
        if mode == Mode::Tc {
            let program = self.tc()?;
            let id = program.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        } else {
            let program = xdp_program(&mut self.ebpf, self.xdp)?;
            let id = program.attach_to_link(XdpLink::try_from(link)?)?;
            drop(program.take_link(id)?);
        }
        Ok(())
    }

    fn attach_xdp(&mut self, interface: &Interface, mode: XdpMode) -> Result<XdpLink, ProgramError> {
        let program: &mut Xdp = match self.ebpf.program_mut(self.xdp) {
            Some(program) => program.try_into()?,
            None => return Err(ProgramError::NotLoaded),
        };
        let id = program.attach_to_if_index(interface.index, mode)?;
        program.take_link(id)
    }

    fn attach_tc(
        &mut self,
        interface: &Interface,
        pin: &Path,
        pins: &mut Pins,
        reason: String,
    ) -> Result<Attached> {
        let name = &interface.name;
        let program = self.tc()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        match program.attach_with_options(name, TcAttachType::Ingress, options) {
            Ok(id) => {
                let link: FdLink = program.take_link(id)?.try_into()?;
                pin_link(link, pin, pins)?;
            }
            Err(error) if is_unknown_to_kernel(&error) => {
                attach_clsact(program, name)?;
                let pin = pins.clsact(name)?;
                if !pin.exists() {
                    program.pin(&pin).with_context(|| format!("pinning {}", pin.display()))?;
                    pins.made(pin);
                }
            }
            Err(error) => return Err(error).with_context(|| format!("attaching to interface {name} in tc")),
        }
        info!(interface = name, mode = %Mode::Tc, reason, "Attached the program in tc");
        Ok(Attached { mode: Mode::Tc, reason: Some(reason) })
    }

    fn tc(&mut self) -> Result<&mut SchedClassifier> {
        let program = self.ebpf.program_mut(PROGRAM_TC).context("the object has no program for tc")?;
        let program: &mut SchedClassifier = program.try_into()?;
        if !self.has_tc {
            program.load().context("the kernel's verifier refuses the program for tc")?;
            self.has_tc = true;
        }
        Ok(program)
    }

    /// Only this mode.
    pub(super) fn mode(&self) -> Option<Mode> {
        self.mode
    }
}

fn xdp_program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    Ok(program.try_into()?)
}

fn pin_link(link: FdLink, pin: &Path, pins: &mut Pins) -> Result<()> {
    if pin.exists() {
        // Left from an interface of this name that is gone.
        fs::remove_file(pin).with_context(|| format!("removing {}", pin.display()))?;
    }
    pins.made(pin.to_owned());
    // Dropping a pinned link leaves it in place.
    drop(link.pin(pin).with_context(|| format!("pinning {}", pin.display()))?);
    Ok(())
}

/// tc before Linux 6.6: a filter of the `clsact` queueing discipline, under a handle of ours, so that the next agent
/// replaces it in one step.
fn attach_clsact(program: &mut SchedClassifier, interface: &str) -> Result<()> {
    // An error is that it is there already, or what the next step runs into.
    drop(tc::qdisc_add_clsact(interface));
    let ours = SchedClassifierLink::attached(
        interface,
        TcAttachType::Ingress,
        CLSACT_PRIORITY,
        CLSACT_HANDLE,
        None,
    )?;
    let id = match program.attach_to_link(ours) {
        Ok(id) => id,
        Err(_) => {
            let options =
                NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, ..NlOptions::default() };
            program
                .attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::Netlink(options))
                .with_context(|| format!("attaching to interface {interface} in tc"))?
        }
    };
    // The filter stays when we end; dropping this would remove it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// What to do with the interface, whose pinned link would be at `pin`.
///
/// # Errors
/// What is attached is another f2b's, or does not go with the mode that is wanted.
pub(super) fn plan(interface: &Interface, pin: &Path, wanted: Option<Mode>) -> Result<Plan> {
    let name = &interface.name;
    if !interface.is_ethernet {
        bail!(
            "interface {name} has no Ethernet frames to look into; \
             protect the interface that its packets come in by, with -i"
        );
    }
    if let Some((link_type, program_id)) = pinned(pin)? {
        let mode = match (link_type, interface.xdp) {
            (LinkType::Tcx, _) => Some(Mode::Tc),
            (_, Some(xdp)) if xdp.program_id == program_id => {
                Some(if xdp.native { Mode::Native } else { Mode::Generic })
            }
            _ => None,
        };
        if let Some(mode) = mode {
            if let Some(wanted) = wanted.filter(|wanted| *wanted != mode) {
                bail!(
                    "f2b is attached to {name} in {mode} mode; to change it to {wanted}, run `f2b detach` first"
                );
            }
            let reason = match (mode, interface.xdp) {
                (Mode::Native, _) => None,
                (Mode::Tc, Some(xdp)) => Some(foreign(name, xdp.program_id, &program_name(xdp.program_id))),
                _ => {
                    Some("as the agent before had it; `f2b detach` first makes the next one try again".into())
                }
            };
            return Ok(Plan::Adopt(pin.to_owned(), mode, reason));
        }
    }
    let Some(xdp) = interface.xdp else {
        return Ok(Plan::Attach);
    };
    let id = xdp.program_id;
    let owner = program_name(id);
    if owner == PROGRAM || owner == PROGRAM_LINEAR {
        bail!(
            "interface {name} has the XDP program of another f2b (id {id}); \
             remove it with `f2b detach --pin-dir` and that one's place, or protect another interface with -i"
        );
    }
    let foreign = foreign(name, id, &owner);
    match wanted {
        None | Some(Mode::Tc) => {
            warn!(
                interface = name,
                owner, id, "Another XDP program is attached, and stays; going on with tc"
            );
            Ok(Plan::Tc(foreign))
        }
        Some(_) => bail!(
            "{foreign}: remove it with its own tool, leave out --mode, or protect another interface with -i"
        ),
    }
}

/// The program's name. Without CAP_SYS_ADMIN the kernel does not tell.
fn program_name(id: u32) -> String {
    let program = loaded_programs().flatten().find(|program| program.id() == id);
    program.as_ref().and_then(|program| program.name_as_str()).unwrap_or("unknown").to_owned()
}

fn foreign(interface: &str, id: u32, owner: &str) -> String {
    format!(
        "interface {interface} already has the XDP program \"{owner}\" (id {id}), which f2b will not evict; \
         `bpftool prog show id {id}` and `bpftool link show` tell whose it is"
    )
}

/// The kind of the link that is pinned there, and its program.
fn pinned(pin: &Path) -> Result<Option<(LinkType, u32)>> {
    if !pin.exists() {
        return Ok(None);
    }
    let link = PinnedLink::from_pin(pin).with_context(|| format!("opening {}", pin.display()))?;
    let info = FdLink::from(link).info()?;
    Ok(Some((info.link_type()?, info.program_id())))
}

/// Whether another mode may work where this one failed so: not when the interface is gone, or we may not.
fn is_drivers_fault(error: &ProgramError) -> bool {
    !matches!(errno(error), Some(Errno::EBUSY | Errno::EEXIST | Errno::ENODEV | Errno::EPERM))
}

/// Whether the kernel does not know what was asked for.
fn is_unknown_to_kernel(error: &ProgramError) -> bool {
    matches!(errno(error), Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS))
}

fn errno(error: &ProgramError) -> Option<Errno> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}

/// The causes in one line.
fn strip(error: &anyhow::Error) -> impl fmt::Display {
    format!("{error:#}")
}

/// What the operator may change so that the driver takes the program, as commands, each with a semicolon; nothing if
/// the error gives no hint. Never done unasked.
fn by_hand(error: &ProgramError, interface: &Interface) -> String {
    let Some(errno) = errno(error) else {
        return String::new();
    };
    let name = &interface.name;
    match errno {
        Errno::EOPNOTSUPP if !interface.is_virtual => {
            format!("if it has XDP at all: `ethtool -K {name} lro off gro-hw off`; ")
        }
        Errno::ERANGE | Errno::EINVAL | Errno::EMSGSIZE if interface.mtu > 1500 => {
            format!("its MTU may be too large: `ip link set dev {name} mtu 1500`; ")
        }
        Errno::ENOMEM | Errno::ENOSPC | Errno::EINVAL if interface.queues > 1 => {
            format!("it may lack queues for XDP: `ethtool -L {name} combined {}`; ", interface.queues / 2)
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn what_must_be_changed_by_hand_is_said_as_a_command() {
        let refused = |errno: Errno, mtu, queues, is_virtual| {
            let io_error = io::Error::from_raw_os_error(errno as i32);
            let error = ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error });
            let interface = Interface {
                name: "eth9".into(),
                index: 9,
                xdp: None,
                mtu,
                queues,
                is_virtual,
                is_ethernet: true,
            };
            by_hand(&error, &interface)
        };
        assert!(refused(Errno::EOPNOTSUPP, 1500, 4, false).contains("`ethtool -K eth9 lro off gro-hw off`"));
        assert_eq!(refused(Errno::EOPNOTSUPP, 1500, 1, true), "");
        assert!(refused(Errno::ERANGE, 9000, 4, false).contains("`ip link set dev eth9 mtu 1500`"));
        assert!(refused(Errno::ENOMEM, 1500, 4, false).contains("`ethtool -L eth9 combined 2`"));
        assert_eq!(refused(Errno::EBUSY, 9000, 4, false), "");
    }
}
