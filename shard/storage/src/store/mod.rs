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
//! All rows of a shard leave as an [`Export`] and arrive as an [`Import`], which replaces them in one
//! commit. A shard that is damaged harms no other; a disk that fails is waited for.
//!
//! What is absent: terms (a label here), the log, leadership, clocks: readers and checkpoints are
//! told what time it is. The bytes on disk are described in `docs/store-format.md`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use self::merged::MergedMemtables;
use self::place::OpenedOnly;
use self::shard::ShardShared;

use crate::GroupId;
use crate::range::KeyRange;

mod backend;
mod base;
mod base_read;
mod checkpoint;
mod chunk;
mod compact;
mod cursor;
mod error;
mod export;
mod extent;
mod file;
mod import;
mod key;
mod memtable;
mod merge;
mod merged;
mod metrics;
mod place;
mod pool;
mod renew;
mod reopen;
mod row;
mod rows;
mod scrub;
mod shard;
mod size;
mod snapshot;
mod sweep;
mod tombstones;
mod view;
mod watch;
mod work;
mod worker;

pub use backend::OpenBackend;
pub use base::{DamagedShard, FORMAT_VERSION, StoreOptions};
pub use checkpoint::CheckpointReport;
pub use error::StoreError;
pub use export::Export;
pub use extent::{Extent, ShardState, TableId};
pub use import::{Import, ImportDone, ImportEnd};
pub use metrics::StoreMetrics;
pub use place::StoreFile;
pub use pool::ReadPool;
pub use row::Row;
pub use shard::{Frozen, Lookup, RowChange, Shard, ShardReader};
pub use view::{Page, PageOptions, View};
pub use work::{CheckpointWork, NextTurn};
pub use worker::{CheckpointCompletion, CheckpointHandle, Checkpointed, Checkpointer};

/// The store of one node. Clones are handles to the same store; the file is closed with the last.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    base: base::Base,
    damaged: Vec<DamagedShard>,
    merged: MergedMemtables,
    /// The newest handles of each shard.
    shards: Mutex<HashMap<GroupId, Weak<ShardShared>>>,
}

impl Store {
    /// Opens the store in `dir`, created if there is none and none must be, and returns the shards that it holds, by
    /// group. Tables that no shard names are dropped.
    ///
    /// A shard whose record is damaged is not among them: see [`Store::damaged`].
    ///
    /// # Errors
    ///
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::Format`] if it is of
    /// another format, [`StoreError::Unreadable`] if it is damaged as a whole, [`StoreError::File`] or [`StoreError::Database`] if the disk refuses.
    pub fn open(
        dir: &Path,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Store, Vec<ShardState>), StoreError> {
        Ok(Store::assemble(base::Base::open(dir, options, metrics)?))
    }

    /// Moves the file in `dir` aside, for [`StoreError::Unreadable`], and opens an empty one. The
    /// old one becomes `store.redb.damaged-1`, or the next free number, and is not looked at again.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_fresh(
        dir: &Path,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<Store, StoreError> {
        if let Some(aside) = place::set_aside(dir)? {
            tracing::error!(file = %aside.display(), "the damaged store file was moved aside");
        }
        let options = StoreOptions { must_exist: false, ..options };
        Ok(Store::open(dir, options, metrics)?.0)
    }

    /// Opens a store on whatever `open_backend` gives access to. Creating and syncing directories is
    /// the backend's affair. A file that takes no commit any more stays as it is: see
    /// [`Store::open_file`].
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_with_backend(
        open_backend: OpenBackend,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Store, Vec<ShardState>), StoreError> {
        Store::open_file(Box::new(OpenedOnly(open_backend)), options, metrics)
    }

    /// Opens a store in a file that lies anywhere, such as on a simulated disk.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn open_file(
        file: Box<dyn StoreFile>,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Store, Vec<ShardState>), StoreError> {
        Ok(Store::assemble(base::Base::open_file(file, options, metrics)?))
    }

    fn assemble((base, damaged): (base::Base, Vec<DamagedShard>)) -> (Store, Vec<ShardState>) {
        let states = base.states();
        let merged = MergedMemtables::new(base.options().merged_bytes_max);
        let inner = Inner { base, damaged, merged, shards: Mutex::default() };
        (Store { inner: Arc::new(inner) }, states)
    }

    /// Shards whose records could not be read on opening. Their tables are kept until an import has
    /// replaced them.
    pub fn damaged(&self) -> &[DamagedShard] {
        &self.inner.damaged
    }

    /// A new shard without rows. It is on disk with its first checkpoint, not before; `meta` is
    /// what [`Shard::meta`] says until then.
    ///
    /// Of a group whose record is damaged the rows are there and cannot be read: whatever its
    /// memtables do not know is [`StoreError::Corrupt`], and none of them is ever merged. An import
    /// replaces it by a sound shard; [`Store::abandon`] makes the group a new one.
    ///
    /// # Panics
    ///
    /// If the store holds the group already: its rows would show through.
    pub fn create_shard(&self, group: GroupId, range: KeyRange, meta: Bytes) -> Shard {
        let known = self.base().snapshot().state(group).is_some();
        assert!(!known, "shard {group} exists: open it");
        let state = ShardState {
            group,
            applied: (0, 0),
            version: 0,
            rows: 0,
            bytes: 0,
            sum: Some(0),
            extents: Vec::new(),
            meta,
        };
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

    /// Which rows of `group` are the newest: see [`Shard::generation`].
    pub fn generation(&self, group: GroupId) -> u64 {
        self.base().snapshot().generation(group)
    }

    /// Lets go of the merged memtables that stayed readable, when memory is needed.
    pub fn release_merged_memtables(&self) {
        self.merged().clear();
    }

    pub(crate) fn merged(&self) -> &MergedMemtables {
        &self.inner.merged
    }

    /// Remembers the newest handles of a shard.
    pub(crate) fn register(&self, shard: &Arc<ShardShared>) {
        self.inner.shards.lock().insert(shard.group, Arc::downgrade(shard));
    }

    pub(crate) fn registered(&self, group: GroupId) -> Option<Arc<ShardShared>> {
        self.inner.shards.lock().get(&group)?.upgrade()
    }

    pub(crate) fn base(&self) -> &base::Base {
        &self.inner.base
    }
}
