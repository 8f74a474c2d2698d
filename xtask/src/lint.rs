use std::process::Command;

use anyhow::Result;

use crate::{
    cargo::{self, Workspace, cargo},
    setup::{self, Mode, Need},
    step::{self, Step},
};

xflags::xflags! {
    /// Check formatting, then clippy on both sides of the kernel line; every warning is an error.
    cmd lint {
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Lint {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Lint, Mode::new(self.no_install))?;
        step::run_all(steps(&Workspace::load()?))
    }
}

pub(crate) fn steps(workspace: &Workspace) -> Vec<Step> {
    let mut agent = cargo(["clippy", "--workspace", "--all-targets"]);
    // `--all-targets` leaves out the tests that plain `cargo test` leaves out.
    let mut privileged = cargo(["clippy", "--package", "f2b-user"]);
    for name in &workspace.privileged_tests {
        privileged.args(["--test", name]);
    }
    let mut kernel = cargo(["clippy", "--package", "f2b-ebpf", "--features", "kernel", "--bins"]);
    for clippy in [&mut agent, &mut privileged, &mut kernel] {
        clippy.args(["--", "--deny", "warnings"]);
    }

    let mut steps = vec![Step::new("format", format()), Step::new("clippy", agent)];
    if !workspace.privileged_tests.is_empty() {
        steps.push(Step::new("clippy-privileged", privileged));
    }
    steps.push(Step::new("clippy-kernel", kernel));
    steps
}

/// `rustfmt.toml` has keys that only a nightly rustfmt knows; a stable one warns and checks the rest.
fn format() -> Command {
    let nightly = Command::new("rustup").args(["run", "nightly", "rustfmt", "--version"]).output();
    let mut format = if nightly.is_ok_and(|probe| probe.status.success()) {
        cargo::of_toolchain("nightly")
    } else {
        cargo([])
    };
    format.args(["fmt", "--all", "--check"]);
    format
}
