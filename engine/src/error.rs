//! Why a call on an [`Engine`](crate::Engine) failed, and whether it may have had an effect.

use crate::splits::SplitError;
use flotilla_router::RouteError;
use flotilla_shard::{CommandFailure, GroupId};
use std::path::PathBuf;
use std::time::Duration;

/// Why a call failed.
///
/// Two questions matter to a caller, and have methods: may the write have taken effect
/// ([`Error::maybe_committed`]), and is it safe and useful to make the same call again
/// ([`Error::is_retryable`])?
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No answer came in time, or the way to it was lost.
    #[error("timed out{}", if *maybe_committed {
        "; the write may or may not have taken effect, and still may"
    } else {
        " without any effect; it may be retried"
    })]
    Timeout {
        /// False: certainly without effect. True: nobody knows, and the effect may still come.
        /// Read before writing again, or make the write conditional.
        maybe_committed: bool,
    },
    /// The key's shard had no leader until the deadline. Without effect.
    #[error("no leader of {} was found in time; it may be retried", match shard {
        Some(shard) => format!("shard {shard}"),
        None => "the key's shard".to_owned(),
    })]
    NoLeader {
        /// The shard, if it is known which one holds the key.
        shard: Option<GroupId>,
    },
    /// More is under way than the engine has memory for. Without effect.
    #[error("busy: retry after {retry_after:?}")]
    Busy {
        /// A guess at when it may be better.
        retry_after: Duration,
    },
    /// The keys of one atomic batch lie in several shards. Without effect.
    #[error("the keys of an atomic batch lie in more than one shard")]
    CrossShard,
    /// A change over several shards was done by some and not, or perhaps not, by others.
    #[error("done in part of the shards only; in another: {cause}")]
    Partial {
        /// What one of the others said.
        cause: Box<Error>,
    },
    /// The key is empty or longer than allowed. Without effect.
    #[error("a key must have 1 to {bytes_max} bytes, this one has {bytes}")]
    InvalidKey {
        /// The key's length.
        bytes: u64,
        /// The longest key allowed.
        bytes_max: u64,
    },
    /// A value or a batch is larger than allowed. Without effect.
    #[error("{bytes} bytes are more than the {bytes_max} allowed")]
    TooLarge {
        /// What was given.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// A batch holds no change, so no version can be given for it.
    #[error("the batch is empty")]
    EmptyBatch,
    /// Others changed the value in between, again and again. Without effect.
    #[error("others changed the value {attempts} times while it was to be replaced")]
    Conflict {
        /// How often it was tried.
        attempts: u32,
    },
    /// A write of a named session cannot be told from one that was made before: its shard has
    /// forgotten the session, or the answer. Nothing was done now, but an earlier call of the same
    /// name may have taken effect.
    #[error("the shard no longer knows whether this write of the session was made before: {why}")]
    Forgotten {
        /// What it forgot.
        why: String,
    },
    /// A named session was given a sequence that cannot be.
    #[error(
        "sequence {sequence} of a session with everything below {lowest_unacknowledged} \
         acknowledged: sequences begin at 1, and those acknowledged are never used again"
    )]
    BadSequence {
        /// The write's sequence.
        sequence: u64,
        /// What the caller said of the ones before.
        lowest_unacknowledged: u64,
    },
    /// Storage cannot be read or written. A node that cannot write stops.
    #[error("storage: {0}")]
    Storage(String),
    /// Stored bytes fail their checksum.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The disk of the shard's leader is full; reads and deletes are served, and everything else as
    /// soon as there is room again. Without effect.
    #[error("the disk of the shard's leader is full: only reads and deletes are served")]
    DiskFull,
    /// Rows of this directory cannot be read, and no other replica has them.
    #[error(
        "data of this directory is lost: {}; start once with accept_data_loss to go on without it",
        losses.join("; ")
    )]
    DataLost {
        /// What is lost and how it was noticed, a sentence for each shard.
        losses: Vec<String>,
    },
    /// The engine has been shut down, or is being so, or has stopped itself because it could not
    /// keep its promises. Without effect.
    #[error("the engine is shut down")]
    Shutdown,
    /// The engine cannot be built as asked.
    #[error("cannot start: {0}")]
    Options(String),
    /// Another process, or another engine in this one, has the data directory.
    #[error(
        "data directory {} is in use by another engine: stop that one, or give this one a \
         directory of its own",
        directory.display()
    )]
    DirectoryInUse {
        /// Which.
        directory: PathBuf,
    },
    /// The data directory is not what was expected.
    #[error("data directory {}: {problem}", directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The other nodes of the cluster were not reached, or refused this one.
    #[error("cluster: {0}")]
    Cluster(String),
}

impl Error {
    /// True if the call may have had an effect, or still may: making it again could undo what
    /// others wrote in between. False: it certainly had and will have none.
    pub fn maybe_committed(&self) -> bool {
        matches!(
            self,
            Error::Timeout { maybe_committed: true }
                | Error::Partial { .. }
                | Error::Forgotten { .. }
        )
    }

    /// True if the same call may succeed later, and making it again is safe: it had no effect.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Timeout { maybe_committed } => !maybe_committed,
            Error::NoLeader { .. } | Error::Busy { .. } | Error::Conflict { .. } => true,
            Error::CrossShard
            | Error::Forgotten { .. }
            | Error::BadSequence { .. }
            | Error::Partial { .. }
            | Error::InvalidKey { .. }
            | Error::TooLarge { .. }
            | Error::EmptyBatch
            | Error::Storage(_)
            | Error::Corrupt(_)
            | Error::DiskFull
            | Error::DataLost { .. }
            | Error::Shutdown
            | Error::Options(_)
            | Error::DirectoryInUse { .. }
            | Error::Directory { .. }
            | Error::Cluster(_) => false,
        }
    }
}

impl Error {
    /// What a state machine says of a write that changed nothing.
    pub(crate) fn of_failure(failure: &CommandFailure) -> Error {
        match failure {
            CommandFailure::Acknowledged | CommandFailure::SessionExpired { .. } => {
                Error::Forgotten { why: failure.to_string() }
            }
            CommandFailure::RowDamaged => Error::Corrupt(failure.to_string()),
            // The engine makes no write that could fail otherwise.
            other => panic!("a shard refused a write of the engine: {other}"),
        }
    }
}

impl From<RouteError> for Error {
    fn from(error: RouteError) -> Error {
        match error {
            RouteError::Timeout { maybe_committed } => Error::Timeout { maybe_committed },
            RouteError::NoLeader { group } => Error::NoLeader { shard: group },
            RouteError::Busy { retry_after } => Error::Busy { retry_after },
            RouteError::CrossShard => Error::CrossShard,
            RouteError::Partial { cause } => {
                Error::Partial { cause: Box::new(Error::from(*cause)) }
            }
            RouteError::TooLarge { bytes, bytes_max } => Error::TooLarge { bytes, bytes_max },
            RouteError::Storage(text) => Error::Storage(text),
            RouteError::Corrupt(text) => Error::Corrupt(text),
            RouteError::DiskFull => Error::DiskFull,
            RouteError::Shutdown => Error::Shutdown,
            // The router may learn new words; what they promise stays visible.
            other => match other.maybe_committed() {
                true => Error::Timeout { maybe_committed: true },
                false => Error::Storage(other.to_string()),
            },
        }
    }
}

impl From<SplitError> for Error {
    fn from(error: SplitError) -> Error {
        Error::Options(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_have_happened_is_retryable() {
        let partial = Error::Partial { cause: Box::new(Error::CrossShard) };
        for error in [Error::Timeout { maybe_committed: true }, partial] {
            assert!(error.maybe_committed() && !error.is_retryable(), "{error}");
        }
        for error in [
            Error::Timeout { maybe_committed: false },
            Error::NoLeader { shard: None },
            Error::Busy { retry_after: Duration::ZERO },
        ] {
            assert!(!error.maybe_committed() && error.is_retryable(), "{error}");
        }
    }

    #[test]
    fn the_router_s_promises_survive_the_translation() {
        for error in [
            RouteError::Timeout { maybe_committed: true },
            RouteError::Timeout { maybe_committed: false },
            RouteError::NoLeader { group: None },
            RouteError::Busy { retry_after: Duration::ZERO },
            RouteError::CrossShard,
            RouteError::Partial { cause: Box::new(RouteError::Shutdown) },
            RouteError::TooLarge { bytes: 2, bytes_max: 1 },
            RouteError::Storage(String::new()),
            RouteError::Corrupt(String::new()),
            RouteError::DiskFull,
            RouteError::Shutdown,
        ] {
            let translated = Error::from(error.clone());
            assert_eq!(translated.maybe_committed(), error.maybe_committed(), "{error}");
            assert_eq!(translated.is_retryable(), error.is_retryable(), "{error}");
        }
    }
}
