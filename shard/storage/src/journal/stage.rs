//! The batch that is being put together: records as they come in, then bytes.
//!
//! All buffers are reused from batch to batch.

use std::ops::Range;

use super::BLOCK_BYTES;
use super::batch::{
    DIRECTORY_ENTRY_BYTES, DirectoryEntry, FLAG_CONTINUES, HEADER_BYTES, Header, Kind, batch_bytes,
};
use super::body::Body;
use crate::GroupId;

/// A record that is to be staged, without its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewRecord {
    pub group: GroupId,
    pub kind: Kind,
    pub flags: u8,
    pub previous: u64,
    /// The original's order for a copy; `None` for an original.
    pub order: Option<u64>,
    pub first: u64,
    pub count: u16,
}

/// Buffers beyond this are given back after a batch that needed more.
const BUFFER_BYTES_KEPT: usize = 4 << 20;

/// Records of the next batch.
#[derive(Default)]
pub(super) struct Stage {
    records: Vec<DirectoryEntry>,
    directory: Vec<u8>,
    body: Body,
    buffer: Vec<u8>,
    /// What the assembled batch takes from the buffer between two shared pieces.
    cuts: Vec<Cut>,
}

/// A stretch of the buffer, and what is written behind it from where it is.
struct Cut {
    buffered: Range<usize>,
    /// Bytes of which piece of the body; none behind the last stretch.
    shared: Option<(usize, Range<usize>)>,
}

impl Stage {
    /// Records staged.
    pub(super) fn records(&self) -> &[DirectoryEntry] {
        &self.records
    }

    /// Bytes of the batch.
    pub(super) fn bytes(&self) -> u64 {
        batch_bytes(self.records.len(), self.body.len()) as u64
    }

    /// Bytes of the batch if one more record with `payload_bytes` were staged.
    pub(super) fn bytes_with(&self, payload_bytes: usize) -> u64 {
        batch_bytes(self.records.len() + 1, self.body.len() + payload_bytes) as u64
    }

    /// Stages a record with `sequence`, whose payload `encode` appends.
    pub(super) fn push(
        &mut self,
        record: &NewRecord,
        sequence: u64,
        encode: impl FnOnce(&mut Body),
    ) {
        let (start, mark) = (self.body.len(), self.body.mark());
        encode(&mut self.body);
        let entry = DirectoryEntry {
            group: record.group,
            previous: record.previous,
            order: record.order.unwrap_or(sequence),
            first: record.first,
            offset: start as u32,
            length: (self.body.len() - start) as u32,
            crc: self.body.crc_from(mark),
            count: record.count,
            kind: record.kind,
            flags: record.flags,
        };
        entry.encode(&mut self.directory);
        self.records.push(entry);
    }

    /// Builds the batch: [`Stage::parts`] gives its bytes. `header` comes with everything but sizes,
    /// flags and CRCs, and leaves complete.
    pub(super) fn assemble(&mut self, header: &mut Header, continues: bool) {
        let (count, body) = (self.records.len(), self.body.len());
        let length = batch_bytes(count, body);
        header.length = u32::try_from(length).expect("batches are smaller than segments");
        header.record_count = count as u32;
        header.flags = if continues { FLAG_CONTINUES } else { 0 };
        header.directory_crc = crc32c::crc32c(&self.directory);
        debug_assert_eq!(self.directory.len(), count * DIRECTORY_ENTRY_BYTES);

        let (buffer, cuts) = (&mut self.buffer, &mut self.cuts);
        buffer.clear();
        cuts.clear();
        buffer.resize(HEADER_BYTES, 0);
        buffer.extend_from_slice(&self.directory);
        let (mut cut, mut shared_bytes) = (0, 0);
        for (number, (piece, is_shared)) in self.body.pieces().enumerate() {
            let blocks = match is_shared {
                true => whole_blocks(buffer.len() + shared_bytes, piece.len()),
                false => 0..0,
            };
            if blocks.is_empty() {
                buffer.extend_from_slice(piece);
                continue;
            }
            buffer.extend_from_slice(&piece[..blocks.start]);
            let buffered = cut..buffer.len();
            cut = buffer.len();
            shared_bytes += blocks.len();
            buffer.extend_from_slice(&piece[blocks.end..]);
            cuts.push(Cut { buffered, shared: Some((number, blocks)) });
        }
        buffer.resize(header.body_end() - shared_bytes, 0);
        buffer.extend_from_slice(&self.directory);
        buffer.resize(length - shared_bytes, 0);
        cuts.push(Cut { buffered: cut..buffer.len(), shared: None });
        header.encode(buffer);
    }

    /// The bytes of the assembled batch, in order, in parts that begin and end on blocks: a part
    /// of a block would make the system read the rest of it from the disk first.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut pieces = self.body.pieces().map(|(piece, _)| piece).enumerate();
        self.cuts.iter().flat_map(move |cut| {
            let shared = cut.shared.as_ref().map(|(number, bytes)| {
                let piece = pieces.find(|(at, _)| at == number).expect("pieces come in order").1;
                &piece[bytes.clone()]
            });
            [Some(&self.buffer[cut.buffered.clone()]), shared].into_iter().flatten()
        })
    }

    /// Forgets the batch.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.directory.clear();
        self.body.clear();
        self.cuts.clear();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
    }
}

/// Those of `length` bytes from `position` on that fill whole blocks.
fn whole_blocks(position: usize, length: usize) -> Range<usize> {
    let start = position.next_multiple_of(BLOCK_BYTES) - position;
    let blocks = length.saturating_sub(start) / BLOCK_BYTES;
    start..start + blocks * BLOCK_BYTES
}
