//! What can go wrong, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::GroupId;

/// Why the journal cannot go on.
///
/// Every error but [`JournalError::EntryTooLarge`] and [`JournalError::Full`] is final for this
/// journal: what the disk holds is unknown until it is opened again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk has no space for the next segment. What was handed in is held; syncing again goes
    /// on with it.
    #[error(
        "no space for the journal in {}: {bytes_needed} bytes are needed for the next segment; \
         free space on this file system or move the data directory to a larger one",
        .dir.display()
    )]
    Full {
        /// The journal's directory.
        dir: PathBuf,
        /// Bytes that the next segment takes.
        bytes_needed: u64,
    },
    /// The disk refused an operation.
    #[error("journal {operation} of {} failed: {message}", .path.display())]
    Io {
        /// What was tried, as a noun: "write", "sync", ….
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Kind of the operating system's error.
        kind: io::ErrorKind,
        /// The operating system's words.
        message: String,
    },
    /// An earlier write or sync failed, so nothing more may be reported durable.
    #[error("the journal stopped after an earlier failure: {cause}; restart the node to recover")]
    Stopped {
        /// The earlier failure.
        cause: String,
    },
    /// One entry does not fit a segment. Nothing was written.
    #[error(
        "an entry of {bytes} bytes of group {group} exceeds the journal's limit of {bytes_max}; \
         raise the segment size or lower the limit on values"
    )]
    EntryTooLarge {
        /// Whose entry.
        group: GroupId,
        /// Its size.
        bytes: u64,
        /// What fits.
        bytes_max: u64,
    },
    /// The options contradict each other or exceed what the format can say.
    #[error("journal option {option}: {reason}")]
    BadOption {
        /// Name of the option.
        option: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory was written by another version of the format.
    #[error(
        "{} has journal format version {found}, this program reads version {supported}: start it \
         with the program that wrote it",
        .path.display()
    )]
    Version {
        /// The segment.
        path: PathBuf,
        /// Version found.
        found: u16,
        /// Version that this program reads.
        supported: u16,
    },
}

impl JournalError {
    /// Wraps an error of the file system.
    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        error: &io::Error,
    ) -> JournalError {
        JournalError::Io {
            operation,
            path: path.into(),
            kind: error.kind(),
            message: error.to_string(),
        }
    }
}

/// Why entries could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The group has no log here.
    #[error("group {group} has no log in this journal")]
    UnknownGroup {
        /// The group asked for.
        group: GroupId,
    },
    /// The entries were compacted away: they are in a checkpoint.
    #[error("group {group}: index {index} was compacted; the log begins above {base}")]
    Compacted {
        /// The group asked for.
        group: GroupId,
        /// First index asked for.
        index: u64,
        /// The log holds only what lies above.
        base: u64,
    },
    /// The log ends before the first index asked for.
    #[error("group {group}: index {index} is above the last index {last}")]
    OutOfRange {
        /// The group asked for.
        group: GroupId,
        /// First index asked for.
        index: u64,
        /// Last index of the log.
        last: u64,
    },
    /// The bytes on disk are not the ones that were written.
    #[error("group {group}: the record of index {index} in journal segment {segment} is damaged")]
    Corrupt {
        /// The group asked for.
        group: GroupId,
        /// First index that cannot be read.
        index: u64,
        /// Number of the segment.
        segment: u64,
    },
    /// The disk refused to read.
    #[error("group {group}: reading journal segment {segment} failed: {message}")]
    Io {
        /// The group asked for.
        group: GroupId,
        /// Number of the segment.
        segment: u64,
        /// The operating system's words.
        message: String,
    },
}
