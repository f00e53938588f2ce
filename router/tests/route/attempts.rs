//! Which attempts are made for one request, and how it ends.

use crate::world::{BUDGET_BYTES, Prank, World, get, late, put, soon, value};
use bytes::Bytes;
use flotilla_router::RouteError;
use flotilla_router::peer::PeerMessage;
use flotilla_shard::{
    Answer, BatchChange, Epoch, GroupId, NodeId, Operation, Refusal, Reply, Write, WriteOutcome,
};
use std::time::{Duration, Instant};

const IN_DOUBT: RouteError = RouteError::Timeout { maybe_committed: true };

fn written() -> Answer {
    Answer::Written(WriteOutcome::Put { version: 1, written: true, previous: None })
}

#[tokio::test]
async fn the_leader_here_and_the_leader_elsewhere() {
    let world = World::new(&["m"]);
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Ok(written()));
    assert_eq!(world.router(1).execute(put("z", "2"), late()).await, Ok(written()));
    assert_eq!(world.router(3).execute(get("a"), late()).await, Ok(value("1")));
    assert_eq!(world.router(2).execute(get("z"), late()).await, Ok(value("2")));
    assert_eq!(world.asked(), [1, 2, 1, 2]);
    assert_eq!(world.nodes[0].metric("flotilla_router_forwarded_total"), 1.0);
    assert_eq!(world.nodes[0].metric("flotilla_router_served_forwards_total"), 1.0);
    assert!(world.nodes.iter().all(|node| node.budget.used_bytes() == 0));
}

#[tokio::test]
async fn the_first_attempt_is_made_by_the_call_in_order() {
    let world = World::new(&["m"]);
    let router = world.router(1);
    let one = router.start(put("a", "1"), late());
    let more = router.start_all(vec![put("z", "2"), put("b", "3"), put("c", "4")], late());
    let seen: Vec<Operation> =
        world.shared.lock().seen.iter().map(|seen| seen.operation.clone()).collect();
    // Node 1 leads the first shard: its requests leave in order, then those for node 2.
    assert_eq!(seen, [put("a", "1"), put("b", "3"), put("c", "4"), put("z", "2")]);
    assert_eq!(one.await, Ok(written()));
    for pending in more {
        assert_eq!(pending.await, Ok(written()));
    }
}

#[tokio::test]
async fn a_hint_is_followed_at_once() {
    let world = World::new(&[]);
    world.prank(1, Prank::Say(Refusal::NotLeader { leader: Some(NodeId(3)) }));
    world.prank(3, Prank::Say(Refusal::NotLeader { leader: Some(NodeId(1)) }));
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Ok(written()));
    assert_eq!(world.asked(), [1, 3, 1]);
}

#[tokio::test]
async fn without_a_leader_nothing_is_proposed_until_the_deadline() {
    let world = World::new(&[]);
    world.shared.lock().leaders.clear();
    let started = Instant::now();
    let error = world.router(1).execute(put("a", "1"), soon()).await.unwrap_err();
    assert_eq!(error, RouteError::NoLeader { group: Some(GroupId(1)) });
    assert!(error.is_retryable() && !error.maybe_committed());
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(world.shared.lock().rows.is_empty());
    assert_eq!(world.nodes[0].budget.used_bytes(), 0);
}

#[tokio::test]
async fn a_request_waits_for_a_leader() {
    let world = World::new(&[]);
    world.shared.lock().leaders.clear();
    let pending = tokio::spawn(world.router(1).execute(put("a", "1"), late()));
    tokio::task::yield_now().await;
    world.shared.lock().leaders.insert(GroupId(1), NodeId(2));
    assert_eq!(pending.await.unwrap(), Ok(written()));
}

#[tokio::test]
async fn what_was_certainly_not_proposed_is_tried_again() {
    let world = World::new(&[]);
    for refusal in [
        Refusal::NotLeader { leader: None },
        Refusal::GroupNotFound,
        Refusal::Suspect,
        Refusal::EpochMismatch { descriptors: Vec::new() },
        Refusal::Timeout { maybe_committed: false },
    ] {
        world.prank(1, Prank::Say(refusal));
    }
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Ok(written()));
    let seen = world.shared.lock().seen.clone();
    let first = seen[0].origin;
    assert!(seen.iter().all(|seen| seen.origin == first), "all attempts are one write");
    assert!(world.nodes[0].metric("flotilla_router_retries_total") >= 5.0);
}

#[tokio::test]
async fn a_read_that_was_lost_is_tried_again() {
    let world = World::new(&[]);
    world.shared.lock().rows.insert(Bytes::from("a"), Bytes::from("1"));
    world.prank(1, Prank::Drop);
    world.prank(1, Prank::Say(Refusal::Timeout { maybe_committed: true }));
    assert_eq!(world.router(1).execute(get("a"), late()).await, Ok(value("1")));
}

#[tokio::test]
async fn a_lost_connection_moves_reads_and_writes() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    world.prank(1, Prank::Hold);
    let router = world.router(2);
    let write = router.start(put("a", "1"), late());
    let read = router.start(get("a"), late());
    assert_eq!(world.nodes[1].metric("flotilla_router_forwards_pending"), 2.0);
    world.shared.lock().leaders.insert(GroupId(1), NodeId(3));
    world.network.cut(NodeId(1), NodeId(2));
    assert_eq!(read.await, Ok(Answer::Value(None)));
    assert_eq!(write.await, Ok(written()));
    assert_eq!(world.asked(), [1, 1, 3, 3]);
    assert_eq!(world.nodes[1].metric("flotilla_router_forwards_pending"), 0.0);
    assert_eq!(world.nodes[1].budget.used_bytes(), 0);
}

#[tokio::test]
async fn a_late_answer_changes_nothing() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let pending = world.router(2).start(put("a", "1"), soon());
    let Reply::Peer { id, .. } = world.shared.lock().held.pop().unwrap().reply else {
        panic!("the request came from a peer");
    };
    world.network.cut(NodeId(1), NodeId(2));
    world.nodes[1].sink.receive(NodeId(1), vec![PeerMessage::Reply { id, result: Ok(written()) }]);
    assert_eq!(pending.await, Err(IN_DOUBT));
}

#[tokio::test]
async fn an_unreachable_leader_is_waited_for_and_asked_once() {
    let world = World::new(&[]);
    world.network.cut(NodeId(1), NodeId(2));
    let error = world.router(2).execute(put("a", "1"), soon()).await.unwrap_err();
    assert_eq!(error, RouteError::NoLeader { group: Some(GroupId(1)) });
    // Node 3 was asked, and named the leader that cannot be reached.
    assert!(world.asked().iter().all(|node| *node == 3));
    let pending = tokio::spawn(world.router(2).execute(put("a", "1"), late()));
    tokio::task::yield_now().await;
    world.network.heal(NodeId(1), NodeId(2));
    assert_eq!(pending.await.unwrap(), Ok(written()));
    assert_eq!(world.asked().iter().filter(|node| **node == 1).count(), 1);
}

#[tokio::test]
async fn an_unsent_request_is_tried_again() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let pending = world.router(2).start(put("a", "1"), late());
    let held = world.shared.lock().held.pop().unwrap();
    let Reply::Peer { id, .. } = held.reply else { panic!("the request came from a peer") };
    // The local network salts ids on the way; a reply through it finds its request.
    let result = Err(Refusal::NotLeader { leader: None });
    let reply = vec![flotilla_shard::Parcel::Reply { id, result }];
    world.nodes[0].outbox.send(NodeId(2), reply);
    assert_eq!(pending.await, Ok(written()));
}

#[tokio::test]
async fn an_overdue_forward_is_swept() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let started = Instant::now();
    assert_eq!(world.router(2).execute(put("a", "1"), soon()).await, Err(IN_DOUBT));
    assert!(started.elapsed() < Duration::from_secs(10));
    world.prank(1, Prank::Hold);
    let error = world.router(2).execute(get("a"), soon()).await.unwrap_err();
    assert_eq!(error, RouteError::Timeout { maybe_committed: false });
}

/// As when the leader's machine loses its network: nothing closes the connection.
#[tokio::test]
async fn who_leads_no_more_and_is_silent_is_not_waited_for() {
    let world = World::new(&[]);
    for operation in [put("a", "1"), get("a")] {
        world.shared.lock().leaders.insert(GroupId(1), NodeId(1));
        world.prank(1, Prank::Hold);
        let pending = world.router(2).start(operation, late());
        assert_eq!(world.asked().last(), Some(&1));
        world.shared.lock().leaders.insert(GroupId(1), NodeId(3));
        assert!(pending.await.is_ok());
        assert_eq!(world.asked().last(), Some(&3));
    }
    assert_eq!(world.effects_of("1"), 1);
    assert_eq!(world.nodes[1].metric("flotilla_router_forwards_pending"), 0.0);
}

#[tokio::test]
async fn only_the_door_refuses_and_it_does_so_at_once() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let big = Bytes::from(vec![0; BUDGET_BYTES as usize]);
    let batch = Operation::Write(Write::Batch {
        changes: vec![BatchChange::Put { key: Bytes::from("a"), value: big }],
        if_all_absent: false,
    });
    let first = world.router(1).start(batch, late());
    for operation in [put("b", "1"), get("b")] {
        let error = world.router(1).execute(operation, late()).await.unwrap_err();
        assert!(matches!(error, RouteError::Busy { .. }) && error.is_retryable(), "{error}");
    }
    // Another node's requests draw on the same budget here.
    let error = world.router(2).execute(put("b", "1"), late()).await.unwrap_err();
    assert!(matches!(error, RouteError::Busy { .. }));
    world.shared.lock().held.clear();
    let done = Answer::Written(WriteOutcome::Batch { version: 1, written: true });
    assert_eq!(first.await, Ok(done), "its reply was dropped, and it is made again");
    assert_eq!(world.router(1).execute(put("b", "1"), late()).await, Ok(written()));

    world.prank(1, Prank::Say(Refusal::Busy { retry_after: Duration::from_millis(7) }));
    let error = world.router(1).execute(put("b", "1"), late()).await.unwrap_err();
    assert_eq!(error, RouteError::Busy { retry_after: Duration::from_millis(7) });
}

#[tokio::test]
async fn who_waits_for_a_leader_counts_too() {
    let world = World::new(&[]);
    world.shared.lock().leaders.clear();
    let batch = |key: &'static str, bytes: u64| {
        let value = Bytes::from(vec![0; bytes as usize]);
        let change = BatchChange::Put { key: Bytes::from(key), value };
        Operation::Write(Write::Batch { changes: vec![change], if_all_absent: false })
    };
    let router = world.router(1);
    let waiting = tokio::spawn(router.start(batch("a", BUDGET_BYTES / 2), late()));
    let error = router.execute(batch("b", BUDGET_BYTES / 2), late()).await.unwrap_err();
    assert!(matches!(error, RouteError::Busy { .. }), "{error}");
    world.shared.lock().leaders.insert(GroupId(1), NodeId(2));
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(world.nodes[0].budget.used_bytes(), 0);
}

#[tokio::test]
async fn answers_teach_the_map() {
    let world = World::new(&[]);
    world.split("m", 2);
    assert_eq!(world.router(1).execute(put("z", "1"), late()).await, Ok(written()));
    let groups: Vec<u64> = world.shared.lock().seen.iter().map(|seen| seen.group.0).collect();
    assert_eq!(groups, [1, 2], "one mismatch, then the child");
    let map = world.router(1).map();
    let epoch = Epoch { version: 2, conf_version: 1 };
    assert_eq!(map.lookup(b"a").unwrap().descriptor.epoch, epoch);
    // A forward learns the same way.
    assert_eq!(world.router(3).execute(get("z"), late()).await, Ok(value("1")));
}

#[tokio::test]
async fn keys_of_two_shards_are_refused() {
    let world = World::new(&["m"]);
    let change = |key: &'static str| BatchChange::Delete { key: Bytes::from(key) };
    let batch = |keys: [&'static str; 2]| {
        Operation::Write(Write::Batch { changes: keys.map(change).to_vec(), if_all_absent: false })
    };
    let router = world.router(1);
    assert_eq!(router.execute(batch(["a", "z"]), late()).await, Err(RouteError::CrossShard));
    let answer = router.execute(batch(["a", "b"]), late()).await;
    assert_eq!(answer, Ok(Answer::Written(WriteOutcome::Batch { version: 1, written: true })));
    // Known to be split only after asking once.
    world.split("g", 3);
    assert_eq!(router.execute(batch(["a", "h"]), late()).await, Err(RouteError::CrossShard));
}

#[tokio::test]
async fn finished_writes_are_reported_finished() {
    let world = World::new(&[]);
    let router = world.router(1);
    world.prank(1, Prank::Hold);
    let stuck = router.start(put("a", "1"), late());
    world.prank(1, Prank::Lose);
    assert_eq!(router.execute(put("b", "1"), late()).await, Ok(written()));
    router.execute(put("c", "1"), late()).await.unwrap();
    let last = |world: &World| world.shared.lock().seen.last().unwrap().origin;
    let stuck_sequence = world.shared.lock().seen[0].origin.sequence;
    assert_eq!(last(&world).lowest_unacknowledged, stuck_sequence);
    drop(stuck);
    router.execute(put("d", "1"), late()).await.unwrap();
    assert_eq!(last(&world).lowest_unacknowledged, last(&world).sequence);
    router.execute(get("d"), late()).await.unwrap();
    assert_eq!(last(&world), flotilla_shard::Origin::default(), "reads have no sequence");
}

#[tokio::test]
async fn shutdown_ends_everything() {
    let world = World::new(&[]);
    world.prank(1, Prank::Hold);
    let forwarded = world.router(2).start(put("a", "1"), late());
    world.router(2).shutdown();
    assert_eq!(forwarded.await, Err(IN_DOUBT));
    assert_eq!(world.router(2).execute(get("a"), late()).await, Err(RouteError::Shutdown));
    // A stopping leader is not the end for others: they wait for the next one.
    world.prank(1, Prank::Say(Refusal::Shutdown));
    assert_eq!(world.router(3).execute(put("a", "1"), late()).await, Ok(written()));
    world.prank(1, Prank::Say(Refusal::Shutdown));
    assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Err(RouteError::Shutdown));
}

#[tokio::test]
async fn a_caller_needs_no_runtime() {
    let world = World::new(&[]);
    world.prank(1, Prank::Say(Refusal::NotLeader { leader: None }));
    let router = world.router(1).clone();
    let pending = router.start(put("a", "1"), late());
    let (done, answered) = tokio::sync::oneshot::channel();
    // A thread with an executor of its own, which has no timers.
    let thread = std::thread::spawn(move || {
        let _ = done.send(block_on(pending));
    });
    assert_eq!(answered.await, Ok(Ok(written())));
    thread.join().unwrap();
}

fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

/// Nobody else could ever answer: waiting for the deadline would only hide that.
#[tokio::test]
async fn the_only_replica_being_damaged_is_told_at_once() {
    for refusal in [Refusal::Damaged, Refusal::Suspect] {
        let world = World::new(&[]);
        for shard in &mut world.shared.lock().descriptors {
            shard.replicas.retain(|replica| replica.node == NodeId(1));
            shard.epoch.conf_version += 1;
        }
        let descriptors = world.shared.lock().descriptors.clone();
        world.router(1).learn(descriptors);
        world.prank(1, Prank::Say(refusal.clone()));
        let error = world.router(1).execute(put("a", "1"), late()).await.unwrap_err();
        assert!(matches!(&error, RouteError::Corrupt(text) if text.contains('1')), "{error}");
        assert!(!error.is_retryable() && !error.maybe_committed());
        assert_eq!(world.asked(), [1], "once");
        assert!(world.shared.lock().rows.is_empty());

        // Unless an attempt before may have done it.
        world.prank(1, Prank::Say(Refusal::Timeout { maybe_committed: true }));
        world.prank(1, Prank::Say(refusal.clone()));
        assert_eq!(world.router(1).execute(put("a", "1"), late()).await, Err(IN_DOUBT));

        // It never leads, so nobody names it; it is asked all the same.
        world.shared.lock().leaders.clear();
        let before = world.asked().len();
        world.prank(1, Prank::Say(refusal));
        let error = world.router(1).execute(put("a", "1"), late()).await.unwrap_err();
        assert!(matches!(error, RouteError::Corrupt(_)), "{error}");
        assert_eq!(world.asked()[before..], [1], "once");
    }
}
