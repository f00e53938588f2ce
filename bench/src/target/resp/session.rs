//! One connection, and what was asked over it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::scan;
use crate::resp::{self, BadReply, Refusal, Reply};
use crate::target::{BoxFuture, Completion, Operation, Outcome, Session};

/// A connection on which nothing comes back for this long is given up. The servers answer every
/// request earlier than that.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// After a failed connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Room that is made for answers at a time.
const READ_BYTES: usize = 16 << 10;

/// With less room, more is made.
const READ_BYTES_MIN: usize = 2 << 10;

/// Why a connection is ended on which something else comes than replies.
const MALFORMED: &str = "malformed reply";

/// What the next reply answers.
enum Asked {
    Get,
    Put,
    Delete,
    /// The first half of a read-modify-write: the key and the value to write then.
    Read(Bytes, Bytes),
    /// Its second half: what was read.
    Write(Option<Bytes>),
    /// A scan, or the rest of one.
    Scan {
        /// Rows that came already.
        rows: u32,
        /// Rows that are still wanted.
        left: u32,
    },
}

impl Asked {
    fn may_write(&self) -> bool {
        matches!(self, Asked::Put | Asked::Delete | Asked::Write(_))
    }
}

struct InFlight {
    tag: u64,
    asked: Asked,
    /// Where its command begins in the bytes of this connection.
    begins_at: u64,
}

enum Link {
    Connecting(BoxFuture<'static, io::Result<TcpStream>>),
    Open(TcpStream),
}

/// One client's connection. A server that fails is left for the next one.
pub(super) struct RespSession {
    servers: Arc<[SocketAddr]>,
    server: usize,
    link: Link,
    output: BytesMut,
    /// Bytes that this connection was given, and bytes that went out.
    queued_bytes: u64,
    sent_bytes: u64,
    input: BytesMut,
    in_flight: VecDeque<InFlight>,
    silence: Pin<Box<Sleep>>,
    last_reply: Instant,
}

impl RespSession {
    /// Connects client number `client`; it begins at the server of its turn.
    pub(super) async fn connect(
        servers: Arc<[SocketAddr]>,
        client: usize,
    ) -> anyhow::Result<RespSession> {
        let address = servers[client % servers.len()];
        let stream = open(address, Duration::ZERO)
            .await
            .with_context(|| format!("no connection to {address}"))?;
        Ok(RespSession {
            servers,
            server: client,
            link: Link::Open(stream),
            output: BytesMut::new(),
            queued_bytes: 0,
            sent_bytes: 0,
            input: BytesMut::with_capacity(4 << 10),
            in_flight: VecDeque::new(),
            silence: Box::pin(tokio::time::sleep(SILENCE_MAX)),
            last_reply: Instant::now(),
        })
    }

    /// Writes a command by `put` and remembers what its reply will answer.
    fn send(&mut self, tag: u64, asked: Asked, put: impl FnOnce(&mut BytesMut)) {
        if self.in_flight.is_empty() {
            self.last_reply = Instant::now();
        }
        let before = self.output.len();
        put(&mut self.output);
        self.in_flight.push_back(InFlight { tag, asked, begins_at: self.queued_bytes });
        self.queued_bytes += (self.output.len() - before) as u64;
    }

    /// Completes all that is under way after the connection was lost, and begins to connect to the
    /// next server.
    fn lose(&mut self, why: &'static str, pause: Duration, done: &mut Vec<Completion>) {
        let sent_bytes = self.sent_bytes;
        done.extend(self.in_flight.drain(..).map(|InFlight { tag, asked, begins_at }| {
            let may_have_effect = asked.may_write() && begins_at < sent_bytes;
            Completion { tag, outcome: Outcome::lost(may_have_effect, why) }
        }));
        self.output.clear();
        self.input.clear();
        (self.queued_bytes, self.sent_bytes) = (0, 0);
        self.server += 1;
        let address = self.servers[self.server % self.servers.len()];
        self.link = Link::Connecting(Box::pin(open(address, pause)));
    }

    /// Sends and receives until there is nothing more to do for now; an error ends the connection.
    fn exchange(
        &mut self,
        context: &mut Context<'_>,
        done: &mut Vec<Completion>,
    ) -> Result<(), &'static str> {
        let had = done.len();
        loop {
            self.write(context)?;
            if done.len() > had {
                // The driver asks again at once, and reads then.
                return Ok(());
            }
            if self.read(context)?.is_pending() {
                return self.watch_silence(context);
            }
            self.last_reply = Instant::now();
            self.take_replies(done).map_err(|_| MALFORMED)?;
        }
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), &'static str> {
        let Link::Open(stream) = &mut self.link else { return Ok(()) };
        while !self.output.is_empty() {
            match Pin::new(&mut *stream).poll_write(context, &self.output) {
                Poll::Ready(Ok(written @ 1..)) => {
                    self.output.advance(written);
                    self.sent_bytes += written as u64;
                }
                Poll::Ready(_) => return Err("connection lost"),
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn read(&mut self, context: &mut Context<'_>) -> Result<Poll<()>, &'static str> {
        let Link::Open(stream) = &mut self.link else { return Ok(Poll::Pending) };
        if self.input.capacity() - self.input.len() < READ_BYTES_MIN {
            self.input.reserve(READ_BYTES);
        }
        let mut reading = std::pin::pin!(stream.read_buf(&mut self.input));
        match reading.as_mut().poll(context) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Ok(1..)) => Ok(Poll::Ready(())),
            Poll::Ready(_) => Err("connection lost"),
        }
    }

    fn watch_silence(&mut self, context: &mut Context<'_>) -> Result<(), &'static str> {
        while self.silence.as_mut().poll(context).is_ready() {
            if !self.in_flight.is_empty() && self.last_reply.elapsed() >= SILENCE_MAX {
                return Err("no reply");
            }
            let from = if self.in_flight.is_empty() { Instant::now() } else { self.last_reply };
            self.silence.as_mut().reset((from + SILENCE_MAX).into());
        }
        Ok(())
    }

    fn take_replies(&mut self, done: &mut Vec<Completion>) -> Result<(), BadReply> {
        while let Some(first) = self.in_flight.front() {
            if matches!(first.asked, Asked::Scan { .. }) {
                if !self.take_scan_reply(done)? {
                    break;
                }
                continue;
            }
            let Some((reply, length)) = resp::parse(&self.input)? else { break };
            let InFlight { tag, asked, .. } = self.in_flight.pop_front().expect("it was looked at");
            let may_write = asked.may_write();
            let outcome = match (asked, reply) {
                (Asked::Put, Reply::Simple(b"OK")) => Outcome::WRITTEN,
                (Asked::Delete, Reply::Integer(_)) => Outcome::WRITTEN,
                (Asked::Get, Reply::Bulk(value)) => {
                    Outcome::read(value.map(Bytes::copy_from_slice))
                }
                (Asked::Write(read), Reply::Simple(b"OK")) => Outcome::read(read),
                (Asked::Read(key, value), Reply::Bulk(read)) => {
                    let read = read.map(Bytes::copy_from_slice);
                    self.input.advance(length);
                    self.send(tag, Asked::Write(read), |out| resp::put_set(out, &key, &value));
                    continue;
                }
                (asked, Reply::Error(error)) => refused(&asked, error),
                _ => {
                    done.push(Completion { tag, outcome: Outcome::lost(may_write, MALFORMED) });
                    return Err(BadReply("a reply to another command".to_owned()));
                }
            };
            done.push(Completion { tag, outcome });
            self.input.advance(length);
        }
        if self.in_flight.is_empty() && !self.input.is_empty() {
            return Err(BadReply("a reply that nobody asked for".to_owned()));
        }
        Ok(())
    }

    /// Takes the reply to a scan, if it is all there, and asks for the rest if it is not all of it.
    fn take_scan_reply(&mut self, done: &mut Vec<Completion>) -> Result<bool, BadReply> {
        let Some((reply, length)) = scan::parse(&self.input)? else { return Ok(false) };
        let InFlight { tag, asked, .. } = self.in_flight.pop_front().expect("it was looked at");
        let outcome = match (asked, reply) {
            (asked, scan::ScanReply::Error(error)) => refused(&asked, error),
            (Asked::Scan { rows, left }, scan::ScanReply::Rows { next, rows: came }) => {
                let (rows, left) = (rows + came, left.saturating_sub(came));
                if let Some(next) = next.filter(|_| left > 0) {
                    let next = Bytes::copy_from_slice(next);
                    self.input.advance(length);
                    let asked = Asked::Scan { rows, left };
                    self.send(tag, asked, |out| scan::put_range(out, &next, left));
                    return Ok(true);
                }
                Outcome::scanned(rows)
            }
            (_, scan::ScanReply::Rows { .. }) => unreachable!("only scans come here"),
        };
        done.push(Completion { tag, outcome });
        self.input.advance(length);
        Ok(true)
    }
}

/// What an error reply says about what was asked.
fn refused(asked: &Asked, error: &[u8]) -> Outcome {
    let kind = String::from_utf8_lossy(resp::error_kind(error)).into_owned();
    let may_have_effect = asked.may_write() && resp::classify(error) == Refusal::InDoubt;
    Outcome::lost(may_have_effect, kind)
}

async fn open(address: SocketAddr, pause: Duration) -> io::Result<TcpStream> {
    if !pause.is_zero() {
        tokio::time::sleep(pause).await;
    }
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Session for RespSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        match operation {
            Operation::Get { key } => self.send(tag, Asked::Get, |out| resp::put_get(out, &key)),
            Operation::Put { key, value } => {
                self.send(tag, Asked::Put, |out| resp::put_set(out, &key, &value));
            }
            Operation::PutMany { pairs } => {
                self.send(tag, Asked::Put, |out| scan::put_mset(out, &pairs));
            }
            Operation::Delete { key } => {
                self.send(tag, Asked::Delete, |out| resp::put_command(out, &[b"DEL", &key]));
            }
            Operation::ReadModifyWrite { key, value } => {
                let asked = Asked::Read(key.clone(), value);
                self.send(tag, asked, |out| resp::put_get(out, &key));
            }
            Operation::Scan { start, limit } => {
                let asked = Asked::Scan { rows: 0, left: limit };
                self.send(tag, asked, |out| scan::put_range(out, &start, limit));
            }
            Operation::CompareAndSwap { .. } => {
                unreachable!("the target refuses it before anything is driven")
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let had = done.len();
        if let Link::Connecting(connecting) = &mut self.link {
            match ready!(connecting.as_mut().poll(context)) {
                Ok(stream) => {
                    self.link = Link::Open(stream);
                    self.last_reply = Instant::now();
                }
                Err(_) => {
                    self.lose("not connected", RECONNECT_PAUSE, done);
                    // Nothing to tell if nothing was queued; then the new connect is waited for.
                    if done.len() == had {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    return Poll::Ready(());
                }
            }
        }
        if let Err(why) = self.exchange(context, done) {
            self.lose(why, RECONNECT_PAUSE, done);
            if done.len() == had {
                context.waker().wake_by_ref();
            }
        }
        match done.len() > had {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
