//! What leaves a replica's memory and log: memtables into checkpoints, entries into oblivion.
//!
//! Invariants:
//!
//! * A memtable goes to the checkpoint only when the journal holds everything applied to it.
//! * An entry is forgotten only when this replica's checkpoint contains it, and never while a
//!   snapshot that ends before it is on its way to a follower.
//! * A leader keeps what its followers lack, a follower a tail for the case that it leads next; but
//!   all replicas of a node together keep only so much for others: beyond it the largest logs are
//!   cut to one size, and whoever was away for that long gets a snapshot.
//!
//! What is absent: when to freeze (the lanes decide together), and the checkpoint itself.

use super::Replica;
use crate::effects::{Effects, Now};
use flotilla_raft::{self as raft, FollowerState, Index, Position};
use flotilla_storage::journal::{Change, Write as JournalWrite};

/// A follower keeps this part of its share for the time when it leads.
const FOLLOWER_SHARE: u64 = 4;

impl Replica {
    /// Freezes the memtable if it holds anything that the last checkpoint does not. A memtable
    /// that cannot be frozen now keeps growing: apply is never held up.
    pub(super) fn freeze(&mut self) {
        let applied = self.applying.applied();
        let shard = self.machine.shard();
        let nothing_new = applied.index == self.froze;
        if self.frozen.is_some() || shard.frozen_count() >= 2 || nothing_new {
            return;
        }
        // Rows that cannot be trusted, or are about to go, must not reach the store.
        if self.is_replacing_rows() {
            return;
        }
        let meta = self.machine.meta().encode();
        let stamp_ms = self.machine.stamp_ms();
        let applied_at = (applied.index.0, applied.term.0);
        let frozen = self.machine.shard_mut().freeze(applied_at, meta, stamp_ms);
        self.froze = applied.index;
        self.applying.frozen();
        self.frozen = Some((applied.index, frozen));
    }

    pub(super) fn hand_over_frozen(&mut self, effects: &mut Effects) {
        if let Some((index, frozen)) = self.frozen.take() {
            if self.raft.persisted_index() >= index {
                effects.frozen.push(frozen);
            } else {
                self.frozen = Some((index, frozen));
            }
        }
    }

    pub(super) fn checkpointed(&mut self, now: &Now, position: Position, effects: &mut Effects) {
        self.checkpointed = self.checkpointed.max(position.index);
        self.compact(now, effects);
    }

    /// Forgets what neither this replica nor, as far as the node can afford it, the others need.
    pub(super) fn compact(&mut self, now: &Now, effects: &mut Effects) {
        if self.is_replacing_rows() {
            return;
        }
        let base = self.log.base();
        if self.checkpointed.0 <= base {
            return;
        }
        let conditions = now.conditions;
        let mut through = self.unneeded(conditions.log_share_bytes);
        let too_much = self.log.bytes() > conditions.log_keep_bytes;
        if too_much {
            through = through.max(self.log.through_to_keep(conditions.log_keep_bytes));
        }
        through = through.min(self.checkpointed.0);
        if let Some(pinned) = self.snapshots.pinned() {
            through = through.min(pinned.0);
        }
        let worth_it = through >= base + self.options.compact_entries_min;
        if through > base && (worth_it || too_much) {
            self.compact_through(now, Index(through), effects);
        }
    }

    /// Through where nobody who can be helped by this log needs it, as far as is known here.
    fn unneeded(&self, log_share_bytes: u64) -> u64 {
        if self.raft.role() != raft::Role::Leader {
            return self.log.through_to_keep(log_share_bytes / FOLLOWER_SHARE);
        }
        let status = self.raft.status();
        let helped = |state| !matches!(state, FollowerState::Snapshot);
        let followers = status.followers.iter().filter(|follower| helped(follower.state));
        followers.map(|follower| follower.matched.0).min().unwrap_or(u64::MAX)
    }

    fn compact_through(&mut self, now: &Now, through: Index, effects: &mut Effects) {
        self.raft.step(now.time, raft::Event::Compact(through));
        let base = self.raft.base();
        if base.index.0 > self.log.base() {
            self.log.compact(base.index.0);
            effects.journal.push(compaction(self.group, base));
        }
    }
}

/// Tells the journal that the log begins after `base`.
pub(super) fn compaction(group: flotilla_storage::GroupId, base: Position) -> JournalWrite {
    let change = Change::Compact { index: base.index.0, term: base.term.0 };
    JournalWrite { group, ticket: 0, change }
}
