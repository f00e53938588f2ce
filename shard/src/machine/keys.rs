//! Writes that concern keys whatever their values: removing, moving, expiring.

use super::run::{Expires, Missing, Run, failed};
use crate::command::{CommandFailure, ExpireCondition, Expiry, WriteOutcome};
use bytes::Bytes;

impl Run<'_> {
    pub(super) fn delete_keys(&mut self, keys: &[Bytes]) -> Result<WriteOutcome, Missing> {
        let mut missing = Vec::new();
        let mut doomed: Vec<&Bytes> = Vec::with_capacity(keys.len());
        for key in keys {
            match self.present(key) {
                Ok(Some(_)) => doomed.push(key),
                Ok(None) => {}
                Err(Missing(keys)) => missing.extend(keys),
            }
        }
        if !missing.is_empty() {
            return Err(Missing(missing));
        }
        doomed.sort_unstable();
        doomed.dedup();
        let count = doomed.len() as u64;
        let version = if doomed.is_empty() { self.version_before() } else { self.version };
        doomed.into_iter().for_each(|key| self.delete(key));
        Ok(WriteOutcome::Deleted { version, count })
    }

    pub(super) fn take(&mut self, key: &Bytes) -> Result<WriteOutcome, Missing> {
        let taken = self.present(key)?;
        if taken.is_some() {
            self.delete(key);
        }
        Ok(WriteOutcome::Taken(taken))
    }

    pub(super) fn rename(
        &mut self,
        from: &Bytes,
        to: &Bytes,
        only_if_absent: bool,
    ) -> Result<WriteOutcome, Missing> {
        let Some(source) = self.present(from)? else {
            return failed(CommandFailure::NoSuchKey);
        };
        let version = self.version_before();
        if from == to {
            return Ok(WriteOutcome::Renamed { version, renamed: !only_if_absent });
        }
        if only_if_absent && self.present(to)?.is_some() {
            return Ok(WriteOutcome::Renamed { version, renamed: false });
        }
        self.delete(from);
        self.put_keeping(to, source.value.clone(), Some(&source));
        Ok(WriteOutcome::Renamed { version: self.version, renamed: true })
    }

    pub(super) fn copy(
        &mut self,
        from: &Bytes,
        to: &Bytes,
        replace: bool,
    ) -> Result<WriteOutcome, Missing> {
        let source = self.present(from)?;
        let taken = !replace && self.present(to)?.is_some();
        match source {
            Some(source) if !taken && from != to => {
                self.put_keeping(to, source.value.clone(), Some(&source));
                Ok(WriteOutcome::Copied { version: self.version, copied: true })
            }
            _ => Ok(WriteOutcome::Copied { version: self.version_before(), copied: false }),
        }
    }

    pub(super) fn expire(
        &mut self,
        key: &Bytes,
        expiry: Expiry,
        condition: ExpireCondition,
        return_value: bool,
    ) -> Result<WriteOutcome, Missing> {
        let Some(current) = self.present(key)? else {
            return Ok(WriteOutcome::Expired { version: 0, changed: false, entry: None });
        };
        let expires = self.expires(expiry, Some(&current));
        let changed = match expiry {
            Expiry::Keep => false,
            Expiry::Never => current.expires_at_ms.is_some(),
            Expiry::At(_) | Expiry::After(_) => {
                // Passed is earlier than whatever a key that is still there may have.
                let new = if let Expires::At(at_ms) = expires { at_ms } else { 0 };
                let old = current.expires_at_ms;
                match condition {
                    ExpireCondition::Always => true,
                    ExpireCondition::IfNone => old.is_none(),
                    ExpireCondition::IfSome => old.is_some(),
                    ExpireCondition::IfGreater => old.is_some_and(|old| new > old),
                    ExpireCondition::IfLess => old.is_none_or(|old| new < old),
                    ExpireCondition::IfSomeAndLess => old.is_some_and(|old| new < old),
                }
            }
        };
        let mut version = current.version;
        if changed {
            self.put(key, current.value.clone(), expires);
            version = self.version;
        }
        let entry = return_value.then_some(current);
        Ok(WriteOutcome::Expired { version, changed, entry })
    }

    /// Counts and removes what holds nothing at the stamp, stored or not: which of the expired rows
    /// are still stored differs between replicas, the outcome and the version must not.
    pub(super) fn reap(&mut self, keys: &[Bytes]) -> Result<WriteOutcome, Missing> {
        let mut gone = Vec::with_capacity(keys.len());
        for key in keys {
            if self.present(key)?.is_none() {
                gone.push(key);
            }
        }
        gone.sort_unstable();
        gone.dedup();
        let count = gone.len() as u64;
        gone.into_iter().for_each(|key| self.delete(key));
        Ok(WriteOutcome::Reaped { count })
    }
}
