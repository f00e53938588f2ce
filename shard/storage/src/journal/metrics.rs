//! Numbers of the journal thread for Prometheus.
//!
//! Passed in, never global: several nodes may live in one process.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntGauge, Registry, core::Collector, exponential_buckets,
};

use super::JournalStats;

/// The journal's metrics. Clones share the values.
#[derive(Clone)]
pub struct JournalMetrics {
    pub(super) write_duration_seconds: Histogram,
    pub(super) sync_duration_seconds: Histogram,
    pub(super) wait_duration_seconds: Histogram,
    pub(super) batch_bytes: Histogram,
    pub(super) batch_records: Histogram,
    bytes_written_total: IntCounter,
    rewritten_bytes_total: IntCounter,
    corrupt_records_total: IntCounter,
    segments: IntGauge,
    disk_bytes: IntGauge,
    live_bytes: IntGauge,
    full: IntGauge,
}

impl Default for JournalMetrics {
    fn default() -> JournalMetrics {
        JournalMetrics::new()
    }
}

impl JournalMetrics {
    /// New metrics, all zero, registered nowhere.
    pub fn new() -> JournalMetrics {
        JournalMetrics {
            write_duration_seconds: duration(
                "flotilla_journal_write_duration_seconds",
                "Time to encode and write what one sync covers.",
            ),
            sync_duration_seconds: duration(
                "flotilla_journal_sync_duration_seconds",
                "Time of one sync of the journal.",
            ),
            wait_duration_seconds: duration(
                "flotilla_journal_wait_duration_seconds",
                "Time from submission of writes until they are durable.",
            ),
            batch_bytes: histogram(
                "flotilla_journal_batch_bytes",
                "Bytes written per sync.",
                4096.0,
                15,
            ),
            batch_records: histogram(
                "flotilla_journal_batch_records",
                "Records written per sync.",
                1.0,
                17,
            ),
            bytes_written_total: counter(
                "flotilla_journal_bytes_written_total",
                "Bytes of batches written.",
            ),
            rewritten_bytes_total: counter(
                "flotilla_journal_rewritten_bytes_total",
                "Bytes of records rewritten forward to free old segments.",
            ),
            corrupt_records_total: counter(
                "flotilla_journal_corrupt_records_total",
                "Damaged records met by recovery or while rewriting.",
            ),
            segments: gauge("flotilla_journal_segments", "Segments that hold batches."),
            disk_bytes: gauge(
                "flotilla_journal_disk_bytes",
                "Bytes of all journal files, spares included.",
            ),
            live_bytes: gauge(
                "flotilla_journal_live_bytes",
                "Bytes of records that are still needed.",
            ),
            full: gauge(
                "flotilla_journal_full",
                "1 if the disk had no space for the journal when it was last tried, or the journal lives on \
                 its reserve.",
            ),
        }
    }

    /// Registers all of them.
    ///
    /// # Errors
    ///
    /// When a name is taken in `registry`.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let collectors: [Box<dyn Collector>; 12] = [
            Box::new(self.write_duration_seconds.clone()),
            Box::new(self.sync_duration_seconds.clone()),
            Box::new(self.wait_duration_seconds.clone()),
            Box::new(self.batch_bytes.clone()),
            Box::new(self.batch_records.clone()),
            Box::new(self.bytes_written_total.clone()),
            Box::new(self.rewritten_bytes_total.clone()),
            Box::new(self.corrupt_records_total.clone()),
            Box::new(self.segments.clone()),
            Box::new(self.disk_bytes.clone()),
            Box::new(self.live_bytes.clone()),
            Box::new(self.full.clone()),
        ];
        for collector in collectors {
            registry.register(collector)?;
        }
        Ok(())
    }

    /// Takes over what changed from `before` to `now`.
    pub(super) fn update(&self, before: &JournalStats, now: &JournalStats) {
        self.bytes_written_total.inc_by(now.bytes_written - before.bytes_written);
        self.rewritten_bytes_total.inc_by(now.rewritten_bytes - before.rewritten_bytes);
        self.corrupt_records_total.inc_by(now.corrupt_records - before.corrupt_records);
        self.segments.set(now.segments as i64);
        self.disk_bytes.set(now.disk_bytes as i64);
        self.live_bytes.set(now.live_bytes as i64);
        self.full.set(i64::from(now.full));
    }
}

fn duration(name: &str, help: &str) -> Histogram {
    histogram(name, help, 100e-6, 16)
}

/// Buckets that double from `start`.
fn histogram(name: &str, help: &str, start: f64, count: usize) -> Histogram {
    let buckets = exponential_buckets(start, 2.0, count).expect("valid constants");
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets)).expect("a valid name")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("a valid name")
}

fn gauge(name: &str, help: &str) -> IntGauge {
    IntGauge::new(name, help).expect("a valid name")
}
