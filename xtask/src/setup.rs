//! `cargo xtask setup`: what is there ([`facts`]), what that leaves to do ([`plan`]), and doing it.

mod facts;
mod plan;

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use facts::Facts;
use plan::{Plan, RunBy, When};

use crate::{
    cargo::{ROOT, Workspace},
    privilege::Privilege,
};

xflags::xflags! {
    /// Find what this machine lacks to build f2b, show how it is installed, and install it.
    cmd setup {
        /// Also what `cargo xtask test` and `cargo xtask demo` need.
        optional --tests
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Setup {
    pub(crate) fn run(self) -> Result<()> {
        ensure(if self.tests { Need::Tests } else { Need::Build }, Mode::new(self.no_install))?;
        println!("Nothing is missing.");
        Ok(())
    }
}

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Need {
    Build,
    Lint,
    Run,
    Tests,
    Fuzz,
    /// The lab of the tests, and the firewalls to compare with.
    Bench,
}

impl Need {
    /// The agent with its eBPF program. The fuzzer sees only a part of it.
    fn builds_agent(self) -> bool {
        self != Self::Fuzz
    }

    fn lints(self) -> bool {
        matches!(self, Self::Lint | Self::Tests)
    }

    /// Loads programs into this machine's kernel.
    fn enforces(self) -> bool {
        matches!(self, Self::Run | Self::Tests | Self::Bench)
    }
}

/// What to do about what is missing.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    Install,
    OnlySay,
}

impl Mode {
    pub(crate) fn new(no_install: bool) -> Self {
        if no_install { Self::OnlySay } else { Self::Install }
    }
}

/// Returns once the machine has all that `need` asks for; silent if it already had.
pub(crate) fn ensure(need: Need, mode: Mode) -> Result<()> {
    let privilege = Privilege::current();
    let mut before = None;
    loop {
        let plan = Plan::new(&Facts::look(), need, privilege);
        if plan.steps.is_empty() {
            return Ok(());
        }
        if before.as_ref() == Some(&plan) {
            bail!("installed, and yet missing:\n{plan}");
        }
        println!("This machine lacks\n{plan}");
        if mode == Mode::OnlySay {
            bail!("nothing was installed, as asked by --no-install");
        }
        if privilege == Privilege::None && plan.steps.iter().any(|step| step.run_by == RunBy::Root) {
            bail!("installing it needs root, and there is no sudo: run the commands above as root");
        }
        install(&plan)?;
        // What comes `Later` depends on what has just been installed, so look again.
        before = Some(plan);
    }
}

fn install(plan: &Plan) -> Result<()> {
    let directory = Workspace::load()?.target_directory.join("xtask");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let log = directory.join("setup.log");
    for step in plan.steps.iter().filter(|step| step.when == When::Now) {
        print!("{} … ", step.what);
        std::io::stdout().flush()?;
        let start = Instant::now();
        let outcome = run_logged(&step.command, &log);
        match &outcome {
            Ok(()) => println!("{:.1} s", start.elapsed().as_secs_f64()),
            Err(_) => println!("failed"),
        }
        outcome.with_context(|| format!("`{}`, logged in {}", step.command, log.display()))?;
    }
    Ok(())
}

/// Appends what the command says to the log; its last lines are part of the error.
fn run_logged(command: &str, path: &Path) -> Result<()> {
    const TAIL: usize = 30;
    let mut log = File::options().create(true).append(true).open(path)?;
    writeln!(log, "\n$ {command}")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(ROOT).stdin(Stdio::null());
    let status = shell.stdout(log.try_clone()?).stderr(log).status()?;
    if !status.success() {
        let log = String::from_utf8_lossy(&fs::read(path)?).into_owned();
        let lines: Vec<_> = log.lines().collect();
        bail!("{status}\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
    }
    Ok(())
}
