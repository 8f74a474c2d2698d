//! The command line, one file a command. `main` decides the exit code, once.

mod ban;
mod banned;
mod config;
mod detach;
mod import;
mod metrics;
mod regex;
mod reload;
mod run;
mod status;
mod top;
mod unban;

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, Error, Result, anyhow};
use clap::{Args, Parser, Subcommand};

use crate::control::{Answer, DEFAULT_SOCKET, Request, client};

/// fail2ban, with its bans enforced by eBPF: banned addresses are dropped in the network driver.
#[derive(Debug, Parser)]
#[command(name = "f2b", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Accepted by every command, before or after its name.
#[derive(Args, Clone, Debug)]
struct Global {
    /// The agent's control socket
    #[arg(long, global = true, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Configuration directory [default: /etc/f2b, else /etc/fail2ban, else built in]
    #[arg(short = 'c', global = true, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent: read the journal, ban, enforce
    Run(run::Run),
    /// Show what the agent does, or what one jail does
    Status(status::Status),
    /// List all bans
    Banned,
    /// Show what is dropped and passed a second, and the bans that drop most
    Top(top::Top),
    /// Ban addresses in a jail's name, for its bantime
    Ban(ban::Ban),
    /// Free addresses, whoever banned them
    Unban(unban::Unban),
    /// Take over the bans of a fail2ban: with an agent that runs, or for the one that starts next
    Import(import::Import),
    /// Print what is counted, as Prometheus reads it
    Metrics,
    /// Make the agent read its configuration again
    Reload,
    /// Show or check the configuration, or write the built-in one
    Config(config::Config),
    /// Show what a filter finds in a log
    Regex(Box<regex::Command>),
    /// Remove the XDP programs and all bans from the kernel
    Detach(detach::Detach),
}

/// Parses the command line, runs the command, prints its error. The binary's own name decides whose face it has.
pub fn main() -> ExitCode {
    let program = env::args_os().next().unwrap_or_default();
    if regex::is_fail2ban_regex(program.as_ref()) {
        return regex::fail2ban::main(env::args_os());
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        // `f2b banned | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(command) => command.run(cli.global),
        Command::Status(command) => command.run(&cli.global),
        Command::Banned => banned::run(&cli.global),
        Command::Top(command) => command.run(&cli.global),
        Command::Ban(command) => command.run(&cli.global),
        Command::Unban(command) => command.run(&cli.global),
        Command::Import(command) => command.run(&cli.global),
        Command::Metrics => metrics::run(&cli.global),
        Command::Reload => reload::run(&cli.global),
        Command::Config(command) => command.run(&cli.global),
        Command::Regex(command) => command.run(&cli.global),
        Command::Detach(command) => command.run(&cli.global),
    }
}

impl Global {
    /// Asks the agent and prints its answer: with `--json` as it is, else as `text` puts it (`None` for an answer to
    /// another question).
    fn ask(&self, request: &Request, text: impl FnOnce(&Answer) -> Option<String>) -> Result<Answer> {
        let answer = client::ask(&self.socket, request)?;
        let text = text(&answer).ok_or_else(|| something_else(&answer))?;
        print(&if self.json { format!("{}\n", serde_json::to_string_pretty(&answer)?) } else { text })?;
        Ok(answer)
    }
}

/// An answer to another question.
fn something_else(answer: &Answer) -> Error {
    anyhow!("the agent answers something else ({answer:?}); is it another version of f2b?")
}

fn print(text: &str) -> Result<()> {
    io::stdout().lock().write_all(text.as_bytes()).context("writing the output")
}

/// One sentence for the user, beside the output. When even stderr is gone, the exit code still tells.
fn complain(sentence: &str) {
    drop(writeln!(io::stderr(), "f2b: {sentence}"));
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
