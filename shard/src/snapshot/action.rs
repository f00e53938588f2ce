//! What the machines of this module want done, and the bounds that they keep.

use super::event::SnapshotEvent;
use super::message::{SnapshotMessage, Summary, TransferId};
use crate::descriptor::NodeId;
use bytes::Bytes;
use flotilla_raft::Position;
use flotilla_storage::{GroupId, KeyRange};

/// Names an incoming transfer: its sender counts for itself.
pub(crate) type Key = (NodeId, TransferId);

/// Something to be done outside, in the order of the list.
pub(crate) enum Action {
    /// Send this.
    Say(NodeId, SnapshotMessage),
    /// Tell the replica.
    Tell(SnapshotEvent),
    /// Pin the rows of a group; answered by `Outgoing::pinned`.
    Pin { transfer: TransferId, group: GroupId },
    /// Read on in a pinned export; answered by `Outgoing::read`.
    Read { transfer: TransferId, bytes_max: usize },
    /// Let go of a pinned export.
    Unpin { transfer: TransferId },
    /// Make an import.
    Begin { key: Key, group: GroupId, range: KeyRange },
    /// Write a chunk; answered by `Incoming::written`.
    Write { key: Key, number: u64, rows: Bytes },
    /// Compare; answered by `Incoming::verified`.
    Verify { key: Key, position: Position, summary: Summary },
    /// Swap; answered by `Incoming::swapped`.
    Swap { key: Key },
    /// Drop an import.
    Drop { key: Key },
    /// Tell the replica of what the last swap gave.
    TellInstalled { key: Key, group: GroupId, position: Position, meta: Bytes },
}
