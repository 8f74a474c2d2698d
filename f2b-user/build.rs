//! Builds the kernel half for the BPF target and leaves the object in `OUT_DIR/f2b`.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=PATH");
    // SAFETY: a build script's `main` runs alone; no other thread reads the environment yet.
    // The BPF target has no prebuilt core library; building one asks a stable compiler for an unstable option.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    // SAFETY: as above. Without it, each crate that the inner cargo compiles comes out as a warning of the outer one.
    unsafe { std::env::set_var("CARGO_TERM_QUIET", "true") };
    aya_build::build_ebpf(
        [Package {
            name: "f2b-ebpf",
            root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../f2b-ebpf"),
            no_default_features: true,
            features: &["kernel"],
        }],
        toolchain(),
    )
    .context("the eBPF program does not build; `cargo xtask setup` installs what it needs")
}

/// Debian's compiler linked into rustup as `bpf`, else a nightly with its library source. Without rustup, aya-build
/// takes the cargo in `PATH`, whatever is answered here.
fn toolchain() -> Toolchain<'static> {
    let has_source = |name: &str| {
        let sysroot = Command::new("rustup")
            .args(["run", name, "rustc", "--print", "sysroot"])
            .stderr(Stdio::null())
            .output();
        sysroot.is_ok_and(|output| {
            let sysroot = String::from_utf8_lossy(&output.stdout);
            output.status.success()
                && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core").exists()
        })
    };
    if has_source("bpf") || !has_source("nightly") { Toolchain::Custom("bpf") } else { Toolchain::Nightly }
}
