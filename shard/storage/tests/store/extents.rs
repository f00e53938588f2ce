//! Tables come and go with the extents that name them; numbers are never used twice.

use bytes::Bytes;
use flotilla_storage::store::{ShardState, Store, TableId};
use flotilla_storage::{GroupId, KeyRange};
use redb::{Database, ReadableDatabase, TableDefinition, TableHandle};

use crate::disk::Disk;
use crate::support::{Command, GROUP, Modelled, delete, metric, open, put};

fn rows(keys: std::ops::Range<u32>, value: &str) -> Command {
    Command::Changes(keys.map(|key| put(format!("{key:06}"), value.to_owned())).collect())
}

fn checkpoint(store: &Store, modelled: &mut Modelled) {
    let frozen = modelled.freeze();
    store.checkpoint(&[frozen]).unwrap();
    modelled.check();
}

/// What the file holds, read by redb alone. The store must be closed.
pub fn tables(disk: &Disk) -> Vec<String> {
    let database = raw(disk);
    let transaction = database.begin_read().unwrap();
    transaction.list_tables().unwrap().map(|table| table.name().to_owned()).collect()
}

fn raw(disk: &Disk) -> Database {
    #[derive(Debug)]
    struct Boxed(Box<dyn redb::StorageBackend>);
    impl redb::StorageBackend for Boxed {
        fn len(&self) -> std::io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> std::io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> std::io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
            self.0.write(offset, data)
        }
    }
    Database::builder().create_with_backend(Boxed(disk.file().open().unwrap())).unwrap()
}

fn state(disk: &Disk) -> ShardState {
    let (_, mut states) = open(disk).unwrap();
    assert_eq!(states.len(), 1);
    states.remove(0)
}

#[test]
fn few_changes_update_in_place_and_many_rewrite() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    let rewrites = |store: &Store| metric(store, "flotilla_store_rewrites_total");
    modelled.apply(rows(0..6000, "first"));
    checkpoint(&store, &mut modelled);
    assert_eq!(rewrites(&store), 1.0, "the load of an empty shard");
    modelled.apply(rows(500..1400, "in place"));
    modelled.apply(Command::Changes(vec![delete("000003"), put("000003x", "new")]));
    checkpoint(&store, &mut modelled);
    assert_eq!(rewrites(&store), 1.0);
    modelled.apply(rows(500..1600, "rewritten"));
    checkpoint(&store, &mut modelled);
    assert_eq!(rewrites(&store), 2.0);
    assert_eq!(modelled.shard.keys_estimate(), 6000);
    drop((store, modelled));
    let state = state(&disk);
    assert_eq!(state.rows, 6000);
    assert_eq!(state.extents.len(), 1);
    assert_eq!(tables(&disk), ["rows.0000000000000002", "shards", "store"]);
}

#[test]
fn clearing_a_shard_reclaims_its_tables() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    modelled.apply(rows(0..5000, &"x".repeat(500)));
    checkpoint(&store, &mut modelled);
    let file_bytes = metric(&store, "flotilla_store_redb_file_bytes");

    modelled.apply(Command::Clear);
    assert_eq!(modelled.shard.keys_estimate(), 0);
    modelled.check();
    checkpoint(&store, &mut modelled);
    assert!(modelled.rows.is_empty());

    // Emptied and filled again, over and over: the file does not grow with it.
    for round in 0..10 {
        modelled.apply(rows(0..5000, &"y".repeat(500)));
        modelled.apply(Command::Clear);
        modelled.apply(rows(round..5000, &"z".repeat(500)));
        checkpoint(&store, &mut modelled);
        assert_eq!(modelled.shard.keys_estimate(), u64::from(5000 - round));
    }
    let grown = metric(&store, "flotilla_store_redb_file_bytes");
    assert!(grown <= 4.0 * file_bytes, "{file_bytes} -> {grown}");

    modelled.apply(Command::Clear);
    checkpoint(&store, &mut modelled);
    drop((store, modelled));
    let state = state(&disk);
    assert_eq!((state.rows, &state.extents[..]), (0, &[][..]));
    assert_eq!(tables(&disk), ["shards", "store"]);
}

#[test]
fn a_view_from_before_a_clear_still_reads_what_was() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    modelled.apply(rows(0..100, "old"));
    checkpoint(&store, &mut modelled);
    modelled.apply(rows(50..150, "newer"));
    let view = modelled.shard.view();
    modelled.apply(Command::Clear);
    checkpoint(&store, &mut modelled);
    assert_eq!(view.count(&KeyRange::whole()).unwrap(), 150);
    assert_eq!(view.get(b"000000").unwrap().unwrap().value, "old");
    assert_eq!(modelled.shard.view().count(&KeyRange::whole()).unwrap(), 0);
}

#[test]
fn a_removed_shard_leaves_nothing_and_its_numbers_are_not_used_again() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    modelled.apply(rows(0..10, "value"));
    checkpoint(&store, &mut modelled);
    let Modelled { shard, .. } = modelled;
    store.checkpoint(&[shard.remove()]).unwrap();

    let mut again = Modelled::create(&store, GROUP);
    again.apply(rows(0..5, "value"));
    checkpoint(&store, &mut again);
    drop((store, again));
    assert_eq!(state(&disk).extents[0].table, TableId(2));
    assert_eq!(tables(&disk), ["rows.0000000000000002", "shards", "store"]);
}

#[test]
fn orphaned_tables_are_dropped_on_opening() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let mut modelled = Modelled::create(&store, GROUP);
    modelled.apply(rows(0..10, "value"));
    checkpoint(&store, &mut modelled);
    drop((store, modelled));

    let database = raw(&disk);
    let transaction = database.begin_write().unwrap();
    let orphan: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("rows.00000000000000aa");
    transaction.open_table(orphan).unwrap().insert(&b"key"[..], &b"row"[..]).unwrap();
    let other: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("locks");
    transaction.open_table(other).unwrap().insert(&b"key"[..], &b"lock"[..]).unwrap();
    transaction.commit().unwrap();
    drop(database);

    assert_eq!(state(&disk).rows, 10);
    assert_eq!(tables(&disk), ["locks", "rows.0000000000000001", "shards", "store"]);
}

/// A shard that owns a part of the key space reads and writes only there.
#[test]
fn a_shard_reads_within_its_range() {
    let disk = Disk::default();
    let (store, _) = open(&disk).unwrap();
    let range = KeyRange::new("b", Some("d".into()));
    let mut shard = store.create_shard(GroupId(1), range.clone(), Bytes::new());
    shard.apply(vec![put("b", "1"), put("c", "2")]);
    store.checkpoint(&[shard.freeze((1, 1), Bytes::new(), 0)]).unwrap();
    assert_eq!(shard.view().count(&KeyRange::whole()).unwrap(), 2);
    assert_eq!(shard.view().count(&KeyRange::new("x", None)).unwrap(), 0);
    drop((store, shard));
    assert_eq!(state(&disk).extents[0].clip, range);
}

#[test]
#[should_panic(expected = "a key outside of")]
fn a_key_outside_the_range_is_a_bug_of_the_caller() {
    let (store, _) = open(&Disk::default()).unwrap();
    let range = KeyRange::new("b", Some("d".into()));
    let mut shard = store.create_shard(GroupId(1), range, Bytes::new());
    shard.apply(vec![put("d", "1")]);
}
