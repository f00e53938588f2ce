//! Real lanes: threads, actors, a journal and a store, one node.

use bytes::Bytes;
use flotilla_shard::machine::ShardMeta;
use flotilla_shard::raft::{self, Index, Position, Restored, Term};
use flotilla_shard::*;
use flotilla_storage::fs::RealFs;
use flotilla_storage::journal::{
    Change, Completion, Journal, JournalMetrics, JournalOptions, JournalThread, Write as Record,
};
use flotilla_storage::store::{
    CheckpointCompletion, Checkpointer, ReadPool, Store, StoreMetrics, StoreOptions,
};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Nobody is out there.
struct Nowhere;

impl Outbox for Nowhere {
    fn send(&self, _: NodeId, _: Vec<Parcel>) {}
}

struct Node {
    lanes: Lanes,
    budget: Budget,
    halted: mpsc::Receiver<String>,
    journal: JournalThread,
    checkpointer: Checkpointer,
    _dir: TempDir,
}

/// A node with groups 1 to `groups`, whose voters live on nodes 1 to `voters`; this is node 1.
fn start(groups: u64, voters: u64, lanes: usize) -> Node {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = JournalOptions { segment_bytes: 1 << 20, ..JournalOptions::default() };
    let (mut journal, _) =
        Journal::open(Arc::new(RealFs), dir.path().join("journal"), options).expect("a journal");
    // What was merged is read from the file.
    let options = StoreOptions { merged_bytes_max: 0, ..StoreOptions::default() };
    let (store, _) =
        Store::open(&dir.path().join("store"), options, StoreMetrics::new()).expect("a store");
    let replicas = (1..=groups).map(|group| replica(group, voters, &store)).collect::<Vec<_>>();
    for replica in &replicas {
        let birth = Record {
            group: replica.meta.descriptor.group,
            ticket: 0,
            change: Change::Birth { meta: replica.meta.encode() },
        };
        journal.write(&[birth]).expect("a healthy disk");
    }
    journal.sync().expect("a healthy disk");
    let started = Lanes::start(LaneOptions {
        lanes,
        tick_interval: Duration::from_millis(5),
        memtable_bytes_max: 1 << 20,
        checkpoint_age_max: Duration::from_secs(60),
        log_retain_bytes: 1 << 30,
    })
    .expect("threads");
    let (sender, halted) = mpsc::channel();
    started.on_halt(move |reason| drop(sender.send(reason.to_owned())));
    let completions = started.completions();
    let reader = journal.reader();
    let (handle, journal) = JournalThread::start(
        journal,
        completions.iter().map(|lane| lane.clone() as Arc<dyn Completion>).collect(),
        JournalMetrics::new(),
    );
    let checkpointer = Checkpointer::start(
        store,
        completions.iter().map(|lane| lane.clone() as Arc<dyn CheckpointCompletion>).collect(),
    )
    .expect("a thread");
    let budget = Budget::new(1 << 20);
    let wiring = Wiring {
        journal: handle,
        reader,
        checkpoints: checkpointer.handle(),
        pool: Arc::new(ReadPool::start(1, StoreMetrics::new()).expect("a thread")),
        outbox: Arc::new(Nowhere),
        snapshots: flotilla_shard::SnapshotHandle::unconnected(),
        budget: budget.clone(),
        metrics: ShardMetrics::new(),
    };
    block_on(started.open(wiring, replicas));
    Node { lanes: started, budget, halted, journal, checkpointer, _dir: dir }
}

fn replica(group: u64, voters: u64, store: &Store) -> ReplicaStart {
    let replicas: Vec<_> = (1..=voters)
        .map(|n| ReplicaDescriptor { node: NodeId(n), replica: ReplicaId(n) })
        .collect();
    let descriptor = Descriptor {
        group: GroupId(group),
        range: KeyRange::whole(),
        epoch: Epoch::FIRST,
        replicas,
    };
    let voters = descriptor.replicas.iter().map(|replica| replica.replica).collect();
    let meta = ShardMeta::new(descriptor);
    ReplicaStart {
        shard: store.create_shard(GroupId(group), KeyRange::whole(), meta.encode()),
        meta,
        applied: Position::default(),
        raft: raft::Options {
            id: ReplicaId(1),
            voters,
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(50),
            seed: group,
            suspect: false,
            pre_vote: true,
            check_quorum: true,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            leases: Some(raft::Leases { reads: true, clock_drift_max_ppm: 10_000 }),
            limits: raft::Limits::default(),
        },
        restored: Restored::default(),
        log_bytes: 0,
        options: ReplicaOptions::default(),
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

impl Node {
    fn ask(&self, group: u64, operation: Operation) -> Result<Answer, Refusal> {
        let answer = block_on(self.begin(group, operation));
        answer.unwrap_or(Err(Refusal::Timeout { maybe_committed: true }))
    }

    fn begin(
        &self,
        group: u64,
        operation: Operation,
    ) -> oneshot::Receiver<Result<Answer, Refusal>> {
        let (sender, receiver) = oneshot::channel();
        self.lanes.submit(Request {
            group: GroupId(group),
            epoch: Epoch::FIRST,
            operation,
            consistency: Consistency::Linearizable,
            origin: Origin::default(),
            deadline: Instant::now() + Duration::from_secs(10),
            entered: Instant::now(),
            permit: self.budget.acquire(100).expect("the budget is large"),
            reply: Reply::Oneshot(sender),
        });
        receiver
    }

    /// Repeats what was refused because nobody leads yet.
    fn ask_until_led(&self, group: u64, operation: &Operation) -> Answer {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match self.ask(group, operation.clone()) {
                Ok(answer) => return answer,
                Err(Refusal::NotLeader { .. }) if Instant::now() < until => {
                    std::thread::yield_now();
                }
                Err(refusal) => panic!("group {group} refused: {refusal}"),
            }
        }
    }

    fn stop(self) {
        block_on(self.lanes.close());
        self.checkpointer.shutdown().expect("a healthy store");
        self.journal.shutdown().expect("a healthy journal");
        self.lanes.stop();
        assert_eq!(self.budget.used_bytes(), 0, "every permit came back");
    }
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Write(Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        condition: Condition::Always,
        return_previous: false,
        expiry: flotilla_shard::Expiry::Never,
    })
}

fn get(key: &str) -> Operation {
    Operation::Get { key: Bytes::copy_from_slice(key.as_bytes()) }
}

#[test]
fn groups_on_several_lanes_serve_and_stop() {
    let node = start(5, 1, 2);
    for group in 1..=5 {
        node.ask_until_led(group, &put("k", &group.to_string()));
    }
    for group in 1..=5 {
        match node.ask(group, get("k")) {
            Ok(Answer::Value(Some(entry))) => assert_eq!(entry.value, group.to_string()),
            other => panic!("group {group} answered {other:?}"),
        }
    }
    assert_eq!(node.ask(6, get("k")), Err(Refusal::GroupNotFound));
    assert!(node.lanes.statuses().iter().all(|status| status.role == Role::Leader));
    node.stop();
}

#[test]
fn memtables_over_their_budget_are_checkpointed_and_read_from_below() {
    let node = start(2, 1, 1);
    let value = "v".repeat(8000);
    for n in 0..400 {
        node.ask_until_led(n % 2 + 1, &put(&format!("key{n:04}"), &value));
    }
    let until = Instant::now() + Duration::from_secs(20);
    while node.lanes.memory_bytes() > 2 << 20 {
        assert!(Instant::now() < until, "no checkpoint has freed memory");
        std::thread::yield_now();
    }
    for n in 0..400 {
        match node.ask(n % 2 + 1, get(&format!("key{n:04}"))) {
            Ok(Answer::Value(Some(entry))) => assert_eq!(entry.value, value),
            other => panic!("key {n} was answered {other:?}"),
        }
    }
    node.stop();
}

/// How large a row is shows when it is read: the answers to one pipeline could be larger than the
/// node's memory.
#[test]
fn rows_are_fetched_as_answers_are_taken() {
    let node = start(1, 1, 1);
    let value = "v".repeat(8000);
    for n in 0..400 {
        node.ask_until_led(1, &put(&format!("key{n:04}"), &value));
    }
    let until = Instant::now() + Duration::from_secs(20);
    while node.lanes.memory_bytes() > 2 << 20 {
        assert!(Instant::now() < until, "no checkpoint has freed memory");
        std::thread::yield_now();
    }
    let answers_max = node.budget.bytes_max() / 2 + 8000;
    let under_way = || node.budget.part_bytes(Part::Reads);
    let reads: Vec<_> = (0..100).map(|n| node.begin(1, get(&format!("key{n:04}")))).collect();
    while under_way() < node.budget.bytes_max() / 4 {
        assert!(Instant::now() < until, "{} bytes of answers are under way", under_way());
        std::thread::yield_now();
    }
    for read in reads {
        let answer = block_on(read).expect("the node lives");
        assert!(under_way() <= answers_max, "{} bytes of answers are under way", under_way());
        match answer {
            Ok(Answer::Value(Some(entry))) => assert_eq!(entry.value, value),
            other => panic!("answered {other:?}"),
        }
    }
    assert_eq!(under_way(), 0);
    node.stop();
}

#[test]
fn a_full_disk_is_minded_by_all_lanes_until_it_has_room() {
    let node = start(4, 1, 2);
    for group in 1..=4 {
        node.ask_until_led(group, &put("k", "1"));
    }
    node.lanes.set_disk_full(true);
    for group in 1..=4 {
        assert_eq!(node.ask(group, put("k", "2")), Err(Refusal::DiskFull));
        let keys = vec![Bytes::from_static(b"other")];
        assert!(node.ask(group, Operation::Write(Write::Delete { keys })).is_ok());
        assert!(node.ask(group, get("k")).is_ok());
    }
    // A slow disk that is fast again is no less full.
    node.lanes.set_reluctant(true, "its disk is slow");
    node.lanes.set_reluctant(false, "its disk is slow");
    assert_eq!(node.ask(1, put("k", "2")), Err(Refusal::DiskFull));
    node.lanes.set_disk_full(false);
    for group in 1..=4 {
        assert!(node.ask(group, put("k", "2")).is_ok());
    }
    node.stop();
}

#[test]
fn what_groups_hold_is_counted_and_given_back() {
    let node = start(2, 1, 2);
    let value = "v".repeat(8000);
    for n in 0..50 {
        node.ask_until_led(n % 2 + 1, &put(&format!("key{n:04}"), &value));
    }
    let wait_for = |what: &str, holds: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(20);
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::yield_now();
        }
    };
    let budget = node.budget.clone();
    wait_for("memtables are counted", &|| budget.part_bytes(Part::Memtables) > 200_000);
    wait_for("caches are counted", &|| budget.part_bytes(Part::LogCaches) > 100_000);
    let lanes = node.lanes.clone();
    block_on(lanes.close());
    wait_for("memtables are given back", &|| budget.part_bytes(Part::Memtables) == 0);
    wait_for("caches are given back", &|| budget.part_bytes(Part::LogCaches) == 0);
    node.stop();
}

#[test]
fn groups_without_other_replicas_are_not_waited_for_when_a_node_hands_over() {
    let node = start(3, 1, 2);
    for group in 1..=3 {
        node.ask_until_led(group, &put("k", "1"));
    }
    let led = block_on(node.lanes.hand_over_all(Duration::from_secs(20)));
    assert_eq!(led, 0, "nobody else could lead them");
    for group in 1..=3 {
        assert!(node.ask(group, put("k", "2")).is_ok(), "they go on being led");
    }
    node.stop();
}

/// actix would swallow the panic and leave a dead actor behind; the node must stop instead, and
/// whoever waits must be told.
#[test]
fn a_panicking_replica_halts_the_node_and_answers_everybody() {
    let node = start(2, 3, 1);
    // A leader on node 2 commits something that no release has ever written.
    let append = raft::Message::Append {
        term: Term(1),
        prev: Position::default(),
        commit: Index(1),
        entries: vec![raft::Entry {
            index: Index(1),
            term: Term(1),
            payload: Bytes::from_static(b"\xffnonsense"),
        }],
    };
    let message =
        GroupMessage { group: GroupId(1), from: ReplicaId(2), to: ReplicaId(1), message: append };
    node.lanes.deliver(vec![message]);
    let reason = node.halted.recv_timeout(Duration::from_secs(20)).expect("the node halts");
    assert!(reason.contains("group 1 panicked"), "{reason}");
    assert!(node.lanes.is_halted());
    for group in 1..=2 {
        let refusal = node.ask(group, put("k", "v")).expect_err("a halted node serves nobody");
        assert_eq!(refusal, Refusal::Shutdown);
    }
    node.stop();
}

/// Whoever still holds the lanes must not wait for threads that are gone.
#[test]
fn requests_after_the_stop_end_and_give_back_their_bytes() {
    let node = start(1, 1, 1);
    let (lanes, budget) = (node.lanes.clone(), node.budget.clone());
    node.stop();
    let (sender, receiver) = oneshot::channel();
    lanes.submit(Request {
        group: GroupId(1),
        epoch: Epoch::FIRST,
        operation: put("k", "v"),
        consistency: Consistency::Linearizable,
        origin: Origin::default(),
        deadline: Instant::now() + Duration::from_secs(10),
        entered: Instant::now(),
        permit: budget.acquire(100).expect("the budget is large"),
        reply: Reply::Oneshot(sender),
    });
    assert!(block_on(receiver).is_err(), "nobody can have served it");
    assert_eq!(budget.used_bytes(), 0);
    block_on(lanes.close());
}
