use std::{fs, path::PathBuf, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use nix::unistd::geteuid;
use tracing::{error, info, warn};

use super::Global;
use crate::{
    action::Actions,
    agent::Agent,
    config::{Config, Own},
    control::server::ControlSocket,
    log::{self, Log},
    net::Net,
    store::Store,
    xdp::{self, DEFAULT_PIN_DIR, DryRun, Kernel, LOGGED_PER_SECOND, Mode},
};

#[derive(Args, Debug)]
pub(super) struct Run {
    /// Interface to protect; may be repeated [default: `interfaces` of f2b.conf, else those of the default routes]
    #[arg(short, long = "interface", value_name = "IFACE")]
    interfaces: Vec<String>,
    /// Where frames are checked: in the driver, in the network stack, further up in tc, or the best that works
    /// [default: `mode` of f2b.conf, else auto]
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,
    /// Where bans are remembered
    #[arg(long, value_name = "DIR", default_value = "/var/lib/f2b")]
    state_dir: PathBuf,
    /// Where program and maps are pinned, on a BPF file system
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
    /// Decide everything, enforce nothing; needs no root
    #[arg(long)]
    dry_run: bool,
    /// Log a sample of the packets that are dropped: up to 100 a second on each CPU
    #[arg(long)]
    log_drops: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Auto,
    Native,
    Generic,
    Tc,
}

/// What loading and attaching programs needs: root, or these two capabilities.
fn may_enforce() -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let has = |wanted: u64| {
        effective
            .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .is_some_and(|set| set & wanted != 0)
    };
    geteuid().is_root() || (has(CAP_NET_ADMIN) && (has(CAP_BPF) || has(CAP_SYS_ADMIN)))
}

impl Run {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, global: Global) -> Result<()> {
        // Before anything is made that would have to be unmade.
        if !self.dry_run && !may_enforce() {
            bail!("only root can load the XDP program; try again with sudo, or with --dry-run");
        }
        let config = Config::load(global.config.as_deref())?;
        let log = log::Settings::new(&config.log).with_context(|| config.origin.clone())?;
        let _log = Log::start(&log)?;
        info!(origin = config.origin, jails = config.jails.len(), "Read the configuration");
        for warning in &config.warnings {
            warn!("{warning}");
        }
        if config.jails.is_empty() {
            let what_to_do = if config.warnings.is_empty() {
                "enable one with `enabled = true`"
            } else {
                "see the warnings above"
            };
            bail!("no jail can start from {}; {what_to_do}", config.origin);
        }
        let net = Net::new()?;
        let socket = ControlSocket::bind(&global.socket)?;
        if self.dry_run {
            info!("Dry run: deciding everything, enforcing nothing");
            let mut agent =
                Agent::new(config, DryRun::default(), Store::in_memory()?, global.config, SystemTime::now());
            agent.restore(SystemTime::now())?;
            return agent.dry_run().run(socket, net).await;
        }
        let kernel = Kernel::open(self.kernel(&config.own), &net).await?;
        let store = self.store(&config)?;
        let actions = Actions::start(Arc::new(store.merger()))?;
        let agent = Agent::new(config, kernel, store, global.config, SystemTime::now());
        let mut agent = agent.with_actions(actions);
        agent.restore(SystemTime::now())?;
        agent.map().attach()?;
        agent.run(socket, net).await
    }

    /// The store, or one that forgets where there is none.
    fn store(&self, config: &Config) -> Result<Store> {
        if config.store.is_on {
            match Store::open(&self.state_dir, config.store.clone(), SystemTime::now()) {
                Ok(store) => return Ok(store),
                Err(error) => error!("Bans are not remembered across a reboot: {error:#}"),
            }
        } else {
            info!("dbfile is None: bans are not remembered across a reboot");
        }
        Store::in_memory().context("opening a store in memory")
    }

    /// What the command line says goes before what `f2b.conf` says.
    fn kernel(&self, own: &Own) -> xdp::Options {
        xdp::Options {
            interfaces: if self.interfaces.is_empty() {
                own.interfaces.clone()
            } else {
                self.interfaces.clone()
            },
            mode: match self.mode {
                None => own.mode,
                Some(ModeArg::Auto) => None,
                Some(ModeArg::Native) => Some(Mode::Native),
                Some(ModeArg::Generic) => Some(Mode::Generic),
                Some(ModeArg::Tc) => Some(Mode::Tc),
            },
            pin_dir: self.pin_dir.clone(),
            max_bans: own.max_bans,
            log_drops: if self.log_drops { LOGGED_PER_SECOND.max(own.log_drops) } else { own.log_drops },
        }
    }
}
