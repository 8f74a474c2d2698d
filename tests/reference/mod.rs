//! The real fail2ban, as the judge: Debian's package, fetched and unpacked into a scratch folder under `target/`. It
//! is never installed and never becomes part of the repository.
#![allow(dead_code, unreachable_pub, reason = "each test target uses a part of it")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

/// The unpacked package.
pub struct Fail2ban {
    root: PathBuf,
}

/// Fetches fail2ban once. A failed download fails the test: without the judge there is no verdict.
pub fn fail2ban() -> &'static Fail2ban {
    static FAIL2BAN: OnceLock<Fail2ban> = OnceLock::new();
    FAIL2BAN.get_or_init(|| {
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("reference");
        let root = scratch.join("fail2ban");
        if !root.exists() {
            fetch(&scratch, &root);
        }
        Fail2ban { root }
    })
}

fn fetch(scratch: &Path, root: &Path) {
    fs::create_dir_all(scratch).expect("target/ is writable");
    // Unpacked elsewhere and moved: another test target may be doing the same.
    let work = tempfile::tempdir_in(scratch).expect("target/ is writable");
    succeed(Command::new("apt-get").args(["download", "fail2ban"]).current_dir(work.path()));
    let package =
        fs::read_dir(work.path()).expect("it is there").next().expect("one file").expect("readable");
    let unpacked = work.path().join("root");
    succeed(Command::new("dpkg").arg("-x").arg(package.path()).arg(&unpacked));
    // Two filters of fail2ban's own tests include the stock ones at the place where its source tree has them.
    symlink(root.join("etc/fail2ban"), unpacked.join("usr/config")).expect("target/ is writable");
    if let Err(error) = fs::rename(&unpacked, root) {
        assert!(root.exists(), "{} cannot be moved: {error}", unpacked.display());
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Fail2ban {
    /// Where its Python modules are.
    pub fn modules(&self) -> PathBuf {
        self.root.join("usr/lib/python3/dist-packages")
    }

    /// Debian's `/etc/fail2ban`.
    pub fn config(&self) -> PathBuf {
        self.root.join("etc/fail2ban")
    }

    /// The real client, asked to read the configuration in `dir`.
    pub fn client(&self, dir: &Path) -> Command {
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", self.modules());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg(self.root.join("usr/bin/fail2ban-client")).arg("-c").arg(dir).arg("-d");
        command
    }

    /// Whether the real client reads the configuration in `dir`, by its exit status.
    pub fn client_reads(&self, dir: &Path) -> bool {
        self.client(dir).output().expect("python3 is installed").status.success()
    }

    /// Runs a script of ours that uses fail2ban's modules.
    pub fn python(&self, script: &str, args: &[&Path]) -> Output {
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", self.modules());
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.arg("-c").arg(script).args(args);
        command.output().expect("python3 is installed")
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the target is writable");
    for entry in fs::read_dir(from).expect("the source is readable") {
        let entry = entry.expect("the source is readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("the target is writable");
        }
    }
}
