//! The operating system's files.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::lock::LOCK_FILE;
use super::{DirectoryLock, File, FileSystem, LockError};

/// Zeros are written in pieces of this size where the file system has no `fallocate`.
const ZEROS_BYTES: usize = 256 * 1024;

/// The operating system's file system. Unix only.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

impl FileSystem for RealFs {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // Every parent that gains a name must be synced, or a crash loses the whole subtree with
        // every synced byte in it.
        let mut missing: Vec<PathBuf> = Vec::new();
        let mut current = Some(dir);
        while let Some(path) = current {
            if path.as_os_str().is_empty() || path.is_dir() {
                break;
            }
            missing.push(path.to_path_buf());
            current = path.parent();
        }
        for path in missing.iter().rev() {
            match fs::create_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let parent = match path.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => parent,
                _ => Path::new("."),
            };
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn try_lock(&self, dir: &Path) -> Result<DirectoryLock, LockError> {
        let io_error = |source| LockError::Io { dir: dir.to_path_buf(), source };
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join(LOCK_FILE))
            .map_err(io_error)?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(LockError::Held { dir: dir.to_path_buf() }),
            Err(fs::TryLockError::Error(source)) => Err(io_error(source)),
        }
    }
}

/// Bytes of the file system that holds `path` which this process may still take.
///
/// # Errors
///
/// When the operating system cannot say.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// An open file of the operating system.
struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if self.file.metadata()?.len() >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // Not every file system can reserve; writing zeros reserves everywhere.
            Err(rustix::io::Errno::OPNOTSUPP) => {
                let zeros = vec![0; ZEROS_BYTES];
                let mut at = self.file.metadata()?.len();
                while at < len {
                    let count = (len - at).min(ZEROS_BYTES as u64) as usize;
                    self.file.write_all_at(&zeros[..count], at)?;
                    at += count as u64;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::read_exact_at;

    #[test]
    fn files_do_what_the_trait_says() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/b");
        RealFs.create_dir_all(&dir).unwrap();
        RealFs.create_dir_all(&dir).unwrap();
        let file = RealFs.create(&dir.join("one")).unwrap();
        let again = RealFs.create(&dir.join("one")).map(|_| ()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        file.allocate(10_000).unwrap();
        file.allocate(5_000).unwrap();
        assert_eq!(file.len().unwrap(), 10_000);
        file.write_all_at(b"hello", 4_000).unwrap();
        file.sync_data().unwrap();
        RealFs.rename(&dir.join("one"), &dir.join("two")).unwrap();
        RealFs.sync_dir(&dir).unwrap();
        assert_eq!(RealFs.list(&dir).unwrap(), ["two"]);
        let missing = RealFs.open(&dir.join("one")).map(|_| ()).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);

        let file = RealFs.open(&dir.join("two")).unwrap();
        let mut bytes = [1; 7];
        read_exact_at(file.as_ref(), &mut bytes, 3_999).unwrap();
        assert_eq!(&bytes, b"\0hello\0");
        assert_eq!(file.read_at(&mut bytes, 9_998).unwrap(), 2);
        assert!(read_exact_at(file.as_ref(), &mut bytes, 9_998).is_err());
        file.set_len(0).unwrap();
        assert!(file.is_empty().unwrap());
        RealFs.remove(&dir.join("two")).unwrap();
        assert!(RealFs.list(&dir).unwrap().is_empty());
    }

    #[test]
    fn free_space_is_told_of_any_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
        assert!(free_bytes(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn a_directory_has_one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let lock = RealFs.try_lock(dir.path()).unwrap();
        let second = RealFs.try_lock(dir.path()).unwrap_err();
        assert!(matches!(second, LockError::Held { .. }));
        assert!(second.to_string().contains("in use by another process"));
        drop(lock);
        RealFs.try_lock(dir.path()).unwrap();
        let nowhere = RealFs.try_lock(&dir.path().join("missing"));
        assert!(matches!(nowhere, Err(LockError::Io { .. })));
    }
}
