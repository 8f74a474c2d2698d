//! What is searched for: an expression, or a filter with all that its files say.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use regex::Regex;

use crate::{
    config::{self, FilterAlone, FilterFile},
    filter::FilterSettings,
};

/// What `REGEX` names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Named {
    /// A filter of the configuration.
    Filter { dir: Option<PathBuf>, name: String, options: Vec<(String, String)> },
    /// A file outside of a configuration.
    File { path: PathBuf, options: Vec<(String, String)> },
    /// Nothing: it is an expression itself.
    Expression(String),
}

impl Named {
    /// What `text` names, as fail2ban-regex takes it, if its configuration directory is `config`; without one it is
    /// the built-in tree.
    ///
    /// # Errors
    /// Options in brackets that are none.
    pub(super) fn new(text: &str, config: Option<&Path>) -> Result<Self> {
        if !looks_like_a_name(text)? {
            return Ok(Self::Expression(text.to_owned()));
        }
        let (name, options) = config::filter_options(text)?;
        // As fail2ban looks at it: a dot among the last six characters is that of a file name.
        let tail = name.char_indices().rev().nth(5).map_or(name.as_str(), |(at, _)| &name[at..]);
        let has_suffix = tail.contains('.');
        let suffixes: &[&str] = if has_suffix { &[""] } else { &["", ".conf", ".local"] };
        if name.contains('/') {
            let exists = |suffix: &&&str| Path::new(&format!("{name}{suffix}")).is_file();
            let Some(_) = suffixes.iter().find(exists) else {
                return Ok(Self::Expression(text.to_owned()));
            };
            let path = Path::new(&name);
            let folder = path.parent().unwrap_or(Path::new(""));
            let in_filters = folder.file_name().is_some_and(|name| name == "filter.d");
            if in_filters || config == Some(folder) {
                let dir = if in_filters { folder.parent() } else { config }.map(Path::to_owned);
                return Ok(Self::Filter { dir, name: stem(path), options });
            }
            return Ok(Self::File { path: name.into(), options });
        }
        let in_filters = config.filter(|dir| dir.file_name().is_some_and(|name| name == "filter.d"));
        let dir = in_filters.map_or(config, |dir| dir.parent());
        let exists = |suffix: &&&str| match dir {
            Some(dir) => dir.join(format!("filter.d/{name}{suffix}")).is_file(),
            None => false,
        };
        let built_in = || {
            let laid_over = dir.is_none_or(|dir| dir.is_dir() && !dir.join("jail.conf").exists());
            laid_over && config::filter_names(dir).contains(&stem(Path::new(&name)))
        };
        if suffixes.iter().any(|suffix| exists(&suffix)) || built_in() {
            let dir = dir.map(Path::to_owned);
            return Ok(Self::Filter { dir, name: stem(Path::new(&name)), options });
        }
        Ok(Self::Expression(text.to_owned()))
    }

    /// Reads what its files say. `journal`: the lines come from the journal.
    ///
    /// # Errors
    /// What is wrong with the files.
    pub(super) fn read(&self, journal: bool) -> Result<FilterAlone> {
        match self {
            Self::Filter { dir, name, options } => {
                let file = FilterFile::InTree { dir: dir.clone(), name: name.clone() };
                config::filter_alone(&file, options, journal)
            }
            Self::File { path, options } => {
                let path = std::path::absolute(path).with_context(|| path.display().to_string())?;
                config::filter_alone(&FilterFile::Alone(path), options, journal)
            }
            Self::Expression(text) => Ok(FilterAlone {
                settings: FilterSettings { failregex: vec![text.clone()], ..FilterSettings::default() },
                journalmatch: Vec::new(),
                options: Vec::new(),
                reads: Vec::new(),
            }),
        }
    }
}

/// Whether it has the form of a filter's name or path, with options or without.
pub(super) fn looks_like_a_name(text: &str) -> Result<bool> {
    Ok(Regex::new(r"(?ms)^/{0,3}[\w/_\-.]+(?:\[.*\])?$")?.is_match(text))
}

/// Complains that no filter has this name, and tells which ones come near.
pub(super) fn no_such_filter(text: &str, config: Option<&Path>) -> Result<()> {
    let name = text.split_once('[').map_or(text, |(name, _)| name);
    let names = config::filter_names(config);
    let mut near: Vec<(f64, &String)> =
        names.iter().map(|known| (strsim::jaro_winkler(name, known), known)).collect();
    near.retain(|(similarity, known)| {
        *similarity > 0.8 || known.contains(name) || name.contains(known.as_str())
    });
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let near: Vec<&str> = near.iter().take(5).map(|(_, known)| known.as_str()).collect();
    let place = config.or(config::default_dir());
    let place = place.map_or_else(|| "the built-in tree".into(), |dir| dir.display().to_string());
    let hint = match &near[..] {
        [] if names.is_empty() => "it has no filter.d".into(),
        [] => format!("it has {}", names.join(", ")),
        near => format!("did you mean {}?", near.join(", ")),
    };
    bail!("there is no filter {name} in {place}; {hint}")
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
