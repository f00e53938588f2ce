//! What nodes say to each other, and each message's bytes within a frame.
//!
//! Keys, values and log payloads of a decoded message are slices of the frame that it came in.
//! Who keeps one for long keeps the whole frame in memory, and should copy it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flotilla_shard::request::{decode_result, encode_result};
use flotilla_shard::{
    Answer, Consistency, DecodeError, Entry, Epoch, GroupId, GroupMessage, Message, NodeId,
    Operation, Origin, Reader, Refusal, ReplicaId, SnapshotMessage, WriteOutcome, Writer,
    is_counted,
};
use std::time::Duration;

const RAFT: u8 = 1;
const REQUEST: u8 = 2;
const REPLY: u8 = 3;
const SNAPSHOT: u8 = 4;
/// A piece of one of the others.
pub(crate) const FRAGMENT: u8 = 5;

/// Bytes that every message has: its length and its kind.
pub(crate) const MESSAGE_BYTES_MIN: usize = 4 + 1;

/// What a message costs beside what its sender put in, in the accounts of outboxes: generous, so
/// that many tiny messages are not free.
const OVERHEAD_BYTES: usize =
    if size_of::<PeerMessage>() > 96 { size_of::<PeerMessage>() } else { 96 };

/// Which of the connections to a peer a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Small messages that elections depend on.
    Liveness,
    /// What requests wait for.
    Data,
    /// Snapshots: as much as there is, and nobody waits for it.
    Bulk,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = 3;

    /// All, in a fixed order.
    pub const ALL: [Class; Class::COUNT] = [Class::Liveness, Class::Data, Class::Bulk];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Class::Liveness => "liveness",
            Class::Data => "data",
            Class::Bulk => "bulk",
        }
    }
}

/// A request on its way to the node that is thought to lead the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedRequest {
    /// The group that the router found for the keys.
    pub group: GroupId,
    /// The epoch of the descriptor that it used.
    pub epoch: Epoch,
    /// What to do.
    pub operation: Operation,
    /// How current the answer to a read must be.
    pub consistency: Consistency,
    /// Who asks; meaningful for writes.
    pub origin: Origin,
    /// How long the caller goes on waiting. Travels in whole milliseconds, rounded up.
    pub timeout: Duration,
}

/// Anything that one node says to another.
#[derive(Clone, Debug, PartialEq)]
pub enum PeerMessage {
    /// From one replica of a group to another. May be lost: Raft repeats itself.
    Raft(GroupMessage),
    /// A request of this node's router to the peer's replica.
    Request {
        /// The asking node's name for it.
        id: u64,
        /// What is asked.
        body: ForwardedRequest,
    },
    /// The answer to a request of the peer.
    Reply {
        /// The asking node's name for the request.
        id: u64,
        /// The answer.
        result: Result<Answer, Refusal>,
    },
    /// Between the snapshot services of two nodes. May be lost: they repeat themselves.
    Snapshot(SnapshotMessage),
}

impl PeerMessage {
    /// Which connection the message takes.
    pub fn class(&self) -> Class {
        match self {
            PeerMessage::Raft(message) if message.message.is_urgent() => Class::Liveness,
            PeerMessage::Snapshot(_) => Class::Bulk,
            _ => Class::Data,
        }
    }

    /// The group whose messages must stay in order with this one.
    pub(crate) fn ordered_by(&self) -> Option<GroupId> {
        match self {
            PeerMessage::Raft(message) => Some(message.group),
            PeerMessage::Request { body, .. } => Some(body.group),
            PeerMessage::Reply { .. } | PeerMessage::Snapshot(_) => None,
        }
    }

    /// About how many bytes of memory the message costs an outbox. Large values that were read cost
    /// it nothing: they were counted when they were read, and their number is bounded there.
    pub fn cost_bytes(&self) -> usize {
        match self {
            PeerMessage::Reply { result, .. } => {
                result_bytes(result, |value| if is_counted(value) { 0 } else { value.len() })
                    .saturating_add(OVERHEAD_BYTES)
            }
            _ => self.wire_bytes(),
        }
    }

    /// About how many bytes the message takes on the wire.
    pub fn wire_bytes(&self) -> usize {
        let carried = match self {
            PeerMessage::Raft(message) => message.message.encoded_len(),
            PeerMessage::Request { body, .. } => {
                usize::try_from(body.operation.payload_bytes()).unwrap_or(usize::MAX)
            }
            PeerMessage::Reply { result, .. } => result_bytes(result, Bytes::len),
            PeerMessage::Snapshot(message) => message.payload_bytes(),
        };
        carried.saturating_add(OVERHEAD_BYTES)
    }

    /// Appends the message, with its length before it.
    ///
    /// # Panics
    ///
    /// If the message is 4 GiB long or longer; limits at the door keep everything far below.
    pub(crate) fn encode(&self, buffer: &mut BytesMut) {
        let start = buffer.len();
        buffer.put_u32_le(0);
        match self {
            PeerMessage::Raft(GroupMessage { group, from, to, message }) => {
                buffer.put_u8(RAFT);
                buffer.put_u64_le(group.0);
                buffer.put_u64_le(from.0);
                buffer.put_u64_le(to.0);
                message.encode(buffer);
            }
            PeerMessage::Request { id, body } => {
                let mut out = Writer::new(buffer);
                out.u8(REQUEST);
                out.u64(*id);
                out.u64(body.group.0);
                out.u64(body.epoch.version);
                out.u64(body.epoch.conf_version);
                out.u64(milliseconds_up(body.timeout));
                out.u64(body.origin.session);
                out.u64(body.origin.session_born_ms);
                out.u64(body.origin.sequence);
                out.u64(body.origin.lowest_unacknowledged);
                encode_consistency(body.consistency, &mut out);
                body.operation.encode(&mut out);
            }
            PeerMessage::Reply { id, result } => {
                let mut out = Writer::new(buffer);
                out.u8(REPLY);
                out.u64(*id);
                encode_result(result, &mut out);
            }
            PeerMessage::Snapshot(message) => {
                buffer.put_u8(SNAPSHOT);
                message.encode(buffer);
            }
        }
        let length = u32::try_from(buffer.len() - start - 4).expect("a message below 4 GiB");
        buffer[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Takes one message from the front of `input`.
    pub(crate) fn decode(input: &mut Bytes) -> Result<PeerMessage, DecodeError> {
        if input.len() < MESSAGE_BYTES_MIN {
            return Err(DecodeError("a message ends early"));
        }
        let length = input.get_u32_le() as usize;
        if length == 0 || length > input.len() {
            return Err(DecodeError("a message reaches beyond its frame"));
        }
        let mut reader = Reader::new(input.split_to(length));
        match reader.u8()? {
            RAFT => {
                let group = GroupId(reader.u64()?);
                let (from, to) = (ReplicaId(reader.u64()?), ReplicaId(reader.u64()?));
                let message = Message::decode(reader.rest())
                    .map_err(|_| DecodeError("a Raft message makes no sense"))?;
                Ok(PeerMessage::Raft(GroupMessage { group, from, to, message }))
            }
            REQUEST => {
                let id = reader.u64()?;
                let body = ForwardedRequest {
                    group: GroupId(reader.u64()?),
                    epoch: Epoch { version: reader.u64()?, conf_version: reader.u64()? },
                    timeout: Duration::from_millis(reader.u64()?),
                    origin: Origin {
                        session: reader.u64()?,
                        session_born_ms: reader.u64()?,
                        sequence: reader.u64()?,
                        lowest_unacknowledged: reader.u64()?,
                    },
                    consistency: decode_consistency(&mut reader)?,
                    operation: Operation::decode(&mut reader)?,
                };
                reader.finish()?;
                Ok(PeerMessage::Request { id, body })
            }
            REPLY => {
                let id = reader.u64()?;
                let result = decode_result(&mut reader)?;
                reader.finish()?;
                Ok(PeerMessage::Reply { id, result })
            }
            SNAPSHOT => Ok(PeerMessage::Snapshot(SnapshotMessage::decode(reader)?)),
            _ => Err(DecodeError("a message of an unknown kind")),
        }
    }
}

/// Rounded up, so that a request never arrives without any time left; capped at a year, so that the
/// receiver can add it to its clock.
fn milliseconds_up(timeout: Duration) -> u64 {
    const YEAR_MS: u128 = 365 * 24 * 3600 * 1000;
    timeout.as_nanos().div_ceil(1_000_000).min(YEAR_MS) as u64
}

fn encode_consistency(consistency: Consistency, out: &mut Writer<'_>) {
    match consistency {
        Consistency::Linearizable => out.u8(0),
        Consistency::Stale { max_lag } => {
            out.u8(1);
            // Rounded down: what arrives never allows more than was asked for.
            out.u64(u64::try_from(max_lag.as_millis()).unwrap_or(u64::MAX));
        }
        Consistency::Local => out.u8(2),
    }
}

fn decode_consistency(input: &mut Reader) -> Result<Consistency, DecodeError> {
    match input.u8()? {
        0 => Ok(Consistency::Linearizable),
        1 => Ok(Consistency::Stale { max_lag: Duration::from_millis(input.u64()?) }),
        2 => Ok(Consistency::Local),
        _ => Err(DecodeError("a request of an unknown consistency")),
    }
}

fn entry_bytes(entry: &Option<Entry>, value_bytes: impl Fn(&Bytes) -> usize) -> usize {
    entry.as_ref().map_or(0, |entry| value_bytes(&entry.value)) + 16
}

/// About how many bytes a result takes, when values that were read take as many as `value_bytes`
/// says.
fn result_bytes(
    result: &Result<Answer, Refusal>,
    value_bytes: impl Fn(&Bytes) -> usize + Copy,
) -> usize {
    match result {
        Ok(Answer::Written(WriteOutcome::Put { previous, .. })) => {
            entry_bytes(previous, Bytes::len)
        }
        Ok(Answer::Written(WriteOutcome::Swap { current, .. })) => entry_bytes(current, Bytes::len),
        Ok(Answer::Written(_) | Answer::Count(_)) => 16,
        Ok(Answer::Value(entry)) => entry_bytes(entry, value_bytes),
        Ok(Answer::Values(entries)) => {
            entries.iter().map(|entry| entry_bytes(entry, value_bytes)).sum()
        }
        Ok(Answer::Page { rows, .. }) => {
            rows.iter().map(|(key, entry)| key.len() + value_bytes(&entry.value) + 24).sum()
        }
        Err(Refusal::EpochMismatch { descriptors }) => descriptors.len() * 256,
        Err(Refusal::Storage(text) | Refusal::Corrupt(text)) => text.len(),
        Err(_) => 16,
    }
}

/// Names a node in words.
pub(crate) fn node_name(node: NodeId) -> String {
    format!("node {node}")
}
