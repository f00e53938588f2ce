//! One client: reads requests, starts them, and writes replies, as far ahead as limits allow.
//!
//! One task does all of it. Each time it is woken it takes what has arrived, starts every request
//! that may run, collects the replies that are ready, and writes them with one call. Nothing waits
//! for anything else: while answers are awaited more requests are read, and a client that does not
//! take its replies is not read any further.
//!
//! Invariants:
//!
//! * Requests take effect as if executed one after the other, as far as they share keys (see
//!   [`super::pipeline`]); replies come in their order.
//! * What a connection holds is bounded by the options, plus one request and one reply; of reads
//!   whose values may have any size only a few are under way.
//! * Bytes of replies that the client has not taken are counted in the node's budget. When all
//!   connections hold too many of them together, each gets on with little.
//! * A connection takes a few requests in a turn; one whose requests are refused for want of room
//!   rests before its next turn (see [`super::throttle`]).
//! * After a `WATCH` no request is judged before its answer: `EXEC` needs what it found.
//!
//! What is absent: accepting connections, and what commands mean.

mod room;
mod stream;

use super::backend::Backend;
use super::clients::Client;
use super::codec::{Arguments, Decoded, Decoder, Replies, is_http};
use super::commands::{self, Command, Context, Plan, ReplyMode, Session, Wide, run_wide};
use super::error::{CommandError, ErrorKind};
use super::pipeline::{Access, Manner, Pipeline, Work};
use super::throttle::Throttle;
use super::upkeep::Upkeep;
use bytes::BytesMut;
use flotilla_shard::Operation;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// Room for the first reads of a connection; most requests of most clients fit.
const READ_BYTES_MIN: usize = 4 * 1024;

/// Room for reads of a busy connection.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Replies are written when this much has come together, even if more are ready.
const WRITE_BYTES: usize = 64 * 1024;

/// How large a reply is expected to be before there was any: few requests are started at first.
const FIRST_REPLY_BYTES: usize = 1024 * 1024;

/// A buffer that grew beyond this is not kept when it is empty.
const KEPT_BYTES_MAX: usize = 256 * 1024;

/// Requests that a connection takes before the others of its thread, and the shards there, have
/// their turns: some tenths of a millisecond of work.
const TURN_REQUESTS: usize = 64;

/// Bytes that a connection reads before others have their turns.
const TURN_BYTES: usize = 256 * 1024;

/// How long a client may take none of its replies while answers that nobody takes keep others from
/// theirs.
const UNREAD_TIMEOUT_SCARCE: Duration = Duration::from_secs(5);

/// How long a client that spoke nonsense may take to read why it is being cut off.
const LINGER: Duration = Duration::from_secs(1);

/// What the server wants of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Serve.
    Not,
    /// Take no more requests; answer those under way, then close.
    Soon,
    /// Close.
    Now,
}

/// One connection over the stream `S`.
pub struct Connection<B: Backend, S> {
    context: Arc<Context<B>>,
    stream: S,
    session: Session,
    input: BytesMut,
    read_bytes: usize,
    decoder: Decoder,
    arguments: Arguments,
    pipeline: Pipeline<B>,
    /// The next request, while it must wait for others.
    stalled: Option<Stalled>,
    /// A `WATCH` is under way.
    watching: bool,
    /// Operations of the pipeline that are not started yet.
    batch: Vec<Operation>,
    output: BytesMut,
    written: usize,
    /// Replies that must wait for others are written here first.
    scratch: BytesMut,
    /// How large the next reply is expected to be: the largest of late.
    reply_bytes: usize,
    /// The client sends no more.
    ended: bool,
    /// No more requests are taken.
    closing: bool,
    /// The client is told why it is cut off, and given time to read it.
    linger: bool,
    upkeep: Upkeep,
    throttle: Throttle,
    turn: Turn,
}

/// What may still be done before others have their turns.
struct Turn {
    requests: usize,
    bytes: usize,
}

/// A request that was judged and must wait for others.
struct Stalled {
    plan: Plan,
    access: Access,
    manner: Manner,
    request_bytes: usize,
}

impl<B: Backend, S: AsyncRead + AsyncWrite + Unpin> Connection<B, S> {
    /// A connection that has just been accepted, and entered in the list as `client`.
    pub fn new(context: Arc<Context<B>>, stream: S, client: Arc<Client>) -> Self {
        context.metrics.connections.inc();
        Connection {
            decoder: Decoder::new(context.options.decoder_limits()),
            upkeep: Upkeep::new(&context.budget),
            throttle: Throttle::new(&context.refused),
            turn: Turn { requests: 0, bytes: 0 },
            context,
            stream,
            session: Session::new(client),
            input: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            arguments: Arguments::default(),
            pipeline: Pipeline::new(),
            stalled: None,
            watching: false,
            batch: Vec::new(),
            output: BytesMut::new(),
            written: 0,
            scratch: BytesMut::new(),
            reply_bytes: FIRST_REPLY_BYTES,
            ended: false,
            closing: false,
            linger: false,
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or `stop` says so.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        let client = self.session.client.clone();
        loop {
            tokio::select! {
                biased;
                () = poll_fn(|context| self.poll(context)) => break,
                () = client.killed() => return,
                changed = stop.changed() => match changed.map(|()| *stop.borrow_and_update()) {
                    Ok(Stop::Not) => {}
                    Ok(Stop::Soon) => self.closing = true,
                    // Without a server there is nobody to serve for.
                    Ok(Stop::Now) | Err(_) => return,
                },
            }
        }
        if self.linger {
            let _ = tokio::time::timeout(LINGER, self.discard()).await;
        }
    }

    /// Does what can be done now, up to the end of its turn. Ready when the connection is to be
    /// closed.
    fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
        let begun = Instant::now();
        let may_take = !self.throttle.poll_resting(context);
        let requests = if may_take { TURN_REQUESTS } else { 0 };
        self.turn = Turn { requests, bytes: TURN_BYTES };
        loop {
            let mut progressed = self.poll_answers(context);
            progressed |= self.take_requests();
            if progressed && self.unsent() < WRITE_BYTES {
                continue;
            }
            match self.poll_write(context) {
                Ok(wrote) => progressed |= wrote,
                Err(_) => return Poll::Ready(()),
            }
            if self.closing
                && self.stalled.is_none()
                && self.pipeline.is_empty()
                && self.unsent() == 0
            {
                return Poll::Ready(());
            }
            match self.poll_read(context) {
                Ok(read) => progressed |= read,
                Err(_) => return Poll::Ready(()),
            }
            if !progressed {
                self.end_turn(context, begun, requests);
                self.pipeline.poll_ahead(context);
                return self.poll_upkeep(context);
            }
        }
    }

    /// Lets the others of the thread have their turns, and rests if requests were refused.
    fn end_turn(
        &mut self,
        context: &mut std::task::Context<'_>,
        begun: Instant,
        requests_before: usize,
    ) {
        let has_taken = self.turn.requests < requests_before;
        if has_taken && self.throttle.end_turn(begun.elapsed()) {
            self.pipeline.shrink(TURN_REQUESTS);
            // Asked, so that its end wakes the task.
            if self.throttle.poll_resting(context) {
                return;
            }
            context.waker().wake_by_ref();
        }
        if has_taken && self.turn.requests == 0 || self.turn.bytes == 0 {
            context.waker().wake_by_ref();
        }
    }

    /// Counts what is held, gives back what is no longer needed, and gives up a client that takes
    /// nothing: then it is ready.
    fn poll_upkeep(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
        let unsent = self.unsent();
        let idle = self.pipeline.is_empty() && unsent == 0;
        self.upkeep.hold(unsent);
        if !self.upkeep.poll_tick(context, idle) {
            return Poll::Pending;
        }
        if self.upkeep.has_rested() && idle {
            self.trim();
        }
        let is_scarce = self.upkeep.are_answers_scarce() || self.upkeep.is_scarce();
        let patience = match is_scarce {
            true => self.context.options.unread_timeout.min(UNREAD_TIMEOUT_SCARCE),
            false => self.context.options.unread_timeout,
        };
        if unsent > 0 && !self.has_room() && self.upkeep.stuck_for() >= patience {
            self.context.metrics.connections_stalled.inc();
            tracing::info!(
                address = %self.session.client.address, unread_bytes = unsent,
                "a Redis client takes none of its replies and is cut off"
            );
            return Poll::Ready(());
        }
        // Armed anew, so that it wakes the task again.
        self.poll_upkeep(context)
    }

    /// Gives back the room that a burst took.
    fn trim(&mut self) {
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        self.output = BytesMut::new();
        self.scratch = BytesMut::new();
        self.batch = Vec::new();
        self.pipeline.trim();
        self.read_bytes = READ_BYTES_MIN;
    }

    /// Writes replies that are ready to the output.
    fn poll_answers(&mut self, context: &mut std::task::Context<'_>) -> bool {
        let mut progressed = false;
        let unread_bytes_max = self.unread_bytes_max();
        while self.unsent() < unread_bytes_max {
            let before = self.output.len();
            let upkeep = &self.upkeep;
            let is_full = || upkeep.is_full();
            let finished = self.pipeline.poll_front(context, &mut self.output, is_full);
            let Some(finished) = finished else { break };
            if let Some(error) = finished.error {
                self.context.metrics.failed(error.kind);
                if error.kind == ErrorKind::Busy {
                    self.throttle.note_refused();
                }
            }
            // It was the last: no request is taken after a `WATCH`.
            if self.watching && self.pipeline.is_empty() {
                self.watching = false;
                self.session.note_watched(finished.watched);
            }
            let bytes = self.output.len() - before;
            self.reply_bytes = bytes.max(self.reply_bytes - self.reply_bytes / 16);
            self.upkeep.hold(self.unsent());
            progressed = true;
        }
        self.expect();
        progressed
    }

    /// Takes requests out of the input and starts those that may run.
    fn take_requests(&mut self) -> bool {
        let mut progressed = false;
        let mut deadline = None;
        while self.has_room() && !self.watching && self.turn.requests > 0 {
            self.turn.requests -= 1;
            if let Some(stalled) = self.stalled.take() {
                if !self.pipeline.admits(&stalled.access) {
                    self.stalled = Some(stalled);
                    break;
                }
                self.enqueue(stalled, &mut deadline);
            } else if self.closing {
                break;
            } else {
                match self.decoder.decode(&mut self.input, &mut self.arguments) {
                    Ok(Decoded::Incomplete) => {
                        self.closing |= self.ended;
                        break;
                    }
                    Ok(Decoded::Request) => self.request(&mut deadline),
                    Ok(Decoded::TooLarge(too_large)) => {
                        self.session.note_refused();
                        let manner = self.manner();
                        self.refuse(CommandError::of_too_large(&too_large), manner);
                    }
                    Err(error) => {
                        self.context.metrics.protocol_errors.inc();
                        let manner = self.manner();
                        self.refuse(CommandError::request(format!("ERR {error}")), manner);
                        self.closing = true;
                        self.linger = true;
                    }
                }
            }
            progressed = true;
        }
        self.start_batch(deadline);
        progressed
    }

    /// How the next request is to be replied to.
    fn manner(&mut self) -> Manner {
        let muted = self.session.replies != ReplyMode::On;
        if self.session.replies == ReplyMode::SkipNext {
            self.session.replies = ReplyMode::On;
        }
        Manner { protocol: self.session.protocol, muted }
    }

    /// Judges the request in `arguments`.
    fn request(&mut self, deadline: &mut Option<Instant>) {
        let Some(command) = Command::find(self.arguments.get(0)) else {
            if is_http(self.arguments.get(0)) {
                self.context.metrics.protocol_errors.inc();
                tracing::warn!(
                    address = %self.session.client.address,
                    "a Redis client speaks HTTP and is cut off: a web page may be behind it"
                );
                self.closing = true;
                return;
            }
            let rest = self.arguments.iter_from(1);
            let error = CommandError::unknown_command(self.arguments.get(0), rest);
            self.arguments.clear();
            self.session.note_refused();
            let manner = self.manner();
            return self.refuse(error, manner);
        };
        self.context.metrics.taken(command);
        self.session.client.note_command(command);
        let mut manner = self.manner();
        let at_once = self.pipeline.is_empty();
        let out = if at_once { &mut self.output } else { &mut self.scratch };
        let start = out.len();
        let planned =
            commands::plan(&self.context, &mut self.session, command, &self.arguments, out);
        let request_bytes = self.arguments.frame_bytes();
        // The plan shares what it needs; the rest of the received bytes can be reused.
        self.arguments.clear();
        self.closing |= self.session.quit;
        // The new version counts from this reply on, as does the end of silence.
        manner.protocol = self.session.protocol;
        manner.muted &= !self.session.take_unmuted();
        match planned {
            Ok(Plan::Replied) if manner.muted => {
                let out = if at_once { &mut self.output } else { &mut self.scratch };
                out.truncate(start);
            }
            Ok(Plan::Replied) if at_once => {}
            // `CLIENT REPLY` may have no reply.
            Ok(Plan::Replied) if self.scratch.is_empty() => {}
            Ok(Plan::Replied) => {
                let reply = self.scratch.split().freeze();
                self.pipeline.push_reply(reply, manner);
            }
            Ok(plan) => {
                let access = self.pipeline.access(&plan);
                let stalled = Stalled { plan, access, manner, request_bytes };
                if self.pipeline.admits(&stalled.access) {
                    self.enqueue(stalled, deadline);
                } else {
                    self.stalled = Some(stalled);
                }
            }
            Err(error) => self.refuse(error, manner),
        }
    }

    /// Replies by an error, in its turn.
    fn refuse(&mut self, error: CommandError, manner: Manner) {
        self.context.metrics.failed(error.kind);
        if manner.muted {
            return;
        }
        let at_once = self.pipeline.is_empty();
        let out = if at_once { &mut self.output } else { &mut self.scratch };
        Replies::new(out, manner.protocol).error(&error.text);
        if !at_once {
            let reply = self.scratch.split().freeze();
            self.pipeline.push_reply(reply, manner);
        }
    }

    /// Appends a request to the pipeline; single operations are started with their batch.
    fn enqueue(&mut self, request: Stalled, deadline: &mut Option<Instant>) {
        let Stalled { plan, access, manner, request_bytes } = request;
        let timeout = self.context.options.request_timeout;
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + timeout);
        let work = match plan {
            Plan::Single { operation, shape } => {
                self.batch.push(operation);
                Work::Queued(shape)
            }
            Plan::Wide(wide) => {
                self.watching = matches!(wide, Wide::Watch(_));
                Work::Wide(run_wide(&self.context, wide, deadline))
            }
            Plan::Once { origin, operation, shape } => {
                let pending = self.context.backend.start_as(origin, operation, deadline);
                Work::Single(shape, pending)
            }
            Plan::Replied => unreachable!("what is replied is not started"),
        };
        self.pipeline.push(work, access, manner, request_bytes);
        self.expect();
    }

    /// Starts the operations that were taken, all at once.
    fn start_batch(&mut self, deadline: Option<Instant>) {
        if self.batch.is_empty() {
            return;
        }
        let deadline = deadline.expect("what was taken has a deadline");
        let backend = &self.context.backend;
        if self.batch.len() == 1
            && let Some(operation) = self.batch.pop()
        {
            self.pipeline.started([backend.start(operation, deadline)]);
        } else {
            let capacity = self.batch.len();
            let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(capacity));
            self.pipeline.started(backend.start_all(batch, deadline));
        }
    }
}

impl<B: Backend, S> Drop for Connection<B, S> {
    fn drop(&mut self) {
        self.context.clients.leave(self.session.client.id);
        self.context.metrics.connections.dec();
    }
}
