//! Where a measurement is made, from `/proc` and a probe of the disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use crate::disk;
use crate::result::{DiskProbe, Machine};

/// How many synced writes the disk is asked for. Enough for a 99th percentile, and done within a
/// fraction of a second where syncs are quick.
const PROBE_SAMPLES: u64 = 512;

/// After this the probe ends with what it has.
const PROBE_DURATION_MAX: Duration = Duration::from_secs(3);

/// This machine; with a directory for data, also its file system and what syncs cost there. Takes
/// up to a few seconds then: the probe writes 512 blocks of 4 KiB, one synced after the other. Blocks,
/// so not for an async task that others wait for, and not while a load runs.
///
/// # Errors
///
/// If the directory cannot be written.
pub fn describe_machine(data: Option<&Path>) -> anyhow::Result<Machine> {
    let cpu_info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let probe = match data {
        None => None,
        Some(directory) => {
            let (latencies, _) = disk::probe(directory, PROBE_DURATION_MAX, PROBE_SAMPLES)?;
            let summary = latencies.summary();
            Some(DiskProbe {
                samples: summary.operations,
                p50_ms: summary.p50_ms,
                p99_ms: summary.p99_ms,
            })
        }
    };
    Ok(Machine {
        cpu: field(&cpu_info, "model name")
            .map_or_else(|| std::env::consts::ARCH.to_owned(), str::to_owned),
        cores: thread::available_parallelism().map_or(0, |cores| cores.get() as u32),
        memory_bytes: memory_bytes(&memory),
        kernel: kernel(),
        file_system: data.map(file_system).transpose()?.unwrap_or_else(|| "none".to_owned()),
        virtualized: field(&cpu_info, "flags")
            .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
        disk: probe,
    })
}

/// The value behind the first `name:` of a file in the manner of `/proc/cpuinfo`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// 0 where the kernel does not say.
fn memory_bytes(meminfo: &str) -> u64 {
    let kibibytes = field(meminfo, "MemTotal").and_then(|value| value.split(' ').next());
    kibibytes.and_then(|kibibytes| kibibytes.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn kernel() -> String {
    let names = rustix::system::uname();
    let (name, release) = (names.sysname().to_string_lossy(), names.release().to_string_lossy());
    format!("{name} {release}")
}

fn file_system(directory: &Path) -> anyhow::Result<String> {
    let whole = fs::canonicalize(directory)
        .with_context(|| format!("cannot look at {}", directory.display()))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Ok(mount_type(&mounts, &whole).unwrap_or("unknown").to_owned())
}

/// The type of the mount that holds `path`: of the longest mount point above it, the last one.
fn mount_type<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    let holds = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        let depth = point.components().count();
        path.starts_with(&point).then_some((depth, after.split(' ').next()?))
    });
    holds.max_by_key(|(depth, _)| *depth).map(|(_, kind)| kind)
}

/// The kernel writes a space in a mount point as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_the_longest_point_above() {
        let mounts = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                      26 25 0:5 / /data rw - xfs /dev/sdb rw\n\
                      27 25 0:6 / /data/my\\040disk rw - btrfs /dev/sdc rw\n\
                      28 25 0:7 / /data rw - zfs pool rw\n";
        for (path, kind) in
            [("/", "ext4"), ("/database", "ext4"), ("/data/x", "zfs"), ("/data/my disk/x", "btrfs")]
        {
            assert_eq!(mount_type(mounts, Path::new(path)), Some(kind), "{path}");
        }
        assert_eq!(mount_type("", Path::new("/")), None);
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "model\t\t: 17\nmodel name\t: Some CPU @ 2: fast\nflags : fpu hypervisor\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2: fast"));
        assert_eq!(field(text, "name"), None);
        assert_eq!(memory_bytes("MemTotal:       16 kB\nMemFree: 3 kB\n"), 16 << 10);
    }

    #[test]
    fn this_machine_is_described() {
        let directory = tempfile::tempdir().unwrap();
        let machine = describe_machine(Some(directory.path())).unwrap();
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 20, "{machine:?}");
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(!machine.cpu.is_empty() && machine.file_system != "unknown", "{machine:?}");
        let disk = machine.disk.unwrap();
        assert!(disk.samples > 0 && disk.p50_ms > 0.0 && disk.p50_ms <= disk.p99_ms);
        assert_eq!(describe_machine(None).unwrap().disk, None);
        assert!(describe_machine(Some(&directory.path().join("missing"))).is_err());
    }
}
