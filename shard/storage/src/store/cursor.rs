//! An ordered walk over a shard: memtables and redb merged, deletions left out.
//!
//! Sources are ordered from the newest memtable to redb; of equal keys the newest source has the
//! say. Memtables are read in chunks, each under one short hold of the lock, at the pinned version.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::base_read::{BaseCursor, ShardBase};
use super::error::StoreError;
use super::key::Key;
use super::memtable::{Cell, Pinned};
use super::row::Row;
use super::tombstones::Tombstones;
use crate::range::KeyRange;

/// Keys looked at in a memtable under one hold of its lock: some ten microseconds.
const CHUNK_KEYS: usize = 128;

/// One memtable being walked.
struct Source {
    pinned: Pinned,
    chunk: VecDeque<(Key, Cell)>,
    /// Where the next chunk begins (ends, in reverse). `None`: there is no next.
    rest: Option<KeyRange>,
}

impl Source {
    /// Makes sure that the chunk holds a cell, if there is one left.
    fn fill(&mut self, reverse: bool, chunk_keys: usize) {
        while self.chunk.is_empty() {
            let Some(rest) = &mut self.rest else { return };
            let last = self.pinned.chunk(rest.bounds(), reverse, chunk_keys, &mut self.chunk);
            match last {
                None => self.rest = None,
                Some(key) if reverse => rest.end = Some(key.to_bytes()),
                Some(key) => rest.start = KeyRange::successor(key.as_slice()),
            }
        }
    }
}

/// redb being walked, its next row read ahead.
struct Base {
    cursor: BaseCursor,
    range: KeyRange,
    head: Option<(Bytes, Row)>,
    ended: bool,
}

/// A walk over the rows of a range, at one version.
pub(crate) struct Cursor {
    /// Newest first.
    sources: Vec<Source>,
    base: Option<Base>,
    /// Range deletions of all memtables, those without any left out.
    tombstones: Vec<Arc<Tombstones>>,
    reverse: bool,
    keys_only: bool,
    chunk_keys: usize,
}

impl Cursor {
    /// A walk over `range` of what `pinned` (newest first) and, below them, `base` hold. About
    /// `rows_max` rows will be asked for.
    pub(crate) fn new(
        pinned: Vec<Pinned>,
        base: Option<&Arc<ShardBase>>,
        range: KeyRange,
        reverse: bool,
        keys_only: bool,
        rows_max: usize,
    ) -> Cursor {
        let tombstones = pinned
            .iter()
            .map(Pinned::tombstones)
            .filter(|tombstones| !tombstones.is_empty())
            .cloned()
            .collect();
        let source = |pinned| {
            let rest = Some(range.clone());
            Source { pinned, chunk: VecDeque::new(), rest }
        };
        Cursor {
            sources: pinned.into_iter().map(source).collect(),
            base: base.map(|base| Base {
                cursor: base.cursor(range.clone(), reverse),
                range,
                head: None,
                ended: false,
            }),
            tombstones,
            reverse,
            keys_only,
            chunk_keys: rows_max.min(CHUNK_KEYS),
        }
    }

    /// The next row.
    pub(crate) fn next(&mut self) -> Result<Option<(Bytes, Row)>, StoreError> {
        loop {
            for source in &mut self.sources {
                source.fill(self.reverse, self.chunk_keys);
            }
            self.fill_base()?;

            let heads = self.sources.iter().filter_map(|source| source.chunk.front());
            let keys = heads.map(|(key, _)| key.as_slice());
            let newest = if self.reverse { keys.max() } else { keys.min() };
            let base_key = self.base.as_ref().and_then(|base| base.head.as_ref());
            let from_base = match (newest, base_key) {
                (None, None) => return Ok(None),
                (Some(_), None) => false,
                (None, Some(_)) => true,
                (Some(key), Some((base_key, _))) if self.reverse => &base_key[..] > key,
                (Some(key), Some((base_key, _))) => &base_key[..] < key,
            };
            if from_base {
                return Ok(self.base.as_mut().and_then(|base| base.head.take()));
            }
            if let Some(row) = self.take_newest() {
                return Ok(Some(row));
            }
        }
    }

    /// Takes the next key of the memtables out of all sources that have it. `None` if it is
    /// deleted.
    fn take_newest(&mut self) -> Option<(Bytes, Row)> {
        let mut taken: Option<(Key, Cell)> = None;
        let mut next: Option<usize> = None;
        // The first source with the extreme key is the newest that has it.
        for (position, source) in self.sources.iter().enumerate() {
            let Some((key, _)) = source.chunk.front() else { continue };
            let beats = next.is_none_or(|best| {
                let (best, _) = self.sources[best].chunk.front().expect("it had a head");
                if self.reverse { key > best } else { key < best }
            });
            if beats {
                next = Some(position);
            }
        }
        for source in &mut self.sources[next?..] {
            match (&taken, source.chunk.front()) {
                (None, _) => taken = source.chunk.pop_front(),
                (Some((key, _)), Some((same, _))) if key == same => {
                    source.chunk.pop_front();
                }
                _ => {}
            }
        }
        let (key, cell) = taken?;
        if let Some(base) = &mut self.base
            && base.head.as_ref().is_some_and(|(base_key, _)| &base_key[..] == key.as_slice())
        {
            base.head = None;
        }
        let deleted = self.deleted_at(key.as_slice());
        if deleted.is_some_and(|deleted| deleted > cell.version) {
            return None;
        }
        let mut row = cell.to_row()?;
        if self.keys_only {
            row.value = Bytes::new();
        }
        Some((key.to_bytes(), row))
    }

    /// Reads ahead the next row of redb that no range deletion hides. What one hides is jumped
    /// over, not walked through.
    fn fill_base(&mut self) -> Result<(), StoreError> {
        let Some(base) = &mut self.base else { return Ok(()) };
        while base.head.is_none() && !base.ended {
            let Some((key, row)) = base.cursor.next(self.keys_only)? else {
                base.ended = true;
                break;
            };
            let deleted = self.tombstones.iter().find_map(|tombstones| tombstones.range_at(&key));
            let Some(deleted) = deleted else {
                base.head = Some((key, row));
                break;
            };
            let rest = if self.reverse {
                Some(KeyRange { start: base.range.start.clone(), end: Some(deleted.start) })
            } else {
                deleted.end.map(|start| KeyRange { start, end: base.range.end.clone() })
            };
            let rest = rest.filter(|rest| !rest.is_empty());
            base.ended = rest.is_none();
            base.cursor.seek(rest);
        }
        Ok(())
    }

    /// The newest version that a range deletion removed `key` at.
    fn deleted_at(&self, key: &[u8]) -> Option<u64> {
        self.tombstones.iter().filter_map(|tombstones| tombstones.version_at(key)).max()
    }
}
