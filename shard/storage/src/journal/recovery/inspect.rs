//! Looks at a journal without touching it: what recovery would find, and where the damage lies.
//!
//! Reads files that nobody else has open for writing, opens them for reading only, and neither cuts
//! nor repairs anything.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

use super::super::index::{Shared, Slot};
use super::super::segments::segment_number;
use super::scan::scan;
use super::select::select;
use super::{Corruption, RecoveredGroup, Recovery, replay_all};
use crate::GroupId;

/// What lies in a journal's directory.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    /// Segment files, oldest first.
    pub segments: Vec<InspectedSegment>,
    /// Groups that live, by number.
    pub groups: BTreeMap<GroupId, InspectedGroup>,
    /// Torn and corrupt places, in the order of the log.
    pub places: Vec<Place>,
    /// Highest batch that is proven to have been synced.
    pub synced_through: u64,
    /// Last batch that counts.
    pub last_batch: u64,
}

impl Inspection {
    /// True if something that was durable is lost or a group is suspect. A torn tail is none: every
    /// crash may leave one, and nothing in it was ever acknowledged.
    pub fn is_damaged(&self) -> bool {
        self.places.iter().any(|place| place.kind == PlaceKind::Corrupt)
            || self.segments.iter().any(|segment| segment.other_version.is_some())
            || self.groups.values().any(|group| group.recovered.suspect)
    }
}

/// A segment file.
#[derive(Clone, Debug, Default)]
pub struct InspectedSegment {
    /// Its number.
    pub number: u64,
    /// Length of the file.
    pub bytes: u64,
    /// The batches in it, in order.
    pub batches: Vec<InspectedBatch>,
    /// It was written in another version of the format, and is not looked into.
    pub other_version: Option<u16>,
}

/// A batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectedBatch {
    /// Its sequence.
    pub sequence: u64,
    /// Where it begins in its segment.
    pub offset: u64,
    /// Its bytes, padding included.
    pub bytes: u64,
    /// Records in it; 0 = a marker.
    pub records: u64,
    /// Everything in it is as it was written.
    pub is_whole: bool,
}

/// A group.
#[derive(Clone, Debug, Default)]
pub struct InspectedGroup {
    /// What recovery would say of it.
    pub recovered: RecoveredGroup,
    /// Bytes of its records that are still needed.
    pub live_bytes: u64,
}

/// What is wrong at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKind {
    /// Written, but never reported durable: recovery cuts it.
    Torn,
    /// Durable once, and damaged.
    Corrupt,
}

/// A place in the log that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What is wrong.
    pub kind: PlaceKind,
    /// Sequence of the batch.
    pub batch: u64,
    /// Segment and offset of the batch, if any trace of it is left.
    pub at: Option<(u64, u64)>,
    /// Whose record, if the batch still says.
    pub group: Option<GroupId>,
    /// Something was lost that is still needed.
    pub is_harmful: bool,
}

/// Inspects the journal in `dir`, of which nobody may be writing.
///
/// # Errors
///
/// When the directory or a file cannot be read. Damage is not an error.
pub fn inspect(dir: &Path) -> io::Result<Inspection> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(number) = entry.file_name().to_str().and_then(segment_number) {
            files.insert(number, entry.path());
        }
    }
    let mut inspection = Inspection::default();
    let mut scanned = Vec::new();
    let mut offsets = HashMap::new();
    for (number, path) in files {
        let content = fs::read(&path)?;
        let segment = scan(number, &content);
        let batches = segment.batches.iter().map(|batch| {
            let header = &batch.header;
            offsets.entry(header.sequence).or_insert((number, u64::from(header.offset)));
            InspectedBatch {
                sequence: header.sequence,
                offset: u64::from(header.offset),
                bytes: u64::from(header.length),
                records: u64::from(header.record_count),
                is_whole: batch.is_whole() && !batch.end_damaged,
            }
        });
        inspection.segments.push(InspectedSegment {
            number,
            bytes: content.len() as u64,
            batches: batches.collect(),
            other_version: segment.other_version,
        });
        scanned.push(segment);
    }

    let mut selected = select(scanned);
    (inspection.synced_through, inspection.last_batch) =
        (selected.synced_through, selected.last_batch);
    let (mut shared, mut heads) = (Shared::default(), HashMap::new());
    let mut recovery = Recovery::default();
    replay_all(&mut selected, &mut shared, &mut heads, &mut recovery);
    for (group, recovered) in recovery.groups {
        let log = shared.groups.get(&group);
        let singles = Slot::ALL.iter().filter_map(|slot| log?.slot(*slot));
        let live_bytes =
            recovered.log_bytes + singles.map(|item| u64::from(item.location.length)).sum::<u64>();
        inspection.groups.insert(group, InspectedGroup { recovered, live_bytes });
    }
    let corrupt = recovery.corrupt.iter().map(|corruption: &Corruption| Place {
        kind: PlaceKind::Corrupt,
        batch: corruption.batch,
        at: offsets.get(&corruption.batch).copied(),
        group: corruption.group,
        is_harmful: corruption.harmful,
    });
    inspection.places.extend(corrupt);
    let mut torn: Vec<Place> = offsets
        .iter()
        .filter(|(sequence, _)| **sequence > selected.last_batch)
        .map(|(sequence, at)| Place {
            kind: PlaceKind::Torn,
            batch: *sequence,
            at: Some(*at),
            group: None,
            is_harmful: false,
        })
        .collect();
    torn.sort_by_key(|place| place.batch);
    inspection.places.extend(torn);
    Ok(inspection)
}
