//! What a node tells Prometheus about itself as a whole, and how all metrics are named.
//!
//! Each crate counts what it does in a struct of its own; the node assembly registers all of them
//! in one [`Registry`] per engine, so that several engines live in one process. Here are the
//! figures that belong to no part: the build, the shards by role, how far they lag.
//!
//! Invariants, held by tests:
//!
//! * Every name begins with `flotilla_`, except those of the process, which begin with `process_`
//!   because dashboards know them by that name.
//! * Units are base units and stand last: `_seconds`, `_bytes`, `_entries`; `_total` ends counters
//!   and nothing else.
//! * No label names a shard or a key: the number of series does not grow with the data. What one
//!   shard does is in the status.
//! * Every metric is listed in `docs/metrics.md`.

use std::fmt;
use std::sync::Arc;

use flotilla_shard::{Role, ShardStatus};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// Lags of a replica, in committed entries that it has not applied, above which it is counted.
const LAG_STEPS: [(u64, &str); 4] = [(0, "0"), (100, "100"), (1_000, "1000"), (10_000, "10000")];

const ROLES: [Role; 3] = [Role::Leader, Role::Follower, Role::Candidate];

/// Registers the figures of the node as a whole, and those of the process. `statuses` is asked
/// whenever the registry is gathered; it must not block.
///
/// # Errors
///
/// When `registry` already holds metrics of these names.
pub(crate) fn register(
    registry: &Registry,
    statuses: impl Fn() -> Vec<ShardStatus> + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    let build = IntGaugeVec::new(
        Opts::new("flotilla_build_info", "Always 1; the labels say which build runs."),
        &["version"],
    )?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    registry.register(Box::new(Shards::new(Arc::new(statuses))?))
}

/// Registers the gauge that says whether this node listens beyond loopback without TLS, so that an
/// alert can ask for it.
///
/// # Errors
///
/// When `registry` already holds a metric of this name.
pub fn register_insecure(registry: &Registry, insecure: bool) -> Result<(), prometheus::Error> {
    let gauge = IntGauge::new(
        "flotilla_insecure",
        "1 if the node listens beyond loopback without encryption and authentication, else 0.",
    )?;
    gauge.set(i64::from(insecure));
    registry.register(Box::new(gauge))
}

type Statuses = Arc<dyn Fn() -> Vec<ShardStatus> + Send + Sync>;

/// Figures over all local replicas, made when asked for.
struct Shards {
    statuses: Statuses,
    by_role: IntGaugeVec,
    leaderless: IntGauge,
    suspect: IntGauge,
    lagging: IntGaugeVec,
    lag_max: IntGauge,
    keys: IntGauge,
}

impl Shards {
    fn new(statuses: Statuses) -> Result<Shards, prometheus::Error> {
        Ok(Shards {
            statuses,
            by_role: IntGaugeVec::new(
                Opts::new("flotilla_shards", "Replicas on this node, by their role."),
                &["role"],
            )?,
            leaderless: IntGauge::new(
                "flotilla_shards_leaderless",
                "Replicas on this node that know no leader: their shards may be unavailable.",
            )?,
            suspect: IntGauge::new(
                "flotilla_shards_suspect",
                "Replicas on this node that lost journal content and neither vote nor acknowledge.",
            )?,
            lagging: IntGaugeVec::new(
                Opts::new(
                    "flotilla_shards_lagging",
                    "Replicas on this node with more committed entries to apply than the label says.",
                ),
                &["entries_above"],
            )?,
            lag_max: IntGauge::new(
                "flotilla_shards_lag_max_entries",
                "Committed entries that the most belated replica on this node has yet to apply.",
            )?,
            keys: IntGauge::new(
                "flotilla_shards_keys",
                "Keys in all replicas on this node, estimated.",
            )?,
        })
    }

    fn parts(&self) -> [&dyn Collector; 6] {
        [&self.by_role, &self.leaderless, &self.suspect, &self.lagging, &self.lag_max, &self.keys]
    }

    fn refresh(&self) {
        let statuses = (self.statuses)();
        let gauge = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let count = |wanted: &dyn Fn(&ShardStatus) -> bool| {
            gauge(statuses.iter().filter(|status| wanted(status)).count() as u64)
        };
        let lag = |status: &ShardStatus| status.commit_index.saturating_sub(status.applied_index);

        for role in ROLES {
            let replicas = count(&|status| status.role == role);
            self.by_role.with_label_values(&[role.as_str()]).set(replicas);
        }
        self.leaderless.set(count(&|status| status.leader.is_none()));
        self.suspect.set(count(&|status| status.suspect));
        for (step, name) in LAG_STEPS {
            self.lagging.with_label_values(&[name]).set(count(&|status| lag(status) > step));
        }
        self.lag_max.set(gauge(statuses.iter().map(lag).max().unwrap_or(0)));
        self.keys.set(gauge(statuses.iter().map(|status| status.keys_estimate).sum()));
    }
}

impl Collector for Shards {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

impl fmt::Debug for Shards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use flotilla_shard::{Epoch, NodeId};
    use flotilla_storage::{GroupId, KeyRange};

    fn status(group: u64, role: Role, leader: Option<u64>, lag: u64) -> ShardStatus {
        ShardStatus {
            group: GroupId(group),
            range: KeyRange { start: Bytes::new(), end: None },
            epoch: Epoch { version: 1, conf_version: 1 },
            role,
            leader: leader.map(NodeId),
            term: 1,
            last_index: 10_000,
            commit_index: 10_000,
            applied_index: 10_000 - lag,
            persisted_index: 10_000,
            keys_estimate: 5,
            suspect: group == 3,
            needs_snapshot: false,
            installing: false,
            leased: false,
            nodes: vec![NodeId(1)],
        }
    }

    #[test]
    fn shards_are_counted_when_asked() {
        let registry = Registry::new();
        register(&registry, || {
            vec![
                status(1, Role::Leader, Some(1), 0),
                status(2, Role::Follower, Some(2), 101),
                status(3, Role::Candidate, None, 5_000),
            ]
        })
        .unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "flotilla_shards{role=\"leader\"} 1",
            "flotilla_shards{role=\"follower\"} 1",
            "flotilla_shards{role=\"candidate\"} 1",
            "flotilla_shards_leaderless 1",
            "flotilla_shards_suspect 1",
            "flotilla_shards_lagging{entries_above=\"0\"} 2",
            "flotilla_shards_lagging{entries_above=\"1000\"} 1",
            "flotilla_shards_lagging{entries_above=\"10000\"} 0",
            "flotilla_shards_lag_max_entries 5000",
            "flotilla_shards_keys 15",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
        assert!(text.contains("flotilla_build_info{version=\""));
        assert!(text.contains("process_resident_memory_bytes"));
    }
}
