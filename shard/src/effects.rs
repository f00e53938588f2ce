//! What happens to a replica, and what follows from it: the two sides of its door.
//!
//! Events are everything that a replica can learn; effects are everything that it can want. Both
//! are plain values, so that a lane, a test and a simulation can stand on the other side.
//!
//! What is absent: how a replica gets from one to the other (`replica`), and who performs effects
//! (`perform`).

use crate::budget::Permit;
use crate::descriptor::NodeId;
use crate::machine::Fetched;
use crate::outbox::{GroupMessage, Parcel};
use crate::request::{Answer, Refusal, Reply, Request};
use crate::serve::ColdRead;
use crate::snapshot::{SnapshotEvent, TransferId};
use bytes::Bytes;
use flotilla_raft::{Position, ReplicaId, Term, Ticket, Time};
use flotilla_storage::journal::{LogEntry, Write as JournalWrite};
use flotilla_storage::store::{Frozen, View};
use flotilla_storage::{GroupId, KeyRange};
use std::time::{Duration, Instant};

/// The moment of an event, by every clock that matters.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic, for Raft: read after the event, and before any of its effects is performed.
    pub time: Time,
    /// The same moment, for deadlines.
    pub instant: Instant,
    /// Wall clock, milliseconds since the Unix epoch, for the leader's stamps.
    pub wall_ms: u64,
    /// How the node is.
    pub conditions: Conditions,
}

/// What all replicas of a node share besides the clock.
#[derive(Clone, Copy, Debug)]
pub struct Conditions {
    /// The disk is full: nothing is proposed that needs room.
    pub is_disk_full: bool,
    /// Memtables hold much more than they should: writes are refused until checkpoints catch up.
    pub is_memory_full: bool,
    /// Bytes of log that each replica may keep for others without asking.
    pub log_share_bytes: u64,
    /// Most bytes of log that a replica may keep, whoever needs them; `u64::MAX` unless all replicas
    /// of the node together keep too much.
    pub log_keep_bytes: u64,
    /// Most bytes of log that a replica holds in memory.
    pub log_cache_bytes_max: u64,
}

impl Default for Conditions {
    /// A node without any trouble.
    fn default() -> Self {
        Conditions {
            is_disk_full: false,
            is_memory_full: false,
            log_share_bytes: u64::MAX,
            log_keep_bytes: u64::MAX,
            log_cache_bytes_max: 1 << 20,
        }
    }
}

/// Something that happened to a replica.
pub enum Event {
    /// Time has passed.
    Tick,
    /// Somebody asks.
    Request(Request),
    /// A peer speaks.
    Message(GroupMessage),
    /// The journal holds everything up to this ticket.
    Persisted(Ticket),
    /// Log entries that were asked for, starting at `from`; `None`: they could not be read.
    LogRead {
        /// The first index asked for.
        from: u64,
        /// What the journal holds.
        entries: Option<Vec<LogEntry>>,
    },
    /// Rows that applying waits for.
    RowsRead {
        /// Names the question.
        serial: u64,
        /// Which rows were looked at: see [`Shard::generation`](flotilla_storage::store::Shard::generation).
        generation: u64,
        /// Their rows, or why they cannot be read.
        rows: Result<Fetched, RowsUnread>,
    },
    /// A row that was read for a client fails its checksum.
    ReadDamaged {
        /// Which rows were read.
        generation: u64,
        /// Who asked.
        reply: Reply,
        /// Which row, in words.
        error: String,
    },
    /// Messages to this node were lost.
    Unreachable(NodeId),
    /// The journal found that content of this group is damaged.
    Suspected,
    /// Try to become leader now instead of after the election timeout.
    Campaign,
    /// Time to hand the memtable over.
    Freeze,
    /// Time to give back what is kept for others: the node keeps too much.
    Trim,
    /// Time to look for expired rows.
    Reap,
    /// What a search for expired rows has found.
    Expired {
        /// The keys of those that were expired.
        keys: Vec<Bytes>,
        /// What of the shard was not searched; `None`: its end was reached.
        rest: Option<KeyRange>,
    },
    /// The checkpoint of everything through this position is durable.
    Checkpointed(Position),
    /// News from the snapshot service.
    Snapshot(SnapshotEvent),
    /// The replica's rows turned out to be damaged.
    RowsLost {
        /// Which: a snapshot may have taken their place since.
        generation: u64,
    },
    /// A leader shall hand over: to the replica on this node, or to whichever can follow best.
    Transfer(Option<NodeId>),
    /// Whether this node may lead anything.
    MayLead(bool),
    /// Whether other nodes should rather lead.
    Reluctant(bool),
}

/// Why rows could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsUnread {
    /// They fail their checksums: trying again is of no use.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The store cannot be read at present.
    #[error("{0}")]
    Unavailable(String),
}

/// What a replica asks of the snapshot service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotOrder {
    /// Send one to a follower.
    Send {
        /// Whose.
        group: GroupId,
        /// The follower.
        to: (NodeId, ReplicaId),
        /// The term in which this replica leads.
        term: Term,
    },
    /// Send none any more: this replica does not lead.
    Cancel {
        /// Whose.
        group: GroupId,
    },
    /// The answer to an offer.
    Answer {
        /// Who offered.
        from: NodeId,
        /// Names the question.
        transfer: TransferId,
        /// Whether it would be of use.
        wanted: bool,
    },
    /// Swap it in: the intent is durable.
    Install {
        /// Whose.
        group: GroupId,
        /// Who sent it.
        from: NodeId,
        /// Which.
        transfer: TransferId,
    },
    /// What was received is of no use.
    Discard {
        /// Who sent it.
        from: NodeId,
        /// Which.
        transfer: TransferId,
    },
}

/// Log entries that Raft wants back from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogRead {
    /// Whose.
    pub group: GroupId,
    /// First index.
    pub from: u64,
    /// Last index.
    pub to: u64,
    /// About how many bytes at most; at least one entry.
    pub bytes_max: u64,
}

/// Rows that applying waits for.
pub struct RowRead {
    /// Whose.
    pub group: GroupId,
    /// To be repeated in [`Event::RowsRead`].
    pub serial: u64,
    /// Where to look.
    pub view: View,
    /// What to look up.
    pub keys: Vec<Bytes>,
}

/// A search for rows that have expired.
pub struct ExpiredScan {
    /// Whose.
    pub group: GroupId,
    /// Where to look.
    pub view: View,
    /// From where on.
    pub range: KeyRange,
    /// The time at which a row must have expired.
    pub now_ms: u64,
}

/// What a turn of some replicas led to; a lane collects them from all and performs them together.
#[derive(Default)]
pub struct Effects {
    /// For the journal, in this order.
    pub journal: Vec<JournalWrite>,
    /// For other nodes.
    pub parcels: Vec<(NodeId, Parcel)>,
    /// For whoever reads the journal.
    pub log_reads: Vec<LogRead>,
    /// For the read pool; answered by [`Event::RowsRead`].
    pub row_reads: Vec<RowRead>,
    /// For the read pool, which answers the callers itself.
    pub cold_reads: Vec<ColdRead>,
    /// For the read pool; answered by [`Event::Expired`].
    pub expired_scans: Vec<ExpiredScan>,
    /// For the checkpoint.
    pub frozen: Vec<Frozen>,
    /// For the snapshot service, after `frozen`.
    pub snapshots: Vec<SnapshotOrder>,
    /// Durations to be observed by the metrics.
    pub observed: Vec<Observed>,
    /// Linearizable reads that a lease vouches for.
    pub reads_by_lease: u64,
    /// Linearizable reads for which others were asked.
    pub reads_by_round: u64,
}

/// How long the stations of an answered request took.
#[derive(Clone, Copy, Debug)]
pub enum Observed {
    /// A write, from the door to the proposal, from there to the commit, and altogether.
    Write {
        /// Door to proposal.
        queued: Duration,
        /// Proposal to commit as seen by this replica, application included.
        committed: Duration,
    },
    /// A read, from the door to the answer.
    Read {
        /// Door to answer.
        total: Duration,
    },
    /// The leader of the group has changed.
    LeaderChange,
    /// A proposal was lost to another leader and refused.
    LostProposal,
    /// Rows turned out to be damaged.
    RowsLost,
    /// A snapshot has taken the place of rows.
    SnapshotInstalled,
}

/// Refuses a request that was let in: that says nothing about how fast the node works.
pub fn refuse(reply: Reply, mut permit: Permit, refusal: Refusal, effects: &mut Effects) {
    permit.note_unserved();
    drop(permit);
    answer(reply, Err(refusal), effects);
}

/// Sends an answer on its way: at once within the process, as a parcel to another node.
pub fn answer(reply: Reply, result: Result<Answer, Refusal>, effects: &mut Effects) {
    match reply {
        // A caller who no longer listens has dropped its future; the work is done all the same.
        Reply::Oneshot(sender) => drop(sender.send(result)),
        Reply::Peer { node, id } => effects.parcels.push((node, Parcel::Reply { id, result })),
    }
}
