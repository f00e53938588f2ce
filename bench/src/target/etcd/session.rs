//! One client: an HTTP/2 connection that carries all its calls at once.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::{Connection, SendRequest};
use http::Uri;
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use super::call::{self, Answer};
use super::grpc::{self, Failure};
use super::messages::{
    COMPARE_VALUE, COMPARE_VERSION, Compare, CompareWith, DeleteRangeRequest, PutRequest,
    RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
};
use crate::target::silence::Silence;
use crate::target::{BoxFuture, Completion, Operation, Outcome, Reason, Session};

/// How long a server may take to accept.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// After a connection was lost.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Room for answers that were not read yet, for each call and for all of a connection: what Go's
/// client has, so that the server is never held up by this one.
const WINDOW_BYTES: u32 = 4 << 20;

type Link = (SendRequest<Bytes>, Connection<TcpStream, Bytes>);

/// Connects to `address` and agrees on HTTP/2.
pub(super) async fn connect(address: SocketAddr) -> anyhow::Result<Link> {
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES);
        Ok::<Link, anyhow::Error>(builder.handshake(stream).await?)
    };
    let linked = timeout(CONNECT_TIMEOUT, handshake).await.context("no answer in time")?;
    linked.with_context(|| format!("cannot speak HTTP/2 with {address}"))
}

/// The address of a method at a server.
pub(super) fn method(address: SocketAddr, name: &'static str) -> Uri {
    let built =
        Uri::builder().scheme("http").authority(address.to_string()).path_and_query(name).build();
    built.expect("an address and a method's name make a URI")
}

/// The methods' addresses at one server.
struct Methods {
    range: Uri,
    put: Uri,
    delete: Uri,
    transaction: Uri,
}

impl Methods {
    fn at(address: SocketAddr) -> Methods {
        Methods {
            range: method(address, "/etcdserverpb.KV/Range"),
            put: method(address, "/etcdserverpb.KV/Put"),
            delete: method(address, "/etcdserverpb.KV/DeleteRange"),
            transaction: method(address, "/etcdserverpb.KV/Txn"),
        }
    }
}

enum State {
    Pausing(Pin<Box<Sleep>>),
    Connecting(BoxFuture<'static, anyhow::Result<Link>>),
    Ready { sender: SendRequest<Bytes>, connection: Box<Connection<TcpStream, Bytes>> },
}

/// What an answer is the answer to.
enum Asked {
    Get,
    Write,
    Scan,
    CompareAndSwap,
    /// The read of a read-modify-write, and what is written after it.
    Read(PutRequest),
    /// The write after it, and what was read.
    Modify(Option<Bytes>),
}

impl Asked {
    fn is_write(&self) -> bool {
        matches!(self, Asked::Write | Asked::CompareAndSwap | Asked::Modify(_))
    }
}

/// A call under way.
struct Call {
    tag: u64,
    asked: Option<Asked>,
    answer: Answer,
}

impl Future for Call {
    type Output = (u64, Asked, Result<Bytes, Failure>);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(context));
        let asked = self.asked.take().expect("a call is not polled after its end");
        Poll::Ready((self.tag, asked, answer))
    }
}

/// A request that was not sent yet.
enum Waiting {
    Operation(Operation),
    Modify(PutRequest, Option<Bytes>),
}

/// A client of etcd.
pub(super) struct EtcdSession {
    addresses: Vec<SocketAddr>,
    /// The next of `addresses`, counted without end.
    next: usize,
    methods: Methods,
    state: State,
    waiting: VecDeque<(u64, Waiting)>,
    calls: FuturesUnordered<Call>,
    silence: Silence,
}

impl EtcdSession {
    /// Connects to one of `addresses`, by the number of the client.
    pub(super) async fn open(addresses: Vec<SocketAddr>, client: usize) -> anyhow::Result<Self> {
        let address = addresses[client % addresses.len()];
        let (sender, connection) = connect(address).await?;
        Ok(EtcdSession {
            addresses,
            next: client + 1,
            methods: Methods::at(address),
            state: State::Ready { sender, connection: Box::new(connection) },
            waiting: VecDeque::new(),
            calls: FuturesUnordered::new(),
            silence: Silence::new(),
        })
    }

    /// A server that fails is left for the next one.
    fn reconnect(&mut self) {
        let address = self.addresses[self.next % self.addresses.len()];
        self.next += 1;
        self.methods = Methods::at(address);
        self.state = State::Connecting(Box::pin(connect(address)));
    }

    fn pause(&mut self) {
        self.state = State::Pausing(Box::pin(sleep(RECONNECT_PAUSE)));
    }

    /// Nothing of what waits was sent.
    fn refuse_waiting(&mut self, reason: &'static str, done: &mut Vec<Completion>) {
        for (tag, _) in self.waiting.drain(..) {
            done.push(Completion { tag, outcome: Outcome::NoEffect(reason.into()) });
        }
    }

    /// Sends what waits, as far as the server allows. `Err` if the connection is of no more use.
    fn send(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Result<(), ()> {
        let State::Ready { sender, .. } = &mut self.state else { return Ok(()) };
        while let Some((tag, waiting)) = self.waiting.pop_front() {
            match sender.poll_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.waiting.push_front((tag, waiting));
                    return Err(());
                }
                Poll::Pending => {
                    self.waiting.push_front((tag, waiting));
                    return Ok(());
                }
            }
            let (uri, message, asked) = request(&self.methods, waiting);
            if self.calls.is_empty() {
                self.silence.heard();
            }
            let is_write = asked.is_write();
            match call::send(sender, uri, message) {
                Ok(answer) => self.calls.push(Call { tag, asked: Some(asked), answer }),
                Err(_) => {
                    done.push(Completion { tag, outcome: Outcome::lost(is_write, LOST) });
                    return Err(());
                }
            }
        }
        Ok(())
    }

    /// Takes the answers that are there. True if one of them leads to a further request.
    fn take_answers(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> bool {
        let (mut heard, mut more) = (false, false);
        while let Poll::Ready(Some((tag, asked, answer))) = self.calls.poll_next_unpin(context) {
            heard = true;
            let is_write = asked.is_write();
            let outcome = match answer {
                Err(failure) => match failure.is_certain || !is_write {
                    true => Outcome::NoEffect(failure.reason),
                    false => Outcome::Unknown(failure.reason),
                },
                Ok(message) => match read(asked, message) {
                    Ok(Read::Done(outcome)) => outcome,
                    Ok(Read::Then(next)) => {
                        self.waiting.push_back((tag, next));
                        more = true;
                        continue;
                    }
                    Err(reason) => Outcome::lost(is_write, reason),
                },
            };
            done.push(Completion { tag, outcome });
        }
        if heard {
            self.silence.heard();
        }
        more
    }

    /// Polls the connection, or what makes one. `Ready` when the state changed.
    fn advance(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        match &mut self.state {
            State::Pausing(timer) => {
                ready!(timer.as_mut().poll(context));
                self.reconnect();
            }
            State::Connecting(connecting) => match ready!(connecting.as_mut().poll(context)) {
                Ok((sender, connection)) => {
                    self.state = State::Ready { sender, connection: Box::new(connection) };
                }
                Err(_) => {
                    self.refuse_waiting("not connected", done);
                    self.pause();
                }
            },
            State::Ready { connection, .. } => {
                // However it ends: there is no orderly end while calls are under way.
                let _ = ready!(Pin::new(connection).poll(context));
                self.pause();
            }
        }
        Poll::Ready(())
    }
}

const LOST: &str = "connection lost";

impl Session for EtcdSession {
    fn submit(&mut self, tag: u64, operation: Operation) {
        self.waiting.push_back((tag, Waiting::Operation(operation)));
    }

    fn poll(&mut self, context: &mut Context<'_>, done: &mut Vec<Completion>) -> Poll<()> {
        let before = done.len();
        loop {
            if self.send(context, done).is_err() {
                // Dropping the connection ends all calls on it.
                self.pause();
            }
            let changed = self.advance(context, done).is_ready();
            let more = self.take_answers(context, done);
            let is_idle = self.calls.is_empty();
            if !is_idle && self.silence.poll_too_long(context).is_ready() {
                self.pause();
                continue;
            }
            if done.len() > before {
                return Poll::Ready(());
            }
            if !changed && !more {
                return Poll::Pending;
            }
        }
    }
}

/// The method, the framed message, and what its answer will mean.
fn request(methods: &Methods, waiting: Waiting) -> (&Uri, Bytes, Asked) {
    let range = |request: &RangeRequest| grpc::frame(request);
    let operation = match waiting {
        Waiting::Modify(put, read) => {
            return (&methods.put, grpc::frame(&put), Asked::Modify(read));
        }
        Waiting::Operation(operation) => operation,
    };
    match operation {
        Operation::Get { key } => {
            let request = RangeRequest { key, ..RangeRequest::default() };
            (&methods.range, range(&request), Asked::Get)
        }
        Operation::Scan { start, limit } => {
            let range_end = Bytes::from_static(b"\0");
            let request = RangeRequest { key: start, range_end, limit: i64::from(limit) };
            (&methods.range, range(&request), Asked::Scan)
        }
        Operation::ReadModifyWrite { key, value } => {
            let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            (&methods.range, range(&request), Asked::Read(PutRequest { key, value }))
        }
        Operation::Put { key, value } => {
            (&methods.put, grpc::frame(&PutRequest { key, value }), Asked::Write)
        }
        Operation::Delete { key } => {
            (&methods.delete, grpc::frame(&DeleteRangeRequest { key }), Asked::Write)
        }
        Operation::PutMany { pairs } => {
            let puts = pairs.into_iter().map(|(key, value)| PutRequest { key, value });
            let success = puts.map(|put| RequestOp { put: Some(put) }).collect();
            let request = TxnRequest { compare: Vec::new(), success };
            (&methods.transaction, grpc::frame(&request), Asked::Write)
        }
        Operation::CompareAndSwap { key, old, new } => {
            let (target, with) = match old {
                None => (COMPARE_VERSION, CompareWith::Version(0)),
                Some(old) => (COMPARE_VALUE, CompareWith::Value(old)),
            };
            let compare = vec![Compare { target, key: key.clone(), with: Some(with) }];
            let success = vec![RequestOp { put: Some(PutRequest { key, value: new }) }];
            let request = TxnRequest { compare, success };
            (&methods.transaction, grpc::frame(&request), Asked::CompareAndSwap)
        }
    }
}

/// What an answer leads to.
enum Read {
    Done(Outcome),
    Then(Waiting),
}

fn read(asked: Asked, message: Bytes) -> Result<Read, Reason> {
    let malformed = |_| Reason::from("malformed answer");
    let first = |message: Bytes| -> Result<Option<Bytes>, Reason> {
        let response = RangeResponse::decode(message).map_err(malformed)?;
        Ok(response.kvs.into_iter().next().map(|row| row.value))
    };
    Ok(match asked {
        Asked::Get => Read::Done(Outcome::read(first(message)?)),
        Asked::Write => Read::Done(Outcome::WRITTEN),
        Asked::Scan => {
            let response = RangeResponse::decode(message).map_err(malformed)?;
            let rows = u32::try_from(response.kvs.len()).expect("fewer than was asked for");
            Read::Done(Outcome::scanned(rows))
        }
        Asked::CompareAndSwap => {
            let response = TxnResponse::decode(message).map_err(malformed)?;
            Read::Done(Outcome::read(response.succeeded.then(Bytes::new)))
        }
        Asked::Read(put) => Read::Then(Waiting::Modify(put, first(message)?)),
        Asked::Modify(read) => Read::Done(Outcome::read(read)),
    })
}
