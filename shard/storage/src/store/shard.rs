//! One shard in the store: its stack of memtables above redb, and the handles to it.
//!
//! [`Shard`] is the writer: exactly one per shard, owned by the lane of the shard's replica.
//! [`ShardReader`] is for everybody else and gives out [`View`]s. The stack (the active memtable
//! and the frozen ones below it) is replaced as a whole; who has loaded it keeps what it loaded.
//!
//! Invariants:
//!
//! * Only the writer adds to the stack; only a checkpoint takes from it, and only after a snapshot
//!   that holds the frozen rows has been published. So whoever loads the stack first and the
//!   snapshot second finds every row in at least one of them.
//! * A version is given to each command and never again.
//!
//! A merged memtable may stay readable between the frozen ones and redb. It says nothing that redb
//! does not say, only faster, and what is newer hides it like redb.
//!
//! What is absent: when to freeze. The layer above knows the log, the budget and the clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::Store;
use super::extent::ShardState;
use super::memtable::{Found, Memtable};
use super::row::Row;
use super::snapshot::Snapshot;
use super::view::View;
use crate::GroupId;
use crate::range::KeyRange;

/// One change of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowChange {
    /// Writes a row, whether or not the key existed.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Eight bits for the layers above.
        flags: u8,
        /// When the row expires, in milliseconds since the Unix epoch. `None`: never.
        expires_at_ms: Option<u64>,
    },
    /// Removes a row, whether or not the key existed.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Removes all rows of a range.
    DeleteRange(KeyRange),
}

/// What memory knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The newest row.
    Row(Row),
    /// There is no such row.
    Absent,
    /// Memory does not know: a [`View`] has to ask redb, off the lane.
    Below,
}

/// The memtables of a shard at one time.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) active: Arc<Memtable>,
    /// Frozen and not yet known to be in a published snapshot, newest first.
    pub(crate) frozen: Vec<Arc<Memtable>>,
    /// The one that left `frozen` last, if there is room for it: a part of what redb holds.
    pub(crate) merged: Option<Arc<Memtable>>,
}

impl Stack {
    /// The memtables from the newest to the oldest that is visible, and whether redb is visible
    /// below them.
    pub(crate) fn visible(&self) -> (impl Iterator<Item = &Arc<Memtable>>, bool) {
        let all = || std::iter::once(&self.active).chain(&self.frozen);
        let floor = all().position(|memtable| memtable.is_floor());
        (all().take(floor.map_or(usize::MAX, |floor| floor + 1)), floor.is_none())
    }
}

/// What the handles of one shard share.
pub(crate) struct ShardShared {
    pub(crate) store: Store,
    pub(crate) group: GroupId,
    pub(crate) range: KeyRange,
    /// How often the shard's rows had been replaced by imports when these handles were made.
    pub(crate) generation: u64,
    stack: RwLock<Arc<Stack>>,
    /// Once an import has replaced the rows: the last snapshot that belongs under the stack.
    last_snapshot: RwLock<Option<Arc<Snapshot>>>,
    /// Rows in redb as of the last checkpoint.
    base_rows: AtomicU64,
    /// Of 1,000 keys that the last checkpoint put (deleted), how many redb did not have (had).
    new_puts_permille: AtomicU32,
    hit_deletes_permille: AtomicU32,
}

impl ShardShared {
    /// The memtables as they are now. To be loaded before the snapshot.
    pub(crate) fn stack(&self) -> Arc<Stack> {
        self.stack.read().clone()
    }

    /// Takes a memtable off the stack. A snapshot that holds its rows has been published.
    pub(crate) fn retire(self: &Arc<Self>, memtable: &Arc<Memtable>) {
        let mut stack = self.stack.write();
        let frozen: Vec<_> =
            stack.frozen.iter().filter(|frozen| !Arc::ptr_eq(frozen, memtable)).cloned().collect();
        assert_eq!(frozen.len() + 1, stack.frozen.len(), "a memtable is retired once");
        // Whatever was merged before may be overwritten by what is merged now. Nothing overwrites
        // it as long as nothing was.
        let merged = match memtable.is_empty() {
            true => stack.merged.clone(),
            false => Some(memtable.clone()),
        };
        *stack = Arc::new(Stack { active: stack.active.clone(), frozen, merged });
        drop(stack);
        self.store.metrics().frozen_memtables.dec();
        memtable.set_merged();
        if !memtable.is_empty() {
            self.store.merged().keep(self, memtable);
        }
    }

    /// Lets go of a merged memtable: its memory is needed.
    pub(crate) fn forget_merged(&self, memtable: &Arc<Memtable>) {
        let mut stack = self.stack.write();
        if stack.merged.as_ref().is_some_and(|merged| Arc::ptr_eq(merged, memtable)) {
            let Stack { active, frozen, .. } = &**stack;
            *stack =
                Arc::new(Stack { active: active.clone(), frozen: frozen.clone(), merged: None });
        }
    }

    /// The snapshot under these memtables: the newest, or the last from before an import.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        let newest = self.store.base().snapshot();
        if newest.generation(self.group) == self.generation {
            return newest;
        }
        self.last_snapshot.read().clone().expect("it is kept before a newer one is published")
    }

    /// Keeps `snapshot` for the readers of these handles: an import is about to replace the rows.
    pub(crate) fn keep_snapshot(&self, snapshot: Arc<Snapshot>) {
        *self.last_snapshot.write() = Some(snapshot);
    }

    /// Learns from a checkpoint how many rows there are, and how many puts were of new keys.
    pub(crate) fn learn(&self, rows: u64, tally: Tally) {
        self.base_rows.store(rows, Ordering::Relaxed);
        let permille = |part: u64, of: u64| (part * 1000).checked_div(of);
        if let Some(permille) = permille(tally.puts_new, tally.puts) {
            self.new_puts_permille.store(permille as u32, Ordering::Relaxed);
        }
        if let Some(permille) = permille(tally.deletes_hit, tally.deletes) {
            self.hit_deletes_permille.store(permille as u32, Ordering::Relaxed);
        }
    }

    fn keys_estimate(&self) -> u64 {
        let stack = self.stack();
        let (memtables, base_visible) = stack.visible();
        let base_rows = if base_visible { self.base_rows.load(Ordering::Relaxed) } else { 0 };
        let (new_permille, hit_permille) = match base_rows {
            0 => (1000, 0),
            _ => (
                u64::from(self.new_puts_permille.load(Ordering::Relaxed)),
                u64::from(self.hit_deletes_permille.load(Ordering::Relaxed)),
            ),
        };
        let (mut more, mut fewer) = (0, 0);
        for memtable in memtables {
            let (puts, deletes) = memtable.key_counts();
            more += puts * new_permille / 1000;
            fewer += deletes * hit_permille / 1000;
        }
        (base_rows + more).saturating_sub(fewer)
    }

    pub(crate) fn view(self: &Arc<Self>) -> View {
        View::load(self)
    }
}

impl Drop for ShardShared {
    fn drop(&mut self) {
        // What was frozen and never merged: the shard was swapped or the node stops.
        let frozen = self.stack.get_mut().frozen.len();
        self.store.metrics().frozen_memtables.sub(frozen as i64);
    }
}

/// What a checkpoint found out about the keys that it merged into redb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) puts: u64,
    pub(crate) puts_new: u64,
    pub(crate) deletes: u64,
    pub(crate) deletes_hit: u64,
}

/// The writer of one shard.
pub struct Shard {
    shared: Arc<ShardShared>,
    active: Arc<Memtable>,
    meta: Bytes,
}

impl Shard {
    pub(crate) fn new(store: &Store, range: KeyRange, state: &ShardState) -> Shard {
        let gauges = store.metrics().memtables.clone();
        let active = Arc::new(Memtable::new(state.version, gauges));
        let stack = Stack { active: active.clone(), frozen: Vec::new(), merged: None };
        let shared = ShardShared {
            store: store.clone(),
            group: state.group,
            range,
            generation: store.base().snapshot().generation(state.group),
            stack: RwLock::new(Arc::new(stack)),
            last_snapshot: RwLock::default(),
            base_rows: AtomicU64::new(state.rows),
            // Until a checkpoint has taught better: all puts are new, all deletes hit.
            new_puts_permille: AtomicU32::new(1000),
            hit_deletes_permille: AtomicU32::new(1000),
        };
        let shared = Arc::new(shared);
        store.register(&shared);
        Shard { shared, active, meta: state.meta.clone() }
    }

    /// The shard's group.
    pub fn group(&self) -> GroupId {
        self.shared.group
    }

    /// The keys that the shard owns.
    pub fn range(&self) -> &KeyRange {
        &self.shared.range
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<ShardShared> {
        &self.shared
    }

    /// The meta given last: on creation, by the record on opening, or to [`Shard::freeze`].
    pub fn meta(&self) -> &Bytes {
        &self.meta
    }

    /// Which rows these are: grows by one when an import replaces them as a whole.
    pub fn generation(&self) -> u64 {
        self.shared.generation
    }

    /// What memory knows of `key`. Never touches the disk.
    pub fn lookup(&self, key: &[u8]) -> Lookup {
        match self.active.get(key) {
            Found::Row(row) => return Lookup::Row(row),
            Found::Absent => return Lookup::Absent,
            Found::Below => {}
        }
        let stack = self.shared.stack();
        for memtable in stack.frozen.iter().chain(&stack.merged) {
            match memtable.get(key) {
                Found::Row(row) => return Lookup::Row(row),
                Found::Absent => return Lookup::Absent,
                Found::Below => {}
            }
        }
        Lookup::Below
    }

    /// Applies the changes of one command, in order and for readers all at once, and returns the
    /// version that the command got. A command without changes gets a version too.
    ///
    /// Deleting the whole range of the shard and nothing else is [`Shard::clear`].
    ///
    /// # Panics
    ///
    /// If a key lies outside the shard's range: the caller checks that when it applies.
    pub fn apply(&mut self, changes: Vec<RowChange>) -> u64 {
        if let [RowChange::DeleteRange(range)] = &changes[..]
            && range.covers(&self.shared.range)
        {
            return self.clear();
        }
        for change in &changes {
            if let RowChange::Put { key, .. } | RowChange::Delete { key } = change {
                assert!(
                    self.shared.range.contains(key),
                    "a key outside of {:?} reached shard {}",
                    self.shared.range,
                    self.shared.group
                );
            }
        }
        let version = self.version() + 1;
        self.active.apply(version, &changes);
        version
    }

    /// Brings near what writes of `keys` will touch. Changes nothing; worth it when several writes
    /// follow.
    pub fn anticipate(&self, keys: &[Bytes]) {
        self.active.anticipate(keys);
    }

    /// Empties the whole shard and returns the version of that. Costs the same for any number of
    /// rows: the next checkpoint gives the shard an empty extent and drops its old tables.
    pub fn clear(&mut self) -> u64 {
        let version = self.version() + 1;
        let empty = Arc::new(Memtable::emptying(version, &self.active));
        let emptied = std::mem::replace(&mut self.active, empty);
        let mut stack = self.shared.stack.write();
        debug_assert!(Arc::ptr_eq(&stack.active, &emptied), "only the writer changes the active");
        // Frozen memtables stay: their checkpoint is under way and records their applied index.
        let frozen = stack.frozen.clone();
        *stack = Arc::new(Stack { active: self.active.clone(), frozen, merged: None });
        version
    }

    /// The shard as it is now, for reading.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// A handle that gives out views and can go to other threads.
    pub fn reader(&self) -> ShardReader {
        ShardReader { shared: self.shared.clone() }
    }

    /// Freezes the active memtable, to be handed to the checkpointer. `applied` is index and term
    /// of the last command applied; `meta` is recorded with it and given back on opening. Rows that
    /// are expired at `now_ms`, the stamp of that command, do not reach the disk: stamps only grow,
    /// so that nobody can see them again.
    ///
    /// A shard without changes is frozen too: its applied index moves on. At most two memtables of
    /// a shard should be frozen at a time ([`Shard::frozen_count`]); the caller holds writes back.
    /// The caller hands a shard's frozen memtables to the checkpointer in the order it froze them.
    pub fn freeze(&mut self, applied: (u64, u64), meta: Bytes, now_ms: u64) -> Frozen {
        let version = self.version();
        let gauges = self.shared.store.metrics().memtables.clone();
        let empty = Arc::new(Memtable::new(version, gauges));
        let memtable = std::mem::replace(&mut self.active, empty);
        let mut stack = self.shared.stack.write();
        let frozen = std::iter::once(&memtable).chain(&stack.frozen).cloned().collect();
        let merged = stack.merged.clone();
        *stack = Arc::new(Stack { active: self.active.clone(), frozen, merged });
        self.shared.store.metrics().frozen_memtables.inc();
        drop(stack);
        self.meta = meta.clone();
        let kind = FrozenKind::Rows { meta };
        Frozen { shared: self.shared.clone(), memtable, applied, version, now_ms, kind }
    }

    /// Gives the shard up: the next checkpoint removes its record and drops its tables.
    pub fn remove(mut self) -> Frozen {
        let frozen = self.freeze((0, 0), Bytes::new(), 0);
        Frozen { kind: FrozenKind::Removal, ..frozen }
    }

    /// Memtables frozen and not yet merged into redb.
    pub fn frozen_count(&self) -> usize {
        self.shared.stack().frozen.len()
    }

    /// Memory held by all memtables of the shard that are not in redb yet.
    pub fn memory_bytes(&self) -> u64 {
        let stack = self.shared.stack();
        stack.frozen.iter().chain([&stack.active]).map(|memtable| memtable.memory_bytes()).sum()
    }

    /// Memory held by the active memtable: what a freeze would hand to the checkpointer.
    pub fn active_bytes(&self) -> u64 {
        self.active.memory_bytes()
    }

    /// About how many rows the shard has. Cheap; exact when all is in redb or nothing is. Counts as
    /// new the share of puts that was new in the last checkpoint.
    pub fn keys_estimate(&self) -> u64 {
        self.shared.keys_estimate()
    }

    /// Version of the last command.
    pub fn version(&self) -> u64 {
        self.active.version()
    }
}

/// A handle to a shard for readers on any thread.
#[derive(Clone)]
pub struct ShardReader {
    shared: Arc<ShardShared>,
}

impl ShardReader {
    /// The shard as it is now.
    pub fn view(&self) -> View {
        self.shared.view()
    }

    /// See [`Shard::keys_estimate`].
    pub fn keys_estimate(&self) -> u64 {
        self.shared.keys_estimate()
    }
}

/// What a frozen memtable is for.
#[derive(Debug)]
pub(crate) enum FrozenKind {
    /// Its rows go into redb, with this meta in the record.
    Rows { meta: Bytes },
    /// The shard goes.
    Removal,
}

/// A frozen memtable on its way into redb.
pub struct Frozen {
    pub(crate) shared: Arc<ShardShared>,
    pub(crate) memtable: Arc<Memtable>,
    pub(crate) applied: (u64, u64),
    pub(crate) version: u64,
    /// Rows that expired by then are left out.
    pub(crate) now_ms: u64,
    pub(crate) kind: FrozenKind,
}

impl Frozen {
    /// The shard's group.
    pub fn group(&self) -> GroupId {
        self.shared.group
    }

    /// Index and term of the last command in it.
    pub fn applied(&self) -> (u64, u64) {
        self.applied
    }

    /// True if an import has replaced the rows that this was to be merged into.
    pub(crate) fn is_stale(&self) -> bool {
        self.shared.store.base().snapshot().generation(self.group()) != self.shared.generation
    }
}
