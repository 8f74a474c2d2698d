//! `%(option)s` → the other option's value, as Python's `BasicInterpolation` does it, with fail2ban's additions
//! `%(section/option)s`, `%(default/option)s`, `%(known/option)s` and `%(__name__)s` (`client/configparserinc.py`).

use anyhow::{Context as _, Result, bail};

use super::{Options, Sections, Value};

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
        let mut text = String::new();
        self.expand(&value.text, 1, &mut text).with_context(|| format!("{}: {option}", value.place))?;
        Ok(Some(Value { text, place: value.place.clone() }))
    }

    fn raw(&self, option: &str) -> Option<&'a Value> {
        [self.vars, self.own, &self.sections.defaults].into_iter().find_map(|options| options.get(option))
    }

    /// What stands for `%(reference)s`.
    fn referred(&self, reference: &str) -> Option<&'a str> {
        let option = reference.to_lowercase();
        if option == "__name__" {
            return None;
        }
        let value = self.raw(&option).or_else(|| {
            // fail2ban looks such a name up as written, Python in lower case: only what is lower case is found.
            let (section, of_section) = option.split_once('/').filter(|_| option == reference)?;
            let own = match section {
                "default" => None,
                "known" => self.known.and_then(|known| known.get(of_section)),
                section => self.sections.sections.get(section)?.get(of_section),
            };
            own.or_else(|| self.sections.defaults.get(of_section))
        });
        value.map(|value| value.text.as_str())
    }

    fn expand(&self, text: &str, depth: usize, out: &mut String) -> Result<()> {
        if depth > MAX_DEPTH {
            bail!("%(…)s refers to itself, or through more than {MAX_DEPTH} other options");
        }
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            push(out, &rest[..at])?;
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                push(out, "%")?;
                rest = after;
            } else if let Some((name, after)) = reference(rest) {
                match self.referred(name) {
                    Some(value) => self.expand(value, depth + 1, out)?,
                    None if name.to_lowercase() == "__name__" => push(out, self.name)?,
                    None => {
                        bail!("%({name})s is not set anywhere; set it in [{}] or [DEFAULT]", self.name)
                    }
                }
                rest = after;
            } else {
                bail!(
                    "a lone % in \"{text}\"; write %% for a percent sign, %(option)s for another option's value"
                );
            }
        }
        push(out, rest)
    }
}

fn push(out: &mut String, text: &str) -> Result<()> {
    if out.len() + text.len() > MAX_VALUE {
        bail!("%(…)s makes a value of more than {MAX_VALUE} bytes");
    }
    out.push_str(text);
    Ok(())
}

/// `(name)s…` → the name and what follows.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('(')?.split_once(')')?;
    let after = after.strip_prefix('s')?;
    (!name.is_empty()).then_some((name, after))
}
