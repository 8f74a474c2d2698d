use anyhow::Result;

use super::{Global, print, unexpected};
use crate::control::{Answer, Request};

pub(super) fn run(global: &Global) -> Result<()> {
    match global.ask(&Request::Reload)? {
        None => Ok(()),
        Some(Answer::Reloaded { warnings }) => {
            for warning in warnings {
                print(&format!("{warning}\n"))?;
            }
            print("OK\n")
        }
        Some(other) => Err(unexpected(&other)),
    }
}
