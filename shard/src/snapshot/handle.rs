//! How the rest of the node speaks to the snapshot service. Nothing here blocks.

use super::action::Key;
use super::message::{SnapshotMessage, TransferId};
use crate::descriptor::NodeId;

use crossbeam_channel::Sender;
use flotilla_raft::{ReplicaId, Term};
use flotilla_storage::GroupId;
use flotilla_storage::store::{Shard, StoreError};

/// All that reaches the service.
pub(crate) enum Input {
    Command(Command),
    /// From the store: a chunk.
    Written {
        key: Key,
        number: u64,
        result: Result<(), StoreError>,
    },
    /// From the store: the whole.
    Verified {
        key: Key,
        result: Result<(), StoreError>,
    },
    /// From the store: it stands.
    Swapped {
        key: Key,
        result: Result<Box<Shard>, StoreError>,
    },
}

/// What comes in from lanes and from the transport.
#[derive(Debug)]
pub(crate) enum Command {
    Send { group: GroupId, node: NodeId, to: ReplicaId, term: Term },
    Cancel { group: GroupId },
    OfferAnswer { from: NodeId, transfer: TransferId, wanted: bool },
    Install { group: GroupId, from: NodeId, transfer: TransferId },
    Discard { from: NodeId, transfer: TransferId },
    Receive { from: NodeId, messages: Vec<SnapshotMessage> },
    Connected(NodeId),
    Shutdown,
}

/// Speaks to the service of one node. Clones speak to the same. After a shutdown everything is
/// dropped.
#[derive(Clone, Debug)]
pub struct SnapshotHandle {
    sender: Option<Sender<Input>>,
}

impl SnapshotHandle {
    pub(crate) fn new(sender: Sender<Input>) -> SnapshotHandle {
        SnapshotHandle { sender: Some(sender) }
    }

    /// A handle without a service, for a node that has no peers: nobody offers it anything, and it
    /// sends nothing.
    pub fn unconnected() -> SnapshotHandle {
        SnapshotHandle { sender: None }
    }

    fn put(&self, command: Command) {
        if let Some(sender) = &self.sender
            && sender.send(Input::Command(command)).is_err()
        {
            tracing::debug!("a message for the snapshot service came after its end");
        }
    }

    pub(crate) fn shutdown(&self) {
        self.put(Command::Shutdown);
    }

    /// The leader of `group` on this node wants the follower `to` to get a snapshot. Ends in
    /// [`SnapshotEvent::Sent`](super::SnapshotEvent::Sent) or
    /// [`SnapshotEvent::Failed`](super::SnapshotEvent::Failed), unless it is cancelled. A second
    /// call for the same follower while the first is under way changes nothing.
    pub fn send(&self, group: GroupId, to: (NodeId, ReplicaId), term: Term) {
        self.put(Command::Send { group, node: to.0, to: to.1, term });
    }

    /// The replica of `group` leads no more: every transfer that sends for it ends, without an
    /// event but [`SnapshotEvent::Unpinned`](super::SnapshotEvent::Unpinned).
    pub fn cancel(&self, group: GroupId) {
        self.put(Command::Cancel { group });
    }

    /// The answer to [`SnapshotEvent::Offered`](super::SnapshotEvent::Offered).
    pub fn offer_answer(&self, from: NodeId, transfer: TransferId, wanted: bool) {
        self.put(Command::OfferAnswer { from, transfer, wanted });
    }

    /// The replica has made its intent durable: the snapshot of
    /// [`SnapshotEvent::Received`](super::SnapshotEvent::Received) shall take the place of its rows
    /// now. Memtables that it froze before must have been submitted before. Always answered, by
    /// [`SnapshotEvent::Installed`](super::SnapshotEvent::Installed) or
    /// [`SnapshotEvent::InstallFailed`](super::SnapshotEvent::InstallFailed).
    pub fn install(&self, group: GroupId, from: NodeId, transfer: TransferId) {
        self.put(Command::Install { group, from, transfer });
    }

    /// The replica has no use any more for what it was offered or what was received.
    pub fn discard(&self, from: NodeId, transfer: TransferId) {
        self.put(Command::Discard { from, transfer });
    }

    /// What another node says.
    pub fn receive(&self, from: NodeId, messages: Vec<SnapshotMessage>) {
        self.put(Command::Receive { from, messages });
    }

    /// Snapshot messages to `node` can travel from now on. Earlier ones may be lost: the other end
    /// is told at once where the transfers stand. Without this call the clock would notice.
    pub fn connected(&self, node: NodeId) {
        self.put(Command::Connected(node));
    }
}
