//! What clients count.

use std::collections::BTreeMap;

use crate::latency::Latencies;

/// What clients count. Only successes have latencies: a refusal is quick and would flatter.
#[derive(Clone, Default)]
pub struct Tally {
    /// Puts that were acknowledged.
    pub puts: Latencies,
    /// Gets that were answered.
    pub gets: Latencies,
    /// Gets that found nothing; they count among the gets too.
    pub misses: u64,
    /// Error replies that promise that nothing happened, lost reads, and failed connects, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Puts of which nobody knows whether they took effect, by kind.
    pub unknown: BTreeMap<String, u64>,
}

impl Tally {
    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Tally) {
        self.puts.merge(&other.puts);
        self.gets.merge(&other.gets);
        self.misses += other.misses;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        for (kind, count) in &other.unknown {
            *self.unknown.entry(kind.clone()).or_default() += count;
        }
    }

    /// Counts errors of one kind.
    pub fn error(&mut self, kind: &str, count: u64) {
        if count > 0 {
            *self.errors.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// Counts puts of unknown outcome.
    pub fn unknown(&mut self, kind: &str, count: u64) {
        if count > 0 {
            *self.unknown.entry(kind.to_owned()).or_default() += count;
        }
    }

    /// True if everything was answered as it should be.
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.unknown.is_empty()
    }
}
