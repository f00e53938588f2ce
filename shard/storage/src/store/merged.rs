//! Merged memtables that stay readable above redb, and how much memory they may take.
//!
//! What was written last is often read next. A checkpoint would move all of it to redb, where a get
//! costs a walk down a tree and, when the page is not cached, a wait for the disk; so the memtable
//! that a shard merged last stays readable until it merges the next one.
//!
//! Invariants:
//!
//! * A merged memtable is a part of the newest state of redb: only the next checkpoint of its shard
//!   changes the rows below, and takes it away in the same step that shows the next one.
//! * All together stay below a limit: the one that was merged longest ago goes first.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::memtable::Memtable;
use super::shard::ShardShared;

/// The merged memtables of all shards.
pub(crate) struct MergedMemtables {
    bytes_max: u64,
    /// Oldest first. Those that nobody holds any more are still in it for a while.
    queue: Mutex<VecDeque<(Weak<ShardShared>, Weak<Memtable>)>>,
}

impl MergedMemtables {
    pub(crate) fn new(bytes_max: u64) -> MergedMemtables {
        MergedMemtables { bytes_max, queue: Mutex::default() }
    }

    /// Counts `memtable` of `shard`, on its stack already. [`MergedMemtables::trim`] comes next.
    pub(crate) fn keep(&self, shard: &Arc<ShardShared>, memtable: &Arc<Memtable>) {
        self.queue.lock().push_back((Arc::downgrade(shard), Arc::downgrade(memtable)));
    }

    /// Lets go of the oldest until the rest stays below the limit.
    pub(crate) fn trim(&self) {
        let mut queue = self.queue.lock();
        queue.retain(|(shard, memtable)| {
            let memtable = memtable.upgrade();
            let held = |shard: Arc<ShardShared>, memtable: &Arc<Memtable>| {
                shard.stack().merged.as_ref().is_some_and(|merged| Arc::ptr_eq(merged, memtable))
            };
            memtable.zip(shard.upgrade()).is_some_and(|(memtable, shard)| held(shard, &memtable))
        });
        let sizes = queue
            .iter()
            .map(|(_, memtable)| memtable.upgrade().map_or(0, |memtable| memtable.memory_bytes()));
        let mut bytes: u64 = sizes.sum();
        while bytes > self.bytes_max {
            let Some((shard, memtable)) = queue.pop_front() else { break };
            let (Some(shard), Some(memtable)) = (shard.upgrade(), memtable.upgrade()) else {
                continue;
            };
            bytes -= memtable.memory_bytes();
            shard.forget_merged(&memtable);
        }
    }

    /// Lets go of all of them.
    pub(crate) fn clear(&self) {
        for (shard, memtable) in self.queue.lock().drain(..) {
            if let (Some(shard), Some(memtable)) = (shard.upgrade(), memtable.upgrade()) {
                shard.forget_merged(&memtable);
            }
        }
    }
}
