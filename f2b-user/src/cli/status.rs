use anyhow::Result;
use clap::Args;

use super::Global;
use crate::control::{self, Answer, JailStatus, Request};

#[derive(Args, Debug)]
pub(super) struct Status {
    /// One jail's failures and bans
    jail: Option<String>,
}

impl Status {
    pub(super) fn run(self, global: &Global) -> Result<()> {
        let request = self.jail.map_or(Request::Status, |jail| Request::JailStatus { jail });
        global.ask(&request, |answer| match answer {
            Answer::Status(status) => Some(agent(status)),
            Answer::JailStatus(status) => Some(jail(status)),
            _ => None,
        })?;
        Ok(())
    }
}

/// fail2ban's shape, with what is new in f2b below it.
fn agent(status: &control::Status) -> String {
    let packets = &status.packets;
    let interfaces: Vec<_> = status
        .interfaces
        .iter()
        .map(|interface| format!("{} ({})", interface.name, interface.mode))
        .collect();
    let interfaces =
        if status.dry_run { "none (dry run: nothing is enforced)".into() } else { interfaces.join(", ") };
    format!(
        "Status\n\
         |- Number of jail:\t{}\n\
         |- Jail list:\t{}\n\
         |- Interfaces:\t{interfaces}\n\
         |- Banned:\t{} of {} that fit\n\
         `- Packets:\t{} dropped, {} passed\n",
        status.jails.len(),
        status.jails.join(", "),
        status.banned,
        status.capacity,
        packets.dropped,
        packets.passed(),
    )
}

/// fail2ban's shape for a journal-fed jail, to the byte (`client/beautifier.py`).
fn jail(status: &JailStatus) -> String {
    let banned: Vec<_> = status.banned.iter().map(ToString::to_string).collect();
    format!(
        "Status for the jail: {}\n\
         |- Filter\n\
         |  |- Currently failed:\t{}\n\
         |  |- Total failed:\t{}\n\
         |  `- Journal matches:\t{}\n\
         `- Actions\n   \
            |- Currently banned:\t{}\n   \
            |- Total banned:\t{}\n   \
            `- Banned IP list:\t{}\n",
        status.jail,
        status.currently_failed,
        status.total_failed,
        status.journal_matches,
        status.currently_banned,
        status.total_banned,
        banned.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jails_status_has_fail2bans_shape() {
        let status = JailStatus {
            jail: "sshd".into(),
            currently_failed: 1,
            total_failed: 6,
            journal_matches: "_SYSTEMD_UNIT=sshd.service".into(),
            currently_banned: 2,
            total_banned: 3,
            banned: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        };
        assert_eq!(
            jail(&status),
            "Status for the jail: sshd\n|- Filter\n|  |- Currently failed:\t1\n|  |- Total failed:\t6\n\
             |  `- Journal matches:\t_SYSTEMD_UNIT=sshd.service\n`- Actions\n   |- Currently banned:\t2\n   \
             |- Total banned:\t3\n   `- Banned IP list:\t192.0.2.1 2001:db8::1\n"
        );
    }
}
