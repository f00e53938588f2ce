//! Full disks and full memory: what is refused, what goes on.

use crate::common::{Group, put};
use crate::key;
use flotilla_shard::effects::Event;
use flotilla_shard::*;
use std::time::{Duration, Instant};

#[test]
fn a_full_disk_refuses_what_needs_room_and_nothing_else() {
    let mut group = Group::new(3);
    let leader = group.elect();
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    group.event(leader, Event::Freeze);
    group.settle();
    // Proposed, but nobody has it yet: a full disk refuses no append.
    let mut in_flight = group.put(leader, "b", "2");
    group.conditions.is_disk_full = true;
    group.settle();
    assert!(in_flight.try_recv().expect("committed").is_ok());
    let refused = Err(Refusal::DiskFull);
    assert_eq!(group.answer(leader, Operation::Write(put("a", "2"))), refused);
    assert_eq!(group.answer(leader, crate::add("n", 1)), refused);
    assert_eq!(group.value(leader, "a").as_deref(), Some("1"));
    let delete = Operation::Write(Write::Delete { keys: vec![key("a")] });
    assert!(group.answer(leader, delete).is_ok());
    assert_eq!(group.value(leader, "a"), None);
    group.pass(Duration::from_secs(1));
    assert_eq!(group.elect(), leader, "nobody loses a leadership over it");
    group.conditions.is_disk_full = false;
    assert!(group.answer(leader, Operation::Write(put("a", "3"))).is_ok());
}

#[test]
fn what_waits_at_the_door_is_refused_when_the_disk_fills() {
    let mut group = Group::new(1);
    let leader = group.elect();
    for round in ["1", "2"] {
        assert!(group.answer(leader, Operation::Write(put("a", round))).is_ok());
        group.event(leader, Event::Freeze);
        group.settle();
    }
    let mut waiter = group.put(leader, "a", "3");
    group.settle();
    assert!(waiter.try_recv().is_err(), "two memtables wait to be merged");
    group.conditions.is_disk_full = true;
    group.checkpoint(leader);
    group.pass(Duration::from_millis(20));
    assert_eq!(waiter.try_recv().expect("answered"), Err(Refusal::DiskFull));
    assert_eq!(group.value(leader, "a").as_deref(), Some("2"));
}

#[test]
fn full_memtables_turn_writes_away_at_once() {
    let mut group = Group::new(3);
    let leader = group.elect();
    assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
    group.conditions.is_memory_full = true;
    match group.answer(leader, Operation::Write(put("a", "2"))) {
        Err(Refusal::Busy { .. }) => {}
        other => panic!("answered {other:?}"),
    }
    assert_eq!(group.value(leader, "a").as_deref(), Some("1"), "reads go on");
    group.conditions.is_memory_full = false;
    assert!(group.answer(leader, Operation::Write(put("a", "2"))).is_ok());
}

/// The node's budget for logs is shared: the largest logs are cut to one size.
#[test]
fn a_log_is_cut_to_what_the_node_can_afford() {
    let mut group = Group::new(3);
    let leader = group.elect();
    group.cut = vec![NodeId(leader % 3 + 1)];
    let value = "v".repeat(10_000);
    for n in 0..200 {
        assert!(group.answer(leader, Operation::Write(put(&format!("k{n}"), &value))).is_ok());
    }
    group.checkpoint(leader);
    let before = group.member(leader).replica.log_bytes();
    assert!(before > 2_000_000);
    let wanted = before * 6 / 10;
    group.conditions.log_keep_bytes = wanted;
    group.event(leader, Event::Trim);
    group.settle();
    let kept = group.member(leader).replica.log_bytes();
    assert!(kept.abs_diff(wanted) < 100_000, "{kept} of {before}, wanted {wanted}");
    let base = group.member(leader).journal.base();
    assert!((60..100).contains(&base), "{base}");
    // A follower keeps a tail of its share, whatever the others need.
    let follower = (1..=3).find(|n| *n != leader && !group.cut.contains(&NodeId(*n)));
    let follower = follower.expect("one of three");
    group.conditions.log_keep_bytes = u64::MAX;
    group.conditions.log_share_bytes = 4_000_000;
    group.checkpoint(follower);
    let kept = group.member(follower).replica.log_bytes();
    assert!(kept.abs_diff(1_000_000) < 300_000, "a quarter of its share: {kept}");
}

/// Saying no is quick, and says nothing about how fast the node works: nobody may be let in because
/// of it.
#[test]
fn what_is_refused_is_no_measure_of_what_can_be_done() {
    let mut group = Group::new(3);
    let leader = group.elect();
    let follower = leader % 3 + 1;
    let pace =
        Pace { time_max: Duration::from_millis(500), bytes_min: 1000, requests_min: u64::MAX };
    let paced = |group: &mut Group, work: &mut dyn FnMut(&mut Group)| {
        group.budget = Budget::paced(64 << 20, pace);
        let begin = Instant::now();
        group.budget.sample(begin);
        work(group);
        group.budget.sample(begin + Duration::from_secs(1));
        assert_eq!(group.budget.used_bytes(), 0, "nobody waits any more");
        group.budget.paced_bytes_max()
    };
    let get = || Operation::Get { key: key("a") };
    let refused = paced(&mut group, &mut |group| {
        for _ in 0..50 {
            assert!(group.answer(follower, Operation::Write(put("a", "1"))).is_err());
            assert!(group.answer(follower, get()).is_err());
        }
        group.conditions.is_disk_full = true;
        for _ in 0..50 {
            assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_err());
        }
        group.conditions.is_disk_full = false;
    });
    assert_eq!(refused, Some(1000));
    let served = paced(&mut group, &mut |group| {
        for _ in 0..50 {
            assert!(group.answer(leader, Operation::Write(put("a", "1"))).is_ok());
            assert!(group.answer(leader, get()).is_ok());
        }
    });
    assert_eq!(served, Some(5000), "half of 10,000 bytes within a second");
    group.cut = vec![NodeId(leader)];
    let late = paced(&mut group, &mut |group| {
        let waiting: Vec<_> = (0..50).map(|_| group.put(leader, "a", "2")).collect();
        group.pass(Duration::from_secs(6));
        for mut waiter in waiting {
            assert!(waiter.try_recv().expect("answered").is_err());
        }
    });
    assert_eq!(late, Some(1000));
}
