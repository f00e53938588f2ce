//! The transport of nodes that live in one process: messages change hands without bytes.
//!
//! Delivery happens on the sender's thread. A node that answers from within
//! [`Inbound::receive`] does not recurse: a link that is already delivering takes the new messages
//! into its queue and the running delivery goes on with them.
//!
//! Invariants:
//!
//! * The order within one direction of a pair of nodes is kept.
//! * A queue holds at most `queue_bytes_max` bytes, or one larger message.
//! * [`LocalNetwork::cut`] loses what is queued, reports it as a broken connection, and refuses
//!   everything until [`LocalNetwork::heal`].
//!
//! What is absent: delay and duplication. The simulator has those.

use super::{Inbound, PeerMessage, SendReport, Transport};
use flotilla_shard::NodeId;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a link may hold while another thread is delivering over it.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Connects the nodes of one process. Clones share it.
#[derive(Clone)]
pub struct LocalNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    queue_bytes_max: usize,
    topology: RwLock<Topology>,
}

#[derive(Default)]
struct Topology {
    nodes: BTreeMap<NodeId, Member>,
    links: BTreeMap<(NodeId, NodeId), Arc<Link>>,
    cuts: BTreeSet<(NodeId, NodeId)>,
}

struct Member {
    inbound: Arc<dyn Inbound>,
    /// Added to the ids of this member's requests, taken off replies to it: an answer meant for an
    /// earlier life of the node matches nothing.
    salt: u64,
}

/// One direction between two nodes.
#[derive(Default)]
struct Link {
    state: Mutex<LinkState>,
}

#[derive(Default)]
struct LinkState {
    queue: VecDeque<Vec<PeerMessage>>,
    queued_bytes: usize,
    delivering: bool,
}

impl Default for LocalNetwork {
    fn default() -> Self {
        LocalNetwork::new()
    }
}

impl LocalNetwork {
    /// A network without nodes.
    pub fn new() -> LocalNetwork {
        LocalNetwork::with_queue_bytes_max(QUEUE_BYTES_MAX)
    }

    /// A network whose links queue at most `queue_bytes_max` bytes each.
    pub fn with_queue_bytes_max(queue_bytes_max: usize) -> LocalNetwork {
        let topology = RwLock::default();
        LocalNetwork { shared: Arc::new(Shared { queue_bytes_max, topology }) }
    }

    /// Adds `node`, or replaces its earlier life, and returns its way to the others. All learn
    /// that they are connected.
    pub fn join(&self, node: NodeId, inbound: Arc<dyn Inbound>) -> Arc<LocalTransport> {
        self.leave(node);
        let salt = rand::random();
        let member = Member { inbound: inbound.clone(), salt };
        let others = {
            let mut topology = self.shared.topology.write();
            topology.nodes.insert(node, member);
            topology.reachable(node)
        };
        for (other, other_inbound) in others {
            other_inbound.connected(node);
            other_inbound.bulk_connected(node);
            inbound.connected(other);
            inbound.bulk_connected(other);
        }
        Arc::new(LocalTransport { node, salt, shared: self.shared.clone() })
    }

    /// Removes `node`; the others learn that they are disconnected.
    pub fn leave(&self, node: NodeId) {
        let others = {
            let mut topology = self.shared.topology.write();
            let others = topology.reachable(node);
            if topology.nodes.remove(&node).is_none() {
                return;
            }
            topology.links.retain(|(from, to), link| {
                let keep = *from != node && *to != node;
                if !keep {
                    link.clear();
                }
                keep
            });
            others
        };
        for (_, other) in others {
            other.disconnected(node);
        }
    }

    /// Breaks the connections between two nodes until [`LocalNetwork::heal`].
    pub fn cut(&self, a: NodeId, b: NodeId) {
        let ends = {
            let mut topology = self.shared.topology.write();
            if !topology.cuts.insert(pair(a, b)) {
                return;
            }
            for link in [(a, b), (b, a)] {
                if let Some(link) = topology.links.get(&link) {
                    link.clear();
                }
            }
            topology.ends(a, b)
        };
        if let Some((a_inbound, b_inbound)) = ends {
            a_inbound.disconnected(b);
            b_inbound.disconnected(a);
        }
    }

    /// Undoes [`LocalNetwork::cut`].
    pub fn heal(&self, a: NodeId, b: NodeId) {
        let ends = {
            let mut topology = self.shared.topology.write();
            if !topology.cuts.remove(&pair(a, b)) {
                return;
            }
            topology.ends(a, b)
        };
        if let Some((a_inbound, b_inbound)) = ends {
            a_inbound.connected(b);
            a_inbound.bulk_connected(b);
            b_inbound.connected(a);
            b_inbound.bulk_connected(a);
        }
    }
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Topology {
    fn is_open(&self, a: NodeId, b: NodeId) -> bool {
        a != b
            && self.nodes.contains_key(&a)
            && self.nodes.contains_key(&b)
            && !self.cuts.contains(&pair(a, b))
    }

    fn reachable(&self, node: NodeId) -> Vec<(NodeId, Arc<dyn Inbound>)> {
        let others = self.nodes.iter().filter(|(other, _)| self.is_open(node, **other));
        others.map(|(other, member)| (*other, member.inbound.clone())).collect()
    }

    fn ends(&self, a: NodeId, b: NodeId) -> Option<(Arc<dyn Inbound>, Arc<dyn Inbound>)> {
        Some((self.nodes.get(&a)?.inbound.clone(), self.nodes.get(&b)?.inbound.clone()))
    }
}

impl Link {
    fn clear(&self) {
        let mut state = self.state.lock();
        state.queue.clear();
        state.queued_bytes = 0;
    }
}

/// One node's way to the others of its process.
pub struct LocalTransport {
    node: NodeId,
    /// Tells this life of the node from a later one, whose network this is no more.
    salt: u64,
    shared: Arc<Shared>,
}

impl LocalTransport {
    fn is_open(&self, topology: &Topology, to: NodeId) -> bool {
        topology.is_open(self.node, to) && topology.nodes[&self.node].salt == self.salt
    }

    /// The link to `to` and the salt of its life, if messages can pass now.
    fn open_link(&self, to: NodeId) -> Option<(Arc<Link>, u64)> {
        let find = |topology: &Topology| {
            let link = topology.links.get(&(self.node, to))?.clone();
            Some((link, topology.nodes[&to].salt))
        };
        {
            let topology = self.shared.topology.read();
            if !self.is_open(&topology, to) {
                return None;
            }
            if let Some(found) = find(&topology) {
                return Some(found);
            }
        }
        let mut topology = self.shared.topology.write();
        if !self.is_open(&topology, to) {
            return None;
        }
        topology.links.entry((self.node, to)).or_default();
        find(&topology)
    }

    /// Delivers what the link holds until it is empty, one batch at a time, without its lock.
    fn deliver(&self, to: NodeId, link: &Link) {
        loop {
            let batch = {
                let mut state = link.state.lock();
                match state.queue.pop_front() {
                    Some(batch) => {
                        let bytes: usize = batch.iter().map(PeerMessage::cost_bytes).sum();
                        state.queued_bytes -= bytes;
                        batch
                    }
                    None => {
                        state.delivering = false;
                        return;
                    }
                }
            };
            let inbound = {
                let topology = self.shared.topology.read();
                match topology.nodes.get(&to) {
                    Some(member) if self.is_open(&topology, to) => member.inbound.clone(),
                    _ => continue,
                }
            };
            inbound.receive(self.node, batch);
        }
    }
}

impl Transport for LocalTransport {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) -> SendReport {
        let mut report = SendReport::default();
        let Some((link, their_salt)) = self.open_link(to) else {
            messages.iter().for_each(|message| report.refuse(message));
            return report;
        };
        let mut batch = messages;
        let start_delivery = {
            let mut state = link.state.lock();
            let mut bytes = state.queued_bytes;
            batch.retain_mut(|message| {
                let cost = message.cost_bytes();
                if bytes > 0 && bytes + cost > self.shared.queue_bytes_max {
                    report.refuse(message);
                    return false;
                }
                bytes += cost;
                match message {
                    PeerMessage::Raft(_) | PeerMessage::Snapshot(_) => {}
                    PeerMessage::Request { id, .. } => *id = id.wrapping_add(self.salt),
                    PeerMessage::Reply { id, .. } => *id = id.wrapping_sub(their_salt),
                }
                true
            });
            if batch.is_empty() {
                return report;
            }
            state.queued_bytes = bytes;
            state.queue.push_back(batch);
            !std::mem::replace(&mut state.delivering, true)
        };
        if start_delivery {
            self.deliver(to, &link);
        }
        report
    }

    fn is_connected(&self, node: NodeId) -> bool {
        self.is_open(&self.shared.topology.read(), node)
    }

    /// All nodes of one process read the same clock.
    fn clock_offsets(&self) -> BTreeMap<NodeId, i64> {
        let topology = self.shared.topology.read();
        let others = topology.nodes.keys().filter(|node| self.is_open(&topology, **node));
        others.map(|node| (*node, 0)).collect()
    }
}
