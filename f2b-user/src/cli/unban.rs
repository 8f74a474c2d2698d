use anyhow::Result;
use clap::Args;

use super::Global;
use crate::{
    ban::Subject,
    control::{Answer, Request},
};

#[derive(Args, Debug)]
pub(super) struct Unban {
    /// Addresses, or prefixes as they were banned
    #[arg(required_unless_present = "all", value_name = "ADDR")]
    addresses: Vec<Subject>,
    /// Free every banned address
    #[arg(long, conflicts_with = "addresses")]
    all: bool,
}

impl Unban {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let request =
            if self.all { Request::UnbanAll } else { Request::Unban { addresses: self.addresses.clone() } };
        global.ask(&request, |answer| match answer {
            Answer::Unbanned { addresses } if self.all && addresses.is_empty() => {
                Some("Nothing was banned.\n".into())
            }
            Answer::Unbanned { addresses } => {
                let free = addresses.iter().map(|address| format!("{address} is free\n"));
                let others = self.addresses.iter().filter(|address| !addresses.contains(address));
                Some(free.chain(others.map(|address| format!("{address} was not banned\n"))).collect())
            }
            _ => None,
        })?;
        Ok(())
    }
}
