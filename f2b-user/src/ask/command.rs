//! `ignorecommand`: a shell command that says whether a failure is ignored. It is told of it as an action is told of a ban,
//! and is run as an action's commands are (`Filter._inIgnoreIPList`).

use std::{net::IpAddr, time::Duration};

use tracing::error;

use super::Waiting;
use crate::{
    action::{Info, JailInfo, Shell, fill, look_up},
    ticket::{Length, Ticket},
};

/// fail2ban's (`Utils.executeCmd`).
const TIMEOUT: Duration = Duration::from_secs(60);

/// What is known of a failure of `ip` before a ban.
pub(super) fn info(waiting: &Waiting, ip: IpAddr) -> Info {
    let Waiting { jail, failure, time, .. } = waiting;
    let fields = failure.fields.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    let ticket = Ticket {
        fid: failure.fid.clone(),
        bancount: 0,
        failures: 1,
        matches: failure.matches.clone(),
        fields: fields.collect(),
        ..Ticket::by_hand(jail, ip.into(), *time, Length::Forever)
    };
    Info::of(ticket, JailInfo { name: jail.clone(), ..JailInfo::default() })
}

/// Runs the command: whether it says that the failure is ignored. One that fails, or that does not end, says nothing.
pub(super) async fn is_ignored(command: &str, info: &Info) -> bool {
    let info = look_up(command, info).await;
    match Shell.run(&fill(command, &info), TIMEOUT, &[0, 1]).await {
        Some(0) => true,
        Some(1) => false,
        _ => {
            error!(
                jail = info.jail.name,
                ip = info.id(),
                "ignorecommand has failed; the failure is not ignored"
            );
            false
        }
    }
}
