//! What a checkpoint writes: frozen memtables of many shards merged into one redb transaction.
//!
//! Of each shard only the newest state of each key goes to redb, in key order. redb likes two ways
//! of writing (measured): sorted `insert`s into a table where a small share of the rows changes,
//! and appending to a new table with a cursor where a large share does. A shard is therefore
//! *updated* in place or *rewritten* into a new table, see [`REWRITE_SHARE`].
//!
//! Invariants:
//!
//! * A shard's rows, applied index, version, extents and meta change in the same commit.
//! * Stored rows are moved as they are, checksum included, so that a damaged row stays detectable.
//! * A table is dropped in the commit that stops naming it, and its number is never used again. A
//!   table with a damaged row is not dropped here: it may be no sound tree.
//! * Rows that are expired at the stamp of the newest command merged do not reach redb.
//! * What goes wrong with one shard says so, and harms no other.
//!
//! What is absent: when, and what to do about errors: `checkpoint`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use flotilla_mutation::{Mutation, planted};
use parking_lot::RwLockReadGuard;
use redb::WriteTransaction;

use super::base_read::{ShardBase, row_table};
use super::error::{StoreError, guarded};
use super::extent::{Extent, ShardState, TableId};
use super::file::{self, SHARDS_TABLE, delete_table};
use super::memtable::{Cell, Inner};
use super::metrics::StoreMetrics;
use super::row;
use super::shard::{Frozen, FrozenKind, Tally};
use super::size::Size;
use super::snapshot::{Committed, Snapshot};
use super::tombstones::Tombstones;
use crate::GroupId;
use crate::range::KeyRange;

/// A shard of which at least one row in this many changes is rewritten rather than updated. In
/// place a change costs 5 to 20 µs, rewriting costs 1 to 1.7 µs for every row of the shard.
const REWRITE_SHARE: u64 = 6;

/// What one checkpoint did.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// Rows put or deleted in redb.
    pub(crate) rows: u64,
    /// Rows and tallies of each shard, for its estimates.
    pub(crate) shards: Vec<(GroupId, u64, Tally)>,
    /// Shards of which damaged rows were met, and moved along.
    pub(crate) damaged: BTreeSet<GroupId>,
}

/// Why a merge failed.
pub(crate) struct MergeError {
    /// The shard that was being merged; `None` if it was something else.
    pub(crate) group: Option<GroupId>,
    pub(crate) error: StoreError,
}

impl From<StoreError> for MergeError {
    fn from(error: StoreError) -> MergeError {
        MergeError { group: None, error }
    }
}

/// Merges `batches`, each shard's frozen memtables in the order they were frozen, into
/// `transaction`, which began at the state of `current`.
pub(crate) fn merge(
    transaction: &WriteTransaction,
    current: &Snapshot,
    batches: &BTreeMap<GroupId, Vec<&Frozen>>,
    metrics: &StoreMetrics,
) -> Result<(Committed, Merged), MergeError> {
    let mut merger = Merger::new(transaction, current, metrics);
    let mut committed = Committed::default();
    {
        let recording = |error| StoreError::database("record a shard", error);
        let mut records = transaction
            .open_table(SHARDS_TABLE)
            .map_err(|error| StoreError::database("record a shard", error))?;
        for (group, batch) in batches {
            let merged = guarded("merge a shard", || merger.shard(*group, batch))
                .map_err(|error| MergeError { group: Some(*group), error })?;
            match merged {
                Some(state) => {
                    records.insert(group.0, &state.encode()[..]).map_err(recording)?;
                    committed.states.push(Arc::new(state));
                }
                None => {
                    records.remove(group.0).map_err(recording)?;
                    committed.removed.push(*group);
                }
            }
        }
    }
    merger.finish()?;
    committed.table_next = merger.table_next;
    Ok((committed, merger.merged))
}

struct Merger<'a> {
    transaction: &'a WriteTransaction,
    current: &'a Snapshot,
    metrics: &'a StoreMetrics,
    table_next: u64,
    /// Extents that name each table; at zero the table is dropped at the end.
    table_uses: BTreeMap<TableId, usize>,
    /// Tables with damaged rows.
    doubtful: BTreeSet<TableId>,
    merged: Merged,
}

/// The newest state of one key.
type Change<'a> = (&'a [u8], &'a Cell);

impl<'a> Merger<'a> {
    fn new(
        transaction: &'a WriteTransaction,
        current: &'a Snapshot,
        metrics: &'a StoreMetrics,
    ) -> Merger<'a> {
        Merger {
            transaction,
            current,
            metrics,
            table_next: current.table_next,
            table_uses: current.table_uses(),
            doubtful: BTreeSet::new(),
            merged: Merged::default(),
        }
    }

    /// Drops the tables that lost their last name, and records the number of the next one.
    fn finish(&self) -> Result<(), StoreError> {
        for (table, uses) in &self.table_uses {
            if *uses == 0 && !self.doubtful.contains(table) {
                delete_table(self.transaction, *table)?;
            }
        }
        match self.table_next == self.current.table_next {
            true => Ok(()),
            false => file::write_table_next(self.transaction, self.table_next),
        }
    }
}

impl Merger<'_> {
    /// Merges one shard; `None` if it is to be removed.
    fn shard(
        &mut self,
        group: GroupId,
        batch: &[&Frozen],
    ) -> Result<Option<ShardState>, StoreError> {
        let newest = batch.last().expect("a shard without frozen memtables is not in a checkpoint");
        let before = self.current.state(group);
        let old_extents = before.map_or(&[][..], |state| &state.extents);
        let FrozenKind::Rows { meta } = &newest.kind else {
            self.release(old_extents);
            return Ok(None);
        };

        // What lies below an emptying of the shard is gone, in memory as in redb.
        let floor = batch.iter().rposition(|frozen| frozen.memtable.is_floor());
        let memtables: Vec<_> = batch[floor.unwrap_or(0)..]
            .iter()
            .map(|frozen| frozen.memtable.read_ordered())
            .collect();
        let base = before.filter(|_| floor.is_none());
        let (changes, deleted) = newest_changes(&memtables);

        let now_ms = newest.now_ms;
        let mut tally = Tally::default();
        let base_rows = base.map_or(0, |state| state.rows);
        let size = base.map_or_else(Size::default, |state| Size::of(state));
        let extents = base.map_or(&[][..], |state| &state.extents);
        let (size, extents) = if changes.is_empty() && deleted.is_empty() {
            (size, extents.to_vec())
        } else if must_rewrite(&changes, base_rows, extents) {
            let base = match base {
                Some(_) => self.current.shard(group, self.metrics)?,
                None => None,
            };
            let is_exact = extents.iter().all(|extent| self.table_uses[&extent.table] == 1);
            let rewrite = Rewrite {
                is_exact,
                changes: &changes,
                deleted: &deleted,
                range: &newest.shared.range,
                now_ms,
            };
            let (size, extents, damaged_rows) =
                self.rewrite(base.as_ref(), &rewrite, &mut tally)?;
            if damaged_rows > 0 {
                self.merged.damaged.insert(group);
                self.doubtful.extend(old_extents.iter().map(|extent| extent.table));
            }
            (size, extents)
        } else {
            let size = self.update(size, extents, &changes, &deleted, now_ms, &mut tally)?;
            (size, extents.to_vec())
        };
        let Size { rows, bytes, sum } = size;
        self.acquire(&extents);
        self.release(old_extents);
        self.merged.rows += tally.puts + tally.deletes;
        self.merged.shards.push((group, rows, tally));
        let applied = match planted(Mutation::CheckpointWithoutAppliedIndex) {
            true => before.map_or((0, 0), |state| state.applied),
            false => newest.applied,
        };
        Ok(Some(ShardState {
            group,
            applied,
            version: newest.version,
            rows,
            bytes,
            sum,
            extents,
            meta: meta.clone(),
        }))
    }

    /// Writes the changes into the tables that the shard has. Returns its new size.
    fn update(
        &self,
        mut size: Size,
        extents: &[Extent],
        changes: &[Change<'_>],
        deleted: &[KeyRange],
        now_ms: u64,
        tally: &mut Tally,
    ) -> Result<Size, StoreError> {
        let updating = |error| StoreError::database("update a table", error);
        let mut stored = Vec::new();
        let mut rest = changes;
        for extent in extents {
            let (below, after) = split_at_end(rest, &extent.clip);
            rest = after;
            let clips: Vec<_> =
                deleted.iter().filter_map(|range| range.clip(&extent.clip)).collect();
            if below.is_empty() && clips.is_empty() {
                continue;
            }
            let name = extent.table.name();
            let mut table = self
                .transaction
                .open_table(row_table(&name))
                .map_err(|error| StoreError::database("open a table", error))?;
            for clip in clips {
                let remove = |key: &[u8], stored: &[u8]| {
                    size.remove(key, stored);
                    false
                };
                table.retain_in::<&[u8], _>(clip.bounds(), remove).map_err(updating)?;
            }
            for (key, cell) in below {
                match cell.row_at(now_ms) {
                    Some(row) => {
                        row::encode(key, &row, &mut stored);
                        let old = table.insert(*key, &stored[..]).map_err(updating)?;
                        tally.puts += 1;
                        size.add(key, &stored);
                        match old {
                            Some(old) => size.remove(key, old.value()),
                            None => tally.puts_new += 1,
                        }
                    }
                    // A deletion outside of every clip deletes nothing of this shard's.
                    None if !extent.clip.contains(key) => {}
                    None => {
                        tally.deletes += 1;
                        if let Some(old) = table.remove(*key).map_err(updating)? {
                            tally.deletes_hit += 1;
                            size.remove(key, old.value());
                        }
                    }
                }
            }
        }
        Ok(size)
    }

    /// Writes what the shard holds after the changes into a new table. Returns its size and
    /// extents, and how many of the rows are damaged.
    fn rewrite(
        &mut self,
        base: Option<&Arc<ShardBase>>,
        rewrite: &Rewrite<'_>,
        tally: &mut Tally,
    ) -> Result<(Size, Vec<Extent>, u64), StoreError> {
        let table = TableId(self.table_next);
        self.table_next += 1;
        // Named by nobody yet; a table that stays empty is dropped at the end, like an old one.
        self.table_uses.insert(table, 0);
        self.metrics.rewrites_total.inc();
        let (size, damaged) = load(self.transaction, table, base, rewrite, tally)?;
        if damaged > 0 {
            self.metrics.corruptions_total.inc_by(damaged);
        }
        let extent = Extent { table, clip: rewrite.range.clone() };
        Ok((size, if size.rows == 0 { Vec::new() } else { vec![extent] }, damaged))
    }

    fn acquire(&mut self, extents: &[Extent]) {
        for extent in extents {
            *self.table_uses.entry(extent.table).or_default() += 1;
        }
    }

    fn release(&mut self, extents: &[Extent]) {
        for extent in extents {
            let uses = self.table_uses.get_mut(&extent.table).expect("a named table is counted");
            *uses -= 1;
        }
    }
}

/// What becomes of a shard's rows.
struct Rewrite<'a> {
    /// No other shard has a part of the old tables.
    is_exact: bool,
    changes: &'a [Change<'a>],
    deleted: &'a [KeyRange],
    range: &'a KeyRange,
    now_ms: u64,
}

/// Loads the new `table` of a shard, in key order, from the old rows and the changes. Returns its
/// size, and how many of the rows are damaged.
fn load(
    transaction: &WriteTransaction,
    table: TableId,
    base: Option<&Arc<ShardBase>>,
    rewrite: &Rewrite<'_>,
    tally: &mut Tally,
) -> Result<(Size, u64), StoreError> {
    let Rewrite { changes, range, now_ms, .. } = *rewrite;
    let mut deleted = Tombstones::default();
    rewrite.deleted.iter().for_each(|range| deleted.insert(range, 0));
    let name = table.name();
    let mut table = transaction
        .open_table(row_table(&name))
        .map_err(|error| StoreError::database("create a table", error))?;
    let cursor = table
        .upper_bound_mut(Bound::<&[u8]>::Unbounded)
        .map_err(|error| StoreError::database("load a table", error))?;
    let mut loader =
        Loader { cursor, size: Size::default(), damaged: 0, now_ms, stored: Vec::new(), tally };

    let (mut changes, mut met) = (changes.iter().peekable(), Size::default());
    for (_, walk) in base.into_iter().flat_map(|base| base.walks(range)) {
        for entry in walk? {
            let (key, stored) =
                entry.map_err(|error| StoreError::database("read the old table", error))?;
            let key = key.value();
            met.add(key, stored.value());
            if deleted.version_at(key).is_some() {
                continue;
            }
            while let Some((new, cell)) = changes.next_if(|(new, _)| *new < key) {
                loader.change(new, cell, false)?;
            }
            match changes.next_if(|(changed, _)| *changed == key) {
                Some((_, cell)) => loader.change(key, cell, true)?,
                None => loader.moved(key, stored.value())?,
            }
        }
    }
    // What is missing would be missing for good, and look deleted.
    if let Some(base) = base
        && rewrite.is_exact
        && !Size::of(&base.state).agrees(&met)
    {
        base.scrub(true)?;
    }
    for (new, cell) in changes {
        loader.change(new, cell, false)?;
    }
    let Loader { cursor, size, damaged, .. } = loader;
    cursor.close().map_err(|error| StoreError::database("load a table", error))?;
    Ok((size, damaged))
}

/// Appends rows to a table, keys rising.
struct Loader<'a, 't> {
    cursor: redb::CursorMut<'t, &'static [u8], &'static [u8]>,
    size: Size,
    damaged: u64,
    now_ms: u64,
    stored: Vec<u8>,
    tally: &'a mut Tally,
}

impl Loader<'_, '_> {
    /// The new state of a key that the old table had or not.
    fn change(&mut self, key: &[u8], cell: &Cell, existed: bool) -> Result<(), StoreError> {
        let Some(row) = cell.row_at(self.now_ms) else {
            self.tally.deletes += 1;
            self.tally.deletes_hit += u64::from(existed);
            return Ok(());
        };
        self.tally.puts += 1;
        self.tally.puts_new += u64::from(!existed);
        let mut stored = std::mem::take(&mut self.stored);
        row::encode(key, &row, &mut stored);
        let result = self.row(key, &stored);
        self.stored = stored;
        result
    }

    /// A row of the old table. A damaged one goes along: left out, it would look deleted.
    fn moved(&mut self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        match row::decode(key, stored) {
            Ok(row) if row::is_expired(row.expires_at_ms, self.now_ms) => return Ok(()),
            Ok(_) => {}
            Err(what) => {
                self.damaged += 1;
                tracing::error!(what, "a damaged row was met by a checkpoint");
            }
        }
        self.row(key, stored)
    }

    /// A row in its stored form.
    fn row(&mut self, key: &[u8], stored: &[u8]) -> Result<(), StoreError> {
        self.size.add(key, stored);
        self.cursor
            .insert_before(key, stored)
            .map_err(|error| StoreError::database("load a table", error))
    }
}

/// The newest state of each key in `memtables` (oldest first), in key order, and the ranges deleted
/// from what lies below them. A key that a range deletion hides is not among the former.
fn newest_changes<'a>(
    memtables: &'a [RwLockReadGuard<'_, Inner>],
) -> (Vec<Change<'a>>, Vec<KeyRange>) {
    let mut changes: Vec<Change<'a>> = Vec::new();
    for (position, memtable) in memtables.iter().enumerate().rev() {
        let newer = &memtables[position + 1..];
        let hidden = |key: &[u8]| {
            newer.iter().any(|memtable| memtable.tombstones().version_at(key).is_some())
        };
        changes.extend(memtable.newest().filter(|(key, _)| !hidden(key)));
    }
    // Stable, and a merge of sorted runs: of equal keys the newest comes first.
    changes.sort_by_key(|(key, _)| *key);
    changes.dedup_by(|(later, _), (first, _)| later == first);
    let deleted = memtables.iter().flat_map(|memtable| memtable.tombstones().ranges()).collect();
    (changes, deleted)
}

/// True if writing a new table is cheaper than updating the old ones, or if these have no place for
/// some of the new rows.
fn must_rewrite(changes: &[Change<'_>], rows: u64, extents: &[Extent]) -> bool {
    if changes.len() as u64 * REWRITE_SHARE >= rows {
        return true;
    }
    let mut rest = changes;
    for extent in extents {
        let (below, after) = split_at_end(rest, &extent.clip);
        let homeless =
            |(key, cell): &Change<'_>| cell.content.is_some() && !extent.clip.contains(key);
        if below.iter().any(homeless) {
            return true;
        }
        rest = after;
    }
    rest.iter().any(|(_, cell)| cell.content.is_some())
}

/// Cuts `changes`, in key order, at the end of `clip`.
fn split_at_end<'c, 'a>(
    changes: &'c [Change<'a>],
    clip: &KeyRange,
) -> (&'c [Change<'a>], &'c [Change<'a>]) {
    let end = match &clip.end {
        Some(end) => changes.partition_point(|(key, _)| *key < &end[..]),
        None => changes.len(),
    };
    changes.split_at(end)
}
