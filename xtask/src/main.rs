//! `cargo xtask COMMAND`: one word from a fresh machine to a built, running or tested f2b.
//!
//! - [`setup`]: finds what the machine lacks and installs it; every other command begins with it
//! - [`build`], [`run`], [`lint`], [`test`], [`soak`], [`fuzz`], [`bench`], [`demo`]: one command each, with its
//!   options
//! - [`cargo`]: cargo's command lines, and what it knows about this workspace
//! - [`privilege`]: how to become root
//! - [`step`]: commands run one after the other, timed
//!
//! Deliberately absent: dependencies that take long to compile or need a system library.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks to its user")]

mod bench;
mod build;
mod cargo;
mod demo;
mod fuzz;
mod lint;
mod privilege;
mod run;
mod setup;
mod soak;
mod step;
mod test;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Result, bail};

const HELP: &str = "\
Usage: cargo xtask COMMAND [OPTIONS]

  setup   find what this machine lacks to build f2b, and install it
  build   build the agent with its eBPF program
  run     build and start the agent, as root: cargo xtask run -- -i eth0
  lint    formatting, and clippy on both sides of the kernel line
  test    lint, then all tests; those of the kernel side as root
  soak    the long forms of tests that CI runs in short ones
  fuzz    hostile input for the readers of configurations, expressions and logs
  bench   measurements beside what a user would pick instead: filter, source, packet
  demo    an attack and its ban, played in network namespaces

Every command sets the machine up first; with --no-install it stops where that would change anything.
`cargo xtask COMMAND --help` shows a command's options.";

fn main() -> ExitCode {
    match dispatch(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let command = args.next().unwrap_or_default();
    let args = args.collect();
    match command.to_string_lossy().as_ref() {
        "setup" => options(setup::Setup::from_vec(args)).run(),
        "build" => options(build::Build::from_vec(args)).run(),
        "run" => options(run::Run::from_vec(args)).run(),
        "lint" => options(lint::Lint::from_vec(args)).run(),
        "test" => options(test::Test::from_vec(args)).run(),
        "soak" => options(soak::Soak::from_vec(args)).run(),
        "fuzz" => options(fuzz::Fuzz::from_vec(args)).run(),
        "bench" => options(bench::Bench::from_vec(args)).run(),
        "demo" => options(demo::Demo::from_vec(args)).run(),
        "help" | "-h" | "--help" => {
            println!("{HELP}");
            Ok(())
        }
        "" => bail!("which command?\n\n{HELP}"),
        other => bail!("there is no command `{other}`\n\n{HELP}"),
    }
}

/// The options, or the end of the process: with the help that was asked for, or with what is wrong about them.
fn options<T>(parsed: xflags::Result<T>) -> T {
    parsed.unwrap_or_else(|error| error.exit())
}
