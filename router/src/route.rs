//! Where a request goes next: the shard of its keys, and the replica to ask.
//!
//! The replica on this node knows best who leads; then what other nodes said; then any other
//! replica may be asked, one after another. A node that just failed is not the next one asked, unless
//! it holds the only replica. A read that need not be current asks the replica on this node, or any
//! other that can be reached, and the leader when those cannot serve it.
//!
//! Invariants:
//!
//! * With the leader on this node and the map settled, finding the way takes no lock and no
//!   allocation beyond the reply channel.
//! * What shards say about themselves enters the map; nothing else does.
//!
//! What is absent: waiting and trying again (see [`crate::pending`]).

use crate::environment::{Environment, System};
use crate::error::RouteError;
use crate::forward::{Forwards, Sent};
use crate::leaders::LeaderHints;
use crate::locate::{Located, locate};
use crate::map::RangeMap;
use crate::metrics::{Cause, Kind, RouterMetrics};
use crate::options::RouterOptions;
use crate::peer::{ForwardedRequest, Inbound, PeerMessage, Transport};
use crate::pending::{Pending, ReplyReceiver};
use crate::session::Sessions;
use crate::shards::LocalShards;
use crate::sink::Sink;
use crate::under_way::UnderWay;
use arc_swap::ArcSwap;
use flotilla_shard::{
    Budget, Consistency, Descriptor, Epoch, GroupId, NodeId, Operation, Origin, Permit, Reply,
    Request,
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// What a request costs the budget besides its keys and values: what it occupies in queues, tables
/// and the log's bookkeeping.
const REQUEST_OVERHEAD_BYTES: u64 = 256;

/// Attempts that wait for the own replica to hear of a leader before others are asked.
const OWN_REPLICA_ATTEMPTS: u32 = 3;

/// Takes operations to the shards that they are for, on whatever node those are led. Clones share
/// everything.
#[derive(Clone)]
pub struct Router {
    pub(crate) inner: Arc<Inner>,
}

impl Router {
    /// A router over the shards of this node and the way to others.
    ///
    /// Starts a task on the shards' runtime that ends overdue forwards; the task ends with the
    /// router.
    pub fn new(
        options: RouterOptions,
        lanes: impl LocalShards,
        transport: Arc<dyn Transport>,
        budget: Budget,
        metrics: RouterMetrics,
    ) -> Router {
        let handle = lanes.handle();
        let interval = options.sweep_interval;
        let system = Arc::new(System::new(handle.clone()));
        let router = Router::with_environment(options, lanes, transport, budget, metrics, system);
        handle.spawn(sweep(Arc::downgrade(&router.inner), interval));
        router
    }

    /// The same under other clocks and chance, without the task: the caller calls [`Router::sweep`]
    /// every [`RouterOptions::sweep_interval`], and the shards need no runtime.
    pub fn with_environment(
        options: RouterOptions,
        lanes: impl LocalShards,
        transport: Arc<dyn Transport>,
        budget: Budget,
        metrics: RouterMetrics,
        environment: Arc<dyn Environment>,
    ) -> Router {
        let inner = Arc::new(Inner {
            options,
            lanes: Box::new(lanes),
            transport,
            budget,
            // Counting from a random place, ids of two lives of a node do not meet.
            forwards: Forwards::new(environment.random(), metrics.clone()),
            metrics,
            map: ArcSwap::default(),
            learning: Mutex::new(()),
            hints: LeaderHints::new(),
            sessions: Sessions::new(&*environment),
            environment,
            under_way: UnderWay::default(),
            refuses_new: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        inner.refresh();
        Router { inner }
    }

    /// Ends forwards that are overdue, or wait for a node that another one leads by now.
    pub fn sweep(&self) {
        self.inner.sweep();
    }

    /// Starts `operation` and gives the future of its answer.
    ///
    /// The first attempt is made before this returns: operations that are started one after another
    /// on one shard arrive there in that order. Later attempts are made when the future is polled.
    /// Dropping the future does not undo what was sent.
    ///
    /// All keys must lie in one shard, else the future ends in [`RouteError::CrossShard`]; see
    /// [`crate::scan`] for requests over several.
    pub fn start(&self, operation: Operation, deadline: Instant) -> Pending {
        let now = self.inner.environment.now();
        let mut pending = Pending::new(self.inner.clone(), operation, deadline, now);
        pending.advance();
        pending
    }

    /// Starts a write under a name that the caller chose, and repeats it under that name only.
    /// Otherwise as [`Router::start`].
    ///
    /// The caller answers for the name: one session, one sequence, one write. That the shard has
    /// forgotten the session, or the answer, is told as the write's outcome
    /// ([`CommandFailure::SessionExpired`](flotilla_shard::CommandFailure::SessionExpired),
    /// [`CommandFailure::Acknowledged`](flotilla_shard::CommandFailure::Acknowledged)), unless an
    /// attempt made here was lost: then as [`RouteError::Timeout`], maybe committed.
    pub fn start_as(&self, origin: Origin, operation: Operation, deadline: Instant) -> Pending {
        let now = self.inner.environment.now();
        let pending = Pending::new(self.inner.clone(), operation, deadline, now);
        let mut pending = pending.named(origin);
        pending.advance();
        pending
    }

    /// Starts a read that is as current as `consistency` says. Otherwise as [`Router::start`].
    pub fn start_read(
        &self,
        operation: Operation,
        consistency: Consistency,
        deadline: Instant,
    ) -> Pending {
        let now = self.inner.environment.now();
        let pending = Pending::new(self.inner.clone(), operation, deadline, now);
        let mut pending = pending.with_consistency(consistency);
        pending.advance();
        pending
    }

    /// Starts several operations, waking each thread and each peer's connection once. Otherwise as
    /// [`Router::start`], in the order given.
    pub fn start_all(&self, operations: Vec<Operation>, deadline: Instant) -> Vec<Pending> {
        self.start_all_with(operations, Consistency::Linearizable, deadline)
    }

    /// As [`Router::start_all`], with reads as current as `consistency` says.
    pub fn start_all_with(
        &self,
        operations: Vec<Operation>,
        consistency: Consistency,
        deadline: Instant,
    ) -> Vec<Pending> {
        let now = self.inner.environment.now();
        let mut local = Vec::new();
        let mut remote: Vec<(NodeId, Vec<PeerMessage>)> = Vec::new();
        let mut pendings: Vec<Pending> = operations
            .into_iter()
            .map(|operation| {
                let pending = Pending::new(self.inner.clone(), operation, deadline, now);
                let mut pending = pending.with_consistency(consistency);
                match pending.prepare() {
                    Some(Prepared::Local(request)) => local.push(request),
                    Some(Prepared::Remote { node, message, .. }) => {
                        match remote.iter_mut().find(|(to, _)| *to == node) {
                            Some((_, messages)) => messages.push(message),
                            None => remote.push((node, vec![message])),
                        }
                    }
                    None => {}
                }
                pending
            })
            .collect();
        if !local.is_empty() {
            self.inner.lanes.submit_all(local);
        }
        for (node, messages) in remote {
            let report = self.inner.transport.send(node, messages);
            for id in report.refused_requests {
                let refused = pendings.iter_mut().find(|pending| pending.is_forward(id));
                refused.expect("a transport refuses what it was given").refused(node, id);
            }
        }
        pendings
    }

    /// The answer to one operation on one shard; see [`Router::start`].
    pub fn execute(&self, operation: Operation, deadline: Instant) -> Pending {
        self.start(operation, deadline)
    }

    /// The node's promises of memory.
    pub fn budget(&self) -> &Budget {
        &self.inner.budget
    }

    /// What this node knows of the shards.
    pub fn map(&self) -> Arc<RangeMap> {
        self.inner.map.load_full()
    }

    /// Learns descriptors that somebody else was given, such as those agreed at the cluster's birth.
    pub fn learn(&self, descriptors: Vec<Descriptor>) {
        self.inner.learn(descriptors);
    }

    /// Where messages of other nodes go. It does not keep the router alive.
    pub fn sink(&self) -> Arc<dyn Inbound> {
        Arc::new(Sink::new(Arc::downgrade(&self.inner)))
    }

    /// Refuses what callers on this node start from now on. What was started before goes on, and so
    /// does what other nodes send.
    pub fn refuse_new(&self) {
        self.inner.refuses_new.store(true, Ordering::Release);
    }

    /// Returns when nothing that was started here is under way. Useful after
    /// [`Router::refuse_new`]. A caller that neither polls nor drops its future is waited for.
    pub async fn drained(&self) {
        self.inner.under_way.none().await;
    }

    /// Refuses everything from now on, and ends what is on its way to other nodes.
    pub fn shutdown(&self) {
        self.inner.closed.store(true, Ordering::Release);
        self.inner.forwards.lose_all();
    }
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("node", &self.inner.options.node).finish_non_exhaustive()
    }
}

/// Ends forwards that nobody should wait for until the router is gone.
async fn sweep(inner: Weak<Inner>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match inner.upgrade() {
            Some(inner) if !inner.closed.load(Ordering::Acquire) => {
                inner.sweep();
            }
            _ => return,
        }
    }
}

/// What the clones of a router share.
pub(crate) struct Inner {
    pub(crate) options: RouterOptions,
    pub(crate) environment: Arc<dyn Environment>,
    pub(crate) lanes: Box<dyn LocalShards>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) budget: Budget,
    pub(crate) metrics: RouterMetrics,
    pub(crate) forwards: Forwards,
    pub(crate) map: ArcSwap<RangeMap>,
    /// Held while a new map is made, so that none is lost.
    learning: Mutex<()>,
    pub(crate) hints: LeaderHints,
    pub(crate) sessions: Sessions,
    /// Requests that were started and have not ended.
    pub(crate) under_way: UnderWay,
    pub(crate) refuses_new: AtomicBool,
    pub(crate) closed: AtomicBool,
}

/// What the attempts of one request have taught so far.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// Pauses made.
    pub(crate) attempt: u32,
    /// Attempts made without a pause since the last one.
    pub(crate) follows: u32,
    /// Who was named by the one asked last.
    pub(crate) next: Option<NodeId>,
    /// Who was asked last and did not help.
    pub(crate) avoid: Option<NodeId>,
    /// The shard asked last.
    pub(crate) group: Option<GroupId>,
    /// Why there is another attempt.
    pub(crate) cause: Option<Cause>,
}

/// A decision about one attempt.
pub(crate) enum Aim {
    /// Ask this node.
    At { node: NodeId, group: GroupId, epoch: Epoch },
    /// There is nobody to ask now.
    Nobody(Cause),
    /// There will never be.
    Never(RouteError),
}

/// An attempt that is ready to be handed over.
pub(crate) enum Prepared {
    Local(Request),
    Remote { node: NodeId, id: u64, message: PeerMessage },
}

/// What of a request stays the same in all its attempts.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) kind: Kind,
    pub(crate) origin: Origin,
    pub(crate) consistency: Consistency,
    pub(crate) entered: Instant,
    pub(crate) deadline: Instant,
}

impl Inner {
    fn sweep(&self) {
        let now = self.environment.now();
        self.forwards.sweep(now);
        self.forwards.lose_overtaken(now, |group| self.lanes.leader(group));
    }

    /// Decides whom to ask next.
    pub(crate) fn aim(&self, operation: &Operation, terms: &Terms, tries: &mut Tries) -> Aim {
        if self.closed.load(Ordering::Acquire) {
            return Aim::Never(RouteError::Shutdown);
        }
        let mut map = self.map.load();
        let mut found = locate(&map, operation);
        if !matches!(found, Located::In(_)) && self.refresh() {
            map = self.map.load();
            found = locate(&map, operation);
        }
        let descriptor = match found {
            Located::In(piece) => &*piece.descriptor,
            Located::Unknown => {
                tries.group = None;
                return Aim::Nobody(Cause::NoRoute);
            }
            Located::Across => return Aim::Never(RouteError::CrossShard),
        };
        tries.group = Some(descriptor.group);
        let any = terms.consistency != Consistency::Linearizable && !operation.is_write();
        let node = match any.then(|| self.any_replica(descriptor, tries)).flatten() {
            Some(node) => Some(node),
            None => self.target(descriptor, tries),
        };
        let Some(node) = node else { return Aim::Nobody(Cause::NoLeader) };
        Aim::At { node, group: descriptor.group, epoch: descriptor.epoch }
    }

    /// True if, as far as is known here, nobody but `node` has a replica of `group`.
    pub(crate) fn is_only_replica(&self, group: GroupId, node: NodeId) -> bool {
        let map = self.map.load();
        let piece = map.pieces().iter().find(|piece| piece.descriptor.group == group);
        piece.is_some_and(|piece| match &piece.descriptor.replicas[..] {
            [only] => only.node == node,
            _ => false,
        })
    }

    /// Takes what `operation` costs from the budget, for as long as it waits or is on its way.
    ///
    /// No shard gets more than is left for the others.
    pub(crate) fn admit(
        &self,
        operation: &Operation,
        group: Option<GroupId>,
    ) -> Result<Permit, RouteError> {
        let bytes = cost_bytes(operation);
        let permit = match group {
            Some(group) => self.budget.acquire_for(group, bytes),
            None => self.budget.acquire(bytes),
        };
        let retry_after = self.options.busy_retry_after;
        permit.ok_or(RouteError::Busy { retry_after })
    }

    /// Takes what `operation` costs once more: it was let in before.
    pub(crate) fn carry_on(&self, operation: &Operation, group: Option<GroupId>) -> Permit {
        self.budget.carry_on(group, cost_bytes(operation))
    }

    /// Makes the attempt that was decided, and where its answer will show.
    pub(crate) fn prepare(
        &self,
        operation: Operation,
        terms: &Terms,
        (node, group, epoch, permit): (NodeId, GroupId, Epoch, Permit),
    ) -> (Prepared, ReplyReceiver) {
        let Terms { origin, consistency, entered, deadline, .. } = *terms;
        if node == self.options.node {
            let (reply, receiver) = oneshot::channel();
            let reply = Reply::Oneshot(reply);
            let request = Request {
                group,
                epoch,
                operation,
                consistency,
                origin,
                deadline,
                entered,
                permit,
                reply,
            };
            return (Prepared::Local(request), receiver);
        }
        let (is_write, leader) = (operation.is_write(), self.lanes.leader(group));
        let at = self.environment.now();
        let sent = Sent { node, group, leader, is_write, at, deadline };
        let (id, receiver) = self.forwards.enter(sent, permit);
        let timeout = deadline.saturating_duration_since(at);
        let body = ForwardedRequest { group, epoch, operation, consistency, origin, timeout };
        self.metrics.forwarded.inc();
        (Prepared::Remote { node, id, message: PeerMessage::Request { id, body } }, receiver)
    }

    /// Who is asked first for what need not be current: the replica here, else the next one that
    /// can be reached. `None` once somebody named the leader, or all have been asked.
    fn any_replica(&self, descriptor: &Descriptor, tries: &Tries) -> Option<NodeId> {
        let me = self.options.node;
        if tries.next.is_some() {
            return None;
        }
        let has_own = descriptor.replica_on(me).is_some();
        if has_own && tries.cause.is_none() {
            return Some(me);
        }
        let others = descriptor.replicas.iter().map(|replica| replica.node);
        let mut others = others.filter(|node| *node != me && self.transport.is_connected(*node));
        // Pauses made count who was asked; the replica here was asked without one.
        let asked = tries.attempt.saturating_sub(u32::from(has_own));
        others.nth(asked as usize).filter(|node| Some(*node) != tries.avoid)
    }

    fn target(&self, descriptor: &Descriptor, tries: &mut Tries) -> Option<NodeId> {
        if let Some(next) = tries.next.take() {
            return Some(next);
        }
        let avoid = tries.avoid.take();
        let group = descriptor.group;
        if let Some(leader) = self.lanes.leader(group)
            && Some(leader) != avoid
        {
            return Some(leader);
        }
        if let Some(leader) = self.hints.get(group)
            && Some(leader) != avoid
        {
            return Some(leader);
        }
        let me = self.options.node;
        let hears_itself = descriptor.replica_on(me).is_some();
        if hears_itself && avoid.is_none() && tries.attempt < OWN_REPLICA_ATTEMPTS {
            return None;
        }
        let others = || {
            descriptor.replicas.iter().map(|replica| replica.node).filter(|node| {
                *node != me && Some(*node) != avoid && self.transport.is_connected(*node)
            })
        };
        let count = others().count();
        let other = others().nth(tries.attempt as usize % count.max(1));
        // A sole replica that does not lead is asked all the same: it says why.
        other.or_else(|| self.is_only_replica(group, me).then_some(me))
    }

    /// Takes what shards said about themselves into the map. True if that was news.
    pub(crate) fn learn(&self, descriptors: Vec<Descriptor>) -> bool {
        let _writing = self.learning.lock();
        let Some(next) = self.map.load().learn(descriptors) else { return false };
        self.map.store(Arc::new(next));
        self.metrics.map_changes.inc();
        true
    }

    /// Asks the replicas on this node about their shards. True if that was news.
    pub(crate) fn refresh(&self) -> bool {
        self.learn(self.lanes.descriptors())
    }
}

fn cost_bytes(operation: &Operation) -> u64 {
    operation.payload_bytes() + REQUEST_OVERHEAD_BYTES
}
