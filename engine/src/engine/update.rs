//! Reading a value and writing what follows from it, again until nobody came in between.

use super::{Engine, unexpected};
use crate::entry::{Cas, Entry, Version};
use crate::error::Error;
use bytes::Bytes;
use flotilla_shard::{Answer, Expect, Expiry, Operation};

/// Attempts at a value that others keep changing.
const ATTEMPTS_MAX: u32 = 64;

impl Engine {
    /// Replaces the value of `key` by what `change` makes of it, as if nobody else wrote meanwhile,
    /// and returns the new value's version; `None` when the key holds nothing afterwards.
    ///
    /// `change` is given what the key holds, and gives what it shall hold; `None` for nothing. It is
    /// called again with the newer value when somebody else wrote in between, so it should have no
    /// effects of its own. An expiry stays as it was.
    ///
    /// Dropping the future does not undo it; see [Dropping a future](Engine#dropping-a-future).
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when others wrote in between 64 times, [`Error::InvalidKey`],
    /// [`Error::TooLarge`], or another [`Error`], which says whether the value may have been
    /// replaced.
    ///
    /// # Examples
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let directory = tempfile::tempdir().unwrap();
    /// # let db = flotilla::Engine::open(directory.path()).await?;
    /// for _ in 0..2 {
    ///     db.read_modify_write("log", |entry| {
    ///         let mut text = entry.map_or(Vec::new(), |entry| entry.value.to_vec());
    ///         text.extend_from_slice(b"again;");
    ///         Some(text.into())
    ///     })
    ///     .await?;
    /// }
    /// assert_eq!(db.get("log").await?.as_deref(), Some(&b"again;again;"[..]));
    /// # db.shutdown().await
    /// # }).unwrap();
    /// ```
    pub async fn read_modify_write(
        &self,
        key: impl AsRef<[u8]>,
        mut change: impl FnMut(Option<&Entry>) -> Option<Bytes>,
    ) -> Result<Option<Version>, Error> {
        let key = self.copy_key(key.as_ref())?;
        let deadline = self.deadline(None);
        let read = Operation::Get { key: key.clone() };
        let mut current = match self.router().execute(read, deadline).await? {
            Answer::Value(entry) => entry.map(Entry::from),
            other => unexpected(&other),
        };
        for _ in 0..ATTEMPTS_MAX {
            let new = change(current.as_ref());
            if let Some(value) = &new {
                self.check_value(value)?;
            }
            if new.is_none() && current.is_none() {
                return Ok(None);
            }
            let expect = match &current {
                Some(entry) => Expect::Version(entry.version.0),
                None => Expect::Absent,
            };
            let is_put = new.is_some();
            match self.swap(key.clone(), expect, new, Expiry::Keep, deadline).await? {
                Cas::Swapped { version } => return Ok(is_put.then_some(version)),
                Cas::Mismatch { current: newer } => current = newer,
            }
        }
        Err(Error::Conflict { attempts: ATTEMPTS_MAX })
    }
}
