//! What reads: single keys, several, and ranges.

use super::{Engine, unexpected};
use crate::entry::Entry;
use crate::error::Error;
use crate::options::ReadOptions;
use crate::scan::Scan;
use bytes::Bytes;
use flotilla_shard::{Answer, KeyRange, Operation};
use std::ops::{Bound, RangeBounds};

impl Engine {
    /// The value of `key`; `None` if it holds nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidKey`], or [`Error`]s that are never [`Error::maybe_committed`].
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        let entry = self.get_with(key, &ReadOptions::default()).await?;
        Ok(entry.map(|entry| entry.value))
    }

    /// The value of `key` and its version; `None` if it holds nothing.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
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
    /// let version = db.put("key", "value").await?;
    /// let options = ReadOptions::new().timeout(Duration::from_secs(1));
    /// let entry = db.get_with("key", &options).await?.expect("it was just put");
    /// assert_eq!((&entry.value[..], entry.version), (&b"value"[..], version));
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<Entry>, Error> {
        let key = self.copy_key(key.as_ref())?;
        let deadline = self.deadline(options.timeout);
        let read = Operation::Get { key };
        match self.router().start_read(read, options.consistency, deadline).await? {
            Answer::Value(entry) => {
                Ok(entry.map(|entry| Entry::to_keep(entry, self.router().budget())))
            }
            other => unexpected(&other),
        }
    }

    /// The values of `keys`, in their order; `None` for those that hold nothing. One question for
    /// each shard that holds some of them: keys of one shard are read at one moment, those of
    /// several are not.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Option<Bytes>>, Error> {
        let entries = self.get_many_with(keys, &ReadOptions::default()).await?;
        Ok(entries.into_iter().map(|entry| entry.map(|entry| entry.value)).collect())
    }

    /// As [`Engine::get_many`], with versions and expiries, and as the options say.
    ///
    /// # Errors
    ///
    /// As [`Engine::get`].
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// use flotilla::{Consistency, ReadOptions};
    ///
    /// db.put("a", "1").await?;
    /// let options = ReadOptions::new().consistency(Consistency::Local);
    /// let found = db.get_many_with(["a", "b"], &options).await?;
    /// assert_eq!(found[0].as_ref().map(|entry| &entry.value[..]), Some(&b"1"[..]));
    /// assert!(found[1].is_none());
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn get_many_with<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
        options: &ReadOptions,
    ) -> Result<Vec<Option<Entry>>, Error> {
        let keys: Vec<Bytes> =
            keys.into_iter().map(|key| self.copy_key(key.as_ref())).collect::<Result<_, _>>()?;
        let deadline = self.deadline(options.timeout);
        let found = self.router().get_many_with(keys, options.consistency, deadline).await?;
        let keep = |entry| Entry::to_keep(entry, self.router().budget());
        Ok(found.into_iter().map(|entry| entry.map(keep)).collect())
    }

    /// The rows of a range of keys, in key order, as a stream.
    ///
    /// Rows are read in pages while the stream is polled. Each page is linearizable, unless
    /// [`Scan::consistency`] asks for less, and read at one moment of its shard; the whole scan is **not** one snapshot: it may see a later write and
    /// miss an earlier one that was made meanwhile to keys it had passed. No row comes twice.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// for key in ["a", "b", "c", "d"] {
    ///     db.put(key, key.to_uppercase()).await?;
    /// }
    /// let mut scan = db.scan(b"b".to_vec()..).reverse().limit(2);
    /// let mut keys = Vec::new();
    /// while let Some(row) = scan.next().await {
    ///     keys.push(row?.key);
    /// }
    /// assert_eq!(keys, ["d", "c"]);
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub fn scan(&self, range: impl RangeBounds<Vec<u8>>) -> Scan {
        Scan::new(self.router().clone(), key_range(range), self.shared.request_timeout)
    }

    /// The rows whose keys begin with `prefix`, in key order, as a stream; see [`Engine::scan`].
    pub fn scan_prefix(&self, prefix: impl AsRef<[u8]>) -> Scan {
        let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_ref()));
        Scan::new(self.router().clone(), range, self.shared.request_timeout)
    }
}

/// The keys of `range`, its ends as the store knows them: the first one in, the last one out.
pub(super) fn key_range(range: impl RangeBounds<Vec<u8>>) -> KeyRange {
    let start = match range.start_bound() {
        Bound::Included(start) => Bytes::copy_from_slice(start),
        Bound::Excluded(start) => KeyRange::successor(start),
        Bound::Unbounded => Bytes::new(),
    };
    let end = match range.end_bound() {
        Bound::Included(end) => Some(KeyRange::successor(end)),
        Bound::Excluded(end) => Some(Bytes::copy_from_slice(end)),
        Bound::Unbounded => None,
    };
    KeyRange { start, end }
}
