//! The store: rows into a memtable, memtables into the file, and rows back out of memtable, merged
//! memtable and file.

use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_storage::store::{PageOptions, RowChange, Shard, Store, StoreMetrics, StoreOptions};
use flotilla_storage::{GroupId, KeyRange};
use tempfile::TempDir;

const VALUE_BYTES: usize = 256;
/// Rows in the shard that is read and merged into.
const ROWS: u64 = 100_000;
/// Rows of one memtable that is merged.
const MERGED_ROWS: u64 = 10_000;
const SCANNED_ROWS: usize = 100;

/// Sixteen bytes, evenly spread, the same for the same number.
fn key(number: u64) -> Bytes {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Bytes::from([spread.to_be_bytes(), number.to_be_bytes()].concat())
}

fn put(number: u64, value: &Bytes) -> RowChange {
    RowChange::Put { key: key(number), value: value.clone(), flags: 0, expires_at_ms: None }
}

/// A sequence of numbers below [`ROWS`] in no order.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % ROWS
    }
}

/// A store with one shard of [`ROWS`] rows.
struct Filled {
    store: Store,
    shard: Shard,
    applied: u64,
    value: Bytes,
    _directory: TempDir,
}

impl Filled {
    fn new() -> Filled {
        let directory = tempfile::tempdir().expect("there is room for temporary files");
        let (store, _) =
            Store::open(directory.path(), StoreOptions::default(), StoreMetrics::new())
                .expect("the store opens");
        let mut shard = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());
        let value = Bytes::from(vec![7; VALUE_BYTES]);
        for number in 0..ROWS {
            shard.apply(vec![put(number, &value)]);
        }
        Filled { store, shard, applied: ROWS, value, _directory: directory }
    }

    /// What is in the memtable goes into the file, and stays in memory as a merged memtable.
    fn checkpoint(&mut self) {
        let frozen = self.shard.freeze((self.applied, 1), Bytes::new(), 0);
        self.store.checkpoint(&[frozen]).expect("the disk takes it");
    }
}

fn apply(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let (store, _) = Store::open(directory.path(), StoreOptions::default(), StoreMetrics::new())
        .expect("the store opens");
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut next_group = 0;
    let mut benchmarks = criterion.benchmark_group("memtable");
    benchmarks.throughput(Throughput::Elements(MERGED_ROWS));
    benchmarks.bench_function("apply", |bencher| {
        let fresh = || {
            next_group += 1;
            store.create_shard(GroupId(next_group), KeyRange::whole(), Bytes::new())
        };
        bencher.iter_batched_ref(
            fresh,
            |shard| {
                for number in 0..MERGED_ROWS {
                    shard.apply(vec![put(number, &value)]);
                }
            },
            BatchSize::PerIteration,
        );
    });
    benchmarks.finish();
}

fn merge(criterion: &mut Criterion) {
    let mut filled = Filled::new();
    filled.checkpoint();
    let store = filled.store.clone();
    let mut numbers = Numbers(1);
    let mut benchmarks = criterion.benchmark_group("checkpoint");
    benchmarks.sample_size(10);
    benchmarks.throughput(Throughput::Elements(MERGED_ROWS));
    benchmarks.bench_function(format!("merge into {ROWS} rows"), |bencher| {
        let frozen = || {
            for _ in 0..MERGED_ROWS {
                filled.shard.apply(vec![put(numbers.next(), &filled.value)]);
            }
            filled.applied += MERGED_ROWS;
            filled.shard.freeze((filled.applied, 1), Bytes::new(), 0)
        };
        bencher.iter_batched(
            frozen,
            |frozen| store.checkpoint(&[frozen]).expect("the disk takes it"),
            BatchSize::PerIteration,
        );
    });
    benchmarks.finish();
}

/// Where the rows are when they are read.
const PLACES: [&str; 3] = ["memtable", "merged", "file"];

fn read(criterion: &mut Criterion) {
    let mut filled = Filled::new();
    for place in PLACES {
        match place {
            "memtable" => {}
            "merged" => filled.checkpoint(),
            _ => filled.store.release_merged_memtables(),
        }
        let reader = filled.shard.reader();
        let mut numbers = Numbers(2);
        let mut benchmarks = criterion.benchmark_group("get");
        benchmarks.throughput(Throughput::Elements(1));
        benchmarks.bench_function(BenchmarkId::from_parameter(place), |bencher| {
            bencher.iter(|| {
                let row = reader.view().get(&key(numbers.next())).expect("the disk answers");
                assert!(row.is_some());
            });
        });
        benchmarks.finish();
        let mut benchmarks = criterion.benchmark_group(format!("scan of {SCANNED_ROWS} rows"));
        benchmarks.throughput(Throughput::Elements(SCANNED_ROWS as u64));
        benchmarks.bench_function(BenchmarkId::from_parameter(place), |bencher| {
            let options = PageOptions { rows_max: SCANNED_ROWS, ..PageOptions::default() };
            bencher.iter(|| {
                let range = KeyRange::new(key(numbers.next()), None);
                let page = reader.view().page(&range, options).expect("the disk answers");
                assert!(!page.rows.is_empty());
            });
        });
        benchmarks.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = apply, merge, read
}
criterion_main!(benches);
