//! Snapshots, as far as one replica has to do with them: asked for, offered, and put in the place
//! of its rows.
//!
//! ```text
//! leader:    Raft wants one sent ─> Send ─> Pinned .. Sent | Failed ─> Raft
//! follower:  Offered ─> Answer    Received ─> Raft: intent durable ─> Install ─> Installed ─> Raft
//! ```
//!
//! Invariants:
//!
//! * From the moment a received snapshot is accepted until the store has swapped it in or has given
//!   up, nothing is applied, frozen, compacted or read.
//! * After the swap the journal learns first where the log begins now, then that the intent is
//!   done with. A crash in between finds the intent and the rows, and knows that they fit.
//! * Writes that were proposed here and lie in what the snapshot replaced end in doubt: their
//!   outcomes were never seen.
//!
//! What is absent: rows on their way (`snapshot`), and which follower needs one (Raft's).

use super::Replica;
use super::retire::compaction;
use crate::descriptor::NodeId;
use crate::effects::{Effects, Now, Observed, SnapshotOrder, refuse};
use crate::machine::{Machine, ShardMeta};
use crate::request::Refusal;
use crate::snapshot::{SnapshotEvent, TransferId};
use bytes::Bytes;
use flotilla_raft::{self as raft, Index, Position, ReplicaId};
use flotilla_storage::store::Shard;
use std::collections::BTreeSet;

/// A snapshot that lies ready and was accepted.
#[derive(Clone, Copy)]
struct Incoming {
    from: NodeId,
    transfer: TransferId,
    position: Position,
}

/// The snapshots that a replica sends and receives.
#[derive(Default)]
pub(super) struct Snapshots {
    /// Followers that one was asked to be sent to.
    sending: BTreeSet<ReplicaId>,
    /// The log after this must stay while an export that ends here is being sent.
    pinned: Option<Position>,
    /// The same, from the order until the export is known: it ends here or later.
    ordered_at: Option<Position>,
    incoming: Option<Incoming>,
}

impl Snapshots {
    /// The position after which the log must stay.
    pub(super) fn pinned(&self) -> Option<Index> {
        let pins = [self.pinned, self.ordered_at].into_iter().flatten();
        pins.map(|position| position.index).min()
    }

    fn ended(&mut self, to: ReplicaId) -> bool {
        let known = self.sending.remove(&to);
        if self.sending.is_empty() {
            self.ordered_at = None;
        }
        known
    }
}

impl Replica {
    /// True while the rows must not be touched: they are damaged, or being replaced.
    pub(super) fn is_replacing_rows(&self) -> bool {
        self.rows_lost || self.raft.installing().is_some()
    }

    /// Raft says that a follower cannot be helped by the log.
    pub(super) fn send_snapshot(&mut self, follower: ReplicaId, effects: &mut Effects) {
        let Some(node) = self.machine.descriptor().node_of(follower) else { return };
        // What is exported is the last checkpoint. A follower that lost its rows takes none from
        // before its own log begins: the next try shall find a newer one.
        self.freeze();
        self.snapshots.sending.insert(follower);
        if self.snapshots.ordered_at.is_none() && self.snapshots.pinned.is_none() {
            let base = Position { index: self.checkpointed, term: raft::Term(0) };
            self.snapshots.ordered_at = Some(base);
        }
        let (group, to, term) = (self.group, (node, follower), self.raft.term());
        effects.snapshots.push(SnapshotOrder::Send { group, to, term });
    }

    /// This replica does not lead (any more).
    pub(super) fn stop_sending(&mut self, effects: &mut Effects) {
        if !self.snapshots.sending.is_empty() {
            self.snapshots.sending.clear();
            self.snapshots.ordered_at = None;
            effects.snapshots.push(SnapshotOrder::Cancel { group: self.group });
        }
    }

    pub(super) fn snapshot_event(
        &mut self,
        now: &Now,
        event: SnapshotEvent,
        effects: &mut Effects,
    ) {
        match event {
            SnapshotEvent::Pinned { position, .. } => {
                self.snapshots.pinned = Some(position);
                self.snapshots.ordered_at = None;
            }
            SnapshotEvent::Unpinned { .. } => {
                self.snapshots.pinned = None;
                self.compact(now, effects);
            }
            SnapshotEvent::Sent { to, position, .. } => {
                if self.snapshots.ended(to) {
                    self.raft.step(now.time, raft::Event::SnapshotSent { to, position });
                }
            }
            SnapshotEvent::Failed { to, .. } => {
                if self.snapshots.ended(to) {
                    self.raft.step(now.time, raft::Event::SnapshotFailed { to });
                }
            }
            SnapshotEvent::ExportDamaged { generation, .. } => {
                let reason = "rows that were to be sent fail their checksum";
                self.rows_damaged(now, generation, reason, effects);
            }
            SnapshotEvent::Offered { transfer, from, to, position, .. } => {
                let wanted = to == self.id && self.would_take(position);
                effects.snapshots.push(SnapshotOrder::Answer { from, transfer, wanted });
            }
            SnapshotEvent::Received { transfer, from, position, .. } => {
                let wanted = self.would_take(position);
                if wanted {
                    self.raft.step(now.time, raft::Event::SnapshotReceived(position));
                }
                if wanted && self.raft.installing() == Some(position) {
                    self.snapshots.incoming = Some(Incoming { from, transfer, position });
                } else {
                    effects.snapshots.push(SnapshotOrder::Discard { from, transfer });
                }
            }
            SnapshotEvent::Installed { position, meta, shard, .. } => {
                self.installed(now, position, meta, shard, effects);
            }
            SnapshotEvent::InstallFailed { position, .. } => {
                tracing::warn!(group = self.group.0, "a snapshot could not be installed");
                self.snapshots.incoming = None;
                self.raft.step(now.time, raft::Event::SnapshotRefused(position));
            }
        }
    }

    fn would_take(&self, position: Position) -> bool {
        self.raft.installing().is_none() && self.raft.wants_snapshot_at(position)
    }

    /// Answers questions of the snapshot service in the negative.
    pub(super) fn decline(&self, event: &SnapshotEvent, effects: &mut Effects) {
        match *event {
            SnapshotEvent::Offered { from, transfer, .. } => {
                effects.snapshots.push(SnapshotOrder::Answer { from, transfer, wanted: false });
            }
            SnapshotEvent::Received { from, transfer, .. } => {
                effects.snapshots.push(SnapshotOrder::Discard { from, transfer });
            }
            _ => {}
        }
    }

    /// The intent is durable: the snapshot may take the place of the rows.
    pub(super) fn install(&mut self, now: &Now, position: Position, effects: &mut Effects) {
        match self.snapshots.incoming {
            Some(Incoming { from, transfer, position: ready }) if ready == position => {
                // Should nothing come of it, the old rows must not lack what was frozen of them. The
                // journal holds that by now, and it is merged before the swap.
                self.hand_over_frozen(effects);
                let group = self.group;
                effects.snapshots.push(SnapshotOrder::Install { group, from, transfer });
            }
            _ => self.raft.step(now.time, raft::Event::SnapshotRefused(position)),
        }
    }

    fn installed(
        &mut self,
        now: &Now,
        position: Position,
        meta: Bytes,
        shard: Shard,
        effects: &mut Effects,
    ) {
        // The journal must hold the log as Raft knows it before it is told where it begins.
        let ready = self.raft.ready(now.time);
        self.perform(now, ready, effects);
        effects.journal.push(compaction(self.group, position));
        self.raft.step(now.time, raft::Event::SnapshotInstalled(position));
        assert!(self.raft.base().index >= position.index, "the log begins after the new rows");
        if self.raft.last().index == position.index {
            self.log.reset(position.index.0);
        } else {
            self.log.compact(position.index.0);
        }
        self.snapshots.incoming = None;
        self.rows_lost = false;
        self.frozen = None;
        (self.checkpointed, self.froze) = (position.index, position.index);
        self.applying.restart(position);
        self.currency.forget();
        for waiting in self.pending.take_through(position.index.0) {
            let refusal = Refusal::Timeout { maybe_committed: true };
            refuse(waiting.reply, waiting.permit, refusal, effects);
        }
        let meta = ShardMeta::decode(meta).ok().filter(|m| m.descriptor.group == self.group);
        let known = meta.is_some();
        self.machine = Machine::new(meta.unwrap_or_else(|| self.machine.meta()), shard);
        if known {
            tracing::info!(group = self.group.0, index = position.index.0, "snapshot installed");
            effects.observed.push(Observed::SnapshotInstalled);
        } else {
            self.lose_rows(now, "a snapshot's description makes no sense", effects);
        }
    }

    /// Rows of `generation` were found damaged. What was found late, of rows that a snapshot has
    /// replaced meanwhile, says nothing about those in their place.
    pub(super) fn rows_damaged(
        &mut self,
        now: &Now,
        generation: u64,
        reason: &str,
        effects: &mut Effects,
    ) {
        if generation < self.machine.shard().generation() {
            tracing::info!(group = self.group.0, reason, "damaged rows were replaced meanwhile");
            return;
        }
        self.lose_rows(now, reason, effects);
    }

    /// The rows are damaged. Whoever waits is sent elsewhere, and the group's leader sends new
    /// ones. Without other replicas nobody could: what can be read is served.
    fn lose_rows(&mut self, now: &Now, reason: &str, effects: &mut Effects) {
        if !self.has_others() {
            tracing::error!(group = self.group.0, reason, "rows are damaged and have no replica");
            return;
        }
        if self.rows_lost || self.suspect {
            return;
        }
        tracing::error!(group = self.group.0, reason, "rows are damaged: they will be replaced");
        self.rows_lost = true;
        self.frozen = None;
        effects.observed.push(Observed::RowsLost);
        self.answer_all(&Refusal::Damaged, effects);
        self.raft.step(now.time, raft::Event::RowsLost);
    }
}
