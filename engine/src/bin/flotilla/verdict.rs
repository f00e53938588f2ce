//! The first line of every status: can the cluster serve, and what can it lose?
//!
//! Judged from the views of one or more nodes. One node knows its own replicas, who leads them and
//! which peers it is connected to; views of more nodes make the judgement surer, and any that is
//! silent counts as lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flotilla::server::admin::view::NodeView;
use serde::Serialize;

/// What can be said about a cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How many more nodes may fail before some shard stops; `None` if some shard already has.
    pub survives_losses: Option<usize>,
    /// Groups whose leader nobody knows, or of whose replicas no majority is there.
    pub unavailable: Vec<u64>,
    /// Groups with fewer working replicas than they should have.
    pub degraded: Vec<u64>,
    /// Nodes that do not answer or are not connected.
    pub missing_nodes: Vec<u64>,
    /// How many shards were seen.
    pub shards: usize,
}

#[derive(Default)]
struct Shard {
    nodes: BTreeSet<u64>,
    suspects: BTreeSet<u64>,
    led: bool,
    /// Views of replicas that would know the leader. A suspect one takes part in nothing, so that
    /// it knows of none means nothing.
    witnesses: usize,
}

impl Verdict {
    /// Judges by these views. A node counts as there if it answered, or if all that answered are
    /// connected to it.
    pub fn of(views: &[NodeView]) -> Verdict {
        let answered: BTreeSet<u64> = views.iter().map(|view| view.node_id).collect();
        let mut missing = BTreeSet::new();
        let mut shards: BTreeMap<u64, Shard> = BTreeMap::new();
        for view in views {
            let lost = view.nodes.iter().filter(|node| !node.connected).map(|node| node.node_id);
            missing.extend(lost.filter(|node| !answered.contains(node)));
            for placement in &view.placement {
                let shard = shards.entry(placement.group).or_default();
                shard.nodes.extend(&placement.nodes);
            }
            for shard in &view.shards {
                let known = shards.entry(shard.group).or_default();
                known.nodes.insert(view.node_id);
                known.led |= shard.leader.is_some();
                known.witnesses += usize::from(!view.suspect.contains(&shard.group));
            }
            for group in &view.suspect {
                shards.entry(*group).or_default().suspects.insert(view.node_id);
            }
        }

        let (mut unavailable, mut degraded) = (Vec::new(), Vec::new());
        let mut survives: Option<usize> = None;
        for (group, shard) in &shards {
            let works = |node: &&u64| !missing.contains(node) && !shard.suspects.contains(node);
            let working = shard.nodes.iter().filter(works).count();
            let quorum = shard.nodes.len() / 2 + 1;
            if working < shard.nodes.len() {
                degraded.push(*group);
            }
            let is_leaderless = !shard.led && shard.witnesses > 0;
            if is_leaderless || working < quorum {
                unavailable.push(*group);
                continue;
            }
            let spare = working - quorum;
            survives = Some(survives.map_or(spare, |least| least.min(spare)));
        }
        if !unavailable.is_empty() {
            survives = None;
        }
        Verdict {
            survives_losses: survives,
            unavailable,
            degraded,
            missing_nodes: missing.into_iter().collect(),
            shards: shards.len(),
        }
    }

    /// True if every shard can serve.
    pub fn is_available(&self) -> bool {
        self.shards > 0 && self.unavailable.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shards == 0 {
            return f.write_str("Not born yet: the node waits for its peers, no shard exists");
        }
        if !self.unavailable.is_empty() {
            write!(
                f,
                "UNAVAILABLE: {} of {} shards cannot serve: {}",
                self.unavailable.len(),
                self.shards,
                listed(&self.unavailable)
            )?;
        } else {
            let word = if self.degraded.is_empty() { "Healthy" } else { "Degraded" };
            match self.survives_losses.unwrap_or(0) {
                0 => write!(f, "{word}: serves, but does not survive the loss of any node")?,
                1 => write!(f, "{word}: survives the loss of 1 node")?,
                more => write!(f, "{word}: survives the loss of {more} nodes")?,
            }
        }
        if !self.missing_nodes.is_empty() {
            write!(f, "; not reached: node {}", listed(&self.missing_nodes))?;
        }
        Ok(())
    }
}

/// The first few of a list that may have thousands.
fn listed(ids: &[u64]) -> String {
    const SHOWN: usize = 10;
    let mut text = ids.iter().take(SHOWN).map(u64::to_string).collect::<Vec<_>>().join(", ");
    if ids.len() > SHOWN {
        text.push_str(&format!(" and {} more", ids.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla::server::admin::view::{EpochView, PeerView, PlacementView, ShardView};

    /// A view of node `me`, of `nodes` nodes of which those in `connected` are there, with
    /// (group, leader) shards on all nodes.
    fn view(me: u64, nodes: u64, connected: &[u64], shards: &[(u64, Option<u64>)]) -> NodeView {
        let shard = |&(group, leader): &(u64, Option<u64>)| ShardView {
            group,
            start: String::new(),
            end: String::new(),
            epoch: EpochView { version: 1, conf_version: 1 },
            role: "follower".to_owned(),
            leader,
            term: 1,
            last_index: 1,
            commit_index: 1,
            applied_index: 1,
            keys_estimate: 0,
        };
        let placed = |group| PlacementView { group, nodes: (1..=nodes).collect() };
        NodeView {
            node_id: me,
            cluster: "test".to_owned(),
            shards: shards.iter().map(shard).collect(),
            version: String::new(),
            nodes: (1..=nodes)
                .map(|node_id| PeerView {
                    node_id,
                    connected: node_id == me || connected.contains(&node_id),
                })
                .collect(),
            placement: shards.iter().map(|(group, _)| placed(*group)).collect(),
            suspect: Vec::new(),
            damaged: Vec::new(),
            installing: Vec::new(),
            leased: Vec::new(),
        }
    }

    fn words(views: &[NodeView]) -> String {
        Verdict::of(views).to_string()
    }

    #[test]
    fn a_whole_cluster_survives_its_minority() {
        let led = [(1, Some(1)), (2, Some(2))];
        assert_eq!(words(&[view(1, 3, &[2, 3], &led)]), "Healthy: survives the loss of 1 node");
        let five = view(1, 5, &[2, 3, 4, 5], &led);
        assert_eq!(words(&[five]), "Healthy: survives the loss of 2 nodes");
        let alone = words(&[view(1, 1, &[], &led)]);
        assert_eq!(alone, "Healthy: serves, but does not survive the loss of any node");
    }

    #[test]
    fn a_lost_node_degrades_and_a_lost_quorum_ends_service() {
        let led = [(1, Some(1)), (2, Some(2))];
        let one_lost = words(&[view(1, 3, &[2], &led)]);
        assert_eq!(
            one_lost,
            "Degraded: serves, but does not survive the loss of any node; not reached: node 3"
        );
        let two_lost = words(&[view(1, 3, &[], &led)]);
        assert_eq!(
            two_lost,
            "UNAVAILABLE: 2 of 2 shards cannot serve: 1, 2; not reached: node 2, 3"
        );
        let leaderless = words(&[view(1, 3, &[2, 3], &[(1, Some(1)), (2, None)])]);
        assert_eq!(leaderless, "UNAVAILABLE: 1 of 2 shards cannot serve: 2");
    }

    #[test]
    fn a_suspect_replica_counts_as_lost() {
        let mut view = view(1, 3, &[2, 3], &[(1, Some(2)), (2, Some(2))]);
        view.suspect = vec![2];
        let verdict = Verdict::of(&[view]);
        assert_eq!(verdict.survives_losses, Some(0));
        assert_eq!(verdict.degraded, [2]);
    }

    #[test]
    fn a_suspect_replica_does_not_judge_its_shard() {
        let mut own = view(1, 3, &[2, 3], &[(1, Some(2)), (2, None)]);
        own.suspect = vec![2];
        assert_eq!(
            words(&[own.clone()]),
            "Degraded: serves, but does not survive the loss of any node"
        );
        let other = view(2, 3, &[1, 3], &[(1, Some(2)), (2, None)]);
        assert_eq!(words(&[own.clone(), other]), "UNAVAILABLE: 1 of 2 shards cannot serve: 2");
        // Two of three replicas are needed, and only one is there.
        let mut cut_off = view(1, 3, &[2], &[(1, Some(2)), (2, None)]);
        cut_off.suspect = vec![2];
        assert!(words(&[cut_off]).starts_with("UNAVAILABLE: 1 of 2 shards cannot serve: 2"));
    }

    #[test]
    fn what_one_node_does_not_see_another_may() {
        let led = [(1, Some(2))];
        let views = [view(1, 3, &[3], &[(1, None)]), view(2, 3, &[3], &led)];
        assert_eq!(words(&views), "Healthy: survives the loss of 1 node");
        assert!(words(&[view(1, 3, &[], &[])]).starts_with("Not born yet"));
    }
}
