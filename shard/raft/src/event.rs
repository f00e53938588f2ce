//! What goes in: the closed list of things that can happen to a replica.

use crate::{
    message::Message,
    types::{Entry, Index, Position, ReplicaId, Ticket},
};

/// Something that happened. Proposals and reads, which are answered at once, are calls on
/// [`Raft`](crate::Raft) instead.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. Needed at [`Raft::next_tick`](crate::Raft::next_tick); at other times it does
    /// nothing.
    Tick,
    /// A peer's message arrived. Lost, repeated, reordered and late messages are all expected,
    /// and a message that makes no sense is counted and dropped.
    Receive {
        /// Who sent it.
        from: ReplicaId,
        /// What it says.
        message: Message,
    },
    /// The write with this ticket, and all before it, are durable. The journal completes in
    /// order, so a later ticket stands for all earlier ones.
    Persisted(Ticket),
    /// The answer to a [`Fetch`](crate::Fetch): entries read from the journal, in order, beginning
    /// with the index that was asked for. What the log no longer holds is dropped.
    Fetched {
        /// At least the first of the entries that were asked for.
        entries: Vec<Entry>,
    },
    /// The journal could not answer the fetch that began at `from`. It is asked again after a
    /// heartbeat interval.
    FetchFailed {
        /// First index of the fetch.
        from: Index,
    },
    /// Entries up to here may be forgotten. Clamped to what has been handed out for applying.
    Compact(Index),
    /// Messages to this peer were dropped or its connection is gone: appends in flight to it are
    /// taken for lost.
    Unreachable(ReplicaId),
    /// Campaign now instead of waiting for the election timeout. Ignored by a replica that may not
    /// lead.
    Campaign,
    /// Hand the leadership over: to this follower, else to the one that is best prepared. While the
    /// transfer runs, at most an election timeout, proposals are refused; if nobody has taken over
    /// by then, this replica goes on leading. Ignored by others than leaders, and if there is
    /// nobody to hand over to.
    Transfer {
        /// Who should lead.
        to: Option<ReplicaId>,
    },
    /// Whether this replica may lead. If not, it never campaigns, whoever asks; a leader hands over,
    /// and steps down if nobody has taken over within an election timeout. Votes and
    /// acknowledgements go on.
    MayLead(bool),
    /// Whether another replica should rather lead. A leader that is reluctant hands over to a follower
    /// that is not, and goes on leading while there is none; who is reluctant campaigns later
    /// than others would. All being reluctant, one of them leads.
    Reluctant(bool),
    /// The state machine of this replica is lost or unreadable, as with
    /// [`Restored::needs_snapshot`](crate::Restored::needs_snapshot). A leader hands over first.
    RowsLost,
    /// The follower stands on a snapshot of this leader that ends at `position`.
    SnapshotSent {
        /// The follower.
        to: ReplicaId,
        /// The last entry that the snapshot holds.
        position: Position,
    },
    /// Nothing came of the snapshot that [`Ready::snapshots`](crate::Ready::snapshots) asked for. It
    /// is asked for again after a pause if the follower still needs it.
    SnapshotFailed {
        /// The follower.
        to: ReplicaId,
    },
    /// A complete and verified snapshot that ends here lies ready to be swapped in. Taken if
    /// [`Raft::wants_snapshot_at`](crate::Raft::wants_snapshot_at) says so, else ignored;
    /// [`Raft::installing`](crate::Raft::installing) tells.
    SnapshotReceived(Position),
    /// The snapshot named by [`Ready::install`](crate::Ready::install) has taken the place of the
    /// rows, durably. The log begins behind it from now on; applying goes on from there.
    SnapshotInstalled(Position),
    /// The snapshot named by [`Ready::install`](crate::Ready::install) could not be swapped in: it is
    /// certain that the rows are what they were before, now and after a restart.
    SnapshotRefused(Position),
}
