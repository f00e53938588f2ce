//! What lanes and groups tell Prometheus.
//!
//! Nothing is labelled by group: a node hosts thousands. The write path reads as a waterfall:
//! queued (door to proposal), journal (in the journal's own metrics), committed (proposal to
//! applied).

use crate::budget::{Budget, Part, Rule};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// The shard layer's metrics of one node. Clones share the cells.
#[derive(Clone)]
pub struct ShardMetrics {
    /// From the door to the proposal.
    pub write_queued: Histogram,
    /// From the proposal to the answer: replication, both journals, and apply.
    pub write_committed: Histogram,
    /// From the door to the answer of a read.
    pub read_duration: Histogram,
    /// Linearizable reads that cost no message.
    pub reads_by_lease: IntCounter,
    /// Linearizable reads that waited for a round.
    pub reads_by_round: IntCounter,
    reads: IntCounterVec,
    /// A replica learnt of a new leader.
    pub leader_changes: IntCounter,
    /// Proposals that another leader's entries replaced; their callers were told.
    pub proposals_lost: IntCounter,
    /// Replicas whose rows turned out to be damaged.
    pub rows_lost: IntCounter,
    /// Snapshots that took the place of a replica's rows.
    pub snapshots_installed: IntCounter,
    /// Bytes of log that all replicas of the node keep in the journal.
    pub log_bytes: IntGauge,
    memory_bytes: IntGaugeVec,
    /// Those of `memory_bytes`, in the order of [`Part::ALL`].
    memory_parts: Vec<IntGauge>,
    door_limit_bytes: IntGauge,
    door_refusals: IntCounterVec,
    /// Those of `door_refusals`, in the order of [`Rule::ALL`].
    door_rules: Vec<IntCounter>,
}

impl Default for ShardMetrics {
    fn default() -> Self {
        ShardMetrics::new()
    }
}

impl ShardMetrics {
    /// Cells that count from zero.
    ///
    /// # Panics
    ///
    /// Never: names and buckets are constants that a test has seen.
    pub fn new() -> ShardMetrics {
        let memory_bytes = IntGaugeVec::new(
            Opts::new(
                "flotilla_memory_bytes",
                "Bytes held for requests, by the part of the node that holds them.",
            ),
            &["part"],
        )
        .expect("name, help and label are valid");
        let part = |part: &Part| memory_bytes.with_label_values(&[part.as_str()]);
        let memory_parts = Part::ALL.iter().map(part).collect();
        let door_refusals = IntCounterVec::new(
            Opts::new(
                "flotilla_door_refusals_total",
                "Requests that were answered as busy at the door, by the rule that closed it.",
            ),
            &["rule"],
        )
        .expect("name, help and label are valid");
        let rule = |rule: &Rule| door_refusals.with_label_values(&[rule.as_str()]);
        let door_rules = Rule::ALL.iter().map(rule).collect();
        let reads = IntCounterVec::new(
            Opts::new(
                "flotilla_shard_reads_total",
                "Linearizable reads on the leader's node, by what proved that they are current.",
            ),
            &["by"],
        )
        .expect("name, help and label are valid");
        ShardMetrics {
            memory_bytes,
            memory_parts,
            door_refusals,
            door_rules,
            door_limit_bytes: IntGauge::new(
                "flotilla_door_limit_bytes",
                "Bytes of requests that may be under way, by what the node finished of late.",
            )
            .expect("name and help are valid"),
            write_queued: histogram(
                "flotilla_shard_write_queued_seconds",
                "Time from a write's arrival on the leader's node to its proposal.",
            ),
            write_committed: histogram(
                "flotilla_shard_write_committed_seconds",
                "Time from a write's proposal until it was committed and applied on the leader.",
            ),
            read_duration: histogram(
                "flotilla_shard_read_duration_seconds",
                "Time from a linearizable read's arrival on the leader's node to its answer.",
            ),
            reads_by_lease: reads.with_label_values(&["lease"]),
            reads_by_round: reads.with_label_values(&["round"]),
            reads,
            leader_changes: counter(
                "flotilla_shard_leader_changes_total",
                "Changes of the known leader, summed over the replicas of this node.",
            ),
            proposals_lost: counter(
                "flotilla_shard_proposals_lost_total",
                "Proposals that were replaced by another leader's entries and refused.",
            ),
            rows_lost: counter(
                "flotilla_shard_rows_lost_total",
                "Replicas whose rows turned out to be damaged and are replaced by a snapshot.",
            ),
            snapshots_installed: counter(
                "flotilla_shard_snapshots_installed_total",
                "Snapshots that took the place of a replica's rows.",
            ),
            log_bytes: IntGauge::new(
                "flotilla_shard_log_bytes",
                "Bytes of log that the replicas of this node keep in the journal.",
            )
            .expect("name and help are valid"),
        }
    }

    /// Adds all cells to `registry`.
    ///
    /// # Errors
    ///
    /// When a name is taken: each node needs a registry of its own.
    pub fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.write_queued.clone()))?;
        registry.register(Box::new(self.write_committed.clone()))?;
        registry.register(Box::new(self.read_duration.clone()))?;
        registry.register(Box::new(self.reads.clone()))?;
        registry.register(Box::new(self.leader_changes.clone()))?;
        registry.register(Box::new(self.proposals_lost.clone()))?;
        registry.register(Box::new(self.rows_lost.clone()))?;
        registry.register(Box::new(self.snapshots_installed.clone()))?;
        registry.register(Box::new(self.log_bytes.clone()))?;
        registry.register(Box::new(self.memory_bytes.clone()))?;
        registry.register(Box::new(self.door_limit_bytes.clone()))?;
        registry.register(Box::new(self.door_refusals.clone()))
    }

    /// Shows what `budget` holds now.
    pub(crate) fn show(&self, budget: &Budget) {
        for (part, gauge) in Part::ALL.into_iter().zip(&self.memory_parts) {
            gauge.set(i64::try_from(budget.part_bytes(part)).unwrap_or(i64::MAX));
        }
        let limit_bytes = budget.paced_bytes_max().unwrap_or_else(|| budget.bytes_max());
        self.door_limit_bytes.set(i64::try_from(limit_bytes).unwrap_or(i64::MAX));
        for (rule, counter) in Rule::ALL.into_iter().zip(&self.door_rules) {
            // Only shown here, and by one thread: the first lane.
            counter.inc_by(budget.refusals(rule).saturating_sub(counter.get()));
        }
    }
}

fn histogram(name: &str, help: &str) -> Histogram {
    let buckets = exponential_buckets(100e-6, 2.0, 17).expect("start, factor and count are valid");
    let options = HistogramOpts::new(name, help).buckets(buckets);
    Histogram::with_opts(options).expect("name and help are valid")
}

fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("name and help are valid")
}
