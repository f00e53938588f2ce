//! What writes: single keys, batches of one shard, ranges, and expiry.

use super::reads::key_range;
use super::{Engine, unexpected};
use crate::batch::WriteBatch;
use crate::entry::{Cas, Expect, Version};
use crate::error::Error;
use crate::options::{PutCondition, PutExpiry, PutOptions};
use bytes::Bytes;
use flotilla_shard::{Condition, ExpireCondition, Expiry, Write, WriteOutcome};
use std::ops::RangeBounds;
use std::time::{Duration, Instant, SystemTime};

impl Engine {
    /// Stores `value` under `key`, whatever was there, for ever, and returns the value's version.
    /// Copies both; see [`Engine::put_bytes`].
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// value may have been stored.
    pub async fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Version, Error> {
        let key = self.copy_key(key.as_ref())?;
        self.check_value(value.as_ref())?;
        self.put_bytes(key, Bytes::copy_from_slice(value.as_ref())).await
    }

    /// Stores `value` under `key` without copying them, and returns the value's version.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// As [`Engine::put`].
    pub async fn put_bytes(&self, key: Bytes, value: Bytes) -> Result<Version, Error> {
        let written = self.put_checked(key, value, &PutOptions::default()).await?;
        Ok(written.expect("an unconditional put writes"))
    }

    /// Stores `value` under `key` if the options' condition holds, and returns the value's version;
    /// `None` if the condition did not hold and nothing was changed.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// As [`Engine::put`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::PutOptions;
    ///
    /// assert!(db.put_with("lock", "me", &PutOptions::new().if_absent()).await?.is_some());
    /// assert!(db.put_with("lock", "you", &PutOptions::new().if_absent()).await?.is_none());
    ///
    /// let minute = PutOptions::new().expires_in(std::time::Duration::from_secs(60));
    /// db.put_with("session", "open", &minute).await?;
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        let key = self.copy_key(key.as_ref())?;
        self.check_value(value.as_ref())?;
        self.put_checked(key, Bytes::copy_from_slice(value.as_ref()), options).await
    }

    async fn put_checked(
        &self,
        key: Bytes,
        value: Bytes,
        options: &PutOptions,
    ) -> Result<Option<Version>, Error> {
        self.check_key(&key)?;
        self.check_value(&value)?;
        let condition = match options.condition {
            PutCondition::Always => Condition::Always,
            PutCondition::IfAbsent => Condition::IfAbsent,
            PutCondition::IfPresent => Condition::IfPresent,
        };
        let expiry = options.expiry.to_shard();
        let write = Write::Put { key, value, condition, return_previous: false, expiry };
        match self.change(write, self.deadline(options.timeout)).await? {
            WriteOutcome::Put { version, written, .. } => Ok(written.then_some(Version(version))),
            other => unexpected(&other),
        }
    }

    /// Removes `key`; true if it held something.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], or another [`Error`], which says whether the key may have been
    /// removed.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let key = self.copy_key(key.as_ref())?;
        match self.change(Write::Delete { keys: vec![key] }, self.deadline(None)).await? {
            WriteOutcome::Deleted { count, .. } => Ok(count > 0),
            other => unexpected(&other),
        }
    }

    /// Replaces the value of `key` by `new` if it is as expected; `new` of `None` removes the key. The
    /// new value does not expire.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// value may have been replaced. That the value is not as expected is no error:
    /// [`Cas::Mismatch`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::{Cas, Expect};
    ///
    /// let swapped = db.compare_and_swap("config", Expect::Absent, Some("a".into())).await?;
    /// let Cas::Swapped { version } = swapped else { panic!("nothing was there") };
    /// db.put("config", "b").await?;
    /// match db.compare_and_swap("config", Expect::Version(version), Some("c".into())).await? {
    ///     Cas::Mismatch { current } => assert_eq!(&current.unwrap().value[..], b"b"),
    ///     Cas::Swapped { .. } => panic!("somebody else had written"),
    /// }
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expect: Expect<'_>,
        new: Option<Bytes>,
    ) -> Result<Cas, Error> {
        let key = self.copy_key(key.as_ref())?;
        if let Expect::Value(value) = expect {
            self.check_value(value)?;
        }
        if let Some(value) = &new {
            self.check_value(value)?;
        }
        let expect = expect.to_shard();
        self.swap(key, expect, new, Expiry::Never, self.deadline(None)).await
    }

    pub(super) async fn swap(
        &self,
        key: Bytes,
        expect: flotilla_shard::Expect,
        new: Option<Bytes>,
        expiry: Expiry,
        deadline: Instant,
    ) -> Result<Cas, Error> {
        let write = Write::CompareAndSwap { key, expect, new, expiry };
        Cas::of(self.change(write, deadline).await?)
    }

    /// Makes all changes of `batch` at once, or none, and returns the version of the values that it
    /// wrote. Its keys must lie in one shard.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::CrossShard`] when the keys lie in several shards, [`Error::EmptyBatch`],
    /// [`Error::InvalidKey`], [`Error::TooLarge`], or another [`Error`], which says whether the
    /// batch may have been written.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// let mut batch = flotilla::WriteBatch::new();
    /// batch.put("a", "1").put("b", "2").delete("c");
    /// db.write(batch).await?;
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn write(&self, batch: WriteBatch) -> Result<Version, Error> {
        if batch.is_empty() {
            return Err(Error::EmptyBatch);
        }
        for change in &batch.changes {
            self.check_key(change.key())?;
            if let flotilla_shard::BatchChange::Put { value, .. } = change {
                self.check_value(value)?;
            }
        }
        let write = Write::Batch { changes: batch.changes, if_all_absent: false };
        match self.change(write, self.deadline(None)).await? {
            WriteOutcome::Batch { version, .. } => Ok(Version(version)),
            other => unexpected(&other),
        }
    }

    /// Removes all keys of `range`: shard by shard, each at once, but not all shards at one moment.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// An [`Error`], which says whether keys may have been removed; [`Error::Partial`] when some
    /// shards did it and others did not, or perhaps not.
    pub async fn delete_range(&self, range: impl RangeBounds<Vec<u8>>) -> Result<(), Error> {
        let range = key_range(range);
        if range.is_empty() {
            return Ok(());
        }
        Ok(self.router().delete_range(range, self.deadline(None)).await?)
    }

    /// Lets the value of `key` expire after `ttl`: from then on it is as absent as if it had been
    /// deleted, on every replica and after every change of leaders. The time counts from when the
    /// shard's leader took the call. False if the key holds nothing.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], or another [`Error`], which says whether the expiry may have been set.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::ReadOptions;
    /// use std::time::Duration;
    ///
    /// db.put("code", "1234").await?;
    /// assert!(db.expire("code", Duration::from_secs(300)).await?);
    /// let entry = db.get_with("code", &ReadOptions::new()).await?.expect("not yet");
    /// assert!(entry.expires_at.is_some());
    /// assert!(db.persist("code").await?, "it had an expiry");
    /// assert!(!db.persist("code").await?, "it has none any more");
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn expire(&self, key: impl AsRef<[u8]>, ttl: Duration) -> Result<bool, Error> {
        self.set_expiry(key.as_ref(), PutExpiry::In(ttl)).await
    }

    /// Lets the value of `key` expire at `time`; a time that has passed removes it. As
    /// [`Engine::expire`] otherwise.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// As [`Engine::expire`].
    pub async fn expire_at(&self, key: impl AsRef<[u8]>, time: SystemTime) -> Result<bool, Error> {
        self.set_expiry(key.as_ref(), PutExpiry::At(time)).await
    }

    /// Lets the value of `key` stay for ever. False if it had no expiry, or the key holds nothing.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// As [`Engine::expire`].
    pub async fn persist(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.set_expiry(key.as_ref(), PutExpiry::Never).await
    }

    async fn set_expiry(&self, key: &[u8], expiry: PutExpiry) -> Result<bool, Error> {
        let key = self.copy_key(key)?;
        let condition = ExpireCondition::Always;
        let expiry = expiry.to_shard();
        let write = Write::Expire { key, expiry, condition, return_value: false };
        match self.change(write, self.deadline(None)).await? {
            WriteOutcome::Expired { changed, .. } => Ok(changed),
            other => unexpected(&other),
        }
    }
}
