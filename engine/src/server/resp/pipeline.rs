//! The requests of one connection that are under way, in the order of their replies.
//!
//! Requests run side by side, but a client that sends two on the same key without waiting expects
//! the second to find what the first left. The shard keeps that order among first attempts, but a
//! request that must be sent again, because leadership moved, would come late. So requests run side
//! by side only as long as it cannot matter: while their keys differ, or all only read. Others wait
//! until the reply before them has been made. Requests that touch any key wait for all.
//!
//! Keys are compared by hash; two keys that collide wait for each other without need.
//!
//! Invariants:
//!
//! * Replies leave in the order in which requests came.
//! * Of two unfinished requests on one key, neither writes.
//!
//! What is absent: requests that wait; the connection holds the one that is next.

use super::backend::Backend;
use super::codec::{Protocol, Replies};
use super::commands::{Plan, Shape, WatchedKey, WideAnswer, WideFuture, reply, reply_wide};
use super::error::CommandError;
use bytes::Bytes;
use flotilla_router::RouteError;
use flotilla_shard::{Answer, Operation, is_counted};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Slots behind the first that are polled when the first has no answer yet: polling is what makes
/// a request try again.
const POLLED_AHEAD: usize = 64;

/// What a reader is told to wait whose answer has no room.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Requests on more keys than this wait as if they touched all.
const KEYS_COMPARED_MAX: usize = 256;

/// The keys that a request touches, by hash.
#[derive(Debug, PartialEq, Eq)]
pub enum Keys {
    /// None: it waits for nothing.
    None,
    /// One.
    One(u64),
    /// Several.
    Many(Box<[u64]>),
    /// Perhaps any.
    All,
}

/// What a request touches, and how.
#[derive(Debug)]
pub struct Access {
    keys: Keys,
    write: bool,
}

/// What one request is waiting for, or has got.
pub enum Work<P> {
    /// The reply itself.
    Replied(Bytes),
    /// To be started with the others of its batch.
    Queued(Shape),
    /// An operation on one key.
    Single(Shape, P),
    /// Its answer.
    Answered(Shape, Result<Answer, RouteError>),
    /// Something that asks several shards.
    Wide(WideFuture),
    /// Its answer.
    WideAnswered(Result<WideAnswer, CommandError>),
}

impl<P> Work<P> {
    /// True for a read whose reply may have any size, before and after it is answered.
    fn is_read(&self) -> bool {
        match self {
            Work::Queued(shape) | Work::Single(shape, _) | Work::Answered(shape, _) => {
                matches!(shape, Shape::Value | Shape::Range { .. })
            }
            Work::Wide(_) | Work::WideAnswered(_) => true,
            Work::Replied(_) => false,
        }
    }
}

struct Slot<P> {
    work: Work<P>,
    access: Access,
    manner: Manner,
    request_bytes: usize,
}

/// How a reply is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// The version of the protocol.
    pub protocol: Protocol,
    /// Not at all.
    pub muted: bool,
}

/// What a request that got its answer ended in.
#[derive(Debug, Default)]
pub struct Finished {
    /// The error that was its reply, if it was one.
    pub error: Option<CommandError>,
    /// What a `WATCH` found out; `None`: it failed, or it was none.
    pub watched: Option<Vec<WatchedKey>>,
}

/// Unfinished requests, the next to be replied to at the front.
pub struct Pipeline<B: Backend> {
    slots: VecDeque<Slot<B::Pending>>,
    request_bytes: usize,
    reads: usize,
    hasher: RandomState,
    /// How each key is used; filled only while there is more than one request.
    uses: Uses,
    tracking: bool,
}

#[derive(Debug, Default)]
struct Use {
    readers: u32,
    writers: u32,
}

impl<B: Backend> Pipeline<B> {
    /// Without requests.
    pub fn new() -> Self {
        Pipeline {
            slots: VecDeque::new(),
            request_bytes: 0,
            reads: 0,
            hasher: RandomState::new(),
            uses: HashMap::default(),
            tracking: false,
        }
    }

    /// Unfinished requests.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of unfinished requests.
    pub fn request_bytes(&self) -> usize {
        self.request_bytes
    }

    /// Unfinished reads of values: nobody knows yet how large their replies will be.
    pub fn reads(&self) -> usize {
        self.reads
    }

    /// Gives back the room that requests took, if there are none.
    pub fn trim(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
            self.uses = HashMap::default();
        }
    }

    /// Gives back room that will not be needed while the connection is not read ahead.
    pub fn shrink(&mut self, requests: usize) {
        if self.slots.capacity() > 4 * requests && self.slots.len() <= requests {
            self.slots.shrink_to(2 * requests);
            self.uses.shrink_to(2 * requests);
        }
    }

    /// What `plan` touches.
    pub fn access(&self, plan: &Plan) -> Access {
        match plan {
            Plan::Replied => Access { keys: Keys::None, write: false },
            Plan::Single { operation, .. } | Plan::Once { operation, .. } => {
                Access { keys: self.keys_of(operation), write: operation.is_write() }
            }
            Plan::Wide(wide) => Access {
                keys: match wide.keys() {
                    Some(keys) if keys.len() <= KEYS_COMPARED_MAX => {
                        Keys::Many(keys.iter().map(|key| self.hash(key)).collect())
                    }
                    _ => Keys::All,
                },
                write: wide.is_write(),
            },
        }
    }

    /// The keys of an operation that the connection starts by itself.
    fn keys_of(&self, operation: &Operation) -> Keys {
        // Most operations have one key, and need no list.
        let mut first = None;
        let mut others = Vec::new();
        match operation {
            Operation::Get { key } => first = Some(self.hash(key)),
            Operation::Write(write) => write.for_each_key(|key| match first {
                None => first = Some(self.hash(key)),
                Some(_) => others.push(self.hash(key)),
            }),
            Operation::GetMany { .. } | Operation::Page { .. } | Operation::Count { .. } => {}
        }
        let Some(first) = first else { return Keys::All };
        if others.is_empty() {
            return Keys::One(first);
        }
        others.push(first);
        if others.len() > KEYS_COMPARED_MAX { Keys::All } else { Keys::Many(others.into()) }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hasher.hash_one(key)
    }

    /// True if a request that touches `access` may run beside those under way.
    pub fn admits(&mut self, access: &Access) -> bool {
        if self.slots.is_empty() || access.keys == Keys::None {
            return true;
        }
        if access.keys == Keys::All {
            return false;
        }
        // A request on any key was let in when there was no other: it is the first, or there is none.
        if self.slots.front().is_some_and(|slot| slot.access.keys == Keys::All) {
            return false;
        }
        if !self.tracking {
            self.tracking = true;
            for slot in &self.slots {
                enter(&mut self.uses, &slot.access);
            }
        }
        access.keys.as_slice().iter().all(|key| match self.uses.get(key) {
            None => true,
            Some(used) => used.writers == 0 && !access.write,
        })
    }

    /// Appends a request that [`Pipeline::admits`].
    pub fn push(
        &mut self,
        work: Work<B::Pending>,
        access: Access,
        manner: Manner,
        request_bytes: usize,
    ) {
        if self.tracking {
            enter(&mut self.uses, &access);
        }
        self.request_bytes += request_bytes;
        self.reads += usize::from(work.is_read());
        self.slots.push_back(Slot { work, access, manner, request_bytes });
    }

    /// Appends a reply that waits only for those before it.
    pub fn push_reply(&mut self, reply: Bytes, manner: Manner) {
        let access = Access { keys: Keys::None, write: false };
        self.push(Work::Replied(reply), access, manner, 0);
    }

    /// Hands the futures of queued requests to them, in order.
    ///
    /// # Panics
    ///
    /// If there are not exactly as many of them.
    pub fn started(&mut self, pendings: impl IntoIterator<Item = B::Pending>) {
        let mut pendings = pendings.into_iter();
        for slot in self.slots.iter_mut() {
            if let Work::Queued(shape) = slot.work {
                let pending = pendings.next().expect("every started operation has a future");
                slot.work = Work::Single(shape, pending);
            }
        }
        assert!(pendings.next().is_none(), "every future belongs to an operation");
    }

    /// Writes the reply of the first request if it has its answer, and tells what it ended in. While
    /// `is_full`, a read whose answer is large is told that the node is busy.
    pub fn poll_front(
        &mut self,
        context: &mut Context<'_>,
        out: &mut bytes::BytesMut,
        is_full: impl Fn() -> bool,
    ) -> Option<Finished> {
        if !self.slots.front_mut()?.poll(context) {
            return None;
        }
        let slot = self.slots.pop_front()?;
        self.request_bytes -= slot.request_bytes;
        self.reads -= usize::from(slot.work.is_read());
        if self.tracking {
            leave(&mut self.uses, &slot.access);
            if self.slots.is_empty() {
                assert!(self.uses.is_empty(), "a finished request left a key in use");
                self.tracking = false;
            }
        }
        let start = out.len();
        let mut replies = Replies::new(out, slot.manner.protocol);
        let mut finished = Finished::default();
        let told = match slot.work {
            Work::Replied(reply) => {
                replies.encoded(&reply);
                Ok(())
            }
            Work::Answered(_, Ok(Answer::Value(Some(entry))))
                if is_counted(&entry.value) && is_full() =>
            {
                Err(CommandError::of_route(&RouteError::Busy { retry_after: RETRY_AFTER }, false))
            }
            Work::Answered(shape, result) => reply(shape, result, &mut replies),
            Work::WideAnswered(Ok(WideAnswer::Watched(keys))) => {
                finished.watched = Some(keys);
                replies.ok();
                Ok(())
            }
            Work::WideAnswered(result) => result.map(|answer| reply_wide(answer, &mut replies)),
            Work::Queued(_) | Work::Single(..) | Work::Wide(_) => {
                unreachable!("a polled slot that is ready has its answer")
            }
        };
        if let Err(error) = told {
            replies.error(&error.text);
            finished.error = Some(error);
        }
        if slot.manner.muted {
            out.truncate(start);
        }
        Some(finished)
    }

    /// Lets requests behind the first make progress.
    pub fn poll_ahead(&mut self, context: &mut Context<'_>) {
        for slot in self.slots.iter_mut().skip(1).take(POLLED_AHEAD) {
            slot.poll(context);
        }
    }
}

impl<P: Future<Output = Result<Answer, RouteError>> + Unpin> Slot<P> {
    /// True if the answer is there.
    fn poll(&mut self, context: &mut Context<'_>) -> bool {
        match &mut self.work {
            Work::Replied(_) | Work::Answered(..) | Work::WideAnswered(_) => true,
            Work::Queued(_) => unreachable!("queued requests are started before any is polled"),
            Work::Single(shape, pending) => match Pin::new(pending).poll(context) {
                Poll::Ready(result) => {
                    self.work = Work::Answered(*shape, result);
                    true
                }
                Poll::Pending => false,
            },
            Work::Wide(future) => match future.as_mut().poll(context) {
                Poll::Ready(result) => {
                    self.work = Work::WideAnswered(result);
                    true
                }
                Poll::Pending => false,
            },
        }
    }
}

impl Keys {
    fn as_slice(&self) -> &[u64] {
        match self {
            Keys::None | Keys::All => &[],
            Keys::One(key) => std::slice::from_ref(key),
            Keys::Many(keys) => keys,
        }
    }
}

type Uses = HashMap<u64, Use, BuildHasherDefault<Hashed>>;

fn enter(uses: &mut Uses, access: &Access) {
    for key in access.keys.as_slice() {
        let used = uses.entry(*key).or_default();
        if access.write { used.writers += 1 } else { used.readers += 1 }
    }
}

fn leave(uses: &mut Uses, access: &Access) {
    for key in access.keys.as_slice() {
        let used = uses.get_mut(key).expect("the keys of a request are in use until it ends");
        if access.write {
            used.writers -= 1
        } else {
            used.readers -= 1
        }
        if used.readers == 0 && used.writers == 0 {
            uses.remove(key);
        }
    }
}

/// Takes a hash for what it is.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes are hashed")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
