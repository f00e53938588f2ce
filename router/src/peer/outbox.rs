//! What waits for one peer: bounded queues, one per class of connection.
//!
//! Senders are the lanes; the only receiver of a queue is its writer task, which takes everything
//! at once. A sender wakes the writer only if it sleeps, so that a busy connection costs its
//! senders one lock per batch.
//!
//! Invariants:
//!
//! * A queue and what its writer has taken and not yet handed to the socket hold at most
//!   `bytes_max` together, or one larger message.
//! * Requests enter only while the connection stands; what has not reached the socket when it
//!   breaks is dropped and named.

use super::SendReport;
use super::message::{Class, PeerMessage};
use super::metrics::PeerMetrics;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

pub(crate) struct Outbox {
    bytes_max: usize,
    queues: Mutex<[Queue; Class::COUNT]>,
    wake: [Notify; Class::COUNT],
    metrics: PeerMetrics,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<PeerMessage>,
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
    pub(crate) fn new(bytes_max: usize, metrics: PeerMetrics) -> Outbox {
        Outbox { bytes_max, queues: Mutex::default(), wake: Default::default(), metrics }
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
                    queue.messages.push_back(message);
                } else {
                    self.count_dropped(class, &message);
                    report.refuse(&message);
                }
            }
            Class::ALL.map(|class| {
                let queue = &mut queues[class as usize];
                let wake = queue.writer_sleeps && !queue.messages.is_empty();
                queue.writer_sleeps &= !wake;
                wake
            })
        };
        self.metrics.outbox_bytes.add(added_bytes as i64);
        for class in Class::ALL {
            if wake[class as usize] {
                self.wake[class as usize].notify_one();
            }
        }
        report
    }

    /// Swaps everything that waits into `taken`, which must be empty. False: nothing waits, and
    /// [`Outbox::wait`] returns when something does.
    pub(crate) fn take(&self, class: Class, taken: &mut VecDeque<PeerMessage>) -> bool {
        debug_assert!(taken.is_empty(), "the last batch is not written yet");
        let mut queues = self.queues.lock();
        let queue = &mut queues[class as usize];
        std::mem::swap(&mut queue.messages, taken);
        queue.writer_sleeps = taken.is_empty();
        !taken.is_empty()
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
        self.metrics.outbox_bytes.sub(cost_bytes as i64);
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
            if state == State::Closed {
                // The writer may still release what it holds.
                let queued: usize = queue.messages.iter().map(PeerMessage::cost_bytes).sum();
                queue.bytes = bytes - queued;
                bytes = queued;
            }
            (std::mem::take(&mut queue.messages), bytes)
        };
        self.metrics.outbox_bytes.sub(bytes as i64);
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

    /// True if requests are accepted, room permitting.
    pub(crate) fn is_connected(&self) -> bool {
        self.queues.lock()[Class::Data as usize].state == State::Connected
    }
}
