//! Time, as far as rows depend on it: the leader's clock, the ceiling in the log, and the search
//! for rows that have expired.
//!
//! Invariants:
//!
//! * A leader's clock never goes back, and begins where any earlier leader may have read: at the
//!   last stamp or the ceiling that the log holds, whichever is later.
//! * Nothing is read by a clock beyond the ceiling that is committed: so the next leader begins
//!   after it, and a row that was seen expired never comes back.
//! * Only the log removes rows. A search merely proposes; what was written again meanwhile stays.
//!
//! What is absent: whether a row is expired at a time (`machine`), and the search itself
//! (`perform`).

use super::Replica;
use crate::command::{Change, Command, Origin, Write};
use crate::effects::{Effects, ExpiredScan, Now};
use bytes::Bytes;
use flotilla_raft::{Index, Role};
use flotilla_storage::KeyRange;

/// The ceiling is raised when the clock comes this close to it.
const CEILING_NEAR_MS: u64 = 1_500;

/// How far ahead of the clock it is raised.
const CEILING_AHEAD_MS: u64 = 3_000;

/// How long a leader waits after a search through the whole shard that found nothing.
const IDLE_PAUSE_MS: u64 = 30_000;

/// And after one that found something.
const PAUSE_MS: u64 = 1_000;

#[derive(Default)]
pub(super) struct Expiring {
    /// The latest time that this replica has stamped or read by.
    clock_ms: u64,
    /// The clock has been set forward to where earlier leaders may have read.
    is_set: bool,
    /// The highest ceiling proposed in this leadership.
    ceiling_proposed_ms: u64,
    /// A search is under way.
    is_searching: bool,
    /// Where the next search goes on; `None`: from the start.
    rest: Option<KeyRange>,
    found: usize,
    /// Where the last removal stands in the log.
    removed_at: Index,
    search_at_ms: u64,
}

impl Expiring {
    /// The leadership has changed.
    pub(super) fn restart(&mut self) {
        self.is_set = false;
        self.ceiling_proposed_ms = 0;
        self.rest = None;
        self.search_at_ms = 0;
        self.removed_at = Index(0);
    }
}

impl Replica {
    /// The leader's clock. Only for a leader that has applied what was there before it.
    pub(super) fn stamp_ms(&mut self, now: &Now) -> u64 {
        if !self.expiring.is_set {
            self.expiring.is_set = true;
            self.expiring.clock_ms = self.expiring.clock_ms.max(self.machine.clock_floor_ms());
        }
        let clock_ms = self.expiring.clock_ms.max(now.wall_ms).max(self.machine.stamp_ms());
        self.expiring.clock_ms = clock_ms;
        clock_ms
    }

    /// The time at which reads see the rows.
    pub(super) fn read_time_ms(&mut self, now: &Now) -> u64 {
        let clock_ms = if self.leads_settled() {
            self.stamp_ms(now)
        } else {
            self.expiring.clock_ms.max(now.wall_ms)
        };
        self.machine.read_time_ms(clock_ms)
    }

    fn leads_settled(&self) -> bool {
        self.raft.role() == Role::Leader && self.is_settled()
    }

    /// Keeps the ceiling ahead of the clock while rows expire. Says whether it proposed one.
    pub(super) fn raise_ceiling(&mut self, now: &Now) -> bool {
        if !self.machine.has_expiring() || !self.leads_settled() {
            return false;
        }
        let known_ms = self.machine.clock_floor_ms().max(self.expiring.ceiling_proposed_ms);
        if now.wall_ms.saturating_add(CEILING_NEAR_MS) <= known_ms {
            return false;
        }
        let ms = now.wall_ms.saturating_add(CEILING_AHEAD_MS);
        let command = Command {
            origin: Origin::default(),
            stamp_ms: self.stamp_ms(now),
            value_bytes_max: self.options.value_bytes_max,
            change: Change::Ceiling { ms },
        };
        let proposed = self.raft.propose(now.time, command.encode()).is_ok();
        if proposed {
            self.expiring.ceiling_proposed_ms = ms;
        }
        proposed
    }

    /// True when a search for expired rows should go on.
    pub fn wants_to_reap(&self, now: &Now) -> bool {
        self.machine.may_hold_expired()
            && !self.expiring.is_searching
            && now.wall_ms >= self.expiring.search_at_ms
            && self.applying.applied().index >= self.expiring.removed_at
            && self.leads_settled()
            && !self.is_replacing_rows()
    }

    /// Looks at the next rows for expired ones.
    pub(super) fn reap(&mut self, now: &Now, effects: &mut Effects) {
        if !self.wants_to_reap(now) {
            return;
        }
        self.expiring.is_searching = true;
        let whole = || self.machine.descriptor().range.clone();
        let range = self.expiring.rest.take().unwrap_or_else(whole);
        let view = self.machine.shard().view();
        let now_ms = self.read_time_ms(now);
        effects.expired_scans.push(ExpiredScan { group: self.group, view, range, now_ms });
    }

    /// A search has found expired rows, perhaps none, and says what of the shard it left.
    pub(super) fn expired(&mut self, now: &Now, keys: Vec<Bytes>, rest: Option<KeyRange>) {
        self.expiring.is_searching = false;
        if !self.leads_settled() {
            return;
        }
        self.expiring.found += keys.len();
        if rest.is_none() {
            let found = std::mem::take(&mut self.expiring.found);
            let pause_ms = if found > 0 { PAUSE_MS } else { IDLE_PAUSE_MS };
            self.expiring.search_at_ms = now.wall_ms.saturating_add(pause_ms);
        }
        self.expiring.rest = rest;
        if !keys.is_empty() {
            // If it cannot be proposed now, the next search finds them again.
            let write = Write::Reap { keys };
            if let Ok(position) = self.propose_write(now, &Origin::default(), &write) {
                self.expiring.removed_at = position.index;
            }
        }
    }
}
