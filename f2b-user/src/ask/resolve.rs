//! Host names and files of addresses → addresses.
//!
//! Names are looked up as every other program on the machine does it, through the C library, which cannot be
//! interrupted: each look-up has a thread of its own, and there are never more than a few.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::Path,
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use ipnet::IpNet;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::config::net;

/// Look-ups at a time, in the whole process.
const LOOKUPS: usize = 16;
/// How long one may take, with waiting for its turn.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The most that is read of a file.
const MAX_FILE: u64 = 64 * 1024 * 1024;

static TURNS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(LOOKUPS)));

/// The addresses of a name, without those of IPv6 unless it `allows_ipv6` (`DNSUtils.dnsToIp`).
pub(super) async fn addresses(name: &str, allows_ipv6: bool) -> Result<Vec<IpAddr>> {
    let look_up = async {
        let turn = Arc::clone(&TURNS).acquire_owned().await.context("no look-ups")?;
        let (reply, answer) = oneshot::channel();
        let asked = name.to_owned();
        let work = move || {
            let found = dns_lookup::lookup_host(&asked);
            // Nobody may wait for it any more.
            drop(reply.send(found.map(|found| found.collect::<BTreeSet<_>>())));
            drop(turn);
        };
        thread::Builder::new().name("resolve".into()).spawn(work).context("starting a thread")?;
        let found = answer.await.context("the look-up has stopped")?.map_err(|error| anyhow!("{error}"))?;
        let found = found.into_iter().map(|ip| ip.to_canonical());
        Ok(found.filter(|ip| allows_ipv6 || ip.is_ipv4()).collect())
    };
    timeout(TIMEOUT, look_up)
        .await
        .map_err(|_elapsed| anyhow!("no answer within {} seconds", TIMEOUT.as_secs()))?
}

/// The addresses and prefixes in a file: between spaces, commas and line ends, up to a `#`. And what is none of them.
pub(super) fn file(path: &Path) -> Result<(Vec<IpNet>, Vec<String>)> {
    let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    if size > MAX_FILE {
        return Err(anyhow!("{}: it is larger than {MAX_FILE} bytes", path.display()));
    }
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let (mut nets, mut wrong) = (Vec::new(), Vec::new());
    for line in String::from_utf8_lossy(&bytes).lines() {
        let entries = line.split('#').next().unwrap_or_default();
        for entry in entries.split([' ', '\t', ',', ';']).filter(|entry| !entry.is_empty()) {
            match net(entry) {
                Some(net) => nets.push(net),
                None => wrong.push(entry.to_owned()),
            }
        }
    }
    Ok((nets, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_addresses_and_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("list");
        fs::write(&path, "# mine\n192.0.2.1 192.0.2.0/24 # office\n\n2001:db8::/32,nonsense\n").unwrap();
        let (nets, wrong) = file(&path).unwrap();
        assert_eq!((nets.len(), wrong), (3, vec!["nonsense".to_owned()]));
        assert!(file(&dir.path().join("none")).is_err());
    }

    #[tokio::test]
    async fn names_of_the_machine_are_known() {
        assert!(addresses("localhost", true).await.unwrap().iter().any(IpAddr::is_loopback));
        assert!(addresses("there is no such name", true).await.is_err());
        assert_eq!(addresses("::1", true).await.unwrap(), [IpAddr::from(std::net::Ipv6Addr::LOCALHOST)]);
        assert_eq!(addresses("::1", false).await.unwrap(), [] as [IpAddr; 0]);
    }
}
