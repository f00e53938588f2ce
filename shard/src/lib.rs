//! One Raft group as a value and as an actor.
//!
//! [`replica`] holds what a group is: consensus, state machine and descriptor in one IO-free value,
//! events in and effects out. [`actor`] and [`lane`] perform the effects: each group is an actix
//! actor, many of them share a lane (one OS thread), and a lane flushes the effects of all its
//! actors together.
//!
//! What is absent: other shards, routing, and the network beyond the [`outbox::Outbox`] trait.
#![forbid(unsafe_code)]

mod actor;
mod applying;
pub mod budget;
mod clock;
pub mod codec;
pub mod command;
pub mod descriptor;
pub mod effects;
mod held;
pub mod lane;
pub mod lanes;
pub mod machine;
pub mod metrics;
pub mod outbox;
mod pending;
mod perform;
mod reads;
pub mod replica;
pub mod request;
pub mod restore;
mod serve;
pub mod sessions;
pub mod snapshot;
pub mod status;

pub use budget::{Account, Budget, Pace, Part, Permit, Rule};
pub use codec::{DecodeError, Reader, Writer};
pub use command::{
    BatchChange, Command, CommandFailure, Condition, Entry, Expect, ExpireCondition, Expiry, Guard,
    Origin, Step, StepOutcome, Write, WriteOutcome,
};
pub use descriptor::{Descriptor, Epoch, NodeId, ReplicaDescriptor};
pub use flotilla_raft as raft;
pub use flotilla_raft::{Message, ReplicaId};
pub use flotilla_storage::{GroupId, KeyRange};
pub use held::{hold, is_counted, release};
pub use lane::Wiring;
pub use lanes::{LaneCompletion, LaneOptions, Lanes};
pub use metrics::ShardMetrics;
pub use outbox::{GroupMessage, Outbox, Parcel};
pub use replica::{Replica, ReplicaOptions, ReplicaStart};
pub use request::{Answer, Consistency, Operation, Refusal, Reply, Request};
pub use serve::ColdRead;
pub use snapshot::{
    SnapshotEvent, SnapshotHandle, SnapshotMessage, SnapshotMetrics, SnapshotOptions, SnapshotSink,
    Snapshots,
};
pub use status::{Role, ShardStatus};
