//! The receiving end of one transfer: asks its replica, writes chunks in order, and verifies all
//! before it says that anything came.
//!
//! Invariants:
//!
//! * A chunk is written once, in order, and only if its checksum holds. What comes twice or out of
//!   place changes nothing.
//! * Nothing is told to the replica before the store has compared rows and digest with what the
//!   sender summed up.
//! * Once the rows are verified nothing that a peer says ends the transfer any more.
//!
//! What is absent: the disk and the clock.

use super::message::{AbortReason, DeclineReason, Offer, SnapshotMessage, Summary, TransferId};
use super::sender::Bounds;
use crate::descriptor::NodeId;
use bytes::Bytes;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The replica was asked.
    Asked,
    /// Chunks come.
    Receiving,
    /// All chunks are here; not all are written.
    Writing(Summary),
    /// The store compares.
    Verifying(Summary),
    /// The replica was told and has to decide.
    Ready(Summary),
    /// The store swaps.
    Installing(Summary),
}

/// What a receiver wants done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Make an import.
    Begin,
    /// Hand this chunk to it.
    Write { number: u64, rows: Bytes },
    /// Have it compared.
    Verify(Summary),
    /// Tell the replica that it is ready.
    TellReady,
    /// Put it in the place of the old rows.
    Swap,
    /// Say this to the sender.
    Say(SnapshotMessage),
    /// It is over: forget it, and drop the import if there is one.
    End(Outcome),
}

/// How a transfer ended here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Installed {
        meta: Bytes,
    },
    /// It was to be installed, and was not.
    InstallFailed,
    Declined(DeclineReason),
    Aborted(AbortReason),
}

#[derive(Debug)]
pub(crate) struct Receiver {
    offer: Offer,
    from: NodeId,
    bounds: Bounds,
    phase: Phase,
    /// The number of the next chunk.
    next: u64,
    /// How many are written.
    written: u64,
    began_at: Duration,
    heard_at: Duration,
    moved_at: Duration,
}

impl Receiver {
    /// An offer that this node may take, if its replica wants it.
    pub(crate) fn new(offer: Offer, from: NodeId, bounds: Bounds, now: Duration) -> Receiver {
        Receiver {
            offer,
            from,
            bounds,
            phase: Phase::Asked,
            next: 0,
            written: 0,
            began_at: now,
            heard_at: now,
            moved_at: now,
        }
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(crate) fn from(&self) -> NodeId {
        self.from
    }

    pub(crate) fn began_at(&self) -> Duration {
        self.began_at
    }

    fn transfer(&self) -> TransferId {
        self.offer.transfer
    }

    /// True once the rows are known to be good: a newer offer waits, and the sender's fate does
    /// not matter any more.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Ready(_) | Phase::Installing(_))
    }

    /// True while the replica may still ask for the swap.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Ready(_))
    }

    /// True if the store is at work on the whole of it.
    pub(crate) fn is_settling(&self) -> bool {
        matches!(self.phase, Phase::Verifying(_) | Phase::Installing(_))
    }

    /// Ends it, and tells the sender why.
    pub(crate) fn abort(&self, reason: AbortReason) -> Vec<Wish> {
        let message =
            SnapshotMessage::Abort { transfer: self.transfer(), by_sender: false, reason };
        vec![Wish::Say(message), Wish::End(Outcome::Aborted(reason))]
    }

    fn decline(&self, reason: DeclineReason, retry_after: Duration) -> Vec<Wish> {
        let transfer = self.transfer();
        let message = SnapshotMessage::Decline { transfer, reason, retry_after };
        vec![Wish::Say(message), Wish::End(Outcome::Declined(reason))]
    }

    /// The replica has decided about the offer.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        wanted: bool,
        retry_after: Duration,
    ) -> Vec<Wish> {
        if self.phase != Phase::Asked {
            return Vec::new();
        }
        if !wanted {
            return self.decline(DeclineReason::NotWanted, retry_after);
        }
        self.phase = Phase::Receiving;
        self.moved_at = now;
        vec![Wish::Begin, self.say_where()]
    }

    fn say_where(&self) -> Wish {
        let (transfer, from_chunk) = (self.transfer(), self.next);
        Wish::Say(SnapshotMessage::Accept { transfer, from_chunk })
    }

    fn say_written(&self) -> Option<Wish> {
        let (transfer, number) = (self.transfer(), self.written.checked_sub(1)?);
        Some(Wish::Say(SnapshotMessage::ChunkDone { transfer, number }))
    }

    /// The sender says something about this transfer.
    pub(crate) fn receive(&mut self, now: Duration, message: SnapshotMessage) -> Vec<Wish> {
        self.heard_at = now;
        match message {
            SnapshotMessage::Offer(offer) if !self.is_same(&offer) => {
                self.fail(AbortReason::Protocol)
            }
            SnapshotMessage::Offer(_) => self.where_it_stands(),
            SnapshotMessage::Chunk { number, rows, crc, .. } => self.chunk(now, number, rows, crc),
            SnapshotMessage::End { summary, .. } => self.summed_up(now, summary),
            SnapshotMessage::Abort { reason, .. } => match self.phase {
                Phase::Ready(_) | Phase::Installing(_) => Vec::new(),
                _ => vec![Wish::End(Outcome::Aborted(reason))],
            },
            SnapshotMessage::Accept { .. }
            | SnapshotMessage::Decline { .. }
            | SnapshotMessage::ChunkDone { .. }
            | SnapshotMessage::Installed { .. } => Vec::new(),
        }
    }

    /// Tells the sender, who may have missed it, how far this end has come.
    pub(crate) fn where_it_stands(&self) -> Vec<Wish> {
        match self.phase {
            Phase::Asked => Vec::new(),
            // First what frees its window, then what it has to repeat.
            _ => self.say_written().into_iter().chain([self.say_where()]).collect(),
        }
    }

    /// The same offer, asked again.
    fn is_same(&self, offer: &Offer) -> bool {
        let resumed = self.offer.resumed;
        Offer { resumed, ..offer.clone() } == self.offer
    }

    /// What the sender does is wrong; rows that are verified are good all the same.
    fn fail(&mut self, reason: AbortReason) -> Vec<Wish> {
        if self.is_complete() { Vec::new() } else { self.abort(reason) }
    }

    fn chunk(&mut self, now: Duration, number: u64, rows: Bytes, crc: u32) -> Vec<Wish> {
        if self.phase != Phase::Receiving || number != self.next {
            // Repeated, or behind one that was lost: the sender asks where to go on.
            return Vec::new();
        }
        if self.next - self.written >= self.bounds.window_chunks as u64 {
            return self.fail(AbortReason::Protocol);
        }
        if crc32c::crc32c(&rows) != crc {
            return self.fail(AbortReason::Corrupt);
        }
        self.next += 1;
        self.moved_at = now;
        vec![Wish::Write { number, rows }]
    }

    fn summed_up(&mut self, now: Duration, summary: Summary) -> Vec<Wish> {
        if self.phase != Phase::Receiving || summary.chunks > self.next {
            return Vec::new();
        }
        if summary.chunks < self.next {
            return self.fail(AbortReason::Protocol);
        }
        self.phase = Phase::Writing(summary);
        self.moved_at = now;
        self.verify_if_written()
    }

    fn verify_if_written(&mut self) -> Vec<Wish> {
        let Phase::Writing(summary) = &self.phase else { return Vec::new() };
        if self.written < summary.chunks {
            return Vec::new();
        }
        let summary = summary.clone();
        self.phase = Phase::Verifying(summary.clone());
        vec![Wish::Verify(summary)]
    }

    /// The store has taken a chunk, or could not.
    pub(crate) fn written(
        &mut self,
        now: Duration,
        number: u64,
        problem: Option<AbortReason>,
    ) -> Vec<Wish> {
        if let Some(reason) = problem {
            return self.fail(reason);
        }
        assert_eq!(number, self.written, "chunks are written in order");
        self.written += 1;
        self.moved_at = now;
        let mut wishes: Vec<Wish> = self.say_written().into_iter().collect();
        wishes.extend(self.verify_if_written());
        wishes
    }

    /// The store has compared rows and digest; `problem`: they are not what was sent, or the disk
    /// refused.
    pub(crate) fn verified(&mut self, now: Duration, problem: Option<AbortReason>) -> Vec<Wish> {
        let Phase::Verifying(summary) = &self.phase else { return Vec::new() };
        if let Some(reason) = problem {
            return self.abort(reason);
        }
        self.phase = Phase::Ready(summary.clone());
        self.moved_at = now;
        vec![Wish::TellReady]
    }

    /// The replica wants it installed.
    pub(crate) fn install(&mut self) -> Vec<Wish> {
        let Phase::Ready(summary) = &self.phase else { return Vec::new() };
        self.phase = Phase::Installing(summary.clone());
        vec![Wish::Swap]
    }

    /// The replica does not want it any more.
    pub(crate) fn discard(&self) -> Vec<Wish> {
        match self.phase {
            Phase::Installing(_) => Vec::new(),
            _ => self.abort(AbortReason::Cancelled),
        }
    }

    /// The store has swapped, or could not.
    pub(crate) fn swapped(&mut self, is_ok: bool) -> Vec<Wish> {
        let Phase::Installing(summary) = &self.phase else {
            unreachable!("a swap was reported that nobody ordered")
        };
        if is_ok {
            let message = SnapshotMessage::Installed { transfer: self.transfer() };
            let meta = summary.meta.clone();
            return vec![Wish::End(Outcome::Installed { meta }), Wish::Say(message)];
        }
        let reason = AbortReason::Unwritable;
        let message =
            SnapshotMessage::Abort { transfer: self.transfer(), by_sender: false, reason };
        vec![Wish::End(Outcome::InstallFailed), Wish::Say(message)]
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: Duration, retry_after: Duration) -> Vec<Wish> {
        let silent = now.saturating_sub(self.heard_at) >= self.bounds.silence_max;
        let still = now.saturating_sub(self.moved_at) >= self.bounds.standstill_max;
        match self.phase {
            Phase::Asked => {
                let waited = now.saturating_sub(self.began_at);
                if waited < self.bounds.silence_max {
                    return Vec::new();
                }
                self.decline(DeclineReason::Busy, retry_after)
            }
            Phase::Receiving | Phase::Writing(_) if silent || still => {
                self.abort(AbortReason::TimedOut)
            }
            Phase::Ready(_) if still => self.abort(AbortReason::TimedOut),
            // The store always answers.
            _ => Vec::new(),
        }
    }
}
