//! What the store tells Prometheus. A value, not globals: several nodes live in one process.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The store's metrics. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct StoreMetrics {
    pub(crate) checkpoint_duration_seconds: Histogram,
    pub(crate) checkpoint_rows: Histogram,
    pub(crate) checkpoint_bytes_total: IntCounter,
    pub(crate) checkpoint_failures_total: IntCounter,
    pub(crate) rewrites_total: IntCounter,
    pub(crate) reopens_total: IntCounter,
    pub(crate) renewals_total: IntCounter,
    pub(crate) memtables: MemtableGauges,
    pub(crate) import_bytes_total: IntCounter,
    pub(crate) imports_total: IntCounter,
    pub(crate) exports_open: IntGauge,
    pub(crate) unavailable: IntGauge,
    pub(crate) frozen_memtables: IntGauge,
    pub(crate) redb_file_bytes: IntGauge,
    pub(crate) live_bytes: IntGauge,
    pub(crate) checkpoints_total: IntCounter,
    reads_total: IntCounterVec,
    pub(crate) reads_from_memtable: IntCounter,
    pub(crate) reads_from_merged: IntCounter,
    pub(crate) reads_from_base: IntCounter,
    pub(crate) corruptions_total: IntCounter,
    pub(crate) read_pool_panics_total: IntCounter,
}

/// Memory held by memtables, by whether redb holds their rows too.
#[derive(Clone, Debug)]
pub(crate) struct MemtableGauges {
    pub(crate) unmerged_bytes: IntGauge,
    pub(crate) merged_bytes: IntGauge,
}

impl StoreMetrics {
    /// Metrics that count, but are not registered anywhere yet.
    pub fn new() -> StoreMetrics {
        let reads_total = IntCounterVec::new(
            Opts::new("flotilla_store_reads_total", "Point reads answered, by where the row lay."),
            &["from"],
        )
        .expect("a valid metric");
        StoreMetrics {
            checkpoint_duration_seconds: histogram(
                "flotilla_store_checkpoint_duration_seconds",
                "Time that one checkpoint took, from merging memtables to its durable commit.",
                prometheus::exponential_buckets(0.001, 2.0, 14),
            ),
            checkpoint_rows: histogram(
                "flotilla_store_checkpoint_rows",
                "Rows that one checkpoint merged into redb.",
                prometheus::exponential_buckets(1.0, 8.0, 8),
            ),
            checkpoint_bytes_total: counter(
                "flotilla_store_checkpoint_bytes_total",
                "Bytes that checkpoints wrote to the redb file.",
            ),
            checkpoint_failures_total: counter(
                "flotilla_store_checkpoint_failures_total",
                "Checkpoint commits that failed and were tried again after reopening.",
            ),
            rewrites_total: counter(
                "flotilla_store_rewrites_total",
                "Shards whose rows a checkpoint rewrote into a new table.",
            ),
            reopens_total: counter(
                "flotilla_store_reopens_total",
                "Times that the redb file was opened again after a failure.",
            ),
            renewals_total: counter(
                "flotilla_store_renewals_total",
                "Times that the redb file was written anew because it took no commit any more.",
            ),
            memtables: MemtableGauges {
                unmerged_bytes: gauge(
                    "flotilla_store_memtable_bytes",
                    "Memory held by memtables, active and frozen, of all shards.",
                ),
                merged_bytes: gauge(
                    "flotilla_store_merged_memtable_bytes",
                    "Memory held by memtables that redb holds too and that answer reads.",
                ),
            },
            import_bytes_total: counter(
                "flotilla_store_import_bytes_total",
                "Bytes of rows written by imports of whole shards.",
            ),
            imports_total: counter(
                "flotilla_store_imports_total",
                "Shards whose rows were replaced as a whole by an import.",
            ),
            exports_open: gauge(
                "flotilla_store_exports_open",
                "Exports that pin a state of the redb file, which grows meanwhile.",
            ),
            unavailable: gauge(
                "flotilla_store_unavailable",
                "1 while the disk under the store fails or is full, else 0.",
            ),
            frozen_memtables: gauge(
                "flotilla_store_frozen_memtables",
                "Memtables frozen and not yet merged into redb.",
            ),
            redb_file_bytes: gauge("flotilla_store_redb_file_bytes", "Length of the redb file."),
            live_bytes: gauge(
                "flotilla_store_live_bytes",
                "Bytes of keys and stored values of all rows in the redb file.",
            ),
            checkpoints_total: counter(
                "flotilla_store_checkpoints_total",
                "Checkpoints completed; one of much data takes several commits.",
            ),
            reads_from_memtable: reads_total.with_label_values(&["memtable"]),
            reads_from_merged: reads_total.with_label_values(&["merged"]),
            reads_from_base: reads_total.with_label_values(&["redb"]),
            reads_total,
            corruptions_total: counter(
                "flotilla_store_corruptions_total",
                "Rows and records that failed their checksum when read.",
            ),
            read_pool_panics_total: counter(
                "flotilla_store_read_pool_panics_total",
                "Jobs of the read pool that panicked.",
            ),
        }
    }

    /// Checkpoints completed.
    pub fn checkpoints_total(&self) -> u64 {
        self.checkpoints_total.get()
    }

    /// Registers everything with `registry`.
    ///
    /// # Errors
    ///
    /// If one of the names is registered there already, for example by another node's metrics.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        let collectors: [Box<dyn Collector>; 20] = [
            Box::new(self.checkpoint_duration_seconds.clone()),
            Box::new(self.checkpoint_rows.clone()),
            Box::new(self.checkpoint_bytes_total.clone()),
            Box::new(self.checkpoint_failures_total.clone()),
            Box::new(self.rewrites_total.clone()),
            Box::new(self.reopens_total.clone()),
            Box::new(self.renewals_total.clone()),
            Box::new(self.memtables.unmerged_bytes.clone()),
            Box::new(self.memtables.merged_bytes.clone()),
            Box::new(self.import_bytes_total.clone()),
            Box::new(self.imports_total.clone()),
            Box::new(self.exports_open.clone()),
            Box::new(self.unavailable.clone()),
            Box::new(self.frozen_memtables.clone()),
            Box::new(self.redb_file_bytes.clone()),
            Box::new(self.live_bytes.clone()),
            Box::new(self.checkpoints_total.clone()),
            Box::new(self.reads_total.clone()),
            Box::new(self.corruptions_total.clone()),
            Box::new(self.read_pool_panics_total.clone()),
        ];
        collectors.into_iter().try_for_each(|collector| registry.register(collector))
    }
}

impl Default for StoreMetrics {
    fn default() -> StoreMetrics {
        StoreMetrics::new()
    }
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a valid metric")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid metric")
}

fn histogram(name: &str, help: &str, buckets: prometheus::Result<Vec<f64>>) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.expect("valid buckets"));
    Histogram::with_opts(options).expect("a valid metric")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_agree() {
        let registry = Registry::new();
        StoreMetrics::new().register(&registry).unwrap();
        for family in registry.gather() {
            let name = family.name();
            let is_counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert!(name.starts_with("flotilla_store_"), "{name}");
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            assert!(family.help().ends_with('.'), "{name}");
        }
    }

    #[test]
    fn a_second_registration_is_refused() {
        let registry = Registry::new();
        StoreMetrics::new().register(&registry).unwrap();
        assert!(StoreMetrics::new().register(&registry).is_err());
    }
}
