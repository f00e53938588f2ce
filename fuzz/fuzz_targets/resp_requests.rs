//! The way from libFuzzer to `flotilla_fuzz::resp_requests`, where the target is.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flotilla_fuzz::resp_requests::run(input));
