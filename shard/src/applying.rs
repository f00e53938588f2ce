//! Committed entries on their way into the state machine.
//!
//! Entries are applied strictly in order. When a command needs rows that are not in memory, the
//! group's apply is parked, not the lane: the rows of that command, and of those queued behind it,
//! are asked for together, and applying goes on when they have come. Of several entries that come
//! together the rows in memory are looked at together too, before the first is applied.
//!
//! Invariants:
//!
//! * Positions are applied without gaps, each once.
//! * Fetched rows are used only in the turn in which they arrive: by then no later write can have
//!   slipped below the memtables unseen.
//!
//! What is absent: callers (`pending`), and reading itself.

use crate::command::{Change, Command, CommandFailure, Write, WriteOutcome};
use crate::machine::{Applied, Fetched, Machine};
use bytes::Bytes;
use flotilla_raft::{Entry, Position};
use flotilla_storage::store::Lookup;
use std::collections::VecDeque;

/// How many queued commands are looked through for rows that will be needed.
const LOOK_AHEAD_COMMANDS: usize = 256;

/// What became of the next entry.
pub enum Step {
    /// It is applied. `outcome` is `None` for entries that are no client's write.
    Applied {
        /// The entry's place in the log.
        position: Position,
        /// What the write did.
        outcome: Option<WriteOutcome>,
    },
    /// It is applied, and the log may be forgotten further than before.
    Released,
    /// Applying is parked until the rows of these keys have come.
    Read {
        /// To be repeated with the answer.
        serial: u64,
        /// Keys whose rows are needed.
        keys: Vec<Bytes>,
    },
    /// Nothing is left to do now.
    Idle,
}

/// A committed entry.
struct Queued {
    position: Position,
    /// `None` for an entry without a command.
    command: Option<Command>,
    payload_bytes: usize,
}

impl Queued {
    /// # Panics
    ///
    /// If the command cannot be decoded.
    fn new(entry: Entry) -> Queued {
        let payload_bytes = entry.payload.len();
        let command = (payload_bytes > 0).then(|| decode(entry.payload));
        Queued {
            position: Position { index: entry.index, term: entry.term },
            command,
            payload_bytes,
        }
    }

    fn write(&self) -> Option<&Write> {
        match &self.command.as_ref()?.change {
            Change::Write(write) => Some(write),
            _ => None,
        }
    }
}

/// The queue between commit and state machine.
pub struct Applying {
    queue: VecDeque<Queued>,
    applied: Position,
    /// The question that applying is parked for.
    parked: Option<u64>,
    /// Rows could not be read: they are asked for again after the next tick.
    failed: bool,
    /// Among the rows that were asked for one is damaged: those of the next command are asked for
    /// alone, since the damage may concern a later one.
    alone: bool,
    /// A row of the next command is damaged, and no other replica has it: the command fails.
    damaged: bool,
    serial: u64,
    fetched: Fetched,
    /// Bytes of commands applied since the last freeze: what a restart would apply again.
    replay_bytes: u64,
}

impl Applying {
    /// Everything through `applied` is in the rows already.
    pub fn new(applied: Position) -> Applying {
        Applying {
            queue: VecDeque::new(),
            applied,
            parked: None,
            failed: false,
            alone: false,
            damaged: false,
            serial: 0,
            fetched: Fetched::new(),
            replay_bytes: 0,
        }
    }

    /// Everything through `applied` is in other rows than before: what was queued for the old ones
    /// is dropped. Questions go on being counted, so that an answer to an older one is not taken.
    pub fn restart(&mut self, applied: Position) {
        let serial = self.serial;
        *self = Applying { serial, ..Applying::new(applied) };
    }

    /// Bytes of commands applied since [`Applying::frozen`] was called last.
    pub fn replay_bytes(&self) -> u64 {
        self.replay_bytes
    }

    /// Everything applied so far is on its way into a checkpoint.
    pub fn frozen(&mut self) {
        self.replay_bytes = 0;
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> Position {
        self.applied
    }

    /// Queues committed entries, which `machine` will be given.
    ///
    /// # Panics
    ///
    /// If a committed command cannot be decoded: either the Raft core or the journal is broken, or
    /// a newer release wrote it, and going on would diverge.
    pub fn extend(&mut self, entries: Vec<Entry>, machine: &Machine) {
        let queued_before = self.queue.len();
        self.queue.extend(entries.into_iter().map(Queued::new));
        let mut keys = Vec::new();
        for write in self.queue.range(queued_before..).filter_map(Queued::write) {
            write.for_each_key(|key| keys.push(key.clone()));
        }
        if keys.len() > 1 && !self.is_parked() {
            machine.shard().anticipate(&keys);
        }
    }

    /// How many committed entries wait here.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// True while rows are waited for: nothing can be applied.
    pub fn is_parked(&self) -> bool {
        self.parked.is_some() || self.failed
    }

    /// Time has passed: rows that could not be read may be asked for again.
    pub fn tick(&mut self) {
        self.failed = false;
    }

    /// Rows have come for the question `serial`. After a failed read the question is asked again,
    /// but not before the next tick: a damaged row must not keep the readers busy. An answer to an
    /// older question is dropped.
    pub fn fetched(&mut self, serial: u64, rows: Result<Fetched, String>) {
        if self.parked != Some(serial) {
            return;
        }
        self.parked = None;
        match rows {
            Ok(rows) => self.fetched = rows,
            Err(error) => {
                tracing::error!(%error, "cannot read rows that a command needs; trying again");
                self.failed = true;
            }
        }
    }

    /// A row among those of the question `serial` is damaged, and nobody else has it. The first
    /// command that needs it will fail and change nothing: waiting would hold up the shard for
    /// ever. Damage stays, so that the same happens when the log is applied again.
    pub fn met_damage(&mut self, serial: u64) {
        if self.parked != Some(serial) {
            return;
        }
        self.parked = None;
        self.damaged = self.alone;
        self.alone = true;
    }

    /// Applies the next entry.
    ///
    /// # Panics
    ///
    /// If entries do not follow each other: the Raft core is broken, and going on would diverge.
    pub fn step(&mut self, machine: &mut Machine) -> Step {
        if self.is_parked() {
            return Step::Idle;
        }
        let Some(Queued { position, command, .. }) = self.queue.front() else {
            self.fetched.clear();
            return Step::Idle;
        };
        let position = *position;
        assert_eq!(position.index, self.applied.index.next(), "entries are applied in order");
        let Some(command) = command else {
            return self.done(position, None);
        };
        if std::mem::take(&mut self.damaged) {
            machine.pass_over(command);
            let failure = WriteOutcome::Failed(CommandFailure::RowDamaged);
            return self.done(position, Some(failure));
        }
        match machine.apply(command, &self.fetched) {
            Applied::Outcome(outcome) => self.done(position, Some(outcome)),
            Applied::Released(_) => {
                self.done(position, None);
                Step::Released
            }
            Applied::Ceiling(_) => self.done(position, None),
            Applied::Missing(keys) => self.park(machine, keys),
        }
    }

    fn done(&mut self, position: Position, outcome: Option<WriteOutcome>) -> Step {
        let applied = self.queue.pop_front();
        self.alone = false;
        self.replay_bytes += applied.map_or(0, |applied| applied.payload_bytes as u64);
        self.applied = position;
        Step::Applied { position, outcome }
    }

    /// Asks for the rows of the command that waits and of those behind it. What was fetched
    /// before is dropped: it may have been overtaken.
    fn park(&mut self, machine: &Machine, mut keys: Vec<Bytes>) -> Step {
        self.fetched.clear();
        let look_ahead = if self.alone { 0 } else { LOOK_AHEAD_COMMANDS };
        for write in self.queue.iter().take(look_ahead).filter_map(Queued::write) {
            if write.needs_previous() {
                write.for_each_key(|key| {
                    if matches!(machine.shard().lookup(key), Lookup::Below) {
                        keys.push(key.clone());
                    }
                });
            }
        }
        keys.sort_unstable();
        keys.dedup();
        self.serial += 1;
        self.parked = Some(self.serial);
        Step::Read { serial: self.serial, keys }
    }
}

fn decode(payload: Bytes) -> Command {
    match Command::decode(payload) {
        Ok(command) => command,
        Err(error) => panic!("a committed command cannot be applied: {error}"),
    }
}
