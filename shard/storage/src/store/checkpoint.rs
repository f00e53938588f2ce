//! Checkpoints: frozen memtables become rows in redb.
//!
//! [`Store::checkpoint`] is the synchronous whole: merge, commit durably, publish, drop the
//! memtables. The thread around it is [`Checkpointer`](super::Checkpointer).
//!
//! A commit that failed has an unknown outcome: the file is opened again and its records are
//! compared with what was to be written. If they are there the checkpoint is done; if not, the same
//! merge is tried again. When that keeps failing the memtables stay where they are (readers still
//! need them) and go into the next checkpoint.
//!
//! A shard that is damaged, or found to be while it is merged, is left out: its memtables stay
//! readable and are never merged, because earlier ones of them are missing from then on. It waits
//! for an import.
//!
//! What is absent: what to do when the disk does not recover.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_mutation::{Mutation, planted};

use super::Store;
use super::base_read::row_table;
use super::error::{StoreError, guarded};
use super::extent::ShardState;
use super::file::{self, SHARDS_TABLE};
use super::merge::{Merged, merge};
use super::row;
use super::shard::{Frozen, FrozenKind};
use super::snapshot::Committed;
use crate::GroupId;

/// How often one checkpoint is tried at once. Every attempt but the first begins with opening the
/// file again, so that a passing fault is survived; a disk that fails thrice in a row is not
/// passing.
const ATTEMPTS_MAX: u32 = 3;

/// What became of the shards of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Shards of which nothing was merged, because they are damaged. Their frozen memtables stay
    /// readable and will never be merged.
    pub left_out: BTreeSet<GroupId>,
    /// Shards with damage: those left out, and those whose damaged rows were met and moved along.
    pub damaged: BTreeSet<GroupId>,
}

impl Store {
    /// Merges `frozen` into redb in one durable commit, publishes the result to readers and takes
    /// the memtables off their shards' stacks. Memtables of one shard must be in the order in which
    /// they were frozen, and no earlier one may be missing. Those of a shard whose rows an import
    /// has replaced since are left alone.
    ///
    /// Blocks for the disk. One call at a time: [`Checkpointer`](super::Checkpointer) sees to that.
    ///
    /// # Errors
    ///
    /// If the commit failed, and failed again after opening the file again. `frozen` stays on the
    /// stacks and must be given to a later call.
    pub fn checkpoint(&self, frozen: &[Frozen]) -> Result<CheckpointReport, StoreError> {
        let mut report = CheckpointReport::default();
        let frozen: Vec<&Frozen> = frozen.iter().filter(|frozen| !frozen.is_stale()).collect();
        if frozen.is_empty() {
            return Ok(report);
        }
        let metrics = self.metrics();
        let timer = metrics.checkpoint_duration_seconds.start_timer();
        let written_before = self.base().written_bytes();
        if planted(Mutation::DropFrozenBeforePublish) {
            self.drop_unpublished(&frozen);
        }
        let result = self.commit_until_certain(&frozen, &mut report);
        metrics.checkpoint_bytes_total.inc_by(self.base().written_bytes() - written_before);
        let merged = match result {
            Ok(merged) => merged,
            Err(error) => {
                timer.stop_and_discard();
                return Err(error);
            }
        };
        timer.observe_duration();
        metrics.checkpoint_rows.observe(merged.rows as f64);

        // From here on: the snapshot that holds the rows is published.
        let shards: BTreeMap<GroupId, _> =
            merged.shards.iter().map(|(group, rows, tally)| (*group, (*rows, *tally))).collect();
        for frozen in frozen {
            if report.left_out.contains(&frozen.group()) {
                continue;
            }
            if let Some((rows, tally)) = shards.get(&frozen.group()) {
                frozen.shared.learn(*rows, *tally);
            }
            if !planted(Mutation::DropFrozenBeforePublish) {
                frozen.shared.retire(&frozen.memtable);
            }
        }
        self.merged().trim();
        report.damaged.extend(merged.damaged);
        report.damaged.extend(&report.left_out);
        Ok(report)
    }

    /// Takes memtables off their stacks although nothing holds their rows yet: a planted bug.
    fn drop_unpublished(&self, frozen: &[&Frozen]) {
        for frozen in frozen {
            let is_frozen = |other: &Arc<_>| Arc::ptr_eq(other, &frozen.memtable);
            if frozen.shared.stack().frozen.iter().any(is_frozen) {
                frozen.shared.retire(&frozen.memtable);
            }
        }
        self.merged().trim();
    }

    fn commit_until_certain(
        &self,
        frozen: &[&Frozen],
        report: &mut CheckpointReport,
    ) -> Result<Merged, StoreError> {
        let mut batches: BTreeMap<GroupId, Vec<&Frozen>> = BTreeMap::new();
        for frozen in frozen {
            batches.entry(frozen.group()).or_default().push(frozen);
        }
        let mut attempt = 1;
        loop {
            batches.retain(|group, batch| {
                let generation = batch[0].shared.generation;
                let removed = batch.iter().any(|frozen| matches!(frozen.kind, FrozenKind::Removal));
                let left_out = !removed && self.base().watch().damage(*group, generation).is_some();
                if left_out {
                    report.left_out.insert(*group);
                }
                !left_out
            });
            if batches.is_empty() {
                return Ok(Merged::default());
            }
            let mut merged = Merged::default();
            let mut blamed = None;
            let result = self.base().commit(|transaction, current| {
                let (committed, what) = merge(transaction, current, &batches, self.metrics())
                    .map_err(|failed| {
                        blamed = failed.group;
                        failed.error
                    })?;
                merged = what;
                Ok(committed)
            });
            let Err(error) = result else { return Ok(merged) };
            self.metrics().checkpoint_failures_total.inc();
            tracing::error!(%error, attempt, "checkpoint failed; opening the store again");
            match self.reopen() {
                Ok(()) if self.holds(&batches) => {
                    tracing::warn!("the failed checkpoint had taken effect");
                    return Ok(merged);
                }
                Ok(()) => {
                    if let Some(group) = blamed.filter(|_| error.is_structural())
                        && self.convict(group, &error)
                    {
                        // Without this shard it is another checkpoint.
                        self.base().exonerate();
                        continue;
                    }
                }
                Err(error) => tracing::error!(%error, attempt, "opening the store again failed"),
            }
            if attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// True if the rows of `group` are damaged, which failed its merge with `error`: then it is
    /// noted. If they are all sound the failure was another's, and the shard must not suffer for
    /// it.
    fn convict(&self, group: GroupId, error: &StoreError) -> bool {
        let snapshot = self.base().snapshot();
        let Some(state) = snapshot.state(group) else { return false };
        let mut tables: Vec<_> = state.extents.iter().map(|extent| extent.table).collect();
        tables.dedup();
        let sound = tables.iter().all(|table| {
            let name = table.name();
            file::is_tree(&snapshot.transaction, *table)
                && guarded("walk over rows", || {
                    let walking = |error| StoreError::database("walk over rows", error);
                    let table = snapshot
                        .transaction
                        .open_table(row_table(&name))
                        .map_err(|error| StoreError::database("open a table", error))?;
                    for entry in redb::ReadableTable::iter(&table).map_err(walking)? {
                        let (key, stored) = entry.map_err(walking)?;
                        if row::decode(key.value(), stored.value()).is_err() {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                })
                .unwrap_or(false)
        });
        if sound {
            return false;
        }
        let table = || tables.first().map_or_else(String::new, |table| table.name());
        let error = error.clone().of_shard(group, table);
        self.base().watch().mark_damaged(group, snapshot.generation(group), &error);
        self.metrics().corruptions_total.inc();
        true
    }

    /// True if the records in redb are those that `batches` were to write.
    fn holds(&self, batches: &BTreeMap<GroupId, Vec<&Frozen>>) -> bool {
        let snapshot = self.base().snapshot();
        batches.iter().all(|(group, batch)| {
            let newest = batch.last().expect("no batch is empty");
            match (&newest.kind, snapshot.state(*group)) {
                (FrozenKind::Removal, state) => state.is_none(),
                (FrozenKind::Rows { meta }, Some(state)) => {
                    state.applied == newest.applied
                        && state.version == newest.version
                        && state.meta == *meta
                }
                (FrozenKind::Rows { .. }, None) => false,
            }
        })
    }

    /// Makes a group whose record is damaged one that the store does not know: its rows are given
    /// up. For a node that has them nowhere else and goes on without them; everybody else waits for
    /// an import.
    ///
    /// # Errors
    ///
    /// If the disk refuses; nothing is certain then, and this is to be called again.
    pub fn abandon(&self, group: GroupId) -> Result<(), StoreError> {
        let result = self.base().commit(|transaction, current| {
            transaction
                .open_table(SHARDS_TABLE)
                .map_err(|error| StoreError::database("give a shard up", error))?
                .remove(group.0)
                .map_err(|error| StoreError::database("give a shard up", error))?;
            let table_next = current.table_next;
            Ok(Committed { removed: vec![group], table_next, ..Committed::default() })
        });
        if let Err(error) = result {
            self.reopen()?;
            return Err(error);
        }
        Ok(())
    }

    /// The record of `group` in redb, if it can be read.
    pub fn state(&self, group: GroupId) -> Option<ShardState> {
        self.base().snapshot().state(group).map(|state: &Arc<ShardState>| ShardState::clone(state))
    }
}
