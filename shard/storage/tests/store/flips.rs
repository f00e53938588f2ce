//! Every byte of a small store file damaged, one at a time: each row is what was written or an error,
//! and none is missing without a word; so it is after the next checkpoint, which must not make
//! anything worse.

use bytes::Bytes;
use flotilla_storage::store::{PageOptions, Store, StoreError};
use flotilla_storage::{GroupId, KeyRange};

use crate::disk::Disk;
use crate::support::{delete, open, open_known, put};

pub const GROUPS: u64 = 2;
pub const KEYS: u32 = 60;

pub fn key(row: u32) -> String {
    format!("key-{row:04}")
}

/// Values that redb puts into several leaves of several sizes.
pub fn value(group: u64, row: u32) -> String {
    format!("value {row:04} of {group} ").repeat(1 + row as usize % 9)
}

/// A few shards that were checkpointed, updated in place and rewritten, so that pages of earlier
/// times lie about.
pub fn filled() -> Disk {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    for group in 1..=GROUPS {
        let mut shard = store.create_shard(GroupId(group), KeyRange::whole(), Bytes::new());
        let rows = |value: &str| {
            let value = value.to_owned();
            (0..KEYS).map(move |row| put(key(row), value.clone())).collect()
        };
        let mut checkpoint = |changes, index| {
            shard.apply(changes);
            let meta = format!("meta of {group}").into();
            store.checkpoint(&[shard.freeze((index, 1), meta, 0)]).unwrap();
        };
        checkpoint(rows("an old value"), 1);
        checkpoint((0..KEYS).map(|row| put(key(row), value(group, row))).collect(), 2);
        checkpoint(vec![put(key(7), "an old value"), put("key-extra", "gone soon")], 3);
        checkpoint(vec![put(key(7), value(group, 7)), delete("key-extra")], 4);
    }
    disk
}

/// Reads all of a shard in every way. `Ok`: whether there was an error. `Err`: what is wrong without
/// one.
fn read(store: &Store, group: u64) -> Result<bool, String> {
    let Some(state) = store.state(GroupId(group)) else {
        // Told on opening. Of a record under a damaged number nobody can say whose it was.
        let is_told = !store.damaged().is_empty();
        return if is_told { Ok(true) } else { Err(format!("{group} is not there")) };
    };
    if state.meta != format!("meta of {group}") || state.applied != (4, 1) {
        return Err(format!("{group} is {state:?}"));
    }
    let view = store.open_shard(&state, KeyRange::whole()).view();
    let mut has_error = false;
    for row in 0..KEYS {
        match view.get(key(row).as_bytes()) {
            Ok(Some(found)) if found.value == value(group, row) => {}
            Ok(found) => return Err(format!("row {row} of {group} is {found:?}")),
            Err(_) => has_error = true,
        }
    }
    for reverse in [false, true] {
        let (rows_max, bytes_max) = (usize::MAX, usize::MAX);
        let options = PageOptions { rows_max, bytes_max, reverse, ..PageOptions::default() };
        let Ok(page) = view.page(&KeyRange::whole(), options) else {
            has_error = true;
            continue;
        };
        let mut rows: Vec<(Bytes, Bytes)> =
            page.rows.into_iter().map(|(key, row)| (key, row.value)).collect();
        if reverse {
            rows.reverse();
        }
        let all = (0..KEYS).map(|row| (key(row).into(), value(group, row).into()));
        if rows != all.collect::<Vec<_>>() {
            return Err(format!("{group} has {} rows, or others", rows.len()));
        }
    }
    Ok(has_error)
}

/// Which bytes are flipped. Of each page all of its head, where it says what lies where, and a sample of
/// the rest; of pages with nothing in them next to nothing. All bytes: `FLIPS=all`, which takes minutes.
pub fn is_flipped(disk: &Disk, at: usize) -> bool {
    if std::env::var_os("FLIPS").is_some_and(|flips| flips == "all") {
        return true;
    }
    let page = disk.bytes(at / 4096 * 4096, 4096.min(disk.len() - at / 4096 * 4096));
    match page.iter().any(|byte| *byte != 0) {
        true => at % 4096 < 96 || at.is_multiple_of(53),
        false => at.is_multiple_of(30_011),
    }
}

#[test]
fn whatever_byte_is_damaged_no_row_is_wrong_and_none_is_missing_without_a_word() {
    let pristine = filled();
    let (mut harmless, mut errors, mut unreadable) = (0, 0, 0);
    let mut wrong = Vec::new();
    for at in (0..pristine.len()).filter(|at| is_flipped(&pristine, *at)) {
        let disk = pristine.fork();
        // All bits in turn, over the bytes.
        disk.flip(at, 1 << (at % 8));
        let store = match open_known(&disk) {
            Ok((store, _)) => store,
            Err(StoreError::Unreadable { .. } | StoreError::Format { .. }) => {
                unreadable += 1;
                continue;
            }
            Err(error) => {
                wrong.push(format!("byte {at}: {error}"));
                continue;
            }
        };
        let hurt: Result<Vec<bool>, String> =
            (1..=GROUPS).map(|group| read(&store, group)).collect();
        match hurt {
            Ok(hurt) if hurt.contains(&true) => errors += 1,
            Ok(_) => harmless += 1,
            Err(what) => wrong.push(format!("byte {at}: {what}")),
        }
    }
    let counts = format!("{harmless} harmless, {errors} errors, {unreadable} unreadable");
    println!("{counts}");
    assert!(wrong.is_empty(), "{} of {counts}: {:#?}", wrong.len(), &wrong[..wrong.len().min(30)]);
    assert!(harmless > 100 && errors > 100 && unreadable > 10, "{counts}");
}

/// One bit of redb's own says that there are no tables, which is what a new file looks like. Nothing is
/// written to it by whoever knows that a store was there.
#[test]
fn a_store_that_seems_to_be_new_is_damaged_if_it_is_known() {
    let pristine = filled();
    let is_taken_for_new = |at: &usize| {
        let disk = pristine.fork();
        disk.flip(*at, 1 << (*at % 8));
        // Whoever does not know makes a new one of it.
        let opened = open(&disk);
        opened.is_ok_and(|(store, states)| states.is_empty() && store.damaged().is_empty())
    };
    // Where a page says how many entries it has.
    let at =
        (2..pristine.len()).step_by(4096).find(is_taken_for_new).expect("there is such a byte");
    let disk = pristine.fork();
    disk.flip(at, 1 << (at % 8));
    let Err(StoreError::Unreadable { what }) = open_known(&disk).map(drop) else {
        panic!("it is taken for a new one");
    };
    assert!(what.contains("no tables"), "{what}");
    disk.flip(at, 1 << (at % 8));
    let (store, states) = open_known(&disk).unwrap();
    assert_eq!(states.len() as u64, GROUPS);
    assert!((1..=GROUPS).all(|group| read(&store, group) == Ok(false)), "its rows are untouched");
    let missing = open_known(&Disk::default()).map(drop);
    assert!(matches!(missing, Err(StoreError::Unreadable { .. })), "it is gone");
}
