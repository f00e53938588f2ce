//! One request on its way: sent, judged, and sent again until its deadline.
//!
//! Every attempt of a write carries the same (session, sequence), so that its shard applies it once
//! however many of them arrive. A write is *in doubt* from the first attempt whose fate nobody
//! knows: from then on only the state machine's word ends it otherwise than as "maybe committed",
//! for a refusal of the latest attempt says nothing about the earlier one.
//!
//! What comes of an attempt at a write:
//!
//! | the attempt                                   | not in doubt          | in doubt            |
//! | --------------------------------------------- | --------------------- | ------------------- |
//! | an outcome                                    | the answer            | the answer          |
//! | outcome `OutOfRange` (never recorded)         | retry, map refreshed  | retry, likewise     |
//! | outcome `SessionExpired`                      | retry, new session    | maybe committed     |
//! | outcome `Acknowledged`                        | retry, new sequence   | maybe committed     |
//! | the last two, name given by the caller        | the answer            | maybe committed     |
//! | reply lost, connection lost, leader deposed   | retry, now in doubt   | retry               |
//! | not leader, other epoch, no group, suspect, … | retry                 | retry               |
//! | damaged or suspect, the only replica          | that error            | maybe committed     |
//! | not sent; refused by a stopping node          | retry                 | retry               |
//! | `Busy`, disk full, storage cannot be read     | that error            | retry               |
//! | too large, keys in several shards             | that error            | maybe committed     |
//! | this node stops                               | that error            | maybe committed     |
//! | this node has no memory for waiting           | that error            | waits all the same  |
//! | the deadline                                  | timeout, or no leader | maybe committed     |
//!
//! A read is never in doubt: where it was lost, it is made again.
//!
//! No request has a timer of its own: lanes answer at the deadline, overdue forwards are swept, and
//! only the rare pause before another attempt arms one, on the shards' runtime, so that a caller
//! needs none. Pauses double up to a limit, with jitter, so that what many requests lost at once
//! does not come back at once.
//!
//! Invariants:
//!
//! * The first attempt is made by the call that starts the request, the others when it is polled.
//! * A request holds its bytes of the budget from its start to its end, pauses included.
//! * A request that has failed holds nothing any more, even before its caller looks.
//! * A request ends once; from then on its sequence counts as finished, and no attempt follows.
//! * A write gets another name only when it certainly had no effect under the present one.
//!
//! What is absent: whom to ask (see [`crate::route`]).

use crate::error::RouteError;
use crate::metrics::{Cause, Kind, Outcome};
use crate::route::{Aim, Inner, Prepared, Terms, Tries};
use crate::session::Ticket;
use bytes::Bytes;
use flotilla_shard::{
    Answer, CommandFailure, Consistency, GroupId, NodeId, Operation, Origin, Permit, Refusal,
    WriteOutcome,
};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

pub(crate) type ReplyReceiver = oneshot::Receiver<Result<Answer, Refusal>>;

/// Attempts that follow a hint or a new descriptor without a pause; then there is one, since the
/// nodes may be sending the request in a circle.
const FOLLOWS_MAX: u32 = 3;

/// The future of an operation's answer. Dropping it does not undo what was sent.
#[must_use = "later attempts are made, and the answer is given, only when it is awaited"]
pub struct Pending {
    inner: Arc<Inner>,
    operation: Operation,
    terms: Terms,
    /// Bytes of the budget, between attempts; an attempt takes them along, and its end gives them
    /// back.
    permit: Option<Permit>,
    /// Holds a write's sequence as unfinished; `None` for reads, and for writes that the caller
    /// named.
    ticket: Option<Ticket>,
    tries: Tries,
    /// The fate of an attempt is unknown; see the table above.
    in_doubt: bool,
    state: State,
}

enum State {
    /// An attempt is to be made now.
    Due,
    /// `node` was asked.
    Asked { node: NodeId, group: GroupId, forward: Option<u64>, reply: ReplyReceiver },
    /// Waiting before the next attempt.
    Pausing(oneshot::Receiver<()>),
    /// There will be no further attempt.
    Failed(RouteError),
    /// The answer was given.
    Ended,
}

impl Pending {
    pub(crate) fn new(
        inner: Arc<Inner>,
        operation: Operation,
        deadline: Instant,
        now: Instant,
    ) -> Pending {
        let names = operation.is_write() && inner.options.names_writes();
        let ticket = names.then(|| inner.sessions.begin(inner.environment.thread_slot()));
        let origin = ticket.as_ref().map_or_else(Origin::default, Ticket::origin);
        let kind = Kind::of(&operation);
        let consistency = Consistency::Linearizable;
        let terms = Terms { kind, origin, consistency, entered: now, deadline };
        let tries = Tries::default();
        let in_doubt = false;
        let mut state = State::Due;
        if inner.refuses_new.load(Ordering::Acquire) {
            state = State::Failed(RouteError::Shutdown);
        }
        inner.under_way.enter();
        Pending { inner, operation, terms, permit: None, ticket, tries, in_doubt, state }
    }

    /// The same under a name that the caller chose, and will answer for.
    pub(crate) fn named(mut self, origin: Origin) -> Pending {
        self.ticket = None;
        self.terms.origin = origin;
        self
    }

    /// The same read, as current as the caller wants it.
    pub(crate) fn with_consistency(mut self, consistency: Consistency) -> Pending {
        self.terms.consistency = consistency;
        self
    }

    /// Makes the next attempt and hands it over.
    pub(crate) fn advance(&mut self) {
        match self.prepare() {
            Some(Prepared::Local(request)) => self.inner.lanes.submit(request),
            Some(Prepared::Remote { node, id, message }) => {
                let report = self.inner.transport.send(node, vec![message]);
                if !report.refused_requests.is_empty() {
                    self.refused(node, id);
                }
            }
            None => {}
        }
    }

    /// Makes the next attempt; the caller hands it over. `None`: there is nothing to hand over.
    pub(crate) fn prepare(&mut self) -> Option<Prepared> {
        if !matches!(self.state, State::Due) {
            return None;
        }
        let first = self.tries.cause.is_none();
        let now = if first { self.terms.entered } else { self.inner.environment.now() };
        if now >= self.terms.deadline {
            self.fail(self.out_of_time());
            return None;
        }
        match self.inner.aim(&self.operation, &self.terms, &mut self.tries) {
            Aim::At { node, group, epoch } => {
                let permit = match self.permit.take() {
                    Some(permit) => permit,
                    None => match self.admit(Some(group)) {
                        Ok(permit) => permit,
                        Err(busy) => {
                            self.fail(busy);
                            return None;
                        }
                    },
                };
                let to = (node, group, epoch, permit);
                let (prepared, reply) = self.inner.prepare(self.operation.clone(), &self.terms, to);
                let forward = match &prepared {
                    Prepared::Local(_) => None,
                    Prepared::Remote { id, .. } => Some(*id),
                };
                self.state = State::Asked { node, group, forward, reply };
                Some(prepared)
            }
            Aim::Nobody(cause) => {
                self.pause(cause);
                None
            }
            Aim::Never(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Takes the request's bytes from the budget. A write in doubt was let in before: if the door
    /// were closed to it now, it would end unknown although it could still be made certain.
    fn admit(&self, group: Option<GroupId>) -> Result<Permit, RouteError> {
        match self.in_doubt {
            true => Ok(self.inner.carry_on(&self.operation, group)),
            false => self.inner.admit(&self.operation, group),
        }
    }

    /// Makes no further attempt. What an earlier one did is not known once it is in doubt.
    fn fail(&mut self, error: RouteError) {
        let error = match self.in_doubt {
            true => RouteError::Timeout { maybe_committed: true },
            false => error,
        };
        // It may be long until somebody asks: what waited before it may not be finished.
        self.operation = Operation::Get { key: Bytes::new() };
        if let Some(mut permit) = self.permit.take() {
            permit.note_unserved();
        }
        self.ticket = None;
        self.state = State::Failed(error);
    }

    /// True if the present attempt is the forward `id`.
    pub(crate) fn is_forward(&self, id: u64) -> bool {
        matches!(self.state, State::Asked { forward: Some(forward), .. } if forward == id)
    }

    /// The transport did not take the forward `id` to `node`.
    pub(crate) fn refused(&mut self, node: NodeId, id: u64) {
        self.inner.forwards.retract(id);
        if let Some(group) = self.tries.group {
            self.inner.hints.forget(group, node);
        }
        self.tries.avoid = Some(node);
        self.pause(Cause::Refused);
    }

    /// Tries again at once, if that has not been done too often.
    fn follow(&mut self, cause: Cause) {
        let now = self.inner.environment.now();
        if self.tries.follows >= FOLLOWS_MAX || now >= self.terms.deadline {
            return self.pause(cause);
        }
        self.inner.metrics.retried(cause);
        self.tries.cause = Some(cause);
        self.tries.follows += 1;
        self.state = State::Due;
    }

    /// Tries again after a pause, if there is time.
    fn pause(&mut self, cause: Cause) {
        self.tries.cause = Some(cause);
        let left = self.terms.deadline.saturating_duration_since(self.inner.environment.now());
        if left.is_zero() {
            return self.fail(self.out_of_time());
        }
        // Who waits occupies memory too: the door may be too full for that.
        if self.permit.is_none() {
            match self.admit(self.tries.group) {
                Ok(permit) => self.permit = Some(permit),
                Err(busy) => return self.fail(busy),
            }
        }
        self.inner.metrics.retried(cause);
        let pause = self.pause_length().min(left);
        self.tries.attempt += 1;
        self.tries.follows = 0;
        self.state = State::Pausing(self.inner.environment.after(pause));
    }

    fn pause_length(&self) -> Duration {
        let options = &self.inner.options;
        let doubled = options.backoff_min.saturating_mul(1 << self.tries.attempt.min(16));
        // From a half to three halves, in steps of a millionth.
        let millionths = 500_000 + self.inner.environment.random() % 1_000_000;
        doubled.min(options.backoff_max).mul_f64(millionths as f64 / 1e6)
    }

    /// What to say when the deadline passed between attempts: nothing was proposed.
    fn out_of_time(&self) -> RouteError {
        match self.tries.cause {
            Some(
                Cause::NotLeader
                | Cause::NoLeader
                | Cause::NoRoute
                | Cause::GroupNotFound
                | Cause::Refused
                | Cause::Suspect
                | Cause::Stopping,
            ) => RouteError::NoLeader { group: self.tries.group },
            Some(
                Cause::Epoch
                | Cause::OutOfRange
                | Cause::LostRead
                | Cause::LostWrite
                | Cause::Session
                | Cause::Unable
                | Cause::TimedOut,
            )
            | None => RouteError::Timeout { maybe_committed: false },
        }
    }

    /// Takes an answer, or decides what its absence means. `Some`: it ends the request.
    fn judge(
        &mut self,
        node: NodeId,
        group: GroupId,
        result: Result<Answer, Refusal>,
    ) -> Option<Answer> {
        let refusal = match result {
            // Committed, and changed nothing on any replica: the shard was split meanwhile.
            Ok(Answer::Written(WriteOutcome::Failed(CommandFailure::OutOfRange))) => {
                self.inner.refresh();
                self.pause(Cause::OutOfRange);
                return None;
            }
            // Not applied under this name; or applied by an attempt before, and then forgotten.
            Ok(Answer::Written(WriteOutcome::Failed(
                failure @ (CommandFailure::SessionExpired { .. } | CommandFailure::Acknowledged),
            ))) if self.in_doubt || self.ticket.is_some() => {
                self.renamed(&failure);
                return None;
            }
            Ok(answer) if self.operation.is_answered_by(&answer) => return Some(answer),
            Ok(_) => {
                tracing::error!(node = node.0, group = group.0, "an answer to another question");
                self.lost(node, group);
                return None;
            }
            Err(refusal) => refusal,
        };
        if let Some(error) = RouteError::of_final(&refusal) {
            // Whoever refuses now may have an answer later, to the attempt that is in doubt.
            match self.in_doubt && error.may_pass() {
                true => self.pause(Cause::Unable),
                false => self.fail(error),
            }
            return None;
        }
        match refusal {
            Refusal::NotLeader { leader } => self.not_leader(node, group, leader),
            Refusal::EpochMismatch { descriptors } => self.learned(descriptors, Cause::Epoch),
            Refusal::OutOfRange { descriptor } => {
                self.learned(vec![descriptor], Cause::OutOfRange);
            }
            Refusal::GroupNotFound => {
                self.inner.refresh();
                self.elsewhere(node, group, Cause::GroupNotFound);
            }
            Refusal::Suspect | Refusal::Damaged if self.inner.is_only_replica(group, node) => {
                let what = match refusal {
                    Refusal::Damaged => "its rows are damaged",
                    _ => "it lost what it had promised to remember",
                };
                self.fail(RouteError::Corrupt(format!(
                    "shard {group}: {what}, and {node} holds its only replica; restore it"
                )));
            }
            Refusal::Suspect | Refusal::Damaged => self.elsewhere(node, group, Cause::Suspect),
            Refusal::Shutdown if node == self.inner.options.node => {
                self.fail(RouteError::Shutdown);
            }
            Refusal::Shutdown => self.elsewhere(node, group, Cause::Stopping),
            Refusal::Timeout { maybe_committed: true } => self.lost(node, group),
            Refusal::Timeout { maybe_committed: false } => self.pause(Cause::TimedOut),
            Refusal::Busy { .. }
            | Refusal::TooLarge { .. }
            | Refusal::Storage(_)
            | Refusal::DiskFull
            | Refusal::Corrupt(_) => unreachable!("ended the request above"),
        }
        None
    }

    /// What became of the attempt is not known: its answer was lost, or whoever could have given it
    /// does not know.
    fn lost(&mut self, node: NodeId, group: GroupId) {
        if self.operation.is_write() && !self.in_doubt {
            self.in_doubt = true;
            self.inner.metrics.doubts.inc();
        }
        if self.inner.closed.load(Ordering::Acquire) {
            self.fail(RouteError::Shutdown);
        } else if self.in_doubt {
            self.elsewhere(node, group, Cause::LostWrite);
        } else {
            self.elsewhere(node, group, Cause::LostRead);
        }
    }

    /// The shard does not take the write under its present name. Without doubt it had no effect and
    /// gets another one.
    fn renamed(&mut self, failure: &CommandFailure) {
        if self.in_doubt {
            // Ends as "maybe committed", whatever is said here.
            return self.fail(RouteError::Timeout { maybe_committed: true });
        }
        let ticket = match failure {
            CommandFailure::SessionExpired { watermark_ms } => {
                self.inner.metrics.sessions_renewed.inc();
                let environment = &*self.inner.environment;
                self.inner.sessions.renew(&self.terms.origin, *watermark_ms, environment)
            }
            _ => self.inner.sessions.begin(self.inner.environment.thread_slot()),
        };
        self.terms.origin = ticket.origin();
        self.ticket = Some(ticket);
        self.follow(Cause::Session);
    }

    fn not_leader(&mut self, node: NodeId, group: GroupId, leader: Option<NodeId>) {
        self.inner.hints.forget(group, node);
        self.tries.avoid = Some(node);
        let Some(leader) = leader.filter(|leader| *leader != node) else {
            return self.pause(Cause::NotLeader);
        };
        self.inner.hints.learn(group, leader);
        let reachable =
            leader == self.inner.options.node || self.inner.transport.is_connected(leader);
        if reachable {
            self.tries.next = Some(leader);
            self.follow(Cause::NotLeader);
        } else {
            self.pause(Cause::NotLeader);
        }
    }

    fn elsewhere(&mut self, node: NodeId, group: GroupId, cause: Cause) {
        self.inner.hints.forget(group, node);
        self.tries.avoid = Some(node);
        self.pause(cause);
    }

    fn learned(&mut self, descriptors: Vec<flotilla_shard::Descriptor>, cause: Cause) {
        // Nothing new: the asked replica is behind this map, and needs time.
        if self.inner.learn(descriptors) { self.follow(cause) } else { self.pause(cause) }
    }

    fn end(&mut self, result: Result<Answer, RouteError>) -> Poll<Result<Answer, RouteError>> {
        self.state = State::Ended;
        if self.in_doubt && result.is_ok() {
            self.inner.metrics.doubts_resolved.inc();
        }
        self.inner.under_way.leave();
        self.ticket = None;
        self.permit = None;
        let took = self.terms.entered.elapsed();
        self.inner.metrics.ended(self.terms.kind, Outcome::of(&result), took);
        Poll::Ready(result)
    }
}

impl Future for Pending {
    type Output = Result<Answer, RouteError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Due => this.advance(),
                State::Asked { node, group, reply, .. } => {
                    let (node, group) = (*node, *group);
                    match Pin::new(reply).poll(context) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(result)) => {
                            if let Some(answer) = this.judge(node, group, result) {
                                return this.end(Ok(answer));
                            }
                        }
                        Poll::Ready(Err(_)) => this.lost(node, group),
                    }
                }
                State::Pausing(woken) => match Pin::new(woken).poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(())) => this.state = State::Due,
                    // The runtime of the timers has stopped.
                    Poll::Ready(Err(_)) => this.fail(RouteError::Shutdown),
                },
                State::Failed(error) => {
                    let error = error.clone();
                    return this.end(Err(error));
                }
                State::Ended => panic!("a request was polled after it had ended"),
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !matches!(self.state, State::Ended) {
            self.inner.under_way.leave();
            let took = self.terms.entered.elapsed();
            self.inner.metrics.ended(self.terms.kind, Outcome::Abandoned, took);
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("tries", &self.tries).finish_non_exhaustive()
    }
}
