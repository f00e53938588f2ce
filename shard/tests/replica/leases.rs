//! Reads that a lease vouches for: at once, never stale, and not before what was committed is applied.

use crate::common::{Group, Waiter, put};
use crate::{add, key};
use flotilla_shard::*;
use std::time::Duration;

/// Long enough for a heartbeat to be sent and answered.
const A_HEARTBEAT: Duration = Duration::from_millis(60);

fn get(group: &mut Group, n: u64, text: &str) -> Waiter {
    group.request(n, Operation::Get { key: key(text) }, Duration::from_secs(5))
}

#[test]
fn a_read_costs_no_message_and_no_turn_of_waiting() {
    let mut group = Group::new(3);
    let leader = group.elect();
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    group.pass(A_HEARTBEAT);
    let under_way = group.network.len();
    let answer = get(&mut group, leader, "a").try_recv().expect("nobody had to be asked");
    assert!(matches!(answer, Ok(Answer::Value(Some(_)))), "{answer:?}");
    assert_eq!(group.network.len(), under_way, "somebody was asked");
    assert!(!group.member(leader).replica.has_waiting());
    assert!(group.leased(leader));
    assert!(!group.leased(leader % 3 + 1));
}

#[test]
fn a_leader_that_was_asleep_asks_again() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.pass(A_HEARTBEAT);
    assert!(get(&mut group, leader, "a").try_recv().is_ok());
    // No tick, no message: only the clock of the read itself can tell that time has passed.
    group.let_pass(Duration::from_millis(400));
    let mut waiter = get(&mut group, leader, "a");
    assert!(waiter.try_recv().is_err(), "answered by a lease that was over");
    group.settle();
    assert!(waiter.try_recv().is_ok(), "the others confirm that it still leads");
}

#[test]
fn a_leader_that_is_cut_off_serves_nothing_that_was_overwritten() {
    let mut group = Group::new(3);
    let old = group.elect();
    assert!(group.answer(old, Operation::Write(put("a", "1"))).is_ok());
    group.pass(A_HEARTBEAT);
    group.cut = vec![NodeId(old)];
    let (mut served, mut overwritten) = (0, false);
    for _ in 0..100 {
        group.pass(Duration::from_millis(10));
        let answer = get(&mut group, old, "a").try_recv();
        if answer.is_ok_and(|answer| answer.is_ok()) {
            assert!(!overwritten, "a stale read");
            served += 1;
        }
        let new = (1..=3)
            .filter(|n| *n != old)
            .find(|n| group.member(*n).replica.status().role() == Role::Leader);
        if let Some(new) = new {
            overwritten |= group.answer(new, Operation::Write(put("a", "2"))).is_ok();
        }
    }
    assert!(overwritten && served >= 10, "{served} reads were served while the lease held");
}

#[test]
fn what_was_committed_is_applied_first() {
    let mut group = Group::new(3);
    let leader = group.elect();
    assert!(group.answer(leader, add("n", 1)).is_ok());
    group.event(leader, flotilla_shard::effects::Event::Freeze);
    group.settle();
    group.checkpoint(leader);
    group.settle();
    group.pass(A_HEARTBEAT);
    // The row of the next command lies on disk, so that its entry is committed and waits for it.
    group.member(leader).reads_held = true;
    let mut written = group.request(leader, add("n", 1), Duration::from_secs(5));
    group.settle();
    assert!(written.try_recv().is_err(), "it needs no row: the scene proves nothing");
    let mut waiter = get(&mut group, leader, "other");
    group.settle();
    assert!(waiter.try_recv().is_err(), "read before what was committed is applied");
    assert!(group.member(leader).replica.has_waiting());
    group.member(leader).reads_held = false;
    group.settle();
    assert!(written.try_recv().is_ok());
    assert_eq!(waiter.try_recv().expect("applied"), Ok(Answer::Value(None)));
}
