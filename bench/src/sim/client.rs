//! Clients: what they ask for, and what they make of the answers.
//!
//! Some let the router name their writes; an outcome in doubt stays so. Others name their writes
//! themselves and repeat a write in doubt under its name, through other nodes, until they know: what
//! they count must be exact.
//!
//! What is absent: how an operation gets to a shard (the product's router), and judgement.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use flotilla_router::{Pending, RouteError};
use flotilla_shard::{
    Answer, BatchChange, CommandFailure, Condition, Expect, Expiry, KeyRange, Operation, Origin,
    Write, WriteOutcome,
};
use serde_json::Value;

use crate::history::{Line, text};

use super::clock::Nanos;
use super::options::Options;
use super::random::Random;

/// Which clients have something to look at, in the order in which they were woken.
#[derive(Clone, Debug, Default)]
pub struct Woken {
    clients: Arc<Mutex<Vec<usize>>>,
}

impl Woken {
    /// Takes them.
    pub fn take(&self) -> Vec<usize> {
        std::mem::take(&mut *self.clients.lock().expect("nobody panics while holding it"))
    }

    fn waker(&self, client: usize) -> Waker {
        Waker::from(Arc::new(Bell { client, woken: self.clone() }))
    }
}

struct Bell {
    client: usize,
    woken: Woken,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut clients = self.woken.clients.lock().expect("nobody panics while holding it");
        if !clients.contains(&self.client) {
            clients.push(self.client);
        }
    }
}

/// What the client asks for.
pub struct Call {
    /// For the shard.
    pub operation: Operation,
    /// For the history, a line for each key; without times and answer yet. Empty: not judged.
    pub lines: Vec<Line>,
    /// Under which the judges know it.
    pub request: u64,
    /// The name that the client gave to the write.
    pub origin: Option<Origin>,
    /// The counter that it increases.
    pub counter: Option<Bytes>,
    /// An attempt may have had an effect.
    pub in_doubt: bool,
    /// When it was asked first, by the history's clock.
    pub called: u64,
}

/// The future of an answer.
pub type Asked = Pin<Box<Pending>>;

/// What became of a call.
#[derive(Debug)]
pub enum Outcome {
    /// It is known: the answer.
    Done(Answer),
    /// It certainly had no effect.
    NoEffect,
    /// Nobody knows.
    Unknown,
    /// It must be asked again under its name.
    Again,
}

/// One client.
pub struct Client {
    /// Which one.
    pub number: usize,
    /// Its node.
    pub at: usize,
    /// It names its writes itself: the session and the number of the last write.
    session: Option<(u64, u64, u64)>,
    random: Random,
    waker: Waker,
    writes: u64,
    /// What it waits for.
    pub call: Option<Call>,
    /// The answer to come; `None` while it is to be asked again.
    pub asked: Option<Asked>,
}

/// The keys of a life, and what was read of them last.
#[derive(Debug)]
pub struct Keys {
    groups: u64,
    keys: u64,
    seen: BTreeMap<Bytes, Bytes>,
}

impl Keys {
    /// Keys for a life.
    pub fn new(options: &Options) -> Keys {
        Keys { groups: options.groups, keys: options.keys, seen: BTreeMap::new() }
    }

    /// A key's bytes: its group's number is in front.
    fn key(&self, kind: &str, number: u64) -> Bytes {
        Bytes::from(format!("{:02}/{kind}{number}", number % self.groups))
    }

    /// All counters, and all keys of values.
    pub fn all(&self) -> (Vec<Bytes>, Vec<Bytes>) {
        let all = |kind| (0..self.keys).map(|number| self.key(kind, number)).collect();
        (all("n"), all("k"))
    }

    /// Where the shard of each group but the first begins.
    pub fn splits(groups: u64) -> Vec<Bytes> {
        (1..groups).map(|group| Bytes::from(format!("{group:02}/"))).collect()
    }
}

fn line(f: &str, key: &[u8], client: usize) -> Line {
    let (f, k) = (f.to_owned(), text::of_key(key));
    Line { f, k, v: None, old: None, r: None, c: client as u64, call: 0, ret: 0, unk: 0 }
}

fn text_of(value: Option<&Bytes>) -> Value {
    value.map_or(Value::Null, |value| Value::String(text::of_value(value)))
}

impl Client {
    /// A client at a node.
    pub fn new(number: usize, at: usize, mut random: Random, woken: &Woken) -> Client {
        let session = random.permille(500).then(|| (random.number().max(1), 0, 0));
        let waker = woken.waker(number);
        let (call, asked) = (None, None);
        Client { number, at, session, random, waker, writes: 0, call, asked }
    }

    /// What it asks for next.
    pub fn choose(&mut self, keys: &Keys, options: &Options, request: u64, wall_ms: u64) -> Call {
        let number = self.random.below(keys.keys);
        let kind = self.random.below(100);
        let mut counter = None;
        let (operation, lines) = match kind {
            0..25 => {
                let key = keys.key("k", number);
                let line = line("get", &key, self.number);
                (Operation::Get { key }, vec![line])
            }
            25..45 => self.put(keys.key("k", number), options),
            45..50 => self.batch(keys, number, options),
            50..55 => {
                let key = keys.key("k", number);
                let line = line("del", &key, self.number);
                (Operation::Write(Write::Delete { keys: vec![key] }), vec![line])
            }
            55..65 => self.swap(keys, number, options),
            65..90 => {
                let key = keys.key("n", number);
                counter = Some(key.clone());
                let mut line = line("incr", &key, self.number);
                line.v = Some(Value::from(1));
                (Operation::Write(Write::Add { key, delta: 1 }), vec![line])
            }
            90..96 => {
                let key = keys.key("n", number);
                let line = line("get", &key, self.number);
                (Operation::Get { key }, vec![line])
            }
            _ => {
                let prefix = format!("{:02}/", number % keys.groups);
                let range = KeyRange::prefix(prefix.into_bytes());
                let (rows_max, bytes_max) = (10, 1 << 20);
                let reverse = self.random.permille(500);
                let keys_only = false;
                (Operation::Page { range, rows_max, bytes_max, reverse, keys_only }, Vec::new())
            }
        };
        let origin = if operation.is_write() { self.name(wall_ms) } else { None };
        Call { operation, lines, request, origin, counter, in_doubt: false, called: 0 }
    }

    /// A read of `key` at the end of a life.
    pub fn last_read(&self, key: Bytes, request: u64) -> Call {
        let lines = vec![line("get", &key, self.number)];
        let operation = Operation::Get { key };
        Call { operation, lines, request, origin: None, counter: None, in_doubt: false, called: 0 }
    }

    fn value(&mut self, options: &Options) -> Bytes {
        self.writes += 1;
        let name = format!("c{}w{}", self.number, self.writes);
        let length = self.random.between(1, options.value_bytes_max) as usize;
        let mut value = name.into_bytes();
        value.resize(length.max(value.len()), b'.');
        Bytes::from(value)
    }

    fn put(&mut self, key: Bytes, options: &Options) -> (Operation, Vec<Line>) {
        let value = self.value(options);
        let mut line = line("put", &key, self.number);
        line.v = Some(text_of(Some(&value)));
        let condition = Condition::Always;
        let expiry = Expiry::Never;
        let put = Write::Put { key, value, condition, return_previous: false, expiry };
        (Operation::Write(put), vec![line])
    }

    /// Two keys of one shard at once; each is judged by itself.
    fn batch(&mut self, keys: &Keys, number: u64, options: &Options) -> (Operation, Vec<Line>) {
        let other = (number + keys.groups) % keys.keys;
        let mut numbers = vec![number];
        if other % keys.groups == number % keys.groups && other != number {
            numbers.push(other);
        }
        let (mut changes, mut lines) = (Vec::new(), Vec::new());
        for number in numbers {
            let (key, value) = (keys.key("k", number), self.value(options));
            let mut line = line("put", &key, self.number);
            line.v = Some(text_of(Some(&value)));
            lines.push(line);
            changes.push(BatchChange::Put { key, value });
        }
        (Operation::Write(Write::Batch { changes, if_all_absent: false }), lines)
    }

    fn swap(&mut self, keys: &Keys, number: u64, options: &Options) -> (Operation, Vec<Line>) {
        let key = keys.key("k", number);
        let old = keys.seen.get(&key).cloned();
        let new = self.value(options);
        let mut line = line("cas", &key, self.number);
        line.old = Some(text_of(old.as_ref()));
        line.v = Some(text_of(Some(&new)));
        let expect = old.map_or(Expect::Absent, Expect::Value);
        let swap = Write::CompareAndSwap { key, expect, new: Some(new), expiry: Expiry::Never };
        (Operation::Write(swap), vec![line])
    }

    /// Names a write, if it does so.
    fn name(&mut self, wall_ms: u64) -> Option<Origin> {
        let (session, born_ms, sequence) = self.session.as_mut()?;
        if *born_ms == 0 {
            *born_ms = wall_ms;
        }
        *sequence += 1;
        let (session, session_born_ms, sequence) = (*session, *born_ms, *sequence);
        Some(Origin { session, session_born_ms, sequence, lowest_unacknowledged: sequence })
    }

    /// Polls the answer to come.
    pub fn poll(&mut self) -> Option<Result<Answer, RouteError>> {
        let mut context = Context::from_waker(&self.waker);
        match self.asked.as_mut()?.as_mut().poll(&mut context) {
            Poll::Ready(result) => {
                self.asked = None;
                Some(result)
            }
            Poll::Pending => None,
        }
    }

    /// What an answer, or its absence, means for the call.
    pub fn judge(&mut self, result: Result<Answer, RouteError>) -> Outcome {
        let call = self.call.as_mut().expect("a call was asked");
        let is_write = call.operation.is_write();
        match result {
            Ok(Answer::Written(WriteOutcome::Failed(
                failure @ (CommandFailure::SessionExpired { .. } | CommandFailure::Acknowledged),
            ))) => {
                if let (CommandFailure::SessionExpired { watermark_ms }, Some(session)) =
                    (failure, &mut self.session)
                {
                    *session = (self.random.number().max(1), watermark_ms + 1, 0);
                }
                if call.in_doubt { Outcome::Unknown } else { Outcome::NoEffect }
            }
            Ok(answer) => Outcome::Done(answer),
            Err(error) if is_write && error.maybe_committed() => {
                call.in_doubt = true;
                if call.origin.is_some() { Outcome::Again } else { Outcome::Unknown }
            }
            // Of this attempt; an earlier one may have had one.
            Err(_) if is_write && call.in_doubt => Outcome::Again,
            Err(_) => Outcome::NoEffect,
        }
    }

    /// Its node died. What was asked through it may have had an effect.
    pub fn cut_off(&mut self) -> Option<Outcome> {
        drop(self.asked.take()?);
        let call = self.call.as_mut().expect("a call was asked");
        if !call.operation.is_write() {
            return Some(Outcome::NoEffect);
        }
        call.in_doubt = true;
        Some(if call.origin.is_some() { Outcome::Again } else { Outcome::Unknown })
    }
}

impl Call {
    /// The lines of the history; none if it says nothing.
    pub fn told(mut self, outcome: &Outcome, keys: &mut Keys, returned: u64) -> Vec<Line> {
        let mut lines = std::mem::take(&mut self.lines);
        for line in &mut lines {
            (line.call, line.ret) = (self.called, returned);
            match outcome {
                Outcome::Done(answer) => line.r = self.answer(answer, keys),
                Outcome::Unknown if self.operation.is_write() => line.unk = 1,
                _ => return Vec::new(),
            }
        }
        lines
    }

    fn answer(&self, answer: &Answer, keys: &mut Keys) -> Option<Value> {
        match answer {
            Answer::Value(entry) => {
                let value = entry.as_ref().map(|entry| &entry.value);
                if let Operation::Get { key } = &self.operation {
                    match value {
                        Some(value) => keys.seen.insert(key.clone(), value.clone()),
                        None => keys.seen.remove(key),
                    };
                }
                Some(text_of(value))
            }
            Answer::Written(WriteOutcome::Deleted { count, .. }) => Some(Value::Bool(*count > 0)),
            Answer::Written(WriteOutcome::Swap { swapped, .. }) => Some(Value::Bool(*swapped)),
            Answer::Written(WriteOutcome::Number(sum)) => Some(Value::from(*sum)),
            _ => None,
        }
    }
}

/// Gives every call and return a moment of its own, so that nothing seems to have been under way at
/// the same time that was not.
#[derive(Debug, Default)]
pub struct HistoryClock {
    last: u64,
}

impl HistoryClock {
    /// This moment.
    pub fn stamp(&mut self, now: Nanos) -> u64 {
        self.last = now.max(self.last + 1);
        self.last
    }
}
