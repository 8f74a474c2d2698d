//! The sample of dropped packets that the programs report, into the agent's log.

use std::{net::IpAddr, time::Duration};

use aya::maps::{MapData, RingBuf};
use f2b_ebpf::{BanKey, DropEvent};
use tokio::time::interval;
use tracing::info;

/// How many drops a second each CPU reports for `--log-drops`: enough to see what happens, too few to flood.
pub const LOGGED_PER_SECOND: u32 = 100;

/// How often the reports are taken.
const TAKE_EVERY: Duration = Duration::from_millis(100);

/// Logs what is reported, for as long as the agent runs.
pub(super) fn log(mut events: RingBuf<MapData>) {
    tokio::spawn(async move {
        let mut tick = interval(TAKE_EVERY);
        loop {
            tick.tick().await;
            while let Some(event) = events.next() {
                if let Some(event) = DropEvent::from_bytes(&event) {
                    log_one(event);
                }
            }
        }
    });
}

fn log_one(event: DropEvent) {
    let DropEvent { addr, ifindex, bytes, scope, port, protocol, .. } = event;
    let ip = IpAddr::from(BanKey { addr });
    // Where the ban is of everything, nobody looked.
    let to = (protocol != 0).then_some((protocol, port));
    let (protocol, port) = to.unzip();
    info!(%ip, interface = ifindex, bytes, scope, protocol, port, "Dropped a packet");
}
