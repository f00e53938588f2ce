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

mod wire;

pub use wire::{decode_result, encode_result};

use crate::budget::Permit;
use crate::codec::{DecodeError, Reader, Writer};
use crate::command::{Entry, Origin, Write, WriteOutcome};
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
    /// The leader's disk is full. Reads, and writes that only delete, are still served. Nothing was
    /// proposed.
    #[error("the disk of the shard's leader is full: only reads and deletes are served")]
    DiskFull,
    /// The replica's rows cannot be read and are waiting to be replaced from another replica, which
    /// may serve.
    #[error("the rows of this replica are damaged: another replica may serve")]
    Damaged,
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
            | Refusal::Damaged
            | Refusal::Shutdown => true,
            Refusal::Timeout { maybe_committed } => !maybe_committed,
            Refusal::TooLarge { .. }
            | Refusal::Storage(_)
            | Refusal::Corrupt(_)
            | Refusal::DiskFull => false,
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

/// How current a read must be. Writes take no notice of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As if all replicas were one: a read sees everything that was acknowledged before it began.
    #[default]
    Linearizable,
    /// From the replica that was asked, if it has applied all that its leader had committed at
    /// most this long ago, as far as it has been told; else the leader is named. A leader that was
    /// cut off notices within one election timeout: a read may be older by as much.
    Stale {
        /// The age that is allowed.
        max_lag: Duration,
    },
    /// Whatever the replica that was asked has applied, however old.
    Local,
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
    /// How current the answer to a read must be.
    pub consistency: Consistency,
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
