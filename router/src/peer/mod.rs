//! Carries messages between nodes: few connections, many groups, bounded everywhere.
//!
//! A node writes to each peer over three connections of its own, one per [`Class`]: *liveness*
//! (heartbeats, votes and their answers), *data* (appends, forwarded requests, replies) and *bulk*
//! (snapshots), so that a heartbeat never stands behind a large value, and neither stands behind a
//! snapshot. On the data connection long messages travel in pieces, with others in between. Whatever has gathered in an outbox when the
//! socket can take more leaves as one frame: batching grows with load by itself, and an idle
//! connection adds no delay. The bytes are written down in `docs/peer-protocol.md`.
//!
//! Invariants:
//!
//! * Bytes that may have been delivered are never sent again: a request would take effect twice.
//! * A request that [`Transport::send`] refused, or that [`Inbound::unsent`] names, certainly
//!   never reached the peer. After [`Inbound::disconnected`] all others in flight are in doubt.
//! * What waits for a peer is bounded in bytes per peer and class; a peer that is slow, silent or
//!   gone costs the others nothing.
//! * Nothing that arrives is believed before the handshake has shown that the other end belongs to
//!   this cluster and is the very incarnation that the cluster was born with.
//!
//! What is absent: routing, retries, and the meaning of a message. Delivery may lose, and between
//! classes reorder, but it never duplicates, and within a class of one connection it keeps the order
//! of each group.

mod clock;
pub mod frame;
mod handshake;
mod inbound;
mod local;
mod message;
mod metrics;
mod outbound;
mod outbox;
mod tcp;

pub use handshake::{HandshakeError, HandshakeRefusal, Identity, PROTOCOL_VERSION, RefusalReason};
pub(crate) use handshake::{Kind, read_greeting, refuse, write_greeting};
pub(crate) use inbound::refusal_for;
pub use local::{LocalNetwork, LocalTransport};
pub(crate) use message::node_name;
pub use message::{Class, ForwardedRequest, PeerMessage};
pub use metrics::PeerMetrics;
pub use tcp::{
    PeerAddress, PeerError, PeerStatus, TcpTransport, TransportOptions, TransportTiming,
};

use flotilla_shard::{NodeId, Refusal};
use std::collections::BTreeMap;

/// What [`Transport::send`] could not take. Everything else was accepted, which is not yet
/// delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendReport {
    /// Ids of the requests that were certainly not sent and never will be.
    pub refused_requests: Vec<u64>,
    /// How many Raft messages and replies were dropped.
    pub dropped: usize,
}

/// Takes messages to other nodes.
pub trait Transport: Send + Sync {
    /// Hands `messages` over for `to`. Those of one group and class stay in order. Never blocks,
    /// never waits.
    ///
    /// Ids of requests name them among all requests of this node in flight to `to`; the peer gives
    /// them back in its replies and makes nothing else of them.
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) -> SendReport;

    /// True if requests sent now would be accepted, as far as is known.
    fn is_connected(&self, node: NodeId) -> bool;

    /// By connected peer: its wall clock minus this node's, in milliseconds, as far as a round
    /// trip tells. Empty until clocks were compared.
    fn clock_offsets(&self) -> BTreeMap<NodeId, i64>;
}

/// Takes what arrives from other nodes. Called on transport threads: implementations enqueue and
/// return.
pub trait Inbound: Send + Sync + 'static {
    /// Messages from `from`, those of one group in the order of sending within a class.
    fn receive(&self, from: NodeId, messages: Vec<PeerMessage>);

    /// Requests to `node` are accepted from now on.
    fn connected(&self, node: NodeId);

    /// A connection with `node` was lost. Every request in flight to it that
    /// [`Inbound::unsent`] did not name just before is in doubt.
    fn disconnected(&self, node: NodeId);

    /// Snapshot messages to `node` travel from now on; earlier ones may be lost.
    fn bulk_connected(&self, _node: NodeId) {}

    /// These requests had been accepted for `node` but certainly did not reach it. By default they
    /// are answered as if by a replica that does not lead, so that the router looks elsewhere.
    fn unsent(&self, node: NodeId, requests: Vec<u64>) {
        let refused =
            |id| PeerMessage::Reply { id, result: Err(Refusal::NotLeader { leader: None }) };
        self.receive(node, requests.into_iter().map(refused).collect());
    }
}

impl SendReport {
    /// Notes that `message` was not taken.
    pub(crate) fn refuse(&mut self, message: &PeerMessage) {
        match message {
            PeerMessage::Request { id, .. } => self.refused_requests.push(*id),
            PeerMessage::Raft(_) | PeerMessage::Reply { .. } | PeerMessage::Snapshot(_) => {
                self.dropped += 1;
            }
        }
    }
}
