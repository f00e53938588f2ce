//! An embeddable, replicated, sharded key-value store: many Raft groups that move as one.
//!
//! [`Engine::open`] gives a durable ordered map in a directory. [`Engine::builder`] makes the same
//! program a replicated cluster: several replicas in one process, or this process's node of many.
//! Programs without async use [`BlockingEngine`].
//!
//! ```
//! use flotilla::{Engine, Error};
//!
//! async fn count_visits(db: &Engine) -> Result<u64, Error> {
//!     let seen = db.get("visits").await?;
//!     let visits = seen.map_or(0, |text| String::from_utf8_lossy(&text).parse().unwrap_or(0)) + 1;
//!     db.put("visits", visits.to_string()).await?;
//!     Ok(visits)
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # let directory = tempfile::tempdir().unwrap();
//! let db = Engine::open(directory.path()).await?;
//! assert_eq!(count_visits(&db).await?, 1);
//! assert_eq!(count_visits(&db).await?, 2);
//! db.shutdown().await
//! # }).unwrap();
//! ```
//!
//! An engine owns its threads; several live in one process. Its metrics are in a
//! [`Registry`] of its own, [`Engine::registry`]. The feature `server` (on by default) adds what
//! the `flotilla` binary is made of: the doors for other processes.
#![forbid(unsafe_code)]

mod background;
mod batch;
mod blocking;
mod builder;
mod directory;
mod disk;
mod engine;
mod entry;
mod error;
mod leases;
pub mod metrics;
mod node;
mod options;
mod restore;
mod scan;
#[cfg(feature = "server")]
pub mod server;
mod session;
#[cfg(feature = "server")]
pub mod settings;
pub mod splits;
mod status;

pub use batch::WriteBatch;
pub use blocking::{BlockingEngine, BlockingScan, BlockingSession};
pub use builder::Builder;
pub use bytes::Bytes;
pub use engine::Engine;
pub use entry::{Cas, Entry, Expect, KeyValue, Version};
pub use error::Error;
pub use flotilla_shard::{Consistency, Epoch, GroupId, KeyRange, NodeId, Role, ShardStatus};
pub use leases::{ClockDrift, ReadMode};
pub use options::{
    KEY_BYTES_MAX, Limits, PutCondition, PutExpiry, PutOptions, REQUEST_TIMEOUT, ReadOptions,
    VALUE_BYTES_MAX,
};
pub use prometheus::Registry;
pub use scan::Scan;
pub use session::{Session, SessionName, WriteName};
pub use status::Status;

/// The README's example, compiled and run as it is printed there.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
