//! Snapshots on their way between nodes: a follower that the log can no longer help gets rows.
//!
//! One service per node, with a thread of its own, sends and receives for all groups. What is sent
//! is one pinned read of the store at its last checkpoint; what is received goes into new tables
//! that nothing names until the whole was verified and the replica says that it may take the place
//! of the old rows.
//!
//! Invariants:
//!
//! * A transfer is one pinned read: (group, position) and the sender's start are fixed by its name.
//!   It may go on after a lost connection, never after the end of either process.
//! * Nothing is sent before the receiver, its replica and its disk have agreed.
//! * What waits between the ends of a transfer is bounded by its window.
//! * A transfer that ends in any way but installed leaves no rows behind.
//!
//! What is absent: when a follower needs a snapshot, what an installed one means for the log (the
//! replicas know), and how messages travel (the [`Outbox`](crate::outbox::Outbox) knows).

mod action;
mod event;
mod exchange;
mod handle;
mod incoming;
mod message;
mod metrics;
mod outgoing;
mod rate;
mod receiver;
mod sender;
mod service;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use event::{SnapshotEvent, SnapshotSink};
pub use handle::SnapshotHandle;
pub use message::{AbortReason, DeclineReason, Offer, SnapshotMessage, Summary, TransferId};
pub use metrics::SnapshotMetrics;
pub use service::{Clock, FreeDisk, SnapshotOptions, SnapshotWork, Snapshots};
