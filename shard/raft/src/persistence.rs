//! Which writes are under way, what is durable, and which messages wait for it.
//!
//! Every write has a ticket; the journal completes tickets in order. A message that promises
//! something (a vote, an acknowledgement) waits for the ticket of the write that holds the
//! promise, not for an index and term: the same position can be written twice with other content
//! in between, and a completion of the first must not speak for the second.
//!
//! For the same reason `persisted`, the index up to which the log **as it is now** is durable, is
//! clamped by every truncation, together with what each write under way will prove: a completion
//! counts for what is still there and for nothing else.
//!
//! Invariants: `persisted < unsaved`; tickets in `writes` grow, and so do the indexes they prove.

use std::collections::VecDeque;

use flotilla_mutation::{Mutation, planted};

use crate::{
    message::{AppendOutcome, Message},
    ready::Envelope,
    types::{Index, Ticket, Time},
};

/// What a message needs to be durable before it may leave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Term and vote.
    HardState,
    /// Term, vote and everything in the log.
    Log,
}

struct Write {
    ticket: Ticket,
    /// The log is durable up to here once this write and those before it are.
    proves: Index,
    submitted_at: Time,
}

pub(crate) struct Persistence {
    issued: Ticket,
    completed: Ticket,
    /// Term or vote changed since the last write was handed out.
    hard_state_changed: bool,
    /// The last write that held the hard state.
    hard_state_ticket: Ticket,
    /// First entry that was not handed out for writing.
    unsaved: Index,
    persisted: Index,
    writes: VecDeque<Write>,
    held: Vec<(Ticket, Envelope)>,
}

impl Persistence {
    /// Everything up to `last` is durable.
    pub(crate) fn new(last: Index) -> Self {
        Self {
            issued: Ticket(0),
            completed: Ticket(0),
            hard_state_changed: false,
            hard_state_ticket: Ticket(0),
            unsaved: last.next(),
            persisted: last,
            writes: VecDeque::new(),
            held: Vec::new(),
        }
    }

    pub(crate) fn persisted(&self) -> Index {
        self.persisted
    }

    /// First entry that was not handed out for writing.
    pub(crate) fn unsaved(&self) -> Index {
        self.unsaved
    }

    pub(crate) fn hard_state_changed(&mut self) {
        self.hard_state_changed = true;
    }

    pub(crate) fn is_hard_state_changed(&self) -> bool {
        self.hard_state_changed
    }

    /// Term and vote, as they are now, are durable.
    pub(crate) fn is_hard_state_durable(&self) -> bool {
        !self.hard_state_changed && self.hard_state_ticket <= self.completed
    }

    /// When the oldest write under way was handed out.
    pub(crate) fn oldest_write(&self) -> Option<Time> {
        self.writes.front().map(|write| write.submitted_at)
    }

    /// The log lost everything from `from` on.
    pub(crate) fn truncate(&mut self, from: Index) {
        let kept = from.previous();
        self.unsaved = self.unsaved.min(from);
        self.persisted = self.persisted.min(kept);
        if planted(Mutation::CountStalePersistence) {
            return;
        }
        for write in self.writes.iter_mut().rev() {
            if write.proves <= kept {
                break;
            }
            write.proves = kept;
        }
    }

    /// The log was replaced by an empty one that begins after `base`, and everything up to there is
    /// durable in another place. What is being written belongs to the old log.
    pub(crate) fn reset(&mut self, base: Index) {
        self.unsaved = base.next();
        self.persisted = base;
        for write in &mut self.writes {
            write.proves = base;
        }
    }

    /// Everything up to `base` is durable in another place; the log goes on after it.
    pub(crate) fn advance(&mut self, base: Index) {
        self.unsaved = self.unsaved.max(base.next());
        self.persisted = self.persisted.max(base);
        for write in &mut self.writes {
            write.proves = write.proves.max(base);
        }
    }

    /// Starts a write of everything up to `last`, and of the hard state if it changed.
    pub(crate) fn begin_write(&mut self, last: Index, now: Time) -> Ticket {
        self.issued.0 += 1;
        self.unsaved = last.next();
        if self.hard_state_changed {
            self.hard_state_changed = false;
            self.hard_state_ticket = self.issued;
        }
        self.writes.push_back(Write { ticket: self.issued, proves: last, submitted_at: now });
        self.issued
    }

    /// The write `ticket` and all before it are durable: moves the messages that waited for them
    /// to `outbox`.
    ///
    /// # Panics
    ///
    /// If that ticket was never handed out: the shell mixed up replicas or incarnations.
    pub(crate) fn complete(&mut self, ticket: Ticket, outbox: &mut Vec<Envelope>) {
        assert!(ticket <= self.issued, "ticket {ticket} was never handed out");
        if ticket <= self.completed {
            return;
        }
        self.completed = ticket;
        while self.writes.front().is_some_and(|write| write.ticket <= ticket) {
            let write = self.writes.pop_front().expect("just seen");
            assert!(write.proves >= self.persisted, "a completed write proves less than before");
            self.persisted = write.proves;
            if planted(Mutation::CountStalePersistence) {
                self.persisted = self.persisted.min(self.unsaved.previous());
            }
        }
        assert!(self.persisted < self.unsaved, "durable before it was written");
        outbox.extend(
            self.held.extract_if(.., |(needed, _)| *needed <= ticket).map(|(_, message)| message),
        );
    }

    /// Sends `envelope` as soon as what it needs is durable: at once, or when the write completes.
    pub(crate) fn send(
        &mut self,
        envelope: Envelope,
        needs: Needs,
        last: Index,
        outbox: &mut Vec<Envelope>,
    ) {
        let changed = match needs {
            Needs::HardState => self.hard_state_changed,
            Needs::Log => self.hard_state_changed || self.unsaved <= last,
        };
        let ticket = match needs {
            _ if changed && planted(Mutation::ReleaseOnOlderTicket) => self.issued,
            _ if changed => Ticket(self.issued.0 + 1),
            Needs::HardState => self.hard_state_ticket,
            Needs::Log => self.issued,
        };
        if ticket <= self.completed {
            outbox.push(envelope);
            return;
        }
        // A later answer of the same kind that waits for the same write says all that the earlier
        // one said. So a hung disk holds a few messages per write, however often peers repeat
        // theirs.
        let earlier = self.held.iter_mut().rev().take(HELD_SCAN_MAX).find(|(held, other)| {
            *held == ticket
                && other.to == envelope.to
                && supersedes(&envelope.message, &other.message)
        });
        match earlier {
            Some((_, other)) => *other = envelope,
            None => self.held.push((ticket, envelope)),
        }
    }
}

/// How many held messages are looked at for one that the new one supersedes. Those of the current
/// write are the newest, and few.
const HELD_SCAN_MAX: usize = 64;

/// True if a receiver of `newer` learns nothing more from `older`.
fn supersedes(newer: &Message, older: &Message) -> bool {
    if newer.term() != older.term() {
        return false;
    }
    match (newer, older) {
        (
            Message::AppendReply { outcome: AppendOutcome::Accepted { matched: newer }, .. },
            Message::AppendReply { outcome: AppendOutcome::Accepted { matched: older }, .. },
        ) => newer >= older,
        (
            Message::HeartbeatReply { round: newer, .. },
            Message::HeartbeatReply { round: older, .. },
        ) => newer >= older,
        _ => newer == older,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ReplicaId, Round, Term};

    fn accepted(matched: u64) -> Envelope {
        let outcome = AppendOutcome::Accepted { matched: Index(matched) };
        let message = Message::AppendReply { term: Term(1), outcome };
        Envelope { to: ReplicaId(2), message }
    }

    fn write(persistence: &mut Persistence, last: u64) -> Ticket {
        persistence.begin_write(Index(last), Time(0))
    }

    fn complete(persistence: &mut Persistence, ticket: Ticket) -> Vec<Envelope> {
        let mut outbox = Vec::new();
        persistence.complete(ticket, &mut outbox);
        outbox
    }

    #[test]
    fn overwritten_content_never_counts() {
        let mut persistence = Persistence::new(Index(10));
        let first = write(&mut persistence, 20);
        persistence.truncate(Index(15));
        let second = write(&mut persistence, 20);
        complete(&mut persistence, first);
        assert_eq!(persistence.persisted(), Index(14), "15 to 20 are other entries now");
        complete(&mut persistence, second);
        assert_eq!(persistence.persisted(), Index(20));
    }

    #[test]
    fn truncation_takes_back_what_was_durable() {
        let mut persistence = Persistence::new(Index(10));
        persistence.truncate(Index(8));
        assert_eq!(persistence.persisted(), Index(7));
        let ticket = write(&mut persistence, 9);
        complete(&mut persistence, ticket);
        assert_eq!(persistence.persisted(), Index(9));
    }

    /// A snapshot took the place of the log: what is still being written of it proves nothing.
    #[test]
    fn writes_of_a_log_that_is_gone_count_for_nothing() {
        let mut persistence = Persistence::new(Index(10));
        let old = write(&mut persistence, 60);
        persistence.reset(Index(50));
        assert_eq!((persistence.persisted(), persistence.unsaved()), (Index(50), Index(51)));
        complete(&mut persistence, old);
        assert_eq!(persistence.persisted(), Index(50), "51 to 60 are gone");
        let new = write(&mut persistence, 60);
        complete(&mut persistence, new);
        assert_eq!(persistence.persisted(), Index(60));
    }

    /// A snapshot covers the log up to its end: what follows is as durable as before.
    #[test]
    fn a_snapshot_never_takes_durability_back() {
        for (installed, durable) in [(5, 10), (15, 15), (20, 20)] {
            let mut persistence = Persistence::new(Index(10));
            let ticket = write(&mut persistence, 20);
            persistence.advance(Index(installed));
            assert_eq!(persistence.persisted(), Index(durable));
            assert_eq!(persistence.unsaved(), Index(21));
            complete(&mut persistence, ticket);
            assert_eq!(persistence.persisted(), Index(20));
        }
    }

    #[test]
    fn a_later_ticket_stands_for_all_earlier_ones() {
        let mut persistence = Persistence::new(Index(0));
        write(&mut persistence, 1);
        write(&mut persistence, 2);
        let last = write(&mut persistence, 3);
        complete(&mut persistence, last);
        assert_eq!(persistence.persisted(), Index(3));
        assert_eq!(complete(&mut persistence, Ticket(1)), [], "an old report changes nothing");
    }

    #[test]
    #[should_panic(expected = "never handed out")]
    fn an_unknown_ticket_is_a_broken_shell() {
        complete(&mut Persistence::new(Index(0)), Ticket(1));
    }

    #[test]
    fn messages_wait_for_the_write_they_need() {
        let mut persistence = Persistence::new(Index(0));
        let mut outbox = Vec::new();
        persistence.send(accepted(0), Needs::Log, Index(0), &mut outbox);
        assert_eq!(outbox.len(), 1, "nothing is being written");
        persistence.send(accepted(1), Needs::Log, Index(1), &mut outbox);
        persistence.send(accepted(0), Needs::HardState, Index(1), &mut outbox);
        assert_eq!(outbox.len(), 2, "the hard state is durable, entry 1 is not");
        let ticket = write(&mut persistence, 1);
        assert_eq!(complete(&mut persistence, ticket), [accepted(1)]);
    }

    /// A hung disk and a peer that repeats itself must not fill the memory.
    #[test]
    fn repeated_answers_are_held_once() {
        let mut persistence = Persistence::new(Index(0));
        let mut outbox = Vec::new();
        persistence.hard_state_changed();
        for round in 1..1000 {
            persistence.send(accepted(round), Needs::Log, Index(1000), &mut outbox);
            let message = Message::HeartbeatReply {
                term: Term(1),
                round: Round(round),
                matched: Index(0),
                received: Index(0),
                wants_snapshot: false,
                may_lead: true,
                promise: std::time::Duration::ZERO,
            };
            let reply = Envelope { to: ReplicaId(2), message };
            persistence.send(reply, Needs::HardState, Index(1000), &mut outbox);
        }
        let ticket = write(&mut persistence, 1000);
        let released = complete(&mut persistence, ticket);
        assert_eq!(released.len(), 2);
        assert_eq!(released[0], accepted(999));
    }
}
