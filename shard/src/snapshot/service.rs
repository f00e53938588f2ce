//! The thread that owns all transfers of a node.

use super::event::{SnapshotEvent, SnapshotSink};
use super::handle::{Command, SnapshotHandle};
use super::message::{AbortReason, DeclineReason, SnapshotMessage};
use super::metrics::{IN, OUT, SnapshotMetrics};
use crate::outbox::{Outbox, Parcel};
use crossbeam_channel::Receiver;
use flotilla_storage::store::{CheckpointHandle, Store};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// How many bytes a disk has for what a snapshot brings.
pub type FreeDisk = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Limits of one node's snapshot service.
#[derive(Clone)]
pub struct SnapshotOptions {
    /// Which start of this node's data directory this is: transfers of an earlier one are void.
    pub boot: u64,
    /// Snapshots that this node sends at a time.
    pub outgoing_max: usize,
    /// Snapshots that this node takes at a time.
    pub incoming_max: usize,
    /// Rows are cut into chunks of about this size; one row may be larger.
    pub chunk_bytes: usize,
    /// Chunks under way at a time, per transfer.
    pub window_chunks: usize,
    /// What all transfers of this node together may send in a second.
    pub bytes_per_second: u64,
    /// A transfer in which nothing moved for this long is over.
    pub resume_timeout: Duration,
    /// What a busy receiver tells the sender to wait.
    pub retry_after: Duration,
    /// Room on the disk that a snapshot may take. Asked once for each offer.
    pub free_disk: FreeDisk,
}

impl SnapshotOptions {
    /// The usual limits in start `boot` of a data directory.
    pub fn new(boot: u64) -> SnapshotOptions {
        SnapshotOptions {
            boot,
            outgoing_max: 2,
            incoming_max: 2,
            chunk_bytes: 256 << 10,
            window_chunks: 4,
            bytes_per_second: 64 << 20,
            resume_timeout: Duration::from_secs(30),
            retry_after: Duration::from_secs(1),
            free_disk: Arc::new(|| u64::MAX),
        }
    }
}

/// The service's thread.
pub struct Snapshots {
    handle: SnapshotHandle,
    thread: JoinHandle<()>,
}

impl Snapshots {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the operating system refuses a thread.
    pub fn start(
        options: SnapshotOptions,
        store: Store,
        checkpoints: CheckpointHandle,
        outbox: Arc<dyn Outbox>,
        sink: Arc<dyn SnapshotSink>,
        metrics: SnapshotMetrics,
    ) -> io::Result<(SnapshotHandle, Snapshots)> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let handle = SnapshotHandle::new(sender);
        let worker = Worker { options, _store: store, _checkpoints: checkpoints, outbox, sink, metrics };
        let thread = std::thread::Builder::new()
            .name("snapshots".into())
            .spawn(move || worker.run(&receiver))?;
        Ok((handle.clone(), Snapshots { handle, thread }))
    }

    /// Ends all transfers and joins the thread. Nothing that was received stays behind.
    pub fn shutdown(self) {
        self.handle.shutdown();
        if self.thread.join().is_err() {
            tracing::error!("the snapshot service panicked");
        }
    }
}

struct Worker {
    options: SnapshotOptions,
    _store: Store,
    _checkpoints: CheckpointHandle,
    outbox: Arc<dyn Outbox>,
    sink: Arc<dyn SnapshotSink>,
    metrics: SnapshotMetrics,
}

impl Worker {
    /// Until the machines are in place every offer is declined and every send fails.
    fn run(self, commands: &Receiver<Command>) {
        while let Ok(command) = commands.recv() {
            match command {
                Command::Send { group, to, .. } => {
                    let reason = AbortReason::Unreadable.name();
                    self.metrics.failures.with_label_values(&[OUT, reason]).inc();
                    self.sink.snapshot_event(SnapshotEvent::Failed { group, to });
                }
                Command::Receive { from, messages } => {
                    for message in messages {
                        let SnapshotMessage::Offer(offer) = message else { continue };
                        let reason = DeclineReason::Unavailable;
                        self.metrics.failures.with_label_values(&[IN, reason.name()]).inc();
                        let decline = SnapshotMessage::Decline {
                            transfer: offer.transfer,
                            reason,
                            retry_after: self.options.retry_after,
                        };
                        self.outbox.send(from, vec![Parcel::Snapshot(decline)]);
                    }
                }
                Command::Shutdown => return,
                _ => {}
            }
        }
    }
}
