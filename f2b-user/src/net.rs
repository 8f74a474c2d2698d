//! The machine's interfaces, default routes and addresses, from rtnetlink.

use std::{
    fmt,
    future::pending,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder, new_connection, new_multicast_connection,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkLayerType, LinkMessage, LinkXdp, XdpAttached},
        route::{RouteAttribute, RouteHeader},
    },
};
use tokio::time::sleep;

/// How long changes are gathered.
const SETTLE: Duration = Duration::from_millis(20);

/// A network interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    /// The XDP program that is attached, if one is.
    pub xdp: Option<Attached>,
    /// The longest packet, in bytes.
    pub mtu: u32,
    /// Receive queues.
    pub queues: u32,
    /// Whether software alone makes it: a bridge, a bond, a tunnel, a veth, …
    pub is_virtual: bool,
    /// Whether its packets are in Ethernet frames: not those of most tunnels.
    pub is_ethernet: bool,
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

/// Tells that interfaces or routes have changed.
pub struct Changes {
    messages: BoxStream<'static, ()>,
    /// Whether there was one that nobody has been told of.
    is_due: bool,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Changes {
    /// Must be called inside the tokio runtime, as [`Net::new`].
    pub fn new() -> Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, _, messages) =
            new_multicast_connection(&groups).context("opening a netlink socket for changes")?;
        tokio::spawn(connection);
        Ok(Self { messages: messages.map(drop).boxed(), is_due: false })
    }

    /// Waits for the next change, and takes with it those that came at the same time. No change is lost if it is not
    /// waited for to the end.
    pub async fn next(&mut self) {
        if !self.is_due && self.messages.next().await.is_none() {
            return pending().await;
        }
        self.is_due = true;
        // An interface that comes up makes a dozen of them.
        sleep(SETTLE).await;
        while let Some(Some(())) = self.messages.next().now_or_never() {}
        self.is_due = false;
    }
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
    let is_ethernet = matches!(link.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback);
    let index = link.header.index;
    let mut interface = Interface { name, index, xdp, mtu: 0, queues: 1, is_virtual: false, is_ethernet };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::NumRxQueues(queues) => interface.queues = *queues,
            // Only drivers without hardware say what kind they are.
            LinkAttribute::LinkInfo(_) => interface.is_virtual = true,
            _ => {}
        }
    }
    Some(interface)
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
