//! What is known of one replica: its log as it was told, what of it is durable, what it promised.
//!
//! The log here is written by observations alone. An entry takes the place of everything that the
//! log had from its index on. Indexes up to `base` were compacted away or came with a snapshot.

use std::collections::VecDeque;

use super::Position;

/// One entry, without its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) term: u64,
    pub(super) hash: u64,
}

/// What is known of one replica.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// The log begins behind this.
    pub(super) base: Position,
    entries: VecDeque<Noted>,
    /// Writes under way: ticket, and up to where the log is durable once it is.
    writes: VecDeque<(u64, u64)>,
    /// The disk holds the log as it is up to here, if it keeps what it synced.
    pub(super) durable: u64,
    /// As `durable`, but not lowered by damage: what others may count on having been there.
    pub(super) held: u64,
    /// Up to here it said, in `acknowledged_in`, that it has the leader's log durably.
    pub(super) acknowledged: u64,
    pub(super) acknowledged_in: u64,
    /// The term that it is in, as far as was told.
    pub(super) term: u64,
    /// Term and vote on its disk.
    pub(super) hard_state: (u64, Option<u64>),
    pub(super) committed: u64,
    /// What it committed first of all in this step of it.
    pub(super) commits: Option<Position>,
    pub(super) applied: u64,
    pub(super) suspect: bool,
    /// Somebody tells of this replica's writes, so that `durable` means something.
    pub(super) is_disk_watched: bool,
}

impl Book {
    pub(super) fn last(&self) -> u64 {
        self.base.index + self.entries.len() as u64
    }

    /// The entry at `index`, if the log has it and it was not compacted.
    pub(super) fn at(&self, index: u64) -> Option<Noted> {
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).copied()
    }

    /// The term at `index`, which may be the base.
    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.at(index).map(|noted| noted.term)
    }

    /// True if the log has, or had before it was compacted, what was committed as `term` at `index`.
    pub(super) fn has(&self, index: u64, term: u64) -> bool {
        index < self.base.index || self.term_at(index) == Some(term)
    }

    /// Appends the entry after the last.
    pub(super) fn push(&mut self, noted: Noted) {
        self.entries.push_back(noted);
    }

    /// Forgets everything from `from` on.
    pub(super) fn truncate(&mut self, from: u64) {
        let kept = from.saturating_sub(1).max(self.base.index);
        self.entries.truncate(usize::try_from(kept - self.base.index).unwrap_or(usize::MAX));
        self.clamp(kept);
        self.acknowledged = self.acknowledged.min(kept);
    }

    fn clamp(&mut self, kept: u64) {
        self.durable = self.durable.min(kept);
        self.held = self.held.min(kept);
        for (_, proves) in &mut self.writes {
            *proves = (*proves).min(kept);
        }
    }

    /// The log begins behind `through` from now on.
    pub(super) fn compact(&mut self, through: Position) {
        if through.index <= self.base.index {
            return;
        }
        let gone = usize::try_from(through.index - self.base.index).unwrap_or(usize::MAX);
        self.entries.drain(..gone.min(self.entries.len()));
        self.base = through;
    }

    /// Everything up to `position` came by another way than the log: rows that are durable.
    pub(super) fn reset_to(&mut self, position: Position) {
        self.entries.clear();
        self.base = position;
        for (_, proves) in &mut self.writes {
            *proves = position.index;
        }
        self.durable = position.index;
        self.held = position.index;
        self.acknowledged = self.acknowledged.min(position.index);
    }

    /// Rows up to `index` are durable, so is the log that goes on behind them.
    pub(super) fn rows_are_durable(&mut self, index: u64) {
        self.durable = self.durable.max(index);
        self.held = self.held.max(index);
        for (_, proves) in &mut self.writes {
            *proves = (*proves).max(index);
        }
    }

    /// A write of everything up to the last entry began.
    pub(super) fn wrote(&mut self, ticket: u64) {
        self.is_disk_watched = true;
        let last = self.last();
        self.writes.push_back((ticket, last));
    }

    /// That write and those before it are on the disk.
    pub(super) fn synced(&mut self, ticket: u64) {
        while let Some(&(first, proves)) = self.writes.front()
            && first <= ticket
        {
            self.writes.pop_front();
            self.durable = self.durable.max(proves);
            self.held = self.held.max(self.durable);
        }
    }

    /// The process ended, and this is what its disk holds.
    pub(super) fn reopen(&mut self, base: Position, entries: &[(u64, u64)]) {
        self.base = base;
        self.entries = entries.iter().map(|&(term, hash)| Noted { term, hash }).collect();
        self.writes.clear();
        self.durable = self.last();
        self.held = self.held.max(self.durable);
        self.committed = 0;
        self.commits = None;
        self.term = 0;
    }
}
