//! Finds the batches in a segment's bytes, and says of each record whether it is as it was written.
//!
//! Knows nothing of other segments. Takes any bytes: damage, stale batches, zeros, garbage.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;

use super::super::batch::{
    DirectoryEntry, End, Found, HEADER_BYTES, Header, Kind, decode_directory,
};
use super::super::options::BLOCK_BYTES;
use super::super::record::{is_well_formed, term_starts};
use crate::fs::File;

/// A record as its directory describes it.
pub(super) struct ScannedRecord {
    pub entry: DirectoryEntry,
    /// The payload is what was written.
    pub intact: bool,
    /// The payload; empty for entries, whose bytes stay on disk, and for lost records.
    pub payload: Bytes,
    /// (index, term) of the first entry of each run of equal terms.
    pub terms: Terms,
}

/// Terms of a record's entries; nearly always one.
#[derive(Default)]
pub(super) struct Terms {
    first: Option<(u64, u64)>,
    later: Vec<(u64, u64)>,
}

impl Terms {
    fn new(starts: &[(u64, u64)]) -> Terms {
        Terms { first: starts.first().copied(), later: starts.iter().skip(1).copied().collect() }
    }

    /// All starts, ascending.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.first.iter().chain(&self.later).copied()
    }
}

/// A batch of which at least one end was found.
pub(super) struct ScannedBatch {
    pub header: Header,
    /// `None` when both directories are lost.
    pub records: Option<Vec<ScannedRecord>>,
    /// One of the two ends is damaged, but the other serves.
    pub end_damaged: bool,
}

impl ScannedBatch {
    /// True if every record is there and as it was written.
    pub(super) fn is_whole(&self) -> bool {
        self.records.as_ref().is_some_and(|records| records.iter().all(|record| record.intact))
    }
}

/// A segment's batches by offset.
pub(super) struct ScannedSegment {
    pub batches: Vec<ScannedBatch>,
    /// The batch at offset 0 has another format version.
    pub other_version: Option<u16>,
}

/// Reads a whole file. Blocks that the disk cannot read come back as zeros: they are damage like
/// any other, and harm whom they hit.
pub(super) fn read_whole(file: &dyn File) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut content = vec![0; length];
    match file.read_at(&mut content, 0) {
        Ok(count) => content.truncate(count),
        Err(error) => {
            tracing::error!(%error, "a journal segment cannot be read in one piece");
            for (at, block) in content.chunks_mut(BLOCK_BYTES).enumerate() {
                if file.read_at(block, (at * BLOCK_BYTES) as u64).is_err() {
                    block.fill(0);
                }
            }
        }
    }
    Ok(content)
}

/// Finds the batches in the content of segment `number`.
pub(super) fn scan(number: u64, content: &[u8]) -> ScannedSegment {
    let mut segment = ScannedSegment { batches: Vec::new(), other_version: None };
    let mut found: Vec<(Header, bool)> = Vec::new();
    let mut at = 0;
    // End of the last batch found: a footer must not reach back behind it.
    let mut free_from = 0;
    while at + BLOCK_BYTES <= content.len() {
        match Header::find(content, at, End::Head, number) {
            Found::Header(header) => {
                at += header.length as usize;
                free_from = at;
                found.push((header, true));
                continue;
            }
            Found::OtherVersion(version) if at == 0 => segment.other_version = Some(version),
            _ => {}
        }
        at += BLOCK_BYTES;
        let foot = at - HEADER_BYTES;
        if let Found::Header(header) = Header::find(content, foot, End::Foot, number)
            && header.offset as usize >= free_from
        {
            free_from = at;
            found.push((header, false));
        }
    }
    let nonce = boot_nonce(&found);
    segment.batches = found
        .into_iter()
        .filter(|(header, _)| Some(header.boot_nonce) == nonce)
        .map(|(header, has_head)| read_batch(header, has_head, content))
        .collect();
    segment
}

/// The nonce that all batches of a segment must carry: the first one's, else the most frequent.
///
/// Block-aligned user data could look like a batch, and a recycled file keeps such data; a header
/// found there must not be taken for the log's.
fn boot_nonce(found: &[(Header, bool)]) -> Option<u64> {
    if let Some((header, _)) = found.first()
        && header.offset == 0
    {
        return Some(header.boot_nonce);
    }
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for (header, _) in found {
        *counts.entry(header.boot_nonce).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(nonce, count)| (*count, *nonce)).map(|(nonce, _)| nonce)
}

fn read_batch(header: Header, has_head: bool, content: &[u8]) -> ScannedBatch {
    let start = header.offset as usize;
    let end = start + header.length as usize;
    let batch = &content[start..end];
    let head = decode_directory(&header, batch, End::Head);
    let foot = decode_directory(&header, batch, End::Foot);
    let has_foot = Header::find(content, end - HEADER_BYTES, End::Foot, header.segment)
        == Found::Header(header);
    let end_damaged = !has_head || !has_foot || head.is_none() || foot.is_none();
    let records = head.or(foot).map(|directory| {
        directory.into_iter().map(|entry| read_record(&header, entry, batch)).collect()
    });
    ScannedBatch { header, records, end_damaged }
}

fn read_record(header: &Header, entry: DirectoryEntry, batch: &[u8]) -> ScannedRecord {
    let start = header.body_start() + entry.offset as usize;
    let payload = &batch[start..start + entry.length as usize];
    let is_entries = entry.kind == Kind::Entries;
    let intact = crc32c::crc32c(payload) == entry.crc
        && match entry.kind {
            Kind::Entries => is_well_formed(payload, entry.count),
            Kind::Base => payload.len() == 8,
            _ => true,
        };
    let terms = if intact && is_entries {
        Terms::new(&term_starts(payload, entry.count, entry.first))
    } else {
        Terms::default()
    };
    let payload =
        if intact && !is_entries { Bytes::copy_from_slice(payload) } else { Bytes::new() };
    ScannedRecord { entry, intact, payload, terms }
}
