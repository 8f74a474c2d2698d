//! One jail's options, resolved: what its section, its filter and its actions say together (`client/jailreader.py`,
//! `client/filterreader.py`, `client/actionreader.py`).

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use anyhow::{Context as _, Error, Result, anyhow};

use super::{
    definition::Definition,
    dialect::{Options, Sections, Tree, Value, is_space},
    options, time, words,
};

/// What `%(fail2ban_version)s` says: the version whose dialect this is.
const FAIL2BAN_VERSION: &str = "1.0.2";

/// The options of a filter that a jail may set itself.
const FILTER_OPTIONS: [&str; 7] =
    ["usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"];

/// The options of a jail; those of its filter come on top.
const JAIL_OPTIONS: [&str; 22] = [
    "enabled",
    "backend",
    "maxretry",
    "maxmatches",
    "findtime",
    "bantime",
    "bantime.increment",
    "bantime.factor",
    "bantime.formula",
    "bantime.multipliers",
    "bantime.maxtime",
    "bantime.rndtime",
    "bantime.overalljails",
    "ignorecommand",
    "ignoreself",
    "ignoreip",
    "ignorecache",
    "filter",
    "logtimezone",
    "logencoding",
    "logpath",
    "action",
];
/// Those of them that are carried as they are written.
const OTHERS: [&str; 12] = [
    "maxmatches",
    "bantime.increment",
    "bantime.factor",
    "bantime.formula",
    "bantime.multipliers",
    "bantime.maxtime",
    "bantime.rndtime",
    "bantime.overalljails",
    "ignorecommand",
    "ignorecache",
    "logtimezone",
    "logencoding",
];
const BOOLEANS: [&str; 4] = ["enabled", "bantime.increment", "bantime.overalljails", "ignoreself"];

/// What an action may define (`ActionReader._configOpts`); everything else is a parameter.
const ACTION_OPTIONS: [&str; 13] = [
    "actionstart",
    "actionstart_on_demand",
    "actionstop",
    "actionflush",
    "actionreload",
    "actioncheck",
    "actionrepair",
    "actionrepair_on_unban",
    "actionban",
    "actionprolong",
    "actionreban",
    "actionunban",
    "norestored",
];
const ACTION_BOOLEANS: [&str; 3] = ["actionstart_on_demand", "actionrepair_on_unban", "norestored"];
/// Tags in actions that are only known at the ban, though options may have their names.
const AT_THE_BAN: [&str; 5] = ["matches", "ipmatches", "ipjailmatches", "timeout", "bantime"];

/// fail2ban's values where no file sets the option (`server/failmanager.py`, `server/filter.py`, `server/actions.py`).
const MAXRETRY: i64 = 3;
const FINDTIME: f64 = 600.0;
const BANTIME: f64 = 600.0;
const MAXLINES: i64 = 1;

/// One enabled jail with all of its options, as the files say it. The names are fail2ban's.
#[derive(Clone, Debug)]
pub struct JailOptions {
    pub name: String,
    pub backend: String,
    /// The filter's name, without its options.
    pub filter: Option<String>,
    pub prefregex: Option<Value>,
    pub failregex: Vec<Value>,
    pub ignoreregex: Vec<Value>,
    pub datepattern: Option<Value>,
    pub maxlines: i64,
    /// Alternatives, each the words of one line.
    pub journalmatch: Vec<Vec<String>>,
    pub logpath: Vec<LogPath>,
    /// As written: the server ignores case, and takes what it does not know for `no`.
    pub usedns: String,
    pub maxretry: i64,
    /// Seconds.
    pub findtime: f64,
    /// Seconds; negative: for ever.
    pub bantime: f64,
    pub ignoreself: bool,
    /// Addresses, prefixes, host names and files, as written.
    pub ignoreip: Vec<String>,
    pub actions: Vec<ActionOptions>,
    /// What the jail, or `[DEFAULT]`, says for its actions to use.
    pub port: Option<Value>,
    pub protocol: Option<Value>,
    /// The jail's own options as written, interpolated: those above, and those without a meaning here
    /// (`bantime.increment`, `ignorecommand`, …).
    pub written: Options,
}

impl JailOptions {
    /// The options that are set and have no field of their own: `bantime.increment`, `ignorecommand`, …
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        let set = OTHERS.iter().filter_map(|option| self.written.get(*option).map(|value| (*option, value)));
        set.map(|(option, value)| (option, value.text.as_str()))
    }
}

/// One line of `logpath`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogPath {
    /// A path that may contain `*`, `?` and `[…]`.
    pub pattern: String,
    /// Where reading starts, as written: `head` or `tail`.
    pub from: String,
}

/// One action of a jail.
#[derive(Clone, Debug)]
pub struct ActionOptions {
    pub name: String,
    /// The name of its file in `action.d`, without `.conf`.
    pub file: String,
    /// The path of an action that is written in Python.
    pub python: Option<String>,
    /// Its commands and parameters. Tags that are only known at the ban are still in them.
    pub properties: Options,
}

/// Why there is no [`JailOptions`].
#[derive(Debug)]
pub(super) enum Trouble {
    /// Only this jail is left out.
    LeftOut(Error),
    /// fail2ban refuses the whole configuration.
    Refused(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Reads jails from one tree; what they share is read once.
pub(super) struct JailReader<'a> {
    tree: &'a Tree,
    jails: RefCell<Sections>,
    /// Filters and actions by `filter.d/NAME`; `None` if there are none.
    definitions: RefCell<HashMap<String, Option<Rc<Sections>>>>,
}

impl<'a> JailReader<'a> {
    /// Reads `jail.conf` and what is laid over it; a tree without any has no jails.
    pub(super) fn new(tree: &'a Tree) -> Result<Self> {
        let mut jails = tree.sections("jail")?.unwrap_or_default();
        jails.set_default("fail2ban_version", FAIL2BAN_VERSION);
        jails.set_default("fail2ban_confpath", &tree.describe());
        Ok(Self { tree, jails: RefCell::new(jails), definitions: RefCell::default() })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.jails.borrow().names().map(str::to_owned).collect()
    }

    /// The options that the jail's section, or `[DEFAULT]`, sets itself, as written.
    pub(super) fn written(&self, section: &str) -> Vec<(String, Value)> {
        let jails = self.jails.borrow();
        jails.options(section).map(|(option, value)| (option.to_owned(), value.clone())).collect()
    }

    /// The jail's options, or `None` if it is not enabled.
    pub(super) fn jail(&self, name: &str) -> Result<Option<JailOptions>, Trouble> {
        // What `known/…` in the jail refers to depends on the filter, which depends on these three.
        let first = self.options(name, &["enabled", "backend", "filter"])?;
        if first.get("enabled").is_none_or(|enabled| enabled.text != "True") {
            return Ok(None);
        }
        let mut filter = self.filter(&first)?;
        if let Some((_, filter)) = &mut filter {
            filter.read(&FILTER_OPTIONS, &first, true)?;
            let known = filter.combined(&[])?;
            self.jails.borrow_mut().set_known(name, &known);
        }
        let names: Vec<_> = JAIL_OPTIONS.into_iter().chain(FILTER_OPTIONS).collect();
        let own = self.options(name, &names)?;
        let (filter_name, of_filter) = match filter {
            None => (None, Options::new()),
            Some((filter_name, mut filter)) => {
                filter.read(&FILTER_OPTIONS, &own, false)?;
                (Some(filter_name), filter.combined(&[])?)
            }
        };
        let actions = self.actions(name, &own)?;
        let mut jail = assemble(name, filter_name, &of_filter, own, actions)?;
        (jail.port, jail.protocol) = (self.interpolated(name, "port"), self.interpolated(name, "protocol"));
        Ok(Some(jail))
    }

    /// What a jail without a section would be whose `filter` is `text` and whose lines come from a file.
    pub(super) fn filter_alone(&self, text: &str) -> Result<JailOptions, Trouble> {
        let value = Value { text: text.to_owned(), place: "the command line".into() };
        let jail = Options::from_iter([("filter".to_owned(), value)]);
        let (name, mut filter) = self.filter(&jail)?.context("a filter has a name")?;
        filter.read(&FILTER_OPTIONS, &Options::new(), false)?;
        assemble("(none)", Some(name), &filter.combined(&[])?, Options::new(), Vec::new())
    }

    /// An option that has no meaning to fail2ban itself. One that leads nowhere is as good as none: fail2ban would only
    /// look at it where an action refers to it.
    fn interpolated(&self, jail: &str, name: &str) -> Option<Value> {
        self.jails.borrow().get(jail, name, &Options::new()).ok().flatten()
    }

    /// The jail's own options of these names, interpolated.
    fn options(&self, jail: &str, names: &[&str]) -> Result<Options, Trouble> {
        let jails = self.jails.borrow();
        let mut options = Options::new();
        for &name in names {
            let Some(mut value) = jails.get(jail, name, &Options::new())? else { continue };
            if BOOLEANS.contains(&name) {
                value.text = boolean(&value.text).into();
            }
            options.insert(name.to_owned(), value);
        }
        for (name, text) in [("backend", "auto"), ("filter", ""), ("action", "")] {
            if names.contains(&name) {
                let value = || Value { text: text.to_owned(), place: "built in".into() };
                options.entry(name.to_owned()).or_insert_with(value);
            }
        }
        Ok(options)
    }

    fn filter(&self, jail: &Options) -> Result<Option<(String, Definition)>, Trouble> {
        let Some(value) = jail.get("filter").filter(|value| !value.text.is_empty()) else {
            return Ok(None);
        };
        let place = &value.place;
        let (name, mut given) = options::extract(&value.text, place)
            .with_context(|| format!("{place}: filter = {}", value.text))
            .map_err(Trouble::LeftOut)?;
        let file = self.definition("filter.d", name, place)?;
        let journal = jail.get("backend").is_some_and(|backend| backend.text.starts_with("systemd"));
        let mut filter = Definition::new(file, Options::new());
        // The filter must know where its lines come from, unless it is told (`FilterReader.applyAutoOptions`).
        let told = given.get("logtype").is_some_and(|logtype| !logtype.text.is_empty());
        if !told && !filter.defines("logtype") {
            let logtype = if journal { "journal" } else { "file" };
            given.insert("logtype".into(), Value { text: logtype.into(), place: place.clone() });
        }
        filter.given = given;
        Ok(Some((name.to_owned(), filter)))
    }

    /// The file of a filter or an action.
    fn definition(&self, folder: &str, name: &str, place: &str) -> Result<Rc<Sections>, Trouble> {
        let stem = format!("{folder}/{name}");
        let known = self.definitions.borrow().get(&stem).cloned();
        let sections = match known {
            Some(sections) => sections,
            None => {
                let sections = self.tree.sections(&stem)?.map(Rc::new);
                self.definitions.borrow_mut().insert(stem.clone(), sections.clone());
                sections
            }
        };
        sections.ok_or_else(|| {
            Trouble::LeftOut(anyhow!("{place}: {stem}.conf is not in {}", self.tree.describe()))
        })
    }

    fn actions(&self, jail: &str, own: &Options) -> Result<Vec<ActionOptions>, Trouble> {
        let Some(value) = own.get("action") else {
            return Ok(Vec::new());
        };
        let entries = options::split(&value.text);
        entries.into_iter().map(|entry| self.action(jail, own, entry, &value.place)).collect()
    }

    fn action(&self, jail: &str, own: &Options, entry: &str, place: &str) -> Result<ActionOptions, Trouble> {
        let (file, mut given) = options::extract(entry, place)
            .with_context(|| format!("{place}: action {entry}"))
            .map_err(Trouble::LeftOut)?;
        if let Some(stem) = file.strip_suffix(".py") {
            let name = given.shift_remove("actname").map_or_else(|| stem.to_owned(), |value| value.text);
            let path = format!("{}/action.d/{file}", self.tree.describe());
            return Ok(ActionOptions { name, file: stem.to_owned(), python: Some(path), properties: given });
        }
        let value = |text: &str| Value { text: text.to_owned(), place: place.to_owned() };
        let called = given.entry("name".into()).or_insert_with(|| value(jail)).text.clone();
        // Two actions of one jail from the same file need two names.
        let mut name = file.to_owned();
        if called != jail {
            match called.strip_prefix(jail) {
                Some(rest) => name.push_str(rest),
                None => name.push_str(&format!("-{called}")),
            }
        }
        let name = given.entry("actname".into()).or_insert_with(|| value(&name)).text.clone();

        let mut action = Definition::new(self.definition("action.d", file, place)?, given);
        action.read(&ACTION_OPTIONS, own, false).with_context(|| format!("action {file}"))?;
        let combined = action.combined(&AT_THE_BAN).with_context(|| format!("action {file}"))?;
        let mut properties = Options::new();
        for (option, mut value) in combined {
            if ACTION_OPTIONS.contains(&option.as_str()) {
                if ACTION_BOOLEANS.contains(&option.as_str()) {
                    value.text = boolean(&value.text).into();
                }
                properties.insert(option, value);
            }
        }
        for (option, value) in &action.given {
            if !ACTION_OPTIONS.contains(&option.as_str()) && !option.starts_with("known/") {
                properties.insert(option.clone(), value.clone());
            }
        }
        Ok(ActionOptions { name, file: file.to_owned(), python: None, properties })
    }
}

/// Puts together what the filter and the jail say, as the commands would that fail2ban's client sends to its server
/// (`JailReader.convert`, `FilterReader._fillStream`).
fn assemble(
    name: &str,
    filter: Option<String>,
    of_filter: &Options,
    own: Options,
    actions: Vec<ActionOptions>,
) -> Result<JailOptions, Trouble> {
    // Both add to a list, the filter first.
    let list = |option: &str| -> Vec<Value> {
        [of_filter, &own].into_iter().flat_map(|o| lines(o, option)).collect()
    };
    // The client sends these ahead of everything else, the jail's before the filter's: the last one counts.
    let ahead = |option: &str| of_filter.get(option).or_else(|| own.get(option));
    let maxlines = |options: &Options| integer(&options.get("maxlines")?.text);
    let text = |option: &str| own.get(option).map(|value| value.text.as_str());

    let mut journalmatch = Vec::new();
    for line in list("journalmatch") {
        journalmatch.push(words::split(&line.text).with_context(|| format!("{}: journalmatch", line.place))?);
    }
    let from_files = !text("backend").unwrap_or_default().starts_with("systemd");
    let logpath = own.get("logpath").filter(|_| from_files);
    let logpath = logpath.into_iter().flat_map(|value| value.text.split('\n')).map(LogPath::new).collect();
    Ok(JailOptions {
        name: name.to_owned(),
        backend: text("backend").unwrap_or("auto").to_owned(),
        filter,
        prefregex: ahead("prefregex").cloned(),
        failregex: list("failregex"),
        ignoreregex: list("ignoreregex"),
        datepattern: own.get("datepattern").or_else(|| of_filter.get("datepattern")).cloned(),
        // A count that is no number counts as not set (`convertOptions`).
        maxlines: maxlines(of_filter).or_else(|| maxlines(&own)).unwrap_or(MAXLINES),
        journalmatch,
        logpath,
        usedns: ahead("usedns").map_or("warn", |value| value.text.as_str()).to_owned(),
        maxretry: number(&own, "maxretry", MAXRETRY)?,
        findtime: seconds(&own, "findtime", FINDTIME)?,
        bantime: seconds(&own, "bantime", BANTIME)?,
        ignoreself: text("ignoreself") != Some("False"),
        ignoreip: text("ignoreip").map(split_words).unwrap_or_default(),
        actions,
        port: None,
        protocol: None,
        written: own,
    })
}

impl LogPath {
    fn new(line: &str) -> Self {
        let (pattern, from) = line.rsplit_once(' ').unwrap_or((line, "head"));
        Self { pattern: pattern.to_owned(), from: from.to_owned() }
    }
}

/// An option's lines, each with the place of the value.
fn lines(options: &Options, option: &str) -> Vec<Value> {
    let Some(value) = options.get(option) else {
        return Vec::new();
    };
    let lines = value.text.split('\n').filter(|line| !line.is_empty());
    lines.map(|line| Value { text: line.to_owned(), place: value.place.clone() }).collect()
}

/// What fail2ban takes for true; everything else is false (`helpers.py`, `_as_bool`).
fn boolean(text: &str) -> &'static str {
    let is_true = ["1", "on", "true", "yes"].contains(&text.to_lowercase().as_str());
    if is_true { "True" } else { "False" }
}

/// Python's `int(text)`.
fn integer(text: &str) -> Option<i64> {
    text.trim_matches(is_space).parse().ok()
}

fn number(options: &Options, option: &str, default: i64) -> Result<i64, Trouble> {
    let Some(value) = options.get(option) else {
        return Ok(default);
    };
    let broken = || anyhow!("{}: {option} = {} is not a number from 1", value.place, value.text);
    integer(&value.text).ok_or_else(|| Trouble::LeftOut(broken()))
}

fn seconds(options: &Options, option: &str, default: f64) -> Result<f64, Trouble> {
    let Some(value) = options.get(option) else {
        return Ok(default);
    };
    let seconds = time::seconds(&value.text).with_context(|| format!("{}: {option}", value.place));
    seconds.map_err(Trouble::LeftOut)
}

/// Words between spaces, commas and line ends (`helpers.py`, `splitwords`).
fn split_words(text: &str) -> Vec<String> {
    let words = text.split([' ', ',', '\n']).map(|word| word.trim_matches(is_space));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
