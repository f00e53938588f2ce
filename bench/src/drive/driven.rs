//! What a drive came to.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::Latencies;
use crate::target::OperationKind;

/// What a drive came to. Only successes have latencies: a refusal is quick and would flatter.
#[derive(Clone, Default)]
pub struct Driven {
    /// From the first measured operation to the last answer.
    pub elapsed: Duration,
    /// Latencies of what succeeded, by kind; from the intended start in an open loop.
    pub per_operation: BTreeMap<OperationKind, Latencies>,
    /// Operations that certainly had no effect, by reason.
    pub errors: BTreeMap<String, u64>,
    /// Operations of which nobody knows, by reason.
    pub unknown: BTreeMap<String, u64>,
    /// Gets and read-modify-writes that found nothing; they count as successes.
    pub misses: u64,
    /// Rows that scans read.
    pub scanned_rows: u64,
    /// What happened in each second, by the time of the answer.
    pub series: Vec<Second>,
    /// Bytes of keys and values of all acknowledged writes.
    pub user_bytes_written: u64,
}

impl Driven {
    /// How many operations succeeded.
    pub fn operations(&self) -> u64 {
        self.per_operation.values().map(Latencies::count).sum()
    }

    /// Latencies of all kinds together.
    pub fn latencies(&self) -> Latencies {
        let mut all = Latencies::new();
        self.per_operation.values().for_each(|latencies| all.merge(latencies));
        all
    }

    /// Successes of all kinds per second.
    pub fn per_second(&self) -> f64 {
        crate::latency::per_second(self.operations(), self.elapsed)
    }

    /// True if everything was answered as it should be.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.unknown.is_empty()
    }

    /// Adds what another thread saw; elapsed time and series are the caller's.
    pub fn merge(&mut self, other: &Driven) {
        for (kind, latencies) in &other.per_operation {
            self.per_operation.entry(*kind).or_default().merge(latencies);
        }
        for (reason, count) in &other.errors {
            *self.errors.entry(reason.clone()).or_default() += count;
        }
        for (reason, count) in &other.unknown {
            *self.unknown.entry(reason.clone()).or_default() += count;
        }
        self.misses += other.misses;
        self.scanned_rows += other.scanned_rows;
        self.user_bytes_written += other.user_bytes_written;
    }
}

/// One second of a drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// Successes.
    pub operations: u64,
    /// Certainly without effect.
    pub errors: u64,
    /// Nobody knows.
    pub unknown: u64,
    /// 99 of 100 successes took at most this; 0 without any.
    pub p99_ms: f64,
}

/// What others may look at while a drive runs.
#[derive(Debug, Default)]
pub struct Progress {
    seconds: Mutex<Vec<Second>>,
}

impl Progress {
    /// The seconds of the measurement that are over. Warming up is not counted.
    pub fn seconds(&self) -> Vec<Second> {
        self.seconds.lock().expect("no holder panics").clone()
    }

    /// The latest of them.
    pub fn latest(&self) -> Option<Second> {
        self.seconds.lock().expect("no holder panics").last().copied()
    }

    pub(super) fn push(&self, second: Second) {
        self.seconds.lock().expect("no holder panics").push(second);
    }
}
