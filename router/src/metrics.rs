//! What the router counts. Children are made once: the hot path looks up no label.

use crate::error::RouteError;
use flotilla_shard::{Operation, Write};
use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};
use std::time::Duration;

/// The label of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    GetMany,
    Page,
    Count,
    Put,
    Delete,
    CompareAndSwap,
    Add,
    Append,
    Batch,
    DeleteRange,
    AddFloat,
    SetRange,
    Expire,
    Take,
    Rename,
    Copy,
    Atomic,
    Reap,
}

impl Kind {
    const NAMES: [&'static str; 19] = [
        "get",
        "get_many",
        "page",
        "count",
        "put",
        "delete",
        "compare_and_swap",
        "add",
        "append",
        "batch",
        "delete_range",
        "add_float",
        "set_range",
        "expire",
        "take",
        "rename",
        "copy",
        "atomic",
        "reap",
    ];

    pub(crate) fn of(operation: &Operation) -> Kind {
        match operation {
            Operation::Get { .. } => Kind::Get,
            Operation::GetMany { .. } => Kind::GetMany,
            Operation::Page { .. } => Kind::Page,
            Operation::Count { .. } => Kind::Count,
            Operation::Write(Write::Put { .. }) => Kind::Put,
            Operation::Write(Write::Delete { .. }) => Kind::Delete,
            Operation::Write(Write::CompareAndSwap { .. }) => Kind::CompareAndSwap,
            Operation::Write(Write::Add { .. }) => Kind::Add,
            Operation::Write(Write::Append { .. }) => Kind::Append,
            Operation::Write(Write::Batch { .. }) => Kind::Batch,
            Operation::Write(Write::DeleteRange { .. }) => Kind::DeleteRange,
            Operation::Write(Write::AddFloat { .. }) => Kind::AddFloat,
            Operation::Write(Write::SetRange { .. }) => Kind::SetRange,
            Operation::Write(Write::Expire { .. }) => Kind::Expire,
            Operation::Write(Write::Take { .. }) => Kind::Take,
            Operation::Write(Write::Rename { .. }) => Kind::Rename,
            Operation::Write(Write::Copy { .. }) => Kind::Copy,
            Operation::Write(Write::Atomic { .. }) => Kind::Atomic,
            Operation::Write(Write::Reap { .. }) => Kind::Reap,
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Busy,
    NoLeader,
    Timeout,
    InDoubt,
    Rejected,
    Failed,
    Shutdown,
    Abandoned,
}

impl Outcome {
    const NAMES: [&'static str; 9] = [
        "ok",
        "busy",
        "no_leader",
        "timeout",
        "in_doubt",
        "rejected",
        "failed",
        "shutdown",
        "abandoned",
    ];

    pub(crate) fn of<T>(result: &Result<T, RouteError>) -> Outcome {
        match result {
            Ok(_) => Outcome::Ok,
            Err(RouteError::Busy { .. }) => Outcome::Busy,
            Err(RouteError::NoLeader { .. }) => Outcome::NoLeader,
            Err(RouteError::Timeout { maybe_committed: false }) => Outcome::Timeout,
            Err(RouteError::Timeout { maybe_committed: true } | RouteError::Partial { .. }) => {
                Outcome::InDoubt
            }
            Err(RouteError::CrossShard | RouteError::TooLarge { .. }) => Outcome::Rejected,
            Err(RouteError::Storage(_) | RouteError::Corrupt(_) | RouteError::DiskFull) => {
                Outcome::Failed
            }
            Err(RouteError::Shutdown) => Outcome::Shutdown,
        }
    }
}

/// Why an attempt is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    NotLeader,
    NoLeader,
    NoRoute,
    Epoch,
    GroupNotFound,
    OutOfRange,
    Refused,
    Suspect,
    Stopping,
    LostRead,
    LostWrite,
    Session,
    Unable,
    TimedOut,
}

impl Cause {
    const NAMES: [&'static str; 14] = [
        "not_leader",
        "no_leader",
        "no_route",
        "epoch",
        "group_not_found",
        "out_of_range",
        "refused",
        "suspect",
        "stopping",
        "lost_read",
        "lost_write",
        "session",
        "unable",
        "timed_out",
    ];
}

/// Counters and histograms of one router.
#[derive(Clone, Debug)]
pub struct RouterMetrics {
    requests: [[IntCounter; Outcome::NAMES.len()]; Kind::NAMES.len()],
    durations: [Histogram; Kind::NAMES.len()],
    retries: [IntCounter; Cause::NAMES.len()],
    pub(crate) forwarded: IntCounter,
    pub(crate) served_forwards: IntCounter,
    pub(crate) in_doubt: IntCounter,
    pub(crate) doubts: IntCounter,
    pub(crate) doubts_resolved: IntCounter,
    pub(crate) sessions_renewed: IntCounter,
    pub(crate) forwards_pending: IntGauge,
    pub(crate) map_changes: IntCounter,
}

impl RouterMetrics {
    /// Makes the metrics and registers them in `registry`.
    ///
    /// # Errors
    ///
    /// When `registry` already holds metrics of these names.
    pub fn register(registry: &Registry) -> Result<RouterMetrics, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "flotilla_router_requests_total",
                "Requests that the router ended, by operation and outcome.",
            ),
            &["operation", "outcome"],
        )?;
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "flotilla_router_request_duration_seconds",
                "Time from the door to the answer, retries included.",
            )
            .buckets(prometheus::exponential_buckets(10e-6, 2.0, 21)?),
            &["operation"],
        )?;
        let retries = IntCounterVec::new(
            Opts::new(
                "flotilla_router_retries_total",
                "Attempts made again, by what became of the one before.",
            ),
            &["cause"],
        )?;
        let metrics = RouterMetrics {
            requests: Kind::NAMES.map(|operation| {
                Outcome::NAMES.map(|outcome| requests.with_label_values(&[operation, outcome]))
            }),
            durations: Kind::NAMES.map(|operation| durations.with_label_values(&[operation])),
            retries: Cause::NAMES.map(|cause| retries.with_label_values(&[cause])),
            forwarded: IntCounter::new(
                "flotilla_router_forwarded_total",
                "Attempts sent to the leader on another node.",
            )?,
            served_forwards: IntCounter::new(
                "flotilla_router_served_forwards_total",
                "Requests that other nodes sent to replicas here.",
            )?,
            in_doubt: IntCounter::new(
                "flotilla_router_in_doubt_total",
                "Writes that ended without anybody knowing whether they took effect.",
            )?,
            doubts: IntCounter::new(
                "flotilla_router_doubts_total",
                "Writes of which an attempt was lost, so that nobody knew its effect.",
            )?,
            doubts_resolved: IntCounter::new(
                "flotilla_router_doubts_resolved_total",
                "Writes in doubt whose outcome was learned by asking again.",
            )?,
            sessions_renewed: IntCounter::new(
                "flotilla_router_sessions_renewed_total",
                "Writes named anew because their shard had forgotten their session.",
            )?,
            forwards_pending: IntGauge::new(
                "flotilla_router_forwards_pending",
                "Attempts on their way to other nodes and back.",
            )?,
            map_changes: IntCounter::new(
                "flotilla_router_map_changes_total",
                "Times the range map was replaced by a newer one.",
            )?,
        };
        let all: [Box<dyn Collector>; 11] = [
            Box::new(requests),
            Box::new(durations),
            Box::new(retries),
            Box::new(metrics.forwarded.clone()),
            Box::new(metrics.served_forwards.clone()),
            Box::new(metrics.in_doubt.clone()),
            Box::new(metrics.doubts.clone()),
            Box::new(metrics.doubts_resolved.clone()),
            Box::new(metrics.sessions_renewed.clone()),
            Box::new(metrics.forwards_pending.clone()),
            Box::new(metrics.map_changes.clone()),
        ];
        for collector in all {
            registry.register(collector)?;
        }
        Ok(metrics)
    }

    pub(crate) fn ended(&self, kind: Kind, outcome: Outcome, took: Duration) {
        self.requests[kind as usize][outcome as usize].inc();
        self.durations[kind as usize].observe(took.as_secs_f64());
        if outcome == Outcome::InDoubt {
            self.in_doubt.inc();
        }
    }

    pub(crate) fn retried(&self, cause: Cause) {
        self.retries[cause as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_has_its_child() {
        let registry = Registry::new();
        let metrics = RouterMetrics::register(&registry).unwrap();
        metrics.ended(Kind::DeleteRange, Outcome::Abandoned, Duration::from_millis(1));
        metrics.ended(Kind::Get, Outcome::Ok, Duration::from_millis(1));
        metrics.retried(Cause::TimedOut);
        let families = registry.gather();
        let requests =
            families.iter().find(|family| family.name() == "flotilla_router_requests_total");
        let counted: Vec<String> = requests
            .unwrap()
            .get_metric()
            .iter()
            .filter(|metric| metric.get_counter().get_value() > 0.0)
            .map(|metric| {
                metric.get_label().iter().map(|pair| pair.value()).collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(counted, ["delete_range abandoned", "get ok"]);
        assert!(RouterMetrics::register(&registry).is_err());
    }
}
