use anyhow::Result;

use super::Global;
use crate::control::{Answer, BanInfo, Request};

pub(super) fn run(global: &Global) -> Result<()> {
    global.ask(&Request::Banned, |answer| match answer {
        Answer::Banned { bans } if bans.is_empty() => Some("Nothing is banned.\n".into()),
        Answer::Banned { bans } => Some(table(bans)),
        _ => None,
    })?;
    Ok(())
}

fn table(bans: &[BanInfo]) -> String {
    let mut rows = vec![["ADDRESS".to_owned(), "UNTIL".to_owned(), "DROPPED".to_owned(), "JAIL".to_owned()]];
    rows.extend(bans.iter().map(|ban| {
        [ban.address.to_string(), ban.until.to_string(), ban.packets.to_string(), ban.jails.join(", ")]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let (address, until, packets) = (width(0), width(1), width(2));
    rows.iter().map(|[a, u, p, jail]| format!("{a:address$}  {u:until$}  {p:>packets$}  {jail}\n")).collect()
}
