//! The journal: writes of many groups under one sync, on a real file and on files that keep nothing.
//!
//! The first is what the disk allows, the second what the journal itself costs. Both append and
//! compact, as a node does whose checkpoints keep up, so that segments are recycled.

mod sink;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flotilla_storage::GroupId;
use flotilla_storage::fs::{FileSystem, RealFs};
use flotilla_storage::journal::{Change, Journal, JournalOptions, LogEntry, Write};
use sink::SinkFs;

const GROUPS: u64 = 64;
const VALUE_BYTES: usize = 256;
/// A group's log is compacted every so many rounds.
const COMPACTED_EVERY: u64 = 64;

/// Writers of a journal: group after group gets one entry.
struct Writers {
    journal: Journal,
    lasts: Vec<u64>,
    next: u64,
    rounds: u64,
}

impl Writers {
    fn open(fs: Arc<dyn FileSystem>, directory: PathBuf) -> Writers {
        let options = JournalOptions { segment_bytes: 8 << 20, ..JournalOptions::default() };
        let (mut journal, _) = Journal::open(fs, directory, options).expect("the journal opens");
        let birth = |group| write(group, Change::Birth { meta: Bytes::from_static(b"shard") });
        let births: Vec<Write> = (0..GROUPS).map(birth).collect();
        journal.write(&births).expect("it takes births");
        journal.sync().expect("it syncs");
        Writers { journal, lasts: vec![0; GROUPS as usize], next: 0, rounds: 0 }
    }

    /// One round: `entries` entries, each of another group, one sync.
    fn round(&mut self, entries: usize, value: &Bytes) {
        self.rounds += 1;
        let mut writes = Vec::with_capacity(entries + GROUPS as usize);
        if self.rounds.is_multiple_of(COMPACTED_EVERY) {
            for (group, last) in (0..).zip(&self.lasts).filter(|(_, last)| **last > 0) {
                writes.push(write(group, Change::Compact { index: *last, term: 1 }));
            }
        }
        for _ in 0..entries {
            let group = self.next % GROUPS;
            self.next += 1;
            let last = &mut self.lasts[group as usize];
            *last += 1;
            let entry = LogEntry { index: *last, term: 1, payload: value.clone() };
            writes.push(write(group, Change::Append { state: None, entries: vec![entry] }));
        }
        self.journal.write(&writes).expect("it takes the round");
        self.journal.sync().expect("it syncs");
    }
}

fn write(group: u64, change: Change) -> Write {
    Write { group: GroupId(group + 1), ticket: 0, change }
}

fn append(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("there is room for temporary files");
    let value = Bytes::from(vec![7; VALUE_BYTES]);
    let mut group = criterion.benchmark_group("journal append");
    for entries in [1, 16, 256] {
        group.throughput(Throughput::Elements(entries));
        let real = directory.path().join(format!("real-{entries}"));
        let sink = PathBuf::from("/journal");
        let systems: [(&str, Arc<dyn FileSystem>, PathBuf); 2] =
            [("file", Arc::new(RealFs), real), ("sink", Arc::new(SinkFs::new()), sink)];
        for (name, fs, directory) in systems {
            let mut writers = Writers::open(fs, directory);
            group.bench_function(BenchmarkId::new(name, entries), |bencher| {
                bencher.iter(|| writers.round(entries as usize, &value));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = append
}
criterion_main!(benches);
