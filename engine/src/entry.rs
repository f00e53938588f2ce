//! What callers get back: values with their versions, rows, and the outcome of a swap.

use crate::engine::unexpected;
use crate::error::Error;
use bytes::Bytes;
use flotilla_shard::{Budget, WriteOutcome, release};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Which write a value comes from.
///
/// Opaque: it can be compared for equality, kept in memory, and handed back in
/// [`Expect::Version`]. Two values of one key with the same version are the same value. Versions of
/// different keys say nothing about each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub(crate) u64);

/// A value and the version that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The stored bytes.
    pub value: Bytes,
    /// The write that they come from.
    pub version: Version,
    /// When it expires; `None`: never.
    pub expires_at: Option<SystemTime>,
}

impl Entry {
    /// An entry that a caller may keep for ever, without holding any of the node's `budget`.
    pub(crate) fn to_keep(entry: flotilla_shard::Entry, budget: &Budget) -> Entry {
        let value = release(entry.value, budget);
        Entry::from(flotilla_shard::Entry { value, ..entry })
    }
}

impl From<flotilla_shard::Entry> for Entry {
    fn from(entry: flotilla_shard::Entry) -> Entry {
        let expires_at = entry.expires_at_ms.map(time_of);
        Entry { value: entry.value, version: Version(entry.version), expires_at }
    }
}

/// The time that is `ms` milliseconds after the Unix epoch; the last one that can be told for those
/// beyond it.
pub(crate) fn time_of(ms: u64) -> SystemTime {
    const FAR: Duration = Duration::from_secs(8_000_000_000_000);
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH + FAR)
}

/// Milliseconds after the Unix epoch; 0 for times before it.
pub(crate) fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The stored bytes.
    pub value: Bytes,
    /// The write that they come from.
    pub version: Version,
    /// When the row expires; `None`: never.
    pub expires_at: Option<SystemTime>,
}

/// What a compare-and-swap demands of the present value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect<'a> {
    /// The key holds nothing.
    Absent,
    /// The key holds exactly these bytes.
    Value(&'a [u8]),
    /// The key's value was written by exactly this version.
    Version(Version),
}

impl Expect<'_> {
    pub(crate) fn to_shard(self) -> flotilla_shard::Expect {
        match self {
            Expect::Absent => flotilla_shard::Expect::Absent,
            Expect::Value(value) => flotilla_shard::Expect::Value(Bytes::copy_from_slice(value)),
            Expect::Version(version) => flotilla_shard::Expect::Version(version.0),
        }
    }
}

/// What a compare-and-swap did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cas {
    /// The value was as expected and has been replaced.
    Swapped {
        /// The version of the new value, or of its removal.
        version: Version,
    },
    /// The value was not as expected; nothing was changed.
    Mismatch {
        /// What is there instead; `None`: nothing.
        current: Option<Entry>,
    },
}

impl Cas {
    pub(crate) fn of(outcome: WriteOutcome) -> Result<Cas, Error> {
        match outcome {
            WriteOutcome::Swap { swapped: true, version, .. } => {
                Ok(Cas::Swapped { version: Version(version) })
            }
            WriteOutcome::Swap { swapped: false, current, .. } => {
                Ok(Cas::Mismatch { current: current.map(Entry::from) })
            }
            other => unexpected(&other),
        }
    }

    /// True if the value was replaced.
    pub fn is_swapped(&self) -> bool {
        matches!(self, Cas::Swapped { .. })
    }
}
