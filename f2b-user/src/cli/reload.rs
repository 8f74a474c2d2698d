use anyhow::Result;

use super::Global;
use crate::control::{Answer, Request};

pub(super) fn run(global: &Global) -> Result<()> {
    global.ask(&Request::Reload, |answer| match answer {
        Answer::Reloaded { warnings } => {
            Some(warnings.iter().map(|warning| format!("{warning}\n")).chain(["OK\n".into()]).collect())
        }
        _ => None,
    })?;
    Ok(())
}
