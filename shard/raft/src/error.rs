//! What can be refused, and to whom it is said.

use thiserror::Error;

use crate::types::{Index, ReplicaId};

fn lead(leader: Option<ReplicaId>) -> String {
    match leader {
        Some(leader) => format!("replica {leader} does"),
        None => "no leader is known".to_owned(),
    }
}

/// Why a proposal was not taken. Nothing was appended: it is certain that the payload will not
/// be committed by this call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// This replica does not lead; ask `leader` if it is known.
    #[error("this replica does not lead its group; {}", lead(*leader))]
    NotLeader {
        /// The leader of the current term, as far as this replica knows.
        leader: Option<ReplicaId>,
    },
    /// `uncommitted_bytes_max` is used up by entries that wait for a quorum or for the leader's
    /// own disk. Retry once some of them are through.
    #[error("too many bytes wait to be committed; retry later")]
    Busy,
    /// The payload is longer than `entry_bytes_max`. Retrying cannot help.
    #[error("a payload of {bytes} bytes exceeds the limit of {bytes_max} bytes; split it")]
    TooLarge {
        /// Length of the payload.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The payload is empty, which is how the core marks its own entries.
    #[error("an empty payload cannot be proposed; give it at least one byte")]
    Empty,
}

impl ProposeError {
    /// True if the same call may succeed later without any change by the caller, here or at the
    /// leader.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotLeader { .. } | Self::Busy => true,
            Self::TooLarge { .. } | Self::Empty => false,
        }
    }
}

/// Why a read cannot be confirmed. Asking again, here or at the leader, is always safe.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// This replica does not lead, or lost its leadership before the read was confirmed.
    #[error("this replica does not lead its group; {}", lead(*leader))]
    NotLeader {
        /// The leader of the current term, as far as this replica knows.
        leader: Option<ReplicaId>,
    },
    /// `reads_pending_max` reads wait already.
    #[error("too many reads wait to be confirmed; retry later")]
    Busy,
}

/// Why bytes are not a message or a hard state. The bytes came from outside, so this is never
/// the core's fault; the connection or record that carried them is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("{what} is cut off: it needs {needed} more bytes and {left} are left")]
    Truncated {
        /// The field that was being read.
        what: &'static str,
        /// Bytes the field needs.
        needed: usize,
        /// Bytes that are left.
        left: usize,
    },
    /// Something of fixed length has another one.
    #[error("{what} has {bytes} bytes instead of {expected}")]
    Length {
        /// What was read.
        what: &'static str,
        /// Its length.
        bytes: usize,
        /// The length that it must have.
        expected: usize,
    },
    /// A number is beyond what the core counts to.
    #[error("{what} {value} is out of range")]
    Range {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A kind or flag byte that this version does not know.
    #[error("unknown {what} {value}")]
    Unknown {
        /// The field.
        what: &'static str,
        /// Its value.
        value: u8,
    },
    /// Bytes follow after the end of the message.
    #[error("{bytes} bytes follow after the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// Why a restored log cannot be the log of a healthy replica. The shell should open the replica
/// as suspect instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The log ends before something that is known to be committed or applied.
    #[error("the log ends at {last} but {what} reaches {index}; open the replica as suspect")]
    LogTooShort {
        /// What reaches further than the log.
        what: &'static str,
        /// How far.
        index: Index,
        /// Last index of the log.
        last: Index,
    },
    /// The log begins after what is applied: entries between are gone.
    #[error("the log begins after {base} but only {applied} is applied; restore a checkpoint")]
    Gap {
        /// Base of the log.
        base: Index,
        /// Index that the state machine has applied.
        applied: Index,
    },
    /// The runs of terms do not describe a log.
    #[error("the runs of terms are not a log: {what}")]
    Terms {
        /// What is wrong.
        what: &'static str,
    },
}
