#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| f2b_fuzz::journal(data));
