//! What an onlooker may know.

use crate::types::{Index, Position, ReplicaId, Role, Term, Time};

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This replica.
    pub id: ReplicaId,
    /// Its role.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in this term.
    pub vote: Option<ReplicaId>,
    /// The leader of this term, if known.
    pub leader: Option<ReplicaId>,
    /// Its last entry.
    pub last: Position,
    /// Highest index it knows to be committed.
    pub commit: Index,
    /// Highest index handed out for applying.
    pub applied: Index,
    /// Its log up to here, as it is now, is durable on its own disk.
    pub persisted: Index,
    /// Its log is compacted up to here.
    pub base: Position,
    /// It may have lost content of its journal and takes no part.
    pub suspect: bool,
    /// It may campaign and lead, as far as the shell says.
    pub may_lead: bool,
    /// Another replica should rather lead, as far as the shell says.
    pub reluctant: bool,
    /// Its state machine is lost: it votes and acknowledges, and waits for a snapshot.
    pub needs_snapshot: bool,
    /// The snapshot that takes the place of its rows at this moment.
    pub installing: Option<Position>,
    /// For a leader, to whom it is handing over.
    pub transferring: Option<ReplicaId>,
    /// For a leader that may read without a round, until when. May be over; `Time::NEVER` if it
    /// needs nobody else.
    pub lease_until: Option<Time>,
    /// Bytes of entries held in memory.
    pub cached_bytes: usize,
    /// Messages dropped because no correct peer would have sent them.
    pub violations: u64,
    /// For a leader, its followers in id order; else empty.
    pub followers: Vec<FollowerStatus>,
}

/// What a leader knows of a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    /// The follower.
    pub id: ReplicaId,
    /// Its log agrees with the leader's up to here, durably.
    pub matched: Index,
    /// The next entry to send.
    pub next: Index,
    /// How it is fed.
    pub state: FollowerState,
    /// It says that its state machine is lost. It is fed all the same.
    pub wants_snapshot: bool,
    /// Append messages in flight.
    pub inflight_messages: usize,
    /// Bytes of entries in flight.
    pub inflight_bytes: usize,
    /// Append messages sent to find where the logs agree, in this leader's term.
    pub probes_sent: u64,
}

/// How a follower is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerState {
    /// One append at a time, until the place where the logs agree is found.
    Probe,
    /// A pipeline of appends.
    Replicate,
    /// What it needs next is compacted away: it gets heartbeats and waits for a snapshot.
    Snapshot,
}
