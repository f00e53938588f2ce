//! The store's file on a simulated disk.
//!
//! What is absent: the disk's accidents (`flotilla_storage::sim`), and when they happen (`faults`).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use flotilla_storage::fs::{File, FileSystem, read_exact_at};
use flotilla_storage::sim::SimFs;
use flotilla_storage::store::StoreFile;
use redb::StorageBackend;

/// The folder of the journal.
pub const JOURNAL: &str = "/journal";
/// The folder of the store.
pub const STORE: &str = "/store";
/// The store's file.
pub const STORE_FILE: &str = "/store/store.redb";
/// Where a file goes that cannot be read.
const STORE_FILE_ASIDE: &str = "/store/store.redb.damaged";

/// Where a file lies that is to take its place.
const STORE_FILE_BESIDE: &str = "/store/store.redb.new";

/// The store's file on a disk.
#[derive(Clone)]
pub struct Place {
    fs: SimFs,
    /// Another file took its name, which a power loss may still undo.
    is_name_in_doubt: Arc<AtomicBool>,
    replacements: Arc<AtomicU64>,
}

impl Place {
    /// Where it is on `fs`; one for all lives of a node.
    pub fn new(fs: &SimFs) -> Place {
        Place { fs: fs.clone(), is_name_in_doubt: Arc::default(), replacements: Arc::default() }
    }

    /// How often another file took its place.
    pub fn replacements(&self) -> u64 {
        self.replacements.load(Relaxed)
    }

    fn sync_name(&self) -> io::Result<()> {
        self.fs.sync_dir(Path::new(STORE))?;
        self.is_name_in_doubt.store(false, Relaxed);
        Ok(())
    }
}

/// Moves a file that cannot be read out of the way.
pub fn set_store_aside(fs: &SimFs) -> io::Result<()> {
    fs.rename(Path::new(STORE_FILE), Path::new(STORE_FILE_ASIDE))?;
    fs.sync_dir(Path::new(STORE))
}

impl StoreFile for Place {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let path = Path::new(STORE_FILE);
        let file = match self.fs.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.fs.create_dir_all(Path::new(STORE))?;
                let file = self.fs.create(path)?;
                self.sync_name()?;
                file
            }
            result => result?,
        };
        if self.is_name_in_doubt.load(Relaxed) {
            self.sync_name()?;
        }
        Ok(Box::new(Backend { file }))
    }

    fn create_beside(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.remove_beside()?;
        let file = self.fs.create(Path::new(STORE_FILE_BESIDE))?;
        Ok(Box::new(Backend { file }))
    }

    fn replace(&self, _keep: bool) -> io::Result<()> {
        // Nobody looks into damaged files here.
        self.is_name_in_doubt.store(true, Relaxed);
        self.fs.rename(Path::new(STORE_FILE_BESIDE), Path::new(STORE_FILE))?;
        self.replacements.fetch_add(1, Relaxed);
        self.sync_name()
    }

    fn remove_beside(&self) -> io::Result<()> {
        let path = Path::new(STORE_FILE_BESIDE);
        match self.fs.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => self.fs.remove(path),
        }
    }
}

struct Backend {
    file: Arc<dyn File>,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a file on a simulated disk")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}
