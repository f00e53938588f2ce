//! Checkpoints: frozen memtables become rows in redb.
//!
//! [`Store::checkpoint`] is the synchronous whole: merge, commit durably, publish, drop the
//! memtables. [`Checkpointer`] is a thread around it that merges whatever lanes have submitted
//! meanwhile into one commit and reports each lane once.
//!
//! A commit that failed has an unknown outcome: the file is opened again and its records are
//! compared with what was to be written. If they are there the checkpoint is done; if not, the same
//! merge is tried again. When that keeps failing the lanes are told; the memtables stay where they
//! are (readers still need them) and go into the next checkpoint.
//!
//! The journal may be cut after a lane was told, not before.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender};

use super::Store;
use super::error::{StoreError, panic_message};
use super::merge::{Merged, merge};
use super::shard::{Frozen, FrozenKind};
use crate::GroupId;

/// How often one checkpoint is tried before the lanes are told that it failed. Every attempt but
/// the first begins with opening the file again, so that a passing fault is survived; a disk that
/// fails thrice in a row is not passing.
const ATTEMPTS_MAX: u32 = 3;

/// A group with index and term of the last command that a checkpoint holds.
pub type Checkpointed = (GroupId, (u64, u64));

/// Who is told about checkpoints: one for each lane.
pub trait CheckpointCompletion: Send + Sync {
    /// The frozen memtables of these groups are durable in redb, up to the given (index, term), in
    /// the order in which they were submitted. Called on the checkpoint thread: hand it on.
    fn checkpointed(&self, done: &[Checkpointed]);

    /// The stored rows of these groups are damaged. What could still be checkpointed of them was;
    /// they want a new copy of their rows from elsewhere.
    fn damaged(&self, _groups: &[GroupId]) {}

    /// The disk under the store fails or is full. Nothing is lost and nothing is known: what was
    /// submitted is kept and tried again until it succeeds. Told to every lane, once per outage.
    fn unavailable(&self, _error: &StoreError) {}

    /// The outage told by [`unavailable`](CheckpointCompletion::unavailable) is over.
    fn available(&self) {}

    /// The checkpoint thread met a broken invariant of its own. It has stopped.
    fn failed(&self, error: &StoreError);
}

impl Store {
    /// Merges `frozen` into redb in one durable commit, publishes the result to readers and takes
    /// the memtables off their shards' stacks. Memtables of one shard must be in the order in which
    /// they were frozen, and no earlier one may be missing.
    ///
    /// Blocks for the disk. One call at a time: [`Checkpointer`] sees to that.
    ///
    /// # Errors
    ///
    /// If the commit failed, and failed again after opening the file again. `frozen` stays on the
    /// stacks and must be given to a later call.
    pub fn checkpoint(&self, frozen: &[Frozen]) -> Result<(), StoreError> {
        if frozen.is_empty() {
            return Ok(());
        }
        let metrics = self.metrics();
        let timer = metrics.checkpoint_duration_seconds.start_timer();
        let written_before = self.base().written_bytes();
        let result = self.commit_until_certain(frozen);
        metrics.checkpoint_bytes_total.inc_by(self.base().written_bytes() - written_before);
        let merged = match result {
            Ok(merged) => merged,
            Err(error) => {
                timer.stop_and_discard();
                return Err(error);
            }
        };
        timer.observe_duration();
        metrics.checkpoint_rows.observe(merged.rows as f64);

        // From here on: the snapshot that holds the rows is published.
        let shards: BTreeMap<GroupId, _> =
            merged.shards.iter().map(|(group, rows, tally)| (*group, (*rows, *tally))).collect();
        for frozen in frozen {
            if let Some((rows, tally)) = shards.get(&frozen.group()) {
                frozen.shared.learn(*rows, *tally);
            }
            frozen.shared.retire(&frozen.memtable);
        }
        Ok(())
    }

    fn commit_until_certain(&self, frozen: &[Frozen]) -> Result<Merged, StoreError> {
        let mut batches: BTreeMap<GroupId, Vec<&Frozen>> = BTreeMap::new();
        for frozen in frozen {
            batches.entry(frozen.group()).or_default().push(frozen);
        }
        let mut attempt = 1;
        loop {
            let mut merged = Merged::default();
            let result = self.base().commit(|transaction, current| {
                let (committed, what) = merge(transaction, current, &batches, self.metrics())?;
                merged = what;
                Ok(committed)
            });
            let Err(error) = result else { return Ok(merged) };
            self.metrics().checkpoint_failures_total.inc();
            tracing::error!(%error, attempt, "checkpoint failed; opening the store again");
            match self.reopen() {
                Ok(()) if self.holds(&batches) => {
                    tracing::warn!("the failed checkpoint had taken effect");
                    return Ok(merged);
                }
                Ok(()) => {}
                Err(error) => tracing::error!(%error, attempt, "opening the store again failed"),
            }
            if attempt == ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// True if the records in redb are those that `batches` were to write.
    fn holds(&self, batches: &BTreeMap<GroupId, Vec<&Frozen>>) -> bool {
        let snapshot = self.base().snapshot();
        batches.iter().all(|(group, batch)| {
            let newest = batch.last().expect("no batch is empty");
            match (&newest.kind, snapshot.state(*group)) {
                (FrozenKind::Removal, state) => state.is_none(),
                (FrozenKind::Rows { meta }, Some(state)) => {
                    state.applied == newest.applied
                        && state.version == newest.version
                        && state.meta == *meta
                }
                (FrozenKind::Rows { .. }, None) => false,
            }
        })
    }
}

enum Message {
    Submit { lane: usize, frozen: Vec<Frozen> },
    Shutdown,
}

/// Submits frozen memtables to the checkpoint thread.
#[derive(Clone)]
pub struct CheckpointHandle {
    sender: Sender<Message>,
}

impl CheckpointHandle {
    /// Hands frozen memtables of `lane` over and returns at once. A shard's memtables come in the
    /// order in which they were frozen. What waits here is bounded by the two memtables that a
    /// shard may have frozen.
    ///
    /// After a shutdown they are dropped: the journal still has what they hold.
    pub fn submit(&self, lane: usize, frozen: Vec<Frozen>) {
        if self.sender.send(Message::Submit { lane, frozen }).is_err() {
            tracing::debug!("memtables were frozen after the checkpointer stopped");
        }
    }
}

/// The checkpoint thread.
pub struct Checkpointer {
    handle: CheckpointHandle,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    /// Starts the thread. `completions` has one entry for each lane, by its number.
    ///
    /// # Errors
    ///
    /// [`StoreError::Thread`] if the operating system refuses a thread.
    pub fn start(
        store: Store,
        completions: Vec<Arc<dyn CheckpointCompletion>>,
    ) -> Result<Checkpointer, StoreError> {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let name = "checkpoint".to_owned();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || Worker { store, completions, pending: Vec::new() }.run(&receiver))
            .map_err(|source| StoreError::Thread { name, source: Arc::new(source) })?;
        Ok(Checkpointer { handle: CheckpointHandle { sender }, thread })
    }

    /// A handle for a lane to submit through.
    pub fn handle(&self) -> CheckpointHandle {
        self.handle.clone()
    }

    /// Finishes what was submitted before, and joins the thread.
    ///
    /// # Errors
    ///
    /// [`StoreError::Panicked`] if the thread panicked, which would be a bug of ours.
    pub fn shutdown(self) -> Result<(), StoreError> {
        let _ = self.handle.sender.send(Message::Shutdown);
        self.thread.join().map_err(|panic| StoreError::Panicked {
            doing: "run the checkpoint thread",
            message: panic_message(&*panic),
        })
    }
}

struct Worker {
    store: Store,
    completions: Vec<Arc<dyn CheckpointCompletion>>,
    /// Submitted and not yet in redb, in order, with their lanes.
    pending: Vec<(usize, Frozen)>,
}

impl Worker {
    fn run(mut self, receiver: &Receiver<Message>) {
        while let Ok(message) = receiver.recv() {
            // What queued up meanwhile goes into the same commit.
            let mut stop = false;
            for message in std::iter::once(message).chain(receiver.try_iter()) {
                match message {
                    Message::Submit { lane, frozen } => {
                        assert!(lane < self.completions.len(), "lane {lane} has no completion");
                        self.pending.extend(frozen.into_iter().map(|frozen| (lane, frozen)));
                    }
                    Message::Shutdown => stop = true,
                }
            }
            self.checkpoint();
            if stop {
                return;
            }
        }
    }

    fn checkpoint(&mut self) {
        let (lanes, frozen): (Vec<usize>, Vec<Frozen>) = self.pending.drain(..).unzip();
        // A broken assertion must reach the lanes, not end this thread in silence.
        let checkpoint = AssertUnwindSafe(|| self.store.checkpoint(&frozen));
        let result = std::panic::catch_unwind(checkpoint).unwrap_or_else(|panic| {
            let message = panic_message(&*panic);
            Err(StoreError::Panicked { doing: "write a checkpoint", message })
        });

        let mut done: BTreeMap<usize, Vec<Checkpointed>> = BTreeMap::new();
        for (lane, frozen) in lanes.iter().zip(&frozen) {
            done.entry(*lane).or_default().push((frozen.group(), frozen.applied()));
        }
        match result {
            Ok(()) => {
                // Thousands of rows are dropped here, on this thread, before anybody is told that
                // their memory is free.
                drop(frozen);
                for (lane, done) in done {
                    self.completions[lane].checkpointed(&done);
                }
            }
            Err(error) => {
                self.pending = lanes.into_iter().zip(frozen).collect();
                for lane in done.into_keys() {
                    self.completions[lane].failed(&error);
                }
            }
        }
    }
}
