//! A TCP service of the server and its honest client, who share the wire with the flood.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use socket2::{Domain, Socket, Type};

use super::flood::{pin_to_server, pin_to_world};
use crate::lab::{Host, Lab, SERVER_V4, attacker_v4};

const PORT: u16 = 8080;
/// The client's address; nobody bans it.
const CLIENT: u8 = 200;

/// One upload without end, until dropped.
pub(crate) struct Service {
    received: Arc<AtomicU64>,
    client: TcpStream,
}

impl Service {
    /// Connects the client and lets it send as fast as TCP can.
    pub(crate) fn start(lab: &Lab) -> Self {
        let listener = lab.inside(Host::Server, || {
            TcpListener::bind((SERVER_V4, PORT)).expect("the port is free on the server")
        });
        let client: TcpStream = lab.inside(Host::Attackers, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("sockets can be made");
            socket.bind(&SocketAddr::new(attacker_v4(CLIENT), 0).into()).expect("it has the address");
            socket.connect(&SocketAddr::new(SERVER_V4, PORT).into()).expect("the server listens");
            socket.into()
        });
        let (mut connection, _) = listener.accept().expect("the client has connected");
        let received = Arc::<AtomicU64>::default();
        let counting = Arc::clone(&received);
        let mut sending = client.try_clone().expect("sockets can be shared");
        thread::spawn(move || {
            pin_to_server();
            let mut buffer = vec![0; 1 << 17];
            while let Ok(length @ 1..) = connection.read(&mut buffer) {
                counting.fetch_add(length as u64, Ordering::Relaxed);
            }
        });
        thread::spawn(move || {
            pin_to_world();
            let buffer = vec![7; 1 << 17];
            while sending.write_all(&buffer).is_ok() {}
        });
        Self { received, client }
    }

    /// Runs `meanwhile`, and says how many bytes a second reached the service during it.
    pub(crate) fn goodput(&self, meanwhile: impl FnOnce()) -> f64 {
        let (start, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        meanwhile();
        let bytes = self.received.load(Ordering::Relaxed) - before;
        bytes as f64 / start.elapsed().as_secs_f64()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Both threads end at the next call they make. An error means that they have.
        drop(self.client.shutdown(Shutdown::Both));
    }
}
