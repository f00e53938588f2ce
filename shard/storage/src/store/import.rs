//! Replacing the rows of one shard as a whole, by rows from another store.
//!
//! Chunks are loaded into a new table that nothing names, verified, and swapped in by one durable
//! commit that writes the shard's record. Each step is a short job of the checkpoint thread, so that
//! the checkpoints of all shards go on in between, and so that no checkpoint of this shard runs
//! beside its swap.
//!
//! Invariants:
//!
//! * Until the swap nobody sees anything of an import; after it nobody sees anything of the rows
//!   before, but for those who hold an older snapshot: old or new, never a mixture.
//! * The rows are durable before they are said to be verified. A failure of the file before that
//!   ends the import; after it the swap is tried until it is known to have happened, unless the
//!   loaded rows are found damaged before: that ends the import too.
//! * A swap begins a new generation of the shard: memtables above the old rows are never merged
//!   into the new ones.
//! * A table that nothing names is dropped with its import, or on the next opening.
//!
//! What is absent: where chunks come from, and who decides that it is time to swap.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::Sender;
use flotilla_mutation::{Mutation, planted};

use super::base_read::row_table;
use super::chunk::{self, Digest};
use super::error::StoreError;
use super::extent::{Extent, ShardState, TableId};
use super::file::{self, SHARDS_TABLE};
use super::size::Size;
use super::snapshot::Committed;
use super::worker::Message;
use super::{Shard, Store};
use crate::GroupId;
use crate::range::KeyRange;

/// Rows that are written without being durable, at most: a checkpoint that comes in between has to
/// sync them too.
const UNSYNCED_BYTES_MAX: usize = 8 << 20;

/// What the rows of an import must add up to, and what is recorded with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportEnd {
    /// Index and term of the last command whose effects are in the rows.
    pub applied: (u64, u64),
    /// The shard's version counter after that command.
    pub version: u64,
    /// What the layer above recorded with it.
    pub meta: Bytes,
    /// How many rows there are.
    pub rows: u64,
    /// [`Export::digest`](super::Export::digest) of all of them.
    pub digest: u64,
}

/// Called on the checkpoint thread when a step is done: hand it on.
pub type ImportDone<T> = Box<dyn FnOnce(Result<T, StoreError>) + Send>;

/// One step of an import.
pub(crate) enum Step {
    Write(Bytes, ImportDone<()>),
    Verify(ImportEnd, ImportDone<()>),
    Swap(ImportDone<Shard>),
    Drop,
}

impl Step {
    /// Tells whoever waits that the step will not be done.
    pub(crate) fn refuse(self, error: StoreError) {
        match self {
            Step::Write(_, done) | Step::Verify(_, done) => done(Err(error)),
            Step::Swap(done) => done(Err(error)),
            Step::Drop => {}
        }
    }
}

/// Replaces the rows of one shard. Dropped before the swap it leaves everything as it was.
///
/// Steps are done in the order in which they are asked for. After a step has failed all later ones
/// fail too; a new import may be begun.
pub struct Import {
    pub(crate) id: u64,
    pub(crate) group: GroupId,
    pub(crate) range: KeyRange,
    pub(crate) sender: Sender<Message>,
}

impl Import {
    /// Loads a chunk of [`Export::next`](super::Export::next) behind those before. Everything in it
    /// is checked first: checksums, order, and that the keys are the shard's.
    pub fn write(&self, chunk: Bytes, done: ImportDone<()>) {
        self.send(Step::Write(chunk, done));
    }

    /// Compares what was written with what was sent, and makes it durable.
    pub fn verify(&self, end: ImportEnd, done: ImportDone<()>) {
        self.send(Step::Verify(end, done));
    }

    /// Puts the verified rows in the place of the shard's, in one durable commit, and gives a new
    /// shard over them. Memtables of the old one that were submitted before are merged before;
    /// what it freezes later is never merged, nor reported.
    ///
    /// While the disk fails this waits: the swap is certain to happen, unless the verified rows turn
    /// out to be damaged before it, which ends the import, or the store is shut down, after which
    /// only the file knows.
    pub fn swap(&self, done: ImportDone<Shard>) {
        self.send(Step::Swap(done));
    }

    fn send(&self, step: Step) {
        let (group, range) = (self.group, self.range.clone());
        if let Err(unsent) = self.sender.send(Message::Import { id: self.id, group, range, step })
            && let Message::Import { step, .. } = unsent.0
        {
            step.refuse(StoreError::Closed { why: "the store was shut down".to_owned() });
        }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        self.send(Step::Drop);
    }
}

/// An import on the checkpoint thread.
pub(crate) struct Loading {
    group: GroupId,
    range: KeyRange,
    /// Of the file when the import began.
    epoch: u64,
    table: Option<TableId>,
    digest: Digest,
    /// Of the rows written so far.
    size: Size,
    last_key: Option<Bytes>,
    unsynced_bytes: usize,
    /// The record to be swapped in, once verified.
    verified: Option<Arc<ShardState>>,
    failed: Option<StoreError>,
}

impl Loading {
    pub(crate) fn new(store: &Store, group: GroupId, range: KeyRange) -> Loading {
        Loading {
            group,
            range,
            epoch: store.base().watch().epoch(),
            table: None,
            digest: Digest::default(),
            size: Size::default(),
            last_key: None,
            unsynced_bytes: 0,
            verified: None,
            failed: None,
        }
    }

    pub(crate) fn table(&self) -> Option<TableId> {
        self.table
    }

    fn error(&self, what: impl Into<String>) -> StoreError {
        StoreError::Import { group: self.group, what: what.into() }
    }

    /// Notes a failure; what the table holds is not known any more.
    fn fail(&mut self, error: StoreError) -> StoreError {
        let later = match &error {
            StoreError::Import { .. } => error.clone(),
            error => self.error(error.to_string()),
        };
        self.failed.get_or_insert(later);
        error
    }

    fn check_alive(&mut self, store: &Store) -> Result<(), StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        if store.base().watch().epoch() != self.epoch {
            let error = self.error("the store file failed and was opened again meanwhile");
            return Err(self.fail(error));
        }
        Ok(())
    }

    /// Loads one chunk.
    ///
    /// # Errors
    ///
    /// An error that is not [`StoreError::Import`] is of the disk: the file is to be opened again.
    pub(crate) fn write(&mut self, store: &Store, chunk: &Bytes) -> Result<(), StoreError> {
        self.check_alive(store)?;
        if self.verified.is_some() {
            let error = self.error("a chunk came after the end");
            return Err(self.fail(error));
        }
        let rows = match self.check(chunk) {
            Ok(rows) => rows,
            Err(what) => {
                let error = self.error(what);
                return Err(self.fail(error));
            }
        };
        if rows.is_empty() {
            return Ok(());
        }
        let result = self.load(store, &rows, chunk.len());
        if let Err(error) = result {
            return Err(self.fail(error));
        }
        for (key, stored) in &rows {
            self.digest.add(key, stored);
            self.size.add(key, stored);
        }
        self.last_key = rows.last().map(|(key, _)| Bytes::copy_from_slice(key));
        store.metrics().import_bytes_total.inc_by(chunk.len() as u64);
        Ok(())
    }

    fn check(&self, chunk: &Bytes) -> Result<Vec<(Bytes, Bytes)>, String> {
        let rows = chunk::decode(chunk)?;
        let mut last = self.last_key.as_ref();
        for (key, _) in &rows {
            if !self.range.contains(key) {
                return Err("a key is outside of the shard's range".to_owned());
            }
            if last.is_some_and(|last| last >= key) {
                return Err("keys are out of order".to_owned());
            }
            last = Some(key);
        }
        Ok(rows)
    }

    fn load(
        &mut self,
        store: &Store,
        rows: &[(Bytes, Bytes)],
        chunk_bytes: usize,
    ) -> Result<(), StoreError> {
        let table = match self.table {
            Some(table) => table,
            None => {
                let table = create_table(store)?;
                *self.table.insert(table)
            }
        };
        store.base().commit_unnamed(|transaction| {
            let loading = |error| StoreError::database("load a table", error);
            let name = table.name();
            let mut table = transaction
                .open_table(row_table(&name))
                .map_err(|error| StoreError::database("open a table", error))?;
            let mut cursor = table.upper_bound_mut(Bound::<&[u8]>::Unbounded).map_err(loading)?;
            for (key, stored) in rows {
                cursor
                    .insert_before(&key[..], &stored[..])
                    .map_err(|error| StoreError::database("load a table", error))?;
            }
            cursor.close().map_err(|error| StoreError::database("load a table", error))
        })?;
        self.unsynced_bytes += chunk_bytes;
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            sync(store)?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    /// Compares what was written with `end`, and makes it durable.
    ///
    /// # Errors
    ///
    /// As [`Loading::write`].
    pub(crate) fn verify(&mut self, store: &Store, end: ImportEnd) -> Result<(), StoreError> {
        self.check_alive(store)?;
        let ImportEnd { applied, version, meta, rows, digest } = end;
        if self.digest != (Digest { rows, value: digest }) {
            let error = self.error(format!(
                "{} rows with digest {:016x} were written, {rows} with {digest:016x} were sent",
                self.digest.rows, self.digest.value,
            ));
            return Err(self.fail(error));
        }
        if let Err(error) = sync(store).and_then(|()| self.check_table(store)) {
            return Err(self.fail(error));
        }
        let extent = |table| Extent { table, clip: self.range.clone() };
        let extents = self.table.map(extent).into_iter().collect();
        let group = self.group;
        let Size { bytes, sum, .. } = self.size;
        let state = ShardState { group, applied, version, rows, bytes, sum, extents, meta };
        self.verified = Some(Arc::new(state));
        Ok(())
    }

    /// Checks that the table holds what was written.
    fn check_table(&self, store: &Store) -> Result<(), StoreError> {
        let Some(table) = self.table else { return Ok(()) };
        let snapshot = store.base().snapshot();
        let rows = super::error::guarded("count rows", || {
            let name = table.name();
            let table = snapshot
                .transaction
                .open_table(row_table(&name))
                .map_err(|error| StoreError::database("open a table", error))?;
            redb::ReadableTableMetadata::len(&table)
                .map_err(|error| StoreError::database("count rows", error))
        })?;
        match rows == self.digest.rows {
            true => Ok(()),
            false => Err(self.error(format!("the table holds {rows} rows"))),
        }
    }

    /// Puts the verified rows in place.
    ///
    /// # Errors
    ///
    /// [`StoreError::Import`] if they are not verified, or are not what was verified any more:
    /// nothing has changed, and nothing will. Any other: the file is to be opened again, and this to
    /// be called again.
    pub(crate) fn swap(&mut self, store: &Store) -> Result<Shard, StoreError> {
        if let Some(failed) = &self.failed {
            return Err(failed.clone());
        }
        let Some(state) = self.verified.clone() else {
            return Err(self.error("the rows were not verified"));
        };
        let base = store.base();
        let mut before = base.snapshot();
        if before.state(self.group) != Some(&state) {
            // It was durable; whatever has failed since, this is what the record will name. The file
            // says that the swap has not happened, and damage does not pass.
            if let Err(error) = self.check_table(store) {
                if !is_damage(&error) {
                    return Err(error);
                }
                base.set_swapping(None);
                let error = self.error(format!("the rows that were written are lost: {error}"));
                return Err(self.fail(error));
            }
            if let Some(old) = store.registered(self.group) {
                old.keep_snapshot(before.clone());
            }
            base.set_swapping(Some(state.clone()));
            if planted(Mutation::InstallInTwoHalves) {
                record_without_rows(store, &state)?;
            }
            base.commit(|transaction, current| {
                let recording = |error| StoreError::database("record a shard", error);
                transaction
                    .open_table(SHARDS_TABLE)
                    .map_err(|error| StoreError::database("record a shard", error))?
                    .insert(self.group.0, &state.encode()[..])
                    .map_err(recording)?;
                Ok(Committed {
                    states: vec![state.clone()],
                    swapped: Some(self.group),
                    table_next: current.table_next,
                    ..Committed::default()
                })
            })?;
            before = base.snapshot();
        }
        base.set_swapping(None);
        base.watch().forget(self.group);
        store.metrics().imports_total.inc();
        assert!(before.state(self.group) == Some(&state), "the swap was published");
        Ok(Shard::new(store, self.range.clone(), &state))
    }
}

/// Records a shard as if it had no rows, in a commit of its own: a planted bug.
fn record_without_rows(store: &Store, state: &ShardState) -> Result<(), StoreError> {
    let half = ShardState { rows: 0, bytes: 0, sum: Some(0), extents: Vec::new(), ..state.clone() };
    store.base().commit(|transaction, current| {
        let recording = |error| StoreError::database("record a shard", error);
        transaction
            .open_table(SHARDS_TABLE)
            .map_err(|error| StoreError::database("record a shard", error))?
            .insert(half.group.0, &half.encode()[..])
            .map_err(recording)?;
        let (group, table_next) = (half.group, current.table_next);
        let states = vec![Arc::new(half.clone())];
        Ok(Committed { states, swapped: Some(group), table_next, ..Committed::default() })
    })
}

/// True if the table is not, and never again will be, what was written.
fn is_damage(error: &StoreError) -> bool {
    match error {
        StoreError::Import { .. } => true,
        StoreError::Database { source, .. } => {
            error.is_structural() || matches!(**source, redb::Error::TableDoesNotExist(_))
        }
        error => error.is_structural(),
    }
}

/// Creates an empty table under a number of its own.
fn create_table(store: &Store) -> Result<TableId, StoreError> {
    let mut created = TableId(0);
    store.base().commit(|transaction, current| {
        created = TableId(current.table_next);
        let name = created.name();
        transaction
            .open_table(row_table(&name))
            .map(drop)
            .map_err(|error| StoreError::database("create a table", error))?;
        file::write_table_next(transaction, created.0 + 1)?;
        Ok(Committed { table_next: created.0 + 1, ..Committed::default() })
    })?;
    Ok(created)
}

/// Makes durable what was written without.
fn sync(store: &Store) -> Result<(), StoreError> {
    store.base().commit(|_, current| {
        Ok(Committed { table_next: current.table_next, ..Committed::default() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{RowChange, StoreMetrics, StoreOptions};
    use std::collections::BTreeSet;

    /// What was verified is gone when it is to be put in place: to try for ever would help nobody.
    #[test]
    fn rows_that_are_lost_before_the_swap_end_the_import() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let (options, metrics) = (StoreOptions::default(), StoreMetrics::new());
            std::fs::create_dir(dir.path().join(name)).unwrap();
            Store::open(&dir.path().join(name), options, metrics).unwrap().0
        };
        let (group, whole) = (GroupId(7), KeyRange::whole());
        let source = open("source");
        let mut sent = source.create_shard(group, whole.clone(), Bytes::new());
        let (key, value) = (Bytes::from("key"), Bytes::from("new"));
        sent.apply(vec![RowChange::Put { key, value, flags: 0, expires_at_ms: None }]);
        source.checkpoint(&[sent.freeze((9, 1), Bytes::new(), 0)]).unwrap();
        let mut export = source.export(group).unwrap().unwrap();

        let store = open("store");
        let mut loading = Loading::new(&store, group, whole);
        while let Some(chunk) = export.next(1000).unwrap() {
            loading.write(&store, &chunk).unwrap();
        }
        let rows = export.rows();
        let digest = export.digest();
        let end = ImportEnd { applied: (9, 1), version: 1, meta: Bytes::new(), rows, digest };
        loading.verify(&store, end).unwrap();
        store.base().drop_unnamed(&BTreeSet::new()).unwrap();
        for _ in 0..2 {
            let error = loading.swap(&store).err().unwrap();
            assert!(matches!(error, StoreError::Import { .. }), "{error}");
        }
        assert_eq!(store.state(group), None, "nothing was put in place");
    }
}
