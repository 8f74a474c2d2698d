//! Units go by several names: the jail says `sshd.service`, Debian's journal says `ssh.service`. Here is decided which
//! names a jail's unit is followed by.

use std::{fs, path::Path, process::Command};

/// The unit of fail2ban, and ours: who follows the one for who was banned (recidive) means the agent, whatever the unit
/// is called that it runs in. What fail2ban logged before the switch counts, too.
const AGENTS: [&str; 2] = ["fail2ban.service", "f2b.service"];

/// What `_SYSTEMD_UNIT=` is followed by in place of one name, and how that was found out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolved {
    /// At least one name.
    pub names: Vec<String>,
    pub how: How,
}

/// How a unit's names were found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// systemd knows the unit and named it.
    Systemd,
    /// No systemd to ask: the journal holds entries of these units.
    Journal,
    /// It is the agent's own.
    Agent,
    /// Nobody knows yet: every name it may have is followed.
    Guess,
}

/// The names to follow for `unit`: those that systemd says (`None` without systemd), else those of its possible names
/// that the journal holds, else all of them. With each name, its instances that the journal holds: systemd knows
/// `postfix.service` on Debian, but what logs is `postfix@-.service`.
pub fn resolve(unit: &str, from_systemd: Option<&[String]>, in_journal: &[String]) -> Resolved {
    if AGENTS.contains(&unit) {
        let known = from_systemd.into_iter().flatten().cloned();
        let mut names: Vec<_> =
            AGENTS.iter().map(|name| (*name).to_owned()).chain(known).chain(own_unit()).collect();
        names.sort_unstable();
        names.dedup();
        return Resolved { names, how: How::Agent };
    }
    let held = |names: &[String]| -> Vec<String> {
        let held = in_journal.iter().filter(|held| names.iter().any(|name| is_or_instance(held, name)));
        held.cloned().collect()
    };
    if let Some(names) = from_systemd
        && !names.is_empty()
    {
        let instances = held(names).into_iter().filter(|held| !names.contains(held));
        return Resolved { names: names.iter().cloned().chain(instances).collect(), how: How::Systemd };
    }
    let possible = possible_names(unit);
    let held = held(&possible);
    if held.is_empty() {
        Resolved { names: possible, how: How::Guess }
    } else {
        Resolved { names: held, how: How::Journal }
    }
}

/// The name itself, then with or without the daemon's `d`: distributions differ in just that for ssh, cron, http, ….
fn possible_names(unit: &str) -> Vec<String> {
    let Some((stem, kind)) = unit.rsplit_once('.') else {
        return vec![unit.to_owned()];
    };
    let other = stem.strip_suffix('d').map_or_else(|| format!("{stem}d"), str::to_owned);
    vec![unit.to_owned(), format!("{other}.{kind}")]
}

/// Whether `held` is the unit `name` or one of its instances (`postfix@-.service` of `postfix.service`), except those
/// that a socket makes for one connection each: there are thousands, and none of them logs again. Those to come are
/// found by their slice or by the program's name.
fn is_or_instance(held: &str, name: &str) -> bool {
    let instance_of = |(stem, kind): (&str, &str)| {
        let rest = held.strip_prefix(stem)?.strip_prefix('@')?;
        rest.strip_suffix(kind)?.strip_suffix('.')
    };
    held == name
        || name.rsplit_once('.').and_then(instance_of).is_some_and(|instance| !is_connection(instance))
}

/// How systemd names the instance for a connection to a socket with `Accept=yes`: a number, then both ends
/// (`7-192.0.2.1:22-198.51.100.9:40001`), or the process and the user at the other end (`7-4711-0`).
fn is_connection(instance: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let [number, from, to] = instance.split('-').collect::<Vec<_>>()[..] else {
        return false;
    };
    is_number(number) && (from.contains(':') && to.contains(':') || is_number(from) && is_number(to))
}

/// The unit that this process runs in, if a service manager started it.
fn own_unit() -> Option<String> {
    let cgroups = fs::read_to_string("/proc/self/cgroup").ok()?;
    unit_in(&cgroups)
}

/// Reads `/proc/PID/cgroup`: the last part that is a service.
fn unit_in(cgroups: &str) -> Option<String> {
    let mut parts =
        cgroups.lines().filter_map(|line| line.rsplit(':').next()).flat_map(|path| path.rsplit('/'));
    parts.find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// All names that the running systemd knows for `unit`; `None` if there is no systemd or it does not know the unit.
pub fn ask_systemd(unit: &str) -> Option<Vec<String>> {
    // The directory that sd_booted(3) looks for.
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let output =
        Command::new("systemctl").args(["show", "--property=LoadState,Names", "--", unit]).output().ok()?;
    names_in(&String::from_utf8_lossy(&output.stdout))
}

/// Reads `systemctl show`'s answer.
fn names_in(answer: &str) -> Option<Vec<String>> {
    let property = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    (property("LoadState")? == "loaded").then_some(())?;
    Some(property("Names")?.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn systemd_is_believed() {
        let known = names(&["ssh.service", "sshd.service"]);
        let resolved = resolve("sshd.service", Some(&known), &names(&["other.service"]));
        assert_eq!(resolved, Resolved { names: known, how: How::Systemd });
    }

    #[test]
    fn instances_that_have_logged_are_followed_as_well() {
        let journal = names(&["postfix@-.service", "postfix@out.service", "postfix-x.service"]);
        let known = names(&["postfix.service"]);
        let expected = names(&["postfix.service", "postfix@-.service", "postfix@out.service"]);
        assert_eq!(resolve("postfix.service", Some(&known), &journal).names, expected);
    }

    #[test]
    fn connections_are_no_instances_to_follow() {
        let journal = names(&[
            "postgresql@15-main.service",
            "sshd@0-192.0.2.1:22-198.51.100.9:40001.service",
            "sshd@1-[2001:db8::1]:22-[2001:db8::2]:40001.service",
            "sshd@2-4711-0.service",
        ]);
        let postgresql = resolve("postgresql.service", None, &journal);
        assert_eq!(postgresql.names, names(&["postgresql@15-main.service"]));
        assert_eq!(resolve("sshd.service", None, &journal).how, How::Guess);
    }

    #[test]
    fn without_systemd_the_journal_tells() {
        let journal = names(&["cron.service", "ssh.service", "postfix@-.service"]);
        let sshd = resolve("sshd.service", None, &journal);
        assert_eq!(sshd, Resolved { names: names(&["ssh.service"]), how: How::Journal });
        assert_eq!(resolve("postfix.service", None, &journal).names, names(&["postfix@-.service"]));
        assert_eq!(resolve("crond.service", None, &journal).names, names(&["cron.service"]));
    }

    #[test]
    fn with_neither_every_possible_name_is_followed() {
        let resolved = resolve("sshd.service", None, &names(&["cron.service", "sshd-keygen.service"]));
        assert_eq!(resolved, Resolved { names: names(&["sshd.service", "ssh.service"]), how: How::Guess });
    }

    #[test]
    fn the_agents_unit_goes_by_both_names() {
        for unit in AGENTS {
            let resolved = resolve(unit, Some(&names(&["fail2ban.service", "alias.service"])), &[]);
            for name in ["f2b.service", "fail2ban.service", "alias.service"] {
                assert!(resolved.names.iter().any(|known| known == name), "{unit}: {resolved:?}");
            }
        }
        assert_eq!(unit_in("0::/system.slice/guard.service/sub\n"), Some("guard.service".into()));
        assert_eq!(unit_in("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }

    #[test]
    fn systemctl_answers_are_read() {
        let loaded = "LoadState=loaded\nNames=ssh.service sshd.service\n";
        assert_eq!(names_in(loaded), Some(names(&["ssh.service", "sshd.service"])));
        assert_eq!(names_in("Names=sshd.service\nLoadState=not-found\n"), None);
        assert_eq!(names_in(""), None);
    }
}
