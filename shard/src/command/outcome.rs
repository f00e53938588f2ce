//! What a write did, in a form that replicas agree on, and its bytes.
//!
//! Outcomes travel between nodes and rest in the table of sessions, which is part of a checkpoint:
//! their bytes are a format. What is absent: versions and checksums; the containers have those.

use super::Entry;
use crate::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

/// Why a command that was committed changed nothing. Deterministic: every replica agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandFailure {
    /// [`Write::Add`](super::Write::Add) met bytes that are no decimal 64-bit integer.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// [`Write::Add`](super::Write::Add) would leave the 64-bit range.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The value would exceed the limit on values.
    #[error("the value would exceed the maximum allowed size")]
    TooLarge,
    /// A key does not belong to the shard (any more).
    #[error("a key lies outside the shard")]
    OutOfRange,
    /// [`Write::AddFloat`](super::Write::AddFloat) met bytes that are no decimal number.
    #[error("value is not a valid float")]
    NotAFloat,
    /// [`Write::AddFloat`](super::Write::AddFloat) would leave the range of numbers.
    #[error("increment would produce NaN or Infinity")]
    NotFinite,
    /// [`Write::Rename`](super::Write::Rename) of a key that holds nothing.
    #[error("no such key")]
    NoSuchKey,
    /// A row that the command needs fails its checksum, and no other replica has it. Overwriting the
    /// key without looking at it makes it whole.
    #[error(
        "a row that this command needs is damaged, and no other replica has it; store a new value there"
    )]
    RowDamaged,
    /// The answer to this sequence is not kept (any more): its session said that it has it, or the
    /// answer was too large to keep. The command at hand changed nothing, but an earlier copy of it
    /// may have; without an earlier copy, nothing took effect.
    #[error("the answer to this write is no longer kept")]
    Acknowledged,
    /// The shard does not know the session and cannot tell whether it once did. The command at
    /// hand changed nothing, but an earlier copy of it may have; without an earlier copy, nothing
    /// took effect.
    #[error("the session has expired: sessions born up to {watermark_ms} are not admitted")]
    SessionExpired {
        /// A session must be born after this, in milliseconds since the Unix epoch.
        watermark_ms: u64,
    },
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Of [`Write::Put`](super::Write::Put).
    Put {
        /// The version now current for the key, 0 when nothing was written and nothing is there.
        version: u64,
        /// Whether the condition held.
        written: bool,
        /// What was there before, if asked for.
        previous: Option<Entry>,
    },
    /// Of [`Write::Delete`](super::Write::Delete).
    Deleted {
        /// The version of the deletion.
        version: u64,
        /// How many of the keys existed.
        count: u64,
    },
    /// Of [`Write::CompareAndSwap`](super::Write::CompareAndSwap).
    Swap {
        /// The version of the swap; meaningful only when swapped.
        version: u64,
        /// Whether the expectation held.
        swapped: bool,
        /// When it did not hold: what is there instead.
        current: Option<Entry>,
    },
    /// Of [`Write::Add`](super::Write::Add): the sum.
    Number(i64),
    /// Of [`Write::Append`](super::Write::Append) and [`Write::SetRange`](super::Write::SetRange):
    /// the new length in bytes.
    Length(u64),
    /// Of [`Write::Batch`](super::Write::Batch).
    Batch {
        /// The version of all its changes.
        version: u64,
        /// Whether its condition held.
        written: bool,
    },
    /// Of [`Write::DeleteRange`](super::Write::DeleteRange).
    RangeDeleted {
        /// The version of the deletion.
        version: u64,
    },
    /// Nothing was changed.
    Failed(CommandFailure),
    /// Of [`Write::AddFloat`](super::Write::AddFloat): the sum, as it is now stored.
    Float(Bytes),
    /// Of [`Write::Expire`](super::Write::Expire).
    Expired {
        /// The version now current for the key, 0 when there is none.
        version: u64,
        /// Whether the expiry was set, taken away, or has passed already so that the key is gone.
        changed: bool,
        /// What was there before, if asked for.
        entry: Option<Entry>,
    },
    /// Of [`Write::Take`](super::Write::Take): what was there.
    Taken(Option<Entry>),
    /// Of [`Write::Rename`](super::Write::Rename).
    Renamed {
        /// The version of the change; the shard's last one when there was none.
        version: u64,
        /// False when the new key existed and must not.
        renamed: bool,
    },
    /// Of [`Write::Copy`](super::Write::Copy).
    Copied {
        /// The version of the change; the shard's last one when there was none.
        version: u64,
        /// False when there was nothing to copy, or the new key existed and must not.
        copied: bool,
    },
    /// Of [`Write::Atomic`](super::Write::Atomic).
    Atomic {
        /// The version of all its changes; the shard's last one when there were none.
        version: u64,
        /// One for each step; `None`: a guard did not hold and nothing was done.
        outcomes: Option<Vec<StepOutcome>>,
    },
    /// Of [`Write::Reap`](super::Write::Reap).
    Reaped {
        /// How many of the keys hold nothing (any more).
        count: u64,
    },
}

/// What a [`Step`](super::Step) did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Of a write.
    Written(WriteOutcome),
    /// Of a get.
    Value(Option<Entry>),
}

impl StepOutcome {
    /// Bytes of the values that the outcome carries, for budgets.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            StepOutcome::Written(outcome) => outcome.payload_bytes(),
            StepOutcome::Value(entry) => value_bytes(entry),
        }
    }
}

fn value_bytes(entry: &Option<Entry>) -> u64 {
    entry.as_ref().map_or(0, |entry| entry.value.len() as u64)
}

impl WriteOutcome {
    /// Bytes of the values that the outcome carries, for budgets.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            WriteOutcome::Put { previous: entry, .. }
            | WriteOutcome::Swap { current: entry, .. }
            | WriteOutcome::Expired { entry, .. }
            | WriteOutcome::Taken(entry) => value_bytes(entry),
            WriteOutcome::Float(text) => text.len() as u64,
            WriteOutcome::Atomic { outcomes, .. } => {
                outcomes.iter().flatten().map(StepOutcome::payload_bytes).sum()
            }
            WriteOutcome::Deleted { .. }
            | WriteOutcome::Number(_)
            | WriteOutcome::Length(_)
            | WriteOutcome::Batch { .. }
            | WriteOutcome::RangeDeleted { .. }
            | WriteOutcome::Failed(_)
            | WriteOutcome::Renamed { .. }
            | WriteOutcome::Copied { .. }
            | WriteOutcome::Reaped { .. } => 0,
        }
    }

    /// Appends the outcome's bytes to `out`. The first one is below 20.
    pub fn encode(&self, out: &mut Writer<'_>) {
        match self {
            WriteOutcome::Put { version, written, previous } => {
                out.u8(1);
                out.u64(*version);
                out.bool(*written);
                Entry::encode(previous.as_ref(), out);
            }
            WriteOutcome::Deleted { version, count } => {
                out.u8(2);
                out.u64(*version);
                out.u64(*count);
            }
            WriteOutcome::Swap { version, swapped, current } => {
                out.u8(3);
                out.u64(*version);
                out.bool(*swapped);
                Entry::encode(current.as_ref(), out);
            }
            WriteOutcome::Number(number) => {
                out.u8(4);
                out.i64(*number);
            }
            WriteOutcome::Length(length) => {
                out.u8(5);
                out.u64(*length);
            }
            WriteOutcome::Batch { version, written } => {
                out.u8(6);
                out.u64(*version);
                out.bool(*written);
            }
            WriteOutcome::RangeDeleted { version } => {
                out.u8(7);
                out.u64(*version);
            }
            WriteOutcome::Failed(failure) => {
                out.u8(8);
                encode_failure(failure, out);
            }
            WriteOutcome::Float(text) => {
                out.u8(9);
                out.bytes(text);
            }
            WriteOutcome::Expired { version, changed, entry } => {
                out.u8(10);
                out.u64(*version);
                out.bool(*changed);
                Entry::encode(entry.as_ref(), out);
            }
            WriteOutcome::Taken(entry) => {
                out.u8(11);
                Entry::encode(entry.as_ref(), out);
            }
            WriteOutcome::Renamed { version, renamed } => {
                out.u8(12);
                out.u64(*version);
                out.bool(*renamed);
            }
            WriteOutcome::Copied { version, copied } => {
                out.u8(13);
                out.u64(*version);
                out.bool(*copied);
            }
            WriteOutcome::Atomic { version, outcomes } => {
                out.u8(ATOMIC);
                out.u64(*version);
                encode_steps(outcomes.as_deref(), out);
            }
            WriteOutcome::Reaped { count } => {
                out.u8(15);
                out.u64(*count);
            }
        }
    }

    /// Reads what [`WriteOutcome::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<WriteOutcome, DecodeError> {
        Ok(match input.u8()? {
            1 => WriteOutcome::Put {
                version: input.u64()?,
                written: input.bool()?,
                previous: Entry::decode(input)?,
            },
            2 => WriteOutcome::Deleted { version: input.u64()?, count: input.u64()? },
            3 => WriteOutcome::Swap {
                version: input.u64()?,
                swapped: input.bool()?,
                current: Entry::decode(input)?,
            },
            4 => WriteOutcome::Number(input.i64()?),
            5 => WriteOutcome::Length(input.u64()?),
            6 => WriteOutcome::Batch { version: input.u64()?, written: input.bool()? },
            7 => WriteOutcome::RangeDeleted { version: input.u64()? },
            8 => WriteOutcome::Failed(decode_failure(input)?),
            9 => WriteOutcome::Float(input.bytes()?),
            10 => WriteOutcome::Expired {
                version: input.u64()?,
                changed: input.bool()?,
                entry: Entry::decode(input)?,
            },
            11 => WriteOutcome::Taken(Entry::decode(input)?),
            12 => WriteOutcome::Renamed { version: input.u64()?, renamed: input.bool()? },
            13 => WriteOutcome::Copied { version: input.u64()?, copied: input.bool()? },
            ATOMIC => {
                WriteOutcome::Atomic { version: input.u64()?, outcomes: decode_steps(input)? }
            }
            15 => WriteOutcome::Reaped { count: input.u64()? },
            _ => return Err(DecodeError("unknown outcome of a write")),
        })
    }
}

const ATOMIC: u8 = 14;

fn encode_steps(outcomes: Option<&[StepOutcome]>, out: &mut Writer<'_>) {
    out.bool(outcomes.is_some());
    let Some(outcomes) = outcomes else { return };
    out.u32(outcomes.len() as u32);
    for outcome in outcomes {
        match outcome {
            StepOutcome::Written(outcome) => {
                out.u8(1);
                outcome.encode(out);
            }
            StepOutcome::Value(entry) => {
                out.u8(2);
                Entry::encode(entry.as_ref(), out);
            }
        }
    }
}

fn decode_steps(input: &mut Reader) -> Result<Option<Vec<StepOutcome>>, DecodeError> {
    if !input.bool()? {
        return Ok(None);
    }
    let count = input.count(2)?;
    let mut outcomes = Vec::with_capacity(count);
    for _ in 0..count {
        outcomes.push(match input.u8()? {
            // Steps do not nest: hostile bytes must not exhaust the stack.
            1 if input.peek() == Some(ATOMIC) => {
                return Err(DecodeError("an atomic write within another"));
            }
            1 => StepOutcome::Written(WriteOutcome::decode(input)?),
            2 => StepOutcome::Value(Entry::decode(input)?),
            _ => return Err(DecodeError("unknown outcome of a step")),
        });
    }
    Ok(Some(outcomes))
}

fn encode_failure(failure: &CommandFailure, out: &mut Writer<'_>) {
    out.u8(match failure {
        CommandFailure::NotAnInteger => 1,
        CommandFailure::Overflow => 2,
        CommandFailure::TooLarge => 3,
        CommandFailure::OutOfRange => 4,
        CommandFailure::NotAFloat => 5,
        CommandFailure::NotFinite => 6,
        CommandFailure::NoSuchKey => 7,
        CommandFailure::Acknowledged => 8,
        CommandFailure::SessionExpired { .. } => 9,
        CommandFailure::RowDamaged => 10,
    });
    if let CommandFailure::SessionExpired { watermark_ms } = failure {
        out.u64(*watermark_ms);
    }
}

fn decode_failure(input: &mut Reader) -> Result<CommandFailure, DecodeError> {
    Ok(match input.u8()? {
        1 => CommandFailure::NotAnInteger,
        2 => CommandFailure::Overflow,
        3 => CommandFailure::TooLarge,
        4 => CommandFailure::OutOfRange,
        5 => CommandFailure::NotAFloat,
        6 => CommandFailure::NotFinite,
        7 => CommandFailure::NoSuchKey,
        8 => CommandFailure::Acknowledged,
        9 => CommandFailure::SessionExpired { watermark_ms: input.u64()? },
        10 => CommandFailure::RowDamaged,
        _ => return Err(DecodeError("unknown failure of a command")),
    })
}
