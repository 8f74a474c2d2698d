//! Cargo's command lines, and what it knows about this workspace.

use std::{collections::HashMap, env, ffi::OsString, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use tinyjson::JsonValue;

use crate::privilege::Privilege;

/// The root of the checkout.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn cargo<const N: usize>(args: [&str; N]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).current_dir(ROOT).env("PATH", path());
    cargo
}

/// Cargo of another rustup toolchain.
pub(crate) fn of_toolchain(name: &str) -> Command {
    let mut rustup = Command::new("rustup");
    rustup.args(["run", name, "cargo"]).current_dir(ROOT);
    rustup
}

pub(crate) fn home() -> PathBuf {
    directory("CARGO_HOME", ".cargo")
}

/// What an environment variable says, else its default in the home directory.
pub(crate) fn directory(variable: &str, default: &str) -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default());
    env::var_os(variable).map_or_else(|| home().join(default), PathBuf::from)
}

/// As the shell finds it, or where cargo installs it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    env::split_paths(&path()).map(|directory| directory.join(name)).find(|program| program.exists())
}

/// `PATH`, with the directory of cargo's programs, which only rustup puts there.
fn path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    let programs = home().join("bin");
    if !env::split_paths(&path).any(|directory| directory == programs) {
        path.push(":");
        path.push(programs);
    }
    path
}

/// Builds a test of the agent as the present user and runs it as root.
pub(crate) fn test_as_root(name: &str) -> Result<Command> {
    as_root(cargo(["test", "--package", "f2b-user", "--test", name]), name)
}

/// Builds a bench of the agent as the present user and runs it as root.
pub(crate) fn bench_as_root(name: &str) -> Result<Command> {
    as_root(cargo(["bench", "--package", "f2b-user", "--bench", name]), name)
}

/// Has cargo run what it builds as root.
fn as_root(mut cargo: Command, name: &str) -> Result<Command> {
    match Privilege::current() {
        Privilege::Root => {}
        Privilege::Sudo => {
            cargo.args(["--config", r#"target."cfg(unix)".runner = "sudo --preserve-env""#]);
        }
        Privilege::None => bail!("`{name}` needs root, and there is no sudo"),
    }
    Ok(cargo)
}

pub(crate) struct Workspace {
    pub(crate) target_directory: PathBuf,
    /// The agent's tests with `test = false`: they need root, so plain `cargo test` leaves them out.
    pub(crate) privileged_tests: Vec<String>,
}

impl Workspace {
    pub(crate) fn load() -> Result<Self> {
        let output = cargo(["metadata", "--no-deps", "--format-version", "1"]).output().context("cargo")?;
        ensure!(
            output.status.success(),
            "cargo metadata: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Self::parse(&String::from_utf8_lossy(&output.stdout)).context("cargo metadata is not as expected")
    }

    fn parse(metadata: &str) -> Option<Self> {
        let metadata: JsonValue = metadata.parse().ok()?;
        let metadata: &Object = metadata.get()?;
        let agent = list(metadata, "packages").find(|package| text(package, "name") == Some("f2b-user"))?;
        let left_out = list(agent, "targets").filter(|target| {
            let kinds = target.get("kind").and_then(JsonValue::get::<Vec<JsonValue>>);
            let is_test = kinds.is_some_and(|kinds| kinds.contains(&JsonValue::from("test".to_owned())));
            is_test && target.get("test") == Some(&JsonValue::from(false))
        });
        Some(Self {
            privileged_tests: left_out.filter_map(|target| text(target, "name")).map(str::to_owned).collect(),
            target_directory: text(metadata, "target_directory")?.into(),
        })
    }
}

pub(crate) type Object = HashMap<String, JsonValue>;

fn text<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    object.get(key)?.get::<String>().map(String::as_str)
}

fn list<'a>(object: &'a Object, key: &str) -> impl Iterator<Item = &'a Object> {
    let items = object.get(key).and_then(JsonValue::get::<Vec<JsonValue>>);
    items.into_iter().flatten().filter_map(JsonValue::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_tests_left_out_by_plain_cargo_test_are_the_privileged_ones() {
        let metadata = r#"{"packages": [
            {"name": "xtask", "targets": [{"kind": ["test"], "name": "other", "test": false}]},
            {"name": "f2b-user", "targets": [
                {"kind": ["lib"], "name": "f2b", "test": true},
                {"kind": ["test"], "name": "agent", "test": true},
                {"kind": ["bench"], "name": "flood", "test": false},
                {"kind": ["test"], "name": "xdp", "test": false},
                {"kind": ["test"], "name": "demo", "test": false}]}],
            "target_directory": "/elsewhere/target"}"#;
        let workspace = Workspace::parse(metadata).unwrap();
        assert_eq!(workspace.privileged_tests, ["xdp", "demo"]);
        assert_eq!(workspace.target_directory, PathBuf::from("/elsewhere/target"));
    }
}
