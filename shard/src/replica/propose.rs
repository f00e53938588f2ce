//! Requests at the door of a replica, and writes on their way into the log.
//!
//! Invariants:
//!
//! * What is refused here was never proposed; what is proposed is never refused.
//! * Pressure acts here: a full disk, full memtables and two unmerged ones stop proposals, nothing
//!   behind them.
//!
//! What is absent: outcomes (`apply`), and reads once they are let in (`read`).

use super::Replica;
use crate::command::{Command, Origin, Write};
use crate::effects::{Effects, Now, refuse};
use crate::pending::Waiting;
use crate::reads::ReadRequest;
use crate::request::{Operation, Refusal, Request};
use flotilla_raft::{self as raft, ReplicaId};

impl Replica {
    pub(super) fn request(&mut self, now: &Now, request: Request, effects: &mut Effects) {
        if let Some(refusal) = self.refusal(now, &request) {
            refuse(request.reply, request.permit, refusal, effects);
        } else if request.operation.is_write() {
            if now.conditions.is_memory_full {
                let refusal = Refusal::Busy { retry_after: self.options.retry_after };
                refuse(request.reply, request.permit, refusal, effects);
                return;
            }
            self.at_the_door.push_back(request);
            self.let_in(now, effects);
        } else {
            let Request { operation, consistency, reply, deadline, entered, permit, .. } = request;
            let read = ReadRequest { operation, reply, deadline, entered, permit };
            self.read(now, consistency, read, effects);
        }
    }

    /// Why a request cannot be taken, as far as that can be said without Raft.
    fn refusal(&self, now: &Now, request: &Request) -> Option<Refusal> {
        let descriptor = self.machine.descriptor();
        if self.suspect {
            return Some(Refusal::Suspect);
        }
        if self.is_replacing_rows() {
            return Some(Refusal::Damaged);
        }
        if request.deadline <= now.instant {
            return Some(Refusal::Timeout { maybe_committed: false });
        }
        let mut inside = true;
        match &request.operation {
            Operation::Write(Write::DeleteRange { .. })
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

    /// Proposes the writes that wait at the door, unless two memtables wait to be merged (then
    /// memory must not grow faster than the disk can follow), or the past is not known yet. Says
    /// whether anything was proposed.
    pub(super) fn let_in(&mut self, now: &Now, effects: &mut Effects) -> bool {
        let mut proposed = false;
        while !self.at_the_door.is_empty()
            && self.is_settled()
            && self.machine.shard().frozen_count() < 2
        {
            let Some(request) = self.at_the_door.pop_front() else { break };
            proposed |= self.propose(now, request, effects);
        }
        proposed
    }

    fn propose(&mut self, now: &Now, request: Request, effects: &mut Effects) -> bool {
        let Request { operation, origin, deadline, entered, permit, reply, .. } = request;
        let Operation::Write(write) = operation else { unreachable!("reads are not proposed") };
        if now.conditions.is_disk_full && !write.is_delete_only() {
            refuse(reply, permit, Refusal::DiskFull, effects);
            return false;
        }
        match self.propose_write(now, &origin, &write) {
            Ok(position) => {
                let proposed = now.instant;
                let waiting = Waiting { reply, deadline, entered, proposed, permit };
                self.pending.push(position.index.0, position.term.0, waiting);
                true
            }
            Err(error) => {
                refuse(reply, permit, self.write_refusal(error), effects);
                false
            }
        }
    }

    /// Proposes a write, whoever wants it.
    pub(super) fn propose_write(
        &mut self,
        now: &Now,
        origin: &Origin,
        write: &Write,
    ) -> Result<raft::Position, raft::ProposeError> {
        let stamp_ms = self.stamp_ms(now);
        let payload = Command::encode_write(origin, stamp_ms, self.options.value_bytes_max, write);
        self.raft.propose(now.time, payload)
    }

    /// Answers everybody whose deadline has passed.
    pub(super) fn expire(&mut self, now: &Now, effects: &mut Effects) {
        self.pending.expire(now.instant, |late| {
            let refusal = Refusal::Timeout { maybe_committed: true };
            refuse(late.reply, late.permit, refusal, effects);
        });
        self.reads.expire(now.instant, |late| {
            let refusal = Refusal::Timeout { maybe_committed: false };
            refuse(late.reply, late.permit, refusal, effects);
        });
        if self.at_the_door.iter().any(|request| request.deadline <= now.instant) {
            let (late, waiting) = std::mem::take(&mut self.at_the_door)
                .into_iter()
                .partition::<Vec<_>, _>(|request| request.deadline <= now.instant);
            self.at_the_door = waiting.into();
            for late in late {
                let refusal = Refusal::Timeout { maybe_committed: false };
                refuse(late.reply, late.permit, refusal, effects);
            }
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

    pub(super) fn not_leader(&self, leader: Option<ReplicaId>) -> Refusal {
        let leader = leader.filter(|leader| *leader != self.id);
        let descriptor = self.machine.descriptor();
        Refusal::NotLeader { leader: leader.and_then(|leader| descriptor.node_of(leader)) }
    }
}
