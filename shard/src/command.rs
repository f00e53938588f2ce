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
//! * A command never says "now": time is the leader's stamp. A row whose expiry is not after the
//!   stamp is absent for the command.
//!
//! What is absent: how changes are applied (`machine`), and limits on sizes (the door checks them).

mod outcome;
mod properties;
mod wire;

pub use outcome::{CommandFailure, StepOutcome, WriteOutcome};

use crate::codec::{DecodeError, Reader, Writer};
use bytes::{Bytes, BytesMut};
use flotilla_storage::KeyRange;
use flotilla_storage::store::Row;

/// The format that [`Command::encode`] writes. [`Command::decode`] reads this and version 1.
pub const COMMAND_VERSION: u8 = 2;

/// The first format: its origins were never looked at.
const COMMAND_VERSION_WITHOUT_SESSIONS: u8 = 1;

/// Who asked for a write, so that a retry is recognized and applied once.
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
    /// When the key goes away, milliseconds since the Unix epoch; `None`: never.
    pub expires_at_ms: Option<u64>,
}

impl Entry {
    /// Appends the bytes of an entry, or of none, to `out`.
    pub(crate) fn encode(entry: Option<&Entry>, out: &mut Writer<'_>) {
        match entry {
            None => out.u8(0),
            Some(entry) => {
                out.u8(if entry.expires_at_ms.is_some() { 2 } else { 1 });
                if let Some(expires_at_ms) = entry.expires_at_ms {
                    out.u64(expires_at_ms);
                }
                out.u64(entry.version);
                out.bytes(&entry.value);
            }
        }
    }

    /// Reads what [`Entry::encode`] wrote.
    pub(crate) fn decode(input: &mut Reader) -> Result<Option<Entry>, DecodeError> {
        let expires_at_ms = match input.u8()? {
            0 => return Ok(None),
            1 => None,
            2 => Some(input.u64()?),
            _ => return Err(DecodeError("unknown kind of entry")),
        };
        let version = input.u64()?;
        Ok(Some(Entry { value: input.bytes()?, version, expires_at_ms }))
    }
}

impl From<Row> for Entry {
    fn from(row: Row) -> Entry {
        Entry { value: row.value, version: row.version, expires_at_ms: row.expires_at_ms }
    }
}

/// What becomes of a key's expiry. An expiry that is not after the command's stamp removes the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It stays as it is.
    Keep,
    /// The key does not expire (any more).
    Never,
    /// At this time, milliseconds since the Unix epoch.
    At(u64),
    /// This many milliseconds after the command's stamp.
    After(u64),
}

/// When an expiry is set. A key without expiry counts as one that expires at infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireCondition {
    /// Always.
    Always,
    /// Only when the key does not expire yet.
    IfNone,
    /// Only when the key expires already.
    IfSome,
    /// Only when the new expiry is later.
    IfGreater,
    /// Only when the new expiry is earlier.
    IfLess,
    /// Only when the key expires already and the new expiry is earlier.
    IfSomeAndLess,
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
        /// What becomes of the key's expiry.
        expiry: Expiry,
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
        /// What becomes of the key's expiry.
        expiry: Expiry,
    },
    /// Adds to a decimal integer and keeps the expiry; an absent key counts as 0.
    Add {
        /// Where.
        key: Bytes,
        /// How much, may be negative.
        delta: i64,
    },
    /// Adds to a decimal number and keeps the expiry; an absent key counts as 0.
    AddFloat {
        /// Where.
        key: Bytes,
        /// How much, in decimal.
        delta: Bytes,
    },
    /// Appends to a value and keeps the expiry; an absent key counts as empty.
    Append {
        /// Where.
        key: Bytes,
        /// What to append.
        value: Bytes,
    },
    /// Overwrites a part of a value and keeps the expiry; an absent key counts as empty, and what
    /// lies between the end of a short value and the offset becomes zero bytes. Writing no bytes
    /// changes nothing.
    SetRange {
        /// Where.
        key: Bytes,
        /// From which byte on.
        offset: u64,
        /// What to write there.
        value: Bytes,
    },
    /// Sets or takes away the expiry of a key that holds something.
    Expire {
        /// Which.
        key: Bytes,
        /// The new expiry.
        expiry: Expiry,
        /// When; [`Expiry::Never`] and [`Expiry::Keep`] have no condition.
        condition: ExpireCondition,
        /// Whether the outcome carries what is there.
        return_value: bool,
    },
    /// Removes a key and returns what it held.
    Take {
        /// Which.
        key: Bytes,
    },
    /// Moves a value, with its expiry, to another key.
    Rename {
        /// From here; fails when it holds nothing.
        from: Bytes,
        /// To there.
        to: Bytes,
        /// Only when the new key holds nothing.
        only_if_absent: bool,
    },
    /// Copies a value, with its expiry, to another key.
    Copy {
        /// From here; nothing happens when it holds nothing.
        from: Bytes,
        /// To there.
        to: Bytes,
        /// Even when the new key holds something.
        replace: bool,
    },
    /// Several changes at once, all or none, in order. Puts of a batch do not expire.
    Batch {
        /// The changes.
        changes: Vec<BatchChange>,
        /// Only when none of the keys holds anything.
        if_all_absent: bool,
    },
    /// Several writes and reads at once, in order, if all guards hold. Each sees what those before
    /// it did; one that fails fails alone.
    Atomic {
        /// What must be as it was.
        guards: Vec<Guard>,
        /// What to do.
        steps: Vec<Step>,
    },
    /// Removes those of the keys that have expired. Changes nothing that a reader could see.
    Reap {
        /// Which to look at.
        keys: Vec<Bytes>,
    },
    /// Removes every key of a range that the shard holds.
    DeleteRange {
        /// Clipped to the shard's own range when applied.
        range: KeyRange,
    },
}

/// A key that must be as it was when somebody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Which.
    pub key: Bytes,
    /// The version that it must still have; 0: it must still hold nothing.
    pub version: u64,
}

/// One step of [`Write::Atomic`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Any write but [`Write::Atomic`] and [`Write::DeleteRange`].
    Write(Write),
    /// Reads a value.
    Get {
        /// Of this key.
        key: Bytes,
    },
}

/// What a log entry does to a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client's change.
    Write(Write),
    /// Every voter holds the log through this index and the leader has a checkpoint beyond it:
    /// replicas may forget the entries that their own checkpoints cover. Found in logs of older
    /// releases; replicas decide for themselves now.
    ReleaseLog {
        /// The last index that may be forgotten.
        through: u64,
    },
    /// The leader reads by its clock up to this moment, while there are keys that expire: a later
    /// leader must not read, or take a command, at an earlier one.
    Ceiling {
        /// Milliseconds since the Unix epoch.
        ms: u64,
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
            Change::ReleaseLog { through } => self.encode_number(RELEASE_LOG, *through),
            Change::Ceiling { ms } => self.encode_number(CEILING, *ms),
        }
    }

    fn encode_number(&self, kind: u8, number: u64) -> Bytes {
        let mut buffer = BytesMut::with_capacity(64);
        let mut out = Writer::new(&mut buffer);
        encode_header(&self.origin, self.stamp_ms, self.value_bytes_max, &mut out);
        out.u8(kind);
        out.u64(number);
        buffer.freeze()
    }

    /// Reads what [`Command::encode`] wrote; keys and values stay slices of `payload`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when bytes are missing, left over, or of an unknown version.
    pub fn decode(payload: Bytes) -> Result<Command, DecodeError> {
        let mut input = Reader::new(payload);
        let version = input.u8()?;
        if version != COMMAND_VERSION && version != COMMAND_VERSION_WITHOUT_SESSIONS {
            return Err(DecodeError("a command of an unknown version: a newer release wrote it"));
        }
        let mut origin = Origin {
            session: input.u64()?,
            session_born_ms: input.u64()?,
            sequence: input.u64()?,
            lowest_unacknowledged: input.u64()?,
        };
        if version == COMMAND_VERSION_WITHOUT_SESSIONS {
            // Whoever applied it before did so without looking; applied again it must do the same.
            origin = Origin::default();
        }
        let stamp_ms = input.u64()?;
        let value_bytes_max = input.u64()?;
        let change = match input.peek() {
            Some(RELEASE_LOG) => {
                input.u8()?;
                Change::ReleaseLog { through: input.u64()? }
            }
            Some(CEILING) => {
                input.u8()?;
                Change::Ceiling { ms: input.u64()? }
            }
            _ => Change::Write(Write::decode(&mut input)?),
        };
        input.finish()?;
        Ok(Command { origin, stamp_ms, value_bytes_max, change })
    }
}

/// Kinds from here on are not client writes.
const RELEASE_LOG: u8 = 128;
const CEILING: u8 = 129;

fn encode_header(origin: &Origin, stamp_ms: u64, value_bytes_max: u64, out: &mut Writer<'_>) {
    out.u8(COMMAND_VERSION);
    out.u64(origin.session);
    out.u64(origin.session_born_ms);
    out.u64(origin.sequence);
    out.u64(origin.lowest_unacknowledged);
    out.u64(stamp_ms);
    out.u64(value_bytes_max);
}
