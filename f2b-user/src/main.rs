//! The binary `f2b`: everything is in the library; here only the exit code is decided.

use std::process::ExitCode;

fn main() -> ExitCode {
    f2b::cli::main()
}
