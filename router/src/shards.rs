//! What the router needs of the shards on its own node.
//!
//! The running node gives it [`Lanes`]; tests and simulations give it their own.

use flotilla_shard::{Descriptor, GroupId, GroupMessage, Lanes, NodeId, Request, SnapshotMessage};
use tokio::runtime::Handle;

/// The replicas that this node hosts.
pub trait LocalShards: Send + Sync + 'static {
    /// Hands a request to its group. Answered always, through the request's reply.
    fn submit(&self, request: Request);
    /// Hands over several, waking each thread once. Order within a group is kept.
    fn submit_all(&self, requests: Vec<Request>);
    /// Hands over what replicas on other nodes sent.
    fn deliver(&self, messages: Vec<GroupMessage>);
    /// Tells the replicas that `node` cannot be reached now.
    fn unreachable(&self, node: NodeId);
    /// Hands over what the snapshot service of `from` sent.
    fn receive_snapshots(&self, from: NodeId, messages: Vec<SnapshotMessage>);
    /// Tells the snapshot service that its messages to `node` travel from now on.
    fn snapshots_connected(&self, node: NodeId);
    /// Who leads `group`, as its replica on this node thinks; `None` if it does not know or there
    /// is no such replica. Lock-free.
    fn leader(&self, group: GroupId) -> Option<NodeId>;
    /// What the replicas on this node say about their shards.
    fn descriptors(&self) -> Vec<Descriptor>;
    /// A runtime that lives as long as the shards do: timers run there, because callers may have
    /// no runtime of their own.
    fn handle(&self) -> Handle;
}

impl LocalShards for Lanes {
    fn submit(&self, request: Request) {
        Lanes::submit(self, request);
    }

    fn submit_all(&self, requests: Vec<Request>) {
        Lanes::submit_all(self, requests);
    }

    fn deliver(&self, messages: Vec<GroupMessage>) {
        Lanes::deliver(self, messages);
    }

    fn unreachable(&self, node: NodeId) {
        Lanes::unreachable(self, node);
    }

    fn receive_snapshots(&self, from: NodeId, messages: Vec<SnapshotMessage>) {
        if let Some(snapshots) = self.snapshots() {
            snapshots.receive(from, messages);
        }
    }

    fn snapshots_connected(&self, node: NodeId) {
        if let Some(snapshots) = self.snapshots() {
            snapshots.connected(node);
        }
    }

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        Lanes::leader(self, group)
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        Lanes::descriptors(self)
    }

    fn handle(&self) -> Handle {
        self.handles()[0].clone()
    }
}
