//! A file that may be written and is not: changes stay in memory, over what is on disk.
//!
//! A database that wants to tidy up when it opens its file can so be looked at without touching a
//! byte of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use parking_lot::Mutex;
use redb::StorageBackend;

use crate::store::OpenBackend;

/// Bytes that are kept as one piece once any of them was written.
const BLOCK_BYTES: u64 = 4096;

/// Gives access to the store file at `path` for reading. What is written through it is seen through
/// it, and gone with it.
pub fn read_only(path: PathBuf) -> OpenBackend {
    Box::new(move || {
        let file = File::open(&path)?;
        let len = file.metadata()?.len();
        let changes = Changes { blocks: BTreeMap::new(), len, file_len: len };
        Ok(Box::new(Overlay { file, changes: Mutex::new(changes) }))
    })
}

#[derive(Debug)]
struct Overlay {
    file: File,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    blocks: BTreeMap<u64, Box<[u8]>>,
    len: u64,
    /// What of the file still shows through: a cut hides the rest for good.
    file_len: u64,
}

impl Changes {
    /// The block with this number, as it is now.
    fn block(&self, number: u64, file: &File) -> io::Result<Box<[u8]>> {
        if let Some(block) = self.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = vec![0; BLOCK_BYTES as usize].into_boxed_slice();
        let start = number * BLOCK_BYTES;
        let count = self.file_len.saturating_sub(start).min(BLOCK_BYTES) as usize;
        file.read_exact_at(&mut block[..count], start)?;
        Ok(block)
    }
}

/// Blocks that `bytes` bytes from `offset` on touch: number, start within it, and how many bytes.
fn pieces(offset: u64, bytes: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + bytes as u64;
    std::iter::from_fn(move || {
        let within = at % BLOCK_BYTES;
        let count = (BLOCK_BYTES - within).min(end - at);
        let piece = (at / BLOCK_BYTES, within as usize, count as usize);
        at += count;
        (count > 0).then_some(piece)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes.lock().len)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes.lock();
        if offset + out.len() as u64 > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (number, within, count) in pieces(offset, out.len()) {
            let block = changes.block(number, &self.file)?;
            let (piece, rest) = out.split_at_mut(count);
            piece.copy_from_slice(&block[within..within + count]);
            out = rest;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes.lock();
        if len < changes.len {
            changes.file_len = changes.file_len.min(len);
            let _ = changes.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
            let within = (len % BLOCK_BYTES) as usize;
            if let Some(last) = changes.blocks.get_mut(&(len / BLOCK_BYTES)) {
                last[within..].fill(0);
            }
        }
        changes.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes.lock();
        for (number, within, count) in pieces(offset, data.len()) {
            let mut block = changes.block(number, &self.file)?;
            let (piece, rest) = data.split_at(count);
            block[within..within + count].copy_from_slice(piece);
            changes.blocks.insert(number, block);
            data = rest;
        }
        changes.len = changes.len.max(offset + data.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let original: Vec<u8> = (0..10_000u32).map(|at| at as u8).collect();
        std::fs::write(&path, &original).unwrap();
        let overlay = read_only(path.clone())().unwrap();
        let read = |offset, count| {
            let mut bytes = vec![0; count];
            overlay.read(offset, &mut bytes).map(|()| bytes)
        };
        assert_eq!(read(4090, 20).unwrap(), original[4090..4110]);
        overlay.write(4094, b"over").unwrap();
        assert_eq!(
            read(4093, 6).unwrap(),
            [original[4093], b'o', b'v', b'e', b'r', original[4098]]
        );
        overlay.set_len(4096).unwrap();
        overlay.set_len(20_000).unwrap();
        assert_eq!(read(4094, 4).unwrap(), *b"ov\0\0");
        assert_eq!(read(8000, 12_000).unwrap(), vec![0; 12_000]);
        assert!(read(8000, 12_001).is_err());
        overlay.sync_data().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), original);
    }
}
