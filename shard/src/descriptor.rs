//! What a shard is: a key range, the epoch that orders its history, and where its replicas live.
//!
//! Invariants:
//!
//! * The group itself is the source of truth for its descriptor; everybody else holds copies that
//!   are ordered by [`Epoch`].
//! * Replica ids are never reused within a group, node ids never within a cluster.
//!
//! What is absent: who leads (that is a hint, see the status), and addresses (those may change).

use crate::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;
use flotilla_raft::ReplicaId;
use flotilla_storage::{GroupId, KeyRange};
use std::fmt;

/// Names one running engine: a data directory with an identity. Chosen by the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Orders the descriptors of one group. Compared field by field: both only ever grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch {
    /// Moves with the range: each split and each merge adds one or more.
    pub version: u64,
    /// Moves with the members.
    pub conf_version: u64,
}

impl Epoch {
    /// The epoch that every group is born with.
    pub const FIRST: Epoch = Epoch { version: 1, conf_version: 1 };
}

/// One replica of a group and the node that hosts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaDescriptor {
    /// The hosting node.
    pub node: NodeId,
    /// The replica's name within its group; never used twice, even on the same node.
    pub replica: ReplicaId,
}

/// A shard as its group describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The Raft group that holds the range.
    pub group: GroupId,
    /// The keys that it holds, and nobody else at this epoch.
    pub range: KeyRange,
    /// Orders this descriptor among all that the group ever had.
    pub epoch: Epoch,
    /// Its voters, in ascending order of node.
    pub replicas: Vec<ReplicaDescriptor>,
}

impl Descriptor {
    /// No descriptor is encoded in fewer bytes: group, an empty range, epoch, a count of replicas.
    pub(crate) const ENCODED_BYTES_MIN: usize = 8 + (4 + 1) + (8 + 8) + 4;

    /// The node that hosts `replica`, if it is a member.
    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.replicas.iter().find(|r| r.replica == replica).map(|r| r.node)
    }

    /// The replica that `node` hosts, if any.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        self.replicas.iter().find(|r| r.node == node).map(|r| r.replica)
    }

    /// Appends the descriptor's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.u64(self.group.0);
        out.range(&self.range);
        out.u64(self.epoch.version);
        out.u64(self.epoch.conf_version);
        out.u32(self.replicas.len() as u32);
        for replica in &self.replicas {
            out.u64(replica.node.0);
            out.u64(replica.replica.0);
        }
    }

    /// Reads what [`Descriptor::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<Descriptor, DecodeError> {
        let group = GroupId(input.u64()?);
        let range = input.range()?;
        let epoch = Epoch { version: input.u64()?, conf_version: input.u64()? };
        let count = input.count(16)?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            replicas.push(ReplicaDescriptor {
                node: NodeId(input.u64()?),
                replica: ReplicaId(input.u64()?),
            });
        }
        Ok(Descriptor { group, range, epoch, replicas })
    }

    /// The descriptor's bytes on their own.
    pub fn to_bytes(&self) -> Bytes {
        let mut buffer = bytes::BytesMut::new();
        self.encode(&mut Writer::new(&mut buffer));
        buffer.freeze()
    }
}
