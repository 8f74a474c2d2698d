use anyhow::Result;

use crate::{
    cargo::{self, Workspace, cargo},
    lint,
    setup::{self, Mode, Need},
    step::{self, Step},
};

xflags::xflags! {
    /// Lint, the tests that need no privileges, then each of those that do, as root.
    cmd test {
        /// Just this step, by the name in its heading.
        optional --only step: String
        /// Should this machine lack anything, only say what, and fail.
        optional --no-install
    }
}

impl Test {
    pub(crate) fn run(self) -> Result<()> {
        setup::ensure(Need::Tests, Mode::new(self.no_install))?;
        step::run_all(step::only(steps(&Workspace::load()?)?, self.only.as_deref())?)
    }
}

fn steps(workspace: &Workspace) -> Result<Vec<Step>> {
    let mut steps = lint::steps(workspace);
    steps.push(Step::new("unprivileged", cargo(["test", "--workspace"])));
    // It names the modules that it takes from the agent, and what they need, by hand.
    steps.push(Step::new("fuzz-targets", cargo(["check", "--manifest-path", "fuzz/Cargo.toml"])));
    for name in &workspace.privileged_tests {
        steps.push(Step::new(name, cargo::test_as_root(name)?));
    }
    Ok(steps)
}
