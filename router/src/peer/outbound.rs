//! The writing end: one task per peer and class that dials, greets, and empties the outbox.
//!
//! While a connection stands, the task writes whatever has gathered, up to [`WRITE_BYTES`] of
//! frames at a time, and sends a sign of life when it had nothing to write for a while. The
//! acceptor answers with signs of life of its own; their absence means that the peer is gone or
//! hung, long before the kernel would say so. On the liveness connection they also compare clocks.
//!
//! A data message that is longer than a frame should be goes in pieces, one after each buffer of
//! others, and the kernel is told to keep little that it has not sent: a small message waits for a
//! few pieces of a large one, not for all of it.
//!
//! Invariants:
//!
//! * After a break nothing of the old connection is written to the next one.
//! * One message at a time is in pieces, and what follows in its group comes after its last piece.
//! * A request is named unsent only if its frame's last byte never reached the socket: no receiver
//!   can have decoded it.

use super::clock::{Samples, monotonic_us, wall_us};
use super::frame::{
    Assembly, Cut, Decoded, FrameError, Parsed, SignOfLife, decode_frame, encode_fragment,
    encode_frame, encode_sign_of_life, parse,
};
use super::handshake::{HandshakeError, Hello, Identity, introduce};
use super::message::{Class, PeerMessage};
use super::metrics::Counted;
use super::tcp::{Peer, Shared};
use bytes::{Bytes, BytesMut};
use flotilla_shard::{Answer, GroupId, Refusal};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, timeout};

/// How much is encoded before it is written.
const WRITE_BYTES: usize = 256 << 10;
/// How much of a buffer pieces of a large message may take while others wait.
const PIECES_BYTES: usize = 128 << 10;
/// How much the kernel may hold that it has not sent.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;
/// An acceptor sends nothing but signs of life.
const SIGN_BYTES_MAX: usize = 256;
/// A buffer that grew beyond this for a large value is given back.
const BUFFER_KEEP_BYTES: usize = 1 << 20;
/// A batch vector that grew beyond this is given back.
const BATCH_KEEP_MESSAGES: usize = 8192;
/// A connection that lived this long resets the backoff.
const STABLE_AFTER: Duration = Duration::from_secs(2);

/// Dials `peer` for `class` again and again, until it is cancelled.
pub(crate) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, class: Class) {
    let timing = shared.timing();
    let mut backoff = timing.reconnect_min;
    let mut had_connection = false;
    loop {
        match dial(&shared, &peer, class).await {
            Ok((stream, answered)) => {
                peer.greeted(class, answered);
                if had_connection {
                    shared.metrics.reconnects.inc();
                }
                had_connection = true;
                let since = Instant::now();
                let error = serve(&shared, &peer, class, stream).await;
                peer.broke(class, &error.to_string());
                if since.elapsed() >= STABLE_AFTER {
                    backoff = timing.reconnect_min;
                }
            }
            Err(error) => peer.failed(class, &error),
        }
        // A peer that greets us is back: no need to wait any longer.
        let jittered = backoff.mul_f64(rand::random_range(0.75..1.25));
        tokio::select! {
            () = sleep(jittered) => {}
            () = peer.came_back[class as usize].notified() => {}
        }
        backoff = (backoff * 2).min(timing.reconnect_max);
    }
}

async fn dial(
    shared: &Shared,
    peer: &Peer,
    class: Class,
) -> Result<(TcpStream, Identity), HandshakeError> {
    let hello = Hello {
        class,
        cluster_id: shared.options.cluster_id,
        from: shared.me,
        to: peer.node,
        to_incarnation: peer.incarnation,
    };
    let dialed = timeout(shared.timing().handshake_timeout, async {
        let mut stream = TcpStream::connect(peer.address.as_str()).await?;
        stream.set_nodelay(true)?;
        keep_little_unsent(&stream)?;
        let answered = introduce(&mut stream, &hello).await?;
        Ok((stream, answered))
    });
    dialed.await.unwrap_or(Err(HandshakeError::TimedOut))
}

/// What the kernel holds cannot be overtaken any more.
fn keep_little_unsent(stream: &TcpStream) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}

/// Uses an established connection until it breaks, and says why it did.
async fn serve(shared: &Shared, peer: &Peer, class: Class, mut stream: TcpStream) -> io::Error {
    let mut writer = Writer::new(shared, peer, class);
    let counted = Counted::new(&shared.metrics.connections_outbound);
    peer.outbox.connect(class);
    match class {
        Class::Liveness => {}
        Class::Data => shared.inbound.connected(peer.node),
        Class::Bulk => shared.inbound.bulk_connected(peer.node),
    }
    let (read, write) = stream.split();
    let error = tokio::select! {
        error = writer.run(write) => error,
        error = watch(shared, peer, read, shared.timing().silence_max) => error,
    };
    drop(stream);
    drop(counted);
    let unsent = writer.lost();
    if class == Class::Liveness {
        peer.show_clock_offset(None, &shared.metrics);
    }
    if class == Class::Data {
        // First what is certain, then that the rest is not.
        if !unsent.is_empty() {
            shared.inbound.unsent(peer.node, shared.unsalted(unsent));
        }
        shared.inbound.disconnected(peer.node);
    }
    error
}

/// Reads the acceptor's signs of life until they end.
async fn watch(
    shared: &Shared,
    peer: &Peer,
    mut read: ReadHalf<'_>,
    silence_max: Duration,
) -> io::Error {
    let mut samples = Samples::default();
    let mut buffer = BytesMut::new();
    loop {
        match timeout(silence_max, read.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return io::Error::new(io::ErrorKind::ConnectionReset, "the peer closed"),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error,
            Err(_) => {
                let text = format!("no sign of life for {silence_max:?}");
                return io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
        loop {
            match next_sign(&mut buffer) {
                Ok(None) => break,
                Ok(Some(SignOfLife { token: 0, .. })) => {}
                Ok(Some(sign)) => {
                    let us = samples.add(sign.token, monotonic_us(), sign.wall_us, wall_us());
                    peer.show_clock_offset(us, &shared.metrics);
                }
                Err(error) => return io::Error::new(io::ErrorKind::InvalidData, error),
            }
        }
    }
}

/// Takes one sign of life from the front of `buffer`.
fn next_sign(buffer: &mut BytesMut) -> Result<Option<SignOfLife>, FrameError> {
    let Parsed::Frame(frame) = parse(buffer, SIGN_BYTES_MAX)? else { return Ok(None) };
    match decode_frame(frame, &mut Assembly::new(0), &mut Vec::new())? {
        Decoded::Sign(sign) => Ok(Some(sign)),
        Decoded::Messages(count) => Err(FrameError::Count(count)),
    }
}

/// A message that travels in pieces.
struct Large {
    bytes: Bytes,
    request: Option<u64>,
    group: Option<GroupId>,
    cost_bytes: usize,
    /// A reply whose values stay counted until all of it has left.
    _reply: Option<PeerMessage>,
}

/// What one connection has taken from the outbox and not yet written.
struct Writer<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    class: Class,
    cut: Cut,
    batch: VecDeque<PeerMessage>,
    /// Leaves in pieces once the batch has left.
    next_large: Option<PeerMessage>,
    /// Leaves in pieces now.
    large: Option<Large>,
    buffer: BytesMut,
    /// How much of `buffer` the socket has taken.
    written: usize,
    /// Requests in `buffer`: the end of the frame, and the id.
    requests: Vec<(usize, u64)>,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, peer: &'a Peer, class: Class) -> Writer<'a> {
        let target_bytes = match class {
            Class::Liveness => shared.options.liveness_frame_bytes,
            Class::Data => shared.options.data_frame_bytes,
            Class::Bulk => shared.options.bulk_frame_bytes,
        };
        let frame_bytes_max = shared.options.frame_bytes_max;
        Writer {
            shared,
            peer,
            class,
            cut: Cut { target_bytes: target_bytes.min(frame_bytes_max), frame_bytes_max },
            batch: VecDeque::new(),
            next_large: None,
            large: None,
            buffer: BytesMut::new(),
            written: 0,
            requests: Vec::new(),
        }
    }

    async fn run(&mut self, mut socket: WriteHalf<'_>) -> io::Error {
        let keep_alive = self.shared.timing().keep_alive;
        let mut signed_at: Option<Instant> = None;
        loop {
            let compares_clocks = self.class == Class::Liveness;
            let is_due = signed_at.is_none_or(|at| at.elapsed() >= keep_alive);
            if compares_clocks && is_due {
                signed_at = Some(Instant::now());
                self.sign();
            } else if !self.take() {
                let waited = timeout(keep_alive, self.peer.outbox.wait(self.class)).await;
                if waited.is_ok() {
                    // What the others of this thread have for the peer goes along. Where nobody is
                    // busy this costs one look at the sockets.
                    tokio::task::yield_now().await;
                    continue;
                }
                signed_at = Some(Instant::now());
                self.sign();
            }
            let cost_bytes = self.encode();
            while self.written < self.buffer.len() {
                match socket.write(&self.buffer[self.written..]).await {
                    Ok(0) => return io::ErrorKind::WriteZero.into(),
                    Ok(count) => self.written += count,
                    Err(error) => return error,
                }
            }
            self.shared.metrics.sent_bytes.inc_by(self.written as u64);
            self.peer.outbox.release(self.class, cost_bytes);
            self.reset();
        }
    }

    fn sign(&mut self) {
        let sign = SignOfLife { token: monotonic_us(), wall_us: wall_us() };
        encode_sign_of_life(&mut self.buffer, sign);
    }

    /// Sees to it that there is something to write, if anything waits.
    fn take(&mut self) -> bool {
        if !self.batch.is_empty() || self.next_large.is_some() {
            return true;
        }
        let (batch, next_large) = (&mut self.batch, &mut self.next_large);
        self.peer.outbox.take(self.class, batch, next_large, self.large.is_some())
    }

    /// Moves the front of the batch, and pieces of a large message, into the buffer, and returns
    /// what has been moved whole.
    fn encode(&mut self) -> usize {
        let mut cost_bytes = 0;
        while !self.batch.is_empty() && self.buffer.len() < WRITE_BYTES {
            let known = self.requests.len();
            let requests = &mut self.requests;
            let encoded = encode_frame(&mut self.batch, self.cut, &mut self.buffer, |message| {
                if let PeerMessage::Request { id, .. } = message {
                    requests.push((usize::MAX, *id));
                }
            });
            let end = self.buffer.len();
            self.requests[known..].iter_mut().for_each(|request| request.0 = end);
            cost_bytes += encoded.cost_bytes;
            if encoded.messages > 0 {
                self.shared.metrics.sent_frames.inc();
                self.shared.metrics.messages_per_frame.observe(encoded.messages as f64);
            }
            if let Some(message) = encoded.oversized {
                self.refuse_oversized(message);
            }
        }
        let pieces_end = self.buffer.len() + PIECES_BYTES;
        while self.buffer.len() < pieces_end {
            cost_bytes += self.begin_large();
            let Some(cost) = self.encode_piece() else { break };
            cost_bytes += cost;
        }
        cost_bytes
    }

    /// Begins with the next large message when all that came before it has left, and returns what
    /// was dropped for being too large.
    fn begin_large(&mut self) -> usize {
        if self.large.is_some() || !self.batch.is_empty() {
            return 0;
        }
        let Some(message) = self.next_large.take() else { return 0 };
        let (group, cost_bytes) = (message.ordered_by(), message.cost_bytes());
        let mut bytes = BytesMut::with_capacity(message.wire_bytes());
        message.encode(&mut bytes);
        if bytes.len() > self.cut.frame_bytes_max {
            self.peer.outbox.large_left(self.class, group);
            self.refuse_oversized(message);
            return cost_bytes;
        }
        let request = match message {
            PeerMessage::Request { id, .. } => Some(id),
            _ => None,
        };
        let _reply = matches!(message, PeerMessage::Reply { .. }).then_some(message);
        self.large = Some(Large { bytes: bytes.freeze(), request, group, cost_bytes, _reply });
        0
    }

    /// Puts one piece into the buffer, and returns what has left with it: all or nothing.
    fn encode_piece(&mut self) -> Option<usize> {
        let large = self.large.as_mut()?;
        let length = large.bytes.len().min(self.cut.target_bytes);
        let piece = large.bytes.split_to(length);
        encode_fragment(&mut self.buffer, &piece, large.bytes.is_empty());
        self.shared.metrics.sent_frames.inc();
        if !large.bytes.is_empty() {
            return Some(0);
        }
        let Large { request, group, cost_bytes, .. } = self.large.take().expect("in hand");
        self.shared.metrics.messages_per_frame.observe(1.0);
        self.requests.extend(request.map(|id| (self.buffer.len(), id)));
        self.peer.outbox.large_left(self.class, group);
        Some(cost_bytes)
    }

    /// A message that no frame can hold never leaves; whoever waits for it is told.
    fn refuse_oversized(&mut self, message: PeerMessage) {
        let (node, bytes_max) = (self.peer.node, self.cut.frame_bytes_max as u64);
        let bytes = message.wire_bytes() as u64;
        tracing::error!(peer = %node, bytes, bytes_max, "a message is too large for any frame");
        let too_large = Refusal::TooLarge { bytes, bytes_max };
        match message {
            PeerMessage::Request { id, .. } => {
                let id = self.shared.unsalted(vec![id])[0];
                let reply = PeerMessage::Reply { id, result: Err(too_large) };
                self.shared.inbound.receive(node, vec![reply]);
            }
            PeerMessage::Reply { id, result } => {
                // What was written stays written: only a read may be refused after the fact.
                let refusal = match result {
                    Ok(Answer::Written(_)) => Refusal::Timeout { maybe_committed: true },
                    _ => too_large,
                };
                self.peer.outbox.push(vec![PeerMessage::Reply { id, result: Err(refusal) }]);
            }
            PeerMessage::Raft(_) | PeerMessage::Snapshot(_) => {
                self.peer.outbox.count_dropped(self.class, &message);
            }
        }
    }

    fn reset(&mut self) {
        self.written = 0;
        self.requests.clear();
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_KEEP_BYTES {
            self.buffer = BytesMut::new();
        }
        if self.batch.is_empty() && self.batch.capacity() > BATCH_KEEP_MESSAGES {
            self.batch = VecDeque::new();
        }
    }

    /// The connection broke: drops everything, and returns the requests that the peer certainly
    /// did not get.
    fn lost(mut self) -> Vec<u64> {
        let written = self.written;
        let unwritten = self.requests.iter().filter(|(end, _)| *end > written);
        let mut unsent: Vec<u64> = unwritten.map(|(_, id)| *id).collect();
        self.shared.metrics.refused_requests.inc_by(unsent.len() as u64);
        if let Some(Large { request, .. }) = self.large.take() {
            self.peer.outbox.count_lost(self.class, request.is_some());
            unsent.extend(request);
        }
        self.batch.extend(self.next_large.take());
        unsent.extend(self.peer.outbox.disconnect(self.class, &mut self.batch));
        unsent
    }
}
