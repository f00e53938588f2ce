//! The admin port, over real connections to a node that is made up.
#![cfg(feature = "server")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use flotilla::server::admin::view::{NodeView, Readiness};
use flotilla::server::admin::{AdminNode, AdminServer, Response, get};
use flotilla_shard::{Epoch, NodeId, Role, ShardStatus};
use flotilla_storage::{GroupId, KeyRange};
use prometheus::Registry;
use serde_json::{Value, json};

/// A node that says what the test wants.
struct Pretender {
    shards: Mutex<Vec<ShardStatus>>,
    failure: Mutex<Option<String>>,
    registry: Registry,
}

impl AdminNode for Pretender {
    fn view(&self) -> NodeView {
        NodeView::new(1, "test", &self.shards.lock().unwrap(), &BTreeSet::from([2]))
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap().clone()
    }

    fn registry(&self) -> Registry {
        self.registry.clone()
    }
}

fn shard(group: u64, start: &'static [u8], end: Option<&'static [u8]>) -> ShardStatus {
    ShardStatus {
        group: GroupId(group),
        range: KeyRange { start: Bytes::from_static(start), end: end.map(Bytes::from_static) },
        epoch: Epoch { version: 1, conf_version: 1 },
        role: Role::Leader,
        leader: Some(NodeId(1)),
        term: 3,
        last_index: 9,
        commit_index: 9,
        applied_index: 9,
        persisted_index: 9,
        keys_estimate: 12,
        suspect: false,
        needs_snapshot: false,
        installing: false,
        leased: false,
        nodes: vec![NodeId(3), NodeId(1), NodeId(2)],
    }
}

/// A server with its pretender and its runtime, stopped at the end.
struct Door {
    node: Arc<Pretender>,
    server: Option<AdminServer>,
    address: String,
    runtime: tokio::runtime::Runtime,
}

impl Door {
    fn open(shards: Vec<ShardStatus>) -> Door {
        let node = Arc::new(Pretender {
            shards: Mutex::new(shards),
            failure: Mutex::new(None),
            registry: Registry::new(),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _inside = runtime.enter();
        let server = AdminServer::start(listener, Arc::clone(&node) as Arc<dyn AdminNode>).unwrap();
        let address = server.address().to_string();
        drop(_inside);
        Door { node, server: Some(server), address, runtime }
    }

    fn get(&self, path: &str) -> Response {
        get(&self.address, path, Duration::from_secs(10)).unwrap()
    }

    fn json(&self, path: &str) -> (u16, Value) {
        let response = self.get(path);
        (response.code, serde_json::from_slice(&response.body).unwrap())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.runtime.block_on(self.server.take().unwrap().shutdown());
    }
}

#[test]
fn status_has_the_promised_shape() {
    let mut last = shard(2, b"\x20\xff", None);
    last.role = Role::Candidate;
    last.leader = None;
    last.suspect = true;
    let door = Door::open(vec![last, shard(1, b"", Some(b"\x20\xff"))]);
    let (code, body) = door.json("/status");
    assert_eq!(code, 200);
    assert_eq!(body["node_id"], json!(1));
    assert_eq!(body["cluster"], json!("test"));
    let epoch = json!({ "version": 1, "conf_version": 1 });
    assert_eq!(
        body["shards"],
        json!([
            { "group": 1, "start": "", "end": "20ff", "epoch": epoch, "role": "leader", "leader": 1,
              "term": 3, "last_index": 9, "commit_index": 9, "applied_index": 9, "keys_estimate": 12 },
            { "group": 2, "start": "20ff", "end": "", "epoch": epoch, "role": "candidate",
              "leader": null, "term": 3, "last_index": 9, "commit_index": 9, "applied_index": 9,
              "keys_estimate": 12 },
        ])
    );
    assert_eq!(body["suspect"], json!([2]));
    assert_eq!(body["damaged"], json!([]));
    assert_eq!(body["installing"], json!([]));
    let node = |id: u64, connected: bool| json!({ "node_id": id, "connected": connected });
    assert_eq!(body["nodes"], json!([node(1, true), node(2, true), node(3, false)]));
    assert_eq!(body["placement"][0], json!({ "group": 1, "nodes": [1, 2, 3] }));
}

#[test]
fn ready_means_led_and_applied() {
    let door = Door::open(Vec::new());
    let (code, body) = door.json("/readyz");
    assert_eq!(code, 503, "a node without shards is not born yet");
    assert!(
        body["reason"].as_str().is_some_and(|reason| reason.contains("not born yet")),
        "{body}"
    );

    *door.node.shards.lock().unwrap() = vec![shard(1, b"", None)];
    assert_eq!(door.json("/readyz"), (200, json!({ "ready": true })));

    let mut behind = shard(1, b"", Some(b"a"));
    behind.commit_index = 5000;
    let mut headless = shard(2, b"a", None);
    headless.leader = None;
    *door.node.shards.lock().unwrap() = vec![behind, headless, shard(3, b"b", None)];
    let response = door.get("/readyz");
    assert_eq!(response.code, 503);
    let readiness: Readiness = serde_json::from_slice(&response.body).unwrap();
    assert!(!readiness.ready);
    let waiting: Vec<(u64, u64)> =
        readiness.waiting.iter().map(|shard| (shard.group, shard.lag_entries)).collect();
    assert_eq!(waiting, [(1, 4991), (2, 0)]);

    let mut lost = shard(1, b"", None);
    lost.suspect = true;
    *door.node.shards.lock().unwrap() = vec![lost];
    let (code, body) = door.json("/readyz");
    assert_eq!(code, 503);
    let reason = body["waiting"][0]["reason"].as_str().expect("a reason");
    assert!(reason.contains("lost journal content"), "{reason}");
}

#[test]
fn a_node_that_stopped_itself_is_neither_healthy_nor_ready() {
    let door = Door::open(vec![shard(1, b"", None)]);
    assert_eq!(door.json("/healthz"), (200, json!({ "healthy": true })));

    *door.node.failure.lock().unwrap() = Some("sync failed".to_owned());
    let (code, body) = door.json("/healthz");
    assert_eq!((code, &body["reason"]), (500, &json!("sync failed")));
    let (code, body) = door.json("/readyz");
    assert_eq!((code, &body["failure"]), (503, &json!("sync failed")));
}

#[test]
fn metrics_are_prometheus_text() {
    let door = Door::open(Vec::new());
    let counter = prometheus::IntCounter::new("flotilla_test_total", "A test.").unwrap();
    counter.inc();
    door.node.registry.register(Box::new(counter)).unwrap();
    let response = door.get("/metrics");
    assert_eq!(response.code, 200);
    assert!(response.head.to_lowercase().contains("content-type: text/plain; version=0.0.4"));
    let text = String::from_utf8(response.body).unwrap();
    assert_eq!(
        text,
        "# HELP flotilla_test_total A test.\n# TYPE flotilla_test_total counter\nflotilla_test_total 1\n"
    );
}

#[test]
fn other_paths_and_methods_are_refused() {
    let door = Door::open(Vec::new());
    for path in ["/", "/nothing", "/metrics/", "/status/1", "/../etc/passwd"] {
        assert_eq!(door.get(path).code, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let mut stream = TcpStream::connect(&door.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "{method} /status HTTP/1.0\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 405"), "{method}: {answer}");
    }
}

#[test]
fn nonsense_closes_the_connection_and_harms_nobody() {
    let door = Door::open(Vec::new());
    for nonsense in [&b"\x00\xff\x00\xff\r\n\r\n"[..], &[b'A'; 1 << 20]] {
        let mut stream = TcpStream::connect(&door.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The server may close while we still write: that is its answer.
        let _ = stream.write_all(nonsense);
        let mut answer = Vec::new();
        if stream.read_to_end(&mut answer).is_ok() {
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{answer:?}");
        }
    }
    assert_eq!(door.get("/healthz").code, 200);
}

#[test]
fn it_answers_while_many_connections_idle() {
    let door = Door::open(Vec::new());
    let _idle: Vec<TcpStream> =
        (0..50).map(|_| TcpStream::connect(&door.address).unwrap()).collect();
    assert_eq!(door.get("/healthz").code, 200);
}
