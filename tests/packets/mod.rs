//! Frames, and the programs to run them through by the kernel's `BPF_PROG_TEST_RUN`: no network needed.
//!
//! - [`Frame`] builds a frame layer by layer
//! - [`Filter`] is a program with its maps, on no interface
//! - [`Verdict`] says what becomes of a frame, and under which counter it must be found
#![allow(dead_code, unused_imports, unreachable_pub, reason = "each test target uses a part of it")]

mod filter;
pub mod frame;

pub use self::{
    filter::{Action, Filter, Place, Updates, Verdict, all_ports, combine, monotonic, slot, sum},
    frame::Frame,
};
