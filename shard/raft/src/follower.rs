//! What a follower does with its leader's messages.
//!
//! The leader's entries are compared with the log one by one and the log is cut only at the first
//! real difference: an old append that arrives late must not remove what a newer one brought.
//! `received` is as far as this leader's messages have proven the logs to agree; the commit index
//! follows the leader's only that far.

use flotilla_mutation::{Mutation, planted};

use crate::{
    core::Core,
    message::{AppendOutcome, Message},
    node::{Follower, Node},
    persistence::Needs,
    types::{Entry, Index, Position, ReplicaId, Round, Time},
};

/// The fields of [`Message::Append`] beside the term.
pub(crate) struct Append {
    pub(crate) prev: Position,
    pub(crate) commit: Index,
    pub(crate) entries: Vec<Entry>,
}

/// The fields of [`Message::Heartbeat`] beside the term.
pub(crate) struct Heartbeat {
    pub(crate) commit: Index,
    pub(crate) round: Round,
    pub(crate) answered: Round,
}

impl Node<Follower> {
    /// Hears from the leader of its term. False if there is another one, which no correct cluster
    /// has.
    fn hear(&mut self, now: Time, leader: ReplicaId) -> bool {
        if self.role.leader.is_some_and(|known| known != leader) {
            self.core.violations += 1;
            return false;
        }
        self.role.leader = Some(leader);
        self.role.heard_at = Some(now);
        self.role.deadline = self.core.draw_deadline(now);
        self.core.make_promise(now);
        true
    }

    /// The leader says what is committed, whether this replica has it or not.
    fn told(&mut self, commit: Index) {
        self.role.told = self.role.told.max(commit);
    }

    /// A complete snapshot lies ready.
    pub(crate) fn snapshot_received(&mut self, position: Position) {
        if self.wants_snapshot_at(position) {
            self.core.begin_install(position);
        }
    }

    pub(crate) fn wants_snapshot_at(&self, position: Position) -> bool {
        self.core.wants_snapshot_at(position, self.role.told)
    }

    /// True if the leader spoke so recently that candidates are not listened to.
    pub(crate) fn has_live_leader(&self, now: Time) -> bool {
        let timeout = self.core.options.election_timeout;
        self.role.leader.is_some()
            && self.role.heard_at.is_some_and(|heard_at| now.since(heard_at) < timeout)
    }

    pub(crate) fn heartbeat(&mut self, now: Time, from: ReplicaId, heartbeat: Heartbeat) {
        if !self.hear(now, from) {
            return;
        }
        let Heartbeat { commit, round, answered } = heartbeat;
        self.told(commit);
        let term = self.core.term();
        self.core.rounds.heard(term, answered, commit);
        let core = &mut self.core;
        let received = self.role.received;
        core.commit_to(commit.min(received));
        if round != Round(0) {
            let matched = received.min(core.persisted());
            core.rounds.answer(term, round, now);
            let reply = Message::HeartbeatReply {
                term,
                round,
                matched,
                received,
                wants_snapshot: core.rows.lost && core.rows.installing().is_none(),
                may_lead: core.would_take_over(now),
                promise: core.promise(),
            };
            core.send(from, reply, Needs::HardState);
        }
    }

    pub(crate) fn append(&mut self, now: Time, from: ReplicaId, append: Append) {
        if !self.hear(now, from) {
            return;
        }
        let Append { prev, commit, entries } = append;
        self.told(commit);
        let core = &mut self.core;
        let last = Index(prev.index.0 + entries.len() as u64);
        // Before the base everything is committed, so this leader has it too.
        let is_below =
            prev.index < core.log.base().index && !planted(Mutation::CompactedPrevIsConflict);
        let agrees = is_below || core.log.term_at(prev.index) == Some(prev.term);
        let outcome = if agrees {
            if take_entries(core, entries).is_err() {
                core.violations += 1;
                return;
            }
            self.role.received = self.role.received.max(last);
            core.commit_to(commit.min(self.role.received));
            AppendOutcome::Accepted { matched: self.role.received }
        } else {
            if prev.index <= core.commit() && !planted(Mutation::CompactedPrevIsConflict) {
                core.violations += 1;
                return;
            }
            let hint = core.log.last_at_or_before(prev.index, prev.term);
            let first = core.log.run_start(hint.index);
            AppendOutcome::Rejected { prev: prev.index, hint, first }
        };
        let needs = match outcome {
            AppendOutcome::Accepted { .. } if planted(Mutation::AcknowledgeUnsynced) => {
                Needs::HardState
            }
            AppendOutcome::Accepted { .. } => Needs::Log,
            AppendOutcome::Rejected { .. } => Needs::HardState,
        };
        let term = core.term();
        core.send(from, Message::AppendReply { term, outcome }, needs);
    }
}

/// A leader's entry differs from a committed one.
struct Contradiction;

/// Makes the log agree with `entries`, whose predecessor it has. What is there already stays.
fn take_entries(core: &mut Core, entries: Vec<Entry>) -> Result<(), Contradiction> {
    let base = core.log.base().index;
    let mut last = core.log.last().index;
    if planted(Mutation::TruncateWithoutConflict)
        && let Some(first) = entries.first()
    {
        let from = first.index.max(core.commit().next());
        core.truncate(from);
        last = last.min(from.previous());
    }
    for entry in entries {
        if entry.index <= base {
            continue;
        }
        if entry.index <= last {
            if core.log.term_at(entry.index) == Some(entry.term) {
                continue;
            }
            if entry.index <= core.commit() {
                return Err(Contradiction);
            }
            core.truncate(entry.index);
        }
        last = entry.index;
        core.log.append(entry);
    }
    Ok(())
}
