//! `journalmatch`: which entries a jail wants.

use std::{fmt, sync::Arc};

use anyhow::{Result, bail};

/// A `journalmatch`: alternatives (`+`, or several lines) of groups. Within a group, values of one field are
/// alternatives and different fields must all hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalMatch {
    groups: Vec<Vec<(String, String)>>,
}

impl JournalMatch {
    /// Parses `FIELD=value FIELD=value + FIELD=value`.
    pub fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect());
        Self::new(&lines.collect::<Vec<_>>())
    }

    /// Of alternatives, each the words of one line. A value may contain spaces.
    ///
    /// # Errors
    /// A word that is not `FIELD=value`, a name that no field has, or no words at all.
    pub fn new(lines: &[Vec<String>]) -> Result<Self> {
        let mut groups = vec![Vec::new()];
        for line in lines {
            groups.push(Vec::new());
            for term in line {
                if term == "+" {
                    groups.push(Vec::new());
                    continue;
                }
                let Some((field, value)) = term.split_once('=') else {
                    bail!("journalmatch: \"{term}\" is not FIELD=value");
                };
                if !is_name(field) {
                    bail!(
                        "journalmatch: \"{field}\" is no field of the journal; write it in capitals, without __ in front"
                    );
                }
                if let Some(group) = groups.last_mut() {
                    group.push((field.to_owned(), value.to_owned()));
                }
            }
        }
        groups.retain(|group| !group.is_empty());
        if groups.is_empty() {
            bail!("journalmatch is empty; write for example _SYSTEMD_UNIT=sshd.service");
        }
        Ok(Self { groups })
    }

    /// Alternatives, each of fields and their values.
    pub(super) fn groups(&self) -> &[Vec<(String, String)>] {
        &self.groups
    }

    /// The units that it names.
    pub(super) fn units(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().flatten().filter(|(field, _)| field == UNIT).map(|(_, value)| value.as_str())
    }

    /// With every unit replaced by the names that it has in the journal.
    pub(super) fn with_units(&self, names_of: impl Fn(&str) -> Vec<String>) -> Self {
        let terms = |(field, value): &(String, String)| -> Vec<(String, String)> {
            let values = if field == UNIT { names_of(value) } else { vec![value.clone()] };
            values.into_iter().map(|value| (field.clone(), value)).collect()
        };
        Self { groups: self.groups.iter().map(|group| group.iter().flat_map(terms).collect()).collect() }
    }
}

/// Whether sd_journal_add_match(3) takes it, `match_is_valid` of sd-journal.c.
fn is_name(field: &str) -> bool {
    let is_part = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    !field.is_empty() && !field.starts_with("__") && field.chars().all(is_part)
}

impl fmt::Display for JournalMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, group) in self.groups.iter().enumerate() {
            if n > 0 {
                f.write_str(" + ")?;
            }
            for (n, (field, value)) in group.iter().enumerate() {
                let space = if n > 0 { " " } else { "" };
                write!(f, "{space}{field}={value}")?;
            }
        }
        Ok(())
    }
}

/// The field that names the unit.
pub(super) const UNIT: &str = "_SYSTEMD_UNIT";

/// Groups of fields, each as the numbers of the values that it may have.
type Groups = Vec<Vec<Vec<usize>>>;

/// The jails, and what each wants, in a form that looks at each field of an entry once.
pub(super) struct Takers {
    /// By field, each value that is asked for and its number.
    terms: Vec<(String, Vec<(String, usize)>)>,
    /// By jail, groups; each is satisfied if every one of its fields has one of these values.
    jails: Vec<(Arc<str>, Groups)>,
    count: usize,
}

/// Which of the values that are asked for an entry has, by their number.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<bool>);

impl Takers {
    pub(super) fn new(jails: &[(String, JournalMatch)]) -> Self {
        let mut takers = Self { terms: Vec::new(), jails: Vec::new(), count: 0 };
        for (jail, wanted) in jails {
            let groups = wanted.groups.iter().map(|group| takers.group(group)).collect();
            takers.jails.push((jail.as_str().into(), groups));
        }
        takers
    }

    fn group(&mut self, group: &[(String, String)]) -> Vec<Vec<usize>> {
        let mut fields: Vec<(&str, Vec<usize>)> = Vec::new();
        for (field, value) in group {
            let number = self.number(field, value);
            match fields.iter_mut().find(|(name, _)| name == field) {
                Some((_, alternatives)) => alternatives.push(number),
                None => fields.push((field, vec![number])),
            }
        }
        fields.into_iter().map(|(_, alternatives)| alternatives).collect()
    }

    fn number(&mut self, field: &str, value: &str) -> usize {
        let at = self.terms.iter().position(|(name, _)| name == field).unwrap_or_else(|| {
            self.terms.push((field.to_owned(), Vec::new()));
            self.terms.len() - 1
        });
        let values = &mut self.terms[at].1;
        if let Some((_, number)) = values.iter().find(|(known, _)| known == value) {
            return *number;
        }
        values.push((value.to_owned(), self.count));
        self.count += 1;
        self.count - 1
    }

    /// Forgets the entry before.
    pub(super) fn clear(&self, held: &mut Held) {
        held.0.clear();
        held.0.resize(self.count, false);
    }

    /// Notes a field of the entry.
    pub(super) fn note(&self, field: &[u8], value: &[u8], held: &mut Held) {
        let Some((_, values)) = self.terms.iter().find(|(name, _)| name.as_bytes() == field) else { return };
        for (_, number) in values.iter().filter(|(wanted, _)| wanted.as_bytes() == value) {
            held.0[*number] = true;
        }
    }

    /// The jails that want an entry that has this.
    pub(super) fn of(&self, held: &Held) -> impl Iterator<Item = &Arc<str>> {
        let has_one = |alternatives: &Vec<usize>| alternatives.iter().any(|number| held.0[*number]);
        let wants = move |groups: &Groups| groups.iter().any(|group| group.iter().all(has_one));
        self.jails.iter().filter(move |(_, groups)| wants(groups)).map(|(jail, _)| jail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_one_name_are_alternatives_and_different_ones_must_all_hold() {
        let wanted =
            JournalMatch::parse("_SYSTEMD_UNIT=a.service _SYSTEMD_UNIT=b.service _UID=0 + _COMM=sshd")
                .unwrap();
        let takers = Takers::new(&[("sshd".to_owned(), wanted)]);
        let accepts = |fields: &[(&str, &str)]| {
            let mut held = Held::default();
            takers.clear(&mut held);
            fields.iter().for_each(|(field, value)| {
                takers.note(field.as_bytes(), value.as_bytes(), &mut held);
            });
            takers.of(&held).map(|jail| &**jail).eq(["sshd"])
        };
        assert!(accepts(&[("_SYSTEMD_UNIT", "b.service"), ("_UID", "0")]));
        assert!(!accepts(&[("_SYSTEMD_UNIT", "b.service"), ("_UID", "1000")]));
        assert!(accepts(&[("_COMM", "sshd")]));
        assert!(!accepts(&[]));
    }

    #[test]
    fn what_is_no_journalmatch_is_refused() {
        for text in ["", "+", "sshd.service", "=x", "foo=bar", "__CURSOR=x", "_COMM =x"] {
            assert!(JournalMatch::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn units_are_replaced_by_their_names() {
        let wanted = JournalMatch::parse("_SYSTEMD_UNIT=sshd.service _UID=0").unwrap();
        let resolved = wanted.with_units(|_| vec!["ssh.service".into(), "sshd.service".into()]);
        assert_eq!(resolved.to_string(), "_SYSTEMD_UNIT=ssh.service _SYSTEMD_UNIT=sshd.service _UID=0");
    }
}
