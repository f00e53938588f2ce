//! The base: one redb file per node, and the read transaction that everybody shares.
//!
//! Reads go through a published [`Snapshot`]: one read transaction, the shards' records as of it,
//! and their opened tables. A commit publishes the next snapshot when it is durable.
//!
//! Invariants:
//!
//! * Every call into redb is guarded: its panics become errors.
//! * Commits are durable (two-phase, with quick repair) before the snapshot of their state is
//!   published. The only others write rows that no record names, and publish nothing.
//! * A commit that failed has an unknown outcome. Nothing is concluded from the error: the file is
//!   opened again and asked.
//! * Nothing is written after a failure before a small commit has confirmed what is seen.
//!
//! What is absent: memtables, what a checkpoint writes (`commit`), and opening the file again
//! (`reopen`).

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{Database, Durability, WriteTransaction};

use super::backend::Traffic;
use super::compact;
use super::error::{StoreError, guarded};
use super::extent::{ShardState, TableId};
use super::file::{self, Loaded};
use super::metrics::StoreMetrics;
use super::place::{InDirectory, StoreFile};
use super::renew::Doubt;
use super::snapshot::{Committed, Snapshot};
use super::sweep::Sweep;
use super::watch::Watch;
use crate::GroupId;

/// The format that this program reads and writes; see `docs/store-format.md`.
pub const FORMAT_VERSION: u32 = 1;

/// Settings of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for redb's page cache, in bytes. redb's own default would be 1 GiB.
    pub cache_bytes: usize,
    /// Memory for merged memtables that stay readable above redb, in bytes. They are what was
    /// written last, which is often what is read next.
    pub merged_bytes_max: u64,
    /// A file of at most this length is not compacted, however little is in it.
    pub compact_file_bytes_min: u64,
    /// A checkpoint of more rows than this, in bytes, is made in several commits: while one is made,
    /// the rows that it writes take their space twice.
    pub slice_bytes_min: u64,
    /// All rows of a file of at most this length are walked over when it is opened.
    pub scrub_file_bytes_max: u64,
    /// A store was here before: a file that is not there, or that seems to be new, is damaged.
    pub must_exist: bool,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            cache_bytes: 128 << 20,
            merged_bytes_max: 64 << 20,
            compact_file_bytes_min: 256 << 20,
            slice_bytes_min: 64 << 20,
            scrub_file_bytes_max: 32 << 20,
            must_exist: false,
        }
    }
}

/// A shard whose record cannot be read, or names a table that is not there. Its tables are left
/// alone.
#[derive(Clone, Debug)]
pub struct DamagedShard {
    /// The shard.
    pub group: GroupId,
    /// What is wrong with its record.
    pub error: StoreError,
}

/// The redb file, opened.
pub(crate) struct Base {
    pub(super) options: StoreOptions,
    pub(super) file: Box<dyn StoreFile>,
    pub(super) slot: Mutex<Slot>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// The record that an import is about to put in place: found in the file after a failure, it
    /// is a new generation.
    pub(super) swapping: Mutex<Option<Arc<ShardState>>>,
    pub(super) watch: Arc<Watch>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) metrics: StoreMetrics,
}

pub(super) struct Slot {
    /// `None` after a reopening failed, until one succeeds.
    pub(super) database: Option<Database>,
    /// False while the file can be read, but what is seen could not be confirmed.
    pub(super) confirmed: bool,
    /// Whether the file is to blame for what fails.
    pub(super) doubt: Doubt,
}

impl Base {
    /// Opens the file in `dir`, both created and synced if they do not exist.
    pub(crate) fn open(
        dir: &Path,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Base, Vec<DamagedShard>), StoreError> {
        Base::open_file(Box::new(InDirectory::new(dir)?), options, metrics)
    }

    /// Opens the file; an empty one becomes an empty store.
    pub(crate) fn open_file(
        file: Box<dyn StoreFile>,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Base, Vec<DamagedShard>), StoreError> {
        let traffic = Arc::new(Traffic::default());
        let read = || {
            let database = file::open_database(&*file, options, &traffic)?;
            guarded("open the store", || file::initialize(&database, options.must_exist))?;
            let loaded = guarded("read the shards", || file::load(&database))?;
            let live_bytes = loaded.states.iter().map(|state| state.bytes).sum();
            if !compact::is_wanted(&loaded, options, traffic.file_bytes(), live_bytes) {
                return Ok((database, loaded));
            }
            drop(loaded);
            compact::compact(database)?;
            let database = file::open_database(&*file, options, &traffic)?;
            let loaded = guarded("read the shards", || file::load(&database))?;
            Ok((database, loaded))
        };
        // Closing a damaged file may unwind as well as opening it.
        let (database, loaded) =
            guarded("open the store", read).map_err(StoreError::of_whole_file)?;
        let watch = Arc::new(Watch::default());
        for DamagedShard { group, error } in &loaded.damaged {
            watch.mark_record_damaged(*group, 0, error);
        }
        // Whoever opens the store is told by the list.
        watch.take_unreported();
        let Loaded { transaction, states, damaged, table_next } = loaded;
        let generations = Arc::default();
        let snapshot = Snapshot::new(transaction, states, table_next, generations, watch.clone());
        let base = Base {
            options,
            file,
            slot: Mutex::new(Slot {
                database: Some(database),
                confirmed: true,
                doubt: Doubt::default(),
            }),
            snapshot: RwLock::new(Arc::new(snapshot)),
            swapping: Mutex::default(),
            watch,
            traffic,
            metrics,
        };
        // Nobody else has the store now: what an interrupted renewal has left is ours.
        base.file.remove_beside().map_err(|error| {
            StoreError::database("remove a file that was not completed", redb::Error::Io(error))
        })?;
        base.scrub_if_small();
        base.tidy_up()?;
        base.show_sizes();
        Ok((base, damaged))
    }

    /// Walks over all rows of a small file: what redb's own pages say of where rows are is checked by
    /// nobody else. What is found is known to the watch from then on.
    fn scrub_if_small(&self) {
        if self.file_bytes() > self.options.scrub_file_bytes_max {
            return;
        }
        let snapshot = self.snapshot();
        let uses = snapshot.table_uses();
        for state in snapshot.states() {
            let is_exact = state.extents.iter().all(|extent| uses[&extent.table] == 1);
            let scrubbed = snapshot
                .shard(state.group, &self.metrics)
                .and_then(|base| base.map_or(Ok(0), |base| base.scrub(is_exact)));
            match scrubbed {
                Ok(0) => {}
                Ok(rows) => {
                    tracing::error!(group = state.group.0, rows, "rows of a shard are damaged");
                }
                Err(error) => {
                    tracing::error!(group = state.group.0, %error, "a shard cannot be walked over");
                }
            }
        }
    }

    /// Drops the tables of no shard. A file that does not take that although it can be read is none to
    /// be refused: checkpoints go on from here, with all that they know about failures.
    fn tidy_up(&self) -> Result<(), StoreError> {
        match self.drop_unnamed(&BTreeSet::new()) {
            Err(error) if error.is_of_whole_file() => {
                tracing::error!(%error, "tables of no shard could not be dropped");
                match self.reopen() {
                    Err(error) if self.is_readable() && error.is_of_whole_file() => Ok(()),
                    result => result,
                }
            }
            result => result,
        }
    }

    /// The newest published snapshot. Keep it short.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// The shards' records as of the newest snapshot, by group.
    pub(crate) fn states(&self) -> Vec<ShardState> {
        let mut states: Vec<_> =
            self.snapshot().states().map(|state| ShardState::clone(state)).collect();
        states.sort_by_key(|state| state.group);
        states
    }

    /// Bytes written to the file since the store was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.traffic.written_bytes()
    }

    /// Length of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.traffic.file_bytes()
    }

    pub(crate) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    pub(crate) fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    pub(crate) fn options(&self) -> StoreOptions {
        self.options
    }

    /// Runs `write` in one durable transaction over the state of the snapshot handed to it, and
    /// publishes the next snapshot.
    ///
    /// # Errors
    ///
    /// Those of `write`, in which case nothing is committed; [`StoreError::UnknownOutcome`] if the
    /// commit itself failed. After any error [`Base::reopen`] must come next: redb refuses to go on
    /// after an I/O error.
    pub(crate) fn commit(
        &self,
        write: impl FnOnce(&WriteTransaction, &Snapshot) -> Result<Committed, StoreError>,
    ) -> Result<(), StoreError> {
        let mut slot = self.slot.lock();
        let result = self.commit_into(slot.writable()?, write);
        slot.doubt.note(&result);
        result
    }

    fn commit_into(
        &self,
        database: &Database,
        write: impl FnOnce(&WriteTransaction, &Snapshot) -> Result<Committed, StoreError>,
    ) -> Result<(), StoreError> {
        let current = self.snapshot();
        let (transaction, committed) = guarded("write a checkpoint", || {
            let transaction = file::begin_durable(database)?;
            let committed = write(&transaction, &current)?;
            self.write_records(&transaction, &current, &committed)?;
            Ok((transaction, committed))
        })?;
        finish(transaction)?;

        let Committed { states, removed, swapped, table_next } = committed;
        let mut shards: HashMap<GroupId, Arc<ShardState>> =
            current.states().map(|state| (state.group, state.clone())).collect();
        for group in &removed {
            shards.remove(group);
        }
        shards.extend(states.into_iter().map(|state| (state.group, state)));
        let transaction = guarded("begin reading", || file::begin_read(database))
            .map_err(|error| StoreError::UnknownOutcome { source: Arc::new(error) })?;
        let mut generations = current.generations.clone();
        if let Some(group) = swapped {
            *Arc::make_mut(&mut generations).entry(group).or_default() += 1;
        }
        self.publish(Snapshot::new(
            transaction,
            shards.into_values(),
            table_next,
            generations,
            self.watch.clone(),
        ));
        removed.into_iter().chain(swapped).for_each(|group| self.watch.forget(group));
        self.show_sizes();
        Ok(())
    }

    /// Notes what all records add up to, if some change.
    fn write_records(
        &self,
        transaction: &WriteTransaction,
        current: &Snapshot,
        committed: &Committed,
    ) -> Result<(), StoreError> {
        if committed.states.is_empty() && committed.removed.is_empty() {
            return Ok(());
        }
        if self.watch.any_record_damaged() {
            return file::write_records(transaction, None);
        }
        let written = committed.states.iter().map(|state| state.group);
        let replaced: BTreeSet<GroupId> =
            written.chain(committed.removed.iter().copied()).collect();
        let kept = current.states().filter(|state| !replaced.contains(&state.group));
        let records = kept.chain(&committed.states).map(|state| &**state);
        file::write_records(transaction, Some(file::records_sum(records)))
    }

    pub(super) fn show_sizes(&self) {
        let live_bytes: u64 = self.snapshot().states().map(|state| state.bytes).sum();
        self.metrics.live_bytes.set(i64::try_from(live_bytes).unwrap_or(i64::MAX));
        self.metrics.redb_file_bytes.set(i64::try_from(self.file_bytes()).unwrap_or(i64::MAX));
    }

    /// Runs `write` in a transaction that is not durable before the next durable one is, and
    /// publishes nothing: for rows that no record names.
    ///
    /// # Errors
    ///
    /// As [`Base::commit`], and then all that was written so since the last durable commit is lost.
    pub(crate) fn commit_unnamed(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut slot = self.slot.lock();
        let result = self.commit_unnamed_into(slot.writable()?, write);
        if result.is_err() {
            slot.doubt.note(&result);
        }
        result
    }

    fn commit_unnamed_into(
        &self,
        database: &Database,
        write: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = guarded("write rows", || {
            let mut transaction = database
                .begin_write()
                .map_err(|error| StoreError::database("begin writing", error))?;
            transaction
                .set_durability(Durability::None)
                .expect("without savepoints every durability is allowed");
            write(&transaction)?;
            Ok(transaction)
        })?;
        finish(transaction)
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        // The old one may be the last to hold a transaction: dropped outside of the lock.
        let _old = std::mem::replace(&mut *self.snapshot.write(), Arc::new(snapshot));
    }

    /// False after a reopening failed, until one succeeds.
    fn is_readable(&self) -> bool {
        self.slot.lock().database.is_some()
    }

    /// Says that the record of a shard is about to be replaced by `state` together with its rows.
    /// `None`: that is over.
    pub(crate) fn set_swapping(&self, state: Option<Arc<ShardState>>) {
        *self.swapping.lock() = state;
    }

    /// Whatever failed to be written lately is explained by damage of single shards.
    pub(crate) fn exonerate(&self) {
        self.slot.lock().doubt.clear();
    }

    /// Drops the tables that no extent names and that are not in `used`: left by an interrupted
    /// bulk load, or by a swap. What is not a sound tree is given up instead, and a table that
    /// cannot be dropped stays until the file is opened the next time.
    ///
    /// # Errors
    ///
    /// If the disk refuses; the file has to be opened again then.
    pub(crate) fn drop_unnamed(&self, used: &BTreeSet<TableId>) -> Result<(), StoreError> {
        let mut sweep = Sweep::default();
        while sweep.step(self, used)? {}
        Ok(())
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // A damaged file may unwind redb even while it is closed.
        let mut slot = self.slot.lock();
        self.close(&mut slot);
    }
}

impl Slot {
    fn writable(&self) -> Result<&Database, StoreError> {
        let closed = |why: &str| StoreError::Closed { why: why.to_owned() };
        let database = self.database.as_ref().ok_or_else(|| closed("it could not be opened"))?;
        match self.confirmed {
            true => Ok(database),
            false => Err(closed("what it shows could not be confirmed")),
        }
    }
}

fn finish(transaction: WriteTransaction) -> Result<(), StoreError> {
    guarded("commit", || {
        transaction.commit().map_err(|error| StoreError::database("commit", error))
    })
    .map_err(|error| StoreError::UnknownOutcome { source: Arc::new(error) })
}
