//! What comes out: everything the shell must do after a turn.

use crate::{
    error::ReadError,
    message::Message,
    types::{Entry, HardState, Index, Position, ReadId, ReplicaId, Role, Term, Ticket},
};

/// The effects of a turn, in no order except the one stated: `persist` and `messages` may be
/// worked on side by side, because messages that need a write to be durable stay inside the core
/// until [`Event::Persisted`](crate::Event::Persisted) says so.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// To be written to the journal, in ticket order, and answered by `Persisted`.
    pub persist: Option<Persist>,
    /// To be sent now. May be lost.
    pub messages: Vec<Envelope>,
    /// Committed entries to apply, in order, without gaps, each once. They may not be durable on
    /// this replica yet (a quorum has them): a checkpoint must not outrun
    /// [`Status::persisted`](crate::Status::persisted).
    pub apply: Vec<Entry>,
    /// Reads that were confirmed or refused.
    pub reads: Vec<ReadOutcome>,
    /// Please read these entries from the journal and answer with `Fetched` or `FetchFailed`.
    /// Until then no other fetch is asked for.
    pub fetch: Option<Fetch>,
    /// Role, term or known leader changed since the last turn.
    pub role_changed: Option<RoleChange>,
    /// Followers that need a snapshot now. Each is named once, until
    /// [`Event::SnapshotSent`](crate::Event::SnapshotSent) or
    /// [`Event::SnapshotFailed`](crate::Event::SnapshotFailed) says what became of it, or this
    /// replica leads anew.
    pub snapshots: Vec<ReplicaId>,
    /// Swap in the snapshot that was announced as received: the intent to do so is durable. To be
    /// answered by [`Event::SnapshotInstalled`](crate::Event::SnapshotInstalled) or
    /// [`Event::SnapshotRefused`](crate::Event::SnapshotRefused).
    pub install: Option<Position>,
    /// More entries are ready to be applied than fit here: call `ready` again.
    pub more: bool,
}

impl Ready {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.persist.is_none()
            && self.messages.is_empty()
            && self.apply.is_empty()
            && self.reads.is_empty()
            && self.fetch.is_none()
            && self.role_changed.is_none()
            && self.snapshots.is_empty()
            && self.install.is_none()
            && !self.more
    }
}

/// A write. Hard state and entries become durable together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// Names this write.
    pub ticket: Ticket,
    /// Before hard state and entries are written: the log begins after this position, because a
    /// snapshot has taken the place of what was before. If the journal's log holds this entry, what
    /// follows it stays, else nothing does. Must not become durable after the rest.
    pub reset: Option<Position>,
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries without gaps. If the first has an index that the journal holds already, it and
    /// everything after it are replaced. Empty if only the hard state changed.
    pub entries: Vec<Entry>,
}

/// A message and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The receiver.
    pub to: ReplicaId,
    /// The message.
    pub message: Message,
}

/// How a read ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The read.
    pub id: ReadId,
    /// Serve it once everything up to this index is applied; or tell the client that it failed.
    pub result: Result<Index, ReadError>,
}

/// A request to read from the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// First index wanted. The answer must begin with it.
    pub from: Index,
    /// Last index wanted. The answer may end earlier.
    pub to: Index,
    /// About how many bytes are wanted; at least one entry is.
    pub bytes_max: usize,
}

/// What a replica is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleChange {
    /// The role.
    pub role: Role,
    /// The term.
    pub term: Term,
    /// The leader of that term, if known; this replica itself if it leads.
    pub leader: Option<ReplicaId>,
}
