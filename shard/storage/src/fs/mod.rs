//! The seam to the operating system's files: what journal and store may ask of a disk.
//!
//! [`RealFs`] is the operating system; [`crate::sim::SimFs`] keeps files in memory and loses,
//! tears and damages them from a seed. Both obey the same rules:
//!
//! * Bytes are durable after [`File::sync_data`] returned `Ok`, names after
//!   [`FileSystem::sync_dir`] on their directory did. Nothing else makes anything durable.
//! * A failed sync leaves the file in an unknown state. Repeating the sync proves nothing: the
//!   kernel may have dropped the dirty pages and forgotten the error.
//! * Paths are opened by one owner at a time; [`FileSystem::try_lock`] guards a directory against
//!   a second process.
//!
//! What is absent: caching, retries, formats.

mod lock;
mod overlay;
mod real;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use lock::{DirectoryLock, LOCK_FILE, LockError};
pub use overlay::read_only;
pub use real::{RealFs, free_bytes};

/// A file system, or the simulation of one.
pub trait FileSystem: Send + Sync + 'static {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Creates an empty file. Its name is durable only after [`FileSystem::sync_dir`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>>;

    /// Names (not paths) of the files and directories in `dir`, sorted.
    ///
    /// # Errors
    ///
    /// Whatever reading the directory gives; names that are not UTF-8 are left out.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Renames a file, replacing what had the new name; atomic, durable after
    /// [`FileSystem::sync_dir`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when `from` does not exist.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. It may come back after a crash unless [`FileSystem::sync_dir`] followed.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in `dir` durable: creations, renames and removals so far.
    ///
    /// # Errors
    ///
    /// After an error it is unknown which names are durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Creates a directory and its parents, and makes their names durable.
    ///
    /// # Errors
    ///
    /// Whatever the file system gives; existing directories are no error.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock of a directory, held until the value is dropped or the process
    /// ends.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] when another holder is alive.
    fn try_lock(&self, dir: &Path) -> Result<DirectoryLock, LockError>;
}

/// An open file. Positions are given with each call: no cursor, so readers share one handle.
pub trait File: Send + Sync {
    /// Fills `buffer` from `offset` and returns how much was read; less than asked only at the
    /// end of the file.
    ///
    /// # Errors
    ///
    /// Whatever the disk gives.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file where needed.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when there is no space; some bytes may have been written.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes what was written, and the length, durable.
    ///
    /// # Errors
    ///
    /// After an error the content of everything written since the last successful sync is
    /// unknown, now and after a restart.
    fn sync_data(&self) -> io::Result<()>;

    /// Grows the file to at least `len` bytes and reserves space for all of them, so that a write
    /// below `len` does not run out of space. Bytes that were never written read as zero.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::StorageFull`] when the space is not there.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Length in bytes.
    ///
    /// # Errors
    ///
    /// Whatever the file system gives.
    fn len(&self) -> io::Result<u64>;

    /// True if the file has no bytes.
    ///
    /// # Errors
    ///
    /// As [`File::len`].
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Cuts or extends the file; new bytes read as zero.
    ///
    /// # Errors
    ///
    /// Whatever the file system gives.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// Fills `buffer` from `offset`, or fails.
///
/// # Errors
///
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before `buffer` is full.
pub fn read_exact_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buffer, offset)? == buffer.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
