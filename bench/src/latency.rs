//! Latency histograms and how they are told.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest latency that is told apart: longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(120);

/// Latencies of one kind of operation, to three significant digits.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// What is told of them; milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many operations.
    pub operations: u64,
    /// The median.
    pub p50_ms: f64,
    /// 99 of 100 were at most this.
    pub p99_ms: f64,
    /// 999 of 1,000 were at most this.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

impl Latencies {
    /// None yet.
    pub fn new() -> Latencies {
        let nanos = LATENCY_MAX.as_nanos() as u64;
        let histogram = Histogram::new_with_bounds(100, nanos, 3).expect("the bounds are constant");
        Latencies { histogram }
    }

    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(nanos);
    }

    /// Adds `count` that are alike.
    pub fn record_many(&mut self, latency: Duration, count: u64) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record_n(nanos, count);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.histogram.reset();
    }

    /// `quantile` of them were at most this; milliseconds, 0 without any.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        match self.count() {
            0 => 0.0,
            _ => self.histogram.value_at_quantile(quantile) as f64 / 1e6,
        }
    }

    /// Adds those of `other`.
    pub fn merge(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    /// All of them, in nanoseconds.
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// What is told of them.
    pub fn summary(&self) -> Summary {
        let quantile = |q| self.histogram.value_at_quantile(q) as f64 / 1e6;
        match self.count() {
            0 => Summary::default(),
            operations => Summary {
                operations,
                p50_ms: quantile(0.5),
                p99_ms: quantile(0.99),
                p999_ms: quantile(0.999),
                max_ms: self.histogram.max() as f64 / 1e6,
            },
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies::new()
    }
}

/// The head of a table whose rows [`row`] makes.
pub fn head() -> String {
    format!(
        "{:<8}{:>12}{:>12}{:>11}{:>11}{:>11}{:>11}",
        "", "operations", "per second", "p50 ms", "p99 ms", "p99.9 ms", "max ms"
    )
}

/// One row: what happened to operations called `name` within `elapsed`.
pub fn row(name: &str, summary: &Summary, elapsed: Duration) -> String {
    format!(
        "{name:<8}{:>12}{:>12.0}{:>11.3}{:>11.3}{:>11.3}{:>11.3}",
        summary.operations,
        per_second(summary.operations, elapsed),
        summary.p50_ms,
        summary.p99_ms,
        summary.p999_ms,
        summary.max_ms
    )
}

/// Operations per second; 0 within no time.
pub fn per_second(operations: u64, elapsed: Duration) -> f64 {
    match elapsed.is_zero() {
        true => 0.0,
        false => operations as f64 / elapsed.as_secs_f64(),
    }
}

/// Microseconds of `cpu` for each operation; 0 for none.
pub fn micros_per_operation(cpu: Duration, operations: u64) -> f64 {
    match operations {
        0 => 0.0,
        _ => cpu.as_secs_f64() * 1e6 / operations as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_tell_the_quantiles_of_all_that_was_merged() {
        let (mut all, mut other) = (Latencies::new(), Latencies::new());
        for ms in 1..=500 {
            all.record(Duration::from_millis(ms));
            other.record(Duration::from_millis(ms + 500));
        }
        all.merge(&other);
        let summary = all.summary();
        assert_eq!(summary.operations, 1_000);
        let near = |a: f64, b: f64| (a - b).abs() < b / 100.0;
        assert!(near(summary.p50_ms, 500.0) && near(summary.p99_ms, 990.0), "{summary:?}");
        assert!(near(summary.max_ms, 1_000.0), "{summary:?}");
        assert_eq!(Latencies::new().summary(), Summary::default());
    }

    #[test]
    fn endless_latencies_count_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(3_600));
        assert_eq!(latencies.count(), 1);
        assert!(latencies.summary().max_ms >= 119_000.0);
    }
}
