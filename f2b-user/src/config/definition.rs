//! What filters and actions have in common: options in `[Definition]`, parameters in `[Init]`, and a jail that gives
//! its own (`client/configreader.py`, `DefinitionInitConfigReader`).

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use anyhow::Result;

use super::{
    dialect::{Options, Sections, Value, condition},
    tags,
};

const DEFINITION: &str = "Definition";
const INIT: &str = "Init";

/// A filter's or an action's file, read for one jail.
pub(super) struct Definition {
    file: Rc<Sections>,
    /// What the jail gives in brackets, and below that `[Init]`.
    pub(super) given: Options,
    /// The options of `[Definition]` that the jail does not set.
    own: Options,
    /// What wins over `[Definition]` when a value is looked up: the jail's options, and above those the given ones.
    outer: Options,
    /// Tags that were looked up once. Kept when the jail's options change: so does fail2ban.
    looked_up: HashMap<String, Option<Value>>,
}

impl Definition {
    pub(super) fn new(file: Rc<Sections>, given: Options) -> Self {
        Self { file, given, own: Options::new(), outer: Options::new(), looked_up: HashMap::new() }
    }

    /// Whether `[Definition]` itself sets the option.
    pub(super) fn defines(&self, option: &str) -> bool {
        self.file.options(DEFINITION).any(|(name, _)| name == option)
    }

    /// Reads the options called `names`, except where the jail's options (`jail`) have them; with `all`, every other
    /// option of `[Definition]`, too.
    pub(super) fn read(&mut self, names: &[&str], jail: &Options, all: bool) -> Result<()> {
        let none = Options::new();
        self.outer = jail.clone();
        self.outer.extend(self.given.clone());
        self.own.clear();
        for &name in names.iter().filter(|name| !self.outer.contains_key(**name)) {
            if let Some(value) = self.file.get(DEFINITION, name, &self.outer)? {
                self.own.insert(name.to_owned(), value);
            }
        }
        let parameters: Vec<_> = self.file.options(INIT).map(|(name, _)| name.to_owned()).collect();
        for name in parameters {
            let Some(value) = self.file.get(INIT, &name, &none)? else { continue };
            self.given.insert(format!("known/{name}"), value.clone());
            self.given.entry(name).or_insert(value);
        }
        if all {
            for (name, _) in self.file.options(DEFINITION) {
                if !self.own.contains_key(name)
                    && let Some(value) = self.file.get(DEFINITION, name, &none)?
                {
                    self.own.insert(name.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// All options with the given ones over them, and their tags replaced; `ignored` tags stay.
    pub(super) fn combined(&mut self, ignored: &[&str]) -> Result<Options> {
        let mut options = self.own.clone();
        options.extend(self.given.clone());
        let mut ignored: HashSet<String> = ignored.iter().map(|&name| name.to_owned()).collect();
        // What depends on the address family is decided at the ban.
        let conditional = options.keys().filter(|name| condition(name) < name.len());
        ignored.extend(conditional.map(|name| name[..condition(name)].to_owned()));
        let (file, outer, looked_up) = (&self.file, &self.outer, &mut self.looked_up);
        tags::substitute(&mut options, &ignored, file.budget(), |tag| {
            if let Some(known) = looked_up.get(tag) {
                return Ok(known.clone());
            }
            let found = file.get_qualified(DEFINITION, tag, outer)?;
            looked_up.insert(tag.to_owned(), found.clone());
            Ok(found)
        })?;
        Ok(options)
    }
}
