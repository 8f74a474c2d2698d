//! The machine's interfaces, default routes and addresses, from rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
        route::{RouteAttribute, RouteHeader},
    },
};

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// The XDP program that is attached, if one is.
    pub xdp: Option<Attached>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Attached {
    pub program_id: u32,
    pub native: bool,
}

/// A connection to the kernel's routing tables.
#[derive(Debug)]
pub struct Net {
    handle: Handle,
}

impl Net {
    /// Opens the connection; must be called inside the tokio runtime, which then serves it.
    pub fn new() -> Result<Self> {
        let (connection, handle, _) = new_connection().context("opening a netlink socket")?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// All interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>> {
        let links = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        Ok(links.context("listing the network interfaces")?.iter().filter_map(interface).collect())
    }

    /// The indexes of the interfaces that default routes of either family use, each once.
    pub async fn default_route_interfaces(&self) -> Result<Vec<u32>> {
        let mut indexes = Vec::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for family in [v4, v6] {
            let mut routes = self.handle.route().get(family).execute();
            while let Some(route) = routes.try_next().await.context("listing the routes")? {
                let main = route.header.table == RouteHeader::RT_TABLE_MAIN;
                if route.header.destination_prefix_length != 0 || !main {
                    continue;
                }
                indexes.extend(route.attributes.iter().filter_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }));
            }
        }
        indexes.sort_unstable();
        indexes.dedup();
        Ok(indexes)
    }

    /// The machine's own addresses, for `ignoreself`.
    pub async fn own_addresses(&self) -> Result<Vec<IpAddr>> {
        let addresses = self.handle.address().get().execute().try_collect::<Vec<_>>().await;
        let addresses = addresses.context("listing the machine's addresses")?;
        let own =
            addresses.iter().flat_map(|address| &address.attributes).filter_map(
                |attribute| match attribute {
                    AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
                    _ => None,
                },
            );
        Ok(own.collect())
    }
}

fn interface(link: &LinkMessage) -> Option<Interface> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let xdp = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => attached(xdp),
        _ => None,
    });
    Some(Interface { name, index: link.header.index, xdp })
}

fn attached(xdp: &[LinkXdp]) -> Option<Attached> {
    let program_id = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    })?;
    let native =
        !xdp.iter().any(|attribute| matches!(attribute, LinkXdp::Attached(XdpAttached::SocketBuffer)));
    Some(Attached { program_id, native })
}
