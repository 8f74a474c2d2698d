//! `%(option)s` → the other option's value, as Python's `BasicInterpolation` does it, with fail2ban's additions
//! `%(section/option)s`, `%(default/option)s`, `%(known/option)s` and `%(__name__)s` (`client/configparserinc.py`).

use anyhow::{Context as _, Result, bail};

use super::{
    Options, Sections, Value,
    value::{Assembly, Place},
};

/// How deep values may refer to values that refer to values (Python's `MAX_INTERPOLATION_DEPTH`).
const MAX_DEPTH: usize = 10;
/// No honest value is longer; ten levels of ten references each would be.
pub(crate) const MAX_VALUE: usize = 1 << 18;

/// Where the names inside a value are looked up.
pub(super) struct Scope<'a> {
    pub(super) sections: &'a Sections,
    /// The section's name, `%(__name__)s`.
    pub(super) name: &'a str,
    /// Values that win over the section's own.
    pub(super) vars: &'a Options,
    pub(super) own: &'a Options,
    /// What the section's options were before the last file that overrode them.
    pub(super) known: Option<&'a Options>,
}

impl<'a> Scope<'a> {
    /// The option's value, with everything that it refers to put in.
    pub(super) fn get(&self, option: &str) -> Result<Option<Value>> {
        let Some(value) = self.raw(option) else {
            return Ok(None);
        };
        if !value.text.contains('%') {
            self.sections.budget.spend(value.text.len())?;
            return Ok(Some(value.clone()));
        }
        let mut out = Assembly::new(&value.place);
        self.expand(value, 1, &mut out).with_context(|| format!("{}: {option}", value.place))?;
        Ok(Some(out.finish()))
    }

    fn raw(&self, option: &str) -> Option<&'a Value> {
        [self.vars, self.own, &self.sections.defaults].into_iter().find_map(|options| options.get(option))
    }

    /// What stands for `%(reference)s`.
    fn referred(&self, reference: &str) -> Option<&'a Value> {
        let option = reference.to_lowercase();
        if option == "__name__" {
            return None;
        }
        self.raw(&option).or_else(|| {
            // fail2ban looks such a name up as written, Python in lower case: only what is lower case is found.
            let (section, of_section) = option.split_once('/').filter(|_| option == reference)?;
            let own = match section {
                "default" => None,
                "known" => self.known.and_then(|known| known.get(of_section)),
                section => self.sections.sections.get(section)?.get(of_section),
            };
            own.or_else(|| self.sections.defaults.get(of_section))
        })
    }

    fn expand(&self, value: &Value, depth: usize, out: &mut Assembly) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("%(…)s refers to itself, or through more than {MAX_DEPTH} other options");
        }
        // References to empty values cost time, too, though nothing grows.
        self.sections.budget.spend(value.text.len())?;
        let text = value.text.as_str();
        let mut from = 0;
        while let Some(at) = text[from..].find('%').map(|at| from + at) {
            push(out, value, from, at, depth)?;
            let rest = &text[at + 1..];
            if rest.starts_with('%') {
                push(out, value, at, at + 1, depth)?;
                from = at + 2;
            } else if let Some((name, after)) = reference(rest) {
                match self.referred(name) {
                    Some(value) => self.expand(value, depth + 1, out)?,
                    None if name.to_lowercase() == "__name__" => {
                        let name = Value::new(self.name, &Place::outside("built in"));
                        push(out, &name, 0, name.text.len(), depth + 1)?;
                    }
                    None => {
                        bail!("%({name})s is not set anywhere; set it in [{}] or [DEFAULT]", self.name)
                    }
                }
                from = text.len() - after.len();
            } else {
                bail!(
                    "a lone % in \"{text}\"; write %% for a percent sign, %(option)s for another option's value"
                );
            }
        }
        push(out, value, from, text.len(), depth)
    }
}

fn push(out: &mut Assembly, value: &Value, start: usize, end: usize, depth: usize) -> Result<()> {
    if out.len() + (end - start) > MAX_VALUE {
        bail!("%(…)s makes a value of more than {MAX_VALUE} bytes");
    }
    out.push(value, start, end, depth);
    Ok(())
}

/// `(name)s…` → the name and what follows.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('(')?.split_once(')')?;
    let after = after.strip_prefix('s')?;
    (!name.is_empty()).then_some((name, after))
}
