//! What a measurement came to, as commands hand it to each other and as `result.json` holds it.
//!
//! Every command that measures makes a [`Document`]: one or more [`RunResult`]s. Tables, pictures
//! and comparisons know nothing else, so that a stored file tells as much as a fresh run.
//!
//! Invariants:
//!
//! * A figure carries its unit in its name; `None` means "was not measured", never zero.
//! * Errors (certainly without effect) and unknown outcomes are counted apart, and neither counts
//!   as an operation.
//! * A file of another schema is refused with words ([`ReadError::Schema`]). Fields may be added
//!   within a schema if reading an older file can leave them out.
//!
//! What is absent: how anything was measured, and what it means.

mod file;
mod operation;
mod rounds;
#[cfg(test)]
pub mod sample;

pub use file::{RESULT_FILE, ReadError};
pub use operation::OperationResult;
pub use rounds::{Measurement, median};

pub use crate::drive::Second;
pub use crate::target::Description;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of what this program writes, and the only one that it reads.
pub const SCHEMA: u32 = 1;

/// What one command measured: the content of `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// What the results are to each other.
    pub kind: Kind,
    /// The command line that measured this, as it was typed.
    #[serde(default)]
    pub command: String,
    /// In the order in which they were measured. Several of the same name and settings are rounds
    /// of one measurement.
    pub results: Vec<RunResult>,
    /// What could not be measured, and why.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

/// What the results of a document are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// One workload, once or in several rounds.
    Run,
    /// One workload at one offered rate after the other.
    Sweep,
    /// One workload over numbers of shards or of clients.
    Scale,
    /// The same workloads against different stores.
    Peers,
    /// A workload while nodes die.
    Failover,
}

/// Something that could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The name that its result would have had.
    pub name: String,
    /// Why, and what would help.
    pub reason: String,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// [`SCHEMA`] of the program that wrote it.
    pub schema: u32,
    /// What was measured, unique among different measurements of one document: `ycsb-a`,
    /// `etcd put`.
    pub name: String,
    /// Which repetition this is, from 1.
    #[serde(default = "one")]
    pub round: u32,
    /// When the measurement began, RFC 3339, UTC.
    pub started_at: String,
    /// What the harness was built from, as [`crate::measure::revision`] tells it.
    pub revision: String,
    /// Where.
    pub machine: Machine,
    /// Against what.
    pub target: Description,
    /// How.
    pub settings: RunSettings,
    /// From the first request to the last reply, warm-up excluded, in seconds.
    pub elapsed_s: f64,
    /// By kind of operation (`get`, `put`); only those that succeeded.
    pub operations: BTreeMap<String, OperationResult>,
    /// Successes of all kinds each second.
    pub per_second_total: f64,
    /// How many had certainly no effect, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Of how many nobody knows whether they took effect, by reason.
    pub unknown: BTreeMap<String, u64>,
    /// Reads that found nothing; they count as successes.
    #[serde(default)]
    pub misses: u64,
    /// Rows that scans read.
    #[serde(default)]
    pub scanned_rows: u64,
    /// What happened in each whole second, from the first.
    pub series: Vec<Second>,
    /// What was done to the store meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What it cost.
    pub cost: Cost,
    /// Latency curves by kind of operation: quantile (0 to 1) and milliseconds, ascending.
    #[serde(default)]
    pub percentiles: BTreeMap<String, Vec<(f64, f64)>>,
    /// Further figures that only this kind of run has: gaps, keys read.
    #[serde(default)]
    pub figures: Vec<Figure>,
    /// What a reader must know about the figures, in sentences.
    #[serde(default)]
    pub notes: Vec<String>,
}

fn one() -> u32 {
    1
}

impl RunResult {
    /// Successes of all kinds.
    pub fn operations_total(&self) -> u64 {
        self.operations.values().map(|operation| operation.operations).sum()
    }

    /// Operations that certainly had no effect, of all reasons.
    pub fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Operations of unknown outcome, of all reasons.
    pub fn unknown_total(&self) -> u64 {
        self.unknown.values().sum()
    }

    /// True if everything was answered as it should be.
    pub fn is_clean(&self) -> bool {
        self.errors_total() == 0 && self.unknown_total() == 0
    }
}

/// How a measurement was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSettings {
    /// The workload with its mix: `ycsb-a (50 % get, 50 % put)`.
    pub workload: String,
    /// Connections, or tasks in process.
    pub clients: u32,
    /// Requests in flight on each connection.
    pub pipeline: u32,
    /// Keys of one put.
    #[serde(default = "one")]
    pub batch: u32,
    /// Operations offered each second; `None`: a closed loop, where a client asks again when it was
    /// answered.
    pub rate: Option<f64>,
    /// How offered operations are spaced: `poisson`, `even`; empty for a closed loop.
    #[serde(default)]
    pub arrivals: String,
    /// Seconds that were measured, as asked for.
    pub duration_s: f64,
    /// Seconds of load before that.
    pub warmup_s: f64,
    /// How many keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// How keys are chosen: `zipfian 0.99`.
    pub distribution: String,
    /// What chose them.
    pub seed: u64,
    /// Into how many shards the keys are cut, where that can be told.
    pub shards: Option<u32>,
}

/// Something that was done to the store during a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since the measurement began.
    pub at_s: f64,
    /// What, in few words: `leader killed`.
    pub label: String,
}

/// What a measurement cost. `None` where it was not or cannot be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// CPU time of all servers for each successful operation, in microseconds.
    pub server_cpu_us_per_op: Option<f64>,
    /// CPU time of the load itself, likewise.
    pub client_cpu_us_per_op: Option<f64>,
    /// Both together, likewise: all that is known of a store in the process of the harness.
    #[serde(default)]
    pub total_cpu_us_per_op: Option<f64>,
    /// Bytes that the servers made the system write to its disks, for each byte of key and value
    /// that was acknowledged as written.
    pub written_bytes_per_logical_byte: Option<f64>,
    /// The most memory that the servers had resident at once, together, in bytes.
    pub resident_bytes_max: Option<u64>,
}

/// A figure that only one kind of run has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is: `longest write gap`.
    pub label: String,
    /// How much.
    pub value: f64,
    /// Of what: `ms`; empty for counts.
    pub unit: String,
}

/// Where a measurement was made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The model of the processor, as the kernel tells it.
    pub cpu: String,
    /// How many processors this program may use.
    pub cores: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Name and release of the kernel.
    pub kernel: String,
    /// The type of the file system that holds the data.
    pub file_system: String,
    /// True if the kernel knows that it runs on a virtual machine.
    pub virtualized: bool,
    /// What the disk gives; `None` where no data is stored.
    pub disk: Option<DiskProbe>,
}

/// What a disk gives: writes of 4 KiB, each synced, one at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DiskProbe {
    /// How many were measured.
    pub samples: u64,
    /// The median, in milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took at most this, in milliseconds.
    pub p99_ms: f64,
}
