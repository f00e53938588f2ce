//! Two or more nodes in one thread, for tests: services over a network that can lose, stores that
//! are lists of chunks, replicas that want whatever is newer, and crashes.

use super::action::{Action, Key};
use super::event::SnapshotEvent;
use super::exchange::Exchange;
use super::handle::Command;
use super::message::{AbortReason, SnapshotMessage, Summary, TransferId};
use super::metrics::SnapshotMetrics;
use super::outgoing::{Pinned, Rows, Unreadable};
use super::service::SnapshotOptions;
use crate::descriptor::NodeId;
use bytes::Bytes;
use flotilla_raft::{Index, Position, ReplicaId, Term};
use flotilla_storage::{GroupId, KeyRange};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) const CHUNK: usize = 64;
pub(super) const TERM: Term = Term(7);

/// The rows of one shard, cut as they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) index: u64,
    pub(super) chunks: Vec<Bytes>,
}

impl Content {
    pub(super) fn new(index: u64, chunks: usize) -> Content {
        let chunk = |at: usize| Bytes::from(vec![(index as usize * 31 + at) as u8; CHUNK]);
        Content { index, chunks: (0..chunks).map(chunk).collect() }
    }

    fn meta(&self) -> Bytes {
        Bytes::from(format!("meta of {}", self.index))
    }

    fn position(&self) -> Position {
        Position { index: Index(self.index), term: TERM }
    }
}

fn digest(chunks: &[Bytes]) -> u64 {
    chunks.iter().fold(0, |digest, chunk| u64::from(crc32c::crc32c_append(digest as u32, chunk)))
}

struct Export {
    content: Content,
    at: usize,
}

struct Import {
    chunks: Vec<Bytes>,
    verified: bool,
}

/// What the store still has to report.
enum Job {
    Written(Key, u64),
    Verified(Key, bool),
    Swapped(Key),
}

pub(super) struct Node {
    pub(super) exchange: Exchange,
    pub(super) boot: u64,
    /// On disk.
    pub(super) shards: BTreeMap<GroupId, Content>,
    exports: BTreeMap<TransferId, Export>,
    imports: BTreeMap<Key, Import>,
    jobs: VecDeque<Job>,
    /// What the replicas will do, when it is their turn.
    pub(super) orders: VecDeque<Command>,
    /// Followers that still need a snapshot.
    pub(super) wanted: BTreeMap<(GroupId, ReplicaId), NodeId>,
    pub(super) events: Vec<&'static str>,
    pub(super) pins: BTreeMap<GroupId, Position>,
    pub(super) free_bytes: Arc<AtomicU64>,
    pub(super) damaged: Vec<GroupId>,
}

pub(super) type Tweak = fn(&mut SnapshotOptions);

pub(super) struct World {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) pipes: BTreeMap<(NodeId, NodeId), VecDeque<SnapshotMessage>>,
    pub(super) now: Duration,
    pub(super) delivered: usize,
    /// Everything that was ever said, and by whom to whom.
    pub(super) said: Vec<(NodeId, NodeId, SnapshotMessage)>,
    tweak: Tweak,
    random: u64,
}

impl World {
    pub(super) fn new(seed: u64, nodes: u64, tweak: Tweak) -> World {
        let mut world = World {
            nodes: BTreeMap::new(),
            pipes: BTreeMap::new(),
            now: Duration::ZERO,
            delivered: 0,
            said: Vec::new(),
            tweak,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        };
        for node in 1..=nodes {
            let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
            let exchange = world.exchange(1, &free_bytes);
            world.nodes.insert(
                NodeId(node),
                Node {
                    exchange,
                    boot: 1,
                    shards: BTreeMap::new(),
                    exports: BTreeMap::new(),
                    imports: BTreeMap::new(),
                    jobs: VecDeque::new(),
                    orders: VecDeque::new(),
                    wanted: BTreeMap::new(),
                    events: Vec::new(),
                    pins: BTreeMap::new(),
                    free_bytes,
                    damaged: Vec::new(),
                },
            );
        }
        world
    }

    fn exchange(&self, boot: u64, free_bytes: &Arc<AtomicU64>) -> Exchange {
        let mut options = SnapshotOptions::new(boot);
        options.chunk_bytes = CHUNK;
        let free_bytes = free_bytes.clone();
        options.free_disk = Arc::new(move || free_bytes.load(Ordering::Relaxed));
        (self.tweak)(&mut options);
        Exchange::new(&options, SnapshotMetrics::new())
    }

    pub(super) fn random(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    pub(super) fn node(&mut self, node: u64) -> &mut Node {
        self.nodes.get_mut(&NodeId(node)).expect("a node of this world")
    }

    /// The leader on `from` wants its follower on `to` to have what it has.
    pub(super) fn want(&mut self, from: u64, to: u64, group: u64) {
        let (group, replica) = (GroupId(group), ReplicaId(to));
        self.node(from).wanted.insert((group, replica), NodeId(to));
        self.command(
            NodeId(from),
            Command::Send { group, node: NodeId(to), to: replica, term: TERM },
        );
    }

    pub(super) fn command(&mut self, node: NodeId, command: Command) {
        let mut out = Vec::new();
        let now = self.now;
        let member = self.nodes.get_mut(&node).expect("a node of this world");
        member.exchange.command(now, command, &mut out);
        self.perform(node, out);
    }

    fn perform(&mut self, at: NodeId, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let (mut more, now) = (Vec::new(), self.now);
            let node = self.nodes.get_mut(&at).expect("a node of this world");
            match action {
                Action::Say(to, message) => {
                    self.said.push((at, to, message.clone()));
                    self.pipes.entry((at, to)).or_default().push_back(message);
                }
                Action::Tell(event) => node.told(event),
                Action::Pin { transfer, group } => {
                    let pinned = node.pin(transfer, group);
                    node.exchange.pinned(now, transfer, pinned, &mut more);
                }
                Action::Read { transfer, bytes_max } => {
                    assert_eq!(bytes_max, CHUNK);
                    let rows = node.read(transfer);
                    node.exchange.read(now, transfer, rows, &mut more);
                }
                Action::Unpin { transfer } => drop(node.exports.remove(&transfer)),
                Action::Begin { key, .. } => {
                    let import = Import { chunks: Vec::new(), verified: false };
                    assert!(node.imports.insert(key, import).is_none(), "{key:?} began twice");
                }
                Action::Write { key, number, rows } => {
                    let import = node.imports.get_mut(&key).expect("began");
                    assert_eq!(import.chunks.len() as u64, number, "chunks come in order");
                    import.chunks.push(rows);
                    node.jobs.push_back(Job::Written(key, number));
                }
                Action::Verify { key, summary, .. } => node.verify(key, &summary),
                Action::Swap { key } => {
                    assert!(node.imports[&key].verified, "only what was verified is swapped in");
                    node.jobs.push_back(Job::Swapped(key));
                }
                Action::Drop { key } => drop(node.imports.remove(&key)),
                Action::TellInstalled { key, group, position, meta } => {
                    let import = node.imports.remove(&key).expect("installed from something");
                    let content = Content { index: position.index.0, chunks: import.chunks };
                    assert_eq!(content.meta(), meta);
                    node.shards.insert(group, content);
                    node.events.push("installed");
                }
            }
            queue.extend(more);
            let node = &self.nodes[&at];
            let mut options = SnapshotOptions::new(1);
            (self.tweak)(&mut options);
            assert!(node.exports.len() <= options.outgoing_max, "too many exports are pinned");
            assert!(node.imports.len() <= options.incoming_max, "too many imports are open");
        }
    }

    /// One thing happens: a message arrives, a store reports, a replica decides, or time passes.
    /// False: nothing was left to happen but time.
    pub(super) fn step(&mut self) -> bool {
        let pipes: Vec<_> = self.pipes.iter().filter(|(_, pipe)| !pipe.is_empty()).collect();
        let pipes: Vec<(NodeId, NodeId)> = pipes.into_iter().map(|(ends, _)| *ends).collect();
        let busy = |node: &&NodeId| {
            !self.nodes[*node].jobs.is_empty() || !self.nodes[*node].orders.is_empty()
        };
        let nodes: Vec<NodeId> = self.nodes.keys().filter(busy).copied().collect();
        let choices = pipes.len() + nodes.len();
        if choices == 0 {
            return false;
        }
        let choice = self.random(choices);
        match pipes.get(choice) {
            Some(ends) => self.deliver(*ends),
            None => self.work(nodes[choice - pipes.len()]),
        }
        true
    }

    pub(super) fn deliver(&mut self, (from, to): (NodeId, NodeId)) {
        let pipe = self.pipes.get_mut(&(from, to)).expect("a pipe");
        let Some(message) = pipe.pop_front() else { return };
        self.delivered += 1;
        self.command(to, Command::Receive { from, messages: vec![message] });
    }

    fn work(&mut self, at: NodeId) {
        let mut out = Vec::new();
        let now = self.now;
        let coin = self.random(2);
        let node = self.nodes.get_mut(&at).expect("a node of this world");
        let job = if coin == 0 || node.orders.is_empty() { node.jobs.pop_front() } else { None };
        match job {
            Some(Job::Written(key, number)) => {
                node.exchange.written(now, key, number, None, &mut out);
            }
            Some(Job::Verified(key, good)) => {
                let problem = (!good).then_some(AbortReason::Corrupt);
                node.exchange.verified(now, key, problem, &mut out);
            }
            Some(Job::Swapped(key)) => node.exchange.swapped(now, key, true, &mut out),
            None => {
                if let Some(order) = node.orders.pop_front() {
                    return self.command(at, order);
                }
            }
        }
        self.perform(at, out);
    }

    /// Time passes, everybody looks at the clock, and leaders repeat what they want.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for at in nodes {
            let mut out = Vec::new();
            let node = self.nodes.get_mut(&at).expect("a node of this world");
            node.exchange.tick(now, &mut out);
            self.perform(at, out);
            let wanted: Vec<_> = self.nodes[&at].wanted.clone().into_iter().collect();
            for ((group, to), node) in wanted {
                // Raft shows a leader what its follower has.
                if self.nodes[&node].shards.get(&group) == self.nodes[&at].shards.get(&group) {
                    self.nodes.get_mut(&at).expect("here").wanted.remove(&(group, to));
                    continue;
                }
                self.command(at, Command::Send { group, node, to, term: TERM });
            }
        }
    }

    /// The connections between two nodes break, and stand again at once.
    pub(super) fn cut(&mut self, a: u64, b: u64) {
        let (a, b) = (NodeId(a), NodeId(b));
        for (from, to) in [(a, b), (b, a)] {
            self.pipes.remove(&(from, to));
        }
        for (from, to) in [(a, b), (b, a)] {
            self.command(from, Command::Connected(to));
        }
    }

    /// A process ends and starts again. What was on disk stays, tables that nobody names do not.
    pub(super) fn crash(&mut self, node: u64) {
        let at = NodeId(node);
        let boot = self.nodes[&at].boot + 1;
        let exchange = self.exchange(boot, &self.nodes[&at].free_bytes.clone());
        let member = self.node(node);
        member.boot = boot;
        member.exchange = exchange;
        member.exports.clear();
        member.imports.clear();
        member.jobs.clear();
        member.orders.clear();
        member.pins.clear();
        let others: Vec<u64> = self.nodes.keys().map(|node| node.0).collect();
        others.into_iter().filter(|other| *other != node).for_each(|other| self.cut(node, other));
    }

    /// Until nobody wants anything and nothing is under way; fails if that does not come about.
    pub(super) fn settle(&mut self) {
        for _ in 0..2000 {
            while self.step() {}
            let quiet = self
                .nodes
                .values()
                .all(|node| node.wanted.is_empty() && !node.exchange.is_active());
            if quiet {
                for (name, node) in &self.nodes {
                    assert!(node.exports.is_empty(), "{name} keeps an export");
                    assert!(node.imports.is_empty(), "{name} keeps an import");
                    assert!(node.pins.is_empty(), "{name} keeps a pin");
                }
                return;
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("it never comes to rest");
    }
}

impl Node {
    pub(super) fn pinned(&self) -> usize {
        self.exports.len()
    }

    pub(super) fn importing(&self) -> usize {
        self.imports.len()
    }

    fn told(&mut self, event: SnapshotEvent) {
        match event {
            SnapshotEvent::Pinned { group, position } => drop(self.pins.insert(group, position)),
            SnapshotEvent::Unpinned { group } => drop(self.pins.remove(&group)),
            SnapshotEvent::Sent { group, to, position } => {
                self.events.push("sent");
                // What came after has to come from the log, or by the next snapshot.
                if position.index.0 == self.shards[&group].index {
                    self.wanted.remove(&(group, to));
                }
            }
            SnapshotEvent::Failed { .. } => self.events.push("failed"),
            SnapshotEvent::ExportDamaged { .. } => self.events.push("damaged"),
            SnapshotEvent::Offered { group, transfer, from, position, .. } => {
                let has = self.shards.get(&group).map_or(0, |content| content.index);
                let wanted = position.index.0 > has;
                self.events.push(if wanted { "offered" } else { "unwanted" });
                self.orders.push_back(Command::OfferAnswer { from, transfer, wanted });
            }
            SnapshotEvent::Received { group, transfer, from, .. } => {
                self.events.push("received");
                self.orders.push_back(Command::Install { group, from, transfer });
            }
            SnapshotEvent::Installed { .. } => unreachable!("this store has no shards"),
            SnapshotEvent::InstallFailed { .. } => self.events.push("install failed"),
        }
    }

    fn pin(&mut self, transfer: TransferId, group: GroupId) -> Result<Pinned, Unreadable> {
        let content = self.shards.get(&group).ok_or(Unreadable::Unavailable)?.clone();
        let pinned = Pinned {
            position: content.position(),
            range: KeyRange::whole(),
            rows: content.chunks.len() as u64,
            version: content.index,
            meta: content.meta(),
        };
        self.exports.insert(transfer, Export { content, at: 0 });
        Ok(pinned)
    }

    fn read(&mut self, transfer: TransferId) -> Result<Rows, Unreadable> {
        let export = self.exports.get_mut(&transfer).expect("read only while it is pinned");
        let chunks = &export.content.chunks;
        match chunks.get(export.at) {
            Some(_) if export.at > 0 && !self.damaged.is_empty() => {
                Err(Unreadable::Damaged { generation: 0 })
            }
            Some(chunk) => {
                export.at += 1;
                Ok(Rows::Some(chunk.clone()))
            }
            None => Ok(Rows::End { rows: chunks.len() as u64, digest: digest(chunks) }),
        }
    }

    fn verify(&mut self, key: Key, summary: &Summary) {
        let import = self.imports.get_mut(&key).expect("began");
        let chunks = &import.chunks;
        import.verified = summary.rows == chunks.len() as u64 && summary.digest == digest(chunks);
        self.jobs.push_back(Job::Verified(key, import.verified));
    }
}
