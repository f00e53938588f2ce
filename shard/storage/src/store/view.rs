//! A shard as it is at one moment, for reading on any thread.
//!
//! A view is a stack of memtables and a snapshot of redb that fit together. Point reads see the
//! newest state that the stack knows (commands applied after the view was taken may show); many
//! rows, a page or a count are read at one version, pinned while that runs, and never show half a
//! command.
//!
//! Take a view, use it, drop it: a view that is held keeps redb from reusing pages.
//!
//! What is absent: the clock (a view is told what time it is, see [`View::at`]) and leadership
//! (whether this replica may answer at all).

use std::sync::Arc;

use bytes::Bytes;

use super::cursor::Cursor;
use super::error::StoreError;
use super::memtable::Found;
use super::row::Row;
use super::shard::{ShardShared, Stack};
use super::snapshot::Snapshot;
use crate::range::KeyRange;

/// What a page is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageOptions {
    /// Rows in the page at most. Zero counts as one.
    pub rows_max: usize,
    /// Bytes of keys and values in the page at most; the first row comes whatever its size.
    pub bytes_max: usize,
    /// From the range's end to its start.
    pub reverse: bool,
    /// Leave the values empty.
    pub keys_only: bool,
}

impl Default for PageOptions {
    fn default() -> PageOptions {
        PageOptions { rows_max: 1024, bytes_max: 1 << 20, reverse: false, keys_only: false }
    }
}

/// Rows in key order, or against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and their rows.
    pub rows: Vec<(Bytes, Row)>,
    /// What is left of the range: it holds at least one more row. `None`: that was all.
    pub more: Option<KeyRange>,
}

/// A shard at one moment.
#[derive(Clone)]
pub struct View {
    shard: Arc<ShardShared>,
    stack: Arc<Stack>,
    snapshot: Arc<Snapshot>,
    /// Rows that expired by then are absent.
    now_ms: u64,
}

impl View {
    pub(crate) fn load(shard: &Arc<ShardShared>) -> View {
        View::load_around(shard, || {})
    }

    /// Loads a view; `between` runs between the two loads (nothing does, but in tests).
    fn load_around(shard: &Arc<ShardShared>, mut between: impl FnMut()) -> View {
        loop {
            // In this order: a memtable leaves the stack only after a snapshot with its rows has
            // been published.
            let stack = shard.stack();
            between();
            let snapshot = shard.snapshot();
            // Between the two, memtables newer than the whole stack may have been frozen, merged
            // and published. Rows of theirs beside older ones of the stack could be half a command.
            let fits = snapshot
                .state(shard.group)
                .is_none_or(|state| state.version <= stack.active.version());
            if fits {
                return View { shard: shard.clone(), stack, snapshot, now_ms: 0 };
            }
        }
    }

    /// The view as of `now_ms`, in milliseconds since the Unix epoch by the shard's clock: rows that
    /// expire then or earlier are absent. Without this every row shows.
    pub fn at(self, now_ms: u64) -> View {
        View { now_ms, ..self }
    }

    /// Which rows are seen: see [`Shard::generation`](super::Shard::generation).
    pub fn generation(&self) -> u64 {
        self.shard.generation
    }

    /// The keys that the shard owns.
    pub fn range(&self) -> &KeyRange {
        &self.shard.range
    }

    /// The row under `key`. May read from the disk.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the stored row is damaged, [`StoreError::Reopened`] if the store
    /// was opened again since the view was taken; others if the disk cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        Ok(self.stored(key)?.filter(|row| !row.is_expired(self.now_ms)))
    }

    /// The rows under `keys`, in their order, all at one version. May read from the disk.
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Row>>, StoreError> {
        // As for a walk: the active memtable's version is that of all rows.
        let (memtables, base_visible) = self.stack.visible();
        let pinned: Vec<_> = memtables.map(|memtable| memtable.pin()).collect();
        let row = |key: &Bytes| {
            let found = pinned.iter().map(|memtable| memtable.get(key));
            let row = self.first_found(found, base_visible, key)?;
            Ok(row.filter(|row| !row.is_expired(self.now_ms)))
        };
        keys.iter().map(row).collect()
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Row>, StoreError> {
        let (memtables, base_visible) = self.stack.visible();
        self.first_found(memtables.map(|memtable| memtable.get(key)), base_visible, key)
    }

    /// The row under `key`, given what each memtable says of it, newest first.
    fn first_found(
        &self,
        memtables: impl Iterator<Item = Found>,
        base_visible: bool,
        key: &[u8],
    ) -> Result<Option<Row>, StoreError> {
        let metrics = self.shard.store.metrics();
        for found in memtables {
            let row = match found {
                Found::Row(row) => Some(row),
                Found::Absent => None,
                Found::Below => continue,
            };
            metrics.reads_from_memtable.inc();
            return Ok(row);
        }
        if !base_visible {
            metrics.reads_from_memtable.inc();
            return Ok(None);
        }
        if let Some(merged) = &self.stack.merged {
            let row = match merged.get(key) {
                Found::Row(row) => Some(Some(row)),
                Found::Absent => Some(None),
                Found::Below => None,
            };
            if let Some(row) = row {
                metrics.reads_from_merged.inc();
                return Ok(row);
            }
        }
        metrics.reads_from_base.inc();
        match self.snapshot.shard(self.shard.group, metrics)? {
            Some(base) => base.get(key),
            None => Ok(None),
        }
    }

    /// Rows of `range` from its start (or, reversed, from its end), as many as `options` allow, all
    /// at one version. Keys outside the shard's range are not there.
    ///
    /// # Errors
    ///
    /// As [`View::get`]. There is no page without the damaged row: the caller cannot skip it
    /// unseen.
    pub fn page(&self, range: &KeyRange, options: PageOptions) -> Result<Page, StoreError> {
        let PageOptions { rows_max, bytes_max, reverse, keys_only } = options;
        let mut page = Page::default();
        let Some(range) = range.clip(&self.shard.range) else { return Ok(page) };
        let rows_max = rows_max.max(1);
        let mut cursor =
            self.cursor(range.clone(), reverse, keys_only, rows_max.saturating_add(1))?;
        let mut bytes = 0;
        while let Some((key, row)) = cursor.next()? {
            if row.is_expired(self.now_ms) {
                continue;
            }
            bytes += key.len() + row.value.len();
            let full = page.rows.len() == rows_max || bytes > bytes_max;
            if full && !page.rows.is_empty() {
                page.more = Some(if reverse {
                    KeyRange { start: range.start, end: Some(KeyRange::successor(&key)) }
                } else {
                    KeyRange { start: key, end: range.end }
                });
                break;
            }
            page.rows.push((key, row));
        }
        Ok(page)
    }

    /// How many rows `range` holds, all counted at one version. Walks over them: about 0.2 µs a
    /// row.
    ///
    /// # Errors
    ///
    /// As [`View::get`].
    pub fn count(&self, range: &KeyRange) -> Result<u64, StoreError> {
        let Some(range) = range.clip(&self.shard.range) else { return Ok(0) };
        let mut cursor = self.cursor(range, false, true, usize::MAX)?;
        let mut rows = 0;
        while let Some((_, row)) = cursor.next()? {
            rows += u64::from(!row.is_expired(self.now_ms));
        }
        Ok(rows)
    }

    /// A walk over `range`, of which about `rows_max` rows will be wanted.
    fn cursor(
        &self,
        range: KeyRange,
        reverse: bool,
        keys_only: bool,
        rows_max: usize,
    ) -> Result<Cursor, StoreError> {
        let (memtables, base_visible) = self.stack.visible();
        // The active memtable comes first: its version is the page's. The others change no more.
        let pinned = memtables.map(|memtable| memtable.pin()).collect();
        let base = match base_visible {
            true => self.snapshot.shard(self.shard.group, self.shard.store.metrics())?,
            false => None,
        };
        Ok(Cursor::new(pinned, base.as_ref(), range, reverse, keys_only, rows_max))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RowChange, Shard, Store, StoreMetrics, StoreOptions};
    use super::*;
    use crate::GroupId;
    use std::collections::BTreeSet;

    fn shard() -> (Store, Shard) {
        let (store, _) = Store::open_with_backend(
            Box::new(|| Ok(Box::new(redb::backends::InMemoryBackend::new()))),
            StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() },
            StoreMetrics::new(),
        )
        .unwrap();
        let shard = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());
        (store, shard)
    }

    fn put(shard: &mut Shard, keys: &[&'static str], value: &'static str) {
        let put = |key: &&'static str| RowChange::Put {
            key: Bytes::from_static(key.as_bytes()),
            value: value.into(),
            flags: 0,
            expires_at_ms: None,
        };
        shard.apply(keys.iter().map(put).collect());
    }

    /// Commands that write all of the keys are applied while many are read: either all or none of a
    /// command shows.
    #[test]
    fn many_rows_are_read_at_one_version() {
        const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let (store, mut shard) = shard();
        let write = |shard: &mut Shard, number: u64| {
            let put = |key: &&str| RowChange::Put {
                key: Bytes::copy_from_slice(key.as_bytes()),
                value: Bytes::copy_from_slice(&number.to_le_bytes()),
                flags: 0,
                expires_at_ms: None,
            };
            let mut changes: Vec<_> = KEYS.iter().map(put).collect();
            // Now and then everything goes away in between.
            if number.is_multiple_of(3) {
                changes = vec![RowChange::DeleteRange(KeyRange::new("a", Some("z".into())))];
            }
            shard.apply(changes);
        };
        write(&mut shard, 1);
        store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
        let reader = shard.reader();
        let has_ended = std::sync::atomic::AtomicBool::new(false);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let keys: Vec<Bytes> =
                    KEYS.iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
                let (mut torn, mut seen) = (0, BTreeSet::new());
                while !has_ended.load(relaxed) {
                    let rows = reader.view().get_many(&keys).unwrap();
                    let value = |row: &Option<Row>| row.as_ref().map(|row| row.value.clone());
                    torn += usize::from(rows.iter().any(|row| value(row) != value(&rows[0])));
                    seen.insert(value(&rows[0]));
                }
                (torn, seen.len())
            });
            for number in 2..20_000 {
                write(&mut shard, number);
                if number % 5_000 == 0 {
                    let frozen = shard.freeze((number, 1), Bytes::new(), 0);
                    store.checkpoint(&[frozen]).unwrap();
                }
            }
            has_ended.store(true, relaxed);
            let (torn, seen) = reading.join().unwrap();
            assert_eq!(torn, 0, "half a command showed");
            assert!(seen > 1, "nothing was read meanwhile");
        });
    }

    /// A checkpoint that begins and ends between the two loads takes nothing away.
    #[test]
    fn a_row_that_moves_to_redb_while_a_view_is_loaded_is_seen() {
        let (store, mut shard) = shard();
        put(&mut shard, &["a"], "1");
        let shared = shard.shared().clone();
        let mut moved = false;
        let view = View::load_around(&shared, || {
            if !std::mem::replace(&mut moved, true) {
                store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
            }
        });
        assert_eq!(shard.frozen_count(), 0);
        assert_eq!(view.get(b"a").unwrap().unwrap().value, "1");
        assert_eq!(view.count(&KeyRange::whole()).unwrap(), 1);
    }

    /// Commands younger than all loaded memtables must not shine through from redb below them.
    #[test]
    fn a_snapshot_younger_than_the_memtables_is_not_mixed_with_them() {
        let (store, mut shard) = shard();
        put(&mut shard, &["a"], "1");
        let shared = shard.shared().clone();
        let mut loads = 0;
        let view = View::load_around(&shared, || {
            loads += 1;
            if loads == 1 {
                let first = shard.freeze((1, 1), Bytes::new(), 0);
                put(&mut shard, &["a", "b"], "2");
                let second = shard.freeze((2, 1), Bytes::new(), 0);
                store.checkpoint(&[first, second]).unwrap();
            }
        });
        assert_eq!(loads, 2, "the first pair did not fit");
        let page = view.page(&KeyRange::whole(), PageOptions::default()).unwrap();
        let values: Vec<_> = page.rows.iter().map(|(_, row)| &row.value[..]).collect();
        assert_eq!(values, [b"2", b"2"]);
    }
}
