//! Turns one group's records into what the group is: by order, not by place.
//!
//! Pure: takes records, gives the group's head, its index and the lost records that matter.

use std::collections::{HashMap, HashSet};

use super::super::batch::{DirectoryEntry, FLAG_RESET, Kind, u64_at};
use super::super::head::Head;
use super::super::index::{GroupLog, Item, Location, Run, Slot, Space};
use super::RecoveredGroup;
use super::scan::{ScannedRecord, Terms};
use super::select::Gap;

/// A record in its place.
pub(super) struct PlacedRecord {
    pub sequence: u64,
    pub location: Location,
    pub record: ScannedRecord,
}

/// A living group.
pub(super) struct ReplayedGroup {
    pub recovered: RecoveredGroup,
    pub head: Head,
    pub log: GroupLog,
    /// The group was not marked suspect before.
    pub newly_suspect: bool,
    /// Sequences of lost records that the group still needed.
    pub missed: Vec<u64>,
}

/// Replays one group's records, given in the order of their sequences; at least one.
///
/// `None` = the group is dead. `oldest_record`: records before it were freed.
pub(super) fn replay(
    records: &[PlacedRecord],
    gaps: &[Gap],
    oldest_record: u64,
    space: &mut Space,
) -> Option<ReplayedGroup> {
    let orders = |kind| {
        let of_kind = records.iter().filter(move |placed| placed.record.entry.kind == kind);
        of_kind.map(|placed| placed.record.entry.order).max().unwrap_or(0)
    };
    let (birth, death) = (orders(Kind::Birth), orders(Kind::Death));
    if death > birth {
        return None;
    }
    let mut counting: Vec<&PlacedRecord> = records
        .iter()
        .filter(|placed| {
            let entry = &placed.record.entry;
            entry.order > birth || entry.kind == Kind::Birth && entry.order == birth
        })
        .collect();
    // Copies of one order lie behind the original; of them all, intact ones win.
    counting
        .sort_by_key(|placed| (placed.record.entry.order, placed.record.intact, placed.sequence));

    let mut replay = Replay { log: GroupLog::default(), slots: [None; 4], lost: Vec::new(), space };
    for same_order in counting.chunk_by(|a, b| order(a) == order(b)) {
        replay.apply(same_order);
    }
    let broken = is_chain_broken(records, gaps, oldest_record);
    let previous = records.last().map_or(0, |placed| placed.sequence);
    Some(replay.finish(broken, previous))
}

/// Where a payload lies.
fn key(location: &Location) -> (u64, u32) {
    (location.segment, location.offset)
}

fn order(placed: &PlacedRecord) -> u64 {
    placed.record.entry.order
}

/// True if the group cannot prove that no record of its present life is missing.
fn is_chain_broken(records: &[PlacedRecord], gaps: &[Gap], oldest_record: u64) -> bool {
    let mut broken = false;
    let mut before: Option<&PlacedRecord> = None;
    for placed in records {
        let entry = &placed.record.entry;
        let is_original_birth = entry.kind == Kind::Birth && entry.order == placed.sequence;
        broken = if is_original_birth {
            false
        } else {
            let links = match before {
                Some(before) => entry.previous == before.sequence,
                None => entry.previous != 0 && entry.previous < oldest_record,
            };
            broken || !links
        };
        before = Some(placed);
    }
    let last = records.last().map_or(0, |placed| placed.sequence);
    broken || gaps.iter().any(|gap| gap.from < gap.to && gap.to > last)
}

struct Replay<'a> {
    log: GroupLog,
    /// What counts of each kind of single record.
    slots: [Option<&'a PlacedRecord>; 4],
    /// Lost records of entries, whether they count or not.
    lost: Vec<&'a PlacedRecord>,
    space: &'a mut Space,
}

impl<'a> Replay<'a> {
    /// Applies all records of one order: an original, its copies, or both.
    fn apply(&mut self, records: &[&'a PlacedRecord]) {
        let Some(best) = records.last() else {
            return;
        };
        let slot = match best.record.entry.kind {
            Kind::Entries => return self.apply_entries(records),
            Kind::Base => {
                if best.record.entry.flags & FLAG_RESET != 0 {
                    self.log.clear(self.space);
                }
                self.log.compact(best.record.entry.first, self.space);
                Slot::Base
            }
            Kind::Birth => Slot::Birth,
            Kind::State => Slot::State,
            Kind::Suspect => Slot::Suspect,
            Kind::Death => return,
        };
        self.slots[slot as usize] = Some(best);
    }

    fn apply_entries(&mut self, records: &[&'a PlacedRecord]) {
        let runs = records.iter().filter(|placed| placed.record.entry.kind == Kind::Entries);
        let Some(cut) = runs.clone().map(|placed| placed.record.entry.first).min() else {
            return;
        };
        self.log.truncate(cut, self.space);
        for placed in runs {
            let DirectoryEntry { first, count, order, .. } = placed.record.entry;
            let run = Run {
                location: placed.location,
                order,
                record_first: first,
                record_count: count,
                first,
                last: first + u64::from(count) - 1,
                lost: !placed.record.intact,
            };
            self.log.lay(run, self.space);
            if run.lost {
                self.lost.push(placed);
            }
        }
        // Entries that a base dropped do not come back with a copy of their order.
        let base = self.log.base();
        self.log.compact(base, self.space);
    }

    fn finish(mut self, broken: bool, previous: u64) -> ReplayedGroup {
        let mut missed = Vec::new();
        for slot in Slot::ALL {
            let Some(placed) = self.slots[slot as usize] else {
                continue;
            };
            let entry = &placed.record.entry;
            let item = Item {
                location: placed.location,
                order: entry.order,
                first: if slot == Slot::Base { entry.first } else { 0 },
                flags: entry.flags,
                lost: !placed.record.intact,
            };
            self.log.set_slot(slot, Some(item), self.space);
            if item.lost {
                missed.push(placed.sequence);
            }
        }
        let payload = |slot: Slot| {
            let placed = self.slots[slot as usize]?;
            placed.record.intact.then(|| placed.record.payload.clone())
        };
        let birth = payload(Slot::Birth);
        let was_suspect = self.slots[Slot::Suspect as usize].is_some();
        let base_term = payload(Slot::Base).map_or(0, |bytes| u64_at(&bytes, 0));
        let base = (self.log.base(), base_term);
        let state = payload(Slot::State);

        let lost_runs: HashSet<(u64, u32)> =
            self.log.runs().iter().filter(|run| run.lost).map(|run| key(&run.location)).collect();
        let counts = |placed: &&&PlacedRecord| lost_runs.contains(&key(&placed.location));
        missed.extend(self.lost.iter().filter(counts).map(|placed| placed.sequence));
        let has_hole = self.cut_at_hole();
        let suspect = was_suspect || broken || has_hole || birth.is_none() || !missed.is_empty();
        ReplayedGroup {
            recovered: RecoveredGroup {
                birth: birth.unwrap_or_default(),
                state,
                base,
                last_index: self.log.last(),
                term_starts: Vec::new(),
                log_bytes: self.log.runs().iter().map(Run::live_bytes).sum(),
                suspect,
            },
            head: Head { base, last: self.log.last(), previous, suspect, ..Head::default() },
            log: self.log,
            newly_suspect: suspect && !was_suspect,
            missed,
        }
    }

    /// Cuts the log below the first index that is missing or lost. True if there was one.
    fn cut_at_hole(&mut self) -> bool {
        let mut expected = self.log.base() + 1;
        for run in self.log.runs() {
            if run.first != expected || run.lost {
                self.log.truncate(expected, self.space);
                // Runs behind a hole begin above `expected`, so none is left half.
                return true;
            }
            expected = run.last + 1;
        }
        false
    }
}

/// Fills in the terms of the live entries.
pub(super) fn fill_terms(group: &mut ReplayedGroup, records: &[PlacedRecord]) {
    let terms: HashMap<(u64, u32), &Terms> =
        records.iter().map(|placed| (key(&placed.location), &placed.record.terms)).collect();
    let starts = &mut group.recovered.term_starts;
    for run in group.log.runs() {
        let Some(terms) = terms.get(&key(&run.location)) else {
            continue;
        };
        let mut current = None;
        for (start, term) in terms.iter().filter(|(start, _)| *start <= run.last) {
            if start <= run.first {
                current = Some((run.first, term));
                continue;
            }
            push_term(starts, current.replace((start, term)));
        }
        push_term(starts, current);
    }
    group.head.term_starts = starts.iter().copied().collect();
}

fn push_term(starts: &mut Vec<(u64, u64)>, start: Option<(u64, u64)>) {
    if let Some((index, term)) = start
        && starts.last().is_none_or(|(_, last)| *last != term)
    {
        starts.push((index, term));
    }
}
