//! Where the parts of one simulated node put what they have for each other and for the world: the
//! place of the lanes' inboxes, of the sockets and of the timers.
//!
//! The router, the checkpoints and the snapshot service of a life share it with the node, which
//! empties it after each of its steps. Nothing happens in here.
//!
//! What is absent: threads. The locks are there because the product's traits are for threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use flotilla_router::peer::{PeerMessage, SendReport, Transport};
use flotilla_router::{Environment, LocalShards};
use flotilla_shard::effects::Event;
use flotilla_shard::raft::{Position, Ticket};
use flotilla_shard::status::PublishedStatus;
use flotilla_shard::{
    Descriptor, GroupId, GroupMessage, NodeId, Outbox, Parcel, Request, SnapshotEvent,
    SnapshotHandle, SnapshotMessage, SnapshotSink,
};
use flotilla_storage::store::{CheckpointCompletion, Checkpointed, StoreError};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::clock::Reading;
use super::random::Random;

/// What replicas of all groups are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForAll {
    /// This node cannot be reached.
    Unreachable(NodeId),
    /// Whether the node may lead.
    MayLead(bool),
}

#[derive(Default)]
struct Inner {
    events: Vec<(GroupId, Event)>,
    for_all: Vec<ForAll>,
    outgoing: Vec<(NodeId, PeerMessage)>,
    timers: Vec<(Duration, oneshot::Sender<()>)>,
    connected: BTreeSet<NodeId>,
    shards: BTreeMap<GroupId, (Descriptor, Arc<PublishedStatus>)>,
    snapshots: Option<SnapshotHandle>,
    /// Why the node must stop.
    halted: Option<String>,
    /// A broken invariant inside of the product.
    broken: Option<String>,
}

/// The shared place; clones are the same.
#[derive(Clone)]
pub struct Mailbox {
    inner: Arc<Mutex<Inner>>,
    clock: Reading,
    random: Arc<Mutex<Random>>,
    handle: Handle,
}

impl Mailbox {
    /// An empty one. `handle` is never used: no part of a simulated node runs by itself.
    pub fn new(clock: Reading, random: Random, handle: Handle) -> Mailbox {
        let random = Arc::new(Mutex::new(random));
        Mailbox { inner: Arc::default(), clock, random, handle }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding it")
    }

    /// Makes a replica known to the router.
    pub fn publish(&self, descriptor: Descriptor, status: Arc<PublishedStatus>) {
        self.lock().shards.insert(descriptor.group, (descriptor, status));
    }

    /// Makes the snapshot service known to the router.
    pub fn set_snapshots(&self, snapshots: SnapshotHandle) {
        self.lock().snapshots = Some(snapshots);
    }

    /// Puts an event in.
    pub fn put(&self, group: GroupId, event: Event) {
        self.lock().events.push((group, event));
    }

    /// The journal holds everything up to these tickets.
    pub fn durable(&self, tickets: Vec<(GroupId, u64)>) {
        let mut inner = self.lock();
        // Ticket 0 belongs to records that nobody waits for.
        for (group, ticket) in tickets.into_iter().filter(|(_, ticket)| *ticket != 0) {
            inner.events.push((group, Event::Persisted(Ticket(ticket))));
        }
    }

    /// Takes what is for replicas.
    pub fn take_events(&self) -> (Vec<(GroupId, Event)>, Vec<ForAll>) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.events), std::mem::take(&mut inner.for_all))
    }

    /// True if something waits for replicas.
    pub fn has_events(&self) -> bool {
        let inner = self.lock();
        !inner.events.is_empty() || !inner.for_all.is_empty()
    }

    /// Takes what is for other nodes.
    pub fn take_outgoing(&self) -> Vec<(NodeId, PeerMessage)> {
        std::mem::take(&mut self.lock().outgoing)
    }

    /// Takes what the router wants to be woken for, by local time from now.
    pub fn take_timers(&self) -> Vec<(Duration, oneshot::Sender<()>)> {
        std::mem::take(&mut self.lock().timers)
    }

    /// Whether requests to `node` are taken from now on.
    pub fn set_connected(&self, node: NodeId, is_connected: bool) {
        let mut inner = self.lock();
        match is_connected {
            true => inner.connected.insert(node),
            false => inner.connected.remove(&node),
        };
    }

    /// The node must stop.
    pub fn halt(&self, reason: &str) {
        self.lock().halted.get_or_insert_with(|| reason.to_owned());
    }

    /// Why the node must stop, if it must.
    pub fn halted(&self) -> Option<String> {
        self.lock().halted.clone()
    }

    /// A broken invariant that the product itself has met, if any.
    pub fn broken(&self) -> Option<String> {
        self.lock().broken.clone()
    }
}

impl LocalShards for Mailbox {
    fn submit(&self, request: Request) {
        self.put(request.group, Event::Request(request));
    }

    fn submit_all(&self, requests: Vec<Request>) {
        requests.into_iter().for_each(|request| self.submit(request));
    }

    fn deliver(&self, messages: Vec<GroupMessage>) {
        messages.into_iter().for_each(|message| self.put(message.group, Event::Message(message)));
    }

    fn unreachable(&self, node: NodeId) {
        self.lock().for_all.push(ForAll::Unreachable(node));
    }

    fn receive_snapshots(&self, from: NodeId, messages: Vec<SnapshotMessage>) {
        let snapshots = self.lock().snapshots.clone();
        if let Some(snapshots) = snapshots {
            snapshots.receive(from, messages);
        }
    }

    fn snapshots_connected(&self, node: NodeId) {
        let snapshots = self.lock().snapshots.clone();
        if let Some(snapshots) = snapshots {
            snapshots.connected(node);
        }
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.lock().shards.get(&group)?.1.leader_node()
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.lock().shards.values().map(|(descriptor, _)| descriptor.clone()).collect()
    }

    fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Transport for Mailbox {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) -> SendReport {
        let mut inner = self.lock();
        let mut report = SendReport::default();
        let is_connected = inner.connected.contains(&to);
        for message in messages {
            match (is_connected, &message) {
                (true, _) => inner.outgoing.push((to, message)),
                (false, PeerMessage::Request { id, .. }) => report.refused_requests.push(*id),
                (false, _) => report.dropped += 1,
            }
        }
        report
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.lock().connected.contains(&node)
    }

    fn clock_offsets(&self) -> BTreeMap<NodeId, i64> {
        BTreeMap::new()
    }
}

impl Outbox for Mailbox {
    fn send(&self, node: NodeId, parcels: Vec<Parcel>) {
        let messages = parcels.into_iter().map(|parcel| match parcel {
            Parcel::Raft(message) => PeerMessage::Raft(message),
            Parcel::Reply { id, result } => PeerMessage::Reply { id, result },
            Parcel::Snapshot(message) => PeerMessage::Snapshot(message),
        });
        // Lost messages are repeated, lost answers end in doubt at the asking node.
        let _ = Transport::send(self, node, messages.collect());
    }
}

impl SnapshotSink for Mailbox {
    fn snapshot_event(&self, event: SnapshotEvent) {
        self.put(event.group(), Event::Snapshot(event));
    }
}

impl CheckpointCompletion for Mailbox {
    fn checkpointed(&self, done: &[Checkpointed]) {
        for (group, (index, term)) in done {
            self.put(*group, Event::Checkpointed(Position::new(*index, *term)));
        }
    }

    fn damaged(&self, groups: &[(GroupId, u64)]) {
        for (group, generation) in groups {
            self.put(*group, Event::RowsLost { generation: *generation });
        }
    }

    fn unavailable(&self, error: &StoreError) {
        if !error.is_disk_full() {
            self.lock().for_all.push(ForAll::MayLead(false));
        }
    }

    fn available(&self) {
        self.lock().for_all.push(ForAll::MayLead(true));
    }

    fn failed(&self, error: &StoreError) {
        self.lock().broken.get_or_insert_with(|| error.to_string());
    }
}

impl Environment for Mailbox {
    fn now(&self) -> Instant {
        self.clock.instant()
    }

    fn wall_ms(&self) -> u64 {
        self.clock.wall_ms()
    }

    fn random(&self) -> u64 {
        self.random.lock().expect("nobody panics while holding it").number()
    }

    fn thread_slot(&self) -> usize {
        0
    }

    fn after(&self, pause: Duration) -> oneshot::Receiver<()> {
        let (wake, woken) = oneshot::channel();
        self.lock().timers.push((pause, wake));
        woken
    }
}
