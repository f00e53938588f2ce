//! Stops a node, from the doors downwards.
//!
//! A clean stop refuses what is new, hands the leaderships over while what is under way is carried
//! to its end, and makes a last checkpoint. The time for that is bounded: what is not answered then
//! ends as "maybe committed".
//!
//! Invariants:
//!
//! * Threads end in this order: those that ask, those that answer, those that write.
//! * The directory is given free last.
//!
//! What is absent: who decides to stop.

use super::Node;
use super::clock::ClockWatch;
use crate::directory::Directory;
use crate::disk::DiskMonitor;
use crate::error::Error;
use flotilla_router::Router;
use flotilla_router::peer::{LocalNetwork, TcpTransport};
use flotilla_shard::{Lanes, NodeId, Snapshots};
use flotilla_storage::journal::JournalThread;
use flotilla_storage::store::{Checkpointer, ReadPool};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long a node that stops tries to hand over, and waits for what is under way.
const FAREWELL_MAX: Duration = Duration::from_secs(3);

/// What must be stopped, in the order of its fields.
pub(super) struct Running {
    pub(super) router: Router,
    pub(super) lanes: Lanes,
    pub(super) clock: ClockWatch,
    pub(super) disk: DiskMonitor,
    pub(super) transport: Option<Arc<TcpTransport>>,
    pub(super) local: Option<(LocalNetwork, NodeId)>,
    pub(super) snapshots: Snapshots,
    pub(super) checkpointer: Checkpointer,
    pub(super) journal: JournalThread,
    pub(super) pool: Arc<ReadPool>,
    pub(super) _directory: Directory,
}

impl Node {
    /// Refuses what is new, gives the leaderships to other nodes, and waits until everything that
    /// was started here has its answer; not for longer than [`FAREWELL_MAX`]. Needs a tokio runtime
    /// with time. To be called on all nodes of a process before the first of them ends.
    pub(crate) async fn say_farewell(&self) {
        self.router.refuse_new();
        if self.lanes.is_halted() {
            return;
        }
        let until = Instant::now() + FAREWELL_MAX;
        // Nodes of one process stop together: none would take what another hands over.
        if self.transport.is_some() {
            let led = self.lanes.hand_over_all(FAREWELL_MAX).await;
            if led > 0 {
                tracing::warn!(led, "nobody took these leaderships over; their shards will elect");
            }
        }
        if timeout_at(until, self.router.drained()).await.is_err() {
            tracing::warn!("requests are still under way: they end without an answer");
        }
    }

    /// Answers who is left, makes a last checkpoint, and ends all threads. Later calls do nothing.
    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        let Some(running) = self.running.lock().take() else { return Ok(()) };
        running.router.shutdown();
        running.lanes.freeze_all();
        running.lanes.close().await;
        if let Some(transport) = &running.transport {
            transport.shutdown().await;
        }
        // Joining threads blocks, and the caller's runtime may have just one.
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name("flotilla-stop".into())
            .spawn(move || drop(sender.send(running.stop())))
            .map_err(|error| Error::Storage(format!("no thread to stop the node: {error}")))?;
        receiver.await.unwrap_or(Err(Error::Shutdown))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.lock().take() {
            tracing::warn!(
                node = self.id.0,
                "a node was dropped without shutdown: in-flight writes end in doubt"
            );
            running.router.shutdown();
            running.lanes.halt("the node was dropped");
            if let Err(error) = running.stop() {
                tracing::error!(%error, "the node did not stop cleanly");
            }
        }
    }
}

impl Running {
    /// Blocks until every thread has ended.
    fn stop(self) -> Result<(), Error> {
        drop(self.clock);
        drop(self.disk);
        if let Some((network, node)) = &self.local {
            network.leave(*node);
        }
        self.snapshots.shutdown();
        let checkpointed = self.checkpointer.shutdown();
        let journaled = self.journal.shutdown();
        self.lanes.stop();
        if let Some(pool) = Arc::into_inner(self.pool) {
            pool.shutdown();
        }
        checkpointed.map_err(|error| Error::Storage(error.to_string()))?;
        journaled.map_err(|error| Error::Storage(error.to_string()))
    }
}

/// Ends lanes that host nothing yet.
pub(super) async fn stop_lanes(lanes: Lanes) {
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        lanes.stop();
        // Nobody waits any more if the caller dropped its future.
        let _ = sender.send(());
    });
    // The thread cannot fail to answer.
    let _ = receiver.await;
}
