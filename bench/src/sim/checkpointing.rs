//! When the faults are over every node must be able to write its store, whatever has become of its
//! file: a node whose checkpoints fail looks well until its journal is full.
//!
//! What is absent: what is in the file (`contents` of the judges compares it).

use flotilla_shard::GroupId;
use flotilla_shard::effects::Event;

use super::world::World;

impl World {
    /// Every node hands what it has in memory to its checkpoints.
    pub(super) fn freeze_all(&mut self) {
        for at in 0..self.nodes.len() {
            self.with_life(at, None, |life, _, _| {
                let groups: Vec<GroupId> = life.replicas.keys().copied().collect();
                groups.into_iter().for_each(|group| life.mailbox.put(group, Event::Freeze));
                true
            });
        }
    }

    /// A node whose checkpoints have not ended, in words.
    pub(super) fn unwritten(&self) -> Option<String> {
        let lives = self.nodes.iter().filter_map(|node| node.life.as_ref());
        for life in lives {
            let node = life.at + 1;
            if life.due.store_retry {
                return Some(format!("the store of node {node} cannot be written"));
            }
            if life.due.checkpoint || life.checkpoints.is_asked() {
                return Some(format!("the checkpoints of node {node} have not ended"));
            }
        }
        None
    }
}
