//! Whole shards leave one store and arrive in another: the same rows, all at once or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use bytes::Bytes;
use crossbeam_channel::Receiver;
use flotilla_storage::store::{
    CheckpointCompletion, CheckpointHandle, Checkpointed, Checkpointer, Export, Import, ImportEnd,
    PageOptions, Row, RowChange, Shard, ShardReader, Store, StoreError, View,
};
use flotilla_storage::{GroupId, KeyRange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;
use crate::support::{GROUP, metric, open, put};

/// What one lane was told was checkpointed.
pub struct Lane(crossbeam_channel::Sender<Checkpointed>);

impl CheckpointCompletion for Lane {
    fn checkpointed(&self, done: &[Checkpointed]) {
        done.iter().for_each(|done| self.0.send(*done).unwrap());
    }

    fn failed(&self, error: &StoreError) {
        panic!("{error}");
    }
}

pub fn checkpointer(store: &Store) -> (Checkpointer, Receiver<Checkpointed>) {
    let (sender, told) = crossbeam_channel::unbounded();
    (Checkpointer::start(store.clone(), vec![Arc::new(Lane(sender))]).unwrap(), told)
}

/// Does one step and waits for its end.
pub fn step<T: Send + 'static>(
    ask: impl FnOnce(Box<dyn FnOnce(Result<T, StoreError>) + Send>),
) -> Result<T, StoreError> {
    let (sender, done) = crossbeam_channel::bounded(1);
    ask(Box::new(move |result| sender.send(result).unwrap()));
    done.recv().expect("every step ends")
}

pub fn end(export: &Export) -> ImportEnd {
    ImportEnd {
        applied: export.applied(),
        version: export.version(),
        meta: export.meta().clone(),
        rows: export.rows(),
        digest: export.digest(),
    }
}

/// Loads all that `export` has left and verifies it.
pub fn load(export: &mut Export, import: &Import, chunk_bytes: usize) -> Result<(), StoreError> {
    while let Some(chunk) = export.next(chunk_bytes)? {
        step(|done| import.write(chunk, done))?;
    }
    let end = end(export);
    step(|done| import.verify(end, done))
}

/// Replaces the rows of `group` behind `handle` by those in `source`.
pub fn transfer(
    source: &Store,
    handle: &CheckpointHandle,
    group: GroupId,
    chunk_bytes: usize,
) -> Result<Shard, StoreError> {
    let mut export = source.export(group)?.expect("there was a checkpoint");
    let import = handle.import(group, KeyRange::whole());
    load(&mut export, &import, chunk_bytes)?;
    step(|done| import.swap(done))
}

pub fn everything(view: &View) -> BTreeMap<Bytes, Row> {
    let options = PageOptions {
        rows_max: usize::MAX,
        bytes_max: usize::MAX,
        reverse: false,
        keys_only: false,
    };
    view.page(&KeyRange::whole(), options).unwrap().rows.into_iter().collect()
}

fn random_shard(store: &Store, group: GroupId, rng: &mut StdRng) -> Shard {
    let mut shard = store.create_shard(group, KeyRange::whole(), Bytes::new());
    for index in 1..=rng.random_range(1..60) {
        let key = |rng: &mut StdRng| format!("key-{:03}", rng.random_range(0..300));
        let changes = (0..rng.random_range(1..20))
            .map(|_| match rng.random_range(0..20) {
                0 => {
                    let (a, b) = (key(rng), key(rng));
                    let (start, end) = (a.clone().min(b.clone()), a.max(b));
                    RowChange::DeleteRange(KeyRange::new(start, Some(end.into())))
                }
                1..4 => RowChange::Delete { key: key(rng).into() },
                _ => RowChange::Put {
                    key: key(rng).into(),
                    value: vec![rng.random(); rng.random_range(0..2000)].into(),
                    flags: rng.random(),
                    expires_at_ms: rng.random_bool(0.3).then(|| rng.random_range(1..1000)),
                },
            })
            .collect();
        shard.apply(changes);
        if rng.random_range(0..20) == 0 {
            shard.clear();
        }
        if rng.random_range(0..8) == 0 {
            let meta = format!("meta {index}").into();
            store.checkpoint(&[shard.freeze((index, 3), meta, 0)]).unwrap();
        }
    }
    store.checkpoint(&[shard.freeze((100, 4), "last meta".into(), 0)]).unwrap();
    shard
}

#[test]
fn a_shard_arrives_as_it_left_whatever_it_held() {
    for seed in 0..25 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (source, _) = open(&Disk::default()).unwrap();
        let sent = random_shard(&source, GROUP, &mut rng);
        let disk = Disk::default();
        let (store, _) = open(&disk).unwrap();
        if rng.random() {
            random_shard(&store, GROUP, &mut rng);
        }
        let neighbour = random_shard(&store, GroupId(1), &mut rng);
        let neighbours = everything(&neighbour.view());
        let (checkpointer, _told) = checkpointer(&store);
        let chunk_bytes = [1, 500, 5_000, 1 << 20][seed as usize % 4];
        let mut arrived = transfer(&source, &checkpointer.handle(), GROUP, chunk_bytes).unwrap();

        let want = everything(&sent.view());
        assert_eq!(everything(&arrived.view()), want, "seed {seed}");
        assert_eq!(arrived.version(), sent.version());
        assert_eq!(arrived.meta(), "last meta");
        assert_eq!(arrived.keys_estimate(), want.len() as u64);
        for now_ms in [0, 1, 500, 5000] {
            let visible = |view: View| everything(&view.at(now_ms));
            assert_eq!(visible(arrived.view()), visible(sent.view()));
            let count = sent.view().at(now_ms).count(&KeyRange::whole()).unwrap();
            assert_eq!(count, visible(sent.view()).len() as u64);
        }
        assert_eq!(everything(&neighbour.view()), neighbours);
        assert_eq!(metric(&store, "flotilla_store_exports_open"), 0.0);

        // It goes on like any other shard, here and after a restart.
        arrived.apply(vec![put("key-000", "after")]);
        checkpointer.handle().submit(0, vec![arrived.freeze((101, 4), Bytes::new(), 0)]);
        checkpointer.shutdown().unwrap();
        let want = everything(&arrived.view());
        drop((arrived, neighbour, store));
        let (store, states) = open(&disk).unwrap();
        let state = states.iter().find(|state| state.group == GROUP).unwrap();
        assert_eq!(state.applied, (101, 4));
        assert_eq!(everything(&store.open_shard(state, KeyRange::whole()).view()), want);
    }
}

#[test]
fn an_export_can_go_back_and_hands_out_one_moment() {
    let (store, _) = open(&Disk::default()).unwrap();
    assert!(store.export(GROUP).unwrap().is_none(), "no checkpoint yet");
    let mut shard = store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    shard.apply((0..500).map(|row| put(format!("key-{row:03}"), "old")).collect());
    store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();

    let mut export = store.export(GROUP).unwrap().unwrap();
    assert_eq!(export.rows_estimate(), 500);
    let mut chunks = Vec::new();
    let mut ends = vec![(None, 0, 0)];
    while let Some(chunk) = export.next(1000).unwrap() {
        assert!(chunk.len() <= 1000);
        chunks.push(chunk);
        ends.push((export.last_key().cloned(), export.rows(), export.digest()));
        // What is checkpointed meanwhile does not show.
        shard.apply((0..500).map(|row| put(format!("key-{row:03}x"), "new")).collect());
        store.checkpoint(&[shard.freeze((chunks.len() as u64 + 1, 1), "".into(), 0)]).unwrap();
    }
    assert_eq!(export.rows(), 500);
    assert!(export.next(1000).unwrap().is_none());
    for (number, (key, rows, digest)) in ends.iter().enumerate().rev() {
        export.rewind_to(key.as_deref()).unwrap();
        assert_eq!((export.rows(), export.digest()), (*rows, *digest));
        for chunk in &chunks[number..] {
            assert_eq!(export.next(1000).unwrap().as_ref(), Some(chunk));
        }
        assert!(export.next(1000).unwrap().is_none());
    }
    // A key inside of a chunk, and one that does not exist.
    for (after, rows) in [("key-100", 101), ("key-100x", 101), ("a", 0), ("z", 500)] {
        export.rewind_to(Some(after.as_bytes())).unwrap();
        assert_eq!(export.rows(), rows);
        let first = export.next(1).unwrap();
        assert_eq!(first.is_some(), rows < 500);
    }
}

/// One row with an expiry that a checkpoint drops, one that it keeps.
#[test]
fn what_is_expired_at_the_stamp_does_not_reach_the_disk() {
    let (store, _) = open(&Disk::default()).unwrap();
    let mut shard = store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    let expiring = |key: &'static str, at| RowChange::Put {
        key: key.into(),
        value: "value".into(),
        flags: 0,
        expires_at_ms: Some(at),
    };
    shard.apply(vec![expiring("a", 10), expiring("b", 11), expiring("c", 50), put("d", "stays")]);
    store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 10)]).unwrap();
    assert_eq!(shard.keys_estimate(), 3);
    // A rewrite of the table drops what has expired in it since; an update does not look at it.
    shard.apply(vec![put("e", "new")]);
    store.checkpoint(&[shard.freeze((2, 1), Bytes::new(), 11)]).unwrap();
    assert_eq!(shard.keys_estimate(), 3);
    let keys = |view: View| everything(&view).into_keys().collect::<Vec<_>>();
    assert_eq!(keys(shard.view()), ["c", "d", "e"]);
    assert_eq!(keys(shard.view().at(49)), ["c", "d", "e"]);
    assert_eq!(keys(shard.view().at(50)), ["d", "e"]);
    assert!(shard.view().at(50).get(b"c").unwrap().is_none());
    assert!(shard.view().at(49).get(b"c").unwrap().is_some());
    let page = PageOptions { rows_max: 1, ..PageOptions::default() };
    let first = shard.view().at(50).page(&KeyRange::whole(), page).unwrap();
    assert_eq!(first.rows[0].0, "d");
}

/// What the old handles still freeze belongs to rows that are gone: it is neither merged into the
/// new ones nor reported, even if it says to be newer.
#[test]
fn memtables_from_before_a_swap_are_never_merged_after_it() {
    let (source, _) = open(&Disk::default()).unwrap();
    let mut sent = source.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    sent.apply(vec![put("key", "imported")]);
    source.checkpoint(&[sent.freeze((7, 2), "imported".into(), 0)]).unwrap();

    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let (checkpointer, told) = checkpointer(&store);
    let handle = checkpointer.handle();
    let mut old = store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    old.apply(vec![put("key", "old"), put("old", "old")]);
    handle.submit(0, vec![old.freeze((50, 1), Bytes::new(), 0)]);
    let mut new = transfer(&source, &handle, GROUP, 100).unwrap();
    assert_eq!(told.recv().unwrap(), (GROUP, (50, 1)), "submitted before: merged before");
    assert_eq!(new.generation(), old.generation() + 1);

    old.apply(vec![put("key", "late"), put("late", "late")]);
    handle.submit(0, vec![old.freeze((51, 1), Bytes::new(), 0)]);
    // The old handles show what was, memtable and rows; the new ones what came.
    let values = |view: View| {
        let rows = everything(&view).into_iter();
        rows.map(|(key, row)| format!("{key:?}={:?}", row.value)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(values(old.view()), r#"b"key"=b"late" b"late"=b"late" b"old"=b"old""#);
    assert_eq!(values(new.view()), r#"b"key"=b"imported""#);
    new.apply(vec![put("new", "new")]);
    handle.submit(0, vec![new.freeze((8, 2), "next".into(), 0)]);
    checkpointer.shutdown().unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [(GROUP, (8, 2))]);
    drop((old, new));
    assert_eq!(metric(&store, "flotilla_store_frozen_memtables"), 0.0);
    drop(store);
    let (store, states) = open(&disk).unwrap();
    assert_eq!((states[0].applied, states[0].rows), ((8, 2), 2));
    let view = store.open_shard(&states[0], KeyRange::whole()).view();
    assert_eq!(values(view), r#"b"key"=b"imported" b"new"=b"new""#);
}

/// Readers that hold handles from before see the old rows, whole, for as long as they hold them.
#[test]
fn readers_during_a_swap_see_old_or_new() {
    let (source, _) = open(&Disk::default()).unwrap();
    let filled = |store: &Store, value: &'static str, keys: u32| {
        let mut shard = store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
        shard.apply((0..keys).map(|row| put(format!("key-{row:04}"), value)).collect());
        store.checkpoint(&[shard.freeze((9, 1), Bytes::new(), 0)]).unwrap();
        shard
    };
    let _sent = filled(&source, "new", 3000);
    let (store, _) = open(&Disk::default()).unwrap();
    let mut shard = filled(&store, "old", 1000);
    // A part of the old state is in memory only.
    shard.apply(vec![put("key-0500", "old"), put("key-1000", "old")]);
    let (checkpointer, _told) = checkpointer(&store);
    let stop = AtomicBool::new(false);
    let check = |reader: ShardReader, value: &str, keys: u64| {
        let mut rounds = 0;
        while !stop.load(Ordering::SeqCst) {
            let view = reader.view();
            let rows = everything(&view);
            assert_eq!(rows.len() as u64, keys);
            assert!(rows.values().all(|row| row.value == value));
            let row = view.get(b"key-0700").unwrap().unwrap();
            assert_eq!(row.value, value);
            assert_eq!(view.get(b"key-2000").unwrap().is_some(), keys > 2000);
            rounds += 1;
        }
        rounds
    };
    thread::scope(|scope| {
        let old = shard.reader();
        let old = scope.spawn(|| check(old, "old", 1001));
        let new = transfer(&source, &checkpointer.handle(), GROUP, 4000).unwrap();
        let reader = new.reader();
        let reader = scope.spawn(|| check(reader, "new", 3000));
        let again = transfer(&source, &checkpointer.handle(), GROUP, 50_000).unwrap();
        assert_eq!(again.generation(), 2);
        stop.store(true, Ordering::SeqCst);
        assert!(old.join().unwrap() > 0);
        reader.join().unwrap();
    });
    checkpointer.shutdown().unwrap();
}

/// While one shard is loaded the checkpoints of others go on: none waits for more than one chunk.
#[test]
fn checkpoints_go_on_between_the_chunks() {
    let (source, _) = open(&Disk::default()).unwrap();
    let mut sent = source.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    sent.apply((0..2000).map(|row| put(format!("key-{row:04}"), vec![1; 1000])).collect());
    source.checkpoint(&[sent.freeze((1, 1), Bytes::new(), 0)]).unwrap();
    let (store, _) = open(&Disk::default()).unwrap();
    let (checkpointer, told) = checkpointer(&store);
    let handle = checkpointer.handle();
    let mut other = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());

    let mut export = source.export(GROUP).unwrap().unwrap();
    let import = handle.import(GROUP, KeyRange::whole());
    let (sender, steps) = crossbeam_channel::unbounded();
    let mut chunks = 0;
    // All chunks at once, and checkpoints behind them in the queue.
    while let Some(chunk) = export.next(10_000).unwrap() {
        let sender = sender.clone();
        import.write(chunk, Box::new(move |done| sender.send(done.is_ok()).unwrap()));
        chunks += 1;
    }
    other.apply(vec![put("key", "value")]);
    handle.submit(0, vec![other.freeze((1, 1), Bytes::new(), 0)]);
    told.recv().unwrap();
    assert!(steps.len() < chunks, "the checkpoint went before chunks that were asked for earlier");
    let end = end(&export);
    step(|done| import.verify(end, done)).unwrap();
    let shard = step(|done| import.swap(done)).unwrap();
    assert_eq!(shard.view().count(&KeyRange::whole()).unwrap(), 2000);
    checkpointer.shutdown().unwrap();
}
