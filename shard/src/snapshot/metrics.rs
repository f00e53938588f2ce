//! What the snapshot service counts. Nothing is labelled by group: a node hosts thousands.

use super::message::{AbortReason, DeclineReason};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// The snapshot metrics of one node. Clones share the cells.
#[derive(Clone)]
pub struct SnapshotMetrics {
    pub(crate) sent: IntCounter,
    pub(crate) received: IntCounter,
    pub(crate) bytes: IntCounterVec,
    pub(crate) duration: HistogramVec,
    pub(crate) failures: IntCounterVec,
    pub(crate) in_progress: IntGaugeVec,
}

/// The `reason` of a swap that failed.
pub(crate) const INSTALL_FAILED: &str = "install_failed";
/// The `direction` of what leaves.
pub(crate) const OUT: &str = "out";
/// The `direction` of what comes.
pub(crate) const IN: &str = "in";

impl Default for SnapshotMetrics {
    fn default() -> Self {
        SnapshotMetrics::new()
    }
}

impl SnapshotMetrics {
    /// Cells that count from zero.
    ///
    /// # Panics
    ///
    /// Never: names and buckets are constants that a test has seen.
    pub fn new() -> SnapshotMetrics {
        let counter =
            |name: &str, help: &str| IntCounter::new(name, help).expect("name and help are valid");
        let counters = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("name and help are valid")
        };
        let buckets = exponential_buckets(0.01, 2.0, 18).expect("start, factor, count are valid");
        let duration = HistogramOpts::new(
            "flotilla_snapshot_duration_seconds",
            "Time from the offer of a snapshot until it was installed.",
        );
        let metrics = SnapshotMetrics {
            sent: counter(
                "flotilla_snapshots_sent_total",
                "Snapshots that a follower has installed.",
            ),
            received: counter(
                "flotilla_snapshots_received_total",
                "Snapshots that were installed on this node.",
            ),
            bytes: counters(
                "flotilla_snapshot_bytes_total",
                "Bytes of rows in snapshot chunks, sent or received.",
                &["direction"],
            ),
            duration: HistogramVec::new(duration.buckets(buckets), &["direction"])
                .expect("name and help are valid"),
            failures: counters(
                "flotilla_snapshot_failures_total",
                "Snapshot transfers that ended without being installed.",
                &["direction", "reason"],
            ),
            in_progress: IntGaugeVec::new(
                Opts::new(
                    "flotilla_snapshots_in_progress",
                    "Snapshot transfers under way, those that are still being asked for included.",
                ),
                &["direction"],
            )
            .expect("name and help are valid"),
        };
        // All series are there from the start: a missing one cannot be told from a silent node.
        for direction in [IN, OUT] {
            metrics.bytes.with_label_values(&[direction]);
            metrics.duration.with_label_values(&[direction]);
            metrics.in_progress.with_label_values(&[direction]);
            let declined = DeclineReason::ALL.map(DeclineReason::name);
            let aborted = AbortReason::ALL.map(AbortReason::name);
            for reason in declined.into_iter().chain(aborted).chain([INSTALL_FAILED]) {
                metrics.failures.with_label_values(&[direction, reason]);
            }
        }
        metrics
    }

    /// Adds all cells to `registry`.
    ///
    /// # Errors
    ///
    /// When a name is taken: each node needs a registry of its own.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.sent.clone()))?;
        registry.register(Box::new(self.received.clone()))?;
        registry.register(Box::new(self.bytes.clone()))?;
        registry.register(Box::new(self.duration.clone()))?;
        registry.register(Box::new(self.failures.clone()))?;
        registry.register(Box::new(self.in_progress.clone()))
    }
}
