//! A follower whose slow disk still writes what a new leader has overwritten since.

use bytes::Bytes;
use flotilla_shard::raft::{
    Entry, Event, HardState, Index, Message, Position, Raft, ReplicaId, Restored, Round, Term,
    Ticket, Time,
};

use super::super::super::judges::{Group, Judges, Replica, Violation};
use super::trio;

const GROUP: Group = Group(1);
const FOLLOWER: Replica = Replica(3);
const NOW: Time = Time(1);

/// Replica 3, its disk, and who watches.
struct Follower {
    raft: Raft,
    judges: Judges,
    /// What is being written.
    writes: Vec<(Ticket, Option<HardState>)>,
}

impl Follower {
    fn hears(&mut self, from: u64, message: Message) {
        self.judges.term(GROUP, FOLLOWER, message.term().0);
        self.step(Event::Receive { from: ReplicaId(from), message });
    }

    /// The disk holds the write `ticket` and all before it.
    fn has_written(&mut self, ticket: Ticket) {
        self.judges.synced(GROUP, FOLLOWER, ticket.0);
        for (_, state) in self.writes.extract_if(.., |(written, _)| *written <= ticket) {
            if let Some(state) = state {
                let vote = state.vote.map(|vote| vote.0);
                self.judges.hard_state(GROUP, FOLLOWER, state.term.0, vote);
            }
        }
        self.step(Event::Persisted(ticket));
    }

    fn step(&mut self, event: Event) {
        self.raft.step(NOW, event);
        let ready = self.raft.ready(NOW);
        if let Some(persist) = ready.persist {
            for entry in &persist.entries {
                let (index, term) = (entry.index.0, entry.term.0);
                self.judges.entry(GROUP, FOLLOWER, index, term, 1000 * term + index);
            }
            self.judges.wrote(GROUP, FOLLOWER, persist.ticket.0);
            self.writes.push((persist.ticket, persist.hard_state));
        }
        for envelope in ready.messages {
            if let Message::HeartbeatReply { term, matched, .. } = envelope.message {
                self.judges.acknowledged(GROUP, FOLLOWER, term.0, matched.0);
            }
        }
    }

    /// What is being written last.
    fn last_write(&self) -> Ticket {
        self.writes.last().expect("something is being written").0
    }
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from_static(b"command");
    Entry { index: Index(index), term: Term(term), payload }
}

fn heartbeat(round: u64) -> Message {
    let (round, answered) = (Round(round), Round(0));
    Message::Heartbeat { term: Term(2), commit: Index(0), round, answered }
}

/// What is durable of entries that are gone says nothing about those in their place.
///
/// # Errors
///
/// If it counts for them.
pub fn while_being_written() -> Result<(), Violation> {
    let raft = Raft::new(trio::options(3, None), Restored::default(), NOW);
    let mut follower = Follower { raft, judges: Judges::new(), writes: Vec::new() };
    let commit = Index(0);
    let entries = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    follower
        .hears(1, Message::Append { term: Term(1), prev: Position::default(), commit, entries });
    // The next leader is heard of while that is being written, and this write goes with it.
    follower.hears(2, heartbeat(1));
    let both = follower.last_write();
    let entries = vec![entry(2, 2), entry(3, 2)];
    follower
        .hears(2, Message::Append { term: Term(2), prev: Position::new(1, 1), commit, entries });
    follower.has_written(both);
    follower.hears(2, heartbeat(2));
    follower.judges.verdict()
}
