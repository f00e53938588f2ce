//! The clock, the network and the faults.

mod clients;
mod counts;
mod faults;
mod network;
mod snapshots;

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use flotilla_raft::{
    Event, Fetch, Leases, Limits, Message, Options, Position, Raft, ReplicaId, Role, Ticket, Time,
};

pub use counts::Counts;

use crate::{
    checks::Observer,
    machine::{Machine, replace_suffix, restart_log},
};

const MS: u64 = 1_000_000;
const ELECTION_TIMEOUT_MS: u64 = 100;
const HEARTBEAT_MS: u64 = 20;
/// Clocks may be ten per cent fast or slow: enough for the seeds to tell whether that is minded.
const CLOCK_DRIFT_MAX_PPM: u32 = 100_000;
/// How long the faults last, and how long the group then has to come to rest.
const STORM_MS: u64 = 6_000;
const CALM_MS: u64 = 3_000;

pub struct Setup {
    pub seed: u64,
    pub voters: u64,
    pub clocks: Clocks,
    pub faults: Faults,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Everything that can.
    All,
    /// Leaders are cut off while others want to be elected: what leases are about, again and again.
    Ousted,
}

/// How well the clocks run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    /// As fast and as slow as leases allow for.
    WithinBound,
    /// Much faster and slower: stale reads are counted, not refused.
    BeyondBound,
}

enum Happening {
    Deliver { to: usize, from: ReplicaId, bytes: Bytes },
    Durable { at: usize, life: u64, ticket: Ticket },
    Fetched { at: usize, life: u64, fetch: Fetch },
    Turn { at: usize, life: u64 },
    Snapshot { from: usize, life: u64, to: usize, position: Position },
    Swap { at: usize, life: u64, position: Position },
    Swapped { at: usize, life: u64, position: Position },
    Sent { from: usize, life: u64, to: usize, position: Option<Position> },
    Restart { at: usize },
    Campaign { at: usize },
    CutOff { at: usize },
    Client,
    Fault,
}

pub struct World {
    voters: u64,
    state: u64,
    now: u64,
    sequence: u64,
    agenda: BTreeMap<(u64, u64), Happening>,
    machines: Vec<Machine>,
    observer: Observer,
    counts: Counts,
    /// Links that are cut: from, to.
    cut: Vec<(usize, usize)>,
    storm: bool,
    loss_percent: u64,
    delay_max: u64,
    payloads: u64,
    trace: u64,
    check_quorum: bool,
    pre_vote: bool,
    leases: bool,
    clocks: Clocks,
    faults: Faults,
    stale_reads: u64,
}

impl World {
    pub fn new(setup: Setup) -> Self {
        let mut world = Self {
            voters: setup.voters,
            state: setup.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ setup.voters,
            now: 0,
            sequence: 0,
            agenda: BTreeMap::new(),
            machines: (1..=setup.voters).map(|id| Machine::new(ReplicaId(id))).collect(),
            observer: Observer::default(),
            counts: Counts::default(),
            cut: Vec::new(),
            storm: true,
            loss_percent: 0,
            delay_max: 0,
            payloads: 0,
            trace: 0xcbf2_9ce4_8422_2325,
            check_quorum: true,
            pre_vote: true,
            leases: true,
            clocks: setup.clocks,
            faults: setup.faults,
            stale_reads: 0,
        };
        // Most runs use the defaults of the engine; some do without one or both refinements,
        // which must not be what safety rests on.
        world.pre_vote = world.below(4) > 0;
        world.check_quorum = world.below(4) > 0;
        world.leases = world.below(4) > 0;
        world.loss_percent = world.below(20);
        world.delay_max = [2, 10, 60][world.below(3) as usize] * MS;
        if world.faults == Faults::Ousted {
            (world.leases, world.loss_percent, world.delay_max) = (true, 0, 2 * MS);
            (world.pre_vote, world.check_quorum) = (world.below(2) == 0, world.below(2) == 0);
        }
        for at in 0..world.machines.len() {
            world.machines[at].disk_delay_max = 3 * MS;
            world.change_clock(at);
            world.start(at);
        }
        world.later(0, Happening::Client);
        world.later(200 * MS, Happening::Fault);
        world
    }

    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        counts.entries_committed = self.observer.commit().0;
        counts
    }

    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.insert((self.now + delay, self.sequence), happening);
    }

    fn note(&mut self, what: impl std::hash::Hash) {
        use std::hash::Hasher;
        struct Fnv(u64);
        impl Hasher for Fnv {
            fn finish(&self) -> u64 {
                self.0
            }
            fn write(&mut self, bytes: &[u8]) {
                for byte in bytes {
                    self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
        }
        let mut hasher = Fnv(self.trace);
        what.hash(&mut hasher);
        self.trace = hasher.finish();
    }

    pub fn run(&mut self) {
        self.storm();
        self.heal();
        let end = self.now + CALM_MS * MS;
        while self.now < end {
            self.advance();
        }
        self.check_rest();
    }

    pub fn storm(&mut self) {
        while self.now < STORM_MS * MS {
            self.advance();
        }
    }

    /// Reads by leases that did not see all that was committed. Zero unless clocks are beyond their bound.
    pub fn stale_reads(&self) -> u64 {
        self.stale_reads
    }

    /// What the clock of a machine shows.
    fn time_of(&self, at: usize) -> Time {
        self.machines[at].clock.at(self.now)
    }

    /// Does the next thing on the agenda or the next tick, whichever is first.
    fn advance(&mut self) {
        let tick = (0..self.machines.len())
            .filter_map(|at| {
                let machine = &self.machines[at];
                let due = machine.clock.when(machine.raft.as_ref()?.next_tick());
                Some((due.max(machine.paused_until).max(self.now), at))
            })
            .min();
        let next = self.agenda.keys().next().copied();
        match (tick, next) {
            (Some((due, at)), next) if next.is_none_or(|(time, _)| due <= time) => {
                self.now = due;
                self.step(at, Event::Tick);
            }
            (_, Some(key)) => {
                self.now = self.now.max(key.0);
                let happening = self.agenda.remove(&key).expect("just seen");
                self.happen(happening);
            }
            (_, None) => unreachable!("the client always has something to do"),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { to, from, bytes } => {
                if self.postpone(to) {
                    return self.later(MS, Happening::Deliver { to, from, bytes });
                }
                if self.machines[to].raft.is_some() {
                    let message = Message::decode(bytes).expect("messages are not damaged here");
                    self.step(to, Event::Receive { from, message });
                }
            }
            Happening::Durable { at, life, ticket } => {
                if self.machines[at].life != life {
                    return;
                }
                if self.postpone(at) {
                    return self.later(MS, Happening::Durable { at, life, ticket });
                }
                let machine = &mut self.machines[at];
                let mut done = Vec::new();
                while machine.writes.front().is_some_and(|write| write.ticket <= ticket) {
                    let write = machine.writes.pop_front().expect("just seen");
                    machine.disk.write(&write, &self.observer.committed);
                    done.push(write.ticket);
                }
                // The journal may report several writes by the last ticket alone.
                if self.below(2) == 0 {
                    done.drain(..done.len().saturating_sub(1));
                }
                for ticket in done {
                    self.step(at, Event::Persisted(ticket));
                }
            }
            Happening::Fetched { at, life, fetch } => {
                if self.machines[at].life != life {
                    return;
                }
                self.machines[at].fetching = false;
                if self.storm && self.below(20) == 0 {
                    self.counts.fetches_failed += 1;
                    return self.step(at, Event::FetchFailed { from: fetch.from });
                }
                if fetch.from <= self.machines[at].disk.base {
                    return self.step(at, Event::FetchFailed { from: fetch.from });
                }
                let entries = self.machines[at].disk.read(fetch);
                self.step(at, Event::Fetched { entries });
            }
            Happening::Turn { at, life } => {
                if self.machines[at].life == life {
                    self.machines[at].turn_due = false;
                    self.turn(at);
                }
            }
            Happening::Restart { at } => {
                if self.machines[at].raft.is_none() {
                    self.start(at);
                }
            }
            Happening::CutOff { at } => self.cut_off(at),
            Happening::Campaign { at } => {
                if !self.postpone(at) {
                    self.step(at, Event::Campaign);
                }
            }
            Happening::Snapshot { from, life, to, position } => {
                self.snapshot_received(from, life, to, position);
            }
            Happening::Swap { at, life, position } => self.swap(at, life, position),
            Happening::Swapped { at, life, position } => self.swapped(at, life, position),
            Happening::Sent { from, life, to, position } => self.sent(from, life, to, position),
            Happening::Client => self.client(),
            Happening::Fault => self.fault(),
        }
    }

    fn postpone(&self, at: usize) -> bool {
        self.machines[at].paused_until > self.now
    }

    fn start(&mut self, at: usize) {
        let seed = self.below(u64::MAX);
        let voters = (1..=self.voters).map(ReplicaId).collect();
        let (pre_vote, check_quorum) = (self.pre_vote, self.check_quorum);
        let leases = Leases { reads: true, clock_drift_max_ppm: CLOCK_DRIFT_MAX_PPM };
        let leases = self.leases.then_some(leases);
        let now = self.time_of(at);
        let machine = &mut self.machines[at];
        let restored = machine.disk.restored(&self.observer.committed);
        machine.log = machine.disk.entries.clone();
        let lost = restored.needs_snapshot;
        machine.applied = if lost { restored.base.index } else { restored.applied };
        machine.commit = machine.applied;
        machine.may_lead = true;
        let options = Options {
            id: machine.id,
            voters,
            election_timeout: Duration::from_millis(ELECTION_TIMEOUT_MS),
            heartbeat_interval: Duration::from_millis(HEARTBEAT_MS),
            seed,
            suspect: false,
            pre_vote,
            check_quorum,
            disk_stall_max: Duration::from_secs(1),
            may_lead: true,
            leases,
            limits: limits(),
        };
        machine.raft = Some(Raft::new(options, restored, now));
    }

    fn step(&mut self, at: usize, event: Event) {
        let now = self.time_of(at);
        let Some(raft) = &mut self.machines[at].raft else { return };
        raft.step(now, event);
        self.stirred(at);
    }

    /// A turn follows, at once or after a few more events.
    fn stirred(&mut self, at: usize) {
        match self.below(4) {
            0 => {
                if !self.machines[at].turn_due {
                    self.machines[at].turn_due = true;
                    let (life, delay) = (self.machines[at].life, self.below(MS));
                    self.later(delay, Happening::Turn { at, life });
                }
            }
            _ => self.turn(at),
        }
    }

    fn turn(&mut self, at: usize) {
        loop {
            let now = self.time_of(at);
            let Some(raft) = &mut self.machines[at].raft else { return };
            let ready = raft.ready(now);
            let status = raft.status();
            self.counts.turns += 1;
            self.note((at, self.now, status.term.0, status.last.index.0, status.commit.0));
            let life = self.machines[at].life;
            if ready.role_changed.is_some() {
                // What was sent in another term is forgotten, as a shell does.
                self.machines[at].orders.clear();
            }
            self.snapshot_effects(at, &ready);
            if let Some(persist) = ready.persist {
                if let Some(base) = persist.reset {
                    self.counts.logs_restarted += 1;
                    restart_log(&mut self.machines[at].log, base, &self.observer.committed);
                }
                if let Some(first) = persist.entries.first()
                    && first.index.0 as usize <= self.machines[at].log.len()
                {
                    assert_ne!(status.role, Role::Leader, "a leader overwrote its log");
                    self.counts.truncations += 1;
                }
                replace_suffix(&mut self.machines[at].log, &persist.entries);
                self.observer.wrote(&self.machines[at], &persist.entries);
                let delay = self.below(self.machines[at].disk_delay_max) + 1;
                let machine = &mut self.machines[at];
                machine.disk_free_at = machine.disk_free_at.max(self.now) + delay;
                let (due, ticket) = (machine.disk_free_at - self.now, persist.ticket);
                machine.writes.push_back(persist);
                self.later(due, Happening::Durable { at, life, ticket });
            }
            self.observer.turned(at, &self.machines, &status);
            self.machines[at].commit = status.commit;
            for envelope in ready.messages {
                self.observer.sent(&self.machines[at], envelope.to, &envelope.message);
                self.transmit(at, envelope.to, &envelope.message);
            }
            for entry in ready.apply {
                let machine = &mut self.machines[at];
                assert_eq!(machine.installing, None, "applied to rows that are being replaced");
                assert!(!machine.disk.rows_lost, "applied to rows that are lost");
                assert_eq!(entry.index, machine.applied.next(), "apply leaves a gap");
                assert_eq!(entry, self.observer.committed[entry.index.0 as usize - 1]);
                machine.applied = entry.index;
                if let Some((position, payload)) = machine.proposals.remove(&entry.index.0)
                    && position == entry.position()
                {
                    assert_eq!(&entry.payload[..8], payload.to_le_bytes());
                    self.counts.proposals_applied += 1;
                }
            }
            for outcome in ready.reads {
                let machine = &mut self.machines[at];
                let floor = machine.reads.remove(&outcome.id).expect("an answer nobody asked for");
                match outcome.result {
                    Ok(index) => {
                        self.observer.read(&self.machines[at], outcome.id.0, floor, index);
                        self.counts.reads_confirmed += 1;
                    }
                    Err(_) => self.counts.reads_refused += 1,
                }
            }
            if let Some(fetch) = ready.fetch {
                assert!(!self.machines[at].fetching, "two fetches at a time");
                assert!(fetch.to <= status.persisted, "fetching what may not be in the journal");
                self.machines[at].fetching = true;
                self.counts.fetches += 1;
                let delay = self.below(5 * MS);
                self.later(delay, Happening::Fetched { at, life, fetch });
            }
            if ready.role_changed.is_some_and(|change| change.role == Role::Leader) {
                self.counts.elections += 1;
            }
            if !ready.more {
                return;
            }
        }
    }
}

/// Small limits, so that all of them are reached.
fn limits() -> Limits {
    Limits {
        entry_bytes_max: 1024,
        message_bytes_max: 400,
        message_entries_max: 5,
        inflight_bytes_max: 1000,
        inflight_messages_max: 4,
        uncommitted_bytes_max: 3000,
        cache_bytes_max: 800,
        apply_bytes_max: 500,
        reads_pending_max: 20,
    }
}
