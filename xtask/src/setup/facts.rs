//! What the machine has. Cheap enough to ask before every command: a few files and two short-lived programs, no
//! network, no cargo.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use tinyjson::JsonValue;

use crate::cargo::{self, Object};

/// All that a plan depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Debian packages, by dpkg's own record.
    pub(super) packages: BTreeSet<String>,
    pub(super) rustup: bool,
    /// There is a compiler with its library source where `f2b-user/build.rs` looks for one.
    pub(super) ebpf_compiler: bool,
    /// apt has lists, and no `rustc-web` in them.
    pub(super) apt_lacks_compiler: bool,
    /// The LLVM of the eBPF compiler, as soon as that is installed.
    pub(super) llvm: Option<u32>,
    /// `bpf-linker` starts, and reads the bitcode of that LLVM.
    pub(super) bpf_linker: bool,
    pub(super) cargo_fuzz: bool,
    /// clippy and rustfmt of the toolchain that runs this.
    pub(super) lint_tools: bool,
    pub(super) bpffs: bool,
    /// systemd is PID 1, so that installing a service starts it.
    pub(super) systemd_runs: bool,
}

impl Facts {
    pub(super) fn look() -> Self {
        let toolchains = cargo::directory("RUSTUP_HOME", ".rustup").join("toolchains");
        let packages = installed_packages(&read("/var/lib/dpkg/status"));
        let rustup = cargo::program("rustup").is_some();
        let nightly = format!("nightly-{}-unknown-linux-gnu", env::consts::ARCH);
        let sysroots = if rustup {
            vec![toolchains.join("bpf"), toolchains.join(nightly)]
        } else {
            vec![PathBuf::from("/usr")]
        };
        let compiler = sysroots.into_iter().find(|sysroot| builds_for_bpf(sysroot));
        let ebpf_compiler = compiler.is_some();
        // Installed, if not yet linked into rustup.
        let compiler = compiler.or_else(|| packages.contains("rustc-web").then(|| "/usr".into()));
        let llvm = compiler
            .as_ref()
            .and_then(|sysroot| llvm_major(&output(Command::new(sysroot.join("bin/rustc")).arg("-vV"))?));
        Self {
            rustup,
            ebpf_compiler,
            apt_lacks_compiler: compiler.is_none() && apt_lacks("rustc-web"),
            llvm,
            bpf_linker: bpf_linker_fits(llvm),
            cargo_fuzz: cargo::program("cargo-fuzz").is_some(),
            lint_tools: env::var_os("CARGO").is_some_and(|cargo| {
                let beside = |tool| Path::new(&cargo).with_file_name(tool).exists();
                beside("cargo-clippy") && beside("cargo-fmt")
            }),
            bpffs: read("/proc/mounts").lines().any(|mount| mount.contains(" /sys/fs/bpf bpf ")),
            systemd_runs: Path::new("/run/systemd/system").exists(),
            packages,
        }
    }

    pub(super) fn only_rustup_can_help(&self) -> bool {
        self.rustup && self.apt_lacks_compiler
    }
}

/// A file that cannot be read has nothing to say.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What a program says on success.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn installed_packages(dpkg_status: &str) -> BTreeSet<String> {
    let mut packages = BTreeSet::new();
    let mut package = "";
    for line in dpkg_status.lines() {
        if let Some(name) = line.strip_prefix("Package: ") {
            package = name;
        } else if line.starts_with("Status: ") && line.ends_with(" ok installed") {
            packages.insert(package.to_owned());
        }
    }
    packages
}

fn builds_for_bpf(sysroot: &Path) -> bool {
    ["bin/cargo", "bin/rustc", "lib/rustlib/src/rust/library/core"]
        .iter()
        .all(|path| sysroot.join(path).exists())
}

/// From `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Without package lists, as on a fresh machine, apt is given the benefit of the doubt.
fn apt_lacks(package: &str) -> bool {
    let mut lists = fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.any(|list| list.file_name().to_string_lossy().contains("_Packages"))
        && output(Command::new("apt-cache").args(["show", package])).is_none()
}

fn bpf_linker_fits(llvm: Option<u32>) -> bool {
    let Some(linker) = cargo::program("bpf-linker") else {
        return false;
    };
    // It no longer starts when an upgrade has replaced the libLLVM it was linked to.
    let starts = output(Command::new(&linker).arg("--version")).is_some();
    let built_for = bpf_linker_llvm(&read(cargo::home().join(".crates2.json")));
    starts && (llvm.is_none() || built_for.is_none() || built_for == llvm)
}

/// The LLVM for which `cargo install` built bpf-linker, from cargo's record of installed crates.
fn bpf_linker_llvm(crates2: &str) -> Option<u32> {
    let record: JsonValue = crates2.parse().ok()?;
    let record: &Object = record.get()?;
    let installs: &Object = record.get("installs")?.get()?;
    let (_, linker) = installs.iter().find(|(package, _)| package.starts_with("bpf-linker "))?;
    let features: &Vec<JsonValue> = linker.get::<Object>()?.get("features")?.get()?;
    features.iter().find_map(|feature| feature.get::<String>()?.strip_prefix("llvm-")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_in_its_version() {
        let version = "rustc 1.96.0 (ac68faa20 2026-05-25)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(version), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn removed_packages_are_not_installed() {
        let status = "\
Package: gcc
Status: install ok installed
Version: 4:12.2.0-3

Package: openssh-server
Status: deinstall ok config-files

Package: pkg-config
Status: hold ok installed
";
        assert_eq!(installed_packages(status), ["gcc", "pkg-config"].map(str::to_owned).into());
    }

    #[test]
    fn a_compiler_counts_with_its_library_source_only() {
        let sysroot = env::temp_dir().join(format!("xtask-sysroot-{}", std::process::id()));
        fs::create_dir_all(sysroot.join("bin")).unwrap();
        fs::write(sysroot.join("bin/cargo"), "").unwrap();
        fs::write(sysroot.join("bin/rustc"), "").unwrap();
        assert!(!builds_for_bpf(&sysroot));
        fs::create_dir_all(sysroot.join("lib/rustlib/src/rust/library/core")).unwrap();
        assert!(builds_for_bpf(&sysroot));
        fs::remove_dir_all(&sysroot).unwrap();
    }

    #[test]
    fn the_llvm_of_bpf_linker_is_in_cargos_record() {
        let record = |features| {
            format!(
                r#"{{"installs": {{"ripgrep 14.0.0 (registry)": {{"features": ["llvm-1"]}},
                "bpf-linker 0.13.0 (registry)": {{"features": {features}}}}}}}"#
            )
        };
        assert_eq!(bpf_linker_llvm(&record(r#"["llvm-22"]"#)), Some(22));
        assert_eq!(bpf_linker_llvm(&record("[]")), None);
        assert_eq!(bpf_linker_llvm(""), None);
    }
}
