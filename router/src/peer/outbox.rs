//! What waits for one peer: bounded queues, one per class of connection.
//!
//! Senders are the lanes; the only receiver of a queue is its writer task, which takes everything
//! at once. A sender wakes the writer only if it sleeps, so that a busy connection costs its
//! senders one lock per batch.
//!
//! Data messages that are longer than a frame wait in a line of their own: their writer sends them
//! in pieces and lets the others pass in between. What follows in the same group waits behind them,
//! because Raft would take a gap for a loss and send all again, and requests of one caller have an
//! order.
//!
//! Invariants:
//!
//! * Messages of one group and class leave in the order in which they came.
//! * A queue and what its writer has taken and not yet handed to the socket hold at most
//!   `bytes_max` together, or one larger message. Large values on their way to who reads them are
//!   counted and bounded where they were read.
//! * Requests enter only while the connection stands; what has not reached the socket when it
//!   breaks is dropped and named.

use super::SendReport;
use super::message::{Class, PeerMessage};
use super::metrics::PeerMetrics;
use flotilla_shard::{Account, GroupId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use tokio::sync::Notify;

pub(crate) struct Outbox {
    bytes_max: usize,
    /// Data messages that cost more travel in pieces.
    large_bytes: usize,
    account: Option<Account>,
    queues: Mutex<[Queue; Class::COUNT]>,
    wake: [Notify; Class::COUNT],
    metrics: PeerMetrics,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<PeerMessage>,
    /// Those that travel in pieces, and what waits behind them.
    large: VecDeque<PeerMessage>,
    /// How many of each group are there, those that the writer holds included.
    large_groups: BTreeMap<GroupId, usize>,
    /// Of the messages, and of those that the writer holds.
    bytes: usize,
    state: State,
    writer_sleeps: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Replies wait: their requests came over another connection and their senders wait. Raft
    /// messages would be stale by the time a connection stands, and requests may find a better
    /// way.
    #[default]
    Away,
    Connected,
    Closed,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.large.is_empty()
    }

    fn put(&mut self, message: PeerMessage, is_large: bool) {
        let group = message.ordered_by();
        let waits = group.is_some_and(|group| self.large_groups.contains_key(&group));
        if !is_large && !waits {
            return self.messages.push_back(message);
        }
        if let Some(group) = group {
            *self.large_groups.entry(group).or_default() += 1;
        }
        self.large.push_back(message);
    }

    fn forget_large(&mut self, group: GroupId) {
        let count = self.large_groups.get_mut(&group).expect("counted when it came");
        *count -= 1;
        if *count == 0 {
            self.large_groups.remove(&group);
        }
    }

    fn takes(&self, message: &PeerMessage, cost: usize, bytes_max: usize) -> bool {
        let fits = self.bytes == 0 || self.bytes.saturating_add(cost) <= bytes_max;
        match self.state {
            State::Connected => fits,
            State::Away => fits && matches!(message, PeerMessage::Reply { .. }),
            State::Closed => false,
        }
    }
}

impl Outbox {
    pub(crate) fn new(
        bytes_max: usize,
        large_bytes: usize,
        account: Option<Account>,
        metrics: PeerMetrics,
    ) -> Outbox {
        let (queues, wake) = Default::default();
        Outbox { bytes_max, large_bytes, account, queues, wake, metrics }
    }

    fn count_added(&self, bytes: usize) {
        self.metrics.outbox_bytes.add(bytes as i64);
        if let Some(account) = &self.account {
            account.add(bytes as u64);
        }
    }

    fn count_released(&self, bytes: usize) {
        self.metrics.outbox_bytes.sub(bytes as i64);
        if let Some(account) = &self.account {
            account.sub(bytes as u64);
        }
    }

    /// Queues what there is room for; the rest is in the report.
    pub(crate) fn push(&self, messages: Vec<PeerMessage>) -> SendReport {
        let mut report = SendReport::default();
        let mut added_bytes = 0;
        let wake = {
            let mut queues = self.queues.lock();
            for message in messages {
                let class = message.class();
                let queue = &mut queues[class as usize];
                let cost = message.cost_bytes();
                if queue.takes(&message, cost, self.bytes_max) {
                    queue.bytes += cost;
                    added_bytes += cost;
                    let is_large = class == Class::Data && message.wire_bytes() > self.large_bytes;
                    queue.put(message, is_large);
                } else {
                    self.count_dropped(class, &message);
                    report.refuse(&message);
                }
            }
            // Before anybody can take them: what is released must have been added.
            self.count_added(added_bytes);
            Class::ALL.map(|class| {
                let queue = &mut queues[class as usize];
                let wake = queue.writer_sleeps && !queue.is_empty();
                queue.writer_sleeps &= !wake;
                wake
            })
        };
        for class in Class::ALL {
            if wake[class as usize] {
                self.wake[class as usize].notify_one();
            }
        }
        report
    }

    /// Swaps everything that waits into `taken`, which must be empty, and the first of those that
    /// travel in pieces into `large` if there is room: it comes after all that is taken with it.
    /// False: the writer holds nothing, and [`Outbox::wait`] returns when something comes.
    pub(crate) fn take(
        &self,
        class: Class,
        taken: &mut VecDeque<PeerMessage>,
        large: &mut Option<PeerMessage>,
        holds_large: bool,
    ) -> bool {
        debug_assert!(taken.is_empty(), "the last batch is not written yet");
        let mut queues = self.queues.lock();
        let queue = &mut queues[class as usize];
        std::mem::swap(&mut queue.messages, taken);
        if large.is_none() && !holds_large {
            *large = queue.large.pop_front();
        }
        queue.writer_sleeps = taken.is_empty() && large.is_none() && !holds_large;
        !queue.writer_sleeps
    }

    /// A message of this group that travelled in pieces is on its way, or was dropped: what comes
    /// now comes after it.
    pub(crate) fn large_left(&self, class: Class, group: Option<GroupId>) {
        if let Some(group) = group {
            self.queues.lock()[class as usize].forget_large(group);
        }
    }

    /// Returns when messages wait that [`Outbox::take`] did not see. May return without.
    pub(crate) async fn wait(&self, class: Class) {
        self.wake[class as usize].notified().await;
    }

    /// The socket has taken messages of this cost, or they were dropped.
    pub(crate) fn release(&self, class: Class, cost_bytes: usize) {
        let mut queues = self.queues.lock();
        let queue = &mut queues[class as usize];
        assert!(queue.bytes >= cost_bytes, "an outbox released more than it held");
        queue.bytes -= cost_bytes;
        drop(queues);
        self.count_released(cost_bytes);
    }

    /// The connection stands.
    pub(crate) fn connect(&self, class: Class) {
        let mut queues = self.queues.lock();
        let queue = &mut queues[class as usize];
        if queue.state == State::Away {
            queue.state = State::Connected;
        }
    }

    /// The connection broke: empties the queue, `taken` included, and returns the ids of the
    /// requests that were in it.
    pub(crate) fn disconnect(&self, class: Class, taken: &mut VecDeque<PeerMessage>) -> Vec<u64> {
        self.empty(class, taken, State::Away)
    }

    /// Nothing enters any more.
    pub(crate) fn close(&self) {
        for class in Class::ALL {
            self.empty(class, &mut VecDeque::new(), State::Closed);
        }
    }

    fn empty(&self, class: Class, taken: &mut VecDeque<PeerMessage>, state: State) -> Vec<u64> {
        let (messages, bytes) = {
            let mut queues = self.queues.lock();
            let queue = &mut queues[class as usize];
            if queue.state != State::Closed {
                queue.state = state;
            }
            let mut bytes = std::mem::take(&mut queue.bytes);
            let mut messages = std::mem::take(&mut queue.messages);
            let mut large = std::mem::take(&mut queue.large);
            if state == State::Closed {
                // The writer may still release what it holds.
                let queued = messages.iter().chain(&large).map(PeerMessage::cost_bytes).sum();
                queue.bytes = bytes - queued;
                bytes = queued;
                large.iter().filter_map(PeerMessage::ordered_by).for_each(|group| {
                    queue.forget_large(group);
                });
            } else {
                queue.large_groups.clear();
            }
            messages.append(&mut large);
            (messages, bytes)
        };
        self.count_released(bytes);
        let mut unsent = Vec::new();
        for message in taken.drain(..).chain(messages) {
            self.count_dropped(class, &message);
            if let PeerMessage::Request { id, .. } = message {
                unsent.push(id);
            }
        }
        unsent
    }

    pub(crate) fn count_dropped(&self, class: Class, message: &PeerMessage) {
        match message {
            PeerMessage::Request { .. } => self.metrics.refused_requests.inc(),
            _ => self.metrics.dropped[class as usize].inc(),
        }
    }

    /// Counts a message of which the writer kept no more than its name.
    pub(crate) fn count_lost(&self, class: Class, is_request: bool) {
        if is_request {
            self.metrics.refused_requests.inc();
        } else {
            self.metrics.dropped[class as usize].inc();
        }
    }

    /// True if requests are accepted, room permitting.
    pub(crate) fn is_connected(&self) -> bool {
        self.queues.lock()[Class::Data as usize].state == State::Connected
    }
}

impl Drop for Outbox {
    /// What a writer held when it was cancelled is counted no more.
    fn drop(&mut self) {
        let bytes = self.queues.get_mut().iter().map(|queue| queue.bytes).sum();
        self.count_released(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_shard::{Answer, Budget, Part};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The account asserts that nothing is given back before it was added. One message at a time,
    /// so that nothing else in the account hides it.
    #[test]
    fn nothing_is_released_before_it_was_counted() {
        const MESSAGES: u64 = 100_000;
        let budget = Budget::new(1 << 30);
        let account = budget.account(Part::Outboxes);
        let outbox = Outbox::new(1 << 20, 64 << 10, Some(account.clone()), PeerMetrics::new());
        outbox.connect(Class::Data);
        let released = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut taken, mut large) = (VecDeque::new(), None);
                while released.load(Ordering::Acquire) < MESSAGES {
                    outbox.take(Class::Data, &mut taken, &mut large, false);
                    for message in taken.drain(..) {
                        outbox.release(Class::Data, message.cost_bytes());
                        released.fetch_add(1, Ordering::Release);
                    }
                }
            });
            for id in 0..MESSAGES {
                while released.load(Ordering::Acquire) < id {
                    assert!(!writer.is_finished(), "the writer failed");
                    std::hint::spin_loop();
                }
                let reply = PeerMessage::Reply { id, result: Ok(Answer::Count(1)) };
                assert_eq!(outbox.push(vec![reply]).dropped, 0);
            }
        });
        assert_eq!(account.used_bytes(), 0);
    }

    /// A value that somebody reads is counted where it was read: counted here too, answers would
    /// take twice what they cost from those who write.
    #[test]
    fn large_values_on_their_way_to_readers_cost_an_outbox_nothing() {
        let budget = Budget::new(1 << 30);
        let account = budget.account(Part::Outboxes);
        let outbox = Outbox::new(1 << 20, 64 << 10, Some(account.clone()), PeerMetrics::new());
        outbox.connect(Class::Data);
        let reply = |id, bytes| {
            let value = vec![7; bytes].into();
            let entry = flotilla_shard::Entry { value, version: 1, expires_at_ms: None };
            PeerMessage::Reply { id, result: Ok(Answer::Value(Some(entry))) }
        };
        for id in 0..4 {
            assert_eq!(outbox.push(vec![reply(id, 1 << 20)]).dropped, 0);
        }
        assert!(account.used_bytes() < 2000, "{} are counted", account.used_bytes());
        assert_eq!(outbox.push(vec![reply(4, 1000)]).dropped, 0);
        assert!(account.used_bytes() > 1000);
        let (mut taken, mut large) = (VecDeque::new(), None);
        outbox.take(Class::Data, &mut taken, &mut large, false);
        assert!(large.is_some_and(|large| large.wire_bytes() > 1 << 20), "it travels in pieces");
    }
}
