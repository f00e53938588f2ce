//! The checkpoint thread: the only writer of the redb file.
//!
//! It merges whatever lanes have submitted meanwhile into one commit and reports each lane once,
//! and between two checkpoints does one short step of an import. When nothing else is to do it drops
//! tables that nobody names.
//!
//! A disk that fails or is full does not end it. It says so, keeps what it was given, opens the file
//! again after a pause and tries again, for ever. What a failed commit has done is asked of the file
//! and concluded from nothing else. A shutdown does not wait for the disk to recover: the journal
//! has what is not in redb.
//!
//! The journal may be cut after a lane was told, not before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use prometheus::IntGauge;

use super::Store;
use super::error::{StoreError, panic_message};
use super::import::{Import, Loading, Step};
use super::shard::Frozen;
use super::sweep::Sweep;
use super::work::CheckpointWork;
use crate::GroupId;
use crate::range::KeyRange;

/// Pauses between attempts while the disk fails: from the first, doubling, to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A commit of a checkpoint writes at most this part of all rows, unless that is very little or a
/// single shard has more.
const SLICES_MAX: u64 = 8;

/// A checkpoint that wrote less leaves no space worth a commit of its own.
const RELEASE_BYTES_MIN: u64 = 16 << 20;

/// A group with index and term of the last command that a checkpoint holds.
pub type Checkpointed = (GroupId, (u64, u64));

/// Who is told about checkpoints: one for each lane. Called on the checkpoint thread: hand it on.
pub trait CheckpointCompletion: Send + Sync {
    /// The frozen memtables of these groups are durable in redb, up to the given (index, term), in
    /// the order in which they were submitted.
    fn checkpointed(&self, done: &[Checkpointed]);

    /// The stored rows of these groups are damaged. What could still be checkpointed of them was,
    /// and reported; they want a new copy of their rows from elsewhere. Told to every lane,
    /// whosever the groups are. With each comes the [`Shard::generation`](super::Shard::generation)
    /// of the rows that are damaged: a newer one has other rows.
    fn damaged(&self, _groups: &[(GroupId, u64)]) {}

    /// The disk under the store fails or is full. Nothing is lost and nothing is known: what was
    /// submitted is kept and tried again until it succeeds. Told to every lane, once per outage.
    fn unavailable(&self, _error: &StoreError) {}

    /// The outage told by [`unavailable`](CheckpointCompletion::unavailable) is over.
    fn available(&self) {}

    /// The checkpoint thread met a broken invariant of its own. It has stopped.
    fn failed(&self, error: &StoreError);
}

pub(crate) enum Message {
    Submit {
        lane: usize,
        frozen: Vec<Frozen>,
    },
    Import {
        id: u64,
        group: GroupId,
        range: KeyRange,
        step: Step,
    },
    /// A reader met a failure of the file in this epoch.
    Reopen(u64),
    Shutdown,
}

/// Submits frozen memtables to the checkpoint thread, and begins imports.
#[derive(Clone)]
pub struct CheckpointHandle {
    sender: Sender<Message>,
    next_import: Arc<AtomicU64>,
    merged_bytes: IntGauge,
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

    /// Memory held by memtables that redb holds too and that stay readable, in bytes.
    pub fn merged_bytes(&self) -> u64 {
        u64::try_from(self.merged_bytes.get()).unwrap_or(0)
    }

    /// Begins to replace the rows of `group`, which owns `range`. One import per group at a time.
    pub fn import(&self, group: GroupId, range: KeyRange) -> Import {
        let id = self.next_import.fetch_add(1, Ordering::Relaxed);
        Import { id, group, range, sender: self.sender.clone() }
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
        let (handle, worker, receiver) = Worker::new(store, completions);
        let name = "checkpoint".to_owned();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || worker.run(&receiver))
            .map_err(|source| StoreError::Thread { name, source: Arc::new(source) })?;
        Ok(Checkpointer { handle, thread })
    }

    /// The same without a thread: whoever owns the work does it step by step.
    pub fn without_thread(
        store: Store,
        completions: Vec<Arc<dyn CheckpointCompletion>>,
    ) -> (CheckpointHandle, CheckpointWork) {
        let (handle, worker, receiver) = Worker::new(store, completions);
        (handle, CheckpointWork::new(worker, receiver))
    }

    /// A handle for a lane to submit through.
    pub fn handle(&self) -> CheckpointHandle {
        self.handle.clone()
    }

    /// Finishes the checkpoints that were submitted before, unless the disk fails, and joins the
    /// thread. Steps of imports that have not begun are refused.
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

pub(super) struct Worker {
    store: Store,
    completions: Vec<Arc<dyn CheckpointCompletion>>,
    /// Submitted and not yet in redb, in order, with their lanes.
    pending: Vec<(usize, Frozen)>,
    imports: BTreeMap<u64, Loading>,
    /// Steps of imports, in order.
    steps: VecDeque<(u64, GroupId, KeyRange, Step)>,
    /// While tables may have lost their last name.
    sweep: Option<Sweep>,
    /// While the disk fails: how long to wait before the next attempt.
    outage: Option<Duration>,
    stop: bool,
}

impl Worker {
    fn new(
        store: Store,
        completions: Vec<Arc<dyn CheckpointCompletion>>,
    ) -> (CheckpointHandle, Worker, Receiver<Message>) {
        let (sender, receiver) = crossbeam_channel::unbounded();
        let asking = sender.clone();
        store.base().watch().on_reopen_wanted(Some(Box::new(move |epoch| {
            // Nobody to ask any more: the store is being shut down.
            let _ = asking.send(Message::Reopen(epoch));
        })));
        let merged_bytes = store.metrics().memtables.merged_bytes.clone();
        let handle = CheckpointHandle { sender, next_import: Arc::default(), merged_bytes };
        let worker = Worker {
            store,
            completions,
            pending: Vec::new(),
            imports: BTreeMap::new(),
            steps: VecDeque::new(),
            sweep: None,
            outage: None,
            stop: false,
        };
        (handle, worker, receiver)
    }

    fn run(mut self, receiver: &Receiver<Message>) {
        // What was found on opening, before anybody could be told.
        self.report_lost_records();
        while self.receive(receiver) && self.attend() {}
        self.store.base().watch().on_reopen_wanted(None);
        let closed = || StoreError::Closed { why: "the store was shut down".to_owned() };
        self.steps.into_iter().for_each(|(.., step)| step.refuse(closed()));
        for message in receiver.try_iter() {
            if let Message::Import { step, .. } = message {
                step.refuse(closed());
            }
        }
    }

    /// Does some of what is to be done. False: that was the end.
    pub(super) fn attend(&mut self) -> bool {
        if self.outage.is_some() && !self.try_reopen() && !self.stop {
            return true;
        }
        // A broken assertion must reach the lanes, not end this thread in silence.
        let work = std::panic::catch_unwind(AssertUnwindSafe(|| self.work()));
        if let Err(panic) = work {
            let message = panic_message(&*panic);
            let error = StoreError::Panicked { doing: "write a checkpoint", message };
            self.completions.iter().for_each(|lane| lane.failed(&error));
            return false;
        }
        !self.stop
    }

    /// While the disk fails: how long to wait before the next attempt.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.outage
    }

    /// Takes in what came; waits for something to do. False when nothing can come any more.
    fn receive(&mut self, receiver: &Receiver<Message>) -> bool {
        let first = if let Some(pause) = self.outage {
            match receiver.recv_timeout(pause) {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        } else if self.is_idle() {
            match receiver.recv() {
                Ok(message) => Some(message),
                Err(_) => return false,
            }
        } else {
            None
        };
        // What queued up meanwhile goes into the same commit.
        self.take_in(first.into_iter().chain(receiver.try_iter()));
        true
    }

    pub(super) fn take_in(&mut self, messages: impl Iterator<Item = Message>) {
        for message in messages {
            match message {
                Message::Submit { lane, frozen } => {
                    assert!(lane < self.completions.len(), "lane {lane} has no completion");
                    self.pending.extend(frozen.into_iter().map(|frozen| (lane, frozen)));
                }
                Message::Import { id, group, range, step } => {
                    self.steps.push_back((id, group, range, step));
                }
                Message::Reopen(epoch) => {
                    if self.outage.is_none() && epoch == self.store.base().watch().epoch() {
                        self.reopen_for_readers();
                    }
                }
                Message::Shutdown => self.stop = true,
            }
        }
    }

    /// One checkpoint of all that is pending, and one step of an import.
    fn work(&mut self) {
        if !self.pending.is_empty() && !self.checkpoint() || self.stop {
            return;
        }
        if let Some((id, group, range, step)) = self.steps.pop_front() {
            self.step(id, group, range, step);
        } else if let Some(mut sweep) = self.sweep.take() {
            let used: BTreeSet<_> = self.imports.values().filter_map(Loading::table).collect();
            match sweep.step(self.store.base(), &used) {
                Ok(true) => self.sweep = Some(sweep),
                Ok(false) => {}
                Err(error) => self.begin_outage(&error),
            }
        }
    }

    /// True if there is nothing to do before a message comes.
    pub(super) fn is_idle(&self) -> bool {
        self.steps.is_empty() && self.pending.is_empty() && self.sweep.is_none()
    }

    /// Merges all that is pending; false if the disk failed.
    fn checkpoint(&mut self) -> bool {
        let written_before = self.store.base().written_bytes();
        let mut slices = self.slices();
        while let Some(slice) = slices.pop_front() {
            if !self.checkpoint_slice(slice) {
                self.pending.extend(slices.into_iter().flatten());
                return false;
            }
        }
        self.store.metrics().checkpoints_total.inc();
        // What the last commit left would wait for the next checkpoint, which needs the space itself.
        let written = self.store.base().written_bytes() - written_before;
        if written >= RELEASE_BYTES_MIN
            && let Err(error) = self.store.release_pages()
        {
            self.begin_outage(&error);
            return false;
        }
        true
    }

    /// What is pending, in parts that are merged by one commit each: while a commit is made, the
    /// rows that it writes take their space twice.
    fn slices(&mut self) -> VecDeque<Vec<(usize, Frozen)>> {
        let snapshot = self.store.base().snapshot();
        let bytes_min = self.store.base().options().slice_bytes_min;
        let bytes_max = bytes_min.max(self.store.live_bytes() / SLICES_MAX);
        let mut groups: BTreeMap<GroupId, Vec<(usize, Frozen)>> = BTreeMap::new();
        for (lane, frozen) in self.pending.drain(..) {
            groups.entry(frozen.group()).or_default().push((lane, frozen));
        }
        let mut slices = VecDeque::from([Vec::new()]);
        let mut bytes = 0;
        for (group, batch) in groups {
            let new: u64 = batch.iter().map(|(_, frozen)| frozen.memtable.memory_bytes()).sum();
            let more = new + snapshot.state(group).map_or(0, |state| state.bytes);
            if bytes > 0 && bytes + more > bytes_max {
                slices.push_back(Vec::new());
                bytes = 0;
            }
            bytes += more;
            slices.back_mut().expect("there is a slice").extend(batch);
        }
        slices
    }

    /// Merges a slice; false if the disk failed.
    fn checkpoint_slice(&mut self, slice: Vec<(usize, Frozen)>) -> bool {
        let (lanes, frozen): (Vec<usize>, Vec<Frozen>) = slice.into_iter().unzip();
        let report = match self.store.checkpoint(&frozen) {
            Ok(report) => report,
            Err(error) => {
                self.pending = lanes.into_iter().zip(frozen).collect();
                self.begin_outage(&error);
                return false;
            }
        };
        let mut done: BTreeMap<usize, Vec<Checkpointed>> = BTreeMap::new();
        for (lane, frozen) in lanes.iter().zip(&frozen) {
            let done = done.entry(*lane).or_default();
            if !frozen.is_stale() && !report.left_out.contains(&frozen.group()) {
                done.push((frozen.group(), frozen.applied()));
            }
        }
        // Thousands of rows are dropped here, on this thread, before anybody is told that their
        // memory is free.
        drop(frozen);
        for (lane, done) in done {
            if !done.is_empty() {
                self.completions[lane].checkpointed(&done);
            }
        }
        self.report_lost_records();
        if !report.damaged.is_empty() {
            self.tell_damaged(report.damaged);
        }
        self.end_outage();
        true
    }

    /// Tells of shards whose rows were found damaged by this thread.
    fn tell_damaged(&mut self, groups: impl IntoIterator<Item = GroupId>) {
        self.sweep = Some(Sweep::default());
        // Swaps happen on this thread: the rows that were met are those of now.
        let snapshot = self.store.base().snapshot();
        let of_generation = |group| (group, snapshot.generation(group));
        let damaged: Vec<_> = groups.into_iter().map(of_generation).collect();
        self.completions.iter().for_each(|lane| lane.damaged(&damaged));
    }

    fn step(&mut self, id: u64, group: GroupId, range: KeyRange, step: Step) {
        let loading = self
            .imports
            .entry(id)
            .or_insert_with(|| Loading::new(&self.store, group, range.clone()));
        let failed = match step {
            Step::Write(chunk, done) => {
                let result = loading.write(&self.store, &chunk);
                let failed = result.clone().err();
                done(result);
                failed
            }
            Step::Verify(end, done) => {
                let result = loading.verify(&self.store, end);
                let failed = result.clone().err();
                done(result);
                failed
            }
            Step::Swap(done) => match loading.swap(&self.store) {
                Ok(shard) => {
                    done(Ok(shard));
                    self.imports.remove(&id);
                    self.sweep = Some(Sweep::default());
                    None
                }
                Err(error @ StoreError::Import { .. }) => {
                    done(Err(error));
                    None
                }
                Err(error) => {
                    // Its outcome is not known: asked for again when the file is open again.
                    self.steps.push_front((id, group, range, Step::Swap(done)));
                    Some(error)
                }
            },
            Step::Drop => {
                if self.imports.remove(&id).is_some_and(|loading| loading.table().is_some()) {
                    self.sweep = Some(Sweep::default());
                }
                None
            }
        };
        // Damage of what was sent is no failure of the disk.
        if let Some(error) = failed.filter(|error| !matches!(error, StoreError::Import { .. })) {
            self.begin_outage(&error);
        } else {
            self.end_outage();
        }
    }

    fn reopen_for_readers(&mut self) {
        tracing::warn!("a read failed; opening the store again");
        if let Err(error) = self.store.reopen() {
            self.begin_outage(&error);
        }
        self.report_lost_records();
    }

    /// Opens the file again, after a pause. True if that ended the outage, as far as is known.
    fn try_reopen(&mut self) -> bool {
        match self.store.reopen() {
            Ok(()) => {
                self.report_lost_records();
                // Else the outage ends with the first success of what waits.
                if self.pending.is_empty() && self.steps.is_empty() {
                    self.end_outage();
                }
                true
            }
            Err(error) => {
                self.begin_outage(&error);
                false
            }
        }
    }

    /// Tells of shards whose records could be read before the file was opened again.
    fn report_lost_records(&self) {
        let damaged = self.store.base().watch().take_unreported();
        if !damaged.is_empty() {
            self.completions.iter().for_each(|lane| lane.damaged(&damaged));
        }
    }

    fn begin_outage(&mut self, error: &StoreError) {
        match &mut self.outage {
            Some(pause) => {
                *pause = (*pause * 2).min(PAUSE_MAX);
                tracing::warn!(%error, "the store is still unavailable");
            }
            None => {
                self.outage = Some(PAUSE_MIN);
                self.store.metrics().unavailable.set(1);
                tracing::error!(%error, "the store is unavailable; trying again until it is");
                self.completions.iter().for_each(|lane| lane.unavailable(error));
            }
        }
    }

    fn end_outage(&mut self) {
        if self.outage.take().is_some() {
            self.store.metrics().unavailable.set(0);
            tracing::info!("the store is available again");
            self.completions.iter().for_each(|lane| lane.available());
        }
    }
}
