//! What can be measured: one trait for all stores, so that one driver measures them alike.
//!
//! A [`Target`] is a store that runs. A [`Session`] is one client of it, polled by the driver: one
//! call sends all that was queued and hands over all that was answered, so that an operation costs
//! the client little.
//!
//! Invariants:
//!
//! * Every submitted operation is completed exactly once, whatever happens to the connection.
//! * [`Outcome::NoEffect`] is said only when it is certain that nothing happened; what may have
//!   happened is [`Outcome::Unknown`].
//! * Each target says itself what its acknowledgement means ([`Description`]): a number without it
//!   is worth nothing beside the number of another store.
//!
//! What is absent: clocks and counters. The driver measures; a session only carries.

pub mod embedded;
pub mod etcd;
pub mod fjall;
mod hosts;
mod local;
mod locked;
pub mod nats;
mod operation;
pub mod redb;
pub mod resp;
mod silence;
mod spec;

pub use operation::{Completion, Operation, OperationKind, Outcome, Reason};
pub use spec::{OpenOptions, TargetSpec};

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

/// A future that is not named.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is printed beside every number of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The product: `flotilla`, `etcd`.
    pub name: String,
    /// Its version, as it tells it; empty if it does not.
    pub version: String,
    /// How many copies, and how many of them acknowledge: `3 processes, majority`.
    pub replication: String,
    /// What an acknowledged write has survived: `fdatasync before each acknowledgement`.
    pub durability: String,
    /// What a read promises: `linearizable`.
    pub reads: String,
}

/// A store to measure. Made from a `--target` text, or around servers that were started for it.
pub trait Target: Send + Sync {
    /// What it is and what its acknowledgements mean.
    fn describe(&self) -> Description;

    /// The processes whose CPU time, memory and written bytes are counted; the own one for a store
    /// inside this process.
    fn processes(&self) -> Vec<u32>;

    /// Why operations of `kind` cannot be measured here, in words; `None` if they can.
    fn refuses(&self, kind: OperationKind) -> Option<String> {
        let _ = kind;
        None
    }

    /// True if it has one request that writes several keys ([`Operation::PutMany`]).
    fn takes_batches(&self) -> bool {
        false
    }

    /// Connects client number `client`; clients are spread over the nodes by their numbers.
    fn connect<'a>(&'a self, client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>>;

    /// Ends what this target started itself. Servers that others started are left alone.
    fn shutdown<'a>(&'a self) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// One client of a target.
///
/// Connected and polled on one thread of the driver, within a runtime with network and timers.
pub trait Session: Send {
    /// Queues an operation. The driver bounds how many are under way; `tag` comes back with the
    /// completion and is not used twice at the same time.
    fn submit(&mut self, tag: u64, operation: Operation);

    /// Sends what is queued, and pushes what was completed. Ready when at least one completion was
    /// pushed; otherwise the task is woken when there is something to do.
    ///
    /// A lost connection completes all that is under way (reads as [`Outcome::NoEffect`], writes as
    /// [`Outcome::Unknown`] unless they were certainly not sent) and connects again by itself.
    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()>;
}
