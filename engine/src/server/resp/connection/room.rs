//! How far ahead a connection is read: what it may hold, and what all of them together may.
//!
//! What is absent: reading and answering.

use super::{Backend, Connection, TURN_REQUESTS, WRITE_BYTES};
use tokio::io::{AsyncRead, AsyncWrite};

/// Answers of this size are counted when they are asked for, over all connections.
const LARGE_REPLY_BYTES: usize = 64 * 1024;

impl<B: Backend, S: AsyncRead + AsyncWrite + Unpin> Connection<B, S> {
    /// True if another request may be taken. What is under way counts with the replies that are
    /// expected of it.
    pub(super) fn has_room(&self) -> bool {
        let options = &self.context.options;
        let waiting = self.pipeline.len();
        let unsent = self.unsent();
        if waiting == 0 && unsent == 0 {
            return true;
        }
        // Who is refused is not read ahead: what is refused waits for the replies before it.
        let requests_max = match self.throttle.is_refused() {
            true => options.pipeline_requests_max.min(TURN_REQUESTS),
            false => options.pipeline_requests_max,
        };
        let bytes = self.pipeline.request_bytes() + waiting * self.reply_bytes + unsent;
        waiting < requests_max
            && self.pipeline.reads() < options.pipeline_reads_max
            && (self.reply_bytes < LARGE_REPLY_BYTES
                || self.upkeep.has_room_for_answer(self.reply_bytes))
            && bytes < self.pipeline_bytes_max()
            && unsent < self.unread_bytes_max()
    }

    /// Counts the large answers that are under way.
    pub(super) fn expect(&mut self) {
        let are_large = self.reply_bytes >= LARGE_REPLY_BYTES;
        let reads = if are_large { self.pipeline.reads() } else { 0 };
        self.upkeep.expect(reads * self.reply_bytes);
    }

    /// How many bytes of replies may wait for the client: little, when all connections hold a lot
    /// together.
    pub(super) fn unread_bytes_max(&self) -> usize {
        let options = &self.context.options;
        if self.upkeep.is_scarce() {
            options.unread_bytes_max.min(WRITE_BYTES)
        } else {
            options.unread_bytes_max
        }
    }

    /// How many bytes of requests and expected replies may be under way: little, too, when answers
    /// that nobody takes would close the door to those who take theirs.
    pub(super) fn pipeline_bytes_max(&self) -> usize {
        let options = &self.context.options;
        match self.upkeep.is_scarce() || self.upkeep.are_answers_scarce() {
            true => options.pipeline_bytes_max.min(WRITE_BYTES),
            false => options.pipeline_bytes_max,
        }
    }
}
