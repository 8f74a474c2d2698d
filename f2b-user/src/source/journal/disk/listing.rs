//! Which files there are, as sd_journal_open(3) and its relatives choose them.

use std::{
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::unistd::Uid;

use super::super::files::{Files, Place};

const LOCAL_ONLY: i32 = 1;
const RUNTIME_ONLY: i32 = 2;
const SYSTEM: i32 = 4;
const CURRENT_USER: i32 = 8;
const OS_ROOT: i32 = 16;
const ALL_NAMESPACES: i32 = 32;
const INCLUDE_DEFAULT_NAMESPACE: i32 = 64;

/// Where journald writes, and whether that is in memory.
const MACHINES: [(&str, bool); 2] = [("run/log/journal", true), ("var/log/journal", false)];

/// A journal file by its name. Another file has another name or another inode.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Listed {
    pub(super) path: PathBuf,
    inode: u64,
    /// It is in memory, until journald copies what is in it to the folder of the same name on the disk.
    pub(super) is_volatile: bool,
}

/// The files that are there.
///
/// # Errors
/// A folder cannot be read. That it is not there is none.
pub(super) fn list(files: &Files) -> Result<Vec<Listed>> {
    let flags = files.flags;
    let namespace = match &files.place {
        Place::Namespace(name) => Some(name.as_str()),
        Place::Machine | Place::Directory(_) | Place::These(_) => None,
    };
    let mut listed = Vec::new();
    match &files.place {
        Place::These(_) => {
            let listed = |path: PathBuf| {
                let inode = fs::metadata(&path).map_or(0, |data| data.ino());
                Listed { path, inode, is_volatile: false }
            };
            return Ok(files.paths().into_iter().map(listed).collect());
        }
        Place::Directory(path) if flags & OS_ROOT == 0 => {
            Wanted { flags, namespace, is_volatile: false }.add(path, true, &mut listed)?;
            return Ok(listed);
        }
        Place::Directory(_) | Place::Machine | Place::Namespace(_) => {}
    }
    let root = match &files.place {
        Place::Directory(root) => root,
        _ => Path::new("/"),
    };
    for (folder, is_volatile) in MACHINES {
        if flags & RUNTIME_ONLY == 0 || is_volatile {
            Wanted { flags, namespace, is_volatile }.add(&root.join(folder), true, &mut listed)?;
        }
    }
    Ok(listed)
}

struct Wanted<'a> {
    flags: i32,
    namespace: Option<&'a str>,
    is_volatile: bool,
}

impl Wanted<'_> {
    /// The files in a folder, and those of machines in folders of their own in it.
    fn add(&self, folder: &Path, with_machines: bool, listed: &mut Vec<Listed>) -> Result<()> {
        let entries = match fs::read_dir(folder) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            entries => entries.with_context(|| folder.display().to_string())?,
        };
        for entry in entries {
            let entry = entry.with_context(|| folder.display().to_string())?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if self.has_file(name) {
                let (path, inode) = (entry.path(), entry.ino());
                listed.push(Listed { path, inode, is_volatile: self.is_volatile });
            } else if with_machines && self.has_machine(name) {
                self.add(&entry.path(), false, listed)?;
            }
        }
        Ok(())
    }

    /// `file_type_wanted` of sd-journal.c: of what is not archived the name says whose it is, of what is so its beginning.
    fn has_file(&self, name: &str) -> bool {
        let Some(stem) = name.strip_suffix(".journal").or_else(|| name.strip_suffix(".journal~")) else {
            return false;
        };
        let is = |whose: &str| {
            stem.strip_prefix(whose).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
        };
        let flags = self.flags & (SYSTEM | CURRENT_USER);
        flags == 0
            || flags & SYSTEM != 0 && is("system")
            || flags & CURRENT_USER != 0 && is(&format!("user-{}", Uid::current()))
    }

    /// A machine's folder has its id as its name, and behind it the namespace if it is of one.
    fn has_machine(&self, name: &str) -> bool {
        let (machine, namespace) = match name.split_once('.') {
            Some((machine, namespace)) => (machine, Some(namespace)),
            None => (name, None),
        };
        // `unit_instance_is_valid`, as `log_namespace_name_valid` asks it.
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
        let is_id = |text: &str| {
            matches!(text.len(), 32 | 36) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        };
        let is_ours = || fs::read_to_string("/etc/machine-id").is_ok_and(|id| id.trim() == machine);
        let is_asked_for = self.flags & ALL_NAMESPACES != 0
            || self.namespace == namespace
            || self.flags & INCLUDE_DEFAULT_NAMESPACE != 0 && namespace.is_none();
        is_id(machine)
            && namespace.is_none_or(is_name)
            && is_asked_for
            && (self.flags & LOCAL_ONLY == 0 || is_ours())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = "0c32ee5a4a9b4c1b8ad6a5a0ac4f0001";

    /// What is listed below `root`.
    fn names(root: &Path, place: Place, flags: i32) -> Vec<String> {
        let listed = list(&Files { place, flags }).unwrap();
        let name = |file: &Listed| file.path.strip_prefix(root).unwrap().display().to_string();
        let mut names: Vec<String> = listed.iter().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn files_are_chosen_as_sd_journal_open_chooses_them() {
        let root = tempfile::tempdir().unwrap();
        let user = format!("user-{}", Uid::current());
        for file in [
            format!("run/log/journal/{MACHINE}/system.journal"),
            format!("var/log/journal/{MACHINE}/system@1-2.journal"),
            format!("var/log/journal/{MACHINE}/system@1-3.journal~"),
            format!("var/log/journal/{MACHINE}/{user}.journal"),
            format!("var/log/journal/{MACHINE}/{user}9.journal"),
            format!("var/log/journal/{MACHINE}/system.journal.txt"),
            format!("var/log/journal/{MACHINE}/below/system.journal"),
            format!("var/log/journal/{MACHINE}.web/system.journal"),
            "var/log/journal/remote/system.journal".to_owned(),
            "var/log/journal/system.journal".to_owned(),
        ] {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let place = |folder: &str| Place::Directory(root.path().join(folder));
        let shown = |place: Place, flags: i32| {
            let names = names(root.path(), place, flags);
            names.join(" ").replace(MACHINE, "ID").replace("/log/journal", "").replace(&user, "user")
        };
        assert_eq!(
            shown(place(""), OS_ROOT | SYSTEM),
            "run/ID/system.journal var/ID/system@1-2.journal var/ID/system@1-3.journal~ var/system.journal"
        );
        assert_eq!(shown(place(""), OS_ROOT | CURRENT_USER), "var/ID/user.journal");
        assert_eq!(shown(place(""), OS_ROOT | SYSTEM | RUNTIME_ONLY), "run/ID/system.journal");
        assert_eq!(shown(place(""), OS_ROOT | SYSTEM | LOCAL_ONLY), "var/system.journal");
        let namespaced = OS_ROOT | SYSTEM | ALL_NAMESPACES;
        assert!(shown(place(""), namespaced).contains("var/ID.web/system.journal"));
        assert_eq!(
            shown(place("var/log/journal"), 0),
            "var/ID/system@1-2.journal var/ID/system@1-3.journal~ var/ID/user.journal var/ID/user9.journal \
             var/system.journal"
        );
        assert_eq!(shown(place("nowhere"), 0), "");
        let pattern = root.path().join("var/log/journal/*/system*.journal").display().to_string();
        assert_eq!(
            shown(Place::These(vec![pattern]), 0),
            "var/ID.web/system.journal var/ID/system@1-2.journal var/remote/system.journal"
        );
    }
}
