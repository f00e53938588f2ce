//! What a replica keeps whatever its role: identity, term and vote, the log, what is durable,
//! committed and applied, and the effects that wait for the next `ready`.
//!
//! Invariants:
//!
//! * `base <= applied <= commit <= last`.
//! * `vote` changes only from none to somebody, or to none when `term` grows.
//! * Nothing at or below `commit` is ever truncated.
//!
//! What is absent: leaders, followers and elections. The role modules decide; this one records.

use std::time::Duration;

use flotilla_mutation::{Mutation, planted};

use crate::{
    fetching::Fetching,
    install::Rows,
    log::Log,
    membership::Voters,
    message::Message,
    options::{Options, Restored},
    persistence::{Needs, Persistence},
    random::Random,
    ready::{Envelope, Persist, ReadOutcome, RoleChange},
    rounds::Rounds,
    types::{Entry, HardState, Index, Position, ReadId, ReplicaId, Role, Term, Time},
};

pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) voters: Voters,
    pub(crate) random: Random,
    pub(crate) log: Log,
    pub(crate) persistence: Persistence,
    pub(crate) fetching: Fetching,
    pub(crate) outbox: Vec<Envelope>,
    pub(crate) outcomes: Vec<ReadOutcome>,
    /// Followers for which a snapshot is asked for in the next `ready`.
    pub(crate) snapshots: Vec<ReplicaId>,
    pub(crate) rows: Rows,
    /// This replica may campaign, as far as the shell says.
    pub(crate) may_lead: bool,
    /// Another replica should rather lead, as far as the shell says.
    pub(crate) reluctant: bool,
    /// Something happened since the last `ready`.
    pub(crate) stirred: bool,
    /// What the last `ready` said.
    pub(crate) reported: RoleChange,
    pub(crate) violations: u64,
    term: Term,
    vote: Option<ReplicaId>,
    commit: Index,
    applied: Index,
    /// Nothing is handed out for applying, nor read from the journal for it.
    pub(crate) apply_paused: bool,
    reads_issued: ReadId,
    /// When this replica answered its leader.
    pub(crate) rounds: Rounds,
    /// It helps no candidate before this, itself included.
    pub(crate) promised_until: Time,
    /// Bytes of the log's tail kept in memory.
    pub(crate) cache_bytes_max: usize,
}

impl Core {
    pub(crate) fn new(mut options: Options, mut restored: Restored, now: Time) -> Self {
        let found = restored.clone();
        if let Err(error) = restored.validate() {
            assert!(options.suspect, "this replica must be opened as suspect: {error}");
            restored = salvage(restored);
        }
        options.suspect &= !planted(Mutation::SuspectVotes);
        assert!(options.id.0 != 0, "replica ids start at 1");
        let HardState { term, vote, commit, installing } = restored.hard_state;
        // Rows that are lost say nothing; everything up to the base was applied once.
        let lost = restored.needs_snapshot;
        let applied = if lost { restored.base.index } else { restored.applied };
        // What a suspect's log holds between applied and commit is not to be believed.
        let commit = if options.suspect { applied } else { commit.max(applied) };
        let mut persistence = Persistence::new(restored.last_index);
        if installing.is_some() && !options.suspect {
            // Whether the swap took place or not, it is over.
            persistence.hard_state_changed();
        }
        let mut core = Self {
            voters: Voters::new(options.voters.clone()),
            random: Random::new(options.seed ^ options.id.0.rotate_left(32)),
            log: Log::new(restored.base, restored.term_starts, restored.last_index),
            persistence,
            fetching: Fetching::default(),
            outbox: Vec::new(),
            outcomes: Vec::new(),
            stirred: true,
            reported: RoleChange { role: Role::Follower, term, leader: None },
            violations: 0,
            term,
            vote,
            commit,
            applied,
            snapshots: Vec::new(),
            rows: Rows::new(lost),
            may_lead: options.may_lead,
            reluctant: false,
            apply_paused: false,
            reads_issued: ReadId(0),
            rounds: Rounds::default(),
            promised_until: Time(0),
            cache_bytes_max: options.limits.cache_bytes_max,
            options,
        };
        core.promise_again(&found, now);
        core
    }

    pub(crate) fn id(&self) -> ReplicaId {
        self.options.id
    }

    pub(crate) fn term(&self) -> Term {
        self.term
    }

    pub(crate) fn vote(&self) -> Option<ReplicaId> {
        self.vote
    }

    pub(crate) fn commit(&self) -> Index {
        self.commit
    }

    pub(crate) fn applied(&self) -> Index {
        self.applied
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persistence.persisted()
    }

    pub(crate) fn is_voter(&self) -> bool {
        self.voters.contains(self.id())
    }

    /// Moves to a higher term, in which nobody has this replica's vote yet.
    pub(crate) fn adopt_term(&mut self, term: Term) {
        assert!(term > self.term, "term goes from {} to {term}", self.term);
        self.term = term;
        self.vote = None;
        // A suspect promises nothing, so it has nothing to remember.
        if !self.options.suspect {
            self.persistence.hard_state_changed();
        }
    }

    /// Forgets whom the vote of this term went to: a planted bug.
    pub(crate) fn forget_vote(&mut self) {
        self.vote = None;
    }

    /// Gives this term's vote to `candidate`. `wished`: the leader of the term before wishes so.
    pub(crate) fn cast_vote(&mut self, now: Time, candidate: ReplicaId, wished: bool) {
        assert!(!self.options.suspect, "a suspect votes");
        if self.vote != Some(candidate) {
            assert!(wished || !self.has_promised(now), "a vote against a promise");
            assert_eq!(self.vote, None, "a second vote in term {}", self.term);
            self.vote = Some(candidate);
            self.persistence.hard_state_changed();
        }
    }

    /// Learns that everything up to `index` is committed.
    pub(crate) fn commit_to(&mut self, index: Index) {
        if index > self.commit {
            assert!(index <= self.log.last().index, "committed beyond the end of the log");
            self.commit = index;
        }
    }

    /// Removes every entry from `from` on, because a leader has another one there.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.commit, "truncating a committed entry");
        self.log.truncate(from);
        self.persistence.truncate(from);
    }

    /// Forgets entries up to `to`, but none that was not handed out for applying or is not
    /// durable, and nothing while a snapshot takes the place of the rows: the log must go on from
    /// there.
    pub(crate) fn compact(&mut self, to: Index) {
        if self.rows.are_usable() {
            self.log.compact(to.min(self.applied).min(self.persisted()));
        }
    }

    /// The state machine now holds everything up to `index`, and nothing else.
    pub(crate) fn restart_apply(&mut self, index: Index) {
        assert!(self.log.base().index <= index && index <= self.commit, "rows without their log");
        self.applied = index;
    }

    /// True if this replica may ask for votes.
    pub(crate) fn may_campaign(&self) -> bool {
        self.is_voter()
            && !self.options.suspect
            && self.may_lead
            && self.rows.are_usable()
            && self.term < Term::MAX
    }

    /// True if this replica takes the leadership from one that wants to be rid of it, and can.
    pub(crate) fn would_take_over(&self, now: Time) -> bool {
        let longest = self.options.election_timeout.min(self.options.disk_stall_max);
        self.may_campaign() && !self.reluctant && !self.is_disk_stalled(now, longest)
    }

    /// Sends a message once what it needs is durable.
    pub(crate) fn send(&mut self, to: ReplicaId, message: Message, needs: Needs) {
        let last = self.log.last().index;
        self.persistence.send(Envelope { to, message }, needs, last, &mut self.outbox);
    }

    /// Sends a message that depends on no write of this replica that is not durable already.
    pub(crate) fn send_now(&mut self, to: ReplicaId, message: Message) {
        self.outbox.push(Envelope { to, message });
    }

    /// Answers a request for a vote; true if the vote was given. `follows` says that this replica
    /// knows a leader of its term.
    pub(crate) fn answer_vote_request(
        &mut self,
        now: Time,
        from: ReplicaId,
        request: VoteRequest,
        follows: bool,
    ) -> bool {
        let VoteRequest { term, pre, transfer, last } = request;
        let free = self.vote == Some(from) || (self.vote.is_none() && !follows);
        let may = free || (pre && term > self.term);
        let granted = may && last.is_up_to_date_with(self.log.last());
        if granted && !pre {
            self.cast_vote(now, from, transfer);
        }
        let term = if granted && pre { term } else { self.term };
        let vote = Message::Vote { term, pre, granted };
        if planted(Mutation::AnswerVoteBeforeDurable) {
            self.send_now(from, vote);
        } else {
            self.send(from, vote, Needs::HardState);
        }
        granted && !pre
    }

    /// Hands out everything that is not being written yet.
    pub(crate) fn take_persist(&mut self, now: Time) -> Option<Persist> {
        let changed = self.persistence.is_hard_state_changed();
        let (from, last) = (self.persistence.unsaved(), self.log.last().index);
        if !changed && from > last {
            return None;
        }
        let reset = self.rows.reset.take();
        assert!(changed || reset.is_none(), "an emptied log without the end of its intent");
        let hard_state = changed.then_some(HardState {
            term: self.term,
            vote: self.vote,
            commit: self.commit,
            installing: self.rows.installing(),
        });
        let entries = if from > last {
            Vec::new()
        } else {
            self.log.read(from, last, usize::MAX, usize::MAX, true)
        };
        assert_eq!(entries.len() as u64, last.0 + 1 - from.0, "an unsaved entry left the cache");
        let ticket = self.persistence.begin_write(last, now);
        Some(Persist { ticket, reset, hard_state, entries })
    }

    /// Hands out committed entries that are in memory.
    pub(crate) fn take_apply(&mut self) -> Vec<Entry> {
        if !self.is_apply_behind() {
            return Vec::new();
        }
        let bytes_max = self.options.limits.apply_bytes_max;
        let to = self.applies_to();
        let entries = self.log.read(self.applied.next(), to, usize::MAX, bytes_max, true);
        if let Some(entry) = entries.last() {
            self.applied = entry.index;
        }
        entries
    }

    /// True if committed entries wait to be handed out, and somebody takes them.
    pub(crate) fn is_apply_behind(&self) -> bool {
        !self.apply_paused && self.applied < self.applies_to() && self.rows.are_usable()
    }

    /// The last entry that may be handed out for applying.
    fn applies_to(&self) -> Index {
        if planted(Mutation::ApplyBeyondCommit) { self.log.last().index } else { self.commit }
    }

    /// Shrinks the cached tail to its limit. What is not durable or not committed stays: nobody
    /// else may have it.
    pub(crate) fn evict(&mut self) {
        let safe = self.commit.min(self.persisted());
        self.log.evict(safe, self.cache_bytes_max);
    }

    /// A read id that was never given before.
    pub(crate) fn next_read_id(&mut self) -> ReadId {
        if !planted(Mutation::ReuseReadId) {
            self.reads_issued.0 += 1;
        }
        self.reads_issued
    }

    /// True if a write has been under way for longer than `longest`: this replica can promise
    /// nothing, so it does not campaign, and leads only while nobody else would.
    pub(crate) fn is_disk_stalled(&self, now: Time, longest: Duration) -> bool {
        self.persistence.oldest_write().is_some_and(|since| now.since(since) > longest)
    }

    /// When to give up waiting for a leader, or for votes.
    pub(crate) fn draw_deadline(&mut self, now: Time) -> Time {
        if self.options.suspect || !self.is_voter() {
            return Time::NEVER;
        }
        // Who is reluctant lets all others go first.
        let shortest = self.options.election_timeout * if self.reluctant { 2 } else { 1 };
        now + self.random.timeout(shortest)
    }
}

/// The fields of [`Message::RequestVote`].
#[derive(Clone, Copy)]
pub(crate) struct VoteRequest {
    pub(crate) term: Term,
    pub(crate) pre: bool,
    pub(crate) transfer: bool,
    pub(crate) last: Position,
}

/// What can be kept of a log that contradicts itself: where the state machine is.
fn salvage(restored: Restored) -> Restored {
    let rows = if restored.needs_snapshot { Index(0) } else { restored.applied };
    let index = rows.max(restored.base.index).min(Index::MAX);
    let base = Position { index, term: restored.base.term };
    let hard_state = HardState { commit: index, ..restored.hard_state };
    Restored { hard_state, ..restored }.restarted_at(base)
}
