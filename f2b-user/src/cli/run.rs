use std::{
    env, fmt,
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use jiff::Zoned;
use nix::unistd::geteuid;
use tracing::{info, warn};
use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

use super::Global;
use crate::{
    agent::Agent,
    config::Config,
    control::server::ControlSocket,
    net::Net,
    store::Store,
    xdp::{self, DEFAULT_PIN_DIR, DryRun, Kernel, Mode},
};

#[derive(Args, Debug)]
pub(super) struct Run {
    /// Interface to protect; may be repeated [default: those of the default routes]
    #[arg(short, long = "interface", value_name = "IFACE")]
    interfaces: Vec<String>,
    /// Where frames are checked: in the driver, in the network stack, or the best that works
    #[arg(long, value_enum, default_value = "auto")]
    mode: ModeArg,
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

/// The log's time stamps: local, as the ends of bans are.
struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f"))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArg {
    Auto,
    Native,
    Generic,
}

impl Run {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, global: Global) -> Result<()> {
        // Before anything is made that would have to be unmade.
        if !self.dry_run && !geteuid().is_root() {
            bail!("only root can load the XDP program; try again with sudo, or with --dry-run");
        }
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_timer(LocalTime);
        // Colours are for eyes, not for files and journals.
        log.with_ansi(io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none())
            .with_writer(io::stderr)
            .init();

        let config = Config::load(global.config.as_deref())?;
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
            let agent = Agent::new(config, DryRun::default(), Store::in_memory()?, global.config);
            return agent.dry_run().run(socket, net).await;
        }
        let kernel = Kernel::open(self.kernel(), &net).await?;
        let store = match Store::open(&self.state_dir) {
            Ok(store) => store,
            Err(error) => {
                warn!("Bans are not remembered across a reboot: {error:#}");
                Store::in_memory().context("opening a store in memory")?
            }
        };
        let mut agent = Agent::new(config, kernel, store, global.config);
        agent.restore(SystemTime::now())?;
        agent.map().attach()?;
        agent.run(socket, net).await
    }

    fn kernel(&self) -> xdp::Options {
        xdp::Options {
            interfaces: self.interfaces.clone(),
            mode: match self.mode {
                ModeArg::Auto => None,
                ModeArg::Native => Some(Mode::Native),
                ModeArg::Generic => Some(Mode::Generic),
            },
            pin_dir: self.pin_dir.clone(),
            log_drops: self.log_drops,
        }
    }
}
