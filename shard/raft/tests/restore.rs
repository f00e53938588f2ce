//! What a replica may be born with, above all after a crash in the middle of an install; and what
//! it tells its shell.

use std::time::Duration;

use flotilla_raft::{
    Entry, Event, HardState, Index, Limits, Message, Options, Position, Raft, ReplicaId,
    RestoreError, Restored, Role, Round, Term, Time,
};

/// A log of terms 1 1 2 2 2 above a base at 4@1, with its rows at 6.
fn restored() -> Restored {
    Restored {
        hard_state: HardState { term: Term(3), commit: Index(6), ..HardState::default() },
        base: Position::new(4, 1),
        term_starts: vec![Position::new(5, 1), Position::new(7, 2)],
        last_index: Index(9),
        applied: Index(6),
        needs_snapshot: false,
    }
}

fn options() -> Options {
    Options {
        id: ReplicaId(1),
        voters: [1, 2, 3].map(ReplicaId).to_vec(),
        election_timeout: Duration::from_millis(100),
        heartbeat_interval: Duration::from_millis(20),
        seed: 1,
        suspect: false,
        pre_vote: true,
        check_quorum: true,
        disk_stall_max: Duration::from_secs(1),
        may_lead: true,
        leases: None,
        limits: Limits::default(),
    }
}

fn receive(message: Message) -> Event {
    Event::Receive { from: ReplicaId(2), message }
}

fn heartbeat(term: u64, commit: u64) -> Event {
    asking(term, commit, 1, 0)
}

fn asking(term: u64, commit: u64, round: u64, answered: u64) -> Event {
    let (round, answered) = (Round(round), Round(answered));
    receive(Message::Heartbeat { term: Term(term), commit: Index(commit), round, answered })
}

#[test]
fn terms_of_a_restored_log() {
    let restored = restored();
    restored.validate().unwrap();
    let terms: Vec<_> = (3..=10).map(|index| restored.term_at(Index(index))).collect();
    let known = [None, Some(1), Some(1), Some(1), Some(2), Some(2), Some(2), None];
    assert_eq!(terms, known.map(|term| term.map(Term)));
}

#[test]
fn lost_rows_may_end_anywhere() {
    for applied in [0, 3, 4, 9, 50] {
        let lost = Restored { applied: Index(applied), needs_snapshot: true, ..restored() };
        lost.validate().unwrap();
        let raft = Raft::new(options(), lost, Time(0));
        let status = raft.status();
        assert!(status.needs_snapshot && raft.needs_snapshot());
        assert_eq!((status.applied, status.commit), (Index(4), Index(6)));
    }
}

#[test]
fn rows_that_are_trusted_must_meet_the_log() {
    let at = |applied| Restored { applied: Index(applied), ..restored() }.validate();
    assert!(matches!(at(3), Err(RestoreError::Gap { .. })));
    assert!(matches!(at(10), Err(RestoreError::LogTooShort { what: "the applied index", .. })));
    assert_eq!(at(4), Ok(()));
    assert_eq!(at(9), Ok(()));
}

/// The rows end where the intent says: the swap took place. Only a log that does not hold that
/// entry begins anew.
#[test]
fn a_swap_that_the_log_missed_is_made_good() {
    let crashed = |intent: Option<Position>| {
        let mut restored = restored();
        restored.hard_state.installing = intent;
        restored
    };
    for rows in [Position::new(20, 3), Position::new(8, 3), Position::new(9, 1)] {
        let mut restored = crashed(Some(rows));
        assert!(restored.resume_after_swap(rows));
        assert_eq!(
            (restored.base, restored.last_index, restored.applied),
            (rows, rows.index, rows.index)
        );
        assert!(restored.term_starts.is_empty());
        restored.validate().unwrap();
        let status = Raft::new(options(), restored, Time(0)).status();
        assert_eq!((status.last, status.commit, status.applied), (rows, rows.index, rows.index));
    }
    let kept = Position::new(8, 2);
    for (intent, rows) in [
        (Some(kept), kept),
        // The swap did not take place.
        (Some(Position::new(20, 3)), Position::new(6, 1)),
        // An intent excuses only the very rows that it names.
        (Some(Position::new(20, 3)), Position::new(15, 3)),
        (Some(Position::new(20, 3)), Position::new(20, 2)),
        // From before the log begins: it holds acknowledged entries that the rows lack.
        (Some(Position::new(3, 1)), Position::new(3, 1)),
        // No swap: a log that lacks what the rows hold was lost, and nobody may hide that.
        (None, Position::new(20, 3)),
    ] {
        let mut restored = crashed(intent);
        let before = restored.clone();
        assert!(!restored.resume_after_swap(rows));
        assert_eq!(restored, before);
    }
}

/// An intent that a crash left behind is taken back with the first write.
#[test]
fn an_old_intent_ends() {
    let mut restored = restored();
    restored.hard_state.installing = Some(Position::new(20, 3));
    let mut raft = Raft::new(options(), restored, Time(0));
    assert_eq!(raft.installing(), None);
    let ready = raft.ready(Time(0));
    assert_eq!(ready.install, None);
    let state = ready.persist.and_then(|persist| persist.hard_state).unwrap();
    assert_eq!(state, HardState { installing: None, ..restored_state() });
}

fn restored_state() -> HardState {
    restored().hard_state
}

/// A suspect may not even say that a snapshot would help: what it acknowledged is forgotten.
#[test]
fn a_suspect_takes_no_snapshot() {
    let suspect = Options { suspect: true, ..options() };
    let mut raft = Raft::new(suspect, restored(), Time(0));
    raft.step(Time(1), heartbeat(4, 30));
    assert!(!raft.wants_snapshot_at(Position::new(20, 3)));
    let mut healthy = Raft::new(options(), restored(), Time(0));
    healthy.step(Time(1), heartbeat(4, 30));
    assert!(healthy.wants_snapshot_at(Position::new(20, 3)));
}

/// What a follower hears is the leader's commit index, not its own, and only of this term. It counts
/// from the answer that the leader had when it spoke, never from the arrival of its words.
#[test]
fn a_follower_hears_what_is_committed() {
    let mut raft = Raft::new(options(), restored(), Time(0));
    assert_eq!(raft.heard_commit(), None);
    raft.step(Time(5), asking(4, 30, 1, 0));
    assert_eq!(raft.heard_commit(), None, "it may have been under way for long");
    assert_eq!(raft.commit(), Index(6), "the log is not proven to agree");
    raft.step(Time(6), asking(4, 31, 2, 0));
    raft.step(Time(20), asking(4, 32, 3, 1));
    assert_eq!(raft.heard_commit(), Some((Time(5), Index(32))), "its answer to round 1");
    // One that asks nothing tells as much.
    raft.step(Time(21), asking(4, 33, 0, 2));
    assert_eq!(raft.heard_commit(), Some((Time(6), Index(33))));
    // The same heartbeat again, and one that was overtaken.
    raft.step(Time(90), asking(4, 32, 3, 1));
    assert_eq!(raft.heard_commit(), Some((Time(6), Index(33))));
    raft.step(Time(95), asking(4, 34, 4, 3));
    assert_eq!(raft.heard_commit(), Some((Time(20), Index(34))), "answered first at 20, not 90");
    // Answers that this replica knows nothing of, as if from before a restart.
    raft.step(Time(96), asking(4, 35, 5, 77));
    assert_eq!(raft.heard_commit(), Some((Time(20), Index(34))));
    raft.step(Time(97), receive(Message::Vote { term: Term(5), pre: false, granted: false }));
    assert_eq!((raft.role(), raft.heard_commit()), (Role::Follower, None));
    // The rounds of the next leader have the same numbers.
    raft.step(Time(98), asking(5, 40, 9, 3));
    assert_eq!(raft.heard_commit(), None, "round 3 of another term");
    raft.step(Time(99), asking(5, 40, 10, 9));
    assert_eq!(raft.heard_commit(), Some((Time(98), Index(40))));
}

#[test]
fn the_cache_shrinks_when_told() {
    let mut raft = Raft::new(options(), Restored::default(), Time(0));
    let entries: Vec<_> = (1..=10)
        .map(|index| Entry { index: Index(index), term: Term(1), payload: vec![0; 100].into() })
        .collect();
    let prev = Position::default();
    raft.step(Time(1), receive(Message::Append { term: Term(1), prev, commit: Index(8), entries }));
    let ticket = raft.ready(Time(1)).persist.unwrap().ticket;
    raft.limit_cache(0);
    assert_eq!(raft.cached_bytes(), 10 * 132, "nothing is durable yet");
    raft.step(Time(2), Event::Persisted(ticket));
    raft.ready(Time(2));
    assert_eq!(raft.cached_bytes(), 2 * 132, "what is not committed stays");
}
