//! What the snapshot service tells the lanes.

use super::message::TransferId;
use crate::descriptor::NodeId;
use bytes::Bytes;
use flotilla_raft::{Position, ReplicaId, Term};
use flotilla_storage::GroupId;
use flotilla_storage::store::Shard;

/// News about the snapshots of one group.
pub enum SnapshotEvent {
    /// Exports are being sent, the oldest of them of `position`: the log from there on must stay,
    /// or the follower would need another snapshot at once. Replaces what was said before.
    Pinned {
        /// Whose.
        group: GroupId,
        /// The last entry that the export holds.
        position: Position,
    },
    /// Nothing is pinned for the group any more.
    Unpinned {
        /// Whose.
        group: GroupId,
    },
    /// The follower stands on the snapshot now.
    Sent {
        /// Whose.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
        /// What it has.
        position: Position,
    },
    /// Nothing came of it, or nobody knows. It may be tried again.
    Failed {
        /// Whose.
        group: GroupId,
        /// The follower.
        to: ReplicaId,
    },
    /// The rows of this node are damaged: they cannot be exported.
    ExportDamaged {
        /// Whose.
        group: GroupId,
        /// Which rows: see [`Shard::generation`].
        generation: u64,
    },
    /// A peer offers a snapshot. To be answered with
    /// [`SnapshotHandle::offer_answer`](super::SnapshotHandle::offer_answer).
    Offered {
        /// Whose.
        group: GroupId,
        /// Names the question, together with `from`.
        transfer: TransferId,
        /// The offering node.
        from: NodeId,
        /// The replica that it is meant for.
        to: ReplicaId,
        /// The offering leader's term.
        term: Term,
        /// What it would bring.
        position: Position,
    },
    /// A complete, verified snapshot lies ready. To be answered with
    /// [`SnapshotHandle::install`](super::SnapshotHandle::install) or
    /// [`SnapshotHandle::discard`](super::SnapshotHandle::discard).
    Received {
        /// Whose.
        group: GroupId,
        /// Which.
        transfer: TransferId,
        /// Who sent it.
        from: NodeId,
        /// What it brings.
        position: Position,
    },
    /// The snapshot has taken the place of the group's rows, durably.
    Installed {
        /// Whose.
        group: GroupId,
        /// What it holds.
        position: Position,
        /// What the sender had recorded with its rows.
        meta: Bytes,
        /// The rows. Replaces the one that the replica had.
        shard: Shard,
    },
    /// The snapshot that was to be installed is not there, or could not be installed. The rows are
    /// what they were.
    InstallFailed {
        /// Whose.
        group: GroupId,
        /// Which one.
        position: Position,
    },
}

impl SnapshotEvent {
    /// Whose news it is.
    pub fn group(&self) -> GroupId {
        match self {
            SnapshotEvent::Pinned { group, .. }
            | SnapshotEvent::Unpinned { group }
            | SnapshotEvent::Sent { group, .. }
            | SnapshotEvent::Failed { group, .. }
            | SnapshotEvent::ExportDamaged { group, .. }
            | SnapshotEvent::Offered { group, .. }
            | SnapshotEvent::Received { group, .. }
            | SnapshotEvent::Installed { group, .. }
            | SnapshotEvent::InstallFailed { group, .. } => *group,
        }
    }
}

/// Hands news to the replicas. Called on the service's thread: implementations enqueue and return.
pub trait SnapshotSink: Send + Sync {
    /// To the replica of [`SnapshotEvent::group`]; dropped if there is none.
    fn snapshot_event(&self, event: SnapshotEvent);

    /// The service has ended by a panic: a bug of ours. Orders are not answered any more.
    fn snapshots_panicked(&self, message: &str) {
        tracing::error!(message, "the snapshot service panicked");
    }
}
