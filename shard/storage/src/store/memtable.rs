//! A memtable: the newest rows of one shard, in memory, above what redb holds.
//!
//! One writer (the lane of the shard's replica), many readers (the lane itself and the read pool).
//! A map ([`Rows`]) behind one lock; the lock is held for one command, one look-up or one chunk of a
//! scan, never across a read from redb.
//!
//! Invariants:
//!
//! * The changes of one command enter under one hold of the write lock: no reader sees half.
//! * Versions only grow. A scan pins the version that it found; as long as it does, the cell of
//!   each key that was newest at that version stays. What nobody pins is overwritten in place.
//! * Pins are taken under the read lock, so that a writer holding the write lock sees every pin
//!   that could need what it is about to overwrite.
//! * A memtable that is no longer its shard's active one never changes again, but that its new keys
//!   are put in order when somebody walks them.
//!
//! Range deletions are kept apart, as ranges ([`Tombstones`]), and hide every older cell. A scan
//! takes a copy-on-write snapshot of them together with its pin, so they need no history.
//!
//! What is absent: redb, files, the other memtables of the shard.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::key::{Key, unpinned, unpinned_over};
use super::metrics::MemtableGauges;
use super::row::{self, Row};
use super::rows::{Entry, Rows};
use super::shard::RowChange;
use super::tombstones::{self, Tombstones};

/// What a key costs in memory beyond its bytes and its cells: its places in the order and in the
/// table, and the room for a short key beside its cells.
const KEY_OVERHEAD_BYTES: u64 = 112;
/// What a cell costs beyond its value: the cell and the allocation that holds the value.
const CELL_OVERHEAD_BYTES: u64 = 96;

/// So many keys are looked up before their values are touched.
const ANTICIPATED_KEYS: usize = 64;

/// What a key was at one version.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) version: u64,
    /// `None`: the key was deleted.
    pub(crate) content: Option<Content>,
}

/// A row without its version.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) flags: u8,
    pub(crate) expires_at_ms: Option<u64>,
    pub(crate) value: Bytes,
}

impl Cell {
    /// The row, or `None` for a deleted key.
    pub(crate) fn to_row(&self) -> Option<Row> {
        let Content { flags, expires_at_ms, value } = self.content.clone()?;
        Some(Row { version: self.version, flags, expires_at_ms, value })
    }

    /// The row, or `None` for a deleted key or a row that is expired at `now_ms`.
    pub(crate) fn row_at(&self, now_ms: u64) -> Option<Row> {
        let expires_at_ms = self.content.as_ref()?.expires_at_ms;
        if row::is_expired(expires_at_ms, now_ms) { None } else { self.to_row() }
    }

    fn memory_bytes(&self) -> u64 {
        let value_bytes = self.content.as_ref().map_or(0, |content| content.value.len());
        CELL_OVERHEAD_BYTES + value_bytes as u64
    }
}

/// The cells of one key.
#[derive(Debug)]
struct Slot {
    newest: Cell,
    /// Cells that some pin needed when they were overwritten, newest first. Nearly always empty.
    older: Vec<Cell>,
}

impl Slot {
    /// The cell that was newest at `version`.
    fn at(&self, version: u64) -> Option<&Cell> {
        std::iter::once(&self.newest).chain(&self.older).find(|cell| cell.version <= version)
    }

    /// The value that is about to be overwritten, if no pin needs it; else nothing.
    fn take_value(&mut self, pins: &[u64]) -> Bytes {
        match &mut self.newest.content {
            Some(content) if pins.is_empty() => std::mem::take(&mut content.value),
            _ => Bytes::new(),
        }
    }

    /// Puts `cell` on top, keeping of what was there only what `pins` need.
    fn overwrite(&mut self, cell: Cell, pins: &[u64]) {
        let previous = std::mem::replace(&mut self.newest, cell);
        if pins.is_empty() && self.older.is_empty() {
            return;
        }
        self.older.insert(0, previous);
        let mut next_version = self.newest.version;
        self.older.retain(|cell| {
            let seen = pins.iter().any(|pin| (cell.version..next_version).contains(pin));
            next_version = cell.version;
            seen
        });
    }

    fn memory_bytes(&self) -> u64 {
        self.newest.memory_bytes() + self.older.iter().map(Cell::memory_bytes).sum::<u64>()
    }
}

/// What the lock protects.
#[derive(Debug, Default)]
pub(crate) struct Inner {
    rows: Rows<Slot>,
    /// Shared with the scans that snapshot it; copied on write while one does.
    tombstones: Arc<Tombstones>,
    /// Keys whose newest cell is a row.
    puts: u64,
    /// Keys whose newest cell is a deletion.
    deletes: u64,
    bytes: u64,
}

impl Inner {
    /// Makes `cell` what is newest of `key`. Its value is copied if it is part of something larger.
    fn write(&mut self, key: &Bytes, mut cell: Cell, pins: &[u64]) {
        let is_put = cell.content.is_some();
        match self.rows.entry(key) {
            Entry::Vacant(vacant) => {
                if let Some(content) = &mut cell.content {
                    content.value = unpinned(&content.value);
                }
                self.bytes += KEY_OVERHEAD_BYTES + key.len() as u64 + cell.memory_bytes();
                vacant.insert(key, Slot { newest: cell, older: Vec::new() });
            }
            Entry::Occupied(slot) => {
                match slot.newest.content {
                    Some(_) => self.puts -= 1,
                    None => self.deletes -= 1,
                }
                self.bytes -= slot.memory_bytes();
                if let Some(content) = &mut cell.content {
                    let old = slot.take_value(pins);
                    content.value = unpinned_over(old, &content.value);
                }
                slot.overwrite(cell, pins);
                self.bytes += slot.memory_bytes();
            }
        }
        match is_put {
            true => self.puts += 1,
            false => self.deletes += 1,
        }
    }

    /// The rows and deletions that a checkpoint merges, in key order, those that a range deletion
    /// of this memtable hides left out. For the content in order only.
    pub(crate) fn newest(&self) -> impl Iterator<Item = (&[u8], &Cell)> {
        let shown = |key: &[u8], version| {
            self.tombstones.is_empty()
                || self.tombstones.version_at(key).is_none_or(|deleted| deleted <= version)
        };
        self.rows
            .iter()
            .map(|(key, slot)| (key.as_slice(), &slot.newest))
            .filter(move |(key, cell)| shown(key, cell.version))
    }

    pub(crate) fn tombstones(&self) -> &Tombstones {
        &self.tombstones
    }
}

/// What one memtable knows of a key.
#[derive(Debug)]
pub(crate) enum Found {
    Row(Row),
    /// Deleted here: what lies below does not matter.
    Absent,
    /// Not mentioned here: ask below.
    Below,
}

#[derive(Debug, Default)]
struct Pins {
    count: AtomicUsize,
    versions: Mutex<Vec<u64>>,
}

/// One memtable of one shard.
#[derive(Debug)]
pub(crate) struct Memtable {
    inner: RwLock<Inner>,
    pins: Pins,
    /// Version of the last command applied, here or before this memtable existed.
    version: AtomicU64,
    /// True if the shard was emptied when this memtable began: nothing below it is visible.
    floor: bool,
    /// Memtables that such an emptying cut off. Kept until this one goes, so that their memory is
    /// returned by the checkpoint thread and not on the lane.
    garbage: Mutex<Vec<Arc<Memtable>>>,
    bytes: AtomicU64,
    /// True from when redb holds the rows too.
    merged: AtomicBool,
    gauges: MemtableGauges,
}

impl Memtable {
    /// An empty memtable that begins after `version`.
    pub(crate) fn new(version: u64, gauges: MemtableGauges) -> Memtable {
        Memtable::begin(version, gauges, false, Vec::new())
    }

    /// An empty memtable that hides everything below, taking the place of `emptied`.
    pub(crate) fn emptying(version: u64, emptied: &Arc<Memtable>) -> Memtable {
        // Flat, not a chain: dropping a chain of a million emptyings would overflow the stack.
        let mut garbage = std::mem::take(&mut *emptied.garbage.lock());
        if emptied.own_bytes() > 0 {
            garbage.push(emptied.clone());
        }
        Memtable::begin(version, emptied.gauges.clone(), true, garbage)
    }

    fn begin(
        version: u64,
        gauges: MemtableGauges,
        floor: bool,
        garbage: Vec<Arc<Memtable>>,
    ) -> Memtable {
        Memtable {
            inner: RwLock::default(),
            pins: Pins::default(),
            version: AtomicU64::new(version),
            floor,
            garbage: Mutex::new(garbage),
            bytes: AtomicU64::new(0),
            merged: AtomicBool::new(false),
            gauges,
        }
    }

    /// Applies the changes of one command as `version`, all at once for every reader.
    ///
    /// Within a command later changes win over earlier ones.
    pub(crate) fn apply(&self, version: u64, changes: &[RowChange]) {
        assert!(version > self.version(), "version {version} does not grow");
        let overruled = overruled_by_range_deletes(changes);

        let mut inner = self.inner.write();
        // Pins are rare and few; taken under the read lock, none can appear until this ends.
        let pins = match self.pins.count.load(Ordering::Acquire) {
            0 => Vec::new(),
            _ => self.pins.versions.lock().clone(),
        };
        let bytes_before = inner.bytes;
        for (position, change) in changes.iter().enumerate() {
            if overruled.contains(&position) {
                continue;
            }
            match change {
                RowChange::Put { key, value, flags, expires_at_ms } => {
                    let value = value.clone();
                    let content = Content { flags: *flags, expires_at_ms: *expires_at_ms, value };
                    inner.write(key, Cell { version, content: Some(content) }, &pins);
                }
                RowChange::Delete { key } => {
                    inner.write(key, Cell { version, content: None }, &pins);
                }
                RowChange::DeleteRange(range) => {
                    if !range.is_empty() {
                        inner.bytes += tombstones::memory_bytes(range);
                        Arc::make_mut(&mut inner.tombstones).insert(range, version);
                    }
                }
            }
        }
        self.version.store(version, Ordering::Release);
        let bytes_after = inner.bytes;
        drop(inner);

        self.bytes.store(bytes_after, Ordering::Relaxed);
        self.gauges.unmerged_bytes.add(bytes_after as i64 - bytes_before as i64);
    }

    /// Brings near what writes of `keys` are about to touch.
    ///
    /// A write waits for memory three times, one place telling the next: the table, the row, the
    /// value. Looked at one right after the other, different keys wait at the same time.
    pub(crate) fn anticipate(&self, keys: &[Bytes]) {
        let inner = self.inner.read();
        let mut slots = [None; ANTICIPATED_KEYS];
        let mut read = 0u8;
        for keys in keys.chunks(ANTICIPATED_KEYS) {
            for (slot, key) in slots.iter_mut().zip(keys) {
                *slot = inner.rows.get(key);
            }
            let contents = slots[..keys.len()].iter().flatten();
            for content in contents.filter_map(|slot| slot.newest.content.as_ref()) {
                read ^= content.value.first().copied().unwrap_or_default();
            }
        }
        // What is read matters to nobody: that it is read does.
        std::hint::black_box(read);
    }

    /// The newest state of `key` here.
    pub(crate) fn get(&self, key: &[u8]) -> Found {
        let inner = self.inner.read();
        let deleted =
            if inner.tombstones.is_empty() { None } else { inner.tombstones.version_at(key) };
        match inner.rows.get(key) {
            Some(slot) if deleted.is_none_or(|deleted| deleted <= slot.newest.version) => {
                slot.newest.to_row().map_or(Found::Absent, Found::Row)
            }
            None if deleted.is_none() && !self.floor => Found::Below,
            _ => Found::Absent,
        }
    }

    /// Pins the current version: what is newest now stays readable through the pin.
    pub(crate) fn pin(self: &Arc<Memtable>) -> Pinned {
        let inner = self.inner.read();
        let version = self.version();
        self.pins.versions.lock().push(version);
        self.pins.count.fetch_add(1, Ordering::Release);
        Pinned { memtable: self.clone(), version, tombstones: inner.tombstones.clone() }
    }

    /// (Keys whose newest cell is a row, keys whose newest cell is a deletion).
    pub(crate) fn key_counts(&self) -> (u64, u64) {
        let inner = self.inner.read();
        (inner.puts, inner.deletes)
    }

    /// Version of the last command applied.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// True if nothing below this memtable is visible.
    pub(crate) fn is_floor(&self) -> bool {
        self.floor
    }

    /// The content in order, locked for reading: for a walk, or for many rows of a memtable that is
    /// frozen.
    pub(crate) fn read_ordered(&self) -> RwLockReadGuard<'_, Inner> {
        let inner = self.inner.read();
        if inner.rows.is_ordered() {
            return inner;
        }
        drop(inner);
        let mut inner = self.inner.write();
        inner.rows.order();
        RwLockWriteGuard::downgrade(inner)
    }

    /// Memory held, that of cut-off memtables included.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.own_bytes() + self.garbage.lock().iter().map(|old| old.own_bytes()).sum::<u64>()
    }

    /// Says that redb holds the rows too. What this kept of emptied memtables is returned.
    pub(crate) fn set_merged(&self) {
        self.garbage.lock().clear();
        if !self.merged.swap(true, Ordering::AcqRel) {
            let bytes = self.own_bytes() as i64;
            self.gauges.unmerged_bytes.sub(bytes);
            self.gauges.merged_bytes.add(bytes);
        }
    }

    /// True if there is nothing in it: neither a row nor a deletion.
    pub(crate) fn is_empty(&self) -> bool {
        !self.floor && self.own_bytes() == 0
    }

    fn own_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Memtable {
    fn drop(&mut self) {
        let gauge = match *self.merged.get_mut() {
            true => &self.gauges.merged_bytes,
            false => &self.gauges.unmerged_bytes,
        };
        gauge.sub(*self.bytes.get_mut() as i64);
    }
}

/// Positions of puts and deletes that a range deletion later in the same command covers. They share
/// its version, so that versions cannot tell which came first.
fn overruled_by_range_deletes(changes: &[RowChange]) -> BTreeSet<usize> {
    let mut ranges = Vec::new();
    let mut overruled = BTreeSet::new();
    for (position, change) in changes.iter().enumerate().rev() {
        match change {
            RowChange::DeleteRange(range) => ranges.push(range),
            RowChange::Put { key, .. } | RowChange::Delete { key } => {
                if ranges.iter().any(|range| range.contains(key)) {
                    overruled.insert(position);
                }
            }
        }
    }
    overruled
}

/// A memtable at a version that stays readable until this is dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    memtable: Arc<Memtable>,
    version: u64,
    tombstones: Arc<Tombstones>,
}

impl Pinned {
    /// The range deletions visible at the pinned version.
    pub(crate) fn tombstones(&self) -> &Arc<Tombstones> {
        &self.tombstones
    }

    /// The state of `key` at the pinned version.
    pub(crate) fn get(&self, key: &[u8]) -> Found {
        let inner = self.memtable.inner.read();
        let deleted = self.tombstones.version_at(key);
        match inner.rows.get(key).and_then(|slot| slot.at(self.version)) {
            Some(cell) if deleted.is_none_or(|deleted| deleted <= cell.version) => {
                cell.to_row().map_or(Found::Absent, Found::Row)
            }
            None if deleted.is_none() && !self.memtable.floor => Found::Below,
            _ => Found::Absent,
        }
    }

    /// Appends to `out` the cells visible at the pinned version within `bounds`, in key order or
    /// against it, looking at no more than `keys_max` keys. Cells that range deletions hide are
    /// included.
    ///
    /// Returns the last key looked at if there may be more beyond it.
    pub(crate) fn chunk(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        keys_max: usize,
        out: &mut impl Extend<(Key, Cell)>,
    ) -> Option<Key> {
        let inner = self.memtable.read_ordered();
        let mut range = inner.rows.range(bounds);
        let mut last = None;
        for _ in 0..keys_max {
            let (key, slot) = if reverse { range.next_back() } else { range.next() }?;
            if let Some(cell) = slot.at(self.version) {
                out.extend(Some((key.clone(), cell.clone())));
            }
            last = Some(key);
        }
        last.cloned()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let pins = &self.memtable.pins;
        let mut versions = pins.versions.lock();
        let position = versions.iter().position(|version| *version == self.version);
        versions.swap_remove(position.expect("a pin is registered until it is dropped"));
        pins.count.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "memtable_tests.rs"]
mod tests;
