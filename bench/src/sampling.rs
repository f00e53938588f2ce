//! What server processes occupy: memory, disk, and what their own metrics say.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::Context;

/// What one node occupies at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
    /// Blocks on the disk under `journal`, in bytes.
    pub journal_bytes: u64,
    /// Blocks on the disk under `store`, in bytes.
    pub store_bytes: u64,
}

impl Sample {
    /// Looks at a process and its data directory.
    ///
    /// # Errors
    ///
    /// If the process is gone or the directory cannot be read.
    pub fn take(process: u32, directory: &Path) -> anyhow::Result<Sample> {
        Ok(Sample {
            resident_bytes: resident_bytes(process)?,
            journal_bytes: disk_bytes(&directory.join("journal"))?,
            store_bytes: disk_bytes(&directory.join("store"))?,
        })
    }

    /// Journal and store together.
    pub fn disk_bytes(&self) -> u64 {
        self.journal_bytes + self.store_bytes
    }
}

/// Resident memory of `process`, in bytes.
///
/// # Errors
///
/// If there is no such process, or no `/proc`.
pub fn resident_bytes(process: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("{path} does not say VmRSS"))? << 10)
}

/// Blocks that the files under `directory` occupy, in bytes. Files that vanish meanwhile count as
/// nothing.
///
/// # Errors
///
/// If the directory cannot be read.
pub fn disk_bytes(directory: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let Ok(metadata) = entry?.metadata() else { continue };
        bytes += metadata.blocks() * 512;
    }
    Ok(bytes)
}

/// The value of the series `name` (with its labels, if any) in the text of `/metrics`.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(' ')?;
        value.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# HELP a x\na_total 3\na 4.5\nb{c=\"d\"} 6\n";
        assert_eq!(metric(text, "a"), Some(4.5));
        assert_eq!(metric(text, "a_total"), Some(3.0));
        assert_eq!(metric(text, "b{c=\"d\"}"), Some(6.0));
        assert_eq!(metric(text, "b"), None);
    }

    #[test]
    fn this_process_and_a_directory_occupy_something() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(disk_bytes(directory.path()).unwrap(), 0);
        fs::write(directory.path().join("file"), vec![7; 100_000]).unwrap();
        fs::File::open(directory.path().join("file")).unwrap().sync_all().unwrap();
        assert!(disk_bytes(directory.path()).unwrap() >= 100_000);
    }
}
