//! What `/status` and `/readyz` say: plain data, written and read as JSON.
//!
//! The names and shapes of `node_id`, `cluster` and `shards` are a promise to scripts. More fields
//! may join them; readers skip what they do not know.

use std::collections::BTreeSet;

use flotilla_shard::ShardStatus;
use serde::{Deserialize, Serialize};

use crate::Status;

/// A node that lags by more committed entries than this on some shard is not ready. Under load a
/// healthy replica is always a few entries behind; a restarted one replays far more.
pub const READY_LAG_ENTRIES_MAX: u64 = 1000;

/// One node: the body of `/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// The node that answers.
    pub node_id: u64,
    /// The cluster's name.
    pub cluster: String,
    /// The shards of which this node holds a replica, by group.
    pub shards: Vec<ShardView>,
    /// The version of the binary.
    #[serde(default)]
    pub version: String,
    /// All nodes of the cluster as this one sees them, by id.
    #[serde(default)]
    pub nodes: Vec<PeerView>,
    /// On which nodes each shard's replicas are, by group.
    #[serde(default)]
    pub placement: Vec<PlacementView>,
    /// Groups whose local replica lost journal content: it neither votes nor acknowledges.
    #[serde(default)]
    pub suspect: Vec<u64>,
    /// Groups whose local rows are lost or unreadable: it votes and acknowledges, and waits for a
    /// snapshot from its leader.
    #[serde(default)]
    pub damaged: Vec<u64>,
    /// Groups whose local rows are being replaced by a snapshot at this moment.
    #[serde(default)]
    pub installing: Vec<u64>,
    /// Groups that the node leads and reads without asking the other replicas.
    #[serde(default)]
    pub leased: Vec<u64>,
}

/// One shard as its local replica sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    /// The Raft group that holds it.
    pub group: u64,
    /// Its first key, in hex.
    pub start: String,
    /// The first key after it, in hex; empty for the last shard.
    pub end: String,
    /// Orders the shard's descriptors.
    pub epoch: EpochView,
    /// `leader`, `follower` or `candidate`.
    pub role: String,
    /// The node that leads; `null` when unknown.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The last entry of the local log.
    pub last_index: u64,
    /// The last entry known to be committed.
    pub commit_index: u64,
    /// The last entry applied here.
    pub applied_index: u64,
    /// About how many keys it holds.
    pub keys_estimate: u64,
}

/// A shard's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochView {
    /// Grows when the range changes.
    pub version: u64,
    /// Grows when the members change.
    pub conf_version: u64,
}

/// Another node, or this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// The node.
    pub node_id: u64,
    /// True if it is this node, or a connection to it stands.
    pub connected: bool,
}

/// Where a shard's replicas are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementView {
    /// The group.
    pub group: u64,
    /// Its nodes, ascending.
    pub nodes: Vec<u64>,
}

impl NodeView {
    /// A node whose engine does not run yet.
    pub fn unborn(node_id: u64, cluster: &str) -> NodeView {
        NodeView::new(node_id, cluster, &[], &BTreeSet::new())
    }

    /// What a running engine says about itself.
    pub fn of(status: &Status) -> NodeView {
        let connected = status.connected.iter().map(|node| node.0).collect();
        NodeView::new(status.node_id.0, &status.cluster_name, &status.shards, &connected)
    }

    /// Puts together what a node says about itself; `connected` are the peers it is connected to.
    pub fn new(
        node_id: u64,
        cluster: &str,
        statuses: &[ShardStatus],
        connected: &BTreeSet<u64>,
    ) -> NodeView {
        let mut statuses: Vec<&ShardStatus> = statuses.iter().collect();
        statuses.sort_unstable_by_key(|status| status.group.0);

        let placement: Vec<PlacementView> = statuses
            .iter()
            .map(|status| {
                let mut nodes: Vec<u64> = status.nodes.iter().map(|node| node.0).collect();
                nodes.sort_unstable();
                PlacementView { group: status.group.0, nodes }
            })
            .collect();
        let mut nodes: BTreeSet<u64> =
            placement.iter().flat_map(|shard| shard.nodes.iter().copied()).collect();
        nodes.insert(node_id);
        let peer =
            |id: u64| PeerView { node_id: id, connected: id == node_id || connected.contains(&id) };
        NodeView {
            node_id,
            cluster: cluster.to_owned(),
            shards: statuses.iter().map(|status| ShardView::new(status)).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            nodes: nodes.into_iter().map(peer).collect(),
            placement,
            suspect: groups(&statuses, |status| status.suspect),
            damaged: groups(&statuses, |status| status.needs_snapshot),
            installing: groups(&statuses, |status| status.installing),
            leased: groups(&statuses, |status| status.leased),
        }
    }
}

/// The groups of which something holds.
fn groups(statuses: &[&ShardStatus], holds: impl Fn(&ShardStatus) -> bool) -> Vec<u64> {
    statuses.iter().filter(|status| holds(status)).map(|status| status.group.0).collect()
}

impl ShardView {
    fn new(status: &ShardStatus) -> ShardView {
        ShardView {
            group: status.group.0,
            start: hex(&status.range.start),
            end: status.range.end.as_ref().map(|end| hex(end)).unwrap_or_default(),
            epoch: EpochView {
                version: status.epoch.version,
                conf_version: status.epoch.conf_version,
            },
            role: status.role.as_str().to_owned(),
            leader: status.leader.map(|node| node.0),
            term: status.term,
            last_index: status.last_index,
            commit_index: status.commit_index,
            applied_index: status.applied_index,
            keys_estimate: status.keys_estimate,
        }
    }

    /// Why this shard is not ready to serve through this node; `None` if it is.
    fn waits_for(&self) -> Option<&'static str> {
        let lag = self.commit_index.saturating_sub(self.applied_index);
        match self.leader {
            None => Some("no leader is known"),
            // The first entry of the first leader's term is the first proof of a quorum.
            Some(_) if self.commit_index == 0 => Some("nothing is committed yet"),
            Some(_) if lag > READY_LAG_ENTRIES_MAX => Some("it applies what others committed"),
            Some(_) => None,
        }
    }
}

/// What a suspect replica is told to wait for.
const LOST_CONTENT: &str = "this replica lost journal content and must be replaced";

/// The body of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// True if nothing below stands in the way.
    pub ready: bool,
    /// Why the node stopped itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// What the node as a whole waits for, before it has shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The shards that are not ready, by group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<WaitingShard>,
}

/// A shard that is not ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingShard {
    /// The group.
    pub group: u64,
    /// What it waits for, in words.
    pub reason: String,
    /// How many committed entries it has not applied.
    pub lag_entries: u64,
}

impl Readiness {
    /// Judges a node by what it says. A node without shards is not ready: it is not born yet.
    pub fn of(view: &NodeView, failure: Option<String>) -> Readiness {
        let waiting: Vec<WaitingShard> = view
            .shards
            .iter()
            .filter_map(|shard| {
                let lost = view.suspect.contains(&shard.group);
                let reason = if lost { LOST_CONTENT } else { shard.waits_for()? }.to_owned();
                let lag_entries = shard.commit_index.saturating_sub(shard.applied_index);
                Some(WaitingShard { group: shard.group, reason, lag_entries })
            })
            .collect();
        let ready = failure.is_none() && waiting.is_empty() && !view.shards.is_empty();
        let unborn = "the cluster is not born yet: every listed node must be up once";
        let reason = view.shards.is_empty().then(|| unborn.to_owned());
        Readiness { ready, failure, reason, waiting }
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}
