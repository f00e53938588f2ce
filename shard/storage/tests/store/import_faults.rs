//! Imports that go wrong: whatever fails, and whenever, there are the old rows or the new ones.

use bytes::Bytes;
use flotilla_storage::KeyRange;
use flotilla_storage::store::{Import, ImportEnd, Shard, Store, StoreError};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::disk::Disk;
use crate::import::{checkpointer, end, everything, load, step, transfer};
use crate::support::{GROUP, metric, open, put};

fn filled(store: &Store, value: &str, keys: u32, index: u64) -> Shard {
    let mut shard = store.create_shard(GROUP, KeyRange::whole(), Bytes::new());
    let row = |row| put(format!("key-{row:04}"), value.repeat(20));
    shard.apply((0..keys).map(row).collect());
    store.checkpoint(&[shard.freeze((index, 1), "meta".into(), 0)]).unwrap();
    shard
}

/// Opens the disk and checks that it holds exactly the old rows or exactly the new ones; true for
/// the new.
fn old_or_new(disk: &Disk) -> bool {
    let (store, states) = open(disk).unwrap();
    let [state] = &states[..] else { panic!("one shard: {states:?}") };
    let rows = everything(&store.open_shard(state, KeyRange::whole()).view());
    let (value, keys) = match state.applied {
        (10, 1) => ("old", 100),
        (20, 1) => ("new", 300),
        other => panic!("{other:?}"),
    };
    assert_eq!(rows.len(), keys);
    assert!(rows.values().all(|row| row.value == value.repeat(20)));
    state.applied.0 == 20
}

/// The power goes after each operation on the disk, from the first chunk to the last sync.
#[test]
fn a_power_loss_at_any_step_leaves_the_old_rows_or_the_new() {
    let (source, _) = open(&Disk::default()).unwrap();
    let _sent = filled(&source, "new", 300, 20);
    let before = Disk::default();
    drop(filled(&open(&before).unwrap().0, "old", 100, 10));
    let (mut old, mut new) = (0, 0);
    for operations in 0.. {
        let disk = before.fork();
        let (store, _) = open(&disk).unwrap();
        let (checkpointer, _told) = checkpointer(&store);
        disk.power_off_after(operations);
        let mut export = source.export(GROUP).unwrap().unwrap();
        let import = checkpointer.handle().import(GROUP, KeyRange::whole());
        let loaded = load(&mut export, &import, 4_000);
        let mut swapped = false;
        if loaded.is_ok() {
            let (sender, done) = crossbeam_channel::bounded(1);
            import.swap(Box::new(move |result| sender.send(result.is_ok()).unwrap()));
            // Without power it would be tried for ever; the shutdown ends that.
            while metric(&store, "flotilla_store_unavailable") == 0.0 && done.is_empty() {
                std::thread::yield_now();
            }
            checkpointer.shutdown().unwrap();
            swapped = done.recv().unwrap();
        } else {
            checkpointer.shutdown().unwrap();
        }
        drop((store, import));
        disk.power_cycle(&mut StdRng::seed_from_u64(operations));
        let is_new = old_or_new(&disk);
        assert!(is_new || !swapped, "a swap that was reported is there: {operations}");
        match is_new {
            true => new += 1,
            false => old += 1,
        }
        if swapped && new > 5 {
            break;
        }
    }
    assert!(old > 20 && new > 5, "{old} {new}");
}

/// Syncs fail one after the other. An import either fails, and a new one is begun, or goes on; a
/// swap that was asked for is made although the disk failed, without a restart.
#[test]
fn a_failing_disk_ends_the_loading_and_delays_the_swap() {
    let (source, _) = open(&Disk::default()).unwrap();
    let _sent = filled(&source, "new", 300, 20);
    let before = Disk::default();
    drop(filled(&open(&before).unwrap().0, "old", 100, 10));
    let (mut interrupted, mut delayed) = (0, 0);
    for skipped in 0..12 {
        for failing in [1, 2, 7] {
            let disk = before.fork();
            let (store, states) = open(&disk).unwrap();
            let old = store.open_shard(&states[0], KeyRange::whole());
            let (checkpointer, _told) = checkpointer(&store);
            let handle = checkpointer.handle();
            disk.fail_syncs_after(skipped, failing);
            let new = loop {
                let reopens = metric(&store, "flotilla_store_reopens_total");
                match transfer(&source, &handle, GROUP, 4_000) {
                    Ok(shard) => {
                        delayed +=
                            u32::from(metric(&store, "flotilla_store_reopens_total") > reopens);
                        break shard;
                    }
                    Err(error) => {
                        assert!(!matches!(error, StoreError::Corrupt { .. }), "{error}");
                        interrupted += 1;
                    }
                }
            };
            assert_eq!(new.view().count(&KeyRange::whole()).unwrap(), 300);
            // Whoever still reads the old rows gets them, or an error.
            match old.view().count(&KeyRange::whole()) {
                Ok(rows) => assert_eq!(rows, 100),
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            checkpointer.shutdown().unwrap();
            drop((store, old, new));
            disk.power_cycle(&mut StdRng::seed_from_u64(1));
            assert!(old_or_new(&disk));
        }
    }
    assert!(interrupted > 0 && delayed > 0, "{interrupted} {delayed}");
}

/// Begins an import of all rows, changed by `change`.
fn attempt(
    source: &Store,
    import: &Import,
    change: impl Fn(&mut Vec<Bytes>, &mut ImportEnd),
) -> Result<Shard, StoreError> {
    let mut export = source.export(GROUP).unwrap().unwrap();
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next(2_000).unwrap() {
        chunks.push(chunk);
    }
    let mut end = end(&export);
    change(&mut chunks, &mut end);
    for chunk in chunks {
        step(|done| import.write(chunk, done))?;
    }
    step(|done| import.verify(end, done))?;
    step(|done| import.swap(done))
}

#[test]
fn rows_that_are_not_what_was_sent_are_refused_and_leave_no_trace() {
    type Change = fn(&mut Vec<Bytes>, &mut ImportEnd);
    let changes: [(&str, Change); 8] = [
        ("flipped", |chunks, _| {
            let mut bytes = chunks[1].to_vec();
            bytes[100] ^= 4;
            chunks[1] = bytes.into();
        }),
        ("missing", |chunks, _| drop(chunks.remove(2))),
        ("the last is missing", |chunks, _| drop(chunks.pop())),
        ("doubled", |chunks, _| chunks.insert(2, chunks[1].clone())),
        ("swapped", |chunks, _| chunks.swap(1, 2)),
        ("cut", |chunks, _| chunks[0] = chunks[0].slice(..chunks[0].len() - 1)),
        ("another count", |_, end| end.rows += 1),
        ("another digest", |_, end| end.digest ^= 1),
    ];
    let (source, _) = open(&Disk::default()).unwrap();
    let _sent = filled(&source, "new", 300, 20);
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let old = filled(&store, "old", 100, 10);
    let (checkpointer, _told) = checkpointer(&store);
    for (what, change) in changes {
        let import = checkpointer.handle().import(GROUP, KeyRange::whole());
        let error = attempt(&source, &import, change).err().unwrap();
        assert!(matches!(error, StoreError::Import { .. }), "{what}: {error}");
        // Nothing goes on after that.
        assert!(step(|done| import.swap(done)).is_err(), "{what}");
    }
    let narrow = checkpointer.handle().import(GROUP, KeyRange::new("key-0100", None));
    assert!(attempt(&source, &narrow, |_, _| {}).is_err(), "keys of others");
    let unverified = checkpointer.handle().import(GROUP, KeyRange::whole());
    assert!(step(|done| unverified.swap(done)).is_err());
    drop((narrow, unverified));
    assert_eq!(old.view().count(&KeyRange::whole()).unwrap(), 100);
    assert_eq!(metric(&store, "flotilla_store_reopens_total"), 0.0, "no fault of the disk");

    // The tables of all of them are dropped; numbers go on.
    let shard = transfer(&source, &checkpointer.handle(), GROUP, 2_000).unwrap();
    assert_eq!(shard.view().count(&KeyRange::whole()).unwrap(), 300);
    checkpointer.shutdown().unwrap();
    drop((store, old, shard));
    assert!(old_or_new(&disk));
    assert_eq!(crate::extents::tables(&disk).len(), 3, "{:?}", crate::extents::tables(&disk));
}
