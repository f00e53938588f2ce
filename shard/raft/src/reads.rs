//! Linearizable reads by ReadIndex: a read is served at the commit index of a leader that was
//! certainly still the leader after the read was asked.
//!
//! Reads asked in one turn share a round: the leader notes its commit index, raises its round
//! number and sends it with a heartbeat; answers of a quorum to that round or a later one prove
//! that no other leader had committed anything further when the read was asked. Ids are never
//! reused, and an answer names its round, so a late answer to an earlier heartbeat confirms
//! nothing that came after it.

use std::collections::VecDeque;

use flotilla_mutation::{Mutation, planted};

use crate::types::{Index, ReadId, Round};

#[derive(Default)]
pub(crate) struct Reads {
    /// Asked since the last turn, or before anything of this term was committed.
    waiting: Vec<ReadId>,
    /// Waiting for a quorum to answer the round. Rounds and indexes grow.
    confirming: VecDeque<(Round, Index, ReadId)>,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.confirming.len()
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn add(&mut self, id: ReadId) {
        self.waiting.push(id);
    }

    /// Gives the waiting reads a round and an index.
    pub(crate) fn begin_round(&mut self, round: Round, index: Index) {
        self.confirming.extend(self.waiting.drain(..).map(|id| (round, index, id)));
    }

    /// Takes the next read whose round a quorum has answered.
    pub(crate) fn confirmed(&mut self, round: Round) -> Option<(ReadId, Index)> {
        match self.confirming.front() {
            Some((asked, ..))
                if *asked <= round
                    || (planted(Mutation::CountStaleRound) && asked.0 <= round.0 + 1) =>
            {
                self.confirming.pop_front().map(|(_, index, id)| (id, index))
            }
            _ => None,
        }
    }

    /// All reads that were not confirmed, oldest first.
    pub(crate) fn into_unconfirmed(self) -> impl Iterator<Item = ReadId> {
        self.confirming.into_iter().map(|(.., id)| id).chain(self.waiting)
    }
}
