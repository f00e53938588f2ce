//! What the fuzz targets do with their bytes, apart from the fuzzer: so that tests can replay them.
//!
//! Each module has `run(input)`, which panics when a promise of the product is broken: more than that
//! nothing panics. `seeds` are good inputs to begin with.

pub mod choices;
pub mod journal_recovery;
pub mod memory;
pub mod peer_frames;
pub mod resp_requests;
mod rows;
pub mod seeds;
pub mod settings;
pub mod snapshot_chunks;
mod snapshot_import;

/// All targets by name.
pub const TARGETS: [(&str, fn(&[u8])); 5] = [
    ("resp_requests", resp_requests::run),
    ("peer_frames", peer_frames::run),
    ("journal_recovery", journal_recovery::run),
    ("snapshot_chunks", snapshot_chunks::run),
    ("settings", settings::run),
];

#[global_allocator]
static MEMORY: memory::Counting = memory::Counting;
