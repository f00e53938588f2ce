//! Space: which segments may go, and what is rewritten forward so that they may.
//!
//! All of it runs on the writer: between the check that a record is live and its copy nothing can
//! supersede it. A copy keeps the original's order, so replay never prefers it to anything newer.

use flotilla_mutation::{Mutation, planted};

use super::batch::{Kind, u32_at};
use super::index::{Item, Location, Run, Slot};
use super::reader::{PayloadError, read_payload};
use super::record::{ENTRY_HEADER_BYTES, is_well_formed};
use super::stage::NewRecord;
use super::{Journal, JournalError};
use crate::GroupId;

/// While the files are too large this many times as much is rewritten with a batch.
const OVERSIZED_HASTE: u64 = 8;

/// A segment that is being rewritten forward.
pub(super) struct Rewrite {
    segment: u64,
    /// Groups that had something live in it when it was chosen, descending. Nothing is ever added
    /// to a sealed segment, so the list stays complete.
    groups: Vec<GroupId>,
}

/// Something live in the segment that is being rewritten.
enum Live {
    Single(Slot, Item),
    Entries(Run),
}

/// How far copying a group's live records came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Done,
    /// The next step goes on.
    BudgetEnded,
    /// Another step makes sense only when there is space.
    DiskFull,
}

impl Journal {
    /// Housekeeping between rounds, in bounded steps: reserves the next segment, zeroes a new file
    /// ahead of its use, and rewrites a piece of the oldest segment. Copies are durable with
    /// the next sync, like any write.
    ///
    /// True if there is more to do right away.
    ///
    /// # Errors
    ///
    /// As [`Journal::write`], but a disk without space is no error here:
    /// [`super::JournalStats::full`] says so, and the next call tries again.
    pub fn maintain(&mut self) -> Result<bool, JournalError> {
        self.check_running()?;
        let result = self.maintain_step();
        self.stop_on_error(result)
    }

    fn maintain_step(&mut self) -> Result<bool, JournalError> {
        if self.segments.wants_next() {
            // The reserve is for rounds that wait, not for what may wait.
            ignore_full(self.segments.prepare(false))?;
        }
        ignore_full(self.segments.fill_ahead())?;
        if self.is_held() {
            return Ok(false);
        }
        match self.rewrite_step() {
            Err(JournalError::Full { .. }) => Ok(false),
            result => result,
        }
    }

    /// Frees the oldest segments as long as nothing in them is live. Called when everything
    /// written is synced, so that whatever killed their records is durable.
    pub(super) fn free_dead_segments(&mut self) {
        assert!(!self.segments.is_dirty(), "freeing while a record's death may still be lost");
        while let Some(oldest) = self.segments.oldest_sealed() {
            let number = oldest.number;
            let mut shared = self.shared.write();
            if shared.space.usage(number).live_records > dispensable_records() {
                return;
            }
            shared.files.remove(&number);
            drop(shared);
            self.segments.retire_oldest();
        }
    }

    /// The segment that should be rewritten now.
    fn rewrite_target(&self) -> Option<u64> {
        let oldest = self.segments.oldest_sealed()?;
        let shared = self.shared.read();
        let usage = shared.space.usage(oldest.number);
        let log_bytes = self.segments.log_bytes();
        // On a full disk a segment that can be freed is the only one to be had.
        let is_many =
            self.segments.count() > self.options.rewrite_segments_min || self.segments.is_starved();
        let sparse = is_many && usage.live_bytes * 4 <= oldest.bytes;
        let oversized = self.is_oversized() && shared.space.live_bytes() * 3 < log_bytes * 2;
        (usage.live_records > 0 && (sparse || oversized)).then_some(oldest.number)
    }

    /// What the target leaves for batches: beside them there are the reserve, the next segment, and
    /// one that is freed and not announced yet.
    fn room_for_batches(&self) -> u64 {
        let beside = 2 * self.options.segment_bytes + self.segments.reserve.bytes();
        self.options.total_bytes_target.saturating_sub(beside)
    }

    fn is_oversized(&self) -> bool {
        self.segments.count() > 1 && self.segments.log_bytes() >= self.room_for_batches()
    }

    /// The target of all files, while they are about to exceed it and more is live than leaves
    /// something to be freed within it; else 0.
    pub(super) fn oversized(&self, live_bytes: u64) -> u64 {
        let dense = live_bytes * 3 >= self.room_for_batches() * 2;
        if dense && self.is_oversized() { self.options.total_bytes_target } else { 0 }
    }

    /// Copies at most `rewrite_bytes_max` of the oldest segment. True if there is more.
    fn rewrite_step(&mut self) -> Result<bool, JournalError> {
        if self.rewrite.is_none() {
            let Some(segment) = self.rewrite_target() else {
                return Ok(false);
            };
            self.rewrite = Some(Rewrite { segment, groups: self.groups_in(segment) });
        }
        let Some(mut rewrite) = self.rewrite.take() else {
            return Ok(false);
        };
        // What frees space must be faster than what takes it.
        let haste = if self.is_oversized() { OVERSIZED_HASTE } else { 1 };
        let mut budget = self.options.rewrite_bytes_max.saturating_mul(haste);
        while let Some(group) = rewrite.groups.last().copied() {
            let done = self.rewrite_group(group, rewrite.segment, &mut budget)?;
            if done != Progress::Done {
                self.rewrite = Some(rewrite);
                self.flush()?;
                return Ok(done == Progress::BudgetEnded);
            }
            rewrite.groups.pop();
        }
        self.flush()?;
        Ok(false)
    }

    /// Groups with anything live in `segment`, descending.
    fn groups_in(&self, segment: u64) -> Vec<GroupId> {
        let shared = self.shared.read();
        let holds = |location: &Location, lost: bool| location.segment == segment && !lost;
        let mut groups: Vec<GroupId> = shared
            .groups
            .iter()
            .filter(|(_, log)| {
                Slot::ALL.iter().any(|slot| {
                    log.slot(*slot).is_some_and(|item| holds(&item.location, item.lost))
                }) || log.runs().iter().any(|run| holds(&run.location, run.lost))
            })
            .map(|(group, _)| *group)
            .collect();
        // The map's order differs from run to run; the log's may not.
        groups.sort_unstable_by(|a, b| b.cmp(a));
        groups
    }

    /// Copies what is live of `group` in `segment`, unless the budget or the disk ends first.
    ///
    /// Everything staged here is flushed before the next round is staged, so what the index says
    /// is live now still is when the copy is applied.
    fn rewrite_group(
        &mut self,
        group: GroupId,
        segment: u64,
        budget: &mut u64,
    ) -> Result<Progress, JournalError> {
        for live in self.live_in(group, segment) {
            let (location, kind) = match &live {
                Live::Single(slot, item) => (item.location, slot_kind(*slot)),
                Live::Entries(run) => (run.location, Kind::Entries),
            };
            let bytes = u64::from(location.length);
            if *budget == 0 || (bytes > *budget && *budget < self.options.rewrite_bytes_max) {
                return Ok(Progress::BudgetEnded);
            }
            // Copying may fill what is left, and never begins to eat the reserve.
            if !self.has_room_for(location.length as usize)? {
                return Ok(Progress::DiskFull);
            }
            *budget = budget.saturating_sub(bytes.max(1));
            let file = self.shared.read().files.get(&segment).cloned();
            let payload = match read_payload(file.as_ref(), &location) {
                Ok(payload) => payload,
                Err(PayloadError::Mismatch) => {
                    self.lose(group, &live);
                    continue;
                }
                Err(PayloadError::Io(error)) => {
                    tracing::error!(%group, segment, %error, "a journal record cannot be read");
                    self.lose(group, &live);
                    continue;
                }
            };
            match live {
                Live::Single(_, item) => {
                    self.stage_bytes(
                        group,
                        kind,
                        order_of_copy(item.order),
                        item.first,
                        item.flags,
                        &payload,
                    );
                }
                Live::Entries(run) => {
                    if !is_well_formed(&payload, run.record_count) {
                        self.lose(group, &Live::Entries(run));
                        continue;
                    }
                    self.stage_copy(group, &run, &payload);
                }
            }
            self.stats.rewritten_bytes += bytes;
        }
        Ok(Progress::Done)
    }

    /// Stages the live entries of a record.
    fn stage_copy(&mut self, group: GroupId, run: &Run, payload: &[u8]) {
        let length_of = |at: usize| u32_at(payload, at * ENTRY_HEADER_BYTES + 8) as usize;
        let from = (run.first - run.record_first) as usize;
        let to = (run.last + 1 - run.record_first) as usize;
        let table = usize::from(run.record_count) * ENTRY_HEADER_BYTES;
        let start = table + (0..from).map(length_of).sum::<usize>();
        let end = start + (from..to).map(length_of).sum::<usize>();
        let headers = &payload[from * ENTRY_HEADER_BYTES..to * ENTRY_HEADER_BYTES];
        let bytes = &payload[start..end];
        let new = NewRecord {
            group,
            kind: Kind::Entries,
            flags: 0,
            previous: 0,
            order: order_of_copy(run.order),
            first: run.first,
            count: (to - from) as u16,
        };
        self.stage_record(new, headers.len() + bytes.len(), |body| {
            body.extend_from_slice(headers);
            body.extend_from_slice(bytes);
        });
    }

    /// What is live of `group` in `segment`.
    fn live_in(&self, group: GroupId, segment: u64) -> Vec<Live> {
        let shared = self.shared.read();
        let Some(log) = shared.groups.get(&group) else {
            return Vec::new();
        };
        let mut live = Vec::new();
        for slot in Slot::ALL {
            if let Some(item) = log.slot(slot)
                && item.location.segment == segment
                && !item.lost
            {
                live.push(Live::Single(slot, *item));
            }
        }
        for run in log.runs() {
            if run.location.segment == segment && !run.lost {
                live.push(Live::Entries(*run));
            }
        }
        live
    }

    /// A live record turned out to be damaged: the group becomes suspect, the node goes on.
    fn lose(&mut self, group: GroupId, live: &Live) {
        tracing::error!(%group, "a live journal record is damaged; the group becomes suspect");
        self.stats.corrupt_records += 1;
        {
            let mut shared = self.shared.write();
            let shared = &mut *shared;
            if let Some(log) = shared.groups.get_mut(&group) {
                match live {
                    Live::Single(slot, _) => log.lose_slot(*slot, &mut shared.space),
                    Live::Entries(run) => log.lose_run(run.location, &mut shared.space),
                }
            }
        }
        if !self.suspected.contains(&group) {
            self.suspected.push(group);
        }
        self.stage_suspect(group);
    }
}

/// How many live records a segment may have that is freed: none.
fn dispensable_records() -> u64 {
    if planted(Mutation::FreeLiveSegment) { 3 } else { 0 }
}

/// A copy counts as old as its original.
fn order_of_copy(original: u64) -> Option<u64> {
    (!planted(Mutation::CopySupersedesNewer)).then_some(original)
}

fn slot_kind(slot: Slot) -> Kind {
    match slot {
        Slot::Birth => Kind::Birth,
        Slot::State => Kind::State,
        Slot::Base => Kind::Base,
        Slot::Suspect => Kind::Suspect,
    }
}

/// A full disk is none of housekeeping's errors.
fn ignore_full(result: Result<(), JournalError>) -> Result<(), JournalError> {
    match result {
        Err(JournalError::Full { .. }) => Ok(()),
        result => result,
    }
}
