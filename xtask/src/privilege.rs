//! How this process becomes root where it must.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Command};

use anyhow::{Result, bail};

use crate::cargo;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Privilege {
    Root,
    Sudo,
    None,
}

impl Privilege {
    pub(crate) fn current() -> Self {
        if fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0) {
            Self::Root
        } else if cargo::program("sudo").is_some() {
            Self::Sudo
        } else {
            Self::None
        }
    }

    /// `program`, run as root.
    pub(crate) fn command(self, program: impl AsRef<OsStr>) -> Result<Command> {
        match self {
            Self::Root => Ok(Command::new(program)),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.arg(program);
                Ok(sudo)
            }
            Self::None => bail!("{} needs root, and there is no sudo", program.as_ref().display()),
        }
    }
}
