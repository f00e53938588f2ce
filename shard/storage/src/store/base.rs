//! The base: one redb file per node, and the read transaction that everybody shares.
//!
//! Reads go through a published [`Snapshot`]: one read transaction, the shards' records as of it,
//! and their opened tables. A commit publishes the next snapshot when it is durable; a get starts
//! no transaction and opens no table. Snapshots must not be held for long: redb cannot reuse pages
//! that one of them may still read, so the file grows.
//!
//! Invariants:
//!
//! * Every call into redb is guarded: its panics become errors.
//! * Commits are durable (two-phase, with quick repair) before the snapshot of their state is
//!   published.
//! * A commit that failed has an unknown outcome. Nothing is concluded from the error: the file is
//!   opened again and asked.
//!
//! What is absent: memtables, and what a checkpoint writes (`commit`).

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition,
    TableHandle, WriteTransaction,
};

use super::backend::{Metered, OpenBackend, Traffic};
use super::base_read::ShardBase;
use super::error::{StoreError, guarded};
use super::extent::{ShardState, TableId};
use super::metrics::StoreMetrics;
use crate::GroupId;

/// The format that this program reads and writes; see `docs/store-format.md`.
pub const FORMAT_VERSION: u32 = 1;
/// The redb file inside the store's directory.
const FILE_NAME: &str = "store.redb";

/// Facts about the whole file, by name.
pub(crate) const STORE_TABLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("store");
/// The shards' records, by group.
pub(crate) const SHARDS_TABLE: TableDefinition<'static, u64, &[u8]> =
    TableDefinition::new("shards");
const FORMAT_KEY: &str = "format";
pub(crate) const TABLE_NEXT_KEY: &str = "table_next";
const REOPENS_KEY: &str = "reopens";

/// Settings of a store.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Memory for redb's page cache, in bytes. redb's own default would be 1 GiB.
    pub cache_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions { cache_bytes: 128 << 20 }
    }
}

/// A shard whose record cannot be read. Its tables are left alone.
#[derive(Clone, Debug)]
pub struct DamagedShard {
    /// The shard.
    pub group: GroupId,
    /// What is wrong with its record.
    pub error: StoreError,
}

/// The file's state as of one read transaction, shared by all readers until the next is published.
pub(crate) struct Snapshot {
    transaction: ReadTransaction,
    shards: HashMap<GroupId, SnapshotShard>,
    /// The number of the next table to be created.
    pub(crate) table_next: u64,
}

struct SnapshotShard {
    state: Arc<ShardState>,
    opened: OnceLock<Arc<ShardBase>>,
}

impl Snapshot {
    fn new(
        transaction: ReadTransaction,
        states: impl IntoIterator<Item = Arc<ShardState>>,
        table_next: u64,
    ) -> Snapshot {
        let shards = states
            .into_iter()
            .map(|state| (state.group, SnapshotShard { state, opened: OnceLock::new() }))
            .collect();
        Snapshot { transaction, shards, table_next }
    }

    /// The record of `group`; `None` before its first checkpoint.
    pub(crate) fn state(&self, group: GroupId) -> Option<&Arc<ShardState>> {
        self.shards.get(&group).map(|shard| &shard.state)
    }

    /// The rows of `group`, its tables opened once per snapshot; `None` before its first
    /// checkpoint.
    pub(crate) fn shard(
        &self,
        group: GroupId,
        metrics: &StoreMetrics,
    ) -> Result<Option<Arc<ShardBase>>, StoreError> {
        let Some(shard) = self.shards.get(&group) else { return Ok(None) };
        if let Some(opened) = shard.opened.get() {
            return Ok(Some(opened.clone()));
        }
        let opened = Arc::new(ShardBase::open(&self.transaction, &shard.state, metrics.clone())?);
        // Another reader may have been faster; either one will do.
        Ok(Some(shard.opened.get_or_init(|| opened).clone()))
    }

    fn states(&self) -> impl Iterator<Item = &Arc<ShardState>> {
        self.shards.values().map(|shard| &shard.state)
    }

    /// How many extents name each table, over all shards.
    pub(crate) fn table_uses(&self) -> BTreeMap<TableId, usize> {
        let mut uses = BTreeMap::new();
        for extent in self.states().flat_map(|state| &state.extents) {
            *uses.entry(extent.table).or_default() += 1;
        }
        uses
    }
}

/// What a commit changed besides rows: how the next snapshot differs from the last.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// New records.
    pub(crate) states: Vec<Arc<ShardState>>,
    /// Records removed.
    pub(crate) removed: Vec<GroupId>,
    pub(crate) table_next: u64,
}

/// The redb file, opened.
pub(crate) struct Base {
    options: StoreOptions,
    open_backend: OpenBackend,
    /// `None` after a reopening failed, until one succeeds.
    database: Mutex<Option<Database>>,
    snapshot: RwLock<Arc<Snapshot>>,
    traffic: Arc<Traffic>,
    metrics: StoreMetrics,
}

impl Base {
    /// Opens the file in `dir`, both created and synced if they do not exist.
    pub(crate) fn open(
        dir: &Path,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Base, Vec<DamagedShard>), StoreError> {
        let file_error = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| StoreError::File { path, source: Arc::new(source) }
        };
        fs::create_dir_all(dir).map_err(file_error(dir))?;
        let path = dir.join(FILE_NAME);
        let open = path.clone();
        let open_backend: OpenBackend = Box::new(move || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&open)?;
            let backend = redb::backends::FileBackend::new(file).map_err(io::Error::other)?;
            Ok(Box::new(backend))
        });
        let opened = Base::open_with_backend(open_backend, options, metrics)?;

        // A file whose directory entry is lost is lost whole. Cheap enough to do on every opening.
        let file = OpenOptions::new().write(true).open(&path).map_err(file_error(&path))?;
        file.sync_all().map_err(file_error(&path))?;
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            File::open(dir).and_then(|handle| handle.sync_all()).map_err(file_error(dir))?;
        }
        Ok(opened)
    }

    /// Opens the file that `open_backend` gives access to; an empty one becomes an empty store.
    pub(crate) fn open_with_backend(
        open_backend: OpenBackend,
        options: StoreOptions,
        metrics: StoreMetrics,
    ) -> Result<(Base, Vec<DamagedShard>), StoreError> {
        let traffic = Arc::new(Traffic::default());
        let database = open_database(&open_backend, options, &traffic)?;
        guarded("open the store", || initialize(&database))?;
        let (snapshot, damaged) = guarded("read the shards", || load(&database))?;
        let base = Base {
            options,
            open_backend,
            database: Mutex::new(Some(database)),
            snapshot: RwLock::new(Arc::new(snapshot)),
            traffic,
            metrics,
        };
        match damaged.is_empty() {
            true => base.drop_orphans()?,
            false => tracing::warn!(
                shards = damaged.len(),
                "records of shards are damaged; tables that no record names are kept"
            ),
        }
        base.metrics.redb_file_bytes.set(base.traffic.file_bytes() as i64);
        Ok((base, damaged))
    }

    /// The newest published snapshot. Keep it short.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.read().clone()
    }

    /// The shards' records as of the newest snapshot, by group.
    pub(crate) fn states(&self) -> Vec<ShardState> {
        let mut states: Vec<_> =
            self.snapshot().states().map(|state| ShardState::clone(state)).collect();
        states.sort_by_key(|state| state.group);
        states
    }

    /// Bytes written to the file since the store was opened.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.traffic.written_bytes()
    }

    pub(crate) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    /// Runs `write` in one durable transaction over the state of the snapshot handed to it, and
    /// publishes the next snapshot.
    ///
    /// # Errors
    ///
    /// Those of `write`, in which case nothing is committed; [`StoreError::UnknownOutcome`] if the
    /// commit itself failed. After any error [`Base::reopen`] must come next: redb refuses to go on
    /// after an I/O error.
    pub(crate) fn commit(
        &self,
        write: impl FnOnce(&WriteTransaction, &Snapshot) -> Result<Committed, StoreError>,
    ) -> Result<(), StoreError> {
        let database = self.database.lock();
        let Some(database) = database.as_ref() else {
            return Err(StoreError::Closed { why: "it could not be opened again".to_owned() });
        };
        let current = self.snapshot();
        let (transaction, committed) = guarded("write a checkpoint", || {
            let transaction = begin_durable(database)?;
            let committed = write(&transaction, &current)?;
            Ok((transaction, committed))
        })?;
        guarded("commit", || {
            transaction.commit().map_err(|error| StoreError::database("commit", error))
        })
        .map_err(|error| StoreError::UnknownOutcome { source: Arc::new(error) })?;

        let Committed { states, removed, table_next } = committed;
        let mut shards: HashMap<GroupId, Arc<ShardState>> =
            current.states().map(|state| (state.group, state.clone())).collect();
        for group in removed {
            shards.remove(&group);
        }
        shards.extend(states.into_iter().map(|state| (state.group, state)));
        let transaction = guarded("begin reading", || begin_read(database))
            .map_err(|error| StoreError::UnknownOutcome { source: Arc::new(error) })?;
        let next = Snapshot::new(transaction, shards.into_values(), table_next);
        *self.snapshot.write() = Arc::new(next);
        self.metrics.redb_file_bytes.set(self.traffic.file_bytes() as i64);
        Ok(())
    }

    /// Closes the file and opens it again, after a failure. What it holds then is the truth.
    ///
    /// Views of the time before answer [`StoreError::Reopened`] for what they have not read yet.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.database.lock();
        self.metrics.reopens_total.inc();
        if let Some(old) = slot.take() {
            // Its destructor may meet the same failing disk; there is nothing to learn from it.
            if let Err(error) = guarded("close the file", || {
                drop(old);
                Ok(())
            }) {
                tracing::warn!(%error, "closing the failed store file");
            }
        }
        let database = open_database(&self.open_backend, self.options, &self.traffic)?;
        // A sync that failed may have left pages that look written and are not. Commits are
        // two-phase: all but the header were synced before the header could name them, so one
        // more successful commit, which writes the header, makes durable what is seen here.
        guarded("confirm the reopened store", || confirm(&database))?;
        let (snapshot, damaged) = guarded("read the shards", || load(&database))?;
        // A shard that was sound must not be taken for one without rows. One that was damaged when
        // the store was opened has no readers.
        let before = self.snapshot();
        if let Some(lost) = damaged.into_iter().find(|shard| before.state(shard.group).is_some()) {
            return Err(lost.error);
        }
        *self.snapshot.write() = Arc::new(snapshot);
        *slot = Some(database);
        Ok(())
    }

    /// Drops the tables that no extent names: left by an interrupted bulk load.
    fn drop_orphans(&self) -> Result<(), StoreError> {
        let snapshot = self.snapshot();
        let uses = snapshot.table_uses();
        let tables = guarded("list tables", || list_tables(&snapshot.transaction))?;
        let orphans: Vec<TableId> = tables
            .iter()
            .filter_map(|name| TableId::from_name(name))
            .filter(|table| !uses.contains_key(table))
            .collect();
        if orphans.is_empty() {
            return Ok(());
        }
        tracing::info!(tables = orphans.len(), "dropping tables that no shard names");
        self.commit(|transaction, current| {
            for table in &orphans {
                delete_table(transaction, *table)?;
            }
            Ok(Committed { table_next: current.table_next, ..Committed::default() })
        })
    }
}

fn open_database(
    open_backend: &OpenBackend,
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

/// Checks the format of the file; an empty one gets it.
fn initialize(database: &Database) -> Result<(), StoreError> {
    let tables = list_tables(&begin_read(database)?)?;
    if tables.is_empty() {
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
fn load(database: &Database) -> Result<(Snapshot, Vec<DamagedShard>), StoreError> {
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
            Ok(state) => states.push(Arc::new(state)),
            Err(what) => {
                let error =
                    StoreError::Corrupt { group, table: SHARDS_TABLE.name().to_owned(), what };
                damaged.push(DamagedShard { group, error });
            }
        }
    }
    drop(table);
    Ok((Snapshot::new(transaction, states, table_next), damaged))
}

/// One small commit that leaves everything else as it is.
fn confirm(database: &Database) -> Result<(), StoreError> {
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

fn begin_durable(database: &Database) -> Result<WriteTransaction, StoreError> {
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

fn begin_read(database: &Database) -> Result<ReadTransaction, StoreError> {
    database.begin_read().map_err(|error| StoreError::database("begin reading", error))
}

fn list_tables(transaction: &ReadTransaction) -> Result<Vec<String>, StoreError> {
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
        .delete_table(super::base_read::row_table(&name))
        .map(drop)
        .map_err(|error| StoreError::database("drop a table", error))
}
