use anyhow::Result;
use clap::Args;

use super::Global;
use crate::{
    control::{self, Answer, JailStatus, Packets, Request},
    xdp::{InterfaceStatus, ScopeStatus},
};

/// Per cent of the map from which it counts as nearly full.
const HIGH_WATER: f64 = 80.0;

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
    let mut out = format!(
        "Status\n|- Number of jail:\t{}\n|- Jail list:\t{}\n",
        status.jails.len(),
        status.jails.join(", "),
    );
    for sentence in &status.left_out {
        out.push_str(&format!("|- Left out:\t{sentence}\n"));
    }
    if status.dry_run {
        out.push_str("|- Interfaces:\tnone (dry run: nothing is enforced)\n");
    } else {
        let interfaces: Vec<_> = status.interfaces.iter().map(interface).collect();
        out.push_str(&format!("|- Interfaces:\t{}\n", interfaces.join(", ")));
        for interface in &status.interfaces {
            let InterfaceStatus { name, packets, reason, .. } = interface;
            let (dropped, passed) = (packets.dropped, packets.passed());
            out.push_str(&format!("|  |- {name}:\t{dropped} dropped, {passed} passed\n"));
            if let Some(reason) = reason {
                out.push_str(&format!("|  |  `- Why so:\t{reason}\n"));
            }
        }
    }
    let Packets { dropped, lapsed, other_ports, allowed, not_ip, malformed, .. } = status.packets;
    let share = status.banned.saturating_sub(status.prefixes) as f64 / f64::from(status.capacity) * 100.0;
    let high = if share >= HIGH_WATER { "; raise max_bans in f2b.local" } else { "" };
    let refused = match status.refused {
        0 => String::new(),
        refused => {
            format!("|- Not banned:\t{refused} since the start, because the kernel did not take them\n")
        }
    };
    let prefixes = match status.prefixes {
        0 => String::new(),
        prefixes => format!(", {prefixes} of them prefixes"),
    };
    out.push_str(&format!(
        "|- Banned:\t{}{prefixes}; {} addresses fit ({share:.0} % full{high})\n",
        status.banned, status.capacity,
    ));
    out.push_str(&refused);
    out.push_str("|- Ports:\n");
    for ScopeStatus { ports, packets, bytes, .. } in &status.scopes {
        out.push_str(&format!("|  |- {ports}:\t{packets} packets dropped, {bytes} bytes\n"));
    }
    out.push_str(&format!(
        "`- Packets:\t{dropped} dropped, {} passed (ban over: {lapsed}, other ports: {other_ports}, allowed: {allowed}, \
         not IP: {not_ip}, malformed: {malformed})\n",
        status.packets.passed(),
    ));
    out
}

/// `eth0 (native)`.
fn interface(interface: &InterfaceStatus) -> String {
    let mode = interface.mode.map_or_else(|| "not protected".into(), |mode| mode.to_string());
    format!("{} ({mode})", interface.name)
}

/// fail2ban's shape for a journal-fed jail, to the byte (`client/beautifier.py`), unless lines were over the budget.
fn jail(status: &JailStatus) -> String {
    let over_budget = match status.over_budget {
        0 => String::new(),
        lines => format!("|  |- Lines over budget:\t{lines} (too long or too expensive to match in full)\n"),
    };
    let source = if status.journal_matches.is_empty() {
        format!("File list:\t{}", status.files.join(" "))
    } else {
        format!("Journal matches:\t{}", status.journal_matches)
    };
    let banned: Vec<_> = status.banned.iter().map(ToString::to_string).collect();
    format!(
        "Status for the jail: {}\n\
         |- Filter\n\
         |  |- Currently failed:\t{}\n\
         |  |- Total failed:\t{}\n\
         {over_budget}\
         |  `- {source}\n\
         `- Actions\n   \
            |- Currently banned:\t{}\n   \
            |- Total banned:\t{}\n   \
            `- Banned IP list:\t{}\n",
        status.jail,
        status.currently_failed,
        status.total_failed,
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
        let mut status = JailStatus {
            jail: "sshd".into(),
            currently_failed: 1,
            total_failed: 6,
            journal_matches: "_SYSTEMD_UNIT=sshd.service".into(),
            files: Vec::new(),
            over_budget: 0,
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
        status.over_budget = 7;
        let over_budget = "\n|  |- Lines over budget:\t7 (too long or too expensive to match in full)\n";
        assert!(jail(&status).contains(over_budget));
        status.journal_matches.clear();
        status.files = vec!["/var/log/auth.log".into(), "/var/log/secure".into()];
        assert!(jail(&status).contains("\n|  `- File list:\t/var/log/auth.log /var/log/secure\n"));
    }
}
