//! Several nodes in one process: over channels, and over sockets.

use bytes::Bytes;
use flotilla::{Builder, Engine, Error};
use futures_util::TryStreamExt;
use std::net::TcpListener;
use std::time::Duration;
use tempfile::TempDir;

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[tokio::test]
async fn three_replicas_in_one_process() {
    let directory = directory();
    let build = || Engine::builder(directory.path()).replicas(3).shards(4);
    let db = build().start().await.unwrap();
    let writes = (0..200u32).map(|n| {
        let db = db.clone();
        // Spread over the shards by the first byte.
        async move { db.put([(n % 256) as u8, 1], n.to_string()).await.map(drop) }
    });
    futures_util::future::try_join_all(writes).await.unwrap();
    let rows: Vec<_> = db.scan(..).try_collect().await.unwrap();
    assert_eq!(rows.len(), 200);
    assert_eq!(db.get([7, 1]).await, Ok(Some(Bytes::from("7"))));

    let statuses = db.statuses();
    assert_eq!(statuses.iter().map(|status| status.node_id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(statuses.iter().all(|status| status.shards.len() == 4));
    let connected: Vec<u64> = statuses[1].connected.iter().map(|node| node.0).collect();
    assert_eq!(connected, [1, 3]);
    assert_eq!(db.registries().len(), 3);
    db.shutdown().await.unwrap();

    let db = build().start().await.unwrap();
    assert_eq!(db.get([199, 1]).await, Ok(Some(Bytes::from("199"))));
    db.shutdown().await.unwrap();

    // The same directory as something else would look empty, or lack its voters.
    for misfit in [
        Engine::builder(directory.path()),
        Engine::builder(directory.path()).replicas(1),
        Engine::builder(directory.path()).replicas(2),
        Engine::builder(directory.path()).replicas(5),
        build().cluster_name("other"),
    ] {
        let error = misfit.start().await.unwrap_err();
        assert!(matches!(&error, Error::Directory { .. }), "{error}");
    }
    // Refusals leave no harm behind.
    let db = build().start().await.unwrap();
    assert_eq!(db.get([199, 1]).await, Ok(Some(Bytes::from("199"))));
    db.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_single_node_is_not_taken_for_replicas() {
    let directory = directory();
    Engine::open(directory.path()).await.unwrap().shutdown().await.unwrap();
    let error = Engine::builder(directory.path()).replicas(3).start().await.unwrap_err();
    assert!(matches!(&error, Error::Directory { .. }), "{error}");
    Engine::open(directory.path()).await.unwrap().shutdown().await.unwrap();
}

#[tokio::test]
async fn three_nodes_over_sockets() {
    let directories = [directory(), directory(), directory()];
    let sockets = || {
        let listeners: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<String> =
            listeners.iter().map(|l| l.local_addr().unwrap().to_string()).collect();
        (listeners, addresses)
    };
    for round in 0..2u64 {
        // Addresses may change between starts.
        let (listeners, addresses) = sockets();
        let peers = || (1..).zip(addresses.iter().cloned());
        let starts = listeners.into_iter().zip(&directories).zip(1..).map(
            |((listener, directory), node)| {
                Engine::builder(directory.path())
                    .node_id(node)
                    .peer_listener(listener)
                    .peers(peers())
                    .shards(2)
                    .start()
            },
        );
        let nodes = futures_util::future::try_join_all(starts).await.unwrap();
        for (n, node) in nodes.iter().enumerate() {
            // Any node takes any key.
            node.put(format!("a{round}{n}"), "low").await.unwrap();
            node.put([255, round as u8, n as u8], "high").await.unwrap();
        }
        let expected = 6 * (round as usize + 1);
        for node in &nodes {
            let rows: Vec<_> = node.scan(..).try_collect().await.unwrap();
            assert_eq!(rows.len(), expected);
        }
        for node in nodes {
            node.shutdown().await.unwrap();
        }
    }
}

#[tokio::test]
async fn contradictions_are_refused_before_anything_is_written() {
    let directory = directory();
    let path = directory.path().join("new");
    let build = || Engine::builder(&path);
    let local = || "127.0.0.1:0".parse().unwrap();
    let all = [(1, "127.0.0.1:1"), (2, "127.0.0.1:2"), (3, "127.0.0.1:3")];
    let cases: Vec<(&str, Builder)> = vec![
        ("not both", build().shards(2).split_at(["a"])),
        ("out of range", build().shards(0)),
        ("ascend", build().split_at(["b", "a"])),
        ("empty", build().split_at([""])),
        ("replicas must be", build().replicas(0)),
        ("replicas must be", build().replicas(1000)),
        ("goes without", build().replicas(3).node_id(1)),
        ("goes without", build().replicas(3).peers(all)),
        ("begin at 1", build().node_id(0)),
        ("needs peers", build().node_id(1).listen(local())),
        ("must listen", build().node_id(1).peers(all)),
        ("needs its node_id", build().listen(local()).peers(all)),
        ("not listed", build().node_id(4).listen(local()).peers(all)),
        ("listed twice", build().node_id(1).listen(local()).peers(all).peers([(1, "x")])),
        ("lanes", build().lanes(0)),
        ("key_bytes_max", build().key_bytes_max(0)),
        ("heartbeat_interval", build().heartbeat_interval(Duration::ZERO)),
        ("election_timeout", build().election_timeout(Duration::from_millis(1))),
        ("request_timeout", build().request_timeout(Duration::ZERO)),
    ];
    for (words, builder) in cases {
        let error = builder.start().await.unwrap_err();
        assert!(matches!(&error, Error::Options(_)), "{error}");
        assert!(error.to_string().contains(words), "`{words}` is not in `{error}`");
    }
    assert!(!path.exists());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let directory = directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Engine::builder(directory.path())
        .node_id(1)
        .listen(address)
        .peers([(1, address.to_string()), (2, "127.0.0.1:1".to_owned())])
        .start()
        .await
        .unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
