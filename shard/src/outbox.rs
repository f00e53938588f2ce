//! What a lane needs from above: somewhere to put what must leave the node.
//!
//! A lane collects the effects of all its replicas and hands them over once per turn and peer. The
//! shard crate does not know how they travel.

use crate::descriptor::NodeId;
use crate::request::{Answer, Refusal};
use crate::snapshot::SnapshotMessage;
use flotilla_raft::{Message, ReplicaId};
use flotilla_storage::GroupId;

/// A Raft message with its group's name on it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMessage {
    /// The group that it belongs to.
    pub group: GroupId,
    /// The sending replica.
    pub from: ReplicaId,
    /// The replica that it is meant for; any other must ignore it.
    pub to: ReplicaId,
    /// What Raft says.
    pub message: Message,
}

/// Something that leaves the node.
#[derive(Clone, Debug, PartialEq)]
pub enum Parcel {
    /// From one replica to another. May be lost: Raft repeats itself.
    Raft(GroupMessage),
    /// The answer to a request that another node forwarded.
    Reply {
        /// The asking node's name for the request.
        id: u64,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// Between the snapshot services of two nodes. May be lost: they repeat themselves.
    Snapshot(SnapshotMessage),
}

/// Carries parcels to other nodes.
pub trait Outbox: Send + Sync {
    /// Takes `parcels` for `node`. Never blocks. Parcels that cannot be sent are dropped: Raft
    /// repeats itself, and a caller whose answer is lost learns that its outcome is unknown.
    fn send(&self, node: NodeId, parcels: Vec<Parcel>);
}
