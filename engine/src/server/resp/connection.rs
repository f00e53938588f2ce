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
//! * What a connection holds is bounded by the options, plus one request and one reply.
//!
//! What is absent: accepting connections, and what commands mean.

use super::backend::Backend;
use super::clients::Client;
use super::codec::{Arguments, Decoded, Decoder, Replies};
use super::commands::{self, Command, Context, Plan, Session, run_wide};
use super::error::CommandError;
use super::pipeline::{Access, Pipeline, Work};
use bytes::BytesMut;
use flotilla_shard::Operation;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

/// Room for the first reads of a connection; most requests of most clients fit.
const READ_BYTES_MIN: usize = 4 * 1024;

/// Room for reads of a busy connection.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Replies are written when this much has come together, even if more are ready.
const WRITE_BYTES: usize = 64 * 1024;

/// A buffer that grew beyond this is not kept when it is empty.
const KEPT_BYTES_MAX: usize = 256 * 1024;

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
    stalled: Option<(Plan, Access, usize)>,
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
}

impl<B: Backend, S: AsyncRead + AsyncWrite + Unpin> Connection<B, S> {
    /// A connection that has just been accepted, and entered in the list as `client`.
    pub fn new(context: Arc<Context<B>>, stream: S, client: Arc<Client>) -> Self {
        context.metrics.connections.inc();
        Connection {
            decoder: Decoder::new(context.options.decoder_limits()),
            context,
            stream,
            session: Session { client, protocol: Default::default(), quit: false },
            input: BytesMut::new(),
            read_bytes: READ_BYTES_MIN,
            arguments: Arguments::default(),
            pipeline: Pipeline::new(),
            stalled: None,
            batch: Vec::new(),
            output: BytesMut::new(),
            written: 0,
            scratch: BytesMut::new(),
            reply_bytes: 64,
            ended: false,
            closing: false,
            linger: false,
        }
    }

    /// Serves the client until it leaves, breaks the protocol, or `stop` says so.
    pub async fn run(mut self, mut stop: watch::Receiver<Stop>) {
        loop {
            tokio::select! {
                biased;
                () = poll_fn(|context| self.poll(context)) => break,
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

    /// Ends the sending side and reads what the client still sends: closing a socket with unread
    /// bytes would make the system drop the last reply too.
    async fn discard(&mut self) {
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

    /// Does what can be done now. Ready when the connection is to be closed.
    fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
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
                self.pipeline.poll_ahead(context);
                return Poll::Pending;
            }
        }
    }

    /// Writes replies that are ready to the output.
    fn poll_answers(&mut self, context: &mut std::task::Context<'_>) -> bool {
        let mut progressed = false;
        while self.unsent() < self.context.options.pipeline_bytes_max {
            let before = self.output.len();
            let Some(told) = self.pipeline.poll_front(context, &mut self.output) else { break };
            if let Err(error) = told {
                self.context.metrics.failed(error.kind);
            }
            let bytes = self.output.len() - before;
            self.reply_bytes = bytes.max(self.reply_bytes - self.reply_bytes / 16);
            progressed = true;
        }
        progressed
    }

    /// Takes requests out of the input and starts those that may run.
    fn take_requests(&mut self) -> bool {
        let mut progressed = false;
        let mut deadline = None;
        while self.has_room() {
            if let Some((plan, access, request_bytes)) = self.stalled.take() {
                if !self.pipeline.admits(&access) {
                    self.stalled = Some((plan, access, request_bytes));
                    break;
                }
                self.enqueue(plan, access, request_bytes, &mut deadline);
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
                        self.refuse(CommandError::of_too_large(&too_large));
                    }
                    Err(error) => {
                        self.context.metrics.protocol_errors.inc();
                        self.refuse(CommandError::request(format!("ERR {error}")));
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

    /// True if another request may be taken. What is under way counts with the replies that are
    /// expected of it.
    fn has_room(&self) -> bool {
        let options = &self.context.options;
        let waiting = self.pipeline.len();
        let unsent = self.unsent();
        if waiting == 0 && unsent == 0 {
            return true;
        }
        let bytes = self.pipeline.request_bytes() + waiting * self.reply_bytes + unsent;
        waiting < options.pipeline_requests_max && bytes < options.pipeline_bytes_max
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
            return self.refuse(error);
        };
        self.context.metrics.taken(command);
        self.session.client.note_command(command);
        let at_once = self.pipeline.is_empty();
        let out = if at_once { &mut self.output } else { &mut self.scratch };
        let planned =
            commands::plan(&self.context, &mut self.session, command, &self.arguments, out);
        let request_bytes = self.arguments.frame_bytes();
        // The plan shares what it needs; the rest of the received bytes can be reused.
        self.arguments.clear();
        self.closing |= self.session.quit;
        match planned {
            Ok(Plan::Replied) if at_once => {}
            Ok(Plan::Replied) => {
                let reply = self.scratch.split().freeze();
                self.pipeline.push_reply(reply, self.session.protocol);
            }
            Ok(plan) => {
                let access = self.pipeline.access(&plan);
                if self.pipeline.admits(&access) {
                    self.enqueue(plan, access, request_bytes, deadline);
                } else {
                    self.stalled = Some((plan, access, request_bytes));
                }
            }
            Err(error) => self.refuse(error),
        }
    }

    /// Replies by an error, in its turn.
    fn refuse(&mut self, error: CommandError) {
        self.context.metrics.failed(error.kind);
        let at_once = self.pipeline.is_empty();
        let out = if at_once { &mut self.output } else { &mut self.scratch };
        Replies::new(out, self.session.protocol).error(&error.text);
        if !at_once {
            let reply = self.scratch.split().freeze();
            self.pipeline.push_reply(reply, self.session.protocol);
        }
    }

    /// Appends a request to the pipeline; single operations are started with their batch.
    fn enqueue(
        &mut self,
        plan: Plan,
        access: Access,
        request_bytes: usize,
        deadline: &mut Option<Instant>,
    ) {
        let timeout = self.context.options.request_timeout;
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + timeout);
        let work = match plan {
            Plan::Single { operation, shape } => {
                self.batch.push(operation);
                Work::Queued(shape)
            }
            Plan::Wide(wide) => Work::Wide(run_wide(&self.context, wide, deadline)),
            Plan::Replied => unreachable!("what is replied is not started"),
        };
        self.pipeline.push(work, access, self.session.protocol, request_bytes);
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

    /// Bytes of replies that the client has not taken.
    fn unsent(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes replies; true if some were taken.
    fn poll_write(&mut self, context: &mut std::task::Context<'_>) -> std::io::Result<bool> {
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
    fn poll_read(&mut self, context: &mut std::task::Context<'_>) -> std::io::Result<bool> {
        if self.ended || self.closing || self.stalled.is_some() || !self.has_room() {
            return Ok(false);
        }
        // Grows with what has arrived, whatever was announced.
        let missing = self.decoder.missing_bytes(&self.input);
        let wanted = missing.clamp(self.read_bytes, self.input.len().max(READ_BYTES_MAX));
        if self.input.capacity() - self.input.len() < wanted.min(READ_BYTES_MIN) {
            self.input.reserve(wanted);
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
        self.session.client.note_active(Instant::now());
        if bytes == room {
            self.read_bytes = (self.read_bytes * 4).min(READ_BYTES_MAX);
        }
        Ok(true)
    }
}

/// True for the words that an HTTP request has at its start: a browser can be made to send one, with
/// commands in its body, to a server that only its own machine can reach.
fn is_http(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:")
}

impl<B: Backend, S> Drop for Connection<B, S> {
    fn drop(&mut self) {
        self.context.clients.leave(self.session.client.id);
        self.context.metrics.connections.dec();
    }
}
