//! What can be set, with limits and reasons.

use std::time::Duration;

use super::JournalError;

/// Batches begin and end on multiples of this: the unit in which disks lose and tear writes.
pub const BLOCK_BYTES: usize = 4096;

/// Smallest segment: room for a few batches.
pub const SEGMENT_BYTES_MIN: u64 = 16 * BLOCK_BYTES as u64;

/// Largest segment: recovery reads one into memory, and offsets are 32 bits.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How the journal uses the disk.
#[derive(Clone, Debug)]
pub struct JournalOptions {
    /// Size of a segment file; a multiple of [`BLOCK_BYTES`]. Bounds the size of an entry, and
    /// what recovery holds in memory at a time.
    pub segment_bytes: u64,
    /// A batch larger than this is continued in another one under the same sync. Bounds the
    /// encoding buffer.
    pub batch_bytes_max: u64,
    /// Freed segments kept for reuse: a file that was written before syncs twice as fast as a
    /// growing one. More than these are deleted, and those for which `total_bytes_target` has no
    /// room.
    pub spare_segments_max: usize,
    /// Size of the file `reserve`, in segments: it becomes the next segment when the disk has no
    /// space for another, so that hard states, deletes and compactions still get through. 0 = none.
    pub reserve_segments: u32,
    /// With more segments than this, an oldest segment of which at most a quarter is live is
    /// rewritten forward and freed.
    pub rewrite_segments_min: usize,
    /// What all files together should take: batches, spares, the next segment and the reserve.
    /// Before it is reached the oldest segment is rewritten forward, as long as less than two thirds
    /// of all bytes are live. A quarter more than what the groups may keep of their logs together is
    /// a good choice. Not a hard limit, because only compaction frees live bytes: while these are too
    /// many, [`JournalHealth::oversized`](super::JournalHealth::oversized) asks for it.
    pub total_bytes_target: u64,
    /// Live bytes rewritten with one batch at most (a single larger record still goes), so that
    /// rewriting does not stall the writes in front of it.
    pub rewrite_bytes_max: u64,
    /// How long the thread waits with an empty queue before it proves the last batch with a
    /// marker.
    pub idle_marker_after: Duration,
    /// Tells this opening of the journal from every other; `None` = drawn at random. Set by
    /// simulations, which must repeat.
    pub boot_nonce: Option<u64>,
}

impl Default for JournalOptions {
    fn default() -> JournalOptions {
        JournalOptions {
            segment_bytes: 64 << 20,
            batch_bytes_max: 16 << 20,
            spare_segments_max: 4,
            reserve_segments: 1,
            rewrite_segments_min: 4,
            // The groups of a node keep at most 1 GiB of their logs for absent followers.
            total_bytes_target: 5 << 28,
            rewrite_bytes_max: 256 << 10,
            idle_marker_after: Duration::from_millis(50),
            boot_nonce: None,
        }
    }
}

impl JournalOptions {
    /// Refuses what the format cannot hold.
    pub(super) fn validate(&self) -> Result<(), JournalError> {
        let bad = |option, reason: String| Err(JournalError::BadOption { option, reason });
        let block = BLOCK_BYTES as u64;
        if !self.segment_bytes.is_multiple_of(block)
            || !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
        {
            return bad(
                "segment_bytes",
                format!(
                    "{} is not a multiple of {block} from {SEGMENT_BYTES_MIN} to \
                     {SEGMENT_BYTES_MAX}",
                    self.segment_bytes
                ),
            );
        }
        if self.batch_bytes_max < block {
            return bad("batch_bytes_max", format!("{} is below {block}", self.batch_bytes_max));
        }
        Ok(())
    }
}
