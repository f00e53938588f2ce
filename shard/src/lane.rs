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

mod inbox;
mod slot;

pub(crate) use inbox::{Inbox, Mail};
pub(crate) use slot::{Load, Slot};

use crate::actor::{Bag, Close, ReplicaActor};
use crate::budget::Budget;
use crate::clock;
use crate::descriptor::NodeId;
use crate::effects::{self, Effects, Event, Now};
use crate::held::Chance;
use crate::lanes::Shared;
use crate::metrics::ShardMetrics;
use crate::outbox::{Outbox, Parcel};
use crate::perform;
use crate::replica::{Replica, ReplicaStart};
use crate::request::Refusal;
use crate::serve::ColdRead;
use crate::snapshot::SnapshotHandle;
use actix::Actor;
use flotilla_raft::Ticket;
use flotilla_storage::GroupId;
use flotilla_storage::journal::{JournalHandle, JournalReader};
use flotilla_storage::store::{CheckpointHandle, ReadPool};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, oneshot};

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

/// How often groups are asked to give back what they keep for others, while it is too much.
const TRIM_INTERVAL: Duration = Duration::from_millis(500);

/// The thread-local half of a lane.
pub(crate) struct Lane {
    number: usize,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    wiring: RefCell<Option<Wiring>>,
    slots: RefCell<HashMap<GroupId, Rc<Slot>>>,
    effects: RefCell<Effects>,
    dirty: Notify,
    /// When the groups were last asked to give back what they keep for others.
    trimmed_at: Cell<Instant>,
    /// The group after which the next search for expired rows is started.
    reaped: Cell<GroupId>,
    /// The generation of freezes that this lane has carried out.
    frozen_generation: Cell<u64>,
    /// Reads that wait until fewer answers are under way.
    reads_later: RefCell<Vec<ColdRead>>,
    /// Some of them are with the read pool.
    is_reading_again: Cell<bool>,
    /// The node stops: requests are refused from now on.
    closed: Cell<bool>,
}

impl Lane {
    pub(crate) fn new(number: usize, inbox: Arc<Inbox>, shared: Arc<Shared>) -> Rc<Lane> {
        Rc::new(Lane {
            number,
            inbox,
            shared,
            wiring: RefCell::new(None),
            slots: RefCell::default(),
            effects: RefCell::default(),
            dirty: Notify::new(),
            trimmed_at: Cell::new(Instant::now()),
            reaped: Cell::new(GroupId(0)),
            frozen_generation: Cell::new(0),
            reads_later: RefCell::default(),
            is_reading_again: Cell::new(false),
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
            time: clock::now(),
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
            Mail::RowsRead { group, serial, generation, rows } => {
                bag(group, Event::RowsRead { serial, generation, rows });
            }
            Mail::ReadDamaged { group, generation, reply, error } => {
                bag(group, Event::ReadDamaged { generation, reply, error });
            }
            Mail::ReadLater(read) => self.reads_later.borrow_mut().push(*read),
            Mail::ReadAgain => self.is_reading_again.set(false),
            Mail::Expired { group, keys, rest } => bag(group, Event::Expired { keys, rest }),
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
            Mail::Reluctant(reluctant) => {
                for group in self.slots.borrow().keys() {
                    bag(*group, Event::Reluctant(reluctant));
                }
            }
            Mail::Transfer { group, to } => bag(group, Event::Transfer(to)),
            Mail::Snapshot(event) => bag(event.group(), Event::Snapshot(*event)),
            Mail::RowsLost(groups) => {
                for (group, generation) in groups {
                    bag(group, Event::RowsLost { generation });
                }
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
            let refusal = if stopping { Refusal::Shutdown } else { Refusal::GroupNotFound };
            self.with_effects(|effects| match event {
                Event::Request(request) => {
                    effects::refuse(request.reply, request.permit, refusal, effects);
                }
                Event::ReadDamaged { reply, .. } => effects::answer(reply, Err(refusal), effects),
                _ => {}
            });
        }
    }

    fn open(self: &Rc<Self>, wiring: Wiring, replicas: Vec<ReplicaStart>) {
        *self.wiring.borrow_mut() = Some(wiring);
        for start in replicas {
            let mut replica = Replica::new(start, self.now());
            if !self.shared.may_lead() {
                let mut effects = self.effects.borrow_mut();
                replica.handle(&self.now(), Event::MayLead(false), &mut effects);
            }
            if self.shared.is_reluctant() {
                let mut effects = self.effects.borrow_mut();
                replica.handle(&self.now(), Event::Reluctant(true), &mut effects);
            }
            let group = replica.group();
            let slot = Rc::new(Slot::new(&replica, &self.now()));
            self.shared.publish(replica.descriptor().clone(), replica.status());
            let address = ReplicaActor::new(replica, self.clone(), slot.clone()).start();
            *slot.address.borrow_mut() = Some(address);
            self.slots.borrow_mut().insert(group, slot);
        }
    }

    fn close(self: &Rc<Self>, closed: oneshot::Sender<()>) {
        self.closed.set(true);
        for read in self.reads_later.take() {
            self.with_effects(|effects| {
                effects::refuse(read.reply, read.permit, Refusal::Shutdown, effects);
            });
        }
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
        self.read_again();
        let now = self.now().time;
        let generation = self.shared.freeze_generation();
        let freeze = self.frozen_generation.replace(generation) != generation;
        let trim = self.shared.must_trim() && self.trimmed_at.get().elapsed() >= TRIM_INTERVAL;
        if trim {
            self.trimmed_at.set(Instant::now());
        }
        let reap = self.next_to_reap();
        let mut load = Load::default();
        for (group, slot) in self.slots.borrow().iter() {
            load.take_in(slot);
            let due = slot.next_tick.get() <= now || slot.has_waiting.get();
            let campaign = slot.is_eager(now);
            let reap = reap == Some(*group);
            if !due && !freeze && !campaign && !trim && !reap {
                continue;
            }
            if let Some(address) = &*slot.address.borrow() {
                let mut events = Vec::with_capacity(5);
                let mut push = |wanted, event| {
                    if wanted {
                        events.push(event)
                    }
                };
                push(campaign, Event::Campaign);
                push(due, Event::Tick);
                push(freeze, Event::Freeze);
                push(trim, Event::Trim);
                push(reap, Event::Reap);
                address.do_send(Bag(events));
            }
        }
        self.shared.report(self.number, load, freeze);
    }

    /// Hands reads that were put off to the read pool again if one of them has a chance: the earliest
    /// first, and no others until all these have been tried.
    fn read_again(&self) {
        let mut later = self.reads_later.borrow_mut();
        let wiring = self.wiring.borrow();
        let (Some(wiring), false) = (wiring.as_ref(), later.is_empty()) else { return };
        let chance = |read: &ColdRead| Chance::of(&wiring.budget, read.entered.elapsed(), true);
        if self.is_reading_again.get() || later.iter().all(|read| chance(read) == Chance::Later) {
            return;
        }
        let mut reads = std::mem::take(&mut *later);
        reads.sort_by_key(|read| read.entered);
        self.is_reading_again.set(true);
        perform::read_again(&self.inbox, wiring, reads);
    }

    /// One group of this lane at a time is searched for expired rows, in turns.
    fn next_to_reap(&self) -> Option<GroupId> {
        let slots = self.slots.borrow();
        let after = self.reaped.get();
        let wanting = || slots.iter().filter(|(_, slot)| slot.wants_to_reap.get());
        let groups = || wanting().map(|(group, _)| *group);
        let next = groups().filter(|group| *group > after).min().or_else(|| groups().min());
        if let Some(group) = next {
            self.reaped.set(group);
        }
        next
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
