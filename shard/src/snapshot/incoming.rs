//! All transfers that a node receives: who is let in, and what becomes of each.
//!
//! Invariants:
//!
//! * At most `incoming_max` at a time, and at most one for each group.
//! * An order to install is always answered.
//! * Whatever ends without being installed drops its import.
//!
//! What is absent: the disk and the clock.

use super::action::{Action, Key};
use super::event::SnapshotEvent;
use super::message::{AbortReason, DeclineReason, Offer, SnapshotMessage};
use super::metrics::{IN, INSTALL_FAILED, SnapshotMetrics};
use super::receiver::{Outcome, Receiver, Wish};
use super::sender::Bounds;
use super::service::FreeDisk;
use crate::descriptor::NodeId;
use flotilla_raft::Position;
use flotilla_storage::GroupId;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// How many ended transfers are remembered: those that were installed, for senders that missed it,
/// and those that a replica was told of and may still want.
const REMEMBERED_MAX: usize = 1024;

/// With less room on the disk nothing begins.
const FREE_BYTES_MIN: u64 = 16 << 20;

pub(crate) struct Incoming {
    incoming_max: usize,
    retry_after: Duration,
    bounds: Bounds,
    free_disk: FreeDisk,
    metrics: SnapshotMetrics,
    receivers: BTreeMap<Key, Receiver>,
    installed: VecDeque<Key>,
    /// Told to a replica as ready, and gone since.
    withdrawn: VecDeque<(Key, Position)>,
}

impl Incoming {
    pub(crate) fn new(
        incoming_max: usize,
        retry_after: Duration,
        bounds: Bounds,
        free_disk: FreeDisk,
        metrics: SnapshotMetrics,
    ) -> Incoming {
        Incoming {
            incoming_max,
            retry_after,
            bounds,
            free_disk,
            metrics,
            receivers: BTreeMap::new(),
            installed: VecDeque::new(),
            withdrawn: VecDeque::new(),
        }
    }

    /// True while the clock matters.
    pub(crate) fn is_active(&self) -> bool {
        !self.receivers.is_empty()
    }

    /// A sender says something.
    pub(crate) fn receive(
        &mut self,
        now: Duration,
        from: NodeId,
        message: SnapshotMessage,
        out: &mut Vec<Action>,
    ) {
        let key = (from, message.transfer());
        let free_disk = &self.free_disk;
        if let Some(receiver) = self.receivers.get_mut(&key) {
            let lacks_room = |bytes: usize| free_disk() < bytes as u64 + FREE_BYTES_MIN;
            let wishes = match &message {
                SnapshotMessage::Chunk { rows, .. } if lacks_room(rows.len()) => {
                    receiver.abort(AbortReason::Unwritable)
                }
                _ => receiver.receive(now, message),
            };
            return self.grant(now, key, wishes, out);
        }
        match message {
            SnapshotMessage::Offer(offer) => self.consider(now, from, offer, out),
            SnapshotMessage::Chunk { .. } | SnapshotMessage::End { .. } => {
                self.say_unknown(key, out);
            }
            _ => {}
        }
    }

    fn say_unknown(&self, (from, transfer): Key, out: &mut Vec<Action>) {
        let reason = AbortReason::Unknown;
        let message = SnapshotMessage::Abort { transfer, by_sender: false, reason };
        out.push(Action::Say(from, message));
    }

    fn consider(&mut self, now: Duration, from: NodeId, offer: Offer, out: &mut Vec<Action>) {
        let key = (from, offer.transfer);
        if self.installed.contains(&key) {
            let message = SnapshotMessage::Installed { transfer: offer.transfer };
            return out.push(Action::Say(from, message));
        }
        if offer.resumed {
            return self.say_unknown(key, out);
        }
        if let Err(reason) = self.make_way(now, from, &offer, out) {
            self.count_failure(reason.name());
            let (transfer, retry_after) = (offer.transfer, self.retry_after);
            let message = SnapshotMessage::Decline { transfer, reason, retry_after };
            return out.push(Action::Say(from, message));
        }
        let Offer { transfer, group, to, term, position, .. } = offer;
        self.receivers.insert(key, Receiver::new(offer, from, self.bounds, now));
        self.show();
        let event = SnapshotEvent::Offered { group, transfer, from, to, term, position };
        out.push(Action::Tell(event));
    }

    /// Whether there is room for the offer; a transfer that it supersedes ends.
    fn make_way(
        &mut self,
        now: Duration,
        from: NodeId,
        offer: &Offer,
        out: &mut Vec<Action>,
    ) -> Result<(), DeclineReason> {
        if (self.free_disk)() < FREE_BYTES_MIN {
            return Err(DeclineReason::DiskFull);
        }
        let same = self.receivers.iter().find(|(_, known)| known.offer().group == offer.group);
        if let Some((key, known)) = same {
            let is_newer = offer.term > known.offer().term
                || (offer.term == known.offer().term
                    && from == known.from()
                    && offer.transfer > known.offer().transfer);
            if !is_newer || known.is_complete() || known.is_settling() {
                return Err(DeclineReason::Busy);
            }
            let (key, wishes) = (*key, known.abort(AbortReason::Superseded));
            self.grant(now, key, wishes, out);
        }
        if self.receivers.len() >= self.incoming_max {
            return Err(DeclineReason::Busy);
        }
        Ok(())
    }

    /// The replica has decided about an offer.
    pub(crate) fn offer_answer(
        &mut self,
        now: Duration,
        key: Key,
        wanted: bool,
        out: &mut Vec<Action>,
    ) {
        let retry_after = self.retry_after;
        let Some(receiver) = self.receivers.get_mut(&key) else { return };
        let wishes = receiver.answered(now, wanted, retry_after);
        self.grant(now, key, wishes, out);
    }

    /// The replica wants what is ready to be installed.
    pub(crate) fn install(
        &mut self,
        now: Duration,
        group: GroupId,
        key: Key,
        out: &mut Vec<Action>,
    ) {
        if let Some(receiver) = self.receivers.get_mut(&key) {
            let wishes = receiver.install();
            return self.grant(now, key, wishes, out);
        }
        let at = self.withdrawn.iter().position(|(withdrawn, _)| *withdrawn == key);
        match at.and_then(|at| self.withdrawn.remove(at)) {
            Some((_, position)) => {
                out.push(Action::Tell(SnapshotEvent::InstallFailed { group, position }));
            }
            None => tracing::error!(group = group.0, transfer = %key.1, from = %key.0,
                "a replica wants to install a snapshot that it was never told of"),
        }
    }

    /// The replica does not want it any more.
    pub(crate) fn discard(&mut self, now: Duration, key: Key, out: &mut Vec<Action>) {
        if let Some(receiver) = self.receivers.get(&key) {
            let wishes = receiver.discard();
            self.grant(now, key, wishes, out);
        }
        self.withdrawn.retain(|(withdrawn, _)| *withdrawn != key);
    }

    /// The store has taken a chunk, or could not.
    pub(crate) fn written(
        &mut self,
        now: Duration,
        key: Key,
        number: u64,
        problem: Option<AbortReason>,
        out: &mut Vec<Action>,
    ) {
        let Some(receiver) = self.receivers.get_mut(&key) else { return };
        let wishes = receiver.written(now, number, problem);
        self.grant(now, key, wishes, out);
    }

    /// The store has compared.
    pub(crate) fn verified(
        &mut self,
        now: Duration,
        key: Key,
        problem: Option<AbortReason>,
        out: &mut Vec<Action>,
    ) {
        let Some(receiver) = self.receivers.get_mut(&key) else { return };
        let wishes = receiver.verified(now, problem);
        self.grant(now, key, wishes, out);
    }

    /// The store has swapped, or could not.
    pub(crate) fn swapped(&mut self, now: Duration, key: Key, is_ok: bool, out: &mut Vec<Action>) {
        let receiver = self.receivers.get_mut(&key).expect("nothing ends while it is installed");
        let wishes = receiver.swapped(is_ok);
        self.grant(now, key, wishes, out);
    }

    /// Messages to `node` travel again.
    pub(crate) fn connected(&mut self, now: Duration, node: NodeId, out: &mut Vec<Action>) {
        let known = self.receivers.iter().filter(|((from, _), _)| *from == node);
        let wishes: Vec<(Key, Vec<Wish>)> =
            known.map(|(key, receiver)| (*key, receiver.where_it_stands())).collect();
        for (key, wishes) in wishes {
            self.grant(now, key, wishes, out);
        }
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: Duration, out: &mut Vec<Action>) {
        let retry_after = self.retry_after;
        let ticked = self.receivers.iter_mut();
        let wishes: Vec<(Key, Vec<Wish>)> =
            ticked.map(|(key, receiver)| (*key, receiver.tick(now, retry_after))).collect();
        for (key, wishes) in wishes {
            self.grant(now, key, wishes, out);
        }
    }

    /// Ends everything that is not being swapped just now: the node stops.
    pub(crate) fn shutdown(&mut self, now: Duration, out: &mut Vec<Action>) {
        let keys: Vec<Key> = self.receivers.keys().copied().collect();
        for key in keys {
            let wishes = match &self.receivers[&key] {
                receiver if receiver.is_complete() && !receiver.is_ready() => Vec::new(),
                receiver => receiver.abort(AbortReason::Shutdown),
            };
            self.grant(now, key, wishes, out);
        }
    }

    fn grant(&mut self, now: Duration, key: Key, wishes: Vec<Wish>, out: &mut Vec<Action>) {
        for wish in wishes {
            let offer = self.receivers.get(&key).map(Receiver::offer);
            match (wish, offer) {
                (Wish::Say(message), _) => out.push(Action::Say(key.0, message)),
                (Wish::Begin, Some(offer)) => {
                    let (group, range) = (offer.group, offer.range.clone());
                    out.push(Action::Begin { key, group, range });
                }
                (Wish::Write { number, rows }, Some(_)) => {
                    self.metrics.bytes.with_label_values(&[IN]).inc_by(rows.len() as u64);
                    out.push(Action::Write { key, number, rows });
                }
                (Wish::Verify(summary), Some(offer)) => {
                    out.push(Action::Verify { key, position: offer.position, summary });
                }
                (Wish::TellReady, Some(offer)) => {
                    let Offer { group, transfer, position, .. } = *offer;
                    let from = key.0;
                    let event = SnapshotEvent::Received { group, transfer, from, position };
                    out.push(Action::Tell(event));
                }
                (Wish::Swap, Some(_)) => out.push(Action::Swap { key }),
                (Wish::End(outcome), Some(_)) => self.end(now, key, outcome, out),
                (_, None) => unreachable!("a transfer that is over wishes nothing"),
            }
        }
    }

    fn end(&mut self, now: Duration, key: Key, outcome: Outcome, out: &mut Vec<Action>) {
        let receiver = self.receivers.remove(&key).expect("ends once");
        self.show();
        let Offer { group, position, .. } = *receiver.offer();
        match outcome {
            Outcome::Installed { meta } => {
                let took = now.saturating_sub(receiver.began_at());
                self.metrics.received.inc();
                self.metrics.duration.with_label_values(&[IN]).observe(took.as_secs_f64());
                remember(&mut self.installed, key);
                out.push(Action::TellInstalled { key, group, position, meta });
                return;
            }
            Outcome::InstallFailed => {
                self.count_failure(INSTALL_FAILED);
                out.push(Action::Tell(SnapshotEvent::InstallFailed { group, position }));
            }
            Outcome::Declined(reason) => self.count_failure(reason.name()),
            Outcome::Aborted(reason) => {
                self.count_failure(reason.name());
                if receiver.is_ready() {
                    remember(&mut self.withdrawn, (key, position));
                }
            }
        }
        out.push(Action::Drop { key });
    }

    fn count_failure(&self, reason: &str) {
        self.metrics.failures.with_label_values(&[IN, reason]).inc();
    }

    fn show(&self) {
        self.metrics.in_progress.with_label_values(&[IN]).set(self.receivers.len() as i64);
    }
}

fn remember<T>(list: &mut VecDeque<T>, item: T) {
    if list.len() == REMEMBERED_MAX {
        list.pop_front();
    }
    list.push_back(item);
}
