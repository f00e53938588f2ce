//! The engine: what a program holds in its hands.
//!
//! An [`Engine`] owns its threads. Its futures run anywhere: they wait for answers of those threads
//! and need no runtime of their own.
//!
//! Invariants:
//!
//! * Sizes of keys and values are checked here, before anything is sent.
//! * Nothing is retried here: what a call reports is what the router says.
//!
//! What is absent: routing, and how a node is put together.

use crate::background::on_own_thread;
use crate::batch::WriteBatch;
use crate::blocking::BlockingEngine;
use crate::builder::Builder;
use crate::entry::{Cas, Entry, Expect, Version};
use crate::error::Error;
use crate::node::Node;
use crate::options::{Limits, PutCondition, PutOptions, ReadOptions, deadline_after};
use crate::scan::Scan;
use crate::status::Status;
use bytes::Bytes;
use flotilla_router::Router;
use flotilla_shard::{Answer, Condition, Expiry, KeyRange, NodeId, Operation, Write, WriteOutcome};
use prometheus::Registry;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A durable, ordered, replicated map from keys to values.
///
/// Clones are handles to the same engine. All methods may be called from any thread, from any async
/// runtime or from none (see [`Engine::blocking`]).
///
/// # Promises
///
/// * A write that returned `Ok` is on the disks of a majority of the replicas and is not lost.
/// * Reads are linearizable: they see every write that had returned before they began.
/// * An error says whether the call may have had an effect: [`Error::maybe_committed`].
///
/// # Limits
///
/// A key has 1 byte to 4 KiB, a value up to 8 MiB, unless the [`Builder`] was told otherwise; others
/// end in [`Error::InvalidKey`] and [`Error::TooLarge`]. Keys are ordered as bytes.
///
/// # Dropping a future
///
/// Dropping the future of a call does not undo it: a write that was sent may take effect. The same
/// holds for a caller's own timeout around it; prefer the options' `timeout`, whose error says what
/// is known.
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
    shared: Arc<Shared>,
}

/// What the handles share.
struct Shared {
    /// In one process: all nodes of the cluster. Otherwise the one.
    nodes: Arc<Vec<Member>>,
    router: Router,
    limits: Limits,
    request_timeout: Duration,
    /// Taken while a shutdown is under way.
    stopping: tokio::sync::Mutex<()>,
    stopped: AtomicBool,
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
            }),
        }
    }

    /// The value of `key`; `None` if it holds nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], or [`Error`]s that are never [`Error::maybe_committed`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        let entry = self.get_with(key, &ReadOptions::default()).await?;
        Ok(entry.map(|entry| entry.value))
    }

    /// The value of `key` and its version; `None` if it holds nothing.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::ReadOptions;
    /// use std::time::Duration;
    ///
    /// let version = db.put("key", "value").await?;
    /// let options = ReadOptions::new().timeout(Duration::from_secs(1));
    /// let entry = db.get_with("key", &options).await?.expect("it was just put");
    /// assert_eq!((&entry.value[..], entry.version), (&b"value"[..], version));
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let key = self.copy_key(key.as_ref())?;
        match self.execute(Operation::Get { key }, options.timeout).await? {
            Answer::Value(entry) => Ok(entry.map(Entry::from)),
            other => unexpected(&other),
        }
    }

    /// Stores `value` under `key`, whatever was there, and returns the value's version. Copies
    /// both; see [`Engine::put_bytes`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// value may have been stored.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Version, Error> {
        let key = self.copy_key(key.as_ref())?;
        self.check_value(value.as_ref())?;
        self.put_bytes(key, Bytes::copy_from_slice(value.as_ref())).await
    }

    /// Stores `value` under `key` without copying them, and returns the value's version.
    ///
    /// # Errors
    ///
    /// As [`Engine::put`].
    pub async fn put_bytes(&self, key: Bytes, value: Bytes) -> Result<Version, Error> {
        let written = self.put_checked(key, value, &PutOptions::default()).await?;
        Ok(written.expect("an unconditional put writes"))
    }

    /// Stores `value` under `key` if the options' condition holds, and returns the value's version;
    /// `None` if the condition did not hold and nothing was changed.
    ///
    /// # Errors
    ///
    /// As [`Engine::put`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::PutOptions;
    ///
    /// assert!(db.put_with("lock", "me", &PutOptions::new().if_absent()).await?.is_some());
    /// assert!(db.put_with("lock", "you", &PutOptions::new().if_absent()).await?.is_none());
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        let key = self.copy_key(key.as_ref())?;
        self.check_value(value.as_ref())?;
        self.put_checked(key, Bytes::copy_from_slice(value.as_ref()), options).await
    }

    async fn put_checked(
        &self,
        key: Bytes,
        value: Bytes,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        self.check_key(&key)?;
        self.check_value(&value)?;
        let condition = match options.condition {
            PutCondition::Always => Condition::Always,
            PutCondition::IfAbsent => Condition::IfAbsent,
            PutCondition::IfPresent => Condition::IfPresent,
        };
        let write = Write::Put { key, value, condition, return_previous: false, expiry: Expiry::Never };
        match self.change(write, options.timeout).await? {
            WriteOutcome::Put { version, written, .. } => Ok(written.then_some(Version(version))),
            other => unexpected(&other),
        }
    }

    /// Removes `key`; true if it held something.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], or another [`Error`], which says whether the key may have been
    /// removed.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.copy_key(key.as_ref())?;
        match self.change(Write::Delete { keys: vec![key] }, None).await? {
            WriteOutcome::Deleted { count, .. } => Ok(count > 0),
            other => unexpected(&other),
        }
    }

    /// Replaces the value of `key` by `new` if it is as expected; `new` of `None` removes the key.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// value may have been replaced. That the value is not as expected is no error:
    /// [`Cas::Mismatch`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::{Cas, Expect};
    ///
    /// let swapped = db.compare_and_swap("config", Expect::Absent, Some("a".into())).await?;
    /// let Cas::Swapped { version } = swapped else { panic!("nothing was there") };
    /// db.put("config", "b").await?;
    /// match db.compare_and_swap("config", Expect::Version(version), Some("c".into())).await? {
    ///     Cas::Mismatch { current } => assert_eq!(&current.unwrap().value[..], b"b"),
    ///     Cas::Swapped { .. } => panic!("somebody else had written"),
    /// }
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expect: Expect<'_>,
        new: Option<Bytes>,
    ) -> Result<Cas, Error> {
        let key = self.copy_key(key.as_ref())?;
        if let Expect::Value(value) = expect {
            self.check_value(value)?;
        }
        if let Some(value) = &new {
            self.check_value(value)?;
        }
        let write = Write::CompareAndSwap { key, expect: expect.to_shard(), new, expiry: Expiry::Never };
        match self.change(write, None).await? {
            WriteOutcome::Swap { swapped: true, version, .. } => {
                Ok(Cas::Swapped { version: Version(version) })
            }
            WriteOutcome::Swap { swapped: false, current, .. } => {
                Ok(Cas::Mismatch { current: current.map(Entry::from) })
            }
            other => unexpected(&other),
        }
    }

    /// Makes all changes of `batch` at once, or none, and returns the version of the values that it
    /// wrote. Its keys must lie in one shard.
    ///
    /// # Errors
    ///
    /// [`Error::CrossShard`] when the keys lie in several shards, [`Error::EmptyBatch`],
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// batch may have been written.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// let mut batch = flotilla::WriteBatch::new();
    /// batch.put("a", "1").put("b", "2").delete("c");
    /// db.write(batch).await?;
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn write(&self, batch: WriteBatch) -> Result<Version, Error> {
        if batch.is_empty() {
            return Err(Error::EmptyBatch);
        }
        for change in &batch.changes {
            self.check_key(change.key())?;
            if let flotilla_shard::BatchChange::Put { value, .. } = change {
                self.check_value(value)?;
            }
        }
        match self.change(Write::Batch { changes: batch.changes, if_all_absent: false }, None).await? {
            WriteOutcome::Batch { version, .. } => Ok(Version(version)),
            other => unexpected(&other),
        }
    }

    /// The rows of a range of keys, in key order, as a stream.
    ///
    /// Rows are read in pages while the stream is polled. Each page is linearizable and read at one
    /// moment of its shard; the whole scan is **not** one snapshot: it may see a later write and
    /// miss an earlier one that was made meanwhile to keys it had passed. No row comes twice.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// for key in ["a", "b", "c", "d"] {
    ///     db.put(key, key.to_uppercase()).await?;
    /// }
    /// let mut scan = db.scan(b"b".to_vec()..).reverse().limit(2);
    /// let mut keys = Vec::new();
    /// while let Some(row) = scan.next().await {
    ///     keys.push(row?.key);
    /// }
    /// assert_eq!(keys, ["d", "c"]);
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub fn scan(&self, range: impl RangeBounds<Vec<u8>>) -> Scan {
        let start = match range.start_bound() {
            Bound::Included(start) => Bytes::copy_from_slice(start),
            Bound::Excluded(start) => KeyRange::successor(start),
            Bound::Unbounded => Bytes::new(),
        };
        let end = match range.end_bound() {
            Bound::Included(end) => Some(KeyRange::successor(end)),
            Bound::Excluded(end) => Some(Bytes::copy_from_slice(end)),
            Bound::Unbounded => None,
        };
        Scan::new(self.router().clone(), KeyRange { start, end }, self.shared.request_timeout)
    }

    /// The rows whose keys begin with `prefix`, in key order, as a stream; see [`Engine::scan`].
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_ref()));
        Scan::new(self.router().clone(), range, self.shared.request_timeout)
    }

    /// The node and its shards as they are now. With several nodes in one process: the first.
    pub fn status(&self) -> Status {
        self.status_of(&self.shared.nodes[0])
    }

    /// All nodes of this engine; more than one only with [`Builder::replicas`].
    pub fn statuses(&self) -> Vec<Status> {
        self.shared.nodes.iter().map(|member| self.status_of(member)).collect()
    }

    fn status_of(&self, member: &Member) -> Status {
        let node = &member.node;
        let peers = node.peers().into_iter();
        let reached = peers.filter(|peer| peer.is_connected()).map(|peer| peer.node);
        // Nodes of one process reach each other always.
        let beside = self.shared.nodes.iter().map(|other| other.node.id());
        let connected = reached.chain(beside.filter(|id| *id != node.id())).collect();
        Status::new(node.id(), node.cluster_name(), node.statuses(), connected)
    }

    /// The engine's metrics. With several nodes in one process: those of the first.
    pub fn registry(&self) -> &Registry {
        &self.shared.nodes[0].registry
    }

    /// The metrics of all nodes of this engine, in the order of [`Engine::statuses`].
    pub fn registries(&self) -> Vec<&Registry> {
        self.shared.nodes.iter().map(|member| &member.registry).collect()
    }

    /// How large keys and values may be.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// How long calls wait for an answer when they say nothing else.
    pub fn request_timeout(&self) -> Duration {
        self.shared.request_timeout
    }

    /// Why a node of this engine stopped itself, if one did: a failed sync, a broken invariant. Its
    /// data is as its last acknowledged write left it; open it again when the cause is gone.
    pub fn failure(&self) -> Option<String> {
        self.shared.nodes.iter().find_map(|member| member.node.fatal().borrow().clone())
    }

    /// Waits until a node of this engine stops itself, and says why. Never returns while all is
    /// well, nor after a [`Engine::shutdown`].
    pub async fn failed(&self) -> String {
        let waits = self.shared.nodes.iter().map(|member| {
            let mut fatal = member.node.fatal();
            Box::pin(async move {
                match fatal.wait_for(Option::is_some).await {
                    Ok(reason) => reason.clone().expect("waited for it"),
                    // The node has ended in peace.
                    Err(_) => std::future::pending().await,
                }
            })
        });
        futures_util::future::select_all(waits).await.0
    }

    /// The same engine for programs without async.
    pub fn blocking(&self) -> BlockingEngine {
        BlockingEngine::new(self.clone())
    }

    /// Ends the engine: calls that wait are answered, threads end, the directory is given free.
    /// Returns when all of that is done. May be called again, and from several handles at once;
    /// calls after it end in [`Error::Shutdown`].
    ///
    /// Acknowledged writes are safe with or without it. Dropping the last handle without it ends the
    /// engine too, but nobody knows when.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when the last sync failed. The engine has ended all the same.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let _one_at_a_time = self.shared.stopping.lock().await;
        if self.shared.stopped.load(Ordering::Acquire) {
            return Ok(());
        }
        let nodes = self.shared.nodes.clone();
        let result = on_own_thread("flotilla-stop", move || stop(nodes)).await;
        self.shared.stopped.store(true, Ordering::Release);
        result?
    }

    /// Runtimes of the engine's own threads, for servers to spawn their connections on.
    #[cfg(feature = "server")]
    pub(crate) fn handles(&self) -> &[tokio::runtime::Handle] {
        self.shared.nodes[0].node.handles()
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    async fn execute(
        &self,
        operation: Operation,
        timeout: Option<Duration>,
    ) -> Result<Answer, Error> {
        let deadline = deadline_after(timeout.unwrap_or(self.shared.request_timeout));
        Ok(self.shared.router.execute(operation, deadline).await?)
    }

    async fn change(&self, write: Write, timeout: Option<Duration>) -> Result<WriteOutcome, Error> {
        match self.execute(Operation::Write(write), timeout).await? {
            Answer::Written(outcome) => Ok(outcome),
            other => unexpected(&other),
        }
    }

    fn copy_key(&self, key: &[u8]) -> Result<Bytes, Error> {
        self.check_key(key)?;
        Ok(Bytes::copy_from_slice(key))
    }

    fn check_key(&self, key: &[u8]) -> Result<(), Error> {
        let (bytes, bytes_max) = (key.len() as u64, self.shared.limits.key_bytes_max);
        if bytes == 0 || bytes > bytes_max {
            return Err(Error::InvalidKey { bytes, bytes_max });
        }
        Ok(())
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Error> {
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

impl Drop for Shared {
    fn drop(&mut self) {
        if *self.stopped.get_mut() {
            return;
        }
        tracing::warn!(
            "an engine was dropped without shutdown(); it ends in the background, and its directory \
             stays locked until then"
        );
        let nodes = self.nodes.clone();
        // Not awaited: whoever drops may be one of the engine's own threads.
        drop(on_own_thread("flotilla-stop", move || stop(nodes)));
    }
}

/// Ends all nodes side by side; reports the first failure.
async fn stop(nodes: Arc<Vec<Member>>) -> Result<(), Error> {
    let ends = nodes.iter().map(|member| member.node.shutdown());
    futures_util::future::join_all(ends).await.into_iter().collect()
}

/// A shard answered another question than it was asked: one of the two is broken.
fn unexpected(answer: &dyn std::fmt::Debug) -> ! {
    panic!("a shard gave an answer of the wrong kind: {answer:?}")
}
