//! Why a routed request has no answer.

use flotilla_shard::{GroupId, Refusal};
use std::time::Duration;

/// Why a request failed, after everything that may be tried was tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The deadline passed, or the way to the answer was lost.
    #[error("timed out{}", if *maybe_committed {
        "; the write may or may not have taken effect"
    } else {
        " without any effect; it may be retried"
    })]
    Timeout {
        /// False: certainly without effect. True: nobody knows, and the effect may still come.
        maybe_committed: bool,
    },
    /// Until the deadline no leader of the shard was found. Nothing was proposed.
    #[error("no leader of {} was found in time; it may be retried", match group {
        Some(group) => format!("shard {group}"),
        None => "the key's shard".to_owned(),
    })]
    NoLeader {
        /// The shard, if it is known which one holds the key.
        group: Option<GroupId>,
    },
    /// Too much is under way. Nothing was proposed.
    #[error("busy: retry after {retry_after:?}")]
    Busy {
        /// A guess at when it may be better.
        retry_after: Duration,
    },
    /// The keys of one operation lie in several shards. Nothing was proposed.
    #[error("the keys lie in more than one shard")]
    CrossShard,
    /// An operation over several shards was done by some and not, or perhaps not, by others.
    #[error("done in part of the shards only; in another: {cause}")]
    Partial {
        /// What one of the others said.
        cause: Box<RouteError>,
    },
    /// The request is larger than the limits allow. Nothing was proposed.
    #[error("{bytes} bytes are more than the {bytes_max} allowed")]
    TooLarge {
        /// What was sent.
        bytes: u64,
        /// What may be sent.
        bytes_max: u64,
    },
    /// The store of the node that was asked cannot be read at present.
    #[error("storage: {0}")]
    Storage(String),
    /// Stored bytes fail their checksum, or the only replica of the shard is damaged or lost what
    /// it had promised. It does not pass by itself.
    #[error("corrupt data: {0}")]
    Corrupt(String),
    /// The disk of the shard's leader is full; reads and deletes are served. Nothing was proposed.
    #[error("the disk of the shard's leader is full: only reads and deletes are served")]
    DiskFull,
    /// This node is stopping. Nothing was proposed.
    #[error("the node is shutting down")]
    Shutdown,
}

impl RouteError {
    /// True if the request may have taken effect, or still may.
    pub fn maybe_committed(&self) -> bool {
        matches!(self, RouteError::Timeout { maybe_committed: true } | RouteError::Partial { .. })
    }

    /// True if the same call may succeed later, and making it again is safe: it had no effect.
    pub fn is_retryable(&self) -> bool {
        match self {
            RouteError::Timeout { maybe_committed } => !maybe_committed,
            RouteError::NoLeader { .. } | RouteError::Busy { .. } => true,
            RouteError::CrossShard
            | RouteError::Partial { .. }
            | RouteError::TooLarge { .. }
            | RouteError::Storage(_)
            | RouteError::Corrupt(_)
            | RouteError::DiskFull
            | RouteError::Shutdown => false,
        }
    }

    /// True if the node that said so may serve the same request later.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            RouteError::Busy { .. }
                | RouteError::Storage(_)
                | RouteError::Corrupt(_)
                | RouteError::DiskFull
        )
    }

    /// The error for a refusal that no other replica could answer better; `None` for one that asks
    /// to be routed elsewhere.
    pub(crate) fn of_final(refusal: &Refusal) -> Option<RouteError> {
        Some(match refusal {
            Refusal::Busy { retry_after } => RouteError::Busy { retry_after: *retry_after },
            Refusal::TooLarge { bytes, bytes_max } => {
                RouteError::TooLarge { bytes: *bytes, bytes_max: *bytes_max }
            }
            Refusal::Storage(text) => RouteError::Storage(text.clone()),
            Refusal::Corrupt(text) => RouteError::Corrupt(text.clone()),
            Refusal::DiskFull => RouteError::DiskFull,
            Refusal::NotLeader { .. }
            | Refusal::EpochMismatch { .. }
            | Refusal::GroupNotFound
            | Refusal::OutOfRange { .. }
            | Refusal::Timeout { .. }
            | Refusal::Suspect
            | Refusal::Damaged
            | Refusal::Shutdown => return None,
        })
    }
}
