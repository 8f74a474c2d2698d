//! The configuration: fail2ban's dialect as written → the checked settings of every jail.
//!
//! Two stages. [`Resolved`] is what the files say, exactly as fail2ban reads them: [`dialect`] reads files, the jail
//! reader puts jail, filter and actions together. [`Config`] is what the agent runs: the same jails, checked and
//! compiled; nothing downstream checks a setting again.

pub(crate) mod action;
mod bantime;
mod definition;
pub mod dialect;
mod glob;
mod ignore;
mod jail;
mod misspelt;
mod options;
mod own;
mod scope;
mod server;
mod tags;
mod time;
mod words;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use jiff::tz::TimeZone;

pub use self::{
    action::{ActionKind, ActionSettings, CommandSettings, Family, Operation, SmtpSettings},
    ignore::{Ignore, IgnoreCache, net},
    jail::{ActionOptions, JailOptions, LogPath},
    own::Own,
    server::{LogOptions, StoreSettings},
};
use self::{
    dialect::{BUILT_IN, DEFAULT, Options, Place, Tree, Value},
    jail::{JailReader, Trouble},
    scope::Services,
};
use crate::{
    filter::{Filter, FilterSettings, Refused, log_zone},
    increment::Increment,
    scope::Scope,
    source::{
        charset::Charset,
        journal::{Files, JournalMatch},
    },
};

/// Where a configuration is looked for when `-c` does not say; the first that exists. Else the built-in one is used.
pub const STANDARD_DIRS: [&str; 2] = ["/etc/f2b", "/etc/fail2ban"];

/// How long a ban lasts (`bantime`; -1 is for ever).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BanTime {
    For(Duration),
    Forever,
}

/// Where a jail's lines come from.
#[derive(Clone, Debug)]
pub enum LogSource {
    Journal { matches: JournalMatch, files: Files },
    Files { paths: Vec<LogPath>, charset: Charset },
}

/// One jail, checked. The names are fail2ban's.
#[derive(Clone, Debug)]
pub struct JailSettings {
    pub name: String,
    pub filter: Filter,
    pub source: LogSource,
    /// At least 1.
    pub maxretry: u32,
    pub findtime: Duration,
    pub bantime: BanTime,
    /// How known offenders are banned longer; `None`: as everybody.
    pub increment: Option<Increment>,
    /// How many of the lines that led to a ban are kept.
    pub maxmatches: usize,
    /// The addresses and prefixes of `ignoreip`.
    pub ignoreip: Vec<IpNet>,
    /// The rest of it, and `ignorecommand`.
    pub ignore: Ignore,
    pub ignoreself: bool,
    /// A host name that is looked up is logged (`usedns = warn`).
    pub warns_of_dns: bool,
    /// Where the local times in log files are (`logtimezone`). A journal has none.
    pub logtimezone: TimeZone,
    /// What its bans cover; nothing if the jail has actions, but no firewall among them.
    pub scopes: Vec<Scope>,
    /// What else is done about a ban: its actions that are no firewall's.
    pub actions: Vec<ActionSettings>,
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
    /// What it says about the store.
    pub store: StoreSettings,
    /// What `f2b.conf` says.
    pub own: Own,
}

/// What the agent runs.
#[derive(Debug)]
pub struct Config {
    /// Where it was read from, for the log.
    pub origin: String,
    pub jails: Vec<JailSettings>,
    /// What was left out and why, a sentence each.
    pub warnings: Vec<String>,
    /// What survives the agent.
    pub store: StoreSettings,
    /// f2b's own settings.
    pub own: Own,
    /// Where the agent's own log goes.
    pub log: LogOptions,
    /// Whether host names stand for IPv6 addresses, too (`allowipv6`).
    pub allows_ipv6: bool,
}

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

    /// Reads the configuration that `files` would be, by their path from `/`. For fuzzing.
    pub(crate) fn in_memory(files: BTreeMap<PathBuf, Vec<u8>>) -> Result<Self> {
        Self::read(&Tree::in_memory(files), "memory".into())
    }

    fn read(tree: &Tree, origin: String) -> Result<Self> {
        let server = server::options(tree)?;
        let reader = JailReader::new(tree)?;
        let mut resolved = Self {
            origin,
            jails: Vec::new(),
            left_out: Vec::new(),
            warnings: Vec::new(),
            store: server::store(&server)?,
            server,
            own: own::read(tree)?,
        };
        for name in reader.names() {
            match reader.jail(&name) {
                Ok(Some(jail)) => {
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
        for section in resolved.jails.iter().map(|jail| jail.name.as_str()).chain([DEFAULT]) {
            resolved.warnings.extend(misspelt::warnings(tree, section, &reader.written(section)));
        }
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
        let allows_ipv6 = server::allows_ipv6(&resolved.server);
        for jail in &resolved.jails {
            match settings(jail, &services) {
                Ok(settings) => {
                    let (actions, not_run) = action::actions(&jail.name, &jail.actions, allows_ipv6);
                    warnings.extend(not_run);
                    jails.push(JailSettings { actions, ..settings });
                }
                Err(error) => warnings.push(format!("jail {} is left out: {error:#}", jail.name)),
            }
        }
        Self {
            origin: resolved.origin.clone(),
            jails,
            warnings,
            store: resolved.store.clone(),
            own: resolved.own.clone(),
            log: LogOptions::new(&resolved.server),
            allows_ipv6,
        }
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

/// Where a filter is that is read by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FilterFile {
    /// The one of this name in the tree that [`Resolved::load`] reads.
    InTree { dir: Option<PathBuf>, name: String },
    /// This file, with those that it includes.
    Alone(PathBuf),
}

/// A filter that was read by itself, without a jail.
#[derive(Clone, Debug)]
pub struct FilterAlone {
    /// `maxlines` is empty unless the filter sets it.
    pub settings: FilterSettings,
    /// Alternatives, each the words of one line.
    pub journalmatch: Vec<Vec<String>>,
    /// `logtype`, `datepattern` and the options that can be given, as they resolve.
    pub options: Vec<(String, String)>,
    /// The files that were looked for, one by one; and lists of those that were laid over each other.
    pub reads: Vec<Vec<PathBuf>>,
}

/// Splits `name[a=b, c="d,e"]`.
///
/// # Errors
/// Where the brackets are not in this form.
pub fn filter_options(text: &str) -> Result<(String, Vec<(String, String)>)> {
    let (name, options) = options::extract(text, &Place::outside("the command line"))?;
    let options = options.into_iter().map(|(option, value)| (option, value.text));
    Ok((name.to_owned(), options.collect()))
}

/// What `filter = text` resolves to for a jail whose lines come from a file, in the tree that [`Resolved::load`] reads.
///
/// # Errors
/// There is no such filter, or it is broken.
pub fn filter(dir: Option<&Path>, text: &str) -> Result<FilterSettings> {
    let (name, given) = filter_options(text)?;
    let file = FilterFile::InTree { dir: dir.map(Path::to_owned), name };
    Ok(filter_alone(&file, &given, false)?.settings)
}

/// Reads a filter by itself. `given` are its options as in a jail; `journal`: its lines come from the journal.
///
/// # Errors
/// There is no such filter, or it is broken.
pub fn filter_alone(file: &FilterFile, given: &[(String, String)], journal: bool) -> Result<FilterAlone> {
    let place = &Place::outside("the command line");
    let value = |text: &str| Value::new(text, place);
    let options: Options = given.iter().map(|(option, text)| (option.clone(), value(text))).collect();
    let reason = |trouble| match trouble {
        Trouble::LeftOut(error) | Trouble::Refused(error) => error,
    };
    let tree = match file {
        FilterFile::InTree { dir, .. } => Tree::new(dir.as_deref().or_else(standard_dir)),
        FilterFile::Alone(path) => Tree::new(path.parent()),
    };
    let reader = JailReader::without_jails(&tree);
    let (name, sections) = match file {
        FilterFile::InTree { name, .. } => {
            (name.clone(), reader.definition("filter.d", name, place).map_err(reason)?)
        }
        FilterFile::Alone(path) => {
            let sections = tree.file_sections(path)?;
            let name = path.display().to_string();
            (name, sections.with_context(|| format!("{} cannot be read", path.display()))?.into())
        }
    };
    let (jail, resolved, parameters) =
        reader.filter_alone(&name, Rc::clone(&sections), options, journal).map_err(reason)?;
    let own = |option: &str| resolved.get(option).map(|value| value.text.clone());
    let mut shown = Vec::new();
    for option in ["logtype", "datepattern"].into_iter().chain(parameters.iter().map(String::as_str)) {
        if let Some(text) = own(option)
            && !shown.iter().any(|(known, _)| known == option)
        {
            shown.push((option.to_owned(), text));
        }
    }
    let maxlines = own("maxlines").filter(|text| text.trim().parse::<i64>().is_ok()).unwrap_or_default();
    Ok(FilterAlone {
        settings: FilterSettings { maxlines, ..filter_settings(&jail) },
        journalmatch: jail.journalmatch,
        options: shown,
        reads: tree.take_reads(),
    })
}

/// The words of a `journalmatch`, quoted as in a shell.
///
/// # Errors
/// A quote that is not closed.
pub fn journalmatch_words(line: &str) -> Result<Vec<String>> {
    words::split(line)
}

/// The names of the filters in the tree that [`Resolved::load`] reads.
pub fn filter_names(dir: Option<&Path>) -> Vec<String> {
    Tree::new(dir.or_else(standard_dir)).names("filter.d")
}

/// The directory that is read when `-c` names none; nothing is the built-in tree.
pub fn default_dir() -> Option<&'static Path> {
    standard_dir()
}

/// The built-in filters, each in its usual and in its aggressive mode. For fuzzing.
pub(crate) fn built_in_filters() -> Vec<FilterSettings> {
    let tree = Tree::new(None);
    let reader = JailReader::without_jails(&tree);
    let place = Place::outside("built in");
    let read = |(name, mode): (&String, &str)| {
        let file = reader.definition("filter.d", name, &place).ok()?;
        let given = Options::from_iter([("mode".to_owned(), Value::new(mode, &place))]);
        let (jail, ..) = reader.filter_alone(name, file, given, true).ok()?;
        Some(filter_settings(&jail)).filter(|settings| !settings.failregex.is_empty())
    };
    let names = tree.names("filter.d");
    names.iter().flat_map(|name| ["normal", "aggressive"].map(|mode| (name, mode))).filter_map(read).collect()
}

/// The options that decide what a filter finds.
fn filter_settings(jail: &JailOptions) -> FilterSettings {
    let texts = |values: &[Value]| -> Vec<String> { values.iter().map(|value| value.text.clone()).collect() };
    let text = |value: &Option<Value>| value.as_ref().map(|value| value.text.clone()).unwrap_or_default();
    FilterSettings {
        prefregex: text(&jail.prefregex),
        failregex: texts(&jail.failregex),
        ignoreregex: texts(&jail.ignoreregex),
        maxlines: jail.maxlines.to_string(),
        datepattern: text(&jail.datepattern),
        usedns: jail.usedns.clone(),
    }
}

/// Where the expression or the date pattern is written that [`Filter::new`] refuses.
fn place_of<'a>(error: &anyhow::Error, jail: &'a JailOptions) -> Option<&'a Place> {
    let value = match error.downcast_ref::<Refused>() {
        Some(refused) => {
            let mut expressions = match refused.option {
                "prefregex" => jail.prefregex.as_slice(),
                "failregex" => &jail.failregex,
                _ => &jail.ignoreregex,
            }
            .iter();
            expressions.find(|value| value.text == refused.text)
        }
        None if error.to_string().starts_with("datepattern") => jail.datepattern.as_ref(),
        None => None,
    };
    value.map(|value| &value.place)
}

/// What the agent needs of a jail, checked.
fn settings(jail: &JailOptions, services: &Services) -> Result<JailSettings> {
    let place = |option: &str| {
        jail.written.get(option).map_or_else(|| Place::outside("built in"), |value| value.place.clone())
    };
    let Some(filter) = &jail.filter else {
        bail!("it has no filter; set one, for example filter = sshd");
    };
    let compiled = Filter::new(&filter_settings(jail)).map_err(|error| {
        let place = place_of(&error, jail).cloned().unwrap_or_else(|| place("filter"));
        error.context(format!("{place}: filter {filter}"))
    })?;
    let source = log_source(jail, filter)?;
    let maxretry = u32::try_from(jail.maxretry).ok().filter(|count| *count >= 1);
    let maxretry = maxretry.with_context(|| {
        format!("{}: maxretry = {} is not a number from 1", place("maxretry"), jail.maxretry)
    })?;
    let findtime = Duration::try_from_secs_f64(jail.findtime).with_context(|| {
        format!("{}: findtime cannot be negative; set it to, for example, 10m", place("findtime"))
    })?;
    let (ignoreip, ignore) = ignore::ignore(jail)?;
    Ok(JailSettings {
        name: jail.name.clone(),
        filter: compiled,
        source,
        maxretry,
        findtime,
        bantime: ban_time(jail.bantime).with_context(|| place("bantime"))?,
        increment: bantime::increment(jail)?,
        maxmatches: bantime::maxmatches(jail)?,
        ignoreip,
        ignore,
        ignoreself: jail.ignoreself,
        warns_of_dns: ["", "warn"].contains(&jail.usedns.to_lowercase().as_str()),
        logtimezone: match jail.written.get("logtimezone").filter(|zone| !zone.text.is_empty()) {
            Some(zone) => log_zone(&zone.text).with_context(|| format!("{}: logtimezone", zone.place))?,
            None => TimeZone::system(),
        },
        scopes: scope::scopes(jail, services)?,
        actions: Vec::new(),
    })
}

/// Where the lines come from. Of `backend = auto`, the files if there are any; fail2ban gives up where there are none
/// (1.0.2), but where the service writes to the journal instead, it was found to be what people mean.
fn log_source(jail: &JailOptions, filter: &str) -> Result<LogSource> {
    let place = |option: &str| {
        jail.written.get(option).map_or_else(|| Place::outside("built in"), |value| value.place.clone())
    };
    let has_journalmatch = !jail.journalmatch.is_empty();
    let (backend, options) = options::extract(&jail.backend, &place("backend"))
        .with_context(|| format!("{}: backend = {}", place("backend"), jail.backend))?;
    let reads_files = match backend.to_lowercase().as_str() {
        "systemd" => false,
        "polling" | "pyinotify" | "gamin" => true,
        "auto" => !has_journalmatch || jail.logpath.iter().any(|path| !path.files().is_empty()),
        _ => bail!(
            "{}: backend = {} is not supported; use auto, polling or systemd",
            place("backend"),
            jail.backend
        ),
    };
    if reads_files {
        if let Some((option, _)) = options.first() {
            bail!(
                "{}: {option}= is for the journal; write backend = {backend}, or systemd",
                place("backend")
            );
        }
        let encoding = jail.written.get("logencoding").map_or("auto", |value| &value.text);
        let charset = Charset::named(encoding).with_context(|| place("logencoding"))?;
        let paths: Vec<_> = jail.logpath.iter().filter(|path| !path.pattern.is_empty()).cloned().collect();
        if paths.is_empty() {
            let name = &jail.name;
            bail!(
                "{}: it has no logpath, and neither it nor filter {filter} has a journalmatch; set one, for example \
                 logpath = /var/log/{name}.log or journalmatch = _SYSTEMD_UNIT={name}.service",
                place("filter")
            );
        }
        return Ok(LogSource::Files { paths, charset });
    }
    if !has_journalmatch {
        let name = &jail.name;
        bail!(
            "{}: neither the jail nor filter {filter} has a journalmatch; set one, for example \
             _SYSTEMD_UNIT={name}.service",
            place("filter")
        );
    }
    let journalmatch = JournalMatch::new(&jail.journalmatch).with_context(|| {
        let option = if jail.written.contains_key("journalmatch") { "journalmatch" } else { "filter" };
        place(option)
    })?;
    let files = journal_files(&options)
        .with_context(|| format!("{}: backend = {}", place("backend"), jail.backend))?;
    Ok(LogSource::Journal { matches: journalmatch, files })
}

/// The options of `backend = systemd[…]`.
fn journal_files(options: &Options) -> Result<Files> {
    // Whether files are read that were rotated: they always are, or failures would be lost with each rotation.
    if let Some(rotated) = options.get("rotated") {
        let known = ["1", "on", "true", "yes", "0", "off", "false", "no"];
        let is_known = known.contains(&rotated.text.to_lowercase().as_str());
        ensure!(is_known, "rotated={}: write on; rotated files are always read", rotated.text);
    }
    let options = options.iter().filter(|(option, _)| *option != "rotated");
    let files = Files::new(options.map(|(option, value)| (option.as_str(), value.text.as_str())))?;
    files.check()?;
    Ok(files)
}

fn ban_time(seconds: f64) -> Result<BanTime> {
    if seconds < 0.0 {
        return Ok(BanTime::Forever);
    }
    // Whole seconds, as fail2ban has it (`BanManager.setBanTime`).
    let bantime = Duration::try_from_secs_f64(seconds.trunc());
    bantime.map(BanTime::For).context("bantime is longer than time can count; write -1 for a ban without end")
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
    fn known_offenders_are_banned_longer_if_the_formula_is_in_order() {
        let config =
            load("[sshd]\nbantime.increment = true\nbantime.maxtime = 5w\nmaxmatches = 0\n").unwrap();
        let sshd = &config.jails[0];
        assert_eq!(sshd.increment.as_ref().and_then(Increment::maxtime), Some(3_024_000.0));
        assert_eq!(sshd.maxmatches, 0);
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        for (text, expected) in [
            (
                "bantime.formula = ban.Tim",
                "jail.local:3: bantime.formula = ban.Tim: ban.Tim is not known; there are ",
            ),
            ("bantime.factor = 2 +", "jail.local:3: bantime.factor = 2 +: it ends where a value is expected"),
            (
                "bantime.multipliers = 1,2",
                "jail.local:3: bantime.multipliers = 1,2: \"1,2\" is not a whole number",
            ),
            ("bantime.maxtime = long", "jail.local:3: bantime.maxtime: \"long\" is not a time"),
            ("maxmatches = few", "jail.local:3: maxmatches = few is not a number from 0"),
        ] {
            let config = load(&format!("[sshd]\nbantime.increment = true\n{text}\n")).unwrap();
            let warning = &config.warnings[0];
            assert!(
                warning.starts_with("jail sshd is left out: ") && warning.contains(expected),
                "{warning}"
            );
        }
        let off = load("[sshd]\nbantime.formula = nonsense(\n").unwrap();
        assert!(off.jails[0].increment.is_none());
    }

    #[test]
    fn fail2ban_conf_says_what_is_remembered() {
        let read = |text: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("fail2ban.local"), format!("[Definition]\n{text}\n")).unwrap();
            Config::load(Some(dir.path())).map(|config| config.store)
        };
        let store = read("dbfile = None\ndbpurgeage = 2d\ndbmaxmatches = 3").unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!((store.is_on, store.purgeage, store.maxmatches), (false, 2 * day, 3));
        assert_eq!(read("dbfile = /var/lib/fail2ban/fail2ban.sqlite3").unwrap(), StoreSettings::default());
        let error = format!("{:#}", read("dbpurgeage = -1").unwrap_err());
        assert!(
            error.ends_with("fail2ban.local:2: dbpurgeage = -1 cannot be; write for example 1d"),
            "{error}"
        );
    }

    #[test]
    fn the_zone_of_the_log_is_read() {
        let zone = |text: &str| load(&format!("[sshd]\nlogtimezone = {text}\n"));
        let new_year = jiff::civil::date(2026, 1, 1).at(0, 0, 0, 0);
        let sshd = &zone("UTC+0200").unwrap().jails[0];
        assert_eq!(sshd.logtimezone.to_timestamp(new_year).unwrap().to_string(), "2025-12-31T22:00:00Z");
        let warning = zone("nowhere").unwrap().warnings.remove(0);
        assert!(warning.ends_with(
            "jail.local:2: logtimezone: there is no zone nowhere; write for example UTC+0200 or Europe/Zurich: \
             failed to find time zone `nowhere` in time zone database"
        ), "{warning}");
    }

    #[test]
    fn a_broken_expression_is_named_with_its_own_line() {
        let warning = |jail_local: &str| load(jail_local).unwrap().warnings.remove(0);
        let text = warning("[sshd]\nfailregex = ^a <HOST>\n  # why\n  ^b <HOST>\n\n  ^(c <HOST>\n");
        let expected = "jail.local:6: filter sshd: failregex: \"^(c <HOST>\" is no regular expression: ";
        assert!(text.contains(expected), "{text}");
        let text = warning(
            "[DEFAULT]\nbroken = ^a <HOST>\n  ^(b <HOST>\n[sshd]\nfailregex = ^c <HOST>\n %(broken)s\n",
        );
        assert!(text.contains("jail.local:3: filter sshd: failregex: \"^(b <HOST>\""), "{text}");
        let text = warning("[sshd]\nignoreregex = ^a\n ^b\n ^c(\n");
        assert!(text.contains("jail.local:4: filter sshd: ignoreregex: \"^c(\""), "{text}");
        let text = warning("[sshd]\nmaxretry = 5\ndatepattern = %%Q\n");
        assert!(text.contains("jail.local:3: filter sshd: datepattern = %Q: "), "{text}");
    }

    #[test]
    fn values_of_a_journalmatch_may_contain_spaces() {
        let config = load("[sshd]\njournalmatch = _COMM=\"a b\" + _UID=0\n").unwrap();
        let wanted = JournalMatch::new(&[vec!["_COMM=a b".into(), "+".into(), "_UID=0".into()]]).unwrap();
        // The filter's own comes first.
        let LogSource::Journal { matches, .. } = &config.jails[0].source else { panic!("{config:?}") };
        assert!(matches.to_string().ends_with(&wanted.to_string()), "{config:?}");
        let broken = load("[sshd]\njournalmatch = sshd.service\n").unwrap().warnings.remove(0);
        assert!(
            broken.ends_with("jail.local:2: journalmatch: \"sshd.service\" is not FIELD=value"),
            "{broken}"
        );
    }

    #[test]
    fn misspelt_options_are_named_and_variables_are_not() {
        let config = load(
            "[DEFAULT]\nban_time = 1h\nmaxretries = 3\n[sshd]\nmaxretry = %(maxretries)s\nfindtimes = 5m\n\
             [off]\nfindtimes = 1\n",
        );
        let warnings = config.unwrap().warnings;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].ends_with(
            "jail.local:6: findtimes in [sshd] has no meaning, and nothing refers to it; did you mean findtime?"
        ));
        assert!(warnings[1].contains("jail.local:2: ban_time in [DEFAULT] has no meaning"));
    }

    #[test]
    fn whom_a_jail_ignores_is_read() {
        let config = load(
            "[sshd]\nignoreip = 192.0.2.1 example.org file:/etc/f2b/mine\nignorecommand = /bin/test <ip>\n\
             ignorecache = key=\"<ip>\", max-time=1h\n",
        );
        let sshd = &config.unwrap().jails[0];
        assert_eq!((sshd.ignoreip.len(), sshd.ignore.names.as_slice()), (1, &["example.org".to_owned()][..]));
        assert_eq!(sshd.ignore.files, [PathBuf::from("/etc/f2b/mine")]);
        assert_eq!(sshd.ignore.command.as_deref(), Some("/bin/test <ip>"));
        assert_eq!(sshd.ignore.cache.as_ref().map(|cache| cache.max_time), Some(Duration::from_secs(3600)));
        for (text, expected) in [
            (
                "ignoreip = 192.0.2.0/33",
                "jail.local:2: ignoreip 192.0.2.0/33: it is no address, no prefix like",
            ),
            ("ignoreip = file:mine", "jail.local:2: ignoreip file:mine: the path of a file begins with a /"),
            (
                "ignorecache = max-count=1",
                "jail.local:2: ignorecache = max-count=1: it has no key; write for example",
            ),
        ] {
            let warning = load(&format!("[sshd]\n{text}\n")).unwrap().warnings.remove(0);
            assert!(warning.contains(expected), "{warning}");
        }
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
}
