//! The state machine of a shard: applies commands to its rows, deterministically.
//!
//! Every replica applies the same commands in the same order and must reach the same rows, the
//! same versions and the same outcomes. So nothing here depends on a clock, on settings, or on
//! where rows happen to lie: a command that needs the old value of a key that is not in memory is
//! handed back ([`Applied::Missing`]) until somebody has read it, and has changed nothing by then.
//!
//! Invariants:
//!
//! * A command is applied whole or not at all, and readers never see half of it.
//! * A key outside the shard's range is never written, whatever the router believed.
//! * Stamps never go back.
//!
//! What is absent: Raft, and answers to clients (`replica` matches outcomes to callers).

mod float;
mod keys;
mod meta;
mod natural;
mod run;
mod strings;

pub use float::Float;
pub use meta::ShardMeta;
pub use strings::parse_integer;

use crate::command::{Change, Command, CommandFailure, Write, WriteOutcome};
use crate::descriptor::Descriptor;
use crate::sessions::{Seen, SessionTable};
use bytes::Bytes;
use flotilla_storage::KeyRange;
use flotilla_storage::store::{Row, RowChange, Shard};
use run::{Missing, Run};
use std::collections::BTreeMap;

/// Rows that were read from below the memtables for commands that wait for them.
pub type Fetched = BTreeMap<Bytes, Option<Row>>;

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// A client's write ran; deterministic failures included.
    Outcome(WriteOutcome),
    /// The log may be forgotten through this index, as far as others are concerned.
    Released(u64),
    /// Reads may go by the leader's clock up to this moment.
    Ceiling(u64),
    /// Nothing was changed: the present rows of these keys must be read first.
    Missing(Vec<Bytes>),
}

/// The rows of one shard and what describes them.
pub struct Machine {
    descriptor: Descriptor,
    shard: Shard,
    stamp_ms: u64,
    released: u64,
    ceiling_ms: u64,
    expiring_until_ms: u64,
    sessions: SessionTable,
}

impl Machine {
    /// A machine over rows that were opened or born at `meta`.
    pub fn new(meta: ShardMeta, shard: Shard) -> Machine {
        let ShardMeta { descriptor, stamp_ms, released, ceiling_ms, expiring_until_ms, sessions } =
            meta;
        Machine { descriptor, shard, stamp_ms, released, ceiling_ms, expiring_until_ms, sessions }
    }

    /// The shard as it is after everything applied so far.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The rows, for reading.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The rows, for freezing.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// The stamp of the last applied command.
    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// The log may be forgotten through this index, as far as other replicas are concerned.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// What a checkpoint must keep beside the rows.
    pub fn meta(&self) -> ShardMeta {
        ShardMeta {
            descriptor: self.descriptor.clone(),
            stamp_ms: self.stamp_ms,
            released: self.released,
            ceiling_ms: self.ceiling_ms,
            expiring_until_ms: self.expiring_until_ms,
            sessions: self.sessions.clone(),
        }
    }

    /// No command may be stamped, and no read served, at an earlier time than this: an earlier
    /// leader may have read up to there. Milliseconds since the Unix epoch.
    pub fn clock_floor_ms(&self) -> u64 {
        self.stamp_ms.max(self.ceiling_ms)
    }

    /// The time at which a read sees rows that expire, for a replica whose clock says `wall_ms`:
    /// never before the last command, never beyond the ceiling.
    pub fn read_time_ms(&self, wall_ms: u64) -> u64 {
        self.stamp_ms.max(wall_ms.min(self.ceiling_ms))
    }

    /// True while a row may expire later than the clock floor: reads need a ceiling ahead of the
    /// leader's clock. May be true without such a row.
    pub fn has_expiring(&self) -> bool {
        self.expiring_until_ms > self.clock_floor_ms()
    }

    /// True if rows may lie here that have expired or will: somebody should look for those to
    /// reap. May be true without such a row.
    pub fn may_hold_expired(&self) -> bool {
        self.expiring_until_ms > 0
    }

    /// Applies one committed command. `fetched` holds rows from below the memtables, read after
    /// the last applied command.
    pub fn apply(&mut self, command: &Command, fetched: &Fetched) -> Applied {
        let stamp_ms = self.stamp_ms.max(command.stamp_ms);
        let applied = match &command.change {
            Change::ReleaseLog { through } => {
                self.released = self.released.max(*through);
                Applied::Released(self.released)
            }
            Change::Ceiling { ms } => {
                self.ceiling_ms = self.ceiling_ms.max(*ms);
                Applied::Ceiling(self.ceiling_ms)
            }
            Change::Write(write) => match self.write(command, write, stamp_ms, fetched) {
                Ok(outcome) => Applied::Outcome(outcome),
                Err(Missing(keys)) => return Applied::Missing(keys),
            },
        };
        self.sessions.advance(self.stamp_ms, stamp_ms);
        self.stamp_ms = stamp_ms;
        applied
    }

    /// Takes note of a committed command that cannot be applied: its time passes, nothing else.
    pub fn pass_over(&mut self, command: &Command) {
        let stamp_ms = self.stamp_ms.max(command.stamp_ms);
        self.sessions.advance(self.stamp_ms, stamp_ms);
        self.stamp_ms = stamp_ms;
    }

    /// Runs a write unless its session has it answered already.
    fn write(
        &mut self,
        command: &Command,
        write: &Write,
        stamp_ms: u64,
        fetched: &Fetched,
    ) -> Result<WriteOutcome, Missing> {
        // Before anything else: a retry gets the first answer even if the range has changed since.
        match self.sessions.look_up(&command.origin) {
            Seen::Never => {}
            Seen::Answered(outcome) => {
                let outcome = outcome.clone();
                self.sessions.touch(&command.origin, stamp_ms);
                return Ok(outcome);
            }
            Seen::Refused(failure) => return Ok(WriteOutcome::Failed(failure)),
        }
        let mut outside = false;
        write.for_each_key(|key| outside |= !self.descriptor.range.contains(key));
        if outside {
            // Not recorded: the same write may yet take effect where its key lives now.
            return Ok(WriteOutcome::Failed(CommandFailure::OutOfRange));
        }
        let outcome = match write {
            Write::DeleteRange { range } => self.delete_range(range),
            other => {
                let mut run = Run::new(&self.shard, fetched, stamp_ms, command.value_bytes_max);
                let outcome = run.write(other)?;
                let (changes, expiring_until_ms) = run.finish();
                self.expiring_until_ms = self.expiring_until_ms.max(expiring_until_ms);
                if let Some(changes) = changes {
                    self.shard.apply(changes);
                }
                outcome
            }
        };
        self.sessions.record(&command.origin, stamp_ms, &outcome);
        Ok(outcome)
    }

    fn delete_range(&mut self, range: &KeyRange) -> WriteOutcome {
        let version = match range.clip(&self.descriptor.range) {
            None => self.shard.version(),
            Some(part) if part == self.descriptor.range => {
                self.expiring_until_ms = 0;
                self.shard.clear()
            }
            Some(part) => self.shard.apply(vec![RowChange::DeleteRange(part)]),
        };
        WriteOutcome::RangeDeleted { version }
    }

    /// The part of `range` that this shard holds.
    pub fn clip(&self, range: &KeyRange) -> Option<KeyRange> {
        range.clip(&self.descriptor.range)
    }
}
