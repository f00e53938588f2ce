//! Snapshots between two real stores, over pipes in memory: what arrives is what was there.

use bytes::Bytes;
use flotilla_raft::{Index, Position, ReplicaId, Term};
use flotilla_shard::machine::ShardMeta;
use flotilla_shard::snapshot::TransferId;
use flotilla_shard::{
    Descriptor, Epoch, GroupId, KeyRange, NodeId, Outbox, Parcel, SnapshotEvent, SnapshotHandle,
    SnapshotMetrics, SnapshotOptions, SnapshotSink, Snapshots,
};
use flotilla_storage::store::{
    CheckpointCompletion, Checkpointed, Checkpointer, PageOptions, RowChange, Shard, Store,
    StoreError, StoreMetrics, StoreOptions,
};
use parking_lot::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

const GROUP: GroupId = GroupId(3);
const POSITION: Position = Position { index: Index(41), term: Term(4) };
const PATIENCE: Duration = Duration::from_secs(60);

struct Events(Mutex<Sender<SnapshotEvent>>);

impl SnapshotSink for Events {
    fn snapshot_event(&self, event: SnapshotEvent) {
        // A test that has seen enough has gone.
        let _ = self.0.lock().send(event);
    }
}

struct Lane(Mutex<Sender<(u64, u64)>>);

impl CheckpointCompletion for Lane {
    fn checkpointed(&self, done: &[Checkpointed]) {
        for (_, applied) in done {
            let _ = self.0.lock().send(*applied);
        }
    }

    fn failed(&self, error: &StoreError) {
        panic!("the checkpoint failed: {error}");
    }
}

/// What a wire does with each parcel: pass it on, or lose it.
type Wire = Box<dyn Fn(&Parcel) -> bool + Send + Sync>;

/// The way to the other node, which is there a little later.
struct Pipe {
    me: NodeId,
    there: OnceLock<SnapshotHandle>,
    passes: Wire,
}

impl Outbox for Pipe {
    fn send(&self, _: NodeId, parcels: Vec<Parcel>) {
        for parcel in parcels {
            if !(self.passes)(&parcel) {
                continue;
            }
            let Parcel::Snapshot(message) = parcel else { panic!("not a snapshot's") };
            self.there.get().expect("both ends are there").receive(self.me, vec![message]);
        }
    }
}

struct Node {
    store: Store,
    checkpointer: Checkpointer,
    checkpoints: Receiver<(u64, u64)>,
    handle: SnapshotHandle,
    snapshots: Snapshots,
    events: Receiver<SnapshotEvent>,
    pipe: Arc<Pipe>,
    _dir: tempfile::TempDir,
}

impl Node {
    fn start(me: u64, wire: Wire) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, _) =
            Store::open(dir.path(), StoreOptions::default(), StoreMetrics::new()).expect("a store");
        let (sender, checkpoints) = channel();
        let lane: Arc<dyn CheckpointCompletion> = Arc::new(Lane(Mutex::new(sender)));
        let checkpointer = Checkpointer::start(store.clone(), vec![lane]).expect("a thread");
        let (sender, events) = channel();
        let pipe = Arc::new(Pipe { me: NodeId(me), there: OnceLock::new(), passes: wire });
        let (handle, snapshots) = Snapshots::start(
            SnapshotOptions::new(1),
            store.clone(),
            checkpointer.handle(),
            pipe.clone(),
            Arc::new(Events(Mutex::new(sender))),
            SnapshotMetrics::new(),
        )
        .expect("a thread");
        Node { store, checkpointer, checkpoints, handle, snapshots, events, pipe, _dir: dir }
    }

    /// Everything in `shard` is in the file.
    fn checkpoint(&self, shard: &mut Shard, position: Position) {
        let meta = meta().encode();
        let frozen = shard.freeze((position.index.0, position.term.0), meta, 0);
        self.checkpointer.handle().submit(0, vec![frozen]);
        let applied = self.checkpoints.recv_timeout(PATIENCE).expect("a checkpoint");
        assert_eq!(applied, (position.index.0, position.term.0));
    }

    /// The next event that is no pin.
    fn event(&self) -> SnapshotEvent {
        loop {
            match self.events.recv_timeout(PATIENCE).expect("an event") {
                SnapshotEvent::Pinned { .. } | SnapshotEvent::Unpinned { .. } => {}
                event => return event,
            }
        }
    }

    fn offered(&self) -> TransferId {
        match self.event() {
            SnapshotEvent::Offered { group, transfer, from, position, .. } => {
                assert_eq!((group, from, position), (GROUP, NodeId(1), POSITION));
                transfer
            }
            _ => panic!("not an offer"),
        }
    }

    fn received(&self) -> TransferId {
        match self.event() {
            SnapshotEvent::Received { transfer, position, .. } => {
                assert_eq!(position, POSITION);
                transfer
            }
            _ => panic!("not received"),
        }
    }

    fn stop(self) {
        self.snapshots.shutdown();
        self.checkpointer.shutdown().expect("it ends well");
    }
}

fn pair(wire: Wire, wire_back: Wire) -> (Node, Node) {
    let (one, two) = (Node::start(1, wire), Node::start(2, wire_back));
    assert!(one.pipe.there.set(two.handle.clone()).is_ok());
    assert!(two.pipe.there.set(one.handle.clone()).is_ok());
    (one, two)
}

fn perfect() -> Wire {
    Box::new(|_| true)
}

fn meta() -> ShardMeta {
    let (range, replicas) = (KeyRange::whole(), Vec::new());
    ShardMeta::new(Descriptor { group: GROUP, range, epoch: Epoch::FIRST, replicas })
}

fn put(key: String, value: Vec<u8>, expires_at_ms: Option<u64>) -> RowChange {
    RowChange::Put { key: key.into(), value: value.into(), flags: 5, expires_at_ms }
}

/// Thousands of rows of all sizes, some overwritten, some deleted, some with an expiry.
fn fill(shard: &mut Shard) {
    for at in 0..4000u64 {
        let value = vec![at as u8; (at * at % 900) as usize];
        let expires_at_ms = at.is_multiple_of(7).then_some(1 << 50);
        shard.apply(vec![put(format!("key:{at:06}"), value, expires_at_ms)]);
    }
    shard.apply(vec![put("key:000100".into(), vec![1; 8 << 20], None)]);
    shard.apply(vec![put("key:002000".into(), vec![2; 3 << 20], None)]);
    let range = KeyRange::new("key:003", Some(Bytes::from("key:0031")));
    shard.apply(vec![RowChange::DeleteRange(range)]);
    shard.apply(vec![RowChange::Delete { key: "key:000007".into() }]);
}

type Row = (Bytes, flotilla_storage::store::Row);

fn rows(shard: &Shard) -> Vec<Row> {
    let (mut rows, mut left) = (Vec::new(), Some(KeyRange::whole()));
    while let Some(range) = left {
        let page = shard.view().page(&range, PageOptions::default()).expect("a page");
        rows.extend(page.rows);
        left = page.more;
    }
    rows
}

/// Sends what `shard` of node one holds, and returns what node two made of it.
fn transfer(one: &Node, two: &Node) -> Shard {
    one.handle.send(GROUP, (NodeId(2), ReplicaId(9)), Term(4));
    let transfer = two.offered();
    two.handle.offer_answer(NodeId(1), transfer, true);
    assert_eq!(two.received(), transfer);
    two.handle.install(GROUP, NodeId(1), transfer);
    match (two.event(), one.event()) {
        (
            SnapshotEvent::Installed { group, position, meta: bytes, shard },
            SnapshotEvent::Sent { group: sent, to, position: at },
        ) => {
            assert_eq!((group, position, sent, at), (GROUP, POSITION, GROUP, POSITION));
            assert_eq!((to, bytes), (ReplicaId(9), meta().encode()));
            shard
        }
        _ => panic!("not installed"),
    }
}

#[test]
fn what_arrives_is_what_was_there() {
    let (one, two) = pair(perfect(), perfect());
    let mut leader = one.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    fill(&mut leader);
    one.checkpoint(&mut leader, POSITION);
    let expected = rows(&leader);
    // The export holds what the checkpoint holds, whatever comes after.
    leader.apply(vec![put("later".into(), vec![3; 100], None)]);

    // The follower has rows of its own, some in the file and some in memory.
    let mut follower = two.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    follower.apply(vec![put("old".into(), vec![4; 100], None)]);
    two.checkpoint(&mut follower, Position { index: Index(3), term: Term(1) });
    follower.apply(vec![put("older".into(), vec![4; 100], None)]);

    let mut installed = transfer(&one, &two);
    assert!(expected.len() > 3000);
    assert!(rows(&installed) == expected, "the rows differ");
    assert_eq!(installed.version() + 1, leader.version());

    // And it goes on from there.
    installed.apply(vec![put("later".into(), vec![3; 100], None)]);
    two.checkpoint(&mut installed, Position { index: Index(42), term: Term(4) });
    assert!(rows(&installed) == rows(&leader), "they part ways");
    one.stop();
    two.stop();
}

/// Chunks and acknowledgements vanish without a word; the clock notices.
#[test]
fn loss_costs_time_and_no_rows() {
    let lossy = |every: usize| -> Wire {
        let count = std::sync::atomic::AtomicUsize::new(0);
        Box::new(move |_| {
            let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            count % every != every - 1
        })
    };
    let (one, two) = pair(lossy(9), lossy(8));
    let mut leader = one.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    fill(&mut leader);
    one.checkpoint(&mut leader, POSITION);
    let installed = transfer(&one, &two);
    assert!(rows(&installed) == rows(&leader), "the rows differ");
    one.stop();
    two.stop();
}

#[test]
fn a_shard_without_a_checkpoint_cannot_be_sent() {
    let (one, two) = pair(perfect(), perfect());
    let _leader = one.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    one.handle.send(GROUP, (NodeId(2), ReplicaId(9)), Term(4));
    assert!(matches!(one.event(), SnapshotEvent::Failed { to: ReplicaId(9), .. }));
    one.stop();
    two.stop();
}

/// A transfer that is given up leaves the follower's rows as they were.
#[test]
fn what_is_given_up_changes_nothing() {
    let (one, two) = pair(perfect(), perfect());
    let mut leader = one.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    fill(&mut leader);
    one.checkpoint(&mut leader, POSITION);
    let mut follower = two.store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    follower.apply(vec![put("old".into(), vec![4; 100], None)]);
    two.checkpoint(&mut follower, Position { index: Index(3), term: Term(1) });
    let before = rows(&follower);

    one.handle.send(GROUP, (NodeId(2), ReplicaId(9)), Term(4));
    let transfer = two.offered();
    two.handle.offer_answer(NodeId(1), transfer, true);
    assert_eq!(two.received(), transfer);
    two.handle.discard(NodeId(1), transfer);
    assert!(matches!(one.event(), SnapshotEvent::Failed { .. }));
    assert!(rows(&follower) == before, "rows changed");

    // It may be offered again, and taken.
    let installed = self::transfer(&one, &two);
    assert!(rows(&installed) == rows(&leader), "the rows differ");
    one.stop();
    two.stop();
}
