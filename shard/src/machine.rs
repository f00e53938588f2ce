//! The state machine of a shard: applies commands to its rows, deterministically.
//!
//! Every replica applies the same commands in the same order and must reach the same rows, the
//! same versions and the same outcomes. So nothing here depends on a clock, on settings, or on
//! where rows happen to lie: a command that needs the old value of a key that is not in memory is
//! handed back ([`Applied::Missing`]) until somebody has read it, and has changed nothing by then.
//!
//! Invariants:
//!
//! * A command is applied whole or not at all, and readers never see half of it.
//! * A key outside the shard's range is never written, whatever the router believed.
//! * Stamps never go back.
//!
//! What is absent: Raft, and answers to clients (`replica` matches outcomes to callers).

mod meta;

pub use meta::ShardMeta;

use crate::command::{
    BatchChange, Change, Command, CommandFailure, Condition, Entry, Expect, Write, WriteOutcome,
};
use crate::descriptor::Descriptor;
use crate::sessions::SessionTable;
use bytes::{Bytes, BytesMut};
use flotilla_storage::KeyRange;
use flotilla_storage::store::{Lookup, Row, RowChange, Shard};
use std::collections::BTreeMap;

/// Rows that were read from below the memtables for commands that wait for them.
pub type Fetched = BTreeMap<Bytes, Option<Row>>;

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// A client's write ran; deterministic failures included.
    Outcome(WriteOutcome),
    /// The log may be forgotten through this index, as far as others are concerned.
    Released(u64),
    /// Reads may go by the leader's clock up to this moment.
    Ceiling(u64),
    /// Nothing was changed: the present rows of these keys must be read first.
    Missing(Vec<Bytes>),
}

/// The rows of one shard and what describes them.
pub struct Machine {
    descriptor: Descriptor,
    shard: Shard,
    stamp_ms: u64,
    released: u64,
    ceiling_ms: u64,
    expiring_until_ms: u64,
    sessions: SessionTable,
}

impl Machine {
    /// A machine over rows that were opened or born at `meta`.
    pub fn new(meta: ShardMeta, shard: Shard) -> Machine {
        let ShardMeta { descriptor, stamp_ms, released, ceiling_ms, expiring_until_ms, sessions } =
            meta;
        Machine { descriptor, shard, stamp_ms, released, ceiling_ms, expiring_until_ms, sessions }
    }

    /// The shard as it is after everything applied so far.
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The rows, for reading.
    pub fn shard(&self) -> &Shard {
        &self.shard
    }

    /// The rows, for freezing.
    pub fn shard_mut(&mut self) -> &mut Shard {
        &mut self.shard
    }

    /// The stamp of the last applied command.
    pub fn stamp_ms(&self) -> u64 {
        self.stamp_ms
    }

    /// The log may be forgotten through this index, as far as other replicas are concerned.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// What a checkpoint must keep beside the rows.
    pub fn meta(&self) -> ShardMeta {
        ShardMeta {
            descriptor: self.descriptor.clone(),
            stamp_ms: self.stamp_ms,
            released: self.released,
            ceiling_ms: self.ceiling_ms,
            expiring_until_ms: self.expiring_until_ms,
            sessions: self.sessions.clone(),
        }
    }

    /// No command may be stamped, and no read served, at an earlier time than this: an earlier
    /// leader may have read up to there. Milliseconds since the Unix epoch.
    pub fn clock_floor_ms(&self) -> u64 {
        self.stamp_ms.max(self.ceiling_ms)
    }

    /// The time at which a read sees rows that expire, for a replica whose clock says `wall_ms`:
    /// never before the last command, never beyond the ceiling.
    pub fn read_time_ms(&self, wall_ms: u64) -> u64 {
        self.stamp_ms.max(wall_ms.min(self.ceiling_ms))
    }

    /// True while a row may expire later than the clock floor: reads need a ceiling ahead of the
    /// leader's clock. May be true without such a row.
    pub fn has_expiring(&self) -> bool {
        self.expiring_until_ms > self.clock_floor_ms()
    }

    /// True if rows may lie here that have expired or will: somebody should look for those to
    /// reap. May be true without such a row.
    pub fn may_hold_expired(&self) -> bool {
        self.expiring_until_ms > 0
    }

    /// Applies one committed command. `fetched` holds rows from below the memtables, read after
    /// the last applied command.
    pub fn apply(&mut self, command: &Command, fetched: &Fetched) -> Applied {
        let applied = match &command.change {
            Change::ReleaseLog { through } => {
                self.released = self.released.max(*through);
                Applied::Released(self.released)
            }
            Change::Ceiling { ms } => {
                self.ceiling_ms = self.ceiling_ms.max(*ms);
                Applied::Ceiling(self.ceiling_ms)
            }
            Change::Write(write) => self.write(write, command.value_bytes_max, fetched),
        };
        if !matches!(applied, Applied::Missing(_)) {
            self.stamp_ms = self.stamp_ms.max(command.stamp_ms);
        }
        applied
    }

    fn write(&mut self, write: &Write, value_bytes_max: u64, fetched: &Fetched) -> Applied {
        let mut outside = false;
        write.for_each_key(|key| outside |= !self.descriptor.range.contains(key));
        if outside {
            return Applied::Outcome(WriteOutcome::Failed(CommandFailure::OutOfRange));
        }
        match write {
            Write::Put {
                key, value, condition: Condition::Always, return_previous: false, ..
            } => {
                let version = self.put(key, value.clone());
                Applied::Outcome(WriteOutcome::Put { version, written: true, previous: None })
            }
            Write::Put { key, value, condition, return_previous, .. } => {
                let previous = match self.present(key, fetched) {
                    Ok(row) => row,
                    Err(missing) => return missing,
                };
                let written = match condition {
                    Condition::Always => true,
                    Condition::IfAbsent => previous.is_none(),
                    Condition::IfPresent => previous.is_some(),
                };
                let version = if written {
                    self.put(key, value.clone())
                } else {
                    previous.as_ref().map_or(0, |entry| entry.version)
                };
                let previous = if *return_previous { previous } else { None };
                Applied::Outcome(WriteOutcome::Put { version, written, previous })
            }
            Write::Delete { keys } => self.delete(keys, fetched),
            Write::CompareAndSwap { key, expect, new, .. } => {
                let current = match self.present(key, fetched) {
                    Ok(row) => row,
                    Err(missing) => return missing,
                };
                let holds = match expect {
                    Expect::Absent => current.is_none(),
                    Expect::Value(value) => current.as_ref().is_some_and(|e| e.value == *value),
                    Expect::Version(version) => {
                        current.as_ref().is_some_and(|e| e.version == *version)
                    }
                };
                if !holds {
                    let version = current.as_ref().map_or(0, |entry| entry.version);
                    return Applied::Outcome(WriteOutcome::Swap {
                        version,
                        swapped: false,
                        current,
                    });
                }
                let version = match new {
                    Some(value) => self.put(key, value.clone()),
                    None if current.is_some() => {
                        self.shard.apply(vec![RowChange::Delete { key: key.clone() }])
                    }
                    None => self.shard.version(),
                };
                Applied::Outcome(WriteOutcome::Swap { version, swapped: true, current: None })
            }
            Write::Add { key, delta } => self.add(key, *delta, fetched),
            Write::Append { key, value } => self.append(key, value, value_bytes_max, fetched),
            Write::Batch { changes, .. } => {
                let changes = changes
                    .iter()
                    .map(|change| match change {
                        BatchChange::Put { key, value } => row_put(key, value.clone()),
                        BatchChange::Delete { key } => RowChange::Delete { key: key.clone() },
                    })
                    .collect();
                let version = self.shard.apply(changes);
                Applied::Outcome(WriteOutcome::Batch { version, written: true })
            }
            Write::DeleteRange { range } => {
                let version = match range.clip(&self.descriptor.range) {
                    None => self.shard.version(),
                    Some(part) if part == self.descriptor.range => self.shard.clear(),
                    Some(part) => self.shard.apply(vec![RowChange::DeleteRange(part)]),
                };
                Applied::Outcome(WriteOutcome::RangeDeleted { version })
            }
            _ => Applied::Outcome(WriteOutcome::Failed(CommandFailure::OutOfRange)),
        }
    }

    fn delete(&mut self, keys: &[Bytes], fetched: &Fetched) -> Applied {
        let mut missing = Vec::new();
        let mut doomed: Vec<&Bytes> = Vec::with_capacity(keys.len());
        for key in keys {
            match self.present(key, fetched) {
                Ok(Some(_)) => doomed.push(key),
                Ok(None) => {}
                Err(_) => missing.push(key.clone()),
            }
        }
        if !missing.is_empty() {
            return Applied::Missing(missing);
        }
        doomed.sort_unstable();
        doomed.dedup();
        let count = doomed.len() as u64;
        let version = if doomed.is_empty() {
            self.shard.version()
        } else {
            let changes = doomed.into_iter().map(|key| RowChange::Delete { key: key.clone() });
            self.shard.apply(changes.collect())
        };
        Applied::Outcome(WriteOutcome::Deleted { version, count })
    }

    fn add(&mut self, key: &Bytes, delta: i64, fetched: &Fetched) -> Applied {
        let present = match self.present(key, fetched) {
            Ok(row) => row,
            Err(missing) => return missing,
        };
        let number = match present {
            None => 0,
            Some(entry) => match parse_integer(&entry.value) {
                Some(number) => number,
                None => {
                    return Applied::Outcome(WriteOutcome::Failed(CommandFailure::NotAnInteger));
                }
            },
        };
        let Some(sum) = number.checked_add(delta) else {
            return Applied::Outcome(WriteOutcome::Failed(CommandFailure::Overflow));
        };
        self.put(key, Bytes::from(sum.to_string()));
        Applied::Outcome(WriteOutcome::Number(sum))
    }

    fn append(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        value_bytes_max: u64,
        fetched: &Fetched,
    ) -> Applied {
        let present = match self.present(key, fetched) {
            Ok(row) => row.map_or_else(Bytes::new, |entry| entry.value),
            Err(missing) => return missing,
        };
        let length = (present.len() + value.len()) as u64;
        if length > value_bytes_max {
            return Applied::Outcome(WriteOutcome::Failed(CommandFailure::TooLarge));
        }
        let mut joined = BytesMut::with_capacity(length as usize);
        joined.extend_from_slice(&present);
        joined.extend_from_slice(value);
        self.put(key, joined.freeze());
        Applied::Outcome(WriteOutcome::Length(length))
    }

    fn put(&mut self, key: &Bytes, value: Bytes) -> u64 {
        self.shard.apply(vec![row_put(key, value)])
    }

    fn present(&self, key: &Bytes, fetched: &Fetched) -> Result<Option<Entry>, Applied> {
        let row = match self.shard.lookup(key) {
            Lookup::Row(row) => Some(row),
            Lookup::Absent => None,
            Lookup::Below => match fetched.get(key) {
                Some(row) => row.clone(),
                None => return Err(Applied::Missing(vec![key.clone()])),
            },
        };
        Ok(row.map(|row| {
            let Row { value, version, expires_at_ms, .. } = row;
            Entry { value, version, expires_at_ms }
        }))
    }

    /// The part of `range` that this shard holds.
    pub fn clip(&self, range: &KeyRange) -> Option<KeyRange> {
        range.clip(&self.descriptor.range)
    }
}

fn row_put(key: &Bytes, value: Bytes) -> RowChange {
    RowChange::Put { key: key.clone(), value, flags: 0, expires_at_ms: None }
}

/// A decimal 64-bit integer exactly as Redis accepts it: no plus sign, no spaces, no leading
/// zeros, no minus zero.
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [] => false,
        [b'0'] => text.len() == 1,
        [first, ..] => *first != b'0' && digits.iter().all(u8::is_ascii_digit),
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::parse_integer;

    #[test]
    fn integers_are_parsed_as_redis_does() {
        for (text, want) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1.0", None),
            ("abc", None),
        ] {
            assert_eq!(parse_integer(text.as_bytes()), want, "{text:?}");
        }
    }
}
