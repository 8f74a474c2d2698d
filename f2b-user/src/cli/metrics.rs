use anyhow::Result;

use super::Global;
use crate::{
    control::{Answer, Request},
    metrics,
};

pub(super) fn run(global: &Global) -> Result<()> {
    global.ask(&Request::Status, |answer| match answer {
        Answer::Status(status) => Some(metrics::prometheus(status)),
        _ => None,
    })?;
    Ok(())
}
