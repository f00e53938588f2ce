//! Where the store's file lies: how it is opened, and how another one takes its place.
//!
//! Invariants:
//!
//! * A crash at any point leaves the old file or the new one under the store's name, each whole.
//! * The name of what [`StoreFile::open`] gives access to is durable.
//! * A file that is known to hold what the new one lacks is kept under another name.
//!
//! What is absent: what is in the file, and when another one is wanted (`renew`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::backend::OpenBackend;
use super::error::StoreError;

/// The redb file inside the store's directory.
const FILE_NAME: &str = "store.redb";
/// A file that is to take its place, until it is whole.
const BESIDE_NAME: &str = "store.redb.new";

/// The store's file, on whatever disk it lies.
pub trait StoreFile: Send + Sync {
    /// Opens the file, made if there is none; its name is durable when this returns. Called on
    /// opening the store and on every reopening. The backend of the time before is closed by then.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Begins an empty file beside it. What an earlier one has left is thrown away.
    ///
    /// # Errors
    ///
    /// If the disk refuses, or there is no place for a second file.
    fn create_beside(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Puts the file that was begun beside in the place of the store's; both are closed. Whole with
    /// the next [`open`](StoreFile::open). `keep`: the old one is not thrown away, but moved aside.
    ///
    /// # Errors
    ///
    /// If the disk refuses. One of both is there.
    fn replace(&self, keep: bool) -> io::Result<()>;

    /// Throws away what was begun beside, if anything was.
    ///
    /// # Errors
    ///
    /// If the disk refuses.
    fn remove_beside(&self) -> io::Result<()>;
}

/// A file that can be opened, and nothing else: it is never replaced.
pub(crate) struct OpenedOnly(pub(crate) OpenBackend);

impl StoreFile for OpenedOnly {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        (self.0)()
    }

    fn create_beside(&self) -> io::Result<Box<dyn StorageBackend>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "there is no place beside the file"))
    }

    fn replace(&self, _keep: bool) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "nothing was begun beside the file"))
    }

    fn remove_beside(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The store's file in a directory.
pub(crate) struct InDirectory {
    dir: PathBuf,
}

impl InDirectory {
    /// Makes the directory if there is none.
    pub(crate) fn new(dir: &Path) -> Result<InDirectory, StoreError> {
        fs::create_dir_all(dir).map_err(file_error(dir))?;
        Ok(InDirectory { dir: dir.to_owned() })
    }
}

impl StoreFile for InDirectory {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let mut options = OpenOptions::new();
        let path = self.dir.join(FILE_NAME);
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        file.sync_all()?;
        // A file whose directory entry is lost is lost whole. Cheap enough to do on every opening.
        for dir in [Some(&*self.dir), self.dir.parent()].into_iter().flatten() {
            sync_dir(dir)?;
        }
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn create_beside(&self) -> io::Result<Box<dyn StorageBackend>> {
        self.remove_beside()?;
        let mut options = OpenOptions::new();
        let path = self.dir.join(BESIDE_NAME);
        let file = options.read(true).write(true).create_new(true).open(path)?;
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn replace(&self, keep: bool) -> io::Result<()> {
        let (path, beside) = (self.dir.join(FILE_NAME), self.dir.join(BESIDE_NAME));
        File::open(&beside)?.sync_all()?;
        if keep && path.try_exists()? {
            // A second name, so that the first one is never without a file.
            let aside = free_name(&self.dir)?;
            fs::hard_link(&path, &aside)?;
            tracing::error!(file = %aside.display(), "the damaged store file is kept");
        }
        fs::rename(beside, path)?;
        sync_dir(&self.dir)
    }

    fn remove_beside(&self) -> io::Result<()> {
        match fs::remove_file(self.dir.join(BESIDE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Moves the file in `dir` aside, under a name that is not in use. Does nothing if there is none.
pub(crate) fn set_aside(dir: &Path) -> Result<Option<PathBuf>, StoreError> {
    let path = dir.join(FILE_NAME);
    if !path.try_exists().map_err(file_error(&path))? {
        return Ok(None);
    }
    let aside = free_name(dir).map_err(file_error(dir))?;
    fs::rename(&path, &aside).map_err(file_error(&aside))?;
    sync_dir(dir).map_err(file_error(dir))?;
    Ok(Some(aside))
}

/// A name for a damaged file that is not in use.
fn free_name(dir: &Path) -> io::Result<PathBuf> {
    let mut number = 1;
    loop {
        let aside = dir.join(format!("{FILE_NAME}.damaged-{number}"));
        if !aside.try_exists()? {
            return Ok(aside);
        }
        number += 1;
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|handle| handle.sync_all())
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::File { path, source: Arc::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(dir: &Path, name: &str) -> Option<Vec<u8>> {
        fs::read(dir.join(name)).ok()
    }

    #[test]
    fn another_file_takes_the_place_and_the_old_one_is_kept_if_wanted() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let place = InDirectory::new(dir).unwrap();
        for (old, new, keep) in [(b"1", b"2", true), (b"2", b"3", false), (b"3", b"4", true)] {
            place.open().unwrap().write(0, old).unwrap();
            place.create_beside().unwrap().write(0, new).unwrap();
            assert_eq!(content(dir, FILE_NAME).unwrap(), old, "not before it is told so");
            place.replace(keep).unwrap();
            assert_eq!(content(dir, FILE_NAME).unwrap(), new);
            assert_eq!(content(dir, BESIDE_NAME), None);
        }
        assert_eq!(content(dir, "store.redb.damaged-1").unwrap(), b"1");
        assert_eq!(content(dir, "store.redb.damaged-2").unwrap(), b"3");
        assert_eq!(content(dir, "store.redb.damaged-3"), None);
    }

    #[test]
    fn what_was_begun_is_thrown_away_when_it_is_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let place = InDirectory::new(dir).unwrap();
        place.create_beside().unwrap().write(0, b"half").unwrap();
        assert_eq!(place.create_beside().unwrap().len().unwrap(), 0);
        for _ in 0..2 {
            place.remove_beside().unwrap();
            assert_eq!(content(dir, BESIDE_NAME), None);
        }
        assert!(place.replace(true).is_err(), "nothing was begun");
    }
}
