//! Bytes of a batch: header, directory, footer. `docs/journal-format.md` is the specification.
//!
//! Pure functions over byte slices. Decoding takes bytes from a disk that may be damaged or
//! hostile: it checks everything and never panics.

use flotilla_mutation::{Mutation, planted};

use super::options::BLOCK_BYTES;
use crate::GroupId;

/// Format version that is written, and the only one that is read.
pub(super) const VERSION: u16 = 1;
/// Bytes of a header, and of a footer.
pub(super) const HEADER_BYTES: usize = 128;
/// Bytes of a directory entry.
pub(super) const DIRECTORY_ENTRY_BYTES: usize = 48;
/// The round goes on in the next batch.
pub(super) const FLAG_CONTINUES: u16 = 1;
/// A base that drops every entry of lower order.
pub(super) const FLAG_RESET: u8 = 1;

/// First bytes of a header.
const HEADER_MAGIC: &[u8; 8] = b"FLTJRNLH";
/// First bytes of a footer.
const FOOTER_MAGIC: &[u8; 8] = b"FLTJRNLF";
/// Sequences stay below this, so that sums never overflow.
const SEQUENCE_MAX: u64 = 1 << 62;

/// Which of the two copies of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the first byte of the batch.
    Head,
    /// In the last 128 bytes of the batch.
    Foot,
}

impl End {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            End::Head => HEADER_MAGIC,
            End::Foot => FOOTER_MAGIC,
        }
    }
}

/// Everything a header says. Field meanings are in the format's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    /// CRC of the encoded header: what the next batch names as `previous_crc`.
    pub crc: u32,
    pub flags: u16,
    pub sequence: u64,
    pub segment: u64,
    pub offset: u32,
    pub length: u32,
    pub boot_nonce: u64,
    pub boot_first: u64,
    pub boot_previous: u64,
    pub synced_through: u64,
    pub oldest_segment: u64,
    pub oldest_batch: u64,
    pub oldest_record: u64,
    pub first_record: u64,
    pub record_count: u32,
    pub directory_crc: u32,
    pub previous_crc: u32,
}

/// What looking for a header at some place gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, garbage, or a batch that belongs elsewhere.
    Nothing,
    /// A valid header.
    Header(Header),
    /// An undamaged header of another format version.
    OtherVersion(u16),
}

impl Header {
    /// True if the round goes on in the next batch.
    pub(super) fn continues(&self) -> bool {
        self.flags & FLAG_CONTINUES != 0
    }

    /// Sequence of the first record behind this batch.
    pub(super) fn next_record(&self) -> u64 {
        self.first_record + u64::from(self.record_count)
    }

    /// Bytes of one copy of the directory.
    pub(super) fn directory_bytes(&self) -> usize {
        self.record_count as usize * DIRECTORY_ENTRY_BYTES
    }

    /// Where the payloads begin, from the start of the batch.
    pub(super) fn body_start(&self) -> usize {
        HEADER_BYTES + self.directory_bytes()
    }

    /// Where the second directory begins, from the start of the batch.
    pub(super) fn body_end(&self) -> usize {
        self.length as usize - HEADER_BYTES - self.directory_bytes()
    }

    /// Encodes both copies into the two ends of a batch, and sets `self.crc`. Sizes and the
    /// directory's CRC are in place.
    pub(super) fn encode(&mut self, batch: &mut [u8]) {
        let mut bytes = [0u8; HEADER_BYTES];
        bytes[12..14].copy_from_slice(&VERSION.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.flags.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.segment.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.offset.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.length.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.boot_nonce.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.boot_first.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.boot_previous.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.synced_through.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.oldest_segment.to_le_bytes());
        bytes[80..88].copy_from_slice(&self.oldest_batch.to_le_bytes());
        bytes[88..96].copy_from_slice(&self.oldest_record.to_le_bytes());
        bytes[96..104].copy_from_slice(&self.first_record.to_le_bytes());
        bytes[104..108].copy_from_slice(&self.record_count.to_le_bytes());
        bytes[108..112].copy_from_slice(&self.directory_crc.to_le_bytes());
        bytes[112..116].copy_from_slice(&self.previous_crc.to_le_bytes());
        self.crc = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&self.crc.to_le_bytes());
        bytes[..8].copy_from_slice(HEADER_MAGIC);
        batch[..HEADER_BYTES].copy_from_slice(&bytes);
        bytes[..8].copy_from_slice(FOOTER_MAGIC);
        let foot = batch.len() - HEADER_BYTES;
        batch[foot..].copy_from_slice(&bytes);
    }

    /// Looks for one copy of a header of a batch in segment number `segment`, whose whole content
    /// is `content`. `at` is where the 128 bytes begin.
    pub(super) fn find(content: &[u8], at: usize, end: End, segment: u64) -> Found {
        let Some(bytes) = content.get(at..at + HEADER_BYTES) else {
            return Found::Nothing;
        };
        if &bytes[..8] != end.magic() || u32_at(bytes, 8) != crc32c::crc32c(&bytes[12..]) {
            return Found::Nothing;
        }
        let version = u16_at(bytes, 12);
        if version != VERSION {
            return Found::OtherVersion(version);
        }
        let header = Header {
            crc: u32_at(bytes, 8),
            flags: u16_at(bytes, 14),
            sequence: u64_at(bytes, 16),
            segment: u64_at(bytes, 24),
            offset: u32_at(bytes, 32),
            length: u32_at(bytes, 36),
            boot_nonce: u64_at(bytes, 40),
            boot_first: u64_at(bytes, 48),
            boot_previous: u64_at(bytes, 56),
            synced_through: u64_at(bytes, 64),
            oldest_segment: u64_at(bytes, 72),
            oldest_batch: u64_at(bytes, 80),
            oldest_record: u64_at(bytes, 88),
            first_record: u64_at(bytes, 96),
            record_count: u32_at(bytes, 104),
            directory_crc: u32_at(bytes, 108),
            previous_crc: u32_at(bytes, 112),
        };
        let start = match end {
            End::Head => at,
            End::Foot => (at + HEADER_BYTES).wrapping_sub(header.length as usize),
        };
        if header.is_consistent()
            && bytes[116..].iter().all(|byte| *byte == 0)
            && (header.segment == segment || planted(Mutation::ParseRecycledBytes))
            && header.offset as usize == start
            && start + header.length as usize <= content.len()
        {
            Found::Header(header)
        } else {
            Found::Nothing
        }
    }

    /// The rules that hold for every header ever written, whatever its place.
    fn is_consistent(&self) -> bool {
        let block = BLOCK_BYTES as u64;
        let directories = 2 * u64::from(self.record_count) * DIRECTORY_ENTRY_BYTES as u64;
        self.flags & !FLAG_CONTINUES == 0
            && self.length > 0
            && u64::from(self.length).is_multiple_of(block)
            && u64::from(self.offset).is_multiple_of(block)
            && directories + 2 * HEADER_BYTES as u64 <= u64::from(self.length)
            && self.boot_previous < self.boot_first
            && self.boot_first <= self.sequence
            && self.boot_previous <= self.synced_through
            && self.synced_through < self.sequence
            && self.sequence < SEQUENCE_MAX
            && (1..SEQUENCE_MAX).contains(&self.first_record)
            && self.oldest_segment <= self.segment
            && self.oldest_batch <= self.sequence
            && self.oldest_record <= self.first_record
    }
}

/// Whole bytes of a batch with `records` records and `body` payload bytes.
pub(super) fn batch_bytes(records: usize, body: usize) -> usize {
    (2 * HEADER_BYTES + 2 * records * DIRECTORY_ENTRY_BYTES + body).next_multiple_of(BLOCK_BYTES)
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The group begins.
    Birth = 1,
    /// The group ends.
    Death = 2,
    /// The group's state.
    State = 3,
    /// Entries of the log.
    Entries = 4,
    /// Entries up to an index are no longer needed.
    Base = 5,
    /// The group lost content.
    Suspect = 6,
}

impl Kind {
    fn decode(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Birth,
            2 => Kind::Death,
            3 => Kind::State,
            4 => Kind::Entries,
            5 => Kind::Base,
            6 => Kind::Suspect,
            _ => return None,
        })
    }
}

/// A record's header, kept in both directories of its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryEntry {
    pub group: GroupId,
    pub previous: u64,
    pub order: u64,
    pub first: u64,
    /// From the first byte behind the directory.
    pub offset: u32,
    pub length: u32,
    pub crc: u32,
    pub count: u16,
    pub kind: Kind,
    pub flags: u8,
}

impl DirectoryEntry {
    /// Appends the encoded entry to `directory`.
    pub(super) fn encode(&self, directory: &mut Vec<u8>) {
        let mut bytes = [0u8; DIRECTORY_ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.previous.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.order.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.offset.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.length.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.crc.to_le_bytes());
        bytes[44..46].copy_from_slice(&self.count.to_le_bytes());
        bytes[46] = self.kind as u8;
        bytes[47] = self.flags;
        directory.extend_from_slice(&bytes);
    }

    /// Decodes the entry of the record with `sequence`; `None` when it says what no writer writes.
    fn decode(bytes: &[u8], sequence: u64, body_bytes: usize) -> Option<DirectoryEntry> {
        let entry = DirectoryEntry {
            group: GroupId(u64_at(bytes, 0)),
            previous: u64_at(bytes, 8),
            order: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            offset: u32_at(bytes, 32),
            length: u32_at(bytes, 36),
            crc: u32_at(bytes, 40),
            count: u16_at(bytes, 44),
            kind: Kind::decode(bytes[46])?,
            flags: bytes[47],
        };
        let is_entries = entry.kind == Kind::Entries;
        let fits = u64::from(entry.offset) + u64::from(entry.length) <= body_bytes as u64;
        (fits
            && entry.previous < sequence
            && (1..=sequence).contains(&entry.order)
            && is_entries == (entry.count > 0)
            && (!is_entries || (1..SEQUENCE_MAX).contains(&entry.first)))
        .then_some(entry)
    }
}

/// Decodes one copy of the directory of the batch that `batch` holds; `None` when it is damaged.
pub(super) fn decode_directory(
    header: &Header,
    batch: &[u8],
    end: End,
) -> Option<Vec<DirectoryEntry>> {
    let start = match end {
        End::Head => HEADER_BYTES,
        End::Foot => header.body_end(),
    };
    let directory = batch.get(start..start + header.directory_bytes())?;
    if crc32c::crc32c(directory) != header.directory_crc {
        return None;
    }
    let body_bytes = header.body_end() - header.body_start();
    directory
        .chunks_exact(DIRECTORY_ENTRY_BYTES)
        .zip(header.first_record..)
        .map(|(bytes, sequence)| DirectoryEntry::decode(bytes, sequence, body_bytes))
        .collect()
}

/// Number at `at`; the caller checked the length.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Number at `at`; the caller checked the length.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Header, Vec<u8>) {
        let mut directory = Vec::new();
        let entry = DirectoryEntry {
            group: GroupId(7),
            previous: 2,
            order: 3,
            first: 9,
            offset: 0,
            length: 5,
            crc: 1,
            count: 1,
            kind: Kind::Entries,
            flags: 0,
        };
        entry.encode(&mut directory);
        let mut header = Header {
            sequence: 4,
            segment: 2,
            offset: 4096,
            length: 4096,
            boot_first: 1,
            first_record: 3,
            record_count: 1,
            directory_crc: crc32c::crc32c(&directory),
            ..Header::default()
        };
        let mut content = vec![0; 3 * 4096];
        let batch = &mut content[4096..8192];
        batch[HEADER_BYTES..HEADER_BYTES + 48].copy_from_slice(&directory);
        let end = header.body_end();
        batch[end..end + 48].copy_from_slice(&directory);
        header.encode(batch);
        (header, content)
    }

    #[test]
    fn both_ends_decode_to_what_was_encoded() {
        let (header, content) = sample();
        let foot = 8192 - HEADER_BYTES;
        assert_eq!(Header::find(&content, 4096, End::Head, 2), Found::Header(header));
        assert_eq!(Header::find(&content, foot, End::Foot, 2), Found::Header(header));
        for end in [End::Head, End::Foot] {
            let directory = decode_directory(&header, &content[4096..8192], end).unwrap();
            assert_eq!(directory.len(), 1);
            assert_eq!((directory[0].group, directory[0].first), (GroupId(7), 9));
        }
    }

    #[test]
    fn a_batch_that_belongs_elsewhere_is_not_found() {
        let (_, mut content) = sample();
        assert_eq!(Header::find(&content, 4096, End::Head, 3), Found::Nothing);
        let moved = content[4096..8192].to_vec();
        content[8192..].copy_from_slice(&moved);
        assert_eq!(Header::find(&content, 8192, End::Head, 2), Found::Nothing);
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let (_, mut content) = sample();
        for bit in 0..HEADER_BYTES * 8 {
            content[4096 + bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::find(&content, 4096, End::Head, 2), Found::Nothing, "bit {bit}");
            content[4096 + bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let (_, mut content) = sample();
        content[4096 + 12] = 9;
        let crc = crc32c::crc32c(&content[4096 + 12..4096 + HEADER_BYTES]);
        content[4096 + 8..4096 + 12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(Header::find(&content, 4096, End::Head, 2), Found::OtherVersion(9));
    }
}
