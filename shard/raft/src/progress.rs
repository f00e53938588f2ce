//! What a leader knows of one follower, and how much it may send to it.
//!
//! Invariants:
//!
//! * `matched < next`; `matched` only grows.
//! * Entries up to `matched` agree with the leader's log and are durable at the follower.
//! * In flight are only appends sent while replicating, oldest first, all above `matched`.

use std::{collections::VecDeque, time::Duration};

use crate::{
    status::{FollowerState, FollowerStatus},
    types::{Index, ReplicaId, Round, Time},
};

pub(crate) struct Progress {
    pub(crate) id: ReplicaId,
    matched: Index,
    next: Index,
    feed: Feed,
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
    /// Highest commit index that this follower was told.
    pub(crate) commit_told: Index,
    /// When it last answered anything.
    pub(crate) heard_at: Time,
    /// Highest heartbeat round it answered.
    pub(crate) round: Round,
    /// It helps no other leader into office before this, on this leader's clock.
    pub(crate) trusts_until: Time,
    pub(crate) probes_sent: u64,
    /// It would take the leadership, as far as it said.
    pub(crate) may_lead: bool,
    /// Its rows are lost, as far as it said.
    pub(crate) wants_snapshot: bool,
    order: Order,
    /// What it had received when it was first seen to be short of what was sent.
    stalled: Option<(Time, Index)>,
}

/// How a follower is fed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// Looking for the place where the logs agree; `sent_at` while a probe is unanswered.
    Probe { sent_at: Option<Time> },
    /// The place is known: appends are pipelined.
    Replicate,
    /// The place is below the leader's compacted base.
    Snapshot,
}

/// Whether the shell was asked for a snapshot for this follower.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    None,
    /// It will say what became of it.
    Placed,
    /// Nothing came of it; not to be repeated before this time.
    Failed(Time),
}

impl Progress {
    pub(crate) fn new(id: ReplicaId, next: Index, now: Time) -> Self {
        Self {
            id,
            matched: Index(0),
            next,
            feed: Feed::Probe { sent_at: None },
            inflight: VecDeque::new(),
            inflight_bytes: 0,
            commit_told: Index(0),
            heard_at: now,
            round: Round(0),
            trusts_until: Time(0),
            probes_sent: 0,
            may_lead: true,
            wants_snapshot: false,
            order: Order::None,
            stalled: None,
        }
    }

    pub(crate) fn status(&self) -> FollowerStatus {
        FollowerStatus {
            id: self.id,
            matched: self.matched,
            next: self.next,
            state: match self.feed {
                Feed::Probe { .. } => FollowerState::Probe,
                Feed::Replicate => FollowerState::Replicate,
                Feed::Snapshot => FollowerState::Snapshot,
            },
            inflight_messages: self.inflight.len(),
            inflight_bytes: self.inflight_bytes,
            probes_sent: self.probes_sent,
            wants_snapshot: self.wants_snapshot,
        }
    }

    pub(crate) fn matched(&self) -> Index {
        self.matched
    }

    pub(crate) fn next(&self) -> Index {
        self.next
    }

    pub(crate) fn feed(&self) -> Feed {
        self.feed
    }

    pub(crate) fn inflight_messages(&self) -> usize {
        self.inflight.len()
    }

    /// How many bytes may be sent now; `None` if the window is full. An idle pipeline always
    /// takes one message.
    pub(crate) fn window(&self, messages_max: usize, bytes_max: usize) -> Option<usize> {
        if self.inflight.is_empty() {
            return Some(bytes_max);
        }
        let open = self.inflight.len() < messages_max && self.inflight_bytes < bytes_max;
        open.then(|| bytes_max - self.inflight_bytes)
    }

    /// An append with entries up to `last` was sent into the pipeline.
    pub(crate) fn sent(&mut self, last: Index, bytes: usize) {
        assert!(self.feed == Feed::Replicate, "pipelining without knowing where the logs agree");
        assert!(last >= self.next, "sent nothing new");
        self.next = last.next();
        self.inflight.push_back((last, bytes));
        self.inflight_bytes += bytes;
    }

    /// A probe was sent.
    pub(crate) fn probed(&mut self, now: Time) {
        assert!(matches!(self.feed, Feed::Probe { sent_at: None }), "two probes at a time");
        self.feed = Feed::Probe { sent_at: Some(now) };
        self.probes_sent += 1;
    }

    /// The follower's log agrees up to `matched`, durably. True if that is news.
    pub(crate) fn acknowledge(&mut self, matched: Index, base: Index) -> bool {
        let news = matched > self.matched;
        self.matched = self.matched.max(matched);
        let found = match self.feed {
            Feed::Replicate => true,
            Feed::Probe { .. } => matched.next() >= self.next,
            Feed::Snapshot => self.matched >= base,
        };
        if found && self.feed != Feed::Replicate {
            self.feed = Feed::Replicate;
            self.next = self.matched.next();
        }
        self.next = self.next.max(self.matched.next());
        while self.inflight.front().is_some_and(|(last, _)| *last <= self.matched) {
            let (_, bytes) = self.inflight.pop_front().expect("just seen");
            self.inflight_bytes -= bytes;
        }
        news
    }

    /// True if a refusal of an append after `prev` is an answer to what was sent last, and not
    /// old news. A refusal of what was acknowledged before is always taken for old news: if the
    /// follower has really lost it, no other probe could help, and this one is repeated no
    /// faster than heartbeats are.
    pub(crate) fn is_refusal_current(&self, prev: Index) -> bool {
        prev > self.matched
            && match self.feed {
                Feed::Replicate => true,
                Feed::Probe { .. } => prev == self.next.previous(),
                Feed::Snapshot => false,
            }
    }

    /// Goes back to looking for the place where the logs agree, beginning right after `prev`.
    /// `sent_at` holds the probe back until the follower answers a heartbeat.
    pub(crate) fn probe_after(&mut self, prev: Index, sent_at: Option<Time>) {
        self.next = prev.max(self.matched).next();
        self.feed = Feed::Probe { sent_at };
        self.inflight.clear();
        self.inflight_bytes = 0;
        self.stalled = None;
    }

    /// What it needs is below `base`.
    pub(crate) fn lose(&mut self, base: Index) {
        self.probe_after(base, None);
        self.feed = Feed::Snapshot;
    }

    /// The follower answered a heartbeat and has received everything up to `received`. Appends
    /// or probes that have been on their way for `patience` by then are taken for lost.
    pub(crate) fn alive(&mut self, received: Index, base: Index, now: Time, patience: Duration) {
        match self.feed {
            Feed::Probe { sent_at: Some(at) } if now.since(at) >= patience => {
                self.feed = Feed::Probe { sent_at: None };
            }
            Feed::Replicate if received.next() < self.next => match self.stalled {
                Some((since, at)) if at == received => {
                    if now.since(since) >= patience {
                        self.probe_after(received, None);
                    }
                }
                _ => self.stalled = Some((now, received)),
            },
            Feed::Snapshot if received >= base => self.probe_after(received, None),
            _ => self.stalled = None,
        }
    }
    /// True if the shell is to be asked for a snapshot for this follower now; it is asked then.
    pub(crate) fn order_snapshot(&mut self, now: Time) -> bool {
        if self.feed != Feed::Snapshot && !self.wants_snapshot {
            return false;
        }
        let due = match self.order {
            Order::None => true,
            Order::Placed => false,
            Order::Failed(again_at) => again_at <= now,
        };
        if due {
            self.order = Order::Placed;
        }
        due
    }

    pub(crate) fn snapshot_sent(&mut self, index: Index) {
        self.order = Order::None;
        self.wants_snapshot = false;
        if self.feed == Feed::Snapshot {
            self.probe_after(index, None);
        }
    }

    pub(crate) fn snapshot_failed(&mut self, again_at: Time) {
        self.order = Order::Failed(again_at);
    }
}
