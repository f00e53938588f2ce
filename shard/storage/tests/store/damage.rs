//! Damaged bytes anywhere in the file: at most an error, never other data, and one shard's damage
//! is no other's.

use bytes::Bytes;
use flotilla_storage::store::{PageOptions, Store, StoreError, StoreMetrics, StoreOptions};
use flotilla_storage::{GroupId, KeyRange};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::disk::Disk;
use crate::import::{checkpointer, everything, transfer};
use crate::support::{open, put};

const GROUPS: u64 = 4;
const KEYS: u32 = 400;

fn key(group: u64, row: u32) -> String {
    format!("group-{group}-key-{row:04}")
}

fn value(group: u64, row: u32) -> String {
    format!("group-{group}-value-{row:04}").repeat(3)
}

/// A disk with a few shards that were checkpointed.
fn filled() -> Disk {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    for group in 1..=GROUPS {
        let mut shard = store.create_shard(GroupId(group), KeyRange::whole(), Bytes::new());
        let rows = (0..KEYS).map(|row| put(key(group, row), value(group, row)));
        shard.apply(rows.collect());
        let meta = Bytes::from(format!("meta of {group}"));
        store.checkpoint(&[shard.freeze((5, 1), meta, 0)]).unwrap();
    }
    disk
}

fn whole() -> PageOptions {
    PageOptions { rows_max: usize::MAX, bytes_max: usize::MAX, ..PageOptions::default() }
}

/// Reads everything of every shard; returns the shards that had an error, and those of which rows
/// were missing without one.
fn read_all(store: &Store, what: &str) -> (Vec<u64>, Vec<u64>) {
    let (mut hurt, mut silent) = (Vec::new(), Vec::new());
    for group in 1..=GROUPS {
        let Some(state) = store.state(GroupId(group)) else {
            hurt.push(group);
            continue;
        };
        assert_eq!(state.meta, format!("meta of {group}"), "{what}");
        let shard = store.open_shard(&state, KeyRange::whole());
        let view = shard.view();
        let (mut errors, mut missing) = (0, 0);
        for row in 0..KEYS {
            match view.get(key(group, row).as_bytes()) {
                Ok(Some(found)) => assert_eq!(found.value, value(group, row), "{what}"),
                Ok(None) => missing += 1,
                Err(_) => errors += 1,
            }
        }
        match view.page(&KeyRange::whole(), whole()) {
            Ok(page) => {
                for (key, row) in &page.rows {
                    let number = String::from_utf8_lossy(&key[key.len() - 4..]).parse();
                    assert_eq!(row.value, value(group, number.unwrap()), "{what}");
                }
                missing += KEYS as usize - page.rows.len();
            }
            Err(_) => errors += 1,
        }
        if errors > 0 {
            hurt.push(group);
        } else if missing > 0 {
            silent.push(group);
        }
    }
    (hurt, silent)
}

/// Bytes are flipped all over the file, one place at a time. What a page says about where others
/// are is not covered by any checksum that redb looks at while it reads; a flipped bit there, which
/// could hide rows, is found when the file is opened.
#[test]
fn flipped_bytes_are_errors_of_one_shard_and_never_data() {
    let pristine = filled();
    let mut rng = StdRng::seed_from_u64(11);
    let (mut harmless, mut single, mut several, mut unreadable, mut hidden) = (0, 0, 0, 0, 0);
    let pages: Vec<usize> = (0..pristine.len() / 4096)
        .filter(|page| pristine.bytes(page * 4096, 4096).iter().any(|byte| *byte != 0))
        .collect();
    for round in 0..600 {
        let disk = pristine.fork();
        let at = pages[rng.random_range(0..pages.len())] * 4096 + rng.random_range(0..4096);
        disk.flip(at, 1 << rng.random_range(0..8));
        let what = format!("round {round}, byte {at}");
        match open(&disk) {
            Ok((store, _)) => {
                let (hurt, silent) = read_all(&store, &what);
                assert!(silent.len() < 2, "{what}");
                hidden += silent.len();
                match hurt.len() {
                    0 => harmless += 1,
                    1 => single += 1,
                    _ => several += 1,
                }
            }
            Err(StoreError::Unreadable { .. } | StoreError::Format { .. }) => unreadable += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    let counts = format!("{harmless} {single} {several} {unreadable} {hidden}");
    assert!(single > 50 && several == 0 && hidden == 0, "{counts}");
    println!("{counts}");
}

/// A damaged record: its shard answers with an error, is left out of checkpoints and said to be
/// damaged, and an import heals it; the others never notice.
#[test]
fn a_shard_with_a_damaged_record_is_left_out_until_an_import_heals_it() {
    let disk = filled();
    let (source, _) = open(&disk.fork()).unwrap();
    assert!(disk.damage(b"meta of 2") > 0);
    let (store, states) = open(&disk).unwrap();
    assert_eq!(store.damaged().len(), 1);
    assert!(matches!(store.export(GroupId(2)), Err(StoreError::Corrupt { .. })));
    let mut hurt = store.create_shard(GroupId(2), KeyRange::whole(), Bytes::new());
    let corrupt = |error| matches!(error, StoreError::Corrupt { .. });
    assert!(corrupt(hurt.view().get(b"key").unwrap_err()), "its rows are not absent");
    assert!(corrupt(hurt.view().count(&KeyRange::whole()).unwrap_err()));
    hurt.apply(vec![put("new", "new")]);
    let state = states.iter().find(|state| state.group == GroupId(1)).unwrap();
    let mut sound = store.open_shard(state, KeyRange::whole());
    sound.apply(vec![put("new", "new")]);
    let frozen = [hurt.freeze((6, 1), "6".into(), 0), sound.freeze((6, 1), "6".into(), 0)];
    let report = store.checkpoint(&frozen).unwrap();
    assert_eq!(report.left_out.iter().map(|group| group.0).collect::<Vec<_>>(), [2]);
    assert_eq!(report.damaged, report.left_out);
    assert_eq!(sound.frozen_count(), 0);
    assert_eq!(hurt.view().get(b"new").unwrap().unwrap().value, "new", "memory still serves");
    drop(frozen);

    // A restart in between must not make an empty shard of it.
    drop((store, hurt, sound));
    let (store, _) = open(&disk).unwrap();
    assert_eq!(store.damaged().len(), 1);
    assert_eq!(crate::extents::tables(&disk).len() as u64, GROUPS + 2, "nothing was dropped");
    let (store, checkpointer) = {
        drop(store);
        let (store, _) = open(&disk).unwrap();
        let (checkpointer, _told) = checkpointer(&store);
        (store, checkpointer)
    };
    let healed = transfer(&source, &checkpointer.handle(), GroupId(2), 5_000).unwrap();
    assert_eq!(everything(&healed.view()).len() as u32, KEYS);
    checkpointer.shutdown().unwrap();
    drop((store, healed));
    let (store, states) = open(&disk).unwrap();
    assert!(store.damaged().is_empty());
    assert_eq!(states.len() as u64, GROUPS);
    drop(store);
    assert_eq!(crate::extents::tables(&disk).len() as u64, GROUPS + 2, "the old table is gone");
}

/// The last copy: giving up a damaged shard makes it a new one, for good.
#[test]
fn an_abandoned_shard_is_a_new_one() {
    let disk = filled();
    assert!(disk.damage(b"meta of 2") > 0);
    let (store, _) = open(&disk).unwrap();
    store.abandon(GroupId(2)).unwrap();
    let mut shard = store.create_shard(GroupId(2), KeyRange::whole(), Bytes::new());
    assert!(shard.view().get(b"key").unwrap().is_none());
    shard.apply(vec![put("new", "new")]);
    let report = store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
    assert!(report.damaged.is_empty());
    drop((store, shard));
    let (store, states) = open(&disk).unwrap();
    assert_eq!((states.len() as u64, store.damaged().len()), (GROUPS, 0));
}

/// Rows of one shard are damaged while checkpoints rewrite and update all of them.
#[test]
fn a_checkpoint_over_a_damaged_row_says_whose_it_is() {
    let disk = filled();
    assert!(disk.damage(b"group-3-value-0007") > 0);
    let (store, states) = open(&disk).unwrap();
    let mut shards: Vec<_> =
        states.iter().map(|state| store.open_shard(state, KeyRange::whole())).collect();
    for (group, shard) in (1..).zip(&mut shards) {
        shard.apply((100..KEYS).map(|row| put(key(group, row), "rewritten")).collect());
    }
    let freeze = |shard: &mut flotilla_storage::store::Shard| {
        shard.freeze((6, 1), format!("meta of {}", shard.group().0).into(), 0)
    };
    let frozen: Vec<_> = shards.iter_mut().map(freeze).collect();
    let report = store.checkpoint(&frozen).unwrap();
    assert!(report.left_out.is_empty(), "its other rows are merged");
    assert_eq!(report.damaged.iter().map(|group| group.0).collect::<Vec<_>>(), [3]);
    for (group, shard) in (1..).zip(&shards) {
        let row = shard.view().get(key(group, 7).as_bytes());
        match group {
            3 => assert!(matches!(row, Err(StoreError::Corrupt { .. })), "{row:?}"),
            _ => assert_eq!(row.unwrap().unwrap().value, value(group, 7)),
        }
        assert_eq!(
            shard.view().get(key(group, 200).as_bytes()).unwrap().unwrap().value,
            "rewritten"
        );
    }
    let mut export = store.export(GroupId(3)).unwrap().unwrap();
    assert!(export.next(1 << 20).is_err(), "damage does not travel");
}

/// A row's own checksum is hit, and the row is written anew: the shard is as sound as before.
#[test]
fn a_damaged_row_that_was_written_anew_leaves_a_sound_shard() {
    let disk = filled();
    let text = value(3, 7);
    let places: Vec<usize> = (18..disk.len() - text.len())
        .filter(|at| disk.bytes(*at, 1)[0] == text.as_bytes()[0])
        .filter(|at| disk.bytes(*at, text.len()) == text.as_bytes())
        .collect();
    // Before the value: checksum, kind, flags, version.
    places.iter().for_each(|at| disk.flip(at - 12, 0x10));
    assert!(!places.is_empty());
    for round in 0..2 {
        let (store, states) = open(&disk).unwrap();
        let state = states.iter().find(|state| state.group == GroupId(3)).unwrap();
        let mut shard = store.open_shard(state, KeyRange::whole());
        let row = shard.view().get(key(3, 7).as_bytes());
        match round {
            0 => assert!(matches!(row, Err(StoreError::Corrupt { .. })), "{row:?}"),
            _ => assert_eq!(row.unwrap().unwrap().value, "whole"),
        }
        assert_eq!(shard.view().get(key(3, 8).as_bytes()).unwrap().unwrap().value, value(3, 8));
        shard.apply(vec![put(key(3, 7), "whole")]);
        let meta = Bytes::from("meta of 3");
        let report = store.checkpoint(&[shard.freeze((6 + round, 1), meta, 0)]).unwrap();
        assert!(report.left_out.is_empty(), "{report:?}");
    }
}

#[test]
fn an_unreadable_file_is_told_and_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { cache_bytes: 4 << 20, ..StoreOptions::default() };
    let open = || Store::open(dir.path(), options, StoreMetrics::new());
    let store = open().unwrap().0;
    let mut shard = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());
    shard.apply(vec![put("key", "value")]);
    store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
    drop((store, shard));
    let path = dir.path().join("store.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[..8].copy_from_slice(b"garbage!");
    std::fs::write(&path, &bytes).unwrap();
    let error = open().err().unwrap();
    assert!(matches!(error, StoreError::Unreadable { .. }), "{error}");

    for number in 1..3 {
        let store = Store::open_fresh(dir.path(), options, StoreMetrics::new()).unwrap();
        assert!(store.state(GroupId(1)).is_none());
        assert!(dir.path().join(format!("store.redb.damaged-{number}")).exists());
    }
    let aside = std::fs::read(dir.path().join("store.redb.damaged-1")).unwrap();
    assert_eq!(aside, bytes, "it is kept as it was");
    assert!(open().is_ok());
}
