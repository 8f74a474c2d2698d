//! What the groups of a match caught.

use super::{expression::Text, name::Name};

/// Room for the groups of most matches, with what is known of their connection.
const USUAL: usize = 12;

/// The named groups of a match, in the order of the expression; those that took no part have no value. As Python's
/// dictionaries: a new value of a known name stays at its place.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups {
    /// The bits of their names: most questions are about names that are not there.
    bits: u32,
    pairs: Vec<(Name, Option<Text>)>,
}

impl Groups {
    /// Itself, with room if it is empty.
    pub(super) fn with_room(self) -> Self {
        if self.pairs.is_empty() { Self { bits: 0, pairs: Vec::with_capacity(USUAL) } } else { self }
    }

    fn place(&self, name: Name) -> Option<usize> {
        if self.bits & name.bit() == 0 {
            return None;
        }
        self.pairs.iter().position(|(known, _)| *known == name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Name, Option<&Text>)> {
        self.pairs.iter().map(|(name, value)| (*name, value.as_ref()))
    }

    pub(super) fn get(&self, name: Name) -> Option<&str> {
        self.pairs[self.place(name)?].1.as_deref()
    }

    /// Whether the group caught something.
    pub(super) fn is_set(&self, name: Name) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }

    /// Whether no group says whom to charge.
    pub(super) fn names_nobody(&self) -> bool {
        [Name::FID, Name::IP4, Name::IP6, Name::DNS].iter().all(|name| self.get(*name).is_none())
    }

    pub(super) fn set(&mut self, name: Name, value: Option<Text>) {
        match self.place(name) {
            Some(place) => self.pairs[place].1 = value,
            None => self.push(name, value),
        }
    }

    /// Adds one with a name that is not there.
    pub(super) fn push(&mut self, name: Name, value: Option<Text>) {
        self.bits |= name.bit();
        self.pairs.push((name, value));
    }

    /// Takes over all of `other`.
    pub(super) fn update(&mut self, other: Self) {
        if self.pairs.is_empty() {
            *self = other;
            return;
        }
        for (name, value) in other.pairs {
            self.set(name, value);
        }
    }

    pub(super) fn remove(&mut self, name: Name) -> Option<Text> {
        // The bit stays: other names may have the same.
        self.pairs.remove(self.place(name)?).1
    }

    /// Drops those that took no part.
    pub(super) fn drop_absent(&mut self) {
        self.pairs.retain(|(_, value)| value.is_some());
    }

    pub(super) fn into_pairs(self) -> Vec<(String, Option<String>)> {
        self.pairs.into_iter().map(|(name, value)| (name.text().into(), value.map(String::from))).collect()
    }
}
