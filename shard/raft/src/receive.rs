//! What every role does with a message: judge whether it makes sense, compare its term, and hand
//! it to the role that it concerns.
//!
//! Rules of terms: a higher one turns the receiver into a follower, a lower one is answered with
//! the present one. Two messages name a term that has not begun and are exempt: a pre-vote request
//! and a granted answer to it. A replica that hears its leader does not listen to candidates; with
//! leases that is a promise, which outlives the leader and the term.

use std::time::Duration;

use crate::{
    core::VoteRequest,
    follower::{Append, Heartbeat},
    leader::Wishes,
    message::{AppendOutcome, Message},
    node::{Follower, Node},
    persistence::Needs,
    raft::{Raft, State},
    types::{Index, Position, ReplicaId, Round, Time},
};

impl Raft {
    pub(crate) fn receive(&mut self, now: Time, from: ReplicaId, message: Message) {
        let core = self.core_mut();
        if from == core.id() || !core.voters.contains(from) || !message.is_well_formed() {
            core.violations += 1;
            return;
        }
        if core.options.suspect {
            self.overhear(now, from, &message);
            return;
        }
        let term = message.term();
        if let Message::RequestVote { pre, transfer, .. } = message
            && (pre || !transfer)
            && term >= core.term()
            && core.has_promised(now)
        {
            return;
        }
        if term > core.term() {
            match message {
                Message::RequestVote { pre, transfer, .. }
                    if (pre || !transfer) && self.is_content(now) =>
                {
                    return;
                }
                // Neither asking nor being told what could be is a term that has begun.
                Message::RequestVote { pre: true, .. } => {}
                Message::Vote { pre: true, granted: true, .. } => {}
                Message::Append { .. } | Message::Heartbeat { .. } => {
                    self.follow(now, term, Some(from));
                }
                _ => self.follow(now, term, None),
            }
        } else if term < core.term() {
            self.answer_late(from, &message);
            return;
        }
        self.dispatch(now, from, message);
    }

    /// True if this replica knows that its term has a working leader, so that candidates are not
    /// listened to: they would only disturb it.
    fn is_content(&self, now: Time) -> bool {
        self.core().options.check_quorum
            && match &self.state {
                State::Follower(node) => node.has_live_leader(now),
                State::Leader(_) => true,
                _ => false,
            }
    }

    /// Answers a message of a term that is over with the present one, so that its sender, leader
    /// or candidate, learns of it.
    fn answer_late(&mut self, from: ReplicaId, message: &Message) {
        let core = self.core_mut();
        let term = core.term();
        let reply = match *message {
            Message::RequestVote { pre, .. } => Message::Vote { term, pre, granted: false },
            Message::Append { prev, .. } => Message::AppendReply {
                term,
                outcome: AppendOutcome::Rejected {
                    prev: prev.index,
                    hint: Position::default(),
                    first: Index(0),
                },
            },
            // Not the round that was asked: the old leader may lead this term by the time the
            // answer arrives, and would take it for an answer to a round of this term.
            Message::Heartbeat { .. } => Message::HeartbeatReply {
                term,
                round: Round(0),
                matched: Index(0),
                received: Index(0),
                wants_snapshot: false,
                may_lead: true,
                promise: Duration::ZERO,
            },
            _ => return,
        };
        core.send(from, reply, Needs::HardState);
    }

    /// A message of this term, or a pre-vote for a later one.
    fn dispatch(&mut self, now: Time, from: ReplicaId, message: Message) {
        match message {
            Message::RequestVote { term, pre, transfer, last } => {
                let follows = self.leader().is_some();
                let request = VoteRequest { term, pre, transfer, last };
                if self.core_mut().answer_vote_request(now, from, request, follows) {
                    self.voted(now);
                }
            }
            Message::Vote { term, pre, granted } => {
                match &mut self.state {
                    State::PreCandidate(node) if pre => node.vote(from, term, granted),
                    State::Candidate(node) if !pre => node.vote(from, granted),
                    _ => {}
                }
                self.count_votes(now);
            }
            Message::Append { prev, commit, entries, .. } => {
                if let Some(node) = self.follower_of(now, from) {
                    node.append(now, from, Append { prev, commit, entries });
                }
            }
            Message::Heartbeat { commit, round, answered, .. } => {
                if let Some(node) = self.follower_of(now, from) {
                    node.heartbeat(now, from, Heartbeat { commit, round, answered });
                }
            }
            Message::AppendReply { outcome, .. } => {
                if let State::Leader(node) = &mut self.state {
                    node.append_reply(now, from, outcome);
                }
            }
            Message::TimeoutNow { .. } => self.timeout_now(now, from),
            Message::HeartbeatReply {
                round,
                matched,
                received,
                wants_snapshot,
                may_lead,
                promise,
                ..
            } => {
                if let State::Leader(node) = &mut self.state {
                    let wishes = Wishes { wants_snapshot, may_lead, promise };
                    node.heartbeat_reply(now, from, round, matched, received, wishes);
                }
            }
        }
    }

    /// The leader hands over to this replica. Only the leader of this very term can: a late message
    /// of an earlier one was answered before.
    fn timeout_now(&mut self, now: Time, from: ReplicaId) {
        match &self.state {
            State::Follower(node) if node.role.leader.is_none_or(|leader| leader == from) => {
                self.take_over(now);
            }
            State::Candidate(_) | State::PreCandidate(_) => {}
            _ => self.core_mut().violations += 1,
        }
    }

    /// This replica has just given its vote: it waits a full timeout for the winner.
    fn voted(&mut self, now: Time) {
        if !matches!(self.state, State::Follower(_)) {
            self.follow(now, self.core().term(), None);
        }
        let deadline = self.core_mut().draw_deadline(now);
        if let State::Follower(node) = &mut self.state {
            node.role.deadline = deadline;
        }
    }

    /// The leader of this term speaks: whoever campaigned in it follows. `None` if this replica
    /// leads the term itself, which no correct peer can contradict.
    fn follower_of(&mut self, now: Time, leader: ReplicaId) -> Option<&mut Node<Follower>> {
        match &self.state {
            State::Leader(_) => self.core_mut().violations += 1,
            State::Follower(_) => {}
            _ => self.follow(now, self.core().term(), Some(leader)),
        }
        match &mut self.state {
            State::Follower(node) => Some(node),
            _ => None,
        }
    }

    /// A suspect only notes who leads.
    fn overhear(&mut self, now: Time, from: ReplicaId, message: &Message) {
        let term = message.term();
        let leads = matches!(message, Message::Append { .. } | Message::Heartbeat { .. });
        if leads
            && (term > self.core().term()
                || (term == self.core().term() && self.leader().is_none()))
        {
            self.follow(now, term, Some(from));
        }
    }
}
