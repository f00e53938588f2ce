//! What can go wrong in the store, and what the caller may do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::GroupId;

/// Why a call on the store failed.
///
/// Cloneable, because one failed checkpoint is reported to every lane.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or file of the store could not be created, opened or synced.
    #[error("store file {path}: {source}; check that the path exists, is writable and not full")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// Another process (or another store of this one) has the file open.
    #[error("store file is in use by another process; stop it, or choose another data directory")]
    InUse,
    /// The file is not a store of a format that this program can read.
    #[error("store format is {found}, this program reads {supported}; use a matching version")]
    Format {
        /// What the file says of itself.
        found: String,
        /// What this program supports.
        supported: u32,
    },
    /// The file is not readable as a whole: neither is any shard in it.
    #[error(
        "store file cannot be read: {what}; every shard of this node must get its rows again from \
         elsewhere"
    )]
    Unreadable {
        /// What is wrong with it.
        what: String,
    },
    /// Bytes of one shard are not what was written. Other shards are not affected.
    #[error("store is corrupt: shard {group}, table {table}: {what}; restore this replica")]
    Corrupt {
        /// The shard whose data is damaged.
        group: GroupId,
        /// The table in the redb file, by name.
        table: String,
        /// What did not match.
        what: String,
    },
    /// redb reported an error while reading or preparing a write. Nothing was changed.
    #[error("redb failed to {doing}: {source}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// What redb said.
        source: Arc<redb::Error>,
    },
    /// A call into redb unwound. Nothing that it was about to commit was committed.
    #[error("redb panicked while asked to {doing}: {message}")]
    Panicked {
        /// What was being done.
        doing: &'static str,
        /// The panic's message.
        message: String,
    },
    /// A commit failed: it may or may not have taken effect. Only the file, opened again, can
    /// tell; the checkpointer asks it.
    #[error("a commit has an unknown outcome: {source}; the store must be opened again")]
    UnknownOutcome {
        /// What made the outcome unknown.
        source: Arc<StoreError>,
    },
    /// The file failed, and this view belongs to the time before the store is opened again.
    #[error("the store file failed and is opened again; retry with a new view")]
    Reopened,
    /// The store is closed: a reopening failed, or the store was shut down.
    #[error("the store is closed after a failure: {why}")]
    Closed {
        /// What closed it.
        why: String,
    },
    /// Rows that were to be imported are not what was sent, or the import was cut off by a failure
    /// of the disk. Nothing of it is visible; it has to start again.
    #[error("import of shard {group} failed: {what}; start it again")]
    Import {
        /// The shard that the rows were for.
        group: GroupId,
        /// What is wrong.
        what: String,
    },
    /// A thread could not be started.
    #[error("cannot start thread {name}: {source}")]
    Thread {
        /// The thread's name.
        name: String,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
}

impl StoreError {
    /// True if the same question may succeed on a new view, without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Reopened => true,
            Self::File { .. }
            | Self::InUse
            | Self::Format { .. }
            | Self::Unreadable { .. }
            | Self::Corrupt { .. }
            | Self::Import { .. }
            | Self::Database { .. }
            | Self::Panicked { .. }
            | Self::UnknownOutcome { .. }
            | Self::Closed { .. }
            | Self::Thread { .. } => false,
        }
    }

    /// True if the disk, or what this user may take of it, is full.
    pub fn is_disk_full(&self) -> bool {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match self {
            Self::File { source, .. } => full(source),
            Self::Database { source, .. } => match &**source {
                redb::Error::Io(error) => full(error),
                _ => false,
            },
            Self::UnknownOutcome { source } => source.is_disk_full(),
            _ => false,
        }
    }

    /// True if the operating system failed a read or a write.
    pub(crate) fn is_io(&self) -> bool {
        match self {
            Self::Database { source, .. } => matches!(**source, redb::Error::Io(_)),
            _ => false,
        }
    }

    /// True if what redb found may be damage of its trees, rather than a failure of the disk.
    pub(crate) fn is_structural(&self) -> bool {
        match self {
            Self::Corrupt { .. } | Self::Panicked { .. } => true,
            // What is loaded comes from a walk: out of order means that the rows lie so.
            Self::Database { source, .. } => {
                matches!(**source, redb::Error::Corrupted(_) | redb::Error::UnorderedKey)
            }
            _ => false,
        }
    }

    /// True if something in the file is to blame that belongs to no shard; of a file that was read
    /// before.
    pub(crate) fn is_of_whole_file(&self) -> bool {
        match self {
            Self::UnknownOutcome { source } => source.is_of_whole_file(),
            Self::Unreadable { .. } | Self::Format { .. } => true,
            error => matches!(error.clone().of_whole_file(), Self::Unreadable { .. }),
        }
    }

    /// The same, said of the file as a whole: met while reading what belongs to no shard.
    pub(crate) fn of_whole_file(self) -> StoreError {
        let not_a_database = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        };
        let unreadable = match &self {
            Self::Database { source, .. } => match &**source {
                redb::Error::Io(error) => not_a_database(error),
                redb::Error::Corrupted(_) => true,
                // An older format of redb's, or tables that this program never made so.
                redb::Error::UpgradeRequired(_)
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. } => true,
                _ => false,
            },
            Self::Panicked { .. } => true,
            _ => false,
        };
        if unreadable { StoreError::Unreadable { what: self.to_string() } } else { self }
    }

    /// The same, said of `group`, if it may be damage.
    pub(crate) fn of_shard(self, group: GroupId, table: impl FnOnce() -> String) -> StoreError {
        match self {
            Self::Corrupt { .. } => self,
            error if error.is_structural() => {
                StoreError::Corrupt { group, table: table(), what: error.to_string() }
            }
            error => error,
        }
    }

    /// Wraps an error of redb; `doing` completes "redb failed to …".
    pub(crate) fn database(doing: &'static str, source: impl Into<redb::Error>) -> StoreError {
        match source.into() {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse,
            // redb says these of every handle made before the failure or the reopening.
            redb::Error::DatabaseClosed | redb::Error::PreviousIo => StoreError::Reopened,
            source => StoreError::Database { doing, source: Arc::new(source) },
        }
    }
}

/// Runs `call`, turning a panic inside redb into an error: an unwinding storage engine must not
/// take a lane or the checkpointer with it.
pub(crate) fn guarded<T>(
    doing: &'static str,
    call: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    // What `call` borrows is either dropped after a panic (transactions) or immutable (reads).
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)) {
        Ok(result) => result,
        Err(panic) => Err(StoreError::Panicked { doing, message: panic_message(&*panic) }),
    }
}

/// The message of a caught panic.
pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(message) = panic.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = panic.downcast_ref::<String>() {
        message.clone()
    } else {
        "panic without a message".to_owned()
    }
}
