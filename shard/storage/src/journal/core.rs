//! The synchronous core: rounds of writes into batches, batches into segments, one sync for all.
//!
//! The caller's loop is `write`, `sync`, report, [`Journal::maintain`]; the thread runs it in
//! production, a simulation runs it step by step.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use flotilla_mutation::{Mutation, planted};
use parking_lot::RwLock;

use super::batch::{FLAG_RESET, Kind, batch_bytes};
use super::body::Body;
use super::commit::{Plan, Sealed};
use super::head::Head;
use super::index::Shared;
use super::record::{
    ENTRY_HEADER_BYTES, RECORD_BYTES_TARGET, encode_entries, entries_bytes, record_split,
};
use super::segments::Segments;
use super::space::Rewrite;
use super::stage::{NewRecord, Stage};
use super::{
    BLOCK_BYTES, Change, JournalError, JournalOptions, JournalReader, LogEntry, Recovery,
    STATE_BYTES_MAX, Write,
};
use crate::GroupId;
use crate::fs::FileSystem;

/// Where the log stands: what the next header says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub boot_nonce: u64,
    pub boot_first: u64,
    pub boot_previous: u64,
    /// Sequence of the last batch written.
    pub last_batch: u64,
    /// CRC of its header; 0 = none or unknown.
    pub last_crc: u32,
    /// Sequence of the next record.
    pub next_record: u64,
    /// Highest sequence that a sync covered.
    pub synced_through: u64,
    /// `synced_through` and `oldest_segment` of the last batch written.
    pub said_synced_through: u64,
    pub said_oldest_segment: u64,
    /// Last batch with records.
    pub last_with_records: u64,
}

/// Numbers about a journal, all since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Segments that hold batches.
    pub segments: u64,
    /// Bytes of all files, spares included.
    pub disk_bytes: u64,
    /// Bytes of records that are still needed. When they outgrow the disk, checkpoints and
    /// compaction must hurry.
    pub live_bytes: u64,
    /// [`JournalOptions::total_bytes_target`] while the files take more than that and too much of it
    /// is live to be freed by rewriting; else 0.
    pub oversized: u64,
    /// Bytes of batches written.
    pub bytes_written: u64,
    /// Records written, copies included.
    pub records_written: u64,
    /// Bytes of records rewritten forward.
    pub rewritten_bytes: u64,
    /// Damaged records met, by recovery or while rewriting.
    pub corrupt_records: u64,
    /// The disk had no space when it was last tried: a round is held, or what is written uses up
    /// what was reserved.
    pub full: bool,
}

/// The journal of a node. One owner writes; [`Journal::reader`] gives readers for other threads.
///
/// Nothing is durable before [`Journal::sync`] returned. [`JournalError::EntryTooLarge`] changes
/// nothing. [`JournalError::Full`] neither loses nor stops anything: what was handed in is held,
/// in order, and the next [`Journal::sync`] tries again. After any other error every later call
/// fails with [`JournalError::Stopped`]: what the disk holds is unknown until the journal is opened
/// again.
pub struct Journal {
    pub(super) options: JournalOptions,
    pub(super) segments: Segments,
    pub(super) shared: Arc<RwLock<Shared>>,
    pub(super) heads: HashMap<GroupId, Head>,
    pub(super) stage: Stage,
    /// Where the batches that are put together will go.
    pub(super) plan: Plan,
    /// Batches put together and not written yet, in order.
    pub(super) sealed: VecDeque<Sealed>,
    /// An empty stage that keeps its buffers.
    pub(super) spare_stage: Stage,
    pub(super) chain: Chain,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) stats: JournalStats,
    /// Groups found damaged since they were last asked for.
    pub(super) suspected: Vec<GroupId>,
    pub(super) stopped: Option<String>,
}

impl Journal {
    /// Opens the journal in `dir`, which is created if need be, and recovers what is there.
    ///
    /// What the recovery reports is durable when this returns, even if the process was killed
    /// before with pages unsynced. The caller holds the directory's lock
    /// ([`FileSystem::try_lock`]).
    ///
    /// # Errors
    ///
    /// Options out of bounds, another format version, or what the disk refused. Damage is not an
    /// error: see [`Recovery::corrupt`].
    pub fn open(
        fs: Arc<dyn FileSystem>,
        dir: impl Into<PathBuf>,
        options: JournalOptions,
    ) -> Result<(Journal, Recovery), JournalError> {
        options.validate()?;
        super::recovery::open(fs, dir.into(), options)
    }

    /// Reads entries, from this or another thread.
    pub fn reader(&self) -> JournalReader {
        JournalReader::new(Arc::clone(&self.shared))
    }

    /// Numbers for metrics and for whoever decides on checkpoints.
    pub fn stats(&self) -> JournalStats {
        let live_bytes = self.shared.read().space.live_bytes();
        JournalStats {
            segments: self.segments.count() as u64,
            disk_bytes: self.segments.disk_bytes(),
            live_bytes,
            oversized: self.oversized(live_bytes),
            full: self.segments.is_starved() || self.is_held(),
            ..self.stats
        }
    }

    /// Groups found damaged since the last call, and marked suspect.
    pub fn take_suspected(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.suspected)
    }

    /// Writes a round, in order, without syncing. A crash keeps all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`JournalError::EntryTooLarge`] leaves the journal as it was. [`JournalError::Full`] holds
    /// the round: it is taken and must not be handed in again, and [`Journal::sync`] goes on with
    /// it when there is space. Every other error stops the journal.
    ///
    /// # Panics
    ///
    /// If a group is not born, or born twice, if entries leave a gap or begin at or below the
    /// base, or if a state is longer than [`STATE_BYTES_MAX`]: the caller is broken.
    pub fn write(&mut self, writes: &[Write]) -> Result<(), JournalError> {
        self.check_running()?;
        self.check_sizes(writes)?;
        let result = self.write_round(writes);
        self.stop_on_error(result)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    ///
    /// [`JournalError::Full`] while there is no space for what is held: nothing is synced, and a
    /// later call tries again. Whatever else the disk refused stops the journal: nothing written
    /// since the last sync may be reported durable, now or after another try.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check_running()?;
        // A round is synced as a whole: half of one must never count as proven.
        let mut result = self.write_sealed();
        if !planted(Mutation::AcknowledgeBeforeSync) {
            result = result.and_then(|()| self.sync_and_free());
        }
        self.stop_on_error(result)
    }

    /// Proves the last batch with records by a synced marker, unless it is proven. For idle times
    /// and before closing. A full disk leaves it unproven.
    ///
    /// # Errors
    ///
    /// As [`Journal::sync`], but for [`JournalError::Full`].
    pub fn prove(&mut self) -> Result<(), JournalError> {
        self.check_running()?;
        let result = match self.write_marker() {
            Err(JournalError::Full { .. }) => Ok(()),
            result => result,
        };
        self.stop_on_error(result)
    }

    /// True if a round waits for space.
    pub fn is_held(&self) -> bool {
        !self.sealed.is_empty()
    }

    /// True if [`Journal::prove`] would write.
    pub fn is_unproven(&self) -> bool {
        self.chain.last_with_records > self.chain.said_synced_through
            || self.segments.awaits_announcement()
    }

    pub(super) fn check_running(&self) -> Result<(), JournalError> {
        match &self.stopped {
            None => Ok(()),
            Some(cause) => Err(JournalError::Stopped { cause: cause.clone() }),
        }
    }

    pub(super) fn stop_on_error<T>(
        &mut self,
        result: Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        match &result {
            Ok(_) | Err(JournalError::Full { .. }) => {}
            Err(error) => self.stopped = Some(error.to_string()),
        }
        result
    }

    /// Refuses what cannot be written before anything is.
    fn check_sizes(&self, writes: &[Write]) -> Result<(), JournalError> {
        let bytes_max = self.options.segment_bytes;
        for write in writes {
            let largest = match &write.change {
                Change::Append { entries, .. } => {
                    entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.payload.len()).max()
                }
                Change::Birth { meta } => Some(meta.len()),
                _ => None,
            };
            let bytes = largest.unwrap_or(0);
            // The last block of a segment is for a marker.
            if (batch_bytes(1, bytes) + BLOCK_BYTES) as u64 > bytes_max {
                return Err(JournalError::EntryTooLarge {
                    group: write.group,
                    bytes: bytes as u64,
                    bytes_max,
                });
            }
        }
        Ok(())
    }

    fn write_round(&mut self, writes: &[Write]) -> Result<(), JournalError> {
        for write in writes {
            self.stage_write(write);
        }
        self.flush()
    }

    fn stage_write(&mut self, write: &Write) {
        let group = write.group;
        match &write.change {
            Change::Append { state, entries } => {
                if let Some(state) = state {
                    assert!(state.len() <= STATE_BYTES_MAX, "state of {} bytes", state.len());
                    self.head(group);
                    self.stage_bytes(group, Kind::State, None, 0, 0, state);
                }
                self.stage_entries(group, entries);
            }
            Change::Birth { meta } => {
                let born = self.heads.insert(group, Head::default());
                assert!(born.is_none(), "group {group} is born twice");
                self.stage_bytes(group, Kind::Birth, None, 0, 0, meta);
            }
            Change::Death => {
                if self.heads.contains_key(&group) {
                    self.stage_bytes(group, Kind::Death, None, 0, 0, &[]);
                    self.heads.remove(&group);
                }
            }
            Change::Suspect => self.stage_suspect(group),
            Change::Compact { index, term } => {
                let head = self.head(group);
                if *index <= head.base.0 {
                    return;
                }
                let flags = if head.compact(*index, *term) { FLAG_RESET } else { 0 };
                self.stage_bytes(group, Kind::Base, None, *index, flags, &term.to_le_bytes());
            }
        }
    }

    fn stage_entries(&mut self, group: GroupId, mut entries: &[LogEntry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        let head = self.head(group);
        assert!(
            first > head.base.0 && first <= head.last + 1,
            "group {group}: entries from {first} on, but the log holds {} to {}",
            head.base.0 + 1,
            head.last
        );
        head.truncate(first);
        for entry in entries {
            assert_eq!(entry.index, head.last + 1, "group {group}: entries are not contiguous");
            head.push(entry.term);
        }
        // Small segments get small records, so that what is left of one is not wasted.
        let bytes_target = RECORD_BYTES_TARGET.min(self.options.segment_bytes as usize / 8);
        while !entries.is_empty() {
            let (record, rest) = entries.split_at(record_split(entries, bytes_target));
            let new = NewRecord {
                group,
                kind: Kind::Entries,
                flags: 0,
                previous: 0,
                order: None,
                first: record[0].index,
                count: record.len() as u16,
            };
            self.stage_record(new, entries_bytes(record), |body| encode_entries(record, body));
            entries = rest;
        }
    }

    /// Stages a suspect record, unless the group is suspect already.
    pub(super) fn stage_suspect(&mut self, group: GroupId) {
        let head = self.head(group);
        if !std::mem::replace(&mut head.suspect, true) {
            self.stage_bytes(group, Kind::Suspect, None, 0, 0, &[]);
        }
    }

    /// Stages a record other than entries. `order` is the original's for a copy.
    pub(super) fn stage_bytes(
        &mut self,
        group: GroupId,
        kind: Kind,
        order: Option<u64>,
        first: u64,
        flags: u8,
        payload: &[u8],
    ) {
        let new = NewRecord { group, kind, flags, previous: 0, order, first, count: 0 };
        self.stage_record(new, payload.len(), |body| body.extend_from_slice(payload));
    }

    /// Stages any record as the next of its group, after sealing the batch when it is full.
    pub(super) fn stage_record(
        &mut self,
        mut record: NewRecord,
        payload_bytes: usize,
        encode: impl FnOnce(&mut Body),
    ) {
        self.plan_for(payload_bytes);
        let sequence = self.chain.next_record;
        self.chain.next_record += 1;
        let head = self.heads.get_mut(&record.group).expect("the group is born");
        record.previous = std::mem::replace(&mut head.previous, sequence);
        self.stage.push(&record, sequence, encode);
    }

    fn head(&mut self, group: GroupId) -> &mut Head {
        self.heads.get_mut(&group).unwrap_or_else(|| panic!("group {group} is not born"))
    }
}
