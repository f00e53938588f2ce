//! The way from libFuzzer to `flotilla_fuzz::snapshot_chunks`, where the target is.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flotilla_fuzz::snapshot_chunks::run(input));
