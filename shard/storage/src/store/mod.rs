//! The store: a memtable for each shard above one redb file for the node.
//!
//! Applying a command to redb costs tens of microseconds and a sync; applying it to a memtable
//! costs well under one and no sync, because the journal has the command already. So commands go
//! into memtables, and now and then a *checkpoint* merges frozen memtables of many shards into
//! redb, in key order and in one durable commit, which also records how far each shard's log is in
//! it. What was overwritten in between never reaches the disk. On opening, the journal replays the
//! rest.
//!
//! ```text
//! lane: Shard::apply ─> active memtable          readers: View = memtables, then snapshot
//!       Shard::freeze ─> frozen memtable ─┐
//! checkpoint thread: merge ─> commit ─> publish snapshot ─> drop frozen memtable ─> tell the lane
//! ```
//!
//! Invariants:
//!
//! * Rows, applied index, version, extents and meta of a shard change in one commit.
//! * A frozen memtable is dropped only after a snapshot from after its commit is published; a
//!   reader loads the memtables first and the snapshot second. So no reader misses a row.
//! * Readers never see half a command. Point reads see the newest state, pages one pinned version.
//! * Nothing is read from redb unchecked: each row has a checksum over key and value.
//! * redb first, journal second: the journal is cut only after the checkpoint was reported.
//!
//! What is absent: terms (a label here), the log, leadership, clocks. Expiry is stored, not acted
//! on. The bytes on disk are described in `docs/store-format.md`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::GroupId;
use crate::range::KeyRange;

mod backend;
mod base;
mod base_read;
mod checkpoint;
mod cursor;
mod error;
mod extent;
mod key;
mod memtable;
mod merge;
mod metrics;
mod pool;
mod row;
mod shard;
mod tombstones;
mod view;

pub use backend::OpenBackend;
pub use base::{DamagedShard, FORMAT_VERSION, StoreOptions};
pub use checkpoint::{CheckpointCompletion, CheckpointHandle, Checkpointed, Checkpointer};
pub use error::StoreError;
pub use extent::{Extent, ShardState, TableId};
pub use metrics::StoreMetrics;
pub use pool::ReadPool;
pub use row::Row;
pub use shard::{Frozen, Lookup, RowChange, Shard, ShardReader};
pub use view::{Page, PageOptions, View};

/// The store of one node. Clones are handles to the same store; the file is closed with the last.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    base: base::Base,
    damaged: Vec<DamagedShard>,
}

impl Store {
    /// Opens the store in `dir`, created if there is none, and returns the shards that it holds, by
    /// group. Tables that no shard names are dropped.
    ///
    /// A shard whose record is damaged is not among them: see [`Store::damaged`].
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::Format`] if it is of
    /// another format, [`StoreError::File`] or [`StoreError::Database`] if the disk refuses.
    pub fn open(
        dir: &Path,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Store, Vec<ShardState>), StoreError> {
        Ok(Store::assemble(base::Base::open(dir, options, metrics)?))
    }

    /// Opens a store on whatever `open_backend` gives access to, such as a simulated disk. Creating
    /// and syncing directories is the backend's affair.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_with_backend(
        open_backend: OpenBackend,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Store, Vec<ShardState>), StoreError> {
        Ok(Store::assemble(base::Base::open_with_backend(open_backend, options, metrics)?))
    }

    fn assemble((base, damaged): (base::Base, Vec<DamagedShard>)) -> (Store, Vec<ShardState>) {
        let states = base.states();
        (Store { inner: Arc::new(Inner { base, damaged }) }, states)
    }

    /// Shards whose records could not be read on opening. Their tables are kept.
    pub fn damaged(&self) -> &[DamagedShard] {
        &self.inner.damaged
    }

    /// A new shard without rows. It is on disk with its first checkpoint, not before; `meta` is
    /// what
    /// [`Shard::meta`] says until then.
    ///
    /// # Panics
    ///
    /// If the store holds the group already: its rows would show through.
    pub fn create_shard(&self, group: GroupId, range: KeyRange, meta: Bytes) -> Shard {
        let known = self.base().snapshot().state(group).is_some();
        assert!(!known, "shard {group} exists: open it");
        let state =
            ShardState { group, applied: (0, 0), version: 0, rows: 0, extents: Vec::new(), meta };
        Shard::new(self, range, &state)
    }

    /// Opens a shard that [`Store::open`] returned. `range` is what the shard owns, as the layer
    /// above recorded it in the meta. One [`Shard`] per group at a time.
    ///
    /// # Panics
    ///
    /// If the store does not hold the shard in this state.
    pub fn open_shard(&self, state: &ShardState, range: KeyRange) -> Shard {
        let known =
            self.base().snapshot().state(state.group).is_some_and(|known| **known == *state);
        assert!(known, "shard {} is not in the store in this state", state.group);
        Shard::new(self, range, state)
    }

    /// Closes the file and opens it again, after an error of the disk. Views taken before answer
    /// [`StoreError::Reopened`] from then on. The checkpointer does this by itself; readers that
    /// meet an error may ask for it.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened. The store stays closed; this may be called again.
    pub fn reopen(&self) -> Result<(), StoreError> {
        self.base().reopen()
    }

    /// The store's metrics.
    pub fn metrics(&self) -> &StoreMetrics {
        self.base().metrics()
    }

    pub(crate) fn base(&self) -> &base::Base {
        &self.inner.base
    }
}
