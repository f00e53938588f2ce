//! Followers beyond the log, damaged rows, and crashes while rows are replaced.

use crate::common::{GROUP, Group, Installs, put};
use crate::{add, key, number};
use flotilla_shard::effects::{Event, RowsUnread, SnapshotOrder};
use flotilla_shard::raft::{Index, Position, Term};
use flotilla_shard::snapshot::{SnapshotEvent, TransferId};
use flotilla_shard::*;
use std::time::Duration;

/// Of rows that no snapshot has replaced.
const FIRST: u64 = 0;

const SESSION: Origin =
    Origin { session: 9, session_born_ms: 999_000, sequence: 1, lowest_unacknowledged: 1 };

/// A follower of three that was away while its leader forgot what it needs. Returns both.
fn beyond_the_log(group: &mut Group) -> (u64, u64) {
    let leader = group.elect();
    let absent = leader % 3 + 1;
    group.cut = vec![NodeId(absent)];
    for n in 0..30 {
        let write = put(&format!("k{n}"), &n.to_string());
        assert!(group.answer(leader, Operation::Write(write)).is_ok());
    }
    assert_eq!(number(retry(group, leader)), 5, "the session's write");
    assert_eq!(group.checkpoint(leader), 1);
    assert!(group.member(leader).journal.base() < 5, "the node can afford to keep the log");
    group.conditions.log_keep_bytes = 0;
    group.event(leader, Event::Trim);
    group.settle();
    assert!(group.member(leader).journal.base() > 30, "the node cannot afford it any more");
    group.conditions.log_keep_bytes = u64::MAX;
    (leader, absent)
}

/// The same write of the same session, again and again.
fn retry(group: &mut Group, n: u64) -> Result<Answer, Refusal> {
    let timeout = Duration::from_secs(5);
    let consistency = Consistency::Linearizable;
    let mut waiter = group.request_as(n, add("counter", 5), timeout, SESSION, consistency);
    group.settle();
    waiter.try_recv().expect("a settled group has answered")
}

fn local(group: &mut Group, n: u64, name: &str) -> Result<Answer, Refusal> {
    let operation = Operation::Get { key: key(name) };
    let timeout = Duration::from_secs(5);
    let mut waiter = group.request_as(n, operation, timeout, Origin::default(), Consistency::Local);
    waiter.try_recv().expect("nobody is asked")
}

fn local_text(group: &mut Group, n: u64, name: &str) -> String {
    match local(group, n, name) {
        Ok(Answer::Value(Some(entry))) => String::from_utf8(entry.value.to_vec()).expect("text"),
        other => panic!("not a value: {other:?}"),
    }
}

fn applied(group: &mut Group, n: u64) -> u64 {
    let descriptor = group.member(n).replica.descriptor().clone();
    group.member(n).replica.status().snapshot(&descriptor).applied_index
}

/// Everything is there, on that replica itself and as leader, and the retry finds the first answer.
fn assert_whole(group: &mut Group, leader: u64, repaired: u64) {
    for n in 0..30 {
        assert_eq!(local_text(group, repaired, &format!("k{n}")), n.to_string());
    }
    assert_eq!(applied(group, repaired), applied(group, leader));
    group.event(leader, Event::Transfer(Some(NodeId(repaired))));
    group.pass(Duration::from_millis(500));
    assert_eq!(group.member(repaired).replica.status().role(), Role::Leader);
    assert_eq!(number(retry(group, repaired)), 5, "the sessions came with the rows");
    assert_eq!(group.value(repaired, "counter").as_deref(), Some("5"));
    assert!(group.answer(repaired, Operation::Write(put("after", "1"))).is_ok());
}

#[test]
fn a_follower_beyond_the_log_gets_a_snapshot_with_the_sessions() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    assert_eq!(group.snapshots_sent, 1);
    assert!(group.member(absent).journal.base() > 30, "its log begins after the snapshot");
    assert_whole(&mut group, leader, absent);
}

#[test]
fn a_crash_between_intent_and_swap_is_harmless() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.installs = Installs::Held;
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    assert!(group.has_held_install(absent), "the intent is durable");
    assert_eq!(local(&mut group, absent, "k1"), Err(Refusal::Damaged), "not read meanwhile");
    group.event(absent, Event::Freeze);
    assert!(group.member(absent).frozen.is_empty(), "not frozen meanwhile");
    group.restart(absent);
    group.installs = Installs::Done;
    group.pass(Duration::from_secs(3));
    assert_eq!(group.snapshots_sent, 2, "the first was lost with the crash");
    assert_whole(&mut group, leader, absent);
}

#[test]
fn a_crash_between_swap_and_journal_is_harmless() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.installs = Installs::CrashAfterSwap;
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    assert_eq!(group.snapshots_sent, 1, "the rows had arrived");
    assert!(group.member(absent).journal.base() > 30);
    assert_whole(&mut group, leader, absent);
}

/// A snapshot that was in the middle of being installed finds a group that went on.
#[test]
fn entries_that_come_while_rows_are_replaced_are_applied_after() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.installs = Installs::Held;
    group.cut.clear();
    group.pass(Duration::from_secs(1));
    assert!(group.has_held_install(absent));
    let before = applied(&mut group, absent);
    for n in 30..60 {
        let write = put(&format!("k{n}"), &n.to_string());
        assert!(group.answer(leader, Operation::Write(write)).is_ok());
    }
    group.pass(Duration::from_secs(1));
    assert_eq!(applied(&mut group, absent), before, "nothing is applied meanwhile");
    group.release_installs();
    group.pass(Duration::from_secs(1));
    assert_eq!(local_text(&mut group, absent, "k59"), "59");
    assert_whole(&mut group, leader, absent);
}

/// Else the follower would need another snapshot as soon as it has this one.
#[test]
fn the_log_behind_a_snapshot_that_is_being_sent_is_kept() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.installs = Installs::Held;
    group.cut.clear();
    group.pass(Duration::from_secs(1));
    let base = group.member(leader).journal.base();
    for n in 0..10 {
        assert!(group.answer(leader, Operation::Write(put("x", &n.to_string()))).is_ok());
    }
    group.checkpoint(leader);
    group.conditions.log_keep_bytes = 0;
    group.event(leader, Event::Trim);
    group.settle();
    assert_eq!(group.member(leader).journal.base(), base, "pinned");
    group.release_installs();
    group.pass(Duration::from_secs(1));
    assert_eq!(group.snapshots_sent, 1);
    group.event(leader, Event::Trim);
    group.settle();
    assert!(group.member(leader).journal.base() > base, "no longer pinned");
    group.conditions.log_keep_bytes = u64::MAX;
    assert_whole(&mut group, leader, absent);
}

#[test]
fn a_leader_with_damaged_rows_hands_over_and_is_rebuilt() {
    let mut group = Group::new(3);
    let old = group.elect();
    for n in 0..30 {
        let write = put(&format!("k{n}"), &n.to_string());
        assert!(group.answer(old, Operation::Write(write)).is_ok());
    }
    assert_eq!(number(retry(&mut group, old)), 5);
    for n in 1..=3 {
        group.checkpoint(n);
    }
    group.orders_held = true;
    let mut in_flight = group.put(old, "k0", "0");
    group.event(old, Event::RowsLost { generation: FIRST });
    assert_eq!(
        in_flight.try_recv().expect("answered at once"),
        Err(Refusal::Timeout { maybe_committed: true }),
        "it was proposed, and this replica will never know what became of it"
    );
    group.pass(Duration::from_secs(1));
    let new = (1..=3).find(|n| group.member(*n).replica.status().role() == Role::Leader);
    let new = new.expect("somebody else leads");
    assert_ne!(old, new);
    assert_eq!(local(&mut group, old, "k1"), Err(Refusal::Damaged));
    assert!(group.answer(new, Operation::Write(put("during", "1"))).is_ok());
    let descriptor = group.member(old).replica.descriptor().clone();
    assert!(group.member(old).replica.status().snapshot(&descriptor).needs_snapshot);
    group.orders_held = false;
    group.pass(Duration::from_secs(2));
    assert!(!group.member(old).replica.status().snapshot(&descriptor).needs_snapshot);
    assert_eq!(local_text(&mut group, old, "during"), "1");
    assert_whole(&mut group, new, old);

    // What was found of the old rows and is told only now.
    group.orders_held = true;
    let (sender, mut answer) = tokio::sync::oneshot::channel();
    let (reply, error) = (Reply::Oneshot(sender), "checksum".to_owned());
    group.event(old, Event::ReadDamaged { generation: FIRST, reply, error });
    assert_eq!(answer.try_recv().expect("at once"), Err(Refusal::Damaged), "to be asked again");
    let rows = || Err(RowsUnread::Damaged("checksum".into()));
    group.event(old, Event::RowsRead { serial: 1, generation: FIRST, rows: rows() });
    group.event(old, Event::RowsLost { generation: FIRST });
    let damaged = SnapshotEvent::ExportDamaged { group: GROUP, generation: FIRST };
    group.event(old, Event::Snapshot(damaged));
    group.settle();
    assert!(!group.member(old).replica.status().snapshot(&descriptor).needs_snapshot);
    assert_eq!(local_text(&mut group, old, "during"), "1", "the new rows are sound");
    // Of the new rows it counts.
    group.event(old, Event::RowsLost { generation: FIRST + 1 });
    assert!(group.member(old).replica.status().snapshot(&descriptor).needs_snapshot);
}

#[test]
fn damage_that_a_command_meets_ends_in_doubt_and_the_retry_is_not_applied_twice() {
    let mut group = Group::new(3);
    let old = group.elect();
    assert_eq!(number(group.answer(old, add("counter", 1))), 1);
    for n in 1..=3 {
        group.checkpoint(n);
    }
    group.member(old).reads_held = true;
    let timeout = Duration::from_secs(5);
    let mut waiter =
        group.request_as(old, add("counter", 5), timeout, SESSION, Consistency::Linearizable);
    group.settle();
    let read = group.member(old).held_reads.pop().expect("the row lies below");
    let rows = Err(RowsUnread::Damaged("checksum".into()));
    group.event(old, Event::RowsRead { serial: read.serial, generation: FIRST, rows });
    assert_eq!(
        waiter.try_recv().expect("answered at once"),
        Err(Refusal::Timeout { maybe_committed: true })
    );
    drop(read);
    group.member(old).reads_held = false;
    group.pass(Duration::from_secs(2));
    let new = (1..=3).find(|n| group.member(*n).replica.status().role() == Role::Leader);
    let new = new.expect("somebody leads");
    assert_eq!(number(retry(&mut group, new)), 6, "the first answer");
    assert_eq!(number(retry(&mut group, new)), 6);
    assert_eq!(group.value(new, "counter").as_deref(), Some("6"));
    assert_eq!(local_text(&mut group, old, "counter"), "6", "rebuilt");
}

#[test]
fn a_damaged_row_of_a_single_replica_is_told_and_the_rest_served() {
    let mut group = Group::new(1);
    let leader = group.elect();
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    let (reply, error) = (Reply::Oneshot(sender), "checksum".to_owned());
    group.event(leader, Event::ReadDamaged { generation: FIRST, reply, error });
    assert_eq!(receiver.try_recv().expect("at once"), Err(Refusal::Corrupt("checksum".into())));
    group.event(leader, Event::RowsLost { generation: FIRST });
    assert_eq!(group.value(leader, "a").as_deref(), Some("1"));
    assert!(group.answer(leader, Operation::Write(put("b", "2"))).is_ok());
}

/// Without another replica nobody can repair the row: the commands that need it fail, those in
/// front of it and behind it go on.
#[test]
fn a_command_on_a_damaged_row_of_a_single_replica_fails_alone() {
    let mut group = Group::new(1);
    let leader = group.elect();
    for key in ["before", "damaged", "behind"] {
        assert_eq!(number(group.answer(leader, add(key, 1))), 1);
    }
    group.checkpoint(leader);
    group.member(leader).reads_held = true;
    let timeout = Duration::from_secs(5);
    let mut waiters: Vec<_> = ["before", "damaged", "behind"]
        .into_iter()
        .map(|key| group.request(leader, add(key, 1), timeout))
        .collect();
    for _ in 0..8 {
        group.settle();
        let Some(read) = group.member(leader).held_reads.pop() else { break };
        let is_damaged = read.keys.iter().any(|key| key == "damaged");
        let rows = match is_damaged {
            true => Err(RowsUnread::Damaged("checksum".into())),
            false => Ok(read
                .keys
                .iter()
                .map(|key| (key.clone(), read.view.get(key).expect("a sound row")))
                .collect()),
        };
        group.event(leader, Event::RowsRead { serial: read.serial, generation: FIRST, rows });
    }
    let mut outcome = |at: usize| waiters[at].try_recv().expect("answered").expect("served");
    assert_eq!(outcome(0), Answer::Written(WriteOutcome::Number(2)));
    let failed = WriteOutcome::Failed(CommandFailure::RowDamaged);
    assert_eq!(outcome(1), Answer::Written(failed));
    assert_eq!(outcome(2), Answer::Written(WriteOutcome::Number(2)));
    group.member(leader).reads_held = false;
    assert!(group.answer(leader, Operation::Write(put("damaged", "7"))).is_ok());
    assert_eq!(number(group.answer(leader, add("damaged", 1))), 8, "made whole");
}

#[test]
fn a_damaged_row_sends_its_reader_elsewhere_when_there_are_others() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    let (reply, error) = (Reply::Oneshot(sender), "checksum".to_owned());
    group.event(leader, Event::ReadDamaged { generation: FIRST, reply, error });
    assert_eq!(receiver.try_recv().expect("at once"), Err(Refusal::Damaged));
    group.pass(Duration::from_secs(2));
    let new = group.elect();
    assert!(group.answer(new, Operation::Write(put("a", "1"))).is_ok());
    assert_eq!(local(&mut group, leader, "a"), Err(Refusal::Damaged), "nothing to send yet");
    assert_eq!(group.member(new).frozen.len(), 1, "a checkpoint was called for");
    group.checkpoint(new);
    group.pass(Duration::from_secs(2));
    assert_eq!(local_text(&mut group, leader, "a"), "1", "rebuilt");
}

/// What became of the entry is not in the rows: to say that it had no effect would be a guess.
#[test]
fn a_proposal_that_a_snapshot_passes_over_ends_in_doubt() {
    let mut group = Group::new(3);
    let old = group.elect();
    group.cut = vec![NodeId(old)];
    let write = Operation::Write(put("lost", "1"));
    let mut waiter = group.request(old, write, Duration::from_secs(60));
    let new = group.elect();
    for n in 0..30 {
        let write = put(&format!("k{n}"), &n.to_string());
        assert!(group.answer(new, Operation::Write(write)).is_ok());
    }
    assert_eq!(number(retry(&mut group, new)), 5);
    group.checkpoint(new);
    group.conditions.log_keep_bytes = 0;
    group.event(new, Event::Trim);
    group.settle();
    group.conditions.log_keep_bytes = u64::MAX;
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    assert_eq!(group.snapshots_sent, 1);
    assert_eq!(
        waiter.try_recv().expect("nothing will ever tell"),
        Err(Refusal::Timeout { maybe_committed: true })
    );
    assert_whole(&mut group, new, old);
}

/// Its log begins behind the leader's last checkpoint, and nothing happens that calls for a newer
/// one: the order for a snapshot does.
#[test]
fn an_idle_group_makes_a_checkpoint_that_its_follower_can_take() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let damaged = leader % 3 + 1;
    for n in 0..60 {
        let write = put(&format!("k{n}"), &n.to_string());
        assert!(group.answer(leader, Operation::Write(write)).is_ok());
        if n == 29 {
            assert_eq!(group.checkpoint(leader), 1);
        }
    }
    assert_eq!(number(retry(&mut group, leader)), 5);
    group.pass(Duration::from_millis(200));
    assert_eq!(group.checkpoint(damaged), 1);
    group.conditions.log_keep_bytes = 0;
    group.event(damaged, Event::Trim);
    group.settle();
    group.conditions.log_keep_bytes = u64::MAX;
    assert!(group.member(damaged).journal.base() > 60);
    group.event(damaged, Event::RowsLost { generation: FIRST });
    group.pass(Duration::from_secs(2));
    assert_eq!(local(&mut group, damaged, "k1"), Err(Refusal::Damaged), "too old for its log");
    assert_eq!(group.member(leader).frozen.len(), 1, "a newer checkpoint was called for");
    group.checkpoint(leader);
    group.pass(Duration::from_secs(2));
    assert_eq!(local_text(&mut group, damaged, "k59"), "59");
    assert_whole(&mut group, leader, damaged);
}

/// The snapshot may be much older than the rows that it replaces: how current those were says
/// nothing about it.
#[test]
fn rows_that_went_back_are_not_taken_for_current() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let damaged = leader % 3 + 1;
    assert!(group.answer(leader, Operation::Write(put("a", "old"))).is_ok());
    assert_eq!(number(group.answer(leader, add("counter", 1))), 1);
    assert_eq!(group.checkpoint(leader), 1);
    assert_eq!(number(group.answer(leader, add("counter", 1))), 2);
    assert!(group.answer(leader, Operation::Write(put("a", "new"))).is_ok());
    group.pass(Duration::from_secs(3));
    assert_eq!(local_text(&mut group, damaged, "a"), "new");
    // Applying what follows the snapshot waits for a row.
    group.member(damaged).reads_held = true;
    group.event(damaged, Event::RowsLost { generation: FIRST });
    group.pass(Duration::from_millis(500));
    assert_eq!(local_text(&mut group, damaged, "a"), "old", "the snapshot's");
    let consistency = Consistency::Stale { max_lag: Duration::from_secs(2) };
    let read = Operation::Get { key: key("a") };
    let timeout = Duration::from_secs(5);
    let mut waiter = group.request_as(damaged, read, timeout, Origin::default(), consistency);
    let answer = waiter.try_recv().expect("nobody is asked");
    assert_eq!(answer, Err(Refusal::NotLeader { leader: Some(NodeId(leader)) }));
}

/// The last checkpoint of `leader`, as it were ready to be installed elsewhere.
fn received(group: &mut Group, leader: u64) -> SnapshotEvent {
    let state = group.member(leader).store.state(GROUP).expect("it was checkpointed");
    let (index, term) = state.applied;
    SnapshotEvent::Received {
        group: GROUP,
        transfer: TransferId { boot: 1, number: 9 },
        from: NodeId(leader),
        position: Position { index: Index(index), term: Term(term) },
    }
}

/// A read that asks nobody must not wait for rows that may take minutes to come.
#[test]
fn a_read_that_meets_a_snapshot_is_sent_elsewhere_at_once() {
    let mut group = Group::new(3);
    let (leader, absent) = beyond_the_log(&mut group);
    group.orders_held = true;
    group.cut.clear();
    group.pass(Duration::from_secs(1));
    let received = received(&mut group, leader);
    let read = Operation::Get { key: key("k1") };
    let timeout = Duration::from_secs(5);
    let (request, mut waiter) = group.made(read, timeout, Origin::default(), Consistency::Local);
    group.events(absent, vec![Event::Request(request), Event::Snapshot(received)]);
    assert_eq!(waiter.try_recv().expect("at once"), Err(Refusal::Damaged));
}

/// What was frozen before an install that comes to nothing must reach the store all the same: later
/// memtables would be recorded without it.
#[test]
fn a_refused_install_leaves_no_gap_in_the_rows() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let absent = leader % 3 + 1;
    // The same write of its journal holds the frozen rows and the intent.
    group.member(absent).journal.stalled = true;
    assert!(group.answer(leader, Operation::Write(put("frozen", "1"))).is_ok());
    group.pass(Duration::from_millis(100));
    group.event(absent, Event::Freeze);
    assert!(group.member(absent).frozen.is_empty(), "it waits for the journal");
    assert!(group.answer(leader, Operation::Write(put("later", "1"))).is_ok());
    group.pass(Duration::from_millis(100));
    assert_eq!(local_text(&mut group, absent, "later"), "1");
    group.cut = vec![NodeId(absent)];
    assert!(group.answer(leader, Operation::Write(put("missed", "1"))).is_ok());
    group.checkpoint(leader);
    group.cut.clear();
    group.orders_held = true;
    let mut position = Position::default();
    for _ in 0..20 {
        // As soon as it hears what is committed, and before the leader sends that again.
        group.pass(Duration::from_millis(10));
        let received = received(&mut group, leader);
        if let SnapshotEvent::Received { position: end, .. } = received {
            position = end;
        }
        group.event(absent, Event::Snapshot(received));
        if local(&mut group, absent, "later").is_err() {
            break;
        }
    }
    group.member(absent).journal.stalled = false;
    group.settle();
    let ordered = |order: &(u64, SnapshotOrder)| matches!(order.1, SnapshotOrder::Install { .. });
    assert!(group.orders.iter().any(ordered), "the intent is durable");
    group.orders.clear();
    group.orders_held = false;
    let failed = SnapshotEvent::InstallFailed { group: GROUP, position };
    group.event(absent, Event::Snapshot(failed));
    group.settle();
    group.checkpoint(absent);
    group.restart(absent);
    group.pass(Duration::from_secs(1));
    assert_eq!(local_text(&mut group, absent, "later"), "1");
    assert_eq!(local_text(&mut group, absent, "frozen"), "1");
}

/// A message may be under way for any time: its arrival does not make old rows current.
#[test]
fn a_heartbeat_that_was_long_under_way_makes_no_rows_current() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let follower = leader % 3 + 1;
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    group.pass(Duration::from_millis(200));
    let descriptor = group.member(leader).replica.descriptor().clone();
    let status = group.member(leader).replica.status().snapshot(&descriptor);
    let late = |answered| GroupMessage {
        group: GROUP,
        from: ReplicaId(leader),
        to: ReplicaId(follower),
        message: flotilla_shard::raft::Message::Heartbeat {
            term: Term(status.term),
            commit: Index(status.commit_index),
            round: flotilla_shard::raft::Round(0),
            answered: flotilla_shard::raft::Round(answered),
        },
    };
    group.cut = vec![NodeId(follower)];
    assert!(group.answer(leader, Operation::Write(put("a", "2"))).is_ok());
    group.pass(Duration::from_secs(3));
    assert!(group.answer(leader, Operation::Write(put("a", "3"))).is_ok());
    for answered in 0..10 {
        group.event(follower, Event::Message(late(answered)));
        let consistency = Consistency::Stale { max_lag: Duration::from_millis(200) };
        let read = Operation::Get { key: key("a") };
        let timeout = Duration::from_secs(5);
        let mut waiter = group.request_as(follower, read, timeout, Origin::default(), consistency);
        let answer = waiter.try_recv().expect("nobody is asked");
        assert!(answer.is_err(), "three seconds old: {answer:?}");
    }
}
