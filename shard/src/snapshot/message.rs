//! What two nodes say to each other about a snapshot, and the bytes of it.
//!
//! Bytes are listed in `docs/peer-protocol.md`. Rows inside a chunk are opaque here: the store
//! writes and reads them.
//!
//! Invariants:
//!
//! * Every message names its transfer; what belongs to none that is known changes nothing.
//! * Decoding never panics and reserves nothing that the input does not back.

use crate::codec::{DecodeError, Reader, Writer};
use bytes::{Bytes, BytesMut};
use flotilla_raft::{Index, Position, ReplicaId, Term};
use flotilla_storage::{GroupId, KeyRange};
use std::time::Duration;

/// Names one transfer for ever: which start of the sending node, and the how-manieth since then.
/// Unique among the transfers of one sending node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId {
    /// Which start of the sender's data directory.
    pub boot: u64,
    /// Counted by the sender from 1 in that start.
    pub number: u64,
}

impl std::fmt::Display for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.boot, self.number)
    }
}

/// What a sender would like to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name from now on.
    pub transfer: TransferId,
    /// Whose rows.
    pub group: GroupId,
    /// The replica that is to install it; any other must refuse.
    pub to: ReplicaId,
    /// The sender's term as leader.
    pub term: Term,
    /// The last log entry that the rows hold.
    pub position: Position,
    /// The keys that the shard owned then.
    pub range: KeyRange,
    /// About how many rows there are: for people, and for nothing else.
    pub rows: u64,
    /// The receiver has accepted this transfer before. One that does not know it must not begin
    /// anew: what was written before is gone.
    pub resumed: bool,
}

/// Why a receiver does not take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeclineReason {
    /// It takes as many as it can already.
    Busy,
    /// Its replica has no use for it.
    NotWanted,
    /// Its disk has no room for it.
    DiskFull,
    /// It cannot write at present, or it stops.
    Unavailable,
}

/// Why one end gives a transfer up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The sender leads no more, or needs no snapshot sent any more.
    Cancelled,
    /// A newer transfer for the same replica takes its place.
    Superseded,
    /// The other end speaks of a transfer that is not known here: it began before a restart.
    Unknown,
    /// What arrived is not what was sent.
    Corrupt,
    /// The sender cannot read its rows.
    Unreadable,
    /// The receiver cannot write or install.
    Unwritable,
    /// Nothing moved for too long.
    TimedOut,
    /// A message came that has no place here: a bug at one of the ends.
    Protocol,
    /// The node stops.
    Shutdown,
}

/// All that the receiver compares before it believes what it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// How many chunks there were.
    pub chunks: u64,
    /// How many rows.
    pub rows: u64,
    /// Of all rows, as the store computes it.
    pub digest: u64,
    /// The shard's version at the position.
    pub version: u64,
    /// What the layer above recorded with the rows.
    pub meta: Bytes,
}

/// Anything that is said about a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotMessage {
    /// Sender: would you like this? Repeated, it asks how far the receiver has come.
    Offer(Offer),
    /// Receiver: yes; the first chunk that is missing here is this one, counted from 0.
    Accept {
        /// Which transfer.
        transfer: TransferId,
        /// The chunk to begin with.
        from_chunk: u64,
    },
    /// Receiver: no. The transfer is over.
    Decline {
        /// Which transfer.
        transfer: TransferId,
        /// Why.
        reason: DeclineReason,
        /// Asking again earlier is of no use.
        retry_after: Duration,
    },
    /// Sender: some rows, in the order of keys.
    Chunk {
        /// Which transfer.
        transfer: TransferId,
        /// Counted from 0.
        number: u64,
        /// As the store encodes them.
        rows: Bytes,
        /// CRC32C of `rows`.
        crc: u32,
    },
    /// Receiver: this chunk and all before it are written.
    ChunkDone {
        /// Which transfer.
        transfer: TransferId,
        /// The last one.
        number: u64,
    },
    /// Sender: that was all.
    End {
        /// Which transfer.
        transfer: TransferId,
        /// To be compared.
        summary: Summary,
    },
    /// Receiver: the replica stands on it now. The transfer is over.
    Installed {
        /// Which transfer.
        transfer: TransferId,
    },
    /// Either: the transfer is over, and nothing came of it.
    Abort {
        /// Which transfer.
        transfer: TransferId,
        /// Said by the end that sends the rows, or by the one that receives them: each end may
        /// know two transfers of the same name, one of its own and one of the other's.
        by_sender: bool,
        /// Why.
        reason: AbortReason,
    },
}

const OFFER: u8 = 1;
const ACCEPT: u8 = 2;
const DECLINE: u8 = 3;
const CHUNK: u8 = 4;
const CHUNK_DONE: u8 = 5;
const END: u8 = 6;
const INSTALLED: u8 = 7;
const ABORT: u8 = 8;

/// A retry later than this is none: keeps a hostile number out of the clock's arithmetic.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

impl SnapshotMessage {
    /// Which transfer it speaks of.
    pub fn transfer(&self) -> TransferId {
        match self {
            SnapshotMessage::Offer(offer) => offer.transfer,
            SnapshotMessage::Accept { transfer, .. }
            | SnapshotMessage::Decline { transfer, .. }
            | SnapshotMessage::Chunk { transfer, .. }
            | SnapshotMessage::ChunkDone { transfer, .. }
            | SnapshotMessage::End { transfer, .. }
            | SnapshotMessage::Installed { transfer }
            | SnapshotMessage::Abort { transfer, .. } => *transfer,
        }
    }

    /// True if the end that sends the rows says this.
    pub fn is_from_sender(&self) -> bool {
        match self {
            SnapshotMessage::Offer(_)
            | SnapshotMessage::Chunk { .. }
            | SnapshotMessage::End { .. } => true,
            SnapshotMessage::Abort { by_sender, .. } => *by_sender,
            _ => false,
        }
    }

    /// Bytes that it carries for others: rows and meta.
    pub fn payload_bytes(&self) -> usize {
        match self {
            SnapshotMessage::Offer(offer) => {
                offer.range.start.len() + offer.range.end.as_ref().map_or(0, Bytes::len)
            }
            SnapshotMessage::Chunk { rows, .. } => rows.len(),
            SnapshotMessage::End { summary, .. } => summary.meta.len(),
            _ => 0,
        }
    }

    /// Appends the message to `buffer`.
    pub fn encode(&self, buffer: &mut BytesMut) {
        let mut out = Writer::new(buffer);
        let mut open = |kind, transfer: &TransferId| {
            out.u8(kind);
            out.u64(transfer.boot);
            out.u64(transfer.number);
        };
        match self {
            SnapshotMessage::Offer(offer) => {
                open(OFFER, &offer.transfer);
                out.u64(offer.group.0);
                out.u64(offer.to.0);
                out.u64(offer.term.0);
                out.u64(offer.position.index.0);
                out.u64(offer.position.term.0);
                out.range(&offer.range);
                out.u64(offer.rows);
                out.bool(offer.resumed);
            }
            SnapshotMessage::Accept { transfer, from_chunk } => {
                open(ACCEPT, transfer);
                out.u64(*from_chunk);
            }
            SnapshotMessage::Decline { transfer, reason, retry_after } => {
                open(DECLINE, transfer);
                out.u8(reason.code());
                let retry_after = retry_after.min(&RETRY_AFTER_MAX);
                out.u64(u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX));
            }
            SnapshotMessage::Chunk { transfer, number, rows, crc } => {
                open(CHUNK, transfer);
                out.u64(*number);
                out.u32(*crc);
                out.bytes(rows);
            }
            SnapshotMessage::ChunkDone { transfer, number } => {
                open(CHUNK_DONE, transfer);
                out.u64(*number);
            }
            SnapshotMessage::End { transfer, summary } => {
                open(END, transfer);
                out.u64(summary.chunks);
                out.u64(summary.rows);
                out.u64(summary.digest);
                out.u64(summary.version);
                out.bytes(&summary.meta);
            }
            SnapshotMessage::Installed { transfer } => open(INSTALLED, transfer),
            SnapshotMessage::Abort { transfer, by_sender, reason } => {
                open(ABORT, transfer);
                out.bool(*by_sender);
                out.u8(reason.code());
            }
        }
    }

    /// Reads one message and takes all of `input`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing, left over, or mean nothing here.
    pub fn decode(mut input: Reader) -> Result<SnapshotMessage, DecodeError> {
        let kind = input.u8()?;
        let transfer = TransferId { boot: input.u64()?, number: input.u64()? };
        let message = match kind {
            OFFER => SnapshotMessage::Offer(Offer {
                transfer,
                group: GroupId(input.u64()?),
                to: ReplicaId(input.u64()?),
                term: Term(input.u64()?),
                position: Position { index: Index(input.u64()?), term: Term(input.u64()?) },
                range: input.range()?,
                rows: input.u64()?,
                resumed: input.bool()?,
            }),
            ACCEPT => SnapshotMessage::Accept { transfer, from_chunk: input.u64()? },
            DECLINE => SnapshotMessage::Decline {
                transfer,
                reason: DeclineReason::from_code(input.u8()?)?,
                retry_after: Duration::from_millis(input.u64()?).min(RETRY_AFTER_MAX),
            },
            CHUNK => SnapshotMessage::Chunk {
                transfer,
                number: input.u64()?,
                crc: input.u32()?,
                rows: input.bytes()?,
            },
            CHUNK_DONE => SnapshotMessage::ChunkDone { transfer, number: input.u64()? },
            END => SnapshotMessage::End {
                transfer,
                summary: Summary {
                    chunks: input.u64()?,
                    rows: input.u64()?,
                    digest: input.u64()?,
                    version: input.u64()?,
                    meta: input.bytes()?,
                },
            },
            INSTALLED => SnapshotMessage::Installed { transfer },
            ABORT => SnapshotMessage::Abort {
                transfer,
                by_sender: input.bool()?,
                reason: AbortReason::from_code(input.u8()?)?,
            },
            _ => return Err(DecodeError("a snapshot message of an unknown kind")),
        };
        input.finish()?;
        Ok(message)
    }
}

impl DeclineReason {
    /// All, in the order of their codes.
    pub const ALL: [DeclineReason; 4] = [
        DeclineReason::Busy,
        DeclineReason::NotWanted,
        DeclineReason::DiskFull,
        DeclineReason::Unavailable,
    ];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            DeclineReason::Busy => "busy",
            DeclineReason::NotWanted => "not_wanted",
            DeclineReason::DiskFull => "disk_full",
            DeclineReason::Unavailable => "unavailable",
        }
    }

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Result<DeclineReason, DecodeError> {
        let index = usize::from(code).checked_sub(1);
        let reason = index.and_then(|index| DeclineReason::ALL.get(index));
        reason.copied().ok_or(DecodeError("a snapshot was declined for an unknown reason"))
    }
}

impl AbortReason {
    /// All, in the order of their codes.
    pub const ALL: [AbortReason; 9] = [
        AbortReason::Cancelled,
        AbortReason::Superseded,
        AbortReason::Unknown,
        AbortReason::Corrupt,
        AbortReason::Unreadable,
        AbortReason::Unwritable,
        AbortReason::TimedOut,
        AbortReason::Protocol,
        AbortReason::Shutdown,
    ];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            AbortReason::Cancelled => "cancelled",
            AbortReason::Superseded => "superseded",
            AbortReason::Unknown => "unknown_transfer",
            AbortReason::Corrupt => "corrupt",
            AbortReason::Unreadable => "unreadable",
            AbortReason::Unwritable => "unwritable",
            AbortReason::TimedOut => "timed_out",
            AbortReason::Protocol => "protocol",
            AbortReason::Shutdown => "shutdown",
        }
    }

    fn code(self) -> u8 {
        self as u8 + 1
    }

    fn from_code(code: u8) -> Result<AbortReason, DecodeError> {
        let index = usize::from(code).checked_sub(1);
        let reason = index.and_then(|index| AbortReason::ALL.get(index));
        reason.copied().ok_or(DecodeError("a snapshot was aborted for an unknown reason"))
    }
}
