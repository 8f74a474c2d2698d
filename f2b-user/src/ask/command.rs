//! `ignorecommand`: a shell command that says whether a failure is ignored.
//!
//! What stands in a log never gets into the command's text: the address, which is one, is written into it; everything
//! else travels as a variable of the environment, and only a reference to it is written.

use std::{net::IpAddr, process::Stdio, sync::LazyLock, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use regex::{Captures, Regex};
use tokio::{process::Command, time::timeout};
use tracing::error;

use super::Waiting;

/// fail2ban's (`Utils.executeCmd`).
const TIMEOUT: Duration = Duration::from_secs(60);

#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<([\w\-.]+)>").unwrap());

/// A command for one failure.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Filled {
    pub(super) text: String,
    pub(super) variables: Vec<(String, String)>,
}

/// Writes the failure of `ip` into a command.
pub(super) fn fill(command: &str, waiting: &Waiting, ip: IpAddr) -> Filled {
    let mut variables = Vec::new();
    let text = TAG.replace_all(command, |tag: &Captures<'_>| {
        let name = &tag[1];
        if matches!(name, "ip" | "family") {
            return value(name, waiting, ip).unwrap_or_default();
        }
        let Some(value) = value(name, waiting, ip) else { return tag[0].to_owned() };
        let name = name
            .strip_prefix("F-")
            .map_or_else(|| name.to_owned(), |name| format!("F_{}", name.to_lowercase()));
        let variable = format!("f2bV_{}", name.replace(['-', '.'], "_"));
        let reference = format!("${variable}");
        if !variables.iter().any(|(known, _)| *known == variable) {
            // The environment has no zero bytes.
            variables.push((variable, value.replace('\0', "")));
        }
        reference
    });
    Filled { text: text.into_owned(), variables }
}

/// Writes the failure of `ip` into the key of a cache.
pub(super) fn key(key: &str, waiting: &Waiting, ip: IpAddr) -> String {
    let fill = |tag: &Captures<'_>| value(&tag[1], waiting, ip).unwrap_or_else(|| tag[0].to_owned());
    TAG.replace_all(key, fill).into_owned()
}

/// What a tag says, if it is known before a ban.
fn value(tag: &str, waiting: &Waiting, ip: IpAddr) -> Option<String> {
    let failure = &waiting.failure;
    Some(match tag {
        "ip" => ip.to_string(),
        "fid" => failure.fid.clone(),
        "family" => if ip.is_ipv4() { "inet4" } else { "inet6" }.to_owned(),
        "failures" => "1".to_owned(),
        "time" => failure.time.to_string(),
        "matches" => failure.matches.join("\n"),
        _ => {
            let name = tag.strip_prefix("F-")?;
            failure.fields.get(&crate::filter::group_of_tag(name)).unwrap_or_default().to_owned()
        }
    })
}

/// Runs the command: whether it says that the failure is ignored. One that fails, or that does not end, says nothing.
pub(super) async fn is_ignored(jail: &str, ip: IpAddr, command: &Filled) -> bool {
    let mut shell = Command::new("/bin/sh");
    shell.arg("-c").arg(&command.text).envs(command.variables.iter().cloned());
    shell
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => {
            error!(jail, %ip, "ignorecommand cannot be started: {error}");
            return false;
        }
    };
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let status = match timeout(TIMEOUT, child.wait()).await {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => {
            error!(jail, %ip, "ignorecommand: {error}");
            return false;
        }
        Err(_) => {
            error!(jail, %ip, "ignorecommand timed out after {} seconds", TIMEOUT.as_secs());
            if let Some(Err(error)) = group.map(|group| killpg(group, Signal::SIGKILL)) {
                error!(jail, %ip, "ignorecommand cannot be ended: {error}");
            }
            return false;
        }
    };
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => {
            error!(jail, %ip, "ignorecommand failed ({status}); it is not ignored");
            false
        }
    }
}
