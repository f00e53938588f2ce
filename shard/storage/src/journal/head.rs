//! What the writer knows of each group without reading: bounds, terms, the chain.
//!
//! Kept apart from the shared index because it runs ahead of it: it changes when a record is
//! staged, the index when the record is in its file and may be read.

use std::collections::VecDeque;

/// The writer's view of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Index and term up to which the log was compacted.
    pub base: (u64, u64),
    /// Last index; the base's when the log is empty.
    pub last: u64,
    /// (index, term) of the first entry of each run of equal terms above the base.
    pub term_starts: VecDeque<(u64, u64)>,
    /// Sequence of the group's latest record.
    pub previous: u64,
    /// The group lost content.
    pub suspect: bool,
}

impl Head {
    /// Term of the entry at `index`, or of the base; `None` where the log has nothing.
    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        let behind = self.term_starts.partition_point(|(start, _)| *start <= index);
        behind.checked_sub(1).map(|at| self.term_starts[at].1)
    }

    /// Drops entries from `first` on.
    pub(super) fn truncate(&mut self, first: u64) {
        while self.term_starts.back().is_some_and(|(start, _)| *start >= first) {
            self.term_starts.pop_back();
        }
        self.last = self.last.min(first - 1);
    }

    /// Adds the entry at `last + 1`.
    pub(super) fn push(&mut self, term: u64) {
        self.last += 1;
        if self.term_starts.back().is_none_or(|(_, last)| *last != term) {
            self.term_starts.push_back((self.last, term));
        }
    }

    /// Moves the base up. True if the log does not continue it and was emptied.
    pub(super) fn compact(&mut self, index: u64, term: u64) -> bool {
        debug_assert!(index > self.base.0);
        let reset = self.term_at(index) != Some(term);
        if reset || index == self.last {
            self.term_starts.clear();
            self.last = index;
        } else {
            // The run of equal terms that holds the first entry left begins there now.
            let first_left = index + 1;
            let behind = self.term_starts.partition_point(|(start, _)| *start <= first_left);
            self.term_starts.drain(..behind.saturating_sub(1));
            if let Some(start) = self.term_starts.front_mut() {
                start.0 = start.0.max(first_left);
            }
        }
        self.base = (index, term);
        reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        let mut head = Head::default();
        for term in [1, 1, 1, 3, 3, 5] {
            head.push(term);
        }
        head
    }

    #[test]
    fn terms_follow_truncation_and_compaction() {
        let mut head = head();
        assert_eq!(head.term_starts, [(1, 1), (4, 3), (6, 5)]);
        assert_eq!(
            [0, 1, 3, 4, 6, 7].map(|index| head.term_at(index)),
            [Some(0), Some(1), Some(1), Some(3), Some(5), None]
        );
        head.truncate(5);
        head.push(3);
        head.push(7);
        assert_eq!(head.term_starts, [(1, 1), (4, 3), (6, 7)]);
        assert!(!head.compact(4, 3));
        assert_eq!((head.base, head.last), ((4, 3), 6));
        assert_eq!(head.term_starts, [(5, 3), (6, 7)]);
        assert!(!head.compact(5, 3));
        assert_eq!(head.term_starts, [(6, 7)]);
        assert!(!head.compact(6, 7));
        assert_eq!((head.last, head.term_starts.len()), (6, 0));
    }

    #[test]
    fn a_base_that_the_log_does_not_continue_empties_it() {
        let mut other_term = head();
        assert!(other_term.compact(3, 2));
        assert_eq!((other_term.last, other_term.term_starts.len()), (3, 0));
        let mut ahead = head();
        assert!(ahead.compact(9, 5));
        assert_eq!((ahead.base, ahead.last), ((9, 5), 9));
    }
}
