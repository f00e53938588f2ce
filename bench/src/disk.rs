//! What a disk gives: one writer, one block, one sync at a time.
//!
//! Everything that a synced store promises is paid for here; a throughput figure says little
//! without this one beside it.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;

use crate::latency::{Latencies, head, row};

/// Bytes of one write.
const BLOCK_BYTES: usize = 4 << 10;

/// Blocks of the file. It is written whole before the measurement, as a recycled journal segment is.
const BLOCKS: u64 = 4 << 10;

/// Arguments of `probe-disk`.
#[derive(Debug, Args)]
pub struct ProbeDiskArgs {
    /// A directory on the disk in question; a file in it comes and goes.
    directory: PathBuf,
    /// For how long.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

/// Runs `probe-disk`.
///
/// # Errors
///
/// If the directory cannot be written.
pub fn run(args: &ProbeDiskArgs) -> anyhow::Result<()> {
    let (latencies, elapsed) = probe(&args.directory, Duration::from_secs(args.seconds), u64::MAX)?;
    println!("write + fdatasync of 4 KiB, file preallocated and written before, one at a time");
    println!("{}\n{}", head(), row("sync", &latencies.summary(), elapsed));
    Ok(())
}

/// The latencies of at most `samples` writes within `duration`, and how long it took to gather them.
///
/// # Errors
///
/// If the directory cannot be written.
pub fn probe(
    directory: &Path,
    duration: Duration,
    samples: u64,
) -> anyhow::Result<(Latencies, Duration)> {
    let file = tempfile::Builder::new()
        .prefix("flotilla-probe-")
        .tempfile_in(directory)
        .with_context(|| format!("cannot write into {}", directory.display()))?;
    let handle = file.as_file();

    let mut block = vec![0x5a; BLOCK_BYTES];
    for at in 0..BLOCKS {
        handle.write_all_at(&block, at * BLOCK_BYTES as u64)?;
    }
    handle.sync_all()?;

    let mut latencies = Latencies::new();
    let started = Instant::now();
    let deadline = started + duration;
    for number in 0..samples {
        block[..8].copy_from_slice(&number.to_le_bytes());
        let begin = Instant::now();
        if begin >= deadline {
            break;
        }
        handle.write_all_at(&block, number % BLOCKS * BLOCK_BYTES as u64)?;
        handle.sync_data()?;
        latencies.record(begin.elapsed());
    }
    Ok((latencies, started.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_syncs_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (latencies, _) = probe(directory.path(), Duration::from_secs(60), 20).unwrap();
        assert_eq!(latencies.count(), 20);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(probe(&directory.path().join("missing"), Duration::ZERO, 1).is_err());
    }
}
