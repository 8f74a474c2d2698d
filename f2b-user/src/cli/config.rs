use std::{fmt::Write as _, path::PathBuf, slice};

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{Global, print};
use crate::config::{self, ActionOptions, JailOptions, Resolved, dialect};

#[derive(Args, Debug)]
pub(super) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the jails with all of their options, as the files resolve to them
    Show,
    /// Say what is wrong with the configuration
    Check,
    /// Write the built-in configuration into a directory, for editing
    Init {
        /// The directory; it is created if there is none
        dir: PathBuf,
    },
}

impl Config {
    pub(super) fn run(&self, global: &Global) -> Result<()> {
        match &self.command {
            Command::Show => show(global),
            Command::Check => check(global),
            Command::Init { dir } => {
                let files = config::init(dir)?;
                print(&files.iter().map(|file| format!("{}\n", file.display())).collect::<String>())
            }
        }
    }
}

fn show(global: &Global) -> Result<()> {
    let resolved = Resolved::load(global.config.as_deref())?;
    for sentence in resolved.left_out.iter().chain(&resolved.warnings) {
        super::complain(sentence);
    }
    if global.json {
        let jails: Map<_, _> = resolved.jails.iter().map(|jail| (jail.name.clone(), json(jail))).collect();
        return print(&format!("{}\n", serde_json::to_string_pretty(&json!({ "jails": jails }))?));
    }
    print(&resolved.jails.iter().map(text).collect::<Vec<_>>().join("\n"))
}

fn check(global: &Global) -> Result<()> {
    let resolved = Resolved::load(global.config.as_deref())?;
    let runs = config::Config::prepare(&resolved);
    if global.json {
        let value = json!({
            "origin": resolved.origin,
            "jails": resolved.jails.iter().map(|jail| &jail.name).collect::<Vec<_>>(),
            "runs": runs.jails.iter().map(|jail| &jail.name).collect::<Vec<_>>(),
            "warnings": runs.warnings,
        });
        return print(&format!("{}\n", serde_json::to_string_pretty(&value)?));
    }
    let mut out = String::new();
    for warning in &runs.warnings {
        writeln!(out, "{warning}")?;
    }
    let (read, run) = (resolved.jails.len(), runs.jails.len());
    writeln!(out, "{}: {read} jails are enabled and in order, {run} of them can run", resolved.origin)?;
    print(&out)
}

/// One jail as the contract of `config show --json` has it.
fn json(jail: &JailOptions) -> Value {
    let texts = |values: &[dialect::Value]| values.iter().map(|value| value.text.clone()).collect::<Vec<_>>();
    let text = |value: &Option<dialect::Value>| value.as_ref().map(|value| value.text.clone());
    let mut object = json!({
        "enabled": true,
        "backend": jail.backend,
        "filter": jail.filter,
        "prefregex": text(&jail.prefregex),
        "failregex": texts(&jail.failregex),
        "ignoreregex": texts(&jail.ignoreregex),
        "datepattern": text(&jail.datepattern),
        "maxlines": jail.maxlines,
        "journalmatch": jail.journalmatch.iter().map(|words| words.join(" ")).collect::<Vec<_>>(),
        "logpath": logpath(jail),
        "maxretry": jail.maxretry,
        "findtime": seconds(jail.findtime),
        "bantime": seconds(jail.bantime),
        "ignoreself": jail.ignoreself,
        "ignoreip": jail.ignoreip,
        "usedns": jail.usedns,
        "actions": jail.actions.iter().map(action).collect::<Vec<_>>(),
    });
    if let Some(object) = object.as_object_mut() {
        for (option, value) in jail.others() {
            object.insert(option.to_owned(), value.into());
        }
    }
    object
}

/// The files that there are now, in fail2ban's order of lines; with ` tail` where reading starts at the end.
fn logpath(jail: &JailOptions) -> Vec<String> {
    let files = jail.logpath.iter().flat_map(|line| {
        let from = if line.from == "head" { String::new() } else { format!(" {}", line.from) };
        line.files().into_iter().map(move |file| format!("{}{from}", file.display()))
    });
    files.collect()
}

/// A whole number where it is one.
fn seconds(seconds: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and far from the limits")]
    if seconds.fract() == 0.0 && seconds.abs() < 1e15 { json!(seconds as i64) } else { json!(seconds) }
}

fn action(action: &ActionOptions) -> Value {
    let value = |(option, value): (&String, &dialect::Value)| (option.clone(), json!(value.text));
    let mut object: Map<_, _> = action.properties.iter().map(value).collect();
    // A parameter `name` is the jail's name, which the action's own name must not hide.
    if let Some(name) = object.insert("name".into(), json!(action.name)) {
        object.insert("parameter.name".into(), name);
    }
    if let Some(path) = &action.python {
        object.insert("python".into(), json!(path));
    }
    Value::Object(object)
}

/// One jail in the dialect: what is shown could be a jail's section.
fn text(jail: &JailOptions) -> String {
    let mut out = format!("[{}]\n", jail.name);
    let mut line = |option: &str, values: &[String]| {
        if !values.is_empty() {
            let indent = " ".repeat(option.len() + 3);
            out.push_str(&format!("{option} = {}\n", values.join(&format!("\n{indent}"))));
        }
    };
    let texts = |values: &[dialect::Value]| values.iter().map(|value| value.text.clone()).collect::<Vec<_>>();
    let lines = |value: &Option<dialect::Value>| texts(value.as_slice());
    line("backend", slice::from_ref(&jail.backend));
    line("filter", jail.filter.as_slice());
    line("prefregex", &lines(&jail.prefregex));
    line("failregex", &texts(&jail.failregex));
    line("ignoreregex", &texts(&jail.ignoreregex));
    line("datepattern", &lines(&jail.datepattern));
    line("maxlines", &[jail.maxlines.to_string()]);
    line("journalmatch", &jail.journalmatch.iter().map(|words| words.join(" ")).collect::<Vec<_>>());
    line("logpath", &logpath(jail));
    line("maxretry", &[jail.maxretry.to_string()]);
    line("findtime", &[jail.findtime.to_string()]);
    line("bantime", &[jail.bantime.to_string()]);
    line("ignoreself", &[jail.ignoreself.to_string()]);
    line("ignoreip", &jail.ignoreip);
    line("usedns", slice::from_ref(&jail.usedns));
    for (option, value) in jail.others() {
        line(option, &[value.to_owned()]);
    }
    line("action", &jail.actions.iter().map(|action| action.name.clone()).collect::<Vec<_>>());
    out
}
