//! A small file system of its own, which can be filled to the last byte.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use rustix::fs::{FallocateFlags, fallocate};
use tempfile::TempDir;

/// Room for a node's journal and store under the load here.
const BYTES: u64 = 1 << 30;

/// A file system on a loop device, mounted below a temporary directory. Unmounted when dropped; who
/// has files open there must have ended.
pub struct SmallDisk {
    /// Holds the image and the place where it is mounted.
    directory: TempDir,
    is_mounted: bool,
}

impl SmallDisk {
    /// Makes one below `parent`, or the system's place for temporary files.
    ///
    /// # Errors
    ///
    /// If this is not root, the tools are missing, or the system has no loop mounts.
    pub fn mount(parent: Option<&Path>) -> anyhow::Result<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            bail!("a loop mount needs root");
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix("flotilla-chaos-disk-");
        let directory = match parent {
            Some(parent) => builder.tempdir_in(parent)?,
            None => builder.tempdir()?,
        };
        let mut disk = SmallDisk { directory, is_mounted: false };
        let image = disk.directory.path().join("image");
        File::create(&image)?.set_len(BYTES)?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &image])?;
        fs::create_dir(disk.place())?;
        run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &disk.place()])?;
        disk.is_mounted = true;
        Ok(disk)
    }

    fn place(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn filler(&self) -> PathBuf {
        self.place().join("filler")
    }

    /// A directory on it, which a node may take, move and remove.
    pub fn data_directory(&self) -> PathBuf {
        self.place().join("data")
    }

    /// Takes all that is free.
    ///
    /// # Errors
    ///
    /// If that is refused for another reason than that there is nothing left.
    pub fn fill(&self) -> anyhow::Result<()> {
        let filler = File::create(self.filler())?;
        let mut length = 0;
        // Others take and give room meanwhile, and the file system needs some for its own lists.
        for step in [64 << 20, 1 << 20, 4 << 10] {
            loop {
                if length > BYTES {
                    bail!("{} takes more than the disk has", self.filler().display());
                }
                match fallocate(&filler, FallocateFlags::empty(), length, step) {
                    Ok(()) => length += step,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(error) => return Err(error).context("cannot fill the small disk"),
                }
            }
        }
        Ok(())
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// If the file system refuses.
    pub fn free(&self) -> anyhow::Result<()> {
        match fs::remove_file(self.filler()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Leaves it mounted, for a look at what went wrong; returns where.
    pub fn keep(mut self) -> PathBuf {
        self.is_mounted = false;
        let place = self.place();
        self.directory.disable_cleanup(true);
        place
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.is_mounted
            && let Err(error) = run("umount", &[&self.place()])
        {
            eprintln!("warning: {error:#}");
        }
    }
}

fn run(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
