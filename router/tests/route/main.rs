//! The router over three nodes in one process.

mod attempts;
mod once;
mod over_shards;
mod reads;
mod world;
