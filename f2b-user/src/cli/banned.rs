use anyhow::Result;

use super::{Global, print, unexpected};
use crate::control::{Answer, BanInfo, Request};

pub(super) fn run(global: &Global) -> Result<()> {
    match global.ask(&Request::Banned)? {
        None => Ok(()),
        Some(Answer::Banned { bans }) if bans.is_empty() => print("Nothing is banned.\n"),
        Some(Answer::Banned { bans }) => print(&table(&bans)),
        Some(other) => Err(unexpected(&other)),
    }
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
