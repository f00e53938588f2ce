//! What a client may ask a shard to change, and the bytes in which a log entry carries it.
//!
//! A [`Command`] is what the Raft log replicates: the change itself, who asked for it, and when the
//! leader took it. Everything that applying needs travels in the command, because every replica
//! must reach the same state from the same log.
//!
//! Invariants:
//!
//! * The first byte of a command is the format version; a replica that does not know it stops
//!   rather than guesses.
//! * A command never says "now": time is the leader's stamp.
//!
//! What is absent: how changes are applied (`machine`), and limits on sizes (the door checks them).

use crate::codec::{DecodeError, Reader, Writer};
use bytes::{Bytes, BytesMut};
use flotilla_storage::KeyRange;

/// The format that [`Command::encode`] writes.
pub const COMMAND_VERSION: u8 = 1;

/// Who asked for a write, so that a later exactly-once table can recognize a retry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// A router's lane in one boot of a node, drawn at random. 0: no session.
    pub session: u64,
    /// When that session was born, milliseconds since the Unix epoch.
    pub session_born_ms: u64,
    /// Counts the session's writes over all shards, from 1.
    pub sequence: u64,
    /// Every write of the session below this has been answered to its caller.
    pub lowest_unacknowledged: u64,
}

/// A value and the version that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stored bytes.
    pub value: Bytes,
    /// From the shard's counter, which only grows.
    pub version: u64,
}

/// When a put takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only when the key holds nothing.
    IfAbsent,
    /// Only when the key holds something.
    IfPresent,
}

/// What a compare-and-swap demands of the present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing is stored.
    Absent,
    /// Exactly these bytes are stored.
    Value(Bytes),
    /// The value was written by exactly this version.
    Version(u64),
}

/// One change of an atomic batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchChange {
    /// Stores a value.
    Put {
        /// Where.
        key: Bytes,
        /// What.
        value: Bytes,
    },
    /// Removes a key; nothing happens when it is absent.
    Delete {
        /// Which.
        key: Bytes,
    },
}

impl BatchChange {
    /// The key that the change touches.
    pub fn key(&self) -> &Bytes {
        match self {
            BatchChange::Put { key, .. } | BatchChange::Delete { key } => key,
        }
    }
}

/// A change to one shard. All keys of one write lie in one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Stores a value, under a condition.
    Put {
        /// Where.
        key: Bytes,
        /// What.
        value: Bytes,
        /// When.
        condition: Condition,
        /// Whether the outcome carries the value that was there before.
        return_previous: bool,
    },
    /// Removes keys and counts those that existed.
    Delete {
        /// Which; a key listed twice counts once.
        keys: Vec<Bytes>,
    },
    /// Stores or removes a value if the present one is as expected.
    CompareAndSwap {
        /// Where.
        key: Bytes,
        /// What must be there.
        expect: Expect,
        /// The new value; `None` removes the key.
        new: Option<Bytes>,
    },
    /// Adds to a decimal integer; an absent key counts as 0.
    Add {
        /// Where.
        key: Bytes,
        /// How much, may be negative.
        delta: i64,
    },
    /// Appends to a value; an absent key counts as empty.
    Append {
        /// Where.
        key: Bytes,
        /// What to append.
        value: Bytes,
    },
    /// Several changes at once, all or none, in order.
    Batch {
        /// The changes.
        changes: Vec<BatchChange>,
    },
    /// Removes every key of a range that the shard holds.
    DeleteRange {
        /// Clipped to the shard's own range when applied.
        range: KeyRange,
    },
}

/// Why a command that was committed changed nothing. Deterministic: every replica agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailure {
    /// [`Write::Add`] met bytes that are no decimal 64-bit integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// [`Write::Add`] would leave the 64-bit range.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// [`Write::Append`] would exceed the limit on values.
    #[error("the value would exceed the maximum allowed size")]
    TooLarge,
    /// A key does not belong to the shard (any more).
    #[error("a key lies outside the shard")]
    OutOfRange,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Of [`Write::Put`].
    Put {
        /// The version now current for the key, 0 when nothing was written and nothing is there.
        version: u64,
        /// Whether the condition held.
        written: bool,
        /// What was there before, if asked for.
        previous: Option<Entry>,
    },
    /// Of [`Write::Delete`].
    Deleted {
        /// The version of the deletion.
        version: u64,
        /// How many of the keys existed.
        count: u64,
    },
    /// Of [`Write::CompareAndSwap`].
    Swap {
        /// The version of the swap; meaningful only when swapped.
        version: u64,
        /// Whether the expectation held.
        swapped: bool,
        /// When it did not hold: what is there instead.
        current: Option<Entry>,
    },
    /// Of [`Write::Add`]: the sum.
    Number(i64),
    /// Of [`Write::Append`]: the new length in bytes.
    Length(u64),
    /// Of [`Write::Batch`].
    Batch {
        /// The version of all its changes.
        version: u64,
    },
    /// Of [`Write::DeleteRange`].
    RangeDeleted {
        /// The version of the deletion.
        version: u64,
    },
    /// Nothing was changed.
    Failed(CommandFailure),
}

impl Write {
    /// True when applying must know what the key holds at present.
    pub fn needs_previous(&self) -> bool {
        match self {
            Write::Put { condition, return_previous, .. } => {
                *condition != Condition::Always || *return_previous
            }
            Write::Delete { .. }
            | Write::CompareAndSwap { .. }
            | Write::Add { .. }
            | Write::Append { .. } => true,
            Write::Batch { .. } | Write::DeleteRange { .. } => false,
        }
    }

    /// True if `outcome` is of the kind that this write ends in.
    pub fn is_answered_by(&self, outcome: &WriteOutcome) -> bool {
        matches!(
            (self, outcome),
            (_, WriteOutcome::Failed(_))
                | (Write::Put { .. }, WriteOutcome::Put { .. })
                | (Write::Delete { .. }, WriteOutcome::Deleted { .. })
                | (Write::CompareAndSwap { .. }, WriteOutcome::Swap { .. })
                | (Write::Add { .. }, WriteOutcome::Number(_))
                | (Write::Append { .. }, WriteOutcome::Length(_))
                | (Write::Batch { .. }, WriteOutcome::Batch { .. })
                | (Write::DeleteRange { .. }, WriteOutcome::RangeDeleted { .. })
        )
    }

    /// Visits the single keys that the write touches; a range delete has none.
    pub fn for_each_key(&self, mut visit: impl FnMut(&Bytes)) {
        match self {
            Write::Put { key, .. }
            | Write::CompareAndSwap { key, .. }
            | Write::Add { key, .. }
            | Write::Append { key, .. } => visit(key),
            Write::Delete { keys } => keys.iter().for_each(visit),
            Write::Batch { changes } => changes.iter().for_each(|change| visit(change.key())),
            Write::DeleteRange { .. } => {}
        }
    }

    /// Bytes of keys and values, for budgets.
    pub fn payload_bytes(&self) -> u64 {
        let bytes = match self {
            Write::Put { key, value, .. } | Write::Append { key, value } => key.len() + value.len(),
            Write::Delete { keys } => keys.iter().map(Bytes::len).sum(),
            Write::CompareAndSwap { key, expect, new } => {
                let expected = if let Expect::Value(value) = expect { value.len() } else { 0 };
                key.len() + expected + new.as_ref().map_or(0, Bytes::len)
            }
            Write::Add { key, .. } => key.len() + 8,
            Write::Batch { changes } => changes
                .iter()
                .map(|change| match change {
                    BatchChange::Put { key, value } => key.len() + value.len(),
                    BatchChange::Delete { key } => key.len(),
                })
                .sum(),
            Write::DeleteRange { range } => {
                range.start.len() + range.end.as_ref().map_or(0, Bytes::len)
            }
        };
        bytes as u64
    }

    /// Appends the write's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Write::Put { key, value, condition, return_previous } => {
                out.u8(1);
                out.u8(match condition {
                    Condition::Always => 0,
                    Condition::IfAbsent => 1,
                    Condition::IfPresent => 2,
                });
                out.bool(*return_previous);
                out.bytes(key);
                out.bytes(value);
            }
            Write::Delete { keys } => {
                out.u8(2);
                out.u32(keys.len() as u32);
                keys.iter().for_each(|key| out.bytes(key));
            }
            Write::CompareAndSwap { key, expect, new } => {
                out.u8(3);
                out.bytes(key);
                match expect {
                    Expect::Absent => out.u8(0),
                    Expect::Value(value) => {
                        out.u8(1);
                        out.bytes(value);
                    }
                    Expect::Version(version) => {
                        out.u8(2);
                        out.u64(*version);
                    }
                }
                out.bool(new.is_some());
                if let Some(new) = new {
                    out.bytes(new);
                }
            }
            Write::Add { key, delta } => {
                out.u8(4);
                out.bytes(key);
                out.i64(*delta);
            }
            Write::Append { key, value } => {
                out.u8(5);
                out.bytes(key);
                out.bytes(value);
            }
            Write::Batch { changes } => {
                out.u8(6);
                out.u32(changes.len() as u32);
                for change in changes {
                    match change {
                        BatchChange::Put { key, value } => {
                            out.u8(1);
                            out.bytes(key);
                            out.bytes(value);
                        }
                        BatchChange::Delete { key } => {
                            out.u8(2);
                            out.bytes(key);
                        }
                    }
                }
            }
            Write::DeleteRange { range } => {
                out.u8(7);
                out.range(range);
            }
        }
    }

    /// Reads what [`Write::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<Write, DecodeError> {
        Ok(match input.u8()? {
            1 => {
                let condition = match input.u8()? {
                    0 => Condition::Always,
                    1 => Condition::IfAbsent,
                    2 => Condition::IfPresent,
                    _ => return Err(DecodeError("unknown condition of a put")),
                };
                let return_previous = input.bool()?;
                let (key, value) = (input.bytes()?, input.bytes()?);
                Write::Put { key, value, condition, return_previous }
            }
            2 => {
                let count = input.count(4)?;
                let mut keys = Vec::with_capacity(count);
                for _ in 0..count {
                    keys.push(input.bytes()?);
                }
                Write::Delete { keys }
            }
            3 => {
                let key = input.bytes()?;
                let expect = match input.u8()? {
                    0 => Expect::Absent,
                    1 => Expect::Value(input.bytes()?),
                    2 => Expect::Version(input.u64()?),
                    _ => return Err(DecodeError("unknown expectation of a compare-and-swap")),
                };
                let new = if input.bool()? { Some(input.bytes()?) } else { None };
                Write::CompareAndSwap { key, expect, new }
            }
            4 => Write::Add { key: input.bytes()?, delta: input.i64()? },
            5 => Write::Append { key: input.bytes()?, value: input.bytes()? },
            6 => {
                let count = input.count(5)?;
                let mut changes = Vec::with_capacity(count);
                for _ in 0..count {
                    changes.push(match input.u8()? {
                        1 => BatchChange::Put { key: input.bytes()?, value: input.bytes()? },
                        2 => BatchChange::Delete { key: input.bytes()? },
                        _ => return Err(DecodeError("unknown change in a batch")),
                    });
                }
                Write::Batch { changes }
            }
            7 => Write::DeleteRange { range: input.range()? },
            _ => return Err(DecodeError("unknown kind of write")),
        })
    }
}

/// What a log entry does to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client's change.
    Write(Write),
    /// Every voter holds the log through this index and the leader has a checkpoint beyond it:
    /// replicas may forget the entries that their own checkpoints cover.
    ReleaseLog {
        /// The last index that may be forgotten.
        through: u64,
    },
}

/// A change as the log carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Who asked; all zero for changes that no client asked for.
    pub origin: Origin,
    /// The leader's wall clock when it took the command, milliseconds since the Unix epoch; within
    /// one group stamps never go back.
    pub stamp_ms: u64,
    /// The limit on values when the command was taken: it travels along so that replicas with
    /// different settings still agree on what an append does.
    pub value_bytes_max: u64,
    /// What to do.
    pub change: Change,
}

impl Command {
    /// The bytes of a client's write, never empty: Raft keeps the empty payload for a leader's own
    /// entry.
    pub fn encode_write(
        origin: &Origin,
        stamp_ms: u64,
        value_bytes_max: u64,
        write: &Write,
    ) -> Bytes {
        let mut buffer = BytesMut::with_capacity(80 + write.payload_bytes() as usize);
        let mut out = Writer::new(&mut buffer);
        encode_header(origin, stamp_ms, value_bytes_max, &mut out);
        write.encode(&mut out);
        buffer.freeze()
    }

    /// The bytes of any command.
    pub fn encode(&self) -> Bytes {
        match &self.change {
            Change::Write(write) => {
                Command::encode_write(&self.origin, self.stamp_ms, self.value_bytes_max, write)
            }
            Change::ReleaseLog { through } => {
                let mut buffer = BytesMut::with_capacity(64);
                let mut out = Writer::new(&mut buffer);
                encode_header(&self.origin, self.stamp_ms, self.value_bytes_max, &mut out);
                out.u8(RELEASE_LOG);
                out.u64(*through);
                buffer.freeze()
            }
        }
    }

    /// Reads what [`Command::encode`] wrote; keys and values stay slices of `payload`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing, left over, or of an unknown version.
    pub fn decode(payload: Bytes) -> Result<Command, DecodeError> {
        let mut input = Reader::new(payload);
        if input.u8()? != COMMAND_VERSION {
            return Err(DecodeError("a command of an unknown version: a newer release wrote it"));
        }
        let origin = Origin {
            session: input.u64()?,
            session_born_ms: input.u64()?,
            sequence: input.u64()?,
            lowest_unacknowledged: input.u64()?,
        };
        let stamp_ms = input.u64()?;
        let value_bytes_max = input.u64()?;
        let change = if input.peek() == Some(RELEASE_LOG) {
            input.u8()?;
            Change::ReleaseLog { through: input.u64()? }
        } else {
            Change::Write(Write::decode(&mut input)?)
        };
        input.finish()?;
        Ok(Command { origin, stamp_ms, value_bytes_max, change })
    }
}

/// Kinds from here on are not client writes.
const RELEASE_LOG: u8 = 128;

fn encode_header(origin: &Origin, stamp_ms: u64, value_bytes_max: u64, out: &mut Writer<'_>) {
    out.u8(COMMAND_VERSION);
    out.u64(origin.session);
    out.u64(origin.session_born_ms);
    out.u64(origin.sequence);
    out.u64(origin.lowest_unacknowledged);
    out.u64(stamp_ms);
    out.u64(value_bytes_max);
}
