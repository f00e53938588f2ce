//! The store's own code for rows on their way, which is private there and needs nothing else of it.

#[allow(dead_code)]
#[path = "../../shard/storage/src/store/chunk.rs"]
pub(crate) mod chunk;
#[allow(dead_code)]
#[path = "../../shard/storage/src/store/row.rs"]
pub(crate) mod row;
