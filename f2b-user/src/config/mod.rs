//! The configuration: fail2ban's dialect as written → the checked settings of every jail.
//!
//! Two stages. [`Resolved`] is what the files say, exactly as fail2ban reads them: [`dialect`] reads files, the jail
//! reader puts jail, filter and actions together. [`Config`] is what the agent runs: the same jails, checked and
//! compiled; nothing downstream checks a setting again.

mod definition;
pub mod dialect;
mod glob;
mod jail;
mod options;
mod own;
mod scope;
mod server;
mod tags;
mod time;
mod words;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use self::{
    dialect::{BUILT_IN, DEFAULT, Options, Tree, Value},
    jail::{JailReader, Trouble},
    scope::Services,
};
pub use self::{
    jail::{ActionOptions, JailOptions, LogPath},
    own::Own,
};
use crate::{
    filter::{Filter, FilterSettings},
    scope::Scope,
    source::journal::JournalMatch,
};

/// Where a configuration is looked for when `-c` does not say; the first that exists. Else the built-in one is used.
pub const STANDARD_DIRS: [&str; 2] = ["/etc/f2b", "/etc/fail2ban"];

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
    /// What its bans cover; nothing if the jail has actions, but no firewall among them.
    pub scopes: Vec<Scope>,
}

/// What the files say: every enabled jail with all of its options.
#[derive(Debug)]
pub struct Resolved {
    /// Where it was read from, for messages.
    pub origin: String,
    pub jails: Vec<JailOptions>,
    /// The jails that are broken, and why, a sentence each.
    pub left_out: Vec<String>,
    /// What was passed over without leaving out a jail, a sentence each.
    pub warnings: Vec<String>,
    /// What `fail2ban.conf` says about the server itself: `loglevel`, `logtarget`, `dbfile`, …
    pub server: Options,
    /// What `f2b.conf` says.
    pub own: Own,
    /// By jail, in the order of `jails`.
    without_effect: Vec<(String, Vec<String>)>,
}

/// What the agent runs.
#[derive(Debug)]
pub struct Config {
    /// Where it was read from, for the log.
    pub origin: String,
    pub jails: Vec<JailSettings>,
    /// What was left out and why, a sentence each.
    pub warnings: Vec<String>,
    /// f2b's own settings.
    pub own: Own,
}

/// fail2ban's options that are read without effect today. Naming them beats ignoring them.
const NOT_YET: [&str; 5] = ["action", "bantime.increment", "ignorecache", "ignorecommand", "logpath"];

impl Resolved {
    /// Reads the configuration in `dir`, else in the first of the [`STANDARD_DIRS`], else the built-in one.
    ///
    /// # Errors
    /// What makes fail2ban refuse its whole configuration: a file that is not in the dialect, a reference that leads
    /// nowhere or in a circle, or no jail but broken ones. A jail that is broken by itself is only
    /// [`left_out`](Self::left_out).
    pub fn load(dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir
            && !dir.is_dir()
        {
            bail!("-c {}: it is no directory", dir.display());
        }
        let dir = dir.or_else(standard_dir);
        let origin = dir.map_or_else(|| "the built-in tree".into(), |dir| dir.display().to_string());
        Self::read(&Tree::new(dir), origin)
    }

    fn read(tree: &Tree, origin: String) -> Result<Self> {
        let server = server::options(tree)?;
        let reader = JailReader::new(tree)?;
        let mut resolved = Self {
            origin,
            jails: Vec::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
            server,
            own: own::read(tree)?,
            without_effect: Vec::new(),
        };
        for name in reader.names() {
            match reader.jail(&name) {
                Ok(Some(jail)) => {
                    resolved.without_effect.push((name.clone(), without_effect(&reader, &name)));
                    resolved.jails.push(jail);
                }
                Ok(None) => {}
                Err(Trouble::LeftOut(error)) => {
                    resolved.left_out.push(format!("jail {name} is left out: {error:#}"));
                }
                Err(Trouble::Refused(error)) => return Err(error.context(format!("jail {name}"))),
            }
        }
        resolved.warnings = tree.take_warnings();
        if resolved.jails.is_empty() && !resolved.left_out.is_empty() {
            bail!("no jail is left in {}: {}", resolved.origin, resolved.left_out.join("; "));
        }
        Ok(resolved)
    }
}

/// The first of the [`STANDARD_DIRS`] that exists.
fn standard_dir<'a>() -> Option<&'a Path> {
    STANDARD_DIRS.into_iter().map(Path::new).find(|dir| dir.is_dir())
}

impl Config {
    /// Reads the configuration, as [`Resolved::load`] does, and prepares what the agent can run of it.
    ///
    /// # Errors
    /// Those of [`Resolved::load`]. A jail that is broken by itself, or that needs what the agent cannot do yet, is
    /// left out and named in [`warnings`](Self::warnings) instead.
    pub fn load(dir: Option<&Path>) -> Result<Self> {
        Ok(Self::prepare(&Resolved::load(dir)?))
    }

    /// What the agent can run of a configuration.
    pub fn prepare(resolved: &Resolved) -> Self {
        let mut warnings = resolved.warnings.clone();
        warnings.extend(resolved.left_out.clone());
        let mut jails = Vec::new();
        let services = Services::load();
        for (jail, (name, without_effect)) in resolved.jails.iter().zip(&resolved.without_effect) {
            match settings(jail, &services) {
                Ok(settings) => {
                    warnings.extend(without_effect.clone());
                    jails.push(settings);
                }
                Err(error) => warnings.push(format!("jail {name} is left out: {error:#}")),
            }
        }
        Self { origin: resolved.origin.clone(), jails, warnings, own: resolved.own.clone() }
    }
}

/// Writes the built-in tree into `dir`, for editing. Returns the files.
///
/// # Errors
/// A file that exists already: nothing is overwritten.
pub fn init(dir: &Path) -> Result<Vec<PathBuf>> {
    fn files<'a>(tree: &'a include_dir::Dir<'a>, found: &mut Vec<&'a include_dir::File<'a>>) {
        found.extend(tree.files());
        tree.dirs().for_each(|dir| files(dir, found));
    }
    let mut built_in = Vec::new();
    files(&BUILT_IN, &mut built_in);
    built_in.sort_by_key(|file| file.path());
    let paths: Vec<_> = built_in.iter().map(|file| dir.join(file.path())).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        bail!("{} exists already; name a directory without a configuration", path.display());
    }
    for (path, file) in paths.iter().zip(built_in) {
        let folder = path.parent().unwrap_or(dir);
        fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
        fs::write(path, file.contents()).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(paths)
}

/// What `filter = text` of a jail would resolve to, in the tree that [`Resolved::load`] reads.
///
/// # Errors
/// There is no such filter, or it is broken.
pub fn filter(dir: Option<&Path>, text: &str) -> Result<FilterSettings> {
    let tree = Tree::new(dir.or_else(standard_dir));
    let jail = JailReader::new(&tree)?.filter_alone(text).map_err(|trouble| match trouble {
        Trouble::LeftOut(error) | Trouble::Refused(error) => error,
    })?;
    Ok(filter_settings(&jail))
}

/// The options that decide what a filter finds.
fn filter_settings(jail: &JailOptions) -> FilterSettings {
    let texts = |values: &[Value]| -> Vec<String> { values.iter().map(|value| value.text.clone()).collect() };
    let text = |value: &Option<Value>| value.as_ref().map(|value| value.text.clone()).unwrap_or_default();
    let journal = jail.backend.starts_with("systemd");
    FilterSettings {
        prefregex: text(&jail.prefregex),
        failregex: texts(&jail.failregex),
        ignoreregex: texts(&jail.ignoreregex),
        maxlines: jail.maxlines.to_string(),
        datepattern: text(&jail.datepattern),
        usedns: jail.usedns.clone(),
        logtype: if journal { "journal".into() } else { String::new() },
    }
}

/// What the agent needs of a jail, checked.
fn settings(jail: &JailOptions, services: &Services) -> Result<JailSettings> {
    if !["auto", "systemd"].contains(&jail.backend.as_str()) {
        bail!("backend = {} is not supported yet; use systemd", jail.backend);
    }
    let Some(filter) = &jail.filter else {
        bail!("it has no filter; set one, for example filter = sshd");
    };
    let compiled = Filter::new(&filter_settings(jail)).with_context(|| {
        let place = jail.failregex.first().map_or("built in", |value| value.place.as_str());
        format!("{place}: filter {filter}")
    })?;
    if jail.journalmatch.is_empty() {
        let name = &jail.name;
        bail!(
            "neither the jail nor filter {filter} has a journalmatch; set one, for example _SYSTEMD_UNIT={name}.service"
        );
    }
    let journalmatch: Vec<_> = jail.journalmatch.iter().map(|words| words.join(" ")).collect();
    let journalmatch = JournalMatch::parse(&journalmatch.join("\n"))?;
    let place = |option: &str| jail.written.get(option).map_or("built in", |value| value.place.as_str());
    let maxretry = u32::try_from(jail.maxretry).ok().filter(|count| *count >= 1);
    let maxretry = maxretry.with_context(|| {
        format!("{}: maxretry = {} is not a number from 1", place("maxretry"), jail.maxretry)
    })?;
    let findtime = Duration::try_from_secs_f64(jail.findtime).with_context(|| {
        format!("{}: findtime cannot be negative; set it to, for example, 10m", place("findtime"))
    })?;
    Ok(JailSettings {
        name: jail.name.clone(),
        filter: compiled,
        journalmatch,
        maxretry,
        findtime,
        bantime: ban_time(jail.bantime).with_context(|| place("bantime").to_owned())?,
        ignoreip: ignoreip(&jail.ignoreip, place("ignoreip"))?,
        ignoreself: jail.ignoreself,
        scopes: scope::scopes(jail, services)?,
    })
}

/// The options that the user wrote and that have no effect yet, a sentence each.
fn without_effect(reader: &JailReader<'_>, jail: &str) -> Vec<String> {
    let written = reader.written(jail).into_iter().chain(reader.written(DEFAULT));
    written
        .filter(|(option, _)| NOT_YET.contains(&option.as_str()))
        .map(|(option, value)| format!("jail {jail}: {}: {option} has no effect yet", value.place))
        .collect()
}

fn ban_time(seconds: f64) -> Result<BanTime> {
    if seconds < 0.0 {
        return Ok(BanTime::Forever);
    }
    let bantime = Duration::try_from_secs_f64(seconds);
    bantime.map(BanTime::For).context("bantime is longer than time can count; write -1 for a ban without end")
}

/// Addresses and prefixes; names are not resolved yet.
fn ignoreip(entries: &[String], place: &str) -> Result<Vec<IpNet>> {
    entries
        .iter()
        .map(|entry| {
            let net = entry.parse::<IpNet>().or_else(|_| entry.parse::<IpAddr>().map(IpNet::from));
            net.map(canonical).map_err(|error| {
                anyhow!("{place}: ignoreip {entry}: {error}; write an address or a prefix like 192.0.2.0/24")
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
    let resolved = Resolved::read(&Tree::new(None), "the built-in tree".into()).expect("the built-in tree");
    settings(&resolved.jails[0], &Services::load()).expect("the built-in jail")
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
        let config = load("[sshd]\nignorecommand = true\n").unwrap();
        assert!(
            config.warnings[0].ends_with("jail.local:2: ignorecommand has no effect yet"),
            "{:?}",
            config.warnings
        );
    }

    #[test]
    fn a_jails_bans_cover_what_its_firewall_actions_would_have_banned() {
        let action = |name: &str| (name.to_owned(), "[Definition]\nactionban = true\n[Init]\nport = ssh\n");
        let scopes = |jail: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("action.d")).unwrap();
            for name in ["iptables-multiport", "iptables-allports", "nftables", "sendmail", "ufw"] {
                let (name, text) = action(name);
                fs::write(dir.path().join(format!("action.d/{name}.conf")), text).unwrap();
            }
            fs::write(dir.path().join("jail.local"), format!("[sshd]\n{jail}\n")).unwrap();
            let config = Config::load(Some(dir.path())).unwrap();
            let Some(jail) = config.jails.first() else { return config.warnings.join("; ") };
            jail.scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" + ")
        };
        for (jail, expected) in [
            ("", "all ports"),
            ("port = 2222", "tcp 2222"),
            ("port = 2222\nprotocol = udp", "udp 2222"),
            ("action = iptables-multiport", "tcp 22"),
            ("port = 80\naction = iptables-multiport[port=\"%(port)s,443\", protocol=all]", "tcp,udp 80,443"),
            ("action = iptables-allports[port=80]", "all ports"),
            ("action = ufw", "all ports"),
            ("action = nftables[type=allports]", "all ports"),
            ("action = nftables[type=multiport, port=25]", "tcp 25"),
            ("action = iptables-multiport[port=22]\n  nftables[port=53, protocol=udp]", "tcp 22 + udp 53"),
            ("action = iptables-multiport[port=22]\n  sendmail\n  ufw", "all ports"),
            ("port = 80\naction = sendmail", ""),
        ] {
            assert_eq!(scopes(jail), expected, "{jail}");
        }
        let error = scopes("action = iptables-multiport[port=\"22,nope\"]");
        assert!(
            error.contains("jail sshd is left out: ") && error.contains("jail.local:2: port = nope"),
            "{error}"
        );
    }

    /// What a user could have written, cut and mixed at random: whatever comes in, a result or an error comes out.
    #[test]
    fn hostile_files_give_a_result_or_an_error() {
        let parts = [
            "[sshd]\n",
            "[DEFAULT]\n",
            "[INCLUDES]\n",
            "[Definition]\n",
            "[Init?family=inet6]\n",
            "[Init]\n",
            "enabled = true\n",
            "filter = sshd",
            "filter = x",
            "[mode=<a>",
            ",b=\"%(c)s\"]",
            "\n",
            "  ",
            "action = x",
            "[a=b][c='<d>']\n",
            "failregex = ^<a> <HOST>\n",
            "a = <b<c>>\n",
            "c = <a>%(a)s\n",
            "<",
            ">",
            "%",
            "%(",
            ")s",
            "%(known/a)s",
            "<known/a>",
            "before = x.conf\n",
            "after = ../filter.d/x.conf\n",
            "jail.local\n",
            " ; ",
            "#",
            "\r",
            "\t",
            "\u{2028}",
            "\u{feff}",
            "bantime = 1h",
            "((((",
            "+",
            "1e9",
            "**9**9**9",
            "d",
            "logpath = /dev/[a-*\n",
            "journalmatch = \"a\\\n",
            "é",
            "\0",
            "=",
            ":",
            "[",
            "]",
            "\"",
            "'",
        ];
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % 1_000_003).unwrap() % below
        };
        let mut text = |start: &str| {
            let length = random(10);
            start.to_owned() + &(0..length).map(|_| parts[random(parts.len())]).collect::<String>()
        };
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("filter.d")).unwrap();
        fs::create_dir_all(dir.path().join("action.d")).unwrap();
        let mut read = 0;
        for _ in 0..1000 {
            let start = "[DEFAULT]\nenabled=1\nfilter=x[a=1]\naction = x\n[j]\n";
            fs::write(dir.path().join("jail.local"), text(start)).unwrap();
            fs::write(dir.path().join("filter.d/x.conf"), text("[Definition]\nfailregex = <a>\n")).unwrap();
            fs::write(dir.path().join("action.d/x.conf"), text("[Definition]\nactionban = <a>\n")).unwrap();
            read += usize::from(Resolved::load(Some(dir.path())).is_ok());
        }
        assert!(read > 20, "only {read} were configurations");
    }
}
