//! Options that nobody reads and whose names are close to one with a meaning. fail2ban passes over them in silence, and
//! the user wonders why `maxretries = 3` does nothing.

use super::{
    dialect::{Tree, Value},
    jail::{FIELDS, FILTER_OPTIONS, OTHERS},
};

/// What fail2ban's own files give a meaning, by referring to it; not every tree has them.
const VARIABLES: [&str; 9] =
    ["mode", "banaction", "banaction_allports", "port", "protocol", "chain", "destemail", "sender", "mta"];

/// A sentence for each misspelt one of the `written` options of `section`.
pub(super) fn warnings(tree: &Tree, section: &str, written: &[(String, Value)]) -> Vec<String> {
    let misspelt = written.iter().filter_map(|(option, value)| {
        let meant = meant(option).filter(|_| !tree.mentions(option))?;
        Some(format!(
            "{}: {option} in [{section}] has no meaning, and nothing refers to it; did you mean {meant}?",
            value.place
        ))
    });
    misspelt.collect()
}

/// The option whose name is close to this one, which is none.
fn meant(written: &str) -> Option<&'static str> {
    let jail = FIELDS.iter().chain(&OTHERS).map(|(option, _)| *option);
    let known = || jail.clone().chain(FILTER_OPTIONS).chain(VARIABLES);
    // `action_…` are the actions to choose from.
    if known().any(|option| option == written) || written.starts_with("action_") || written.contains('/') {
        return None;
    }
    let distance = |option: &'static str| (strsim::osa_distance(written, option), option);
    let limit = (written.len() / 3).min(3);
    let nearest = known().map(distance).filter(|(distance, _)| *distance <= limit).min()?;
    Some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_are_told_from_variables() {
        for (written, expected) in [
            ("maxretries", Some("maxretry")),
            ("max_retry", Some("maxretry")),
            ("ban_time", Some("bantime")),
            ("bantiem", Some("bantime")),
            ("enable", Some("enabled")),
            ("ignoreips", Some("ignoreip")),
            ("bantime.increments", Some("bantime.increment")),
            ("failregexp", Some("failregex")),
            ("backends", Some("backend")),
            ("maxretry", None),
            ("banactions", Some("banaction")),
            ("mode", None),
            ("port", None),
            ("protocol", None),
            ("chain", None),
            ("mta", None),
            ("sender", None),
            ("destemail", None),
            ("banaction", None),
            ("banaction_allports", None),
            ("action_", None),
            ("action_mw", None),
            ("action_mwl", None),
            ("fail2ban_agent", None),
            ("sshd_log", None),
            ("sshd_backend", None),
            ("known/maxretries", None),
        ] {
            assert_eq!(meant(written), expected, "{written}");
        }
    }
}
