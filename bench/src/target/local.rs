//! Stores inside this process that have one writer at a time.
//!
//! Such a store syncs once a transaction, so that a server built on it lets writes gather while the
//! disk is busy. That is measured here: one thread takes whatever waits, makes one synced
//! transaction of it, and answers all of it. Reads run on the threads of the clients, as these
//! stores allow; nothing is between a client and the store's own call.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use tempfile::TempDir;

use super::{Completion, Operation, Outcome, Reason, Session};

/// Writes of one transaction at most.
const WRITES_MAX: usize = 4_096;

/// A store with one writer at a time.
pub(super) trait Store: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> anyhow::Result<Option<Bytes>>;

    /// How many of the `limit` rows from `start` on there are; all of them are read.
    fn scan(&self, start: &[u8], limit: u32) -> anyhow::Result<u32>;

    /// Does all of `writes` in their order, in one transaction that is synced when this returns. The
    /// outcomes are those of the writes; [`Operation::CompareAndSwap`] sees what is before it in
    /// the same transaction.
    fn commit(&self, writes: &[Operation]) -> anyhow::Result<Vec<Outcome>>;
}

/// A new directory below `parent`, or where the system has its temporary files.
pub(super) fn fresh_directory(parent: Option<&Path>) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("flotilla-bench-");
    let directory = match parent {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    directory.context("cannot make a data directory")
}

/// A write that waits for the writer.
struct Queued {
    tag: u64,
    operation: Operation,
    /// What a read-modify-write has read.
    read: Option<Bytes>,
    replies: Arc<Replies>,
}

/// Where a session's writes are answered.
#[derive(Default)]
struct Replies {
    done: Mutex<Vec<Completion>>,
    waker: AtomicWaker,
}

/// A store with its writer. The writer ends when this and all sessions are gone.
pub(super) struct Local<S> {
    store: Arc<S>,
    writes: Sender<Queued>,
}

impl<S: Store> Local<S> {
    /// Starts the writer.
    ///
    /// # Errors
    ///
    /// If its thread does not start.
    pub(super) fn start(store: S) -> anyhow::Result<Local<S>> {
        let store = Arc::new(store);
        let (writes, queue) = channel();
        let writer = Arc::clone(&store);
        thread::Builder::new()
            .name("local-writer".to_owned())
            .spawn(move || write_all(&*writer, &queue))
            .context("cannot start the writer's thread")?;
        Ok(Local { store, writes })
    }

    /// A client.
    pub(super) fn session(&self) -> Box<dyn Session> {
        Box::new(LocalSession {
            store: Arc::clone(&self.store),
            writes: self.writes.clone(),
            queued: VecDeque::new(),
            replies: Arc::default(),
        })
    }
}

/// The writer: until nobody can ask any more.
fn write_all<S: Store>(store: &S, queue: &Receiver<Queued>) {
    let (mut operations, mut askers) = (Vec::new(), Vec::new());
    while let Ok(first) = queue.recv() {
        let waiting = std::iter::once(first).chain(queue.try_iter().take(WRITES_MAX - 1));
        for Queued { tag, operation, read, replies } in waiting {
            operations.push(operation);
            askers.push((tag, read, replies));
        }
        let outcomes = store.commit(&operations).unwrap_or_else(|error| {
            let reason = Reason::from(format!("{error:#}"));
            operations.iter().map(|_| Outcome::Unknown(reason.clone())).collect()
        });
        assert_eq!(outcomes.len(), operations.len(), "each write has its outcome");
        operations.clear();
        for ((tag, read, replies), outcome) in askers.drain(..).zip(outcomes) {
            let outcome = match (outcome, read) {
                (Outcome::Done { .. }, Some(read)) => Outcome::read(Some(read)),
                (outcome, _) => outcome,
            };
            replies.done.lock().expect("no holder panics").push(Completion { tag, outcome });
            replies.waker.wake();
        }
    }
}

struct LocalSession<S> {
    store: Arc<S>,
    writes: Sender<Queued>,
    queued: VecDeque<(u64, Operation)>,
    replies: Arc<Replies>,
}

impl<S: Store> LocalSession<S> {
    /// Reads at once; hands writes to the writer.
    fn begin(&self, tag: u64, operation: Operation) -> Option<Outcome> {
        let failed = |error: anyhow::Error| Outcome::NoEffect(format!("{error:#}").into());
        let mut read = None;
        match &operation {
            Operation::Get { key } => {
                return Some(self.store.get(key).map_or_else(failed, Outcome::read));
            }
            Operation::Scan { start, limit } => {
                return Some(self.store.scan(start, *limit).map_or_else(failed, Outcome::scanned));
            }
            Operation::ReadModifyWrite { key, .. } => match self.store.get(key) {
                Ok(value) => read = value,
                Err(error) => return Some(failed(error)),
            },
            _ => {}
        }
        let queued = Queued { tag, operation, read, replies: Arc::clone(&self.replies) };
        let sent = self.writes.send(queued);
        sent.err().map(|_| Outcome::NoEffect("the writer has failed".into()))
    }
}

impl<S: Store> Session for LocalSession<S> {
    fn submit(&mut self, tag: u64, operation: Operation) {
        self.queued.push_back((tag, operation));
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        self.replies.waker.register(context.waker());
        while let Some((tag, operation)) = self.queued.pop_front() {
            if let Some(outcome) = self.begin(tag, operation) {
                done.push(Completion { tag, outcome });
            }
        }
        done.append(&mut self.replies.done.lock().expect("no holder panics"));
        match done.len() > before {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// What any store with one writer must do; used by the tests of each.
#[cfg(test)]
pub(super) mod conformance {
    use super::*;
    use std::future::poll_fn;

    /// Runs operations one after the other, then all at once.
    pub(in crate::target) async fn check(session: &mut dyn Session) {
        let bytes = Bytes::from_static;
        let (a, b) = (bytes(b"a"), bytes(b"b"));
        let get = |key: &Bytes| Operation::Get { key: key.clone() };
        let put = |key: &Bytes, value| Operation::Put { key: key.clone(), value: bytes(value) };
        let swap = |old: Option<&'static [u8]>, new| Operation::CompareAndSwap {
            key: a.clone(),
            old: old.map(bytes),
            new: bytes(new),
        };
        let read = |value: Option<&'static [u8]>| Outcome::read(value.map(bytes));
        let steps = [
            (get(&a), read(None)),
            (put(&a, b"1"), Outcome::WRITTEN),
            (get(&a), read(Some(b"1"))),
            (swap(Some(b"2"), b"3"), read(None)),
            (swap(Some(b"1"), b"3"), read(Some(b""))),
            (get(&a), read(Some(b"3"))),
            (put(&b, b"4"), Outcome::WRITTEN),
            (Operation::Scan { start: bytes(b""), limit: 10 }, Outcome::scanned(2)),
            (Operation::Scan { start: b.clone(), limit: 10 }, Outcome::scanned(1)),
            (Operation::Scan { start: bytes(b""), limit: 1 }, Outcome::scanned(1)),
            (Operation::ReadModifyWrite { key: b.clone(), value: bytes(b"5") }, read(Some(b"4"))),
            (Operation::Delete { key: a.clone() }, Outcome::WRITTEN),
            (get(&a), read(None)),
            (swap(None, b"6"), read(Some(b""))),
            (
                Operation::PutMany { pairs: vec![(a.clone(), bytes(b"7")), (b, bytes(b"8"))] },
                Outcome::WRITTEN,
            ),
            (get(&a), read(Some(b"7"))),
        ];
        for (tag, (operation, want)) in steps.into_iter().enumerate() {
            let step = format!("{operation:?}");
            let done = run(session, vec![(tag as u64, operation)]).await;
            assert_eq!(done, [Completion { tag: tag as u64, outcome: want }], "{step}");
        }
        // All in few transactions: of swaps from one value only one may succeed.
        let swaps = (0..100).map(|tag| (tag, swap(Some(b"7"), b"9"))).collect();
        let done = run(session, swaps).await;
        let swapped = done.iter().filter(|done| done.outcome == read(Some(b""))).count();
        assert_eq!((done.len(), swapped), (100, 1));
        let puts = vec![(1, put(&a, b"x")), (2, put(&a, b"y")), (3, put(&a, b"z"))];
        run(session, puts).await;
        let last = run(session, vec![(1, get(&a))]).await;
        assert_eq!(last[0].outcome, read(Some(b"z")), "writes keep their order");
    }

    async fn run(session: &mut dyn Session, operations: Vec<(u64, Operation)>) -> Vec<Completion> {
        let count = operations.len();
        operations.into_iter().for_each(|(tag, operation)| session.submit(tag, operation));
        let mut done = Vec::new();
        while done.len() < count {
            poll_fn(|context| session.poll(context, &mut done)).await;
        }
        done
    }
}
