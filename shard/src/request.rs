//! What may be asked of a shard, what it answers, and why it may refuse.
//!
//! The same types serve a caller in the process and one on another node: operations, answers and
//! refusals have bytes.
//!
//! Invariants:
//!
//! * Every request that a lane takes is answered exactly once, at the latest a tick after its
//!   deadline.
//! * A [`Refusal`] other than `Timeout { maybe_committed: true }` certifies that the request had
//!   and will have no effect.
//!
//! What is absent: retries (the router's), and which node to ask.

use crate::budget::Permit;
use crate::codec::{DecodeError, Reader, Writer};
use crate::command::{CommandFailure, Entry, Origin, Write, WriteOutcome};
use crate::descriptor::{Descriptor, Epoch, NodeId};
use bytes::Bytes;
use flotilla_storage::{GroupId, KeyRange};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// One question or change for one shard. Reads are linearizable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A change.
    Write(Write),
    /// One value.
    Get {
        /// Of this key.
        key: Bytes,
    },
    /// Several values, read at one applied index.
    GetMany {
        /// Of these keys.
        keys: Vec<Bytes>,
    },
    /// Rows in key order, read at one applied index.
    Page {
        /// Clipped to the shard.
        range: KeyRange,
        /// At most this many rows.
        rows_max: u32,
        /// Stop after the row with which keys and values reach this many bytes.
        bytes_max: u64,
        /// From the end of the range backwards.
        reverse: bool,
        /// Leave the values empty.
        keys_only: bool,
    },
    /// How many keys there are.
    Count {
        /// Clipped to the shard.
        range: KeyRange,
    },
}

impl Operation {
    /// True for everything that may change the shard.
    pub fn is_write(&self) -> bool {
        matches!(self, Operation::Write(_))
    }

    /// True if `answer` is of the kind that this operation is answered with. An answer from
    /// another node may be anything.
    pub fn is_answered_by(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Operation::Write(write), Answer::Written(outcome)) => write.is_answered_by(outcome),
            (Operation::GetMany { keys }, Answer::Values(values)) => keys.len() == values.len(),
            (Operation::Get { .. }, Answer::Value(_))
            | (Operation::Page { .. }, Answer::Page { .. })
            | (Operation::Count { .. }, Answer::Count(_)) => true,
            _ => false,
        }
    }

    /// Bytes of keys and values that the request itself carries.
    pub fn payload_bytes(&self) -> u64 {
        match self {
            Operation::Write(write) => write.payload_bytes(),
            Operation::Get { key } => key.len() as u64,
            Operation::GetMany { keys } => keys.iter().map(|key| key.len() as u64).sum(),
            Operation::Page { range, .. } | Operation::Count { range } => {
                (range.start.len() + range.end.as_ref().map_or(0, Bytes::len)) as u64
            }
        }
    }

    /// Appends the operation's bytes to `out`.
    pub fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Operation::Write(write) => {
                out.u8(1);
                write.encode(out);
            }
            Operation::Get { key } => {
                out.u8(2);
                out.bytes(key);
            }
            Operation::GetMany { keys } => {
                out.u8(3);
                out.u32(keys.len() as u32);
                keys.iter().for_each(|key| out.bytes(key));
            }
            Operation::Page { range, rows_max, bytes_max, reverse, keys_only } => {
                out.u8(4);
                out.range(range);
                out.u32(*rows_max);
                out.u64(*bytes_max);
                out.bool(*reverse);
                out.bool(*keys_only);
            }
            Operation::Count { range } => {
                out.u8(5);
                out.range(range);
            }
        }
    }

    /// Reads what [`Operation::encode`] wrote.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing or make no sense.
    pub fn decode(input: &mut Reader) -> Result<Operation, DecodeError> {
        Ok(match input.u8()? {
            1 => Operation::Write(Write::decode(input)?),
            2 => Operation::Get { key: input.bytes()? },
            3 => {
                let count = input.count(4)?;
                let mut keys = Vec::with_capacity(count);
                for _ in 0..count {
                    keys.push(input.bytes()?);
                }
                Operation::GetMany { keys }
            }
            4 => Operation::Page {
                range: input.range()?,
                rows_max: input.u32()?,
                bytes_max: input.u64()?,
                reverse: input.bool()?,
                keys_only: input.bool()?,
            },
            5 => Operation::Count { range: input.range()? },
            _ => return Err(DecodeError("unknown operation")),
        })
    }
}

/// What a shard says when it did what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Operation::Write`].
    Written(WriteOutcome),
    /// To [`Operation::Get`].
    Value(Option<Entry>),
    /// To [`Operation::GetMany`], in the order of the keys.
    Values(Vec<Option<Entry>>),
    /// To [`Operation::Page`].
    Page {
        /// In key order, or against it when reversed.
        rows: Vec<(Bytes, Entry)>,
        /// What of the asked range, clipped to this shard, was not read; `None`: all of it was.
        rest: Option<KeyRange>,
    },
    /// To [`Operation::Count`].
    Count(u64),
}

/// Why a request was not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This replica does not lead; the one on `leader` may.
    #[error("this replica does not lead its group")]
    NotLeader {
        /// Where the leader is thought to be.
        leader: Option<NodeId>,
    },
    /// The request was routed by an older or newer descriptor.
    #[error("the shard has changed since the request was routed")]
    EpochMismatch {
        /// What the group knows about itself and, after a split, its siblings.
        descriptors: Vec<Descriptor>,
    },
    /// No such group on this node.
    #[error("this node hosts no replica of the group")]
    GroupNotFound,
    /// A key does not lie in the shard.
    #[error("a key lies outside the shard")]
    OutOfRange {
        /// The shard as it is.
        descriptor: Descriptor,
    },
    /// Too much is under way.
    #[error("busy: retry after {retry_after:?}")]
    Busy {
        /// A guess at when it may be better.
        retry_after: Duration,
    },
    /// The deadline passed, or the way to the answer was lost.
    #[error("timed out{}", if *maybe_committed { "; the write may or may not have taken effect" } else { "" })]
    Timeout {
        /// False: certainly without effect. True: nobody knows.
        maybe_committed: bool,
    },
    /// The request is larger than the limits allow.
    #[error("{bytes} bytes are more than the {bytes_max} allowed")]
    TooLarge {
        /// What was sent.
        bytes: u64,
        /// What may be sent.
        bytes_max: u64,
    },
    /// The node's store cannot be read at present.
    #[error("storage: {0}")]
    Storage(String),
    /// Stored bytes fail their checksum.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The replica lost journal content and serves nobody.
    #[error("this replica lost part of its journal and must be replaced")]
    Suspect,
    /// The node is stopping.
    #[error("the node is shutting down")]
    Shutdown,
}

impl Refusal {
    /// True if the request may have taken effect, or still may.
    pub fn maybe_committed(&self) -> bool {
        matches!(self, Refusal::Timeout { maybe_committed: true })
    }

    /// True if the same request, here or at another node, may succeed later: it had no effect.
    pub fn is_retryable(&self) -> bool {
        match self {
            Refusal::NotLeader { .. }
            | Refusal::EpochMismatch { .. }
            | Refusal::GroupNotFound
            | Refusal::OutOfRange { .. }
            | Refusal::Busy { .. }
            | Refusal::Suspect
            | Refusal::Shutdown => true,
            Refusal::Timeout { maybe_committed } => !maybe_committed,
            Refusal::TooLarge { .. } | Refusal::Storage(_) | Refusal::Corrupt(_) => false,
        }
    }
}

/// Where an answer goes.
#[derive(Debug)]
pub enum Reply {
    /// To a task in this process. A sender dropped without an answer means that the node stopped:
    /// for a write the outcome is unknown.
    Oneshot(oneshot::Sender<Result<Answer, Refusal>>),
    /// To the router of another node, through the outbox.
    Peer {
        /// Who asked.
        node: NodeId,
        /// Its name for the request.
        id: u64,
    },
}

/// One operation on its way to a replica.
#[derive(Debug)]
pub struct Request {
    /// The group that the router found for the keys.
    pub group: GroupId,
    /// The epoch of the descriptor that the router used.
    pub epoch: Epoch,
    /// What to do.
    pub operation: Operation,
    /// Who asks; meaningful for writes.
    pub origin: Origin,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// When the request entered this node, for the waterfall of latencies.
    pub entered: Instant,
    /// The bytes that it holds until it is answered.
    pub permit: Permit,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Bytes of `Result<Answer, Refusal>`, for the way back between nodes.
pub fn encode_result(result: &Result<Answer, Refusal>, out: &mut Writer<'_>) {
    match result {
        Ok(answer) => encode_answer(answer, out),
        Err(refusal) => encode_refusal(refusal, out),
    }
}

/// Reads what [`encode_result`] wrote.
///
/// # Errors
///
/// [`DecodeError`] when bytes are missing or make no sense.
pub fn decode_result(input: &mut Reader) -> Result<Result<Answer, Refusal>, DecodeError> {
    let kind = input.u8()?;
    if kind < 64 {
        decode_answer(kind, input).map(Ok)
    } else {
        decode_refusal(kind, input).map(Err)
    }
}

fn encode_entry(entry: &Option<Entry>, out: &mut Writer<'_>) {
    out.bool(entry.is_some());
    if let Some(entry) = entry {
        out.u64(entry.version);
        out.bytes(&entry.value);
    }
}

fn decode_entry(input: &mut Reader) -> Result<Option<Entry>, DecodeError> {
    if !input.bool()? {
        return Ok(None);
    }
    let version = input.u64()?;
    Ok(Some(Entry { value: input.bytes()?, version }))
}

fn encode_answer(answer: &Answer, out: &mut Writer<'_>) {
    match answer {
        Answer::Written(outcome) => encode_outcome(outcome, out),
        Answer::Value(entry) => {
            out.u8(20);
            encode_entry(entry, out);
        }
        Answer::Values(entries) => {
            out.u8(21);
            out.u32(entries.len() as u32);
            entries.iter().for_each(|entry| encode_entry(entry, out));
        }
        Answer::Page { rows, rest } => {
            out.u8(22);
            out.u32(rows.len() as u32);
            for (key, entry) in rows {
                out.bytes(key);
                out.u64(entry.version);
                out.bytes(&entry.value);
            }
            out.bool(rest.is_some());
            if let Some(rest) = rest {
                out.range(rest);
            }
        }
        Answer::Count(count) => {
            out.u8(23);
            out.u64(*count);
        }
    }
}

fn encode_outcome(outcome: &WriteOutcome, out: &mut Writer<'_>) {
    match outcome {
        WriteOutcome::Put { version, written, previous } => {
            out.u8(1);
            out.u64(*version);
            out.bool(*written);
            encode_entry(previous, out);
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
            encode_entry(current, out);
        }
        WriteOutcome::Number(number) => {
            out.u8(4);
            out.i64(*number);
        }
        WriteOutcome::Length(length) => {
            out.u8(5);
            out.u64(*length);
        }
        WriteOutcome::Batch { version } => {
            out.u8(6);
            out.u64(*version);
        }
        WriteOutcome::RangeDeleted { version } => {
            out.u8(7);
            out.u64(*version);
        }
        WriteOutcome::Failed(failure) => {
            out.u8(8);
            out.u8(match failure {
                CommandFailure::NotAnInteger => 1,
                CommandFailure::Overflow => 2,
                CommandFailure::TooLarge => 3,
                CommandFailure::OutOfRange => 4,
            });
        }
    }
}

fn decode_answer(kind: u8, input: &mut Reader) -> Result<Answer, DecodeError> {
    Ok(match kind {
        1 => Answer::Written(WriteOutcome::Put {
            version: input.u64()?,
            written: input.bool()?,
            previous: decode_entry(input)?,
        }),
        2 => Answer::Written(WriteOutcome::Deleted { version: input.u64()?, count: input.u64()? }),
        3 => Answer::Written(WriteOutcome::Swap {
            version: input.u64()?,
            swapped: input.bool()?,
            current: decode_entry(input)?,
        }),
        4 => Answer::Written(WriteOutcome::Number(input.i64()?)),
        5 => Answer::Written(WriteOutcome::Length(input.u64()?)),
        6 => Answer::Written(WriteOutcome::Batch { version: input.u64()? }),
        7 => Answer::Written(WriteOutcome::RangeDeleted { version: input.u64()? }),
        8 => Answer::Written(WriteOutcome::Failed(match input.u8()? {
            1 => CommandFailure::NotAnInteger,
            2 => CommandFailure::Overflow,
            3 => CommandFailure::TooLarge,
            4 => CommandFailure::OutOfRange,
            _ => return Err(DecodeError("unknown failure of a command")),
        })),
        20 => Answer::Value(decode_entry(input)?),
        21 => {
            let count = input.count(1)?;
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                entries.push(decode_entry(input)?);
            }
            Answer::Values(entries)
        }
        22 => {
            let count = input.count(16)?;
            let mut rows = Vec::with_capacity(count);
            for _ in 0..count {
                let key = input.bytes()?;
                let version = input.u64()?;
                rows.push((key, Entry { value: input.bytes()?, version }));
            }
            let rest = if input.bool()? { Some(input.range()?) } else { None };
            Answer::Page { rows, rest }
        }
        23 => Answer::Count(input.u64()?),
        _ => return Err(DecodeError("unknown answer")),
    })
}

fn encode_refusal(refusal: &Refusal, out: &mut Writer<'_>) {
    match refusal {
        Refusal::NotLeader { leader } => {
            out.u8(64);
            out.bool(leader.is_some());
            if let Some(leader) = leader {
                out.u64(leader.0);
            }
        }
        Refusal::EpochMismatch { descriptors } => {
            out.u8(65);
            out.u32(descriptors.len() as u32);
            descriptors.iter().for_each(|descriptor| descriptor.encode(out));
        }
        Refusal::GroupNotFound => out.u8(66),
        Refusal::OutOfRange { descriptor } => {
            out.u8(67);
            descriptor.encode(out);
        }
        Refusal::Busy { retry_after } => {
            out.u8(68);
            out.u64(retry_after.as_nanos().min(u128::from(u64::MAX)) as u64);
        }
        Refusal::Timeout { maybe_committed } => {
            out.u8(69);
            out.bool(*maybe_committed);
        }
        Refusal::TooLarge { bytes, bytes_max } => {
            out.u8(70);
            out.u64(*bytes);
            out.u64(*bytes_max);
        }
        Refusal::Storage(text) => {
            out.u8(71);
            out.bytes(text.as_bytes());
        }
        Refusal::Corrupt(text) => {
            out.u8(72);
            out.bytes(text.as_bytes());
        }
        Refusal::Suspect => out.u8(73),
        Refusal::Shutdown => out.u8(74),
    }
}

fn decode_refusal(kind: u8, input: &mut Reader) -> Result<Refusal, DecodeError> {
    Ok(match kind {
        64 => Refusal::NotLeader {
            leader: if input.bool()? { Some(NodeId(input.u64()?)) } else { None },
        },
        65 => {
            let count = input.count(Descriptor::ENCODED_BYTES_MIN)?;
            let mut descriptors = Vec::with_capacity(count);
            for _ in 0..count {
                descriptors.push(Descriptor::decode(input)?);
            }
            Refusal::EpochMismatch { descriptors }
        }
        66 => Refusal::GroupNotFound,
        67 => Refusal::OutOfRange { descriptor: Descriptor::decode(input)? },
        68 => Refusal::Busy { retry_after: Duration::from_nanos(input.u64()?) },
        69 => Refusal::Timeout { maybe_committed: input.bool()? },
        70 => Refusal::TooLarge { bytes: input.u64()?, bytes_max: input.u64()? },
        71 => Refusal::Storage(String::from_utf8_lossy(&input.bytes()?).into_owned()),
        72 => Refusal::Corrupt(String::from_utf8_lossy(&input.bytes()?).into_owned()),
        73 => Refusal::Suspect,
        74 => Refusal::Shutdown,
        _ => return Err(DecodeError("unknown refusal")),
    })
}
