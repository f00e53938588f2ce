//! A lane: one thread that hosts many groups and performs their effects together.
//!
//! What comes from other threads (requests, frames, completions) is put into the lane's inbox in
//! batches and sorted into the mailboxes of the groups that it concerns. The groups' effects
//! gather in the lane's buffers and are flushed when the lane has nothing more to run: one message
//! to the journal, one to each peer, one to the read pool, however many groups took part.
//!
//! Invariants:
//!
//! * One timer per lane; a group that needs no tick gets none.
//! * After a halt no effect leaves the lane any more: no acknowledgement, no vote.
//!
//! What is absent: what groups do (`replica`), which lane a group lives on (`lanes`).

use crate::actor::{Bag, Close, ReplicaActor};
use crate::budget::Budget;
use crate::descriptor::NodeId;
use crate::effects::{self, Effects, Event, Now};
use crate::lanes::Shared;
use crate::metrics::ShardMetrics;
use crate::outbox::{GroupMessage, Outbox, Parcel};
use crate::perform;
use crate::replica::{Replica, ReplicaStart};
use crate::request::{Refusal, Request};
use crate::snapshot::{SnapshotEvent, SnapshotHandle};
use crate::status::PublishedStatus;
use actix::{Actor, Addr};
use flotilla_raft::{Position, Ticket, Time};
use flotilla_storage::GroupId;
use flotilla_storage::journal::{JournalHandle, JournalReader, LogEntry};
use flotilla_storage::store::{CheckpointHandle, ReadPool};
use parking_lot::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot};

/// Something for a lane.
pub(crate) enum Mail {
    Open(Box<Wiring>, Vec<ReplicaStart>, oneshot::Sender<()>),
    Request(Request),
    Requests(Vec<Request>),
    Messages(Vec<GroupMessage>),
    Durable(Vec<(GroupId, u64)>),
    Checkpointed(Vec<(GroupId, Position)>),
    LogRead { group: GroupId, from: u64, entries: Option<Vec<LogEntry>> },
    RowsRead { group: GroupId, serial: u64, rows: Result<crate::machine::Fetched, String> },
    Unreachable(NodeId),
    Suspected(Vec<GroupId>),
    FreezeAll,
    MayLead(bool),
    Transfer { group: GroupId, to: Option<NodeId> },
    Snapshot(Box<SnapshotEvent>),
    RowsLost(Vec<GroupId>),
    Close(oneshot::Sender<()>),
}

/// Where other threads put mail for a lane.
#[derive(Default)]
pub(crate) struct Inbox {
    mail: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Default)]
struct Queue {
    mail: Vec<Mail>,
    /// The lane's thread has ended: nobody will ever look here again.
    closed: bool,
}

impl Inbox {
    /// Never blocks for longer than it takes to move the mail. Once closed, mail is dropped, and
    /// whoever waits for an answer to it is told so by that.
    pub(crate) fn put(&self, mail: Mail) {
        let mut queue = self.mail.lock();
        if queue.closed {
            drop(queue);
            return;
        }
        let sleeping = queue.mail.is_empty();
        queue.mail.push(mail);
        drop(queue);
        if sleeping {
            self.arrived.notify_one();
        }
    }

    fn take(&self) -> Vec<Mail> {
        std::mem::take(&mut self.mail.lock().mail)
    }

    /// Drops what the lane has not taken, and all that comes from now on.
    pub(crate) fn close(&self) {
        let left = {
            let mut queue = self.mail.lock();
            queue.closed = true;
            std::mem::take(&mut queue.mail)
        };
        drop(left);
    }
}

/// What a lane performs effects with.
#[derive(Clone)]
pub struct Wiring {
    /// Appends.
    pub journal: JournalHandle,
    /// Reads of the log.
    pub reader: JournalReader,
    /// Merges frozen memtables.
    pub checkpoints: CheckpointHandle,
    /// Reads below the memtables.
    pub pool: Arc<ReadPool>,
    /// Other nodes.
    pub outbox: Arc<dyn Outbox>,
    /// Sends and receives snapshots.
    pub snapshots: SnapshotHandle,
    /// The node's memory: what lanes hold is counted there.
    pub budget: Budget,
    /// Where durations go.
    pub metrics: ShardMetrics,
}

/// For how long after its opening a preferred replica does not wait for its election timeout. A
/// group that has a leader already is not disturbed: it refuses the pre-vote.
const EAGER: Duration = Duration::from_secs(2);

/// How often it tries: connections to the others may not be up at first.
const EAGER_INTERVAL: Duration = Duration::from_millis(50);

/// What a lane knows of a group without asking its actor.
pub(crate) struct Slot {
    address: RefCell<Option<Addr<ReplicaActor>>>,
    pub(crate) next_tick: Cell<Time>,
    pub(crate) has_waiting: Cell<bool>,
    pub(crate) pressure_bytes: Cell<u64>,
    status: Arc<PublishedStatus>,
    /// When a preferred replica of a group without a leader campaigns next.
    eager_at: Cell<Time>,
    eager_until: Time,
}

impl Slot {
    /// True when the replica should campaign at once.
    fn is_eager(&self, now: Time) -> bool {
        if now < self.eager_at.get() {
            return false;
        }
        if now > self.eager_until || self.status.leader_node().is_some() {
            self.eager_at.set(Time::NEVER);
            return false;
        }
        self.eager_at.set(now + EAGER_INTERVAL);
        true
    }
}

/// The thread-local half of a lane.
pub(crate) struct Lane {
    number: usize,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    started: Instant,
    wiring: RefCell<Option<Wiring>>,
    slots: RefCell<HashMap<GroupId, Rc<Slot>>>,
    effects: RefCell<Effects>,
    dirty: Notify,
    /// The generation of freezes that this lane has carried out.
    frozen_generation: Cell<u64>,
    /// The node stops: requests are refused from now on.
    closed: Cell<bool>,
}

impl Lane {
    pub(crate) fn new(number: usize, inbox: Arc<Inbox>, shared: Arc<Shared>) -> Rc<Lane> {
        Rc::new(Lane {
            number,
            inbox,
            shared,
            started: Instant::now(),
            wiring: RefCell::new(None),
            slots: RefCell::default(),
            effects: RefCell::default(),
            dirty: Notify::new(),
            frozen_generation: Cell::new(0),
            closed: Cell::new(false),
        })
    }

    /// Spawns the lane's own tasks on the current thread.
    pub(crate) fn spawn(self: Rc<Self>, tick_interval: Duration) {
        let (flushing, ticking) = (self.clone(), self.clone());
        actix::spawn(async move { self.sort_mail().await });
        actix::spawn(async move { flushing.flush_when_dirty().await });
        actix::spawn(async move { ticking.tick_forever(tick_interval).await });
    }

    /// This moment.
    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            time: Time(u64::try_from((instant - self.started).as_nanos()).unwrap_or(u64::MAX)),
            instant,
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            conditions: self.shared.conditions(),
        }
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.shared.is_halted()
    }

    pub(crate) fn halt(&self, reason: &str) {
        self.shared.halt(reason);
    }

    /// Lends the lane's buffers, and has them flushed once the lane comes to rest.
    pub(crate) fn with_effects(&self, work: impl FnOnce(&mut Effects)) {
        work(&mut self.effects.borrow_mut());
        self.dirty.notify_one();
    }

    async fn sort_mail(self: Rc<Self>) {
        let mut bags: BTreeMap<GroupId, Vec<Event>> = BTreeMap::new();
        loop {
            self.inbox.arrived.notified().await;
            for mail in self.inbox.take() {
                self.sort(mail, &mut bags);
            }
            self.deliver(&mut bags);
        }
    }

    fn sort(self: &Rc<Self>, mail: Mail, bags: &mut BTreeMap<GroupId, Vec<Event>>) {
        let mut bag = |group, event| bags.entry(group).or_default().push(event);
        match mail {
            Mail::Request(request) => bag(request.group, Event::Request(request)),
            Mail::Requests(requests) => {
                for request in requests {
                    bag(request.group, Event::Request(request));
                }
            }
            Mail::Messages(messages) => {
                for message in messages {
                    bag(message.group, Event::Message(message));
                }
            }
            Mail::Durable(done) => {
                // Ticket 0 belongs to records that nobody waits for.
                for (group, ticket) in done.into_iter().filter(|(_, ticket)| *ticket != 0) {
                    bag(group, Event::Persisted(Ticket(ticket)));
                }
            }
            Mail::Checkpointed(done) => {
                for (group, position) in done {
                    bag(group, Event::Checkpointed(position));
                }
            }
            Mail::LogRead { group, from, entries } => bag(group, Event::LogRead { from, entries }),
            Mail::RowsRead { group, serial, rows } => bag(group, Event::RowsRead { serial, rows }),
            Mail::Unreachable(node) => {
                for group in self.slots.borrow().keys() {
                    bag(*group, Event::Unreachable(node));
                }
            }
            Mail::Suspected(groups) => {
                groups.into_iter().for_each(|group| bag(group, Event::Suspected));
            }
            Mail::FreezeAll => {
                for group in self.slots.borrow().keys() {
                    bag(*group, Event::Freeze);
                }
            }
            Mail::MayLead(may_lead) => {
                for group in self.slots.borrow().keys() {
                    bag(*group, Event::MayLead(may_lead));
                }
            }
            Mail::Transfer { group, to } => bag(group, Event::Transfer(to)),
            Mail::Snapshot(event) => bag(event.group(), Event::Snapshot(*event)),
            Mail::RowsLost(groups) => {
                groups.into_iter().for_each(|group| bag(group, Event::RowsLost));
            }
            Mail::Open(wiring, replicas, opened) => {
                self.open(*wiring, replicas);
                // Whoever opens may have given up; the replicas run all the same.
                let _ = opened.send(());
            }
            Mail::Close(closed) => {
                self.deliver(bags);
                self.close(closed);
            }
        }
    }

    fn deliver(&self, bags: &mut BTreeMap<GroupId, Vec<Event>>) {
        let slots = self.slots.borrow();
        while let Some((group, events)) = bags.pop_first() {
            let address = slots.get(&group).and_then(|slot| slot.address.borrow().clone());
            match address {
                Some(address) if !self.is_halted() => address.do_send(Bag(events)),
                _ => self.refuse(events),
            }
        }
    }

    /// Answers requests for groups that this lane does not host (any more).
    fn refuse(&self, events: Vec<Event>) {
        let stopping = self.is_halted() || self.closed.get();
        for event in events {
            if let Event::Request(request) = event {
                let refusal = if stopping { Refusal::Shutdown } else { Refusal::GroupNotFound };
                self.with_effects(|effects| {
                    effects::answer(request.reply, Err(refusal), effects);
                });
            }
        }
    }

    fn open(self: &Rc<Self>, wiring: Wiring, replicas: Vec<ReplicaStart>) {
        *self.wiring.borrow_mut() = Some(wiring);
        for start in replicas {
            let replica = Replica::new(start, self.now());
            let group = replica.group();
            let now = self.now().time;
            let eager = replica.is_preferred();
            let slot = Rc::new(Slot {
                address: RefCell::new(None),
                next_tick: Cell::new(replica.next_tick()),
                has_waiting: Cell::new(false),
                pressure_bytes: Cell::new(0),
                status: replica.status(),
                eager_at: Cell::new(if eager { now } else { Time::NEVER }),
                eager_until: now + EAGER,
            });
            self.shared.publish(replica.descriptor().clone(), replica.status());
            let address = ReplicaActor::new(replica, self.clone(), slot.clone()).start();
            *slot.address.borrow_mut() = Some(address);
            self.slots.borrow_mut().insert(group, slot);
        }
    }

    fn close(self: &Rc<Self>, closed: oneshot::Sender<()>) {
        self.closed.set(true);
        let slots: Vec<_> = self.slots.borrow_mut().drain().map(|(_, slot)| slot).collect();
        let lane = self.clone();
        actix::spawn(async move {
            for slot in slots {
                let address = slot.address.borrow_mut().take();
                if let Some(address) = address {
                    // Fails only when the actor died, which has halted the node already.
                    let _ = address.send(Close).await;
                }
            }
            lane.flush();
            let _ = closed.send(());
        });
    }

    async fn flush_when_dirty(self: Rc<Self>) {
        loop {
            self.dirty.notified().await;
            // Everything that is ready to run now runs first, and its effects join this flush.
            tokio::task::yield_now().await;
            self.flush();
        }
    }

    fn flush(&self) {
        let effects = std::mem::take(&mut *self.effects.borrow_mut());
        if self.is_halted() {
            return;
        }
        let wiring = self.wiring.borrow();
        if let Some(wiring) = wiring.as_ref() {
            perform::perform(self.number, &self.inbox, wiring, effects);
        }
    }

    async fn tick_forever(self: Rc<Self>, tick_interval: Duration) {
        let mut interval = tokio::time::interval(tick_interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.tick();
        }
    }

    fn tick(self: &Rc<Self>) {
        if self.is_halted() && !self.closed.get() {
            // Callers in this process are told; nothing else leaves.
            self.close(oneshot::channel().0);
            return;
        }
        let now = self.now().time;
        let mut pressure_bytes = 0;
        let generation = self.shared.freeze_generation();
        let freeze = self.frozen_generation.replace(generation) != generation;
        for slot in self.slots.borrow().values() {
            pressure_bytes += slot.pressure_bytes.get();
            let due = slot.next_tick.get() <= now || slot.has_waiting.get();
            let campaign = slot.is_eager(now);
            if !due && !freeze && !campaign {
                continue;
            }
            if let Some(address) = &*slot.address.borrow() {
                let mut events = Vec::with_capacity(3);
                if campaign {
                    events.push(Event::Campaign);
                }
                if due {
                    events.push(Event::Tick);
                }
                if freeze {
                    events.push(Event::Freeze);
                }
                address.do_send(Bag(events));
            }
        }
        self.shared.report_memory(self.number, pressure_bytes, freeze);
    }
}

/// Groups parcels by the node that they go to, in order.
pub(crate) fn by_node(parcels: Vec<(NodeId, Parcel)>) -> BTreeMap<NodeId, Vec<Parcel>> {
    let mut nodes: BTreeMap<NodeId, Vec<Parcel>> = BTreeMap::new();
    for (node, parcel) in parcels {
        nodes.entry(node).or_default().push(parcel);
    }
    nodes
}
