//! What a group may ask the journal to make durable.

use bytes::Bytes;

use crate::GroupId;

/// Longest state record that [`Change::Append`] takes, in bytes.
pub const STATE_BYTES_MAX: usize = 64;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Position in the group's log; the first is 1.
    pub index: u64,
    /// An uninterpreted label to the journal; consensus calls it the term.
    pub term: u64,
    /// Opaque bytes; may be empty.
    pub payload: Bytes,
}

/// One change of one group, with the ticket that its completion is reported under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whose log.
    pub group: GroupId,
    /// Reported back once the change is durable; opaque to the journal. Completions of one group
    /// come in the order of submission, so tickets that grow per group come back growing.
    pub ticket: u64,
    /// What to write.
    pub change: Change,
}

/// What a write does to its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Appends entries and replaces the group's state; both or neither survive a crash.
    Append {
        /// Consensus' hard state, at most [`STATE_BYTES_MAX`] bytes; `None` = unchanged.
        state: Option<Bytes>,
        /// Contiguous entries, possibly none. When the first index is not above the group's last,
        /// the entries replace the log from there on.
        entries: Vec<LogEntry>,
    },
    /// The group exists from here on. Must be the first change of a group.
    Birth {
        /// Opaque bytes, returned by recovery as long as the group lives.
        meta: Bytes,
    },
    /// The group is gone, with everything that it wrote.
    Death,
    /// The group lost content: recovery returns it as suspect from now on. Only `Death` ends it.
    Suspect,
    /// Everything up to `index` is in a durable checkpoint and no longer needed here.
    ///
    /// If the log holds an entry at `index` with this `term`, entries above it stay. If not (a
    /// snapshot replaced the log), the log is emptied and goes on at `index + 1`. An index at or
    /// below the current base changes nothing.
    Compact {
        /// Last index that may go.
        index: u64,
        /// Its term.
        term: u64,
    },
}
