//! Writing the whole file anew, beside one that can be read and not be written any more.
//!
//! What redb knows of its free pages is covered by nothing that is looked at before they are needed:
//! a damaged bit there makes commits fail, for good, while all rows are readable. So what can be
//! proven of the old file is copied into a new one.
//!
//! Invariants:
//!
//! * Of each shard everything is copied, row for row, and adds up to what its record says; else the
//!   shard is *lost*: its record in the new file names a table that never exists, which is what a
//!   damaged record is to everybody.
//! * A row that is damaged in itself is copied as it is, and stays an error.
//! * A disk that fails while it is read or written condemns no shard: the copy is given up.
//!
//! What is absent: when that is called for, and what takes whose place (`base`, `place`).

use std::collections::BTreeSet;
use std::sync::Arc;

use redb::Database;

use super::backend::Traffic;
use super::base::StoreOptions;
use super::base_read::{ShardBase, StoredRows, row_table};
use super::error::{StoreError, guarded};
use super::extent::{Extent, ShardState, TableId};
use super::file::{self, SHARDS_TABLE};
use super::metrics::StoreMetrics;
use super::place::StoreFile;
use super::row;
use super::size::Size;
use super::snapshot::Snapshot;
use super::watch::Watch;
use crate::GroupId;
use crate::range::KeyRange;

/// Rows that are written by one commit, in bytes; they are in memory twice meanwhile.
const SLICE_BYTES_MAX: usize = 8 << 20;

/// So many commits and openings in a row fail by what is in the file before it is written anew: each of
/// them with the file freshly opened.
const FAILURES_MAX: u32 = 3;
/// The same, if the file cannot even be read, so that everything in it is lost.
const UNREADABLE_FAILURES_MAX: u32 = 10;
/// So many more after it could not be written anew.
const FAILURES_BETWEEN: u32 = 8;

/// Tables are numbered from 1.
const NO_TABLE: TableId = TableId(0);

/// What is known of the old file.
pub(crate) struct Source<'a> {
    /// The records, and how to get at the rows.
    pub(crate) snapshot: &'a Snapshot,
    /// False if the file cannot be read any more: all rows are lost.
    pub(crate) is_readable: bool,
    /// Shards whose records are damaged.
    pub(crate) damaged: BTreeSet<GroupId>,
}

/// Whether the file is to blame when nothing can be written to it.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    /// Commits and openings in a row that failed by what is in the file.
    failures: u32,
    /// With so many failures it is tried again.
    next: u32,
    renewals: u32,
}

impl Doubt {
    /// Takes note of a commit that succeeded or failed.
    pub(crate) fn note(&mut self, result: &Result<(), StoreError>) {
        match result {
            Ok(()) => self.clear(),
            Err(_) => self.note_opening(result),
        }
    }

    /// Takes note of an opening. That it succeeded says nothing about the commits after it.
    pub(crate) fn note_opening(&mut self, result: &Result<(), StoreError>) {
        match result {
            // Also if a shard seems to be to blame: whoever finds that it is exonerates the file.
            Err(error) if error.is_of_whole_file() || error.is_structural() => self.failures += 1,
            // Nothing was tried.
            Ok(())
            | Err(StoreError::Import { .. } | StoreError::Closed { .. } | StoreError::Reopened) => {
            }
            // The disk has failed, or is full.
            Err(_) => self.clear(),
        }
    }

    /// Nothing is held against the file any more.
    pub(crate) fn clear(&mut self) {
        (self.failures, self.next) = (0, 0);
    }

    /// The file was written anew. If that did not help, the next one waits longer.
    pub(crate) fn renewed(&mut self) {
        self.clear();
        self.renewals += 1;
    }

    /// True if the file is to be written anew now.
    pub(crate) fn calls_for_renewal(&mut self, is_readable: bool) -> bool {
        let enough = if is_readable { FAILURES_MAX } else { UNREADABLE_FAILURES_MAX };
        if self.failures < self.next.max(enough << self.renewals.min(8)) {
            return false;
        }
        self.next = self.failures + FAILURES_BETWEEN;
        true
    }
}

/// Writes a new file beside the old one. Returns the shards that are lost.
///
/// # Errors
///
/// If the disk refuses. Nothing is left beside then.
pub(crate) fn write(
    source: &Source<'_>,
    file: &dyn StoreFile,
    options: StoreOptions,
    metrics: &StoreMetrics,
) -> Result<BTreeSet<GroupId>, StoreError> {
    let traffic = Arc::new(Traffic::default());
    let written =
        file::open_database_with(|| file.create_beside(), options, &traffic).and_then(|database| {
            let lost = copy(source, &database, metrics);
            // A file that cannot be closed is not whole.
            guarded("close a new file", || {
                drop(database);
                Ok(())
            })?;
            lost
        });
    if written.is_err()
        && let Err(error) = file.remove_beside()
    {
        tracing::warn!(%error, "a store file that was not completed is left");
    }
    written
}

/// Puts what was written in the place of the store's file. `keep`: the old one is kept.
///
/// # Errors
///
/// If the disk refuses; the file that is there is to be opened then.
pub(crate) fn replace(file: &dyn StoreFile, keep: bool) -> Result<(), StoreError> {
    let failed = |error| StoreError::database("replace the file", redb::Error::Io(error));
    file.replace(keep).map_err(failed)
}

/// Fills `to`, a file with nothing in it. Returns the shards that are lost.
///
/// # Errors
///
/// If the disk refuses. What was written is worth nothing then.
fn copy(
    source: &Source<'_>,
    to: &Database,
    metrics: &StoreMetrics,
) -> Result<BTreeSet<GroupId>, StoreError> {
    guarded("begin a new file", || file::initialize(to, false))?;
    let snapshot = source.snapshot;
    let uses = snapshot.table_uses();
    let mut states: Vec<&Arc<ShardState>> = snapshot.states().collect();
    states.sort_by_key(|state| state.group);
    let mut lost = source.damaged.clone();
    for state in &states {
        let is_exact = state.extents.iter().all(|extent| uses[&extent.table] == 1);
        // What is known to be wrong with the shard is not asked: the rows shall speak.
        let watch = (Arc::new(Watch::default()), 0, 0);
        let shard = ShardBase::open(&snapshot.transaction, state, watch, metrics.clone());
        let copied = match shard {
            Ok(shard) if source.is_readable => copy_rows(&shard, is_exact, to)?,
            Ok(_) => Err("the file cannot be read".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(what) = copied {
            tracing::error!(group = state.group.0, what, "a shard is lost with its file");
            lost.insert(state.group);
        }
    }
    guarded("end a new file", || write_records(&states, &lost, snapshot.table_next, to))?;
    Ok(lost)
}

/// Copies all rows of a shard. `Ok(Err)`: what is wrong with them.
fn copy_rows(
    shard: &ShardBase,
    is_exact: bool,
    to: &Database,
) -> Result<Result<(), String>, StoreError> {
    let (mut met, mut damaged) = (Size::default(), 0);
    let mut last: Option<Vec<u8>> = None;
    for (position, walk) in shard.walks(&KeyRange::whole()) {
        let table = shard.state.extents[position].table;
        let mut slice = Vec::new();
        let mut walk = match walk {
            Ok(walk) => Some(walk),
            Err(error) => return condemned(error),
        };
        while let Some(rows) = &mut walk {
            slice.clear();
            match guarded("walk over rows", || take_slice(rows, &mut slice)) {
                Ok(true) => {}
                Ok(false) => walk = None,
                Err(error) => return condemned(error),
            }
            for (key, stored) in &slice {
                if last.as_deref().is_some_and(|last| last >= &key[..]) {
                    return Ok(Err("its keys are out of order".to_owned()));
                }
                met.add(key, stored);
                damaged += u64::from(row::decode(key, stored).is_err());
                last.get_or_insert_default().clone_from(key);
            }
            guarded("write rows into a new file", || write_slice(table, &slice, to))?;
        }
    }
    match is_exact && !Size::of(&shard.state).is_made_of(&met, damaged) {
        true => Ok(Err(format!("its {} rows are not those of its record", met.rows))),
        false => Ok(Ok(())),
    }
}

/// What an error while reading means: a failing disk says nothing about the rows.
fn condemned(error: StoreError) -> Result<Result<(), String>, StoreError> {
    match error.is_structural() || error.is_of_whole_file() {
        true => Ok(Err(error.to_string())),
        false => Err(error),
    }
}

/// A key, and what is stored under it.
type StoredRow = (Vec<u8>, Vec<u8>);

/// Takes the next rows of a walk; false if there are no more.
fn take_slice(walk: &mut StoredRows, slice: &mut Vec<StoredRow>) -> Result<bool, StoreError> {
    let mut bytes = 0;
    while bytes < SLICE_BYTES_MAX {
        let Some(entry) = walk.next() else { return Ok(false) };
        let (key, stored) = entry.map_err(|error| StoreError::database("walk over rows", error))?;
        bytes += key.value().len() + stored.value().len();
        slice.push((key.value().to_vec(), stored.value().to_vec()));
    }
    Ok(true)
}

fn write_slice(table: TableId, slice: &[StoredRow], to: &Database) -> Result<(), StoreError> {
    let writing = |error| StoreError::database("write rows into a new file", error);
    let transaction = file::begin_durable(to)?;
    {
        let name = table.name();
        let mut table = transaction
            .open_table(row_table(&name))
            .map_err(|error| StoreError::database("create a table", error))?;
        for (key, stored) in slice {
            table.insert(&key[..], &stored[..]).map_err(writing)?;
        }
    }
    transaction.commit().map_err(|error| StoreError::database("commit", error))
}

/// Writes the records of all shards, of the lost ones such as are damaged, in the last commit.
fn write_records(
    states: &[&Arc<ShardState>],
    lost: &BTreeSet<GroupId>,
    table_next: u64,
    to: &Database,
) -> Result<(), StoreError> {
    let transaction = file::begin_durable(to)?;
    {
        let writing = |error| StoreError::database("write a record", error);
        let mut table = transaction
            .open_table(SHARDS_TABLE)
            .map_err(|error| StoreError::database("open the table of shards", error))?;
        for state in states.iter().filter(|state| !lost.contains(&state.group)) {
            table.insert(state.group.0, &state.encode()[..]).map_err(writing)?;
        }
        for group in lost {
            table.insert(group.0, &lost_record(*group).encode()[..]).map_err(writing)?;
        }
    }
    file::write_table_next(&transaction, table_next)?;
    let records = states.iter().map(|state| &***state);
    file::write_records(&transaction, lost.is_empty().then(|| file::records_sum(records)))?;
    transaction.commit().map_err(|error| StoreError::database("commit", error))
}

/// The record of a shard of which nothing is left but that it was.
fn lost_record(group: GroupId) -> ShardState {
    ShardState {
        group,
        applied: (0, 0),
        version: 0,
        rows: 0,
        bytes: 0,
        sum: None,
        extents: vec![Extent { table: NO_TABLE, clip: KeyRange::whole() }],
        meta: bytes::Bytes::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use redb::backends::InMemoryBackend;

    use super::super::{RowChange, Store};
    use super::*;

    fn store() -> Store {
        let (store, _) = Store::open_with_backend(
            Box::new(|| Ok(Box::new(InMemoryBackend::new()))),
            StoreOptions { cache_bytes: 64 << 20, ..StoreOptions::default() },
            StoreMetrics::new(),
        )
        .unwrap();
        for (group, rows) in [(1, 1500u32), (2, 3), (3, 0)] {
            let mut shard =
                store.create_shard(GroupId(group), KeyRange::whole(), bytes::Bytes::new());
            let put = |row: u32| RowChange::Put {
                key: bytes::Bytes::copy_from_slice(&row.to_be_bytes()),
                value: vec![row as u8; 16 << 10].into(),
                flags: 0,
                expires_at_ms: None,
            };
            shard.apply((0..rows).map(put).collect());
            store.checkpoint(&[shard.freeze((7, 2), "meta".into(), 0)]).unwrap();
        }
        store
    }

    fn copied(snapshot: &Snapshot) -> (Database, BTreeSet<GroupId>) {
        let to = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let damaged = BTreeSet::from([GroupId(9)]);
        let source = Source { snapshot, is_readable: true, damaged };
        let lost = copy(&source, &to, &StoreMetrics::new()).unwrap();
        (to, lost)
    }

    /// One shard is three slices long, another one has no rows, of a third nothing was readable.
    #[test]
    fn what_is_copied_is_the_same_row_for_row() {
        let store = store();
        let old = store.base().snapshot();
        let (to, lost) = copied(&old);
        assert_eq!(lost, BTreeSet::from([GroupId(9)]));
        let loaded = file::load(&to).unwrap();
        let mut states = loaded.states.clone();
        states.sort_by_key(|state| state.group);
        assert!(states.iter().map(|state| &**state).eq(&store.base().states()));
        assert_eq!(loaded.table_next, old.table_next);
        let damaged: Vec<GroupId> = loaded.damaged.iter().map(|shard| shard.group).collect();
        assert_eq!(damaged, [GroupId(9)]);
        let watch = Arc::new(Watch::default());
        let new = Snapshot::new(loaded.transaction, states, 1, Arc::default(), watch);
        for group in (1..=3).map(GroupId) {
            let shard = new.shard(group, &StoreMetrics::new()).unwrap().unwrap();
            assert_eq!(shard.scrub(true).unwrap(), 0, "its rows are those of its record");
        }
    }

    #[test]
    fn a_shard_whose_rows_are_not_those_of_its_record_is_lost() {
        let store = store();
        let states = store.base().states().into_iter().map(|mut state| {
            if state.group == GroupId(2) {
                state.sum = state.sum.map(|sum| sum ^ 1);
            }
            Arc::new(state)
        });
        let old = store.base().snapshot();
        let (sound, _) = copied(&old);
        let transaction = file::begin_read(&sound).unwrap();
        let watch = Arc::new(Watch::default());
        let forged = Snapshot::new(transaction, states, 9, Arc::default(), watch);
        let (to, lost) = copied(&forged);
        assert_eq!(lost, BTreeSet::from([GroupId(2), GroupId(9)]));
        let found = file::load(&to).unwrap().states.len();
        assert_eq!(found, 2, "the others are sound");
    }

    #[test]
    fn only_failures_in_a_row_that_the_file_is_to_blame_for_count() {
        let panicked = || {
            let message = "index out of bounds".to_owned();
            let source = StoreError::Panicked { doing: "commit", message };
            Err(StoreError::UnknownOutcome { source: Arc::new(source) })
        };
        let disk = || {
            let error = io::Error::from(io::ErrorKind::StorageFull);
            Err(StoreError::database("commit", redb::Error::Io(error)))
        };
        let shard = || {
            let (table, what) = ("rows".to_owned(), "damaged".to_owned());
            Err(StoreError::Corrupt { group: GroupId(1), table, what })
        };
        let closed = || Err(StoreError::Closed { why: "it could not be opened".to_owned() });
        let calls = |notes: &[Result<(), StoreError>], is_readable| {
            let mut doubt = Doubt::default();
            notes.iter().for_each(|note| doubt.note(note));
            doubt.calls_for_renewal(is_readable)
        };
        assert!(calls(&[panicked(), panicked(), panicked()], true));
        assert!(calls(&[panicked(), closed(), shard(), closed(), panicked()], true));
        assert!(!calls(&[panicked(), panicked()], true));
        assert!(!calls(&[panicked(), panicked(), disk(), panicked()], true), "the disk's");
        assert!(!calls(&[panicked(), panicked(), Ok(()), panicked()], true), "it was written");
        let many: Vec<_> = (0..UNREADABLE_FAILURES_MAX).map(|_| panicked()).collect();
        assert!(!calls(&many[1..], false), "more is at stake");
        assert!(calls(&many, false));

        let mut doubt = Doubt::default();
        [shard(), shard()].iter().for_each(|note| doubt.note(note));
        // Both were convicted.
        doubt.clear();
        let after = |notes: u32, doubt: &mut Doubt| {
            (0..notes).for_each(|_| doubt.note(&panicked()));
            doubt.note_opening(&Ok(()));
            doubt.calls_for_renewal(true)
        };
        assert!(after(FAILURES_MAX, &mut doubt), "openings say nothing for the file");
        assert!(!after(FAILURES_BETWEEN - 1, &mut doubt), "it was tried a moment ago");
        assert!(after(1, &mut doubt));
        doubt.renewed();
        assert!(!after(FAILURES_MAX, &mut doubt), "the last time did not help");
        assert!(after(FAILURES_MAX, &mut doubt));
    }
}
