//! The file's state as of one read transaction, shared by all readers until the next is published.
//!
//! A get starts no transaction and opens no table. Snapshots must not be held for long: redb cannot
//! reuse pages that one of them may still read, so the file grows.
//!
//! A shard's *generation* counts how often its rows were replaced as a whole by an import. A reader
//! that belongs to an older generation than a snapshot must not look into it: its memtables lie
//! above other rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use redb::ReadTransaction;

use super::base_read::ShardBase;
use super::error::{StoreError, guarded};
use super::extent::{ShardState, TableId};
use super::metrics::StoreMetrics;
use super::watch::Watch;
use crate::GroupId;

/// How often the rows of each shard were replaced; absent: never.
pub(crate) type Generations = BTreeMap<GroupId, u64>;

/// The state as of one read transaction.
pub(crate) struct Snapshot {
    pub(crate) transaction: ReadTransaction,
    shards: HashMap<GroupId, SnapshotShard>,
    pub(crate) generations: Arc<Generations>,
    watch: Arc<Watch>,
    /// Of the opening of the file that the transaction belongs to.
    epoch: u64,
    /// The number of the next table to be created.
    pub(crate) table_next: u64,
}

struct SnapshotShard {
    state: Arc<ShardState>,
    opened: OnceLock<Arc<ShardBase>>,
}

impl Snapshot {
    pub(crate) fn new(
        transaction: ReadTransaction,
        states: impl IntoIterator<Item = Arc<ShardState>>,
        table_next: u64,
        generations: Arc<Generations>,
        watch: Arc<Watch>,
    ) -> Snapshot {
        let shards = states
            .into_iter()
            .map(|state| (state.group, SnapshotShard { state, opened: OnceLock::new() }))
            .collect();
        let epoch = watch.epoch();
        Snapshot { transaction, shards, generations, watch, epoch, table_next }
    }

    /// The record of `group`; `None` before its first checkpoint, and if it cannot be read.
    pub(crate) fn state(&self, group: GroupId) -> Option<&Arc<ShardState>> {
        self.shards.get(&group).map(|shard| &shard.state)
    }

    pub(crate) fn generation(&self, group: GroupId) -> u64 {
        self.generations.get(&group).copied().unwrap_or(0)
    }

    /// The rows of `group`, its tables opened once per snapshot; `None` before its first
    /// checkpoint.
    pub(crate) fn shard(
        &self,
        group: GroupId,
        metrics: &StoreMetrics,
    ) -> Result<Option<Arc<ShardBase>>, StoreError> {
        let generation = self.generation(group);
        if let Some(damage) = self.watch.damage(group, generation) {
            return Err(damage);
        }
        let Some(shard) = self.shards.get(&group) else { return Ok(None) };
        if let Some(opened) = shard.opened.get() {
            return Ok(Some(opened.clone()));
        }
        let watch = (self.watch.clone(), generation, self.epoch);
        let opened = ShardBase::open(&self.transaction, &shard.state, watch, metrics.clone())?;
        // Another reader may have been faster; either one will do.
        Ok(Some(shard.opened.get_or_init(|| Arc::new(opened)).clone()))
    }

    pub(crate) fn states(&self) -> impl Iterator<Item = &Arc<ShardState>> {
        self.shards.values().map(|shard| &shard.state)
    }

    /// How many extents name each table, over all shards.
    pub(crate) fn table_uses(&self) -> BTreeMap<TableId, usize> {
        let mut uses = BTreeMap::new();
        for extent in self.states().flat_map(|state| &state.extents) {
            *uses.entry(extent.table).or_default() += 1;
        }
        uses
    }

    /// All tables of rows in the file.
    pub(crate) fn row_tables(&self) -> Result<Vec<TableId>, StoreError> {
        let names = guarded("list tables", || super::file::list_tables(&self.transaction))?;
        Ok(names.iter().filter_map(|name| TableId::from_name(name)).collect())
    }
}

/// What a commit changed besides rows: how the next snapshot differs from the last.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// New records.
    pub(crate) states: Vec<Arc<ShardState>>,
    /// Records removed.
    pub(crate) removed: Vec<GroupId>,
    /// A shard whose rows were replaced as a whole.
    pub(crate) swapped: Option<GroupId>,
    pub(crate) table_next: u64,
}
