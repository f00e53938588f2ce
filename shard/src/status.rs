//! What a replica tells the world without being asked: a handful of atomics.
//!
//! Routers look up the leader here without a lock; status pages read the rest. Each field is
//! exact at some recent moment; together they are not one moment.

use crate::descriptor::{Descriptor, Epoch, NodeId};
use crate::machine::Machine;
use flotilla_raft::{Index, Raft, Role as RaftRole, Time};
use flotilla_storage::{GroupId, KeyRange};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

/// What a replica does in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes and serves reads.
    Leader,
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks for votes.
    Candidate,
}

impl Role {
    /// One of `leader`, `follower`, `candidate`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
        }
    }
}

/// One shard as its replica on this node sees it.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// The group.
    pub group: GroupId,
    /// Its keys.
    pub range: KeyRange,
    /// Orders its descriptors.
    pub epoch: Epoch,
    /// This replica's role.
    pub role: Role,
    /// The leader's node, if known.
    pub leader: Option<NodeId>,
    /// This replica's term.
    pub term: u64,
    /// The last entry in its log.
    pub last_index: u64,
    /// The last entry that it knows to be committed.
    pub commit_index: u64,
    /// The last entry in its rows.
    pub applied_index: u64,
    /// The last entry that its own journal holds.
    pub persisted_index: u64,
    /// About how many keys the shard holds.
    pub keys_estimate: u64,
    /// The replica lost journal content: it neither votes nor acknowledges.
    pub suspect: bool,
    /// The replica's rows are damaged or lost: it votes and keeps the log, and waits for a snapshot.
    pub needs_snapshot: bool,
    /// A snapshot is being put in the place of the replica's rows.
    pub installing: bool,
    /// The replica leads and reads without asking the others, as of its last turn.
    pub leased: bool,
    /// The nodes that host replicas of the shard.
    pub nodes: Vec<NodeId>,
}

/// The shared cells. One writer, the replica; any number of readers.
#[derive(Debug, Default)]
pub struct PublishedStatus {
    role: AtomicU8,
    /// 0: unknown.
    leader: AtomicU64,
    term: AtomicU64,
    last_index: AtomicU64,
    commit_index: AtomicU64,
    applied_index: AtomicU64,
    persisted_index: AtomicU64,
    keys_estimate: AtomicU64,
    memory_bytes: AtomicU64,
    suspect: AtomicBool,
    needs_snapshot: AtomicBool,
    installing: AtomicBool,
    leased: AtomicBool,
    has_pending: AtomicBool,
}

impl PublishedStatus {
    /// The leader's node as the replica knows it.
    pub fn leader_node(&self) -> Option<NodeId> {
        match self.leader.load(Relaxed) {
            0 => None,
            node => Some(NodeId(node)),
        }
    }

    /// The replica's role.
    pub fn role(&self) -> Role {
        match self.role.load(Relaxed) {
            2 => Role::Leader,
            1 => Role::Candidate,
            _ => Role::Follower,
        }
    }

    /// True while the outcome of something that was proposed here is waited for.
    pub fn has_pending(&self) -> bool {
        self.has_pending.load(Relaxed)
    }

    /// Bytes of the shard's rows in memory.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Relaxed)
    }

    /// Everything, with what `descriptor` says about the shard.
    pub fn snapshot(&self, descriptor: &Descriptor) -> ShardStatus {
        ShardStatus {
            group: descriptor.group,
            range: descriptor.range.clone(),
            epoch: descriptor.epoch,
            role: self.role(),
            leader: self.leader_node(),
            term: self.term.load(Relaxed),
            last_index: self.last_index.load(Relaxed),
            commit_index: self.commit_index.load(Relaxed),
            applied_index: self.applied_index.load(Relaxed),
            persisted_index: self.persisted_index.load(Relaxed),
            keys_estimate: self.keys_estimate.load(Relaxed),
            suspect: self.suspect.load(Relaxed),
            needs_snapshot: self.needs_snapshot.load(Relaxed),
            installing: self.installing.load(Relaxed),
            leased: self.leased.load(Relaxed),
            nodes: descriptor.replicas.iter().map(|replica| replica.node).collect(),
        }
    }

    /// The replica takes part in nothing any more.
    pub(crate) fn suspect(&self) {
        self.suspect.store(true, Relaxed);
        self.leased.store(false, Relaxed);
        self.role.store(0, Relaxed);
        self.leader.store(0, Relaxed);
    }

    pub(crate) fn publish_rows(&self, needs_snapshot: bool, installing: bool) {
        self.needs_snapshot.store(needs_snapshot, Relaxed);
        self.installing.store(installing, Relaxed);
    }

    pub(crate) fn publish_pending(&self, has_pending: bool) {
        self.has_pending.store(has_pending, Relaxed);
    }

    pub(crate) fn publish(&self, now: Time, raft: &Raft, machine: &Machine, applied: Index) {
        self.leased.store(raft.lease_read(now).is_some(), Relaxed);
        let role = match raft.role() {
            RaftRole::Leader => 2,
            RaftRole::Candidate | RaftRole::PreCandidate => 1,
            RaftRole::Follower => 0,
        };
        self.role.store(role, Relaxed);
        let leader = raft.leader().and_then(|leader| machine.descriptor().node_of(leader));
        self.leader.store(leader.map_or(0, |node| node.0), Relaxed);
        self.term.store(raft.term().0, Relaxed);
        self.last_index.store(raft.last().index.0, Relaxed);
        self.commit_index.store(raft.commit().0, Relaxed);
        self.applied_index.store(applied.0, Relaxed);
        self.persisted_index.store(raft.persisted_index().0, Relaxed);
        self.keys_estimate.store(machine.shard().keys_estimate(), Relaxed);
        self.memory_bytes.store(machine.shard().memory_bytes(), Relaxed);
    }
}

/// A replica's cells with its descriptor, as lanes share them.
#[derive(Clone, Debug)]
pub struct SharedStatus {
    /// The shard.
    pub descriptor: Arc<Descriptor>,
    /// The cells.
    pub status: Arc<PublishedStatus>,
}
