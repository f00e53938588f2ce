//! The way to another node's shards and back.
//!
//! The asking side keeps a table of what it sent; the serving side hands what it received to its
//! lanes, whose answers go back through the outbox. A request takes one hop: a node that does not
//! lead says so and does not pass it on.
//!
//! Invariants:
//!
//! * Ids are never reused, not even over a restart: they start at random.
//! * Everything in the table ends: by the answer, by the end of the connection, by its deadline, by
//!   shutdown, or because another node leads by now. A write that ends otherwise than by an answer is
//!   in doubt; a read is not.
//! * Each entry holds its bytes of the budget until it ends.
//!
//! What is absent: retries, and the wire.

use crate::metrics::RouterMetrics;
use flotilla_mutation::{Mutation, planted};
use flotilla_shard::{Answer, GroupId, NodeId, Permit, Refusal};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type ReplySender = oneshot::Sender<Result<Answer, Refusal>>;
type ReplyReceiver = oneshot::Receiver<Result<Answer, Refusal>>;

/// Tables that share the load of one; a power of two.
const STRIPES: usize = 16;

/// A node that is led by another now may still answer what it was asked before: so long it is
/// given. A leader that lost its network or its power never answers, and its connection may take
/// seconds to be seen as broken.
const OVERTAKEN_AFTER: Duration = Duration::from_millis(200);

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
    /// No entry was sent before. A look for overtaken ones raises it.
    oldest: Option<Instant>,
}

/// What was sent where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    /// Who led the group then, as the replica of this node believed.
    pub(crate) leader: Option<NodeId>,
    pub(crate) is_write: bool,
    pub(crate) at: Instant,
    pub(crate) deadline: Instant,
}

#[derive(Debug)]
struct Entry {
    sent: Sent,
    reply: ReplySender,
    permit: Permit,
}

impl Entry {
    /// Ends the entry without an answer. A read had no effect wherever it went.
    fn lose(mut self) {
        self.permit.note_unserved();
        let maybe_committed = self.sent.is_write && !planted(Mutation::LostForwardIsRefused);
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

    /// Enters a request that is about to be sent; gives its id and where its end shows.
    pub(crate) fn enter(&self, sent: Sent, permit: Permit) -> (u64, ReplyReceiver) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        let mut stripe = self.stripe(id).lock();
        let Sent { at, deadline, .. } = sent;
        stripe.earliest = Some(stripe.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        stripe.oldest = Some(stripe.oldest.map_or(at, |oldest| oldest.min(at)));
        let entry = Entry { sent, reply, permit };
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
        if stripe.entries.get(&id).is_some_and(|entry| entry.sent.node == from) {
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
        self.lose_where(|entry| entry.sent.node == node);
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
            let overdue = take_where(&mut stripe.entries, |entry| entry.sent.deadline <= now);
            stripe.earliest = stripe.entries.values().map(|entry| entry.sent.deadline).min();
            drop(stripe);
            self.lose_entries(overdue);
        }
    }

    /// Ends what waits for a node although, since it was sent, the replica here has learned of
    /// another leader.
    pub(crate) fn lose_overtaken(&self, now: Instant, leader: impl Fn(GroupId) -> Option<NodeId>) {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= OVERTAKEN_AFTER;
        let is_overtaken = |sent: &Sent| {
            let leader = leader(sent.group);
            leader.is_some_and(|leader| leader != sent.node) && leader != sent.leader
        };
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            if !stripe.oldest.is_some_and(is_due) {
                continue;
            }
            let overtaken = take_where(&mut stripe.entries, |entry| {
                is_due(entry.sent.at) && is_overtaken(&entry.sent)
            });
            stripe.oldest = stripe.entries.values().map(|entry| entry.sent.at).min();
            drop(stripe);
            self.lose_entries(overtaken);
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

    fn sent(node: u64, is_write: bool, deadline: Instant) -> Sent {
        let at = Instant::now();
        Sent { node: NodeId(node), group: GroupId(1), leader: None, is_write, at, deadline }
    }

    #[test]
    fn only_the_asked_node_answers_and_only_once() {
        let (forwards, budget) = forwards();
        let later = Instant::now() + Duration::from_secs(60);
        let permit = budget.acquire(10).unwrap();
        let (id, mut receiver) = forwards.enter(sent(2, true, later), permit);
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
            forwards.enter(sent(node, is_write, later), budget.acquire(1).unwrap()).1
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
            forwards.enter(sent(2, true, deadline), budget.acquire(1).unwrap()).1
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
    fn who_was_overtaken_is_not_waited_for() {
        let (forwards, budget) = forwards();
        let now = Instant::now();
        let (leader, deadline) = (Some(NodeId(2)), now + Duration::from_secs(60));
        let enter = |node, is_write| {
            let sent = Sent { leader, at: now, ..sent(node, is_write, deadline) };
            forwards.enter(sent, budget.acquire(1).unwrap()).1
        };
        // The third went to a node that the replica here did not believe to lead, on a hint.
        let (mut write, mut read, mut hinted) = (enter(2, true), enter(2, false), enter(3, true));
        let look = |after_ms, leader| {
            forwards.lose_overtaken(now + Duration::from_millis(after_ms), |_| leader);
        };
        for (after_ms, leader) in [(1000, None), (1000, Some(NodeId(2))), (199, Some(NodeId(3)))] {
            look(after_ms, leader);
            assert_eq!(budget.used_bytes(), 3, "{after_ms} ms, {leader:?}");
        }
        look(200, Some(NodeId(3)));
        assert_eq!((write.try_recv(), read.try_recv()), (Ok(IN_DOUBT), Ok(LOST_READ)));
        assert_eq!(hinted.try_recv(), Err(TryRecvError::Empty), "it is asked already");
        look(1000, Some(NodeId(1)));
        assert_eq!(hinted.try_recv(), Ok(IN_DOUBT));
        assert_eq!((budget.used_bytes(), forwards.metrics.forwards_pending.get()), (0, 0));
    }

    #[test]
    fn a_retracted_request_is_gone() {
        let (forwards, budget) = forwards();
        let permit = budget.acquire(10).unwrap();
        let (id, mut receiver) = forwards.enter(sent(2, true, Instant::now()), permit);
        forwards.retract(id);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
        assert_eq!((budget.used_bytes(), forwards.metrics.forwards_pending.get()), (0, 0));
    }
}
