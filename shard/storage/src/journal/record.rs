//! Payloads of entry records: a table of terms and lengths, then the bytes.

use bytes::Bytes;

use super::LogEntry;
use super::batch::{u32_at, u64_at};
use super::body::Body;

/// Bytes of the table per entry.
pub(super) const ENTRY_HEADER_BYTES: usize = 12;
/// Entries are gathered into a record up to this size: what reading one entry reads at most,
/// unless the entry itself is larger.
pub(super) const RECORD_BYTES_TARGET: usize = 256 * 1024;
/// Entries of a record at most: the count has 16 bits.
pub(super) const RECORD_ENTRIES_MAX: usize = 4096;

/// How many of `entries` go into the next record; at least one, even if it exceeds `bytes_target`.
pub(super) fn record_split(entries: &[LogEntry], bytes_target: usize) -> usize {
    let mut bytes = 0;
    for (count, entry) in entries.iter().enumerate().take(RECORD_ENTRIES_MAX) {
        bytes += ENTRY_HEADER_BYTES + entry.payload.len();
        if bytes > bytes_target && count > 0 {
            return count;
        }
    }
    entries.len().min(RECORD_ENTRIES_MAX)
}

/// Bytes of the payload of a record with these entries.
pub(super) fn entries_bytes(entries: &[LogEntry]) -> usize {
    entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.payload.len()).sum()
}

/// Appends the payload of a record with these entries.
pub(super) fn encode_entries(entries: &[LogEntry], body: &mut Body) {
    for entry in entries {
        let mut header = [0u8; ENTRY_HEADER_BYTES];
        header[..8].copy_from_slice(&entry.term.to_le_bytes());
        let length = u32::try_from(entry.payload.len()).expect("entries fit a segment");
        header[8..].copy_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&header);
    }
    for entry in entries {
        body.share(&entry.payload);
    }
}

/// True if the table fits the payload exactly; what the decoders below need.
pub(super) fn is_well_formed(payload: &[u8], count: u16) -> bool {
    let count = usize::from(count);
    let table = count * ENTRY_HEADER_BYTES;
    if payload.len() < table {
        return false;
    }
    let bytes: u64 =
        (0..count).map(|i| u64::from(u32_at(payload, i * ENTRY_HEADER_BYTES + 8))).sum();
    bytes == (payload.len() - table) as u64
}

/// Decodes the entries of a well-formed payload whose first has index `first`. The entries share
/// the payload's memory.
pub(super) fn decode_entries(
    payload: &Bytes,
    count: u16,
    first: u64,
) -> impl Iterator<Item = LogEntry> + '_ {
    let mut at = usize::from(count) * ENTRY_HEADER_BYTES;
    (0..usize::from(count)).map(move |i| {
        let header = i * ENTRY_HEADER_BYTES;
        let length = u32_at(payload, header + 8) as usize;
        let bytes = payload.slice(at..at + length);
        at += length;
        LogEntry { index: first + i as u64, term: u64_at(payload, header), payload: bytes }
    })
}

/// (index, term) of the first entry of each run of equal terms in a well-formed payload.
pub(super) fn term_starts(payload: &[u8], count: u16, first: u64) -> Vec<(u64, u64)> {
    let mut starts: Vec<(u64, u64)> = Vec::new();
    for i in 0..usize::from(count) {
        let term = u64_at(payload, i * ENTRY_HEADER_BYTES);
        if starts.last().is_none_or(|(_, last)| *last != term) {
            starts.push((first + i as u64, term));
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64, bytes: usize) -> LogEntry {
        LogEntry { index, term, payload: Bytes::from(vec![index as u8; bytes]) }
    }

    #[test]
    fn entries_come_back_as_they_went_in() {
        let entries = vec![entry(5, 1, 0), entry(6, 1, 300), entry(7, 4, 1)];
        let mut body = Body::default();
        encode_entries(&entries, &mut body);
        let body: Vec<u8> = body.pieces().flat_map(|(piece, _)| piece.to_vec()).collect();
        assert_eq!(body.len(), entries_bytes(&entries));
        assert!(is_well_formed(&body, 3));
        assert_eq!(term_starts(&body, 3, 5), vec![(5, 1), (7, 4)]);
        let payload = Bytes::from(body);
        assert_eq!(decode_entries(&payload, 3, 5).collect::<Vec<_>>(), entries);
        assert!(!is_well_formed(&payload[..payload.len() - 1], 3));
        assert!(!is_well_formed(&payload, 4));
        assert!(!is_well_formed(&[], 1));
    }

    #[test]
    fn records_are_bounded_but_an_entry_is_never_split() {
        let small: Vec<_> = (1..=10_000).map(|index| entry(index, 1, 8)).collect();
        let split = |entries| record_split(entries, RECORD_BYTES_TARGET);
        assert_eq!(split(&small), RECORD_ENTRIES_MAX);
        let large = vec![entry(1, 1, 10), entry(2, 1, 1 << 20), entry(3, 1, 10)];
        assert_eq!(split(&large), 1);
        assert_eq!(split(&large[1..]), 1);
        assert_eq!(split(&large[2..]), 1);
    }
}
