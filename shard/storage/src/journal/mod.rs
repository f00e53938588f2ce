//! The shared write-ahead log: one file stream for every group on a node.
//!
//! A node hosts thousands of groups but has one disk, so all groups append to one stream and
//! share each sync. [`Journal`] is the synchronous core: `write` puts a round of changes into a
//! batch, `sync` makes it durable. [`JournalThread`] is a thin shell around it that gathers rounds
//! from all lanes. [`JournalReader`] reads entries back from any thread. The bytes, and every
//! rule of recovery, are in `docs/journal-format.md`.
//!
//! Invariants:
//!
//! * What was reported durable is there after any crash. What was not may be there too, but never
//!   out of order: if a round survived, so did all before it.
//! * A round survives as a whole or not at all.
//! * A failed write or sync stops the journal: the page cache can no longer be trusted. A full
//!   disk stops nothing: what was handed in is held until there is space.
//! * Damage harms the groups that it hit, never the process. A group that may have lost
//!   something is *suspect*, durably.
//! * Whatever supersedes a record lies behind it on disk, and segments are freed oldest first: so a
//!   record that survives is never without what killed it.
//!
//! What is absent: meaning. Terms are labels, states and births opaque bytes; which entry may
//! replace which, and what a suspect group may still do, is decided by consensus above. Nor is
//! there a bound on the log: live bytes shrink only by [`Change::Compact`] and [`Change::Death`].
//!
//! Module by module: `batch`, `record` are bytes; `stage` puts a batch together; `segments` are
//! files; `head` and `index` say what is live and where; `core` takes writes, `commit` puts them on
//! disk, `space` frees, `reserve` keeps some for hard times, `recovery` opens, `reader` reads,
//! `thread` runs it all and `health` tells how it goes.

mod batch;
mod body;
mod change;
mod commit;
mod core;
mod error;
mod head;
mod health;
mod index;
mod metrics;
mod options;
mod queue;
mod reader;
mod record;
mod recovery;
mod reserve;
mod segments;
mod space;
mod stage;
mod thread;

pub use self::core::{Journal, JournalStats};
pub use change::{Change, LogEntry, STATE_BYTES_MAX, Write};
pub use error::{JournalError, ReadError};
pub use health::JournalHealth;
pub use metrics::JournalMetrics;
pub use options::{BLOCK_BYTES, JournalOptions, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub use reader::JournalReader;
pub use recovery::{
    Corruption, InspectedBatch, InspectedGroup, InspectedSegment, Inspection, Place, PlaceKind,
    RecoveredGroup, Recovery, inspect,
};
pub use thread::{Completion, JournalHandle, JournalThread};
