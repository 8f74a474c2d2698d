//! A command and what a ban tells → what the shell gets (`CommandAction.replaceDynamicTags`).
//!
//! Whatever a shell could read as more than a text travels as an argument of the shell and is only referred to in the
//! script, by a variable: what attackers put into logs never becomes code. As in fail2ban, a text without any special
//! character stands in the script itself.

use std::{borrow::Cow, sync::LazyLock};

use indexmap::IndexMap;
use regex::{Captures, Regex};

use super::{host, info::Info};
use crate::{
    config::action::{SPECIAL, TAG},
    filter::group_of_tag,
};

/// What `/bin/sh -c` is given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Script {
    pub text: String,
    /// From `$0`.
    pub arguments: Vec<String>,
}

/// `<F-NAME>`
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static FIELD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<F-([A-Z0-9_\-]+)>").unwrap());
#[expect(clippy::unwrap_used, reason = "a constant that the tests compile")]
static NO_WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\W").unwrap());

/// The script of a command for a ban.
pub fn fill(command: &str, info: &Info) -> Script {
    let mut variables = IndexMap::new();
    let mut text = TAG.replace_all(command, |tag: &Captures<'_>| match info.value(&tag[1]) {
        Some(value) => safe(&tag[1], value, &mut variables),
        None => own(&tag[1]).unwrap_or_else(|| tag[0].to_owned()),
    });
    if text.contains('<') {
        let filled = FIELD.replace_all(&text, |tag: &Captures<'_>| {
            let name = group_of_tag(&tag[1]);
            info.field(&name)
                .map_or_else(String::new, |value| safe(&format!("F_{name}"), value, &mut variables))
        });
        text = Cow::Owned(filled.into_owned());
    }
    if variables.is_empty() {
        return Script { text: text.into_owned(), arguments: Vec::new() };
    }
    // fail2ban writes $10, too, which a shell reads as ${1}0.
    let assign = |(n, name): (usize, &String)| {
        if n < 10 { format!("{name}=${n} ") } else { format!("{name}=${{{n}}} ") }
    };
    let assignments: String = variables.keys().enumerate().map(assign).collect();
    Script { text: format!("{assignments}\n{text}"), arguments: variables.into_values().collect() }
}

/// A text for a ban that no shell reads: the values stand in it as they are.
pub fn fill_plain(text: &str, info: &Info) -> String {
    let fill = |tag: &Captures<'_>| {
        let field = || info.field(&group_of_tag(tag[1].strip_prefix("F-")?));
        let value = info.value(&tag[1]).or_else(field).map(Cow::into_owned);
        value.or_else(|| own(&tag[1])).unwrap_or_else(|| tag[0].to_owned())
    };
    TAG.replace_all(text, fill).into_owned()
}

/// A value as it may stand in the script: itself, or a variable.
fn safe(tag: &str, value: Cow<'_, str>, variables: &mut IndexMap<String, String>) -> String {
    // No argument can hold it.
    let value = if value.contains('\0') { Cow::Owned(value.replace('\0', "")) } else { value };
    if !SPECIAL.is_match(&value) {
        return value.into_owned();
    }
    let name = format!("f2bV_{}", NO_WORD.replace_all(tag, "_"));
    let reference = format!("${name}");
    variables.insert(name, value.into_owned());
    reference
}

/// Tags that no ban decides.
fn own(tag: &str) -> Option<String> {
    match tag {
        "br" => Some("\n".into()),
        "sp" => Some(" ".into()),
        host::FULL_NAME => Some(host::own().full.clone()),
        host::SHORT_NAME => Some(host::own().short.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        action::info::JailInfo,
        ticket::{Length, Ticket},
    };

    fn info(matches: &[&str], fields: &[(&str, &str)]) -> Info {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
        let mut ticket = Ticket::by_hand("sshd", "192.0.2.7".parse().unwrap(), time, Length::For(600.0));
        ticket.matches = matches.iter().map(|&line| line.to_owned()).collect();
        ticket.fields = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Info::of(ticket, JailInfo { name: "sshd".into(), ..JailInfo::default() })
    }

    #[test]
    fn plain_values_stand_in_the_script() {
        let script = fill(
            "ban <ip> <family> <ip-rev> <bantime> <time> <F-USER> <unknown> <F-NONE>",
            &info(&[], &[("user", "root")]),
        );
        assert_eq!(script.text, "ban 192.0.2.7 inet4 7.2.0.192. 600 1700000000.5 root <unknown> ");
        assert!(script.arguments.is_empty());
    }

    #[test]
    fn what_a_shell_would_read_travels_as_a_variable() {
        let info = info(&["a; reboot", "b"], &[("user", "$(id)"), ("fid", "x'y")]);
        let script = fill("mail \"<matches>\" <F-USER> <F-ID> <matches>", &info);
        let expected = "f2bV_matches=$0 f2bV_F_user=$1 f2bV_F_fid=$2 \nmail \"$f2bV_matches\" $f2bV_F_user $f2bV_F_fid $f2bV_matches";
        assert_eq!(script.text, expected);
        assert_eq!(script.arguments, ["a; reboot\nb", "$(id)", "x'y"]);
        assert_eq!(
            fill_plain("<ip>|<F-USER>|<F-ID>|<F-NONE>|<x>", &info),
            "192.0.2.7|$(id)|x'y|<F-NONE>|<x>"
        );
    }

    #[test]
    fn a_tag_within_a_value_is_no_tag() {
        let script = fill("<F-USER> <F-A>", &info(&[], &[("user", "<F-A><ip>"), ("a", "b")]));
        assert_eq!(
            (script.text.as_str(), &script.arguments[0]),
            ("f2bV_F_user=$0 \n$f2bV_F_user b", &"<F-A><ip>".to_owned())
        );
    }

    #[test]
    fn the_eleventh_variable_is_not_the_second_and_a_zero() {
        let names: Vec<_> = (0..11).map(|n| format!("v{n}")).collect();
        let fields: Vec<_> = names.iter().map(|name| (name.as_str(), ";")).collect();
        let command: String = (0..11).map(|n| format!("<F-V{n}>")).collect();
        assert!(fill(&command, &info(&[], &fields)).text.contains("f2bV_F_v9=$9 f2bV_F_v10=${10} \n"));
    }
}
