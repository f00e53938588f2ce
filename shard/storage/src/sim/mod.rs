//! A file system in memory that loses, tears and damages what a disk may: for simulations.
//!
//! Everything that is left to chance comes from a seed, so a run repeats byte for byte as long as
//! one thread uses it. What it models:
//!
//! * **Power loss** ([`SimFs::crash`]): of every block written since its last sync, any version
//!   since then may survive, each 512-byte sector by itself (so writes are lost, torn and
//!   reordered); lengths likewise. Of the names created, renamed or removed since the directory's
//!   last sync, a prefix of the operations survives.
//! * **Process death** ([`SimFs::kill`]): the page cache survives, unsynced as it was.
//! * **Failed syncs**: some of the dirty blocks reached the disk, some did not, and the kernel takes
//!   all of them for clean: repeating the sync succeeds and makes nothing durable.
//! * **Full disk**, **bit rot**, **unreadable blocks**, **a disk that hangs** in sync.
//! * **A crash at any operation** ([`SimFs::fail_after`]): from then on everything fails.
//!
//! Handles opened before a crash or kill fail afterwards, as those of a dead process.
//!
//! What is absent: misdirected writes, permissions, links.

mod disk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use self::disk::Disk;
use crate::fs::{DirectoryLock, File, FileSystem, LockError};

/// Bytes that a power loss keeps or loses as a whole.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of a page of the cache.
pub const BLOCK_BYTES: usize = 4096;

/// A simulated disk and its file system. Clones share it.
#[derive(Clone)]
pub struct SimFs {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Mutex<Disk>,
    resumed: Condvar,
}

impl SimFs {
    /// An empty disk without limit, whose accidents follow from `seed`.
    pub fn new(seed: u64) -> SimFs {
        SimFs {
            inner: Arc::new(Inner { disk: Mutex::new(Disk::new(seed)), resumed: Condvar::new() }),
        }
    }

    /// Power loss: see the module's description. Ends all other faults but a full disk.
    pub fn crash(&self) {
        self.inner.disk.lock().crash();
        self.inner.resumed.notify_all();
    }

    /// Death of the process: handles and locks are gone, the page cache is not.
    pub fn kill(&self) {
        self.inner.disk.lock().kill();
        self.inner.resumed.notify_all();
    }

    /// Lets `operations` more changes (writes, syncs, names) succeed; then every operation fails,
    /// reads too, until [`SimFs::crash`] or [`SimFs::kill`].
    pub fn fail_after(&self, operations: u64) {
        self.inner.disk.lock().fail_after = Some(operations);
    }

    /// True once the changes that [`SimFs::fail_after`] allowed are used up: everything fails.
    pub fn is_down(&self) -> bool {
        self.inner.disk.lock().check_alive().is_err()
    }

    /// Lets `syncs` more file syncs succeed and fails the one after with EIO, once.
    pub fn fail_sync_after(&self, syncs: u64) {
        self.inner.disk.lock().fail_sync_after = Some(syncs);
    }

    /// Limits the disk: what would take more fails with ENOSPC. `None` = no limit.
    pub fn set_capacity_bytes(&self, bytes: Option<u64>) {
        self.inner.disk.lock().capacity_bytes = bytes;
    }

    /// Lets `operations` more creations, writes and reservations succeed; then each fails with
    /// ENOSPC, even in space that was reserved, as where blocks are never overwritten in place. A
    /// failing write may have written a part. `None` = there is space again.
    pub fn fail_space_after(&self, operations: Option<u64>) {
        self.inner.disk.lock().full_after = operations;
    }

    /// Bytes taken by all files.
    pub fn used_bytes(&self) -> u64 {
        self.inner.disk.lock().used_bytes()
    }

    /// File syncs that succeeded so far.
    pub fn sync_count(&self) -> u64 {
        self.inner.disk.lock().sync_count
    }

    /// Makes every sync wait until [`SimFs::resume`], crash or kill.
    pub fn stall(&self) {
        self.inner.disk.lock().stalled = true;
    }

    /// Ends [`SimFs::stall`].
    pub fn resume(&self) {
        self.inner.disk.lock().stalled = false;
        self.inner.resumed.notify_all();
    }

    /// Applies `mask` by exclusive or to the byte at `offset`, in cache and on disk.
    ///
    /// # Errors
    ///
    /// When there is no such file or byte.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        self.inner.disk.lock().flip(path, offset, mask)
    }

    /// Makes the block that holds `offset` unreadable until it is written again.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn fail_reads(&self, path: &Path, offset: u64) -> io::Result<()> {
        self.inner.disk.lock().fail_reads(path, offset)
    }

    /// Content of a file as a process would read it, for tests that damage or compare it.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.inner.disk.lock().content(path)
    }

    /// Puts a durable file in place of whatever had its name.
    pub fn put(&self, path: &Path, content: &[u8]) {
        self.inner.disk.lock().put(path, content);
    }

    fn handle(&self, inode: u64, generation: u64) -> Arc<dyn File> {
        Arc::new(SimFile { inner: Arc::clone(&self.inner), inode, generation })
    }
}

impl FileSystem for SimFs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let disk = self.inner.disk.lock();
        disk.check_alive()?;
        let inode = disk.inode_of(path)?;
        Ok(self.handle(inode, disk.generation))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut disk = self.inner.disk.lock();
        disk.start_change()?;
        let inode = disk.create(path)?;
        Ok(self.handle(inode, disk.generation))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.inner.disk.lock();
        disk.check_alive()?;
        disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.inner.disk.lock();
        disk.start_change()?;
        disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.inner.disk.lock();
        disk.start_change()?;
        disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.inner.disk.lock();
        disk.start_change()?;
        disk.sync_dir(dir)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut disk = self.inner.disk.lock();
        disk.check_alive()?;
        disk.create_dir_all(dir);
        Ok(())
    }

    fn try_lock(&self, dir: &Path) -> Result<DirectoryLock, LockError> {
        let mut disk = self.inner.disk.lock();
        if !disk.locks.insert(dir.to_path_buf()) {
            return Err(LockError::Held { dir: dir.to_path_buf() });
        }
        Ok(DirectoryLock::new(SimLock {
            inner: Arc::clone(&self.inner),
            dir: dir.to_path_buf(),
            generation: disk.generation,
        }))
    }
}

/// Gives a simulated lock back.
struct SimLock {
    inner: Arc<Inner>,
    dir: PathBuf,
    generation: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut disk = self.inner.disk.lock();
        // The lock of a dead process went with it, and another may hold it by now.
        if disk.generation == self.generation {
            disk.locks.remove(&self.dir);
        }
    }
}

/// An open simulated file.
struct SimFile {
    inner: Arc<Inner>,
    inode: u64,
    generation: u64,
}

impl SimFile {
    fn with_disk<T>(
        &self,
        is_change: bool,
        body: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut disk = self.inner.disk.lock();
        if disk.generation != self.generation {
            return Err(io::Error::other("the simulated process that opened this file is dead"));
        }
        if is_change {
            disk.start_change()?;
        } else {
            disk.check_alive()?;
        }
        body(&mut disk)
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with_disk(false, |disk| disk.read(self.inode, buffer, offset))
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with_disk(true, |disk| disk.write(self.inode, bytes, offset))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.inner.disk.lock();
        while disk.stalled && disk.generation == self.generation {
            self.inner.resumed.wait(&mut disk);
        }
        drop(disk);
        self.with_disk(true, |disk| disk.sync(self.inode))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with_disk(true, |disk| disk.allocate(self.inode, len))
    }

    fn len(&self) -> io::Result<u64> {
        self.with_disk(false, |disk| Ok(disk.len(self.inode)))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with_disk(true, |disk| disk.set_len(self.inode, len))
    }
}

#[cfg(test)]
mod tests;
