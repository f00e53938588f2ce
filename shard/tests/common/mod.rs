//! Three replicas of one group without threads: the test is the lane, the network and the journal.

#![allow(dead_code, reason = "each test file uses a part of it")]

mod journal;
mod transfers;

pub use journal::Journal;
pub use transfers::{Installs, rows_on_disk};

use bytes::Bytes;
use flotilla_shard::effects::{
    Conditions, Effects, Event, ExpiredScan, Now, RowRead, SnapshotOrder,
};
use flotilla_shard::machine::{Fetched, ShardMeta};
use flotilla_shard::raft::{self, Position, Restored, Ticket, Time};
use flotilla_shard::replica::{Replica, ReplicaOptions, ReplicaStart};
use flotilla_shard::*;
use flotilla_storage::store::{Frozen, PageOptions, Shard, Store, StoreMetrics, StoreOptions};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

pub const GROUP: GroupId = GroupId(7);

/// Where the answer to a request arrives.
pub type Waiter = oneshot::Receiver<Result<Answer, Refusal>>;

/// One replica with its own store.
pub struct Member {
    pub replica: Replica,
    pub store: Store,
    pub frozen: Vec<Frozen>,
    /// Synced at the next settling, unless it is stalled.
    pub journal: Journal,
    /// Row reads are answered at the next settling, unless they are held.
    pub reads_held: bool,
    pub held_reads: Vec<RowRead>,
    /// Searches for expired rows are answered at the next settling.
    scans: Vec<ExpiredScan>,
    /// How far the node's wall clock is behind.
    pub behind_ms: u64,
    dir: TempDir,
}

/// A group of replicas on nodes 1, 2, 3, ...
pub struct Group {
    pub members: Vec<Member>,
    pub network: VecDeque<(NodeId, GroupMessage)>,
    /// Messages from and to these nodes are dropped.
    pub cut: Vec<NodeId>,
    pub replies: Vec<(NodeId, u64, Result<Answer, Refusal>)>,
    started: Instant,
    elapsed: Duration,
    pub budget: Budget,
    pub conditions: Conditions,
    /// What the snapshot service was asked for.
    pub orders: VecDeque<(u64, SnapshotOrder)>,
    /// Orders to the snapshot service wait.
    pub orders_held: bool,
    pub installs: Installs,
    held_installs: Vec<(u64, SnapshotOrder)>,
    transfers: BTreeMap<u64, transfers::Transfer>,
    pub snapshots_sent: u64,
}

impl Group {
    pub fn new(size: u64) -> Group {
        Group::with_range(size, KeyRange::whole())
    }

    pub fn with_range(size: u64, range: KeyRange) -> Group {
        let replicas: Vec<_> = (1..=size)
            .map(|n| ReplicaDescriptor { node: NodeId(n), replica: ReplicaId(n) })
            .collect();
        let descriptor = Descriptor { group: GROUP, range, epoch: Epoch::FIRST, replicas };
        let mut group = Group {
            members: Vec::new(),
            network: VecDeque::new(),
            cut: Vec::new(),
            replies: Vec::new(),
            started: Instant::now(),
            elapsed: Duration::ZERO,
            budget: Budget::new(64 << 20),
            conditions: Conditions::default(),
            orders: VecDeque::new(),
            orders_held: false,
            installs: Installs::Done,
            held_installs: Vec::new(),
            transfers: BTreeMap::new(),
            snapshots_sent: 0,
        };
        let now = group.now();
        group.members = (1..=size).map(|n| born(n, &descriptor, &now)).collect();
        group
    }

    pub fn now(&self) -> Now {
        Now {
            time: Time(u64::try_from(self.elapsed.as_nanos()).expect("tests are short")),
            instant: self.started + self.elapsed,
            wall_ms: 1_000_000 + u64::try_from(self.elapsed.as_millis()).expect("tests are short"),
            conditions: self.conditions,
        }
    }

    /// This moment by the clocks of node `n`.
    pub fn now_on(&self, n: u64) -> Now {
        let now = self.now();
        Now { wall_ms: now.wall_ms - self.members[n as usize - 1].behind_ms, ..now }
    }

    /// Hands an event to the replica on node `n` and performs what follows from it there.
    pub fn event(&mut self, n: u64, event: Event) {
        self.events(n, vec![event]);
    }

    /// Hands several events to the replica on node `n` in one turn.
    pub fn events(&mut self, n: u64, events: Vec<Event>) {
        let now = self.now_on(n);
        let mut effects = Effects::default();
        let replica = &mut self.members[n as usize - 1].replica;
        for event in events {
            replica.handle(&now, event, &mut effects);
        }
        replica.turn(&now, &mut effects);
        self.perform(n, effects);
    }

    pub fn perform(&mut self, n: u64, effects: Effects) {
        let member = &mut self.members[n as usize - 1];
        for write in effects.journal {
            member.journal.submit(write);
        }
        member.frozen.extend(effects.frozen);
        member.held_reads.extend(effects.row_reads);
        member.scans.extend(effects.expired_scans);
        self.orders.extend(effects.snapshots.into_iter().map(|order| (n, order)));
        for read in effects.cold_reads {
            let result = read.run();
            match read.reply {
                Reply::Oneshot(sender) => drop(sender.send(result)),
                Reply::Peer { node, id } => self.replies.push((node, id, result)),
            }
        }
        for read in effects.log_reads {
            let entries = self.members[n as usize - 1].journal.read(read.from, read.to);
            self.event(n, Event::LogRead { from: read.from, entries });
        }
        for (node, parcel) in effects.parcels {
            match parcel {
                Parcel::Raft(message) => {
                    if !self.cut.contains(&node) && !self.cut.contains(&NodeId(n)) {
                        self.network.push_back((node, message));
                    }
                }
                Parcel::Reply { id, result } => self.replies.push((node, id, result)),
                Parcel::Snapshot(_) => {}
            }
        }
    }

    /// Delivers messages, completes writes and reads until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            let mut moved = false;
            while let Some((node, message)) = self.network.pop_front() {
                self.event(node.0, Event::Message(message));
                moved = true;
            }
            for n in 1..=self.members.len() as u64 {
                if let Some(ticket) = self.members[n as usize - 1].journal.sync() {
                    self.event(n, Event::Persisted(Ticket(ticket)));
                    moved = true;
                }
                moved |= self.answer_reads(n);
                moved |= self.search_expired(n);
            }
            let order = if self.orders_held { None } else { self.orders.pop_front() };
            if let Some((n, order)) = order {
                self.order(n, order);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn answer_reads(&mut self, n: u64) -> bool {
        let member = &mut self.members[n as usize - 1];
        if member.reads_held || member.held_reads.is_empty() {
            return false;
        }
        for read in std::mem::take(&mut member.held_reads) {
            let rows: Fetched = read
                .keys
                .iter()
                .map(|key| (key.clone(), read.view.get(key).expect("the store is healthy")))
                .collect();
            self.event(
                n,
                Event::RowsRead {
                    serial: read.serial,
                    generation: read.view.generation(),
                    rows: Ok(rows),
                },
            );
        }
        true
    }

    fn search_expired(&mut self, n: u64) -> bool {
        let scans = std::mem::take(&mut self.members[n as usize - 1].scans);
        let moved = !scans.is_empty();
        for ExpiredScan { view, range, now_ms, .. } in scans {
            let options =
                PageOptions { rows_max: 2, bytes_max: 1000, reverse: false, keys_only: true };
            let page = view.page(&range, options).expect("the store is healthy");
            let expired = page.rows.into_iter().filter(|(_, row)| row.is_expired(now_ms));
            let keys = expired.map(|(key, _)| key).collect();
            self.event(n, Event::Expired { keys, rest: page.more });
        }
        moved
    }

    /// Node `n` crashes and starts again from what its disk holds.
    pub fn restart(&mut self, n: u64) {
        self.forget_transfers_to(n);
        self.orders.retain(|(node, _)| *node != n);
        self.network.retain(|(node, _)| node.0 != n);
        let Member {
            replica, store, frozen, mut journal, held_reads, scans, behind_ms, dir, ..
        } = self.members.remove(n as usize - 1);
        let descriptor = replica.descriptor().clone();
        drop((replica, store, frozen, held_reads, scans));
        let (store, states) =
            Store::open(dir.path(), cold(), StoreMetrics::new()).expect("a healthy store");
        let (meta, shard, applied) = match states.first() {
            Some(state) => {
                let meta = ShardMeta::decode(state.meta.clone()).expect("a replica wrote it");
                let range = meta.descriptor.range.clone();
                (meta, store.open_shard(state, range), journal::position(state.applied))
            }
            None => {
                let meta = ShardMeta::new(descriptor.clone());
                let range = descriptor.range.clone();
                let shard = store.create_shard(GROUP, range, meta.encode());
                (meta, shard, Position::default())
            }
        };
        let restored = journal.crash(applied);
        let start = start(n, meta, shard, applied, restored);
        let replica = Replica::new(start, Now { wall_ms: 0, ..self.now() });
        let member = Member { journal, behind_ms, ..member(replica, store, dir) };
        self.members.insert(n as usize - 1, member);
    }

    /// Lets time pass, with a tick for everybody each 10 ms, settling after each.
    pub fn pass(&mut self, duration: Duration) {
        let until = self.elapsed + duration;
        while self.elapsed < until {
            self.elapsed += Duration::from_millis(10);
            for n in 1..=self.members.len() as u64 {
                self.event(n, Event::Tick);
                if self.members[n as usize - 1].replica.wants_to_reap(&self.now_on(n)) {
                    self.event(n, Event::Reap);
                }
            }
            self.settle();
        }
    }

    /// Time passes, and nobody notices.
    pub fn let_pass(&mut self, duration: Duration) {
        self.elapsed += duration;
    }

    /// True if the replica says that it reads by a lease.
    pub fn leased(&mut self, n: u64) -> bool {
        let replica = &self.member(n).replica;
        replica.status().snapshot(replica.descriptor()).leased
    }

    /// Lets time pass until a replica outside `cut` leads, and returns its node.
    pub fn elect(&mut self) -> u64 {
        for _ in 0..1000 {
            self.pass(Duration::from_millis(10));
            let leader = (1..=self.members.len() as u64).find(|n| {
                !self.cut.contains(&NodeId(*n))
                    && self.member(*n).replica.status().role() == Role::Leader
            });
            if let Some(leader) = leader {
                self.settle();
                return leader;
            }
        }
        panic!("nobody was elected in ten seconds");
    }

    pub fn member(&mut self, n: u64) -> &mut Member {
        &mut self.members[n as usize - 1]
    }

    pub fn request(&mut self, n: u64, operation: Operation, timeout: Duration) -> Waiter {
        self.request_as(n, operation, timeout, Origin::default(), Consistency::Linearizable)
    }

    pub fn request_as(
        &mut self,
        n: u64,
        operation: Operation,
        timeout: Duration,
        origin: Origin,
        consistency: Consistency,
    ) -> Waiter {
        let (request, receiver) = self.made(operation, timeout, origin, consistency);
        self.event(n, Event::Request(request));
        receiver
    }

    /// A request that nobody has got yet.
    pub fn made(
        &mut self,
        operation: Operation,
        timeout: Duration,
        origin: Origin,
        consistency: Consistency,
    ) -> (Request, Waiter) {
        let (sender, receiver) = oneshot::channel();
        let deadline = self.now().instant + timeout;
        let request = Request {
            group: GROUP,
            epoch: Epoch::FIRST,
            operation,
            consistency,
            origin,
            deadline,
            entered: self.now().instant,
            permit: self.budget.acquire(100).expect("tests stay within the budget"),
            reply: Reply::Oneshot(sender),
        };
        (request, receiver)
    }

    pub fn ask(&mut self, n: u64, operation: Operation) -> Waiter {
        self.request(n, operation, Duration::from_secs(5))
    }

    pub fn put(&mut self, n: u64, key: &str, value: &str) -> Waiter {
        self.ask(n, Operation::Write(put(key, value)))
    }

    /// Asks, settles, and returns the answer.
    pub fn answer(&mut self, n: u64, operation: Operation) -> Result<Answer, Refusal> {
        let mut waiter = self.ask(n, operation);
        self.settle();
        waiter.try_recv().expect("a settled group has answered")
    }

    pub fn value(&mut self, n: u64, key: &str) -> Option<String> {
        match self.answer(n, Operation::Get { key: Bytes::copy_from_slice(key.as_bytes()) }) {
            Ok(Answer::Value(entry)) => {
                entry.map(|entry| String::from_utf8(entry.value.to_vec()).expect("texts"))
            }
            other => panic!("not a value: {other:?}"),
        }
    }

    /// Freezes, hands over and checkpoints on node `n`, as far as the replica lets go.
    pub fn checkpoint(&mut self, n: u64) -> usize {
        self.event(n, Event::Freeze);
        self.settle();
        let frozen = std::mem::take(&mut self.member(n).frozen);
        for frozen in &frozen {
            let (index, term) = frozen.applied();
            let one = std::slice::from_ref(frozen);
            self.member(n).store.checkpoint(one).expect("the store is healthy");
            let position = Position { index: raft::Index(index), term: raft::Term(term) };
            self.event(n, Event::Checkpointed(position));
        }
        self.settle();
        frozen.len()
    }
}

pub fn put(key: &str, value: &str) -> Write {
    Write::Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        condition: Condition::Always,
        return_previous: false,
        expiry: Expiry::Never,
    }
}

fn born(n: u64, descriptor: &Descriptor, now: &Now) -> Member {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (store, _) = Store::open(dir.path(), cold(), StoreMetrics::new()).expect("a fresh store");
    let meta = ShardMeta::new(descriptor.clone());
    let shard = store.create_shard(GROUP, descriptor.range.clone(), meta.encode());
    let start = start(n, meta, shard, Position::default(), Restored::default());
    member(Replica::new(start, *now), store, dir)
}

fn start(
    n: u64,
    meta: ShardMeta,
    shard: Shard,
    applied: Position,
    restored: Restored,
) -> ReplicaStart {
    let voters = meta.descriptor.replicas.iter().map(|replica| replica.replica).collect();
    ReplicaStart {
        shard,
        applied,
        raft: raft::Options {
            id: ReplicaId(n),
            voters,
            election_timeout: Duration::from_millis(300),
            heartbeat_interval: Duration::from_millis(50),
            seed: n * 7919,
            suspect: false,
            pre_vote: true,
            check_quorum: true,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            leases: Some(raft::Leases { reads: true, clock_drift_max_ppm: 10_000 }),
            limits: raft::Limits::default(),
        },
        restored,
        log_bytes: 0,
        options: ReplicaOptions { compact_entries_min: 1, ..ReplicaOptions::default() },
        meta,
    }
}

fn member(replica: Replica, store: Store, dir: TempDir) -> Member {
    Member {
        replica,
        store,
        frozen: Vec::new(),
        journal: Journal::default(),
        reads_held: false,
        held_reads: Vec::new(),
        scans: Vec::new(),
        behind_ms: 0,
        dir,
    }
}

/// What is merged is read from the disk at once: the tests want to see cold rows.
fn cold() -> StoreOptions {
    StoreOptions { merged_bytes_max: 0, ..StoreOptions::default() }
}
