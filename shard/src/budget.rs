//! The bytes of memory that a node has promised to requests, and what they leave behind.
//!
//! Mailboxes, channels and caches behind the door are not bounded one by one: everything in them
//! was paid for here, so they are bounded together. Only the door refuses; what was let in is
//! carried through. What grows elsewhere because of requests (caches of logs, outboxes, replies
//! that a slow client has not read) is counted in accounts, and closes the door when the sum is
//! too much.
//!
//! Invariants:
//!
//! * A permit is given only while permits and accounts together stay within the maximum, except
//!   that a single request is let in when no other is (else a large one could never be served).
//! * Permits of one group never hold more than is left free: one hot shard leaves room for others.
//! * A permit gives its bytes back exactly once, when it is dropped.
//! * Memtables are counted, but have a limit of their own: what is in them waits for a checkpoint,
//!   not for an answer.
//!
//! What is absent: waiting. Who is refused is told so at once and decides for itself. Raft traffic
//! asks nobody: its windows are bounded where they are.

use flotilla_storage::GroupId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
    /// Rows above the store. Not part of the sum.
    Memtables,
}

impl Part {
    /// All, in a fixed order.
    pub const ALL: [Part; 6] =
        [Part::Door, Part::LogCaches, Part::Outboxes, Part::Replies, Part::Reads, Part::Memtables];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Part::Door => "door",
            Part::LogCaches => "log_caches",
            Part::Outboxes => "outboxes",
            Part::Replies => "replies",
            Part::Reads => "reads",
            Part::Memtables => "memtables",
        }
    }
}

/// How many counters the groups share. Groups that share one also share its allowance.
const GROUP_COUNTERS: usize = 1024;

/// A permit that belongs to no group.
const NO_GROUP: u32 = u32::MAX;

/// A node's promises of memory. Clones share them.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    parts: [AtomicU64; Part::ALL.len()],
    groups: Vec<AtomicU64>,
    bytes_max: u64,
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
}

impl Budget {
    /// A budget of at most `bytes_max` bytes at a time.
    pub fn new(bytes_max: u64) -> Budget {
        let groups = (0..GROUP_COUNTERS).map(|_| AtomicU64::new(0)).collect();
        Budget { shared: Arc::new(Shared { parts: Default::default(), groups, bytes_max }) }
    }

    /// Takes `bytes` for a request whose group is not known, or `None` when they are not there now.
    pub fn acquire(&self, bytes: u64) -> Option<Permit> {
        self.take(bytes)?;
        Some(Permit { shared: self.shared.clone(), bytes, group: NO_GROUP })
    }

    /// Takes `bytes` for a request to `group`, or `None` when they are not there now, or the group
    /// would hold more than is left for all others.
    pub fn acquire_for(&self, group: GroupId, bytes: u64) -> Option<Permit> {
        let before = self.take(bytes)?;
        let number = (group.0 % GROUP_COUNTERS as u64) as u32;
        let counter = &self.shared.groups[number as usize];
        let held = counter.fetch_add(bytes, Relaxed);
        let permit = Permit { shared: self.shared.clone(), bytes, group: number };
        let free = self.shared.bytes_max.saturating_sub(before);
        // What the group already holds is bounded, not its first request. Too much: the permit is
        // dropped, which gives everything back.
        (held == 0 || held.saturating_add(bytes) <= free).then_some(permit)
    }

    /// Adds `bytes` to the door and returns the sum before, or leaves everything as it was.
    fn take(&self, bytes: u64) -> Option<u64> {
        let door = self.shared.part(Part::Door);
        let before = door.fetch_add(bytes, Relaxed);
        let sum = before.saturating_add(self.shared.accounts_bytes());
        if before != 0 && sum.saturating_add(bytes) > self.shared.bytes_max {
            door.fetch_sub(bytes, Relaxed);
            return None;
        }
        Some(sum)
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

/// Bytes taken from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: u64,
    group: u32,
}

impl Permit {
    /// How many bytes it stands for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.shared.part(Part::Door).fetch_sub(self.bytes, Relaxed);
        assert!(before >= self.bytes, "a budget was given back more than it lent");
        if self.group != NO_GROUP {
            self.shared.groups[self.group as usize].fetch_sub(self.bytes, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_over_the_maximum_and_recovers() {
        let budget = Budget::new(100);
        let first = budget.acquire(60).unwrap();
        assert!(budget.acquire(41).is_none());
        assert_eq!(budget.used_bytes(), 60);
        let second = budget.acquire(40).unwrap();
        drop(first);
        assert_eq!(budget.used_bytes(), 40);
        drop(second);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn one_oversized_request_passes_alone() {
        let budget = Budget::new(100);
        let alone = budget.acquire(1000).expect("nothing else is held");
        assert!(budget.acquire(1).is_none());
        drop(alone);
        assert!(budget.acquire(1).is_some());
    }

    #[test]
    fn accounts_close_the_door_and_memtables_do_not() {
        let budget = Budget::new(100);
        let (replies, rows) = (budget.account(Part::Replies), budget.account(Part::Memtables));
        rows.add(1000);
        let first = budget.acquire(10).expect("memtables have their own limit");
        replies.add(80);
        assert!(budget.acquire(20).is_none());
        assert!(budget.acquire(10).is_some());
        drop(first);
        replies.add(80);
        assert!(budget.acquire(10).is_some(), "one request at a time goes on");
        replies.sub(160);
        assert_eq!(budget.total_bytes(), 0);
        assert_eq!(replies.used_bytes(), 0);
    }

    #[test]
    fn a_hot_group_leaves_room_for_others() {
        let budget = Budget::new(1000);
        let hot: Vec<Permit> = std::iter::from_fn(|| budget.acquire_for(GroupId(1), 10)).collect();
        assert_eq!(hot.len(), 50, "as much as is left free");
        let cold: Vec<Permit> = std::iter::from_fn(|| budget.acquire_for(GroupId(2), 10)).collect();
        assert_eq!(cold.len(), 25);
        assert!(budget.acquire_for(GroupId(3), 10).is_some());
        drop(hot);
        assert!(budget.acquire_for(GroupId(2), 10).is_some());
        drop(cold);
        assert_eq!(budget.used_bytes(), 0);
        assert!(budget.shared.groups.iter().all(|held| held.load(Relaxed) == 0));
    }
}
