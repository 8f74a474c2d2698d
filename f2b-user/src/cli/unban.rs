use std::net::IpAddr;

use anyhow::Result;
use clap::Args;

use super::{Global, print, unexpected};
use crate::control::{Answer, Request};

#[derive(Args, Debug)]
pub(super) struct Unban {
    #[arg(required_unless_present = "all", value_name = "ADDR")]
    addresses: Vec<IpAddr>,
    /// Free every banned address
    #[arg(long, conflicts_with = "addresses")]
    all: bool,
}

impl Unban {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let request =
            if self.all { Request::UnbanAll } else { Request::Unban { addresses: self.addresses.clone() } };
        match global.ask(&request)? {
            None => Ok(()),
            Some(Answer::Unbanned { addresses }) => {
                for address in &addresses {
                    print(&format!("{address} is free\n"))?;
                }
                for address in self.addresses.iter().filter(|address| !addresses.contains(address)) {
                    print(&format!("{address} was not banned\n"))?;
                }
                if self.all && addresses.is_empty() {
                    print("Nothing was banned.\n")?;
                }
                Ok(())
            }
            Some(other) => Err(unexpected(&other)),
        }
    }
}
