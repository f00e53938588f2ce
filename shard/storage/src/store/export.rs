//! The rows of one shard as of its last checkpoint, on their way out.
//!
//! An export pins one published snapshot: whatever is checkpointed meanwhile, it hands out the rows
//! of one moment, which are those that its applied index says. redb cannot reuse the pages that it
//! may still read, so the file grows for as long as an export lives.
//!
//! A damaged row, or fewer or more rows than the record says, is an error and never part of an
//! export: what one replica lost must not spread to the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prometheus::IntGauge;

use super::Store;
use super::base_read::ShardBase;
use super::chunk::{self, Digest};
use super::error::{StoreError, guarded};
use super::extent::ShardState;
use super::row;
use super::size::Size;
use super::snapshot::Snapshot;
use crate::GroupId;
use crate::range::KeyRange;

/// The rows of one shard as of its last checkpoint, handed out in chunks.
pub struct Export {
    base: Arc<ShardBase>,
    /// Keeps the read transaction alive, and with it the pages.
    snapshot: Arc<Snapshot>,
    state: Arc<ShardState>,
    /// True if the record's number of rows is exact: no other shard has a part of the tables.
    rows_are_exact: bool,
    last_key: Option<Bytes>,
    met: Met,
    /// Where chunks ended, and what was met up to there: from each of them an export can go on.
    ends: BTreeMap<Bytes, Met>,
    ended: bool,
    _open: OpenGauge,
}

/// Rows that were met, from the first on.
#[derive(Clone, Copy, Default)]
struct Met {
    digest: Digest,
    size: Size,
}

impl Met {
    fn add(&mut self, key: &[u8], stored: &[u8]) {
        self.digest.add(key, stored);
        self.size.add(key, stored);
    }
}

struct OpenGauge(IntGauge);

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Store {
    /// Pins the rows that the last checkpoint of `group` recorded. `None` if there was none yet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] if the shard is damaged; others if the disk cannot be read.
    pub fn export(&self, group: GroupId) -> Result<Option<Export>, StoreError> {
        let snapshot = self.base().snapshot();
        let Some(base) = snapshot.shard(group, self.metrics())? else { return Ok(None) };
        let state = base.state.clone();
        let uses = snapshot.table_uses();
        let rows_are_exact = state.extents.iter().all(|extent| uses[&extent.table] == 1);
        let open = self.metrics().exports_open.clone();
        open.inc();
        Ok(Some(Export {
            base,
            snapshot,
            state,
            rows_are_exact,
            last_key: None,
            met: Met::default(),
            ends: BTreeMap::new(),
            ended: false,
            _open: OpenGauge(open),
        }))
    }
}

impl Export {
    /// Which rows these are: see [`Shard::generation`](super::Shard::generation).
    pub fn generation(&self) -> u64 {
        self.snapshot.generation(self.state.group)
    }

    /// Index and term of the last command whose effects are in the rows.
    pub fn applied(&self) -> (u64, u64) {
        self.state.applied
    }

    /// The shard's version counter after that command.
    pub fn version(&self) -> u64 {
        self.state.version
    }

    /// What the layer above recorded with it.
    pub fn meta(&self) -> &Bytes {
        &self.state.meta
    }

    /// How many rows there will be, exact unless the shard shares a table with another.
    pub fn rows_estimate(&self) -> u64 {
        self.state.rows
    }

    /// Rows handed out, from the first on.
    pub fn rows(&self) -> u64 {
        self.met.digest.rows
    }

    /// Of the rows handed out, from the first on.
    pub fn digest(&self) -> u64 {
        self.met.digest.value
    }

    /// The key of the last row handed out.
    pub fn last_key(&self) -> Option<&Bytes> {
        self.last_key.as_ref()
    }

    /// The next rows: as many as fit into `bytes_max`, at least one. `None`: that was all, and it
    /// was all that the record says.
    ///
    /// # Errors
    ///
    /// [`StoreError::Corrupt`] for a damaged row, or if rows are missing; [`StoreError::Reopened`]
    /// if the file was opened again since, which ends the export.
    pub fn next(&mut self, bytes_max: usize) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let mut out = Vec::new();
        let mut met = self.met;
        let mut last = None;
        let ended = self.walk(self.last_key.as_deref(), |key, stored| {
            if !out.is_empty() && out.len() + chunk::row_bytes(key, stored) > bytes_max {
                return false;
            }
            chunk::put_row(&mut out, key, stored);
            met.add(key, stored);
            last = Some(Bytes::copy_from_slice(key));
            true
        })?;
        if ended && self.rows_are_exact && !Size::of(&self.state).agrees(&met.size) {
            return Err(self.base.disagree(&met.size));
        }
        self.ended = ended;
        let Some(last) = last else { return Ok(None) };
        self.met = met;
        self.ends.insert(last.clone(), met);
        self.last_key = Some(last);
        Ok(Some(out.into()))
    }

    /// Goes on behind `after`, or from the first row. Free for a key that ended a chunk; for any
    /// other the rows up to it are walked over.
    ///
    /// # Errors
    ///
    /// As [`Export::next`].
    pub fn rewind_to(&mut self, after: Option<&[u8]>) -> Result<(), StoreError> {
        let met = match after {
            None => Met::default(),
            Some(after) => match self.ends.get(after) {
                Some(met) => *met,
                None => {
                    let mut met = Met::default();
                    self.walk(None, |key, stored| {
                        let included = key <= after;
                        if included {
                            met.add(key, stored);
                        }
                        included
                    })?;
                    met
                }
            },
        };
        self.met = met;
        self.last_key = after.map(Bytes::copy_from_slice);
        self.ended = false;
        Ok(())
    }

    /// Shows the rows behind `after` to `show` until it has had enough; true if it had them all.
    fn walk(
        &self,
        after: Option<&[u8]>,
        mut show: impl FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<bool, StoreError> {
        let start = after.map_or_else(Bytes::new, KeyRange::successor);
        let rest = KeyRange { start, end: None };
        let walked = guarded("walk over rows", || {
            let walking = |error| StoreError::database("walk over rows", error);
            let mut last = after.map(<[u8]>::to_vec);
            for (position, walk) in self.base.walks(&rest) {
                for entry in walk? {
                    let (key, stored) = entry.map_err(walking)?;
                    let (key, stored) = (key.value(), stored.value());
                    row::decode(key, stored).map_err(|what| self.base.corrupt(position, what))?;
                    if last.as_deref().is_some_and(|last| last >= key) {
                        return Err(self.base.broken("its rows are out of order".to_owned()));
                    }
                    if !show(key, stored) {
                        return Ok(false);
                    }
                    last = Some(key.to_vec());
                }
            }
            Ok(true)
        });
        self.base.told(None, walked)
    }
}

impl std::fmt::Debug for Export {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Export { state, met, ended, .. } = self;
        formatter
            .debug_struct("Export")
            .field("group", &state.group)
            .field("applied", &state.applied)
            .field("rows", &met.digest.rows)
            .field("ended", ended)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::extent::Extent;
    use super::super::file::SHARDS_TABLE;
    use super::super::snapshot::Committed;
    use super::super::{RowChange, StoreMetrics, StoreOptions};
    use super::*;

    /// A shard whose rows lie in parts of two tables, as after a merge of shards.
    #[test]
    fn an_export_walks_all_extents_and_nothing_outside_of_their_clips() {
        let (store, _) = Store::open_with_backend(
            Box::new(|| Ok(Box::new(redb::backends::InMemoryBackend::new()))),
            StoreOptions { cache_bytes: 1 << 20, ..StoreOptions::default() },
            StoreMetrics::new(),
        )
        .unwrap();
        let mut tables = Vec::new();
        for group in [GroupId(1), GroupId(2)] {
            let mut shard = store.create_shard(group, KeyRange::whole(), Bytes::new());
            let put = |row: u32| RowChange::Put {
                key: format!("{row:03}").into(),
                value: group.0.to_string().into(),
                flags: 0,
                expires_at_ms: None,
            };
            shard.apply((0..100).map(put).collect());
            store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
            tables.push(store.state(group).unwrap().extents[0].table);
        }
        let clip = |start: &'static str, end: &'static str| KeyRange::new(start, Some(end.into()));
        let extents = vec![
            Extent { table: tables[1], clip: clip("010", "030") },
            Extent { table: tables[0], clip: clip("050", "060") },
        ];
        let (group, meta) = (GroupId(3), Bytes::from_static(b"meta"));
        let state = ShardState {
            group,
            applied: (9, 2),
            version: 50,
            rows: 30,
            bytes: 0,
            sum: None,
            extents,
            meta,
        };
        let record = |transaction: &redb::WriteTransaction, current: &Snapshot| {
            let mut records = transaction.open_table(SHARDS_TABLE).unwrap();
            records.insert(group.0, &state.encode()[..]).unwrap();
            let states = vec![Arc::new(state.clone())];
            Ok(Committed { states, table_next: current.table_next, ..Committed::default() })
        };
        store.base().commit(record).unwrap();

        for bytes_max in [1, 100, 1 << 20] {
            let mut export = store.export(group).unwrap().unwrap();
            let mut keys = Vec::new();
            while let Some(chunk) = export.next(bytes_max).unwrap() {
                for (key, stored) in chunk::decode(&chunk).unwrap() {
                    let row = row::decode(&key, &stored).unwrap();
                    assert_eq!(row.value, if &key[..] < b"040".as_slice() { b"2" } else { b"1" });
                    keys.push(String::from_utf8(key.to_vec()).unwrap());
                }
            }
            let want = (10..30).chain(50..60).map(|row| format!("{row:03}"));
            assert_eq!(keys, want.collect::<Vec<_>>());
            assert_eq!((export.rows(), export.applied()), (30, (9, 2)));
        }
    }
}
