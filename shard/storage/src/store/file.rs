//! What the store asks of redb directly: opening the file, the facts about it, the records in it.
//!
//! Invariants: a file of another format is never written to; commits are two-phase and durable
//! unless said otherwise.
//!
//! What is absent: who may call when, and what an error means for anybody: `base`.

use std::io;
use std::sync::Arc;

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend,
    TableDefinition, TableHandle, WriteTransaction,
};

use super::backend::{Metered, Traffic};
use super::base::{DamagedShard, FORMAT_VERSION, StoreOptions};
use super::base_read::row_table;
use super::error::{StoreError, guarded};
use super::extent::{ShardState, TableId};
use super::place::StoreFile;
use super::size::mix;
use crate::GroupId;

/// Facts about the whole file, by name.
pub(crate) const STORE_TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("store");
/// The shards' records, by group.
pub(crate) const SHARDS_TABLE: TableDefinition<'static, u64, &[u8]> =
    TableDefinition::new("shards");
const FORMAT_KEY: &str = "format";
pub(crate) const TABLE_NEXT_KEY: &str = "table_next";
const REOPENS_KEY: &str = "reopens";
const RECORDS_KEY: &str = "records";
/// How the facts begin that name a table whose pages cannot be given back.
const ABANDONED_PREFIX: &str = "abandoned.";

/// What the file says of itself.
pub(crate) struct Loaded {
    pub(crate) transaction: ReadTransaction,
    pub(crate) states: Vec<Arc<ShardState>>,
    pub(crate) damaged: Vec<DamagedShard>,
    pub(crate) table_next: u64,
}

pub(crate) fn open_database(
    file: &dyn StoreFile,
    options: StoreOptions,
    traffic: &Arc<Traffic>,
) -> Result<Database, StoreError> {
    open_database_with(|| file.open(), options, traffic)
}

/// Opens what `open_backend` gives access to.
pub(crate) fn open_database_with(
    open_backend: impl FnOnce() -> io::Result<Box<dyn StorageBackend>>,
    options: StoreOptions,
    traffic: &Arc<Traffic>,
) -> Result<Database, StoreError> {
    guarded("open the file", || {
        let backend = open_backend()
            .map_err(|error| StoreError::database("open the file", redb::Error::Io(error)))?;
        Database::builder()
            .set_cache_size(options.cache_bytes)
            .create_with_backend(Metered::new(backend, traffic.clone()))
            .map_err(|error| StoreError::database("open the file", error))
    })
}

/// Checks the format of the file; an empty one gets it. `must_exist`: it is damaged if it is empty,
/// and nothing is written to it.
pub(crate) fn initialize(database: &Database, must_exist: bool) -> Result<(), StoreError> {
    let tables = list_tables(&begin_read(database)?)?;
    if tables.is_empty() {
        if must_exist {
            let what = "it has no tables, and is no new one".to_owned();
            return Err(StoreError::Unreadable { what });
        }
        let transaction = begin_durable(database)?;
        {
            let mut store = open_store_table(&transaction)?;
            let mut put = |key, value: &[u8]| {
                store.insert(key, value).map(drop).map_err(|e| StoreError::database("write", e))
            };
            put(FORMAT_KEY, &FORMAT_VERSION.to_le_bytes())?;
            put(TABLE_NEXT_KEY, &1u64.to_le_bytes())?;
        }
        transaction
            .open_table(SHARDS_TABLE)
            .map(drop)
            .map_err(|error| StoreError::database("create the table of shards", error))?;
        return transaction.commit().map_err(|error| StoreError::database("commit", error));
    }

    let wrong = |found: String| StoreError::Format { found, supported: FORMAT_VERSION };
    if !tables.iter().any(|name| name == STORE_TABLE.name()) {
        return Err(wrong("a redb file of another program".to_owned()));
    }
    let found = read_fact(&begin_read(database)?, FORMAT_KEY)?;
    match found.as_deref().map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) if u32::from_le_bytes(bytes) == FORMAT_VERSION => Ok(()),
        Some(Ok(bytes)) => Err(wrong(u32::from_le_bytes(bytes).to_string())),
        _ => Err(wrong("not recorded".to_owned())),
    }
}

/// Reads the records of all shards.
pub(crate) fn load(database: &Database) -> Result<Loaded, StoreError> {
    let transaction = begin_read(database)?;
    let reading = |error| StoreError::database("read the shards", error);
    let table_next =
        match read_fact(&transaction, TABLE_NEXT_KEY)?.as_deref().map(TryFrom::try_from) {
            Some(Ok(bytes)) => u64::from_le_bytes(bytes),
            _ => {
                let found = "without a table counter".to_owned();
                return Err(StoreError::Format { found, supported: FORMAT_VERSION });
            }
        };
    let table = transaction
        .open_table(SHARDS_TABLE)
        .map_err(|error| StoreError::database("read the shards", error))?;
    let mut states = Vec::new();
    let mut damaged = Vec::new();
    for entry in table.iter().map_err(reading)? {
        let (group, record) = entry.map_err(reading)?;
        let group = GroupId(group.value());
        match ShardState::decode(group, record.value()) {
            Ok(state) => match missing_table(&transaction, &state) {
                None => states.push(Arc::new(state)),
                Some(table) => {
                    let what = "the table does not exist, or is of another kind".to_owned();
                    let error = StoreError::Corrupt { group, table: table.name(), what };
                    damaged.push(DamagedShard { group, error });
                }
            },
            Err(what) => {
                let error =
                    StoreError::Corrupt { group, table: SHARDS_TABLE.name().to_owned(), what };
                damaged.push(DamagedShard { group, error });
            }
        }
    }
    drop(table);
    if damaged.is_empty() {
        check_records(&transaction, &states)?;
    }
    Ok(Loaded { transaction, states, damaged, table_next })
}

/// A record that redb cannot find any more would make its shard one that never was, and one of an
/// earlier time would make its rows such.
fn check_records(
    transaction: &ReadTransaction,
    states: &[Arc<ShardState>],
) -> Result<(), StoreError> {
    let Some(noted) = read_fact(transaction, RECORDS_KEY)? else { return Ok(()) };
    let found = records_sum(states.iter().map(|state| &**state));
    if noted == found {
        return Ok(());
    }
    let count = noted.first_chunk().map_or(0, |count| u64::from_le_bytes(*count));
    let what = format!(
        "records of shards are missing, or are not the last ones: {} were found, of {count}",
        states.len(),
    );
    Err(StoreError::Unreadable { what })
}

/// How many records there are and what they add up to, as the facts have it.
pub(crate) fn records_sum<'a>(states: impl Iterator<Item = &'a ShardState>) -> [u8; 16] {
    let (mut count, mut sum) = (0u64, 0u64);
    for state in states {
        let ShardState { group, applied, version, .. } = state;
        let words = [group.0, applied.0, applied.1, *version];
        count += 1;
        sum = sum.wrapping_add(words.into_iter().fold(0, |sum, word| mix(sum ^ word)));
    }
    let mut fact = [0; 16];
    fact[..8].copy_from_slice(&count.to_le_bytes());
    fact[8..].copy_from_slice(&sum.to_le_bytes());
    fact
}

/// Notes what the records add up to; `None`: that is not known.
pub(crate) fn write_records(
    transaction: &WriteTransaction,
    records: Option<[u8; 16]>,
) -> Result<(), StoreError> {
    let writing = |error| StoreError::database("note what the records add up to", error);
    let mut store = open_store_table(transaction)?;
    match records {
        Some(records) => store.insert(RECORDS_KEY, &records[..]).map(drop).map_err(writing),
        None => store.remove(RECORDS_KEY).map(drop).map_err(writing),
    }
}

/// One small commit that leaves everything else as it is.
pub(crate) fn confirm(database: &Database) -> Result<(), StoreError> {
    let transaction = begin_durable(database)?;
    {
        let writing = |error| StoreError::database("confirm the reopened store", error);
        let mut store = open_store_table(&transaction)?;
        let before = store.get(REOPENS_KEY).map_err(writing)?;
        let reopens =
            before.and_then(|bytes| bytes.value().try_into().ok()).map_or(0, u64::from_le_bytes);
        let reopens = (reopens + 1).to_le_bytes();
        store.insert(REOPENS_KEY, &reopens[..]).map_err(writing)?;
    }
    transaction.commit().map_err(|error| StoreError::database("confirm the reopened store", error))
}

pub(crate) fn begin_durable(database: &Database) -> Result<WriteTransaction, StoreError> {
    let mut transaction =
        database.begin_write().map_err(|error| StoreError::database("begin writing", error))?;
    transaction
        .set_durability(Durability::Immediate)
        .expect("without savepoints every durability is allowed");
    // Saves the allocator's state with each commit, so that opening after a crash takes
    // milliseconds instead of a walk over the whole file, and commits in two phases.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

pub(crate) fn begin_read(database: &Database) -> Result<ReadTransaction, StoreError> {
    database.begin_read().map_err(|error| StoreError::database("begin reading", error))
}

pub(crate) fn list_tables(transaction: &ReadTransaction) -> Result<Vec<String>, StoreError> {
    let tables =
        transaction.list_tables().map_err(|error| StoreError::database("list tables", error))?;
    Ok(tables.map(|table| table.name().to_owned()).collect())
}

fn read_fact(transaction: &ReadTransaction, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let table = transaction
        .open_table(STORE_TABLE)
        .map_err(|error| StoreError::database("read the store's facts", error))?;
    let value =
        table.get(key).map_err(|error| StoreError::database("read the store's facts", error))?;
    Ok(value.map(|value| value.value().to_vec()))
}

fn open_store_table(
    transaction: &WriteTransaction,
) -> Result<redb::Table<'_, &'static str, &'static [u8]>, StoreError> {
    transaction
        .open_table(STORE_TABLE)
        .map_err(|error| StoreError::database("open the table of facts", error))
}

/// Drops a table of rows, if it exists.
pub(crate) fn delete_table(
    transaction: &WriteTransaction,
    table: TableId,
) -> Result<(), StoreError> {
    let name = table.name();
    transaction
        .delete_table(row_table(&name))
        .map(drop)
        .map_err(|error| StoreError::database("drop a table", error))
}

/// A table that `state` names and that cannot be opened.
fn missing_table(transaction: &ReadTransaction, state: &ShardState) -> Option<TableId> {
    let opens = |table: TableId| {
        let name = table.name();
        guarded("open a table", || Ok(transaction.open_table(row_table(&name)).is_ok()))
            .unwrap_or(false)
    };
    state.extents.iter().map(|extent| extent.table).find(|table| !opens(*table))
}

/// Records the number of the next table.
pub(crate) fn write_table_next(
    transaction: &WriteTransaction,
    table_next: u64,
) -> Result<(), StoreError> {
    let counter = table_next.to_le_bytes();
    open_store_table(transaction)?
        .insert(TABLE_NEXT_KEY, &counter[..])
        .map(drop)
        .map_err(|error| StoreError::database("record the table counter", error))
}

/// Records that the pages of `table` are given up.
pub(crate) fn abandon_table(
    transaction: &WriteTransaction,
    table: TableId,
) -> Result<(), StoreError> {
    let key = format!("{ABANDONED_PREFIX}{:016x}", table.0);
    open_store_table(transaction)?
        .insert(&key[..], &[][..])
        .map(drop)
        .map_err(|error| StoreError::database("give a table up", error))
}

/// True if the pages of `table` were given up.
pub(crate) fn is_abandoned(
    transaction: &ReadTransaction,
    table: TableId,
) -> Result<bool, StoreError> {
    let key = format!("{ABANDONED_PREFIX}{:016x}", table.0);
    Ok(read_fact(transaction, &key)?.is_some())
}

/// True if `table` is the tree that it should be: every row is reached once and in order, as many
/// as redb has counted. Freeing the pages of anything else could free those of other tables.
pub(crate) fn is_tree(transaction: &ReadTransaction, table: TableId) -> bool {
    let name = table.name();
    let walk = || {
        let walking = |error| StoreError::database("walk over rows", error);
        let table = transaction
            .open_table(row_table(&name))
            .map_err(|error| StoreError::database("open a table", error))?;
        let (mut rows, mut last) = (0, None::<Vec<u8>>);
        for entry in table.iter().map_err(walking)? {
            let (key, _) = entry.map_err(walking)?;
            if last.as_deref().is_some_and(|last| last >= key.value()) {
                return Ok(false);
            }
            match &mut last {
                Some(last) => {
                    last.clear();
                    last.extend_from_slice(key.value());
                }
                None => last = Some(key.value().to_vec()),
            }
            rows += 1;
        }
        let counted = redb::ReadableTableMetadata::len(&table).map_err(walking)?;
        Ok(rows == counted)
    };
    guarded("walk over rows", walk).unwrap_or(false)
}
