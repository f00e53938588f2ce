//! The way from libFuzzer to `flotilla_fuzz::peer_frames`, where the target is.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| flotilla_fuzz::peer_frames::run(input));
