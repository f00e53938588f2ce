//! Who leads a group, as other nodes said.
//!
//! The replica of this node knows best and is asked first; what stands here are answers of other
//! nodes ("not I, but that one"), used while the own replica knows nobody or was wrong.
//!
//! Invariant: a hint is only ever a guess. A wrong one costs a round trip, never a wrong answer,
//! because the asked replica checks; the guess that failed is forgotten.
//!
//! What is absent: the own replica's knowledge, and which replica to try when nobody is known.

use flotilla_shard::{GroupId, NodeId};
use parking_lot::RwLock;
use std::collections::HashMap;

/// Cached answers, at most one per group.
#[derive(Debug, Default)]
pub struct LeaderHints {
    hints: RwLock<HashMap<GroupId, NodeId>>,
}

impl LeaderHints {
    /// No hints yet.
    pub fn new() -> LeaderHints {
        LeaderHints::default()
    }

    /// Whom somebody named as leader of `group`.
    pub fn get(&self, group: GroupId) -> Option<NodeId> {
        self.hints.read().get(&group).copied()
    }

    /// Remembers that `leader` was named for `group`.
    pub fn learn(&self, group: GroupId, leader: NodeId) {
        if self.get(group) != Some(leader) {
            self.hints.write().insert(group, leader);
        }
    }

    /// Forgets the hint for `group` if it is still the one that failed.
    pub fn forget(&self, group: GroupId, failed: NodeId) {
        if self.get(group) == Some(failed) {
            let mut hints = self.hints.write();
            if hints.get(&group) == Some(&failed) {
                hints.remove(&group);
            }
        }
    }

    /// Forgets every hint that names `node`: it cannot be reached.
    pub fn forget_node(&self, node: NodeId) {
        self.hints.write().retain(|_, leader| *leader != node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_hint_is_forgotten_and_a_newer_one_kept() {
        let hints = LeaderHints::new();
        hints.learn(GroupId(1), NodeId(2));
        hints.learn(GroupId(1), NodeId(3));
        hints.forget(GroupId(1), NodeId(2));
        assert_eq!(hints.get(GroupId(1)), Some(NodeId(3)));
        hints.forget(GroupId(1), NodeId(3));
        assert_eq!(hints.get(GroupId(1)), None);
    }

    #[test]
    fn an_unreachable_node_leads_nothing() {
        let hints = LeaderHints::new();
        hints.learn(GroupId(1), NodeId(2));
        hints.learn(GroupId(2), NodeId(3));
        hints.forget_node(NodeId(2));
        assert_eq!((hints.get(GroupId(1)), hints.get(GroupId(2))), (None, Some(NodeId(3))));
    }
}
