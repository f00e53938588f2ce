//! Who is asked by reads that need not be current, and how the door shares its room.

use crate::world::{BUDGET_BYTES, Prank, World, get, late, put, value};
use bytes::Bytes;
use flotilla_router::{PageOptions, RouteError};
use flotilla_shard::{
    BatchChange, Consistency, GroupId, KeyRange, NodeId, Operation, Refusal, Write,
};
use std::time::Duration;

const STALE: Consistency = Consistency::Stale { max_lag: Duration::from_secs(1) };

fn world() -> World {
    let world = World::new(&[]);
    world.shared.lock().rows.insert(Bytes::from("a"), Bytes::from("1"));
    world
}

#[tokio::test]
async fn the_replica_here_is_asked_whoever_leads() {
    for consistency in [STALE, Consistency::Local] {
        let world = world();
        let read = world.router(3).start_read(get("a"), consistency, late());
        assert_eq!(read.await, Ok(value("1")));
        assert_eq!(world.asked(), [3]);
        assert_eq!(world.shared.lock().seen[0].consistency, consistency);
    }
    let world = world();
    let read = world.router(3).start_read(get("a"), Consistency::Linearizable, late());
    assert_eq!(read.await, Ok(value("1")));
    assert_eq!(world.asked(), [1]);
}

#[tokio::test]
async fn a_replica_that_cannot_serve_names_the_leader_or_another_is_asked() {
    let world = world();
    world.prank(3, Prank::Say(Refusal::NotLeader { leader: Some(NodeId(1)) }));
    assert_eq!(world.router(3).start_read(get("a"), STALE, late()).await, Ok(value("1")));
    assert_eq!(world.asked(), [3, 1]);

    world.shared.lock().seen.clear();
    world.shared.lock().leaders.clear();
    world.prank(3, Prank::Say(Refusal::Damaged));
    world.prank(1, Prank::Say(Refusal::Damaged));
    let read = world.router(3).start_read(get("a"), Consistency::Local, late());
    assert_eq!(read.await, Ok(value("1")), "without any leader");
    assert_eq!(world.asked(), [3, 1, 2]);
}

#[tokio::test]
async fn without_a_replica_here_any_other_is_asked() {
    let world = world();
    for shard in &mut world.shared.lock().descriptors {
        shard.replicas.retain(|replica| replica.node != NodeId(3));
        shard.epoch.conf_version += 1;
    }
    world.router(3).learn(world.shared.lock().descriptors.clone());
    world.network.cut(NodeId(1), NodeId(3));
    let read = world.router(3).start_read(get("a"), Consistency::Local, late());
    assert_eq!(read.await, Ok(value("1")));
    assert_eq!(world.asked(), [2]);
}

#[tokio::test]
async fn pages_and_many_keys_carry_it_and_writes_do_not_care() {
    let world = world();
    let router = world.router(2);
    let options = PageOptions { rows_max: 9, bytes_max: 1 << 20, reverse: false, keys_only: false };
    let page = router.page_with(KeyRange::whole(), options, Consistency::Local, late());
    assert_eq!(page.await.unwrap().rows.len(), 1);
    let keys = vec![Bytes::from("a"), Bytes::from("b")];
    let values = router.get_many_with(keys, Consistency::Local, late()).await.unwrap();
    assert_eq!(values.iter().flatten().count(), 1);
    assert_eq!(world.asked(), [2, 2]);
    router.start_read(put("b", "2"), Consistency::Local, late()).await.unwrap();
    assert_eq!(world.asked(), [2, 2, 1], "a write goes to the leader");
}

#[tokio::test]
async fn a_hot_shard_leaves_room_at_the_door() {
    let world = World::new(&["m"]);
    let router = world.router(1);
    let big = |key: &'static str| {
        let value = Bytes::from(vec![0; BUDGET_BYTES as usize / 16]);
        let changes = vec![BatchChange::Put { key: Bytes::from(key), value }];
        Operation::Write(Write::Batch { changes, if_all_absent: false })
    };
    world.shared.lock().leaders.insert(GroupId(1), NodeId(1));
    for _ in 0..64 {
        world.prank(1, Prank::Hold);
    }
    let hot: Vec<_> = (0..16).map(|_| router.start(big("a"), late())).collect();
    let held = world.shared.lock().held.len();
    assert!((4..12).contains(&held), "{held} of 16 large writes fill the shard's share");
    assert!(router.execute(big("z"), late()).await.is_ok(), "the other shard goes on");
    world.shared.lock().pranks.clear();
    world.shared.lock().held.clear();
    let mut refused = 0;
    for pending in hot {
        match pending.await {
            Ok(_) => {}
            Err(RouteError::Busy { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(refused, 16 - held);
    assert_eq!(world.nodes[0].budget.used_bytes(), 0);
}
