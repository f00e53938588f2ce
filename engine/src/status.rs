//! What an engine says about itself.

use flotilla_shard::{NodeId, Role, ShardStatus};

/// A node and its shards. Each shard's figures are from some recent moment, not all from the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// The node.
    pub node_id: NodeId,
    /// The name of its cluster.
    pub cluster_name: String,
    /// The shards with a replica on this node, in key order.
    pub shards: Vec<ShardStatus>,
    /// The other nodes that this one is connected to, in ascending order.
    pub connected: Vec<NodeId>,
}

impl Status {
    pub(crate) fn new(
        node_id: NodeId,
        cluster_name: &str,
        mut shards: Vec<ShardStatus>,
        mut connected: Vec<NodeId>,
    ) -> Status {
        shards.sort_by(|a, b| a.range.start.cmp(&b.range.start));
        connected.sort_unstable();
        Status { node_id, cluster_name: cluster_name.to_owned(), shards, connected }
    }

    /// True if the two differ in figures at most, such as log positions.
    pub(crate) fn is_alike(&self, other: &Status) -> bool {
        let alike = |a: &ShardStatus, b: &ShardStatus| {
            a.group == b.group
                && a.range == b.range
                && a.epoch == b.epoch
                && a.role == b.role
                && a.leader == b.leader
                && a.term == b.term
                && a.suspect == b.suspect
                && a.needs_snapshot == b.needs_snapshot
                && a.installing == b.installing
                && a.nodes == b.nodes
        };
        self.node_id == other.node_id
            && self.cluster_name == other.cluster_name
            && self.connected == other.connected
            && self.shards.len() == other.shards.len()
            && self.shards.iter().zip(&other.shards).all(|(a, b)| alike(a, b))
    }

    /// True if every shard with a replica here has a leader that this node knows: requests can be
    /// served.
    pub fn is_ready(&self) -> bool {
        !self.shards.is_empty() && self.shards.iter().all(|shard| shard.leader.is_some())
    }

    /// How many shards this node leads.
    pub fn shards_led(&self) -> usize {
        self.shards.iter().filter(|shard| shard.role == Role::Leader).count()
    }
}
