use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Global, print};
use crate::{
    config::{BanTime, Config},
    control::{Answer, Refused, Request, client},
    import::{self, Found, Imported},
    store::{Store, StoredBan},
};

/// Bans in one request.
const AT_ONCE: usize = 20_000;

#[derive(Args, Debug)]
pub(super) struct Import {
    /// fail2ban's database (/var/lib/fail2ban/fail2ban.sqlite3), or what `fail2ban-client banned` printed; - is stdin
    #[arg(value_name = "DB")]
    from: PathBuf,
    /// Where an agent that does not run remembers bans
    #[arg(long, value_name = "DIR", default_value = "/var/lib/f2b")]
    state_dir: PathBuf,
}

/// What came of it.
#[derive(Default)]
struct Done {
    imported: usize,
    ended: usize,
    positions: usize,
    left_out: Vec<String>,
}

impl Import {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let now = SystemTime::now();
        let found = import::read(&self.from, now)?;
        let done = if client::is_there(&global.socket) {
            into_agent(&global.socket, found)?
        } else {
            into_store(&self.state_dir, global.config.as_deref(), found, now)?
        };
        for reason in &done.left_out {
            super::complain(reason);
        }
        let Done { imported, ended, positions, .. } = done;
        if global.json {
            let json = serde_json::json!({
                "imported": imported, "ended": ended, "positions": positions, "left_out": done.left_out,
            });
            return print(&format!("{json:#}\n"));
        }
        print(&format!(
            "{imported} bans hold, {ended} are over and count for the next; {positions} files go on where they were read\n"
        ))
    }
}

/// Bans, and no positions: the agent has its own by now.
fn into_agent(socket: &Path, found: Found) -> Result<Done> {
    let mut done = Done { left_out: found.left_out, ..Done::default() };
    for bans in found.bans.chunks(AT_ONCE) {
        match client::ask(socket, &Request::Import { bans: bans.to_vec() })? {
            Answer::Imported { imported, ended, refused } => {
                done.imported += imported;
                done.ended += ended;
                let reason = |Refused { address, reason }| format!("{address}: {reason}");
                done.left_out.extend(refused.into_iter().map(reason));
            }
            answer => bail!("the agent answers something else ({answer:?}); is it another version of f2b?"),
        }
    }
    Ok(done)
}

/// For the agent that will start.
fn into_store(dir: &Path, config: Option<&Path>, found: Found, now: SystemTime) -> Result<Done> {
    let config = Config::load(config)?;
    let bantimes: BTreeMap<_, _> =
        config.jails.iter().map(|jail| (jail.name.as_str(), jail.bantime)).collect();
    if !config.store.is_on {
        bail!("dbfile is None: nothing is remembered until an agent runs; start it, and import then");
    }
    let mut store = Store::open(dir, config.store.clone(), now)
        .context("an agent that does not run takes over bans through its store")?;
    let (known, history) = (store.take_stored(), store.history()?);
    let mut done = Done { left_out: found.left_out, ..Done::default() };
    for ban in &found.bans {
        let Imported { jail, address, started, bancount, .. } = ban;
        let bantime = match bantimes.get(jail.as_str()) {
            None => {
                done.left_out.push(format!("{address}: there is no jail {jail} in {}", config.origin));
                continue;
            }
            Some(BanTime::For(bantime)) => Some(bantime.as_secs_f64()),
            Some(BanTime::Forever) => None,
        };
        let started = crate::source::time(*started);
        if history.of(jail, *address).is_some_and(|past| past.time >= started) {
            continue;
        }
        let until = ban.until(bantime);
        *(if until.is_over(now) { &mut done.ended } else { &mut done.imported }) += 1;
        store.wait_for_room();
        let owner = jail.as_str().into();
        store.add(StoredBan { owner, subject: *address, until, started, bancount: *bancount });
    }
    for (source, position) in found.positions {
        if known.positions.iter().all(|(known, _)| *known != source) {
            store.set_position(&source, &position, now);
            done.positions += 1;
        }
    }
    store.flush();
    if store.needs_all() {
        bail!("not all could be written to {}; see the errors above", dir.display());
    }
    Ok(done)
}
