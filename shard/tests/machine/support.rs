//! One state machine with its store; the test is the log.

use bytes::Bytes;
use flotilla_shard::command::{Change, Command};
use flotilla_shard::machine::{Applied, Fetched, Machine, ShardMeta};
use flotilla_shard::*;
use flotilla_storage::store::{Store, StoreMetrics, StoreOptions};
use tempfile::TempDir;

/// Time starts here, in milliseconds since the Unix epoch.
pub const START_MS: u64 = 1_700_000_000_000;

/// The limit on values that commands carry.
pub const VALUE_BYTES_MAX: u64 = 1 << 20;

/// A machine and what it stands on.
pub struct Fixture {
    pub machine: Machine,
    pub now_ms: u64,
    store: Store,
    applied: u64,
    /// Commands that had to wait for rows so far.
    pub parked: u64,
    _dir: TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with_range(KeyRange::whole())
    }

    pub fn with_range(range: KeyRange) -> Fixture {
        let dir = TempDir::new().expect("a temporary directory");
        let (store, _) = Store::open(dir.path(), StoreOptions::default(), StoreMetrics::new())
            .expect("a fresh store");
        let replicas = vec![ReplicaDescriptor { node: NodeId(1), replica: ReplicaId(1) }];
        let descriptor =
            Descriptor { group: GroupId(1), range: range.clone(), epoch: Epoch::FIRST, replicas };
        let meta = ShardMeta::new(descriptor);
        let shard = store.create_shard(GroupId(1), range, meta.encode());
        let machine = Machine::new(meta, shard);
        Fixture { machine, now_ms: START_MS, store, applied: 0, parked: 0, _dir: dir }
    }

    /// Applies a command as a replica does: rows that it misses are read and it is tried again.
    pub fn apply(&mut self, command: &Command) -> Applied {
        self.applied += 1;
        match self.machine.apply(command, &Fetched::new()) {
            Applied::Missing(_) => {}
            applied => return applied,
        }
        self.parked += 1;
        let Change::Write(write) = &command.change else { panic!("only writes miss rows") };
        let before = self.machine.meta();
        let (view, mut fetched) = (self.machine.shard().view(), Fetched::new());
        write.for_each_key(|key| {
            fetched.insert(key.clone(), view.get(key).expect("a healthy store"));
        });
        assert_eq!(self.machine.meta(), before, "a command that waits has changed nothing");
        match self.machine.apply(command, &fetched) {
            Applied::Missing(keys) => panic!("{keys:?} were fetched"),
            applied => applied,
        }
    }

    /// Applies a client's write now.
    pub fn write_as(&mut self, origin: Origin, write: Write) -> WriteOutcome {
        let command = Command {
            origin,
            stamp_ms: self.now_ms,
            value_bytes_max: VALUE_BYTES_MAX,
            change: Change::Write(write),
        };
        match self.apply(&command) {
            Applied::Outcome(outcome) => outcome,
            other => panic!("a write ended in {other:?}"),
        }
    }

    /// Applies a write of no session now.
    pub fn write(&mut self, write: Write) -> WriteOutcome {
        self.write_as(Origin::default(), write)
    }

    /// Logs a ceiling.
    pub fn ceiling(&mut self, ms: u64) {
        let change = Change::Ceiling { ms };
        let (origin, stamp_ms) = (Origin::default(), self.now_ms);
        self.apply(&Command { origin, stamp_ms, value_bytes_max: 0, change });
    }

    /// Moves all rows below the memtables.
    pub fn checkpoint(&mut self) {
        let (meta, stamp_ms) = (self.machine.meta().encode(), self.machine.stamp_ms());
        let frozen = self.machine.shard_mut().freeze((self.applied, 1), meta, stamp_ms);
        self.store.checkpoint(&[frozen]).expect("a healthy store");
        self.store.release_merged_memtables();
    }

    /// What a read finds now.
    pub fn get(&self, key: &str) -> Option<Entry> {
        let view = self.machine.shard().view().at(self.now_ms);
        view.get(key.as_bytes()).expect("a healthy store").map(Entry::from)
    }

    /// The value that a read finds now, as text.
    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key).map(|entry| String::from_utf8(entry.value.to_vec()).expect("text"))
    }

    /// How long the key has to live, `None` if it does not expire.
    pub fn ttl_ms(&self, key: &str) -> Option<u64> {
        self.get(key).expect("the key is there").expires_at_ms.map(|at_ms| at_ms - self.now_ms)
    }

    /// Stores a value.
    pub fn set(&mut self, key: &str, value: &str, expiry: Expiry) {
        let outcome = self.write(put(key, value, expiry));
        assert!(matches!(outcome, WriteOutcome::Put { written: true, .. }), "{outcome:?}");
    }

    /// All rows that a read finds now.
    pub fn rows(&self) -> Vec<(Bytes, Entry)> {
        let view = self.machine.shard().view().at(self.now_ms);
        let page = view.page(&KeyRange::whole(), Default::default()).expect("a healthy store");
        page.rows.into_iter().map(|(key, row)| (key, Entry::from(row))).collect()
    }
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn put(key: &str, value: &str, expiry: Expiry) -> Write {
    let (key, value) = (bytes(key), bytes(value));
    Write::Put { key, value, condition: Condition::Always, return_previous: false, expiry }
}

pub fn expire(key: &str, expiry: Expiry, condition: ExpireCondition) -> Write {
    Write::Expire { key: bytes(key), expiry, condition, return_value: false }
}

pub fn origin(session: u64, sequence: u64, lowest_unacknowledged: u64) -> Origin {
    Origin { session, session_born_ms: START_MS, sequence, lowest_unacknowledged }
}
