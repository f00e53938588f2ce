//! The state machine over a real shard: what commands do, once each, at what time.

mod atomic;
mod expiry;
mod format;
mod keys;
mod once;
mod sessions;
mod strings;
mod support;
