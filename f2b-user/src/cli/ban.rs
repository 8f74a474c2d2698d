use anyhow::{Result, bail};
use clap::Args;

use super::Global;
use crate::{
    ban::Subject,
    control::{Answer, Banned, Request},
};

#[derive(Args, Debug)]
pub(super) struct Ban {
    jail: String,
    /// Addresses, or prefixes like 192.0.2.0/24
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<Subject>,
}

impl Ban {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let request = Request::Ban { jail: self.jail, addresses: self.addresses };
        let answer = global.ask(&request, |answer| match answer {
            Answer::BanDone { banned, .. } => {
                let line = |ban: &Banned| format!("{} is banned until {}\n", ban.address, ban.until);
                Some(banned.iter().map(line).collect())
            }
            _ => None,
        })?;
        if let Answer::BanDone { refused, .. } = answer
            && !refused.is_empty()
        {
            let refused: Vec<_> =
                refused.iter().map(|refused| format!("{}: {}", refused.address, refused.reason)).collect();
            bail!("not banned: {}", refused.join("; "));
        }
        Ok(())
    }
}
