//! Reads: who must be asked whether they are current, and when they are served.
//!
//! Invariants:
//!
//! * A linearizable read is served only after Raft vouched for the leadership since it arrived, and
//!   everything committed by then is applied.
//! * A lease is looked at with a clock that was read after the read had arrived, and the rows are
//!   read after that. Where the process is stopped in between does not matter: nothing that another
//!   leader commits later than the clock was read has to be seen, because then this read had begun.
//! * A read with a bound is served by a follower only if it has applied all that the leader had
//!   committed, by its own word, within that bound.
//! * Damaged rows answer nobody, unless there is no other replica that could.
//!
//! What is absent: rows (`serve`).

use super::Replica;
use crate::effects::{Effects, Now, Observed, answer, refuse};
use crate::reads::ReadRequest;
use crate::request::{Consistency, Refusal, Reply};
use crate::serve::{self, Served};
use flotilla_mutation::{Mutation, planted};
use flotilla_raft::{self as raft, Index, Time};
use std::collections::VecDeque;
use std::time::Duration;

/// Words of the leader that are remembered while they are not applied.
const WORDS_MAX: usize = 64;

/// A read that asks nobody.
pub(super) struct Unconfirmed {
    pub(super) read: ReadRequest,
    /// How old the rows may be; `None`: however old.
    pub(super) lag_max: Option<Duration>,
}

/// How current a follower is.
#[derive(Default)]
pub(super) struct Currency {
    /// What the leader said it had committed, and when; not applied here yet.
    words: VecDeque<(Time, Index)>,
    /// Everything that the leader had committed at this moment is applied.
    as_of: Option<Time>,
}

impl Currency {
    /// The leader said at `at` that it had committed everything through `commit`.
    pub(super) fn heard(&mut self, at: Time, commit: Index) {
        if self.words.len() < WORDS_MAX && self.words.back().is_none_or(|(last, _)| *last < at) {
            self.words.push_back((at, commit));
        }
    }

    /// Everything through `applied` is applied.
    pub(super) fn applied(&mut self, applied: Index) {
        while let Some((at, commit)) = self.words.front() {
            if *commit > applied {
                break;
            }
            self.as_of = Some(*at);
            self.words.pop_front();
        }
    }

    /// The rows were replaced, perhaps by older ones.
    pub(super) fn forget(&mut self) {
        *self = Currency::default();
    }

    fn is_within(&self, now: Time, lag_max: Duration) -> bool {
        self.as_of.is_some_and(|as_of| as_of + lag_max >= now)
    }
}

impl Replica {
    pub(super) fn read(
        &mut self,
        now: &Now,
        consistency: Consistency,
        read: ReadRequest,
        effects: &mut Effects,
    ) {
        let lag_max = match consistency {
            Consistency::Local => None,
            // A leader proves that it leads: its own word says nothing about itself.
            Consistency::Stale { max_lag } if self.raft.role() != raft::Role::Leader => {
                Some(max_lag)
            }
            Consistency::Linearizable | Consistency::Stale { .. } => {
                match self.raft.lease_read(now.time) {
                    Some(index) => self.read_by_lease(now, index, read, effects),
                    None => {
                        self.stirred = true;
                        self.reads.arrive(read);
                    }
                }
                return;
            }
        };
        self.stirred = true;
        self.unconfirmed.push(Unconfirmed { read, lag_max });
    }

    /// This replica leads for certain, and nothing beyond `index` was committed when the read arrived.
    fn read_by_lease(&mut self, now: &Now, index: Index, read: ReadRequest, effects: &mut Effects) {
        effects.reads_by_lease += 1;
        let is_applied = index <= self.applying.applied().index;
        if is_applied || planted(Mutation::ReadBeforeApplied) {
            let read_time_ms = self.read_time_ms(now);
            self.serve(now, read, read_time_ms, effects);
        } else {
            self.stirred = true;
            self.reads.wait_for(index, read);
        }
    }

    /// One round for all reads that have arrived.
    pub(super) fn ask_for_reads(&mut self, now: &Now, effects: &mut Effects) {
        if !self.reads.has_arrived() {
            return;
        }
        match self.raft.read(now.time) {
            Ok(id) => self.reads.ask(id),
            Err(error) => {
                for read in self.reads.take_arrived() {
                    let refusal = self.read_refusal(&error);
                    refuse(read.reply, read.permit, refusal, effects);
                }
            }
        }
    }

    pub(super) fn serve_reads(&mut self, now: &Now, effects: &mut Effects) {
        if self.is_replacing_rows() {
            // Those that asked nobody must not wait for rows that may take long to come.
            for Unconfirmed { read, .. } in std::mem::take(&mut self.unconfirmed) {
                refuse(read.reply, read.permit, Refusal::Damaged, effects);
            }
            return;
        }
        let applied = self.applying.applied().index;
        if self.raft.role() != raft::Role::Leader {
            if let Some((at, commit)) = self.raft.heard_commit() {
                self.currency.heard(at, commit);
            }
            self.currency.applied(applied);
        }
        if self.unconfirmed.is_empty() && !self.reads.is_ready(applied) {
            return;
        }
        let read_time_ms = self.read_time_ms(now);
        while let Some(reads) = self.reads.ready(applied) {
            for read in reads {
                self.serve(now, read, read_time_ms, effects);
            }
        }
        for Unconfirmed { read, lag_max } in std::mem::take(&mut self.unconfirmed) {
            if lag_max.is_none_or(|lag_max| self.currency.is_within(now.time, lag_max)) {
                self.serve(now, read, read_time_ms, effects);
            } else {
                let refusal = self.not_leader(self.raft.leader());
                refuse(read.reply, read.permit, refusal, effects);
            }
        }
    }

    fn serve(&self, now: &Now, read: ReadRequest, read_time_ms: u64, effects: &mut Effects) {
        match serve::serve(&self.machine, self.group, read, read_time_ms) {
            Served::Now { reply, entered, result } => {
                let total = now.instant - entered.min(now.instant);
                effects.observed.push(Observed::Read { total });
                answer(reply, result, effects);
            }
            Served::Cold(cold) => effects.cold_reads.push(cold),
        }
    }

    /// A row that was read for a client fails its checksum.
    pub(super) fn read_damaged(
        &mut self,
        now: &Now,
        generation: u64,
        reply: Reply,
        error: String,
        effects: &mut Effects,
    ) {
        if self.has_others() {
            self.rows_damaged(now, generation, &error, effects);
            answer(reply, Err(Refusal::Damaged), effects);
        } else {
            answer(reply, Err(Refusal::Corrupt(error)), effects);
        }
    }

    pub(super) fn read_refusal(&self, error: &raft::ReadError) -> Refusal {
        match error {
            raft::ReadError::NotLeader { leader } => self.not_leader(*leader),
            raft::ReadError::Busy => Refusal::Busy { retry_after: self.options.retry_after },
        }
    }
}
