//! The lock that keeps two processes, or two engines of one process, off one directory.

use std::any::Any;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Name of the lock file inside the directory. It stays when the lock is given back: removing it
/// would let two later openers lock two different files of the same name.
pub const LOCK_FILE: &str = "LOCK";

/// Holds a directory; given back when dropped, or by the operating system when the process ends.
pub struct DirectoryLock {
    /// What releases the lock when dropped: an open file, or the simulation's guard.
    _guard: Box<dyn Any + Send + Sync>,
}

impl DirectoryLock {
    /// Wraps whatever gives the lock back when dropped.
    pub fn new(guard: impl Any + Send + Sync) -> DirectoryLock {
        DirectoryLock { _guard: Box::new(guard) }
    }
}

impl fmt::Debug for DirectoryLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("DirectoryLock")
    }
}

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another holder is alive.
    #[error(
        "{} is in use by another process or another engine of this one: stop it, or give this \
         one a directory of its own",
        .dir.display()
    )]
    Held {
        /// The directory.
        dir: PathBuf,
    },
    /// The lock file cannot be opened or locked at all.
    #[error("cannot lock {}: {source}", .dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}
