//! Sessions one rule at a time: who is known, who is forgotten, and what is kept.

use crate::support::*;
use bytes::Bytes;
use flotilla_shard::sessions::{
    ANSWER_BYTES, ANSWERS_BYTES_MAX, SESSION_IDLE_MS, SESSIONS_MAX, SessionTable,
};
use flotilla_shard::*;

fn add(key: &str) -> Write {
    Write::Add { key: bytes(key), delta: 1 }
}

fn acknowledged() -> WriteOutcome {
    WriteOutcome::Failed(CommandFailure::Acknowledged)
}

fn born(session: u64, born_ms: u64, sequence: u64) -> Origin {
    Origin { session, session_born_ms: born_ms, sequence, lowest_unacknowledged: 1 }
}

fn table(fixture: &Fixture) -> SessionTable {
    fixture.machine.meta().sessions
}

#[test]
fn a_repeat_gets_the_first_answer_in_any_order() {
    let mut fixture = Fixture::new();
    for sequence in [3, 1, 2] {
        fixture.write_as(origin(5, sequence, 1), add("n"));
    }
    for (sequence, first) in [(1, 2), (2, 3), (3, 1), (1, 2)] {
        let answer = fixture.write_as(origin(5, sequence, 1), add("n"));
        assert_eq!(answer, WriteOutcome::Number(first));
    }
    assert_eq!(fixture.text("n").as_deref(), Some("3"));
}

#[test]
fn failures_are_answers_too() {
    let mut fixture = Fixture::new();
    fixture.set("n", "text", Expiry::Never);
    let failed = WriteOutcome::Failed(CommandFailure::NotAnInteger);
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("n")), failed);
    fixture.set("n", "1", Expiry::Never);
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("n")), failed, "the first answer");
    assert_eq!(fixture.text("n").as_deref(), Some("1"));
}

#[test]
fn without_a_session_every_copy_counts() {
    let mut fixture = Fixture::new();
    for expected in 1..=3 {
        let origin = Origin { session: 0, ..origin(0, 1, 1) };
        assert_eq!(fixture.write_as(origin, add("n")), WriteOutcome::Number(expected));
    }
    assert!(table(&fixture).is_empty());
}

/// The same write, sent again to where its key lives now, must take effect there.
#[test]
fn a_routing_refusal_is_never_recorded() {
    let mut fixture = Fixture::with_range(KeyRange { start: bytes("g"), end: None });
    let refused = WriteOutcome::Failed(CommandFailure::OutOfRange);
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("a")), refused);
    assert!(table(&fixture).is_empty(), "not even the session");
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("h")), WriteOutcome::Number(1));
    assert_eq!(fixture.write_as(origin(5, 2, 1), add("a")), refused);
    assert_eq!(fixture.write_as(origin(5, 2, 1), add("h")), WriteOutcome::Number(2));
}

/// The range may have changed since: what took effect here took effect.
#[test]
fn a_repeat_is_answered_before_its_key_is_looked_at() {
    let mut fixture = Fixture::with_range(KeyRange { start: bytes("g"), end: None });
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("h")), WriteOutcome::Number(1));
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("a")), WriteOutcome::Number(1));
}

#[test]
fn what_was_acknowledged_is_forgotten_and_never_applied_again() {
    let mut fixture = Fixture::new();
    for sequence in 1..=10 {
        fixture.write_as(origin(5, sequence, sequence.saturating_sub(2).max(1)), add("n"));
    }
    assert_eq!(table(&fixture).answers_bytes(), 3 * ANSWER_BYTES, "8, 9 and 10");
    for sequence in 1..8 {
        assert_eq!(fixture.write_as(origin(5, sequence, 1), add("n")), acknowledged());
    }
    assert_eq!(fixture.write_as(origin(5, 8, 1), add("n")), WriteOutcome::Number(8));
    // A sequence that its own command declares done.
    assert_eq!(fixture.write_as(origin(6, 3, 4), add("n")), acknowledged());
    assert_eq!(fixture.text("n").as_deref(), Some("10"));
}

#[test]
fn an_idle_session_is_forgotten_and_raises_the_watermark() {
    let mut fixture = Fixture::new();
    let old = fixture.now_ms;
    fixture.write_as(born(5, old, 1), add("n"));
    fixture.now_ms += SESSION_IDLE_MS / 2;
    let young = fixture.now_ms;
    fixture.write_as(born(6, young, 1), add("n"));
    fixture.now_ms += SESSION_IDLE_MS / 2 + 60_001;
    fixture.ceiling(0);
    assert_eq!(table(&fixture).len(), 1, "only the idle one went");
    assert_eq!(table(&fixture).watermark_ms(), old);
    let expired = WriteOutcome::Failed(CommandFailure::SessionExpired { watermark_ms: old });
    for (session, born_ms) in [(5, old), (7, old), (8, old - 1)] {
        assert_eq!(fixture.write_as(born(session, born_ms, 1), add("n")), expired);
    }
    // A repeat keeps a session in use; one born later is admitted.
    assert_eq!(fixture.write_as(born(6, young, 1), add("n")), WriteOutcome::Number(2));
    assert_eq!(fixture.write_as(born(9, old + 1, 1), add("n")), WriteOutcome::Number(3));
    fixture.now_ms += SESSION_IDLE_MS / 2;
    fixture.ceiling(0);
    assert_eq!(fixture.write_as(born(6, young, 1), add("n")), WriteOutcome::Number(2));
}

/// A name that a client uses again, later, is another session.
#[test]
fn a_name_may_be_used_again_with_a_later_birth() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.write_as(born(5, START_MS, 1), add("n")), WriteOutcome::Number(1));
    assert_eq!(fixture.write_as(born(5, START_MS + 1, 1), add("n")), WriteOutcome::Number(2));
    assert_eq!(fixture.write_as(born(5, START_MS, 1), add("n")), WriteOutcome::Number(1));
}

#[test]
fn sessions_are_bounded_by_count() {
    let mut fixture = Fixture::new();
    let total = SESSIONS_MAX as u64 + 1;
    for session in 1..=total {
        fixture.now_ms += 1;
        fixture.write_as(born(session, START_MS + session, 1), add("n"));
        assert!(table_len_at_most(&fixture, session));
    }
    let watermark_ms = table(&fixture).watermark_ms();
    assert!((START_MS + 1..START_MS + total).contains(&watermark_ms));
    // Everybody is answered as before, or told that nobody knows.
    for session in 1..=total {
        let answer = fixture.write_as(born(session, START_MS + session, 1), add("n"));
        if START_MS + session <= watermark_ms {
            let failure = CommandFailure::SessionExpired { watermark_ms };
            assert_eq!(answer, WriteOutcome::Failed(failure));
        } else {
            assert_eq!(answer, WriteOutcome::Number(session as i64));
        }
    }
    assert_eq!(fixture.text("n"), Some(total.to_string()));
}

fn table_len_at_most(fixture: &Fixture, session: u64) -> bool {
    // Cloning the table for every newcomer would take long.
    session < SESSIONS_MAX as u64 || table(fixture).len() <= SESSIONS_MAX
}

fn swap_in(value: Bytes) -> Write {
    Write::Put {
        key: bytes("big"),
        value,
        condition: Condition::Always,
        return_previous: true,
        expiry: Expiry::Never,
    }
}

#[test]
fn answers_are_bounded_by_bytes_and_their_writes_stay_known() {
    let mut fixture = Fixture::new();
    let total = 24;
    for sequence in 1..=total {
        let value = Bytes::from(vec![sequence as u8; 512 << 10]);
        fixture.write_as(origin(5, sequence, 1), swap_in(value));
        assert!(table(&fixture).answers_bytes() <= ANSWERS_BYTES_MAX);
    }
    let version = fixture.machine.shard().version();
    let mut kept = 0;
    for sequence in 1..=total {
        match fixture.write_as(origin(5, sequence, 1), swap_in(Bytes::new())) {
            WriteOutcome::Put { previous: Some(entry), .. } => {
                assert_eq!(entry.value[0], sequence as u8 - 1, "the first answer");
                kept += 1;
            }
            WriteOutcome::Put { previous: None, .. } => assert_eq!(sequence, 1),
            other => assert_eq!(other, acknowledged()),
        }
    }
    assert!(kept >= 3, "the latest answers are kept");
    assert_eq!(fixture.machine.shard().version(), version, "nothing was applied again");
}

#[test]
fn many_small_answers_are_bounded_too() {
    let mut fixture = Fixture::new();
    let total = ANSWERS_BYTES_MAX / ANSWER_BYTES + 1000;
    for sequence in 1..=total {
        fixture.write_as(origin(5, sequence, 1), put("k", "v", Expiry::Never));
    }
    assert!(table(&fixture).answers_bytes() <= ANSWERS_BYTES_MAX);
    let version = fixture.machine.shard().version();
    let repeat = |sequence| (origin(5, sequence, 1), put("k", "v", Expiry::Never));
    let (first, write) = repeat(1);
    assert_eq!(fixture.write_as(first, write), acknowledged());
    let (last, write) = repeat(total);
    assert!(matches!(fixture.write_as(last, write), WriteOutcome::Put { written: true, .. }));
    assert_eq!(fixture.machine.shard().version(), version, "nothing was applied again");
}

/// One greedy session among quiet ones gives up its own answers, not theirs.
#[test]
fn a_greedy_session_does_not_push_others_out() {
    let mut fixture = Fixture::new();
    for session in 1..=3 {
        fixture.write_as(origin(session, 1, 1), add("n"));
    }
    for sequence in 1..=24 {
        let value = Bytes::from(vec![7; 512 << 10]);
        fixture.write_as(origin(9, sequence, 1), swap_in(value));
    }
    assert_eq!(table(&fixture).len(), 4);
    for session in 1..=3 {
        let answer = fixture.write_as(origin(session, 1, 1), add("n"));
        assert_eq!(answer, WriteOutcome::Number(session as i64));
    }
}

/// A repeat needs no rows: it must not wait for the disk, let alone run with what it finds there.
#[test]
fn a_repeat_of_a_command_whose_rows_have_left_memory_is_answered_at_once() {
    let mut fixture = Fixture::new();
    fixture.write_as(origin(5, 1, 1), add("n"));
    fixture.checkpoint();
    let parked = fixture.parked;
    assert_eq!(fixture.write_as(origin(5, 1, 1), add("n")), WriteOutcome::Number(1));
    assert_eq!(fixture.parked, parked);
    assert_eq!(fixture.write_as(origin(5, 2, 1), add("n")), WriteOutcome::Number(2));
    assert_eq!(fixture.parked, parked + 1);
    assert_eq!(fixture.write_as(origin(5, 2, 1), add("n")), WriteOutcome::Number(2));
    assert_eq!(fixture.text("n").as_deref(), Some("2"));
}
