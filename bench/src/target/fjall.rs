//! fjall in this process: a log-structured merge tree.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tempfile::TempDir;

use super::local::{self, Local, Store};
use super::locked::linked_version;
use super::{BoxFuture, Description, Operation, Outcome, Session, Target};

/// A fjall database with fjall's defaults, every batch synced.
pub struct Fjall {
    local: Local<FjallStore>,
    /// Held until the end, where it was made for this.
    _directory: Option<TempDir>,
}

impl Fjall {
    /// Opens or makes the database in `directory`.
    ///
    /// # Errors
    ///
    /// If it does not open.
    pub fn open(directory: &Path) -> anyhow::Result<Fjall> {
        Ok(Fjall { local: Local::start(FjallStore::open(directory)?)?, _directory: None })
    }

    /// Makes a database in a directory that vanishes with it, below `parent` or where the system has
    /// its temporary files.
    ///
    /// # Errors
    ///
    /// If it does not open.
    pub fn fresh(parent: Option<&Path>) -> anyhow::Result<Fjall> {
        let directory = local::fresh_directory(parent)?;
        let local = Local::start(FjallStore::open(directory.path())?)?;
        Ok(Fjall { local, _directory: Some(directory) })
    }
}

struct FjallStore {
    keyspace: Keyspace,
    database: Database,
}

impl FjallStore {
    fn open(directory: &Path) -> anyhow::Result<FjallStore> {
        let path = directory.join("fjall");
        let database = Database::builder(&path)
            .open()
            .with_context(|| format!("fjall does not open {}", path.display()))?;
        let keyspace = database.keyspace("bench", KeyspaceCreateOptions::default)?;
        Ok(FjallStore { keyspace, database })
    }
}

impl Target for Fjall {
    fn describe(&self) -> Description {
        Description {
            name: "fjall".to_owned(),
            version: linked_version("fjall"),
            replication: "none, in process".to_owned(),
            durability: "synced once a batch, into which one thread puts all that waits".to_owned(),
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

impl Store for FjallStore {
    fn get(&self, key: &[u8]) -> anyhow::Result<Option<Bytes>> {
        Ok(self.keyspace.get(key)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, start: &[u8], limit: u32) -> anyhow::Result<u32> {
        let mut rows = 0;
        for row in self.keyspace.range(start..).take(limit as usize) {
            let (key, value) = row.into_inner()?;
            std::hint::black_box((key.len(), value.len()));
            rows += 1;
        }
        Ok(rows)
    }

    fn commit(&self, writes: &[Operation]) -> anyhow::Result<Vec<Outcome>> {
        // All writes of a batch have one sequence number: of each key only the last may be in it.
        let mut last: BTreeMap<&Bytes, Option<&Bytes>> = BTreeMap::new();
        let mut outcomes = Vec::with_capacity(writes.len());
        for write in writes {
            let mut outcome = Outcome::WRITTEN;
            match write {
                Operation::Put { key, value } | Operation::ReadModifyWrite { key, value } => {
                    last.insert(key, Some(value));
                }
                Operation::PutMany { pairs } => {
                    last.extend(pairs.iter().map(|(key, value)| (key, Some(value))));
                }
                Operation::Delete { key } => {
                    last.insert(key, None);
                }
                Operation::CompareAndSwap { key, old, new } => {
                    let holds = match last.get(key) {
                        Some(value) => value.map(|value| &value[..]) == old.as_deref(),
                        None => self.keyspace.get(key)?.as_deref() == old.as_deref(),
                    };
                    if holds {
                        last.insert(key, Some(new));
                    }
                    outcome = Outcome::read(holds.then(Bytes::new));
                }
                Operation::Get { .. } | Operation::Scan { .. } => {
                    unreachable!("reads are not queued")
                }
            }
            outcomes.push(outcome);
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in last {
            match value {
                Some(value) => batch.insert(&self.keyspace, &key[..], &value[..]),
                None => batch.remove(&self.keyspace, &key[..]),
            }
        }
        batch.commit()?;
        Ok(outcomes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::local::conformance;

    #[tokio::test]
    async fn it_does_what_it_is_told() {
        let fjall = Fjall::fresh(None).unwrap();
        conformance::check(&mut *fjall.connect(0).await.unwrap()).await;
    }

    #[test]
    fn what_was_written_is_there_when_it_opens_again() {
        let directory = tempfile::tempdir().unwrap();
        let put = Operation::Put { key: Bytes::from("k"), value: Bytes::from("v") };
        FjallStore::open(directory.path()).unwrap().commit(&[put]).unwrap();
        let store = FjallStore::open(directory.path()).unwrap();
        assert_eq!(store.get(b"k").unwrap().unwrap(), "v");
    }
}
