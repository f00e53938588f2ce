//! Handing over: what is in flight, who may lead, and what a new leader knows.

use crate::common::{Group, put};
use crate::{add, key, number};
use flotilla_shard::effects::Event;
use flotilla_shard::*;
use std::time::Duration;

fn role(group: &mut Group, n: u64) -> Role {
    group.member(n).replica.status().role()
}

#[test]
fn a_transfer_answers_everything_that_is_in_flight() {
    let mut group = Group::new(3);
    let old = group.elect();
    let new = old % 3 + 1;
    let mut before: Vec<_> = (0..20).map(|n| group.put(old, &format!("b{n}"), "v")).collect();
    group.event(old, Event::Transfer(Some(NodeId(new))));
    let mut after: Vec<_> = (0..20).map(|n| group.put(old, &format!("a{n}"), "v")).collect();
    group.pass(Duration::from_millis(500));
    assert_eq!(role(&mut group, new), Role::Leader);
    for waiter in &mut before {
        let answer = waiter.try_recv().expect("answered");
        assert!(answer.is_ok(), "proposed before the transfer: {answer:?}");
    }
    for (n, waiter) in after.iter_mut().enumerate() {
        let written = match waiter.try_recv().expect("answered") {
            Ok(_) => true,
            Err(Refusal::NotLeader { .. } | Refusal::Busy { .. }) => false,
            Err(other) => panic!("answered {other:?}"),
        };
        assert_eq!(group.value(new, &format!("a{n}")).is_some(), written, "a lie about a{n}");
    }
    assert!(!group.member(old).replica.has_waiting());
}

#[test]
fn a_node_that_may_not_lead_hands_over_and_never_campaigns() {
    let mut group = Group::new(3);
    let old = group.elect();
    group.event(old, Event::MayLead(false));
    group.pass(Duration::from_secs(1));
    let new = group.elect();
    assert_ne!(old, new);
    group.event(old, Event::Campaign);
    group.cut = vec![NodeId(new)];
    let third = group.elect();
    assert!(third != old && third != new);
    assert!(group.answer(third, Operation::Write(put("a", "1"))).is_ok(), "it still acknowledges");
    group.cut.clear();
    group.event(old, Event::MayLead(true));
    group.event(third, Event::Transfer(Some(NodeId(old))));
    group.pass(Duration::from_secs(1));
    assert_eq!(role(&mut group, old), Role::Leader, "it may again");
}

#[test]
fn nodes_that_are_all_reluctant_lead_all_the_same() {
    let mut group = Group::new(3);
    let old = group.elect();
    for n in 1..=3 {
        group.event(n, Event::Reluctant(true));
        group.pass(Duration::from_millis(500));
    }
    let leads = |group: &mut Group| (1..=3).find(|n| role(group, *n) == Role::Leader);
    let kept = leads(&mut group).expect("it finds nobody better, and goes on");
    for n in 0..10 {
        group.pass(Duration::from_millis(500));
        assert_eq!(leads(&mut group), Some(kept), "it changes for nothing");
        assert!(group.answer(kept, Operation::Write(put(&format!("k{n}"), "v"))).is_ok());
    }
    let better = kept % 3 + 1;
    group.event(better, Event::Reluctant(false));
    group.pass(Duration::from_secs(1));
    assert_eq!(leads(&mut group), Some(better), "old {old}, kept {kept}");
    assert!(group.answer(better, Operation::Write(put("a", "1"))).is_ok());
}

#[test]
fn a_group_without_other_replicas_is_led_in_any_case() {
    let mut group = Group::new(1);
    let leader = group.elect();
    group.event(leader, Event::MayLead(false));
    group.event(leader, Event::Transfer(None));
    group.pass(Duration::from_secs(1));
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
}

#[test]
fn a_retry_through_a_new_leader_gets_the_first_answer() {
    let mut group = Group::new(3);
    let old = group.elect();
    let origin =
        Origin { session: 3, session_born_ms: 999_000, sequence: 7, lowest_unacknowledged: 7 };
    let ask = |group: &mut Group, n| {
        let timeout = Duration::from_secs(5);
        let consistency = Consistency::Linearizable;
        let mut waiter = group.request_as(n, add("n", 2), timeout, origin, consistency);
        group.settle();
        waiter.try_recv().expect("a settled group has answered")
    };
    assert_eq!(number(ask(&mut group, old)), 2);
    assert_eq!(number(group.answer(old, add("n", 10))), 12);
    group.cut = vec![NodeId(old)];
    let new = group.elect();
    assert_eq!(number(ask(&mut group, new)), 2, "the answer that was lost");
    assert_eq!(group.value(new, "n").as_deref(), Some("12"), "nothing was applied twice");
    for n in 1..=3 {
        group.restart(n);
    }
    group.cut.clear();
    let again = group.elect();
    assert_eq!(number(ask(&mut group, again)), 2, "a restart remembers");
}

#[test]
fn reads_are_as_current_as_they_were_asked_to_be() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let follower = leader % 3 + 1;
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    group.pass(Duration::from_millis(200));
    let read = |group: &mut Group, n, consistency| {
        let operation = Operation::Get { key: key("a") };
        let timeout = Duration::from_secs(5);
        let mut waiter = group.request_as(n, operation, timeout, Origin::default(), consistency);
        group.settle();
        match waiter.try_recv().expect("answered") {
            Ok(Answer::Value(Some(entry))) => Ok(entry.value),
            Ok(other) => panic!("not a value: {other:?}"),
            Err(refusal) => Err(refusal),
        }
    };
    let stale = |ms| Consistency::Stale { max_lag: Duration::from_millis(ms) };
    let not_leader = Err(Refusal::NotLeader { leader: Some(NodeId(leader)) });
    assert_eq!(read(&mut group, follower, Consistency::Linearizable), not_leader);
    assert_eq!(read(&mut group, follower, stale(200)), Ok(key("1")));
    assert_eq!(read(&mut group, leader, stale(200)), Ok(key("1")));
    assert_eq!(read(&mut group, follower, Consistency::Local), Ok(key("1")));

    group.cut = vec![NodeId(follower)];
    assert!(group.answer(leader, Operation::Write(put("a", "2"))).is_ok());
    group.pass(Duration::from_millis(250));
    assert!(read(&mut group, follower, stale(200)).is_err(), "it has heard nothing for longer");
    assert_eq!(read(&mut group, follower, stale(10_000)), Ok(key("1")), "old, as was allowed");
    assert_eq!(read(&mut group, follower, Consistency::Local), Ok(key("1")));
    group.cut.clear();
    group.pass(Duration::from_secs(1));
    let leader = group.elect();
    let follower = leader % 3 + 1;
    assert_eq!(read(&mut group, follower, stale(200)), Ok(key("2")));
}
