//! Files in memory that are never synced to anything: what is left is the cost of the caller.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use flotilla_storage::fs::{DirectoryLock, File, FileSystem, LockError};

/// A file system in memory.
pub struct SinkFs {
    files: Mutex<BTreeMap<PathBuf, Arc<SinkFile>>>,
}

/// A file in memory.
#[derive(Default)]
pub struct SinkFile {
    bytes: RwLock<Vec<u8>>,
}

impl SinkFs {
    /// No files.
    pub fn new() -> SinkFs {
        SinkFs { files: Mutex::default() }
    }
}

impl FileSystem for SinkFs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let files = self.files.lock().unwrap();
        let file = files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut files = self.files.lock().unwrap();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(files.entry(path.to_owned()).or_default().clone())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let inside = files.keys().filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(str::to_owned).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.files.lock().unwrap().remove(path);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self, _: &Path) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::new(()))
    }
}

impl SinkFile {
    fn grow(&self, len: u64) {
        let mut bytes = self.bytes.write().unwrap();
        if bytes.len() < len as usize {
            bytes.resize(len as usize, 0);
        }
    }
}

impl File for SinkFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes.read().unwrap();
        let from = bytes.get(offset as usize..).unwrap_or_default();
        let read = from.len().min(buffer.len());
        buffer[..read].copy_from_slice(&from[..read]);
        Ok(read)
    }

    fn write_all_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        self.grow(offset + from.len() as u64);
        let mut bytes = self.bytes.write().unwrap();
        bytes[offset as usize..][..from.len()].copy_from_slice(from);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.grow(len);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.write().unwrap().resize(len as usize, 0);
        Ok(())
    }
}
