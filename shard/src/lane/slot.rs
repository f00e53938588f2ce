//! What a lane knows of its groups without asking their actors.

use crate::actor::ReplicaActor;
use crate::effects::Now;
use crate::lanes::LogSizes;
use crate::replica::Replica;
use crate::status::PublishedStatus;
use actix::Addr;
use flotilla_raft::Time;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

/// For how long after its opening a preferred replica does not wait for its election timeout. A
/// group that has a leader already is not disturbed: it refuses the pre-vote.
const EAGER: Duration = Duration::from_secs(2);

/// How often it tries: connections to the others may not be up at first.
const EAGER_INTERVAL: Duration = Duration::from_millis(50);

/// What a lane knows of a group without asking its actor.
pub(crate) struct Slot {
    pub(super) address: RefCell<Option<Addr<ReplicaActor>>>,
    pub(super) next_tick: Cell<Time>,
    pub(super) has_waiting: Cell<bool>,
    pressure_bytes: Cell<u64>,
    log_bytes: Cell<u64>,
    log_cache_bytes: Cell<u64>,
    pub(super) wants_to_reap: Cell<bool>,
    status: Arc<PublishedStatus>,
    /// When a preferred replica of a group without a leader campaigns next.
    eager_at: Cell<Time>,
    eager_until: Time,
}

impl Slot {
    pub(super) fn new(replica: &Replica, now: &Now) -> Slot {
        let eager_at = if replica.is_preferred() { now.time } else { Time::NEVER };
        let slot = Slot {
            address: RefCell::new(None),
            next_tick: Cell::new(replica.next_tick()),
            has_waiting: Cell::new(false),
            pressure_bytes: Cell::new(0),
            log_bytes: Cell::new(0),
            log_cache_bytes: Cell::new(0),
            wants_to_reap: Cell::new(false),
            status: replica.status(),
            eager_at: Cell::new(eager_at),
            eager_until: now.time + EAGER,
        };
        slot.note(replica, now);
        slot
    }

    /// Copies what the lane wants to know from the replica, after its turn.
    pub(crate) fn note(&self, replica: &Replica, now: &Now) {
        self.next_tick.set(replica.next_tick());
        self.has_waiting.set(replica.has_waiting());
        self.pressure_bytes.set(replica.checkpoint_pressure_bytes());
        self.log_bytes.set(replica.log_bytes());
        self.log_cache_bytes.set(replica.log_cache_bytes());
        self.wants_to_reap.set(replica.wants_to_reap(now));
    }

    /// True when the replica should campaign at once.
    pub(super) fn is_eager(&self, now: Time) -> bool {
        if now < self.eager_at.get() {
            return false;
        }
        if now > self.eager_until || self.status.leader_node().is_some() {
            self.eager_at.set(Time::NEVER);
            return false;
        }
        self.eager_at.set(now + EAGER_INTERVAL);
        true
    }
}

/// What the groups of a lane hold together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// How much speaks for a checkpoint.
    pub(crate) pressure_bytes: u64,
    /// Rows above the store.
    pub(crate) memtable_bytes: u64,
    /// Logs in the journal.
    pub(crate) logs: LogSizes,
    /// Log in memory.
    pub(crate) log_cache_bytes: u64,
}

impl std::ops::Add for Load {
    type Output = Load;

    fn add(self, other: Load) -> Load {
        Load {
            pressure_bytes: self.pressure_bytes + other.pressure_bytes,
            memtable_bytes: self.memtable_bytes + other.memtable_bytes,
            logs: self.logs + other.logs,
            log_cache_bytes: self.log_cache_bytes + other.log_cache_bytes,
        }
    }
}

impl Load {
    pub(super) fn take_in(&mut self, slot: &Slot) {
        self.pressure_bytes += slot.pressure_bytes.get();
        self.memtable_bytes += slot.status.memory_bytes();
        self.logs.count(slot.log_bytes.get());
        self.log_cache_bytes += slot.log_cache_bytes.get();
    }
}
