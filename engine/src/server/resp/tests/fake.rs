//! A map in the place of the cluster. Operations take effect when they are answered: at once, or
//! when the test releases them, in whatever order it likes.

use crate::server::resp::backend::Backend;
use bytes::Bytes;
use flotilla_router::{Page, PageOptions, RouteError};
use flotilla_shard::{
    Answer, BatchChange, CommandFailure, Condition, Entry, KeyRange, Operation, Origin, Step,
    StepOutcome, Write, WriteOutcome,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::oneshot;

type Outcome = Result<Answer, RouteError>;

#[derive(Clone, Default)]
pub(super) struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    map: BTreeMap<Bytes, Entry>,
    version: u64,
    /// The names of writes that were started under one.
    origins: Vec<Origin>,
    /// Operations are answered only by the test.
    holding: bool,
    held: Vec<(Operation, oneshot::Sender<Outcome>)>,
    /// Operations started so far.
    started: usize,
    failure: Option<RouteError>,
}

pub(super) struct FakePending(oneshot::Receiver<Outcome>);

impl Future for FakePending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(RouteError::Timeout { maybe_committed: true })))
    }
}

impl Fake {
    pub(super) fn holding() -> Fake {
        let fake = Fake::default();
        fake.state.lock().holding = true;
        fake
    }

    /// Every operation ends so from now on.
    pub(super) fn fail(&self, failure: RouteError) {
        self.state.lock().failure = Some(failure);
    }

    pub(super) fn put(&self, key: &str, value: impl Into<Bytes>) {
        self.state.lock().store(Bytes::copy_from_slice(key.as_bytes()), value.into());
    }

    /// How many operations were started so far.
    pub(super) fn started(&self) -> usize {
        self.state.lock().started
    }

    /// The names of the writes that were started under one.
    pub(super) fn origins(&self) -> Vec<Origin> {
        self.state.lock().origins.clone()
    }

    /// How many operations wait to be released.
    pub(super) fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// Executes and answers one of the held operations.
    pub(super) fn release(&self, index: usize) {
        let mut state = self.state.lock();
        let (operation, reply) = state.held.remove(index);
        let outcome = state.execute(operation);
        let _ = reply.send(outcome);
    }
}

impl State {
    fn execute(&mut self, operation: Operation) -> Outcome {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        Ok(match operation {
            Operation::Get { key } => Answer::Value(self.entry(&key)),
            Operation::GetMany { keys } => {
                Answer::Values(keys.iter().map(|key| self.entry(key)).collect())
            }
            Operation::Count { .. } => Answer::Count(self.map.len() as u64),
            Operation::Page { .. } => unreachable!("pages are asked for by another call"),
            Operation::Write(write) => Answer::Written(self.write(write)),
        })
    }

    fn write(&mut self, write: Write) -> WriteOutcome {
        match write {
            Write::Put { key, value, condition, return_previous, .. } => {
                let previous = self.entry(&key);
                let written = match condition {
                    Condition::Always => true,
                    Condition::IfAbsent => previous.is_none(),
                    Condition::IfPresent => previous.is_some(),
                };
                if written {
                    self.store(key, value);
                }
                let previous = previous.filter(|_| return_previous);
                WriteOutcome::Put { version: self.version, written, previous }
            }
            Write::Delete { keys } => {
                let count = keys.iter().filter_map(|key| self.map.remove(key)).count() as u64;
                WriteOutcome::Deleted { version: self.version, count }
            }
            Write::Take { key } => WriteOutcome::Taken(self.map.remove(&key)),
            Write::Add { key, delta } => {
                let text = self.entry(&key).map_or("0".into(), |entry| entry.value);
                let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
                let Some(number) = number else {
                    return WriteOutcome::Failed(CommandFailure::NotAnInteger);
                };
                let number: i64 = number;
                self.store(key, (number + delta).to_string().into());
                WriteOutcome::Number(number + delta)
            }
            Write::Append { key, value } => {
                let mut all = self.entry(&key).map_or(Vec::new(), |entry| entry.value.to_vec());
                all.extend(value);
                let length = all.len() as u64;
                self.store(key, all.into());
                WriteOutcome::Length(length)
            }
            Write::Batch { changes, if_all_absent } => {
                let free = changes.iter().all(|change| !self.map.contains_key(change.key()));
                let written = free || !if_all_absent;
                for change in changes {
                    match change {
                        BatchChange::Put { key, value } if written => self.store(key, value),
                        BatchChange::Delete { key } if written => drop(self.map.remove(&key)),
                        _ => {}
                    }
                }
                WriteOutcome::Batch { version: self.version, written }
            }
            Write::Atomic { guards, steps } => {
                let version_of = |key| self.entry(key).map_or(0, |entry| entry.version);
                let holds = guards.iter().all(|guard| version_of(&guard.key) == guard.version);
                let outcomes = holds.then(|| {
                    let outcome = |step| match step {
                        Step::Get { key } => StepOutcome::Value(self.entry(&key)),
                        Step::Write(write) => StepOutcome::Written(self.write(write)),
                    };
                    steps.into_iter().map(outcome).collect()
                });
                WriteOutcome::Atomic { version: self.version, outcomes }
            }
            Write::DeleteRange { .. } => {
                self.map.clear();
                WriteOutcome::RangeDeleted { version: self.version }
            }
            other => unreachable!("no test asks for {other:?}"),
        }
    }

    fn store(&mut self, key: Bytes, value: Bytes) {
        self.version += 1;
        self.map.insert(key, Entry { value, version: self.version, expires_at_ms: None });
    }

    fn entry(&self, key: &Bytes) -> Option<Entry> {
        self.map.get(key).cloned()
    }
}

impl Backend for Fake {
    type Pending = FakePending;

    fn start(&self, operation: Operation, _: Instant) -> FakePending {
        let (reply, receiver) = oneshot::channel();
        let mut state = self.state.lock();
        state.started += 1;
        if state.holding {
            state.held.push((operation, reply));
        } else {
            let outcome = state.execute(operation);
            let _ = reply.send(outcome);
        }
        FakePending(receiver)
    }

    fn start_as(&self, origin: Origin, operation: Operation, deadline: Instant) -> FakePending {
        self.state.lock().origins.push(origin);
        self.start(operation, deadline)
    }

    fn start_all(&self, operations: Vec<Operation>, deadline: Instant) -> Vec<FakePending> {
        operations.into_iter().map(|operation| self.start(operation, deadline)).collect()
    }

    /// Pages end at every third key, as if there were small shards.
    fn page(
        &self,
        range: KeyRange,
        options: PageOptions,
        _: Instant,
    ) -> impl Future<Output = Result<Page, RouteError>> + Send + 'static {
        let state = self.state.lock();
        let rows_max = options.rows_max.min(3) as usize;
        let mut inside = state.map.range(range.start.clone()..);
        let within = |key: &Bytes| range.end.as_ref().is_none_or(|end| key < end);
        let mut rows: Vec<(Bytes, Entry)> = Vec::new();
        let mut bytes = 0;
        let rest = loop {
            match inside.next() {
                Some((key, entry)) if within(key) => {
                    let value = match options.keys_only {
                        true => Bytes::new(),
                        false => entry.value.clone(),
                    };
                    bytes += (key.len() + value.len()) as u64;
                    let is_full = rows.len() == rows_max || bytes > options.bytes_max;
                    if is_full && !rows.is_empty() {
                        break Some(KeyRange { start: key.clone(), end: range.end.clone() });
                    }
                    rows.push((key.clone(), Entry { value, ..entry.clone() }));
                }
                _ => break None,
            }
        };
        std::future::ready(Ok(Page { rows, rest }))
    }

    fn count(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        let pending = self.start(Operation::Count { range }, deadline);
        async move {
            match pending.await? {
                Answer::Count(count) => Ok(count),
                other => unreachable!("a count is answered by {other:?}"),
            }
        }
    }

    fn delete_range(
        &self,
        range: KeyRange,
        deadline: Instant,
    ) -> impl Future<Output = Result<(), RouteError>> + Send + 'static {
        let pending = self.start(Operation::Write(Write::DeleteRange { range }), deadline);
        async move { pending.await.map(|_| ()) }
    }

    fn get_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<Option<Entry>>, RouteError>> + Send + 'static {
        let pending = self.start(Operation::GetMany { keys }, deadline);
        async move {
            match pending.await? {
                Answer::Values(values) => Ok(values),
                other => unreachable!("a read of many is answered by {other:?}"),
            }
        }
    }

    fn delete_many(
        &self,
        keys: Vec<Bytes>,
        deadline: Instant,
    ) -> impl Future<Output = Result<u64, RouteError>> + Send + 'static {
        let pending = self.start(Operation::Write(Write::Delete { keys }), deadline);
        async move {
            match pending.await? {
                Answer::Written(WriteOutcome::Deleted { count, .. }) => Ok(count),
                other => unreachable!("a deletion is answered by {other:?}"),
            }
        }
    }
}
