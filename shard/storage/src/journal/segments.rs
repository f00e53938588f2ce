//! The files: one that is written, the older ones, the next one, and freed ones on their way back.
//!
//! A segment's life: *next* (reserved, durably named, empty) -> *active* -> *sealed* -> *retired*
//! (nothing live in it) -> once a synced batch announced that, *next* again under a new number,
//! or deleted.
//!
//! What is absent: what the files hold.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_mutation::{Mutation, planted};

use super::reserve::Reserve;
use super::{BLOCK_BYTES, JournalError, JournalOptions};
use crate::fs::{File, FileSystem};

/// Ending of segment file names.
const SUFFIX: &str = ".segment";
/// A new file is filled with zeros this far ahead, a piece at a time: a sync of bytes that were
/// written before costs half of one that also has to turn reserved blocks into written ones.
const FILL_BYTES: u64 = 1 << 20;
/// Filling starts when less than this is left of what was filled.
const FILL_BELOW_BYTES: u64 = 256 << 10;

/// But not before so many batches have come after one that is longer than what is filled: filling
/// in front of such batches is work for nothing.
const FILL_AFTER_BATCHES: u32 = 16;

/// File name of a segment.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// Number in a segment's file name; `None` for other files.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A segment file.
#[derive(Clone)]
pub(super) struct Segment {
    pub number: u64,
    pub file: Arc<dyn File>,
    pub bytes: u64,
    /// Sequence of the first batch in it; meaningless while it is empty.
    pub first_batch: u64,
    /// Sequence of the first record in it; meaningless while it is empty.
    pub first_record: u64,
}

/// All files of a journal.
pub(super) struct Segments {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    segment_bytes: u64,
    spare_segments_max: usize,
    total_bytes_target: u64,
    next_number: u64,
    sealed: VecDeque<Segment>,
    active: Segment,
    /// Where the next batch goes in `active`.
    position: u64,
    /// Batches since one that was longer than what is filled at a time.
    since_large: u32,
    /// `active` was written or zeroed up to here.
    filled: u64,
    /// Reserved ahead, with how far it is filled.
    next: Option<(Segment, u64)>,
    /// Freed, oldest first; may be reused once announced.
    retired: VecDeque<Segment>,
    /// Written since the last sync.
    dirty: Vec<Segment>,
    pub(super) reserve: Reserve,
    /// The last new file found no space.
    starved: bool,
    /// The last write found none.
    refused: bool,
}

impl Segments {
    /// Takes over what recovery kept, and starts a new active segment above all known numbers.
    pub(super) fn start(
        fs: Arc<dyn FileSystem>,
        dir: &Path,
        options: &JournalOptions,
        sealed: VecDeque<Segment>,
        first_number: u64,
        mut reserve: Reserve,
    ) -> Result<Segments, JournalError> {
        let JournalOptions { segment_bytes, spare_segments_max, total_bytes_target, .. } = *options;
        let mut starved = false;
        let active = match create(fs.as_ref(), dir, first_number, segment_bytes) {
            Err(full @ JournalError::Full { .. }) => {
                starved = true;
                reserve.take(fs.as_ref(), dir, first_number, segment_bytes, full)?
            }
            result => result?,
        };
        Ok(Segments {
            fs,
            dir: dir.to_path_buf(),
            segment_bytes,
            spare_segments_max,
            total_bytes_target,
            next_number: first_number + 1,
            sealed,
            active,
            position: 0,
            since_large: FILL_AFTER_BATCHES,
            filled: 0,
            next: None,
            retired: VecDeque::new(),
            dirty: Vec::new(),
            reserve,
            starved,
            refused: false,
        })
    }

    /// The segment that is written.
    pub(super) fn active(&self) -> &Segment {
        &self.active
    }

    /// Where the next batch goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// True if the active segment holds no batch.
    pub(super) fn is_empty(&self) -> bool {
        self.position == 0
    }

    /// Bytes left in the active segment for batches with records.
    pub(super) fn room(&self) -> u64 {
        self.marker_room().saturating_sub(BLOCK_BYTES as u64)
    }

    /// Bytes that a new segment has for batches with records.
    pub(super) fn room_of_new(&self) -> u64 {
        self.segment_bytes - BLOCK_BYTES as u64
    }

    /// Bytes left in the active segment for a marker.
    pub(super) fn marker_room(&self) -> u64 {
        self.active.bytes - self.position
    }

    /// True if the disk had no space when it was last asked for some.
    pub(super) fn is_starved(&self) -> bool {
        self.starved || self.refused
    }

    /// The oldest sealed segment.
    pub(super) fn oldest_sealed(&self) -> Option<&Segment> {
        self.sealed.front()
    }

    /// The oldest segment that is still needed.
    pub(super) fn oldest(&self) -> &Segment {
        self.sealed.front().unwrap_or(&self.active)
    }

    /// Segments that hold batches.
    pub(super) fn count(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Bytes of the segments that hold batches.
    pub(super) fn log_bytes(&self) -> u64 {
        self.sealed.iter().map(|segment| segment.bytes).sum::<u64>() + self.active.bytes
    }

    /// Bytes of all files, spares included.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.log_bytes()
            + self.retired.iter().map(|segment| segment.bytes).sum::<u64>()
            + self.next.as_ref().map_or(0, |(segment, _)| segment.bytes)
            + self.reserve.bytes()
    }

    /// Writes a whole batch of so many bytes at the current position, part by part.
    pub(super) fn append<'batch>(
        &mut self,
        parts: impl Iterator<Item = &'batch [u8]>,
        bytes: u64,
        sequence: u64,
        first_record: u64,
    ) -> Result<(), JournalError> {
        assert!(bytes <= self.marker_room(), "a batch that does not fit its segment");
        if self.position == 0 {
            self.active.first_batch = sequence;
            self.active.first_record = first_record;
        }
        let mut end = self.position;
        let mut written = parts.map(|part| {
            let result = self.active.file.write_all_at(part, end);
            end += part.len() as u64;
            result
        });
        if let Err(error) = written.try_for_each(|result| result) {
            // Even a file whose space is reserved may meet this, where blocks are never overwritten
            // in place.
            return Err(self.refused("write", self.active.number, &error));
        }
        self.refused = false;
        assert_eq!(end, self.position + bytes, "a batch that is not as long as it says");
        self.position = end;
        let is_large = bytes > FILL_BYTES;
        self.since_large = if is_large { 0 } else { self.since_large.saturating_add(1) };
        self.filled = self.filled.max(self.position);
        if self.dirty.last().is_none_or(|segment| segment.number != self.active.number) {
            self.dirty.push(self.active.clone());
        }
        Ok(())
    }

    /// Makes everything written durable.
    pub(super) fn sync(&mut self) -> Result<(), JournalError> {
        for segment in std::mem::take(&mut self.dirty) {
            segment
                .file
                .sync_data()
                .map_err(|error| JournalError::io("sync", self.path(segment.number), &error))?;
        }
        Ok(())
    }

    /// True if something was written since the last sync.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Seals the active segment and goes on in the next. Returns the new one.
    pub(super) fn roll(&mut self) -> Result<Segment, JournalError> {
        self.prepare(true)?;
        let (next, filled) = self.next.take().expect("just prepared");
        self.sealed.push_back(std::mem::replace(&mut self.active, next));
        self.position = 0;
        self.filled = filled;
        Ok(self.active.clone())
    }

    /// True if the next segment should be reserved by now.
    pub(super) fn wants_next(&self) -> bool {
        self.next.is_none() && (self.starved || self.position * 2 >= self.active.bytes)
    }

    /// Reserves the next segment, unless it is there: a retired file, else a new one, else the
    /// reserve if that may be used.
    ///
    /// # Errors
    ///
    /// [`JournalError::Full`] when the disk is full; the journal is unharmed and may try again.
    pub(super) fn prepare(&mut self, may_use_reserve: bool) -> Result<(), JournalError> {
        if self.next.is_some() {
            return Ok(());
        }
        let number = self.next_number;
        self.next_number += 1;
        let reusable = self.retired.front().is_some_and(|segment| self.is_announced(segment));
        if reusable && let Some(mut segment) = self.retired.pop_front() {
            let (from, to) = (self.path(segment.number), self.path(number));
            self.fs
                .rename(&from, &to)
                .and_then(|()| sync_dir(self.fs.as_ref(), &self.dir))
                .map_err(|error| JournalError::io("recycling", from, &error))?;
            segment.number = number;
            self.next = Some((segment, self.segment_bytes));
            // Without a reserve to make again this is all the room that there needs to be.
            self.starved &= !self.reserve.is_whole();
        } else {
            let (fs, dir, bytes) = (self.fs.as_ref(), self.dir.as_path(), self.segment_bytes);
            let created = create(fs, dir, number, bytes);
            self.starved = matches!(created, Err(JournalError::Full { .. }));
            let segment = match created {
                Err(full @ JournalError::Full { .. }) if may_use_reserve => {
                    self.reserve.take(fs, dir, number, bytes, full)?
                }
                created => created?,
            };
            self.next = Some((segment, 0));
        }
        Ok(())
    }

    /// A retired segment has `first_batch` 0 once its end is announced.
    fn is_announced(&self, segment: &Segment) -> bool {
        segment.first_batch == 0
    }

    /// Frees the oldest sealed segment; its file is reused once that is announced.
    pub(super) fn retire_oldest(&mut self) -> Option<Segment> {
        let segment = self.sealed.pop_front()?;
        self.retired.push_back(segment.clone());
        Some(segment)
    }

    /// True if a freed segment waits for a batch that says so.
    pub(super) fn awaits_announcement(&self) -> bool {
        self.retired.iter().any(|segment| !self.is_announced(segment))
    }

    /// A synced batch says that segments below `oldest` are not needed.
    pub(super) fn announced(&mut self, oldest: u64) -> Result<(), JournalError> {
        for segment in &mut self.retired {
            if segment.number < oldest {
                segment.first_batch = 0;
            }
        }
        let spares_max = if self.reserve.is_wanted() { self.spare_segments_max } else { 0 };
        // There will be a next segment, whatever it is made of.
        let beside = self.log_bytes() + self.reserve.bytes() + self.segment_bytes;
        let room = self.total_bytes_target.saturating_sub(beside) / self.segment_bytes;
        self.delete_spares(spares_max.min(usize::try_from(room).unwrap_or(usize::MAX)))
    }

    /// Deletes freed files until `spares_max` are left that may be used again.
    fn delete_spares(&mut self, spares_max: usize) -> Result<(), JournalError> {
        let excess = |segment: &Segment, count: usize| {
            segment.first_batch == 0 && (count > spares_max || segment.bytes != self.segment_bytes)
        };
        let mut at = 0;
        while at < self.retired.len() {
            if excess(&self.retired[at], self.retired.len()) {
                let segment = self.retired.remove(at).expect("at is in bounds");
                let path = self.path(segment.number);
                // The directory is not synced: should the file come back, it is known as freed.
                self.fs
                    .remove(&path)
                    .map_err(|error| JournalError::io("deletion", path, &error))?;
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Zeroes and syncs the next piece of a file that was never written before.
    pub(super) fn fill_ahead(&mut self) -> Result<(), JournalError> {
        let is_far = self.filled >= self.position + FILL_BELOW_BYTES;
        if is_far || self.filled >= self.active.bytes || self.since_large < FILL_AFTER_BATCHES {
            return Ok(());
        }
        let count = FILL_BYTES.min(self.active.bytes - self.filled);
        let zeros = vec![0; count as usize];
        let written = self.active.file.write_all_at(&zeros, self.filled);
        if let Err(error) = written {
            return Err(self.refused("write", self.active.number, &error));
        }
        self.active
            .file
            .sync_data()
            .map_err(|error| JournalError::io("sync", self.path(self.active.number), &error))?;
        self.filled += count;
        Ok(())
    }

    /// Does what was last said about the reserve: makes it, or gives it and the spares up. True if
    /// that is done, or there is nothing to do.
    pub(super) fn tend_reserve(&mut self) -> Result<bool, JournalError> {
        if !self.reserve.is_wanted() {
            self.reserve.give_up(self.fs.as_ref(), &self.dir)?;
            self.delete_spares(0)?;
            return Ok(true);
        }
        if self.reserve.is_whole() {
            return Ok(true);
        }
        match self.reserve.make(self.fs.as_ref(), &self.dir) {
            Ok(()) => {
                self.starved = false;
                Ok(true)
            }
            Err(JournalError::Full { .. }) => {
                // A spare file is worth less than the reserve. One at a time.
                self.delete_spares(self.retired.len().saturating_sub(1))?;
                self.starved = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(segment_name(number))
    }

    fn refused(&mut self, operation: &'static str, number: u64, error: &io::Error) -> JournalError {
        let path = self.path(number);
        let refused = full_or_io(operation, &self.dir, &path, self.segment_bytes, error);
        self.refused = matches!(refused, JournalError::Full { .. });
        refused
    }
}

/// Makes a file, reserves its space, and makes both durable.
fn create(
    fs: &dyn FileSystem,
    dir: &Path,
    number: u64,
    bytes: u64,
) -> Result<Segment, JournalError> {
    let path = dir.join(segment_name(number));
    let failed = |operation, error: &io::Error| full_or_io(operation, dir, &path, bytes, error);
    let file = fs.create(&path).map_err(|error| failed("creation", &error))?;
    if let Err(error) = file.allocate(bytes) {
        // A file without its space would be in the way of the next attempt and of nobody else.
        let _ = fs.remove(&path);
        return Err(failed("reservation", &error));
    }
    if let Err(error) = file.sync_data() {
        // Nothing was ever promised about this file: without space for it, it may go.
        let _ = fs.remove(&path);
        return Err(failed("sync", &error));
    }
    sync_dir(fs, dir).map_err(|error| JournalError::io("directory sync", dir, &error))?;
    Ok(Segment { number, file, bytes, first_batch: 0, first_record: 0 })
}

/// Makes the names of files durable.
fn sync_dir(fs: &dyn FileSystem, dir: &Path) -> io::Result<()> {
    if planted(Mutation::ForgetDirectorySync) {
        return Ok(());
    }
    fs.sync_dir(dir)
}

pub(super) fn full_or_io(
    operation: &'static str,
    dir: &Path,
    path: &Path,
    bytes_needed: u64,
    error: &io::Error,
) -> JournalError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            JournalError::Full { dir: dir.to_path_buf(), bytes_needed }
        }
        _ => JournalError::io(operation, path, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_names_are_segments() {
        assert_eq!(segment_number(&segment_name(42)), Some(42));
        for name in ["2a.segment", "000000000000002A.segment", "LOCK", "+00000000000002a.segment"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
