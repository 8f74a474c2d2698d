use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use nix::unistd::geteuid;

use super::{Global, print};
use crate::{
    net::Net,
    xdp::{self, DEFAULT_PIN_DIR},
};

#[derive(Args, Debug)]
pub(super) struct Detach {
    /// Where program and maps are pinned
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pin_dir: PathBuf,
}

impl Detach {
    #[tokio::main(flavor = "current_thread")]
    pub(super) async fn run(self, global: &Global) -> Result<()> {
        if !geteuid().is_root() {
            bail!("only root can detach; try again with sudo");
        }
        let removed = xdp::detach(&self.pin_dir, &Net::new()?).await?;
        if global.json {
            return print(&format!("{}\n", serde_json::json!({ "removed": removed })));
        }
        for path in &removed {
            print(&format!("removed {}\n", path.display()))?;
        }
        if removed.is_empty() {
            print(&format!("There was nothing of f2b in {}.\n", self.pin_dir.display()))?;
        }
        Ok(())
    }
}
