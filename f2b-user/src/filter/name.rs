//! Names of groups. Each is kept once, for as long as the process lives (they come from the configuration, so they are
//! few): to compare two is to compare two addresses.

use std::{
    collections::HashMap,
    fmt,
    sync::{LazyLock, Mutex, PoisonError},
};

/// The name of a group.
#[derive(Clone, Copy)]
pub struct Name(&'static Known);

struct Known {
    text: &'static str,
    /// It tells something about the failure, and not only how to judge it.
    is_field: bool,
    /// A bit of its own for each well-known name, and one for all others.
    bit: u32,
}

impl Known {
    const fn new(text: &'static str) -> Self {
        Self { text, is_field: is_field(text), bit: bit(text) }
    }
}

macro_rules! names {
    ($($name:ident = $text:literal,)*) => {
        impl Name {
            $(pub(super) const $name: Self = {
                static KNOWN: Known = Known::new($text);
                Self(&KNOWN)
            };)*
        }

        const WELL_KNOWN: &[Name] = &[$(Name::$name),*];
        const TEXTS: &[&str] = &[$($text),*];
    };
}

names! {
    CIDR = "cidr",
    CONTENT = "content",
    DNS = "dns",
    FID = "fid",
    // A part of a second, in a date.
    FRACTION = "f",
    IP4 = "ip4",
    IP6 = "ip6",
    MLFFORGET = "mlfforget",
    MLFGAINED = "mlfgained",
    MLFID = "mlfid",
    MLFPENDING = "mlfpending",
    NOFAIL = "nofail",
    USER = "user",
    // Stands for all users of a connection. It has no value: the users are kept beside the groups.
    USERS = "users",
}

static NAMES: LazyLock<Mutex<HashMap<&'static str, Name>>> =
    LazyLock::new(|| Mutex::new(WELL_KNOWN.iter().map(|name| (name.text(), *name)).collect()));

impl Name {
    pub(super) fn new(text: &str) -> Self {
        // A panic elsewhere leaves the map as it was.
        let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(text) {
            return *known;
        }
        let text: &'static str = Box::leak(text.into());
        let name = Self(Box::leak(Box::new(Known::new(text))));
        names.insert(text, name);
        name
    }

    pub(super) fn text(self) -> &'static str {
        self.0.text
    }

    pub(super) fn is_field(self) -> bool {
        self.0.is_field
    }

    /// A bit of its own if it is well known; the highest if not.
    pub(super) fn bit(self) -> u32 {
        self.0.bit
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Name {}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text().fmt(f)
    }
}

const fn is_field(text: &str) -> bool {
    let hidden = [
        ("fid", false),
        ("ip4", false),
        ("ip6", false),
        ("dns", false),
        ("mlfid", false),
        ("cidr", false),
        ("nofail", false),
        ("skiplines", true),
        ("alt_", true),
        ("tuple_", true),
        ("mlf", true),
    ];
    let mut at = 0;
    while at < hidden.len() {
        let (name, is_prefix) = hidden[at];
        if starts_with(text.as_bytes(), name.as_bytes()) && (is_prefix || text.len() == name.len()) {
            return false;
        }
        at += 1;
    }
    true
}

const fn bit(text: &str) -> u32 {
    let mut at = 0;
    while at < TEXTS.len() {
        let known = TEXTS[at];
        if starts_with(text.as_bytes(), known.as_bytes()) && text.len() == known.len() {
            return 1 << at;
        }
        at += 1;
    }
    1 << 31
}

const fn starts_with(text: &[u8], prefix: &[u8]) -> bool {
    let mut at = 0;
    while at < prefix.len() {
        if at >= text.len() || text[at] != prefix[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        assert_eq!(Name::new("user"), Name::USER);
        assert_eq!(Name::new("a name"), Name::new(&String::from("a name")));
        assert_ne!(Name::new("a name"), Name::new("another"));
        assert_eq!(Name::new("a name").text(), "a name");
    }

    #[test]
    fn what_only_tells_how_to_judge_is_no_field() {
        for name in ["user", "port", "content", "fids", "users"] {
            assert!(Name::new(name).is_field(), "{name}");
        }
        for name in ["fid", "ip4", "nofail", "mlfid", "mlfpending", "alt_user", "tuple_x", "skiplines1"] {
            assert!(!Name::new(name).is_field(), "{name}");
        }
    }
}
