//! What is measured, in which order, and as what it is counted.

use std::time::Duration;

use clap::ValueEnum;

use crate::workload::{Distribution, Workload};

/// How the requests in flight are spread over connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// A few connections with many requests in flight on each: how servers use a store.
    Multiplexed,
    /// Many connections with one request in flight on each: how threads use a store.
    OneByOne,
}

impl Way {
    /// As it is named in results.
    pub fn name(self) -> &'static str {
        match self {
            Way::Multiplexed => "multiplexed",
            Way::OneByOne => "one-by-one",
        }
    }

    /// Connections, and requests in flight on each.
    pub(super) fn spread(self, in_flight: usize, connections: usize) -> (usize, usize) {
        match self {
            Way::Multiplexed => (connections, in_flight.div_ceil(connections)),
            Way::OneByOne => (in_flight, 1),
        }
    }
}

/// One of the measurements that each store goes through.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    pub(super) workload: Workload,
    pub(super) way: Way,
}

impl Measurement {
    /// What is measured: `put multiplexed`.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.workload.title(), self.way.name())
    }
}

/// Every workload in every way.
///
/// # Errors
///
/// If a workload is unknown, or would change how many keys there are: stores would not be alike then.
pub(super) fn measurements(
    workloads: &[String],
    ways: &[Way],
    keys: u64,
    value_bytes: usize,
) -> anyhow::Result<Vec<Measurement>> {
    let mut all = Vec::new();
    for name in workloads {
        let workload = Workload { keys, value_bytes, ..Workload::named(name)? };
        workload.check()?;
        let inserts = |(kind, _): &(_, f64)| *kind == crate::target::OperationKind::Insert;
        if workload.mix.iter().any(inserts) || workload.distribution == Distribution::Latest {
            anyhow::bail!(
                "workload {name} inserts keys, so that the stores would not hold the same; use \
                 `run` for it"
            );
        }
        all.extend(ways.iter().map(|way| Measurement { workload: workload.clone(), way: *way }));
    }
    Ok(all)
}

/// The least time that all rounds take: filling, starting and resting come on top.
pub(super) fn least_duration(
    peers: usize,
    measurements: usize,
    rounds: u32,
    each: Duration,
) -> Duration {
    let count = u32::try_from(peers * measurements).unwrap_or(u32::MAX);
    each.saturating_mul(count).saturating_mul(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_have_the_same_number_in_flight() {
        assert_eq!(Way::Multiplexed.spread(256, 8), (8, 32));
        assert_eq!(Way::OneByOne.spread(256, 8), (256, 1));
        assert_eq!(Way::Multiplexed.spread(10, 8), (8, 2), "rounded up: never fewer");
    }

    #[test]
    fn every_workload_is_measured_in_every_way_with_the_same_keys() {
        let workloads = ["put".to_owned(), "a".to_owned()];
        let ways = [Way::Multiplexed, Way::OneByOne];
        let all = measurements(&workloads, &ways, 1_000, 256).unwrap();
        let names: Vec<String> = all.iter().map(Measurement::name).collect();
        assert_eq!(
            names,
            ["put multiplexed", "put one-by-one", "ycsb-a multiplexed", "ycsb-a one-by-one"]
        );
        assert!(
            all.iter().all(|one| one.workload.keys == 1_000 && one.workload.value_bytes == 256)
        );
        assert!(measurements(&["d".to_owned()], &ways, 1_000, 256).is_err());
        assert!(measurements(&["nothing".to_owned()], &ways, 1_000, 256).is_err());
    }

    #[test]
    fn the_least_duration_counts_every_measurement() {
        let ten = Duration::from_secs(10);
        assert_eq!(least_duration(6, 8, 3, ten), Duration::from_secs(1_440));
    }
}
