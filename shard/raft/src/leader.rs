//! Leading: proposals, answers from followers, commit, and the checks by which a leader notices
//! that it should not lead any more. What is sent to whom is in `replicate`.

use std::time::Duration;

use bytes::Bytes;
use flotilla_mutation::{Mutation, planted};

use crate::{
    core::Core,
    error::{ProposeError, ReadError},
    lease::SentRounds,
    message::{AppendOutcome, Message},
    node::{Candidate, Leave, Node},
    progress::{Feed, Progress},
    reads::Reads,
    ready::ReadOutcome,
    transfer::Transfer,
    types::{Entry, Index, Position, ReadId, ReplicaId, Role, Round, Time},
};

/// Leads its term.
pub(crate) struct Leader {
    /// The other voters, in id order.
    pub(crate) followers: Vec<Progress>,
    /// The empty entry with which this term began: nothing is committed or read before it is.
    pub(crate) term_start: Index,
    /// When the next regular heartbeat is due, and with it the look at whether to go on leading.
    pub(crate) heartbeat_at: Time,
    /// The latest heartbeat round.
    pub(crate) round: Round,
    /// When it was sent, and those before it.
    pub(crate) sent: SentRounds,
    /// A quorum helps nobody else into office before this.
    pub(crate) lease_until: Time,
    pub(crate) reads: Reads,
    /// Bytes of this term's proposals that are not committed.
    pub(crate) uncommitted_bytes: usize,
    pub(crate) transfer: Option<Transfer>,
    /// Somebody was asked to take over, and may do so whenever that arrives.
    pub(crate) asked_to_take_over: bool,
    /// This leader must leave, and steps down at this time.
    pub(crate) leave_at: Option<Time>,
}

impl Leave for Leader {
    const ROLE: Role = Role::Leader;

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn leave(self, core: &mut Core, leader: Option<ReplicaId>) {
        // Nobody may wait for a confirmation that cannot come.
        let refused = self
            .reads
            .into_unconfirmed()
            .map(|id| ReadOutcome { id, result: Err(ReadError::NotLeader { leader }) });
        core.outcomes.extend(refused);
        core.log.drop_window();
    }
}

impl Node<Candidate> {
    /// Leads, with the votes of a quorum. Opens the term with an empty entry: entries of earlier
    /// terms are only committed through one of this term (Raft paper, 5.4.2).
    pub(crate) fn into_leader(self, now: Time) -> Node<Leader> {
        let Self { mut core, role } = self;
        assert!(role.ballot.is_won(&core), "leader without a quorum");
        assert_eq!(core.vote(), Some(core.id()), "leader did not vote for itself");
        assert!(core.persistence.is_hard_state_durable(), "leader could forget its vote");

        let next = core.log.last().index.next();
        let id = core.id();
        let others = core.voters.ids().iter().copied().filter(|voter| *voter != id);
        let followers = others.map(|voter| Progress::new(voter, next, now)).collect();
        let entry = Entry { index: next, term: core.term(), payload: Bytes::new() };
        let mut uncommitted_bytes = 0;
        if !planted(Mutation::SkipEmptyEntry) {
            uncommitted_bytes = entry.bytes();
            core.log.append(entry);
        }
        core.log.drop_window();
        let role = Leader {
            followers,
            term_start: next,
            heartbeat_at: now + core.options.heartbeat_interval,
            round: Round(1),
            sent: SentRounds::default(),
            lease_until: Time(0),
            reads: Reads::default(),
            uncommitted_bytes,
            transfer: None,
            asked_to_take_over: false,
            leave_at: None,
        };
        let mut node = Node { core, role };
        node.renew_lease();
        node
    }
}

impl Node<Leader> {
    pub(crate) fn propose(&mut self, payload: Bytes) -> Result<Position, ProposeError> {
        if let Some(transfer) = &self.role.transfer {
            // The target needs the whole log, so the log must not grow.
            return Err(ProposeError::NotLeader { leader: Some(transfer.to) });
        }
        let core = &mut self.core;
        let limits = &core.options.limits;
        if payload.is_empty() {
            return Err(ProposeError::Empty);
        }
        if payload.len() > limits.entry_bytes_max {
            let bytes_max = limits.entry_bytes_max;
            return Err(ProposeError::TooLarge { bytes: payload.len(), bytes_max });
        }
        let last = core.log.last().index;
        let entry = Entry { index: last.next(), term: core.term(), payload };
        // Beyond the cache limit the tail holds only what is not committed or not durable here,
        // so its size also bounds what waits for a slow disk of this leader.
        let waits = core.commit().min(core.persisted()) < last;
        let uncommitted = self.role.uncommitted_bytes + entry.bytes();
        let tail = core.log.tail_bytes() + entry.bytes();
        let tail_max = limits.cache_bytes_max.saturating_add(limits.uncommitted_bytes_max);
        if waits && (uncommitted > limits.uncommitted_bytes_max || tail > tail_max) {
            return Err(ProposeError::Busy);
        }
        self.role.uncommitted_bytes = uncommitted;
        let position = entry.position();
        core.log.append(entry);
        Ok(position)
    }

    pub(crate) fn read(&mut self) -> Result<ReadId, ReadError> {
        if self.role.reads.len() >= self.core.options.limits.reads_pending_max {
            return Err(ReadError::Busy);
        }
        let id = self.core.next_read_id();
        self.role.reads.add(id);
        Ok(id)
    }

    /// Position of a follower in `followers`.
    fn find(&self, id: ReplicaId) -> usize {
        let found = self.role.followers.binary_search_by_key(&id, |follower| follower.id);
        found.expect("messages of others than voters are dropped")
    }

    pub(crate) fn append_reply(&mut self, now: Time, from: ReplicaId, outcome: AppendOutcome) {
        let at = self.find(from);
        let follower = &mut self.role.followers[at];
        follower.heard_at = now;
        match outcome {
            AppendOutcome::Accepted { matched } => self.acknowledged(at, matched),
            AppendOutcome::Rejected { prev, hint, first } => {
                if first > hint.index || hint.index > prev || prev > self.core.log.last().index {
                    self.core.violations += 1;
                    return;
                }
                if !follower.is_refusal_current(prev) {
                    return;
                }
                let base = self.core.log.base().index;
                if prev <= base {
                    // Not even the oldest position that this leader can name.
                    follower.lose(base);
                } else {
                    let agreed = agreement(&self.core, prev, hint, first);
                    follower.probe_after(agreed.max(base), None);
                }
            }
        }
    }

    pub(crate) fn heartbeat_reply(
        &mut self,
        now: Time,
        from: ReplicaId,
        round: Round,
        matched: Index,
        received: Index,
        wishes: Wishes,
    ) {
        if round > self.role.round || received > self.core.log.last().index || matched > received {
            self.core.violations += 1;
            return;
        }
        let at = self.find(from);
        let follower = &mut self.role.followers[at];
        follower.heard_at = now;
        follower.round = follower.round.max(round);
        follower.may_lead = wishes.may_lead;
        follower.wants_snapshot = wishes.wants_snapshot;
        let patience = self.core.options.heartbeat_interval;
        follower.alive(received, self.core.log.base().index, now, patience);
        self.acknowledged(at, matched);
        self.extend_lease(at, round, wishes.promise);
        self.confirm_reads();
    }

    fn acknowledged(&mut self, at: usize, matched: Index) {
        if matched > self.core.log.last().index {
            // Never sent, so never received: the follower is confused, the leader is not.
            self.core.violations += 1;
            return;
        }
        let base = self.core.log.base().index;
        if self.role.followers[at].acknowledge(matched, base) {
            self.advance_commit();
        }
    }

    /// Commits what a quorum has durably, if it is of this term. This leader's own disk is one
    /// voter among others.
    pub(crate) fn advance_commit(&mut self) {
        let core = &mut self.core;
        let own = core.is_voter().then(|| core.persisted());
        let matched = self.role.followers.iter().map(Progress::matched).chain(own);
        let reached = core.voters.quorum_value(matched);
        let is_own = core.log.term_at(reached) == Some(core.term())
            || planted(Mutation::CountOldTermEntries);
        if reached <= core.commit() || !is_own {
            return;
        }
        let mut index = core.commit().next().max(self.role.term_start);
        while index <= reached {
            let entry = core.log.cached(index).expect("uncommitted entries stay cached");
            self.role.uncommitted_bytes -= entry.bytes();
            index = index.next();
        }
        core.commit_to(reached);
    }

    /// Answers the reads whose round a quorum has answered.
    fn confirm_reads(&mut self) {
        let own = self.core.is_voter().then_some(self.role.round);
        let rounds = self.role.followers.iter().map(|follower| follower.round).chain(own);
        let reached = self.core.voters.quorum_value(rounds);
        while let Some((id, index)) = self.role.reads.confirmed(reached) {
            self.core.outcomes.push(ReadOutcome { id, result: Ok(index) });
        }
    }

    /// True if an entry of this term is committed: before that, the commit index may lag behind what
    /// an earlier leader committed.
    pub(crate) fn knows_commit(&self) -> bool {
        self.core.commit() >= self.role.term_start || planted(Mutation::SkipEmptyEntry)
    }

    /// Gives the waiting reads a round of their own, once it is known what was committed.
    pub(crate) fn begin_reads(&mut self, now: Time) {
        if !self.role.reads.is_waiting() || !self.knows_commit() {
            return;
        }
        self.begin_round(now);
        self.role.reads.begin_round(self.role.round, self.core.commit());
        self.confirm_reads();
    }

    /// Sends a heartbeat of a new round to every follower: no two carry the same round, so that an
    /// answer names the one that it answers. When the next regular one is due stays as it is: the
    /// leader looks then whether it should still lead, and reads must not put that off.
    pub(crate) fn begin_round(&mut self, now: Time) {
        self.role.round.0 += 1;
        self.role.sent.send(self.role.round, now, self.core.options.election_timeout);
        let core = &mut self.core;
        let (term, round) = (core.term(), self.role.round);
        for follower in &mut self.role.followers {
            let commit = core.commit();
            follower.commit_told = follower.commit_told.max(commit.min(follower.matched()));
            let answered = follower.round;
            core.send_now(follower.id, Message::Heartbeat { term, commit, round, answered });
        }
    }

    /// True if this leader has not heard from a quorum for an election timeout.
    pub(crate) fn is_cut_off(&self, now: Time) -> bool {
        let core = &self.core;
        if !core.options.check_quorum || core.voters.quorum() == 1 {
            return false;
        }
        let own = core.is_voter().then_some(now);
        let heard = self.role.followers.iter().map(|follower| follower.heard_at).chain(own);
        let quorum_heard_at = core.voters.quorum_value(heard);
        now.since(quorum_heard_at) >= core.options.election_timeout
    }

    /// The follower stands on a snapshot that ends at `position`: the log goes on from there.
    pub(crate) fn snapshot_sent(&mut self, id: ReplicaId, position: Position) {
        let last = self.core.log.last().index;
        if let Ok(at) = self.role.followers.binary_search_by_key(&id, |follower| follower.id) {
            self.role.followers[at].snapshot_sent(position.index.min(last));
        }
    }

    pub(crate) fn snapshot_failed(&mut self, now: Time, id: ReplicaId) {
        let pause = self.core.options.election_timeout;
        if let Ok(at) = self.role.followers.binary_search_by_key(&id, |follower| follower.id) {
            self.role.followers[at].snapshot_failed(now + pause);
        }
    }

    pub(crate) fn unreachable(&mut self, now: Time, id: ReplicaId) {
        let Ok(at) = self.role.followers.binary_search_by_key(&id, |follower| follower.id) else {
            return;
        };
        let follower = &mut self.role.followers[at];
        if follower.feed() != Feed::Snapshot {
            // The probe waits for the answer to a heartbeat: sending it into the same broken
            // connection would only be reported again.
            follower.probe_after(follower.matched(), Some(now));
        }
    }
}

/// What a follower says of itself when it answers a heartbeat.
#[derive(Clone, Copy)]
pub(crate) struct Wishes {
    pub(crate) wants_snapshot: bool,
    pub(crate) may_lead: bool,
    pub(crate) promise: Duration,
}

/// The highest index at which a follower that refused `prev` can agree with this leader's log,
/// given the hint of its refusal. Every refusal rules out a whole term of one of the two logs.
fn agreement(core: &Core, prev: Index, hint: Position, first: Index) -> Index {
    let found = core.log.last_at_or_before(hint.index, hint.term);
    let agreed = if found.term == hint.term && found.index >= first {
        found.index
    } else {
        // From `first` to the hint the follower has a term that this log has nowhere there.
        found.index.min(first.previous())
    };
    agreed.min(prev.previous())
}
