//! Names of hosts, for tags: looked up only where a command asks for them, beside the agent and never for long.

use std::{borrow::Cow, net::IpAddr, sync::OnceLock, time::Duration};

use nix::unistd::gethostname;
use tokio::{task::spawn_blocking, time::timeout};

use super::info::Info;

pub(super) const FULL_NAME: &str = "fq-hostname";
pub(super) const SHORT_NAME: &str = "sh-hostname";

/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// This machine's names.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// With its domain, if it has one (`socket.getfqdn`).
    pub(super) full: String,
    pub(super) short: String,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// This machine's names; the full one only if somebody looked it up ([`look_up`]).
pub(super) fn own() -> &'static Own {
    static SHORT: OnceLock<Own> = OnceLock::new();
    OWN.get().unwrap_or_else(|| SHORT.get_or_init(|| Own { full: short(), short: short() }))
}

fn short() -> String {
    gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The first of this machine's names with a dot in it.
fn full() -> String {
    let short = short();
    if short.contains('.') {
        return short;
    }
    let addresses = dns_lookup::lookup_host(&short).into_iter().flatten();
    let name = addresses.into_iter().find_map(|address| dns_lookup::lookup_addr(&address).ok());
    name.filter(|name| name.contains('.')).unwrap_or(short)
}

/// `info`, with the names that `command` has tags for.
pub async fn look_up<'a>(command: &str, info: &'a Info) -> Cow<'a, Info> {
    if OWN.get().is_none() && command.contains(FULL_NAME) {
        // The resolver may hang; the short name is a name, too.
        if let Ok(Ok(full)) = timeout(PATIENCE, spawn_blocking(full)).await {
            OWN.get_or_init(|| Own { full, short: short() });
        }
    }
    let address = info.ticket.as_ref().and_then(|ticket| ticket.subject.address());
    let Some(address) = address.filter(|_| command.contains("<ip-host>")) else {
        return Cow::Borrowed(info);
    };
    let name = timeout(PATIENCE, spawn_blocking(move || name_of(address))).await;
    let host = name.ok().and_then(Result::ok).flatten();
    Cow::Owned(Info { host, ..info.clone() })
}

fn name_of(address: IpAddr) -> Option<String> {
    // Where there is no name, the library gives the address itself.
    dns_lookup::lookup_addr(&address).ok().filter(|name| name.parse::<IpAddr>().is_err())
}
