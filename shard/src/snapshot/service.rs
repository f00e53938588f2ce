//! The thread that owns all transfers of a node, and does for them what the machines ask.
//!
//! Reads of pinned exports happen here; writes happen on the checkpoint thread, which reports back
//! into the same inbox that lanes and transport use. The thread sleeps while nothing is under way.
//!
//! What is absent: decisions. They are made by the machines that this thread drives.

use super::action::{Action, Key};
use super::event::{SnapshotEvent, SnapshotSink};
use super::exchange::Exchange;
use super::handle::{Command, Input, SnapshotHandle};
use super::message::{AbortReason, Summary, TransferId};
use super::metrics::SnapshotMetrics;
use super::outgoing::{Pinned, Rows, Unreadable};
use crate::machine::ShardMeta;
use crate::outbox::{Outbox, Parcel};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use flotilla_raft::{Index, Position, Term};
use flotilla_storage::GroupId;
use flotilla_storage::store::{
    CheckpointHandle, Export, Import, ImportEnd, Shard, Store, StoreError,
};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the clock is looked at while something is under way.
const TICK_INTERVAL: Duration = Duration::from_millis(20);

/// Says how many bytes a disk has for what a snapshot brings. Called on the service's thread.
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
    /// A transfer whose other end was silent for this long is over.
    pub resume_timeout: Duration,
    /// And one that got no further for this long, whatever the other end says: what it pins and
    /// what it holds on the disk is not held for ever.
    pub standstill_max: Duration,
    /// What a busy receiver tells the sender to wait.
    pub retry_after: Duration,
    /// Room on the disk that snapshots may take. Asked at each offer and each chunk.
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
            standstill_max: Duration::from_secs(300),
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
        let started = Instant::now();
        let clock: Clock = Box::new(move || started.elapsed());
        let exchange = Exchange::new(&options, metrics);
        let (handle, mut worker, receiver) =
            Worker::new(exchange, store, checkpoints, outbox, sink.clone(), clock);
        let thread = std::thread::Builder::new().name("snapshots".into()).spawn(move || {
            // A broken assertion must reach the node, not end this thread in silence.
            let work = AssertUnwindSafe(|| worker.run(&receiver));
            if let Err(panic) = std::panic::catch_unwind(work) {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                sink.snapshots_panicked(text.unwrap_or("no message"));
            }
        })?;
        Ok((handle.clone(), Snapshots { handle, thread }))
    }

    /// The same without a thread: whoever owns the work does it step by step, by the time that
    /// `clock` gives.
    pub fn without_thread(
        options: SnapshotOptions,
        store: Store,
        checkpoints: CheckpointHandle,
        outbox: Arc<dyn Outbox>,
        sink: Arc<dyn SnapshotSink>,
        metrics: SnapshotMetrics,
        clock: Clock,
    ) -> (SnapshotHandle, SnapshotWork) {
        let exchange = Exchange::new(&options, metrics);
        let (handle, worker, inbox) =
            Worker::new(exchange, store, checkpoints, outbox, sink, clock);
        (handle, SnapshotWork { worker, inbox })
    }

    /// Ends all transfers and joins the thread. Nothing that was received stays behind, but what
    /// is being installed just now.
    pub fn shutdown(self) {
        self.handle.shutdown();
        if self.thread.join().is_err() {
            tracing::error!("the snapshot service panicked");
        }
    }
}

/// What [`Snapshots`] does, to be done by its owner: for simulations, which have one thread.
pub struct SnapshotWork {
    worker: Worker,
    inbox: Receiver<Input>,
}

impl SnapshotWork {
    /// True if something was handed in since the last turn.
    pub fn is_asked(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// True while the clock is to be looked at every [`SnapshotWork::TICK_INTERVAL`].
    pub fn is_active(&self) -> bool {
        self.worker.exchange.is_active()
    }

    /// How often a turn is due while something is under way.
    pub const TICK_INTERVAL: Duration = TICK_INTERVAL;

    /// Takes the next of what was handed in, if there is anything, and looks at the clock.
    pub fn turn(&mut self) {
        let input = self.inbox.try_recv().ok();
        self.worker.turn(input);
    }
}

/// Time since the start of a service. It never goes back.
pub type Clock = Box<dyn Fn() -> Duration + Send>;

struct Worker {
    exchange: Exchange,
    clock: Clock,
    store: Store,
    checkpoints: CheckpointHandle,
    outbox: Arc<dyn Outbox>,
    sink: Arc<dyn SnapshotSink>,
    /// Where the checkpoint thread reports to.
    inbox: Sender<Input>,
    exports: BTreeMap<TransferId, (GroupId, Export)>,
    imports: BTreeMap<Key, Import>,
    /// What the swap that is being reported gave.
    swapped: Option<Shard>,
}

impl Worker {
    fn new(
        exchange: Exchange,
        store: Store,
        checkpoints: CheckpointHandle,
        outbox: Arc<dyn Outbox>,
        sink: Arc<dyn SnapshotSink>,
        clock: Clock,
    ) -> (SnapshotHandle, Worker, Receiver<Input>) {
        let (inbox, receiver) = crossbeam_channel::unbounded();
        let handle = SnapshotHandle::new(inbox.clone());
        let (exports, imports) = (BTreeMap::new(), BTreeMap::new());
        let worker = Worker {
            exchange,
            clock,
            store,
            checkpoints,
            outbox,
            sink,
            inbox,
            exports,
            imports,
            swapped: None,
        };
        (handle, worker, receiver)
    }

    fn run(&mut self, inbox: &Receiver<Input>) {
        loop {
            let input = if self.exchange.is_active() {
                match inbox.recv_timeout(TICK_INTERVAL) {
                    Ok(input) => Some(input),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            } else {
                match inbox.recv() {
                    Ok(input) => Some(input),
                    Err(_) => return,
                }
            };
            let stops = matches!(input, Some(Input::Command(Command::Shutdown)));
            self.turn(input);
            if stops {
                return;
            }
        }
    }

    fn now(&self) -> Duration {
        (self.clock)()
    }

    fn turn(&mut self, input: Option<Input>) {
        let now = self.now();
        let mut actions = Vec::new();
        match input {
            Some(Input::Command(command)) => self.exchange.command(now, command, &mut actions),
            Some(Input::Written { key, number, result }) => {
                let problem = problem(key, "write a chunk of", result);
                self.exchange.written(now, key, number, problem, &mut actions);
            }
            Some(Input::Verified { key, result }) => {
                let problem = problem(key, "verify", result);
                self.exchange.verified(now, key, problem, &mut actions);
            }
            Some(Input::Swapped { key, result }) => {
                let result = result.map(|shard| self.swapped = Some(*shard));
                let problem = problem(key, "install", result);
                self.exchange.swapped(now, key, problem.is_none(), &mut actions);
            }
            None => {}
        }
        self.exchange.tick(now, &mut actions);
        self.perform(actions);
    }

    /// Does what is asked for, and what follows from it, in order.
    fn perform(&mut self, actions: Vec<Action>) {
        let mut queue = VecDeque::from(actions);
        while let Some(action) = queue.pop_front() {
            let mut more = Vec::new();
            self.act(action, &mut more);
            queue.extend(more);
        }
    }

    fn act(&mut self, action: Action, more: &mut Vec<Action>) {
        match action {
            Action::Say(node, message) => {
                self.outbox.send(node, vec![Parcel::Snapshot(message)]);
            }
            Action::Tell(event) => self.sink.snapshot_event(event),
            Action::Pin { transfer, group } => {
                let pinned = self.pin(transfer, group);
                self.exchange.pinned(self.now(), transfer, pinned, more);
            }
            Action::Read { transfer, bytes_max } => {
                let rows = self.read(transfer, bytes_max);
                self.exchange.read(self.now(), transfer, rows, more);
            }
            Action::Unpin { transfer } => drop(self.exports.remove(&transfer)),
            Action::Begin { key, group, range } => {
                self.imports.insert(key, self.checkpoints.import(group, range));
            }
            Action::Write { key, number, rows } => {
                let inbox = self.inbox.clone();
                let done = Box::new(move |result| {
                    // The service may be gone: then nobody needs to know.
                    let _ = inbox.send(Input::Written { key, number, result });
                });
                self.import(key).write(rows, done);
            }
            Action::Verify { key, position, summary } => self.verify(key, position, summary),
            Action::Swap { key } => {
                let inbox = self.inbox.clone();
                let done = Box::new(move |result: Result<Shard, StoreError>| {
                    let result = result.map(Box::new);
                    let _ = inbox.send(Input::Swapped { key, result });
                });
                self.import(key).swap(done);
            }
            Action::Drop { key } => drop(self.imports.remove(&key)),
            Action::TellInstalled { key, group, position, meta } => {
                self.imports.remove(&key);
                let shard = self.swapped.take().expect("told right after the swap");
                let event = SnapshotEvent::Installed { group, position, meta, shard };
                self.sink.snapshot_event(event);
            }
        }
    }

    fn import(&self, key: Key) -> &Import {
        self.imports.get(&key).expect("an import lives as long as its transfer")
    }

    fn verify(&self, key: Key, position: Position, summary: Summary) {
        let Summary { rows, digest, version, meta, .. } = summary;
        let applied = (position.index.0, position.term.0);
        let inbox = self.inbox.clone();
        let done = Box::new(move |result| {
            let _ = inbox.send(Input::Verified { key, result });
        });
        self.import(key).verify(ImportEnd { applied, version, meta, rows, digest }, done);
    }

    fn pin(&mut self, transfer: TransferId, group: GroupId) -> Result<Pinned, Unreadable> {
        // Asked before: a swap in between makes what is found a thing of the past.
        let generation = self.store.generation(group);
        let export = match self.store.export(group) {
            Ok(Some(export)) => export,
            Ok(None) => return Err(Unreadable::Unavailable),
            Err(error) => return Err(unreadable(group, generation, &error)),
        };
        let meta = export.meta().clone();
        let range = match ShardMeta::decode(meta.clone()) {
            Ok(meta) => meta.descriptor.range,
            Err(error) => {
                tracing::error!(group = group.0, %error, "the record of a shard makes no sense");
                return Err(Unreadable::Damaged { generation });
            }
        };
        let (index, term) = export.applied();
        let pinned = Pinned {
            position: Position { index: Index(index), term: Term(term) },
            range,
            rows: export.rows_estimate(),
            version: export.version(),
            meta,
        };
        self.exports.insert(transfer, (group, export));
        Ok(pinned)
    }

    fn read(&mut self, transfer: TransferId, bytes_max: usize) -> Result<Rows, Unreadable> {
        let (group, export) =
            self.exports.get_mut(&transfer).expect("read only while it is pinned");
        match export.next(bytes_max) {
            Ok(Some(rows)) => Ok(Rows::Some(rows)),
            Ok(None) => Ok(Rows::End { rows: export.rows(), digest: export.digest() }),
            Err(error) => Err(unreadable(*group, export.generation(), &error)),
        }
    }
}

fn unreadable(group: GroupId, generation: u64, error: &StoreError) -> Unreadable {
    tracing::error!(group = group.0, %error, "cannot read the rows of a snapshot to be sent");
    match error {
        StoreError::Corrupt { .. } => Unreadable::Damaged { generation },
        _ => Unreadable::Unavailable,
    }
}

/// Why a step of an import failed, if it did.
fn problem(key: Key, doing: &str, result: Result<(), StoreError>) -> Option<AbortReason> {
    let error = result.err()?;
    let (from, transfer) = key;
    tracing::warn!(%from, %transfer, %error, "cannot {doing} a snapshot");
    Some(match error {
        StoreError::Import { .. } => AbortReason::Corrupt,
        _ => AbortReason::Unwritable,
    })
}
