//! Replacing the rows by a snapshot, and the time in which they are not to be trusted.
//!
//! ```text
//!   received ──> intent in the hard state ──durable──> `Ready::install` ──> installed or refused
//! ```
//!
//! From the moment a snapshot is taken nothing is handed out for applying and nothing is compacted:
//! what would be applied meanwhile would go into rows that are about to be replaced. The log goes on
//! as usual. A restart tells from the durable intent and from where the rows end whether the swap took
//! place; see [`Restored::resume_after_swap`](crate::Restored::resume_after_swap).
//!
//! After the swap the log begins behind the snapshot. If it holds the snapshot's last entry, what
//! follows that stays. If not, nothing stays: a log with another entry at a committed index, or none,
//! holds nothing from there on that is or will be committed.
//!
//! Invariants: only followers install, and a replica that installs does not campaign; the swap is asked
//! for once, and only when the intent is durable.

use flotilla_mutation::{Mutation, planted};

use crate::{
    core::Core,
    types::{Index, Position},
};

/// What the core knows of the rows.
pub(crate) struct Rows {
    /// They are lost or unreadable.
    pub(crate) lost: bool,
    installing: Option<Installing>,
    /// The log begins behind this snapshot, and the journal does not know yet.
    pub(crate) reset: Option<Position>,
}

struct Installing {
    position: Position,
    /// The shell was asked to swap.
    asked: bool,
}

impl Rows {
    pub(crate) fn new(lost: bool) -> Self {
        Self { lost, installing: None, reset: None }
    }

    pub(crate) fn installing(&self) -> Option<Position> {
        self.installing.as_ref().map(|installing| installing.position)
    }

    /// Entries may be applied, and forgotten once they are.
    pub(crate) fn are_usable(&self) -> bool {
        !self.lost && self.installing.is_none()
    }
}

impl Core {
    /// True if a snapshot that ends at `position` would be taken now. `told` is what the leader of
    /// this term said is committed. A snapshot from beyond that is not taken: its sender may lead a
    /// later term, and to stand on what the leader of this term lacks, and to answer it as if
    /// the logs agreed, would make it count what it must not.
    pub(crate) fn wants_snapshot_at(&self, position: Position, told: Index) -> bool {
        let known = self.commit().max(told);
        if self.options.suspect
            || self.rows.installing.is_some()
            || position.index > known
            || position.term > self.term()
        {
            return false;
        }
        if position.index > self.commit() {
            return true;
        }
        // What is committed here can only come from elsewhere if it is lost here, and then the log
        // must go on from there.
        self.rows.lost && self.log.term_at(position.index) == Some(position.term)
    }

    /// A snapshot lies ready: its intent goes to the disk first.
    pub(crate) fn begin_install(&mut self, position: Position) {
        assert!(self.rows.installing.is_none(), "two snapshots at a time");
        self.rows.installing = Some(Installing { position, asked: false });
        self.persistence.hard_state_changed();
    }

    /// The snapshot that is to be swapped in now, once.
    pub(crate) fn take_install(&mut self) -> Option<Position> {
        let durable =
            self.persistence.is_hard_state_durable() || planted(Mutation::InstallBeforeIntent);
        let installing = self.rows.installing.as_mut()?;
        if installing.asked || !durable {
            return None;
        }
        installing.asked = true;
        Some(installing.position)
    }

    /// The snapshot has taken the place of the rows.
    ///
    /// # Panics
    ///
    /// If that was not asked for, or contradicts what is committed: the rows are not this group's.
    pub(crate) fn installed(&mut self, position: Position) {
        let installing = self.rows.installing.take();
        let asked = installing.is_some_and(|it| it.asked && it.position == position);
        assert!(asked, "a snapshot at {position} was installed that was not asked for");
        if self.log.term_at(position.index) == Some(position.term) {
            self.log.compact(position.index);
            self.persistence.advance(position.index);
        } else {
            assert!(position.index > self.commit(), "the snapshot at {position} is of another log");
            self.log.reset(position);
            self.persistence.reset(position.index);
        }
        self.rows.reset = Some(position);
        self.rows.lost = false;
        self.commit_to(position.index);
        self.restart_apply(position.index);
        self.persistence.hard_state_changed();
    }

    /// The snapshot could not be swapped in: everything is as before.
    pub(crate) fn refused(&mut self, position: Position) {
        if self.rows.installing() == Some(position) {
            self.rows.installing = None;
            self.persistence.hard_state_changed();
        }
    }
}
