//! What is measured beside latencies: the machine, the revision, and what processes consume.
//!
//! * [`describe_machine`] says where a figure was made; a throughput figure without the disk's
//!   sync time beside it says little.
//! * [`revision`] says what the harness was built from.
//! * A [`Meter`] counts CPU time and memory of processes, and bytes written to a [`Device`], while a
//!   load runs.
//!
//! What is absent: operations. Who knows how many there were turns a [`Usage`] into a
//! [`crate::result::Cost`] with [`Usage::cost`].

mod device;
mod machine;
mod meter;
mod revision;

pub use device::Device;
pub use machine::describe_machine;
pub use meter::{MeasureError, Meter, Usage};
pub use revision::revision;

use std::time::SystemTime;

/// The present moment as results tell it: RFC 3339, UTC, whole seconds.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}
