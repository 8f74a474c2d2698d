//! Makes the kernel older than it is, for one program: bpf(2) refuses it what Linux 5.15 does not know, and what kernels
//! before 5.6 do not.
//!
//! A seccomp filter hands every bpf(2) of the program to the test, which looks at its arguments.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::{fs::FileExt as _, process::CommandExt as _},
    },
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    thread::JoinHandle,
};

/// The program's own number for the door that its calls are handed through.
const DOOR: i32 = 99;

/// Has `command` start with its calls of bpf(2) waiting for a [`Refusals`].
pub(crate) fn watch(command: &mut Command) {
    // SAFETY: between fork and exec, it only makes system calls.
    unsafe { command.pre_exec(install) };
}

fn install() -> io::Result<()> {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_bpf as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel copies the program, which lives until then.
    let door = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    if door < 0 {
        return Err(io::Error::last_os_error());
    }
    // Unlike the first one, this number stays open in the program that follows.
    // SAFETY: a call without pointers.
    if unsafe { libc::dup2(door as i32, DOOR) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What was refused, by what it was.
pub(crate) type Refused = BTreeMap<&'static str, u32>;

/// Answers for the kernel, until it is dropped.
pub(crate) struct Refusals {
    refused: Arc<Mutex<Refused>>,
    stop: Arc<AtomicBool>,
    answering: Option<JoinHandle<()>>,
}

impl Refusals {
    /// Begins to answer a program that was started by [`watch`].
    pub(crate) fn begin(pid: u32) -> Self {
        // SAFETY: a call without pointers.
        let process = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        assert!(process >= 0, "it is a child of ours");
        // SAFETY: it is a new one, and nobody else's.
        let process = unsafe { OwnedFd::from_raw_fd(process as i32) };
        // SAFETY: a call without pointers.
        let door = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), DOOR, 0) };
        assert!(door >= 0, "it has the door: {}", io::Error::last_os_error());
        // SAFETY: as above.
        let door = unsafe { OwnedFd::from_raw_fd(door as i32) };
        let refused = Arc::<Mutex<Refused>>::default();
        let stop = Arc::<AtomicBool>::default();
        let (counts, stopped) = (Arc::clone(&refused), Arc::clone(&stop));
        let answering = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(what) = answer_one(&door) {
                    *counts.lock().expect("counting never panics").entry(what).or_default() += 1;
                }
            }
        });
        Self { refused, stop, answering: Some(answering) }
    }

    pub(crate) fn so_far(&self) -> Refused {
        self.refused.lock().expect("counting never panics").clone()
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(answering) = self.answering.take() {
            answering.join().expect("answering never panics");
        }
    }
}

/// Answers a call if there is one within a moment; what was refused, if it was.
fn answer_one(door: &OwnedFd) -> Option<&'static str> {
    let mut poll = libc::pollfd { fd: door.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives longer than the call.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 20) };
    if ready <= 0 || poll.revents & libc::POLLIN == 0 {
        return None;
    }
    // SAFETY: zeros are a valid notification, and what the kernel wants to find there.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a notification, for which there is room.
    if unsafe { libc::ioctl(door.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } < 0 {
        // Its program has been killed meanwhile.
        return None;
    }
    let refusal = refusal(call.pid, call.data.args);
    let mut reply = libc::seccomp_notif_resp { id: call.id, val: 0, error: 0, flags: 0 };
    match refusal {
        Some((_, errno)) => reply.error = -errno,
        None => reply.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    }
    // SAFETY: the kernel reads a response, which lives longer than the call. If it fails, the program has been killed.
    unsafe { libc::ioctl(door.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
    refusal.map(|(what, _)| what)
}

/// What of these arguments of bpf(2) is too new, and the error that an old kernel has for it.
fn refusal(pid: u32, [command, attributes, size, ..]: [u64; 6]) -> Option<(&'static str, i32)> {
    const PROG_LOAD: u64 = 5;
    const PROG_QUERY: u64 = 16;
    const LINK_CREATE: u64 = 28;
    /// `BPF_PROG_BIND_MAP`.
    const LAST_COMMAND: u64 = 35;
    /// `BPF_PERF_EVENT`.
    const LAST_ATTACH_TYPE: u32 = 41;
    const XDP_HAS_FRAGS: u32 = 1 << 5;
    /// What `union bpf_attr` has come to in 5.15.
    const KNOWN_BYTES: usize = 128;

    let mut bytes = [0; 512];
    let length = (size as usize).min(bytes.len());
    // A program that has been killed has no memory any more, and needs no answer.
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    memory.read_exact_at(&mut bytes[..length], attributes).ok()?;
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    match command {
        24..=27 => Some(("many entries at once", libc::EINVAL)),
        PROG_LOAD if word(44) & XDP_HAS_FRAGS != 0 => Some(("frames in several buffers", libc::EINVAL)),
        LINK_CREATE if word(8) > LAST_ATTACH_TYPE => Some(("tcx", libc::EINVAL)),
        PROG_QUERY if word(4) > LAST_ATTACH_TYPE => Some(("looking into tcx", libc::EINVAL)),
        _ if command > LAST_COMMAND => Some(("a newer command", libc::EINVAL)),
        _ if bytes[KNOWN_BYTES..].iter().any(|byte| *byte != 0) => Some(("newer arguments", libc::E2BIG)),
        _ => None,
    }
}
