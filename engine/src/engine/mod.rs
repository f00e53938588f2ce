//! The engine: what a program holds in its hands.
//!
//! An [`Engine`] owns its threads. Its futures run anywhere: they wait for answers of those threads
//! and need no runtime of their own.
//!
//! Invariants:
//!
//! * Sizes of keys and values are checked here, before anything is sent.
//! * Nothing is repeated here but what the caller asked for by name: what a call reports is what
//!   the router says.
//!
//! What is absent: routing, and how a node is put together.

mod lifecycle;
mod reads;
mod update;
mod writes;

use crate::blocking::BlockingEngine;
use crate::builder::Builder;
use crate::error::Error;
use crate::node::Node;
use crate::options::{Limits, deadline_after};
use crate::status::Status;
use bytes::Bytes;
use flotilla_router::Router;
#[cfg(feature = "server")]
use flotilla_shard::Budget;
use flotilla_shard::{Answer, NodeId, Operation, Write, WriteOutcome};
use prometheus::Registry;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A durable, ordered, replicated map from keys to values.
///
/// Clones are handles to the same engine. All methods may be called from any thread, from any async
/// runtime or from none (see [`Engine::blocking`]).
///
/// # Promises
///
/// * A write that returned `Ok` is on the disks of a majority of the replicas and is not lost.
/// * Reads are linearizable: they see every write that had returned before they began; unless they
///   ask for less with [`ReadOptions::consistency`](crate::ReadOptions::consistency).
/// * A call takes effect once, although it is repeated inside until its answer is known or its time
///   is over: after a lost connection, a change of leaders, a restart of another node.
/// * An error says whether the call may have had an effect: [`Error::maybe_committed`].
///
/// # Limits
///
/// A key has 1 byte to 4 KiB, a value up to 8 MiB, unless the [`Builder`] was told otherwise; others
/// end in [`Error::InvalidKey`] and [`Error::TooLarge`]. Keys are ordered as bytes.
///
/// # Dropping a future
///
/// Dropping the future of a call does not undo it: a write that was sent may take effect, once, now
/// or a little later; a write whose future was never polled was not sent. After the drop it is not
/// repeated any more, so that it may also be lost: nobody knows. The same holds for a caller's own
/// timeout around it; prefer the options' `timeout`, whose error says what is known. A read that is
/// dropped does nothing.
///
/// # Examples
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let directory = tempfile::tempdir().unwrap();
/// let db = flotilla::Engine::open(directory.path()).await?;
/// db.put("fruit/apple", "red").await?;
/// assert_eq!(db.get("fruit/apple").await?.as_deref(), Some(&b"red"[..]));
/// db.shutdown().await?;
/// # Ok::<(), flotilla::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles share.
pub(crate) struct Shared {
    /// In one process: all nodes of the cluster. Otherwise the one.
    nodes: Arc<Vec<Member>>,
    router: Router,
    limits: Limits,
    request_timeout: Duration,
    /// Taken while a shutdown is under way.
    stopping: tokio::sync::Mutex<()>,
    stopped: AtomicBool,
    /// Made when somebody subscribes.
    watched: OnceLock<watch::Sender<Status>>,
}

pub(crate) struct Member {
    pub(crate) node: Node,
    pub(crate) registry: Registry,
}

impl Engine {
    /// Opens the engine in `directory`, which is made when missing: one replica, one shard,
    /// durable, no sockets.
    ///
    /// # Errors
    ///
    /// [`Error::DirectoryInUse`] when another engine has the directory, [`Error::Directory`] when it
    /// is another node's or cluster's, [`Error::Storage`] and [`Error::Corrupt`] when it cannot be
    /// read.
    pub async fn open(directory: impl AsRef<Path>) -> Result<Engine, Error> {
        Engine::builder(directory).start().await
    }

    /// Prepares an engine in `directory` that is more than [`Engine::open`] makes.
    pub fn builder(directory: impl AsRef<Path>) -> Builder {
        Builder::new(directory.as_ref())
    }

    pub(crate) fn new(nodes: Vec<Member>, limits: Limits, request_timeout: Duration) -> Engine {
        let router = nodes[0].node.router().clone();
        Engine {
            shared: Arc::new(Shared {
                nodes: Arc::new(nodes),
                router,
                limits,
                request_timeout,
                stopping: tokio::sync::Mutex::new(()),
                stopped: AtomicBool::new(false),
                watched: OnceLock::new(),
            }),
        }
    }

    /// How large keys and values may be.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// How long calls wait for an answer when they say nothing else.
    pub fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    /// The same engine for programs without async.
    pub fn blocking(&self) -> BlockingEngine {
        BlockingEngine::new(self.clone())
    }

    /// Runtimes of the engine's own threads, for servers to spawn their connections on.
    #[cfg(feature = "server")]
    pub(crate) fn handles(&self) -> &[tokio::runtime::Handle] {
        self.shared.nodes[0].node.handles()
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    /// The node's promises of memory, for doors that hold some on behalf of their clients.
    #[cfg(feature = "server")]
    pub(crate) fn budget(&self) -> &Budget {
        self.shared.router.budget()
    }

    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        deadline_after(timeout.unwrap_or(self.shared.request_timeout))
    }

    async fn change(&self, write: Write, deadline: Instant) -> Result<WriteOutcome, Error> {
        outcome_of(self.shared.router.execute(Operation::Write(write), deadline).await?)
    }

    pub(crate) fn copy_key(&self, key: &[u8]) -> Result<Bytes, Error> {
        self.check_key(key)?;
        Ok(Bytes::copy_from_slice(key))
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        let (bytes, bytes_max) = (key.len() as u64, self.shared.limits.key_bytes_max);
        if bytes == 0 || bytes > bytes_max {
            return Err(Error::InvalidKey { bytes, bytes_max });
        }
        Ok(())
    }

    pub(crate) fn check_value(&self, value: &[u8]) -> Result<(), Error> {
        let (bytes, bytes_max) = (value.len() as u64, self.shared.limits.value_bytes_max);
        if bytes > bytes_max {
            return Err(Error::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nodes: Vec<NodeId> = self.shared.nodes.iter().map(|member| member.node.id()).collect();
        f.debug_struct("Engine")
            .field("cluster_name", &self.shared.nodes[0].node.cluster_name())
            .field("nodes", &nodes)
            .finish_non_exhaustive()
    }
}

/// What a write did, or why it did nothing.
pub(crate) fn outcome_of(answer: Answer) -> Result<WriteOutcome, Error> {
    match answer {
        Answer::Written(WriteOutcome::Failed(failure)) => Err(Error::of_failure(&failure)),
        Answer::Written(outcome) => Ok(outcome),
        other => unexpected(&other),
    }
}

/// A shard answered another question than it was asked: one of the two is broken.
pub(crate) fn unexpected(answer: &dyn std::fmt::Debug) -> ! {
    panic!("a shard gave an answer of the wrong kind: {answer:?}")
}
