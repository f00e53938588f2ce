//! Where other threads put what is for a lane.

use crate::descriptor::NodeId;
use crate::effects::RowsUnread;
use crate::lane::Wiring;
use crate::machine::Fetched;
use crate::outbox::GroupMessage;
use crate::replica::ReplicaStart;
use crate::request::{Reply, Request};
use crate::serve::ColdRead;
use crate::snapshot::SnapshotEvent;
use bytes::Bytes;
use flotilla_raft::Position;
use flotilla_storage::journal::LogEntry;
use flotilla_storage::{GroupId, KeyRange};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

/// Something for a lane.
pub(crate) enum Mail {
    Open(Box<Wiring>, Vec<ReplicaStart>, oneshot::Sender<()>),
    Request(Request),
    Requests(Vec<Request>),
    Messages(Vec<GroupMessage>),
    Durable(Vec<(GroupId, u64)>),
    Checkpointed(Vec<(GroupId, Position)>),
    LogRead {
        group: GroupId,
        from: u64,
        entries: Option<Vec<LogEntry>>,
    },
    RowsRead {
        group: GroupId,
        serial: u64,
        generation: u64,
        rows: Result<Fetched, RowsUnread>,
    },
    ReadDamaged {
        group: GroupId,
        generation: u64,
        reply: Reply,
        error: String,
    },
    /// A read that found too many answers under way.
    ReadLater(Box<ColdRead>),
    /// All reads that were put off have been tried again.
    ReadAgain,
    Expired {
        group: GroupId,
        keys: Vec<Bytes>,
        rest: Option<KeyRange>,
    },
    Unreachable(NodeId),
    Suspected(Vec<GroupId>),
    FreezeAll,
    MayLead(bool),
    Reluctant(bool),
    Transfer {
        group: GroupId,
        to: Option<NodeId>,
    },
    Snapshot(Box<SnapshotEvent>),
    /// Of these groups, the rows of this generation.
    RowsLost(Vec<(GroupId, u64)>),
    Close(oneshot::Sender<()>),
}

/// Where other threads put mail for a lane.
#[derive(Default)]
pub(crate) struct Inbox {
    mail: Mutex<Queue>,
    pub(super) arrived: Notify,
}

#[derive(Default)]
struct Queue {
    mail: Vec<Mail>,
    /// The lane's thread has ended: nobody will ever look here again.
    closed: bool,
}

impl Inbox {
    /// Never blocks for longer than it takes to move the mail. Once closed, mail is dropped, and
    /// whoever waits for an answer to it is told so by that.
    pub(crate) fn put(&self, mail: Mail) {
        let mut queue = self.mail.lock();
        if queue.closed {
            drop(queue);
            return;
        }
        let sleeping = queue.mail.is_empty();
        queue.mail.push(mail);
        drop(queue);
        if sleeping {
            self.arrived.notify_one();
        }
    }

    pub(super) fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut self.mail.lock().mail)
    }

    /// Drops what the lane has not taken, and all that comes from now on.
    pub(crate) fn close(&self) {
        let left = {
            let mut queue = self.mail.lock();
            queue.closed = true;
            std::mem::take(&mut queue.mail)
        };
        drop(left);
    }
}
