//! A follower that loses power right after a snapshot took the place of its rows.

use flotilla_shard::raft::{
    Event, HardState, Index, Message, Position, Raft, Ready, ReplicaId, Restored, Round, Term, Time,
};

use super::super::super::judges::{self, Group, Judges, Reopened, Replica, Violation};
use super::trio;

const GROUP: Group = Group(1);
const FOLLOWER: Replica = Replica(3);
const NOW: Time = Time(1);

/// A turn; what it writes is durable only if `is_durable`.
fn turn(raft: &mut Raft, disk: &mut HardState, is_durable: bool) -> Ready {
    let ready = raft.ready(NOW);
    if let Some(persist) = &ready.persist
        && is_durable
    {
        *disk = persist.hard_state.unwrap_or(*disk);
        raft.step(NOW, Event::Persisted(persist.ticket));
    }
    ready
}

/// What the disk holds says that a snapshot was to be swapped in, so that a log that lacks what the
/// rows contain is no loss.
///
/// # Errors
///
/// If the replica must take itself for damaged although its disk kept everything.
pub fn power_loss_after_the_swap() -> Result<(), Violation> {
    let mut raft = Raft::new(trio::options(3, None), Restored::default(), NOW);
    let mut disk = HardState::default();
    let rows = Position::new(5, 1);
    let (term, round, answered) = (Term(1), Round(1), Round(0));
    let message = Message::Heartbeat { term, commit: rows.index, round, answered };
    raft.step(NOW, Event::Receive { from: ReplicaId(1), message });
    turn(&mut raft, &mut disk, true);
    raft.step(NOW, Event::SnapshotReceived(rows));
    // The disk is slow; the rows are swapped as soon as they may be.
    let mut ready = turn(&mut raft, &mut disk, false);
    if ready.install.is_none() {
        let persist = ready.persist.as_ref().expect("the intent is written");
        disk = persist.hard_state.expect("it is in the hard state");
        raft.step(NOW, Event::Persisted(persist.ticket));
        ready = turn(&mut raft, &mut disk, true);
    }
    assert_eq!(ready.install, Some(rows), "the snapshot is to be swapped in");
    // The power fails: the rows are there, and of the log what was durable.
    let mut restored = Restored { hard_state: disk, applied: rows.index, ..Restored::default() };
    restored.resume_after_swap(rows);
    let suspect = restored.validate().is_err();
    let HardState { term, vote, .. } = restored.hard_state;
    let Position { index: Index(index), term: Term(base_term) } = restored.base;
    let base = judges::Position::new(index, base_term);
    let mut judges = Judges::new();
    let found = Reopened {
        term: term.0,
        vote: vote.map(|vote| vote.0),
        base,
        entries: &[],
        suspect,
        damaged: false,
    };
    judges.reopened(GROUP, FOLLOWER, &found);
    judges.verdict()
}
