//! The reserve: a file that does nothing but take space, until the disk has none left.
//!
//! It becomes the next segment by being renamed, so that nobody else on the disk can take its space
//! in between. Its bytes were never written, so nothing in it can be taken for a batch.
//!
//! What is absent: when it is wanted. The journal makes it, whoever watches the disk decides.

use std::io;
use std::path::Path;

use super::segments::{Segment, full_or_io, segment_name};
use super::{Journal, JournalError};
use crate::fs::FileSystem;

/// Name of the file in the journal's directory.
const FILE: &str = "reserve";

/// The reserve of a journal.
pub(super) struct Reserve {
    /// How large it should be; 0 = none.
    bytes_wanted: u64,
    /// It is there, durably, with all its space.
    is_whole: bool,
    is_wanted: bool,
}

impl Reserve {
    /// Finds the one that an earlier boot left. One of another size is deleted.
    pub(super) fn find(
        fs: &dyn FileSystem,
        dir: &Path,
        bytes_wanted: u64,
    ) -> Result<Reserve, JournalError> {
        let path = dir.join(FILE);
        let failed = |operation, error: &io::Error| JournalError::io(operation, &path, error);
        let mut reserve = Reserve { bytes_wanted, is_whole: false, is_wanted: true };
        match fs.open(&path) {
            Ok(file) => {
                let bytes = file.len().map_err(|error| failed("opening", &error))?;
                reserve.is_whole = bytes_wanted > 0 && bytes == bytes_wanted;
                if !reserve.is_whole {
                    fs.remove(&path).map_err(|error| failed("deletion", &error))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("opening", &error)),
        }
        Ok(reserve)
    }

    /// Bytes that it takes now.
    pub(super) fn bytes(&self) -> u64 {
        if self.is_whole { self.bytes_wanted } else { 0 }
    }

    /// True if it should be there.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// True if it is there, or none was asked for.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole || self.bytes_wanted == 0
    }

    /// Makes it. [`JournalError::Full`] leaves nothing behind.
    pub(super) fn make(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<(), JournalError> {
        let path = dir.join(FILE);
        let failed = |operation, error: &io::Error| {
            full_or_io(operation, dir, &path, self.bytes_wanted, error)
        };
        let file = fs.create(&path).map_err(|error| failed("creation", &error))?;
        if let Err(error) = file.allocate(self.bytes_wanted).and_then(|()| file.sync_data()) {
            let _ = fs.remove(&path);
            return Err(failed("reservation", &error));
        }
        fs.sync_dir(dir).map_err(|error| JournalError::io("directory sync", dir, &error))?;
        self.is_whole = true;
        Ok(())
    }

    /// Makes a segment of it, and gives what is more than that back to the disk. `full` is why, and
    /// the error if there is no reserve.
    pub(super) fn take(
        &mut self,
        fs: &dyn FileSystem,
        dir: &Path,
        number: u64,
        bytes: u64,
        full: JournalError,
    ) -> Result<Segment, JournalError> {
        if !std::mem::replace(&mut self.is_whole, false) {
            return Err(full);
        }
        tracing::warn!(
            dir = %dir.display(),
            "the disk has no space for the journal: it lives on its reserve now"
        );
        let (from, to) = (dir.join(FILE), dir.join(segment_name(number)));
        let failed = |operation, error: &io::Error| JournalError::io(operation, &from, error);
        fs.rename(&from, &to).map_err(|error| failed("recycling", &error))?;
        let file = fs.open(&to).map_err(|error| failed("opening", &error))?;
        if self.bytes_wanted > bytes {
            file.set_len(bytes).map_err(|error| failed("cutting", &error))?;
        }
        file.sync_data().map_err(|error| failed("sync", &error))?;
        fs.sync_dir(dir).map_err(|error| failed("directory sync", &error))?;
        Ok(Segment { number, file, bytes, first_batch: 0, first_record: 0 })
    }

    /// Gives its space back to the disk.
    pub(super) fn give_up(&mut self, fs: &dyn FileSystem, dir: &Path) -> Result<(), JournalError> {
        if std::mem::replace(&mut self.is_whole, false) {
            let path = dir.join(FILE);
            fs.remove(&path).map_err(|error| JournalError::io("deletion", path, &error))?;
        }
        Ok(())
    }
}

impl Journal {
    /// Says whether there should be a reserve; `true` at first. Takes effect with the next
    /// [`Journal::tend_reserve`].
    pub fn want_reserve(&mut self, wanted: bool) {
        self.segments.reserve.is_wanted = wanted;
    }

    /// Makes the reserve, or gives it up together with the spare segments, as was last asked for.
    /// Called now and then: nothing else makes it.
    ///
    /// # Errors
    ///
    /// As [`Journal::write`], but a disk without space is no error: [`super::JournalStats::full`]
    /// says so.
    pub fn tend_reserve(&mut self) -> Result<(), JournalError> {
        self.check_running()?;
        let result = self.segments.tend_reserve();
        self.stop_on_error(result).map(|_| ())
    }

    /// True if [`Journal::tend_reserve`] would do something.
    pub fn is_reserve_amiss(&self) -> bool {
        let reserve = &self.segments.reserve;
        if reserve.is_wanted { !reserve.is_whole() } else { reserve.is_whole }
    }
}
