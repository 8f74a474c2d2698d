use std::net::IpAddr;

use anyhow::{Result, bail};
use clap::Args;

use super::{Global, print, unexpected};
use crate::control::{Answer, Request};

#[derive(Args, Debug)]
pub(super) struct Ban {
    jail: String,
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<IpAddr>,
}

impl Ban {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        match global.ask(&Request::Ban { jail: self.jail, addresses: self.addresses })? {
            None => Ok(()),
            Some(Answer::BanDone { until, banned, refused }) => {
                for address in banned {
                    print(&format!("{address} is banned until {until}\n"))?;
                }
                let refused: Vec<_> = refused
                    .iter()
                    .map(|refused| format!("{}: {}", refused.address, refused.reason))
                    .collect();
                if !refused.is_empty() {
                    bail!("not banned: {}", refused.join("; "));
                }
                Ok(())
            }
            Some(other) => Err(unexpected(&other)),
        }
    }
}
