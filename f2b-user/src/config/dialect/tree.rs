//! The files of one configuration: which there are, in which order they are laid over each other, and which further
//! ones they name in `[INCLUDES]` (`client/configreader.py`, `ConfigReaderUnshared.read`; `client/configparserinc.py`,
//! `_getIncludes`).

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::{Result, bail};

use super::{
    Budget, INCLUDES, Options, Sections,
    files::{BUILT_IN_DIR, Files},
    parse::{File, parse},
};

/// How deep files may include files. fail2ban runs into Python's recursion limit, and refuses its configuration.
const MAX_INCLUDE_DEPTH: usize = 64;
/// How many files may make up one configuration, counting those that are included twice.
const MAX_FILES: usize = 4096;

/// One configuration tree: the built-in one, the user's, or the user's laid over the built-in one. Each file is read
/// once.
#[derive(Debug)]
pub struct Tree {
    dir: Option<PathBuf>,
    built_in: bool,
    files: Files,
    parsed: RefCell<HashMap<PathBuf, Option<Rc<File>>>>,
    include_lists: RefCell<HashMap<Vec<PathBuf>, Rc<Vec<PathBuf>>>>,
    warnings: RefCell<Vec<String>>,
    reads: RefCell<Vec<Vec<PathBuf>>>,
    budget: Budget,
}

impl Tree {
    /// The tree at `dir`. Without its own `jail.conf` it is laid over the built-in tree, so that five lines of
    /// `jail.local` are enough.
    pub fn new(dir: Option<&Path>) -> Self {
        Self::of(dir.map(Path::to_owned), Files::Disk)
    }

    /// The tree of `files`, by their path from `/`; nothing is read from the disk.
    pub(crate) fn in_memory(files: BTreeMap<PathBuf, Vec<u8>>) -> Self {
        Self::of(Some("/".into()), Files::Memory(files))
    }

    fn of(dir: Option<PathBuf>, files: Files) -> Self {
        let complete = dir.as_ref().is_some_and(|dir| files.exists(&dir.join("jail.conf")));
        Self {
            dir,
            built_in: !complete,
            files,
            parsed: RefCell::default(),
            include_lists: RefCell::default(),
            warnings: RefCell::default(),
            reads: RefCell::default(),
            budget: Budget::default(),
        }
    }

    /// The directory, for `%(fail2ban_confpath)s` and messages.
    pub fn describe(&self) -> String {
        self.dir.as_ref().map_or_else(|| BUILT_IN_DIR.into(), |dir| dir.display().to_string())
    }

    /// What could not be read and was passed over, as fail2ban does it.
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// The files that were read, or looked for, one by one; and lists of those that were laid over each other.
    pub fn take_reads(&self) -> Vec<Vec<PathBuf>> {
        self.reads.take()
    }

    /// Whether any value that was read refers to an option of this name, as `%(option)s` or as `<option>`.
    pub fn mentions(&self, option: &str) -> bool {
        let ways = [format!("{option})s"), format!("{option}>")];
        let mentions = |text: &str| {
            let text = text.to_lowercase();
            ways.iter().any(|way| text.contains(way))
        };
        let parsed = self.parsed.borrow();
        parsed.values().flatten().any(|file| file.values().any(|value| mentions(&value.text)))
    }

    /// The sections of `stem` (`jail`, `filter.d/sshd`): `stem.conf`, `stem.d/*.conf`, `stem.local`,
    /// `stem.d/*.local`, each overriding what came before. `None` if none of them can be read.
    ///
    /// # Errors
    /// A file that is not in the dialect: fail2ban refuses its whole configuration then.
    pub fn sections(&self, stem: &str) -> Result<Option<Sections>> {
        let mut files = Vec::new();
        for suffix in ["conf", "local"] {
            let name = format!("{stem}.{suffix}");
            if self.built_in {
                files.push(Path::new(BUILT_IN_DIR).join(&name));
            }
            if let Some(dir) = &self.dir {
                files.push(dir.join(&name));
                files.extend(self.drop_ins(&dir.join(format!("{stem}.d")), suffix));
            }
        }
        files.retain(|file| self.files.exists(file));
        self.laid_over(&files)
    }

    /// The sections of one file by itself, with those that it includes. `None` if it cannot be read.
    ///
    /// # Errors
    /// A file that is not in the dialect.
    pub fn file_sections(&self, file: &Path) -> Result<Option<Sections>> {
        self.laid_over(&[file.to_owned()])
    }

    fn laid_over(&self, files: &[PathBuf]) -> Result<Option<Sections>> {
        let mut sections = Sections::new(&self.budget);
        let mut found = false;
        let files = self.with_includes(files, &[])?;
        if !files.is_empty() {
            self.reads.borrow_mut().push(files.to_vec());
        }
        for file in files.iter() {
            if let Some(file) = self.file(file)? {
                sections.lay_over(&file);
                found = true;
            }
        }
        Ok(found.then_some(sections))
    }

    /// The names of the files in `folder`, without `.conf` and `.local`, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let folders =
            self.dir.iter().map(PathBuf::as_path).chain(self.built_in.then_some(Path::new(BUILT_IN_DIR)));
        let mut paths: Vec<_> =
            folders.flat_map(|dir| self.files.list(&dir.join(folder)).unwrap_or_default()).collect();
        paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "conf" || suffix == "local"));
        let stems = paths.iter().filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()));
        let mut names: Vec<String> = stems.collect();
        names.sort();
        names.dedup();
        names
    }

    /// The files `dir/*.suffix`, sorted.
    fn drop_ins(&self, dir: &Path, suffix: &str) -> Vec<PathBuf> {
        let mut files = match self.files.list(dir) {
            Ok(files) => files,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.warn(format!("{} cannot be read: {error}", dir.display()));
                }
                return Vec::new();
            }
        };
        files.retain(|file| {
            let name = file.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| !name.starts_with('.') && name.ends_with(&format!(".{suffix}")))
        });
        files
    }

    /// `files` with the files that they include, in the order in which they are laid over each other. `above` are the
    /// files that include these: naming one of them again is passed over.
    fn with_includes(&self, files: &[PathBuf], above: &[PathBuf]) -> Result<Rc<Vec<PathBuf>>> {
        let mut with_locals = Vec::new();
        for file in files {
            with_locals.push(file.clone());
            let local = file.with_extension("local");
            if !files.contains(&local) && self.files.exists(&local) {
                with_locals.push(local);
            }
        }
        if let Some(list) = self.include_lists.borrow().get(&with_locals) {
            return Ok(Rc::clone(list));
        }
        let mut all = Vec::new();
        for file in &with_locals {
            let Some(content) = self.file(file)? else { continue };
            all.extend(self.included(file, &content, "before", above)?);
            all.push(file.clone());
            all.extend(self.included(file, &content, "after", above)?);
            if all.len() > MAX_FILES {
                bail!("{}: more than {MAX_FILES} files are included", file.display());
            }
        }
        let all = Rc::new(all);
        self.include_lists.borrow_mut().insert(with_locals, Rc::clone(&all));
        Ok(all)
    }

    /// The files that `file` names in the option `which` of its `[INCLUDES]`, with those that they include.
    fn included(&self, file: &Path, content: &File, which: &str, above: &[PathBuf]) -> Result<Vec<PathBuf>> {
        if !content.sections.contains_key(INCLUDES) {
            return Ok(Vec::new());
        }
        let mut alone = Sections::new(&self.budget);
        alone.lay_over(content);
        let Some(names) = alone.get(INCLUDES, which, &Options::new())? else {
            return Ok(Vec::new());
        };
        if above.len() >= MAX_INCLUDE_DEPTH {
            bail!("{}: files include each other more than {MAX_INCLUDE_DEPTH} deep", names.place);
        }
        let mut here = above.to_vec();
        here.push(file.to_owned());
        let mut all = Vec::new();
        for name in names.text.split('\n').filter(|name| !name.is_empty()) {
            let named = file.parent().unwrap_or(Path::new("")).join(name);
            if !above.contains(&named) {
                all.extend(self.with_includes(&[self.or_built_in(named)], &here)?.iter().cloned());
            }
        }
        Ok(all)
    }

    /// The file, or its namesake in the built-in tree if only that one exists.
    fn or_built_in(&self, file: PathBuf) -> PathBuf {
        let inside = self.dir.as_ref().and_then(|dir| file.strip_prefix(dir).ok());
        match inside {
            Some(inside) if self.built_in && !self.files.exists(&file) => {
                let inside = Path::new(BUILT_IN_DIR).join(inside);
                if self.files.exists(&inside) { inside } else { file }
            }
            _ => file,
        }
    }

    /// One file, parsed. `None` if it cannot be read: fail2ban passes over it as well.
    fn file(&self, path: &Path) -> Result<Option<Rc<File>>> {
        if let Some(file) = self.parsed.borrow().get(path) {
            return Ok(file.clone());
        }
        self.reads.borrow_mut().push(vec![path.to_owned()]);
        let file = match self.files.read(path) {
            Ok(text) => Some(Rc::new(parse(&text, &path.display().to_string())?)),
            Err(error) => {
                let missing = error.downcast_ref::<io::Error>();
                if missing.is_none_or(|error| error.kind() != io::ErrorKind::NotFound) {
                    self.warn(format!("{error:#}; it is passed over"));
                }
                None
            }
        };
        self.parsed.borrow_mut().insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn warn(&self, warning: String) {
        self.warnings.borrow_mut().push(warning);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::new(Some(dir.path()));
        (dir, tree)
    }

    fn value(tree: &Tree, stem: &str) -> String {
        tree.sections(stem).unwrap().unwrap().get("a", "x", &Options::new()).unwrap().unwrap().text
    }

    #[test]
    fn files_are_laid_over_each_other_in_fail2bans_order() {
        let (_dir, tree) = tree(&[
            ("jail.conf", "[a]\nx = 1\n"),
            ("jail.d/b.conf", "[a]\nx = %(known/x)s3\n"),
            ("jail.d/a.conf", "[a]\nx = 2\n"),
            ("jail.local", "[a]\nx = %(known/x)s4\n"),
            ("jail.d/a.local", "[a]\nx = 5%(y)s\n[DEFAULT]\ny=6\n"),
        ]);
        assert_eq!(value(&tree, "jail"), "56");
    }

    #[test]
    fn includes_stand_before_and_after_their_file_and_have_local_ones() {
        let (_dir, tree) = tree(&[
            ("jail.conf", ""),
            ("filter.d/f.conf", "[INCLUDES]\nbefore = c.conf\nafter = l.local\n[a]\nx = f\ny = f\n"),
            ("filter.d/c.conf", "[a]\nx = c\ny = c\nz = c\n"),
            ("filter.d/c.local", "[a]\nz = local\n"),
            ("filter.d/l.local", "[a]\nx = %(y)s%(z)s\n"),
        ]);
        assert_eq!(value(&tree, "filter.d/f"), "flocal");
    }

    #[test]
    fn files_that_include_each_other_come_to_an_end() {
        let (_dir, tree) = tree(&[
            ("jail.conf", ""),
            ("a.conf", "[INCLUDES]\nbefore = b.conf\n a.conf\n[a]\nx = a\n"),
            ("b.conf", "[INCLUDES]\nafter = a.conf\n[a]\nx = b\n"),
            ("c.conf", "[INCLUDES]\nafter = ../c/../c.conf\n[a]\nx = c\n"),
            ("c/.keep", ""),
            ("d.conf", "[INCLUDES]\nafter = c/../d.conf\n[a]\nx = c\n"),
        ]);
        assert_eq!(value(&tree, "a"), "a");
        assert!(tree.sections("d").unwrap_err().to_string().contains("include each other"));
    }

    #[test]
    fn what_cannot_be_read_is_passed_over_and_named() {
        let (dir, tree) = tree(&[("jail.conf", "[a]\nx = 1\n")]);
        fs::write(dir.path().join("jail.local"), b"[a]\nx = \xff\n").unwrap();
        assert_eq!(value(&tree, "jail"), "1");
        assert!(tree.take_warnings()[0].contains("is not UTF-8"));
        assert!(tree.sections("nothing").unwrap().is_none());
    }
}
