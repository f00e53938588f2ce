//! Reads entries back, from any thread, without stopping the writer.
//!
//! A reader looks positions up under a short shared lock and reads without it. Meanwhile the
//! record may have been rewritten forward and its segment recycled: then the bytes do not match
//! their CRC, and the reader looks again. Only when the same position fails is it damage.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use super::index::{Location, Run, Shared};
use super::record::{decode_entries, is_well_formed};
use super::{LogEntry, ReadError};
use crate::GroupId;
use crate::fs::File;

/// Reads the journal's entries. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct JournalReader {
    shared: Arc<RwLock<Shared>>,
}

/// Why a payload could not be had.
pub(super) enum PayloadError {
    /// The bytes are not those that were written, or the segment is gone.
    Mismatch,
    /// The disk refused.
    Io(std::io::Error),
}

/// Reads and checks a payload.
pub(super) fn read_payload(
    file: Option<&Arc<dyn File>>,
    location: &Location,
) -> Result<Bytes, PayloadError> {
    let Some(file) = file else {
        return Err(PayloadError::Mismatch);
    };
    let mut buffer = vec![0; location.length as usize];
    let count = file.read_at(&mut buffer, u64::from(location.offset)).map_err(PayloadError::Io)?;
    if count < buffer.len() || crc32c::crc32c(&buffer) != location.crc {
        return Err(PayloadError::Mismatch);
    }
    Ok(Bytes::from(buffer))
}

impl JournalReader {
    pub(super) fn new(shared: Arc<RwLock<Shared>>) -> JournalReader {
        JournalReader { shared }
    }

    /// Reads entries of `group` from index `from` up to and including `to_inclusive`, or the last
    /// one if that comes first.
    ///
    /// Returns at least one entry, and stops before the payloads exceed `bytes_max`. Entries may
    /// not be durable yet. Payloads share memory: keeping one keeps its whole record (about
    /// 256 KiB).
    ///
    /// # Errors
    ///
    /// See [`ReadError`]. Entries in front of damaged ones are returned; only a read that begins
    /// at a damaged one fails.
    pub fn read(
        &self,
        group: GroupId,
        from: u64,
        to_inclusive: u64,
        bytes_max: u64,
    ) -> Result<Vec<LogEntry>, ReadError> {
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        let mut next = from;
        // The position that failed last: failing there again is damage, elsewhere a race.
        let mut failed: Option<Location> = None;
        while next <= to_inclusive {
            let (run, file) = match self.locate(group, next) {
                Ok(found) => found,
                Err(_) if !entries.is_empty() => break,
                Err(error) => return Err(error),
            };
            let payload = if run.lost {
                Err(PayloadError::Mismatch)
            } else {
                read_payload(file.as_ref(), &run.location)
            };
            let payload = match payload {
                Ok(payload) if is_well_formed(&payload, run.record_count) => payload,
                _ if !entries.is_empty() => break,
                Err(PayloadError::Io(error)) if failed == Some(run.location) => {
                    return Err(ReadError::Io {
                        group,
                        segment: run.location.segment,
                        message: error.to_string(),
                    });
                }
                _ if run.lost || failed == Some(run.location) => {
                    let segment = run.location.segment;
                    return Err(ReadError::Corrupt { group, index: next, segment });
                }
                _ => {
                    failed = Some(run.location);
                    continue;
                }
            };
            let wanted = next..=run.last.min(to_inclusive);
            for entry in decode_entries(&payload, run.record_count, run.record_first) {
                if !wanted.contains(&entry.index) {
                    continue;
                }
                bytes += entry.payload.len() as u64;
                if bytes > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry);
            }
            next = run.last + 1;
        }
        Ok(entries)
    }

    /// The run that holds `index`, and its file.
    fn locate(
        &self,
        group: GroupId,
        index: u64,
    ) -> Result<(Run, Option<Arc<dyn File>>), ReadError> {
        let shared = self.shared.read();
        let log = shared.groups.get(&group).ok_or(ReadError::UnknownGroup { group })?;
        if index <= log.base() {
            return Err(ReadError::Compacted { group, index, base: log.base() });
        }
        let runs = log.runs();
        let at = runs.partition_point(|run| run.last < index);
        match runs.get(at) {
            Some(run) if run.first <= index => {
                Ok((*run, shared.files.get(&run.location.segment).cloned()))
            }
            _ => Err(ReadError::OutOfRange { group, index, last: log.last() }),
        }
    }
}
