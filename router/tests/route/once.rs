//! Each write takes effect at most once, however often it is sent, and no error lies about it.

use crate::world::{BUDGET_BYTES, Prank, World, late, put, soon};
use flotilla_router::RouteError;
use flotilla_shard::{Answer, CommandFailure, GroupId, NodeId, Origin, Refusal, WriteOutcome};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::time::Duration;

const IN_DOUBT: RouteError = RouteError::Timeout { maybe_committed: true };

fn written() -> Answer {
    Answer::Written(WriteOutcome::Put { version: 1, written: true, previous: None })
}

fn expired(watermark_ms: u64) -> Prank {
    Prank::Fail(CommandFailure::SessionExpired { watermark_ms })
}

/// Under which names node 1 was asked, in order. Others that were asked in between named it.
fn origins(world: &World) -> Vec<Origin> {
    let shared = world.shared.lock();
    let here = shared.seen.iter().filter(|seen| seen.node == NodeId(1));
    here.map(|seen| seen.origin).collect()
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_under_the_same_name() {
    let world = World::new(&[]);
    for prank in [Prank::Lose, Prank::Drop, Prank::Lose] {
        world.prank(1, prank);
    }
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Ok(written()));
    assert_eq!(world.effects_of("1"), 1);
    let origins = origins(&world);
    assert_eq!(origins.len(), 4);
    assert!(origins.iter().all(|origin| *origin == origins[0] && origin.session != 0));
    let node = &world.nodes[0];
    assert_eq!(node.metric("flotilla_router_doubts_total"), 1.0);
    assert_eq!(node.metric("flotilla_router_doubts_resolved_total"), 1.0);
    assert_eq!(node.metric("flotilla_router_in_doubt_total"), 0.0);
    assert_eq!(node.budget.used_bytes(), 0);
}

#[tokio::test]
async fn a_lost_forward_that_took_effect_after_all_is_not_doubled() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let pending = world.router(2).start(put("a", "1"), late());
    world.shared.lock().leaders.insert(GroupId(1), NodeId(3));
    world.network.cut(NodeId(1), NodeId(2));
    assert_eq!(pending.await, Ok(written()), "by the new leader");
    assert_eq!(world.effects_of("1"), 1);
    world.commit_held();
    assert_eq!(world.effects_of("1"), 1, "the first attempt was in the log too");
}

#[tokio::test]
async fn refusals_say_nothing_about_the_attempt_before() {
    for refusal in [
        Refusal::Busy { retry_after: Duration::from_millis(1) },
        Refusal::DiskFull,
        Refusal::Storage("down".to_owned()),
        Refusal::NotLeader { leader: None },
        Refusal::Timeout { maybe_committed: false },
        Refusal::Damaged,
    ] {
        let world = World::new(&[]);
        world.prank(1, Prank::Lose);
        world.prank(1, Prank::Say(refusal.clone()));
        let result = world.router(1).execute(put("a", "1"), late()).await;
        assert_eq!(result, Ok(written()), "after {refusal}");
        assert_eq!(world.effects_of("1"), 1);
    }
    for refusal in [Refusal::TooLarge { bytes: 2, bytes_max: 1 }, Refusal::Shutdown] {
        let world = World::new(&[]);
        world.prank(1, Prank::Lose);
        world.prank(1, Prank::Say(refusal.clone()));
        let result = world.router(1).execute(put("a", "1"), late()).await;
        assert_eq!(result, Err(IN_DOUBT), "after {refusal}");
    }
}

#[tokio::test]
async fn what_stays_unknown_until_the_deadline_is_called_so() {
    let world = World::new(&[]);
    world.prank(1, Prank::Lose);
    let pending = world.router(1).start(put("a", "1"), soon());
    // Nobody leads any more: by itself that would be an error without effect.
    world.shared.lock().leaders.clear();
    assert_eq!(pending.await, Err(IN_DOUBT));
    assert_eq!(world.effects_of("1"), 1, "it had an effect indeed");
    assert_eq!(world.nodes[0].metric("flotilla_router_in_doubt_total"), 1.0);
}

#[tokio::test]
async fn a_forgotten_session_is_replaced_before_anything_happened() {
    let world = World::new(&[]);
    world.prank(1, Prank::Say(Refusal::NotLeader { leader: Some(NodeId(1)) }));
    let watermark_ms = u64::MAX / 2;
    world.prank(1, expired(watermark_ms));
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Ok(written()));
    assert_eq!(world.router(1).execute(put("a", "2"), late()).await, Ok(written()));
    let names = origins(&world);
    assert_eq!(names[0], names[1]);
    assert_ne!(names[1].session, names[2].session);
    assert!(names[2].session_born_ms > watermark_ms);
    assert_eq!(names[3].session, names[2].session, "later writes use the new one");
    assert_eq!(world.nodes[0].metric("flotilla_router_sessions_renewed_total"), 1.0);

    world.prank(1, Prank::Fail(CommandFailure::Acknowledged));
    assert_eq!(world.router(1).execute(put("a", "3"), late()).await, Ok(written()));
    let names = origins(&world);
    let (refused, taken) = (names[names.len() - 2], names[names.len() - 1]);
    assert!(taken.sequence > refused.sequence);
}

#[tokio::test]
async fn a_session_forgotten_after_doubt_leaves_the_doubt() {
    for failure in [
        CommandFailure::SessionExpired { watermark_ms: u64::MAX / 2 },
        CommandFailure::Acknowledged,
    ] {
        let world = World::new(&[]);
        world.prank(1, Prank::Lose);
        world.prank(1, Prank::Fail(failure));
        let result = world.router(1).execute(put("a", "1"), late()).await;
        assert_eq!(result, Err(IN_DOUBT));
        assert_eq!((world.effects_of("1"), origins(&world).len()), (1, 2));
    }
}

#[tokio::test]
async fn a_name_given_by_the_caller_is_kept() {
    let world = World::new(&[]);
    let origin = Origin { session: 7, session_born_ms: 1, sequence: 3, lowest_unacknowledged: 2 };
    let start = |deadline| world.router(2).start_as(origin, put("a", "1"), deadline);
    world.prank(1, Prank::Lose);
    assert_eq!(start(late()).await, Ok(written()));
    assert_eq!(start(late()).await, Ok(written()), "the same call from anywhere");
    assert_eq!(world.effects_of("1"), 1);
    assert!(world.shared.lock().seen.iter().all(|seen| seen.origin == origin));

    let failure = CommandFailure::SessionExpired { watermark_ms: 5 };
    world.prank(1, Prank::Fail(failure));
    let told = Answer::Written(WriteOutcome::Failed(failure));
    assert_eq!(start(late()).await, Ok(told), "never replaced by another session");
    world.prank(1, Prank::Lose);
    world.prank(1, Prank::Fail(failure));
    assert_eq!(start(late()).await, Err(IN_DOUBT));
}

#[tokio::test]
async fn a_dropped_future_is_finished_and_never_sent_again() {
    let world = World::new(&[]);
    world.prank(1, Prank::Drop);
    let router = world.router(1);
    let dropped = router.start(put("a", "1"), late());
    let sequence = origins(&world)[0].sequence;
    drop(dropped);
    router.execute(put("b", "2"), late()).await.unwrap();
    let seen = origins(&world);
    assert_eq!(seen.len(), 2);
    assert!(seen[1].lowest_unacknowledged > sequence);
    assert_eq!(world.nodes[0].budget.used_bytes(), 0);
}

/// The door closes while nobody knows what became of a write.
#[tokio::test]
async fn a_write_in_doubt_is_carried_on_though_the_door_is_full() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let write = world.router(1).start(put("a", "1"), late());
    world.shared.lock().held.clear();
    let full = world.nodes[0].budget.acquire(BUDGET_BYTES).expect("nothing else is held");
    assert_eq!(write.await, Ok(written()));
    let refused = world.router(1).execute(put("b", "2"), late()).await;
    assert!(matches!(refused, Err(RouteError::Busy { .. })), "{refused:?}");
    drop(full);
    assert_eq!(world.nodes[0].budget.used_bytes(), 0);
}

#[tokio::test]
async fn who_drains_waits_for_everything_that_was_started() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let router = world.router(2).clone();
    let pending = tokio::spawn(router.start(put("a", "1"), late()));
    router.refuse_new();
    let refused = router.execute(put("b", "2"), late()).await;
    assert_eq!(refused, Err(RouteError::Shutdown), "certainly without effect");
    let mut drained = Box::pin(router.drained());
    assert!(futures_util::poll!(&mut drained).is_pending());
    // The old leader goes; the write is repeated at the new one although the node is stopping.
    world.shared.lock().leaders.insert(GroupId(1), NodeId(3));
    world.network.cut(NodeId(1), NodeId(2));
    drained.await;
    assert_eq!(pending.await.unwrap(), Ok(written()));
    assert_eq!(world.effects_of("1"), 1);
}

/// Sends writes through all nodes while answers are lost, requests are held back and committed
/// late, connections break and leaders change. Returns how many writes took effect more than once.
async fn storm(world: &World, seed: u64) -> usize {
    const WRITES: usize = 300;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut results = Vec::new();
    for n in 0..WRITES {
        let node = rng.random_range(1..=3);
        let leader = world.shared.lock().leaders[&GroupId(1)];
        let prank = match rng.random_range(0..6) {
            0 => Some(Prank::Lose),
            1 => Some(Prank::Drop),
            2 => Some(Prank::Hold),
            3 => Some(Prank::Say(Refusal::NotLeader { leader: None })),
            _ => None,
        };
        if let Some(prank) = prank {
            world.prank(leader.0, prank);
        }
        let key = if rng.random() { "a" } else { "z" };
        let value: &'static str = Box::leak(n.to_string().into_boxed_str());
        results.push(tokio::spawn(world.router(node).start(put(key, value), late())));
        disturb(world, &mut rng).await;
    }
    // Who still holds a request gives it up; what it held takes effect late.
    for from in 1..=3 {
        for to in from + 1..=3 {
            world.network.cut(NodeId(from), NodeId(to));
            world.network.heal(NodeId(from), NodeId(to));
        }
    }
    world.shared.lock().pranks.clear();
    world.commit_held();
    let mut doubled = 0;
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.await.unwrap(), Ok(written()), "write {n} had time enough");
        world.commit_held();
        let effects = world.effects_of(&n.to_string());
        assert!(effects >= 1, "write {n} was acknowledged without an effect");
        doubled += usize::from(effects > 1);
    }
    doubled
}

async fn disturb(world: &World, rng: &mut impl Rng) {
    tokio::task::yield_now().await;
    match rng.random_range(0..20) {
        0 => {
            let leader = NodeId(rng.random_range(1..=3));
            world.shared.lock().leaders.insert(GroupId(1), leader);
        }
        1 => {
            let (from, to) = (rng.random_range(1..=2), 3);
            world.network.cut(NodeId(from), NodeId(to));
            world.network.heal(NodeId(from), NodeId(to));
        }
        2 => world.commit_held(),
        _ => {}
    }
}

#[tokio::test]
async fn no_write_takes_effect_twice_in_a_storm() {
    for seed in 0..10 {
        let world = World::new(&[]);
        assert_eq!(storm(&world, seed).await, 0, "seed {seed}");
        let mut resolved = 0.0;
        for node in &world.nodes {
            assert_eq!(node.budget.used_bytes(), 0);
            assert_eq!(node.metric("flotilla_router_forwards_pending"), 0.0);
            resolved += node.metric("flotilla_router_doubts_resolved_total");
        }
        assert!(resolved >= 20.0, "the storm was a calm: {resolved} doubts");
    }
}

/// The same storm is noticed where writes have no names.
#[cfg(feature = "test-switches")]
#[tokio::test]
async fn without_sessions_the_storm_doubles_writes() {
    let world = World::with_options(&[], |node| {
        let mut options = flotilla_router::RouterOptions::new(node);
        options.without_sessions = true;
        options
    });
    assert!(storm(&world, 0).await > 0);
    let operation =
        |seen: &crate::world::Seen| matches!(seen.operation, flotilla_shard::Operation::Write(_));
    let shared = world.shared.lock();
    assert!(shared.seen.iter().filter(|seen| operation(seen)).all(|seen| seen.origin.session == 0));
}
