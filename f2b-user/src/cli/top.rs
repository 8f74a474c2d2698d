//! `f2b top`: what is dropped and passed a second, and the bans that drop most of it.
//!
//! - [`rates`]: what the agent has counted, as rates
//! - [`view`]: rates as text
//! - [`screen`]: the text on a terminal, anew each time

mod rates;
mod screen;
mod view;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use self::rates::{Meter, Rates};
use super::{Global, print};
use crate::control::{self, Answer, Request, client};

/// The agent is asked at least so often: who stays away for longer does not watch, and busy bans are forgotten.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Bans that are shown where there is no screen to tell how many fit.
const BANS_SHOWN: usize = 20;

/// On a terminal, until q or Ctrl-C. Else, and with -n, as text for each interval; with --json, as an object on a line of
/// its own.
#[derive(Args, Debug)]
pub(super) struct Top {
    /// End after so many intervals
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Length of an interval
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "it is not between 0.1 and 3600 seconds".to_owned())
}

impl Top {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let mut measured = measure(global.socket.clone(), self.interval)?;
        let has_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if !global.json && self.count.is_none() && has_terminal {
            return screen::run(measured);
        }
        for n in 0..self.count.unwrap_or(u64::MAX) {
            let Some(rates) = measured.blocking_recv() else { break };
            let rates = rates?;
            if global.json {
                print(&format!("{}\n", serde_json::to_string(&rates)?))?;
            } else {
                let apart = if n == 0 { "" } else { "\n" };
                let lines = view::lines(&rates, BANS_SHOWN).into_iter();
                print(&format!("{apart}{}", lines.map(|line| line.text + "\n").collect::<String>()))?;
            }
        }
        Ok(())
    }
}

/// The rates of each interval, until the agent does not answer. They are measured on a thread of their own, so that
/// nobody who waits for an answer is deaf to anything else.
fn measure(socket: PathBuf, interval: Duration) -> Result<Receiver<Result<Rates>>> {
    let (sender, measured) = channel(1);
    let measuring = move || {
        if let Err(error) = measure_all(&socket, interval, &sender) {
            // A receiver that is gone does not want to know.
            drop(sender.blocking_send(Err(error)));
        }
    };
    thread::Builder::new().name("measuring".into()).spawn(measuring).context("starting a thread")?;
    Ok(measured)
}

fn measure_all(socket: &Path, interval: Duration, sender: &Sender<Result<Rates>>) -> Result<()> {
    let steps = interval.div_duration_f64(ASK_EVERY).ceil();
    let step = interval.div_f64(steps);
    let mut meter = Meter::new(ask(socket)?, Instant::now());
    let mut next = Instant::now();
    loop {
        for _ in 0..steps as u32 {
            next += step;
            sleep(next.saturating_duration_since(Instant::now()));
            meter.add(ask(socket)?, Instant::now());
        }
        if sender.blocking_send(Ok(meter.rates())).is_err() {
            return Ok(());
        }
        // What could not be kept up with is left out.
        next = next.max(Instant::now() - step);
    }
}

fn ask(socket: &Path) -> Result<control::Top> {
    match client::ask(socket, &Request::Top)? {
        Answer::Top(top) => Ok(top),
        answer => Err(super::something_else(&answer)),
    }
}
