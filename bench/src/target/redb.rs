//! redb in this process: a copy-on-write B-tree in one file.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition};
use tempfile::TempDir;

use super::local::{self, Local, Store};
use super::locked::linked_version;
use super::{BoxFuture, Description, Operation, Outcome, Session, Target};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("bench");

/// A redb database with redb's defaults, every transaction synced.
pub struct Redb {
    local: Local<RedbStore>,
    /// Held until the end, where it was made for this.
    _directory: Option<TempDir>,
}

impl Redb {
    /// Opens or makes the database in `directory`.
    ///
    /// # Errors
    ///
    /// If it does not open.
    pub fn open(directory: &Path) -> anyhow::Result<Redb> {
        Ok(Redb { local: Local::start(RedbStore::open(directory)?)?, _directory: None })
    }

    /// Makes a database in a directory that vanishes with it, below `parent` or where the system has
    /// its temporary files.
    ///
    /// # Errors
    ///
    /// If it does not open.
    pub fn fresh(parent: Option<&Path>) -> anyhow::Result<Redb> {
        let directory = local::fresh_directory(parent)?;
        let local = Local::start(RedbStore::open(directory.path())?)?;
        Ok(Redb { local, _directory: Some(directory) })
    }
}

struct RedbStore {
    database: Database,
}

impl RedbStore {
    fn open(directory: &Path) -> anyhow::Result<RedbStore> {
        let path = directory.join("bench.redb");
        let database = Database::create(&path)
            .with_context(|| format!("redb does not open {}", path.display()))?;
        // So that reads find a table from the first on.
        let transaction = database.begin_write()?;
        transaction.open_table(TABLE)?;
        transaction.commit()?;
        Ok(RedbStore { database })
    }
}

impl Target for Redb {
    fn describe(&self) -> Description {
        Description {
            name: "redb".to_owned(),
            version: linked_version("redb"),
            replication: "none, in process".to_owned(),
            durability: "synced once a transaction, into which one thread puts all that waits"
                .to_owned(),
            reads: "latest committed, in process".to_owned(),
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id()]
    }

    fn takes_batches(&self) -> bool {
        true
    }

    fn connect<'a>(&'a self, _client: usize) -> BoxFuture<'a, anyhow::Result<Box<dyn Session>>> {
        Box::pin(async { Ok(self.local.session()) })
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> anyhow::Result<Option<Bytes>> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, start: &[u8], limit: u32) -> anyhow::Result<u32> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut rows = 0;
        for row in table.range(start..)?.take(limit as usize) {
            let (key, value) = row?;
            std::hint::black_box((key.value().len(), value.value().len()));
            rows += 1;
        }
        Ok(rows)
    }

    fn commit(&self, writes: &[Operation]) -> anyhow::Result<Vec<Outcome>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut outcomes = Vec::with_capacity(writes.len());
        {
            let mut table = transaction.open_table(TABLE)?;
            for write in writes {
                outcomes.push(apply(&mut table, write)?);
            }
        }
        transaction.commit()?;
        Ok(outcomes)
    }
}

fn apply(table: &mut Table<'_, &[u8], &[u8]>, write: &Operation) -> anyhow::Result<Outcome> {
    match write {
        Operation::Put { key, value } | Operation::ReadModifyWrite { key, value } => {
            table.insert(&key[..], &value[..])?;
        }
        Operation::PutMany { pairs } => {
            for (key, value) in pairs {
                table.insert(&key[..], &value[..])?;
            }
        }
        Operation::Delete { key } => {
            table.remove(&key[..])?;
        }
        Operation::CompareAndSwap { key, old, new } => {
            let holds = {
                let found = table.get(&key[..])?;
                found.as_ref().map(|value| value.value()) == old.as_deref()
            };
            if holds {
                table.insert(&key[..], &new[..])?;
            }
            return Ok(Outcome::read(holds.then(Bytes::new)));
        }
        Operation::Get { .. } | Operation::Scan { .. } => unreachable!("reads are not queued"),
    }
    Ok(Outcome::WRITTEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::local::conformance;

    #[tokio::test]
    async fn it_does_what_it_is_told() {
        let redb = Redb::fresh(None).unwrap();
        conformance::check(&mut *redb.connect(0).await.unwrap()).await;
    }

    #[test]
    fn what_was_written_is_there_when_it_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        let put = Operation::Put { key: Bytes::from("k"), value: Bytes::from("v") };
        RedbStore::open(directory.path()).unwrap().commit(&[put]).unwrap();
        let store = RedbStore::open(directory.path()).unwrap();
        assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
    }
}
