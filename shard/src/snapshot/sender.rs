//! The sending end of one transfer: asks, sends chunks within a window, and repeats what was lost.
//!
//! Chunks are kept until the receiver has written them, so that a lost connection costs a window
//! and not the transfer. The receiver says where to go on.
//!
//! Invariants:
//!
//! * Chunks leave in order, and again in order from where the receiver asks.
//! * Unwritten chunks hold at most the window, or one chunk that is larger.
//! * A transfer whose receiver was silent, or stood still, for too long is over.
//!
//! What is absent: reading the rows, the rate, and the clock.

use super::message::{AbortReason, DeclineReason, Offer, SnapshotMessage, Summary, TransferId};
use crate::descriptor::NodeId;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// A receiver that was silent for this long is asked where it stands.
pub(crate) const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// The bounds of one transfer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) chunk_bytes: usize,
    pub(crate) window_chunks: usize,
    /// The other end may be silent for this long.
    pub(crate) silence_max: Duration,
    /// And this long without getting any further.
    pub(crate) standstill_max: Duration,
}

/// How a transfer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Installed,
    Declined { reason: DeclineReason, retry_after: Duration },
    Aborted(AbortReason),
}

#[derive(Debug)]
struct Kept {
    number: u64,
    rows: Bytes,
    crc: u32,
}

#[derive(Debug)]
pub(crate) struct Sender {
    offer: Offer,
    to: NodeId,
    bounds: Bounds,
    accepted: bool,
    /// Sent and not known to be written, in order.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    /// The number of the next chunk to be read.
    next: u64,
    is_reading: bool,
    summary: Option<Summary>,
    began_at: Duration,
    asked_at: Duration,
    heard_at: Duration,
    moved_at: Duration,
}

/// What a sender wants done about one message.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) messages: Vec<SnapshotMessage>,
    pub(crate) ending: Option<Ending>,
}

impl Step {
    fn say(message: SnapshotMessage) -> Step {
        Step { messages: vec![message], ending: None }
    }

    fn end(ending: Ending) -> Step {
        Step { messages: Vec::new(), ending: Some(ending) }
    }
}

impl Sender {
    /// A transfer to `to`, and its first question.
    pub(crate) fn new(
        offer: Offer,
        to: NodeId,
        bounds: Bounds,
        now: Duration,
    ) -> (Sender, SnapshotMessage) {
        let sender = Sender {
            offer,
            to,
            bounds,
            accepted: false,
            kept: VecDeque::new(),
            kept_bytes: 0,
            next: 0,
            is_reading: false,
            summary: None,
            began_at: now,
            asked_at: now,
            heard_at: now,
            moved_at: now,
        };
        let question = sender.question();
        (sender, question)
    }

    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(crate) fn to(&self) -> NodeId {
        self.to
    }

    pub(crate) fn began_at(&self) -> Duration {
        self.began_at
    }

    fn transfer(&self) -> TransferId {
        self.offer.transfer
    }

    fn question(&self) -> SnapshotMessage {
        SnapshotMessage::Offer(Offer { resumed: self.accepted, ..self.offer.clone() })
    }

    fn abort(&self, reason: AbortReason) -> Step {
        let message = SnapshotMessage::Abort { transfer: self.transfer(), by_sender: true, reason };
        Step { messages: vec![message], ending: Some(Ending::Aborted(reason)) }
    }

    /// True if another chunk should be read now: there is room in the window, and rows are left.
    pub(crate) fn wants_rows(&self) -> bool {
        let window_bytes = self.bounds.chunk_bytes * self.bounds.window_chunks;
        let fits = self.kept.is_empty()
            || (self.kept.len() < self.bounds.window_chunks
                && self.kept_bytes + self.bounds.chunk_bytes <= window_bytes);
        self.accepted && self.summary.is_none() && !self.is_reading && fits
    }

    /// Rows are being read; [`Sender::rows`] or [`Sender::end_of_rows`] tells the result.
    pub(crate) fn reading(&mut self) {
        debug_assert!(self.wants_rows(), "rows are read when there is room for them");
        self.is_reading = true;
    }

    /// The next chunk.
    pub(crate) fn rows(&mut self, rows: Bytes) -> SnapshotMessage {
        assert!(self.is_reading, "rows came that nobody asked for");
        self.is_reading = false;
        let kept = Kept { number: self.next, crc: crc32c::crc32c(&rows), rows };
        self.next += 1;
        self.kept_bytes += kept.rows.len();
        let message = self.chunk(&kept);
        self.kept.push_back(kept);
        message
    }

    /// There are no more rows.
    pub(crate) fn end_of_rows(
        &mut self,
        rows: u64,
        digest: u64,
        version: u64,
        meta: Bytes,
    ) -> SnapshotMessage {
        assert!(self.is_reading, "an end came that nobody asked for");
        self.is_reading = false;
        let summary = Summary { chunks: self.next, rows, digest, version, meta };
        self.summary = Some(summary.clone());
        SnapshotMessage::End { transfer: self.transfer(), summary }
    }

    fn chunk(&self, kept: &Kept) -> SnapshotMessage {
        SnapshotMessage::Chunk {
            transfer: self.transfer(),
            number: kept.number,
            rows: kept.rows.clone(),
            crc: kept.crc,
        }
    }

    /// The receiver says something about this transfer.
    pub(crate) fn receive(&mut self, now: Duration, message: SnapshotMessage) -> Step {
        self.heard_at = now;
        match message {
            SnapshotMessage::Accept { from_chunk, .. } => self.go_on(now, from_chunk),
            SnapshotMessage::ChunkDone { number, .. } => self.written(now, number),
            SnapshotMessage::Decline { reason, retry_after, .. } => {
                Step::end(Ending::Declined { reason, retry_after })
            }
            SnapshotMessage::Installed { .. } if self.summary.is_some() => {
                Step::end(Ending::Installed)
            }
            SnapshotMessage::Abort { reason, .. } => Step::end(Ending::Aborted(reason)),
            SnapshotMessage::Installed { .. }
            | SnapshotMessage::Offer(_)
            | SnapshotMessage::Chunk { .. }
            | SnapshotMessage::End { .. } => self.abort(AbortReason::Protocol),
        }
    }

    fn go_on(&mut self, now: Duration, from_chunk: u64) -> Step {
        if from_chunk > self.next {
            return self.abort(AbortReason::Protocol);
        }
        if !self.accepted {
            self.accepted = true;
            self.moved_at = now;
        }
        let written = self.kept.front().map_or(self.next, |kept| kept.number);
        if from_chunk < written {
            // Said before it wrote what it has written since.
            return Step::default();
        }
        let missing = self.kept.iter().filter(|kept| kept.number >= from_chunk);
        let mut messages: Vec<SnapshotMessage> = missing.map(|kept| self.chunk(kept)).collect();
        if let Some(summary) = &self.summary {
            let (transfer, summary) = (self.transfer(), summary.clone());
            messages.push(SnapshotMessage::End { transfer, summary });
        }
        Step { messages, ending: None }
    }

    fn written(&mut self, now: Duration, number: u64) -> Step {
        if number >= self.next {
            return self.abort(AbortReason::Protocol);
        }
        while self.kept.front().is_some_and(|kept| kept.number <= number) {
            let kept = self.kept.pop_front().expect("seen just now");
            self.kept_bytes -= kept.rows.len();
            self.moved_at = now;
        }
        Step::default()
    }

    /// The connection stands again: asks where to go on.
    pub(crate) fn connected(&mut self, now: Duration) -> SnapshotMessage {
        self.asked_at = now;
        self.question()
    }

    /// Looks at the clock.
    pub(crate) fn tick(&mut self, now: Duration) -> Step {
        let silent = now.saturating_sub(self.heard_at);
        let still = now.saturating_sub(self.moved_at);
        if silent >= self.bounds.silence_max || still >= self.bounds.standstill_max {
            return self.abort(AbortReason::TimedOut);
        }
        if now.saturating_sub(self.asked_at.max(self.heard_at)) >= REPEAT_AFTER {
            return Step::say(self.connected(now));
        }
        Step::default()
    }

    /// It shall end now; what to tell the receiver.
    pub(crate) fn end(&self, reason: AbortReason) -> SnapshotMessage {
        SnapshotMessage::Abort { transfer: self.transfer(), by_sender: true, reason }
    }
}
