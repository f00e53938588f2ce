//! What can be broken on this machine, and why not the rest.

use std::collections::BTreeMap;

use super::disk::SmallDisk;
use super::fault::Kind;

/// What there is to break things with.
#[derive(Default)]
pub struct Tools {
    missing: BTreeMap<Kind, String>,
    small_disk: Option<SmallDisk>,
}

impl Tools {
    /// `kind` cannot be done here, for `reason`.
    pub fn lack(&mut self, kind: Kind, reason: &str) {
        self.missing.insert(kind, reason.to_owned());
    }

    /// Why `kind` cannot be done; `None` if it can.
    pub fn missing(&self, kind: Kind) -> Option<&str> {
        self.missing.get(&kind).map(String::as_str)
    }

    /// The disk that can be filled.
    pub fn set_small_disk(&mut self, disk: SmallDisk) {
        self.small_disk = Some(disk);
    }

    /// The disk that can be filled, if there is one.
    pub fn small_disk(&self) -> Option<&SmallDisk> {
        self.small_disk.as_ref()
    }

    /// Takes that disk away; its node must have ended if it is dropped then.
    pub fn take_small_disk(&mut self) -> Option<SmallDisk> {
        self.small_disk.take()
    }
}
