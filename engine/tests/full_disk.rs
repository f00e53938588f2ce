//! Nodes whose disks are full: who leads, and what is served.

use bytes::Bytes;
use flotilla::{Engine, Error};
use futures_util::future::try_join_all;
use std::net::TcpListener;
use std::time::Duration;
use tempfile::TempDir;

const SHARDS: u8 = 8;

/// No disk has as much: a node that must keep this free is full from its start on.
const RESERVE_OF_A_FULL_DISK: u64 = 1 << 60;

const RESERVE: u64 = 1 << 20;

/// One node for each reserve, numbered from 1.
async fn start(directory: &TempDir, reserves: [u64; 3]) -> Vec<Engine> {
    let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> =
        listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
    let starts = listeners.into_iter().zip(reserves).zip(1..).map(|((listener, reserve), node)| {
        Engine::builder(directory.path().join(node.to_string()))
            .node_id(node)
            .peer_listener(listener)
            .peers((1..).zip(addresses.iter().cloned()))
            .shards(u32::from(SHARDS))
            .segment_bytes(12 << 20)
            .disk_reserve_bytes(reserve)
            .request_timeout(Duration::from_secs(20))
            .start()
    });
    try_join_all(starts).await.unwrap()
}

/// Waits until a node knows leaders of all shards that are as wanted.
async fn wait_for_leaders(db: &Engine, is_wanted: impl Fn(u64) -> bool) {
    let holds = || {
        let status = &db.statuses()[0];
        status.shards.len() == usize::from(SHARDS)
            && status.shards.iter().all(|shard| shard.leader.is_some_and(|node| is_wanted(node.0)))
    };
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        while !holds() {
            looks.tick().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "{:?}", db.statuses());
}

/// A key in each shard.
fn keys() -> impl Iterator<Item = [u8; 2]> {
    (0..SHARDS).map(|shard| [shard * (255 / SHARDS + 1), 7])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_leaves_leading_to_those_that_have_room() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(&directory, [RESERVE_OF_A_FULL_DISK, RESERVE, RESERVE]).await;
    for node in &nodes {
        wait_for_leaders(node, |leader| leader != 1).await;
    }
    for round in 0..20u8 {
        for (number, node) in nodes.iter().enumerate() {
            for key in keys() {
                let value = Bytes::from(vec![round, number as u8]);
                node.put(key, value.clone()).await.unwrap();
                assert_eq!(nodes[2 - number].get(key).await, Ok(Some(value)));
            }
        }
    }
    // It has all of it too, and takes nothing back.
    wait_for_leaders(&nodes[0], |leader| leader != 1).await;
    try_join_all(nodes.iter().map(Engine::shutdown)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_disks_are_all_full_lead_and_refuse_only_what_needs_room() {
    let directory = tempfile::tempdir().unwrap();
    let nodes = start(&directory, [RESERVE; 3]).await;
    for key in keys() {
        nodes[0].put(key, "before").await.unwrap();
    }
    try_join_all(nodes.iter().map(Engine::shutdown)).await.unwrap();

    let nodes = start(&directory, [RESERVE_OF_A_FULL_DISK; 3]).await;
    for node in &nodes {
        wait_for_leaders(node, |_| true).await;
        for key in keys() {
            assert_eq!(node.put(key, "new").await, Err(Error::DiskFull));
        }
    }
    for key in keys() {
        assert_eq!(nodes[1].get(key).await, Ok(Some(Bytes::from("before"))));
        nodes[2].delete(key).await.unwrap();
        assert_eq!(nodes[0].get(key).await, Ok(None));
    }
    try_join_all(nodes.iter().map(Engine::shutdown)).await.unwrap();
}
