//! The block device below a directory, and what was written to it.
//!
//! `/proc/PID/io` would tell processes apart, but counts what they change in memory: where the
//! kernel keeps files in large folios, four bytes count as up to megabytes (a factor of twelve
//! was seen). The device counts what really arrives there, from everybody.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The unit in which devices count, whatever the size of their blocks.
const SECTOR_BYTES: u64 = 512;

/// A block device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    statistics: PathBuf,
}

impl Device {
    /// The device of `directory`'s file system; `None` if it has none of its own (memory, networks,
    /// several devices at once), or the system does not show its counters.
    pub fn below(directory: &Path) -> Option<Device> {
        let device = fs::metadata(directory).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let statistics = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        let device = Device { statistics };
        device.written_bytes().map(|_| device)
    }

    /// Bytes written to it since the system started, by everybody.
    pub fn written_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(&self.statistics).ok()?;
        let sectors: u64 = text.split_whitespace().nth(6)?.parse().ok()?;
        Some(sectors * SECTOR_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn a_device_counts_what_is_synced_to_it() {
        let directory = tempfile::tempdir().unwrap();
        // A file system in memory has no device: nothing to count there.
        let Some(device) = Device::below(directory.path()) else { return };
        let before = device.written_bytes().unwrap();
        let mut file = fs::File::create(directory.path().join("file")).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        assert!(device.written_bytes().unwrap() >= before + (1 << 20));
    }

    #[test]
    fn file_systems_without_a_device_have_none() {
        assert_eq!(Device::below(Path::new("/proc")), None);
        assert_eq!(Device::below(Path::new("/no/such/directory")), None);
    }
}
