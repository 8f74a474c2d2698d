//! Host names → addresses and back, through the system's resolver.

use std::{
    collections::HashMap,
    net::{IpAddr, ToSocketAddrs as _},
};

use super::log::{Entry, Level};

/// How many names are remembered: a hostile log may hold any number of them.
const MAX_KNOWN: usize = 10_000;

/// Resolves each name once.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<String, Vec<IpAddr>>,
    /// What was found, if it is to be told.
    pub(super) told: Option<Vec<Entry>>,
}

impl Names {
    /// The addresses of a host; none if it has none, or nobody can tell.
    pub(super) fn resolve(&mut self, name: &str) -> &[IpAddr] {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(name) {
            self.known.clear();
        }
        self.known.entry(name.to_owned()).or_insert_with(|| {
            let found = (name, 0).to_socket_addrs();
            if let (Err(error), Some(told)) = (&found, &mut self.told) {
                let reason = python_error(&error.to_string());
                let message = format!("Unable to find a corresponding IP address for {name}: {reason}");
                told.push(Entry::new(Level::Warning, "fail2ban.ipdns", message));
            }
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

/// An error of the resolver as Python writes it.
fn python_error(text: &str) -> String {
    let reason = text.rsplit(": ").next().unwrap_or_default();
    let number = match reason {
        "Name or service not known" => -2,
        "Temporary failure in name resolution" => -3,
        "No address associated with hostname" => -5,
        _ => return text.to_owned(),
    };
    format!("[Errno {number}] {reason}")
}

/// Finds the name of each address once.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    known: HashMap<String, Option<String>>,
}

impl Hosts {
    /// The name of a host that is given by its address or another of its names.
    pub(super) fn name(&mut self, host: &str) -> Option<&str> {
        if self.known.len() >= MAX_KNOWN && !self.known.contains_key(host) {
            self.known.clear();
        }
        let name = self.known.entry(host.to_owned()).or_insert_with(|| {
            let ip = (host, 0).to_socket_addrs().ok()?.next()?.ip();
            // Without a name, it is the address.
            dns_lookup::lookup_addr(&ip).ok().filter(|name| name.parse::<IpAddr>().is_err())
        });
        name.as_deref()
    }
}
