//! What a replica is born with: its options, its limits and what its disk remembers.

use std::time::Duration;

use crate::{
    error::RestoreError,
    types::{HardState, Index, Position, ReplicaId, Term},
};

/// How a replica behaves. The same on all replicas of a group, except for `id`, `seed`,
/// `suspect` and `may_lead`.
#[derive(Clone, Debug)]
pub struct Options {
    /// This replica. Not 0.
    pub id: ReplicaId,
    /// All voters of the group, this replica included.
    pub voters: Vec<ReplicaId>,
    /// The shortest time without a leader after which a follower campaigns. Each wait is drawn
    /// anew from `[election_timeout, 2 * election_timeout)`.
    pub election_timeout: Duration,
    /// How often a leader speaks to its followers when it has nothing to say. Well below
    /// `election_timeout`: a few heartbeats must be lost before anybody campaigns.
    pub heartbeat_interval: Duration,
    /// Seed of the election timeouts. Must differ between the replicas of a group.
    pub seed: u64,
    /// True if this replica may have lost content of its journal. It listens, but neither votes
    /// nor acknowledges nor campaigns.
    pub suspect: bool,
    /// Ask whether an election could succeed before raising the term.
    pub pre_vote: bool,
    /// A leader that has not heard from a quorum for an election timeout steps down, and a
    /// follower that has heard from its leader within one ignores candidates.
    pub check_quorum: bool,
    /// A leader whose own oldest write has been under way for longer hands its leadership over while
    /// there is a follower whose disk works, and steps down if that one does not take it.
    pub disk_stall_max: Duration,
    /// False: this replica votes and acknowledges, but never campaigns. Changed by
    /// [`Event::MayLead`](crate::Event::MayLead).
    pub may_lead: bool,
    /// Replicas keep out of their leader's way for an election timeout, so that it may read without
    /// a round. `None`: they promise nothing.
    pub leases: Option<Leases>,
    /// Bounds of everything.
    pub limits: Limits,
}

/// What leases rest on. A promise lasts an election timeout on the clock of whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leases {
    /// This replica reads by its lease when it has one. It promises either way.
    pub reads: bool,
    /// How much faster or slower than true time a clock may run, in millionths: 10,000 is one
    /// per cent. No lease survives a bound of a million. What clocks show means nothing.
    pub clock_drift_max_ppm: u32,
}

/// Bounds on memory and message sizes. Byte limits count [`Entry::bytes`](crate::Entry::bytes):
/// the payload plus 32 bytes. Wherever a limit could stop all progress, one entry always passes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest payload that may be proposed. Longer ones are refused.
    pub entry_bytes_max: usize,
    /// Most bytes of entries in one append message.
    pub message_bytes_max: usize,
    /// Most entries in one append message.
    pub message_entries_max: usize,
    /// Most bytes of entries sent to one follower and not yet acknowledged.
    pub inflight_bytes_max: usize,
    /// Most append messages sent to one follower and not yet acknowledged.
    pub inflight_messages_max: usize,
    /// Most bytes of proposals that wait for a quorum, or for the leader's own disk. More are
    /// refused as busy.
    pub uncommitted_bytes_max: usize,
    /// Bytes of the log's tail kept in memory. Entries that are not yet both durable here and
    /// committed are kept beyond it; they are bounded by the other limits.
    pub cache_bytes_max: usize,
    /// Most bytes of entries handed out for applying in one [`Ready`](crate::Ready).
    pub apply_bytes_max: usize,
    /// Most reads that wait to be confirmed. More are refused as busy.
    pub reads_pending_max: usize,
}

impl Default for Limits {
    /// For entries of up to 8 MiB and a few replicas: a follower's window of 4 MiB covers a round
    /// trip of 10 ms at 400 MB/s; the cache covers a restart of a peer at moderate load.
    fn default() -> Self {
        Self {
            entry_bytes_max: 9 << 20,
            message_bytes_max: 256 << 10,
            message_entries_max: 4096,
            inflight_bytes_max: 4 << 20,
            inflight_messages_max: 256,
            uncommitted_bytes_max: 32 << 20,
            cache_bytes_max: 1 << 20,
            apply_bytes_max: 1 << 20,
            reads_pending_max: 16 << 10,
        }
    }
}

/// What the disk remembers of a replica. The default is a replica that has never run: it waits for
/// nobody, as it can have promised nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Term, vote and commit hint.
    pub hard_state: HardState,
    /// The log is compacted up to here; `(0, 0)` if it is whole.
    pub base: Position,
    /// For each run of equal terms above the base, its first position. Indexes and terms grow;
    /// the first run begins at `base.index + 1`. Empty if the log is empty above the base.
    pub term_starts: Vec<Position>,
    /// Index of the last entry; `base.index` if there is none above the base.
    pub last_index: Index,
    /// The state machine holds everything up to here. Means nothing if `needs_snapshot`.
    pub applied: Index,
    /// The state machine is lost or unreadable, the log is not: this replica votes and
    /// acknowledges, but never campaigns and applies nothing until a snapshot is installed.
    pub needs_snapshot: bool,
}

impl Restored {
    /// To be asked after every restart, with the position at which the rows in the store end. True if
    /// a snapshot took the place of the rows just before the restart and the log does not go on
    /// from it: `self` then begins there, and the journal's log must be emptied and go on after `rows`,
    /// durably, before the replica starts. If the swap did not take place, or the log holds that entry, nothing
    /// needs to be done: the core ends the intent by itself.
    ///
    /// Rows that end below the log's base change nothing here either: what the log holds above it may
    /// be all that is left of what this replica has acknowledged, and nothing says that a snapshot
    /// has passed over it. Such rows are missing: see [`Restored::needs_snapshot`].
    pub fn resume_after_swap(&mut self, rows: Position) -> bool {
        let lacks = self.hard_state.installing == Some(rows)
            && rows.index >= self.base.index
            && self.term_at(rows.index) != Some(rows.term);
        if lacks {
            *self = std::mem::take(self).restarted_at(rows);
        }
        lacks
    }

    /// The term of the entry at `index`, or of the base; `None` where the log has nothing.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        if index < self.base.index || index > self.last_index {
            return None;
        }
        let run = self.term_starts.iter().rev().find(|run| run.index <= index);
        Some(run.map_or(self.base.term, |run| run.term))
    }

    /// The same replica with an empty log that begins after `base`, which is where its rows end.
    pub(crate) fn restarted_at(self, base: Position) -> Self {
        let (last_index, applied) = (base.index, base.index);
        Self { base, term_starts: Vec::new(), last_index, applied, ..self }
    }

    /// Checks that this can be the memory of a healthy replica.
    ///
    /// # Errors
    ///
    /// [`RestoreError`] says what contradicts what. Such a replica has lost content: open it as
    /// suspect.
    pub fn validate(&self) -> Result<(), RestoreError> {
        let too_short =
            |what, index| RestoreError::LogTooShort { what, index, last: self.last_index };
        if self.last_index < self.base.index {
            return Err(too_short("the compacted base", self.base.index));
        }
        if self.last_index < self.hard_state.commit {
            return Err(too_short("the commit index", self.hard_state.commit));
        }
        if !self.needs_snapshot && self.last_index < self.applied {
            return Err(too_short("the applied index", self.applied));
        }
        if !self.needs_snapshot && self.applied < self.base.index {
            return Err(RestoreError::Gap { base: self.base.index, applied: self.applied });
        }
        if self.last_index > Index::MAX {
            return Err(RestoreError::Terms { what: "the last index is out of range" });
        }
        let Some(first) = self.term_starts.first() else {
            return if self.last_index == self.base.index {
                Ok(())
            } else {
                Err(RestoreError::Terms { what: "entries above the base have no term" })
            };
        };
        if first.index != self.base.index.next() {
            return Err(RestoreError::Terms { what: "the first run does not follow the base" });
        }
        if first.term < self.base.term || first.term.0 == 0 {
            return Err(RestoreError::Terms { what: "the first run is older than the base" });
        }
        for pair in self.term_starts.windows(2) {
            if pair[1].index <= pair[0].index || pair[1].term <= pair[0].term {
                return Err(RestoreError::Terms { what: "runs are not in growing order" });
            }
        }
        let newest = self.term_starts[self.term_starts.len() - 1];
        if newest.index > self.last_index {
            return Err(RestoreError::Terms { what: "a run begins after the last entry" });
        }
        if newest.term > self.hard_state.term {
            return Err(RestoreError::Terms { what: "an entry is newer than the current term" });
        }
        Ok(())
    }
}
