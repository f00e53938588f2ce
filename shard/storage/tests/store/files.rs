//! On real files: created, locked, refused when they are somebody else's.

use bytes::Bytes;
use flotilla_storage::store::{Store, StoreError, StoreMetrics, StoreOptions};
use flotilla_storage::{GroupId, KeyRange};
use redb::{Database, TableDefinition};

use crate::support::put;

fn open(dir: &std::path::Path) -> Result<Store, StoreError> {
    let (store, _) = Store::open(dir, StoreOptions::default(), StoreMetrics::new())?;
    Ok(store)
}

#[test]
fn a_store_is_created_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("not/yet/there");
    let store = open(&path).unwrap();
    let mut shard = store.create_shard(GroupId(1), KeyRange::whole(), Bytes::new());
    shard.apply(vec![put("key", "value")]);
    store.checkpoint(&[shard.freeze((3, 2), "meta".into(), 0)]).unwrap();
    drop((store, shard));

    let (store, states) = Store::open(&path, StoreOptions::default(), StoreMetrics::new()).unwrap();
    assert_eq!(states[0].applied, (3, 2));
    assert_eq!(states[0].meta, "meta");
    let shard = store.open_shard(&states[0], KeyRange::whole());
    assert_eq!(shard.view().get(b"key").unwrap().unwrap().value, "value");
    store.reopen().unwrap();
    assert_eq!(shard.view().get(b"key").unwrap().unwrap().value, "value");
}

#[test]
fn a_store_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::InUse)));
    drop(first);
    open(dir.path()).unwrap();
}

#[test]
fn files_of_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("store.redb");
    let foreign: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("foreign");
    let write = |definition: TableDefinition<'_, &str, &[u8]>, key: &str, value: &[u8]| {
        let database = Database::create(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(definition).unwrap().insert(key, value).unwrap();
        transaction.commit().unwrap();
    };
    write(foreign, "key", b"value");
    match open(dir.path()).err().unwrap() {
        StoreError::Format { found, .. } => assert_eq!(found, "a redb file of another program"),
        other => panic!("{other}"),
    }
    write(TableDefinition::new("store"), "format", &2u32.to_le_bytes());
    let error = open(dir.path()).err().unwrap();
    assert!(error.to_string().starts_with("store format is 2, this program reads 1"), "{error}");

    std::fs::write(&file, vec![7; 100_000]).unwrap();
    assert!(open(dir.path()).is_err(), "not a redb file at all");
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    assert!(open(dir.path()).is_err(), "a directory in its place");
}
