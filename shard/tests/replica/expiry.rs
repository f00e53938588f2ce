//! Rows that expire: the same on all replicas, gone for good after any failover, removed in time.

use crate::common::{Group, put, rows_on_disk};
use crate::{add, key};
use bytes::Bytes;
use flotilla_shard::effects::Event;
use flotilla_shard::*;
use std::time::Duration;

fn put_until(name: &str, at_ms: u64) -> Operation {
    let (key, value) = (key(name), key("v"));
    let (condition, expiry) = (Condition::Always, Expiry::At(at_ms));
    Operation::Write(Write::Put { key, value, condition, return_previous: false, expiry })
}

fn has_local(group: &mut Group, n: u64, name: &str) -> bool {
    let operation = Operation::Get { key: key(name) };
    let timeout = Duration::from_secs(5);
    let mut waiter = group.request_as(n, operation, timeout, Origin::default(), Consistency::Local);
    match waiter.try_recv().expect("nobody is asked") {
        Ok(Answer::Value(entry)) => entry.is_some(),
        other => panic!("not a value: {other:?}"),
    }
}

fn last_index(group: &mut Group, n: u64) -> u64 {
    let descriptor = group.member(n).replica.descriptor().clone();
    group.member(n).replica.status().snapshot(&descriptor).last_index
}

#[test]
fn an_expired_row_is_gone_from_all_replicas_and_then_from_their_disks() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let at_ms = group.now().wall_ms + 500;
    for n in 0..5 {
        assert!(group.answer(leader, put_until(&format!("e{n}"), at_ms)).is_ok());
    }
    assert!(group.answer(leader, Operation::Write(put("stays", "v"))).is_ok());
    group.pass(Duration::from_millis(300));
    for n in 1..=3 {
        assert!(has_local(&mut group, n, "e0"), "not yet expired");
        group.checkpoint(n);
        assert_eq!(rows_on_disk(&group.member(n).store), 6);
    }
    group.pass(Duration::from_millis(300));
    assert_eq!(group.value(leader, "e0"), None, "read by the clock");
    group.pass(Duration::from_secs(35));
    for n in 1..=3 {
        assert!(!has_local(&mut group, n, "e0"));
        assert!(has_local(&mut group, n, "stays"));
        group.checkpoint(n);
        assert_eq!(rows_on_disk(&group.member(n).store), 1, "removed through the log");
    }
}

/// The worst new leader: its clock says that the row has not expired yet.
#[test]
fn an_expired_row_never_comes_back_under_a_leader_whose_clock_is_behind() {
    let mut group = Group::new(3);
    let old = group.elect();
    for n in (1..=3).filter(|n| *n != old) {
        group.member(n).behind_ms = 60_000;
    }
    let at_ms = group.now().wall_ms + 1_000;
    assert!(group.answer(old, put_until("e", at_ms)).is_ok());
    group.pass(Duration::from_millis(900));
    assert!(group.value(old, "e").is_some(), "not yet expired");
    group.pass(Duration::from_millis(150));
    // Read at once: no search has found it yet.
    assert_eq!(group.value(old, "e"), None, "somebody has seen it expired");
    group.cut = vec![NodeId(old)];
    let new = group.elect();
    assert!(group.now_on(new).wall_ms < at_ms, "this leader's own clock would still show it");
    assert_eq!(group.value(new, "e"), None, "an expired row has come back");
    let (condition, expiry) = (Condition::IfAbsent, Expiry::Never);
    let (key, value) = (key("e"), key("new"));
    let claim =
        Operation::Write(Write::Put { key, value, condition, return_previous: false, expiry });
    match group.answer(new, claim) {
        Ok(Answer::Written(WriteOutcome::Put { written: true, .. })) => {}
        other => panic!("a write met an expired row: {other:?}"),
    }
    assert_eq!(group.value(new, "e").as_deref(), Some("new"));
}

#[test]
fn only_shards_with_expiring_rows_write_ceilings() {
    let mut group = Group::new(3);
    let leader = group.elect();
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    let before = last_index(&mut group, leader);
    group.pass(Duration::from_secs(10));
    assert_eq!(last_index(&mut group, leader), before, "an idle shard writes nothing");
    let at_ms = group.now().wall_ms + 6_000;
    assert!(group.answer(leader, put_until("e", at_ms)).is_ok());
    let before = last_index(&mut group, leader);
    group.pass(Duration::from_secs(5));
    let ceilings = last_index(&mut group, leader) - before;
    assert!((2..=5).contains(&ceilings), "{ceilings} in five seconds");
    group.pass(Duration::from_secs(10));
    assert_eq!(group.value(leader, "e"), None);
    let before = last_index(&mut group, leader);
    group.pass(Duration::from_secs(10));
    assert_eq!(last_index(&mut group, leader), before, "nothing is left that could expire");
}

/// A write that comes together with the vote that makes its replica leader must not be stamped
/// before what the last leader has read.
#[test]
fn a_new_leader_stamps_nothing_before_it_knows_its_past() {
    let mut group = Group::new(3);
    let old = group.elect();
    let new = old % 3 + 1;
    assert!(group.answer(old, add("n", 1)).is_ok());
    group.checkpoint(new);
    // From here on the next leader has everything and applies nothing.
    group.member(new).reads_held = true;
    assert!(group.answer(old, add("n", 1)).is_ok());
    let at_ms = group.now().wall_ms + 10_000;
    assert!(group.answer(old, put_until("e", at_ms)).is_ok());
    group.member(new).behind_ms = 50_000;
    let was_ms = group.now().wall_ms;
    group.event(old, Event::Transfer(Some(NodeId(new))));
    let (key, value) = (key("w"), key("1"));
    let (condition, expiry) = (Condition::Always, Expiry::After(2_000));
    let write = Write::Put { key, value, condition, return_previous: false, expiry };
    let mut waiters = Vec::new();
    while let Some((node, message)) = group.network.pop_front() {
        let mut events = vec![Event::Message(message)];
        if node.0 == new && group.member(new).replica.status().role() != Role::Leader {
            let (operation, timeout) = (Operation::Write(write.clone()), Duration::from_secs(5));
            let (origin, consistency) = (Origin::default(), Consistency::Linearizable);
            let (request, waiter) = group.made(operation, timeout, origin, consistency);
            events.push(Event::Request(request));
            waiters.push(waiter);
        }
        group.events(node.0, events);
        for n in 1..=3 {
            if let Some(ticket) = group.member(n).journal.sync() {
                group.event(n, Event::Persisted(raft::Ticket(ticket)));
            }
        }
    }
    group.settle();
    group.member(new).reads_held = false;
    group.settle();
    assert_eq!(group.member(new).replica.status().role(), Role::Leader);
    let answers = waiters.iter_mut().map(|waiter| waiter.try_recv().expect("answered"));
    let taken = answers.filter(Result::is_ok).count();
    assert_eq!(taken, 1, "the one that came with the last vote");
    match group.answer(new, Operation::Get { key: Bytes::from_static(b"w") }) {
        Ok(Answer::Value(Some(entry))) => {
            let at_ms = entry.expires_at_ms.expect("it expires");
            assert!(at_ms >= was_ms + 2_000, "stamped in the past of its shard");
        }
        other => panic!("not a value: {other:?}"),
    }
}
