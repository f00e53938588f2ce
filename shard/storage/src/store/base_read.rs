//! Reading a shard's rows out of redb: point reads and ordered walks over its extents.
//!
//! Every row is checked against its checksum before anything of it is returned; a row that fails is
//! an error that names shard and table, never data.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadTransaction, TableDefinition};

use super::error::{StoreError, guarded};
use super::extent::{ShardState, TableId};
use super::metrics::StoreMetrics;
use super::row::{self, Row};
use super::watch::Watch;
use crate::GroupId;
use crate::range::KeyRange;

/// A table of rows, opened for reading; keeps its read transaction alive.
pub(crate) type RowTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// The definition of a table of rows by its name.
pub(crate) fn row_table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// One shard's rows as of one read transaction.
pub(crate) struct ShardBase {
    pub(crate) state: Arc<ShardState>,
    /// One for each extent of the state, in the same order.
    tables: Vec<RowTable>,
    /// Whom to tell of failures, and of which generation and epoch they are.
    watch: (Arc<Watch>, u64, u64),
    metrics: StoreMetrics,
}

impl ShardBase {
    /// Opens the tables that `state` names.
    pub(crate) fn open(
        transaction: &ReadTransaction,
        state: &Arc<ShardState>,
        watch: (Arc<Watch>, u64, u64),
        metrics: StoreMetrics,
    ) -> Result<ShardBase, StoreError> {
        let open = |table: TableId| {
            let name = table.name();
            transaction.open_table(row_table(&name)).map_err(|error| match error {
                redb::TableError::TableDoesNotExist(_) => {
                    corrupt(state.group, table, "the table does not exist".to_owned())
                }
                error => StoreError::database("open a table", error),
            })
        };
        let tables = guarded("open a shard's tables", || {
            state.extents.iter().map(|extent| open(extent.table)).collect::<Result<_, _>>()
        });
        let mut base = ShardBase { state: state.clone(), tables: Vec::new(), watch, metrics };
        base.tables = base.told(None, tables)?;
        Ok(base)
    }

    /// The row under `key`.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let extents = &self.state.extents;
        // The clips are disjoint and ordered: only the last that begins at or before the key can
        // contain it.
        let after = extents.partition_point(|extent| &extent.clip.start[..] <= key);
        let Some(position) = after.checked_sub(1) else { return Ok(None) };
        if !extents[position].clip.contains(key) {
            return Ok(None);
        }
        let read = guarded("read a row", || {
            let table = &self.tables[position];
            let stored =
                table.get(key).map_err(|error| StoreError::database("read a row", error))?;
            match stored {
                Some(stored) => match row::decode(key, stored.value()) {
                    Ok(row) => Ok(Some(row.to_row())),
                    Err(what) => Err(self.corrupt(position, what)),
                },
                None => self.check_neighbours(position, key).map(|()| None),
            }
        });
        self.told(Some(position), read)
    }

    /// True if a search for the key of a row leads to this very row.
    pub(crate) fn finds(&self, key: &[u8], stored: &[u8]) -> Result<bool, StoreError> {
        let after = self.state.extents.partition_point(|extent| &extent.clip.start[..] <= key);
        let Some(position) = after.checked_sub(1) else { return Ok(false) };
        let found = self.tables[position]
            .get(key)
            .map_err(|error| StoreError::database("read a row", error))?;
        Ok(found.is_some_and(|found| found.value() == stored))
    }

    /// Checks the rows on both sides of a key that was not found. A damaged key in a leaf leads
    /// the search astray, and the search then ends beside it; the row's checksum covers the key.
    fn check_neighbours(&self, position: usize, key: &[u8]) -> Result<(), StoreError> {
        let reading = |error| StoreError::database("read a row", error);
        let table = &self.tables[position];
        let mut below =
            table.range::<&[u8]>((Bound::Unbounded, Bound::Excluded(key))).map_err(reading)?;
        let mut above =
            table.range::<&[u8]>((Bound::Excluded(key), Bound::Unbounded)).map_err(reading)?;
        for neighbour in [below.next_back(), above.next()].into_iter().flatten() {
            let (key, stored) = neighbour.map_err(reading)?;
            row::decode(key.value(), stored.value())
                .map_err(|what| self.corrupt(position, what))?;
        }
        Ok(())
    }

    /// Passes `result` on; failures are told to the watch, and what may be damage says whose.
    pub(crate) fn told<T>(
        &self,
        position: Option<usize>,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        result.map_err(|error| {
            let group = self.state.group;
            let table = |position: usize| self.state.extents[position].table.name();
            let (watch, generation, epoch) = &self.watch;
            let is_row = matches!(error, StoreError::Corrupt { .. });
            let error = error.of_shard(group, || position.map_or_else(String::new, table));
            if !is_row && matches!(error, StoreError::Corrupt { .. }) {
                self.metrics.corruptions_total.inc();
                watch.mark_damaged(group, *generation, &error);
            }
            watch.read_failed(group, *generation, *epoch, &error);
            error
        })
    }

    /// Walks the rows of `range`, forward or backward.
    pub(crate) fn cursor(self: &Arc<ShardBase>, range: KeyRange, reverse: bool) -> BaseCursor {
        BaseCursor {
            shard: self.clone(),
            rest: Some(range),
            reverse,
            current: None,
            position: None,
        }
    }

    /// The stored rows of `range` as they are, unchecked: for moving them. One walk per extent, by
    /// its position.
    pub(crate) fn walks(
        &self,
        range: &KeyRange,
    ) -> impl Iterator<Item = (usize, Result<StoredRows, StoreError>)> {
        let range = range.clone();
        let extents = self.state.extents.iter().zip(&self.tables).enumerate();
        extents.filter_map(move |(position, (extent, table))| {
            let clip = extent.clip.clip(&range)?;
            let rows = table.range::<&[u8]>(clip.bounds());
            Some((position, rows.map_err(|error| StoreError::database("walk over rows", error))))
        })
    }

    /// The part of `range` that the first extent in walking direction holds: its position and clip.
    fn first_extent(&self, range: &KeyRange, reverse: bool) -> Option<(usize, KeyRange)> {
        let clip = |(position, extent): (usize, &super::extent::Extent)| {
            extent.clip.clip(range).map(|clip| (position, clip))
        };
        let mut extents = self.state.extents.iter().enumerate();
        if reverse { extents.rev().find_map(clip) } else { extents.find_map(clip) }
    }

    /// The error for a tree that is not what it should be: from now on nothing of it is read.
    pub(crate) fn broken(&self, what: String) -> StoreError {
        self.metrics.corruptions_total.inc();
        let table = self.state.extents.first().map_or_else(String::new, |first| first.table.name());
        let error = StoreError::Corrupt { group: self.state.group, table, what };
        let (watch, generation, _) = &self.watch;
        watch.mark_damaged(self.state.group, *generation, &error);
        error
    }

    pub(crate) fn corrupt(&self, position: usize, what: String) -> StoreError {
        self.metrics.corruptions_total.inc();
        corrupt(self.state.group, self.state.extents[position].table, what)
    }
}

fn corrupt(group: GroupId, table: TableId, what: String) -> StoreError {
    StoreError::Corrupt { group, table: table.name(), what }
}

/// A walk over stored rows of one table.
pub(crate) type StoredRows = redb::Range<'static, &'static [u8], &'static [u8]>;

/// Rows of one extent within a clip, being walked.
struct Walk {
    position: usize,
    rows: StoredRows,
}

/// A walk over a shard's rows in redb, in key order or against it.
pub(crate) struct BaseCursor {
    shard: Arc<ShardBase>,
    /// What is left of the range beyond the extent being walked. `None`: nothing.
    rest: Option<KeyRange>,
    reverse: bool,
    current: Option<Walk>,
    /// Of the extent walked last.
    position: Option<usize>,
}

impl BaseCursor {
    /// The next row; with `keys_only` its value is left out (and still checked).
    pub(crate) fn next(&mut self, keys_only: bool) -> Result<Option<(Bytes, Row)>, StoreError> {
        let next = guarded("walk over rows", || self.next_unguarded(keys_only));
        match next {
            Ok(next) => Ok(next),
            Err(error) => self.shard.clone().told(self.position, Err(error)),
        }
    }

    /// Goes on at the first row within `range`.
    pub(crate) fn seek(&mut self, range: Option<KeyRange>) {
        self.current = None;
        self.rest = range;
    }

    fn next_unguarded(&mut self, keys_only: bool) -> Result<Option<(Bytes, Row)>, StoreError> {
        let walking = |error| StoreError::database("walk over rows", error);
        loop {
            let Some(walk) = &mut self.current else {
                match self.next_walk()? {
                    Some(walk) => self.current = Some(walk),
                    None => return Ok(None),
                }
                continue;
            };
            let entry = if self.reverse { walk.rows.next_back() } else { walk.rows.next() };
            let Some(entry) = entry else {
                self.current = None;
                continue;
            };
            let (key, stored) = entry.map_err(walking)?;
            let key = Bytes::copy_from_slice(key.value());
            return match row::decode(&key, stored.value()) {
                Ok(row) if keys_only => Ok(Some((key, row.with_value(Bytes::new())))),
                Ok(row) => Ok(Some((key, row.to_row()))),
                Err(what) => Err(self.shard.corrupt(walk.position, what)),
            };
        }
    }

    /// Starts on the next extent that holds a part of what is left.
    fn next_walk(&mut self) -> Result<Option<Walk>, StoreError> {
        let Some(rest) = self.rest.take() else { return Ok(None) };
        let Some((position, clip)) = self.shard.first_extent(&rest, self.reverse) else {
            return Ok(None);
        };
        self.position = Some(position);
        self.rest = if self.reverse {
            Some(KeyRange { start: rest.start, end: Some(clip.start.clone()) })
        } else {
            clip.end.clone().map(|start| KeyRange { start, end: rest.end })
        }
        .filter(|rest| !rest.is_empty());
        let rows = self.shard.tables[position]
            .range::<&[u8]>(clip.bounds())
            .map_err(|error| StoreError::database("walk over rows", error))?;
        Ok(Some(Walk { position, rows }))
    }
}
