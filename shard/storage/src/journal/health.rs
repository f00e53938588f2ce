//! How the journal is doing, for whoever decides what the node may still take on.
//!
//! Written by the journal's thread and its submitters, read from any thread without a lock. Each
//! number is right by itself; together they are not a snapshot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::JournalStats;

/// The journal's condition. Shared by reference counting: [`super::JournalHandle::health`].
#[derive(Debug)]
pub struct JournalHealth {
    /// What times are measured from.
    origin: Instant,
    is_full: AtomicBool,
    /// Microseconds from `origin` to the submission of the oldest write that is not durable yet,
    /// plus one; 0 = there is none.
    pending_since: AtomicU64,
    live_bytes: AtomicU64,
    total_bytes: AtomicU64,
    /// What the files may take, while they take more and little of it can be freed; else 0.
    oversized: AtomicU64,
    is_reserve_wanted: AtomicBool,
}

impl Default for JournalHealth {
    fn default() -> JournalHealth {
        JournalHealth::new()
    }
}

impl JournalHealth {
    /// The health of a journal that has nothing to do.
    pub fn new() -> JournalHealth {
        JournalHealth {
            origin: Instant::now(),
            is_full: AtomicBool::new(false),
            pending_since: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            total_bytes: AtomicU64::new(0),
            oversized: AtomicU64::new(0),
            is_reserve_wanted: AtomicBool::new(true),
        }
    }

    /// True while the disk has no space for the journal, or the journal lives on its reserve:
    /// nothing new should be let in. Ends by itself when there is space again.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Age of the oldest submission that is not durable yet, in milliseconds; 0 = there is none. A
    /// disk that is slow, or hangs, shows here while it does.
    pub fn oldest_wait_ms(&self) -> u64 {
        match self.pending_since.load(Ordering::Relaxed) {
            0 => 0,
            since => (self.micros(Instant::now()) + 1).saturating_sub(since) / 1000,
        }
    }

    /// Bytes of records that are still needed.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of all journal files, spares and reserve included.
    pub fn total_bytes(&self) -> u64 {
        self.total_bytes.load(Ordering::Relaxed)
    }

    /// What the files may take together, while they take more and too much of it is live to be
    /// freed: the groups should keep less of their logs until this is `None` again.
    pub fn oversized(&self) -> Option<u64> {
        Some(self.oversized.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0)
    }

    /// Says whether the journal should keep a reserve. `false` gives it up soon, and the space of
    /// spare segments with it, for others on the same disk that need it more: a checkpoint frees
    /// more than it takes. `true` has it made again when there is space.
    pub fn want_reserve(&self, wanted: bool) {
        self.is_reserve_wanted.store(wanted, Ordering::Relaxed);
    }

    /// What [`JournalHealth::want_reserve`] said last; `true` at first.
    pub fn is_reserve_wanted(&self) -> bool {
        self.is_reserve_wanted.load(Ordering::Relaxed)
    }

    fn micros(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.origin);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX - 1)
    }

    /// A submission is about to be handed over.
    pub(super) fn submitted(&self, at: Instant) {
        // Only the first of those that wait counts; relaxed, as a number for people and policies.
        let since = self.micros(at) + 1;
        let _ = self.pending_since.compare_exchange(0, since, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A round begins whose oldest submission is from `oldest`.
    pub(super) fn begins(&self, oldest: Instant) {
        self.pending_since.store(self.micros(oldest) + 1, Ordering::Relaxed);
    }

    /// A round is durable; `has_more` tells whether others wait already.
    pub(super) fn completed(&self, has_more: bool) {
        self.pending_since.store(0, Ordering::Relaxed);
        if has_more {
            self.submitted(Instant::now());
        }
    }

    /// Takes over the journal's numbers.
    pub(super) fn update(&self, stats: &JournalStats) {
        self.is_full.store(stats.full, Ordering::Relaxed);
        self.live_bytes.store(stats.live_bytes, Ordering::Relaxed);
        self.total_bytes.store(stats.disk_bytes, Ordering::Relaxed);
        self.oversized.store(stats.oversized, Ordering::Relaxed);
    }
}
