//! The reading end: accepts, listens to the greeting, then decodes frames in bulk.
//!
//! Everything that one read brought goes to [`Inbound::receive`](super::Inbound::receive) as one
//! batch. Reading never waits for the receiver: what arrives was let in by a budget somewhere, or
//! is Raft's, whose windows bound it.
//!
//! Invariants:
//!
//! * Before its greeting is accepted, a connection costs a bounded number of bytes and seconds, and
//!   there are at most [`GREETING_MAX`] such connections.
//! * A connection buffers at most one frame and one read.
//! * Bytes that are no frame close their connection, are counted, and harm nobody else.
//! * A peer has one incoming connection per class: a newer one replaces an older one, which the
//!   kernel may not have noticed to be dead.

use super::clock::wall_us;
use super::frame::{
    Assembly, Decoded, FrameError, Parsed, SignOfLife, decode_frame, encode_sign_of_life, parse,
};
use super::handshake::{
    HandshakeError, HandshakeRefusal, Hello, Kind, PROTOCOL_VERSION, RefusalReason, judge,
    read_greeting, refuse, write_greeting, write_welcome,
};
use super::message::{Class, PeerMessage};
use super::metrics::Counted;
use super::tcp::{Life, Peer, Shared};
use crate::genesis::GENESIS_BYTES_MAX;
use bytes::{Buf, BytesMut};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::tcp::WriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// Connections that may be in their greeting at a time.
const GREETING_MAX: usize = 64;
/// How much room a read has.
const READ_BYTES: usize = 64 << 10;
/// A read buffer with less room than this is replaced: many small reads share one allocation.
const READ_BYTES_MIN: usize = 8 << 10;

/// Accepts connections until it is cancelled.
pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, life: Life) {
    let greeting = Arc::new(tokio::sync::Semaphore::new(GREETING_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely; those who wait in the backlog keep.
                tracing::warn!(%error, "cannot accept a peer connection");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = greeting.clone().try_acquire_owned() else {
            shared.metrics.rejected_handshakes.inc();
            continue;
        };
        let shared = shared.clone();
        let life = life.clone();
        tokio::spawn(life.clone().run(async move {
            let greeted = greet(&shared, stream).await;
            drop(permit);
            match greeted {
                Ok(Some((stream, peer, class))) => hand_over(shared, peer, class, stream, life),
                Ok(None) => {}
                Err(error) => {
                    shared.metrics.rejected_handshakes.inc();
                    tracing::debug!(%error, "a peer connection was closed in its greeting");
                }
            }
        }));
    }
}

type Greeted = Option<(TcpStream, Arc<Peer>, Class)>;

/// The acceptor's half of the handshake. `None`: the conversation is over and went well.
async fn greet(shared: &Shared, mut stream: TcpStream) -> Result<Greeted, HandshakeError> {
    stream.set_nodelay(true)?;
    let handshake_timeout = shared.timing().handshake_timeout;
    let conversation = timeout(handshake_timeout, converse(shared, &mut stream));
    let accepted = conversation.await.unwrap_or(Err(HandshakeError::TimedOut))?;
    Ok(accepted.map(|(peer, class)| (stream, peer, class)))
}

async fn converse(
    shared: &Shared,
    stream: &mut TcpStream,
) -> Result<Option<(Arc<Peer>, Class)>, HandshakeError> {
    let greeting = match read_greeting(stream, GENESIS_BYTES_MAX).await {
        Ok(greeting) => greeting,
        Err(error) => {
            if let Some(refusal) = refusal_for(&error) {
                refuse(stream, &refusal).await?;
            }
            return Err(error);
        }
    };
    match greeting.kind {
        Kind::Hello => {
            let hello = Hello::decode(greeting.payload)?;
            let judged = judge(&hello, &shared.me, shared.options.cluster_id, &shared.incarnations);
            if let Err(refusal) = judged {
                let peer = shared.peers.get(&hello.from.node);
                if peer.is_none_or(|peer| peer.refused(&refusal)) {
                    tracing::warn!(peer = %hello.from.node, %refusal, "refused a peer connection");
                }
                refuse(stream, &refusal).await?;
                return Err(HandshakeError::Refused(refusal));
            }
            let peer = shared.peers.get(&hello.from.node).expect("judged to be a peer").clone();
            write_welcome(stream, &shared.me).await?;
            Ok(Some((peer, hello.class)))
        }
        Kind::GenesisView => {
            let answer = shared.genesis_view.as_ref().ok_or(HandshakeError::Malformed(
                "this node keeps no record of a birth that it could show",
            ))?;
            write_greeting(stream, Kind::GenesisView, answer).await?;
            Ok(None)
        }
        Kind::Welcome | Kind::Refused => {
            Err(HandshakeError::Malformed("an answer where a greeting belongs"))
        }
    }
}

/// What to tell somebody whose greeting cannot be read; nothing to strangers.
pub(crate) fn refusal_for(error: &HandshakeError) -> Option<HandshakeRefusal> {
    match error {
        HandshakeError::ProtocolVersion { theirs } => Some(HandshakeRefusal {
            reason: RefusalReason::ProtocolVersion,
            text: format!(
                "this node speaks peer protocol {PROTOCOL_VERSION}, the caller {theirs}: run \
                 releases that speak the same on both"
            ),
        }),
        HandshakeError::Malformed(what) => Some(HandshakeRefusal {
            reason: RefusalReason::Malformed,
            text: format!("malformed greeting: {what}"),
        }),
        _ => None,
    }
}

/// Moves an accepted connection to the runtime that serves its peer.
fn hand_over(shared: Arc<Shared>, peer: Arc<Peer>, class: Class, stream: TcpStream, life: Life) {
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(peer = %peer.node, %error, "lost a connection while handing it over");
            return;
        }
    };
    // Its own writer may be waiting out a backoff; the peer is there again.
    Class::ALL.iter().for_each(|class| peer.came_back[*class as usize].notify_one());
    let replaced = peer.replace_inbound(class);
    let runtime = peer.runtime.clone();
    runtime.spawn(life.run(async move {
        let ended = match TcpStream::from_std(stream) {
            Ok(stream) => serve(&shared, &peer, stream, &replaced).await,
            Err(error) => Ended::Io(error),
        };
        if let Ended::Malformed(error) = &ended {
            shared.metrics.malformed_frames.inc();
            tracing::warn!(peer = %peer.node, class = class.name(), %error,
                "closed a peer connection: what came over it is not a frame");
        } else {
            tracing::debug!(peer = %peer.node, class = class.name(), %ended,
                "a peer's connection ended");
        }
        if class == Class::Data {
            // Replies that were on their way over it are lost.
            shared.inbound.disconnected(peer.node);
        }
    }));
}

/// Why a connection is not read any more.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the peer closed it")]
    Closed,
    #[error("the peer was silent for too long")]
    Silent,
    #[error("the peer opened a new one")]
    Replaced,
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Malformed(FrameError),
}

async fn serve(shared: &Shared, peer: &Peer, mut stream: TcpStream, replaced: &Notify) -> Ended {
    let _counted = Counted::new(&shared.metrics.connections_inbound);
    read(shared, peer, &mut stream, replaced).await
}

async fn read(shared: &Shared, peer: &Peer, stream: &mut TcpStream, replaced: &Notify) -> Ended {
    let timing = shared.timing();
    let frame_bytes_max = shared.options.frame_bytes_max;
    let mut signs = Signs::default();
    let mut assembly = Assembly::new(frame_bytes_max);
    let mut clock = interval(timing.keep_alive);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent_ticks = 0;
    let silent_ticks_max =
        timing.silence_max.as_nanos().div_ceil(timing.keep_alive.as_nanos().max(1));
    let mut buffer = BytesMut::new();
    let mut missing = 0;
    let (mut reading, writing) = stream.split();
    loop {
        make_room(&mut buffer, missing);
        let count = tokio::select! {
            read = reading.read_buf(&mut buffer) => match read {
                Ok(0) => return Ended::Closed,
                Ok(count) => count,
                Err(error) => return Ended::Io(error),
            },
            _ = clock.tick() => {
                silent_ticks += 1;
                if silent_ticks > silent_ticks_max {
                    return Ended::Silent;
                }
                if let Err(error) = signs.send(&writing, 0) {
                    return Ended::Io(error);
                }
                continue;
            }
            () = replaced.notified() => return Ended::Replaced,
        };
        silent_ticks = 0;
        shared.metrics.received_bytes.inc_by(count as u64);
        let mut messages = Vec::new();
        let decoded = decode(shared, &mut buffer, &mut assembly, &mut messages);
        if !messages.is_empty() {
            shared.received(peer, messages);
        }
        match decoded {
            Ok((bytes, token)) => {
                missing = bytes;
                if token != 0
                    && let Err(error) = signs.send(&writing, token)
                {
                    return Ended::Io(error);
                }
            }
            Err(error) => return Ended::Malformed(error),
        }
    }
}

/// Signs of life on their way back to the dialer.
#[derive(Default)]
struct Signs {
    unwritten: BytesMut,
}

impl Signs {
    /// Answers a sign with this token; 0 answers none. A dialer that does not read has other
    /// troubles: it is never waited for, and gets no second sign before it took the first.
    fn send(&mut self, writing: &WriteHalf<'_>, token: u64) -> io::Result<()> {
        if self.unwritten.is_empty() {
            encode_sign_of_life(&mut self.unwritten, SignOfLife { token, wall_us: wall_us() });
        }
        match writing.try_write(&self.unwritten) {
            Ok(count) => self.unwritten.advance(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Decodes all whole frames in `buffer`, and returns how many bytes the next one lacks, and the
/// token of the last sign of life.
fn decode(
    shared: &Shared,
    buffer: &mut BytesMut,
    assembly: &mut Assembly,
    messages: &mut Vec<PeerMessage>,
) -> Result<(usize, u64), FrameError> {
    let mut token = 0;
    loop {
        match parse(buffer, shared.options.frame_bytes_max)? {
            Parsed::Missing(bytes) => return Ok((bytes, token)),
            Parsed::Frame(frame) => {
                let whole = messages.len();
                match decode_frame(frame, assembly, messages) {
                    Ok(Decoded::Sign(sign)) => token = sign.token,
                    Ok(Decoded::Messages(_)) => shared.metrics.received_frames.inc(),
                    Err(error) => {
                        // A frame counts whole or not at all.
                        messages.truncate(whole);
                        return Err(error);
                    }
                }
            }
        }
    }
}

/// Room for the next read. A large frame's buffer doubles as its bytes arrive, so that a length
/// alone reserves nothing.
fn make_room(buffer: &mut BytesMut, missing: usize) {
    let room = buffer.capacity() - buffer.len();
    if room < READ_BYTES_MIN {
        buffer.reserve(missing.min(buffer.len()).max(READ_BYTES));
    }
}
