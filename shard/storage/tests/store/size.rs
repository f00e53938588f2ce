//! The file stays in proportion to what is in it.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_storage::store::*;
use flotilla_storage::{GroupId, KeyRange};

const SHARDS: u64 = 32;
const ROWS: u32 = 400;
const VALUE_BYTES: usize = 1000;

struct Done(crossbeam_channel::Sender<usize>);

impl CheckpointCompletion for Done {
    fn checkpointed(&self, done: &[Checkpointed]) {
        // Whoever listened may have heard enough.
        let _ = self.0.send(done.len());
    }
    fn failed(&self, error: &StoreError) {
        panic!("{error}");
    }
}

fn put(row: u32, round: u64) -> RowChange {
    let mut value = vec![b'v'; VALUE_BYTES];
    value[..8].copy_from_slice(&round.to_be_bytes());
    RowChange::Put {
        key: Bytes::copy_from_slice(&row.to_be_bytes()),
        value: value.into(),
        flags: 0,
        expires_at_ms: None,
    }
}

/// Every row is overwritten again and again: redb writes each to a new place before the old one is
/// free, which must not add up to several times the rows.
#[test]
fn overwriting_everything_takes_less_than_twice_the_rows() {
    let options = StoreOptions {
        cache_bytes: 64 << 20,
        slice_bytes_min: 1 << 20,
        compact_file_bytes_min: u64::MAX,
        ..StoreOptions::default()
    };
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), options, StoreMetrics::new()).unwrap();
    let (sender, done) = crossbeam_channel::unbounded();
    let checkpointer = Checkpointer::start(store.clone(), vec![Arc::new(Done(sender))]).unwrap();
    let mut shards: Vec<Shard> = (1..=SHARDS)
        .map(|group| store.create_shard(GroupId(group), KeyRange::whole(), Bytes::new()))
        .collect();
    for round in 1..=8 {
        let freeze = |shard: &mut Shard| {
            shard.apply((0..ROWS).map(|row| put(row, round)).collect());
            shard.freeze((round, 1), Bytes::new(), 0)
        };
        checkpointer.handle().submit(0, shards.iter_mut().map(freeze).collect());
        let mut merged = 0;
        while merged < SHARDS as usize {
            merged += done.recv().unwrap();
        }
    }
    checkpointer.shutdown().unwrap();
    let row_bytes = store.live_bytes() / (SHARDS * u64::from(ROWS));
    assert!((VALUE_BYTES as u64 + 4..VALUE_BYTES as u64 + 64).contains(&row_bytes), "{row_bytes}");
    // The file grows by doubling; what counts are the blocks that were ever written.
    let file = std::fs::metadata(dir.path().join("store.redb")).unwrap().blocks() * 512;
    let live = store.live_bytes();
    assert!(file < live * 2, "{file} bytes on the disk for {live}");
    assert_eq!(store.metrics().checkpoints_total(), 8);
}
