//! The log as the core sees it: where terms begin, and the tail in memory.
//!
//! The journal holds the entries. The core keeps the position of the compacted base, the first
//! position of each run of equal terms (so that the term of any index is known without reading
//! anything), the cached tail, and at most one window of older entries read back from the
//! journal.
//!
//! Invariants:
//!
//! * `runs` grow in index and in term; the first begins right after the base.
//! * The cache has no gaps and ends with the last entry, or is empty.
//! * Every entry in the window is an entry of the log as it is now.
//!
//! What is absent: what is durable, committed or applied. The callers say how far the cache may
//! shrink and that nothing committed is cut.

use std::collections::VecDeque;

use crate::types::{Entry, Index, Position, Term};

pub(crate) struct Log {
    base: Position,
    runs: VecDeque<Position>,
    last: Position,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    window: Vec<Entry>,
}

impl Log {
    /// A log whose entries are all in the journal.
    pub(crate) fn new(base: Position, runs: Vec<Position>, last_index: Index) -> Self {
        let last = match runs.last() {
            Some(run) => Position { index: last_index, term: run.term },
            None => base,
        };
        Self {
            base,
            runs: runs.into(),
            last,
            cache: VecDeque::new(),
            cache_bytes: 0,
            window: Vec::new(),
        }
    }

    pub(crate) fn base(&self) -> Position {
        self.base
    }

    pub(crate) fn last(&self) -> Position {
        self.last
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cache_bytes + self.window.iter().map(Entry::bytes).sum::<usize>()
    }

    /// Bytes of the cached tail alone.
    pub(crate) fn tail_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// First index in the cached tail; one past the last entry if it is empty.
    pub(crate) fn cache_start(&self) -> Index {
        Index(self.last.index.0 + 1 - self.cache.len() as u64)
    }

    /// The term of the entry at `index`. `None` below the base and beyond the end.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index > self.last.index || index < self.base.index {
            return None;
        }
        match self.runs.back() {
            Some(newest) if index >= newest.index => Some(newest.term),
            _ => match self.runs.partition_point(|run| run.index <= index) {
                0 => Some(self.base.term),
                runs => Some(self.runs[runs - 1].term),
            },
        }
    }

    /// The first index known to have the term of the entry at `index`, which must exist. Runs
    /// that begin inside the compacted part are known from the base only.
    pub(crate) fn run_start(&self, index: Index) -> Index {
        match self.runs.partition_point(|run| run.index <= index) {
            0 => self.base.index,
            runs => self.runs[runs - 1].index,
        }
    }

    /// The last entry at or before `index` whose term is not above `term`; the base if there is
    /// none above it.
    pub(crate) fn last_at_or_before(&self, index: Index, term: Term) -> Position {
        let runs = self.runs.partition_point(|run| run.index <= index && run.term <= term);
        if runs == 0 {
            return self.base;
        }
        let end = self.runs.get(runs).map_or(self.last.index, |run| run.index.previous());
        Position { index: index.min(end), term: self.runs[runs - 1].term }
    }

    /// Appends an entry.
    ///
    /// # Panics
    ///
    /// If it leaves a gap or its term is below the last one.
    pub(crate) fn append(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last.index.next(), "append leaves a gap");
        assert!(entry.term >= self.last.term, "terms go back");
        if entry.term > self.last.term || self.runs.is_empty() {
            self.runs.push_back(entry.position());
        }
        self.last = entry.position();
        self.cache_bytes += entry.bytes();
        self.cache.push_back(entry);
    }

    /// Removes every entry from `from` on.
    ///
    /// # Panics
    ///
    /// If `from` is in the compacted part.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base.index, "truncating the compacted part");
        while self.cache.back().is_some_and(|entry| entry.index >= from) {
            let entry = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= entry.bytes();
        }
        while self.runs.back().is_some_and(|run| run.index >= from) {
            self.runs.pop_back();
        }
        self.window.retain(|entry| entry.index < from);
        if from <= self.last.index {
            let term = self.runs.back().map_or(self.base.term, |run| run.term);
            self.last = Position { index: from.previous(), term };
        }
    }

    /// Moves the base up to `to`, which must be in the log. Does nothing if it is there already.
    pub(crate) fn compact(&mut self, to: Index) {
        if to <= self.base.index {
            return;
        }
        let term = self.term_at(to).expect("compacting beyond the end");
        while self.runs.get(1).is_some_and(|run| run.index <= to.next()) {
            self.runs.pop_front();
        }
        if to == self.last.index {
            self.runs.clear();
        } else if let Some(first) = self.runs.front_mut() {
            first.index = first.index.max(to.next());
        }
        while self.cache.front().is_some_and(|entry| entry.index <= to) {
            let entry = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= entry.bytes();
        }
        if self.window.first().is_some_and(|entry| entry.index <= to) {
            self.window = Vec::new();
        }
        self.base = Position { index: to, term };
    }

    /// Forgets everything: the log goes on after `base`.
    pub(crate) fn reset(&mut self, base: Position) {
        *self = Self::new(base, Vec::new(), base.index);
    }

    /// Drops the oldest cached entries while the tail is larger than `bytes_max`, but none above
    /// `to`.
    pub(crate) fn evict(&mut self, to: Index, bytes_max: usize) {
        while self.cache_bytes > bytes_max
            && self.cache.front().is_some_and(|entry| entry.index <= to)
        {
            let entry = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= entry.bytes();
        }
    }

    /// True if the entry at `index` is in memory.
    pub(crate) fn is_cached(&self, index: Index) -> bool {
        self.stretch(index).is_some()
    }

    /// The cached entry at `index`.
    pub(crate) fn cached(&self, index: Index) -> Option<&Entry> {
        let start = self.cache_start();
        if index < start {
            return None;
        }
        self.cache.get((index.0 - start.0) as usize)
    }

    /// Entries from `from` to at most `to` that are in memory, within `entries_max` and
    /// `bytes_max`; at least one if `oversize` and the first is in memory.
    pub(crate) fn read(
        &self,
        from: Index,
        to: Index,
        entries_max: usize,
        bytes_max: usize,
        oversize: bool,
    ) -> Vec<Entry> {
        let Some(stretch) = self.stretch(from) else { return Vec::new() };
        let wanted = (to.0 + 1).saturating_sub(from.0).min(entries_max as u64) as usize;
        let mut bytes = 0;
        let mut count = 0;
        for entry in stretch.clone().take(wanted) {
            bytes += entry.bytes();
            if bytes > bytes_max && !(oversize && count == 0) {
                break;
            }
            count += 1;
        }
        let mut entries = Vec::with_capacity(count);
        entries.extend(stretch.take(count).cloned());
        entries
    }

    /// Everything in memory from `from` on, in order, from the cache or from the window.
    fn stretch(&self, from: Index) -> Option<impl Iterator<Item = &Entry> + Clone> {
        let start = self.cache_start();
        let (cached, fetched) = if from >= start && from <= self.last.index {
            ((from.0 - start.0) as usize, self.window.len())
        } else {
            let first = self.window.first()?.index;
            if from < first || from.0 - first.0 >= self.window.len() as u64 {
                return None;
            }
            (self.cache.len(), (from.0 - first.0) as usize)
        };
        Some(self.window[fetched..].iter().chain(self.cache.range(cached..)))
    }

    /// Takes entries read from the journal as the new window, as far as they are entries of the
    /// log as it is now.
    pub(crate) fn set_window(&mut self, mut entries: Vec<Entry>) {
        let mut expected = entries.first().map_or(Index(0), |entry| entry.index);
        let valid = entries.iter().take_while(|entry| {
            let good = entry.index == expected
                && entry.index > self.base.index
                && entry.index <= self.last.index
                && self.term_at(entry.index) == Some(entry.term);
            expected = expected.next();
            good
        });
        let count = valid.count();
        entries.truncate(count);
        self.window = entries;
    }

    /// Forgets the window.
    pub(crate) fn drop_window(&mut self) {
        if !self.window.is_empty() {
            self.window = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Index(index), term: Term(term), payload: "payload".into() }
    }

    /// Terms 1 1 1 4 4 6 6, all cached.
    fn log() -> Log {
        let mut log = Log::new(Position::default(), Vec::new(), Index(0));
        for (at, term) in [1, 1, 1, 4, 4, 6, 6].into_iter().enumerate() {
            log.append(entry(at as u64 + 1, term));
        }
        log
    }

    fn terms(log: &Log) -> Vec<u64> {
        let (first, last) = (log.base().index.0 + 1, log.last().index.0);
        (first..=last).map(|index| log.term_at(Index(index)).unwrap().0).collect()
    }

    #[test]
    fn terms_are_known_without_entries() {
        let log = log();
        assert_eq!(terms(&log), [1, 1, 1, 4, 4, 6, 6]);
        assert_eq!(log.term_at(Index(0)), Some(Term(0)));
        assert_eq!(log.term_at(Index(8)), None);
        assert_eq!(log.run_start(Index(5)), Index(4));
    }

    #[test]
    fn hints_skip_whole_terms() {
        let log = log();
        let hint = |index, term| log.last_at_or_before(Index(index), Term(term));
        assert_eq!(hint(7, 6), Position::new(7, 6));
        assert_eq!(hint(7, 5), Position::new(5, 4));
        assert_eq!(hint(9, 3), Position::new(3, 1));
        assert_eq!(hint(4, 9), Position::new(4, 4));
        assert_eq!(hint(7, 0), Position::default());
    }

    #[test]
    fn truncation_forgets_terms_and_bytes() {
        let mut log = log();
        log.truncate(Index(5));
        assert_eq!(log.last(), Position::new(4, 4));
        assert_eq!(terms(&log), [1, 1, 1, 4]);
        assert_eq!(log.tail_bytes(), 4 * entry(1, 1).bytes());
        log.append(entry(5, 7));
        assert_eq!(terms(&log), [1, 1, 1, 4, 7]);
        log.truncate(Index(1));
        assert_eq!(log.last(), Position::default());
        assert_eq!(log.tail_bytes(), 0);
    }

    #[test]
    fn compaction_keeps_what_is_above() {
        for to in 1..=7 {
            let mut log = log();
            let before = terms(&log);
            log.compact(Index(to));
            assert_eq!(terms(&log), before[to as usize..], "compacted up to {to}");
            assert_eq!(log.base().term.0, before[to as usize - 1]);
            assert_eq!(log.term_at(Index(to - 1)), None);
            log.append(entry(8, 6));
            assert_eq!(log.term_at(Index(8)), Some(Term(6)));
        }
    }

    #[test]
    fn reading_respects_limits_and_never_starves() {
        let log = log();
        let each = entry(1, 1).bytes();
        let count = |from, to, entries, bytes, oversize| {
            log.read(Index(from), Index(to), entries, bytes, oversize).len()
        };
        assert_eq!(count(1, 7, 100, usize::MAX, true), 7);
        assert_eq!(count(3, 5, 100, usize::MAX, true), 3);
        assert_eq!(count(1, 7, 2, usize::MAX, true), 2);
        assert_eq!(count(1, 7, 100, 3 * each, true), 3);
        assert_eq!(count(1, 7, 100, 3 * each - 1, true), 2);
        assert_eq!(count(1, 7, 100, 1, true), 1);
        assert_eq!(count(1, 7, 100, 1, false), 0);
        assert_eq!(count(8, 9, 100, usize::MAX, true), 0);
    }

    #[test]
    fn evicted_entries_come_back_through_the_window() {
        let mut log = log();
        log.evict(Index(4), 0);
        assert_eq!(log.cache_start(), Index(5));
        assert!(!log.is_cached(Index(2)) && log.is_cached(Index(5)));
        log.set_window(vec![entry(2, 1), entry(3, 1), entry(4, 4)]);
        let read = log.read(Index(2), Index(7), 100, usize::MAX, true);
        assert_eq!(read, [entry(2, 1), entry(3, 1), entry(4, 4)]);
    }

    /// What the journal answers late is compared with the log as it is now.
    #[test]
    fn a_window_holds_only_entries_of_the_log() {
        let mut log = log();
        log.evict(Index(7), 0);
        log.set_window(vec![entry(3, 1), entry(4, 2), entry(5, 4)]);
        assert!(log.is_cached(Index(3)) && !log.is_cached(Index(4)));
        log.set_window(vec![entry(6, 6), entry(7, 6), entry(8, 6)]);
        assert!(log.is_cached(Index(7)) && !log.is_cached(Index(8)));
        log.truncate(Index(7));
        log.append(entry(7, 9));
        assert_eq!(log.read(Index(7), Index(7), 1, 1, true), [entry(7, 9)]);
        log.set_window(vec![entry(3, 1), entry(5, 4)]);
        assert!(log.is_cached(Index(3)) && !log.is_cached(Index(5)));
        log.set_window(Vec::new());
        assert!(!log.is_cached(Index(3)));
    }
}
