//! A jail's actions that are no firewall's: every command, ready for each address family but for what only the ban tells
//! (`server/action.py`, `CommandAction`).

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock, time::Duration};

use anyhow::{Context as _, Result, bail};
use indexmap::IndexMap;
use regex::{Captures, Regex};

use super::{
    dialect::{Budget, Options, Place, Value},
    jail::ActionOptions,
    scope, tags, time,
};

/// `<tag>` (`helpers.py`, `TAG_CRE`).
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
pub(crate) static TAG: LazyLock<Regex> = LazyLock::new(|| Regex::new("<([^ <>]+)>").unwrap());
/// Whether a property is for one address family only.
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static CONDITIONAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w+\?family=").unwrap());
/// What a shell would read as more than a text.
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
pub(crate) static SPECIAL: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r##"[\\#&;`|*?~<>^()\[\]{}$'"\n\r]"##).unwrap());

/// Never replaced within properties: they come from logs (`_escapedTags`).
const FROM_LOGS: [&str; 3] = ["matches", "ipmatches", "ipjailmatches"];
/// How often tags may bring new tags (`MAX_TAG_REPLACE_COUNT`).
const MAX_ROUNDS: usize = 25;
/// How long a command may take, unless the action says otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// smtp.py's parameters.
const SMTP_OPTIONS: [&str; 7] = ["host", "user", "password", "sendername", "sender", "dest", "matches"];

/// What an action's command may be meant for only: IPv4, IPv6, or neither (`<family>`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Family {
    /// No address, or an action that makes no difference.
    Any,
    V4,
    V6,
}

impl Family {
    /// fail2ban's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::V4 => "inet4",
            Self::V6 => "inet6",
        }
    }
}

/// What an action can be asked to do.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    Start,
    Stop,
    Flush,
    Reload,
    Check,
    Repair,
    Ban,
    Prolong,
    Reban,
    Unban,
}

impl Operation {
    const ALL: [Self; 10] = [
        Self::Start,
        Self::Stop,
        Self::Flush,
        Self::Reload,
        Self::Check,
        Self::Repair,
        Self::Ban,
        Self::Prolong,
        Self::Reban,
        Self::Unban,
    ];

    /// The option that has its command.
    pub fn option(self) -> &'static str {
        match self {
            Self::Start => "actionstart",
            Self::Stop => "actionstop",
            Self::Flush => "actionflush",
            Self::Reload => "actionreload",
            Self::Check => "actioncheck",
            Self::Repair => "actionrepair",
            Self::Ban => "actionban",
            Self::Prolong => "actionprolong",
            Self::Reban => "actionreban",
            Self::Unban => "actionunban",
        }
    }
}

/// An action of a jail, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ActionSettings {
    /// `actname`
    pub name: String,
    /// The name of its file in `action.d`: actions of one file may use one thing (`/etc/hosts.deny`).
    pub file: String,
    /// Bans of the agent before are none of its business (`norestored`).
    pub norestored: bool,
    pub kind: ActionKind,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ActionKind {
    Command(CommandSettings),
    Smtp(SmtpSettings),
}

/// An action that runs commands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandSettings {
    /// With the tags of the ban still in them; or why there is none, a sentence.
    commands: BTreeMap<(Operation, Family), Result<String, String>>,
    /// The families that `actionstart` is run for.
    pub families: Vec<Family>,
    /// `actionstart_on_demand`: at the first ban of a family, not before.
    pub on_demand: bool,
    pub repair_on_unban: bool,
    pub timeout: Duration,
}

impl CommandSettings {
    /// The command for a family; empty: nothing to do.
    ///
    /// # Errors
    /// Properties that refer to each other in a circle.
    pub fn command(&self, operation: Operation, family: Family) -> Result<&str, &str> {
        match self.commands.get(&(operation, family)) {
            None => Ok(""),
            Some(Ok(command)) => Ok(command),
            Some(Err(error)) => Err(error),
        }
    }

    /// Whether there is a command for any family.
    pub fn has(&self, operation: Operation) -> bool {
        [Family::Any, Family::V4, Family::V6]
            .iter()
            .any(|family| self.command(operation, *family).map_or(true, |command| !command.trim().is_empty()))
    }

    /// All commands.
    pub fn texts(&self) -> impl Iterator<Item = (Operation, &str)> {
        self.commands.iter().filter_map(|((operation, _), text)| Some((*operation, text.as_deref().ok()?)))
    }
}

/// The parameters of fail2ban's `smtp.py`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SmtpSettings {
    /// A host, or `host:port`.
    pub host: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub sendername: String,
    pub sender: String,
    /// Receivers, with `, ` between them.
    pub dest: String,
    /// `matches`, `ipmatches` or `ipjailmatches`: which lines are in the mail.
    pub matches: Option<String>,
}

/// The actions of a jail that are run, and what is wrong with the others, a sentence each. Those that make a difference
/// between address families are started for both, or without `allows_ipv6` for IPv4 only (`CommandAction._families`).
pub(super) fn actions(
    jail: &str,
    actions: &[ActionOptions],
    allows_ipv6: bool,
) -> (Vec<ActionSettings>, Vec<String>) {
    let (mut settings, mut warnings) = (Vec::new(), Vec::new());
    for action in actions.iter().filter(|action| action.python.is_some() || !scope::is_firewall(&action.file))
    {
        match action_settings(action, allows_ipv6) {
            Ok(action) => settings.push(action),
            Err(error) => warnings.push(format!("jail {jail}: action {} is not run: {error:#}", action.name)),
        }
    }
    (settings, warnings)
}

fn action_settings(action: &ActionOptions, allows_ipv6: bool) -> Result<ActionSettings> {
    let (name, file) = (action.name.clone(), action.file.clone());
    if let Some(path) = &action.python {
        if action.file != "smtp" {
            bail!("{path} is written in Python, of which only smtp.py is known; use a .conf action instead");
        }
        let kind = ActionKind::Smtp(smtp(&action.properties)?);
        return Ok(ActionSettings { name, file, norestored: true, kind });
    }
    let kind = ActionKind::Command(commands(&action.properties, allows_ipv6)?);
    Ok(ActionSettings { name, file, norestored: is_true(&action.properties, "norestored"), kind })
}

fn is_true(properties: &Options, option: &str) -> bool {
    properties.get(option).is_some_and(|value| value.text == "True")
}

fn commands(properties: &Options, allows_ipv6: bool) -> Result<CommandSettings> {
    let timeout = match properties.get("timeout") {
        Some(value) => time::seconds(&value.text)
            .and_then(|seconds| Ok(Duration::try_from_secs_f64(seconds)?))
            .with_context(|| format!("{}: timeout = {}", value.place, value.text))?,
        None => TIMEOUT,
    };
    let is_conditional = properties.keys().any(|name| CONDITIONAL.is_match(name));
    let mut commands = BTreeMap::new();
    for family in [Family::Any, Family::V4, Family::V6] {
        let resolved = resolve(properties, family, timeout).map_err(|error| format!("{error:#}"));
        for operation in Operation::ALL {
            let command = match &resolved {
                Ok(properties) => expand(operation, properties).map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.clone()),
            };
            if command.as_ref().map_or(true, |command| !command.is_empty()) {
                commands.insert((operation, family), command);
            }
        }
    }
    Ok(CommandSettings {
        commands,
        families: families(properties, is_conditional, allows_ipv6),
        on_demand: properties
            .get("actionstart_on_demand")
            .map_or(is_conditional, |value| value.text == "True"),
        repair_on_unban: is_true(properties, "actionrepair_on_unban"),
        timeout,
    })
}

fn families(properties: &Options, is_conditional: bool, allows_ipv6: bool) -> Vec<Family> {
    let written = properties.get("families").map_or("", |value| &value.text);
    let named = |name: &str| [Family::V4, Family::V6].into_iter().find(|family| family.name() == name);
    let named: Vec<_> = written.split([' ', ',', '\n']).filter_map(named).collect();
    match (named.is_empty(), is_conditional) {
        (false, _) => named,
        (true, true) if allows_ipv6 => vec![Family::V4, Family::V6],
        (true, true) => vec![Family::V4],
        (true, false) => vec![Family::Any],
    }
}

/// The properties as they are for one family, without tags that are properties.
fn resolve(properties: &Options, family: Family, timeout: Duration) -> Result<Options> {
    let built_in = Place::outside("built in");
    let mut resolved = properties.clone();
    // How long a ban lasts, the ban tells.
    resolved.shift_remove("bantime");
    resolved.insert("timeout".into(), Value::new(timeout.as_secs_f64().to_string(), &built_in));
    for operation in Operation::ALL.into_iter().filter(|operation| *operation != Operation::Prolong) {
        resolved.entry(operation.option().into()).or_insert_with(|| Value::new("", &built_in));
    }
    if family != Family::Any {
        let condition = format!("?family={}", family.name());
        for (name, value) in properties {
            if let Some(name) = name.strip_suffix(&condition) {
                resolved.insert(name.to_owned(), value.clone());
            }
        }
    }
    let ignored = FROM_LOGS.iter().map(|&tag| tag.to_owned()).collect();
    tags::substitute(&mut resolved, &ignored, &Budget::default(), |_| Ok(None))?;
    Ok(resolved)
}

/// A command with its tags replaced, again and again, as long as they are properties.
fn expand(operation: Operation, properties: &Options) -> Result<String> {
    let Some(value) = properties.get(operation.option()) else { return Ok(String::new()) };
    let mut text = value.text.clone();
    for _ in 0..=MAX_ROUNDS {
        let next = TAG.replace_all(&text, |tag: &Captures<'_>| of_property(&tag[1], properties).into_owned());
        if next == text || !next.contains('<') {
            return Ok(next.into_owned());
        }
        text = next.into_owned();
    }
    bail!("{}: {} grows without end through its tags", value.place, operation.option())
}

fn of_property<'a>(tag: &str, properties: &'a Options) -> Cow<'a, str> {
    match properties.get(tag) {
        Some(value) if FROM_LOGS.contains(&tag) => SPECIAL
            .replace_all(&value.text, |special: &Captures<'_>| match &special[0] {
                "\n" => r"\n".to_owned(),
                "\r" => r"\r".to_owned(),
                special => format!("\\{special}"),
            })
            .into_owned()
            .into(),
        Some(value) => Cow::Borrowed(&value.text),
        None => match tag {
            "br" => Cow::Borrowed("\n"),
            "sp" => Cow::Borrowed(" "),
            _ => Cow::Owned(format!("<{tag}>")),
        },
    }
}

fn smtp(properties: &IndexMap<String, Value>) -> Result<SmtpSettings> {
    let known = |option: &str| SMTP_OPTIONS.contains(&option) || option == "name";
    if let Some((option, value)) = properties.iter().find(|(option, _)| !known(option)) {
        bail!("{}: smtp.py has no option {option}; there are {}", value.place, SMTP_OPTIONS.join(", "));
    }
    let text = |option: &str| properties.get(option).map(|value| value.text.clone());
    let matches = properties.get("matches");
    if let Some(value) = matches.filter(|value| !FROM_LOGS.contains(&value.text.as_str())) {
        bail!("{}: matches = {} is none of {}", value.place, value.text, FROM_LOGS.join(", "));
    }
    Ok(SmtpSettings {
        host: text("host").unwrap_or_else(|| "localhost".into()),
        user: text("user"),
        password: text("password"),
        sendername: text("sendername").unwrap_or_else(|| "Fail2Ban".into()),
        sender: text("sender").unwrap_or_else(|| "fail2ban".into()),
        dest: text("dest").unwrap_or_else(|| "root".into()),
        matches: matches.map(|value| value.text.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> Options {
        let value = |text: &str| Value::new(text, &Place::outside("x.conf:1"));
        pairs.iter().map(|(option, text)| ((*option).to_owned(), value(text))).collect()
    }

    #[test]
    fn commands_are_ready_for_each_family() {
        let written = properties(&[
            ("actionban", "<tool> add <set> <ip> <matches><br>"),
            ("tool", "nft"),
            ("tool?family=inet6", "nft6"),
            ("set", "f2b-<name>"),
            ("name", "sshd"),
            ("timeout", "1m"),
        ]);
        let settings = commands(&written, true).unwrap();
        assert_eq!(settings.command(Operation::Ban, Family::V4), Ok("nft add f2b-sshd <ip> <matches>\n"));
        assert_eq!(settings.command(Operation::Ban, Family::V6), Ok("nft6 add f2b-sshd <ip> <matches>\n"));
        assert_eq!(settings.command(Operation::Start, Family::V6), Ok(""));
        assert!(settings.on_demand && !settings.has(Operation::Check));
        assert_eq!((settings.timeout, settings.families), (TIMEOUT, vec![Family::V4, Family::V6]));
        assert_eq!(commands(&written, false).unwrap().families, [Family::V4], "allowipv6 = no");
    }

    #[test]
    fn circles_are_an_error_of_the_command() {
        let settings =
            commands(&properties(&[("actionban", "<a>"), ("a", "<b>"), ("b", "<a>")]), true).unwrap();
        assert!(settings.command(Operation::Ban, Family::V4).unwrap_err().contains("back to itself"));
    }

    #[test]
    fn of_python_only_smtp_is_known() {
        let action = |file: &str, pairs: &[(&str, &str)]| ActionOptions {
            name: file.into(),
            file: file.into(),
            python: Some(format!("/etc/fail2ban/action.d/{file}.py")),
            properties: properties(pairs),
        };
        let given = [
            action("smtp", &[("dest", "admin@example.org"), ("matches", "ipmatches")]),
            action("badips", &[]),
            action("smtp", &[("colour", "red")]),
        ];
        let (settings, warnings) = actions("sshd", &given, true);
        assert!(matches!(
            &settings[..],
            [ActionSettings { norestored: true, kind: ActionKind::Smtp(_), .. }]
        ));
        assert!(
            warnings[0]
                .starts_with("jail sshd: action badips is not run: /etc/fail2ban/action.d/badips.py is")
        );
        assert!(warnings[1].contains("x.conf:1: smtp.py has no option colour"), "{}", warnings[1]);
    }
}
