//! Linearizable reads on their way: batched into rounds, confirmed by Raft, served once applied.
//!
//! A read that a lease vouches for waits at most until its index is applied. All others that reach
//! a replica in one turn share one ReadIndex round. A round that Raft
//! confirmed at an index is served as soon as that index is applied, from what is applied then,
//! which can only be newer.
//!
//! What is absent: where rows lie, and how Raft confirms.

use crate::budget::Permit;
use crate::request::{Operation, Reply};
use flotilla_mutation::{Mutation, planted};
use flotilla_raft::{Index, ReadId};
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

/// A read and who waits for it.
#[derive(Debug)]
pub struct ReadRequest {
    /// What to read; never a write.
    pub operation: Operation,
    /// Where the answer goes.
    pub reply: Reply,
    /// When to stop waiting.
    pub deadline: Instant,
    /// When the request entered the node.
    pub entered: Instant,
    /// Its bytes at the door.
    pub permit: Permit,
}

/// Reads by how far they have come.
#[derive(Debug, Default)]
pub struct Reads {
    /// Arrived in this turn.
    arrived: Vec<ReadRequest>,
    /// Wait for Raft to confirm their round.
    asked: BTreeMap<ReadId, Vec<ReadRequest>>,
    /// Confirmed, wait for their index to be applied; indexes ascend.
    confirmed: VecDeque<(Index, Vec<ReadRequest>)>,
    /// No deadline is earlier than this.
    deadline_min: Option<Instant>,
}

impl Reads {
    /// A read has arrived.
    pub fn arrive(&mut self, read: ReadRequest) {
        self.mind(read.deadline);
        self.arrived.push(read);
    }

    /// A read has arrived that needs no round: it may be served when `index` is applied.
    pub fn wait_for(&mut self, index: Index, read: ReadRequest) {
        self.mind(read.deadline);
        match self.confirmed.back_mut() {
            Some((last, reads)) if *last >= index => reads.push(read),
            _ => self.confirmed.push_back((index, vec![read])),
        }
    }

    fn mind(&mut self, deadline: Instant) {
        self.deadline_min = Some(self.deadline_min.map_or(deadline, |min| min.min(deadline)));
    }

    /// True when reads have arrived since the last round was asked for.
    pub fn has_arrived(&self) -> bool {
        !self.arrived.is_empty()
    }

    /// The reads that arrived share the round `id` from now on.
    pub fn ask(&mut self, id: ReadId) {
        let arrived = std::mem::take(&mut self.arrived);
        self.asked.insert(id, arrived);
    }

    /// Takes out the reads that arrived since the last round, to be refused.
    pub fn take_arrived(&mut self) -> Vec<ReadRequest> {
        std::mem::take(&mut self.arrived)
    }

    /// The round `id` is confirmed at `index`. Says how many reads it had.
    pub fn confirm(&mut self, id: ReadId, index: Index) -> u64 {
        let Some(reads) = self.asked.remove(&id) else { return 0 };
        let count = reads.len() as u64;
        let index = self.confirmed.back().map_or(index, |(last, _)| index.max(*last));
        self.confirmed.push_back((index, reads));
        count
    }

    /// Takes out the reads of a round that Raft refused.
    pub fn refuse(&mut self, id: ReadId) -> Vec<ReadRequest> {
        self.asked.remove(&id).unwrap_or_default()
    }

    /// True if [`Reads::ready`] would give any.
    pub fn is_ready(&self, applied: Index) -> bool {
        let is_met = |index| index <= applied || planted(Mutation::ReadBeforeApplied);
        self.confirmed.front().is_some_and(|(index, _)| is_met(*index))
    }

    /// Takes out reads that may be served now that everything up to `applied` is applied.
    pub fn ready(&mut self, applied: Index) -> Option<Vec<ReadRequest>> {
        if self.is_ready(applied) {
            return self.confirmed.pop_front().map(|(_, reads)| reads);
        }
        None
    }

    /// Hands every read whose deadline is at or before `now` to `expired`. Cheap while no deadline
    /// has passed.
    pub fn expire(&mut self, now: Instant, mut expired: impl FnMut(ReadRequest)) {
        if self.deadline_min.is_none_or(|min| min > now) {
            return;
        }
        let confirmed = self.confirmed.iter_mut().map(|(_, reads)| reads);
        let mut deadline_min: Option<Instant> = None;
        for reads in confirmed.chain(self.asked.values_mut()).chain([&mut self.arrived]) {
            for read in reads.extract_if(.., |read| read.deadline <= now) {
                expired(read);
            }
            let earliest = reads.iter().map(|read| read.deadline).min();
            deadline_min = deadline_min.into_iter().chain(earliest).min();
        }
        self.deadline_min = deadline_min;
    }

    /// True when nobody waits.
    pub fn is_empty(&self) -> bool {
        self.arrived.is_empty() && self.asked.is_empty() && self.confirmed.is_empty()
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> Vec<ReadRequest> {
        let asked = std::mem::take(&mut self.asked).into_values().flatten();
        let confirmed = std::mem::take(&mut self.confirmed).into_iter().flat_map(|(_, r)| r);
        self.deadline_min = None;
        std::mem::take(&mut self.arrived).into_iter().chain(asked).chain(confirmed).collect()
    }
}
