//! The bytes of memory that a node has promised to requests, and what they leave behind.
//!
//! Mailboxes, channels and caches behind the door are not bounded one by one: everything in them
//! was paid for here, so they are bounded together. Only the door refuses; what was let in is
//! carried through. What grows elsewhere because of requests (caches of logs, outboxes, replies
//! that a slow client has not read) is counted in accounts, and closes the door when the sum is
//! too much.
//!
//! Two rules close the door: bytes, so that memory is bounded, and time, so that nobody waits in
//! vain ([`Pace`]).
//!
//! Invariants:
//!
//! * A permit is given only while permits and accounts together stay within the maximum, except
//!   that a single request is let in when no other is (else a large one could never be served).
//! * Permits together hold no more than the node finishes in the stated time, and never less than
//!   the floor is let in. Groups that finish nothing while others do have no part in this: they
//!   hold a little each, and what they hold delays nobody else.
//! * Permits of one group never hold more than is left free, of bytes and of time: one hot shard
//!   leaves room for others.
//! * A permit gives its bytes back exactly once, when it is dropped.
//! * Memtables are counted, but have a limit of their own: what is in them waits for a checkpoint,
//!   not for an answer.
//!
//! What is absent: waiting. Who is refused is told so at once and decides for itself. Raft traffic
//! asks nobody: its windows are bounded where they are. Clocks: a lane says what time it is.

mod pace;

pub use pace::Pace;

use flotilla_storage::GroupId;
use pace::{Measured, STUCK_WINDOWS, WINDOW_MIN};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use std::time::Instant;

/// What holds memory on behalf of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Requests that were let in and are not answered.
    Door,
    /// Tails of logs kept in memory by all replicas.
    LogCaches,
    /// Messages that wait for their connection.
    Outboxes,
    /// Answers that their clients have not read.
    Replies,
    /// Rows that reads have gathered and not handed over.
    Reads,
    /// Answers of a noticeable size that connections have asked for, as far as can be foreseen: what
    /// they will hold once they are there. Not part of the sum.
    Expected,
    /// Rows above the store. Not part of the sum.
    Memtables,
}

impl Part {
    /// All, in a fixed order.
    pub const ALL: [Part; 7] = [
        Part::Door,
        Part::LogCaches,
        Part::Outboxes,
        Part::Replies,
        Part::Reads,
        Part::Expected,
        Part::Memtables,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Door => "door",
            Part::LogCaches => "log_caches",
            Part::Outboxes => "outboxes",
            Part::Replies => "replies",
            Part::Reads => "reads",
            Part::Expected => "expected",
            Part::Memtables => "memtables",
        }
    }
}

/// How many counters the groups share. Groups that share one also share its allowance.
const GROUP_COUNTERS: usize = 1024;

/// A permit that belongs to no group.
const NO_GROUP: u32 = u32::MAX;

/// A group that is stuck may hold this part of the floor.
const STUCK_PART: u64 = 8;

/// Why the door was closed to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Memory is used up.
    Bytes,
    /// What was let in before takes long enough to finish.
    Time,
    /// The group has its share.
    Group,
}

impl Rule {
    /// All, in a fixed order.
    pub const ALL: [Rule; 3] = [Rule::Bytes, Rule::Time, Rule::Group];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Bytes => "bytes",
            Rule::Time => "time",
            Rule::Group => "group",
        }
    }
}

/// A node's promises of memory. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: [AtomicU64; Part::ALL.len()],
    groups: Vec<Group>,
    bytes_max: u64,
    /// `None`: only bytes count.
    pace: Option<Pace>,
    /// Living permits.
    requests: AtomicU64,
    /// Bytes of permits whose requests were served, since the beginning.
    finished_bytes: AtomicU64,
    /// How many bytes may be in hand, as last measured.
    limit_bytes: AtomicU64,
    /// What groups hold that are stuck, as last measured.
    stuck_bytes: AtomicU64,
    refusals: [AtomicU64; Rule::ALL.len()],
    sampler: Mutex<Sampler>,
}

/// The counters of a group, or of several that share them.
#[derive(Debug, Default)]
struct Group {
    held_bytes: AtomicU64,
    /// Something was finished since the last sample.
    moved: AtomicBool,
    is_stuck: AtomicBool,
}

/// What samples need to remember.
#[derive(Debug, Default)]
struct Sampler {
    at: Option<Instant>,
    finished_bytes: u64,
    measured: Measured,
    /// By group: windows without anything finished, though there was work.
    still: Vec<u8>,
}

impl Shared {
    fn part(&self, part: Part) -> &AtomicU64 {
        &self.parts[part as usize]
    }

    /// Everything that counts except permits.
    fn accounts_bytes(&self) -> u64 {
        [Part::LogCaches, Part::Outboxes, Part::Replies, Part::Reads]
            .into_iter()
            .map(|part| self.part(part).load(Relaxed))
            .sum()
    }

    fn refuse<T>(&self, rule: Rule) -> Option<T> {
        self.refusals[rule as usize].fetch_add(1, Relaxed);
        None
    }

    /// How many of `door_bytes` wait for this node's work, rather than for something that may
    /// never come.
    fn moving_bytes(&self, door_bytes: u64) -> u64 {
        door_bytes.saturating_sub(self.stuck_bytes.load(Relaxed))
    }
}

/// What was held before a request was let in.
struct Before {
    /// Of everything that is bounded together.
    sum_bytes: u64,
    /// Of permits that move.
    moving_bytes: u64,
    /// The few requests that are always let in.
    is_few: bool,
}

impl Budget {
    /// A budget of at most `bytes_max` bytes at a time, however long it takes.
    pub fn new(bytes_max: u64) -> Budget {
        Budget::make(bytes_max, None)
    }

    /// A budget of at most `bytes_max` bytes at a time, and no more than can be finished in time.
    /// Until [`Budget::sample`] is called again and again, it is as on a cold node.
    pub fn paced(bytes_max: u64, pace: Pace) -> Budget {
        Budget::make(bytes_max, Some(pace))
    }

    fn make(bytes_max: u64, pace: Option<Pace>) -> Budget {
        let groups = (0..GROUP_COUNTERS).map(|_| Group::default()).collect();
        let limit_bytes = pace.map_or(u64::MAX, |pace| Measured::default().limit_bytes(&pace));
        Budget {
            shared: Arc::new(Shared {
                parts: Default::default(),
                groups,
                bytes_max,
                pace,
                requests: AtomicU64::new(0),
                finished_bytes: AtomicU64::new(0),
                limit_bytes: AtomicU64::new(limit_bytes),
                stuck_bytes: AtomicU64::new(0),
                refusals: Default::default(),
                sampler: Mutex::default(),
            }),
        }
    }

    /// Takes `bytes` for a request whose group is not known, or `None` when they are not there now.
    pub fn acquire(&self, bytes: u64) -> Option<Permit> {
        self.take(bytes)?;
        Some(self.permit(bytes, NO_GROUP))
    }

    /// Takes `bytes` for a request to `group`, or `None` when they are not there now, or the group
    /// would hold more than is left for all others.
    pub fn acquire_for(&self, group: GroupId, bytes: u64) -> Option<Permit> {
        let shared = &self.shared;
        let number = (group.0 % GROUP_COUNTERS as u64) as u32;
        let counters = &shared.groups[number as usize];
        if counters.is_stuck.load(Relaxed) {
            let held = counters.held_bytes.load(Relaxed);
            let held_max = shared.pace.map_or(0, |pace| pace.bytes_min / STUCK_PART);
            if held != 0 && held.saturating_add(bytes) > held_max {
                return shared.refuse(Rule::Group);
            }
        }
        let before = self.take(bytes)?;
        let held = counters.held_bytes.fetch_add(bytes, Relaxed);
        let mut permit = self.permit(bytes, number);
        let limit_bytes = shared.limit_bytes.load(Relaxed);
        let free = shared.bytes_max.saturating_sub(before.sum_bytes);
        let free_in_time = match before.is_few {
            true => u64::MAX,
            false => limit_bytes.saturating_sub(before.moving_bytes),
        };
        // What the group already holds is bounded, not its first request. Too much: the permit is
        // dropped, which gives everything back.
        if held == 0 || held.saturating_add(bytes) <= free.min(free_in_time) {
            return Some(permit);
        }
        permit.note_unserved();
        shared.refuse(Rule::Group)
    }

    /// Takes `bytes` for another attempt of a request that was let in before and gave its permit
    /// back with an attempt that was lost. Never refused: who was let in is carried through, and
    /// what others may hold is less by it.
    pub fn carry_on(&self, group: Option<GroupId>, bytes: u64) -> Permit {
        self.shared.part(Part::Door).fetch_add(bytes, Relaxed);
        let number = group.map(|group| (group.0 % GROUP_COUNTERS as u64) as u32);
        if let Some(number) = number {
            self.shared.groups[number as usize].held_bytes.fetch_add(bytes, Relaxed);
        }
        self.permit(bytes, number.unwrap_or(NO_GROUP))
    }

    /// A permit for `bytes` that were taken.
    fn permit(&self, bytes: u64, group: u32) -> Permit {
        self.shared.requests.fetch_add(1, Relaxed);
        Permit { shared: self.shared.clone(), bytes, group, served: true }
    }

    /// Adds `bytes` to the door and returns what was held before, or leaves everything as it was.
    fn take(&self, bytes: u64) -> Option<Before> {
        let shared = &self.shared;
        let door = shared.part(Part::Door);
        let before = door.fetch_add(bytes, Relaxed);
        let sum_bytes = before.saturating_add(shared.accounts_bytes());
        if before != 0 && sum_bytes.saturating_add(bytes) > shared.bytes_max {
            door.fetch_sub(bytes, Relaxed);
            return shared.refuse(Rule::Bytes);
        }
        let moving_bytes = shared.moving_bytes(before);
        let limit_bytes = shared.limit_bytes.load(Relaxed);
        let requests_min = shared.pace.map_or(u64::MAX, |pace| pace.requests_min);
        let is_few = shared.requests.load(Relaxed) < requests_min;
        if !is_few && moving_bytes.saturating_add(bytes) > limit_bytes {
            door.fetch_sub(bytes, Relaxed);
            return shared.refuse(Rule::Time);
        }
        Some(Before { sum_bytes, moving_bytes, is_few })
    }

    /// Measures what was finished since the last time, if that is long enough ago. To be called
    /// many times per second, by anybody.
    pub fn sample(&self, now: Instant) {
        let shared = &self.shared;
        let Some(pace) = &shared.pace else { return };
        let Some(mut sampler) = shared.sampler.try_lock() else { return };
        let sampler = &mut *sampler;
        let finished_bytes = shared.finished_bytes.load(Relaxed);
        let Some(at) = sampler.at else {
            sampler.at = Some(now);
            sampler.finished_bytes = finished_bytes;
            return;
        };
        let elapsed = now.saturating_duration_since(at);
        if elapsed < WINDOW_MIN {
            return;
        }
        let finished_now = finished_bytes - sampler.finished_bytes;
        sampler.at = Some(now);
        sampler.finished_bytes = finished_bytes;
        sampler.measured.note(elapsed, finished_now);
        shared.limit_bytes.store(sampler.measured.limit_bytes(pace), Relaxed);
        sampler.still.resize(shared.groups.len(), 0);
        let mut stuck_bytes = 0;
        for (group, still) in shared.groups.iter().zip(&mut sampler.still) {
            let held = group.held_bytes.load(Relaxed);
            let moved = group.moved.swap(false, AcqRel);
            *still = if held == 0 || moved { 0 } else { still.saturating_add(1) };
            let is_stuck = *still >= STUCK_WINDOWS;
            if is_stuck != group.is_stuck.load(Relaxed) {
                group.is_stuck.store(is_stuck, Relaxed);
            }
            stuck_bytes += if is_stuck { held } else { 0 };
        }
        // When nobody finishes anything, it is the node that is slow, not a group.
        let stuck_bytes = if finished_now == 0 { 0 } else { stuck_bytes };
        shared.stuck_bytes.store(stuck_bytes, Relaxed);
    }

    /// How many bytes requests may have in hand by the rule of time; `None`: it does not apply.
    pub fn paced_bytes_max(&self) -> Option<u64> {
        self.shared.pace.map(|_| self.shared.limit_bytes.load(Relaxed))
    }

    /// How many requests `rule` has refused.
    pub fn refusals(&self, rule: Rule) -> u64 {
        self.shared.refusals[rule as usize].load(Relaxed)
    }

    /// Where `part` counts what it holds.
    ///
    /// # Panics
    ///
    /// For [`Part::Door`]: its bytes are counted by permits.
    pub fn account(&self, part: Part) -> Account {
        assert!(part != Part::Door, "the door is counted by permits");
        Account { shared: self.shared.clone(), part }
    }

    /// Bytes held by living permits.
    pub fn used_bytes(&self) -> u64 {
        self.part_bytes(Part::Door)
    }

    /// Bytes held by one part.
    pub fn part_bytes(&self, part: Part) -> u64 {
        self.shared.part(part).load(Relaxed)
    }

    /// Everything that is bounded together.
    pub fn total_bytes(&self) -> u64 {
        self.used_bytes().saturating_add(self.shared.accounts_bytes())
    }

    /// The most that may be held at a time.
    pub fn bytes_max(&self) -> u64 {
        self.shared.bytes_max
    }
}

/// Counts what one part of the node holds. Clones count together.
#[derive(Clone, Debug)]
pub struct Account {
    shared: Arc<Shared>,
    part: Part,
}

impl Account {
    /// `bytes` more are held.
    pub fn add(&self, bytes: u64) {
        self.shared.part(self.part).fetch_add(bytes, Relaxed);
    }

    /// `bytes` are held no longer.
    ///
    /// # Panics
    ///
    /// If more is given back than was added.
    pub fn sub(&self, bytes: u64) {
        let before = self.shared.part(self.part).fetch_sub(bytes, Relaxed);
        assert!(before >= bytes, "{} gave back more than it held", self.part.as_str());
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> u64 {
        self.shared.part(self.part).load(Relaxed)
    }
}

/// Bytes taken from a [`Budget`]; dropping it gives them back, and counts them as work done.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: u64,
    group: u32,
    served: bool,
}

impl Permit {
    /// Who gave it.
    pub fn budget(&self) -> Budget {
        Budget { shared: self.shared.clone() }
    }

    /// How many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The request was not served: refused, lost, or late. Its end will say nothing about
    /// how fast the node works.
    pub fn note_unserved(&mut self) {
        self.served = false;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let shared = &self.shared;
        let before = shared.part(Part::Door).fetch_sub(self.bytes, Relaxed);
        assert!(before >= self.bytes, "a budget was given back more than it lent");
        shared.requests.fetch_sub(1, Relaxed);
        if self.served {
            shared.finished_bytes.fetch_add(self.bytes, Relaxed);
        }
        if self.group != NO_GROUP {
            let group = &shared.groups[self.group as usize];
            group.held_bytes.fetch_sub(self.bytes, Relaxed);
            // Looked at first: the line of memory then stays shared.
            if self.served && !group.moved.load(Relaxed) {
                group.moved.store(true, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests;
