//! Files that a path led to before they were renamed: `auth.log.1`, `auth.log-20261124`, `auth.1.log`. Not compressed ones.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::notices::Id;

/// A rotated file.
#[derive(Debug)]
pub(super) struct Rotated {
    pub(super) path: PathBuf,
    pub(super) file: Id,
    /// When it was written to the last time.
    pub(super) written: SystemTime,
}

/// Those of `path` that are in its folder, the oldest first.
pub(super) fn rotated(path: &Path) -> Vec<Rotated> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let named =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|found| is_rotated(found, name)));
    let files =
        named.filter_map(|entry| Some((entry.path(), entry.metadata().ok().filter(Metadata::is_file)?)));
    let mut rotated: Vec<_> = files
        .filter_map(|(path, data)| {
            Some(Rotated { path, file: (data.dev(), data.ino()), written: data.modified().ok()? })
        })
        .collect();
    rotated.sort_unstable_by(|a, b| (a.written, &a.path).cmp(&(b.written, &b.path)));
    rotated
}

/// Whether a file of this name was called `name`: a number or a date was put behind it, or before its ending.
fn is_rotated(found: &str, name: &str) -> bool {
    let (stem, ending) = name.rsplit_once('.').unwrap_or((name, ""));
    let before_ending = || found.strip_prefix(stem)?.strip_suffix(ending)?.strip_suffix('.');
    let is_number = |text: &str| {
        text.starts_with(['.', '-', '_'])
            && text.contains(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || ['.', '-', '_'].contains(&c))
    };
    found.strip_prefix(name).is_some_and(is_number)
        || !ending.is_empty() && before_ending().is_some_and(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_are_known_by_their_names() {
        for found in
            ["auth.log.1", "auth.log-20261124", "auth.log-20261124-1795", "auth.1.log", "auth-20261124.log"]
        {
            assert!(is_rotated(found, "auth.log"), "{found}");
        }
        for found in [
            "auth.log",
            "auth.log.1.gz",
            "auth.log.old",
            "auth.log.",
            "auth2.log",
            "auth.log1",
            "other.log.1",
        ] {
            assert!(!is_rotated(found, "auth.log"), "{found}");
        }
        assert!(is_rotated("secure-20261124", "secure") && !is_rotated("secure", "secure"));
    }

    #[test]
    fn the_oldest_come_first_whatever_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        for (name, seconds) in
            [("a.log", 9), ("a.log.1", 7), ("a.log.2", 8), ("a.log.3", 1), ("a.log.4.gz", 0)]
        {
            let file = std::fs::File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).unwrap();
        }
        let found = rotated(&dir.path().join("a.log"));
        let names: Vec<_> =
            found.iter().map(|found| found.path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.log.3", "a.log.1", "a.log.2"]);
    }
}
