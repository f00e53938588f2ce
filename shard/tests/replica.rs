//! What a replica promises to callers, to the store and to the journal.

mod common;

#[path = "replica/expiry.rs"]
mod expiry;
#[path = "replica/leadership.rs"]
mod leadership;
#[path = "replica/leases.rs"]
mod leases;
#[path = "replica/pressure.rs"]
mod pressure;
#[path = "replica/snapshots.rs"]
mod snapshots;

use bytes::Bytes;
use common::{Group, put};
use flotilla_shard::effects::{Event, RowRead, RowsUnread};
use flotilla_shard::*;
use std::time::Duration;

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn add(text: &str, delta: i64) -> Operation {
    Operation::Write(Write::Add { key: key(text), delta })
}

fn number(result: Result<Answer, Refusal>) -> i64 {
    match result {
        Ok(Answer::Written(WriteOutcome::Number(number))) => number,
        other => panic!("not a number: {other:?}"),
    }
}

#[test]
fn a_write_is_answered_after_a_majority_has_it_and_read_back() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let mut waiter = group.put(leader, "a", "1");
    assert!(waiter.try_recv().is_err(), "nobody else has the entry yet");
    group.settle();
    let answer = waiter.try_recv().expect("the group has settled");
    let Ok(Answer::Written(WriteOutcome::Put { version, written: true, previous: None })) = answer
    else {
        panic!("not a put: {answer:?}");
    };
    assert!(version > 0);
    assert_eq!(group.value(leader, "a").as_deref(), Some("1"));
    assert_eq!(group.value(leader, "b"), None);
}

#[test]
fn a_follower_refuses_and_names_the_leader() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let follower = leader % 3 + 1;
    let refusal = Err(Refusal::NotLeader { leader: Some(NodeId(leader)) });
    assert_eq!(group.answer(follower, Operation::Write(put("a", "1"))), refusal);
    assert_eq!(group.answer(follower, Operation::Get { key: key("a") }), refusal);
}

#[test]
fn nothing_is_answered_while_the_leaders_own_disk_and_one_follower_are_stalled() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.member(leader).journal.stalled = true;
    group.member(leader % 3 + 1).journal.stalled = true;
    let mut waiter = group.put(leader, "a", "1");
    group.settle();
    assert!(waiter.try_recv().is_err(), "only one disk of three has it");
    group.member(leader % 3 + 1).journal.stalled = false;
    group.settle();
    assert!(waiter.try_recv().expect("two of three have it").is_ok());
}

#[test]
fn keys_outside_the_shard_are_refused_when_proposed() {
    let range = KeyRange { start: key("g"), end: Some(key("p")) };
    let mut group = Group::with_range(3, range.clone());
    let leader = group.elect();
    for operation in [
        Operation::Write(put("a", "1")),
        Operation::Get { key: key("p") },
        Operation::GetMany { keys: vec![key("h"), key("z")] },
        Operation::Write(Write::Delete { keys: vec![key("h"), key("z")] }),
        Operation::Write(Write::Batch {
            changes: vec![
                BatchChange::Put { key: key("h"), value: key("1") },
                BatchChange::Delete { key: key("f") },
            ],
            if_all_absent: false,
        }),
    ] {
        match group.answer(leader, operation.clone()) {
            Err(Refusal::OutOfRange { descriptor }) => assert_eq!(descriptor.range, range),
            other => panic!("{operation:?} was answered {other:?}"),
        }
    }
    assert!(group.answer(leader, Operation::Write(put("g", "1"))).is_ok());
}

/// The router's and the proposer's checks may both have passed before the range moved: what counts
/// is the range at the entry's place in the log.
#[test]
fn keys_outside_the_shard_are_refused_when_applied() {
    let mut group = Group::with_range(1, KeyRange { start: key("g"), end: None });
    let leader = group.elect();
    let write = put("a", "smuggled");
    let (store, now) = (group.member(1).store.clone(), group.now());
    let meta = machine::ShardMeta::new(group.member(leader).replica.descriptor().clone());
    let shard = store.create_shard(GroupId(99), meta.descriptor.range.clone(), meta.encode());
    let mut machine = machine::Machine::new(meta, shard);
    let command = Command {
        origin: Origin::default(),
        stamp_ms: now.wall_ms,
        value_bytes_max: 100,
        change: command::Change::Write(write),
    };
    let applied = machine.apply(&command, &machine::Fetched::new());
    let refused = WriteOutcome::Failed(CommandFailure::OutOfRange);
    assert_eq!(applied, machine::Applied::Outcome(refused));
    assert_eq!(machine.shard().version(), 0, "nothing was written");
}

/// The store must never know more than the journal: else a crash would leave rows of entries that
/// the log lacks.
#[test]
fn a_memtable_leaves_for_the_checkpoint_only_when_the_journal_holds_it() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.member(leader).journal.stalled = true;
    let mut waiter = group.put(leader, "a", "1");
    group.settle();
    assert!(waiter.try_recv().expect("both followers have it").is_ok(), "applied on the leader");
    assert_eq!(group.checkpoint(leader), 0, "the leader's own journal does not have it yet");
    group.member(leader).journal.stalled = false;
    group.settle();
    assert_eq!(group.member(leader).frozen.len(), 1);
}

#[test]
fn a_command_that_needs_a_row_from_below_parks_the_group_and_keeps_the_order() {
    let mut group = Group::new(1);
    let leader = group.elect();
    assert_eq!(number(group.answer(leader, add("n", 5))), 5);
    assert!(group.answer(leader, Operation::Write(put("text", "x"))).is_ok());
    assert_eq!(group.checkpoint(leader), 1, "the rows lie below the memtables now");

    group.member(leader).reads_held = true;
    let mut waiters = [
        group.ask(leader, add("n", 1)),
        group.put(leader, "n", "100"),
        group.ask(leader, add("n", 1)),
        group.ask(leader, add("text", 1)),
        group.ask(leader, add("fresh", 3)),
    ];
    group.settle();
    assert!(waiters[1].try_recv().is_err(), "the put stands behind the parked add");
    let asked = group.member(leader).held_reads.iter().map(|read| read.keys.len()).sum::<usize>();
    assert!(asked >= 2, "the rows of later commands are asked for together: {asked}");
    group.member(leader).reads_held = false;
    group.settle();
    assert_eq!(number(waiters[0].try_recv().expect("resumed")), 6);
    assert!(waiters[1].try_recv().expect("resumed").is_ok());
    assert_eq!(number(waiters[2].try_recv().expect("resumed")), 101);
    assert_eq!(
        waiters[3].try_recv().expect("resumed"),
        Ok(Answer::Written(WriteOutcome::Failed(CommandFailure::NotAnInteger)))
    );
    assert_eq!(number(waiters[4].try_recv().expect("resumed")), 3);
    assert_eq!(group.value(leader, "n").as_deref(), Some("101"));
}

/// What is committed meanwhile stays in the log, not in a queue without a bound.
#[test]
fn a_parked_group_takes_nothing_more_to_apply() {
    let mut group = Group::new(1);
    let leader = group.elect();
    assert_eq!(number(group.answer(leader, add("n", 5))), 5);
    group.checkpoint(leader);
    group.member(leader).reads_held = true;
    let mut parked = group.ask(leader, add("n", 1));
    group.settle();
    let mut waiters: Vec<_> = (0..50).map(|n| group.put(leader, &format!("k{n}"), "v")).collect();
    group.settle();
    assert_eq!(group.member(leader).replica.queued_to_apply(), 1, "only the parked command");
    group.member(leader).reads_held = false;
    group.settle();
    assert_eq!(number(parked.try_recv().expect("resumed")), 6);
    for waiter in &mut waiters {
        assert!(waiter.try_recv().expect("applied after the parked command").is_ok());
    }
}

fn unread(read: &RowRead, error: &str) -> Event {
    let rows = Err(RowsUnread::Unavailable(error.into()));
    Event::RowsRead { serial: read.serial, generation: read.view.generation(), rows }
}

#[test]
fn a_failed_row_read_is_asked_again() {
    let mut group = Group::new(1);
    let leader = group.elect();
    assert_eq!(number(group.answer(leader, add("n", 5))), 5);
    group.checkpoint(leader);
    group.member(leader).reads_held = true;
    let mut waiter = group.ask(leader, add("n", 1));
    group.settle();
    let read = group.member(leader).held_reads.pop().expect("a row was asked for");
    group.event(leader, unread(&read, "EIO"));
    group.event(leader, unread(&read, "late"));
    group.settle();
    assert!(group.member(leader).held_reads.is_empty(), "not before time has passed");
    group.member(leader).reads_held = false;
    group.pass(Duration::from_millis(100));
    assert_eq!(number(waiter.try_recv().expect("asked again and answered")), 6);
}

#[test]
fn a_proposal_that_another_leader_replaced_is_refused_as_without_effect() {
    let mut group = Group::new(3);
    let old = group.elect();
    group.cut = vec![NodeId(old)];
    let mut lost = group.request(old, Operation::Write(put("a", "old")), Duration::from_secs(60));
    let new = group.elect();
    assert_ne!(old, new);
    assert!(group.answer(new, Operation::Write(put("a", "new"))).is_ok());
    assert!(lost.try_recv().is_err(), "the old leader cannot know yet");
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    assert_eq!(
        lost.try_recv().expect("the index is applied under another term"),
        Err(Refusal::NotLeader { leader: Some(NodeId(new)) })
    );
    assert_eq!(group.value(new, "a").as_deref(), Some("new"));
}

#[test]
fn a_proposal_without_a_majority_ends_in_doubt_at_its_deadline() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.cut = vec![NodeId(leader)];
    let mut write =
        group.request(leader, Operation::Write(put("a", "1")), Duration::from_millis(200));
    let mut read =
        group.request(leader, Operation::Get { key: key("a") }, Duration::from_millis(200));
    group.pass(Duration::from_millis(150));
    assert!(write.try_recv().is_err());
    group.pass(Duration::from_millis(100));
    assert_eq!(
        write.try_recv().expect("the deadline has passed"),
        Err(Refusal::Timeout { maybe_committed: true })
    );
    match read.try_recv().expect("the deadline has passed") {
        Err(refusal) => assert!(!refusal.maybe_committed(), "a read changes nothing: {refusal:?}"),
        Ok(answer) => panic!("a leader without a quorum served a read: {answer:?}"),
    }
}

#[test]
fn a_deposed_leader_serves_no_read() {
    let mut group = Group::new(3);
    let old = group.elect();
    assert!(group.answer(old, Operation::Write(put("a", "1"))).is_ok());
    group.cut = vec![NodeId(old)];
    let mut stale = group.request(old, Operation::Get { key: key("a") }, Duration::from_secs(60));
    let new = group.elect();
    assert!(group.answer(new, Operation::Write(put("a", "2"))).is_ok());
    group.cut.clear();
    group.pass(Duration::from_secs(2));
    match stale.try_recv() {
        Ok(Ok(Answer::Value(Some(entry)))) => assert_eq!(entry.value, "2", "a stale read"),
        Ok(Err(Refusal::NotLeader { .. })) => {}
        other => panic!("the read ended in {other:?}"),
    }
}

/// Else a hot key would make restarts slower for ever without ever filling a memtable.
#[test]
fn overwriting_one_key_calls_for_a_checkpoint_too() {
    let mut group = Group::new(1);
    let leader = group.elect();
    let value = "v".repeat(1000);
    for _ in 0..100 {
        assert!(group.answer(leader, Operation::Write(put("hot", &value))).is_ok());
    }
    let pressure = group.member(leader).replica.checkpoint_pressure_bytes();
    assert!(pressure >= 25_000, "a quarter of the log since the last checkpoint: {pressure}");
    group.checkpoint(leader);
    let pressure = group.member(leader).replica.checkpoint_pressure_bytes();
    assert!(pressure < 1000, "everything is in the checkpoint: {pressure}");
}

#[test]
fn writes_wait_at_the_door_while_two_memtables_are_frozen() {
    let mut group = Group::new(1);
    let leader = group.elect();
    for round in ["1", "2"] {
        assert!(group.answer(leader, Operation::Write(put("a", round))).is_ok());
        group.event(leader, Event::Freeze);
        group.settle();
    }
    let mut waiter = group.put(leader, "a", "3");
    let mut late =
        group.request(leader, Operation::Write(put("b", "3")), Duration::from_millis(50));
    group.pass(Duration::from_millis(100));
    assert!(waiter.try_recv().is_err(), "memory must not outrun the disk");
    assert_eq!(
        late.try_recv().expect("its deadline has passed"),
        Err(Refusal::Timeout { maybe_committed: false }),
        "what waits at the door was never proposed"
    );
    assert_eq!(group.value(leader, "a").as_deref(), Some("2"), "reads go on");
    group.checkpoint(leader);
    group.settle();
    group.pass(Duration::from_millis(20));
    assert!(waiter.try_recv().expect("the door is open again").is_ok());
}

/// A log that the node can afford spares an absent follower the snapshot.
#[test]
fn the_log_is_kept_for_an_absent_follower() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let absent = leader % 3 + 1;
    group.cut = vec![NodeId(absent)];
    for n in 0..20 {
        assert!(group.answer(leader, Operation::Write(put("a", &n.to_string()))).is_ok());
    }
    assert_eq!(group.checkpoint(leader), 1);
    group.pass(Duration::from_millis(200));
    assert!(group.member(leader).journal.base() < 5, "the absent needs it");
    group.cut.clear();
    group.pass(Duration::from_millis(500));
    assert!(group.answer(leader, Operation::Write(put("a", "last"))).is_ok());
    assert_eq!(group.checkpoint(leader), 1);
    group.pass(Duration::from_millis(200));
    let index = group.member(leader).journal.base();
    assert!(index > 20, "compacted through {index}");
}

#[test]
fn a_suspect_refuses_everybody_and_says_so() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let mut waiter = group.put(leader, "a", "1");
    group.event(leader, Event::Suspected);
    assert_eq!(
        waiter.try_recv().expect("answered at once"),
        Err(Refusal::Timeout { maybe_committed: true })
    );
    assert_eq!(group.answer(leader, Operation::Get { key: key("a") }), Err(Refusal::Suspect));
    assert!(group.member(leader).replica.status().leader_node().is_none());
    // The others go on without it, and it stays silent.
    group.cut = vec![];
    let next = {
        group.members[leader as usize - 1].journal.stalled = true;
        group.pass(Duration::from_secs(2));
        (1..=3).find(|n| *n != leader && group.member(*n).replica.status().role() == Role::Leader)
    };
    let next = next.expect("two of three elect a leader");
    assert!(group.answer(next, Operation::Write(put("b", "2"))).is_ok());
}
