//! Raft consensus for one group, as an IO-free state machine: events in, effects out.
#![forbid(unsafe_code)]

mod candidate;
mod core;
mod error;
mod event;
mod fetching;
mod follower;
mod leader;
mod log;
mod membership;
mod message;
mod node;
mod options;
mod persistence;
mod progress;
mod raft;
mod random;
mod reads;
mod ready;
mod replicate;
mod status;
mod types;

pub use error::{DecodeError, ProposeError, ReadError, RestoreError};
pub use event::Event;
pub use message::{AppendOutcome, Message};
pub use options::{Limits, Options, Restored};
pub use raft::Raft;
pub use ready::{Envelope, Fetch, Persist, ReadOutcome, Ready, RoleChange};
pub use status::{FollowerState, FollowerStatus, Status};
pub use types::{
    Entry, HardState, Index, Position, ReadId, ReplicaId, Role, Round, Term, Ticket, Time,
};
