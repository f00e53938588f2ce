//! Loads, breaks and judges Flotilla.
#![forbid(unsafe_code)]
