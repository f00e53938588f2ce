//! Counting votes and pre-votes.

use crate::{
    core::Core,
    node::{Ballot, Candidate, Node, PreCandidate},
    types::{ReplicaId, Term},
};

/// What the answers so far amount to.
pub(crate) enum Verdict {
    /// More answers are needed.
    Open,
    /// A quorum granted.
    Won,
    /// A quorum cannot be reached any more.
    Lost,
}

fn verdict(core: &Core, ballot: &Ballot) -> Verdict {
    if ballot.is_won(core) {
        Verdict::Won
    } else if ballot.is_lost(core) {
        Verdict::Lost
    } else {
        Verdict::Open
    }
}

impl Node<PreCandidate> {
    /// Takes an answer. A grant names the term that was asked for; a refusal, the voter's own.
    pub(crate) fn vote(&mut self, from: ReplicaId, term: Term, granted: bool) {
        if !granted || term == self.core.term().next() {
            self.role.ballot.record(from, granted);
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        verdict(&self.core, &self.role.ballot)
    }
}

impl Node<Candidate> {
    pub(crate) fn vote(&mut self, from: ReplicaId, granted: bool) {
        self.role.ballot.record(from, granted);
    }

    /// The own vote counts like any other: once it is durable.
    pub(crate) fn count_own_vote(&mut self) {
        if self.core.persistence.is_hard_state_durable() {
            let id = self.core.id();
            self.role.ballot.record(id, true);
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        verdict(&self.core, &self.role.ballot)
    }
}
