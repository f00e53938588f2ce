//! One client: a connection on which requests and answers are matched by the inbox's last word.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Sleep, sleep};

use super::answer;
use super::base64;
use super::link::Link;
use super::wire::{self, Frame};
use crate::target::silence::Silence;
use crate::target::{BoxFuture, Completion, Operation, Outcome, Session};

/// After a connection was lost.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

const LOST: &str = "connection lost";

/// How a removal is marked.
const REMOVAL: &[u8] = b"NATS/1.0\r\nKV-Operation: DEL\r\n\r\n";

/// The subjects of a bucket.
#[derive(Debug)]
pub(super) struct Subjects {
    /// A key's subject begins with it, with a dot at its end.
    pub(super) prefix: String,
    /// Where its stream is asked for messages.
    pub(super) get: String,
}

impl Subjects {
    pub(super) fn of(bucket: &str) -> Subjects {
        Subjects {
            prefix: format!("$KV.{bucket}."),
            get: format!("$JS.API.STREAM.MSG.GET.KV_{bucket}"),
        }
    }
}

enum State {
    Pausing(Pin<Box<Sleep>>),
    Connecting(BoxFuture<'static, anyhow::Result<Link>>),
    Ready(Box<Link>),
}

/// What an answer is the answer to.
enum Asked {
    Get,
    Write,
    /// The read of a read-modify-write, and what is written after it.
    Read {
        key: Bytes,
        value: Bytes,
    },
    /// The write after it, and what was read.
    Modify(Option<Bytes>),
}

impl Asked {
    fn is_write(&self) -> bool {
        matches!(self, Asked::Write | Asked::Modify(_))
    }
}

/// A client of a JetStream bucket.
pub(super) struct NatsSession {
    addresses: Vec<SocketAddr>,
    /// The next of `addresses`, counted without end.
    next: usize,
    subjects: Arc<Subjects>,
    state: State,
    /// Operations that came while there was no connection.
    waiting: Vec<(u64, Operation)>,
    asked: HashMap<u64, Asked>,
    output: BytesMut,
    /// The subject's last part and the question, while they are made.
    scratch: (BytesMut, BytesMut),
    silence: Silence,
}

impl NatsSession {
    /// Connects to one of `addresses`, by the number of the client.
    pub(super) async fn open(
        addresses: Vec<SocketAddr>,
        subjects: Arc<Subjects>,
        client: usize,
    ) -> anyhow::Result<NatsSession> {
        let link = Link::open(addresses[client % addresses.len()]).await?;
        Ok(NatsSession {
            addresses,
            next: client + 1,
            subjects,
            state: State::Ready(Box::new(link)),
            waiting: Vec::new(),
            asked: HashMap::new(),
            output: BytesMut::new(),
            scratch: (BytesMut::new(), BytesMut::new()),
            silence: Silence::new(),
        })
    }

    /// Ends what is under way on a connection that is of no more use.
    fn lose(&mut self, done: &mut Vec<Completion>) {
        for (tag, asked) in self.asked.drain() {
            done.push(Completion { tag, outcome: Outcome::lost(asked.is_write(), LOST) });
        }
        self.output.clear();
        self.state = State::Pausing(Box::pin(sleep(RECONNECT_PAUSE)));
    }

    fn write(&mut self, tag: u64, asked: Asked, key: &[u8], headers: &[u8], value: &[u8]) {
        let State::Ready(link) = &self.state else { unreachable!("asked only while connected") };
        let (subject, number) = &mut self.scratch;
        encode_ends(subject, number, key, tag);
        let subject: [&[u8]; 2] = [self.subjects.prefix.as_bytes(), subject];
        let reply: [&[u8]; 2] = [&link.inbox, number];
        wire::put_publish(&mut self.output, &subject, &reply, headers, value);
        self.ask(tag, asked);
    }

    fn read(&mut self, tag: u64, asked: Asked, key: &[u8]) {
        let State::Ready(link) = &self.state else { unreachable!("asked only while connected") };
        let (subject, number) = &mut self.scratch;
        encode_ends(subject, number, key, tag);
        let mut question = BytesMut::with_capacity(96);
        for part in [b"{\"last_by_subj\":\"", self.subjects.prefix.as_bytes(), subject, b"\"}"] {
            question.extend_from_slice(part);
        }
        let reply: [&[u8]; 2] = [&link.inbox, number];
        let subject: [&[u8]; 1] = [self.subjects.get.as_bytes()];
        wire::put_publish(&mut self.output, &subject, &reply, b"", &question);
        self.ask(tag, asked);
    }

    fn ask(&mut self, tag: u64, asked: Asked) {
        if self.asked.is_empty() {
            self.silence.heard();
        }
        let before = self.asked.insert(tag, asked);
        assert!(before.is_none(), "tag {tag} is under way twice");
    }

    /// Puts what waits into the output.
    fn take_waiting(&mut self, done: &mut Vec<Completion>) {
        let mut waiting = std::mem::take(&mut self.waiting);
        for (tag, operation) in waiting.drain(..) {
            match operation {
                Operation::Get { key } => self.read(tag, Asked::Get, &key),
                Operation::Put { key, value } => self.write(tag, Asked::Write, &key, b"", &value),
                Operation::Delete { key } => self.write(tag, Asked::Write, &key, REMOVAL, b""),
                Operation::ReadModifyWrite { key, value } => {
                    self.read(tag, Asked::Read { key: key.clone(), value }, &key);
                }
                Operation::Scan { .. } | Operation::CompareAndSwap { .. } => {
                    refuse(tag, "a bucket has no such operation", done);
                }
                Operation::PutMany { .. } => refuse(tag, "a bucket takes one key a request", done),
            }
        }
        self.waiting = waiting;
    }

    /// Sends and receives. `Ready` when the connection is of no more use.
    fn exchange(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        loop {
            let State::Ready(link) = &mut self.state else { return Poll::Pending };
            while !self.output.is_empty() {
                match Pin::new(&mut link.stream).poll_write(context, &self.output) {
                    Poll::Ready(Ok(written @ 1..)) => self.output.advance(written),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            // Cancelled between two polls, it has read nothing.
            let read = pin!(link.stream.read_buf(&mut link.input)).poll(context);
            if !matches!(ready!(read), Ok(1..)) {
                return Poll::Ready(());
            }
            self.silence.heard();
            if !self.take_frames(done) {
                return Poll::Ready(());
            }
        }
    }

    /// Takes the frames that are there. False if they are not as they should be.
    fn take_frames(&mut self, done: &mut Vec<Completion>) -> bool {
        let mut writes = Vec::new();
        let State::Ready(link) = &mut self.state else { return true };
        loop {
            let (frame, length) = match wire::parse(&link.input) {
                Ok(Some(parsed)) => parsed,
                Ok(None) => break,
                Err(_) => return false,
            };
            match frame {
                Frame::Message { subject, headers, payload } => {
                    let tag = subject.strip_prefix(&link.inbox[..]).and_then(parse_tag);
                    // Answers to requests that were given up are nobody's.
                    if let Some((tag, asked)) =
                        tag.and_then(|tag| Some((tag, self.asked.remove(&tag)?)))
                    {
                        let outcome = match asked {
                            Asked::Get => match answer::value(headers, payload) {
                                Ok(value) => Outcome::read(value),
                                Err(reason) => Outcome::NoEffect(reason),
                            },
                            Asked::Write => answer::written(headers, payload),
                            Asked::Read { key, value } => match answer::value(headers, payload) {
                                Ok(read) => {
                                    writes.push((tag, key, value, read));
                                    link.input.advance(length);
                                    continue;
                                }
                                Err(reason) => Outcome::NoEffect(reason),
                            },
                            Asked::Modify(read) => match answer::written(headers, payload) {
                                Outcome::Done { .. } => Outcome::read(read),
                                other => other,
                            },
                        };
                        done.push(Completion { tag, outcome });
                    }
                }
                Frame::Ping => self.output.extend_from_slice(b"PONG\r\n"),
                Frame::Error(_) => return false,
                Frame::Info(_) | Frame::Pong | Frame::Okay => {}
            }
            link.input.advance(length);
        }
        for (tag, key, value, read) in writes {
            self.write(tag, Asked::Modify(read), &key, b"", &value);
        }
        true
    }
}

fn refuse(tag: u64, reason: &'static str, done: &mut Vec<Completion>) {
    done.push(Completion { tag, outcome: Outcome::NoEffect(reason.into()) });
}

/// The ends of a key's subject and of an inbox.
fn encode_ends(subject: &mut BytesMut, number: &mut BytesMut, key: &[u8], tag: u64) {
    subject.clear();
    base64::put_url_safe(subject, key);
    number.clear();
    wire::put_decimal(number, tag);
}

fn parse_tag(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Session for NatsSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        self.waiting.push((tag, operation));
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        loop {
            let moved = match &mut self.state {
                State::Pausing(timer) => timer.as_mut().poll(context).map(|()| {
                    let address = self.addresses[self.next % self.addresses.len()];
                    self.next += 1;
                    self.state = State::Connecting(Box::pin(Link::open(address)));
                }),
                State::Connecting(connecting) => {
                    connecting.as_mut().poll(context).map(|linked| match linked {
                        Ok(link) => self.state = State::Ready(Box::new(link)),
                        Err(_) => {
                            for (tag, _) in self.waiting.drain(..) {
                                refuse(tag, "not connected", done);
                            }
                            self.state = State::Pausing(Box::pin(sleep(RECONNECT_PAUSE)));
                        }
                    })
                }
                State::Ready(_) => {
                    self.take_waiting(done);
                    let lost = self.exchange(context, done).is_ready()
                        || (!self.asked.is_empty()
                            && self.silence.poll_too_long(context).is_ready());
                    match lost {
                        true => {
                            self.lose(done);
                            Poll::Ready(())
                        }
                        false => Poll::Pending,
                    }
                }
            };
            if done.len() > before {
                return Poll::Ready(());
            }
            ready!(moved);
        }
    }
}
