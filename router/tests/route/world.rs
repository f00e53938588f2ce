//! Three nodes in one process: real routers over the real local network, and shards that are plain
//! maps which all nodes share, so that only the way to them is under test.

use bytes::Bytes;
use flotilla_router::peer::{Inbound, LocalNetwork};
use flotilla_router::{LocalShards, Router, RouterMetrics, RouterOptions, TransportSlot};
use flotilla_shard::{
    Answer, Budget, CommandFailure, Condition, Consistency, Descriptor, Entry, Epoch, GroupId,
    GroupMessage, KeyRange, NodeId, Operation, Origin, Outbox, Parcel, Refusal, ReplicaDescriptor,
    ReplicaId, Reply, Request, Write, WriteOutcome,
};
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const BUDGET_BYTES: u64 = 1 << 20;

/// What a node does with the next request, instead of serving it.
pub enum Prank {
    Say(Refusal),
    /// The request stays unanswered, and can be found in [`Shared::held`].
    Hold,
    /// The reply is dropped unanswered.
    Drop,
    /// The request is served, and its answer lost.
    Lose,
    /// The state machine says so.
    Fail(CommandFailure),
}

/// What the replicas of all nodes know and did.
#[derive(Default)]
pub struct Shared {
    pub descriptors: Vec<Descriptor>,
    pub leaders: BTreeMap<GroupId, NodeId>,
    pub rows: BTreeMap<Bytes, Bytes>,
    /// By the node that is asked next.
    pub pranks: BTreeMap<NodeId, VecDeque<Prank>>,
    pub held: Vec<Request>,
    /// Every request that reached a node, in order.
    pub seen: Vec<Seen>,
    /// Every put that changed the rows, in order.
    pub effects: Vec<(Bytes, Bytes)>,
    /// What writes with names were answered.
    pub answers: BTreeMap<(u64, u64), WriteOutcome>,
}

#[derive(Clone, Debug)]
pub struct Seen {
    pub node: NodeId,
    pub group: GroupId,
    pub operation: Operation,
    pub origin: Origin,
    pub consistency: Consistency,
}

pub struct World {
    pub shared: Arc<Mutex<Shared>>,
    pub network: LocalNetwork,
    pub nodes: Vec<TestNode>,
}

pub struct TestNode {
    pub router: Router,
    pub budget: Budget,
    pub registry: Registry,
    pub sink: Arc<dyn Inbound>,
    pub outbox: Arc<dyn Outbox>,
}

impl World {
    /// Three nodes; shards cut at `borders`, group 1 the first, led by nodes 1, 2, 3, 1, ... in turn.
    pub fn new(borders: &[&str]) -> World {
        World::with_options(borders, RouterOptions::new)
    }

    /// The same with routers of other options.
    pub fn with_options(borders: &[&str], options: impl Fn(NodeId) -> RouterOptions) -> World {
        let mut shared = Shared::default();
        let starts = std::iter::once("").chain(borders.iter().copied());
        let ends = borders.iter().copied().map(Some).chain([None]);
        for (n, (start, end)) in starts.zip(ends).enumerate() {
            let group = GroupId(n as u64 + 1);
            shared.descriptors.push(descriptor(group, 1, start, end));
            shared.leaders.insert(group, NodeId(n as u64 % 3 + 1));
        }
        let shared = Arc::new(Mutex::new(shared));
        let network = LocalNetwork::new();
        let node = |id| TestNode::new(options(NodeId(id)), &shared, &network);
        let nodes = (1..=3).map(node).collect();
        World { shared, network, nodes }
    }

    pub fn router(&self, node: usize) -> &Router {
        &self.nodes[node - 1].router
    }

    pub fn prank(&self, node: u64, prank: Prank) {
        self.shared.lock().pranks.entry(NodeId(node)).or_default().push_back(prank);
    }

    /// Nodes asked so far, in order.
    pub fn asked(&self) -> Vec<u64> {
        self.shared.lock().seen.iter().map(|seen| seen.node.0).collect()
    }

    /// Lets the held requests take effect now, as entries that were in the log all the time; their
    /// answers find nobody.
    pub fn commit_held(&self) {
        let mut shared = self.shared.lock();
        for request in std::mem::take(&mut shared.held) {
            if let Operation::Write(write) = &request.operation {
                shared.apply(&request.origin, &KeyRange::whole(), write);
            }
        }
    }

    /// How often a put of `value` took effect.
    pub fn effects_of(&self, value: &str) -> usize {
        let shared = self.shared.lock();
        shared.effects.iter().filter(|(_, written)| written == value.as_bytes()).count()
    }

    /// Splits the shard that holds `border`; the new half gets `group` and the same leader.
    pub fn split(&self, border: &'static str, group: u64) {
        let mut shared = self.shared.lock();
        let border = Bytes::from(border);
        let at = shared.descriptors.iter().position(|shard| shard.range.contains(&border)).unwrap();
        let mut child = shared.descriptors[at].clone();
        child.group = GroupId(group);
        child.epoch.version += 1;
        child.range.start = border.clone();
        let parent = &mut shared.descriptors[at];
        parent.epoch.version += 1;
        parent.range.end = Some(border);
        let leader = shared.leaders[&shared.descriptors[at].group];
        shared.leaders.insert(child.group, leader);
        shared.descriptors.push(child);
    }
}

impl TestNode {
    fn new(
        options: RouterOptions,
        shared: &Arc<Mutex<Shared>>,
        network: &LocalNetwork,
    ) -> TestNode {
        let id = options.node;
        let slot = TransportSlot::new();
        let shards = FakeShards {
            node: id,
            shared: shared.clone(),
            outbox: Arc::new(slot.clone()),
            handle: tokio::runtime::Handle::current(),
        };
        let budget = Budget::new(BUDGET_BYTES);
        let registry = Registry::new();
        let router = Router::new(
            options,
            shards,
            Arc::new(slot.clone()),
            budget.clone(),
            RouterMetrics::register(&registry).unwrap(),
        );
        let sink = router.sink();
        slot.fill(network.join(id, sink.clone()));
        TestNode { router, budget, registry, sink, outbox: Arc::new(slot) }
    }

    /// The sum of a metric over all its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let metrics = family.get_metric().iter();
        metrics
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

struct FakeShards {
    node: NodeId,
    shared: Arc<Mutex<Shared>>,
    outbox: Arc<dyn Outbox>,
    handle: tokio::runtime::Handle,
}

impl LocalShards for FakeShards {
    fn submit(&self, request: Request) {
        let result = {
            let mut shared = self.shared.lock();
            shared.seen.push(Seen {
                node: self.node,
                group: request.group,
                operation: request.operation.clone(),
                origin: request.origin,
                consistency: request.consistency,
            });
            let prank = shared.pranks.get_mut(&self.node).and_then(VecDeque::pop_front);
            match prank {
                Some(Prank::Hold) => {
                    shared.held.push(request);
                    return;
                }
                Some(Prank::Drop) => return,
                Some(Prank::Say(refusal)) => Err(refusal),
                Some(Prank::Lose) => {
                    let served = shared.serve(self.node, &request);
                    served.and(Err(Refusal::Timeout { maybe_committed: true }))
                }
                Some(Prank::Fail(failure)) => Ok(Answer::Written(WriteOutcome::Failed(failure))),
                None => shared.serve(self.node, &request),
            }
        };
        match request.reply {
            Reply::Oneshot(reply) => drop(reply.send(result)),
            Reply::Peer { node, id } => self.outbox.send(node, vec![Parcel::Reply { id, result }]),
        }
    }

    fn submit_all(&self, requests: Vec<Request>) {
        requests.into_iter().for_each(|request| self.submit(request));
    }

    fn deliver(&self, _messages: Vec<GroupMessage>) {}

    fn unreachable(&self, _node: NodeId) {}

    fn receive_snapshots(&self, _from: NodeId, _messages: Vec<flotilla_shard::SnapshotMessage>) {}

    fn snapshots_connected(&self, _node: NodeId) {}

    fn leader(&self, group: GroupId) -> Option<NodeId> {
        self.shared.lock().leaders.get(&group).copied()
    }

    /// Replicas know what they were born as; later descriptors must be learned from answers.
    fn descriptors(&self) -> Vec<Descriptor> {
        let shared = self.shared.lock();
        shared.descriptors.iter().filter(|shard| shard.epoch.version == 1).cloned().collect()
    }

    fn handle(&self) -> tokio::runtime::Handle {
        self.handle.clone()
    }
}

impl Shared {
    fn serve(&mut self, node: NodeId, request: &Request) -> Result<Answer, Refusal> {
        let Some(shard) = self.descriptors.iter().find(|shard| shard.group == request.group) else {
            return Err(Refusal::GroupNotFound);
        };
        let leader = self.leaders.get(&request.group).copied();
        let anybody = !request.operation.is_write()
            && !matches!(request.consistency, Consistency::Linearizable);
        if leader != Some(node) && !anybody {
            return Err(Refusal::NotLeader { leader });
        }
        if shard.epoch != request.epoch {
            return Err(Refusal::EpochMismatch { descriptors: self.descriptors.clone() });
        }
        let range = shard.range.clone();
        Ok(match &request.operation {
            Operation::Get { key } => Answer::Value(self.get(key)),
            Operation::GetMany { keys } => {
                Answer::Values(keys.iter().map(|key| self.get(key)).collect())
            }
            Operation::Page { range: asked, rows_max, reverse, .. } => {
                let mut rows = self.rows_of(&range, asked);
                if *reverse {
                    rows.reverse();
                }
                let cut = rows.split_off(rows.len().min(*rows_max as usize));
                let rest = cut.first().map(|(key, _)| match reverse {
                    false => KeyRange { start: key.clone(), end: asked.end.clone() },
                    true => {
                        KeyRange { start: asked.start.clone(), end: Some(KeyRange::successor(key)) }
                    }
                });
                Answer::Page { rows, rest }
            }
            Operation::Count { range: asked } => {
                Answer::Count(self.rows_of(&range, asked).len() as u64)
            }
            Operation::Write(write) => Answer::Written(self.apply(&request.origin, &range, write)),
        })
    }

    /// What a state machine promises: one name, one effect, one answer.
    fn apply(&mut self, origin: &Origin, shard: &KeyRange, write: &Write) -> WriteOutcome {
        let name = (origin.session, origin.sequence);
        if origin.session != 0
            && let Some(answered) = self.answers.get(&name)
        {
            return answered.clone();
        }
        let outcome = self.write(shard, write);
        if origin.session != 0 {
            self.answers.insert(name, outcome.clone());
        }
        outcome
    }

    fn write(&mut self, shard: &KeyRange, write: &Write) -> WriteOutcome {
        match write {
            Write::Put { key, value, .. } => {
                self.effects.push((key.clone(), value.clone()));
                self.rows.insert(key.clone(), value.clone());
                WriteOutcome::Put { version: 1, written: true, previous: None }
            }
            Write::Delete { keys } => {
                let removed = keys.iter().filter(|key| self.rows.remove(*key).is_some());
                let count = removed.count() as u64;
                WriteOutcome::Deleted { version: 1, count }
            }
            Write::DeleteRange { range } => {
                self.rows.retain(|key, _| !(range.contains(key) && shard.contains(key)));
                WriteOutcome::RangeDeleted { version: 1 }
            }
            Write::Batch { .. } => WriteOutcome::Batch { version: 1, written: true },
            other => panic!("the fake shard does not know {other:?}"),
        }
    }

    fn get(&self, key: &Bytes) -> Option<Entry> {
        self.rows.get(key).map(|value| Entry {
            value: value.clone(),
            version: 1,
            expires_at_ms: None,
        })
    }

    fn rows_of(&self, shard: &KeyRange, asked: &KeyRange) -> Vec<(Bytes, Entry)> {
        let inside = self.rows.iter().filter(|(key, _)| shard.contains(key) && asked.contains(key));
        inside
            .map(|(key, value)| {
                (key.clone(), Entry { value: value.clone(), version: 1, expires_at_ms: None })
            })
            .collect()
    }
}

pub fn descriptor(group: GroupId, version: u64, start: &str, end: Option<&str>) -> Descriptor {
    let replica = |id| ReplicaDescriptor { node: NodeId(id), replica: ReplicaId(id) };
    Descriptor {
        group,
        range: KeyRange {
            start: Bytes::copy_from_slice(start.as_bytes()),
            end: end.map(|end| Bytes::copy_from_slice(end.as_bytes())),
        },
        epoch: Epoch { version, conf_version: 1 },
        replicas: (1..=3).map(replica).collect(),
    }
}

pub fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Write(Write::Put {
        key: Bytes::from(key),
        value: Bytes::from(value),
        condition: Condition::Always,
        return_previous: false,
        expiry: flotilla_shard::Expiry::Never,
    })
}

pub fn get(key: &'static str) -> Operation {
    Operation::Get { key: Bytes::from(key) }
}

pub fn value(value: &'static str) -> Answer {
    Answer::Value(Some(Entry { value: Bytes::from(value), version: 1, expires_at_ms: None }))
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_millis(150)
}

pub fn late() -> Instant {
    Instant::now() + Duration::from_secs(20)
}
