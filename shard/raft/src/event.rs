//! What goes in: the closed list of things that can happen to a replica.

use crate::{
    message::Message,
    types::{Entry, Index, ReplicaId, Ticket},
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
    /// Campaign now instead of waiting for the election timeout.
    Campaign,
}
