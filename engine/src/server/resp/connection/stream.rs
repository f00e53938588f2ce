//! The bytes of a connection: reading requests, writing replies.
//!
//! What is absent: what the bytes mean.

use super::{Backend, Connection, KEPT_BYTES_MAX, READ_BYTES_MAX, READ_BYTES_MIN};
use bytes::BytesMut;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Who has sent so much of a request is believed how long it is.
const BELIEVED_BYTES: usize = 1 << 20;

impl<B: Backend, S: AsyncRead + AsyncWrite + Unpin> Connection<B, S> {
    /// Ends the sending side and reads what the client still sends: closing a socket with unread
    /// bytes would make the system drop the last reply too.
    pub(super) async fn discard(&mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        loop {
            self.input.clear();
            self.input.reserve(READ_BYTES_MIN);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// Bytes of replies that the client has not taken.
    pub(super) fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes replies; true if some were taken.
    pub(super) fn poll_write(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::io::Result<bool> {
        let mut wrote = false;
        while self.unsent() > 0 {
            let stream = Pin::new(&mut self.stream);
            let Poll::Ready(result) = stream.poll_write(context, &self.output[self.written..])
            else {
                return Ok(wrote);
            };
            let bytes = result?;
            if bytes == 0 {
                return Err(std::io::ErrorKind::WriteZero.into());
            }
            self.context.metrics.sent_bytes.inc_by(bytes as u64);
            self.upkeep.note_moved();
            self.written += bytes;
            wrote = true;
        }
        if wrote {
            self.written = 0;
            self.output.clear();
            if self.output.capacity() > KEPT_BYTES_MAX {
                self.output = BytesMut::new();
            }
        }
        Ok(wrote)
    }

    /// Reads if there is room for more requests; true if something came, be it the end.
    pub(super) fn poll_read(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::io::Result<bool> {
        let waits = self.stalled.is_some() || self.watching;
        let may_read = self.turn.requests > 0 && self.turn.bytes > 0;
        if !may_read || self.ended || self.closing || waits || !self.has_room() {
            return Ok(false);
        }
        let missing = self.decoder.missing_bytes(&self.input);
        let wanted = wanted_bytes(missing, self.input.len(), self.read_bytes);
        if self.input.capacity() - self.input.len() < wanted.min(READ_BYTES_MIN) {
            if self.throttle.is_refused() {
                // What is let in holds on to the room that it was read into, and to all that was
                // refused beside it. A reservation would be as large as the largest before.
                let mut input = BytesMut::with_capacity(self.input.len() + wanted);
                input.extend_from_slice(&self.input);
                self.input = input;
            } else {
                self.input.reserve(wanted);
            }
        }
        let room = self.input.capacity() - self.input.len();
        let Poll::Ready(result) = pin!(self.stream.read_buf(&mut self.input)).poll(context) else {
            return Ok(false);
        };
        let bytes = result?;
        if bytes == 0 {
            self.ended = true;
            return Ok(true);
        }
        self.context.metrics.received_bytes.inc_by(bytes as u64);
        self.turn.bytes = self.turn.bytes.saturating_sub(bytes);
        self.upkeep.note_moved();
        self.session.client.note_active(Instant::now());
        if self.throttle.is_refused() {
            self.read_bytes = READ_BYTES_MIN;
        } else if bytes == room {
            self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
        }
        Ok(true)
    }
}

/// How much room the next read gets. It grows with what has arrived, whatever was announced: but who
/// has sent a megabyte is believed, because moving what came would cost more than the room.
fn wanted_bytes(missing: usize, arrived: usize, read_bytes: usize) -> usize {
    if arrived >= BELIEVED_BYTES {
        return missing.max(read_bytes);
    }
    missing.clamp(read_bytes, arrived.max(READ_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a request of `bytes` and says how much room was taken for it, all in all.
    fn room_taken(bytes: usize) -> usize {
        let (mut arrived, mut taken) = (0, 0);
        while arrived < bytes {
            let wanted = wanted_bytes(bytes - arrived, arrived, READ_BYTES_MAX);
            assert!(wanted <= arrived.max(READ_BYTES_MAX) || arrived >= BELIEVED_BYTES);
            // All moves to where there is room.
            arrived += wanted;
            taken += arrived;
        }
        taken
    }

    #[test]
    fn a_large_request_is_moved_little() {
        for mib in [1, 2, 8, 32] {
            let bytes = mib << 20;
            let moved = room_taken(bytes) - bytes;
            assert!(moved <= 2 * BELIEVED_BYTES, "{mib} MiB: {moved} bytes were moved");
        }
    }

    #[test]
    fn an_announcement_alone_takes_little() {
        assert_eq!(wanted_bytes(32 << 20, 0, READ_BYTES_MIN), READ_BYTES_MAX);
        assert_eq!(wanted_bytes(32 << 20, 200_000, READ_BYTES_MAX), 200_000);
        assert_eq!(wanted_bytes(10, 200_000, READ_BYTES_MIN), READ_BYTES_MIN);
    }
}
