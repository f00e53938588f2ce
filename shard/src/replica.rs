//! One replica of one group: Raft, state machine and descriptor as one IO-free value.
//!
//! Events go in through [`Replica::handle`]; once per turn [`Replica::turn`] says what they led to,
//! as [`Effects`] for a lane to perform. The value owns its group's part of everything: consensus,
//! rows in memory, the callers that wait.
//!
//! Invariants:
//!
//! * A write is answered with its outcome only after its entry was committed and applied here.
//! * A read is answered only after Raft vouched for the leadership since the read arrived, by a round or
//!   by a lease, and everything committed by then is applied.
//! * Every request is answered once. A refusal that does not say `maybe_committed` certifies that
//!   nothing happened.
//! * A frozen memtable leaves for the checkpoint only when the journal holds everything applied
//!   to it: the store never knows more than the journal.
//! * What was let in is never refused later; pressure acts before a proposal, not after.
//! * A replica whose rows are damaged, or are being replaced, neither applies, nor freezes, nor
//!   serves anything from them.
//!
//! What is absent: threads, clocks, disks, sockets. `now` comes with each call.

mod apply;
mod expiring;
mod install;
mod lead;
mod log_size;
mod propose;
mod read;
mod retire;

use crate::applying::Applying;
use crate::descriptor::Descriptor;
use crate::effects::{Effects, Event, Now, RowsUnread, answer, refuse};
use crate::machine::{Machine, ShardMeta};
use crate::outbox::GroupMessage;
use crate::pending::Pending;
use crate::reads::Reads;
use crate::request::{Refusal, Request};
use crate::status::PublishedStatus;
use flotilla_mutation::{Mutation, planted};
use flotilla_raft::{self as raft, Index, Position, Raft, ReplicaId, Time};
use flotilla_storage::GroupId;
use flotilla_storage::journal::LogEntry;
use flotilla_storage::store::{Frozen, Shard, View};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use expiring::Expiring;
use install::Snapshots;
use log_size::LogSize;
use read::{Currency, Unconfirmed};

/// So much longer than full memtables the log may get until they are merged. A merge writes each row
/// that was touched once, however often it was: what it costs beside rows that are overwritten all
/// the time depends on how often it happens. What a restart applies again is the price.
const REPLAYED_PER_MERGED: u64 = 4;

/// How replicas behave, apart from Raft's own options.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaOptions {
    /// Longest value, in bytes.
    pub value_bytes_max: u64,
    /// The log is compacted when this many entries have become unneeded: each time costs a record.
    pub compact_entries_min: u64,
    /// What a caller is told to wait when a replica is too busy to propose.
    pub retry_after: Duration,
}

impl Default for ReplicaOptions {
    fn default() -> Self {
        ReplicaOptions {
            value_bytes_max: 8 << 20,
            compact_entries_min: 1024,
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
    /// What the journal holds, and whether the rows can be used at all.
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
    /// Reads that ask nobody whether they are current; served in this turn.
    unconfirmed: Vec<Unconfirmed>,
    currency: Currency,
    /// Writes that wait until a frozen memtable is merged, or a new leader knows its past.
    at_the_door: VecDeque<Request>,
    /// The memtable that waits for the journal, and the index that it contains.
    frozen: Option<(Index, Frozen)>,
    /// The last checkpoint contains everything through here.
    checkpointed: Index,
    /// The highest position handed over for a checkpoint.
    froze: Index,
    log: LogSize,
    /// What Raft was told last about how much of the log it may hold in memory.
    log_cache_bytes_max: u64,
    /// A leader proposes nothing for clients before it has applied this: where its log ended at the
    /// election, and the term that it won.
    settled_at: Option<Position>,
    expiring: Expiring,
    snapshots: Snapshots,
    suspect: bool,
    /// The rows are damaged or gone.
    rows_lost: bool,
    /// Something happened that a turn must attend to.
    stirred: bool,
    status: Arc<PublishedStatus>,
}

impl Replica {
    /// A replica that starts from what the disk holds.
    pub fn new(start: ReplicaStart, now: Now) -> Replica {
        let ReplicaStart { meta, shard, applied, raft, restored, log_bytes, options } = start;
        let (group, id) = (meta.descriptor.group, raft.id);
        let suspect = raft.suspect && !planted(Mutation::SuspectVotes);
        let rows_lost = restored.needs_snapshot;
        assert!(
            rows_lost || restored.applied == applied.index,
            "Raft applies from where the rows end"
        );
        let log = LogSize::new(restored.base.index, restored.last_index, log_bytes);
        let mut replica = Replica {
            group,
            id,
            raft: Raft::new(raft, restored, now.time),
            machine: Machine::new(meta, shard),
            options,
            applying: Applying::new(applied),
            pending: Pending::default(),
            reads: Reads::default(),
            unconfirmed: Vec::new(),
            currency: Currency::default(),
            at_the_door: VecDeque::new(),
            frozen: None,
            checkpointed: applied.index,
            froze: applied.index,
            log,
            log_cache_bytes_max: u64::MAX,
            settled_at: None,
            expiring: Expiring::default(),
            snapshots: Snapshots::default(),
            suspect,
            rows_lost,
            stirred: true,
            status: Arc::new(PublishedStatus::default()),
        };
        replica.publish(now.time);
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

    /// The rows as they are now, for whoever compares replicas.
    pub fn view(&self) -> View {
        self.machine.shard().view()
    }

    /// True for one replica of the group: the one that leads if nothing speaks against it. Groups
    /// take turns among their nodes, so that a new cluster's leaders are spread evenly.
    pub fn is_preferred(&self) -> bool {
        let replicas = &self.machine.descriptor().replicas;
        let turn = (self.group.0 % replicas.len() as u64) as usize;
        replicas[turn].replica == self.id
    }

    /// Bytes of log that the replica keeps in its journal.
    pub fn log_bytes(&self) -> u64 {
        self.log.bytes()
    }

    /// Bytes of log that it keeps in memory.
    pub fn log_cache_bytes(&self) -> u64 {
        self.raft.cached_bytes() as u64
    }

    /// Committed entries that this replica holds and has not applied yet.
    pub fn queued_to_apply(&self) -> usize {
        self.applying.queued()
    }

    /// How much speaks for a checkpoint, in bytes of memtable: the rows that are not frozen yet,
    /// or a part ([`REPLAYED_PER_MERGED`]) of the commands that a restart would apply again,
    /// whichever is more. Rows that are overwritten again and again take no memory, but they take
    /// time at a restart.
    pub fn checkpoint_pressure_bytes(&self) -> u64 {
        self.machine.shard().active_bytes().max(self.applying.replay_bytes() / REPLAYED_PER_MERGED)
    }

    /// True if something has happened since the last turn that another one must attend to. Reads that
    /// were answered on the spot are not such a thing.
    pub fn is_stirred(&self) -> bool {
        self.stirred
    }

    /// Takes in what happened. Its effects come out at once or in the next [`Replica::turn`].
    pub fn handle(&mut self, now: &Now, event: Event, effects: &mut Effects) {
        self.stirred |= match &event {
            Event::Request(request) => request.operation.is_write(),
            _ => true,
        };
        if self.suspect && !matches!(event, Event::Request(_)) {
            self.handle_suspect(event, effects);
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
            Event::RowsRead { serial, generation, rows } => match rows {
                Err(RowsUnread::Damaged(error)) if self.has_others() => {
                    self.rows_damaged(now, generation, &error, effects);
                }
                Err(RowsUnread::Damaged(error)) => {
                    tracing::error!(group = self.group.0, %error, "a command met a damaged row");
                    self.applying.met_damage(serial);
                }
                rows => self.applying.fetched(serial, rows.map_err(|error| error.to_string())),
            },
            Event::ReadDamaged { generation, reply, error } => {
                self.read_damaged(now, generation, reply, error, effects);
            }
            Event::Unreachable(node) => {
                if let Some(replica) = self.machine.descriptor().replica_on(node) {
                    self.raft.step(now.time, raft::Event::Unreachable(replica));
                }
            }
            Event::Suspected => self.suspect(effects),
            // A real election is under way already: starting over would only delay it.
            Event::Campaign if self.raft.role() == raft::Role::Candidate => {}
            Event::Campaign => self.raft.step(now.time, raft::Event::Campaign),
            Event::Freeze => {
                self.freeze();
                self.compact(now, effects);
            }
            Event::Checkpointed(position) => self.checkpointed(now, position, effects),
            Event::Trim => self.compact(now, effects),
            Event::Snapshot(event) => self.snapshot_event(now, event, effects),
            Event::RowsLost { generation } => {
                self.rows_damaged(now, generation, "the store found damaged rows", effects);
            }
            Event::Transfer(to) => self.transfer(now, to),
            Event::MayLead(may_lead) => self.may_lead(now, may_lead),
            Event::Reluctant(reluctant) => {
                self.raft.step(now.time, raft::Event::Reluctant(reluctant));
            }
            Event::Reap => self.reap(now, effects),
            Event::Expired { keys, rest } => self.expired(now, keys, rest),
        }
    }

    /// Ends a turn: everything that the events since the last turn led to is in `effects`.
    pub fn turn(&mut self, now: &Now, effects: &mut Effects) {
        self.stirred = false;
        if self.suspect {
            return;
        }
        if self.log_cache_bytes_max != now.conditions.log_cache_bytes_max {
            self.log_cache_bytes_max = now.conditions.log_cache_bytes_max;
            let bytes_max = usize::try_from(self.log_cache_bytes_max).unwrap_or(usize::MAX);
            self.raft.limit_cache(bytes_max);
        }
        self.let_in(now, effects);
        self.ask_for_reads(now, effects);
        loop {
            self.raft.pause_apply(self.applying.is_parked() || self.is_replacing_rows());
            let ready = self.raft.ready(now.time);
            let applied_before = self.applying.applied();
            let (more, idle) = (ready.more, ready.is_empty());
            self.perform(now, ready, effects);
            self.apply(now, effects);
            // A new leader's first entries let in the writes that waited for them.
            let proposed = self.let_in(now, effects) | self.raise_ceiling(now);
            if !proposed && !more && (idle || self.applying.applied() == applied_before) {
                break;
            }
        }
        self.serve_reads(now, effects);
        self.hand_over_frozen(effects);
        self.publish(now.time);
    }

    /// Answers everybody who still waits: the node is stopping.
    pub fn close(&mut self, effects: &mut Effects) {
        self.answer_all(&Refusal::Shutdown, effects);
    }

    /// Answers everybody: what was proposed may yet take effect, all else certainly does not.
    fn answer_all(&mut self, refusal: &Refusal, effects: &mut Effects) {
        for waiting in self.pending.drain() {
            let refusal = Refusal::Timeout { maybe_committed: true };
            refuse(waiting.reply, waiting.permit, refusal, effects);
        }
        let unconfirmed = self.unconfirmed.drain(..).map(|unconfirmed| unconfirmed.read);
        for read in self.reads.drain().into_iter().chain(unconfirmed) {
            refuse(read.reply, read.permit, refusal.clone(), effects);
        }
        for request in self.at_the_door.drain(..) {
            refuse(request.reply, request.permit, refusal.clone(), effects);
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
        self.answer_all(&Refusal::Shutdown, effects);
        self.stop_sending(effects);
        self.status.suspect();
    }

    /// A suspect moves nothing, but nobody waits for its answer in vain.
    fn handle_suspect(&mut self, event: Event, effects: &mut Effects) {
        match event {
            Event::ReadDamaged { reply, .. } => answer(reply, Err(Refusal::Suspect), effects),
            Event::Snapshot(event) => self.decline(&event, effects),
            _ => {}
        }
    }

    fn publish(&mut self, now: Time) {
        self.status.publish(now, &self.raft, &self.machine, self.applying.applied().index);
        self.status.publish_rows(self.rows_lost, self.raft.installing().is_some());
        self.status.publish_pending(!self.pending.is_empty() || !self.at_the_door.is_empty());
    }

    /// True when the group has replicas elsewhere.
    fn has_others(&self) -> bool {
        self.machine.descriptor().replicas.len() > 1
    }

    /// True when somebody's deadline may pass.
    pub fn has_waiting(&self) -> bool {
        !self.pending.is_empty() || !self.reads.is_empty() || !self.at_the_door.is_empty()
    }
}

fn from_journal(entry: LogEntry) -> raft::Entry {
    raft::Entry { index: Index(entry.index), term: raft::Term(entry.term), payload: entry.payload }
}
