//! All lanes of a node: where requests and frames enter, and what other threads may know.
//!
//! A group lives on the lane that its number names. Lanes are actix arbiters under a system of
//! their own, so that several nodes can live in one process and an embedder's runtime is never
//! touched.
//!
//! Invariants:
//!
//! * Putting something in never blocks and never waits for a lane.
//! * A halt is final: no effect leaves any lane after it.
//!
//! What is absent: what lanes do inside (`lane`), and who calls (the router, the transport).

mod completion;
mod control;
mod log_sizes;
mod reasons;
mod shared;

pub use completion::LaneCompletion;
pub(crate) use log_sizes::LogSizes;
pub(crate) use shared::Shared;

use crate::descriptor::{Descriptor, NodeId};
use crate::lane::{Inbox, Lane, Mail, Wiring};
use crate::outbox::GroupMessage;
use crate::replica::ReplicaStart;
use crate::request::Request;
use crate::snapshot::{SnapshotEvent, SnapshotHandle, SnapshotSink};
use crate::status::ShardStatus;
use flotilla_storage::GroupId;
use parking_lot::Mutex;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How many lanes, and when they hand their memtables over.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    /// How many threads host groups. At least 1.
    pub lanes: usize,
    /// How often a lane looks at the clock for its groups.
    pub tick_interval: Duration,
    /// All memtables are handed to a checkpoint when together they hold this many bytes, or when a
    /// restart would have to apply four times as many bytes of commands again.
    pub memtable_bytes_max: u64,
    /// And when the last time was this long ago.
    pub checkpoint_age_max: Duration,
    /// How many bytes of log all replicas together keep for followers that lag behind. Fewer while
    /// the files of the journal take more than they should.
    pub log_retain_bytes: u64,
}

struct Inner {
    shared: Arc<Shared>,
    inboxes: Vec<Arc<Inbox>>,
    runtimes: Vec<Handle>,
    snapshots: OnceLock<SnapshotHandle>,
    system: actix::System,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A node's lanes. Clones share them.
#[derive(Clone)]
pub struct Lanes {
    inner: Arc<Inner>,
}

impl Lanes {
    /// Starts the threads; they host nothing until [`Lanes::open`].
    ///
    /// # Errors
    ///
    /// When a thread or a runtime cannot be had.
    pub fn start(options: LaneOptions) -> io::Result<Lanes> {
        assert!(options.lanes > 0, "a node needs a lane");
        let shared = Arc::new(Shared::new(options));
        let inboxes: Vec<Arc<Inbox>> = (0..options.lanes).map(|_| Arc::default()).collect();
        let (report, reported) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("flotilla-system".into()).spawn({
            let (shared, inboxes) = (shared.clone(), inboxes.clone());
            move || run_system(shared, inboxes, report)
        })?;
        let (system, runtimes) = reported
            .recv()
            .map_err(|_| io::Error::other("the threads of the node could not be started"))?;
        let thread = Mutex::new(Some(thread));
        let snapshots = OnceLock::new();
        Ok(Lanes {
            inner: Arc::new(Inner { shared, inboxes, runtimes, snapshots, system, thread }),
        })
    }

    /// Lets the replicas live, each on its lane. Returns when all of them do.
    pub async fn open(&self, wiring: Wiring, replicas: Vec<ReplicaStart>) {
        let _ = self.inner.snapshots.set(wiring.snapshots.clone());
        let (journal, checkpoints) = (wiring.journal.health(), wiring.checkpoints.clone());
        self.inner.shared.count_in(&wiring.budget, &wiring.metrics, journal, Some(checkpoints));
        let mut by_lane: Vec<Vec<ReplicaStart>> =
            self.inner.inboxes.iter().map(|_| Vec::new()).collect();
        for start in replicas {
            by_lane[self.lane_of(start.meta.descriptor.group)].push(start);
        }
        let mut opened = Vec::new();
        for (inbox, replicas) in self.inner.inboxes.iter().zip(by_lane) {
            let (sender, receiver) = oneshot::channel();
            inbox.put(Mail::Open(Box::new(wiring.clone()), replicas, sender));
            opened.push(receiver);
        }
        for receiver in opened {
            // A lane that died while opening has halted the node: nothing more to wait for.
            let _ = receiver.await;
        }
    }

    /// What happens when the node must stop at once: called once, with the reason, from whichever
    /// thread noticed. Only the first hook counts.
    pub fn on_halt(&self, hook: impl Fn(&str) + Send + Sync + 'static) {
        let _ = self.inner.shared.on_halt.set(Box::new(hook));
    }

    /// Stops all effects at once and for good.
    pub fn halt(&self, reason: &str) {
        self.inner.shared.halt(reason);
    }

    /// True after a halt.
    pub fn is_halted(&self) -> bool {
        self.inner.shared.is_halted()
    }

    /// Hands a request to its group.
    pub fn submit(&self, request: Request) {
        let lane = self.lane_of(request.group);
        self.inner.inboxes[lane].put(Mail::Request(request));
    }

    /// Hands requests to their groups, with one wake-up for each lane.
    pub fn submit_all(&self, requests: Vec<Request>) {
        for (lane, requests) in self.by_lane(requests, |request| request.group) {
            self.inner.inboxes[lane].put(Mail::Requests(requests));
        }
    }

    /// Hands what another node's replicas say to the groups that it is for.
    pub fn deliver(&self, messages: Vec<GroupMessage>) {
        for (lane, messages) in self.by_lane(messages, |message| message.group) {
            self.inner.inboxes[lane].put(Mail::Messages(messages));
        }
    }

    /// Messages to `node` were lost, or its connection is gone.
    pub fn unreachable(&self, node: NodeId) {
        self.inner.inboxes.iter().for_each(|inbox| inbox.put(Mail::Unreachable(node)));
    }

    /// Hands all memtables to a checkpoint now.
    pub fn freeze_all(&self) {
        self.inner.inboxes.iter().for_each(|inbox| inbox.put(Mail::FreezeAll));
    }

    /// The node's snapshot service; `None` before [`Lanes::open`].
    pub fn snapshots(&self) -> Option<&SnapshotHandle> {
        self.inner.snapshots.get()
    }

    /// The runtimes of the lanes: futures spawned there share the lanes' threads.
    pub fn handles(&self) -> &[Handle] {
        &self.inner.runtimes
    }

    /// Where the leader of `group` is, as the replica on this node knows it. Takes no lock.
    pub fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.inner.shared.statuses.load().get(&group)?.status.leader_node()
    }

    /// Every shard with a replica on this node, in the order of groups.
    pub fn statuses(&self) -> Vec<ShardStatus> {
        let statuses = self.inner.shared.statuses.load();
        statuses.values().map(|entry| entry.status.snapshot(&entry.descriptor)).collect()
    }

    /// The descriptors of all shards with a replica on this node, in the order of groups.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let statuses = self.inner.shared.statuses.load();
        statuses.values().map(|entry| Descriptor::clone(&entry.descriptor)).collect()
    }

    /// Bytes of rows in memory, all shards together.
    pub fn memory_bytes(&self) -> u64 {
        let statuses = self.inner.shared.statuses.load();
        statuses.values().map(|entry| entry.status.memory_bytes()).sum()
    }

    /// Ends all groups: everybody who waits is answered.
    pub async fn close(&self) {
        let mut closed = Vec::new();
        for inbox in &self.inner.inboxes {
            let (sender, receiver) = oneshot::channel();
            inbox.put(Mail::Close(sender));
            closed.push(receiver);
        }
        for receiver in closed {
            let _ = receiver.await;
        }
    }

    /// Ends the threads. Futures that still run on the lanes are dropped, and so are requests that
    /// no lane has taken. Blocks until all threads have ended: do not call it on a lane.
    pub fn stop(&self) {
        self.inner.system.stop();
        if let Some(thread) = self.inner.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that hosts the lanes panicked while it stopped");
        }
        self.inner.inboxes.iter().for_each(|inbox| inbox.close());
    }

    fn lane_of(&self, group: GroupId) -> usize {
        (group.0 % self.inner.inboxes.len() as u64) as usize
    }

    fn by_lane<T>(
        &self,
        items: Vec<T>,
        group: impl Fn(&T) -> GroupId,
    ) -> impl Iterator<Item = (usize, Vec<T>)> {
        let mut lanes: Vec<Vec<T>> = self.inner.inboxes.iter().map(|_| Vec::new()).collect();
        for item in items {
            let lane = self.lane_of(group(&item));
            lanes[lane].push(item);
        }
        lanes.into_iter().enumerate().filter(|(_, items)| !items.is_empty())
    }
}

impl SnapshotSink for Lanes {
    fn snapshot_event(&self, event: SnapshotEvent) {
        let lane = self.lane_of(event.group());
        self.inner.inboxes[lane].put(Mail::Snapshot(Box::new(event)));
    }

    fn snapshots_panicked(&self, message: &str) {
        self.halt(&format!("the snapshot service panicked: {message}"));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.system.stop();
    }
}

type Started = (actix::System, Vec<Handle>);

fn run_system(
    shared: Arc<Shared>,
    inboxes: Vec<Arc<Inbox>>,
    report: std::sync::mpsc::Sender<Started>,
) {
    let runner = actix::System::new();
    let system = actix::System::current();
    let mut arbiters = Vec::new();
    let mut runtimes = Vec::new();
    for (number, inbox) in inboxes.into_iter().enumerate() {
        let arbiter = actix::Arbiter::with_tokio_rt(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for a lane: the process is out of file descriptors or threads")
        });
        let (sender, receiver) = std::sync::mpsc::channel();
        let shared = shared.clone();
        arbiter.spawn_fn(move || {
            let tick_interval = shared.options.tick_interval;
            Lane::new(number, inbox, shared).spawn(tick_interval);
            let _ = sender.send(Handle::current());
        });
        match receiver.recv() {
            Ok(runtime) => runtimes.push(runtime),
            Err(_) => return,
        }
        arbiters.push(arbiter);
    }
    if report.send((system, runtimes)).is_err() {
        return;
    }
    if let Err(error) = runner.run() {
        shared.halt(&format!("the system of lanes failed: {error}"));
    }
    for arbiter in arbiters {
        arbiter.stop();
        if arbiter.join().is_err() {
            tracing::error!("a lane panicked while it stopped");
        }
    }
}
