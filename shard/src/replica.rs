//! One replica of one group: Raft, state machine and descriptor as one IO-free value.
//!
//! Events go in through [`Replica::handle`]; once per turn [`Replica::turn`] says what they led to,
//! as [`Effects`] for a lane to perform. The value owns its group's part of everything: consensus,
//! rows in memory, the callers that wait.
//!
//! Invariants:
//!
//! * A write is answered with its outcome only after its entry was committed and applied here.
//! * A read is answered only after Raft confirmed the leadership since the read arrived and
//!   everything committed by then is applied.
//! * Every request is answered once. A refusal that does not say `maybe_committed` certifies that
//!   nothing happened.
//! * A frozen memtable leaves for the checkpoint only when the journal holds everything applied
//!   to it: the store never knows more than the journal.
//! * What was let in is never refused later; pressure acts before a proposal, not after.
//!
//! What is absent: threads, clocks, disks, sockets. `now` comes with each call.

mod retire;

use crate::applying::{Applying, Step};
use crate::command::Command;
use crate::descriptor::Descriptor;
use crate::effects::{Effects, Event, LogRead, Now, Observed, RowRead, answer};
use crate::machine::{Machine, ShardMeta};
use crate::outbox::{GroupMessage, Parcel};
use crate::pending::{Pending, Waiting};
use crate::reads::{ReadRequest, Reads};
use crate::request::{Answer, Operation, Refusal, Request};
use crate::serve::{self, Served};
use crate::status::PublishedStatus;
use flotilla_raft::{self as raft, HardState, Index, Position, Raft, ReplicaId, Time};
use flotilla_storage::GroupId;
use flotilla_storage::journal::{Change, LogEntry, Write as JournalWrite};
use flotilla_storage::store::{Frozen, Shard};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How replicas behave, apart from Raft's own options.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
    /// The leader offers to forget the log when this many entries have become unneeded.
    pub release_entries_min: u64,
    /// What a caller is told to wait when a replica is too busy to propose.
    pub retry_after: Duration,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        ReplicaOptions {
            value_bytes_max: 8 << 20,
            release_entries_min: 1024,
            retry_after: Duration::from_millis(10),
        }
    }
}

/// Where a replica starts from.
pub struct ReplicaStart {
    /// What the last checkpoint, or the birth, says about the shard.
    pub meta: ShardMeta,
    /// The rows of the last checkpoint.
    pub shard: Shard,
    /// Index and term that the rows contain.
    pub applied: Position,
    /// Raft's own options.
    pub raft: raft::Options,
    /// What the journal holds.
    pub restored: raft::Restored,
    /// Bytes of the entries above the log's base; 0 if that is not known.
    pub log_bytes: u64,
    /// Everything else.
    pub options: ReplicaOptions,
}

/// One replica; see the module's page.
pub struct Replica {
    group: GroupId,
    id: ReplicaId,
    raft: Raft,
    machine: Machine,
    options: ReplicaOptions,
    applying: Applying,
    pending: Pending,
    reads: Reads,
    /// Writes that wait until a frozen memtable is merged.
    at_the_door: VecDeque<Request>,
    /// The memtable that waits for the journal, and the index that it contains.
    frozen: Option<(Index, Frozen)>,
    /// The last checkpoint contains everything through here.
    checkpointed: Index,
    /// The highest position handed over for a checkpoint.
    froze: Index,
    /// The last `ReleaseLog` that this replica proposed as leader.
    release_proposed: u64,
    base: Index,
    suspect: bool,
    status: Arc<PublishedStatus>,
}

impl Replica {
    /// A replica that starts from what the disk holds.
    pub fn new(start: ReplicaStart, now: Now) -> Replica {
        let ReplicaStart { meta, shard, applied, raft, restored, options, .. } = start;
        let (group, id, suspect) = (meta.descriptor.group, raft.id, raft.suspect);
        let base = restored.base.index;
        assert_eq!(restored.applied, applied.index, "Raft applies from where the rows end");
        let mut replica = Replica {
            group,
            id,
            raft: Raft::new(raft, restored, now.time),
            machine: Machine::new(meta, shard),
            options,
            applying: Applying::new(applied),
            pending: Pending::default(),
            reads: Reads::default(),
            at_the_door: VecDeque::new(),
            frozen: None,
            checkpointed: applied.index,
            froze: applied.index,
            release_proposed: 0,
            base,
            suspect,
            status: Arc::new(PublishedStatus::default()),
        };
        replica.publish();
        if suspect {
            replica.status.suspect();
        }
        replica
    }

    /// The group's name.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// What other threads may know about the replica without asking it.
    pub fn status(&self) -> Arc<PublishedStatus> {
        self.status.clone()
    }

    /// The shard as it is now.
    pub fn descriptor(&self) -> &Descriptor {
        self.machine.descriptor()
    }

    /// When [`Event::Tick`] is needed next. Callers that wait have their own deadlines: tick a
    /// replica that [`Replica::has_waiting`] in any case.
    pub fn next_tick(&self) -> Time {
        self.raft.next_tick()
    }

    /// True for one replica of the group: the one that leads if nothing speaks against it. Groups
    /// take turns among their nodes, so that a new cluster's leaders are spread evenly.
    pub fn is_preferred(&self) -> bool {
        let replicas = &self.machine.descriptor().replicas;
        let turn = (self.group.0 % replicas.len() as u64) as usize;
        replicas[turn].replica == self.id
    }

    /// Committed entries that this replica holds and has not applied yet.
    pub fn queued_to_apply(&self) -> usize {
        self.applying.queued()
    }

    /// How much speaks for a checkpoint, in bytes of memtable: the rows that are not frozen yet,
    /// or half of the commands that a restart would apply again, whichever is more. Rows that
    /// are overwritten again and again take no memory, but they take time at a restart.
    pub fn checkpoint_pressure_bytes(&self) -> u64 {
        self.machine.shard().active_bytes().max(self.applying.replay_bytes() / 2)
    }

    /// Takes in what happened. Its effects come out of the next [`Replica::turn`].
    pub fn handle(&mut self, now: &Now, event: Event, effects: &mut Effects) {
        if self.suspect && !matches!(event, Event::Request(_)) {
            return;
        }
        match event {
            Event::Tick => {
                self.raft.step(now.time, raft::Event::Tick);
                self.applying.tick();
                self.expire(now, effects);
            }
            Event::Request(request) => self.request(now, request, effects),
            Event::Message(message) => {
                if message.group == self.group && message.to == self.id {
                    let GroupMessage { from, message, .. } = message;
                    self.raft.step(now.time, raft::Event::Receive { from, message });
                }
            }
            Event::Persisted(ticket) => self.raft.step(now.time, raft::Event::Persisted(ticket)),
            Event::LogRead { from, entries } => {
                let event = match entries {
                    Some(entries) => raft::Event::Fetched {
                        entries: entries.into_iter().map(from_journal).collect(),
                    },
                    None => raft::Event::FetchFailed { from: Index(from) },
                };
                self.raft.step(now.time, event);
            }
            Event::RowsRead { serial, rows } => self.applying.fetched(serial, rows),
            Event::Unreachable(node) => {
                if let Some(replica) = self.machine.descriptor().replica_on(node) {
                    self.raft.step(now.time, raft::Event::Unreachable(replica));
                }
            }
            Event::Suspected => self.suspect(effects),
            // A real election is under way already: starting over would only delay it.
            Event::Campaign if self.raft.role() == raft::Role::Candidate => {}
            Event::Campaign => self.raft.step(now.time, raft::Event::Campaign),
            Event::Freeze => self.freeze(),
            Event::Checkpointed(position) => self.checkpointed(now, position, effects),
            Event::Snapshot(_) | Event::RowsLost | Event::Transfer(_) | Event::MayLead(_) => {}
        }
    }

    /// Ends a turn: everything that the events since the last turn led to is in `effects`.
    pub fn turn(&mut self, now: &Now, effects: &mut Effects) {
        if self.suspect {
            return;
        }
        self.let_in(now, effects);
        if self.reads.has_arrived() {
            match self.raft.read(now.time) {
                Ok(id) => self.reads.ask(id),
                Err(error) => {
                    for read in self.reads.take_arrived() {
                        let refusal = self.read_refusal(&error);
                        answer(read.reply, Err(refusal), effects);
                    }
                }
            }
        }
        loop {
            self.raft.pause_apply(self.applying.is_parked());
            let ready = self.raft.ready(now.time);
            let applied_before = self.applying.applied();
            let (more, idle) = (ready.more, ready.is_empty());
            self.perform(ready, effects);
            self.apply(now, effects);
            if !more && (idle || self.applying.applied() == applied_before) {
                break;
            }
        }
        self.serve_reads(now, effects);
        self.hand_over_frozen(effects);
        self.publish();
    }

    /// Answers everybody who still waits: the node is stopping.
    pub fn close(&mut self, effects: &mut Effects) {
        for waiting in self.pending.drain() {
            answer(waiting.reply, Err(Refusal::Timeout { maybe_committed: true }), effects);
        }
        for read in self.reads.drain() {
            answer(read.reply, Err(Refusal::Shutdown), effects);
        }
        for request in self.at_the_door.drain(..) {
            answer(request.reply, Err(Refusal::Shutdown), effects);
        }
    }

    /// From now on this replica takes part in nothing: it may have forgotten a vote or an entry
    /// that it acknowledged.
    fn suspect(&mut self, effects: &mut Effects) {
        tracing::error!(
            group = self.group.0,
            "this replica lost journal content: it neither votes nor acknowledges any more"
        );
        self.suspect = true;
        self.close(effects);
        self.status.suspect();
    }

    fn request(&mut self, now: &Now, request: Request, effects: &mut Effects) {
        if let Some(refusal) = self.refusal(now, &request) {
            answer(request.reply, Err(refusal), effects);
        } else if request.operation.is_write() {
            self.at_the_door.push_back(request);
            self.let_in(now, effects);
        } else {
            let Request { operation, reply, deadline, entered, permit, .. } = request;
            self.reads.arrive(ReadRequest { operation, reply, deadline, entered, permit });
        }
    }

    /// Why a request cannot be taken, as far as that can be said without Raft.
    fn refusal(&self, now: &Now, request: &Request) -> Option<Refusal> {
        let descriptor = self.machine.descriptor();
        if self.suspect {
            return Some(Refusal::Suspect);
        }
        if request.deadline <= now.instant {
            return Some(Refusal::Timeout { maybe_committed: false });
        }
        let mut inside = true;
        match &request.operation {
            Operation::Write(crate::command::Write::DeleteRange { .. })
            | Operation::Page { .. }
            | Operation::Count { .. } => {
                // Clipped to the shard: asker and shard must agree on what the shard is.
                if request.epoch.version != descriptor.epoch.version {
                    return Some(Refusal::EpochMismatch { descriptors: vec![descriptor.clone()] });
                }
            }
            Operation::Write(write) => {
                write.for_each_key(|key| inside &= descriptor.range.contains(key));
            }
            Operation::Get { key } => inside = descriptor.range.contains(key),
            Operation::GetMany { keys } => {
                inside = keys.iter().all(|key| descriptor.range.contains(key));
            }
        }
        (!inside).then(|| Refusal::OutOfRange { descriptor: descriptor.clone() })
    }

    /// Proposes the writes that wait at the door, unless two memtables wait to be merged: then
    /// memory must not grow faster than the disk can follow.
    fn let_in(&mut self, now: &Now, effects: &mut Effects) {
        while self.machine.shard().frozen_count() < 2 {
            let Some(request) = self.at_the_door.pop_front() else { break };
            self.propose(now, request, effects);
        }
    }

    fn propose(&mut self, now: &Now, request: Request, effects: &mut Effects) {
        let Request { operation, origin, deadline, entered, permit, reply, .. } = request;
        let Operation::Write(write) = operation else { unreachable!("reads are not proposed") };
        let stamp_ms = self.machine.stamp_ms().max(now.wall_ms);
        let payload =
            Command::encode_write(&origin, stamp_ms, self.options.value_bytes_max, &write);
        match self.raft.propose(now.time, payload) {
            Ok(position) => {
                let proposed = now.instant;
                let waiting = Waiting { reply, deadline, entered, proposed, _permit: permit };
                self.pending.push(position.index.0, position.term.0, waiting);
            }
            Err(error) => answer(reply, Err(self.write_refusal(error)), effects),
        }
    }

    fn perform(&mut self, ready: raft::Ready, effects: &mut Effects) {
        if let Some(change) = ready.role_changed {
            if change.role != raft::Role::Leader {
                self.pending.orphan();
            }
            self.release_proposed = 0;
            if change.leader.is_some() {
                effects.observed.push(Observed::LeaderChange);
            }
        }
        if let Some(persist) = ready.persist {
            if let Some(base) = persist.reset {
                self.base = base.index;
                effects.journal.push(JournalWrite {
                    group: self.group,
                    ticket: 0,
                    change: Change::Compact { index: base.index.0, term: base.term.0 },
                });
            }
            effects.journal.push(JournalWrite {
                group: self.group,
                ticket: persist.ticket.0,
                change: Change::Append {
                    state: persist.hard_state.as_ref().map(HardState::encode),
                    entries: persist.entries.into_iter().map(to_journal).collect(),
                },
            });
        }
        for envelope in ready.messages {
            if let Some(node) = self.machine.descriptor().node_of(envelope.to) {
                let message = GroupMessage {
                    group: self.group,
                    from: self.id,
                    to: envelope.to,
                    message: envelope.message,
                };
                effects.parcels.push((node, Parcel::Raft(message)));
            }
        }
        self.applying.extend(ready.apply);
        if let Some(fetch) = ready.fetch {
            effects.log_reads.push(LogRead {
                group: self.group,
                from: fetch.from.0,
                to: fetch.to.0,
                bytes_max: fetch.bytes_max as u64,
            });
        }
        for outcome in ready.reads {
            match outcome.result {
                Ok(index) => self.reads.confirm(outcome.id, index),
                Err(error) => {
                    for read in self.reads.refuse(outcome.id) {
                        let refusal = self.read_refusal(&error);
                        answer(read.reply, Err(refusal), effects);
                    }
                }
            }
        }
    }

    fn apply(&mut self, now: &Now, effects: &mut Effects) {
        loop {
            match self.applying.step(&mut self.machine) {
                Step::Applied { position, outcome } => {
                    let (index, term) = (position.index.0, position.term.0);
                    let leader = self.status.leader_node();
                    let waiting = self.pending.take(index, term, |lost| {
                        effects.observed.push(Observed::LostProposal);
                        answer(lost.reply, Err(Refusal::NotLeader { leader }), effects);
                    });
                    if let Some(waiting) = waiting {
                        let outcome = outcome.expect("only writes of clients are waited for");
                        effects.observed.push(Observed::Write {
                            queued: waiting.proposed - waiting.entered.min(waiting.proposed),
                            committed: now.instant - waiting.proposed.min(now.instant),
                        });
                        answer(waiting.reply, Ok(Answer::Written(outcome)), effects);
                    }
                }
                Step::Released => self.compact(now, effects),
                Step::Read { serial, keys } => {
                    let view = self.machine.shard().view();
                    effects.row_reads.push(RowRead { group: self.group, serial, view, keys });
                    break;
                }
                Step::Idle => break,
            }
        }
    }

    fn serve_reads(&mut self, now: &Now, effects: &mut Effects) {
        let time_ms = self.machine.read_time_ms(now.wall_ms);
        while let Some(reads) = self.reads.ready(self.applying.applied().index) {
            for read in reads {
                match serve::serve(&self.machine, self.group, read, time_ms) {
                    Served::Now { reply, entered, result } => {
                        let total = now.instant - entered.min(now.instant);
                        effects.observed.push(Observed::Read { total });
                        answer(reply, result, effects);
                    }
                    Served::Cold(cold) => effects.cold_reads.push(cold),
                }
            }
        }
    }

    fn expire(&mut self, now: &Now, effects: &mut Effects) {
        self.pending.expire(now.instant, |late| {
            answer(late.reply, Err(Refusal::Timeout { maybe_committed: true }), effects);
        });
        self.reads.expire(now.instant, |late| {
            answer(late.reply, Err(Refusal::Timeout { maybe_committed: false }), effects);
        });
        while let Some(late) =
            self.at_the_door.iter().position(|request| request.deadline <= now.instant)
        {
            let late = self.at_the_door.remove(late).expect("its position was just found");
            answer(late.reply, Err(Refusal::Timeout { maybe_committed: false }), effects);
        }
    }

    fn read_refusal(&self, error: &raft::ReadError) -> Refusal {
        match error {
            raft::ReadError::NotLeader { leader } => self.not_leader(*leader),
            raft::ReadError::Busy => Refusal::Busy { retry_after: self.options.retry_after },
        }
    }

    fn write_refusal(&self, error: raft::ProposeError) -> Refusal {
        match error {
            raft::ProposeError::NotLeader { leader } => self.not_leader(leader),
            raft::ProposeError::Busy => Refusal::Busy { retry_after: self.options.retry_after },
            raft::ProposeError::TooLarge { bytes, bytes_max } => {
                Refusal::TooLarge { bytes: bytes as u64, bytes_max: bytes_max as u64 }
            }
            raft::ProposeError::Empty => unreachable!("a command is never empty"),
        }
    }

    fn not_leader(&self, leader: Option<ReplicaId>) -> Refusal {
        let leader = leader.filter(|leader| *leader != self.id);
        let descriptor = self.machine.descriptor();
        Refusal::NotLeader { leader: leader.and_then(|leader| descriptor.node_of(leader)) }
    }

    fn publish(&mut self) {
        self.status.publish(&self.raft, &self.machine, self.applying.applied().index);
    }

    /// True when somebody's deadline may pass.
    pub fn has_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.reads.is_empty() || !self.at_the_door.is_empty()
    }
}

fn to_journal(entry: raft::Entry) -> LogEntry {
    LogEntry { index: entry.index.0, term: entry.term.0, payload: entry.payload }
}

fn from_journal(entry: LogEntry) -> raft::Entry {
    raft::Entry { index: Index(entry.index), term: raft::Term(entry.term), payload: entry.payload }
}
