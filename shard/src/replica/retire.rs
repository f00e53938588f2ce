//! What leaves a replica's memory and log: memtables into checkpoints, entries into oblivion.
//!
//! Invariants:
//!
//! * A memtable goes to the checkpoint only when the journal holds everything applied to it.
//! * An entry is forgotten only when this replica's checkpoint contains it and every voter has it:
//!   there is no other way yet to repair a replica that lacks it.
//!
//! What is absent: when to freeze (the lanes decide together), and the checkpoint itself.

use super::Replica;
use crate::command::{Change as CommandChange, Command, Origin};
use crate::effects::{Effects, Now};
use flotilla_raft::{self as raft, Index, Position};
use flotilla_storage::journal::{Change, Write as JournalWrite};

impl Replica {
    /// Freezes the memtable if it holds anything that the last checkpoint does not. A memtable
    /// that cannot be frozen now keeps growing: apply is never held up.
    pub(super) fn freeze(&mut self) {
        let applied = self.applying.applied();
        let shard = self.machine.shard();
        if self.frozen.is_some() || shard.frozen_count() >= 2 || applied.index == self.froze {
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
        self.offer_release(now);
        self.compact(now, effects);
    }

    /// As leader: tells the group what every voter and this replica's checkpoint no longer need.
    fn offer_release(&mut self, now: &Now) {
        let status = self.raft.status();
        if status.role != raft::Role::Leader {
            return;
        }
        let matched = status.followers.iter().map(|follower| follower.matched);
        let through = matched.min().map_or(self.checkpointed, |min| min.min(self.checkpointed)).0;
        let known = self.machine.released().max(self.release_proposed);
        if through < known + self.options.release_entries_min {
            return;
        }
        let command = Command {
            origin: Origin::default(),
            stamp_ms: self.machine.stamp_ms().max(now.wall_ms),
            value_bytes_max: self.options.value_bytes_max,
            change: CommandChange::ReleaseLog { through },
        };
        if self.raft.propose(now.time, command.encode()).is_ok() {
            self.release_proposed = through;
        }
    }

    /// Forgets the part of the log that the checkpoint holds and no voter needs.
    pub(super) fn compact(&mut self, now: &Now, effects: &mut Effects) {
        let through = Index(self.machine.released()).min(self.checkpointed);
        if through <= self.base {
            return;
        }
        self.raft.step(now.time, raft::Event::Compact(through));
        let base = self.raft.status().base;
        if base.index > self.base {
            self.base = base.index;
            effects.journal.push(JournalWrite {
                group: self.group,
                ticket: 0,
                change: Change::Compact { index: base.index.0, term: base.term.0 },
            });
        }
    }
}
