//! A world: nodes, network, clients and faults, and one happening after the other.
//!
//! After each happening what it set in motion is put into the queue: messages, timers, the next steps
//! of journals and checkpoints. A node whose disk failed under it, or that has to stop, is down from
//! then on until it is opened again.
//!
//! What is absent: phases and the end (`phases`), what clients do (`asking`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_shard::effects::Now;
use flotilla_shard::{Descriptor, Epoch, GroupId, KeyRange, NodeId, ReplicaDescriptor, ReplicaId};
use flotilla_storage::store::NextTurn;
use tokio::runtime::Handle;

use super::client::{Client, HistoryClock, Keys, Woken};
use super::clock::{Nanos, nanos};
use super::journaling::GoOn;
use super::judges::{Group, Replica};
use super::network::Network;
use super::node::{Life, Node, name};
use super::options::Options;
use super::overheard;
use super::perform::CHECKPOINT_MAX;
use super::phases::Phase;
use super::scene::{Happening, Scene};
use super::trace::Trace;
use super::watch;
use crate::history::Line;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// What it wrote stays in the page cache.
    Kill,
    /// What was not synced may be lost, torn, out of order.
    PowerLoss,
}

/// A simulated cluster and all that happens to it.
pub struct World {
    pub(super) scene: Scene,
    pub(super) nodes: Vec<Node>,
    pub(super) network: Network,
    pub(super) clients: Vec<Client>,
    pub(super) keys: Keys,
    pub(super) woken: Woken,
    pub(super) history: Vec<(usize, Line)>,
    pub(super) history_clock: HistoryClock,
    pub(super) requests: u64,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) faults: BTreeMap<&'static str, u64>,
    pub(super) phase: Phase,
    /// The node whose disk may rot.
    pub(super) rotten: usize,
    /// A broken invariant that the product met itself.
    pub(super) broken: Option<String>,
    /// When the faults ended.
    pub(super) healed_at: Nanos,
    /// How long after that all was well.
    pub(super) well_after: Duration,
    /// Keys that are to be read once more.
    pub(super) unread: Vec<Bytes>,
    pub(super) origin: Instant,
    pub(super) handle: Handle,
}

impl World {
    /// A world that has not begun. `handle` is never used to run anything.
    pub fn new(options: Options, trace: Trace, handle: Handle) -> World {
        let mut scene = Scene::new(options, trace);
        let descriptors = descriptors(&scene.options, scene.random.number());
        watch::members(&mut scene.judges, &descriptors);
        let count = scene.options.nodes as usize;
        let nodes: Vec<Node> = (0..count).map(|at| Node::new(at, &mut scene)).collect();
        let woken = Woken::default();
        let clients = (0..scene.options.clients as usize)
            .map(|number| Client::new(number, number % count, scene.random.fork(), &woken))
            .collect();
        let rotten = scene.random.below(count as u64) as usize;
        let mut world = World {
            keys: Keys::new(&scene.options),
            nodes,
            network: Network::new(count),
            clients,
            woken,
            history: Vec::new(),
            history_clock: HistoryClock::default(),
            requests: 0,
            descriptors,
            faults: BTreeMap::new(),
            phase: Phase::Faults,
            rotten,
            broken: None,
            healed_at: 0,
            well_after: Duration::ZERO,
            unread: Vec::new(),
            origin: Instant::now(),
            handle,
            scene,
        };
        for at in 0..count {
            world.open(at);
        }
        for client in 0..world.clients.len() {
            let delay = world.scene.delay(Duration::from_secs(2));
            world.scene.after(delay, Happening::Client(client));
        }
        let life = world.scene.options.life;
        world.scene.after(Duration::from_secs(1), Happening::Chance);
        world.scene.after(Duration::from_secs(2), Happening::Compare);
        world.scene.after(life, Happening::Review);
        world
    }

    /// Something happens.
    pub(super) fn happen(&mut self, happening: Happening) {
        if let Some(happening) = self.put_off(happening) {
            self.act(happening);
        }
        loop {
            let woken = self.woken.take();
            if woken.is_empty() {
                return;
            }
            woken.into_iter().for_each(|client| self.wake(client));
        }
    }

    /// A node that stands still does nothing before it goes on.
    fn put_off(&mut self, happening: Happening) -> Option<Happening> {
        let at = match &happening {
            Happening::Message { to, .. } => *to,
            Happening::Lane(at, _)
            | Happening::Tick(at, _)
            | Happening::Journal(at, _)
            | Happening::Checkpoint(at, _)
            | Happening::Snapshots(at, _)
            | Happening::Read(at, ..)
            | Happening::Sweep(at, _)
            | Happening::Timer(at, ..)
            | Happening::Reopen(at) => *at,
            _ => return Some(happening),
        };
        let until = self.nodes[at].paused_until;
        if until <= self.scene.now {
            return Some(happening);
        }
        self.scene.at(until, happening);
        None
    }

    fn act(&mut self, happening: Happening) {
        match happening {
            Happening::Message { from, to, life, message } => {
                if self.network.arrives(from, to) {
                    let is_there = self.with_life(to, Some(life), |life, _, _| {
                        life.sink.receive(name(from), vec![*message]);
                        true
                    });
                    if is_there {
                        self.scene.count("messages delivered");
                    }
                } else {
                    self.scene.count("messages lost");
                }
            }
            Happening::Lane(at, life) => {
                self.with_life(at, Some(life), |life, scene, now| {
                    life.due.lane = false;
                    life.take_mail(scene, now)
                });
            }
            Happening::Tick(at, life) => self.tick(at, life),
            Happening::Journal(at, life) => self.journal(at, life),
            Happening::Checkpoint(at, life) => self.checkpoint(at, life),
            Happening::Snapshots(at, life) => {
                self.with_life(at, Some(life), |life, _, _| {
                    life.due.snapshots = false;
                    life.snapshots.turn();
                    true
                });
            }
            Happening::Read(at, life, read) => {
                self.with_life(at, Some(life), |life, _, _| {
                    life.read(*read);
                    true
                });
            }
            Happening::Sweep(at, life) => {
                let is_there = self.with_life(at, Some(life), |life, _, _| {
                    life.router.sweep();
                    true
                });
                if is_there {
                    self.scene.after(SWEEP_INTERVAL, Happening::Sweep(at, life));
                }
            }
            Happening::Timer(at, life, wake) => {
                self.with_life(at, Some(life), |_, _, _| {
                    let _ = wake.send(());
                    true
                });
            }
            Happening::Client(client) => self.go_on(client),
            Happening::Chance => self.chance_if_any(),
            Happening::Cure(cure) => self.cure(cure),
            Happening::Reopen(at) => self.open(at),
            Happening::Connection(a, b) => self.connection(a, b),
            Happening::Compare => self.compare(),
            Happening::Review => self.review(),
        }
    }

    fn chance_if_any(&mut self) {
        if self.phase == Phase::Faults {
            self.chance();
        }
    }

    /// Lets a node do something, if it lives (that life), and settles what came of it. `work` says
    /// whether the process survived. False: it does not live.
    pub(super) fn with_life(
        &mut self,
        at: usize,
        number: Option<u64>,
        work: impl FnOnce(&mut Life, &mut Scene, &Now) -> bool,
    ) -> bool {
        let node = &mut self.nodes[at];
        let Some(life) = &mut node.life else { return false };
        if number.is_some_and(|number| number != life.number) {
            return false;
        }
        let conditions = life.conditions(node.is_full, &self.scene.options);
        let now = life.now(&node.clock, self.scene.now, conditions);
        if !work(life, &mut self.scene, &now) {
            self.scene.count("deaths between two effects");
            let how = if self.scene.random.permille(500) { Death::PowerLoss } else { Death::Kill };
            self.die(at, how);
            return false;
        }
        self.settle(at);
        true
    }

    fn tick(&mut self, at: usize, number: u64) {
        let stall = nanos(self.scene.options.disk_stall_max);
        let is_slow = self.nodes[at].stalled_until > self.scene.now + stall;
        let is_there = self.with_life(at, Some(number), |life, scene, now| {
            let is_reluctant = is_slow || now.conditions.is_disk_full;
            life.set_reluctant(scene, now, is_reluctant) && life.tick(scene, now)
        });
        if is_there {
            let interval = nanos(self.scene.options.tick_interval());
            let next = self.scene.now + self.nodes[at].clock.stretch(interval);
            self.scene.at(next, Happening::Tick(at, number));
        }
    }

    fn journal(&mut self, at: usize, number: u64) {
        let stalled_until = self.nodes[at].stalled_until;
        let mut dies = false;
        self.with_life(at, Some(number), |life, scene, _| {
            life.journal.is_due = false;
            let (mut durable, mut suspected) = (Vec::new(), Vec::new());
            let stepped = life.journal.step(&mut scene.random, &mut durable, &mut suspected);
            // What was synced before the power went was synced; but nobody heard of it.
            let replica = Replica(name(at).0);
            for told in &durable {
                let group = Group(told.group.0);
                if told.ticket != 0 {
                    scene.judges.synced(group, replica, told.ticket);
                }
                if let Some(state) = told.state {
                    let vote = state.vote.map(|vote| vote.0);
                    scene.judges.hard_state(group, replica, state.term.0, vote);
                }
            }
            if !durable.is_empty() {
                scene.count("rounds synced");
            }
            life.mailbox.durable(durable.iter().map(|told| (told.group, told.ticket)).collect());
            for group in suspected {
                scene.count("groups found damaged while running");
                life.mailbox.put(group, flotilla_shard::effects::Event::Suspected);
            }
            let delay = match stepped {
                Err(error) => {
                    life.mailbox.halt(&error.to_string());
                    return true;
                }
                Ok(GoOn::Submitted) => return true,
                Ok(GoOn::Now) => Duration::ZERO,
                Ok(GoOn::After(pause)) => pause,
                Ok(GoOn::Synced) => {
                    dies = life.dies_unsynced;
                    scene.delay(scene.options.sync_max)
                }
            };
            life.journal.is_due = true;
            let next = (scene.now + nanos(delay)).max(match stepped {
                Ok(GoOn::Synced) => stalled_until,
                _ => 0,
            });
            scene.at(next, Happening::Journal(at, number));
            true
        });
        if dies && self.die(at, Death::PowerLoss) {
            self.scene.count("power losses between write and sync");
        }
    }

    fn checkpoint(&mut self, at: usize, number: u64) {
        self.with_life(at, Some(number), |life, scene, _| {
            life.due.checkpoint = false;
            scene.count("checkpoint steps");
            let next = life.checkpoints.turn();
            life.due.store_retry = matches!(next, NextTurn::After(_));
            let pause = match next {
                NextTurn::Now => scene.delay(CHECKPOINT_MAX),
                NextTurn::After(pause) => {
                    scene.count("store outages waited for");
                    pause
                }
                NextTurn::WhenAsked | NextTurn::Never => return true,
            };
            life.due.checkpoint = true;
            scene.after(pause, Happening::Checkpoint(at, number));
            true
        });
    }

    /// Puts into the queue what a step of a node has set in motion.
    pub(super) fn settle(&mut self, at: usize) {
        if self.nodes[at].life.is_none() {
            return;
        }
        if self.nodes[at].is_down_in_io() {
            let how = if self.scene.random.permille(700) { Death::PowerLoss } else { Death::Kill };
            self.scene.count("deaths in the middle of a write to disk");
            self.die(at, how);
            return;
        }
        let node = &mut self.nodes[at];
        let Some(life) = &mut node.life else { return };
        if let Some(broken) = life.mailbox.broken() {
            self.broken.get_or_insert(broken);
        }
        if life.mailbox.halted().is_some() {
            self.scene.count("nodes that halted");
            let how = if self.scene.random.permille(500) { Death::PowerLoss } else { Death::Kill };
            self.die(at, how);
            return;
        }
        let (scene, number) = (&mut self.scene, life.number);
        for (to, message) in life.mailbox.take_outgoing() {
            overheard::left(&mut scene.judges, &message);
            self.network.send(scene, at, to.0 as usize - 1, message);
        }
        for (pause, wake) in life.mailbox.take_timers() {
            // A timer rings late, never early: else a request that has a nanosecond left would look
            // again and again at a clock that stands still.
            let pause = node.clock.stretch(nanos(pause)) + TIMER_LATE;
            scene.at(scene.now + pause, Happening::Timer(at, number, wake));
        }
        if life.journal.wants_step() {
            life.journal.is_due = true;
            scene.after(Duration::ZERO, Happening::Journal(at, number));
        }
        if life.checkpoints.is_asked() && !life.due.checkpoint {
            life.due.checkpoint = true;
            let delay = scene.delay(CHECKPOINT_MAX);
            scene.after(delay, Happening::Checkpoint(at, number));
        }
        if !life.due.snapshots && (life.snapshots.is_asked() || life.snapshots.is_active()) {
            life.due.snapshots = true;
            let most = match life.snapshots.is_asked() {
                true => Duration::from_micros(200),
                false => flotilla_shard::snapshot::SnapshotWork::TICK_INTERVAL,
            };
            let delay = scene.delay(most);
            scene.after(delay, Happening::Snapshots(at, number));
        }
        if !life.due.lane && life.mailbox.has_events() {
            life.due.lane = true;
            let delay = scene.delay(scene.options.lane_delay_max);
            scene.after(delay, Happening::Lane(at, number));
        }
    }
}

/// How late timers ring.
const TIMER_LATE: Nanos = 1_000;

/// How often routers end overdue forwards.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(20);

impl World {
    /// A leader at this node is asked to hand over.
    pub(super) fn transfer(&mut self, at: usize, random: u64) -> bool {
        let group = GroupId(random % self.scene.options.groups + 1);
        let to = (random >> 8 & 1 == 1).then(|| NodeId(random % self.nodes.len() as u64 + 1));
        self.with_life(at, None, |life, _, _| {
            life.mailbox.put(group, flotilla_shard::effects::Event::Transfer(to));
            true
        })
    }

    /// Tells the judges what replicas hold.
    pub(super) fn compare(&mut self) {
        for node in &self.nodes {
            let Some(life) = &node.life else { continue };
            for (group, hosted) in &life.replicas {
                let status = hosted.status.snapshot(hosted.replica.descriptor());
                if status.suspect || status.needs_snapshot || status.installing {
                    continue;
                }
                if let Some(sum) = watch::checksum(&hosted.replica) {
                    let (group, replica) = (Group(group.0), Replica(name(node.at).0));
                    self.scene.judges.contents(group, replica, status.applied_index, sum);
                    *self.scene.counts.entry("replicas compared").or_default() += 1;
                }
            }
        }
        self.scene.after(Duration::from_secs(2), Happening::Compare);
    }
}

fn descriptors(options: &Options, turn: u64) -> Vec<Descriptor> {
    let splits = Keys::splits(options.groups);
    (0..options.groups)
        .map(|number| {
            let bound = |at: u64| splits.get(at as usize).cloned();
            let start = number.checked_sub(1).and_then(bound).unwrap_or_default();
            let mut nodes: Vec<u64> = (0..options.replicas)
                .map(|replica| (turn + number + replica) % options.nodes + 1)
                .collect();
            nodes.sort_unstable();
            let replica = |node| ReplicaDescriptor { node: NodeId(node), replica: ReplicaId(node) };
            Descriptor {
                group: GroupId(number + 1),
                range: KeyRange::new(start, bound(number)),
                epoch: Epoch::FIRST,
                replicas: nodes.into_iter().map(replica).collect(),
            }
        })
        .collect()
}
