//! Commands run one after the other, each under a heading, with the time it took.

use std::{
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

pub(crate) struct Step {
    pub(crate) name: String,
    command: Command,
}

impl Step {
    pub(crate) fn new(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), command }
    }
}

/// Just the step of this name, if one is named.
pub(crate) fn only(mut steps: Vec<Step>, name: Option<&str>) -> Result<Vec<Step>> {
    let Some(name) = name else { return Ok(steps) };
    let names: Vec<_> = steps.iter().map(|step| step.name.clone()).collect();
    steps.retain(|step| step.name == name);
    if steps.is_empty() {
        bail!("there is no step `{name}`; there are {}", names.join(", "));
    }
    Ok(steps)
}

/// Stops at the first step that fails; the times of those that ran are shown in any case.
pub(crate) fn run_all(steps: Vec<Step>) -> Result<()> {
    let mut times: Vec<(String, Duration)> = Vec::new();
    let mut outcome = Ok(());
    for Step { name, mut command } in steps {
        println!("\n━━ {name} ━━ {}", shown(&command));
        let start = Instant::now();
        outcome = run(&mut command).with_context(|| format!("step `{name}`"));
        times.push((name, start.elapsed()));
        if outcome.is_err() {
            break;
        }
    }
    println!();
    for (name, time) in times {
        println!("{name:<20}{:>8.1} s", time.as_secs_f64());
    }
    outcome
}

pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}`: {status}", shown(command));
    }
    Ok(())
}

/// Puts the command in the place of this process, so that signals and exit status need no forwarding.
pub(crate) fn become_command(command: &mut Command) -> Result<()> {
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start `{}`", shown(command)))
}

/// As one would type it; for reading, so nothing is quoted.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
