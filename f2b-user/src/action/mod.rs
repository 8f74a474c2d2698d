//! fail2ban's actions but for firewalls': mails, reports, web hooks, files. They run beside the bans, never in front of
//! one.
//!
//! - `info`: what an action is told about a ban
//! - `fill`: a command and what a ban tells → what the shell gets
//! - `shell`: runs it
//! - `command`: one action that runs commands: what it has begun, its repair
//! - `smtp`: fail2ban's `smtp.py`
//! - `jail`: the actions of one jail
//! - `queue`: the thread that runs them: in order for each address, side by side for different ones, bounded in memory
//!
//! When the agent stops, bans stay in the kernel, and what actions made of them stays, too: nothing is unbanned. Only
//! what an action has begun is ended: `actionflush` where there is one, then `actionstop`. The next agent starts the
//! actions and repeats its bans to them (`<restored>` is 1), but for those that say `norestored`, as mails do. So a restart
//! costs each jail at most two commands at its end, and no mail for each ban (fail2ban unbans each address, then bans it
//! again). Of a ban that ended while no agent ran, actions are told when the next one starts: a firewall elsewhere would
//! keep it for ever. Not those with `actionflush`, which kept nothing, nor those that say `norestored`.

mod command;
mod fill;
mod host;
mod info;
mod jail;
mod queue;
mod shell;
mod smtp;

pub use self::{
    command::CommandAction,
    fill::{Script, fill, fill_plain},
    host::look_up,
    info::{Info, JailInfo},
    jail::End,
    queue::{Actions, Merge},
    shell::{Execute, Shell},
};
