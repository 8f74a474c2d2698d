//! `bantime.increment` with its options, and `maxmatches`.

use anyhow::{Context as _, Result};

use super::{JailOptions, dialect::Place, time};
use crate::increment::{Increment, Written};

/// fail2ban's value where no file sets it (`server/failmanager.py`).
const MAXMATCHES: usize = 5;

/// How known offenders are banned longer, if they are.
pub(super) fn increment(jail: &JailOptions) -> Result<Option<Increment>> {
    let text = |option: &str| jail.written.get(option).map_or("", |value| value.text.as_str());
    if text("bantime.increment") != "True" {
        return Ok(None);
    }
    let seconds = |option: &str| {
        let seconds = Some(text(option)).filter(|text| !text.is_empty()).map(time::seconds).transpose();
        seconds.with_context(|| format!("{}: {option}", place(jail, option)))
    };
    let written = Written {
        factor: text("bantime.factor"),
        formula: text("bantime.formula"),
        multipliers: text("bantime.multipliers"),
        maxtime: seconds("bantime.maxtime")?,
        rndtime: seconds("bantime.rndtime")?,
        overalljails: text("bantime.overalljails") == "True",
    };
    let increment = Increment::new(written).map_err(|refused| {
        let place = place(jail, refused.option);
        anyhow::Error::new(refused).context(place)
    })?;
    Ok(Some(increment))
}

/// How many of the lines that led to a ban are kept.
pub(super) fn maxmatches(jail: &JailOptions) -> Result<usize> {
    let Some(value) = jail.written.get("maxmatches").filter(|value| !value.text.is_empty()) else {
        return Ok(MAXMATCHES);
    };
    value
        .text
        .trim()
        .parse()
        .ok()
        .with_context(|| format!("{}: maxmatches = {} is not a number from 0", value.place, value.text))
}

fn place(jail: &JailOptions, option: &str) -> Place {
    jail.written.get(option).map_or_else(|| Place::outside("built in"), |value| value.place.clone())
}
