//! Dropping tables that no shard names, a slice at a time.
//!
//! A swap or an interrupted import leaves a table as large as a shard. Before its pages are given
//! back it is walked over: they are freed only if it is the tree that it should be, because freeing
//! the pages of anything else could free those of other tables. Walk and removal both go in slices
//! of bounded size, each removal in a commit of its own, so that the checkpoints of all shards go on
//! in between. An interruption at any point leaves a smaller table that nobody names.
//!
//! What is absent: who may call, and when.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::base::Base;
use super::base_read::row_table;
use super::error::{StoreError, guarded};
use super::extent::TableId;
use super::file;
use super::snapshot::{Committed, Snapshot};

/// Rows and bytes of one slice of a walk: some tens of milliseconds.
const WALKED_ROWS_MAX: u64 = 65_536;
const WALKED_BYTES_MAX: usize = 32 << 20;
/// Rows and bytes of one slice of a removal.
const REMOVED_ROWS_MAX: u64 = 16_384;
const REMOVED_BYTES_MAX: usize = 16 << 20;

/// How far the dropping of unnamed tables is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    table: Option<TableId>,
    /// Rows walked over so far, and the last key of them.
    walked: u64,
    last: Option<Vec<u8>>,
    is_sound: bool,
}

/// A slice of a table's rows.
struct Slice {
    rows: u64,
    last: Option<Vec<u8>>,
    ended: bool,
}

impl Sweep {
    /// Does the next slice; false if no unnamed table is left that can be dropped. Those in `used`
    /// are left alone.
    ///
    /// # Errors
    ///
    /// If the disk refuses; the file has to be opened again then, and a new sweep be begun.
    pub(crate) fn step(
        &mut self,
        base: &Base,
        used: &BTreeSet<TableId>,
    ) -> Result<bool, StoreError> {
        let Some(table) = self.table else {
            *self = Sweep { table: next_unnamed(base, used)?, ..Sweep::default() };
            return Ok(self.table.is_some());
        };
        if self.is_sound {
            if remove_slice(base, table)? {
                self.table = None;
            }
            return Ok(true);
        }
        let snapshot = base.snapshot();
        let after = self.last.take();
        let slice = slice(&snapshot, table, after.as_deref(), WALKED_ROWS_MAX, WALKED_BYTES_MAX);
        let sound = slice.and_then(|slice| {
            self.walked += slice.rows;
            self.last = slice.last;
            match slice.ended {
                true => Ok(Some(count(&snapshot, table)? == self.walked)),
                false => Ok(None),
            }
        });
        drop(snapshot);
        match sound {
            Ok(None) => {}
            Ok(Some(true)) => {
                tracing::info!(table = table.name(), "dropping a table of no shard");
                self.is_sound = true;
            }
            Ok(Some(false)) | Err(_) => {
                tracing::error!(
                    table = table.name(),
                    "a table of no shard is damaged; its pages are given up"
                );
                base.commit(|transaction, current| {
                    file::abandon_table(transaction, table)?;
                    Ok(Committed { table_next: current.table_next, ..Committed::default() })
                })?;
                self.table = None;
            }
        }
        Ok(true)
    }
}

/// The first table that no extent names.
fn next_unnamed(base: &Base, used: &BTreeSet<TableId>) -> Result<Option<TableId>, StoreError> {
    if base.watch().any_record_damaged() {
        tracing::warn!("records of shards are damaged; tables that no record names are kept");
        return Ok(None);
    }
    let snapshot = base.snapshot();
    let uses = snapshot.table_uses();
    for table in snapshot.row_tables()? {
        let named = uses.contains_key(&table) || used.contains(&table);
        if !named && !file::is_abandoned(&snapshot.transaction, table)? {
            return Ok(Some(table));
        }
    }
    Ok(None)
}

/// The rows behind `after`, up to the given number and size, which must be in order.
fn slice(
    snapshot: &Snapshot,
    table: TableId,
    after: Option<&[u8]>,
    rows_max: u64,
    bytes_max: usize,
) -> Result<Slice, StoreError> {
    let name = table.name();
    guarded("walk over rows", || {
        let walking = |error| StoreError::database("walk over rows", error);
        let table = snapshot
            .transaction
            .open_table(row_table(&name))
            .map_err(|error| StoreError::database("open a table", error))?;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = after.map(<[u8]>::to_vec);
        let (mut rows, mut bytes) = (0, 0);
        for entry in table.range::<&[u8]>((start, Bound::Unbounded)).map_err(walking)? {
            let (key, stored) = entry.map_err(walking)?;
            let key = key.value();
            if last.as_deref().is_some_and(|last| last >= key) {
                let what = "its rows are out of order".to_owned();
                let group = crate::GroupId(0);
                return Err(StoreError::Corrupt { group, table: name.clone(), what });
            }
            match &mut last {
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(key);
                }
                None => last = Some(key.to_vec()),
            }
            rows += 1;
            bytes += key.len() + stored.value().len();
            if rows == rows_max || bytes >= bytes_max {
                return Ok(Slice { rows, last, ended: false });
            }
        }
        Ok(Slice { rows, last, ended: true })
    })
}

fn count(snapshot: &Snapshot, table: TableId) -> Result<u64, StoreError> {
    let name = table.name();
    guarded("count rows", || {
        let table = snapshot
            .transaction
            .open_table(row_table(&name))
            .map_err(|error| StoreError::database("open a table", error))?;
        redb::ReadableTableMetadata::len(&table)
            .map_err(|error| StoreError::database("count rows", error))
    })
}

/// Removes the first rows of a sound table, and the table with the last of them; true if it is gone.
fn remove_slice(base: &Base, table: TableId) -> Result<bool, StoreError> {
    let slice = slice(&base.snapshot(), table, None, REMOVED_ROWS_MAX, REMOVED_BYTES_MAX)?;
    base.commit(|transaction, current| {
        match &slice.last {
            Some(last) if !slice.ended => {
                let removing = |error| StoreError::database("drop a part of a table", error);
                let name = table.name();
                transaction
                    .open_table(row_table(&name))
                    .map_err(|error| StoreError::database("open a table", error))?
                    .retain_in::<&[u8], _>(
                        (Bound::Unbounded, Bound::Included(&last[..])),
                        |_, _| false,
                    )
                    .map_err(removing)?;
            }
            _ => file::delete_table(transaction, table)?,
        }
        Ok(Committed { table_next: current.table_next, ..Committed::default() })
    })?;
    Ok(slice.ended)
}

#[cfg(test)]
mod tests {
    use super::super::{RowChange, Store, StoreMetrics, StoreOptions};
    use super::*;
    use crate::{GroupId, KeyRange};
    use bytes::Bytes;

    /// A large table goes in many commits, each of which leaves everything else as it is.
    #[test]
    fn a_large_table_is_dropped_in_slices() {
        let (store, _) = Store::open_with_backend(
            Box::new(|| Ok(Box::new(redb::backends::InMemoryBackend::new()))),
            StoreOptions { cache_bytes: 64 << 20, ..StoreOptions::default() },
            StoreMetrics::new(),
        )
        .unwrap();
        let rows = 3 * REMOVED_ROWS_MAX as u32 + 5;
        let mut tables = Vec::new();
        for group in [GroupId(1), GroupId(2)] {
            let mut shard = store.create_shard(group, KeyRange::whole(), Bytes::new());
            let put = |row: u32| RowChange::Put {
                key: Bytes::copy_from_slice(&row.to_be_bytes()),
                value: Bytes::from_static(b"v"),
                flags: 0,
                expires_at_ms: None,
            };
            shard.apply((0..rows).map(put).collect());
            store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
            tables.push(store.state(group).unwrap().extents[0].table);
        }
        // Nobody names the first table any more.
        store.abandon(GroupId(1)).unwrap();
        let mut sweep = Sweep::default();
        assert!(
            sweep.step(store.base(), &tables.iter().copied().collect()).is_ok_and(|more| !more)
        );
        let mut steps = 0;
        let mut counts = vec![u64::from(rows)];
        while sweep.step(store.base(), &BTreeSet::new()).unwrap() {
            steps += 1;
            if let Ok(left) = count(&store.base().snapshot(), tables[0]) {
                counts.push(left);
            }
        }
        counts.dedup();
        assert!(steps >= 6, "{steps} steps");
        assert_eq!(counts.len(), 4, "{counts:?}");
        assert!(counts.windows(2).all(|pair| pair[0] - pair[1] <= REMOVED_ROWS_MAX), "{counts:?}");
        assert_eq!(store.base().snapshot().row_tables().unwrap(), [tables[1]]);
        assert_eq!(count(&store.base().snapshot(), tables[1]).unwrap(), u64::from(rows));
    }
}
