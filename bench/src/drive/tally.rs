//! What the clients of one thread count, and the seconds of all threads together.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Driven, Progress, Second};
use crate::latency::Latencies;
use crate::target::{OperationKind, Reason};

/// What the clients of one thread count.
///
/// Latencies are recorded once, into the second that runs, and added to all when it is over.
#[derive(Default)]
pub(super) struct Tally {
    total: Driven,
    second: [Option<Box<Latencies>>; OperationKind::ALL.len()],
    errors: HashMap<Reason, u64>,
    unknown: HashMap<Reason, u64>,
    second_errors: u64,
    second_unknown: u64,
}

impl Tally {
    /// `weight` operations succeeded.
    pub(super) fn success(&mut self, kind: OperationKind, latency: Duration, weight: u64) {
        let latencies = self.second[kind as usize].get_or_insert_with(Box::default);
        latencies.record_many(latency, weight);
    }

    /// A read found nothing.
    pub(super) fn miss(&mut self) {
        self.total.misses += 1;
    }

    /// A scan read rows.
    pub(super) fn scanned(&mut self, rows: u32) {
        self.total.scanned_rows += u64::from(rows);
    }

    /// A write of `bytes` was acknowledged.
    pub(super) fn written(&mut self, bytes: u64) {
        self.total.user_bytes_written += bytes;
    }

    /// `count` operations had certainly no effect.
    pub(super) fn error(&mut self, reason: Reason, count: u64) {
        *self.errors.entry(reason).or_default() += count;
        self.second_errors += count;
    }

    /// Nobody knows of `count` operations.
    pub(super) fn unknown(&mut self, reason: Reason, count: u64) {
        *self.unknown.entry(reason).or_default() += count;
        self.second_unknown += count;
    }

    /// Ends the second that runs: adds it to all, and tells what was in it.
    pub(super) fn roll(&mut self, all: &mut Latencies) -> Second {
        for kind in OperationKind::ALL {
            if let Some(second) = &mut self.second[kind as usize]
                && second.count() > 0
            {
                self.total.per_operation.entry(kind).or_default().merge(second);
                all.merge(second);
                second.clear();
            }
        }
        Second {
            operations: all.count(),
            errors: std::mem::take(&mut self.second_errors),
            unknown: std::mem::take(&mut self.second_unknown),
            p99_ms: all.quantile_ms(0.99),
        }
    }

    /// All that was counted.
    pub(super) fn finish(mut self) -> Driven {
        self.roll(&mut Latencies::new());
        let named = |reasons: HashMap<Reason, u64>| {
            reasons.into_iter().map(|(reason, count)| (reason.into_owned(), count)).collect()
        };
        self.total.errors = named(self.errors);
        self.total.unknown = named(self.unknown);
        self.total
    }
}

/// Puts the seconds of all threads together. A second is told when every thread has ended it.
pub(super) struct Seconds {
    threads: usize,
    progress: Arc<Progress>,
    open: Mutex<BTreeMap<u64, (usize, Second, Latencies)>>,
}

impl Seconds {
    pub(super) fn new(threads: usize, progress: Arc<Progress>) -> Seconds {
        Seconds { threads, progress, open: Mutex::default() }
    }

    /// A thread has ended second `number`. Each thread ends every second, in order.
    pub(super) fn ended(&self, number: u64, second: Second, latencies: &Latencies) {
        let mut open = self.open.lock().expect("no holder panics");
        let (threads, sum, all) = open.entry(number).or_default();
        *threads += 1;
        sum.operations += second.operations;
        sum.errors += second.errors;
        sum.unknown += second.unknown;
        all.merge(latencies);
        if *threads == self.threads {
            let (_, sum, all) = open.remove(&number).expect("it was just there");
            self.progress.push(Second { p99_ms: all.quantile_ms(0.99), ..sum });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_when_all_threads_have_ended_them() {
        let progress = Arc::new(Progress::default());
        let seconds = Seconds::new(2, Arc::clone(&progress));
        let ms = Duration::from_millis;
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.success(OperationKind::Get, ms(1), 99);
        one.error("BUSY".into(), 2);
        other.success(OperationKind::Put, ms(100), 2);
        other.unknown("lost".into(), 1);
        for tally in [&mut one, &mut other] {
            assert_eq!(progress.latest(), None);
            let mut all = Latencies::new();
            let second = tally.roll(&mut all);
            seconds.ended(0, second, &all);
        }
        let second = progress.latest().unwrap();
        assert_eq!((second.operations, second.errors, second.unknown), (101, 2, 1));
        assert!((second.p99_ms - 100.0).abs() < 1.0, "{second:?}");

        let mut driven = one.finish();
        driven.merge(&other.finish());
        assert_eq!(driven.operations(), 101);
        assert_eq!(driven.errors["BUSY"], 2);
        assert_eq!(driven.unknown["lost"], 1);
    }
}
