//! `/var/log/*/error.log` → the files that exist (Python's `glob.glob`).
//!
//! Not the crate `glob`: told to pass over hidden files, as Python does, it does not find them for `.*` either; and it
//! refuses a `[` that is not closed, and descends into folders for `**`, where Python's default does neither.

use std::path::{Path, PathBuf};

use super::jail::LogPath;

impl LogPath {
    /// The files that there are now, sorted. A link that leads nowhere is none.
    pub fn files(&self) -> Vec<PathBuf> {
        let pattern = &self.pattern;
        if !pattern.contains(['*', '?', '[']) {
            let file = PathBuf::from(pattern);
            return if file.exists() { vec![file] } else { Vec::new() };
        }
        let root = if pattern.starts_with('/') { "/" } else { "" };
        let mut found = vec![PathBuf::from(root)];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            if part.contains(['*', '?', '[']) {
                found = found.iter().flat_map(|dir| matching(dir, part)).collect();
            } else {
                found.iter_mut().for_each(|dir| dir.push(part));
            }
        }
        found.retain(|file| file.exists());
        found.sort();
        found
    }
}

/// The entries of `dir` whose name matches; hidden ones only where the pattern says so.
fn matching(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let listed = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = listed.read_dir() else {
        return Vec::new();
    };
    let pattern: Vec<char> = pattern.chars().collect();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let hidden = pattern.first() == Some(&'.');
    names
        .filter(|name| hidden || !name.starts_with('.'))
        .filter(|name| is_match(&pattern, &name.chars().collect::<Vec<_>>()))
        .map(|name| dir.join(name))
        .collect()
}

/// Whether `name` matches `pattern`: `*`, `?`, `[a-z]`, `[!a-z]`. Backtracks to the last star only.
fn is_match(pattern: &[char], name: &[char]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some('?') => Some(1),
            Some('[') => match set(&pattern[p..], name[n]) {
                Some((length, matches)) => matches.then_some(length),
                None => (name[n] == '[').then_some(1),
            },
            Some(c) => (*c == name[n]).then_some(1),
            None => None,
        };
        match (step, star) {
            (Some(length), _) => (p, n) = (p + length, n + 1),
            (None, Some((at, from))) => {
                star = Some((at, from + 1));
                (p, n) = (at + 1, from + 1);
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The length of the `[…]` at the start of `pattern`, and whether `c` is in it. `None` if it is not closed.
fn set(pattern: &[char], c: char) -> Option<(usize, bool)> {
    let negated = pattern.get(1) == Some(&'!');
    let first = if negated { 2 } else { 1 };
    // A bracket in the first place stands for itself.
    let end = first + 1 + pattern.get(first + 1..)?.iter().position(|c| *c == ']')?;
    let mut members = &pattern[first..end];
    let mut found = false;
    while let Some((&member, rest)) = members.split_first() {
        (found, members) = match rest {
            ['-', last, rest @ ..] => (found || (member..=*last).contains(&c), rest),
            rest => (found || member == c, rest),
        };
    }
    Some((end + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*error.log", "x_error.log", true),
            ("*error.log", "error.log.1", false),
            ("a?c*", "abc", true),
            ("a[b-d]e", "ace", true),
            ("a[!b-d]e", "ace", false),
            ("a[]x]e", "a]e", true),
            ("a[b", "a[b", true),
            ("*a*b*c", "xaxbxc", true),
            ("**", "x", true),
        ] {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(is_match(&chars(pattern), &chars(name)), expected, "{pattern} {name}");
        }
        let stars: Vec<_> = "*a".repeat(200).chars().chain(['b']).collect();
        assert!(!is_match(&stars, &vec!['a'; 4000]));
    }

    #[test]
    fn files_are_found_as_python_finds_them() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["a/error.log", "b/error.log", "b/.hidden.log", "c/other", "a[b", "a]e", "ab/deep/x.log", "c/é"]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        symlink("nowhere", dir.path().join("c/dangling")).unwrap();
        for (pattern, expected) in [
            ("*/*.log", "a/error.log b/error.log"),
            ("c/other", "c/other"),
            ("c/none", ""),
            ("none/*", ""),
            ("?/.*", "b/.hidden.log"),
            ("b/[.]*", ""),
            ("c/*", "c/other c/é"),
            ("c/?", "c/é"),
            ("[!a]/*.log", "b/error.log"),
            ("[a-b]/*r.log", "a/error.log b/error.log"),
            ("**/*.log", "a/error.log b/error.log"),
            ("a**/**.log", "a/error.log"),
            ("a[b", "a[b"),
            ("?[b", "a[b"),
            ("a[]x]e", "a]e"),
            ("a/../b/*.log", "a/../b/error.log"),
            ("*/../b/*r.log", "a/../b/error.log ab/../b/error.log b/../b/error.log c/../b/error.log"),
            ("", ""),
        ] {
            let root = dir.path().display().to_string();
            let pattern = if pattern.is_empty() { String::new() } else { format!("{root}/{pattern}") };
            let files = LogPath { pattern: pattern.clone(), from: "head".into() }.files();
            let files: Vec<_> = files
                .iter()
                .map(|file| file.display().to_string().replace(&format!("{root}/"), ""))
                .collect();
            assert_eq!(files.join(" "), expected, "{pattern}");
        }
    }
}
