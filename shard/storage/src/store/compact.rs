//! Keeping the file in proportion to what is in it.
//!
//! redb writes every change to free pages and gives space back to the file system only from the end
//! of the file, so the file holds what was live at the worst moment. Two things keep that low: a
//! checkpoint of many shards is made in several commits (`worker`), and what a commit leaves is made
//! free before the next one. What is left after many rows were deleted is moved together when the
//! file is opened, because redb moves pages only while nobody reads.
//!
//! A crash while pages are moved costs nothing: redb does it in commits of its own, and walks over
//! the file when it is opened the next time.
//!
//! What is absent: moving pages while readers are there.

use redb::Database;

use super::Store;
use super::base::StoreOptions;
use super::error::{StoreError, guarded};
use super::extent::TableId;
use super::file::{self, Loaded};
use super::snapshot::Committed;

/// A file of more than this many times its live bytes is compacted when it is opened.
pub(crate) const FILE_SHARE: u64 = 3;

/// A file with more live bytes than this is left as it is: a start must not wait for minutes until
/// everything was moved.
const LIVE_BYTES_MAX: u64 = 1 << 30;

/// True if a file is so much larger than what is in it that moving it together is worth a start that
/// takes seconds longer. Records of an earlier layout do not say how much is in them and count as
/// nothing: of a file that seems to be empty nothing is known.
fn is_out_of_proportion(file_bytes: u64, live_bytes: u64, file_bytes_min: u64) -> bool {
    (1..=LIVE_BYTES_MAX).contains(&live_bytes)
        && file_bytes > file_bytes_min.max(live_bytes * FILE_SHARE)
}

/// True if the file is much larger than the `live_bytes` in it. A file of which a table is damaged
/// stays as it is: which of its pages are in use, only sound tables say.
pub(crate) fn is_wanted(
    loaded: &Loaded,
    options: StoreOptions,
    file_bytes: u64,
    live_bytes: u64,
) -> bool {
    let wanted = is_out_of_proportion(file_bytes, live_bytes, options.compact_file_bytes_min);
    if !wanted || !loaded.damaged.is_empty() {
        return false;
    }
    tracing::info!(
        file_bytes,
        live_bytes,
        "the store's file is much larger than what is in it and is compacted before the start"
    );
    let names = guarded("list tables", || file::list_tables(&loaded.transaction));
    let tables = names.iter().flatten().filter_map(|name| TableId::from_name(name));
    names.is_ok() && tables.into_iter().all(|table| file::is_tree(&loaded.transaction, table))
}

/// Moves the pages in use to the beginning of the file, cuts off its end and closes it. Nobody may
/// read meanwhile. If that fails the file is what it was, or further on.
///
/// # Errors
///
/// If the file cannot even be closed in an orderly way; it can be opened again.
pub(crate) fn compact(mut database: Database) -> Result<(), StoreError> {
    let compacted = guarded("compact the file", || {
        database.compact().map_err(|error| StoreError::database("compact the file", error))
    });
    if let Err(error) = compacted {
        tracing::warn!(%error, "the store's file could not be compacted");
    }
    guarded("close the file", || {
        drop(database);
        Ok(())
    })
}

impl Store {
    /// Bytes of the keys and stored values of all rows in redb.
    pub fn live_bytes(&self) -> u64 {
        self.base().snapshot().states().map(|state| state.bytes).sum()
    }

    /// Length of the redb file.
    pub fn file_bytes(&self) -> u64 {
        self.base().file_bytes()
    }

    /// Commits nothing, which lets redb use the pages again that the commit before has left: it frees
    /// them when nobody can read the state from before that one any more.
    pub(crate) fn release_pages(&self) -> Result<(), StoreError> {
        self.base().commit(|_, current| {
            Ok(Committed { table_next: current.table_next, ..Committed::default() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PageOptions, RowChange, StoreMetrics};
    use super::*;
    use crate::{GroupId, KeyRange};
    use bytes::Bytes;

    #[test]
    fn only_what_is_moved_within_seconds_is_moved() {
        let min = 256 << 20;
        assert!(is_out_of_proportion(min + 1, 1 << 20, min));
        assert!(!is_out_of_proportion(min, 1 << 20, min));
        assert!(!is_out_of_proportion(300 << 20, 100 << 20, min));
        assert!(is_out_of_proportion((3 << 30) + 1, LIVE_BYTES_MAX, min));
        assert!(!is_out_of_proportion(u64::MAX, LIVE_BYTES_MAX + 1, min));
        assert!(!is_out_of_proportion(u64::MAX, 0, min), "nothing is known of it");
    }

    /// After most rows are gone the file is as large as before; opened again it is small, and
    /// everything that was in it still is.
    #[test]
    fn a_file_of_deleted_rows_is_small_once_it_was_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            cache_bytes: 64 << 20,
            compact_file_bytes_min: 1 << 20,
            ..StoreOptions::default()
        };
        let open = || Store::open(dir.path(), options, StoreMetrics::new()).unwrap();
        let (store, _) = open();
        let key = |row: u32| Bytes::copy_from_slice(&row.to_be_bytes());
        let mut shards = Vec::new();
        for group in (1..=16).map(GroupId) {
            let mut shard = store.create_shard(group, KeyRange::whole(), Bytes::new());
            let put = |row: u32| RowChange::Put {
                key: key(row),
                value: vec![group.0 as u8; 1000].into(),
                flags: 0,
                expires_at_ms: None,
            };
            shard.apply((0..1000).map(put).collect());
            store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
            shards.push(shard);
        }
        for shard in &mut shards {
            let delete = |row: u32| RowChange::Delete { key: key(row) };
            shard.apply((0..1000).filter(|row| row % 20 != 0).map(delete).collect());
            store.checkpoint(&[shard.freeze((2, 1), Bytes::new(), 0)]).unwrap();
        }
        let (before, live) = (store.file_bytes(), store.live_bytes());
        assert!(before > live * 10, "{before} for {live}");
        drop((shards, store));

        let (store, states) = open();
        let after = store.file_bytes();
        assert_eq!((states.len(), store.live_bytes()), (16, live));
        assert!(after <= live * FILE_SHARE, "{after} of {before} for {live}");
        for state in &states {
            let shard = store.open_shard(state, KeyRange::whole());
            let page = shard.view().page(&KeyRange::whole(), PageOptions::default()).unwrap();
            assert_eq!((page.rows.len(), state.applied), (50, (2, 1)));
            let value = [state.group.0 as u8; 1000];
            assert!(page.rows.iter().all(|(_, row)| row.value == value[..]));
        }
    }
}
