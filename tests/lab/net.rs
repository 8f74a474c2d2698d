//! The wire of a lab: addresses, floods and their victim.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};

use super::{Host, Lab, wait_until};

/// The server's IPv4 address.
pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The server's IPv6 address.
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 1));

/// A flood ends by itself after so many packets or so long.
const FLOOD_PACKETS: u64 = 20_000_000;
const FLOOD_TIME: Duration = Duration::from_secs(30);
/// What a UDP packet carries.
const PAYLOAD: [u8; 18] = [0; 18];

/// An IPv4 address of the attackers, `n` from 2 to 253; 254 is their router's.
pub fn attacker_v4(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, n))
}

/// An IPv6 address of the attackers, `n` from 2 to 253; 254 is their router's.
pub fn attacker_v6(n: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, n.into()))
}

/// The server's address of the same family as `peer`.
pub fn server_for(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() { SERVER_V4 } else { SERVER_V6 }
}

impl Lab {
    /// Whether a TCP connection from `from` to sshd comes about: false if its SYNs vanish for 700 ms.
    pub fn connects(&self, from: IpAddr) -> bool {
        let server = SocketAddr::new(server_for(from), 2222);
        self.inside(Host::Attackers, || {
            let socket =
                Socket::new(Domain::for_address(server), Type::STREAM, None).expect("sockets can be made");
            socket.bind(&SocketAddr::new(from, 0).into()).expect("the attackers own the address");
            socket.connect_timeout(&server.into(), Duration::from_millis(700)).is_ok()
        })
    }

    /// Sends so many UDP packets to `port` of the server, each of 60 bytes, frame and all. More than one, only where none is
    /// refused.
    pub fn send(&self, from: IpAddr, port: u16, count: u32) {
        let socket = self.socket(from, port);
        for _ in 0..count {
            socket.send(&PAYLOAD).expect("nobody refuses what is dropped");
        }
    }

    /// An attacker's socket. It stays in the network it was made in, wherever it is used.
    fn socket(&self, from: IpAddr, port: u16) -> UdpSocket {
        self.inside(Host::Attackers, || {
            let socket = UdpSocket::bind((from, 0)).expect("the attackers own the address");
            socket.connect((server_for(from), port)).expect("the server is on the same wire");
            socket
        })
    }
}

/// UDP packets to the server, one after the other, as fast as one thread can send them.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<u64>>,
}

impl Flood {
    /// Floods `port` of the server from `from`: until stopped, for 30 seconds at most.
    pub fn start(lab: &Lab, from: IpAddr, port: u16) -> Self {
        let socket = lab.socket(from, port);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            let end = Instant::now() + FLOOD_TIME;
            let mut sent = 0;
            while sent < FLOOD_PACKETS && !stopped.load(Ordering::Relaxed) && Instant::now() < end {
                // An error means that the server refused an earlier packet: nobody listens there.
                sent += u64::from(socket.send(&PAYLOAD).is_ok());
            }
            sent
        });
        Self { stop, sender: Some(sender) }
    }

    /// Stops it, and returns how many packets went out.
    pub fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sender = self.sender.take().expect("it is stopped once");
        sender.join().expect("the sender never panics")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A UDP port of the server, open on both families, which counts what arrives.
pub struct Sink {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<HashMap<IpAddr, u64>>>,
    receiver: Option<JoinHandle<()>>,
}

impl Sink {
    /// Opens `port`.
    pub fn open(lab: &Lab, port: u16) -> Self {
        let socket = lab.inside(Host::Server, || {
            let mut socket = None;
            // A program which another thread is starting holds every open socket until its exec, closed or not.
            wait_until(Duration::from_secs(5), "the port is free on the server", || {
                socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).ok();
                socket.is_some()
            });
            socket.expect("it is bound now")
        });
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("the timeout is not zero");
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::<Mutex<HashMap<_, _>>>::default();
        let (stopped, counting) = (Arc::clone(&stop), Arc::clone(&counts));
        let receiver = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 2048]) {
                    let mut counts = counting.lock().expect("counting never panics");
                    *counts.entry(from.ip().to_canonical()).or_default() += 1;
                }
            }
        });
        Self { stop, counts, receiver: Some(receiver) }
    }

    /// How many packets have come from `from`.
    ///
    /// Under a flood the receiver may be slower than the wire: this can be less than what the kernel let through.
    pub fn count(&self, from: IpAddr) -> u64 {
        self.counts.lock().expect("counting never panics").get(&from).copied().unwrap_or_default()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(receiver) = self.receiver.take() {
            receiver.join().expect("the receiver never panics");
        }
    }
}
