//! fail2ban's configuration dialect: where files are found, how they are laid over each other, and how a value is
//! read from them. Knows nothing about what the options mean.

mod budget;
mod files;
mod interpolate;
mod parse;
mod tree;
mod value;

use anyhow::Result;
use indexmap::IndexMap;

pub(crate) use self::{
    budget::Budget,
    files::BUILT_IN,
    interpolate::MAX_VALUE,
    parse::{is_space, trim},
    value::Assembly,
};
use self::{interpolate::Scope, parse::File};
pub use self::{
    tree::Tree,
    value::{Place, Value},
};

/// The section that lends its options to every other one.
pub(crate) const DEFAULT: &str = "DEFAULT";
/// The section that names further files.
pub(crate) const INCLUDES: &str = "INCLUDES";

/// Options in the order in which they were first set; the names are in lower case.
pub type Options = IndexMap<String, Value>;

/// `[section]` → option → value, of all the files that make up one configuration.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    defaults: Options,
    sections: IndexMap<String, Options>,
    /// `%(known/option)s`: each option's value before the last file that overrode it.
    known: IndexMap<String, Options>,
    budget: Budget,
}

impl Sections {
    fn new(budget: &Budget) -> Self {
        Self { budget: budget.clone(), ..Self::default() }
    }

    /// The sections, without `[DEFAULT]` and `[INCLUDES]`.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str).filter(|name| *name != INCLUDES)
    }

    /// The options that the section itself sets (not those of `[DEFAULT]`).
    pub fn options(&self, section: &str) -> impl Iterator<Item = (&str, &Value)> {
        let options = if section == DEFAULT { Some(&self.defaults) } else { self.sections.get(section) };
        options.into_iter().flatten().map(|(option, value)| (option.as_str(), value))
    }

    /// The option's value with every `%(other)s` replaced: from `vars`, the section, or `[DEFAULT]`. `None` if there
    /// is no such section or option.
    ///
    /// # Errors
    /// A `%(other)s` that cannot be replaced; fail2ban refuses its whole configuration then.
    pub fn get(&self, section: &str, option: &str, vars: &Options) -> Result<Option<Value>> {
        let (own, known) = match section {
            DEFAULT => (&self.defaults, None),
            section => match self.sections.get(section) {
                Some(own) => (own, self.known.get(section)),
                None => return Ok(None),
            },
        };
        Scope { sections: self, name: section, vars, own, known }.get(&option.to_lowercase())
    }

    /// As [`get`](Self::get), but a name with a slash says where to look first: `known/x`, `default/x`, `section/x`
    /// (`SafeConfigParserWithIncludes.get_ex`).
    pub fn get_qualified(&self, section: &str, option: &str, vars: &Options) -> Result<Option<Value>> {
        let none = Options::new();
        if let Some((other, of_other)) = option.split_once('/') {
            let found = match other.to_lowercase().as_str() {
                "known" => match self.get_known(section, of_other)? {
                    Some(value) => Some(value),
                    None => self.get(section, of_other, &none)?,
                },
                "default" => self.get(DEFAULT, of_other, &none)?,
                _ => self.get(other, of_other, &none)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        self.get(section, option, vars)
    }

    fn get_known(&self, section: &str, option: &str) -> Result<Option<Value>> {
        let Some(own) = self.known.get(section) else {
            return Ok(None);
        };
        let vars = &Options::new();
        Scope { sections: self, name: section, vars, own, known: None }.get(&option.to_lowercase())
    }

    /// What putting values together may still cost.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Gives every section an option that it may set otherwise (`merge_defaults`).
    pub fn set_default(&mut self, option: &str, text: &str) {
        self.defaults.insert(option.to_owned(), Value::new(text, &Place::outside("built in")));
    }

    /// Sets `known/option` in the section for each of `options`, so that `%(known/option)s` finds it there.
    pub fn set_known(&mut self, section: &str, options: &Options) {
        let own = self.sections.entry(section.to_owned()).or_default();
        for (option, value) in options.iter().filter(|(option, _)| !option.starts_with("known/")) {
            own.insert(format!("known/{option}"), value.clone());
        }
    }

    /// Lets a file override what is there (`SafeConfigParserWithIncludes.read`).
    fn lay_over(&mut self, file: &File) {
        self.defaults.extend(file.defaults.clone());
        for (name, options) in &file.sections {
            // [Init?family=inet6] x = … is x?family=inet6 = … in [Init].
            let (name, condition) = name.split_at(condition(name));
            let options: Options = options
                .iter()
                .map(|(option, value)| (format!("{option}{condition}"), value.clone()))
                .collect();
            if let Some(own) = self.sections.get_mut(name) {
                let known = self.known.entry(name.to_owned()).or_default();
                let before = options.keys().filter_map(|option| own.get_key_value(option));
                known.extend(before.map(|(option, value)| (option.clone(), value.clone())));
                own.extend(options);
            } else {
                self.sections.insert(name.to_owned(), options);
            }
        }
    }
}

/// Where the condition of a conditional option or section begins (`name?family=inet6`); else the end.
pub(crate) fn condition(name: &str) -> usize {
    let word = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
    let is_condition = word > 0 && name[word..].starts_with('?') && name.len() > word + 1;
    if is_condition { word } else { name.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Sections {
        let mut sections = Sections::default();
        for (number, text) in texts.iter().enumerate() {
            sections.lay_over(&parse::parse(text, &format!("{number}.conf")).unwrap());
        }
        sections
    }

    fn value(sections: &Sections, section: &str, option: &str) -> String {
        sections.get(section, option, &Options::new()).unwrap().unwrap().text
    }

    #[track_caller]
    fn error(sections: &Sections, section: &str, option: &str) -> String {
        format!("{:#}", sections.get(section, option, &Options::new()).unwrap_err())
    }

    #[test]
    fn options_come_from_the_section_then_from_default() {
        let sections = read(&["[DEFAULT]\nt = 10m\nbantime = %(t)s\n[sshd]\nT = 1h\n[other]\n"]);
        assert_eq!(value(&sections, "sshd", "bantime"), "1h");
        assert_eq!(value(&sections, "other", "bantime"), "10m");
        assert_eq!(sections.get("sshd", "nothing", &Options::new()).unwrap(), None);
        assert_eq!(sections.get("nothing", "bantime", &Options::new()).unwrap(), None);
    }

    #[test]
    fn interpolation_reaches_other_sections_and_stops_at_circles() {
        let sections = read(&[
            "[DEFAULT]\nd = 1\n[a]\nx = 100%%\n[b]\nx = %(a/x)s %(default/d)s %(a/d)s %(__name__)s\n\
             y = %(y)s\nz = %(no)s\nu = %(DEFAULT/d)s\np = 5%\n",
        ]);
        assert_eq!(value(&sections, "b", "x"), "100% 1 1 b");
        let circle = error(&sections, "b", "y");
        assert_eq!(circle, "0.conf:7: y: %(…)s refers to itself, or through more than 10 other options");
        assert!(error(&sections, "b", "z").starts_with("0.conf:8: z: %(no)s is not set anywhere"));
        assert!(error(&sections, "b", "u").contains("%(DEFAULT/d)s is not set anywhere"));
        assert!(error(&sections, "b", "p").contains("a lone % in \"5%\""));
    }

    #[test]
    fn known_is_the_value_of_the_file_before() {
        let sections =
            read(&["[a]\nx = 1\ny = 1\n", "[a]\nx = %(known/x)s2\n", "[a]\ny = %(known/y)s%(x)s\n"]);
        assert_eq!(value(&sections, "a", "x"), "12");
        assert_eq!(value(&sections, "a", "y"), "112");
    }

    #[test]
    fn conditional_sections_become_conditional_options() {
        let sections = read(&["[Init]\nx = 4\n[Init?family=inet6]\nx = 6\n"]);
        assert_eq!(value(&sections, "Init", "x?family=inet6"), "6");
        assert_eq!(sections.names().collect::<Vec<_>>(), ["Init"]);
    }

    #[test]
    fn values_do_not_grow_without_end() {
        let mut text = format!("[a]\nx0 = {}\n", "x".repeat(100));
        for level in 1..9 {
            let references = format!("%(x{})s", level - 1).repeat(10);
            text.push_str(&format!("x{level} = {references}\n"));
        }
        assert!(error(&read(&[&text]), "a", "x8").contains("more than 262144 bytes"));
    }
}
