//! All transfers that a node sends: who waits, who is under way, and at what rate.
//!
//! Invariants:
//!
//! * At most `outgoing_max` exports are pinned at a time, and at most one for each follower.
//! * Every order of a replica ends in one event, Sent or Failed, unless it was cancelled.
//! * A receiver that is busy is asked again later, with a newer export; nothing is pinned
//!   meanwhile.
//!
//! What is absent: reading, sending, and the clock.

use super::action::Action;
use super::event::SnapshotEvent;
use super::message::{AbortReason, DeclineReason, Offer, SnapshotMessage, TransferId};
use super::metrics::{OUT, SnapshotMetrics};
use super::rate::Rate;
use super::sender::{Bounds, Ending, Sender, Step};
use crate::descriptor::NodeId;
use crate::machine::ShardMeta;
use bytes::Bytes;
use flotilla_mutation::{Mutation, planted};
use flotilla_raft::{Position, ReplicaId, Term};
use flotilla_storage::{GroupId, KeyRange};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// A receiver that says "later" is not asked again earlier than this, whatever it says.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(100);

/// What a replica ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) to: ReplicaId,
    pub(crate) term: Term,
}

impl Order {
    fn is_for_same(&self, other: &Order) -> bool {
        (self.group, self.to) == (other.group, other.to)
    }
}

/// What a pinned export says of itself.
pub(crate) struct Pinned {
    pub(crate) position: Position,
    pub(crate) range: KeyRange,
    pub(crate) rows: u64,
    pub(crate) version: u64,
    pub(crate) meta: Bytes,
}

/// Why rows cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// They are damaged: those of this generation.
    Damaged { generation: u64 },
    /// There is no checkpoint of them yet, or the disk refuses at present.
    Unavailable,
}

/// What a read gave.
pub(crate) enum Rows {
    Some(Bytes),
    End { rows: u64, digest: u64 },
}

struct Waiting {
    order: Order,
    not_before: Duration,
}

struct Running {
    order: Order,
    /// `None` until the export is pinned.
    sender: Option<Sender>,
    version: u64,
    meta: Bytes,
}

pub(crate) struct Outgoing {
    boot: u64,
    outgoing_max: usize,
    bounds: Bounds,
    metrics: SnapshotMetrics,
    last_number: u64,
    waiting: VecDeque<Waiting>,
    running: BTreeMap<TransferId, Running>,
    rate: Rate,
    /// Whose turn it was: the others read first.
    served: TransferId,
}

impl Outgoing {
    pub(crate) fn new(
        boot: u64,
        outgoing_max: usize,
        bytes_per_second: u64,
        bounds: Bounds,
        metrics: SnapshotMetrics,
    ) -> Outgoing {
        Outgoing {
            boot,
            outgoing_max,
            bounds,
            metrics,
            last_number: 0,
            waiting: VecDeque::new(),
            running: BTreeMap::new(),
            rate: Rate::new(bytes_per_second),
            served: TransferId::default(),
        }
    }

    /// True while the clock matters.
    pub(crate) fn is_active(&self) -> bool {
        !self.waiting.is_empty() || !self.running.is_empty()
    }

    /// A replica orders a snapshot for its follower.
    pub(crate) fn send(&mut self, now: Duration, order: Order, out: &mut Vec<Action>) {
        let same = |other: &Order| other.is_for_same(&order);
        if let Some(waiting) = self.waiting.iter_mut().find(|waiting| same(&waiting.order)) {
            waiting.order = order;
            return self.pump(now, out);
        }
        let running = self.running.iter().find(|(_, running)| same(&running.order));
        if let Some((transfer, running)) = running {
            if running.order.term >= order.term {
                return;
            }
            // From an earlier leadership.
            self.give_up(*transfer, AbortReason::Superseded, out);
        }
        self.waiting.push_back(Waiting { order, not_before: now });
        self.pump(now, out);
    }

    /// The replica leads no more.
    pub(crate) fn cancel(&mut self, now: Duration, group: GroupId, out: &mut Vec<Action>) {
        self.waiting.retain(|waiting| waiting.order.group != group);
        let running = self.running.iter().filter(|(_, running)| running.order.group == group);
        let transfers: Vec<TransferId> = running.map(|(transfer, _)| *transfer).collect();
        for transfer in transfers {
            self.give_up(transfer, AbortReason::Cancelled, out);
        }
        self.pump(now, out);
    }

    /// Ends everything: the node stops.
    pub(crate) fn shutdown(&mut self, out: &mut Vec<Action>) {
        self.waiting.clear();
        let transfers: Vec<TransferId> = self.running.keys().copied().collect();
        for transfer in transfers {
            self.give_up(transfer, AbortReason::Shutdown, out);
        }
    }

    fn give_up(&mut self, transfer: TransferId, reason: AbortReason, out: &mut Vec<Action>) {
        if let Some(running) = self.remove(transfer, out)
            && let Some(sender) = running.sender
        {
            out.push(Action::Say(sender.to(), sender.end(reason)));
            self.count_failure(reason.name());
            self.tell_pins(running.order.group, out);
        }
    }

    /// Takes a transfer off the list and lets its export go.
    fn remove(&mut self, transfer: TransferId, out: &mut Vec<Action>) -> Option<Running> {
        let running = self.running.remove(&transfer)?;
        out.push(Action::Unpin { transfer });
        self.show();
        Some(running)
    }

    fn count_failure(&self, reason: &str) {
        self.metrics.failures.with_label_values(&[OUT, reason]).inc();
    }

    fn show(&self) {
        self.metrics.in_progress.with_label_values(&[OUT]).set(self.running.len() as i64);
    }

    /// Tells the replica from where on the log must stay.
    fn tell_pins(&self, group: GroupId, out: &mut Vec<Action>) {
        let senders = self.running.values().filter(|running| running.order.group == group);
        let positions =
            senders.filter_map(|running| Some(running.sender.as_ref()?.offer().position));
        out.push(Action::Tell(match positions.min_by_key(|position| position.index) {
            Some(position) => SnapshotEvent::Pinned { group, position },
            None => SnapshotEvent::Unpinned { group },
        }));
    }

    /// The export that was asked for is pinned, or cannot be had.
    pub(crate) fn pinned(
        &mut self,
        now: Duration,
        transfer: TransferId,
        result: Result<Pinned, Unreadable>,
        out: &mut Vec<Action>,
    ) {
        let Some(running) = self.running.get_mut(&transfer) else {
            out.push(Action::Unpin { transfer });
            return;
        };
        let Order { group, node, to, term } = running.order;
        match result {
            Ok(Pinned { position, range, rows, version, meta }) => {
                let offer =
                    Offer { transfer, group, to, term, position, range, rows, resumed: false };
                let (sender, question) = Sender::new(offer, node, self.bounds, now);
                running.sender = Some(sender);
                (running.version, running.meta) = (version, meta);
                if planted(Mutation::SnapshotWithoutSessions) {
                    running.meta = ShardMeta::without_sessions(&running.meta);
                }
                self.tell_pins(group, out);
                out.push(Action::Say(node, question));
            }
            Err(problem) => {
                self.remove(transfer, out);
                self.unreadable(group, to, problem, out);
                self.pump(now, out);
            }
        }
    }

    fn unreadable(
        &self,
        group: GroupId,
        to: ReplicaId,
        problem: Unreadable,
        out: &mut Vec<Action>,
    ) {
        self.count_failure(AbortReason::Unreadable.name());
        if let Unreadable::Damaged { generation } = problem {
            out.push(Action::Tell(SnapshotEvent::ExportDamaged { group, generation }));
        }
        out.push(Action::Tell(SnapshotEvent::Failed { group, to }));
    }

    /// What a read gave.
    pub(crate) fn read(
        &mut self,
        now: Duration,
        transfer: TransferId,
        result: Result<Rows, Unreadable>,
        out: &mut Vec<Action>,
    ) {
        let Some(running) = self.running.get_mut(&transfer) else { return };
        let Some(sender) = &mut running.sender else { return };
        let (node, Order { group, to, .. }) = (sender.to(), running.order);
        match result {
            Ok(Rows::Some(rows)) => {
                self.rate.spend(rows.len());
                self.metrics.bytes.with_label_values(&[OUT]).inc_by(rows.len() as u64);
                out.push(Action::Say(node, sender.rows(rows)));
            }
            Ok(Rows::End { rows, digest }) => {
                let end = sender.end_of_rows(rows, digest, running.version, running.meta.clone());
                out.push(Action::Say(node, end));
            }
            Err(problem) => {
                out.push(Action::Say(node, sender.end(AbortReason::Unreadable)));
                self.remove(transfer, out);
                self.unreadable(group, to, problem, out);
                self.tell_pins(group, out);
            }
        }
        self.pump(now, out);
    }

    /// A receiver says something.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        from: NodeId,
        message: SnapshotMessage,
        out: &mut Vec<Action>,
    ) {
        let transfer = message.transfer();
        let sender = self.running.get_mut(&transfer).and_then(|running| running.sender.as_mut());
        let Some(sender) = sender.filter(|sender| sender.to() == from) else {
            // It goes on with a transfer that is over here: it has to know.
            let goes_on = matches!(
                message,
                SnapshotMessage::Accept { .. } | SnapshotMessage::ChunkDone { .. }
            );
            if goes_on {
                let reason = AbortReason::Unknown;
                let message = SnapshotMessage::Abort { transfer, by_sender: true, reason };
                out.push(Action::Say(from, message));
            }
            return;
        };
        let step = sender.receive(now, message);
        self.follow(now, transfer, step, out);
        self.pump(now, out);
    }

    fn follow(&mut self, now: Duration, transfer: TransferId, step: Step, out: &mut Vec<Action>) {
        let Some(order) = self.running.get(&transfer).map(|running| running.order) else { return };
        for message in step.messages {
            // Chunks that go a second time count too.
            self.rate.spend(message.payload_bytes());
            out.push(Action::Say(order.node, message));
        }
        let Some(ending) = step.ending else { return };
        let running = self.remove(transfer, out).expect("seen just now");
        let Order { group, to, .. } = order;
        match ending {
            Ending::Installed => {
                let sender = running.sender.expect("installed by somebody who was asked");
                let took = now.saturating_sub(sender.began_at());
                self.metrics.sent.inc();
                self.metrics.duration.with_label_values(&[OUT]).observe(took.as_secs_f64());
                let position = sender.offer().position;
                out.push(Action::Tell(SnapshotEvent::Sent { group, to, position }));
            }
            Ending::Declined { reason: DeclineReason::Busy, retry_after } => {
                self.count_failure(DeclineReason::Busy.name());
                let not_before = now + retry_after.max(RETRY_AFTER_MIN);
                self.waiting.push_back(Waiting { order, not_before });
            }
            Ending::Declined { reason, .. } => {
                self.count_failure(reason.name());
                out.push(Action::Tell(SnapshotEvent::Failed { group, to }));
            }
            Ending::Aborted(reason) => {
                self.count_failure(reason.name());
                out.push(Action::Tell(SnapshotEvent::Failed { group, to }));
            }
        }
        self.tell_pins(group, out);
    }

    /// Messages to `node` travel again.
    pub(crate) fn connected(&mut self, now: Duration, node: NodeId, out: &mut Vec<Action>) {
        let senders = self.running.values_mut().filter_map(|running| running.sender.as_mut());
        for sender in senders.filter(|sender| sender.to() == node) {
            out.push(Action::Say(node, sender.connected(now)));
        }
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let senders = self.running.iter_mut();
        let ticked = senders.filter_map(|(transfer, running)| {
            running.sender.as_mut().map(|sender| (*transfer, sender.tick(now)))
        });
        let steps: Vec<(TransferId, Step)> = ticked.collect();
        for (transfer, step) in steps {
            self.follow(now, transfer, step, out);
        }
        self.pump(now, out);
    }

    /// Starts what may start, and reads where there is room.
    fn pump(&mut self, now: Duration, out: &mut Vec<Action>) {
        while self.running.len() < self.outgoing_max {
            let due = self.waiting.iter().position(|waiting| waiting.not_before <= now);
            let Some(Waiting { order, .. }) = due.and_then(|at| self.waiting.remove(at)) else {
                break;
            };
            self.last_number += 1;
            let transfer = TransferId { boot: self.boot, number: self.last_number };
            let running = Running { order, sender: None, version: 0, meta: Bytes::new() };
            self.running.insert(transfer, running);
            self.show();
            out.push(Action::Pin { transfer, group: order.group });
        }
        self.read_next(now, out);
    }

    /// Asks for rows for the transfer that has waited longest, one at a time: what was read is
    /// known, and paid for, before more is.
    fn read_next(&mut self, now: Duration, out: &mut Vec<Action>) {
        let wants =
            |running: &Running| running.sender.as_ref().is_some_and(|sender| sender.wants_rows());
        let later = self.running.range((Bound::Excluded(self.served), Bound::Unbounded));
        let mut turns = later.chain(self.running.range(..=self.served));
        let next = turns.find(|(_, running)| wants(running)).map(|(transfer, _)| *transfer);
        let Some(transfer) = next else { return };
        if !self.rate.allows(now) {
            return;
        }
        self.served = transfer;
        let running = self.running.get_mut(&transfer).expect("found just now");
        running.sender.as_mut().expect("it wants rows").reading();
        out.push(Action::Read { transfer, bytes_max: self.bounds.chunk_bytes });
    }
}
