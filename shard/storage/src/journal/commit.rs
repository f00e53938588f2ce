//! From staged records to bytes in a segment: batches are planned, sealed and written.
//!
//! Staging cannot fail, so a round is always put together as a whole; only writing needs the disk.
//! When the disk has no space the sealed batches stay where they are, in order, and the next
//! attempt goes on exactly there.
//!
//! Invariants:
//!
//! * A batch that was not written completely is written again at the same place under the same
//!   sequence, never elsewhere: no sequence exists twice.
//! * Nothing is synced while a round is written in part.
//! * The last block of a segment is left to a marker: when all is full, the news that segments were
//!   freed still finds room, and makes them usable.

use super::batch::{FLAG_RESET, Header, Kind, batch_bytes};
use super::index::{Item, Location, Run, Shared, Slot};
use super::stage::Stage;
use super::{Journal, JournalError};

/// Where the next batches will go, ahead of writing them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    /// Bytes left in the segment that the staged batch goes to.
    room: u64,
    /// The staged batch begins a new segment.
    rolls: bool,
    /// The staged batch is not the first of its round.
    goes_on: bool,
}

/// A batch that is complete but for its header.
pub(super) struct Sealed {
    stage: Stage,
    first_record: u64,
    continues: bool,
    rolls: bool,
    starts_round: bool,
}

impl Journal {
    /// Makes sure that the staged batch takes a record of `payload_bytes`: seals it when it is full,
    /// and plans the next segment when that is.
    pub(super) fn plan_for(&mut self, payload_bytes: usize) {
        if self.stage.records().is_empty() && self.sealed.is_empty() {
            self.plan = Plan { room: self.segments.room(), ..Plan::default() };
        }
        let room = self.plan.room.min(self.options.batch_bytes_max);
        if !self.stage.records().is_empty() && self.stage.bytes_with(payload_bytes) > room {
            self.seal(true);
        }
        if self.stage.records().is_empty() && self.stage.bytes_with(payload_bytes) > self.plan.room
        {
            self.plan.rolls = true;
            self.plan.room = self.segments.room_of_new();
        }
    }

    /// True if a record of `payload_bytes` finds room without the reserve.
    pub(super) fn has_room_for(&mut self, payload_bytes: usize) -> Result<bool, JournalError> {
        let room = match self.stage.records().is_empty() && self.sealed.is_empty() {
            true => self.segments.room(),
            false => self.plan.room,
        };
        // What is staged and sealed may have taken the prepared segment already.
        let takes_next = self.plan.rolls || self.sealed.iter().any(|batch| batch.rolls);
        if self.stage.bytes_with(payload_bytes) <= room {
            return Ok(true);
        }
        if takes_next && self.is_staging() {
            return Ok(false);
        }
        match self.segments.prepare(false) {
            Ok(()) => Ok(true),
            Err(JournalError::Full { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_staging(&self) -> bool {
        !self.stage.records().is_empty() || self.is_held()
    }

    /// Completes the staged batch. `continues`: its round goes on in the next one.
    fn seal(&mut self, continues: bool) {
        let bytes = self.stage.bytes();
        let stage = std::mem::replace(&mut self.stage, std::mem::take(&mut self.spare_stage));
        let first_record = self.chain.next_record - stage.records().len() as u64;
        self.sealed.push_back(Sealed {
            stage,
            first_record,
            continues,
            rolls: std::mem::take(&mut self.plan.rolls),
            starts_round: !std::mem::replace(&mut self.plan.goes_on, continues),
        });
        self.plan.room -= bytes;
    }

    /// Ends the round: seals what is staged, and writes all that is sealed.
    pub(super) fn flush(&mut self) -> Result<(), JournalError> {
        if !self.stage.records().is_empty() {
            self.seal(false);
        }
        self.write_sealed()
    }

    /// Writes the sealed batches and lets readers see them.
    pub(super) fn write_sealed(&mut self) -> Result<(), JournalError> {
        while let Some(mut batch) = self.sealed.pop_front() {
            let result = self.write_one(&mut batch);
            if result.is_err() {
                self.sealed.push_front(batch);
                return result;
            }
            batch.stage.clear();
            self.spare_stage = batch.stage;
        }
        Ok(())
    }

    fn write_one(&mut self, batch: &mut Sealed) -> Result<(), JournalError> {
        let mut rounds = self.sealed.iter().take_while(|next| !next.starts_round);
        if batch.starts_round && (batch.rolls || rounds.any(|next| next.rolls)) {
            // Before anything of the round is written: afterwards nothing may be synced.
            self.reserve_next(batch.first_record)?;
        }
        if batch.rolls {
            self.roll()?;
            batch.rolls = false;
        }
        self.write_batch(&mut batch.stage, batch.first_record, batch.continues)
    }

    /// Makes sure of the next segment, with all there is: a new file, the reserve, or the segments
    /// that were freed and of which no batch has told yet.
    fn reserve_next(&mut self, first_record: u64) -> Result<(), JournalError> {
        let full = match self.segments.prepare(true) {
            Err(full @ JournalError::Full { .. }) => full,
            result => return result,
        };
        let has_room = self.segments.marker_room() >= batch_bytes(0, 0) as u64;
        self.sync_and_free()?;
        if !self.segments.awaits_announcement() || !has_room {
            return Err(full);
        }
        self.write_marker_at(first_record)?;
        self.sync_and_free()?;
        self.segments.prepare(true)
    }

    fn roll(&mut self) -> Result<(), JournalError> {
        let active = self.segments.roll()?;
        self.shared.write().files.insert(active.number, active.file);
        Ok(())
    }

    /// Writes a batch at the current position. [`JournalError::Full`] changes nothing: the next
    /// attempt writes the same sequence at the same place, over whatever this one left there. No
    /// sync comes in between, so all that recovery can meet is a torn tail.
    fn write_batch(
        &mut self,
        stage: &mut Stage,
        first_record: u64,
        continues: bool,
    ) -> Result<(), JournalError> {
        let sequence = self.chain.last_batch + 1;
        let active = self.segments.active().number;
        let oldest = self.segments.oldest();
        // An empty active segment begins with this batch.
        let (oldest_batch, oldest_record) = if oldest.number == active && self.segments.is_empty() {
            (sequence, first_record)
        } else {
            (oldest.first_batch, oldest.first_record)
        };
        let mut header = Header {
            sequence,
            segment: active,
            offset: u32::try_from(self.segments.position()).expect("segments are below 1 GiB"),
            boot_nonce: self.chain.boot_nonce,
            boot_first: self.chain.boot_first,
            boot_previous: self.chain.boot_previous,
            synced_through: self.chain.synced_through,
            oldest_segment: oldest.number,
            oldest_batch,
            oldest_record,
            first_record,
            previous_crc: self.chain.last_crc,
            ..Header::default()
        };
        stage.assemble(&mut header, continues);
        let bytes = u64::from(header.length);
        self.segments.append(stage.parts(), bytes, sequence, first_record)?;
        self.chain.last_batch = sequence;
        self.chain.last_crc = header.crc;
        self.chain.said_synced_through = header.synced_through;
        self.chain.said_oldest_segment = header.oldest_segment;
        self.stats.bytes_written += u64::from(header.length);
        self.stats.records_written += u64::from(header.record_count);
        if header.record_count > 0 {
            self.chain.last_with_records = sequence;
        }
        self.apply_to_index(stage, &header);
        Ok(())
    }

    /// Lets readers see the batch that was just written.
    fn apply_to_index(&self, stage: &Stage, header: &Header) {
        if header.record_count == 0 {
            return;
        }
        let body_start = header.offset + header.body_start() as u32;
        let mut shared = self.shared.write();
        let Shared { groups, space, .. } = &mut *shared;
        for (entry, sequence) in stage.records().iter().zip(header.first_record..) {
            let location = Location {
                segment: header.segment,
                offset: body_start + entry.offset,
                length: entry.length,
                crc: entry.crc,
            };
            if entry.kind == Kind::Death {
                if let Some(log) = groups.remove(&entry.group) {
                    log.remove(space);
                }
                continue;
            }
            let log = groups.entry(entry.group).or_default();
            let (order, first, flags) = (entry.order, entry.first, entry.flags);
            let is_copy = order != sequence;
            let item = Some(Item { location, order, first, flags, lost: false });
            match entry.kind {
                Kind::Birth => log.set_slot(Slot::Birth, item, space),
                Kind::State => log.set_slot(Slot::State, item, space),
                Kind::Suspect => log.set_slot(Slot::Suspect, item, space),
                Kind::Base => {
                    if flags & FLAG_RESET != 0 && !is_copy {
                        log.clear(space);
                    }
                    log.compact(first, space);
                    log.set_slot(Slot::Base, item, space);
                }
                Kind::Entries => {
                    let run = Run {
                        location,
                        order,
                        record_first: first,
                        record_count: entry.count,
                        first,
                        last: first + u64::from(entry.count) - 1,
                        lost: false,
                    };
                    if is_copy {
                        log.lay(run, space);
                    } else {
                        log.truncate(first, space);
                        log.push(run, space);
                    }
                }
                Kind::Death => unreachable!("handled above"),
            }
        }
    }

    pub(super) fn sync_and_free(&mut self) -> Result<(), JournalError> {
        if self.segments.is_dirty() {
            self.segments.sync()?;
            self.chain.synced_through = self.chain.last_batch;
            self.segments.announced(self.chain.said_oldest_segment)?;
        }
        self.free_dead_segments();
        Ok(())
    }

    /// Writes and syncs a marker, unless there is nothing to prove or a round is held.
    pub(super) fn write_marker(&mut self) -> Result<(), JournalError> {
        if self.is_held() {
            return Ok(());
        }
        self.sync_and_free()?;
        if !self.is_unproven() {
            return Ok(());
        }
        // Every segment has a block for one marker; behind it begins the next segment.
        if self.segments.marker_room() < batch_bytes(0, 0) as u64 {
            self.roll()?;
        }
        self.write_marker_at(self.chain.next_record)?;
        self.sync_and_free()
    }

    fn write_marker_at(&mut self, first_record: u64) -> Result<(), JournalError> {
        let mut stage = std::mem::take(&mut self.spare_stage);
        let result = self.write_batch(&mut stage, first_record, false);
        stage.clear();
        self.spare_stage = stage;
        result
    }

    /// Writes and syncs the first batch of this boot: a marker, or what recovery staged.
    pub(super) fn write_boot_batch(&mut self) -> Result<(), JournalError> {
        if self.stage.records().is_empty() {
            self.write_marker_at(self.chain.next_record)?;
        } else {
            self.flush()?;
        }
        self.sync_and_free()
    }
}
