//! The configuration: fail2ban's dialect as written → the checked settings of every jail.
//!
//! [`dialect`] reads files, this module gives options their meaning. Nothing downstream checks a setting again.

pub mod dialect;
mod time;

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use self::dialect::{Sections, Tree, Value};
use crate::{
    filter::{Filter, FilterSettings},
    source::journal::JournalMatch,
};

/// Where a configuration is looked for when `-c` does not say.
pub const DEFAULT_DIR: &str = "/etc/f2b";

/// How long a ban lasts (`bantime`; -1 is for ever).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BanTime {
    For(Duration),
    Forever,
}

/// One jail, checked. The names are fail2ban's.
#[derive(Clone, Debug)]
pub struct JailSettings {
    pub name: String,
    pub filter: Filter,
    pub journalmatch: JournalMatch,
    /// At least 1.
    pub maxretry: u32,
    pub findtime: Duration,
    pub bantime: BanTime,
    pub ignoreip: Vec<IpNet>,
    pub ignoreself: bool,
}

/// Everything that the configuration says.
#[derive(Debug)]
pub struct Config {
    /// Where it was read from, for the log.
    pub origin: String,
    pub jails: Vec<JailSettings>,
    /// What was left out and why, a sentence each.
    pub warnings: Vec<String>,
}

/// fail2ban's options that are read without effect today. Naming them beats ignoring them.
const NOT_YET: [&str; 10] = [
    "action",
    "bantime.increment",
    "datepattern",
    "ignorecache",
    "ignorecommand",
    "logpath",
    "maxlines",
    "mode",
    "port",
    "protocol",
];

impl Config {
    /// Reads the configuration in `dir`, else in `/etc/f2b`, else the built-in one.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, with its name and line. A jail that is broken by itself is left out and
    /// named in [`warnings`](Self::warnings) instead.
    pub fn load(dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir
            && !dir.is_dir()
        {
            bail!("-c {}: it is no directory", dir.display());
        }
        let standard = Path::new(DEFAULT_DIR);
        let dir = dir.or_else(|| standard.is_dir().then_some(standard));
        let tree = Tree::new(dir);
        let sections = tree.sections("jail")?;
        let mut config = Self {
            origin: dir.map_or_else(|| "the built-in tree".into(), |dir: &Path| dir.display().to_string()),
            jails: Vec::new(),
            warnings: Vec::new(),
        };
        for name in sections.names() {
            match jail(&tree, &sections, name) {
                Ok(Some(settings)) => {
                    config.warnings.extend(without_effect(&sections, name));
                    config.jails.push(settings);
                }
                Ok(None) => {}
                Err(error) => config.warnings.push(format!("jail {name} is left out: {error:#}")),
            }
        }
        Ok(config)
    }
}

/// The settings of one jail, or `None` if it is not enabled.
fn jail(tree: &Tree, sections: &Sections, name: &str) -> Result<Option<JailSettings>> {
    let get = |option: &str| sections.get(name, option);
    if !get("enabled")?.map(|value| boolean("enabled", &value)).transpose()?.unwrap_or(false) {
        return Ok(None);
    }
    let backend = get("backend")?.map_or_else(|| "systemd".into(), |value| value.text);
    if !["auto", "systemd"].contains(&backend.as_str()) {
        bail!("backend = {backend} is not supported yet; use systemd");
    }
    let filter_name = get("filter")?.map_or_else(|| name.to_owned(), |value| value.text);
    let filter_sections = tree.sections(&format!("filter.d/{filter_name}"))?;
    let definition = |option: &str| filter_sections.get("Definition", option);
    let filter =
        Filter::new(&filter_settings(&filter_sections)?).with_context(|| format!("filter {filter_name}"))?;

    let journalmatch = match get("journalmatch")? {
        Some(value) => Some(value),
        None => definition("journalmatch")?,
    };
    let journalmatch = journalmatch.ok_or_else(|| {
        anyhow!("neither the jail nor filter {filter_name} has a journalmatch; set one, for example _SYSTEMD_UNIT={name}.service")
    })?;
    let journalmatch = JournalMatch::parse(&journalmatch.text).context(journalmatch.place)?;

    let maxretry = get("maxretry")?.map_or(Ok(5), |value| {
        let count = value.text.parse().ok().filter(|count| *count >= 1);
        count.with_context(|| format!("{}: maxretry = {} is not a number from 1", value.place, value.text))
    })?;
    let findtime = match get("findtime")?.map(|value| ban_time(&value)).transpose()? {
        Some(BanTime::For(findtime)) => findtime,
        Some(BanTime::Forever) => bail!("findtime cannot be negative; set it to, for example, 10m"),
        None => Duration::from_secs(600),
    };
    let bantime = get("bantime")?.map(|value| ban_time(&value)).transpose()?;
    Ok(Some(JailSettings {
        name: name.to_owned(),
        filter,
        journalmatch,
        maxretry,
        findtime,
        bantime: bantime.unwrap_or(BanTime::For(Duration::from_secs(600))),
        ignoreip: get("ignoreip")?.map(|value| ignoreip(&value)).transpose()?.unwrap_or_default(),
        ignoreself: get("ignoreself")?
            .map(|value| boolean("ignoreself", &value))
            .transpose()?
            .unwrap_or(true),
    }))
}

/// The options of a filter that decide what it finds.
pub(crate) fn filter_settings(filter: &Sections) -> Result<FilterSettings> {
    let text = |option: &str| -> Result<String> {
        Ok(filter.get("Definition", option)?.map(|value| value.text).unwrap_or_default())
    };
    let lines = |option: &str| -> Result<Vec<String>> {
        Ok(text(option)?.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    };
    Ok(FilterSettings {
        prefregex: text("prefregex")?,
        failregex: lines("failregex")?,
        ignoreregex: lines("ignoreregex")?,
        maxlines: text("maxlines")?,
        datepattern: text("datepattern")?,
        usedns: text("usedns")?,
        logtype: text("logtype")?,
    })
}

/// The options that the user wrote and that have no effect yet, a sentence each.
fn without_effect(sections: &Sections, jail: &str) -> Vec<String> {
    let written = sections.options(jail).chain(sections.options("DEFAULT"));
    written
        .filter(|(option, _)| NOT_YET.contains(option))
        .map(|(option, value)| format!("jail {jail}: {}: {option} has no effect yet", value.place))
        .collect()
}

fn boolean(option: &str, value: &Value) -> Result<bool> {
    match value.text.to_lowercase().as_str() {
        "1" | "yes" | "true" | "on" => Ok(true),
        "0" | "no" | "false" | "off" => Ok(false),
        other => bail!("{}: {option} = {other} is neither true nor false", value.place),
    }
}

fn ban_time(value: &Value) -> Result<BanTime> {
    let seconds = time::seconds(&value.text).with_context(|| value.place.clone())?;
    if seconds < 0 {
        return Ok(BanTime::Forever);
    }
    Ok(BanTime::For(Duration::from_secs(seconds.unsigned_abs())))
}

/// Addresses and prefixes, separated by spaces or commas.
fn ignoreip(value: &Value) -> Result<Vec<IpNet>> {
    let entries = value.text.split(|c: char| c.is_whitespace() || c == ',').filter(|entry| !entry.is_empty());
    entries
        .map(|entry| {
            let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            net.map(canonical).map_err(|error| {
                anyhow!(
                    "{}: ignoreip {entry}: {error}; write an address or a prefix like 192.0.2.0/24",
                    value.place
                )
            })
        })
        .collect()
}

/// An IPv4-mapped prefix as the IPv4 prefix it is: addresses are compared in their canonical form.
fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else {
        return net;
    };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(v4, prefix)| Ipv4Net::new(v4, prefix).ok()).map_or(net, IpNet::V4)
}

/// The built-in sshd jail, for the tests of other modules.
#[cfg(test)]
pub(crate) fn test_settings() -> JailSettings {
    let tree = Tree::new(None);
    let sections = tree.sections("jail").expect("the built-in tree");
    jail(&tree, &sections, "sshd").expect("the built-in jail").expect("enabled")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(jail_local: &str) -> Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("jail.local"), jail_local).unwrap();
        Config::load(Some(dir.path()))
    }

    #[test]
    fn the_built_in_tree_has_the_promised_sshd_jail() {
        let sshd = test_settings();
        assert_eq!(sshd.maxretry, 5);
        assert_eq!(sshd.findtime, Duration::from_secs(600));
        assert_eq!(sshd.bantime, BanTime::For(Duration::from_secs(600)));
        assert!(sshd.ignoreself);
    }

    #[test]
    fn five_lines_of_jail_local_are_enough() {
        let config =
            load("[sshd]\nmaxretry = 3\nbantime = -1\nignoreip = 192.0.2.1, 2001:db8::/32\n").unwrap();
        let sshd = &config.jails[0];
        assert_eq!((sshd.maxretry, sshd.bantime), (3, BanTime::Forever));
        assert_eq!(sshd.ignoreip.len(), 2);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn ignoreip_takes_ipv4_in_ipv6_spelling() {
        let config =
            load("[sshd]\nignoreip = ::ffff:192.0.2.1 ::ffff:198.51.100.0/120 2001:db8::/90\n").unwrap();
        let nets: Vec<_> = config.jails[0].ignoreip.iter().map(ToString::to_string).collect();
        assert_eq!(nets, ["192.0.2.1/32", "198.51.100.0/24", "2001:db8::/90"]);
    }

    #[test]
    fn a_broken_jail_is_named_and_left_out_and_the_others_start() {
        let config = load("[broken]\nenabled = yes\nfilter = sshd\nmaxretry = many\n").unwrap();
        assert_eq!(config.jails.len(), 1);
        assert_eq!(config.warnings.len(), 1);
        let warning = &config.warnings[0];
        assert!(warning.starts_with("jail broken is left out: "), "{warning}");
        assert!(warning.ends_with("jail.local:4: maxretry = many is not a number from 1"), "{warning}");
    }

    #[test]
    fn options_without_effect_are_named() {
        let config = load("[sshd]\nport = 2222\n").unwrap();
        assert!(
            config.warnings[0].ends_with("jail.local:2: port has no effect yet"),
            "{:?}",
            config.warnings
        );
    }
}
