//! The store's file on a simulated disk.
//!
//! What is absent: the disk's accidents (`flotilla_storage::sim`), and when they happen (`faults`).

use std::io;
use std::path::Path;
use std::sync::Arc;

use flotilla_storage::fs::{File, FileSystem, read_exact_at};
use flotilla_storage::sim::SimFs;
use flotilla_storage::store::OpenBackend;
use redb::StorageBackend;

/// The folder of the journal.
pub const JOURNAL: &str = "/journal";
/// The folder of the store.
pub const STORE: &str = "/store";
/// The store's file.
pub const STORE_FILE: &str = "/store/store.redb";
/// Where a file goes that cannot be read.
const STORE_FILE_ASIDE: &str = "/store/store.redb.damaged";

/// Opens the store's file, and makes it and its name durable if there is none.
pub fn open_store(fs: &SimFs) -> OpenBackend {
    let fs = fs.clone();
    Box::new(move || {
        let path = Path::new(STORE_FILE);
        let file = match fs.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs.create_dir_all(Path::new(STORE))?;
                let file = fs.create(path)?;
                fs.sync_dir(Path::new(STORE))?;
                file
            }
            result => result?,
        };
        Ok(Box::new(Backend { file }))
    })
}

/// Moves a file that cannot be read out of the way.
pub fn set_store_aside(fs: &SimFs) -> io::Result<()> {
    fs.rename(Path::new(STORE_FILE), Path::new(STORE_FILE_ASIDE))?;
    fs.sync_dir(Path::new(STORE))
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
