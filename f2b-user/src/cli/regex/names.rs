//! Host names → addresses, through the system's resolver.

use std::{
    collections::HashMap,
    net::{IpAddr, ToSocketAddrs as _},
};

/// How many names are remembered: a hostile log may hold any number of them.
const MAX_KNOWN: usize = 10_000;

/// Resolves each name once.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<String, Vec<IpAddr>>,
}

impl Names {
    /// The addresses of a host; none if it has none, or nobody can tell.
    pub(super) fn resolve(&mut self, name: &str) -> &[IpAddr] {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(name) {
            self.known.clear();
        }
        self.known.entry(name.to_owned()).or_insert_with(|| {
            let found = (name, 0).to_socket_addrs();
            let mut addresses = Vec::new();
            for address in found.into_iter().flatten().map(|address| address.ip().to_canonical()) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            addresses
        })
    }
}
