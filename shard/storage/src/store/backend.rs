//! The seam between redb and a disk: how the store gets at its file, again and again.
//!
//! redb consumes a backend and closes it with the database. Since a failed commit is answered by
//! opening the file again, the store holds not a backend but a way to open one.
//!
//! A commit writes all that it has and syncs once. Behind such a sync that of the journal would wait
//! for all of it, so what is written is synced here early, a few MiB at a time. That proves nothing:
//! redb syncs when its order of writes asks for it, as before.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};

/// Opens the store's file; called once on opening the store and once per reopening. The backend of
/// the time before is closed by then.
pub type OpenBackend = Box<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// What is written is synced when it is so much: the most that another sync on the same disk waits
/// for.
const UNSYNCED_BYTES_MAX: u64 = 4 << 20;

/// A longer page is written in parts of so much.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// What went through the backends of a store.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    written_bytes: AtomicU64,
    file_bytes: AtomicU64,
}

impl Traffic {
    /// Bytes written since the store was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// Length of the file, as last set or asked.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::Relaxed)
    }
}

/// A backend that counts what goes through it.
pub(crate) struct Metered {
    backend: Box<dyn StorageBackend>,
    traffic: Arc<Traffic>,
    /// Written since the last sync.
    unsynced_bytes: AtomicU64,
}

impl Metered {
    pub(crate) fn new(backend: Box<dyn StorageBackend>, traffic: Arc<Traffic>) -> Metered {
        Metered { backend, traffic, unsynced_bytes: AtomicU64::new(0) }
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(formatter)
    }
}

impl StorageBackend for Metered {
    fn len(&self) -> io::Result<u64> {
        let len = self.backend.len()?;
        self.traffic.file_bytes.store(len, Ordering::Relaxed);
        Ok(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.backend.set_len(len)?;
        self.traffic.file_bytes.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.traffic.written_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        for (part, offset) in data.chunks(WRITE_BYTES_MAX).zip((offset..).step_by(WRITE_BYTES_MAX))
        {
            self.backend.write(offset, part)?;
            let bytes = part.len() as u64;
            let unsynced = self.unsynced_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if unsynced >= UNSYNCED_BYTES_MAX {
                // A failure must be heard: the next sync may not tell of it any more.
                self.sync_data()?;
            }
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
