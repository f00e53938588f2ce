//! Where each live record lies: group -> log index -> position in a segment.
//!
//! Shared by the journal, which alone changes it, and its readers. The same operations build it
//! record by record while writing and, in order, while recovering.
//!
//! Invariants:
//!
//! * The runs of a group are sorted by index, do not overlap and lie above its base. While
//!   writing they have no holes.
//! * `Space` counts exactly the items that the groups hold, per segment.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::GroupId;
use crate::fs::File;

/// Where a payload lies, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub segment: u64,
    pub offset: u32,
    pub length: u32,
    pub crc: u32,
}

/// A live record that is not entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub location: Location,
    /// Its place among the group's records; a copy has its original's.
    pub order: u64,
    /// Index of a base; otherwise 0.
    pub first: u64,
    pub flags: u8,
    /// The payload is known to be damaged.
    pub lost: bool,
}

/// The live part of a record of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub location: Location,
    pub order: u64,
    /// Index of the record's first entry, live or not.
    pub record_first: u64,
    /// Entries of the record, live or not.
    pub record_count: u16,
    /// First live index.
    pub first: u64,
    /// Last live index.
    pub last: u64,
    /// The payload is known to be damaged.
    pub lost: bool,
}

impl Run {
    /// Bytes of the record that count as live: the share of its live entries.
    pub(super) fn live_bytes(&self) -> u64 {
        let live = self.last - self.first + 1;
        u64::from(self.location.length) * live / u64::from(self.record_count)
    }
}

/// What lies in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub live_records: u64,
    pub live_bytes: u64,
}

/// Live records and bytes of every segment that has any.
#[derive(Debug, Default)]
pub(super) struct Space {
    segments: BTreeMap<u64, Usage>,
    live_bytes: u64,
}

impl Space {
    /// What is live in `segment`.
    pub(super) fn usage(&self, segment: u64) -> Usage {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    /// Live bytes in all segments.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    fn add(&mut self, segment: u64, bytes: u64) {
        let usage = self.segments.entry(segment).or_default();
        usage.live_records += 1;
        usage.live_bytes += bytes;
        self.live_bytes += bytes;
    }

    fn remove(&mut self, segment: u64, bytes: u64) {
        let usage = self.segments.get_mut(&segment).expect("what is removed was added");
        usage.live_records -= 1;
        usage.live_bytes -= bytes;
        self.live_bytes -= bytes;
        if usage.live_records == 0 {
            assert_eq!(usage.live_bytes, 0, "live bytes without a live record");
            self.segments.remove(&segment);
        }
    }

    fn add_run(&mut self, run: &Run) {
        if !run.lost {
            self.add(run.location.segment, run.live_bytes());
        }
    }

    fn remove_run(&mut self, run: &Run) {
        if !run.lost {
            self.remove(run.location.segment, run.live_bytes());
        }
    }

    fn replace_item(&mut self, slot: &mut Option<Item>, item: Option<Item>) {
        if let Some(old) = slot.take()
            && !old.lost
        {
            self.remove(old.location.segment, u64::from(old.location.length));
        }
        if let Some(new) = &item
            && !new.lost
        {
            self.add(new.location.segment, u64::from(new.location.length));
        }
        *slot = item;
    }
}

/// Which of a group's single records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Birth = 0,
    State = 1,
    Base = 2,
    Suspect = 3,
}

impl Slot {
    /// All of them.
    pub(super) const ALL: [Slot; 4] = [Slot::Birth, Slot::State, Slot::Base, Slot::Suspect];
}

/// What is live of one group.
#[derive(Debug, Default)]
pub(super) struct GroupLog {
    slots: [Option<Item>; 4],
    runs: Vec<Run>,
    /// Leading runs that compaction dropped but that still stand in `runs`: dropping from the
    /// front of a vector one by one would move all others each time.
    dropped: usize,
    /// Entries up to here are gone.
    base: u64,
}

impl GroupLog {
    /// Live runs, ascending.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs[self.dropped..]
    }

    /// Index up to which the log was compacted.
    pub(super) fn base(&self) -> u64 {
        self.base
    }

    /// Last index of the log; the base when it is empty.
    pub(super) fn last(&self) -> u64 {
        self.runs().last().map_or(self.base, |run| run.last)
    }

    /// A single record.
    pub(super) fn slot(&self, slot: Slot) -> Option<&Item> {
        self.slots[slot as usize].as_ref()
    }

    /// Replaces a single record.
    pub(super) fn set_slot(&mut self, slot: Slot, item: Option<Item>, space: &mut Space) {
        space.replace_item(&mut self.slots[slot as usize], item);
    }

    /// Drops entries from `first` on.
    pub(super) fn truncate(&mut self, first: u64, space: &mut Space) {
        while let Some(run) = self.runs[self.dropped..].last().copied() {
            if run.last < first {
                break;
            }
            self.runs.pop();
            space.remove_run(&run);
            if run.first < first {
                let kept = Run { last: first - 1, ..run };
                space.add_run(&kept);
                self.runs.push(kept);
                break;
            }
        }
    }

    /// Adds entries behind all others.
    pub(super) fn push(&mut self, run: Run, space: &mut Space) {
        debug_assert!(run.first > self.last());
        space.add_run(&run);
        self.runs.push(run);
    }

    /// Puts entries in place of whatever lies at their indexes.
    pub(super) fn lay(&mut self, run: Run, space: &mut Space) {
        if run.first > self.last() {
            return self.push(run, space);
        }
        self.runs.drain(..std::mem::take(&mut self.dropped));
        let from = self.runs.partition_point(|old| old.last < run.first);
        let to = self.runs.partition_point(|old| old.first <= run.last);
        let mut replacement = Vec::with_capacity(3);
        for old in &self.runs[from..to] {
            space.remove_run(old);
            if old.first < run.first {
                replacement.push(Run { last: run.first - 1, ..*old });
            }
        }
        replacement.push(run);
        if let Some(old) = self.runs[from..to].last()
            && old.last > run.last
        {
            replacement.push(Run { first: run.last + 1, ..*old });
        }
        for new in &replacement {
            space.add_run(new);
        }
        self.runs.splice(from..to, replacement);
    }

    /// Drops entries up to `index`, which becomes the base if it is above it.
    pub(super) fn compact(&mut self, index: u64, space: &mut Space) {
        self.base = self.base.max(index);
        while let Some(run) = self.runs.get(self.dropped).copied() {
            if run.first > index {
                break;
            }
            space.remove_run(&run);
            if run.last > index {
                let kept = Run { first: index + 1, ..run };
                space.add_run(&kept);
                self.runs[self.dropped] = kept;
                break;
            }
            self.dropped += 1;
        }
        if self.dropped > 64 && self.dropped * 2 > self.runs.len() {
            self.runs.drain(..std::mem::take(&mut self.dropped));
        }
    }

    /// Drops all entries.
    pub(super) fn clear(&mut self, space: &mut Space) {
        for run in &self.runs[self.dropped..] {
            space.remove_run(run);
        }
        self.runs.clear();
        self.dropped = 0;
    }

    /// Marks a run as damaged: nothing of it is live any more, and reading it is an error.
    pub(super) fn lose_run(&mut self, location: Location, space: &mut Space) {
        for run in &mut self.runs[self.dropped..] {
            if run.location == location && !run.lost {
                space.remove_run(run);
                run.lost = true;
            }
        }
    }

    /// Marks a single record as damaged.
    pub(super) fn lose_slot(&mut self, slot: Slot, space: &mut Space) {
        if let Some(item) = self.slots[slot as usize] {
            self.set_slot(slot, Some(Item { lost: true, ..item }), space);
        }
    }

    /// Drops everything.
    pub(super) fn remove(mut self, space: &mut Space) {
        self.clear(space);
        for slot in Slot::ALL {
            self.set_slot(slot, None, space);
        }
    }
}

/// What journal and readers share.
#[derive(Default)]
pub(super) struct Shared {
    pub groups: HashMap<GroupId, GroupLog>,
    pub space: Space,
    pub files: BTreeMap<u64, Arc<dyn File>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(order: u64, segment: u64, first: u64, last: u64) -> Run {
        let record_count = (last - first + 1) as u16;
        let location = Location {
            segment,
            offset: order as u32,
            length: 10 * u32::from(record_count),
            crc: 0,
        };
        Run { location, order, record_first: first, record_count, first, last, lost: false }
    }

    fn shape(log: &GroupLog) -> Vec<(u64, u64, u64)> {
        log.runs().iter().map(|run| (run.order, run.first, run.last)).collect()
    }

    #[test]
    fn truncation_and_compaction_trim_runs_and_their_bytes() {
        let (mut log, mut space) = (GroupLog::default(), Space::default());
        log.push(run(1, 1, 1, 10), &mut space);
        log.push(run(2, 1, 11, 20), &mut space);
        log.push(run(3, 2, 21, 30), &mut space);
        log.truncate(15, &mut space);
        assert_eq!(shape(&log), [(1, 1, 10), (2, 11, 14)]);
        assert_eq!(space.usage(2), Usage::default());
        log.compact(5, &mut space);
        assert_eq!(shape(&log), [(1, 6, 10), (2, 11, 14)]);
        assert_eq!(space.usage(1), Usage { live_records: 2, live_bytes: 90 });
        log.compact(40, &mut space);
        assert_eq!((log.base(), log.last(), space.live_bytes()), (40, 40, 0));
    }

    #[test]
    fn a_copy_replaces_exactly_its_indexes() {
        let (mut log, mut space) = (GroupLog::default(), Space::default());
        log.push(run(1, 1, 1, 10), &mut space);
        log.push(run(2, 1, 11, 20), &mut space);
        log.lay(run(1, 3, 4, 6), &mut space);
        assert_eq!(shape(&log), [(1, 1, 3), (1, 4, 6), (1, 7, 10), (2, 11, 20)]);
        assert_eq!(space.usage(3), Usage { live_records: 1, live_bytes: 30 });
        assert_eq!(space.usage(1), Usage { live_records: 3, live_bytes: 170 });
        log.lay(run(9, 4, 1, 25), &mut space);
        assert_eq!(shape(&log), [(9, 1, 25)]);
        assert_eq!(space.usage(1), Usage::default());
        log.remove(&mut space);
        assert_eq!(space.live_bytes(), 0);
    }
}
