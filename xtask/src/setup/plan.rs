//! What is to be done about it: facts in, command lines out.

use std::fmt;

use super::{Need, facts::Facts};
use crate::privilege::Privilege;

/// The C compiler is for the bundled SQLite.
const TO_BUILD: &[&str] = &["gcc", "libc6-dev"];
/// A current compiler with the source of its library, which rustup has for nightlies only.
const EBPF_COMPILER: &[&str] = &["cargo-web", "rust-web-src", "rustc-web"];
const TO_LINT_WITHOUT_RUSTUP: &[&str] = &["rust-web-clippy", "rustfmt-web"];
/// The lab: network namespaces, a journald, an sshd and its attacker, journals of other machines, a look at the maps.
/// Python runs the real fail2ban that ours is compared with, which reads journals through python3-systemd; qemu runs other kernels.
const TO_TEST: &[&str] = &[
    "binutils",
    "bpftool",
    "iproute2",
    "openssh-client",
    "openssh-server",
    "python3",
    "python3-systemd",
    "qemu-system-x86",
    "systemd",
    "systemd-journal-remote",
    "util-linux",
];
/// What a packet bench compares with. `ethtool` gives a veth a receive path of its own.
const TO_BENCH: &[&str] = &["ethtool", "ipset", "iptables", "nftables", "xdp-tools"];

/// libFuzzer is written in C++.
const TO_FUZZ: &[&str] = &["g++"];

#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

#[derive(Debug, PartialEq)]
pub(super) struct Step {
    pub(super) what: &'static str,
    /// For the shell, and to be read.
    pub(super) command: String,
    pub(super) run_by: RunBy,
    pub(super) when: When,
}

#[derive(Debug, PartialEq)]
pub(super) enum RunBy {
    User,
    Root,
}

#[derive(Debug, PartialEq)]
pub(super) enum When {
    Now,
    /// The command is known in full only when the steps before it are done.
    Later,
}

impl Plan {
    pub(super) fn new(facts: &Facts, need: Need, privilege: Privilege) -> Self {
        let mut steps = packages(facts, need);
        if need.builds_agent() {
            steps.extend(compiler(facts));
        }
        if need.lints() && facts.rustup && !facts.lint_tools {
            steps.push(Step::user("clippy and rustfmt", "rustup component add clippy rustfmt"));
        }
        if need.builds_agent() {
            steps.extend(bpf_linker(facts));
        }
        if need == Need::Fuzz && !facts.cargo_fuzz {
            steps.push(Step::user("cargo-fuzz", "cargo install cargo-fuzz --locked"));
        }
        if need.enforces() && !facts.bpffs {
            steps.push(Step::root("BPF file system", "mount -t bpf bpf /sys/fs/bpf"));
        }
        if privilege == Privilege::Sudo {
            for step in steps.iter_mut().filter(|step| step.run_by == RunBy::Root) {
                step.command.insert_str(0, "sudo ");
            }
        }
        Self { steps }
    }
}

fn packages(facts: &Facts, need: Need) -> Vec<Step> {
    let mut wanted: Vec<String> = Vec::new();
    let mut want = |names: &[&str]| wanted.extend(names.iter().map(|&name| name.to_owned()));
    if need.builds_agent() {
        want(TO_BUILD);
    }
    if need.builds_agent() && !facts.ebpf_compiler && !facts.only_rustup_can_help() {
        want(EBPF_COMPILER);
    }
    if need.builds_agent()
        && !facts.bpf_linker
        && let Some(llvm) = facts.llvm
    {
        want(&[&llvm_package(llvm)]);
    }
    if need.lints() && !facts.rustup && !facts.lint_tools {
        want(TO_LINT_WITHOUT_RUSTUP);
    }
    if matches!(need, Need::Tests | Need::Bench) {
        want(TO_TEST);
    }
    if matches!(need, Need::Fuzz | Need::Tests) {
        want(TO_FUZZ);
    }
    if need == Need::Bench {
        want(TO_BENCH);
    }
    wanted.retain(|name| !facts.packages.contains(name));

    let mut steps = Vec::new();
    if facts.systemd_runs && wanted.iter().any(|name| name == "openssh-server") {
        // The tests start their own sshd; this machine's must not open port 22 because of them.
        steps.push(Step::root(
            "no sshd on port 22 (undo: systemctl unmask)",
            "systemctl mask ssh.service ssh.socket",
        ));
    }
    if !wanted.is_empty() {
        steps.push(Step::root("package lists", "apt-get update"));
        steps.push(Step::root("packages", apt_install(&wanted.join(" "))));
    }
    steps
}

fn compiler(facts: &Facts) -> Option<Step> {
    if facts.ebpf_compiler || !facts.rustup {
        None
    } else if facts.only_rustup_can_help() {
        let install = "rustup toolchain install nightly --profile minimal --component rust-src";
        Some(Step::user("eBPF compiler: a nightly with its library source", install))
    } else {
        Some(Step::user("eBPF compiler: Debian's, as toolchain `bpf`", "rustup toolchain link bpf /usr"))
    }
}

fn bpf_linker(facts: &Facts) -> Vec<Step> {
    match facts.llvm {
        _ if facts.bpf_linker => vec![],
        Some(llvm) => vec![Step::user("bpf-linker", cargo_install_bpf_linker(llvm))],
        None => vec![
            Step::root("LLVM N, the one of the eBPF compiler", apt_install(&llvm_package("N"))).later(),
            Step::user("bpf-linker for LLVM N", cargo_install_bpf_linker("N")).later(),
        ],
    }
}

fn llvm_package(major: impl fmt::Display) -> String {
    format!("llvm-{major}-dev")
}

fn apt_install(packages: &str) -> String {
    format!("env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends {packages}")
}

/// Without `LLVM_PREFIX` its build takes /usr/lib64 for LLVM's home and does not link; with `--force`, one that an
/// LLVM upgrade has broken is built anew.
fn cargo_install_bpf_linker(llvm: impl fmt::Display) -> String {
    format!(
        "LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --force --no-default-features --features llvm-{llvm}"
    )
}

impl Step {
    fn user(what: &'static str, command: impl Into<String>) -> Self {
        Self { what, command: command.into(), run_by: RunBy::User, when: When::Now }
    }

    fn root(what: &'static str, command: impl Into<String>) -> Self {
        Self { run_by: RunBy::Root, ..Self::user(what, command) }
    }

    fn later(self) -> Self {
        Self { when: When::Later, ..self }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "  {}\n      {}", step.what, step.command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Facts {
        let packages = [TO_BUILD, EBPF_COMPILER, TO_TEST, TO_FUZZ, TO_BENCH].concat();
        Facts {
            packages: packages.into_iter().map(str::to_owned).collect(),
            rustup: true,
            ebpf_compiler: true,
            llvm: Some(22),
            bpf_linker: true,
            cargo_fuzz: true,
            lint_tools: true,
            bpffs: true,
            ..Facts::default()
        }
    }

    fn commands(facts: &Facts, need: Need, privilege: Privilege) -> Vec<String> {
        Plan::new(facts, need, privilege).steps.into_iter().map(|step| step.command).collect()
    }

    #[test]
    fn a_complete_machine_needs_nothing() {
        for need in [Need::Build, Need::Lint, Need::Run, Need::Tests, Need::Fuzz, Need::Bench] {
            assert!(commands(&complete(), need, Privilege::Root).is_empty());
        }
    }

    #[test]
    fn a_fresh_machine_learns_its_llvm_from_the_compiler_it_gets() {
        let mut facts = Facts { rustup: true, ..Facts::default() };
        let plan = Plan::new(&facts, Need::Build, Privilege::Root);
        assert_eq!(
            plan.to_string(),
            "  package lists
      apt-get update
  packages
      env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev cargo-web rust-web-src rustc-web
  eBPF compiler: Debian's, as toolchain `bpf`
      rustup toolchain link bpf /usr
  LLVM N, the one of the eBPF compiler
      env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends llvm-N-dev
  bpf-linker for LLVM N
      LLVM_PREFIX=/usr/lib/llvm-N cargo install bpf-linker --force --no-default-features --features llvm-N
"
        );
        assert_eq!(plan.steps.iter().filter(|step| step.when == When::Later).count(), 2);

        facts = Facts { bpf_linker: false, llvm: Some(23), ..complete() };
        assert_eq!(
            commands(&facts, Need::Build, Privilege::Root),
            [
                "apt-get update",
                "env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends llvm-23-dev",
                "LLVM_PREFIX=/usr/lib/llvm-23 cargo install bpf-linker --force --no-default-features --features llvm-23",
            ]
        );
    }

    #[test]
    fn the_compiler_comes_from_rustup_where_apt_has_none() {
        let facts = Facts { ebpf_compiler: false, apt_lacks_compiler: true, ..complete() };
        assert_eq!(
            commands(&facts, Need::Build, Privilege::Root),
            ["rustup toolchain install nightly --profile minimal --component rust-src"]
        );
    }

    #[test]
    fn only_fuzzing_needs_a_fuzzer() {
        let mut facts = Facts { cargo_fuzz: false, ..complete() };
        assert!(commands(&facts, Need::Tests, Privilege::Root).is_empty());
        facts.ebpf_compiler = false;
        facts.bpf_linker = false;
        assert_eq!(commands(&facts, Need::Fuzz, Privilege::Root), ["cargo install cargo-fuzz --locked"]);
    }

    #[test]
    fn sudo_is_for_what_needs_root() {
        let facts = Facts { ebpf_compiler: false, bpffs: false, ..complete() };
        assert_eq!(
            commands(&facts, Need::Run, Privilege::Sudo),
            ["rustup toolchain link bpf /usr", "sudo mount -t bpf bpf /sys/fs/bpf"]
        );
        assert_eq!(commands(&facts, Need::Build, Privilege::Sudo), ["rustup toolchain link bpf /usr"]);
    }

    #[test]
    fn the_tests_sshd_stays_off_port_22() {
        let mut facts = Facts { systemd_runs: true, ..complete() };
        facts.packages.remove("openssh-server");
        assert_eq!(
            commands(&facts, Need::Tests, Privilege::Root)[0],
            "systemctl mask ssh.service ssh.socket"
        );
    }
}
