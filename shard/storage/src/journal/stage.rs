//! The batch that is being put together: records as they come in, then one buffer of bytes.
//!
//! All buffers are reused from batch to batch.

use super::batch::{
    DIRECTORY_ENTRY_BYTES, DirectoryEntry, FLAG_CONTINUES, HEADER_BYTES, Header, Kind, batch_bytes,
};
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
    body: Vec<u8>,
    buffer: Vec<u8>,
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
        encode: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = self.body.len();
        encode(&mut self.body);
        let entry = DirectoryEntry {
            group: record.group,
            previous: record.previous,
            order: record.order.unwrap_or(sequence),
            first: record.first,
            offset: start as u32,
            length: (self.body.len() - start) as u32,
            crc: crc32c::crc32c(&self.body[start..]),
            count: record.count,
            kind: record.kind,
            flags: record.flags,
        };
        entry.encode(&mut self.directory);
        self.records.push(entry);
    }

    /// Builds the batch. `header` comes with everything but sizes, flags and CRCs, and leaves
    /// complete.
    pub(super) fn assemble(&mut self, header: &mut Header, continues: bool) -> &[u8] {
        let (count, body) = (self.records.len(), self.body.len());
        let length = batch_bytes(count, body);
        header.length = u32::try_from(length).expect("batches are smaller than segments");
        header.record_count = count as u32;
        header.flags = if continues { FLAG_CONTINUES } else { 0 };
        header.directory_crc = crc32c::crc32c(&self.directory);
        debug_assert_eq!(self.directory.len(), count * DIRECTORY_ENTRY_BYTES);

        self.buffer.clear();
        self.buffer.resize(HEADER_BYTES, 0);
        self.buffer.extend_from_slice(&self.directory);
        self.buffer.extend_from_slice(&self.body);
        self.buffer.resize(header.body_end(), 0);
        self.buffer.extend_from_slice(&self.directory);
        self.buffer.resize(length, 0);
        header.encode(&mut self.buffer);
        &self.buffer
    }

    /// Forgets the batch.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.directory.clear();
        self.body.clear();
        for buffer in [&mut self.body, &mut self.buffer] {
            if buffer.capacity() > BUFFER_BYTES_KEPT {
                buffer.clear();
                buffer.shrink_to(BUFFER_BYTES_KEPT);
            }
        }
    }
}
