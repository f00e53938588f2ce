//! What clients ask for, and what it comes to.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads one key.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Writes one key, whether it exists or not.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Writes several keys with one request, where the target has such requests.
    PutMany {
        /// Keys with their new values.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// Removes one key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads up to `limit` rows in key order, from `start` on.
    Scan {
        /// The first key that may be read.
        start: Bytes,
        /// How many rows at most.
        limit: u32,
    },
    /// Reads a key and then writes it: two requests of one client, one after the other, as YCSB does
    /// it. Not atomic.
    ReadModifyWrite {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Writes `new` if the key holds `old`.
    CompareAndSwap {
        /// The key.
        key: Bytes,
        /// What it must hold; `None`: nothing.
        old: Option<Bytes>,
        /// What it is to hold then.
        new: Bytes,
    },
}

impl Operation {
    /// True if it can change what the store holds.
    pub fn is_write(&self) -> bool {
        !matches!(self, Operation::Get { .. } | Operation::Scan { .. })
    }

    /// Bytes of keys and values that it writes, as the user counts them.
    pub fn written_bytes(&self) -> u64 {
        let bytes = match self {
            Operation::Get { .. } | Operation::Scan { .. } => 0,
            Operation::Put { key, value } | Operation::ReadModifyWrite { key, value } => {
                key.len() + value.len()
            }
            Operation::PutMany { pairs } => {
                pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
            }
            Operation::Delete { key } => key.len(),
            Operation::CompareAndSwap { key, new, .. } => key.len() + new.len(),
        };
        bytes as u64
    }

    /// How many operations it counts as: the keys of a [`Operation::PutMany`], else one.
    pub fn weight(&self) -> u64 {
        match self {
            Operation::PutMany { pairs } => pairs.len() as u64,
            _ => 1,
        }
    }
}

/// Kinds of operations that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Reads of one key.
    Get,
    /// Writes of keys that may exist.
    Put,
    /// Writes of new keys.
    Insert,
    /// Removals.
    Delete,
    /// Reads of ranges.
    Scan,
    /// Reads followed by a write of the same key.
    ReadModifyWrite,
    /// Conditional writes.
    CompareAndSwap,
}

impl OperationKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [OperationKind; 7] = [
        OperationKind::Get,
        OperationKind::Put,
        OperationKind::Insert,
        OperationKind::Delete,
        OperationKind::Scan,
        OperationKind::ReadModifyWrite,
        OperationKind::CompareAndSwap,
    ];

    /// As it is printed and named in documents.
    pub fn name(self) -> &'static str {
        match self {
            OperationKind::Get => "get",
            OperationKind::Put => "put",
            OperationKind::Insert => "insert",
            OperationKind::Delete => "delete",
            OperationKind::Scan => "scan",
            OperationKind::ReadModifyWrite => "read_modify_write",
            OperationKind::CompareAndSwap => "compare_and_swap",
        }
    }

    /// True if operations of this kind can change what the store holds.
    pub fn is_write(self) -> bool {
        !matches!(self, OperationKind::Get | OperationKind::Scan)
    }
}

impl fmt::Display for OperationKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why an operation was not done, in a few words that are counted: `BUSY`, `connection lost`.
/// No texts that are different each time.
pub type Reason = Cow<'static, str>;

/// What an operation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done {
        /// What was read by a get or a read-modify-write; for a compare-and-swap, `Some` if it
        /// swapped.
        value: Option<Bytes>,
        /// Rows that were read by a scan.
        rows: u32,
    },
    /// Certainly without effect.
    NoEffect(Reason),
    /// It may have had an effect, or may still have one.
    Unknown(Reason),
}

impl Outcome {
    /// A write that was acknowledged.
    pub const WRITTEN: Outcome = Outcome::Done { value: None, rows: 0 };

    /// A get or read-modify-write that was answered.
    pub fn read(value: Option<Bytes>) -> Outcome {
        Outcome::Done { value, rows: 0 }
    }

    /// A scan that was answered.
    pub fn scanned(rows: u32) -> Outcome {
        Outcome::Done { value: None, rows }
    }

    /// What is known of an operation after its connection was lost: reads had no effect, of writes
    /// nobody knows.
    pub fn lost(is_write: bool, reason: impl Into<Reason>) -> Outcome {
        match is_write {
            true => Outcome::Unknown(reason.into()),
            false => Outcome::NoEffect(reason.into()),
        }
    }
}

/// The end of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// What the driver called it.
    pub tag: u64,
    /// What it came to.
    pub outcome: Outcome,
}
