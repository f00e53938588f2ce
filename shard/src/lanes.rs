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

use crate::descriptor::{Descriptor, NodeId};
use crate::effects::Conditions;
use crate::lane::{Inbox, Lane, Mail, Wiring};
use crate::outbox::GroupMessage;
use crate::replica::ReplicaStart;
use crate::request::Request;
use crate::snapshot::{SnapshotEvent, SnapshotHandle, SnapshotSink};
use crate::status::{PublishedStatus, Role, ShardStatus, SharedStatus};
use arc_swap::ArcSwap;
use flotilla_raft::{Index, Position, Term};
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Completion, JournalError};
use flotilla_storage::store::{CheckpointCompletion, StoreError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{self, AcqRel, Relaxed},
};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// How often a node that hands over looks whether it is done.
const HAND_OVER_INTERVAL: Duration = Duration::from_millis(5);

/// How many lanes, and when they hand their memtables over.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    /// How many threads host groups. At least 1.
    pub lanes: usize,
    /// How often a lane looks at the clock for its groups.
    pub tick_interval: Duration,
    /// All memtables are handed to a checkpoint when together they hold this many bytes, or when a
    /// restart would have to apply twice as many bytes of commands again.
    pub memtable_bytes_max: u64,
    /// And when the last time was this long ago.
    pub checkpoint_age_max: Duration,
    /// How many bytes of log all replicas together keep for followers that lag behind.
    pub log_retain_bytes: u64,
}

/// What lanes and other threads share.
pub(crate) struct Shared {
    options: LaneOptions,
    statuses: ArcSwap<BTreeMap<GroupId, SharedStatus>>,
    halted: AtomicBool,
    on_halt: OnceLock<Box<dyn Fn(&str) + Send + Sync>>,
    /// By lane: how much speaks for a checkpoint, as last reported.
    pressure_bytes: Vec<AtomicU64>,
    freeze_generation: AtomicU64,
    frozen_last: Mutex<Instant>,
    is_disk_full: AtomicBool,
    may_lead: AtomicBool,
}

impl Shared {
    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    pub(crate) fn halt(&self, reason: &str) {
        if !self.halted.swap(true, Ordering::AcqRel) {
            tracing::error!(reason, "the node stops: it can no longer keep its promises");
            if let Some(hook) = self.on_halt.get() {
                hook(reason);
            }
        }
    }

    pub(crate) fn publish(&self, descriptor: Descriptor, status: Arc<PublishedStatus>) {
        let entry = SharedStatus { descriptor: Arc::new(descriptor), status };
        self.statuses.rcu(|statuses| {
            let mut statuses = BTreeMap::clone(statuses);
            statuses.insert(entry.descriptor.group, entry.clone());
            statuses
        });
    }

    /// How the node is.
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions { is_disk_full: self.is_disk_full.load(Relaxed), ..Conditions::default() }
    }

    pub(crate) fn freeze_generation(&self) -> u64 {
        self.freeze_generation.load(Ordering::Acquire)
    }

    /// Takes a lane's count, and starts a new generation of freezes when it is time.
    ///
    /// `is_freezing` says that the lane carries a freeze out just now: its count is from before,
    /// and must not start another one. Two frozen memtables would close the door to writes until a
    /// checkpoint has ended.
    pub(crate) fn report_memory(&self, lane: usize, pressure_bytes: u64, is_freezing: bool) {
        let counted = if is_freezing { 0 } else { pressure_bytes };
        self.pressure_bytes[lane].store(counted, Ordering::Relaxed);
        let total: u64 =
            self.pressure_bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
        let full = total >= self.options.memtable_bytes_max;
        // One lane watches the age, so that a generation is not started twice.
        let may_be_old = lane == 0;
        if !full && !may_be_old {
            return;
        }
        let mut frozen_last = self.frozen_last.lock();
        if full || frozen_last.elapsed() >= self.options.checkpoint_age_max {
            *frozen_last = Instant::now();
            // What is reported next counts from the freeze on.
            self.pressure_bytes.iter().for_each(|bytes| bytes.store(0, Ordering::Relaxed));
            self.freeze_generation.fetch_add(1, Ordering::AcqRel);
        }
    }
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
        let shared = Arc::new(Shared {
            options,
            statuses: ArcSwap::default(),
            halted: AtomicBool::new(false),
            on_halt: OnceLock::new(),
            pressure_bytes: (0..options.lanes).map(|_| AtomicU64::new(0)).collect(),
            freeze_generation: AtomicU64::new(0),
            frozen_last: Mutex::new(Instant::now()),
            is_disk_full: AtomicBool::new(false),
            may_lead: AtomicBool::new(true),
        });
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

    /// Whether the disk is full. While it is, leaders refuse writes that need room with
    /// [`Refusal::DiskFull`](crate::Refusal::DiskFull); reads, deletes and all of Raft go on.
    pub fn set_disk_full(&self, is_full: bool) {
        let was_full = self.inner.shared.is_disk_full.swap(is_full, Relaxed);
        match (was_full, is_full) {
            (false, true) => tracing::error!("the disk is full: only reads and deletes are served"),
            (true, false) => tracing::info!("the disk has room again: writes are served"),
            _ => {}
        }
    }

    /// Whether the replicas of this node may lead, and why that changes. A node that may not hands
    /// its leaderships over; it goes on voting and acknowledging.
    pub fn set_may_lead(&self, may_lead: bool, reason: &str) {
        if self.inner.shared.may_lead.swap(may_lead, AcqRel) == may_lead {
            return;
        }
        if may_lead {
            tracing::info!(reason, "this node may lead again");
        } else {
            tracing::warn!(reason, "this node leads no shards any more");
        }
        self.inner.inboxes.iter().for_each(|inbox| inbox.put(Mail::MayLead(may_lead)));
    }

    /// Asks the leader of `group`, if it is on this node, to hand over: to the replica on `to`, or
    /// to whichever can follow best. It goes on leading if nobody takes it within an election
    /// timeout.
    pub fn transfer(&self, group: GroupId, to: Option<NodeId>) {
        self.inner.inboxes[self.lane_of(group)].put(Mail::Transfer { group, to });
    }

    /// Gives all leaderships away for good, before the node stops, and waits until nothing that was
    /// proposed here is in flight, or `timeout` has passed. Groups that have no other replica go on
    /// being led. Returns how many others are still led from here.
    pub async fn hand_over_all(&self, timeout: Duration) -> usize {
        let until = Instant::now() + timeout;
        self.set_may_lead(false, "the node stops");
        loop {
            let statuses = self.inner.shared.statuses.load();
            let shared = |entry: &&SharedStatus| entry.descriptor.replicas.len() > 1;
            let led = statuses.values().filter(shared);
            let led = led.filter(|entry| entry.status.role() == Role::Leader).count();
            let waiting = statuses.values().any(|entry| entry.status.has_pending());
            if (led == 0 && !waiting) || Instant::now() >= until {
                return led;
            }
            drop(statuses);
            tokio::time::sleep(HAND_OVER_INTERVAL).await;
        }
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

    /// What reports completed writes of the journal and completed checkpoints to each lane, in the
    /// order of lanes.
    pub fn completions(&self) -> Vec<Arc<LaneCompletion>> {
        let completion = |inbox: &Arc<Inbox>| {
            Arc::new(LaneCompletion { inbox: inbox.clone(), shared: self.inner.shared.clone() })
        };
        self.inner.inboxes.iter().map(completion).collect()
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

/// Reports to one lane what the journal and the checkpoints have done for it.
pub struct LaneCompletion {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
}

impl Completion for LaneCompletion {
    fn durable(&self, done: &[(GroupId, u64)]) {
        self.inbox.put(Mail::Durable(done.to_vec()));
    }

    fn failed(&self, error: &JournalError) {
        self.shared.halt(&format!("the journal failed: {error}"));
    }

    fn suspected(&self, groups: &[GroupId]) {
        self.inbox.put(Mail::Suspected(groups.to_vec()));
    }
}

impl CheckpointCompletion for LaneCompletion {
    fn checkpointed(&self, done: &[(GroupId, (u64, u64))]) {
        let position = |(index, term)| Position { index: Index(index), term: Term(term) };
        let done = done.iter().map(|(group, applied)| (*group, position(*applied)));
        self.inbox.put(Mail::Checkpointed(done.collect()));
    }

    fn failed(&self, error: &StoreError) {
        self.shared.halt(&format!("the store failed: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(lanes: usize) -> Shared {
        Shared {
            options: LaneOptions {
                lanes,
                tick_interval: Duration::from_millis(20),
                memtable_bytes_max: 100,
                checkpoint_age_max: Duration::from_secs(3600),
                log_retain_bytes: 1 << 30,
            },
            statuses: ArcSwap::default(),
            halted: AtomicBool::new(false),
            on_halt: OnceLock::new(),
            pressure_bytes: (0..lanes).map(|_| AtomicU64::new(0)).collect(),
            freeze_generation: AtomicU64::new(0),
            frozen_last: Mutex::new(Instant::now()),
            is_disk_full: AtomicBool::new(false),
            may_lead: AtomicBool::new(true),
        }
    }

    /// Lanes count before their groups have frozen anything.
    #[test]
    fn full_memtables_are_frozen_once() {
        let shared = shared(2);
        shared.report_memory(0, 60, false);
        shared.report_memory(1, 60, false);
        assert_eq!(shared.freeze_generation(), 1);
        shared.report_memory(0, 60, true);
        shared.report_memory(1, 60, true);
        shared.report_memory(0, 1, false);
        shared.report_memory(1, 1, false);
        assert_eq!(shared.freeze_generation(), 1, "what is being frozen counted again");
        shared.report_memory(1, 100, false);
        assert_eq!(shared.freeze_generation(), 2);
    }
}
