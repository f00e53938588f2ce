//! Opening: scan, select, replay, and making sure of what was found before anybody relies on it.
//!
//! * `scan` finds batches in the bytes of one segment.
//! * `select` decides which of them are the log: boots, beginning, corruption, torn tail.
//! * `inspect` does all that for people, and writes nothing.
//! * `replay` turns a group's records into the group.
//! * This file feeds them and then writes: kept batches that were never proven synced once more,
//!   and the first batch of this boot, which voids whatever was cut.
//!
//! Damage is never an error here, and no bytes may make recovery panic.

mod inspect;
mod replay;
mod scan;
mod select;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

pub use self::inspect::{
    InspectedBatch, InspectedGroup, InspectedSegment, Inspection, Place, PlaceKind, inspect,
};
use self::replay::{PlacedRecord, fill_terms, replay};
use self::scan::{ScannedBatch, ScannedSegment, read_whole, scan};
use self::select::{Gap, Selected, select};
use super::batch::{HEADER_BYTES, Header, VERSION};
use super::commit::Plan;
use super::core::{Chain, JournalStats};
use super::head::Head;
use super::index::{Location, Shared};
use super::reserve::Reserve;
use super::segments::{Segment, Segments, segment_name, segment_number};
use super::stage::Stage;
use super::{Journal, JournalError, JournalOptions};
use crate::GroupId;
use crate::fs::{File, FileSystem, read_exact_at};

/// What opening a journal found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Groups that live.
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    /// Bytes of the torn tail that was cut: written, but never reported durable.
    pub torn_bytes: u64,
    /// Damage below what was proven synced, in the order of the log.
    pub corrupt: Vec<Corruption>,
}

/// One group, as its records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// What `Birth` carried; empty when it was lost, and then the group is suspect.
    pub birth: Bytes,
    /// Latest state; `None` if none was written, or it was lost and the group is suspect.
    pub state: Option<Bytes>,
    /// Index and term up to which the log was compacted; (0, 0) = not at all.
    pub base: (u64, u64),
    /// Last entry's index; the base's when there is no entry.
    pub last_index: u64,
    /// (index, term) of the first entry of each run of equal terms above the base.
    pub term_starts: Vec<(u64, u64)>,
    /// Bytes of the entries above the base.
    pub log_bytes: u64,
    /// The group lost content, now or earlier: it may not vote or acknowledge.
    pub suspect: bool,
}

/// A piece of the log that was durable and is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// Number of the segment; `None` when the batch cannot be found anywhere.
    pub segment: Option<u64>,
    /// Sequence of the first batch that is hit.
    pub batch: u64,
    /// Whose record, when a directory of the batch survived.
    pub group: Option<GroupId>,
    /// True if something was lost that was still needed, or that nothing is known of. False for
    /// what had a second copy or was superseded.
    pub harmful: bool,
}

/// Opens the journal in `dir`.
pub(super) fn open(
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    options: JournalOptions,
) -> Result<(Journal, Recovery), JournalError> {
    fs.create_dir_all(&dir).map_err(|error| JournalError::io("creation", &dir, &error))?;
    let (files, scanned) = scan_all(fs.as_ref(), &dir)?;
    let first_number = files.keys().last().map_or(1, |number| number + 1);
    let mut selected = select(scanned);
    rewrite_unproven(&dir, &files, &selected)?;

    let mut recovery = Recovery { torn_bytes: selected.torn_bytes, ..Recovery::default() };
    let sealed = sealed_segments(&files, &selected);
    let mut shared = Shared {
        files: sealed.iter().map(|segment| (segment.number, segment.file.clone())).collect(),
        ..Shared::default()
    };
    let mut heads = HashMap::new();
    let suspects = replay_all(&mut selected, &mut shared, &mut heads, &mut recovery);

    let reserve_bytes = u64::from(options.reserve_segments) * options.segment_bytes;
    let reserve = Reserve::find(fs.as_ref(), &dir, reserve_bytes)?;
    let segments = Segments::start(
        Arc::clone(&fs),
        &dir,
        &options,
        sealed.clone().into(),
        first_number,
        reserve,
    )?;
    shared.files.insert(segments.active().number, segments.active().file.clone());
    let chain = Chain {
        boot_nonce: options.boot_nonce.unwrap_or_else(random_nonce),
        boot_first: selected.next_batch,
        boot_previous: selected.last_batch,
        last_batch: selected.next_batch - 1,
        last_crc: selected.last_crc,
        next_record: selected.next_record,
        synced_through: selected.last_batch,
        said_synced_through: selected.last_batch,
        said_oldest_segment: 0,
        last_with_records: 0,
    };
    let stats =
        JournalStats { corrupt_records: recovery.corrupt.len() as u64, ..JournalStats::default() };
    let mut journal = Journal {
        options,
        segments,
        shared: Arc::new(RwLock::new(shared)),
        heads,
        stage: Stage::default(),
        plan: Plan::default(),
        sealed: VecDeque::new(),
        spare_stage: Stage::default(),
        chain,
        rewrite: None,
        stats,
        suspected: Vec::new(),
        stopped: None,
    };
    for group in suspects {
        journal.stage_suspect(group);
    }
    journal.write_boot_batch()?;
    // Only now: a deleted segment may have held the proof of what was synced.
    for number in files.keys() {
        if !sealed.iter().any(|segment| segment.number == *number) {
            let path = dir.join(segment_name(*number));
            fs.remove(&path).map_err(|error| JournalError::io("deletion", path, &error))?;
        }
    }
    Ok((journal, recovery))
}

type Files = BTreeMap<u64, Arc<dyn File>>;

fn scan_all(fs: &dyn FileSystem, dir: &Path) -> Result<(Files, Vec<ScannedSegment>), JournalError> {
    let names = fs.list(dir).map_err(|error| JournalError::io("listing", dir, &error))?;
    let mut files = Files::new();
    let mut scanned = Vec::new();
    for number in names.iter().filter_map(|name| segment_number(name)) {
        let path = dir.join(segment_name(number));
        let file = fs.open(&path).map_err(|error| JournalError::io("opening", &path, &error))?;
        let content = read_whole(file.as_ref())
            .map_err(|error| JournalError::io("reading", &path, &error))?;
        let segment = scan(number, &content);
        if let Some(found) = segment.other_version {
            return Err(JournalError::Version { path, found, supported: VERSION });
        }
        files.insert(number, file);
        scanned.push(segment);
    }
    Ok((files, scanned))
}

/// Writes kept batches that nothing proves synced once more, and syncs them: after `kill -9` they
/// may have been read from pages that never reached the disk, and a sync alone does nothing for
/// pages that the kernel gave up on.
fn rewrite_unproven(dir: &Path, files: &Files, selected: &Selected) -> Result<(), JournalError> {
    let mut touched: BTreeMap<u64, Arc<dyn File>> = BTreeMap::new();
    for batch in &selected.kept {
        let header = &batch.header;
        if header.sequence <= selected.synced_through {
            continue;
        }
        let Some(file) = files.get(&header.segment) else {
            continue;
        };
        let failed = |operation, error: &std::io::Error| {
            JournalError::io(operation, dir.join(segment_name(header.segment)), error)
        };
        let mut bytes = vec![0; header.length as usize];
        let offset = u64::from(header.offset);
        read_exact_at(file.as_ref(), &mut bytes, offset)
            .map_err(|error| failed("reading", &error))?;
        repair_ends(batch, &mut bytes);
        file.write_all_at(&bytes, offset).map_err(|error| failed("write", &error))?;
        touched.insert(header.segment, Arc::clone(file));
    }
    for (number, file) in touched {
        file.sync_data()
            .map_err(|error| JournalError::io("sync", dir.join(segment_name(number)), &error))?;
    }
    Ok(())
}

/// Writes both ends of a whole batch anew, in case one is damaged.
fn repair_ends(batch: &ScannedBatch, bytes: &mut [u8]) {
    let mut header: Header = batch.header;
    let mut directory = Vec::with_capacity(header.directory_bytes());
    for record in batch.records.iter().flatten() {
        record.entry.encode(&mut directory);
    }
    bytes[HEADER_BYTES..header.body_start()].copy_from_slice(&directory);
    let foot = header.body_end();
    bytes[foot..foot + directory.len()].copy_from_slice(&directory);
    header.encode(bytes);
    debug_assert_eq!(header.crc, batch.header.crc);
}

/// Segments that hold batches of the log.
fn sealed_segments(files: &Files, selected: &Selected) -> Vec<Segment> {
    let mut sealed: VecDeque<Segment> = VecDeque::new();
    for header in selected.kept.iter().map(|batch| &batch.header) {
        // Nearly always the one before; only forged numbers lead back to an earlier one.
        if sealed.iter().rev().any(|segment| segment.number == header.segment) {
            continue;
        }
        if let Some(file) = files.get(&header.segment) {
            sealed.push_back(Segment {
                number: header.segment,
                file: Arc::clone(file),
                bytes: file.len().unwrap_or(0),
                first_batch: header.sequence,
                first_record: header.first_record,
            });
        }
    }
    sealed.into()
}

/// Replays all groups. Returns those that are newly suspect, ascending.
fn replay_all(
    selected: &mut Selected,
    shared: &mut Shared,
    heads: &mut HashMap<GroupId, Head>,
    recovery: &mut Recovery,
) -> Vec<GroupId> {
    let mut lost: BTreeMap<u64, Corruption> = BTreeMap::new();
    let groups = records_by_group(selected, &mut lost, recovery);
    let mut suspects = Vec::new();
    for (group, records) in groups {
        let replayed = replay(&records, &selected.gaps, selected.oldest_record, &mut shared.space);
        let Some(mut replayed) = replayed else {
            continue;
        };
        fill_terms(&mut replayed, &records);
        for sequence in &replayed.missed {
            if let Some(corruption) = lost.get_mut(sequence) {
                corruption.harmful = true;
            }
        }
        if replayed.newly_suspect {
            tracing::error!(%group, "journal content of the group is lost; it is suspect now");
            suspects.push(group);
        }
        // Staging the suspect record sets the flag.
        replayed.head.suspect &= !replayed.newly_suspect;
        recovery.groups.insert(group, replayed.recovered);
        heads.insert(group, replayed.head);
        shared.groups.insert(group, replayed.log);
    }
    recovery.corrupt.extend(lost.into_values());
    recovery.corrupt.extend(selected.gaps.iter().map(|gap: &Gap| Corruption {
        segment: gap.segment,
        batch: gap.batch,
        group: None,
        harmful: gap.from < gap.to,
    }));
    recovery.corrupt.sort_by_key(|corruption| (corruption.batch, corruption.group));
    suspects
}

/// Sorts the records of the log by group, and notes the lost ones by sequence.
fn records_by_group(
    selected: &mut Selected,
    lost: &mut BTreeMap<u64, Corruption>,
    recovery: &mut Recovery,
) -> BTreeMap<GroupId, Vec<PlacedRecord>> {
    let mut groups: BTreeMap<GroupId, Vec<PlacedRecord>> = BTreeMap::new();
    for ScannedBatch { header, records, end_damaged } in selected.kept.drain(..) {
        let corruption = |group, harmful| Corruption {
            segment: Some(header.segment),
            batch: header.sequence,
            group,
            harmful,
        };
        if end_damaged && records.is_some() && header.sequence <= selected.synced_through {
            recovery.corrupt.push(corruption(None, false));
        }
        let body_start = header.offset + header.body_start() as u32;
        for (record, sequence) in records.into_iter().flatten().zip(header.first_record..) {
            let entry = &record.entry;
            if !record.intact {
                lost.insert(sequence, corruption(Some(entry.group), false));
            }
            let location = Location {
                segment: header.segment,
                offset: body_start + entry.offset,
                length: entry.length,
                crc: entry.crc,
            };
            groups.entry(entry.group).or_default().push(PlacedRecord {
                sequence,
                location,
                record,
            });
        }
    }
    groups
}

/// A number that no other boot has.
fn random_nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}
