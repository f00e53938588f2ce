//! The router over three nodes in one process.

mod attempts;
mod over_shards;
mod world;
