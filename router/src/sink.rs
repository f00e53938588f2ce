//! Receives what other nodes send: Raft messages for the lanes, requests for the shards here, and
//! answers to what was forwarded from here.

use crate::peer::{Inbound, PeerMessage};
use crate::route::Inner;
use flotilla_shard::{NodeId, Part, Refusal, Reply, Request, hold};
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// No forwarded request may occupy this node for longer, whatever its sender says.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// What a request of another node costs besides its keys and values.
const FORWARD_OVERHEAD_BYTES: u64 = 256;

/// The router's side that faces other nodes. Does nothing once the router is gone.
pub(crate) struct Sink {
    inner: Weak<Inner>,
}

impl Sink {
    pub(crate) fn new(inner: Weak<Inner>) -> Sink {
        Sink { inner }
    }
}

impl Inbound for Sink {
    fn receive(&self, from: NodeId, messages: Vec<PeerMessage>) {
        let Some(inner) = self.inner.upgrade() else { return };
        let closed = inner.closed.load(Ordering::Acquire);
        let now = inner.environment.now();
        let answers = inner.budget.account(Part::Reads);
        let mut raft = Vec::new();
        let mut snapshots = Vec::new();
        let mut requests = Vec::new();
        let mut refusals = Vec::new();
        for message in messages {
            match message {
                PeerMessage::Raft(message) => raft.push(message),
                PeerMessage::Snapshot(message) => snapshots.push(message),
                PeerMessage::Reply { id, result } => {
                    let result = result.map(|answer| hold(answer, &answers));
                    inner.forwards.complete(from, id, result);
                }
                PeerMessage::Request { id, .. } if closed => {
                    refusals.push(PeerMessage::Reply { id, result: Err(Refusal::Shutdown) });
                }
                PeerMessage::Request { id, body } => {
                    let bytes = body.operation.payload_bytes() + FORWARD_OVERHEAD_BYTES;
                    let Some(permit) = inner.budget.acquire_for(body.group, bytes) else {
                        let retry_after = inner.options.busy_retry_after;
                        let result = Err(Refusal::Busy { retry_after });
                        refusals.push(PeerMessage::Reply { id, result });
                        continue;
                    };
                    inner.metrics.served_forwards.inc();
                    requests.push(Request {
                        group: body.group,
                        epoch: body.epoch,
                        operation: body.operation,
                        consistency: body.consistency,
                        origin: body.origin,
                        deadline: now + body.timeout.min(TIMEOUT_MAX),
                        entered: now,
                        permit,
                        reply: Reply::Peer { node: from, id },
                    });
                }
            }
        }
        if !raft.is_empty() {
            inner.lanes.deliver(raft);
        }
        if !snapshots.is_empty() {
            inner.lanes.receive_snapshots(from, snapshots);
        }
        if !requests.is_empty() {
            inner.lanes.submit_all(requests);
        }
        if !refusals.is_empty() {
            // A refusal that cannot be sent ends at the other side's deadline.
            let _ = inner.transport.send(from, refusals);
        }
    }

    fn connected(&self, _node: NodeId) {}

    fn disconnected(&self, node: NodeId) {
        let Some(inner) = self.inner.upgrade() else { return };
        inner.hints.forget_node(node);
        inner.forwards.lose_node(node);
        inner.lanes.unreachable(node);
    }

    fn bulk_connected(&self, node: NodeId) {
        let Some(inner) = self.inner.upgrade() else { return };
        inner.lanes.snapshots_connected(node);
    }
}
