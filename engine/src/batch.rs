//! Changes that are made together, or not at all.

use bytes::Bytes;
use flotilla_shard::BatchChange;

/// Changes to keys of one shard, applied in order and at once by
/// [`Engine::write`](crate::Engine::write).
///
/// A key may occur more than once: the last change counts. Nothing is checked before the batch is
/// written.
///
/// ```
/// let mut batch = flotilla::WriteBatch::new();
/// batch.put("account/1", "90").put("account/2", "110").delete("transfer/7");
/// assert_eq!(batch.len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    pub(crate) changes: Vec<BatchChange>,
}

impl WriteBatch {
    /// A batch without changes.
    pub fn new() -> WriteBatch {
        WriteBatch::default()
    }

    /// Adds: store `value` under `key`. Copies both.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> &mut WriteBatch {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.put_bytes(key, Bytes::copy_from_slice(value.as_ref()))
    }

    /// Adds: store `value` under `key`, without copying.
    pub fn put_bytes(&mut self, key: Bytes, value: Bytes) -> &mut WriteBatch {
        self.changes.push(BatchChange::Put { key, value });
        self
    }

    /// Adds: remove `key`. Nothing happens if it is absent.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> &mut WriteBatch {
        self.changes.push(BatchChange::Delete { key: Bytes::copy_from_slice(key.as_ref()) });
        self
    }

    /// How many changes there are.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
