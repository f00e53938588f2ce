//! Damage that leaves rows readable and lets nothing be written: the file is written anew, from what
//! can be proven of it, and takes the place of the old one.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_storage::store::{
    CheckpointCompletion, CheckpointWork, Checkpointed, Checkpointer, NextTurn, PageOptions,
    RowChange, Shard, ShardState, Store, StoreError, StoreMetrics, StoreOptions,
};
use flotilla_storage::{GroupId, KeyRange};
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::disk::Disk;
use crate::flips::{self, GROUPS, KEYS};
use crate::support::{metric, open, put};

/// So often a checkpoint is tried, at most: far more than it takes.
const TURNS_MAX: usize = 40;

#[derive(Default)]
struct Told {
    damaged: Mutex<Vec<u64>>,
}

impl CheckpointCompletion for Told {
    fn checkpointed(&self, _done: &[Checkpointed]) {}

    fn damaged(&self, groups: &[(GroupId, u64)]) {
        self.damaged.lock().extend(groups.iter().map(|(group, _)| group.0));
    }

    fn failed(&self, error: &StoreError) {
        panic!("{error}");
    }
}

/// A store whose checkpoints are made turn by turn.
struct World {
    store: Store,
    told: Arc<Told>,
    work: CheckpointWork,
    shards: Vec<Shard>,
}

fn value(group: u64, row: u32) -> String {
    if row == 9 { "written last".to_owned() } else { flips::value(group, row) }
}

impl World {
    /// Writes to all shards that can be opened, and hands that to a checkpoint.
    fn new(store: Store) -> World {
        World::writing(store, |group| vec![put(flips::key(9), value(group, 9))])
    }

    /// The same, with these changes of each shard.
    fn writing(store: Store, changes: impl Fn(u64) -> Vec<RowChange>) -> World {
        let told = Arc::new(Told::default());
        let (handle, work) = Checkpointer::without_thread(store.clone(), vec![told.clone()]);
        let mut shards = Vec::new();
        for group in 1..=GROUPS {
            let Some(state) = store.state(GroupId(group)) else { continue };
            let mut shard = store.open_shard(&state, KeyRange::whole());
            shard.apply(changes(group));
            handle.submit(0, vec![shard.freeze((5, 1), state.meta, 0)]);
            shards.push(shard);
        }
        World { store, told, work, shards }
    }

    /// True if the checkpoint ends.
    fn ends(&mut self) -> bool {
        (0..TURNS_MAX).any(|_| self.work.turn() == NextTurn::WhenAsked)
    }

    fn renewals(&self) -> u64 {
        metric(&self.store, "flotilla_store_renewals_total") as u64
    }

    /// The shards that were told to be damaged.
    fn damaged(&self) -> Vec<u64> {
        let mut damaged = self.told.damaged.lock().clone();
        damaged.sort_unstable();
        damaged.dedup();
        damaged
    }
}

/// Reads all rows of a shard. `Ok`: whether they can be read. `Err`: what is wrong without an error.
fn read(shard: &Shard) -> Result<bool, String> {
    let group = shard.group().0;
    let view = shard.view();
    let mut is_whole = true;
    for row in 0..KEYS {
        match view.get(flips::key(row).as_bytes()) {
            Ok(Some(found)) if found.value == value(group, row) => {}
            Ok(found) => return Err(format!("row {row} of {group} is {found:?}")),
            Err(_) => is_whole = false,
        }
    }
    let (rows_max, bytes_max) = (usize::MAX, usize::MAX);
    let options = PageOptions { rows_max, bytes_max, ..PageOptions::default() };
    match view.page(&KeyRange::whole(), options) {
        Ok(page) if page.rows.len() == KEYS as usize => Ok(is_whole),
        Ok(page) => Err(format!("{group} has {} rows", page.rows.len())),
        Err(_) => Ok(false),
    }
}

fn is_whole(shard: &Shard) -> bool {
    read(shard).expect("an error, or what was written")
}

/// Opens the store once more: which shards are whole, of those that were checkpointed, and which are
/// known to be damaged.
fn found_again(disk: &Disk) -> (Vec<u64>, Vec<u64>) {
    let (store, states) = open(disk).expect("it was written a moment ago");
    let is_last = states.iter().filter(|state| state.applied == (5, 1));
    let shards = is_last.map(|state| store.open_shard(state, KeyRange::whole()));
    let whole = shards.filter(is_whole).map(|shard| shard.group().0).collect();
    (whole, store.damaged().iter().map(|shard| shard.group.0).collect())
}

/// A byte of what redb knows of its free pages: all rows can be read, and no commit succeeds.
fn unwritable() -> Disk {
    let disk = flips::filled();
    disk.flip(UNWRITABLE_AT, 1 << (UNWRITABLE_AT % 8));
    disk
}

/// See `unwritable`; found by flipping all of them.
const UNWRITABLE_AT: usize = 32_794;

/// A shard that is written anew is loaded in the order of its keys: one that lies elsewhere is damage of
/// the shard, and no failure of the disk that might pass.
#[test]
fn keys_out_of_order_are_damage_of_their_shard() {
    let disk = flips::filled();
    let key = flips::key(30);
    for at in 0..disk.len() - key.len() {
        if disk.bytes(at, key.len()) == key.as_bytes() {
            // Behind all others, wherever it lies.
            disk.flip(at, 0x10);
        }
    }
    let options = StoreOptions { scrub_file_bytes_max: 0, ..StoreOptions::default() };
    let (store, _) = Store::open_file(disk.file(), options, StoreMetrics::new()).unwrap();
    let all = |group| (0..KEYS).map(|row| put(flips::key(row), value(group, row))).collect();
    let mut world = World::writing(store, all);
    assert!(world.ends());
    assert_eq!((world.damaged(), world.renewals()), (vec![1, 2], 0));
}

#[test]
fn whatever_byte_is_damaged_checkpoints_go_on_and_sound_shards_stay_sound() {
    let pristine = flips::filled();
    let (mut opened, mut renewed, mut hurt) = (0, 0, 0);
    let mut wrong = Vec::new();
    let flipped = (0..pristine.len()).filter(|at| flips::is_flipped(&pristine, *at));
    // A third of them is enough to meet every part of the file.
    for at in flipped.filter(|at| at.is_multiple_of(3) || *at / 4096 == UNWRITABLE_AT / 4096) {
        let disk = pristine.fork();
        disk.flip(at, 1 << (at % 8));
        let Ok((store, _)) = open(&disk) else { continue };
        opened += 1;
        let mut world = World::new(store);
        if !world.ends() {
            wrong.push(format!("byte {at}: the checkpoint does not end"));
            continue;
        }
        renewed += u64::from(world.renewals() > 0);
        let mut sound = Vec::new();
        for shard in &world.shards {
            match read(shard) {
                Ok(true) => sound.push(shard.group().0),
                Ok(false) => {}
                Err(what) => wrong.push(format!("byte {at}: {what}")),
            }
        }
        hurt += u64::from(sound.len() < GROUPS as usize);
        drop(world);
        match open(&disk) {
            Ok((store, states)) => {
                let is_sound = |state: &&ShardState| sound.contains(&state.group.0);
                let found = states.iter().filter(is_sound).map(|state| {
                    (state.applied, read(&store.open_shard(state, KeyRange::whole())))
                });
                let found: Vec<_> = found.collect();
                let is_right = |found: &_| *found == ((5, 1), Ok(true));
                if found.len() < sound.len() || !found.iter().all(is_right) {
                    wrong.push(format!("byte {at}: {sound:?} were sound, and are {found:?}"));
                }
            }
            Err(error) => wrong.push(format!("byte {at}: {error}")),
        }
    }
    let counts = format!("{opened} opened, {renewed} written anew, {hurt} with damaged shards");
    println!("{counts}");
    assert!(wrong.is_empty(), "{} of {counts}: {:#?}", wrong.len(), &wrong[..wrong.len().min(20)]);
    assert!(renewed > 10 && hurt > 100, "{counts}");
}

#[test]
fn a_file_that_takes_no_commit_is_written_anew_and_nothing_is_lost() {
    let disk = unwritable();
    let mut world = World::new(open(&disk).unwrap().0);
    assert!(world.shards.iter().all(is_whole), "it is readable");
    assert!(world.ends());
    assert_eq!((world.renewals(), world.damaged()), (1, vec![]));
    assert!(world.shards.iter().all(|shard| is_whole(shard) && shard.frozen_count() == 0));
    assert!(disk.kept().is_empty(), "nothing is in it that the new one lacks");
    // Durable, like every checkpoint.
    disk.power_off_after(0);
    drop(world);
    disk.power_cycle(&mut StdRng::seed_from_u64(1));
    assert_eq!(found_again(&disk), (vec![1, 2], vec![]));
}

#[test]
fn without_room_for_a_second_file_it_waits() {
    let disk = unwritable();
    let mut world = World::new(open(&disk).unwrap().0);
    disk.set_full(true);
    assert!(!world.ends());
    assert!(world.shards.iter().all(is_whole), "it is still readable");
    assert_eq!((world.renewals(), world.damaged()), (0, vec![]));
    disk.set_full(false);
    assert!(world.ends());
    assert_eq!((world.renewals(), world.damaged()), (1, vec![]));
    drop(world);
    assert_eq!(found_again(&disk), (vec![1, 2], vec![]));
}

/// The power goes before each operation of the disk in turn: the old file is there, or the new one.
#[test]
fn a_crash_while_it_is_written_anew_loses_nothing() {
    let mut ended = false;
    let mut operations = 0;
    while !ended {
        let disk = unwritable();
        let mut world = World::new(open(&disk).unwrap().0);
        disk.power_off_after(operations);
        ended = world.ends();
        disk.power_off_after(0);
        drop(world);
        disk.power_cycle(&mut StdRng::seed_from_u64(operations));
        let (store, states) = open(&disk).unwrap();
        assert!(store.damaged().is_empty() && states.len() as u64 == GROUPS, "{operations}");
        let mut world = World::new(store);
        assert!(world.ends() && world.shards.iter().all(is_whole), "{operations}");
        operations += 7;
    }
    assert!(operations > 100, "{operations}");
}

#[test]
fn what_cannot_be_proven_is_damaged_for_good_and_the_old_file_is_kept() {
    let disk = unwritable();
    assert!(disk.damage(b"meta of 2") > 0);
    let before = disk.bytes(0, disk.len());
    let mut world = World::new(open(&disk).unwrap().0);
    assert_eq!(world.store.damaged().len(), 1);
    assert!(world.ends());
    assert_eq!(world.renewals(), 1);
    assert!(is_whole(&world.shards[0]));
    let [kept] = &disk.kept()[..] else { panic!("it is kept") };
    assert_eq!(kept.len(), before.len());
    drop(world);
    assert_eq!(found_again(&disk), (vec![1], vec![2]));
    // And so it is until somebody brings the rows, or goes on without them.
    let (store, _) = open(&disk).unwrap();
    store.abandon(GroupId(2)).unwrap();
    let shard = store.create_shard(GroupId(2), KeyRange::whole(), Bytes::new());
    assert!(shard.view().get(b"key").unwrap().is_none());
    drop((store, shard));
    assert_eq!(found_again(&disk), (vec![1], vec![]));
}

#[test]
fn a_file_that_becomes_unreadable_is_replaced_by_one_of_damaged_shards() {
    let disk = flips::filled();
    let mut world = World::new(open(&disk).unwrap().0);
    assert!(disk.damage(b"table_next") > 0);
    assert!(world.store.reopen().is_err());
    assert!(world.ends());
    assert_eq!((world.renewals(), world.damaged()), (1, vec![1, 2]));
    assert!(!world.shards.iter().any(is_whole));
    for shard in &world.shards {
        // Memory still serves.
        let found = shard.view().get(flips::key(9).as_bytes()).unwrap().unwrap();
        assert_eq!(found.value, value(shard.group().0, 9));
    }
    assert_eq!(disk.kept().len(), 1);
    drop(world);
    assert_eq!(found_again(&disk), (vec![], vec![1, 2]));
}
