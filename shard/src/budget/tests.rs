//! What the door lets in, by bytes and by time, and what it gives back.

use super::*;
use std::time::Duration;

#[test]
fn refuses_over_the_maximum_and_recovers() {
    let budget = Budget::new(100);
    let first = budget.acquire(60).unwrap();
    assert!(budget.acquire(41).is_none());
    assert_eq!(budget.used_bytes(), 60);
    let second = budget.acquire(40).unwrap();
    drop(first);
    assert_eq!(budget.used_bytes(), 40);
    drop(second);
    assert_eq!(budget.used_bytes(), 0);
}

#[test]
fn one_oversized_request_passes_alone() {
    let budget = Budget::new(100);
    let alone = budget.acquire(1000).expect("nothing else is held");
    assert!(budget.acquire(1).is_none());
    drop(alone);
    assert!(budget.acquire(1).is_some());
}

#[test]
fn accounts_close_the_door_and_memtables_do_not() {
    let budget = Budget::new(100);
    let (replies, rows) = (budget.account(Part::Replies), budget.account(Part::Memtables));
    rows.add(1000);
    let first = budget.acquire(10).expect("memtables have their own limit");
    replies.add(80);
    assert!(budget.acquire(20).is_none());
    assert!(budget.acquire(10).is_some());
    drop(first);
    replies.add(80);
    assert!(budget.acquire(10).is_some(), "one request at a time goes on");
    replies.sub(160);
    assert_eq!(budget.total_bytes(), 0);
    assert_eq!(replies.used_bytes(), 0);
}

#[test]
fn a_hot_group_leaves_room_for_others() {
    let budget = Budget::new(1000);
    let hot: Vec<Permit> = std::iter::from_fn(|| budget.acquire_for(GroupId(1), 10)).collect();
    assert_eq!(hot.len(), 50, "as much as is left free");
    let cold: Vec<Permit> = std::iter::from_fn(|| budget.acquire_for(GroupId(2), 10)).collect();
    assert_eq!(cold.len(), 25);
    assert!(budget.acquire_for(GroupId(3), 10).is_some());
    drop(hot);
    assert!(budget.acquire_for(GroupId(2), 10).is_some());
    drop(cold);
    assert_eq!(budget.used_bytes(), 0);
    assert!(budget.shared.groups.iter().all(|group| group.held_bytes.load(Relaxed) == 0));
}

const PACE: Pace = Pace { time_max: Duration::from_millis(500), bytes_min: 1000, requests_min: 4 };

/// A paced budget, and what moves its clock by one window.
fn paced() -> (Budget, impl FnMut()) {
    let budget = Budget::paced(1_000_000, PACE);
    let mut now = Instant::now();
    budget.sample(now);
    let sampled = budget.clone();
    let pass = move || {
        now += WINDOW_MIN;
        sampled.sample(now);
    };
    (budget, pass)
}

/// Takes 100 bytes for `group` as often as the door allows.
fn fill(budget: &Budget, group: u64) -> Vec<Permit> {
    std::iter::from_fn(|| budget.acquire_for(GroupId(group), 100)).collect()
}

fn finish(budget: &Budget, group: u64, count: usize) {
    for _ in 0..count {
        drop(budget.carry_on(Some(GroupId(group)), 100));
    }
}

#[test]
fn a_cold_node_takes_a_burst_and_no_more() {
    let (budget, _) = paced();
    let burst: Vec<Permit> = std::iter::from_fn(|| budget.acquire(100)).collect();
    assert_eq!(burst.len(), 10, "the floor");
    assert_eq!(budget.refusals(Rule::Time), 1);
    drop(burst);
    let large: Vec<Permit> = std::iter::from_fn(|| budget.acquire(10_000)).collect();
    assert_eq!(large.len(), 4, "a few are let in, however large");
    assert!(budget.acquire(1_000_000).is_none(), "bytes are bounded all the same");
}

#[test]
fn no_more_is_let_in_than_can_be_finished_in_time() {
    let (budget, mut pass) = paced();
    finish(&budget, 1, 100);
    pass();
    assert_eq!(budget.paced_bytes_max(), Some(20_000), "half a second at 40,000 per second");
    let waiting: Vec<Permit> = std::iter::from_fn(|| budget.acquire(100)).collect();
    assert_eq!(waiting.len(), 200);
    // The disk becomes slower.
    for _ in 0..4 {
        finish(&budget, 1, 20);
        pass();
    }
    assert_eq!(budget.paced_bytes_max(), Some(4_000));
    assert!(budget.acquire(100).is_none());
    assert_eq!(budget.used_bytes(), 20_000, "what was let in is carried through");
}

#[test]
fn what_was_not_served_says_nothing_about_the_pace() {
    let (budget, mut pass) = paced();
    for _ in 0..100 {
        budget.carry_on(Some(GroupId(1)), 100).note_unserved();
    }
    pass();
    assert_eq!(budget.paced_bytes_max(), Some(1000));
}

#[test]
fn a_hot_group_leaves_time_for_others() {
    let (budget, mut pass) = paced();
    finish(&budget, 1, 100);
    pass();
    let hot = fill(&budget, 1);
    assert_eq!(hot.len(), 100, "as much as is left free");
    assert_eq!(fill(&budget, 2).len(), 50);
    assert!(budget.refusals(Rule::Group) >= 2);
}

/// The quorum of one shard is lost while it holds half of what may wait.
#[test]
fn a_stuck_group_holds_a_little_and_delays_nobody() {
    let (budget, mut pass) = paced();
    finish(&budget, 2, 100);
    pass();
    let stuck = fill(&budget, 1);
    assert_eq!(stuck.len(), 100);
    for _ in 0..2 * STUCK_WINDOWS {
        // Others still finish a fifth of what both did.
        finish(&budget, 2, 20);
        pass();
    }
    assert_eq!(budget.paced_bytes_max(), Some(4_000));
    assert!(budget.acquire_for(GroupId(1), 100).is_none(), "it holds enough");
    let others = fill(&budget, 2);
    assert_eq!(others.len(), 20, "half of what is left free, as if there were no stuck group");
    drop(stuck);
    assert!(budget.acquire_for(GroupId(1), 100).is_some(), "one more try is always allowed");
    // It lives again.
    finish(&budget, 1, 1);
    pass();
    pass();
    drop(others);
    assert!(fill(&budget, 1).len() > 1);
}

/// Nobody is stuck alone: the node is.
#[test]
fn a_node_that_finishes_nothing_lets_in_no_more() {
    let (budget, mut pass) = paced();
    let held = [fill(&budget, 1), fill(&budget, 2)];
    for _ in 0..2 * STUCK_WINDOWS {
        pass();
    }
    let before = budget.used_bytes();
    assert!(before >= 700, "{before}");
    assert!(fill(&budget, 1).is_empty());
    assert!(fill(&budget, 3).len() <= 3);
    drop(held);
    pass();
    assert!(fill(&budget, 1).len() > 3, "it lives again");
}

#[test]
fn who_was_let_in_is_carried_on() {
    let budget = Budget::new(100);
    let full = budget.acquire_for(GroupId(1), 100).unwrap();
    let again = budget.carry_on(Some(GroupId(1)), 60);
    assert_eq!(budget.used_bytes(), 160);
    drop(full);
    assert!(budget.acquire(50).is_none(), "it counts against others");
    drop(again);
    assert_eq!(budget.used_bytes(), 0);
}
