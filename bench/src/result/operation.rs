//! Latencies of one kind of operation, as results tell them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::latency::{Latencies, per_second};

/// How many points a latency curve has each time that the distance to 100 % halves.
const POINTS_PER_HALF: u32 = 5;

/// One kind of operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationResult {
    /// How many succeeded.
    pub operations: u64,
    /// The same for each second.
    pub per_second: f64,
    /// Half of them took at most this, in milliseconds.
    pub p50_ms: f64,
    /// 9 of 10 took at most this.
    pub p90_ms: f64,
    /// 99 of 100 took at most this.
    pub p99_ms: f64,
    /// 999 of 1,000 took at most this.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// The mean.
    pub mean_ms: f64,
}

impl OperationResult {
    /// What is told of `latencies` that were gathered within `elapsed`.
    pub fn new(latencies: &Latencies, elapsed: Duration) -> OperationResult {
        let histogram = latencies.histogram();
        let quantile = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
        match latencies.count() {
            0 => OperationResult::default(),
            operations => OperationResult {
                operations,
                per_second: per_second(operations, elapsed),
                p50_ms: quantile(0.5),
                p90_ms: quantile(0.9),
                p99_ms: quantile(0.99),
                p999_ms: quantile(0.999),
                max_ms: histogram.max() as f64 / 1e6,
                mean_ms: histogram.mean() / 1e6,
            },
        }
    }

    /// The latency curve: quantile (0 to 1) and milliseconds, ascending, closer to each other near
    /// the end. Empty without operations.
    pub fn curve(latencies: &Latencies) -> Vec<(f64, f64)> {
        let values = latencies.histogram().iter_quantiles(POINTS_PER_HALF);
        values
            .map(|value| (value.quantile_iterated_to(), value.value_iterated_to() as f64 / 1e6))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_tell_the_quantiles_and_the_curve() {
        let mut latencies = Latencies::new();
        for ms in 1..=1_000 {
            latencies.record(Duration::from_millis(ms));
        }
        let result = OperationResult::new(&latencies, Duration::from_secs(2));
        let near = |a: f64, b: f64| (a - b).abs() < b / 100.0;
        assert_eq!((result.operations, result.per_second), (1_000, 500.0));
        for (measured, expected) in [
            (result.p50_ms, 500.0),
            (result.p90_ms, 900.0),
            (result.p99_ms, 990.0),
            (result.p999_ms, 999.0),
            (result.max_ms, 1_000.0),
            (result.mean_ms, 500.5),
        ] {
            assert!(near(measured, expected), "{result:?}");
        }
        let curve = OperationResult::curve(&latencies);
        assert!(curve.len() > 20 && curve.is_sorted(), "{curve:?}");
        let (quantile, last) = *curve.last().unwrap();
        assert!(quantile == 1.0 && near(last, 1_000.0));
        let median = curve.iter().find(|(quantile, _)| *quantile >= 0.5).unwrap().1;
        assert!(near(median, 500.0), "{median}");

        assert_eq!(
            OperationResult::new(&Latencies::new(), Duration::ZERO),
            OperationResult::default()
        );
        assert!(OperationResult::curve(&Latencies::new()).is_empty());
    }
}
