//! Floods, and what one packet of them costs the server.
//!
//! How CPU time per packet is measured ([`Flow::Measured`]):
//!
//! - The server's end of the wire, a veth, runs its receive path in a thread of its own
//!   (`/sys/class/net/eth0/threaded`). From the driver's poll to the verdict, whether XDP's, tc's or netfilter's, all
//!   work for a packet is done by that thread, and nothing else is.
//! - The scheduler counts the nanoseconds that the thread really ran (`/proc/PID/schedstat`), whatever else the machine
//!   does. Interrupts that hit the thread while it runs are included: a few hundred timer ticks a second, for every
//!   contender alike.
//! - The interface counts the packets that the thread has taken from the wire (`rx_packets`); those that found the
//!   wire's ring full are not among them, and cost the server nothing.
//! - The flood is made by `BPF_PROG_TEST_RUN` with live frames: the kernel sends each frame that a small program answers
//!   with `XDP_TX` through the attackers' end of the wire, without the cost of a sender's sockets.
//! - Sender and receive path take turns on one CPU, batch by batch, before all other programs. So a frame is in that
//!   CPU's cache when it is received, as it is behind a network card that writes into the cache; on two CPUs, fetching
//!   it from the other one would cost more than most of what is to be measured.
//!
//! How many packets a second the server takes when another CPU floods it is measured apart ([`Flow::Apart`]).

use std::{
    fs::{self, File},
    net::{Ipv4Addr, UdpSocket},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::{
    frame,
    programs::{DROP, Frags, SEND, load, program, sender},
};
use crate::lab::{Host, Lab};

/// The first address that contenders ban; the others follow it.
pub(crate) const FIRST_BANNED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);

/// Frames that the kernel sends in one go; a veth's ring holds 256.
const BATCH: u32 = 64;
/// Frames of one system call: many, since the kernel prepares for each call for milliseconds.
const CALL: u32 = 200_000;

const WORLD: usize = 0;
const SERVER: usize = 1;

/// The addresses that a flood comes from, each packet from a random one of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sources {
    pub(crate) first: Ipv4Addr,
    pub(crate) count: u32,
}

impl Sources {
    /// All of the first `count` banned addresses.
    pub(crate) fn banned(count: u32) -> Self {
        Self { first: FIRST_BANNED, count }
    }
}

/// How a flood is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Flow {
    /// By turns with the receive path, on one CPU, before everything else.
    Measured,
    /// On the other CPU, as fast as can be, before everything else.
    Apart,
    /// On the other CPU, as fast as a share of it allows, among others.
    Shared,
    /// The same work for the sender's CPU, but nothing goes onto the wire.
    Withheld,
}

impl Flow {
    /// The sender's CPU.
    fn cpu(self) -> usize {
        if self == Self::Measured { SERVER } else { WORLD }
    }

    /// When sender and receive path may run.
    fn precedence(self) -> [Precedence; 2] {
        match self {
            // The receive path comes first: it takes what there is, then the sender goes on.
            Self::Measured | Self::Apart => [Precedence::First(1), Precedence::First(2)],
            Self::Shared | Self::Withheld => [Precedence::Equal, Precedence::First(1)],
        }
    }
}

/// What a flood did to the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Toll {
    /// CPU time of the server per packet.
    pub(crate) ns_per_packet: f64,
    /// Packets that the server took from the wire.
    pub(crate) packets_per_second: f64,
}

/// The server's end of a lab's wire, with its receive path in a thread.
pub(crate) struct Wire<'lab> {
    lab: &'lab Lab,
    hardware_address: [u8; 6],
    napi: Pid,
    /// The thread's `/proc/PID/schedstat`: opened here, since a lab has a `/proc` of its own.
    schedstat: File,
    attackers_interface: u32,
    /// Receives whatever is not dropped.
    service: UdpSocket,
}

impl<'lab> Wire<'lab> {
    /// Takes the receive path into a thread. The firewall must have been set up: a veth has a receive path of its own
    /// only with XDP or with GRO.
    pub(crate) fn thread(lab: &'lab Lab) -> Self {
        let before = napi_threads();
        let (hardware_address, service) = lab.inside(Host::Server, || {
            fs::write("/sys/class/net/eth0/threaded", "1").expect("Linux 5.12 or newer");
            let service =
                UdpSocket::bind((Ipv4Addr::UNSPECIFIED, frame::SERVER_PORT)).expect("the port is free");
            service.set_nonblocking(true).expect("sockets can be set");
            (fs::read_to_string("/sys/class/net/eth0/address").expect("sysfs is mounted"), service)
        });
        let new: Vec<_> = napi_threads().into_iter().filter(|pid| !before.contains(pid)).collect();
        let [napi] = new[..] else { panic!("one thread for one queue, not {new:?}") };
        pin(napi, SERVER);
        let mut bytes = hardware_address.trim().split(':').map(|byte| u8::from_str_radix(byte, 16));
        let hardware_address = [(); 6].map(|()| bytes.next().expect("six bytes").expect("in hexadecimal"));
        let attackers_interface = lab.inside(Host::Attackers, || {
            nix::net::if_::if_nametoindex("peer0").expect("it is the attackers' end")
        });
        let schedstat = File::open(format!("/proc/{napi}/schedstat")).expect("the thread is there");
        Self { lab, hardware_address, napi, schedstat, attackers_interface, service }
    }

    /// Floods the server for so long.
    pub(crate) fn flood(&self, sources: &Sources, flow: Flow, time: Duration) -> Toll {
        let [sender_precedence, receiver_precedence] = flow.precedence();
        give(self.napi, receiver_precedence);
        self.lab.inside(Host::Attackers, || {
            pin(Pid::from_raw(0), flow.cpu());
            give(Pid::from_raw(0), sender_precedence);
            let frame = frame::udp(self.hardware_address, sources.first);
            let verdict = if flow == Flow::Withheld { DROP } else { SEND };
            let mut ebpf = load(&sender(sources, verdict), Frags::No);
            let program = program(&mut ebpf);
            let (start, packets, cpu) = (Instant::now(), self.packets(), self.cpu_ns());
            while start.elapsed() < time {
                let context = context(frame.len(), self.attackers_interface);
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    ctx_in: Some(&context),
                    repeat: CALL,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                };
                program.test_run(options).expect("Linux 5.18 or newer sends live frames");
            }
            let elapsed = start.elapsed().as_secs_f64();
            let (packets, cpu) = ((self.packets() - packets) as f64, (self.cpu_ns() - cpu) as f64);
            Toll { ns_per_packet: cpu / packets, packets_per_second: packets / elapsed }
        })
    }

    /// Whether a packet of the floods has reached the service since the last question.
    pub(crate) fn leaks(&self) -> bool {
        let mut leaked = false;
        while self.service.recv(&mut [0; 64]).is_ok() {
            leaked = true;
        }
        leaked
    }

    /// Packets that the server has taken from the wire.
    fn packets(&self) -> u64 {
        let path = "/sys/class/net/eth0/statistics/rx_packets";
        self.lab.inside(Host::Server, || {
            fs::read_to_string(path).expect("sysfs is mounted").trim().parse().expect("a number")
        })
    }

    /// CPU time of the thread.
    fn cpu_ns(&self) -> u64 {
        let mut bytes = [0; 64];
        let length = self.schedstat.read_at(&mut bytes, 0).expect("the thread is there");
        let text = str::from_utf8(&bytes[..length]).expect("numbers");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first field is nanoseconds")
    }
}

/// Makes a thread, 0 for this one, run on this CPU only.
pub(crate) fn pin(thread: Pid, cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).expect("there are more possible CPUs than that");
    sched_setaffinity(thread, &cpus).expect("the bench needs two CPUs");
}

/// When a thread may run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Precedence {
    /// Whenever it can, before everything on its CPU that has a lower number or none: as the receive path of an ordinary
    /// network card does. So other programs neither delay it nor cool its caches between two packets.
    First(i32),
    Equal,
}

/// Gives precedence to a thread, 0 for this one.
fn give(thread: Pid, precedence: Precedence) {
    let (policy, priority) = match precedence {
        Precedence::First(priority) => (libc::SCHED_FIFO, priority),
        Precedence::Equal => (libc::SCHED_OTHER, 0),
    };
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: a system call that reads one struct, which lives until it returns.
    let result = unsafe { libc::sched_setscheduler(thread.as_raw(), policy, &raw const parameters) };
    Errno::result(result).expect("root may schedule threads");
}

/// Takes the server's CPU for the present thread, before everything else.
pub(crate) fn take_server() {
    pin_to_server();
    give(Pid::from_raw(0), Precedence::First(1));
}

/// Gives the present thread to the server's CPU.
pub(crate) fn pin_to_server() {
    pin(Pid::from_raw(0), SERVER);
}

/// Gives the present thread to the CPU of the world outside.
pub(crate) fn pin_to_world() {
    pin(Pid::from_raw(0), WORLD);
}

/// `struct xdp_md` of a frame that came in by this interface.
fn context(length: usize, interface: u32) -> [u8; 24] {
    let mut context = [0; 24];
    let length = u32::try_from(length).expect("frames are short");
    context[4..8].copy_from_slice(&length.to_ne_bytes());
    context[12..16].copy_from_slice(&interface.to_ne_bytes());
    context
}

/// The kernel's threads that poll a network interface, in all network namespaces.
fn napi_threads() -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let is_napi = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("napi/eth0"))
    };
    let pids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    pids.filter(is_napi).map(Pid::from_raw).collect()
}
