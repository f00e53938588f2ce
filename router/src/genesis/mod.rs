//! The birth of a cluster: which nodes, which shards, under which id.
//!
//! The node with the lowest listed id proposes a [`Genesis`]: a random cluster id, every node with
//! its incarnation, the shard boundaries, the format version. Every listed node stores it durably
//! (*prepared*) before any node takes it for decided (*committed*), and only a committed node
//! starts groups. So no group of the cluster ever runs while a listed node could still be talked
//! into another cluster, and every node knows for good which directories the cluster began with: a
//! directory that was wiped or swapped later has another incarnation and is refused, because with
//! its votes forgotten it would vote twice.
//!
//! [`agree`] runs at every start of a node, on its peer port, before the transport does. Nodes
//! exchange their whole views until all have committed, in any order of arrival and over any
//! number of crashes: every step is safe to repeat. Nodes that run already answer late-comers
//! through their transport.
//!
//! Invariants:
//!
//! * A node stores at most one genesis, and never replaces a prepared one by another.
//! * A node commits only what it had prepared, and the first to commit does so only after every
//!   listed node said that it had.
//!
//! What is absent: disks (see [`GenesisStore`]), and any later change of members.

mod birth;
mod check;
mod error;
mod exchange;
mod view;

pub use check::check_options;
pub use error::GenesisError;
pub use exchange::agree;
pub(crate) use view::{GENESIS_BYTES_MAX, View};

use bytes::{BufMut, Bytes, BytesMut};
use flotilla_shard::{
    DecodeError, Descriptor, Epoch, GroupId, KeyRange, NodeId, Reader, ReplicaDescriptor,
    ReplicaId, Writer,
};
use std::collections::BTreeMap;

/// The version of everything that nodes of one cluster must understand alike: journal, store,
/// commands. A cluster is born with it.
pub const FORMAT_VERSION: u32 = 1;

/// What a cluster was born as. Never changes; members and shards may move on from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// [`FORMAT_VERSION`] of the nodes that agreed.
    pub format_version: u32,
    /// Chosen by the operator.
    pub cluster_name: String,
    /// Random: tells clusters of the same name apart.
    pub cluster_id: u128,
    /// All nodes at birth.
    pub nodes: BTreeMap<NodeId, NodeBirth>,
    /// The first key of each shard but the first: strictly ascending, none empty.
    pub split_keys: Vec<Bytes>,
}

/// A node as the cluster first knew it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeBirth {
    /// The identity of its data directory.
    pub incarnation: u64,
    /// Where it was listed, as the proposing node spelled it. Addresses may change later.
    pub address: String,
}

impl Genesis {
    /// The shards at birth: groups `1..=N` in key order, one replica on every node, whose id is
    /// the node's.
    pub fn descriptors(&self) -> Vec<Descriptor> {
        let replicas: Vec<_> = self
            .nodes
            .keys()
            .map(|node| ReplicaDescriptor { node: *node, replica: ReplicaId(node.0) })
            .collect();
        let starts = std::iter::once(Bytes::new()).chain(self.split_keys.iter().cloned());
        let ends = self.split_keys.iter().cloned().map(Some).chain(std::iter::once(None));
        starts
            .zip(ends)
            .zip(1..)
            .map(|((start, end), group)| Descriptor {
                group: GroupId(group),
                range: KeyRange { start, end },
                epoch: Epoch::FIRST,
                replicas: replicas.clone(),
            })
            .collect()
    }

    /// The genesis in bytes, with a checksum at the end.
    pub fn encode(&self) -> Bytes {
        let mut buffer = BytesMut::new();
        let mut out = Writer::new(&mut buffer);
        out.u32(self.format_version);
        out.bytes(self.cluster_name.as_bytes());
        out.u64(self.cluster_id as u64);
        out.u64((self.cluster_id >> 64) as u64);
        out.u32(self.nodes.len() as u32);
        for (node, birth) in &self.nodes {
            out.u64(node.0);
            out.u64(birth.incarnation);
            out.bytes(birth.address.as_bytes());
        }
        out.u32(self.split_keys.len() as u32);
        self.split_keys.iter().for_each(|key| out.bytes(key));
        let checksum = crc32c::crc32c(&buffer);
        buffer.put_u32_le(checksum);
        buffer.freeze()
    }

    /// Reads what [`Genesis::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the checksum fails, or bytes are missing, left over, or break an
    /// invariant of the fields.
    pub fn decode(mut bytes: Bytes) -> Result<Genesis, DecodeError> {
        if bytes.len() < 4 {
            return Err(DecodeError("a genesis record ends early"));
        }
        let checksum = bytes.split_off(bytes.len() - 4);
        if crc32c::crc32c(&bytes).to_le_bytes() != checksum[..] {
            return Err(DecodeError("a genesis record fails its checksum"));
        }
        let mut input = Reader::new(bytes);
        let format_version = input.u32()?;
        let cluster_name = view::text(&mut input)?;
        let cluster_id = u128::from(input.u64()?) | u128::from(input.u64()?) << 64;
        let mut nodes = BTreeMap::new();
        for _ in 0..input.count(20)? {
            let node = NodeId(input.u64()?);
            let incarnation = input.u64()?;
            nodes.insert(node, NodeBirth { incarnation, address: view::text(&mut input)? });
        }
        let split_keys = view::split_keys(&mut input)?;
        input.finish()?;
        if nodes.is_empty() || nodes.contains_key(&NodeId(0)) {
            return Err(DecodeError("a genesis record lists no node, or node 0"));
        }
        Ok(Genesis { format_version, cluster_name, cluster_id, nodes, split_keys })
    }

    /// The node that proposed it.
    pub fn coordinator(&self) -> NodeId {
        *self.nodes.keys().next().expect("a genesis has nodes")
    }
}

/// How far a node's directory has come in the birth of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GenesisState {
    /// It belongs to no cluster yet.
    #[default]
    Blank,
    /// It will belong to this one, if that comes to be.
    Prepared(Genesis),
    /// It belongs to this one.
    Committed(Genesis),
}

impl GenesisState {
    /// The genesis that the directory holds.
    pub fn genesis(&self) -> Option<&Genesis> {
        match self {
            GenesisState::Blank => None,
            GenesisState::Prepared(genesis) | GenesisState::Committed(genesis) => Some(genesis),
        }
    }
}

/// What a [`GenesisStore`] fails with.
pub type StoreError = Box<dyn std::error::Error + Send + Sync>;

/// Keeps the genesis in a node's directory. Writing replaces atomically.
pub trait GenesisStore: Send {
    /// What the directory holds.
    fn load(&self) -> Result<GenesisState, StoreError>;

    /// Makes `genesis` durable as prepared before it returns.
    fn save_prepared(&mut self, genesis: &Genesis) -> Result<(), StoreError>;

    /// Makes `genesis` durable as committed before it returns.
    fn save_committed(&mut self, genesis: &Genesis) -> Result<(), StoreError>;
}

/// What one node brings to the birth.
#[derive(Clone, Debug)]
pub struct GenesisOptions {
    /// This node.
    pub me: NodeId,
    /// The identity of its data directory.
    pub incarnation: u64,
    /// The cluster that it wants to belong to.
    pub cluster_name: String,
    /// Every node of the cluster, this one included, and where it listens for peers
    /// (`host:port`).
    pub peers: BTreeMap<NodeId, String>,
    /// The first key of each shard but the first, strictly ascending. `None`: as the others say,
    /// and one shard if nobody says anything.
    pub split_keys: Option<Vec<Bytes>>,
}
