//! One jail's options, resolved: what its section, its filter and its actions say together (`client/jailreader.py`,
//! `client/filterreader.py`, `client/actionreader.py`).

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use anyhow::{Context as _, Error, Result, anyhow};

use super::{
    definition::Definition,
    dialect::{Options, Place, Sections, Tree, Value, is_space},
    options, time, words,
};

/// What `%(fail2ban_version)s` says: the version whose dialect this is.
const FAIL2BAN_VERSION: &str = "1.0.2";

/// The options of a filter that a jail may set itself.
pub(super) const FILTER_OPTIONS: [&str; 7] =
    ["usedns", "prefregex", "ignoreregex", "failregex", "maxlines", "datepattern", "journalmatch"];

/// How an option's text is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    Boolean,
}
use Kind::{Boolean, Text};

/// The options of a jail that [`JailOptions`] has a field for. With [`OTHERS`] and those of its filter, a jail has no
/// more (`JailReader._configOpts`).
pub(super) const FIELDS: [(&str, Kind); 10] = [
    ("enabled", Boolean),
    ("backend", Text),
    ("maxretry", Text),
    ("findtime", Text),
    ("bantime", Text),
    ("ignoreself", Boolean),
    ("ignoreip", Text),
    ("filter", Text),
    ("logpath", Text),
    ("action", Text),
];
/// Those that are carried as they are written.
pub(super) const OTHERS: [(&str, Kind); 12] = [
    ("maxmatches", Text),
    ("bantime.increment", Boolean),
    ("bantime.factor", Text),
    ("bantime.formula", Text),
    ("bantime.multipliers", Text),
    ("bantime.maxtime", Text),
    ("bantime.rndtime", Text),
    ("bantime.overalljails", Boolean),
    ("ignorecommand", Text),
    ("ignorecache", Text),
    ("logtimezone", Text),
    ("logencoding", Text),
];

/// What an action may define (`ActionReader._configOpts`); everything else is a parameter.
const ACTION_OPTIONS: [(&str, Kind); 13] = [
    ("actionstart", Text),
    ("actionstart_on_demand", Boolean),
    ("actionstop", Text),
    ("actionflush", Text),
    ("actionreload", Text),
    ("actioncheck", Text),
    ("actionrepair", Text),
    ("actionrepair_on_unban", Boolean),
    ("actionban", Text),
    ("actionprolong", Text),
    ("actionreban", Text),
    ("actionunban", Text),
    ("norestored", Boolean),
];
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
    /// The jail's own options as written, interpolated: those above, and those without a field of their own
    /// (`bantime.increment`, `ignorecommand`, …).
    pub written: Options,
}

impl JailOptions {
    /// The options that are set and have no field of their own: `bantime.increment`, `ignorecommand`, …
    pub fn others(&self) -> impl Iterator<Item = (&str, &str)> {
        OTHERS.iter().filter_map(|(option, _)| Some((*option, self.written.get(*option)?.text.as_str())))
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

    /// A reader for filters by themselves.
    pub(super) fn without_jails(tree: &'a Tree) -> Self {
        Self { tree, jails: RefCell::default(), definitions: RefCell::default() }
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
        let first = self.options(name, [("enabled", Boolean), ("backend", Text), ("filter", Text)])?;
        if first.get("enabled").is_none_or(|enabled| enabled.text != "True") {
            return Ok(None);
        }
        let mut filter = self.filter(&first)?;
        if let Some((_, filter)) = &mut filter {
            filter.read(&FILTER_OPTIONS, &first, true)?;
            let known = filter.combined(&[])?;
            self.jails.borrow_mut().set_known(name, &known);
        }
        let of_filter = FILTER_OPTIONS.map(|option| (option, Text));
        let own = self.options(name, FIELDS.into_iter().chain(OTHERS).chain(of_filter))?;
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

    /// What a jail without a section would be that has this filter with these options; the filter's options; and those
    /// of them that are given, or may be.
    pub(super) fn filter_alone(
        &self,
        name: &str,
        file: Rc<Sections>,
        given: Options,
        journal: bool,
    ) -> Result<(JailOptions, Options, Vec<String>), Trouble> {
        let mut filter = with_logtype(file, given, journal, &Place::outside("the command line"));
        filter.read(&FILTER_OPTIONS, &Options::new(), true)?;
        let options = filter.combined(&[])?;
        let jail = assemble("(none)", Some(name.to_owned()), &options, Options::new(), Vec::new())?;
        Ok((jail, options, filter.given.keys().cloned().collect()))
    }

    /// An option that has no meaning to fail2ban itself. One that leads nowhere is as good as none: fail2ban would only
    /// look at it where an action refers to it.
    fn interpolated(&self, jail: &str, name: &str) -> Option<Value> {
        self.jails.borrow().get(jail, name, &Options::new()).ok().flatten()
    }

    /// The jail's own options of these names, interpolated.
    fn options(
        &self,
        jail: &str,
        wanted: impl IntoIterator<Item = (&'static str, Kind)>,
    ) -> Result<Options, Trouble> {
        let jails = self.jails.borrow();
        let mut options = Options::new();
        for (option, kind) in wanted {
            let default = match option {
                "backend" => Some("auto"),
                "filter" | "action" => Some(""),
                _ => None,
            };
            let value = jails.get(jail, option, &Options::new())?.map(|value| kind.read(value));
            if let Some(value) = value.or_else(|| Some(Value::new(default?, &Place::outside("built in")))) {
                options.insert(option.to_owned(), value);
            }
        }
        Ok(options)
    }

    fn filter(&self, jail: &Options) -> Result<Option<(String, Definition)>, Trouble> {
        let Some(value) = jail.get("filter").filter(|value| !value.text.is_empty()) else {
            return Ok(None);
        };
        let place = &value.place;
        let (name, given) = options::extract(&value.text, place)
            .with_context(|| format!("{place}: filter = {}", value.text))
            .map_err(Trouble::LeftOut)?;
        let file = self.definition("filter.d", name, place)?;
        let journal = jail.get("backend").is_some_and(|backend| backend.text.starts_with("systemd"));
        Ok(Some((name.to_owned(), with_logtype(file, given, journal, place))))
    }

    /// The file of a filter or an action.
    pub(super) fn definition(
        &self,
        folder: &str,
        name: &str,
        place: &Place,
    ) -> Result<Rc<Sections>, Trouble> {
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

    fn action(
        &self,
        jail: &str,
        own: &Options,
        entry: &str,
        place: &Place,
    ) -> Result<ActionOptions, Trouble> {
        let (file, mut given) = options::extract(entry, place)
            .with_context(|| format!("{place}: action {entry}"))
            .map_err(Trouble::LeftOut)?;
        if let Some(stem) = file.strip_suffix(".py") {
            let name = given.shift_remove("actname").map_or_else(|| stem.to_owned(), |value| value.text);
            let path = format!("{}/action.d/{file}", self.tree.describe());
            return Ok(ActionOptions { name, file: stem.to_owned(), python: Some(path), properties: given });
        }
        let value = |text: &str| Value::new(text, place);
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
        action
            .read(&ACTION_OPTIONS.map(|(option, _)| option), own, false)
            .with_context(|| format!("action {file}"))?;
        let combined = action.combined(&AT_THE_BAN).with_context(|| format!("action {file}"))?;
        let kind =
            |option: &str| ACTION_OPTIONS.into_iter().find(|(name, _)| *name == option).map(|(_, kind)| kind);
        let mut properties = Options::new();
        for (option, value) in combined {
            if let Some(kind) = kind(&option) {
                properties.insert(option, kind.read(value));
            }
        }
        for (option, value) in &action.given {
            if kind(option).is_none() && !option.starts_with("known/") {
                properties.insert(option.clone(), value.clone());
            }
        }
        Ok(ActionOptions { name, file: file.to_owned(), python: None, properties })
    }
}

/// A filter must know where its lines come from, unless it is told (`FilterReader.applyAutoOptions`).
fn with_logtype(file: Rc<Sections>, mut given: Options, journal: bool, place: &Place) -> Definition {
    let mut filter = Definition::new(file, Options::new());
    let told = given.get("logtype").is_some_and(|logtype| !logtype.text.is_empty());
    if !told && !filter.defines("logtype") {
        let logtype = if journal { "journal" } else { "file" };
        given.insert("logtype".into(), Value::new(logtype, place));
    }
    filter.given = given;
    filter
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
        [of_filter, &own].into_iter().filter_map(|o| o.get(option)).flat_map(Value::lines).collect()
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

impl Kind {
    /// What fail2ban takes for true is `True`, everything else `False`.
    fn read(self, value: Value) -> Value {
        if self == Text {
            return value;
        }
        Value::new(if is_true(&value.text) { "True" } else { "False" }, &value.place)
    }
}

/// What fail2ban takes for true (`helpers.py`, `_as_bool`).
pub(super) fn is_true(text: &str) -> bool {
    ["1", "on", "true", "yes"].contains(&text.to_lowercase().as_str())
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
