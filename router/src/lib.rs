//! Finds the shard of a key and its leader, and carries requests and Raft messages between nodes.
//!
//! * [`Router`] takes operations from the doors: looks up, sends, learns, and retries until the
//!   deadline, each write under one name ([`route`], [`pending`], [`session`]). Requests over several shards are in [`scan`].
//! * [`RangeMap`] and [`LeaderHints`] are what it knows; both are guesses that the shards check.
//! * [`forward`] is the way to another node's shards and back; [`peer`] carries the bytes.
//! * [`genesis`] is how the nodes of a new cluster agree on what it is.
//!
//! Invariants:
//!
//! * A write that may have been proposed is sent again only under the same name, by which its
//!   shard recognizes it.
//! * Every request that was let in holds bytes of the node's budget until it is answered.
//!
//! What is absent: configuration files, disks, and what a shard does with a request.
#![forbid(unsafe_code)]

mod environment;
mod error;
pub mod forward;
pub mod genesis;
pub mod leaders;
mod locate;
pub mod map;
pub mod metrics;
mod options;
pub mod peer;
pub mod pending;
pub mod route;
pub mod scan;
pub mod session;
pub mod shards;
mod sink;
pub mod slot;
mod under_way;

pub use environment::Environment;
pub use error::RouteError;
pub use leaders::LeaderHints;
pub use map::{Piece, RangeMap};
pub use metrics::RouterMetrics;
pub use options::RouterOptions;
pub use pending::Pending;
pub use route::Router;
pub use scan::{Page, PageOptions};
pub use shards::LocalShards;
pub use slot::TransportSlot;
