//! The way from libFuzzer to `flotilla_fuzz::journal_recovery`, where the target is.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flotilla_fuzz::journal_recovery::run(input));
