//! Transfers under loss, crashes and stale messages: in the end the follower has what the leader
//! had, and nobody keeps anything.

use super::handle::Command;
use super::message::{AbortReason, DeclineReason, SnapshotMessage};
use super::service::SnapshotOptions;
use super::world::{CHUNK, Content, TERM, Tweak, World};
use crate::descriptor::NodeId;
use flotilla_raft::{ReplicaId, Term};
use flotilla_storage::GroupId;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const USUAL: Tweak = |_| {};

/// Node 1 leads group 5 with some chunks, node 2 needs them.
fn pair(seed: u64, chunks: usize) -> World {
    let mut world = World::new(seed, 2, USUAL);
    world.node(1).shards.insert(GroupId(5), Content::new(9, chunks));
    world
}

fn assert_same(world: &World, group: u64) {
    let content = |node| &world.nodes[&NodeId(node)].shards[&GroupId(group)];
    assert_eq!(content(1), content(2), "the follower has something else");
}

fn count(world: &World, node: u64, event: &str) -> usize {
    world.nodes[&NodeId(node)].events.iter().filter(|known| **known == event).count()
}

#[test]
fn a_follower_gets_what_the_leader_has() {
    for chunks in [0, 1, 4, 5, 40] {
        let mut world = pair(1, chunks);
        world.want(1, 2, 5);
        world.settle();
        assert_same(&world, 5);
        assert_eq!(count(&world, 1, "sent"), 1);
        assert_eq!(count(&world, 2, "installed"), 1);
        assert!(world.now < SECOND, "nothing waited for a clock");
    }
}

/// Chunks that nobody has written yet are never more than the window.
#[test]
fn the_window_bounds_what_is_under_way() {
    let mut world = pair(2, 40);
    world.want(1, 2, 5);
    let (mut most, mut sent, mut done) = (0, 0, 0);
    let mut seen = 0;
    while world.step() {
        for (_, _, message) in &world.said[seen..] {
            match message {
                SnapshotMessage::Chunk { rows, .. } => sent += rows.len() / CHUNK,
                SnapshotMessage::ChunkDone { number, .. } => done = *number as usize + 1,
                _ => {}
            }
        }
        seen = world.said.len();
        most = most.max(sent - done);
    }
    assert!((2..=4).contains(&most), "{most} chunks were under way");
    world.settle();
}

/// Each message of a transfer is the last one before the connection breaks, once.
#[test]
fn a_broken_connection_anywhere_costs_no_new_export() {
    let whole = {
        let mut world = pair(3, 12);
        world.want(1, 2, 5);
        world.settle();
        world.delivered
    };
    for at in 0..whole {
        let mut world = pair(3, 12);
        world.want(1, 2, 5);
        while world.delivered < at && world.step() {}
        world.cut(1, 2);
        world.settle();
        assert_same(&world, 5);
        let first = world.said[0].2.transfer();
        assert!(
            world.said.iter().all(|(_, _, message)| message.transfer() == first),
            "cut after {at} messages: another transfer was begun"
        );
        assert_eq!(count(&world, 2, "installed"), 1);
    }
}

/// Only what one end says is lost, without anybody being told.
#[test]
fn silent_loss_is_noticed_by_the_clock() {
    let whole = 40;
    for at in 0..whole {
        for (from, to) in [(1, 2), (2, 1)] {
            let mut world = pair(4, 12);
            world.want(1, 2, 5);
            while world.delivered < at && world.step() {}
            world.pipes.remove(&(NodeId(from), NodeId(to)));
            world.settle();
            assert_same(&world, 5);
            assert!(world.now < 5 * SECOND, "noticed after {:?}", world.now);
        }
    }
}

#[test]
fn a_crash_of_either_end_anywhere_is_harmless() {
    let whole = {
        let mut world = pair(5, 12);
        world.want(1, 2, 5);
        world.settle();
        world.delivered
    };
    for at in 0..=whole {
        for node in [1, 2] {
            let mut world = pair(5, 12);
            world.want(1, 2, 5);
            while world.delivered < at && world.step() {}
            world.crash(node);
            world.settle();
            assert_same(&world, 5);
        }
    }
}

/// Crashes, cuts, silent loss and changing contents, at random.
#[test]
fn it_ends_well_whatever_happens_on_the_way() {
    for seed in 1..=300 {
        let mut world = World::new(seed, 3, USUAL);
        for group in 1..=4 {
            let chunks = world.random(30);
            world.node(1).shards.insert(GroupId(group), Content::new(3, chunks));
            world.want(1, 2, group);
            world.want(1, 3, group);
        }
        for _ in 0..60 {
            for _ in 0..world.random(25) {
                world.step();
            }
            let node = 1 + world.random(3) as u64;
            let other = 1 + (node + world.random(2) as u64) % 3;
            match world.random(12) {
                0 => world.crash(node),
                1 | 2 => world.cut(node, other),
                3 => drop(world.pipes.remove(&(NodeId(node), NodeId(other)))),
                4 => {
                    let group = GroupId(1 + world.random(4) as u64);
                    let index = world.node(1).shards[&group].index + 1;
                    let chunks = world.random(30);
                    world.node(1).shards.insert(group, Content::new(index, chunks));
                }
                5 => {
                    let group = GroupId(1 + world.random(4) as u64);
                    world.command(NodeId(1), Command::Cancel { group });
                }
                6 => {
                    // Anything that was ever said comes again.
                    let at = world.random(world.said.len());
                    let (from, to, message) = world.said[at].clone();
                    world.command(to, Command::Receive { from, messages: vec![message] });
                }
                _ => world.pass(Duration::from_millis(300)),
            }
        }
        // A follower may have been given up on while its leader was away.
        for group in 1..=4 {
            world.want(1, 2, group);
            world.want(1, 3, group);
        }
        world.settle();
        for group in 1..=4 {
            let group = GroupId(group);
            let content = |node| &world.nodes[&NodeId(node)].shards[&group];
            assert!(content(2) == content(1), "seed {seed}, {group}");
            assert!(content(3) == content(1), "seed {seed}, {group}");
        }
    }
}

/// What an earlier transfer left in some buffer does not disturb the next one.
#[test]
fn stale_messages_change_nothing() {
    let mut old = pair(6, 6);
    old.want(1, 2, 5);
    old.settle();
    let stale = old.said.clone();

    for at in 0..stale.len() {
        let mut world = pair(7, 12);
        world.crash(1);
        world.want(1, 2, 5);
        for _ in 0..at {
            world.step();
        }
        for (from, to, message) in &stale {
            world.command(*to, Command::Receive { from: *from, messages: vec![message.clone()] });
        }
        world.settle();
        assert_same(&world, 5);
        assert_eq!(world.node(2).shards[&GroupId(5)].chunks.len(), 12);
    }
}

#[test]
fn a_sender_takes_two_at_a_time_and_a_receiver_too() {
    let mut world = World::new(8, 4, USUAL);
    for group in 1..=6 {
        world.node(1).shards.insert(GroupId(group), Content::new(2, 10));
        world.node(2).shards.insert(GroupId(group + 10), Content::new(2, 10));
        world.want(1, 4, group);
        world.want(2, 4, group + 10);
    }
    let mut most = 0;
    while world.step() {
        most = most.max(world.node(4).importing());
        assert!(world.node(1).pinned() <= 2);
    }
    assert_eq!(most, 2);
    world.settle();
    assert_eq!(count(&world, 4, "installed"), 12);
    let busy = |message: &SnapshotMessage| {
        matches!(message, SnapshotMessage::Decline { reason: DeclineReason::Busy, .. })
    };
    assert!(world.said.iter().any(|(_, _, message)| busy(message)), "nobody had to wait");
}

/// A sender that waits for a busy receiver pins nothing.
#[test]
fn whoever_waits_pins_nothing() {
    let mut world = World::new(9, 2, |options| options.incoming_max = 0);
    world.node(1).shards.insert(GroupId(5), Content::new(2, 3));
    world.want(1, 2, 5);
    while world.step() {}
    assert_eq!(world.node(1).pinned(), 0);
    assert_eq!(count(&world, 1, "failed"), 0, "it goes on asking by itself");
    world.command(NodeId(1), Command::Cancel { group: GroupId(5) });
    world.node(1).wanted.clear();
    world.settle();
}

#[test]
fn the_end_of_a_leadership_ends_its_transfers() {
    let mut world = pair(10, 20);
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    world.command(NodeId(1), Command::Cancel { group: GroupId(5) });
    assert_eq!(world.node(1).pinned(), 0);
    world.settle();
    assert_eq!(count(&world, 1, "failed"), 0, "nobody waits for it any more");
    assert_eq!(count(&world, 2, "installed"), 0);
}

/// The new leader's offer takes the place of the old one's.
#[test]
fn a_newer_leader_supersedes() {
    let mut world = World::new(11, 3, USUAL);
    world.node(1).shards.insert(GroupId(5), Content::new(9, 20));
    world.node(3).shards.insert(GroupId(5), Content::new(12, 5));
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    let send = Command::Send {
        group: GroupId(5),
        node: NodeId(2),
        to: ReplicaId(2),
        term: Term(TERM.0 + 1),
    };
    world.command(NodeId(3), send);
    world.settle();
    assert_eq!(world.node(2).shards[&GroupId(5)].index, 12);
    assert_eq!(count(&world, 1, "failed"), 1);
    assert_eq!(count(&world, 2, "installed"), 1);
}

#[test]
fn a_sender_that_stays_away_is_given_up() {
    let mut world = pair(12, 20);
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    // It is gone for good, without a word.
    world.nodes.remove(&NodeId(1));
    world.pipes.clear();
    world.pass(29 * SECOND);
    assert_eq!(world.node(2).importing(), 1, "it may come back within its time");
    for _ in 0..3 {
        world.pass(SECOND);
    }
    assert_eq!(world.node(2).importing(), 0);
}

#[test]
fn a_receiver_that_stays_away_is_given_up() {
    let mut world = pair(13, 20);
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    for _ in 0..31 {
        world.pipes.clear();
        world.pass(SECOND);
    }
    assert_eq!(world.node(1).pinned(), 0);
    assert_eq!(count(&world, 1, "failed"), 1);
}

/// An end that answers and gets nowhere does not pin rows for ever.
#[test]
fn a_standstill_ends() {
    let mut world = pair(14, 20);
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    // The store of the receiver hangs: messages travel, nothing is written.
    for _ in 0..310 {
        for ends in [(NodeId(1), NodeId(2)), (NodeId(2), NodeId(1))] {
            while world.pipes.get(&ends).is_some_and(|pipe| !pipe.is_empty()) {
                world.deliver(ends);
            }
        }
        world.pass(SECOND);
    }
    assert_eq!(world.node(1).pinned(), 0);
    assert_eq!(world.node(2).importing(), 0);
}

#[test]
fn a_full_disk_declines_and_aborts() {
    let mut world = pair(15, 20);
    world.node(2).free_bytes.store(1 << 20, Ordering::Relaxed);
    world.want(1, 2, 5);
    while world.step() {}
    let (_, _, last) = world.said.last().unwrap();
    let full = DeclineReason::DiskFull;
    assert!(matches!(last, SnapshotMessage::Decline { reason, .. } if *reason == full), "{last:?}");
    assert_eq!(count(&world, 1, "failed"), 1);

    world.node(2).free_bytes.store(1 << 30, Ordering::Relaxed);
    world.pass(SECOND);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(2).free_bytes.store(0, Ordering::Relaxed);
    while world.step() {}
    assert_eq!(world.node(2).importing(), 0, "what came before the disk was full is dropped");
    assert_eq!(count(&world, 1, "failed"), 2);

    world.node(2).free_bytes.store(1 << 30, Ordering::Relaxed);
    world.settle();
    assert_same(&world, 5);
}

#[test]
fn a_chunk_that_changed_on_the_way_ends_the_transfer() {
    let mut world = pair(16, 6);
    world.want(1, 2, 5);
    let ends = (NodeId(1), NodeId(2));
    let spoil = |message: &mut SnapshotMessage| match message {
        SnapshotMessage::Chunk { crc, .. } => {
            *crc ^= 1;
            true
        }
        _ => false,
    };
    loop {
        let pipe = world.pipes.get_mut(&ends);
        if pipe.is_some_and(|pipe| pipe.iter_mut().any(spoil)) {
            break;
        }
        assert!(world.step());
    }
    let reason = AbortReason::Corrupt;
    world.settle();
    assert!(world.said.iter().any(|(_, _, message)| {
        matches!(message, SnapshotMessage::Abort { reason: said, .. } if *said == reason)
    }));
    assert_same(&world, 5);
}

/// What the sender sums up is not what came: nothing is installed.
#[test]
fn what_does_not_add_up_is_not_installed() {
    let mut world = pair(17, 6);
    world.want(1, 2, 5);
    let ends = (NodeId(1), NodeId(2));
    loop {
        let ends_of = |message: &mut SnapshotMessage| match message {
            SnapshotMessage::End { summary, .. } => {
                summary.digest ^= 1;
                true
            }
            _ => false,
        };
        if world.pipes.get_mut(&ends).is_some_and(|pipe| pipe.iter_mut().any(ends_of)) {
            break;
        }
        assert!(world.step());
    }
    while world.step() {}
    assert_eq!(count(&world, 2, "received"), 0);
    assert_eq!(count(&world, 1, "failed"), 1);
    world.settle();
    assert_same(&world, 5);
}

#[test]
fn damaged_rows_are_said_to_be_so() {
    let mut world = pair(18, 6);
    world.node(1).damaged.push(GroupId(5));
    world.want(1, 2, 5);
    while world.step() {}
    assert_eq!(count(&world, 1, "damaged"), 1);
    assert_eq!(count(&world, 1, "failed"), 1);
    assert_eq!((world.node(1).pinned(), world.node(2).importing()), (0, 0));
}

/// The replica decides after the import was given up: it is told, and does not wait for ever.
#[test]
fn an_order_to_install_what_is_gone_is_answered() {
    let mut world = pair(19, 3);
    world.want(1, 2, 5);
    while count(&world, 2, "received") == 0 && world.step() {}
    world.node(1).wanted.clear();
    let install = world.node(2).orders.pop_back().expect("it wants to install");
    world.pass(301 * SECOND);
    assert_eq!(world.node(2).importing(), 0);
    world.command(NodeId(2), install);
    assert_eq!(count(&world, 2, "install failed"), 1);
}

/// Nothing that the sender does can take away what is verified.
#[test]
fn what_is_verified_is_installed_whatever_becomes_of_the_sender() {
    let mut world = pair(20, 3);
    world.want(1, 2, 5);
    while count(&world, 2, "received") == 0 && world.step() {}
    world.node(1).wanted.clear();
    world.command(NodeId(1), Command::Cancel { group: GroupId(5) });
    world.crash(1);
    world.settle();
    assert_same(&world, 5);
}

#[test]
fn a_node_that_stops_leaves_nothing_behind() {
    let mut world = pair(21, 20);
    world.want(1, 2, 5);
    while world.node(2).importing() == 0 && world.step() {}
    world.node(1).wanted.clear();
    world.command(NodeId(2), Command::Shutdown);
    assert_eq!(world.node(2).importing(), 0);
    world.command(NodeId(1), Command::Shutdown);
    world.settle();
}

/// What leaves in a second is bounded by the rate, chunks that go twice included.
#[test]
fn the_rate_bounds_what_leaves() {
    fn slow(options: &mut SnapshotOptions) {
        options.bytes_per_second = 10 * CHUNK as u64;
    }
    let mut world = World::new(22, 2, slow);
    world.node(1).shards.insert(GroupId(5), Content::new(9, 50));
    world.want(1, 2, 5);
    world.settle();
    assert_same(&world, 5);
    let took = world.now;
    assert!((4 * SECOND..7 * SECOND).contains(&took), "50 chunks at 10 a second took {took:?}");
}
