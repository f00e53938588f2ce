//! Disks that fail and go on: unknown outcomes are resolved by asking the file, reads go on from
//! memory, damaged rows are errors and never data.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_storage::store::{
    CheckpointCompletion, Checkpointed, Checkpointer, PageOptions, RowChange, Store, StoreError,
};
use flotilla_storage::{GroupId, KeyRange};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::disk::Disk;
use crate::support::{Command, GROUP, Modelled, metric, open, put};

/// A shard with two hundred rows on disk.
fn loaded(disk: &Disk) -> (Store, Modelled) {
    let (store, _) = open(disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    let rows = (0..200).map(|row| put(format!("key-{row:03}"), format!("value-{row:03}")));
    modelled.apply(Command::Changes(rows.collect()));
    let frozen = modelled.freeze();
    store.checkpoint(&[frozen]).unwrap();
    (store, modelled)
}

fn change(modelled: &mut Modelled, value: &str) {
    modelled.apply(Command::Changes(vec![put("key-007", value.to_owned())]));
}

/// Whichever sync of a commit fails, the checkpoint that is reported done survives a power loss,
/// although the kernel will not write again what the failed sync should have written.
#[test]
fn a_failed_sync_is_an_unknown_outcome_that_reopening_resolves() {
    for failing in 0..4 {
        for count in 1..3 {
            let disk = Disk::default();
            let (store, mut modelled) = loaded(&disk);
            let old_view = modelled.shard.view();
            change(&mut modelled, "changed");
            disk.fail_syncs_after(failing, count);
            let frozen = modelled.freeze();
            store.checkpoint(&[frozen]).unwrap();
            assert_eq!(modelled.shard.frozen_count(), 0);
            modelled.check();
            if failing < 2 {
                // A commit syncs twice: later failures meet nobody.
                assert!(metric(&store, "flotilla_store_reopens_total") >= 1.0);
                // The view from before reads what was, as far as redb has it in its cache.
                match old_view.get(b"key-100") {
                    Ok(row) => assert_eq!(row.unwrap().value, "value-100"),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
            }
            // Power goes before a clean closing could sync anything.
            disk.power_off_after(0);
            drop((store, old_view));
            for seed in 0..4 {
                disk.power_cycle(&mut StdRng::seed_from_u64(seed));
            }
            let (store, states) = open(&disk).unwrap();
            assert_eq!(states[0].applied, modelled.applied(), "sync {failing} failed");
            modelled.recover(&store, &states);
        }
    }
}

/// What a lane was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Checkpointed(Vec<Checkpointed>),
    Damaged(Vec<(GroupId, u64)>),
    Unavailable(String),
    Available,
}

struct Recorder(crossbeam_channel::Sender<Told>);

impl CheckpointCompletion for Recorder {
    fn checkpointed(&self, done: &[Checkpointed]) {
        self.0.send(Told::Checkpointed(done.to_vec())).unwrap();
    }
    fn damaged(&self, groups: &[(GroupId, u64)]) {
        self.0.send(Told::Damaged(groups.to_vec())).unwrap();
    }
    fn unavailable(&self, error: &StoreError) {
        self.0.send(Told::Unavailable(error.to_string())).unwrap();
    }
    fn available(&self) {
        self.0.send(Told::Available).unwrap();
    }
    fn failed(&self, error: &StoreError) {
        panic!("{error}");
    }
}

fn checkpointer(store: &Store) -> (Checkpointer, crossbeam_channel::Receiver<Told>) {
    let (sender, told) = crossbeam_channel::unbounded();
    (Checkpointer::start(store.clone(), vec![Arc::new(Recorder(sender))]).unwrap(), told)
}

#[test]
fn a_disk_that_keeps_failing_is_told_and_waited_for() {
    let disk = Disk::default();
    let (store, mut modelled) = loaded(&disk);
    let (checkpointer, told) = checkpointer(&store);

    disk.fail_syncs(1_000_000);
    change(&mut modelled, "first");
    checkpointer.handle().submit(0, vec![modelled.freeze()]);
    let Told::Unavailable(error) = told.recv().unwrap() else { panic!("it is unavailable") };
    assert!(error.contains("sync failed") || error.contains("closed"), "{error}");
    assert_eq!(modelled.shard.frozen_count(), 1);
    assert_eq!(metric(&store, "flotilla_store_unavailable"), 1.0);
    // Rows in memory are still served; those on the failed disk may be, or are an error.
    assert_eq!(modelled.shard.view().get(b"key-007").unwrap().unwrap().value, "first");
    match modelled.shard.view().get(b"key-008") {
        Ok(row) => assert_eq!(row.unwrap().value, "value-008"),
        Err(error) => assert!(!matches!(error, StoreError::Corrupt { .. }), "{error}"),
    }
    change(&mut modelled, "second");
    checkpointer.handle().submit(0, vec![modelled.freeze()]);
    assert!(told.is_empty(), "an outage is told once");

    // The disk recovers: nobody has to ask for anything.
    disk.fail_syncs(0);
    let (index, term) = modelled.applied();
    let mut done = Vec::new();
    while done.len() < 2 {
        if let Told::Checkpointed(more) = told.recv().unwrap() {
            done.extend(more);
        }
    }
    assert_eq!(done, [(GROUP, (index - 1, term)), (GROUP, (index, term))]);
    checkpointer.shutdown().unwrap();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Available]);
    assert_eq!(metric(&store, "flotilla_store_unavailable"), 0.0);
    assert_eq!(modelled.shard.frozen_count(), 0);
    modelled.check();
    drop(store);
    disk.power_cycle(&mut StdRng::seed_from_u64(1));
    let (store, states) = open(&disk).unwrap();
    modelled.recover(&store, &states);
}

/// A node that stops must not wait for a disk that does not come back; the journal has the rest.
#[test]
fn a_shutdown_does_not_wait_for_a_failing_disk() {
    let disk = Disk::default();
    let (store, mut modelled) = loaded(&disk);
    let (checkpointer, told) = checkpointer(&store);
    disk.set_full(true);
    modelled.apply(Command::Changes((0..100).map(big).collect()));
    checkpointer.handle().submit(0, vec![modelled.freeze()]);
    assert!(matches!(told.recv().unwrap(), Told::Unavailable(_)));
    checkpointer.shutdown().unwrap();
    assert!(told.try_iter().all(|told| !matches!(told, Told::Checkpointed(_))));
    modelled.check();
}

/// The process goes on through a full disk: reads are served, and what could not be written is
/// written once there is room.
#[test]
fn a_full_disk_heals_without_a_restart() {
    let disk = Disk::default();
    let (store, mut modelled) = loaded(&disk);
    let (checkpointer, told) = checkpointer(&store);
    disk.set_full(true);
    modelled.apply(Command::Changes((0..100).map(big).collect()));
    checkpointer.handle().submit(0, vec![modelled.freeze()]);
    let Told::Unavailable(error) = told.recv().unwrap() else { panic!("it is unavailable") };
    assert!(error.to_lowercase().contains("no storage space"), "{error}");
    disk.set_full(false);
    while !matches!(told.recv().unwrap(), Told::Checkpointed(_)) {}
    assert_eq!(told.recv().unwrap(), Told::Available);
    modelled.check();
    assert_eq!(modelled.shard.frozen_count(), 0);
    checkpointer.shutdown().unwrap();
}

fn big(row: u32) -> RowChange {
    put(format!("key-{row:03}"), vec![row as u8; 100_000])
}

#[test]
fn a_full_disk_fails_the_checkpoint_and_space_heals_it() {
    let disk = Disk::default();
    let (store, mut modelled) = loaded(&disk);
    disk.set_full(true);
    modelled.apply(Command::Changes((0..100).map(big).collect()));
    let frozen = [modelled.freeze()];
    let error = store.checkpoint(&frozen).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert!(error.to_string().to_lowercase().contains("no storage space"), "{error}");
    modelled.check();
    disk.set_full(false);
    store.checkpoint(&frozen).unwrap();
    modelled.check();
}

#[test]
fn a_damaged_row_is_an_error_that_names_it_and_nothing_else_is_harmed() {
    let disk = Disk::default();
    let (store, mut modelled) = loaded(&disk);
    let table = {
        let elsewhere = open(&Disk::default()).unwrap().0;
        modelled.shard = elsewhere.create_shard(GROUP, KeyRange::whole(), Bytes::new());
        drop(store);
        let (_, states) = open(&disk).unwrap();
        states[0].extents[0].table.name()
    };
    assert!(disk.damage(b"value-042") > 0);

    let (store, states) = open(&disk).unwrap();
    modelled.shard = store.open_shard(&states[0], KeyRange::whole());
    let view = modelled.shard.view();
    let check_error = |error: StoreError| match error {
        StoreError::Corrupt { group, table: found, .. } => {
            assert_eq!((group, &found), (GROUP, &table));
        }
        other => panic!("{other}"),
    };
    check_error(view.get(b"key-042").unwrap_err());
    assert_eq!(view.get(b"key-041").unwrap().unwrap().value, "value-041");
    for reverse in [false, true] {
        for keys_only in [false, true] {
            let options = PageOptions { reverse, keys_only, ..PageOptions::default() };
            check_error(view.page(&KeyRange::whole(), options).unwrap_err());
        }
    }
    let before = view.page(&KeyRange::new("", Some("key-042".into())), PageOptions::default());
    assert_eq!(before.unwrap().rows.len(), 42);
    assert!(metric(&store, "flotilla_store_corruptions_total") >= 5.0);

    // A rewrite of the whole table moves the damage along; it does not make it look sound.
    let others = (43..200).map(|row| put(format!("key-{row:03}"), "new"));
    modelled.shard.apply(others.collect());
    store.checkpoint(&[modelled.shard.freeze((9, 9), Bytes::new(), 0)]).unwrap();
    match modelled.shard.view().get(b"key-042").unwrap_err() {
        StoreError::Corrupt { table: found, .. } => assert_ne!(found, table, "it was rewritten"),
        other => panic!("{other}"),
    }
    // A new value replaces it; a walk still meets the damaged row until it is checkpointed.
    modelled.shard.apply(vec![put("key-042", "healed")]);
    assert_eq!(modelled.shard.view().get(b"key-042").unwrap().unwrap().value, "healed");
    assert!(modelled.shard.view().count(&KeyRange::whole()).is_err());
    store.checkpoint(&[modelled.shard.freeze((10, 9), Bytes::new(), 0)]).unwrap();
    assert_eq!(modelled.shard.view().count(&KeyRange::whole()).unwrap(), 200);
}

#[test]
fn a_damaged_record_costs_its_shard_and_no_table_is_dropped() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut frozen = Vec::new();
    for group in 1..=3 {
        let mut modelled = Modelled::create(&store, GroupId(group));
        modelled.apply(Command::Changes(vec![put("key", "value")]));
        frozen.push(modelled.shard.freeze((1, 1), format!("meta of {group}").into(), 0));
    }
    store.checkpoint(&frozen).unwrap();
    drop((store, frozen));
    assert!(disk.damage(b"meta of 2") > 0);

    let (store, states) = open(&disk).unwrap();
    assert_eq!(states.iter().map(|state| state.group.0).collect::<Vec<_>>(), [1, 3]);
    let [damaged] = store.damaged() else { panic!("one shard is damaged") };
    assert_eq!(damaged.group.0, 2);
    assert!(matches!(damaged.error, StoreError::Corrupt { .. }));
    store.reopen().unwrap();
    for state in &states {
        let shard = store.open_shard(state, KeyRange::whole());
        assert_eq!(shard.view().get(b"key").unwrap().unwrap().value, "value");
    }
}
