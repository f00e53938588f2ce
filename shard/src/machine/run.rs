//! One write on its way through the rows: what it reads, and the changes that it will make.
//!
//! Nothing reaches the shard before the whole write has run: the changes are gathered and applied
//! at once, under one version. Steps of an atomic write see what those before them will do.
//!
//! Invariants:
//!
//! * A write that fails, or lacks a row, has gathered nothing.
//! * What an atomic write produces is bounded, however small the write itself is: values may be
//!   copied and appended to many times over.
//! * A row whose expiry is not after the stamp is absent, wherever it lies. Whether it is still
//!   stored must not matter: replicas drop such rows at different times.
//!
//! What is absent: sessions, and keys that are not the shard's (the machine has looked).

use super::Fetched;
use crate::command::{
    BatchChange, CommandFailure, Condition, Entry, Expect, Expiry, Guard, Step, StepOutcome, Write,
    WriteOutcome,
};
use bytes::Bytes;
use flotilla_storage::store::{Lookup, RowChange, Shard};
use std::collections::BTreeMap;

/// What the steps of one atomic write may store and answer together, in bytes. Part of the format:
/// all replicas must draw the line at the same place.
const ATOMIC_BYTES_MAX: u64 = 48 << 20;

/// Rows of these keys must be read first.
#[derive(Debug)]
pub(super) struct Missing(pub(super) Vec<Bytes>);

/// When a value that is written goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expires {
    Never,
    At(u64),
    /// That moment has passed already: the key is removed instead.
    Passed,
}

/// A write that runs.
pub(super) struct Run<'a> {
    shard: &'a Shard,
    fetched: &'a Fetched,
    pub(super) stamp_ms: u64,
    pub(super) value_bytes_max: u64,
    /// What the changes will be written as.
    pub(super) version: u64,
    changes: Vec<RowChange>,
    /// The write gets a version although it changes nothing.
    takes_version: bool,
    /// Where in `changes` a key was changed last; kept only while several steps share the run.
    latest: Option<BTreeMap<Bytes, usize>>,
    expiring_until_ms: u64,
    /// Bytes of values gathered so far, superseded ones included: that is what running costs.
    put_bytes: u64,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        shard: &'a Shard,
        fetched: &'a Fetched,
        stamp_ms: u64,
        value_bytes_max: u64,
    ) -> Run<'a> {
        Run {
            shard,
            fetched,
            stamp_ms,
            value_bytes_max,
            version: shard.version() + 1,
            changes: Vec::new(),
            takes_version: false,
            latest: None,
            expiring_until_ms: 0,
            put_bytes: 0,
        }
    }

    /// The changes to apply, `None` if there is nothing to apply, and the last moment at which
    /// something that was written expires.
    pub(super) fn finish(self) -> (Option<Vec<RowChange>>, u64) {
        let applies = self.takes_version || !self.changes.is_empty();
        (applies.then_some(self.changes), self.expiring_until_ms)
    }

    /// The version before this write.
    pub(super) fn version_before(&self) -> u64 {
        self.version - 1
    }

    /// Runs a write that is no range delete.
    pub(super) fn write(&mut self, write: &Write) -> Result<WriteOutcome, Missing> {
        match write {
            Write::Put { key, value, condition, return_previous, expiry } => {
                if !write.needs_previous() {
                    self.put(key, value.clone(), self.expires(*expiry, None));
                    let version = self.version;
                    return Ok(WriteOutcome::Put { version, written: true, previous: None });
                }
                self.put_after_reading(key, value, *condition, *return_previous, *expiry)
            }
            Write::CompareAndSwap { key, expect, new, expiry } => {
                self.swap(key, expect, new.as_ref(), *expiry)
            }
            Write::Batch { changes, if_all_absent } => self.batch(changes, *if_all_absent),
            Write::Add { key, delta } => self.add(key, *delta),
            Write::AddFloat { key, delta } => self.add_float(key, delta),
            Write::Append { key, value } => self.append(key, value),
            Write::SetRange { key, offset, value } => self.set_range(key, *offset, value),
            Write::Delete { keys } => self.delete_keys(keys),
            Write::Expire { key, expiry, condition, return_value } => {
                self.expire(key, *expiry, *condition, *return_value)
            }
            Write::Take { key } => self.take(key),
            Write::Rename { from, to, only_if_absent } => self.rename(from, to, *only_if_absent),
            Write::Copy { from, to, replace } => self.copy(from, to, *replace),
            Write::Reap { keys } => self.reap(keys),
            Write::Atomic { guards, steps } => self.atomic(guards, steps),
            Write::DeleteRange { .. } => unreachable!("a range is not deleted row by row"),
        }
    }

    fn put_after_reading(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        condition: Condition,
        return_previous: bool,
        expiry: Expiry,
    ) -> Result<WriteOutcome, Missing> {
        let previous = self.present(key)?;
        let written = match condition {
            Condition::Always => true,
            Condition::IfAbsent => previous.is_none(),
            Condition::IfPresent => previous.is_some(),
        };
        let version = if written {
            self.put(key, value.clone(), self.expires(expiry, previous.as_ref()));
            self.version
        } else {
            previous.as_ref().map_or(0, |entry| entry.version)
        };
        let previous = if return_previous { previous } else { None };
        Ok(WriteOutcome::Put { version, written, previous })
    }

    fn swap(
        &mut self,
        key: &Bytes,
        expect: &Expect,
        new: Option<&Bytes>,
        expiry: Expiry,
    ) -> Result<WriteOutcome, Missing> {
        let current = self.present(key)?;
        let holds = match expect {
            Expect::Absent => current.is_none(),
            Expect::Value(value) => current.as_ref().is_some_and(|e| e.value == *value),
            Expect::Version(version) => current.as_ref().is_some_and(|e| e.version == *version),
        };
        if !holds {
            let version = current.as_ref().map_or(0, |entry| entry.version);
            return Ok(WriteOutcome::Swap { version, swapped: false, current });
        }
        let version = match new {
            Some(value) => {
                self.put(key, value.clone(), self.expires(expiry, current.as_ref()));
                self.version
            }
            None if current.is_some() => {
                self.delete(key);
                self.version
            }
            None => self.version_before(),
        };
        Ok(WriteOutcome::Swap { version, swapped: true, current: None })
    }

    fn batch(
        &mut self,
        changes: &[BatchChange],
        if_all_absent: bool,
    ) -> Result<WriteOutcome, Missing> {
        if if_all_absent {
            for change in changes {
                if self.present(change.key())?.is_some() {
                    let version = self.version_before();
                    return Ok(WriteOutcome::Batch { version, written: false });
                }
            }
        }
        for change in changes {
            match change {
                BatchChange::Put { key, value } => self.put(key, value.clone(), Expires::Never),
                BatchChange::Delete { key } => self.delete(key),
            }
        }
        self.takes_version = true;
        Ok(WriteOutcome::Batch { version: self.version, written: true })
    }

    fn atomic(&mut self, guards: &[Guard], steps: &[Step]) -> Result<WriteOutcome, Missing> {
        for guard in guards {
            // Versions start at 1, so that 0 stands for an absent key. One that was there and has
            // expired is absent now: it has changed.
            if self.present(&guard.key)?.map_or(0, |entry| entry.version) != guard.version {
                let version = self.version_before();
                return Ok(WriteOutcome::Atomic { version, outcomes: None });
            }
        }
        self.latest = Some(BTreeMap::new());
        let mut outcomes = Vec::with_capacity(steps.len());
        let mut answer_bytes = 0;
        for step in steps {
            let outcome = match step {
                Step::Write(Write::Atomic { .. } | Write::DeleteRange { .. }) => {
                    unreachable!("refused when it was decoded and when it was asked for")
                }
                Step::Write(write) => StepOutcome::Written(self.write(write)?),
                Step::Get { key } => StepOutcome::Value(self.present(key)?),
            };
            answer_bytes += outcome.payload_bytes();
            if answer_bytes + self.put_bytes > ATOMIC_BYTES_MAX {
                (self.changes, self.takes_version) = (Vec::new(), false);
                self.expiring_until_ms = 0;
                return failed(CommandFailure::TooLarge);
            }
            outcomes.push(outcome);
        }
        let changed = self.takes_version || !self.changes.is_empty();
        let version = if changed { self.version } else { self.version_before() };
        Ok(WriteOutcome::Atomic { version, outcomes: Some(outcomes) })
    }

    /// What a reader at the stamp finds under `key`, after the changes gathered so far.
    pub(super) fn present(&self, key: &Bytes) -> Result<Option<Entry>, Missing> {
        if let Some(at) = self.latest.as_ref().and_then(|latest| latest.get(key)) {
            return Ok(match &self.changes[*at] {
                RowChange::Put { value, expires_at_ms, .. } => Some(Entry {
                    value: value.clone(),
                    version: self.version,
                    expires_at_ms: *expires_at_ms,
                }),
                RowChange::Delete { .. } | RowChange::DeleteRange(_) => None,
            });
        }
        let row = match self.shard.lookup(key) {
            Lookup::Row(row) => Some(row),
            Lookup::Absent => None,
            Lookup::Below => match self.fetched.get(key) {
                Some(row) => row.clone(),
                None => return Err(Missing(vec![key.clone()])),
            },
        };
        Ok(row.filter(|row| !row.is_expired(self.stamp_ms)).map(Entry::from))
    }

    /// When a value expires that is written with `expiry` in the place of `current`.
    pub(super) fn expires(&self, expiry: Expiry, current: Option<&Entry>) -> Expires {
        let at_ms = match expiry {
            Expiry::Never => return Expires::Never,
            Expiry::Keep => match current.and_then(|entry| entry.expires_at_ms) {
                None => return Expires::Never,
                Some(at_ms) => at_ms,
            },
            Expiry::At(at_ms) => at_ms,
            Expiry::After(after_ms) => self.stamp_ms.saturating_add(after_ms),
        };
        if at_ms <= self.stamp_ms { Expires::Passed } else { Expires::At(at_ms) }
    }

    /// Gathers a put.
    pub(super) fn put(&mut self, key: &Bytes, value: Bytes, expires: Expires) {
        let expires_at_ms = match expires {
            Expires::Never => None,
            Expires::At(at_ms) => {
                self.expiring_until_ms = self.expiring_until_ms.max(at_ms);
                Some(at_ms)
            }
            Expires::Passed => return self.delete(key),
        };
        self.put_bytes += value.len() as u64;
        self.gather(key, RowChange::Put { key: key.clone(), value, flags: 0, expires_at_ms });
    }

    /// Gathers a put that keeps the expiry of `current`.
    pub(super) fn put_keeping(&mut self, key: &Bytes, value: Bytes, current: Option<&Entry>) {
        self.put(key, value, self.expires(Expiry::Keep, current));
    }

    /// Gathers a removal.
    pub(super) fn delete(&mut self, key: &Bytes) {
        self.gather(key, RowChange::Delete { key: key.clone() });
    }

    fn gather(&mut self, key: &Bytes, change: RowChange) {
        if let Some(latest) = &mut self.latest {
            if let Some(at) = latest.get(key) {
                // Nobody will ever see what an earlier step left there.
                self.changes[*at] = change;
                return;
            }
            latest.insert(key.clone(), self.changes.len());
        }
        self.changes.push(change);
    }
}

/// The outcome of a write that failed.
pub(super) fn failed(failure: CommandFailure) -> Result<WriteOutcome, Missing> {
    Ok(WriteOutcome::Failed(failure))
}
