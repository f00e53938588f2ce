//! What changes for a replica when the leadership does, and how it is handed over.
//!
//! Invariants:
//!
//! * A new leader proposes nothing for clients before it has applied its log as it was at the
//!   election: only then does it know up to which moment its predecessors may have read, and
//!   stamps no write before it.
//! * A proposal that is in flight when the leadership goes away is answered when its index is
//!   applied, or at its deadline.
//!
//! What is absent: who should lead (nodes and operators decide), and elections (Raft's).

use super::Replica;
use crate::descriptor::NodeId;
use crate::effects::{Effects, Now, Observed};
use flotilla_raft::{self as raft};

impl Replica {
    pub(super) fn role_changed(&mut self, change: &raft::RoleChange, effects: &mut Effects) {
        let leads = change.role == raft::Role::Leader;
        let index = self.raft.last().index;
        self.settled_at = leads.then_some(raft::Position { index, term: change.term });
        self.expiring.restart();
        self.pending.orphan();
        self.stop_sending(effects);
        if change.leader.is_some() {
            effects.observed.push(Observed::LeaderChange);
        }
    }

    /// True unless this replica leads and does not know yet what happened before. A leadership that
    /// was won in this turn counts: its first turn has not said yet where the past ends.
    pub(super) fn is_settled(&self) -> bool {
        if self.raft.role() != raft::Role::Leader {
            return true;
        }
        let applied = self.applying.applied().index;
        self.settled_at.is_some_and(|at| at.term == self.raft.term() && at.index <= applied)
    }

    /// Hands over, to the replica on `to` or to whichever can follow best, if this replica leads.
    pub(super) fn transfer(&mut self, now: &Now, to: Option<NodeId>) {
        let replica = to.and_then(|node| self.machine.descriptor().replica_on(node));
        if to.is_some() && replica.is_none() {
            tracing::warn!(group = self.group.0, ?to, "no replica there could take the leadership");
            return;
        }
        if self.raft.role() == raft::Role::Leader && replica != Some(self.id) && self.has_others() {
            self.raft.step(now.time, raft::Event::Transfer { to: replica });
        }
    }

    /// Whether this node may lead. A group without other replicas is led in any case: nobody else
    /// could.
    pub(super) fn may_lead(&mut self, now: &Now, may_lead: bool) {
        if self.has_others() {
            self.raft.step(now.time, raft::Event::MayLead(may_lead));
        }
    }
}
