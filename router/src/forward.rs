//! The way to another node's shards and back.
//!
//! The asking side keeps a table of what it sent; the serving side hands what it received to its
//! lanes, whose answers go back through the outbox. A request takes one hop: a node that does not
//! lead says so and does not pass it on.
//!
//! Invariants:
//!
//! * Ids are never reused, not even over a restart: they start at random.
//! * Everything in the table ends: by the answer, by the end of the connection, by its deadline, or
//!   by shutdown. A write that ends otherwise than by an answer is in doubt; a read is not.
//! * Each entry holds its bytes of the budget until it ends.
//!
//! What is absent: retries, and the wire.

use crate::metrics::RouterMetrics;
use flotilla_mutation::{Mutation, planted};
use flotilla_shard::{Answer, NodeId, Permit, Refusal};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

type ReplySender = oneshot::Sender<Result<Answer, Refusal>>;
type ReplyReceiver = oneshot::Receiver<Result<Answer, Refusal>>;

/// Tables that share the load of one; a power of two.
const STRIPES: usize = 16;

/// Requests on their way to other nodes.
#[derive(Debug)]
pub(crate) struct Forwards {
    next_id: AtomicU64,
    stripes: Vec<Mutex<Stripe>>,
    metrics: RouterMetrics,
}

#[derive(Debug, Default)]
struct Stripe {
    entries: HashMap<u64, Entry>,
    /// No entry has an earlier deadline. Entries that end do not raise it, a sweep does.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    node: NodeId,
    is_write: bool,
    deadline: Instant,
    reply: ReplySender,
    permit: Permit,
}

impl Entry {
    /// Ends the entry without an answer. A read had no effect wherever it went.
    fn lose(mut self) {
        self.permit.note_unserved();
        let maybe_committed = self.is_write && !planted(Mutation::LostForwardIsRefused);
        let _ = self.reply.send(Err(Refusal::Timeout { maybe_committed }));
    }
}

impl Forwards {
    /// Ids are counted from `id_first`.
    pub(crate) fn new(id_first: u64, metrics: RouterMetrics) -> Forwards {
        Forwards {
            next_id: AtomicU64::new(id_first),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            metrics,
        }
    }

    /// Enters a request that is about to be sent to `node`; gives its id and where its end shows.
    pub(crate) fn enter(
        &self,
        node: NodeId,
        is_write: bool,
        deadline: Instant,
        permit: Permit,
    ) -> (u64, ReplyReceiver) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        let mut stripe = self.stripe(id).lock();
        let earliest = stripe.earliest.map_or(deadline, |earliest| earliest.min(deadline));
        stripe.earliest = Some(earliest);
        let entry = Entry { node, is_write, deadline, reply, permit };
        let before = stripe.entries.insert(id, entry);
        assert!(before.is_none(), "an id of a forwarded request was used twice");
        self.metrics.forwards_pending.inc();
        (id, receiver)
    }

    /// Ends a request with its answer. An answer that comes too late finds nothing.
    ///
    /// Only the node that was asked may answer: another's word is ignored.
    pub(crate) fn complete(&self, from: NodeId, id: u64, result: Result<Answer, Refusal>) {
        let mut stripe = self.stripe(id).lock();
        if stripe.entries.get(&id).is_some_and(|entry| entry.node == from) {
            let mut entry = stripe.entries.remove(&id).expect("was just seen");
            drop(stripe);
            if result.is_err() {
                entry.permit.note_unserved();
            }
            self.metrics.forwards_pending.dec();
            let _ = entry.reply.send(result);
        }
    }

    /// Takes back a request that the transport refused: it was certainly not sent.
    pub(crate) fn retract(&self, id: u64) {
        if let Some(mut entry) = self.stripe(id).lock().entries.remove(&id) {
            entry.permit.note_unserved();
            self.metrics.forwards_pending.dec();
        }
    }

    /// Ends everything that is on its way to `node`: the connection is gone, and with it the
    /// answers.
    pub(crate) fn lose_node(&self, node: NodeId) {
        self.lose_where(|entry| entry.node == node);
    }

    /// Ends everything.
    pub(crate) fn lose_all(&self) {
        self.lose_where(|_| true);
    }

    /// Ends what is overdue at `now`.
    pub(crate) fn sweep(&self, now: Instant) {
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            if stripe.earliest.is_none_or(|earliest| now < earliest) {
                continue;
            }
            let overdue = take_where(&mut stripe.entries, |entry| entry.deadline <= now);
            stripe.earliest = stripe.entries.values().map(|entry| entry.deadline).min();
            drop(stripe);
            self.lose_entries(overdue);
        }
    }

    fn lose_where(&self, mut lost: impl FnMut(&Entry) -> bool) {
        for stripe in &self.stripes {
            let entries = take_where(&mut stripe.lock().entries, &mut lost);
            self.lose_entries(entries);
        }
    }

    fn lose_entries(&self, entries: Vec<Entry>) {
        for entry in entries {
            self.metrics.forwards_pending.dec();
            entry.lose();
        }
    }

    fn stripe(&self, id: u64) -> &Mutex<Stripe> {
        &self.stripes[(id as usize) & (STRIPES - 1)]
    }
}

fn take_where(
    entries: &mut HashMap<u64, Entry>,
    mut take: impl FnMut(&Entry) -> bool,
) -> Vec<Entry> {
    let mut taken: Vec<_> = entries.extract_if(|_, entry| take(entry)).collect();
    // In the order in which they were sent: whoever waits is told in the same one each time.
    taken.sort_unstable_by_key(|(id, _)| *id);
    taken.into_iter().map(|(_, entry)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::Budget;
    use prometheus::Registry;
    use std::time::Duration;
    use tokio::sync::oneshot::error::TryRecvError;

    const IN_DOUBT: Result<Answer, Refusal> = Err(Refusal::Timeout { maybe_committed: true });
    const LOST_READ: Result<Answer, Refusal> = Err(Refusal::Timeout { maybe_committed: false });

    fn forwards() -> (Forwards, Budget) {
        let metrics = RouterMetrics::register(&Registry::new()).unwrap();
        (Forwards::new(7, metrics), Budget::new(1000))
    }

    #[test]
    fn only_the_asked_node_answers_and_only_once() {
        let (forwards, budget) = forwards();
        let later = Instant::now() + Duration::from_secs(60);
        let permit = budget.acquire(10).unwrap();
        let (id, mut receiver) = forwards.enter(NodeId(2), true, later, permit);
        forwards.complete(NodeId(3), id, Ok(Answer::Count(3)));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        forwards.complete(NodeId(2), id, Ok(Answer::Count(2)));
        forwards.complete(NodeId(2), id, Ok(Answer::Count(4)));
        assert_eq!(receiver.try_recv(), Ok(Ok(Answer::Count(2))));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_lost_connection_leaves_writes_in_doubt_and_reads_not() {
        let (forwards, budget) = forwards();
        let later = Instant::now() + Duration::from_secs(60);
        let enter = |node, is_write| {
            forwards.enter(NodeId(node), is_write, later, budget.acquire(1).unwrap()).1
        };
        let (mut write, mut read, mut other) = (enter(2, true), enter(2, false), enter(3, true));
        forwards.lose_node(NodeId(2));
        assert_eq!(write.try_recv(), Ok(IN_DOUBT));
        assert_eq!(read.try_recv(), Ok(LOST_READ));
        assert_eq!(other.try_recv(), Err(TryRecvError::Empty));
        forwards.lose_all();
        assert_eq!(other.try_recv(), Ok(IN_DOUBT));
        assert_eq!((budget.used_bytes(), forwards.metrics.forwards_pending.get()), (0, 0));
    }

    #[test]
    fn the_sweep_ends_what_is_overdue_only() {
        let (forwards, budget) = forwards();
        let now = Instant::now();
        let enter = |after_ms| {
            let deadline = now + Duration::from_millis(after_ms);
            forwards.enter(NodeId(2), true, deadline, budget.acquire(1).unwrap()).1
        };
        let mut receivers: Vec<_> = (0..100).map(|n| enter(n * 10)).collect();
        forwards.sweep(now + Duration::from_millis(500));
        for (n, receiver) in receivers.iter_mut().enumerate() {
            let expected = if n <= 50 { Ok(IN_DOUBT) } else { Err(TryRecvError::Empty) };
            assert_eq!(receiver.try_recv(), expected, "deadline {n}0 ms");
        }
        assert_eq!(budget.used_bytes(), 49);
        forwards.sweep(now + Duration::from_secs(1));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_retracted_request_is_gone() {
        let (forwards, budget) = forwards();
        let permit = budget.acquire(10).unwrap();
        let (id, mut receiver) = forwards.enter(NodeId(2), true, Instant::now(), permit);
        forwards.retract(id);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
        assert_eq!((budget.used_bytes(), forwards.metrics.forwards_pending.get()), (0, 0));
    }
}
